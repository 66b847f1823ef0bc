"""A gallery in a real Milvus engine, embedded: the folder's answers, whatever the keys; pushes that are killed; what never mixes."""

import contextlib
import json
import logging
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from reid.errors import ConfigError, DataError
from reid.features import FeatureSet
from reid.gallery import change, milvus, store
from reid.gallery.search import rows_of, search
from reid.tracklets import Split
from tests.gallery.conftest import features_of, split_of

pytest.importorskip("pymilvus", reason="needs pymilvus (pip install 'robust-reid[milvus]')")
pytest.importorskip("milvus_lite", reason="needs milvus-lite (pip install 'robust-reid[milvus-lite]')")

HOSTILE = [
    "it's",
    'a"b',
    "\\",
    '\\"',
    '"] or key != "',
    "{k}",
    "line\nfeed\r\t",
    "\x00",
    "nul\x00l",
    "é😀\u2028",
    "a" * 5000,
    "%",
    " ",
    "\\n",
]
PERSONS, CAMERAS = {1: 'O"Neil', 2: "it's \\ me", 3: "alice"}, {0: 'gate "3"', 1: "gate 'b'", 2: "5"}


@pytest.fixture
def where(tmp_path: Path) -> milvus.Address:
    return milvus.Address(str(tmp_path / "people.db"), "people")


def write(folder: Path, keys: list[str], names: dict[str, Any] | None = None, **options: Any) -> store.Gallery:
    """A feature folder; rows 3 to 6 are equal, so that they tie."""
    count = np.arange(len(keys))
    split = split_of(keys, count % 4, count % 3) if names else split_of(keys, count % 11, count % 4 - 1)
    split = Split(
        Path("root"),
        np.array([f"{i}.jpg".encode() for i in count]),
        count,
        count + 1,
        split.pid,
        split.camid,
        split.keys,
    )
    made = features_of(split, **options)
    features = made.features.copy()
    features[4:7] = features[3]
    rows = FeatureSet(features, made.pid, made.camid, made.query, made.gallery, made.key, made.fingerprint)
    about = {"run": "runs/x", "checkpoint": "last", "source": "here", "preprocessing": {"pooling": "mean"}}
    store.write(folder, rows, split, {**about, **({"names": names} if names else {})})
    return store.open_gallery(folder)


@pytest.fixture
def hostile(tmp_path: Path) -> store.Gallery:
    names = {
        "pid": {str(n): name for n, name in PERSONS.items()},
        "camid": {str(n): name for n, name in CAMERAS.items()},
    }
    return write(tmp_path / "hostile", [*HOSTILE, *(f"t{i}" for i in range(26))], names)


def stored(where: milvus.Address) -> dict[str, milvus.Row]:
    """All rows, read without anything that is tested here."""
    with milvus.opened(where) as collection:
        rows = collection.client.query(where.collection, "row >= 0", ["*"], consistency_level="Strong")
        return {row["key"]: dict(row) for row in rows}


