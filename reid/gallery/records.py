"""Reading and checking gallery.json and meta.csv of a feature folder, also while a change is being moved into place.

Shapes: N rows.
"""

from __future__ import annotations

import csv
import json
import zlib
from array import array
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from reid import times
from reid.errors import DataError
from reid.tracklets import IdNames

SCHEMA = 1
ABOUT, COLUMNS = "gallery.json", ["row", "key", "pid", "camid", "num_frames", "path"]
NAME_COLUMNS = ["pid_name", "camid_name"]  # further columns of meta.csv if the source names persons or cameras
TIME = "time"  # a further column of meta.csv if the source has times
ROW_LISTS = ("query", "gallery")
LEFT_OUT = "left_out"  # in gallery.json: keys of tracklets that were skipped because none of their images could be read
ROWS = "rows"  # key of the checksum over ROW_LISTS
_PART = 2**24  # bytes of a file read at once


def current(folder: Path, name: str) -> Path:
    """Path to read a file from: `NAME.new` if a change has been committed but not yet moved into place, else `NAME`."""
    new = folder / f"{name}.new"
    return new if (folder / f"{ABOUT}.new").exists() and new.exists() else folder / name


def state(folder: Path) -> tuple[int, int] | None:
    """Inode and modification time (ns) of gallery.json, which differ after every change; None if there is no gallery."""
    try:
        held = current(folder, ABOUT).stat()
        return held.st_ino, held.st_mtime_ns
    except (FileNotFoundError, NotADirectoryError):
        return None


def crc32_of(file: Path) -> int:
    """The CRC-32 of a file.

    Raises:
        DataError: it cannot be read, or a concurrent change has just moved it.
    """
    checksum = 0
    try:
        with open(file, "rb", buffering=0) as stream:
            while part := stream.read(_PART):
                checksum = zlib.crc32(part, checksum)
    except OSError as error:
        raise DataError(f"{file}: cannot be read: {error.strerror or error}; extract these features again") from None
    return checksum


def crc32_of_rows(about: Mapping[str, Any]) -> int:
    """The CRC-32 of the row lists in gallery.json."""
    return zlib.crc32(json.dumps([about.get(name) for name in ROW_LISTS]).encode())


def read_about(folder: Path) -> dict[str, Any]:
    """Reads and checks gallery.json.

    Raises:
        DataError: it is missing, damaged or has another schema.
    """
    if not current(folder, ABOUT).exists():
        raise DataError(_no_gallery(folder))
    try:
        about = json.loads(current(folder, ABOUT).read_text(encoding="utf-8"))
        if isinstance(about["schema"], int) and about["schema"] > SCHEMA:
            newer = f"schema {about['schema']}, expected {SCHEMA}: written by a newer version of this program; update this one"
            raise DataError(f"{folder / ABOUT}: {newer}")
        if about["schema"] != SCHEMA:
            raise ValueError(f"schema {about['schema']!r}, expected {SCHEMA}")
        lists = [about.get(name, []) for name in ROW_LISTS]
        if not all(isinstance(rows, list) for rows in lists):
            raise ValueError("query and gallery must be lists of row numbers")
        if not all(type(row) is int and abs(row) < 2**63 for rows in lists for row in rows):
            raise ValueError("query and gallery must be lists of row numbers")
        if not isinstance(about["counts"]["tracklets"], int) or not isinstance(about.get("index", {}), dict):
            raise ValueError("counts.tracklets must be a number, and index a mapping")
        checksums = about.get("checksums", {})
        if not isinstance(checksums, dict) or not isinstance(about.get("preprocessing", {}), dict):
            raise ValueError("checksums and preprocessing must be mappings")
        if not all(isinstance(about.get(name, ""), str) for name in ("run", "checkpoint", "weights", "source")):
            raise ValueError("run, checkpoint, weights and source must be texts")
        if not all(isinstance(key, str) for key in list(about.get(LEFT_OUT, []))):
            raise ValueError(f"{LEFT_OUT} must be a list of texts")
        IdNames.from_json(about.get("names"))
        return about | {"fingerprint": about["fingerprint"]}
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise DataError(
            f"{folder / ABOUT}: not a complete feature folder of robust-reid extract: {error}; extract the features again"
        ) from None


def _no_gallery(folder: Path) -> str:
    """Error message for a folder without gallery.json: why it is no gallery, and the command that makes one."""
    command = f"robust-reid extract RUN DATA --out {folder}"
    if (folder / "shards").is_dir():
        return f"{folder}: an unfinished extraction; run the same robust-reid extract with --resume auto to continue"
    if folder.is_dir():
        return f"{folder}: not a complete feature folder of robust-reid extract: {ABOUT} is missing; {command} writes one into a new folder"
    if folder.exists():
        return f"{folder}: is a file; expected the folder written by robust-reid extract"
    return f"{folder}: no such folder; {command} extracts the tracklets of DATA with RUN"


def read_meta(file: Path) -> dict[str, np.ndarray]:
    """Reads the columns `row`, `key`, `pid`, `camid`, `num_frames` and `path` of meta.csv, (N,) each, and `time` if it is there.

    Raises:
        DataError: the file is missing or damaged, or a row is missing.
    """
    texts: dict[str, list[str]] = {"key": [], "path": []}
    numbers = {name: array("q") for name in ("row", "pid", "camid", "num_frames")}
    time = array("d")
    line = 0
    try:
        with open(file, newline="", encoding="utf-8", errors="surrogateescape") as lines:
            line = 1
            reader = csv.reader(lines)
            header = next(reader, [])
            places = {name: header.index(name) for name in COLUMNS}
            time_place = header.index(TIME) if TIME in header else None
            for row, cells in enumerate(reader):
                line = reader.line_num
                for name, column in texts.items():
                    column.append(cells[places[name]])
                for name, integers in numbers.items():
                    integers.append(int(cells[places[name]]))
                if time_place is not None:
                    time.append(times.parse(cells[time_place]))
                if numbers["num_frames"][-1] < 0:
                    raise ValueError(f"num_frames: expected 0 or more, got {numbers['num_frames'][-1]}")
                if numbers["row"][-1] != row:
                    raise ValueError(f"the column `row` must count 0, 1, 2 …; expected {row}, got {numbers['row'][-1]}")
        columns = {name: np.array(values, np.int64) for name, values in numbers.items()}
        columns |= {} if time_place is None else {TIME: np.array(time, np.float64)}
        return columns | {"key": np.array(texts["key"], np.str_), "path": np.array(texts["path"], object)}
    except (OSError, ValueError, IndexError, OverflowError, csv.Error) as error:
        raise DataError(
            f"{file}: {f'line {line}: ' if line else ''}{error}; expected columns {', '.join(COLUMNS)}; extract the features again"
        ) from None
