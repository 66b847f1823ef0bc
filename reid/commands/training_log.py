"""Logging of a training run: header, step lines, metrics.jsonl, TensorBoard and a progress bar."""

from __future__ import annotations

import logging
import sys
from datetime import timedelta

import torch
from torch.utils.flop_counter import FlopCounterMode
from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

from reid.config import Config
from reid.engine.train import Job
from reid.errors import counted
from reid.experiment import LabelledData
from reid.metric_losses import METRIC_LOSSES
from reid.report.tables import text_table
from reid.rundir import RunDirectory
from reid.runtime import Runtime, environment
from reid.tracklets import Benchmark

logger = logging.getLogger(__name__)


def log_start(config: Config, job: Job, data: LabelledData, runtime: Runtime, command: str) -> None:
    """Logs command, config, environment, data and model before the first step, and warns of settings without effect."""
    logger.info("command: %s", command)
    logger.info("config %s:\n%s", config.fingerprint(), config.dump().rstrip())
    logger.info("environment: %s", ", ".join(f"{name} {value}" for name, value in environment().items()))
    processes = counted(runtime.world_size, "process", "processes")
    logger.info("device: %s, %s, %s", runtime.device, runtime.dtype, processes)
    logger.info(
        "dataset %s:\n%s",
        data.benchmark.name,
        text_table(["subset", "ids", "tracklets", "frames", "cameras"], data.benchmark.summary()),
    )
    train = job.data.split
    logger.info(
        "training on %s, %s, %s; wrong labels: %s",
        counted(len(job.data.pids), "class", "classes"),
        counted(len(train), "tracklet"),
        counted(train.num_frames, "frame"),
        data.noise,
    )
    if data.corrections:
        logger.info("corrections %s: %s", ", ".join(str(file.file) for file in data.corrections), data.corrected)
    if data.weights:
        logger.info("weights of training tracklets: %s", data.weights)
    for note in data.benchmark.notes:
        logger.info("%s: %s", data.benchmark.name, note)
    for part in data.benchmark.tested:
        if not len(part.query):
            logger.warning("%s", without_test(part))
    if config.train.eval_freq > 0 and data.holdout is None:
        # A table without a column split always gets held-out identities if it has enough persons, whatever the config says.
        why = (
            "set data.holdout=0.1, for example"
            if data.benchmark.drawn is None
            else "the table has too few persons to hold some out"
        )
        logger.warning(
            "train.eval_freq=%d has no effect: no identities are held out to evaluate; %s", config.train.eval_freq, why
        )
    pairs = [one.name for one in config.losses if one.name in METRIC_LOSSES and one.name != "centre"]
    if pairs and (config.sampler.name != "identities" or config.sampler.options.get("K", 4) < 2):
        logger.warning(
            "loss %s compares images of one person, but a batch of sampler %s rarely contains two of them; "
            "set sampler={name: identities, K: 4}",
            " and ".join(pairs),
            config.sampler.name,
        )
    parameters = sum(p.numel() for p in job.model.parameters())
    logger.info(
        "model %s: %.2f M parameters, %.2f GFLOPs per image",
        config.model.name,
        parameters / 1e6,
        forward_flops(job, runtime) / 1e9,
    )


def without_test(benchmark: Benchmark) -> str:
    """Returns a message for a dataset without queries: what cannot be evaluated, and how to change that."""
    what = "no query among its test tracklets" if len(benchmark.test) else "no test set"
    return (
        f"{benchmark.name}: {what}, so there is no mAP and no CMC at the end; the model is trained anyway. To get "
        "them, add queries to the dataset, or test the run on another one (data.path=OTHER.csv, --data-root DIR)"
    )


def forward_flops(job: Job, runtime: Runtime) -> int:
    """Returns the floating-point operations of a forward pass of one image; a multiply-add counts as two."""
    image = torch.zeros(1, 3, *job.preprocess.crop, device=runtime.device)
    was_training = job.model.training
    job.model.eval()
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        job.model(image)
    job.model.train(was_training)
    return counter.get_total_flops()


