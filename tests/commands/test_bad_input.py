"""Settings, datasets, checkpoints and places that will not do: one line each, and nothing is written."""

import shutil
from pathlib import Path

import pytest
from PIL import Image

from reid.datasets.demo import write_demo
from tests.commands.conftest import HELD_OUT, ROOT


def test_missing_dataset_says_where_to_put_it(workplace: Path, monkeypatch: pytest.MonkeyPatch, fails) -> None:
    monkeypatch.setenv("REID_DATA", str(workplace / "nowhere"))
    for config in ("run.yaml", ROOT / "configs/mars_imae.yaml"):
        message = fails("train", config)
        assert str(workplace / "nowhere") in message
        assert "--data-root" in message
        assert "data/README.md" in message
    assert sorted(path.name for path in workplace.iterdir()) == ["run.yaml"]
    (workplace / "nowhere" / "mars").mkdir(parents=True)
    assert "mars" in fails("train", ROOT / "configs/mars_imae.yaml")


def test_settings_that_will_not_do(workplace: Path, fails) -> None:
    assert "train.lrr: unknown key; did you mean 'lr'?" in fails("train", "run.yaml", "train.lrr=1")
    assert "train.lr: expected a number, got 'high'" in fails("train", "run.yaml", "train.lr=high")
    assert "loss.T: cce takes no 'T'" in fails("train", "run.yaml", "loss.name=cce", "loss.T=8")
    assert "model.name: timm has no model 'resnet10'" in fails("train", "run.yaml", "model.name=resnet10")
    assert "no.pth" in fails("train", "run.yaml", "model.name=googlenet_bn", "model.weights=no.pth")
    assert "device" in fails("train", "run.yaml", "--device", "warp")
    assert "no such config" in fails("train", "nowhere.yaml")
    assert "did you mean 'mars-official'" in fails("test", "--features", "x.npz", "--protocol", "mars-offical")
    assert [path.name for path in workplace.iterdir()] == ["run.yaml"]


def test_a_truncated_image_is_named(workplace: Path, data_root: Path, fails) -> None:
    shutil.copytree(data_root, "data")
    for image in Path("data/demo/bbox_train").rglob("*.jpg"):
        image.write_bytes(image.read_bytes()[:300])
    assert ".jpg: damaged image (300 bytes)" in fails("train", "run.yaml", "--data-root", "data")


def test_checkpoints_that_do_not_fit(trained: Path, workplace: Path, fails) -> None:
    last = trained / "checkpoints/last.pt"
    assert "the weights belong to a different model" in fails(
        "test", trained, "--checkpoint", last, "model.name=resnet18"
    )
    assert "no such checkpoint" in fails("test", trained, "--checkpoint", "no.pt")
    write_demo(workplace / "other" / "demo", train_ids=7, test_ids=3, tracklets_per_id=3, distractors=1, junk=1)
    options = ["--resume", last, *HELD_OUT, "test.baselines=false", "--data-root", "other"]
    assert "trained on 4 identities" in fails("train", "run.yaml", *options)
    Path("bad.pt").write_bytes(last.read_bytes()[:1000])
    assert "damaged" in fails("test", trained, "--checkpoint", "bad.pt")
    assert "expected a run directory" in fails("test", "nowhere")


def test_unwritable_places(trained: Path, workplace: Path, data_root: Path, fails) -> None:
    Path("file").write_text("")
    assert "cannot lock this folder: Not a directory" in fails("train", "run.yaml", "--output-dir", "file/run")
    assert "cannot write" in fails("test", "--features", trained / "features.npz", "--json", "file/a.json")
    assert "file" in fails("extract", trained, data_root / "demo", "--out", "file")


def test_empty_input_folder(trained: Path, workplace: Path, fails) -> None:
    Path("empty").mkdir()
    assert "empty" in fails("extract", trained, "empty", "--out", "a")
    assert not Path("a").exists()


def test_other_file_types_as_features(workplace: Path, fails) -> None:
    Image.new("RGB", (2, 2)).save("b.png")
    for name in ("b.png", "nowhere.npz"):
        assert name in fails("test", "--features", name)
    Path("empty").mkdir()
    assert "gallery.json" in fails("test", "--features", "empty")
