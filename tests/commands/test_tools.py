"""The tools as people call them: what they write and what they print."""

import importlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from reid import config, experiment
from reid.datasets.decoding import decode
from reid.datasets.demo import write_demo
from reid.engine import checkpoint
from reid.features import FeatureSet
from tests.commands.conftest import HELD_OUT, ROOT, by_two, call


def rows_of(run: str | Path) -> list[dict]:
    return [json.loads(line) for line in Path(run, "metrics.jsonl").read_text().splitlines()]


def test_a_run_directory_is_complete(trained: Path) -> None:
    files = {str(path.relative_to(trained)) for path in trained.rglob("*") if path.is_file()}
    expected = {
        "checkpoints/evidence.npz",
        "config.yaml",
        "log.txt",
        "metrics.jsonl",
        "eval.json",
        "report.html",
        "features.npz",
    }
    expected |= {"checkpoints/last.pt", "checkpoints/best.pt"}
    assert {name for name in files if not name.startswith("tensorboard/")} == expected
    assert any(name.startswith("tensorboard/events") for name in files)
    rows = rows_of(trained)
    assert [row["step"] for row in rows] == [1, 4, 8, 12]
    assert [row["lr"] for row in rows] == [0.01, 0.01, 0.005, 0.0025]
    columns = {"loss", "accuracy", "images_per_second", "data_seconds", "accuracy_intact", "accuracy_corrupted"}
    assert columns <= rows[1].keys()
    results = json.loads((trained / "eval.json").read_text())
    assert [r["protocol"] for r in results] == ["mars-official", "mars-hit-ap", "mars-torchreid", "market1501"]
    assert all(r["schema"] == 1 and 0 < r["mAP"] <= 1 and set(r["cmc"]) == {"1", "5", "10", "20"} for r in results)
    state = checkpoint.load(trained / "checkpoints/last.pt")
    assert state["step"] == 12
    assert state["pids"] == sorted(state["pids"])


def test_the_log_says_what_matters_first(trained: Path) -> None:
    log = (trained / "log.txt").read_text()
    facts = ("command: ", "subset  | ids", "tracklet labels wrong", "first gradient: mean L1 norm", "GFLOPs")
    for words in (*facts, "held-out identities at step 6"):
        assert words in log, words
    line = next(line for line in log.splitlines() if "iter 12/12" in line)
    for word in ("eta 0:00:00", "time ", "data ", "loss ", "acc ", "lr 0.002500"):
        assert word in line


def test_an_existing_run_is_not_touched(trained: Path, workplace: Path, fails) -> None:
    shutil.copytree(trained, "runs/run")
    before = Path("runs/run/metrics.jsonl").read_bytes()
    assert "--resume auto continues it, --overwrite replaces it" in fails("train", "run.yaml")
    message = fails("train", "run.yaml", "--resume", "auto", "loss.T=4")
    assert "trained with a different config" in message
    assert "loss.T: 8.0 before, 4 now" in message
    assert Path("runs/run/metrics.jsonl").read_bytes() == before
    (workplace / "other").mkdir()
    (workplace / "other" / "thesis.txt").write_text("mine")
    assert "is not a run directory" in fails("train", "run.yaml", "--output-dir", "other", "--overwrite")
    assert (workplace / "other" / "thesis.txt").read_text() == "mine"


