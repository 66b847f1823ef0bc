"""The network of Figure 2: an embedding, which is what people use, and the linear classifier that training needs.

Shapes: B batch, C channels, H W pixels, D feature, K classes.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Embedding(nn.Module):
    """(B, C, H, W) images -> (B, D) features.

    Args:
        backbone: (B, C, H, W) -> (B, D), with D as timm names it, such as timm makes with `num_classes=0`.
        neck: `none`, or `bn`: batch normalisation of the features, without a shift (the BNNeck of Luo et al., "Bag of Tricks
            and a Strong Baseline for Deep Person Re-identification", 2019).
    """

    def __init__(self, backbone: nn.Module, neck: str = "none") -> None:
        super().__init__()
        self.backbone = backbone
        self.num_features = int(getattr(backbone, "head_hidden_size", None) or backbone.num_features)  # type: ignore[arg-type]
        self.neck = nn.Identity() if neck == "none" else nn.BatchNorm1d(self.num_features)
        if neck == "bn":
            self.neck.bias.requires_grad_(False)

    def forward(self, images_BCHW: Tensor) -> Tensor:
        return self.neck(self.backbone(images_BCHW))


class Classifier(nn.Module):
    """An embedding and a linear classifier over training identities: images -> (B, K) logits.

    Args:
        embedding: what to classify by.
        num_classes: K.
    """

    def __init__(self, embedding: Embedding, num_classes: int) -> None:
        super().__init__()
        self.embedding = embedding
        self.head = nn.Linear(embedding.num_features, num_classes)
        # Small enough that training starts near uniform p, where a loss's first gradient is known.
        nn.init.normal_(self.head.weight, std=0.01)
        nn.init.zeros_(self.head.bias)

    def forward(self, images_BCHW: Tensor) -> Tensor:
        """Logits in float32 whatever the autocast type: the loss needs the precision, the last layer costs nothing."""
        features_BD = self.embedding(images_BCHW)
        with torch.autocast(features_BD.device.type, enabled=False):
            return self.head(features_BD.float())
