"""Intervals and paired comparison against scipy, against all outcomes enumerated, and by hand."""

import dataclasses
import itertools
import json

import numpy as np
import pytest
from scipy import stats

from reid.errors import DataError
from reid.evaluation import intervals as module
from reid.evaluation.evaluate import evaluate
from reid.evaluation.intervals import bootstrap, compare, match_queries
from reid.features import EvalResult, FeatureSet
from reid.protocol import MARKET1501, MARS_OFFICIAL
from tests.evaluation.oracles import made_up


def result_of(ap, first_rank=None, inp=None, query=None):
    ap = np.asarray(ap, float)
    first_rank = np.where(ap > 0.5, 1, 2) if first_rank is None else np.asarray(first_rank)
    query = np.arange(len(ap)) if query is None else query
    inp = ap**2 if inp is None else inp
    mAP = float(ap.mean()) if len(ap) else None
    return EvalResult(MARS_OFFICIAL, mAP, np.zeros(0), ap, query, 0, len(ap), inp=inp, first_rank=first_rank)


def people(pid, key=None):
    n = len(pid)
    return FeatureSet(np.ones((n, 2)), np.asarray(pid), np.zeros(n, int), np.arange(n), np.arange(n), key)


def clustered(seed, identities=12):
    """Queries of one person resemble each other, and persons have different numbers of them."""
    rng = np.random.default_rng(seed)
    pid = np.repeat(np.arange(identities), rng.integers(1, 7, identities))
    return np.clip(
        0.6 + 0.2 * rng.standard_normal(identities)[pid] + 0.05 * rng.standard_normal(len(pid)), 0.01, 1
    ), pid


@pytest.mark.parametrize("seed", range(3))
def test_intervals_equal_those_of_scipy(seed):
    ap, pid = clustered(seed, identities=40)
    ours = bootstrap(result_of(ap), pid, resamples=20_000)
    for figure, value in enumerate((ap, ap > 0.5, ap**2)):
        total, count = np.bincount(pid, value), np.bincount(pid)

        def mean(total, count, axis):
            return total.sum(axis=axis) / count.sum(axis=axis)

        theirs = stats.bootstrap(
            (total, count), mean, paired=True, vectorized=True, n_resamples=20_000, method="percentile", rng=seed
        ).confidence_interval
        width = theirs.high - theirs.low
        np.testing.assert_allclose([ours.low[figure], ours.high[figure]], [theirs.low, theirs.high], atol=0.04 * width)


def test_intervals_equal_the_percentiles_of_all_resamples():
    ap, pid = np.array([0.9, 0.7, 0.2, 0.4, 0.45, 0.5, 0.1]), np.array([0, 0, 1, 2, 3, 3, 4])
    total, count = np.bincount(pid, ap), np.bincount(pid)
    means = [total[list(drawn)].sum() / count[list(drawn)].sum() for drawn in itertools.product(range(5), repeat=5)]
    ours = bootstrap(result_of(ap), pid, resamples=100_000)
    np.testing.assert_allclose([ours.low[0], ours.high[0]], np.quantile(means, [0.025, 0.975]), atol=0.01)


def test_worked_by_hand():
    """Two persons, AP 0 and 1, one query each: the mean of a resample is 0, 1/2 or 1, with chances 1/4, 1/2, 1/4."""
    ours = bootstrap(result_of([0.0, 1.0], first_rank=[0, 1], inp=np.array([0.0, 1.0])), np.array([7, 9]))
    np.testing.assert_array_equal([ours.low, ours.high], [[0, 0, 0], [1, 1, 1]])
    assert ours.to_json() == {
        "level": 0.95,
        "num_identities": 2,
        "resamples": 2000,
        "seed": 0,
        "mAP": [0.0, 1.0],
        "rank1": [0.0, 1.0],
        "mINP": [0.0, 1.0],
    }


def test_intervals_cover_the_truth_about_as_often_as_they_say():
    covered = []
    for seed in range(150):
        ap, pid = clustered(seed, identities=60)
        ours = bootstrap(result_of(ap), pid, resamples=500, seed=seed)
        covered.append(ours.low[0] <= 0.6 <= ours.high[0])
    assert 0.89 <= np.mean(covered) <= 0.99


