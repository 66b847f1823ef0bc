"""Training of the grid: on a CPU one process per cell, several at a time; on a GPU several cells side by side in one process.

A cell writes a checkpoint at every evaluation and when training is stopped, so that a study can be resumed.
"""

from __future__ import annotations

import logging
import math
import multiprocessing
import multiprocessing.connection
import os
import signal
import sys
import time
from collections.abc import Sequence
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import torch

from reid import cli
from reid.cifar.cell import advance
from reid.cifar.config import CellSpec, StudyConfig
from reid.cifar.folder import Files
from reid.cifar.labels import StudyData, load_data
from reid.cifar.study import Trainer, evaluation_steps
from reid.config import parse
from reid.errors import ReidError
from reid.runtime import Runtime, start

logger = logging.getLogger(__name__)

_BREATH = 20  # steps between checks of the stop flag
GRAPHS = 9  # cells side by side on a GPU, unless the config says otherwise


class CellRun:
    """Training of one cell, from its checkpoint if it has one, until its record is written."""

    def __init__(self, trainer: Trainer, spec: CellSpec) -> None:
        self.trainer, self.spec, self.cell = trainer, spec, trainer.build(spec)
        self.curve: dict[str, list[Any]] = {}
        self.seconds, self._clock, self.finished = 0.0, time.perf_counter(), False
        state = trainer.files.read_checkpoint(spec, trainer.fingerprint(spec))
        if state is not None:
            self.cell.restore(state["cell"], str(trainer.files.checkpoint(spec)))
            self.curve, self.seconds = state["curve"], state["seconds"]
            logger.info("%s: resuming at step %d", spec, self.cell.steps)
        if trainer.runtime.device.type == "cuda":
            self.cell.capture()

    def save(self) -> None:
        """Saves the checkpoint, unless the cell is finished."""
        if not self.finished:
            self._count_time()
            self.trainer.save_checkpoint(self.spec, self.cell.state(), self.curve, self.seconds)

    def _count_time(self) -> None:
        now = time.perf_counter()
        self.seconds, self._clock = self.seconds + now - self._clock, now

    def evaluate(self) -> None:
        """Evaluates the cell, adds a point to its curve and saves; at the last step, or on divergence, the record is written."""
        figures, done, last = self.cell.evaluate(), self.cell.steps, self.trainer.config.train.iterations
        self._count_time()
        figures["loss"] /= done - (self.curve["step"][-1] if self.curve else 0)
        diverged = not math.isfinite(figures["loss"] + figures["max_logit"])
        for name, value in {"step": done, **figures}.items():  # after divergence, figures are meaningless
            self.curve.setdefault(name, []).append(value if name == "step" or not diverged else None)
        if diverged:
            logger.warning("%s: diverged by step %d; lower train.lr, or leave this cell out", self.spec, done)
        else:
            accuracies = "test {test:.1%}, train {train_corrupted:.1%} as labelled, {train_intact:.1%} in truth"
            text = "%s: step %d of %d, loss %.4f, %s, %.0f s"
            logger.info(text, self.spec, done, last, figures["loss"], accuracies.format(**figures), self.seconds)
        if diverged or done == last:
            self.trainer.save_record(self.spec, self.curve, self.seconds, diverged_at=done if diverged else None)
            self.finished = True
        self.save()


def train_together(trainer: Trainer, specs: Sequence[CellSpec]) -> None:
    """Trains cells side by side until their records are written; cells stopped at different steps are first brought to the same step.

    Raises:
        Interrupted: after a signal; the checkpoint of every cell is written.
    """
    runs = [CellRun(trainer, spec) for spec in specs]
    with cli.StopFlag() as stop:
        for due in evaluation_steps(trainer.config.train.iterations, trainer.config.train.points):
            while behind := [run for run in runs if run.cell.steps < due and not run.finished]:
                if signum := stop.signum or _orphaned():
                    for run in runs:
                        run.save()
                    raise cli.Interrupted(signum)
                step = min(run.cell.steps for run in behind)  # the cells that are furthest behind train first
                running = [run for run in behind if run.cell.steps == step]
                until = min([due, step + _BREATH, *(run.cell.steps for run in behind if run.cell.steps > step)])
                advance([run.cell for run in running], until - step)
                for run in running if until == due else ():
                    run.evaluate()
    if stop.signum:
        raise cli.Interrupted(stop.signum)


