"""Checkpoints as other toolkits write them, each made here with a network of torchvision's, give that network's outputs."""

from __future__ import annotations

import logging
import pickle
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
import torchvision
from torch import Tensor, nn
from torchvision.models.resnet import BasicBlock, Bottleneck

from reid.engine import checkpoint
from reid.errors import CheckpointError
from reid.models.backbone import create_backbone
from reid.models.embedding import Classifier, Embedding
from reid.models.weights import load_neck, read

PERSONS = 7


class Source(nn.Module):
    """A network of a toolkit: torchvision's ResNet, batch normalisation of its features, a classifier."""

    def __init__(self, depth: int = 18) -> None:
        super().__init__()
        block = BasicBlock if depth == 18 else Bottleneck
        self.net = torchvision.models.ResNet(block, [2, 2, 2, 2])
        width = self.net.fc.in_features
        self.net.fc = nn.Identity()
        self.neck, self.classifier = nn.BatchNorm1d(width), nn.Linear(width, PERSONS, bias=False)
        self.train()(torch.rand(4, 3, 64, 32))  # so that no statistic is as at the start
        nn.init.normal_(self.neck.weight)
        self.eval()

    def forward(self, images_BCHW: Tensor) -> Tensor:
        return self.neck(self.net(images_BCHW))

    def named(self, net: str, neck: str | None, classifier: str) -> dict[str, Tensor]:
        """The state dict with other prefixes."""
        parts = {net: self.net, classifier: self.classifier} | ({} if neck is None else {neck: self.neck})
        return OrderedDict(
            (prefix + key, value) for prefix, part in parts.items() for key, value in part.state_dict().items()
        )


def torchreid(source: Source) -> dict:
    state = OrderedDict(
        (f"module.{key}", value) for key, value in source.named("", None, "classifier.").items()
    )  # trained by nn.DataParallel
    optimizer = torch.optim.Adam(source.parameters(), amsgrad=True).state_dict()
    return {"state_dict": state, "epoch": 60, "rank1": np.float64(0.945), "optimizer": optimizer}


def fast_reid(source: Source) -> dict:
    state = source.named("backbone.", "heads.bottleneck.0.", "heads.")
    state |= {"pixel_mean": torch.zeros(1, 3, 1, 1), "pixel_std": torch.ones(1, 3, 1, 1)}
    return {"model": state, "iteration": 100, "scheduler": {"last_epoch": 3}}


def bot(source: Source) -> dict:
    return source.named("base.", "bottleneck.", "classifier.")


def same(ours: nn.Module, theirs: nn.Module) -> None:
    images = torch.rand(2, 3, 64, 32)
    with torch.inference_mode():
        torch.testing.assert_close(ours.eval()(images), theirs(images))


