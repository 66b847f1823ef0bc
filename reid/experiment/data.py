"""The dataset that a config names, with the labels that training is to see.

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
from reid.datasets.joining import joined
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
from reid.datasets.weights import in_words, read_weights, scaled
from reid.engine.train import TrainingSet
from reid.errors import ConfigError, DataError
from reid.experiment.noise import notes_on, share_of, with_noise
from reid.files import data_root
from reid.tracklets import Benchmark, Split

DATASETS: dict[str, Callable[[Path], Benchmark]] = {
    "mars": lambda folder: load_mars(folder, "mars"),
    "demo": lambda folder: load_mars(folder, "demo"),
    "manifest": load_manifest,  # of a table, where the others take a folder
    "market1501": load_market1501,
    "msmt17": load_msmt17,
    "cuhk03": load_cuhk03,
    "cuhk03-labeled": partial(load_cuhk03, boxes="labeled"),
    "ilids-vid": load_ilids_vid,
    "prid2011": load_prid2011,
    "ls-vid": load_ls_vid,
    "veri776": load_veri776,
}
SPLITS = {"ilids-vid": load_ilids_vid, "prid2011": load_prid2011}  # those with ten published splits


@dataclass(frozen=True)
class LabelledData:
    """A dataset as training sees it.

    Args:
        benchmark: as on disk.
        train: the training set, held-out identities removed.
        holdout: held-out tracklets, or None.
        noise: what is known about wrong labels, in words.
        before: who is in `train.split` by the labels before noise was made on purpose.
        truth: who really is; None where nobody knows.
        noisy: the whole training set, its held-out identities included, and the changes made on purpose; None without any.
        corrections: the files whose corrections `train` and `holdout` have seen, in that order.
        corrected: what they did, in words; empty without them.
        weights: what is known about the weights of training tracklets, in words; empty where all count alike.
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

    @property
    def intact_T(self) -> np.ndarray | None:
        """(T,) bool: whether the label of each tracklet of `train.split` is the true one; None where nobody knows.

        `train.intact_F` is the same of frames, which differ from their tracklet where those of another one were put in.
        """
        return None if self.truth is None else self.truth.labelled(self.train.split)[0]


