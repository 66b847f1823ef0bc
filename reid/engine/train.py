"""The training loop. The images of batch t, their crops, and the learning rate of step t depend on (seed, t) alone.

Shapes: B images of this process's share of the batch, F frame names, K classes.
"""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import NamedTuple, TypeVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.profiler import record_function

from reid.augment import PLACES, Preprocess
from reid.datasets.loader import DamagedImages, FrameBatch, StepBatches, load_batches
from reid.datasets.sampling import Sampler
from reid.engine.ema import Averaged
from reid.engine.evidence import Evidence, fit_of
from reid.engine.nonfinite import Before, Nonfinite, NotFinite, norm_of_gradient
from reid.engine.objective import SumOfLosses
from reid.engine.optim import Schedule, set_lr
from reid.errors import DataError, counted
from reid.models.embedding import Classifier
from reid.runtime import Runtime, compiler_errors_in_one_line, seed_of, sum_over_processes
from reid.tracklets import Split

logger = logging.getLogger(__name__)

Item = TypeVar("Item")
SAID = 10  # skipped steps that are logged one by one


@dataclass(frozen=True)
class TrainingSet:
    """Frames with labels.

    Args:
        split: the tracklets.
        label_F: (F,) int64 class of each frame, -1 for a frame that belongs to no tracklet of the split.
        true_F: (F,) int64 true class of each frame, -2 if the image shows no person of the classes; None if the truth is unknown.
        pids: (K,) int64 sorted person ids of the classes.
        weight_F: (F,) float32 >= 0, factor of each frame's loss; None: all frames count equally.
    """

    split: Split
    label_F: Tensor
    true_F: Tensor | None
    pids: np.ndarray
    weight_F: Tensor | None = None

    @property
    def intact_F(self) -> Tensor | None:
        """(F,) bool, whether the label is the true class; None if the truth is unknown."""
        return None if self.true_F is None else self.true_F == self.label_F

    def to(self, device: torch.device) -> TrainingSet:
        """A copy whose labels are on a device, where a step can index them without waiting."""
        true_F = None if self.true_F is None else self.true_F.to(device)
        weight_F = None if self.weight_F is None else self.weight_F.to(device)
        return replace(self, label_F=self.label_F.to(device), true_F=true_F, weight_F=weight_F)


@dataclass(frozen=True)
class Job:
    """Everything that one training run consists of; `step` counts from 0.

    Args:
        loss: a loss of the logits, as in `reid.losses`, or a sum of several (`reid.engine.objective`).
        accumulate: number of parts in which each process computes its share of a batch, one after another; their gradients are summed
            before the step.
        freeze: number of first steps in which the backbone is not updated and is in evaluation mode. Its forward and backward passes run
            all the same.
        damaged: policy for damaged images. An image left out adds nothing to the loss, whose mean is still taken over `batch_size`.
        nonfinite: policy for steps whose loss or gradient is not finite.
        scaler: loss scaler for float16.
        ema: moving average of the weights, updated at every step.
        compile: compile the model with torch.compile.
        evidence: statistics of every sample, updated at every step.
    """

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
    accumulate: int = 1
    freeze: int = 0
    damaged: DamagedImages = field(default_factory=DamagedImages)
    nonfinite: Nonfinite = field(default_factory=Nonfinite)
    scaler: torch.amp.GradScaler | None = None
    ema: Averaged | None = None
    compile: bool = False
    evidence: Evidence | None = None


@dataclass
class LogWindow:
    """Sums since the last log line, kept on the device so that no step waits for it."""

    loss: Tensor
    # The (2,) sums are over corrupted and over intact labels; all labels count as intact if the truth is unknown.
    weight: Tensor  # (2,) weights of samples, the L1 norms of dL/dlogits
    weight2: Tensor  # squared weights
    hits: Tensor  # (2,) predictions equal to the label
    true: Tensor  # predictions equal to the true class
    seen: Tensor  # (2,) samples
    terms: Tensor  # (n,) each term of a sum of losses; (0,) for a single loss
    data_seconds: float = 0.0
    seconds: float = 0.0

    @classmethod
    def empty(cls, device: torch.device, terms: int = 0) -> LogWindow:
        loss, weight, weight2, hits, true, seen, by_term = (
            torch.zeros(size, device=device) for size in ((), 2, (), 2, (), 2, terms)
        )
        return cls(loss, weight, weight2, hits, true, seen, by_term)

    @classmethod
    def of(cls, job: Job, device: torch.device) -> LogWindow:
        """An empty window for the losses of a job."""
        return cls.empty(device, len(job.loss.names) if isinstance(job.loss, SumOfLosses) else 0)

    def clear(self) -> None:
        """Resets the sums in place, so that all references to this window see it."""
        vars(self).update(vars(LogWindow.empty(self.loss.device, len(self.terms))))


