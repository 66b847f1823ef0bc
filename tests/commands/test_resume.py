"""A run may be killed at any moment: what `--resume auto` makes of it equals the undisturbed run, bit for bit.

Runs are killed by themselves, just before the n-th time they change a file, in processes forked after the slow imports.
"""

import contextlib
import csv
import json
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tqdm import tqdm

from reid import cli, experiment, files
from reid.config import Config, load
from reid.engine import checkpoint
from reid.errors import ConfigError
from reid.rundir import RunDirectory
from tests.commands.conftest import CONFIG, HELD_OUT, call

# Checkpoints lie between two log lines; a sum of losses, the average, the held-out identities and best.pt take part.
SMALL = CONFIG.replace("resnet10t", "test_resnet").replace("log_freq: 4, checkpoint_freq: 5", "log_freq: 4, ema: 0.9")
LOSSES = "loss=[{name: imae, T: 8.0}, {name: triplet, weight: 0.5, weights: w}, {name: centre, weight: 1e-3}]"  # one has a state
OVERRIDES = [LOSSES, "train.checkpoint_freq=3", "train.eval_freq=5", "data.holdout=0.4", "test.protocols=market1501"]
TIMES = {"seconds", "data_seconds", "images_per_second"}
CHANGES = {"open": lambda path, mode, flags: flags & (os.O_WRONLY | os.O_RDWR), "os.rename": lambda *_: True}
CHANGES |= {"os.remove": CHANGES["os.rename"], "os.mkdir": CHANGES["os.rename"]}

FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload(["reid.commands.train", "reid.report.plots", "torch.utils.tensorboard"])


def kill_before_change(number: int, part: str) -> None:
    """SIGKILL to this process just before the `number`-th change of a file under the current folder with `part` in its path."""
    here, left = f"{os.getcwd()}/", number

    def watch(event: str, arguments: tuple[Any, ...]) -> None:
        nonlocal left
        if event in CHANGES and CHANGES[event](*arguments):
            path = os.path.abspath(str(arguments[0]))
            left -= path.startswith(here) and part in path
            if left <= 0:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(watch)


def train(folder: Path, kill_at: int, part: str, environment: Mapping[str, str], overrides: list[str]) -> None:
    """What a process does, which then ends; its stderr is kept in the folder."""
    os.chdir(folder)
    os.environ.update(environment)
    torch.set_num_threads(1)
    tqdm.set_lock(threading.RLock())  # its own would have a semaphore, which nobody puts away after a kill
    sys.stdout = sys.stderr = open("stderr.txt", "a")  # noqa: SIM115
    if kill_at:
        kill_before_change(kill_at, part)
    code = call("train", "run.yaml", "--resume", "auto", *overrides)
    sys.stderr.flush()
    os._exit(code)


def begin(
    folder: Path,
    *,
    kill_at: int = 0,
    part: str = "",
    overrides: list[str] = OVERRIDES,
    environment: Mapping[str, str] = {},
) -> BaseProcess:
    folder.mkdir(exist_ok=True)
    (folder / "run.yaml").write_text(SMALL)
    process = FORKS.Process(target=train, args=(folder, kill_at, part, {**os.environ, **environment}, overrides))
    process.start()
    return process


def end(process: BaseProcess) -> int:
    process.join(120)
    assert process.exitcode is not None
    return process.exitcode


def rows_of(folder: Path) -> list[dict[str, Any]]:
    """metrics.jsonl without what a clock says."""
    lines = (folder / "runs/run/metrics.jsonl").read_text().splitlines()
    return [{key: value for key, value in json.loads(line).items() if key not in TIMES} for line in lines]


def assert_same(ours: Any, theirs: Any) -> None:
    """Bit for bit, however deep."""
    if isinstance(theirs, torch.Tensor):
        assert torch.equal(ours, theirs)
    elif isinstance(theirs, dict):
        assert ours.keys() == theirs.keys()
        for key in theirs:
            assert_same(ours[key], theirs[key])
    else:
        assert ours == theirs