def test_persons_are_drawn_and_not_queries():
    ap, pid = clustered(0)
    once, thrice = bootstrap(result_of(ap), pid), bootstrap(result_of(np.repeat(ap, 3)), np.repeat(pid, 3))
    np.testing.assert_allclose([once.low, once.high], [thrice.low, thrice.high], atol=1e-12)
    alone = bootstrap(result_of(ap), np.arange(len(ap)))
    assert alone.high[0] - alone.low[0] < once.high[0] - once.low[0]
    assert (once.num_identities, alone.num_identities) == (12, len(ap))


def test_draws_depend_on_the_seed_alone(monkeypatch):
    ap, pid = clustered(1)
    expected = bootstrap(result_of(ap), pid, seed=3)
    assert (bootstrap(result_of(ap), pid, seed=4).low != expected.low).any()
    monkeypatch.setattr(module, "_AT_ONCE", 50)
    again = bootstrap(result_of(ap), pid, seed=3)
    np.testing.assert_array_equal([again.low, again.high], [expected.low, expected.high])


@pytest.mark.parametrize("ap", [[], [0.5], [0.5, 0.7]])
def test_fewer_than_two_persons_have_no_interval(ap):
    record = bootstrap(result_of(ap), np.zeros(len(ap), int)).to_json()
    assert record["mAP"] is record["rank1"] is record["mINP"] is None
    assert record["num_identities"] == min(len(ap), 1)
    json.dumps(record, allow_nan=False)


def test_intervals_of_an_evaluation_hold_its_figures():
    features = made_up(0)
    result = evaluate(features, MARKET1501)
    ours = bootstrap(result, features.pid)
    for low, value, high in zip(ours.low, (result.mAP, result.at_rank(1), result.mINP), ours.high, strict=True):
        assert low < value < high
    assert ours.num_identities == len(np.unique(features.pid[result.query]))


def pair_of(seed, gain, identities=12):
    ap, pid = clustered(seed, identities)
    rng = np.random.default_rng(seed + 100)
    other = np.clip(ap - gain + 0.1 * rng.standard_normal(identities)[pid], 0, 1)
    return (people(pid), result_of(ap)), (people(pid), result_of(other))


@pytest.mark.parametrize("seed", range(4))
def test_sign_flips_equal_all_patterns_enumerated_and_scipy(seed):
    a, b = pair_of(seed, gain=0.05, identities=10)
    p = compare(a, b, flips=100_000).p
    pid = a[0].pid
    for figure, (one, other) in enumerate(
        ((a[1].ap, b[1].ap), (a[1].first_rank == 1, b[1].first_rank == 1), (a[1].inp, b[1].inp))
    ):
        total = np.bincount(pid, one.astype(float) - other)
        sums = np.array([np.dot(signs, total) for signs in itertools.product((-1, 1), repeat=10)])
        share = (np.abs(sums) >= abs(total.sum()) - 1e-9).mean()
        assert p[figure] == pytest.approx(share, abs=0.006)
        if figure == 0:
            test = stats.permutation_test((total,), np.sum, permutation_type="samples", n_resamples=np.inf)
            assert share == pytest.approx(test.pvalue, abs=1e-9)


def test_the_interval_of_the_difference_is_paired():
    a, b = pair_of(1, gain=0.05)
    ours = compare(a, b, resamples=20_000)
    total, count = np.bincount(a[0].pid, a[1].ap - b[1].ap), np.bincount(a[0].pid)
    theirs = stats.bootstrap(
        (total, count),
        lambda total, count, axis: total.sum(axis=axis) / count.sum(axis=axis),
        paired=True,
        vectorized=True,
        n_resamples=20_000,
        method="percentile",
        rng=0,
    ).confidence_interval
    np.testing.assert_allclose([ours.low[0], ours.high[0]], theirs, atol=0.04 * (theirs.high - theirs.low))
    apart = [bootstrap(result, features.pid) for features, result in (a, b)]
    assert ours.high[0] - ours.low[0] < np.hypot(*(one.high[0] - one.low[0] for one in apart))
    for mean, result in ((ours.a, a[1]), (ours.b, b[1])):
        np.testing.assert_allclose(mean, [result.ap.mean(), (result.first_rank == 1).mean(), result.inp.mean()])


def test_a_difference_worked_by_hand():
    """A is ahead by 0.1 for each of four persons: every resample says 0.1, and 2 of 16 sign patterns are as far from 0."""
    a, b = result_of([0.5, 0.6, 0.7, 0.8]), result_of([0.4, 0.5, 0.6, 0.7])
    ours = compare((people([1, 2, 3, 4]), a), (people([1, 2, 3, 4]), b), flips=100_000)
    np.testing.assert_allclose([ours.low[0], ours.high[0]], [0.1, 0.1])
    assert ours.p[0] == pytest.approx(2 / 16, abs=0.005)
    assert not ours.real[0]  # four persons can never tell