def fit(
    job: Job,
    runtime: Runtime,
    *,
    first_step: int = 0,
    window: LogWindow | None = None,
    after_step: Callable[[int], None] = lambda step: None,
    on_log: Callable[[dict[str, float]], None] = lambda row: None,
) -> None:
    """Trains from `first_step` to `job.iterations`.

    Args:
        job: the training run; its model, loss and optimizer change in place.
        runtime: this process.
        first_step: number of steps already done: 0, or that of the restored checkpoint.
        window: sums since the last log line, for `after_step` to save; not empty if the checkpoint was saved between two log lines.
        after_step: called with the number of finished steps; it may save, evaluate, or raise to stop.
        on_log: called after the very first step, every `job.log_freq` steps and at the end with a row of metrics, in every process; not if
            every step since the last row was skipped.

    Raises:
        DataError: a frame is missing or damaged.
        NotFinite: the loss or the gradient is no longer finite.
    """
    runtime.keep_memory()
    job = replace(job, data=job.data.to(runtime.device))
    model = _wrapped(job, runtime).train()
    job.loss.train()
    batches = StepBatches(job.sampler, first_step, job.iterations, runtime.rank, runtime.world_size)
    window, clock = window or LogWindow.of(job, runtime.device), time.perf_counter()
    pinned = runtime.device.type == "cuda"
    stream = load_batches(job.data.split, batches, workers=job.workers, pin_memory=pinned, damaged=job.damaged)
    for step, batch in enumerate(_in_scope("data", stream), start=first_step):
        window.data_seconds += time.perf_counter() - clock
        if step < job.freeze:
            job.model.embedding.backbone.eval()
        with compiler_errors_in_one_line():
            _step(job, model, runtime, step, batch, window)
        done = step + 1
        logs = done % job.log_freq == 0 or done == job.iterations or step == 0
        if logs:
            runtime.wait()  # so that the measured time includes the device's work
        now = time.perf_counter()
        window.seconds, clock = window.seconds + now - clock, now
        if logs:
            job.nonfinite.check(job.data.split)
            row = _row(job, runtime, done, window)
            if row is not None:
                on_log(row)
                window.clear()
        after_step(done)
        model.train()
        clock = time.perf_counter()


def _wrapped(job: Job, runtime: Runtime) -> nn.Module:
    """The model for the steps, compiled and distributed as configured; its weights, and their names, stay those of `job.model`."""
    model: nn.Module = torch.compile(job.model) if job.compile else job.model  # type: ignore[assignment]
    if runtime.world_size == 1:
        return model
    return DistributedDataParallel(model, device_ids=[runtime.device] if runtime.device.type == "cuda" else None)


def _in_scope(name: str, stream: Iterator[Item]) -> Iterator[Item]:
    """The items of the stream; the time spent waiting for them appears under `name` in the profiler."""
    while True:
        with record_function(name):
            item = next(stream, None)
        if item is None:
            return
        yield item


class _Part(NamedTuple):
    """Some images of a step, with labels and frame indices, on the device."""

    images: Tensor
    target: Tensor
    frames: Tensor


class _Outcome(NamedTuple):
    """Results of a part that the metrics need."""

    frames: Tensor
    loss_B: Tensor
    weight_B: Tensor
    predicted_B: Tensor
    p_B: Tensor
    margin_B: Tensor
    terms_Bn: Tensor


