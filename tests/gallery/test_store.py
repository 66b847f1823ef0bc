"""Feature folders: round trip, and one line for whatever is damaged or does not belong together."""

import json
from pathlib import Path

import numpy as np
import pytest

from reid.errors import DataError
from reid.features import FeatureSet
from reid.gallery import store
from reid.tracklets import Split


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    names = np.array([f"p{i // 2}/{i}.jpg".encode() for i in range(6)])
    split = Split("root", names, np.array([0, 2, 4]), np.array([2, 4, 6]), np.array([5, -1, 0]), np.array([1, 2, -1]))
    features = np.eye(3, 4, dtype=np.float32)
    rows = FeatureSet(
        features, split.pid, split.camid, np.array([0]), np.array([2, 0]), np.array(["a", "b, c", "d"]), "f00"
    )
    store.write(tmp_path / "gallery", rows, split, {"run": "runs/x"})
    return tmp_path / "gallery"


def test_round_trip(folder: Path) -> None:
    read = store.read(folder)
    assert np.array_equal(read.features, np.eye(3, 4))
    assert (read.pid.tolist(), read.camid.tolist()) == ([5, -1, 0], [1, 2, -1])
    assert (read.query.tolist(), read.gallery.tolist(), read.fingerprint) == ([0], [2, 0], "f00")
    assert sorted(path.name for path in folder.iterdir()) == ["features.npy", "gallery.json", "meta.csv"]
    about = json.loads((folder / "gallery.json").read_text())
    assert about["counts"] == {"tracklets": 3, "frames": 6, "dim": 4}


@pytest.mark.parametrize("name", ["features.npy", "meta.csv", "gallery.json"])
@pytest.mark.parametrize("damage", ["missing", "empty", "truncated", "text"])
def test_damaged_files(folder: Path, name: str, damage: str) -> None:
    data = (folder / name).read_bytes()
    if damage == "missing":
        (folder / name).unlink()
    else:
        (folder / name).write_bytes({"empty": b"", "truncated": data[: len(data) // 2], "text": b"[1]"}[damage])
    with pytest.raises(DataError) as caught:
        store.read(folder)
    assert len(caught.value.problems) == 1
    assert "gallery" in str(caught.value)


def test_pickled_features_are_refused(folder: Path) -> None:
    np.save(folder / "features.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)
    with pytest.raises(DataError, match="cannot read these features"):
        store.read(folder)


def test_row_counts_must_agree(folder: Path) -> None:
    np.save(folder / "features.npy", np.eye(2, 4, dtype=np.float32))
    with pytest.raises(DataError, match=r"2 rows in features\.npy, 3 in meta\.csv, 3 in gallery\.json"):
        store.read(folder)
