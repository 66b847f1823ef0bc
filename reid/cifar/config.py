"""Config of the CIFAR study: a grid over depth x loss x noise x seed, and the training settings of all cells."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BeforeValidator, Field

from reid.config import Component, Count, Positive, Section, Share
from reid.report.study_records import RELEASED

Item = TypeVar("Item")
# A single item is accepted as a list of one: seed=1.
Several = Annotated[
    list[Item], Field(min_length=1), BeforeValidator(lambda value: value if isinstance(value, list) else [value])
]
_NAMES = {
    "cce": "CCE",
    "mae": "MAE",
    "gce": "GCE",
    "gce_truncated": "GCE truncated",
    "agce": "AGCE",
    "imae": "IMAE",
    "imae_guarded": "IMAE guarded",
    "imae_released": "IMAE as released",
    "dm": "DM",
    "sce": "SCE",
    "nce_rce": "NCE+RCE",
    "elr": "ELR",
    "label_smoothing": "label smoothing",
}

# Settings that a loss's label omits because its name implies them.
_UNSAID: dict[str, dict[str, Any]] = {"imae_released": RELEASED, "dm": RELEASED}


class StudyData(Section):
    name: Literal["cifar10", "cifar100"] = "cifar10"
    root: str | None = Field(
        None, description="folder that contains the official folder; default: REID_DATA, else ./data"
    )
    download: bool = Field(False, description="download the official archive if the folder is missing")
    train_images: Count | None = Field(
        None, description="size of a fixed, class-balanced subset of the training images; default: all"
    )
    test_images: Count | None = Field(None, description="number of test images, from the first; default: all")
    holdout: Share = Field(0.0, description="fraction of the training images held out to choose T")
    human_labels: str | None = Field(
        None, description="human labels (.pt or .npz) for noise {name: human}; default: CIFAR-10_human.pt in the root"
    )


class StudyTrain(Section):
    iterations: Count = 64000
    batch_size: Count = 128
    lr: Positive = 0.1
    optimizer: Component = Component(name="sgd", momentum=0.9, weight_decay=1e-4)
    schedule: Component = Component(name="milestones", at=[32000, 48000], factor=0.1)
    points: Count = Field(40, description="number of evaluations during training; each one saves a checkpoint")


class StudyMachine(Section):
    device: str = "auto"
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    compile: bool = Field(False, description="fuse a step's small operations with torch.compile")
    side_by_side: Count | None = Field(
        None,
        description="cells trained in parallel: processes on a CPU (default: one per core), CUDA graphs on a GPU (default: 9)",
    )


class StudyConfig(Section):
    """All settings of the study."""

    name: str = Field("", description="name of the study; default: the config file's name")
    data: StudyData = StudyData()
    depth: Several[Literal[20, 32, 56]] = [20]
    loss: Several[Component] = [Component(name="cce")]
    noise: Several[Component] = [Component(name="clean")]
    seed: Several[Annotated[int, Field(ge=0)]] = [0]
    train: StudyTrain = StudyTrain()
    machine: StudyMachine = StudyMachine()

    def cells(self) -> Iterator[CellSpec]:
        """The cells of the grid, in the order of the tables."""
        for depth, noise, loss, seed in itertools.product(self.depth, self.noise, self.loss, self.seed):
            yield CellSpec(depth, loss, noise, seed)


@dataclass(frozen=True)
class CellSpec:
    """One network to train."""

    depth: int
    loss: Component
    noise: Component
    seed: int

    @property
    def name(self) -> str:
        """Name for files, such as resnet20_symmetric-rate0.5-seed0_imae-T8_seed0."""
        return f"resnet{self.depth}_{slug(self.noise)}_{slug(self.loss)}_seed{self.seed}"

    @property
    def loss_label(self) -> str:
        """Name of the loss for tables, such as IMAE (T = 8)."""
        unsaid = _UNSAID.get(self.loss.name, {}).items()
        said = {key: value for key, value in self.loss.options.items() if (key, value) not in unsaid}
        settings = ", ".join(f"{key} = {_short(value)}" for key, value in said.items())
        return _NAMES.get(self.loss.name, self.loss.name) + (f" ({settings})" if settings else "")

    @property
    def noise_label(self) -> str:
        """Name of the noise for tables, such as 50 % symmetric."""
        options = self.noise.options
        if "rate" in options:
            return f"{100 * options['rate']:g} % {self.noise.name.replace('_', ' ')}"
        return f"{self.noise.name} {options.get('kind', '')}".strip()

    def __str__(self) -> str:
        return f"ResNet{self.depth}, {self.noise_label}, {self.loss_label}, seed {self.seed}"


def slug(component: Component) -> str:
    """A component as part of a file name, such as symmetric-rate0.5-seed0."""
    return component.name + "".join(f"-{key}{_short(value)}" for key, value in component.options.items())


def _short(value: Any) -> str:
    return f"{value:g}" if isinstance(value, (int, float)) else str(value)
