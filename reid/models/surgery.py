"""Changes to classification networks for re-identification: a larger last feature map, and GeM in place of average pooling.

The existing weights are not changed, so pretrained ones fit. Shapes: B batch, C channels, H height, W width.
"""

from __future__ import annotations

import timm.layers
import torch
from timm.models.resnet import ResNet
from torch import Tensor, nn

from reid.errors import ConfigError


def keep_size_in_last_stage(backbone: nn.Module) -> None:
    """Set the stride of the last stage of a ResNet to 1 instead of 2, without dilation (timm's `output_stride` would dilate).

    Source: Sun et al., "Beyond Part Models", ECCV 2018; Luo et al., "Bag of Tricks", 2019, Sec. 3.4.

    Raises:
        ConfigError: the backbone is not a ResNet of timm, or its last stage downsamples by an unknown type of layer.
    """
    if not isinstance(backbone, ResNet):
        raise ConfigError(
            f"model.last_stride: 1 is only for ResNets, got {type(backbone).__name__}; remove this setting"
        )
    block: nn.Module = backbone.layer4[0]  # type: ignore[assignment, index]
    for name, module in list(block.named_modules()):
        stride = getattr(module, "stride", 1)
        if stride in (1, (1, 1)) or isinstance(module, type(block)):
            continue
        if isinstance(module, nn.Conv2d):
            module.stride = (1, 1)
        elif isinstance(module, nn.AvgPool2d):  # in the shortcut, before a convolution of stride 1
            block.set_submodule(name, nn.Identity())
        else:
            raise ConfigError(
                f"model.last_stride: cannot be 1 in a network that downsamples with {type(module).__name__}"
            )


class GeM(nn.Module):
    """Generalised mean pooling, (mean x^p)^(1/p) over positions, x clamped to at least `eps`: p = 1 is the mean, p -> inf the maximum.

    (B, C, H, W) -> (B, C), or (B, C, 1, 1) if `flatten` is false; computed in float32 even under autocast (float64 stays float64).

    Args:
        p: initial value of the exponent, which is learned and shared by all channels.
        eps: > 0.
        flatten: return (B, C) instead of (B, C, 1, 1).

    Source: Radenović et al., "Fine-tuning CNN Image Retrieval with No Human Annotation", TPAMI 2019, Eq. 2.
    """

    def __init__(self, p: float = 3.0, eps: float = 1e-6, flatten: bool = True) -> None:
        super().__init__()
        self.p = nn.Parameter(torch.full((1,), p))
        self.eps, self.flatten = eps, flatten

    def forward(self, x_BCHW: Tensor) -> Tensor:
        with torch.autocast(x_BCHW.device.type, enabled=False):
            x_BCHW = x_BCHW.float() if x_BCHW.dtype != torch.float64 else x_BCHW
            mean_BC11 = x_BCHW.clamp(min=self.eps).pow(self.p).mean((2, 3), keepdim=True).pow(1 / self.p)
        return mean_BC11.flatten(1) if self.flatten else mean_BC11


def pool_by_gem(backbone: nn.Module) -> None:
    """Replace the global average pooling of a backbone by `GeM`.

    Raises:
        ConfigError: the backbone has no such pooling, as in a ViT.
    """
    found = [
        (name, module)
        for name, module in backbone.named_modules()
        if isinstance(module, timm.layers.SelectAdaptivePool2d) and module.pool_type in ("avg", "fast", "fastavg")
    ]
    example = torch.zeros(1, 2, 3, 3)
    pooled = [pool(example) for _, pool in found]
    if len(found) != 1 or pooled[0].shape[1] != 2:  # the latter: networks with channels last
        raise ConfigError(f"model.pooling: {type(backbone).__name__} has no average pooling that gem could replace")
    backbone.set_submodule(found[0][0], GeM(flatten=pooled[0].ndim == 2))
