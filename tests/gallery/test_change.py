"""Rows in, rows out, indexes: what a gallery holds afterwards, and after a kill at any step."""

import contextlib
import itertools
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from reid.errors import ConfigError, DataError
from reid.gallery import change, store
from reid.gallery.store import Gallery
from tests.gallery.conftest import features_of, split_of


class Killed(BaseException):
    pass


def content(folder: Path) -> tuple[object, ...]:
    """All that a reader sees."""
    gallery = store.open_gallery(folder)
    rows, index = gallery.features, store.open_index(gallery)
    found = None if index is None else (index.factory, index.search(np.array(rows.features), 1)[:, 0].tolist())
    columns = [rows.pid, rows.camid, rows.key, rows.query, rows.gallery, gallery.num_frames, gallery.path]
    return (rows.features.tobytes(), *(column.tolist() for column in columns), gallery.about, found)


def add(folder: Path) -> None:
    """What tools/extract.py --add does once it has the features."""
    store.finish_pending_change(folder)
    held = store.open_gallery(folder)
    split = split_of(["new0", "new1"], np.array([5, 0]), np.array([1, 2]))
    new = features_of(split, seed=9, query=(1,))
    change.require_addable(held, new.key.tolist(), "f00")
    shape = (len(held.features.pid) + 2, 8)
    parts = itertools.chain(store.blocks(held.features.features), store.blocks(new.features))
    features = store.draft(folder, parts, shape)
    index = store.open_index(held)
    if index is not None:
        index.add(new.features)
    both = Gallery(folder, new, split.lengths, store.middle_frames(split), {"source": "there"})
    store.commit(change.joined(held, both, features), index)


def test_adding_keeps_what_was_there(folder: Path) -> None:
    before = store.open_gallery(folder)
    old = np.array(before.features.features)
    add(folder)
    after = store.open_gallery(folder)
    assert np.array_equal(after.features.features[:40], old)
    assert after.features.key[-2:].tolist() == ["new0", "new1"]
    assert after.features.query.tolist() == [3, 7, 41]
    assert after.features.gallery.tolist() == list(range(42))
    assert after.about == {"run": "runs/x", "checkpoint": "last", "source": "here", "added": ["there"]}
    assert json.loads((folder / "gallery.json").read_text())["counts"] == {"tracklets": 42, "frames": 126, "dim": 8}
    assert after.path[40].endswith("root/new0/1.jpg")


def test_a_person_called_0_is_no_distractor() -> None:
    first = np.array([5, 0, -1])
    ids, names = change._joined_ids(first, {5: "eve"}, np.array([1, 2, 0, -1]), {1: "0", 2: "eve"}, lowest=1)
    assert ids.tolist() == [5, 0, -1, 6, 5, 0, -1] and names == {5: "eve", 6: "0"}
    ids, _ = change._joined_ids(np.array([0, 1]), {}, np.array([1, 2]), {1: "0", 2: "gate"}, lowest=0)
    assert ids.tolist()[:3] == [0, 1, 0]  # a camera 0 is one


def test_removing_moves_rows_up(folder: Path) -> None:
    old = np.array(store.read(folder).features)
    assert change.remove(folder, ["t3", "t0", "t0"]) == 38
    after = store.read(folder)
    kept = [i for i in range(40) if i not in (0, 3)]
    assert np.array_equal(after.features, old[kept])
    assert after.key.tolist() == [f"t{i}" for i in kept]
    assert after.query.tolist() == [5]  # t7, now two rows higher; t3 is gone
    assert after.gallery.tolist() == list(range(38))
    assert sorted(path.name for path in folder.iterdir()) == ["features.npy", "gallery.json", "meta.csv"]


@pytest.mark.parametrize("factory", ["Flat", "IVF4,Flat:nprobe=4", "HNSW8", "RR8,IVF4,Flat:nprobe=4"])
def test_the_index_follows(folder: Path, factory: str) -> None:
    change.reindex(folder, factory)
    for step in (lambda: None, lambda: add(folder), lambda: change.remove(folder, ["t3", "new0"])):
        step()
        gallery = store.open_gallery(folder)
        index = store.open_index(gallery)
        assert index is not None
        assert index.factory == factory
        queries = np.array(gallery.features.features)
        assert np.array_equal(index.search(queries, 1)[:, 0], np.arange(len(queries)))


CHANGES: dict[str, Callable[[Path], object]] = {
    "add": add,
    "remove": lambda folder: change.remove(folder, ["t3", "t0"]),
    "index": lambda folder: change.reindex(folder, "IVF4,Flat:nprobe=4"),
    "overwrite": lambda folder: overwrite(folder),
}


def overwrite(folder: Path) -> None:
    split = split_of(["x", "y", "z"], np.array([1, 2, 3]), np.array([1, 1, 1]))
    store.write(folder, features_of(split, seed=4, mark="other"), split, {"run": "runs/y"}, overwrite=True)


