"""The label audit: computes all evidence for every tracklet and ranks tracklets by suspicion.

Shapes: N tracklets, F frames of all tracklets, concatenated, D feature.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from reid.audit.frames import foreign_frames, spans
from reid.audit.identities import SAME, Likeness, likeness_of, same_person, two_persons
from reid.audit.labels import (
    DRAWS,
    Fit,
    Floats,
    Ints,
    OutOfFold,
    Persons,
    fit_of,
    neighbours_of,
    persons_of,
    rows_by_label,
    unit,
)
from reid.audit.rate import Mixture, Rate, estimate_rate
from reid.errors import DataError
from reid.findings import Exemplar, Finding, Kind

TWO_PERSONS, ONE_PERSON = 0.65, 0.8  # minimum confidence to report a pid with two persons, or a person with two pids
ALONE = 0.3  # a tracklet fits nobody if its nearest one, as `Likeness.as_one`, is less similar than this
EXEMPLARS = 3  # tracklets shown for comparison, per person
CANDIDATES = 200  # the most trusted tracklets of each person, from which exemplars are chosen
APART = 1e-3  # minimum difference of cosine similarity between one person and different persons


@dataclass(frozen=True)
class Audit:
    """Result of an audit.

    Args:
        findings: one for each tracklet, most suspicious first.
        rate: the estimated share of wrong labels.
        likeness: typical similarities of the features.
    """

    findings: list[Finding]
    rate: Rate
    likeness: Likeness


def audit(
    features: NDArray[np.floating],
    lengths: Ints | None,
    pid: Ints,
    camid: Ints,
    *,
    rows: Ints | None = None,
    evidence: Mapping[str, Floats] | None = None,
    out_of_fold: OutOfFold | None = None,
    seed: int = 0,
) -> Audit:
    """Ranks tracklets by the probability that their label is wrong.

    `suspicion` is this probability, from the tracklet's margin (similarity to its own centroid, computed without it, minus that to the
    nearest other centroid) in a mixture of right and wrong labels. It is at least one half if the tracklet fits nobody, and, in the smaller
    part of a pid that holds two persons, at least the confidence of that finding. Foreign frames do not raise it: they are a separate
    column and kind of finding.

    Args:
        features: (F, D) unit rows, one per frame; or (N, D), one per tracklet, without `lengths`.
        lengths: (N,) frames of each tracklet; None if features are per tracklet.
        pid: (N,) given persons, all >= 0; at least two different ones.
        camid: (N,) cameras, -1 unknown.
        rows: (N,) row of each tracklet in the caller's table; 0..N-1 by default.
        evidence: further columns of evidence, (N,) each, which are copied to the findings.
        out_of_fold: from `judged_by`. The probability that a label is wrong then comes from the mean of both margins.
        seed: of the random labels that serve as examples of wrong labels, and of the bootstrap of the rate.

    Raises:
        DataError: there are fewer than two persons or three tracklets, a feature is not finite, or features do not separate persons.
    """
    pids, label = np.unique(pid, return_inverse=True)
    if len(pids) < 2 or len(pid) < 3:
        raise DataError(
            f"audit: {len(pid)} tracklets of {len(pids)} persons; expected at least 3 tracklets of at least 2 persons"
        )
    if lengths is None:
        of_tracklet, share = np.asarray(features, np.float32), np.zeros(len(pid))
        where: list[tuple[tuple[int, int], ...]] = [()] * len(pid)
    else:
        start = np.cumsum(lengths) - lengths
        of_tracklet = _pooled(features, start, lengths)
        foreign = foreign_frames(features, lengths, label)
        share = np.add.reduceat(foreign.frame.astype(np.float64), start) / lengths
        where = [spans(part) for part in np.split(foreign.frame, start[1:])]
    _require_finite(of_tracklet)
    persons = persons_of(of_tracklet, label, camid)
    fit = fit_of(persons, seed=seed)
    margin, null = (fit.margin, fit.null) if out_of_fold is None else out_of_fold.averaged_with(fit)
    rate, mixture = estimate_rate(margin, null, label, seed=seed)
    wrong = mixture.likely_wrong(margin)
    likeness = likeness_of(persons, fit, wrong < 0.5, seed=seed)
    _require_apart(likeness)
    neighbours = neighbours_of(persons)
    twin, alike = neighbours.row, neighbours.similarity
    two = None if out_of_fold is None else out_of_fold.two_persons
    two = two_persons(persons, likeness) if two is None else two
    kind, suspicion, suggested = _judged(persons, fit, mixture, likeness, wrong, share, alike, two)
    columns = {
        "label_wrong": wrong,
        "margin": fit.margin,
        **({} if out_of_fold is None else {"margin_out_of_fold": out_of_fold.given}),
        "own_similarity": fit.own,
        "other_similarity": fit.other,
        "neighbours": neighbours.agree,
        **({} if lengths is None else {"foreign_frames": share}),
        **(evidence or {}),
    }
    order = np.lexsort((margin, -suspicion))
    own, other = _exemplars(persons, fit, suggested, order)
    number = np.arange(len(pid)) if rows is None else rows
    findings = []
    for row in order.tolist():
        beside = other[row]
        if kind[row] == "duplicate":
            beside = [(int(twin[row]), float(alike[row]))]
        findings.append(
            Finding(
                int(number[row]),
                float(suspicion[row]),
                kind[row],
                int(pids[suggested[row]]) if suggested[row] >= 0 else None,
                where[row],
                {name: float(values[row]) for name, values in columns.items()},
                tuple(Exemplar(int(number[found]), similarity) for found, similarity in own[row]),
                tuple(Exemplar(int(number[found]), similarity) for found, similarity in beside),
            )
        )
    return Audit(findings, rate, likeness)


def judged_by(
    networks: Iterable[tuple[int, NDArray[np.floating]]],
    fold: Ints,
    lengths: Ints,
    pid: Ints,
    camid: Ints,
    *,
    persons: bool = False,
    seed: int = 0,
) -> OutOfFold:
    """Judges tracklets by networks that have not been trained on them.

    Args:
        networks: fold, and (F, D) unit rows of the frames of all tracklets by the network that was trained without this fold.
        fold: (N,) fold of each tracklet; one that no network was trained without is in none of these folds.
        lengths: (N,) frames of each tracklet.
        pid: (N,) given persons.
        camid: (N,) cameras.
        persons: whether folds hold whole persons: these are then also searched for pids that hold two.
        seed: as for `audit`.

    Raises:
        DataError: as for `audit`; or a fold holds one person only.
    """
    label = np.unique(pid, return_inverse=True)[1]
    found = OutOfFold(np.full(len(pid), np.nan), np.full((len(pid), DRAWS), np.nan), {} if persons else None)
    for number, features in networks:
        rows = np.flatnonzero(fold == number)
        of_tracklet = _pooled(features, np.cumsum(lengths) - lengths, lengths)
        _require_finite(of_tracklet)
        fit = fit_of(persons_of(of_tracklet, label, camid), seed=seed)
        found.given[rows], found.drawn[rows] = fit.margin[rows], fit.null[rows]
        if found.two_persons is not None:
            found.two_persons.update(_two_persons_among(rows, of_tracklet, label, camid))
    return found


def _two_persons_among(
    rows: Ints, of_tracklet: NDArray[np.float32], label: Ints, camid: Ints
) -> dict[int, tuple[Ints, float]]:
    """As `two_persons`, among some rows that are all tracklets of their persons and are compared with each other only."""
    there, own = np.unique(label[rows], return_inverse=True)
    if len(there) < 2:
        raise DataError("audit: a fold contains a single person, so there is nobody to compare with; use fewer folds")
    persons = persons_of(of_tracklet[rows], own, camid[rows])
    fit = fit_of(persons)
    mixture = estimate_rate(fit.margin, fit.null, own)[1]
    likeness = likeness_of(persons, fit, mixture.likely_wrong(fit.margin) < 0.5)
    _require_apart(likeness)
    return {int(there[one]): (rows[part], sure) for one, (part, sure) in two_persons(persons, likeness).items()}


def _pooled(features: NDArray[np.floating], start: Ints, lengths: Ints) -> NDArray[np.float32]:
    """(N, D) unit rows: the mean of each tracklet's frames, computed without a copy of all frames."""
    pooled = np.empty((len(start), features.shape[1]), np.float32)
    for row, (first, length) in enumerate(zip(start.tolist(), lengths.tolist(), strict=True)):
        pooled[row] = unit(features[first : first + length].sum(0, dtype=np.float64))
    return pooled


