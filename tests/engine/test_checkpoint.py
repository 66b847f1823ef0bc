"""Checkpoints: plain content round trip, and one clear line for everything that is wrong with a file."""

import pickle
from pathlib import Path

import pytest
import torch
from torch import nn

from reid.engine import checkpoint
from reid.errors import CheckpointError, DataError


class Bomb:
    """Pickles to something that would run a command when loaded."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self):
        return (Path.touch, (self.trace,))


def test_round_trip(tmp_path: Path) -> None:
    path = tmp_path / "new" / "a.pt"
    checkpoint.save(path, step=3, best=None, pids=[1, 5], model={"w": torch.arange(3)}, config="seed: 0\n")
    loaded = checkpoint.load(path)
    assert (loaded["step"], loaded["best"], loaded["pids"], loaded["config"]) == (3, None, [1, 5], "seed: 0\n")
    assert torch.equal(loaded["model"]["w"], torch.arange(3))
    assert [p.name for p in path.parent.iterdir()] == ["a.pt"]  # no temporary file stays


def test_a_failed_write_keeps_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "a.pt"
    checkpoint.save(path, step=1)
    with pytest.raises(Exception, match="pickle"):
        checkpoint.save(path, step=2, function=lambda: None)
    assert checkpoint.load(path)["step"] == 1
    assert [p.name for p in tmp_path.iterdir()] == ["a.pt"]


def test_unwritable_folder(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="cannot write this file"):
        checkpoint.save(tmp_path / "file" / "a.pt", step=1)


@pytest.mark.parametrize("damage", ["missing", "empty", "text", "truncated", "flipped", "foreign", "schema"])
def test_bad_files(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "a.pt"
    checkpoint.save(path, step=1, model={"w": torch.zeros(1000)})
    data = path.read_bytes()
    if damage == "missing":
        path.unlink()
    elif damage == "foreign":
        torch.save({"state_dict": {}}, path)
    elif damage == "schema":
        torch.save({"schema": 99}, path)
    else:
        middle = len(data) // 2
        flipped = data[:middle] + bytes([data[middle] ^ 255]) + data[middle + 1 :]
        path.write_bytes({"empty": b"", "text": b"hello", "truncated": data[:middle], "flipped": flipped}[damage])
    with pytest.raises(CheckpointError) as caught:
        checkpoint.load(path)
    assert len(caught.value.problems) == 1
    assert str(path) in str(caught.value)


def test_no_pickle_is_executed(tmp_path: Path) -> None:
    trace = tmp_path / "ran"
    torch.save({"schema": 1, "model": Bomb(trace)}, tmp_path / "a.pt")
    (tmp_path / "b.pt").write_bytes(pickle.dumps({"schema": 1, "model": Bomb(trace)}))
    for name in ("a.pt", "b.pt"):
        with pytest.raises(CheckpointError, match="not a checkpoint of tensors and plain types"):
            checkpoint.load(tmp_path / name)
    assert not trace.exists()


def test_weights_of_another_model_change_nothing() -> None:
    model = nn.Linear(3, 2)
    before = model.weight.clone()
    cases = {
        "1 keys missing \\(first: bias\\)": {"weight": torch.zeros(2, 3)},
        "1 keys unknown \\(first: extra\\)": {**model.state_dict(), "extra": torch.zeros(1)},
        "weight: expected \\(2, 3\\), got \\(3, 3\\)": {"weight": torch.zeros(3, 3), "bias": torch.zeros(2)},
    }
    for message, state in cases.items():
        with pytest.raises(CheckpointError, match=message):
            checkpoint.load_weights(model, state, "file.pt")
    assert torch.equal(model.weight, before)
