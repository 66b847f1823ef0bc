"""Decoding processes: the memory they share with the main process, and the error raised when one of them dies."""

from __future__ import annotations

import ctypes
import errno
import gc
import logging
import mmap
import multiprocessing
import signal
import sys
import weakref
from collections.abc import Iterator
from multiprocessing.process import BaseProcess
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from reid.errors import ReidError

logger = logging.getLogger(__name__)

_AHEAD = 2  # batches that each worker decodes ahead
_HELD = 10  # further batches that may be held; an unused slot takes no memory
_ROOM = 2**27  # bytes of address space of a slot: 1,365 crops of 256 x 128
_CHECK = 5  # seconds of waiting after which the workers are checked
PATIENCE = 60  # seconds without a batch between two warnings, a multiple of `_CHECK`
_PR_SET_PDEATHSIG = 1  # of Linux's prctl: the signal to receive when the parent ends
_MAPS = hasattr(mmap, "MAP_ANONYMOUS")  # Windows would commit the memory of all slots at once, used or not
_FORKED = sys.platform == "linux"  # a forked worker copies neither the dataset's index nor the slots


class Slots:
    """Memory for batches, reused once a batch is no longer referenced; forked workers share it.

    For fresh memory the kernel handles a page fault and zeroes each page; in shared memory this costs up to half as much as decoding.
    Unlike tensors sent between processes, slots need neither space in /dev/shm nor file descriptors.

    Raises:
        ReidError: no memory for them.
    """

    def __init__(self, workers: int) -> None:
        number = _AHEAD * workers + _HELD if _MAPS and (_FORKED or not workers) else 0
        flags = mmap.MAP_ANONYMOUS | (mmap.MAP_SHARED if workers else mmap.MAP_PRIVATE) if number else 0
        try:
            self.memory = [np.frombuffer(mmap.mmap(-1, _ROOM, flags), np.uint8) for _ in range(number)]
        except OSError as error:
            raise ReidError(f"no memory for {number} batches: {error.strerror}; {_lower(workers)}") from None
        self._free = list(range(number))

    def numbered(self, batches: int) -> Iterator[tuple[int, int | None]]:
        """Yield each batch's number and the slot to decode it into: reserved when the batch is requested, None if all are held."""
        return ((i, self._free.pop() if self._free else None) for i in range(batches))

    def tensor(self, slot: int, size: int) -> Tensor:
        """(size,) uint8; the slot is free again once this tensor and all its views are gone."""
        held = self.memory[slot][:size]
        weakref.finalize(held, self._free.append, slot).atexit = False
        return torch.from_numpy(held)


def items(dataset: Dataset[Any], keys: Iterator[Any], workers: int) -> Iterator[Any]:
    """Yield `dataset[key]` for each key in order, computed ahead by worker processes, or in this process if `workers` is 0.

    Raises:
        ReidError: the processes cannot start, or one of them died.
    """
    loader = DataLoader(
        dataset,
        batch_size=None,
        sampler=keys,  # any iterable will do
        collate_fn=_identity,
        num_workers=workers,
        prefetch_factor=_AHEAD if workers else None,
        worker_init_fn=_begin,
        timeout=_CHECK if workers else 0,
        multiprocessing_context=None if not workers else "fork" if _FORKED else "spawn",
    )
    child_died = getattr(signal, "SIGCHLD", None)  # Windows has none
    others, handler = multiprocessing.active_children(), child_died and signal.getsignal(child_died)
    try:
        iterator = iter(loader)
    except OSError as error:
        _end(_all_but(others))
        error.__traceback__ = None  # the traceback would keep the half-built iterator alive until garbage collection
        where = " in /dev/shm" if error.errno == errno.ENOSPC else ""
        raise ReidError(
            f"cannot start decoding processes: {error.strerror or error}{where}; {_lower(workers)}"
        ) from None
    if child_died and signal.getsignal(child_died) is not handler:
        # torch's handler raises wherever the main thread happens to be; without it, the iterator raises within seconds.
        signal.signal(child_died, handler or signal.SIG_DFL)
    processes = _all_but(others)
    try:
        yield from _waiting(iterator, workers)
    except (RuntimeError, OSError) as error:
        died = [child.exitcode for child in processes if child.exitcode]
        if not died:
            raise
        raise ReidError(f"a decoding process {_cause(died[0])}; {_lower(workers)}") from error
    finally:
        _end(processes)


def _waiting(iterator: Iterator[Any], workers: int) -> Iterator[Any]:
    """Yield the items, with a warning after a long wait, as for a stopped process or a file server that does not answer."""
    waited = 0
    while True:
        try:
            item = next(iterator)
        except StopIteration:
            return
        except RuntimeError as error:
            if "timed out" not in str(error):
                raise
            waited += _CHECK
            if waited % PATIENCE == 0:
                logger.warning(
                    "no batch from %d decoding processes for %d s: is one of them stopped, or the disk slow? Still waiting",
                    workers,
                    waited,
                )
            continue
        waited = 0
        yield item


def _all_but(others: list[BaseProcess]) -> list[BaseProcess]:
    return [child for child in multiprocessing.active_children() if child not in others]


def _end(processes: list[BaseProcess]) -> None:
    """Kill the workers: they ignore SIGTERM, and the main process waits for its children at exit."""
    for child in processes:
        child.kill()


def _identity(item: Any) -> Any:
    return item


def _begin(worker: int) -> None:
    """Prepare a worker: a signal to the whole process group must not kill it while the main process is about to save and stop."""
    if sys.platform == "linux":  # a worker blocked on its output would outlive a killed main process
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    for name in ("SIGINT", "SIGTERM", "SIGUSR1"):
        if hasattr(signal, name):  # Windows has no SIGUSR1
            signal.signal(getattr(signal, name), signal.SIG_IGN)
    gc.freeze()  # collecting the main process's objects would write to their pages, and so copy them


def _cause(exitcode: int) -> str:
    if exitcode > 0:
        return f"ended with exit code {exitcode}"
    why = {"SIGKILL": ", most likely out of memory", "SIGBUS": ", most likely out of shared memory"}
    name = signal.Signals(-exitcode).name
    return f"was killed by {name}{why.get(name, '')}"


def _lower(workers: int) -> str:
    return f"lower machine.workers (now {workers}) or the batch size; machine.workers=0 decodes in the main process"
