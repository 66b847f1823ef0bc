"""Exponential moving average (EMA) of the weights during training; it often tests better than the final weights."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

from reid.errors import in_range


class Averaged:
    """Bias-corrected exponential moving average of a model's weights.

    After step t, the weights after step i <= t contribute with factor (1 - decay) decay^(t - i) / (1 - decay^(t + 1)). These factors sum
    to 1, so the weights before the first step have no share (bias correction as in Kingma & Ba, "Adam", 2015, Sec. 3). Floating-point
    buffers, such as running statistics of batch normalisation, are averaged in the same way, since they belong to the weights of their
    step; integer buffers are copied from the last step. There is no other state: a resumed run needs the average alone.

    Args:
        model: the model to average; the average starts as a copy of it.
        decay: in (0, 1); the average covers about 1 / (1 - decay) steps.

    Raises:
        ConfigError: decay is out of range.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay = in_range("ema", decay, 0, 1 - 1e-9, above=True)
        self.model = copy.deepcopy(model).eval().requires_grad_(False)

    @torch.no_grad()
    def update(self, model: nn.Module, step: int) -> None:
        """Adds the weights after a step (counted from 0) to the average, without waiting for the device."""
        share = (1 - self.decay) / (1 - self.decay ** (step + 1))
        average = get_ema_multi_avg_fn(1 - share)
        pairs = list(zip(_tensors(self.model), _tensors(model), strict=True))
        floating = [pair for pair in pairs if pair[0].is_floating_point()]
        for mine, theirs in pairs:
            if not mine.is_floating_point():
                mine.copy_(theirs)
        average([mine for mine, _ in floating], [theirs for _, theirs in floating], step)

    def state_dict(self) -> dict[str, Any]:
        """State dict of the averaged model; keys as in the model itself."""
        return self.model.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores an average from its `state_dict`."""
        self.model.load_state_dict(state)


def _tensors(model: nn.Module) -> list[Tensor]:
    return [*model.parameters(), *model.buffers()]
