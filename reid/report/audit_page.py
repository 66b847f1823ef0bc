"""``audit/index.html``: a page to review the findings of an audit by hand; the result is ``corrections.csv``.

The page opens from the file system. Beside it are ``data/ID.js``, the findings, and ``data/ID-0000.jpg`` and so on, sheets of
thumbnails that the page loads as they scroll into view. ID is a hash of the findings: a new page of the same findings has the same ID,
and so restores the choices made before.

Shapes: T tracklets, N findings, H W height and width of an image.
"""

from __future__ import annotations

import base64
import hashlib
import json
import logging
import math
import re
from collections.abc import Callable, Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import simplejpeg
from PIL import Image
from tqdm import tqdm

from reid.errors import DataError, counted
from reid.files import atomic
from reid.findings import Exemplar, Finding
from reid.report.pages import render, write_page
from reid.tracklets import IdNames, Split

logger = logging.getLogger(__name__)

FRAMES = 5  # thumbnails of a suspect, spread over its length
EDGES = 6  # maximum of further thumbnails, at the edges of a finding's frame spans
EXEMPLARS = 4  # tracklets shown per person
COLUMNS, ROWS = 16, 10  # thumbnails in a sheet
_QUALITY = 80
_OURS = re.compile(r"[0-9a-f]{16}(?:\.js|-\d{4,}\.jpg)")


def write_audit_page(
    folder: Path,
    split: Split,
    findings: Sequence[Finding],
    names: IdNames,
    read: Callable[[int], np.ndarray],
    about: Mapping[str, Any],
    *,
    frames: int = FRAMES,
) -> Path:
    """Writes the page and its data files; a kill at any moment leaves the previous page, or none.

    Args:
        folder: such as ``audit``; other files in it are kept.
        split: T audited tracklets.
        findings: N findings, most suspicious first, at most one per tracklet.
        names: of persons and cameras.
        read: frame index of the split -> uint8 (H, W, 3), RGB. If it raises a DataError, the page shows a placeholder.
        about: content of the header. ``title`` is the heading. ``commands`` are the next steps, each a command or a pair of a command and
            what it does. All other keys are shown with their values: text, a number, a pair of numbers (an interval), or a mapping such as
            findings by kind.
        frames: thumbnails per suspect, spread over its length; about 3 kB each.

    Returns:
        The page's path.

    Raises:
        DataError: two findings are of the same tracklet, a finding refers to a tracklet outside of the split, or a file cannot be written.
    """
    _check(split, findings)
    keys = [split.key(row) for row in range(len(split))]
    if shared := len(keys) - len(set(keys)):
        logger.warning(
            "audit page: %s with the same key as another; corrections cannot distinguish them",
            counted(shared, "tracklet is", "tracklets are"),
        )
    sheets = _Sheets(split)
    rows = [_finding(one, split, sheets, frames) for one in findings]
    data = _data(split, rows, names, keys)
    ident = hashlib.sha256(_script(data).encode()).hexdigest()[:16]
    width, height = _cell(split, sheets.frames, read)
    inside = folder / "data"
    unreadable = sheets.write(inside, ident, read, width, height)
    data |= {
        "id": ident,
        "thumbnails": len(sheets.frames),
        "columns": COLUMNS,
        "rows": ROWS,
        "width": width,
        "height": height,
        "unreadable": unreadable,
    }
    with atomic(inside / f"{ident}.js") as temporary:
        # Browsers parse JSON from a string faster than the same data as JavaScript.
        text = _script(data).replace("\\", "\\\\").replace("'", "\\'")
        temporary.write_text(f"window.AUDIT = JSON.parse('{text}');\n", encoding="ascii")
    code = files("reid.report").joinpath("templates/audit.js").read_text(encoding="utf-8")
    digest = base64.b64encode(hashlib.sha256(code.encode()).digest()).decode()
    title, facts, commands = _about(about)
    page = render("audit.html", title=title, facts=facts, commands=commands, code=code, digest=digest, ident=ident)
    write_page(folder / "index.html", page)
    for file in inside.iterdir():  # remove files of an earlier audit, whose page was just replaced
        if _OURS.fullmatch(file.name) and not file.name.startswith(ident):
            file.unlink(missing_ok=True)
    return folder / "index.html"


