"""Camera-pair matrices: mAP and Rank-1 of each camera's queries against the matches under each camera.

Shapes: Q queries, P (query, match) pairs, C cameras, S (query, camera) combinations with a match.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import torch

from reid.evaluation.masks import Matches, find_matches, gallery_rows
from reid.evaluation.metrics import average_precision, hit_ranks
from reid.evaluation.ranking import BLOCK_SIZE, count_nearer
from reid.features import FeatureSet
from reid.protocol import EvalProtocol

JunkRule = Literal["wrong", "removed"]


@dataclass(frozen=True, eq=False)
class CameraPairs:
    """mAP and Rank-1 for each pair of cameras; row = the query's camera, column = the camera of the matches.

    Args:
        cameras: (C,) int64 ascending, the known cameras of queries and gallery.
        mAP: (C, C) float64, mean AP over the queries that have a match under this camera; NaN if there are none.
        rank1: (C, C) float64, share of the same queries whose nearest row is a match; NaN if there are none.
        num_queries: (C, C) int64, number of queries in each mean.
        num_unknown: queries of unknown camera, which are in no mean.
        junk: whether rows of pid < 0 were counted as wrong rows or removed.
    """

    cameras: np.ndarray
    mAP: np.ndarray
    rank1: np.ndarray
    num_queries: np.ndarray
    num_unknown: int
    junk: JunkRule

    def across(self, matrix: np.ndarray) -> float | None:
        """The mean of a matrix over pairs of different cameras that have queries; None if there are none."""
        cells = matrix[~np.eye(len(matrix), dtype=bool) & (self.num_queries > 0)]
        return float(cells.mean()) if cells.size else None

    def to_json(self) -> dict[str, Any]:
        """The public JSON object `camera_pairs`: fractions; None instead of NaN where no query has a match."""
        return {
            "cameras": self.cameras.tolist(),
            "mAP": _nullable(self.mAP),
            "rank1": _nullable(self.rank1),
            "num_queries": self.num_queries.tolist(),
            "mAP_across": self.across(self.mAP),
            "rank1_across": self.across(self.rank1),
            "num_unknown_camera": self.num_unknown,
            "junk": self.junk,
        }


def camera_pairs(
    features: FeatureSet,
    protocol: EvalProtocol,
    *,
    junk: JunkRule = "wrong",
    block_size: int = BLOCK_SIZE,
    device: str | torch.device = "cpu",
    workers: int | None = None,
) -> CameraPairs:
    """The camera-pair matrices of the MARS code, exact, for any number of cameras.

    For each query, only its matches under ONE camera count at a time: rows of its person under other cameras are removed,
    and the wrong rows of ALL cameras stay. On the diagonal the matches are those of the query's own camera, without the
    query itself. Unlike the MARS protocol itself, these matrices count rows of pid < 0 as wrong; `junk` can remove them.
    Rows of unknown camera are in no cell as matches. The memory needed is that of `count_nearer`.

    Args:
        features: the features with their query and gallery.
        protocol: its gallery rule and AP rule are applied.
        junk: rows of pid < 0 are counted as `wrong`, as in the MARS code, or `removed`.
        block_size: as for `evaluate`.
        device: as for `evaluate`.
        workers: as for `evaluate`.

    Raises:
        DataError: no query or no gallery row.
        ConfigError: `block_size` or `workers` is below 1.

    Source: github.com/liangzheng06/MARS-evaluation, utils/compute_AP_multiCam.m, compute_r1_multiCam.m and
    draw_confusion_matrix.m. That code assumes that the nearest row is the query itself; here it is removed by its row number.
    """
    matches = find_matches(features, replace(protocol, camera_filter=False), keep_junk=junk == "wrong")
    nearer = count_nearer(features, matches, block_size=block_size, device=device, workers=workers)
    shown = np.concatenate([features.query, gallery_rows(features, protocol)])
    cameras = np.unique(features.camid[shown])
    cameras = cameras[cameras >= 0]
    cell, ap, first = _per_cell(features, matches, nearer, cameras, protocol)
    num_queries = np.bincount(cell, minlength=len(cameras) ** 2)
    with np.errstate(invalid="ignore"):  # 0 / 0 where no query has a match
        mAP, rank1 = (np.bincount(cell, of, len(cameras) ** 2) / num_queries for of in (ap, first))
    shape = len(cameras), len(cameras)
    unknown = int((features.camid[features.query] < 0).sum())
    return CameraPairs(cameras, mAP.reshape(shape), rank1.reshape(shape), num_queries.reshape(shape), unknown, junk)


def _per_cell(
    features: FeatureSet, matches: Matches, nearer: np.ndarray, cameras: np.ndarray, protocol: EvalProtocol
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """For each (query, camera of its matches), (S,) each: index in the flattened matrix, AP, and whether the nearest row is a match."""
    of_query = np.repeat(np.arange(len(features.query)), np.diff(matches.start))
    from_camera = features.camid[features.query[of_query]]
    to_camera = features.camid[matches.columns[matches.column]]
    known = (from_camera >= 0) & (to_camera >= 0)
    row, column = (np.searchsorted(cameras, camera[known]) for camera in (from_camera, to_camera))
    order = np.lexsort((column, of_query[known]))
    group = of_query[known][order] * len(cameras) + column[order]
    first = np.flatnonzero(np.diff(group, prepend=-1))
    start = np.append(first, len(group))
    rank = hit_ranks(nearer[known][order], start)
    cell = (row * len(cameras) + column)[order][first]
    return cell, average_precision(rank, start, protocol.ap), rank[first] == 1


def _nullable(matrix: np.ndarray) -> list[list[float | None]]:
    return [[None if np.isnan(value) else float(value) for value in row] for row in matrix]
