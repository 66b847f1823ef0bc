"""The two Inception nets are the published ones: against torchvision and a reference written from the table.

Shapes: B batch, C channels, H height, W width, D feature, K classes.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import timm
import torch
import torchvision
from torch import Tensor, nn
from torch.nn import functional as F

import reid.models  # noqa: F401  registers the nets
from reid.models.backbone import create_backbone
from reid.models.bn_inception import HalvingMaxPool

NETS = ("googlenet_bn", "bn_inception")

# Ioffe & Szegedy 2015, Figure 5, with the input channels and the kind of pooling of each block.
TABLE = [
    ("3a", 192, 64, 64, 64, 64, 96, "avg", 32),
    ("3b", 256, 64, 64, 96, 64, 96, "avg", 64),
    ("3c", 320, 0, 128, 160, 64, 96, "max", 0),
    ("4a", 576, 224, 64, 96, 96, 128, "avg", 128),
    ("4b", 576, 192, 96, 128, 96, 128, "avg", 128),
    ("4c", 576, 160, 128, 160, 128, 160, "avg", 128),
    ("4d", 608, 96, 128, 192, 160, 192, "avg", 128),
    ("4e", 608, 0, 128, 192, 192, 256, "max", 0),
    ("5a", 1056, 352, 192, 320, 160, 224, "avg", 128),
    ("5b", 1024, 352, 192, 320, 192, 224, "max", 128),
]


def public_convolutions() -> dict[str, tuple[int, int, int]]:
    """Public layer name -> (input channels, output channels, kernel size)."""
    convs = {"conv1_7x7_s2": (3, 64, 7), "conv2_3x3_reduce": (64, 64, 1), "conv2_3x3": (64, 192, 3)}
    for block, chs, one, three_reduce, three, double_reduce, double, _, proj in TABLE:
        rows = {
            "1x1": (chs, one, 1),
            "3x3_reduce": (chs, three_reduce, 1),
            "3x3": (three_reduce, three, 3),
            "double_3x3_reduce": (chs, double_reduce, 1),
            "double_3x3_1": (double_reduce, double, 3),
            "double_3x3_2": (double, double, 3),
            "pool_proj": (chs, proj, 1),
        }
        convs |= {f"inception_{block}_{name}": row for name, row in rows.items() if row[1]}
    return convs


def random_norm(chs: int, rng: torch.Generator) -> dict[str, Tensor]:
    return {
        "weight": 0.5 + torch.rand(chs, generator=rng),
        "bias": 0.3 * torch.randn(chs, generator=rng),
        "running_mean": 0.3 * torch.randn(chs, generator=rng),
        "running_var": 0.5 + torch.rand(chs, generator=rng),
    }


@pytest.fixture(scope="module")
def public() -> dict[str, Tensor]:
    """Random weights in the public layout, as old as the public file: no batch counters."""
    rng = torch.Generator().manual_seed(1)
    state: dict[str, Tensor] = {}
    for name, (in_chs, out_chs, kernel) in public_convolutions().items():
        fan_in = in_chs * kernel**2
        state[f"{name}.weight"] = torch.randn(out_chs, in_chs, kernel, kernel, generator=rng) * (2 / fan_in) ** 0.5
        state[f"{name}.bias"] = 0.1 * torch.randn(out_chs, generator=rng)
        state |= {f"{name}_bn.{leaf}": value for leaf, value in random_norm(out_chs, rng).items()}
    state["conv1_7x7_s2.weight"] /= 60  # its input is in 0-255
    state["last_linear.weight"] = 0.03 * torch.randn(5, 1024, generator=rng)
    state["last_linear.bias"] = torch.randn(5, generator=rng)
    return state


def reference_features(state: dict[str, Tensor], x_BCHW: Tensor) -> Tensor:
    """The public net's last feature map from BGR images in 0-255 less the mean, one functional call after another."""

    def conv(x: Tensor, name: str, stride: int = 1) -> Tensor:
        weight = state[f"{name}.weight"]
        x = F.conv2d(x, weight, state[f"{name}.bias"], stride, padding=weight.shape[-1] // 2)
        mean, var, scale, shift = (
            state[f"{name}_bn.{leaf}"] for leaf in ("running_mean", "running_var", "weight", "bias")
        )
        x = (x - mean[:, None, None]) / (var[:, None, None] + 1e-5).sqrt()
        return F.relu(x * scale[:, None, None] + shift[:, None, None])

    x = F.max_pool2d(conv(x_BCHW, "conv1_7x7_s2", 2), 3, 2, ceil_mode=True)
    x = F.max_pool2d(conv(conv(x, "conv2_3x3_reduce"), "conv2_3x3"), 3, 2, ceil_mode=True)
    for block, _, one, _, _, _, _, pool, proj in TABLE:
        name, stride = f"inception_{block}_", 1 if one else 2
        branches = [conv(x, name + "1x1")] if one else []
        branches.append(conv(conv(x, name + "3x3_reduce"), name + "3x3", stride))
        double = conv(conv(x, name + "double_3x3_reduce"), name + "double_3x3_1")
        branches.append(conv(double, name + "double_3x3_2", stride))
        if pool == "avg":
            pooled = F.avg_pool2d(x, 3, 1, padding=1, ceil_mode=True, count_include_pad=True)
        else:
            pooled = F.max_pool2d(x, 3, stride, padding=1 if one else 0, ceil_mode=True)
        x = torch.cat([*branches, conv(pooled, name + "pool_proj") if proj else pooled], 1)
    return x


@pytest.fixture(scope="module")
def public_file(public: dict[str, Tensor], tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("public") / "bn_inception.pth"
    torch.save(public, path, _use_new_zipfile_serialization=False)  # the public file is as old as this format
    return path


@pytest.fixture(scope="module")
def rgb_BCHW() -> Tensor:
    return torch.rand(2, 3, 64, 32, generator=torch.Generator().manual_seed(2), dtype=torch.float64)


def through_timm(name: str, path: Path, num_classes: int, **kwargs: object) -> nn.Module:
    overlay = dict(file=str(path)) | (dict(num_classes=num_classes) if num_classes else {})
    kwargs |= dict(pretrained=True, pretrained_cfg_overlay=overlay, num_classes=num_classes)
    return timm.create_model(name, **kwargs).double().eval()


def normalise(model: nn.Module, x_BCHW: Tensor) -> Tensor:
    mean, std = (torch.tensor(model.pretrained_cfg[key], dtype=x_BCHW.dtype) for key in ("mean", "std"))
    return (x_BCHW - mean[:, None, None]) / std[:, None, None]


@pytest.fixture(scope="module")
def torchvision_net() -> nn.Module:
    rng = torch.Generator().manual_seed(3)
    net = torchvision.models.GoogLeNet(num_classes=5, aux_logits=True, transform_input=True, init_weights=False)
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.load_state_dict(random_norm(module.num_features, rng), strict=False)
    return net.double().eval()


@pytest.fixture(scope="module")
def torchvision_file(torchvision_net: nn.Module, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("torchvision") / "googlenet.pth"
    torch.save(torchvision_net.state_dict(), path)
    return path


def test_googlenet_bn_gives_torchvisions_logits_and_features(
    torchvision_net: nn.Module, torchvision_file: Path, rgb_BCHW: Tensor
) -> None:
    """torchvision takes ImageNet's normalisation and transforms it; ours takes what its pretrained_cfg says."""
    ours = through_timm("googlenet_bn", torchvision_file, num_classes=5)
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    theirs_BCHW = (rgb_BCHW - mean[:, None, None]) / std[:, None, None]
    pooled: list[Tensor] = []
    torchvision_net.avgpool.register_forward_hook(lambda module, args, out: pooled.append(out.flatten(1)))
    logits_BK = torchvision_net(theirs_BCHW)
    torch.testing.assert_close(ours(normalise(ours, rgb_BCHW)), logits_BK, rtol=1e-5, atol=1e-7)
    bare = through_timm("googlenet_bn", torchvision_file, num_classes=0)
    torch.testing.assert_close(bare(normalise(bare, rgb_BCHW)), pooled[0], rtol=1e-5, atol=1e-7)
    assert logits_BK.std() > 1e-3


def test_googlenet_bn_takes_every_key_of_torchvision_but_the_auxiliary_heads(torchvision_net: nn.Module) -> None:
    theirs = {k: v.shape for k, v in torchvision_net.state_dict().items() if not k.startswith("aux")}
    assert {k: v.shape for k, v in timm.create_model("googlenet_bn", num_classes=5).state_dict().items()} == theirs
    assert timm.get_pretrained_cfg("googlenet_bn").url == torchvision.models.GoogLeNet_Weights.DEFAULT.url


@pytest.fixture(scope="module")
def public_net(public_file: Path) -> nn.Module:
    return through_timm("bn_inception", public_file, num_classes=5)


def test_the_public_table_has_the_published_number_of_parameters() -> None:
    numbers = (c * d * k * k + d + 2 * d for c, d, k in public_convolutions().values())
    assert sum(numbers) + 1024 * 1000 + 1000 == 11_295_240
    assert sum(p.numel() for p in timm.create_model("bn_inception").parameters()) == 11_295_240


def test_bn_inception_on_rgb_gives_the_public_features_on_bgr(
    public: dict[str, Tensor], public_file: Path, public_net: nn.Module, rgb_BCHW: Tensor
) -> None:
    state = {key: value.double() for key, value in public.items()}
    bgr_BCHW = rgb_BCHW[:, [2, 1, 0]] * 255 - torch.tensor([104.0, 117.0, 128.0], dtype=torch.float64)[:, None, None]
    expected_BD = reference_features(state, bgr_BCHW).mean((2, 3))
    bare = through_timm("bn_inception", public_file, num_classes=0)
    torch.testing.assert_close(bare(normalise(bare, rgb_BCHW)), expected_BD, rtol=1e-6, atol=1e-8)
    logits_BK = F.linear(expected_BD, state["last_linear.weight"], state["last_linear.bias"])
    torch.testing.assert_close(public_net(normalise(public_net, rgb_BCHW)), logits_BK, rtol=1e-6, atol=1e-8)
    assert expected_BD.std(0).max() > 1e-3  # the features do depend on the image


def test_bn_inception_takes_other_copies_of_the_public_file(
    public: dict[str, Tensor], public_net: nn.Module, tmp_path: Path
) -> None:
    """Wrapped, with a prefix, the classifier under another name, the batch norms with a leading dimension."""
    state = {f"module.{k}".replace("last_linear", "fc"): v[None] if "_bn." in k else v for k, v in public.items()}
    torch.save({"state_dict": state, "epoch": 3}, tmp_path / "copy.pth")
    copy = through_timm("bn_inception", tmp_path / "copy.pth", num_classes=5)
    torch.testing.assert_close(copy.state_dict(), public_net.state_dict(), rtol=0, atol=0)


def test_grey_images_get_the_sum_over_the_public_channels(
    public_file: Path, public_net: nn.Module, rgb_BCHW: Tensor
) -> None:
    grey = through_timm("bn_inception", public_file, num_classes=5, in_chans=1)
    three_BCHW = rgb_BCHW[:, :1].expand(-1, 3, -1, -1)
    torch.testing.assert_close(grey(rgb_BCHW[:, :1]), public_net(three_BCHW), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("side", range(1, 10))
def test_halving_max_pool_covers_every_pixel_and_is_caffes_on_even_sides(side: int) -> None:
    x_BCHW = torch.rand(1, 2, side, side + 1, generator=torch.Generator().manual_seed(side))
    H, W = (side + 1) // 2, (side + 2) // 2
    rows = [[x_BCHW[..., 2 * i : 2 * i + 3, 2 * j : 2 * j + 3].amax((2, 3)) for j in range(W)] for i in range(H)]
    expected_BCHW = torch.stack([torch.stack(row, -1) for row in rows], -2)
    torch.testing.assert_close(HalvingMaxPool()(x_BCHW), expected_BCHW, rtol=0, atol=0)
    even = x_BCHW[..., : side // 2 * 2, : side // 2 * 2]
    if even.numel():
        torch.testing.assert_close(HalvingMaxPool()(even), F.max_pool2d(even, 3, 2, ceil_mode=True), rtol=0, atol=0)


@pytest.mark.parametrize("name", NETS)
def test_a_saved_net_comes_back_as_it_was(name: str, tmp_path: Path, rgb_BCHW: Tensor) -> None:
    """In particular the channels of bn_inception, reversed when public weights come in, are not reversed again."""
    net = timm.create_model(name, num_classes=5)
    torch.save(net.state_dict(), tmp_path / "own.pth")
    again = through_timm(name, tmp_path / "own.pth", num_classes=5)
    torch.testing.assert_close(again(rgb_BCHW), net.double().eval()(rgb_BCHW), rtol=0, atol=0)


def test_public_files_through_create_backbone(
    public_file: Path, public_net: nn.Module, torchvision_file: Path, torchvision_net: nn.Module
) -> None:
    files = (("bn_inception", public_file, public_net), ("googlenet_bn", torchvision_file, torchvision_net))
    for name, path, net in files:
        got = create_backbone(name, pretrained=False, weights=path).double().state_dict()
        full = net.state_dict()
        assert set(full) - set(got) == {key for key in full if key.startswith(("fc.", "aux"))}
        torch.testing.assert_close(got, {key: full[key] for key in got}, rtol=1e-6, atol=1e-6)
