"""Find missing images before hours of work instead of in the middle of them. No image is opened here.

Shapes: T tracklets, F frame names.
"""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from reid.datasets import frames, regions, videos
from reid.errors import DataError, counted
from reid.tracklets import Split

_AT_ONCE = 1024  # files per task of a thread
_THREADS = 16  # a network disk answers many requests in parallel


def missing(split: Split) -> np.ndarray:
    """(F,) bool: the frames of the split's tracklets that are neither files nor in a pack, or lie behind the end of their video."""
    wanted, root = split.frames(), os.path.join(split.root, "")
    names = [root + os.fsdecode(name) for name in split.names[wanted].tolist()]
    paths = [regions.file_of(name) for name in names]
    parts = [paths[i : i + _AT_ONCE] for i in range(0, len(paths), _AT_ONCE)]
    with ThreadPoolExecutor(_THREADS) as pool:
        absent = [there for part in pool.map(_absent, parts) for there in part]
    missing_F = np.zeros(len(split.names), bool)
    # Packs are searched in this thread: the lookup fills a cache.
    missing_F[wanted] = [gone and not frames.is_packed(path) for gone, path in zip(absent, paths, strict=True)]
    missing_F[wanted] |= _behind_the_end(names)
    return missing_F


def _behind_the_end(names: list[str]) -> np.ndarray:
    """(n,) bool: frames that their video does not have; of a video that cannot be read, none, as reading it tells why."""
    lengths: dict[str, int | None] = {}
    behind = np.zeros(len(names), bool)
    for i, name in enumerate(names):
        file, region = regions.split(name)
        if region is None or region.frame is None:
            continue
        if file not in lengths:
            try:
                lengths[file] = videos.count(file)
            except DataError:
                lengths[file] = None
        length = lengths[file]
        behind[i] = length is not None and region.frame >= length
    return behind


def _absent(paths: list[str]) -> list[bool]:
    return [not os.path.exists(path) for path in paths]


def without_any(split: Split, chosen_F: np.ndarray) -> np.ndarray:
    """(T,) bool: the tracklets whose frames are all chosen by `chosen_F`, (F,) bool."""
    before = np.append(0, np.cumsum(chosen_F))
    return before[split.stop] - before[split.start] == split.lengths


def require_images(split: Split, missing_F: np.ndarray, policy: str, advice: str) -> None:
    """Refuse tracklets that cannot be embedded: with policy `error` those that lack an image, with `skip` those that lack all images.

    Args:
        split: T tracklets.
        missing_F: (F,) bool, from `missing`.
        policy: `data.damaged`.
        advice: alternative to restoring the images of a tracklet without any, for the error message.

    Raises:
        DataError: names the first tracklet and file, and how many there are.
    """
    if policy == "error":
        require_all(split, missing_F)
    empty = np.flatnonzero(without_any(split, missing_F))
    if len(empty):
        first = int(empty[0])
        more = f" (and {counted(len(empty) - 1, 'more tracklet')} like it)" if len(empty) > 1 else ""
        raise DataError(
            f"{split.path(split.start[first])}: no such image, nor any other of the {split.lengths[first]} images of tracklet "
            f"{split.key(first)}{more}; restore them, or {advice}"
        )


def require_all(split: Split, missing_F: np.ndarray) -> None:
    """Refuse a split with a missing image.

    Raises:
        DataError: names the first file and its tracklet, and how many there are.
    """
    wanted = split.frames()
    gone = np.flatnonzero(missing_F[wanted])
    if len(gone):
        row = int(np.searchsorted(np.cumsum(split.lengths), gone[0], side="right"))
        path = split.path(wanted[gone[0]])
        what = "frame" if os.path.exists(regions.file_of(str(path))) else "file"
        raise DataError(
            f"{path}: cannot read this image: no such {what} (of tracklet {split.key(row)}); "
            f"{len(gone):,} of {counted(len(wanted), 'image')} are missing; restore them, or use data.damaged=skip to leave them out"
        )


def in_words(split: Split, missing_F: np.ndarray) -> str:
    """Describe how many images, and whole tracklets, of a training split are missing; empty if none."""
    gone = int(missing_F[split.frames()].sum())
    if not gone:
        return ""
    empty = np.flatnonzero(without_any(split, missing_F))
    whole = (
        f", all those of {counted(len(empty), 'tracklet')}, such as {split.key(int(empty[0]))}" if len(empty) else ""
    )
    return f"{gone:,} of {counted(split.num_frames, 'image')} to train on are missing and are left out{whole}"


def persons_without(split: Split, without_T: np.ndarray) -> list[int]:
    """The pids whose tracklets are all chosen by `without_T`, (T,) bool, in ascending order."""
    return np.setdiff1d(split.pid[without_T], split.pid[~without_T]).tolist()
