"""Build the docs site from the pages of the repository: `make docs`. Every warning and every broken link is an error.

Pages link to files beside docs/ (results, configs, the README). So they are first copied to build/pages, in the repository's own
tree, where every link holds. The help of every command is added to the page of the command line there.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from importlib import import_module
from pathlib import Path
from urllib.parse import unquote, urlsplit

ROOT = Path(__file__).parents[1]
PAGES, SITE = ROOT / "build/pages", ROOT / "build/site"
FILES = [
    "README.md",
    "CHANGELOG.md",
    "CONTRIBUTING.md",
    "SECURITY.md",
    "LICENSE",
    "data/README.md",
    "benchmarks/README.md",
]
FOLDERS = ["docs", "configs", "benchmarks/results"]
HERE_COMES_HELP = "<!-- docs/build.py puts the help of every command here -->"


def main() -> int:
    copy_pages()
    build = [sys.executable, "-m", "zensical", "build", "--strict", "--clean", "--config-file", ROOT / "zensical.toml"]
    done = subprocess.run(build, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    print(done.stdout, end="")
    if done.returncode or "griffe:" in done.stdout:  # what the reader of docstrings warns of does not count as strict's
        return 1
    if broken := broken_links(SITE):
        print(*(f"error: {line}" for line in broken), sep="\n", file=sys.stderr)
        return 1
    print(f"{SITE / 'index.html'}: {len(list(SITE.rglob('*.html')))} pages")
    return 0


def copy_pages() -> None:
    """The repository's pages and what they link to, below build/pages."""
    shutil.rmtree(PAGES, ignore_errors=True)
    for folder in FOLDERS:
        shutil.copytree(ROOT / folder, PAGES / folder, ignore=shutil.ignore_patterns("*.py", "__pycache__"))
    for name in FILES:
        (PAGES / name).parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / name, PAGES / name)
    for folder in [path for path in PAGES.rglob("*/") if path.is_dir() and path != PAGES / "docs"]:
        if not (folder / "README.md").exists():
            (folder / "index.md").write_text(listing(folder))
    page = PAGES / "docs/cli.md"
    before, marker, after = page.read_text().partition(HERE_COMES_HELP)
    assert marker, f"{page}: has no line {HERE_COMES_HELP}"
    page.write_text(before + help_of_all_verbs() + after)


def listing(folder: Path) -> str:
    """A page that links every file and folder of a folder."""
    names = sorted(path.name + "/" * path.is_dir() for path in folder.iterdir())
    return f"# {folder.relative_to(PAGES)}\n\n" + "\n".join(f"- [{name}]({name})" for name in names) + "\n"


def help_of_all_verbs() -> str:
    """What `robust-reid VERB --help` prints on 80 columns, a section for each verb."""
    os.environ["COLUMNS"] = "80"
    sys.path.insert(0, str(ROOT))
    verbs = import_module("reid.__main__").VERBS
    sections = []
    for verb in verbs:
        sys.argv = [f"robust-reid {verb}"]  # what a parser calls itself
        parser = import_module(f"reid.verbs.{verb}").parser()
        sections.append(f"## {verb}\n\n```text\n{parser.format_help()}```\n")
    return "\n".join(sections)


class _Links(HTMLParser):
    """The targets of a page's links and pictures, and the names that links can point at."""

    def __init__(self, page: Path) -> None:
        super().__init__()
        self.targets: set[str] = set()
        self.names: set[str] = set()
        self.feed(page.read_text())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        self.names |= {name for key in ("id", "name") if (name := values.get(key))}
        if tag in ("a", "img") and (target := values.get("href") or values.get("src")):
            self.targets.add(target)


def broken_links(site: Path) -> list[str]:
    """One line for each link of the site to a page, file, folder or heading of it that is not there."""
    pages = {page: _Links(page) for page in sorted(site.rglob("*.html")) if page.name != "404.html"}
    broken = []
    for page, links in pages.items():
        for target in sorted(links.targets):
            parts = urlsplit(target)
            if parts.scheme or parts.netloc:
                continue
            place = (page.parent / unquote(parts.path)).resolve() if parts.path else page
            place = place / "index.html" if place.is_dir() else place
            anchor = unquote(parts.fragment)
            if not place.exists() or (anchor and place in pages and anchor not in pages[place].names):
                broken.append(f"{page.relative_to(site)}: {target}: not there")
    return broken


if __name__ == "__main__":
    sys.exit(main())
