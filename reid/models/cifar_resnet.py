"""ResNet20, 32 and 56 for 32x32 images: identity shortcuts with zero padding, 0.27, 0.46 and 0.85 million parameters.

Source: He et al., "Deep Residual Learning for Image Recognition", CVPR 2016, Sec. 4.2.
"""

from __future__ import annotations

from typing import Any

from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
from torch import Tensor, nn
from torch.nn import functional as F

__all__ = ["CifarResNet"]


class BasicBlock(nn.Module):
    """Two 3x3 convolutions with an identity shortcut, subsampled and padded with zero channels where the shape changes."""

    def __init__(self, in_chs: int, out_chs: int, stride: int) -> None:
        super().__init__()
        self.stride, self.new_chs = stride, out_chs - in_chs
        self.conv1 = nn.Conv2d(in_chs, out_chs, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(out_chs)
        self.conv2 = nn.Conv2d(out_chs, out_chs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(out_chs)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        y_BCHW = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x_BCHW)))))
        if self.stride > 1 or self.new_chs:
            x_BCHW = x_BCHW[:, :, :: self.stride, :: self.stride]
            before = self.new_chs // 2
            x_BCHW = F.pad(x_BCHW, (0, 0, 0, 0, before, self.new_chs - before))
        return F.relu(y_BCHW + x_BCHW)


class CifarResNet(nn.Module):
    """Images (B, in_chans, H, W) -> logits (B, K), or features (B, 64) with `num_classes=0`.

    Args:
        depth: 6n + 2.
        num_classes: K; 0 for no classifier.
        in_chans: channels of the images.
    """

    def __init__(self, depth: int, num_classes: int = 10, in_chans: int = 3) -> None:
        super().__init__()
        assert depth % 6 == 2, depth
        self.num_features = 64
        self.conv1 = nn.Conv2d(in_chans, 16, 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        blocks, in_chs = [], 16
        for out_chs in (16, 32, 64):
            for number in range((depth - 2) // 6):
                stride = 2 if number == 0 and out_chs > 16 else 1
                blocks.append(BasicBlock(in_chs, out_chs, stride))
                in_chs = out_chs
        self.blocks = nn.Sequential(*blocks)
        for module in self.modules():
            if isinstance(
                module, nn.Conv2d
            ):  # He et al. 2015 (their [13]): variance 2 / fan-out preserves the scale of gradients
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        self.reset_classifier(num_classes)

    def reset_classifier(self, num_classes: int) -> None:
        self.num_classes = num_classes
        self.fc = nn.Linear(self.num_features, num_classes) if num_classes else nn.Identity()

    def forward(self, x_BCHW: Tensor) -> Tensor:
        x_BCHW = self.blocks(F.relu(self.bn1(self.conv1(x_BCHW))))
        return self.fc(x_BCHW.mean((2, 3)))


default_cfgs = generate_default_cfgs(
    {
        f"resnet{depth}_cifar": dict(
            input_size=(3, 32, 32), num_classes=10, first_conv="conv1", classifier="fc", paper_ids="arXiv:1512.03385"
        )
        for depth in (20, 32, 56)
    }
)


def _create(depth: int, pretrained: bool, kwargs: dict[str, Any]) -> nn.Module:
    return build_model_with_cfg(CifarResNet, f"resnet{depth}_cifar", pretrained, depth=depth, **kwargs)


@register_model
def resnet20_cifar(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """ResNet20 for 32x32 images; no weights are published."""
    return _create(20, pretrained, kwargs)


@register_model
def resnet32_cifar(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """ResNet32 for 32x32 images; no weights are published."""
    return _create(32, pretrained, kwargs)


@register_model
def resnet56_cifar(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """ResNet56 for 32x32 images; no weights are published."""
    return _create(56, pretrained, kwargs)
