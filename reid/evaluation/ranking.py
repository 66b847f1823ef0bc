"""Number of wrong rows nearer than each match (sufficient for AP and CMC), and ranked lists of the nearest rows.

Shapes: N rows, D feature dimensions, Q queries, G gallery rows, C gallery columns, P (query, match) pairs, B queries of a block,
M pairs of rows, K list length.
"""

import contextlib
import math
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import torch
from threadpoolctl import threadpool_limits

from reid.errors import ConfigError, DataError
from reid.evaluation.masks import Matches, gallery_rows, is_junk
from reid.features import FeatureSet, Ranking, float32_error
from reid.protocol import EvalProtocol

BLOCK_SIZE = 512  # queries multiplied at once
CHUNK = 16384  # gallery rows multiplied at once
EXACT = 2**16  # numbers converted to float64 at once: half a megabyte, which stays in a core's cache
PENDING_ROWS = 2**18  # undecided rows that are collected before they are decided
PART = 1024  # dimensions multiplied at once: the proven bound on the rounding error grows with their number


def product_error(dimensions: int) -> float:
    """Proven bound on the rounding error of `product_with`, which adds up an inner product part by part (`PART` dimensions each)."""
    return float32_error(min(dimensions, PART) + math.ceil(dimensions / PART))


def exact_similarity(features: np.ndarray, left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Inner products that depend only on the two rows, not on the batch or the device, so that equal rows tie exactly.

    A product of two float32 numbers is exact in float64, and numpy sums each row in a fixed order.

    Args:
        features: (N, D) float32.
        left: (M,) int row numbers.
        right: (M,) int row numbers.

    Returns:
        (M,) float64.
    """
    out, pairs = np.empty(len(left)), max(1, EXACT // features.shape[1])
    for start in range(0, len(left), pairs):
        part = slice(start, start + pairs)
        product = features[left[part]].astype(np.float64)
        product *= features[right[part]]
        product.sum(axis=1, out=out[part])
    return out


def count_nearer(
    features: FeatureSet,
    matches: Matches,
    *,
    block_size: int = BLOCK_SIZE,
    device: str | torch.device = "cpu",
    workers: int | None = None,
) -> np.ndarray:
    """For each (query, match) pair, how many wrong rows (another pid, not junk) are nearer than the match.

    Nearer = larger similarity, or equal similarity and smaller row number. Similarities are computed in float32; rows
    too close to the match for float32 are decided by `exact_similarity`, so the counts do not depend on the options below.
    Memory in bytes in addition to the features, at most about: 65,536 D for a chunk of the gallery, 64 P for the pairs, and
    for each worker 4 block_size (16,384 + D) for its block, another 4 block_size 16,384 if D is above `PART`, and
    2**24 + 2**20 for exact similarities.

    Args:
        features: the features.
        matches: from `find_matches`.
        block_size: queries multiplied at once by each worker, >= 1.
        device: where the float32 product is computed; counting is done on the CPU.
        workers: threads, >= 1; None = as many as torch uses.

    Returns:
        (P,) int64, in the order of the pairs.

    Raises:
        ConfigError: `block_size` or `workers` is below 1.
    """
    workers = torch.get_num_threads() if workers is None else workers
    if min(block_size, workers) < 1:
        raise ConfigError(f"evaluation: block_size and workers must be at least 1, got {block_size} and {workers}")
    busy = np.flatnonzero(np.diff(matches.start))
    if not len(busy):
        return np.zeros(0, np.int64)
    blocks = np.array_split(busy, min(len(busy), workers * math.ceil(len(busy) / (block_size * workers))))
    pairs = _Pairs(features, matches)
    with full_precision(), threadpool_limits(1, "blas"), ThreadPoolExecutor(workers) as pool:  # workers in parallel
        list(pool.map(pairs.measure, blocks))
        for first in range(0, len(matches.columns), CHUNK):
            chunk = _Chunk(pairs, first, device)
            list(pool.map(chunk.count, blocks))
    return pairs.nearer


class _Pairs:
    """All (query, match) pairs with their exact similarities, and counts of nearer wrong rows that are accumulated chunk by chunk."""

    def __init__(self, features: FeatureSet, matches: Matches) -> None:
        self.features, self.matches = features.features, matches
        self.query = np.repeat(features.query, np.diff(matches.start))
        self.row = matches.columns[matches.column]
        self.threshold = np.empty(len(self.row))
        self.nearer = np.zeros(len(self.row), np.int64)

    def measure(self, block: np.ndarray) -> None:
        """Computes the exact similarities of the pairs of a block of queries."""
        pairs = self.of_block(block)
        self.threshold[pairs] = exact_similarity(self.features, self.row[pairs], self.query[pairs])

    def of_block(self, block: np.ndarray) -> slice:
        """The pairs of a block of queries; those that it skips have none."""
        return slice(self.matches.start[block[0]], self.matches.start[block[-1] + 1])


class _Pending:
    """Pairs and rows too close for float32, collected and decided in batches by exact similarity."""

    def __init__(self, pairs: _Pairs) -> None:
        self.pairs, self.size = pairs, 0
        self.pair: list[int] = []
        self.rows: list[np.ndarray] = []

    def add(self, pair: int, rows: np.ndarray) -> None:
        """Adds rows that may be nearer than the match of the pair."""
        self.pair.append(pair)
        self.rows.append(rows)
        self.size += len(rows)
        if self.size > PENDING_ROWS:
            self.decide()

    def decide(self) -> None:
        """Counts the collected rows that are nearer than the match of their pair, or equally near with a smaller row number."""
        if not self.size:
            return
        pair, row = np.repeat(self.pair, [len(rows) for rows in self.rows]), np.concatenate(self.rows)
        n = len(self.pairs.features)
        distinct, place = np.unique(self.pairs.query[pair] * n + row, return_inverse=True)
        exact = exact_similarity(self.pairs.features, distinct % n, distinct // n)[place]
        threshold = self.pairs.threshold[pair]
        before = (exact > threshold) | ((exact == threshold) & (row < self.pairs.row[pair]))
        np.add.at(self.pairs.nearer, pair[before], 1)
        self.pair, self.rows, self.size = [], [], 0


class _Chunk:
    """Gallery columns `first` to `first + CHUNK`, which are compared with blocks of queries."""

    def __init__(self, pairs: _Pairs, first: int, device: str | torch.device) -> None:
        self.pairs, self.first = pairs, first
        self.row = pairs.matches.columns[first : first + CHUNK]
        self.similarity = product_with(pairs.features[self.row], device)
        self.own = np.clip(pairs.matches.own - first, 0, len(self.row))
        self.tolerance = product_error(pairs.features.shape[1])

    def count(self, block: np.ndarray) -> None:
        """Adds the nearer wrong rows of this chunk to the counts of the pairs of a block of queries."""
        pairs, start = self.pairs.of_block(block), self.pairs.matches.start
        similarity_BC = self.similarity(self.pairs.features[self.pairs.query[start[block]]])
        tolerance = max(self.tolerance, 4 * self._error(block, similarity_BC))
        edges = (self.pairs.threshold[pairs, None] + [-tolerance, tolerance]).astype(np.float32)
        least = np.minimum.reduceat(edges[:, 0], start[block] - pairs.start)
        sure, pending = np.empty(len(edges), np.int64), _Pending(self.pairs)
        for i, similarity, above in zip(block, similarity_BC, least, strict=True):
            similarity[self.own[i, 0] : self.own[i, 1]] = -2.0  # below every cosine
            column = (similarity > above).nonzero()[0]  # mostly few, so that sorting them costs little
            similarity = similarity[column]
            mine = slice(start[i] - pairs.start, start[i + 1] - pairs.start)
            low, high = np.sort(similarity).searchsorted(edges[mine], "right").T
            sure[mine] = len(column) - high
            for t in (low < high).nonzero()[0] + mine.start:
                undecided = (similarity > edges[t, 0]) & (similarity <= edges[t, 1])
                pending.add(pairs.start + t, self.row[column[undecided]])
        self.pairs.nearer[pairs] += sure
        pending.decide()

    def _error(self, block: np.ndarray, similarity_BC: np.ndarray) -> float:
        """Largest error of the product, measured at the matches: a less precise product only leads to more exact similarities."""
        pairs = self.pairs.of_block(block)
        column = self.pairs.matches.column[pairs] - self.first
        here = (column >= 0) & (column < len(self.row))
        of_query = np.repeat(np.arange(len(block)), np.diff(self.pairs.matches.start)[block])
        error = similarity_BC[of_query[here], column[here]] - self.pairs.threshold[pairs][here]
        return float(np.abs(error).max(initial=0.0))


@contextlib.contextmanager
def full_precision() -> Iterator[None]:
    """Context without TF32 and bfloat16 in torch's float32 products, irrespective of the setting for training."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


def product_with(gallery_CD: np.ndarray, device: str | torch.device) -> Callable[[np.ndarray], np.ndarray]:
    """Returns a function from (B, D) queries to (B, C) float32 similarities, each within `product_error` of the true value."""
    parts = [slice(first, first + PART) for first in range(0, gallery_CD.shape[1], PART)]
    if torch.device(device).type == "cpu":

        def product(query_BD: np.ndarray) -> np.ndarray:
            similarity_BC = query_BD[:, parts[0]] @ gallery_CD[:, parts[0]].T
            term_BC = np.empty_like(similarity_BC)
            for part in parts[1:]:
                similarity_BC += np.matmul(query_BD[:, part], gallery_CD[:, part].T, out=term_BC)
            return similarity_BC

        return product
    there_CD = torch.from_numpy(gallery_CD).to(device)

    def product_there(query_BD: np.ndarray) -> np.ndarray:
        query = torch.from_numpy(query_BD).to(device)
        similarity_BC = query[:, parts[0]] @ there_CD[:, parts[0]].T
        for part in parts[1:]:
            similarity_BC += query[:, part] @ there_CD[:, part].T
        return similarity_BC.cpu().numpy()

    return product_there


def rank(features: FeatureSet, *, top_k: int, protocol: EvalProtocol, queries: np.ndarray | None = None) -> Ranking:
    """The nearest gallery rows of some queries, in exactly the order that the evaluation uses.

    faiss returns more than `top_k` rows; the depth is doubled for queries whose list is still too short without junk, or whose last
    row is too close to the rows beyond for float32.

    Args:
        features: the features with their query and gallery.
        top_k: rows per query, >= 1.
        protocol: its gallery rule and junk rule are applied.
        queries: (Q,) int row numbers; all of `features.query` when None.

    Raises:
        DataError: no query or no gallery row; a query's row number is out of range.
        ConfigError: `top_k` is below 1; faiss is not installed.
    """
    if top_k < 1:
        raise ConfigError(f"top_k: expected 1 or more, got {top_k}")
    query = features.query if queries is None else np.asarray(queries, np.int64)
    if query.size and (query.min() < 0 or query.max() >= len(features.pid)):
        raise DataError(f"queries: row numbers must be within 0..{len(features.pid) - 1}")
    gallery = gallery_rows(features, protocol)
    gallery = gallery[features.pid[gallery] >= 0]
    index = _flat_index(features.features[gallery])
    rows = np.full((len(query), top_k), -1, np.int64)
    similarity, match = np.zeros(rows.shape), np.zeros(rows.shape, bool)
    todo, depth = np.arange(len(query)), min(len(gallery), 2 * top_k + 32)
    while len(todo) and depth:
        deeper = []
        for i, place in _search(index, features.features[query[todo]], depth, todo):
            found, near, done = _cut(features, protocol, query[i], gallery[place], top_k)
            rows[i, : len(found)], similarity[i, : len(found)] = found, near
            match[i, : len(found)] = features.pid[found] == features.pid[query[i]]
            if not done:
                deeper.append(i)
        todo = np.array(deeper if depth < len(gallery) else [], np.int64)
        depth = min(len(gallery), 2 * depth)
    return Ranking(protocol, query, rows, similarity, match)


def _flat_index(gallery_GD: np.ndarray) -> Any:
    try:
        import faiss
    except ImportError:
        raise ConfigError("ranked lists need faiss: pip install 'robust-reid[cpu]' or 'robust-reid[gpu]'") from None
    index = faiss.IndexFlatIP(gallery_GD.shape[1])
    index.add(gallery_GD)
    return index


def _search(index: Any, query_QD: np.ndarray, depth: int, number: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
    """Yields the number of each query and the positions of its nearest rows in the index, by float32 products."""
    for first in range(0, len(query_QD), BLOCK_SIZE):
        part = slice(first, first + BLOCK_SIZE)
        yield from zip(number[part].tolist(), index.search(query_QD[part], depth)[1], strict=True)


def _cut(
    features: FeatureSet, protocol: EvalProtocol, query: np.ndarray, found: np.ndarray, top_k: int
) -> tuple[np.ndarray, np.ndarray, bool]:
    """The first top_k rows that are not junk, in exact order, their similarities, and whether all rows not found are certainly farther."""
    exact = exact_similarity(features.features, found, np.full(len(found), query))
    beyond = exact.min() + 2 * float32_error(features.features.shape[1])
    kept = ~is_junk(features, protocol, query, found)
    found, exact = found[kept], exact[kept]
    order = np.lexsort((found, -exact))[:top_k]
    return found[order], exact[order], len(order) == top_k and bool(exact[order[-1]] > beyond)
