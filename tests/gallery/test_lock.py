"""Two programs at one gallery: the second that would change it is turned away, and readers see one state or the next."""

import json
import multiprocessing
import os
import signal
from collections.abc import Callable
from multiprocessing.synchronize import Event
from pathlib import Path

import numpy as np
import pytest

from reid.errors import DataError
from reid.features import FeatureSet
from reid.files import LOCK
from reid.gallery import change, store
from reid.tracklets import Split
from tests.gallery.conftest import features_of, split_of

CHANGES: dict[str, Callable[[Path], object]] = {
    "remove": lambda folder: change.remove(folder, ["t3"]),
    "index": lambda folder: change.reindex(folder, "Flat"),
    "write": lambda folder: write(folder, 2),
}


def rows_of(persons: int) -> tuple[FeatureSet, Split]:
    """30 rows that tell by key, camera and number of persons which ones they are."""
    split = split_of([f"{persons}-{i}" for i in range(30)], np.arange(30) % persons, np.full(30, persons))
    return features_of(split, seed=persons), split


def write(folder: Path, persons: int) -> None:
    store.write(folder, *rows_of(persons), {"run": str(persons)}, overwrite=True)


def hold(folder: Path, held: Event) -> None:
    with store.changing(folder):
        held.set()
        signal.pause()


@pytest.mark.parametrize("name", CHANGES)
def test_the_second_program_is_turned_away_and_loses_nothing(folder: Path, name: str) -> None:
    """The first one is killed in the end, which frees the gallery."""
    context = multiprocessing.get_context("spawn")
    held = context.Event()
    first = context.Process(target=hold, args=(folder, held))
    first.start()
    assert held.wait(60)
    before = {file: file.stat().st_mtime_ns for file in folder.iterdir()}
    with pytest.raises(DataError, match=f"{folder}: another program is changing this gallery") as caught:
        CHANGES[name](folder)
    assert len(caught.value.problems) == 1
    assert len(store.read(folder).pid) == 40
    assert {file: file.stat().st_mtime_ns for file in folder.iterdir()} == before
    assert first.pid is not None
    os.kill(first.pid, signal.SIGKILL)
    first.join(60)
    assert (folder / LOCK).exists()
    CHANGES[name](folder)
    assert not (folder / LOCK).exists()


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(
        DataError, match=r"nowhere: no such folder; robust-reid extract RUN DATA --out \S+/nowhere extracts"
    ):
        change.remove(tmp_path / "nowhere", ["a"])
    assert not (tmp_path / "nowhere").exists()
    with store.changing(tmp_path / "new", make=True):
        assert (tmp_path / "new" / LOCK).exists()
        store.require_free(tmp_path / "new", overwrite=False)
    assert not list((tmp_path / "new").iterdir())


def rewrite(place: Path) -> None:
    for i in range(45):
        write(place, 2 + i % 3)


def test_a_reader_sees_one_state_and_never_two(tmp_path: Path) -> None:
    place, seen = tmp_path / "g", set()
    write(place, 2)
    writer = multiprocessing.get_context("spawn").Process(target=rewrite, args=(place,))
    writer.start()
    while writer.is_alive():
        gallery = store.open_gallery(place)
        rows, persons = gallery.features, int(gallery.about["run"])
        assert {key.split("-")[0] for key in rows.key} == {str(persons)}
        assert set(rows.camid) == {persons}
        assert len(set(rows.pid)) == persons
        assert np.array_equal(rows.features, rows_of(persons)[0].features)
        seen.add(persons)
    assert writer.exitcode == 0
    assert len(seen) > 1


def test_a_file_that_a_change_moves_under_a_reader_is_read_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The change comes between the reading of a file and its checksum, when it has gone from the place it was read at."""
    place, checksum_of = tmp_path / "g", store.crc32_of
    write(place, 2)

    def moved_first(file: Path) -> int:
        monkeypatch.setattr(store, "crc32_of", checksum_of)
        write(place, 3)
        return checksum_of(file.with_name(f"{file.name}.new"))

    monkeypatch.setattr(store, "crc32_of", moved_first)
    assert store.open_gallery(place).about["run"] == "3"
    (place / "features.npy").unlink()
    with pytest.raises(DataError, match="cannot read these features"):
        store.open_gallery(place)


def test_an_index_of_the_state_after_is_not_taken(folder: Path) -> None:
    change.reindex(folder, "Flat")
    opened = store.open_gallery(folder)
    assert store.open_index(opened) is not None
    about = json.loads((folder / "gallery.json").read_text())
    change.reindex(folder, "Flat")
    assert json.loads((folder / "gallery.json").read_text()) == about
    with pytest.raises(DataError, match="has changed since it was opened; open it again"):
        store.open_index(opened)
