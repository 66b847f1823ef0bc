"""Detection of foreign frames in a tracklet, which show another person: intruders and identity switches.

Shapes: F frames of all tracklets, concatenated, T tracklets, D feature, n frames of one tracklet, m of them compared with each other.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from reid.audit.labels import Ints

SPANS = 4  # maximum number of foreign stretches per tracklet
BORDER = 0.5  # position of the border between the similarities of different persons (0) and of one tracklet (1)
SAMPLED = 10_000  # maximum number of tracklets from which the border is estimated
LONGEST = 512  # maximum number of frames compared with each other; longer tracklets are subsampled evenly


@dataclass(frozen=True)
class Foreign:
    """Foreign frames, which do not show the person that most of their tracklet shows.

    Args:
        frame: (F,) bool, true for foreign frames.
        border: the similarity below which a stretch of frames is foreign; NaN if the features do not separate persons well enough.
    """

    frame: NDArray[np.bool_]
    border: float


def foreign_frames(features: NDArray[np.floating], lengths: Ints, label: Ints) -> Foreign:
    """Finds the stretch of frames that differs most from the rest of its tracklet, repeatedly until none is foreign (`SPANS` at most).

    A stretch is foreign if the cosine similarity between the mean of its frames and the mean of the rest is below `border`, which lies
    between the median similarities of frames of different persons and of two frames of one tracklet. The shorter part is the foreign one.

    Args:
        features: (F, D) unit rows.
        lengths: (T,) frames of each tracklet, F in all.
        label: (T,) given persons of the tracklets; most of them must be right.
    """
    stop = np.cumsum(lengths)
    start = stop - lengths
    border = _border(features, start, lengths, label)
    foreign = np.zeros(len(features), bool)
    for first, last in zip(start.tolist(), stop.tolist(), strict=True):
        rows = features[first:last]
        own = np.ones(len(rows), bool)
        if np.isfinite(border):
            for _ in range(SPANS):
                found = _most_different(rows[own], border)
                if found is None:
                    break
                own[np.flatnonzero(own)[found]] = False
        foreign[first:last] = ~own
    return Foreign(foreign, border)


def spans(foreign: NDArray[np.bool_]) -> tuple[tuple[int, int], ...]:
    """(first, last) of each run of true entries, both included."""
    edges = np.flatnonzero(np.diff(np.concatenate([[0], foreign.astype(np.int8), [0]])))
    return tuple((int(first), int(last) - 1) for first, last in edges.reshape(-1, 2))


def _border(features: NDArray[np.floating], start: Ints, lengths: Ints, label: Ints) -> float:
    """The border between the median similarities of frames of different persons and of one tracklet (its first and middle frame).

    NaN if the two medians differ by 0.1 or less. Tracklets are paired in random order, because adjacent ones are often of one person.
    """
    several = np.random.default_rng(0).permutation(np.flatnonzero(lengths > 1))[:SAMPLED]
    differ = label[several] != np.roll(label[several], 1)
    if not differ.any():
        return np.nan
    one = np.asarray(features[start[several]], np.float64)
    two = np.asarray(features[start[several] + lengths[several] // 2], np.float64)
    same, different = np.median((one * two).sum(1)), np.median((one * np.roll(two, 1, 0)).sum(1)[differ])
    return float(different + BORDER * (same - different)) if same - different > 0.1 else np.nan


def _most_different(rows: NDArray[np.floating], border: float) -> Ints | None:
    """Positions of the foreign stretch among the (n, D) frames of one tracklet; None if there is none.

    Of all stretches, it is the one that explains most of the scatter of the frames, n1 n2 / n |mean1 - mean2|^2. All are computed at
    once from cumulative sums (an integral image) of the matrix of similarities between frames.
    """
    n, stride = len(rows), -(-len(rows) // LONGEST)
    if n < 2:
        return None
    picked = np.asarray(rows[::stride], np.float64)
    m = len(picked)
    sums = np.zeros((m + 1, m + 1))
    sums[1:, 1:] = (picked @ picked.T).cumsum(0).cumsum(1)
    i, j = np.triu_indices(m + 1, 1)
    inside, size = sums[j, j] - sums[i, j] - sums[j, i] + sums[i, i], j - i
    proper = size < m
    i, j, inside, size = i[proper], j[proper], inside[proper], size[proper]
    if not len(i):
        return None
    across = sums[j, m] - sums[i, m] - inside
    outside = sums[m, m] - 2 * across - inside
    rest = m - size
    scatter = size * rest / m * (inside / size**2 + outside / rest**2 - 2 * across / (size * rest))
    best = int(scatter.argmax())
    alike = across[best] / np.sqrt(max(inside[best] * outside[best], 1e-12))
    if alike >= border:
        return None
    stretch = np.zeros(m, bool)
    stretch[i[best] : j[best]] = True
    whole = np.repeat(stretch, stride)[:n]
    return np.flatnonzero(whole if whole.sum() * 2 <= n else ~whole)
