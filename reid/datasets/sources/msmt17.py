"""MSMT17, V1 and V2: lists of ``0000/0000_000_01_0303morning_0015_0.jpg 0`` (path, person), the camera third in the name.

V1 has the folders ``train`` and ``test``, V2 (faces blurred) ``mask_train_v2`` and ``mask_test_v2``. Copies in the layout of Market-1501
(``bounding_box_train`` …, names ``0000_c1_0002.jpg``) are accepted too. The lists number persons from 0 in the training set and again
from 0 in the test set; here training persons are numbered from 1, and test persons after them.
"""

from __future__ import annotations

import re
from pathlib import Path

from reid.datasets.sources.base import Options, Published, Rows, has_folders, images_of, require_file, rows_of
from reid.datasets.sources.published import Images, image_benchmark, named, parse_folder
from reid.errors import DataError
from reid.files import text_of
from reid.tracklets import Benchmark

# 30,248 training and 2,373 validation images are one training set of 1,041 persons.
PUBLISHED = Published(1_041, 32_621, 11_659, 82_161, "Wei et al., CVPR 2018, Table 1, and the lists of the archive")
SHAPE = "list_train.txt, list_val.txt, list_query.txt, list_gallery.txt next to train/, test/ (or mask_train_v2/, mask_test_v2/)"
_FOLDERS = (("train", "test"), ("mask_train_v2", "mask_test_v2"))
_INNER = ("MSMT17_V1", "MSMT17_V2")
_EXAMPLE = "0000/0000_000_01_0303morning_0015_0.jpg 0"
_LINE = re.compile(r"((?:[^/\s]+/)*[^/\s_]+_[^/\s_]+_(\d{1,18})_\S+)\s+(\d{1,18})")
_FLAT_PARTS = ("bounding_box_train", "query", "bounding_box_test")
_FLAT_NAME = re.compile(r"(\d+)_c(\d+)_")


def load_msmt17(folder: Path) -> Benchmark:
    """Load the lists; validation images belong to the training set, as in the published counts.

    Raises:
        DataError: a list or folder is missing, or a line of a list has another form.
    """
    root = _root(folder)
    if _is_flat(root):
        train, query, gallery = (parse_folder(root, part, _FLAT_NAME, "0000_c1_0002.jpg") for part in _FLAT_PARTS)
    else:
        train_folder, test_folder = _image_folders(root)
        parts = [_parse_list(root, train_folder, f"list_{part}.txt") for part in ("train", "val")]
        train = _joined(*parts)
        query, gallery = (_parse_list(root, test_folder, f"list_{part}.txt") for part in ("query", "gallery"))
    persons = max(train.pid) + 1
    test = [part._replace(pid=[pid + persons + 1 for pid in part.pid]) for part in (query, gallery)]
    counted = train._replace(pid=[pid + 1 for pid in train.pid])
    return named(image_benchmark("msmt17", root, counted, *test), PUBLISHED)


def recognise(source: Path) -> str | None:
    """Return why the source is this dataset, or None."""
    root = _root(source)
    if (root / "list_gallery.txt").is_file() and any(has_folders(root, *folders) for folders in _FOLDERS):
        return "list_train.txt … list_gallery.txt next to the image folders"
    named_so = "msmt" in root.resolve().name.lower() and _is_flat(root)
    return "bounding_box_train/, query/, bounding_box_test/ in a folder called MSMT17" if named_so else None


def read(source: Path, options: Options) -> Rows:
    """Read the dataset as rows."""
    return rows_of(load_msmt17(source), PUBLISHED)


def _joined(first: Images, second: Images) -> Images:
    return Images(first.names + second.names, first.pid + second.pid, first.camid + second.camid)


def _root(folder: Path) -> Path:
    return next((folder / inner for inner in _INNER if (folder / inner).is_dir()), folder)


def _is_flat(root: Path) -> bool:
    if not has_folders(root, *_FLAT_PARTS) or (root / "list_train.txt").is_file():
        return False
    return _FLAT_NAME.match(next(iter(images_of(root / _FLAT_PARTS[0])), "")) is not None


def _image_folders(root: Path) -> tuple[str, str]:
    for folders in _FOLDERS:
        if has_folders(root, *folders):
            return folders
    raise DataError(f"{root}: expected train/ and test/, or mask_train_v2/ and mask_test_v2/; MSMT17 has {SHAPE}")


def _parse_list(root: Path, folder: str, name: str) -> Images:
    file = require_file(root / name, f"MSMT17 has {SHAPE}")
    images = Images([], [], [])
    for number, line in enumerate(text_of(file).splitlines(), start=1):
        if not line.strip():
            continue
        match = _LINE.fullmatch(line.strip())
        if match is None:
            raise DataError(f"{file}: line {number}: expected a line such as '{_EXAMPLE}', got '{line[:80]}'")
        images.names.append(f"{folder}/{match[1]}")
        images.pid.append(int(match[3]))
        images.camid.append(int(match[2]))
    if not images.names:
        raise DataError(f"{file}: expected lines such as '{_EXAMPLE}', got none")
    return images
