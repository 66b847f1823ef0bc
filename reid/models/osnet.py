"""OSNet, a network for person re-identification: each block has streams of four scales, which a gate weights per channel.

Layer names are those of torchreid, so that its weights load key for key; `benchmarks/osnet.py` compares the outputs.
Source: Zhou et al., "Omni-Scale Feature Learning for Person Re-Identification", ICCV 2019; the variant with instance normalisation,
"Learning Generalisable Omni-Scale Representations for Person Re-Identification", TPAMI 2021.

Shapes: B batch, C channels, H height, W width, K classes.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from timm.layers import SelectAdaptivePool2d
from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
from torch import Tensor, nn
from torch.nn import functional as F

__all__ = ["OSNet"]

WIDTHS = (64, 256, 384, 512)  # of the stem and the three stages, at x1.0
REDUCTION, GATE_REDUCTION = 4, 16  # factors by which channels are reduced inside a block, and inside its gate
FEATURES = 512

_instance_norm = partial(nn.InstanceNorm2d, affine=True)


class ConvNorm(nn.Module):
    """Convolution with padding kernel_size // 2, norm, and ReLU if `act`; parameters `conv.*` and `bn.*`."""

    def __init__(
        self,
        in_chs: int,
        out_chs: int,
        kernel_size: int = 1,
        stride: int = 1,
        *,
        norm: Callable[[int], nn.Module] = nn.BatchNorm2d,
        act: bool = True,
    ) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_chs, out_chs, kernel_size, stride, padding=kernel_size // 2, bias=False)
        self.bn = norm(out_chs)
        self.act = nn.ReLU(inplace=True) if act else nn.Identity()

    def forward(self, x_BCHW: Tensor) -> Tensor:
        return self.act(self.bn(self.conv(x_BCHW)))


