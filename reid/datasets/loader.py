"""Load frames from disk as uint8 batches. Workers only read and decode; everything else runs on the training device.

Shapes: n frames requested for a batch, k of them that could be decoded, H W pixels, F frame names of a split.
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
    """The frame indices (n,) of each batch; a list of arrays will do."""

    def __len__(self) -> int: ...
    def __getitem__(self, i: int, /) -> np.ndarray: ...


@dataclass(frozen=True)
class FrameBatch:
    """Decoded frames.

    Args:
        images: (H, W, 3) uint8 RGB each; one (k, H, W, 3) tensor if all sizes agree.
        frames: (k,) int64, the frame indices.
        places: (k,) int64, the position of each image in the requested batch: 0..n-1 unless images were left out.
    """

    images: Tensor | list[Tensor]
    frames: Tensor
    places: Tensor


class _Pixels:
    """Images decoded one after another into a given buffer; without copies while they fit into it."""

    def __init__(self, memory: np.ndarray) -> None:
        self._memory, self._given, self.size = memory, memory, 0
        self.shapes: list[tuple[int, ...]] = []

    def add(self, path: str) -> None:
        """Read and decode one more image.

        Raises:
            DataError: the image is missing or damaged; nothing was added.
        """
        if regions.split(path)[1] is not None:
            self._take(decode(path))
            return
        data = frames.read(path)
        try:
            if may_be_turned(data):
                raise ValueError("to be turned")
            image = decode_jpeg(data, self._memory[self.size :])
        except ValueError:  # not a JPEG, damaged, to be rotated, or larger than the rest of the buffer
            self._take(decode_bytes(data, path))
            return
        self.size += image.size
        self.shapes.append(image.shape)

    def _take(self, image: np.ndarray) -> None:
        """Copy an image that was decoded elsewhere into the buffer."""
        end = self.size + image.size
        if end > len(self._memory):
            larger = np.empty(2 * end, np.uint8)
            larger[: self.size] = self._memory[: self.size]
            self._memory = larger
        self._memory[self.size : end] = image.reshape(-1)
        self.size = end
        self.shapes.append(image.shape)

    def elsewhere(self) -> np.ndarray | None:
        """(size,) uint8 if the buffer was too small and replaced; None if all pixels are in it."""
        return None if self._memory is self._given else self._memory[: self.size]


class _Item(NamedTuple):
    """A batch as sent by a worker: `size` bytes of pixels in a slot, or the `pixels` themselves; one shape if all agree."""

    slot: int | None
    size: int
    pixels: np.ndarray | None
    shapes: list[tuple[int, ...]]
    frames: np.ndarray
    places: np.ndarray
    left_out: list[tuple[str, str]]  # path, reason


class _Batches(Dataset[Any]):
    """Dataset of batches, each decoded into a slot. Errors are returned: raised in a worker, they would be wrapped in a traceback."""

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
    """One rank's share of the batches of steps `first`..`last`-1 of a sampler, drawn on access."""

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
    """Load and decode batches in the given order, for any number of workers. A batch without frames is returned empty.

    Args:
        split: of the frames.
        batches: the (n,) int64 frame indices of each batch.
        workers: decoding processes; 0 decodes in this process.
        pin_memory: copy batches to page-locked memory, for CUDA.
        damaged: policy for damaged and missing images, and their record; by default the first one raises.
        may_be_empty: return a batch whose images were all left out as an empty one instead of raising.

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
