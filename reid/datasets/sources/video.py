"""A video and a table of boxes: CSV with the header ``frame,track,x,y,w,h`` and ``pid`` if known, frames from 0.

The table is given by ``--tracks``; by default it is beside the video, under the same name. Each video is a camera. A table of tracklets
that names videos is accepted too.
"""

from __future__ import annotations

import csv
from pathlib import Path

from reid.datasets.images import VIDEO_SUFFIXES
from reid.datasets.sources import table
from reid.datasets.sources.base import Options, Rows, require_file
from reid.datasets.sources.boxes import check_boxes
from reid.errors import DataError
from reid.files import text_of

SHAPE = "a video, and next to it (or at --tracks) a CSV of frame,track,x,y,w,h[,pid]"
_REQUIRED = ("frame", "track", "x", "y", "w", "h")


def recognise(source: Path) -> str | None:
    """Return why the source is of this kind, or None."""
    found = source.is_file() and source.suffix.lower() in VIDEO_SUFFIXES
    return f"a {source.suffix.lower()} video" if found else None


def read(source: Path, options: Options) -> Rows:
    """Read one row per box, with the video and the frame's number in it.

    Raises:
        DataError: the video or the table is missing, or a row cannot be read.
    """
    if table.recognise(source):
        return table.read(source, options)
    if not source.is_file():
        raise DataError(f"{source}: expected a video file, got {'a folder' if source.is_dir() else 'nothing'}")
    given = options.tracks
    file = (given / f"{source.stem}.csv" if given.is_dir() else given) if given else source.with_suffix(".csv")
    rows = Rows(source.stem)
    text = text_of(require_file(file, f"the video's boxes, CSV: {','.join(_REQUIRED)}"))
    header = text.partition("\n")[0]
    delimiter = next((mark for mark in ",;\t" if mark in header), ",")
    reader = csv.DictReader(text.splitlines(), delimiter=delimiter, skipinitialspace=True)
    if lacking := [column for column in _REQUIRED if column not in (reader.fieldnames or [])]:
        raise DataError(
            f"{file}: line 1: expected the columns {','.join(_REQUIRED)}, {lacking[0]} is missing in '{header[:80]}'"
        )
    boxes = [_box(file, reader.line_num, row) for row in reader]
    for frame, track, sides, pid in sorted(boxes, key=lambda box: (box[1], box[0])):
        x, y, w, h = sides
        cells = {"first": frame, "last": frame, "frame": frame, "x": x, "y": y, "w": w, "h": h}
        rows.add(source, f"{source.stem}/{track}", pid=pid, camid=source.stem, **cells)
    if not len(rows):
        raise DataError(f"{file}: expected one row per box, got none")
    check_boxes(rows)
    return rows


def _box(file: Path, line: int, row: dict[str, str]) -> tuple[int, str, tuple[float, ...], str | None]:
    try:
        frame, sides = int(row["frame"]), tuple(float(row[side]) for side in "xywh")
        if frame < 0 or not row["track"]:
            raise ValueError
    except (ValueError, TypeError):
        got = ",".join(str(row.get(column)) for column in _REQUIRED)
        raise DataError(
            f"{file}: line {line}: expected {','.join(_REQUIRED)} with frames from 0, got {got[:80]}"
        ) from None
    return frame, row["track"], sides, (row.get("pid") or None)
