"""AP, INP and CMC in closed form from the ranks of the hits.

Shapes: Q queries, P (query, match) pairs, R ranks. Every query here has at least one match.
"""

import numpy as np

from reid.protocol import ApRule


def hit_ranks(nearer: np.ndarray, start: np.ndarray) -> np.ndarray:
    """Ranks of each query's hits, junk removed: the k-th hit comes after k - 1 hits and the wrong rows nearer than it.

    Args:
        nearer: (P,) int, number of wrong rows nearer than each match, in any order within a query.
        start: (Q + 1,) int: pairs `start[i]:start[i + 1]` belong to query i.

    Returns:
        (P,) int64 ranks, starting at 1, ascending within each query.

    >>> hit_ranks(np.array([3, 0, 0]), np.array([0, 2, 3]))  # query 0: hits at ranks 1 and 5; query 1: at rank 1
    array([1, 5, 1])
    """
    count = np.diff(start)
    wrong = nearer[np.lexsort((nearer, np.repeat(np.arange(len(count)), count)))]
    return wrong + _hit_number(start)


def average_precision(rank: np.ndarray, start: np.ndarray, rule: ApRule) -> np.ndarray:
    """AP of each query from its hits at ranks r_1 < ... < r_n.

    `hit` is the mean of k / r_k. `trapezoid` is the mean of ((k - 1) / (r_k - 1) + k / r_k) / 2, the first term being
    1 when r_k = 1: recall changes only at the hits, and each step averages the precision just before the hit and at the hit.

    Args:
        rank: (P,) from `hit_ranks`.
        start: (Q + 1,) ascending: pairs `start[i]:start[i + 1]` belong to query i, at least one each.
        rule: `hit` or `trapezoid`.

    Returns:
        (Q,) float64 in (0, 1].

    Source: hit: Zheng et al., ICCV 2015, as in the common Python evaluators; trapezoid: the MARS evaluation code.

    >>> average_precision(np.array([1, 4]), np.array([0, 2]), "hit")
    array([0.75])
    """
    if not len(rank):
        return np.zeros(0)
    k = _hit_number(start)
    precision = k / rank
    if rule == "trapezoid":
        before = np.where(rank > 1, (k - 1) / np.maximum(rank - 1, 1), 1.0)
        precision = (before + precision) / 2
    return np.add.reduceat(precision, start[:-1]) / np.diff(start)


def inverse_negative_penalty(rank: np.ndarray, start: np.ndarray) -> np.ndarray:
    """INP of each query: its number of hits divided by the rank of its last (hardest) hit; 1 when all hits come first.

    Args:
        rank: (P,) from `hit_ranks`.
        start: (Q + 1,) ascending: pairs `start[i]:start[i + 1]` belong to query i, at least one each.

    Returns:
        (Q,) float64 in (0, 1]; their mean is mINP.

    Source: Ye et al., Deep Learning for Person Re-identification: A Survey and Outlook, TPAMI 2021 (mINP).

    >>> inverse_negative_penalty(np.array([1, 4, 2]), np.array([0, 2, 3]))
    array([0.5, 0.5])
    """
    return np.diff(start) / rank[start[1:] - 1]


def cmc_curve(first_rank: np.ndarray, num_queries: int, num_ranks: int) -> np.ndarray:
    """CMC: share of the queries whose first hit is at rank k or better, for k = 1 ... num_ranks.

    Args:
        first_rank: (Q,) int >= 1, rank of the first hit of each query that has a match.
        num_queries: queries in the mean, including those without a match; 0 gives an empty curve.
        num_ranks: length of the curve.

    Returns:
        (R,) float64 fractions, or (0,).

    >>> cmc_curve(np.array([1, 3]), 4, 3)
    array([0.25, 0.25, 0.5 ])
    """
    if not num_queries:
        return np.zeros(0)
    hits = np.bincount(first_rank[first_rank <= num_ranks], minlength=num_ranks + 1)[1:]
    return np.cumsum(hits) / num_queries


def _hit_number(start: np.ndarray) -> np.ndarray:
    """(P,) number of each hit within its query: 1, 2, ..."""
    return np.arange(1, start[-1] + 1) - np.repeat(start[:-1], np.diff(start))
