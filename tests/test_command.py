"""The command `robust-reid` from outside: verbs, help, packaged configs, a wheel that works alone."""

import argparse
import importlib
import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

from reid import config
from reid.__main__ import VERBS
from reid.errors import ConfigError
from reid.verbs.env import conflicts

ROOT = Path(__file__).parents[1]


def robust_reid(*argv: str, cwd: Path = ROOT, path: str = str(ROOT)) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"PYTHONPATH": path, "COLUMNS": "80"}
    return subprocess.run(
        [sys.executable, "-m", "reid", *argv], cwd=cwd, env=environment, capture_output=True, text=True
    )


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_has_help_that_shows_how_to_call_it(verb):
    done = robust_reid(verb, "--help")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith(f"usage: robust-reid {verb}")
    assert f"  robust-reid {verb}" in done.stdout.split("examples:")[1]


def test_help_waits_for_no_library():
    """What takes long to import comes after parsing, so that help and mistakes in flags are there at once."""
    script = f"""
import importlib, sys
import reid.__main__
for verb in {list(VERBS)}:
    importlib.import_module(f"reid.verbs.{{verb}}").parser().format_help()
print(*({{"numpy", "torch", "pydantic", "yaml", "pyarrow", "PIL", "scipy", "tqdm"}} & sys.modules.keys()))
"""
    # With -S, as the start files of installed packages may import some of them; the packages themselves are in reach.
    command = [sys.executable, "-S", "-c", script]
    path = os.pathsep.join([str(ROOT), *sys.path])
    done = subprocess.run(command, cwd=ROOT, env={"PYTHONPATH": path}, capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "\n", "")


@pytest.mark.parametrize("command", [*([verb] for verb in VERBS), ["gallery", "remove"], ["gallery", "index"], []])
def test_help_fits_80_columns(command):
    lines = robust_reid(*command, "--help").stdout.splitlines()
    assert lines
    assert [line for line in lines if len(line) > 80] == []


@pytest.mark.parametrize("verb", VERBS)
def test_every_example_of_the_help_parses(verb):
    module = importlib.import_module(f"reid.verbs.{verb}")
    examples = module.parser().epilog.split("exit codes:")[0].replace("\\\n", " ")
    commands = re.findall(rf"(?m)^  .*(?:robust-reid|-m reid) {verb}\b(.*)", examples)
    assert commands
    for text in commands:
        argv = shlex.split(text.partition(" > ")[0])
        parser = module.parser()
        assert parse(parser, argv), text


def parse(parser: argparse.ArgumentParser, argv: list[str]) -> argparse.Namespace:
    """As the verbs do; a parser with subparsers cannot mix flags and arguments."""
    return parser.parse_args(argv) if parser._subparsers else parser.parse_intermixed_args(argv)


def test_every_verb_is_in_the_list_and_every_module_is_a_verb():
    modules = {path.stem for path in (ROOT / "reid/verbs").glob("*.py")} - {"__init__"}
    assert modules == set(VERBS)
    listed = robust_reid("--help").stdout
    assert all(f"  {verb} " in listed for verb in VERBS)
    assert robust_reid().stdout == listed


