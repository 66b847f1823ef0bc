"""k-reciprocal re-ranking and query expansion; both return counts of nearer wrong rows, as `ranking.count_nearer` does.

Neither uses labels. Neighbours are sparse lists from faiss; no array of size N x N or Q x G is ever allocated.

Shapes: N rows, D feature dimensions, U rows that take part (queries and gallery), Q queries, G gallery rows, C gallery columns,
P (query, match) pairs, B queries of a block, K list length.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import numpy as np
from scipy import sparse

from reid.errors import ConfigError, DataError, in_range
from reid.evaluation.masks import Matches, gallery_rows, span_indices
from reid.evaluation.ranking import CHUNK, exact_similarity, rank
from reid.features import FeatureSet
from reid.protocol import EvalProtocol

Variant = Literal["paper", "code"]
ENTRIES = 2**24  # distances held at once, 8 bytes each
SPARSE_ROWS = 2**13  # rows of a sparse product computed at once
TIE = 1e-12  # distances that differ by at most this are ties, decided by row number
_BY_FEATURES = EvalProtocol("neighbours", camera_filter=False)


def nearest(features: FeatureSet, query: np.ndarray, gallery: np.ndarray, k: int) -> np.ndarray:
    """The nearest gallery rows of some rows, without the row itself, irrespective of pid; ties by row number.

    Args:
        features: pids and cameras are ignored.
        query: (Q,) int row numbers.
        gallery: (G,) int row numbers.
        k: K, >= 1.

    Returns:
        (Q, K) int64 row numbers; -1 if there are fewer rows.
    """
    row = np.arange(len(features.pid))
    anybody = FeatureSet(features.features, row, np.full(len(row), -1), query, gallery)
    return rank(anybody, top_k=k, protocol=_BY_FEATURES).rows


def count_nearer_reranked(
    features: FeatureSet,
    protocol: EvalProtocol,
    matches: Matches,
    *,
    k1: int = 20,
    k2: int = 6,
    weight: float = 0.3,
    variant: Variant = "paper",
    neighbours_UK: np.ndarray | None = None,
) -> np.ndarray:
    """For each (query, match) pair, how many wrong rows are nearer than the match after k-reciprocal re-ranking.

    With N(p, k) = p and its k nearest others, d = squared Euclidean distance of unit rows:
    R(p, k) = {g in N(p, k): p in N(g, k)}; R*(p) = R(p, k1) and every R(q, k1/2), q in R(p, k1), that shares at least 2/3 of its
    members with R(p, k1); V_pg = exp(-d(p, g)) for g in R*(p), else 0; then V_p is the mean of V over the first k2 of N(p, k1);
    d_J(p, g) = 1 - sum_j min(V_pj, V_gj) / sum_j max(V_pj, V_gj); ranked by (1 - weight) d_J + weight d.
    `code` follows the authors' program where it differs: d is divided by the largest d in the row of p, V_p by its sum, and the
    shared members must be more than 2/3. A query that is also in the gallery takes part once.

    Memory in bytes in addition to the features: 12 per entry of V, which has at most k2 (k1 + 1) (k1/2 + 2) entries per row, in
    practice a few hundred, and 2**28 for blocks of distances.

    Args:
        features: the features with their query and gallery.
        protocol: its gallery rule is applied.
        matches: from `find_matches` under the same protocol.
        k1: size of the neighbourhoods, >= 1.
        k2: rows that are averaged, 1 to k1 + 1; 1 = none.
        weight: lambda of the paper, in [0, 1]; 1 gives the ranking without re-ranking.
        variant: `paper` or `code`.
        neighbours_UK: (U, K >= k1) int row numbers from `nearest` among `taking_part`, or approximate ones from an index; None: computed.

    Returns:
        (P,) int64, in the order of the pairs.

    Raises:
        ConfigError: a setting is out of range. DataError: no query, no gallery row, or neighbours of another shape.

    Source: Zhong et al., Re-ranking Person Re-identification with k-reciprocal Encoding, CVPR 2017, Eq. 1-12.
    """
    in_range("k1", k1, 1)
    in_range("k2", k2, 1, k1 + 1)
    in_range("weight", weight, 0, 1)
    if variant not in ("paper", "code"):
        raise ConfigError(f"variant: expected paper or code, got {variant!r}")
    rows = taking_part(features, protocol)
    if neighbours_UK is None:
        neighbours_UK = nearest(features, rows, rows, k1)
    place = np.full(len(features.pid) + 1, -1)  # the last entry is for -1, a missing neighbour
    place[rows] = np.arange(len(rows))
    near = place[_checked(neighbours_UK, len(rows), k1)]
    scale = _farthest(features.features, rows) if variant == "code" else np.ones(len(rows))
    encoded = _encode(features.features, rows, near, scale, k1, k2, variant)
    distances = _Distances(features.features, rows, matches.columns, encoded, weight)

    def of_block(block: np.ndarray) -> np.ndarray:
        query = features.query[block]
        return distances(query, scale[place[query]])

    return _count(matches, of_block)


def taking_part(features: FeatureSet, protocol: EvalProtocol) -> np.ndarray:
    """(U,) the union of the queries and the searched gallery rows, junk included, ascending."""
    return np.union1d(features.query, gallery_rows(features, protocol))


def count_nearer_expanded(
    features: FeatureSet, protocol: EvalProtocol, matches: Matches, *, k: int = 5, alpha: float = 0.0
) -> np.ndarray:
    """For each (query, match) pair, how many wrong rows are nearer than the match to the expanded query.

    The expanded query is the unit vector along q + sum of s^alpha x over its k nearest gallery rows x (without the query itself) with
    similarity s > 0: average query expansion for alpha = 0, alpha-weighted otherwise (3 is usual). Gallery rows are not changed.

    Args:
        features: the features with their query and gallery.
        protocol: its gallery rule is applied.
        matches: from `find_matches` under the same protocol.
        k: number of rows that are added, >= 1.
        alpha: >= 0.

    Returns:
        (P,) int64, in the order of the pairs.

    Raises:
        ConfigError: a setting is out of range. DataError: no query or no gallery row.

    Source: Chum et al., Total Recall, ICCV 2007 (average); Radenovic et al., Fine-tuning CNN Image Retrieval, TPAMI 2019 (alpha).
    """
    in_range("k", k, 1)
    in_range("alpha", alpha, 0)
    query = features.query
    near = nearest(features, query, gallery_rows(features, protocol), k)
    expanded = features.features[query].astype(np.float64)
    for column in near.T:
        found = np.flatnonzero(column >= 0)
        similarity = exact_similarity(features.features, query[found], column[found])
        added = np.where(similarity > 0, np.maximum(similarity, 0.0) ** alpha, 0.0)
        expanded[found] += added[:, None] * features.features[column[found]]
    expanded /= np.linalg.norm(expanded, axis=1, keepdims=True)
    return _count(matches, lambda block: 1 - _products(expanded[block], features.features, matches.columns))


def _checked(neighbours_UK: np.ndarray, num_rows: int, k1: int) -> np.ndarray:
    if neighbours_UK.ndim != 2 or len(neighbours_UK) != num_rows or neighbours_UK.shape[1] < k1:
        raise DataError(f"neighbours: expected rows of shape ({num_rows}, {k1}), got {neighbours_UK.shape}")
    return neighbours_UK[:, :k1]


def _farthest(features: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """(U,) the largest squared distance from each row to any of the rows."""
    least = np.empty(len(rows))
    block = max(1, ENTRIES // len(rows))
    for first in range(0, len(rows), block):
        part = slice(first, first + block)
        least[part] = _products(features[rows[part]].astype(np.float64), features, rows).min(axis=1)
    return np.maximum(2 - 2 * least, TIE)


def _encode(
    features: np.ndarray, rows: np.ndarray, near: np.ndarray, scale: np.ndarray, k1: int, k2: int, variant: Variant
) -> sparse.csr_array:
    """(U, U) V after its local query expansion; `near` (U, k1) holds positions in `rows`, -1 for none."""
    lists = np.column_stack([np.arange(len(rows)), near])
    members = _expanded_sets(_reciprocal(lists, k1), _reciprocal(lists, round(k1 / 2)), strict=variant == "code")
    p, g = members.nonzero()
    distance = (2 - 2 * exact_similarity(features, rows[p], rows[g])) / scale[p]
    V = sparse.csr_array((np.exp(-distance), (p, g)), members.shape)
    if variant == "code":
        V.data /= np.repeat(V.sum(axis=1), np.diff(V.indptr))
    means = _incidence(lists[:, :k2])
    means.data = means.data / np.repeat(np.diff(means.indptr), np.diff(means.indptr))
    return (means @ V).tocsr()


def _incidence(lists: np.ndarray) -> sparse.csr_array:
    """(U, U) 1 at (row, position) if the position is in the list of the row."""
    held = lists >= 0
    start = np.concatenate([[0], np.cumsum(held.sum(axis=1))])
    return sparse.csr_array((np.ones(held.sum(), np.int32), lists[held], start), (len(lists), len(lists)))


def _reciprocal(lists: np.ndarray, k: int) -> sparse.csr_array:
    """(U, U) 1 where two rows are each in the other's N(., k)."""
    one_way = _incidence(lists[:, : k + 1])
    return one_way.multiply(one_way.T).tocsr()


