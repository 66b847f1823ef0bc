"""`robust-reid audit`: of a run, of a gallery, of features from anywhere; what it writes, and what it refuses."""

import csv
import json
import shlex
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from reid import config, experiment
from reid.audit.identities import Likeness
from reid.audit.ranking import Audit
from reid.audit.rate import Rate
from reid.audit.records import write_fiftyone
from reid.commands import train
from reid.commands.audit import Audited, _looked_at, write_label_weights
from reid.commands.folds import folds_of
from reid.engine.evidence import late_confidence
from reid.findings import Finding
from reid.tracklets import IdNames, Split
from tests.audit.conftest import make_world
from tests.commands.conftest import call


def rows_of(file: Path) -> list[dict[str, str]]:
    with open(file, encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream))


def test_a_run(trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert call("audit", trained, "--out", tmp_path / "a", "machine.workers=0") == 0
    told = capsys.readouterr().err
    assert "the most suspicious:" in told and "data.corrections=corrections.csv" in told
    split = experiment.load_data(config.load(trained / "config.yaml")).train.split  # those held out are not audited
    rows = rows_of(tmp_path / "a/audit.csv")
    assert sorted(row["key"] for row in rows) == sorted(split.key(i) for i in range(len(split)))
    assert [int(row["rank"]) for row in rows] == list(range(1, len(split) + 1))
    suspicion = [float(row["suspicion"]) for row in rows]
    assert suspicion == sorted(suspicion, reverse=True) and 0 <= suspicion[-1] <= suspicion[0] <= 1
    pid = {split.key(i): str(split.pid[i]) for i in range(len(split))}
    assert all(row["pid"] == pid[row["key"]] for row in rows)
    with np.load(trained / "checkpoints/evidence.npz") as seen:
        assert seen["key"].tolist() == [split.key(i) for i in range(len(split))]
        assert seen["frame_count"].sum() == 12 * 8  # steps x batch
        drawn = dict(zip(seen["key"].tolist(), seen["tracklet_count"].sum(1).tolist(), strict=True))
    for row in rows:
        assert (row["confidence"] == "") == (drawn[row["key"]] == 0)
    summary = json.loads((tmp_path / "a/audit.json").read_text())
    assert summary["tracklets"] == len(split) and summary["schema"] == 1
    low, value, high = (summary["wrong_labels"][key] for key in ("low", "estimate", "high"))
    assert 0 <= low <= value + 1e-9 and value <= high + 1e-9 <= 1 + 1e-8
    issues = rows_of(tmp_path / "a/label_issues.csv")
    assert [row["key"] for row in issues] == [split.key(i) for i in range(len(split))]
    # As FiftyOne's FiftyOneImageClassificationDatasetImporter reads them, which needs no database to be tried by hand.
    paths, about = (json.loads((tmp_path / "a/fiftyone" / name).read_text()) for name in ("data.json", "labels.json"))
    assert paths.keys() == about["labels"].keys() == pid.keys()
    assert all(Path(path).is_absolute() and Path(path).is_file() for path in paths.values())
    assert all(label["label"] == pid[key] for key, label in about["labels"].items())
    assert about["labels"][rows[0]["key"]]["attributes"]["suspicion"] == pytest.approx(suspicion[0], abs=1e-4)
    assert (tmp_path / "a/audit/index.html").is_file()


def test_a_dataset_for_fiftyone_names_files_that_are_there(tmp_path: Path) -> None:
    Image.new("RGB", (8, 16)).save(tmp_path / "whole.png")
    names = np.array([b"whole.png", b"whole.png#xywh=0,0,4,8", b"gone.png"])
    one = np.arange(3)
    split = Split(tmp_path, names, one, one + 1, one + 1, one, np.array(["whole", "part", "gone"]))
    write_fiftyone(tmp_path / "some", [Finding(row, 0.5) for row in (0, 1, 2)], split, IdNames())
    assert list(json.loads((tmp_path / "some/data.json").read_text())) == ["whole"]
    assert list(json.loads((tmp_path / "some/labels.json").read_text())["labels"]) == ["whole"]
    write_fiftyone(tmp_path / "none", [Finding(row, 0.5) for row in (1, 2)], split, IdNames())
    assert not (tmp_path / "none").exists()


def test_frames_are_evenly_spread_and_readable() -> None:
    names = np.array([f"{i}.jpg".encode() for i in range(12)])
    split = Split(Path("/d"), names, np.array([0, 7, 10]), np.array([7, 10, 12]), np.array([1, 2, 2]), np.zeros(3, int))
    frames, lengths, positions = _looked_at(split, 3, {"/d/8.jpg", "/d/10.jpg", "/d/11.jpg"})
    assert frames.tolist() == [0, 3, 6, 7, 9]
    assert lengths.tolist() == [3, 2, 0]
    assert positions.tolist() == [0, 3, 6, 0, 2]
    frames, lengths, _ = _looked_at(split, 0, set())
    assert frames.tolist() == list(range(12)) and lengths.tolist() == [7, 3, 2]


def test_fewer_frames_without_the_page(trained: Path, tmp_path: Path) -> None:
    for name, flags in {"one": ["--frames", "1"], "all": []}.items():
        assert call("audit", trained, "--out", tmp_path / name, "--no-page", *flags) == 0
        assert not (tmp_path / name / "audit").exists()
    one, all_frames = (rows_of(tmp_path / name / "audit.csv") for name in ("one", "all"))
    assert {row["key"] for row in one} == {row["key"] for row in all_frames}
    assert {row["foreign_frames"] for row in one} == {"0.0000"}  # a single frame is foreign to nobody
    assert {row["key"]: row["margin"] for row in one} != {row["key"]: row["margin"] for row in all_frames}


def features_file(path: Path, **changes: object) -> Path:
    world = make_world(rate=0.2)
    arrays = {"features": world.features, "pid": world.given, "camid": world.camid}
    np.savez(path, **(arrays | changes))  # type: ignore[arg-type]
    return path


def test_features_from_anywhere(tmp_path: Path) -> None:
    world = make_world(rate=0.2)
    key = np.array([f"t{i}" for i in range(400)])
    given = world.given.copy()
    given[:3] = [0, -1, 0]  # distractors and junk have no label to audit
    assert call("audit", features_file(tmp_path / "f.npz", key=key, pid=given)) == 0
    rows = rows_of(tmp_path / "f-audit/audit.csv")
    assert len(rows) == 397
    first = [int(row["key"][1:]) for row in rows[:50]]
    assert world.wrong[first].mean() > 0.95
    found = [row for row in rows if row["kind"] == "wrong"]
    assert np.mean([int(row["suggested_pid"] or 0) == world.true[int(row["key"][1:])] for row in found]) > 0.95
    assert "confidence" not in rows[0] and "foreign_frames" not in rows[0]  # nothing is known of training and frames
    assert (tmp_path / "f-audit/audit/index.html").is_file()  # without pictures, but usable
    assert not (tmp_path / "f-audit/fiftyone").exists()


def test_features_that_tell_nobody_apart_are_warned_of(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert call("audit", features_file(tmp_path / "f.npz")) == 0
    assert "cannot tell these persons apart" not in capsys.readouterr().err
    untrained = np.random.default_rng(0).standard_normal((400, 16))
    untrained /= np.linalg.norm(untrained, axis=1, keepdims=True)
    assert call("audit", features_file(tmp_path / "u.npz", features=untrained)) == 0
    assert "or this network cannot tell these persons apart" in capsys.readouterr().err
    assert "cannot tell these persons apart" in (tmp_path / "u-audit/audit/index.html").read_text()


def test_what_it_refuses(tmp_path: Path, trained: Path, fails) -> None:
    file = features_file(tmp_path / "f.npz")
    assert "has no config to change" in fails("audit", file, "machine.workers=1")
    nobody = features_file(tmp_path / "n.npz", pid=np.zeros(400, int))
    assert "no row has a pid above 0, so there is no label to audit" in fails("audit", nobody)
    with np.load(file) as arrays:
        np.savez(tmp_path / "c.npz", features=arrays["features"], pid=arrays["pid"])
    assert "missing array camid; found features, pid, query; use camid -1 for" in fails("audit", tmp_path / "c.npz")
    assert "missing: not found; expected a run directory, a feature folder" in fails("audit", tmp_path / "missing")
    assert "frames" in fails("audit", trained, "--frames", "-1")
    assert not list(tmp_path.glob("*-audit"))


def test_evidence_that_a_kill_has_kept_from_being_written(trained: Path, tmp_path: Path) -> None:
    run = shutil.copytree(trained, tmp_path / "run")
    (run / "checkpoints/evidence.npz").unlink()
    assert call("train", run / "config.yaml", "--output-dir", run, "--resume", "auto") == 0
    with np.load(run / "checkpoints/evidence.npz") as again, np.load(trained / "checkpoints/evidence.npz") as before:
        for name in before.files:
            assert np.array_equal(again[name], before[name], equal_nan=before[name].dtype.kind == "f"), name


def test_evidence_is_that_of_the_split_it_is_asked_for(trained: Path) -> None:
    file = trained / "checkpoints/evidence.npz"
    split = experiment.load_data(config.load(trained / "config.yaml")).train.split
    p = late_confidence(file, split)
    assert p is not None and np.isfinite(p).any() and ((p >= 0) & (p <= 1))[np.isfinite(p)].all()
    assert late_confidence(file, split.select(np.arange(len(split))[::-1])) is None


def test_folds_are_of_tracklets_and_leave_no_person_out() -> None:
    pid = np.repeat([3, 5, 9], [7, 1, 2])
    fold = folds_of(pid, 3, seed=0)
    assert fold[pid == 5].tolist() == [-1]
    assert sorted(np.bincount(fold[pid == 3])) == [2, 2, 3]
    assert len(set(fold[pid == 9])) == 2
    assert np.array_equal(fold, folds_of(pid, 3, seed=0)) and not np.array_equal(fold, folds_of(pid, 3, seed=1))


def test_networks_that_have_not_seen_a_tracklet_judge_it_too(trained: Path, tmp_path: Path, fails) -> None:
    run = tmp_path / "run"
    shutil.copytree(trained, run)
    assert call("audit", run, "--folds", "2", "--no-page", "machine.workers=0") == 0
    rows, split = rows_of(run / "audit.csv"), experiment.load_data(config.load(run / "config.yaml")).train.split
    held = len(experiment.load_data(config.load(run / "config.yaml")).holdout)
    fold = dict(zip((split.key(i) for i in range(len(split))), folds_of(split.pid, 2, 0).tolist(), strict=True))
    for number in (0, 1):
        left_out = {row["key"] for row in rows_of(run / f"folds/2-of-tracklets/{number}.csv")}
        assert left_out & fold.keys() == {key for key, its in fold.items() if its == number}
        assert len(left_out - fold.keys()) == held > 0  # held out by the run: no network is trained on them
        with np.load(run / f"folds/2-of-tracklets/{number}/checkpoints/evidence.npz") as seen:
            assert left_out.isdisjoint(seen["key"].tolist())
    assert all((row["margin_out_of_fold"] == "") == (fold[row["key"]] < 0) for row in rows)

    first, written = (run / "audit.csv").read_bytes(), (run / "folds/2-of-tracklets/0/metrics.jsonl").stat().st_mtime_ns
    assert call("audit", run, "--folds", "2", "--no-page", "machine.workers=0") == 0
    assert (run / "audit.csv").read_bytes() == first
    assert (run / "folds/2-of-tracklets/0/metrics.jsonl").stat().st_mtime_ns == written  # nothing is trained twice
    persons = folds_of(split.pid, 2, 0, "persons")
    assert all(len(set(persons[split.pid == pid])) == 1 for pid in split.pid) and len(set(persons)) == 2
    assert "folds" in fails("audit", run, "--folds", "1")
    assert "needs --folds N as well" in fails("audit", run, "--folds-of", "persons")
    with (run / "folds/2-of-tracklets/0/config.yaml").open() as file:
        assert "holdout: 0.0" in file.read()  # those that the run holds out are left out by name
    message = fails("audit", run, "--folds", "2", "train.lr=0.5", "--no-page")
    assert "cannot resume" in message and "2-of-tracklets" in message
    assert "no config to train with" in fails("audit", features_file(tmp_path / "f.npz"), "--folds", "2")


def unreviewed(told: str, what: str) -> list[str]:
    """The words of a command that trains without a review."""
    (line,) = (line for line in told.splitlines() if "without a review" in line and what in line)
    return shlex.split(line.partition(": robust-reid ")[2])


def test_weights_train_as_the_audit_says(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], fails
) -> None:
    run, few = tmp_path / "a run", ["train.iterations=2", "test.protocols=market1501", "test.baselines=false"]
    shutil.copytree(trained, run)
    assert call("audit", run, "--no-page") == 0
    told = capsys.readouterr().err
    words, drop = unreviewed(told, "weight each label"), unreviewed(told, "drop the")
    rows = {row["key"]: row for row in rows_of(run / "weights.csv")}
    found = {row["key"]: row for row in rows_of(run / "audit.csv")}
    assert rows.keys() == found.keys() and len(rows) > 4
    for key, row in rows.items():
        right = (1 - float(found[key]["suspicion"])) * (1 - float(found[key]["foreign_frames"]))
        assert float(row["label_right"]) == float(row["weight"]) == pytest.approx(right, abs=2e-4)
        assert float(row["before"]) == 1
    first = [row["key"] for row in rows_of(run / "audit.csv")]
    rate = json.loads((run / "audit.json").read_text())["wrong_labels"]["estimate"]
    assert rows_of(run / "drop.csv") == [{"action": "drop", "key": key} for key in first[: round(rate * len(first))]]
    dropped = experiment.load_data(config.load(run / "config.yaml", [f"data.corrections={run / 'drop.csv'}"]))
    kept = {dropped.train.split.key(i) for i in range(len(dropped.train.split))}
    assert drop[2].endswith("drop.csv") and kept == set(first[round(rate * len(first)) :]) and len(kept) < len(first)
    assert call(*words, *few) == 0
    again = Path(f"{run}-weighted")
    data = experiment.load_data(config.load(again / "config.yaml"))
    mean = np.mean([float(row["weight"]) for row in rows.values()])
    assert data.train.weight_F is not None and data.weights
    for i in range(len(data.train.split)):
        given = float(rows[data.train.split.key(i)]["weight"])
        assert float(data.train.weight_F[data.train.split.start[i]]) == pytest.approx(given / mean, rel=1e-5)

    assert call("audit", again, "--no-page") == 0  # its weights are an estimate anew, not the product of both
    second = rows_of(again / "weights.csv")
    assert {row["before"] for row in second} == {"1"} and [row["weight"] for row in second] == [
        row["label_right"] for row in second
    ]
    was = (run / "weights.csv").read_bytes()
    (run / "weights.csv").write_text(f"key,weight\n{second[0]['key']},0.5\n")
    assert (again / "trained_weights.csv").read_bytes() == was
    assert call("audit", again, "--no-page") == 0 and rows_of(again / "weights.csv") == second  # from the copy
    message = fails(*words, *few, "--resume", "auto")
    assert "cannot resume, data.weights has changed: trained with SHA-256" in message
    assert not list(features_file(tmp_path / "f.npz").parent.glob("f-audit/weights.csv"))


def test_a_gallery_has_no_weights_to_train_with(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert call("audit", features_file(tmp_path / "f.npz"), "--no-page") == 0
    assert (tmp_path / "f-audit/audit.csv").exists() and not (tmp_path / "f-audit/weights.csv").exists()
    assert not (tmp_path / "f-audit/drop.csv").exists() and "without a review" not in capsys.readouterr().err


def quickly_trained(folder: str, *settings: str) -> None:
    """As `robust-reid train run.yaml`, by a smaller network and without the test at the end."""
    small = config.load("run.yaml", ["model.name=test_resnet", "train.iterations=2", *settings])
    train.run(small, train.Options(Path(folder), then_test=False))


def test_weights_that_a_person_has_set_are_kept(workplace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Of a run with weights of its own and corrections: the next one has the product, and the corrections once more."""
    split = experiment.load_data(config.load("run.yaml")).train.split
    keys = [split.key(i) for i in range(len(split))]
    Path("mine.csv").write_text(f"key,weight\n{keys[0]},0\n{keys[1]},3\n")
    Path("c.csv").write_text(f"action,key,pid\ndrop,{keys[2]},\nkeep,{keys[3]},\n")
    quickly_trained("run", "data.weights=mine.csv", "data.corrections=c.csv")
    Path("c.csv").unlink()
    capsys.readouterr()
    assert call("audit", "run", "--no-page", "--out", "found") == 0
    told, rows = capsys.readouterr().err, {row["key"]: row for row in rows_of(Path("found/weights.csv"))}
    words = unreviewed(told, "weight each label")
    assert 'data.corrections=["run/corrections.csv", "found/drop.csv"]' in unreviewed(told, "drop the")
    assert words[-4:] == [
        "data.weights=found/weights.csv",
        "data.corrections=run/corrections.csv",
        "--output-dir",
        "run-weighted",
    ]
    assert [float(rows[key]["before"]) for key in (keys[0], keys[1], keys[3])] == [0, 3, 1] and keys[2] not in rows
    assert float(rows[keys[1]]["weight"]) == pytest.approx(3 * float(rows[keys[1]]["label_right"]), rel=1e-4)
    assert call(*words, "test.protocols=market1501") == 0
    trained_on = experiment.load_data(config.load("run-weighted/config.yaml"))
    weight = {
        trained_on.train.split.key(i): float(trained_on.train.weight_F[trained_on.train.split.start[i]])  # type: ignore[index]
        for i in range(len(trained_on.train.split))
    }
    unit = weight[keys[3]]  # kept by a person, so it counts whole, whatever the audit thinks of it
    assert 0 < float(rows[keys[3]]["label_right"]) < 1
    assert weight[keys[0]] == 0
    for key in keys[4:8]:
        assert weight[key] == pytest.approx(unit * float(rows[key]["weight"]), rel=1e-4)


def test_a_file_that_could_not_train_is_not_left(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    place = np.arange(3)
    split = Split(tmp_path, np.array([b"a.png"] * 3), place, place + 1, place + 1, place, np.array(["a", "b", "b"]))
    likeness = Likeness(0.9, 0.1)
    result = Audit([Finding(row, 1.0) for row in range(3)], Rate(1.0, 1.0, 1.0, 1.0), likeness)
    twice = Audited("d", split, place, np.empty((3, 2)), None, None, IdNames(), {}, before=np.ones(3))
    nothing = replace(twice, split=replace(split, keys=np.array(["a", "b", "c"])))
    for audited, why in ((twice, "1 tracklet has the key of another one"), (nothing, "every weight would be 0")):
        (tmp_path / "w.csv").write_text("of an earlier audit")
        assert not write_label_weights(tmp_path / "w.csv", audited, result)
        assert not (tmp_path / "w.csv").exists() and why in caplog.text
    unseen = replace(nothing, rows=place[:2])
    assert write_label_weights(tmp_path / "w.csv", unseen, Audit(result.findings[:2], Rate(0.25, 0, 1, 0), likeness))
    assert [row["weight"] for row in rows_of(tmp_path / "w.csv")] == ["0", "0", "0.75"]  # the last: as any label


def test_a_table_s_weights_are_in_the_file(workplace: Path, data_root: Path, fails) -> None:
    split = experiment.load_data(config.load("run.yaml")).train.split
    lines = ["path,tracklet,pid,camid,split,weight"]
    for i in range(len(split)):
        weight = "0.5" if i == 0 else "2"
        lines += [f"{path},{split.key(i)},{split.pid[i]},{split.camid[i]},train,{weight}" for path in split[i].paths]
    Path("own.csv").write_text("\n".join(lines))
    quickly_trained("run", "data={name: manifest, path: own.csv}")
    assert call("audit", "run", "--no-page") == 0
    data = experiment.load_data(config.load("run/config.yaml", ["data.weights=run/weights.csv"]))
    rows = {row["key"]: float(row["weight"]) for row in rows_of(Path("run/weights.csv"))}
    first = data.train.split.start
    given = np.array([rows[data.train.split.key(i)] for i in range(len(first))])
    assert data.train.weight_F is not None
    assert data.train.weight_F.numpy()[first] == pytest.approx(given / given.mean(), rel=1e-5)
    Path("mine.csv").write_text("key,weight\n")
    assert "the table already has a column weight; remove one of the two" in fails(
        "train", "run/config.yaml", "data.weights=mine.csv"
    )
    Path("own.csv").write_text("\n".join(lines).replace(",0.5", ",0.75"))
    message = fails("train", "run/config.yaml", "data.weights=run/weights.csv")
    assert "the table's weight was 0.5 when this file was made, now 0.75; train on the table" in message
