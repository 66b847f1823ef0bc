"""Schedules at the steps that matter."""

import math

import pytest
import torch
from torch import nn

from reid.engine.optim import OPTIMIZERS, SCHEDULES, cosine, milestones, set_lr, sgd, step_decay, warmed
from reid.errors import ConfigError


def test_the_papers_mars_schedule() -> None:
    factor = step_decay(every=10_000, factor=0.5)
    assert [0.01 * factor(t) for t in (0, 9_999, 10_000, 49_999)] == [0.01, 0.01, 0.005, 0.000625]


def test_the_papers_cifar_schedule() -> None:
    factor = milestones(at=[32_000, 48_000], iterations=64_000, factor=0.1)
    assert [factor(t) for t in (31_999, 32_000, 47_999, 48_000)] == pytest.approx([1, 0.1, 0.1, 0.01])


def test_cosine_with_warmup() -> None:
    factor = cosine(iterations=100, warmup=20)
    assert factor(0) == 1 / 20
    assert factor(19) == factor(20) == 1
    assert factor(60) == pytest.approx(0.5)
    assert factor(80) == pytest.approx(0.5 * (1 + math.cos(math.pi * 0.75)))
    assert factor(100) == factor(1000) == 0
    assert SCHEDULES["constant"]()(5) == 1


def test_any_schedule_warms_up() -> None:
    factor = warmed(step_decay(every=3, factor=0.5), 4, iterations=100)
    assert [factor(t) for t in range(7)] == [1 / 4, 2 / 4, 3 / 4, 1 * 0.5, 0.5, 0.5, 0.25]
    plain = warmed(step_decay(every=3, factor=0.5), 0, iterations=100)
    assert [plain(t) for t in range(4)] == [1, 1, 1, 0.5]
    assert [warmed(SCHEDULES["constant"](), 3, 9)(t) for t in range(4)] == [cosine(9, warmup=3)(t) for t in range(4)]
    for warmup in (-1, 10):
        with pytest.raises(ConfigError, match=f"warmup: expected 0 <= warmup < 10 iterations, got {warmup}"):
            warmed(SCHEDULES["constant"](), warmup, iterations=10)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("step", {"every": 0}),
        ("step", {"every": 5, "factor": 0.0}),
        ("milestones", {"at": [5, 3], "iterations": 10}),
        ("milestones", {"at": [5, 10], "iterations": 10}),
        ("milestones", {"at": [0], "iterations": 10}),
        ("cosine", {"iterations": 10, "warmup": 10}),
    ],
)
def test_ranges(name: str, options: dict[str, object]) -> None:
    with pytest.raises(ConfigError):
        SCHEDULES[name](**options)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_optimizers_leave_frozen_parameters_alone(name: str) -> None:
    model = nn.Linear(2, 1)
    model.bias.requires_grad_(False)
    before, optimizer = model.bias.clone(), OPTIMIZERS[name](model)
    set_lr(optimizer, 0.1)
    model(torch.ones(1, 2)).sum().backward()
    optimizer.step()
    assert torch.equal(model.bias, before)
    assert not torch.equal(model.weight, torch.zeros(1, 2))
    assert optimizer.param_groups[0]["lr"] == 0.1


def test_a_skipped_first_step_leaves_no_trace() -> None:
    weight = nn.Linear(1, 1, bias=False)
    optimizer, before = sgd(weight, weight_decay=0.0), weight.weight.item()
    set_lr(optimizer, 0.1)
    for skipped in (1.0, 0.0):
        weight.weight.grad = torch.full((1, 1), 2.0)
        optimizer.found_inf, optimizer.grad_scale = (
            torch.tensor(skipped),
            torch.tensor(1.0),
        )  # as a gradient scaler does
        optimizer.step()
    assert weight.weight.item() == pytest.approx(before - 0.2)
