"""A small rendered dataset, a config that trains on it in seconds, and calls of the tools."""

import importlib
from pathlib import Path

import pytest

from reid import cli
from reid.datasets.demo import write_demo

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


def call(tool: str, *argv: str | Path) -> int:
    main = importlib.import_module(f"tools.{tool}").main
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
