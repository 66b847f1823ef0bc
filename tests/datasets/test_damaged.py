"""What damaged and missing images, dying workers and empty batches do to a run."""

import ctypes
import errno
import gc
import multiprocessing
import os
import pickle
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from reid.datasets import frames
from reid.datasets.decoding import decode
from reid.datasets.loader import DamagedImages, FrameBatch, load_batches
from reid.errors import ConfigError, DataError, ReidError
from reid.tracklets import Split

ROOT = Path(__file__).parents[2]

NUM = 12
DAMAGE = ["truncated jpeg", "flipped bytes", "truncated png", "empty", "text", "missing", "folder", "huge header"]
BATCHES = [np.array([3, 1, 0]), np.array([2, 3, 3, 4]), np.zeros(0, np.int64), np.array([5, 6]), np.array([3, 7])]


@pytest.fixture
def split(tmp_path: Path) -> Split:
    """Twelve pictures: JPEGs, the last one a PNG of another size."""
    rng = np.random.default_rng(0)
    for i in range(NUM):
        size = (5, 3, 3) if i == NUM - 1 else (4, 2, 3)
        picture = Image.fromarray(rng.integers(0, 256, size, dtype=np.uint8).repeat(8, 0).repeat(8, 1))
        picture.save(tmp_path / f"{i:02}.{'png' if i == NUM - 1 else 'jpg'}")
    names = np.array(sorted(path.name.encode() for path in tmp_path.iterdir()))
    return Split(tmp_path, names, np.array([0]), np.array([NUM]), np.array([1]), np.array([1]))


def damage(path: Path, how: str) -> None:
    data = path.read_bytes()
    path.unlink()
    if how == "folder":
        path.mkdir()
    elif how == "truncated png":
        Image.fromarray(np.random.default_rng(1).integers(0, 256, (32, 16, 3), dtype=np.uint8)).save(path, "PNG")
        path.write_bytes(path.read_bytes()[:-600])
    elif how != "missing":
        size = data.index(b"\xff\xc0") + 5  # height and width in the JPEG's frame header
        path.write_bytes(
            {
                "truncated jpeg": data[:-40],
                "flipped bytes": data[: len(data) // 2] + b"\xff\xd8\xff\xd9" * 5 + data[len(data) // 2 :],
                "empty": b"",
                "text": b"not an image",
                "huge header": data[:size] + b"\xff\xf0\xff\xf0" + data[size + 4 :],
            }[how]
        )


def read_all(split: Split, workers: int, damaged: DamagedImages | None = None) -> list[FrameBatch]:
    return list(load_batches(split, BATCHES, workers=workers, damaged=damaged))


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("how", DAMAGE)
def test_left_out_images_are_counted_and_listed_and_the_others_keep_their_places(
    split: Split, how: str, workers: int, caplog: pytest.LogCaptureFixture
) -> None:
    pictures = [decode(split.path(frame)) for frame in range(NUM)]
    damage(split.path(3), how)
    damaged = DamagedImages("skip")
    batches = read_all(split, workers, damaged)
    assert [batch.frames.tolist() for batch in batches] == [[1, 0], [2, 4], [], [5, 6], [7]]
    assert [batch.places.tolist() for batch in batches] == [[1, 2], [0, 3], [], [0, 1], [1]]
    for batch in batches:
        assert len(batch.images) == len(batch.frames)
        for image, frame in zip(batch.images, batch.frames.tolist(), strict=True):
            assert np.array_equal(image.numpy(), pictures[frame])
    assert damaged.count == 4
    [(path, reason)] = damaged.files.items()
    assert path == str(split.path(3))
    assert ("cannot read this image" if how in ("missing", "folder") else "damaged image") in reason
    assert path not in reason
    assert [record.getMessage() for record in caplog.records] == [f"{path}: left out: {reason}"]


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("how", DAMAGE)
def test_by_default_the_first_stops_the_run(split: Split, how: str, workers: int) -> None:
    damage(split.path(4), how)
    stream = load_batches(split, BATCHES, workers=workers)
    assert next(stream).frames.tolist() == [3, 1, 0]
    with pytest.raises(DataError, match=r"04\.jpg") as caught:
        next(stream)
    assert len(caught.value.problems) == 1


@pytest.mark.parametrize("workers", [0, 2])
def test_a_batch_without_any_image_left(split: Split, workers: int) -> None:
    for frame in (5, 6):
        damage(split.path(frame), "empty")
    damaged = DamagedImages("skip")
    stream = load_batches(split, BATCHES, workers=workers, damaged=damaged)
    assert [len(next(stream).frames) for _ in range(3)] == [3, 4, 0]
    with pytest.raises(DataError, match=r"05\.jpg: damaged image \(an empty file\).*all 2 images of its batch"):
        next(stream)
    allowed = load_batches(split, BATCHES, workers=workers, damaged=damaged, may_be_empty=True)
    assert [batch.frames.tolist() for batch in allowed] == [*(b.tolist() for b in BATCHES[:3]), [], [3, 7]]
    assert damaged.count == 4


def test_nothing_damaged_nothing_noted(split: Split) -> None:
    damaged = DamagedImages("skip")
    assert all(batch.places.tolist() == [*range(len(batch.frames))] for batch in read_all(split, 0, damaged))
    assert (damaged.count, damaged.files) == (0, {})


def test_an_unknown_policy_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"data\.damaged: expected error or skip, got 'ignore'"):
        DamagedImages("ignore")


