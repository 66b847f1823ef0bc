"""Corrections: each row checked, applied as a loop over single frames says, and refused where it fits nothing."""

import csv
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from reid.datasets.corrections import Corrected, apply_corrections, guard, read_corrections, unguard
from reid.errors import DataError
from reid.tracklets import IdNames, Split

LENGTHS = [4, 6, 3, 5, 2, 4]
PIDS = [1, 1, 2, 2, 3, 4]
NAMED = IdNames({1: "alice", 2: "bob", 3: "carol", 4: "=dan", 9: "zoe"})


@pytest.fixture
def split() -> Split:
    """Six tracklets t0..t5; the frames before and after them belong to nobody."""
    stop = 1 + np.cumsum(LENGTHS)
    names = [b"x"] + [b"t%d/%d" % (i, j) for i, length in enumerate(LENGTHS) for j in range(length)] + [b"y"]
    keys = np.array([f"t{i}" for i in range(6)])
    return Split(Path("/data"), np.array(names), stop - LENGTHS, stop, np.array(PIDS), np.arange(6), keys)


def file_of(folder: Path, *rows: tuple[str, ...]) -> Path:
    """Rows action, key, pid, frames."""
    with open(folder / "corrections.csv", "w", newline="", encoding="utf-8") as stream:
        csv.writer(stream).writerows(
            [["action", "key", "pid", "frames", "note"], *([*row, "seen, twice"] for row in rows)]
        )
    return folder / "corrections.csv"


def corrected(folder: Path, split: Split, *rows: tuple[str, ...], names: IdNames | None = None) -> Corrected:
    return apply_corrections(read_corrections(file_of(folder, *rows)), split, names or IdNames())


def content(split: Split) -> dict[str, tuple[int, list[str]]]:
    """Key -> person and names of the frames."""
    names = split.names.tolist()
    return {
        split.key(i): (int(split.pid[i]), [name.decode() for name in names[split.start[i] : split.stop[i]]])
        for i in range(len(split))
    }


def frames(row: int, *positions: int) -> list[str]:
    return [f"t{row}/{position}" for position in positions]


def test_every_action_at_once(tmp_path: Path, split: Split) -> None:
    before = content(split)
    result = corrected(
        tmp_path,
        split,
        ("relabel", "t0", "2", ""),
        ("drop_frames", "t1", "", "1, 3-4"),
        ("split", "t1", "3", "3"),
        ("drop", "t2", "", ""),
        ("split", "t3", "", "2"),
        ("split", "t3", "7", "4"),
        ("merge", "3", "4", ""),
        ("keep", "t5", "", ""),
        ("keep", "t5", "", ""),
    )
    assert content(result.split) == {
        "t0": (2, frames(0, 0, 1, 2, 3)),
        "t1": (1, frames(1, 0, 2)),
        "t1@3": (4, frames(1, 5)),  # a piece given to 3, who is 4
        "t3": (2, frames(3, 0, 1)),
        "t3@2": (8, frames(3, 2, 3)),  # a number that neither the data nor another row has
        "t3@4": (7, frames(3, 4)),
        "t4": (4, frames(4, 0, 1)),
        "t5": (4, frames(5, 0, 1, 2, 3)),
    }
    assert result.source.tolist() == [0, 1, 1, 3, 3, 3, 4, 5]
    assert result.reviewed.tolist() == [True] * 6 + [False, True]  # nobody has looked at t4, whose person is merged
    assert result.split.camid.tolist() == result.source.tolist()
    assert str(result.counts) == (
        "1 relabelled, 1 dropped, 3 frames of 1 dropped, 2 split, 1 person merged into another, 1 kept; 2 persons new"
    )
    assert content(split) == before


def test_no_frame_has_two_labels_after_pieces_and_drops(tmp_path: Path, split: Split) -> None:
    result = corrected(
        tmp_path, split, ("split", "t1", "3", "2"), ("drop_frames", "t1", "", "0"), ("split", "t0", "", "1")
    )
    numbers = result.split.frames()
    assert max(Counter(numbers.tolist()).values()) == 1
    assert max(Counter(result.split.names[numbers].tolist()).values()) == 1


