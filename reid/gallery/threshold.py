"""How similar two tracklets must be to be taken for one person, told from a gallery's own labels.

Shapes: N rows, n of them, D feature dimensions, P pairs.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from reid.errors import ConfigError, DataError
from reid.features import FeatureSet

ROWS = 4096  # labelled rows that are compared with one another at most: eight million pairs
_BLOCK = 256


@dataclass(frozen=True)
class Threshold:
    """A similarity and what it was told from.

    Args:
        similarity: the smallest one that passes.
        pairs: of different persons that were compared.
        rows: that these pairs are made of.
        labelled: rows of the gallery that could have been.
    """

    similarity: float
    pairs: int
    rows: int
    labelled: int


def false_match_threshold(features: FeatureSet, rate: float) -> Threshold:
    """The smallest similarity that at most this share of the pairs of different persons reaches.

    Pairs are of rows with pid >= 1 (pid 0 may be anybody) and different pids, whatever their cameras; a fixed random sample of
    `ROWS` rows is taken of more.

    Args:
        features: the gallery.
        rate: 0 < rate < 1.

    Raises:
        ConfigError: the rate is out of range.
        DataError: there are fewer than two persons, or too few pairs to tell so small a rate.
    """
    if not 0 < rate < 1:
        raise ConfigError(f"false_match_rate: expected a share above 0 and below 1, such as 0.001, got {rate:g}")
    labelled = np.flatnonzero(features.pid >= 1)
    persons = len(np.unique(features.pid[labelled]))
    if persons < 2:
        got = f"this gallery has {len(labelled)} labelled rows of {persons} persons"
        raise DataError(
            f"false_match_rate: needs rows of two persons (pid >= 1), and {got}; give --min-similarity instead"
        )
    rows = labelled
    if len(rows) > ROWS:
        rows = np.sort(np.random.default_rng(0).choice(rows, ROWS, replace=False))
    impostor = _impostor_similarities(features.features[rows], features.pid[rows])
    passing = int(rate * len(impostor))
    if passing < 1:
        raise DataError(
            f"false_match_rate: {rate:g} cannot be told from {len(impostor)} pairs of different persons; expected at least "
            f"1/{len(impostor)}"
        )
    largest = np.partition(impostor, len(impostor) - 1 - passing)[len(impostor) - 1 - passing]
    return Threshold(float(np.nextafter(largest, np.inf)), len(impostor), len(rows), len(labelled))


def _impostor_similarities(features: np.ndarray, pid: np.ndarray) -> np.ndarray:
    """(P,) float64, each pair of rows of different pids once."""
    wide, parts = features.astype(np.float64), []
    for first in range(0, len(wide), _BLOCK):
        similarity = wide[first : first + _BLOCK] @ wide[first:].T
        other = pid[first : first + _BLOCK, None] != pid[None, first:]
        parts.append(similarity[np.triu(other, 1)])
    return np.concatenate(parts)
