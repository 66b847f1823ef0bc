"""Slow evaluators written from the definitions, and made-up data that is hard on a fast one."""

import numpy as np

from reid.features import FeatureSet
from reid.protocol import EvalProtocol


def made_up(seed=0, n=160, dimensions=16, identities=12, cameras=4, **kind):
    """Random tracklets: junk (pid -1), distractors (pid 0), unknown cameras (-1), and, when asked, repeated rows."""
    rng = np.random.default_rng(seed)
    pid = rng.integers(-1, identities, n)
    camid = rng.integers(-1 if kind.get("unknown_cameras", True) else 0, cameras, n)
    centre = rng.standard_normal((identities + 2, dimensions))
    features = 0.5 * centre[pid] + rng.standard_normal((n, dimensions))
    if kind.get("ties"):
        features = features[rng.integers(0, n // 8, n)]
    query = np.sort(rng.choice(np.flatnonzero(pid > 0), 30, replace=False))
    gallery = rng.permutation(n)[: n - 10]
    return FeatureSet(features, pid, camid, query, gallery)


def similarity(features: FeatureSet, query: int) -> np.ndarray:
    """Equal rows tie exactly: each product depends on its two rows alone."""
    wide = features.features.astype(np.float64)
    return np.array([(wide[row] * wide[query]).sum() for row in range(len(wide))])


def ranked(features: FeatureSet, protocol: EvalProtocol, query: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows that are not junk, nearest first, ties by row number; and which of them match: by a full sort."""
    rows = features.gallery
    if protocol.gallery == "without_queries":
        rows = np.array([row for row in rows if row not in features.query], int)
    near = similarity(features, query)
    rows = rows[np.lexsort((rows, -near[rows]))]
    pid, camid = features.pid, features.camid
    if protocol.camera_filter:
        hidden = (pid[rows] == pid[query]) & (camid[rows] == camid[query]) & (camid[query] != -1)
    else:
        hidden = rows == query
    rows = rows[~hidden & (pid[rows] >= 0)]
    return rows, pid[rows] == pid[query]


def trapezoid_ap(match: np.ndarray) -> float:
    """MARS' definition, walked rank by rank: recall and precision are updated at EVERY rank that is not junk."""
    area, old_recall, old_precision, hits = 0.0, 0.0, 1.0, 0
    for rank, is_match in enumerate(match, start=1):
        hits += bool(is_match)
        recall, precision = hits / match.sum(), hits / rank
        area += (recall - old_recall) * (old_precision + precision) / 2
        old_recall, old_precision = recall, precision
    return area


def hit_ap(match: np.ndarray) -> float:
    """Mean over the hits of the share of hits down to there."""
    return float(np.mean([match[: rank + 1].mean() for rank in np.flatnonzero(match)]))


def inverse_penalty(match: np.ndarray) -> float:
    """Walked down to the rank that holds the last match: the share of matches seen there."""
    for rank in range(1, len(match) + 1):
        if match[:rank].sum() == match.sum():
            return match.sum() / rank
    raise AssertionError("no match")


def evaluate_slowly(features: FeatureSet, protocol: EvalProtocol, ranks: int = 20):
    """AP of each counted query (None: no match), mAP and CMC, query by query."""
    aps, curves = [], []
    for query in features.query:
        _, match = ranked(features, protocol, query)
        if not match.any() and protocol.without_match == "skip":
            continue
        ap = (trapezoid_ap if protocol.ap == "trapezoid" else hit_ap)(match) if match.any() else 0.0
        aps.append(ap)
        curves.append([bool(match[:rank].any()) for rank in range(1, ranks + 1)])
    return np.array(aps), np.mean(aps) if aps else None, np.mean(curves, axis=0) if aps else None
