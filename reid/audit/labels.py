"""Fit between the feature of each tracklet and its label, compared with all other labels.

Shapes: N tracklets, D feature, K persons, n rows of a block.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

ROWS_AT_ONCE = 1024
CELLS_AT_ONCE = 2**24  # entries of a matrix of similarities: 64 MB in float32
ROUNDS = 3  # iterations of the centroids, each weighting tracklets by their fit to the previous ones
SOFTNESS = 0.05  # temperature of these weights, in cosine similarity
NEIGHBOURS = 10  # maximum; it should be below the size of an identity, or neighbours of other identities are inevitable
DRAWS = 4  # random labels per tracklet, to estimate the margins of wrong labels


@dataclass(frozen=True)
class Persons:
    """Tracklets, their labels, and the centroid of each person.

    Args:
        features: (N, D) float32 unit rows.
        label: (N,) 0..K-1.
        camid: (N,) integers, -1 unknown.
        centroid: (K, D) unit rows: the weighted mean of each person's tracklets, scaled to unit length.
        total: (K, D) the weighted sums before scaling.
        trust: (N,) in (0, 1], the weight of each tracklet in its centroid.
    """

    features: NDArray[np.float32]
    label: Ints
    camid: Ints
    centroid: Floats
    total: Floats
    trust: Floats


@dataclass(frozen=True)
class Fit:
    """Cosine similarities of tracklets to the centroids of their own and of other persons, in [-1, 1]; (N,) each.

    Args:
        own: to the centroid of the tracklet's own person, computed without the tracklet; NaN if the person has no other tracklet.
        other: to the nearest centroid of another person.
        other_label: that person.
        third: to the second nearest centroid of another person; -1 with only two persons.
        null: (N, draws) margins own - other as they would be if the tracklet had a label drawn at random.
    """

    own: Floats
    other: Floats
    other_label: Ints
    third: Floats
    null: Floats

    @property
    def margin(self) -> Floats:
        """own - other; below 0, another person fits better. For the only tracklet of a person, own is replaced by its median."""
        known = np.isfinite(self.own)
        return np.where(known, self.own, np.median(self.own[known]) if known.any() else 1.0) - self.other


@dataclass(frozen=True)
class OutOfFold:
    """What networks say that have not been trained on the tracklets they judge.

    Args:
        given: (N,) margins of the given labels, as `Fit.margin`; NaN where no network was trained without the tracklet.
        drawn: (N, draws) margins of labels drawn at random, as `Fit.null`.
        two_persons: as `identities.two_persons`, by networks that have not been trained on these persons; None if there are none.
    """

    given: Floats
    drawn: Floats
    two_persons: dict[int, tuple[Ints, float]] | None = None

    def averaged_with(self, fit: Fit) -> tuple[Floats, Floats]:
        """Means of these and the margins of `fit`, of given and of drawn labels; those of `fit` alone where there is none here."""
        known = np.isfinite(self.given)
        given = np.where(known, (self.given + fit.margin) / 2, fit.margin)
        return given, np.where(known[:, None], (self.drawn + fit.null) / 2, fit.null)


def unit(rows: NDArray[np.floating]) -> Floats:
    """Rows scaled to unit length; zero rows stay zero."""
    rows = np.asarray(rows, np.float64)
    return rows / np.maximum(np.linalg.norm(rows, axis=-1, keepdims=True), 1e-12)


def persons_of(features: NDArray[np.float32], label: Ints, camid: Ints) -> Persons:
    """Computes centroids in which tracklets are weighted by their fit, so that wrong labels have less influence on them.

    Args:
        features: (N, D) unit rows.
        label: (N,) 0..K-1, each at least once; K >= 2.
        camid: (N,) cameras.
    """
    trust = np.ones(len(label))
    for _ in range(ROUNDS):
        persons = _weighed(features, label, camid, trust)
        margin = fit_of(persons, draws=0).margin
        trust = np.clip(1 / (1 + np.exp(-margin / SOFTNESS)), 1e-3, 1)
    return _weighed(features, label, camid, trust)


def _weighed(features: NDArray[np.float32], label: Ints, camid: Ints, trust: Floats) -> Persons:
    total = np.zeros((label.max() + 1, features.shape[1]))
    for rows in blocks(len(label)):
        np.add.at(total, label[rows], features[rows] * trust[rows, None])
    return Persons(features, label, camid, unit(total), total, trust)


def fit_of(persons: Persons, *, draws: int = DRAWS, seed: int = 0) -> Fit:
    """Compares each tracklet with the centroid of every person, at most `CELLS_AT_ONCE` similarities at a time.

    Args:
        persons: from `persons_of`.
        draws: random labels per tracklet for `Fit.null`.
        seed: of these labels.
    """
    N, K = len(persons.label), len(persons.centroid)
    own, other, third = np.empty(N), np.empty(N), np.full(N, -1.0)
    other_label, null = np.empty(N, np.int64), np.empty((N, draws))
    centroid = persons.centroid.astype(np.float32)  # half the memory traffic; cosines are accurate to 1e-6
    shift = np.random.default_rng(seed).integers(1, K, (N, draws))  # to one of the other labels, at random
    for rows in blocks(N, K):
        x, label, at = (
            persons.features[rows].astype(np.float64),
            persons.label[rows],
            np.arange(len(persons.label[rows])),
        )
        rest = persons.total[label] - x * persons.trust[rows, None]
        length = np.linalg.norm(rest, axis=1)
        alone = length < 1e-9
        own[rows] = np.where(alone, np.nan, (x * rest).sum(1) / np.where(alone, 1, length))
        similarity = persons.features[rows] @ centroid.T
        drawn = (label[:, None] + shift[rows]) % K
        as_drawn = np.take_along_axis(similarity, drawn, 1)
        similarity[at, label] = -np.inf
        first = similarity.argmax(1)
        other_label[rows], other[rows] = first, similarity[at, first]
        similarity[at, first] = -np.inf
        if K > 2:
            third[rows] = similarity.max(1)
        best_rest = np.where(drawn == first[:, None], third[rows, None], other[rows, None])
        null[rows] = as_drawn - np.fmax(best_rest, own[rows, None])  # the given label then counts as another one
    return Fit(own, other, other_label, third, null)


@dataclass(frozen=True)
class Neighbours:
    """The most similar other tracklets of each tracklet; (N,) each.

    Args:
        agree: share in [0, 1] of the nearest tracklets that have the same label, weighted by similarity; NaN if no other has this label.
        row: the most similar other tracklet, of any person and camera.
        similarity: its cosine similarity.
    """

    agree: Floats
    row: Ints
    similarity: Floats


def neighbours_of(persons: Persons) -> Neighbours:
    """Compares each tracklet with every other, at most `CELLS_AT_ONCE` similarities at a time.

    For `agree`, the number of neighbours is the number of other tracklets of the person, at most `NEIGHBOURS`. If the person has tracklets
    under other cameras, only tracklets of other cameras are compared, because illumination and background make tracklets of one camera
    similar.
    """
    N, K = len(persons.label), len(persons.centroid)
    k = min(NEIGHBOURS, N - 1)
    agree, nearest, similarity = np.full(N, np.nan), np.zeros(N, np.int64), np.zeros(N)
    size = np.bincount(persons.label, minlength=K)
    order = np.argsort(persons.camid, kind="stable")  # tracklets of one camera are then a range of columns
    label, columns = persons.label[order], np.ascontiguousarray(persons.features[order].T)
    cameras, first_of = np.unique(persons.camid[order], return_index=True)
    for camera, first, last in zip(cameras.tolist(), first_of.tolist(), [*first_of.tolist()[1:], N], strict=True):
        # Unknown cameras are never the same.
        elsewhere = size - np.bincount(label[first:last], minlength=K) if camera >= 0 else np.zeros(K, np.int64)
        for rows in blocks(last - first, N):
            mine = slice(first + rows.start, first + rows.stop)
            at, own = np.arange(mine.stop - mine.start), label[mine]
            cells = columns[:, mine].T @ columns
            cells[at, np.arange(mine.start, mine.stop)] = -np.inf
            best = cells.argmax(1)
            nearest[order[mine]], similarity[order[mine]] = order[best], cells[at, best]
            restricted = elsewhere[own] > 0
            cells[restricted, first:last] = -np.inf
            count = np.minimum(np.where(restricted, elsewhere[own], size[own] - 1), NEIGHBOURS)
            values, near = (found.numpy() for found in torch.from_numpy(cells).topk(k, dim=1))
            weight = np.where((np.arange(k) < count[:, None]) & np.isfinite(values), np.maximum(values, 1e-6), 0)
            total = weight.sum(1, dtype=np.float64)
            same = (weight * (label[near] == own[:, None])).sum(1, dtype=np.float64)
            agree[order[mine]] = np.where(total > 0, same / np.where(total > 0, total, 1), np.nan)
    return Neighbours(agree, nearest, similarity)


def rows_by_label(label: Ints) -> list[Ints]:
    """The rows of each label 0..K-1, ascending."""
    return np.split(np.argsort(label, kind="stable"), np.cumsum(np.bincount(label))[:-1])


def blocks(count: int, width: int = 1) -> Iterator[slice]:
    """Slices of at most `ROWS_AT_ONCE` rows, and of at most `CELLS_AT_ONCE` entries if each row has `width` of them."""
    rows = max(min(ROWS_AT_ONCE, CELLS_AT_ONCE // width), 1)
    return (slice(first, min(first + rows, count)) for first in range(0, count, rows))
