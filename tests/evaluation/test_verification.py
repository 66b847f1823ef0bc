"""Thresholds and error rates against scikit-learn's ROC, against every pair in float64, and by hand."""

import json

import numpy as np
import pytest
from sklearn.metrics import roc_curve

from reid.errors import ConfigError
from reid.evaluation import verification as module
from reid.evaluation.verification import FINE, verification
from reid.features import FeatureSet
from reid.protocol import MARKET1501, MARS_OFFICIAL, MARS_TORCHREID
from tests.evaluation.oracles import made_up, ranked, similarity
from tests.evaluation.test_ranking import DATA

RATES = (0.5, 0.1, 0.03, 0.01)


def all_pairs(features, protocol):
    """Similarity of every pair that is compared, and whether it is genuine; queries of pid < 0 ask nothing."""
    near, genuine = [], []
    for query in features.query[features.pid[features.query] >= 0]:
        rows, match = ranked(features, protocol, query)
        near.append(similarity(features, query)[rows])
        genuine.append(match)
    return np.concatenate(near), np.concatenate(genuine)


def figures(result):
    return np.array([result.threshold, result.fmr, result.fnmr]), result.eer, result.eer_threshold


def assert_same(one, other):
    for ours, theirs in zip(figures(one), figures(other), strict=True):
        np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("protocol", [MARKET1501, MARS_TORCHREID], ids=lambda protocol: protocol.name)
def test_equals_the_roc_of_scikit_learn(seed, protocol):
    features = made_up(seed, n=300, unknown_cameras=seed % 2)
    result = verification(features, protocol, rates=RATES)
    near, genuine = all_pairs(features, protocol)
    fpr, tpr, _ = roc_curve(genuine, near, drop_intermediate=False)
    assert (result.num_genuine, result.num_impostor) == (genuine.sum(), (~genuine).sum())
    for i, rate in enumerate(RATES):
        assert result.fmr[i] == pytest.approx(fpr[fpr <= rate].max(), abs=1e-12)
        assert result.fnmr[i] == pytest.approx(1 - tpr[fpr <= rate].max(), abs=1e-12)
    least = np.abs(fpr - (1 - tpr)).argmin()
    assert result.eer == pytest.approx((fpr[least] + 1 - tpr[least]) / 2, abs=1e-12)


def lowest_threshold(impostor, rate):
    """By trying them all: the lowest multiple of 1 / FINE at which at most `rate` of the impostors pass."""
    candidates = np.unique((np.floor(impostor * FINE) + 1) / FINE)
    return next(t for t in candidates if (impostor >= t).mean() <= rate)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("data", DATA, ids=lambda data: data.__name__)
def test_every_pair_is_counted_exactly(seed, data):
    features = data(seed)
    near, genuine = all_pairs(features, MARS_OFFICIAL)
    result = verification(features, MARS_OFFICIAL, rates=RATES)
    for i, rate in enumerate(RATES):
        threshold = lowest_threshold(near[~genuine], rate)
        assert result.threshold[i] == threshold
        assert result.fmr[i] == (near[~genuine] >= threshold).mean()
        assert result.fnmr[i] == (near[genuine] < threshold).mean()


@pytest.mark.parametrize("data", DATA, ids=lambda data: data.__name__)
def test_how_the_work_is_cut_does_not_matter(data, monkeypatch):
    features = data(7)
    expected = verification(features, MARS_OFFICIAL, rates=RATES)
    for block_size, workers in ((1, 1), (7, 3)):
        assert_same(
            verification(features, MARS_OFFICIAL, rates=RATES, block_size=block_size, workers=workers), expected
        )
    monkeypatch.setattr(module, "CHUNK", 13)
    monkeypatch.setattr(module, "_ROWS", 3)
    assert_same(verification(features, MARS_OFFICIAL, rates=RATES), expected)


def with_error(size):
    """A product whose similarities are off by up to `size`, in another way each time."""
    rng = np.random.default_rng(0)

    def product(gallery_CD, device):
        return lambda query_BD: (
            (near := query_BD @ gallery_CD.T) + rng.uniform(-size, size, near.shape).astype(np.float32)
        )

    return product


@pytest.mark.parametrize("data", DATA, ids=lambda data: data.__name__)
def test_what_float32_gets_wrong_changes_no_figure(data, monkeypatch):
    features = data(3)
    expected = verification(features, MARS_OFFICIAL, rates=RATES)
    monkeypatch.setattr(module, "product_with", with_error(4e-6))
    assert_same(verification(features, MARS_OFFICIAL, rates=RATES), expected)


def test_the_cells_alone_would_not_do(monkeypatch):
    """The two tests above can fail: beyond its bound an error of the product does show."""
    features = made_up(3)
    expected = verification(features, MARS_OFFICIAL, rates=RATES)
    monkeypatch.setattr(module, "product_with", with_error(1e-2))
    with pytest.raises(AssertionError):
        assert_same(verification(features, MARS_OFFICIAL, rates=RATES), expected)


def at_angles(cosines, pid, camid=None):
    """Row 0 is the query; each other row stands at its cosine to it."""
    cosine = np.array([1, *cosines])
    rows = np.stack([cosine, np.sqrt(1 - cosine**2)], axis=1)
    camid = np.arange(len(pid)) if camid is None else camid
    return FeatureSet(rows, np.array(pid), np.array(camid), np.array([0]), np.arange(1, len(pid)))


