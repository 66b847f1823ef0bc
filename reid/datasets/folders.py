"""Load a folder of tracklet folders, and detect which kind of source a path is. No image is opened here.

Unknown persons have pid 0 (-1 would be junk) and unknown cameras camid -1.

Shapes: T tracklets.
"""

from __future__ import annotations

import os
from itertools import chain
from pathlib import Path
from typing import Literal

import numpy as np

from reid.datasets.images import IMAGE_SUFFIXES, entries, images_in, is_image
from reid.datasets.layouts import Mixture, mixture
from reid.datasets.manifest import UNKNOWN_CAMID, UNKNOWN_PID
from reid.datasets.table import SUFFIXES
from reid.errors import DataError, counted
from reid.files import holds_json_list
from reid.tracklets import Split

_MARKET = ("bounding_box_train", "bounding_box_test", "query", "gt_bbox")  # folders of Market-1501


def detect_kind(path: Path) -> Literal["mars", "folders", "manifest"]:
    """Detect which loader reads a path: a MARS layout, a folder of tracklet folders, or a table of tracklets.

    Raises:
        DataError: the path is none of them.
    """
    path = Path(path)
    if path.is_dir():
        inside = (path / f"bbox_{part}{packed}" for part in ("train", "test") for packed in ("", ".pack"))
        return "mars" if any(folder.is_dir() for folder in inside) else "folders"
    if path.is_file() and path.suffix.lower() in SUFFIXES:
        return "manifest"
    got = f"a file {path.name}" if path.exists() else "nothing there"
    hint = f"; {_import(path, 'jsonl' if holds_json_list(path) else 'auto')}, if it can" if path.is_file() else ""
    raise DataError(
        f"{path}: expected a MARS layout, a folder of tracklet folders or a table ({', '.join(SUFFIXES)}), got {got}{hint}"
    )


def load_folders(root: Path) -> Split:
    """Load a folder in which every subfolder is one tracklet, its images sorted by name.

    Args:
        root: the folder; hidden and system files (`reid.datasets.images`) and files that are not images are ignored.

    Returns:
        (T,) tracklets sorted by folder name, which is their key; pid 0, camid -1.

    Raises:
        DataError: no tracklet folder, one without images, images directly in `root`, or image names that show that a folder holds
            several persons, cameras or tracklets.
    """
    root = Path(root)
    if not root.is_dir():
        raise DataError(
            f"{root}: expected a folder of tracklet folders, got {'a file' if root.exists() else 'nothing'}"
        )
    names = entries(root)
    if loose := [name for name in names if is_image(name) and not (root / name).is_dir()]:
        how = _import(root.parent, "market1501") if root.name in _MARKET else _import(root, "flat")
        raise DataError(
            f"{root}: expected one folder per tracklet, got images such as {loose[0]} directly in it; {how}"
        )
    images = {name: images_in(root / name) for name in names if (root / name).is_dir()}
    if not images:
        raise DataError(f"{root}: expected one folder per tracklet, got none")
    for folder, inside in images.items():
        if not inside:
            raise DataError(_without_images(root, folder))
        if found := mixture(inside):
            raise DataError(_not_one_tracklet(root, folder, found))
    stop = np.cumsum([len(inside) for inside in images.values()])
    files = chain.from_iterable([f"{folder}/{name}" for name in inside] for folder, inside in images.items())
    return Split(
        root,
        names=np.array([os.fsencode(file) for file in files]),
        start=np.append(0, stop[:-1]),
        stop=stop,
        pid=np.full(len(images), UNKNOWN_PID),
        camid=np.full(len(images), UNKNOWN_CAMID),
        keys=np.array(list(images)),
    )


def _import(folder: Path, kind: str) -> str:
    return f"robust-reid import {folder} --as {kind} --out tracks.csv makes a table of it"


def _without_images(root: Path, folder: str) -> str:
    place = root / folder
    deeper = [name for name in entries(place) if (place / name).is_dir() and images_in(place / name)]
    if not deeper:
        return f"{place}: expected the images of one tracklet ({', '.join(IMAGE_SUFFIXES)}), got none"
    found = mixture(images_in(place / deeper[0]))
    how = _import(root, found.layout if found else "folders")
    return f"{place}: expected the images of one tracklet, got folders of images such as {deeper[0]}; {how}"


def _not_one_tracklet(root: Path, folder: str, found: Mixture) -> str:
    # The folders of persons are one level below the dataset's folder; bounding_box_train and the like are directly in it.
    dataset = root if found.layout == "market1501" else root.parent
    counts = ((found.persons, "person"), (found.cameras, "camera"), (found.tracklets, "tracklet"))
    shown = ", ".join(counted(count, what) for count, what in counts)
    return (
        f"{root / folder}: expected the images of one tracklet; by their names ({found.layout}) they show {shown}; "
        f"{_import(dataset, found.layout)}"
    )