def _step(job: Job, model: nn.Module, runtime: Runtime, step: int, batch: FrameBatch, window: LogWindow) -> None:
    set_lr(job.optimizer, job.lr * job.schedule(step))
    runtime.seed(seed_of(job.seed, "step", step, runtime.rank))  # for dropout and the like: the same after a resume
    with record_function("transfer"):
        parts = _parts(job, runtime, step, batch)
    frames = torch.cat([part.frames for part in parts])
    before = Before(job.model, job.loss, frames) if job.nonfinite.skips else None
    job.optimizer.zero_grad(set_to_none=True)
    # Makes the gradient that of the mean over the whole batch: DDP averages over processes, whose shares may differ by one image.
    scale, outcomes = runtime.world_size / job.batch_size, []
    for part in parts:
        waits = part is not parts[-1] and isinstance(model, DistributedDataParallel)
        with model.no_sync() if waits else contextlib.nullcontext():  # type: ignore[operator]  # one all-reduce per step
            outcomes.append(_forward_backward(job, model, runtime, part, scale))
    if step < job.freeze:  # optimisers skip weights without a gradient, weight decay included
        job.model.embedding.backbone.zero_grad(set_to_none=True)
    outcome = _Outcome(*map(torch.cat, zip(*outcomes, strict=True)))
    with record_function("check"):
        norm = norm_of_gradient(job.model.parameters()) if job.scaler is None else None
        if before is None:
            share = -(-job.batch_size // runtime.world_size)
            job.nonfinite.watch(step, share, frames, outcome.loss_B, norm)
        elif job.nonfinite.refuses(step, frames, outcome.loss_B, norm):
            before.restore()
            _say_skipped(job, step)
            return
    with record_function("optimizer"):
        _update(job, step, norm)
    with record_function("metrics"):
        _count(job, step, window, outcome)


def _say_skipped(job: Job, step: int) -> None:
    if job.nonfinite.skipped <= SAID:
        more = "; further ones are only counted" if job.nonfinite.skipped == SAID else ""
        logger.warning("step %d skipped: %s%s", step + 1, job.nonfinite.in_words(job.data.split), more)


def _parts(job: Job, runtime: Runtime, step: int, batch: FrameBatch) -> list[_Part]:
    """This process's share of the batch on the device, in parts.

    Random draws are indexed by the place in the batch, so images left out do not change the draws of the others.
    """
    if len(batch.frames) < job.accumulate:
        left = f"{counted(len(batch.frames), 'image')} of this process's share left for the {job.accumulate} parts"
        raise DataError(f"train.accumulate: step {step}: {left}; restore the damaged images")
    draws_BR = runtime.exact(crop_draws(job, step)[runtime.rank :: runtime.world_size][batch.places])
    images = job.preprocess(batch.images, runtime.device, runtime.send(draws_BR))
    frames = runtime.send(batch.frames)
    share = _Part(images, job.data.label_F[frames], frames)
    return [_Part(*part) for part in zip(*(whole.tensor_split(job.accumulate) for whole in share), strict=True)]


@contextlib.contextmanager
def _enough_to_normalise(job: Job) -> Iterator[None]:
    """Raises a DataError if images left out reduce a part of the batch to one image, too few for batch normalisation."""
    try:
        yield
    except (ValueError, RuntimeError) as error:  # RuntimeError if the model is compiled
        if "Expected more than 1 value per channel" not in str(error):
            raise
        left = "1 image is left of a process's part of a batch, and batch normalisation needs 2"
        raise DataError(f"{left}; restore those left out (first: {next(iter(job.damaged.files), None)})") from None


def crop_draws(job: Job, step: int) -> Tensor:
    """(whole batch, R) float64 uniform numbers for `Preprocess`, for all processes together; colours and erasing have their own seed."""
    sizes = {"augment": PLACES, "colour": job.preprocess.extra_draws}
    draws = [
        np.random.default_rng(seed_of(job.seed, use, step)).random((job.batch_size, n)) for use, n in sizes.items()
    ]
    return torch.from_numpy(np.concatenate(draws, axis=1))


def _forward_backward(job: Job, model: nn.Module, runtime: Runtime, part: _Part, scale: float) -> _Outcome:
    """Runs the forward and backward pass of a part, and adds its gradients to those of the weights.

    dL/dlogits is computed separately: its L1 norm is logged, and the loss scale of float16 is applied to it.
    """
    with record_function("forward"):
        targets = (part.target,) if job.model.takes_targets else ()
        with runtime.autocast(), _enough_to_normalise(job):
            outputs = model(part.images, *targets)
        outputs = (
            outputs if isinstance(outputs, tuple) else (outputs,)
        )  # the logits, and with metric losses the features too
        # Detached leaves: the gradient of the features must be that of the metric losses alone, without the path through the logits.
        inputs = [output.detach().requires_grad_() for output in outputs]
        loss_B, terms_Bn = _loss(job, part, inputs)
    with record_function("backward"):
        gradients = torch.autograd.grad(loss_B.sum() * scale, inputs)
        scaled = gradients if job.scaler is None else [job.scaler.scale(gradient) for gradient in gradients]
        torch.autograd.backward(outputs, scaled)
    logits_BK, weight_B = inputs[0].detach(), gradients[0].abs().sum(1) / scale
    return _Outcome(
        part.frames, loss_B.detach(), weight_B, logits_BK.argmax(1), *fit_of(logits_BK, part.target), terms_Bn
    )


def _loss(job: Job, part: _Part, inputs: list[Tensor]) -> tuple[Tensor, Tensor]:
    """(B,) loss of each sample, and its terms: (B, n) for a sum of losses, (B, 0) for a single loss. Both include the sample's weight."""
    if isinstance(job.loss, SumOfLosses):
        loss_B, terms_Bn = job.loss(inputs[0], part.target, part.frames, *inputs[1:])
    else:
        loss_B = job.loss(inputs[0], part.target, part.frames)
        terms_Bn = loss_B.new_empty(len(loss_B), 0)
    if job.data.weight_F is None:
        return loss_B, terms_Bn
    weight_B = job.data.weight_F[part.frames]
    return loss_B * weight_B, terms_Bn * weight_B[:, None]


def _update(job: Job, step: int, norm: Tensor | None) -> None:
    if job.clip_grad is not None:
        if job.scaler is not None:
            job.scaler.unscale_(job.optimizer)
        norm = norm_of_gradient(job.model.parameters()) if norm is None else norm
        nn.utils.clip_grads_with_norm_(job.model.parameters(), job.clip_grad, norm)
    if job.scaler is None:
        job.optimizer.step()
    else:
        job.scaler.step(job.optimizer)
        job.scaler.update()
    if job.ema is not None:
        job.ema.update(job.model, step)


def _count(job: Job, step: int, window: LogWindow, outcome: _Outcome) -> None:
    window.loss += outcome.loss_B.sum()
    window.weight2 += outcome.weight_B.square().sum()
    if isinstance(job.loss, SumOfLosses):
        window.terms += outcome.terms_Bn.sum(0)
    label_B, true_F = job.data.label_F[outcome.frames], job.data.true_F
    true_B = label_B if true_F is None else true_F[outcome.frames]
    hit_B, kind_B = (outcome.predicted_B == label_B).float(), (true_B == label_B).long()
    window.true += (outcome.predicted_B == true_B).sum()
    window.weight.index_add_(0, kind_B, outcome.weight_B.to(window.weight.dtype))
    window.hits.index_add_(0, kind_B, hit_B)
    window.seen.index_add_(0, kind_B, torch.ones_like(hit_B))
    if job.evidence is not None:
        job.evidence.add(step, outcome.frames, outcome.p_B, outcome.margin_B, outcome.weight_B)


def _row(job: Job, runtime: Runtime, done: int, window: LogWindow) -> dict[str, float] | None:
    """The metrics of the steps in the window; None if all of them were skipped."""
    sums = (window.loss, window.weight, window.weight2, window.hits, window.true, window.seen, window.terms)
    parts = [value.view(-1) for value in sums]
    loss, weight_c, weight_i, weight2, hits_c, hits_i, true, seen_c, seen_i, *terms = sum_over_processes(
        torch.cat(parts)
    ).tolist()
    seen, weight = seen_c + seen_i, weight_c + weight_i
    if not seen:
        return None
    if not np.isfinite(loss):
        raise NotFinite(f"training diverged: loss {loss} by step {done}")
    row = {
        "step": done,
        "loss": loss / seen,
        "accuracy": (hits_c + hits_i) / seen,
        "grad_l1": weight / seen,
        "effective_samples": weight**2 / (seen * weight2) if weight2 else 0.0,
        "lr": job.lr * job.schedule(done - 1),
        "images_per_second": seen / window.seconds,
        "seconds": window.seconds,
        "data_seconds": window.data_seconds,
    }
    if isinstance(job.loss, SumOfLosses):
        row |= {f"loss_{name}": term / seen for name, term in zip(job.loss.names, terms, strict=True)}
    if job.nonfinite.skipped:
        row["skipped_steps"] = job.nonfinite.skipped
    if job.data.true_F is not None:
        row |= {"accuracy_true": true / seen}
        row |= {"accuracy_intact": hits_i / seen_i} if seen_i else {}
        row |= {"accuracy_corrupted": hits_c / seen_c} if seen_c else {}
        row |= {"weight_corrupted": weight_c / weight} if weight else {}
    if runtime.device.type == "cuda":
        row["memory_mb"] = torch.cuda.max_memory_allocated() / 2**20
    return row
