"""A small rendered dataset, a config that trains on it in seconds, a gallery of a network of random weights, and calls of the tools."""

import importlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from reid import cli, config, experiment
from reid.datasets.demo import write_demo
from reid.engine import checkpoint
from reid.models.embedding import Classifier

ROOT = Path(__file__).parents[2]

CONFIG = """
data: {name: demo}
model: {name: resnet10t, pretrained: false}
loss: {name: imae, T: 8.0}
sampler: {name: frames}
augment: {resize: [36, 20], crop: [32, 16]}
train: {iterations: 12, batch_size: 8, lr: 0.01, log_freq: 4, checkpoint_freq: 5, schedule: {name: step, every: 4}}
test: {batch_size: 64}
machine: {device: cpu, workers: 0}
"""
HELD_OUT = ["data.holdout=0.4", "train.eval_freq=6"]


def call(tool: str, *argv: str | Path) -> int:
    main = importlib.import_module(f"reid.verbs.{tool}").main
    return cli.run(lambda: main([str(arg) for arg in argv]))


@pytest.fixture
def fails(capsys: pytest.CaptureFixture[str]):
    """Calls a tool that must answer with exit code 2 and exactly one line; returns that line."""

    def check(tool: str, *argv: str | Path) -> str:
        capsys.readouterr()
        assert call(tool, *argv) == 2
        lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
        assert len(lines) == 1
        return lines[0]

    return check


@pytest.fixture(scope="session")
def data_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("data")
    write_demo(
        root / "demo", train_ids=6, test_ids=5, tracklets_per_id=4, min_frames=2, max_frames=4, distractors=4, junk=2
    )
    return root


@pytest.fixture
def workplace(tmp_path: Path, data_root: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty current folder with run.yaml in it; REID_DATA points to the dataset."""
    (tmp_path / "run.yaml").write_text(CONFIG)
    monkeypatch.setenv("REID_DATA", str(data_root))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def make_run(folder: Path, seed: int) -> Path:
    """A run directory whose network has never been trained."""
    folder.mkdir()
    (folder / "config.yaml").write_text(CONFIG + f"seed: {seed}\nname: random\n")
    settings = config.load(folder / "config.yaml")
    embedding, _ = experiment.build_embedding(settings, initial_weights=False)
    checkpoint.save(folder / "checkpoints/last.pt", model=Classifier(embedding, 2).state_dict(), pids=[1, 2])
    return folder


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory, data_root: Path) -> Path:
    """A finished run with held-out identities; tests must not change it."""
    folder = tmp_path_factory.mktemp("trained")
    (folder / "run.yaml").write_text(CONFIG)
    options = ["--data-root", data_root, "--output-dir", folder / "run", *HELD_OUT, "test.baselines=true"]
    assert call("train", folder / "run.yaml", *options) == 0
    return folder / "run"


@pytest.fixture(scope="session")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_run(tmp_path_factory.mktemp("run") / "run", seed=0)


@pytest.fixture(scope="session")
def other_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_run(tmp_path_factory.mktemp("other") / "run", seed=1)


@pytest.fixture(scope="session")
def made(run: Path, data_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A gallery of the demo's test tracklets; tests must not change it."""
    out = tmp_path_factory.mktemp("made") / "gallery"
    assert call("extract", run, data_root / "demo", "--out", out) == 0
    return out


@pytest.fixture
def gallery(made: Path, workplace: Path) -> Path:
    """A copy that may be changed, in the current folder."""
    return Path(shutil.copytree(made, "gallery"))


def tracklets(data_root: Path, out: Path, which: slice, times: int = 1) -> list[str]:
    """Folders of frames of some of the demo's test tracklets; returns their names."""
    test = experiment.DATASETS["demo"](data_root / "demo").test
    names = []
    for i in list(range(len(test)))[which]:
        for copy in range(times):
            names.append(test.key(i) if times == 1 else f"{test.key(i)}_{copy:03}")
            (out / names[-1]).mkdir(parents=True)
            for path in test[i].paths:
                os.link(path, out / names[-1] / path.name)
    return names


def by_two(tool: str, *options: object) -> subprocess.CompletedProcess[str]:
    """A tool as two processes of torchrun."""
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2"]
    command += ["--master-port", str(29500 + os.getpid() % 2000), ROOT / f"tools/{tool}.py", *options]
    return subprocess.run(command, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
