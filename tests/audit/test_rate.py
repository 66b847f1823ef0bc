"""The share of wrong labels, where it is known."""

import numpy as np
import pytest
from scipy import stats

from reid.audit.labels import fit_of, persons_of
from reid.audit.rate import DEGREES, Mixture, estimate_rate, fit_mixture
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
    above = margin[(margin > -0.69) & (margin < 0.3)]  # whatever lies far below
    assert mixture.likely_wrong(np.append(above, -40.0))[:-1] == pytest.approx(mixture._posterior(above), abs=0.02)


def test_the_densities_are_those_of_scipy() -> None:
    mixture, margin = Mixture(0.3, (0.4, 0.2), (-0.5, 0.1)), np.linspace(-1, 1, 50)
    wrong = 0.3 * stats.norm.pdf(margin, -0.5, 0.1)
    right = 0.7 * stats.t.pdf(margin, DEGREES, 0.4, 0.2)
    assert mixture._posterior(margin) == pytest.approx(wrong / (wrong + right))


def test_margins_below_all_that_wrong_labels_are_expected_to_have() -> None:
    mixture = Mixture(0.5, (-0.5, 0.1), (0.2, 0.1))
    assert np.isfinite(mixture.likely_wrong(np.array([-0.6, -0.5]))).all()


@pytest.mark.parametrize("share", [0.1, 0.3, 0.5])
def test_probabilities_mean_what_they_say(share: float) -> None:
    """Margins drawn from two distributions that overlap: of the labels called wrong with probability p, a share p is wrong."""
    rng, N = np.random.default_rng(5), 20_000
    wrong = rng.random(N) < share
    margin = np.where(wrong, rng.normal(-0.4, 0.15, N), 0.2 + 0.2 * rng.standard_t(DEGREES, N))
    null = rng.normal(-0.4, 0.15, (N, 4))
    mixture = fit_mixture(margin, null)
    p = mixture.likely_wrong(margin)
    assert mixture.rate == pytest.approx(share, abs=0.02)
    place = np.digitize(p, np.linspace(0, 1, 6)[1:-1])
    filled = [i for i in range(5) if (place == i).sum() > 100]
    assert len(filled) >= 4
    for i in filled:
        assert wrong[place == i].mean() == pytest.approx(p[place == i].mean(), abs=0.05), i
    known = stats.norm.pdf(margin, -0.4, 0.15) * share
    best = known / (known + stats.t.pdf(margin, DEGREES, 0.2, 0.2) * (1 - share))
    assert np.mean((p - wrong) ** 2) < np.mean((best - wrong) ** 2) + 0.003  # of those that nobody could do better than
