"""One's own tracklets, from a table to a search hit, by the commands alone: rendered people with names, and nothing of MARS' layout."""

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy.io import savemat

from reid.datasets.mars import load_mars
from reid.datasets.table import write_table
from reid.engine import checkpoint
from reid.gallery import store
from reid.tracklets import Split
from tests.commands.conftest import CONFIG, call

PEOPLE = ["alice", "bob", "carol", "dave", "erin", "frank", "grace", "heidi", "ivan", "judy", "mallory"]
SHORT = ["train.iterations=4", "train.checkpoint_freq=4"]


def columns_of(splits: list[Split], folder: Path) -> dict[str, list]:
    """A row per frame, below `folder`; persons and cameras by name, junk and distractors by number."""
    columns: dict[str, list] = {name: [] for name in ("path", "tracklet", "pid", "camid")}
    pids = np.unique(np.concatenate([split.pid[split.pid > 0] for split in splits])).tolist()
    for split in splits:
        for tracklet in split:
            for path in tracklet.paths:
                person = PEOPLE[pids.index(tracklet.pid)] if tracklet.pid > 0 else tracklet.pid
                cells = (os.path.relpath(path, folder), tracklet.key, person, f"gate {tracklet.camid}")
                for column, cell in zip(columns.values(), cells, strict=True):
                    column.append(cell)
    return columns


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory, data_root: Path) -> Path:
    """A folder with people/ (the pictures), tracks.csv beside it, and a config; tests write elsewhere."""
    folder = tmp_path_factory.mktemp("own")
    shutil.copytree(data_root / "demo", folder / "people")
    demo = load_mars(folder / "people", "demo")
    write_table(folder / "tracks.csv", columns_of([demo.train, demo.test], folder))
    (folder / "run.yaml").write_text(CONFIG.replace("{name: demo}", "{name: manifest, path: tracks.csv}"))
    return folder


