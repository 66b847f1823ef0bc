"""Weights of training tracklets: from an audit, or set by a person according to how far a label can be trusted.

An audit's file has two more columns: `label_right`, the probability that the label is right, and `before`, the weight from elsewhere
that the audited run was trained with (1 if there was none). Its weight is their product. So a second audit's weights replace those of the
first, and keep those that a person has set.

A sample's loss, including every term of a sum, is multiplied by its tracklet's weight. Weights are divided by their mean over the
training tracklets, so that only their ratios matter and a learning rate keeps its meaning. The weight is 1, before that, by default.

Shapes: T tracklets.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Collection, Iterable
from pathlib import Path

import numpy as np

from reid.errors import DataError
from reid.files import atomic
from reid.tracklets import Split

COLUMNS = ("key", "weight")
OF_AUDIT = ("label_right", "before")


def read_weights(file: Path, split: Split, dropped: Collection[str] = ()) -> np.ndarray:
    """Read (T,) float64 weights >= 0 of a split's tracklets from a CSV with the columns key and weight; other columns are ignored.

    Args:
        file: the CSV.
        split: T tracklets.
        dropped: keys of tracklets that are no longer trained on; their weights are ignored.

    Raises:
        DataError: the file cannot be read, a weight is not a number >= 0, or a key is repeated or not that of a training tracklet.
    """
    weight_T = _column(file, "weight", split, dropped)
    return np.where(np.isnan(weight_T), 1.0, weight_T)


def read_before(file: Path, split: Split, dropped: Collection[str] = ()) -> np.ndarray | None:
    """Read (T,) float64 weights >= 0 from elsewhere that an audit's file includes, NaN for tracklets that it does not list.

    Arguments and errors are those of `read_weights`. None if the file is not an audit's.
    """
    return _column(file, "before", split, dropped) if set(OF_AUDIT) <= set(_table(file)[0]) else None


def write_weights(file: Path, rows: Iterable[tuple[str, float, float]]) -> None:
    """Write an audit's file atomically: key, probability that the label is right, weight from elsewhere, of each tracklet.

    Raises:
        DataError: the file cannot be written.
    """
    with atomic(file) as temporary, open(temporary, "w", encoding="utf-8", newline="") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow([*COLUMNS, *OF_AUDIT])
        writer.writerows(
            (key, f"{right * before:.6g}", f"{right:.6g}", str(before).removesuffix(".0"))
            for key, right, before in rows
        )


def _column(file: Path, column: str, split: Split, dropped: Collection[str]) -> np.ndarray:
    """(T,) numbers of a column, NaN for tracklets that the file does not list."""
    rows_of: dict[str, list[int]] = {}
    for row in range(len(split)):
        rows_of.setdefault(split.key(row), []).append(row)
    weight_T, seen = np.full(len(split), np.nan), set()
    for line, cells in _table(file)[1]:
        key = cells["key"] or ""
        if key not in rows_of and key not in dropped:
            example = next(iter(rows_of), "")
            raise DataError(
                f"{file}: line {line}: no training tracklet has the key {key!r}; expected one such as {example}"
            )
        if key in seen:
            raise DataError(f"{file}: line {line}: the key {key!r} appears twice; remove one of the lines")
        seen.add(key)
        weight_T[rows_of.get(key, [])] = _number(file, line, column, cells[column] or "")
    return weight_T


def _table(file: Path) -> tuple[list[str], list[tuple[int, dict[str, str | None]]]]:
    """Read the header, and line number and cells of each row."""
    try:
        with open(file, newline="", encoding="utf-8-sig") as stream:
            reader = csv.DictReader(stream)
            if missing := [column for column in COLUMNS if column not in (reader.fieldnames or ())]:
                got = ", ".join(reader.fieldnames or ()) or "no header"
                raise DataError(f"{file}: no column {missing[0]}; expected key,weight in the first line, got {got}")
            return list(reader.fieldnames or ()), [(reader.line_num, row) for row in reader]
    except OSError as error:
        raise DataError(
            f"{file}: cannot be read: {error.strerror}; expected a CSV file with the columns key,weight"
        ) from None
    except (UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{file}: not a CSV file in UTF-8: {error}") from None


def _number(file: Path, line: int, column: str, text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not (math.isfinite(value) and value >= 0):
        raise DataError(f"{file}: line {line}, column {column}: expected a number >= 0, got {text!r}")
    return value


def scaled(weight_T: np.ndarray, source: str) -> np.ndarray:
    """Divide weights by their mean.

    Raises:
        DataError: all are 0.
    """
    most = weight_T.max(initial=0)
    if not most > 0:
        raise DataError(f"{source}: every training tracklet has weight 0; expected at least one above 0")
    parts_T = weight_T / most  # avoids an infinite sum of very large weights
    return parts_T / parts_T.mean()


def in_words(weight_T: np.ndarray) -> str:
    """Describe weights with mean 1, such as ``0.25 to 1.2, mean 1; 3 of 200 tracklets have weight 0 and are ignored``."""
    none = int((weight_T == 0).sum())
    left_out = f"; {none} of {len(weight_T)} tracklets have weight 0 and are ignored" if none else ""
    return f"{weight_T.min():.3g} to {weight_T.max():.3g}, mean 1{left_out}"
