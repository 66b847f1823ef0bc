"""Counts and ranked lists against a full sort, whatever the block, the threads and the product's precision."""

import os
import subprocess
import sys

import numpy as np
import pytest
import torch

from reid.errors import ConfigError, DataError
from reid.evaluation import ranking
from reid.evaluation.masks import find_matches
from reid.evaluation.ranking import count_nearer, exact_similarity, rank
from reid.features import FeatureSet, float32_error
from reid.protocol import MARKET1501, MARS_OFFICIAL, MARS_TORCHREID
from tests.evaluation.oracles import made_up, ranked, similarity


def counts_by_sort(features, matches, protocol):
    out = []
    for i, query in enumerate(features.query):
        rows, match = ranked(features, protocol, query)
        wrong = dict(zip(rows, np.cumsum(~match), strict=True))
        pairs = matches.column[matches.start[i] : matches.start[i + 1]]
        out += [wrong[row] for row in matches.columns[pairs]]
    return np.array(out)


def nearly_equal(seed):
    """Rows that float32 products cannot put in order: copies of a few rows, moved by a few last bits."""
    base = made_up(seed, dimensions=48)
    rng = np.random.default_rng(seed)
    copies = base.features[rng.integers(0, 12, len(base.pid))]
    moved = np.nextafter(copies, np.where(rng.random(copies.shape) < 0.5, -1, 1).astype(np.float32))
    rows = np.where(rng.random((len(copies), 1)) < 0.5, copies, moved)
    return FeatureSet(rows, base.pid, base.camid, base.query, base.gallery)


def exactly_equal(seed):
    return made_up(seed, ties=True)


DATA = [made_up, exactly_equal, nearly_equal]


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("data", DATA, ids=lambda data: data.__name__)
def test_counts_equal_those_of_a_full_sort(seed, data):
    features = data(seed)
    for protocol in (MARS_OFFICIAL, MARS_TORCHREID):
        matches = find_matches(features, protocol)
        expected = counts_by_sort(features, matches, protocol)
        np.testing.assert_array_equal(count_nearer(features, matches), expected)


@pytest.mark.parametrize("data", DATA, ids=lambda data: data.__name__)
def test_counts_do_not_depend_on_how_the_work_is_cut(data, monkeypatch):
    features = data(9)
    matches = find_matches(features, MARS_OFFICIAL)
    expected = count_nearer(features, matches)
    for block_size, workers in ((1, 1), (7, 3), (1000, 2)):
        counts = count_nearer(features, matches, block_size=block_size, workers=workers)
        np.testing.assert_array_equal(counts, expected)
    monkeypatch.setattr(ranking, "CHUNK", 13)
    monkeypatch.setattr(ranking, "PENDING_ROWS", 5)
    monkeypatch.setattr(ranking, "EXACT", 100)
    np.testing.assert_array_equal(count_nearer(features, matches), expected)


@pytest.mark.parametrize("data", DATA, ids=lambda data: data.__name__)
def test_a_coarse_product_changes_no_count(data, monkeypatch):
    features = data(3)
    matches = find_matches(features, MARS_OFFICIAL)
    expected = count_nearer(features, matches)

    def bfloat16_product(gallery_CD, device):
        there = torch.from_numpy(gallery_CD).bfloat16().T
        return lambda query_BD: (torch.from_numpy(query_BD).bfloat16() @ there).float().numpy()

    monkeypatch.setattr(ranking, "product_with", bfloat16_product)
    np.testing.assert_array_equal(count_nearer(features, matches), expected)


