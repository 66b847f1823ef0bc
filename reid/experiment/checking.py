"""Checks of every name and setting of a config before the first batch; all errors are reported at once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from reid.binding import Registry, problems_of, problems_of_component
from reid.config import Component, Config, Dataset
from reid.datasets.noise_manifest import NOISES
from reid.datasets.sampling import SAMPLERS
from reid.datasets.sources.market1501 import DUKE_WITHDRAWN, is_duke
from reid.engine.objective import SumOfLosses
from reid.engine.optim import OPTIMIZERS, SCHEDULES, constant
from reid.errors import ConfigError, nearest
from reid.experiment.data import DATASETS, SPLITS
from reid.experiment.model import build_preprocess
from reid.experiment.training import ALL_LOSSES, build_loss, with_warmup
from reid.models.backbone import check_name
from reid.models.heads import HEADS
from reid.protocol import get_protocols
from reid.tracklets import Split

# Arguments of timm's `create_model` that are set by other parts of the config, not by model.options.
_NOT_OPTIONS = {
    "checkpoint_path",
    "features_only",
    "in_chans",
    "num_classes",
    "pretrained",
    "pretrained_cfg",
    "pretrained_cfg_overlay",
}


def check(config: Config) -> None:
    """Checks every name in a config, and the options of every component against its signature and value ranges.

    Raises:
        ConfigError: one line per error.
    """
    problems = []
    for place, one in config.data.sets.items():
        problems += _of_dataset(place, one)
    for component in _components(config):
        problems += problems_of_component(*component)
    problems += problems_of(lambda: check_name(config.model.name))
    problems += problems_of(lambda: get_protocols(config.test.protocols))
    problems += problems_of(lambda: build_preprocess(config, {"mean": [0], "std": [1]}))
    problems += problems_of(lambda: with_warmup(config, constant()))
    problems += _contradictions(config)
    if not any(problem.startswith("loss") for problem in problems):
        problems += problems_of(lambda: build_loss(config))
    if config.train.accumulate > 1 and not any(problem.startswith("loss") for problem in problems):
        problems += _in_parts(config)
    if problems:
        raise ConfigError(*(f"{config.name}: {problem}" for problem in problems))


def _of_dataset(place: str, one: Dataset) -> list[str]:
    """Returns the errors in the settings of one dataset; `place` is its section in the config."""
    problems = []
    if one.name not in DATASETS:
        unknown = f"unknown dataset {one.name!r}; {nearest(one.name, list(DATASETS))}"
        problems.append(f"{place}.name: {DUKE_WITHDRAWN if is_duke(one.name) else unknown}")
    if (one.name == "manifest") != (one.path is not None):
        got = f"got data.name {one.name!r} and data.path {one.path!r}"
        problems.append(f"{place}.path: only allowed for the dataset manifest; {got}")
    if one.split is not None and one.name not in SPLITS:
        problems.append(f"{place}.split: only {' and '.join(SPLITS)} have several splits, got {one.name!r}")
    return problems


def _contradictions(config: Config) -> list[str]:
    """Returns the errors of settings that are valid alone, but not in combination."""
    problems = []
    if config.data.split == "all" and config.data.name not in SPLITS:
        problems.append(f"data.split: only {' and '.join(SPLITS)} have several splits, got {config.data.name!r}")
    several = [] if isinstance(config.data.name, str) else [one.name for one in config.data.name]
    if config.data.labels == "truth" and config.data.name != "demo":
        got = several or repr(config.data.name)
        problems.append(f"data.labels: truth needs a dataset with true labels (demo), and no other dataset, got {got}")
    for key in ("path", "split") if several else ():
        if getattr(config.data, key) is not None:
            problems.append(
                f"data.{key}: ambiguous with several datasets ({', '.join(several)}); set it for one of them: "
                f"data: {{name: [{{name: {several[0]}, {key}: …}}, …], {key}: null}}"
            )
    if config.data.labels == "truth" and config.data.corrections is not None and not config.data.noises:
        problems.append("data.corrections: corrects the given labels, but data.labels is truth; remove one of the two")
    drawn = [(noise.name, noise.options["seed"]) for noise in config.data.noises.values() if "seed" in noise.options]
    if twice := [f"{name} with seed {seed}" for i, (name, seed) in enumerate(drawn) if (name, seed) in drawn[:i]]:
        problems.append(f"data.noise: {twice[0]} appears twice; give the second a different seed, or remove it")
    if config.model.freeze_norm and config.model.neck == "bn":
        problems.append("model.neck: bn has no effect with model.freeze_norm; remove one of the two")
    if config.model.freeze_norm and config.machine.sync_norm:
        problems.append("machine.sync_norm: has no effect with model.freeze_norm; remove one of the two")
    for name in sorted(config.model.options.keys() & _NOT_OPTIONS):
        problems.append(f"model.options.{name}: cannot be set here; it follows from the sections model and augment")
    if config.train.warmup_start and not config.train.warmup:
        problems.append("train.warmup_start: has no effect without train.warmup; remove it")
    if config.train.freeze >= config.train.iterations:
        problems.append(
            f"train.freeze: expected less than train.iterations {config.train.iterations}, got {config.train.freeze}"
        )
    if config.train.warmup and "warmup" in config.train.schedule.options:
        problems.append("train.warmup: the schedule has its own warmup; remove one of the two")
    return problems


def _in_parts(config: Config) -> list[str]:
    """Returns an error for each loss that needs the whole batch and so cannot be used with train.accumulate > 1."""
    loss = build_loss(config)
    parts = loss.losses if isinstance(loss, SumOfLosses) else {config.losses[0].name: loss}
    whole = [name for name, part in parts.items() if getattr(part, "needs_whole_batch", False)]
    return [
        f"train.accumulate: {name} needs all samples of a step at once; expected 1, got {config.train.accumulate}"
        for name in whole
    ]


def _loss_components(config: Config) -> list[tuple[str, Component]]:
    """Returns section and settings of each loss, without the weights of a list."""
    if not isinstance(config.loss, list):
        return [("loss", config.loss)]
    found = []
    for i, component in enumerate(config.loss):
        rest = {key: value for key, value in component.options.items() if key != "weight"}
        found.append((f"loss.{i}", Component(name=component.name, **rest)))
    return found


def _components(config: Config) -> list[tuple[str, Registry, Component, dict[str, Any]]]:
    """Returns section, registry, settings and placeholder arguments of each component.

    The placeholders stand for the arguments that the program itself passes; all other parameters of a signature are user settings.
    """
    iterations, frame = config.train.iterations, np.zeros(1, dtype=np.int64)
    anybody = Split(Path(), np.array([b"x"]), frame, frame + 1, frame, frame)
    components: list[tuple[str, Registry, Component, dict[str, Any]]] = [
        ("sampler", SAMPLERS, config.sampler, {"split": anybody, "batch_size": 1, "seed": 0}),
        ("train.optimizer", OPTIMIZERS, config.train.optimizer, {"model": nn.Linear(1, 1)}),
        ("train.schedule", SCHEDULES, config.train.schedule, {"iterations": iterations}),
    ]
    sizes = {"num_samples": 1, "num_classes": 2, "num_features": 1, "iterations": iterations}
    components += [(section, ALL_LOSSES, component, sizes) for section, component in _loss_components(config)]
    components.append(("model.head", HEADS, config.model.head, {"num_classes": 2, "num_features": 1}))
    return components + [(place, NOISES, noise, {}) for place, noise in config.data.noises.items()]
