"""Every command and every piece of Python in the documents is run, on a small dataset, unless its comment says what it needs."""

import csv
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.commands.conftest import call, tracklets
from tests.test_documents import PAGES, ROOT, blocks, commands


@pytest.fixture
def world(
    tmp_path: Path, trained: Path, made: Path, data_root: Path, monkeypatch: pytest.MonkeyPatch, page: Path
) -> None:
    """What the pages speak of, under the names that they use: runs, galleries, images. `/data` is a folder `data` here."""
    shutil.copytree(data_root / "demo", tmp_path / "data/mars")
    shutil.copytree(data_root / "demo", tmp_path / "data/demo")
    for name in ("mars_imae", "mars_cce", "own_tracklets", "demo"):
        shutil.copytree(trained, tmp_path / "runs" / name)
    names = tracklets(data_root, tmp_path / "my_tracklets", slice(0, 12))
    (tmp_path / "my_tracklets" / names[0]).rename(tmp_path / "my_tracklets/monday_0017")
    tracklets(data_root, tmp_path / "monday", slice(12, 16))
    shutil.copytree(tmp_path / "my_tracklets/monday_0017", tmp_path / "frames")
    shutil.copy(next((tmp_path / "frames").iterdir()), tmp_path / "person.jpg")
    shutil.copy(sorted((tmp_path / "frames").iterdir())[-1], tmp_path / "other.jpg")
    if "--out galleries/mine" not in page.read_text():
        shutil.copytree(made, tmp_path / "galleries/mine")
    for number, name in enumerate(tracklets(data_root, tmp_path / "loose", slice(0, 12))):  # person/tracklet/frames
        person = tmp_path / "pictures" / f"person{number // 3}"
        person.mkdir(parents=True, exist_ok=True)
        (tmp_path / "loose" / name).rename(person / name)
    for name in ("frames.csv", "labelled.csv"):
        write_manifest(tmp_path / name, tmp_path / "my_tracklets")
    shutil.copy(trained / "features.npz", tmp_path)
    (tmp_path / "ours.yaml").write_text("{name: ours, gallery: without_queries, ap: hit, without_match: skip}")
    theirs = {"state_dict": {"module.layer": torch.zeros(2)}, "rank1": np.float64(0.9)}
    torch.save(theirs, tmp_path / "theirs.pth")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("REID_DATA", str(tmp_path / "data"))


def write_manifest(file: Path, folder: Path) -> None:
    with file.open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["path", "tracklet", "pid", "camid", "time"])
        for number, tracklet in enumerate(sorted(folder.iterdir())):
            for frame in sorted(tracklet.iterdir()):
                ids = [tracklet.name, 1 + number // 3, 1 + number % 3]
                writer.writerow([frame.relative_to(file.parent), *ids, f"2026-05-04T17:{number + 40}"])


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_what_the_page_shows_runs(page: Path, request: pytest.FixtureRequest) -> None:
    """In the page's order, in one folder."""
    shown = [(language, text) for language, text in blocks(page) if language in ("", "python")]
    if not any(language or any(not command.marked for command in commands(text)) for language, text in shown):
        return  # nothing to run: its links, flags and arguments are tested elsewhere
    request.getfixturevalue("world")
    for language, text in shown:
        if language:
            exec(compile(text, str(page), "exec"), {})
        else:
            for command in commands(text):
                if not command.marked:
                    argv = [word.removeprefix("/") if word.startswith("/data") else word for word in command.argv]
                    assert call(command.verb, *argv) == 0, command.text
