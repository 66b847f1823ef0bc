"""JSON lines, one frame each: ``{"path": "a/1.jpg", "tracklet": "7", "pid": "alice", "camid": "gate 3", "bbox": [x, y, w, h]}``."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from reid.datasets.sources.base import Cell, Options, Rows, require_folder
from reid.datasets.sources.boxes import BOX, check_boxes
from reid.errors import DataError

SHAPE = 'one object per line: "path" and "tracklet", and "pid", "camid", "bbox", … where known'
# A column's other names, as trackers and annotation tools write them.
_NAMES = {
    "path": ("path", "image", "file", "file_name", "filename", "img"),
    "tracklet": ("tracklet", "track", "track_id", "tracklet_id"),
    "pid": ("pid", "person", "person_id", "identity"),
    "camid": ("camid", "camera", "camera_id", "cam"),
}
_BOX = ("bbox", "box", "xywh")


def recognise(source: Path) -> str | None:
    """Why it is this kind, or None."""
    return "a .jsonl file" if source.is_file() and source.suffix.lower() in (".jsonl", ".ndjson") else None


def read(source: Path, options: Options) -> Rows:
    """One row per line; what else stands there becomes columns.

    Raises:
        DataError: a line is no object, names no path or tracklet, or names an image that is not there.
    """
    folder = require_folder(options.images or source.parent, "the folder that paths are relative to")
    rows = Rows(source.stem)
    try:
        lines = source.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{source}: not a readable text file in UTF-8 ({error})") from None
    for number, line in enumerate(lines, start=1):
        if line.strip():
            cells = _cells(f"{source}: line {number}", line)
            path = folder / os.path.expanduser(str(cells.pop("path")))
            if not path.exists():
                raise DataError(
                    f"{source}: line {number}: {path} is not there; --images names the folder of relative paths"
                )
            rows.add(path, str(cells.pop("tracklet")), **cells)
    if not len(rows):
        raise DataError(f"{source}: expected one object per line, got none")
    check_boxes(rows)
    return rows


def _cells(where: str, line: str) -> dict[str, Cell]:
    try:
        held: dict[str, Any] = json.loads(line)
    except ValueError:
        held = {}
    if not isinstance(held, dict) or not held:
        raise DataError(f"{where}: expected a JSON object, got '{line[:80]}'")
    cells: dict[str, Cell] = {}
    for column, names in _NAMES.items():
        value = next((held.pop(name) for name in names if held.get(name) is not None), None)
        if value is None and column in ("path", "tracklet"):
            raise DataError(f"{where}: expected {column} (or {', '.join(names[1:])}), got none in '{line[:80]}'")
        if value is not None:
            cells[column] = str(value) if column != "path" else value
    box = next((held.pop(name) for name in _BOX if name in held), None)
    if box is not None:
        if not isinstance(box, list) or len(box) != 4 or not all(isinstance(side, int | float) for side in box):
            raise DataError(f"{where}: expected bbox [x, y, w, h], got {str(box)[:60]}")
        cells |= dict(zip(BOX, map(float, box), strict=True))
    for name, value in held.items():
        if isinstance(value, str | int | float | None):
            cells.setdefault(name, value)
    return cells
