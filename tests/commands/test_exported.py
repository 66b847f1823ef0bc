"""An exported ONNX file in the place of its run: the same features, without torch where none is needed, and nothing damaged or foreign."""

import json
import pickle
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch

import reid
from reid.experiment import OfRun
from reid.export import deployed, onnx_file
from reid.export.deployed import Exported
from reid.export.onnx_file import OnnxNetwork
from reid.gallery import store
from tests.commands.conftest import ROOT, call, tracklets


@pytest.fixture(scope="module", params=["mean", "max"])
def model(request: pytest.FixtureRequest, trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("exported") / "model.onnx"
    pooling = f"test.pooling={request.param}"
    assert call("export", trained, "--format", "onnx", "--preprocessing", "outside", "--out", out, pooling) == 0
    return out


def hits(file: str) -> list[tuple[str, float]]:
    [found] = json.loads(Path(file).read_text())
    return [(hit["key"], hit["similarity"]) for hit in found["hits"]]


def test_extraction_test_and_search_by_the_file_give_what_the_run_gives(
    model: Path, trained: Path, workplace: Path, data_root: Path
) -> None:
    """Images of other sizes than the network's, so that they are resized by both."""
    names = tracklets(data_root, workplace / "tracklets", slice(0, 8))
    pooling = f"test.pooling={OnnxNetwork(model).pooling}"
    assert call("extract", trained, "tracklets", "--out", "ours", pooling) == 0
    assert call("extract", "--weights", model, "tracklets", "--out", "theirs") == 0
    ours, theirs = (store.open_gallery(Path(folder)) for folder in ("ours", "theirs"))
    np.testing.assert_allclose(theirs.features.features, ours.features.features, atol=2e-6)
    assert theirs.features.fingerprint == ours.features.fingerprint
    query = f"tracklets/{names[3]}"
    assert call("search", "ours", query, "--json", "ours.json") == 0
    assert call("search", "ours", query, "--weights", model, "--json", "both.json") == 0
    assert call("search", "theirs", query, "--json", "theirs.json") == 0
    assert hits("ours.json")[0] == (names[3], pytest.approx(1, abs=1e-6))
    for file in ("both.json", "theirs.json"):
        assert [key for key, _ in hits(file)] == [key for key, _ in hits("ours.json")]
        np.testing.assert_allclose([s for _, s in hits(file)], [s for _, s in hits("ours.json")], atol=2e-6)
    assert (
        call("extract", "--weights", model, "tracklets", "--out", "ours", "--add") == 2
    )  # keys are there, by one model


def test_a_search_by_the_file_needs_neither_torch_nor_timm(model: Path, workplace: Path, data_root: Path) -> None:
    tracklets(data_root, workplace / "tracklets", slice(0, 3))
    assert call("extract", "--weights", model, "tracklets", "--out", "gallery") == 0
    image = str(next(Path("tracklets").rglob("*.jpg")))
    block = "import sys\nfor name in ('torch', 'timm'): sys.modules[name] = None\n"  # importing one is an error
    code = f"{block}from reid.verbs import search\nsys.exit(search.main(['gallery', {image!r}]))"
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        capture_output=True,
        text=True,
        env={"PYTHONPATH": str(ROOT), "PATH": ""},
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[0] == f"query {image}"


def test_figures_by_the_file_are_those_of_the_run(trained: Path, model: Path, workplace: Path) -> None:
    pooling = f"test.pooling={OnnxNetwork(model).pooling}"
    assert call("test", trained, "--json", "run.json", pooling, "test.baselines=false") == 0
    assert call("test", "--weights", model, "data.name=demo", "--json", "file.json") == 0
    ours, theirs = (json.loads(Path(name).read_text()) for name in ("run.json", "file.json"))
    assert [one["mAP"] for one in theirs] == pytest.approx([one["mAP"] for one in ours], abs=1e-6)


def test_from_python_and_in_another_process(
    trained: Path, model: Path, data_root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = sorted((data_root / "demo/bbox_test").rglob("*.jpg"))[:5]
    by_file = reid.load(model)
    np.testing.assert_allclose(by_file.embed(images), reid.load(trained).embed(images), atol=2e-6)
    with pytest.raises(reid.errors.ConfigError, match="cannot be saved as weights"):
        by_file.save_pretrained("folder")
    network = Exported(OnnxNetwork(model, threads=1))
    inputs, pickled = torch.randn(3, 3, 32, 16), pickle.dumps(network)
    monkeypatch.setattr(Path, "read_bytes", None)  # another machine does not have the file
    assert torch.equal(pickle.loads(pickled)(inputs), network(inputs))


def test_a_smaller_number_format_is_another_model(
    trained: Path, workplace: Path, data_root: Path, fails: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from reid.commands import export

    monkeypatch.setattr(export, "ORDER", 0.5)  # the network has hardly learned anything
    monkeypatch.setattr(export, "LOSS", 1.0)
    names = tracklets(data_root, workplace / "tracklets", slice(0, 3))
    form = ["--format", "onnx", "--preprocessing", "outside"]
    assert call("export", trained, *form, "--dtype", "fp16", "--out", "half.onnx") == 0
    assert call("extract", trained, "tracklets", "--out", "gallery") == 0
    assert call("extract", "--weights", "half.onnx", "tracklets", "--out", "half") == 0
    assert call("search", "half", f"tracklets/{names[0]}") == 0
    message = fails("search", "gallery", f"tracklets/{names[0]}", "--weights", "half.onnx")
    assert "features of different models cannot be mixed" in message


def rewritten(file: Path, out: Path, **changed: Any) -> Path:
    """The file with other metadata and a checksum that is right again, as a hostile hand would write it."""
    told = {prop.key: prop.value for prop in onnx.load(file).metadata_props}
    shutil.copy(file, out)
    deployed.set_metadata(out, json.dumps({**json.loads(told[onnx_file.METADATA]), **changed}))
    return out


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"crop": [64, 32]}, "it takes"),
        ({"crop": [-1, 16]}, "it takes"),
        ({"resize": [16, 8]}, r"crop \(32, 16\) of \(16, 8\)"),
        ({"mean": [0.5]}, "reshape"),
        ({"std": "wide"}, "could not convert"),
        ({"output": None}, "NoneType"),
        ({"output": {"features": {"shape": ["batch", 3]}}}, "it takes"),
        ({"preprocessing": "inside"}, "exported with --preprocessing inside"),
        ({"std": [0.2, 0, 0.2]}, "std"),
        ({"mean": [float("nan"), 0, 0]}, "mean"),
        ({"tracklet_pooling": "median"}, "median"),
    ],
)
def test_metadata_that_cannot_be_right_are_refused(changed: Any, reason: str, model: Path, tmp_path: Path) -> None:
    assert OnnxNetwork(rewritten(model, tmp_path / "same.onnx")).crop == (32, 16)
    with pytest.raises(reid.errors.ReidError, match=rf"m\.onnx: .*{reason}"):
        OnnxNetwork(rewritten(model, tmp_path / "m.onnx", **changed))


