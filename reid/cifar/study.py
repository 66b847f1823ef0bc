"""The study: from a checked config to one record per cell. Cells are independent, and each is resumed by itself.

Shapes: N training images, M held-out or test images, K classes.
"""

from __future__ import annotations

import functools
import itertools
import json
import logging
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch

import reid.models  # noqa: F401  registers the networks with timm
from reid.binding import Registry, build, problems_of_component
from reid.cifar.batches import CellData, Labelled, padded
from reid.cifar.cell import Cell
from reid.cifar.config import CellSpec, StudyConfig, slug
from reid.cifar.data import (
    HUMAN_KINDS,
    Cifar,
    ImageSet,
    asymmetric_target,
    hold_out,
    load_cifar,
    load_human_labels,
    subset,
)
from reid.cifar.download import download_cifar
from reid.config import Component, nearest
from reid.datasets.noise import NOISES, asymmetric, realised_rate, write_flips
from reid.engine.optim import SCHEDULES, sgd
from reid.errors import ConfigError, DataError, in_range
from reid.files import atomic, data_root
from reid.losses import LOSSES
from reid.runtime import Runtime, seed_of

logger = logging.getLogger(__name__)

Labels = np.ndarray


def clean(labels_N: Labels) -> Labels:
    """The labels as they are."""
    return labels_N


def human(human_labels: Callable[[str], Labels], kind: str) -> Labels:
    """People's labels; `kind` is one of the file's sets, such as worse."""
    return human_labels(kind)


STUDY_NOISES: Registry = {"clean": clean, **NOISES, "asymmetric": asymmetric, "human": human}


def check(config: StudyConfig) -> None:
    """Checks every component's settings against what they are for.

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
        problems += problems_of_component("loss", LOSSES, loss, {"num_samples": 1, **iterations})
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
    names = [cell.name for cell in config.cells()]
    problems += [f"grid: {name} stands twice" for name in sorted({name for name in names if names.count(name) > 1})]
    if problems:
        raise ConfigError(*(f"{config.name}: {problem}" for problem in problems))


class Files:
    """The study's folder."""

    def __init__(self, path: Path) -> None:
        self.path, self.config, self.cells, self.labels = path, path / "config.yaml", path / "cells", path / "labels"
        self.table, self.csv, self.figures = path / "table.md", path / "table.csv", path / "figures"
        self.report, self.log = path / "report.html", path / "log.txt"

    def clear(self) -> None:
        """Removes what a study writes, and nothing else."""
        written = [
            self.cells.glob("resnet*.json"),
            self.cells.glob("resnet*.pt"),
            self.labels.glob("*.csv"),
            self.figures.glob("*.png"),
        ]
        for file in itertools.chain(*written, [self.config, self.table, self.csv, self.report, self.log]):
            file.unlink(missing_ok=True)

    def record(self, cell: CellSpec) -> Path:
        return self.cells / f"{cell.name}.json"

    def checkpoint(self, cell: CellSpec) -> Path:
        return self.cells / f"{cell.name}.pt"

    def read_record(self, config: StudyConfig, cell: CellSpec) -> dict[str, Any] | None:
        """The cell's record, or None where it is not trained yet.

        Raises:
            DataError: it is damaged. ConfigError: it was trained with other settings.
        """
        path = self.record(cell)
        if not path.is_file():
            return None
        try:
            record = json.loads(path.read_text(encoding="utf-8"))
        except (json.JSONDecodeError, UnicodeDecodeError) as error:
            raise DataError(f"{path}: damaged: {error}; remove it, and the cell is trained again") from None
        if record["fingerprint"] != config.fingerprint(cell):
            raise ConfigError(
                f"{path}: trained with other settings; give the same config, or --output-dir for a new study"
            )
        return record


@dataclass(frozen=True)
class StudyData:
    """The dataset, the labels to train on by noise, and which training images are held out."""

    cifar: Cifar
    given: dict[str, Labels]
    train_rows: Labels
    held_rows: Labels

    @property
    def num_test(self) -> int:
        return len(self.cifar.test)

    def rate(self, noise: Component) -> float:
        """Share of the labels trained on that are wrong."""
        return realised_rate(self.given[slug(noise)][self.train_rows], self.cifar.train.labels_N[self.train_rows])


