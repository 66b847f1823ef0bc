"""Choose the frames of batch t: a pure function of (seed, t), so that resuming needs no sampler state.

Every sampler is called with a step and returns the whole batch's frame indices; one rank of several uses every world_size-th of them.
Shapes: T tracklets, B batch.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import numpy as np

from reid.errors import ConfigError
from reid.runtime import seed_of
from reid.tracklets import Split


class Sampler(Protocol):
    def __call__(self, step: int) -> np.ndarray:
        """(B,) int64 frame indices of batch `step`."""
        ...


class FrameSampler:
    """Uniform sampling of frames, as in the paper: every epoch is a new permutation of all frames; a batch may span epochs."""

    def __init__(self, split: Split, batch_size: int, seed: int) -> None:
        self._items, self._batch_size, self._seed = split.frames(), batch_size, seed
        self._epochs: dict[int, np.ndarray] = {}  # two are kept: a batch spans no more, unless larger than one

    def _epoch(self, epoch: int) -> np.ndarray:
        if epoch not in self._epochs:
            if len(self._epochs) == 2:
                del self._epochs[min(self._epochs)]
            draw = np.random.default_rng(seed_of(self._seed, "epoch", epoch))
            self._epochs[epoch] = draw.permutation(self._items)
        return self._epochs[epoch]

    def __call__(self, step: int) -> np.ndarray:
        positions = np.arange(step * self._batch_size, (step + 1) * self._batch_size)
        epochs, offsets = np.divmod(positions, len(self._items))
        batch = np.empty(len(positions), dtype=np.int64)
        for epoch in np.unique(epochs):
            batch[epochs == epoch] = self._epoch(int(epoch))[offsets[epochs == epoch]]
        return batch


class TrackletSampler:
    """Uniform sampling of tracklets, one random frame of each, so that long tracklets count no more than short ones."""

    def __init__(self, split: Split, batch_size: int, seed: int) -> None:
        rows = Split(split.root, split.names, np.arange(len(split)), np.arange(len(split)) + 1, split.pid, split.camid)
        self._rows, self._split, self._seed = FrameSampler(rows, batch_size, seed), split, seed

    def __call__(self, step: int) -> np.ndarray:
        rows = self._rows(step)
        draw = np.random.default_rng(seed_of(self._seed, "frame", step))
        return draw.integers(self._split.start[rows], self._split.stop[rows])


class IdentitySampler:
    """Sampling of P identities x K frames, from as many different tracklets of the identity as possible, or from a given number of them.

    Args:
        K: frames per identity; the batch size must be a multiple of it.
        tracklets: per identity, with K / tracklets frames of each; a divisor of K. By default every frame is from another tracklet.
            Tracklets of an identity with fewer repeat, and so do frames of a tracklet with fewer.
        cross_camera: take an identity's tracklets from its cameras in turn, so that as many cameras as possible are covered evenly; a
            repeated tracklet gives different frames as long as it has enough.
    """

    def __init__(
        self,
        split: Split,
        batch_size: int,
        seed: int,
        K: int = 4,
        tracklets: int | None = None,
        cross_camera: bool = False,
    ) -> None:
        num_ids = len(np.unique(split.pid))
        if K < 1 or batch_size % K or batch_size // K > num_ids:
            raise ConfigError(
                f"K: expected a divisor of the batch size {batch_size} with batch size / K <= {num_ids} identities, got {K}"
            )
        if tracklets is not None and (tracklets < 1 or K % tracklets):
            raise ConfigError(f"tracklets: expected a divisor of K = {K}, got {tracklets}")
        self._split, self._K, self._P, self._seed = split, K, batch_size // K, seed
        self._tracklets, self._cross_camera = tracklets or K, cross_camera
        labels, _ = split.labels()
        self._rows = np.split(np.argsort(labels, kind="stable"), np.cumsum(np.bincount(labels))[:-1])

    def __call__(self, step: int) -> np.ndarray:
        draw = np.random.default_rng(seed_of(self._seed, "identities", step))
        identities = draw.choice(len(self._rows), self._P, replace=False)
        rows = np.concatenate([self._of_identity(draw.permutation(self._rows[i])) for i in identities])
        start, stop = self._split.start[rows], self._split.stop[rows]
        each = self._K // self._tracklets
        if self._cross_camera:
            return _other_frames(draw, rows, start, stop, each)
        if self._tracklets == self._K:
            return draw.integers(start, stop)
        return np.concatenate(
            [first + np.resize(draw.permutation(end - first), each) for first, end in zip(start, stop, strict=True)]
        )

    def _of_identity(self, shuffled: np.ndarray) -> np.ndarray:
        """Choose `tracklets` of an identity's shuffled tracklets, repeated if there are fewer."""
        if self._cross_camera:
            camid = self._split.camid[shuffled]
            turn = [int((camid[:i] == camid[i]).sum()) for i in range(len(camid))]  # rank within its camera
            shuffled = shuffled[np.argsort(turn, kind="stable")]
        return np.resize(shuffled, self._tracklets)


def _other_frames(
    draw: np.random.Generator, rows: np.ndarray, start: np.ndarray, stop: np.ndarray, each: int
) -> np.ndarray:
    """Draw `each` frames per row; the rows of a repeated tracklet get different frames as long as it has enough."""
    frames = np.empty((len(rows), each), dtype=np.int64)
    for row in np.unique(rows):
        places = np.flatnonzero(rows == row)
        first, end = start[places[0]], stop[places[0]]
        frames[places] = first + np.resize(draw.permutation(end - first), (len(places), each))
    return frames.reshape(-1)


SAMPLERS: dict[str, Callable[..., Sampler]] = {
    "frames": FrameSampler,
    "tracklets": TrackletSampler,
    "identities": IdentitySampler,
}
