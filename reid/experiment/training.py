"""From the config to everything that a training run is made of."""

from __future__ import annotations

from torch import nn

from reid.binding import build
from reid.config import Config
from reid.datasets.loader import DamagedImages
from reid.datasets.sampling import SAMPLERS
from reid.engine.ema import Averaged
from reid.engine.evidence import Evidence
from reid.engine.optim import OPTIMIZERS, SCHEDULES, Schedule, warmed
from reid.engine.train import Job, TrainingSet
from reid.errors import ConfigError
from reid.experiment.model import build_embedding, check_input_size, with_shared_norm
from reid.losses import LOSSES
from reid.models.embedding import Classifier
from reid.runtime import Runtime


def build_loss(config: Config, num_samples: int = 1, num_classes: int = 2) -> nn.Module:
    """The configured loss; `num_samples` and `num_classes` are for those that remember samples and classes."""
    given = {"num_samples": num_samples, "num_classes": num_classes, "iterations": config.train.iterations}
    return build("loss", LOSSES, config.loss, **given)


def with_warmup(config: Config, schedule: Schedule) -> Schedule:
    try:
        return warmed(schedule, config.train.warmup, config.train.iterations)
    except ConfigError as error:
        raise ConfigError(f"train.{error}") from None


def build_job(config: Config, data: TrainingSet, runtime: Runtime, *, initial_weights: bool = True) -> Job:
    """Everything that `reid.engine.train.fit` needs; arguments as in `build_embedding`."""
    embedding, preprocess = build_embedding(config, initial_weights=initial_weights)
    model = runtime.place(with_shared_norm(config, Classifier(embedding, len(data.pids)), runtime))
    check_input_size(config, model, runtime)
    _require_enough_images(config, runtime)
    train = config.train
    return Job(
        model=model,
        loss=build_loss(config, len(data.split.names), len(data.pids)).to(runtime.device),
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
        damaged=DamagedImages(config.data.damaged),
        scaler=runtime.grad_scaler(),
        ema=None if train.ema is None else Averaged(model, train.ema),
        compile=config.machine.compile,
        evidence=Evidence(data.split, train.iterations).to(runtime.device),
    )


def _require_enough_images(config: Config, runtime: Runtime) -> None:
    parts = runtime.world_size * config.train.accumulate
    each, why = (1, "") if config.model.freeze_norm else (2, ", as batch normalisation needs")
    if config.train.batch_size < each * parts:
        split = f"{runtime.world_size} process(es) x train.accumulate {config.train.accumulate}"
        raise ConfigError(
            f"train.batch_size: expected at least {each} image(s) for each of {split}{why}, got {config.train.batch_size}"
        )