def test_answers_are_the_folders(hostile: store.Gallery, where: milvus.Address) -> None:
    done = milvus.push(hostile, where)
    assert (done.written, done.same, done.total) == (40, 0, 40)
    features, keys = hostile.features, hostile.features.key.tolist()
    with milvus.opened(where) as collection:
        assert collection.fingerprint == "f00"
        assert collection.about == {"run": "runs/x", "checkpoint": "last", "preprocessing": {"pooling": "mean"}}
        assert (collection.dim, collection.index, collection.unfinished, collection.count()) == (8, "FLAT", (), 40)
        held = collection.rows([*keys, "nobody", "\udcff"])
        assert list(held) != [] and set(held) == set(keys)
        for given, rows in (
            ({}, None),
            ({"camera": ['gate "3"', "gate 'b'"]}, rows_of(features, camera=[0, 1])),
            ({"not_camera": ["5"]}, rows_of(features, not_camera=[2])),  # a name comes before a number
            ({"camera": ['gate "3"'], "not_camera": ["1"]}, rows_of(features, camera=[0], not_camera=[1])),
            ({"person": ['O"Neil', "0"]}, rows_of(features, person=[0, 1])),
            ({"not_person": ["it's \\ me", "3"], "camera": ["0"]}, rows_of(features, camera=[0], not_person=[2, 3])),
        ):
            expr, own = collection.filter(**given), np.arange(40)
            found = milvus.nearest(collection, features.features, top_k=7, expr=expr, own=[held[key] for key in keys])
            expected = search(features, features.features, top_k=7, rows=rows, own=own)
            assert np.array_equal(found.hits.similarity, expected.similarity)
            assert np.array_equal(np.where(found.hits.rows < 0, -1, found.row[found.hits.rows]), expected.rows)
        # Every row as it was, and texts for persons and cameras.
        everything = (
            found.gallery if len(found.row) == 40 else milvus.nearest(collection, features.features, top_k=40).gallery
        )
        assert everything.features.key.tolist() == keys
        assert np.array_equal(everything.features.features, features.features)
        for name in ("pid", "camid"):
            assert np.array_equal(getattr(everything.features, name), getattr(features, name))
        assert (everything.names.pid, everything.names.camid) == (PERSONS, CAMERAS)
        assert (everything.path.tolist(), everything.num_frames.tolist()) == (hostile.path.tolist(), [1] * 40)
        with pytest.raises(ConfigError, match=r"has no camera 'gate'; expected its name or number"):
            collection.filter(camera=["gate"])
        with pytest.raises(ConfigError, match=r"has no person 'bob'; expected"):
            collection.filter(person=["bob"])
        with pytest.raises(DataError, match="no rows left to search"):
            milvus.nearest(collection, features.features[:1], expr="camid in [9]")
        with pytest.raises(ConfigError, match="top_k: expected 1 to 4095"):
            milvus.nearest(collection, features.features[:1], top_k=5000)


def test_similarities_are_those_of_numpy(folder: Path, where: milvus.Address) -> None:
    gallery = store.open_gallery(folder)
    milvus.push(gallery, where)
    features = gallery.features.features.astype(float)
    query = np.random.default_rng(5).standard_normal((3, 8))
    expected = query / np.linalg.norm(query, axis=1, keepdims=True) @ features.T
    with milvus.opened(where) as collection:
        found = milvus.nearest(collection, query, top_k=12)
    assert found.row[found.hits.rows].tolist() == np.argsort(-expected, axis=1)[:, :12].tolist()
    assert found.hits.similarity == pytest.approx(-np.sort(-expected, axis=1)[:, :12], abs=1e-6)


KILLED = """
import os, signal, sys
from pathlib import Path
import pymilvus
from reid.gallery import milvus, store

name, count = sys.argv[3], int(sys.argv[4])
method, calls = getattr(pymilvus.MilvusClient, name), []
def killed(*args, **kwargs):
    calls.append(name)
    if len(calls) == count:
        os.kill(os.getpid(), signal.SIGKILL)
    return method(*args, **kwargs)
setattr(pymilvus.MilvusClient, name, killed)
milvus.ROWS_AT_ONCE = 7
milvus.push(store.open_gallery(Path(sys.argv[1])), milvus.Address(sys.argv[2], "people"))
"""


@pytest.mark.parametrize(
    ("method", "call", "there"), [("create_index", 1, None), ("upsert", 1, 0), ("upsert", 4, 21), ("flush", 1, 40)]
)
def test_a_killed_push_goes_on(
    folder: Path, where: milvus.Address, tmp_path: Path, method: str, call: int, there: int | None
) -> None:
    command = [sys.executable, "-c", KILLED, folder, where.database, method, str(call)]
    assert subprocess.run(command, check=False).returncode == -signal.SIGKILL
    if there is None:
        with pytest.raises(DataError, match="the push that created it was interrupted"), milvus.opened(where):
            pass
    else:
        with milvus.opened(where) as collection:
            assert (collection.count(), collection.unfinished) == (there, (str(folder),))
    done = milvus.push(store.open_gallery(folder), where)
    assert (done.written, done.same, done.total) == (40 - (there or 0), there or 0, 40)
    other = milvus.Address(str(tmp_path / "other.db"), "people")
    milvus.push(store.open_gallery(folder), other)
    expected, found = stored(other), stored(where)
    assert len(expected) == 40
    assert found == expected
    with milvus.opened(where) as collection:
        assert collection.unfinished == ()