def test_a_large_difference_is_real_and_none_is_not():
    a, b = pair_of(0, gain=0.3)
    ours = compare(a, b)
    assert ours.real[0]
    assert ours.low[0] > 0
    assert ours.p[0] < 0.01
    back = compare(b, a)
    np.testing.assert_allclose([back.low, back.high, back.p], [-ours.high, -ours.low, ours.p], atol=1e-12)
    same = compare(a, a)
    assert not same.real.any()
    np.testing.assert_array_equal([same.low, same.high, same.p], [[0] * 3, [0] * 3, [1] * 3])
    record = json.loads(json.dumps(ours.to_json(), allow_nan=False))
    assert record["mAP"]["difference"] == pytest.approx(record["mAP"]["a"] - record["mAP"]["b"])
    assert (record["mAP"]["real"], record["num_identities"], record["num_queries"]) == (True, 12, len(a[1].ap))


def test_queries_are_matched_by_key_whatever_their_rows():
    base = made_up(0)
    key = np.array([f"t{row:03d}" for row in range(160)])
    a = FeatureSet(base.features, base.pid, base.camid, base.query, base.gallery, key)
    order = np.random.default_rng(0).permutation(160)
    place = np.argsort(order)
    moved = FeatureSet(
        base.features[order],
        base.pid[order],
        base.camid[order],
        np.random.default_rng(1).permutation(place[base.query]),
        place[base.gallery],
        key[order],
    )
    ours = compare((a, evaluate(a, MARKET1501)), (moved, evaluate(moved, MARKET1501)))
    np.testing.assert_array_equal(ours.a, ours.b)
    np.testing.assert_array_equal(ours.p, [1, 1, 1])
    unnamed = dataclasses.replace(moved, key=None)
    with pytest.raises(DataError, match="queries: "):
        compare((a, evaluate(a, MARKET1501)), (unnamed, evaluate(unnamed, MARKET1501)))


def changed(features, **change):
    return dataclasses.replace(features, **change)


FEATURES = made_up(0)
KEYED = changed(FEATURES, key=np.array([f"t{row}" for row in range(160)]))
OTHER_PID = np.where(np.arange(160) == FEATURES.query[3], 77, FEATURES.pid)


@pytest.mark.parametrize(
    ("a", "b", "message"),
    [
        (
            FEATURES,
            changed(FEATURES, query=FEATURES.query[1:]),
            r"queries: 1 of \d+ that are valid in A are not valid in B; the first",
        ),
        (
            changed(FEATURES, query=FEATURES.query[1:]),
            FEATURES,
            r"queries: 1 of \d+ that are valid in B are not valid in A",
        ),
        (FEATURES, changed(FEATURES, gallery=FEATURES.gallery[1:]), "gallery: A has 150 rows and B 149"),
        (FEATURES, changed(FEATURES, pid=OTHER_PID), r"pid differs for 1 of 30 matched by row, .*and 77 in B"),
        (FEATURES, changed(FEATURES, camid=FEATURES.camid + 1), r"camid differs for 30 of 30"),
        (KEYED, changed(KEYED, key=np.array(["same"] * 160)), "keys in B occur more than once"),
        (KEYED, changed(KEYED, key=np.char.add("x", KEYED.key)), "the first has key t"),
    ],
)
def test_what_cannot_be_compared_is_answered_in_one_line(a, b, message):
    with pytest.raises(DataError, match=message) as error:
        match_queries((a, evaluate(a, MARS_OFFICIAL)), (b, evaluate(b, MARS_OFFICIAL)))
    assert len(error.value.problems) == 1


def test_two_protocols_and_no_query_at_all_are_refused():
    base = (FEATURES, evaluate(FEATURES, MARS_OFFICIAL))
    with pytest.raises(DataError, match="protocol: mars-official in A, market1501 in B"):
        compare(base, (FEATURES, evaluate(FEATURES, MARKET1501)))
    lonely = changed(FEATURES, camid=np.zeros(160, int))
    with pytest.raises(DataError, match="no query is valid under market1501"):
        compare((lonely, evaluate(lonely, MARKET1501)), (lonely, evaluate(lonely, MARKET1501)))
