"""Tables of tracklets: what spreadsheets and data frames make of them, what is refused and where, and what is decided for people."""

from __future__ import annotations

import itertools
import re
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest

from reid.datasets import presence
from reid.datasets.manifest import load_manifest, load_rows
from reid.datasets.splitting import Draw
from reid.datasets.table import read_table, write_table
from reid.errors import LONGEST, DataError

FRAMES = ["imgs/a/1.jpg", "imgs/a/2.jpg", "imgs/b/1.jpg"]
GOOD = [["path", "tracklet", "pid", "camid"], *([f, f[5], "12", "3"] for f in FRAMES[:2]), [FRAMES[2], "b", "7", "1"]]


def touch(*files: Path) -> None:
    for file in files:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    touch(*(tmp_path / frame for frame in FRAMES))
    return tmp_path


def csv_of(rows: list[list[str]], mark: str = ",", end: str = "\n") -> str:
    return "".join(mark.join(row) + end for row in rows)


def table(folder: Path, text: str | bytes, name: str = "clips.csv") -> Path:
    (folder / name).write_bytes(text if isinstance(text, bytes) else text.encode())
    return folder / name


def changed(column: int, change) -> list[list[str]]:
    return [GOOD[0], *([*row[:column], change(row[column]), *row[column + 1 :]] for row in GOOD[1:])]


QUIRKS = {
    "plain": csv_of(GOOD),
    "a byte order mark and CRLF": "\ufeff" + csv_of(GOOD, end="\r\n"),
    "semicolons": csv_of(GOOD, mark=";"),
    "tabs": csv_of(GOOD, mark="\t"),
    "UTF-16 with tabs": csv_of(GOOD, mark="\t").encode("utf-16"),
    "a data frame's index": csv_of([["", *GOOD[0]], *([str(i), *row] for i, row in enumerate(GOOD[1:]))]),
    "an unnamed index": csv_of([["Unnamed: 0", *GOOD[0]], *([str(i), *row] for i, row in enumerate(GOOD[1:]))]),
    "float ids": csv_of([GOOD[0], *([*row[:2], row[2] + ".0", row[3] + ".00"] for row in GOOD[1:])]),
    "padded cells": csv_of([[f" {cell} " for cell in row] for row in GOOD]),
    "capitals": csv_of([["Path", "TRACKLET", "PID", "CamID"], *GOOD[1:]]),
    "quotes": csv_of([[f'"{cell}"' for cell in row] for row in GOOD]),
    "backslashes": csv_of(changed(0, lambda path: path.replace("/", "\\"))),
    "backslashes in one row": csv_of([*GOOD[:2], [GOOD[2][0].replace("/", "\\"), *GOOD[2][1:]], *GOOD[3:]]),
    "empty rows": csv_of([GOOD[0], ["", "", "", ""], *GOOD[1:]]) + "\n\n",
    "rows in another order": csv_of([GOOD[0], GOOD[1], GOOD[3], GOOD[2]]),
    "a frame twice": csv_of([*GOOD, GOOD[2]]),
    "ids in the first row only": csv_of([*GOOD[:2], [*GOOD[2][:2], "", "nan"], GOOD[3]]),
    "another column": csv_of([[*row, "x,y"] for row in GOOD], mark=";"),
}


@pytest.mark.parametrize("quirk", QUIRKS)
def test_what_spreadsheets_and_data_frames_write_is_read(folder: Path, quirk: str) -> None:
    split = load_rows(table(folder, QUIRKS[quirk])).split
    assert [(t.key, t.pid, t.camid) for t in split] == [("a", 12, 3), ("b", 7, 1)]
    assert [t.paths for t in split] == [[folder / FRAMES[0], folder / FRAMES[1]], [folder / FRAMES[2]]]


def test_parquet_holds_the_same(folder: Path) -> None:
    names, *rows = GOOD
    columns = dict(zip(names, (list(column) for column in zip(*rows, strict=True)), strict=True))
    typed = {**columns, "pid": [12.0, None, 7.0], "camid": pa.array(["3", "3", "1"]).dictionary_encode()}
    pa.parquet.write_table(pa.table(typed), folder / "clips.parquet")
    split = load_rows(folder / "clips.parquet").split
    assert [(t.key, t.pid, t.camid, len(t.paths)) for t in split] == [("a", 12, 3, 2), ("b", 7, 1, 1)]
    (folder / "bad.parquet").write_bytes(b"PAR1 no more")
    for name in ("bad.parquet", "none.parquet"):
        with pytest.raises(DataError, match=f"{name}: (not a readable Parquet file|cannot read this table)"):
            read_table(folder / name)


