"""How much each training tracklet counts: what an audit, or a person, says of its label.

A sample's loss, every loss of a sum, is multiplied by its tracklet's weight. Weights are divided by their mean over the training
tracklets, so that a learning rate keeps its meaning, and only their ratios matter. A tracklet without a weight has 1 before that.

Shapes: T tracklets.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Collection
from pathlib import Path

import numpy as np

from reid.errors import DataError
from reid.tracklets import Split

COLUMNS = ("key", "weight")


def read_weights(file: Path, split: Split, dropped: Collection[str] = ()) -> np.ndarray:
    """(T,) float64 >= 0 of the tracklets of a split, by a CSV file with the columns key and weight; further columns are passed over.

    Args:
        file: to be read.
        split: T tracklets.
        dropped: keys of tracklets that are trained on no more; their weights are passed over.

    Raises:
        DataError: the file cannot be read, a weight is no number >= 0, or a key stands twice or fits no training tracklet.
    """
    rows_of: dict[str, list[int]] = {}
    for row in range(len(split)):
        rows_of.setdefault(split.key(row), []).append(row)
    weight_T, seen = np.ones(len(split)), set()
    for line, key, text in _lines(file):
        if key not in rows_of and key not in dropped:
            example = next(iter(rows_of), "")
            raise DataError(
                f"{file}: line {line}: no training tracklet has the key {key!r}; expected one such as {example}"
            )
        if key in seen:
            raise DataError(f"{file}: line {line}: the key {key!r} stands twice; leave out one of the lines")
        seen.add(key)
        weight_T[rows_of.get(key, [])] = _number(file, line, text)
    return weight_T


def _lines(file: Path) -> list[tuple[int, str, str]]:
    """Line number, key and weight of each row."""
    try:
        with open(file, newline="", encoding="utf-8-sig") as stream:
            reader = csv.DictReader(stream)
            if missing := [column for column in COLUMNS if column not in (reader.fieldnames or ())]:
                got = ", ".join(reader.fieldnames or ()) or "no header"
                raise DataError(f"{file}: no column {missing[0]}; expected key,weight in the first line, got {got}")
            return [(reader.line_num, row["key"] or "", row["weight"] or "") for row in reader]
    except OSError as error:
        raise DataError(
            f"{file}: cannot be read: {error.strerror}; expected a CSV file with the columns key,weight"
        ) from None
    except (UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{file}: not a CSV file in UTF-8: {error}") from None


def _number(file: Path, line: int, text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not (math.isfinite(value) and value >= 0):
        raise DataError(f"{file}: line {line}, column weight: expected a number >= 0, got {text!r}")
    return value


def scaled(weight_T: np.ndarray, source: str) -> np.ndarray:
    """The same with mean 1.

    Raises:
        DataError: all are 0.
    """
    most = weight_T.max(initial=0)
    if not most > 0:
        raise DataError(f"{source}: every training tracklet has weight 0; expected some above 0")
    parts_T = weight_T / most  # the sum of numbers near the largest is infinite
    return parts_T / parts_T.mean()


def in_words(weight_T: np.ndarray) -> str:
    """What weights with mean 1 do, such as ``0.25 to 1.2, 3 of 200 tracklets are 0``."""
    none = int((weight_T == 0).sum())
    left_out = f"; {none} of {len(weight_T)} tracklets have 0 and teach nothing" if none else ""
    return f"{weight_T.min():.3g} to {weight_T.max():.3g}, mean 1{left_out}"
