"""Tune: train one run for each value of a setting, and choose the value by mAP on held-out training identities."""

from __future__ import annotations

import json
import logging
import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import scipy.stats

from reid import config as configs
from reid import experiment
from reid.commands import train
from reid.commands.test import benchmark_features
from reid.config import Config
from reid.datasets.holdout import how_to_judge
from reid.errors import ConfigError, counted
from reid.evaluation.evaluate import evaluate
from reid.files import atomic
from reid.processes import is_main_process
from reid.protocol import get_protocols
from reid.report.tables import percent, text_table
from reid.rundir import RunDirectory
from reid.runtime import Runtime, start
from reid.tracklets import Split

logger = logging.getLogger(__name__)

HOLDOUT = 0.1  # share of training identities to hold out if neither config nor table does
_DECIDES_WHO = ("data", "seed")  # settings that change the held-out identities or their labels
_UNSAFE = re.compile(r"[^\w.=+-]+")  # characters that are replaced in folder names


@dataclass(frozen=True)
class Base:
    """The config that the values are applied to.

    Args:
        path: path of the config file.
        name: its name as typed.
        overrides: overrides as typed, applied before the values.
    """

    path: Path
    name: str
    overrides: tuple[str, ...]


@dataclass(frozen=True)
class Options:
    """Options of tuning; fields as the flags of robust-reid tune."""

    output_dir: Path
    resume: str | None = None
    overwrite: bool = False
    dry_run: bool = False
    judge: bool = False
    json_file: Path | None = None
    command: str = ""


@dataclass(frozen=True)
class Trial:
    """One combination of values and its run.

    Args:
        settings: key -> value as typed.
        config: config of the run.
        folder: run directory.
        held_out: mAP on the held-out identities, a fraction; None if not measured.
        tested: mAP on the test set, likewise.
    """

    settings: dict[str, str]
    config: Config
    folder: Path
    held_out: float | None = None
    tested: float | None = None

    @property
    def tokens(self) -> list[str]:
        """The values as overrides."""
        return [f"{key}={value}" for key, value in self.settings.items()]


def run(base: Base, over: Sequence[str], options: Options) -> None:
    """Trains a run for every combination of values, prints the table and the choice, and optionally writes them as JSON.

    Args:
        base: the config.
        over: one text `key=a,b,…` for each setting to tune.
        options: options of tuning.

    Raises:
        ReidError: a problem that the user can fix; values and their configs are checked before the first step.
        Interrupted: after a signal; every run can be resumed.
    """
    trials = _trials(base, over, options.output_dir)
    if is_main_process() and not options.dry_run:
        for trial in trials:
            RunDirectory(trial.folder).check(
                trial.config, resume=options.resume is not None, overwrite=options.overwrite
            )
    machine = trials[0].config.machine
    with start(machine.device, machine.dtype) as runtime:
        held = _held_out(trials[0].config)
        if options.dry_run:
            logger.info("dry run: %s; nothing was written", ", ".join(str(trial.folder) for trial in trials))
            return
        done = []
        for number, trial in enumerate(trials, start=1):
            logger.info("run %d of %d: %s", number, len(trials), " ".join(trial.tokens))
            how = train.Options(
                trial.folder, options.resume, options.overwrite, command=options.command, then_test=False
            )
            done.append(replace(trial, held_out=train.run(trial.config, how, runtime)))
        if options.judge:
            done = [replace(trial, tested=_tested(trial, runtime)) for trial in done]
        if runtime.is_main:
            _tell(base, done, held, options)


def _trials(base: Base, over: Sequence[str], folder: Path) -> list[Trial]:
    """Returns every combination of the values, each with its checked config.

    Raises:
        ConfigError: a value is invalid or repeated, or there is only one combination.
    """
    keys, choices = zip(*map(_values, over), strict=True)
    if twice := [key for i, key in enumerate(keys) if key in keys[:i]]:
        raise ConfigError(f"--over {twice[0]}: appears twice; give all its values at once, as {twice[0]}=a,b")
    first: Config = configs.load(base.path, base.overrides)
    experiment.check(first)
    holdout = _holdout(first)
    trials, problems = [], []
    for values in product(*choices):
        settings = dict(zip(keys, values, strict=True))
        tokens = [f"{key}={value}" for key, value in settings.items()]
        try:
            config: Config = configs.load(base.path, [*base.overrides, *holdout, *tokens])
            experiment.check(config)
        except ConfigError as error:
            problems += [f"--over {' '.join(tokens)}: {problem}" for problem in error.problems]
            continue
        place = folder / _UNSAFE.sub("_", " ".join(tokens))
        trials.append(Trial(settings, experiment.located(config), place))
    if problems:
        raise ConfigError(*problems)
    places = [trial.folder for trial in trials]
    if len(set(places)) < len(places):
        raise ConfigError(
            "--over: two values are the same or would have the same folder name; expected different values"
        )
    if len(trials) < 2:
        raise ConfigError(
            f"--over {over[0]}: there is only one value, so nothing to choose; expected several, as in loss.T=4,8"
        )
    return trials


