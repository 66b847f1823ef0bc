"""GoogLeNet with batch norm after every convolution, as in torchvision, without the auxiliary heads.

Layer names are those of torchvision, so that its ImageNet weights load key for key.
Source: Szegedy et al. 2015, "Going Deeper with Convolutions", Table 1.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
from torch import Tensor, nn

from reid.models.inception import ConvNormReLU, InceptionNet

__all__ = ["GoogLeNetBN"]

WIDTHS = {  # 1x1, 3x3 reduce, 3x3, 5x5 reduce, 5x5, pool projection
    "3a": (64, 96, 128, 16, 32, 32),
    "3b": (128, 128, 192, 32, 96, 64),
    "4a": (192, 96, 208, 16, 48, 64),
    "4b": (160, 112, 224, 24, 64, 64),
    "4c": (128, 128, 256, 24, 64, 64),
    "4d": (112, 144, 288, 32, 64, 64),
    "4e": (256, 160, 320, 32, 128, 128),
    "5a": (256, 160, 320, 32, 128, 128),
    "5b": (384, 192, 384, 48, 128, 128),
}
TAPS = {"conv1": 64, "conv3": 192, "inception3b": 480, "inception4e": 832, "inception5b": 1024}

_conv = partial(ConvNormReLU, eps=1e-3)


class Inception(nn.Module):
    """Four parallel branches; `widths` as in WIDTHS."""

    def __init__(self, in_chs: int, widths: tuple[int, ...]) -> None:
        super().__init__()
        one, three_reduce, three, five_reduce, five, proj = widths
        self.branch1 = _conv(in_chs, one, 1)
        self.branch2 = nn.Sequential(_conv(in_chs, three_reduce, 1), _conv(three_reduce, three, 3))
        # The paper's 5x5; torchvision's published weights have 3x3 here.
        self.branch3 = nn.Sequential(_conv(in_chs, five_reduce, 1), _conv(five_reduce, five, 3))
        self.branch4 = nn.Sequential(nn.MaxPool2d(3, stride=1, padding=1), _conv(in_chs, proj, 1))

    def forward(self, x_BCHW: Tensor) -> Tensor:
        return torch.cat([self.branch1(x_BCHW), self.branch2(x_BCHW), self.branch3(x_BCHW), self.branch4(x_BCHW)], 1)


class GoogLeNetBN(InceptionNet):
    """Images (B, in_chans, H, W) -> logits (B, K), or features (B, 1024) with `num_classes=0`.

    Args:
        in_chans: channels of the images.
        head: `num_classes`, `global_pool`, `drop_rate`, as in InceptionNet.
    """

    def __init__(self, in_chans: int = 3, **head: Any) -> None:
        super().__init__(_layers(in_chans), TAPS, in_chans=in_chans, **head)


def _layers(in_chans: int) -> dict[str, nn.Module]:
    layers: dict[str, nn.Module] = {
        "conv1": _conv(in_chans, 64, 7, 2),
        "maxpool1": nn.MaxPool2d(3, 2, ceil_mode=True),
        "conv2": _conv(64, 64, 1),
        "conv3": _conv(64, 192, 3),
        "maxpool2": nn.MaxPool2d(3, 2, ceil_mode=True),
    }
    in_chs = 192
    for name, widths in WIDTHS.items():
        if name == "4a":
            layers["maxpool3"] = nn.MaxPool2d(3, 2, ceil_mode=True)
        if name == "5a":
            layers["maxpool4"] = nn.MaxPool2d(2, 2, ceil_mode=True)
        layers[f"inception{name}"] = Inception(in_chs, widths)
        in_chs = widths[0] + widths[2] + widths[4] + widths[5]
    return layers


def checkpoint_filter_fn(state_dict: dict[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    """Remove torchvision's auxiliary heads, which are not trained in its published weights, from a state dict."""
    return {key: value for key, value in state_dict.items() if not key.startswith(("aux1.", "aux2."))}


default_cfgs = generate_default_cfgs(
    {
        "googlenet_bn.tv_in1k": dict(
            url="https://download.pytorch.org/models/googlenet-1378be20.pth",
            # torchvision normalises with ImageNet's mean and std, and its transform_input then converts to this.
            mean=(0.5, 0.5, 0.5),
            std=(0.5, 0.5, 0.5),
            input_size=(3, 224, 224),
            pool_size=(7, 7),
            crop_pct=0.875,
            interpolation="bilinear",
            num_classes=1000,
            first_conv="conv1.conv",
            classifier="fc",
            license="bsd-3-clause",
            origin_url="https://github.com/pytorch/vision",
            paper_ids="arXiv:1409.4842",
        )
    }
)


@register_model
def googlenet_bn(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """GoogLeNet with batch norm; pretrained weights: torchvision's, ImageNet-1k."""
    return build_model_with_cfg(
        GoogLeNetBN, "googlenet_bn", pretrained, pretrained_filter_fn=checkpoint_filter_fn, **kwargs
    )