@pytest.fixture(scope="module")
def run(own: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run on the table, started in the table's folder by relative names; tests must not change it."""
    out, before = tmp_path_factory.mktemp("run") / "run", Path.cwd()
    os.chdir(own)
    try:
        assert call("train", "run.yaml", "--output-dir", out, "train.eval_freq=6") == 0
    finally:
        os.chdir(before)
    return out


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty current folder; no dataset is named by the environment."""
    monkeypatch.delenv("REID_DATA", raising=False)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_table_trains_and_says_what_was_decided(own: Path, run: Path) -> None:
    log, report = (run / "log.txt").read_text(), (run / "report.html").read_text()
    assert "tracks: no column split: persons drawn by identity with data.split_seed=0" in log
    assert "tracks: no column role: " in log
    assert "held-out identities at step 6: mAP " in log
    assert (run / "checkpoints/best.pt").is_file()
    assert "on tracks</h1>" in report
    lines = (run / "split.csv").read_text().splitlines()
    assert lines[0] == "pid,split"
    assert [line.split(",")[0] for line in lines[1:]] == PEOPLE
    parts = dict(line.split(",") for line in lines[1:])
    tested = [name for name, part in parts.items() if part == "test"]
    assert sum(f"{name}\n" in report for name in tested) >= 2  # who is shown is called by name
    assert not any(f"{name}\n" in report for name, part in parts.items() if part == "val")
    names = json.loads((run / "ids.json").read_text())
    assert names["pid"] == {str(number): name for number, name in enumerate(PEOPLE, start=1)}
    state = checkpoint.load(run / "checkpoints/last.pt")
    assert state["names"]["pid"] == names["pid"]
    assert [names["pid"][str(pid)] for pid in state["pids"]] == [n for n, part in parts.items() if part == "train"]


def test_it_is_tested_from_any_folder_on_the_same_people(run: Path, here: Path) -> None:
    assert call("test", run, "--json", "again.json") == 0
    assert Path("again.json").read_text() == (run / "eval.json").read_text()
    assert call("test", run, "seed=7", "data.test_share=0.5", "--json", "seed.json") == 0  # drawn once, for good
    assert Path("seed.json").read_text() == (run / "eval.json").read_text()


def test_tables_by_camera_call_cameras_by_name(run: Path, here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert call("test", run, "--protocol", "market1501", "--full") == 0
    out = capsys.readouterr().out
    assert "gate 1" in out and "gate 2" in out


def test_names_go_all_the_way_to_the_hit(own: Path, run: Path, here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert call("extract", run, own / "tracks.csv", "--out", "g") == 0
    meta = Path("g/meta.csv").read_bytes()
    assert b"\r" not in meta
    header, first, *_ = meta.decode().splitlines()
    assert header == "row,key,pid,camid,num_frames,path,pid_name,camid_name"
    assert first.split(",")[2:4] == ["1", "1"] and first.endswith(",alice,gate 1")
    assert Path(first.split(",")[5]).is_file()
    key = first.split(",")[1]
    capsys.readouterr()
    flags = ["--top-k", "99", "--not-camera", "gate 1", "--json", "hits.json", "--html", "hits.html"]
    assert call("search", "g", key, *flags) == 0
    hits = json.loads(Path("hits.json").read_text())[0]["hits"]
    by_key = {line.split(",")[1]: line.split(",") for line in meta.decode().splitlines()[1:]}
    assert all((hit.get("pid_name", ""), hit["camid_name"]) == tuple(by_key[hit["key"]][-2:]) for hit in hits)
    assert all(PEOPLE[hit["pid"] - 1] == hit["pid_name"] for hit in hits if hit["pid"] > 0)
    assert {hit["camid_name"] for hit in hits} & {"gate 1"} == set()
    out = capsys.readouterr().out
    assert "bob" in out and "gate 2" in out
    assert "alice\ngate " in Path("hits.html").read_text()


def test_galleries_of_two_tables_agree_on_who_is_who(own: Path, run: Path, here: Path) -> None:
    """Numbers are each table's own; names are not."""
    header, *lines = (own / "tracks.csv").read_text().splitlines()
    of = {name: [f"{own}/{line}" for line in lines if f",{name}," in line] for name in ("bob", "carol", "dave")}
    path, _, person, camera = of["carol"][0].split(",")
    first, second = of["carol"], [*of["bob"], *of["dave"], f"{path},again,{person},{camera}"]
    for name, rows in (("first.csv", first), ("second.csv", second)):
        Path(name).write_text("\n".join([header, *rows]) + "\n")
    assert call("extract", run, "first.csv", "--out", "g") == 0
    assert call("extract", run, "second.csv", "--out", "g", "--add") == 0
    gallery = store.open_gallery(Path("g"))
    assert dict(gallery.names.pid) == {1: "carol", 2: "bob", 3: "dave"}
    person = {key: gallery.names.pid[pid] for key, pid in zip(gallery.features.key, gallery.features.pid, strict=True)}
    expected = {line.split(",")[1]: line.split(",")[2] for line in first + second}
    assert person == expected
    assert person["again"] == "carol"


def test_another_table_is_tested_whole_and_the_run_s_own_people_are_told(
    own: Path, run: Path, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = [
        line for line in (own / "tracks.csv").read_text().splitlines() if not line.startswith("people/bbox_test/0")
    ]
    Path("other.csv").write_text("\n".join([lines[0], *(f"{own}/{line}" for line in lines[1:])]) + "\n")
    assert call("test", run, "data.path=other.csv", "--protocol", "market1501") == 0
    shown = capsys.readouterr().err
    assert "other: no column split: all 6 persons are tested" in shown
    assert "persons have the same id as persons that the run was trained on, such as " in shown


def test_a_moved_table_is_named(own: Path, run: Path, here: Path, fails) -> None:
    shutil.copytree(run, "moved")
    text = Path("moved/config.yaml").read_text()
    assert f"path: {own / 'tracks.csv'}" in text
    Path("moved/config.yaml").write_text(text.replace(str(own / "tracks.csv"), "/gone/tracks.csv"))
    assert "/gone/tracks.csv: no such table; set data.path=FILE" in fails("test", "moved")
    assert call("test", "moved", f"data.path={own / 'tracks.csv'}", "--json", "a.json") == 0
    assert (
        Path("a.json").read_text() == (run / "eval.json").read_text()
    )  # the people drawn then, who were not trained on


def test_a_data_root_given_from_here_is_found_from_there(here: Path, data_root: Path) -> None:
    (here / "a").mkdir()
    (here / "b").mkdir()
    os.symlink(data_root, here / "data_here")
    os.chdir(here / "a")
    (here / "a/run.yaml").write_text(CONFIG)
    assert call("train", "run.yaml", "--data-root", "../data_here", *SHORT) == 0
    os.chdir(here / "b")
    assert call("test", "../a/runs/run", "--json", "b.json") == 0
    assert Path("b.json").read_text() == (here / "a/runs/run/eval.json").read_text()


def test_the_same_run_when_it_was_stopped_and_the_table_has_grown(own: Path, here: Path, fails) -> None:
    """Who is tested stays decided; who would be another class is refused."""
    shutil.copy(own / "tracks.csv", "tracks.csv")
    os.symlink(own / "people", "people")
    shutil.copy(own / "run.yaml", "run.yaml")
    assert call("train", "run.yaml", *SHORT) == 0
    before = Path("runs/run/split.csv").read_text()
    lines = Path("tracks.csv").read_text().splitlines()
    Path("tracks.csv").write_text(
        "\n".join([*lines, lines[1].replace(",alice,", ",zoe,").replace("T0001,", "T9999,")]) + "\n"
    )
    assert call("train", "run.yaml", *SHORT, "--resume", "auto") == 0
    assert Path("runs/run/split.csv").read_text() == before.rstrip("\n") + "\nzoe,test\n"
    Path("tracks.csv").write_text("\n".join(lines).replace(",alice,", ",adam,").replace(",carol,", ",aaron,") + "\n")
    message = fails("train", "run.yaml", *SHORT, "--resume", "auto")
    assert "identities" in message or "persons have changed" in message


def with_columns(own: Path, change) -> None:
    """tracks.csv here: the rows of the whole table, each through `change`, which gets and gives a mapping or None."""
    lines = [line.split(",") for line in (own / "tracks.csv").read_text().splitlines()]
    rows = [change(dict(zip(lines[0], line, strict=True))) for line in lines[1:]]
    kept = [row for row in rows if row is not None]
    write_table(Path("tracks.csv"), {name: [row[name] for row in kept] for name in kept[0]})
    os.symlink(own / "people", "people")
    shutil.copy(own / "run.yaml", "run.yaml")


def test_no_test_set_is_needed(own: Path, here: Path, fails, capsys: pytest.CaptureFixture[str]) -> None:
    with_columns(own, lambda row: {**row, "split": "train"} if row["pid"] in PEOPLE else None)
    assert call("train", "run.yaml", *SHORT) == 0
    shown = capsys.readouterr()
    assert "tracks: no test set, so there is no mAP and no CMC" in shown.out
    assert json.loads(Path("runs/run/eval.json").read_text()) == []
    assert "nothing: the dataset has no queries" in Path("runs/run/report.html").read_text()
    assert "no test set" in fails("test", "runs/run")
    assert call("extract", "runs/run", "tracks.csv", "--out", "g") == 0
    assert (
        call("test", "runs/run", f"data.path={own / 'tracks.csv'}", "--json", "all.json") == 0
    )  # another table: all are tested
    [first, *_] = json.loads(Path("all.json").read_text())
    assert first["num_queries"] > 20


def test_no_test_set_is_needed_in_the_layout_of_mars_either(
    here: Path, data_root: Path, fails, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(data_root / "demo/info", "mars/info")
    os.symlink(data_root / "demo/bbox_train", "mars/bbox_train")
    Path("mars/info/test_name.txt").unlink()
    savemat("mars/info/tracks_test_info.mat", {"track_test_info": np.zeros((0, 4))})
    savemat("mars/info/query_IDX.mat", {"query_IDX": np.zeros((1, 0))})
    Path("run.yaml").write_text(CONFIG.replace("name: demo", "name: mars, root: ."))
    assert call("train", "run.yaml", "data.holdout=0.4", *SHORT) == 0
    assert "mars-subset: no test set, so there is no mAP and no CMC" in capsys.readouterr().out
    assert json.loads(Path("runs/run/eval.json").read_text()) == []
    assert Path("runs/run/checkpoints/best.pt").is_file()
    assert "mars-subset: no test set, so there is no mAP" in fails("test", "runs/run")
    message = fails("extract", "runs/run", "mars", "--out", "g")
    assert "mars: no test set, and only the test set of a MARS layout is extracted" in message
    assert not Path("g").exists()
    assert call("import", "mars", "--out", "tracks.csv") == 0  # what the message says
    assert call("extract", "runs/run", "tracks.csv", "--out", "g") == 0
    assert len(store.open_gallery(Path("g")).features.pid) == len(load_mars(Path("mars")).train)
    assert call("doctor", "mars", "--quick") == 3  # a subset


def test_a_split_and_roles_of_ones_own(own: Path, here: Path) -> None:
    part = {name: "train" for name in PEOPLE[:5]} | {name: "val" for name in PEOPLE[5:7]}
    tracklets: dict[str, set] = {}

    def change(row: dict) -> dict:
        split = part.get(row["pid"], "test")
        place = tracklets.setdefault(row["pid"], {})
        role = place.setdefault(row["camid"] + row["tracklet"], "query" if not place else "gallery")
        return {**row, "split": split, "role": role if split == "test" and row["pid"] in PEOPLE else ""}

    tracklets = {}
    with_columns(own, change)
    assert call("train", "run.yaml", *SHORT) == 0
    results = json.loads(Path("runs/run/eval.json").read_text())
    queries = {row["num_queries"] + row["num_without_match"] for row in results}
    assert queries == {4}
    assert not Path("runs/run/split.csv").exists()
    assert Path("runs/run/checkpoints/best.pt").is_file()
    assert call("extract", "runs/run", "tracks.csv", "--out", "g") == 0
    assert call("test", "--features", "g", "--json", "g.json") == 0
    ours, whole = (
        [(r["mAP"], r["num_queries"]) for r in found] for found in (json.loads(Path("g.json").read_text()), results)
    )
    assert [n for _, n in ours] == [n for _, n in whole]
    np.testing.assert_allclose([m for m, _ in ours], [m for m, _ in whole], atol=1e-6)


def test_one_camera(own: Path, here: Path, fails, capsys: pytest.CaptureFixture[str]) -> None:
    """A hold-out that nothing can be said of is refused before the first step; with any_camera it chooses."""
    with_columns(own, lambda row: {**row, "camid": "7", "split": "train"} if row["pid"] in PEOPLE else None)
    for flags in ([], ["--dry-run"]):
        message = fails("train", "run.yaml", "data.holdout=0.4", *SHORT, *flags)
        assert (
            "held-out identities: 4 cannot be evaluated: each is seen by one camera only; test.any_camera=true"
            in message
        )
    assert not Path("runs").exists()
    assert call("train", "run.yaml", "data.holdout=0.4", "test.any_camera=true", *SHORT) == 0
    assert "held-out identities at step 4: mAP" in Path("runs/run/log.txt").read_text()
    assert "(market1501+any-camera)" in Path("runs/run/log.txt").read_text()
    assert Path("runs/run/checkpoints/best.pt").is_file()


def test_settings_that_contradict_the_table(own: Path, here: Path, fails) -> None:
    shutil.copy(own / "run.yaml", "run.yaml")
    assert "tracks.csv: no such table" in fails("train", "run.yaml")
    assert "data.path: only allowed for the dataset manifest" in fails("train", "run.yaml", "data.path=null")
    assert "data.path: only allowed for the dataset manifest" in fails("train", "run.yaml", "data.name=mars")
    Path("tracks.csv").write_text('[{"path": "a"}' + ', {"path": "b"}' * 30_000 + "]")
    for message in (fails("train", "run.yaml"), fails("train", "run.yaml", "--dry-run")):
        assert "this is JSON" in message
        assert len(message) < 520


def test_a_table_that_is_json_is_one_short_line(run: Path, here: Path, fails) -> None:
    Path("tracks.json").write_text('[{"path": "a"}' + ', {"path": "b"}' * 30_000 + "]")
    for flags in ([], ["--kind", "manifest"]):
        message = fails("extract", run, "tracks.json", "--out", "g", *flags)
        assert "robust-reid import tracks.json --as jsonl" in message
        assert len(message) < 520
    assert not Path("g").exists()


def test_the_root_of_a_dataset_is_no_gallery(run: Path, here: Path, fails) -> None:
    for folder, name in (("bounding_box_test", "0002_c1s1_000451_03.jpg"), ("query", "-1_c2s1_000001_00.jpg")):
        Path("Market", folder).mkdir(parents=True)
        for picture in (name, "0007_c3s1_000001_01.jpg"):
            Image.new("RGB", (8, 16)).save(Path("Market", folder, picture))
    message = fails("extract", run, "Market", "--out", "g")
    assert "2 persons, 2 cameras" in message
    assert "robust-reid import Market --as market1501 --out tracks.csv" in message
    assert not Path("g").exists()


def test_a_full_frame_is_no_query(own: Path, run: Path, here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert call("extract", run, own / "tracks.csv", "--out", "g") == 0
    for size, warned in (((64, 36), True), ((20, 40), False), ((40, 40), False)):
        Image.new("RGB", size, "#406080").save("frame.png")
        capsys.readouterr()
        assert call("search", "g", "frame.png") == 0
        assert ("crop the person first" in capsys.readouterr().err.lower()) == warned
