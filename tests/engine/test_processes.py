"""Two and three processes against one: the same weights, bit for bit the same features, exactly the same evaluation."""

import multiprocessing
import os
import socket
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.multiprocessing as mp
from torch import nn

from reid import runtime
from reid.datasets.damaged import DamagedImages
from reid.engine.evidence import Evidence, means
from reid.engine.extract import extract, extract_shards
from reid.engine.objective import SumOfLosses
from reid.engine.optim import sgd
from reid.engine.train import Job, fit
from reid.errors import DataError
from reid.evaluation.evaluate import evaluate_all
from reid.features import FeatureSet
from reid.losses import IMAE
from reid.metric_losses import Centre, Circle, Triplet
from reid.models.embedding import Classifier, Embedding
from reid.protocol import get_protocols
from reid.runtime import Runtime
from reid.tracklets import Split
from tests.engine.conftest import CPU, make_job, make_split
from tests.engine.test_extract import PREPROCESS, options, small

LENGTHS = np.array([1, 9, 2, 5, 3, 4])  # together the 24 images of `make_split`
TRAINING = {
    "weights": 1e-5,
    "released": 1e-6,
    "sum": 1e-5,
    "centres": 1e-5,
    "terms": 1e-5,
    "rows": 1e-5,
    "seen": 1e-4,
}  # greatest difference


def split_of(folder: Path) -> Split:
    """The images of a folder as tracklets of different lengths, three people before three cameras."""
    names = np.array([f"{i:02d}.png".encode() for i in range(LENGTHS.sum())])
    stop = np.cumsum(LENGTHS)
    return Split(folder, names, stop - LENGTHS, stop, np.array([3, 1, 1, 3, 7, 7]), np.array([0, 1, 2, 1, 0, 1]))


def frozen_job(folder: Path, loss: str = "imae") -> Job:
    """With normalisation layers, but frozen: otherwise each process would normalise by its own share of the batch of 5."""
    even = np.arange(6) * 4
    split = replace(split_of(folder), start=even, stop=even + 4, pid=np.array([3, 3, 1, 1, 7, 7]))
    job = make_job(split, dropout=False, loss=loss, lr=0.1)
    torch.manual_seed(1)
    model = Classifier(Embedding(small(), freeze_norm=True), 3)
    return replace(job, model=model, optimizer=sgd(model, momentum=0.9, weight_decay=1e-3), clip_grad=5.0)


def sum_job(folder: Path) -> Job:
    """Losses that compare features: with those of one process's share alone, an anchor would often have nobody of its label."""
    job = frozen_job(folder)
    metric = {
        "triplet": Triplet(weights="w"),
        "circle": Circle(gamma=4.0),
        "centre": Centre(3, job.model.embedding.num_features),
    }
    loss = SumOfLosses({"imae": IMAE(), **metric}, {"imae": 1, "triplet": 1, "circle": 0.1, "centre": 0.01})
    job.model.with_features = True
    weight_F = torch.linspace(0.5, 1.5, len(job.data.split.names))
    return replace(job, loss=loss, data=replace(job.data, weight_F=weight_F), clip_grad=1.0)


def everything(folder: Path, here: Runtime) -> dict[str, Any]:
    """What one process of any number finds: weights after training, features, results."""
    rows: list[dict[str, float]] = []
    job = frozen_job(folder / "whole")
    job = replace(job, evidence=Evidence(job.data.split, job.iterations))
    fit(job, here, on_log=rows.append)
    found: dict[str, Any] = {"weights": nn.utils.parameters_to_vector(job.model.parameters()).detach()}
    assert job.evidence is not None
    seen = means(job.evidence.of_all_processes())
    found["count"] = torch.from_numpy(seen["frame_count"])
    found["seen"] = torch.from_numpy(np.nan_to_num(np.stack([seen["frame_p"], seen["frame_margin"]])))
    released = frozen_job(folder / "whole", "imae_released")  # its weights are divided by their mean over all processes
    fit(replace(released, iterations=20), here)
    found["released"] = nn.utils.parameters_to_vector(released.model.parameters()).detach()
    terms: list[dict[str, float]] = []
    compared = sum_job(folder / "whole")
    fit(compared, here, on_log=terms.append)
    found["sum"] = nn.utils.parameters_to_vector(compared.model.parameters()).detach()
    found["centres"] = compared.loss.losses["centre"].centres_KD
    found["terms"] = torch.tensor([[row[f"loss_{name}"] for name in compared.loss.names] for row in terms])
    found["rows"] = torch.tensor([[row[key] for key in ("step", "lr", "loss", "accuracy", "grad_l1")] for row in rows])
    return found | extracted(folder, here)


