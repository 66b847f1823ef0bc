"""The whole evaluation against slow oracles, under changes that must not matter, and on the real MARS tables."""

import dataclasses
import logging
from pathlib import Path

import numpy as np
import pytest
from scipy.io import loadmat

from reid.errors import DataError
from reid.evaluation.camera_pairs import camera_pairs
from reid.evaluation.evaluate import AFTER_STEPS, analyse, evaluate, evaluate_all
from reid.evaluation.intervals import bootstrap
from reid.evaluation.masks import find_matches
from reid.evaluation.metrics import average_precision, hit_ranks
from reid.evaluation.verification import verification
from reid.features import FeatureSet
from reid.protocol import MARKET1501, MARS_HIT_AP, MARS_OFFICIAL, MARS_TORCHREID, PROTOCOLS, EvalProtocol
from tests.evaluation.oracles import evaluate_slowly, inverse_penalty, made_up, ranked

OWN = [
    EvalProtocol("no-filter", camera_filter=False),
    EvalProtocol("no-filter-hit", ap="hit", without_match="skip", camera_filter=False),
    EvalProtocol("without-queries-zero", gallery="without_queries", ap="hit", without_match="zero"),
]
ALL = [*PROTOCOLS.values(), *OWN]
MARS_INFO = Path(__file__).parents[2] / ".." / "shared" / "data" / "mars-info"


def assert_same(one, other):
    assert one.to_json() == other.to_json()
    np.testing.assert_array_equal(one.ap, other.ap)
    np.testing.assert_array_equal(one.inp, other.inp)
    np.testing.assert_array_equal(one.first_rank, other.first_rank)
    np.testing.assert_array_equal(one.cmc, other.cmc)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("protocol", ALL, ids=lambda protocol: protocol.name)
def test_equals_the_definition(seed, ties, protocol):
    features = made_up(seed, n=120, identities=40, ties=ties)
    ap, mean, cmc = evaluate_slowly(features, protocol)
    result = evaluate(features, protocol)
    np.testing.assert_allclose(result.ap, ap, atol=1e-12)
    assert result.mAP == pytest.approx(mean, abs=1e-12)
    np.testing.assert_allclose(result.cmc[:20], cmc, atol=1e-12)
    assert result.num_queries == len(ap)
    assert result.num_queries + result.num_without_match == len(features.query)
    assert len(result.query) == len(result.ap)


@pytest.mark.parametrize("protocol", ALL, ids=lambda protocol: protocol.name)
def test_inp_and_first_rank_of_each_counted_query(protocol):
    features = made_up(1, n=120, identities=40)
    result = evaluate(features, protocol)
    lists = [ranked(features, protocol, query)[1] for query in result.query]
    expected = [inverse_penalty(match) if match.any() else 0.0 for match in lists]
    np.testing.assert_allclose(result.inp, expected, atol=1e-12)
    assert result.mINP == result.to_json()["mINP"] == pytest.approx(np.mean(expected))
    np.testing.assert_array_equal(result.first_rank, [match.argmax() + 1 if match.any() else 0 for match in lists])
    assert result.at_rank(1) == pytest.approx((result.first_rank == 1).mean())


def test_a_protocol_with_nothing_to_search_is_skipped_among_others(caplog):
    base = made_up(0)
    features = FeatureSet(base.features, base.pid, base.camid, np.arange(160), np.arange(160))
    caplog.clear()
    results = evaluate_all(features, PROTOCOLS.values())
    skipped = results[list(PROTOCOLS).index("mars-torchreid")]
    assert caplog.text.count("mars-torchreid: skipped: ") == 1
    assert skipped.to_json() == {
        "schema": 1,
        "protocol": "mars-torchreid",
        "mAP": None,
        "cmc": {"1": None, "5": None, "10": None, "20": None},
        "num_queries": 0,
        "num_without_match": 160,
        "num_gallery": 0,
        "mINP": None,
    }
    assert_same(results[0], evaluate(features, MARS_OFFICIAL))
    nothing = {"interval": None, "camera_pairs": None, "verification": None}
    assert [analysis == nothing for analysis in analyse(features, results)] == [False, False, True, False]
    with pytest.raises(DataError, match="no rows to search under mars-torchreid"):
        evaluate_all(features, [MARS_TORCHREID])
    with pytest.raises(DataError, match="no rows to search under mars-official"):
        evaluate_all(changed(features, gallery=np.zeros(0, int)), PROTOCOLS.values())


