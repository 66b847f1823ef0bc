"""What training does when the loss or the gradient of a step is not finite: stop, with the batch kept to be studied, or skip the step.

Shapes: B images of this process's share of a batch, n = the largest B, R kept images.
"""

from __future__ import annotations

import csv
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from reid.errors import ConfigError, ReidError, counted
from reid.files import atomic
from reid.runtime import gather_rows, sum_over_processes
from reid.tracklets import Split

IN_A_ROW = 20  # if every second batch had a bad image, one run of 20 skipped steps in a million steps; if the weights are at fault, all are
KEPT = 20  # skipped batches that are listed
COLUMNS = ("step", "path", "pid", "loss")


class NotFinite(ReidError):
    """The loss or the gradient of a step is not finite."""


class Nonfinite:
    """The policy for such steps, and a record of those met. With several processes, all of them decide alike.

    With float16, the loss scaler already skips steps whose scaled gradient overflows; only the loss is looked at then.

    Args:
        policy: `stop` looks at every step, but on the device: training stops at the next log line or checkpoint, so no step waits for the
            device. `skip` waits for the device at every step, and leaves the step out: weights, running statistics, the state of optimiser,
            loss and average, evidence and metrics stay as they were.

    Attributes:
        skipped: steps skipped.
        in_a_row: how many of them are the last ones.
        rows: (R, 3) float64 step (from 1), frame and loss of the images in the first batches met, at most `KEPT`.

    Raises:
        ConfigError: another policy.
    """

    def __init__(self, policy: str = "stop") -> None:
        if policy not in ("stop", "skip"):
            raise ConfigError(f"train.nonfinite: expected stop or skip, got {policy!r}")
        self.skips = policy == "skip"
        self.skipped, self.in_a_row = 0, 0
        self.rows = torch.zeros(0, 3, dtype=torch.float64)
        self._met = 0  # the last step met, from 1
        self._first: tuple[Tensor, Tensor, Tensor] | None = None  # step from 0, frames (n,), loss (n,); -1 for none

    def watch(self, step: int, n: int, frames: Tensor, loss_B: Tensor, gradient: Tensor | None) -> None:
        """Keeps the first step that is not finite, on the device.

        Args:
            step: from 0.
            n: images of the largest share of a batch.
            frames: (B,) int64.
            loss_B: (B,) loss of each image.
            gradient: () norm of the gradient; None if the loss scaler looks after it.
        """
        if self._first is None:
            nothing = torch.full((n,), -1, device=frames.device)
            self._first = torch.full_like(nothing[0], -1), nothing, torch.zeros_like(nothing, dtype=loss_B.dtype)
        new = (self._first[0] < 0) & ~_finite(loss_B, gradient)
        now = (
            torch.full_like(self._first[0], step),
            *(pad(values, (0, n - len(values)), value=-1) for values in (frames, loss_B)),
        )
        self._first = tuple(torch.where(new, here, before) for here, before in zip(now, self._first, strict=True))  # type: ignore[assignment]

    def check(self, split: Split) -> None:
        """Stops if a watched step was not finite; keeps its batch. Every process must call it.

        Args:
            split: the training set.

        Raises:
            NotFinite: the first such step, and how many of its losses are not finite.
        """
        if self._first is None:
            return
        step, frames, loss = self._first
        steps = gather_rows(step[None])
        found = steps[steps >= 0]
        if not len(found):
            return
        first = int(found.min())
        real = (frames >= 0) & (step == first)  # other processes may have met a later step
        self._keep(first, frames[real], loss[real])
        self._met = first + 1
        raise NotFinite(f"training diverged at step {first + 1}: {self.in_words(split)}")

    def refuses(self, step: int, frames: Tensor, loss_B: Tensor, gradient: Tensor | None) -> bool:
        """Whether to skip the step, which is then counted; arguments as in `watch`. Every process must call it.

        Raises:
            NotFinite: too many steps in a row.
        """
        bad = sum_over_processes((~_finite(loss_B, gradient)).float())
        if not bad.item():
            self.in_a_row = 0
            return False
        self.skipped, self.in_a_row = self.skipped + 1, self.in_a_row + 1
        if self.skipped <= KEPT:
            self._keep(step, frames, loss_B)
        self._met = step + 1
        if self.in_a_row >= IN_A_ROW:
            raise NotFinite(
                f"training diverged: {IN_A_ROW} steps in a row, up to step {step + 1}, have a loss or gradient that is not finite, so it "
                "would not recover"
            )
        return True

    def state(self) -> dict[str, Any]:
        """What a checkpoint keeps of it."""
        return {"skipped": self.skipped, "in_a_row": self.in_a_row, "rows": self.rows}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Takes over what `state` gave."""
        self.skipped, self.in_a_row, self.rows = state["skipped"], state["in_a_row"], state["rows"]

    @property
    def some_are_finite(self) -> bool:
        """Whether the last batch met has finite losses too; if it has none, the weights are at fault."""
        return bool(self._last[:, 2].isfinite().any())

    @property
    def _last(self) -> Tensor:
        return self.rows[self.rows[:, 0] == self._met]

    def in_words(self, split: Split) -> str:
        """Says of the last batch met how many of its losses are not finite, and names one of their images."""
        batch = self._last
        if not len(batch):
            return "the loss or the gradient is not finite"
        bad = batch[~batch[:, 2].isfinite()]
        if not len(bad):
            return f"the gradient is not finite, though the losses of its {counted(len(batch), 'image')} are"
        return f"the loss of {len(bad)} of {counted(len(batch), 'image')} is not finite (first: {split.path(int(bad[0, 1]))})"

    def _keep(self, step: int, frames: Tensor, loss_B: Tensor) -> None:
        columns = torch.full_like(loss_B, step + 1, dtype=torch.float64), frames.double(), loss_B.double()
        self.rows = torch.cat([self.rows, gather_rows(torch.stack(columns, dim=1)).cpu()])


def norm_of_gradient(parameters: Iterable[nn.Parameter]) -> Tensor:
    """() L2 norm of all gradients, as clipping computes it; not finite if a gradient is not, or if its square exceeds its type.

    The largest absolute value would have no such limit, but takes 25 times as long on a CPU.
    """
    return nn.utils.get_total_norm([one.grad for one in parameters if one.grad is not None])


def _finite(loss_B: Tensor, gradient: Tensor | None) -> Tensor:
    finite = loss_B.isfinite().all()
    return finite if gradient is None else finite & gradient.isfinite()


class Before:
    """The state that a forward pass changes, as it was: running statistics of the model, and what the loss remembers.

    Args:
        model: its buffers are copied.
        loss: its buffers are copied too; of those named by the attribute `of_samples` of a loss only the rows of `frames`.
        frames: (B,) int64, the samples of this process; a loss remembers those of all processes.
    """

    def __init__(self, model: nn.Module, loss: nn.Module, frames: Tensor) -> None:
        self._modules = model, loss
        self._by_row = {
            f"{name}.{one}".lstrip(".")
            for name, part in loss.named_modules()
            for one in getattr(part, "of_samples", ())
        }
        self._frames = gather_rows(frames) if self._by_row else frames
        self._copies = [
            {
                name: value[self._frames] if self._row_wise(module, name) else value.clone()
                for name, value in module.named_buffers()
            }
            for module in self._modules
        ]

    def _row_wise(self, module: nn.Module, name: str) -> bool:
        return module is self._modules[1] and name in self._by_row

    @torch.no_grad()
    def restore(self) -> None:
        """Puts it back."""
        for module, copies in zip(self._modules, self._copies, strict=True):
            for name, value in module.named_buffers():
                if self._row_wise(module, name):
                    value[self._frames] = copies[name]
                else:
                    value.copy_(copies[name])


def write_batches(file: Path, rows: Tensor, split: Split, pid_F: np.ndarray) -> None:
    """Writes step, image, pid by its label, and loss of the images of the batches that were not finite; without any, removes the file.

    Args:
        file: of the run.
        rows: (R, 3) of `Nonfinite.rows`.
        split: the training set.
        pid_F: (F,) pid of each frame by its label.

    Raises:
        DataError: the file cannot be written.
    """
    if not len(rows):
        file.unlink(missing_ok=True)
        return
    with (
        atomic(file) as temporary,
        open(temporary, "w", newline="", encoding="utf-8", errors="surrogateescape") as stream,
    ):
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(COLUMNS)
        for step, frame, loss in rows.tolist():
            writer.writerow([int(step), split.path(int(frame)).as_posix(), int(pid_F[int(frame)]), f"{loss:.6g}"])
