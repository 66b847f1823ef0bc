"""The dataset that a config names, with the labels that training is to see.

Shapes: T tracklets, F frame names, K classes.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from reid.binding import build
from reid.config import Component, Config
from reid.datasets.demo import load_truth
from reid.datasets.holdout import hold_out, how_to_judge
from reid.datasets.manifest import load_manifest
from reid.datasets.mars import find_dataset, load_mars
from reid.datasets.noise import NOISES, realised_rate
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
        weights: what is known about the weights of training tracklets, in words; empty where all count alike.
    """

    benchmark: Benchmark
    train: TrainingSet
    holdout: Split | None
    noise: str
    weights: str = ""


def located(config: Config) -> Config:
    """The same config with places that do not depend on the folder it is used from, so that a run can be tested from any.

    REID_DATA stays what decides where the config names no root: it may say another place on another machine.
    """
    root, path = config.data.root, config.data.path
    if root is not None or (not os.environ.get("REID_DATA") and config.data.name != "manifest"):
        root = str(data_root(root).absolute())
    if path is not None:
        path = str(Path(path).expanduser().absolute())
    weights = config.data.weights and str(Path(config.data.weights).expanduser().absolute())
    places = {"root": root, "path": path, "weights": weights}
    return config.model_copy(update={"data": config.data.model_copy(update=places)})


def load_benchmark(config: Config, drawn: Mapping[str, str] | None = None, *, to_train: bool = False) -> Benchmark:
    """The dataset that the config names.

    Args:
        config: the run's.
        drawn: person -> part, to keep to where a table does not say who is trained on; drawn here by default.
        to_train: refuse a table that has nobody to train on.

    Raises:
        DataError: it is not there, or inconsistent.
    """
    if config.data.name == "manifest":
        if config.data.path is None:
            raise ConfigError("data.path: the dataset manifest needs a table; expected data.path=tracks.csv, say")
        draw = Draw(config.data.test_share, config.data.holdout or Draw.val, config.data.split_seed)
        table = Path(config.data.path).expanduser()
        if not table.exists():
            raise DataError(f"{table}: no such table; name the place where it is now by data.path=FILE")
        return load_manifest(table, draw=draw, drawn=drawn, any_camera=config.test.any_camera, to_train=to_train)
    name, root = config.data.name, data_root(config.data.root)
    folder = find_dataset(root, name, *PLACES.get(name, ()))
    if config.data.split is not None:
        return SPLITS[name](folder, config.data.split)
    return DATASETS[name](folder)


def load_data(config: Config, drawn: Mapping[str, str] | None = None) -> LabelledData:
    """The dataset with the labels that training is to see; `drawn` as in `load_benchmark`.

    Raises:
        ConfigError: no checkpoint could be chosen by the held-out identities.
        DataError: it is not there, inconsistent, or has fewer than two identities to train on.
    """
    benchmark = load_benchmark(config, drawn, to_train=True)
    split, intact_T, noise = _labelled(config, benchmark.train)
    rows, held = np.arange(len(split)), benchmark.val
    if held is not None and config.data.holdout and benchmark.drawn is None:
        raise ConfigError("data.holdout: the table's split val chooses the checkpoint; leave out one of them")
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
    label_F = _per_frame(train, labels, fill=-1)
    intact_F = None if intact_T is None else _per_frame(train, intact_T[rows], fill=False)
    weight_T = _weights(config, benchmark)
    if weight_T is None:
        return LabelledData(benchmark, TrainingSet(train, label_F, intact_F, pids), held, noise)
    weight_T = scaled(weight_T[rows], config.data.weights or benchmark.name)
    weight_F = _per_frame(train, weight_T.astype(np.float32), fill=0)
    return LabelledData(
        benchmark, TrainingSet(train, label_F, intact_F, pids, weight_F), held, noise, in_words(weight_T)
    )


def _weights(config: Config, benchmark: Benchmark) -> np.ndarray | None:
    """(T,) of all training tracklets, held-out ones included, as given; None where all count alike."""
    if config.data.weights is None:
        return benchmark.weight
    if benchmark.weight is not None:
        raise ConfigError("data.weights: the table has a column weight; leave out one of them")
    return read_weights(Path(config.data.weights).expanduser(), benchmark.train)


def _labelled(config: Config, split: Split) -> tuple[Split, np.ndarray | None, str]:
    """The split with the labels to train on, (T,) which of them are true where known, and that in words."""
    true_pid, order = None, np.arange(len(split))
    if config.data.name == "demo":
        truth = load_truth(find_dataset(data_root(config.data.root), "demo"))
        if len(truth.true_pid) != len(split):
            raise DataError(
                f"demo dataset: {len(split)} training tracklets, but the truth of {len(truth.true_pid)}; make it anew"
            )
        true_pid, order = truth.true_pid, np.argsort(truth.true_row)
    if config.data.labels == "truth":
        assert true_pid is not None  # `check` has seen to it
        split = split.with_pid(true_pid)
    if config.data.noise is not None:
        clean = split.pid if true_pid is None else true_pid
        split = split.with_pid(_with_noise(config.data.noise, split, order))
        if true_pid is None:
            return (
                split,
                None,
                f"{_rate(split.pid, clean)} tracklet labels changed on purpose; wrong labels on disk: unknown",
            )
    if true_pid is None:
        return split, None, "unknown (no true labels)"
    return split, split.pid == true_pid, f"{_rate(split.pid, true_pid)} tracklet labels wrong"


def _with_noise(noise: Component, split: Split, order: np.ndarray) -> np.ndarray:
    # Drawn in the order of the true table where there is one, so that the demo's generator and this draw the same flips.
    labels, pids = split.labels()
    noisy = np.empty_like(labels)
    noisy[order] = build("data.noise", NOISES, noise, labels_N=labels[order], num_classes=len(pids))
    return pids[noisy]


def _rate(given: np.ndarray, clean: np.ndarray) -> str:
    return f"{int((given != clean).sum())} of {len(clean)} ({100 * realised_rate(given, clean):.2f} %)"


def _per_frame(split: Split, value_T: np.ndarray, fill: Any) -> torch.Tensor:
    value_F = np.full(len(split.names), fill, dtype=value_T.dtype)
    value_F[split.frames()] = np.repeat(value_T, split.lengths)
    return torch.from_numpy(value_F)
