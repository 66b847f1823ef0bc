"""What an index would gain and lose on this very gallery: recall against exact search, time, memory.

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
SMALL = 50_000  # rows below which exact search takes milliseconds and nothing is gained
TRAINED_ON = 39  # rows per cell below which faiss warns


@dataclass(frozen=True)
class Trial:
    """One line of the trade-off.

    Args:
        factory: as `--index` takes it.
        recall: share of the exact first K that it finds.
        milliseconds: per query, many asked at once.
        bytes_per_row: of the index; the features themselves come on top, on disk.
        build_seconds: learning and adding.
    """

    factory: str
    recall: float
    milliseconds: float
    bytes_per_row: float
    build_seconds: float


def candidates(num_rows: int, dim: int) -> dict[str, Sequence[str]]:
    """Factory strings worth a try for N rows of D dimensions, with search parameters from fast to thorough."""
    cells = 2 ** int(np.log2(max(1, min(4 * num_rows**0.5, num_rows / TRAINED_ON))))
    probes = [f"nprobe={n}" for n in (1, 4, 16, 64) if n < cells]
    tried: dict[str, Sequence[str]] = {"HNSW32": ["efSearch=16", "efSearch=64", "efSearch=256"]}
    if probes:
        tried[f"IVF{cells},Flat"] = probes
        parts = dim // 2 if dim % 2 == 0 else dim  # 4 bits each: a sixteenth of the features' bytes
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
    """Measures each factory string and search parameter on queries from the gallery, each left out of its own answer.

    Args:
        features: the gallery.
        factories: factory string -> search parameters, none for its defaults; `candidates` by default.
        top_k: K.
        seed: draws the queries.
        clock: gives seconds; `time.process_time` counts those of this process alone.

    Yields:
        Exact search first.

    Raises:
        ConfigError: faiss makes no such index.
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
    """Share of the exact first K that the index finds, over queries from the gallery."""
    own = np.sort(np.random.default_rng(seed).permutation(len(features.pid))[:QUERIES])
    exact, found = (search(features, features.features[own], top_k=top_k, own=own, index=i).rows for i in (None, index))
    return _overlap(found, exact)


def _timed(
    features: FeatureSet, own: np.ndarray, top_k: int, index: Index | None, clock: Callable[[], float]
) -> tuple[np.ndarray, float]:
    """What is found, and the seconds of the faster of two runs."""
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
