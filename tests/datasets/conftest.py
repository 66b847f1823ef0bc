"""A folder of small files, packed, and put away; names of frames by the rule of MARS."""

import os
from pathlib import Path

import numpy as np
import pytest

from reid.datasets import packing
from reid.datasets.pack import Pack

PERSONS = ["00-1", "0000", "0001", "00010", "0002", "00020"]  # some begin as others do

SHARD_BYTES = 4000


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A folder of files with all sorts of sizes, none and one byte among them."""
    rng = np.random.default_rng(0)
    root = tmp_path / "data" / "bbox_train"
    for person in PERSONS:
        (root / person).mkdir(parents=True)
        for frame, size in enumerate([0, 1, *rng.integers(2, 700, 6)]):
            (root / person / f"{person}C1T0001F{frame:03d}.jpg").write_bytes(rng.bytes(size))
    return root


def names_of(root: Path) -> list[bytes]:
    return sorted(os.fsencode(file.relative_to(root)) for file in root.rglob("*.jpg"))


def pack(root: Path, *, shard_bytes: float = SHARD_BYTES, keep: bool = False) -> Path:
    folder = root.with_name(root.name + ".pack")
    packing.write(root, names_of(root), folder, shard_bytes=shard_bytes, keep=keep)
    return folder


def content(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def hidden(root: Path) -> dict[str, bytes]:
    """The content of a folder, which is away afterwards."""
    held = content(root)
    root.rename(root.with_name("away"))
    return held


def flip(file: Path, position: int) -> None:
    data = bytearray(file.read_bytes())
    data[position] ^= 16
    file.write_bytes(data)


def frames_of(folder: Path) -> dict[str, bytes]:
    held = Pack(folder)
    return {os.fsdecode(name): held.read(row) for row, name in enumerate(held.names)}


def frame_names(rows: list[tuple[int, int, int]], suffix: str = ".jpg") -> list[str]:
    """Names by the dataset's rule: tracklets count on within a person, frames within a tracklet."""
    names: list[str] = []
    tracklets: dict[int, int] = {}
    for pid, camera, frames in rows:
        tracklets[pid] = tracklets.get(pid, 0) + 1
        person = "00-1" if pid < 0 else f"{pid:04d}"
        names += [f"{person}C{camera}T{tracklets[pid]:04d}F{k + 1:03d}{suffix}" for k in range(frames)]
    return names
