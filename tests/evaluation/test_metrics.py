"""Closed forms against definitions that are walked rank by rank, and against scikit-learn."""

import numpy as np
import pytest
from sklearn.metrics import average_precision_score

from reid.evaluation.metrics import average_precision, cmc_curve, hit_ranks, inverse_negative_penalty
from tests.evaluation.oracles import hit_ap, inverse_penalty, trapezoid_ap


def closed_form(match, rule):
    rank = np.flatnonzero(match) + 1
    return average_precision(rank, np.array([0, len(rank)]), rule)[0]


@pytest.mark.parametrize("seed", range(40))
def test_closed_forms_equal_the_walk(seed):
    rng = np.random.default_rng(seed)
    match = rng.random(rng.integers(1, 60)) < rng.choice([0.05, 0.5, 1.0])
    match[rng.integers(len(match))] = True
    assert closed_form(match, "trapezoid") == pytest.approx(trapezoid_ap(match), abs=1e-12)
    assert closed_form(match, "hit") == pytest.approx(hit_ap(match), abs=1e-12)
    rank = np.flatnonzero(match) + 1
    inp = inverse_negative_penalty(rank, np.array([0, len(rank)]))
    assert inp == pytest.approx([inverse_penalty(match)], abs=1e-12)
    similarity = -np.arange(len(match), dtype=float)
    assert closed_form(match, "hit") == pytest.approx(average_precision_score(match, similarity), abs=1e-12)


@pytest.mark.parametrize(
    ("match", "trapezoid", "hit"),
    [
        ([1], 1.0, 1.0),
        ([0, 1], 0.25, 0.5),  # (0/1 + 1/2) / 2
        ([1, 0, 1], (1 + (1 / 2 + 2 / 3) / 2) / 2, (1 + 2 / 3) / 2),
        ([1, 1, 0, 0], 1.0, 1.0),
    ],
)
def test_worked_by_hand(match, trapezoid, hit):
    assert closed_form(np.array(match, bool), "trapezoid") == pytest.approx(trapezoid, abs=1e-15)
    assert closed_form(np.array(match, bool), "hit") == pytest.approx(hit, abs=1e-15)


def test_several_queries_at_once_and_none():
    start = np.array([0, 2, 5])
    rank = hit_ranks(np.array([4, 1, 0, 7, 0]), start)
    np.testing.assert_array_equal(rank, [2, 6, 1, 2, 10])
    np.testing.assert_allclose(average_precision(rank, start, "hit"), [(1 / 2 + 2 / 6) / 2, (1 + 1 + 3 / 10) / 3])
    np.testing.assert_allclose(inverse_negative_penalty(rank, start), [2 / 6, 3 / 10])
    assert inverse_negative_penalty(np.array([], int), np.array([0])).shape == (0,)
    assert average_precision(np.array([], int), np.array([0]), "trapezoid").shape == (0,)


def test_inp_is_one_when_all_matches_stand_first_and_falls_with_the_last():
    """Ye et al.'s example of two rankings: matches at 1, 2, 3 of which the hardest stands at 3, or at 10."""
    rank = np.array([1, 2, 3, 1, 2, 10])
    np.testing.assert_allclose(inverse_negative_penalty(rank, np.array([0, 3, 6])), [1, 0.3])


def test_cmc_counts_first_hits_and_misses():
    np.testing.assert_allclose(cmc_curve(np.array([1, 2, 2, 9]), 5, 4), [0.2, 0.6, 0.6, 0.6])
    assert cmc_curve(np.array([], int), 0, 4).shape == (0,)
    np.testing.assert_array_equal(cmc_curve(np.array([], int), 3, 2), [0, 0])
