"""The network of Figure 2: an embedding, which is used after training, and a classifier, which only training needs.

Shapes: B batch, C channels, H W pixels, D feature, K classes.
"""

from __future__ import annotations

from collections.abc import Callable

import timm.layers
import torch
from torch import Tensor, nn

from reid.errors import ConfigError

_NORMS = (nn.modules.batchnorm._NormBase, nn.LayerNorm, nn.GroupNorm, nn.RMSNorm, timm.layers.RmsNorm)


class Embedding(nn.Module):
    """(B, C, H, W) images -> (B, D) features.

    Args:
        backbone: (B, C, H, W) -> (B, D), such as timm's models with `num_classes=0`; D is its `head_hidden_size` or `num_features`.
        neck: `none`, or `bn`: batch normalisation of the features, without a shift (the BNNeck of Luo et al., "Bag of Tricks
            and a Strong Baseline for Deep Person Re-identification", 2019).
        freeze_norm: normalisation layers use their running statistics, as in evaluation, and their parameters are not trained.

    Raises:
        ConfigError: there are no normalisation layers to freeze.
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
            raise ConfigError("model.freeze_norm: this model has no normalisation layers; remove this setting")
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

    def pooled(self, images_BCHW: Tensor) -> Tensor:
        """Compute the features before the neck, (B, D)."""
        return self.backbone(images_BCHW)

    def forward(self, images_BCHW: Tensor) -> Tensor:
        return self.neck(self.pooled(images_BCHW))


class Classifier(nn.Module):
    """An embedding and a classifier over training identities: images -> (B, K) logits.

    Args:
        embedding: images -> features (B, D).
        num_classes: K.
        head: (num_features, num_classes) -> the classifier; by default a linear one. A head whose `margins` is true is given the
            targets in training, as the margin heads of `reid.models.heads` require.
    """

    def __init__(
        self, embedding: Embedding, num_classes: int, head: Callable[[int, int], nn.Module] | None = None
    ) -> None:
        super().__init__()
        self.embedding = embedding
        # In training, return the features before the neck, (B, D) float32, in addition to the logits, for metric losses.
        self.with_features = False
        self.head = (head or linear)(embedding.num_features, num_classes)

    @property
    def takes_targets(self) -> bool:
        """Whether the forward pass of a training step needs the targets."""
        return bool(getattr(self.head, "margins", False))

    def forward(self, images_BCHW: Tensor, target_B: Tensor | None = None) -> Tensor | tuple[Tensor, Tensor]:
        """Compute logits in float32 even under autocast: the loss needs the precision, and the last layer is cheap."""
        pooled_BD = self.embedding.pooled(images_BCHW)
        features_BD = self.embedding.neck(pooled_BD)
        with torch.autocast(features_BD.device.type, enabled=False):
            targets = () if target_B is None else (target_B,)
            logits_BK = self.head(features_BD.float(), *targets)
            return (logits_BK, pooled_BD.float()) if self.with_features and self.training else logits_BK


def linear(num_features: int, num_classes: int) -> nn.Module:
    """A linear classifier with small initial weights: training starts near uniform p, where the first gradient of a loss is known."""
    head = nn.Linear(num_features, num_classes)
    nn.init.normal_(head.weight, std=0.01)
    nn.init.zeros_(head.bias)
    return head
