"""Feature extraction on a Ray cluster: shard numbers are sent to actors, and the features of each shard return when it is done.

Ray Data streams the shard numbers through a pool of actors that each hold the network. It limits the number of shards in flight, starts
a new actor where one died (alone or with its machine), and repeats the shard of a dead actor. Actors read the images themselves, so
images must have the same path on every machine. Only features are sent back, and only the driver writes them to disk.

An actor embeds a shard in the same way as a single process does, so the features are bit-identical if all processors are of one kind.

ray is an optional dependency: `team` imports it, and nothing else needs it. Shapes: S tracklets of a shard, D feature.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import platform
import re
import signal
import socket
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from torch import nn

from reid.augment import Preprocess
from reid.datasets.damaged import DamagedImages
from reid.engine.attempts import Attempts
from reid.engine.extract import extract_shards, progress_bar
from reid.errors import ConfigError, ReidError, counted, in_range
from reid.runtime import Runtime, alone
from reid.tracklets import Split

logger = logging.getLogger(__name__)

MOST_CPUS = 8  # default maximum of cores per actor: more of them wait for each other
PATIENCE = 10  # seconds to wait for a connection to RAY_ADDRESS
MOST_ATTEMPTS = 5  # attempts at a shard whose actors die


@dataclass(frozen=True)
class Team:
    """Resources of a cluster for one extraction.

    Args:
        actors: number of actor processes.
        cpus: cores of each actor.
        gpus: GPUs of each actor, 0 or 1.
        dtype: autocast type, the same in all actors.
        address: address of the cluster, for messages.
    """

    actors: int
    cpus: int
    gpus: int
    dtype: torch.dtype
    address: str

    @property
    def asking(self) -> Runtime:
        """Runtime of the driver process, which loads the network on the CPU and sends it to the actors."""
        return Runtime(torch.device("cpu"), self.dtype)


@dataclass(frozen=True, eq=False)
class Work:
    """Input of the actors.

    Args:
        model, preprocess, split, may_be_empty: as for `engine.extract.extract_shards`.
        shards: shard number -> (S,) tracklet indices.
        options: further arguments of `extract_shards`: `dim`, `pooling`, `batch_size`, `workers`.
        damaged: policy of `DamagedImages`.
    """

    model: nn.Module
    preprocess: Preprocess
    split: Split
    shards: Mapping[int, np.ndarray]
    options: Mapping[str, Any]
    damaged: str = "error"
    may_be_empty: bool = False


@contextlib.contextmanager
def team(device: str = "auto", dtype: str = "auto", cpus: int | None = None) -> Iterator[Team]:
    """Connects to a Ray cluster for the duration of the context.

    The cluster is the one at RAY_ADDRESS, or else a new one of this machine alone.

    Args:
        device: `cpu`; `cuda`, one actor per GPU; or `auto`, which is `cuda` if the cluster has GPUs.
        dtype: as for `runtime.start`; `auto` is resolved on the actors' device.
        cpus: cores of each actor, >= 1. Default: the cores of the smallest usable machine (with GPUs, its cores per GPU), at most
            `MOST_CPUS`.

    Raises:
        ConfigError: ray is not installed, RAY_ADDRESS is malformed or does not answer, or the cluster lacks the requested resources.
        ReidError: ray cannot connect to the cluster.
    """
    if device not in ("auto", "cpu", "cuda"):
        raise ConfigError(f"device: with --engine ray expected auto, cpu or cuda, got {device!r}")
    if cpus is not None:
        in_range("--ray-cpus", cpus, 1)
    _require_answer(os.environ.get("RAY_ADDRESS", ""))
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # no usage reports to the makers of ray
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")  # else it logs as an error what Ray Data does
    try:
        import ray
        import ray.data
    except ImportError:
        raise ConfigError("--engine ray: needs ray: pip install 'robust-reid[ray]'") from None
    mine = not ray.is_initialized()
    if mine:
        _join(ray)
    try:
        yield _team(ray, device, dtype, cpus)
    finally:
        if mine:
            ray.shutdown()


def _join(ray: Any) -> None:
    before = signal.getsignal(signal.SIGTERM)
    try:
        # Without an address ray would look for a cluster started here before, for minutes where that one was killed.
        where = None if os.environ.get("RAY_ADDRESS") else "local"
        ray.init(where, include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
    except (ConnectionError, ValueError, RuntimeError) as error:
        token = "if the cluster needs a token, set RAY_AUTH_MODE=token and RAY_AUTH_TOKEN here too"
        raise ReidError(f"RAY_ADDRESS: {os.environ.get('RAY_ADDRESS', 'not set')}: {error}; {token}") from error
    signal.signal(signal.SIGTERM, before)  # ray.init has replaced it by a handler with another exit code
    # Quiet, because `extract_on` reports an actor's failure in one line without tracebacks, and shows the one progress bar.
    logging.getLogger("ray").setLevel(logging.CRITICAL)
    logging.getLogger("ray.data").setLevel(logging.CRITICAL)


def _require_answer(address: str) -> None:
    """Raises a ConfigError if the address accepts no connection; ray itself would retry for about five minutes."""
    if address in ("", "auto", "local"):  # a cluster on this machine, running or to be started
        return
    host, _, port = address.rpartition(":")
    if not host or "/" in host or not port.isdecimal():
        raise ConfigError(f"RAY_ADDRESS: expected HOST:PORT, as `ray start --head` shows it, got {address!r}")
    try:
        socket.create_connection((host.strip("[]"), int(port)), PATIENCE).close()
    except (OSError, OverflowError) as error:
        raise ConfigError(f"RAY_ADDRESS: {address} does not answer: {error}; is the cluster running?") from None


def _team(ray: Any, device: str, dtype: str, cpus: int | None) -> Team:
    machines = [node["Resources"] for node in ray.nodes() if node["Alive"] and node["Resources"].get("CPU", 0) >= 1]
    having = [machine for machine in machines if machine.get("GPU", 0) >= 1]
    gpus = int(device == "cuda" or (device == "auto" and bool(having)))
    if gpus and not having:
        raise ConfigError("device: cuda requested, but no machine of the cluster has a GPU; use device=cpu")
    able = having if gpus else machines
    if not able:
        raise ConfigError("--engine ray: no machine of the cluster has a free core")
    if cpus is None:
        share = min(int(machine["CPU"] // machine["GPU"] if gpus else machine["CPU"]) for machine in able)
        cpus = max(1, min(MOST_CPUS, share))
    rooms = [int(machine["CPU"] // cpus) for machine in able]
    actors = sum(min(room, int(machine["GPU"])) if gpus else room for room, machine in zip(rooms, able, strict=True))
    if not actors:
        raise ConfigError(f"--ray-cpus: no machine has {counted(cpus, 'core')}; available: {_cores(able)}")
    if gpus:
        told = ray.get(ray.remote(num_gpus=1)(_number_format).remote("cuda", dtype))
    else:
        told = _number_format("cpu", dtype)
    on = counted(len(able), "machine")
    logger.info("ray: %s of %s on %s", counted(actors, "actor"), "a GPU" if gpus else counted(cpus, "core"), on)
    return Team(actors, cpus, gpus, told, os.environ.get("RAY_ADDRESS", "the local cluster"))


def _cores(machines: list[Any]) -> str:
    return ", ".join(str(cores) for cores in sorted({int(machine["CPU"]) for machine in machines}))


def _number_format(device: str, dtype: str) -> torch.dtype:
    return alone(device, dtype).dtype


def extract_on(asked: Team, work: Work, *, progress: str = "") -> Iterator[tuple[int, np.ndarray, dict[str, str]]]:
    """Extracts the features of shards on a cluster, and yields them in the order in which they finish.

    Args:
        asked: the cluster's resources.
        work: the network, the tracklets and the shards.
        progress: name of a progress bar over frames; no bar if empty.

    Yields:
        Shard number; (S, D) float32 features of unit norm; and path -> reason of the images left out.

    Raises:
        ReidError: an actor raised one (for a missing image, for example), `MOST_ATTEMPTS` actors died at one shard, or the cluster is lost.
    """
    import ray
    from ray.data import ActorPoolStrategy, DataContext

    if not work.shards:
        return
    root = work.split.root
    work = replace(work, split=replace(work.split, root=root.absolute()))  # actors run in another working directory
    away, here = os.path.join(root.absolute(), ""), os.path.join(root, "")
    DataContext.get_current().enable_progress_bars = False
    given = ray.put((work, asked, _place()))
    attempts = ray.remote(num_cpus=0, max_restarts=-1, max_task_retries=-1)(Attempts).remote()
    numbers = ray.data.from_items([{"number": number} for number in work.shards], override_num_blocks=len(work.shards))
    pool = ActorPoolStrategy(size=min(asked.actors, len(work.shards)))
    embedded = numbers.map_batches(
        _Actor,
        fn_constructor_args=(given, attempts),
        batch_size=1,
        compute=pool,
        num_cpus=asked.cpus,
        num_gpus=asked.gpus,
    )
    frames = sum(int(work.split.lengths[rows].sum()) for rows in work.shards.values())
    try:
        with progress_bar(frames, progress) as bar:
            tables: Iterator[Any] = iter(embedded.iter_batches(batch_size=None, batch_format="pyarrow"))
            for table in tables:
                for row in table.to_pylist():
                    if row["problems"]:
                        raise ReidError(*row["problems"])
                    number, dim = row["number"], work.options["dim"]
                    features_SD = np.frombuffer(row["features"], np.float32).reshape(-1, dim)
                    left_out = {path.replace(away, here, 1): why for path, why in json.loads(row["left_out"]).items()}
                    yield number, features_SD, left_out
                    bar.update(int(work.split.lengths[work.shards[number]].sum()))
    except ray.exceptions.RayTaskError:  # a bug of ours on an actor, not a cluster failure: keep its traceback
        raise
    except ray.exceptions.RayError as error:
        first, *more = [line for line in re.sub(r"\x1b\[\d+m", "", str(error)).splitlines() if line.strip()]
        cause = f" … {more[-1].strip()}" if more else ""
        raise ReidError(
            f"ray: {asked.address}: {first}{cause}; is the same version of robust-reid installed on all machines?"
        ) from error


def _place() -> dict[str, str]:
    """Name of this machine, and versions that must be the same on all machines; ray itself checks those of Python and ray."""
    return {"machine": platform.node(), "torch": torch.__version__}


class _Actor:
    """Holds the network and embeds one shard per call."""

    def __init__(self, given: Any, attempts: Any) -> None:
        import ray

        self.attempts, (self.work, asked, asking) = attempts, ray.get(given)
        logging.getLogger("reid").setLevel(logging.CRITICAL)  # the driver reports the images left out
        torch.set_num_threads(asked.cpus)
        self.runtime = alone("cuda" if asked.gpus else "cpu", str(asked.dtype).removeprefix("torch."))
        self.model = self.runtime.place(self.work.model).eval()
        here = _place()
        self.where = "" if here["machine"] == asking["machine"] else f"on machine {here['machine']}: "
        self.other = (
            here["torch"] != asking["torch"] and f"torch {here['torch']}, but {asking['torch']} on the calling machine"
        )

    def __call__(self, batch: Mapping[str, np.ndarray]) -> pa.Table:
        import ray

        [number] = batch["number"].tolist()
        damaged, features, problems = DamagedImages(self.work.damaged), b"", []
        attempt = ray.get(self.attempts.begin.remote(number))
        try:
            if self.other:
                raise ReidError(f"ray: {self.where}{self.other}; install the same versions on all machines")
            if attempt > MOST_ATTEMPTS:
                died = f"the actor that embedded part {number} died {MOST_ATTEMPTS} times, most likely out of memory"
                raise ReidError(
                    f"ray: {self.where}{died}; lower test.batch_size, or start fewer actors with more cores each (--ray-cpus)"
                )
            features = self._features(self.work.shards[number], damaged).tobytes()
        except ReidError as error:  # returned as a value: raised here it would arrive wrapped in a traceback
            problems = [f"{self.where}{problem}" for problem in error.problems]
        return pa.table(
            {
                "number": [number],
                "features": pa.array([features], pa.large_binary()),
                "left_out": [json.dumps(damaged.files)],
                "problems": pa.array([problems], pa.list_(pa.string())),
            }
        )

    def _features(self, rows: np.ndarray, damaged: DamagedImages) -> np.ndarray:
        work = self.work
        [features_SD] = extract_shards(
            self.model,
            work.preprocess,
            work.split,
            self.runtime,
            [rows],
            damaged=damaged,
            may_be_empty=work.may_be_empty,
            **work.options,
        )
        return features_SD
