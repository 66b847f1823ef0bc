"""Verification (same person or not): ROC, thresholds and error rates over all (query, gallery row) pairs.

Similarity is divided into coarse cells of width 1 / COARSE and fine cells of width 1 / FINE; thresholds are edges of fine cells.

Shapes: D feature dimensions, B queries of a block, C gallery columns, P genuine pairs, L target rates,
E coarse cells of similarity, F edges of fine cells.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from threading import Lock
from typing import Any

import numpy as np
import torch
from threadpoolctl import threadpool_limits

from reid.errors import ConfigError
from reid.evaluation.masks import Matches, find_matches
from reid.evaluation.ranking import (
    BLOCK_SIZE,
    CHUNK,
    exact_similarity,
    full_precision,
    product_error,
    product_with,
)
from reid.features import FeatureSet
from reid.protocol import EvalProtocol

TPR_AT = (1e-1, 1e-2, 1e-3, 1e-4, 1e-5)
RATES = tuple(float(f"{digit}e-{power}") for power in range(1, 6) for digit in (5, 2, 1))  # points of the ROC
LEAST_FALSE_MATCHES = 10  # a rate that amounts to fewer impostor pairs is not reported

FINE = 2**20  # thresholds per unit of similarity
COARSE = 2**17  # cells per unit of similarity in the first pass
_RATIO = FINE // COARSE
_MARGIN = 64  # extra coarse cells below -1 and above 1, for rounding errors
_ORIGIN = COARSE + _MARGIN  # the coarse cell of similarity 0
_CELLS = 2 * _ORIGIN
_OUTSIDE = -_ORIGIN / COARSE  # a similarity in cell 0, below every threshold
_ROWS = 64  # rows of a block that are assigned to cells at once

_Product = Callable[[np.ndarray], np.ndarray]  # queries (B, D) to their similarities (B, C)
_Rate = Callable[[np.ndarray], np.ndarray]  # edges of fine cells to the rate at each as threshold


@dataclass(frozen=True, eq=False)
class Verification:
    """Error rates by threshold: two rows are accepted as the same person when similarity >= threshold.

    Args:
        num_genuine: number of (query, match) pairs, junk removed.
        num_impostor: number of pairs of a query and a row of another pid, junk removed.
        rate: (L,) target false-match rates, each in (0, 1).
        threshold: (L,) the lowest multiple of 1 / FINE at which at most `rate` of the impostor pairs are accepted; NaN if `rate`
            amounts to fewer than LEAST_FALSE_MATCHES pairs, or if there are no genuine or no impostor pairs.
        fmr: (L,) the false-match rate at `threshold`: the share of impostor pairs that are accepted.
        fnmr: (L,) the false-non-match rate at `threshold`: the share of genuine pairs that are rejected, 1 - TPR.
        eer: the mean of fmr and fnmr at the threshold where they differ least; NaN if there are no genuine or no impostor pairs.
        eer_threshold: that threshold.
    """

    num_genuine: int
    num_impostor: int
    rate: np.ndarray
    threshold: np.ndarray
    fmr: np.ndarray
    fnmr: np.ndarray
    eer: float
    eer_threshold: float

    def to_json(self) -> dict[str, Any]:
        """The public JSON object `verification`; None instead of NaN where there are too few pairs."""
        names = ("fpr", "threshold", "fmr", "fnmr", "tpr")
        points = zip(self.rate, self.threshold, self.fmr, self.fnmr, 1 - self.fnmr, strict=True)
        roc = [{name: _nullable(value) for name, value in zip(names, point, strict=True)} for point in points]
        return {
            "num_genuine": self.num_genuine,
            "num_impostor": self.num_impostor,
            "threshold_step": 1 / FINE,
            "tpr_at_fpr": {f"{point['fpr']:g}": point["tpr"] for point in roc if point["fpr"] in TPR_AT},
            "eer": _nullable(self.eer),
            "eer_threshold": _nullable(self.eer_threshold),
            "roc": roc,
        }


def verification(
    features: FeatureSet,
    protocol: EvalProtocol,
    *,
    rates: Sequence[float] = RATES,
    block_size: int = BLOCK_SIZE,
    device: str | torch.device = "cpu",
    workers: int | None = None,
) -> Verification:
    """Thresholds for target false-match rates, with both error rates at each, counted exactly over all pairs.

    The pairs are those that the protocol compares: each query (pid >= 0) with each gallery row that is not its junk.
    There are two passes over blocks: the first locates the thresholds by float32 similarities, the second decides the pairs near
    them by `exact_similarity`, so that no figure depends on the options below. Memory in bytes in addition to the features, at most
    about: 65,536 D for a chunk of the gallery, 40 P, 2**24 for cells, and for each worker 4 block_size (16,384 + D) + 2**26.

    Args:
        features: the features with their query and gallery.
        protocol: its gallery rule and camera filter are applied.
        rates: (L,) target false-match rates, each in (0, 1).
        block_size: queries multiplied at once by each worker, >= 1.
        device: where the float32 product is computed.
        workers: threads, >= 1; None = as many as torch uses.

    Raises:
        DataError: no query or no gallery row.
        ConfigError: a rate is not in (0, 1), or `block_size` or `workers` is below 1.

    Source: ISO/IEC 19795-1 (false-match rate, false-non-match rate, EER).
    """
    workers = torch.get_num_threads() if workers is None else workers
    if min(block_size, workers) < 1 or not all(0 < rate < 1 for rate in rates):
        raise ConfigError(
            f"verification: block_size and workers must be at least 1 and rates within (0, 1), "
            f"got {block_size}, {workers} and {list(rates)}"
        )
    matches = find_matches(features, protocol)
    genuine = _genuine_cells(features, matches)
    asked = np.flatnonzero(features.pid[features.query] >= 0)
    num_impostor = int((len(matches.columns) - np.diff(matches.own[asked], axis=1)).sum())
    if not len(genuine) or not num_impostor:
        none = np.full(len(rates), np.nan)
        return Verification(len(genuine), num_impostor, np.array(rates, float), none, none, none, math.nan, math.nan)
    blocks = np.array_split(asked, min(len(asked), workers * math.ceil(len(asked) / (block_size * workers))))
    walk = _Impostors(features, matches, blocks, num_impostor, device, workers)
    return _operating_points(walk, genuine, np.array(rates, float))


def _operating_points(impostors: _Impostors, genuine: np.ndarray, rates: np.ndarray) -> Verification:
    def fnmr(cells: np.ndarray) -> np.ndarray:
        return np.searchsorted(genuine, cells) / len(genuine)

    def at_most(rate: float) -> _Rate:
        return lambda cells: np.full(len(cells), rate)

    fmr, lowest = impostors.solve([*map(at_most, rates), fnmr])
    wanted, crossing = lowest[:-1], lowest[-1] - np.arange(2)
    unknown = np.where(rates * impostors.number < LEAST_FALSE_MATCHES, np.nan, 0)
    eer_cell = crossing[np.abs(fmr(crossing) - fnmr(crossing)).argmin()]
    return Verification(
        num_genuine=len(genuine),
        num_impostor=impostors.number,
        rate=rates,
        threshold=_threshold(wanted) + unknown,
        fmr=fmr(wanted) + unknown,
        fnmr=fnmr(wanted) + unknown,
        eer=float(fmr(eer_cell) + fnmr(eer_cell)) / 2,
        eer_threshold=float(_threshold(eer_cell)),
    )


class _Impostors:
    """All pairs of a query and a row of another pid, visited block by block, once per pass.

    Args:
        blocks: the queries, as positions in `features.query`.
        number: number of pairs.
    """

    def __init__(
        self,
        features: FeatureSet,
        matches: Matches,
        blocks: Sequence[np.ndarray],
        number: int,
        device: str | torch.device,
        workers: int,
    ) -> None:
        self.features, self.matches, self.blocks, self.number = features, matches, blocks, number
        self.device, self.workers = device, workers

    def solve(self, limits: Sequence[_Rate]) -> tuple[_Rate, np.ndarray]:
        """For each limit, the lowest threshold at which the false-match rate is no higher.

        The error of a float32 similarity is less than `pad` coarse cells. So the rate at a coarse edge lies between the float32 rates
        `pad` edges above and below it, the threshold lies within 2 `pad` edges of the first edge that may satisfy the limit, and the
        pairs that decide it lie at most `pad` cells further away; these are decided by exact similarity.

        Returns:
            The false-match rate as a function, valid near the thresholds only, and the thresholds as edges of fine cells.
        """
        pad = math.ceil(product_error(self.features.features.shape[1]) * COARSE + 2**-6)
        assert 3 * pad < _MARGIN, "rows of a million dimensions need a wider margin"
        edge = np.arange(_CELLS + 1)
        coarse, _ = self._count(np.zeros(_CELLS, bool), np.zeros(0, np.int64))
        least = _at_or_above(coarse)[np.minimum(edge + pad, _CELLS)] / self.number
        first = np.array([(least <= limit(edge * _RATIO)).argmax() for limit in limits])
        decided = np.zeros(_CELLS, bool)
        decided[first[:, None] + np.arange(-1 - pad, 3 * pad + 1)] = True
        windows = (first[:, None] - 1) * _RATIO + np.arange((2 * pad + 1) * _RATIO + 1)
        near = np.unique(windows)
        sure, exact = map(_at_or_above, self._count(decided, near))

        def fmr(cells: np.ndarray) -> np.ndarray:
            return (sure[cells // _RATIO] + exact[np.searchsorted(near, cells) + 1]) / self.number

        passes = [(fmr(window) <= limit(window)).argmax() for limit, window in zip(limits, windows, strict=True)]
        return fmr, windows[np.arange(len(limits)), passes]

    def _count(self, decided: np.ndarray, edges: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Number of pairs by float32 coarse cell (E,), 0 in `decided` cells, whose pairs are counted by exact similarity between `edges`
        instead (F + 1,)."""
        coarse, fine, lock = np.zeros(_CELLS, np.int64), np.zeros(len(edges) + 1, np.int64), Lock()
        columns = self.matches.columns

        def add(product: _Product, first: int, block: np.ndarray) -> None:
            for cells, exact in self._cells(block, product, first, decided):
                places = np.searchsorted(edges, exact, side="right")
                with lock:
                    coarse[:] += np.bincount(cells.ravel(), minlength=_CELLS)
                    fine[:] += np.bincount(places, minlength=len(fine))

        with full_precision(), threadpool_limits(1, "blas"), ThreadPoolExecutor(self.workers) as pool:
            for first in range(0, len(columns), CHUNK):
                product = product_with(self.features.features[columns[first : first + CHUNK]], self.device)
                list(pool.map(partial(add, product, first), self.blocks))
        coarse[decided] = 0
        return coarse, fine

    def _cells(
        self, block: np.ndarray, product: _Product, first: int, decided: np.ndarray
    ) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Compares a block with the columns from `first` on: yields coarse cells, and exact fine cells of pairs in `decided` cells."""
        query, row = self.features.query[block], self.matches.columns[first : first + CHUNK]
        similarity_BC = product(self.features.features[query])
        for similarity, own in zip(similarity_BC, np.maximum(self.matches.own[block] - first, 0), strict=True):
            similarity[own[0] : own[1]] = _OUTSIDE
        similarity_BC *= COARSE
        similarity_BC += _ORIGIN
        for part in range(0, len(block), _ROWS):
            cells = similarity_BC[part : part + _ROWS].astype(np.intp)
            exact = np.flatnonzero(decided[cells]) if decided.any() else np.zeros(0, int)
            i, column = np.divmod(exact, len(row))
            yield cells, _fine_cells(exact_similarity(self.features.features, query[part + i], row[column]))


def _genuine_cells(features: FeatureSet, matches: Matches) -> np.ndarray:
    """(P,) int64 fine cells of all (query, match) pairs, ascending."""
    query = np.repeat(features.query, np.diff(matches.start))
    return np.sort(_fine_cells(exact_similarity(features.features, query, matches.columns[matches.column])))


def _fine_cells(similarity: np.ndarray) -> np.ndarray:
    return np.floor(similarity * FINE).astype(np.int64) + _ORIGIN * _RATIO


def _threshold(cells: np.ndarray) -> np.ndarray:
    return (cells - _ORIGIN * _RATIO) / FINE


def _at_or_above(count: np.ndarray) -> np.ndarray:
    """Number of pairs in each cell or a higher one, with a final 0 for the edge above all cells."""
    return np.append(count[::-1].cumsum()[::-1], 0)


def _nullable(value: float) -> float | None:
    return None if math.isnan(value) else float(value)
