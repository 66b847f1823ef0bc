"""Images that are not there, asked of the disk: as files, in packs, below relative roots."""

import os
from pathlib import Path

import numpy as np
import pytest

from reid.datasets import packing
from reid.datasets.presence import in_words, missing, persons_without, require_images, without_any
from reid.errors import DataError
from reid.tracklets import Split

FRAMES = {"a": 3, "b": 2, "c": 2}  # tracklet: frames; a and b are of person 1, c of person 2


def split_of(root: Path) -> Split:
    names = [f"{tracklet}/{i}.jpg" for tracklet, count in FRAMES.items() for i in range(count)]
    stop = np.cumsum(list(FRAMES.values()))
    keys = np.array(list(FRAMES))
    return Split(root, np.array(names, "S"), np.append(0, stop[:-1]), stop, np.array([1, 1, 2]), np.zeros(3, int), keys)


@pytest.fixture
def split(tmp_path: Path) -> Split:
    split = split_of(tmp_path / "data")
    for name in split.names.tolist():
        path = tmp_path / "data" / os.fsdecode(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"looked for, not looked at")
    return split


def test_nothing_is_missing(split: Split) -> None:
    assert not missing(split).any()
    require_images(split, missing(split), "error", "")
    assert in_words(split, missing(split)) == ""


def test_missing_files_are_told_from_those_of_others(split: Split, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("a/1.jpg", "c/0.jpg", "c/1.jpg"):
        (split.root / name).unlink()
    assert np.flatnonzero(missing(split)).tolist() == [1, 5, 6]
    assert np.flatnonzero(missing(split.select([0, 1]))).tolist() == [1]  # c's frames are no business of theirs
    assert without_any(split, missing(split)).tolist() == [False, False, True]
    assert persons_without(split, without_any(split, missing(split))) == [2]
    assert persons_without(split, np.array([True, False, False])) == []  # person 1 has another tracklet
    expected = "3 of 7 images to train on are missing and are left out, all those of 1 tracklet, such as c"
    assert in_words(split, missing(split)) == expected
    monkeypatch.chdir(split.root)
    assert np.flatnonzero(missing(split_of(Path()))).tolist() == [1, 5, 6]


def test_what_cannot_be_embedded_is_refused_by_name(split: Split) -> None:
    (split.root / "a/1.jpg").unlink()
    require_images(split, missing(split), "skip", "")
    with pytest.raises(
        DataError,
        match=r"a/1\.jpg: .*no such file \(of tracklet a\); 1 of 7 images are missing; .*data\.damaged=skip",
    ):
        require_images(split, missing(split), "error", "")
    for name in ("b/0.jpg", "b/1.jpg", "c/0.jpg", "c/1.jpg"):
        (split.root / name).unlink()
    with pytest.raises(
        DataError,
        match=r"b/0\.jpg: no such image, nor any other of the 2 images of tracklet b \(and 1 more tracklet like it\); .*or pray$",
    ):
        require_images(split, missing(split), "skip", "pray")


def test_what_lies_in_a_pack_is_there(split: Split) -> None:
    folder = split.root
    (folder / "a/1.jpg").unlink()
    kept = [name for name in split.names.tolist() if name != b"a/1.jpg"]
    packing.write(folder, kept, folder.with_name("data.pack"), shard_bytes=1e6)
    folder.rename(folder.with_name("elsewhere"))
    assert np.flatnonzero(missing(split)).tolist() == [1]
