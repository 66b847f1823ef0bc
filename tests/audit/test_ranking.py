"""The whole audit on worlds whose faults are known."""

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from reid.audit import identities, ranking
from reid.audit.labels import unit
from reid.audit.ranking import Audit, audit, judged_by
from reid.errors import DataError
from reid.findings import Finding
from tests.audit.conftest import World, make_world


def by_row(findings: list[Finding]) -> list[Finding]:
    return sorted(findings, key=lambda found: found.row)


def test_wrong_labels_come_first_with_the_right_person(world: World) -> None:
    result = audit(world.features, None, world.given, world.camid)
    assert [found.suspicion for found in result.findings] == sorted(
        (f.suspicion for f in result.findings), reverse=True
    )
    found = by_row(result.findings)
    assert [one.row for one in found] == list(range(len(world.given)))
    assert roc_auc_score(world.wrong, [one.suspicion for one in found]) > 0.99
    named = [one for one in found if one.kind == "wrong"]
    assert np.mean([world.wrong[one.row] for one in named]) > 0.95
    assert np.mean([one.suggested_pid == world.true[one.row] for one in named]) > 0.95
    for one in named:
        assert all(world.given[exemplar.row] == world.given[one.row] for exemplar in one.own)
        assert all(world.given[exemplar.row] == one.suggested_pid for exemplar in one.other)
        for exemplar in (*one.own, *one.other):
            assert exemplar.similarity == pytest.approx(
                float(world.features[one.row] @ world.features[exemplar.row]), abs=1e-5
            )


def test_one_person_under_two_pids_and_two_under_one() -> None:
    world = make_world(rate=0.05)
    given = world.given.copy()
    halves = np.flatnonzero((world.true == 5) & ~world.wrong)[:4]
    given[halves] = 205
    given[given == 8] = 9
    found = by_row(audit(world.features, None, given, world.camid).findings)
    assert {one.kind for one in found if one.row in halves} == {"merge"}
    assert {one.suggested_pid for one in found if one.row in halves} == {5}
    both = [one for one in found if given[one.row] == 9 and world.true[one.row] in (8, 9)]
    parts = {
        frozenset(world.true[one.row] for one in both if (one.kind == "split") is split) for split in (True, False)
    }
    assert parts == {frozenset({8}), frozenset({9})}
    assert not [one for one in found if one.kind == "split" and given[one.row] != 9]
    assert not [one for one in found if one.kind == "merge" and given[one.row] not in (5, 205)]


def test_twins_and_those_who_fit_nobody() -> None:
    world = make_world(rate=0)
    features, given = world.features.copy(), world.given
    features[7] = features[123]
    features[50] = -features.mean(0) / np.linalg.norm(features.mean(0))
    found = by_row(audit(features, None, given, world.camid).findings)
    assert (found[123].kind, found[123].other[0].row) == ("duplicate", 7)
    assert found[50].kind == "background" and found[50].suspicion >= 0.5 and found[50].suggested_pid is None


def test_frames_are_pooled_and_foreign_ones_told() -> None:
    world = make_world(rate=0.1)
    lengths = np.resize([4, 6, 5], len(world.given))
    rng, start = np.random.default_rng(0), np.cumsum(lengths) - lengths
    frames = np.repeat(world.features, lengths, axis=0) + 0.02 * rng.normal(size=(lengths.sum(), 32))
    right = int(np.flatnonzero(~world.wrong & (lengths == 6))[3])
    frames[start[right] + 2 : start[right] + 4] = world.features[(right + 200) % 400]
    frames = (frames / np.linalg.norm(frames, axis=1, keepdims=True)).astype(np.float16)
    rows = np.arange(len(lengths)) + 1000
    result = audit(frames, lengths, world.given, world.camid, rows=rows, evidence={"aum": np.arange(400.0)})
    found = {one.row - 1000: one for one in result.findings}
    assert (found[right].kind, found[right].frames) == ("switch", ((2, 3),))
    assert found[right].suspicion < 0.5  # the label of the tracklet is right
    assert found[right].evidence["aum"] == right and found[right].evidence["foreign_frames"] == pytest.approx(
        2 / lengths[right]
    )
    assert sum(one.kind == "switch" for one in found.values()) == 1


def test_too_little_to_compare() -> None:
    world = make_world(persons=2, each=1, rate=0)
    with pytest.raises(
        DataError, match="2 tracklets of 2 persons; expected at least 3 tracklets of at least 2 persons"
    ):
        audit(world.features, None, world.given, world.camid)
    one = make_world(persons=2, each=3, rate=0)
    with pytest.raises(DataError, match="6 tracklets of 1 persons"):
        audit(one.features, None, np.ones(6, int), one.camid)
    few = audit(one.features, None, one.given, one.camid)  # it says something of three tracklets of two persons
    assert len(few.findings) == 6


def test_features_that_say_nothing_are_refused(world: World) -> None:
    same = np.tile(world.features[:1], (400, 1))
    with pytest.raises(DataError, match="the features do not separate any persons"):
        audit(same, None, world.given, world.camid)
    features = world.features.copy()
    features[7, 3] = np.nan
    with pytest.raises(DataError, match="the feature of tracklet 7 is not finite"):
        audit(features, None, world.given, world.camid)