def _orphaned() -> int:
    """SIGTERM if the parent process has ended, else 0."""
    parent = multiprocessing.parent_process()
    return signal.SIGTERM if parent is not None and not parent.is_alive() else 0


def run_grid(config: StudyConfig, files: Files, data: StudyData, runtime: Runtime, pending: Sequence[CellSpec]) -> None:
    """Trains the pending cells until their records are written.

    Raises:
        Interrupted: after a signal; the same call resumes training.
        ReidError: a cell could not be trained.
    """
    logger.info("%d of %d cells to train on %s", len(pending), len(list(config.cells())), runtime.device)
    if not pending:
        return
    if runtime.device.type == "cpu":
        _run_processes(config, files, pending)
        return
    trainer = Trainer(config, data, files, runtime)
    most = config.machine.side_by_side or GRAPHS
    for first in range(0, len(pending), most):
        train_together(trainer, pending[first : first + most])


def _run_processes(config: StudyConfig, files: Files, pending: Sequence[CellSpec]) -> None:
    cores = torch.get_num_threads()
    most = min(config.machine.side_by_side or cores, len(pending))
    context, waiting = multiprocessing.get_context("spawn"), list(pending)
    running: dict[Any, tuple[CellSpec, BaseProcess]] = {}
    with cli.StopFlag() as stop:
        try:
            while (waiting or running) and not stop.signum:
                while waiting and len(running) < most:
                    spec = waiting.pop(0)
                    arguments = (config.dump(), spec.name, str(files.path), max(1, cores // most))
                    process: BaseProcess = context.Process(target=_train_one, args=arguments)
                    process.start()
                    running[process.sentinel] = spec, process
                for sentinel in multiprocessing.connection.wait(list(running), timeout=1.0):
                    if not stop.signum:  # a signal to the process group also kills a child that is still starting
                        _require_success(*running.pop(sentinel))
        finally:
            for _, process in running.values():  # after a signal, or if a cell failed
                process.terminate()
            for _, process in running.values():
                process.join()
    if stop.signum:
        raise cli.Interrupted(stop.signum)


def _require_success(spec: CellSpec, process: BaseProcess) -> None:
    process.join()
    code = process.exitcode or 0
    if code - 128 in cli.STOPPING:
        raise cli.Interrupted(code - 128)
    if code < 0:
        raise ReidError(
            f"{spec}: its process was killed by signal {-code}; out of memory? Try machine.side_by_side=1 with --resume auto"
        )
    if code == 2:
        raise ReidError(f"{spec}: not trained; the reason is above")
    if code:
        raise RuntimeError(f"{spec}: its process failed with exit code {code}; its traceback is above")


def _train_one(settings: str, name: str, folder: str, threads: int) -> None:
    """Main function of a child process: trains one cell on the CPU."""
    os.setpgrp()  # Ctrl-C in a terminal then reaches only the parent, which signals its children once
    cli.log_to_stderr()
    logging.getLogger("reid.cifar.data").setLevel(logging.ERROR)  # the parent has logged its warnings already
    torch.set_num_threads(threads)
    sys.exit(cli.run(lambda: _train_named(settings, name, Files(Path(folder)))))


def _train_named(settings: str, name: str, files: Files) -> None:
    config = parse(settings, "study", StudyConfig)
    spec = next(cell for cell in config.cells() if cell.name == name)
    with start("cpu", config.machine.dtype) as runtime, cli.logging_to_file(files.log):
        train_together(Trainer(config, load_data(config), files, runtime), [spec])
