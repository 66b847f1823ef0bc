"""Training over two nodes: two agents of torchrun on this machine, as on two machines that share a disk."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

from reid.engine import checkpoint
from reid.rundir import RunDirectory
from tests.commands.conftest import CONFIG, ROOT
from tests.commands.test_resume import rows_of

STEPS = 5000  # more than are waited for
RESTARTS = ["--max-restarts", "5", "--monitor-interval", "0.5"]
# How long a node may be silent, and how long the others wait for one more: here little, as both are on one machine.
CONF = "keep_alive_interval=2,keep_alive_max_attempt=5,last_call_timeout=3"

# The agents' store, which torch would share with the processes: a node that joins later asks in vain where it is (torch 2.14).
OWN_STORE = {"TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1"}


def free_port() -> int:
    store = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    return store.port


def train(*words: str, iterations: int) -> list[str]:
    """As a test of a few steps: no test set, a checkpoint every 5 steps."""
    command = [sys.executable, "-m", "torch.distributed.run", *words, "-m", "reid", "train", "run.yaml"]
    return [*command, "--resume", "auto", f"train.iterations={iterations}", "test.protocols=market1501"]


def start(
    folder: Path, *words: str, iterations: int, log: str, settings: dict[str, str] | None = None
) -> subprocess.Popen[bytes]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), **(settings or {})}
    with (folder / log).open("ab") as file:
        return subprocess.Popen(
            train(*words, iterations=iterations), cwd=folder, env=environment, stdout=file, stderr=file
        )


def said(folder: Path) -> str:
    return "".join(f"{file.name}:\n{file.read_text()}\n" for file in sorted(folder.glob("*.log")))


@contextlib.contextmanager
def ended(*processes: subprocess.Popen[bytes]) -> Iterator[None]:
    """No agent outlives a test that fails."""
    try:
        yield
    finally:
        for process in processes:
            if process.poll() is None:
                lose(process)


def lose(agent: subprocess.Popen[bytes]) -> None:
    """As when a machine is lost: the agent and its workers are gone at once, without a word."""
    pids = [agent.pid]
    for pid in pids:  # grows as children are found
        with contextlib.suppress(OSError):
            pids += [
                int(child)
                for task in Path(f"/proc/{pid}/task").iterdir()
                for child in (task / "children").read_text().split()
            ]
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    agent.wait(30)


def wait_for(what: str, folder: Path, *agents: subprocess.Popen[bytes], seconds: float = 200) -> None:
    """Until the run's log says it."""
    log, deadline = folder / "runs/run/log.txt", time.monotonic() + seconds
    while not (log.exists() and what in log.read_text()):
        assert time.monotonic() < deadline, said(folder)
        assert all(agent.poll() is None for agent in agents), said(folder)
        time.sleep(0.05)


@pytest.mark.slow
def test_two_nodes_are_one_node_with_two_processes(workplace: Path) -> None:
    one, two = workplace / "one", workplace / "two"
    for folder in (one, two):
        folder.mkdir()
        (folder / "run.yaml").write_text(CONFIG)
    alone = start(one, "--standalone", "--nproc-per-node", "2", iterations=12, log="one.log")
    with ended(alone):
        assert alone.wait(200) == 0, said(one)
    meet = ["--nnodes", "2", "--nproc-per-node", "1", "--rdzv-backend", "c10d", "--rdzv-id", "people"]
    meet += ["--rdzv-endpoint", f"127.0.0.1:{free_port()}"]
    agents = [start(two, *meet, iterations=12, log=f"agent{number}.log") for number in range(2)]
    with ended(*agents):
        assert [agent.wait(200) for agent in agents] == [0, 0], said(two)
    states = [checkpoint.load(RunDirectory(folder / "runs/run").last) for folder in (one, two)]
    for name, weights in states[0]["model"].items():
        assert torch.equal(states[1]["model"][name], weights), name
    assert rows_of(one) == rows_of(two)
    assert "2 processes" in (two / "runs/run/log.txt").read_text()


@pytest.mark.slow
@pytest.mark.parametrize(("nodes", "worlds"), [("1:2", ["1 process", "2 processes"]), ("2", ["2 processes"])])
def test_a_node_is_lost_and_comes_back(workplace: Path, nodes: str, worlds: list[str]) -> None:
    """The other goes on from the checkpoint: alone where it may, and with the one that is back."""
    meet = ["--nnodes", nodes, *RESTARTS, "--nproc-per-node", "1", "--rdzv-backend", "c10d", "--rdzv-id", "people"]
    meet += ["--rdzv-conf", CONF, "--rdzv-endpoint", f"127.0.0.1:{free_port()}"]
    first = start(workplace, *meet, iterations=STEPS, log="first.log", settings=OWN_STORE)
    with ended(first):
        time.sleep(2)  # the first holds the meeting point
        second = start(workplace, *meet, iterations=STEPS, log="second.log", settings=OWN_STORE)
        with ended(second):
            wait_for("2 processes", workplace, first, second)
            wait_for(f"iter 20/{STEPS}", workplace, first, second)
            before = len(resumed_at(workplace))  # more than none where the first began alone
            lose(second)
        log = workplace / "runs/run/log.txt"
        lines = len(log.read_text().splitlines())
        if len(worlds) > 1:
            wait_for(", 1 process\n", workplace, first)
        third = start(workplace, *meet, iterations=STEPS, log="third.log", settings=OWN_STORE)
        with ended(third):
            deadline = time.monotonic() + 200
            while len(resumed := resumed_at(workplace)[before:]) < len(worlds):
                assert time.monotonic() < deadline, said(workplace)
                time.sleep(0.05)
            wait_for(f"iter {resumed[-1] // 4 * 4 + 8}/{STEPS}", workplace, first, third)
    told = [line.rpartition(", ")[2] for line in log.read_text().splitlines()[lines:] if " device: " in line]
    assert told == worlds
    assert resumed[0] > 0 and resumed == sorted(set(resumed)) and resumed[-1] < STEPS
    steps = [row["step"] for row in rows_of(workplace)]
    assert steps == sorted(set(steps))  # no step is told twice


def resumed_at(folder: Path) -> list[int]:
    """The steps at which any main process went on."""
    logs = [folder / f"{name}.log" for name in ("first", "third")]
    lines = "".join(log.read_text() for log in logs if log.exists()).splitlines()
    return [int(line.rpartition(" ")[2]) for line in lines if "resuming from" in line]
