"""The training loop. What batch t holds, how it is cropped, and the rate of step t depend on (seed, t) alone.

Shapes: B images of this process's share of the batch, F frame names, K classes.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from reid.augment import Preprocess
from reid.datasets.loader import FrameBatch, StepBatches, load_batches
from reid.datasets.sampling import Sampler
from reid.engine.optim import Schedule, set_lr
from reid.errors import ReidError
from reid.models.embedding import Classifier
from reid.runtime import Runtime, seed_of, sum_over_processes
from reid.tracklets import Split

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class TrainingSet:
    """Frames with labels.

    Args:
        split: the tracklets.
        label_F: (F,) int64 class of each frame, -1 where a frame belongs to no tracklet of the split.
        intact_F: (F,) bool, whether that label is the true one; None when the truth is unknown.
        pids: (K,) int64 sorted person ids of the classes.
    """

    split: Split
    label_F: Tensor
    intact_F: Tensor | None
    pids: np.ndarray


@dataclass(frozen=True)
class Job:
    """Everything that one training run is made of; `step` counts from 0."""

    model: Classifier
    loss: nn.Module
    optimizer: torch.optim.Optimizer
    schedule: Schedule
    data: TrainingSet
    sampler: Sampler
    preprocess: Preprocess
    seed: int
    iterations: int
    batch_size: int
    lr: float
    clip_grad: float | None = None
    workers: int = 0
    log_freq: int = 50


@dataclass
class Window:
    """Sums since the last log line, kept on the device so that no step waits for it."""

    loss: Tensor
    grad_l1: Tensor
    hits: Tensor  # (2,) correct predictions on corrupted and on intact labels; all count as intact where the truth is unknown
    seen: Tensor  # (2,) samples of either kind
    data_seconds: float = 0.0
    seconds: float = 0.0

    @classmethod
    def empty(cls, device: torch.device) -> Window:
        loss, grad_l1, hits, seen = (torch.zeros(size, device=device) for size in ((), (), 2, 2))
        return cls(loss, grad_l1, hits, seen)


def fit(
    job: Job,
    runtime: Runtime,
    *,
    first_step: int = 0,
    after_step: Callable[[int], None] = lambda step: None,
    on_log: Callable[[dict[str, float]], None] = lambda row: None,
) -> None:
    """Trains from `first_step` to `job.iterations`.

    Args:
        job: what to train; its model, loss and optimizer change in place.
        runtime: this process.
        first_step: 0, or the number of steps that the restored state has behind it.
        after_step: called with the number of finished steps; it may save, evaluate, or raise to stop.
        on_log: called every `job.log_freq` steps and at the end with a row of metrics, in every process.

    Raises:
        DataError: a frame is missing or damaged.
        ReidError: the loss is no longer finite.
    """
    model = _distributed(job.model, runtime).train()
    job.loss.train()
    batches = StepBatches(job.sampler, first_step, job.iterations, runtime.rank, runtime.world_size)
    window, clock = Window.empty(runtime.device), time.perf_counter()
    stream = load_batches(job.data.split, batches, workers=job.workers, pin_memory=runtime.device.type == "cuda")
    for step, batch in enumerate(stream, start=first_step):
        window.data_seconds += time.perf_counter() - clock
        _step(job, model, runtime, step, batch, window)
        done = step + 1
        now = time.perf_counter()
        window.seconds, clock = window.seconds + now - clock, now
        if done % job.log_freq == 0 or done == job.iterations or step == 0:
            on_log(_row(job, runtime, done, window))
            window = Window.empty(runtime.device)
        after_step(done)
        model.train()
        clock = time.perf_counter()


def _distributed(model: nn.Module, runtime: Runtime) -> nn.Module:
    if runtime.world_size == 1:
        return model
    return DistributedDataParallel(model, device_ids=[runtime.device] if runtime.device.type == "cuda" else None)


def _step(job: Job, model: nn.Module, runtime: Runtime, step: int, batch: FrameBatch, window: Window) -> None:
    set_lr(job.optimizer, job.lr * job.schedule(step))
    torch.manual_seed(seed_of(job.seed, "step", step, runtime.rank))  # dropout and the like, the same after a resume
    images = job.preprocess(batch.images, runtime.device, crop_draws(job, step)[runtime.rank :: runtime.world_size])
    target = job.data.label_F[batch.frames].to(runtime.device, non_blocking=True)
    with runtime.autocast():
        logits = model(images)
    logits.retain_grad()
    loss_B = job.loss(logits, target, batch.frames.to(runtime.device, non_blocking=True))
    job.optimizer.zero_grad(set_to_none=True)
    # The mean over the whole batch: DDP divides by the number of processes, whose shares may differ by one image.
    scale = runtime.world_size / job.batch_size
    (loss_B.sum() * scale).backward()
    if job.clip_grad is not None:
        nn.utils.clip_grad_norm_(job.model.parameters(), job.clip_grad)
    job.optimizer.step()
    _count(job, window, batch, logits, target, loss_B, scale)


def crop_draws(job: Job, step: int) -> Tensor:
    """(whole batch, 3) uniform numbers that place and flip the crops of a step, for all processes together."""
    return torch.from_numpy(np.random.default_rng(seed_of(job.seed, "augment", step)).random((job.batch_size, 3)))


@torch.no_grad()
def _count(
    job: Job, window: Window, batch: FrameBatch, logits: Tensor, target: Tensor, loss_B: Tensor, scale: float
) -> None:
    assert logits.grad is not None
    window.loss += loss_B.sum()
    window.grad_l1 += logits.grad.abs().sum() / scale
    right_B = (logits.argmax(1) == target).float()
    intact = job.data.intact_F
    kind_B = torch.ones_like(target) if intact is None else intact[batch.frames].long().to(target.device)
    window.hits.index_add_(0, kind_B, right_B)
    window.seen.index_add_(0, kind_B, torch.ones_like(right_B))


def _row(job: Job, runtime: Runtime, done: int, window: Window) -> dict[str, float]:
    sums = torch.cat([window.loss[None], window.grad_l1[None], window.hits, window.seen])
    loss, grad_l1, hits_c, hits_i, seen_c, seen_i = sum_over_processes(sums).tolist()
    seen = seen_c + seen_i
    if not np.isfinite(loss):
        raise ReidError(
            f"training diverged: loss {loss} by step {done}; lower train.lr or set train.clip_grad, then start anew"
        )
    row = {
        "step": done,
        "loss": loss / seen,
        "accuracy": (hits_c + hits_i) / seen,
        "grad_l1": grad_l1 / seen,
        "lr": job.lr * job.schedule(done - 1),
        "images_per_second": seen / window.seconds,
        "seconds": window.seconds,
        "data_seconds": window.data_seconds,
    }
    if job.data.intact_F is not None:
        row |= {"accuracy_intact": hits_i / seen_i} if seen_i else {}
        row |= {"accuracy_corrupted": hits_c / seen_c} if seen_c else {}
    if runtime.device.type == "cuda":
        row["memory_mb"] = torch.cuda.max_memory_allocated() / 2**20
    return row
