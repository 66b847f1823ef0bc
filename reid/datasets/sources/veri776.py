"""VeRi-776, vehicles: ``image_train/``, ``image_query/``, ``image_test/`` of images named ``0001_c001_00016450_0.jpg``.

The query images are in the gallery as well; the evaluation protocol excludes a vehicle's images from the query's own camera.
"""

from __future__ import annotations

import re
from pathlib import Path

from reid.datasets.sources.base import Options, Published, Rows, has_folders, require_folder, rows_of
from reid.datasets.sources.published import image_benchmark, named, parse_folder
from reid.tracklets import Benchmark

PUBLISHED = Published(
    576, 37_778, 1_678, 11_579, "name_train.txt, name_query.txt, name_test.txt of the archive (Liu et al., ECCV 2016)"
)
SHAPE = "image_train/, image_query/, image_test/"
_EXAMPLE = "0001_c001_00016450_0.jpg"
_NAME = re.compile(r"(\d+)_c(\d{3})_")
_PARTS = ("image_train", "image_query", "image_test")


def load_veri776(folder: Path) -> Benchmark:
    """Load the index.

    Raises:
        DataError: a folder is missing or empty, or an image has another name.
    """
    for part in _PARTS:
        require_folder(folder / part, f"VeRi-776 has {SHAPE}")
    train, query, gallery = (parse_folder(folder, part, _NAME, _EXAMPLE) for part in _PARTS)
    return named(image_benchmark("veri776", folder, train, query, gallery), PUBLISHED)


def recognise(source: Path) -> str | None:
    """Return why the source is this dataset, or None."""
    return f"the folders {SHAPE}" if has_folders(source, *_PARTS) else None


def read(source: Path, options: Options) -> Rows:
    """Read the dataset as rows."""
    return rows_of(load_veri776(source), PUBLISHED)
