"""`data.corrections`: a run on mended labels is the run on the true ones, and says, keeps and checks what it was mended by."""

import csv
import shlex
import shutil
from pathlib import Path

import numpy as np
import pytest

from reid import config, experiment
from reid.datasets.demo import load_truth, write_demo
from reid.engine import checkpoint
from reid.experiment import DATASETS
from reid.files import data_root
from reid.rundir import RunDirectory
from tests.commands.conftest import CONFIG, call


@pytest.fixture(scope="module")
def noisy_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Seven of 21 training labels are wrong."""
    root = tmp_path_factory.mktemp("noisy")
    sizes = {"train_ids": 6, "test_ids": 3, "tracklets_per_id": 4, "min_frames": 2, "max_frames": 4}
    write_demo(root / "demo", **sizes, distractors=1, junk=1, label_noise=0.33, noise_seed=1)
    return root


@pytest.fixture
def place(tmp_path: Path, noisy_root: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty current folder with run.yaml and the corrections of all wrong labels in it."""
    (tmp_path / "run.yaml").write_text(CONFIG)
    monkeypatch.setenv("REID_DATA", str(noisy_root))
    monkeypatch.chdir(tmp_path)
    train, truth = DATASETS["demo"](noisy_root / "demo").train, load_truth(noisy_root / "demo").true_pid
    wrong = [i for i in range(len(train)) if train.pid[i] != truth[i]]
    assert len(wrong) == 7
    with open("mended.csv", "w", newline="") as stream:
        rows = [["relabel", train.key(i), truth[i], "", "wrong"] for i in wrong]
        csv.writer(stream).writerows([["action", "key", "pid", "frames", "note"], *rows])
    return tmp_path


def labelled(*overrides: str) -> list[tuple[str, int, list[int]]]:
    """Key, person and class of each frame of every tracklet, as training sees them."""
    train = experiment.load_data(config.load("run.yaml", overrides)).train
    split, label_F = train.split, train.label_F.tolist()
    return [(split.key(i), int(split.pid[i]), label_F[split.start[i] : split.stop[i]]) for i in range(len(split))]