def extracted(folder: Path, here: Runtime) -> dict[str, Any]:
    model, split, found = small(), split_of(folder / "whole"), {}
    for pooling, batch_size in (("mean", 1), ("mean", 5), ("max", 7), ("mean", 64)):
        features = extract(model, PREPROCESS, split, here, **options(pooling, batch_size=batch_size))
        found[f"{pooling} {batch_size}"] = torch.from_numpy(features)
    shards = [np.array([3]), np.array([0]), np.array([5, 1, 2, 4])]
    parts = list(extract_shards(model, PREPROCESS, split, here, shards, **options(batch_size=2)))
    found["shards"] = torch.from_numpy(np.concatenate(parts))
    skip = options(batch_size=2, damaged=DamagedImages("skip"))
    found["damaged"] = torch.from_numpy(extract(model, PREPROCESS, split_of(folder / "damaged"), here, **skip))
    with pytest.raises(DataError) as caught:
        extract(model, PREPROCESS, split_of(folder / "gone"), here, **skip)
    found["gone"] = str(caught.value)
    rows = np.arange(6)
    features = FeatureSet(found["mean 5"].numpy(), split.pid, split.camid, query=rows, gallery=rows)
    for result in evaluate_all(features, get_protocols("all")):
        found[result.protocol.name] = torch.from_numpy(np.concatenate([result.ap, result.cmc]))
    return found


def _one_of_many(rank: int, world_size: int, folder: Path, port: int) -> None:
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": str(world_size)}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    torch.set_num_threads(1)
    with runtime.start("cpu") as here:
        torch.save(everything(folder, here), folder / f"{world_size}-{rank}.pt")


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Images as they should be; with some damaged, a whole batch of 2 among them; and with the third tracklet's all missing."""
    folder = tmp_path_factory.mktemp("processes")
    for name, missing in (("whole", []), ("damaged", [3, 14, 15, 20]), ("gone", [3, 10, 11])):
        (folder / name).mkdir()
        make_split(folder / name)
        for frame in missing:
            split_of(folder / name).path(frame).write_bytes(b"")
    return folder


@pytest.fixture(scope="module")
def alone(folder: Path) -> dict[str, Any]:
    return everything(folder, CPU)


@pytest.mark.parametrize("world_size", [2, 3])
def test_processes_equal_one(folder: Path, alone: dict[str, Any], world_size: int) -> None:
    multiprocessing.set_forkserver_preload(
        [__name__]
    )  # importing takes longer than all the rest: once for all processes
    mp.start_processes(_one_of_many, (world_size, folder, free_port()), world_size, start_method="forkserver")
    for rank in range(world_size):
        found = torch.load(folder / f"{world_size}-{rank}.pt")
        assert found.keys() == alone.keys()
        for key, most in TRAINING.items():
            torch.testing.assert_close(
                found[key], alone[key], rtol=most, atol=most, msg=lambda text, key=key: f"{key}: {text}"
            )
        assert found["gone"] == alone["gone"]
        for key in found.keys() - TRAINING.keys() - {"gone"}:
            assert torch.equal(found[key], alone[key]), (rank, key)


def test_what_one_process_finds(folder: Path, alone: dict[str, Any]) -> None:
    """That what is compared above says something."""
    untrained = nn.utils.parameters_to_vector(frozen_job(folder / "whole").model.parameters())
    assert (alone["weights"] - untrained).abs().max() > 0.01
    differ = (alone["damaged"] != alone["mean 5"]).any(1)
    assert differ.tolist() == [False, True, False, True, False, True]
    assert "none of the 2 images of tracklet 10 can be read" in alone["gone"]
    assert 0 < alone["mars-official"][:6].mean() < 1
