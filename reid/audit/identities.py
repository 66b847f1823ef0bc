"""Wrong labels of whole persons (one person under two pids, two under one pid), and nearest tracklets, to find duplicates.

Shapes: N tracklets, D feature, K persons.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.cluster.hierarchy import fcluster, linkage
from scipy.spatial.distance import squareform

from reid.audit.labels import Fit, Floats, Ints, Persons, blocks, rows_by_label, unit

SAME = 1 - 1e-4  # two tracklets at least this similar are the same images
PART = 0.25  # minimum share of a label's tracklets for a group to be another person
LARGEST = 5000  # maximum number of tracklets of one label that are clustered: their matrix of similarities takes 200 MB


@dataclass(frozen=True)
class Likeness:
    """Typical cosine similarities of the features.

    Args:
        same: median similarity of tracklets to the centroid of their own person.
        different: median similarity of tracklets to the centroid of another person, drawn at random.
    """

    same: float
    different: float

    def as_one(self, similarity: Floats | float) -> Floats:
        """Similarity rescaled to 0 at `different` and 1 at `same`, clipped to [0, 1]."""
        return np.clip((similarity - self.different) / max(self.same - self.different, 1e-6), 0, 1)


def likeness_of(persons: Persons, fit: Fit, trusted: NDArray[np.bool_], *, seed: int = 0) -> Likeness:
    """Typical similarities of the features; `same` is computed from the `trusted` tracklets (N,) bool, whose labels are reliable."""
    rng, K = np.random.default_rng(seed), len(persons.centroid)
    drawn = (persons.label + rng.integers(1, K, len(persons.label))) % K
    other = np.concatenate(
        [(persons.features[rows] * persons.centroid[drawn[rows]]).sum(1) for rows in blocks(len(drawn))]
    )
    known = trusted & np.isfinite(fit.own)
    return Likeness(float(np.median(fit.own[known])) if known.any() else 1.0, float(np.median(other)))


def same_person(persons: Persons, fit: Fit, likeness: Likeness) -> list[tuple[int, int, float]]:
    """Pairs of labels that may be one person, mutual nearest neighbours by centroid: (smaller label, larger label, confidence in [0, 1]).

    If two labels are one person, tracklets are as similar to the other label's centroid as to their own. The confidence is the similarity
    to the other centroid, rescaled to 0 for different persons and 1 for the similarity to the own centroid. Tracklets are weighted by
    trust, because tracklets with swapped labels would make two different persons similar.
    """
    K = len(persons.centroid)
    partner = np.zeros(K, np.int64)
    for rows in blocks(K, K):
        similarity = persons.centroid[rows] @ persons.centroid.T
        similarity[np.arange(len(similarity)), np.arange(K)[rows]] = -np.inf
        partner[rows] = similarity.argmax(1)
    pairs, rows_of = [], rows_by_label(persons.label)
    for label in np.flatnonzero(partner[partner] == np.arange(K)).tolist():
        other = int(partner[label])
        if label < other:
            both = np.concatenate([rows_of[label], rows_of[other]])
            centroid = persons.centroid[np.where(persons.label[both] == label, other, label)]
            trust, own = persons.trust[both], fit.own[both]
            between = float(np.average((persons.features[both] * centroid).sum(1), weights=trust))
            known = np.isfinite(own)
            within = float(np.average(own[known], weights=trust[known])) if known.any() else likeness.same
            pairs.append((label, other, float(Likeness(within, likeness.different).as_one(between))))
    return pairs


def two_persons(persons: Persons, likeness: Likeness) -> dict[int, tuple[Ints, float]]:
    """Labels that hold two persons: label -> (rows of the smaller part, confidence in [0, 1]).

    The tracklets of a label are clustered by average linkage, cut halfway between the typical similarities of one person and of different
    persons. If the second largest cluster has at least `PART` of the tracklets (and two), it is another person; the confidence rises the
    less similar the two clusters are and the more cohesive each is. Other wrong labels form small clusters of their own. Labels with
    fewer than 4 tracklets, or more than `LARGEST` (which are not persons), are skipped.
    """
    found = {}
    border = 1 - (likeness.same + likeness.different) / 2
    for label, rows in enumerate(rows_by_label(persons.label)):
        if not 4 <= len(rows) <= LARGEST:
            continue
        x = persons.features[rows].astype(np.float64)
        distance = 1 - np.clip(x @ x.T, -1, 1)
        distance = (distance + distance.T) / 2
        np.fill_diagonal(distance, 0)
        group = fcluster(linkage(squareform(distance, checks=False), "average"), border, "distance")
        sizes = np.bincount(group)
        second, first = np.argsort(sizes, kind="stable")[-2:]
        if len(sizes) < 3 or sizes[second] < max(2, PART * len(rows)):
            continue
        one, two = x[group == second], x[group == first]
        across = float(unit(one.sum(0)) @ unit(two.sum(0)))
        hold = min(float(likeness.as_one(_cohesion(part))) for part in (one, two))
        found[label] = (rows[group == second], min(1 - float(likeness.as_one(across)), hold))
    return found


def _cohesion(x: Floats) -> float:
    """Mean cosine similarity of each row to the mean of the others; at least two rows."""
    rest = x.sum(0) - x
    return float(((x * rest).sum(1) / np.maximum(np.linalg.norm(rest, axis=1), 1e-12)).mean())
