"""Networks for an audit that have not been trained on the tracklets they judge: one per fold, trained without the fold's tracklets."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np

from reid.commands import train
from reid.config import Config
from reid.datasets.corrections import write_corrections
from reid.errors import CheckpointError, ConfigError, DataError
from reid.experiment import LabelledData
from reid.rundir import RunDirectory
from reid.runtime import Runtime, wait_for_all

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
    source: Path, config: Config, data: LabelledData, fold_T: np.ndarray, folder: Path, runtime: Runtime
) -> dict[int, Path]:
    """Trains a network for each fold on all training tracklets of a run but those of the fold; trainings are resumed.

    Args:
        source: directory of the run.
        config: of the run.
        data: that the run was trained on.
        fold_T: (T,) fold of each tracklet of `data.train.split`, from `folds_of`.
        folder: the runs are written to it, with the list of tracklets that each leaves out.
        runtime: of this process.

    Returns:
        Fold -> its run directory.

    Raises:
        ReidError: a training fails, or runs in the folder have another config or other data.
        Interrupted: after a signal; the same call resumes.
    """
    folds = [fold for fold in np.unique(fold_T).tolist() if fold >= 0]
    if not folds:
        raise DataError(f"{source}: no person has two tracklets, so no tracklet can be held out; run without --folds")
    split, runs = data.train.split, dict[int, Path]()
    corrections = [str(copy) for copy in RunDirectory(source).corrections(len(data.corrections))]
    # Held-out identities are drawn after corrections, so a fold would draw others: those of the run are dropped by name.
    drawn = config.data.holdout > 0 and data.holdout is not None and data.benchmark.drawn is None
    held = data.holdout if drawn else None
    for number, fold in enumerate(folds, start=1):
        runs[fold], left_out = folder / str(fold), folder / f"{fold}.csv"
        keys = [split.key(row) for row in np.flatnonzero(fold_T == fold).tolist()]
        keys += [] if held is None else [held.key(row) for row in range(len(held))]
        if runtime.is_main:
            write_corrections(left_out, (("drop", key) for key in keys))
        wait_for_all()
        logger.info("fold %d of %d: training without %d of %d tracklets", number, len(folds), len(keys), len(split))
        changed = {"corrections": [*corrections, str(left_out)], **({"holdout": 0.0} if drawn else {})}
        without = config.model_copy(
            update={
                "data": config.data.model_copy(update=changed),
                "name": f"{config.name}, fold {number} of {len(folds)}",
            }
        )
        try:
            train.run(without, train.Options(runs[fold], resume="auto", then_test=False, like=source), runtime)
        except (ConfigError, DataError, CheckpointError) as error:
            *others, last = error.problems
            raise type(error)(*others, f"{last}; delete {folder} to train all folds again") from error
    return runs
