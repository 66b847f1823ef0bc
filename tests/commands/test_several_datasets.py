"""Several datasets at once: the demo, the same people as Market-1501, and a table, trained on together and each tested by itself."""

import json
import os
import shutil
from pathlib import Path

import pytest

import reid
from reid import config, experiment
from reid.datasets.mars import load_mars
from reid.datasets.table import write_table
from tests.commands.conftest import CONFIG, call
from tests.commands.test_import import market
from tests.commands.test_own_data import PEOPLE, columns_of

SHORT = ["train.iterations=4", "train.checkpoint_freq=4"]
THREE = "[demo, market1501, {name: manifest, path: tracks.csv}]"
TESTED = ["demo", "market1501-subset", "tracks"]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory, data_root: Path) -> Path:
    """A data root of two datasets, a table beside them, and a config; tests write elsewhere."""
    folder = tmp_path_factory.mktemp("several")
    os.symlink(data_root / "demo", folder / "demo")
    market(folder / "market1501", data_root)
    demo = load_mars(folder / "demo", "demo")
    write_table(folder / "tracks.csv", columns_of([demo.train, demo.test], folder))
    (folder / "run.yaml").write_text(CONFIG.replace("{name: demo}", f"{{name: {THREE}, root: .}}"))
    return folder


@pytest.fixture(scope="module")
def run(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run on the three; tests must not change it."""
    out, before = tmp_path_factory.mktemp("run") / "run", Path.cwd()
    os.chdir(root)
    try:
        assert call("train", "run.yaml", "--output-dir", out, *SHORT) == 0
    finally:
        os.chdir(before)
    return out


@pytest.fixture
def there(root: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """The folder of the data is the current one; returns an empty one to write to."""
    monkeypatch.delenv("REID_DATA", raising=False)
    monkeypatch.chdir(root)
    return tmp_path


def persons_of(run: Path) -> set[str]:
    """Everybody whom a run knows, by name."""
    return set(json.loads((run / "ids.json").read_text())["pid"].values())


def test_all_are_trained_on_and_nobody_is_two_datasets_person(run: Path, data_root: Path) -> None:
    demo = load_mars(data_root / "demo", "demo")
    numbers = {int(pid) for split in (demo.train, demo.test) for pid in split.pid if pid > 0}
    expected = {f"{name}:{pid}" for name in ("demo", "market1501") for pid in numbers}
    assert persons_of(run) == expected | {f"tracks:{person}" for person in PEOPLE}
    log = (run / "log.txt").read_text()
    assert "dataset demo+market1501-subset+tracks:" in log
    assert "tracks: no column split: persons drawn" in log
    assert {line.split(",")[0] for line in (run / "split.csv").read_text().splitlines()[1:]} == {
        f"tracks:{person}" for person in PEOPLE
    }
    assert (run / "checkpoints/best.pt").is_file()  # by the persons that the table sets apart


def test_each_is_tested_by_itself(run: Path, there: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Figures, features and keys are those of the one dataset, as a test of it alone gives them."""
    results = json.loads((run / "eval.json").read_text())
    assert [(row["dataset"], row["protocol"]) for row in results[::4]] == [(name, "mars-official") for name in TESTED]
    report = (run / "report.html").read_text()
    for place, (name, settings) in enumerate(
        zip(
            TESTED,
            (["data.name=demo"], ["data.name=market1501"], ["data={name: manifest, path: tracks.csv}"]),
            strict=True,
        )
    ):
        assert call("test", run, *settings, "--json", there / "one.json") == 0
        alone = json.loads((there / "one.json").read_text())
        own = [
            {key: value for key, value in row.items() if key != "dataset"} for row in results if row["dataset"] == name
        ]
        assert own == alone
        assert f"{name}, mars-official" in report
        assert call("test", "--features", run / f"features.{name}.npz", "--json", there / "features.json") == 0
        assert json.loads((there / "features.json").read_text()) == alone
        assert place == 0 or f"on {name} " in report
    capsys.readouterr()
    assert call("test", run, "--json", there / "all.json", "--markdown") == 0
    assert json.loads((there / "all.json").read_text()) == results
    shown = capsys.readouterr().out
    assert all(f"== {name} ==" in shown and f"| this run, {name} | mars-official |" in shown for name in TESTED)


def test_the_card_of_what_is_given_on_names_them(run: Path, there: Path) -> None:
    reid.load(run).save_pretrained(there / "out")
    card = (there / "out/README.md").read_text()
    assert "| data | demo + market1501 + tracks.csv |" in card
    assert "| market1501-subset, mars-official | " in card


def test_two_runs_are_compared_dataset_by_dataset(run: Path, there: Path, fails, capsys) -> None:
    assert call("compare", run, run, "--protocol", "market1501", "--json", there / "same.json") == 0
    assert [row["dataset"] for row in json.loads((there / "same.json").read_text())] == TESTED
    message = fails("compare", run, run / "features.demo.npz")
    assert "tested on different datasets; pass the feature files to compare, such as" in message
    assert "features.demo.npz" in message
    assert call("compare", run / "features.demo.npz", run / "features.demo.npz", "--protocol", "market1501") == 0


def test_noise_corrections_and_weights_reach_all(run: Path, there: Path, data_root: Path) -> None:
    keys = [f"demo:{load_mars(data_root / 'demo', 'demo').train.key(0)}", "market1501:bounding_box_train/"]
    settings = [f"--output-dir={there / 'run'}", *SHORT, "data.name=[demo, market1501]", "data.holdout=0.4"]
    whole = experiment.load_data(config.load("run.yaml", ["data.name=[demo, market1501]"])).train.split
    keys[1] = next(key for key in whole.keys.tolist() if key.startswith(keys[1]))
    corrections, weights = there / "corrections.csv", there / "weights.csv"
    corrections.write_text(f"action,key,pid\ndrop,{keys[0]},\nrelabel,{keys[1]},demo:1\n")
    rest = [key for key in whole.keys.tolist() if key != keys[0]]
    weights.write_text("key,weight\n" + "".join(f"{key},{0.5 if key == keys[1] else 1}\n" for key in rest))
    noise = [
        "data.noise={name: symmetric, rate: 0.5, seed: 3}",
        f"data.weights={weights}",
        f"data.corrections={corrections}",
    ]
    assert call("train", "run.yaml", *settings, *noise) == 0
    rows = (there / "run/noise.csv").read_text().splitlines()[1:]
    assert {row.partition(":")[0] for row in rows} == {"demo", "market1501"}
    log = (there / "run/log.txt").read_text()
    assert f"corrections {corrections}: 1 relabelled, 1 dropped" in log
    assert "weights of training tracklets: 0.5" in log
    assert "held-out identities at step 4" in log


def test_a_run_goes_on_and_keeps_to_whom_it_has_drawn(run: Path, there: Path, fails) -> None:
    shutil.copytree(run, there / "copy")
    where = ["--output-dir", there / "copy", "--resume", "auto"]
    assert call("train", "run.yaml", *where, *SHORT, "train.iterations=6") == 0
    assert (there / "copy/split.csv").read_text() == (run / "split.csv").read_text()
    assert "cannot resume" in fails("train", "run.yaml", *where, *SHORT, "data.name=[market1501, demo]")


def test_a_moved_place_is_found_by_its_number(run: Path, there: Path, fails, monkeypatch) -> None:
    shutil.copy("tracks.csv", there / "moved.csv")
    settings = config.load(run / "config.yaml").data.sets
    assert all(Path(one.path or one.root or "").is_absolute() for one in settings.values())
    monkeypatch.chdir(there)
    assert call("test", run, "--protocol", "market1501") == 0  # from anywhere
    message = fails("test", run, "data.name.2.path=gone.csv")
    assert "gone.csv: no such table; set data.name.2.path=FILE" in message


def test_contradictions(there: Path, fails) -> None:
    def refused(*settings: str) -> str:
        return fails("train", "run.yaml", "--dry-run", *settings)

    assert "data.name.1.name: unknown dataset 'markt1501'" in refused("data.name=[demo, markt1501]")
    assert "two datasets have the name demo" in refused("data.name=[demo, demo]")
    assert "data.path: ambiguous with several datasets (demo, market1501)" in refused(
        "data.name=[demo, market1501]", "data.path=tracks.csv"
    )
    assert "data.split: ambiguous with several datasets" in refused("data.name=[demo, prid2011]", "data.split=1")
    assert "data.name.1.split: only ilids-vid and prid2011" in refused("data.name=[demo, {name: mars, split: 1}]")
    assert "data.name.0.pth: unknown key" in refused("data.name=[{name: demo, pth: x}, market1501]")
    assert "at least 2 items" in refused("data.name=[demo]")
    assert "data.labels: truth needs a dataset with true labels (demo)" in refused(
        "data.name=[demo, market1501]", "data.labels=truth"
    )
    assert "data.holdout: a table without a column split holds out its own persons" in refused("data.holdout=0.4")


def test_one_recording_in_two_datasets_is_warned_of(there: Path, data_root: Path, capsys) -> None:
    os.symlink(data_root / "demo", there / "mars")
    os.symlink(Path("market1501").resolve(), there / "market1501")
    settings = ["--output-dir", there / "run", *SHORT, f"data.root={there}"]
    assert call("train", "run.yaml", *settings, "data.name=[mars, market1501]", "--dry-run") == 0
    assert "are in the training sets of both mars and market1501, the same recording" in capsys.readouterr().err
    (there / "run").mkdir()
    for name in ("config.yaml", "eval.json", "features.mars-subset.npz", "features.tracks.npz"):
        (there / "run" / name).write_text("of a run before")
    assert call("train", "run.yaml", *settings, "data.name=market1501", "--overwrite") == 0
    assert [file.name for file in (there / "run").glob("features*")] == ["features.npz"]
    assert "same recording" not in capsys.readouterr().err
    assert call("test", there / "run", "data.name=mars", "--protocol", "market1501") == 0
    assert "mars: the run was trained on market1501, which is the same recording" in capsys.readouterr().err
