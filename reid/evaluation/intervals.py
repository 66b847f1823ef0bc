"""Uncertainty of the figures: bootstrap intervals over identities, and the paired comparison of two results.

Queries of one person are correlated, so persons are resampled, not queries; with few persons, intervals are wide.

Shapes: Q counted queries, I identities, F figures (mAP, Rank-1, mINP), R resamples.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from reid.errors import DataError
from reid.features import EvalResult, FeatureSet

FIGURES = ("mAP", "rank1", "mINP")
LEVEL = 0.95  # of the intervals; the significance level is 1 - LEVEL
RESAMPLES = 2000
FLIPS = 9999  # random sign patterns in addition to the observed one
_AT_ONCE = 2**20  # identities drawn at once: limits the working memory to about 64 MiB


@dataclass(frozen=True, eq=False)
class Intervals:
    """Percentile bootstrap intervals of the figures of one result.

    Args:
        low: (F,) float64 lower ends; NaN with fewer than two identities.
        high: (F,) float64 upper ends; NaN with fewer than two identities.
        num_identities: persons among the counted queries.
        resamples: number of bootstrap resamples.
        seed: of the resampling.
    """

    low: np.ndarray
    high: np.ndarray
    num_identities: int
    resamples: int
    seed: int

    def to_json(self) -> dict[str, Any]:
        """The public JSON object `interval`: [low, high] per figure, None with fewer than two identities."""
        ends = {name: _ends(self.low[i], self.high[i]) for i, name in enumerate(FIGURES)}
        about = {"level": LEVEL, "num_identities": self.num_identities, "resamples": self.resamples, "seed": self.seed}
        return {**about, **ends}


@dataclass(frozen=True, eq=False)
class Comparison:
    """Comparison of two results on the same queries; all arrays are (F,), one entry per figure.

    Args:
        a: figures of the first result.
        b: figures of the second result.
        low: lower ends of the interval of `a - b`, by the paired bootstrap; NaN with fewer than two identities.
        high: upper ends of that interval.
        p: two-sided p-values of the sign-flip test over identities, in (0, 1].
        num_queries: queries counted in both results.
        num_identities: persons of these queries.
    """

    a: np.ndarray
    b: np.ndarray
    low: np.ndarray
    high: np.ndarray
    p: np.ndarray
    num_queries: int
    num_identities: int

    @property
    def real(self) -> np.ndarray:
        """(F,) bool: the difference is significant: its interval excludes 0 and p is at most 1 - LEVEL."""
        return ((self.low > 0) | (self.high < 0)) & (self.p <= 1 - LEVEL)

    def to_json(self) -> dict[str, Any]:
        """The public JSON object of `robust-reid compare --json`, without the names of the results."""
        figures = {
            name: {
                "a": float(self.a[i]),
                "b": float(self.b[i]),
                "difference": float(self.a[i] - self.b[i]),
                "interval": _ends(self.low[i], self.high[i]),
                "p": float(self.p[i]),
                "real": bool(self.real[i]),
            }
            for i, name in enumerate(FIGURES)
        }
        return {"num_queries": self.num_queries, "num_identities": self.num_identities, "level": LEVEL, **figures}


def bootstrap(result: EvalResult, pid: np.ndarray, *, resamples: int = RESAMPLES, seed: int = 0) -> Intervals:
    """Percentile bootstrap intervals of mAP, Rank-1 and mINP: persons are resampled with replacement, each with all its queries.

    Args:
        result: from `evaluate`.
        pid: (N,) int, the person of every row.
        resamples: number of resamples, >= 1.
        seed: of the resampling; equal seeds give equal intervals.

    Source: Davison and Hinkley, Bootstrap Methods and their Application, 1997, Sec. 3.8 (clusters) and 5.3 (percentiles).
    """
    total_IF, count_I = _by_identity(_per_query(result), pid[result.query])
    low, high = _percentiles(total_IF, count_I, resamples, seed)
    return Intervals(low, high, len(count_I), resamples, seed)


def compare(
    a: tuple[FeatureSet, EvalResult],
    b: tuple[FeatureSet, EvalResult],
    *,
    resamples: int = RESAMPLES,
    flips: int = FLIPS,
    seed: int = 0,
) -> Comparison:
    """Tests whether the difference of two results on the same queries is significant; both tests treat the queries of a person as a unit.

    The paired bootstrap resamples persons and computes the figures of both results from the same resample. The sign-flip
    test computes how often a difference at least as large occurs when A and B are swapped at random for each person.

    Args:
        a: features and their result.
        b: features and result to compare with: the same queries, gallery and protocol.
        resamples: number of resamples, >= 1.
        flips: random sign patterns, >= 1; the observed one is counted too, so p >= 1 / (flips + 1).
        seed: of the random draws.

    Raises:
        DataError: the queries, their persons or cameras, the gallery or the protocol differ; no query is counted.

    Source: Good, Permutation, Parametric and Bootstrap Tests of Hypotheses, 2005 (sign flips of pairs).
    """
    order_a, order_b = match_queries(a, b)
    figures_a, figures_b = _per_query(a[1])[order_a], _per_query(b[1])[order_b]
    total_IF, count_I = _by_identity(figures_a - figures_b, a[0].pid[a[1].query[order_a]])
    low, high = _percentiles(total_IF, count_I, resamples, seed)
    p = _sign_flip(total_IF, flips, seed)
    return Comparison(figures_a.mean(0), figures_b.mean(0), low, high, p, len(order_a), len(count_I))


def match_queries(a: tuple[FeatureSet, EvalResult], b: tuple[FeatureSet, EvalResult]) -> tuple[np.ndarray, np.ndarray]:
    """The positions of the same queries in both results: matched by key if both have keys, else by row number.

    Raises:
        DataError: as for `compare`.
    """
    if a[1].protocol != b[1].protocol:
        raise DataError(
            f"protocol: {a[1].protocol.name} in A, {b[1].protocol.name} in B; use the same protocol for both"
        )
    keyed = a[0].key is not None and b[0].key is not None
    names_a, names_b = (_names(features, result, keyed, side) for (features, result), side in ((a, "A"), (b, "B")))
    if not len(names_a):
        raise DataError(f"queries: no query is valid under {a[1].protocol.name}, so there is nothing to compare")
    what = "key" if keyed else "row"
    for one, other, here, there in ((names_a, names_b, "A", "B"), (names_b, names_a, "B", "A")):
        alone = one[~np.isin(one, other)]
        if len(alone):
            raise DataError(
                f"queries: {len(alone)} of {len(one)} that are valid in {here} are not valid in {there}; the first has {what} "
                f"{alone[0]}; compare features of the same queries and gallery"
            )
    order_a, order_b = np.argsort(names_a), np.argsort(names_b)
    _require_same_people(a, b, order_a, order_b, what)
    return order_a, order_b


def _names(features: FeatureSet, result: EvalResult, keyed: bool, side: str) -> np.ndarray:
    names = features.key[result.query] if keyed and features.key is not None else result.query
    if len(np.unique(names)) < len(names):
        raise DataError(f"queries: keys in {side} occur more than once; give each row its own key, or remove all keys")
    return names


def _require_same_people(
    a: tuple[FeatureSet, EvalResult],
    b: tuple[FeatureSet, EvalResult],
    order_a: np.ndarray,
    order_b: np.ndarray,
    what: str,
) -> None:
    rows_a, rows_b = a[1].query[order_a], b[1].query[order_b]
    for name in ("pid", "camid"):
        ids_a, ids_b = getattr(a[0], name)[rows_a], getattr(b[0], name)[rows_b]
        if (ids_a != ids_b).any():
            i = int(np.argmax(ids_a != ids_b))
            raise DataError(
                f"queries: {name} differs for {int((ids_a != ids_b).sum())} of {len(rows_a)} matched by {what}, the first "
                f"(row {rows_a[i]} in A, {rows_b[i]} in B) has {ids_a[i]} in A and {ids_b[i]} in B; "
                "compare features of the same data"
            )
    gallery_a, gallery_b = _sorted_ids(a[0]), _sorted_ids(b[0])
    if not np.array_equal(gallery_a, gallery_b):
        raise DataError(
            f"gallery: A has {len(gallery_a)} rows and B {len(gallery_b)}, and their persons or cameras differ; "
            "compare features of the same gallery"
        )


def _sorted_ids(features: FeatureSet) -> np.ndarray:
    """(G, 2) pid and camid of the gallery rows, sorted, so that their order does not matter."""
    ids = np.stack([features.pid[features.gallery], features.camid[features.gallery]], axis=1)
    return ids[np.lexsort(ids.T)]


def _per_query(result: EvalResult) -> np.ndarray:
    """(Q, F): AP, whether the nearest row is a match, and INP."""
    assert result.first_rank is not None and result.inp is not None, "a result of evaluate() has them"
    return np.stack([result.ap, result.first_rank == 1, result.inp], axis=1)


def _by_identity(value_QF: np.ndarray, pid_Q: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Sum of the figures (I, F) and number of queries (I,) of each person."""
    identities, place = np.unique(pid_Q, return_inverse=True)
    total_IF = np.zeros((len(identities), value_QF.shape[1]))
    np.add.at(total_IF, place, value_QF)
    return total_IF, np.bincount(place, minlength=len(identities))


