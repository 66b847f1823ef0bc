"""Foreign frames, where they were put in."""

import tracemalloc

import numpy as np
import pytest

from reid.audit import frames
from reid.audit.frames import foreign_frames, spans


def tracklets(lengths: list[int], *, seed: int = 0, spread: float = 0.3) -> np.ndarray:
    rng = np.random.default_rng(seed)
    rows = np.repeat(rng.normal(size=(len(lengths), 16)), lengths, axis=0)
    return unit(rows + spread * rng.normal(size=rows.shape))


def unit(rows: np.ndarray) -> np.ndarray:
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def test_intruders_and_switches_are_found_where_they_are() -> None:
    lengths = np.array([8, 10, 12, 9, 1, 2])
    features, start = tracklets(lengths.tolist()), np.cumsum(lengths) - lengths
    expected = np.zeros(len(features), bool)
    stranger = tracklets([5], seed=9)
    expected[start[0] + 3] = True  # one frame in the middle
    expected[start[1] + 6 : start[1] + 10] = True  # a switch near the end
    expected[[start[2], start[2] + 5, start[2] + 6]] = True  # two stretches
    for at, row in zip(np.flatnonzero(expected), np.resize(np.arange(5), expected.sum()), strict=True):
        features[at] = stranger[row]
    found = foreign_frames(features, lengths, np.arange(6))
    assert np.array_equal(found.frame, expected)


def test_the_best_stretch_is_that_of_a_search_through_all() -> None:
    rng = np.random.default_rng(2)
    for n in range(2, 9):
        rows = unit(rng.normal(size=(n, 4)))
        best, at = -1.0, None
        for i in range(n):
            for j in range(i + 1, n + 1):
                inside = np.arange(n)[i:j]
                outside = np.setdiff1d(np.arange(n), inside)
                if len(outside):
                    gap = rows[inside].mean(0) - rows[outside].mean(0)
                    scatter = len(inside) * len(outside) / n * gap @ gap
                    if scatter > best + 1e-12:
                        best, at = scatter, inside if 2 * len(inside) <= n else outside
        assert np.array_equal(frames._most_different(rows, border=1.1), at)


def test_long_tracklets_are_thinned(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(frames, "LONGEST", 10)
    features = tracklets([40, 40, 40])
    features[20:40] = tracklets([20], seed=9)
    found = foreign_frames(features, np.array([40, 40, 40]), np.arange(3))
    assert found.frame[:40].sum() == 20 and not found.frame[40:].any()


def test_where_the_network_tells_nobody_apart_nothing_is_foreign() -> None:
    features = unit(1 + 0.05 * np.random.default_rng(0).normal(size=(30, 8)))
    found = foreign_frames(features, np.array([10, 10, 10]), np.arange(3))
    assert np.isnan(found.border) and not found.frame.any()


@pytest.mark.parametrize(
    ("foreign", "expected"),
    [([], ()), ([0, 0], ()), ([1], ((0, 0),)), ([1, 1, 0, 1], ((0, 1), (3, 3))), ([0, 1, 1], ((1, 2),))],
)
def test_spans(foreign: list[int], expected: tuple[tuple[int, int], ...]) -> None:
    assert spans(np.array(foreign, bool)) == expected


@pytest.mark.parametrize("order", ["by person", "at random"])
def test_a_switch_is_found_whatever_the_order_of_tracklets(order: str) -> None:
    """Of tables sorted by person, neighbours are one person, and look like it."""
    rng = np.random.default_rng(0)
    person = np.repeat(np.arange(12), 6)
    if order == "at random":
        person = rng.permutation(person)
    tracklet = rng.normal(size=(12, 64))[person] + 0.3 * rng.normal(size=(72, 64))
    features = unit(np.repeat(tracklet, 8, axis=0) + 0.3 * rng.normal(size=(576, 64)))
    expected = np.zeros(576, bool)
    expected[5:8] = True
    features[:8][5:8] = features[np.flatnonzero(person != person[0])[-1] * 8 :][:3]
    assert np.array_equal(foreign_frames(features, np.full(72, 8), person).frame, expected)


def test_a_long_tracklet_takes_little_memory() -> None:
    features = tracklets([20_000, 30, 30]).astype(np.float16).repeat(4, axis=1) / 2  # 2.5 MB
    tracemalloc.start()
    foreign_frames(features, np.array([20_000, 30, 30]), np.arange(3))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 25e6  # of which 20 MB are the table of its 512 frames
