"""Weighted sum of several losses: losses of the logits, and metric losses of the features.

Shapes: B samples of this process, K classes, D feature, n losses.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from reid.errors import ConfigError
from reid.metric_losses import MetricLoss
from reid.runtime import sum_over_processes


class SumOfLosses(nn.Module):
    """Sum of losses times their factors, for each sample.

    Args:
        losses: name -> loss of the logits (as in `reid.losses`) or of the features (`MetricLoss`). Metric losses with ``weights: w``
            weight their samples by the w(p) of the first loss of the logits that has one.
        factors: name -> factor of the loss, > 0.

    Raises:
        ConfigError: no loss uses the logits, or a metric loss has ``weights: w`` and no loss of the logits has a w(p).
    """

    def __init__(self, losses: Mapping[str, nn.Module], factors: Mapping[str, float]) -> None:
        super().__init__()
        self.names = list(losses)
        self.losses = nn.ModuleDict(dict(losses))
        self.factors = [float(factors[name]) for name in self.names]
        self.needs_features = any(isinstance(loss, MetricLoss) for loss in losses.values())
        self.needs_whole_batch = any(getattr(loss, "needs_whole_batch", False) for loss in losses.values())
        of_logits = [loss for loss in losses.values() if not isinstance(loss, MetricLoss)]
        if not of_logits:
            raise ConfigError(
                f"loss: {' and '.join(self.names)} would leave the classifier untrained; add a loss such as imae or cce"
            )
        self.has_trust = any(isinstance(loss, MetricLoss) and loss.weights == "w" for loss in losses.values())
        weighing = [name for name in self.names if hasattr(losses[name], "weight")]
        if self.has_trust and not weighing:
            raise ConfigError(
                "loss: weights: w needs another loss with a weight function w(p), such as imae, gce or cce; got none"
            )
        self.weighing = weighing[0] if weighing else ""

    def forward(
        self, logits_BK: Tensor, target_B: Tensor, index_B: Tensor | None = None, features_BD: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """The sum and its terms.

        Args:
            logits_BK: (B, K) float.
            target_B: (B,) int64 in [0, K).
            index_B: (B,) int64 index of each sample in the training set.
            features_BD: (B, D) float features before the neck; needed if any loss is a `MetricLoss`.

        Returns:
            (B,) the sum, and (B, n) the losses without their factors, detached from the graph.
        """
        weight_B = self._trust(logits_BK.detach(), target_B) if self.has_trust else None
        values = []
        for loss in self.losses.values():
            if isinstance(loss, MetricLoss):
                assert features_BD is not None
                values.append(loss(features_BD, target_B, weight_B if loss.weights == "w" else None))
            else:
                values.append(loss(logits_BK, target_B, index_B))
        total_B = sum(factor * value for factor, value in zip(self.factors, values, strict=True))
        assert isinstance(total_B, Tensor)
        return total_B, torch.stack([value.detach() for value in values], dim=1)

    def _trust(self, logits_BK: Tensor, target_B: Tensor) -> Tensor:
        """(B,) w(p) of each sample, divided by its mean over the batch of all processes."""
        p_B = logits_BK.float().softmax(1).gather(1, target_B[:, None]).squeeze(1)
        weight_B = self.losses[self.weighing].weight(p_B)  # type: ignore[operator]
        total, count = sum_over_processes(torch.stack([weight_B.sum(), torch.ones_like(weight_B).sum()]))
        return weight_B * (count / total.clamp(min=torch.finfo(total.dtype).tiny))
