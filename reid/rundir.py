"""The run directory: what a training run leaves on disk, and when an existing one may be continued or replaced."""

from __future__ import annotations

import contextlib
import json
import logging
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from reid import config as configs
from reid.config import Config
from reid.datasets.changes import Noisy
from reid.datasets.noise_manifest import write_noise
from reid.datasets.splitting import read_parts, write_parts
from reid.errors import ConfigError, DataError, ReidError
from reid.files import JSON_ERRORS, LOCK, atomic, exclusive_lock, flush_to_disk
from reid.tracklets import Benchmark

logger = logging.getLogger(__name__)


class RunDirectory:
    """Paths and small files of one run; the layout is public (README, "Runs").

    Args:
        path: the folder; it need not exist.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.config_file, self.log, self.metrics = path / "config.yaml", path / "log.txt", path / "metrics.jsonl"
        self.tensorboard, self.damaged, self.profile = path / "tensorboard", path / "damaged.csv", path / "profile"
        checkpoints = path / "checkpoints"
        self.last, self.previous, self.best = (checkpoints / f"{name}.pt" for name in ("last", "previous", "best"))
        self.split, self.ids = path / "split.csv", path / "ids.json"
        self.evidence = checkpoints / "evidence.npz"
        self.noise = path / "noise.csv"
        self.features, self.results, self.report = path / "features.npz", path / "eval.json", path / "report.html"

    def corrections(self, number: int) -> Path:
        """The copy of the first file of corrections, the second, and so on."""
        return self.path / ("corrections.csv" if number == 1 else f"corrections-{number}.csv")

    def features_on(self, dataset: str | None) -> Path:
        """The features of one of several datasets that are tested apart; `features.npz` where there is one, None."""
        return self.features if dataset is None else self.path / f"features.{dataset}.npz"

    def tested(self) -> dict[str | None, Path]:
        """The feature files that are there, by dataset; None stands for the only one."""
        several = {file.name[len("features.") : -len(".npz")]: file for file in self.path.glob("features.*.npz")}
        only: dict[str | None, Path] = {None: self.features} if self.features.is_file() else {}
        return only | dict(sorted(several.items()))

    def config(self, overrides: Sequence[str] = ()) -> Config:
        """The resolved config of the run, with overrides.

        Raises:
            DataError: this is no run directory.
        """
        if not self.config_file.is_file():
            raise DataError(
                f"{self.path}: expected a run directory with config.yaml, written by robust-reid train; found none"
            )
        return configs.load(self.config_file, overrides)

    def check(self, config: Config, *, resume: bool, overwrite: bool) -> None:
        """Refuses a folder that may be neither made, continued nor replaced; changes nothing.

        Raises:
            ConfigError: it exists and neither was asked for, or belongs to another config, or is no run directory.
        """
        if not self.config_file.exists():
            ours = {
                self.profile,
                self.path / LOCK,
                *self._temporaries(),
            }  # a kill may come before config.yaml, a profile before the run
            if self.path.exists() and (not self.path.is_dir() or set(self.path.iterdir()) - ours):
                raise ConfigError(f"{self.path}: exists and is no run directory; choose another with --output-dir")
        elif resume:
            self._require_same(config)
        elif not overwrite:
            raise ConfigError(
                f"{self.path}: this run exists; --resume auto continues it, --overwrite starts anew, --output-dir DIR keeps both"
            )

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """Keeps other trainings out of the folder, which is made where it is not there, and gone again if nothing was written to it.

        Raises:
            DataError: another one is at it, or it cannot be made or written.
        """
        made = [folder for folder in (self.path, *self.path.parents) if not folder.exists()]
        try:
            with exclusive_lock(
                self.path, "another program is training this run; wait for it, or --output-dir DIR for another run"
            ):
                yield
        finally:
            with contextlib.suppress(OSError):  # not empty
                for folder in made:
                    folder.rmdir()

    def prepare(self, config: Config, *, overwrite: bool) -> None:
        """Makes the folder, writes config.yaml, removes the half-written files of a killed process.

        Raises:
            DataError: it cannot be written.
        """
        if overwrite:
            self._clear()
        for temporary in self._temporaries():
            temporary.unlink(missing_ok=True)
        with atomic(self.config_file) as temporary:
            temporary.write_text(config.dump(), encoding="utf-8")

    def keep_data(self, benchmark: Benchmark, corrections: Sequence[bytes] = ()) -> None:
        """Writes what the run has decided about its data: split.csv, who was drawn to be tested, ids.json, who a number stands for, and
        copies of the corrections that its labels have seen.

        Raises:
            DataError: they cannot be written.
        """
        if benchmark.drawn is not None:
            write_parts(self.split, benchmark.drawn)
        for number, content in enumerate(corrections, 1):
            with atomic(self.corrections(number)) as temporary:
                temporary.write_bytes(content)
        if benchmark.names:
            with atomic(self.ids) as temporary:
                text = json.dumps({"schema": 1, **benchmark.names.to_json()}, indent=1, ensure_ascii=False)
                temporary.write_text(text + "\n", encoding="utf-8")

    def keep_noise(self, noisy: Noisy | None) -> None:
        """Writes noise.csv, the manifest of the labels that were changed on purpose, where any were.

        Raises:
            DataError: it cannot be written.
        """
        if noisy is not None:
            write_noise(self.noise, noisy.changes, noisy.names)

    def made(self) -> Path | None:
        """The manifest of the noise that this run has made; None where it has not."""
        return self.noise if self.noise.exists() else None

    def drawn(self) -> dict[str, str] | None:
        """Person -> part as this run has drawn them; None where it has not.

        Raises:
            DataError: split.csv is damaged.
        """
        return read_parts(self.split) if self.split.exists() else None

    def _require_same(self, config: Config) -> None:
        if changed := config.differences(self.config(), but="train.iterations"):  # which its checkpoint decides about
            raise ConfigError(
                f"{self.path}: cannot resume, trained with another config: {'; '.join(changed)}; "
                "give the same config, or --output-dir for a new run, or --overwrite"
            )

    def _temporaries(self) -> list[Path]:
        """Files that `atomic` was writing when its process was killed."""
        return [file for folder in (self.path, self.last.parent) for file in folder.glob(".*.tmp")]

    def _clear(self) -> None:
        """Removes what a run writes, and nothing else.

        Results go first and `last` before the metrics: killed in between, the old run is still whole or the new one starts from nothing.
        """
        results = (*self.tested().values(), self.results, self.report)
        others = (
            self.best,
            self.metrics,
            self.log,
            self.damaged,
            self.split,
            self.ids,
            self.evidence,
            self.noise,
            self.corrections(1),
            *self.path.glob("corrections-[0-9]*.csv"),
            *self.tensorboard.glob("events.*"),
        )
        for file in (*results, self.previous, self.last, *others):
            file.unlink(missing_ok=True)

    def resumable(self) -> list[Path]:
        """The checkpoints to go on from, newest first; a kill between two renames leaves `previous` alone."""
        return [file for file in (self.last, self.previous) if file.exists()]

    def adopt(self, checkpoint: Path) -> None:
        """Makes the previous checkpoint, or another run's, this run's last one, so that the run can be resumed and tested by itself."""
        if checkpoint.resolve() == self.last.resolve():
            return
        with atomic(self.last) as temporary:
            shutil.copyfile(checkpoint, temporary)
        if checkpoint.resolve() != self.previous.resolve():
            self.previous.unlink(missing_ok=True)  # of another history; it must not stand in for what follows from here

    def checkpoint(self, choice: str) -> Path:
        """The file for `last`, `best`, or a path."""
        return {"last": self.last, "best": self.best}.get(choice, Path(choice))

    def cut_metrics(self, step: int) -> None:
        """Drops rows after `step`, which a resumed run writes again, so that no step stands twice."""
        if self.metrics.exists():
            kept = [row for row in self.read_metrics() if row["step"] <= step]
            with atomic(self.metrics) as temporary:
                temporary.write_text("".join(json.dumps(row) + "\n" for row in kept), encoding="utf-8")

    def sync_metrics(self) -> None:
        """Waits until metrics.jsonl is on the disk, so that no checkpoint outlives a loss of power that its rows do not."""
        if self.metrics.exists():
            flush_to_disk(self.metrics)

    def append_metrics(self, row: dict[str, float]) -> None:
        """One line of metrics.jsonl."""
        with open(self.metrics, "a", encoding="utf-8") as file:
            file.write(json.dumps({"schema": 1, **row}) + "\n")

    def read_metrics(self) -> list[dict[str, Any]]:
        """The rows of metrics.jsonl; a half-written last line, left by a kill, is left out."""
        if not self.metrics.exists():
            return []
        lines = self.metrics.read_bytes().splitlines(keepends=True)
        complete = [line for line in lines if line.endswith(b"\n")]
        try:
            rows = [json.loads(line) for line in complete]
        except JSON_ERRORS as error:
            raise ReidError(f"{self.metrics}: damaged line: {error}; remove that line") from None
        for number, row in enumerate(rows, start=1):
            if not isinstance(row, dict) or not isinstance(row.get("step"), int | float):
                raise ReidError(f"{self.metrics}: line {number}: expected an object with a step; remove that line")
        return rows
