"""Feature folders: round trip, and one line for whatever is damaged or does not belong together."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from reid.errors import DataError
from reid.features import FeatureSet
from reid.gallery import store
from reid.tracklets import Split


@pytest.fixture
def small(tmp_path: Path) -> Path:
    names = np.array([f"p{i // 2}/{i}.jpg".encode() for i in range(6)])
    split = Split("root", names, np.array([0, 2, 4]), np.array([2, 4, 6]), np.array([5, -1, 0]), np.array([1, 2, -1]))
    features = np.eye(3, 4, dtype=np.float32)
    rows = FeatureSet(
        features, split.pid, split.camid, np.array([0]), np.array([2, 0]), np.array(["a", "b, c", "d"]), "f00"
    )
    store.write(tmp_path / "gallery", rows, split, {"run": "runs/x"})
    return tmp_path / "gallery"


def test_round_trip(small: Path) -> None:
    read = store.read(small)
    assert np.array_equal(read.features, np.eye(3, 4))
    assert (read.pid.tolist(), read.camid.tolist()) == ([5, -1, 0], [1, 2, -1])
    assert (read.query.tolist(), read.gallery.tolist(), read.fingerprint) == ([0], [2, 0], "f00")
    assert sorted(path.name for path in small.iterdir()) == ["features.npy", "gallery.json", "meta.csv"]
    about = json.loads((small / "gallery.json").read_text())
    assert about["counts"] == {"tracklets": 3, "frames": 6, "dim": 4}


@pytest.mark.parametrize("name", ["features.npy", "meta.csv", "gallery.json"])
@pytest.mark.parametrize("damage", ["missing", "empty", "truncated", "text"])
def test_damaged_files(small: Path, name: str, damage: str) -> None:
    data = (small / name).read_bytes()
    if damage == "missing":
        (small / name).unlink()
    else:
        (small / name).write_bytes({"empty": b"", "truncated": data[: len(data) // 2], "text": b"[1]"}[damage])
    with pytest.raises(DataError) as caught:
        store.read(small)
    assert len(caught.value.problems) == 1
    assert "gallery" in str(caught.value)


def test_pickled_features_are_refused(small: Path) -> None:
    np.save(small / "features.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)
    with pytest.raises(DataError, match="cannot read these features"):
        store.read(small)


def test_row_counts_must_agree(small: Path) -> None:
    np.save(small / "features.npy", np.eye(2, 4, dtype=np.float32))
    with pytest.raises(DataError, match=r"2 rows in features\.npy, 3 in meta\.csv, 3 in gallery\.json"):
        store.read(small)


def test_one_frame_stands_for_a_tracklet(small: Path) -> None:
    assert [Path(path).name for path in store.open_gallery(small).path] == ["1.jpg", "3.jpg", "5.jpg"]


@pytest.mark.parametrize(("value", "says"), [(np.nan, "not finite"), (0, "all zero")])
def test_dead_rows_are_named(small: Path, value: float, says: str) -> None:
    features = np.eye(3, 4, dtype=np.float32)
    features[1] = value
    np.save(small / "features.npy", features)
    with pytest.raises(DataError, match=rf"gallery: features: row 1 \(key 'b, c'\).* {says}.*extract them again"):
        store.read(small)


def forget_checksums(folder: Path) -> None:
    """As a gallery of an earlier version has it."""
    about = json.loads((folder / "gallery.json").read_text())
    del about["checksums"]
    (folder / "gallery.json").write_text(json.dumps(about))


@pytest.mark.parametrize("name", ["features.npy", "meta.csv"])
def test_no_flipped_bit_is_taken(small: Path, name: str) -> None:
    good = (small / name).read_bytes()
    store.read(small)
    for place in range(len(good)):
        (small / name).write_bytes(good[:place] + bytes([good[place] ^ 1]) + good[place + 1 :])
        with pytest.raises(DataError):
            store.read(small)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"query": [1]}, "rows: damaged: its checksum does not match gallery.json"),
        ({"gallery": [2, 1]}, "rows: damaged"),
        (
            {"counts": {"tracklets": 3, "frames": 7, "dim": 4}},
            "'frames': 6, .* found, but gallery.json says .*'frames': 7",
        ),
        ({"counts": {"tracklets": 3, "frames": 6, "dim": 5}}, "'dim': 4} found, but gallery.json says"),
    ],
)
def test_no_changed_number_of_gallery_json_is_taken(small: Path, change: dict[str, Any], says: str) -> None:
    about = json.loads((small / "gallery.json").read_text())
    (small / "gallery.json").write_text(json.dumps(about | change))
    with pytest.raises(DataError, match=says):
        store.read(small)


def test_a_negative_number_of_frames(small: Path) -> None:
    text = (small / "meta.csv").read_text()
    (small / "meta.csv").write_text(text.replace(",2,", ",-2,", 1))
    with pytest.raises(DataError, match="line 2: num_frames: expected 0 or more, got -2"):
        store.read(small)


def test_rows_that_are_not_of_unit_norm_are_normalised(small: Path, caplog: pytest.LogCaptureFixture) -> None:
    np.save(small / "features.npy", 5 * np.eye(3, 4, dtype=np.float32))
    forget_checksums(small)
    assert np.array_equal(store.read(small).features, np.eye(3, 4))
    assert "3 of 3 rows did not have unit norm and were normalised" in caplog.text


def test_features_stay_on_disk(small: Path) -> None:
    assert isinstance(store.read(small).features, np.memmap)


@pytest.mark.parametrize(
    "record",
    ['{"schema": 0}', '{"schema": 1}', "[]", '{"schema": 1, "fingerprint": "a", "counts": {"tracklets": "3"}}'],
)
def test_other_json(small: Path, record: str) -> None:
    (small / "gallery.json").write_text(record)
    with pytest.raises(DataError, match="not a complete feature folder"):
        store.open_gallery(small)