SERVER = "import sys; from milvus_lite.adapter.grpc.server import run_server; run_server(sys.argv[1], '127.0.0.1', int(sys.argv[2]))"


class Server:
    """The engine as a program of its own, which can be killed and started again."""

    def __init__(self, folder: Path) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.command = [sys.executable, "-c", SERVER, folder, str(self.port)]

    def start(self) -> None:
        self.process = subprocess.Popen(self.command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def wait(self) -> None:
        for _ in range(300):
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port)):
                return
            time.sleep(0.1)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    one = Server(tmp_path / "server.db")
    one.start()
    one.wait()
    yield one
    one.kill()


def test_a_server_that_is_lost_and_back(
    folder: Path, server: Server, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    gallery, where = store.open_gallery(folder), milvus.address(f"http://127.0.0.1:{server.port}#people")
    monkeypatch.setattr(milvus, "ROWS_AT_ONCE", 7)
    searched = []

    def restarted(numbers: range) -> Iterator[int]:
        for number in numbers:
            if number == 2:  # another client, while the push goes on
                with milvus.opened(where) as collection:
                    searched.append((collection.count(), collection.unfinished))
                server.kill()
                server.start()
            yield number

    monkeypatch.setattr(milvus, "PAUSES", [0.2] * 100)
    assert milvus.push(gallery, where, progress=restarted) == milvus.Pushed(40, 0, 40)
    assert searched == [(14, (str(folder),))]
    assert "trying again in 0.2 s" in caplog.text
    assert milvus.push(gallery, where) == milvus.Pushed(0, 40, 40)

    def killed(numbers: range) -> Iterator[int]:
        server.kill()
        yield from numbers

    monkeypatch.setattr(milvus, "PAUSES", [0.1])
    with pytest.raises(DataError, match=r"#other: Fail connecting to server"):
        milvus.push(gallery, milvus.Address(where.database, "other"), progress=killed)


def test_pymilvus_is_imported_when_a_database_is_opened(
    folder: Path, where: milvus.Address, monkeypatch: pytest.MonkeyPatch
) -> None:
    code = "import sys; from reid.gallery import milvus; print({'pymilvus', 'milvus_lite', 'grpc'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"
    for module, extra in (("milvus_lite.exceptions", "milvus-lite"), ("pymilvus", "milvus")):
        monkeypatch.setitem(sys.modules, module, None)  # as if it were not installed
        with pytest.raises(ConfigError, match=rf"pip install 'robust-reid\[{extra}\]'"):
            milvus.push(store.open_gallery(folder), where)
    assert not Path(where.database).exists()


def test_what_grpc_turns_away_is_one_line(folder: Path, where: milvus.Address) -> None:
    milvus.push(store.open_gallery(folder), where)
    with pytest.raises(DataError, match=r"people: .*not supported"), milvus.opened(where) as collection:
        collection.client.load_partitions("people", ["_default"])


def test_a_row_that_is_there_is_written_once(folder: Path, where: milvus.Address) -> None:
    gallery = store.open_gallery(folder)
    milvus.push(gallery, where)
    assert milvus.push(gallery, where) == milvus.Pushed(0, 40, 40)
    # Rows move up in the folder: those of the collection follow, the one that is gone is taken out by its key.
    change.remove(folder, ["t10"])
    assert milvus.push(store.open_gallery(folder), where) == milvus.Pushed(29, 10, 40)
    with pytest.raises(DataError, match=r"no tracklet has the key 'nobody' \(and 1 more\)"):
        milvus.remove(where, ["t10", "nobody", "\udcff"])
    assert milvus.remove(where, ["t10", "t10"]) == 39
    assert {key: row["row"] for key, row in stored(where).items()} == store.rows_by_key(store.open_gallery(folder))


def test_keys_of_another_tracklet_are_refused_or_replaced(folder: Path, where: milvus.Address, tmp_path: Path) -> None:
    milvus.push(store.open_gallery(folder), where)
    other = write(tmp_path / "other", ["new", "t3", "t4", *(f"s{i}" for i in range(5))], seed=9)
    before = stored(where)
    with pytest.raises(DataError, match=r"has a different tracklet with the key 't3' \(and 1 more\).*--overwrite"):
        milvus.push(other, where)
    assert stored(where) == before
    assert milvus.push(other, where, overwrite=True) == milvus.Pushed(8, 0, 46)
    after = stored(where)
    assert {key for key, row in before.items() if after[key] != row} == {"t3", "t4"}
    assert np.array_equal(np.float32(after["t3"]["feature"]), other.features.features[1])


def test_models_names_and_indexes_never_mix(
    folder: Path, hostile: store.Gallery, where: milvus.Address, tmp_path: Path
) -> None:
    milvus.push(store.open_gallery(folder), where)
    before = stored(where)
    with pytest.raises(
        DataError,
        match=r"made by model f00, .* by f01: features of different models cannot be mixed; push to another collection",
    ):
        milvus.push(write(tmp_path / "theirs", [f"x{i}" for i in range(8)], mark="f01"), where)
    with pytest.raises(DataError, match=r"8 dimensions, .* of 4"):
        milvus.push(write(tmp_path / "narrow", [f"x{i}" for i in range(8)], dim=4), where)
    with pytest.raises(DataError, match=r"has names for nothing, .* for pid,camid"):
        milvus.push(hostile, where)
    with pytest.raises(ConfigError, match=r"--index: .* has the index FLAT, got HNSW"):
        milvus.push(store.open_gallery(folder), where, index="HNSW:M=8")
    assert stored(where) == before
    named = milvus.Address(where.database, "named")
    milvus.push(hostile, named)
    for pid, camid, message in (
        ({**PERSONS, 3: "bob"}, CAMERAS, r"pid 3 is 'alice' there"),
        ({1: PERSONS[1], 2: PERSONS[3], 3: PERSONS[2]}, CAMERAS, r"pid \d is .* there"),
        (PERSONS, {0: CAMERAS[0], 1: CAMERAS[1], 2: "roof"}, "camid 2 is '5' there"),
        (PERSONS, {0: CAMERAS[0], 1: CAMERAS[1]}, "camid 2 is '5' there"),
    ):
        names = {kind: {str(n): name for n, name in of.items()} for kind, of in (("pid", pid), ("camid", camid))}
        shutil.rmtree(tmp_path / "words", ignore_errors=True)
        with pytest.raises(DataError, match=message):
            milvus.push(write(tmp_path / "words", [f"x{i}" for i in range(8)], names), named)
    assert len(stored(named)) == 40
    shutil.rmtree(tmp_path / "words")
    names = json.loads((hostile.folder / "gallery.json").read_text())["names"]
    assert milvus.push(write(tmp_path / "words", [f"x{i}" for i in range(8)], names), named).total == 48


def test_another_kind_of_index(folder: Path, where: milvus.Address) -> None:
    gallery = store.open_gallery(folder)
    milvus.push(gallery, where, index="HNSW:M=8,efConstruction=64")
    with milvus.opened(where) as collection:
        assert collection.index == "HNSW"
        found = milvus.nearest(collection, gallery.features.features[:4], top_k=3)
    assert found.row[found.hits.rows[:, 0]].tolist() == [0, 1, 2, 3]
    for text, message in (
        ("HNSW:M", "--index: expected the name of a Milvus index"),
        ("IVF_PQ", "milvus-lite has FLAT"),
    ):
        with pytest.raises(ConfigError, match=message):
            milvus.push(gallery, milvus.Address(where.database, "other"), index=text)
    with pytest.raises(DataError, match="no such collection; existing: people"):
        milvus.remove(milvus.Address(where.database, "other"), ["t0"])


@pytest.mark.parametrize(
    "texts", [{"key": "\udcff"}, {"path": b"\xff.jpg"}, {"key": "a" * 65_536}, {"fingerprint": None}]
)
def test_what_cannot_be_stored_is_refused(texts: dict[str, Any], where: milvus.Address, tmp_path: Path) -> None:
    split = split_of(["a", "b"], np.array([1, 2]), np.array([0, 1]), frames=1)
    paths = np.array([b"0.jpg", texts.get("path", b"1.jpg")])
    split = Split(
        Path("root"), paths, split.start, split.stop, split.pid, split.camid, np.array(["a", texts.get("key", "b")])
    )
    made = features_of(split, mark=texts.get("fingerprint", "f00"))
    store.write(tmp_path / "odd", made, split, {"source": "here"})
    message = "no model fingerprint" if "fingerprint" in texts else "meta.csv, row 1: .*at most 65535 bytes of UTF-8"
    with pytest.raises(DataError, match=message) as caught:
        milvus.push(store.open_gallery(tmp_path / "odd"), where)
    assert len(str(caught.value)) <= 500
    assert not Path(where.database).exists()


def test_places_that_are_no_database(folder: Path, where: milvus.Address, tmp_path: Path) -> None:
    import pymilvus
    from milvus_lite.server_manager import server_manager_instance

    gallery = store.open_gallery(folder)
    shutil.copytree(folder, tmp_path / "folder.db")
    (tmp_path / "file.db").write_text("SQLite")
    (tmp_path / "full.db").mkdir()
    (tmp_path / "full.db/holiday.jpg").touch()
    for name, message in (
        ("folder.db", "is a feature folder"),
        ("file.db", "is a file"),
        ("full.db", "not a folder of milvus-lite"),
        ("none/x.db", "no such folder"),
    ):
        with pytest.raises(DataError, match=message):
            milvus.push(gallery, milvus.Address(str(tmp_path / name)))
    with pytest.raises(DataError, match="no such database"), milvus.opened(where):
        pass
    assert not Path(where.database).exists()
    with pytest.raises(DataError, match=r"http://…@127\.0\.0\.1:1#gallery: Fail connecting"):
        milvus.push(gallery, milvus.address("http://me:secret@127.0.0.1:1"))
    client = pymilvus.MilvusClient(where.database)
    client.create_collection("people", dimension=8)
    client.close()
    server_manager_instance.release_server(where.database)
    for attempt in (lambda: milvus.push(gallery, where), lambda: milvus.remove(where, ["t0"])):
        with pytest.raises(DataError, match="not a collection made by robust-reid gallery push"):
            attempt()
    client = pymilvus.MilvusClient(where.database)
    assert client.has_collection("people")
    client.close()
    server_manager_instance.release_server(where.database)


def test_a_database_that_another_program_holds(folder: Path, where: milvus.Address) -> None:
    code = "import sys; from milvus_lite.db import MilvusLite; db = MilvusLite(sys.argv[1]); print(flush=True); sys.stdin.read()"
    command = [sys.executable, "-c", code, where.database]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout is not None and other.stdin is not None
        other.stdout.readline()
        with pytest.raises(DataError, match=r"people\.db: cannot be opened: .*; only one program can use it at a time"):
            milvus.push(store.open_gallery(folder), where)
        other.stdin.close()
    assert milvus.push(store.open_gallery(folder), where).total == 40
    assert os.path.isdir(where.database)
    assert logging.getLogger("milvus_lite").propagate


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("x.db", ("x.db", "gallery")),
        ("a#b/x.db#people", ("a#b/x.db", "people")),
        ("a#b.db", ("a#b.db", "gallery")),
        ("http://host:19530", ("http://host:19530", "gallery")),
        ("https://me:secret@host/mine#p_2", ("https://me:secret@host/mine", "p_2")),
        ("http://me:p@secret@host#p", ("http://me:p@secret@host", "p")),
    ],
)
def test_addresses(text: str, expected: tuple[str, str]) -> None:
    assert milvus.is_address(text)
    where = milvus.address(text)
    assert (where.database, where.collection) == expected
    assert "secret" not in str(where)


@pytest.mark.parametrize(
    "text", ["http://", "ftp://host", "http://host:port", "x.db#", "x.db#2", "x.db#a-b", "x.db#a b", "http://h#é"]
)
def test_addresses_that_name_nothing(text: str) -> None:
    assert milvus.is_address(text)
    with pytest.raises(ConfigError, match="expected"):
        milvus.address(text)


@pytest.mark.parametrize("text", ["galleries/mine", "x.db/gallery", "x#people", "db"])
def test_folders_are_no_addresses(text: str) -> None:
    assert not milvus.is_address(text)
