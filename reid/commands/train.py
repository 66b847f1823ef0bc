"""Train: train a model from a config, test it, and write the run directory."""

from __future__ import annotations

import contextlib
import hashlib
import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NoReturn, cast

import numpy as np
import torch
from torch import Tensor

from reid import experiment
from reid.cli import Interrupted, StopFlag, logging_to_file
from reid.commands.extract import features_of
from reid.commands.test import finish_run
from reid.commands.training_log import TrainingLog, log_start
from reid.config import Config, parse
from reid.datasets import presence
from reid.datasets.corrections import digest_of
from reid.datasets.damaged import write_list
from reid.datasets.holdout import how_to_judge
from reid.engine import checkpoint, evidence
from reid.engine.nonfinite import NotFinite, write_batches
from reid.engine.train import Job, LogWindow, fit
from reid.errors import CheckpointError, ConfigError, DataError, ReidError, counted
from reid.evaluation.evaluate import evaluate
from reid.models.embedding import Classifier
from reid.processes import is_main_process
from reid.report.tables import percent
from reid.rundir import RunDirectory
from reid.runtime import Runtime, gather_rows, share_buffers, start, sum_over_processes, wait_for_all
from reid.tracklets import IdNames, Split

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Options:
    """Options of training; fields as the flags of robust-reid train.

    `then_test` tests the last checkpoint at the end. `like` is a run whose division of persons and whose label noise are used.
    """

    output_dir: Path
    resume: str | None = None
    overwrite: bool = False
    dry_run: bool = False
    command: str = ""
    then_test: bool = True
    like: Path | None = None


def run(config: Config, options: Options, runtime: Runtime | None = None) -> float | None:
    """Trains, tests the last checkpoint, and writes the run directory.

    Args:
        config: config of the run.
        options: options of training.
        runtime: an existing runtime, for callers that train several runs; by default one is started here.

    Returns:
        The best mAP on held-out identities, a fraction; None without held-out identities.

    Raises:
        ReidError: a problem that the user can fix.
        Interrupted: after a signal; the run can be resumed.
    """
    experiment.check(config)
    config, directory = experiment.located(config), RunDirectory(options.output_dir)
    machine = config.machine
    # The folder is locked after the process group has started, so that if it fails, the other processes stop too.
    with (
        start(machine.device, machine.dtype) if runtime is None else contextlib.nullcontext(runtime) as runtime,
        _held(directory, config, options),
    ):
        wait_for_all()
        sources = [] if options.dry_run else _to_resume(directory, options)
        # On resume, the saved division of persons is used, even if the table has changed since.
        like = directory if sources else RunDirectory(options.like) if options.like is not None else None
        data = experiment.load_data(config, *((like.drawn(), like.made()) if like is not None else ()))
        warnings = _check_images(config, data, tested=options.then_test and not options.dry_run)
        job = experiment.build_job(config, data.train, runtime, initial_weights=not sources)
        if options.dry_run:
            _dry_run(config, job, data, runtime, warnings)
            return None
        progress = _restored(config, job, sources, data, runtime) if sources else _Progress()
        _require_same_step(progress.step, options.output_dir, runtime)
        with contextlib.ExitStack() as stack:
            if runtime.is_main:
                directory.prepare(config, overwrite=options.overwrite)
                directory.keep_data(data.benchmark, [file.content for file in data.corrections], data.weights_file)
                directory.keep_noise(data.noisy)
                if progress.source is not None:
                    directory.adopt(progress.source)
                stack.enter_context(logging_to_file(directory.log))
            log_start(config, job, data, runtime, options.command)
            for warning in warnings:
                logger.warning("%s: %s", data.benchmark.name, warning)
            if progress.step < job.iterations:
                _train(config, directory, job, data, runtime, progress)
            else:
                logger.info("%s done; nothing left to train", counted(progress.step, "step is", "steps are"))
            _write_evidence(directory, job, data.benchmark.names, runtime)
            if options.then_test:
                finish_run(directory, config, _tested(job), job.preprocess, data, runtime, job.damaged)
            if runtime.is_main:
                directory.previous.unlink(missing_ok=True)  # the run is complete and needs no fallback
        return progress.best


