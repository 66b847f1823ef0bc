"""The share of wrong labels, where it is known."""

import numpy as np
import pytest
from scipy import stats

from reid.audit.labels import fit_of, persons_of
from reid.audit.rate import DEGREES, Mixture, estimate_rate
from tests.audit.conftest import make_world


@pytest.mark.parametrize("share", [0.0, 0.05, 0.2, 0.5])
def test_the_rate_is_found(share: float) -> None:
    world = make_world(rate=share, seed=1)
    label = np.unique(world.given, return_inverse=True)[1]
    fit = fit_of(persons_of(world.features, label, world.camid))
    rate, mixture = estimate_rate(fit.margin, fit.null, label)
    assert rate.value == pytest.approx(share, abs=0.03)
    assert rate.low <= share + 0.01 and share - 0.01 <= rate.high
    wrong = mixture.likely_wrong(fit.margin)
    assert wrong.mean() == pytest.approx(share, abs=0.03)
    if share:
        assert wrong[world.wrong].mean() > 0.85
        assert wrong[~world.wrong].mean() < 0.05


def test_a_lower_margin_is_never_less_suspicious() -> None:
    mixture = Mixture(0.2, (0.4, 0.3), (-0.7, 0.1))  # the right labels' wider tail would win below -1.5
    margin = np.linspace(-2, 1, 500)
    assert (np.diff(mixture.likely_wrong(margin)) <= 1e-12).all()
    assert mixture.likely_wrong(margin)[0] > 0.9
    assert mixture.likely_wrong(np.array([0.4]))[0] < 0.01


def test_the_densities_are_those_of_scipy() -> None:
    mixture, margin = Mixture(0.3, (0.4, 0.2), (-0.5, 0.1)), np.linspace(-1, 1, 50)
    wrong = 0.3 * stats.norm.pdf(margin, -0.5, 0.1)
    right = 0.7 * stats.t.pdf(margin, DEGREES, 0.4, 0.2)
    assert mixture._posterior(margin) == pytest.approx(wrong / (wrong + right))


def test_margins_below_all_that_wrong_labels_are_expected_to_have() -> None:
    mixture = Mixture(0.5, (-0.5, 0.1), (0.2, 0.1))
    assert np.isfinite(mixture.likely_wrong(np.array([-0.6, -0.5]))).all()
