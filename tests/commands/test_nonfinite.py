"""A loss that is infinite at one image: `train.nonfinite` stops with the batch listed, or skips, and resumes as if nothing had been."""

import csv
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from reid import config, experiment
from reid.commands.train import Options, run
from reid.engine import checkpoint
from reid.experiment import training
from reid.losses import CCE
from reid.runtime import Runtime
from tests.commands.conftest import CONFIG
from tests.commands.test_resume import TIMES, assert_same

EXPLODES = "loss={name: explodes}"
SETTINGS = ["run.yaml", EXPLODES, "--output-dir"]


class Explodes(nn.Module):
    """Cross entropy that is infinite at some frames."""

    bad: Tensor

    def forward(self, logits_BK: Tensor, target_B: Tensor, index_B: Tensor) -> Tensor:
        loss_B: Tensor = CCE()(logits_BK, target_B)
        return loss_B * torch.where(torch.isin(index_B, self.bad), torch.inf, 1.0)


@pytest.fixture
def step(workplace: Path, monkeypatch: pytest.MonkeyPatch) -> int:
    """A step, from 1, whose first image is that of the infinite loss; it follows a checkpoint, and no step before has the image."""
    (workplace / "run.yaml").write_text(CONFIG.replace("resnet10t", "test_resnet"))
    settings = config.load("run.yaml")
    cpu = Runtime(torch.device("cpu"), torch.float32)
    sampler = experiment.build_job(settings, experiment.load_data(settings).train, cpu).sampler
    earlier = set().union(*(sampler(before).tolist() for before in range(6)))
    frame = next(one for one in sampler(6).tolist() if one not in earlier)
    Explodes.bad = torch.tensor([frame])
    monkeypatch.setitem(training.ALL_LOSSES, "explodes", Explodes)
    return 7


def train(folder: str, *settings: str, resume: str | None = None) -> None:
    """As `robust-reid train`, without the test at the end."""
    run(config.load("run.yaml", [EXPLODES, *settings]), Options(Path(folder), resume=resume, then_test=False))


def assert_same_training(ours: Path, theirs: Path) -> None:
    one, two = (checkpoint.load(folder / "checkpoints/last.pt") for folder in (ours, theirs))
    for part in ("model", "optimizer", "nonfinite", "evidence", "step"):
        assert_same(one[part], two[part])
    rows: list[list[dict[str, Any]]] = []
    for folder in (ours, theirs):
        lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
        rows.append([{key: value for key, value in row.items() if key not in TIMES} for row in lines])
    assert rows[0] == rows[1]
    assert (ours / "nonfinite.csv").read_bytes() == (theirs / "nonfinite.csv").read_bytes()


def test_stopped_and_gone_on_without_the_step(step: int, workplace: Path, fails: Any) -> None:
    stopped = workplace / "stopped"
    message = fails("train", *SETTINGS, "stopped")
    assert f"training diverged at step {step}: the loss of 1 of 8 images is not finite (first: " in message
    assert "nonfinite.csv; lower train.lr" in message and "--resume auto train.nonfinite=skip" in message
    with open(stopped / "nonfinite.csv", newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert [row["step"] for row in rows] == [str(step)] * 8 and [row["loss"] for row in rows].count("inf") == 1
    culprit = next(row["path"] for row in rows if row["loss"] == "inf")
    assert culprit in message and Path(culprit).is_file()
    assert int(Path(culprit).name[:4]) == int(next(row["pid"] for row in rows if row["loss"] == "inf"))

    train("stopped", "train.nonfinite=skip", resume="auto")
    told = (stopped / "log.txt").read_text()
    assert (
        f"step {step} skipped: the loss of 1 of 8 images" in told and "because the loss or the gradient was not" in told
    )
    train("whole", "train.nonfinite=skip")
    assert_same_training(stopped, workplace / "whole")
    last = json.loads((stopped / "metrics.jsonl").read_text().splitlines()[-1])
    assert last["step"] == 12 and last["skipped_steps"] >= 1
    assert "nonfinite: skip" in (stopped / "config.yaml").read_text()


def test_what_was_skipped_is_remembered_across_a_resume(step: int, workplace: Path) -> None:
    skip = "train.nonfinite=skip"
    train("grown", skip, f"train.iterations={step + 1}")
    assert checkpoint.load(workplace / "grown/checkpoints/last.pt")["nonfinite"]["skipped"] == 1
    train("grown", skip, resume="auto")
    train("whole", skip)
    one, two = (checkpoint.load(workplace / name / "checkpoints/last.pt") for name in ("grown", "whole"))
    for part in ("model", "optimizer", "nonfinite", "step"):
        assert_same(one[part], two[part])


def test_weights_that_are_at_fault_end_the_run(step: int, workplace: Path, fails: Any) -> None:
    message = fails("train", *SETTINGS, "stopped", "train.lr=1e30")
    assert "loss of 8 of 8 images is not finite" in message and "train.nonfinite" not in message  # no step would do
    everything = ["train.nonfinite=skip", "train.iterations=60", "train.lr=1e30"]
    message = fails("train", *SETTINGS, "run", *everything)
    assert (
        "20 steps in a row, up to step" in message and "nonfinite.csv" in message and "train.nonfinite" not in message
    )
    assert "expected" in fails("train", *SETTINGS, "other", "train.nonfinite=ignore")
