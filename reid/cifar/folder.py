"""Folder of the CIFAR study: its files, and which records and checkpoints can be resumed."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

from reid.cifar.config import CellSpec
from reid.engine import checkpoint
from reid.errors import CheckpointError, ConfigError, DataError
from reid.files import JSON_ERRORS


class Files:
    """Paths of the files in the folder of a study."""

    def __init__(self, path: Path) -> None:
        self.path, self.config, self.cells, self.labels = path, path / "config.yaml", path / "cells", path / "labels"
        self.table, self.csv, self.figures = path / "table.md", path / "table.csv", path / "figures"
        self.report, self.log = path / "report.html", path / "log.txt"

    def clear(self) -> None:
        """Removes the files that a study writes, and no others."""
        written = [
            self.cells.glob("resnet*.json"),
            self.cells.glob("resnet*.pt"),
            self.labels.glob("*.csv"),
            self.figures.glob("*.png"),
        ]
        for file in itertools.chain(*written, [self.config, self.table, self.csv, self.report, self.log]):
            file.unlink(missing_ok=True)

    def record(self, cell: CellSpec) -> Path:
        return self.cells / f"{cell.name}.json"

    def checkpoint(self, cell: CellSpec) -> Path:
        return self.cells / f"{cell.name}.pt"

    def read_record(self, cell: CellSpec, fingerprint: str) -> dict[str, Any] | None:
        """Loads the record of a cell; None if the cell is not trained yet.

        Raises:
            DataError: the record is damaged.
            ConfigError: the cell was trained with other settings, data or dtype.
        """
        path = self.record(cell)
        if not path.is_file():
            return None
        try:
            record = json.loads(path.read_text(encoding="utf-8"))
            found = record["fingerprint"]
        except (*JSON_ERRORS, KeyError, TypeError) as error:
            raise DataError(f"{path}: damaged: {error!r}; remove it to train the cell again") from None
        _require_same(path, found, fingerprint)
        return record

    def read_checkpoint(self, cell: CellSpec, fingerprint: str) -> dict[str, Any] | None:
        """Loads the checkpoint that `Trainer.save_checkpoint` wrote; None if there is none. Raises the errors of `read_record`."""
        path = self.checkpoint(cell)
        if not path.is_file():
            return None
        try:
            state = checkpoint.load(path)
            found, _ = state["fingerprint"], (state["cell"], state["curve"], state["seconds"])
        except (CheckpointError, KeyError) as error:
            raise DataError(f"{path}: damaged: {error}; remove it to train the cell from the start") from None
        _require_same(path, found, fingerprint)
        return state


def _require_same(path: Path, found: str, expected: str) -> None:
    if found != expected:
        raise ConfigError(
            f"{path}: trained with different settings, data or dtype; use the same ones (see config.yaml there), or "
            "start a new study with --output-dir"
        )
