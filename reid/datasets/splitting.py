"""Split persons into training, validation and test parts if a dataset does not; by identity, so that nobody is in two parts.

A draw is a pure function of the seed and a person's name: the order of a table does not matter, and adding or removing a person moves
few others.

Shapes: T tracklets, Q queries.
"""

from __future__ import annotations

import csv
import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from reid.errors import DataError
from reid.files import atomic
from reid.tracklets import Split

PARTS = ("train", "val", "test")
COLUMNS = ["pid", "split"]
FEWEST = 2  # identities per part: a single one cannot be confused with another
ENOUGH_FOR_VAL = 8  # identities; with fewer, each is worth more in training than in choosing a checkpoint


@dataclass(frozen=True)
class Draw:
    """How identities are divided.

    Args:
        test: share of them to test on, 0 <= test < 1.
        val: share of them to choose a checkpoint by.
        seed: of the draw; independent of the training seed, so that runs with different seeds are compared on one test set.
    """

    test: float = 0.3
    val: float = 0.1
    seed: int = 0


def draw_parts(persons: Sequence[str], matchable: Iterable[str], draw: Draw) -> dict[str, str]:
    """Draw a part for every person.

    Args:
        persons: names as written, no two equal.
        matchable: the persons whose queries have a match, the only ones drawn for val and test; the others are trained on.
        draw: the shares and the seed.

    Returns:
        person -> one of `PARTS`; val and test each hold at least `FEWEST` persons, or none.
    """
    able = sorted(set(matchable), key=lambda person: _digest(draw.seed, person))
    count = len(persons)
    num_test = max(FEWEST, round(draw.test * count)) if draw.test else 0
    num_test = min(num_test, len(able), count - FEWEST)
    num_test = num_test if num_test >= FEWEST else 0
    num_val = max(FEWEST, round(draw.val * count)) if draw.val and count >= ENOUGH_FOR_VAL else 0
    num_val = min(num_val, len(able) - num_test, count - num_test - FEWEST)
    num_val = num_val if num_val >= FEWEST else 0
    parts = dict.fromkeys(persons, "train")
    parts |= dict.fromkeys(able[:num_test], "test") | dict.fromkeys(able[num_test : num_test + num_val], "val")
    return parts


def can_match(split: Split, *, any_camera: bool) -> np.ndarray:
    """Determine which tracklets would have a match if each were a query and all of them the gallery.

    Args:
        split: T tracklets.
        any_camera: a match may be seen by the query's own camera.

    Returns:
        (T,) bool. An unknown camera counts as different from every camera.
    """
    _, pid = np.unique(split.pid, return_inverse=True)
    of_pid = np.bincount(pid)[pid]
    if not any_camera:
        _, place = np.unique(np.stack([split.pid, split.camid]), axis=1, return_inverse=True)
        own = np.bincount(place.ravel())[place.ravel()]
        of_pid = np.where(split.camid < 0, of_pid, of_pid - own + 1)
    return (split.pid > 0) & (of_pid > 1)


def draw_queries(test: Split, draw: Draw, *, any_camera: bool) -> np.ndarray:
    """Draw one query for every person and camera, as in MARS, among the tracklets that have a match.

    Args:
        test: T tracklets.
        draw: provides the seed.
        any_camera: a match may be seen by the query's own camera.

    Returns:
        (Q,) int64 row numbers in ascending order.
    """
    chosen: dict[tuple[int, int], tuple[bytes, int]] = {}
    for row in np.flatnonzero(can_match(test, any_camera=any_camera)).tolist():
        place = (int(test.pid[row]), int(test.camid[row]))
        candidate = (_digest(draw.seed, test.key(row)), row)
        chosen[place] = min(candidate, chosen.get(place, candidate))
    return np.array(sorted(row for _, row in chosen.values()), np.int64)


def draw_test(test: Split, draw: Draw, *, any_camera: bool) -> tuple[np.ndarray, np.ndarray]:
    """Draw the queries as in `draw_queries`, and the gallery: all rows, except queries that would match themselves.

    A query with an unknown camera would match itself; if its camera is known, the protocol leaves it out.

    Returns:
        (Q,) and (G,) int64 row numbers in ascending order.
    """
    query = draw_queries(test, draw, any_camera=any_camera)
    own = np.array([], np.int64) if any_camera else query[test.camid[query] < 0]
    return query, np.setdiff1d(np.arange(len(test)), own)


def _digest(seed: int, name: str) -> bytes:
    return hashlib.sha256(f"{seed}:{name}".encode(errors="surrogatepass")).digest()


def write_parts(file: Path, parts: Mapping[str, str]) -> None:
    """Write a CSV with the columns pid and split.

    Raises:
        DataError: the file cannot be written.
    """
    with atomic(file) as temporary, open(temporary, "w", newline="", encoding="utf-8") as stream:
        csv.writer(stream, lineterminator="\n").writerows([COLUMNS, *sorted(parts.items())])


def read_parts(file: Path) -> dict[str, str]:
    """Read the CSV that `write_parts` wrote.

    Raises:
        DataError: the file is damaged or cannot be read.
    """
    try:
        with open(file, newline="", encoding="utf-8") as stream:
            header, *rows = csv.reader(stream)
        parts = dict(rows)
        if header != COLUMNS or not set(parts.values()) <= set(PARTS):
            raise ValueError("expected the columns pid,split and train, val or test in the second")
        if len(parts) < len(rows):
            raise ValueError("a person appears twice")
        return parts
    except (OSError, ValueError, csv.Error) as error:
        raise DataError(f"{file}: not a valid split file of a run: {error}; start a new run with --overwrite") from None
