"""CIFAR's official folders in full size, written as Python 2 wrote them, every damage, human labels, parts, and the download."""

from __future__ import annotations

import functools
import hashlib
import http.server
import io
import os
import pickle
import shutil
import struct
import tarfile
import threading
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torchvision.datasets import CIFAR10, CIFAR100

from reid.cifar import data, download, official
from reid.cifar.data import Cifar, ImageSet, asymmetric_target, hold_out, load_cifar, load_human_labels, subset
from reid.cifar.pickled import unpickle
from reid.errors import ConfigError, DataError, ReidError

REAL = Path(__file__).parents[2] / ".." / "shared" / "data"
CLASSES = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]
BATCHES = [f"data_batch_{k}" for k in range(1, 6)]
NUM, NUM_TRAIN = 400, 2_000  # images in a file of CIFAR-10, where the official one has 10,000; and in training
TOTAL = NUM_TRAIN + NUM
LABELS_N = np.random.default_rng(1).integers(10, size=TOTAL)
FINE_N = np.random.default_rng(2).integers(100, size=TOTAL)
ROWS_N = np.frombuffer(np.random.default_rng(0).bytes(TOTAL * 3072), np.uint8).reshape(-1, 3072)


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
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


@pytest.fixture
def ten(root: Path) -> Cifar:
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


def test_the_files_of_these_tests_are_written_as_the_official_ones():
    assert hashlib.md5(python2(META)).hexdigest() == CIFAR10.meta["md5"]


def test_cifar10_in_the_official_order(ten):
    assert ten.name == "cifar10" and list(ten.classes) == CLASSES and ten.coarse_K is None
    assert ten.train.images_NCHW.dtype == np.uint8 and ten.train.images_NCHW.shape == (NUM_TRAIN, 3, 32, 32)
    np.testing.assert_array_equal(ten.train.images_NCHW.reshape(-1, 3072), ROWS_N[:NUM_TRAIN])
    np.testing.assert_array_equal(ten.test.images_NCHW.reshape(-1, 3072), ROWS_N[NUM_TRAIN:])
    assert (
        ten.train.images_NCHW[1_234, 2, 30, 7] == ROWS_N[1_234, 2 * 1024 + 30 * 32 + 7]
    )  # plane, then row, then column
    np.testing.assert_array_equal(np.concatenate([ten.train.labels_N, ten.test.labels_N]), LABELS_N)
    assert ten.train.labels_N.dtype == np.int64 and (ten.index_N == np.arange(NUM_TRAIN)).all()
    torch.from_numpy(ten.train.images_NCHW)  # would warn of memory that cannot be written


def test_files_that_are_not_the_official_ones_are_named_and_logged(root, ten, caplog):
    assert ", ".join([*BATCHES, "test_batch"]) in ten.note and "MD5 differs" in ten.note
    assert "batches.meta" not in ten.note  # the one file whose official bytes are known here
    inside = load_cifar(root / "cifar-10-batches-py", "cifar10")  # the folder itself serves as well as its parent
    assert {record.levelname for record in caplog.records} == {"WARNING"} and inside.note in caplog.text
    np.testing.assert_array_equal(inside.train.labels_N, ten.train.labels_N)


def test_official_files_need_no_note(root, monkeypatch, caplog):
    def listed(name: str) -> list[str]:
        return [name, hashlib.md5((root / "cifar-10-batches-py" / name).read_bytes()).hexdigest()]

    monkeypatch.setattr(CIFAR10, "train_list", [listed(name) for name in BATCHES])
    monkeypatch.setattr(CIFAR10, "test_list", [listed("test_batch")])
    assert load_cifar(root, "cifar10").note == "" and not caplog.records


