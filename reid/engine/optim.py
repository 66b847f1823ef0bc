"""Optimiser and learning-rate schedules: the rate of step t is a pure function of t, so resuming needs no scheduler state."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import nn

from reid.errors import ConfigError

Schedule = Callable[[int], float]


def constant() -> Schedule:
    """Factor 1 at every step."""
    return lambda step: 1.0


def step_decay(every: int, factor: float = 0.5) -> Schedule:
    """Factor `factor`^(step // every): the paper's MARS schedule halves the rate every 10,000 steps."""
    if every < 1 or not 0 < factor <= 1:
        raise ConfigError(f"expected every >= 1 and 0 < factor <= 1, got every={every}, factor={factor}")
    return lambda step: factor ** (step // every)


def milestones(at: Sequence[int], factor: float = 0.1) -> Schedule:
    """Factor `factor`^(number of milestones reached)."""
    if list(at) != sorted(at) or not 0 < factor <= 1:
        raise ConfigError(f"expected rising steps `at` and 0 < factor <= 1, got at={list(at)}, factor={factor}")
    return lambda step: factor ** sum(step >= milestone for milestone in at)


def cosine(total: int, warmup: int = 0) -> Schedule:
    """Linear from 0 over `warmup` steps, then half a cosine down to 0 at step `total`."""
    if not 0 <= warmup < total:
        raise ConfigError(f"expected 0 <= warmup < total, got warmup={warmup}, total={total}")

    def factor(step: int) -> float:
        if step < warmup:
            return (step + 1) / warmup
        return 0.5 * (1 + math.cos(math.pi * min(1.0, (step - warmup) / (total - warmup))))

    return factor


SCHEDULES: dict[str, Callable[..., Schedule]] = {
    "constant": constant,
    "step": step_decay,
    "milestones": milestones,
    "cosine": cosine,
}


def sgd(model: nn.Module, momentum: float = 0.9, weight_decay: float = 5e-4) -> torch.optim.Optimizer:
    """SGD over all parameters alike, as in Caffe and the paper; `set_lr` gives it its rate."""
    return torch.optim.SGD(_trained(model), lr=0.0, momentum=momentum, weight_decay=weight_decay, fused=True)


def adamw(
    model: nn.Module, beta1: float = 0.9, beta2: float = 0.999, weight_decay: float = 0.01
) -> torch.optim.Optimizer:
    """AdamW over all parameters alike; `set_lr` gives it its rate."""
    return torch.optim.AdamW(_trained(model), lr=0.0, betas=(beta1, beta2), weight_decay=weight_decay, fused=True)


def _trained(model: nn.Module) -> list[nn.Parameter]:
    return [parameter for parameter in model.parameters() if parameter.requires_grad]


OPTIMIZERS: dict[str, Callable[..., torch.optim.Optimizer]] = {"sgd": sgd, "adamw": adamw}


def set_lr(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """The same rate for every parameter group."""
    for group in optimizer.param_groups:
        group["lr"] = lr
