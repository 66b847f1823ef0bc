"""Dataset of the CIFAR study: images, and the training labels under every noise of the grid.

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
    """The labels without noise."""
    return labels_N


def human(human_labels: Callable[[str], Labels], kind: str) -> Labels:
    """Human labels; `kind` is a label set of the file, such as worse."""
    return human_labels(kind)


STUDY_NOISES: Registry = {"clean": clean, **NOISES, "asymmetric": asymmetric, "human": human}


@dataclass(frozen=True)
class StudyData:
    """Images and labels of the study.

    Args:
        cifar: images and true labels.
        given: training labels by the slug of the noise, (N,) int64 each.
        train_rows: rows to train on, int64.
        held_rows: held-out rows, int64.
    """

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
        """32 hexadecimal digits that identify all images, the true labels, the split, and the labels under a noise."""
        return self._images + _digest(self.given[slug(noise)])

    def describe(self, config: StudyConfig) -> str:
        """One line about data and training, and a table of the noises with their share of wrong labels."""
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
        """Share of the training labels that are wrong, held-out images excluded."""
        return realised_rate(self.given[slug(noise)][self.train_rows], self.cifar.train.labels_N[self.train_rows])


def _digest(*arrays: np.ndarray) -> str:
    digest = hashlib.sha256()
    for array in arrays:
        digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()[:16]


def load_data(config: StudyConfig) -> StudyData:
    """Loads the dataset and computes its labels under every noise of the grid.

    Raises:
        DataError: a file is missing, damaged or of another dataset.
        ConfigError: a number of images or the held-out share is out of range.
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
    """Writes one CSV per noise with the changed labels, true and given."""
    for noise in config.noise:
        write_flips(
            files.labels / f"{slug(noise)}.csv", data.cifar.train.labels_N, data.given[slug(noise)], data.cifar.index_N
        )