def test_absolute_paths_whole_and_half_and_of_home(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = [path for t in load_rows(table(folder, csv_of(GOOD))).split for path in t.paths]
    whole = changed(0, lambda path: str(folder / path))
    half = [*whole[:2], *GOOD[2:]]
    monkeypatch.setenv("HOME", str(folder))
    home = changed(0, lambda path: f"~/{path}")
    for rows in (whole, half, home):
        assert [path for t in load_rows(table(folder, csv_of(rows))).split for path in t.paths] == expected


def test_a_path_may_be_a_folder_of_frames(folder: Path) -> None:
    touch(folder / "imgs/a/._1.jpg", folder / "imgs/a/Thumbs.db")
    split = load_rows(table(folder, "path,tracklet\nimgs/a,a\nimgs/b/,b\n")).split
    assert [t.paths for t in split] == [[folder / FRAMES[0], folder / FRAMES[1]], [folder / FRAMES[2]]]


def test_parts_of_pictures_and_frames_of_videos(folder: Path) -> None:
    (folder / "gate.mkv").touch()  # no picture is opened by an index
    (folder / "t.csv").write_text(
        "path,tracklet,pid,first,last,x,y,w,h\n"
        "imgs/a/1.jpg,whole,alice,,,,,,\nimgs/a/1.jpg,part,bob,,,1.6,-2,5,6.1\nimgs/a/1.jpg,part,bob,,,1.6,-2,5,6\n"
        "gate.mkv,film,alice,3,5,,,,\ngate.mkv,walk,bob,7,7,10,20,30,40\n"
    )
    rows = load_rows(folder / "t.csv")
    assert [[path.relative_to(folder).as_posix() for path in track.paths] for track in rows.split] == [
        ["imgs/a/1.jpg"],
        ["imgs/a/1.jpg#xywh=2,0,5,4"],
        ["gate.mkv#frame=3", "gate.mkv#frame=4", "gate.mkv#frame=5"],
        ["gate.mkv#frame=7&xywh=10,20,30,40"],
    ]
    assert any("6 images are cut out of a larger one or of a video each time it is read" in note for note in rows.notes)
    assert not presence.missing(rows.split).any()
    (folder / "t.csv").write_text("path,tracklet,x,y,w,h\nimgs/a,t,1,2,3,4\n")
    with pytest.raises(DataError, match=r"row 2, column x: a box needs an image or a video; got a folder: imgs/a"):
        load_rows(folder / "t.csv")
    for first, last in ((5, 4), (0, 10**15)):  # the other way round; a name for each would fill the memory
        (folder / "t.csv").write_text(f"path,tracklet,first,last\ngate.mkv,t,{first},{last}\n")
        with pytest.raises(DataError, match="row 2, column first: expected the first and the last frame of a video"):
            load_rows(folder / "t.csv")


def test_names_are_numbered_and_kept(folder: Path) -> None:
    rows = [GOOD[0], [FRAMES[0], "a", "bob", "gate 3"], [FRAMES[1], "a2", "alice", "4"], [FRAMES[2], "b", "-1", ""]]
    loaded = load_rows(table(folder, csv_of(rows)))
    assert dict(loaded.names.pid) == {1: "alice", 2: "bob"}
    assert dict(loaded.names.camid) == {1: "4", 2: "gate 3"}
    assert [(t.pid, t.camid) for t in loaded.split] == [(2, 2), (1, 1), (-1, -1)]
    assert any("column camid: 1 of 2 different values are text, such as 'gate 3' in row 2" in n for n in loaded.notes)
    assert loaded.names == type(loaded.names).from_json(loaded.names.to_json())


def test_missing_columns_are_named_with_their_consequence(folder: Path) -> None:
    loaded = load_rows(table(folder, f"path,tracklet,camera\n{FRAMES[0]},t,1\n"))
    (tracklet,) = loaded.split
    assert (tracklet.key, tracklet.pid, tracklet.camid) == ("t", 0, -1)
    assert not loaded.known.any()
    assert any(note.startswith("no column pid: persons are unknown") for note in loaded.notes)
    assert any(note.startswith("no column camid: ") and "rename it to camid" in note for note in loaded.notes)
    with pytest.raises(DataError, match="no row has a known person, so there is nothing to train on"):
        load_manifest(folder / "clips.csv")


WRONG = [
    ("", r"clips.csv: row 1: expected a header with path,tracklet\[,pid,camid,split,role\], got nothing"),
    ("path,pid\na,1\n", "row 1: .* got path,pid"),
    ("file,tracklet\na,1\n", "row 1: .* got file,tracklet; if file is that column, rename it to path"),
    ("path,tracklet,path\na,t,b\n", "row 1: the column path appears twice"),
    ("path,tracklet\n", "expected one row per frame or tracklet after the header, got none"),
    ("path,tracklet\na.jpg\n", r"row 2: expected 2 cells \(path, tracklet\), got 1"),
    ("path,tracklet\n\na.jpg,t,\n", "row 3: expected 2 cells .* got 3"),
    ("path,tracklet\na.jpg,t\n,t\n", "row 3, column path: is empty"),
    ("path,tracklet\na.jpg,\n", "row 2, column tracklet: is empty"),
    ("path,tracklet,pid\na.jpg,t,1.5\n", "row 2, column pid: expected a whole 64-bit number .* got '1.5'"),
    ("path,tracklet,pid\na.jpg,t,1.2E+05\n", "row 2, column pid: expected a whole"),
    ("path,tracklet,pid\na.jpg,t,9223372036854775808\n", "row 2, column pid: expected a whole 64-bit number"),
    (
        "path,tracklet,camid\na.jpg,t,1\nb.jpg,u,-2\n",
        "row 3, column camid: expected a whole .* of at least -1, .* got '-2'",
    ),
    ("path,tracklet,pid\na.jpg,t,1\nb.jpg,t,2\n", "row 3, column pid: tracklet t: expected '1' as in row 2, got '2'"),
    ("path,tracklet,pid,camid\na.jpg,1,1,1\nb.jpg,1,2,2\n", "row 3, column pid: tracklet 1: .* give each its own name"),
    (
        "path,tracklet,split\na.jpg,t,query\n",
        "row 2, column split: expected train, val, test, got 'query'; .* column role",
    ),
    ("path,tracklet,split\na.jpg,t,\n", "row 2, column split: expected train, val, test, got ''"),
    ("path,tracklet,role\na.jpg,t,probe\n", "row 2, column role: expected query, gallery, both, got 'probe'"),
    ("path,tracklet,split,role\na.jpg,t,train,query\n", "row 2, column role: 'query' is for rows of the split test"),
    ("path,tracklet,weight\na.jpg,t,-1\n", "row 2, column weight: expected a number >= 0, or an empty cell, got '-1'"),
    ('path,tracklet\n"a,t\n', 'row 2: expected 2 cells .* close every "'),
    ("path,tracklet\nfilm.mp4,t\n", "row 2, column path: is a video: expected its frame numbers"),
    ("path,tracklet,first\nfilm.mp4,t,1\n", "row 2, column first: .* the columns first and last; got only this one"),
    (
        "path,tracklet,first,last\nfilm.mp4,t,3,2\n",
        "row 2, column first: expected the first and the last frame .* got '3' to '2'",
    ),
    (
        "path,tracklet,first,last\nfilm.mp4,t,3,\n",
        "row 2, column first: expected the first and the last frame .* got '3' to ''",
    ),
    ("path,tracklet,first,last\na.jpg,t,0,2\n", "row 2, column first: frame numbers are only for videos; got a.jpg"),
    ("path,tracklet,x,y\na.jpg,t,1,2\n", "row 2, column x: a box needs the columns x, y, w, h; got x, y"),
    ("path,tracklet,x,y,w,h\na.jpg,t,1,2,,4\n", "row 2, column w: expected a number, because the other columns"),
    ("path,tracklet,x,y,w,h\na.jpg,t,1,2,0,4\n", "row 2, column x: expected a non-empty box"),
    ("path,tracklet,x,y,w,h\na.jpg,t,-9,2,8,4\n", "row 2, column x: expected a non-empty box inside its image"),
    (
        "path,tracklet,x,y,w,h\na.jpg,t,1,2,-3,4\n",
        "row 2, column w: expected a number >= 0, or an empty cell, got '-3'",
    ),
    (
        "path,tracklet\nnowhere,t\n",
        "row 2, column path: expected an image, a folder of frames or a video, got nothing",
    ),
    ("path,tracklet\ngone.jpg,t\n", "row 2, column path: no such file .*gone.jpg, nor any other of 1 checked"),
    ("path,tracklet\nC:\\imgs\\a.jpg,t\n", "row 2, column path: .* is a path of another machine"),
    (
        '[{"path": "a.jpg", "tracklet": "t"}' + ", {}" * 100_000 + "]",
        "this is JSON, not a table; robust-reid import .*clips.csv --as jsonl ",
    ),
    ('{"images": [], "annotations": []}', "this is JSON, not a table; robust-reid import .*clips.csv --as coco "),
    (b"path,tracklet\na.jpg,t\nb.jpg,\xff\xfe\n", "row 3: not text in UTF-8"),
    (b"path,tracklet\na.jpg,t\0\n", "not a text file"),
]


@pytest.mark.parametrize(("text", "message"), WRONG)
def test_mistakes_name_file_row_and_column(tmp_path: Path, text: str | bytes, message: str) -> None:
    touch(tmp_path / "a.jpg", tmp_path / "b.jpg")
    with pytest.raises(DataError, match=message) as caught:
        load_rows(table(tmp_path, text))
    assert str(caught.value).startswith(f"{tmp_path / 'clips.csv'}: ")
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) <= LONGEST


