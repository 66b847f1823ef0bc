"""The network of Figure 2: an embedding, which is what people use, and the linear classifier that training needs.

Shapes: B batch, C channels, H W pixels, D feature, K classes.
"""

from __future__ import annotations

import timm.layers
import torch
from torch import Tensor, nn

from reid.errors import ConfigError

_NORMS = (nn.modules.batchnorm._NormBase, nn.LayerNorm, nn.GroupNorm, nn.RMSNorm, timm.layers.RmsNorm)


class Embedding(nn.Module):
    """(B, C, H, W) images -> (B, D) features.

    Args:
        backbone: (B, C, H, W) -> (B, D), with D as timm names it, such as timm makes with `num_classes=0`.
        neck: `none`, or `bn`: batch normalisation of the features, without a shift (the BNNeck of Luo et al., "Bag of Tricks
            and a Strong Baseline for Deep Person Re-identification", 2019).
        freeze_norm: normalisation layers normalise as in evaluation, by the statistics they have, and do not learn.

    Raises:
        ConfigError: there is no normalisation to freeze.
    """

    def __init__(self, backbone: nn.Module, neck: str = "none", *, freeze_norm: bool = False) -> None:
        super().__init__()
        self.backbone = backbone
        self.num_features = int(getattr(backbone, "head_hidden_size", None) or backbone.num_features)  # type: ignore[arg-type]
        self.neck = nn.Identity() if neck == "none" else nn.BatchNorm1d(self.num_features)
        if neck == "bn":
            self.neck.bias.requires_grad_(False)
        self.freeze_norm = freeze_norm
        if freeze_norm:
            self._freeze()

    def _freeze(self) -> None:
        norms = self._norms()
        if not norms:
            raise ConfigError("model.freeze_norm: this model has no normalisation layers; leave it out")
        for norm in norms:
            norm.requires_grad_(False)

    def _norms(self) -> list[nn.Module]:
        return [module for module in self.modules() if isinstance(module, _NORMS)]

    def train(self, mode: bool = True) -> Embedding:
        super().train(mode)
        if self.freeze_norm:
            for norm in self._norms():
                norm.eval()
        return self

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
