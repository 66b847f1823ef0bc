"""A moving average of the weights in training, which often tests better than the last weights themselves."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

from reid.errors import in_range


class Averaged:
    """The mean of a model's weights after steps 0..t, that of step i weighing `decay`^(t - i).

    It is the exponential moving average freed from where it starts (as Kingma & Ba correct theirs, "Adam", 2015, Sec. 3): dividing by
    the sum of the weights, 1 - decay^(t + 1), leaves no share to the weights before the first step. Floating-point buffers, the running
    statistics of batch normalisation among them, are averaged in the same way, since they belong to the weights of their step; integer
    buffers are those of the last step. There is no other state: a resumed run goes on from the average alone.

    Args:
        model: what is to be averaged; the average starts as a copy of it.
        decay: in (0, 1); about 1 / (1 - decay) steps count.

    Raises:
        ConfigError: decay is out of range.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay = in_range("ema", decay, 0, 1 - 1e-9, above=True)
        self.model = copy.deepcopy(model).eval().requires_grad_(False)

    @torch.no_grad()
    def update(self, model: nn.Module, step: int) -> None:
        """Takes in the weights after a step, without waiting for the device; steps count from 0."""
        share = (1 - self.decay) / (1 - self.decay ** (step + 1))
        average = get_ema_multi_avg_fn(1 - share)
        pairs = list(zip(_tensors(self.model), _tensors(model), strict=True))
        floating = [pair for pair in pairs if pair[0].is_floating_point()]
        for mine, theirs in pairs:
            if not mine.is_floating_point():
                mine.copy_(theirs)
        average([mine for mine, _ in floating], [theirs for _, theirs in floating], step)

    def state_dict(self) -> dict[str, Any]:
        """The averaged model's, with the keys of the model itself."""
        return self.model.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes on from an average that `state_dict` gave."""
        self.model.load_state_dict(state)


def _tensors(model: nn.Module) -> list[Tensor]:
    return [*model.parameters(), *model.buffers()]
