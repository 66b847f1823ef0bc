"""tools/pack.py: a packed dataset loads as the folder does, and every mistake is one line."""

from __future__ import annotations

import os
import resource
import shutil
import signal
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from reid.datasets.decoding import decode
from reid.datasets.loader import load_batches
from reid.datasets.mars import load_mars
from reid.tracklets import Benchmark, Split
from tests.commands.conftest import call

Fails = Callable[..., str]


@pytest.fixture
def dataset(data_root: Path, tmp_path: Path) -> Path:
    """A copy that may be changed."""
    return shutil.copytree(data_root / "demo", tmp_path / "demo")


def content(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def without_folders(dataset: Path) -> Path:
    for part in ("train", "test"):
        shutil.rmtree(dataset / f"bbox_{part}")
    return dataset


def same(one: Split, other: Split) -> bool:
    columns = ("names", "start", "stop", "pid", "camid")
    return all(np.array_equal(getattr(one, column), getattr(other, column)) for column in columns)


def images_of(benchmark: Benchmark, workers: int) -> list[Any]:
    numbers = np.random.default_rng(0).permutation(benchmark.test.frames())
    return [batch.images for batch in load_batches(benchmark.test, np.array_split(numbers, 5), workers=workers)]


@pytest.mark.parametrize("lists", ["lists", "no lists"])
def test_packs_stand_in_for_the_folders(dataset: Path, lists: str) -> None:
    folders = load_mars(dataset, "demo")
    images = images_of(folders, workers=0)
    assert call("pack", dataset, "--shard-size", "0.05") == 0
    without_folders(dataset)
    if lists == "no lists":
        for part in ("train", "test"):
            (dataset / "info" / f"{part}_name.txt").unlink()
    packed = load_mars(dataset, "demo")
    assert same(packed.train, folders.train) and same(packed.test, folders.test)
    for workers in (0, 2):
        for one, other in zip(images_of(packed, workers), images, strict=True):
            assert torch.equal(one, other)


def test_both_give_the_same_pixels(dataset: Path) -> None:
    paths = [path for tracklet in load_mars(dataset).train for path in tracklet.paths]
    before = [decode(path) for path in paths]
    assert call("pack", dataset) == 0
    without_folders(dataset)
    assert all(np.array_equal(decode(path), pixels) for path, pixels in zip(paths, before, strict=True))


def test_nothing_of_the_source_is_touched_and_it_says_what_may_go(
    dataset: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (dataset / "bbox_train" / "Thumbs.db").write_bytes(b"no image")
    before = content(dataset)
    assert call("pack", dataset) == 0
    assert {name: data for name, data in content(dataset).items() if ".pack" not in name} == before
    said = capsys.readouterr().out.splitlines()
    assert len(said) == 4
    assert "bbox_train.pack: " in said[0] and "images, each equal to its file" in said[0]
    assert "bbox_train can be deleted now, except for the 1 file in it that is not an image" in said[1]
    assert "bbox_test can be deleted now; as long as it exists, it is read" in said[3]


def test_packed_elsewhere_it_is_a_dataset_by_itself(dataset: Path, tmp_path: Path) -> None:
    before = content(dataset)
    assert call("pack", dataset, "--out", tmp_path / "far" / "demo") == 0
    assert content(dataset) == before
    packed, folders = load_mars(tmp_path / "far" / "demo"), load_mars(dataset)
    assert same(packed.test, folders.test)
    for one, other in zip(images_of(packed, 0), images_of(folders, 0), strict=True):
        assert torch.equal(one, other)


def test_verify_finds_what_is_damaged(dataset: Path, fails: Fails, capsys: pytest.CaptureFixture[str]) -> None:
    assert call("pack", dataset) == 0
    without_folders(dataset)
    capsys.readouterr()
    assert call("pack", dataset, "--verify") == 0
    said = capsys.readouterr().out.splitlines()
    assert [line.split(": ")[0] for line in said] == [str(dataset / f"bbox_{part}.pack") for part in ("test", "train")]
    assert all(line.endswith("all intact") for line in said)
    shard = dataset / "bbox_train.pack" / "00000.zip"
    data = bytearray(shard.read_bytes())
    data[len(data) // 2] ^= 1
    shard.write_bytes(data)
    for folder in (dataset, dataset / "bbox_train.pack"):
        assert "bbox_train.pack/00000.zip: " in fails("pack", folder, "--verify")
    assert call("pack", dataset / "bbox_test.pack", "--verify") == 0


def test_a_pack_that_is_there_needs_a_word(dataset: Path, fails: Fails) -> None:
    assert call("pack", dataset) == 0
    before = content(dataset)
    line = fails("pack", dataset)
    assert "bbox_train.pack: finished pack" in line and "--resume auto" in line and "--overwrite" in line
    assert content(dataset) == before
    for word in (["--resume", "auto"], ["--overwrite"]):
        assert call("pack", dataset, *word) == 0
        assert content(dataset) == before
    (dataset / "bbox_train.pack" / "pack.json").rename(dataset / "bbox_train.pack" / "pack.unfinished")
    assert "bbox_train.pack: unfinished pack" in fails("pack", dataset)
    assert call("pack", dataset, "--resume", "auto") == 0
    assert content(dataset) == before


def test_a_stopped_run_leaves_no_halves_and_resumes(dataset: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    inner = zipfile.ZipFile.writestr

    def stopping(*args: Any) -> None:
        inner(*args)
        if (dataset / "bbox_train.pack" / "00001.zip").exists():
            os.kill(os.getpid(), signal.SIGTERM)

    with monkeypatch.context() as scheduler:
        scheduler.setattr(zipfile.ZipFile, "writestr", stopping)
        assert call("pack", dataset, "--shard-size", "0.05") == 143
    left = sorted(os.listdir(dataset / "bbox_train.pack"))
    assert left == ["00000.zip", "00001.zip", "pack.unfinished"]
    assert call("pack", dataset, "--shard-size", "0.05", "--resume", "auto") == 0
    resumed = content(dataset)
    assert call("pack", dataset, "--shard-size", "0.05", "--overwrite") == 0
    assert content(dataset) == resumed


def test_mistakes_are_one_line(dataset: Path, tmp_path: Path, fails: Fails) -> None:
    listed = (dataset / "info" / "train_name.txt").read_text().split()
    (tmp_path / "file").touch()
    assert "bbox_train: expected a folder of images to pack, got none" in fails("pack", tmp_path / "nothing")
    assert "file/new/" in fails("pack", dataset, "--out", tmp_path / "file" / "new")
    assert "shard size: expected > 0" in fails("pack", dataset, "--shard-size", "-1")
    assert "expected a pack, or packs such as" in fails("pack", dataset, "--verify")
    assert "expected a pack, or packs such as" in fails("pack", tmp_path / "x.pack", "--verify")
    (dataset / "bbox_train" / listed[7][:4] / listed[7]).unlink()
    assert f"train_name.txt: line 8: expected {listed[7]} in {dataset}/bbox_train" in fails("pack", dataset)
    shutil.rmtree(dataset / "bbox_test")
    (dataset / "bbox_test").mkdir()
    (dataset / "info" / "train_name.txt").unlink()
    assert "bbox_test: expected images in one folder per person, got none" in fails("pack", dataset)
    assert not list(dataset.glob("*.pack"))


def test_an_unfinished_or_packed_dataset_says_so(dataset: Path, fails: Fails) -> None:
    assert call("pack", dataset) == 0
    without_folders(dataset)
    assert "bbox_train: expected a folder of images to pack, got none; it is packed" in fails("pack", dataset)
    (dataset / "bbox_test.pack" / "pack.json").unlink()
    assert "bbox_test.pack: this pack is unfinished" in fails("pack", dataset, "--verify")


def test_a_file_that_cannot_grow_is_one_line(dataset: Path, fails: Fails) -> None:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, before[1]))
    try:
        line = fails("pack", dataset)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert "00000.zip: cannot write this file: File too large" in line
    assert os.listdir(dataset / "bbox_train.pack") == ["pack.unfinished"]