@contextlib.contextmanager
def _held(directory: RunDirectory, config: Config, options: Options) -> Iterator[None]:
    """Checks and locks the run directory in the main process; does nothing for a dry run, which writes nothing."""
    if options.dry_run or not is_main_process():
        yield
        return
    may = {"resume": options.resume is not None, "overwrite": options.overwrite}
    directory.check(config, **may)  # before anything is created
    with directory.held():
        directory.check(config, **may)  # again: another process may have written to it before the lock was taken
        yield


@dataclass
class _Progress:
    """Steps done, best mAP on held-out identities so far, sums since the last log line, and the checkpoint they were restored from."""

    step: int = 0
    best: float | None = None
    window: LogWindow | None = None
    source: Path | None = None


def _to_resume(directory: RunDirectory, options: Options) -> list[Path]:
    """Returns the checkpoints to try to resume from, newest first; empty to start from scratch."""
    if options.resume is None or options.overwrite:
        return []
    return directory.resumable() if options.resume == "auto" else [Path(options.resume)]


def _restored(
    config: Config, job: Job, sources: list[Path], data: experiment.LabelledData, runtime: Runtime
) -> _Progress:
    """Restores the job from the newest readable checkpoint.

    Raises:
        CheckpointError: no checkpoint can be read, or it does not fit the model.
        ConfigError: it was made with another config or other corrections.
        DataError: it was made with other training identities.
    """
    source, state = checkpoint.load_first(sources, "config", "pids", "step", "best", "model", "loss", "optimizer")
    trained_with: Config = parse(state["config"], source)
    if changed := config.differences(trained_with, but="train.iterations"):
        raise ConfigError(
            f"{source}: cannot resume, made with a different config: {'; '.join(changed)}; use the same config"
        )
    _require_same_corrections(state, data, source)
    _require_same_weights(state, data, source)
    experiment.require_same_past(trained_with, config, state["step"], source)
    if state["pids"] != data.train.pids.tolist():
        before, now = set(state["pids"]), set(data.train.pids.tolist())
        differ = f"{sorted(before - now)[:5]} are missing and {sorted(now - before)[:5]} are new (first five of each)"
        raise DataError(
            f"{source}: trained on {len(before)} identities, the dataset gives {len(now)}: {differ}; use the same data and labels"
        )
    _require_same_names(state, data, source)
    checkpoint.load_weights(job.model, state["model"], source)
    checkpoint.load_weights(job.loss, state["loss"], source)
    if job.ema is not None:
        checkpoint.load_weights(job.ema.model, state.get("ema", {}), source)
    try:
        job.optimizer.load_state_dict(state["optimizer"])
        if job.scaler is not None and "scaler" in state:  # the dtype may change on resume
            job.scaler.load_state_dict(state["scaler"])
    except Exception as error:  # torch does not validate the state before it uses it
        raise CheckpointError(f"{source}: the optimiser state belongs to a different model: {error!r:.200}") from None
    job.damaged.files.update(state.get("damaged", {}))
    if "nonfinite" in state:  # checkpoints of earlier versions have none
        job.nonfinite.restore(state["nonfinite"])
    if job.evidence is not None and "evidence" in state:  # checkpoints of earlier versions have none
        job.evidence.restore(state["evidence"], source, is_main=runtime.is_main)
    logger.info("resuming from %s at step %d", source, state["step"])
    return _Progress(state["step"], state["best"], _window_of(state.get("windows"), job, runtime), source)


def _require_same_corrections(state: dict[str, Any], data: experiment.LabelledData, source: Path) -> None:
    """Checks that the content of the corrections files is unchanged; their paths may differ.

    Raises:
        ConfigError: the checksums differ.
    """
    before = (state.get("corrections") or {}).get("sha256")
    now = digest_of(data.corrections)
    if before != now:
        there, here = (f"SHA-256 {digest[:8]}…" if digest else "none" for digest in (before, now))
        raise ConfigError(
            f"{source}: cannot resume, data.corrections: trained with {there}, now {here}; use the same file with "
            f"data.corrections=FILE (copies: {source.parent.parent}/corrections*.csv), or start a new run with --output-dir"
        )


def _require_same_weights(state: dict[str, Any], data: experiment.LabelledData, source: Path) -> None:
    """Checks that the content of data.weights is unchanged, since another audit may have replaced it.

    Raises:
        ConfigError: the checksums differ.
    """
    now = _digest_of_weights(data)
    before = state.get("weights", now)  # earlier versions saved none
    if before != now:
        raise ConfigError(
            f"{source}: cannot resume, data.weights has changed: trained with SHA-256 {before:.8}…, now {now:.8}…; use the same file with "
            f"data.weights=FILE (copy: {RunDirectory(source.parent.parent).weights}), or start a new run with --output-dir"
        )


