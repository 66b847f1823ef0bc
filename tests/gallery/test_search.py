"""Exact search against numpy, in float64 and with ties; filters; indexes; what is refused."""

import numpy as np
import pytest

from reid.errors import ConfigError, DataError
from reid.features import FeatureSet
from reid.gallery import index as indexes
from reid.gallery import search as searching
from reid.gallery.index import Index
from reid.gallery.search import Hits, rows_of, search


def made_up(n: int, dim: int, seed: int = 0, copies: int = 1) -> FeatureSet:
    rng = np.random.default_rng(seed)
    features = np.tile(rng.standard_normal((n // copies, dim)), (copies, 1))
    features = (features / np.linalg.norm(features, axis=1, keepdims=True)).astype(np.float32)
    rows = np.arange(len(features))
    return FeatureSet(features, rows, rows % 4 - 1, np.array([0]), rows)


def oracle(features: FeatureSet, query: np.ndarray, rows: np.ndarray, own: int, k: int) -> list[tuple[int, float]]:
    """Every similarity in float64, sorted by Python: nearest first, then by row number."""
    unit = (query / np.linalg.norm(query.astype(np.float64))).astype(np.float32).astype(np.float64)
    pairs = [
        (float(sum(a * b for a, b in zip(features.features[row].astype(float), unit, strict=True))), row)
        for row in rows
    ]
    return [(row, value) for value, row in sorted(pairs, key=lambda p: (-round(p[0], 12), p[1])) if row != own][:k]


@pytest.mark.parametrize("copies", [1, 25])
def test_exact_search_is_the_sorted_list(copies: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(searching, "ROWS_AT_ONCE", 64)  # several blocks
    features = made_up(300, 5, copies=copies)
    queries = np.concatenate([features.features[[3, 250]], np.random.default_rng(1).standard_normal((2, 5)) * 7])
    own = np.array([3, -1, -1, -1])
    hits = search(features, queries, top_k=30, own=own)
    for i, query in enumerate(queries):
        expected = oracle(features, query, np.arange(300), own[i], 30)
        assert hits.rows[i].tolist() == [row for row, _ in expected]
        np.testing.assert_allclose(hits.similarity[i], [value for _, value in expected], atol=1e-12)


def test_equal_rows_beyond_the_first_depth_are_sought() -> None:
    """All rows tie, so that float32 alone may keep any of them: the smallest row numbers must win."""
    one = np.full((500, 3), 3**-0.5, np.float32)
    rows = np.arange(500)
    features = FeatureSet(one, rows, rows, np.array([0]), rows)
    assert search(features, one[:1], top_k=4, own=np.array([1])).rows.tolist() == [[0, 2, 3, 4]]


def test_filtered_search_loses_no_hit() -> None:
    features = made_up(400, 6)
    rows = rows_of(features, camera=[1, 2], not_camera=[2])
    assert rows is not None
    assert set(features.camid[rows]) == {1}
    coarse = Index("IVF32,Flat", 6).build(features.features)  # looks into one cell of 32: would miss most
    hits = search(features, features.features[:3], top_k=15, rows=rows, index=coarse)
    for i in range(3):
        assert hits.rows[i].tolist() == [row for row, _ in oracle(features, features.features[i], rows, -1, 15)]


def test_camera_filters() -> None:
    features = made_up(8, 3)
    assert rows_of(features) is None
    assert rows_of(features, not_camera=[0]).tolist() == [0, 2, 3, 4, 6, 7]  # type: ignore[union-attr]
    assert rows_of(features, camera=[-1]).tolist() == [0, 4]  # type: ignore[union-attr]
    with pytest.raises(DataError, match=r"no row .* cameras -1, 0, 1, 2"):
        rows_of(features, camera=[9])


def test_person_filters() -> None:
    features = made_up(8, 3)
    first, *others = np.unique(features.pid).tolist()
    assert rows_of(features, person=[first]).tolist() == np.flatnonzero(features.pid == first).tolist()  # type: ignore[union-attr]
    left = np.flatnonzero((features.pid != first) & (features.camid != 0))
    assert rows_of(features, not_person=[first], not_camera=[0]).tolist() == left.tolist()  # type: ignore[union-attr]
    with pytest.raises(DataError, match="no row of the gallery matches all of camera, person and time"):
        rows_of(features, not_person=[first, *others])


def test_lists_longer_than_the_gallery_end_in_minus_one() -> None:
    features = made_up(5, 3)
    hits = search(features, features.features[:1], top_k=7, own=np.array([0]))
    assert hits.rows[0, 4:].tolist() == [-1]  # a list is no longer than the gallery, whatever is asked for
    assert sorted(hits.rows[0, :4]) == [1, 2, 3, 4]
    assert hits.similarity[0, 4:].tolist() == [0]


def test_threshold_cuts_the_list() -> None:
    hits = Hits(np.array([[4, 2, -1]]), np.array([[0.9, -0.1, 0.0]]))
    assert hits.above(0.9).rows.tolist() == [[4, -1, -1]]
    assert hits.above(-1.0).rows.tolist() == [[4, 2, -1]]


@pytest.mark.parametrize("factory", ["IVF16,Flat:nprobe=16", "HNSW32:efSearch=200", "SQ8", "PCA6,Flat"])
def test_a_thorough_index_finds_what_exact_search_finds(factory: str) -> None:
    features = made_up(1000, 6)
    index = Index(factory, 6).build(features.features)
    own = np.arange(20)
    exact = search(features, features.features[own], top_k=5, own=own)
    found = search(features, features.features[own], top_k=5, own=own, index=index)
    assert np.array_equal(found.rows, exact.rows)
    assert np.array_equal(found.similarity, exact.similarity)


def test_an_index_that_finds_too_few_says_so_with_minus_one() -> None:
    features = made_up(1000, 6)
    index = Index("IVF25,Flat", 6).build(features.features)
    hits = search(features, features.features[:1], top_k=500, index=index)
    assert hits.rows[0, 0] == 0
    assert hits.rows[0, -1] == -1
    found = hits.rows[0][hits.rows[0] >= 0]
    assert len(set(found)) == len(found)


@pytest.mark.parametrize(
    ("factory", "says"),
    [
        ("XX", "could not parse index string XX"),
        ("", "could not parse"),
        ("PQ4", "multiple"),
        ("Flat:nprobe=3", "Flat takes none"),
        ("IVF4,Flat:efSearch=3", "IVF4,Flat takes nprobe"),
        ("IVF4,Flat:nprobe", "expected name=number"),
    ],
)
def test_indexes_that_faiss_does_not_make(factory: str, says: str) -> None:
    with pytest.raises(ConfigError, match=says) as caught:
        Index(factory, 6)
    assert "\n" not in str(caught.value)


def test_too_few_rows_for_an_index() -> None:
    with pytest.raises(ConfigError, match=r"cannot build 'IVF64,Flat' from 10 rows of 6 dimensions"):
        Index("IVF64,Flat", 6).build(made_up(10, 6).features)


@pytest.mark.parametrize("bad", [np.zeros((1, 3)), np.full((1, 3), np.nan), np.ones((1, 4)), np.ones(3)])
def test_queries_that_have_no_cosine(bad: np.ndarray) -> None:
    with pytest.raises(DataError, match="query"):
        search(made_up(5, 3), bad)


def test_top_k_must_be_positive() -> None:
    with pytest.raises(ConfigError, match="top_k: expected 1 or more, got 0"):
        search(made_up(5, 3), np.ones((1, 3)), top_k=0)


def test_without_faiss_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "faiss", None)
    with pytest.raises(ConfigError, match="pip install"):
        indexes.import_faiss()


def test_a_gpu_build_of_faiss_is_used_where_it_can(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """No GPU here: what is checked is that the index goes there, and stays where faiss has no GPU kind of it."""
    faiss = indexes.import_faiss()
    monkeypatch.setattr(indexes, "num_gpus", lambda: 2)
    monkeypatch.setattr(faiss, "index_cpu_to_all_gpus", lambda index: ("on GPUs", index), raising=False)
    flat = Index("Flat", 6).build(made_up(20, 6).features)
    there = flat.faiss
    assert flat.on_gpus().faiss == ("on GPUs", there)

    def refuses(index: object) -> None:
        raise RuntimeError("Error in clone at x.cpp:1: not supported")

    monkeypatch.setattr(faiss, "index_cpu_to_all_gpus", refuses, raising=False)
    caplog.set_level("INFO")
    graph = Index("HNSW8", 6).build(made_up(20, 6).features)
    there = graph.faiss
    assert graph.on_gpus().faiss is there
    assert "index HNSW8 stays on the CPU: not supported" in caplog.text