class TrainingLog:
    """Context manager that writes every metrics row to log, metrics.jsonl and TensorBoard. Only the main process writes.

    Args:
        directory: the run directory; rows past `first_step` are deleted from metrics.jsonl and hidden in TensorBoard.
        job: the run.
        runtime: of this process.
        first_step: number of steps already done.
    """

    def __init__(self, directory: RunDirectory, job: Job, runtime: Runtime, first_step: int) -> None:
        self._directory, self._job, self._runtime, self._first_step = directory, job, runtime, first_step
        self._totals = {"seconds": 0.0, "data_seconds": 0.0, "loss": 0.0, "accuracy": 0.0}
        # Step of the last row up to `first_step`: the next row covers all steps since, including those before the resume.
        self._step = self._from = max(first_step - first_step % job.log_freq, min(first_step, 1))

    def __enter__(self) -> TrainingLog:
        if self._runtime.is_main:
            from torch.utils.tensorboard import SummaryWriter  # slow to import

            self._directory.cut_metrics(self._first_step)
            self._board = SummaryWriter(str(self._directory.tensorboard), purge_step=self._first_step + 1)
            quiet = not sys.stderr.isatty()
            self._bar = tqdm(
                total=self._job.iterations, initial=self._first_step, desc="training", unit="step", disable=quiet
            )
            self._redirect = logging_redirect_tqdm()
            self._redirect.__enter__()
        return self

    def __exit__(self, *exception: object) -> None:
        if self._runtime.is_main:
            self._redirect.__exit__(None, None, None)
            self._bar.close()
            self._board.close()

    def flush(self) -> None:
        """Flushes all rows to disk; called before a checkpoint is saved, because resuming from it needs the rows up to it."""
        if self._runtime.is_main:
            self._board.flush()
            self._directory.sync_metrics()

    def step_done(self, done: int) -> None:
        """Sets the progress bar to a number of finished steps; the bar is only shown in a terminal."""
        if self._runtime.is_main:
            self._bar.update(done - self._bar.n)

    def write(self, row: dict[str, float]) -> None:
        """Writes a metrics row of `fit`."""
        if not self._runtime.is_main:
            return
        step, steps = int(row["step"]), int(row["step"]) - self._step
        for key in self._totals:
            self._totals[key] += row[key] * (1 if "seconds" in key else steps)
        self._step = step
        self._directory.append_metrics(row)
        for key in row.keys() - {"step"}:
            self._board.add_scalar(f"train/{key}", row[key], step)
        if step == 1:
            logger.info(
                "first gradient: mean L1 norm of dL/dz %.4f per sample (CCE 2, MAE 4/K, at uniform p)", row["grad_l1"]
            )
        self._say(row, steps)

    def _say(self, row: dict[str, float], steps: int) -> None:
        """Logs the step line: values of this log window and, in brackets, means of the run so far; `short` has only the former.

        A narrow terminal shows `short`.
        """
        done = self._step - self._from
        mean = {key: total / done for key, total in self._totals.items()}
        time, data, loss, acc = row["seconds"] / steps, row["data_seconds"] / steps, row["loss"], 100 * row["accuracy"]
        left = timedelta(seconds=round(mean["seconds"] * (self._job.iterations - self._step)))
        start = [f"iter {self._step}/{self._job.iterations}", f"eta {left}"]
        parts = [
            f"time {time:.3f} ({mean['seconds']:.3f})",
            f"data {data:.3f} ({mean['data_seconds']:.3f})",
            f"loss {loss:.4f} ({mean['loss']:.4f})",
            f"acc {acc:.1f} ({100 * mean['accuracy']:.1f})",
            f"lr {row['lr']:.6f}",
        ]
        parts += [f"{key.removeprefix('loss_')} {value:.4f}" for key, value in row.items() if key.startswith("loss_")]
        parts += [f"mem {row['memory_mb']:.0f}M"] if "memory_mb" in row else []
        short = [f"time {time:.2f}", f"data {data:.2f}", f"loss {loss:.3f}", f"acc {acc:.1f}", f"lr {row['lr']:.2g}"]
        logger.info("  ".join([*start, *parts]), extra={"short": " ".join([*start, *short])})
