"""Extraction into galleries: adding, resuming after a kill, overwriting, several processes."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from reid.gallery import store
from tests.commands.conftest import ROOT, by_two, call, tracklets


def test_adding_is_extracting_all_at_once(run: Path, workplace: Path, data_root: Path, fails) -> None:
    tracklets(data_root, Path("all"), slice(0, 9))
    tracklets(data_root, Path("first"), slice(0, 5))
    names = tracklets(data_root, Path("second"), slice(5, 9))
    assert call("extract", run, "all", "--out", "whole") == 0
    assert call("extract", run, "first", "--out", "grown", "--index", "Flat") == 0
    before = np.array(store.read(Path("grown")).features)
    assert call("extract", run, "second", "--out", "grown", "--add") == 0
    whole, grown = (store.open_gallery(Path(name)) for name in ("whole", "grown"))
    assert np.array_equal(grown.features.features[:5], before)
    np.testing.assert_allclose(grown.features.features, whole.features.features, atol=1e-5)
    assert grown.features.key.tolist() == whole.features.key.tolist()
    assert store.open_index(grown) is not None
    assert grown.about["added"] == [str(Path("second").absolute())]
    again = fails("extract", run, "second", "--out", "grown", "--add")
    assert f"already has a tracklet {names[0]!r} (and 3 more)" in again
    assert call("extract", run, "second", "--out", "grown", "--add", "--resume", "auto") == 0
    assert len(store.read(Path("grown")).pid) == 9


def test_one_program_at_a_time_extracts_into_a_gallery(run: Path, gallery: Path, data_root: Path, fails) -> None:
    [name] = tracklets(data_root, Path("mine"), slice(3, 4))
    os.rename(Path("mine", name), "mine/new")
    with store.changing(gallery):
        for flags in (("--add",), ("--overwrite",), ("--resume", "auto")):
            assert "another program is changing this gallery" in fails("extract", run, "mine", "--out", gallery, *flags)
    assert call("extract", run, "mine", "--out", gallery, "--add") == 0
    assert not (gallery / ".lock").exists()


def test_bad_index_and_places_show_before_the_work(run: Path, workplace: Path, data_root: Path, fails) -> None:
    tracklets(data_root, Path("mine"), slice(0, 3))
    assert "faiss cannot make 'XX'" in fails("extract", run, "mine", "--out", "g", "--index", "XX")
    assert not (Path("g") / "shards").exists()
    assert "nowhere: no such folder; robust-reid extract" in fails("extract", run, "mine", "--out", "nowhere", "--add")
    assert "shard: expected >= 1, got 0" in fails("extract", run, "mine", "--out", "g", "--shard", "0")
    assert "cannot build 'IVF64,Flat'" in fails("extract", run, "mine", "--out", "g", "--index", "IVF64,Flat")
    assert call("extract", run, "mine", "--out", "g", "--resume", "auto") == 0  # the features were kept
    assert sorted(path.name for path in Path("g").iterdir()) == ["features.npy", "gallery.json", "meta.csv"]


def test_killed_and_resumed_is_never_killed(run: Path, workplace: Path, data_root: Path, fails) -> None:
    """SIGKILL leaves no time to tidy up. The bytes of all files are those of an extraction that ran through."""
    tracklets(data_root, Path("mine"), slice(0, 26), times=6)
    options = ["mine", "--out", "killed", "--shard", "16"]
    process = subprocess.Popen([sys.executable, ROOT / "tools/extract.py", run, *options], stderr=subprocess.PIPE)
    saved, deadline = Path("killed/shards"), time.monotonic() + 120
    while not (saved / "000002.npy").exists():
        assert time.monotonic() < deadline
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.001)
    process.send_signal(signal.SIGKILL)
    assert process.wait(60) == -signal.SIGKILL
    process.stderr.close()
    parts = len(list(saved.glob("[0-9]*.npy")))
    assert not (Path("killed") / "gallery.json").exists()
    assert "unfinished; --resume auto continues" in fails("extract", run, *options)
    assert "cannot resume: shard_frames: 16 before" in fails("extract", run, *options[:-1], "5", "--resume", "auto")
    assert "killed: an unfinished extraction; run the same" in fails("search", "killed", "a")
    kept = {path.name: path.stat().st_mtime_ns for path in saved.glob("[0-9]*.npy")}
    assert len(kept) == parts
    assert call("extract", run, *options, "--resume", "auto") == 0
    assert call("extract", run, "mine", "--out", "whole", "--shard", "16") == 0
    names = ["features.npy", "gallery.json", "meta.csv"]
    for folder in ("killed", "whole"):
        assert sorted(path.name for path in Path(folder).iterdir()) == names
    for name in names:
        assert (Path("killed") / name).read_bytes() == (Path("whole") / name).read_bytes()
    before = (Path("killed") / "features.npy").stat().st_mtime_ns
    assert call("extract", run, *options, "--resume", "auto") == 0  # nothing is left to do
    assert (Path("killed") / "features.npy").stat().st_mtime_ns == before


def test_overwriting_keeps_the_old_gallery_until_the_end(
    run: Path, workplace: Path, data_root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tracklets(data_root, Path("mine"), slice(0, 6))
    tracklets(data_root, Path("others"), slice(6, 12))
    assert call("extract", run, "mine", "--out", "g") == 0
    before = (Path("g") / "features.npy").read_bytes()
    options = ["others", "--out", "g", "--overwrite", "--shard", "4"]
    from reid.gallery.shards import Shards

    save = Shards.save

    def stop(self: Shards, number: int, features: np.ndarray) -> None:
        save(self, number, features)
        if number == 1:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Shards, "save", stop)
        assert call("extract", run, *options) == 130
    assert (Path("g") / "features.npy").read_bytes() == before
    assert call("search", "g", str(store.read(Path("g")).key[0])) == 0
    monkeypatch.setattr(
        Shards, "save", lambda self, number, features: save(self, number, features) if number > 1 else 1 / 0
    )
    assert call("extract", run, *options, "--resume", "auto") == 0  # the first two parts are not made again
    assert store.read(Path("g")).key.tolist() == sorted(path.name for path in Path("others").iterdir())


def test_two_processes_write_one_gallery(run: Path, workplace: Path, data_root: Path) -> None:
    tracklets(data_root, Path("mine"), slice(0, 11))
    done = by_two("extract", run, "mine", "--out", "two", "--shard", "5", "--index", "Flat")
    assert done.returncode == 0, done.stderr
    assert call("extract", run, "mine", "--out", "one", "--shard", "5", "--index", "Flat") == 0
    one, two = (store.open_gallery(Path(name)) for name in ("one", "two"))
    np.testing.assert_allclose(two.features.features, one.features.features, atol=1e-5)
    assert two.features.key.tolist() == one.features.key.tolist()
    for name in ("meta.csv", "gallery.json"):
        assert (Path("one") / name).read_bytes() == (Path("two") / name).read_bytes()
    assert sorted(path.name for path in Path("two").iterdir()) == sorted(path.name for path in Path("one").iterdir())


def test_two_processes_that_are_refused_are_one_line(run: Path, gallery: Path, data_root: Path) -> None:
    """Only the main process looks at the folder; the other does not wait for it."""
    tracklets(data_root, Path("mine"), slice(3, 4))
    before = {path: path.read_bytes() for path in gallery.iterdir()}
    done = by_two("extract", run, "mine", "--out", gallery)
    said = done.stderr.partition("ChildFailedError")[0]  # torchrun has a word of its own
    assert said.count("error: ") == 1 and "--overwrite" in said
    assert "Connection closed" not in said
    assert done.returncode != 0
    assert {path: path.read_bytes() for path in gallery.iterdir()} == before
