"""The run directory: the files of a training run, and the rules for resuming or replacing an existing one."""

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
from reid.files import JSON_ERRORS, LOCK, atomic, exclusive_lock, flush_to_disk, remove_left_behind
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
        self.noise, self.nonfinite = path / "noise.csv", path / "nonfinite.csv"
        self.weights = path / "trained_weights.csv"  # not weights.csv, which an audit of the run writes
        self.features, self.results, self.report = path / "features.npz", path / "eval.json", path / "report.html"

    def corrections(self, count: int) -> list[Path]:
        """Paths of the copies of the first `count` correction files, in their order."""
        names = ["corrections.csv", *(f"corrections-{number}.csv" for number in range(2, count + 1))]
        return [self.path / name for name in names[:count]]

    def features_on(self, dataset: str | None) -> Path:
        """The feature file of a dataset, if several are tested separately; `features.npz` for None, the only dataset."""
        return self.features if dataset is None else self.path / f"features.{dataset}.npz"

    def tested(self) -> dict[str | None, Path]:
        """The existing feature files by dataset; the key None stands for the only dataset."""
        several = {file.name[len("features.") : -len(".npz")]: file for file in self.path.glob("features.*.npz")}
        only: dict[str | None, Path] = {None: self.features} if self.features.is_file() else {}
        return only | dict(sorted(several.items()))

    def config(self, overrides: Sequence[str] = ()) -> Config:
        """The resolved config of the run, with overrides.

        Raises:
            DataError: the folder is not a run directory.
        """
        if not self.config_file.is_file():
            raise DataError(
                f"{self.path}: expected a run directory with config.yaml, written by robust-reid train; it is missing"
            )
        return configs.load(self.config_file, overrides)

    def check(self, config: Config, *, resume: bool, overwrite: bool) -> None:
        """Checks that the folder may be created, resumed or replaced; changes nothing.

        Raises:
            ConfigError: a run exists and neither `resume` nor `overwrite` is set, or its config differs, or it is not a run directory.
        """
        if not self.config_file.exists():
            ours = {
                self.profile,
                self.path / LOCK,
                *self._temporaries(),
            }  # a kill may precede config.yaml, and a profile the run
            if self.path.exists() and (not self.path.is_dir() or set(self.path.iterdir()) - ours):
                raise ConfigError(
                    f"{self.path}: exists but is not a run directory; choose another folder with --output-dir"
                )
        elif resume:
            self._require_same(config)
        elif not overwrite:
            raise ConfigError(
                f"{self.path}: this run exists already; --resume auto continues it, --overwrite replaces it, --output-dir DIR keeps both"
            )

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """Locks the folder against other training processes; creates it if needed, and removes it again if nothing was written to it.

        Raises:
            DataError: another process holds the lock, or the folder cannot be created or written.
        """
        made = [folder for folder in (self.path, *self.path.parents) if not folder.exists()]
        try:
            with exclusive_lock(
                self.path,
                "another program is training this run; wait until it finishes, or choose another --output-dir",
            ):
                yield
        finally:
            with contextlib.suppress(OSError):  # a folder that is not empty stays
                for folder in made:
                    folder.rmdir()

    def prepare(self, config: Config, *, overwrite: bool) -> None:
        """Creates the folder, removes temporary files of a killed process, and writes config.yaml; `overwrite` first removes the old run.

        Raises:
            DataError: config.yaml cannot be written.
        """
        if overwrite:
            self._clear()
        for folder in (self.path, self.last.parent):
            remove_left_behind(folder)
        with atomic(self.config_file) as temporary:
            temporary.write_text(config.dump(), encoding="utf-8")

    def keep_data(self, benchmark: Benchmark, corrections: Sequence[bytes] = (), weights: bytes | None = None) -> None:
        """Writes what defines the run's data.

        These are split.csv (the split, if it was drawn at random), ids.json (names of persons and cameras), and copies of the correction
        files that were applied to the labels and of the file of weights.

        Raises:
            DataError: a file cannot be written.
        """
        if benchmark.drawn is not None:
            write_parts(self.split, benchmark.drawn)
        copies = dict(zip(self.corrections(len(corrections)), corrections, strict=True))
        for copy, content in (copies if weights is None else {**copies, self.weights: weights}).items():
            with atomic(copy) as temporary:
                temporary.write_bytes(content)
        if benchmark.names:
            with atomic(self.ids) as temporary:
                text = json.dumps({"schema": 1, **benchmark.names.to_json()}, indent=1, ensure_ascii=False)
                temporary.write_text(text + "\n", encoding="utf-8")

    def keep_noise(self, noisy: Noisy | None) -> None:
        """Writes noise.csv, the manifest of the labels changed by synthetic noise, if there is any.

        Raises:
            DataError: it cannot be written.
        """
        if noisy is not None:
            write_noise(self.noise, noisy.changes, noisy.names)

    def made(self) -> Path | None:
        """Path of the manifest of this run's synthetic noise; None if there is none."""
        return self.noise if self.noise.exists() else None

    def drawn(self) -> dict[str, str] | None:
        """Person -> subset as drawn by this run; None if it has drawn none.

        Raises:
            DataError: split.csv is damaged.
        """
        return read_parts(self.split) if self.split.exists() else None

    def _require_same(self, config: Config) -> None:
        if changed := config.differences(self.config(), but="train.iterations"):  # checked against the checkpoint
            raise ConfigError(
                f"{self.path}: cannot resume, trained with a different config: {'; '.join(changed)}; use the same "
                "config, start a new run with --output-dir, or use --overwrite"
            )

    def _temporaries(self) -> list[Path]:
        """Temporary files of `atomic` whose process was killed."""
        return [file for folder in (self.path, self.last.parent) for file in folder.glob(".*.tmp")]

    def _clear(self) -> None:
        """Removes the files that a run writes, and nothing else.

        Results are removed first, and `last` before the metrics: after a kill in between, either the old run is still complete, or the
        new one starts from nothing.
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
            self.nonfinite,
            self.weights,
            *self.corrections(1),
            *self.path.glob("corrections-[0-9]*.csv"),
            *self.tensorboard.glob("events.*"),
        )
        for file in (*results, self.previous, self.last, *others):
            file.unlink(missing_ok=True)

    def resumable(self) -> list[Path]:
        """Checkpoints to resume from, newest first; after a kill between two renames there is only `previous`."""
        return [file for file in (self.last, self.previous) if file.exists()]

    def adopt(self, checkpoint: Path) -> None:
        """Copies the previous checkpoint, or another run's, to `last`, so that this run can be resumed and tested without it."""
        if checkpoint.resolve() == self.last.resolve():
            return
        with atomic(self.last) as temporary:
            shutil.copyfile(checkpoint, temporary)
        if checkpoint.resolve() != self.previous.resolve():
            self.previous.unlink(missing_ok=True)  # from another history; `load_first` must not fall back to it

    def checkpoint(self, choice: str) -> Path:
        """Path of the checkpoint `last` or `best`, or the given path."""
        return {"last": self.last, "best": self.best}.get(choice, Path(choice))

    def cut_metrics(self, step: int) -> None:
        """Removes the rows after `step`, which a resumed run writes again, so that no step is logged twice."""
        if self.metrics.exists():
            kept = [row for row in self.read_metrics() if row["step"] <= step]
            with atomic(self.metrics) as temporary:
                temporary.write_text("".join(json.dumps(row) + "\n" for row in kept), encoding="utf-8")

    def sync_metrics(self) -> None:
        """Flushes metrics.jsonl to disk, so that after a power failure no checkpoint is newer than its metrics."""
        if self.metrics.exists():
            flush_to_disk(self.metrics)

    def append_metrics(self, row: dict[str, float]) -> None:
        """Appends one row to metrics.jsonl."""
        with open(self.metrics, "a", encoding="utf-8") as file:
            file.write(json.dumps({"schema": 1, **row}) + "\n")

    def read_metrics(self) -> list[dict[str, Any]]:
        """The rows of metrics.jsonl without an incomplete last line, which a kill may leave.

        Raises:
            ReidError: a line is damaged.
        """
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