def _expanded_sets(R: sparse.csr_array, half: sparse.csr_array, *, strict: bool) -> sparse.csr_array:
    """R*(p): R(p, k1) plus every R(q, k1/2) of its members q that overlaps it by two thirds (by more if `strict`)."""
    size, parts = half.sum(axis=1), []
    for first in range(0, R.shape[0], SPARSE_ROWS):
        mine = R[first : first + SPARSE_ROWS]
        shared = (mine @ half.T).multiply(mine).tocoo()  # |R(p, k1) and R(q, k1/2)|, at q in R(p, k1)
        spare = 3 * shared.data - 2 * size[shared.col]
        admitted = spare > 0 if strict else spare >= 0
        at = (shared.row[admitted], shared.col[admitted])
        chosen = sparse.csr_array((np.ones(admitted.sum(), np.int32), at), mine.shape)
        parts.append(mine + chosen @ half)
    return sparse.vstack(parts).tocsr()


class _Distances:
    """Distances from queries to all gallery columns: (1 - weight) Jaccard + weight original."""

    def __init__(
        self, features: np.ndarray, rows: np.ndarray, columns: np.ndarray, V: sparse.csr_array, weight: float
    ) -> None:
        self.features, self.rows, self.columns, self.V, self.weight = features, rows, columns, V, weight
        of_columns = V[np.searchsorted(rows, columns)]
        self.holders = of_columns.tocsc()  # which columns have an entry at j
        self.mass_C = np.asarray(of_columns.sum(axis=1))

    def __call__(self, query: np.ndarray, scale: np.ndarray) -> np.ndarray:
        """(B, C) distances of queries (B,), given as row numbers; their original distances are divided by `scale` (B,)."""
        out = _products(self.features[query].astype(np.float64), self.features, self.columns)
        out = (2 - 2 * out) * (self.weight / scale)[:, None]
        for distance, place in zip(out, np.searchsorted(self.rows, query), strict=True):
            distance += (1 - self.weight) * (1 - self._overlap(place))
        return out

    def _overlap(self, place: int) -> np.ndarray:
        """(C,) sum of the minima divided by the sum of the maxima; only columns that share an entry are visited."""
        entries, start = slice(*self.V.indptr[place : place + 2]), self.holders.indptr
        j, value = self.V.indices[entries], self.V.data[entries]
        of_entry, shared = span_indices(np.stack([start[j], start[j + 1]], axis=1))
        least = np.minimum(self.holders.data[shared], value[of_entry])
        smaller = np.bincount(self.holders.indices[shared], least, len(self.columns))
        return smaller / (value.sum() + self.mass_C - smaller)