def test_the_analysis_of_each_result_is_that_of_its_protocol():
    features = made_up(0)
    results = evaluate_all(features, ALL)
    for result, analysis in zip(results, analyse(features, results), strict=True):
        assert analysis["interval"] == bootstrap(result, features.pid).to_json()
        assert analysis["camera_pairs"] == camera_pairs(features, result.protocol).to_json()
        assert analysis["verification"] == verification(features, result.protocol).to_json()


def test_the_made_up_data_has_every_hard_case():
    features = made_up(0, n=120, identities=40)
    assert (features.pid == -1).any()
    assert (features.pid == 0).any()
    assert (features.camid == -1).any()
    assert evaluate(features, MARKET1501).num_without_match > 0
    assert set(features.query) - set(features.gallery)
    assert set(features.query) & set(features.gallery)


def test_without_match_rules():
    features = made_up(0, n=120, identities=40)
    skip, zero = (
        evaluate(features, MARS_HIT_AP),
        evaluate(features, dataclasses.replace(MARS_HIT_AP, without_match="zero")),
    )
    lost = skip.num_without_match
    assert (zero.num_queries, zero.num_without_match) == (30, 0)
    assert zero.mAP == pytest.approx(skip.mAP * (30 - lost) / 30)
    np.testing.assert_allclose(zero.cmc, skip.cmc * (30 - lost) / 30)
    assert lost > 0
    with pytest.raises(DataError, match=rf"mars-hit-ap: {lost} of 30 queries have no match: .*identity"):
        evaluate(features, dataclasses.replace(MARS_HIT_AP, without_match="error"))


def test_one_camera_and_no_match_at_all_is_explained_and_null(caplog):
    base = made_up(0)
    features = FeatureSet(base.features, base.pid, np.zeros(160, int), base.query, base.gallery)
    caplog.clear()
    result = evaluate(features, MARKET1501)
    assert result.to_json()["mAP"] is None
    assert result.to_json()["cmc"] == {"1": None, "5": None, "10": None, "20": None}
    assert (result.num_queries, result.num_without_match) == (0, 30)
    assert [record.levelno for record in caplog.records] == [logging.WARNING]
    assert "30 of 30 queries have no match" in caplog.text
    assert "--any-camera" in caplog.text
    assert evaluate(features, MARS_OFFICIAL).mAP == 0.0
    assert evaluate(features, dataclasses.replace(MARKET1501, camera_filter=False)).mAP > 0


def test_queries_of_unknown_camera_that_match_themselves_are_named(caplog):
    base = made_up(0)
    features = FeatureSet(base.features, base.pid, np.full(160, -1), base.query, np.arange(160))
    assert evaluate(features, MARKET1501).cmc[0] == 1.0
    assert "30 queries of unknown camera are in the gallery and match themselves" in caplog.text
    caplog.clear()
    evaluate(features, dataclasses.replace(MARKET1501, camera_filter=False))
    assert not caplog.records


def test_all_protocols_at_once_equal_one_by_one():
    features = made_up(3)
    for result, protocol in zip(evaluate_all(features, ALL), ALL, strict=True):
        assert result.protocol is protocol
        assert_same(result, evaluate(features, protocol))


@pytest.mark.parametrize("ties", [False, True])
def test_block_size_and_threads_do_not_matter(ties):
    features = made_up(4, ties=ties)
    expected = evaluate(features, MARS_OFFICIAL)
    for block_size, workers in ((1, 1), (3, 2), (64, 4)):
        assert_same(evaluate(features, MARS_OFFICIAL, block_size=block_size, workers=workers), expected)


def changed(base, **change):
    fields = {name: getattr(base, name) for name in ("features", "pid", "camid", "query", "gallery")}
    return FeatureSet(**{**fields, **change})