def _values(text: str) -> tuple[str, list[str]]:
    """Parses `key=a,b,…`; returns the key and its values as texts of overrides.

    Raises:
        ConfigError: the text is no key with values, or the key changes the held-out identities.
    """
    key, equals, listed = text.partition("=")
    try:
        values = configs.values(listed) if equals else []
    except ConfigError:
        values = []
    if not key or not values:
        raise ConfigError(f"--over {text}: expected a key and comma-separated values, as in loss.T=4,8")
    if key.split(".")[0] in _DECIDES_WHO:
        raise ConfigError(
            f"--over {key}: changes the data, so the runs would not be evaluated on the same tracklets; set it for all runs instead"
        )
    return key, [value if isinstance(value, str) else json.dumps(value) for value in values]


def _holdout(config: Config) -> list[str]:
    """Returns an override that holds out identities, if neither config nor table does."""
    if config.data.holdout or experiment.load_benchmark(config, to_train=True).val is not None:
        return []
    logger.info("data.holdout: %s of the training identities are held out to choose by; set it to change that", HOLDOUT)
    return [f"data.holdout={HOLDOUT}"]


def _held_out(config: Config) -> tuple[int, int]:
    """Returns the number of held-out identities, and of their queries.

    Raises:
        ConfigError: no identities are held out.
    """
    held: Split | None = experiment.load_data(config).holdout
    if held is None:
        raise ConfigError(
            f"{config.name}: no identities are held out, so there is nothing to choose by; set data.holdout=0.1, for example"
        )
    return len(np.unique(held.pid)), len(how_to_judge(held, any_camera=config.test.any_camera)[1])


def _tested(trial: Trial, runtime: Runtime) -> float | None:
    """Returns mAP on the test set under the config's first protocol, with the checkpoint that was best on the held-out identities.

    Raises:
        ConfigError: there are several datasets, or no queries.
    """
    config, directory = trial.config, RunDirectory(trial.folder)
    protocol = get_protocols(config.test.protocols, any_camera=config.test.any_camera)[0]
    trained = experiment.OfRun(trial.folder, "best").load(config, runtime)
    benchmark = experiment.load_benchmark(config, directory.drawn())
    if benchmark.parts:
        raise ConfigError(
            "--judge: several datasets are tested separately, so there is no single result to compare with; remove --judge"
        )
    if not len(benchmark.query):
        raise ConfigError(f"--judge: {benchmark.name} has no queries to test with; remove --judge")
    features = benchmark_features(config, trained.embedding, trained.preprocess, benchmark, runtime)
    return evaluate(features, protocol).mAP


def _tell(base: Base, trials: Sequence[Trial], held: tuple[int, int], options: Options) -> None:
    """Prints the table, the choice and the command to train with it; writes the JSON."""
    chosen = max(trials, key=lambda trial: -1 if trial.held_out is None else trial.held_out)
    record = _record(base, trials, chosen, held, options)
    judged = ["test mAP"] if options.judge else []
    header = [*chosen.settings, "held-out mAP", *judged, "", "run"]
    rows = [
        [
            *trial.settings.values(),
            percent(trial.held_out),
            *([percent(trial.tested)] if options.judge else []),
            "chosen" if trial is chosen else "",
            str(trial.folder),
        ]
        for trial in trials
    ]
    print(text_table(header, rows))
    print(
        f"\nchosen: {' '.join(chosen.tokens)}, on {held[0]} held-out identities with {counted(held[1], 'query', 'queries')}"
    )
    if agreement := record["agreement"]:
        told = ", ".join(
            f"{name} {agreement[name]:.2f}" for name in ("spearman", "kendall") if agreement[name] is not None
        )
        print(
            f"rank correlation of held-out and test results, {agreement['runs']} runs: {told or 'undefined, all results are equal'}"
        )
    print(f"train with it on all identities: {record['command']}")
    if options.json_file is not None:
        with atomic(options.json_file) as temporary:
            temporary.write_text(json.dumps(record, indent=2, allow_nan=False) + "\n", encoding="utf-8")


def _record(
    base: Base, trials: Sequence[Trial], chosen: Trial, held: tuple[int, int], options: Options
) -> dict[str, Any]:
    about = {"schema": 1, "config": base.name, "overrides": list(base.overrides)}
    return {
        **about,
        "held_out": {"identities": held[0], "queries": held[1]},
        "trials": [
            {
                "settings": trial.settings,
                "held_out_mAP": trial.held_out,
                **({"test_mAP": trial.tested} if options.judge else {}),
                "run": str(trial.folder),
            }
            for trial in trials
        ],
        "chosen": chosen.settings,
        "command": shlex.join(["robust-reid", "train", base.name, *base.overrides, *chosen.tokens]),
        "agreement": _agreement(trials) if options.judge else None,
    }


def _agreement(trials: Sequence[Trial]) -> dict[str, Any]:
    """Returns rank correlations, in [-1, 1], of held-out and test mAP; None if one of them is the same for all runs."""
    pairs = [(one.held_out, one.tested) for one in trials if one.held_out is not None and one.tested is not None]
    agreement: dict[str, Any] = {"runs": len(pairs), "spearman": None, "kendall": None}
    if pairs and all(len(set(side)) > 1 for side in zip(*pairs, strict=True)):
        held, tested = zip(*pairs, strict=True)
        agreement["spearman"] = float(scipy.stats.spearmanr(held, tested).statistic)
        agreement["kendall"] = float(scipy.stats.kendalltau(held, tested).statistic)
    return agreement
