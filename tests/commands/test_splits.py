"""All published splits from one command: a run for each, gone on with where it was stopped, and the mean of their figures."""

import contextlib
import io
import json
import shutil
import statistics
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from scipy.io import savemat

from reid.commands import splits
from reid.datasets.mars import load_mars
from reid.engine import checkpoint
from reid.tracklets import Tracklet
from tests.commands.conftest import CONFIG, call

SPLITS = 2
SHORT = ["train.iterations=2", "train.checkpoint_freq=1", "data.split=all"]


@pytest.fixture(scope="module", autouse=True)
def few() -> Iterator[None]:
    """Two splits are trained, not ten, to be quick."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(splits, "NUM_SPLITS", SPLITS)
        yield


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, data_root: Path) -> Path:
    """The demo's people, two cameras each, as iLIDS-VID lays them out, and a config beside them."""
    folder = tmp_path_factory.mktemp("splits")
    demo, root = load_mars(data_root / "demo", "demo"), folder / "ilids-vid"
    seen: dict[int, list[Tracklet]] = {}
    for track in (*demo.train, *demo.test):
        if track.pid > 0:
            seen.setdefault(track.pid, []).append(track)
    for person, tracks in seen.items():
        for camera, track in enumerate(tracks[:2], start=1):
            for number, path in enumerate(track.paths):
                name = f"cam{camera}_person{person:03d}_{number:05d}{path.suffix}"
                image = root / f"i-LIDS-VID/sequences/cam{camera}/person{person:03d}" / name
                image.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(path, image)
    orders = np.array([np.random.default_rng(i).permutation(len(seen)) + 1 for i in range(10)])
    (root / "train-test people splits").mkdir()
    savemat(root / "train-test people splits/train_test_splits_ilidsvid.mat", {"ls_set": orders})
    (folder / "run.yaml").write_text(CONFIG.replace("name: demo", f"name: ilids-vid, root: {folder}"))
    return folder


@pytest.fixture(scope="module")
def trained(place: Path) -> tuple[Path, str]:
    """The runs of all splits, and what was printed; tests must not change them."""
    with contextlib.redirect_stdout(io.StringIO()) as out:
        assert call("train", place / "run.yaml", *SHORT, "--output-dir", place / "whole") == 0
    return place / "whole", out.getvalue()


@pytest.fixture
def here(place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty current folder with the config in it."""
    shutil.copy(place / "run.yaml", tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_each_split_is_trained_and_the_mean_told(trained: tuple[Path, str], here: Path, fails) -> None:
    whole, out = trained
    results = [json.loads((whole / f"split-{i}/eval.json").read_text()) for i in range(SPLITS)]
    records = json.loads((whole / "splits.json").read_text())
    assert [record["protocol"] for record in records] == [result["protocol"] for result in results[0]]
    for place, record in enumerate(records):
        for figure, values in (
            (record["mAP"], [result[place]["mAP"] for result in results]),
            *((record["cmc"][rank], [result[place]["cmc"][rank] for result in results]) for rank in ("1", "5", "20")),
        ):
            assert figure["values"] == values
            mean, deviation = statistics.mean(values), statistics.stdev(values)
            assert (figure["mean"], figure["deviation"]) == (pytest.approx(mean), pytest.approx(deviation))
            assert f"{100 * mean:.1f} ± {100 * deviation:.1f}" in out
    assert "ilids-vid-subset: mean ± standard deviation over 2 splits" in out
    assert all(len(line) < 80 for line in out.splitlines() if " | " in line)
    pids = [tuple(checkpoint.load(whole / f"split-{i}/checkpoints/last.pt")["pids"]) for i in range(SPLITS)]
    assert len(set(pids)) == SPLITS  # other people each time
    assert "split: 1" in (whole / "split-1/config.yaml").read_text()
    assert "this run exists" in fails("train", "run.yaml", *SHORT, "--output-dir", whole)
    assert "is a single run, but data.split=all makes 2" in fails(
        "train", "run.yaml", *SHORT, "--output-dir", whole / "split-0"
    )


def test_it_goes_on_where_it_was_stopped(trained: tuple[Path, str], here: Path, capsys) -> None:
    whole, _ = trained
    shutil.copytree(whole, "again")
    for lost in (
        "splits.json",
        "split-1/report.html",
        "split-1/eval.json",
        "split-1/features.npz",
    ):  # killed in the second
        Path("again", lost).unlink()
    before = {file: file.stat().st_mtime_ns for file in Path("again/split-0").rglob("*")}
    assert call("train", "run.yaml", *SHORT, "--output-dir", "again", "--resume", "auto") == 0
    assert {file: file.stat().st_mtime_ns for file in before} == before
    assert "split 0: again/split-0 is finished" in capsys.readouterr().err
    assert Path("again/splits.json").read_text() == (whole / "splits.json").read_text()


def test_what_does_not_go_together(here: Path, fails) -> None:
    assert "data.split: expected a split from 0 to 9, or all, got 10" in fails("train", "run.yaml", "data.split=10")
    assert "data.split: only ilids-vid and prid2011" in fails("train", "run.yaml", "data.split=all", "data.name=mars")
    assert "expected auto, or one split" in fails("train", "run.yaml", "data.split=all", "--resume", "a.pt")
    for verb, flags in (("train", ["--profile", "1"]), ("tune", ["--over", "loss.T=1,2"])):
        assert "data.split: all is only for robust-reid train" in fails(verb, "run.yaml", "data.split=all", *flags)
    assert not Path("runs").exists()
