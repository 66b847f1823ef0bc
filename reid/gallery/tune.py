"""Measuring indexes on a given gallery: recall against exact search, time and memory.

Shapes: N rows, D feature dimensions, Q queries, K list length.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from reid.features import FeatureSet
from reid.gallery.index import Index
from reid.gallery.search import search

QUERIES = 200
SMALL = 50_000  # rows below which exact search takes milliseconds, so that an index gains nothing
TRAINED_ON = 39  # training rows per cell below which faiss warns


@dataclass(frozen=True)
class Trial:
    """Measurements of one index with one setting of its search parameters.

    Args:
        factory: factory string, as for `--index`.
        recall: share of the exact K nearest rows that the index finds.
        milliseconds: search time per query, in batches.
        bytes_per_row: size of the index per row; the features on disk come on top.
        build_seconds: time to train the index and add all rows.
    """

    factory: str
    recall: float
    milliseconds: float
    bytes_per_row: float
    build_seconds: float


def candidates(num_rows: int, dim: int) -> dict[str, Sequence[str]]:
    """Returns factory strings to try for N rows of D dimensions, with search parameters from fast to accurate."""
    cells = 2 ** int(np.log2(max(1, min(4 * num_rows**0.5, num_rows / TRAINED_ON))))
    probes = [f"nprobe={n}" for n in (1, 4, 16, 64) if n < cells]
    tried: dict[str, Sequence[str]] = {"HNSW32": ["efSearch=16", "efSearch=64", "efSearch=256"]}
    if probes:
        tried[f"IVF{cells},Flat"] = probes
        parts = dim // 2 if dim % 2 == 0 else dim  # 4 bits each: for even D a sixteenth of the features' bytes
        tried[f"IVF{cells},PQ{parts}x4fs"] = probes
    return tried


def tune(
    features: FeatureSet,
    factories: Mapping[str, Sequence[str]] | None = None,
    *,
    top_k: int = 10,
    seed: int = 0,
    clock: Callable[[], float] = time.perf_counter,
) -> Iterator[Trial]:
    """Measures each factory string and search parameter on queries from the gallery; each query is excluded from its own hits.

    Args:
        features: the gallery.
        factories: factory string -> search parameters (an empty list for the defaults); `candidates` by default.
        top_k: K.
        seed: random seed for the choice of queries.
        clock: returns seconds; `time.process_time` counts those of this process alone.

    Yields:
        One trial per index and search parameter, exact search first.

    Raises:
        ConfigError: faiss cannot build an index.
    """
    num_rows, dim = features.features.shape
    own = np.sort(np.random.default_rng(seed).permutation(num_rows)[:QUERIES])
    exact, seconds = _timed(features, own, top_k, None, clock)
    yield Trial("Flat", 1.0, 1000 * seconds / len(own), 4.0 * dim, 0.0)
    for factory, parameters in (candidates(num_rows, dim) if factories is None else factories).items():
        start = clock()
        index = Index(factory, dim).build(features.features)
        built, size = clock() - start, index.num_bytes() / num_rows
        for parameter in parameters or [""]:
            if parameter:
                index.set(parameter)
            found, seconds = _timed(features, own, top_k, index, clock)
            yield Trial(index.factory, _overlap(found, exact), 1000 * seconds / len(own), size, built)


def recall(features: FeatureSet, index: Index, *, top_k: int = 10, seed: int = 0) -> float:
    """Returns the share of the exact K nearest rows that the index finds, over queries from the gallery."""
    own = np.sort(np.random.default_rng(seed).permutation(len(features.pid))[:QUERIES])
    exact, found = (search(features, features.features[own], top_k=top_k, own=own, index=i).rows for i in (None, index))
    return _overlap(found, exact)


def _timed(
    features: FeatureSet, own: np.ndarray, top_k: int, index: Index | None, clock: Callable[[], float]
) -> tuple[np.ndarray, float]:
    """Returns the hits' rows, and the seconds of the faster of two runs."""
    seconds = []
    for _ in range(2):
        start = clock()
        hits = search(features, features.features[own], top_k=top_k, own=own, index=index)
        seconds.append(clock() - start)
    return hits.rows, min(seconds)


def _overlap(found: np.ndarray, exact: np.ndarray) -> float:
    hit = (exact[:, :, None] == found[:, None, :]).any(axis=2)
    wanted = exact >= 0
    return float(hit[wanted].mean()) if wanted.any() else 1.0