def test_a_table_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"none.csv: cannot read this table: No such file"):
        read_table(tmp_path / "none.csv")


def test_a_frame_in_two_tracklets_is_told(folder: Path) -> None:
    loaded = load_rows(table(folder, f"path,tracklet\n{FRAMES[0]},a\n{FRAMES[1]},a\n{FRAMES[0]},b\n"))
    assert loaded.split.lengths.tolist() == [2, 1]
    assert any(f"1 frame appears in two tracklets, such as {FRAMES[0]} in a and b" in note for note in loaded.notes)


@pytest.mark.parametrize("name", ["t.csv", "t.parquet"])
def test_what_is_written_is_read(folder: Path, name: str) -> None:
    columns = {"note": ["a;b", 'say "x"', None], "camid": np.array([3, 3, 1]), "path": FRAMES, "pid": ["ä", "ä", None]}
    write_table(folder / name, {**columns, "tracklet": ["1", "1", "2"]})
    back = read_table(folder / name)
    assert list(back.columns) == ["path", "tracklet", "pid", "camid", "note"]
    assert back.cells("note") == ["a;b", 'say "x"', ""]
    assert [(t.key, t.pid, t.camid) for t in load_rows(folder / name).split] == [("1", 1, 3), ("2", 0, 1)]
    assert b"\r" not in (folder / "t.csv").read_bytes() if name == "t.csv" else True


