"""The study's tool as people call it: what it writes, what it answers to bad input, and how it stops."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from reid import cli, config
from reid.cifar.config import StudyConfig
from reid.verbs.cifar import main
from tests.cifar.conftest import ROOT, TINY

CONFIG = "configs/cifar10_quick.yaml"


@pytest.mark.parametrize(
    ("overrides", "error"),
    [
        (["data.root=/nowhere"], "cifar-10-batches-py"),
        (["noise={name: symmetric, rate: 1.5, seed: 0}"], "rate: expected"),
        (["data.train_images=50001"], "data.train_images: expected"),
        (["grid.loss=cce"], "grid: unknown key"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(
    overrides: list[str], error: str, official: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    argv = [str(ROOT / CONFIG), f"data.root={official}", *TINY, *overrides, "--output-dir", str(tmp_path / "out")]
    assert cli.run(lambda: main(argv)) == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error")]
    assert len(lines) == 1 and error in lines[0]
    assert not (tmp_path / "out").exists()


def command_of(root: Path, out: Path, *overrides: str) -> list[str]:
    options = ["--data-root", str(root), "--device", "cpu", "--output-dir", str(out)]
    return [sys.executable, "tools/cifar.py", CONFIG, *TINY, *overrides, *options]


def test_the_tool_trains_reports_and_goes_on(official: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    command = command_of(official, out, "loss=[{name: cce}, {name: imae, T: 8.0}]")
    first = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert first.returncode == 0, first.stderr
    assert "IMAE (T = 8)" in first.stdout and "step 6 of 6" in first.stderr
    assert sorted(path.name for path in out.iterdir()) == [
        "cells", "config.yaml", "figures", "labels", "log.txt", "report.html", "table.csv", "table.md",
    ]  # fmt: skip
    assert "2 of 2 cells to train" in (out / "log.txt").read_text()
    assert config.load(out / "config.yaml", schema=StudyConfig).train.iterations == 6
    again = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert again.returncode == 2 and "--resume auto" in again.stderr
    before = {path: path.stat().st_mtime_ns for path in (out / "cells").iterdir()}
    more = subprocess.run([*command, "--resume", "auto"], cwd=ROOT, capture_output=True, text=True)
    assert more.returncode == 0 and "0 of 2 cells to train" in more.stderr
    assert more.stdout == first.stdout
    assert {path: path.stat().st_mtime_ns for path in (out / "cells").iterdir()} == before


def started(command: list[str], line: str) -> subprocess.Popen[str]:
    """The command, once it has logged the line."""
    process = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True, start_new_session=True)
    assert process.stderr is not None
    while line not in process.stderr.readline():
        assert process.poll() is None
    return process


def test_ctrl_c_reaches_the_whole_group_and_loses_nothing(official: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    command = command_of(official, out, "train.iterations=100000", "train.points=100000", "loss={name: cce}")
    process = started(command, "step 2 of")
    second = subprocess.run([*command, "--resume", "auto"], cwd=ROOT, capture_output=True, text=True)
    assert second.returncode == 2 and "another process is training this study" in second.stderr
    os.killpg(process.pid, signal.SIGINT)
    rest = process.communicate(timeout=120)[1]
    assert process.returncode == 130, rest
    assert "Traceback" not in rest
    (kept,) = (out / "cells").iterdir()
    state = torch.load(kept, weights_only=True)
    assert state["cell"]["steps"] >= state["curve"]["step"][-1] >= 2
    process = started([*command, "--resume", "auto"], "cells to train")
    os.killpg(process.pid, signal.SIGTERM)  # also meets the cell's process, which is not ready for it yet
    rest = process.communicate(timeout=120)[1]
    assert process.returncode == 143 and "error" not in rest, rest
