"""The study from config to records: every mistake at once, exact resume, cells that wait for one another, the tool as people call it."""

import csv
import importlib.util
import json
import os
import pickle
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch

from reid import cli, config
from reid.cifar import runner
from reid.cifar.config import CellSpec, StudyConfig
from reid.cifar.folder import Files
from reid.cifar.labels import StudyData, load_data, write_manifests
from reid.cifar.runner import train_together
from reid.cifar.study import Trainer, check, completed, points
from reid.config import Component
from reid.errors import ConfigError, DataError
from reid.runtime import Runtime

ROOT = Path(__file__).parents[2]
CPU = Runtime(torch.device("cpu"), torch.float32)
CLASSES = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]
TINY = [
    "data.train_images=60",
    "data.test_images=40",
    "train.iterations=6",
    "train.points=3",
    "train.batch_size=8",
    "train.schedule={name: milestones, at: [4]}",
]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """CIFAR-10 in its official layout and size; images of noise."""
    root = tmp_path_factory.mktemp("cifar_study")
    folder = root / "cifar-10-batches-py"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for name in [*(f"data_batch_{k}" for k in range(1, 6)), "test_batch"]:
        content = {
            b"labels": rng.integers(10, size=10_000).tolist(),
            b"data": np.frombuffer(rng.bytes(10_000 * 3072), np.uint8).reshape(10_000, 3072),
        }
        (folder / name).write_bytes(pickle.dumps(content, protocol=2))
    (folder / "batches.meta").write_bytes(pickle.dumps({b"label_names": [c.encode() for c in CLASSES]}, protocol=2))
    return root


def study(root: Path, *overrides: str) -> StudyConfig:
    settings = [f"data.root={json.dumps(str(root))}", *TINY, *overrides]
    return config.load(ROOT / "configs/cifar10_quick.yaml", settings, StudyConfig)


@pytest.fixture(scope="module")
def data(root: Path) -> StudyData:
    return load_data(study(root))


def record_of(files: Files, spec: CellSpec) -> dict[str, Any]:
    record = json.loads(files.record(spec).read_text())
    assert record.pop("seconds") > 0
    return record


@pytest.mark.parametrize("path", sorted((ROOT / "configs").glob("cifar*.yaml")), ids=lambda path: path.stem)
def test_the_configs_that_come_with_it_are_sound(path: Path) -> None:
    check(config.load(path, schema=StudyConfig))


def test_the_tables_configs_are_the_papers() -> None:
    one, two = (config.load(ROOT / f"configs/cifar10_table{k}.yaml", schema=StudyConfig) for k in (1, 2))
    assert len(list(one.cells())) + len(list(two.cells())) == 27
    for settings in (one, two):
        assert completed(settings).train.model_dump() == {
            "iterations": 64000,
            "batch_size": 128,
            "lr": 0.1,
            "optimizer": {"name": "sgd", "momentum": 0.9, "weight_decay": 1e-4},
            "schedule": {"name": "milestones", "at": [32000, 48000], "factor": 0.1},
            "points": 40,
        }
        assert settings.data.train_images is None


def test_every_mistake_is_reported_at_once(root: Path) -> None:
    settings = study(
        root,
        "loss=[{name: imae, T: 8.0}, {name: imae, T: 8.0}, {name: cce, T: 1}, {name: mea}]",
        "noise=[{name: symmetric, rate: 1.5, seed: 0}, {name: human, kind: worse}, {name: human, kind: best}]",
        "train.points=7",
    )
    with pytest.raises(ConfigError) as caught:
        check(settings)
    text = "\n".join(caught.value.problems)
    for part in (
        "cce takes no 'T'",
        "did you mean 'mae'",
        "rate: expected",
        "unknown 'best'",
        "at most 6",
    ):
        assert part in text, part
    with pytest.raises(ConfigError, match="imae-T8_seed0 stands twice"):
        check(study(root, "loss=[{name: imae, T: 8}, {name: imae}]"))  # the same network, however it is written


def test_one_item_stands_for_a_list() -> None:
    settings = config.load(ROOT / "configs/cifar10_quick.yaml", ["seed=3", "depth=32", "loss={name: cce}"], StudyConfig)
    assert [cell.name for cell in settings.cells()] == ["resnet32_symmetric-rate0.5-seed0_cce_seed3"]
    with pytest.raises(ConfigError, match=r"depth\.0: expected 20, 32 or 56, got 18"):
        config.load(ROOT / "configs/cifar10_quick.yaml", ["depth=18"], StudyConfig)


def test_names_and_labels_of_cells() -> None:
    spec = CellSpec(20, Component(name="imae", T=8.0), Component(name="symmetric", rate=0.5, seed=0), 1)
    assert (spec.name, str(spec)) == (
        "resnet20_symmetric-rate0.5-seed0_imae-T8_seed1",
        "ResNet20, 50 % symmetric, IMAE (T = 8), seed 1",
    )
    assert CellSpec(20, Component(name="cce"), Component(name="human", kind="worse"), 0).noise_label == "human worse"


