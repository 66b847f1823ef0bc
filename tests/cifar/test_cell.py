"""Batches that depend on (seed, step) alone, crops against Pillow, and a cell that resumes and shares its process without a trace."""

import copy
import functools
import shutil
from collections.abc import Callable

import numpy as np
import pytest
import timm
import torch
from PIL import Image, ImageOps
from torch.nn import functional as F

import reid.models  # noqa: F401  registers the networks
from reid.cifar.batches import CellData, Labelled, Plan, centres, crops, normalised, padded, planned
from reid.cifar.cell import AHEAD, Cell, advance
from reid.engine import checkpoint
from reid.engine.optim import milestones, sgd
from reid.errors import ConfigError
from reid.losses import CCE, IMAE, GCETruncated
from reid.runtime import Runtime

CPU = Runtime(torch.device("cpu"), torch.float32)


def images(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(256, size=(count, 3, 32, 32), dtype=np.uint8)


def cell_data(count: int = 48, held: int = 0) -> CellData:
    rng = np.random.default_rng(1)

    def part(size: int, seed: int) -> Labelled:
        given, true = (torch.from_numpy(rng.integers(10, size=size)) for _ in range(2))
        return Labelled(padded(images(size, seed), np.full(3, 120.0)), given, true)

    return CellData(part(count, 1), part(held, 2), part(40, 3), torch.full((3,), 120.0), torch.full((3,), 60.0))


def make_cell(loss: torch.nn.Module, seed: int = 0, data: CellData | None = None) -> Cell:
    torch.manual_seed(seed)
    model = timm.create_model("resnet20_cifar")
    schedule = milestones([3], iterations=100)
    optimizer = functools.partial(sgd, weight_decay=1e-4)
    return Cell(model, loss, optimizer, data or cell_data(), lambda step: 0.1 * schedule(step), 16, seed, CPU)


def weights(cell: Cell) -> torch.Tensor:
    return torch.cat([value.flatten().double() for value in cell.model.state_dict().values()])


def test_a_crop_is_pillows_crop_of_the_padded_image() -> None:
    raw, fill = images(5), np.array([10.0, 20.0, 30.0])
    generator = torch.Generator().manual_seed(0)
    top, left = (torch.randint(9, (5,), generator=generator) for _ in range(2))
    flip = torch.tensor([0, 1, 0, 1, 1])
    got = crops(padded(raw, fill), torch.arange(5), top, left, flip)
    for i in range(5):
        picture = ImageOps.expand(Image.fromarray(raw[i].transpose(1, 2, 0)), 4, (10, 20, 30))
        y, x = int(top[i]), int(left[i])
        picture = picture.crop((x, y, x + 32, y + 32))
        expected = ImageOps.mirror(picture) if flip[i] else picture
        np.testing.assert_array_equal(got[i].numpy(), np.asarray(expected))
    np.testing.assert_array_equal(centres(padded(raw, fill)).numpy(), raw.transpose(0, 2, 3, 1))


def test_the_mean_colour_becomes_zero() -> None:
    data = cell_data()
    flat = torch.full((1, 32, 32, 3), 120, dtype=torch.uint8)
    assert normalised(flat, data).abs().max() == 0
    assert normalised(flat, data).is_contiguous(memory_format=torch.channels_last)


def test_every_image_comes_once_per_epoch_and_batches_are_full() -> None:
    plan = Plan(num_train=50, batch_size=16, seed=3)
    rows = np.concatenate([plan.rows(step) for step in range(25)])  # 400 places: eight epochs
    for epoch in range(8):
        assert sorted(rows[50 * epoch : 50 * (epoch + 1)]) == list(range(50))
    assert not np.array_equal(rows[:50], rows[50:100])


def test_a_batch_larger_than_the_training_set_spans_epochs() -> None:
    rows = Plan(num_train=5, batch_size=12, seed=0).rows(0)
    assert sorted(np.bincount(rows)) == [2, 2, 2, 3, 3]


def test_what_a_step_sees_depends_on_seed_and_step_alone() -> None:
    plan, again = Plan(100, 8, 5), Plan(100, 8, 5)
    planned(again, 0, 3)
    assert torch.equal(planned(plan, 40, 2), planned.__wrapped__(again, 40, 2))
    assert torch.equal(planned(plan, 40, 2)[1], planned(plan, 41, 1)[0])
    assert not torch.equal(planned(plan, 40, 1), planned(Plan(100, 8, 6), 40, 1))
    draws = np.concatenate([plan.draws(step) for step in range(60)], axis=1)
    assert draws.min(1).tolist() == [0, 0, 0] and draws.max(1).tolist() == [8, 8, 1]


COMPILED = pytest.param(True, marks=pytest.mark.skipif(shutil.which("g++") is None, reason="needs a C++ compiler"))


@pytest.mark.parametrize("compiled", [False, COMPILED])
def test_a_step_is_plain_sgd_on_the_planned_batch(compiled: bool) -> None:
    data, classifier = cell_data(), torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * 32 * 32, 10))
    model = copy.deepcopy(classifier)  # linear: rounding stays rounding, and the momentum, the decay and the rate show
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=0.3)
    step_decay = milestones([3], iterations=100)
    rate = lambda step: 1e-3 * step_decay(step)  # noqa: E731
    cell = Cell(classifier, CCE(), functools.partial(sgd, weight_decay=0.3), data, rate, 16, 0, CPU, compiled)
    for step in range(5):
        optimizer.param_groups[0]["lr"] = 1e-3 if step < 3 else 1e-4
        row, *draws = planned(cell.plan, step, 1)[0]
        optimizer.zero_grad()
        F.cross_entropy(
            model(normalised(crops(data.train.images, row, *draws), data)), data.train.given[row]
        ).backward()
        optimizer.step()
    advance([cell], 5)
    for mine, theirs in zip(cell.model.parameters(), model.parameters(), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-6)


