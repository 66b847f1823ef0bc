"""MOT Challenge: a sequence is a folder with ``img1/000001.jpg …`` and ``gt/gt.txt``, or a tracker's output instead of the latter.

A line reads ``frame,id,x,y,w,h,flag,class,visibility``, frames and pixels counted from 1. In ground truth, lines with flag 0 or a class
above 0 other than 1 (pedestrian) are left out. Each sequence is a camera.
"""

from __future__ import annotations

import configparser
import os
import re
from collections import Counter
from pathlib import Path
from typing import NamedTuple

from reid.datasets.sources.base import Options, Rows, folders_of, images_of
from reid.datasets.sources.boxes import check_boxes
from reid.errors import DataError
from reid.files import text_of

SHAPE = "img1/ and gt/gt.txt, or a tracker's .txt; a folder of such sequences"
_LINE = "frame,id,x,y,w,h,…"
_DETECTOR = re.compile(r"-(DPM|FRCNN|SDP)$")  # MOT17 has each sequence three times, once for each detector
_NUMBER = re.compile(r"\d+")
_PEDESTRIAN = 1
_EXACT = 2.0**53  # float64 is exact for whole numbers below


class _Box(NamedTuple):
    frame: int
    track: int
    box: tuple[float, float, float, float]
    flag: float | None
    kind: int | None


def recognise(source: Path) -> str | None:
    """Return why the source is of this kind, or None."""
    if _is_sequence(source):
        return "the folder img1/"
    found = _sequences(source)
    return f"img1/ in {len(found)} folders" if found else None


def read(source: Path, options: Options) -> Rows:
    """Read one row per box, with the path of its whole frame.

    Raises:
        DataError: no sequence, tracks or frame, or a line that cannot be read.
    """
    sequences = [source] if _is_sequence(source) else _sequences(source)
    if not sequences:
        raise DataError(f"{source}: expected {SHAPE}, got no folder img1")
    rows = Rows(source.resolve().name)
    kept, copies = _first_of_each(sequences)
    if copies:
        rows.said.append(f"{copies} sequences are copies for other detectors and were left out")
    for sequence in kept:
        _add(rows, sequence, options)
    check_boxes(rows)
    if len(kept) > 1 and options.ids != "shared" and any(pid is not None for pid in rows.column("pid")):
        rows.said.append(
            "the same id in different sequences means different persons (use --ids shared if it is the same person)"
        )
    return rows


def _is_sequence(folder: Path) -> bool:
    return (folder / "img1").is_dir() or (folder / "seqinfo.ini").is_file()


def _sequences(source: Path) -> list[Path]:
    return [source / name for name in folders_of(source) if _is_sequence(source / name)] if source.is_dir() else []


def _first_of_each(sequences: list[Path]) -> tuple[list[Path], int]:
    """Keep one copy of each sequence; also returns the number of other copies."""
    kept = {_DETECTOR.sub("", sequence.resolve().name): sequence for sequence in reversed(sequences)}
    return [sequence for sequence in sequences if sequence in kept.values()], len(sequences) - len(kept)


def _add(rows: Rows, sequence: Path, options: Options) -> None:
    name = _DETECTOR.sub("", sequence.resolve().name)
    file, is_truth = _tracks(sequence, options.tracks)
    frames, folder = _frames(sequence)
    boxes = _parse(file)
    left_out = Counter[str]()
    for box in boxes:
        if is_truth and box.flag == 0:
            left_out["of flag 0"] += 1
        elif is_truth and box.kind is not None and box.kind > 0 and box.kind != _PEDESTRIAN:
            left_out["of other classes"] += 1
        else:
            if box.frame not in frames:
                raise DataError(f"{file}: names frame {box.frame}, but {folder} has no such image")
            person = (str(box.track) if options.ids == "shared" else f"{name}:{box.track}") if is_truth else None
            x, y, w, h = box.box
            # Pixels are counted from 1 in this format.
            sides = {"x": x - 1, "y": y - 1, "w": w, "h": h}
            rows.add(
                folder / frames[box.frame], f"{name}/{box.track:04d}", pid=person, camid=name, frame=box.frame, **sides
            )
    tracks = len({box.track for box in boxes})
    what = "ground truth" if is_truth else "a tracker's output, persons unknown"
    less = "".join(f", {count} boxes {why} left out" for why, count in left_out.items())
    rows.said.append(f"{name}: {file.name}, {what}: {len(boxes)} boxes, {tracks} tracks{less}")
    if left_out.total() == len(boxes):
        raise DataError(f"{file}: expected boxes of pedestrians (class {_PEDESTRIAN}, flag not 0), got none")


def _tracks(sequence: Path, given: Path | None) -> tuple[Path, bool]:
    """Find the file of a sequence's tracks, and whether it is ground truth."""
    name = sequence.resolve().name
    if given is not None:
        file = given / f"{name}.txt" if given.is_dir() else given
        if not file.is_file():
            raise DataError(f"{file}: expected the tracks of sequence {name} ({_LINE}), found nothing")
        return file, file.name == "gt.txt"
    if (truth := sequence / "gt" / "gt.txt").is_file():
        return truth, True
    found = sorted(sequence.glob("*.txt"))
    if len(found) == 1:
        return found[0], False
    got = f"{len(found)} .txt files" if found else "neither"
    raise DataError(f"{sequence}: expected gt/gt.txt or one tracker's .txt, got {got}; set the file with --tracks")


def _frames(sequence: Path) -> tuple[dict[int, str], Path]:
    """Find the image names by frame number, and their folder."""
    folder = sequence / "img1"
    if (info := sequence / "seqinfo.ini").is_file():
        parser = configparser.ConfigParser()
        try:
            parser.read_string(text_of(info))
            place = parser.get("Sequence", "imDir", fallback="img1")
        except configparser.Error as error:
            raise DataError(f"{info}: not a readable settings file ({error})") from None
        folder = sequence / place
    names = images_of(folder) if os.path.isdir(folder) else []
    if not names:
        raise DataError(f"{folder}: expected the sequence's frames, such as 000001.jpg, got none")
    numbers = {name: _NUMBER.findall(Path(name).stem) for name in names}
    return {int(found[-1]): name for name, found in numbers.items() if found}, folder


def _parse(file: Path) -> list[_Box]:
    boxes = []
    for number, line in enumerate(text_of(file).splitlines(), start=1):
        if not line.strip():
            continue
        cells = line.replace(",", " ").split()
        try:
            values = [float(cell) for cell in cells]
            if len(values) < 6 or not all(value.is_integer() and abs(value) < _EXACT for value in values[:2]):
                raise ValueError
            kind = int(values[7]) if len(values) > 7 else None
        except (ValueError, OverflowError):
            raise DataError(f"{file}: line {number}: expected {_LINE}, got '{line[:80]}'") from None
        flag = values[6] if len(values) > 6 else None
        boxes.append(_Box(int(values[0]), int(values[1]), (values[2], values[3], values[4], values[5]), flag, kind))
    if not boxes:
        raise DataError(f"{file}: expected lines {_LINE}, got none")
    if all(box.track < 0 for box in boxes):
        raise DataError(
            f"{file}: expected tracks, got detections only (every id is {boxes[0].track}); run a tracker first"
        )
    return [box for box in boxes if box.track >= 0]