def test_persons_with_names(tmp_path: Path, split: Split) -> None:
    rows = [("relabel", "t0", "bob", ""), ("relabel", "t1", "eve", ""), ("merge", guard("=dan"), "carol", "")]
    result = corrected(tmp_path, split, *rows, ("split", "t3", "", "1"), ("relabel", "t2", "zoe", ""), names=NAMED)
    people = {key: result.names.person(pid) for key, (pid, _) in content(result.split).items()}
    assert people == {
        "t0": "bob",
        "t1": "eve",
        "t2": "zoe",
        "t3": "bob",
        "t3@1": "t3@1",
        "t4": "carol",
        "t5": "carol",
    }
    assert result.counts.new_persons == 3
    assert len(set(result.names.pid.values())) == len(result.names.pid) == 7


def test_a_person_nobody_has_heard_of_is_told(tmp_path: Path, split: Split) -> None:
    typed = [("relabel", "t0", "bobb", ""), ("relabel", "t1", "zoe", ""), ("split", "t3", "", "1")]
    (note,) = corrected(tmp_path, split, *typed, names=NAMED).notes
    assert note == "corrections name 2 persons that had no training tracklet before: 'bobb' (not 'bob'?), 'zoe'"
    assert corrected(tmp_path, split, ("relabel", "t0", "bob", ""), names=NAMED).notes == ()


def test_chains_of_merges(tmp_path: Path, split: Split) -> None:
    result = corrected(tmp_path, split, ("merge", "1", "2", ""), ("merge", "3", "1", ""), ("relabel", "t5", "3", ""))
    assert set(result.split.pid.tolist()) == {2}


def test_a_person_who_is_tested_on_is_told_of(tmp_path: Path, split: Split) -> None:
    read = read_corrections(file_of(tmp_path, ("relabel", "t0", "50", ""), ("split", "t1", "", "1")))
    result = apply_corrections(read, split, IdNames(), elsewhere=np.array([50, 70, -1]))
    assert result.split.pid.tolist() == [50, 1, 71, 2, 2, 3, 4]
    assert "1 person in the corrections, such as pid 50" in result.notes[0]


@pytest.mark.parametrize(
    "rows, words",
    [
        ([("relable", "t0", "2", "")], "row 2, column action: expected relabel, drop, drop_frames, split, merge, keep, got 'relable'"),
        ([("drop", "t9", "", "")], "row 2, column key: no training tracklet has the key 't9'"),
        ([("split", "t1", "", "3"), ("relabel", "t1@3", "2", "")], "set its person in the split row"),
        ([("relabel", "t0", "", "")], "column pid: relabel expects a value, got ''"),
        ([("relabel", "t0", "0", "")], "got 0, which means junk or a distractor"),
        ([("relabel", "t0", "alice", "")], "expected a whole number above 0"),
        ([("drop", "t0", "", "0-1")], "column frames: drop expects an empty cell, got '0-1'"),
        ([("drop_frames", "t0", "", "2-4")], "expected positions from 0 to 3, such as 3,7-9, in the tracklet 't0', got '2-4'"),
        ([("drop_frames", "t0", "", "3-2")], "got '3-2'"),
        ([("drop_frames", "t0", "", "0-3")], "drop_frames removes every frame of the tracklet 't0'"),
        ([("drop_frames", "t0", "", "2-3"), ("split", "t0", "", "2")], "removes every frame of a piece of the tracklet 't0'"),
        ([("split", "t0", "", "0")], "split expects one position from 1 to 3"),
        ([("split", "t0", "", "1-2")], "split expects one position"),
        ([("split", "t0", "2", "1"), ("split", "t0", "3", "1")], "row 3, column action: split contradicts row 2, split of the same"),
        ([("keep", "t0", "", ""), ("relabel", "t0", "2", "")], "relabel contradicts row 2, keep of the same"),
        ([("drop", "t0", "", ""), ("split", "t0", "2", "1")], "split contradicts row 2, drop"),
        ([("split", "t0", "2", "1"), ("drop", "t0", "", "")], "but another row keeps a part of it"),
        ([("merge", "1", "1", "")], "merges person '1' into itself"),
        ([("merge", "1", "2", ""), ("merge", "1", "3", "")], "merge contradicts row 2"),
        ([("merge", "1", "77", "")], "no training tracklet shows a person '77'"),
        ([("merge", "4", "1", ""), ("merge", "1", "2", ""), ("merge", "2", "1", "")], "the merges form a cycle of 2 persons"),
    ],
)  # fmt: skip
def test_a_row_that_fits_nothing(tmp_path: Path, split: Split, rows: list[tuple[str, ...]], words: str) -> None:
    with pytest.raises(DataError) as raised:
        corrected(tmp_path, split, *rows)
    assert len(raised.value.problems) == 1
    assert words in raised.value.problems[0]
    assert "corrections.csv: " in raised.value.problems[0]


