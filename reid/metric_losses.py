"""Metric losses: they pull features of one label together and push features of different labels apart.

They are applied to the features before a BN neck, as in "Bag of Tricks" (Luo et al. 2019, Sec. 3.5). Features of all processes are
gathered, with gradients to each process (`gather_with_gradient`), so that loss and gradients of a batch do not depend on the number of
processes. Every loss returns one value per sample, 0 for a sample without positives or negatives; the caller takes the mean. All are
computed in float32 (float64 stays float64).

Shapes: B samples of this process, N samples of all processes, D feature, K classes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from reid.errors import in_range
from reid.runtime import gather_rows, gather_with_gradient

Trust = Literal["none", "w"]


class MetricLoss(nn.Module):
    """Base class of the losses on features.

    Args:
        weights: ``none``: equal weights; ``w``: each sample is weighted by w(p) of the classification loss, divided by its mean over the
            batch.
    """

    needs_whole_batch = True

    def __init__(self, weights: Trust = "none") -> None:
        super().__init__()
        self.weights = weights

    def forward(self, features_BD: Tensor, target_B: Tensor, weight_B: Tensor | None = None) -> Tensor:
        """Loss per sample.

        Args:
            features_BD: (B, D) float, any length.
            target_B: (B,) int64 labels in [0, K).
            weight_B: (B,) float >= 0, weight of each sample, with mean 1 over all processes; None: equal weights.

        Returns:
            (B,) float32 (float64 for float64 features).
        """
        raise NotImplementedError


class Triplet(MetricLoss):
    """Batch-hard triplet loss, max(0, d(a, p) - d(a, n) + margin).

    p is the farthest sample with the label of the anchor a, n the nearest with another label; d is the Euclidean distance of the
    features, which are not normalised.

    With weights, the weight of a triplet is the geometric mean of those of its three samples: a wrong label of any of them spoils it,
    and samples with wrong labels tend to be the farthest positives and the nearest negatives.

    Args:
        margin: >= 0.
        weights: as in `MetricLoss`.

    Source: Hermans et al., "In Defense of the Triplet Loss for Person Re-Identification", 2017, Eq. 5.
    """

    def __init__(self, margin: float = 0.3, weights: Trust = "none") -> None:
        super().__init__(weights)
        self.margin = in_range("margin", margin, 0)

    def forward(self, features_BD: Tensor, target_B: Tensor, weight_B: Tensor | None = None) -> Tensor:
        features_BD = _precise(features_BD)
        features_ND, first = gather_with_gradient(features_BD)
        positive_B, negative_B, found_B = _hardest(features_BD, target_B, features_ND, gather_rows(target_B), first)
        # Only the selected distances need gradients; computed directly, they have no cancellation as in |a|^2 - 2ab + |b|^2.
        gap_B = _distance(features_BD, features_ND[positive_B]) - _distance(features_BD, features_ND[negative_B])
        loss_B = self._loss(gap_B) * found_B
        if weight_B is None:
            return loss_B
        weight_N = gather_rows(weight_B)
        return loss_B * (weight_B * weight_N[positive_B] * weight_N[negative_B]) ** (1 / 3)

    def _loss(self, gap_B: Tensor) -> Tensor:
        return F.relu(gap_B + self.margin)


class SoftTriplet(Triplet):
    """`Triplet` with a soft margin, log(1 + exp(d(a, p) - d(a, n))): no margin to choose, and the gradient never vanishes."""

    def __init__(self, weights: Trust = "none") -> None:
        super().__init__(0.0, weights)

    def _loss(self, gap_B: Tensor) -> Tensor:
        return F.softplus(gap_B)


class Circle(MetricLoss):
    """Circle loss over all pairs of the batch: cosine similarities s far from their optimum (1 + m, or -m for negatives) weigh more.

    Per anchor, softplus(logsumexp over negatives of gamma max(0, s + m) (s - m) + logsumexp over positives of
    -gamma max(0, 1 + m - s) (s - 1 + m)), without gradients through the two factors max(…).

    Args:
        margin: m, 0 <= m < 1; the source uses 0.25 for person re-identification.
        gamma: scale, > 0; the source uses 128 for person re-identification, fast-reid 64 or 128.
        weights: as in `MetricLoss`; the weight of the anchor.

    Source: Sun et al., "Circle Loss: A Unified Perspective of Pair Similarity Optimization", CVPR 2020, Eq. 6-8.
    """

    def __init__(self, margin: float = 0.25, gamma: float = 128.0, weights: Trust = "none") -> None:
        super().__init__(weights)
        self.margin = in_range("margin", margin, 0, 1 - 1e-6)
        self.gamma = in_range("gamma", gamma, 0, above=True)

    def forward(self, features_BD: Tensor, target_B: Tensor, weight_B: Tensor | None = None) -> Tensor:
        unit_BD = F.normalize(_precise(features_BD))
        unit_ND, first = gather_with_gradient(unit_BD)
        same_BN, other_BN = _pairs(target_B, gather_rows(target_B), first)
        s_BN, m = unit_BD @ unit_ND.T, self.margin
        pull_BN = -self.gamma * F.relu(1 + m - s_BN.detach()) * (s_BN - 1 + m)
        push_BN = self.gamma * F.relu(s_BN.detach() + m) * (s_BN - m)
        found_B = same_BN.any(1) & other_BN.any(1)
        loss_B = F.softplus(_logsumexp(pull_BN, same_BN, found_B) + _logsumexp(push_BN, other_BN, found_B)) * found_B
        return loss_B if weight_B is None else loss_B * weight_B


class Centre(MetricLoss):
    """Centre loss: half the squared distance to the centre of the sample's class; the centres are moved towards the features.

    In each training step, after the loss is computed, centre_j moves by -alpha sum(centre_j - x) / (1 + n_j) over the n_j samples of
    class j in the batch of all processes. Centres are initialised with 0.

    Args:
        num_classes: K.
        num_features: D.
        alpha: 0 < alpha <= 1, update rate of the centres.
        weights: as in `MetricLoss`; the weight of the sample, applied to the loss but not to the update of the centres.

    Source: Wen et al., "A Discriminative Feature Learning Approach for Deep Face Recognition", ECCV 2016, Eq. 2-4. "Bag of Tricks" adds
    it with weight 0.0005.
    """

    centres_KD: Tensor

    def __init__(self, num_classes: int, num_features: int, alpha: float = 0.5, weights: Trust = "none") -> None:
        super().__init__(weights)
        self.alpha = in_range("alpha", alpha, 0, 1, above=True)
        self.register_buffer("centres_KD", torch.zeros(num_classes, num_features))

    def forward(self, features_BD: Tensor, target_B: Tensor, weight_B: Tensor | None = None) -> Tensor:
        features_BD = _precise(features_BD)
        loss_B = (features_BD - self.centres_KD[target_B]).square().sum(1) / 2
        if self.training:
            self._follow(gather_rows(features_BD.detach()), gather_rows(target_B))
        return loss_B if weight_B is None else loss_B * weight_B

    def _follow(self, features_ND: Tensor, target_N: Tensor) -> None:
        away_ND = (features_ND - self.centres_KD[target_N]).to(self.centres_KD.dtype)
        count_K = torch.ones_like(self.centres_KD[:, 0]).index_add_(0, target_N, torch.ones_like(away_ND[:, 0]))
        self.centres_KD.index_add_(0, target_N, self.alpha * away_ND / count_K[target_N, None])


def _precise(features: Tensor) -> Tensor:
    return features if features.dtype == torch.float64 else features.float()


def _distance(a_BD: Tensor, b_BD: Tensor) -> Tensor:
    return torch.linalg.vector_norm(a_BD - b_BD, dim=1)  # with gradient 0 at distance 0


def _pairs(target_B: Tensor, target_N: Tensor, first: int) -> tuple[Tensor, Tensor]:
    """(B, N) bool masks: other samples with the same label, and samples with another label; sample i is row first + i of all N."""
    same_BN = target_B[:, None] == target_N
    itself_BN = torch.arange(len(target_N), device=target_N.device) == first + torch.arange(
        len(target_B), device=target_B.device
    ).unsqueeze(1)
    return same_BN & ~itself_BN, ~same_BN


@torch.no_grad()
def _hardest(
    features_BD: Tensor, target_B: Tensor, features_ND: Tensor, target_N: Tensor, first: int
) -> tuple[Tensor, Tensor, Tensor]:
    """(B,) index of the farthest sample with the same label, of the nearest with another label, and whether both exist."""
    same_BN, other_BN = _pairs(target_B, target_N, first)
    distance_BN = torch.cdist(features_BD, features_ND)
    positive_B = distance_BN.masked_fill(~same_BN, -torch.inf).argmax(1)
    negative_B = distance_BN.masked_fill(~other_BN, torch.inf).argmin(1)
    return positive_B, negative_B, same_BN.any(1) & other_BN.any(1)


def _logsumexp(values_BN: Tensor, chosen_BN: Tensor, found_B: Tensor) -> Tensor:
    """logsumexp over the `chosen` entries of each row; rows that are not `found` get a finite value, which the caller sets to 0."""
    return values_BN.masked_fill(~chosen_BN & found_B[:, None], -torch.inf).logsumexp(1)


METRIC_LOSSES: dict[str, Callable[..., MetricLoss]] = {
    "triplet": Triplet,
    "triplet_soft": SoftTriplet,
    "circle": Circle,
    "centre": Centre,
}
