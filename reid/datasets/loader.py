"""Frames from disk to uint8 batches. Workers only read and decode; everything else happens on the training device.

Shapes: n frames of a batch, H W pixels, F frame names of a split.
"""

from __future__ import annotations

import io
import logging
import math
import signal
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import simplejpeg
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from reid.datasets import frames
from reid.datasets.sampling import Sampler
from reid.errors import DataError, ReidError
from reid.runtime import is_main_process
from reid.tracklets import Split

logger = logging.getLogger(__name__)


class Batches(Protocol):
    """The frame numbers (n,) of each batch; a list of arrays will do."""

    def __len__(self) -> int: ...
    def __getitem__(self, i: int, /) -> np.ndarray: ...


@dataclass(frozen=True)
class FrameBatch:
    """Decoded frames: (H, W, 3) uint8 RGB each, in one (n, H, W, 3) tensor when all sizes agree; `frames` (n,) their numbers."""

    images: Tensor | list[Tensor]
    frames: Tensor


def decode(path: Path) -> np.ndarray:
    """One image file as (H, W, 3) uint8 RGB.

    JPEG is decoded strictly: a damaged stream is an error, not a half-grey picture. Other formats go through Pillow.

    Raises:
        DataError: the file is missing, unreadable or damaged.
    """
    data = frames.read(path)
    try:
        if simplejpeg.is_jpeg(data):
            return simplejpeg.decode_jpeg(data, colorspace="RGB", fastdct=False, fastupsample=False, strict=True)
        with Image.open(io.BytesIO(data)) as image:
            return np.array(image.convert("RGB"))
    except (ValueError, OSError, SyntaxError, Image.DecompressionBombError) as error:
        what = f"{len(data)} bytes" if data else "an empty file"
        raise DataError(
            f"{path}: damaged image ({what}): {error}; restore the file from the dataset's archive"
        ) from None


class _Batches(Dataset):
    """Item i is batch i: all pixels in one tensor, since each tensor on its way to another process takes a file descriptor.

    An error travels as a value: raised in a worker it would arrive wrapped in a traceback.
    """

    def __init__(self, split: Split, batches: Batches) -> None:
        self.split, self.batches = split, batches

    def __len__(self) -> int:
        return len(self.batches)

    def __getitem__(self, i: int) -> tuple[Tensor, list[tuple[int, ...]], Tensor] | ReidError:
        numbers = self.batches[i]
        try:
            images = [decode(self.split.path(frame)) for frame in numbers]
        except ReidError as error:
            return error
        pixels = np.concatenate([image.reshape(-1) for image in images])
        return torch.from_numpy(pixels), [image.shape for image in images], torch.from_numpy(np.asarray(numbers))


class StepBatches:
    """The batches of steps `first`..`last`-1 of a sampler, as seen by one process of several; drawn when asked for."""

    def __init__(self, sampler: Sampler, first: int, last: int, rank: int, world_size: int) -> None:
        self._sampler, self._first, self._last, self._rank, self._world_size = sampler, first, last, rank, world_size

    def __len__(self) -> int:
        return self._last - self._first

    def __getitem__(self, i: int) -> np.ndarray:
        return self._sampler(self._first + i)[self._rank :: self._world_size]


def load_batches(split: Split, batches: Batches, *, workers: int, pin_memory: bool = False) -> Iterator[FrameBatch]:
    """Decoded batches in the given order, whatever the number of workers.

    Args:
        split: where the frames are.
        batches: for each batch the (n,) int64 frame numbers.
        workers: decoding processes; 0 decodes in this one.
        pin_memory: put them in page-locked memory, for CUDA.

    Raises:
        DataError: a frame is missing or damaged; the run stops.
    """
    loader = DataLoader(
        _Batches(split, batches),
        batch_size=None,
        collate_fn=_as_it_is,
        num_workers=workers,
        prefetch_factor=2 if workers else None,
        pin_memory=pin_memory,
        worker_init_fn=_leave_signals_to_the_main_process,
    )
    for batch in loader:
        if isinstance(batch, ReidError):
            if (
                not is_main_process()
            ):  # the main process prints its own errors, and would only see that this one is gone
                logger.error("%s", batch)
            raise batch
        pixels, shapes, frames = batch
        images = [
            part.view(shape) for part, shape in zip(pixels.split([math.prod(s) for s in shapes]), shapes, strict=True)
        ]
        yield FrameBatch(pixels.view(-1, *shapes[0]) if len(set(shapes)) == 1 else images, frames)


def _as_it_is(batch: Any) -> Any:
    return batch


def _leave_signals_to_the_main_process(worker: int) -> None:
    """A signal to the whole process group must not kill the workers under a loop that is about to save and stop."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
