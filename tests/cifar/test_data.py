"""Parts of the training set: subsets and held-out rows."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from reid.cifar.data import Cifar, ImageSet, hold_out, subset
from reid.errors import ConfigError
from tests.cifar.conftest import CLASSES, LABELS_N, refused


def part(labels_N: np.ndarray) -> Cifar:
    """A dataset of these labels; image i is filled with i."""
    index_N = np.arange(len(labels_N))
    images = np.broadcast_to((index_N % 251).astype(np.uint8)[:, None, None, None], (len(labels_N), 3, 32, 32))
    images = ImageSet(images, labels_N)
    return Cifar("cifar10", tuple(CLASSES), images, images, 3 * index_N, None, "a note")


def test_a_subset_has_as_many_of_each_class_as_possible():
    cifar = part(LABELS_N[:2_000])
    few = subset(cifar, 1_003, seed=0)
    assert sorted(Counter(few.train.labels_N.tolist()).values()) == [100] * 7 + [101] * 3
    rows = few.index_N // 3
    assert (np.diff(rows) > 0).all()
    np.testing.assert_array_equal(few.train.labels_N, cifar.train.labels_N[rows])
    np.testing.assert_array_equal(few.train.images_NCHW, cifar.train.images_NCHW[rows])
    assert few.test is cifar.test and few.note == cifar.note
    assert len(subset(cifar, 2_000, seed=0).train) == 2_000
    rare = np.sort(np.r_[np.zeros(3, int), np.repeat(np.arange(1, 10), 50)])
    assert np.bincount(subset(part(rare), 93, seed=0).train.labels_N).tolist() == [3] + [10] * 9


def test_subsets_are_fixed_nested_and_drawn_by_their_seed():
    cifar = part(LABELS_N[:2_000])
    small, large, other = (subset(cifar, num, seed).index_N for num, seed in ((50, 4), (500, 4), (500, 5)))
    np.testing.assert_array_equal(large, subset(cifar, 500, seed=4).index_N)
    assert set(small) < set(large) != set(other)
    assert (LABELS_N[small[:25] // 3] != np.arange(25) % 10).any()  # no order of classes shows in the rows
    twice = subset(subset(cifar, 500, seed=4), 20, seed=9)
    np.testing.assert_array_equal(twice.train.labels_N, LABELS_N[twice.index_N // 3])


@pytest.mark.parametrize("num", [0, 2_001])
def test_a_subset_of_none_or_of_more_than_there_are_is_refused(num):
    refused(ConfigError, lambda: subset(part(LABELS_N[:2_000]), num, 0), "num_train: expected >= 1 and <= 2000")


def test_held_out_rows_and_the_others_are_everything():
    rows, held = hold_out(1_001, 0.1, seed=0)
    assert len(held) == 100 and sorted([*rows, *held]) == list(range(1_001))
    assert (np.diff(rows) > 0).all() and (np.diff(held) > 0).all()
    np.testing.assert_array_equal(held, hold_out(1_001, 0.1, seed=0)[1])
    assert set(held) != set(hold_out(1_001, 0.1, seed=1)[1])
    for share in (0.0, 1.0, 0.0001, -0.5, float("nan")):
        refused(ConfigError, lambda share=share: hold_out(1_001, share, 0), "holdout: ")
