"""Label noise: counts, distributions, nesting and refusals, each against a direct reckoning."""

from collections import Counter
from functools import partial

import numpy as np
import pytest

from reid.datasets.noise import (
    NOISES,
    asymmetric,
    exact_count,
    realised_rate,
    symmetric,
    uniform_others,
    write_flips,
)
from reid.errors import ConfigError, DataError

LABELS_N = np.repeat(np.arange(10), 2_000)
TO = [
    0,
    1,
    0,
    5,
    7,
    3,
    6,
    7,
    8,
    1,
]  # CIFAR-10's: bird to airplane, cat to dog and back, deer to horse, truck to automobile
RULES = NOISES | {"asymmetric": partial(asymmetric, to=TO)}


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


@pytest.mark.parametrize("rate", [0.0, 0.3, 0.8, 1.0])
def test_exact_count_draws_exactly_the_share_asked_for_and_the_original_among_them(rate):
    labels_N = np.zeros(20_000, int)
    drawn_N = exact_count(labels_N, 10_000_000, rate, seed=3)  # so many classes that an original hardly comes up again
    assert round(rate * 20_000) - (drawn_N != 0).sum() in (0, 1)
    share = realised_rate(exact_count(LABELS_N, 10, rate, seed=3), LABELS_N)
    assert share == pytest.approx(0.9 * rate, abs=0.007)  # 3 sigma of round(rate * N) draws that miss in 9 of 10 cases
    counts = np.bincount(exact_count(LABELS_N, 10, 1.0, seed=0))
    assert ((counts - 2_000) ** 2 / 2_000).sum() < 30  # chi square, 9 degrees of freedom: beyond 30 lies 4 in 10,000


def test_asymmetric_flips_each_class_into_its_own_at_the_rate_asked_for():
    noisy_N = asymmetric(LABELS_N, 10, 0.4, seed=0, to=TO)
    for label, target in enumerate(TO):
        counts = Counter(noisy_N[label == LABELS_N].tolist())
        assert counts.keys() == {label, target}
        if target != label:
            assert counts[target] / 2_000 == pytest.approx(0.4, abs=0.033)  # 3 sigma
    np.testing.assert_array_equal(asymmetric(LABELS_N, 10, 1.0, 0, TO), np.array(TO)[LABELS_N])


def test_cats_and_dogs_flip_from_the_clean_labels_not_one_after_the_other():
    noisy_N = asymmetric(LABELS_N, 10, 0.4, seed=0, to=TO)
    chained_N, rng = LABELS_N.copy(), np.random.default_rng(0)
    for label, target in ((3, 5), (5, 3)):  # in place, as widespread generators do
        chained_N[(chained_N == label) & (rng.random(len(chained_N)) < 0.4)] = target
    cats = LABELS_N == 3
    assert np.mean(chained_N[cats] != 3) == pytest.approx(0.24, abs=0.03)  # 0.4 * 0.6: some come back
    assert np.mean(noisy_N[cats] != 3) == pytest.approx(0.40, abs=0.033)


@pytest.mark.parametrize("to", [TO[:9], [*TO, 0], [*TO[:9], 10], [*TO[:9], -1], []])
def test_a_map_that_is_not_of_these_classes_is_refused(to):
    with pytest.raises(ConfigError, match=r"to: expected 10 classes, each in 0\.\.9"):
        asymmetric(LABELS_N, 10, 0.4, seed=0, to=to)


@pytest.mark.parametrize("name", RULES)
def test_one_seed_nests_lower_rates_in_higher_ones(name):
    low_N, high_N = (RULES[name](LABELS_N, 10, rate, seed=5) for rate in (0.3, 0.6))
    changed_N = low_N != LABELS_N
    np.testing.assert_array_equal(high_N[changed_N], low_N[changed_N])


@pytest.mark.parametrize("name", RULES)
def test_noise_is_seeded_and_leaves_its_input_alone(name):
    before_N = LABELS_N.copy()
    first_N, again_N, other_N = (RULES[name](LABELS_N, 10, 0.5, seed=seed) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first_N, again_N)
    assert (first_N != other_N).any()
    np.testing.assert_array_equal(LABELS_N, before_N)
    np.testing.assert_array_equal(RULES[name](LABELS_N, 10, 0.0, seed=1), LABELS_N)


@pytest.mark.parametrize("name", RULES)
@pytest.mark.parametrize("rate", [-0.1, 1.1, float("nan")])
def test_a_rate_outside_0_to_1_is_refused(name, rate):
    with pytest.raises(ConfigError, match="rate: expected >= 0 and <= 1"):
        RULES[name](LABELS_N, 10, rate, seed=0)


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


def test_flips_are_written_row_by_row(tmp_path):
    clean_N, given_N = np.array([3, 5, 9, 0]), np.array([5, 5, 1, 2])
    write_flips(tmp_path / "new" / "flips.csv", clean_N, given_N, np.array([2, 30, 44_444, 49_999]))
    assert (tmp_path / "new" / "flips.csv").read_text() == "row,clean,given\n2,3,5\n44444,9,1\n49999,0,2\n"
    write_flips(tmp_path / "new" / "flips.csv", clean_N, clean_N, np.arange(4))
    assert (tmp_path / "new" / "flips.csv").read_text() == "row,clean,given\n"
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["flips.csv"]
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match="cannot write"):
        write_flips(tmp_path / "file" / "flips.csv", clean_N, given_N, np.arange(4))
