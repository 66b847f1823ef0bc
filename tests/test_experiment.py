"""The wiring: where data is looked for, which labels training sees, and who is held out."""

from pathlib import Path

import numpy as np
import pytest

from reid import config, experiment
from reid.datasets.demo import load_truth, write_demo
from reid.errors import ConfigError
from reid.files import data_root


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("data")
    sizes = {"train_ids": 8, "test_ids": 2, "tracklets_per_id": 4, "min_frames": 2, "max_frames": 3}
    write_demo(root / "demo", **sizes, distractors=1, junk=1, label_noise=0.3, noise_seed=5)
    return root


def load(root: Path, tmp_path: Path, *overrides: str) -> experiment.LabelledData:
    (tmp_path / "c.yaml").write_text("data: {name: demo}\n")
    return experiment.load_data(config.load(tmp_path / "c.yaml", [f"data.root={root}", *overrides]))


def frame_pids(data: experiment.LabelledData) -> np.ndarray:
    """The person that each frame name's label stands for, from the trainer's point of view."""
    return data.train.pids[data.train.label_F.numpy()[data.train.split.frames()]]


def test_labels_on_disk_their_truth_and_the_same_noise_drawn_anew(root: Path, tmp_path: Path) -> None:
    given, truth = load(root, tmp_path), load(root, tmp_path, "data.labels=truth")
    stored = load_truth(root / "demo")
    lengths = given.benchmark.train.lengths
    assert np.array_equal(frame_pids(given), np.repeat(given.benchmark.train.pid, lengths))
    assert np.array_equal(frame_pids(truth), np.repeat(stored.true_pid, lengths))
    noise = "data.noise={name: uniform_others, rate: 0.3, seed: 5}"
    again = load(root, tmp_path, "data.labels=truth", noise)
    assert np.array_equal(frame_pids(again), frame_pids(given))
    wrong = given.benchmark.train.pid != stored.true_pid
    assert wrong.sum() == round(0.3 * len(wrong))
    for data in (given, again):
        assert np.array_equal(~data.train.intact_F.numpy()[data.train.split.frames()], np.repeat(wrong, lengths))
        assert data.noise == f"{wrong.sum()} of {len(wrong)} ({100 * wrong.mean():.2f} %) tracklet labels wrong"
    assert truth.train.intact_F.all()


def test_mars_has_no_truth_to_tell(root: Path, tmp_path: Path) -> None:
    (tmp_path / "mars").symlink_to(root / "demo")
    data = load(tmp_path, tmp_path, "data.name=mars")
    assert data.train.intact_F is None
    assert data.noise == "unknown (no true labels)"
    noisy = load(tmp_path, tmp_path, "data.name=mars", "data.noise={name: symmetric, rate: 1.0, seed: 0}")
    assert noisy.train.intact_F is None
    assert "changed on purpose; wrong labels on disk: unknown" in noisy.noise


def test_held_out_identities_are_not_trained_on(root: Path, tmp_path: Path) -> None:
    data = load(root, tmp_path, "data.holdout=0.25")
    assert data.holdout is not None
    held, trained = set(data.holdout.pid.tolist()), set(data.train.split.pid.tolist())
    assert len(held) == 2
    assert not held & trained
    assert held | trained == set(data.benchmark.train.pid.tolist())
    assert sorted(data.train.pids.tolist()) == sorted(trained)
    assert not set(data.holdout.frames().tolist()) & set(data.train.split.frames().tolist())
    same, other = (load(root, tmp_path, "data.holdout=0.25", f"seed={seed}").holdout for seed in (0, 1))
    assert set(same.pid.tolist()) == held != set(other.pid.tolist())
    with pytest.raises(ConfigError, match=r"0\.1 of 8 identities is 1"):
        load(root, tmp_path, "data.holdout=0.1")


def test_data_root_comes_from_config_then_environment_then_here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "c.yaml").write_text("seed: 0\n")
    monkeypatch.delenv("REID_DATA", raising=False)
    assert data_root(config.load(tmp_path / "c.yaml").data.root) == Path("data")
    monkeypatch.setenv("REID_DATA", "/elsewhere")
    assert data_root(config.load(tmp_path / "c.yaml").data.root) == Path("/elsewhere")
    assert data_root(config.load(tmp_path / "c.yaml", ["data.root=/here"]).data.root) == Path("/here")
