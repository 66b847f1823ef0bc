"""People's own tracklets: folders of folders, and what kind of source a path is."""

from __future__ import annotations

from pathlib import Path

import pytest

from reid.datasets.folders import detect_kind, load_folders
from reid.errors import DataError


def touch(*files: Path) -> None:
    for file in files:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch()


def test_each_subfolder_is_a_tracklet_sorted_by_name(tmp_path):
    touch(tmp_path / "b/2.jpg", tmp_path / "b/1.PNG", tmp_path / "a/x.jpeg", tmp_path / "a/notes.txt")
    touch(tmp_path / ".cache/y.jpg", tmp_path / "readme.txt", tmp_path / "b/.hidden.jpg")
    split = load_folders(tmp_path)
    assert [tracklet.key for tracklet in split] == ["a", "b"]
    assert [path.relative_to(tmp_path).as_posix() for path in split[1].paths] == ["b/1.PNG", "b/2.jpg"]
    assert split.pid.tolist() == [0, 0] and split.camid.tolist() == [-1, -1]
    assert split.num_frames == 3


def test_names_beyond_ascii_come_back(tmp_path):
    touch(tmp_path / "zoë/フレーム1.jpg")
    (tracklet,) = load_folders(tmp_path)
    assert tracklet.key == "zoë" and tracklet.paths[0].is_file()


def test_folder_mistakes_are_said(tmp_path):
    with pytest.raises(DataError, match="expected one folder per tracklet, got none"):
        load_folders(tmp_path)
    with pytest.raises(DataError, match="expected a folder of tracklet folders, got nothing"):
        load_folders(tmp_path / "none")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="empty: expected the images of one tracklet"):
        load_folders(tmp_path)
    touch(tmp_path / "loose.jpg")
    with pytest.raises(
        DataError, match=r"got images such as loose.jpg directly in it; robust-reid import \S+ --as flat"
    ):
        load_folders(tmp_path)


def test_what_systems_leave_behind_is_passed_over(tmp_path):
    touch(tmp_path / "t1/1.jpg", tmp_path / "t1/._1.jpg", tmp_path / "t1/Thumbs.db", tmp_path / "t1/.DS_Store")
    touch(
        tmp_path / "__MACOSX/._x.jpg",
        tmp_path / "__MACOSX/t1/x.jpg",
        tmp_path / ".DS_Store",
        tmp_path / "@eaDir/t1.jpg",
    )
    (tracklet,) = load_folders(tmp_path)
    assert (tracklet.key, tracklet.paths) == ("t1", [tmp_path / "t1/1.jpg"])


MIXED = {
    "market1501": (["bounding_box_test/0002_c1s1_000451_03.jpg", "bounding_box_test/-1_c2s1_000451_00.jpg"], ".", "."),
    "mars": (["bbox_test/0001/0001C1T0001F001.jpg", "bbox_test/0001/0001C1T0002F001.jpg"], "bbox_test", "."),
    "msmt17": (
        ["train/0000/0000_000_01_0303morning_0015_0_ex.jpg", "train/0000/0000_001_02_0303noon_0015_0.jpg"],
        "train",
        ".",
    ),
    "ls-vid": (
        ["tracklet_train/0001/0001_0000_01_0001.jpg", "tracklet_train/0001/0001_0001_02_0001.jpg"],
        "tracklet_train",
        ".",
    ),
}


@pytest.mark.parametrize("layout", MIXED)
def test_a_known_layout_is_no_folder_of_tracklets(tmp_path, layout):
    """Each folder would become one tracklet, the mean of everyone in it."""
    files, given, dataset = MIXED[layout]
    touch(*(tmp_path / file for file in files))
    command = f"robust-reid import {tmp_path / dataset} --as {layout} --out tracks.csv"
    with pytest.raises(DataError, match="expected the images of one tracklet; by their names") as caught:
        load_folders(tmp_path / given)
    assert command in str(caught.value)
    touch(tmp_path / "alone/t1" / Path(files[0]).name)  # one tracklet whose name fits: nothing is mixed there
    assert len(load_folders(tmp_path / "alone")) == 1


def test_names_of_ones_own_are_no_known_layout(tmp_path):
    touch(tmp_path / "t1/0001_c1_0002_003.jpg", tmp_path / "t1/0001_c2_0002_004.jpg")
    assert len(load_folders(tmp_path)) == 1


def test_pictures_of_market_directly_in_a_folder(tmp_path):
    touch(tmp_path / "Market/query/0002_c1s1_000451_03.jpg")
    with pytest.raises(DataError, match=f"robust-reid import {tmp_path}/Market --as market1501 --out"):
        load_folders(tmp_path / "Market/query")


def test_persons_then_tracklets_then_frames(tmp_path):
    touch(tmp_path / "alice/t1/1.jpg", tmp_path / "alice/t2/1.jpg")
    with pytest.raises(
        DataError, match=f"got folders of images such as t1; robust-reid import {tmp_path} --as folders"
    ):
        load_folders(tmp_path)


def test_the_kind_of_an_input_is_told(tmp_path):
    touch(
        tmp_path / "set/bbox_test/0001/x.jpg", tmp_path / "own/t1/x.jpg", tmp_path / "list.CSV", tmp_path / "film.mp4"
    )
    assert detect_kind(tmp_path / "set") == "mars"
    assert detect_kind(tmp_path / "own") == "folders"
    assert detect_kind(tmp_path / "list.CSV") == "manifest"
    touch(tmp_path / "list.parquet", tmp_path / "list.txt", tmp_path / "coco.json")
    assert {detect_kind(tmp_path / name) for name in ("list.parquet", "list.txt")} == {"manifest"}
    with pytest.raises(DataError, match=r"got a file coco.json; robust-reid import \S+coco.json --as auto"):
        detect_kind(tmp_path / "coco.json")
    for wrong, got in (("film.mp4", "a file film.mp4"), ("none", "nothing there")):
        with pytest.raises(DataError, match=f"expected a MARS layout.*got {got}"):
            detect_kind(tmp_path / wrong)
