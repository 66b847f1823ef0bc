"""Without a run: a weight file of another toolkit, or a checkpoint alone, extracts, tests and searches as a run would."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from torch import nn

from reid.engine import checkpoint
from reid.gallery import store
from tests.commands.conftest import call, tracklets

THEIRS = ["--weights", "theirs.pth", "--model", "resnet10t", "--size", "32x16"]
CPU = ["--device", "cpu", "machine.workers=0"]


@pytest.fixture
def theirs(workplace: Path, data_root: Path) -> Path:
    """A file as BoT writes it, and two folders of frames."""
    torch.manual_seed(3)
    net, neck = timm.create_model("resnet10t", num_classes=0), nn.BatchNorm1d(512)
    nn.init.normal_(neck.running_mean)
    state = {f"base.{key}": value for key, value in net.state_dict().items()}
    state |= {f"bottleneck.{key}": value for key, value in neck.state_dict().items()}
    torch.save(state | {"classifier.weight": torch.zeros(9, 512)}, "theirs.pth")
    tracklets(data_root, workplace / "tracklets", slice(0, 4))
    return workplace


def extracted(out: str, *argv: str | Path) -> store.Gallery:
    assert call("extract", *argv, "--out", out) == 0
    return store.open_gallery(Path(out))


def test_a_file_of_another_toolkit(theirs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    gallery = extracted("gallery", *THEIRS, "tracklets", *CPU)
    about = gallery.about
    assert "run" not in about
    assert about["weights"] == str(theirs / "theirs.pth")
    assert (about["model"]["name"], about["model"]["neck"]) == ("resnet10t", "bn")
    assert about["preprocessing"] == {"resize": [32, 16], "crop": [32, 16], "pooling": "mean"}

    folder = sorted((theirs / "tracklets").iterdir())[2]
    assert call("search", "gallery", folder, "--top-k", "1", "--json", "hits.json", "--device", "cpu") == 0
    [hit] = json.loads(Path("hits.json").read_text())[0]["hits"]
    assert hit["key"] == folder.name
    assert hit["similarity"] == pytest.approx(1, abs=1e-5)

    capsys.readouterr()
    assert call("test", *THEIRS, "data.name=demo", *CPU, "--protocol", "mars-official", "--json", "eval.json") == 0
    [result] = json.loads(Path("eval.json").read_text())
    assert 0 < result["mAP"] < 1
    assert "mAP" in capsys.readouterr().out


def test_the_file_may_be_elsewhere_and_must_be_the_one(theirs: Path, fails: Any) -> None:
    extracted("gallery", *THEIRS, "tracklets", *CPU)
    folder = next((theirs / "tracklets").iterdir())
    shutil.move("theirs.pth", "moved.pth")
    assert "theirs.pth: the weight file that made gallery is missing; set its path with --weights" in fails(
        "search", "gallery", folder
    )
    assert call("search", "gallery", folder, "--weights", "moved.pth", "--device", "cpu") == 0
    state = torch.load("moved.pth")
    state["base.conv1.0.weight"] += 1e-3
    torch.save(state, "other.pth")
    message = fails("search", "gallery", folder, "--weights", "other.pth", "--device", "cpu")
    assert "features of different models cannot be mixed" in message


def test_a_checkpoint_alone_is_the_run_that_it_is_of(trained: Path, workplace: Path, data_root: Path) -> None:
    """The same bits as by the run, sizes and all, with nothing of the run in reach."""
    tracklets(data_root, workplace / "tracklets", slice(0, 3))
    shutil.copy(trained / "checkpoints/last.pt", "mine.pt")
    alone = extracted("alone", "--weights", "mine.pt", "tracklets")
    by_run = extracted("by_run", trained, "tracklets")
    assert alone.features.fingerprint == by_run.features.fingerprint
    np.testing.assert_array_equal(alone.features.features, by_run.features.features)


def test_a_run_fine_tunes_from_its_own_checkpoint_on_other_persons(
    trained: Path, workplace: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    own = trained / "checkpoints/last.pt"
    assert call("train", "run.yaml", f"model.weights={own}", "train.iterations=1", "train.lr=1e-9", "seed=5") == 0
    told = capfd.readouterr().err
    assert (
        f"tensors from {own} (a run of robust-reid); left out the classifier and its parts: head.weight, head.bias"
        in told
    )
    before, after = (checkpoint.load(file)["model"] for file in (own, Path("runs/run/checkpoints/last.pt")))
    key = "embedding.backbone.layer1.0.conv1.weight"
    torch.testing.assert_close(after[key], before[key], atol=1e-6, rtol=0)
    assert not torch.equal(
        after["head.weight"][: len(before["head.weight"])], before["head.weight"][: len(after["head.weight"])]
    )


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--weights", "theirs.pth"], "theirs.pth does not name its network; set --model NAME"),
        (["--weights", "theirs.pth", "--model", "resnet18"], "theirs.pth (BoT) do not match resnet18: "),
        (["--weights", "theirs.pth", "--model", "resnet10"], "timm has no model 'resnet10'; nearest: resnet10t"),
        (["--weights", "nothing.pth", "--model", "resnet18"], "no such file: nothing.pth"),
        (
            [*THEIRS, "model.neck=none", "augment.crop=[40, 16]"],
            "augment.crop: expected at most augment.resize [32, 16]",
        ),
    ],
)
def test_what_does_not_go_together_is_one_line(theirs: Path, fails: Any, argv: list[str], message: str) -> None:
    weights = argv[:2]
    assert message in fails("extract", *weights, "tracklets", *argv[2:], "--out", "out")
    assert not (Path("out") / "gallery.json").exists()


def test_a_neck_that_the_file_has_not(theirs: Path, fails: Any) -> None:
    state = {key: value for key, value in torch.load("theirs.pth").items() if "bottleneck" not in key}
    torch.save(state, "theirs.pth")
    assert "theirs.pth has no BNNeck; expected model.neck=none" in fails(
        "extract", *THEIRS, "tracklets", "model.neck=bn", "--out", "out"
    )


@pytest.mark.parametrize(
    "argv",
    [
        ["extract", "tracklets", "--out", "o"],
        ["extract", "run", "tracklets", "--out", "o", "--model", "x"],
        ["extract", "tracklets", "--out", "o", "--weights", "f", "--checkpoint", "best"],
        ["extract", "tracklets", "--out", "o", "--weights", "f", "--size", "256"],
        ["test", "run", "--features", "f.npz", "--weights", "f"],
        ["search", "g", "q", "--run", "r", "--weights", "f"],
    ],
)
def test_flags_that_contradict_each_other(argv: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        call(argv[0], *argv[1:])
    assert "error: " in capsys.readouterr().err
