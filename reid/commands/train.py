"""Train: from a checked config to a run directory with a tested model."""

from __future__ import annotations

import contextlib
import logging
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from reid import experiment
from reid.cli import Interrupted, StopFlag, logging_to_file
from reid.commands.extract import features_of
from reid.commands.test import finish_run
from reid.commands.training_log import TrainingLog, log_start
from reid.config import Config, parse
from reid.engine import checkpoint
from reid.engine.train import Job, fit
from reid.errors import CheckpointError, ConfigError, DataError, ReidError
from reid.evaluation.evaluate import evaluate
from reid.protocol import MARKET1501
from reid.report.tables import percent
from reid.rundir import RunDirectory
from reid.runtime import Runtime, share_buffers, start, sum_over_processes, wait_for_all
from reid.tracklets import Split

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Options:
    """How to start: fields as the flags of tools/train.py."""

    output_dir: Path
    resume: str | None = None
    overwrite: bool = False
    dry_run: bool = False
    command: str = ""


def run(config: Config, options: Options) -> None:
    """Trains, tests the last checkpoint, and writes the run directory.

    Raises:
        ReidError: a problem that the user can mend.
        Interrupted: after a signal, with the run ready to be resumed.
    """
    experiment.check(config)
    directory = RunDirectory(options.output_dir)
    with start(config.machine.device, config.machine.dtype) as runtime:
        if runtime.is_main and not options.dry_run:
            directory.check(config, resume=options.resume is not None, overwrite=options.overwrite)
        wait_for_all()
        data = experiment.load_data(config)
        source = None if options.dry_run else _to_resume(directory, options)
        job = experiment.build_job(config, data.train, runtime, initial_weights=source is None)
        if options.dry_run:
            _dry_run(config, job, data, runtime)
            return
        progress = _restored(config, job, source, data) if source else _Progress()
        with contextlib.ExitStack() as stack:
            if runtime.is_main:
                directory.prepare(config, overwrite=options.overwrite)
                if source not in (None, directory.last):
                    directory.adopt(source)
                stack.enter_context(logging_to_file(directory.log))
            log_start(config, job, data, runtime, options.command)
            if progress.step < job.iterations:
                _train(config, directory, job, data.holdout, runtime, progress)
            else:
                logger.info("all %d steps are done; nothing left to train", progress.step)
            finish_run(directory, config, job.model, job.preprocess, data, runtime)


@dataclass
class _Progress:
    """Steps done, and the best mAP on held-out identities so far."""

    step: int = 0
    best: float | None = None


def _to_resume(directory: RunDirectory, options: Options) -> Path | None:
    if options.resume is None or options.overwrite:
        return None
    if options.resume == "auto":
        return directory.last if directory.last.exists() else None
    return Path(options.resume)


def _restored(config: Config, job: Job, source: Path, data: experiment.LabelledData) -> _Progress:
    """Puts the checkpoint's state into the job."""
    state = checkpoint.load(source)
    if changed := config.differences(parse(state["config"], source)):
        raise ConfigError(
            f"{source}: cannot resume, made with another config: {'; '.join(changed)}; give the same config"
        )
    if state["pids"] != data.train.pids.tolist():
        raise DataError(
            f"{source}: trained on {len(state['pids'])} identities, the dataset gives {len(data.train.pids)} or others; "
            "use the same data and labels"
        )
    checkpoint.load_weights(job.model, state["model"], source)
    checkpoint.load_weights(job.loss, state["loss"], source)
    try:
        job.optimizer.load_state_dict(state["optimizer"])
    except (ValueError, KeyError) as error:
        raise CheckpointError(f"{source}: optimiser state of another model: {error}") from None
    logger.info("resuming from %s at step %d", source, state["step"])
    return _Progress(state["step"], state["best"])


def _dry_run(config: Config, job: Job, data: experiment.LabelledData, runtime: Runtime) -> None:
    log_start(config, job, data, runtime, "dry run")
    fit(replace(job, iterations=1), runtime, on_log=lambda row: logger.info("one step: loss %.4f", row["loss"]))
    logger.info("dry run: everything was built and one step was done; nothing was written")


def _train(
    config: Config, directory: RunDirectory, job: Job, holdout: Split | None, runtime: Runtime, progress: _Progress
) -> None:
    def save(path: Path) -> None:
        if not all(bool(parameter.isfinite().all()) for parameter in job.model.parameters()):
            raise ReidError(
                f"training diverged by step {progress.step}; lower train.lr or set train.clip_grad, then start anew"
            )
        if runtime.is_main:
            states = {
                "model": job.model.state_dict(),
                "loss": job.loss.state_dict(),
                "optimizer": job.optimizer.state_dict(),
            }
            about = {"config": config.dump(), "pids": job.data.pids.tolist()}
            checkpoint.save(path, step=progress.step, best=progress.best, **about, **states)

    def after_step(done: int) -> None:
        progress.step, finished = done, done == job.iterations
        if holdout is not None and (finished or (config.train.eval_freq > 0 and done % config.train.eval_freq == 0)):
            score = _held_out_map(config, job, holdout, runtime)
            logger.info("held-out identities at step %d: mAP %s (%s)", done, percent(score), MARKET1501.name)
            if score is not None and (progress.best is None or score > progress.best):
                progress.best = score
                save(directory.best)
        signum = stop.signum if runtime.world_size == 1 else 0
        if runtime.world_size > 1 and (finished or done % 10 == 0):  # asking the others waits for the device
            signum = _agreed(stop.signum, runtime)
        if finished or signum or done % config.train.checkpoint_freq == 0:
            save(directory.last)
        if signum:
            logger.warning("stopped at step %d; the same command with --resume auto continues", done)
            raise Interrupted(signum)

    with StopFlag() as stop, TrainingLog(directory, job, runtime, progress.step) as log:
        fit(job, runtime, first_step=progress.step, after_step=after_step, on_log=log.write)


def _agreed(signum: int, runtime: Runtime) -> int:
    """The signal that any of several processes has seen."""
    seen = torch.zeros(runtime.world_size, device=runtime.device)
    seen[runtime.rank] = signum
    return int(sum_over_processes(seen).max())


def _held_out_map(config: Config, job: Job, holdout: Split, runtime: Runtime) -> float | None:
    share_buffers(job.model)
    features = features_of(config, job.model.embedding, job.preprocess, holdout, runtime)
    return evaluate(features, MARKET1501).mAP
