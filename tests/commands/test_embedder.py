"""`reid.load`: what programs embed is what extraction extracts, wrong arrays are refused, and a saved network is the same one."""

import json
import logging
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import yaml
from PIL import Image

import reid
from reid.embedder import Embedder
from reid.errors import CheckpointError, ConfigError, DataError, ReidError
from reid.features import float32_error
from reid.gallery import store
from tests.commands.conftest import ROOT, call, tracklets


@pytest.fixture(scope="module")
def model(trained: Path) -> Embedder:
    return reid.load(trained, device="cpu")


@pytest.fixture(scope="module")
def picture(data_root: Path) -> Path:
    return sorted((data_root / "demo/bbox_test").rglob("*.jpg"))[0]


def test_importing_the_package_is_light() -> None:
    code = "import sys, reid; reid.load; print({'torch', 'numpy', 'timm'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout == "set()\n", done.stderr


def test_tracklets_are_those_of_extract(model, trained, workplace, data_root) -> None:
    names = tracklets(data_root, workplace / "tracklets", slice(0, 8))
    assert call("extract", trained, "tracklets", "--out", "gallery") == 0
    gallery = store.open_gallery(Path("gallery"))
    assert model.fingerprint == gallery.features.fingerprint
    row_of = store.rows_by_key(gallery)
    frames = [sorted((workplace / "tracklets" / name).iterdir()) for name in names]
    theirs = gallery.features.features[[row_of[name] for name in names]]
    ours = model.embed_tracklets(frames)
    assert ours.dtype == np.float32
    np.testing.assert_allclose(ours, theirs, atol=2e-6)
    # ... and the same picture by any entrance
    path = frames[0][0]
    with Image.open(path) as image:
        rgb = np.asarray(image.convert("RGB"))
    kinds = [path, str(path), Image.fromarray(rgb), rgb, rgb / 255, (rgb / 255).astype(np.float32)]
    rows = model.embed(kinds)
    assert rows.shape == (6, model.num_features)
    assert repr(model).endswith(f": resnet10t, 32 x 16 pixels to {model.num_features} features")
    np.testing.assert_allclose(rows, np.broadcast_to(rows[:1], rows.shape), atol=2e-6)
    np.testing.assert_allclose(np.linalg.norm(rows, axis=1), 1, atol=1e-6)
    np.testing.assert_allclose(model.embed(rgb[:, :, ::-1], colour="bgr"), rows[:1], atol=2e-6)
    assert np.abs(model.embed(rgb[:, :, ::-1]) - rows[:1]).max() > 1e-4  # which nothing would tell
    np.testing.assert_allclose(model.embed(np.stack([rgb, rgb])), rows[:2], atol=2e-6)
    np.testing.assert_allclose(model.embed(path), rows[:1], atol=2e-6)


def test_many_of_many_sizes(model) -> None:
    """Batches end where they like."""
    generator = np.random.default_rng(0)
    images = [generator.integers(0, 256, (30 + i % 3, 20, 3), np.uint8) for i in range(19)]
    together = model.embed(images)
    one_by_one = np.concatenate([model.embed(image) for image in images])
    np.testing.assert_allclose(together, one_by_one, atol=2e-6)
    assert model.embed([]).shape == model.embed_tracklets([]).shape == (0, model.num_features)


def test_similarity(model) -> None:
    rows = model.embed(np.random.default_rng(0).integers(0, 256, (3, 40, 20, 3), np.uint8))
    own = model.similarity(rows)
    np.testing.assert_allclose(np.diag(own), 1, atol=float32_error(model.num_features))
    np.testing.assert_allclose(model.similarity(rows[:1], rows[1:]), own[:1, 1:], atol=1e-6)
    with pytest.raises(DataError, match=r"expected features \(N, 512\), got \(3, 7\)"):
        model.similarity(rows, rows[:, :7])


