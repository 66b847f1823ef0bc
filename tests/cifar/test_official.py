"""CIFAR's official folders, written as Python 2 wrote them, and every damage."""

from __future__ import annotations

import hashlib
import os
import pickle

import numpy as np
import pytest
import torch
from torchvision.datasets import CIFAR10

from reid.cifar.data import asymmetric_target, load_cifar
from reid.cifar.pickled import unpickle
from reid.errors import ConfigError, DataError
from tests.cifar.conftest import (
    BATCHES,
    CLASSES,
    FINE_N,
    LABELS_N,
    META,
    NUM,
    NUM_TRAIN,
    ROWS_N,
    Call,
    batch,
    linked,
    python2,
    refused,
    write,
)

pytestmark = pytest.mark.usefixtures("small")


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
        (
            "data_batch_1",
            WHOLE[:1_000_000],
            ["damaged", "1000000 bytes", "only 999000 remain", "download the file again"],
        ),
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
        DataError,
        lambda: load_cifar(tmp_path / "none", "cifar10"),
        "none, which is not a folder",
        "cifar-10-batches-py",
    )
    refused(DataError, lambda: load_cifar(tmp_path, "cifar100"), "cifar-100-python", "unpack cifar-100-python.tar.gz")
    for place in (tmp_path, linked(root, tmp_path, "cifar-100-python")):
        refused(DataError, lambda place=place: load_cifar(place, "cifar10"), "found cifar100")
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


@pytest.mark.parametrize("protocol", range(6))
def test_a_file_that_asks_to_run_something_is_refused_and_nothing_runs(tmp_path, protocol):
    trace, file = tmp_path / "trace", tmp_path / "data_batch_1"
    content = {"labels": Call(os.mkdir, str(trace)), "data": np.zeros((2, 3), np.uint8)}
    file.write_bytes(pickle.dumps(content, protocol))
    refused(DataError, lambda: unpickle(file), str(file), "imports posix.mkdir", "nothing in it was executed")
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
    refused(DataError, lambda: unpickle(tmp_path / "file"), f"imports {name},")


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
