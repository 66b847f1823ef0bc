"""Networks for an audit that have not been trained on the tracklets they judge: one per fold, trained without the fold's tracklets."""

from __future__ import annotations

import csv
import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from reid.commands import train
from reid.config import Config
from reid.datasets.corrections import guard
from reid.files import atomic
from reid.rundir import RunDirectory
from reid.runtime import Runtime, wait_for_all
from reid.tracklets import Split

logger = logging.getLogger(__name__)


OF = ("tracklets", "persons")  # what folds are made of


def folds_of(pid: np.ndarray, number: int, seed: int, of: str = "tracklets") -> np.ndarray:
    """Assigns the tracklets of each person, or whole persons, to folds at random, as evenly as possible.

    Folds are not of frames: frames of one tracklet resemble each other, so the others would give the label away.

    Args:
        pid: (T,) persons.
        number: of folds, >= 2.
        seed: of the assignment.
        of: `tracklets` or `persons`.

    Returns:
        (T,) int64 fold of each tracklet; -1 for the only tracklet of a person, which every network needs.
    """
    rng, fold = np.random.default_rng(seed), np.full(len(pid), -1)
    if of == "persons":
        persons, person_T = np.unique(pid, return_inverse=True)
        return (rng.permutation(len(persons)) % number)[person_T]
    for person in np.unique(pid):
        rows = rng.permutation(np.flatnonzero(pid == person))
        if len(rows) > 1:
            fold[rows] = (np.arange(len(rows)) + rng.integers(number)) % number
    return fold


def train_folds(
    config: Config, split: Split, corrections: Sequence[Path], fold_T: np.ndarray, folder: Path, runtime: Runtime
) -> list[RunDirectory]:
    """Trains a network for each fold on all tracklets but those of the fold; finished and interrupted trainings are resumed.

    Args:
        config: of the run that is audited.
        split: T training tracklets of that run.
        corrections: files of corrections that their labels have been corrected by.
        fold_T: from `folds_of`.
        folder: the runs are written to it, with the list of tracklets that each leaves out.
        runtime: of this process.

    Raises:
        ReidError: a training fails, or those in the folder were made of other data.
        Interrupted: after a signal; the same call resumes.
    """
    runs, number = [], int(fold_T.max()) + 1
    for fold in range(number):
        run, left_out = RunDirectory(folder / str(fold)), folder / f"{fold}.csv"
        rows = [("drop", guard(split.key(row))) for row in np.flatnonzero(fold_T == fold).tolist()]
        if runtime.is_main:
            with atomic(left_out) as temporary, open(temporary, "w", encoding="utf-8", newline="") as file:
                csv.writer(file, lineterminator="\n").writerows([("action", "key"), *rows])
        wait_for_all()
        logger.info("fold %d of %d: training without %d of %d tracklets", fold + 1, number, len(rows), len(split))
        data = config.data.model_copy(update={"corrections": [*map(str, corrections), str(left_out)]})
        without = config.model_copy(update={"data": data, "name": f"{config.name}, fold {fold + 1} of {number}"})
        train.run(without, train.Options(run.path, resume="auto", then_test=False), runtime)
        runs.append(run)
    return runs
