"""Output files of an audit: `audit.csv`, the foreign frames, and files that cleanlab and FiftyOne users can load.

Shapes: N tracklets.
"""

from __future__ import annotations

import csv
import json
import logging
import math
from collections.abc import Iterable, Sequence
from pathlib import Path

from reid.errors import counted
from reid.files import atomic
from reid.findings import Finding
from reid.tracklets import IdNames, Split

logger = logging.getLogger(__name__)

FIXED = ("rank", "key", "pid", "camid", "suspicion")
LAST = ("kind", "suggested_pid", "frames")


def write_audit(path: Path, findings: Sequence[Finding], split: Split, names: IdNames) -> None:
    """Writes `audit.csv`: a line per tracklet, most suspicious first, with a column per kind of evidence (empty where it is NaN).

    Raises:
        DataError: the file cannot be written.
    """
    columns = list(findings[0].evidence) if findings else []
    lines = (
        [
            rank,
            split.key(found.row),
            person(names, split.pid[found.row]),
            camera(names, split.camid[found.row]),
            _number(found.suspicion),
            *(_number(found.evidence[name]) for name in columns),
            found.kind,
            "" if found.suggested_pid is None else person(names, found.suggested_pid),
            spans_text(found.frames),
        ]
        for rank, found in enumerate(findings, start=1)
    )
    _write(path, [*FIXED, *columns, *LAST], lines)


def write_foreign_frames(path: Path, findings: Sequence[Finding], split: Split) -> None:
    """Writes a CSV line per foreign frame: key of the tracklet, position of the frame in it, and image file."""
    lines = (
        [split.key(found.row), position, split.path(int(split.start[found.row]) + position)]
        for found in findings
        for first, last in found.frames
        for position in range(first, last + 1)
    )
    _write(path, ["key", "frame", "path"], lines)


def write_label_issues(path: Path, findings: Sequence[Finding], split: Split, names: IdNames) -> None:
    """Writes the columns of cleanlab's table of label issues, in the order of the tracklets; the label score is 1 - suspicion."""
    by_row = sorted(findings, key=lambda found: found.row)
    lines = (
        [
            split.key(found.row),
            found.suspicion >= 0.5,
            _number(1 - found.suspicion),
            person(names, split.pid[found.row]),
            person(names, split.pid[found.row] if found.suggested_pid is None else found.suggested_pid),
        ]
        for found in by_row
    )
    _write(path, ["key", "is_label_issue", "label_score", "given_label", "predicted_label"], lines)


def write_fiftyone(folder: Path, findings: Sequence[Finding], split: Split, names: IdNames) -> None:
    """Writes data.json and labels.json, a dataset of FiftyOne's type FiftyOneImageClassificationDataset.

    Each sample is a tracklet, represented by its middle frame and labelled with its given person; the findings are attributes of the label.
    Tracklets whose middle frame is no image file, but in a pack or a part of a picture or video, are left out. Nothing is written if there
    are no others.
    """
    middle = {split.key(found.row): int(split.start[found.row] + split.lengths[found.row] // 2) for found in findings}
    paths = {key: str(path.absolute()) for key, frame in middle.items() if (path := split.path(frame)).is_file()}
    if len(paths) < len(middle):
        left = counted(len(middle) - len(paths), "tracklet")
        logger.info("%s: without %s whose images are not separate files", folder, left)
    if not paths:
        return
    labels = {
        split.key(found.row): {
            "label": person(names, split.pid[found.row]),
            "confidence": 1 - found.suspicion,
            "attributes": {
                "suspicion": found.suspicion,
                "kind": found.kind,
                "suggested": "" if found.suggested_pid is None else person(names, found.suggested_pid),
                "camera": camera(names, split.camid[found.row]),
                # The prefix avoids clashes: FiftyOne's labels have fields such as confidence.
                **{f"evidence_{name}": value for name, value in found.evidence.items() if math.isfinite(value)},
            },
        }
        for found in findings
        if split.key(found.row) in paths
    }
    for name, content in (("data.json", paths), ("labels.json", {"classes": None, "labels": labels})):
        with atomic(folder / name) as temporary:
            temporary.write_text(json.dumps(content, ensure_ascii=False) + "\n", encoding="utf-8")


def person(names: IdNames, pid: int) -> str:
    """Name of a person in the source dataset, or the pid if there is none."""
    return names.pid.get(int(pid), str(pid))


def camera(names: IdNames, camid: int) -> str:
    """Name of a camera in the source dataset, or the camid if there is none; empty for an unknown camera."""
    return "" if camid < 0 else names.camid.get(int(camid), str(camid))


def spans_text(spans: Iterable[tuple[int, int]]) -> str:
    """Positions in the format of `corrections.csv`: ``3,7-9``."""
    return ",".join(str(first) if first == last else f"{first}-{last}" for first, last in spans)


def _number(value: float) -> str:
    return "" if math.isnan(value) else f"{value:.4f}"


def _write(path: Path, header: Sequence[str], lines: Iterable[Sequence[object]]) -> None:
    with atomic(path) as temporary, open(temporary, "w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(header)
        writer.writerows(lines)
