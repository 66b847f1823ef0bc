"""Adding the label noise of `data.noise` to a training set.

Shapes: T tracklets, D feature dimensions.
"""

from __future__ import annotations

import logging
from functools import partial
from pathlib import Path

import numpy as np
import torch

from reid.augment import Preprocess
from reid.binding import build
from reid.config import Config
from reid.datasets.changes import Change, Noisy
from reid.datasets.damaged import DamagedImages
from reid.datasets.loader import load_batches
from reid.datasets.noise_manifest import NOISES, Manifest
from reid.datasets.tracklet_noise import Background, World
from reid.errors import ConfigError, DataError
from reid.features import FeatureSet
from reid.gallery import store
from reid.models.color_histogram import ColorHistogram
from reid.tracklets import Benchmark, Split

logger = logging.getLogger(__name__)

SAMPLED = 4  # evenly spaced frames per tracklet used for its colour histogram
# Pixels, (height, width). Only the middle half of the width is used, where the person is: on the demo, a tracklet's nearest neighbour is
# then of the same person in 95 % of cases; with whole images, which include the background, in 62 %.
SIZE, SEEN = [64, 32], [64, 16]


def with_noise(
    config: Config, benchmark: Benchmark, clean: Split, order: np.ndarray, made: Path | None = None
) -> Noisy:
    """Applies the configured noise to the training set.

    Args:
        config: config with `data.noise`.
        benchmark: the dataset; its test set supplies distractors and junk.
        clean: the training tracklets with the labels before noise.
        order: (T,) rows in the order in which noise is drawn.
        made: a noise manifest to replay instead of drawing.

    Raises:
        ConfigError: a noise rate is too high for the data, or two noises have the same kind and seed.
        DataError: two tracklets share a key; features or a manifest cannot be read or do not fit.
    """
    others = [benchmark.test, *([] if benchmark.val is None else [benchmark.val])]
    taken = frozenset(pid for split in others for pid in split.pid.tolist())
    world = World(benchmark.test.select(benchmark.test.pid <= 0), taken, order, partial(_features, config))
    noises = {place: build(place, NOISES, noise) for place, noise in config.data.noises.items()}
    if not noises:
        return Noisy.untouched(clean, benchmark.names)
    noisy = Noisy.of(clean, benchmark.names)
    for noise in [Manifest(str(made))] if made is not None else noises.values():
        before = noisy
        noisy = noise.apply(noisy, world)
        _refuse_twice(before, noisy)
    return noisy


def _refuse_twice(before: Noisy, after: Noisy) -> None:
    """Checks that no two noises have the same kind and seed, which identify a noise in a manifest.

    Raises:
        ConfigError: two noises have both in common.
    """
    drawn, new = (
        {(c.kind, c.seed) for c in changes} for changes in (before.changes, after.changes[len(before.changes) :])
    )
    if twice := sorted(drawn & new):
        kind, seed = twice[0]
        raise ConfigError(f"data.noise: {kind} with seed {seed} is in a manifest too; use a different seed")


def notes_on(noisy: Noisy) -> tuple[str, ...]:
    """Describes the realised rate of each noise, one sentence each, and warns if test tracklets are trained on."""
    all_tracklets, all_frames = (len(np.unique(origin[origin >= 0])) for origin in (noisy.row_T, noisy.frame_F))
    groups: dict[tuple[str, int], list[Change]] = {}
    for change in noisy.changes:
        groups.setdefault((change.kind, change.seed), []).append(change)
    notes = []
    for (kind, seed), changes in groups.items():
        tracklets = share_of(len({change.key for change in changes}), all_tracklets, "tracklets")
        within = sum(change.frame is not None for change in changes)
        frames = f", {share_of(within, all_frames, 'frames')}" if within else ""
        notes.append(f"artificial noise: {kind}, seed {seed}: {tracklets}{frames}")
    if added := sum(change.kind == Background.kind for change in noisy.changes):
        notes.append(
            f"{added} distractors and junk of the test set are trained on, so the test gallery contains tracklets that the model has seen"
        )
    return tuple(notes)


def share_of(count: int, of: int, what: str = "") -> str:
    """Formats a share such as ``452 of 1508 tracklets (29.97 %)``; 0 of 0 is 0 %."""
    return f"{count} of {' '.join(filter(None, [str(of), what]))} ({100 * count / max(of, 1):.2f} %)"


def _features(config: Config, split: Split, gallery: str | None) -> np.ndarray:
    """Returns (T, D) unit feature rows of a split's tracklets, from a gallery or feature file if given, else colour histograms.

    Raises:
        DataError: the features have no keys or lack tracklets; or no frame of a tracklet can be read.
    """
    if gallery is None:
        logger.info(
            "nearest persons by colour histograms: reading up to %d frames of %d tracklets", SAMPLED, len(split)
        )
        return _colours(split, DamagedImages(config.data.damaged), config.machine.workers)
    place = Path(gallery).expanduser()
    features = store.open_gallery(place).features if place.is_dir() else FeatureSet.load(place)
    if features.key is None:
        raise DataError(f"{place}: has no keys, so its rows cannot be matched to tracklets; add an array `key`")
    row_of = {key: row for row, key in enumerate(features.key.tolist())}
    keys = [split.key(i) for i in range(len(split))]
    if missing := [key for key in keys if key not in row_of]:
        raise DataError(
            f"{place}: {len(missing)} of {len(keys)} training tracklets are missing, such as {missing[0]!r}; "
            "nearest needs features of all of them, matched by key"
        )
    return np.asarray(features.features[[row_of[key] for key in keys]])


@torch.inference_mode()
def _colours(split: Split, damaged: DamagedImages, workers: int) -> np.ndarray:
    """Returns (T, D) colour histograms as unit rows. Every process computes them on the CPU, so that all get the same result."""
    rows = np.repeat(np.arange(len(split)), np.minimum(split.lengths, SAMPLED))
    frames = np.concatenate(
        [
            np.linspace(start, stop - 1, min(SAMPLED, stop - start)).astype(int)
            for start, stop in zip(split.start, split.stop, strict=True)
        ]
    )
    place = np.full(len(split.names), -1)
    place[frames] = rows
    model, preprocess = ColorHistogram(), Preprocess(SIZE, SEEN, [0.0] * 3, [1.0] * 3)
    sums = torch.zeros(len(split), model.num_features)
    chunks = np.array_split(frames, -(-len(frames) // 256))
    for batch in load_batches(split, chunks, workers=workers, damaged=damaged, may_be_empty=True):
        if len(batch.frames):
            values = model(preprocess(batch.images, torch.device("cpu")))
            sums.index_add_(0, torch.from_numpy(place)[batch.frames], values)
    norm = sums.norm(dim=1, keepdim=True)
    if not bool((norm > 0).all()):
        raise DataError(
            f"tracklet {split.key(int(norm.argmin()))}: none of its frames can be read, so its nearest person is unknown"
        )
    return (sums / norm).numpy()