def located(config: Config) -> Config:
    """The same config with places that do not depend on the folder it is used from, so that a run can be tested from any.

    REID_DATA stays what decides where the config names no root: it may say another place on another machine.
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
    """The same noise with absolute places of what it reads."""
    places = {
        name: _absolute(value)
        for name, value in noise.options.items()
        if name in ("path", "gallery") and value is not None
    }
    return Component(name=noise.name, **{**noise.options, **places})


def load_benchmark(config: Config, drawn: Mapping[str, str] | None = None, *, to_train: bool = False) -> Benchmark:
    """The dataset that the config names; several as one.

    Args:
        config: the run's.
        drawn: person -> part, to keep to where a table does not say who is trained on; drawn here by default. Of several datasets,
            persons are called as `reid.datasets.joining` calls them.
        to_train: refuse a table that has nobody to train on.

    Raises:
        ConfigError: two datasets have one name; several splits.
        DataError: one is not there, or inconsistent.
    """
    if config.data.split == "all":
        raise ConfigError("data.split: all is for robust-reid train, a run for each split; expected one of 0 to 9 here")
    sets = config.data.sets
    if len(sets) == 1:
        return _load(config, sets["data"], "data", drawn, to_train=to_train)
    found = []
    for place, one in sets.items():
        own = None if drawn is None else _of_one(drawn, one)
        found.append(_load(config, one, place, own, to_train=False))  # a table may be there to be tested on alone
    return joined(found)


def _load(config: Config, one: Dataset, place: str, drawn: Mapping[str, str] | None, *, to_train: bool) -> Benchmark:
    if one.name == "manifest":
        if one.path is None:
            raise ConfigError(f"{place}.path: the dataset manifest needs a table; expected data.path=tracks.csv, say")
        draw = Draw(config.data.test_share, config.data.holdout or Draw.val, config.data.split_seed)
        table = Path(one.path).expanduser()
        if not table.exists():
            raise DataError(f"{table}: no such table; name the place where it is now by {place}.path=FILE")
        return load_manifest(table, draw=draw, drawn=drawn, any_camera=config.test.any_camera, to_train=to_train)
    folder = find_dataset(data_root(one.root), one.name, *PLACES.get(one.name, ()))
    if one.split is not None:
        return SPLITS[one.name](folder, one.split)
    return DATASETS[one.name](folder)


def _of_one(drawn: Mapping[str, str], one: Dataset) -> dict[str, str]:
    """What was drawn of one table among several, its persons called as the table calls them."""
    front = f"{Path(one.path or '').stem}:"
    return {person.removeprefix(front): part for person, part in drawn.items() if person.startswith(front)}


def drawn_by_table(config: Config, drawn: Mapping[str, str]) -> dict[str, dict[str, str]]:
    """What a run of this config has drawn: file name of a table -> person, as the table calls them -> part."""
    tables = [one for one in config.data.sets.values() if one.path is not None]
    one_of = _of_one if len(config.data.sets) > 1 else lambda drawn, one: dict(drawn)
    return {Path(one.path or "").name: one_of(drawn, one) for one in tables}


def drawn_again(config: Config, by_table: Mapping[str, Mapping[str, str]]) -> dict[str, str]:
    """The same for the tables that this config names, wherever they lie, as `load_benchmark` takes it; others are tested whole."""
    tables = [Path(one.path) for one in config.data.sets.values() if one.path is not None]
    several = len(config.data.sets) > 1
    return {
        f"{table.stem}:{person}" if several else person: part
        for table in tables
        for person, part in by_table.get(table.name, {}).items()
    }


def load_data(config: Config, drawn: Mapping[str, str] | None = None, made: Path | None = None) -> LabelledData:
    """The dataset with the labels that training is to see.

    Args:
        config: the run's.
        drawn: as in `load_benchmark`.
        made: the manifest of the noise that a run to be resumed has made, which then is not drawn again.

    Raises:
        ConfigError: no checkpoint could be chosen by the held-out identities; the noise asks for more than there is.
        DataError: it is not there, inconsistent, or has fewer than two identities to train on.
    """
    benchmark = load_benchmark(config, drawn, to_train=True)
    clean, true_pid, order = _labelled(config, benchmark.train)
    noisy = with_noise(config, benchmark, clean, order, made)
    corrections = tuple(read_corrections(Path(file).expanduser()) for file in config.data.correction_files)
    # As in life, where noise is there before anybody corrects it.
    rounds = _corrected(corrections, noisy, benchmark)
    split, names, before = rounds[-1].split, rounds[-1].names, _after(noisy.before, rounds)
    truth = None if true_pid is None else _after(noisy.persons(true_pid, clean), rounds)
    rows, held = np.arange(len(split)), benchmark.val
    if held is not None and config.data.holdout and benchmark.drawn is None:
        raise ConfigError("data.holdout: the table's split val chooses the checkpoint; leave out one of them")
    if config.data.holdout and benchmark.parts and benchmark.drawn is not None:
        raise ConfigError(
            "data.holdout: a table without a column split has its own persons to choose the checkpoint, the other datasets have none; "
            "expected data.holdout=0, or a column split"
        )
    if config.data.holdout and benchmark.drawn is None:
        rows, held_rows = hold_out(split, config.data.holdout, config.seed)
        held = split.select(held_rows)
    if held is not None:
        how_to_judge(held, any_camera=config.test.any_camera)
    train = split.select(rows)
    labels, pids = train.labels()
    if len(pids) < 2:
        raise DataError(
            f"{benchmark.name}: expected at least 2 training identities, got {len(pids)}; there is nothing to tell apart"
        )
    label_F = torch.from_numpy(per_frame(train, labels, fill=-1))
    trained = None if truth is None else truth.of_rows(rows)
    true_F = None if trained is None else torch.from_numpy(_classes(trained.pid_F, pids))
    weight_T = _weights(config, benchmark, noisy, rounds)
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
    )


def _classes(pid_F: np.ndarray, pids: np.ndarray) -> np.ndarray:
    """(F,) the class of each person, -2 for whom there is none."""
    place_F = np.searchsorted(pids, pid_F).clip(max=len(pids) - 1)
    return np.where(pids[place_F] == pid_F, place_F, -2)


def _weights(config: Config, benchmark: Benchmark, noisy: Noisy, rounds: list[Corrected]) -> np.ndarray | None:
    """(T,) of all tracklets to train on, held-out ones included, as given; None where all count alike.

    A file may name those too that corrections have dropped: both may come from one audit.
    """
    source_T = rounds[0].source
    for mended in rounds[1:]:
        source_T = source_T[mended.source]
    if config.data.weights is None:
        row_T = noisy.row_T[source_T]  # the row of the dataset; -1 for those that noise has added
        return None if benchmark.weight is None else np.where(row_T < 0, 1.0, benchmark.weight[row_T])
    if benchmark.weight is not None:
        raise ConfigError("data.weights: the table has a column weight; leave out one of them")
    dropped = np.setdiff1d(np.arange(len(noisy.split)), source_T)
    file, split = Path(config.data.weights).expanduser(), rounds[-1].split
    return read_weights(file, split, {noisy.split.key(row) for row in dropped})


def _corrected(files: Sequence[Corrections], noisy: Noisy, benchmark: Benchmark) -> list[Corrected]:
    """The training tracklets before any correction, and after each file of them."""
    split, val, test = noisy.split, benchmark.val, benchmark.test
    rounds = [Corrected(split, noisy.names, np.arange(len(split)), np.arange(len(split.names)), Counts(), ())]
    elsewhere = test.pid if val is None else np.concatenate([val.pid, test.pid])
    for file in files:
        rounds.append(apply_corrections(file, rounds[-1].split, rounds[-1].names, elsewhere))
    return rounds


def _after(persons: Persons, rounds: list[Corrected]) -> Persons:
    """Who is there once tracklets were dropped, thinned and split: a piece is of whom its frames show."""
    for mended in rounds:
        pid_T, pid_F = persons.pid_T[mended.source], persons.pid_F[mended.frame]
        pieces = np.bincount(mended.source, minlength=len(persons.pid_T))[mended.source] > 1
        persons = Persons(np.where(pieces, pid_F[mended.split.start], pid_T), pid_F)
    return persons


def _labelled(config: Config, split: Split) -> tuple[Split, np.ndarray | None, np.ndarray]:
    """The split with the labels that noise is added to, (T,) the true ones where known, and the order that noise is drawn in.

    That is the order of the true table where there is one, so that the demo's generator and the same noise here draw the same flips.
    """
    if config.data.name != "demo":
        return split, None, np.arange(len(split))
    truth = load_truth(find_dataset(data_root(config.data.root), "demo"))
    if len(truth.true_pid) != len(split):
        raise DataError(
            f"demo dataset: {len(split)} training tracklets, but the truth of {len(truth.true_pid)}; make it anew"
        )
    labelled = split.with_pid(truth.true_pid) if config.data.labels == "truth" else split
    return labelled, truth.true_pid, np.argsort(truth.true_row)


def _in_words(split: Split, before: Persons, truth: Persons | None, *, changed: bool) -> str:
    """How many labels are wrong, or were changed where nobody knows which were right."""
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
