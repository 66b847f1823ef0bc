"""Running the grid: on a CPU one process per cell, several at a time; on a GPU several cells in one process, side by side.

A cell keeps a checkpoint at every evaluation and when it is told to stop, so a study goes on where it was.
"""

from __future__ import annotations

import logging
import math
import multiprocessing
import multiprocessing.connection
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
from reid.cifar.study import Files, Trainer, load_data, points
from reid.config import parse
from reid.engine import checkpoint
from reid.errors import ReidError
from reid.runtime import start

logger = logging.getLogger(__name__)

_BREATH = 20  # steps between looks at the stop flag
GRAPHS = 9  # cells side by side on a GPU, unless the config says otherwise


class Lane:
    """One cell on its way from its checkpoint, or from its start, to its record."""

    def __init__(self, trainer: Trainer, spec: CellSpec) -> None:
        self.trainer, self.spec, self.cell = trainer, spec, trainer.build(spec)
        self.curve: dict[str, list[float | None]] = {}
        self.seconds, self._clock = 0.0, time.perf_counter()
        self.path = trainer.files.checkpoint(spec)
        if self.path.exists():
            self._restore()
        if trainer.runtime.device.type == "cuda":
            self.cell.capture()

    def _restore(self) -> None:
        state = checkpoint.load(self.path)
        if state["fingerprint"] != self.trainer.config.fingerprint(self.spec):
            raise ReidError(
                f"{self.path}: made with other settings; give the same config, or remove it to train this cell anew"
            )
        self.cell.restore(state["cell"], str(self.path))
        self.curve, self.seconds = state["curve"], state["seconds"]
        logger.info("%s: resuming at step %d", self.spec, self.cell.steps)

    def save(self) -> None:
        """Writes the checkpoint."""
        self.seconds += time.perf_counter() - self._clock
        self._clock = time.perf_counter()
        about = {
            "fingerprint": self.trainer.config.fingerprint(self.spec),
            "curve": self.curve,
            "seconds": self.seconds,
        }
        checkpoint.save(self.path, cell=self.cell.state(), **about)

    def evaluate(self) -> None:
        """Adds a point to the curve; after the last one the record is written."""
        figures = self.cell.evaluate()
        figures["loss"] /= self.cell.steps - (self.curve["step"][-1] or 0 if self.curve else 0)
        for name, value in {"step": self.cell.steps, **figures}.items():
            self.curve.setdefault(name, []).append(value if math.isfinite(value) else None)
        if not math.isfinite(figures["loss"]):  # a result too: one cell's divergence does not stop the grid
            logger.warning(
                "%s: diverged by step %d; lower train.lr, or leave this cell out", self.spec, self.cell.steps
            )
        self.save()
        accuracies = "test {test:.1%}, train {train_corrupted:.1%} as labelled, {train_intact:.1%} in truth".format(
            **figures
        )
        logger.info(
            "%s: step %d of %d, loss %.4f, %s, %.0f s",
            self.spec, self.cell.steps, self.trainer.config.train.iterations, figures["loss"], accuracies, self.seconds,
        )  # fmt: skip
        if self.cell.steps == self.trainer.config.train.iterations:
            self.trainer.save_record(self.spec, self.trainer.record(self.spec, self.curve, self.seconds))


def train_together(trainer: Trainer, specs: Sequence[CellSpec]) -> None:
    """Trains cells side by side to their records; cells that were stopped at different steps wait for one another.

    Raises:
        Interrupted: after a signal, with every cell's checkpoint written.
    """
    lanes = [Lane(trainer, spec) for spec in specs]
    with cli.StopFlag() as stop:
        for due in points(trainer.config.train.iterations, trainer.config.train.points):
            while behind := [lane for lane in lanes if lane.cell.steps < due]:
                if stop.signum:
                    for lane in lanes:
                        lane.save()
                    raise cli.Interrupted(stop.signum)
                step = min(lane.cell.steps for lane in behind)  # those furthest behind catch up first
                running = [lane for lane in behind if lane.cell.steps == step]
                until = min([due, step + _BREATH, *(lane.cell.steps for lane in behind if lane.cell.steps > step)])
                advance([lane.cell for lane in running], until - step)
                for lane in running:
                    if until == due:
                        lane.evaluate()


def run_grid(config: StudyConfig, files: Files) -> None:
    """Trains every cell of the grid that has no record yet.

    Raises:
        Interrupted: after a signal; the same call goes on from there.
        ReidError: a cell could not be trained.
    """
    pending = [cell for cell in config.cells() if files.read_record(config, cell) is None]
    with start(config.machine.device, config.machine.dtype) as runtime:
        logger.info("%d of %d cells to train on %s", len(pending), len(list(config.cells())), runtime.device)
        if runtime.device.type == "cpu":
            _run_processes(config, files, pending)
        elif pending:
            trainer = Trainer(config, load_data(config), files, runtime)
            most = config.machine.side_by_side or GRAPHS
            for first in range(0, len(pending), most):
                train_together(trainer, pending[first : first + most])


def _run_processes(config: StudyConfig, files: Files, pending: Sequence[CellSpec]) -> None:
    cores = torch.get_num_threads()
    most = config.machine.side_by_side or cores
    context, waiting = multiprocessing.get_context("spawn"), list(pending)
    running: dict[Any, BaseProcess] = {}
    with cli.StopFlag() as stop:
        try:
            while (waiting or running) and not stop.signum:
                while waiting and len(running) < most:
                    arguments = (config.dump(), waiting.pop(0).name, str(files.path), max(1, cores // most))
                    process: BaseProcess = context.Process(target=_train_one, args=arguments)
                    process.start()
                    running[process.sentinel] = process
                for sentinel in multiprocessing.connection.wait(list(running), timeout=1.0):
                    _require_success(running.pop(sentinel))
        finally:
            for process in running.values():  # after a signal, or where another cell failed
                process.terminate()
            for process in running.values():
                process.join()
    if stop.signum:
        raise cli.Interrupted(stop.signum)


def _require_success(process: BaseProcess) -> None:
    process.join()
    if process.exitcode in (130, 143):
        raise cli.Interrupted(process.exitcode - 128)
    if process.exitcode:
        raise ReidError(
            f"a cell could not be trained (exit code {process.exitcode}); see above, then run this again with --resume auto"
        )


def _train_one(settings: str, name: str, folder: str, threads: int) -> None:
    """A process's work: one cell on the CPU."""
    cli.log_to_stderr()
    logging.getLogger("reid.cifar.data").setLevel(logging.ERROR)  # what it warns of has been said once
    torch.set_num_threads(threads)
    sys.exit(cli.run(lambda: _train_named(settings, name, folder)))


def _train_named(settings: str, name: str, folder: str) -> None:
    config, files = parse(settings, "study", StudyConfig), Files(Path(folder))
    spec = next(cell for cell in config.cells() if cell.name == name)
    with start("cpu", config.machine.dtype) as runtime:
        train_together(Trainer(config, load_data(config), files, runtime), [spec])
