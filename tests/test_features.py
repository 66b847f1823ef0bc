"""Feature sets are checked at birth, survive a round trip bit for bit, and results never hold NaN."""

import json
import logging

import numpy as np
import pytest

from reid.errors import DataError
from reid.features import EvalResult, FeatureSet, save_results
from reid.protocol import MARS_OFFICIAL, MARS_TORCHREID


def arrays(n=6, d=5, seed=0):
    rng = np.random.default_rng(seed)
    return {
        "features": rng.standard_normal((n, d)),
        "pid": np.arange(n) % 3 - 1,
        "camid": np.arange(n) % 2,
        "query": np.array([0, 2]),
        "gallery": np.arange(n),
    }


def test_rows_become_float32_of_unit_norm_and_that_is_said_once(caplog):
    given = arrays()
    with caplog.at_level(logging.INFO):
        features = FeatureSet(**given).features
    assert features.dtype == np.float32
    expected = given["features"] / np.linalg.norm(given["features"], axis=1, keepdims=True)
    np.testing.assert_allclose(features, expected, atol=1e-7)
    assert [record.getMessage() for record in caplog.records] == [
        "features: 6 of 6 rows did not have unit norm and were normalised"
    ]


def test_unit_rows_stay_bit_for_bit_and_are_not_copied(caplog):
    unit = FeatureSet(**arrays()).features
    caplog.clear()
    again = FeatureSet(**{**arrays(), "features": unit}).features
    assert np.shares_memory(unit, again)
    assert not caplog.records


@pytest.mark.parametrize("scale", [1e-30, 1e-3, 7.0, 1e30])
def test_scale_does_not_matter(scale):
    given = arrays()
    scaled = FeatureSet(**{**given, "features": (given["features"] * scale).astype(np.float32)})
    np.testing.assert_allclose(scaled.features, FeatureSet(**given).features, atol=1e-6)


def test_the_callers_array_is_left_alone():
    given = arrays()
    given["features"] = given["features"].astype(np.float32)
    before = given["features"].copy()
    FeatureSet(**given)
    np.testing.assert_array_equal(given["features"], before)


def test_whole_numbers_and_half_precision_are_taken():
    ones = np.ones((6, 4), np.int32)
    np.testing.assert_array_equal(FeatureSet(**{**arrays(), "features": ones}).features, np.full((6, 4), 0.5))
    half = FeatureSet(**{**arrays(), "features": arrays()["features"].astype(np.float16)})
    np.testing.assert_allclose(np.linalg.norm(half.features, axis=1), 1, atol=1e-6)


@pytest.mark.parametrize(("value", "what"), [(0.0, "is all zero"), (np.nan, "not finite"), (np.inf, "not finite")])
def test_dead_rows_are_named_by_row_and_key(value, what):
    given = arrays()
    given["features"][3] = value
    with pytest.raises(DataError, match=f"row 3 .*{what}"):
        FeatureSet(**given)
    with pytest.raises(DataError, match=rf"row 3 \(key 'k3'\) .*{what}"):
        FeatureSet(**given, key=np.array([f"k{i}" for i in range(6)]))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"features": np.ones(6)}, r"features: expected real numbers of shape \(N, D\)"),
        ({"features": np.ones((0, 5))}, "features: expected"),
        ({"features": np.ones((6, 5), complex)}, "features: expected"),
        ({"pid": np.arange(5)}, "pid: expected 6 integers"),
        ({"pid": np.arange(6) / 2}, "pid: expected 6 integers"),
        ({"camid": np.zeros((6, 1), int)}, "camid: expected 6 integers"),
        ({"camid": np.full(6, -2)}, "camid: row 0 has -2"),
        ({"query": np.array([0, 6])}, r"query: 1 of 2 row numbers are outside 0\.\.5, the first is 6"),
        ({"query": np.array([-1])}, "query: .*outside"),
        ({"query": np.array([0.0])}, "query: expected a list of integer"),
        ({"query": np.array([1, 1])}, "query: 1 row numbers occur more than once, the first is 1"),
        ({"gallery": np.array([2, 3, 3])}, "gallery: .*more than once"),
        ({"key": np.arange(6)}, "key: expected 6 texts"),
        ({"fingerprint": 3}, "fingerprint: expected a text"),
    ],
)
def test_what_does_not_fit_is_refused_in_one_line(change, message):
    with pytest.raises(DataError, match=message) as error:
        FeatureSet(**{**arrays(), **change})
    assert len(error.value.problems) == 1