def test_what_is_no_exported_file_or_contradicts_it_is_one_line(
    model: Path, trained: Path, workplace: Path, fails: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copy(model, "m.onnx")
    foreign = onnx.load("m.onnx")
    del foreign.metadata_props[:]
    onnx.save(foreign, "foreign.onnx")
    Path("text.onnx").write_text("no network")
    constant = onnx.numpy_helper.from_array(
        np.ones(3, np.float32), "more"
    )  # appended messages are merged: another network
    more = onnx.ModelProto(graph=onnx.GraphProto(initializer=[constant]))
    Path("longer.onnx").write_bytes(model.read_bytes() + more.SerializeToString())
    extract = ["--out", "gallery", "tracklets"]
    Path("tracklets").mkdir()
    for argv, message in [
        (["--weights", "foreign.onnx"], "foreign.onnx: not written by robust-reid export"),
        (["--weights", "text.onnx"], "text.onnx: not an ONNX file, or damaged"),
        (["--weights", "none.onnx"], "none.onnx: cannot be read: No such file"),
        (["--weights", "m.onnx", "--model", "resnet50"], "contains its network and input size; leave them out"),
        (["--weights", "m.onnx", "augment.crop=[16, 16]"], "augment.crop: m.onnx fixes it to [32, 16]"),
        (["--weights", "m.onnx", "model.neck=bn"], "model: m.onnx fixes the network; remove the settings of model"),
        (["--weights", "longer.onnx"], "longer.onnx: damaged or changed since its export"),
        (["--weights", "m.onnx", "--device", "cuda"], "machine.device: m.onnx fixes it to cpu, got cuda"),
    ]:
        assert message in fails("extract", *argv[:2], *extract, *argv[2:])
    out = ["--format", "onnx", "--out", "again.onnx"]
    assert "m.onnx: already exported" in fails("export", "--weights", "m.onnx", *out)
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    monkeypatch.setattr(onnx_file, "find_spec", lambda name: None)
    assert "m.onnx: needs onnxruntime; install with: pip install" in fails("extract", "--weights", "m.onnx", *extract)
    assert OfRun(trained).config().model.name == "resnet10t"
    assert sorted(path.suffix for path in workplace.iterdir()) == ["", *[".onnx"] * 4, ".yaml"]
