"""Several datasets as one: who and what stays apart, and that every frame is still found."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from reid.datasets.joining import joined
from reid.errors import ConfigError
from reid.tracklets import Benchmark, IdNames, Split


def split_of(root: Path, rows: list[tuple[int, int]]) -> Split:
    """A tracklet of two frames for each (pid, camid), whose files exist; their content tells their place."""
    names = [f"{i}/{i}T{i}F{frame}.jpg" for i in range(len(rows)) for frame in range(2)]
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(str(root / name))
    start = 2 * np.arange(len(rows))
    pid, camid = (np.array([row[column] for row in rows], np.int64) for column in (0, 1))
    return Split(root, np.array([name.encode() for name in names], "S"), start, start + 2, pid, camid)


def dataset(root: Path, name: str, **more: object) -> Benchmark:
    """Persons 2 and 5 to train on, 7 to test; junk, a distractor and an unknown camera among the test tracklets."""
    train = split_of(root / name / "train", [(5, 1), (2, 1), (2, 3)])
    test = split_of(root / name / "test", [(7, 1), (7, 3), (-1, 1), (0, -1)])
    return Benchmark(name, train, test, query=np.array([1]), gallery=np.array([0, 2, 3]), **more)  # type: ignore[arg-type]


def test_persons_and_cameras_of_two_datasets_never_meet(tmp_path: Path) -> None:
    both = joined([dataset(tmp_path, "market1501-subset"), dataset(tmp_path / "elsewhere", "msmt17")])
    assert both.name == "market1501-subset+msmt17"
    assert both.train.pid.tolist() == [2, 1, 1, 5, 4, 4]
    assert both.test.pid.tolist() == [3, 3, -1, 0, 6, 6, -1, 0]
    assert both.train.camid.tolist() == [1, 1, 2, 3, 3, 4]
    assert both.test.camid.tolist() == [1, 2, 1, -1, 3, 4, 3, -1]
    assert both.names.pid[1] == "market1501:2" and both.names.pid[6] == "msmt17:7"
    assert both.names.camid == {1: "market1501:1", 2: "market1501:3", 3: "msmt17:1", 4: "msmt17:3"}
    assert len(set(both.train.keys)) == 6 and both.train.key(3) == "msmt17:0T0"
    assert both.query.tolist() == [1, 5] and both.gallery.tolist() == [0, 2, 3, 4, 6, 7]
    assert both.val is None and both.weight is None and both.drawn is None


def test_every_frame_is_found_where_it_was(tmp_path: Path) -> None:
    apart = [dataset(tmp_path, "a"), dataset(tmp_path / "deep/er", "b"), dataset(tmp_path / "deep", "c")]
    both = joined(apart)
    for part in ("train", "test"):
        before = [track.paths for one in apart for track in getattr(one, part)]
        assert [track.paths for track in getattr(both, part)] == before
        assert all(path.read_text() == str(path) for paths in before for path in paths)


def test_each_is_tested_as_it_was(tmp_path: Path) -> None:
    apart = [dataset(tmp_path, "a"), dataset(tmp_path, "b")]
    assert list(joined(apart).tested) == apart
    assert apart[0].tested == (apart[0],)
    rows = joined(apart).summary()
    assert [row[0] for row in rows] == ["train", "a query", "a gallery", "b query", "b gallery"]
    assert rows[0] == ("train", 4, 6, 12, 4)


def test_what_one_says_and_the_other_does_not(tmp_path: Path) -> None:
    first = dataset(tmp_path, "a")
    val = split_of(tmp_path / "val", [(9, 1), (9, 2)])
    drawn = {"alice": "train", "bob": "val"}
    names = IdNames(pid={2: "alice", 5: "carol", 7: "dora", 9: "bob"})
    second = dataset(tmp_path, "b", val=val, drawn=drawn, weight=np.array([0.5, 2, 1]), names=names, notes=("mind",))
    both = joined([first, second])
    assert both.val is not None and both.val.pid.tolist() == [7, 7]
    assert both.names.pid[7] == "b:bob" and both.names.pid[4] == "b:alice" and both.names.pid[1] == "a:2"
    assert both.drawn == {"b:alice": "train", "b:bob": "val"}
    assert both.weight is not None and both.weight.tolist() == [1, 1, 1, 0.5, 2, 1]
    assert "b: mind" in both.notes


def test_a_dataset_without_a_test_set_stands_beside_one_that_has_it(tmp_path: Path) -> None:
    first, none = dataset(tmp_path, "a"), np.zeros(0, np.int64)
    empty = Split(tmp_path / "gone", np.zeros(0, "S1"), none, none, none, none)
    both = joined([replace(first, name="b", test=empty, query=none, gallery=none), first])
    assert len(both.test) == 4 and both.query.tolist() == [1]


def test_two_of_one_name_are_refused(tmp_path: Path) -> None:
    two = [dataset(tmp_path, "tracks"), dataset(tmp_path / "other", "tracks-subset")]
    with pytest.raises(ConfigError, match="two datasets have the name tracks"):
        joined(two)


def test_persons_of_one_recording_are_told(tmp_path: Path) -> None:
    market = dataset(tmp_path, "market1501")
    mars = dataset(tmp_path, "mars-subset")
    mars = replace(mars, test=mars.test.with_pid([2, 2, -1, 0]), train=mars.train.with_pid([8, 5, 5]))
    notes = "\n".join(joined([market, mars]).notes)
    assert "1 of 1 test persons of mars are training persons of market1501, the same recording" in notes
    assert "test persons of market1501 are" not in notes
    assert "1 person is in the training sets of both market1501 and mars" in notes
    other = replace(mars, name="msmt17")
    assert "same recording" not in "\n".join(joined([market, other]).notes)
