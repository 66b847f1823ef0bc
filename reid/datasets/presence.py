"""Which images are not there: asked of the disk before hours of work, not met in the middle of them. No image is opened here.

Shapes: T tracklets, F frame names.
"""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from reid.datasets import frames, regions
from reid.errors import DataError, counted
from reid.tracklets import Split

_AT_ONCE = 1024  # files that a thread asks for in one go
_THREADS = 16  # a disk on the network answers many at a time


def missing(split: Split) -> np.ndarray:
    """(F,) bool: the frames of the split's tracklets that have neither a file nor a place in a pack."""
    wanted, root = split.frames(), os.path.join(split.root, "")
    paths = [regions.file_of(root + os.fsdecode(name)) for name in split.names[wanted].tolist()]
    parts = [paths[i : i + _AT_ONCE] for i in range(0, len(paths), _AT_ONCE)]
    with ThreadPoolExecutor(_THREADS) as pool:
        absent = [there for part in pool.map(_absent, parts) for there in part]
    missing_F = np.zeros(len(split.names), bool)
    # Packs are asked one after another: they keep what they have found.
    missing_F[wanted] = [gone and not frames.is_packed(path) for gone, path in zip(absent, paths, strict=True)]
    return missing_F


def _absent(paths: list[str]) -> list[bool]:
    return [not os.path.exists(path) for path in paths]


def without_any(split: Split, chosen_F: np.ndarray) -> np.ndarray:
    """(T,) bool: the tracklets all of whose frames are chosen, (F,) bool."""
    before = np.append(0, np.cumsum(chosen_F))
    return before[split.stop] - before[split.start] == split.lengths


def require_images(split: Split, missing_F: np.ndarray, policy: str, advice: str) -> None:
    """Refuses tracklets that cannot be embedded: by the policy `error` those that lack an image, by `skip` those that lack all.

    Args:
        split: T tracklets.
        missing_F: as `missing` tells.
        policy: `data.damaged`.
        advice: what else helps against a tracklet without any image.

    Raises:
        DataError: naming the first tracklet and file, and how many there are.
    """
    if policy == "error":
        require_all(split, missing_F)
    empty = np.flatnonzero(without_any(split, missing_F))
    if len(empty):
        first = int(empty[0])
        more = f" (and {counted(len(empty) - 1, 'more tracklet')} like it)" if len(empty) > 1 else ""
        raise DataError(
            f"{split.path(split.start[first])}: no such image, nor any other of the {split.lengths[first]} of tracklet "
            f"{split.key(first)}{more}; restore them, or {advice}"
        )


def require_all(split: Split, missing_F: np.ndarray) -> None:
    """Refuses a split of which an image is not there.

    Raises:
        DataError: naming the first file and its tracklet, and how many there are.
    """
    wanted = split.frames()
    gone = np.flatnonzero(missing_F[wanted])
    if len(gone):
        row = int(np.searchsorted(np.cumsum(split.lengths), gone[0], side="right"))
        raise DataError(
            f"{split.path(wanted[gone[0]])}: cannot read this image: no such file (of tracklet {split.key(row)}); "
            f"{len(gone):,} of {counted(len(wanted), 'image')} are not there; restore them, or data.damaged=skip leaves them out"
        )


def in_words(split: Split, missing_F: np.ndarray) -> str:
    """How many images, and whole tracklets, of a split to train on are not there; empty where all are."""
    gone = int(missing_F[split.frames()].sum())
    if not gone:
        return ""
    empty = np.flatnonzero(without_any(split, missing_F))
    whole = (
        f", all those of {counted(len(empty), 'tracklet')}, such as {split.key(int(empty[0]))}" if len(empty) else ""
    )
    return f"{gone:,} of {counted(split.num_frames, 'image')} to train on are not there and are left out{whole}"


def persons_without(split: Split, without_T: np.ndarray) -> list[int]:
    """The pids all of whose tracklets are chosen, (T,) bool, in rising order."""
    return np.setdiff1d(split.pid[without_T], split.pid[~without_T]).tolist()
