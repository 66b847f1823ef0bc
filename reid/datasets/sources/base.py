"""What every kind of source shares: rows on their way into a table, names of files, and the rule for rubbish.

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
    """What a whole copy of a public dataset holds. Tracklets are single images in an image dataset.

    Args:
        train_ids: persons (or vehicles) to learn from.
        train, query: tracklets.
        gallery: tracklets that are searched, junk and distractors included.
        source: where the figures stand.
    """

    train_ids: int
    train: int
    query: int
    gallery: int
    source: str


@dataclass(frozen=True)
class Options:
    """What a source leaves open. Each kind reads what concerns it.

    Args:
        pattern: of file names below the source, such as ``{pid}_c{camid}_{tracklet}_{frame}.jpg`` (flat).
        layout: what the levels of folders are (folders); None finds out.
        tracks: tracker output beside which the frames lie: a file, or a folder of one file per sequence (mot); table of boxes (video).
        images: folder that image names are relative to (coco, jsonl); None is the file's own.
        ids: whether equal ids of different sequences or sources name the same person; None: as the kind has it, or not said.
        split: number of the published split, 0 to 9 (ilids-vid, prid2011).
        unpack: whether images may be written below the source, where it has them in an archive (cuhk03).
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
    """Rows of a table, one per frame, as columns of equal length; a None is an empty cell.

    Args:
        name: of the source, which keeps sources apart in one table.
        columns: by name; `path` and `tracklet` are always there.
        said: what was found and taken, in sentences for the user.
        is_dataset: a dataset with a split of its own, whose ids mean nothing outside of it.
        published: how many of everything a whole copy has, where that is known.
    """

    name: str
    columns: dict[str, list[Any]] = field(default_factory=lambda: {"path": [], "tracklet": []})
    said: list[str] = field(default_factory=list)
    is_dataset: bool = False
    published: Published | None = None

    def __len__(self) -> int:
        return len(self.columns["path"])

    def add(self, path: Path | str, tracklet: str, **cells: Cell) -> None:
        """One more row; a column that is new is empty in the rows before."""
        before = len(self)
        self.columns["path"].append(os.fspath(path))
        self.columns["tracklet"].append(tracklet)
        for column, value in cells.items():
            self.columns.setdefault(column, [None] * before).append(value)
        for values in self.columns.values():
            if len(values) == before:
                values.append(None)

    def column(self, name: str) -> list[Any]:
        """The cells of a column, all None where it is not there."""
        return self.columns.get(name) or [None] * len(self)

    def extend(self, other: Rows) -> None:
        """All rows of another source behind these."""
        before = len(self)
        for column in other.columns:
            self.columns.setdefault(column, [None] * before)
        for column, values in self.columns.items():
            values.extend(other.column(column))


def is_person(pid: Cell) -> bool:
    """Whether a cell names a person: it is neither empty nor junk (−1) nor a distractor (0)."""
    return pid is not None and str(pid) not in ("", "0", "-1")


def in_order(names: Iterable[str]) -> list[str]:
    """Names sorted with their numbers as numbers: ``2.jpg`` before ``10.jpg``."""
    return sorted(names, key=lambda name: [int(part) if part.isdecimal() else part for part in _DIGITS.split(name)])


def images_of(folder: Path) -> list[str]:
    """The names of the images directly in a folder, in order."""
    return in_order(images_in(folder))


def folders_of(folder: Path) -> list[str]:
    """The names of the folders directly in a folder, in order, rubbish left out."""
    with os.scandir(folder) as entries:
        return in_order(entry.name for entry in entries if not is_rubbish(entry.name) and entry.is_dir())


def has_folders(folder: Path, *names: str) -> bool:
    """Whether all of these folders are in a folder."""
    return all((folder / name).is_dir() for name in names)


def require_folder(folder: Path, layout: str) -> Path:
    """The folder, where it is there.

    Raises:
        DataError: it is not; `layout` says what was expected in it.
    """
    if folder.is_dir():
        return folder
    raise DataError(f"{folder}: expected this folder ({layout}), got {'a file' if folder.exists() else 'nothing'}")


def require_file(file: Path, layout: str) -> Path:
    """The file, where it is there.

    Raises:
        DataError: it is not; `layout` says what was expected in it.
    """
    if file.is_file():
        return file
    raise DataError(f"{file}: expected this file ({layout}), got {'a folder' if file.is_dir() else 'nothing'}")


def rows_of(benchmark: Benchmark, published: Published | None) -> Rows:
    """A dataset as rows: splits `train` and `test`, roles `query`, `gallery`, `both`; a test tracklet in neither has none."""
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
