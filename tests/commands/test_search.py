"""Galleries as people search and change them, with a network of random weights."""

import csv
import importlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from reid.datasets import packing
from reid.gallery import store
from tests.commands.conftest import ROOT, call, tracklets


def read_json(name: str) -> list[dict]:
    return json.loads(Path(name).read_text())


def test_searching_by_key(gallery: Path, capsys: pytest.CaptureFixture[str]) -> None:
    features = store.read(gallery)
    key = str(features.key[5])
    assert call("search", gallery, key, "--top-k", "4", "--json", "out/hits.json", "--html", "out/hits.html") == 0
    [found] = read_json("out/hits.json")
    assert (found["schema"], found["query"]) == (1, key)
    similarity = features.features.astype(float) @ features.features[5].astype(float)
    similarity[5] = -2
    expected = np.argsort(-similarity, kind="stable")[:4]
    with open(gallery / "meta.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [hit["row"] for hit in found["hits"]] == expected.tolist()
    for rank, (hit, row) in enumerate(zip(found["hits"], expected, strict=True), start=1):
        assert hit == {
            "rank": rank,
            "row": row,
            "key": features.key[row],
            "pid": features.pid[row],
            "camid": features.camid[row],
            "similarity": pytest.approx(similarity[row], abs=1e-12),
            "path": rows[row]["path"],
        }
        assert Path(hit["path"]).is_file()
    out = capsys.readouterr().out
    assert all(hit["key"] in out for hit in found["hits"])
    page = Path("out/hits.html").read_text()
    assert page.count("data:image/jpeg;base64,") == 5
    assert f"<h3>{key}</h3>" in page
    assert all(f'<span class="caption">{hit["key"]}\n' in page for hit in found["hits"])


def test_searching_by_frames_finds_their_own_tracklet(gallery: Path, data_root: Path) -> None:
    first, second = tracklets(data_root, Path("mine"), slice(6, 8))
    image = sorted(Path("mine", second).iterdir())[0]
    assert call("search", gallery, f"mine/{first}", image, "--json", "hits.json", "--html", "hits.html") == 0
    by_folder, by_image = read_json("hits.json")
    assert by_folder["hits"][0]["key"] == first
    assert by_folder["hits"][0]["similarity"] == pytest.approx(1, abs=1e-5)
    assert len(by_folder["hits"]) == 10
    assert by_image["query"] == str(image)
    assert by_image["hits"][0]["similarity"] < 1


def test_an_image_of_a_packed_folder_is_found_as_its_file(gallery: Path, data_root: Path, fails) -> None:
    root = Path("mine/bbox_test")
    [name] = tracklets(data_root, root, slice(6, 7))
    image = sorted((root / name).iterdir())[0]
    packing.write(root, [os.fsencode(image.relative_to(root))], root.with_suffix(".pack"))
    assert call("search", gallery, image, "--json", "file.json", "--html", "file.html") == 0
    shutil.rmtree(root)
    assert call("search", gallery, image, "--json", "packed.json", "--html", "packed.html") == 0
    assert read_json("packed.json") == read_json("file.json")
    assert Path("packed.html").read_bytes() == Path("file.html").read_bytes()
    assert "no such image" in fails("search", gallery, image.with_name("another.jpg"))


def test_filters_and_thresholds(gallery: Path, capsys: pytest.CaptureFixture[str]) -> None:
    features = store.read(gallery)
    key, everything = str(features.key[5]), str(len(features.pid))
    for flags, expected in (
        (("--camera", "1,3"), np.isin(features.camid, [1, 3])),
        (("--not-camera", "1,3"), ~np.isin(features.camid, [1, 3])),
        (("--camera", "1,3", "--not-camera", "3"), features.camid == 1),
        (("--person", str(features.pid[5])), features.pid == features.pid[5]),
        (("--not-person", f"0,{features.pid[5]}"), ~np.isin(features.pid, [0, features.pid[5]])),
        (("--min-similarity", "0.999"), features.features @ features.features[5] >= 0.999),
    ):
        assert call("search", gallery, key, "--top-k", everything, *flags, "--json", "a.json") == 0
        rows = set(np.flatnonzero(expected).tolist()) - {5}
        assert {hit["row"] for hit in read_json("a.json")[0]["hits"]} == rows
    assert call("search", gallery, key, "--false-match-rate", "0.05", "--json", "a.json") == 0
    line = next(line for line in reversed(capsys.readouterr().err.splitlines()) if line.startswith("least similarity"))
    assert "at most 0.05 of" in line
    assert "pairs of different persons in this gallery" in line
    assert all(hit["similarity"] >= float(line.split()[2].rstrip(",")) - 1e-4 for hit in read_json("a.json")[0]["hits"])


def test_an_index_is_built_used_and_kept_in_step(gallery: Path, capsys: pytest.CaptureFixture[str], fails) -> None:
    key = str(store.read(gallery).key[5])
    assert call("gallery", "index", gallery, "IVF4,Flat:nprobe=4") == 0
    assert "index IVF4,Flat:nprobe=4: recall@10 1.000 against exact" in capsys.readouterr().err
    found = []
    for flags, how in (
        ((), "by IVF4,Flat:nprobe=4"),
        (("--index", "Flat"), "exactly"),
        (("--index", "HNSW8"), "by HNSW8"),
        (("--camera", "1"), "exactly"),
    ):
        assert call("search", gallery, key, *flags, "--json", "a.json") == 0
        assert f"tracklets, {how}" in capsys.readouterr().err
        found.append(Path("a.json").read_text())
    assert found[0] == found[1] == found[2] != found[3]
    assert call("gallery", "remove", gallery, str(store.read(gallery).key[0])) == 0
    assert call("search", gallery, key) == 0
    shutil.copy(gallery / "index.faiss", "old.faiss")
    assert call("gallery", "remove", gallery, str(store.read(gallery).key[0])) == 0
    shutil.copy("old.faiss", gallery / "index.faiss")
    message = fails("search", gallery, key)
    assert "out of date" in message
    assert f"robust-reid gallery index {gallery} 'IVF4,Flat:nprobe=4'" in message


def test_tuning_prints_the_trade_off(gallery: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert call("search", gallery, "--tune", "--top-k", "3") == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split(" | ") == [
        "index".ljust(len(lines[2].split(" | ")[0])),
        "recall@3",
        "ms/query",
        "bytes/row",
        "build s",
    ]
    assert lines[2].startswith("Flat")
    assert any(line.startswith("HNSW32:efSearch=64") for line in lines)
    assert "below 50,000 rows it is best" in lines[-1]
    assert call("search", gallery, "--tune", "--index", "SQ8") == 0
    assert "SQ8 " in capsys.readouterr().out


def test_two_models_never_mix(run: Path, other_run: Path, gallery: Path, data_root: Path, fails) -> None:
    [name] = tracklets(data_root, Path("mine"), slice(3, 4))
    before = (gallery / "gallery.json").read_bytes()
    os.rename(Path("mine", name), "mine/new")
    message = fails("extract", other_run, "mine", "--out", gallery, "--add")
    assert "features of different models cannot be mixed" in message
    assert str(run) in message
    message = fails("search", gallery, "mine/new", "--run", other_run)
    assert "features of different models cannot be mixed" in message
    assert call("search", gallery, "mine/new", "--run", run, "--device", "cpu") == 0
    assert (gallery / "gallery.json").read_bytes() == before
    assert "contains another gallery" in fails("extract", other_run, "mine", "--out", gallery, "--resume", "auto")


def test_a_run_that_has_moved(gallery: Path, data_root: Path, fails) -> None:
    [name] = tracklets(data_root, Path("mine"), slice(3, 4))
    about = json.loads((gallery / "gallery.json").read_text())
    (gallery / "gallery.json").write_text(json.dumps({**about, "run": "nowhere"}))
    assert "set its path with --run" in fails("search", gallery, f"mine/{name}")
    (gallery / "gallery.json").write_text(json.dumps({k: v for k, v in about.items() if k != "run"}))
    assert "names no run" in fails("search", gallery, f"mine/{name}")
    assert call("search", gallery, name) == 0  # a key needs no model


def test_queries_that_are_nothing(gallery: Path, fails) -> None:
    Path("empty").mkdir()
    Path("text.jpg").write_text("no image")
    shutil.copy(gallery / "features.npy", "image.png")
    assert "no such image, folder of frames or key of gallery" in fails("search", gallery, "nothing")
    assert "expected the images of one tracklet" in fails("search", gallery, "empty")
    assert "damaged image" in fails("search", gallery, "text.jpg")
    assert "damaged image" in fails("search", gallery, "image.png")
    key = str(store.read(gallery).key[0])
    assert "top_k: expected 1 or more, got 0" in fails("search", gallery, key, "--top-k", "0")
    assert "no row of the gallery matches; it has cameras" in fails("search", gallery, key, "--camera", "77")
    assert "gate 3" in fails("search", gallery, key, "--camera", "gate 3")
    assert "min_similarity: expected >= -1 and <= 1" in fails("search", gallery, key, "--min-similarity", "3")
    assert "faiss cannot make 'XX'" in fails("search", gallery, key, "--index", "XX")
    assert "empty: not a complete feature folder" in fails("search", "empty", key)
    message = fails("search", "nowhere", key)
    assert "nowhere: no such folder; robust-reid extract RUN DATA --out nowhere extracts the tracklets" in message
    assert "text.jpg: is a file" in fails("search", "text.jpg", key)
    assert "no tracklet has the key 'nothing'" in fails("gallery", "remove", gallery, "nothing")
    assert "cannot write" in fails("search", gallery, key, "--json", "text.jpg/a.json")


def test_a_gallery_without_labels_tells_no_threshold(run: Path, workplace: Path, data_root: Path, fails) -> None:
    names = tracklets(data_root, Path("mine"), slice(0, 3))
    assert call("extract", run, "mine", "--out", "g") == 0
    message = fails("search", "g", names[0], "--false-match-rate", "0.01")
    assert "0 labelled rows of 0 persons; use --min-similarity instead" in message


def test_pictures_that_are_gone_are_grey(gallery: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = (gallery / "meta.csv").read_text().replace("bbox_test", "bbox_gone")
    (gallery / "meta.csv").write_text(rows)
    about = json.loads((gallery / "gallery.json").read_text())
    del about["checksums"]["meta.csv"]  # as the error advises where a change was meant
    (gallery / "gallery.json").write_text(json.dumps(about))
    assert call("search", gallery, str(store.read(gallery).key[0]), "--html", "a.html") == 0
    assert "no image: " in capsys.readouterr().err
    assert Path("a.html").read_text().count("data:image/jpeg") == 11


def test_the_sheet_loads_nothing_and_escapes_names() -> None:
    from reid.report.hits import HitList, hits_html
    from reid.report.records import Thumbnail

    picture = Thumbnail(b"\xff\xd8\xff", "<b>", "query")
    page = hits_html("<i>", {"<u>": "&"}, [HitList("<script>", "0 hits", picture, [])])
    assert not any(tag in page for tag in ("<b>", "<i>", "<u>", "<script>"))
    assert "No hit." in page
    assert "default-src 'none'" in page
    assert "match: the query" not in page  # no hit is judged, so no sign needs explaining


@pytest.mark.parametrize("tool", ["search", "gallery"])
def test_help_shows_examples(tool: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        importlib.import_module(f"reid.verbs.{tool}").main(["--help"])
    assert caught.value.code == 0
    assert f"robust-reid {tool}" in capsys.readouterr().out


@pytest.mark.parametrize("argv", [["g"], ["g", "a", "--tune"]])
def test_wrong_flags(argv: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        importlib.import_module("reid.verbs.search").main(argv)
    assert caught.value.code == 2
    assert "error:" in capsys.readouterr().err


def test_a_gallery_of_another_size_or_pooling_is_searched_as_it_was_made(
    run: Path, workplace: Path, data_root: Path
) -> None:
    [name] = tracklets(data_root, Path("t"), slice(0, 1))
    picture = next((Path("t") / name).iterdir())
    for out, override in (("pooled", "test.pooling=max"), ("larger", "augment.resize=[40, 24]")):
        assert call("extract", run, "t", override, "--out", out) == 0
        assert call("search", out, picture, Path("t") / name, "--json", "a.json") == 0
        hit = json.loads(Path("a.json").read_text())[1]["hits"][0]
        assert hit["key"] == name and hit["similarity"] == pytest.approx(1, abs=1e-5)


def test_a_tracklet_of_the_gallery_is_found_without_torch(gallery: Path) -> None:
    """Which takes seconds to import, and embeds nothing here."""
    key = str(store.read(gallery).key[5])
    script = f"""
import sys
from reid.__main__ import main
sys.argv = ["robust-reid", "search", {str(gallery)!r}, {key!r}, "--not-camera", "1"]
assert main() == 0
print(*({{"torch", "timm", "scipy", "pyarrow"}} & sys.modules.keys()), file=sys.stderr)
"""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert f"query {key}" in done.stdout
    assert done.stderr.splitlines()[-1] == ""