def test_cifar100_and_its_superclasses(root, tmp_path):
    hundred = load_cifar(root, "cifar100")
    assert len(hundred.classes) == 100 and hundred.classes[7] == "class 7"
    np.testing.assert_array_equal(hundred.test.images_NCHW.reshape(-1, 3072), ROWS_N[NUM_TRAIN:])
    np.testing.assert_array_equal(hundred.train.labels_N, FINE_N[:NUM_TRAIN])
    np.testing.assert_array_equal(hundred.coarse_K, np.arange(100) * 7 % 20)
    target = asymmetric_target(hundred)
    for label in range(100):  # superclasses are {c, c + 20, c + 40, c + 60, c + 80}
        assert target[label] == (label + 20) % 100
    folder = linked(root, tmp_path, "cifar-100-python")
    coarse = FINE_N[:NUM_TRAIN] * 7 % 20
    coarse[-1] = (coarse[-1] + 1) % 20
    torn = batch(ROWS_N[:NUM_TRAIN], fine_labels=FINE_N[:NUM_TRAIN].tolist(), coarse_labels=coarse.tolist())
    write(folder / "train", torn)
    refused(DataError, lambda: load_cifar(folder, "cifar100"), "train", "superclass", f"for {FINE_N[NUM_TRAIN - 1]};")


def test_cifar10_flips_into_its_look_alikes(ten):
    target = asymmetric_target(ten)
    names = {ten.classes[a]: ten.classes[b] for a, b in enumerate(target) if a != b}
    assert names == {"truck": "automobile", "bird": "airplane", "deer": "horse", "cat": "dog", "dog": "cat"}


ROWS, TEN = ROWS_N[:NUM], LABELS_N[:NUM].tolist()
WHOLE = python2(batch(ROWS, labels=TEN))


@pytest.mark.parametrize(
    "name, content, words",
    [
        ("data_batch_1", WHOLE[:1_000_000], ["damaged", "1000000 bytes", "truncated", "get the file again"]),
        ("data_batch_1", WHOLE[:-1], ["damaged"]),
        ("data_batch_5", b"", ["damaged", "0 bytes"]),
        ("data_batch_1", b"<html>not found</html>", ["damaged"]),
        ("data_batch_1", None, ["No such file"]),
        ("test_batch", batch(ROWS[:-1], labels=TEN), ["of shape (400, 3072), got shape (399, 3072)", "unpack"]),
        ("data_batch_1", batch(ROWS[:, :1024], labels=TEN), ["got shape (400, 1024)"]),
        ("data_batch_1", batch(b"text", labels=TEN), ["of shape (400, 3072), got bytes"]),
        ("data_batch_1", batch(ROWS, labels=TEN[:-1]), ["expected 400 labels", "got 399"]),
        ("data_batch_1", batch(ROWS, labels=[*TEN[1:], 10]), ["labels in 0..9, got 0..10"]),
        ("data_batch_1", batch(ROWS, labels=[*TEN[1:], -1]), ["labels in 0..9, got -1..9"]),
        ("data_batch_1", batch(ROWS, labels=[*TEN[1:], 2**80]), ["labels in 0..9, got 0..12089"]),
        ("data_batch_1", batch(ROWS, labels=[*TEN[1:], 0.5]), ["labels to be a list of whole numbers"]),
        ("data_batch_1", batch(ROWS, labels=7), ["labels to be a list of whole numbers"]),
        ("data_batch_1", batch(ROWS, fine_labels=TEN), ["data, labels", "fine_labels", "another dataset"]),
        ("data_batch_1", [1, 2], ["expected a dict", "got list"]),
        ("batches.meta", {"label_names": CLASSES[1:]}, ["expected label_names to be 10 names"]),
        ("batches.meta", {"label_names": list(range(10))}, ["expected label_names to be 10 names"]),
        ("batches.meta", {}, ["expected label_names to be 10 names, got None"]),
    ],
)
def test_damage_is_one_line_that_names_the_file(root, tmp_path, name, content, words):
    folder = linked(root, tmp_path)
    if content is None:
        (folder / name).unlink()
    else:
        write(folder / name, content)
    refused(DataError, lambda: load_cifar(tmp_path, "cifar10"), str(folder / name), *words)


