"""What the documents point at is there: links, anchors, commands with their flags, packaged configs, make targets, scripts.

`tests/commands/test_documented_commands.py` runs the commands and the Python of the same pages.
"""

import importlib
import re
import shlex
from dataclasses import dataclass
from pathlib import Path

import pytest

from reid import config
from reid.__main__ import VERBS
from tests.test_command import parse

ROOT = Path(__file__).parents[1]
PAGES = [
    ROOT / name for name in ("README.md", "CONTRIBUTING.md", "SECURITY.md", "data/README.md", "benchmarks/README.md")
]
PAGES += sorted((ROOT / "docs").glob("*.md"))
MARK = re.compile(
    r"#.*\b(needs|takes) (MARS|Market-1501|CIFAR-10|a GPU|the network|Milvus|Ray|two machines|robust-reid demo|"
    r"a minute|minutes|\d+ minutes|an hour|\d+ hours)"
)
OTHER_PROGRAMS = {"pip", "python3", "mkdir"}  # installation; not checked here


@dataclass(frozen=True)
class Command:
    """One `robust-reid` line of a page; `marked` where its comment says what it needs or that it takes long."""

    verb: str
    argv: list[str]
    marked: bool
    text: str


def blocks(page: Path) -> list[tuple[str, str]]:
    """The fenced blocks of a page in its order: the language, "" for shell commands, and the text."""
    return re.findall(r"(?ms)^```([^\n]*)\n(.*?)^```$", page.read_text())


def lines_of(block: str) -> list[str]:
    return [line for line in block.replace("\\\n", " ").splitlines() if line.strip()]


def commands(block: str) -> list[Command]:
    found = []
    for line in lines_of(block):
        words = shlex.split(re.sub(r"(^|\s)#.*", "", line))  # inside a word # is no comment: people.db#mine
        words = words[: words.index(">")] if ">" in words else words
        start = words[:1] == ["torchrun"] and words.index("reid")
        if words[:1] == ["robust-reid"] or start:
            verb, *argv = words[(start or 0) + 1 :]
            found.append(Command(verb, argv, bool(MARK.search(line)), line))
    return found


def anchors(page: Path) -> set[str]:
    titles = re.findall(r"(?m)^#+ (.+)$", page.read_text())
    return {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles}


every_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))


@every_page
def test_links_are_there(page):
    text = page.read_text()
    for target in re.findall(r"\]\(([^)#]+)[^)]*\)", text):
        assert target.startswith("http") or (page.parent / target).exists(), target
    for anchor in re.findall(r"\]\(([^):]*#[^)]+)\)", text):
        file, heading = anchor.split("#")
        assert heading in anchors(page.parent / file if file else page), anchor


@every_page
def test_commands_have_the_flags_and_arguments_of_their_parsers(page):
    for command in [command for language, text in blocks(page) if not language for command in commands(text)]:
        assert command.verb in VERBS, command.text
        parse(importlib.import_module(f"reid.verbs.{command.verb}").parser(), command.argv)
        if command.verb in ("train", "cifar"):
            assert config.find(command.argv[0]).is_file()
        if command.text.startswith("torchrun"):
            assert command.marked, command.text


@every_page
def test_commands_in_the_text_exist(page):
    """Those between backticks may have placeholders: the verb and its flags are looked at."""
    text = page.read_text()
    for verb, rest in re.findall(r"`(?:python -m reid|robust-reid) ([a-z]+)\b([^`]*)`", text):
        assert verb in VERBS, verb
        known = importlib.import_module(f"reid.verbs.{verb}").parser()._option_string_actions
        assert set(re.findall(r"(?<!\S)--[a-z-]+", rest)) <= known.keys(), (verb, rest)
    for script in re.findall(r"python ((?:tools|benchmarks|docs)/[a-z_]+\.py)", text):
        assert (ROOT / script).is_file(), script
    for name in re.findall(r"configs/(\w+)\.yaml", text):
        assert config.find(name).is_file()


@every_page
def test_every_other_line_of_shell_is_known(page):
    """A make target that exists, or a line of the installation."""
    targets = re.findall(r"(?m)^([a-z]+):", (ROOT / "Makefile").read_text())
    for line in [line for language, text in blocks(page) if not language for line in lines_of(text)]:
        program, *words = shlex.split(line, comments=True) or ["robust-reid"]
        if program == "make":
            assert set(words) <= set(targets), line
        elif program not in {"robust-reid", "torchrun"}:
            assert program in OTHER_PROGRAMS, line


def test_every_page_is_in_the_navigation_of_the_site():
    listed = re.findall(r'"([\w./]+\.md)"', (ROOT / "zensical.toml").read_text())
    assert {page.relative_to(ROOT).as_posix() for page in PAGES} == set(listed) - {"CHANGELOG.md"}


def test_the_readme_stays_short():
    text = (ROOT / "README.md").read_text()
    assert len(text.splitlines()) <= 150
    assert len(text.split()) <= 900
