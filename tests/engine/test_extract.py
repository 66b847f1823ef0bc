"""Extraction against a plain loop over tracklets, and networks with their normalisation folded away against the networks themselves."""

from typing import Any

import numpy as np
import pytest
import timm
import torch
from timm.layers import BatchNormAct2d
from torch import nn

import reid.models  # noqa: F401  registers the nets
from reid.augment import Preprocess
from reid.datasets.damaged import DamagedImages
from reid.datasets.decoding import decode
from reid.engine.extract import extract, extract_shards, fingerprint
from reid.errors import DataError
from reid.models.fused import fused
from reid.models.pooling import POOLINGS
from reid.runtime import Runtime
from reid.tracklets import Split
from tests.engine.conftest import CPU, FRAMES, TRACKLETS

PREPROCESS = Preprocess([16, 8], [14, 7], [0.5] * 3, [0.5] * 3)
SIZE = (64, 32)


def randomised(network: nn.Module) -> nn.Module:
    """As after training: statistics and affine parameters that are not the identity's."""
    rng = torch.Generator().manual_seed(0)
    for norm in network.modules():
        if isinstance(norm, (nn.BatchNorm1d, nn.BatchNorm2d)):
            norm.running_mean.normal_(0, 0.3, generator=rng)
            norm.running_var.uniform_(0.5, 2, generator=rng)
            nn.init.uniform_(norm.weight, 0.5, 1.5, generator=rng)
            nn.init.normal_(norm.bias, 0, 0.3, generator=rng)
    return network


class Small(nn.Module):
    num_features = 8

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.bn = nn.Conv2d(3, 8, 3, stride=2), nn.BatchNorm2d(8)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.bn(self.conv(images)).relu().mean((2, 3))


def small() -> nn.Module:
    torch.manual_seed(0)
    return randomised(Small())


def options(pooling: str = "mean", **given: Any) -> dict[str, Any]:
    return {"dim": 8, "pooling": POOLINGS[pooling], "batch_size": 5, "workers": 0, **given}


@torch.no_grad()
def frame_features(model: nn.Module, split: Split, tracklet: int) -> torch.Tensor:
    images = [torch.from_numpy(decode(split.path(f)))[None] for f in range(split.start[tracklet], split.stop[tracklet])]
    return torch.cat([model.eval()(PREPROCESS(image, torch.device("cpu"))) for image in images])


@pytest.mark.parametrize("pooling", ["mean", "max"])
@pytest.mark.parametrize("batch_size", [1, 5, 64])
def test_equals_a_plain_loop_over_tracklets(split: Split, pooling: str, batch_size: int) -> None:
    model = small()
    found = extract(model, PREPROCESS, split, CPU, **options(pooling, batch_size=batch_size))
    pooled = [frame_features(model, split, i) for i in range(TRACKLETS)]
    rows = torch.stack([part.mean(0) if pooling == "mean" else part.amax(0) for part in pooled])
    expected = rows / rows.norm(dim=1, keepdim=True)
    np.testing.assert_allclose(found, expected.numpy(), rtol=0, atol=1e-6)
    assert found.dtype == np.float32


def test_the_model_stays_as_it_is(split: Split) -> None:
    model = small().train()
    before = fingerprint(model, PREPROCESS, "mean")
    extract(model, PREPROCESS, split, CPU, **options())
    assert model.training
    assert model.bn.training
    assert fingerprint(model, PREPROCESS, "mean") == before
    model(torch.rand(4, 3, 14, 7)).sum().backward()  # its tensors are not those of inference


def test_the_number_of_threads_does_not_show(split: Split) -> None:
    model, before = small(), torch.get_num_threads()
    found = []
    try:
        for threads in (1, 3):
            torch.set_num_threads(threads)
            found.append(extract(model, PREPROCESS, split, CPU, **options()))
            assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)
    assert np.array_equal(*found)


def test_shards_are_those_rows_of_the_whole(split: Split) -> None:
    model, shards = small(), [np.array([4, 1]), np.array([0, 2, 3]), np.array([5])]
    whole = extract(model, PREPROCESS, split, CPU, **options())
    parts = list(extract_shards(model, PREPROCESS, split, CPU, shards, **options()))
    for shard, part in zip(shards, parts, strict=True):
        np.testing.assert_allclose(part, whole[shard], rtol=0, atol=1e-6)


def test_bfloat16_is_near_float32(split: Split) -> None:
    model = small()
    rows = [
        extract(model, PREPROCESS, split, Runtime(torch.device("cpu"), dtype), **options())
        for dtype in (torch.float32, torch.bfloat16)
    ]
    assert 1 - (rows[0] * rows[1]).sum(1).min() < 1e-3
    assert not np.array_equal(*rows)


