"""Galleries as people make, change and search them, with a network of random weights."""

import importlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from reid import config, experiment
from reid.engine import checkpoint
from reid.gallery import store
from reid.gallery.lock import alone
from reid.models.embedding import Classifier
from tests.commands.conftest import CONFIG, ROOT, call


def make_run(folder: Path, seed: int) -> Path:
    """A run directory whose network has never been trained."""
    folder.mkdir()
    (folder / "config.yaml").write_text(CONFIG + f"seed: {seed}\nname: random\n")
    settings = config.load(folder / "config.yaml")
    embedding, _ = experiment.build_embedding(settings, initial_weights=False)
    checkpoint.save(folder / "checkpoints/last.pt", model=Classifier(embedding, 2).state_dict(), pids=[1, 2])
    return folder


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_run(tmp_path_factory.mktemp("run") / "run", seed=0)


@pytest.fixture(scope="module")
def other_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_run(tmp_path_factory.mktemp("other") / "run", seed=1)


@pytest.fixture(scope="module")
def made(run: Path, data_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A gallery of the demo's test tracklets; tests must not change it."""
    out = tmp_path_factory.mktemp("made") / "gallery"
    assert call("extract", run, data_root / "demo", "--out", out) == 0
    return out


@pytest.fixture
def gallery(made: Path, workplace: Path) -> Path:
    """A copy that may be changed, in the current folder."""
    return Path(shutil.copytree(made, "gallery"))


def tracklets(data_root: Path, out: Path, which: slice, times: int = 1) -> list[str]:
    """Folders of frames of some of the demo's test tracklets; returns their names."""
    test = experiment.DATASETS["demo"](data_root / "demo").test
    names = []
    for i in list(range(len(test)))[which]:
        for copy in range(times):
            names.append(test.key(i) if times == 1 else f"{test.key(i)}_{copy:03}")
            (out / names[-1]).mkdir(parents=True)
            for path in test[i].paths:
                os.link(path, out / names[-1] / path.name)
    return names


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
    assert [hit["row"] for hit in found["hits"]] == expected.tolist()
    for rank, (hit, row) in enumerate(zip(found["hits"], expected, strict=True), start=1):
        assert hit == {
            "rank": rank,
            "row": row,
            "key": features.key[row],
            "pid": features.pid[row],
            "camid": features.camid[row],
            "similarity": pytest.approx(similarity[row], abs=1e-12),
        }
    out = capsys.readouterr().out
    assert all(hit["key"] in out for hit in found["hits"])
    page = Path("out/hits.html").read_text()
    assert page.count("data:image/jpeg;base64,") == 5
    assert f"<h3>{key}</h3>" in page


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


def test_filters_and_thresholds(gallery: Path, capsys: pytest.CaptureFixture[str]) -> None:
    features = store.read(gallery)
    key, everything = str(features.key[5]), str(len(features.pid))
    for flags, expected in (
        (("--camera", "1,3"), np.isin(features.camid, [1, 3])),
        (("--not-camera", "1,3"), ~np.isin(features.camid, [1, 3])),
        (("--camera", "1,3", "--not-camera", "3"), features.camid == 1),
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
    assert "stale" in message
    assert f"python tools/gallery.py index {gallery} 'IVF4,Flat:nprobe=4'" in message


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


def test_adding_is_extracting_all_at_once(run: Path, workplace: Path, data_root: Path, fails) -> None:
    tracklets(data_root, Path("all"), slice(0, 9))
    tracklets(data_root, Path("first"), slice(0, 5))
    names = tracklets(data_root, Path("second"), slice(5, 9))
    assert call("extract", run, "all", "--out", "whole") == 0
    assert call("extract", run, "first", "--out", "grown", "--index", "Flat") == 0
    before = np.array(store.read(Path("grown")).features)
    assert call("extract", run, "second", "--out", "grown", "--add") == 0
    whole, grown = (store.open_gallery(Path(name)) for name in ("whole", "grown"))
    assert np.array_equal(grown.features.features[:5], before)
    np.testing.assert_allclose(grown.features.features, whole.features.features, atol=1e-5)
    assert grown.features.key.tolist() == whole.features.key.tolist()
    assert store.open_index(grown) is not None
    assert grown.about["added"] == [str(Path("second").absolute())]
    again = fails("extract", run, "second", "--out", "grown", "--add")
    assert f"has a tracklet {names[0]!r} already (and 3 more)" in again
    assert call("extract", run, "second", "--out", "grown", "--add", "--resume", "auto") == 0
    assert len(store.read(Path("grown")).pid) == 9


def test_two_models_never_mix(run: Path, other_run: Path, gallery: Path, data_root: Path, fails) -> None:
    [name] = tracklets(data_root, Path("mine"), slice(3, 4))
    before = (gallery / "gallery.json").read_bytes()
    os.rename(Path("mine", name), "mine/new")
    message = fails("extract", other_run, "mine", "--out", gallery, "--add")
    assert "two models never mix" in message
    assert str(run) in message
    message = fails("search", gallery, "mine/new", "--run", other_run)
    assert "two models never mix" in message
    assert call("search", gallery, "mine/new", "--run", run, "--device", "cpu") == 0
    assert (gallery / "gallery.json").read_bytes() == before
    assert "holds another gallery" in fails("extract", other_run, "mine", "--out", gallery, "--resume", "auto")


def test_one_program_at_a_time_extracts_into_a_gallery(run: Path, gallery: Path, data_root: Path, fails) -> None:
    [name] = tracklets(data_root, Path("mine"), slice(3, 4))
    os.rename(Path("mine", name), "mine/new")
    with alone(gallery):
        for flags in (("--add",), ("--overwrite",), ("--resume", "auto")):
            assert "another program is changing this gallery" in fails("extract", run, "mine", "--out", gallery, *flags)
    assert call("extract", run, "mine", "--out", gallery, "--add") == 0
    assert not (gallery / ".lock").exists()


def test_a_run_that_has_moved(gallery: Path, data_root: Path, fails) -> None:
    [name] = tracklets(data_root, Path("mine"), slice(3, 4))
    about = json.loads((gallery / "gallery.json").read_text())
    (gallery / "gallery.json").write_text(json.dumps({**about, "run": "nowhere"}))
    assert "say where it is by --run" in fails("search", gallery, f"mine/{name}")
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
    assert "no row of the gallery is left; it has cameras" in fails("search", gallery, key, "--camera", "77")
    assert "min_similarity: expected >= -1 and <= 1" in fails("search", gallery, key, "--min-similarity", "3")
    assert "faiss makes no 'XX'" in fails("search", gallery, key, "--index", "XX")
    assert "no complete feature folder" in fails("search", "empty", key)
    assert "no tracklet has the key 'nothing'" in fails("gallery", "remove", gallery, "nothing")
    assert "cannot write" in fails("search", gallery, key, "--json", "text.jpg/a.json")


def test_a_gallery_without_labels_tells_no_threshold(run: Path, workplace: Path, data_root: Path, fails) -> None:
    names = tracklets(data_root, Path("mine"), slice(0, 3))
    assert call("extract", run, "mine", "--out", "g") == 0
    message = fails("search", "g", names[0], "--false-match-rate", "0.01")
    assert "0 labelled rows of 0 persons; give --min-similarity instead" in message


def test_pictures_that_are_gone_are_grey(gallery: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = (gallery / "meta.csv").read_text().replace("bbox_test", "bbox_gone")
    (gallery / "meta.csv").write_text(rows)
    assert call("search", gallery, str(store.read(gallery).key[0]), "--html", "a.html") == 0
    assert "no picture: " in capsys.readouterr().err
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


def test_bad_index_and_places_show_before_the_work(run: Path, workplace: Path, data_root: Path, fails) -> None:
    tracklets(data_root, Path("mine"), slice(0, 3))
    assert "faiss makes no 'XX'" in fails("extract", run, "mine", "--out", "g", "--index", "XX")
    assert not (Path("g") / "shards").exists()
    assert "no complete feature folder" in fails("extract", run, "mine", "--out", "nowhere", "--add")
    assert "shard: expected >= 1, got 0" in fails("extract", run, "mine", "--out", "g", "--shard", "0")
    assert "builds no 'IVF64,Flat'" in fails("extract", run, "mine", "--out", "g", "--index", "IVF64,Flat")
    assert call("extract", run, "mine", "--out", "g", "--resume", "auto") == 0  # the features were kept
    assert sorted(path.name for path in Path("g").iterdir()) == ["features.npy", "gallery.json", "meta.csv"]


def test_killed_and_resumed_is_never_killed(run: Path, workplace: Path, data_root: Path, fails) -> None:
    """SIGKILL leaves no time to tidy up. The bytes of all files are those of an extraction that ran through."""
    tracklets(data_root, Path("mine"), slice(0, 26), times=6)
    options = ["mine", "--out", "killed", "--shard", "16"]
    process = subprocess.Popen([sys.executable, ROOT / "tools/extract.py", run, *options], stderr=subprocess.PIPE)
    saved, deadline = Path("killed/shards"), time.monotonic() + 120
    while not (saved / "000002.npy").exists():
        assert time.monotonic() < deadline
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.001)
    process.send_signal(signal.SIGKILL)
    assert process.wait(60) == -signal.SIGKILL
    process.stderr.close()
    parts = len(list(saved.glob("[0-9]*.npy")))
    assert not (Path("killed") / "gallery.json").exists()
    assert "not finished; --resume auto goes on" in fails("extract", run, *options)
    assert "cannot resume: shard_frames: 16 there" in fails("extract", run, *options[:-1], "5", "--resume", "auto")
    assert "no complete feature folder" in fails("search", "killed", "a")
    kept = {path.name: path.stat().st_mtime_ns for path in saved.glob("[0-9]*.npy")}
    assert len(kept) == parts
    assert call("extract", run, *options, "--resume", "auto") == 0
    assert call("extract", run, "mine", "--out", "whole", "--shard", "16") == 0
    names = ["features.npy", "gallery.json", "meta.csv"]
    for folder in ("killed", "whole"):
        assert sorted(path.name for path in Path(folder).iterdir()) == names
    for name in names:
        assert (Path("killed") / name).read_bytes() == (Path("whole") / name).read_bytes()
    before = (Path("killed") / "features.npy").stat().st_mtime_ns
    assert call("extract", run, *options, "--resume", "auto") == 0  # nothing is left to do
    assert (Path("killed") / "features.npy").stat().st_mtime_ns == before


def test_overwriting_keeps_the_old_gallery_until_the_end(
    run: Path, workplace: Path, data_root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tracklets(data_root, Path("mine"), slice(0, 6))
    tracklets(data_root, Path("others"), slice(6, 12))
    assert call("extract", run, "mine", "--out", "g") == 0
    before = (Path("g") / "features.npy").read_bytes()
    options = ["others", "--out", "g", "--overwrite", "--shard", "4"]
    from reid.gallery.shards import Shards

    save = Shards.save

    def stop(self: Shards, number: int, features: np.ndarray) -> None:
        save(self, number, features)
        if number == 1:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Shards, "save", stop)
        assert call("extract", run, *options) == 130
    assert (Path("g") / "features.npy").read_bytes() == before
    assert call("search", "g", str(store.read(Path("g")).key[0])) == 0
    monkeypatch.setattr(
        Shards, "save", lambda self, number, features: save(self, number, features) if number > 1 else 1 / 0
    )
    assert call("extract", run, *options, "--resume", "auto") == 0  # the first two parts are not made again
    assert store.read(Path("g")).key.tolist() == sorted(path.name for path in Path("others").iterdir())


def test_two_processes_write_one_gallery(run: Path, workplace: Path, data_root: Path) -> None:
    tracklets(data_root, Path("mine"), slice(0, 11))
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2"]
    command += ["--master-port", str(31500 + os.getpid() % 2000)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    options = [run, "mine", "--out", "two", "--shard", "5", "--index", "Flat"]
    done = subprocess.run(
        [*command, ROOT / "tools/extract.py", *options], capture_output=True, text=True, env=environment
    )
    assert done.returncode == 0, done.stderr
    assert call("extract", run, "mine", "--out", "one", "--shard", "5", "--index", "Flat") == 0
    one, two = (store.open_gallery(Path(name)) for name in ("one", "two"))
    np.testing.assert_allclose(two.features.features, one.features.features, atol=1e-5)
    assert two.features.key.tolist() == one.features.key.tolist()
    for name in ("meta.csv", "gallery.json"):
        assert (Path("one") / name).read_bytes() == (Path("two") / name).read_bytes()
    assert sorted(path.name for path in Path("two").iterdir()) == sorted(path.name for path in Path("one").iterdir())


@pytest.mark.parametrize("tool", ["search", "gallery"])
def test_help_shows_examples(tool: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        importlib.import_module(f"tools.{tool}").main(["--help"])
    assert caught.value.code == 0
    assert f"python tools/{tool}.py" in capsys.readouterr().out


@pytest.mark.parametrize("argv", [["g"], ["g", "a", "--tune"], ["g", "a", "--camera", "x"]])
def test_wrong_flags(argv: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        importlib.import_module("tools.search").main(argv)
    assert caught.value.code == 2
    assert "error:" in capsys.readouterr().err
