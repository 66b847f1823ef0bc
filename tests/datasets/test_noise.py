"""Label noise: counts, distributions, nesting and refusals, each against a direct reckoning."""

from collections import Counter

import numpy as np
import pytest

from reid.datasets.noise import NOISES, realised_rate, symmetric, uniform_others
from reid.errors import ConfigError

LABELS_N = np.repeat(np.arange(10), 2_000)


@pytest.mark.parametrize("rate", [0.0, 0.3, 0.6, 1.0])
@pytest.mark.parametrize("labels_N", [np.arange(7), LABELS_N])
def test_uniform_others_changes_exactly_the_share_asked_for(rate, labels_N):
    noisy_N = uniform_others(labels_N, 10, rate, seed=3)
    assert sum(a != b for a, b in zip(noisy_N, labels_N, strict=True)) == round(rate * len(labels_N))
    assert set(noisy_N) <= set(range(10))


def test_uniform_others_chooses_each_other_class_equally_often():
    noisy_N = uniform_others(LABELS_N, 10, 1.0, seed=0)
    pairs = Counter(zip(LABELS_N.tolist(), noisy_N.tolist(), strict=True))
    expected = 2_000 / 9
    chi_square = sum((pairs[a, b] - expected) ** 2 / expected for a in range(10) for b in range(10) if a != b)
    assert chi_square < 130  # 80 degrees of freedom: beyond 130 lies 3 in 10,000
    assert all(pairs[a, a] == 0 for a in range(10))


def test_symmetric_may_draw_the_original_again():
    noisy_N = symmetric(LABELS_N, 10, 0.8, seed=0)
    assert realised_rate(noisy_N, LABELS_N) == pytest.approx(0.72, abs=0.01)  # 0.8 * 9/10; 3 sigma is 0.0095
    assert realised_rate(symmetric(LABELS_N, 10, 1.0, seed=0), LABELS_N) == pytest.approx(0.9, abs=0.007)


@pytest.mark.parametrize("name", NOISES)
def test_one_seed_nests_lower_rates_in_higher_ones(name):
    low_N, high_N = (NOISES[name](LABELS_N, 10, rate, seed=5) for rate in (0.3, 0.6))
    changed_N = low_N != LABELS_N
    np.testing.assert_array_equal(high_N[changed_N], low_N[changed_N])


@pytest.mark.parametrize("name", NOISES)
def test_noise_is_seeded_and_leaves_its_input_alone(name):
    before_N = LABELS_N.copy()
    first_N, again_N, other_N = (NOISES[name](LABELS_N, 10, 0.5, seed=seed) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first_N, again_N)
    assert (first_N != other_N).any()
    np.testing.assert_array_equal(LABELS_N, before_N)
    np.testing.assert_array_equal(NOISES[name](LABELS_N, 10, 0.0, seed=1), LABELS_N)


@pytest.mark.parametrize("name", NOISES)
@pytest.mark.parametrize("rate", [-0.1, 1.1, float("nan")])
def test_a_rate_outside_0_to_1_is_refused(name, rate):
    with pytest.raises(ConfigError, match="rate: expected >= 0 and <= 1"):
        NOISES[name](LABELS_N, 10, rate, seed=0)


@pytest.mark.parametrize("labels_N", [np.array([0, 10]), np.array([-1, 3])])
def test_labels_that_are_not_0_to_K_minus_1_are_refused(labels_N):
    with pytest.raises(ConfigError, match=r"labels: expected 0\.\.9"):
        uniform_others(labels_N, 10, 0.5, seed=0)


def test_a_single_class_has_no_other():
    with pytest.raises(ConfigError, match="at least 2"):
        uniform_others(np.zeros(4, int), 1, 0.5, seed=0)


def test_realised_rate_counts_differences():
    assert realised_rate(np.array([1, 2, 3, 4]), np.array([1, 2, 0, 0])) == 0.5
    assert realised_rate(np.array([]), np.array([])) == 0.0
