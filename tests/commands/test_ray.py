"""Extraction on a Ray cluster: the bytes of one process, also where an actor is killed; one line where something is amiss."""

import contextlib
import importlib.util
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from reid.augment import Preprocess
from reid.datasets.folders import load_folders
from reid.engine import extract_on_ray
from reid.engine.attempts import Attempts
from reid.models.color_histogram import ColorHistogram
from reid.models.pooling import POOLINGS
from tests.commands.conftest import ROOT, call, tracklets
from tests.commands.test_nodes import free_port, lose

FILES = ["features.npy", "gallery.json", "meta.csv"]
needs_ray = pytest.mark.skipif(
    importlib.util.find_spec("ray") is None, reason="needs ray (pip install 'robust-reid[ray]')"
)


def actors_of(process: subprocess.Popen[str]) -> list[int]:
    """Those of Ray Data below a process."""
    found, pids = [], [process.pid]
    for pid in pids:  # grows as children are found
        with contextlib.suppress(OSError):  # it has just ended
            for task in Path(f"/proc/{pid}/task").iterdir():
                pids += map(int, (task / "children").read_text().split())
            if b"ray::MapWorker" in Path(f"/proc/{pid}/cmdline").read_bytes():
                found.append(pid)
    return found


@contextlib.contextmanager
def extracting(run: Path, environment: dict[str, str]) -> Iterator[subprocess.Popen[str]]:
    """The command, which has some shards when the context begins and must come to its end after it, with the bytes of one process."""
    command = [sys.executable, "-m", "reid", "extract", str(run), "mine", "--out", "many", "--shard", "4"]
    command += ["--engine", "ray", "--ray-cpus", "1"]
    parts = Path("many/shards")
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment) as process:
        deadline = time.monotonic() + 200
        while len(list(parts.glob("[0-9]*.npy"))) < 5:
            assert time.monotonic() < deadline
            assert process.poll() is None, process.stderr.read()
            time.sleep(0.01)
        yield process
        assert len(list(parts.glob("[0-9]*.npy"))) < 100  # of 123: it was in the middle
        said = process.communicate(timeout=200)[1]
    assert process.returncode == 0, said
    assert "Traceback" not in said
    assert call("extract", run, "mine", "--out", "one", "--shard", "4") == 0
    for folder in ("many", "one"):
        assert sorted(path.name for path in Path(folder).iterdir()) == FILES
    for name in FILES:
        assert (Path("many") / name).read_bytes() == (Path("one") / name).read_bytes()


def environment(**more: str) -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"} | {
        "PYTHONPATH": str(ROOT),
        "RAY_USAGE_STATS_ENABLED": "0",
        **more,
    }


@needs_ray
@pytest.mark.slow
def test_an_actor_is_killed_and_the_bytes_are_those_of_one_process(run: Path, workplace: Path, data_root: Path) -> None:
    """In a cluster that the command starts."""
    tracklets(data_root, Path("mine"), slice(0, 26), times=6)
    with extracting(run, environment()) as process:
        actors = actors_of(process)
        assert len(actors) == os.cpu_count()
        os.kill(actors[0], signal.SIGKILL)


@needs_ray
@pytest.mark.slow
def test_a_machine_is_lost_and_the_bytes_are_those_of_one_process(run: Path, workplace: Path, data_root: Path) -> None:
    """Two machines of one core each, which are both this one; of the second all processes are killed at once."""
    tracklets(data_root, Path("mine"), slice(0, 26), times=6)
    address = f"127.0.0.1:{free_port()}"
    settings = environment(RAY_AUTH_MODE="disabled")
    ray = [sys.executable, "-m", "ray.scripts.scripts", "start", "--num-cpus", "1", "--block"]
    head = ["--head", "--port", address.partition(":")[2], "--include-dashboard=false"]
    with contextlib.ExitStack() as stack:
        machines = []
        for words in (head, ["--address", address]):
            log = stack.enter_context(Path(f"machine{len(machines)}.log").open("w"))
            machines.append(subprocess.Popen([*ray, *words], env=settings, stdout=log, stderr=log))
            stack.callback(lose, machines[-1])
            deadline = time.monotonic() + 120
            while "Ray runtime started" not in Path(log.name).read_text():
                assert time.monotonic() < deadline and machines[-1].poll() is None, Path(log.name).read_text()
                time.sleep(0.2)
        with extracting(run, settings | {"RAY_ADDRESS": address}):
            assert len(actors_of(machines[1])) == 1
            lose(machines[1])