@pytest.mark.parametrize(
    ("published", "depth", "head"),
    [
        (torchreid, 18, "classifier.weight"),
        (fast_reid, 18, "heads.weight, pixel_mean, pixel_std"),
        (bot, 26, "classifier.weight"),
    ],
)
def test_what_toolkits_publish(published, depth, head, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    source, file = Source(depth), tmp_path / "model.pth.tar"
    torch.save(published(source), file)
    caplog.set_level(logging.INFO)
    weights = read(file)
    backbone = create_backbone(f"resnet{depth}", pretrained=False, weights=weights)
    same(backbone, source.net)
    assert f"left out the classifier and its parts: {head}" in caplog.text
    assert str(file) in caplog.text
    embedding = Embedding(backbone, "bn")
    done = load_neck(embedding.neck, weights)
    if published is torchreid:
        assert done == "it has no BNNeck; the BNNeck starts untrained"
    else:
        assert done == "its BNNeck is loaded too"
        same(embedding, source)
        assert load_neck(nn.Identity(), weights) == "its BNNeck is not loaded; set model.neck=bn to load it"


def test_safetensors_and_names_of_torchvision(tmp_path: Path) -> None:
    source = Source()
    safetensors.torch.save_file(source.named("", None, "fc."), tmp_path / "w.safetensors")
    same(create_backbone("resnet18", pretrained=False, weights=tmp_path / "w.safetensors"), source.net)
    (tmp_path / "w.safetensors").write_bytes(b"\xff" * 64)
    with pytest.raises(CheckpointError, match="cannot be read as tensors"):
        read(tmp_path / "w.safetensors")


@pytest.mark.parametrize("average", [False, True])
def test_a_run_of_our_own(average: bool, tmp_path: Path) -> None:
    """The averaged weights are taken where the run kept an average, as in its test."""
    models = [
        Classifier(Embedding(create_backbone("test_resnet", pretrained=False), "bn"), PERSONS).train() for _ in "ab"
    ]
    for model in models:
        model(torch.rand(4, 3, 64, 32))
    states = {"model": models[0].state_dict()} | ({"ema": models[1].state_dict()} if average else {})
    checkpoint.save(tmp_path / "last.pt", config="{}", pids=[1, 2], step=5, **states)
    weights = read(tmp_path / "last.pt")
    assert weights.layout == "a run of robust-reid"
    assert weights.about == {"config": "{}", "pids": [1, 2], "step": 5}
    assert list(weights.rest) == ["head.weight", "head.bias"]
    embedding = Embedding(create_backbone("test_resnet", pretrained=False, weights=weights), "bn")
    load_neck(embedding.neck, weights)
    same(embedding, models[int(average)].eval().embedding)


def test_a_backbone_that_is_not_whole_is_refused_with_what_differs(tmp_path: Path) -> None:
    state = bot(Source())
    del state["base.layer1.0.conv1.weight"]
    state["base.layer1.0.conv2.weight"] = torch.zeros(64, 1, 7, 7)
    state["base.layer1.0.se.weight"] = torch.zeros(3)
    torch.save(state, tmp_path / "w.pth")
    with pytest.raises(CheckpointError) as error:
        create_backbone("resnet18", pretrained=False, weights=tmp_path / "w.pth")
    for part in (
        "w.pth (BoT) do not match resnet18: 98 of 100 tensors match",
        "missing: layer1.0.conv1.weight",
        "not expected: layer1.0.se.weight",
        "of a different shape: layer1.0.conv2.weight (64, 1, 7, 7) for (64, 64, 3, 3)",
    ):
        assert part in str(error.value)


def test_a_neck_of_another_size(tmp_path: Path) -> None:
    torch.save(bot(Source()), tmp_path / "w.pth")
    with pytest.raises(CheckpointError, match=r"weight of its BNNeck: expected \(9,\), got \(512,\)"):
        load_neck(nn.BatchNorm1d(9), read(tmp_path / "w.pth"))


NUMBERS = [np.float64(-0.5), np.float32(0.25), np.float16(2), np.int64(-7), np.uint8(255), np.int32(9), np.bool_(True)]


@pytest.mark.parametrize("number", NUMBERS, ids=lambda number: type(number).__name__)
@pytest.mark.parametrize("core", ["_core", "core"])  # as NumPy 2 and 1 name their own module
def test_numbers_of_numpy_are_read_by_an_allow_list(number: np.generic, core: str, tmp_path: Path) -> None:
    file, weight = tmp_path / "w.pth", torch.ones(2)
    torch.save({"model": {"x": weight}, "rank1": number}, file)
    content = file.read_bytes()
    assert content.count(b"numpy._core.multiarray") == 1
    if core == "core":  # of the same length in the pickle, and without its checksum in the old format of torch.save
        torch.save({"model": {"x": weight}, "rank1": number}, file, _use_new_zipfile_serialization=False)
        file.write_bytes(file.read_bytes().replace(b"numpy._core.multiarray", b"numpy.core.multiarray"))
    assert list(read(file).backbone) == ["x"]


@pytest.mark.parametrize("value", [np.ones(3), np.str_("x"), np.datetime64(3, "s"), Path("x"), slice(3)])
def test_everything_else_is_refused(value: object, tmp_path: Path) -> None:
    torch.save({"model": {"x": torch.ones(2)}, "extra": value}, tmp_path / "w.pth")
    with pytest.raises(CheckpointError, match="pickled Python objects are refused"):
        read(tmp_path / "w.pth")


class Forged:
    """Pickles as a NumPy scalar whose bytes are fewer than its type needs, or as one that is an object's address."""

    def __init__(self, code: str, content: bytes) -> None:
        self.code, self.content = code, content

    def __reduce__(self) -> tuple:
        maker = pickle.loads(pickle.dumps(np.float64(1).__reduce__()[0]))
        return maker, (np.dtype(self.code), self.content)


@pytest.mark.parametrize("forged", [Forged("f8", b"1234"), Forged("O", b"12345678")])
def test_a_forged_number_reaches_no_code_of_numpy(forged: Forged, tmp_path: Path) -> None:
    torch.save({"model": {"x": torch.ones(2)}, "rank1": forged}, tmp_path / "w.pth")
    with pytest.raises(CheckpointError, match="cannot be read as tensors"):
        read(tmp_path / "w.pth")
