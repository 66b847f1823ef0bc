"""What is damaged, mismatched, empty or odd is answered in one line with exit code 2; what is merely not normalised is normalised."""

import json
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from reid.features import FeatureSet
from reid.gallery import change, store
from tests.commands.conftest import call
from tests.evaluation.oracles import made_up
from tests.gallery.conftest import features_of, split_of

N = 60


@pytest.fixture
def good(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FeatureSet:
    """In an empty current folder: good.npz."""
    monkeypatch.chdir(tmp_path)
    features = made_up(0, n=N, dimensions=8)
    features.save("good.npz")
    return features


def with_row(features: np.ndarray, value: float) -> np.ndarray:
    changed = features.copy()
    changed[3] = value
    return changed


ARRAYS: dict[str, tuple[Callable[[FeatureSet], dict[str, Any]], str]] = {
    "pickled": (lambda f: {"key": np.array([{"a": 1}] * N, object)}, "not a feature file: "),
    "too few pids": (
        lambda f: {"pid": f.pid[1:]},
        "pid: expected 60 integers, one per row of features, got int64 (59,)",
    ),
    "too few cameras": (lambda f: {"camid": f.camid[1:]}, "camid: expected 60 integers"),
    "no rows": (lambda f: {"features": f.features[:0], "pid": f.pid[:0], "camid": f.camid[:0]}, "with N, D >= 1"),
    "no dimension": (lambda f: {"features": f.features[:, :0]}, "with N, D >= 1"),
    "no query": (lambda f: {"query": f.query[:0]}, "no query rows"),
    "no gallery": (lambda f: {"gallery": f.gallery[:0]}, "gallery: no rows to search"),
    "nan": (lambda f: {"features": with_row(f.features, np.nan)}, "features: row 3 has a value that is not finite"),
    "inf": (lambda f: {"features": with_row(f.features, -np.inf)}, "features: row 3 has a value that is not finite"),
    "zero row": (lambda f: {"features": with_row(f.features, 0)}, "features: row 3 is all zero"),
    "query twice": (lambda f: {"query": f.query[[0, 1, 0]]}, "query: 1 row numbers occur more than once"),
    "gallery twice": (lambda f: {"gallery": f.gallery[[0, 1, 0]]}, "gallery: 1 row numbers occur more than once"),
    "query beyond": (
        lambda f: {"query": np.array([0, N])},
        "query: 1 of 2 row numbers are outside 0..59, the first is 60",
    ),
    "query beyond 64 bits": (lambda f: {"query": np.array([2**63 + 5], np.uint64)}, "the first is 9223372036854775813"),
    "query before": (lambda f: {"query": np.array([-1])}, "the first is -1; row numbers are 0-based"),
    "float pid": (lambda f: {"pid": f.pid.astype(float)}, "pid: expected 60 integers"),
    "huge pid": (lambda f: {"pid": np.full(N, 2**63, np.uint64)}, "pid: expected 64-bit signed integers, got 92233"),
    "camera -2": (lambda f: {"camid": np.full(N, -2)}, "camid: row 0 has -2"),
    "one dimension": (lambda f: {"features": f.features[:, 0]}, "features: expected real numbers of shape (N, D)"),
    "complex": (lambda f: {"features": f.features * 1j}, "features: expected real numbers"),
    "texts": (lambda f: {"features": f.features.astype(str)}, "features: expected real numbers"),
    "bytes as keys": (lambda f: {"key": np.array([b"a"] * N)}, "key: expected 60 texts"),
    "number as fingerprint": (lambda f: {"fingerprint": np.array(3)}, "fingerprint: expected one text"),
}


@pytest.mark.parametrize("name", ARRAYS)
def test_arrays_that_do_not_fit(name: str, good: FeatureSet, fails) -> None:
    change_of, says = ARRAYS[name]
    arrays = {field: getattr(good, field) for field in ("features", "pid", "camid", "query", "gallery")}
    np.savez("bad.npz", **arrays | change_of(good))
    for argv in (
        ("test", "--features", "bad.npz"),
        ("test", "--features", "bad.npz", "--full"),
        ("compare", "good.npz", "bad.npz"),
    ):
        assert says in fails(*argv)


def zip_of(member: bytes) -> bytes:
    with zipfile.ZipFile("zip", "w") as archive:
        for name in ("features", "pid", "camid", "query"):
            archive.writestr(f"{name}.npy", member)
    return Path("zip").read_bytes()


HUGE = (
    b"\x93NUMPY\x01\x00\x76\x00"
    + b"{'descr': '<f4', 'fortran_order': False, 'shape': (99999999999, 999999)}".ljust(117)
    + b"\n"
)


FILES: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda data: b"",
    "text": lambda data: b"pid,camid",
    "pickle": lambda data: pickle.dumps({"features": [[1.0]]}),
    "truncated": lambda data: data[: len(data) // 2],
    "flipped": lambda data: data[:300] + bytes(byte ^ 255 for byte in data[300:340]) + data[340:],
    "a truncated array": lambda data: data[data.index(b"\x93NUMPY") :][:400],
    "junk in a zip": lambda data: zip_of(b"junk"),
    "more than memory holds": lambda data: zip_of(HUGE),
}


@pytest.mark.parametrize("name", FILES)
def test_files_that_cannot_be_read(name: str, good: FeatureSet, fails) -> None:
    Path("bad.npz").write_bytes(FILES[name](Path("good.npz").read_bytes()))
    assert fails("test", "--features", "bad.npz").startswith("error: bad.npz: ")
    assert fails("compare", "bad.npz", "good.npz").startswith("error: bad.npz: ")


@pytest.mark.parametrize(
    ("scale", "dtype"),
    [(5, np.float16), (5, np.float32), (1e-30, np.float32), (1e-300, np.float64), (1e300, np.float64), (5, ">f4")],
)
def test_what_is_not_normalised_is_and_that_is_said(scale: float, dtype: Any, good: FeatureSet, capsys) -> None:
    np.savez(
        "raw.npz",
        features=(good.features.astype(np.float64) * scale).astype(dtype),
        pid=good.pid,
        camid=good.camid,
        query=good.query,
    )
    assert call("test", "--features", "raw.npz", "--protocol", "market1501") == 0
    assert "60 of 60 rows did not have unit norm and were normalised" in capsys.readouterr().err


def test_keys_of_two_rows_are_no_matter_until_they_name_something(good: FeatureSet, fails) -> None:
    np.savez(
        "twice.npz", features=good.features, pid=good.pid, camid=good.camid, query=good.query, key=np.array(["a"] * N)
    )
    assert call("test", "--features", "twice.npz", "--protocol", "market1501") == 0
    assert "keys in A occur more than once" in fails("compare", "twice.npz", "twice.npz")


def about(**changes: Any) -> Callable[[Path], object]:
    def change_json(folder: Path) -> None:
        held = json.loads((folder / "gallery.json").read_text())
        (folder / "gallery.json").write_text(json.dumps({**held, **changes}))

    return change_json


def meta(old: str, new: str) -> Callable[[Path], object]:
    def change_csv(folder: Path) -> None:
        text = (folder / "meta.csv").read_text()
        assert old in text
        (folder / "meta.csv").write_text(text.replace(old, new, 1))

    return change_csv


def rows(change_of: Callable[[np.ndarray], np.ndarray]) -> Callable[[Path], object]:
    return lambda folder: np.save(folder / "features.npy", change_of(np.load(folder / "features.npy")))


LINE_4 = "4,t4,4,-1,3,"
GALLERIES: dict[str, tuple[Callable[[Path], object], str]] = {
    "is none": (lambda folder: (folder / "gallery.json").unlink(), "not a complete feature folder"),
    "of a newer schema": (about(schema=2), "schema 2, expected 1: written by a newer version"),
    "of no schema": (about(schema=None), "schema None, expected 1"),
    "json cut": (lambda folder: (folder / "gallery.json").write_text('{"schema": 1'), "not a complete feature folder"),
    "json too deep": (
        lambda folder: (folder / "gallery.json").write_text("[" * 99999),
        "not a complete feature folder",
    ),
    "run is a number": (about(run=3), "run, checkpoint, weights and source must be texts"),
    "query beyond": (about(query=[40]), "query: 1 of 1 row numbers are outside 0..39"),
    "query is a text": (about(query="all"), "query and gallery must be lists of row numbers"),
    "counts differ": (about(counts={"tracklets": 39}), "40 rows in features.npy, 40 in meta.csv, 39 in gallery.json"),
    "a row of meta.csv missing": (
        meta("\n4,", "\n5,"),
        "line 6: the column `row` must count 0, 1, 2 …; expected 4, got 5",
    ),
    "pid is a text": (meta(LINE_4, "4,t4,four,-1,3,"), "line 6: invalid literal for int()"),
    "pid too large": (meta(LINE_4, f"4,t4,{2**63},-1,3,"), "line 6: "),
    "a line cut": (meta(LINE_4, "4,t4\n"), "line 6: "),
    "no header": (meta("row,key", "line,name"), "expected columns row, key, pid"),
    "features gone": (lambda folder: (folder / "features.npy").unlink(), "features.npy: cannot read these features"),
    "features cut": (lambda folder: (folder / "features.npy").write_bytes(b"\x93NUMPY"), "cannot read these features"),
    "features one row short": (rows(lambda f: f[1:]), "39 rows in features.npy, 40 in meta.csv"),
    "features of one dimension": (rows(lambda f: f[:, 0]), "expected real numbers of shape (N, D)"),
    "nan": (rows(lambda f: with_row(f, np.nan)), "row 3 (key 't3') has a value that is not finite"),
}


def make_gallery(folder: Path) -> Path:
    split = split_of([f"t{i}" for i in range(40)], np.arange(40) % 11, np.arange(40) % 4 - 1)
    store.write(folder, features_of(split, query=(3, 7)), split, {"run": "runs/x", "source": "here"})
    return folder


@pytest.mark.parametrize("name", GALLERIES)
def test_galleries_that_are_damaged(name: str, tmp_path: Path, fails) -> None:
    folder, (damage, says) = make_gallery(tmp_path / "g"), GALLERIES[name]
    damage(folder)
    for argv in (
        ("test", "--features", folder),
        ("compare", folder, folder),
        ("search", folder, "t5"),
        ("search", folder, "--tune"),
        ("gallery", "remove", folder, "t5"),
        ("gallery", "index", folder, "Flat"),
    ):
        assert says in fails(*argv), argv


def test_a_gallery_by_another_model_than_its_index(tmp_path: Path, fails) -> None:
    folder = make_gallery(tmp_path / "g")
    change.reindex(folder, "Flat")
    about(fingerprint="f11")(folder)
    assert "out of date: made from 40 rows of 8 dimensions by model f00, but the gallery has 40 rows" in fails(
        "search", folder, "t5"
    )
    assert call("test", "--features", folder) == 0


def test_half_of_a_change_is_not_seen(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """As a kill leaves them: new features without a new gallery.json, and temporary files."""
    folder = make_gallery(tmp_path / "g")
    for name in ("features.npy.new", ".meta.csv.new.1.tmp", ".lock"):
        (folder / name).write_bytes(b"half")
    assert call("search", folder, "t5") == 0
    assert call("test", "--features", folder) == 0
    assert call("gallery", "remove", folder, "t5") == 0
    assert capsys.readouterr().out.splitlines()[-1] == f"{folder}: 39 tracklets left"
    assert sorted(path.name for path in folder.iterdir()) == ["features.npy", "gallery.json", "meta.csv"]


def test_a_gallery_that_another_program_is_changing(tmp_path: Path, fails) -> None:
    folder = make_gallery(tmp_path / "g")
    with store.changing(folder):
        for argv in (("remove", folder, "t5"), ("index", folder, "Flat")):
            assert "another program is changing this gallery" in fails("gallery", *argv)
        assert call("search", folder, "t5") == call("test", "--features", folder) == 0
    assert call("gallery", "remove", folder, "t5") == 0
