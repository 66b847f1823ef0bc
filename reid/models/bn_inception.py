"""Inception with batch norm (BN-Inception), in the layout of the public weights derived from Caffe.

Source: Ioffe & Szegedy 2015, "Batch Normalization", Figure 5. The public weights keep a bias in every convolution.
"""

from __future__ import annotations

import re
from functools import partial
from typing import Any

import torch
from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
from torch import Tensor, nn
from torch.nn import functional as F

from reid.models.inception import ConvNormReLU, InceptionNet

__all__ = ["BNInception"]

WIDTHS = {  # 1x1, 3x3 reduce, 3x3, double 3x3 reduce, double 3x3 (both), pool projection; None: a block of stride 2
    "3a": (64, 64, 64, 64, 96, 32),
    "3b": (64, 64, 96, 64, 96, 64),
    "3c": (None, 128, 160, 64, 96, None),
    "4a": (224, 64, 96, 96, 128, 128),
    "4b": (192, 96, 128, 96, 128, 128),
    "4c": (160, 128, 160, 128, 160, 128),
    "4d": (96, 128, 192, 160, 192, 128),
    "4e": (None, 128, 192, 192, 256, None),
    "5a": (352, 192, 320, 160, 224, 128),
    "5b": (352, 192, 320, 192, 224, 128),
}
TAPS = {"conv1_7x7_s2": 64, "conv2_3x3": 192, "inception_3b": 320, "inception_4d": 608, "inception_5b": 1024}

_conv = partial(ConvNormReLU, bias=True)


class Inception(nn.ModuleDict):
    """Up to four parallel branches, named as in the public weights; `widths` as in WIDTHS."""

    def __init__(self, in_chs: int, widths: tuple[int | None, ...], pool: nn.Module) -> None:
        super().__init__()
        one, three_reduce, three, double_reduce, double, proj = widths
        assert three_reduce and three and double_reduce and double
        stride = 1 if one else 2
        if one:
            self["1x1"] = _conv(in_chs, one, 1)
        self["3x3_reduce"] = _conv(in_chs, three_reduce, 1)
        self["3x3"] = _conv(three_reduce, three, 3, stride)
        self["double_3x3_reduce"] = _conv(in_chs, double_reduce, 1)
        self["double_3x3_1"] = _conv(double_reduce, double, 3)
        self["double_3x3_2"] = _conv(double, double, 3, stride)
        self["pool"] = pool
        if proj:
            self["pool_proj"] = _conv(in_chs, proj, 1)
        self.out_chs = (one or 0) + three + double + (proj or in_chs)

    def _chain(self, x_BCHW: Tensor, *names: str) -> Tensor:
        for name in names:
            if name in self:
                x_BCHW = self[name](x_BCHW)
        return x_BCHW

    def forward(self, x_BCHW: Tensor) -> Tensor:
        branches = [
            self._chain(x_BCHW, "3x3_reduce", "3x3"),
            self._chain(x_BCHW, "double_3x3_reduce", "double_3x3_1", "double_3x3_2"),
            self._chain(x_BCHW, "pool", "pool_proj"),
        ]
        return torch.cat([self["1x1"](x_BCHW), *branches] if "1x1" in self else branches, 1)


class HalvingMaxPool(nn.Module):
    """Max pooling 3x3 of stride 2, rounding up as Caffe does: sides n -> ceil(n / 2)."""

    def forward(self, x_BCHW: Tensor) -> Tensor:
        # With an odd side, the output would be one shorter than that of the parallel 3x3 convolutions of stride 2. Even
        # sides, the only ones in the training of the public weights, are not padded. Inputs follow a ReLU, so 0 is neutral.
        odd_H, odd_W = x_BCHW.shape[-2] % 2, x_BCHW.shape[-1] % 2
        if odd_H or odd_W:
            x_BCHW = F.pad(x_BCHW, (0, odd_W, 0, odd_H))
        return F.max_pool2d(x_BCHW, 3, stride=2, ceil_mode=True)


