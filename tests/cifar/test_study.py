"""The study from config to records: every mistake at once, exact resume, cells that wait for one another."""

import csv
import json
import os
import signal
from dataclasses import replace
from pathlib import Path
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
from reid.cifar.study import Trainer, check, completed, evaluation_steps
from reid.config import Component
from reid.errors import ConfigError, DataError
from reid.report.study_records import gather
from reid.runtime import Runtime
from tests.cifar.conftest import ROOT, TINY

CPU = Runtime(torch.device("cpu"), torch.float32)


def study(root: Path, *overrides: str) -> StudyConfig:
    settings = [f"data.root={json.dumps(str(root))}", *TINY, *overrides]
    return config.load(ROOT / "configs/cifar10_quick.yaml", settings, StudyConfig)


@pytest.fixture(scope="module")
def data(official: Path) -> StudyData:
    return load_data(study(official))


def record_of(files: Files, spec: CellSpec) -> dict[str, Any]:
    record = json.loads(files.record(spec).read_text())
    assert record.pop("seconds") > 0
    return record


@pytest.mark.parametrize("path", sorted((ROOT / "configs").glob("cifar*.yaml")), ids=lambda path: path.stem)
def test_the_configs_that_come_with_it_are_sound(path: Path) -> None:
    check(config.load(path, schema=StudyConfig))


def test_the_tables_configs_are_the_papers() -> None:
    one, two = (config.load(ROOT / f"configs/cifar10_table{k}.yaml", schema=StudyConfig) for k in (1, 2))
    assert len(list(one.cells())) + len(list(two.cells())) == 12 + 24
    for settings in (one, two):
        assert completed(settings).train.model_dump() == {
            "iterations": 64000,
            "batch_size": 128,
            "lr": 0.1,
            "optimizer": {"name": "sgd", "momentum": 0.9, "weight_decay": 1e-4, "head_lr": 1.0, "layer_decay": None},
            "schedule": {"name": "milestones", "at": [32000, 48000], "factor": 0.1},
            "points": 40,
        }
        assert settings.data.train_images is None


def test_every_mistake_is_reported_at_once(official: Path) -> None:
    settings = study(
        official,
        "loss=[{name: imae, T: 8.0}, {name: imae, T: 8.0}, {name: cce, T: 1}, {name: mea}]",
        "noise=[{name: symmetric, rate: 1.5, seed: 0}, {name: human, kind: worse}, {name: human, kind: best}]",
        "train.points=7",
    )
    with pytest.raises(ConfigError) as caught:
        check(settings)
    text = "\n".join(caught.value.problems)
    for part in ("cce takes no 'T'", "did you mean 'mae'", "rate: expected", "unknown 'best'", "at most 6"):
        assert part in text, part
    with pytest.raises(ConfigError, match="imae-T8_seed0 appears twice"):
        check(study(official, "loss=[{name: imae, T: 8}, {name: imae}]"))  # the same network, however it is written


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
    assert evaluation_steps(64000, 4) == [16000, 32000, 48000, 64000]
    assert evaluation_steps(7, 3) == [2, 5, 7]
    assert evaluation_steps(5, 5) == [1, 2, 3, 4, 5]


def test_labels_manifest_and_rate_agree(official: Path, tmp_path: Path) -> None:
    settings = study(official, "data.holdout=0.25", "data.train_images=400")
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


def test_human_labels_follow_the_subset(official: Path, tmp_path: Path) -> None:
    whole = load_data(study(official, "data.train_images=null", "noise={name: clean}")).cifar.train.labels_N
    people = (whole + 1) % 10
    np.savez(tmp_path / "people.npz", clean_label=whole, worse_label=people)
    human = ["noise={name: human, kind: worse}", f"data.human_labels={json.dumps(str(tmp_path / 'people.npz'))}"]
    data = load_data(study(official, *human))
    assert data.given["human-kindworse"].tolist() == people[data.cifar.index_N].tolist()
    np.savez(tmp_path / "people.npz", clean_label=whole[:-1], worse_label=people[:-1])
    with pytest.raises(DataError, match=r"people\.npz: expected .*50000"):
        load_data(study(official, *human))


def test_losses_of_one_seed_start_alike_and_seeds_differ(official: Path, data: StudyData, tmp_path: Path) -> None:
    trainer = Trainer(study(official), data, Files(tmp_path), CPU)
    noise = study(official).noise[0]
    cells = [
        trainer.build(CellSpec(20, Component(name=loss), noise, seed))
        for loss, seed in (("cce", 0), ("mae", 0), ("cce", 1))
    ]
    first = [torch.cat([value.flatten() for value in cell.model.parameters()]) for cell in cells]
    assert torch.equal(first[0], first[1]) and not torch.equal(first[0], first[2])


def test_a_stopped_cell_goes_on_as_if_nothing_had_happened(
    official: Path, data: StudyData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = study(official, "loss=[{name: imae, T: 8.0}, {name: gce_truncated}]")
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
    assert gather([record])[0].setting.recipe == (
        *("batches of 8", "lr 0.1", "milestones(at=[4], factor=0.1)"),
        *("sgd(momentum=0.9, weight_decay=0.0001)", "float32"),
    )
    assert record["realised_rate"] == data.rate(settings.noise[0])


def test_a_checkpoint_or_record_of_other_settings_data_or_format_is_refused(
    official: Path, data: StudyData, tmp_path: Path
) -> None:
    settings, files = study(official, "loss={name: cce}"), Files(tmp_path)
    (spec,) = settings.cells()
    trainer = Trainer(settings, data, files, CPU)
    runner.CellRun(trainer, spec).save()
    other_labels = dict.fromkeys(data.given, np.roll(next(iter(data.given.values())), 1))
    others = [
        Trainer(study(official, "loss={name: cce}", "train.lr=0.2"), data, files, CPU),
        Trainer(settings, replace(data, given=other_labels), files, CPU),
        Trainer(settings, data, files, Runtime(CPU.device, torch.bfloat16)),
    ]
    for other in others:
        with pytest.raises(ConfigError, match="trained with different settings"):
            runner.CellRun(other, spec)
    train_together(trainer, [spec])
    assert files.read_record(spec, trainer.fingerprint(spec)) is not None
    for other in others:
        with pytest.raises(ConfigError, match="trained with different settings"):
            files.read_record(spec, other.fingerprint(spec))
    for damage in ("{", "{}", "[]"):
        files.record(spec).write_text(damage)
        with pytest.raises(DataError, match="damaged"):
            files.read_record(spec, trainer.fingerprint(spec))
    files.checkpoint(spec).write_bytes(b"PK")
    with pytest.raises(DataError, match="remove it to train the cell from the start"):
        files.read_checkpoint(spec, trainer.fingerprint(spec))


def test_a_diverged_cell_ends_with_a_record_that_says_so(official: Path, data: StudyData, tmp_path: Path) -> None:
    settings, files = study(official, "train.lr=1e30", "loss={name: cce}"), Files(tmp_path)
    (spec,) = settings.cells()
    train_together(Trainer(settings, data, files, CPU), [spec])
    record = record_of(files, spec)
    assert record["diverged_at"] == 2 and record["curve"]["step"] == [2]
    assert record["final"]["test"] is None and record["best"]["test"] is None


def test_a_signal_in_the_last_evaluation_is_not_lost(
    official: Path, data: StudyData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings, files = study(official, "loss={name: cce}"), Files(tmp_path)
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