def test_a_root_without_the_dataset_says_what_is_there(root, tmp_path):
    refused(
        DataError, lambda: load_cifar(tmp_path / "none", "cifar10"), "none, which is no folder", "cifar-10-batches-py"
    )
    refused(DataError, lambda: load_cifar(tmp_path, "cifar100"), "cifar-100-python", "unpack cifar-100-python.tar.gz")
    for place in (tmp_path, linked(root, tmp_path, "cifar-100-python")):
        refused(DataError, lambda place=place: load_cifar(place, "cifar10"), "what is there is cifar100")
    refused(ConfigError, lambda: load_cifar(tmp_path, "cifar11"), "'cifar11'", "cifar10, cifar100")


@pytest.mark.parametrize("protocol", [2, 3, 4])
@pytest.mark.parametrize("order", ["C", "F"])
def test_files_that_python_3_wrote_again(tmp_path, protocol, order):
    array = np.asarray(np.arange(60, dtype=np.uint8).reshape(20, 3), order=order)
    for key in ("data", b"data"):
        (tmp_path / "again").write_bytes(pickle.dumps({key: array, b"labels": [1]}, protocol=protocol))
        content = unpickle(tmp_path / "again")
        np.testing.assert_array_equal(content["data"], array)
        assert content["labels"] == [1]


class Call:
    """Pickles as a call of anything."""

    def __init__(self, function: Callable[..., Any], *arguments: Any) -> None:
        self.call = function, arguments

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return self.call


@pytest.mark.parametrize("protocol", range(6))
def test_a_file_that_asks_to_run_something_is_refused_and_nothing_runs(tmp_path, protocol):
    trace, file = tmp_path / "trace", tmp_path / "data_batch_1"
    content = {"labels": Call(os.mkdir, str(trace)), "data": np.zeros((2, 3), np.uint8)}
    file.write_bytes(pickle.dumps(content, protocol))
    refused(DataError, lambda: unpickle(file), str(file), "asks for posix.mkdir", "nothing of it was run")
    assert not trace.exists()
    pickle.loads(file.read_bytes())
    assert trace.exists()  # the trap is a trap


