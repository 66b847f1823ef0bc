"""Optimiser and learning-rate schedules: the rate of step t is a pure function of t, so resuming needs no scheduler state."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import nn

from reid.errors import ConfigError, in_range

Schedule = Callable[[int], float]


def constant() -> Schedule:
    """Factor 1 at every step."""
    return lambda step: 1.0


def step_decay(every: int, factor: float = 0.5) -> Schedule:
    """Factor `factor`^(step // every): the paper's MARS schedule halves the rate every 10,000 steps."""
    in_range("every", every, 1)
    in_range("factor", factor, 0, 1, above=True)
    return lambda step: factor ** (step // every)


def milestones(at: list[int], iterations: int, factor: float = 0.1) -> Schedule:
    """Factor `factor`^(number of milestones reached); each lies within the `iterations` of the training."""
    in_range("factor", factor, 0, 1, above=True)
    if list(at) != sorted(at) or not all(0 < step < iterations for step in at):
        raise ConfigError(f"at: expected rising steps within 1..{iterations - 1}, got {list(at)}")
    return lambda step: factor ** sum(step >= milestone for milestone in at)


def cosine(iterations: int, warmup: int = 0) -> Schedule:
    """Rising by equal steps over the first `warmup` ones, then half a cosine down to 0 at the end of training."""
    if not 0 <= warmup < iterations:
        raise ConfigError(f"warmup: expected 0 <= warmup < {iterations} iterations, got {warmup}")

    def factor(step: int) -> float:
        if step < warmup:
            return (step + 1) / warmup
        return 0.5 * (1 + math.cos(math.pi * min(1.0, (step - warmup) / (iterations - warmup))))

    return factor


def warmed(schedule: Schedule, warmup: int, iterations: int) -> Schedule:
    """A schedule times a factor that rises by equal steps, reaching 1 at the last of the first `warmup` ones."""
    if not 0 <= warmup < iterations:
        raise ConfigError(f"warmup: expected 0 <= warmup < {iterations} iterations, got {warmup}")
    return lambda step: min(1.0, (step + 1) / warmup) * schedule(step) if warmup else schedule(step)


SCHEDULES: dict[str, Callable[..., Schedule]] = {
    "constant": constant,
    "step": step_decay,
    "milestones": milestones,
    "cosine": cosine,
}


def sgd(model: nn.Module, momentum: float = 0.9, weight_decay: float = 5e-4) -> torch.optim.Optimizer:
    """SGD over all parameters alike, as in Caffe and the paper; `set_lr` gives it its rate."""
    in_range("momentum", momentum, 0, 1)
    in_range("weight_decay", weight_decay, 0)
    optimizer = torch.optim.SGD(_trained(model), lr=0.0, momentum=momentum, weight_decay=weight_decay, fused=True)
    for parameter in _trained(model):
        # The first step's buffer is its gradient, the same as starting from zero; but torch leaves it uninitialised when
        # that step is skipped, as with float16 it often is, and a captured step must find it there.
        optimizer.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)
    return optimizer


def adamw(
    model: nn.Module, beta1: float = 0.9, beta2: float = 0.999, weight_decay: float = 0.01
) -> torch.optim.Optimizer:
    """AdamW over all parameters alike; `set_lr` gives it its rate."""
    for name, beta in (("beta1", beta1), ("beta2", beta2)):
        in_range(name, beta, 0, 1 - 1e-9)
    in_range("weight_decay", weight_decay, 0)
    return torch.optim.AdamW(_trained(model), lr=0.0, betas=(beta1, beta2), weight_decay=weight_decay, fused=True)


def _trained(model: nn.Module) -> list[nn.Parameter]:
    return [parameter for parameter in model.parameters() if parameter.requires_grad]


OPTIMIZERS: dict[str, Callable[..., torch.optim.Optimizer]] = {"sgd": sgd, "adamw": adamw}


def set_lr(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """The same rate for every parameter group."""
    for group in optimizer.param_groups:
        group["lr"] = lr