def load_data(config: StudyConfig) -> StudyData:
    """The dataset, and its labels under every noise of the grid.

    Raises:
        DataError: a file is missing, damaged or of something else.
    """
    root = data_root(config.data.root)
    if config.data.download:
        download_cifar(root, config.data.name)
    whole = load_cifar(root, config.data.name)
    test = whole.test
    if config.data.test_images is not None:
        in_range("data.test_images", config.data.test_images, 1, len(test))
        test = ImageSet(test.images_NCHW[: config.data.test_images], test.labels_N[: config.data.test_images])
    cifar = whole
    if config.data.train_images is not None:
        in_range("data.train_images", config.data.train_images, 1, len(whole.train))
        cifar = subset(whole, config.data.train_images, seed=0)
    cifar = replace(cifar, test=test)

    def human_labels(kind: str) -> Labels:
        file = Path(config.data.human_labels or root / f"CIFAR-{len(whole.classes)}_human.pt")
        return load_human_labels(file, kind, whole.train.labels_N)[cifar.index_N]

    about = {"labels_N": cifar.train.labels_N, "num_classes": len(cifar.classes), "to": asymmetric_target(cifar)}
    given = {
        slug(noise): build("noise", STUDY_NOISES, noise, **about, human_labels=human_labels) for noise in config.noise
    }
    rows = np.arange(len(cifar.train))
    train_rows, held_rows = (
        hold_out(len(rows), config.data.holdout, seed=0) if config.data.holdout else (rows, rows[:0])
    )
    return StudyData(cifar, given, train_rows, held_rows)


def write_manifests(files: Files, config: StudyConfig, data: StudyData) -> None:
    """One CSV per noise: which labels were changed, and into what."""
    for noise in config.noise:
        write_flips(
            files.labels / f"{slug(noise)}.csv", data.cifar.train.labels_N, data.given[slug(noise)], data.cifar.index_N
        )


class Trainer:
    """Builds cells, trains them and writes their records.

    Args:
        config: checked.
        data: as `load_data` gives it.
        files: where records and checkpoints go.
        runtime: device and number format.
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
        """Images and labels under a noise of the grid, on the device."""
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
        """The cell as it is before its first step; losses of one seed start from the same weights."""
        train = self.config.train
        torch.manual_seed(seed_of(spec.seed, "init"))
        model = timm.create_model(f"resnet{spec.depth}_cifar", num_classes=len(self.data.cifar.classes))
        data, about = self.data_of(spec.noise), {"iterations": train.iterations}
        schedule = build("train.schedule", SCHEDULES, train.schedule, **about)
        return Cell(
            model=model,
            loss=build("loss", LOSSES, spec.loss, num_samples=len(data.train), **about),
            optimizer=functools.partial(sgd, **train.optimizer.options),
            data=data,
            rate=lambda step: train.lr * schedule(step),
            batch_size=train.batch_size,
            seed=spec.seed,
            runtime=self.runtime,
        )

    def record(self, spec: CellSpec, curve: dict[str, list[Any]], seconds: float) -> dict[str, Any]:
        """What the tables and figures are made from; fractions in [0, 1]."""
        best = int(np.argmax(curve["test"]))
        outcomes = ("test", "train_corrupted", "train_intact", "holdout_noisy", "holdout_clean")
        return {
            "schema": 1,
            "fingerprint": self.config.fingerprint(spec),
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
            "num_train": len(self.data.train_rows),
            "num_test": self.data.num_test,
            "curve": curve,
            "best": {"test": curve["test"][best], "step": curve["step"][best]},
            "final": {name: curve[name][-1] for name in outcomes if name in curve},
            "seconds": seconds,
        }

    def save_record(self, spec: CellSpec, record: dict[str, Any]) -> None:
        """Writes the record; the checkpoint has then done its work."""
        with atomic(self.files.record(spec)) as temporary:
            temporary.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
        self.files.checkpoint(spec).unlink(missing_ok=True)


def points(iterations: int, count: int) -> list[int]:
    """The steps after which a cell is evaluated: `count` of them, evenly spaced, the last at the end."""
    return [round(iterations * number / count) for number in range(1, count + 1)]
