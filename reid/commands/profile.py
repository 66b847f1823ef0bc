"""Profile: measure where the time of a training step goes, as a table and a trace, without making a run.

Events are those of the profiler's trace, with times in microseconds, on the host or the device.
"""

from __future__ import annotations

import gzip
import json
import logging
import time
from bisect import bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

from reid import experiment
from reid.commands.training_log import forward_flops, log_start
from reid.config import Config
from reid.engine.train import Job, fit
from reid.errors import ConfigError, counted
from reid.files import atomic
from reid.report.tables import text_table
from reid.rundir import RunDirectory
from reid.runtime import Runtime, start

logger = logging.getLogger(__name__)

PARTS = ("data", "transfer", "forward", "backward", "optimizer")  # the scopes that `fit` opens
WARM_UP = 5  # steps in which memory is allocated, kernels are selected and workers start
MOST = 1000  # steps; a longer trace cannot be opened
OPERATORS = 10
LAUNCHES, ON_DEVICE = ("cuda_runtime", "cuda_driver"), ("kernel", "gpu_memcpy", "gpu_memset")


def run(config: Config, output_dir: Path, steps: int) -> None:
    """Trains some steps without and as many with the profiler, and prints and writes the results.

    Args:
        config: config of the run.
        output_dir: run directory; its folder `profile` gets profile.txt (the tables) and trace.json.gz (for Perfetto or
            chrome://tracing). Nothing else is written.
        steps: 1..1000.

    Raises:
        ConfigError: `steps` is out of range, or as in training.
    """
    if not 1 <= steps <= MOST:
        raise ConfigError(f"--profile: expected 1 to {MOST} steps, got {steps}")
    experiment.check(config)
    folder = RunDirectory(output_dir).profile
    with start(config.machine.device, config.machine.dtype) as runtime:
        data = experiment.load_data(config)
        job = experiment.build_job(config, data.train, runtime)
        log_start(config, job, data, runtime, f"profile of {steps} steps")
        flops = forward_flops(job, runtime)
        recorder = _Recorder(runtime, steps)
        fit(replace(job, iterations=WARM_UP + 2 * steps), runtime, after_step=recorder.after_step)
        if runtime.is_main:
            text = _text(config, job, runtime, recorder, _write_trace(recorder.profiler, folder), flops)
            with atomic(folder / "profile.txt") as temporary:
                temporary.write_text(text + "\n", encoding="utf-8")
            print(f"{text}\n\nprofile: {folder / 'profile.txt'}, {folder / 'trace.json.gz'}")


class _Recorder:
    """Times the steps of `fit`, first without and then with the profiler; the profiler runs only in the main process."""

    def __init__(self, runtime: Runtime, steps: int) -> None:
        self.runtime, self.steps = runtime, steps
        cuda = [ProfilerActivity.CUDA] if runtime.device.type == "cuda" else []
        self.profiler = profile(activities=[ProfilerActivity.CPU, *cuda])
        self.plain_seconds, self.profiled_seconds, self._since = 0.0, 0.0, 0.0

    def after_step(self, done: int) -> None:
        if done not in (WARM_UP, WARM_UP + self.steps, WARM_UP + 2 * self.steps):
            return
        now = self._now()
        if done == WARM_UP + self.steps:
            self.plain_seconds = now - self._since
            if self.runtime.is_main:
                self.profiler.start()
        elif done > WARM_UP:
            self.profiled_seconds = now - self._since
            if self.runtime.is_main:
                self.profiler.stop()
        self._since = self._now()

    def _now(self) -> float:
        if self.runtime.device.type == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter()


def _write_trace(profiler: profile, folder: Path) -> list[dict[str, Any]]:
    """Writes the trace; returns its events."""
    with atomic(folder / "trace.json.gz") as temporary:
        plain = temporary.with_suffix(
            ".json"
        )  # for a name ending in .gz the profiler would write a temporary copy to another folder
        try:
            profiler.export_chrome_trace(str(plain))
            content = plain.read_bytes()
        finally:
            plain.unlink(missing_ok=True)
        temporary.write_bytes(gzip.compress(content, 5))
    return json.loads(content)["traceEvents"]


@dataclass(frozen=True)
class Part:
    """Milliseconds per step of one part: time on the host, and time of the device work it launched."""

    name: str
    host: float
    device: float


