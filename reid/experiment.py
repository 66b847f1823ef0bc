"""From the config to built objects: the only module that sees the whole Config and knows every builder.

A component's own settings are bound to its signature here, before the first batch, and every mistake is reported at once.
Shapes: T tracklets, F frame names, K classes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import timm.layers
import torch
from torch import nn

import reid.models  # noqa: F401  registers the backbones with timm
from reid.augment import Preprocess
from reid.binding import Registry, build, problems_of, problems_of_component
from reid.config import Component, Config, nearest
from reid.datasets.demo import load_truth
from reid.datasets.holdout import hold_out
from reid.datasets.loader import DamagedImages
from reid.datasets.mars import find_dataset, load_mars
from reid.datasets.noise import NOISES, realised_rate
from reid.datasets.sampling import SAMPLERS
from reid.engine.ema import Averaged
from reid.engine.optim import OPTIMIZERS, SCHEDULES, Schedule, constant, warmed
from reid.engine.train import Job, TrainingSet
from reid.errors import ConfigError, DataError
from reid.files import data_root
from reid.losses import LOSSES
from reid.models.backbone import check_name, create_backbone
from reid.models.embedding import Classifier, Embedding
from reid.protocol import get_protocols
from reid.runtime import Runtime, seed_of
from reid.tracklets import Benchmark, Split

DATASETS: dict[str, Callable[[Path], Benchmark]] = {
    "mars": lambda folder: load_mars(folder, "mars"),
    "demo": lambda folder: load_mars(folder, "demo"),
}


def check(config: Config) -> None:
    """Checks every name, and every component's settings against the signature and the ranges of what they are for.

    Raises:
        ConfigError: one line per mistake.
    """
    problems = []
    if config.data.name not in DATASETS:
        problems.append(f"data.name: unknown dataset {config.data.name!r}; {nearest(config.data.name, list(DATASETS))}")
    for component in _components(config):
        problems += problems_of_component(*component)
    problems += problems_of(lambda: check_name(config.model.name))
    problems += problems_of(lambda: get_protocols(config.test.protocols))
    problems += problems_of(lambda: _preprocess(config, {"mean": [0], "std": [1]}))
    problems += problems_of(lambda: _schedule(config, constant()))
    problems += _contradictions(config)
    if config.train.accumulate > 1 and not any(problem.startswith("loss.") for problem in problems):
        problems += _in_parts(config)
    if problems:
        raise ConfigError(*(f"{config.name}: {problem}" for problem in problems))


def _contradictions(config: Config) -> list[str]:
    """Settings that are right one by one, but not together."""
    problems = []
    if config.data.labels == "truth" and config.data.name != "demo":
        problems.append(f"data.labels: truth needs a dataset that knows it (demo), got {config.data.name!r}")
    if config.model.freeze_norm and config.model.neck == "bn":
        problems.append(
            "model.neck: bn does nothing when model.freeze_norm keeps it as it starts; leave out one of them"
        )
    if config.model.freeze_norm and config.machine.sync_norm:
        problems.append(
            "machine.sync_norm: does nothing when model.freeze_norm keeps the statistics; leave out one of them"
        )
    if config.train.warmup and "warmup" in config.train.schedule.options:
        problems.append("train.warmup: the schedule has a warmup of its own; leave out one of them")
    return problems


def _in_parts(config: Config) -> list[str]:
    """What keeps the configured loss from being computed in parts of a batch."""
    if not getattr(build_loss(config), "needs_whole_batch", False):
        return []
    reason = f"{config.loss.name} compares or remembers the samples of a step and needs all of them at once"
    return [f"train.accumulate: {reason}; expected 1, got {config.train.accumulate}"]


def _components(config: Config) -> list[tuple[str, Registry, Component, dict[str, Any]]]:
    """Section, registry, settings, and stand-ins for what the wiring will pass; everything else in a signature is the user's."""
    iterations, frame = config.train.iterations, np.zeros(1, dtype=np.int64)
    anybody = Split(Path(), np.array([b"x"]), frame, frame + 1, frame, frame)
    components: list[tuple[str, Registry, Component, dict[str, Any]]] = [
        ("loss", LOSSES, config.loss, {"num_samples": 1, "iterations": iterations}),
        ("sampler", SAMPLERS, config.sampler, {"split": anybody, "batch_size": 1, "seed": 0}),
        ("train.optimizer", OPTIMIZERS, config.train.optimizer, {"model": nn.Linear(1, 1)}),
        ("train.schedule", SCHEDULES, config.train.schedule, {"iterations": iterations}),
    ]
    if config.data.noise is not None:
        components.append(("data.noise", NOISES, config.data.noise, {"labels_N": frame, "num_classes": 2}))
    return components


