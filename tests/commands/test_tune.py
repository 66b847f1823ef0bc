"""Choosing a setting's value on held-out training identities, where the test set is not there at all."""

import json
import re
import shlex
import shutil
from pathlib import Path

import pytest
import scipy.stats

from reid import config
from reid.commands.tune import Trial, _agreement
from reid.verbs import train as train_verb
from tests.commands.conftest import CONFIG, call
from tests.test_command import parse

SHORT = ["data.holdout=0.4", "train.iterations=2"]
OVER = ["--over", "loss.T=8,2e1"]
FOLDERS = ["loss.T=8", "loss.T=20.0"]


@pytest.fixture(scope="module")
def tuned(data_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two values tuned where no picture of the test set can be read; tests must not change it."""
    folder = tmp_path_factory.mktemp("tuned")
    (folder / "run.yaml").write_text(CONFIG)
    shutil.copytree(data_root / "demo", folder / "data/demo")
    for picture in (folder / "data/demo/bbox_test").rglob("*.jpg"):
        picture.write_bytes(b"")  # its name is in the dataset's lists; to read it would be an error
    places = ["--data-root", folder / "data", "--output-dir", folder / "out", "--json", folder / "tune.json"]
    assert call("tune", folder / "run.yaml", *SHORT, *OVER, *places) == 0
    return folder


def test_it_never_reads_the_test_set_and_chooses_by_what_the_runs_measured(tuned: Path) -> None:
    told = json.loads((tuned / "tune.json").read_text())
    assert told["schema"] == 1
    assert (
        [Path(trial["run"]).name for trial in told["trials"]]
        == FOLDERS
        == sorted((path.name for path in (tuned / "out").iterdir()), key=FOLDERS.index)
    )
    for trial, T in zip(told["trials"], (8.0, 20.0), strict=True):
        run = Path(trial["run"])
        assert config.load(run / "config.yaml").loss.options["T"] == T
        [logged] = re.findall(r"held-out identities at step 2: mAP ([\d.]+)%", (run / "log.txt").read_text())
        assert trial["held_out_mAP"] == pytest.approx(float(logged) / 100, abs=5e-4)
        assert (run / "checkpoints/best.pt").exists()
        assert not (run / "eval.json").exists()
    best = max(told["trials"], key=lambda trial: trial["held_out_mAP"])
    assert told["chosen"] == best["settings"]
    assert told["held_out"] == {"identities": 2, "queries": told["held_out"]["queries"]}
    assert told["agreement"] is None
    assert "test_mAP" not in best
    verb, *argv = shlex.split(told["command"])[1:]
    assert verb == "train"
    flags = parse(train_verb.parser(), argv)
    again = config.load(flags.config, flags.overrides)
    assert again.loss.options["T"] == float(told["chosen"]["loss.T"])


def test_it_goes_on_and_judges_its_choice(
    tuned: Path, workplace: Path, data_root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """One run is there, one is missing; the test set is back."""
    shutil.copytree(tuned / "out", "out")
    shutil.rmtree("out/loss.T=8")
    kept = Path("out/loss.T=20.0/checkpoints/last.pt")
    before = kept.stat().st_mtime_ns
    options = [
        "--output-dir",
        "out",
        "--resume",
        "auto",
        "--judge",
        "--json",
        "tune.json",
        "test.protocols=mars-hit-ap",
    ]
    assert call("tune", "run.yaml", *SHORT, *OVER, *options) == 0
    told, first = (json.loads(file.read_text()) for file in (Path("tune.json"), tuned / "tune.json"))
    assert kept.stat().st_mtime_ns == before
    assert [trial["held_out_mAP"] for trial in told["trials"]] == [trial["held_out_mAP"] for trial in first["trials"]]
    assert call("test", "out/loss.T=8", "--checkpoint", "best", "--json", "eval.json") == 0
    [result] = json.loads(Path("eval.json").read_text())
    assert result["protocol"] == "mars-hit-ap"
    assert told["trials"][0]["test_mAP"] == result["mAP"]
    assert told["agreement"]["runs"] == 2
    out = capsys.readouterr().out
    assert re.search(r"loss\.T +\| held-out mAP +\| test mAP", out)
    assert f"chosen: loss.T={told['chosen']['loss.T']}, on 2 held-out identities with" in out
    assert "train with it on all identities: robust-reid train run.yaml" in out


def test_agreement_is_that_of_ranks(workplace: Path) -> None:
    figures = [(0.1, 0.3), (0.2, 0.1), (0.4, 0.6), (0.5, 0.5), (None, 0.2)]
    trials = [Trial({}, config.load("run.yaml"), Path(), *pair) for pair in figures]
    agreement = _agreement(trials)
    assert agreement == {"runs": 4, "spearman": pytest.approx(0.6), "kendall": pytest.approx(1 / 3)}
    held, tested = zip(*figures[:4], strict=True)
    assert agreement["spearman"] == pytest.approx(
        scipy.stats.pearsonr(scipy.stats.rankdata(held), scipy.stats.rankdata(tested)).statistic
    )
    assert _agreement(trials[:1] * 3) == {"runs": 3, "spearman": None, "kendall": None}


@pytest.mark.parametrize(
    ("over", "words"),
    [
        (["loss.T"], "--over loss.T: expected a key and comma-separated values"),
        (["loss.T=4,,8"], "expected a key and comma-separated values"),
        (["loss.T=4"], "there is only one value"),
        (["loss.T=4,4"], "two values are the same"),
        (["loss.T=4,8", "loss.T=1,2"], "--over loss.T: appears twice"),
        (["loss.T=4,400"], "--over loss.T=400: run: loss.T: expected >= 0 and <= 300, got 400"),
        (["loss.Q=4"], "--over loss.Q=4: run: loss.Q: imae takes no 'Q'"),
        (["seed=0,1"], "--over seed: changes the data"),
        (["data.noise.rate=0.1,0.2"], "--over data.noise.rate: changes the data"),
    ],
)
def test_what_is_wrong_with_the_values_is_one_line(workplace: Path, fails, over: list[str], words: str) -> None:
    flags = [word for text in over for word in ("--over", text)]
    assert words in fails("tune", "run.yaml", *SHORT, *flags)
    assert sorted(path.name for path in workplace.iterdir()) == ["run.yaml"]


def test_identities_are_held_out_by_default_and_it_says_so(workplace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert call("tune", "run.yaml", *OVER) == 2  # a tenth of six persons is too few
    told = capsys.readouterr().err
    assert "data.holdout: 0.1 of the training identities are held out to choose by" in told
    assert "error: data.holdout: 0.1 of 6 identities is 1" in told


def test_existing_runs_are_not_touched_and_a_dry_run_writes_nothing(tuned: Path, workplace: Path, fails) -> None:
    assert call("tune", "run.yaml", *SHORT, *OVER, "--over", "train.lr=0.1,0.2", "--dry-run") == 0
    assert sorted(path.name for path in workplace.iterdir()) == ["run.yaml"]
    shutil.copytree(tuned / "out/loss.T=8", "out/loss.T=8")
    assert "this run exists already; --resume auto continues it" in fails(
        "tune", "run.yaml", *SHORT, *OVER, "--output-dir", "out"
    )
    assert [path.name for path in Path("out").iterdir()] == ["loss.T=8"]