def assert_same_run(folder: Path, whole: Path) -> None:
    for name in ("last", "best"):
        ours, theirs = (checkpoint.load(run / f"runs/run/checkpoints/{name}.pt") for run in (folder, whole))
        for state in (ours, theirs):
            state["windows"] = state["windows"][:, :-2]  # the last two are times
        assert_same(ours, theirs)
    assert rows_of(folder) == rows_of(whole)
    assert (folder / "runs/run/eval.json").read_text() == (whole / "runs/run/eval.json").read_text()
    files = [{p.name for p in (run / "runs/run").rglob("*") if "events" not in p.name} for run in (folder, whole)]
    assert files[0] == files[1]  # nothing half-written stays


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, data_root: Path) -> Path:
    """An undisturbed run; tests must not change it."""
    folder = tmp_path_factory.mktemp("whole")
    assert end(begin(folder, environment={"REID_DATA": str(data_root)})) == 0, (folder / "stderr.txt").read_text()
    return folder


@pytest.fixture
def place(tmp_path: Path, data_root: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("REID_DATA", str(data_root))
    return tmp_path / "run"


@pytest.fixture(scope="module")
def stopped(tmp_path_factory: pytest.TempPathFactory, data_root: Path) -> Path:
    """A run killed before its last line of metrics, with checkpoints of steps 6 and 9; tests must not change it."""
    folder = tmp_path_factory.mktemp("stopped")
    process = begin(folder, kill_at=4, part="metrics.jsonl", environment={"REID_DATA": str(data_root)})
    assert end(process) == -signal.SIGKILL
    files = RunDirectory(folder / "runs/run")
    assert [checkpoint.load(file)["step"] for file in (files.last, files.previous)] == [9, 6]
    return folder


def test_killed_again_and_again(place: Path, whole: Path) -> None:
    """Every start gets three changes of files further than the one before, until one reaches the end."""
    kills, metrics = 0, place / "runs/run/metrics.jsonl"
    while (code := end(begin(place, kill_at=3 * kills + 1))) != 0:
        assert code == -signal.SIGKILL, (place / "stderr.txt").read_text()
        kills += 1
        last = RunDirectory(place / "runs/run").last
        if metrics.exists() and not (last.exists() and checkpoint.load(last)["step"] == 12):
            with open(metrics, "a") as file:  # as a kill in the middle of a line would leave it
                file.write('{"schema": 1, "step": 9, "lo')
    assert kills > 8
    assert_same_run(place, whole)
    board = EventAccumulator(str(place / "runs/run/tensorboard")).Reload()
    shown = [(event.step, event.value) for event in board.Scalars("train/loss")]
    assert shown == [(row["step"], pytest.approx(row["loss"])) for row in rows_of(place)]


@pytest.mark.parametrize("damage", ["flipped", "gone"])
def test_the_checkpoint_before_stands_in(place: Path, stopped: Path, whole: Path, damage: str) -> None:
    """`gone` is what a kill between the two renames leaves."""
    shutil.copytree(stopped, place)
    files = RunDirectory(place / "runs/run")
    data = files.last.read_bytes()
    if damage == "gone":
        files.last.unlink()
    else:
        middle = len(data) // 2
        files.last.write_bytes(data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :])
    before = len((place / "stderr.txt").read_text())
    assert end(begin(place)) == 0
    said = (place / "stderr.txt").read_text()[before:]
    assert "previous.pt at step 6" in said
    assert ("resuming from the previous checkpoint, runs/run/checkpoints/previous.pt, instead" in said) == (
        damage != "gone"
    )
    assert ("runs/run/checkpoints/last.pt: damaged" in said) == (damage != "gone")
    assert_same_run(place, whole)


def test_two_damaged_checkpoints_are_one_line(
    place: Path, stopped: Path, monkeypatch: pytest.MonkeyPatch, fails
) -> None:
    shutil.copytree(stopped, place)
    monkeypatch.chdir(place)
    files = RunDirectory(Path("runs/run"))
    for file in (files.last, files.previous):
        file.write_bytes(file.read_bytes()[:5000])
    before = files.metrics.read_bytes()
    message = fails("train", "run.yaml", "--resume", "auto", *OVERRIDES)
    assert "last.pt: damaged" in message
    assert "previous.pt: damaged" in message
    assert files.metrics.read_bytes() == before