@dataclass(frozen=True)
class LabelledData:
    """A dataset as training sees it.

    Args:
        benchmark: as on disk.
        train: the training set, held-out identities removed.
        holdout: held-out tracklets, or None.
        noise: what is known about wrong labels, in words.
    """

    benchmark: Benchmark
    train: TrainingSet
    holdout: Split | None
    noise: str


def load_benchmark(config: Config) -> Benchmark:
    """The dataset that the config names.

    Raises:
        DataError: it is not there, or inconsistent.
    """
    return DATASETS[config.data.name](find_dataset(data_root(config.data.root), config.data.name))


def load_data(config: Config) -> LabelledData:
    """The dataset with the labels that training is to see."""
    benchmark = load_benchmark(config)
    split, intact_T, noise = _labelled(config, benchmark.train)
    rows, held_rows = np.arange(len(split)), None
    if config.data.holdout:
        rows, held_rows = hold_out(split, config.data.holdout, config.seed)
    train = split.select(rows)
    labels, pids = train.labels()
    if len(pids) < 2:
        raise DataError(
            f"{benchmark.name}: expected at least 2 training identities, got {len(pids)}; there is nothing to tell apart"
        )
    label_F = _per_frame(train, labels, fill=-1)
    intact_F = None if intact_T is None else _per_frame(train, intact_T[rows], fill=False)
    held = None if held_rows is None else split.select(held_rows)
    return LabelledData(benchmark, TrainingSet(train, label_F, intact_F, pids), held, noise)


def _labelled(config: Config, split: Split) -> tuple[Split, np.ndarray | None, str]:
    """The split with the labels to train on, (T,) which of them are true where known, and that in words."""
    true_pid, order = None, np.arange(len(split))
    if config.data.name == "demo":
        truth = load_truth(find_dataset(data_root(config.data.root), "demo"))
        if len(truth.true_pid) != len(split):
            raise DataError(
                f"demo dataset: {len(split)} training tracklets, but the truth of {len(truth.true_pid)}; make it anew"
            )
        true_pid, order = truth.true_pid, np.argsort(truth.true_row)
    if config.data.labels == "truth":
        assert true_pid is not None  # `check` has seen to it
        split = split.with_pid(true_pid)
    if config.data.noise is not None:
        clean = split.pid if true_pid is None else true_pid
        split = split.with_pid(_with_noise(config.data.noise, split, order))
        if true_pid is None:
            return (
                split,
                None,
                f"{_rate(split.pid, clean)} tracklet labels changed on purpose; wrong labels on disk: unknown",
            )
    if true_pid is None:
        return split, None, "unknown (no true labels)"
    return split, split.pid == true_pid, f"{_rate(split.pid, true_pid)} tracklet labels wrong"


def _with_noise(noise: Component, split: Split, order: np.ndarray) -> np.ndarray:
    # Drawn in the order of the true table where there is one, so that the demo's generator and this draw the same flips.
    labels, pids = split.labels()
    noisy = np.empty_like(labels)
    noisy[order] = build("data.noise", NOISES, noise, labels_N=labels[order], num_classes=len(pids))
    return pids[noisy]


def _rate(given: np.ndarray, clean: np.ndarray) -> str:
    return f"{int((given != clean).sum())} of {len(clean)} ({100 * realised_rate(given, clean):.2f} %)"


def _per_frame(split: Split, value_T: np.ndarray, fill: Any) -> torch.Tensor:
    value_F = np.full(len(split.names), fill, dtype=value_T.dtype)
    value_F[split.frames()] = np.repeat(value_T, split.lengths)
    return torch.from_numpy(value_F)


