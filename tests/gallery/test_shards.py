"""Parts of an extraction: where they end, what may go on, and what is refused."""

import itertools
from pathlib import Path

import numpy as np
import pytest

from reid.errors import DataError
from reid.gallery.shards import Shards, unfinished
from reid.tracklets import Split

LENGTHS = np.array([3, 1, 9, 2, 2, 2, 5])


def shards(folder: Path, frames: int = 4, *, pid: int = 1, mode: str = "new") -> Shards:
    stop = np.cumsum(LENGTHS)
    names = np.array([f"{i}.jpg".encode() for i in range(stop[-1])])
    split = Split(Path("root"), names, stop - LENGTHS, stop, np.full(7, pid), np.full(7, 1))
    return Shards(folder, split, frames, 2, {"mode": mode})


def features(rows: np.ndarray) -> np.ndarray:
    return np.stack([rows, rows], axis=1).astype(np.float32)


@pytest.mark.parametrize("frames", [1, 2, 4, 5, 23, 24, 1000])
def test_parts_are_consecutive_and_all(tmp_path: Path, frames: int) -> None:
    parts = shards(tmp_path, frames).rows
    assert np.concatenate(parts).tolist() == list(range(7))
    first = [int(LENGTHS[: part[0]].sum()) for part in parts]
    assert all(b // frames > a // frames for a, b in itertools.pairwise(first))
    assert all(LENGTHS[part[:-1]].sum() < frames for part in parts)  # the last tracklet brings it there, none before


def test_a_part_is_kept_until_it_is_wanted(tmp_path: Path) -> None:
    first = shards(tmp_path)
    first.begin(resume=True, overwrite=False)
    assert unfinished(tmp_path)
    first.save(1, features(first.rows[1]))
    again = shards(tmp_path)
    again.begin(resume=True, overwrite=False)
    assert again.missing().tolist() == [number != 1 for number in range(len(again.rows))]
    for number in np.flatnonzero(again.missing()):
        again.save(number, features(again.rows[number]))
    assert np.array_equal(np.concatenate(list(again.features())), features(np.arange(7)))
    again.remove()
    assert not list(tmp_path.iterdir())


def test_what_was_not_finished_is_not_touched_unasked(tmp_path: Path) -> None:
    begun = shards(tmp_path)
    begun.begin(resume=False, overwrite=False)
    begun.save(0, features(begun.rows[0]))
    with pytest.raises(DataError, match="unfinished; --resume auto continues"):
        shards(tmp_path).begin(resume=False, overwrite=False)
    for other, says in (
        (shards(tmp_path, 5), "shard_frames: 4 before, 5 now"),
        (shards(tmp_path, pid=2), "tracklets: '[0-9a-f]{16}' before, '[0-9a-f]{16}' now"),
        (shards(tmp_path, mode="add"), "mode: 'new' before, 'add' now"),
    ):
        with pytest.raises(DataError, match=f"cannot resume: {says}"):
            other.begin(resume=True, overwrite=False)
    assert not begun.missing()[0]
    shards(tmp_path, 5).begin(resume=True, overwrite=True)
    assert shards(tmp_path, 5).missing().all()


@pytest.mark.parametrize("damage", [b"", b"text", "shape", "dtype", "missing"])
def test_damaged_parts(tmp_path: Path, damage: bytes | str) -> None:
    begun = shards(tmp_path)
    begun.begin(resume=False, overwrite=False)
    for number, rows in enumerate(begun.rows):
        begun.save(number, features(rows))
    file = tmp_path / "shards" / "000001.npy"
    if isinstance(damage, bytes):
        file.write_bytes(damage)
    elif damage == "missing":
        file.unlink()
    else:
        np.save(
            file, features(begun.rows[1])[:, :1] if damage == "shape" else features(begun.rows[1]).astype(np.float64)
        )
    with pytest.raises(DataError, match=r"000001\.npy: .*--resume auto"):
        list(begun.features())


def test_damaged_plan(tmp_path: Path) -> None:
    shards(tmp_path).begin(resume=False, overwrite=False)
    (tmp_path / "shards" / "plan.json").write_text("{")
    with pytest.raises(DataError, match="damaged"):
        shards(tmp_path).begin(resume=True, overwrite=False)
