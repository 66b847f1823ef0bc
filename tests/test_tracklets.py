"""Records check themselves at birth; every column operation against plain loops."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest

from reid.errors import DataError
from reid.tracklets import Benchmark, Split

NAMES = np.array(
    [b"0007/0007C1T0001F001.jpg", b"0007/0007C1T0001F002.jpg", b"0007/0007C2T0002F001.jpg", b"0000/0000C3T0001F001.png"]
)


def make(**changes: object) -> Split:
    columns = {"names": NAMES, "start": [3, 0, 2], "stop": [4, 2, 3], "pid": [0, 7, 7], "camid": [3, 1, -1]}
    return Split(Path("root"), **{field: np.array(values) for field, values in (columns | changes).items()})


def test_a_tracklet_is_a_view_made_on_demand():
    split = make()
    assert (len(split), split.num_frames, split.lengths.tolist()) == (3, 4, [1, 2, 1])
    tracklet = split[1]
    assert tracklet.paths == [Path("root/0007/0007C1T0001F001.jpg"), Path("root/0007/0007C1T0001F002.jpg")]
    assert (tracklet.pid, tracklet.camid, tracklet.key) == (7, 1, "0007C1T0001")
    assert [split.key(i) for i in range(3)] == ["0000C3T0001", "0007C1T0001", "0007C2T0002"]
    assert [tracklet.key for tracklet in split] == ["0000C3T0001", "0007C1T0001", "0007C2T0002"]


def test_given_keys_win_and_follow_their_rows():
    split = make(keys=["far", "walk", "seven"])
    assert split[1].key == "walk"
    assert split.select([2, 0])[0].key == "seven"


def test_frames_match_plain_ranges():
    rng = np.random.default_rng(0)
    start = rng.integers(0, 90, size=50)
    stop = start + rng.integers(1, 10, size=50)
    zeros = np.zeros(50, dtype=int)
    split = Split(Path(), np.array([b"a.jpg"] * 100), start, stop, zeros, zeros)
    for rows in (None, [], [3], [7, 7, 0], rng.permutation(50)):
        chosen = range(50) if rows is None else rows
        expected = [frame for i in chosen for frame in range(start[i], stop[i])]
        assert split.frames(rows).tolist() == expected
        assert split.frames(rows).dtype == np.int64


@pytest.mark.parametrize("rows", [[2, 0], [True, False, True], []])
def test_select_keeps_the_rows_and_shares_the_names(rows):
    split = make()
    chosen = split.select(rows)
    numbers = np.arange(3)[rows] if rows else []
    assert [chosen[i] for i in range(len(chosen))] == [split[i] for i in numbers]
    assert np.shares_memory(chosen.names, split.names)


def test_with_pid_changes_nothing_else():
    split = make()
    noisy = split.with_pid([5, 6, 7])
    assert noisy.pid.tolist() == [5, 6, 7] and split.pid.tolist() == [0, 7, 7]
    assert noisy[0].paths == split[0].paths and np.shares_memory(noisy.names, split.names)


def test_labels_are_numbered_from_sorted_pids():
    labels, pids = make(pid=[900, 3, 900]).labels()
    assert labels.tolist() == [1, 0, 1] and pids.tolist() == [3, 900]
    with pytest.raises(DataError, match=r"tracklet 2 \(0007C2T0002\) is junk"):
        make(pid=[1, 2, -1]).labels()


def test_arrays_are_read_only_also_after_pickling_and_the_callers_stay_writable():
    start = np.array([0])
    split = make(start=start, stop=[2], pid=[7], camid=[1])
    copy = pickle.loads(pickle.dumps(split))
    for record in (split, copy):
        for field in ("names", "start", "stop", "pid", "camid"):
            assert not getattr(record, field).flags.writeable
    assert start.flags.writeable
    assert copy[0] == split[0]
    assert len(pickle.dumps(split)) < NAMES.nbytes + 1500


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"pid": [1, 2]}, "Split.pid: expected one entry for each of 3 tracklets, got 2"),
        ({"pid": [1.0, 2.0, 3.0]}, "Split.pid: expected one dimension of integers, got float64"),
        ({"camid": [[1], [1], [1]]}, "Split.camid: expected one dimension"),
        ({"names": ["a", "b", "c", "d"]}, "Split.names: expected one dimension of bytes"),
        ({"keys": [1, 2, 3]}, "Split.keys: expected one dimension of strings"),
        ({"stop": [4, 2, 5]}, r"tracklet 2 spans frames \[2, 5\), expected a range in \[0, 4\)"),
        ({"start": [3, -1, 2]}, r"tracklet 1 spans frames \[-1, 2\)"),
        ({"start": [3, 2, 2]}, r"tracklet 1 spans frames \[2, 2\)"),
    ],
)
def test_a_wrong_column_is_refused(changes, message):
    with pytest.raises(DataError, match=message):
        make(**changes)


def test_unsigned_columns_become_int64():
    split = make(start=np.array([3, 0, 2], dtype=np.uint16), pid=np.array([0, 7, 7], dtype=np.uint8))
    assert split.start.dtype == split.pid.dtype == np.int64


def test_benchmark_summary_counts_persons_and_known_cameras():
    split = make()
    benchmark = Benchmark("toy", split, split, query=np.array([1]), gallery=np.arange(3))
    assert benchmark.summary() == [("train", 1, 3, 4, 2), ("query", 1, 1, 2, 1), ("gallery", 1, 3, 4, 2)]


@pytest.mark.parametrize(
    ("query", "message"), [([3], "a query row is outside"), ([-1], "a query row is outside"), ([1, 1], "appears twice")]
)
def test_benchmark_refuses_rows_that_are_not_there(query, message):
    with pytest.raises(DataError, match=message):
        Benchmark("toy", make(), make(), query=np.array(query), gallery=np.arange(3))
