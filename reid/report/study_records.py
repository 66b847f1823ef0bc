"""Records of the label-noise study, grouped into cells (one loss, several seeds) and settings (comparable cells).

A record is the plain dict of one trained network. All shares in it are fractions in [0, 1]; they are printed in per cent.
Shapes: R records (seeds) of a cell.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

Record = Mapping[str, Any]

_ORDER = ("cce", "mae", "imae_released", "imae", "gce")  # the paper's order; other losses follow by name
FORMS = {"imae_released": "IMAE as its authors released it", "imae": "IMAE as printed, Eq. 22"}
RELEASED = {"epsilon": 1e-6, "normalise": "weights"}  # the settings in the code that the authors released


@dataclass(frozen=True, order=True)
class Setting:
    """All that cells must have in common to be compared: everything but the loss and the seeds. Settings sort as tables do.

    Args:
        dataset: name in the record.
        num_train: number of training images.
        iterations: number of training steps.
        recipe: the other training settings, in the words of `recipe`, and the dtype.
        depth: of the ResNet.
        noise: name of the noise rule; empty for clean labels.
        rate: nominal rate in [0, 1]; 0 if the rule has none (clean and human labels).
        noise_label: the noise in words.
    """

    dataset: str
    num_train: int
    iterations: int
    recipe: tuple[str, ...]
    depth: int
    noise: str
    rate: float
    noise_label: str

    @property
    def backbone(self) -> str:
        """Name of the network, such as ``ResNet20``."""
        return f"ResNet{self.depth}"


@dataclass(frozen=True, eq=False)
class Cell:
    """One loss under one setting; its records differ only in the seeds (of training, of noise)."""

    setting: Setting
    loss: Mapping[str, Any]
    label: str
    records: tuple[Record, ...]

    @property
    def name(self) -> str:
        """The loss's name without its options."""
        return str(self.loss["name"])

    @property
    def options(self) -> dict[str, Any]:
        """The loss's options, such as ``{"T": 8.0}``."""
        return {key: value for key, value in self.loss.items() if key != "name"}

    @property
    def loss_order(self) -> tuple[Any, ...]:
        """Sort key: losses by name in the paper's order, then by options, numbers as numbers; equal for equal losses."""
        return _loss_order(self.loss)

    def values(self, *path: str) -> np.ndarray | None:
        """One number per seed, (R,), the value at ``path`` in each record; None if a record lacks it."""
        found = [_follow(record, path) for record in self.records]
        return None if any(value is None for value in found) else np.array(found, float)

    def mean(self, *path: str) -> float | None:
        """Mean over seeds of the value at ``path``; None if a record lacks it."""
        value_R = self.values(*path)
        return None if value_R is None else float(value_R.mean())

    def spread(self, *path: str) -> float | None:
        """Half the range of two seeds, sample standard deviation of three or more, None for one (see `spread_name`) or a missing value."""
        value_R = self.values(*path)
        if value_R is None or len(value_R) < 2:
            return None
        return float(np.ptp(value_R) / 2 if len(value_R) == 2 else value_R.std(ddof=1))

    @property
    def spread_name(self) -> str:
        """Name of the measure that `spread` is for this many seeds; empty for one."""
        return ("", "half range", "s.d.")[min(len(self.records), 3) - 1]


def _follow(record: Record, path: Sequence[str]) -> Any:
    value: Any = record
    for key in path:
        value = value.get(key) if isinstance(value, Mapping) else None
    return value


def gather(records: Iterable[Record]) -> list[Cell]:
    """The records' cells, sorted by setting, loss and options, independent of the order of the records."""
    groups: dict[tuple[Setting, tuple[Any, ...]], list[Record]] = {}
    for record in records:
        groups.setdefault((_setting(record), _loss_order(record["loss"])), []).append(record)
    return [
        Cell(setting, group[0]["loss"], group[0].get("loss_label") or str(group[0]["loss"]["name"]), tuple(group))
        for (setting, _), group in sorted(groups.items(), key=lambda item: item[0])
    ]