@pytest.mark.parametrize("extra", [{}, {"key": np.array(list("abcdeé")), "fingerprint": "model 1"}])
def test_round_trip_is_bit_for_bit(tmp_path, extra):
    features = FeatureSet(**arrays(), **extra)
    path = tmp_path / "features.npz"
    features.save(path)
    features.save(path)  # replaces
    loaded = FeatureSet.load(path)
    for name in arrays():
        assert getattr(loaded, name).dtype == getattr(features, name).dtype
        np.testing.assert_array_equal(getattr(loaded, name), getattr(features, name))
    assert loaded.fingerprint == features.fingerprint
    assert (loaded.key is None) if features.key is None else (loaded.key == features.key).all()
    assert [file.name for file in tmp_path.iterdir()] == ["features.npz"]


def test_gallery_is_all_rows_when_absent(tmp_path):
    given = arrays()
    del given["gallery"]
    np.savez(tmp_path / "f.npz", **given)
    np.testing.assert_array_equal(FeatureSet.load(tmp_path / "f.npz").gallery, np.arange(6))


def test_unknown_arrays_are_named(tmp_path, caplog):
    np.savez(tmp_path / "f.npz", **arrays(), galery=np.arange(2))
    FeatureSet.load(tmp_path / "f.npz")
    assert any("galery" in record.getMessage() for record in caplog.records)


@pytest.mark.parametrize("missing", ["features", "pid", "camid", "query"])
def test_a_missing_array_is_named(tmp_path, missing):
    given = arrays()
    del given[missing]
    np.savez(tmp_path / "f.npz", **given)
    with pytest.raises(DataError, match=rf"f\.npz: missing array {missing}; found "):
        FeatureSet.load(tmp_path / "f.npz")


def write_pickled(path):
    np.savez(path, **{**arrays(), "key": np.array(["a"] * 6, dtype=object)})


def write_flipped(path):
    np.savez(path, **arrays())
    content = bytearray(path.read_bytes())
    content[200] ^= 0xFF
    path.write_bytes(content)


def write_cut(path):
    np.savez_compressed(path, **arrays(n=500))
    path.write_bytes(path.read_bytes()[:-300])


def write_bad_shape(path):
    np.savez(path, **{**arrays(), "pid": np.arange(2)})


def write_scalar(path):
    np.savez(path, **{**arrays(), "features": np.float32(1)})


def write_two_fingerprints(path):
    np.savez(path, **arrays(), fingerprint=np.array(["a", "b"]))


def write_one_array(path):
    with path.open("wb") as file:
        np.save(file, np.ones(3))


@pytest.mark.parametrize(
    "write",
    [
        write_pickled,
        write_flipped,
        write_cut,
        write_bad_shape,
        write_scalar,
        write_two_fingerprints,
        lambda path: path.write_bytes(b""),
        lambda path: path.write_text("features"),
        lambda path: path.mkdir(),
        write_one_array,
        lambda path: None,
    ],
)
def test_damaged_files_are_answered_in_one_line_that_names_them(tmp_path, write):
    path = tmp_path / "bad.npz"
    write(path)
    with pytest.raises(DataError, match=r"bad\.npz: ") as error:
        FeatureSet.load(path)
    assert len(error.value.problems) == 1


def result(cmc, ap, **change):
    fields = {"protocol": MARS_OFFICIAL, "mAP": float(np.mean(ap)) if len(ap) else None, "num_without_match": 1}
    fields |= {"cmc": np.array(cmc), "ap": np.array(ap), "query": np.arange(len(ap)), "num_gallery": 9}
    return EvalResult(**{**fields, **change})


def test_json_has_the_public_form_and_repeats_the_last_rank():
    assert result([0.25, 0.5, 0.5, 0.5, 1.0], [0.5, 1.0]).to_json() == {
        "schema": 1,
        "protocol": "mars-official",
        "mAP": 0.75,
        "cmc": {"1": 0.25, "5": 1.0, "10": 1.0, "20": 1.0},
        "num_queries": 2,
        "num_without_match": 1,
        "num_gallery": 9,
    }


def test_no_counted_query_gives_null_and_never_nan(tmp_path):
    path = tmp_path / "run" / "eval.json"
    save_results(path, [result([], [], protocol=MARS_TORCHREID), result([1.0], [1.0])])
    first, second = json.loads(path.read_text())
    assert first["mAP"] is None
    assert first["cmc"] == {"1": None, "5": None, "10": None, "20": None}
    assert (first["protocol"], first["num_queries"]) == ("mars-torchreid", 0)
    assert second["mAP"] == 1.0
    assert [file.name for file in path.parent.iterdir()] == ["eval.json"]
