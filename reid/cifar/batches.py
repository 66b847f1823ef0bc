"""Images of the CIFAR study on the device, and its batches: the batch of step t is a pure function of (seed, t).

Each epoch is a permutation of the training set. The permutations are concatenated without end, and batch t holds the positions
t·B … (t+1)·B - 1, so that every batch is full.
Shapes: N training images, M other images, B batch, S steps, H W pixels, C = 3 channels.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from reid.runtime import seed_of

SIZE, PAD = 32, 4
_LINE = SIZE + 2 * PAD


@dataclass(frozen=True)
class Labelled:
    """Images and labels on one device: padded (M, 40, 40, 3) uint8 images, (M,) int64 given (possibly noisy) and true labels."""

    images: Tensor
    given: Tensor
    true: Tensor

    def __len__(self) -> int:
        return len(self.images)


@dataclass(frozen=True)
class CellData:
    """Training, held-out and test images of one cell; `mean` and `std` are (3,) float32 of the training pixels, in 0..255."""

    train: Labelled
    held_out: Labelled
    test: Labelled
    mean: Tensor
    std: Tensor


def padded(images_NCHW: np.ndarray, fill: np.ndarray) -> Tensor:
    """(N, 3, 32, 32) uint8 images -> (N, 40, 40, 3) uint8 with a border in the mean colour `fill` (3,).

    Once the mean is subtracted, the border is within half a grey level of zero: He et al. subtract the mean first and pad with zeros.
    """
    images = np.empty((len(images_NCHW), _LINE, _LINE, 3), np.uint8)
    images[:] = np.round(fill).astype(np.uint8)
    images[:, PAD:-PAD, PAD:-PAD] = images_NCHW.transpose(0, 2, 3, 1)
    return torch.from_numpy(images)


def crops(images_NHWC: Tensor, row_B: Tensor, top_B: Tensor, left_B: Tensor, flip_B: Tensor) -> Tensor:
    """(B, 32, 32, 3) uint8 crops, as one gather over the padded images; where `flip_B` (int64) is 1, the crop is mirrored."""
    line = torch.arange(SIZE, device=row_B.device)
    column_BW = left_B[:, None] + line + flip_B[:, None] * (SIZE - 1 - 2 * line)
    pixel_BHW = (row_B[:, None] * _LINE + top_B[:, None] + line)[:, :, None] * _LINE + column_BW[:, None, :]
    return images_NHWC.view(-1, 3)[pixel_BHW]


def centres(images_MHWC: Tensor) -> Tensor:
    """The images without their border."""
    return images_MHWC[:, PAD:-PAD, PAD:-PAD]


def normalised(images_BHWC: Tensor, data: CellData) -> Tensor:
    """uint8 (B, H, W, 3) -> float32 (B, 3, H, W), channels last in memory."""
    return ((images_BHWC - data.mean) / data.std).permute(0, 3, 1, 2)


@dataclass(frozen=True)
class Plan:
    """The batches of a run.

    Args:
        num_train: N.
        batch_size: B.
        seed: of the permutations, crops and flips; the loss has no influence on them.
    """

    num_train: int
    batch_size: int
    seed: int

    def rows(self, step: int) -> np.ndarray:
        """(B,) int64 indices of the training images of a step."""
        epoch_B, place_B = np.divmod(np.arange(step * self.batch_size, (step + 1) * self.batch_size), self.num_train)
        orders = {epoch: _permutation(self.num_train, self.seed, int(epoch)) for epoch in np.unique(epoch_B)}
        return np.concatenate([order[place_B[epoch_B == epoch]] for epoch, order in orders.items()])

    def draws(self, step: int) -> np.ndarray:
        """(3, B) int64: top and left edge of each crop, 0..8, and whether it is flipped (0 or 1)."""
        rng = np.random.default_rng(seed_of(self.seed, "augment", step))
        return rng.integers(np.array([[2 * PAD + 1], [2 * PAD + 1], [2]]), size=(3, self.batch_size))


@functools.lru_cache(maxsize=4)
def _permutation(num_train: int, seed: int, epoch: int) -> np.ndarray:
    return np.random.default_rng(seed_of(seed, "order", epoch)).permutation(num_train)


@functools.lru_cache(maxsize=4)  # cells of one seed that train side by side have the same batches
def planned(plan: Plan, first: int, count: int) -> Tensor:
    """(S, 4, B) int64: row, top, left, flip for the steps first … first + count - 1."""
    steps = range(first, first + count)
    return torch.from_numpy(np.stack([np.vstack([plan.rows(step), plan.draws(step)]) for step in steps]))
