"""Extraction with damaged images: as if they had never been there, and listed beside the features, also after a kill."""

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from reid import experiment
from reid.commands import extract
from reid.commands.extract import Target
from reid.engine import checkpoint
from reid.errors import DataError
from reid.gallery import store
from reid.gallery.shards import Shards
from reid.models.embedding import Classifier
from reid.rundir import RunDirectory

CONFIG = """
model: {name: resnet10t, pretrained: false}
loss: {name: cce}
augment: {resize: [36, 20], crop: [32, 16]}
test: {batch_size: 3}
machine: {device: cpu, workers: 0}
"""
LENGTHS = {"a": 3, "b": 5, "c": 2, "d": 4}
DAMAGED = ["a/1.jpg", "b/2.jpg", "d/0.jpg", "d/3.jpg"]  # the first two stand for their tracklets


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = RunDirectory(tmp_path_factory.mktemp("run"))
    directory.config_file.write_text(CONFIG)
    torch.manual_seed(0)
    embedding, _ = experiment.build_embedding(directory.config(), initial_weights=False)
    directory.last.parent.mkdir()
    checkpoint.save(directory.last, model=Classifier(embedding, 3).state_dict(), pids=[1, 2, 3])
    return directory.path


@pytest.fixture
def source(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    for name, length in LENGTHS.items():
        (tmp_path / "source" / name).mkdir(parents=True)
        for i in range(length):
            picture = rng.integers(0, 256, (4, 2, 3), dtype=np.uint8).repeat(8, 0).repeat(8, 1)
            Image.fromarray(picture).save(tmp_path / "source" / name / f"{i}.jpg")
    shutil.copytree(tmp_path / "source", tmp_path / "without")
    for name in DAMAGED:
        (tmp_path / "without" / name).unlink()
        path = tmp_path / "source" / name
        path.write_bytes(path.read_bytes()[:-30])
    return tmp_path / "source"


def extracted(run: Path, source: Path, out: Path, policy: str = "skip", **target: object) -> store.Gallery:
    target = {"shard_frames": 3, **target}
    extract.run(experiment.OfRun(run), [f"data.damaged={policy}"], source, "folders", Target(out, **target))
    return store.open_gallery(out)


def listed(folder: Path) -> dict[str, str]:
    with open(folder / "damaged.csv", newline="") as stream:
        return {row["path"]: row["reason"] for row in csv.DictReader(stream)}


def about(folder: Path) -> dict:
    return json.loads((folder / "gallery.json").read_text())


def test_as_if_the_damaged_images_had_never_been_there(run: Path, source: Path, tmp_path: Path) -> None:
    gallery = extracted(run, source, tmp_path / "out")
    without = extracted(run, tmp_path / "without", tmp_path / "expected")
    np.testing.assert_allclose(gallery.features.features, without.features.features, rtol=0, atol=1e-6)
    assert list(listed(tmp_path / "out")) == [str(source / name) for name in DAMAGED]
    assert all("damaged image" in reason for reason in listed(tmp_path / "out").values())
    assert about(tmp_path / "out")["damaged_images"] == len(DAMAGED)
    assert about(tmp_path / "expected")["damaged_images"] == 0
    assert not (tmp_path / "expected" / "damaged.csv").exists()
    assert not {str(path) for path in gallery.path} & set(
        listed(tmp_path / "out")
    )  # what stands for a tracklet can be shown


def test_the_list_survives_a_kill(run: Path, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save = Shards.save

    def killed(shards: Shards, number: int, features: np.ndarray) -> None:
        if number == 2:
            raise KeyboardInterrupt
        save(shards, number, features)

    with monkeypatch.context() as patch:
        patch.setattr(Shards, "save", killed)
        with pytest.raises(KeyboardInterrupt):
            extracted(run, source, tmp_path / "out")
    assert not (tmp_path / "out" / "gallery.json").exists()
    extracted(run, source, tmp_path / "out", resume=True)
    assert list(listed(tmp_path / "out")) == [str(source / name) for name in DAMAGED]
    assert about(tmp_path / "out")["damaged_images"] == len(DAMAGED)
    assert not (tmp_path / "out" / "shards").exists()


def test_rows_that_are_added_bring_their_list(run: Path, source: Path, tmp_path: Path) -> None:
    (source / "d").rename(tmp_path / "more")
    (tmp_path / "new").mkdir()
    (tmp_path / "more").rename(tmp_path / "new" / "d")
    extracted(run, source, tmp_path / "out")
    extracted(run, tmp_path / "new", tmp_path / "out", mode="add")
    expected = {str(source / name) for name in DAMAGED[:2]} | {str(tmp_path / "new" / name) for name in DAMAGED[2:]}
    assert listed(tmp_path / "out").keys() == expected
    assert about(tmp_path / "out")["damaged_images"] == 4
    extracted(run, tmp_path / "without", tmp_path / "out", mode="overwrite")
    assert not (tmp_path / "out" / "damaged.csv").exists()


def test_by_default_the_first_damaged_image_stops_it(run: Path, source: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"a/1\.jpg: damaged image"):
        extracted(run, source, tmp_path / "out", "error")


@pytest.fixture
def c_unreadable(source: Path) -> Path:
    for i in range(LENGTHS["c"]):
        (source / "c" / f"{i}.jpg").write_bytes(b"")
    return source


def test_a_tracklet_without_any_image_is_named(run: Path, c_unreadable: Path, tmp_path: Path) -> None:
    expected = r"source/c/0\.jpg: damaged image .*; none of the 2 images of tracklet c can be read; .*--skip-tracklets"
    with pytest.raises(DataError, match=expected):
        extracted(run, c_unreadable, tmp_path / "out")
    assert not store.exists(tmp_path / "out")


def test_such_a_tracklet_is_left_out_where_that_is_asked_for(
    run: Path, c_unreadable: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    shutil.rmtree(tmp_path / "without/c")
    without = extracted(run, tmp_path / "without", tmp_path / "expected")
    out = tmp_path / "out"
    gallery = extracted(run, c_unreadable, out, "error", skip_tracklets=True)  # which leaves images out too
    assert list(gallery.features.key) == list(without.features.key) == ["a", "b", "d"]
    np.testing.assert_allclose(gallery.features.features, without.features.features, rtol=0, atol=1e-6)
    assert gallery.num_frames.tolist() == [3, 5, 4]
    assert about(out)["left_out"] == ["c"]
    assert "left_out" not in about(tmp_path / "expected")
    assert [str(c_unreadable / name) in listed(out) for name in ("c/0.jpg", "c/1.jpg")] == [True, True]
    assert f"{out}: 1 tracklet was left out, because none of their images can be read, such as c; " in caplog.text
    caplog.clear()
    extracted(run, c_unreadable, out, skip_tracklets=True, resume=True)
    assert "4 tracklets: up to date" in caplog.text


def test_a_restored_tracklet_is_added(run: Path, c_unreadable: Path, tmp_path: Path) -> None:
    extracted(run, c_unreadable, tmp_path / "out", skip_tracklets=True)
    (tmp_path / "restored").mkdir()
    (tmp_path / "without/c").rename(tmp_path / "restored/c")
    gallery = extracted(run, tmp_path / "restored", tmp_path / "out", mode="add")
    assert list(gallery.features.key) == ["a", "b", "d", "c"]
    assert "left_out" not in about(tmp_path / "out")


def test_what_was_begun_with_the_flag_is_not_finished_without(
    run: Path, c_unreadable: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(extract, "_write", killed)
        with pytest.raises(KeyboardInterrupt):
            extracted(run, c_unreadable, tmp_path / "out", skip_tracklets=True)
    with pytest.raises(DataError, match=r"started with --skip-tracklets, and without 1 tracklet such as c"):
        extracted(run, c_unreadable, tmp_path / "out", resume=True)
    extracted(run, c_unreadable, tmp_path / "out", resume=True, skip_tracklets=True)
    assert about(tmp_path / "out")["left_out"] == ["c"]


def test_nothing_at_all_is_an_error(run: Path, c_unreadable: Path, tmp_path: Path) -> None:
    (tmp_path / "only").mkdir()
    (c_unreadable / "c").rename(tmp_path / "only/c")
    with pytest.raises(DataError, match="none of the images of 1 tracklet can be read"):
        extracted(run, tmp_path / "only", tmp_path / "out", skip_tracklets=True)


def test_missing_images_are_told_before_the_work(
    run: Path, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [f"source/{name}/{i}.jpg,{name}" for name, length in LENGTHS.items() for i in range(length)]
    (tmp_path / "tracks.csv").write_text("\n".join(["path,tracklet", *rows]))
    shutil.rmtree(source / "c")
    (source / "d/1.jpg").unlink()
    monkeypatch.chdir(tmp_path)  # where the root of the paths is `.`

    def embedded(policy: str, **target: object) -> store.Gallery:
        wanted = Target(tmp_path / "out", **target)
        extract.run(experiment.OfRun(run), [f"data.damaged={policy}"], Path("tracks.csv"), "manifest", wanted)
        return store.open_gallery(tmp_path / "out")

    with monkeypatch.context() as patch:
        patch.setattr(extract, "extract_shards", lambda *_, **__: pytest.fail("has begun"))
        with pytest.raises(DataError, match=r"^source/c/0\.jpg: .* \(of tracklet c\); 3 of 14 images are missing; "):
            embedded("error")
        with pytest.raises(
            DataError, match=r"^source/c/0\.jpg: .*other of the 2 images of tracklet c; .*--skip-tracklets$"
        ):
            embedded("skip")
    assert not (tmp_path / "out").exists()
    assert list(embedded("skip", skip_tracklets=True).features.key) == ["a", "b", "d"]
