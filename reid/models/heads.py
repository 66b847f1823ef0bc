"""Cosine classifiers: logits are scaled cosines, and in training the annotated class must win by a margin.

They can be combined with any loss on logits: with cross entropy they are the published losses, with IMAE or GCE robust variants
of them. In evaluation there is no margin. Training accuracy is computed with the margin, so it is lower than without.

Shapes: B batch, D feature, K classes, S sub-centres.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from reid.errors import ConfigError, in_range
from reid.models.embedding import linear


class CosineHead(nn.Module):
    """Classifier whose logits are scale · cos θ, with θ the angle between the feature and the nearest centre of the class; no margin.

    Args:
        num_features: D.
        num_classes: K.
        scale: > 0.
        centres: S >= 1, sub-centres per class: samples with wrong labels gather at other sub-centres than those with right labels
            (Deng et al., "Sub-center ArcFace: Boosting Face Recognition by Large-Scale Noisy Web Faces", ECCV 2020; S = 3 there).
    """

    margins = False

    def __init__(self, num_features: int, num_classes: int, scale: float = 30.0, centres: int = 1) -> None:
        super().__init__()
        self.scale, self.num_classes = in_range("scale", scale, 0, above=True), num_classes
        if centres < 1:
            raise ConfigError(f"centres: expected at least 1, got {centres}")
        self.weight = nn.Parameter(torch.empty(num_classes * centres, num_features))
        nn.init.xavier_uniform_(self.weight)

    def forward(self, features_BD: Tensor, target_B: Tensor | None = None) -> Tensor:
        """Compute logits (B, K) of features (B, D); in training mode, with the margin if targets (B,) int64 are given."""
        cosine_BKS = F.linear(F.normalize(features_BD), F.normalize(self.weight)).unflatten(1, (self.num_classes, -1))
        cosine_BK = cosine_BKS.amax(2)
        if target_B is not None and self.training:
            cosine_B1 = cosine_BK.gather(1, target_B[:, None])
            cosine_BK = cosine_BK.scatter(1, target_B[:, None], self._with_margin(cosine_B1))
        return self.scale * cosine_BK

    def _with_margin(self, cosine: Tensor) -> Tensor:
        return cosine


class ArcFace(CosineHead):
    """Cosine classifier with cos(θ + m) for the annotated class (Deng et al., "ArcFace", CVPR 2019, Eq. 3).

    With ``centres`` above 1 it is sub-center ArcFace. Where θ + m exceeds π, cos θ - m sin m is used instead, so that the logit
    still decreases with θ, as in the code of the source.

    Args:
        num_features: D.
        num_classes: K.
        margin: m, 0 <= m < π/2, radians.
        scale: as in `CosineHead`; the source uses 64 for millions of faces.
        centres: as in `CosineHead`.
    """

    margins = True

    def __init__(
        self, num_features: int, num_classes: int, margin: float = 0.5, scale: float = 30.0, centres: int = 1
    ) -> None:
        super().__init__(num_features, num_classes, scale, centres)
        self.margin = in_range("margin", margin, 0, math.pi / 2)

    def _with_margin(self, cosine: Tensor) -> Tensor:
        inside = cosine.clamp(-1 + 1e-7, 1 - 1e-7)  # the gradient of the square root is infinite at sine = 0
        sine = (1 - inside.square()).sqrt()
        turned = inside * math.cos(self.margin) - sine * math.sin(self.margin)
        return torch.where(cosine > -math.cos(self.margin), turned, cosine - self.margin * math.sin(self.margin))


class CosFace(CosineHead):
    """Cosine classifier with cos θ - m for the annotated class (Wang et al., "CosFace", CVPR 2018, Eq. 4).

    Args:
        num_features: D.
        num_classes: K.
        margin: m, 0 <= m < 1.
        scale: as in `CosineHead`.
        centres: as in `CosineHead`.
    """

    margins = True

    def __init__(
        self, num_features: int, num_classes: int, margin: float = 0.35, scale: float = 30.0, centres: int = 1
    ) -> None:
        super().__init__(num_features, num_classes, scale, centres)
        self.margin = in_range("margin", margin, 0, 1)

    def _with_margin(self, cosine: Tensor) -> Tensor:
        return cosine - self.margin


HEADS: dict[str, Callable[..., nn.Module]] = {
    "linear": linear,
    "cosine": CosineHead,
    "arcface": ArcFace,
    "cosface": CosFace,
}
