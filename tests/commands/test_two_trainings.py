"""Two trainings in one folder: the second is turned away, whatever it was asked for, and changes nothing."""

import os
from pathlib import Path

import pytest

from reid.files import LOCK
from reid.rundir import RunDirectory
from tests.commands.conftest import call


@pytest.mark.parametrize("flags", [[], ["--resume", "auto"], ["--overwrite"]])
def test_the_second_is_turned_away(workplace: Path, fails, flags: list[str]) -> None:
    with RunDirectory(Path("runs/run")).held():
        line = fails("train", "run.yaml", *flags)
    assert line.startswith("error: runs/run: another program is training this run; wait until it finishes")
    assert os.listdir() == ["run.yaml"]  # neither the folder nor the one above it was there before


def test_the_folder_is_free_again_afterwards(workplace: Path) -> None:
    for flags in ([], ["--resume", "auto"]):
        assert call("train", "run.yaml", *flags) == 0
        assert not (Path("runs/run") / LOCK).exists()


def test_a_dry_run_beside_a_training_is_no_matter(workplace: Path) -> None:
    with RunDirectory(Path("runs/run")).held():
        assert call("train", "run.yaml", "--dry-run") == 0