def test_a_finished_run_resumes_to_its_result(
    trained: Path, workplace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(trained, "runs/run")
    before = Path("runs/run/eval.json").read_text()
    assert call("train", "run.yaml", "--resume", "auto", *HELD_OUT) == 0
    assert Path("runs/run/eval.json").read_text() == before
    out = capsys.readouterr().out
    assert "mAP: " in out
    assert "Rank-1  : " in out
    assert "report: runs/run/report.html" in out


@pytest.mark.parametrize(("sent", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_leaves_a_resumable_run_that_ends_the_same(workplace: Path, sent: int, code: int) -> None:
    """The signal goes to the whole process group, decoding workers included, as a terminal and cluster managers send it."""
    assert call("train", "run.yaml", "--output-dir", "whole", "train.iterations=40") == 0
    command = [sys.executable, ROOT / "tools/train.py", "run.yaml", "train.iterations=40", "--resume", "auto"]
    process = subprocess.Popen(
        [*command, "machine.workers=2"], stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    metrics, deadline = Path("runs/run/metrics.jsonl"), time.monotonic() + 120
    while not (metrics.exists() and '"step": 4' in metrics.read_text()):
        assert time.monotonic() < deadline
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.01)
    os.killpg(process.pid, sent)
    assert process.wait(60) == code
    assert "--resume auto continues" in process.stderr.read()
    process.stderr.close()
    stopped_at = checkpoint.load(Path("runs/run/checkpoints/last.pt"))["step"]
    assert 4 <= stopped_at < 40
    with open(metrics, "a") as file:  # as a kill in the middle of a line would leave it
        file.write('{"step": 39, "lo')
    assert call("train", "run.yaml", "train.iterations=40", "--resume", "auto") == 0
    ours, whole = (checkpoint.load(Path(f"{run}/checkpoints/last.pt")) for run in ("runs/run", "whole"))
    assert all(torch.equal(ours["model"][key], whole["model"][key]) for key in whole["model"])
    rows, shared = rows_of("runs/run"), {row["step"]: row for row in rows_of("whole")}
    steps = [row["step"] for row in rows]
    assert steps == sorted(set(steps))
    after = [row for row in rows if row["step"] - 4 >= stopped_at]
    assert after or stopped_at > 32
    assert all(row[key] == shared[row["step"]][key] for row in after for key in ("loss", "lr", "accuracy"))


def test_dry_run_writes_nothing(workplace: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert call("train", "run.yaml", "--dry-run") == 0
    assert sorted(path.name for path in workplace.iterdir()) == ["run.yaml"]


def test_paper_settings_run_on_a_small_dataset(workplace: Path, data_root: Path) -> None:
    shutil.copytree(data_root / "demo", workplace / "data" / "MARS")
    short = ["train.iterations=2", "train.batch_size=4", "train.log_freq=1", "model.pretrained=false"]
    small = [
        "sampler.K=2",
        "sampler.tracklets=1",
        "augment.resize=[40, 40]",
        "augment.crop=[32, 32]",
        "machine.workers=0",
    ]
    assert call("train", ROOT / "configs/mars_imae.yaml", "--data-root", "data", "--device", "cpu", *short, *small) == 0
    assert "mars-subset" in Path("runs/mars_imae/log.txt").read_text()


def test_testing_again_gives_the_same_and_leaves_the_run_alone(
    trained: Path, workplace: Path, data_root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = {path: path.stat().st_mtime_ns for path in trained.rglob("*")}
    assert call("test", trained, "--json", "out/all.json") == 0
    assert Path("out/all.json").read_text() == (trained / "eval.json").read_text()
    assert "baseline colour histogram: " in capsys.readouterr().out
    options = ["--protocol", "mars-hit-ap", "--checkpoint", "best", "--any-camera", "--markdown"]
    assert call("test", trained, *options, "test.baselines=false", "--json", "out/best.json") == 0
    assert [r["protocol"] for r in json.loads(Path("out/best.json").read_text())] == ["mars-hit-ap+any-camera"]
    assert "| this run | mars-hit-ap+any-camera |" in capsys.readouterr().out
    assert {path: path.stat().st_mtime_ns for path in trained.rglob("*")} == before


def test_resuming_from_another_runs_checkpoint(trained: Path, workplace: Path, fails) -> None:
    last = trained / "checkpoints/last.pt"
    message = fails("train", "run.yaml", "--resume", last, *HELD_OUT, "train.optimizer.momentum=0.5")
    assert "made with a different config: train.optimizer.momentum: None before, 0.5 now" in message
    assert not Path("runs").exists()
    assert call("train", "run.yaml", "--resume", last, *HELD_OUT) == 0
    assert Path("runs/run/eval.json").read_text() == (trained / "eval.json").read_text()
    assert Path("runs/run/checkpoints/last.pt").read_bytes() == last.read_bytes()


def test_another_dataset_than_the_runs_can_be_tested(trained: Path, workplace: Path) -> None:
    write_demo(workplace / "other" / "demo", train_ids=3, test_ids=3, tracklets_per_id=3, distractors=1, junk=1)
    assert call("test", trained, "--data-root", "other", "test.baselines=false") == 0


def test_features_are_the_mean_over_frames_normalised(trained: Path, data_root: Path) -> None:
    """From the files on disk, one image at a time, with none of the pipeline's batching."""
    settings = config.load(trained / "config.yaml")
    embedding, preprocess = experiment.build_embedding(settings, initial_weights=False)
    state = checkpoint.load(trained / "checkpoints/last.pt")["model"]
    embedding.load_state_dict({k.removeprefix("embedding."): v for k, v in state.items() if k.startswith("embedding.")})
    stored = FeatureSet.load(trained / "features.npz")
    test = experiment.load_benchmark(settings).test
    with torch.no_grad():
        for row in (0, 7, len(test) - 1):
            images = [torch.from_numpy(decode(path))[None] for path in test[row].paths]
            frames = torch.cat([embedding.eval()(preprocess(image, torch.device("cpu"))) for image in images])
            expected = torch.nn.functional.normalize(frames.mean(0), dim=0)
            np.testing.assert_allclose(stored.features[row], expected.numpy(), atol=1e-5)
            assert stored.key[row] == test[row].key


def test_feature_files_and_folders_evaluate_alike(trained: Path, workplace: Path, data_root: Path) -> None:
    assert call("extract", trained, data_root / "demo", "--out", "gallery") == 0
    for source, name in ((trained / "features.npz", "a.json"), ("gallery", "b.json")):
        assert call("test", "--features", source, "--protocol", "all", "--json", name) == 0
    assert Path("a.json").read_text() == Path("b.json").read_text() == (trained / "eval.json").read_text()
    about = json.loads(Path("gallery/gallery.json").read_text())
    assert about["schema"] == 1
    assert about["fingerprint"] == FeatureSet.load(trained / "features.npz").fingerprint
    assert Path("gallery/meta.csv").read_text().splitlines()[0] == "row,key,pid,camid,num_frames,path"


def test_extracting_folders_and_manifests(trained: Path, workplace: Path, data_root: Path, fails) -> None:
    source = data_root / "demo/bbox_test"
    person = sorted(path for path in source.iterdir() if path.name not in ("0000", "00-1"))[0]
    groups: dict[str, list[Path]] = {}
    for image in sorted(person.iterdir()):
        groups.setdefault(image.name[:11], []).append(image)
    lines = ["path,tracklet,pid,camid"]
    for key, images in groups.items():
        (workplace / "mine" / key).mkdir(parents=True)
        for image in images:
            shutil.copy(image, workplace / "mine" / key)
            lines.append(f"mine/{key}/{image.name},{key},7,{key[5]}")
    Path("frames.csv").write_text("\n".join(lines) + "\n")
    assert call("extract", trained, "mine", "--out", "a") == 0
    assert call("extract", trained, "frames.csv", "--out", "b") == 0
    assert np.array_equal(np.load("a/features.npy"), np.load("b/features.npy"))
    stored = FeatureSet.load(trained / "features.npz")
    rows = [list(stored.key).index(key) for key in groups]
    np.testing.assert_allclose(np.load("a/features.npy"), stored.features[rows], atol=1e-5)
    assert "no query rows" in fails("test", "--features", "a")
    assert "exists and is not empty" in fails("extract", trained, "mine", "--out", "a")
    assert call("extract", trained, "mine", "--out", "a", "--overwrite") == 0


@pytest.mark.parametrize("tool", ["train", "test", "extract", "render"])
def test_help_shows_examples(tool: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        importlib.import_module(f"reid.verbs.{tool}").main(["--help"])
    assert caught.value.code == 0
    assert f"robust-reid {tool}" in capsys.readouterr().out


def test_two_processes_through_torchrun(workplace: Path) -> None:
    """Normalisation layers see half a batch each, so the comparison is of what must be equal: samples, steps, evaluation rows."""
    done = by_two("train", "run.yaml")
    assert done.returncode == 0, done.stderr
    assert call("train", "run.yaml", "--output-dir", "single") == 0
    two, one = (json.loads(Path(f"{run}/eval.json").read_text()) for run in ("runs/run", "single"))
    assert [r["num_queries"] for r in two] == [r["num_queries"] for r in one]
    two, one = rows_of("runs/run"), rows_of("single")
    assert [row["step"] for row in two] == [row["step"] for row in one]
    assert two[0]["loss"] == pytest.approx(one[0]["loss"], abs=0.05)
    assert done.stdout.count("mAP: ") == 1