def test_a_person_seen_once_who_is_like_nobody_is_as_expected() -> None:
    rng = np.random.default_rng(0)
    features = rng.normal(size=(50, 512)).astype(np.float32)
    features /= np.linalg.norm(features, axis=1, keepdims=True)
    found = audit(features, None, np.arange(50), np.zeros(50, int)).findings
    assert not [one for one in found if one.kind or one.suspicion >= 0.5]


def test_a_label_that_half_of_all_tracklets_carry(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its exemplars are chosen from its most reliable tracklets, and it is not put into groups."""
    monkeypatch.setattr(ranking, "CANDIDATES", 5)
    monkeypatch.setattr(identities, "LARGEST", 20)
    given = np.where(world.true <= 20, 1, world.given)
    found = audit(world.features, None, given, world.camid).findings
    chosen = {one.row for finding in found if given[finding.row] == 1 for one in finding.own}
    assert 3 <= len(chosen) <= 6 and (given[list(chosen)] == 1).all()
    assert not [one for one in found if one.kind == "split"]


def alone_by_other(features: np.ndarray, world: World) -> np.ndarray:
    found = audit(features, None, world.given, world.camid).findings
    return np.array([one.evidence["margin"] for one in by_row(found)])


def test_a_second_opinion_of_networks_that_have_not_seen_the_label_counts_as_much_as_the_first() -> None:
    world, rng = make_world(spread=2.2, rate=0.3), np.random.default_rng(1)
    centre = np.array([world.features[world.true == person].mean(0) for person in range(1, 41)])
    other = centre[world.true - 1] + rng.normal(scale=0.16, size=world.features.shape)
    ones = np.ones(len(other), int)
    other /= np.linalg.norm(other, axis=1, keepdims=True)
    fold = np.arange(len(ones)) % 2
    fold[:7] = -1  # of these no network is without
    unseen = judged_by([(0, other), (1, other)], fold, ones, world.given, world.camid)
    alone = audit(world.features, None, world.given, world.camid)
    both = audit(world.features, None, world.given, world.camid, out_of_fold=unseen)

    def auroc(result: Audit) -> float:
        place = np.empty(len(world.wrong))
        place[[found.row for found in result.findings]] = np.arange(len(place))
        return float(roc_auc_score(world.wrong, -place))

    assert 0.7 < auroc(alone) < auroc(both) - 0.01
    rows = {found.row: found for found in both.findings}
    assert np.isnan(rows[0].evidence["margin_out_of_fold"]) and np.isfinite(rows[0].suspicion)
    assert rows[9].evidence["margin_out_of_fold"] == unseen.given[9]
    assert rows[9].evidence["margin_out_of_fold"] == pytest.approx(alone_by_other(other, world)[9])


def test_two_persons_are_seen_by_a_network_that_was_not_told_they_are_one() -> None:
    world = make_world(persons=30, each=10, rate=0)
    given = world.true.copy()
    given[given == 2] = 1
    blind = world.features.copy()  # a network that was trained to call them one
    blind[given == 1] = blind[given == 1].mean(0) + 0.02 * np.random.default_rng(0).normal(size=(20, 32))
    blind /= np.linalg.norm(blind, axis=1, keepdims=True)
    ones, fold = np.ones(len(given), int), given % 2
    unseen = judged_by([(1, world.features)], fold, ones, given, world.camid, persons=True)
    found = unseen.two_persons
    assert list(found) == [0] and set(world.true[found[0][0]]) in ({1}, {2})
    told = audit(blind, None, given, world.camid, out_of_fold=unseen)
    assert {found.row for found in told.findings if found.kind == "split"} == set(found[0][0].tolist())
    assert not [one for one in audit(blind, None, given, world.camid).findings if one.kind == "split"]
    with pytest.raises(DataError, match="a fold contains a single person"):
        judged_by([(0, world.features)], np.where(given == 1, 0, 1), ones, given, world.camid, persons=True)
    random = np.random.default_rng(1).normal(size=world.features.shape)
    random[:] = random[:1] + 1e-6 * random
    with pytest.raises(DataError, match="do not separate any persons"):
        judged_by([(0, unit(random))], np.zeros(len(given), int), ones, given, world.camid, persons=True)


def test_the_probability_that_a_frame_shows_the_labelled_person(world: World) -> None:
    found = by_row(audit(world.features, None, world.given, world.camid).findings)
    right = np.array([one.label_right for one in found])
    assert right == pytest.approx([1 - one.suspicion for one in found])  # nothing is known of frames
    assert right.mean() == pytest.approx((~world.wrong).mean(), abs=0.02)
    for low, high in ((0.0, 0.2), (0.8, 1.0)):
        here = (right >= low) & (right <= high)
        assert (~world.wrong)[here].mean() == pytest.approx(right[here].mean(), abs=0.05)
    assert Finding(0, 0.2, evidence={"foreign_frames": 0.25}).label_right == pytest.approx(0.8 * 0.75)
