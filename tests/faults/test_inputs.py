"""Files of every kind with bytes changed, cut, doubled or put in: each is taken or refused in one line, within seconds.

Where a kind has checksums, what is taken must also be what was written.
"""

import io
import json
import pickle
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from scipy.io import savemat

from reid import config
from reid.cifar import pickled
from reid.datasets import mars, matlab, packing
from reid.datasets.decoding import decode
from reid.datasets.manifest import load_rows
from reid.datasets.pack import Pack
from reid.engine import checkpoint, evidence
from reid.features import FeatureSet
from reid.gallery import change, store
from reid.protocol import get_protocols
from tests.commands.conftest import CONFIG
from tests.evaluation.oracles import made_up
from tests.faults.conftest import attempt, many
from tests.faults.mutation import CHANGES, Kind, changed, try_changed, written
from tests.gallery.conftest import features_of, split_of

pytestmark = pytest.mark.faults
RNG = np.random.default_rng(0)
PICTURE = Image.fromarray(RNG.integers(0, 256, (16, 8, 3), dtype=np.uint8))


def picture(suffix: str) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        PICTURE.save(folder / f"a.{suffix}")
        return folder / f"a.{suffix}"

    return make


def feature_file(folder: Path) -> Path:
    made_up(0, n=60, dimensions=4).save(folder / "a.npz")
    return folder / "a.npz"


def gallery(name: str) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        split = split_of([f"t{i}" for i in range(20)], np.arange(20) % 5, np.arange(20) % 3)
        store.write(folder / "g", features_of(split, query=(3, 7)), split, {"run": "runs/x", "source": "here"})
        change.reindex(folder / "g", "Flat")
        return folder / "g" / name

    return make


def open_all(file: Path) -> tuple[Any, ...]:
    held = store.open_gallery(file.parent)
    index = store.open_index(held)
    rows = held.features
    found = None if index is None else index.search(np.asarray(rows.features[:2]), 3).tolist()
    assert rows.key is not None
    return (
        rows.features.tobytes(),
        rows.pid.tolist(),
        rows.key.tolist(),
        rows.query.tolist(),
        rows.gallery.tolist(),
        found,
    )


def saved(folder: Path) -> Path:
    checkpoint.save(folder / "a.pt", model={"w": torch.arange(8.0)}, pids=[1, 2], config="seed: 1\n", step=3)
    return folder / "a.pt"


def human_labels(folder: Path) -> Path:
    torch.save({"clean_label": np.arange(10), "worse_label": np.arange(10)[::-1].copy()}, folder / "a.pt")
    return folder / "a.pt"


def cifar(folder: Path) -> Path:
    content = {
        b"data": RNG.integers(0, 256, (4, 3072), dtype=np.uint8),
        b"labels": [1, 2, 3, 4],
        b"filenames": [b"a.png"] * 4,
    }
    (folder / "data_batch_1").write_bytes(pickle.dumps(content, protocol=2))
    return folder / "data_batch_1"


def packed(name: str) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        (folder / "in").mkdir()
        for i in range(4):
            (folder / "in" / f"{i}.bin").write_bytes(bytes([i]) * 50)
        packing.write(folder / "in", [b"0.bin", b"1.bin", b"2.bin", b"3.bin"], folder / "a.pack")
        return folder / "a.pack" / name

    return make


def all_of_pack(file: Path) -> list[bytes]:
    pack = Pack(file.parent)
    try:
        return [pack.read(row) for row in range(len(pack))]
    finally:
        pack.close()


def table(folder: Path) -> Path:
    for i in range(4):
        PICTURE.save(folder / f"{i}.png")
    rows = [f"{i}.png,t{i // 2},{i // 2 + 1},{i // 2},test" for i in range(4)]
    (folder / "a.csv").write_text("\n".join(["path,tracklet,pid,camid,split", *rows]) + "\n")
    return folder / "a.csv"


def matlab_table(folder: Path) -> Path:
    savemat(folder / "a.mat", {"track_test_info": np.arange(24, dtype=np.int32).reshape(6, 4)}, do_compression=True)
    return folder / "a.mat"


def parsed(file: Path) -> Any:
    return config.load(file)


TRAINED_ON = split_of([f"t{i}" for i in range(20)], np.arange(20) % 5, np.arange(20) % 3)


def seen_in_training(folder: Path) -> Path:
    seen, frames = evidence.Evidence(TRAINED_ON, iterations=1), torch.arange(60)
    seen.add(0, frames, frames / 60, frames / 6, frames / 30)
    evidence.write(folder / "a.npz", seen.state_dict(), TRAINED_ON)
    return folder / "a.npz"


