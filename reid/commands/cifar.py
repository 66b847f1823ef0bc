"""The label-noise study: train the cells of a grid, then tables, figures and a page from their records."""

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
from reid.cifar.config import StudyConfig
from reid.cifar.runner import run_grid
from reid.cifar.study import Files, StudyData, check, load_data, write_manifests
from reid.cli import logging_to_file
from reid.errors import ConfigError
from reid.files import atomic
from reid.losses import CCE, IMAE, MAE
from reid.report import charts, study_plots
from reid.report.study_claims import claims, claims_table
from reid.report.study_page import write_study_page
from reid.report.study_tables import accuracy_table, choice_table, to_csv, to_markdown
from reid.report.tables import text_table
from reid.runtime import environment

logger = logging.getLogger(__name__)

Curve = tuple[str, Callable[[np.ndarray], np.ndarray], float | None]


@dataclass(frozen=True)
class Options:
    """How to start: fields as the flags of tools/cifar.py."""

    output_dir: Path
    resume: bool = False
    overwrite: bool = False
    dry_run: bool = False
    command: str = ""


def run(config: StudyConfig, options: Options) -> None:
    """Trains what is not trained yet and writes the study's folder.

    Raises:
        ReidError: a problem that the user can mend.
        Interrupted: after a signal; the same call with `resume` goes on.
    """
    check(config)
    files = Files(options.output_dir)
    _require_usable(files, config, options)
    data = load_data(config)
    _describe(config, data)
    if options.dry_run:
        logger.info("dry run: the dataset was read and the grid checked; nothing was written")
        return
    if options.overwrite:
        files.clear()
    with atomic(files.config) as temporary:
        temporary.write_text(config.dump(), encoding="utf-8")
    write_manifests(files, config, data)
    with logging_to_file(files.log):
        logger.info("command: %s", options.command)
        run_grid(config, files)
        report(config, files, options.command)


def _require_usable(files: Files, config: StudyConfig, options: Options) -> None:
    if not files.config.exists():
        if files.path.exists() and (not files.path.is_dir() or any(files.path.iterdir())):
            raise ConfigError(f"{files.path}: exists and is no study; choose another with --output-dir")
    elif not (options.resume or options.overwrite or options.dry_run):
        raise ConfigError(
            f"{files.path}: this study exists; --resume auto goes on with it, --overwrite starts anew, --output-dir DIR keeps both"
        )
    if options.resume:
        for cell in config.cells():
            files.read_record(config, cell)  # refuses records of other settings before anything is trained


def _describe(config: StudyConfig, data: StudyData) -> None:
    counts = f"{len(data.train_rows)} training images, {len(data.held_rows)} held out, {data.num_test} test images"
    logger.info("%s: %s%s", config.data.name, counts, f"; {data.cifar.note}" if data.cifar.note else "")
    rows = [(cell.noise_label, f"{100 * data.rate(cell.noise):.2f}") for cell in config.cells()]
    logger.info("%s", text_table(["noise", "wrong labels (%)"], list(dict.fromkeys(rows))))


def report(config: StudyConfig, files: Files, command: str) -> None:
    """Writes table.md, table.csv, figures/ and report.html from the records, and prints the table."""
    records = [record for cell in config.cells() if (record := files.read_record(config, cell)) is not None]
    whole = config.data.train_images is None and config.train == type(config.train)()  # else nothing to compare with
    header, rows = accuracy_table(records, paper.ACCURACIES if whole else {})
    judged = claims_table(claims(records))
    choice = choice_table(records)
    parts = [to_markdown(header, rows), to_markdown(*judged), *([to_markdown(*choice)] if choice[1] else [])]
    for path, text in ((files.table, "\n".join(parts)), (files.csv, to_csv(header, rows))):
        with atomic(path) as temporary:
            temporary.write_text(text, encoding="utf-8")
    for name, drawn in figures(records).items():
        charts.save(files.figures / f"{name}.png", drawn)
    facts = {"command": command, "dataset": config.data.name, **environment()}
    write_study_page(files.report, config.name, facts, records, paper.ACCURACIES if whole else {}, WEIGHTS)
    print(text_table(header, rows))
    print(f"\n{files.table}\n{files.report}")


def figures(records: list[dict[str, Any]]) -> dict[str, list[charts.Chart]]:
    """The paper's figures that the records can show, by file name."""
    drawn = {
        "figure1_weights": study_plots.weight_charts({name: WEIGHTS[name] for name in list(WEIGHTS)[:1]}),
        "figure3_train_accuracy": study_plots.loss_curves(records, "train_corrupted", "training accuracy, labels as given (%)"),
        "figure4_test_accuracy": study_plots.loss_curves(records, "test", "test accuracy (%)"),
        "figure5_weights_T": study_plots.weight_charts({name: WEIGHTS[name] for name in list(WEIGHTS)[1:]}),
        "figure6_test_accuracy_T": study_plots.option_curves(records, "test", "test accuracy (%)"),
        "figure7_train_accuracy_T": study_plots.option_curves(records, "train_corrupted", "training accuracy, labels as given (%)"),
        "figure8_validation_T": study_plots.option_curves(records, "train_intact", "accuracy on true labels (%)", noisy_only=True),
        "telemetry": study_plots.telemetry(records),
    }  # fmt: skip
    return {name: found for name, found in drawn.items() if found}


def _curve(label: str, loss: nn.Module, variance: float | None) -> Curve:
    return label, lambda p: loss.weight(torch.from_numpy(np.asarray(p, float))).numpy(), variance  # type: ignore[operator]


WEIGHTS: dict[str, list[Curve]] = {
    "CCE, MAE and IMAE": [
        _curve("CCE", CCE(), None),
        _curve("MAE", MAE(), paper.MAE_VARIANCE),
        _curve("IMAE (T = 8)", IMAE(8.0), paper.VARIANCES[8.0]),
    ],
    "IMAE by T": [_curve(f"IMAE (T = {T:g})", IMAE(T), variance) for T, variance in paper.VARIANCES.items()],
}
