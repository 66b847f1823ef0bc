"""A full disk, a folder that may only be read, a kill at a random moment: what was there stays whole, and the same command goes on."""

import multiprocessing
import os
import random
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from reid.datasets import packing
from reid.engine import checkpoint
from reid.features import FeatureSet
from reid.gallery import change, store
from tests.evaluation.oracles import made_up
from tests.faults.conftest import FAULTS, TALLY, attempt
from tests.gallery.conftest import features_of, split_of

pytestmark = [
    pytest.mark.faults,
    pytest.mark.skipif(sys.platform != "linux", reason="mounts a small file system, forks"),
]
ROWS = 600
SEED = int(os.environ.get("FAULTS_SEED", "0"))


def make_gallery(folder: Path) -> None:
    split = split_of([f"t{i}" for i in range(ROWS)], np.arange(ROWS) % 50, np.arange(ROWS) % 4)
    store.write(folder, features_of(split, query=(3, 7)), split, {"run": "x", "source": "here"}, overwrite=True)


def keys_of(folder: Path) -> list[str]:
    held = store.open_gallery(folder)
    index = store.open_index(held)
    assert index is None or index.faiss.ntotal == len(held.features.pid)
    assert held.features.key is not None
    return held.features.key.tolist()


def files_to_pack(folder: Path) -> list[bytes]:
    folder.mkdir(exist_ok=True)
    for i in range(40):
        (folder / f"{i:02}.bin").write_bytes(bytes([i]) * 2000)
    return [f"{i:02}.bin".encode() for i in range(40)]


class Small:
    """A file system of a few hundred kilobytes."""

    def __init__(self, place: Path) -> None:
        self.place = place

    def fill(self, leave: int) -> Path:
        """Leaves about so many bytes free."""
        filler = self.place / "filler"
        free = os.statvfs(self.place)
        size = max(0, free.f_bavail * free.f_frsize - leave)
        filler.write_bytes(b"x" * size)
        return filler

    def read_only(self) -> None:
        subprocess.run(["mount", "-o", "remount,ro", str(self.place)], check=True)


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Small]:
    place = tmp_path / "small"
    place.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=600k", "tmpfs", str(place)]
    if subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("mounting a small file system needs root")
    try:
        yield Small(place)
    finally:
        subprocess.run(["umount", "-l", str(place)], check=True)


WRITES: dict[str, Callable[[Path, Path], Any]] = {
    "gallery remove": lambda place, _: change.remove(place / "g", ["t5"]),
    "gallery index": lambda place, _: change.reindex(place / "g", "Flat"),
    "feature file": lambda place, _: made_up(0, n=400, dimensions=32).save(place / "a.npz"),
    "checkpoint": lambda place, _: checkpoint.save(place / "a.pt", model={"w": torch.zeros(20_000)}),
    "pack": lambda place, folder: packing.write(folder / "in", files_to_pack(folder / "in"), place / "a.pack"),
}


@pytest.mark.parametrize("name", WRITES)
def test_a_full_disk_is_one_line_and_what_was_there_stays(name: str, small: Small, tmp_path: Path) -> None:
    make_gallery(small.place / "g")
    WRITES[name](small.place, tmp_path)  # there is room for it once
    if name.startswith("gallery"):
        make_gallery(small.place / "g")
    before = keys_of(small.place / "g")
    for leave in (0, 5_000, 12_000):
        filler = small.fill(leave)
        attempt(f"full disk: {name}", lambda: WRITES[name](small.place, tmp_path))
        filler.unlink()
        if TALLY[f"full disk: {name}"]["taken"] == 0:
            assert keys_of(small.place / "g") == before
        assert not [file for file in small.place.rglob("*.tmp")]
    assert TALLY[f"full disk: {name}"]["refused"]
    if name == "feature file":
        assert isinstance(FeatureSet.load(small.place / "a.npz"), FeatureSet)
    if name == "checkpoint":
        assert checkpoint.load(small.place / "a.pt")["model"]["w"].shape == (20_000,)
    if name == "gallery remove" and "t5" in keys_of(small.place / "g"):
        WRITES[name](small.place, tmp_path)  # the same command goes on
        assert "t5" not in keys_of(small.place / "g")


@pytest.mark.parametrize("name", WRITES)
def test_a_folder_that_may_only_be_read_is_one_line(name: str, small: Small, tmp_path: Path) -> None:
    make_gallery(small.place / "g")
    small.read_only()
    assert attempt(f"read-only: {name}", lambda: WRITES[name](small.place, tmp_path)) is None
    assert len(keys_of(small.place / "g")) == ROWS


# What is done, and about how many of its accesses to files there are.
KILLED: dict[str, tuple[Callable[[Path, Path], Any], int]] = {
    "gallery remove": (lambda place, _: change.remove(place / "g", ["t5"]), 30),
    "gallery index": (WRITES["gallery index"], 30),
    "pack": (WRITES["pack"], 200),
    "checkpoint": (
        lambda place, _: checkpoint.save(place / "a.pt", previous=place / "b.pt", model={"w": torch.ones(20_000)}),
        8,
    ),
}


def die_at(place: Path, folder: Path, name: str, events: int) -> None:
    """Does it, and is killed before the given one of all that it does to files."""
    left = [events]

    def watch(event: str, _: Any) -> None:
        if event in ("open", "os.rename", "os.remove", "os.mkdir", "os.truncate"):
            left[0] -= 1
            if left[0] < 0:
                os.kill(os.getpid(), 9)

    sys.addaudithook(watch)
    torch.set_num_threads(1)
    KILLED[name][0](place, folder)
    os._exit(0)


@pytest.mark.parametrize("name", KILLED)
def test_a_kill_leaves_the_old_or_the_new_and_the_same_command_goes_on(name: str, tmp_path: Path) -> None:
    make_gallery(tmp_path / "g")
    checkpoint.save(tmp_path / "a.pt", model={"w": torch.zeros(20_000)})
    draw, context = random.Random(SEED), multiprocessing.get_context("fork")
    everything = [f"t{i}" for i in range(ROWS)]
    for _ in range(max(5, FAULTS // 10)):
        process = context.Process(target=die_at, args=(tmp_path, tmp_path, name, draw.randrange(KILLED[name][1])))
        process.start()
        process.join(60)
        assert process.exitcode in (0, -9)
        outcome = TALLY[f"kill: {name}"]
        outcome["tried"] += 1
        outcome["taken" if process.exitcode == 0 else "refused"] += 1
        assert keys_of(tmp_path / "g") in (everything, [key for key in everything if key != "t5"])
        saved = next(file for file in (tmp_path / "a.pt", tmp_path / "b.pt") if file.exists())
        assert checkpoint.load(saved)["model"]["w"].unique().numel() == 1
        if name != "gallery remove" or "t5" in keys_of(tmp_path / "g"):
            KILLED[name][0](tmp_path, tmp_path)
        if name == "pack":
            assert packing.verify(tmp_path / "a.pack").names.tolist() == files_to_pack(tmp_path / "in")
        if name == "gallery remove":
            assert "t5" not in keys_of(tmp_path / "g")
            make_gallery(tmp_path / "g")
    assert TALLY[f"kill: {name}"]["refused"], "no kill came before the end"
