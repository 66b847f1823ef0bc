"""Images of one's own table that are not there, or cannot be read: told before the first step where that can be known, else at the end."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.commands.conftest import CONFIG, call

PEOPLE = ["ann", "ben", "cleo", "dan", "eve"]
SETTINGS = ["data.damaged=skip", "train.iterations=4", "train.schedule.every=2"]


@pytest.fixture
def table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """tracks.csv with two cameras, two pictures each, of five people; ann and ben are tested, the others trained on."""
    rng, rows = np.random.default_rng(0), ["path,tracklet,pid,camid,split"]
    for person in PEOPLE:
        (tmp_path / person).mkdir()
        for i in range(4):
            Image.fromarray(rng.integers(0, 256, (32, 16, 3), dtype=np.uint8)).save(tmp_path / person / f"{i}.jpg")
            part = "test" if person in ("ann", "ben") else "train"
            rows.append(f"{person}/{i}.jpg,{person}-{i // 2},{person},gate {i // 2},{part}")
    (tmp_path / "tracks.csv").write_text("\n".join(rows))
    (tmp_path / "run.yaml").write_text(CONFIG.replace("{name: demo}", "{name: manifest, path: tracks.csv}"))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def damage(folder: Path, *, away: bool = False) -> None:
    for path in folder.iterdir():
        path.unlink() if away else path.write_bytes(b"")


def test_a_wrong_path_is_told_before_weights_are_fetched(table: Path, fails) -> None:
    (table / "dan/3.jpg").unlink()
    # No file of weights is there either: what is asked for first is told first.
    line = fails("train", "run.yaml", "model.weights=nowhere.pth")
    assert "/dan/3.jpg: cannot read this image: no such file (of tracklet dan-1); 1 of 12 images are missing" in line
    assert not (table / "runs").exists()


def test_a_batch_too_small_is_told_before_weights_are_fetched(table: Path, fails) -> None:
    assert "train.batch_size: expected at least 2" in fails(
        "train", "run.yaml", "train.batch_size=1", "model.weights=no.pth"
    )


@pytest.mark.parametrize("flags", [[], ["--dry-run"]])
def test_a_person_whose_pictures_are_not_there_is_told_at_the_start(
    flags: list[str], table: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    damage(table / "dan", away=True)
    assert call("train", "run.yaml", *SETTINGS, *flags) == 0
    lines = capsys.readouterr().err.splitlines()
    expected = [
        "tracks: 4 of 12 images to train on are missing and are left out, all those of 2 tracklets, such as dan-0",
        "tracks: 1 person has no image that is there, so nothing is learned about them: dan",
    ]
    places = [lines.index(line) for line in expected]
    step = next(i for i, line in enumerate(lines) if line.startswith(("iter ", "one step")))
    assert max(places) < step
    if not flags:
        log = (table / "runs/run/log.txt").read_text()
        assert all(line in log for line in expected)


def test_one_person_left_is_nobody_to_tell_apart(table: Path, fails) -> None:
    for person in ("dan", "eve"):
        damage(table / person, away=True)
    line = fails("train", "run.yaml", *SETTINGS)
    assert "tracks: 2 of 3 persons to train on have no existing image, such as dan; expected at least 2" in line


def test_a_person_whose_pictures_are_damaged_is_told_at_the_end(
    table: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    damage(table / "dan")
    assert call("train", "run.yaml", *SETTINGS) == 0
    told = [line for line in capsys.readouterr().err.splitlines() if "nothing is learned" in line]
    assert told == ["1 person has no image that could be read, so nothing is learned about them: dan"]


def test_a_tracklet_that_cannot_be_tested_is_told_at_the_start(table: Path, fails) -> None:
    for i in (2, 3):
        (table / "ben" / f"{i}.jpg").unlink()
    line = fails("train", "run.yaml", *SETTINGS)
    assert (
        "/ben/2.jpg: no such image, nor any other of the 2 images of tracklet ben-1; restore them, or remove it" in line
    )
    assert not (table / "runs").exists()


def test_a_test_names_the_tracklet_it_cannot_judge(table: Path, fails, capsys: pytest.CaptureFixture[str]) -> None:
    assert call("train", "run.yaml", *SETTINGS) == 0
    damage(table / "ben", away=True)
    capsys.readouterr()
    line = fails("test", "runs/run")
    assert (
        "/ben/0.jpg: no such image, nor any other of the 2 images of tracklet ben-0 (and 1 more tracklet like it)"
        in line
    )