def test_a_compiled_step_without_a_compiler_is_one_line() -> None:
    class InvalidCxxCompiler(RuntimeError):
        __module__ = "torch._inductor.exc"

    def fails(images: torch.Tensor) -> torch.Tensor:
        raise InvalidCxxCompiler("No working C++ compiler found")

    cell = make_cell(CCE())
    cell.forward = fails
    with pytest.raises(ConfigError, match=r"torch.compile failed: No working C\+\+ compiler found; install"):
        advance([cell], 1)


LOSSES: list[Callable[[], torch.nn.Module]] = [
    lambda: IMAE(T=8.0),
    lambda: GCETruncated(num_samples=48, iterations=6),  # it has a state of its own
]


@pytest.mark.parametrize("loss", LOSSES)
def test_resuming_is_exact(loss: Callable[[], torch.nn.Module], tmp_path) -> None:
    whole = make_cell(loss())
    advance([whole], 6)
    before, after = make_cell(loss()), make_cell(loss(), seed=0)
    advance([before], 4)
    checkpoint.save(tmp_path / "c.pt", cell=before.state())
    advance([before], 1)  # a state is a copy, or saved before anything goes on
    after.restore(checkpoint.load(tmp_path / "c.pt")["cell"], "c.pt")
    advance([after], 2)
    assert torch.equal(weights(after), weights(whole))
    assert after.loss_sum == whole.loss_sum and after.steps == 6


def test_cells_side_by_side_are_as_if_alone() -> None:
    alone, together = [make_cell(CCE(), 0), make_cell(IMAE(8.0), 1)], [make_cell(CCE(), 0), make_cell(IMAE(8.0), 1)]
    for cell in alone:
        advance([cell], 3)
    advance(together, 3)
    for one, other in zip(alone, together, strict=True):
        assert torch.equal(weights(one), weights(other))


def test_a_run_longer_than_what_is_planned_ahead_goes_on_where_it_should(monkeypatch) -> None:
    monkeypatch.setattr("reid.cifar.cell.AHEAD", 2)
    short = make_cell(CCE())
    monkeypatch.setattr("reid.cifar.cell.AHEAD", AHEAD)
    long = make_cell(CCE())
    monkeypatch.setattr("reid.cifar.cell.AHEAD", 2)
    advance([short], 5)
    monkeypatch.setattr("reid.cifar.cell.AHEAD", AHEAD)
    advance([long], 5)
    assert torch.equal(weights(short), weights(long))