class _Sheets:
    """Places of the thumbnails in the sheets: each frame once, in the order of the findings, so that those shown together are close."""

    def __init__(self, split: Split) -> None:
        self.split = split
        self._cell_of: dict[int, int] = {}

    @property
    def frames(self) -> list[int]:
        return list(self._cell_of)

    def cell(self, row: int, position: int) -> int:
        """The index of a thumbnail, counted over all sheets; a new thumbnail gets the next index."""
        return self._cell_of.setdefault(int(self.split.start[row]) + position, len(self._cell_of))

    def middle(self, row: int) -> int:
        return self.cell(row, _middle(int(self.split.lengths[row])))

    def write(self, folder: Path, ident: str, read: Callable[[int], np.ndarray], width: int, height: int) -> list[int]:
        """Writes all sheets; returns the indices of the thumbnails that cannot be read."""
        unreadable, frames, size = [], self.frames, COLUMNS * ROWS
        with tqdm(total=len(frames), desc="thumbnails", unit="image", disable=None) as bar:
            for sheet, first in enumerate(range(0, len(frames), size)):
                chunk = frames[first : first + size]
                canvas = np.full((-(-len(chunk) // COLUMNS) * height, COLUMNS * width, 3), 128, np.uint8)
                for place, frame in enumerate(chunk):
                    top, left = place // COLUMNS * height, place % COLUMNS * width
                    try:
                        canvas[top : top + height, left : left + width] = _fitted(read(frame), width, height)
                    except DataError:
                        unreadable.append(first + place)
                    bar.update()
                with atomic(folder / f"{ident}-{sheet:04}.jpg", flush=False) as temporary:
                    temporary.write_bytes(simplejpeg.encode_jpeg(canvas, quality=_QUALITY, colorsubsampling="420"))
        return unreadable


def _check(split: Split, findings: Sequence[Finding]) -> None:
    rows = [one.row for one in findings]
    if len(set(rows)) < len(rows):
        twice = next(row for row in rows if rows.count(row) > 1)
        raise DataError(
            f"audit page: two findings for tracklet {twice} ({split.key(twice)}), expected one per tracklet"
        )
    for one in findings:
        for row in (one.row, *(exemplar.row for exemplar in (*one.own, *one.other))):
            if not 0 <= row < len(split):
                raise DataError(f"audit page: finding for tracklet {row}, expected 0 to {len(split) - 1}")


def _finding(one: Finding, split: Split, sheets: _Sheets, frames: int) -> dict[str, Any]:
    """The page's data of one finding; numbers are rounded to what it prints."""
    positions = _positions(int(split.lengths[one.row]), one.frames, frames)

    def exemplars(found: Sequence[Exemplar]) -> list[Any]:
        return [[e.row, _rounded(e.similarity), sheets.middle(e.row)] for e in found[:EXEMPLARS]]

    return {
        "row": one.row,
        "suspicion": _rounded(one.suspicion),
        "kind": one.kind,
        "suggested": one.suggested_pid,
        "frames": [list(span) for span in one.frames],
        "evidence": {name: _rounded(value) for name, value in one.evidence.items()},
        "shown": [[position, sheets.cell(one.row, position)] for position in positions],
        "own": exemplars(one.own),
        "other": exemplars(one.other),
    }


def _positions(length: int, spans: Sequence[tuple[int, int]], count: int) -> list[int]:
    """Frame positions to show: some spread over the whole length, the middle, and those on both sides of the edges of the spans."""
    even = np.linspace(0, length - 1, min(count, length)).round().astype(int).tolist()
    starts, ends = [first for first, _ in spans], [last for _, last in spans]
    before, after = [first - 1 for first in starts], [last + 1 for last in ends]
    # Every span is shown before the surroundings of any.
    edges = [edge for edge in (*starts, *ends, *before, *after) if 0 <= edge < length]
    return sorted({*even, _middle(length), *edges[:EDGES]})


def _middle(length: int) -> int:
    return round((length - 1) / 2)


def _data(split: Split, rows: list[dict[str, Any]], names: IdNames, keys: list[str]) -> dict[str, Any]:
    """All data of the page except the thumbnails, in columns."""
    suggested = [row["suggested"] for row in rows if row["suggested"] is not None]
    pids = sorted({*split.pid.tolist(), *suggested})
    cameras = sorted(set(split.camid.tolist()))
    place, seen_by = ({number: i for i, number in enumerate(numbers)} for numbers in (pids, cameras))
    evidence = list(dict.fromkeys(name for row in rows for name in row["evidence"]))
    return {
        "schema": 1,
        "named": bool(names.pid),
        "persons": [names.pid.get(pid, str(pid)) for pid in pids],
        "cameras": ["unknown" if camid < 0 else names.camid.get(camid, str(camid)) for camid in cameras],
        "keys": keys,
        "person": [place[pid] for pid in split.pid.tolist()],
        "camera": [seen_by[camid] for camid in split.camid.tolist()],
        "length": split.lengths.tolist(),
        "evidence": evidence,
        "findings": [
            [
                *(row["row"], row["suspicion"], row["kind"], place.get(row["suggested"], -1), row["frames"]),
                *([row["evidence"].get(name) for name in evidence], row["shown"], row["own"], row["other"]),
            ]
            for row in rows
        ],
    }


def _cell(split: Split, frames: Sequence[int], read: Callable[[int], np.ndarray]) -> tuple[int, int]:
    """Width and height of a thumbnail, multiples of 16 as JPEG's blocks: portrait for persons, landscape for vehicles, else square."""
    ratios = []
    for frame in frames[:: max(1, len(frames) // 8)][:8]:
        try:
            height, width = read(frame).shape[:2]
        except DataError:
            continue
        ratios.append(width / height)
    ratio = float(np.median(ratios)) if ratios else 0.5
    return (80, 160) if ratio < 0.75 else (112, 112) if ratio < 1.2 else (144, 112)


def _fitted(image: np.ndarray, width: int, height: int) -> np.ndarray:
    """(height, width, 3) with the whole image centred, as large as it fits."""
    scale = min(width / image.shape[1], height / image.shape[0])
    w, h = (
        max(1, min(full, round(scale * size))) for full, size in ((width, image.shape[1]), (height, image.shape[0]))
    )
    fitted = np.full((height, width, 3), 128, np.uint8)
    top, left = (height - h) // 2, (width - w) // 2
    small = Image.fromarray(image).resize((w, h), Image.Resampling.BILINEAR, reducing_gap=2)
    fitted[top : top + h, left : left + w] = np.asarray(small)
    return fitted


def _rounded(value: float) -> float | None:
    return round(float(value), 3) if math.isfinite(value) else None


def _script(data: Mapping[str, Any]) -> str:
    """JSON that is safe in a script: ASCII only, so that no character ends a line, and without ``<``, which could end the script."""
    return json.dumps(data, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c")


def _about(about: Mapping[str, Any]) -> tuple[str, dict[str, str], list[tuple[str, str]]]:
    """The heading, the facts, and the commands with what they do."""
    pairs = ((one, "") if isinstance(one, str) else one for one in about.get("commands", ()))
    commands = [(str(command), str(does)) for command, does in pairs]
    facts = {str(key): _said(value) for key, value in about.items() if key not in ("title", "commands")}
    return str(about.get("title", "Labels to review")), facts, commands


def _said(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {_said(part)}" for key, part in value.items())
    if isinstance(value, (tuple, list)):
        return (" to " if len(value) == 2 else ", ").join(_said(part) for part in value)
    if isinstance(value, (float, np.floating)):
        return f"{value:.3g}"
    return f"{value:,}" if isinstance(value, (int, np.integer)) and not isinstance(value, bool) else str(value)
