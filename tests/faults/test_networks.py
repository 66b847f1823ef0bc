"""Weights, checkpoints and published folders from anywhere: changed bytes, and whole files that hold what nobody expects."""

import json
import shutil
from collections.abc import Callable
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from hypothesis import given
from hypothesis import strategies as st

import reid
from reid import config as configs
from reid import experiment
from reid.commands import train
from reid.datasets.demo import write_demo
from reid.engine import checkpoint
from reid.experiment import OfRun, OfWeights, published
from reid.export import deployed
from reid.export.deployed import Deployed
from reid.export.onnx_file import OnnxNetwork
from reid.models import weights
from reid.models.embedding import Classifier
from reid.rundir import RunDirectory
from reid.runtime import alone
from tests.commands.conftest import CONFIG
from tests.faults.conftest import attempt, many
from tests.faults.mutation import VALUES, Kind, try_changed, try_values

pytestmark = [pytest.mark.faults, pytest.mark.filterwarnings("ignore")]
STATE = {"conv.weight": torch.arange(8.0).reshape(2, 4), "bn.num_batches_tracked": torch.tensor(3)}
TINY = CONFIG.replace("resnet10t", "test_resnet")  # timm's network for tests, of half a million numbers


def by_torch(zipped: bool) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        torch.save({"state_dict": STATE}, folder / "a.pth", _use_new_zipfile_serialization=zipped)
        return folder / "a.pth"

    return make


def by_safetensors(folder: Path) -> Path:
    safetensors.torch.save_file(STATE, folder / "a.safetensors")
    return folder / "a.safetensors"


def tensors(held: weights.Weights) -> dict[str, Any]:
    return {key: value.tolist() for key, value in held.backbone.items()}


@cache
def exported() -> bytes:
    """A network small enough for many tries, as `robust-reid export` writes it."""
    network = torch.nn.Sequential(torch.nn.Conv2d(3, 2, 3, stride=2), torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten())
    about = {"dtype": "float32", "preprocessing": "outside", "fingerprint": "f0", "tracklet_pooling": "mean"}
    about |= {"resize": [8, 4], "crop": [8, 4], "mean": [0.5] * 3, "std": [0.5] * 3, "network": "tiny"}
    about |= {"output": {"features": {"shape": ["batch", 2]}}}
    grey = torch.full((3,), 127.5)
    with TemporaryDirectory() as folder:
        file = Path(folder) / "a.onnx"
        deployed.write(Deployed(network, grey, grey, [8, 4], [8, 4], inside=False), "onnx", file, json.dumps(about))
        return file.read_bytes()


def by_export(folder: Path) -> Path:
    (folder / "a.onnx").write_bytes(exported())
    return folder / "a.onnx"


def features(network: OnnxNetwork) -> list[float]:
    return network.embed_tracklet([np.zeros((9, 5, 3), np.uint8)]).tolist()


WEIGHTS = {
    "exported network (.onnx)": Kind(by_export, OnnxNetwork, features),
    "weights (.pth)": Kind(by_torch(True), weights.read, tensors),
    "weights (.pth of torch < 1.6)": Kind(by_torch(False), weights.read),
    "weights (.safetensors)": Kind(by_safetensors, weights.read),
}


