"""Estimates of the share of wrong labels, and of the probability that each label is wrong, from the margins of all tracklets.

The margins are modelled as a mixture of two distributions. Those of right labels follow a Student t distribution, which allows for
outliers. Those of wrong labels are estimated beforehand: every tracklet is given random labels, and its margin is computed again. A
network trained on wrong labels has partly fitted them, so their margins are somewhat higher: a normal distribution whose mean lies
between that of random labels and halfway to the right ones. Expectation maximisation finds the shares. The estimate holds for labels that
are wrong at random (symmetric noise); a confusion between persons who look alike has a higher margin, and is only partly counted.

Shapes: N tracklets, R random labels of each.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

RESAMPLES = 100
ROUNDS = 200  # maximum number of iterations of expectation maximisation
DEGREES = 4  # degrees of freedom of the t distribution of right labels; the density below is written for 4


@dataclass(frozen=True)
class Mixture:
    """Mixture model of the margins of right and wrong labels.

    Args:
        rate: share of wrong labels, in [0, 1].
        right: location and scale of the margins of right labels (Student t).
        wrong: mean and standard deviation of the margins of wrong labels (normal).
    """

    rate: float
    right: tuple[float, float]
    wrong: tuple[float, float]

    def likely_wrong(self, margin: Floats) -> Floats:
        """The probability that a label with this margin is wrong; it never increases with the margin."""
        ends = np.append(margin, (self.wrong[0], self.right[0]))
        grid = np.linspace(ends.min(), ends.max(), 2001)
        posterior = self._posterior(grid)
        at_wrong = min(int(np.searchsorted(grid, self.wrong[0])), len(grid) - 1)
        posterior[:at_wrong] = posterior[at_wrong]  # far below, the heavier tail of right labels would dominate again
        return np.interp(margin, grid, np.minimum.accumulate(posterior))

    def _posterior(self, margin: Floats) -> Floats:
        # The densities are written out because this is called very often and scipy.stats takes ten times as long.
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
        low, high: a 95 % bootstrap interval over persons.
        contradicted: share of tracklets with a negative margin: another person fits better than their own.
    """

    value: float
    low: float
    high: float
    contradicted: float


def fit_mixture(margin: Floats, null: Floats, start: Mixture | None = None) -> Mixture:
    """Fits the mixture by expectation maximisation.

    Args:
        margin: (N,) margins of the given labels, N >= 2.
        null: (N, R) margins of labels drawn at random.
        start: initial mixture; None: estimated from the margins.
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
        pull = right * (DEGREES + 1) / (DEGREES + ((margin - place) / scale) ** 2)  # outliers weigh less
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
    """Estimates the share of labels that are wrong at random, with an interval; also returns the fitted mixture.

    Args:
        margin: (N,) margins of the given labels.
        null: (N, R) margins of labels drawn at random.
        label: (N,) 0..K-1; the bootstrap resamples whole persons, because tracklets of one person are correlated.
        seed: of the bootstrap.
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
