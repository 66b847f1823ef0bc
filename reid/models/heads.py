"""Classifiers by angle: logits are scaled cosines, and in training the annotated class must win by a margin.

Any loss of the logits goes with them: cross entropy gives the losses as published, IMAE or GCE their robust twins. Outside of
training there is no margin. The accuracy that training reports is counted with the margin, so it lies below that without.

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
    """scale · cos θ of every class, θ the angle between the feature and the nearest of the class's centres; no margin.

    Args:
        num_features: D.
        num_classes: K.
        scale: > 0.
        centres: S >= 1, sub-centres of a class: samples with wrong labels gather at other ones than the right (Deng et al.,
            "Sub-center ArcFace: Boosting Face Recognition by Large-Scale Noisy Web Faces", ECCV 2020; there 3).
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
        """Logits (B, K) of features (B, D); with the margin where targets (B,) int64 are given and this trains."""
        cosine_BKS = F.linear(F.normalize(features_BD), F.normalize(self.weight)).unflatten(1, (self.num_classes, -1))
        cosine_BK = cosine_BKS.amax(2)
        if target_B is not None and self.training:
            cosine_B1 = cosine_BK.gather(1, target_B[:, None])
            cosine_BK = cosine_BK.scatter(1, target_B[:, None], self._with_margin(cosine_B1))
        return self.scale * cosine_BK

    def _with_margin(self, cosine: Tensor) -> Tensor:
        return cosine


class ArcFace(CosineHead):
    """cos(θ + m) for the annotated class (Deng et al., "ArcFace", CVPR 2019, Eq. 3); with ``centres`` above 1 sub-center ArcFace.

    Where θ + m is beyond π, cos θ - m sin m instead, so that the logit goes on falling with θ, as in the source's code.

    Args:
        num_features: D.
        num_classes: K.
        margin: m, 0 <= m < π/2, radians.
        scale: as in `CosineHead`; the source takes 64 with millions of faces.
        centres: as in `CosineHead`.
    """

    margins = True

    def __init__(
        self, num_features: int, num_classes: int, margin: float = 0.5, scale: float = 30.0, centres: int = 1
    ) -> None:
        super().__init__(num_features, num_classes, scale, centres)
        self.margin = in_range("margin", margin, 0, math.pi / 2)

    def _with_margin(self, cosine: Tensor) -> Tensor:
        inside = cosine.clamp(-1 + 1e-7, 1 - 1e-7)  # the root has no gradient at its ends
        sine = (1 - inside.square()).sqrt()
        turned = inside * math.cos(self.margin) - sine * math.sin(self.margin)
        return torch.where(cosine > -math.cos(self.margin), turned, cosine - self.margin * math.sin(self.margin))


class CosFace(CosineHead):
    """cos θ - m for the annotated class (Wang et al., "CosFace", CVPR 2018, Eq. 4).

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
