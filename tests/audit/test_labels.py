"""How labels fit, against loops over plain definitions."""

import numpy as np
import pytest

from reid.audit import labels
from reid.audit.labels import Persons, fit_of, neighbours_of, persons_of
from tests.audit.conftest import World, make_world


def small() -> World:
    return make_world(persons=5, each=4, rate=0.3, seed=3)


def even(world: World) -> Persons:
    label = np.unique(world.given, return_inverse=True)[1]
    return labels._weighed(world.features, label, world.camid, np.ones(len(label)))


def unit(x: np.ndarray) -> np.ndarray:
    return x / np.linalg.norm(x)


def test_fit_equals_a_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    world = small()
    monkeypatch.setattr(labels, "ROWS_AT_ONCE", 7)  # more than one block
    persons = even(world)
    fit = fit_of(persons, draws=3, seed=5)
    x, label = world.features.astype(np.float64), persons.label
    centre = np.stack([unit(x[label == k].sum(0)) for k in range(5)])
    for i in range(len(x)):
        rest = [j for j in range(len(x)) if label[j] == label[i] and j != i]
        own = x[i] @ unit(x[rest].sum(0)) if rest else np.nan
        to_others = {k: x[i] @ centre[k] for k in range(5) if k != label[i]}
        ranked = sorted(to_others, key=lambda k: -to_others[k])
        assert fit.own[i] == pytest.approx(own, nan_ok=True)
        assert fit.other[i] == pytest.approx(to_others[ranked[0]], abs=1e-6)
        assert fit.third[i] == pytest.approx(to_others[ranked[1]], abs=1e-6)
        assert fit.other_label[i] == ranked[0]
        for value in fit.null[i]:  # each is the margin under some other label, the present one among the rest
            possible = []
            for k in to_others:
                rivals = [to_others[j] for j in to_others if j != k] + ([] if np.isnan(own) else [own])
                possible.append(to_others[k] - max(rivals))
            assert np.abs(np.array(possible) - value).min() < 1e-6


def test_a_persons_only_tracklet_is_judged_by_how_near_others_are() -> None:
    world = make_world(persons=6, each=5, rate=0)
    given = world.given.copy()
    given[0] = 99  # taken out of its person, whom it resembles: suspicious
    lone = np.array([[0.0] * 31 + [1.0]], np.float32)  # resembles nobody: as it should be
    features = np.concatenate([world.features, lone])
    label = np.unique(np.append(given, 100), return_inverse=True)[1]
    margin = fit_of(persons_of(features, label, np.append(world.camid, 0))).margin
    assert margin[0] < 0.3 < margin[-1]


def test_wrong_labels_pull_less_than_right_ones() -> None:
    world = make_world(rate=0.4)
    label = np.unique(world.given, return_inverse=True)[1]
    persons = persons_of(world.features, label, world.camid)
    assert persons.trust[world.wrong].mean() < 0.1 < 0.9 < persons.trust[~world.wrong].mean()
    plain = even(world)
    truth = np.stack([unit(world.features[world.true == k].sum(0)) for k in range(1, 41)])
    assert (persons.centroid * truth).sum(1).mean() > (plain.centroid * truth).sum(1).mean()


def test_neighbours_equal_a_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    world = small()
    world.camid[:3] = -1  # unknown cameras are never the same
    monkeypatch.setattr(labels, "ROWS_AT_ONCE", 6)
    monkeypatch.setattr(labels, "NEIGHBOURS", 2)
    persons = even(world)
    neighbours = neighbours_of(persons)
    found = neighbours.agree
    similarity = world.features.astype(np.float64) @ world.features.T.astype(np.float64)
    for i, camera in enumerate(world.camid):
        others = [j for j in range(len(found)) if j != i]
        far = [j for j in others if world.camid[j] != camera or camera < 0]
        mine = [j for j in far if persons.label[j] == persons.label[i]]
        asked = far if mine else others
        k = min(2, sum(persons.label[j] == persons.label[i] for j in asked))
        if k == 0:
            assert np.isnan(found[i])
            continue
        nearest = sorted(asked, key=lambda j: -similarity[i, j])[:k]
        weight = np.maximum(similarity[i, nearest], 1e-6)
        agrees = persons.label[nearest] == persons.label[i]
        assert found[i] == pytest.approx((weight * agrees).sum() / weight.sum(), abs=1e-5)
    np.fill_diagonal(similarity, -1)
    np.testing.assert_array_equal(neighbours.row, similarity.argmax(1))
    np.testing.assert_allclose(neighbours.similarity, similarity.max(1), atol=1e-6)


def test_blocks_hold_a_bounded_table(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(labels, "CELLS_AT_ONCE", 60)
    assert list(labels.blocks(7, 20)) == [slice(0, 3), slice(3, 6), slice(6, 7)]
    assert list(labels.blocks(2, 100)) == [slice(0, 1), slice(1, 2)]
    assert list(labels.blocks(7)) == [slice(0, 7)]