def test_what_cannot_be_written(tmp_path: Path) -> None:
    for name, columns, message in (
        ("t.xlsx", {"path": ["a"], "tracklet": ["1"]}, "expected a name that ends in .csv or .parquet"),
        ("t.csv", {"path": ["a"]}, "needs a column tracklet"),
        ("t.csv", {"path": ["a"], "tracklet": ["1", "2"]}, "columns of different lengths"),
    ):
        with pytest.raises(DataError, match=message):
            write_table(tmp_path / name, columns)
    assert list(tmp_path.iterdir()) == []


def people(folder: Path, persons: int, cameras: int = 3, times: int = 1, **more: str) -> list[list[str]]:
    """Rows of one frame each: every person in every camera, `times` tracklets; `more` gives further columns of equal cells."""
    rows = []
    for person, camera, time in itertools.product(range(1, persons + 1), range(1, cameras + 1), range(times)):
        name = f"p{person}c{camera}t{time}"
        touch(folder / f"f/{name}.jpg")
        rows.append([f"f/{name}.jpg", name, str(person), str(camera), *more.values()])
    return [["path", "tracklet", "pid", "camid", *more], *rows]


def persons_of(split) -> set[int]:
    return set(split.pid.tolist())


def test_without_a_split_persons_are_drawn_apart(tmp_path: Path) -> None:
    rows = people(tmp_path, 20)
    benchmark = load_manifest(table(tmp_path, csv_of(rows), "six cameras.csv"))
    assert benchmark.name == "six cameras"
    parts = [persons_of(split) for split in (benchmark.train, benchmark.val, benchmark.test)]
    assert [len(part) for part in parts] == [12, 2, 6]
    assert set().union(*parts) == set(range(1, 21))
    assert benchmark.drawn == {
        str(p): name for name, part in zip(("train", "val", "test"), parts, strict=True) for p in part
    }
    said = "drawn by identity with data.split_seed=0: 12 train, 2 val, 6 test; requested: 30 % test (data.test_share), 10 % val ("
    assert any(said in note for note in benchmark.notes)
    shuffled = [rows[0], *reversed(rows[1:])]
    assert load_manifest(table(tmp_path, csv_of(shuffled))).drawn == benchmark.drawn
    assert load_manifest(table(tmp_path, csv_of(rows)), draw=Draw(seed=1)).drawn != benchmark.drawn
    fewer = load_manifest(table(tmp_path, csv_of(rows[:-3]))).drawn  # one person less moves one other at most
    assert sum(benchmark.drawn[person] != part for person, part in fewer.items()) <= 2