def _about_labels(data: experiment.LabelledData) -> dict[str, Any]:
    """What a checkpoint keeps of the corrections and weights of the labels."""
    about: dict[str, Any] = {}
    if data.corrections:
        about["corrections"] = {"sha256": digest_of(data.corrections), "counts": data.corrected}
    if data.weights_file is not None:
        about["weights"] = _digest_of_weights(data)
    return about


def _digest_of_weights(data: experiment.LabelledData) -> str:
    """The SHA-256 of data.weights; empty without one."""
    return "" if data.weights_file is None else hashlib.sha256(data.weights_file).hexdigest()


def _require_same_names(state: dict[str, Any], data: experiment.LabelledData, source: Path) -> None:
    """Checks that each class is still the same person, because text ids get other numbers if the table's persons change.

    Raises:
        DataError: a class has another name.
    """
    before, now = IdNames.from_json(state.get("names")).pid, data.benchmark.names.pid
    if changed := [pid for pid in state["pids"] if before.get(pid) != now.get(pid)]:
        was, given = before.get(changed[0], changed[0]), now.get(changed[0], changed[0])
        raise DataError(
            f"{source}: the table's persons have changed: class {changed[0]} was {was!r} and would be {given!r}; start a new run"
        )


def _require_same_step(step: int, folder: Path, runtime: Runtime) -> None:
    """Checks that all processes resume from the same step; they do not if nodes do not share the run directory.

    Raises:
        CheckpointError: the steps differ.
    """
    steps = gather_rows(torch.tensor([step], device=runtime.device)).tolist()
    if len(set(steps)) > 1:
        raise CheckpointError(
            f"{folder}: the processes found checkpoints at different steps ({', '.join(map(str, steps))} by rank); "
            "put the run directory where all nodes can read it"
        )


def _window_of(windows: Tensor | None, job: Job, runtime: Runtime) -> LogWindow:
    """Restores this process's log window from `_all_windows`; if the number of processes has changed, rank 0 gets the sum of all."""
    window = LogWindow.of(job, runtime.device)
    numbers = sum(value.numel() if isinstance(value, Tensor) else 1 for value in vars(window).values())
    if windows is None or windows.shape[1] != numbers:  # earlier version: the next row then covers fewer steps
        return window
    if len(windows) == runtime.world_size:
        row = windows[runtime.rank]
    else:
        row = windows.sum(0) * (runtime.rank == 0)
    for name, value in vars(window).items():
        size = value.numel() if isinstance(value, Tensor) else 1
        part, row = row[:size], row[size:]
        setattr(window, name, part.view(value.shape).to(value) if isinstance(value, Tensor) else part.item())
    return window


def _all_windows(window: LogWindow, runtime: Runtime) -> Tensor:
    """Gathers the sums of each process since the last log line: (processes, numbers) float64, which represents each exactly."""
    numbers = [torch.as_tensor(value).cpu().double().view(-1) for value in vars(window).values()]
    row = torch.cat(numbers)[None]
    return row if runtime.world_size == 1 else gather_rows(row.to(runtime.device)).cpu()


def _tested(job: Job) -> Classifier:
    """Returns the model to evaluate: the EMA model if there is one, as in `checkpoint.tested_weights`."""
    return job.model if job.ema is None else cast(Classifier, job.ema.model)


def _check_images(config: Config, data: experiment.LabelledData, *, tested: bool) -> list[str]:
    """Checks before the first step that every image exists, so that no run fails after hours because of a missing file.

    Args:
        config: config of the run.
        data: the dataset with the labels used for training.
        tested: whether the run ends with a test.

    Returns:
        Sentences on what is left out of the training.

    Raises:
        DataError: an image is missing, and `data.damaged` is not set to skip it; a tracklet to be evaluated has no image; or fewer than
            two training persons have images.
    """
    policy, split, names = config.data.damaged, data.train.split, data.benchmark.names
    missing_F = presence.missing(split)
    if policy == "error":
        presence.require_all(split, missing_F)
    for judged in (data.holdout, data.benchmark.test if tested else None):
        if judged is not None:
            presence.require_images(judged, presence.missing(judged), policy, "remove it from the dataset")
    lost = presence.persons_without(split, presence.without_any(split, missing_F))
    if len(data.train.pids) - len(lost) < 2:
        raise DataError(
            f"{data.benchmark.name}: {len(lost)} of {counted(len(data.train.pids), 'person')} to train on have no "
            f"existing image, such as {names.person(lost[0])}; expected at least 2 with images; restore the files, or correct their paths"
        )
    told = [presence.in_words(split, missing_F), _of_whom_nothing_is_learned(lost, names, "that is there")]
    return [sentence for sentence in told if sentence]