def parts_of(events: Iterable[dict[str, Any]], seconds: float, steps: int) -> list[Part]:
    """Divides the time of some steps among the parts of a step.

    Device work belongs to the scope that was open when it was launched, by any thread: backward passes launch from their own thread.

    Args:
        events: events of the trace.
        seconds: wall-clock time of the steps.
        steps: number of steps.

    Returns:
        One entry for each of `PARTS`, then "rest": host time and device work outside all of them.
    """
    events = [event for event in events if event.get("ph") == "X"]
    scopes = sorted(
        (event["ts"], event["ts"] + event["dur"], event["name"])
        for event in events
        if event.get("cat") == "user_annotation" and event["name"] in PARTS
    )
    starts, host, device = [scope[0] for scope in scopes], dict.fromkeys(PARTS, 0.0), dict.fromkeys(PARTS, 0.0)
    for begin, end, name in scopes:
        host[name] += end - begin
    launched = {event["args"].get("correlation"): event["ts"] for event in events if event.get("cat") in LAUNCHES}
    device["rest"] = 0.0
    for event in events:
        if event.get("cat") in ON_DEVICE:
            at = launched.get(event["args"].get("correlation"), -1.0)
            begin, end, name = scopes[i] if (i := bisect_right(starts, at) - 1) >= 0 else (0.0, 0.0, "rest")
            device[name if begin <= at <= end else "rest"] += event["dur"]
    host["rest"] = max(0.0, 1e6 * seconds - sum(host.values()))
    return [Part(name, host[name] / steps / 1e3, device[name] / steps / 1e3) for name in (*PARTS, "rest")]


def _text(
    config: Config, job: Job, runtime: Runtime, recorder: _Recorder, events: list[dict[str, Any]], flops: int
) -> str:
    steps, cuda = recorder.steps, runtime.device.type == "cuda"
    step = 1e3 * recorder.profiled_seconds / steps
    parts = parts_of(events, recorder.profiled_seconds, steps)
    title = f"{config.name}: {config.model.name}, {job.batch_size} images a step, {runtime.device}, {runtime.dtype}, "
    title += f"{counted(runtime.world_size, 'process', 'processes')}, {counted(job.workers, 'worker')}; "
    tables = [
        f"{title}mean of {counted(steps, 'step')} with the profiler on",
        _parts_table(parts, step, cuda=cuda),
        _operators_table(recorder.profiler, steps, cuda=cuda),
        _rates(job, runtime, recorder, flops),
    ]
    return "\n\n".join(tables)


def _parts_table(parts: Sequence[Part], step: float, *, cuda: bool) -> str:
    """Formats the parts as a table. Shares are of the step's time: of device time on CUDA, with idle time listed separately."""
    if not cuda:
        rows = [[part.name, f"{part.host:.2f}", f"{100 * part.host / step:.1f}"] for part in parts]
        return text_table(["part", "ms per step", "share, %"], [*rows, ["step", f"{step:.2f}", "100.0"]])
    rows = [[p.name, f"{p.host:.2f}", f"{p.device:.2f}", f"{100 * p.device / step:.1f}"] for p in parts]
    idle = max(0.0, step - sum(part.device for part in parts))
    rows += [["device idle", "", f"{idle:.2f}", f"{100 * idle / step:.1f}"]]
    rows += [["step", f"{step:.2f}", f"{step:.2f}", "100.0"]]
    return text_table(["part", "host ms per step", "device ms per step", "share, %"], rows)


def _operators_table(profiler: profile, steps: int, *, cuda: bool) -> str:
    """Formats the most expensive operators as a table, by their own time without the operators they call."""

    def cost(operator: Any) -> float:
        return operator.self_device_time_total if cuda else operator.self_cpu_time_total

    operators = [operator for operator in profiler.key_averages() if not operator.is_user_annotation]
    if cuda:  # a kernel's time is counted in the operator that launched it too
        operators = [operator for operator in operators if operator.device_type == torch.autograd.DeviceType.CPU]
    rows = [
        [operator.key, f"{operator.count / steps:g}", f"{cost(operator) / steps / 1e3:.2f}"]
        for operator in sorted(operators, key=cost, reverse=True)[:OPERATORS]
    ]
    return text_table(["operator", "calls per step", f"{'device ' if cuda else ''}ms per step"], rows)


def _rates(job: Job, runtime: Runtime, recorder: _Recorder, flops: int) -> str:
    images = recorder.steps * job.batch_size
    plain, profiled = images / recorder.plain_seconds, images / recorder.profiled_seconds
    rate = runtime.world_size * product_rate(runtime)
    limit = rate / (3 * flops)  # backward: once for the weights, once for the inputs
    return (
        f"{plain:.1f} images per second ({profiled:.1f} with the profiler on)\n"
        f"{limit:.1f} at most: {3 * flops / 1e9:.3f} GFLOPs an image (3 x forward), at the {rate / 1e9:.1f} GFLOP/s of a matrix product "
        f"here; reached: {100 * plain / limit:.1f} %"
    )


def product_rate(runtime: Runtime) -> float:
    """Returns the floating-point operations per second of a square matrix product in the run's dtype, the best of six."""
    size = 8192 if runtime.device.type == "cuda" else 1536
    a = torch.randn(size, size, device=runtime.device, dtype=runtime.dtype)
    seconds = []
    for _ in range(6):
        began = time.perf_counter()
        (a @ a)[0, 0].item()
        seconds.append(time.perf_counter() - began)
    return 2 * size**3 / min(seconds)