def test_overwriting_can_be_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After every removal either the old run's checkpoint still has all its rows, or there is none and the new run starts from nothing."""
    directory = RunDirectory(tmp_path)
    directory.prepare(Config(), overwrite=False)
    files = (directory.last, directory.previous, directory.best, directory.metrics, directory.results, directory.report)
    removed: list[Path] = []
    unlink = Path.unlink

    def watched(path: Path, missing_ok: bool = False) -> None:
        unlink(path, missing_ok)
        removed.append(path)
        assert directory.metrics.exists() or not directory.resumable()
        assert directory.last.exists() or not directory.previous.exists()
        assert directory.last.exists() or not directory.results.exists()

    for file in files:
        file.parent.mkdir(exist_ok=True)
        file.write_text("old")
    monkeypatch.setattr(Path, "unlink", watched)
    directory.prepare(Config(), overwrite=True)
    assert set(files) <= set(removed)


def test_a_kill_before_the_config_leaves_no_foreign_folder(tmp_path: Path) -> None:
    directory = RunDirectory(tmp_path)
    killed = subprocess.Popen([sys.executable, "-c", ""])
    killed.wait()
    (tmp_path / f".config.yaml.{files._host()}.{killed.pid}.tmp").write_text("na")
    directory.check(Config(), resume=True, overwrite=False)
    directory.prepare(Config(), overwrite=False)
    assert [path.name for path in tmp_path.iterdir()] == ["config.yaml"]
    another = tmp_path / f".audit.csv.{files._host()}.{os.getppid()}.tmp"  # of a process that lives: an audit, say
    another.write_text("na")
    directory.prepare(Config(), overwrite=False)
    assert another.exists()
    another.unlink()
    (tmp_path / "config.yaml").rename(tmp_path / "thesis.txt")
    with pytest.raises(ConfigError, match="is not a run directory"):
        directory.check(Config(), resume=True, overwrite=False)


def test_images_left_out_are_listed_across_a_resume(place: Path, tmp_path: Path, data_root: Path) -> None:
    shutil.copytree(data_root, tmp_path / "data")
    bad = sorted((tmp_path / "data/demo/bbox_train").rglob("*.jpg"))[::5]
    of_test = sorted((tmp_path / "data/demo/bbox_test").rglob("*F002.jpg"))[-1]
    bad.append(of_test)
    for image in bad:
        image.write_bytes(image.read_bytes()[:300])
    overrides = [*OVERRIDES, "data.damaged=skip", "data.holdout=0.0", f"data.root={tmp_path / 'data'}"]
    assert end(begin(place, overrides=overrides)) == 0, (place / "stderr.txt").read_text()
    listed = (place / "runs/run/damaged.csv").read_text()
    rows = list(csv.reader(listed.splitlines()))
    assert rows[0] == ["path", "reason"]
    assert {Path(path) for path, _ in rows[1:]} <= set(bad)
    assert len(rows) > 3
    assert str(of_test) in listed
    assert f"{len(rows) - 1} unreadable (damaged.csv)" in (place / "runs/run/report.html").read_text()
    assert f"{len(rows) - 2} images were left out (first: " in (place / "runs/run/log.txt").read_text()
    for kill_at in (3, 2):
        process = begin(tmp_path / "killed", kill_at=kill_at, part="metrics.jsonl", overrides=overrides)
        assert end(process) == -signal.SIGKILL
    assert end(begin(tmp_path / "killed", overrides=overrides)) == 0
    assert (tmp_path / "killed/runs/run/damaged.csv").read_text() == listed


