"""CUHK03 under its new protocol (767 training and 700 test persons): image files, and the published split in a MATLAB file.

``images_detected/`` or ``images_labeled/`` hold ``1_001_1_01.png`` (camera pair, person, view, image), as toolkits, and
`robust-reid import`, unpack them from ``cuhk-03.mat``. ``cuhk03_new_protocol_config_detected.mat`` or ``…_labeled.mat`` lists them
(``filelist``), their persons (``labels``) and the rows of each part, counted from 1 (``train_idx``, ``query_idx``, ``gallery_idx``).
Copies called CUHK03-NP, in the layout of Market-1501 (``detected/bounding_box_train/0001_c1_1.png``), are accepted too.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import numpy as np

from reid.datasets import matlab
from reid.datasets.sources import cuhk03_matlab
from reid.datasets.sources.base import Options, Published, Rows, has_folders, require_file, require_folder, rows_of
from reid.datasets.sources.published import Images, image_benchmark, named, parse_folder
from reid.errors import DataError, counted
from reid.tracklets import Benchmark

Boxes = Literal["detected", "labeled"]
BOXES: tuple[Boxes, ...] = ("detected", "labeled")

_SOURCE = "Zhong et al., CVPR 2017, and its configuration files"
PUBLISHED = Published(767, 7_365, 1_400, 5_332, _SOURCE)
PUBLISHED_LABELED = Published(767, 7_368, 1_400, 5_328, _SOURCE)
SHAPE = "images_detected/ and cuhk03_new_protocol_config_detected.mat (or …_labeled), or detected/bounding_box_train/ …"
_NAME = re.compile(r"\d+_\d+_(\d)_\d+\.png")
_FLAT_NAME = re.compile(r"(\d+)_c(\d+)_")
_FLAT_PARTS = ("bounding_box_train", "query", "bounding_box_test")


def load_cuhk03(folder: Path, boxes: Boxes = "detected") -> Benchmark:
    """Load the index.

    Args:
        folder: of the dataset.
        boxes: by a detector, or drawn by hand.

    Raises:
        DataError: a folder, the split or an image is missing, or the split has another form.
    """
    name = "cuhk03" if boxes == "detected" else "cuhk03-labeled"
    published = PUBLISHED if boxes == "detected" else PUBLISHED_LABELED
    if has_folders(folder / boxes, *_FLAT_PARTS):
        parts = [parse_folder(folder, f"{boxes}/{part}", _FLAT_NAME, "0001_c1_1.png") for part in _FLAT_PARTS]
    else:
        images = folder / f"images_{boxes}"
        if not images.is_dir() and (packed := cuhk03_matlab.find(folder)):
            raise DataError(
                f"{images}: is missing; robust-reid import {folder} --out cuhk03.csv unpacks it from {packed.name}"
            )
        require_folder(images, f"CUHK03 has {SHAPE}")
        split = folder / _split_file(boxes)
        parts = _parse_split(require_file(split, f"CUHK03 has {SHAPE}"), images)
    return named(image_benchmark(name, folder, *parts), published)


def recognise(source: Path) -> str | None:
    """Return why the source is this dataset, or None."""
    for boxes in BOXES:
        if (source / _split_file(boxes)).is_file():
            return _split_file(boxes)
        if has_folders(source / boxes, *_FLAT_PARTS):
            return f"{boxes}/bounding_box_train"
    return "cuhk-03.mat" if cuhk03_matlab.find(source) else None


def read(source: Path, options: Options) -> Rows:
    """Read the dataset as rows, with the detector's boxes if available."""
    said = list(_unpacked(source)) if options.unpack else []
    there = [boxes for boxes in BOXES if (source / f"images_{boxes}").is_dir() or (source / boxes).is_dir()]
    boxes: Boxes = next(
        iter(there or [boxes for boxes in BOXES if (source / _split_file(boxes)).is_file()]), "detected"
    )
    rows = rows_of(load_cuhk03(source, boxes), PUBLISHED if boxes == "detected" else PUBLISHED_LABELED)
    rows.said += said
    rows.said.append(f"boxes: {'detected' if boxes == 'detected' else 'labeled by hand'}")
    return rows


def _unpacked(folder: Path) -> Iterator[str]:
    """Unpack the images of each existing split file unless they exist; yields messages for the user."""
    if (packed := cuhk03_matlab.find(folder)) is None:
        return
    named = [boxes for boxes in BOXES if (folder / _split_file(boxes)).is_file()]
    if not named:
        require_file(folder / _split_file("detected"), f"CUHK03 has {SHAPE}")
    for boxes in named:
        images = folder / f"images_{boxes}"
        if not images.is_dir():
            yield f"{counted(cuhk03_matlab.unpack(packed, boxes, images), 'image')} unpacked from {packed.name} to {images}"


def _split_file(boxes: str) -> str:
    return f"cuhk03_new_protocol_config_{boxes}.mat"


def _parse_split(file: Path, images: Path) -> list[Images]:
    content = _load(file)
    names = [str(np.asarray(cell).item()) for cell in content["filelist"].ravel()]
    labels = content["labels"].ravel().astype(np.int64)
    if len(labels) != len(names):
        raise DataError(f"{file}: expected one label for each of {len(names)} files, got {len(labels)}")
    parts = []
    for key in ("train_idx", "query_idx", "gallery_idx"):
        rows = content[key].ravel().astype(np.int64) - 1
        if not len(rows) or rows.min() < 0 or rows.max() >= len(names):
            raise DataError(f"{file}: expected {key} to hold rows 1 to {len(names)} of filelist, got others")
        part = Images([], [], [])
        for row in rows.tolist():
            match = _NAME.fullmatch(names[row])
            if match is None:
                raise DataError(f"{file}: filelist: expected names such as 1_001_1_01.png, got {names[row]}")
            part.names.append(f"{images.name}/{names[row]}")
            part.pid.append(int(labels[row]))
            part.camid.append(int(match[1]))
        parts.append(part)
    missing = next((name for part in parts for name in part.names if not (images.parent / name).is_file()), None)
    if missing:
        raise DataError(f"{images.parent / missing}: {file.name} names this image, but it is missing")
    return parts


def _load(file: Path) -> dict[str, Any]:
    content = matlab.read(file)
    wanted = ("filelist", "labels", "train_idx", "query_idx", "gallery_idx")
    if lacking := [key for key in wanted if content.get(key) is None]:
        raise DataError(f"{file}: expected variables {', '.join(wanted)}, {lacking[0]} is missing")
    return content
