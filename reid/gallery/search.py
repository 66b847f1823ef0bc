"""Nearest-neighbour search in a gallery: exact over all or some rows, or candidates from an index, ordered exactly.

Shapes: N rows, n selected rows, D feature dimensions, Q queries, K list length.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from reid import times
from reid.errors import ConfigError, DataError
from reid.features import FeatureSet, float32_error
from reid.gallery.index import Index

QUERIES_AT_ONCE, ROWS_AT_ONCE = 2**8, 2**16
DEEPER = 4  # candidates fetched from an index per wanted hit; they are then ordered by exact similarity


@dataclass(frozen=True, eq=False)
class Hits:
    """Hits of each query, nearest first, ties by row number.

    Args:
        rows: (Q, K) int64 row numbers, K = min(top_k, N); -1 where there are fewer hits.
        similarity: (Q, K) float64 cosine in [-1, 1]; 0 where `rows` is -1.
    """

    rows: np.ndarray
    similarity: np.ndarray

    def above(self, similarity: float) -> Hits:
        """Keeps only the hits with at least this similarity."""
        kept = (self.rows >= 0) & (self.similarity >= similarity)
        return Hits(np.where(kept, self.rows, -1), np.where(kept, self.similarity, 0.0))


def search(
    features: FeatureSet,
    query_QD: np.ndarray,
    *,
    top_k: int = 10,
    rows: np.ndarray | None = None,
    own: np.ndarray | None = None,
    index: Index | None = None,
) -> Hits:
    """Finds the nearest rows of each query.

    Without an index, or with `rows`, the search is exact: a float32 product discards rows that cannot be hits, and float64 similarities
    order the rest. The product is numpy's, because that of faiss' wheels takes several times as long. Memory besides the features:
    2**26 bytes, and 2**18 D bytes more with `rows`.

    Args:
        features: N rows; may be memory-mapped.
        query_QD: query features, real; normalised here.
        top_k: hits per query, >= 1; no more than the gallery has rows.
        rows: (n,) int row numbers to search among, all by default. They are always searched exactly: an index would lose hits.
        own: (Q,) int, row number of the query itself in the gallery, which is excluded from its hits; -1 = none.
        index: index of all N rows.

    Raises:
        DataError: a query has another size, is zero or not finite.
        ConfigError: `top_k` is below 1.
    """
    if top_k < 1:
        raise ConfigError(f"top_k: expected 1 or more, got {top_k}")
    query = unit_rows(query_QD, features.features.shape[1])
    own = np.full(len(query), -1) if own is None else np.asarray(own)
    top_k = min(top_k, len(features.features))
    near, similarity = np.full((len(query), top_k), -1, np.int64), np.zeros((len(query), top_k))
    for first in range(0, len(query), QUERIES_AT_ONCE):
        part = slice(first, first + QUERIES_AT_ONCE)
        if index is None or rows is not None:
            found = _exact(features.features, query[part], own[part], top_k, rows)
        else:
            found = _by_index(features.features, query[part], own[part], top_k, index)
        for i, (places, values) in enumerate(found, start=first):
            near[i, : len(places)], similarity[i, : len(places)] = places, values
    return Hits(near, similarity)


def rows_of(
    features: FeatureSet,
    *,
    camera: list[int] | None = None,
    not_camera: list[int] | None = None,
    person: list[int] | None = None,
    not_person: list[int] | None = None,
    time: np.ndarray | None = None,
    after: float | None = None,
    before: float | None = None,
) -> np.ndarray | None:
    """Returns the rows of some cameras or persons and not of others, in an interval of time; None (all rows) if nothing is given.

    Args:
        features: N rows.
        camera: numbers of the only cameras to search.
        not_camera: numbers of cameras to leave out.
        person: pids of the only persons to search.
        not_person: pids to leave out.
        time: (N,) float64 seconds, NaN if unknown; None if no row has a time.
        after: the earliest time; rows of unknown time are left out.
        before: the time before which rows must begin; likewise.

    Raises:
        DataError: no row is left; or no row has a time, and an interval is given.
    """
    if all(given is None for given in (camera, not_camera, person, not_person, after, before)):
        return None
    kept = np.ones(len(features.camid), bool)
    if after is not None or before is not None:
        if time is None:
            raise DataError("time: the gallery has no times; extract it from a table with the column time")
        kept = (time >= (-np.inf if after is None else after)) & (time < (np.inf if before is None else before))
        if not kept.any():
            known = time[~np.isnan(time)]
            span = f"from {times.written(known.min())} to {times.written(known.max())}" if len(known) else "unknown"
            raise DataError(f"time: no row of the gallery is in this interval; its times are {span}")
    for ids, among, without in ((features.camid, camera, not_camera), (features.pid, person, not_person)):
        if among is not None:
            kept &= np.isin(ids, among)
        kept &= ~np.isin(ids, without or [])
    if not kept.any():
        if person is None and not_person is None and after is None and before is None:
            cameras = ", ".join(map(str, np.unique(features.camid)))
            raise DataError(f"camera: no row of the gallery matches; it has cameras {cameras} (-1 = unknown)")
        raise DataError(
            "no row of the gallery matches all of camera, person and time; meta.csv lists those of each (pid 0 = distractor or unknown)"
        )
    return np.flatnonzero(kept)


def unit_rows(query_QD: np.ndarray, dim: int) -> np.ndarray:
    query = np.asarray(query_QD, np.float64)
    if query.ndim != 2 or query.shape[1] != dim:
        raise DataError(f"query: expected features of shape (Q, {dim}), like the gallery, got {query.shape}")
    norm = np.linalg.norm(query, axis=1)
    if not (np.isfinite(norm) & (norm > 0)).all():
        bad = int(np.argmin(np.isfinite(norm) & (norm > 0)))
        raise DataError(f"query: the feature of query {bad} is zero or not finite: the cosine similarity is undefined")
    return (query / norm[:, None]).astype(np.float32)


def _exact(
    features: np.ndarray, query: np.ndarray, own: np.ndarray, top_k: int, rows: np.ndarray | None
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Returns rows and similarities of each query's hits: float64 similarities order all rows that float32 cannot exclude."""
    doubt = np.float32(2 * float32_error(features.shape[1]))
    kept = [_Kept(top_k + 1, doubt) for _ in query]  # + 1: one may be the query itself
    num_rows = len(features) if rows is None else len(rows)
    for first in range(0, num_rows, ROWS_AT_ONCE):
        part = slice(first, min(num_rows, first + ROWS_AT_ONCE))
        block = features[part] if rows is None else features[rows[part]]
        for one, similarity in zip(kept, query @ block.T, strict=True):
            one.add(similarity, first)
    places = [one.place if rows is None else rows[one.place] for one in kept]
    found = zip(places, query, own, strict=True)
    return [_cut(near, _similarity(features, near, one), itself, top_k) for near, one, itself in found]