@needs_ray
@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # of ray's own
def test_on_ray_what_is_amiss_is_one_line(
    run: Path, workplace: Path, data_root: Path, monkeypatch: pytest.MonkeyPatch, fails
) -> None:
    """In a cluster that this process has joined already, as a program of one's own may have."""
    import ray

    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))  # for the actors
    names = tracklets(data_root, Path("mine"), slice(0, 6))
    damaged = sorted((Path("mine") / names[4]).iterdir())[0]
    damaged.unlink()
    damaged.write_bytes(b"no JPEG")
    options = [run, "mine", "--shard", "4", "--out"]
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
    try:
        on_ray = ["--engine", "ray", "--ray-cpus"]
        assert "device: cuda requested, but no machine of the cluster has a GPU" in fails(
            "extract", *options, "out", *on_ray, "1", "machine.device=cuda"
        )
        assert "--ray-cpus: no machine has 3 cores; available: 2" in fails("extract", *options, "out", *on_ray, "3")
        assert not (Path("out") / "shards").exists()
        assert f"error: {damaged.absolute()}: damaged image" in fails("extract", *options, "out", *on_ray, "2")
        skip = [*options, "many", *on_ray, "2", "data.damaged=skip"]
        assert call("extract", *skip) == 0
        assert call("extract", *options, "one", "data.damaged=skip") == 0
        for name in [*FILES, "damaged.csv"]:
            assert (Path("many") / name).read_bytes() == (Path("one") / name).read_bytes()
        a_shard_that_costs_every_actor()
    finally:
        ray.shutdown()


def a_shard_that_costs_every_actor() -> None:
    """Killing so many would take a minute; here one actor, of this process, is given the shard as often."""
    import ray

    split = load_folders(Path("mine"))
    model = ColorHistogram()
    options = {"dim": model.num_features, "pooling": POOLINGS["mean"], "batch_size": 8, "workers": 0}
    preprocess = Preprocess([32, 16], [32, 16], [0.5] * 3, [0.5] * 3)
    work = extract_on_ray.Work(model, preprocess, split, {7: np.arange(2)}, options)
    team = extract_on_ray.Team(1, 1, 0, torch.float32, "here")
    attempts = ray.remote(num_cpus=0)(Attempts).remote()
    actor = extract_on_ray._Actor(ray.put((work, team, extract_on_ray._place())), attempts)
    rows = [actor({"number": np.array([7])}).to_pylist()[0] for _ in range(extract_on_ray.MOST_ATTEMPTS + 1)]
    assert [row["problems"] for row in rows[:-1]] == [[]] * extract_on_ray.MOST_ATTEMPTS
    assert len({row["features"] for row in rows[:-1]}) == 1
    [problem] = rows[-1]["problems"]
    assert "the actor that embedded part 7 died 5 times" in problem
    other = {"machine": "elsewhere", "torch": "1.0"}
    stranger = extract_on_ray._Actor(ray.put((work, team, other)), attempts)
    [problem] = stranger({"number": np.array([7])}).to_pylist()[0]["problems"]
    assert f"torch {torch.__version__}, but 1.0 on the calling machine; install the same" in problem
    assert "on machine " in problem


@pytest.mark.parametrize("address", ["127.0.0.1:1", "nowhere", "ray://127.0.0.1:1"])
def test_an_address_that_is_none_is_one_line_at_once(
    run: Path, workplace: Path, data_root: Path, monkeypatch: pytest.MonkeyPatch, fails, address: str
) -> None:
    tracklets(data_root, Path("mine"), slice(0, 2))
    monkeypatch.setenv("RAY_ADDRESS", address)
    message = fails("extract", run, "mine", "--out", "out", "--engine", "ray")
    assert message.startswith("error: RAY_ADDRESS: ")
    assert address in message
    assert not (Path("out") / "shards").exists()


def test_what_is_refused_before_ray_is_imported(
    run: Path, workplace: Path, data_root: Path, monkeypatch: pytest.MonkeyPatch, fails
) -> None:
    tracklets(data_root, Path("mine"), slice(0, 2))
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setitem(sys.modules, "ray", None)  # as where it is not installed
    command = ["extract", run, "mine", "--out", "out", "--engine", "ray"]
    assert "needs ray: pip install 'robust-reid[ray]'" in fails(*command)
    assert "--ray-cpus: expected >= 1, got 0" in fails(*command, "--ray-cpus", "0")
    assert "with --engine ray expected auto, cpu or cuda, got 'mps'" in fails(*command, "machine.device=mps")
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert "start it without torchrun" in fails(*command)
    monkeypatch.delenv("WORLD_SIZE")
    assert call("extract", run, "mine", "--out", "out") == 0  # which asks for no ray
