"""Checkpoints: plain content round trip, and one clear line for everything that is wrong with a file."""

import os
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


def test_the_one_before_is_kept(tmp_path: Path) -> None:
    last, previous = tmp_path / "last.pt", tmp_path / "previous.pt"
    for step in (1, 2, 3):
        checkpoint.save(last, previous=previous, step=step)
        assert checkpoint.load(last)["step"] == step
        assert previous.exists() == (step > 1)
    assert checkpoint.load(previous)["step"] == 2


def test_an_unproven_file_replaces_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The disk gives back another byte than it was given."""
    last, previous = tmp_path / "last.pt", tmp_path / "previous.pt"
    for step in (1, 2):
        checkpoint.save(last, previous=previous, step=step, model={"w": torch.zeros(1000)})

    def save_badly(content: object, path: Path) -> None:
        proper(content, path)
        data = bytearray(path.read_bytes())
        data[data.index(bytes(2000)) + 1000] = 1
        path.write_bytes(data)

    proper = torch.save
    monkeypatch.setattr(torch, "save", save_badly)
    with pytest.raises(CheckpointError, match=r"last\.pt: cannot write this checkpoint: checksum of .* differs"):
        checkpoint.save(last, previous=previous, step=3, model={"w": torch.zeros(1000)})
    assert [checkpoint.load(path)["step"] for path in (last, previous)] == [2, 1]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["last.pt", "previous.pt"]


def test_the_file_is_on_the_disk_before_it_takes_its_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else a loss of power could leave the new name with an empty file, and the old one gone."""
    events: list[tuple[str, str]] = []
    sync, replace = os.fsync, os.replace

    def name_of(descriptor: int) -> str:
        return Path(os.readlink(f"/proc/self/fd/{descriptor}")).name

    monkeypatch.setattr(os, "fsync", lambda d: (events.append(("sync", name_of(d))), sync(d)))
    monkeypatch.setattr(os, "replace", lambda a, b: (events.append(("rename", Path(a).name)), replace(a, b)))
    for step in (1, 2):
        events.clear()
        checkpoint.save(tmp_path / "last.pt", previous=tmp_path / "previous.pt", step=step)
    kinds = [kind for kind, _ in events]
    assert events[0][0] == "sync"
    assert "last.pt" in events[0][1]
    assert events[kinds.index("rename")] == ("rename", "last.pt")
    assert kinds.count("rename") == 2
    assert events[-1] == ("sync", tmp_path.name)


def test_the_first_that_can_be_read(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    new, old = tmp_path / "new.pt", tmp_path / "old.pt"
    checkpoint.save(new, step=2)
    checkpoint.save(old, step=1)
    assert checkpoint.load_first([new, old]) == (new, {"schema": 1, "step": 2})
    assert not caplog.records
    new.write_bytes(new.read_bytes()[:100])
    assert checkpoint.load_first([new, old]) == (old, {"schema": 1, "step": 1})
    [record] = caplog.records
    assert f"{new}: damaged" in record.getMessage()
    assert f"resuming from the previous checkpoint, {old}, instead" in record.getMessage()
    old.write_bytes(b"")
    with pytest.raises(CheckpointError) as caught:
        checkpoint.load_first([new, old])
    [problem] = caught.value.problems
    assert f"{new}: damaged" in problem
    assert f"{old}: damaged" in problem


def test_the_average_is_what_is_tested() -> None:
    plain, average = {"w": torch.zeros(1)}, {"w": torch.ones(1)}
    assert checkpoint.tested_weights({"model": plain}) is plain
    assert checkpoint.tested_weights({"model": plain, "ema": average}) is average


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
