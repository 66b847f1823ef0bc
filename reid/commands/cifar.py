"""The label-noise study: train the cells of a grid, then write tables, figures and a page from their records."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from reid.cifar import paper
from reid.cifar.config import CellSpec, StudyConfig
from reid.cifar.download import download_cifar
from reid.cifar.folder import Files
from reid.cifar.labels import StudyData, load_data, write_manifests
from reid.cifar.runner import run_grid
from reid.cifar.study import check, completed, fingerprint
from reid.cli import logging_to_file
from reid.errors import ConfigError
from reid.files import LOCK, atomic, data_root, exclusive_lock
from reid.losses import CCE, IMAE, MAE, IMAEReleased
from reid.report import charts, study_plots
from reid.report.study_claims import claims_by_form, claims_table
from reid.report.study_page import write_study_page
from reid.report.study_tables import accuracy_table, choice_table, to_csv, to_markdown
from reid.report.tables import text_table
from reid.runtime import Runtime, environment, start

logger = logging.getLogger(__name__)

Curve = tuple[str, Callable[[np.ndarray], np.ndarray], float | None]


@dataclass(frozen=True)
class Options:
    """Options of a study; fields as the flags of robust-reid cifar."""

    output_dir: Path
    resume: bool = False
    overwrite: bool = False
    dry_run: bool = False
    command: str = ""


def run(config: StudyConfig, options: Options) -> None:
    """Trains the cells that are not trained yet and writes the study's folder.

    Raises:
        ReidError: a problem that the user can fix.
        Interrupted: after a signal; the same call with `resume` continues.
    """
    check(config)
    config, files = completed(config), Files(options.output_dir)
    _require_usable(files, options)
    if config.data.download and not options.dry_run:
        download_cifar(data_root(config.data.root), config.data.name)
    data = load_data(config)
    logger.info("%s", data.describe(config))
    if options.dry_run:
        logger.info("dry run: the dataset was read and the grid checked; nothing was written")
        return
    busy = "another process is training this study; wait until it finishes, or choose another --output-dir"
    with start(config.machine.device, config.machine.dtype) as runtime, exclusive_lock(files.path, busy):
        if options.overwrite:
            files.clear()
        study = _Study(config, files, data, runtime)
        pending = [cell for cell in config.cells() if study.record(cell) is None]
        for cell in pending:  # raises an error if a checkpoint cannot be resumed, before anything is written
            files.read_checkpoint(cell, fingerprint(config, data, runtime, cell))
        with atomic(files.config) as temporary:
            temporary.write_text(config.dump(), encoding="utf-8")
        write_manifests(files, config, data)
        with logging_to_file(files.log):
            logger.info("command: %s", options.command)
            try:
                run_grid(config, files, data, runtime, pending)
            finally:  # report the finished cells, also after a signal
                study.report(options.command)


def _require_usable(files: Files, options: Options) -> None:
    if not files.config.exists():
        if files.path.exists() and (not files.path.is_dir() or {*files.path.iterdir()} - {files.path / LOCK}):
            raise ConfigError(f"{files.path}: exists but is not a study; choose another folder with --output-dir")
    elif not (options.resume or options.overwrite or options.dry_run):
        raise ConfigError(
            f"{files.path}: this study exists already; --resume auto continues it, --overwrite replaces it, --output-dir DIR keeps both"
        )


@dataclass(frozen=True)
class _Study:
    """A running study."""

    config: StudyConfig
    files: Files
    data: StudyData
    runtime: Runtime

    def record(self, cell: CellSpec) -> dict[str, Any] | None:
        return self.files.read_record(cell, fingerprint(self.config, self.data, self.runtime, cell))

    def report(self, command: str) -> None:
        """Writes table.md, table.csv, figures/ and report.html from the records available, and prints the table."""
        records = [record for cell in self.config.cells() if (record := self.record(cell)) is not None]
        if not records:
            return
        theirs = paper.ACCURACIES if self._as_in_paper() else {}
        header, rows = accuracy_table(records, theirs)
        about = self.data.describe(self.config)
        parts = [
            about.splitlines()[0],
            "",
            to_markdown(header, rows),
            CAUTION,
        ]
        for form, judged in claims_by_form(records).items():
            parts += ["", f"{form}:", "", to_markdown(*claims_table(judged))]
        if (choice := choice_table(records))[1]:
            parts.append(to_markdown(*choice))
        for path, text in ((self.files.table, "\n".join(parts)), (self.files.csv, to_csv(header, rows))):
            with atomic(path) as temporary:
                temporary.write_text(text, encoding="utf-8")
        for name, drawn in figures(records).items():
            charts.save(self.files.figures / f"{name}.png", drawn)
        facts = {"command": command, "study": about.splitlines()[0], **environment()}
        write_study_page(self.files.report, self.config.name, facts, records, theirs, WEIGHTS)
        print(f"{about.splitlines()[0]}\n\n{text_table(header, rows)}\n\n{self.files.table}\n{self.files.report}")

    def _as_in_paper(self) -> bool:
        data, train = self.config.data, self.config.train
        whole = data.train_images is None and data.test_images is None and not data.holdout
        return whole and train.model_dump(exclude={"points"}) == completed(StudyConfig()).train.model_dump(
            exclude={"points"}
        )


def figures(records: list[dict[str, Any]]) -> dict[str, list[charts.Chart]]:
    """Returns the paper's figures for which there are records, by file name."""
    drawn = {
        "figure1_weights": study_plots.weight_charts({FIGURE_1: WEIGHTS[FIGURE_1]}),
        "figure3_train_accuracy": study_plots.loss_curves(records, "train_corrupted", "training accuracy, labels as given (%)"),
        "figure4_test_accuracy": study_plots.loss_curves(records, "test", "test accuracy (%)", FIGURE_4),
        "figure5_weights_T": study_plots.weight_charts({FIGURE_5: WEIGHTS[FIGURE_5]}),
        "figure6_test_accuracy_T": study_plots.option_curves(records, "test", "test accuracy (%)"),
        "figure7_train_accuracy_T": study_plots.option_curves(records, "train_corrupted", "training accuracy, labels as given (%)"),
        "figure8_validation_T": study_plots.option_curves(records, "train_intact", "accuracy on true labels (%)", noisy_only=True),
        "telemetry": study_plots.telemetry(records),
    }  # fmt: skip
    return {name: found for name, found in drawn.items() if found}


