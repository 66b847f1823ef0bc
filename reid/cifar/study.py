"""The CIFAR study, from a config to one record per cell. Cells are independent, and each is resumed separately.

Shapes: N training images, M held-out or test images, K classes.
"""

from __future__ import annotations

import functools
import hashlib
import json
from typing import Any

import numpy as np
import timm
import torch

import reid.models  # noqa: F401  registers the networks with timm
from reid.binding import build, problems_of_component, with_defaults
from reid.cifar.batches import CellData, Labelled, padded
from reid.cifar.cell import Cell
from reid.cifar.config import CellSpec, StudyConfig, slug
from reid.cifar.data import HUMAN_KINDS
from reid.cifar.folder import Files
from reid.cifar.labels import STUDY_NOISES, Labels, StudyData
from reid.config import Component
from reid.engine import checkpoint
from reid.engine.optim import SCHEDULES, sgd
from reid.errors import ConfigError, nearest
from reid.files import atomic
from reid.losses import LOSSES
from reid.runtime import Runtime, environment, seed_of


def check(config: StudyConfig) -> None:
    """Checks the settings of every loss, noise, schedule and optimiser, and that no cell occurs twice.

    Raises:
        ConfigError: one line per mistake.
    """

    def known(kind: str) -> Labels:
        if kind not in HUMAN_KINDS:
            raise ConfigError(f"kind: unknown {kind!r}; {nearest(kind, list(HUMAN_KINDS))}")
        return np.zeros(1)

    given = {"labels_N": np.zeros(1, np.int64), "num_classes": 2, "to": [1, 0], "human_labels": known}
    iterations = {"iterations": config.train.iterations}
    problems = []
    for loss in config.loss:
        problems += problems_of_component("loss", LOSSES, loss, {"num_samples": 1, "num_classes": 2, **iterations})
    for noise in config.noise:
        problems += problems_of_component("noise", STUDY_NOISES, noise, given)
    problems += problems_of_component("train.schedule", SCHEDULES, config.train.schedule, iterations)
    problems += problems_of_component(
        "train.optimizer", {"sgd": sgd}, config.train.optimizer, {"model": torch.nn.Linear(1, 1)}
    )
    if config.train.points > config.train.iterations:
        problems.append(
            f"train.points: expected at most {config.train.iterations} iterations, got {config.train.points}"
        )
    names = [cell.name for cell in completed(config).cells()] if not problems else []
    problems += [f"grid: {name} appears twice" for name in sorted({name for name in names if names.count(name) > 1})]
    if problems:
        raise ConfigError(*(f"{config.name}: {problem}" for problem in problems))


def completed(config: StudyConfig) -> StudyConfig:
    """The config with all defaults of losses, noises, optimiser and schedule filled in, so that equal cells have equal names."""
    train = config.train.model_copy(
        update={
            "optimizer": with_defaults({"sgd": sgd}, config.train.optimizer),
            "schedule": with_defaults(SCHEDULES, config.train.schedule),
        }
    )
    losses = [with_defaults(LOSSES, loss) for loss in config.loss]
    noises = [with_defaults(STUDY_NOISES, noise) for noise in config.noise]
    return config.model_copy(update={"train": train, "loss": losses, "noise": noises})