def _require_finite(of_tracklet: NDArray[np.float32]) -> None:
    finite = np.isfinite(of_tracklet).all(1)
    if not finite.all():
        raise DataError(
            f"audit: the feature of tracklet {int(finite.argmin())} is not finite; has the training diverged?"
        )


def _require_apart(likeness: Likeness) -> None:
    if likeness.same - likeness.different < APART:
        medians = f"{likeness.same:.4f} to their own person, {likeness.different:.4f} to others"
        raise DataError(
            f"audit: the features do not separate any persons (median cosine similarity {medians}); expected features of a trained network"
        )


def _judged(
    persons: Persons,
    fit: Fit,
    mixture: Mixture,
    likeness: Likeness,
    wrong: Floats,
    share: Floats,
    alike: Floats,
    of_two: Mapping[int, tuple[Ints, float]],
) -> tuple[list[Kind], Floats, Ints]:
    """The kind of each finding, its suspicion, and the label that fits better (-1 if none does clearly)."""
    kind: list[Kind] = [""] * len(wrong)
    suspicion, suggested = wrong.copy(), np.full(len(wrong), -1)
    for row in np.flatnonzero(alike >= SAME).tolist():
        kind[row] = "duplicate"
    for row in np.flatnonzero(share > 0).tolist():
        kind[row] = "switch"
    for rows, sure in of_two.values():
        if sure >= TWO_PERSONS:
            for row in rows.tolist():
                kind[row], suspicion[row] = "split", max(suspicion[row], sure)
    size, rows_of = np.bincount(persons.label), rows_by_label(persons.label)
    for one, two, sure in same_person(persons, fit, likeness):
        if sure >= ONE_PERSON:
            smaller, larger = (one, two) if size[one] <= size[two] else (two, one)
            fits = (wrong < 0.5) | (fit.other_label == larger)
            for row in rows_of[smaller][fits[rows_of[smaller]]].tolist():
                kind[row], suggested[row] = "merge", larger
    # A label is suggested only if the tracklet would not be suspicious under it.
    instead = mixture.likely_wrong(fit.other - np.fmax(fit.third, np.nan_to_num(fit.own, nan=-1)))
    for row in np.flatnonzero(wrong >= 0.5).tolist():
        if kind[row] not in ("split", "merge"):
            kind[row] = "wrong"
        if instead[row] < 0.5:
            suggested[row] = fit.other_label[row]
    # The only tracklet of a person is excluded: it has no similar tracklet even if its label is right.
    for row in np.flatnonzero((likeness.as_one(alike) < ALONE) & np.isfinite(fit.own)).tolist():
        kind[row], suspicion[row], suggested[row] = "background", max(suspicion[row], 0.5), -1
    return kind, suspicion, suggested


def _exemplars(
    persons: Persons, fit: Fit, suggested: Ints, order: Ints
) -> tuple[list[list[tuple[int, float]]], list[list[tuple[int, float]]]]:
    """For each tracklet, the nearest tracklets of its own person, and of the best fitting other person, as (row, similarity)."""
    # Only the tracklets with the most reliable labels represent their person.
    rows_of = [
        rows[np.argsort(-persons.trust[rows], kind="stable")[: CANDIDATES + 1]] for rows in rows_by_label(persons.label)
    ]
    own: list[list[tuple[int, float]]] = [[] for _ in order]
    other: list[list[tuple[int, float]]] = [[] for _ in order]
    for row in order.tolist():
        best = suggested[row] if suggested[row] >= 0 else fit.other_label[row]
        for found, label in ((own, persons.label[row]), (other, best)):
            rows = rows_of[label][rows_of[label] != row]
            similarity = persons.features[rows] @ persons.features[row]
            chosen = np.argsort(-similarity * np.sqrt(persons.trust[rows]), kind="stable")[:EXEMPLARS]
            found[row] = [(int(rows[i]), float(similarity[i])) for i in chosen]
    return own, other
