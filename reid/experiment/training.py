"""Building all parts of a training run from the config."""

from __future__ import annotations

import math
from collections.abc import Callable

from torch import nn

from reid.binding import build
from reid.config import Component, Config
from reid.datasets.loader import DamagedImages
from reid.datasets.sampling import SAMPLERS
from reid.engine.ema import Averaged
from reid.engine.evidence import Evidence
from reid.engine.nonfinite import Nonfinite
from reid.engine.objective import SumOfLosses
from reid.engine.optim import OPTIMIZERS, SCHEDULES, Schedule, warmed
from reid.engine.train import Job, TrainingSet
from reid.errors import ConfigError, counted
from reid.experiment.model import build_classifier, build_embedding, check_input_size, with_shared_norm
from reid.losses import LOSSES
from reid.metric_losses import METRIC_LOSSES, MetricLoss
from reid.runtime import Runtime

ALL_LOSSES: dict[str, Callable[..., nn.Module]] = {**LOSSES, **METRIC_LOSSES}


def build_loss(config: Config, num_samples: int = 1, num_classes: int = 2, num_features: int = 1) -> nn.Module:
    """Builds the configured loss: a `SumOfLosses` for a list or a metric loss.

    Args:
        config: config of the run.
        num_samples: number of training frames, for losses with a state per sample.
        num_classes: number of classes, for losses with a state per class.
        num_features: feature dimensions of the network, for losses with a state in feature space.

    Raises:
        ConfigError: a setting is out of range, or the losses of a list do not go together.
    """
    sizes = {"num_samples": num_samples, "num_classes": num_classes, "num_features": num_features}
    given = {"iterations": config.train.iterations, **sizes}
    if not isinstance(config.loss, list):
        loss = build("loss", ALL_LOSSES, config.loss, **given)
        return SumOfLosses({config.loss.name: loss}, {config.loss.name: 1}) if isinstance(loss, MetricLoss) else loss
    names = [component.name for component in config.loss]
    if twice := [name for name in names if names.count(name) > 1]:
        raise ConfigError(f"loss: {twice[0]} appears twice; expected each loss once (use weight to scale it)")
    terms = [_without_factor(i, component) for i, component in enumerate(config.loss)]
    losses = {one.name: build(f"loss.{i}", ALL_LOSSES, one, **given) for i, (one, _) in enumerate(terms)}
    return SumOfLosses(losses, {one.name: factor for one, factor in terms})


def _without_factor(place: int, component: Component) -> tuple[Component, float]:
    """Separates the settings of a loss in a list from its `weight`, the factor in the sum, 1 by default.

    Raises:
        ConfigError: the weight is not a finite number above 0.
    """
    options = component.options
    factor = options.pop("weight", 1.0)
    if isinstance(factor, bool) or not isinstance(factor, (int, float)) or not 0 < factor < math.inf:
        raise ConfigError(f"loss.{place}.weight: expected a number above 0, got {factor!r}")
    return Component(name=component.name, **options), float(factor)


def with_warmup(config: Config, schedule: Schedule) -> Schedule:
    try:
        return warmed(schedule, config.train.warmup, config.train.iterations, config.train.warmup_start)
    except ConfigError as error:
        raise ConfigError(f"train.{error}") from None


def build_job(config: Config, data: TrainingSet, runtime: Runtime, *, initial_weights: bool = True) -> Job:
    """Builds everything that `reid.engine.train.fit` needs; `initial_weights` as in `build_embedding`."""
    _require_enough_images(config, runtime)  # before weights are downloaded
    embedding, preprocess = build_embedding(config, initial_weights=initial_weights)
    num_classes = len(data.pids)
    loss = build_loss(config, len(data.split.names), num_classes, embedding.num_features)
    model = build_classifier(config, embedding, num_classes)
    model.with_features = isinstance(loss, SumOfLosses) and loss.needs_features
    model = runtime.place(with_shared_norm(config, model, runtime))
    check_input_size(config, model, runtime)
    train = config.train
    return Job(
        model=model,
        loss=loss.to(runtime.device),
        optimizer=build("train.optimizer", OPTIMIZERS, train.optimizer, model=model),
        schedule=with_warmup(config, build("train.schedule", SCHEDULES, train.schedule, iterations=train.iterations)),
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
        freeze=train.freeze,
        damaged=DamagedImages(config.data.damaged),
        nonfinite=Nonfinite(train.nonfinite),
        scaler=runtime.grad_scaler(),
        ema=None if train.ema is None else Averaged(model, train.ema),
        compile=config.machine.compile,
        evidence=Evidence(data.split, train.iterations).to(runtime.device),
    )


def _require_enough_images(config: Config, runtime: Runtime) -> None:
    parts = runtime.world_size * config.train.accumulate
    each, why = (1, "") if config.model.freeze_norm else (2, ", as batch normalisation needs")
    if config.train.batch_size < each * parts:
        split = f"{counted(runtime.world_size, 'process', 'processes')} x train.accumulate {config.train.accumulate}"
        raise ConfigError(
            f"train.batch_size: expected at least {counted(each, 'image')} for each of {split}{why}, got {config.train.batch_size}"
        )