ARRAY = b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(K\x00tU\x01btR"  # before its state
U1 = b"cnumpy\ndtype\n(U\x02u1K\x00K\x01tR"


@pytest.mark.parametrize(
    "name, content",
    [
        ("os.system", b"(S'true'\nios\nsystem\n."),  # INST
        ("os.system", b"(cos\nsystem\nS'true'\no."),  # OBJ
        ("os.system", b"\x80\x04\x8c\x02os\x8c\x06system\x93\x8c\x04true\x85R."),  # STACK_GLOBAL
        ("__builtin__.eval", b"c__builtin__\neval\n(S'1'\ntR."),
        ("builtins.getattr", pickle.dumps(Call(getattr, "", "join"))),
        ("numpy.load", b"cnumpy\nload\n(S'x'\ntR."),
        ("numpy.ndarray.tofile", b"\x80\x04\x8c\x05numpy\x8c\x0endarray.tofile\x93."),
        ("numpy._core.multiarray.scalar", pickle.dumps(np.float64(1), 2)),
        ("numpy._core.numeric._frombuffer", pickle.dumps(np.zeros(2), 5)),
        ("_codecs.decode", b"c_codecs\ndecode\n(S'x'\ntR."),
        ("reid.cifar.pickled.unpickle", b"creid.cifar.pickled\nunpickle\n."),
    ],
)
def test_every_other_name_is_refused(tmp_path, name, content):
    (tmp_path / "file").write_bytes(content)
    refused(DataError, lambda: unpickle(tmp_path / "file"), f"asks for {name},")


@pytest.mark.parametrize(
    "content",
    [
        ARRAY + b"K\x01b.",  # a state that is no tuple
        ARRAY + b"(K\x01tb.",  # too short
        ARRAY + b"(K\x01K\x05" + U1 + b"\x89U\x03abctb.",  # a shape of other size
        ARRAY + b"(K\x01(J\xff\xff\xff\x7fJ\xff\xff\xff\x7ft" + U1 + b"\x89U\x03abctb.",  # an enormous one
        ARRAY + b"(K\x01U\x01x" + U1 + b"\x89U\x03abctb.",  # one of text
        ARRAY + b"(K\x01(K\x03tU\x02u1\x89U\x03abctb.",  # text for a dtype
        ARRAY + b"(K\x01(K\x03t" + U1 + b"\x89]tb.",  # a list for the bytes
        ARRAY + b"(K\x01(K\x03tcnumpy\ndtype\n(U\x02O8K\x00K\x01tR\x89]tb.",  # objects
        ARRAY + b"(K\x01(K\x01tcnumpy\ndtype\n(U\x02f8K\x00K\x01tR\x89U\x08abcdefghtb.",  # floats
        b"cnumpy\ndtype\n)R.",  # a dtype of nothing
        b"cnumpy\nndarray\n(K\x01K\x02tb.",  # a state for the type itself
        b"c_codecs\nencode\n}U\x08__call__K\x01sb.",  # attributes for a function
        b"c_codecs\nencode\n(K\x01tR.",
        b"(]K\x01d.",  # a list for a key
        b"}(.",
        b"h\x07.",  # what was never remembered
        b"\x82\x01.",  # copyreg's extensions
        b"T\xff\xff\xff\x7fabc.",  # 2 GB announced
        b"P0\n.",
        b"\xff" * 100,
        b"(" * 100_000,
    ],
)
def test_malformed_pickles_are_damaged_files(tmp_path, content):
    (tmp_path / "file").write_bytes(content)
    refused(DataError, lambda: unpickle(tmp_path / "file"), str(tmp_path / "file"), f"damaged ({len(content)} bytes)")


def part(labels_N: np.ndarray) -> Cifar:
    """A dataset of these labels; image i is filled with i."""
    index_N = np.arange(len(labels_N))
    images = np.broadcast_to((index_N % 251).astype(np.uint8)[:, None, None, None], (len(labels_N), 3, 32, 32))
    images = ImageSet(images, labels_N)
    return Cifar("cifar10", tuple(CLASSES), images, images, 3 * index_N, None, "a note")


def test_a_subset_has_as_many_of_each_class_as_possible():
    cifar = part(LABELS_N[:2_000])
    few = subset(cifar, 1_003, seed=0)
    assert sorted(Counter(few.train.labels_N.tolist()).values()) == [100] * 7 + [101] * 3
    rows = few.index_N // 3
    assert (np.diff(rows) > 0).all()
    np.testing.assert_array_equal(few.train.labels_N, cifar.train.labels_N[rows])
    np.testing.assert_array_equal(few.train.images_NCHW, cifar.train.images_NCHW[rows])
    assert few.test is cifar.test and few.note == cifar.note
    assert len(subset(cifar, 2_000, seed=0).train) == 2_000
    rare = np.sort(np.r_[np.zeros(3, int), np.repeat(np.arange(1, 10), 50)])
    assert np.bincount(subset(part(rare), 93, seed=0).train.labels_N).tolist() == [3] + [10] * 9


def test_subsets_are_fixed_nested_and_drawn_by_their_seed():
    cifar = part(LABELS_N[:2_000])
    small, large, other = (subset(cifar, num, seed).index_N for num, seed in ((50, 4), (500, 4), (500, 5)))
    np.testing.assert_array_equal(large, subset(cifar, 500, seed=4).index_N)
    assert set(small) < set(large) != set(other)
    assert (LABELS_N[small[:25] // 3] != np.arange(25) % 10).any()  # no order of classes shows in the rows
    twice = subset(subset(cifar, 500, seed=4), 20, seed=9)
    np.testing.assert_array_equal(twice.train.labels_N, LABELS_N[twice.index_N // 3])


@pytest.mark.parametrize("num", [0, 2_001])
def test_a_subset_of_none_or_of_more_than_there_are_is_refused(num):
    refused(ConfigError, lambda: subset(part(LABELS_N[:2_000]), num, 0), "num_train: expected >= 1 and <= 2000")


def test_held_out_rows_and_the_others_are_everything():
    rows, held = hold_out(1_001, 0.1, seed=0)
    assert len(held) == 100 and sorted([*rows, *held]) == list(range(1_001))
    assert (np.diff(rows) > 0).all() and (np.diff(held) > 0).all()
    np.testing.assert_array_equal(held, hold_out(1_001, 0.1, seed=0)[1])
    assert set(held) != set(hold_out(1_001, 0.1, seed=1)[1])
    for share in (0.0, 1.0, 0.0001, -0.5, float("nan")):
        refused(ConfigError, lambda share=share: hold_out(1_001, share, 0), "holdout: ")


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
        (human(worse_label=CLEAN_N / 1), ["asks for numpy.dtypes.Float64DType"]),
        (human(worse_label=np.array([os.mkdir] * 100)), ["asks for numpy.dtypes.ObjectDType"]),
        (human(worse_label=Call(os.mkdir, "trace")), ["asks for posix.mkdir", "nothing of it was run"]),
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


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *arguments: Any) -> None:
        pass


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Stands in for the official server, with a small archive; yields the folder that it serves."""
    served, name = tmp_path / "served", CIFAR100.filename
    served.mkdir()
    with tarfile.open(served / name, "w:gz") as tar:
        for file in ("train", "test", "meta"):
            member = tarfile.TarInfo(f"cifar-100-python/{file}")
            member.size = 5
            tar.addfile(member, io.BytesIO(b"bytes"))
    monkeypatch.setattr(CIFAR100, "tgz_md5", hashlib.md5((served / name).read_bytes()).hexdigest())
    handler = functools.partial(Quiet, directory=str(served))
    with http.server.HTTPServer(("127.0.0.1", 0), handler) as running:
        monkeypatch.setattr(CIFAR100, "url", f"http://127.0.0.1:{running.server_port}/{name}")
        thread = threading.Thread(target=running.serve_forever, args=(0.01,))
        thread.start()
        yield served
        running.shutdown()
        thread.join()


def test_a_download_is_checked_and_unpacked(server, tmp_path):
    root = tmp_path / "new" / "root"
    folder = download.download_cifar(root, "cifar100")
    assert folder == root / "cifar-100-python" and (folder / "train").read_bytes() == b"bytes"
    assert sorted(path.name for path in root.iterdir()) == ["cifar-100-python", "cifar-100-python.tar.gz"]
    shutil.rmtree(server)
    assert download.download_cifar(root, "cifar100") == folder  # there already: nothing is asked of the server
    shutil.rmtree(folder)
    assert (
        download.download_cifar(root, "cifar100") / "meta"
    ).is_file()  # from the archive, fetched or put there by hand


def test_an_archive_that_is_not_the_official_one_is_not_unpacked(server, tmp_path):
    archive = server / CIFAR100.filename
    archive.write_bytes(archive.read_bytes()[:-10])
    root = tmp_path / "root"
    fetch = functools.partial(download.download_cifar, root, "cifar100")
    refused(DataError, fetch, "expected MD5", CIFAR100.url)
    assert not list(root.iterdir())
    shutil.copy(archive, root)
    refused(DataError, fetch, str(root / CIFAR100.filename), "expected MD5", "remove it")
    assert [path.name for path in root.iterdir()] == [CIFAR100.filename]


def test_without_a_server_the_error_says_what_to_put_where(server, tmp_path, monkeypatch):
    (server / CIFAR100.filename).unlink()
    fetch = functools.partial(download.download_cifar, tmp_path / "root", "cifar100")
    refused(DataError, fetch, CIFAR100.url, "cannot be fetched", f"put it at {tmp_path / 'root' / CIFAR100.filename}")
    monkeypatch.setattr(CIFAR100, "url", "http://127.0.0.1:9/cifar-100-python.tar.gz")
    refused(DataError, fetch, "http://127.0.0.1:9/", "refused", "cannot be fetched")
    (tmp_path / "file").touch()
    refused(DataError, lambda: download.download_cifar(tmp_path / "file", "cifar100"), "cannot write")
    refused(ConfigError, lambda: download.download_cifar(tmp_path, "imagenet"), "'imagenet'")


def test_the_addresses_are_the_official_ones():
    assert [layout.official.url for layout in official.LAYOUTS.values()] == [
        f"https://www.cs.toronto.edu/~kriz/cifar-{number}-python.tar.gz" for number in (10, 100)
    ]
