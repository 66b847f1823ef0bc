"""Training statistics of every sample: how well its label was fitted over time, as evidence on whether the label is wrong.

Wrong labels are fitted late or never, and labels fitted early are not yet memorised. So training is divided into parts, and each
tracklet has separate sums for each part. All sums are of integers: they are the same for any order, any number of processes, and
after a resume.

Shapes: F frames of all tracklets, T tracklets, P parts of the training, B samples of a step, K classes.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from reid.errors import CheckpointError, DataError
from reid.files import atomic, check_zip
from reid.runtime import sum_over_processes
from reid.tracklets import Split

PARTS = 10  # equal parts of the training, by step
SCHEMA = 1
# Sums are in fixed point, in units of 2^-20: six digits of a probability; int64 holds a million logit margins of up to 4 million each.
_UNIT, _LIMIT = 2.0**20, 2.0**22
STATE = ("count_F", "sums_F", "count_TP", "sums_TP")  # entries of the evidence in a checkpoint
SUMS = ("p", "p2", "margin", "weight")


@torch.no_grad()
def fit_of(logits_BK: Tensor, target_B: Tensor) -> tuple[Tensor, Tensor]:
    """How well each sample's label is fitted: its softmax probability p and its logit margin, (B,) float32 each.

    Args:
        logits_BK: (B, K) float.
        target_B: (B,) int64 labels in [0, K).
    """
    logits_BK = logits_BK.float()
    own_B = logits_BK.gather(1, target_B[:, None])[:, 0]
    others_BK = logits_BK.scatter(1, target_B[:, None], -torch.inf)
    return torch.sigmoid(own_B - others_BK.logsumexp(1)), own_B - others_BK.amax(1)


class Evidence(nn.Module):
    """Sums over training of p, p^2, margin and weight for each frame, and of p, margin and weight for each tracklet and part.

    p is the softmax probability of the annotated class. The margin is the logit of that class minus the largest other logit; its mean over
    training is the area under the margin (Pleiss et al., "Identifying Mislabeled Data using the Area Under the Margin Ranking", NeurIPS
    2020). The weight is the L1 norm of the loss's gradient with respect to the logits. The sums take 36 bytes per frame and 280 per
    tracklet, in the device's memory and in the checkpoint. Only frames of tracklets have sums, in the order of the tracklets. Frame names
    that belong to no tracklet have none, because a dataset may have more of them when a run is resumed.

    Args:
        split: the training tracklets.
        iterations: steps of the whole training. If a resumed run has more steps, its new samples are assigned to the parts of the longer
            training, and the sums so far stay in the part where they were counted.
    """

    def __init__(self, split: Split, iterations: int) -> None:
        super().__init__()
        self.iterations = iterations
        place, row = np.zeros(len(split.names), np.int64), np.repeat(np.arange(len(split)), split.lengths)
        place[split.frames()] = np.arange(len(row))
        self.place: Tensor  # index of a frame name -> index in F
        self.row_F: Tensor
        self.count_F: Tensor
        self.sums_F: Tensor
        self.count_TP: Tensor
        self.sums_TP: Tensor
        self.register_buffer("place", torch.from_numpy(place), persistent=False)
        self.register_buffer("row_F", torch.from_numpy(row), persistent=False)
        self.register_buffer("count_F", torch.zeros(len(row), dtype=torch.int32))
        self.register_buffer("sums_F", torch.zeros(len(row), len(SUMS), dtype=torch.int64))
        self.register_buffer("count_TP", torch.zeros(len(split), PARTS, dtype=torch.int32))
        self.register_buffer("sums_TP", torch.zeros(len(split), PARTS, 3, dtype=torch.int64))

    @torch.no_grad()
    def add(self, step: int, frame_B: Tensor, p_B: Tensor, margin_B: Tensor, weight_B: Tensor) -> None:
        """Adds this process's samples of one step, without waiting for the device.

        Args:
            step: counted from 0.
            frame_B: (B,) int64 index of each sample's frame in the split's names.
            p_B, margin_B, weight_B: (B,) float values of each sample, see `Evidence`.
        """
        values = torch.stack([p_B, p_B.square(), margin_B, weight_B], 1)
        units = (values.clamp(-_LIMIT, _LIMIT) * _UNIT).round().long()
        one_B, place_B = torch.ones_like(frame_B, dtype=torch.int32), self.place[frame_B]
        self.count_F.index_add_(0, place_B, one_B)
        self.sums_F.index_add_(0, place_B, units)
        part_B = self.row_F[place_B] * PARTS + step * PARTS // self.iterations
        self.count_TP.view(-1).index_add_(0, part_B, one_B)
        self.sums_TP.view(-1, 3).index_add_(0, part_B, units[:, [0, 2, 3]])

    def of_all_processes(self) -> dict[str, Tensor]:
        """Sums over all processes, on the CPU: the state to save. All processes must call it."""
        return {name: sum_over_processes(value.clone()).cpu() for name, value in self.state_dict().items()}

    def restore(self, state: Mapping[str, Tensor], source: Path | str, *, is_main: bool) -> None:
        """Restores the state from `of_all_processes`: the main process continues from it, all others from zero (states are summed).

        Raises:
            CheckpointError: the state belongs to other tracklets: an entry is missing or has another shape.
        """
        for name, value in self.state_dict().items():
            if name not in state or state[name].shape != value.shape:
                found = tuple(state[name].shape) if name in state else "nothing"
                raise CheckpointError(
                    f"{source}: the evidence belongs to other tracklets: {name}: expected {tuple(value.shape)}, "
                    f"got {found}; use the same data"
                )
            value.copy_(state[name] if is_main else torch.zeros_like(value))


def means(state: Mapping[str, Tensor]) -> dict[str, np.ndarray]:
    """Computes means over training: float64, NaN for a sample that was never drawn.

    Args:
        state: the entries `STATE`, as in the checkpoint.

    Returns:
        `frame_count` (F,), `frame_p`, `frame_p_std`, `frame_margin`, `frame_weight` (F,), `tracklet_count` (T, P), `tracklet_p`,
        `tracklet_margin`, `tracklet_weight` (T, P). The counts are int32.
    """
    count_F, count_TP = state["count_F"].numpy(), state["count_TP"].numpy()
    with np.errstate(invalid="ignore", divide="ignore"):
        p, p2, margin, weight = (state["sums_F"].numpy() / _UNIT / count_F[:, None]).T
        of_parts = np.moveaxis(state["sums_TP"].numpy() / _UNIT / count_TP[..., None], 2, 0)
    return {
        "frame_count": count_F,
        "frame_p": p,
        "frame_p_std": np.sqrt(np.maximum(p2 - p**2, 0)),
        "frame_margin": margin,
        "frame_weight": weight,
        "tracklet_count": count_TP,
        **dict(zip(("tracklet_p", "tracklet_margin", "tracklet_weight"), of_parts, strict=True)),
    }


def write(path: Path, state: Mapping[str, Tensor], split: Split) -> None:
    """Writes `means` as an ``.npz`` file for other programs, with each tracklet's key, labels and number of frames (``num_frames``).

    Raises:
        DataError: the file cannot be written.
    """
    key = np.array([split.key(i) for i in range(len(split))], np.str_)
    columns: dict[str, Any] = {"schema": SCHEMA, "key": key, "pid": split.pid, "camid": split.camid}
    columns |= {"num_frames": split.lengths}
    columns |= {name: _small(value) for name, value in means(state).items()}
    with atomic(path) as temporary, open(temporary, "wb") as file:
        np.savez(file, **columns)


def late_confidence(path: Path, split: Split) -> np.ndarray | None:
    """Loads each tracklet's mean p over the second half of training from a file written by `write`.

    Returns:
        (T,) float, NaN for a tracklet that was never drawn; None if the file's tracklets are not those of the split.

    Raises:
        DataError: the file is damaged.
    """
    try:
        with path.open("rb") as file:
            check_zip(file)
            with np.load(file, allow_pickle=False) as seen:
                key = seen["key"].tolist()
                count, p = (seen[name][:, PARTS // 2 :] for name in ("tracklet_count", "tracklet_p"))
            total = count.sum(1)
            confidence = np.where(total > 0, np.nansum(p * count, axis=1) / np.maximum(total, 1), np.nan)
    except Exception as error:  # a damaged file can raise almost any exception
        reason = str(error).partition("\n")[0] or type(error).__name__
        raise DataError(
            f"{path}: damaged training evidence: {reason}; delete it (reports can be made without it)"
        ) from None
    if key != [split.key(row) for row in range(len(split))]:
        return None
    return confidence


def _small(values: np.ndarray) -> np.ndarray:
    return values.astype(np.float32) if values.dtype == np.float64 else values
