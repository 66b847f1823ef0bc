"""What the documents point at is there: links, commands, packaged configs."""

import re
from pathlib import Path

import pytest

from reid import config
from reid.__main__ import VERBS

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "data/README.md", *sorted((ROOT / "docs").glob("*.md"))]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_and_commands_exist(page):
    text = page.read_text()
    for target in re.findall(r"\]\(([^)#]+)[^)]*\)", text):
        assert target.startswith("http") or (page.parent / target).exists(), target
    for verb in re.findall(r"(?m)^robust-reid (\w+)", text):
        assert verb in VERBS
    for name in re.findall(r"robust-reid (?:train|cifar) (\w+)", text):
        assert config.find(name).is_file()
    for anchor in re.findall(r"\]\(([^):]*#[^)]+)\)", text):
        file, heading = anchor.split("#")
        titles = re.findall(r"(?m)^#+ (.+)$", (page.parent / file if file else page).read_text())
        assert heading in {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles}, anchor


def test_the_readme_stays_short():
    text = (ROOT / "README.md").read_text()
    assert len(text.splitlines()) <= 150
    assert len(text.split()) <= 900
