"""Pack: store the image folders of a dataset in MARS layout as a few large files each, and verify packs."""

from __future__ import annotations

import logging
import os
import shutil
from pathlib import Path
from typing import Literal

import numpy as np
from tqdm import tqdm

from reid.datasets import packing
from reid.datasets.mars import image_names
from reid.datasets.pack import SUFFIX
from reid.errors import DataError, counted
from reid.files import atomic

logger = logging.getLogger(__name__)

Mode = Literal["new", "resume", "overwrite"]
_PARTS = ("train", "test")


def run(dataset: Path, out: Path | None, shard_bytes: float, mode: Mode) -> None:
    """Packs ``bbox_train`` and ``bbox_test``; prints what was packed and what may be deleted. It deletes no source files.

    Args:
        dataset: a folder in MARS layout.
        out: folder for the packs and a copy of ``info``; by default the dataset folder.
        shard_bytes: bytes of images per file; 0 < shard_bytes <= 4e9.
        mode: for existing packs: `new` raises an error, `resume` verifies and continues, `overwrite` replaces.

    Raises:
        ConfigError: the shard size is out of range, or gives too many shards.
        DataError: a folder or image is missing, or a pack exists already or cannot be written.
    """
    target = out or dataset
    names = {part: _images(dataset, part) for part in _PARTS}
    packs = {part: target / f"bbox_{part}{SUFFIX}" for part in _PARTS}
    for folder in packs.values():
        state = packing.state(folder)
        if state != "none" and mode == "new":
            raise DataError(f"{folder}: {state} pack; --resume auto checks and continues it, --overwrite replaces it")
    if out and (dataset / "info").is_dir() and out.resolve() != dataset.resolve():
        _copy_info(dataset / "info", out / "info")
    for part, folder in packs.items():
        root = dataset / f"bbox_{part}"
        with tqdm(desc=f"{folder.name}: write and compare", total=2 * len(names[part]), unit=" images") as bar:
            packing.write(root, names[part], folder, shard_bytes=shard_bytes, keep=mode == "resume", tick=bar.update)
        _print_done(root, len(names[part]), folder)


def verify(folder: Path) -> None:
    """Verifies every byte of a pack, or of all packs of a dataset.

    Raises:
        DataError: there is no pack, or one is damaged; one line for each damaged shard.
    """
    packs = [folder] if folder.suffix == SUFFIX else sorted(folder.glob(f"*{SUFFIX}"))
    if not packs or not packs[0].is_dir():
        raise DataError(f"{folder}: expected a pack, or packs such as bbox_train{SUFFIX} in it, got none")
    problems: list[str] = []
    for pack in packs:
        try:
            with tqdm(desc=f"{pack.name}: check", unit=" images") as bar:
                checked = packing.verify(pack, bar.update)
            print(f"{pack}: {_size(checked.folder)}, {counted(len(checked), 'image')}, all intact")
        except DataError as error:
            problems += error.problems
    if problems:
        raise DataError(*problems)


def _images(dataset: Path, part: str) -> list[bytes]:
    root = dataset / f"bbox_{part}"
    if not root.is_dir():
        packed = root.with_name(root.name + SUFFIX).is_dir()
        hint = (
            f"it is packed already; --verify checks {root.name}{SUFFIX}"
            if packed
            else "see data/README.md for the layout"
        )
        raise DataError(f"{root}: expected a folder of images to pack, got none; {hint}")
    names = image_names(root)
    if not names:
        raise DataError(f"{root}: expected images in one folder per person, got none")
    _check_listed(dataset / "info" / f"{part}_name.txt", root, names)
    return names


def _check_listed(list_file: Path, root: Path, names: list[bytes]) -> None:
    """Checks that every image in a name list exists.

    Raises:
        DataError: an image is missing.
    """
    if not list_file.is_file():
        return
    listed = np.array(list_file.read_bytes().split() or [b""])
    missing = np.flatnonzero(~np.isin(listed, [name.rpartition(b"/")[2] for name in names]))
    if len(missing):
        first, more = os.fsdecode(listed[missing[0]]), f" ({len(missing) - 1} more like it)" if len(missing) > 1 else ""
        raise DataError(f"{list_file}: line {missing[0] + 1}: expected {first} in {root}, got no such file{more}")


def _copy_info(source: Path, target: Path) -> None:
    for file in sorted(source.iterdir()):
        if file.is_file():
            with atomic(target / file.name) as temporary:
                shutil.copyfile(file, temporary)


def _size(folder: Path) -> str:
    shards = [file.stat().st_size for file in folder.glob("*.zip")]
    return f"{sum(shards) / 1e6:,.1f} MB in {counted(len(shards), 'file')}"


def _print_done(root: Path, images: int, folder: Path) -> None:
    print(f"{folder}: {_size(folder)}, {counted(images, 'image')}, each equal to its file")
    others = sum(len(files) for _, _, files in os.walk(root)) - images
    other = counted(others, "file in it that is not an image", "files in it that are not images")
    kept = f", except for the {other}" if others else ""
    print(f"{root} can be deleted now{kept}; as long as it exists, it is read instead of the pack")