def test_evaluation_counts_what_it_says_and_changes_nothing() -> None:
    data = cell_data(held=8)
    cell = make_cell(CCE(), data=data)
    advance([cell], 2)
    before, loss = weights(cell), float(cell.loss_sum)
    figures = cell.evaluate()
    assert torch.equal(weights(cell), before) and cell.model.training and cell.loss_sum == 0
    model = copy.deepcopy(cell.model).eval()
    with torch.no_grad():
        logits = model(normalised(centres(data.train.images), data))
        held = model(normalised(centres(data.held_out.images), data)).argmax(1)
    p = F.softmax(logits, 1)[torch.arange(48), data.train.given]
    expected = {
        "train_corrupted": (logits.argmax(1) == data.train.given).double().mean(),
        "train_intact": (logits.argmax(1) == data.train.true).double().mean(),
        "holdout_noisy": (held == data.held_out.given).double().mean(),
        "holdout_clean": (held == data.held_out.true).double().mean(),
        "max_logit": logits.abs().max(),
        "saturated": (p < 1e-4).double().mean(),
        "head_norm": torch.linalg.matrix_norm(model.fc.weight.detach()),
        "loss": loss,
    }
    for name, value in expected.items():
        assert figures[name] == pytest.approx(float(value), rel=1e-4), name
    with torch.no_grad():
        batch = copy.deepcopy(cell.model).train()(normalised(centres(data.test.images), data)).argmax(1)
    in_batch = float((batch == data.test.true).double().mean())
    assert figures["batch_gap"] == pytest.approx(in_batch - figures["test"], abs=1e-6)


@pytest.mark.parametrize(("depth", "millions"), [(20, 0.27), (32, 0.46), (56, 0.85)])
def test_networks_have_the_papers_size(depth: int, millions: float) -> None:
    model = timm.create_model(f"resnet{depth}_cifar")
    assert round(sum(parameter.numel() for parameter in model.parameters()) / 1e6, 2) == millions
    assert sum(isinstance(module, torch.nn.Conv2d) for module in model.modules()) + 1 == depth
    assert model(torch.zeros(2, 3, 32, 32)).shape == (2, 10)
    assert timm.create_model(f"resnet{depth}_cifar", num_classes=0)(torch.zeros(2, 3, 32, 32)).shape == (2, 64)


def test_a_shortcut_that_changes_size_subsamples_and_pads_with_zeros() -> None:
    block = timm.create_model("resnet20_cifar").blocks[3]
    torch.nn.init.zeros_(block.bn2.weight)  # nothing but the shortcut is left
    x = torch.rand(2, 16, 8, 8)
    y = block.eval()(x)
    assert y.shape == (2, 32, 4, 4)
    torch.testing.assert_close(y[:, 8:24], x[:, :, ::2, ::2])
    assert y[:, :8].abs().max() == 0 and y[:, 24:].abs().max() == 0


@pytest.mark.gpu
def test_a_captured_cell_takes_the_steps_of_an_eager_one() -> None:
    gpu = Runtime(torch.device("cuda"), torch.float32)
    cpu_data = cell_data()
    move = lambda part: Labelled(*(value.cuda() for value in vars(part).values()))  # noqa: E731
    data = CellData(
        move(cpu_data.train), move(cpu_data.held_out), move(cpu_data.test), cpu_data.mean.cuda(), cpu_data.std.cuda()
    )

    def build(seed: int) -> Cell:
        torch.manual_seed(seed)
        optimizer = functools.partial(sgd, weight_decay=1e-4)
        return Cell(timm.create_model("resnet20_cifar"), IMAE(8.0), optimizer, data, lambda step: 0.1, 16, seed, gpu)

    eager, captured = [build(0), build(1)], [build(0), build(1)]
    for cell in captured:
        cell.capture()
    for one, other in zip(eager, captured, strict=True):
        assert torch.equal(weights(one), weights(other))  # capturing leaves no trace
    advance(eager, 3)
    advance(captured, 3)
    torch.cuda.synchronize()
    for one, other in zip(eager, captured, strict=True):
        torch.testing.assert_close(weights(one), weights(other), rtol=1e-4, atol=1e-5)
