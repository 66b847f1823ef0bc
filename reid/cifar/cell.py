"""One network of the study in training. Everything a step touches lies on the device, and no step waits for the device.

On a CUDA device a step is a captured graph on a stream of its own, so that several cells train side by side in one process: a small
ResNet alone leaves the card idle. On a CPU the same step runs eagerly, and cells side by side are processes.
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

AHEAD = 256  # steps whose batches and rates are copied to the device at a time
_CHUNK = {"cpu": 250, "cuda": 5000}  # images per forward pass of an evaluation; a CPU's should stay in its caches
_SOME, _BATCH = (
    500,
    250,
)  # test images that are also seen with batch statistics, and how many make a batch on any device
SATURATED = 1e-4  # a sample whose annotated class has less probability than this


class Cell:
    """A network, its loss and its optimiser, and how far they have come.

    Args:
        model: images (B, 3, 32, 32) -> logits (B, K) through a classifier `fc`.
        loss: one of this project's losses.
        optimizer: model -> SGD over its parameters.
        data: on the runtime's device.
        rate: learning rate by step.
        batch_size: B.
        seed: of batches and crops.
        runtime: device and number format.
        compiled: fuse the step's small operations with torch.compile, which needs a C++ compiler on a CPU and takes half a minute.
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
        self.place = torch.zeros(1, dtype=torch.int64, device=device)  # of the next step within what is planned
        self.loss_sum, self.lr = torch.zeros((), device=device), torch.zeros((), device=device)
        self._planned = range(0)
        self.optimizer = optimizer(self.model)
        # Of a step only: evaluations come in other sizes, and would be compiled anew.
        self.forward = torch.compile(self.model) if compiled else self.model
        for group in self.optimizer.param_groups:
            group["lr"] = self.lr  # a tensor, which a captured graph can change
        self.stream: torch.cuda.Stream | None = None
        self.replay: Callable[[], None] = self._step

    def state(self) -> dict[str, Any]:
        """Everything that `restore` needs to go on as if nothing had happened."""
        if self.stream:  # steps may still be on their way there
            self.stream.synchronize()
        momentum = {name: self._momentum(parameter) for name, parameter in self.model.named_parameters()}
        state = {"model": self.model.state_dict(), "loss": self.loss.state_dict(), "momentum": momentum}
        return {"steps": self.steps, "loss_sum": self.loss_sum.clone(), **state}

    def restore(self, state: dict[str, Any], source: str) -> None:
        """Puts a state back, in place.

        Raises:
            CheckpointError: it belongs to another network; `source` is named.
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
        """Makes sure that the next step is planned; returns how many are."""
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
        # Each weight is cast once per step, so autocast's cache would gain nothing, and a graph must not read one made outside.
        with torch.autocast(self.lr.device.type, self.runtime.dtype, self.runtime.dtype != torch.float32, False):
            logits = self.forward(images)
        loss = self.loss(logits, self.data.train.given[row_B], row_B).mean()
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self.optimizer.step()
        self.loss_sum += loss.detach()
        self.place += 1

    def capture(self) -> None:
        """Makes the step a CUDA graph on a stream of its own; the cell's state stays what it is."""
        self.plan_ahead()
        self.stream = torch.cuda.Stream()
        held = [*self.model.state_dict().values(), *self.loss.state_dict().values(), self.loss_sum, self.place]
        held += [self._momentum(parameter) for parameter in self.model.parameters()]
        before = [tensor.clone() for tensor in held]
        self.stream.wait_stream(torch.cuda.current_stream())
        with self.on_stream():
            for _ in range(3):  # libraries choose their algorithms and make their workspaces before the capture
                self._step()
        graph = torch.cuda.CUDAGraph()
        self.optimizer.zero_grad(set_to_none=True)  # gradients then live in the graph's own memory
        with torch.cuda.graph(graph, stream=self.stream):
            self._step()
        with self.on_stream():
            for tensor, value in zip(held, before, strict=True):
                tensor.copy_(value)
        self.stream.synchronize()  # what was put back is used on other streams too
        self.replay = graph.replay

    @contextlib.contextmanager
    def on_stream(self) -> Iterator[None]:
        """The cell's own CUDA stream, where it has one."""
        with torch.cuda.stream(self.stream) if self.stream else contextlib.nullcontext():
            yield

    @torch.no_grad()
    def evaluate(self) -> dict[str, float]:
        """Accuracies on every set, and what tells a network that runs away: logits, head, saturated samples, batch statistics."""
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
            values = torch.stack([value.float() for value in figures.values()]).tolist()  # the one wait for the device
            self.loss_sum.zero_()
            self.model.train()
        return dict(zip(figures, values, strict=True))

    def _logits(self, part: Labelled, chunk: int) -> Tensor:
        chunks = centres(part.images).split(chunk)
        with self.runtime.autocast():
            logits = [self.model(normalised(images, self.data)) for images in chunks]
        return torch.cat(logits).float()

    def _with_batch_statistics(self, part: Labelled) -> Tensor:
        """Accuracy where batch normalisation uses the statistics of the batch, as in training, and leaves its running ones alone."""
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
    """Trains cells side by side by some steps; on a CUDA device it may return before they are done."""
    while steps:
        count = min([steps, *(cell.plan_ahead() for cell in cells)])
        for _ in range(count):
            for cell in cells:
                with cell.on_stream():
                    cell.replay()
        for cell in cells:
            cell.steps += count
        steps -= count
