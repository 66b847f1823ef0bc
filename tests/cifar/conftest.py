"""CIFAR's official folders in small, written as Python 2 wrote them."""

from __future__ import annotations

import io
import pickle
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from reid.cifar import data
from reid.cifar.data import Cifar, load_cifar
from reid.errors import ReidError

ROOT = Path(__file__).parents[2]
REAL = ROOT / ".." / "shared" / "data"
CLASSES = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]
BATCHES = [f"data_batch_{k}" for k in range(1, 6)]
NUM, NUM_TRAIN = 400, 2_000  # images in a file of CIFAR-10, where the official one has 10,000; and in training
TOTAL = NUM_TRAIN + NUM
LABELS_N = np.random.default_rng(1).integers(10, size=TOTAL)
FINE_N = np.random.default_rng(2).integers(100, size=TOTAL)
ROWS_N = np.frombuffer(np.random.default_rng(0).bytes(TOTAL * 3072), np.uint8).reshape(-1, 3072)
TINY = [
    "data.train_images=60",
    "data.test_images=40",
    "train.iterations=6",
    "train.points=3",
    "train.batch_size=8",
    "train.schedule={name: milestones, at: [4]}",
]


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    assert (data.NUM_TRAIN, data.NUM_TEST) == (50_000, 10_000)
    monkeypatch.setattr(data, "NUM_TRAIN", NUM_TRAIN)
    monkeypatch.setattr(data, "NUM_TEST", NUM)


class Python2Pickler(pickle._Pickler):
    """Protocol 2 as Python 2's cPickle writes it: strings of bytes, memo from 1, NumPy's names of the time."""

    dispatch = pickle._Pickler.dispatch.copy()

    def save_string(self, value: str | bytes) -> None:
        raw = value.encode() if isinstance(value, str) else value
        head = b"U" + bytes([len(raw)]) if len(raw) < 256 else b"T" + struct.pack("<i", len(raw))
        self.write(head + raw)
        self.memoize(value)

    dispatch[str] = dispatch[bytes] = save_string

    def save_global(self, value: Any, name: str | None = None) -> None:
        self.write(f"c{value.__module__.replace('_core', 'core')}\n{value.__name__}\n".encode())
        self.memoize(value)

    def memoize(self, value: Any) -> None:
        number = len(self.memo) + 1
        self.write(self.put(number))
        self.memo[id(value)] = number, value


def python2(content: Any) -> bytes:
    buffer = io.BytesIO()
    Python2Pickler(buffer, protocol=2).dump(content)
    return buffer.getvalue()


def write(path: Path, content: Any) -> None:
    path.unlink(missing_ok=True)  # it may be a link to a good file
    path.write_bytes(content if isinstance(content, bytes) else python2(content))


def batch(rows: np.ndarray, **labels: list[int]) -> dict[str, Any]:
    names = [f"{k:05d}.png" for k in range(len(rows))]
    return {"batch_label": "a batch", **labels, "data": rows, "filenames": names}


META = {"num_cases_per_batch": 10_000, "label_names": CLASSES, "num_vis": 3072}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Both datasets below one data root; images of noise."""
    root = tmp_path_factory.mktemp("cifar")
    ten, hundred = root / "cifar-10-batches-py", root / "cifar-100-python"
    ten.mkdir()
    hundred.mkdir()
    for k, name in enumerate([*BATCHES, "test_batch"]):
        part = slice(NUM * k, NUM * (k + 1))
        write(ten / name, batch(ROWS_N[part], labels=LABELS_N[part].tolist()))
    write(ten / "batches.meta", META)
    for name, part in (("train", slice(NUM_TRAIN)), ("test", slice(NUM_TRAIN, None))):
        labels = {"fine_labels": FINE_N[part].tolist(), "coarse_labels": (FINE_N[part] * 7 % 20).tolist()}
        write(hundred / name, batch(ROWS_N[part], **labels))
    write(hundred / "meta", {"fine_label_names": [f"class {k}" for k in range(100)]})
    return root


@pytest.fixture(scope="session")
def official(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data root with a CIFAR-10 of its official size; images of noise."""
    root = tmp_path_factory.mktemp("official")
    folder = root / "cifar-10-batches-py"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for name in [*BATCHES, "test_batch"]:
        labels = rng.integers(10, size=10_000).tolist()
        write(folder / name, batch(np.frombuffer(rng.bytes(10_000 * 3072), np.uint8).reshape(-1, 3072), labels=labels))
    write(folder / "batches.meta", META)
    return root


@pytest.fixture
def ten(root: Path, small: None) -> Cifar:
    return load_cifar(root, "cifar10")


def linked(root: Path, tmp_path: Path, name: str = "cifar-10-batches-py") -> Path:
    """A folder of links to the good files, to put one bad file in."""
    folder = tmp_path / name
    folder.mkdir()
    for file in (root / name).iterdir():
        (folder / file.name).symlink_to(file)
    return folder


def refused(error: type[ReidError], call: Callable[[], Any], *words: str) -> None:
    with pytest.raises(error) as caught:
        call()
    assert len(caught.value.problems) == 1 and "\n" not in str(caught.value)
    for word in words:
        assert word in str(caught.value), caught.value


class Call:
    """Pickles as a call of anything."""

    def __init__(self, function: Callable[..., Any], *arguments: Any) -> None:
        self.call = function, arguments

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return self.call
