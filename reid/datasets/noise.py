"""Label noise: the one place where wrong labels are drawn. Shapes: N items, K classes.

Every function draws for all N items before it picks, so with one seed the flips of a lower rate are among those of a higher one.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from reid.errors import ConfigError, in_range

Labels = NDArray[np.int64]


def symmetric(labels_N: NDArray[np.integer], num_classes: int, rate: float, seed: int) -> Labels:
    """Replace each label, with probability `rate`, by a random class; the original may come up again.

    Args:
        labels_N: (N,) int, 0..K-1.
        num_classes: K >= 1.
        rate: probability of a draw, in [0, 1]; the expected share of wrong labels is rate * (K-1) / K.
        seed: of this noise alone.
    Returns:
        (N,) int64, a new array.
    Raises:
        ConfigError: a rate outside [0, 1] or a label outside 0..K-1.
    Source: IMAE paper, Sec. 4 (symmetric noise).
    """
    labels_N = _checked(labels_N, num_classes, rate, seed)
    rng = np.random.default_rng(seed)
    drawn_N = rng.random(len(labels_N)) < rate
    return np.where(drawn_N, rng.integers(num_classes, size=len(labels_N)), labels_N)


def uniform_others(labels_N: NDArray[np.integer], num_classes: int, rate: float, seed: int) -> Labels:
    """Replace exactly round(rate * N) labels, each by one of the K-1 other classes with equal probability.

    Args:
        labels_N: (N,) int, 0..K-1.
        num_classes: K; at least 2 where a label is to change.
        rate: share of labels made wrong, in [0, 1].
        seed: of this noise alone.
    Returns:
        (N,) int64, a new array.
    Raises:
        ConfigError: a rate outside [0, 1], a label outside 0..K-1, or no other class to choose.
    """
    labels_N = _checked(labels_N, num_classes, rate, seed)
    count = round(rate * len(labels_N))
    if count and num_classes < 2:
        raise ConfigError(
            f"label noise: {count} labels to change, but there is {num_classes} class; expected at least 2."
        )
    rng = np.random.default_rng(seed)
    chosen = rng.permutation(len(labels_N))[:count]
    shift_N = rng.integers(1, max(num_classes, 2), size=len(labels_N))
    noisy_N = labels_N.copy()
    noisy_N[chosen] = (labels_N[chosen] + shift_N[chosen]) % num_classes
    return noisy_N


NOISES: dict[str, Callable[[NDArray[np.integer], int, float, int], Labels]] = {
    "symmetric": symmetric,
    "uniform_others": uniform_others,
}


def realised_rate(noisy_N: NDArray[np.integer], clean_N: NDArray[np.integer]) -> float:
    """Share of labels, in [0, 1], that differ from the clean ones; 0 for no labels at all."""
    assert noisy_N.shape == clean_N.shape, (noisy_N.shape, clean_N.shape)
    return float(np.mean(noisy_N != clean_N)) if len(clean_N) else 0.0


def _checked(labels_N: NDArray[np.integer], num_classes: int, rate: float, seed: int) -> Labels:
    in_range("rate", rate, 0, 1)
    in_range("seed", seed, 0)
    checked_N = np.asarray(labels_N).astype(np.int64)
    if len(checked_N) and not (checked_N.min() >= 0 and checked_N.max() < num_classes):
        got = f"{checked_N.min()}..{checked_N.max()}"
        raise ConfigError(f"labels: expected 0..{num_classes - 1}, got {got}; number the sorted pids first")
    return checked_N