def test_worked_by_hand(monkeypatch):
    """Genuine 0.8, 0.5; impostors 0.9, 0.6, 0.3, 0: at 1 in 4 the threshold lies just above 0.6."""
    monkeypatch.setattr(module, "LEAST_FALSE_MATCHES", 0)
    features = at_angles([0.8, 0.5, 0.9, 0.6, 0.3, 0.0], pid=[1, 1, 1, 2, 3, 0, 4])
    result = verification(features, MARKET1501, rates=(0.75, 0.5, 0.25, 0.2))
    np.testing.assert_array_equal(result.fmr, [0.75, 0.5, 0.25, 0])
    np.testing.assert_array_equal(result.fnmr, [0, 0, 0.5, 1])
    np.testing.assert_allclose(result.threshold, [0, 0.3, 0.6, 0.9], atol=2e-6)
    assert (result.threshold * FINE == np.rint(result.threshold * FINE)).all()
    assert (result.threshold[1:] > [0.3 - 1e-7, 0.6 - 1e-7, 0.9 - 1e-7]).all()
    assert result.eer == 0.5  # between 0.5 and 0.6 two of four impostors pass, and one of two genuine pairs does not
    assert result.eer_threshold == pytest.approx(0.5, abs=2e-6)


def test_persons_told_apart_have_no_error(monkeypatch):
    monkeypatch.setattr(module, "LEAST_FALSE_MATCHES", 0)
    features = at_angles([0.9, 0.8, 0.3, 0.2], pid=[1, 1, 1, 2, 3])
    result = verification(features, MARKET1501, rates=(0.1,))
    assert (result.fmr[0], result.fnmr[0], result.eer) == (0, 0, 0)
    assert 0.3 < result.eer_threshold < 0.8


def test_rows_that_are_all_alike_pass_together_or_not_at_all():
    pid = np.repeat(np.arange(20), 3)
    features = FeatureSet(np.ones((60, 4)), pid, np.tile([0, 1, 2], 20), np.arange(0, 60, 3), np.arange(60))
    result = verification(features, MARKET1501, rates=(0.5, 0.1))
    np.testing.assert_array_equal(result.fmr, [0, 0])
    np.testing.assert_array_equal(result.fnmr, [1, 1])
    assert (result.threshold > 1).all()
    assert result.eer == 0.5


def test_queries_that_are_junk_themselves_ask_nothing():
    base = made_up(0)
    junk = np.flatnonzero(base.pid < 0)
    assert len(junk)
    asking = FeatureSet(base.features, base.pid, base.camid, np.append(base.query, junk), base.gallery)
    assert verification(asking, MARKET1501).to_json() == verification(base, MARKET1501).to_json()


def test_junk_and_own_camera_are_no_pairs():
    features = at_angles([0.8, 0.7, 0.6, 0.5], pid=[1, 1, 1, -1, 2], camid=[0, 0, 1, 1, 0])
    result = verification(features, MARKET1501)
    assert (result.num_genuine, result.num_impostor) == (1, 1)


def test_the_pairs_are_those_of_the_evaluation():
    features = made_up(2, n=300)
    for protocol in (MARS_OFFICIAL, MARS_TORCHREID):
        matches = sum(len(ranked(features, protocol, query)[1]) for query in features.query)
        result = verification(features, protocol)
        assert result.num_genuine + result.num_impostor == matches


def test_rates_of_too_few_pairs_are_null_and_never_nan():
    features = made_up(0)
    result = verification(features, MARS_OFFICIAL)
    record = json.loads(json.dumps(result.to_json(), allow_nan=False))
    assert 1000 < result.num_impostor < 10_000
    assert list(record["tpr_at_fpr"]) == ["0.1", "0.01", "0.001", "0.0001", "1e-05"]
    assert record["tpr_at_fpr"]["0.1"] > record["tpr_at_fpr"]["0.01"] > 0
    assert record["tpr_at_fpr"]["0.001"] is None
    assert [point["fpr"] for point in record["roc"]][:4] == [0.5, 0.2, 0.1, 0.05]
    tenth = record["roc"][2]
    assert tenth["tpr"] == record["tpr_at_fpr"]["0.1"] == pytest.approx(1 - tenth["fnmr"])
    assert record["roc"][-1] == {"fpr": 1e-5, "threshold": None, "fmr": None, "fnmr": None, "tpr": None}


def test_the_roc_rises():
    result = verification(made_up(1, n=400), MARS_OFFICIAL)
    known = ~np.isnan(result.threshold)
    assert known.sum() >= 8
    assert (np.diff(result.threshold[known]) > 0).all()
    assert (np.diff(result.fnmr[known]) >= 0).all()
    assert (result.fmr[known] <= result.rate[known]).all()
    assert (result.fmr[known] > result.rate[known] - 2 / result.num_impostor).all()


def test_without_genuine_pairs_all_is_null():
    features = at_angles([0.8, 0.7], pid=[1, 2, 3])
    record = verification(features, MARKET1501).to_json()
    assert (record["num_genuine"], record["num_impostor"], record["eer"]) == (0, 2, None)
    assert set(record["tpr_at_fpr"].values()) == {None}
    json.dumps(record, allow_nan=False)


@pytest.mark.parametrize("options", [{"rates": (0.0,)}, {"rates": (1.0,)}, {"block_size": 0}, {"workers": 0}])
def test_options_out_of_range_are_refused(options):
    with pytest.raises(ConfigError, match="at least 1 and rates within"):
        verification(made_up(), MARS_OFFICIAL, **options)


@pytest.mark.gpu
@pytest.mark.parametrize("data", DATA, ids=lambda data: data.__name__)
def test_figures_are_the_same_on_a_gpu(data):
    features = data(5)
    on_gpu = verification(features, MARS_OFFICIAL, rates=RATES, device="cuda")
    assert_same(on_gpu, verification(features, MARS_OFFICIAL, rates=RATES))
