"""Training and evaluation of one network of the study. All tensors of a training step are on the device, and no step synchronises.

On a CUDA device a step is a captured graph on its own stream, so that several cells train side by side in one process: a small
ResNet alone does not keep a GPU busy. On a CPU the same step runs eagerly, and cells side by side are processes.
Shapes: N training images, B batch, K classes.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from reid.cifar.batches import CellData, Labelled, Plan, centres, crops, normalised, planned
from reid.engine.checkpoint import load_weights
from reid.engine.optim import Schedule
from reid.runtime import Runtime, compiler_errors_in_one_line

AHEAD = 256  # steps whose batches and learning rates are copied to the device at a time
_CHUNK = {"cpu": 250, "cuda": 5000}  # images per forward pass of an evaluation; on a CPU they should fit in its caches
_SOME, _BATCH = (
    500,
    250,
)  # test images that are also evaluated with batch statistics, and their batch size (the same on every device)
SATURATED = 1e-4  # a sample is saturated when the probability of its annotated class is below this


class Cell:
    """A network in training, with its loss, its optimiser and the number of steps done.

    Args:
        model: images (B, 3, 32, 32) -> logits (B, K) through a classifier `fc`.
        loss: one of this project's losses.
        optimizer: builds SGD over the model's parameters.
        data: on the runtime's device.
        rate: learning rate by step.
        batch_size: B.
        seed: of batches and crops.
        runtime: device and dtype.
        compiled: fuse the step's small operations with torch.compile, which takes half a minute and on a CPU needs a C++ compiler.
    """

    def __init__(
        self,
        model: nn.Module,
        loss: nn.Module,
        optimizer: Callable[[nn.Module], torch.optim.Optimizer],
        data: CellData,
        rate: Schedule,
        batch_size: int,
        seed: int,
        runtime: Runtime,
        compiled: bool = False,
    ) -> None:
        runtime.keep_memory()
        device = runtime.device
        self.model, self.loss, self.data, self.runtime = runtime.place(model), loss.to(device), data, runtime
        self.plan, self.rate, self.steps = Plan(len(data.train), batch_size, seed), rate, 0
        self.batches = torch.zeros((AHEAD, 4, batch_size), dtype=torch.int64, device=device)
        self.rates = torch.zeros(AHEAD, device=device)
        self.place = torch.zeros(1, dtype=torch.int64, device=device)  # index of the next step in `batches` and `rates`
        self.loss_sum, self.lr = torch.zeros((), device=device), torch.zeros((), device=device)
        self._planned = range(0)
        self.optimizer = optimizer(self.model)
        # Only training steps use the compiled model: evaluation batches have other sizes and would be compiled again.
        self.forward = torch.compile(self.model) if compiled else self.model
        for group in self.optimizer.param_groups:
            group["lr"] = self.lr  # a tensor, so that a captured graph can change it
        self.stream: torch.cuda.Stream | None = None
        self.replay: Callable[[], None] = self._step

    def state(self) -> dict[str, Any]:
        """Everything that `restore` needs to resume training exactly: steps, weights, loss state, momentum, sum of losses."""
        if self.stream:  # queued steps may still be running
            self.stream.synchronize()
        momentum = {name: self._momentum(parameter) for name, parameter in self.model.named_parameters()}
        state = {"model": self.model.state_dict(), "loss": self.loss.state_dict(), "momentum": momentum}
        return {"steps": self.steps, "loss_sum": self.loss_sum.clone(), **state}

    def restore(self, state: dict[str, Any], source: str) -> None:
        """Restores a state in place.

        Args:
            state: from `state`.
            source: file name for the error message.

        Raises:
            CheckpointError: the state belongs to another network or loss.
        """
        load_weights(self.model, state["model"], source)
        load_weights(self.loss, state["loss"], source)
        for name, parameter in self.model.named_parameters():
            self._momentum(parameter).copy_(state["momentum"][name])
        self.loss_sum.copy_(state["loss_sum"])
        self.steps, self._planned = state["steps"], range(0)

    def _momentum(self, parameter: nn.Parameter) -> Tensor:
        return self.optimizer.state[parameter]["momentum_buffer"]

    def plan_ahead(self) -> int:
        """Copies the batches and learning rates of the next steps to the device if none are left; returns how many steps are planned."""
        if self.steps not in self._planned:
            self._planned = range(self.steps, self.steps + AHEAD)
            rates = torch.tensor([self.rate(step) for step in self._planned])
            with self.on_stream():
                for buffer, ahead in ((self.batches, planned(self.plan, self.steps, AHEAD)), (self.rates, rates)):
                    buffer.copy_(ahead.pin_memory() if self.stream else ahead, non_blocking=True)
                self.place.zero_()
        return self._planned.stop - self.steps

    @compiler_errors_in_one_line()
    def _step(self) -> None:
        row_B, *draws = self.batches.index_select(0, self.place)[0].unbind(0)
        self.lr.copy_(self.rates.index_select(0, self.place)[0])
        images = normalised(crops(self.data.train.images, row_B, *draws), self.data)
        # No autocast cache: each weight is cast once per step anyway, and a graph must not read a cast made outside its capture.
        with torch.autocast(self.lr.device.type, self.runtime.dtype, self.runtime.dtype != torch.float32, False):
            logits = self.forward(images)
        loss = self.loss(logits, self.data.train.given[row_B], row_B).mean()
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self.optimizer.step()
        self.loss_sum += loss.detach()
        self.place += 1

    def capture(self) -> None:
        """Captures the step as a CUDA graph on its own stream; the state of the cell does not change."""
        self.plan_ahead()
        self.stream = torch.cuda.Stream()
        held = [*self.model.state_dict().values(), *self.loss.state_dict().values(), self.loss_sum, self.place]
        held += [self._momentum(parameter) for parameter in self.model.parameters()]
        before = [tensor.clone() for tensor in held]
        self.stream.wait_stream(torch.cuda.current_stream())
        with self.on_stream():
            for _ in range(3):  # warm-up: libraries choose algorithms and allocate workspaces before the capture
                self._step()
        graph = torch.cuda.CUDAGraph()
        self.optimizer.zero_grad(set_to_none=True)  # gradients then live in the graph's own memory
        with torch.cuda.graph(graph, stream=self.stream):
            self._step()
        with self.on_stream():
            for tensor, value in zip(held, before, strict=True):
                tensor.copy_(value)
        self.stream.synchronize()  # the restored tensors are also used on other streams
        self.replay = graph.replay

    @contextlib.contextmanager
    def on_stream(self) -> Iterator[None]:
        """Context in which the cell's own CUDA stream is current, if it has one."""
        with torch.cuda.stream(self.stream) if self.stream else contextlib.nullcontext():
            yield

    @torch.no_grad()
    def evaluate(self) -> dict[str, float]:
        """Accuracies on every set, and signs of divergence: largest logit, norm of the head, saturated samples, batch statistics."""
        with self.on_stream():
            self.model.eval()
            chunk, parts = _CHUNK[self.runtime.device.type], (self.data.train, self.data.test, self.data.held_out)
            train, test, held = (self._logits(part, chunk) for part in parts)
            p_N = train.softmax(1).gather(1, self.data.train.given[:, None]).squeeze(1)
            wrong_N, saturated_N = self.data.train.given != self.data.train.true, p_N < SATURATED
            some = Labelled(*(tensor[:_SOME] for tensor in vars(self.data.test).values()))
            figures = {
                "test": _accuracy(test, self.data.test.true),
                "train_corrupted": _accuracy(train, self.data.train.given),
                "train_intact": _accuracy(train, self.data.train.true),
                "loss": self.loss_sum,
                "max_logit": train.abs().max(),
                "head_norm": self.model.fc.weight.norm(),  # type: ignore[union-attr, operator]
                "saturated": saturated_N.float().mean(),
                "saturated_wrong": (saturated_N & wrong_N).sum() / saturated_N.sum().clamp(min=1),
                "batch_gap": self._with_batch_statistics(some) - _accuracy(test[:_SOME], some.true),
            }
            if len(held):
                figures["holdout_noisy"] = _accuracy(held, self.data.held_out.given)
                figures["holdout_clean"] = _accuracy(held, self.data.held_out.true)
            values = torch.stack([value.float() for value in figures.values()]).tolist()  # the only device sync
            self.loss_sum.zero_()
            self.model.train()
        return dict(zip(figures, values, strict=True))

    def _logits(self, part: Labelled, chunk: int) -> Tensor:
        chunks = centres(part.images).split(chunk)
        with self.runtime.autocast():
            logits = [self.model(normalised(images, self.data)) for images in chunks]
        return torch.cat(logits).float()

    def _with_batch_statistics(self, part: Labelled) -> Tensor:
        """Accuracy with batch normalisation by the statistics of the batch, as in training; running statistics are not updated."""
        norms = [module for module in self.model.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
        for norm in norms:
            norm.train().track_running_stats = False
        accuracy = _accuracy(self._logits(part, _BATCH), part.true)
        for norm in norms:
            norm.eval().track_running_stats = True
        return accuracy


def _accuracy(logits: Tensor, target: Tensor) -> Tensor:
    return (logits.argmax(1) == target).float().mean()


def advance(cells: Sequence[Cell], steps: int) -> None:
    """Trains cells side by side for `steps` steps; on a CUDA device the call may return before they are done."""
    while steps:
        count = min([steps, *(cell.plan_ahead() for cell in cells)])
        for _ in range(count):
            for cell in cells:
                with cell.on_stream():
                    cell.replay()
        for cell in cells:
            cell.steps += count
        steps -= count
