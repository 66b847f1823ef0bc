"""The kinds of sources, and the detection of a source's kind. A new kind is one file and one entry of `KINDS`."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import NamedTuple, Protocol, cast

from reid.datasets.sources.base import Options, Rows
from reid.datasets.sources.market1501 import DUKE_WITHDRAWN, is_duke
from reid.errors import ConfigError, DataError, nearest

# By name, in the order in which `auto` tries them: the most specific first. The module is the name with _ for -.
KINDS = {
    "mars": "MARS, or any dataset in its layout",
    "market1501": "Market-1501",
    "msmt17": "MSMT17, V1 and V2",
    "cuhk03": "CUHK03, new protocol",
    "ilids-vid": "iLIDS-VID, ten splits",
    "prid2011": "PRID2011, ten splits",
    "ls-vid": "LS-VID",
    "veri776": "VeRi-776, vehicles",
    "mot": "MOT Challenge: img1/ and gt/gt.txt, or a tracker's output",
    "coco": "COCO JSON with track ids",
    "jsonl": "JSON lines, one frame each",
    "video": "a video and a table of boxes",
    "table": "an existing table",
    "folders": "folders of frames: person/tracklet, person, or tracklet",
    "flat": "one folder of crops whose names follow a pattern",
}


class Kind(Protocol):
    """Interface of a kind's module."""

    SHAPE: str

    def recognise(self, source: Path) -> str | None:
        """Return why the source is of this kind, in words, or None."""

    def read(self, source: Path, options: Options) -> Rows:
        """Read the source as rows; raises DataError or ConfigError."""


class Found(NamedTuple):
    """A detected kind, and the reason."""

    name: str
    why: str


def kind(name: str) -> Kind:
    """Find a kind by name.

    Raises:
        ConfigError: there is no such kind, or the dataset was withdrawn.
    """
    if is_duke(name):
        raise ConfigError(f"{name}: {DUKE_WITHDRAWN}")
    if name not in KINDS:
        raise ConfigError(f"{name}: no such kind of source; {nearest(name, ['auto', *KINDS])}")
    return cast(Kind, import_module(f"reid.datasets.sources.{name.replace('-', '_')}"))


def recognise(source: Path) -> Found:
    """Detect the kind of a source.

    Raises:
        DataError: the source does not exist, is of no kind, or contains a dataset that should be named instead.
    """
    if not source.exists():
        raise DataError(f"{source}: no such folder or file")
    for name in KINDS:
        if name == "folders" and (deeper := _dataset_inside(source)):
            raise DataError(
                f"{source}: expected one dataset or one set of folders; it contains a dataset: use {deeper} instead"
            )
        if why := kind(name).recognise(source):
            return Found(name, why)
    raise DataError(
        f"{source}: expected one of {', '.join(KINDS)}, but the layout matches none of them; set the kind with --as "
        "(docs/import.md shows each layout)"
    )


def _dataset_inside(source: Path) -> Path | None:
    """Find a public dataset in a folder directly below; an unpacked archive is often one level too deep."""
    datasets = list(KINDS)[: list(KINDS).index("mot")]
    return next((inner for inner in _inside(source) for name in datasets if kind(name).recognise(inner)), None)


def _inside(source: Path) -> list[Path]:
    return sorted(inner for inner in source.iterdir() if inner.is_dir())[:50] if source.is_dir() else []
