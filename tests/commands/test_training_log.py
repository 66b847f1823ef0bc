"""What the first lines of a run say of its settings."""

import json
import re
from pathlib import Path

import pytest

from reid.datasets.mars import find_dataset, load_mars
from reid.files import data_root
from tests.commands.conftest import CONFIG, call


@pytest.mark.parametrize(
    ("overrides", "warned"),
    [([], False), (["train.eval_freq=50"], True), (["train.eval_freq=50", "data.holdout=0.4"], False)],
)
def test_evaluating_held_out_identities_needs_some(
    workplace: Path, capsys: pytest.CaptureFixture[str], overrides: list[str], warned: bool
) -> None:
    (workplace / "run.yaml").write_text(CONFIG.replace("resnet10t", "test_resnet"))
    assert call("train", "run.yaml", "--dry-run", *overrides) == 0
    line = "train.eval_freq=50 has no effect: no identities are held out to evaluate; set data.holdout=0.1, for example"
    assert capsys.readouterr().err.splitlines().count(line) == warned


@pytest.mark.parametrize(
    ("sampler", "warned"),
    [("{name: frames}", True), ("{name: identities, K: 2}", False), ("{name: identities, K: 1, tracklets: 1}", True)],
)
def test_losses_that_compare_people_need_two_images_of_one(
    workplace: Path, capsys: pytest.CaptureFixture[str], sampler: str, warned: bool
) -> None:
    (workplace / "run.yaml").write_text(CONFIG.replace("resnet10t", "test_resnet"))
    losses = "loss=[{name: imae}, {name: triplet}, {name: centre}]"
    assert call("train", "run.yaml", "--dry-run", losses, f"sampler={sampler}", "train.batch_size=4") == 0
    lines = [
        line for line in capsys.readouterr().err.splitlines() if "loss triplet compares images of one person" in line
    ]
    assert len(lines) == warned


def test_a_run_shows_each_loss_and_the_weights_of_tracklets(workplace: Path) -> None:
    """In the log, in metrics.jsonl, on the page; the classifier with a margin is tested without it."""
    (workplace / "run.yaml").write_text(CONFIG.replace("resnet10t", "test_resnet"))
    split = load_mars(find_dataset(data_root(None), "demo"), "demo").train
    (workplace / "w.csv").write_text(f"key,weight\n{split.key(0)},0\n")
    settings = [
        "loss=[{name: gce}, {name: triplet, weight: 0.5, weights: w}]",
        "model.head={name: arcface, centres: 2}",
    ]
    assert (
        call("train", "run.yaml", *settings, "sampler={name: identities, K: 2}", "data.weights=w.csv", "model.neck=bn")
        == 0
    )
    run = workplace / "runs/run"
    for row in map(json.loads, (run / "metrics.jsonl").read_text().splitlines()):
        assert row["loss"] == pytest.approx(row["loss_gce"] + 0.5 * row["loss_triplet"], rel=1e-4)
    log, page = (run / "log.txt").read_text(), (run / "report.html").read_text()
    assert f"mean 1; 1 of {len(split)} tracklets have weight 0 and are ignored" in log
    assert re.search(r"lr \d\.\d+  gce \d\.\d+  triplet \d\.\d+", log)
    assert "GCE + TRIPLET (weight = 0.5) (weights = w)" in page
    assert "of which triplet, before its weight" in page
    assert "this run: GCE</li>" in page
    assert "tracklets have weight 0 and are ignored" in page
    assert call("test", "runs/run") == 0
