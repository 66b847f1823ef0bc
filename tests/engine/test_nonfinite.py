"""Steps whose loss or gradient is not finite: training stops with the batch named, or goes on as if the step had not been."""

import csv
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from reid.engine.ema import Averaged
from reid.engine.evidence import Evidence
from reid.engine.nonfinite import IN_A_ROW, KEPT, Before, Nonfinite, NotFinite, write_batches
from reid.engine.objective import SumOfLosses
from reid.engine.train import Job, fit
from reid.errors import ConfigError
from reid.losses import CCE, ELR
from reid.metric_losses import Centre
from reid.tracklets import Split
from tests.engine.conftest import CPU, make_job

BAD = 3  # the frame whose loss or gradient explodes


class Explodes(nn.Module):
    """Cross entropy, with an infinite loss at one frame, or with a finite loss whose gradient is not a number."""

    def __init__(self, gradient_only: bool = False) -> None:
        super().__init__()
        self.gradient_only = gradient_only

    def forward(self, logits_BK: Tensor, target_B: Tensor, index_B: Tensor) -> Tensor:
        loss_B: Tensor = CCE()(logits_BK, target_B)
        if self.gradient_only:
            return loss_B + torch.where(index_B == BAD, logits_BK[:, 0] * 0, 1.0).abs().sqrt()  # the root's slope at 0
        return loss_B * torch.where(index_B == BAD, torch.inf, 1.0)


class WithMemory(SumOfLosses):
    """Explodes, after losses that remember have taken in the step."""

    def __init__(self) -> None:
        super().__init__(
            {"explodes": Explodes(), "elr": ELR(24, 3, top=2), "centre": Centre(3, 8)},
            dict.fromkeys(("explodes", "elr", "centre"), 1.0),
        )


def steps_with_it(job: Job) -> list[int]:
    return [step for step in range(job.iterations) if BAD in job.sampler(step)]


@pytest.mark.parametrize("gradient_only", [False, True])
def test_it_stops_and_names_the_batch(split: Split, tmp_path: Path, gradient_only: bool) -> None:
    job = replace(make_job(split), loss=Explodes(gradient_only))
    step = steps_with_it(job)[0]
    what = "gradient is not finite, though the losses of its 5 images are" if gradient_only else "loss of 1 of 5 images"
    with pytest.raises(NotFinite, match=rf"training diverged at step {step + 1}: the {what}") as caught:
        fit(job, CPU)
    assert gradient_only or "03.png" in str(caught.value)
    assert job.nonfinite.rows[:, 0].tolist() == [step + 1] * 5
    assert job.nonfinite.rows[:, 1].tolist() == job.sampler(step).tolist()
    file = tmp_path / "nonfinite.csv"
    write_batches(file, job.nonfinite.rows, split, np.repeat(split.pid, 4))
    with open(file, newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert [Path(row["path"]).name for row in rows] == [f"{frame:02d}.png" for frame in job.sampler(step)]
    assert [int(row["pid"]) for row in rows] == split.pid[job.sampler(step) // 4].tolist()
    assert [row["loss"] for row in rows].count("inf") == (0 if gradient_only else 1)
    write_batches(file, torch.zeros(0, 3), split, np.zeros(24))
    assert not file.exists()


def whole_state(job: Job) -> dict[str, Any]:
    assert job.ema is not None and job.evidence is not None
    parts = {name: getattr(job, name).state_dict() for name in ("model", "loss", "ema", "evidence")}
    momentum = [state["momentum_buffer"] for state in job.optimizer.state.values()]
    flat = {f"{part}.{name}": value for part, state in parts.items() for name, value in state.items()}
    return flat | {f"momentum.{i}": value for i, value in enumerate(momentum)}


@pytest.mark.parametrize("loss", [Explodes, lambda: Explodes(gradient_only=True), WithMemory])
@pytest.mark.parametrize("accumulate", [1, 2])
def test_a_skipped_step_leaves_nothing_behind(split: Split, loss: Any, accumulate: int) -> None:
    """Against a run that is told to begin anew after each such step; a batch has 5 of 24 images, so it meets the bad one twice or more."""

    def fresh() -> Job:
        job = make_job(split, norm=True, iterations=15, accumulate=1 if loss is WithMemory else accumulate)
        objective = loss()
        job.model.with_features = isinstance(objective, SumOfLosses)
        return replace(
            job, loss=objective, ema=Averaged(job.model, 0.9), evidence=Evidence(split, 15), nonfinite=Nonfinite("skip")
        )

    job, expected, rows = fresh(), fresh(), []
    fit(job, CPU, on_log=rows.append)
    bad = steps_with_it(job)
    assert len(bad) >= 2
    for step in set(range(15)) - set(bad):
        fit(replace(expected, iterations=step + 1), CPU, first_step=step)
    ours, theirs = whole_state(job), whole_state(expected)
    assert ours.keys() == theirs.keys()
    for name in ours:
        assert torch.equal(ours[name], theirs[name]), name
    assert job.nonfinite.skipped == len(bad) == rows[-1]["skipped_steps"] and expected.nonfinite.skipped == 0
    assert all(np.isfinite(list(row.values())).all() for row in rows)
    assert sum(frame == BAD for frame in job.nonfinite.rows[:, 1].tolist()) == len(bad)


def test_a_window_of_skipped_steps_has_no_row(split: Split) -> None:
    job = replace(make_job(split, log_freq=1), loss=Explodes(), nonfinite=Nonfinite("skip"))
    rows: list[dict[str, float]] = []
    fit(job, CPU, on_log=rows.append)
    assert [row["step"] for row in rows] == [step + 1 for step in range(12) if BAD not in job.sampler(step)]


def test_weights_that_are_at_fault_are_given_up(split: Split) -> None:
    job = replace(make_job(split, lr=1e30, iterations=100), nonfinite=Nonfinite("skip"))
    with pytest.raises(NotFinite, match=f"{IN_A_ROW} steps in a row, up to step "):
        fit(job, CPU)
    assert job.nonfinite.skipped < 30 and len(job.nonfinite.rows) == 5 * KEPT


def test_what_the_loss_scaler_skips_is_not_skipped_twice(split: Split) -> None:
    skipped, scales = [], []
    for gradient_only in (False, True):
        scaler = torch.amp.GradScaler("cpu", init_scale=1024.0, growth_interval=1000)
        job = replace(make_job(split), loss=Explodes(gradient_only), nonfinite=Nonfinite("skip"), scaler=scaler)
        before = steps_with_it(job)
        fit(job, CPU)
        skipped.append(job.nonfinite.skipped)
        scales.append(scaler.get_scale())
        assert all(bool(parameter.isfinite().all()) for parameter in job.model.parameters())
    assert skipped == [len(before), 0]
    assert scales == [1024.0, 1024.0 / 2 ** len(before)]  # a loss that is not finite is not the scale's fault


def test_only_the_rows_of_a_step_are_copied_of_what_a_loss_remembers() -> None:
    loss = ELR(1000, 3)
    before = Before(nn.BatchNorm1d(2), nn.ModuleDict({"elr": loss}), torch.tensor([5, 7]))
    assert before._copies[1]["elr.memory"].shape == (2, 3)
    loss.memory[5:9] = 1.0
    before.restore()
    assert loss.memory.sum(1).nonzero().flatten().tolist() == [6, 8]


def test_another_policy_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"train\.nonfinite: expected stop or skip, got 'ignore'"):
        Nonfinite("ignore")
