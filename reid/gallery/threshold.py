"""Similarity threshold for a given false match rate, estimated from the labels of a gallery.

Shapes: P pairs of rows.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from reid.errors import ConfigError, DataError
from reid.features import FeatureSet

ROWS = 4096  # most labelled rows to compare with each other: eight million pairs
_BLOCK = 256


@dataclass(frozen=True)
class Threshold:
    """A similarity threshold, and the size of the sample it was estimated from.

    Args:
        similarity: the smallest similarity that counts as a match.
        pairs: number of impostor pairs (pairs of different persons) compared.
        rows: number of rows that form these pairs.
        labelled: number of labelled rows in the gallery, of which `rows` may be a sample.
    """

    similarity: float
    pairs: int
    rows: int
    labelled: int


def false_match_threshold(features: FeatureSet, rate: float) -> Threshold:
    """Returns the smallest similarity threshold at which at most this share of the impostor pairs match.

    Impostor pairs are two rows with pid >= 1 (pid 0 may be any person) and different pids, from any cameras. If there are more than `ROWS`
    labelled rows, a random sample of `ROWS` with a fixed seed is used.

    Args:
        features: the gallery.
        rate: false match rate, 0 < rate < 1.

    Raises:
        ConfigError: the rate is out of range.
        DataError: there are fewer than two persons, or too few impostor pairs for this rate.
    """
    if not 0 < rate < 1:
        raise ConfigError(f"false_match_rate: expected a fraction above 0 and below 1, such as 0.001, got {rate:g}")
    labelled = np.flatnonzero(features.pid >= 1)
    persons = len(np.unique(features.pid[labelled]))
    if persons < 2:
        got = f"this gallery has {len(labelled)} labelled rows of {persons} persons"
        raise DataError(
            f"false_match_rate: needs rows of two persons (pid >= 1), but {got}; use --min-similarity instead"
        )
    rows = labelled
    if len(rows) > ROWS:
        rows = np.sort(np.random.default_rng(0).choice(rows, ROWS, replace=False))
    impostor = _impostor_similarities(features.features[rows], features.pid[rows])
    passing = int(rate * len(impostor))
    if passing < 1:
        raise DataError(
            f"false_match_rate: {rate:g} cannot be estimated from {len(impostor)} pairs of different persons; expected at least "
            f"1/{len(impostor)}"
        )
    largest = np.partition(impostor, len(impostor) - 1 - passing)[len(impostor) - 1 - passing]
    return Threshold(float(np.nextafter(largest, np.inf)), len(impostor), len(rows), len(labelled))


def _impostor_similarities(features: np.ndarray, pid: np.ndarray) -> np.ndarray:
    """Returns (P,) float64 similarities, each pair of rows with different pids once."""
    wide, parts = features.astype(np.float64), []
    for first in range(0, len(wide), _BLOCK):
        similarity = wide[first : first + _BLOCK] @ wide[first:].T
        other = pid[first : first + _BLOCK, None] != pid[None, first:]
        parts.append(similarity[np.triu(other, 1)])
    return np.concatenate(parts)
