"""JSON lines, or one JSON list of objects, one frame each.

An object is ``{"path": "a/1.jpg", "tracklet": "7", "pid": "alice", "camid": "gate 3", "bbox": [x, y, w, h]}``.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from reid.datasets.sources.base import Cell, Options, Rows, require_folder
from reid.datasets.sources.boxes import box_of, check_boxes
from reid.errors import DataError
from reid.files import JSON_ERRORS, holds_json_list, text_of

SHAPE = 'one object per line, or a list of objects: "path" and "tracklet", and "pid", "camid", "bbox", … where known'
# Other names of a column, as written by trackers and annotation tools.
_NAMES = {
    "path": ("path", "image", "file", "file_name", "filename", "img"),
    "tracklet": ("tracklet", "track", "track_id", "tracklet_id"),
    "pid": ("pid", "person", "person_id", "identity"),
    "camid": ("camid", "camera", "camera_id", "cam"),
}
_BOX = ("bbox", "box", "xywh")


def recognise(source: Path) -> str | None:
    """Return why the source is of this kind, or None."""
    if not source.is_file():
        return None
    if source.suffix.lower() in (".jsonl", ".ndjson"):
        return "a .jsonl file"
    return "a list in a .json file" if source.suffix.lower() == ".json" and holds_json_list(source) else None


def read(source: Path, options: Options) -> Rows:
    """Read one row per object; its other fields become columns.

    Raises:
        DataError: a line or an item of the list is not an object, has no path or tracklet, or names a missing image.
    """
    folder = require_folder(options.images or source.parent, "the folder that paths are relative to")
    rows = Rows(source.stem)
    for where, held in _objects(source):
        cells = _cells(where, held)
        path = folder / os.path.expanduser(str(cells.pop("path")))
        if not os.path.exists(path):
            raise DataError(f"{where}: {path} is missing; set --images to the folder that paths are relative to")
        rows.add(path, str(cells.pop("tracklet")), **cells)
    if not len(rows):
        raise DataError(f"{source}: expected one object per line, got none")
    check_boxes(rows)
    return rows


def _objects(source: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield each object with its position, for error messages."""
    text = text_of(source)
    if text.lstrip().startswith("["):
        try:
            items = json.loads(text)
        except JSON_ERRORS as error:
            raise DataError(f"{source}: not a readable JSON list ({error})") from None
        found = ((f"{source}: item {number}", item, json.dumps(item)) for number, item in enumerate(items, start=1))
    else:
        lines = ((number, line) for number, line in enumerate(text.splitlines(), start=1) if line.strip())
        found = ((f"{source}: line {number}", _parsed(line), line) for number, line in lines)
    for where, held, shown in found:
        if not isinstance(held, dict) or not held:
            raise DataError(f"{where}: expected a JSON object, got '{shown[:80]}'")
        yield where, held


def _parsed(line: str) -> Any:
    try:
        return json.loads(line)
    except JSON_ERRORS:
        return None


def _cells(where: str, held: dict[str, Any]) -> dict[str, Cell]:
    shown = json.dumps(held, ensure_ascii=False)[:80]
    cells: dict[str, Cell] = {}
    for column, names in _NAMES.items():
        value = next((held.pop(name) for name in names if held.get(name) is not None), None)
        if value is None and column in ("path", "tracklet"):
            raise DataError(f"{where}: expected {column} (or {', '.join(names[1:])}), got none in '{shown}'")
        if value is not None:
            if not isinstance(value, str | int | float):
                raise DataError(f"{where}: expected {column} to be a text or a number, got {str(value)[:60]}")
            cells[column] = str(value)
    box = next((held.pop(name) for name in _BOX if name in held), None)
    if box is not None:
        cells |= box_of(where, box)
    for name, value in held.items():
        if isinstance(value, str | int | float | None):
            cells.setdefault(name, value)
    return cells