GOOD = np.zeros((40, 20, 3), np.uint8)


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (GOOD.transpose(2, 0, 1), r"expected an array \(height, width, 3\), got \(3, 40, 20\); channels come last"),
        (GOOD[:, :, 0], r"got \(40, 20\); for a grey image use np.stack"),
        (np.zeros((40, 20, 4), np.uint8), r"drop the fourth channel"),
        (GOOD[:0], r"got \(0, 20, 3\)"),
        (GOOD + 3.5, r"expected floats in \[0, 1\], got 3.5 to 3.5; use uint8"),
        (GOOD - 0.5, r"expected floats in \[0, 1\], got -0.5 to -0.5"),
        (np.full(GOOD.shape, np.nan), r"expected floats in \[0, 1\], got nan to nan"),
        (GOOD.astype(np.int64), r"expected uint8, or floats in \[0, 1\], got int64"),
        (7, "expected a path, a Pillow image or an array, got int"),
        ("nothing.jpg", "nothing.jpg: "),
    ],
)
def test_wrong_images_are_refused_by_number(model, image, message) -> None:
    with pytest.raises(DataError, match=message) as error:
        model.embed([GOOD, image])
    assert isinstance(image, str) or str(error.value).startswith("image 1: ")
    with pytest.raises(DataError, match=r"tracklet 1, image 0: |nothing\.jpg: "):
        model.embed_tracklets([[GOOD], [image]])


def test_other_mistakes(model, caplog) -> None:
    with pytest.raises(ConfigError, match="colour: expected 'rgb' or 'bgr', got 'RGB'"):
        model.embed([GOOD], colour="RGB")
    with pytest.raises(DataError, match="tracklet 0: expected at least one image, got none"):
        model.embed_tracklets([[]])
    with caplog.at_level(logging.WARNING):
        model.embed([GOOD, np.zeros((20, 40, 3), np.uint8)])
    assert "image 1: 40 x 20 is much wider than a person" in caplog.text


def test_detections(model) -> None:
    frame = np.random.default_rng(0).integers(0, 256, (90, 160, 3), np.uint8)
    boxes = np.array([[10.0, 5, 40, 85], [-7.5, 20.2, 30.7, 200]], np.float32)
    rows = model.embed_detections(frame, SimpleNamespace(xyxy=boxes, tracker_id=None))
    np.testing.assert_allclose(rows, model.embed([frame[5:85, 10:40], frame[20:90, :31]]), atol=2e-6)
    bgr = model.embed_detections(frame[:, :, ::-1], SimpleNamespace(xyxy=boxes), colour="bgr")
    np.testing.assert_allclose(bgr, rows, atol=2e-6)
    assert model.embed_detections(frame, SimpleNamespace(xyxy=np.zeros((0, 4)))).shape == (0, model.num_features)
    for box in ([40, 5, 10, 85], [200, 0, 220, 50], [0, 0, np.nan, 5]):
        with pytest.raises(DataError, match="box 1: expected left < right and top < bottom inside 160 x 90 pixels"):
            model.embed_detections(frame, SimpleNamespace(xyxy=[boxes[0], box]))
    with pytest.raises(DataError, match="expected boxes `xyxy`"):
        model.embed_detections(frame, boxes)


def test_what_is_saved_is_the_same_network(model, picture, trained, tmp_path, monkeypatch) -> None:
    model.save_pretrained(tmp_path / "out", licence="cc-by-nc-4.0")
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"config.json", "model.safetensors", "README.md"}
    again = reid.load(tmp_path / "out", device="cpu")
    np.testing.assert_array_equal(again.embed([picture]), model.embed([picture]))
    assert again.fingerprint == model.fingerprint
    again.save_pretrained(tmp_path / "third")
    for name in ("config.json", "model.safetensors"):
        assert (tmp_path / "third" / name).read_bytes() == (tmp_path / "out" / name).read_bytes()
    assert str(trained.parent) not in (tmp_path / "out/config.json").read_text()


