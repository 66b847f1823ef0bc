"""Market-1501: ``bounding_box_train/``, ``bounding_box_test/``, ``query/`` of images named ``0002_c1s1_000451_03.jpg``.

The test folder holds junk (pid −1) and distractors (``0000``), which stay in the gallery: the evaluation protocol handles both.
"""

from __future__ import annotations

import re
from pathlib import Path

from reid.datasets.sources.base import Options, Published, Rows, has_folders, images_of, require_folder, rows_of
from reid.datasets.sources.published import image_benchmark, named, parse_folder
from reid.errors import DataError
from reid.tracklets import Benchmark

PUBLISHED = Published(
    751, 12_936, 3_368, 19_732, "Zheng et al., ICCV 2015, and the archive's readme.txt (15,913 + 3,819 junk)"
)
SHAPE = "bounding_box_train/, bounding_box_test/, query/"
_EXAMPLE = "0002_c1s1_000451_03.jpg"
_NAME = re.compile(r"(-1|\d+)_c(\d+)s\d+_\d+_\d+")
_DUKE = re.compile(r"\d+_c\d+_f\d+")
DUKE_WITHDRAWN = (
    "DukeMTMC was withdrawn by its authors in 2019, because the people in it had not agreed to be recorded; "
    "it is not supported; use market1501, msmt17 or your own data"
)
_PARTS = ("bounding_box_train", "query", "bounding_box_test")
_INNER = "Market-1501-v15.09.15"


def load_market1501(folder: Path) -> Benchmark:
    """Load the index; the folder may contain the archive's own folder ``Market-1501-v15.09.15``.

    Raises:
        DataError: a folder is missing or empty, or an image has another name.
    """
    root = _root(folder)
    for part in _PARTS:
        require_folder(root / part, f"Market-1501 has {SHAPE}")
    train, query, gallery = (parse_folder(root, part, _NAME, _EXAMPLE) for part in _PARTS)
    return named(image_benchmark("market1501", root, train, query, gallery), PUBLISHED)


def recognise(source: Path) -> str | None:
    """Return why the source is this dataset, or None.

    Raises:
        DataError: it is DukeMTMC-reID, which has the same folders and was withdrawn.
    """
    root = _root(source)
    if not has_folders(root, *_PARTS):
        return None
    first = next(iter(images_of(root / _PARTS[0])), "")
    if _DUKE.match(first):
        raise DataError(f"{source}: names such as {first} are DukeMTMC-reID's; {DUKE_WITHDRAWN}")
    return f"{SHAPE} and names such as {first}" if _NAME.match(first) else None


def read(source: Path, options: Options) -> Rows:
    """Read the dataset as rows."""
    return rows_of(load_market1501(source), PUBLISHED)


def _root(folder: Path) -> Path:
    return folder / _INNER if (folder / _INNER).is_dir() else folder


def is_duke(name: str) -> bool:
    """Whether the name is that of a dataset of the DukeMTMC family."""
    return name.lower().replace("-", "").startswith("duke")
