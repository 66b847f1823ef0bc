"""People's own tracklets: folders of folders and manifests."""

from __future__ import annotations

from pathlib import Path

import pytest

from reid.datasets.folders import detect_kind, load_folders, load_manifest
from reid.errors import DataError


def touch(*files: Path) -> None:
    for file in files:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch()


def manifest(tmp_path: Path, text: str) -> Path:
    file = tmp_path / "clips.csv"
    file.write_bytes(text.encode())
    return file


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
    with pytest.raises(DataError, match=r"got images such as loose.jpg directly in it"):
        load_folders(tmp_path)


def test_a_manifest_groups_frames_and_keeps_their_order(tmp_path):
    text = "path,tracklet,pid,camid\nf/9.jpg,t2,5,1\nf/1.jpg,t1,-1,2\n\nf/2.jpg,t2,5,1\n"
    split = load_manifest(manifest(tmp_path, text))
    assert [(t.key, t.pid, t.camid) for t in split] == [("t2", 5, 1), ("t1", -1, 2)]
    assert split[0].paths == [tmp_path / "f/9.jpg", tmp_path / "f/2.jpg"]
    assert split[1].paths == [tmp_path / "f/1.jpg"]


@pytest.mark.parametrize("text", ["path,tracklet\na.jpg,t\n", "\ufefftracklet,path\r\nt,a.jpg\r\n"])
def test_unknown_person_and_camera(tmp_path, text):
    (tracklet,) = load_manifest(manifest(tmp_path, text))
    assert (tracklet.key, tracklet.pid, tracklet.camid, tracklet.paths) == ("t", 0, -1, [tmp_path / "a.jpg"])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", r"clips.csv: line 1: expected the header path,tracklet\[,pid,camid\], got ''"),
        ("path,pid\na,1\n", "line 1: .* got 'path,pid'"),
        ("path,tracklet,camera\na,t,1\n", "line 1: .* got 'path,tracklet,camera'"),
        ("path,tracklet,path\na,t,b\n", "line 1"),
        ("path,tracklet\n", "expected one row per frame after the header, got none"),
        ("path,tracklet\na.jpg\n", "line 2: expected 2 cells"),
        ("path,tracklet\na.jpg,t\n,t\n", "line 3: path is empty"),
        ("path,tracklet\na.jpg,\n", "line 2: tracklet is empty"),
        ("path,tracklet,pid\na.jpg,t,x\n", "line 2: expected pid to be a whole 64-bit number from -1 on, got 'x'"),
        (
            "path,tracklet,camid\na.jpg,t,-2\n",
            "line 2: expected camid to be a whole 64-bit number from -1 on, got '-2'",
        ),
        ("path,tracklet,pid\na,t,1\nb,t,2\n", "line 3: tracklet t: expected pid 1 camid -1 .* got pid 2 camid -1"),
        ("path,tracklet,camid\na,t,1\nb,t,2\n", "line 3: tracklet t: expected pid 0 camid 1 .* got pid 0 camid 2"),
        ('path,tracklet\n"a,t\n', "not a readable CSV file"),
    ],
)
def test_manifest_mistakes_name_file_and_line(tmp_path, text, message):
    with pytest.raises(DataError, match=message):
        load_manifest(manifest(tmp_path, text))


def test_a_missing_or_binary_manifest_is_said(tmp_path):
    with pytest.raises(DataError, match="not a readable CSV file"):
        load_manifest(tmp_path / "none.csv")
    (tmp_path / "bytes.csv").write_bytes(b"path,tracklet\n\xff\xfe,t\n")
    with pytest.raises(DataError, match="not a readable CSV file in UTF-8"):
        load_manifest(tmp_path / "bytes.csv")


def test_the_kind_of_an_input_is_told(tmp_path):
    touch(
        tmp_path / "set/bbox_test/0001/x.jpg", tmp_path / "own/t1/x.jpg", tmp_path / "list.CSV", tmp_path / "film.mp4"
    )
    assert detect_kind(tmp_path / "set") == "mars"
    assert detect_kind(tmp_path / "own") == "folders"
    assert detect_kind(tmp_path / "list.CSV") == "manifest"
    for wrong, got in (("film.mp4", "a file film.mp4"), ("none", "nothing there")):
        with pytest.raises(DataError, match=f"expected a MARS layout.*got {got}"):
            detect_kind(tmp_path / wrong)