class LightConv(nn.Module):
    """Factorised 3x3 convolution: 1x1 across channels, then depthwise 3x3; norm and ReLU after the second."""

    def __init__(self, chs: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(chs, chs, 1, bias=False)
        self.conv2 = nn.Conv2d(chs, chs, 3, padding=1, groups=chs, bias=False)
        self.bn = nn.BatchNorm2d(chs)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        return F.relu(self.bn(self.conv2(self.conv1(x_BCHW))), inplace=True)


class Gate(nn.Module):
    """Channel gate: multiplies each channel by a factor in (0, 1), computed from the channel means by a small network."""

    def __init__(self, chs: int) -> None:
        super().__init__()
        self.fc1 = nn.Conv2d(chs, chs // GATE_REDUCTION, 1)
        self.fc2 = nn.Conv2d(chs // GATE_REDUCTION, chs, 1)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        mean_BC11 = x_BCHW.mean((2, 3), keepdim=True)
        return x_BCHW * torch.sigmoid(self.fc2(F.relu(self.fc1(mean_BC11), inplace=True)))


class OSBlock(nn.Module):
    """Residual block of four streams of 1 to 4 light convolutions; a shared gate is applied to each before they are added."""

    def __init__(self, in_chs: int, out_chs: int, instance_norm: bool = False) -> None:
        super().__init__()
        chs = out_chs // REDUCTION
        self.conv1 = ConvNorm(in_chs, chs)
        self.conv2a = LightConv(chs)
        self.conv2b, self.conv2c, self.conv2d = (
            nn.Sequential(*(LightConv(chs) for _ in range(depth))) for depth in (2, 3, 4)
        )
        self.gate = Gate(chs)
        self.conv3 = ConvNorm(chs, out_chs, act=False)
        self.downsample = nn.Identity() if in_chs == out_chs else ConvNorm(in_chs, out_chs, act=False)
        self.IN = _instance_norm(out_chs) if instance_norm else nn.Identity()

    def forward(self, x_BCHW: Tensor) -> Tensor:
        inside = self.conv1(x_BCHW)
        streams = (self.conv2a, self.conv2b, self.conv2c, self.conv2d)
        first, *others = (self.gate(stream(inside)) for stream in streams)
        return F.relu(self.IN(self.conv3(sum(others, first)) + self.downsample(x_BCHW)))


class OSNet(nn.Module):
    """Images (B, in_chans, H, W) -> logits (B, K), or features (B, 512) with `num_classes=0`.

    Args:
        width: factor for the numbers of channels: 1, 0.75, 0.5 or 0.25.
        instance_norm: use instance normalisation in the stem and at the end of the blocks of the first stage (IBN).
        num_classes: K; 0 for no classifier.
        in_chans: channels of the images.
        global_pool: name of a pooling of timm.
        drop_rate: dropout before the classifier, in [0, 1].
    """

    def __init__(
        self,
        width: float = 1.0,
        instance_norm: bool = False,
        num_classes: int = 1000,
        in_chans: int = 3,
        global_pool: str = "avg",
        drop_rate: float = 0.0,
    ) -> None:
        super().__init__()
        self.in_chans = in_chans
        stem, *stages = (int(width * chs) for chs in WIDTHS)
        self.conv1 = ConvNorm(in_chans, stem, 7, 2, norm=_instance_norm if instance_norm else nn.BatchNorm2d)
        self.maxpool = nn.MaxPool2d(3, 2, padding=1)
        self.conv2 = _stage(stem, stages[0], instance_norm=instance_norm)
        self.conv3 = _stage(stages[0], stages[1])
        self.conv4 = _stage(stages[1], stages[2], thinned=False)
        self.conv5 = ConvNorm(stages[2], stages[2])
        self.global_pool = SelectAdaptivePool2d(pool_type=global_pool, flatten=True)
        self.fc = nn.Sequential(nn.Linear(stages[2], FEATURES), nn.BatchNorm1d(FEATURES), nn.ReLU(inplace=True))
        self.num_features = self.head_hidden_size = FEATURES
        self.head_drop = nn.Dropout(drop_rate)
        self.classifier: nn.Module
        self.reset_classifier(num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):  # as in the Inception nets: preserves the scale before training
                nn.init.kaiming_normal_(module.weight, mode="fan_in", nonlinearity="relu")
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def forward_features(self, x_BCHW: Tensor) -> Tensor:
        """Compute the feature map (B, 512 · width, ~H/16, ~W/16)."""
        x_BCHW = self.maxpool(self.conv1(x_BCHW))
        return self.conv5(self.conv4(self.conv3(self.conv2(x_BCHW))))

    def forward_head(self, x_BCHW: Tensor, pre_logits: bool = False) -> Tensor:
        """Compute logits (B, K) of a feature map; features (B, 512) with `pre_logits` or without a classifier."""
        x = self.head_drop(self.fc(self.global_pool(x_BCHW)))
        return x if pre_logits else self.classifier(x)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        return self.forward_head(self.forward_features(x_BCHW))

    def get_classifier(self) -> nn.Module:
        """Return the classifier, or the identity if there is none."""
        return self.classifier

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """Replace the classifier by a new one of `num_classes`, or remove it with 0; `global_pool` None keeps the pooling."""
        if global_pool is not None:
            self.global_pool = SelectAdaptivePool2d(pool_type=global_pool, flatten=True)
        self.num_classes = num_classes
        like = self.conv1.conv.weight
        classifier = nn.Linear(FEATURES, num_classes) if num_classes else nn.Identity()
        self.classifier = classifier.to(like.device, like.dtype)

    @torch.jit.ignore
    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """Return patterns that group parameters by layer, for timm's layer-wise learning rate decay."""
        blocks = r"^conv([2-5])" if coarse else [(r"^conv([2-4])\.(\d+)", None), (r"^conv5", (99,))]
        return {"stem": r"^conv1\.", "blocks": blocks}

    @torch.jit.ignore
    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Not supported, as in the Inception networks: recomputation would update batch norm statistics twice per batch."""
        assert not enable, "gradient checkpointing not supported"


def _stage(in_chs: int, out_chs: int, *, thinned: bool = True, instance_norm: bool = False) -> nn.Sequential:
    """Two blocks and, if `thinned`, a 1x1 convolution and 2 x 2 average pooling, which halves height and width."""
    layers: list[nn.Module] = [OSBlock(in_chs, out_chs, instance_norm), OSBlock(out_chs, out_chs, instance_norm)]
    if thinned:
        layers.append(nn.Sequential(ConvNorm(out_chs, out_chs), nn.AvgPool2d(2, 2)))
    return nn.Sequential(*layers)


def _cfg() -> dict[str, Any]:
    """timm's config of a network, without a URL: torchreid's weights have none, so download them by hand and set model.weights."""
    return dict(
        mean=(0.485, 0.456, 0.406),
        std=(0.229, 0.224, 0.225),
        input_size=(3, 256, 128),
        pool_size=(16, 8),
        crop_pct=1.0,
        interpolation="bilinear",
        num_classes=1000,
        first_conv="conv1.conv",
        classifier="classifier",
        license="mit",
        origin_url="https://github.com/KaiyangZhou/deep-person-reid",
        paper_ids="arXiv:1905.00953",
    )


SIZES = {"osnet_x1_0": 1.0, "osnet_x0_75": 0.75, "osnet_x0_5": 0.5, "osnet_x0_25": 0.25, "osnet_ibn_x1_0": 1.0}
default_cfgs = generate_default_cfgs({name: _cfg() for name in SIZES})


def _create(name: str, pretrained: bool, **kwargs: Any) -> nn.Module:
    return build_model_with_cfg(OSNet, name, pretrained, width=SIZES[name], **kwargs)


@register_model
def osnet_x1_0(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """OSNet, 2.2 M parameters."""
    return _create("osnet_x1_0", pretrained, **kwargs)


@register_model
def osnet_x0_75(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """OSNet with three quarters of the channels, 1.3 M parameters."""
    return _create("osnet_x0_75", pretrained, **kwargs)


@register_model
def osnet_x0_5(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """OSNet with half of the channels, 0.6 M parameters."""
    return _create("osnet_x0_5", pretrained, **kwargs)


@register_model
def osnet_x0_25(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """OSNet with a quarter of the channels, 0.2 M parameters."""
    return _create("osnet_x0_25", pretrained, **kwargs)


@register_model
def osnet_ibn_x1_0(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """OSNet with instance normalisation in its first layers, which generalises better to unseen cameras."""
    return _create("osnet_ibn_x1_0", pretrained, instance_norm=True, **kwargs)
