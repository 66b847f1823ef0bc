"""Re-ranking and query expansion against dense loops over their equations, and against the plain ranking they contain."""

import numpy as np
import pytest

from reid.errors import ConfigError, DataError
from reid.evaluation import reranking
from reid.evaluation.masks import Matches, find_matches
from reid.evaluation.ranking import count_nearer
from reid.evaluation.reranking import count_nearer_expanded, count_nearer_reranked, nearest, taking_part
from reid.features import FeatureSet
from reid.protocol import MARKET1501, MARS_OFFICIAL, MARS_TORCHREID, EvalProtocol

PROTOCOLS = [MARS_OFFICIAL, MARS_TORCHREID, EvalProtocol("any-camera", camera_filter=False)]


def made_up(seed: int, n: int = 60, dim: int = 6, noise: float = 0.6) -> FeatureSet:
    """Clusters with junk, distractors and unknown cameras; some queries stand in the gallery and some do not."""
    rng = np.random.default_rng(seed)
    pid, camid = rng.integers(-1, 9, n), rng.integers(-1, 4, n)
    features = rng.standard_normal((10, dim))[pid] + noise * rng.standard_normal((n, dim))
    features /= np.linalg.norm(features, axis=1, keepdims=True)
    query = rng.permutation(np.flatnonzero(pid > 0))[:15]
    gallery = np.sort(rng.permutation(n)[: 3 * n // 4])
    return FeatureSet(features.astype(np.float32), pid, camid, query, gallery)


def squared_distances(features: FeatureSet) -> np.ndarray:
    wide = features.features.astype(np.float64)
    return ((wide[:, None] - wide[None]) ** 2).sum(axis=2)


def dense_reranking(
    features: FeatureSet, rows: list[int], k1: int, k2: int, weight: float, variant: str
) -> dict[tuple[int, int], float]:
    """The final distance of every pair of rows, by sets and loops."""
    exact = squared_distances(features)
    d = {p: {g: exact[p, g] for g in rows} for p in rows}
    if variant == "code":
        d = {p: {g: d[p][g] / max(d[p].values()) for g in rows} for p in rows}

    def N(p: int, k: int) -> list[int]:
        return [p, *sorted((g for g in rows if g != p), key=lambda g: (exact[p, g], g))[:k]]

    def R(p: int, k: int) -> set[int]:
        return {g for g in N(p, k) if p in N(g, k)}

    half = round(k1 / 2)
    R_k1, R_half = {p: R(p, k1) for p in rows}, {p: R(p, half) for p in rows}
    V: dict[int, np.ndarray] = {}
    for p in rows:
        members = set(R_k1[p])
        for q in R_k1[p]:
            shared, needed = len(R_k1[p] & R_half[q]), 2 / 3 * len(R_half[q])
            if shared > needed + 1e-9 if variant == "code" else shared >= needed - 1e-9:
                members |= R_half[q]
        V[p] = np.array([np.exp(-d[p][g]) if g in members else 0.0 for g in rows])
        if variant == "code":
            V[p] /= V[p].sum()
    expanded = {p: np.mean([V[g] for g in N(p, k1)[:k2]], axis=0) for p in rows}
    final = {}
    for p in rows:
        for g in rows:
            jaccard = 1 - np.minimum(expanded[p], expanded[g]).sum() / np.maximum(expanded[p], expanded[g]).sum()
            final[p, g] = (1 - weight) * jaccard + weight * d[p][g]
    return final


def counts(features: FeatureSet, matches: Matches, distance: dict[tuple[int, int], float]) -> list[int]:
    """Wrong columns before each match, one pair at a time."""
    out = []
    for i, query in enumerate(features.query):
        for column in matches.column[matches.start[i] : matches.start[i + 1]]:
            match = matches.columns[column]
            wrong = [row for row in matches.columns if features.pid[row] != features.pid[query]]
            before = [
                (round(distance[query, row], 10), row) < (round(distance[query, match], 10), match) for row in wrong
            ]
            out.append(sum(before))
    return out


@pytest.mark.parametrize("variant", ["paper", "code"])
@pytest.mark.parametrize(("k1", "k2", "weight"), [(20, 6, 0.3), (6, 3, 0.3), (7, 1, 0.0), (1, 2, 0.5), (4, 5, 0.1)])
def test_reranking_is_the_dense_definition(variant: str, k1: int, k2: int, weight: float) -> None:
    changed = 0
    for seed, protocol in enumerate(PROTOCOLS):
        features = made_up(seed)
        matches = find_matches(features, protocol)
        rows = taking_part(features, protocol)
        assert set(features.query) <= set(rows)
        expected = counts(features, matches, dense_reranking(features, rows.tolist(), k1, k2, weight, variant))
        options = {"k1": k1, "k2": k2, "weight": weight, "variant": variant}
        got = count_nearer_reranked(features, protocol, matches, **options)
        assert got.tolist() == expected
        changed += int((got != count_nearer(features, matches)).sum())
    assert changed, "re-ranking does something"


def test_small_blocks_give_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    features = made_up(3)
    matches = find_matches(features, MARKET1501)
    whole = [count_nearer_reranked(features, MARKET1501, matches, variant=v) for v in ("paper", "code")]
    for name, value in (("ENTRIES", 100), ("SPARSE_ROWS", 7), ("CHUNK", 11)):
        monkeypatch.setattr(reranking, name, value)
    blocks = [count_nearer_reranked(features, MARKET1501, matches, variant=v) for v in ("paper", "code")]
    assert np.array_equal(whole, blocks)


@pytest.mark.parametrize("protocol", PROTOCOLS, ids=lambda p: p.name)
def test_with_all_the_weight_on_the_original_nothing_changes(protocol: EvalProtocol) -> None:
    features = made_up(4)
    matches = find_matches(features, protocol)
    plain = count_nearer(features, matches)
    assert np.array_equal(count_nearer_reranked(features, protocol, matches, weight=1.0), plain)


def test_equal_rows_go_by_row_number() -> None:
    """All features are equal, so every distance is: what stands before a match is the wrong rows of smaller number."""
    rows = np.arange(12)
    features = FeatureSet(np.full((12, 2), 0.5**0.5), rows // 4 + 1, rows % 4, rows[:1], rows)
    matches = find_matches(features, MARKET1501)
    expected = [int((rows[4:] < row).sum()) for row in matches.columns[matches.column]]
    for nearer in (
        count_nearer_reranked(features, MARKET1501, matches, k1=11, k2=3),
        count_nearer_expanded(features, MARKET1501, matches, k=4),
    ):
        assert nearer.tolist() == expected


def test_own_neighbour_lists_may_be_longer() -> None:
    features = made_up(5)
    matches, rows = find_matches(features, MARKET1501), taking_part(features, MARKET1501)
    own = nearest(features, rows, rows, 12)
    expected = count_nearer_reranked(features, MARKET1501, matches, k1=8, k2=3)
    assert np.array_equal(count_nearer_reranked(features, MARKET1501, matches, k1=8, k2=3, neighbours_UK=own), expected)
    gaps = own.copy()
    gaps[::3, 5:] = -1  # as an approximate index leaves them
    assert len(count_nearer_reranked(features, MARKET1501, matches, k1=8, k2=3, neighbours_UK=gaps)) == len(expected)
    for wrong in (own[1:], own[:, :7]):
        with pytest.raises(DataError, match="neighbours: expected rows of shape"):
            count_nearer_reranked(features, MARKET1501, matches, k1=8, k2=3, neighbours_UK=wrong)


def test_neighbourhoods_larger_than_the_gallery() -> None:
    features = made_up(6, n=20)
    matches = find_matches(features, MARKET1501)
    rows = taking_part(features, MARKET1501)
    expected = counts(features, matches, dense_reranking(features, rows.tolist(), 30, 4, 0.3, "paper"))
    assert count_nearer_reranked(features, MARKET1501, matches, k1=30, k2=4).tolist() == expected


def test_nearest_are_sorted_and_leave_themselves_out() -> None:
    features = made_up(7)
    exact, rows = squared_distances(features), np.arange(10, 60)
    near = nearest(features, np.array([3, 20]), rows, 49)
    for query, found in zip((3, 20), near, strict=True):
        others = [row for row in rows.tolist() if row != query]
        assert found[found >= 0].tolist() == sorted(others, key=lambda row: (exact[query, row], row))[:49]


@pytest.mark.parametrize("alpha", [0.0, 3.0])
@pytest.mark.parametrize("k", [1, 5, 80])
def test_query_expansion_is_its_equation(alpha: float, k: int) -> None:
    for seed, protocol in enumerate(PROTOCOLS):
        features = made_up(seed, noise=1.5)
        matches = find_matches(features, protocol)
        wide, searched = features.features.astype(float), features.gallery
        if protocol.gallery == "without_queries":
            searched = np.setdiff1d(searched, features.query)
        distance = {}
        for query in features.query.tolist():
            others = sorted((g for g in searched.tolist() if g != query), key=lambda g: (-(wide[g] @ wide[query]), g))[
                :k
            ]
            total = wide[query] + sum(
                max(0.0, wide[g] @ wide[query]) ** alpha * wide[g] * (wide[g] @ wide[query] > 0) for g in others
            )
            total /= np.linalg.norm(total)
            distance |= {(query, row): -float(total @ wide[row]) for row in range(len(wide))}
        got = count_nearer_expanded(features, protocol, matches, k=k, alpha=alpha)
        assert got.tolist() == counts(features, matches, distance)
    assert not np.array_equal(got, count_nearer(features, matches))


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"k1": 0}, "k1: expected >= 1"),
        ({"k2": 0}, "k2: expected >= 1 and <= 21, got 0"),
        ({"k2": 22}, "k2: expected >= 1 and <= 21, got 22"),
        ({"weight": 1.5}, "weight: expected >= 0 and <= 1"),
        ({"variant": "dense"}, "variant: expected paper or code, got 'dense'"),
    ],
)
def test_settings_out_of_range(options: dict, says: str) -> None:
    features = made_up(8)
    with pytest.raises(ConfigError, match=says):
        count_nearer_reranked(features, MARKET1501, find_matches(features, MARKET1501), **options)


def test_expansion_settings_out_of_range() -> None:
    features = made_up(8)
    matches = find_matches(features, MARKET1501)
    for options, says in (({"k": 0}, "k: expected >= 1"), ({"alpha": -1}, "alpha: expected >= 0")):
        with pytest.raises(ConfigError, match=says):
            count_nearer_expanded(features, MARKET1501, matches, **options)
