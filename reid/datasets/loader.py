"""Frames from disk to uint8 batches. Workers only read and decode; everything else happens on the training device.

Shapes: n frames of a batch as asked for, k of them that could be decoded, H W pixels, F frame names of a split.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from reid.datasets import frames, regions
from reid.datasets.damaged import DamagedImages
from reid.datasets.decoding import decode, decode_bytes, decode_jpeg, may_be_turned
from reid.datasets.sampling import Sampler
from reid.datasets.workers import Slots, items
from reid.errors import DataError
from reid.tracklets import Split


class Batches(Protocol):
    """The frame numbers (n,) of each batch; a list of arrays will do."""

    def __len__(self) -> int: ...
    def __getitem__(self, i: int, /) -> np.ndarray: ...


@dataclass(frozen=True)
class FrameBatch:
    """Decoded frames.

    Args:
        images: (H, W, 3) uint8 RGB each, in one (k, H, W, 3) tensor when all sizes agree.
        frames: (k,) int64 their numbers.
        places: (k,) int64 the position of each in the batch as asked for: 0..n-1 unless images were left out.
    """

    images: Tensor | list[Tensor]
    frames: Tensor
    places: Tensor


class _Pixels:
    """Images one behind the other, decoded to where they are to be: nothing is copied while they fit into the memory given."""

    def __init__(self, memory: np.ndarray) -> None:
        self._memory, self._given, self.size = memory, memory, 0
        self.shapes: list[tuple[int, ...]] = []

    def add(self, path: str) -> None:
        """Reads and decodes one more image.

        Raises:
            DataError: it is missing or damaged; nothing was added.
        """
        if regions.split(path)[1] is not None:
            self._take(decode(path))
            return
        data = frames.read(path)
        try:
            if may_be_turned(data):
                raise ValueError("to be turned")
            image = decode_jpeg(data, self._memory[self.size :])
        except ValueError:  # no JPEG, a damaged one, one to be turned, or larger than what is left of the memory
            self._take(decode_bytes(data, path))
            return
        self.size += image.size
        self.shapes.append(image.shape)

    def _take(self, image: np.ndarray) -> None:
        """Copies one that was decoded elsewhere."""
        end = self.size + image.size
        if end > len(self._memory):
            larger = np.empty(2 * end, np.uint8)
            larger[: self.size] = self._memory[: self.size]
            self._memory = larger
        self._memory[self.size : end] = image.reshape(-1)
        self.size = end
        self.shapes.append(image.shape)

    def elsewhere(self) -> np.ndarray | None:
        """(size,) uint8, or None where all of it is in the memory given."""
        return None if self._memory is self._given else self._memory[: self.size]


class _Item(NamedTuple):
    """A batch on its way out of a worker: `size` bytes of pixels in a slot, or else themselves; one shape where all agree."""

    slot: int | None
    size: int
    pixels: np.ndarray | None
    shapes: list[tuple[int, ...]]
    frames: np.ndarray
    places: np.ndarray
    left_out: list[tuple[str, str]]  # path, reason


class _Batches(Dataset[Any]):
    """Batch i, decoded to a slot. An error travels as a value: raised in a worker it would arrive wrapped in a traceback."""

    def __init__(self, split: Split, batches: Batches, policy: str, memory: list[np.ndarray]) -> None:
        self._root, self._names = os.path.join(split.root, ""), split.names
        self._batches, self._policy, self._memory = batches, policy, memory

    def __getitem__(self, key: tuple[int, int | None]) -> _Item | DataError:
        i, slot = key
        numbers = np.asarray(self._batches[i], np.int64)
        pixels = _Pixels(np.empty(0, np.uint8) if slot is None else self._memory[slot])
        kept, left_out = np.ones(len(numbers), bool), []
        paths = [self._root + os.fsdecode(name) for name in self._names[numbers].tolist()]
        frames.expect(map(regions.file_of, paths))
        for place, path in enumerate(paths):
            try:
                pixels.add(path)
            except DataError as error:
                if self._policy == "error":
                    return error
                kept[place] = False
                left_out.append((path, str(error).removeprefix(" ".join(path.split()) + ": ")))
        shapes = pixels.shapes[:1] if len(set(pixels.shapes)) == 1 else pixels.shapes
        return _Item(slot, pixels.size, pixels.elsewhere(), shapes, numbers[kept], np.flatnonzero(kept), left_out)


class StepBatches:
    """The batches of steps `first`..`last`-1 of a sampler, as seen by one process of several; drawn when asked for."""

    def __init__(self, sampler: Sampler, first: int, last: int, rank: int, world_size: int) -> None:
        self._sampler, self._first, self._last, self._rank, self._world_size = sampler, first, last, rank, world_size

    def __len__(self) -> int:
        return self._last - self._first

    def __getitem__(self, i: int) -> np.ndarray:
        return self._sampler(self._first + i)[self._rank :: self._world_size]


def load_batches(
    split: Split,
    batches: Batches,
    *,
    workers: int,
    pin_memory: bool = False,
    damaged: DamagedImages | None = None,
    may_be_empty: bool = False,
) -> Iterator[FrameBatch]:
    """Decoded batches in the given order, whatever the number of workers. One that is asked for empty comes empty.

    Args:
        split: where the frames are.
        batches: for each batch the (n,) int64 frame numbers.
        workers: decoding processes; 0 decodes in this one.
        pin_memory: put them in page-locked memory, for CUDA.
        damaged: what to do about damaged and missing images, and where to note them; by default the first stops the run.
        may_be_empty: a batch of which no image is left comes empty, instead of stopping the run.

    Raises:
        DataError: a frame is missing or damaged and the policy is `error`, or no frame of a batch is left.
        ReidError: the workers cannot start, or one of them died.
    """
    damaged = DamagedImages() if damaged is None else damaged
    slots = Slots(workers)
    dataset = _Batches(split, batches, damaged.policy, slots.memory)
    for item in items(dataset, slots.numbered(len(batches)), workers):
        if isinstance(item, DataError):
            raise item
        for path, reason in item.left_out:
            damaged.note(path, reason)
        if item.left_out and not len(item.frames) and not may_be_empty:
            raise DataError(_nothing_left(item))
        yield FrameBatch(_images(item, slots, pin_memory), torch.from_numpy(item.frames), torch.from_numpy(item.places))


def _images(item: _Item, slots: Slots, pin_memory: bool) -> Tensor | list[Tensor]:
    pixels = torch.empty(0) if item.slot is None else slots.tensor(item.slot, item.size)
    if item.pixels is not None:
        pixels = torch.from_numpy(item.pixels)
    if pin_memory:
        pixels = pixels.pin_memory()
    if not item.shapes:
        return pixels.view(0, 0, 0, 3)
    if len(item.shapes) == 1:
        return pixels.view(-1, *item.shapes[0])
    parts = pixels.split([math.prod(shape) for shape in item.shapes])
    return [part.view(shape) for part, shape in zip(parts, item.shapes, strict=True)]


def _nothing_left(item: _Item) -> str:
    path, reason = item.left_out[0]
    return f"{path}: {reason}; so are all {len(item.left_out)} images of its batch"
