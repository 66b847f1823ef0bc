"""An error that nobody foresaw, such as one of a driver, ends a run with its traceback and exit code 1."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.commands.conftest import CONFIG, ROOT

PROGRAM = """
import sys
from reid import cli
from reid.engine import train
from reid.verbs.train import main

def update(job, step, norm):
    raise RuntimeError("illegal address")

train._update = update
sys.exit(cli.run(main))
"""


@pytest.mark.parametrize("workers", [0, 2])
def test_an_unforeseen_error_ends_the_run(workplace: Path, workers: int) -> None:
    """Also where decoding processes, deaf to signals, are at work."""
    (workplace / "run.yaml").write_text(CONFIG.replace("resnet10t", "test_resnet"))
    command = [sys.executable, "-c", PROGRAM, "run.yaml", f"machine.workers={workers}"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    run = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)
    assert run.returncode == 1
    assert run.stderr.splitlines()[-1] == "RuntimeError: illegal address"
    assert "in update" in run.stderr
