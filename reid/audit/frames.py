"""Frames inside a tracklet that show somebody else: intruders, and identity switches.

Shapes: F frames of all tracklets one after another, T tracklets, D feature, n frames of one tracklet.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from reid.audit.labels import Ints

SPANS = 4  # looked for in a tracklet, at most
BORDER = 0.5  # of the way from different persons to one
SAMPLED = 10_000  # tracklets, at most, that the border is taken from
LONGEST = 512  # frames compared with each other; of a longer tracklet every second, third … stands for its neighbours


@dataclass(frozen=True)
class Foreign:
    """Which frames do not show the person that most of their tracklet shows.

    Args:
        frame: (F,) bool.
        border: the similarity below which a stretch of frames is foreign; NaN where persons and frames cannot be told apart.
    """

    frame: NDArray[np.bool_]
    border: float


def foreign_frames(features: NDArray[np.floating], lengths: Ints, label: Ints) -> Foreign:
    """Looks in each tracklet for the stretch of frames that differs most from the rest, again until nothing differs.

    A stretch is foreign where the mean of its frames is less like the rest's than `border`, which lies between how alike frames of
    different persons are as a rule and how alike two of one tracklet are. Of two parts, the shorter is the foreign one.

    Args:
        features: (F, D) unit rows.
        lengths: (T,) frames of each tracklet, F in all.
        label: (T,) the tracklets' persons as given; most of them have to be right.
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
    """(first, last) of each run of true entries, end included."""
    edges = np.flatnonzero(np.diff(np.concatenate([[0], foreign.astype(np.int8), [0]])))
    return tuple((int(first), int(last) - 1) for first, last in edges.reshape(-1, 2))


def _border(features: NDArray[np.floating], start: Ints, lengths: Ints, label: Ints) -> float:
    """BORDER of the way from frames of different persons to those of one tracklet (first and middle one); NaN where they are hardly apart.

    Neighbours in a table are often of one person, so tracklets are compared in an order drawn at random.
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
    """Positions of the foreign stretch of one tracklet's (n, D) frames; None where nothing is foreign.

    The stretch is the one that explains most of the frames' scatter: n1 n2 / n |mean1 - mean2|^2, over all stretches, by sums over the
    table of all similarities between frames.
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
