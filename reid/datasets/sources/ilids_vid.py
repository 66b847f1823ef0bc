"""iLIDS-VID: ``i-LIDS-VID/sequences/cam1/person001/*.png`` and the ten published splits in a MATLAB file.

A row of ``ls_set`` orders the 300 persons, counted from 1 in the order of their folders: the first half is the test set.
"""

from __future__ import annotations

from pathlib import Path

from reid.datasets.mars import read_variable
from reid.datasets.sources.base import Options, Published, Rows, folders_of, require_folder, rows_of
from reid.datasets.sources.published import named
from reid.datasets.sources.two_cameras import NUM_SPLITS, check_split, two_camera_benchmark
from reid.errors import DataError
from reid.tracklets import Benchmark

PUBLISHED = Published(150, 300, 150, 150, "Wang et al., ECCV 2014: 300 persons, 2 cameras, ten splits into halves")
SHAPE = "i-LIDS-VID/sequences/{cam1,cam2}/personNNN/*.png and 'train-test people splits/train_test_splits_ilidsvid.mat'"
_SPLITS = "train-test people splits/train_test_splits_ilidsvid.mat"
_CAMERAS = ("cam1", "cam2")


def load_ilids_vid(folder: Path, split: int = 0) -> Benchmark:
    """Load the index under one of the ten splits.

    Raises:
        ConfigError: there is no such split.
        DataError: a folder or the splits file is missing, or they do not fit each other.
    """
    check_split("ilids-vid", split)
    root = folder / "i-LIDS-VID" / "sequences"
    for camera in _CAMERAS:
        require_folder(root / camera, f"iLIDS-VID has {SHAPE}")
    persons = folders_of(root / _CAMERAS[0])
    if persons != folders_of(root / _CAMERAS[1]):
        differing = sorted(set(persons) ^ set(folders_of(root / _CAMERAS[1])))
        raise DataError(f"{root}: expected the same persons in cam1 and cam2, got {differing[0]} in one of them only")
    file = folder / _SPLITS
    order = read_variable(file, "ls_set")
    if order.ndim != 2 or len(order) != NUM_SPLITS or sorted(order[split]) != list(range(1, len(persons) + 1)):
        raise DataError(
            f"{file}: expected {NUM_SPLITS} rows that each order the {len(persons)} persons of {root / _CAMERAS[0]}, "
            f"got a table of shape {order.shape}"
        )
    half = order.shape[1] // 2
    test, train = ([persons[i - 1] for i in sorted(part)] for part in (order[split, :half], order[split, half:]))
    return named(two_camera_benchmark("ilids-vid", root, _CAMERAS, train, test), PUBLISHED)


def recognise(source: Path) -> str | None:
    """Return why the source is this dataset, or None."""
    found = (source / "i-LIDS-VID" / "sequences" / "cam1").is_dir()
    return "the folder i-LIDS-VID/sequences/cam1" if found else None


def read(source: Path, options: Options) -> Rows:
    """Read the dataset as rows, under the split in the options."""
    return rows_of(load_ilids_vid(source, options.split), PUBLISHED)
