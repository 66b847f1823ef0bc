"""The network of Figure 2: a backbone that embeds frames, and the linear classifier that training needs.

Shapes: B batch, C channels, H W pixels, D feature, K classes.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Embedding(nn.Module):
    """A backbone and a linear classifier over training identities.

    Args:
        backbone: (B, C, H, W) -> (B, D), with `num_features` = D, as timm makes with `num_classes=0`.
        num_classes: K.
    """

    def __init__(self, backbone: nn.Module, num_classes: int) -> None:
        super().__init__()
        self.backbone = backbone
        self.classifier = nn.Linear(feature_dim(backbone), num_classes)
        # Small enough that training starts near uniform p, where a loss's first gradient is known.
        nn.init.normal_(self.classifier.weight, std=0.01)
        nn.init.zeros_(self.classifier.bias)

    def forward(self, images_BCHW: Tensor) -> Tensor:
        """Logits (B, K), float32 whatever the autocast type: the loss needs the precision, the last layer costs nothing."""
        features_BD = self.backbone(images_BCHW)
        with torch.autocast(features_BD.device.type, enabled=False):
            return self.classifier(features_BD.float())


def feature_dim(backbone: nn.Module) -> int:
    """D, as timm names it."""
    return int(getattr(backbone, "head_hidden_size", None) or backbone.num_features)  # type: ignore[arg-type]