def _products(query_BD: np.ndarray, features: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """(B, n) float64 inner products with n rows, which are converted to float64 a chunk at a time."""
    out = np.empty((len(query_BD), len(rows)))
    for first in range(0, len(rows), CHUNK):
        part = slice(first, first + CHUNK)
        np.matmul(query_BD, features[rows[part]].astype(np.float64).T, out=out[:, part])
    return out


def _count(matches: Matches, distances: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    """(P,) number of wrong columns nearer than each match; `distances` maps indices of queries (B,) to distances to the columns (B, C)."""
    nearer = np.zeros(matches.start[-1], np.int64)
    busy = np.flatnonzero(np.diff(matches.start))
    block = max(1, ENTRIES // max(1, len(matches.columns)))
    for first in range(0, len(busy), block):
        queries = busy[first : first + block]
        for i, distance in zip(queries, distances(queries), strict=True):
            pairs = slice(matches.start[i], matches.start[i + 1])
            nearer[pairs] = _nearer(distance, matches.column[pairs], matches.own[i], matches.columns)
    return nearer


def _nearer(distance: np.ndarray, match: np.ndarray, own: np.ndarray, columns: np.ndarray) -> np.ndarray:
    threshold = distance[match]
    distance[own[0] : own[1]] = np.inf
    ordered = np.sort(distance)
    below = np.searchsorted(ordered, threshold - TIE, "left")
    upto = np.searchsorted(ordered, threshold + TIE, "right")
    for t in np.flatnonzero(upto > below):
        tied = np.abs(distance - threshold[t]) <= TIE
        below[t] += (columns[tied] < columns[match[t]]).sum()
    return below
