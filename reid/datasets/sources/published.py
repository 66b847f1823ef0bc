"""Published datasets as Benchmarks: a check of their counts, and images as tracklets of length 1.

Shapes: I images of a part, Q queries.
"""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np

from reid.datasets.images import images_in
from reid.datasets.sources.base import Published
from reid.errors import DataError
from reid.tracklets import Benchmark, Split

logger = logging.getLogger(__name__)


class Images(NamedTuple):
    """Images of one part of a dataset, as columns of length I: path below the root, person, camera."""

    names: list[str]
    pid: list[int]
    camid: list[int]


class Track(NamedTuple):
    """One tracklet: its frames' paths below the root in order, person, camera, and key."""

    names: list[str]
    pid: int
    camid: int
    key: str


def counts(benchmark: Benchmark) -> tuple[int, int, int, int]:
    """Count training persons, and training, query and gallery tracklets, for comparison with `Published`."""
    train = benchmark.train
    return len(np.unique(train.pid[train.pid > 0])), len(train), len(benchmark.query), len(benchmark.gallery)


def named(benchmark: Benchmark, published: Published) -> Benchmark:
    """Rename a dataset to a subset if its counts differ from the published ones, so that results are not mistaken for the whole's."""
    found = counts(benchmark)
    if found == published[:4]:
        return benchmark
    logger.info("not all of %s: %s; published: %s", benchmark.name, in_words(found), in_words(published[:4]))
    return replace(benchmark, name=f"{benchmark.name}-subset")


def in_words(figures: tuple[int, int, int, int]) -> str:
    """Describe the four counts."""
    return "{:,} training ids, {:,} training tracklets, {:,} queries, {:,} in the gallery".format(*figures)


def parse_folder(root: Path, folder: str, pattern: re.Pattern[str], example: str) -> Images:
    """List the images of a folder, with person and camera from their names.

    Args:
        root: names are relative to it.
        folder: below the root.
        pattern: matched at the start of a name; its groups 1 and 2 are the person and the camera, whole numbers.
        example: a valid name, for error messages.

    Raises:
        DataError: an image has another name, or there is none.
    """
    names = images_in(root / folder)
    if not names:
        raise DataError(f"{root / folder}: expected images such as {example}, got none")
    matches = [pattern.match(name) for name in names]
    wrong = [name for name, match in zip(names, matches, strict=True) if match is None]
    if wrong:
        more = f" ({len(wrong) - 1} more like it)" if len(wrong) > 1 else ""
        raise DataError(f"{root / folder}: expected names such as {example}, got {wrong[0]}{more}")
    found = [match for match in matches if match is not None]
    pid, camid = [int(match[1]) for match in found], [int(match[2]) for match in found]
    return Images([f"{folder}/{name}" for name in names], pid, camid)


def image_benchmark(name: str, root: Path, train: Images, query: Images, gallery: Images) -> Benchmark:
    """Build a dataset of single images, each a tracklet of length 1 whose key is its path without the suffix.

    Args:
        name: of the dataset.
        root: the images' names are relative to it.
        train: training images; junk is removed.
        query: query images; they precede the gallery in the test split and are not in the gallery.
        gallery: images that are searched, junk (pid −1) and distractors (pid 0) included.
    """
    kept = [i for i, pid in enumerate(train.pid) if pid >= 0]
    train = Images(*([column[i] for i in kept] for column in train))  # type: ignore[arg-type]  # columns keep their types
    test = Images(query.names + gallery.names, query.pid + gallery.pid, query.camid + gallery.camid)
    rows = np.arange(len(test.names))
    num = len(query.names)
    return Benchmark(name, _split(root, train), _split(root, test), query=rows[:num], gallery=rows[num:])


def track_benchmark(
    name: str, root: Path, train: Sequence[Track], test: Sequence[Track], query: np.ndarray, gallery: np.ndarray
) -> Benchmark:
    """Build a dataset of tracklets; `query` (Q,) and `gallery` (G,) are row numbers of `test`."""
    return Benchmark(name, track_split(root, train), track_split(root, test), query, gallery)


def track_split(root: Path, tracks: Sequence[Track]) -> Split:
    """Convert tracklets to columns, in their order."""
    stop = np.cumsum([len(track.names) for track in tracks], dtype=np.int64)
    names = np.array([os.fsencode(name) for track in tracks for name in track.names], "S")
    start = np.append(np.int64(0), stop[:-1]) if len(stop) else stop
    pid, camid = (_integers([getattr(track, column) for track in tracks]) for column in ("pid", "camid"))
    return Split(root, names, start, stop, pid, camid, keys=np.array([track.key for track in tracks], "U"))


def _split(root: Path, images: Images) -> Split:
    start = np.arange(len(images.names))
    keys = [os.path.splitext(name)[0] for name in images.names]
    columns = {"start": start, "stop": start + 1, "pid": _integers(images.pid), "camid": _integers(images.camid)}
    return Split(root, np.array([os.fsencode(name) for name in images.names], "S"), **columns, keys=np.array(keys, "U"))


def _integers(values: Sequence[int]) -> np.ndarray:
    try:
        return np.asarray(values, dtype=np.int64)
    except OverflowError:
        raise DataError(f"expected persons and cameras below 2^63, got {max(values, key=abs):g}") from None