def test_every_wrong_row_is_told_up_to_twenty(tmp_path: Path, split: Split) -> None:
    with pytest.raises(DataError) as raised:
        corrected(tmp_path, split, *(("drop", f"none{i}", "", "") for i in range(25)))
    assert len(raised.value.problems) == 21
    assert "5 more rows are wrong" in raised.value.problems[-1]


def test_a_key_that_two_tracklets_have(tmp_path: Path, split: Split) -> None:
    twice = Split(
        split.root, split.names, split.start, split.stop, split.pid, split.camid, np.array(["a", "a", *"bcde"])
    )
    with pytest.raises(DataError, match="2 training tracklets have the key 'a'"):
        corrected(tmp_path, twice, ("drop", "a", "", ""))


def test_files_that_are_none(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no such corrections file; .* data.corrections=FILE"):
        read_corrections(tmp_path / "none.csv")
    (tmp_path / "x.csv").write_text("key,pid\nt0,2\n")
    with pytest.raises(DataError, match=r"row 1: expected a header with action,key\[,pid,frames,note\], got key,pid"):
        read_corrections(tmp_path / "x.csv")
    (tmp_path / "x.parquet").write_bytes(b"PAR1")
    with pytest.raises(DataError, match="CSV file"):
        read_corrections(tmp_path / "x.parquet")


def test_as_a_spreadsheet_saves_it(tmp_path: Path, split: Split) -> None:
    file = tmp_path / "c.csv"
    file.write_bytes('\ufeffaction;key;pid;frames;note\r\nrelabel;t0;2.0;;"a; b"\r\n;;;;\r\n'.encode())
    assert apply_corrections(read_corrections(file), split, IdNames()).split.pid[0] == 2


@pytest.mark.parametrize(
    "text, cell",
    [("=1+1", "'=1+1"), ("'=1", "''=1"), ("+3a", "'+3a"), ("-x", "'-x"), ("@a", "'@a")]
    + [(plain, plain) for plain in ("-1", "plain", "'quoted", "", "'", "a=b")],
)
def test_cells_that_a_spreadsheet_would_run_come_back(text: str, cell: str) -> None:
    assert guard(text) == cell
    assert unguard(cell) == text


def test_random_files_against_a_loop_over_frames(tmp_path: Path) -> None:
    """Each frame is followed by itself: its piece, its person, whether it is left."""
    rng = np.random.default_rng(0)
    lengths = rng.integers(2, 9, 60)
    stop = np.cumsum(lengths)
    names = np.array([b"%d/%d" % (i, j) for i, length in enumerate(lengths) for j in range(length)])
    pid = rng.integers(1, 12, 60)
    split = Split(Path("/d"), names, stop - lengths, stop, pid, pid % 3, np.array([f"k{i}" for i in range(60)]))
    rows, expected = [], {}
    for i, length in enumerate(lengths.tolist()):
        choice, person = rng.integers(5), int(pid[i])
        cut, gone, other = int(rng.integers(1, length)), int(rng.integers(length)), int(rng.integers(1, 12))
        if choice == 0:
            rows.append(("drop", f"k{i}", "", ""))
            continue
        if choice == 1:
            rows.append(("relabel", f"k{i}", str(other), ""))
            person = other
        if choice == 2:
            rows.append(("drop_frames", f"k{i}", "", str(gone)))
        if choice == 3:
            rows.append(("split", f"k{i}", str(other), str(cut)))
        for j in range(length):
            if choice == 2 and j == gone:
                continue
            moved = choice == 3 and j >= cut
            expected[f"{i}/{j}"] = (f"k{i}@{cut}" if moved else f"k{i}", other if moved else person)
    result = corrected(tmp_path, split, *rows)
    got = {name: (key, pid) for key, (pid, held) in content(result.split).items() for name in held}
    assert got == expected
