"""Who is trained on and who is tested, where a dataset does not say: drawn by identity, so that nobody is in two parts.

A draw is a pure function of the seed and a person's name: the order of a table does not matter, and a person more or less
moves few others.

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
FEWEST = 2  # identities in a part: one has nobody to be confused with
ENOUGH_FOR_VAL = 8  # identities; with fewer, each is worth more in training than in choosing a checkpoint


@dataclass(frozen=True)
class Draw:
    """How identities are divided.

    Args:
        test: share of them to test on, 0 <= test < 1.
        val: share of them to choose a checkpoint by.
        seed: of the draw; the training's own seed has no part in it, so that seeds are compared on one test set.
    """

    test: float = 0.3
    val: float = 0.1
    seed: int = 0


def draw_parts(persons: Sequence[str], matchable: Iterable[str], draw: Draw) -> dict[str, str]:
    """A part for every person.

    Args:
        persons: as written, no two equal.
        matchable: those that a query can find again, the only ones worth testing on; the others are trained on.
        draw: how many, and the seed.

    Returns:
        person -> one of `PARTS`; the parts of val and test hold at least `FEWEST` persons, or none.
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
    """Which tracklets have a match among the others, were each a query and all of them the gallery.

    Args:
        split: T tracklets.
        any_camera: a match may be seen by the query's own camera.

    Returns:
        (T,) bool. An unknown camera is another camera than any.
    """
    _, pid = np.unique(split.pid, return_inverse=True)
    of_pid = np.bincount(pid)[pid]
    if not any_camera:
        _, place = np.unique(np.stack([split.pid, split.camid]), axis=1, return_inverse=True)
        own = np.bincount(place.ravel())[place.ravel()]
        of_pid = np.where(split.camid < 0, of_pid, of_pid - own + 1)
    return (split.pid > 0) & (of_pid > 1)


def draw_queries(test: Split, draw: Draw, *, any_camera: bool) -> np.ndarray:
    """One query for every person and camera, as in MARS, of those that can be found again.

    Args:
        test: T tracklets.
        draw: its seed is used.
        any_camera: a match may be seen by the query's own camera.

    Returns:
        (Q,) int64 rising row numbers.
    """
    chosen: dict[tuple[int, int], tuple[bytes, int]] = {}
    for row in np.flatnonzero(can_match(test, any_camera=any_camera)).tolist():
        place = (int(test.pid[row]), int(test.camid[row]))
        candidate = (_digest(draw.seed, test.key(row)), row)
        chosen[place] = min(candidate, chosen.get(place, candidate))
    return np.array(sorted(row for _, row in chosen.values()), np.int64)


def draw_test(test: Split, draw: Draw, *, any_camera: bool) -> tuple[np.ndarray, np.ndarray]:
    """The queries that `draw_queries` gives, and the rows that are searched: all, but for what a query would find as itself.

    A query whose camera is unknown would find itself; where its camera is known, the protocol leaves it out.

    Returns:
        (Q,) and (G,) int64 rising row numbers.
    """
    query = draw_queries(test, draw, any_camera=any_camera)
    own = np.array([], np.int64) if any_camera else query[test.camid[query] < 0]
    return query, np.setdiff1d(np.arange(len(test)), own)


def _digest(seed: int, name: str) -> bytes:
    return hashlib.sha256(f"{seed}:{name}".encode(errors="surrogatepass")).digest()


def write_parts(file: Path, parts: Mapping[str, str]) -> None:
    """Writes a CSV with the columns pid and split.

    Raises:
        DataError: it cannot be written.
    """
    with atomic(file) as temporary, open(temporary, "w", newline="", encoding="utf-8") as stream:
        csv.writer(stream, lineterminator="\n").writerows([COLUMNS, *sorted(parts.items())])


def read_parts(file: Path) -> dict[str, str]:
    """What `write_parts` wrote.

    Raises:
        DataError: it is damaged.
    """
    try:
        with open(file, newline="", encoding="utf-8") as stream:
            header, *rows = csv.reader(stream)
        parts = dict(rows)
        if header != COLUMNS or not set(parts.values()) <= set(PARTS):
            raise ValueError("expected the columns pid,split and train, val or test in the second")
        if len(parts) < len(rows):
            raise ValueError("a person stands in it twice")
        return parts
    except (OSError, ValueError, csv.Error) as error:
        raise DataError(f"{file}: not the split of a run: {error}; train anew with --overwrite") from None
