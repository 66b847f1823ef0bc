"""Execution environment: device, dtype, process group, seeds."""

from __future__ import annotations

import contextlib
import ctypes
import hashlib
import logging
import os
import platform
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

from reid import processes
from reid.errors import ConfigError, ReidError

logger = logging.getLogger(__name__)

_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4  # parameters of mallopt in malloc.h
_ENDED = "ended early"  # key in the store: number of processes ended by an exception
_LOST = re.compile("[Cc]onnection (closed|reset) by peer")  # gloo's error if another process died without a report
_GONE = "another process was killed or cannot be reached; start all processes again with --resume auto"

Module = TypeVar("Module", bound=nn.Module)


@dataclass(frozen=True)
class Runtime:
    """One process of a run. `dtype` is the autocast type; float32 disables autocast.

    With float32, torch's defaults apply: matrix products in full float32, convolutions on CUDA devices in TF32 (10 bits of mantissa),
    unless `torch.backends` is set otherwise.
    """

    device: torch.device
    dtype: torch.dtype
    rank: int = 0
    world_size: int = 1

    @property
    def is_main(self) -> bool:
        return self.rank == 0

    def place(self, module: Module) -> Module:
        """Moves a module to this process's device, in channels-last memory format, with which convolutions are faster on every device."""
        return module.to(self.device, memory_format=torch.channels_last)  # type: ignore[call-overload]

    def autocast(self) -> torch.autocast:
        return torch.autocast(self.device.type, self.dtype, enabled=self.dtype != torch.float32)

    def grad_scaler(self) -> torch.amp.GradScaler | None:
        """Loss scaler for float16, whose gradients would underflow; None for the other types, which have the exponent range of float32."""
        return torch.amp.GradScaler(self.device.type) if self.dtype == torch.float16 else None

    def seed(self, seed: int) -> None:
        """Seeds torch like `torch.manual_seed`, but without the stack trace that the latter records for every kind of device not in use."""
        torch.default_generator.manual_seed(seed)
        if self.device.type == "cuda":
            torch.cuda.manual_seed(seed)
        if self.device.type == "mps":
            torch.mps.manual_seed(seed)

    def keep_memory(self) -> None:
        """On a CPU, sets the C library (glibc only) to keep freed memory in this process.

        A training step frees gigabytes and allocates them again; if they were returned in between, the kernel would zero every page again.
        """
        mallopt = getattr(ctypes.pythonapi, "mallopt", None)
        if self.device.type == "cpu" and mallopt:
            mallopt(_M_MMAP_MAX, 0)
            mallopt(_M_TRIM_THRESHOLD, -1)

    def wait(self) -> None:
        """Waits until the device has finished all its work."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        if self.device.type == "mps":
            torch.mps.synchronize()

    def exact(self, draws: Tensor) -> Tensor:
        """Uniform numbers in [0, 1) as they are; on a device without float64 (mps) as float32, kept below 1."""
        return draws.float().clamp(max=1 - 2**-24) if self.device.type == "mps" else draws

    def send(self, tensor: Tensor) -> Tensor:
        """Copies a CPU tensor to this process's device without waiting.

        On CUDA the tensor is pinned first: a copy from pageable memory waits for all earlier work.
        """
        if self.device.type == "cuda":
            tensor = tensor.pin_memory()
        return tensor.to(self.device, non_blocking=True)


def _device(name: str, local_rank: int) -> torch.device:
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError:
        raise ConfigError(f"device: expected auto, cpu, cuda, cuda:N or mps, got {name!r}") from None
    if device.type == "cuda":
        if not torch.cuda.is_available():
            raise ConfigError(
                f"device: {name!r} requested, but torch {torch.__version__} sees no CUDA device; use device=cpu"
            )
        device = torch.device("cuda", local_rank if device.index is None else device.index)
        if device.index >= torch.cuda.device_count():
            raise ConfigError(f"device: cuda:{device.index} requested, but there are {torch.cuda.device_count()}")
    elif device.type == "mps":
        if not torch.backends.mps.is_available():
            raise ConfigError(
                f"device: 'mps' requested, but torch {torch.__version__} sees no Apple GPU; use device=cpu"
            )
        if processes.world_size() > 1:
            raise ConfigError("device: mps supports one process only; start without torchrun")
    elif device.type != "cpu":
        raise ConfigError(f"device: expected auto, cpu, cuda, cuda:N or mps, got {name!r}")
    return device


def _dtype(name: str, device: torch.device) -> torch.dtype:
    if name == "auto":
        fast_bf16 = device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
        return torch.bfloat16 if fast_bf16 else torch.float32
    if name == "float16" and device.type != "cuda":
        raise ConfigError(f"machine.dtype: float16 needs a CUDA device, got {device.type}; use bfloat16 or float32")
    return {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}[name]


@contextlib.contextmanager
def start(device: str = "auto", dtype: str = "float32") -> Iterator[Runtime]:
    """Chooses the device, joins the process group under torchrun, and leaves it at the end.

    Args:
        device: "auto" (CUDA if available, else the CPU), "cpu", "cuda", "cuda:N", or "mps", the GPU of an Apple processor.
        dtype: "float32", "bfloat16", "float16" (CUDA only), or "auto" (bfloat16 on CUDA devices that support it, else float32).

    Raises:
        ConfigError: the device does not exist, or does not support the dtype.
        ReidError: without problems, in a process that ends because another one has failed and reports the reason; or the connection to
            another process is lost.
    """
    world_size, rank = processes.world_size(), processes.rank()
    if world_size == 1:
        yield _placed(device, dtype)
        return
    store, *_ = next(dist.rendezvous("env://"))
    broken = False
    try:
        with _one_voice(store, rank):
            runtime = _placed(device, dtype, rank, world_size)
            _meet(store, world_size)
            backend = "nccl" if runtime.device.type == "cuda" else "gloo"
            device_id = runtime.device if backend == "nccl" else None
            dist.init_process_group(backend, store=store, rank=rank, world_size=world_size, device_id=device_id)
            yield runtime
    except Exception:
        broken = True
        raise
    finally:
        # NCCL destroys a group only after all its work is done, which may be waiting for this process. So after an error, skip it.
        if dist.is_initialized() and not (broken and dist.get_backend() == "nccl"):
            dist.destroy_process_group()


def alone(device: str = "auto", dtype: str = "float32") -> Runtime:
    """Creates the runtime of a single process, for programs that only embed; arguments and errors as in `start`."""
    return _placed(device, dtype)


def _placed(device: str, dtype: str, rank: int = 0, world_size: int = 1) -> Runtime:
    chosen = _device(device, processes.local_rank())
    if chosen.type == "cuda":
        torch.cuda.set_device(chosen)
    return Runtime(chosen, _dtype(dtype, chosen), rank, world_size)


def _meet(store: dist.Store, world_size: int) -> None:
    """Waits for all processes; raises a ReidError if one has already failed, for example without a device.

    The process group would wait for the failed process, without reacting to signals.
    """
    store.add("met", 1)
    while store.add("met", 0) < world_size:
        if store.add(_ENDED, 0):
            raise ReidError()
        time.sleep(0.05)


@contextlib.contextmanager
def _one_voice(store: dist.Store, rank: int) -> Iterator[None]:
    """Lets only the process that fails first report its error; the others, which then lose the connection to it, end silently."""
    try:
        yield
    except BaseException as error:
        first = True
        with contextlib.suppress(RuntimeError):  # the store is lost if its process has ended
            first = store.add(_ENDED, 1) == 1  # before the connections close, so before other processes fail
        if not first and isinstance(error, Exception):
            raise ReidError() from error
        lost = isinstance(error, RuntimeError) and _LOST.search(str(error))
        told = ReidError(_GONE) if lost else error
        if rank and isinstance(told, ReidError):  # rank 0 prints its own, but may have ended
            for problem in told.problems:
                logger.critical("error: %s", problem)
        if lost:
            raise told from error
        raise


@contextlib.contextmanager
def compiler_errors_in_one_line() -> Iterator[None]:
    """Turns errors of torch.compile, which compiles at the first call, into a ConfigError of one line.

    Raises:
        ConfigError: the compilation fails, for example without a compiler.
    """
    try:
        yield
    except Exception as error:
        if not type(error).__module__.startswith(("torch._dynamo", "torch._inductor")):
            raise
        reason = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
        raise ConfigError(
            f"machine.compile: torch.compile failed: {reason}; install a C++ compiler, or set machine.compile=false"
        ) from error


def gather_rows(rows: Tensor) -> Tensor:
    """Gathers the rows of all processes in rank order; returns the input itself in a single process. Row counts may differ."""
    if not dist.is_initialized():
        return rows
    counts = torch.zeros(dist.get_world_size(), dtype=torch.int64, device=rows.device)
    counts[dist.get_rank()] = len(rows)
    sum_over_processes(counts)
    padded = rows.new_zeros((int(counts.max()), *rows.shape[1:]))
    padded[: len(rows)] = rows
    parts = [torch.empty_like(padded) for _ in counts]
    dist.all_gather(parts, padded)
    return torch.cat([part[:count] for part, count in zip(parts, counts.tolist(), strict=True)])


class _Gather(torch.autograd.Function):
    """`gather_rows` with a backward pass that sums the gradients of all processes."""

    @staticmethod
    def forward(context: Any, rows: Tensor) -> tuple[Tensor, int]:
        everything = gather_rows(rows)
        counts = gather_rows(torch.tensor([len(rows)], device=rows.device)).tolist()
        context.first, context.count = sum(counts[: dist.get_rank()]), len(rows)
        return everything, context.first

    @staticmethod
    def backward(context: Any, *gradients: Any) -> Tensor:
        total = sum_over_processes(gradients[0].contiguous().clone())
        return total[context.first : context.first + context.count]


def gather_with_gradient(rows: Tensor) -> tuple[Tensor, int]:
    """Gathers rows as `gather_rows` does, with gradients; returns all rows and the index of this process's first row.

    The gradient of a row is the sum of its gradients in all processes, so every process must take part in the backward pass too.
    """
    return _Gather.apply(rows) if dist.is_initialized() else (rows, 0)


def sum_over_processes(value: Tensor) -> Tensor:
    """Sums a tensor over all processes, in place; returns the tensor itself in a single process."""
    if dist.is_initialized():
        dist.all_reduce(value)
    return value


def share_buffers(module: nn.Module) -> None:
    """Copies the main process's buffers, such as running statistics of batch normalisation, to all processes, which each have their own."""
    if dist.is_initialized():
        for buffer in module.buffers():
            dist.broadcast(buffer, 0)


def wait_for_all() -> None:
    """Waits until every process has called it."""
    if dist.is_initialized():
        dist.barrier()


def seed_of(*parts: int | str) -> int:
    """Derives a 63-bit seed from numbers and words, e.g. `seed_of(seed, "augment", step)`; the same on every machine."""
    digest = hashlib.sha256(repr(parts).encode()).digest()
    return int.from_bytes(digest[:8], "little") >> 1


def environment() -> dict[str, str]:
    """Versions and hardware, for logs and reports."""
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else "none"
    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "gpu": gpu,
        "cpu": f"{_cpu_model()}, {os.cpu_count()} cores, {torch.get_num_threads()} threads",
    }


def _cpu_model() -> str:
    with contextlib.suppress(OSError), open("/proc/cpuinfo") as lines:
        for line in lines:
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()
