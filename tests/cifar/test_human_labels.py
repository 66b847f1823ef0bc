"""Human labels, and files that are none."""

from __future__ import annotations

import functools
import os
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from reid.cifar.data import load_human_labels
from reid.errors import ConfigError, DataError
from tests.cifar.conftest import LABELS_N, REAL, Call, refused

KINDS = {"aggregate": 9.01, "random1": 17.23, "random2": 18.12, "random3": 17.64, "worse": 40.21}  # per cent, published


def test_the_real_human_labels_and_their_published_rates():
    if not REAL.is_dir():
        pytest.skip(f"{REAL} is absent: no real labels to look at")
    with np.load(REAL / "cifar10_jpeg.npz") as stored:
        clean_N = stored["train_labels"].astype(np.int64)
    for kind, rate in KINDS.items():
        given_N = load_human_labels(REAL / "cifar10n_human_labels.npz", kind, clean_N)
        assert given_N.dtype == np.int64 and given_N.shape == (50_000,)
        assert 100 * np.mean(given_N != clean_N) == pytest.approx(rate, abs=0.006)
    shifted_N = np.roll(clean_N, 1)
    wrong = int((shifted_N != clean_N).sum())
    load = functools.partial(load_human_labels, REAL / "cifar10n_human_labels.npz", "worse", shifted_N)
    refused(DataError, load, f"got {wrong} of 50000 that differ", "another order")


CLEAN_N = LABELS_N[:100]


def human(**changes: Any) -> dict[str, Any]:
    content = {"clean_label": CLEAN_N}
    for k, key in enumerate(("aggre_label", "random_label1", "random_label2", "random_label3", "worse_label"), 1):
        content[key] = (CLEAN_N + k) % 10
    return {key: value for key, value in (content | changes).items() if value is not None}


def save_torch(path: Path, content: Any, numpy: bytes | None = None) -> Path:
    """As torch.save; `numpy`: by that name of NumPy's inner module, as its release of the time would have."""
    torch.save(content, path)
    if numpy is not None:
        with zipfile.ZipFile(path) as archive:
            members = {name: archive.read(name) for name in archive.namelist()}
        with zipfile.ZipFile(path, "w") as archive:
            for name, member in members.items():
                archive.writestr(name, member.replace(b"cnumpy._core.multiarray\n", b"c" + numpy + b"\n"))
    return path


@pytest.mark.parametrize("numpy", [b"numpy.core.multiarray", b"numpy._core.multiarray"])
def test_human_labels_of_the_public_kind_of_file(tmp_path, numpy):
    file = save_torch(tmp_path / "CIFAR-10_human.pt", human(), numpy)
    for k, kind in enumerate(("aggregate", "random1", "random2", "random3", "worse"), 1):
        np.testing.assert_array_equal(load_human_labels(file, kind, CLEAN_N), (CLEAN_N + k) % 10)
    hundred = {"clean_label": CLEAN_N, "noisy_label": CLEAN_N[::-1].copy(), "clean_coarse_label": CLEAN_N.tolist()}
    noisy_N = load_human_labels(save_torch(tmp_path / "CIFAR-100_human.pt", hundred, numpy), "noisy", CLEAN_N)
    np.testing.assert_array_equal(noisy_N, CLEAN_N[::-1])


@pytest.mark.parametrize(
    "content, words",
    [
        (human(worse_label=None), ["expected worse_label", "aggre_label"]),
        (human(clean_label=None), ["expected clean_label"]),
        (human(worse_label=CLEAN_N[:99]), ["worse_label to be 100 whole numbers", "int64 (99,)"]),
        (human(worse_label=CLEAN_N.tolist()), ["worse_label to be 100 whole numbers", "got list"]),
        (human(worse_label=CLEAN_N + 1), ["worse_label in 0..9, got 1..10"]),
        (human(worse_label=CLEAN_N - 1), ["worse_label in 0..9, got -1..8"]),
        (human(clean_label=(CLEAN_N + (np.arange(100) < 7)) % 10), ["got 7 of 100 that differ", "another order"]),
        (human(worse_label=CLEAN_N / 1), ["imports numpy.dtypes.Float64DType"]),
        (human(worse_label=np.array([os.mkdir] * 100)), ["imports numpy.dtypes.ObjectDType"]),
        (human(worse_label=Call(os.mkdir, "trace")), ["imports posix.mkdir", "nothing in it was executed"]),
        (CLEAN_N.tolist(), ["expected a dict", "got list"]),
    ],
)
def test_human_labels_that_do_not_fit_are_refused(tmp_path, monkeypatch, content, words):
    monkeypatch.chdir(tmp_path)
    file = save_torch(tmp_path / "labels.pt", content)
    refused(DataError, lambda: load_human_labels(file, "worse", CLEAN_N), str(file), *words)
    assert not (tmp_path / "trace").exists()


def test_human_label_files_that_are_none(tmp_path):
    good = save_torch(tmp_path / "good.pt", human()).read_bytes()
    np.savez(tmp_path / "objects.npz", **human(worse_label=np.array([None] * 100)))
    (tmp_path / "cut.pt").write_bytes(good[:-200])
    (tmp_path / "cut.npz").write_bytes((tmp_path / "objects.npz").read_bytes()[:-200])
    (tmp_path / "text.pt").write_text("<html>not found</html>")
    (tmp_path / "text.npz").write_text("<html>not found</html>")
    for name in ("objects.npz", "cut.pt", "cut.npz", "text.pt", "text.npz"):
        refused(DataError, lambda name=name: load_human_labels(tmp_path / name, "worse", CLEAN_N), name, "damaged")
    refused(DataError, lambda: load_human_labels(tmp_path / "none.pt", "worse", CLEAN_N), "none.pt", "No such file")
    refused(DataError, lambda: load_human_labels(tmp_path, "worse", CLEAN_N), str(tmp_path), "cannot read")
    refused(ConfigError, lambda: load_human_labels(tmp_path / "good.pt", "worst", CLEAN_N), "'worst'", "'worse'")