class BNInception(InceptionNet):
    """Images (B, in_chans, H, W) -> logits (B, K), or features (B, 1024) with `num_classes=0`.

    Args:
        in_chans: channels of the images.
        head: `num_classes`, `global_pool`, `drop_rate`, as in InceptionNet.
    """

    def __init__(self, in_chans: int = 3, **head: Any) -> None:
        super().__init__(_layers(in_chans), TAPS, in_chans=in_chans, **head)


def _layers(in_chans: int) -> dict[str, nn.Module]:
    layers: dict[str, nn.Module] = {
        "conv1_7x7_s2": _conv(in_chans, 64, 7, 2),
        "pool1_3x3_s2": nn.MaxPool2d(3, 2, ceil_mode=True),
        "conv2_3x3_reduce": _conv(64, 64, 1),
        "conv2_3x3": _conv(64, 192, 3),
        "pool2_3x3_s2": nn.MaxPool2d(3, 2, ceil_mode=True),
    }
    in_chs = 192
    for name, widths in WIDTHS.items():
        block = Inception(in_chs, widths, _pool(name))
        layers[f"inception_{name}"], in_chs = block, block.out_chs
    return layers


def _pool(block: str) -> nn.Module:
    if block in ("3c", "4e"):
        return HalvingMaxPool()
    return nn.MaxPool2d(3, 1, padding=1) if block == "5b" else nn.AvgPool2d(3, 1, padding=1)


def checkpoint_filter_fn(state_dict: dict[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    """Convert the public weights to this network's key names and to RGB images; a state dict of this network is returned unchanged.

    The public network takes BGR: reversing the input channels of its first convolution gives the same features from RGB.
    The two layouts are distinguished by key names, so nothing is reversed twice.
    """
    if "conv1_7x7_s2.weight" not in state_dict:
        return state_dict
    renamed = {_own_key(key): value for key, value in state_dict.items()}
    for key, value in renamed.items():
        # Some copies, written before PyTorch 0.4, hold the batch norm parameters as (1, C).
        if ".bn." in key and value.ndim == 2:
            renamed[key] = value.squeeze(0)
    renamed["conv1_7x7_s2.conv.weight"] = renamed["conv1_7x7_s2.conv.weight"].flip(1)
    return renamed


def _own_key(public: str) -> str:
    """`inception_3a_1x1_bn.weight` -> `inception_3a.1x1.bn.weight`; the classifier is `fc`."""
    layer, _, leaf = public.rpartition(".")
    if layer in ("last_linear", "fc"):
        return f"fc.{leaf}"
    part = "bn" if layer.endswith("_bn") else "conv"
    own = re.sub(r"^(inception_\d[a-e])_", r"\1.", layer.removesuffix("_bn"))
    return f"{own}.{part}.{leaf}"


default_cfgs = generate_default_cfgs(
    {
        "bn_inception.caffe_in1k": dict(
            url="http://data.lip6.fr/cadene/pretrainedmodels/bn_inception-52deb4733.pth",
            # The public network subtracts 104, 117, 128 (blue, green, red) from pixels in 0-255; here for RGB in [0, 1].
            mean=(128 / 255, 117 / 255, 104 / 255),
            std=(1 / 255, 1 / 255, 1 / 255),
            input_size=(3, 224, 224),
            pool_size=(7, 7),
            crop_pct=0.875,
            interpolation="bilinear",
            num_classes=1000,
            first_conv="conv1_7x7_s2.conv",
            classifier="fc",
            license="bsd-3-clause",
            origin_url="https://github.com/Cadene/pretrained-models.pytorch",
            paper_ids="arXiv:1502.03167",
        )
    }
)


@register_model
def bn_inception(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """Inception with batch norm; pretrained weights: the public ones derived from Caffe, ImageNet-1k."""
    return build_model_with_cfg(
        BNInception, "bn_inception", pretrained, pretrained_filter_fn=checkpoint_filter_fn, **kwargs
    )