def test_one_query_for_each_person_and_camera(tmp_path: Path) -> None:
    test = load_manifest(table(tmp_path, csv_of(people(tmp_path, 10, cameras=2, times=3))))
    places = [(int(test.test.pid[row]), int(test.test.camid[row])) for row in test.query]
    assert len(places) == len(set(places))
    assert set(places) == {(pid, camera) for pid in persons_of(test.test) for camera in (1, 2)}
    assert test.gallery.tolist() == list(range(len(test.test)))


def test_nobody_who_cannot_be_found_again_is_a_query(tmp_path: Path) -> None:
    """Persons 1 to 3 are seen by two cameras, 4 by one, twice; 5 once; 0 and -1 are nobody."""
    rows = people(tmp_path, 3, cameras=2, split="test")
    rows += people(tmp_path, 2, cameras=1, split="train")[1:]
    for name, pid, camera in (("x1", 4, 1), ("x2", 4, 1), ("y", 5, 2), ("z", 0, 1), ("j", -1, 2)):
        touch(tmp_path / f"f/{name}.jpg")
        rows.append([f"f/{name}.jpg", name, str(pid), str(camera), "test"])
    rows = [row if row[4] != "train" else [row[0], "tr" + row[1], *row[2:]] for row in rows]
    file = table(tmp_path, csv_of(rows))
    benchmark = load_manifest(file)
    assert set(benchmark.test.pid[benchmark.query].tolist()) == {1, 2, 3}
    lost = next(note for note in benchmark.notes if "cannot be matched" in note)
    assert lost.startswith("2 of 5 test persons cannot be matched: 1 has one tracklet, 1 is seen by one camera only")
    assert "test.any_camera=true" in lost
    assert set(load_manifest(file, any_camera=True).test.pid[load_manifest(file, any_camera=True).query].tolist()) == {
        1,
        2,
        3,
        4,
    }
    assert any("2 persons are in the splits train and test" in note for note in benchmark.notes)


def test_without_cameras_no_query_finds_itself(tmp_path: Path) -> None:
    rows = [[*row[:3], row[4]] for row in people(tmp_path, 4, cameras=2, split="test")]
    rows += [[*row[:3], "train"] for row in people(tmp_path, 6, cameras=2, split="test")[9:]]
    benchmark = load_manifest(table(tmp_path, csv_of(rows)))
    assert len(benchmark.query) == 4
    assert not set(benchmark.query.tolist()) & set(benchmark.gallery.tolist())


