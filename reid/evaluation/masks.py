"""Matches and junk of each query, and the reasons why queries have no match.

Shapes: N rows, Q queries, G gallery rows, C gallery columns (rows of pid < 0 are left out unless kept), P (query, match) pairs.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from reid.errors import DataError
from reid.features import FeatureSet
from reid.protocol import EvalProtocol

_OWN_CAMERA = "have matches only from their own camera: --any-camera (test.any_camera: true) counts those"
# Changes of the protocol that may give a query its match, tried in this order, each with its advice.
OPTIONS: Sequence[tuple[dict[str, Any], str]] = (
    (
        {"gallery": "as_given"},
        "have matches only among the query rows: gallery: as_given (as in market1501) searches those too",
    ),
    ({"camera_filter": False}, f"{_OWN_CAMERA}; use camid -1 if a camera is unknown"),
    (
        {"gallery": "as_given", "camera_filter": False},
        f"{_OWN_CAMERA}, with gallery: as_given, because they are query rows",
    ),
)


@dataclass(frozen=True)
class Matches:
    """The (query, match) pairs of all queries, over gallery columns sorted by pid.

    Args:
        columns: (C,) int64 gallery rows, sorted by (pid, row); rows of pid < 0 are included only with `keep_junk`.
        own: (Q, 2) int64: `columns[own[i, 0]:own[i, 1]]` are all rows of the query's own pid, both matches and junk.
        start: (Q + 1,) int64: pairs `start[i]:start[i + 1]` belong to query i.
        column: (P,) int64: index of each match in `columns`.
        num_gallery: rows searched, junk included.
    """

    columns: np.ndarray
    own: np.ndarray
    start: np.ndarray
    column: np.ndarray
    num_gallery: int


def gallery_rows(features: FeatureSet, protocol: EvalProtocol) -> np.ndarray:
    """The rows that are searched, junk included.

    Args:
        features: the features with their query and gallery.
        protocol: its gallery rule is applied.

    Returns:
        (G,) int64 row numbers in the order of the gallery.

    Raises:
        DataError: no query, or no gallery row is left.
    """
    if not len(features.query):
        raise DataError("query: no rows, so there is nothing to evaluate; expected at least one query row")
    rows = searched_rows(features, protocol)
    if not len(rows):
        raise DataError(
            f"gallery: no rows to search under {protocol.name} (gallery: {protocol.gallery}; {len(features.gallery)} "
            f"rows given, {len(features.query)} queries); add rows that are not queries, or use gallery: as_given"
        )
    return rows


def searched_rows(features: FeatureSet, protocol: EvalProtocol) -> np.ndarray:
    """`gallery_rows` without errors: (G,) int64, empty if no row is left."""
    if protocol.gallery == "without_queries":
        return features.gallery[~np.isin(features.gallery, features.query)]
    return features.gallery


def is_junk(features: FeatureSet, protocol: EvalProtocol, query: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Which rows are removed before a query's ranks are counted.

    Args:
        features: gives pid and camid.
        protocol: with the camera filter, junk is the query's own pid under its own known camera; without, the query's own row. Rows
            of pid < 0 are junk in either case.
        query: int row numbers, of a shape that broadcasts with `rows`.
        rows: int row numbers.

    Returns:
        bool, of the broadcast shape.
    """
    pid, camid = features.pid, features.camid
    if protocol.camera_filter:
        hidden = (pid[rows] == pid[query]) & (camid[rows] == camid[query]) & (camid[query] >= 0)
    else:
        hidden = rows == query
    return hidden | (pid[rows] < 0)


def find_matches(features: FeatureSet, protocol: EvalProtocol, *, keep_junk: bool = False) -> Matches:
    """All (query, match) pairs: same pid and not junk.

    Args:
        features: the features with their query and gallery.
        protocol: its gallery rule and camera filter are applied.
        keep_junk: keep rows of pid < 0 among the columns, as wrong rows; they are never matches.

    Raises:
        DataError: no query, or no gallery row is left.
    """
    rows = gallery_rows(features, protocol)
    columns = np.sort(rows if keep_junk else rows[features.pid[rows] >= 0])
    columns = columns[np.argsort(features.pid[columns], kind="stable")]
    column_pid, query_pid = features.pid[columns], features.pid[features.query]
    own = np.stack([np.searchsorted(column_pid, query_pid, side) for side in ("left", "right")], axis=1)
    of_query, column = span_indices(own)
    match = ~is_junk(features, protocol, features.query[of_query], columns[column])
    count = np.bincount(of_query[match], minlength=len(query_pid))
    start = np.concatenate([[0], np.cumsum(count)])
    return Matches(columns, own, start, column[match], len(rows))


def explain_without_match(features: FeatureSet, protocol: EvalProtocol, matches: Matches) -> str:
    """Explains why queries have no match: counts by cause, each with the option that would help.

    Args:
        features: the features that were evaluated.
        protocol: the protocol they were evaluated under.
        matches: from `find_matches` with both.

    Returns:
        One line.
    """
    lost = np.diff(matches.start) == 0
    junk = features.pid[features.query] < 0
    counted, left = [((lost & junk).sum(), "are junk themselves (pid < 0): remove them from the queries")], lost & ~junk
    for rules, text in OPTIONS:
        found = left & _meets_another(features, replace(protocol, **rules))
        counted.append((found.sum(), text))
        left &= ~found
    absent = f"have no other row of their identity in the gallery ({len(features.gallery)} rows)"
    counted.append((left.sum(), absent + ": do queries and gallery use the same ids?" * bool(left.all())))
    causes = "; ".join(f"{count} {text}" for count, text in counted if count)
    return f"{protocol.name}: {lost.sum()} of {len(lost)} queries have no match: {causes}"


def _meets_another(features: FeatureSet, protocol: EvalProtocol) -> np.ndarray:
    """(Q,) bool: the query has a match other than itself."""
    matches = find_matches(features, protocol)
    of_query = np.repeat(np.arange(len(features.query)), np.diff(matches.start))
    another = matches.columns[matches.column] != features.query[of_query]
    return np.bincount(of_query[another], minlength=len(features.query)) > 0


def span_indices(spans: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Expands half-open spans (Q, 2): for every position in them, the number of its span and the position."""
    length = spans[:, 1] - spans[:, 0]
    of_span = np.repeat(np.arange(len(spans)), length)
    first = np.cumsum(length) - length
    return of_span, np.arange(len(of_span)) - np.repeat(first - spans[:, 0], length)
