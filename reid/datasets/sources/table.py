"""An existing table, such as one of boxes or videos to cut, or one of several tables to merge."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from reid import times
from reid.datasets import table as tables
from reid.datasets.images import is_image, is_video
from reid.datasets.regions import MOST_FRAMES, SIDES
from reid.datasets.sources.base import Options, Rows, images_of
from reid.datasets.sources.boxes import check_boxes
from reid.datasets.table import Table, read_table
from reid.errors import DataError

SHAPE = "a .csv or .parquet with path,tracklet[,pid,camid,…]"


def recognise(source: Path) -> str | None:
    """Return why the source is of this kind, or None."""
    found = source.is_file() and source.suffix.lower() in tables.SUFFIXES
    return f"a {source.suffix.lower()} file" if found else None


def read(source: Path, options: Options) -> Rows:
    """Read one row per frame: a row with a folder becomes its images, a row with a video its frames `first` to `last`.

    Raises:
        DataError: the table cannot be read, or a folder has no images.
    """
    table = read_table(source)
    rows = Rows(source.stem)
    columns: dict[str, list[Any]] = {name: [cell or None for cell in table.cells(name)] for name in table.columns}
    paths, tracklets = tables.paths_of(table), columns.pop("tracklet")
    del columns["path"]
    columns |= _numbers(table)
    for i, (text, tracklet) in enumerate(zip(paths, tracklets, strict=True)):
        cells = {name: values[i] for name, values in columns.items()}
        path = os.path.join(source.parent, text)
        for place, own in _frames(table, i, path, cells):
            rows.add(place, tracklet, **own)
    if "x" in columns:
        check_boxes(rows)
    return rows


def _numbers(table: Table) -> dict[str, list[Any]]:
    """Parse the numeric columns; an empty cell is None."""
    numbers: dict[str, list[Any]] = {}
    for name in ("first", "last"):
        if name in table:
            values = table.numbers(name, low=0, whole=True).tolist()
            numbers[name] = [None if value != value else int(value) for value in values]
    if "time" in table:
        numbers["time"] = [times.written(value) or None for value in table.times().tolist()]
    for name in SIDES:
        if name in table:
            numbers[name] = [None if value != value else value for value in table.sides(name).tolist()]
    return numbers


def _frames(table: Table, i: int, path: str, cells: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    if is_video(path):
        first, last = cells.get("first"), cells.get("last")
        if first is None or last is None or not 0 <= last - first < MOST_FRAMES:
            raise table.error(i, "first", f"expected the first and last frame of a video, got {first} to {last}")
        return [(path, {**cells, "first": frame, "last": frame, "frame": frame}) for frame in range(first, last + 1)]
    if not is_image(path) and os.path.isdir(path):
        names = images_of(Path(path))
        if not names:
            raise DataError(f"{path}: row {table.row[i]} of {table.file} names this folder, but it has no images")
        return [(os.path.join(path, name), cells) for name in names]
    return [(path, cells)]
