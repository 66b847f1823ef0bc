"""Commands that are killed at a random moment, by one of three signals, and given again: the end is as if nothing had happened.

A few of the quick ones in every run of the tests; all of them with `FAULTS=1000 make faults`, which kills the quick ones 25 times each,
the others 5.
"""

import hashlib
import json
import multiprocessing
import os
import random
import re
import shutil
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from tqdm import tqdm

from reid.datasets.demo import write_demo
from reid.engine import checkpoint
from reid.export import deployed
from reid.gallery import store
from reid.rundir import RunDirectory
from tests.cifar.conftest import BATCHES, META, TINY, batch, write
from tests.commands.conftest import ROOT, call
from tests.faults.conftest import FAULTS, TALLY
from tests.faults.test_disks_and_kills import SEED, keys_of, make_gallery
from tests.faults.test_networks import TINY as TRAINING
from tests.faults.test_networks import tiny_run
from tests.faults.test_tables import FRAMES, pictures

pytestmark = [pytest.mark.faults, pytest.mark.skipif(sys.platform != "linux", reason="forks")]
SIGNALS = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT)
ENDINGS = (0, *(-sent for sent in SIGNALS), 128 + signal.SIGTERM, 128 + signal.SIGINT)
SECONDS = 120.0


class Command(NamedTuple):
    """A command, as it is given in a folder of its own; what it leaves, to compare; what is there before."""

    argv: Callable[[Path], list[Any]]
    result: Callable[[Path], Any]
    before: Callable[[Path, Path], Any] = lambda source, folder: None
    quick: bool = True


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the commands read: a dataset, a run, pictures with boxes. A link in every folder leads here."""
    folder = tmp_path_factory.mktemp("source")
    write_demo(
        folder / "demo", train_ids=4, test_ids=3, tracklets_per_id=4, min_frames=2, max_frames=4, distractors=1, junk=1
    )
    (folder / "run.yaml").write_text(TRAINING)
    (folder / "run").mkdir()
    tiny_run(folder / "run")
    shutil.copyfile(folder / "run/checkpoints/last.pt", folder / "last.pt")
    pictures(folder / "frames", *FRAMES)
    lines = [{"path": FRAMES[i % 4], "tracklet": i // 4, "pid": i // 8, "bbox": [i % 3, 1, 4, 9]} for i in range(64)]
    (folder / "frames/a.jsonl").write_text("\n".join(map(json.dumps, lines)))
    return folder


def files(*places: str) -> Callable[[Path], dict[str, str]]:
    """Names and SHA-256 of all files in some folders."""

    def read(folder: Path) -> dict[str, str]:
        found = [file for place in places for file in [folder / place, *(folder / place).rglob("*")] if file.is_file()]
        return {file.relative_to(folder).as_posix(): hashlib.sha256(content(file)).hexdigest() for file in found}

    return read


def content(file: Path) -> bytes:
    """Without what differs from time to time: the date in a MATLAB file, the seconds in a record."""
    data = file.read_bytes()
    return data[128:] if file.suffix == ".mat" else re.sub(rb'"seconds": *[\d.e-]+', b"", data)


def rows_of(folder: Path) -> Any:
    held = store.open_gallery(folder / "out").features
    return (
        hashlib.sha256(held.features.tobytes()).hexdigest(),
        held.key.tolist(),
        held.pid.tolist(),
        held.camid.tolist(),
    )


def trained(folder: Path) -> Any:
    directory = RunDirectory(folder / "out")
    state = checkpoint.load(directory.last)
    rows = [{key: value for key, value in row.items() if "second" not in key} for row in directory.read_metrics()]
    return (
        {key: value.tolist() for key, value in state["model"].items()},
        state["step"],
        [row.get("loss") for row in rows],
    )


def exported(folder: Path) -> Any:
    run, about = deployed.load(folder / "out.pt", "torchscript")
    return run(np.zeros((1, 36, 20, 3), np.uint8))[0].tolist(), json.loads(about)["fingerprint"]


def with_dataset(source: Path, folder: Path) -> None:
    shutil.copytree(source / "demo", folder / "demo")


def with_gallery(source: Path, folder: Path) -> None:
    make_gallery(folder / "out")


def cifar(source: Path, folder: Path) -> None:
    """An official folder of noise, in its official size."""
    place, rng = source / "cifar-10-batches-py", np.random.default_rng(0)
    if not place.exists():
        place.mkdir()
        for name in [*BATCHES, "test_batch"]:
            images = np.frombuffer(rng.bytes(10_000 * 3072), np.uint8).reshape(-1, 3072)
            write(place / name, batch(images, labels=rng.integers(10, size=10_000).tolist()))
        write(place / "batches.meta", META)


CPU = "machine.device=cpu"
SWITCHES = "data.noise={name: switches, rate: 0.2, seed: 0}"
COMMANDS: dict[str, Command] = {
    "import": Command(
        lambda at: ["import", at / "frames/a.jsonl", "--crops", "crops", "--out", "tracks.csv"], files("crops", "tracks.csv")
    ),
    "extract": Command(
        lambda at: ["extract", at / "run", at / "demo", "--out", "out", "--resume", "auto", "--shard", "5", CPU],
        rows_of,
    ),
    "pack": Command(lambda at: ["pack", "demo", "--resume", "auto"], files("demo"), with_dataset),
    "gallery remove": Command(lambda at: ["gallery", "remove", "out", "t5"], lambda folder: keys_of(folder / "out"), with_gallery),
    "gallery index": Command(
        lambda at: ["gallery", "index", "out", "Flat"], lambda folder: keys_of(folder / "out"), with_gallery
    ),
    "noise": Command(lambda at: ["noise", at / "run.yaml", SWITCHES, f"data.root={at}", "--out", "n.csv"], files("n.csv"), quick=False),
    "train": Command(
        lambda at: ["train", at / "run.yaml", "--output-dir", "out", "--resume", "auto", f"data.root={at}"], trained, quick=False
    ),
    "audit": Command(lambda at: ["audit", "out", "--out", "audited"], files("audited/audit.csv"), with_gallery, quick=False),
    "export": Command(
        lambda at: ["export", at / "run", "--format", "torchscript", "--out", "out.pt", f"data.root={at}"], exported, quick=False
    ),
    "render": Command(
        lambda at: ["render", "--out", "demo", "--workers", "2", "--train-ids", "20", "--test-ids", "10"], files("demo"), quick=False
    ),
    "cifar": Command(
        lambda at: ["cifar", ROOT / "configs/cifar10_quick.yaml", *TINY, "loss={name: cce}", f"data.root={at}", "--device", "cpu",
                    "--output-dir", "out", "--resume", "auto"],
        files("out/cells", "out/table.csv"),
        cifar,
        quick=False,
    ),
}  # fmt: skip


def given_in(folder: Path, argv: list[Any]) -> None:
    """What a process of a group of its own does; what it says is kept."""
    os.setsid()
    os.chdir(folder)
    torch.set_num_threads(1)
    tqdm.set_lock(threading.RLock())  # its own would have a semaphore, which nobody puts away after a kill
    sys.stdout = sys.stderr = open("said.txt", "a")  # noqa: SIM115
    code = call(*argv)
    sys.stderr.flush()
    os._exit(code)


def give(
    folder: Path, argv: list[Any], after: float | None = None, sent: signal.Signals = signal.SIGKILL
) -> tuple[int, float]:
    """The exit code, and how long it took; killed after so many seconds where that is asked for."""
    process = multiprocessing.get_context("fork").Process(target=given_in, args=(folder, argv))
    began = time.monotonic()
    process.start()
    if after is not None:
        process.join(after)
        if process.is_alive():
            os.killpg(process.pid, sent) if os.getpgid(process.pid) == process.pid else os.kill(process.pid, sent)
    process.join(SECONDS)
    assert process.exitcode is not None, f"{argv[0]} goes on for ever"
    return process.exitcode, time.monotonic() - began


CHOSEN = [name for name, command in COMMANDS.items() if command.quick or "FAULTS" in os.environ]


@pytest.mark.parametrize("name", CHOSEN)
@pytest.mark.filterwarnings("ignore")
def test_killed_at_a_random_moment_and_given_again(name: str, source: Path, tmp_path: Path) -> None:
    command, draw, outcome = COMMANDS[name], random.Random(f"{SEED} {name}"), TALLY[f"killed: {name}"]
    (tmp_path / "whole").mkdir()
    command.before(source, tmp_path / "whole")
    argv = command.argv(source)
    code, seconds = give(tmp_path / "whole", argv)
    assert code == 0, (tmp_path / "whole/said.txt").read_text()
    expected = command.result(tmp_path / "whole")
    for number in range(max(1, FAULTS // (40 if command.quick else 200))):
        folder = tmp_path / str(number)
        folder.mkdir()
        command.before(source, folder)
        sent = draw.choice(SIGNALS)
        code, _ = give(folder, argv, draw.uniform(0, seconds), sent)
        said = (folder / "said.txt").read_text() if (folder / "said.txt").exists() else ""
        assert code in ENDINGS and "Traceback" not in said, f"{sent.name}: exit code {code}: {said}"
        outcome["tried"] += 1
        outcome["taken" if code == 0 else "refused"] += 1
        again, took = give(folder, argv)
        said = (folder / "said.txt").read_text()
        assert again == 0 or (again == 2 and code == 0), f"{sent.name}, then exit code {again}: {said}"
        outcome["slowest"] = max(outcome["slowest"], took)
        assert command.result(folder) == expected, f"{sent.name}: another result"
        left = [file for file in folder.rglob("*") if file.name.endswith((".tmp", ".partial"))]
        assert not left, f"{sent.name} left {left}"
        shutil.rmtree(folder)