@pytest.mark.parametrize("name", CHANGES)
@pytest.mark.parametrize("indexed", [False, True])
def test_a_kill_at_any_step_leaves_the_old_or_the_new(
    folder: Path, tmp_path: Path, name: str, indexed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every rename and every removal in turn is where the process dies; nothing that follows is done."""
    if indexed:
        change.reindex(folder, "Flat")
    old, place = content(folder), tmp_path / "copy" / "gallery"
    shutil.copytree(folder, place)
    CHANGES[name](place)
    new = content(place)
    assert new != old
    seen = []
    for step in itertools.count(1):
        shutil.rmtree(place)
        shutil.copytree(folder, place)
        with monkeypatch.context() as patch:
            died = kill_at(step, patch)
            with contextlib.suppress(Killed):
                CHANGES[name](place)
        held = content(place)
        assert held in (old, new), f"step {step}"
        seen.append(held == new)
        if not died():
            break
        if not seen[-1]:
            CHANGES[name](place)  # goes through in spite of what the killed one left
            assert content(place) == new, f"again after step {step}"
        store.finish_pending_change(place)
        assert content(place) == new
        names = {"features.npy", "meta.csv", "gallery.json"} | ({"index.faiss"} if new[-1] is not None else set())
        assert {path.name for path in place.iterdir()} - {".lock"} == names
    assert seen == sorted(seen), "once made, a change stays"
    assert False in seen and seen.count(True) > 1, "kills before the change and after it"


def kill_at(step: int, patch: pytest.MonkeyPatch) -> Callable[[], bool]:
    count = itertools.count(1)
    calls = [0]
    replace, unlink = os.replace, os.unlink

    def dies(call: Callable[..., None]) -> Callable[..., None]:
        def wrapped(*args: object, **kwargs: object) -> None:
            calls[0] = next(count)
            if calls[0] >= step:
                raise Killed
            call(*args, **kwargs)

        return wrapped

    patch.setattr(os, "replace", dies(replace))
    patch.setattr(os, "unlink", dies(unlink))
    return lambda: calls[0] >= step


def test_keys_that_are_there_and_keys_that_are_not(folder: Path) -> None:
    held = store.open_gallery(folder)
    with pytest.raises(DataError, match=r"already has a tracklet 't5' \(and 1 more\)"):
        change.require_addable(held, ["a", "t5", "t6"], "f00")
    with pytest.raises(DataError, match=r"made by model f00, but the given checkpoint is f11.*runs/x, checkpoint last"):
        change.require_addable(held, ["a"], "f11")
    with pytest.raises(DataError, match=r"no tracklet has the key 'a' \(and 1 more\)"):
        change.remove(folder, ["t1", "a", "b"])
    with pytest.raises(DataError, match="no tracklet would be left"):
        change.remove(folder, [f"t{i}" for i in range(40)])
    with pytest.raises(ConfigError, match="faiss cannot make 'XX'"):
        change.reindex(folder, "XX")
    assert len(store.read(folder).pid) == 40


def test_what_a_folder_holds(folder: Path, tmp_path: Path) -> None:
    keys = [f"t{i}" for i in range(40)]
    assert not change.holds(tmp_path / "nowhere", keys, "f00", among_others=False)
    assert change.holds(folder, keys, "f00", among_others=False)
    assert change.holds(folder, keys[5:9], "f00", among_others=True)
    assert not change.holds(folder, ["a", *keys[5:9]], "f00", among_others=True)
    assert not change.holds(folder, keys[5:9], "f11", among_others=True)
    for other, mark in ((keys, "f11"), (keys[1:], "f00"), (keys[::-1], "f00")):
        with pytest.raises(DataError, match=r"contains another gallery .*--add adds to it, --overwrite replaces it"):
            change.holds(folder, other, mark, among_others=False)


def test_two_rows_of_one_key(tmp_path: Path) -> None:
    split = split_of(["a", "b", "a"], np.array([1, 2, 3]), np.array([1, 1, 1]))
    store.write(tmp_path / "g", features_of(split), split, {})
    with pytest.raises(DataError, match="rows 0 and 2 share the key 'a'"):
        change.remove(tmp_path / "g", ["b"])
    assert len(store.read(tmp_path / "g").pid) == 3  # it can be evaluated all the same


def stale(folder: Path, how: str) -> None:
    about = json.loads((folder / "gallery.json").read_text())
    index = folder / "index.faiss"
    if how == "missing":
        index.unlink()
    elif how == "text":
        index.write_text("no index")
    elif how == "truncated":
        index.write_bytes(index.read_bytes()[:200])
    elif how == "rows":
        features = np.array(store.read(folder).features)
        assert store.open_index(store.open_gallery(folder)) is not None
        small = change.Index("Flat", 8).build(features[:39])
        small.save(index)
    elif how == "record":
        about["index"]["rows"] = 39
    else:
        about["fingerprint"] = "f11"
    (folder / "gallery.json").write_text(json.dumps(about))


@pytest.mark.parametrize("how", ["missing", "text", "truncated", "rows", "record", "model"])
def test_a_stale_index_says_how_to_build_it_again(folder: Path, how: str) -> None:
    change.reindex(folder, "Flat")
    stale(folder, how)
    with pytest.raises(DataError) as caught:
        store.open_index(store.open_gallery(folder))
    assert len(caught.value.problems) == 1
    assert "\n" not in str(caught.value)
    assert f"robust-reid gallery index {folder} 'Flat'" in str(caught.value)
    assert "--index Flat" in str(caught.value)
    assert ("out of date: made from" in str(caught.value)) == (how in ("record", "model"))
    assert ("its checksum does not match" in str(caught.value)) == (how in ("text", "truncated", "rows"))
    change.reindex(folder, "Flat")
    assert store.open_index(store.open_gallery(folder)) is not None
