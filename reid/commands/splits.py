"""Train and test one run for each published split of a dataset, and average the results."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from reid import experiment
from reid.commands import train
from reid.config import Config
from reid.datasets.sources.two_cameras import NUM_SPLITS
from reid.engine import checkpoint
from reid.errors import ConfigError
from reid.features import SCHEMA
from reid.files import atomic
from reid.processes import is_main_process
from reid.report.tables import text_table
from reid.rundir import RunDirectory
from reid.runtime import start

logger = logging.getLogger(__name__)

RESULTS = "splits.json"
SHOWN = (1, 5, 20)  # CMC ranks, as reported in papers on these datasets; more do not fit a terminal


def run(config: Config, options: train.Options) -> None:
    """Trains and tests every split, prints mean and standard deviation of the results, and writes them to `splits.json`.

    Args:
        config: a config with `data.split` = `all`.
        options: options of training; the runs are written to its folder as `split-0`, `split-1` … With `resume`, finished runs are skipped.

    Raises:
        ReidError: a problem that the user can fix; configs and folders are checked before the first step.
        Interrupted: after a signal; every run can be resumed.
    """
    if options.resume not in (None, "auto"):
        raise ConfigError(
            f"--resume {options.resume}: one checkpoint cannot resume {NUM_SPLITS} runs; expected auto, or one split by data.split=0"
        )
    if RunDirectory(options.output_dir).config_file.exists():
        raise ConfigError(
            f"{options.output_dir}: is a single run, but data.split=all makes {NUM_SPLITS}; choose another folder with --output-dir"
        )
    runs = [_of_split(config, number, options.output_dir) for number in range(NUM_SPLITS)]
    experiment.check(runs[0][0])
    may = {"resume": options.resume is not None, "overwrite": options.overwrite}
    if is_main_process() and not options.dry_run:
        for one, directory in runs:
            directory.check(experiment.located(one), **may)
    with start(config.machine.device, config.machine.dtype) as runtime:
        for number, (one, directory) in enumerate(runs):
            if options.resume is not None and _is_done(one, directory):
                logger.info("split %d: %s is finished", number, directory.path)
                continue
            logger.info("split %d of 0 to %d", number, NUM_SPLITS - 1)
            train.run(one, replace(options, output_dir=directory.path), runtime)
        if runtime.is_main and not options.dry_run:
            dataset = experiment.load_benchmark(runs[0][0]).name  # this name says if the dataset is incomplete
            _tell(dataset, [directory for _, directory in runs], options.output_dir / RESULTS)


def _of_split(config: Config, number: int, folder: Path) -> tuple[Config, RunDirectory]:
    data = config.data.model_copy(update={"split": number})
    named = config.model_copy(update={"data": data, "name": f"{config.name}, split {number}"})
    return named, RunDirectory(folder / f"split-{number}")


def _is_done(config: Config, directory: RunDirectory) -> bool:
    """Whether a run with this config is complete; the report is written last, and then the previous checkpoint is deleted."""
    if not directory.report.is_file() or not directory.last.is_file() or directory.previous.is_file():
        return False
    same = directory.config() == experiment.located(config)
    return same and bool(checkpoint.load(directory.last)["step"] == config.train.iterations)


def _tell(dataset: str, runs: Sequence[RunDirectory], file: Path) -> None:
    by_run = [json.loads(directory.results.read_text(encoding="utf-8")) for directory in runs]
    records = [_record(dataset, results) for results in zip(*by_run, strict=True)]
    with atomic(file) as temporary:
        temporary.write_text(json.dumps(records, indent=2, allow_nan=False) + "\n", encoding="utf-8")
    header = ["protocol", "mAP", *(f"Rank-{rank}" for rank in SHOWN)]
    rows = [
        [one["protocol"], *map(_in_words, [one["mAP"], *(one["cmc"][str(rank)] for rank in SHOWN)])] for one in records
    ]
    print(f"{dataset}: mean ± standard deviation over {len(runs)} splits, per cent")
    print(text_table(header, rows))
    print(f"figures of each split: {file}")


def _record(dataset: str, results: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Returns the entry of `splits.json` for one protocol."""
    return {
        "schema": SCHEMA,
        "dataset": dataset,
        "protocol": results[0]["protocol"],
        "mAP": _spread([result["mAP"] for result in results]),
        "cmc": {rank: _spread([result["cmc"][rank] for result in results]) for rank in results[0]["cmc"]},
    }


def _spread(values: Sequence[float | None]) -> dict[str, Any]:
    """Returns mean and sample standard deviation (n − 1), both None if a split has no value, and the values in the order of the splits."""
    known = [value for value in values if value is not None]
    if len(known) < len(values):
        return {"mean": None, "deviation": None, "values": list(values)}
    return {"mean": float(np.mean(known)), "deviation": float(np.std(known, ddof=1)), "values": known}


def _in_words(figure: Mapping[str, Any]) -> str:
    if figure["mean"] is None:
        return "n/a"
    return f"{100 * figure['mean']:.1f} ± {100 * figure['deviation']:.1f}"