def test_points_are_even_and_end_at_the_end() -> None:
    assert points(64000, 4) == [16000, 32000, 48000, 64000]
    assert points(7, 3) == [2, 5, 7]
    assert points(5, 5) == [1, 2, 3, 4, 5]


def test_labels_manifest_and_rate_agree(root: Path, tmp_path: Path) -> None:
    settings = study(root, "data.holdout=0.25", "data.train_images=400")
    data, noise = load_data(settings), settings.noise[0]
    assert (len(data.train_rows), len(data.held_rows), data.num_test) == (300, 100, 40)
    assert not set(data.train_rows) & set(data.held_rows)
    given = data.given["symmetric-rate0.5-seed0"]
    changed = given != data.cifar.train.labels_N
    assert data.rate(noise) == changed[data.train_rows].mean() and 0.35 < data.rate(noise) < 0.55
    write_manifests(Files(tmp_path), settings, data)
    text = (tmp_path / "labels/symmetric-rate0.5-seed0.csv").read_text()
    rows = list(csv.DictReader(text.splitlines()))
    assert [int(row["row"]) for row in rows] == data.cifar.index_N[changed].tolist()
    assert [int(row["given"]) for row in rows] == given[changed].tolist()


def test_human_labels_follow_the_subset(root: Path, tmp_path: Path) -> None:
    whole = load_data(study(root, "data.train_images=null", "noise={name: clean}")).cifar.train.labels_N
    people = (whole + 1) % 10
    np.savez(tmp_path / "people.npz", clean_label=whole, worse_label=people)
    human = ["noise={name: human, kind: worse}", f"data.human_labels={json.dumps(str(tmp_path / 'people.npz'))}"]
    data = load_data(study(root, *human))
    assert data.given["human-kindworse"].tolist() == people[data.cifar.index_N].tolist()
    np.savez(tmp_path / "people.npz", clean_label=whole[:-1], worse_label=people[:-1])
    with pytest.raises(DataError, match=r"people\.npz: expected .*50000"):
        load_data(study(root, *human))


def test_losses_of_one_seed_start_alike_and_seeds_differ(root: Path, data: StudyData, tmp_path: Path) -> None:
    trainer = Trainer(study(root), data, Files(tmp_path), CPU)
    noise = study(root).noise[0]
    cells = [
        trainer.build(CellSpec(20, Component(name=loss), noise, seed))
        for loss, seed in (("cce", 0), ("mae", 0), ("cce", 1))
    ]
    first = [torch.cat([value.flatten() for value in cell.model.parameters()]) for cell in cells]
    assert torch.equal(first[0], first[1]) and not torch.equal(first[0], first[2])


