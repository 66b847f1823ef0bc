"""What leaves gives what stays: exported files beside PyTorch and extraction, and nothing kept that differs."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import scipy.stats
import torch
from PIL import Image

from reid.commands import export
from reid.commands.export import same_order
from reid.export.deployed import METADATA, Deployed
from reid.gallery import store
from tests.commands.conftest import ROOT, call, tracklets


@pytest.fixture(scope="module")
def model(trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("model") / "model.onnx"
    assert call("export", trained, "--format", "onnx", "--out", out) == 0
    assert [file.name for file in out.parent.iterdir()] == ["model.onnx"]
    return out


def pixels(path: Path, height: int = 36, width: int = 20) -> np.ndarray:
    return np.asarray(Image.open(path).convert("RGB").resize((width, height), Image.Resampling.BILINEAR))


def test_tracklets_by_the_file_are_those_of_extraction(
    model: Path, trained: Path, workplace: Path, data_root: Path
) -> None:
    """With Pillow's resizing, which rounds to whole numbers; batches of any size."""
    names = tracklets(data_root, workplace / "tracklets", slice(0, 6))
    assert call("extract", trained, "tracklets", "--out", "gallery") == 0
    gallery = store.open_gallery(Path("gallery"))
    session = onnxruntime.InferenceSession(model)
    about = json.loads(session.get_modelmeta().custom_metadata_map["robust_reid"])
    assert about["fingerprint"] == gallery.features.fingerprint
    assert about["input"]["shape"] == ["batch", 36, 20, 3] and about["input"]["colour_order"] == "RGB"
    assert "tracklet labels wrong" in about["wrong_labels"]
    assert about["run"] == trained.name
    for name in names:
        frames = np.stack([pixels(path) for path in sorted((workplace / "tracklets" / name).iterdir())])
        features, length = session.run(None, {"images": frames})
        np.testing.assert_allclose(np.linalg.norm(features, axis=1), 1, atol=1e-6)
        mean = (features * length[:, None]).mean(0)
        row = list(gallery.features.key).index(name)
        assert mean / np.linalg.norm(mean) @ gallery.features.features[row] > 0.9999