def _of_whom_nothing_is_learned(pids: Sequence[int], names: IdNames, which: str) -> str:
    """Returns a sentence on persons without usable images; empty if there are none."""
    if not pids:
        return ""
    shown = ", ".join(map(names.person, pids[:3])) + ", …" * (len(pids) > 3)
    return f"{counted(len(pids), 'person has', 'persons have')} no image {which}, so nothing is learned about them: {shown}"


def _dry_run(
    config: Config, job: Job, data: experiment.LabelledData, runtime: Runtime, warnings: Sequence[str]
) -> None:
    log_start(config, job, data, runtime, "dry run")
    for warning in warnings:
        logger.warning("%s: %s", data.benchmark.name, warning)
    fit(replace(job, iterations=1), runtime, on_log=lambda row: logger.info("one step: loss %.4f", row["loss"]))
    logger.info("dry run: everything was built and one step was done; nothing was written")


def _train(
    config: Config,
    directory: RunDirectory,
    job: Job,
    data: experiment.LabelledData,
    runtime: Runtime,
    progress: _Progress,
) -> None:
    first, window = progress.step, progress.window or LogWindow.of(job, runtime.device)
    with StopFlag() as stop, TrainingLog(directory, job, runtime, first) as log:
        hooks = StepHooks(
            config,
            directory,
            job,
            data.holdout,
            data.benchmark.names,
            _about_labels(data),
            runtime,
            progress,
            window,
            stop,
            log,
        )
        try:
            fit(job, runtime, first_step=first, window=window, after_step=hooks.after_step, on_log=log.write)
        except NotFinite as error:
            hooks.explain(error)
        if signum := _agreed(stop.signum, runtime):  # received while the last checkpoint was written
            hooks.end(signum)
        hooks.say_left_out()


def _write_evidence(directory: RunDirectory, job: Job, names: IdNames, runtime: Runtime) -> None:
    if job.evidence is None:
        return
    seen = job.evidence.of_all_processes()
    if not seen["count_F"].any():  # none, if resumed from a checkpoint of an earlier version
        return
    _say_who_was_never_seen(job, seen["count_TP"].numpy().sum(1), names, runtime)
    if runtime.is_main:
        evidence.write(directory.evidence, seen, job.data.split)


def _say_who_was_never_seen(job: Job, count_T: np.ndarray, names: IdNames, runtime: Runtime) -> None:
    """Warns of persons that were never trained on because their sampled images are damaged; persons never sampled do not count."""
    files = job.damaged.of_all_processes(runtime.device)
    split = job.data.split
    never = presence.persons_without(split, count_T == 0) if files else []
    tried = [
        pid
        for pid in never
        if any(str(path) in files for row in np.flatnonzero(split.pid == pid).tolist() for path in split[row].paths)
    ]
    if sentence := _of_whom_nothing_is_learned(tried, names, "that could be read"):
        logger.warning("%s", sentence)