PROTOCOL = "{name: ours, gallery: without_queries, ap: hit}\n"
KINDS: dict[str, Kind] = {
    "config": Kind(written("run.yaml", CONFIG), parsed),
    "protocol": Kind(written("p.yaml", PROTOCOL), lambda file: get_protocols(str(file))),
    "table (CSV)": Kind(table, load_rows),
    "feature file": Kind(
        feature_file, FeatureSet.load, lambda f: (f.features.tobytes(), f.pid.tolist(), f.query.tolist())
    ),
    "gallery: features.npy": Kind(gallery("features.npy"), open_all, lambda found: found),
    "gallery: meta.csv": Kind(gallery("meta.csv"), open_all, lambda found: found),
    "gallery: gallery.json": Kind(gallery("gallery.json"), open_all),
    "gallery: index.faiss": Kind(gallery("index.faiss"), open_all, lambda found: found),
    "training evidence": Kind(
        seen_in_training, lambda file: evidence.late_confidence(file, TRAINED_ON), np.ndarray.tobytes
    ),
    "checkpoint": Kind(saved, checkpoint.load, lambda c: (c["model"]["w"].tolist(), c["pids"], c["step"])),
    "CIFAR-10N labels": Kind(human_labels, pickled.load_arrays, lambda c: {k: v.tolist() for k, v in c.items()}),
    "CIFAR pickle": Kind(cifar, pickled.unpickle),
    "image: PNG": Kind(picture("png"), decode, lambda pixels: pixels.tolist()),
    "image: JPEG": Kind(picture("jpg"), decode),
    "image: TIFF": Kind(picture("tif"), decode),
    "image: WebP": Kind(picture("webp"), decode),
    "image: BMP": Kind(picture("bmp"), decode),
    "pack: pack.json": Kind(packed("pack.json"), all_of_pack),
    "pack: index.npy": Kind(packed("index.npy"), all_of_pack, lambda found: found),
    "pack: 00000.zip": Kind(packed("00000.zip"), all_of_pack, lambda found: found),
}


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.filterwarnings("ignore")  # libraries warn of what they read; the command line silences them
def test_changed_files(name: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    try_changed(name, KINDS[name], tmp_path_factory)


@many(share=20)
@given(changes=CHANGES)
def test_changed_matlab_tables(tmp_path_factory: pytest.TempPathFactory, changes: list[tuple[str, float, int]]) -> None:
    file = matlab_table(tmp_path_factory.mktemp("mat"))
    file.write_bytes(changed(file.read_bytes(), changes))
    attempt("MATLAB table", lambda: mars.read_variable(file, "track_test_info"))
    matlab._read.clear()


@many()
@given(
    key=st.sampled_from(["train.lr", "seed", "loss.T", "test.protocols", "base", "model", "a.b", ""]),
    text=st.text(max_size=60),
)
def test_overrides(tmp_path_factory: pytest.TempPathFactory, key: str, text: str) -> None:
    file = tmp_path_factory.getbasetemp() / "overridden.yaml"
    file.write_text(CONFIG)
    attempt("override", lambda: config.load(file, [f"{key}={text}"]))


SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=9)
NAMED = [
    "2001-99-99",
    "!!int abc",
    "9" * 5000,
    "[" * 3000,
    "!!python/object/apply:os.system [ls]",
    "&a [*a]",
    "{? [1]: 2}",
    ".nan",
    "0b",
]


@pytest.mark.parametrize("text", NAMED)
@pytest.mark.parametrize("key", ["train.lr", "seed", "loss", "test.protocols"])
def test_overrides_that_were_tracebacks(tmp_path: Path, key: str, text: str) -> None:
    (tmp_path / "run.yaml").write_text(CONFIG)
    attempt("override", lambda: config.load(tmp_path / "run.yaml", [f"{key}={text}"]))


@many()
@given(
    value=st.recursive(SCALARS, st.lists, max_leaves=4),
    data=st.data(),
)
def test_gallery_json_of_any_types(tmp_path_factory: pytest.TempPathFactory, value: Any, data: st.DataObject) -> None:
    file = gallery("gallery.json")(tmp_path_factory.mktemp("json"))
    about = json.loads(file.read_text())
    key = data.draw(st.sampled_from(sorted(about)))
    file.write_text(json.dumps(about | {key: value}))
    attempt("gallery.json values", lambda: open_all(file))


def test_the_pickle_that_asked_for_gigabytes(tmp_path: Path) -> None:
    (tmp_path / "data_batch_1").write_bytes(b"]r\xff\xff\xff\x1f.")
    assert attempt("CIFAR pickle", lambda: pickled.unpickle(tmp_path / "data_batch_1")) is None


def test_headers_that_were_tracebacks(tmp_path: Path) -> None:
    for text in ("{'descr': '<f4', 'shape': (1,", "1 +* 2", "(" * 300, "{'descr': '" + "<f4" * 9, "{}"):
        header = text.encode().ljust(117) + b"\n"
        array = b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header
        file = io.BytesIO()
        np.savez(file, features=np.eye(3), pid=np.arange(3), camid=np.arange(3), query=np.arange(1))
        good = io.BytesIO()
        np.save(good, np.arange(1))
        (tmp_path / "a.npz").write_bytes(file.getvalue().replace(good.getvalue(), array[: len(good.getvalue())]))
        assert attempt("feature file", lambda: FeatureSet.load(tmp_path / "a.npz")) is None
        (tmp_path / "b.npz").write_bytes(array)
        assert attempt("feature file", lambda: FeatureSet.load(tmp_path / "b.npz")) is None


def test_a_pack_that_names_files_outside_of_it(tmp_path: Path) -> None:
    file = packed("pack.json")(tmp_path)
    for name in ("../in/0.bin", "/etc/passwd", "\ud800.zip", "00000.zip\n"):
        about = json.loads(file.read_text())
        about["shards"][0]["file"] = name
        (file.parent / "pack.json").write_text(json.dumps(about))
        assert attempt("pack: pack.json", lambda: all_of_pack(file)) is None
        packed_anew = json.loads(file.read_text())
        packed_anew["shards"][0]["file"] = "00000.zip"
        file.write_text(json.dumps(packed_anew))
    assert zlib.crc32(all_of_pack(file)[0]) == zlib.crc32(b"\0" * 50)