def adverse_rows(dimensions):
    """Unit rows whose rounding errors add up in one direction: equal, half equal, positive."""
    rng = np.random.default_rng(0)
    for rows in (rng.random((64, dimensions)), rng.random((64, dimensions)) < 0.5, np.ones((64, dimensions))):
        rows = np.maximum(rows, 1e-3)
        yield (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


@pytest.mark.parametrize("dimensions", [1, 3, 100, 1000, 1024, 1025, 4000])
def test_the_float32_bound_holds_where_rounding_adds_up(dimensions):
    for unit in adverse_rows(dimensions):
        exact = unit.astype(np.float64) @ unit.astype(np.float64).T
        assert np.abs(unit @ unit.T - exact).max() <= float32_error(dimensions)
        assert np.abs(ranking.product_with(unit, "cpu")(unit) - exact).max() <= ranking.product_error(dimensions)


def test_the_float32_bound_holds_for_the_worst_order_of_summation():
    """One term after the other, each rounded: no kernel does worse, and none may assume better."""
    for unit in adverse_rows(4000):
        total = np.float32(0)
        for term in unit[0] * unit[1]:
            total += term
        error = abs(float(total) - float(unit[0].astype(np.float64) @ unit[1].astype(np.float64)))
        assert error <= float32_error(4000)


KERNELS = {"Prescott": 0, "Sandybridge": 0, "Haswell": 1, "Zen": 1, "SkylakeX": 2}
LEVEL = {"AVX2": 1, "AVX512": 2}.get(torch.backends.cpu.get_cpu_capability(), 0)


@pytest.mark.parametrize("kernel", [name for name, level in KERNELS.items() if level <= LEVEL])
def test_counts_are_the_same_with_every_kernel_that_this_processor_can_run(kernel):
    """Half-constant rows, as ReLU features are: their float32 errors differ between kernels, the counts may not."""
    environment = os.environ | {"OPENBLAS_CORETYPE": kernel, "ATEN_CPU_CAPABILITY": "default"}
    child = subprocess.run([sys.executable, "-c", KERNEL_SCRIPT], env=environment, capture_output=True, text=True)
    assert not child.returncode, child.stderr
    found, error = child.stdout.split()
    features = half_constant()
    matches = find_matches(features, MARS_OFFICIAL)
    assert found == "".join(map(str, counts_by_sort(features, matches, MARS_OFFICIAL)))
    assert float(error) <= ranking.product_error(1000)


def half_constant():
    """Rows of 0 and 1, many of them nearly equal."""
    base = made_up(2)
    rows = np.random.default_rng(2).random((len(base.pid), 1000)) < 0.5
    rows[::3] = rows[0]
    rows[::3, :9] = np.random.default_rng(3).random((len(rows[::3]), 9)) < 0.5
    return FeatureSet(np.maximum(rows, 1e-3), base.pid, base.camid, base.query, base.gallery)


KERNEL_SCRIPT = """
import numpy as np
from reid.evaluation import ranking
from reid.evaluation.masks import find_matches
from reid.protocol import MARS_OFFICIAL
from tests.evaluation.test_ranking import half_constant
features = half_constant()
rows = features.features
counts = ranking.count_nearer(features, find_matches(features, MARS_OFFICIAL))
error = ranking.product_with(rows, "cpu")(rows) - rows.astype(np.float64) @ rows.astype(np.float64).T
print("".join(map(str, counts)), np.abs(error).max())
"""


def test_reduced_precision_is_off_inside_and_left_as_it_was(monkeypatch):
    seen = []
    product = ranking.product_with

    def spy(gallery_CD, device):
        seen.append(torch.get_float32_matmul_precision())
        return product(gallery_CD, device)

    monkeypatch.setattr(ranking, "product_with", spy)
    features = made_up()
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high")
    try:
        count_nearer(features, find_matches(features, MARS_OFFICIAL))
        assert (seen, torch.get_float32_matmul_precision()) == (["highest"], "high")
    finally:
        torch.set_float32_matmul_precision(before)


@pytest.mark.gpu
@pytest.mark.parametrize("data", DATA, ids=lambda data: data.__name__)
def test_counts_are_the_same_on_a_gpu(data):
    features = data(5)
    matches = find_matches(features, MARS_OFFICIAL)
    np.testing.assert_array_equal(count_nearer(features, matches, device="cuda"), count_nearer(features, matches))


def test_exact_similarity_depends_on_the_two_rows_alone():
    features = made_up(1, dimensions=200).features
    together = exact_similarity(features, np.arange(160), np.full(160, 7))
    alone = [exact_similarity(features, np.array([row]), np.array([7]))[0] for row in range(160)]
    np.testing.assert_array_equal(together, alone)
    np.testing.assert_array_equal(together, exact_similarity(features, np.full(160, 7), np.arange(160)))


@pytest.mark.parametrize("options", [{"block_size": 0}, {"workers": 0}])
def test_options_below_one_are_refused(options):
    features = made_up()
    with pytest.raises(ConfigError, match="at least 1"):
        count_nearer(features, find_matches(features, MARS_OFFICIAL), **options)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("top_k", [1, 5, 500])
@pytest.mark.parametrize("data", DATA, ids=lambda data: data.__name__)
def test_ranked_lists_equal_a_full_sort(seed, top_k, data):
    features = data(seed)
    for protocol in (MARKET1501, MARS_TORCHREID):
        lists = rank(features, top_k=top_k, protocol=protocol)
        for i, query in enumerate(features.query):
            rows, match = ranked(features, protocol, query)
            shown = min(top_k, len(rows))
            np.testing.assert_array_equal(lists.rows[i, :shown], rows[:shown])
            np.testing.assert_array_equal(lists.match[i, :shown], match[:shown])
            np.testing.assert_array_equal(lists.similarity[i, :shown], similarity(features, query)[rows[:shown]])
            assert (lists.rows[i, shown:] == -1).all()
            assert not lists.match[i, shown:].any()


def test_ranked_lists_search_past_deep_junk():
    n = 400
    pid = np.array([1] * 300 + [2] * 99 + [1])
    features = np.ones((n, 4)) + np.linspace(0, 1, n)[:, None] * np.eye(4)[0]
    camid = np.array([0] * 399 + [1])
    lists = rank(
        FeatureSet(features, pid, camid, np.array([0]), np.arange(n)), top_k=2, protocol=MARKET1501, queries=[0]
    )
    np.testing.assert_array_equal(lists.rows, [[300, 301]])
    assert not lists.match.any()


def test_ranked_lists_of_chosen_queries():
    features = made_up()
    chosen = features.query[[4, 2]]
    lists = rank(features, top_k=3, protocol=MARKET1501, queries=chosen)
    np.testing.assert_array_equal(lists.query, chosen)
    np.testing.assert_array_equal(lists.rows, rank(features, top_k=3, protocol=MARKET1501).rows[[4, 2]])
    with pytest.raises(DataError, match="queries: row numbers"):
        rank(features, top_k=3, protocol=MARKET1501, queries=[160])
    with pytest.raises(ConfigError, match="top_k"):
        rank(features, top_k=0, protocol=MARKET1501)
