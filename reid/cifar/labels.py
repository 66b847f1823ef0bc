"""The study's dataset: images, and the labels to train on under every noise of the grid.

Shapes: N training images, K classes.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from reid.binding import Registry, build
from reid.cifar.config import StudyConfig, slug
from reid.cifar.data import Cifar, ImageSet, asymmetric_target, hold_out, load_cifar, load_human_labels, subset
from reid.cifar.folder import Files
from reid.config import Component
from reid.datasets.noise import NOISES, asymmetric, realised_rate, write_flips
from reid.errors import in_range
from reid.files import data_root
from reid.report.study_records import recipe
from reid.report.tables import text_table

Labels = np.ndarray


def clean(labels_N: Labels) -> Labels:
    """The labels as they are."""
    return labels_N


def human(human_labels: Callable[[str], Labels], kind: str) -> Labels:
    """People's labels; `kind` is one of the file's sets, such as worse."""
    return human_labels(kind)


STUDY_NOISES: Registry = {"clean": clean, **NOISES, "asymmetric": asymmetric, "human": human}


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

    @functools.cached_property
    def _images(self) -> str:
        parts: list[np.ndarray] = [
            self.cifar.train.images_NCHW,
            self.cifar.train.labels_N,
            self.cifar.test.images_NCHW,
            self.cifar.test.labels_N,
        ]
        return _digest(*parts, self.train_rows, self.held_rows)

    def digest(self, noise: Component) -> str:
        """Stands for all images, true labels, and the labels under a noise."""
        return self._images + _digest(self.given[slug(noise)])

    def describe(self, config: StudyConfig) -> str:
        """One line on data and training, and a table of the noises."""
        train, seeds = config.train, ", ".join(map(str, config.seed))
        counts = (
            f"{len(self.train_rows):,} training images, {len(self.held_rows):,} held out, {self.num_test:,} test images"
        )
        how = ", ".join(recipe(train.model_dump()))
        about = f"{config.data.name}: {counts}; {train.iterations:,} steps, {how}; seeds {seeds}"
        rows = [(cell.noise_label, f"{100 * self.rate(cell.noise):.2f}") for cell in config.cells()]
        note = f"; {self.cifar.note}" if self.cifar.note else ""
        return f"{about}{note}\n{text_table(['noise', 'wrong labels (%)'], list(dict.fromkeys(rows)))}"

    def rate(self, noise: Component) -> float:
        """Share of the labels trained on that are wrong."""
        return realised_rate(self.given[slug(noise)][self.train_rows], self.cifar.train.labels_N[self.train_rows])


def _digest(*arrays: np.ndarray) -> str:
    digest = hashlib.sha256()
    for array in arrays:
        digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()[:16]


def load_data(config: StudyConfig) -> StudyData:
    """The dataset, and its labels under every noise of the grid.

    Raises:
        DataError: a file is missing, damaged or of something else.
    """
    root = data_root(config.data.root)
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
