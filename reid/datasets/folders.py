"""People's own tracklets: a folder of tracklet folders, or a CSV manifest. No image is opened here.

Unknown persons have pid 0 (-1 would be junk) and unknown cameras camid -1.

Shapes: F frames, T tracklets.
"""

from __future__ import annotations

import csv
import os
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np

from reid.datasets.mars import IMAGE_SUFFIXES
from reid.errors import DataError
from reid.tracklets import Split

UNKNOWN_PID, UNKNOWN_CAMID = 0, -1
_REQUIRED, _OPTIONAL = ("path", "tracklet"), ("pid", "camid")


class _Group(NamedTuple):
    names: list[str]
    pid: int = UNKNOWN_PID
    camid: int = UNKNOWN_CAMID


def detect_kind(path: Path) -> Literal["mars", "folders", "manifest"]:
    """Which loader reads a path: a MARS layout, a folder of tracklet folders, or a manifest.

    Raises:
        DataError: it is none of them.
    """
    path = Path(path)
    if path.is_dir():
        inside = (path / f"bbox_{part}{packed}" for part in ("train", "test") for packed in ("", ".pack"))
        return "mars" if any(folder.is_dir() for folder in inside) else "folders"
    if path.is_file() and path.suffix.lower() == ".csv":
        return "manifest"
    got = f"a file {path.name}" if path.exists() else "nothing there"
    raise DataError(f"{path}: expected a MARS layout, a folder of tracklet folders or a .csv manifest, got {got}")


def load_folders(root: Path) -> Split:
    """Read a folder whose every subfolder is one tracklet; its images (jpg, jpeg, png) follow one another by name.

    Args:
        root: the folder; hidden folders and files that are no images are passed over.

    Returns:
        (T,) tracklets sorted by folder name, which is their key; pid 0, camid -1.

    Raises:
        DataError: no tracklet folder, one without images, or images outside of them.
    """
    root = Path(root)
    if not root.is_dir():
        raise DataError(
            f"{root}: expected a folder of tracklet folders, got {'a file' if root.exists() else 'nothing'}"
        )
    entries = sorted(name for name in os.listdir(root) if not name.startswith("."))
    if loose := [name for name in entries if _is_image(name) and not (root / name).is_dir()]:
        raise DataError(f"{root}: expected one folder per tracklet, got images such as {loose[0]} directly in it")
    groups = {name: _Group(_images_of(root / name)) for name in entries if (root / name).is_dir()}
    if not groups:
        raise DataError(f"{root}: expected one folder per tracklet, got none")
    return _as_split(root, groups)


def load_manifest(file: Path) -> Split:
    """Read a CSV with the header ``path,tracklet[,pid,camid]`` and one row per frame.

    Args:
        file: the CSV, UTF-8; paths are relative to its folder. A tracklet's rows keep their order and need not touch.

    Returns:
        (T,) tracklets in order of appearance; pid 0 and camid -1 where the column is absent.

    Raises:
        DataError: the header or a row is wrong, or a tracklet has two pids or camids; names file and line.
    """
    file = Path(file)
    groups: dict[str, _Group] = {}
    for line, row in _rows(file):
        pid = _integer(file, line, row, "pid", UNKNOWN_PID)
        camid = _integer(file, line, row, "camid", UNKNOWN_CAMID)
        group = groups.setdefault(row["tracklet"], _Group([], pid, camid))
        if group[1:] != (pid, camid):
            expected = f"pid {group.pid} camid {group.camid} as in its first row"
            raise DataError(
                f"{file}: line {line}: tracklet {row['tracklet']}: expected {expected}, got pid {pid} camid {camid}"
            )
        group.names.append(row["path"])
    if not groups:
        raise DataError(f"{file}: expected one row per frame after the header, got none")
    return _as_split(file.parent, groups)


def _is_image(name: str) -> bool:
    return name.lower().endswith(IMAGE_SUFFIXES)


def _images_of(folder: Path) -> list[str]:
    images = sorted(name for name in os.listdir(folder) if _is_image(name) and not name.startswith("."))
    if not images:
        raise DataError(f"{folder}: expected the images of one tracklet ({', '.join(IMAGE_SUFFIXES)}), got none")
    return [f"{folder.name}/{name}" for name in images]


def _as_split(root: Path, groups: dict[str, _Group]) -> Split:
    stop = np.cumsum([len(group.names) for group in groups.values()])
    return Split(
        root,
        names=np.array([os.fsencode(name) for name in chain.from_iterable(group.names for group in groups.values())]),
        start=np.append(0, stop[:-1]),
        stop=stop,
        pid=np.array([group.pid for group in groups.values()]),
        camid=np.array([group.camid for group in groups.values()]),
        keys=np.array(list(groups)),
    )


def _rows(file: Path) -> Iterator[tuple[int, dict[str, str]]]:
    try:
        with open(file, newline="", encoding="utf-8-sig") as stream:
            reader = csv.reader(stream, strict=True)
            header = _checked_header(file, next(reader, []))
            for cells in reader:
                if cells:
                    yield reader.line_num, _checked_row(file, reader.line_num, header, cells)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{file}: not a readable CSV file in UTF-8 ({error})") from error


def _checked_header(file: Path, header: list[str]) -> list[str]:
    known = {*_REQUIRED, *_OPTIONAL}
    if not set(_REQUIRED) <= set(header) <= known or len(set(header)) < len(header):
        raise DataError(f"{file}: line 1: expected the header path,tracklet[,pid,camid], got '{','.join(header)}'")
    return header


def _checked_row(file: Path, line: int, header: list[str], cells: list[str]) -> dict[str, str]:
    if len(cells) != len(header):
        raise DataError(f"{file}: line {line}: expected {len(header)} cells ({','.join(header)}), got {len(cells)}")
    row = dict(zip(header, cells, strict=True))
    for column in _REQUIRED:
        if not row[column]:
            raise DataError(f"{file}: line {line}: {column} is empty")
    return row


def _integer(file: Path, line: int, row: dict[str, str], column: str, default: int) -> int:
    text = row.get(column, str(default))
    try:
        value = int(text)
    except ValueError:
        value = -2
    if not -1 <= value < 2**63:
        raise DataError(f"{file}: line {line}: expected {column} to be a whole 64-bit number from -1 on, got '{text}'")
    return value