def test_the_echo_of_a_signal_is_no_second_one(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr(cli.time, "monotonic", lambda: now)
    with cli.StopFlag() as stop:
        for signum in (
            signal.SIGUSR1,
            signal.SIGTERM,
        ):  # as a cluster manager and torchrun send them, one after the other
            signal.raise_signal(signum)
        assert stop.signum == signal.SIGUSR1
        now += 1.5
        with pytest.raises(cli.Interrupted) as interrupted:
            signal.raise_signal(signal.SIGUSR1)
    assert interrupted.value.code == 138


def test_a_signal_before_training_ends_the_tool_at_once() -> None:
    before = [signal.getsignal(signum) for signum in cli.STOPPING]
    try:
        assert cli.run(lambda: signal.raise_signal(signal.SIGUSR1)) == 138
        assert cli.run(lambda: signal.raise_signal(signal.SIGTERM)) == 143
    finally:
        for signum, handler in zip(cli.STOPPING, before, strict=True):
            signal.signal(signum, handler)


def test_a_signal_after_all_is_done_changes_nothing() -> None:
    """As torchrun sends it to the processes that are ending because one has failed."""
    before = [signal.getsignal(signum) for signum in cli.STOPPING]
    try:
        assert cli.run(lambda: 2) == 2
        for signum in cli.STOPPING[1:]:
            signal.raise_signal(signum)
    finally:
        for signum, handler in zip(cli.STOPPING, before, strict=True):
            signal.signal(signum, handler)


def test_a_checkpoint_of_its_own_is_kept_however_it_is_spelled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    directory = RunDirectory(Path("run"))
    directory.previous.parent.mkdir(parents=True)
    directory.previous.write_text("good")
    directory.last.write_text("bad")
    directory.adopt(directory.last.absolute())
    assert (directory.last.read_text(), directory.previous.read_text()) == ("bad", "good")
    directory.adopt(directory.previous.absolute())
    assert (directory.last.read_text(), directory.previous.read_text()) == ("good", "good")
    other = tmp_path / "other.pt"
    other.write_text("other")
    directory.adopt(other)
    assert directory.last.read_text() == "other" and not directory.previous.exists()


def test_more_iterations_are_those_of_a_run_that_was_meant_to_be_longer(
    data_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Bit for bit: the rate of the schedule `step` does not depend on the end."""
    monkeypatch.setenv("REID_DATA", str(data_root))
    monkeypatch.chdir(tmp_path)
    Path("run.yaml").write_text(SMALL)
    assert call("train", "run.yaml", "--output-dir", "long", "train.iterations=8") == 0
    assert call("train", "run.yaml", "--output-dir", "grown", "train.iterations=5") == 0
    assert call("train", "run.yaml", "--output-dir", "grown", "train.iterations=8", "--resume", "auto") == 0
    ours, theirs = (checkpoint.load(Path(name) / "checkpoints/last.pt") for name in ("grown", "long"))
    for part in ("model", "ema", "optimizer", "step", "config"):
        assert_same(ours[part], theirs[part])
    assert RunDirectory(Path("grown")).config().train.iterations == 8
    assert json.loads(Path("grown/eval.json").read_text()) == json.loads(Path("long/eval.json").read_text())


def test_fewer_iterations_than_are_done_are_refused(trained: Path, workplace: Path, fails: Any) -> None:
    run = Path(shutil.copytree(trained, workplace / "runs/run"))
    kept = (run / "checkpoints/last.pt").read_bytes()
    message = fails("train", "run.yaml", *HELD_OUT, "test.baselines=true", "train.iterations=9", "--resume", "auto")
    assert "cannot resume with train.iterations=9 in place of 12: 12 steps are done already" in message
    assert (run / "checkpoints/last.pt").read_bytes() == kept
    assert RunDirectory(run).config().train.iterations == 12


@pytest.mark.parametrize(
    ("overrides", "reason"),
    [
        ([], None),
        (["train.schedule={name: constant}", "train.warmup=3"], None),
        (["train.schedule={name: milestones, at: [2, 5]}"], None),
        (["train.schedule={name: cosine}"], "the schedule cosine depends on it: step 2 was done at 0.97"),
        (["loss={name: gce_truncated}"], "the loss depends on it; start a new run"),
    ],
)
def test_a_run_may_be_longer_where_its_past_would_be_the_same(
    overrides: list[str], reason: str | None, tmp_path: Path
) -> None:
    (tmp_path / "run.yaml").write_text(SMALL)
    before, now = (load(tmp_path / "run.yaml", [*overrides, f"train.iterations={n}"]) for n in (10, 20))
    with pytest.raises(ConfigError, match=reason) if reason else contextlib.nullcontext():
        experiment.require_same_past(before, now, 10, "last.pt")