def _percentiles(total_IF: np.ndarray, count_I: np.ndarray, resamples: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Lower and upper ends of the central LEVEL of the resampled means, (F,) each."""
    if len(count_I) < 2:
        return np.full(len(FIGURES), np.nan), np.full(len(FIGURES), np.nan)
    rng = np.random.default_rng(seed)
    means = []
    for rows in _batches(resamples, len(count_I)):
        drawn = rng.integers(len(count_I), size=(rows, len(count_I)))
        means.append(total_IF[drawn].sum(axis=1) / count_I[drawn].sum(axis=1)[:, None])
    low, high = np.quantile(np.concatenate(means), [(1 - LEVEL) / 2, (1 + LEVEL) / 2], axis=0)
    return low, high


def _sign_flip(total_IF: np.ndarray, flips: int, seed: int) -> np.ndarray:
    """(F,) p-values: share of sign patterns, the observed one included, whose sum is at least as far from 0 as the observed sum."""
    rng = np.random.default_rng(seed)
    observed = np.abs(total_IF.sum(axis=0)) * (1 - 1e-9)  # tolerance: rounding must not break ties
    as_far = np.ones(len(observed))
    for rows in _batches(flips, len(total_IF)):
        sign = rng.integers(2, size=(rows, len(total_IF))) * 2.0 - 1
        as_far += (np.abs(sign @ total_IF) >= observed).sum(axis=0)
    return as_far / (flips + 1)


def _batches(number: int, width: int) -> Iterator[int]:
    """Splits `number` rows of `width` elements into batches of at most about _AT_ONCE elements; yields the rows of each."""
    rows = max(1, _AT_ONCE // width)
    for first in range(0, number, rows):
        yield min(rows, number - first)


def _ends(low: float, high: float) -> list[float] | None:
    return None if math.isnan(low) else [float(low), float(high)]