def test_mended_labels_are_the_true_ones(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    settings = ["data.corrections=mended.csv", "data.labels=truth", "seed=0"]
    mended, truth, given = (labelled(one) for one in settings)
    assert mended == truth != given
    first_step = []
    for setting in settings:
        assert call("train", "run.yaml", "--dry-run", "loss.name=cce", "train.batch_size=32", setting) == 0
        first_step += [line for line in capsys.readouterr().err.splitlines() if line.startswith("one step: loss")]
    assert first_step[0] == first_step[1] != first_step[2]


def test_a_second_file_corrects_what_the_first_has_left(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    head, *rows = Path("mended.csv").read_text().splitlines()
    Path("first.csv").write_text("\n".join([head, *rows[:3], f"split,{rows[3].split(',')[1]},,1,"]) + "\n")
    action, key, pid, *_ = rows[3].split(",")
    second = [
        head,
        *rows[4:],
        f"{action},{key},{pid},,",
        f"drop,{key}@1,,,",
    ]  # the piece is there after the first file only
    Path("second.csv").write_text("\n".join(second) + "\n")
    both = "data.corrections=[first.csv, second.csv]"
    apart, at_once = labelled(both), labelled("data.corrections=mended.csv")
    assert [row if row[0] != key else (*row[:2], row[2][:1]) for row in at_once] == apart
    data = experiment.load_data(config.load("run.yaml", [both]))
    assert data.corrected == "3 relabelled, 1 split; 1 person new; then 4 relabelled, 1 dropped"
    assert data.train.intact_F is not None and data.train.intact_F[data.train.split.frames()].all()

    few = ["train.iterations=2", "test.protocols=market1501"]
    assert call("train", "run.yaml", *few, "data.corrections=first.csv", "--output-dir", "one round") == 0
    Path("first.csv").unlink()
    capsys.readouterr()
    assert call("audit", "one round") == 0
    command = next(
        line for line in capsys.readouterr().err.splitlines() if "then train on the corrected labels: " in line
    )
    _, *words = shlex.split(command.partition("corrected labels: ")[2])
    shutil.copy("second.csv", "corrections.csv")
    assert call(*words, *few) == 0
    run = RunDirectory(Path("one round-corrected"))
    assert [copy.name for copy in run.corrections(2)] == ["corrections.csv", "corrections-2.csv"]
    assert all(copy.is_file() for copy in run.corrections(2)) and not run.corrections(3)[2].exists()
    Path("corrections.csv").unlink()
    shutil.rmtree("one round")
    split = experiment.data_as_trained(run.config(), run).train.split
    assert [split.key(row) for row in range(len(split))] == [key for key, *_ in apart]


def test_a_run_says_keeps_and_checks_its_corrections(place: Path, fails) -> None:
    mended = ["run.yaml", "train.iterations=3", "test.protocols=market1501", "--output-dir", "mended"]
    assert call("train", *mended, "data.corrections=mended.csv") == 0
    log = (place / "mended/log.txt").read_text()
    assert f"corrections {place / 'mended.csv'}: 7 relabelled" in log
    assert "wrong labels: 0 of 21" in log
    own = place / "mended/corrections.csv"
    assert own.read_bytes() == (place / "mended.csv").read_bytes()
    assert "7 relabelled (mended.csv)" in (place / "mended/report.html").read_text()
    assert checkpoint.load(place / "mended/checkpoints/last.pt")["corrections"]["counts"] == "7 relabelled"

    # The same content may lie elsewhere when the run is resumed; another content, or none, is refused.
    shutil.move("mended.csv", "moved.csv")
    resume = ["--resume", "auto"]
    assert call("train", *mended, *resume, "data.corrections=moved.csv") == 0
    with open("moved.csv", "a") as stream:
        stream.write(f"keep,{DATASETS['demo'](data_root(None) / 'demo').train.key(0)},,,\n")
    assert "data.corrections: trained with SHA-256 " in fails("train", *mended, *resume, "data.corrections=moved.csv")
    assert ", now none; use the same file" in fails("train", *mended, *resume)


def test_held_out_persons_are_drawn_from_corrected_labels(place: Path) -> None:
    """Two persons who are one are held out together, or not at all."""
    persons = np.unique(DATASETS["demo"](data_root(None) / "demo").train.pid).tolist()
    (place / "merge.csv").write_text(f"action,key,pid\nmerge,{persons[0]},{persons[1]}\n")
    settings = config.load("run.yaml", ["data.holdout=0.4", "data.corrections=merge.csv"])
    data = experiment.load_data(settings)
    assert data.holdout is not None
    assert sorted({*data.holdout.pid.tolist(), *data.train.pids.tolist()}) == persons[1:]
    assert data.corrected == "1 person merged into another"


@pytest.mark.parametrize(
    "rows, words",
    [
        (["data.labels=truth"], "data.corrections: corrects the given labels, but data.labels is truth"),
        (["data.corrections=none.csv"], "none.csv: no such corrections file"),
    ],
)
def test_settings_that_cannot_be(place: Path, fails, rows: list[str], words: str) -> None:
    assert words in fails("train", "run.yaml", "--dry-run", "data.corrections=mended.csv", *rows)


def test_a_table_of_ones_own(place: Path, noisy_root: Path) -> None:
    """Persons with names, one of them tested on; a piece of its own and a person nobody knew."""
    train = DATASETS["demo"](noisy_root / "demo").train
    names = [f"person {pid}" for pid in train.pid.tolist()]
    names[0], names[1] = "=cmd", "<b>"
    with open("own.csv", "w", newline="") as stream:
        rows = [(path, f"t{i}", names[i], "train") for i in range(len(train)) for path in train[i].paths]
        csv.writer(stream).writerows([("path", "tracklet", "pid", "split"), *rows])
    (place / "c.csv").write_text(
        "action,key,pid,frames,note\nrelabel,t1,'=cmd,,\nsplit,t2,,1,\nrelabel,t3,somebody,,\n"
    )
    settings = config.load("run.yaml", ["data={name: manifest, path: own.csv}", "data.corrections=c.csv"])
    data = experiment.load_data(settings)
    called = {data.benchmark.names.person(pid) for pid in data.train.pids.tolist()}
    assert {"=cmd", "t2@1", "somebody"} <= called
    assert "<b>" not in called
    assert data.corrected == "2 relabelled, 1 split; 2 persons new"
    assert experiment.located(settings).data.corrections == str(place / "c.csv")


def test_weights_and_corrections_of_one_audit(place: Path) -> None:
    train = DATASETS["demo"](data_root(None) / "demo").train
    long = int(np.flatnonzero(train.lengths > 1)[1])
    (place / "c.csv").write_text(f"action,key,pid,frames\ndrop,{train.key(0)},,\nsplit,{train.key(long)},,1\n")
    weights = "".join(f"{train.key(i)},{i + 1}\n" for i in range(len(train)))
    (place / "w.csv").write_text(f"key,weight\n{weights}")
    found = experiment.load_data(config.load("run.yaml", ["data.corrections=c.csv", "data.weights=w.csv"])).train
    keys, expected = [found.split.key(i) for i in range(len(found.split))], {train.key(i): i + 1 for i in range(21)}
    assert train.key(0) not in keys and f"{train.key(long)}@1" in keys
    weight = np.array([expected.get(key, 1.0) for key in keys])
    assert found.weight_F is not None
    assert found.weight_F.numpy()[found.split.start] == pytest.approx(weight / weight.mean())


def test_an_audit_sees_the_labels_that_the_run_has_seen(place: Path) -> None:
    """The run has kept its corrections and its noise; the files it was given may be gone or changed."""
    noise = "data.noise={name: uniform_others, rate: 0.2, seed: 3}"
    run = ["run.yaml", "train.iterations=2", "test.protocols=market1501", "--output-dir", "run"]
    assert call("train", *run, "data.corrections=mended.csv", noise) == 0
    drawn, made = labelled("data.corrections=mended.csv", noise), place / "run/noise.csv"
    made.write_text("\n".join(made.read_text().splitlines()[:3]))  # as if an earlier version had drawn others
    labels = labelled("data.corrections=mended.csv", "data.noise={name: manifest, path: run/noise.csv}")
    assert labels != drawn
    key, pid, _ = labels[0]
    other = next(one for _, one, _ in labels if one != pid)
    (place / "mended.csv").write_text(f"action,key,pid\nrelabel,{key},{other}\n")
    assert call("audit", "run", "--no-page") == 0
    with open("run/audit.csv", newline="") as stream:
        assert {row["key"]: int(row["pid"]) for row in csv.DictReader(stream)} == {key: pid for key, pid, _ in labels}