@pytest.mark.parametrize("protocol", list(PROTOCOLS.values()), ids=lambda protocol: protocol.name)
def test_what_must_not_matter(protocol):
    features = made_up(5, n=120, identities=40)
    expected = evaluate(features, protocol)
    rng = np.random.default_rng(0)
    shuffled = changed(features, gallery=rng.permutation(features.gallery))
    assert_same(evaluate(shuffled, protocol), expected)
    scaled = changed(features, features=features.features * rng.uniform(0.01, 100, (120, 1)))
    assert_same(evaluate(scaled, protocol), expected)
    order = rng.permutation(120)
    place = np.argsort(order)
    moved = FeatureSet(
        features.features[order],
        features.pid[order],
        features.camid[order],
        place[features.query],
        place[features.gallery],
    )
    assert_same(evaluate(moved, protocol), expected)


def with_rows(features, pid):
    """The features with 20 more gallery rows of that pid, copies of queries among them: as near as can be."""
    added = np.concatenate([features.features[features.query[:10]], np.random.default_rng(1).standard_normal((10, 16))])
    n = len(features.pid)
    return changed(
        features,
        features=np.concatenate([features.features, added]),
        pid=np.append(features.pid, np.full(20, pid)),
        camid=np.append(features.camid, np.arange(20) % 4),
        gallery=np.append(features.gallery, np.arange(n, n + 20)),
    )


@pytest.mark.parametrize("protocol", list(PROTOCOLS.values()), ids=lambda protocol: protocol.name)
def test_junk_changes_nothing_and_distractors_never_help(protocol):
    features = made_up(6)
    expected = evaluate(features, protocol)
    junk = evaluate(with_rows(features, -1), protocol)
    assert junk.num_gallery == expected.num_gallery + 20
    np.testing.assert_array_equal(junk.ap, expected.ap)
    np.testing.assert_array_equal(junk.cmc, expected.cmc)
    distracted = evaluate(with_rows(features, 0), protocol)
    assert (distracted.ap <= expected.ap).all()
    assert distracted.mAP < expected.mAP
    assert (distracted.cmc <= expected.cmc).all()


@pytest.mark.skipif(not MARS_INFO.is_dir(), reason="the MARS tables are not here (../shared/data/mars-info)")
def test_real_mars_tables():
    tracks = loadmat(MARS_INFO / "tracks_test_info.mat")["track_test_info"].astype(np.int64)
    query = loadmat(MARS_INFO / "query_IDX.mat")["query_IDX"].ravel().astype(np.int64) - 1
    pid, camid = tracks[:, 2], tracks[:, 3]
    rng = np.random.default_rng(0)
    centre = rng.standard_normal((pid.max() + 1, 8))
    rows = np.where(pid[:, None] > 0, centre[pid], 0) + 0.5 * rng.standard_normal((len(pid), 8))
    features = FeatureSet(rows, pid, camid, query, np.arange(len(pid)))
    results = {result.protocol.name: result for result in evaluate_all(features, PROTOCOLS.values())}
    sizes = {name: (r.num_queries, r.num_without_match, r.num_gallery) for name, r in results.items()}
    assert sizes == {
        "mars-official": (1980, 0, 12180),
        "mars-hit-ap": (1980, 0, 12180),
        "mars-torchreid": (1840, 140, 10200),
        "market1501": (1980, 0, 12180),
    }
    assert results["mars-official"].mAP < results["mars-hit-ap"].mAP == results["market1501"].mAP


@pytest.mark.parametrize("after", list(AFTER_STEPS))
def test_after_steps_change_the_ranking_and_the_protocols_name(after):
    features = made_up(3, n=120, identities=20)
    plain, other = (
        evaluate_all(features, [MARS_HIT_AP]),
        evaluate_all(features, [MARS_HIT_AP, MARS_OFFICIAL], after=after),
    )
    assert [result.protocol.name for result in other] == [f"mars-hit-ap+{after}", f"mars-official+{after}"]
    nearer = AFTER_STEPS[after](features, MARS_HIT_AP, find_matches(features, MARS_HIT_AP))
    matches = find_matches(features, MARS_HIT_AP)
    has_match = np.diff(matches.start) > 0
    start = np.append(0, np.cumsum(np.diff(matches.start)[has_match]))
    np.testing.assert_allclose(other[0].ap, average_precision(hit_ranks(nearer, start), start, "hit"))
    assert not np.allclose(other[0].ap, plain[0].ap)