def fingerprint(config: StudyConfig, data: StudyData, runtime: Runtime, spec: CellSpec) -> str:
    """Checksum of everything that the figures of a cell depend on (settings, data, dtype), as 16 hexadecimal digits."""
    settings = [config.train.model_dump(), spec.loss.model_dump(), spec.depth, spec.seed]
    text = json.dumps([*settings, data.digest(spec.noise), str(runtime.dtype)], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


class Trainer:
    """Builds cells, trains them and writes their records.

    Args:
        config: after `check` and `completed`.
        data: from `load_data`.
        files: paths of records and checkpoints.
        runtime: device and dtype.
    """

    def __init__(self, config: StudyConfig, data: StudyData, files: Files, runtime: Runtime) -> None:
        self.config, self.data, self.files, self.runtime = config, data, files, runtime
        images_NCHW = data.cifar.train.images_NCHW[data.train_rows]
        mean, std = images_NCHW.mean((0, 2, 3)), images_NCHW.std((0, 2, 3))
        self._images = {
            "train": padded(images_NCHW, mean).to(runtime.device),
            "held_out": padded(data.cifar.train.images_NCHW[data.held_rows], mean).to(runtime.device),
            "test": padded(data.cifar.test.images_NCHW, mean).to(runtime.device),
        }
        self._mean, self._std = (
            torch.tensor(value, dtype=torch.float32, device=runtime.device) for value in (mean, std)
        )

    def data_of(self, noise: Component) -> CellData:
        """Images, and labels under a noise of the grid, on the device."""
        true_N, given_N = self.data.cifar.train.labels_N, self.data.given[slug(noise)]
        test_M = self.data.cifar.test.labels_N
        labels = {
            "train": (given_N[self.data.train_rows], true_N[self.data.train_rows]),
            "held_out": (given_N[self.data.held_rows], true_N[self.data.held_rows]),
            "test": (test_M, test_M),
        }
        parts = {
            name: Labelled(self._images[name], *(torch.from_numpy(value).to(self.runtime.device) for value in pair))
            for name, pair in labels.items()
        }
        return CellData(**parts, mean=self._mean, std=self._std)

    def build(self, spec: CellSpec) -> Cell:
        """Builds a cell before its first step; cells of one depth and seed start from the same weights."""
        train = self.config.train
        torch.manual_seed(seed_of(spec.seed, "init"))
        model = timm.create_model(f"resnet{spec.depth}_cifar", num_classes=len(self.data.cifar.classes))
        data, about = self.data_of(spec.noise), {"iterations": train.iterations}
        schedule = build("train.schedule", SCHEDULES, train.schedule, **about)
        return Cell(
            model=model,
            loss=build(
                "loss",
                LOSSES,
                spec.loss,
                num_samples=len(data.train),
                num_classes=len(self.data.cifar.classes),
                **about,
            ),
            optimizer=functools.partial(sgd, **train.optimizer.options),
            data=data,
            rate=lambda step: train.lr * schedule(step),
            batch_size=train.batch_size,
            seed=spec.seed,
            runtime=self.runtime,
            compiled=self.config.machine.compile,
        )

    def fingerprint(self, spec: CellSpec) -> str:
        return fingerprint(self.config, self.data, self.runtime, spec)

    def save_checkpoint(
        self, spec: CellSpec, state: dict[str, Any], curve: dict[str, list[Any]], seconds: float
    ) -> None:
        """Saves the checkpoint of a cell."""
        about: dict[str, Any] = {"fingerprint": self.fingerprint(spec), "curve": curve, "seconds": seconds}
        checkpoint.save(self.files.checkpoint(spec), cell=state, **about)

    def save_record(
        self, spec: CellSpec, curve: dict[str, list[Any]], seconds: float, diverged_at: int | None = None
    ) -> None:
        """Writes the record of a cell, from which tables and figures are made (fractions in [0, 1]), then removes its checkpoint."""
        with atomic(self.files.record(spec)) as temporary:
            text = json.dumps(self._record(spec, curve, seconds, diverged_at), indent=1, allow_nan=False)
            temporary.write_text(text + "\n", encoding="utf-8")
        self.files.checkpoint(spec).unlink(missing_ok=True)

    def _record(
        self, spec: CellSpec, curve: dict[str, list[Any]], seconds: float, diverged_at: int | None
    ) -> dict[str, Any]:
        best = max(
            zip(curve["test"], curve["step"], strict=True), key=lambda point: -1.0 if point[0] is None else point[0]
        )
        outcomes = ("test", "train_corrupted", "train_intact", "holdout_noisy", "holdout_clean")
        return {
            "schema": 1,
            "fingerprint": self.fingerprint(spec),
            "cell": spec.name,
            "dataset": self.config.data.name,
            "note": self.data.cifar.note,
            "depth": spec.depth,
            "loss": spec.loss.model_dump(),
            "loss_label": spec.loss_label,
            "noise": None if spec.noise.name == "clean" else spec.noise.model_dump(),
            "noise_label": spec.noise_label,
            "seed": spec.seed,
            "realised_rate": self.data.rate(spec.noise),
            "iterations": self.config.train.iterations,
            "train": self.config.train.model_dump(exclude={"iterations"}),
            "num_train": len(self.data.train_rows),
            "num_test": self.data.num_test,
            "dtype": str(self.runtime.dtype).removeprefix("torch."),
            "environment": environment(),
            "diverged_at": diverged_at,
            "curve": curve,
            "best": {"test": best[0], "step": best[1]},
            "final": {name: curve[name][-1] for name in outcomes if name in curve},
            "seconds": seconds,
        }


def evaluation_steps(iterations: int, count: int) -> list[int]:
    """The `count` evenly spaced steps after which a cell is evaluated; the last one is `iterations`."""
    return [round(iterations * number / count) for number in range(1, count + 1)]