def test_the_example_needs_neither_torch_nor_this_project(model: Path, tmp_path: Path, data_root: Path) -> None:
    [example] = re.findall(r"(?ms)^```python\n(.*?)^```$", (ROOT / "docs/export.md").read_text())
    shutil.copy(model, tmp_path / "model.onnx")
    images = sorted((data_root / "demo/bbox_test").rglob("*.jpg"))
    shutil.copy(images[-1], tmp_path / "person.jpg")
    shutil.copy(images[0], tmp_path / "other.jpg")
    block = "import sys\nfor name in ('torch', 'timm', 'reid'): sys.modules[name] = None\n"  # importing one is an error
    command = [sys.executable, "-W", "error", "-c", block + example]
    done = subprocess.run(
        command, cwd=tmp_path, env={"PATH": "", "OMP_NUM_THREADS": "1"}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert -1 <= float(done.stdout.removeprefix("similarity ")) <= 1


@pytest.mark.parametrize("form", ["torchscript", "torch-export"])
def test_the_formats_of_torch_give_the_same_and_say_the_same(
    form: str, model: Path, trained: Path, tmp_path: Path, data_root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "model.pt2"
    assert call("export", trained, "--format", form, "--out", out) == 0
    assert "100 % of pairs in the same order" in capsys.readouterr().out
    extra: dict[str, Any] = {METADATA: ""}
    if form == "torchscript":
        with pytest.warns(FutureWarning, match="deprecated"):
            loaded = torch.jit.load(out, _extra_files=extra)
    else:
        loaded = torch.export.load(out, extra_files=extra).module()
    images = np.stack([pixels(path) for path in sorted((data_root / "demo/bbox_test").rglob("*.jpg"))[:5]])
    features, _ = loaded(torch.from_numpy(images))
    session = onnxruntime.InferenceSession(model)
    np.testing.assert_allclose(features.detach(), session.run(["features"], {"images": images})[0], atol=2e-6)
    ours, theirs = json.loads(extra[METADATA]), json.loads(session.get_modelmeta().custom_metadata_map["robust_reid"])
    assert theirs.pop("opset") == 20
    assert ours == theirs


def test_without_preprocessing_the_input_is_the_networks_own(
    model: Path, trained: Path, tmp_path: Path, data_root: Path
) -> None:
    out = tmp_path / "plain.onnx"
    assert call("export", trained, "--format", "onnx", "--preprocessing", "outside", "--out", out) == 0
    session = onnxruntime.InferenceSession(out)
    about = json.loads(session.get_modelmeta().custom_metadata_map["robust_reid"])
    assert about["before_the_file"].endswith("divide by 255, subtract mean, divide by std, channels first")
    images = np.stack([pixels(path) for path in sorted((data_root / "demo/bbox_test").rglob("*.jpg"))[:3]])
    middle = images[:, 2:34, 2:18] / np.float32(255)  # 32 x 16 of 36 x 20
    given = ((middle - np.float32(about["mean"])) / np.float32(about["std"])).transpose(0, 3, 1, 2)
    np.testing.assert_allclose(
        session.run(["features"], {"images": given})[0],
        onnxruntime.InferenceSession(model).run(["features"], {"images": images})[0],
        atol=5e-6,
    )


def test_a_file_whose_outputs_differ_is_not_kept(
    trained: Path, tmp_path: Path, fails: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Here for a mean of colours that is a little off, of which nothing else would tell."""
    made = export._deployable

    def wrong(*args: Any) -> Deployed:
        model = made(*args)
        model.mean += 2
        return model

    monkeypatch.setattr(export, "_deployable", wrong)
    out = tmp_path / "out/model.pt2"
    message = fails("export", trained, "--format", "torch-export", "--out", out)
    assert f"{out}: not written: against PyTorch on " in message and "use another --format" in message
    assert list(out.parent.iterdir()) == []


def test_half_precision_is_kept_only_where_the_order_survives(
    model: Path, trained: Path, tmp_path: Path, fails: Any, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    out = tmp_path / "half.pt2"
    argv = ["export", trained, "--format", "torch-export", "--dtype", "fp16", "--out", out]
    assert call(*argv) == 0
    assert out.stat().st_size < 0.6 * model.stat().st_size
    [difference, score] = re.findall(
        r"largest difference ([\d.e-]+),.*mAP by single frames ([\d.]+)%", capsys.readouterr().out
    )[0]
    assert 1e-6 < float(difference) < 1e-2 and 0 < float(score) < 100
    monkeypatch.setattr(export, "ORDER", 1.1)
    message = fails(*argv, "--overwrite")
    assert "expected at least 110 % of pairs in the same order" in message and "use --dtype float32" in message
    assert [path.name for path in tmp_path.iterdir()] == ["half.pt2"]  # the one before


def test_integers(model: Path, trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a network that has hardly learned anything, whose order does not survive: so it is not judged here."""
    out = tmp_path / "small.onnx"
    monkeypatch.setattr(export, "ORDER", 0.5)
    monkeypatch.setattr(export, "LOSS", 1.0)
    assert call("export", trained, "--format", "onnx", "--dtype", "int8", "--out", out) == 0
    assert out.stat().st_size < model.stat().st_size / 3
    about = json.loads(onnxruntime.InferenceSession(out).get_modelmeta().custom_metadata_map["robust_reid"])
    assert about["dtype"] == "int8"
    assert [path.name for path in tmp_path.iterdir()] == ["small.onnx"]


def test_a_weight_file_compared_on_images_of_ones_own(workplace: Path, trained: Path, data_root: Path) -> None:
    tracklets(data_root, workplace / "t", slice(0, 3))
    (workplace / "frames").mkdir()
    for number, path in enumerate(sorted((workplace / "t").rglob("*.jpg"))):
        shutil.copy(path, workplace / f"frames/{number}.jpg")
    shutil.copy(trained / "checkpoints/last.pt", "mine.pt")
    argv = ["--weights", "mine.pt", "--format", "torch-export", "--out", "m.pt2", "--images", "frames"]
    assert call("export", *argv) == 0
    extra = {METADATA: ""}
    torch.export.load("m.pt2", extra_files=extra)
    assert json.loads(extra[METADATA])["weights"] == "mine.pt"


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--out", "run.yaml"], "run.yaml: this file already exists; choose another --out, or use --overwrite"),
        (["--out", ".", "--overwrite"], "is a folder; expected a file to write"),
        (["--out", "m", "--format", "torchscript", "--dtype", "int8"], "--dtype int8: ONNX files only"),
        (["--out", "m", "--dtype", "fp16", "--images", "."], "is checked on the test set, not on --images"),
        (["--out", "m", "--images", "nowhere"], "nowhere: no such folder; expected one of images to compare on"),
        (["--out", "m", "--images", "."], ".: expected at least 3 images to compare on, got 0"),
    ],
)
def test_what_makes_no_sense_is_one_line(argv: list[str], message: str, run: Path, workplace: Path, fails: Any) -> None:
    form = [] if "--format" in argv else ["--format", "onnx"]
    assert message in fails("export", run, *form, *argv)
    assert [path.name for path in workplace.iterdir()] == ["run.yaml"]


def test_the_share_of_pairs_in_the_same_order_against_kendalls_tau() -> None:
    generator = np.random.default_rng(0)
    rows = generator.normal(size=(12, 40))
    other = rows + 0.3 * generator.normal(size=rows.shape)
    rows, other = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (rows, other))
    taus = [
        scipy.stats.kendalltau(np.delete(rows @ rows[i], i), np.delete(other @ other[i], i)).statistic
        for i in range(12)
    ]
    assert same_order(rows, other) == pytest.approx((1 + np.mean(taus)) / 2, abs=1e-3)  # a few pairs are ties
    assert same_order(rows, rows) == 1
    assert same_order(np.ones((4, 1)), np.ones((4, 1))) == 1