class _Kept:
    """Candidate rows of one query: those for which float32 cannot show that `wanted` others are nearer.

    Args:
        wanted: number of hits to keep.
        doubt: largest error of the difference of two float32 similarities.
    """

    def __init__(self, wanted: int, doubt: np.float32) -> None:
        self.wanted, self.doubt, self.least = wanted, doubt, np.float32(-np.inf)
        self.place, self.similarity = np.zeros(0, np.int64), np.zeros(0, np.float32)

    def add(self, similarity: np.ndarray, first: int) -> None:
        """Adds rows, numbered from `first`, by their similarities."""
        near = np.flatnonzero(similarity >= self.least)
        self.place = np.concatenate([self.place, first + near])
        self.similarity = np.concatenate([self.similarity, similarity[near]])
        if len(near) and len(self.place) > self.wanted:
            last = len(self.place) - self.wanted
            self.least = np.partition(self.similarity, last)[last] - self.doubt
            able = self.similarity >= self.least
            self.place, self.similarity = self.place[able], self.similarity[able]


def _by_index(
    features: np.ndarray, query: np.ndarray, own: np.ndarray, top_k: int, index: Index
) -> list[tuple[np.ndarray, np.ndarray]]:
    found = []
    for near, one, itself in zip(index.search(query, min(len(features), DEEPER * top_k + 1)), query, own, strict=True):
        near = near[near >= 0]
        if len(near) and (near.max() >= len(features) or len(np.unique(near)) < len(near)):
            raise DataError("the index returns a row that does not exist, or one twice: it is damaged; rebuild it")
        found.append(_cut(near, _similarity(features, near, one), itself, top_k))
    return found


def _similarity(features: np.ndarray, rows: np.ndarray, query: np.ndarray) -> np.ndarray:
    """Returns (n,) float64 cosines; each depends only on the two vectors (no matrix product), so that equal rows tie exactly."""
    return (features[rows].astype(np.float64) * query).sum(axis=1)


def _cut(rows: np.ndarray, similarity: np.ndarray, own: int, top_k: int) -> tuple[np.ndarray, np.ndarray]:
    kept = rows != own
    rows, similarity = rows[kept], similarity[kept]
    order = np.lexsort((rows, -similarity))[:top_k]
    return rows[order], similarity[order]
