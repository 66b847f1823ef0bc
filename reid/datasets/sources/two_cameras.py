"""The common layout of iLIDS-VID and PRID2011: a folder per camera with a folder per person, and ten published halves of the persons.

Queries are the first camera's tracklets of the test persons; the gallery is the second camera's.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from reid.datasets.sources.base import images_of
from reid.datasets.sources.published import Track, track_benchmark
from reid.errors import ConfigError, DataError
from reid.tracklets import Benchmark

NUM_SPLITS = 10
_NUMBER = re.compile(r"\d+$")


def check_split(name: str, split: int) -> int:
    """Return the split's number.

    Raises:
        ConfigError: there is no such split.
    """
    if 0 <= split < NUM_SPLITS:
        return split
    raise ConfigError(f"{name}: expected a split from 0 to {NUM_SPLITS - 1}, got {split}")


def two_camera_benchmark(
    name: str, root: Path, cameras: Sequence[str], train: Sequence[str], test: Sequence[str]
) -> Benchmark:
    """Build a dataset with one tracklet per person and camera.

    Args:
        name: of the dataset.
        root: holds the cameras' folders.
        cameras: the two folders below `root`, the query's first.
        train, test: folder names of the persons, such as ``person001``; the number at the end is the person id.

    Raises:
        DataError: a person's folder is missing or empty, or its name does not end in a number.
    """
    tracks = [[_track(root, camera, number, person) for person in train] for number, camera in enumerate(cameras, 1)]
    query, gallery = (
        [_track(root, camera, number, person) for person in test] for number, camera in enumerate(cameras, 1)
    )
    rows = np.arange(len(query) + len(gallery))
    return track_benchmark(
        name, root, [*tracks[0], *tracks[1]], [*query, *gallery], rows[: len(query)], rows[len(query) :]
    )


def _track(root: Path, camera: str, number: int, person: str) -> Track:
    folder = root / camera / person
    names = images_of(folder) if folder.is_dir() else []
    if not names:
        raise DataError(
            f"{folder}: expected the frames of one person, got {'none' if folder.is_dir() else 'no folder'}"
        )
    match = _NUMBER.search(person)
    if match is None:
        raise DataError(f"{folder}: expected a name that ends in the person's number, such as person001, got {person}")
    return Track([f"{camera}/{person}/{name}" for name in names], int(match[0]), number, f"{camera}/{person}")
