"""Optimisers and learning-rate schedules. The learning rate of step t is a pure function of t: resuming needs no scheduler state."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection
from typing import Any

import torch
from timm.optim import param_groups_layer_decay
from torch import nn

from reid.errors import ConfigError, in_range
from reid.models.embedding import Classifier

Schedule = Callable[[int], float]


def constant() -> Schedule:
    """Factor 1 at every step."""
    return lambda step: 1.0


def step_decay(every: int, factor: float = 0.5) -> Schedule:
    """Factor `factor`^(step // every). The paper's MARS schedule halves the learning rate every 10,000 steps."""
    in_range("every", every, 1)
    in_range("factor", factor, 0, 1, above=True)
    return lambda step: factor ** (step // every)


def milestones(at: list[int], iterations: int, factor: float = 0.1) -> Schedule:
    """Factor `factor`^(number of milestones reached); the milestones must rise and lie within the `iterations` of the training."""
    in_range("factor", factor, 0, 1, above=True)
    if list(at) != sorted(at) or not all(0 < step < iterations for step in at):
        raise ConfigError(f"at: expected rising steps within 1..{iterations - 1}, got {list(at)}")
    return lambda step: factor ** sum(step >= milestone for milestone in at)


def cosine(iterations: int, warmup: int = 0) -> Schedule:
    """Linear warm-up over the first `warmup` steps, then half a cosine from 1 down to 0 at the end of training."""
    if not 0 <= warmup < iterations:
        raise ConfigError(f"warmup: expected 0 <= warmup < {iterations} iterations, got {warmup}")

    def factor(step: int) -> float:
        if step < warmup:
            return (step + 1) / warmup
        return 0.5 * (1 + math.cos(math.pi * min(1.0, (step - warmup) / (iterations - warmup))))

    return factor


def warmed(schedule: Schedule, warmup: int, iterations: int, start: float = 0.0) -> Schedule:
    """The schedule times a linear warm-up factor, which rises from `start` and reaches 1 at the last of the first `warmup` steps."""
    in_range("warmup_start", start, 0, 1)
    if not 0 <= warmup < iterations:
        raise ConfigError(f"warmup: expected 0 <= warmup < {iterations} iterations, got {warmup}")
    if not warmup:
        return schedule
    return lambda step: (start + (1 - start) * min(1.0, (step + 1) / warmup)) * schedule(step)


SCHEDULES: dict[str, Callable[..., Schedule]] = {
    "constant": constant,
    "step": step_decay,
    "milestones": milestones,
    "cosine": cosine,
}


def sgd(
    model: nn.Module,
    momentum: float = 0.9,
    weight_decay: float = 5e-4,
    head_lr: float = 1.0,
    layer_decay: float | None = None,
) -> torch.optim.Optimizer:
    """SGD; by default all parameters have the same learning rate and weight decay, as in Caffe and the paper. `set_lr` sets the rate.

    Args:
        model: the network to train.
        momentum: in [0, 1].
        weight_decay: >= 0, L2 regularisation.
        head_lr: as in `parameter_groups`.
        layer_decay: as in `parameter_groups`.

    Raises:
        ConfigError: a setting is out of range.
    """
    in_range("momentum", momentum, 0, 1)
    in_range("weight_decay", weight_decay, 0)
    groups = parameter_groups(model, weight_decay, head_lr, layer_decay)
    optimizer = torch.optim.SGD(groups, lr=0.0, momentum=momentum, weight_decay=weight_decay, fused=True)
    for parameter in _trained(model):
        # torch sets the buffer to the gradient of the first step, which equals a start from zero. But it leaves the buffer
        # uninitialised if that step is skipped, as is frequent with float16, and a captured CUDA graph needs it to exist.
        optimizer.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)
    return optimizer


def adam(
    model: nn.Module,
    beta1: float = 0.9,
    beta2: float = 0.999,
    weight_decay: float = 5e-4,
    head_lr: float = 1.0,
    layer_decay: float | None = None,
    amsgrad: bool = False,
) -> torch.optim.Optimizer:
    """Adam with L2 regularisation: the weight decay is added to the gradient. Other arguments as in `adamw`.

    Args:
        amsgrad: divide by the largest second moment so far (Reddi et al., "On the Convergence of Adam and Beyond", ICLR 2018).
    """
    return _adam(torch.optim.Adam, model, beta1, beta2, weight_decay, head_lr, layer_decay, amsgrad=amsgrad)


def adamw(
    model: nn.Module,
    beta1: float = 0.9,
    beta2: float = 0.999,
    weight_decay: float = 0.01,
    head_lr: float = 1.0,
    layer_decay: float | None = None,
) -> torch.optim.Optimizer:
    """AdamW: weight decay is decoupled from the gradient, and by default the same for all parameters. `set_lr` sets the learning rate.

    Args:
        model: the network to train.
        beta1: in [0, 1).
        beta2: in [0, 1).
        weight_decay: >= 0.
        head_lr: as in `parameter_groups`.
        layer_decay: as in `parameter_groups`.

    Raises:
        ConfigError: a setting is out of range.
    """
    return _adam(torch.optim.AdamW, model, beta1, beta2, weight_decay, head_lr, layer_decay)


def _adam(
    kind: type[torch.optim.Adam],
    model: nn.Module,
    beta1: float,
    beta2: float,
    weight_decay: float,
    head_lr: float,
    layer_decay: float | None,
    *,
    amsgrad: bool = False,
) -> torch.optim.Optimizer:
    for name, beta in (("beta1", beta1), ("beta2", beta2)):
        in_range(name, beta, 0, 1 - 1e-9)
    in_range("weight_decay", weight_decay, 0)
    groups = parameter_groups(model, weight_decay, head_lr, layer_decay)
    return kind(groups, lr=0.0, betas=(beta1, beta2), weight_decay=weight_decay, amsgrad=amsgrad, fused=True)


def parameter_groups(
    model: nn.Module, weight_decay: float, head_lr: float = 1.0, layer_decay: float | None = None
) -> list[Any]:
    """The trained parameters: as one list, or as groups with a factor ``lr_scale`` of the learning rate, which `set_lr` applies.

    Args:
        model: a `Classifier`. Any other network has no backbone here, and all its parameters belong to the head.
        weight_decay: of all parameters. With `layer_decay`, one-dimensional parameters of the backbone (norms, biases) and those that timm
            exempts (such as position embeddings) have none.
        head_lr: > 0, factor of the learning rate of all parameters outside of the backbone: neck and classifier.
        layer_decay: in (0, 1], factor of the learning rate from each layer of the backbone to the one before it; the last layer has
            factor 1. timm defines the layers (`timm.optim.param_groups_layer_decay`). Source: Clark et al., "ELECTRA", 2020 (fine-tuning).

    Raises:
        ConfigError: a factor is out of range, or the backbone has no `group_matcher`, by which timm finds its layers.
    """
    in_range("head_lr", head_lr, 0, above=True)
    if layer_decay is None and head_lr == 1:
        return _trained(model)
    backbone = model.embedding.backbone if isinstance(model, Classifier) else nn.Module()
    groups: list[dict[str, Any]] = [{"params": _trained(backbone)}]
    if layer_decay is not None:
        in_range("layer_decay", layer_decay, 0, 1, above=True)
        if isinstance(model, Classifier) and not hasattr(backbone, "group_matcher"):
            raise ConfigError(f"layer_decay: {type(backbone).__name__} has no list of layers; remove this setting")
        undecayed: Collection[str] = getattr(backbone, "no_weight_decay", tuple)()
        if _trained(backbone):
            groups = param_groups_layer_decay(backbone, weight_decay, undecayed, layer_decay=layer_decay)
    inside = {id(parameter) for parameter in backbone.parameters()}
    head = [parameter for parameter in _trained(model) if id(parameter) not in inside]
    return [group for group in (*groups, {"params": head, "lr_scale": head_lr}) if group["params"]]


def _trained(model: nn.Module) -> list[nn.Parameter]:
    return [parameter for parameter in model.parameters() if parameter.requires_grad]


OPTIMIZERS: dict[str, Callable[..., torch.optim.Optimizer]] = {"sgd": sgd, "adam": adam, "adamw": adamw}


def set_lr(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """Sets the learning rate of every parameter group, multiplied by the group's ``lr_scale`` if it has one."""
    for group in optimizer.param_groups:
        group["lr"] = lr * group.get("lr_scale", 1.0)