def by_setting(cells: Iterable[Cell]) -> dict[Setting, list[Cell]]:
    """Cells grouped by setting, in the given order; those of a group may be compared."""
    groups: dict[Setting, list[Cell]] = {}
    for cell in cells:
        groups.setdefault(cell.setting, []).append(cell)
    return groups


def varied(cells: Iterable[Cell]) -> list[list[Cell]]:
    """Groups of two or more cells that differ only in the options of one loss, such as IMAE's T."""
    groups: dict[tuple[Setting, str], list[Cell]] = {}
    for cell in cells:
        groups.setdefault((cell.setting, cell.name), []).append(cell)
    return [group for group in groups.values() if len(group) > 1]


def paper_name(cell: Cell) -> str:
    """``cce``, ``mae`` or ``imae`` if the paper has this loss with these options, else an empty string.

    The paper has IMAE with T = 0.5 on clean labels and 8 on noisy ones, and does not state which of the two `FORMS` it used.
    """
    T = {"T": 8.0 if cell.setting.noise else 0.5}
    wanted = {"cce": {}, "mae": {}, "imae": T, "imae_released": T | RELEASED}
    return cell.name.removesuffix("_released") if cell.options == wanted.get(cell.name) else ""


def in_form(cells: Iterable[Cell], form: str) -> list[Cell]:
    """The cells with one of the `FORMS` of IMAE, renamed to ``imae`` with T as its only option, and without the other form."""
    found = []
    for cell in cells:
        if cell.name == form and RELEASED.items() <= (RELEASED | cell.options).items():
            options = {key: value for key, value in cell.options.items() if key not in RELEASED}
            found.append(replace(cell, loss={"name": "imae", **options}))
        elif cell.name not in FORMS:
            found.append(cell)
    return found


def titles(settings: Iterable[Setting]) -> dict[Setting, str]:
    """A title for each setting: backbone, noise, and those parts of `training` that differ between the settings."""
    extra = training(settings)
    return {s: ", ".join(filter(None, (s.backbone, s.noise_label, extra[s]))) for s in extra}


def training(settings: Iterable[Setting]) -> dict[Setting, str]:
    """Dataset, images, steps and recipe of each setting, only those parts that differ between the settings; else empty."""
    settings = list(settings)
    parts = {s: (s.dataset, f"{s.num_train:,} images", f"{s.iterations:,} steps", *s.recipe) for s in settings}
    differ = [len(set(column)) > 1 for column in zip(*parts.values(), strict=True)]
    return {s: ", ".join(part for part, shown in zip(parts[s], differ, strict=True) if shown) for s in settings}


def recipe(train: Mapping[str, Any]) -> tuple[str, ...]:
    """Batch size, learning rate, schedule and optimizer of a study's `train` section in words."""
    parts = [f"batches of {train.get('batch_size')}", f"lr {train.get('lr')}"]
    for kind in ("schedule", "optimizer"):
        component = dict(train.get(kind) or {"name": ""})
        name = component.pop("name")
        parts.append(f"{name}({', '.join(f'{key}={value}' for key, value in sorted(component.items()))})")
    return tuple(parts)


def _setting(record: Record) -> Setting:
    noise = record.get("noise") or {}
    rate = float(noise.get("rate") or 0)
    noise = noise if rate or "rate" not in noise else {}  # a rule at rate 0 leaves the labels clean
    return Setting(
        dataset=str(record.get("dataset", "")),
        num_train=int(record.get("num_train", 0)),
        iterations=int(record.get("iterations", 0)),
        recipe=(*recipe(record.get("train") or {}), str(record.get("dtype", ""))),
        depth=int(record["depth"]),
        noise=str(noise.get("name", "")),
        rate=rate,
        noise_label=str(record.get("noise_label") or noise.get("name", "")) if noise else "clean labels",
    )


def _loss_order(loss: Mapping[str, Any]) -> tuple[Any, ...]:
    name = str(loss["name"])
    options = tuple(
        (key, float(value), "") if isinstance(value, int | float) else (key, math.inf, str(value))
        for key, value in sorted(loss.items())
        if key != "name"
    )
    return (_ORDER.index(name) if name in _ORDER else len(_ORDER), name, options)
