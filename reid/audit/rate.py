"""How many labels are wrong, and how likely each one is, from how badly labels fit.

The margins of all tracklets are a mixture of two. Those of right labels lie about one value, with some stragglers: a Student t
distribution. Of wrong labels it is known beforehand how they look: every tracklet is given labels drawn at random, and its margin is taken
again. A network that was trained on the wrong labels has begun to believe them, so theirs lie somewhat higher: a normal distribution
whose mean is between that of random labels and half the way to the right ones. Expectation maximisation finds the shares. It holds for
labels that are wrong at random; one that is another person's because the two look alike has a higher margin, and is counted in part only.

Shapes: N tracklets, R random labels of each.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

RESAMPLES = 100
ROUNDS = 200  # of expectation maximisation, at most
DEGREES = 4  # of freedom: the tails of right labels; the density below is written for 4


@dataclass(frozen=True)
class Mixture:
    """Right and wrong labels by their margins.

    Args:
        rate: share of wrong labels, in [0, 1].
        right: place and scale of right labels' margins.
        wrong: mean and deviation of wrong labels' margins.
    """

    rate: float
    right: tuple[float, float]
    wrong: tuple[float, float]

    def likely_wrong(self, margin: Floats) -> Floats:
        """The probability that a label of this margin is wrong; it never rises with the margin."""
        ends = np.append(margin, (self.wrong[0], self.right[0]))
        grid = np.linspace(ends.min(), ends.max(), 2001)
        falling = np.minimum.accumulate(self._posterior(grid))  # far out, the wider of the two tails would win again
        at_wrong = min(int(np.searchsorted(grid, self.wrong[0])), len(grid) - 1)
        falling[:at_wrong] = falling[at_wrong] = self._posterior(grid)[at_wrong]
        return np.interp(margin, grid, np.minimum.accumulate(falling))

    def _posterior(self, margin: Floats) -> Floats:
        # The two densities written out: scipy.stats takes ten times as long, a hundred thousand times over.
        mean, deviation = self.wrong
        place, scale = self.right
        wrong = self.rate / deviation * np.exp(-(((margin - mean) / deviation) ** 2) / 2) / math.sqrt(2 * math.pi)
        right = (1 - self.rate) / scale * 0.375 * (1 + ((margin - place) / scale) ** 2 / DEGREES) ** -2.5
        return wrong / np.maximum(wrong + right, 1e-300)


@dataclass(frozen=True)
class Rate:
    """The estimated share of wrong labels, each in [0, 1].

    Args:
        value: the estimate.
        low, high: a 95 % interval, by drawing persons anew.
        contradicted: the share of tracklets that fit another person better than their own.
    """

    value: float
    low: float
    high: float
    contradicted: float


def fit_mixture(margin: Floats, null: Floats, start: Mixture | None = None) -> Mixture:
    """Finds the two kinds of labels.

    Args:
        margin: (N,) of the labels as given, N >= 2.
        null: (N, R) of labels drawn at random.
        start: where to begin.
    """
    low, spread = float(np.median(null)), max(float(null.std()), 1e-3)
    if start is None:
        fitting = margin[margin > low / 2]
        place = float(np.median(fitting)) if len(fitting) else 0.0
        scale = max(float(np.median(np.abs(fitting - place))) * 1.35 if len(fitting) else 0.0, 1e-3)
        start = Mixture(float((margin < (low + place) / 2).mean()), (place, scale), (low, spread))
    rate, (place, scale), (mean, deviation) = min(max(start.rate, 1e-4), 1 - 1e-4), start.right, start.wrong
    for _ in range(ROUNDS):
        before = rate
        wrong = Mixture(rate, (place, scale), (mean, deviation))._posterior(margin)
        right, rate = 1 - wrong, float(wrong.mean())
        pull = right * (DEGREES + 1) / (DEGREES + ((margin - place) / scale) ** 2)  # stragglers count less
        place = float((pull * margin).sum() / max(pull.sum(), 1e-12))
        scale = max(float(np.sqrt((pull * (margin - place) ** 2).sum() / max(right.sum(), 1e-12))), 1e-3)
        if wrong.sum() > 1e-9:
            mean = float((wrong * margin).sum() / wrong.sum())
        mean = min(max(mean, low), max((low + place) / 2, low))
        deviation = float(np.sqrt((wrong * (margin - mean) ** 2).sum() / max(wrong.sum(), 1e-12)))
        deviation = min(max(deviation, 0.75 * spread), 1.5 * spread)
        if abs(rate - before) < 1e-6:
            break
    return Mixture(rate, (place, scale), (mean, deviation))


def estimate_rate(margin: Floats, null: Floats, label: NDArray[np.int64], *, seed: int = 0) -> tuple[Rate, Mixture]:
    """The share of labels that are wrong at random, with an interval, and the mixture that says so.

    Args:
        margin: (N,) of the labels as given.
        null: (N, R) of labels drawn at random.
        label: (N,) 0..K-1; the interval draws persons as wholes, whose tracklets resemble each other.
        seed: of those draws.
    """
    rng, mixture = np.random.default_rng(seed), fit_mixture(margin, null)
    order = np.argsort(label, kind="stable")
    rows_of = np.split(order, np.cumsum(np.bincount(label))[:-1])
    values = []
    for _ in range(RESAMPLES):
        rows = np.concatenate([rows_of[i] for i in rng.integers(len(rows_of), size=len(rows_of))])
        values.append(fit_mixture(margin[rows], null[rows], mixture).rate)
    low, high = np.quantile(values, [0.025, 0.975])
    return Rate(mixture.rate, float(low), float(high), float((margin < 0).mean())), mixture
