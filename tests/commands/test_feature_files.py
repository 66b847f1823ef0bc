"""Feature files as people have them: MATLAB's columns, queries in a file of their own, no queries at all, queries that are nobody."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from reid.errors import DataError
from reid.features import FeatureSet
from tests.commands.conftest import call
from tests.evaluation.oracles import made_up

PROTOCOL = ["--protocol", "market1501", "--json", "out.json"]


@pytest.fixture
def arrays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """In an empty current folder: a.npz of 20 queries, and a gallery of the other rows."""
    monkeypatch.chdir(tmp_path)
    made = made_up(0, n=60, dimensions=8)
    held = {"features": made.features, "pid": np.abs(made.pid) + 1, "camid": made.camid}
    held |= {"query": np.arange(20), "gallery": np.arange(20, 60)}
    np.savez("a.npz", **held)
    return held


def result(*argv: object) -> dict[str, Any]:
    assert call("test", *map(str, argv), *PROTOCOL) == 0
    return json.loads(Path("out.json").read_text())[0]


def test_columns_as_matlab_keeps_them(arrays: dict[str, Any]) -> None:
    np.savez("b.npz", **{name: a if name == "features" else a[:, None] for name, a in arrays.items()})
    np.savez("c.npz", **{name: a if name == "features" else a[None] for name, a in arrays.items()})
    assert result("--features", "b.npz") == result("--features", "c.npz") == result("--features", "a.npz")


def test_numbers_that_count_from_1_are_named(arrays: dict[str, Any], fails) -> None:
    np.savez("b.npz", **arrays | {"gallery": arrays["gallery"] + 1})
    assert "row numbers are 0-based; MATLAB counts from 1: subtract 1" in fails("test", "--features", "b.npz")


def test_queries_and_gallery_apart(arrays: dict[str, Any]) -> None:
    ids = ("features", "pid", "camid")
    apart = {f"{part}_{name}": arrays[name][arrays[part]] for part in ("query", "gallery") for name in ids}
    np.savez("b.npz", **apart)
    np.savez("c.npz", **{name: a[:, None] if a.ndim == 1 else a for name, a in apart.items()})
    for part in ("query", "gallery"):
        np.savez(f"{part}.npz", **{name: apart[f"{part}_{name}"] for name in ids})
    expected = result("--features", "a.npz")
    assert expected["num_queries"] > 10 and expected["num_gallery"] == 40
    assert result("--features", "b.npz") == result("--features", "c.npz") == expected
    assert result("--query-file", "query.npz", "--gallery-file", "gallery.npz") == expected


def test_parts_that_do_not_fit(arrays: dict[str, Any], fails) -> None:
    np.savez("q.npz", features=np.eye(3), pid=np.arange(3), camid=np.arange(3))
    line = fails("test", "--query-file", "q.npz", "--gallery-file", "a.npz")
    assert line == "error: features: the queries have 3 dimensions, the gallery 8; expected features of the same model"


def test_every_row_against_the_rest(arrays: dict[str, Any], fails) -> None:
    np.savez("b.npz", **{name: arrays[name] for name in ("features", "pid", "camid")})
    assert "--leave-one-out takes every row as a query" in fails("test", "--features", "b.npz")
    np.savez("c.npz", **arrays | {"query": np.arange(60), "gallery": np.arange(60)})
    found = result("--features", "b.npz", "--leave-one-out")
    assert found == result("--features", "c.npz")
    assert found["num_queries"] + found["num_without_match"] == 60


def test_queries_that_are_nobody_are_told_of_with_their_effect(
    arrays: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    pid = arrays["pid"].copy()
    plain = result("--features", "a.npz")
    pid[:5] = 0
    pid[[30, 40]] = 0
    np.savez("b.npz", **arrays | {"pid": pid})
    capsys.readouterr()
    with_them = result("--features", "b.npz")
    said = capsys.readouterr().err
    np.savez("c.npz", **arrays | {"pid": pid, "query": np.arange(5, 20)})
    without = result("--features", "c.npz")
    assert "b.npz: queries of no known person: 5 of pid 0; all queries of pid 0 count as one person; mAP" in said
    assert f"{100 * with_them['mAP']:.1f}% with them, {100 * without['mAP']:.1f}% without (market1501)" in said
    assert with_them != plain
    assert "nobody" not in capsys.readouterr().err


@pytest.mark.parametrize("empty", [np.zeros(0, complex), np.zeros(0, "S4"), np.zeros(0, bool)])
def test_an_empty_list_of_another_kind(arrays: dict[str, Any], empty: np.ndarray) -> None:
    np.savez("b.npz", **arrays | {"query": empty})
    with pytest.raises(DataError, match="query: expected a list of integer row numbers, got"):
        FeatureSet.load("b.npz")