@pytest.mark.parametrize("name", WEIGHTS)
def test_changed_weights(name: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    try_changed(name, WEIGHTS[name], tmp_path_factory)


TENSORS = st.sampled_from(
    [torch.zeros(()), torch.ones(0), torch.full((2, 3), torch.nan), torch.zeros(2, dtype=torch.complex64)]
)
ANYTHING = (
    VALUES
    | TENSORS
    | st.dictionaries(st.sampled_from([*STATE, "embedding.backbone.x", "pid"]), TENSORS | VALUES, max_size=3)
)
OF_WEIGHTS = st.sampled_from(
    ["state_dict", "model", "schema", "pids", "ema", "config", "step", "names", "model_ema", "bn"]
)


@many()
@given(content=st.dictionaries(OF_WEIGHTS | st.text(max_size=3), ANYTHING, max_size=6) | ANYTHING, own=st.booleans())
def test_weight_files_of_any_types(tmp_path_factory: pytest.TempPathFactory, content: Any, own: bool) -> None:
    file = tmp_path_factory.getbasetemp() / "any.pth"
    if own and isinstance(content, dict):
        content = {"schema": 1, "pids": [1], "model": {"embedding.backbone.w": torch.zeros(2)}, **content}
    torch.save(content, file)
    attempt("weights of any types", lambda: OfWeights(file, "test_resnet").config())


def tiny_run(folder: Path) -> Path:
    (folder / "config.yaml").write_text(TINY)
    embedding, _ = experiment.build_embedding(configs.load(folder / "config.yaml"), initial_weights=False)
    model = Classifier(embedding, 2).state_dict()
    checkpoint.save(RunDirectory(folder).last, model=model, pids=[1, 2], config=TINY, step=1, best=None, ema=model)
    return folder


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_run(tmp_path_factory.mktemp("tiny"))


@many(share=2)
@given(name=st.sampled_from(["model", "ema", "pids", "config", "schema"]), value=ANYTHING, inside=st.booleans())
def test_checkpoints_of_any_types(
    run: Path, tmp_path_factory: pytest.TempPathFactory, name: str, value: Any, inside: bool
) -> None:
    folder = tmp_path_factory.getbasetemp() / "forged"
    content = checkpoint.load(RunDirectory(run).last)
    if inside and isinstance(content[name], dict):
        value = {**content[name], next(iter(content[name])): value}
    RunDirectory(folder).last.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(run / "config.yaml", folder / "config.yaml")
    torch.save({**content, name: value}, RunDirectory(folder).last)
    source = OfRun(folder)
    attempt(
        "checkpoint of any types", lambda: source.load(source.config(["machine.device=cpu"]), alone("cpu", "float32"))
    )


RESUMED = [
    *("model", "loss", "optimizer", "ema", "config", "pids", "step", "best", "evidence", "windows", "damaged", "names"),
    "corrections",
]


@pytest.fixture(scope="module")
def resuming(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Callable[[Path], Any]]:
    """A checkpoint of a training that is to go on, and what puts one back into the training."""
    folder = tmp_path_factory.mktemp("resuming")
    write_demo(
        folder / "demo", train_ids=3, test_ids=2, tracklets_per_id=2, min_frames=2, max_frames=3, distractors=1, junk=1
    )
    (folder / "run.yaml").write_text(TINY)
    config = configs.load(folder / "run.yaml", [f"data.root={folder}", "train.ema=0.9"])
    runtime, data = alone("cpu", "float32"), experiment.load_data(config)
    job = experiment.build_job(config, data.train, runtime, initial_weights=False)
    about = {
        "config": config.dump(),
        "pids": data.train.pids.tolist(),
        "damaged": {},
        "windows": None,
        "step": 1,
        "best": None,
    }
    assert job.evidence is not None
    checkpoint.save(folder / "last.pt", **about, evidence=job.evidence.of_all_processes(), **train._states(job))
    return folder / "last.pt", lambda file: train._restored(config, job, [file], data, runtime)


@many(share=4)
@given(name=st.sampled_from(RESUMED), value=ANYTHING, inside=st.booleans(), gone=st.booleans())
def test_resuming_from_checkpoints_of_any_types(
    resuming: tuple[Path, Callable[[Path], Any]],
    tmp_path_factory: pytest.TempPathFactory,
    name: str,
    value: Any,
    inside: bool,
    gone: bool,
) -> None:
    good, restore = resuming
    content = checkpoint.load(good)
    if inside and isinstance(content.get(name), dict) and content[name]:
        value = {**content[name], next(iter(content[name])): value}
    content[name] = value
    if gone:
        del content[name]
    file = tmp_path_factory.getbasetemp() / "forged.pt"
    torch.save(content, file)
    attempt("checkpoint to resume, any types", lambda: restore(file))


def saved(name: str) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        run = folder.with_name(f"{folder.name}-run")
        run.mkdir()
        source = OfRun(tiny_run(run))
        network = source.load(source.config(["machine.device=cpu"]), alone("cpu", "float32"))
        published.write(folder, network, source, None)
        return folder / name

    return make


def load(file: Path) -> Any:
    found = published.find(file.parent)
    return found.load(found.config(["machine.device=cpu"]), alone("cpu", "float32"))


def test_published_settings(tmp_path_factory: pytest.TempPathFactory) -> None:
    kind = Kind(saved(published.SETTINGS), load)
    try_values("published: config.json", kind, tmp_path_factory, share=2)
    try_changed("published: config.json", kind, tmp_path_factory, share=2)


def test_published_weights(tmp_path_factory: pytest.TempPathFactory) -> None:
    kind = Kind(saved(published.WEIGHTS), load, lambda network: network.fingerprint)
    try_changed("published: safetensors", kind, tmp_path_factory, share=4)


def test_published_headers(tmp_path_factory: pytest.TempPathFactory) -> None:
    """The header of a safetensors file, which says where each tensor lies."""
    file = saved(published.WEIGHTS)(tmp_path_factory.mktemp("good"))
    data = file.read_bytes()
    length = int.from_bytes(data[:8], "little")
    header, rest = json.loads(data[8 : 8 + length]), data[8 + length :]
    names = sorted(header.keys() - {"__metadata__"})

    @many(share=2)
    @given(name=st.sampled_from(names), key=st.sampled_from(["dtype", "shape", "data_offsets", "x"]), value=VALUES)
    def one(name: str, key: str, value: Any) -> None:
        text = json.dumps({**header, name: {**header[name], key: value}}).encode()
        file.write_bytes(len(text).to_bytes(8, "little") + text + rest)
        attempt("published: header", lambda: load(file))

    one()


def test_a_file_is_no_network_of_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("out").mkdir()
    Path("out/model.onnx").write_bytes(b"\x08\x0a")
    with pytest.raises(reid.errors.CheckpointError, match=r"^out/model\.onnx: not an ONNX file, or damaged"):
        reid.load("out/model.onnx")
    Path("out/model.pt2").write_bytes(b"\x08\x0a")
    with pytest.raises(reid.errors.DataError, match=r"^out/model\.pt2: is a file; expected a run directory"):
        reid.load("out/model.pt2")
