"""Streaming pooling of frame features into tracklet features: memory grows with the number of tracklets, not of frames.

Shapes: n frames of a chunk, T tracklets, D feature.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor


class Pooling(Protocol):
    def add(self, features_nD: Tensor, rows_n: Tensor) -> None:
        """Add frame features, each with the row of its tracklet; the frames of a tracklet may be split over several chunks."""
        ...

    def result(self) -> Tensor:
        """Return the (T, D) float64 tracklet features, not normalised; rows of tracklets without frames are zero."""
        ...


class MeanPooling:
    """Mean over all frames, the average fusion of the paper. Sums are in float64, so that the chunks hardly affect the result."""

    def __init__(self, num_tracklets: int, dim: int) -> None:
        self._sum_TD = torch.zeros(num_tracklets, dim, dtype=torch.float64)
        self._count_T = torch.zeros(num_tracklets, dtype=torch.float64)

    def add(self, features_nD: Tensor, rows_n: Tensor) -> None:
        self._sum_TD.index_add_(0, rows_n, features_nD.double())
        self._count_T.index_add_(0, rows_n, torch.ones(len(rows_n), dtype=torch.float64))

    def result(self) -> Tensor:
        return self._sum_TD / self._count_T.clamp(min=1)[:, None]


class MaxPooling:
    """Maximum over all frames, per dimension: the default of the dataset's MATLAB code."""

    def __init__(self, num_tracklets: int, dim: int) -> None:
        self._max_TD = torch.full((num_tracklets, dim), -torch.inf, dtype=torch.float64)

    def add(self, features_nD: Tensor, rows_n: Tensor) -> None:
        self._max_TD.scatter_reduce_(0, rows_n[:, None].expand_as(features_nD), features_nD.double(), "amax")

    def result(self) -> Tensor:
        return self._max_TD.masked_fill(self._max_TD == -torch.inf, 0.0)


POOLINGS: dict[str, Callable[[int, int], Pooling]] = {"mean": MeanPooling, "max": MaxPooling}
