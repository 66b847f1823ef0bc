"""Extremes: dimensions, ids, counts and ties that no dataset has yet, each against a slow evaluator or the same thing in usual numbers."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from reid.datasets.manifest import load_manifest
from reid.datasets.sampling import SAMPLERS
from reid.engine import checkpoint
from reid.evaluation.evaluate import evaluate
from reid.features import FeatureSet
from reid.gallery import change, store
from reid.gallery.search import search
from reid.losses import LOSSES
from reid.models.heads import HEADS
from reid.models.pooling import POOLINGS
from reid.protocol import MARKET1501, MARS_OFFICIAL, EvalProtocol
from reid.tracklets import Split
from tests.commands.conftest import CONFIG, call
from tests.evaluation.oracles import evaluate_slowly, made_up, similarity
from tests.gallery.conftest import split_of

PROTOCOLS = (MARS_OFFICIAL, MARKET1501)
UNUSUAL = {
    "dimension 1: every row ties with half of all": made_up(1, dimensions=1),
    "dimension 16,384": made_up(2, n=60, dimensions=16_384),
    "all rows alike": replace(made_up(3), features=np.tile(made_up(3).features[:1], (160, 1))),
    "float16": FeatureSet(**{**vars(made_up(4)), "features": made_up(4).features.astype(np.float16)}),
    "one person": replace(made_up(5, identities=2), pid=np.ones(160, int)),
}


@pytest.mark.parametrize("protocol", PROTOCOLS, ids=lambda protocol: protocol.name)
@pytest.mark.parametrize("name", UNUSUAL)
def test_unusual_features_are_evaluated_as_a_slow_evaluator_does(name: str, protocol: EvalProtocol) -> None:
    features = UNUSUAL[name]
    ours, (_, theirs, curve) = evaluate(features, protocol), evaluate_slowly(features, protocol)
    assert ours.mAP == pytest.approx(theirs, abs=1e-9)
    assert ours.cmc[:20] == pytest.approx(curve, abs=1e-9)


@pytest.mark.parametrize("protocol", PROTOCOLS, ids=lambda protocol: protocol.name)
def test_large_ids_are_only_names(protocol: EvalProtocol, tmp_path: Path) -> None:
    usual = made_up(6)
    large = replace(
        usual,
        pid=np.where(usual.pid > 0, 2**40 + usual.pid, usual.pid),
        camid=np.where(usual.camid >= 0, 10**6 - usual.camid, usual.camid),
    )
    large.save(tmp_path / "large.npz")
    theirs = evaluate(FeatureSet.load(tmp_path / "large.npz"), protocol)
    assert (theirs.mAP, theirs.cmc.tolist()) == ((ours := evaluate(usual, protocol)).mAP, ours.cmc.tolist())


def test_queries_that_are_all_nobody_match_nobody() -> None:
    features = made_up(7)
    junk = replace(features, pid=np.where(np.isin(np.arange(160), features.query), -1, features.pid))
    assert evaluate(junk, MARS_OFFICIAL).mAP == 0  # whose rule counts a query without a match as 0
    assert evaluate(junk, MARKET1501).mAP is None  # whose rule leaves it out


@pytest.mark.parametrize("dimension", [1, 16_384])
@pytest.mark.parametrize("rows", [1, 5])
def test_a_gallery_of_any_size_is_written_indexed_and_searched_beyond_its_end(
    rows: int, dimension: int, tmp_path: Path
) -> None:
    keys = [f"{'k' * 1000}{i}" for i in range(rows)]
    split = split_of(keys, 2**40 + np.arange(rows), 10**6 - np.arange(rows))
    values = np.random.default_rng(0).standard_normal((rows, dimension)).astype(np.float32)
    values /= np.linalg.norm(values, axis=1, keepdims=True)
    features = FeatureSet(values, split.pid, split.camid, np.arange(0), np.arange(rows), split.keys, "f00")
    store.write(tmp_path / "g", features, split, {"run": "x", "source": "here"})
    _, index = change.reindex(tmp_path / "g", "Flat")
    held = store.open_gallery(tmp_path / "g").features
    assert held.key.tolist() == keys and held.pid.tolist() == split.pid.tolist()
    assert held.camid.tolist() == split.camid.tolist()
    near = similarity(held, 0)
    for found in (search(held, values[:1], top_k=10**12), search(held, values[:1], top_k=10**12, index=index)):
        rows_found = found.rows[0][found.rows[0] >= 0]
        assert sorted(rows_found.tolist()) == list(range(rows))
        assert near[rows_found] == pytest.approx(sorted(near, reverse=True), abs=1e-6)


LONG = Split(Path("/x"), np.char.add(np.arange(100_003).astype("S6"), b".jpg"), np.array([0, 100_000, 100_002]),
             np.array([100_000, 100_002, 100_003]), np.array([1, 2, 2]), np.array([1, 1, 2]), np.array(["a", "b", "c"]))  # fmt: skip


@pytest.mark.parametrize("name", SAMPLERS)
def test_a_tracklet_of_100_000_frames_is_drawn_from(name: str) -> None:
    options = {"K": 8, "tracklets": 2} if name == "identities" else {}
    batch = SAMPLERS[name](LONG, batch_size=16, seed=0, **options)(3)
    assert len(batch) == 16 and batch.min() >= 0 and batch.max() < len(LONG.names)
    assert len(np.unique(LONG.frames())) == 100_003


@pytest.mark.parametrize("name", POOLINGS)
def test_a_tracklet_of_100_000_frames_is_pooled(name: str) -> None:
    frames = np.random.default_rng(0).standard_normal((100_000, 3)) + 1000
    pool = POOLINGS[name](1, 3)
    for part in np.array_split(frames.astype(np.float32), 77):
        pool.add(torch.from_numpy(part), torch.zeros(len(part), dtype=torch.int64))
    exact = frames.astype(np.float32).astype(np.float64)
    np.testing.assert_allclose(pool.result()[0].numpy(), exact.mean(0) if name == "mean" else exact.max(0), rtol=1e-12)


@pytest.mark.parametrize("name", HEADS)
def test_100_000_classes(name: str) -> None:
    torch.manual_seed(0)
    head = HEADS[name](num_features=4, num_classes=100_000)
    features, target = torch.randn(3, 4, requires_grad=True), torch.tensor([0, 5, 99_999])
    logits = head(features, target) if name != "linear" else head(features)
    assert logits.shape == (3, 100_000)
    LOSSES["cce"]()(logits, target).mean().backward()
    assert features.grad is not None and features.grad.isfinite().all() and features.grad.abs().sum() > 0


def pictures(folder: Path, count: int) -> list[str]:
    folder.mkdir()
    rng = np.random.default_rng(0)
    for i in range(count):
        Image.fromarray(rng.integers(0, 256, (36, 20, 3), dtype=np.uint8)).save(folder / f"{i}.png")
    return [f"{folder.name}/{i}.png" for i in range(count)]


SMALL = CONFIG.replace("resnet10t", "test_resnet").replace("{name: demo}", "{name: manifest, path: t.csv}")


def test_one_image_per_class_a_batch_larger_than_all_and_names_of_1_000_characters(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    people = [chr(97 + i) * 1000 for i in range(5)]
    rows = [f"{path},t{i},{people[i]},{10**6 + i},train" for i, path in enumerate(pictures(Path("p"), 5))]
    Path("t.csv").write_text("path,tracklet,pid,camid,split\n" + "\n".join(rows) + "\n")
    Path("run.yaml").write_text(SMALL)
    assert call("train", "run.yaml", "--output-dir", "out", "train.iterations=1", "train.batch_size=64") == 0
    assert list(json.loads(Path("out/ids.json").read_text())["pid"].values()) == people


def test_one_class_is_refused_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    rows = [f"{path},t{i},1,1,train" for i, path in enumerate(pictures(Path("p"), 3))]
    Path("t.csv").write_text("path,tracklet,pid,camid,split\n" + "\n".join(rows) + "\n")
    Path("run.yaml").write_text(SMALL)
    assert call("train", "run.yaml", "--output-dir", "out") == 2
    [line] = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert "person" in line or "identit" in line or "class" in line
    assert not Path("out").exists()


def test_a_manifest_of_100_000_frames_in_one_tracklet(tmp_path: Path) -> None:
    pictures(tmp_path / "p", 2)
    rows = [f"p/{i}.png,long,{2**40},{10**6},train" for i in range(100_000)] + [
        f"p/{i}.png,other,7,1,train" for i in range(2)
    ]
    (tmp_path / "t.csv").write_text("path,tracklet,pid,camid,split\n" + "\n".join(rows) + "\n")
    train = load_manifest(tmp_path / "t.csv").train
    assert (
        train.lengths.tolist() == [100_000, 2]
        and train.pid.tolist() == [2**40, 7]
        and train.camid.tolist() == [10**6, 1]
    )


def test_a_loss_that_is_no_number_is_one_line_and_no_checkpoint_has_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    rows = [f"{path},t{i},{i + 1},1,train" for i, path in enumerate(pictures(Path("p"), 4))]
    Path("t.csv").write_text("path,tracklet,pid,camid,split\n" + "\n".join(rows) + "\n")
    Path("run.yaml").write_text(SMALL)
    options = [
        "--output-dir",
        "out",
        "train.lr=1e30",
        "train.checkpoint_freq=1",
        "train.log_freq=3",
        "train.batch_size=4",
    ]
    assert call("train", "run.yaml", *options) == 2
    [line] = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert "training diverged" in line and "train.lr" in line
    for file in Path("out").rglob("*.pt"):
        assert all(value.isfinite().all() for value in checkpoint.load(file)["model"].values())
