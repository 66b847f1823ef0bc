"""No worker outlives a killed parent; a batch that is long in coming is told of; workers may be spawned, as on macOS and Windows."""

import logging
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from reid.datasets import workers
from reid.datasets.demo import _remove_leftovers
from reid.datasets.loader import StepBatches, load_batches
from reid.datasets.sampling import SAMPLERS
from reid.tracklets import Split

ROOT = Path(__file__).parents[2]
PARENT = """
import multiprocessing, os, sys, time
from reid.datasets.orphans import end_with_parent

def work():
    end_with_parent()
    print(os.getpid(), flush=True)
    time.sleep(60)

if __name__ == "__main__":
    multiprocessing.get_context("spawn").Process(target=work).start()
    time.sleep(60)
"""


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
def test_a_worker_ends_with_its_killed_parent(tmp_path: Path) -> None:
    (tmp_path / "parent.py").write_text(PARENT)
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, str(tmp_path / "parent.py")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as parent:
        assert parent.stdout is not None
        worker = int(parent.stdout.readline())
        parent.kill()
    deadline = time.monotonic() + 20
    while alive(worker):
        assert time.monotonic() < deadline, "the worker is still there"
        time.sleep(0.05)


def test_what_a_killed_renderer_has_left_is_removed_and_a_living_ones_is_not(tmp_path: Path) -> None:
    host, dead = os.uname().nodename, subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    names = [f".demo.{host}.{dead.pid}.partial", f".demo.{host}.{os.getpid()}.partial", ".demo.elsewhere.1.partial"]
    for name in names:
        (tmp_path / name).mkdir()
    _remove_leftovers(tmp_path / "demo")
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(names[1:])


@pytest.fixture
def split(tmp_path: Path) -> Split:
    rng = np.random.default_rng(0)
    for i in range(8):
        Image.fromarray(rng.integers(0, 256, (16, 8, 3), dtype=np.uint8)).save(tmp_path / f"{i}.png")
    names = np.array([f"{i}.png".encode() for i in range(8)])
    return Split(tmp_path, names, np.arange(0, 8, 2), np.arange(2, 10, 2), np.array([1, 1, 2, 2]), np.ones(4, int))


def test_a_stopped_worker_is_told_of(
    split: Split, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(workers, "_CHECK", 1)
    monkeypatch.setattr(workers, "PATIENCE", 1)
    others = multiprocessing.active_children()
    stream = load_batches(split, [np.array([i % 8]) for i in range(40)], workers=1)
    next(stream)
    [worker] = [child for child in multiprocessing.active_children() if child not in others]
    os.kill(worker.pid, signal.SIGSTOP)

    class Wake(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            os.kill(worker.pid, signal.SIGCONT)

    handler = Wake()
    workers.logger.addHandler(handler)
    try:
        assert len(list(stream)) == 39
    finally:
        workers.logger.removeHandler(handler)
    assert "no batch from 1 decoding processes for 1 s: is one of them stopped" in caplog.text


@pytest.mark.parametrize("name", ["frames", "tracklets"])  # identities keep nothing
def test_spawned_workers_give_the_same_batches(name: str, split: Split, monkeypatch: pytest.MonkeyPatch) -> None:
    sampler = SAMPLERS[name](split, batch_size=3, seed=0)
    sampler(0)  # so that what it keeps from one batch to the next is sent too
    here = [batch.images for batch in load_batches(split, StepBatches(sampler, 0, 3, 0, 1), workers=0)]
    monkeypatch.setattr(workers, "_FORKED", False)
    there = [batch.images for batch in load_batches(split, StepBatches(sampler, 0, 3, 0, 1), workers=1)]
    assert all((a == b).all() for a, b in zip(here, there, strict=True))