def test_split_and_role_of_the_table_hold(tmp_path: Path) -> None:
    rows = people(tmp_path, 6, cameras=2)
    parts = {1: "train", 2: "Train", 3: "val", 4: "VAL", 5: "test", 6: "test"}
    roles = {1: "query", 2: "both"}
    full = [[*row, parts[int(row[2])], roles[int(row[3])] if int(row[2]) > 4 else ""] for row in rows[1:]]
    benchmark = load_manifest(table(tmp_path, csv_of([[*rows[0], "split", "role"], *full])))
    assert [persons_of(s) for s in (benchmark.train, benchmark.val, benchmark.test)] == [{1, 2}, {3, 4}, {5, 6}]
    assert benchmark.drawn is None
    assert benchmark.test.camid[benchmark.query].tolist() == [1, 2, 1, 2]
    assert benchmark.test.camid[benchmark.gallery].tolist() == [2, 2]


def test_roles_that_make_no_test(tmp_path: Path) -> None:
    rows = people(tmp_path, 4, cameras=2, split="test", role="gallery")
    for row in rows[1:5]:
        row[4] = "train"
    with pytest.raises(DataError, match="column role: no test row is a query"):
        load_manifest(table(tmp_path, csv_of(rows)))
    rows[5][2], rows[5][5] = "0", "query"
    with pytest.raises(DataError, match="tracklet p3c1t0: a query of the role query needs a person"):
        load_manifest(table(tmp_path, csv_of(rows)))
    rows[5][2], rows[5][3], rows[5][5] = "3", "", "both"
    with pytest.raises(DataError, match="role both without a camera: the query would find itself"):
        load_manifest(table(tmp_path, csv_of(rows)))
    assert len(load_manifest(table(tmp_path, csv_of(rows)), any_camera=True).query) == 1


def test_who_is_left_out_of_training_is_counted(tmp_path: Path) -> None:
    rows = people(tmp_path, 3, cameras=1, split="train")
    for name, pid in (("d", "0"), ("j", "-1"), ("u", ""), ("v", "")):
        touch(tmp_path / f"f/{name}.jpg")
        rows.append([f"f/{name}.jpg", name, pid, "1", "train"])
    benchmark = load_manifest(table(tmp_path, csv_of(rows)))
    assert persons_of(benchmark.train) == {1, 2, 3}
    assert (len(benchmark.test), len(benchmark.query), benchmark.val) == (0, 0, None)
    for words in ("1 tracklet is not trained on: pid 0", "1 .* pid -1 means junk", "2 .* no pid"):
        assert any(re.search(words, note) for note in benchmark.notes), words
    with pytest.raises(DataError, match="the split train has no row of a known person"):
        load_manifest(table(tmp_path, csv_of([*rows[:1], *([*r[:4], "test"] for r in rows[1:])])))


def test_persons_of_one_camera_are_trained_on_and_never_drawn_to_be_tested(tmp_path: Path) -> None:
    single = [[f"f/s{i}.jpg", f"s{i}", str(100 + i), "1"] for i in range(10)]
    touch(*(tmp_path / row[0] for row in single))
    benchmark = load_manifest(table(tmp_path, csv_of([*people(tmp_path, 6), *single])))
    assert persons_of(benchmark.test) <= set(range(1, 7))
    assert {100 + i for i in range(10)} <= persons_of(benchmark.train)
    alone = load_manifest(table(tmp_path, csv_of([GOOD[0], *single])))
    assert (len(alone.test), alone.val) == (0, None)


def test_an_earlier_draw_is_kept_to(tmp_path: Path) -> None:
    file = table(tmp_path, csv_of(people(tmp_path, 6)))
    drawn = {"1": "train", "2": "train", "3": "val", "4": "val", "5": "test"}
    benchmark = load_manifest(file, drawn=drawn)
    assert persons_of(benchmark.test) == {5, 6}  # whom it does not know has never been trained on
    everybody = load_manifest(file, drawn={}, to_train=False)
    assert persons_of(everybody.test) == set(range(1, 7))


def test_a_corrected_row_corrects_the_label(tmp_path: Path) -> None:
    """The name says 0001; the table has the last word."""
    touch(tmp_path / "0001C1T0001F001.jpg")
    (tracklet,) = load_rows(table(tmp_path, "path,tracklet,pid,camid\n0001C1T0001F001.jpg,0001C1T0001,2,5\n")).split
    assert (tracklet.pid, tracklet.camid) == (2, 5)
