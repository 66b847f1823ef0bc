"""PRID2011: ``prid_2011/multi_shot/cam_a/person_0001/*.png``, and ten splits of its 178 usual persons in ``splits_prid2011.json``.

These have more than 20 frames in both cameras.
"""

from __future__ import annotations

import json
from pathlib import Path

from reid.datasets.sources.base import Options, Published, Rows, require_file, require_folder, rows_of
from reid.datasets.sources.published import named
from reid.datasets.sources.two_cameras import NUM_SPLITS, check_split, two_camera_benchmark
from reid.errors import DataError
from reid.tracklets import Benchmark

PUBLISHED = Published(89, 178, 89, 89, "the usual 178 of 200 persons, with more than 20 frames in both cameras, halved")
SHAPE = "prid_2011/multi_shot/{cam_a,cam_b}/person_NNNN/*.png and splits_prid2011.json"
_CAMERAS = ("cam_a", "cam_b")


def load_prid2011(folder: Path, split: int = 0) -> Benchmark:
    """Load the index under one of the ten splits.

    Raises:
        ConfigError: there is no such split.
        DataError: a folder or the splits file is missing, or they do not fit each other.
    """
    check_split("prid2011", split)
    root = folder / "prid_2011" / "multi_shot"
    for camera in _CAMERAS:
        require_folder(root / camera, f"PRID2011 has {SHAPE}")
    file = require_file(folder / "splits_prid2011.json", f"PRID2011 has {SHAPE}")
    try:
        content = json.loads(file.read_bytes())
        train, test = ([str(person) for person in content[split][part]] for part in ("train", "test"))
    except (ValueError, LookupError, TypeError) as error:
        expected = f'a list of {NUM_SPLITS} objects {{"train": […], "test": […]}}'
        raise DataError(f"{file}: expected {expected} that name folders such as person_0001 ({error})") from None
    return named(two_camera_benchmark("prid2011", root, _CAMERAS, train, test), PUBLISHED)


def recognise(source: Path) -> str | None:
    """Return why the source is this dataset, or None."""
    return "the folder prid_2011/multi_shot" if (source / "prid_2011" / "multi_shot").is_dir() else None


def read(source: Path, options: Options) -> Rows:
    """Read the dataset as rows, under the split in the options."""
    return rows_of(load_prid2011(source, options.split), PUBLISHED)