def build_embedding(config: Config, *, initial_weights: bool = True) -> tuple[Embedding, Preprocess]:
    """The embedding and the preprocessing that its backbone's weights expect.

    Args:
        config: the run's.
        initial_weights: load the configured ones; False where a checkpoint's follow anyway.

    Raises:
        ConfigError: unknown model. CheckpointError: no weights to be had.
    """
    torch.manual_seed(seed_of(config.seed, "init"))
    weights = config.model.weights if initial_weights else None
    backbone = create_backbone(
        config.model.name, pretrained=config.model.pretrained and initial_weights, weights=weights
    )
    preprocess = _preprocess(config, backbone.pretrained_cfg)  # type: ignore[arg-type]  # timm sets it on every model
    return Embedding(backbone, config.model.neck, freeze_norm=config.model.freeze_norm), preprocess


def _preprocess(config: Config, pretrained_cfg: Mapping[str, Any]) -> Preprocess:
    augment = config.augment
    mean, std = pretrained_cfg["mean"], pretrained_cfg["std"]
    return Preprocess(augment.resize, augment.crop, mean, std, augment.flip, augment.erase, augment.color)


def build_loss(config: Config, num_samples: int = 1) -> nn.Module:
    """The configured loss; `num_samples` is for those that remember samples."""
    return build("loss", LOSSES, config.loss, num_samples=num_samples, iterations=config.train.iterations)


@torch.no_grad()
def check_input_size(config: Config, model: Classifier, runtime: Runtime) -> None:
    """Some networks take one image size only; that shows here, not in the middle of a log."""
    size = config.augment.crop
    try:
        model.eval()(torch.zeros(1, 3, *size, device=runtime.device))
    except (RuntimeError, AssertionError, ValueError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ConfigError(f"augment.crop: {config.model.name} does not take images of {size}: {reason}") from None


def _schedule(config: Config, schedule: Schedule) -> Schedule:
    try:
        return warmed(schedule, config.train.warmup, config.train.iterations)
    except ConfigError as error:
        raise ConfigError(f"train.{error}") from None


def build_job(config: Config, data: TrainingSet, runtime: Runtime, *, initial_weights: bool = True) -> Job:
    """Everything that `reid.engine.train.fit` needs; arguments as in `build_embedding`."""
    embedding, preprocess = build_embedding(config, initial_weights=initial_weights)
    model = runtime.place(_with_shared_norm(config, Classifier(embedding, len(data.pids)), runtime))
    check_input_size(config, model, runtime)
    _require_enough_images(config, runtime)
    train = config.train
    return Job(
        model=model,
        loss=build_loss(config, len(data.split.names)).to(runtime.device),
        optimizer=build("train.optimizer", OPTIMIZERS, train.optimizer, model=model),
        schedule=_schedule(config, build("train.schedule", SCHEDULES, train.schedule, iterations=train.iterations)),
        data=data,
        sampler=build(
            "sampler", SAMPLERS, config.sampler, split=data.split, batch_size=train.batch_size, seed=config.seed
        ),
        preprocess=preprocess,
        seed=config.seed,
        iterations=train.iterations,
        batch_size=train.batch_size,
        lr=train.lr,
        clip_grad=train.clip_grad,
        workers=config.machine.workers,
        log_freq=train.log_freq,
        accumulate=train.accumulate,
        damaged=DamagedImages(config.data.damaged),
        scaler=runtime.grad_scaler(),
        ema=None if train.ema is None else Averaged(model, train.ema),
        compile=config.machine.compile,
    )


def _with_shared_norm(config: Config, model: Classifier, runtime: Runtime) -> Classifier:
    """The model with batch normalisation over all processes, where that is wanted."""
    if not config.machine.sync_norm:
        return model
    if runtime.device.type != "cuda":
        raise ConfigError(f"machine.sync_norm: needs CUDA devices, got {runtime.device.type}; leave it out")
    return timm.layers.convert_sync_batchnorm(model)  # torch's own would lose the activation inside timm's layers


def _require_enough_images(config: Config, runtime: Runtime) -> None:
    parts = runtime.world_size * config.train.accumulate
    each, why = (1, "") if config.model.freeze_norm else (2, ", as batch normalisation needs")
    if config.train.batch_size < each * parts:
        split = f"{runtime.world_size} process(es) x train.accumulate {config.train.accumulate}"
        raise ConfigError(
            f"train.batch_size: expected at least {each} image(s) for each of {split}{why}, got {config.train.batch_size}"
        )
