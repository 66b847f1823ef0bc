"""OSNet: the size and cost that its authors published, torchreid's names, and timm's ways of use."""

import pytest
import timm
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

import reid.models  # noqa: F401
from reid.models.osnet import SIZES, OSBlock

PUBLISHED = {  # million parameters, million multiply-adds at 256 x 128: torchreid's model zoo
    "osnet_x1_0": (2.2, 978.9),
    "osnet_x0_75": (1.3, 571.8),
    "osnet_x0_5": (0.6, 272.9),
    "osnet_x0_25": (0.2, 82.3),
    "osnet_ibn_x1_0": (2.2, 978.9),
}
BLOCK_KEYS = [
    *("conv1.conv.weight", "conv1.bn.weight", "conv2a.conv1.weight", "conv2a.conv2.weight", "conv2a.bn.weight"),
    *("conv2b.0.conv1.weight", "conv2b.1.bn.weight", "conv2c.2.conv2.weight", "conv2d.3.conv1.weight"),
    *("gate.fc1.weight", "gate.fc1.bias", "gate.fc2.weight", "gate.fc2.bias", "conv3.conv.weight", "conv3.bn.bias"),
    *("downsample.conv.weight", "downsample.bn.running_var"),
]
KEYS = [
    *("conv1.conv.weight", "conv1.bn.weight", "conv2.2.0.conv.weight", "conv2.2.0.bn.weight", "conv3.2.0.conv.weight"),
    *("conv5.conv.weight", "conv5.bn.weight", "fc.0.weight", "fc.0.bias", "fc.1.running_mean"),
    *("classifier.weight", "classifier.bias"),
]


@pytest.mark.parametrize("name", SIZES)
def test_size_and_cost_are_the_published_ones(name: str) -> None:
    model = timm.create_model(name, num_classes=0).eval()
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        features = model(torch.zeros(1, 3, 256, 128))
    million = sum(parameter.numel() for parameter in model.parameters()) / 1e6
    assert (round(million, 1), round(counter.get_total_flops() / 2e6, 1)) == PUBLISHED[name]
    assert features.shape == (1, 512)
    assert model.num_features == 512


def test_names_are_torchreids() -> None:
    keys = timm.create_model("osnet_ibn_x1_0", num_classes=10).state_dict().keys()
    expected = {*KEYS, *(f"conv2.0.{key}" for key in BLOCK_KEYS), "conv2.1.IN.weight", "conv2.1.IN.bias"}
    assert expected <= keys
    assert not any(key.startswith(("conv2.1.downsample", "conv3.0.IN", "conv4.2")) for key in keys)


def test_streams_are_added_up_after_the_gate_that_they_share() -> None:
    block = OSBlock(64, 64).eval()
    x = torch.randn(2, 64, 5, 4)
    with torch.no_grad():
        inside = block.conv1(x)
        mixed = torch.zeros_like(inside)
        for stream in (block.conv2a, block.conv2b, block.conv2c, block.conv2d):
            y = stream(inside)
            mean = y.mean((2, 3))
            hidden = (mean @ block.gate.fc1.weight.flatten(1).T + block.gate.fc1.bias).relu()
            factor = (hidden @ block.gate.fc2.weight.flatten(1).T + block.gate.fc2.bias).sigmoid()
            mixed += y * factor[:, :, None, None]
        torch.testing.assert_close(block(x), (block.conv3(mixed) + x).relu(), rtol=1e-4, atol=1e-5)


def test_timms_ways_of_use() -> None:
    model = timm.create_model("osnet_x0_25", num_classes=7, in_chans=1).eval()
    images = torch.randn(2, 1, 64, 32)
    assert model(images).shape == (2, 7)
    assert model.forward_features(images).shape == (2, 128, 4, 2)
    assert model.forward_head(model.forward_features(images), pre_logits=True).shape == (2, 512)
    assert isinstance(model.get_classifier(), nn.Linear)
    model.reset_classifier(0, "max")
    assert isinstance(model.get_classifier(), nn.Identity)
    assert model(images).shape == (2, 512)
    assert model(images).std() > 1e-3  # features have a scale before any training
    model.set_grad_checkpointing(False)
    with pytest.raises(AssertionError, match="not supported"):
        model.set_grad_checkpointing()