def test_damaged_images_stop_it(split: Split) -> None:
    split.path(6).write_bytes(b"")
    with pytest.raises(DataError, match=r"06\.png"):
        extract(small(), PREPROCESS, split, CPU, **options())


@pytest.mark.parametrize("pooling", ["mean", "max"])
@pytest.mark.parametrize("batch_size", [1, 3, 5])
def test_a_tracklet_with_damaged_images_is_its_other_frames(split: Split, pooling: str, batch_size: int) -> None:
    model = small()
    whole = extract(model, PREPROCESS, split, CPU, **options(pooling, batch_size=batch_size))
    left = frame_features(model, split, 1)[[0, 3]]  # frames 4 and 7
    for frame in (5, 6):
        split.path(frame).write_bytes(b"not an image")
    damaged = DamagedImages("skip")
    found = extract(model, PREPROCESS, split, CPU, **options(pooling, batch_size=batch_size, damaged=damaged))
    expected = nn.functional.normalize(left.mean(0) if pooling == "mean" else left.amax(0), dim=0)
    np.testing.assert_allclose(found[1], expected.numpy(), rtol=0, atol=1e-6)
    assert np.array_equal(np.delete(found, 1, 0), np.delete(whole, 1, 0)) or batch_size != 1
    np.testing.assert_allclose(np.delete(found, 1, 0), np.delete(whole, 1, 0), rtol=0, atol=1e-6)
    assert (damaged.count, list(damaged.files)) == (2, [str(split.path(5)), str(split.path(6))])


def test_a_tracklet_without_images_is_named(split: Split) -> None:
    for frame in range(2 * FRAMES, 3 * FRAMES):
        split.path(frame).unlink()
    with pytest.raises(DataError, match=f"none of the 4 images of tracklet {split.key(2)} can be read"):
        extract(small(), PREPROCESS, split, CPU, **options(damaged=DamagedImages("skip")))


@pytest.mark.parametrize(
    ("name", "left"),
    [("googlenet_bn", 0), ("bn_inception", 0), ("resnet10t", 0), ("mobilenetv3_small_050", 0), ("densenet121", 62)],
)
def test_folding_keeps_the_features(name: str, left: int) -> None:
    model = randomised(timm.create_model(name, num_classes=0)).eval()
    network = fused(model.train(), torch.zeros(1, 3, *SIZE))
    assert model.training
    model.eval()
    norms = [module for module in network.modules() if isinstance(module, nn.BatchNorm2d)]
    assert len(norms) == left  # in a DenseNet most normalisations come before their convolution
    images = torch.randn(3, 3, *SIZE, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        expected, found = (nn.functional.normalize(net(images)) for net in (model, network))
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)


class Awkward(nn.Module):
    """Pairs that must stay: an output that is taken twice, layers that run twice, a weight that is not used as it is."""

    def __init__(self) -> None:
        super().__init__()
        self.taken_twice, self.norm_1 = nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4)
        self.run_twice, self.norm_2 = nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4)
        self.scaled, self.norm_3 = Doubled(4, 4, 1), nn.BatchNorm2d(4)
        self.alone = nn.Conv2d(4, 4, 1)
        self.viewed, self.norm_4 = nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4)
        self.last, self.norm_5 = nn.Conv2d(4, 4, 1), BatchNormAct2d(4, act_layer=nn.Hardswish)
        self.alias = nn.ModuleList([self.last, self.norm_5])  # the network runs it under this name

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        taken = self.taken_twice(x)
        x = torch.cat([self.norm_1(taken)[:, :2], taken[:, 2:]], 1)
        for _ in range(2):
            x = self.norm_2(self.run_twice(x))
        x = self.alone(self.norm_3(self.scaled(x)))
        viewed = self.viewed(x)
        assert viewed.shape[1] == viewed.size(1) == 4
        x = self.norm_4(viewed.flip(1))
        for layer in self.alias:
            x = layer(x)
        return x.mean((2, 3))


class Doubled(nn.Conv2d):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return nn.functional.conv2d(x, 2 * self.weight, self.bias)


def test_only_what_can_be_folded_is() -> None:
    torch.manual_seed(0)
    model = randomised(Awkward()).eval()
    network = fused(model, torch.zeros(1, 3, 4, 4))
    assert [name for name, norm in network.named_modules() if isinstance(norm, nn.BatchNorm2d)] == [
        f"norm_{i}" for i in (1, 2, 3, 4)
    ]
    images = torch.randn(2, 3, 4, 4)
    torch.testing.assert_close(network(images), model(images), rtol=0, atol=1e-5)
