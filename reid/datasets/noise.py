"""Label noise: the only place where wrong labels are drawn. Shapes: N items, K classes.

Every function draws for all N items before it selects, so with one seed the flips of a lower rate are a subset of those of a higher one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from reid.errors import ConfigError, in_range
from reid.files import atomic

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
    Source: IMAE paper, Sec. 5.1.2 (symmetric noise).
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


def exact_count(labels_N: NDArray[np.integer], num_classes: int, rate: float, seed: int) -> Labels:
    """Draw exactly round(rate * N) labels anew from all K classes; the original may come up again.

    Args:
        labels_N: (N,) int, 0..K-1.
        num_classes: K >= 1.
        rate: share of labels drawn anew, in [0, 1]; the expected share of wrong labels is rate * (K-1) / K.
        seed: of this noise alone.
    Returns:
        (N,) int64, a new array.
    Raises:
        ConfigError: a rate outside [0, 1] or a label outside 0..K-1.
    Source: Li et al., DivideMix, ICLR 2020 (its symmetric noise).
    """
    labels_N = _checked(labels_N, num_classes, rate, seed)
    rng = np.random.default_rng(seed)
    chosen = rng.permutation(len(labels_N))[: round(rate * len(labels_N))]
    noisy_N = labels_N.copy()
    noisy_N[chosen] = rng.integers(num_classes, size=len(labels_N))[chosen]
    return noisy_N


def asymmetric(labels_N: NDArray[np.integer], num_classes: int, rate: float, seed: int, to: Sequence[int]) -> Labels:
    """Flip each label, with probability `rate`, to the one class that its class is confused with.

    All flips start from the clean labels. If classes were flipped in place one after another, labels that had just been flipped into a
    class could leave it again: of two classes that flip into each other at 40 %, the first would end up with only 24 % wrong labels.

    Args:
        labels_N: (N,) int, 0..K-1, clean.
        num_classes: K >= 1.
        rate: probability of a flip, in [0, 1], for classes that flip at all.
        seed: of this noise alone.
        to: K classes, 0..K-1; class c flips to to[c], or not at all if to[c] is c.
    Returns:
        (N,) int64, a new array.
    Raises:
        ConfigError: a rate outside [0, 1], a label outside 0..K-1, or a map that is not K such classes.
    Source: Patrini et al., Making Deep Neural Networks Robust to Label Noise, CVPR 2017, Sec. 5.
    """
    labels_N = _checked(labels_N, num_classes, rate, seed)
    if len(to) != num_classes or not all(0 <= label < num_classes for label in to):
        raise ConfigError(f"to: expected {num_classes} classes, each in 0..{num_classes - 1}, got {list(to)}")
    flips_N = np.random.default_rng(seed).random(len(labels_N)) < rate
    return np.where(flips_N, np.array(to, dtype=np.int64)[labels_N], labels_N)


# `asymmetric` is not listed: its map comes with a dataset, not from a config.
NOISES: dict[str, Callable[[NDArray[np.integer], int, float, int], Labels]] = {
    "symmetric": symmetric,
    "exact_count": exact_count,
    "uniform_others": uniform_others,
}


def realised_rate(noisy_N: NDArray[np.integer], clean_N: NDArray[np.integer]) -> float:
    """Compute the share of labels, in [0, 1], that differ from the clean ones; 0 for no labels at all."""
    assert noisy_N.shape == clean_N.shape, (noisy_N.shape, clean_N.shape)
    return float(np.mean(noisy_N != clean_N)) if len(clean_N) else 0.0


def write_flips(
    path: Path, clean_N: NDArray[np.integer], given_N: NDArray[np.integer], index_N: NDArray[np.integer]
) -> None:
    """Write the changed labels as CSV with the header ``row,clean,given``, in ascending order of row.

    Args:
        path: the file, written atomically.
        clean_N: (N,) int, labels before.
        given_N: (N,) int, labels after.
        index_N: (N,) int, ascending: each sample's row in the whole training set.

    Raises:
        DataError: the file cannot be written.
    """
    assert clean_N.shape == given_N.shape == index_N.shape, (clean_N.shape, given_N.shape, index_N.shape)
    flips = np.stack([index_N, clean_N, given_N], axis=1)[clean_N != given_N]
    with atomic(path) as temporary:
        np.savetxt(temporary, flips, fmt="%d", delimiter=",", header="row,clean,given", comments="")


def _checked(labels_N: NDArray[np.integer], num_classes: int, rate: float, seed: int) -> Labels:
    in_range("rate", rate, 0, 1)
    in_range("seed", seed, 0)
    checked_N = np.asarray(labels_N).astype(np.int64)
    if len(checked_N) and not (checked_N.min() >= 0 and checked_N.max() < num_classes):
        got = f"{checked_N.min()}..{checked_N.max()}"
        raise ConfigError(f"labels: expected 0..{num_classes - 1}, got {got}; number the sorted pids first")
    return checked_N