def test_the_card(model, trained, data_root, tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("REID_DATA", str(data_root))
    model.save_pretrained(tmp_path / "out", licence="cc-by-nc-4.0")
    card = (tmp_path / "out/README.md").read_text()
    _, entries, text = card.split("---\n", 2)
    assert yaml.safe_load(entries)["license"] == "cc-by-nc-4.0"
    results = json.loads((trained / "eval.json").read_text())
    for result in results:
        cells = [f"{100 * value:.1f}" for value in (result["mAP"], result["cmc"]["1"])]
        assert f"| {result['protocol']} | {' | '.join(cells)} | {result['num_queries']} |" in text
    assert "**Evaluating on the training persons of demo**" in text
    assert re.search(r"wrong labels \| \d+ of \d+ \([\d.]+ %\) tracklet labels wrong", text)
    assert '"name": "imae"' in text
    assert "Weights: cc-by-nc-4.0." in text
    model.save_pretrained(tmp_path / "out")
    assert "Not stated by the author" in (tmp_path / "out/README.md").read_text()


def test_what_was_changed_is_refused(model, tmp_path) -> None:
    model.save_pretrained(tmp_path / "out")
    settings = tmp_path / "out/config.json"
    good = settings.read_text()
    changes = {
        (
            '"mean": [\n  0.485',
            '"mean": [\n  0.5',
        ): "contains fingerprint [0-9a-f]{16}, but its weights and settings give",
        ('"robust-reid"', '"other"'): "format 'other', schema 1; expected 'robust-reid' and 1",
        ('"schema": 1', '"schema": 2'): "schema 2; expected",
        ('"resnet10t"', '"resnet18"'): "the weights belong to a different model",
    }
    for (old, new), message in changes.items():
        assert old in good
        settings.write_text(good.replace(old, new))
        with pytest.raises(CheckpointError, match=message):
            reid.load(tmp_path / "out", device="cpu")
    settings.write_text("{")
    with pytest.raises(CheckpointError, match="not from a folder written by save_pretrained"):
        reid.load(tmp_path / "out", device="cpu")
    settings.write_text(good)
    weights = tmp_path / "out/model.safetensors"
    weights.write_bytes(weights.read_bytes()[:100])
    with pytest.raises(CheckpointError, match="cannot be read: "):
        reid.load(tmp_path / "out", device="cpu")


def test_a_repository_of_the_hub(model, picture, tmp_path, monkeypatch) -> None:
    """From the hub's cache on this disk, as the hub's own program lays it out; without a network, and without the rest."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    kept = tmp_path / "models--someone--model"
    model.save_pretrained(kept / "snapshots" / ("a" * 40))
    (kept / "refs").mkdir()
    (kept / "refs/main").write_text("a" * 40)
    again = Embedder.from_pretrained("someone/model", device="cpu")
    np.testing.assert_array_equal(again.embed(picture), model.embed(picture))
    with pytest.raises(
        CheckpointError, match="someone/other: no such folder, and the Hugging Face hub does not provide it"
    ) as error:
        reid.load("someone/other")
    assert "check the name and the network" in str(error.value)


def test_nothing_of_the_kind(trained, tmp_path, model) -> None:
    with pytest.raises(
        DataError, match="runs/x/y: no such folder; expected a run directory, a folder of save_pretrained"
    ):
        reid.load("runs/x/y")
    with pytest.raises(DataError, match=r"expected a run directory with config\.yaml"):
        reid.load(tmp_path)
    with pytest.raises(CheckpointError, match="no such checkpoint"):
        reid.load(trained, checkpoint="nothing.pt")
    with pytest.raises(ReidError, match="is a run directory; choose another folder"):
        model.save_pretrained(trained)


def test_a_pillow_image_is_the_picture_of_its_file(model: Embedder, tmp_path: Path) -> None:
    deep = Image.fromarray((np.arange(64 * 32).reshape(64, 32) * 32).astype(np.uint16))
    deep.save(tmp_path / "deep.png")
    assert np.array_equal(model.embed([deep]), model.embed([tmp_path / "deep.png"]))
    with pytest.raises(DataError, match="expected 8 or 16 bits"):
        model.embed([Image.fromarray(np.zeros((8, 8), np.float32))])
