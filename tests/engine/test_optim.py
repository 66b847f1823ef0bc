"""Schedules at the steps that matter."""

import copy
import math

import pytest
import timm
import torch
from torch import nn

from reid.engine.optim import OPTIMIZERS, SCHEDULES, cosine, milestones, set_lr, sgd, step_decay, warmed
from reid.errors import ConfigError
from reid.models.embedding import Classifier, Embedding


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


def test_a_warm_up_may_rise_from_a_factor() -> None:
    factor = warmed(SCHEDULES["constant"](), 4, iterations=10, start=0.2)
    assert [factor(t) for t in range(5)] == pytest.approx([0.4, 0.6, 0.8, 1.0, 1.0])
    with pytest.raises(ConfigError, match="warmup_start"):
        warmed(SCHEDULES["constant"](), 4, iterations=10, start=1.5)


def vit() -> Classifier:
    backbone = timm.create_model("vit_tiny_patch16_224", num_classes=0, depth=3, img_size=32)
    return Classifier(Embedding(backbone, "bn"), 4)


def test_layers_have_rates_that_decay_from_the_last_to_the_first() -> None:
    """Against the exponents written down: embeddings are layer 0, the blocks 1 to 3, the last with the norm behind it."""
    model = vit()
    optimizer = OPTIMIZERS["adamw"](model, weight_decay=0.1, layer_decay=0.5, head_lr=3.0)
    set_lr(optimizer, 1e-2)
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    depth = {"embedding.backbone.blocks.0": 1, "embedding.backbone.blocks.1": 2, "embedding.backbone.blocks.2": 3}
    seen = set()
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            name = names[id(parameter)]
            seen.add(name)
            if not name.startswith("embedding.backbone."):
                assert (group["lr"], group["weight_decay"]) == pytest.approx((3e-2, 0.1)), name
                continue
            layer = next((n for start, n in depth.items() if name.startswith(start)), 3 if ".norm." in name else 0)
            assert group["lr"] == pytest.approx(1e-2 * 0.5 ** (3 - layer)), name
            exempt = parameter.ndim == 1 or name.endswith(("pos_embed", "cls_token"))
            assert group["weight_decay"] == (0 if exempt else 0.1), name
    assert seen == {name for name, parameter in model.named_parameters() if parameter.requires_grad}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_rate_for_the_head(name: str) -> None:
    """The same step as two optimisers of one rate each."""
    torch.manual_seed(0)
    backbone = nn.Sequential(nn.Flatten(), nn.Linear(12, 6), nn.ReLU())
    backbone.num_features = 6
    together = Classifier(Embedding(backbone, "bn"), 4)
    apart = copy.deepcopy(together)
    images = torch.randn(5, 3, 2, 2)
    plain = {"sgd": torch.optim.SGD, "adam": torch.optim.Adam, "adamw": torch.optim.AdamW}[name]
    settings = {"weight_decay": 0.1, **({"momentum": 0.9} if name == "sgd" else {})}
    one = OPTIMIZERS[name](together, weight_decay=0.1, head_lr=10.0)
    two = [
        plain(apart.embedding.backbone.parameters(), lr=1e-3, **settings),
        plain([*apart.embedding.neck.parameters(), *apart.head.parameters()], lr=1e-2, **settings),
    ]
    for _ in range(3):
        set_lr(one, 1e-3)
        for model, optimizers in ((together, [one]), (apart, two)):
            model(images).square().sum().backward()
            for optimizer in optimizers:
                optimizer.step()
                optimizer.zero_grad()
    for a, b in zip(together.parameters(), apart.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)


def test_parameters_are_one_group_unless_told_otherwise() -> None:
    for name in OPTIMIZERS:
        assert len(OPTIMIZERS[name](vit()).param_groups) == 1
        with pytest.raises(ConfigError, match="head_lr"):
            OPTIMIZERS[name](vit(), head_lr=0.0)
        with pytest.raises(ConfigError, match="layer_decay"):
            OPTIMIZERS[name](vit(), layer_decay=1.1)
    flat = nn.Flatten()
    flat.num_features = 12
    with pytest.raises(ConfigError, match="layer_decay: Flatten has no list of layers"):
        sgd(Classifier(Embedding(flat), 3), layer_decay=0.5)
