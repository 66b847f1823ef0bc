"""Several processes of one training run: stopped or killed they go on as if nothing had been, and of their errors one line is told."""

import os
import shutil
import signal
import time
from collections.abc import Callable
from multiprocessing.process import BaseProcess
from pathlib import Path

import pytest
import torch.distributed as dist

from reid import config, experiment
from reid.datasets.sampling import FrameSampler
from reid.engine import checkpoint
from reid.rundir import RunDirectory
from tests.commands.test_resume import OVERRIDES, SMALL, assert_same_run, begin, end, stopped  # noqa: F401  a fixture

# A loss that remembers samples, some of which it has pruned when the run ends.
REMEMBERING = [*OVERRIDES, "train.iterations=24", "train.eval_freq=12", "loss={name: gce_truncated, k: 0.27}"]
Start = Callable[..., list[BaseProcess]]


@pytest.fixture(scope="module")
def start(data_root: Path) -> Start:
    """Starts one process per folder given, which meet at a store that outlives them, as with torchrun."""
    stores = []

    def processes(
        *folders: Path, overrides: list[str], last: tuple[str, ...] = (), kill_at: int = 0, root: Path = data_root
    ) -> list[BaseProcess]:
        stores.append(dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False))
        together = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(stores[-1].port), "REID_DATA": str(root)}
        together |= {"TORCHELASTIC_USE_AGENT_STORE": "True", "TORCHELASTIC_RESTART_COUNT": "0"}
        return [
            begin(
                folder,
                kill_at=kill_at * (rank == 0),
                part="metrics.jsonl",
                overrides=[*overrides, *last] if rank == len(folders) - 1 else overrides,
                environment={**together, "WORLD_SIZE": str(len(folders)), "RANK": str(rank)},
            )
            for rank, folder in enumerate(folders)
        ]

    return processes


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory, start: Start) -> Path:
    """An undisturbed run of two processes; tests must not change it."""
    folder = tmp_path_factory.mktemp("both")
    assert [end(process) for process in start(folder, folder, overrides=REMEMBERING)] == [0, 0], (
        folder / "stderr.txt"
    ).read_text()
    memory = checkpoint.load(RunDirectory(folder / "runs/run").last)["loss"]
    kept = memory["keep_N"][memory["latest_N"] < 1]  # of those drawn so far
    assert 0 < kept.sum() < len(kept)
    return folder


def test_two_processes_stop_together_and_go_on(tmp_path: Path, start: Start, both: Path) -> None:
    """SIGUSR1 reaches one of them; both leave at one step, and the end is that of two undisturbed processes."""
    place = tmp_path / "run"
    processes = start(place, place, overrides=REMEMBERING)
    metrics, deadline = place / "runs/run/metrics.jsonl", time.monotonic() + 120
    while not (metrics.exists() and '"step": 4' in metrics.read_text()):
        assert time.monotonic() < deadline
        time.sleep(0.005)
    assert processes[1].pid is not None
    os.kill(processes[1].pid, signal.SIGUSR1)
    assert [end(process) for process in processes] == [128 + signal.SIGUSR1] * 2, (place / "stderr.txt").read_text()
    state = checkpoint.load(place / "runs/run/checkpoints/last.pt")
    assert 4 <= state["step"] < 24
    assert len(state["windows"]) == 2
    go_on(place, start)
    assert_same_run(place, both)


def test_two_processes_are_killed_and_go_on(tmp_path: Path, start: Start, both: Path) -> None:
    place = tmp_path / "run"
    main, other = start(place, place, overrides=REMEMBERING, kill_at=5)
    assert end(main) == -signal.SIGKILL
    assert "error: another process was killed or cannot be reached" in line_of([other], place)
    assert checkpoint.load(place / "runs/run/checkpoints/last.pt")["step"] == 15
    go_on(place, start)
    assert_same_run(place, both)


def go_on(place: Path, start: Start) -> None:
    processes = start(place, place, overrides=REMEMBERING)
    assert [end(process) for process in processes] == [0, 0], (place / "stderr.txt").read_text()


def line_of(processes: list[BaseProcess], *folders: Path) -> str:
    """What the processes, which must all end with exit code 2, say of it: one line."""
    codes = [end(process) for process in processes]
    said = "".join((folder / "stderr.txt").read_text() for folder in folders)
    assert codes == [2] * len(codes), said
    assert "Traceback" not in said
    assert "Connection closed" not in said
    [line] = [line for line in said.splitlines() if "error: " in line]
    return line


@pytest.mark.parametrize("rank", [0, 1])
def test_a_damaged_image_in_one_process_is_one_line(tmp_path: Path, start: Start, data_root: Path, rank: int) -> None:
    root, place = tmp_path / "data", tmp_path / "run"
    shutil.copytree(data_root, root)
    place.mkdir()
    (place / "run.yaml").write_text(SMALL)
    overrides = [*OVERRIDES, "data.holdout=0"]
    settings = config.load(place / "run.yaml", [*overrides, f"data.root={root}"])
    split = experiment.load_data(settings).train.split
    image = split.path(FrameSampler(split, 8, settings.seed)(2)[rank])  # not yet seen in the first two steps
    image.write_bytes(b"")
    line = line_of(start(place, place, overrides=overrides, root=root), place)
    assert line.startswith(f"error: {image}: damaged image (an empty file)")


def test_a_process_without_a_device_is_one_line(tmp_path: Path, start: Start) -> None:
    """As where more processes are started than there are GPUs; the others must not wait for it."""
    place = tmp_path / "run"
    line = line_of(start(place, place, overrides=OVERRIDES, last=("machine.device=cuda:99",)), place)
    assert line.startswith("error: ") and "cuda:99" in line


def test_an_error_before_the_first_step_is_one_line(tmp_path: Path, start: Start, stopped: Path) -> None:  # noqa: F811
    """Only the main process looks at the run directory."""
    place = tmp_path / "run"
    shutil.copytree(stopped, place)
    (place / "stderr.txt").unlink()
    line = line_of(start(place, place, overrides=[*OVERRIDES, "train.lr=0.02"]), place)
    assert "cannot resume, trained with a different config" in line


@pytest.mark.parametrize(("found", "steps"), [("older", "9, 6"), ("none", "9, 0")])
def test_processes_that_find_different_checkpoints_are_one_line(
    tmp_path: Path,
    start: Start,
    stopped: Path,  # noqa: F811
    found: str,
    steps: str,
) -> None:
    """As on nodes with a run directory each."""
    here, there = tmp_path / "here", tmp_path / "there"
    for folder in (here, there):
        shutil.copytree(stopped, folder)
        (folder / "stderr.txt").unlink()
    files = RunDirectory(there / "runs/run")
    files.last.unlink()
    if found == "none":
        files.previous.unlink()
    before = (here / "runs/run/metrics.jsonl").read_bytes()
    line = line_of(start(here, there, overrides=OVERRIDES), here, there)
    assert f"the processes found checkpoints at different steps ({steps} by rank); put the run directory where" in line
    assert (here / "runs/run/metrics.jsonl").read_bytes() == before