@pytest.mark.parametrize("workers", [0, 2])
def test_empty_batches_come_empty_and_have_the_form_of_images(split: Split, workers: int) -> None:
    [batch] = load_batches(split, [np.zeros(0, np.int64)], workers=workers)
    assert isinstance(batch.images, torch.Tensor)
    assert batch.images.shape == (0, 0, 0, 3) and batch.images.dtype == torch.uint8
    assert batch.frames.dtype == batch.places.dtype == torch.int64
    assert list(load_batches(split, [], workers=workers)) == []


def in_a_worker(action: Callable[[], None]) -> Callable[[Path], bytes]:
    """A `frames.read` that does something before it reads image 5, but not in this process."""
    main, read = os.getpid(), frames.read

    def acting(path: str | Path) -> bytes:
        if os.getpid() != main and str(path).endswith("05.jpg"):
            action()
        return read(path)

    return acting


def test_a_killed_worker_is_one_clear_line(split: Split, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(frames, "read", in_a_worker(lambda: os.kill(os.getpid(), signal.SIGKILL)))
    handler = signal.getsignal(signal.SIGCHLD)
    stream = load_batches(split, BATCHES, workers=2)
    next(stream)
    assert signal.getsignal(signal.SIGCHLD) is handler  # so that nothing but the next batch meets the error
    expected = r"killed by SIGKILL, most likely out of memory; lower machine\.workers \(now 2\)"
    with pytest.raises(ReidError, match=expected) as caught:
        list(stream)
    assert len(caught.value.problems) == 1


def test_a_signal_to_all_processes_leaves_the_workers_at_work(split: Split, monkeypatch: pytest.MonkeyPatch) -> None:
    def signal_all() -> None:
        for signum in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1):
            os.kill(os.getpid(), signum)

    monkeypatch.setattr(frames, "read", in_a_worker(signal_all))
    assert [len(batch.frames) for batch in read_all(split, 2)] == [len(batch) for batch in BATCHES]


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # from torch's half-made iterator
def test_no_worker_is_left_when_another_cannot_start(split: Split, monkeypatch: pytest.MonkeyPatch) -> None:
    fork, before = os.fork, multiprocessing.active_children()

    def second_fails() -> int:
        if multiprocessing.active_children() != before:
            time.sleep(0.5)  # the first one is deaf to SIGTERM by now
            raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))
        return fork()

    monkeypatch.setattr(os, "fork", second_fails)
    with pytest.raises(ReidError, match="cannot start"):
        read_all(split, 2)
    gc.collect()
    for child in multiprocessing.active_children():
        child.join(5)
    assert multiprocessing.active_children() == before


WITHOUT_FILES = """
import os, pickle, resource, sys
from reid.errors import ReidError
from tests.datasets.test_damaged import read_all

split = pickle.loads(sys.stdin.buffer.read())
resource.setrlimit(resource.RLIMIT_NOFILE, (len(os.listdir("/proc/self/fd")) + 2, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
try:
    read_all(split, 2)
except ReidError as error:
    print(error)
"""


def test_processes_that_cannot_start_are_one_clear_line(split: Split) -> None:
    """In a process of its own: libraries that another test has loaded, such as gRPC, abort where a fork finds no files left."""
    command, environment = [sys.executable, "-c", WITHOUT_FILES], {**os.environ, "PYTHONPATH": str(ROOT)}
    run = subprocess.run(command, env=environment, input=pickle.dumps(split), capture_output=True, timeout=60)
    assert re.fullmatch(rb"cannot start decoding processes: .*lower machine\.workers \(now 2\).*\n", run.stdout)


@pytest.mark.skipif(sys.platform != "linux", reason="asks Linux")
def test_workers_end_with_the_main_process(split: Split, monkeypatch: pytest.MonkeyPatch) -> None:
    def read(path: str) -> bytes:
        asked = ctypes.c_int()
        ctypes.CDLL(None).prctl(2, ctypes.byref(asked))  # PR_GET_PDEATHSIG
        raise DataError(f"{path}: signal {asked.value} when the main process ends")

    monkeypatch.setattr(frames, "read", read)
    with pytest.raises(DataError, match=f"signal {int(signal.SIGKILL)} when"):
        list(load_batches(split, [np.array([0])], workers=1))


def test_the_disk_is_told_of_a_whole_batch(split: Split, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[list[str]] = []
    monkeypatch.setattr(frames, "expect", lambda paths: told.append(list(paths)))
    batches = list(load_batches(split, [np.array([3, 1]), np.array([2])], workers=0))
    assert len(batches) == 2
    assert told == [[str(split.path(3)), str(split.path(1))], [str(split.path(2))]]