def _curve(label: str, loss: nn.Module, variance: float | None) -> Curve:
    return label, lambda p: loss.weight(torch.from_numpy(np.asarray(p, float))).numpy(), variance  # type: ignore[operator]


CAUTION = (
    "Verdicts hold for the images, steps and seeds named above. They compare means over seeds and do not test significance.\n"
    "The number of points by which a rule holds or fails is given with each."
)
FIGURE_4 = study_plots.Printed(
    f"IMAE in the paper's Figure 4, digitised ± {100 * paper.FIGURE_4_ERROR:.0f} points, stretched to these steps",
    {
        setting: {1000 * step / paper.ITERATIONS: value for step, value in curve.items()}
        for setting, curve in paper.FIGURE_4.items()
    },
)
FIGURE_1, FIGURE_5 = "CCE, MAE and IMAE", "IMAE by T"
WEIGHTS: dict[str, list[Curve]] = {
    FIGURE_1: [
        _curve("CCE", CCE(), None),
        _curve("MAE", MAE(), paper.MAE_VARIANCE),
        _curve("IMAE (T = 8)", IMAE(8.0), paper.VARIANCES[8.0]),
        _curve("IMAE as released (T = 8), before ÷ mean", IMAEReleased(8.0), None),
    ],
    FIGURE_5: [_curve(f"IMAE (T = {T:g})", IMAE(T), variance) for T, variance in paper.VARIANCES.items()],
}
