"""The dataset that a config names, with the labels used for training: with label noise, corrections and weights applied.

Shapes: T tracklets, F frame names, K classes.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import torch

from reid.config import Component, Config, Dataset
from reid.datasets.changes import Noisy, Persons, per_frame
from reid.datasets.corrections import Corrected, Corrections, Counts, apply_corrections, read_corrections
from reid.datasets.demo import load_truth
from reid.datasets.holdout import hold_out, how_to_judge
from reid.datasets.joining import joined, plain_name
from reid.datasets.manifest import load_manifest
from reid.datasets.mars import find_dataset, load_mars
from reid.datasets.sources.cuhk03 import load_cuhk03
from reid.datasets.sources.ilids_vid import load_ilids_vid
from reid.datasets.sources.ls_vid import load_ls_vid
from reid.datasets.sources.market1501 import load_market1501
from reid.datasets.sources.msmt17 import load_msmt17
from reid.datasets.sources.places import PLACES
from reid.datasets.sources.prid2011 import load_prid2011
from reid.datasets.sources.veri776 import load_veri776
from reid.datasets.splitting import Draw
from reid.datasets.weights import in_words, read_before, read_weights, scaled
from reid.engine.train import TrainingSet
from reid.errors import ConfigError, DataError
from reid.experiment.noise import notes_on, share_of, with_noise
from reid.files import data_root
from reid.tracklets import Benchmark, Split

DATASETS: dict[str, Callable[[Path], Benchmark]] = {
    "mars": lambda folder: load_mars(folder, "mars"),
    "demo": lambda folder: load_mars(folder, "demo"),
    "manifest": load_manifest,  # takes a table; the others take a folder
    "market1501": load_market1501,
    "msmt17": load_msmt17,
    "cuhk03": load_cuhk03,
    "cuhk03-labeled": partial(load_cuhk03, boxes="labeled"),
    "ilids-vid": load_ilids_vid,
    "prid2011": load_prid2011,
    "ls-vid": load_ls_vid,
    "veri776": load_veri776,
}
SPLITS = {"ilids-vid": load_ilids_vid, "prid2011": load_prid2011}  # datasets with ten published splits


@dataclass(frozen=True)
class LabelledData:
    """A dataset with the labels used for training.

    Args:
        benchmark: the dataset as on disk, with the names and notes that noise and corrections add.
        train: the training set, without held-out identities.
        holdout: tracklets of held-out identities, or None.
        noise: description of the label noise.
        before: identities in `train.split` by the labels before noise was added on purpose.
        truth: true identities in `train.split`; None if unknown.
        noisy: the whole training set, including held-out identities, after the noise added on purpose; None without such noise.
        corrections: the corrections applied to `train` and `holdout`, in that order.
        corrected: description of their effect; empty without corrections.
        weights: description of the weights of training tracklets; empty if all have the same weight.
        weights_file: content of the file `data.weights`; None without one.
        before_T: (T,) float64 weights of `train.split` that do not come from an audit, as they were given; None if there are none.
    """

    benchmark: Benchmark
    train: TrainingSet
    holdout: Split | None
    noise: str
    before: Persons
    truth: Persons | None
    noisy: Noisy | None = None
    corrections: tuple[Corrections, ...] = ()
    corrected: str = ""
    weights: str = ""
    weights_file: bytes | None = None
    before_T: np.ndarray | None = None

    @property
    def intact_T(self) -> np.ndarray | None:
        """(T,) bool: whether the label of each tracklet of `train.split` is the true one; None if unknown.

        `train.intact_F` is the same per frame; the two differ where frames of another tracklet were mixed in.
        """
        return None if self.truth is None else self.truth.labelled(self.train.split)[0]


def located(config: Config) -> Config:
    """Makes the paths in a config absolute, so that a run can be tested from any working directory.

    If REID_DATA is set and the config names no root, the root stays unset, so that REID_DATA can differ between machines.
    """
    root, named = config.data.root, config.data.name
    if root is not None or (
        not os.environ.get("REID_DATA") and any(one.name != "manifest" for one in config.data.sets.values())
    ):
        root = str(data_root(root).absolute())
    if not isinstance(named, str):
        named = [one.model_copy(update={"path": _absolute(one.path), "root": _absolute(one.root)}) for one in named]
    noises = [_located(one) for one in config.data.noises.values()]
    noise = noises if isinstance(config.data.noise, list) else next(iter(noises), None)
    files = {"path": config.data.path, "corrections": config.data.corrections, "weights": config.data.weights}
    changed = {"name": named, "root": root, "noise": noise} | {key: _absolute(file) for key, file in files.items()}
    return config.model_copy(update={"data": config.data.model_copy(update=changed)})


def _absolute(file: str | list[str] | None) -> str | list[str] | None:
    if isinstance(file, list):
        return [str(Path(one).expanduser().absolute()) for one in file]
    return None if file is None else str(Path(file).expanduser().absolute())


def _located(noise: Component) -> Component:
    """Makes the paths that a noise reads absolute."""
    places = {
        name: _absolute(value)
        for name, value in noise.options.items()
        if name in ("path", "gallery") and value is not None
    }
    return Component(name=noise.name, **{**noise.options, **places})


def load_benchmark(config: Config, drawn: Mapping[str, str] | None = None, *, to_train: bool = False) -> Benchmark:
    """Loads the dataset that the config names; several datasets are joined into one.

    Args:
        config: config of the run.
        drawn: person -> part (train, val, test), a saved division for tables without a split column; by default it is drawn here. For
            several datasets, persons are named as in `reid.datasets.joining`.
        to_train: raise an error if a table has no training persons.

    Raises:
        ConfigError: two datasets have one name; data.split is `all`.
        DataError: a dataset is missing or inconsistent.
    """
    if config.data.split == "all":
        raise ConfigError("data.split: all is only for robust-reid train (one run per split); expected 0 to 9 here")
    sets = config.data.sets
    if len(sets) == 1:
        return _load(config, sets["data"], "data", drawn, to_train=to_train)
    found = []
    for place, one in sets.items():
        own = None if drawn is None else _of_one(drawn, one)
        found.append(_load(config, one, place, own, to_train=False))  # one of several tables may be for testing only
    return joined(found)


def _load(config: Config, one: Dataset, place: str, drawn: Mapping[str, str] | None, *, to_train: bool) -> Benchmark:
    if one.name == "manifest":
        if one.path is None:
            raise ConfigError(
                f"{place}.path: the dataset manifest needs a table; expected data.path=FILE, for example data.path=tracks.csv"
            )
        draw = Draw(config.data.test_share, config.data.holdout or Draw.val, config.data.split_seed)
        table = Path(one.path).expanduser()
        if not table.exists():
            raise DataError(f"{table}: no such table; set {place}.path=FILE to its present path")
        return load_manifest(table, draw=draw, drawn=drawn, any_camera=config.test.any_camera, to_train=to_train)
    folder = find_dataset(data_root(one.root), one.name, *PLACES.get(one.name, ()))
    if one.split is not None:
        return SPLITS[one.name](folder, one.split)
    return DATASETS[one.name](folder)


def _of_one(drawn: Mapping[str, str], one: Dataset) -> dict[str, str]:
    """Returns the division of one table among several, with persons named as in the table."""
    front = f"{plain_name(Path(one.path or '').stem)}:"
    return {person.removeprefix(front): part for person, part in drawn.items() if person.startswith(front)}


def drawn_by_table(config: Config, drawn: Mapping[str, str]) -> dict[str, dict[str, str]]:
    """Returns the division of a run by table: file name of the table -> person as named there -> part."""
    tables = [one for one in config.data.sets.values() if one.path is not None]
    one_of = _of_one if len(config.data.sets) > 1 else lambda drawn, one: dict(drawn)
    return {Path(one.path or "").name: one_of(drawn, one) for one in tables}


def drawn_again(config: Config, by_table: Mapping[str, Mapping[str, str]]) -> dict[str, str]:
    """Inverts `drawn_by_table` for the tables of this config, matched by file name; the result is `drawn` of `load_benchmark`.

    Tables that the division does not contain have no entry, so they are tested whole.
    """
    tables = [Path(one.path) for one in config.data.sets.values() if one.path is not None]
    several = len(config.data.sets) > 1
    return {
        f"{plain_name(table.stem)}:{person}" if several else person: part
        for table in tables
        for person, part in by_table.get(table.name, {}).items()
    }


def load_data(config: Config, drawn: Mapping[str, str] | None = None, made: Path | None = None) -> LabelledData:
    """Loads the dataset with the labels used for training.

    Args:
        config: config of the run.
        drawn: as in `load_benchmark`.
        made: noise manifest of a run that is resumed; its changes are replayed instead of drawn again.

    Raises:
        ConfigError: the held-out identities have no query with a match, so they cannot select a checkpoint; settings contradict each other
            or the table; the noise rate is too high for the data.
        DataError: the dataset is missing, inconsistent, or has fewer than two training identities.
    """
    benchmark = load_benchmark(config, drawn, to_train=True)
    clean, true_pid, order = _labelled(config, benchmark.train)
    noisy = with_noise(config, benchmark, clean, order, made)
    corrections = tuple(read_corrections(Path(file).expanduser()) for file in config.data.correction_files)
    # Noise comes before corrections, as in practice.
    rounds = _corrected(corrections, noisy, benchmark)
    split, names, before = rounds[-1].split, rounds[-1].names, _after(noisy.before, rounds)
    truth = None if true_pid is None else _after(noisy.persons(true_pid, clean), rounds)
    rows, held = np.arange(len(split)), benchmark.val
    if held is not None and config.data.holdout and benchmark.drawn is None:
        raise ConfigError("data.holdout: the table's split val already chooses the checkpoint; remove one of the two")
    if config.data.holdout and benchmark.parts and benchmark.drawn is not None:
        raise ConfigError(
            "data.holdout: a table without a column split holds out its own persons to choose the checkpoint, but "
            "the other datasets have none; expected data.holdout=0, or a column split"
        )
    if config.data.holdout and benchmark.drawn is None:
        rows, held_rows = hold_out(split, config.data.holdout, config.seed)
        held = split.select(held_rows)
    if held is not None:
        how_to_judge(held, any_camera=config.test.any_camera)
    train = split.select(rows)
    labels, pids = train.labels()
    if len(pids) < 2:
        raise DataError(f"{benchmark.name}: expected at least 2 training identities, got {len(pids)}")
    label_F = torch.from_numpy(per_frame(train, labels, fill=-1))
    trained = None if truth is None else truth.of_rows(rows)
    true_F = None if trained is None else torch.from_numpy(_classes(trained.pid_F, pids))
    weight_T, before_T = _weights(config, benchmark, noisy, rounds)
    weight_F = None
    if weight_T is not None:
        weight_T = scaled(weight_T[rows], config.data.weights or benchmark.name)
        weight_F = torch.from_numpy(per_frame(train, weight_T.astype(np.float32), fill=0))
    return LabelledData(
        replace(
            benchmark,
            names=names,
            notes=(*benchmark.notes, *notes_on(noisy), *(note for mended in rounds for note in mended.notes)),
        ),
        TrainingSet(train, label_F, true_F, pids, weight_F),
        held,
        _in_words(split, before, truth, changed=bool(noisy.changes)),
        before.of_rows(rows),
        trained,
        noisy if noisy.changes else None,
        corrections,
        "; then ".join(str(mended.counts) for mended in rounds[1:]),
        "" if weight_T is None else in_words(weight_T),
        None if config.data.weights is None else Path(config.data.weights).expanduser().read_bytes(),
        None if before_T is None else before_T[rows],
    )


def _classes(pid_F: np.ndarray, pids: np.ndarray) -> np.ndarray:
    """Returns (F,) the class of each pid, -2 for a pid that is not a class."""
    place_F = np.searchsorted(pids, pid_F).clip(max=len(pids) - 1)
    return np.where(pids[place_F] == pid_F, place_F, -2)


def _weights(
    config: Config, benchmark: Benchmark, noisy: Noisy, rounds: list[Corrected]
) -> tuple[np.ndarray | None, np.ndarray | None]:
    """Returns the unscaled weights of all training tracklets, including held-out ones, and those that do not come from an audit.

    Both are (T,) float64, and None if there are none. A weights file may also list tracklets that corrections have dropped, because both
    files may come from one audit. Where a person has judged a label, that decides, and not the audit's estimate.
    """
    source_T, reviewed_T = rounds[0].source, rounds[0].reviewed
    for mended in rounds[1:]:
        source_T, reviewed_T = source_T[mended.source], reviewed_T[mended.source] | mended.reviewed
    row_T = noisy.row_T[source_T]  # row in the dataset; -1 for tracklets added by noise
    of_table_T = None if benchmark.weight is None else np.where(row_T < 0, 1.0, benchmark.weight[row_T])
    if config.data.weights is None:
        return of_table_T, of_table_T
    file, split = Path(config.data.weights).expanduser(), rounds[-1].split
    *earlier, left = ({mended.split.key(row) for row in range(len(mended.split))} for mended in rounds)
    dropped = set().union(*earlier) - left
    weight_T, before_T = read_weights(file, split, dropped), read_before(file, split, dropped)
    if before_T is None:  # not from an audit
        if of_table_T is not None:
            raise ConfigError("data.weights: the table already has a column weight; remove one of the two")
        return weight_T, weight_T
    unlisted_T = np.isnan(before_T)
    if of_table_T is not None and (other_T := ~unlisted_T & (before_T != of_table_T)).any():
        row = int(other_T.argmax())
        raise DataError(
            f"{file}: {split.key(row)!r}: the table's weight was {before_T[row]:g} when this file was made, now {of_table_T[row]:g}; "
            "train on the table, and audit that run"
        )
    before_T = np.where(unlisted_T, 1.0 if of_table_T is None else of_table_T, before_T)
    return np.where(unlisted_T | reviewed_T, before_T, weight_T), before_T


def _corrected(files: Sequence[Corrections], noisy: Noisy, benchmark: Benchmark) -> list[Corrected]:
    """Returns the training tracklets before any correction, and after each file of corrections."""
    split, val, test = noisy.split, benchmark.val, benchmark.test
    nobody = np.zeros(len(split), bool)
    rounds = [Corrected(split, noisy.names, np.arange(len(split)), np.arange(len(split.names)), Counts(), (), nobody)]
    elsewhere = test.pid if val is None else np.concatenate([val.pid, test.pid])
    for file in files:
        rounds.append(apply_corrections(file, rounds[-1].split, rounds[-1].names, elsewhere))
    return rounds


def _after(persons: Persons, rounds: list[Corrected]) -> Persons:
    """Returns the identities after corrections have dropped, shortened or split tracklets.

    The piece of a split tracklet gets the identity of its first frame.
    """
    for mended in rounds:
        pid_T, pid_F = persons.pid_T[mended.source], persons.pid_F[mended.frame]
        pieces = np.bincount(mended.source, minlength=len(persons.pid_T))[mended.source] > 1
        persons = Persons(np.where(pieces, pid_F[mended.split.start], pid_T), pid_F)
    return persons


def _labelled(config: Config, split: Split) -> tuple[Split, np.ndarray | None, np.ndarray]:
    """Returns the split with the labels before noise, (T,) the true pids or None, and (T,) the order in which noise is drawn.

    For the demo dataset this is the order of its table of true labels, so that its generator and the same noise here draw the same flips.
    """
    if config.data.name != "demo":
        return split, None, np.arange(len(split))
    truth = load_truth(find_dataset(data_root(config.data.root), "demo"))
    if len(truth.true_pid) != len(split):
        raise DataError(
            f"demo dataset: {len(split)} training tracklets, but true labels of {len(truth.true_pid)}; render it again"
        )
    labelled = split.with_pid(truth.true_pid) if config.data.labels == "truth" else split
    return labelled, truth.true_pid, np.argsort(truth.true_row)


def _in_words(split: Split, before: Persons, truth: Persons | None, *, changed: bool) -> str:
    """Describes how many labels are wrong, or, if the true labels are unknown, how many were changed on purpose."""
    intact_T, intact_F = (before if truth is None else truth).labelled(split)
    if truth is None and not changed:
        return "unknown (no true labels)"
    wrong = f"{share_of(int((~intact_T).sum()), len(split))} tracklet labels {'changed on purpose' if truth is None else 'wrong'}"
    frames = split.frames()
    if (intact_F[frames] != np.repeat(intact_T, split.lengths)).any():
        wrong += (
            f", {share_of(int((~intact_F[frames]).sum()), len(frames))} frames show another person than their label"
        )
    return wrong if truth is not None else f"{wrong}; wrong labels on disk: unknown"
