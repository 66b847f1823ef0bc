"""Noise made on purpose, from the config to the run directory, on rendered pictures whose file names tell the truth."""

import csv
import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from reid import config, experiment
from reid.datasets.demo import write_demo
from reid.rundir import RunDirectory
from tests.commands.conftest import CONFIG, call

SWITCHES = "data.noise={name: switches, rate: 0.4, seed: 3}"
TWO = "data.noise=[{name: switches, rate: 0.4, seed: 3}, {name: nearest, rate: 0.2, seed: 5}]"
SHORT = ["train.iterations=6", "train.log_freq=2", "train.checkpoint_freq=2", "test.protocols=market1501"]


@pytest.fixture(scope="module")
def clean_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A demo without wrong labels: the first four digits of a training picture's name are the person in truth."""
    root = tmp_path_factory.mktemp("clean")
    sizes = {"train_ids": 6, "test_ids": 3, "tracklets_per_id": 4, "min_frames": 2, "max_frames": 4}
    write_demo(root / "demo", **sizes, distractors=6, junk=2, label_noise=0.0, intruders=0.0)
    return root


@pytest.fixture
def here(workplace: Path, clean_root: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("REID_DATA", str(clean_root))
    return workplace


def load(*overrides: str) -> experiment.LabelledData:
    settings = config.load("run.yaml", overrides)
    experiment.check(settings)
    return experiment.load_data(experiment.located(settings))


def in_truth(data: experiment.LabelledData) -> np.ndarray:
    """The person of every frame that is trained on, from its file name."""
    split = data.train.split
    return np.array([int(split.path(frame).name[:4]) for frame in split.frames()])


@pytest.mark.parametrize("noise", [SWITCHES, TWO, "data.noise={name: fragments, rate: 0.5, seed: 0}"])
@pytest.mark.parametrize("holdout", [0, 0.4])
def test_what_is_true_of_every_frame(here: Path, noise: str, holdout: float) -> None:
    data = load(noise, f"data.holdout={holdout}", "data.labels=truth")
    split, frames = data.train.split, data.train.split.frames()
    given = data.train.pids[data.train.label_F.numpy()[frames]]
    wrong = given != in_truth(data)
    np.testing.assert_array_equal(~data.train.intact_F.numpy()[frames], wrong)
    assert 0 < wrong.sum() < len(wrong)
    np.testing.assert_array_equal(data.truth.pid_F[frames], in_truth(data))
    np.testing.assert_array_equal(data.intact_T, data.truth.pid_T == split.pid)


@pytest.fixture(scope="module")
def noisy_run(clean_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run with noise of two kinds; tests must not change it."""
    folder = tmp_path_factory.mktemp("noisy")
    (folder / "run.yaml").write_text(CONFIG)
    places = ["--data-root", clean_root, "--output-dir", folder / "run"]
    assert call("train", folder / "run.yaml", TWO, *SHORT, *places) == 0
    return folder / "run"


def test_a_run_keeps_its_noise_and_the_manifest_makes_it_again(here: Path, noisy_run: Path, clean_root: Path) -> None:
    log = (noisy_run / "log.txt").read_text()
    tracklets = len(load().train.split)
    assert f"artificial noise: nearest, seed 5: {round(0.2 * tracklets)} of {tracklets} tracklets" in log
    assert "frames show another person than their label" in log
    with open(noisy_run / "noise.csv", newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert {row["kind"] for row in rows} == {"switches", "nearest"}
    assert len({row["key"] for row in rows if not row["frame"]}) == round(0.2 * tracklets)
    assert len({row["key"] for row in rows if row["frame"]}) == 2 * round(0.4 * tracklets / 2)
    metrics = [json.loads(line) for line in (noisy_run / "metrics.jsonl").read_text().splitlines()]
    assert any("accuracy_corrupted" in row for row in metrics)
    shutil.copytree(clean_root / "demo", here / "copy/demo")
    shutil.copy(noisy_run / "noise.csv", here / "my noise.csv")
    again, data = load("data.noise={name: manifest, path: my noise.csv}", "data.root=copy"), load(TWO)
    assert torch.equal(again.train.label_F, data.train.label_F)
    assert torch.equal(again.train.intact_F, data.train.intact_F)
    assert np.array_equal(again.train.split.names, data.train.split.names)


def test_a_resumed_run_keeps_to_its_manifest(here: Path, noisy_run: Path) -> None:
    """The reference of `nearest` may be gone or have changed: what was drawn stays, and goes with its run."""
    shutil.copytree(noisy_run, "runs/run")
    lines = Path("runs/run/noise.csv").read_text().splitlines()
    assert "nearest" in lines[-1]
    Path("runs/run/noise.csv").write_text("\n".join(lines[:-1]) + "\n")  # a manifest that drawing would not give
    assert call("train", "run.yaml", TWO, *SHORT, "--resume", "auto") == 0
    assert Path("runs/run/noise.csv").read_text().splitlines() == lines[:-1]
    RunDirectory(Path("runs/run")).prepare(config.load("run.yaml"), overwrite=True)
    assert not Path("runs/run/noise.csv").exists()


def test_nearest_by_a_gallery_of_the_training_tracklets(here: Path, fails) -> None:
    split = load().train.split
    rng = np.random.default_rng(0)
    features = rng.normal(size=(len(split), 4)).astype(np.float32)
    keys = np.array([split.key(i) for i in range(len(split))])
    order = rng.permutation(len(split))
    rows = {"pid": split.pid[order], "camid": split.camid[order], "query": np.arange(0), "key": keys[order]}
    np.savez("features.npz", features=features[order], **rows)
    noise = "data.noise={name: nearest, rate: 0.3, seed: 0, gallery: features.npz}"
    unit = features / np.linalg.norm(features, axis=1, keepdims=True)
    changed = load(noise).noisy.changes
    assert len(changed) == round(0.3 * len(split))
    for change in changed:
        row, others = keys.tolist().index(change.key), sorted(set(split.pid.tolist()) - {change.true_pid})
        means = [unit[split.pid == person].mean(0) for person in others]
        cosine = [mean @ unit[row] / np.linalg.norm(mean) for mean in means]
        assert change.given_pid == others[int(np.argmax(cosine))]
    np.savez("few.npz", features=features[:3], **{name: value[:3] for name, value in rows.items()})
    message = fails("train", "run.yaml", noise.replace("features.npz", "few.npz"))
    assert f"{len(split) - 3} of {len(split)} training tracklets are missing" in message
    assert not Path("runs").exists()


def test_background_is_warned_of(here: Path) -> None:
    data = load("data.noise={name: background, rate: 0.1, seed: 0}")
    split = data.train.split
    added = [i for i in range(len(split)) if split.key(i)[:4] in ("00-1", "0000")]
    assert len(added) == round(0.1 * len(load().train.split))
    assert not data.intact_T[added].any()
    assert all(path.exists() for tracklet in data.train.split for path in tracklet.paths)
    assert f"{len(added)} distractors and junk of the test set are trained on" in data.benchmark.notes[-1]


@pytest.mark.parametrize(
    ("noise", "words"),
    [
        ("{name: swiches, rate: 0.1, seed: 0}", r"data.noise.name: unknown 'swiches'; did you mean 'switches'"),
        ("{name: switches, rate: 2.0, seed: 0}", "data.noise.rate: expected >= 0 and <= 1, got 2"),
        ("{name: switches, seed: 0}", "data.noise.rate: is missing; switches needs it"),
        ("{rate: 0.1}", "data.noise.name: is missing; expected a value"),
        (
            "[{name: switches, rate: 0.1, seed: 0}, {name: intruders, rate: 0.1, seed: 0, longest: 0}]",
            "data.noise[1].longest: expected >= 1",
        ),
        (
            "[{name: switches, rate: 0.1, seed: 0}, {name: switches, rate: 0.2, seed: 0}]",
            "switches with seed 0 appears twice",
        ),
        ("{name: manifest, path: none.csv}", "none.csv: cannot read this noise manifest"),
        (
            "{name: fragments, rate: 0.5, seed: 0, pieces: 9}",
            "tracklets of 9 frames or more, but there are 0; expected at most 0",
        ),
        ("switches", "data.noise: expected "),
    ],
)
def test_what_is_wrong_with_a_noise_is_one_line(here: Path, fails, noise: str, words: str) -> None:
    assert words.replace("\\", "") in fails("train", "run.yaml", f"data.noise={noise}")
    assert not Path("runs").exists()


def test_a_manifest_without_training(here: Path, fails, capsys: pytest.CaptureFixture[str]) -> None:
    assert call("noise", "run.yaml", TWO, "--out", "made/noise.csv") == 0
    assert "artificial noise: switches, seed 3: " in capsys.readouterr().out
    changes, data = len(Path("made/noise.csv").read_text().splitlines()) - 1, load(TWO)
    assert changes == len(data.noisy.changes)
    again = load("data.noise={name: manifest, path: made/noise.csv}")
    assert torch.equal(again.train.label_F, data.train.label_F)
    assert "made/noise.csv: already exists" in fails("noise", "run.yaml", TWO, "--out", "made/noise.csv")
    assert "data.noise: is missing" in fails("noise", "run.yaml", "--out", "other.csv")
    assert sorted(path.name for path in here.iterdir()) == ["made", "run.yaml"]
    write_twice = "data.noise=[{name: manifest, path: made/noise.csv}, {name: switches, rate: 0.1, seed: 3}]"
    assert "switches with seed 3 is in a manifest too" in fails("train", "run.yaml", write_twice)


def test_persons_of_a_table_keep_their_names(here: Path, clean_root: Path) -> None:
    lines = ["path,tracklet,pid,camid,split"]
    for picture in sorted((clean_root / "demo/bbox_train").rglob("*.jpg")):
        lines.append(f"{picture},{picture.name[:11]},person {picture.name[:4]},{picture.name[5]},train")
    Path("people.csv").write_text("\n".join(lines) + "\n")
    table = ["data.name=manifest", "data.path=people.csv"]
    kinds = {"split_identities": 0.5, "fragments": 0.3, "switches": 0.2}
    noise = f"data.noise={json.dumps([{'name': name, 'rate': rate, 'seed': 0} for name, rate in kinds.items()])}"
    data = load(*table, noise)
    new = {data.benchmark.names.person(pid) for pid in data.train.pids} - {line.split(",")[2] for line in lines}
    assert new
    assert all(re.fullmatch(r"person \d{4}(~\d)+", name) for name in new)
    assert call("noise", "run.yaml", *table, noise, "--out", "noise.csv") == 0
    with open("noise.csv", newline="") as stream:
        assert {row["given_pid"] for row in csv.DictReader(stream)} >= new
    again = load(*table, "data.noise={name: manifest, path: noise.csv}")
    assert again.benchmark.names == data.benchmark.names
    assert torch.equal(again.train.label_F, data.train.label_F)
    frames = data.train.split.frames()
    shown = [data.benchmark.names.person(pid) for pid in data.before.pid_F[frames]]
    assert shown == [f"person {data.train.split.path(frame).name[:4]}" for frame in frames]