def test_a_stopped_cell_goes_on_as_if_nothing_had_happened(
    root: Path, data: StudyData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = study(root, "loss=[{name: imae, T: 8.0}, {name: gce_truncated}]")
    specs = list(settings.cells())
    straight, stopped = Files(tmp_path / "straight"), Files(tmp_path / "stopped")
    train_together(Trainer(settings, data, straight, CPU), specs)

    steps = []

    def advance_and_be_told_to_stop(cells: list, count: int) -> None:
        real(cells, count)
        steps.append(count)
        if len(steps) == 2:
            os.kill(os.getpid(), signal.SIGTERM)

    real = runner.advance
    monkeypatch.setattr(runner, "_BREATH", 1)
    monkeypatch.setattr(runner, "advance", advance_and_be_told_to_stop)
    with pytest.raises(cli.Interrupted) as interrupted:
        train_together(Trainer(settings, data, stopped, CPU), specs)
    assert interrupted.value.code == 143
    monkeypatch.setattr(runner, "advance", real)
    # One of the two goes ahead alone, so that afterwards they stand at different steps.
    state = torch.load(stopped.checkpoint(specs[1]), weights_only=True)
    assert state["cell"]["steps"] == 2 and state["curve"]["step"] == [2]
    stopped.checkpoint(specs[0]).unlink()
    train_together(Trainer(settings, data, stopped, CPU), specs)
    for spec in specs:
        assert record_of(stopped, spec) == record_of(straight, spec)
        assert not stopped.checkpoint(spec).exists()
    record = record_of(straight, specs[0])
    assert record["curve"]["step"] == [2, 4, 6] and record["best"]["test"] == max(record["curve"]["test"])
    assert record["final"]["test"] == record["curve"]["test"][-1] and record["num_test"] == 40
    assert record["realised_rate"] == data.rate(settings.noise[0])


def test_a_checkpoint_or_record_of_other_settings_data_or_format_is_refused(
    root: Path, data: StudyData, tmp_path: Path
) -> None:
    settings, files = study(root, "loss={name: cce}"), Files(tmp_path)
    (spec,) = settings.cells()
    trainer = Trainer(settings, data, files, CPU)
    runner.Lane(trainer, spec).save()
    other_labels = dict.fromkeys(data.given, np.roll(next(iter(data.given.values())), 1))
    others = [
        Trainer(study(root, "loss={name: cce}", "train.lr=0.2"), data, files, CPU),
        Trainer(settings, replace(data, given=other_labels), files, CPU),
        Trainer(settings, data, files, Runtime(CPU.device, torch.bfloat16)),
    ]
    for other in others:
        with pytest.raises(ConfigError, match="trained with other settings"):
            runner.Lane(other, spec)
    train_together(trainer, [spec])
    assert files.read_record(spec, trainer.fingerprint(spec)) is not None
    for other in others:
        with pytest.raises(ConfigError, match="trained with other settings"):
            files.read_record(spec, other.fingerprint(spec))
    for damage in ("{", "{}", "[]"):
        files.record(spec).write_text(damage)
        with pytest.raises(DataError, match="damaged"):
            files.read_record(spec, trainer.fingerprint(spec))
    files.checkpoint(spec).write_bytes(b"PK")
    with pytest.raises(DataError, match="remove it, and the cell is trained from its start"):
        files.read_checkpoint(spec, trainer.fingerprint(spec))


def test_a_diverged_cell_ends_with_a_record_that_says_so(root: Path, data: StudyData, tmp_path: Path) -> None:
    settings, files = study(root, "train.lr=1e30", "loss={name: cce}"), Files(tmp_path)
    (spec,) = settings.cells()
    train_together(Trainer(settings, data, files, CPU), [spec])
    record = record_of(files, spec)
    assert record["diverged_at"] == 2 and record["curve"]["step"] == [2]
    assert record["final"]["test"] is None and record["best"]["test"] is None


def test_a_signal_in_the_last_evaluation_is_not_lost(
    root: Path, data: StudyData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings, files = study(root, "loss={name: cce}"), Files(tmp_path)
    (spec,) = settings.cells()
    save_record = Trainer.save_record

    def and_a_signal(*arguments: Any, **more: Any) -> None:
        save_record(*arguments, **more)
        os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(Trainer, "save_record", and_a_signal)
    trainer = Trainer(settings, data, files, CPU)
    with pytest.raises(cli.Interrupted):
        train_together(trainer, [spec])
    assert files.record(spec).exists() and not files.checkpoint(spec).exists()


def tool() -> ModuleType:
    specification = importlib.util.spec_from_file_location("cifar_tool", ROOT / "tools/cifar.py")
    assert specification is not None and specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


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
    overrides: list[str], error: str, root: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    argv = ["configs/cifar10_quick.yaml", f"data.root={root}", *TINY, *overrides, "--output-dir", str(tmp_path / "out")]
    assert cli.run(lambda: tool().main([str(ROOT / argv[0]), *argv[1:]])) == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error")]
    assert len(lines) == 1 and error in lines[0]
    assert not (tmp_path / "out").exists()


def test_the_tool_trains_reports_and_goes_on(root: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    command = [
        sys.executable,
        "tools/cifar.py",
        "configs/cifar10_quick.yaml",
        *TINY,
        "loss=[{name: cce}, {name: imae, T: 8.0}]",
    ]
    command += ["--data-root", str(root), "--device", "cpu", "--output-dir", str(out)]
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


def test_ctrl_c_reaches_the_whole_group_and_loses_nothing(root: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    command = [sys.executable, "tools/cifar.py", "configs/cifar10_quick.yaml", *TINY, "train.iterations=100000"]
    command += ["train.points=100000", "loss={name: cce}", "--data-root", str(root), "--device", "cpu"]
    command += ["--output-dir", str(out)]
    process = _started(command, "step 2 of")
    second = subprocess.run([*command, "--resume", "auto"], cwd=ROOT, capture_output=True, text=True)
    assert second.returncode == 2 and "another process is training this study" in second.stderr
    os.killpg(process.pid, signal.SIGINT)
    rest = process.communicate(timeout=120)[1]
    assert process.returncode == 130, rest
    assert "Traceback" not in rest
    (kept,) = (out / "cells").iterdir()
    state = torch.load(kept, weights_only=True)
    assert state["cell"]["steps"] >= state["curve"]["step"][-1] >= 2
    process = _started([*command, "--resume", "auto"], "cells to train")
    os.killpg(process.pid, signal.SIGTERM)  # also meets the cell's process, which is not ready for it yet
    rest = process.communicate(timeout=120)[1]
    assert process.returncode == 143 and "error" not in rest, rest


def _started(command: list[str], line: str) -> subprocess.Popen[str]:
    """The command, once it has logged the line."""
    process = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True, start_new_session=True)
    assert process.stderr is not None
    while line not in process.stderr.readline():
        assert process.poll() is None
    return process