def test_an_unknown_verb_is_one_line():
    done = robust_reid("trian")
    assert done.returncode == 2
    assert done.stderr.startswith("error: unknown command 'trian'; did you mean 'train'? expected one of: demo, ")
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize("words", [["train.lr", "0.1"], ["train.lr=0.1", "seed", "3"], ["seed", "3"]])
def test_demo_does_not_take_a_setting_for_a_folder(words, tmp_path):
    done = robust_reid("demo", "train.iterations", *words, cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error: demo: train.iterations is a setting, but the first word after demo is")
    assert done.stderr.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_demo_reports_a_wrong_setting_before_it_renders(tmp_path):
    done = robust_reid("demo", "train.iterations=10", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert "train.schedule.warmup: expected 0 <= warmup < 10 iterations, got 20" in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_the_version_of_a_checkout_that_was_never_installed(tmp_path):
    shutil.copytree(ROOT / "reid", tmp_path / "reid", ignore=shutil.ignore_patterns("__pycache__"))
    # Without site-packages (-S), where the record of an installation would be.
    command = [sys.executable, "-S", "-m", "reid", "--version"]
    done = subprocess.run(command, cwd=tmp_path, env={"PATH": os.environ["PATH"]}, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == f"robust-reid (not installed; the checkout in {tmp_path})\n"


@pytest.mark.parametrize(
    ("typed", "offered"),
    [
        (["gal"], {"gallery"}),
        (["train", "--over"], {"--overwrite"}),
        (["test", "--after", ""], {"rerank", "expand"}),
        (["gallery", "re"], {"remove"}),
        (["gallery", "remove", "gallery_"], {"gallery_of_mine"}),
    ],
)
def test_bash_completes_commands_flags_choices_and_files(typed, offered, tmp_path):
    (tmp_path / "gallery_of_mine").mkdir()
    (tmp_path / "completion").write_text(robust_reid("completion", "bash").stdout)
    words = " ".join(shlex.quote(word) for word in ["robust-reid", *typed])
    script = f"""
        source completion
        COMP_WORDS=({words}); COMP_CWORD={len(typed)}
        function=$(complete -p robust-reid | grep -oP '(?<=-F )\\S+')
        $function
        printf '%s\\n' "${{COMPREPLY[@]}}"
    """
    done = subprocess.run(["bash", "-c", script], cwd=tmp_path, capture_output=True, text=True)
    assert {word.rstrip() for word in done.stdout.splitlines()} == offered, done.stderr


def test_a_packaged_config_is_found_by_name_and_a_file_wins(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert config.load(config.find("mars_cce")).loss.name == "cce"
    Path("mars_cce").write_text("loss: {name: mae}\n")
    assert config.load(config.find("mars_cce")).loss.name == "mae"
    os.mkfifo("pipe")
    assert config.find("pipe") == Path("pipe")
    Path("demo").mkdir()  # a folder is no config, and hides none
    assert config.load(config.find("demo")).data.name == "demo"
    for missing in ("mars_imea", "configs/mars_imae", "mars_imae.yaml"):
        with pytest.raises(
            ConfigError, match=r"no such config; .*did you mean 'mars_imae'\? expected one of: .* mars_imae"
        ):
            config.find(missing)


def test_two_distributions_of_one_module_are_named():
    assert conflicts({"reid": {"robust-reid"}, "faiss": {"faiss-cpu"}}) == []
    (line,) = conflicts({"reid": {"robust-reid", "reid"}, "faiss": {"faiss-cpu"}})
    assert "reid and robust-reid both install the module `reid`" in line
    assert len(conflicts({"faiss": {"faiss-cpu", "faiss-gpu"}})) == 1


def test_env_names_versions():
    done = robust_reid("env")
    assert done.returncode == 0, done.stderr
    assert "torch" in done.stdout


def test_all_packages_are_listed_for_the_wheel():
    listed = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]
    found = {".".join(path.relative_to(ROOT).parts[:-1]) for path in (ROOT / "reid").rglob("__init__.py")}
    assert set(listed) == found | {"reid.configs"}


def test_a_wheel_works_alone(tmp_path):
    """Built from the tree, unpacked elsewhere, and used with nothing of the checkout in reach."""
    build = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "-w", tmp_path, "."]
    source = tmp_path / "source"
    for folder in ("reid", "configs"):
        shutil.copytree(ROOT / folder, source / folder, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    subprocess.run(build, cwd=source, check=True)
    (wheel,) = tmp_path.glob("robust_reid-*.whl")
    with zipfile.ZipFile(wheel) as file:
        file.extractall(tmp_path / "alone")
        assert (
            "robust-reid = reid.__main__:main"
            in file.read(next(n for n in file.namelist() if "entry_points" in n)).decode()
        )
    assert not (tmp_path / "alone/tests").exists()
    assert {p.name for p in (tmp_path / "alone/reid/configs").glob("*.yaml")} == {
        p.name for p in (ROOT / "configs").glob("*.yaml")
    }
    assert {p.name for p in (tmp_path / "alone/reid/report/templates").iterdir()} == {
        p.name for p in (ROOT / "reid/report/templates").iterdir()
    }
    place = str(tmp_path / "alone")
    report = "from reid.report.run_page import report_html; from reid.report.records import ReportInput as R; print(report_html(R('x')))"
    made = subprocess.run(
        [sys.executable, "-c", report],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": place},
        capture_output=True,
        text=True,
        check=True,
    )
    assert "<h1>x</h1>" in made.stdout and "color-scheme" in made.stdout
    where = subprocess.run(
        [sys.executable, "-c", "import reid; print(list(reid.__path__)[0])"],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": place},
        capture_output=True,
        text=True,
    )
    assert where.stdout.strip() == str(tmp_path / "alone/reid")
    done = robust_reid("train", "mars_imae", "--dry-run", "--data-root", "nowhere", cwd=tmp_path, path=place)
    assert done.returncode == 2
    assert "nowhere" in done.stderr
    assert "no such config" not in done.stderr