@dataclass
class StepHooks:
    """Hooks between training steps: evaluate, save, stop. All processes call them together; only the main process writes."""

    config: Config
    directory: RunDirectory
    job: Job
    holdout: Split | None
    names: IdNames
    about_labels: dict[str, Any]
    runtime: Runtime
    progress: _Progress
    window: LogWindow
    stop: StopFlag
    log: TrainingLog

    def after_step(self, done: int) -> None:
        self.progress.step, finished, train = done, done == self.job.iterations, self.config.train
        self.log.step_done(done)
        if self.holdout is not None and (finished or (train.eval_freq > 0 and done % train.eval_freq == 0)):
            self._evaluate(self.holdout)
        signum = self.stop.signum if self.runtime.world_size == 1 else 0
        # Agreeing on a signal synchronises the GPU, so it is done only every ten steps there.
        if self.runtime.world_size > 1 and (finished or self.runtime.device.type == "cpu" or done % 10 == 0):
            signum = _agreed(self.stop.signum, self.runtime)
        if finished or signum or done % train.checkpoint_freq == 0:
            self._save(self.directory.last, previous=self.directory.previous)
        if signum:
            self.end(signum)

    def end(self, signum: int) -> NoReturn:
        """Ends the run after its checkpoint is saved; waits for all processes, because torchrun kills the others when one exits."""
        self.say_left_out()
        wait_for_all()
        logger.warning("stopped at step %d; the same command with --resume auto continues", self.progress.step)
        raise Interrupted(signum)

    def explain(self, error: NotFinite) -> NoReturn:
        """Writes the batches that were not finite, and raises the error with what to do."""
        self._write_nonfinite()
        wait_for_all()  # torchrun kills the other processes when one exits
        listed = f"; batches: {self.directory.nonfinite}" if len(self.job.nonfinite.rows) else ""
        may_skip = not self.job.nonfinite.skips and self.job.nonfinite.some_are_finite
        leave_out = ", or leave such steps out with --resume auto train.nonfinite=skip" if may_skip else ""
        raise ReidError(
            f"{error}{listed}; lower train.lr or set train.clip_grad, and start again{leave_out}"
        ) from error

    def _write_nonfinite(self) -> None:
        if self.runtime.is_main:
            data = self.job.data
            pid_F = np.append(data.pids, -1)[data.label_F.cpu().numpy()]
            write_batches(self.directory.nonfinite, self.job.nonfinite.rows, data.split, pid_F)

    def say_left_out(self) -> None:
        if skipped := self.job.nonfinite.skipped:
            logger.warning(
                "%s skipped, because the loss or the gradient was not finite; the first batches: %s",
                counted(skipped, "step was", "steps were"),
                self.directory.nonfinite,
            )
        if files := self.job.damaged.of_all_processes(self.runtime.device):
            path, reason = next(iter(files.items()))
            listed = self.directory.damaged
            left_out = counted(len(files), "image was", "images were")
            logger.warning("%s left out (first: %s: %s); list in %s", left_out, path, reason, listed)

    def _evaluate(self, holdout: Split) -> None:
        self.job.nonfinite.check(self.job.data.split)
        features_model = _tested(self.job)
        share_buffers(features_model)
        model, preprocess, damaged = features_model.embedding, self.job.preprocess, self.job.damaged
        protocol, query = how_to_judge(holdout, any_camera=self.config.test.any_camera)
        features = features_of(self.config, model, preprocess, holdout, self.runtime, query=query, damaged=damaged)
        score = evaluate(features, protocol).mAP
        logger.info("held-out identities at step %d: mAP %s (%s)", self.progress.step, percent(score), protocol.name)
        if score is not None and (self.progress.best is None or score > self.progress.best):
            self.progress.best = score
            self._save(self.directory.best)

    def _save(self, path: Path, *, previous: Path | None = None) -> None:
        job, progress = self.job, self.progress
        job.nonfinite.check(job.data.split)
        if not all(bool(parameter.isfinite().all()) for parameter in job.model.parameters()):
            raise NotFinite(f"training diverged by step {progress.step}: a weight is not finite")
        windows, damaged = _all_windows(self.window, self.runtime), job.damaged.of_all_processes(self.runtime.device)
        seen = {} if job.evidence is None else {"evidence": job.evidence.of_all_processes()}
        if not self.runtime.is_main:
            return
        self.log.flush()
        write_list(self.directory.damaged, damaged)
        self._write_nonfinite()
        about = {"config": self.config.dump(), "pids": job.data.pids.tolist(), "damaged": damaged, "windows": windows}
        about |= {"step": progress.step, "best": progress.best, "nonfinite": job.nonfinite.state()}
        about |= self.about_labels
        about |= {"names": self.names.to_json()} if self.names else {}
        checkpoint.save(path, previous=previous, **about, **seen, **_states(job))


def _states(job: Job) -> dict[str, Any]:
    parts = {name: getattr(job, name) for name in ("model", "loss", "optimizer", "ema", "scaler")}
    return {name: part.state_dict() for name, part in parts.items() if part is not None}


def _agreed(signum: int, runtime: Runtime) -> int:
    """Returns the signal received by any process, or 0; with different signals, the largest number."""
    seen = torch.zeros(runtime.world_size, device=runtime.device)
    seen[runtime.rank] = signum
    return int(sum_over_processes(seen).max())
