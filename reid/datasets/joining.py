"""Join several datasets to train on: persons and cameras of different datasets stay separate, and each dataset is tested on its own.

Names that could collide are prefixed by their dataset's name, as `robust-reid import` writes them: ``market1501:2``. Junk (−1),
distractors (0) and unknown cameras (−1) keep their numbers.

Shapes: T tracklets, F frames.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from itertools import permutations
from pathlib import Path

import numpy as np

from reid.errors import ConfigError, counted
from reid.tracklets import Benchmark, IdNames, Split

SAME_RECORDING = ("market1501", "mars")  # MARS was recorded together with Market-1501 and uses the same person ids


def plain_name(name: str) -> str:
    """Remove the suffix that marks an incomplete copy from a dataset's name."""
    return name.removesuffix("-subset")


def joined(datasets: Sequence[Benchmark]) -> Benchmark:
    """Join datasets into one.

    The training set joins theirs, and `val` those of the datasets that have one. `test`, `query` and `gallery` join all test sets, but
    metrics are computed on `parts`, the original datasets.

    Raises:
        ConfigError: two datasets have the same name, so that their persons could not be told apart.
    """
    names = [plain_name(dataset.name) for dataset in datasets]
    if twice := [name for i, name in enumerate(names) if name in names[:i]]:
        raise ConfigError(f"data.name: two datasets have the name {twice[0]}; remove one, or rename the table file")
    pids = _Numbers(names, [_ids(dataset, lambda split: split.pid[split.pid > 0]) for dataset in datasets])
    camids = _Numbers(names, [_ids(dataset, lambda split: split.camid[split.camid >= 0]) for dataset in datasets])

    def renumbered(number: int, split: Split) -> Split:
        keys = np.array([f"{names[number]}:{split.key(i)}" for i in range(len(split))], np.str_)
        return replace(split, pid=pids.of(number, split.pid), camid=camids.of(number, split.camid), keys=keys)

    train = _concatenated([renumbered(i, dataset.train) for i, dataset in enumerate(datasets)])
    vals = [renumbered(i, dataset.val) for i, dataset in enumerate(datasets) if dataset.val is not None]
    test = _concatenated([renumbered(i, dataset.test) for i, dataset in enumerate(datasets)])
    before = np.cumsum([0, *(len(dataset.test) for dataset in datasets)])
    query, gallery = (
        np.concatenate([getattr(dataset, rows) + first for dataset, first in zip(datasets, before, strict=False)])
        for rows in ("query", "gallery")
    )
    drawn = {
        f"{name}:{person}": part
        for name, dataset in zip(names, datasets, strict=True)
        for person, part in (dataset.drawn or {}).items()
    }
    called = IdNames(
        pids.names([dataset.names.pid for dataset in datasets]),
        camids.names([dataset.names.camid for dataset in datasets]),
    )
    return Benchmark(
        "+".join(dataset.name for dataset in datasets),
        train,
        test,
        query,
        gallery,
        _concatenated(vals) if vals else None,
        called,
        (*_notes(datasets), *_same_persons(dict(zip(names, datasets, strict=True)))),
        drawn or None,
        _weights(datasets),
        tuple(datasets),
    )


class _Numbers:
    """New ids of several datasets: numbered from 1, one dataset after another, in ascending order of the old ids."""

    def __init__(self, datasets: Sequence[str], own: Sequence[np.ndarray]) -> None:
        self.datasets, self.own = datasets, own
        self.before = np.cumsum([0, *map(len, own)])

    def of(self, dataset: int, numbers: np.ndarray) -> np.ndarray:
        """Renumber the ids of a dataset; other numbers (junk, distractors, unknown) stay."""
        known = np.isin(numbers, self.own[dataset])
        return np.where(known, np.searchsorted(self.own[dataset], numbers) + self.before[dataset] + 1, numbers)

    def names(self, called: Sequence[Mapping[int, str]]) -> dict[int, str]:
        """The name of every new id."""
        return {
            int(self.before[i]) + place: f"{dataset}:{called[i].get(number, number)}"
            for i, dataset in enumerate(self.datasets)
            for place, number in enumerate(self.own[i].tolist(), start=1)
        }


def _ids(dataset: Benchmark, of: Callable[[Split], np.ndarray]) -> np.ndarray:
    """Collect all ids of a dataset, sorted and unique over its parts."""
    splits = [dataset.train, dataset.test, *([] if dataset.val is None else [dataset.val])]
    return np.unique(np.concatenate([of(split) for split in splits]))


def _concatenated(splits: Sequence[Split]) -> Split:
    """Concatenate the tracklets of all splits; frame names are relative to the common folder of all roots."""
    roots = [os.path.abspath(split.root) for split in splits]
    common = os.path.commonpath(roots)
    below = [os.path.relpath(root, common) for root in roots]
    names = [
        split.names if inside == "." else np.char.add(os.fsencode(f"{inside}/"), split.names)
        for inside, split in zip(below, splits, strict=True)
    ]
    first = np.cumsum([0, *(len(split.names) for split in splits)])
    start, stop = (
        np.concatenate([getattr(split, end) + skipped for split, skipped in zip(splits, first, strict=False)])
        for end in ("start", "stop")
    )
    pid, camid, keys = (
        np.concatenate([getattr(split, column) for split in splits]) for column in ("pid", "camid", "keys")
    )
    return Split(Path(common), np.concatenate(names), start, stop, pid, camid, keys)


def _weights(datasets: Sequence[Benchmark]) -> np.ndarray | None:
    """Concatenate the weights of training tracklets, 1 for a dataset without weights; None if no dataset has any."""
    if all(dataset.weight is None for dataset in datasets):
        return None
    return np.concatenate(
        [np.ones(len(dataset.train)) if dataset.weight is None else dataset.weight for dataset in datasets]
    )


def _notes(datasets: Sequence[Benchmark]) -> list[str]:
    notes = []
    for dataset in datasets:
        persons = len(np.unique(dataset.train.pid))
        notes.append(
            f"{dataset.name}: training on {counted(len(dataset.train), 'tracklet')} of {counted(persons, 'person')}"
        )
        notes += [f"{dataset.name}: {note}" for note in dataset.notes]
    return notes


def _same_persons(datasets: Mapping[str, Benchmark]) -> list[str]:
    """Note persons known to be in two datasets: tested in one after training on the other, or trained as two persons."""
    common = {name: dataset for name, dataset in datasets.items() if name in SAME_RECORDING}
    notes = []
    for (one, trained), (other, tested) in permutations(common.items(), 2):
        persons = np.unique(tested.test.pid[tested.test.pid > 0])
        if shared := len(np.intersect1d(trained.train.pid, persons)):
            notes.append(
                f"{shared} of {len(persons)} test persons of {other} are training persons of {one}, the same recording: results on {other} "
                "are better than on people the model has never seen"
            )
    if len(common) == 2:
        first, second = common.values()
        if shared := len(np.intersect1d(first.train.pid, second.train.pid)):
            notes.append(
                f"{counted(shared, 'person is', 'persons are')} in the training sets of both {' and '.join(common)}, the same recording, "
                "each treated as two persons; corrections with the action merge join them"
            )
    return notes
