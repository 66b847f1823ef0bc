"""Parts shared by all kinds of sources: the rows of a table under construction, and listings of files and folders.

Shapes: R rows, one per frame.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np

from reid.datasets.images import images_in, is_rubbish
from reid.errors import DataError
from reid.tracklets import Benchmark, Split

_DIGITS = re.compile(r"(\d+)")

Cell = str | int | float | None


class Published(NamedTuple):
    """Counts of a complete copy of a public dataset. In an image dataset, tracklets are single images.

    Args:
        train_ids: persons (or vehicles) in the training set.
        train, query: tracklets.
        gallery: tracklets that are searched, junk and distractors included.
        source: of the counts.
    """

    train_ids: int
    train: int
    query: int
    gallery: int
    source: str


@dataclass(frozen=True)
class Options:
    """Options for what a source does not tell. Each kind uses those that concern it.

    Args:
        pattern: of file names below the source, such as ``{pid}_c{camid}_{tracklet}_{frame}.jpg`` (flat).
        layout: meaning of the folder levels (folders); None detects it.
        tracks: tracker output for the frames: a file, or a folder of one file per sequence (mot); table of boxes (video).
        images: folder that image names are relative to (coco, jsonl); None is the file's own.
        ids: whether equal ids of different sequences or sources name the same person; None: the kind's default, or unspecified.
        split: number of the published split, 0 to 9 (ilids-vid, prid2011).
        unpack: whether images in an archive may be unpacked below the source (cuhk03).
    """

    pattern: str | None = None
    layout: str | None = None
    tracks: Path | None = None
    images: Path | None = None
    ids: Literal["shared", "separate"] | None = None
    split: int = 0
    unpack: bool = False


@dataclass(eq=False)
class Rows:
    """Rows of a table, one per frame, as columns of equal length; None is an empty cell.

    Args:
        name: of the source, unique among the sources in one table.
        columns: by name; `path` and `tracklet` always exist.
        said: how the source was interpreted, in sentences for the user.
        is_dataset: whether it is a dataset with its own split, whose ids are valid only within it.
        published: counts of a complete copy, if known.
    """

    name: str
    columns: dict[str, list[Any]] = field(default_factory=lambda: {"path": [], "tracklet": []})
    said: list[str] = field(default_factory=list)
    is_dataset: bool = False
    published: Published | None = None

    def __len__(self) -> int:
        return len(self.columns["path"])

    def add(self, path: Path | str, tracklet: str, **cells: Cell) -> None:
        """Add a row; a new column is empty in the rows before."""
        before = len(self)
        self.columns["path"].append(os.fspath(path))
        self.columns["tracklet"].append(tracklet)
        for column, value in cells.items():
            self.columns.setdefault(column, [None] * before).append(value)
        for values in self.columns.values():
            if len(values) == before:
                values.append(None)

    def column(self, name: str) -> list[Any]:
        """The cells of a column, all None if it does not exist."""
        return self.columns.get(name) or [None] * len(self)

    def extend(self, other: Rows) -> None:
        """Append all rows of another source."""
        before = len(self)
        for column in other.columns:
            self.columns.setdefault(column, [None] * before)
        for column, values in self.columns.items():
            values.extend(other.column(column))


def is_person(pid: Cell) -> bool:
    """Whether a cell names a person: neither empty nor junk (−1) nor a distractor (0)."""
    return pid is not None and str(pid) not in ("", "0", "-1")


def in_order(names: Iterable[str]) -> list[str]:
    """Sort names with their numbers as numbers: ``2.jpg`` before ``10.jpg``."""
    return sorted(names, key=lambda name: [int(part) if part.isdecimal() else part for part in _DIGITS.split(name)])


def images_of(folder: Path) -> list[str]:
    """List the names of the images directly in a folder, sorted by `in_order`."""
    return in_order(images_in(folder))


def folders_of(folder: Path) -> list[str]:
    """List the names of the folders directly in a folder, sorted by `in_order`, without hidden and system folders."""
    with os.scandir(folder) as entries:
        return in_order(entry.name for entry in entries if not is_rubbish(entry.name) and entry.is_dir())


def has_folders(folder: Path, *names: str) -> bool:
    """Whether a folder contains all of these folders."""
    return all((folder / name).is_dir() for name in names)


def require_folder(folder: Path, layout: str) -> Path:
    """Return the folder if it exists.

    Raises:
        DataError: it does not; `layout` describes what was expected, for the message.
    """
    if folder.is_dir():
        return folder
    raise DataError(f"{folder}: expected this folder ({layout}), got {'a file' if folder.exists() else 'nothing'}")


def require_file(file: Path, layout: str) -> Path:
    """Return the file if it exists.

    Raises:
        DataError: it does not; `layout` describes what was expected, for the message.
    """
    if file.is_file():
        return file
    raise DataError(f"{file}: expected this file ({layout}), got {'a folder' if file.is_dir() else 'nothing'}")


def rows_of(benchmark: Benchmark, published: Published | None) -> Rows:
    """Convert a dataset to rows: splits `train` and `test`, roles `query`, `gallery`, `both`; None for a test tracklet in neither."""
    rows = Rows(benchmark.name.removesuffix("-subset"), is_dataset=True, published=published)
    role = np.full(len(benchmark.test), None, dtype=object)
    role[benchmark.gallery] = "gallery"
    role[benchmark.query] = "query"
    role[np.intersect1d(benchmark.query, benchmark.gallery)] = "both"
    _add_split(rows, benchmark.train, "train", np.full(len(benchmark.train), None, dtype=object))
    _add_split(rows, benchmark.test, "test", role)
    return rows


def _add_split(rows: Rows, split: Split, part: str, role_T: np.ndarray) -> None:
    owner = np.repeat(np.arange(len(split)), split.lengths)
    keys = np.array([split.key(i) for i in range(len(split))], dtype=object)
    root = os.path.join(split.root, "")
    names = [root + os.fsdecode(name) for name in split.names[split.frames()].tolist()]
    camid = np.array([None if camera < 0 else int(camera) for camera in split.camid], dtype=object)
    added = {"path": names, "tracklet": keys[owner].tolist(), "pid": split.pid[owner].tolist()}
    added |= {"camid": camid[owner].tolist(), "split": [part] * len(owner), "role": role_T[owner].tolist()}
    for column, values in added.items():
        rows.columns.setdefault(column, []).extend(values)
