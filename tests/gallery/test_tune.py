"""The trade-off is measured on what the indexes really return."""

import numpy as np
import pytest

from reid.errors import ConfigError
from reid.features import FeatureSet
from reid.gallery import tune
from reid.gallery.index import Index


def gallery(n: int = 2000, dim: int = 8) -> FeatureSet:
    features = np.random.default_rng(0).standard_normal((n, dim))
    rows = np.arange(n)
    return FeatureSet(features / np.linalg.norm(features, axis=1, keepdims=True), rows, rows * 0, np.array([0]), rows)


def test_recall_rises_with_effort_and_is_one_when_every_cell_is_read() -> None:
    trials = list(tune.tune(gallery(), {"IVF32,Flat": ["nprobe=1", "nprobe=4", "nprobe=32"]}, top_k=5))
    assert [trial.factory for trial in trials] == ["Flat", *(f"IVF32,Flat:nprobe={n}" for n in (1, 4, 32))]
    recalls = [trial.recall for trial in trials]
    assert recalls[0] == recalls[3] == 1
    assert 0 < recalls[1] < recalls[2] < 1
    assert trials[0].bytes_per_row == 32
    assert trials[1].bytes_per_row > 32
    assert all(trial.milliseconds > 0 for trial in trials)


def test_recall_counts_the_share_of_the_exact_list() -> None:
    exact = np.array([[1, 2, 3], [4, 5, -1]])
    found = np.array([[3, 9, 1], [4, -1, -1]])
    assert tune._overlap(found, exact) == pytest.approx(3 / 5)


def test_recall_of_an_index() -> None:
    features = gallery(500)
    assert tune.recall(features, Index("IVF8,Flat:nprobe=8", 8).build(features.features)) == 1
    assert tune.recall(features, Index("IVF8,Flat", 8).build(features.features)) < 1


@pytest.mark.parametrize("n", [1, 3, 100, 12_000, 1_000_000])
@pytest.mark.parametrize("dim", [1, 7, 512, 1024])
def test_candidates_fit_the_gallery(n: int, dim: int) -> None:
    for factory, parameters in tune.candidates(n, dim).items():
        for parameter in parameters:
            Index(f"{factory}:{parameter}", dim)
        if factory.startswith("IVF"):
            cells = int(factory[3:].split(",")[0])
            assert tune.TRAINED_ON * cells <= n
            assert all(int(parameter[7:]) < cells for parameter in parameters)


def test_a_gallery_of_one_row() -> None:
    assert next(tune.tune(gallery(1), top_k=3)).recall == 1


def test_unknown_factory() -> None:
    with pytest.raises(ConfigError, match="faiss cannot make 'nonsense'"):
        list(tune.tune(gallery(50), {"nonsense": []}))
