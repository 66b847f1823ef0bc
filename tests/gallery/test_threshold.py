"""The threshold keeps its promise on the very pairs it was told from, and is the smallest that does."""

import dataclasses
import itertools

import numpy as np
import pytest

from reid.errors import ConfigError, DataError
from reid.evaluation.verification import FINE, verification
from reid.features import FeatureSet
from reid.gallery import threshold
from reid.gallery.threshold import false_match_threshold
from reid.protocol import EvalProtocol


def gallery(pid: list[int], seed: int = 0) -> FeatureSet:
    rng = np.random.default_rng(seed)
    features = rng.standard_normal((len(pid), 4))
    features /= np.linalg.norm(features, axis=1, keepdims=True)
    rows = np.arange(len(pid))
    return FeatureSet(features, np.array(pid), rows * 0, np.array([0]), rows)


def impostors(features: FeatureSet) -> list[float]:
    rows = [i for i, pid in enumerate(features.pid) if pid >= 1]
    pairs = [(i, j) for i, j in itertools.combinations(rows, 2) if features.pid[i] != features.pid[j]]
    return [float(features.features[i].astype(float) @ features.features[j].astype(float)) for i, j in pairs]


@pytest.mark.parametrize("rate", [0.01, 0.05, 0.5])
def test_share_of_impostor_pairs(rate: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threshold, "_BLOCK", 7)
    features = gallery([-1, 0, 0, *(np.arange(60) % 20 + 1)])
    told, values = false_match_threshold(features, rate), np.array(impostors(features))
    assert (told.pairs, told.rows, told.labelled) == (len(values), 60, 60)
    assert (values >= told.similarity + 1e-12).mean() <= rate
    assert (values >= told.similarity - 1e-9).mean() > rate - 1 / len(values)


@pytest.mark.parametrize("rate", [0.01, 0.1, 0.3])
def test_it_is_the_evaluations_threshold_on_the_same_pairs(rate: float) -> None:
    """There it is counted in steps, for the pairs that a protocol compares; here for all pairs of a gallery."""
    features = gallery([*(np.arange(60) % 20 + 1)])
    everybody = dataclasses.replace(features, query=np.arange(60))
    protocol = EvalProtocol("any-camera", camera_filter=False)
    there = verification(everybody, protocol, rates=[rate]).threshold[0]
    assert 0 <= there - false_match_threshold(features, rate).similarity <= 1 / FINE


def test_large_galleries_are_sampled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threshold, "ROWS", 50)
    told = false_match_threshold(gallery([*(np.arange(400) % 100 + 1)]), 0.1)
    assert (told.rows, told.labelled) == (50, 400)
    assert told.pairs <= 50 * 49 / 2
    assert told == false_match_threshold(gallery([*(np.arange(400) % 100 + 1)]), 0.1)


def test_what_cannot_be_told() -> None:
    with pytest.raises(DataError, match=r"two persons .* 0 labelled rows of 0 persons; use --min-similarity"):
        false_match_threshold(gallery([0, 0, -1]), 0.1)
    with pytest.raises(DataError, match="2 labelled rows of 1 persons"):
        false_match_threshold(gallery([0, 5, 5]), 0.1)
    with pytest.raises(DataError, match=r"0\.1 cannot be estimated from 3 pairs .* at least 1/3"):
        false_match_threshold(gallery([1, 2, 3]), 0.1)
    for rate in (0, 1, -1, float("nan")):
        with pytest.raises(ConfigError, match="above 0 and below 1"):
            false_match_threshold(gallery([1, 2, 3]), rate)
