"""Import: convert sources of any kind to one table of tracklets."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from tqdm import tqdm

from reid.datasets.regions import SIDES
from reid.datasets.sources import registry
from reid.datasets.sources.base import Options, Rows, is_person
from reid.datasets.sources.boxes import CropFormat, cut, num_crops
from reid.datasets.table import write_table
from reid.errors import ConfigError, DataError, counted, in_range

_WHOLE = re.compile(r"-?\d{1,18}")
_MARS_JUNK = "00-1"
SUFFIXES = (".csv", ".parquet")


@dataclass(frozen=True)
class Crops:
    """Folder and format of crops.

    Args:
        folder: gets one subfolder per source.
        suffix: `jpg` or `png`.
        quality: JPEG quality, 1 to 100.
    """

    folder: Path
    suffix: Literal["jpg", "png"]
    quality: int


def run(
    sources: Sequence[Path],
    kind: str,
    options: Options,
    out: Path,
    crops: Crops | None,
    *,
    camera_per_source: bool = False,
    overwrite: bool = False,
) -> None:
    """Reads the sources, cuts crops if wanted, writes the table, and prints a summary.

    Args:
        sources: files or folders to import.
        kind: kind of source, or `auto` to detect it.
        options: options of that kind.
        out: table to write, .csv or .parquet.
        crops: cut the boxes to image files; None keeps the boxes.
        camera_per_source: use each source's name as its camera.
        overwrite: replace an existing table and existing crops.

    Raises:
        ConfigError: an option is wrong or does not apply to these sources.
        DataError: a source cannot be read, or the table exists already.
    """
    if out.suffix.lower() not in SUFFIXES:
        raise DataError(f"{out}: expected a table's name, .csv or .parquet, got {out.suffix or 'no suffix'}")
    if out.exists() and not overwrite:
        raise DataError(f"{out}: already exists; --overwrite replaces it")
    form = None
    if crops is not None:
        form = CropFormat(crops.suffix, int(in_range("quality", crops.quality, 1, 100)))
    parts = []
    for source in sources:
        taken, rows = _read(source, kind, options)
        print(f"{source}: {taken}")
        for sentence in rows.said:
            print(f"  {sentence}")
        parts.append(rows)
    names = _apart([rows.name for rows in parts])
    for name, rows in zip(names, parts, strict=True):
        rows.name = name
        if camera_per_source:
            rows.columns["camid"] = [name] * len(rows)
    if crops is not None and form is not None:
        parts = _cut(parts, crops.folder, form, overwrite)
    table = joined(parts, options.ids)
    columns = {name: _tidy(name, values) for name, values in table.columns.items()}
    columns["path"] = _relative(columns["path"], out.parent)
    filled = {name: values for name, values in columns.items() if any(value is not None for value in values)}
    write_table(out, filled)
    print(summary(out, filled))


def joined(parts: Sequence[Rows], ids: Literal["shared", "separate"] | None) -> Rows:
    """Joins the rows of several sources; ids that could collide get the source's name as a prefix.

    Tracklet ids are always prefixed. Person and camera ids are prefixed for published datasets, whose numbers have no meaning outside the
    dataset, and for all sources if `ids` is `separate`; junk (−1) and distractors (0) keep their numbers.

    Raises:
        ConfigError: two sources that are no published datasets share a person id, and `ids` is None.
    """
    if len(parts) == 1:
        return parts[0]
    if ids is None:
        _check_shared([rows for rows in parts if not rows.is_dataset])
    table = Rows("table")
    for rows in parts:
        columns = dict(rows.columns)
        columns["tracklet"] = [f"{rows.name}/{tracklet}" for tracklet in columns["tracklet"]]
        if rows.is_dataset or ids == "separate":
            for column in ("pid", "camid"):
                columns[column] = [_prefixed(rows.name, value) for value in rows.column(column)]
        table.extend(Rows(rows.name, columns))
    return table


def _read(source: Path, kind: str, options: Options) -> tuple[str, Rows]:
    """Reads a source; returns a description of its detected kind, and its rows."""
    if kind == "auto":
        found = registry.recognise(source)
        taken, name = f"{found.name} ({registry.KINDS[found.name]}): found {found.why}", found.name
    else:
        taken, name = f"{kind} ({registry.KINDS.get(kind, '')})", kind
    module = registry.kind(name)
    if not source.exists():
        raise DataError(f"{source}: expected {module.SHAPE}, found nothing")
    rows = module.read(source, options)
    rows.name = rows.name or source.resolve().name
    return taken, rows


def _apart(names: list[str]) -> list[str]:
    """Makes names unique by numbering duplicates."""
    count, seen = Counter(names), Counter[str]()
    unique = []
    for name in names:
        seen[name] += 1
        unique.append(name if count[name] == 1 else f"{name}-{seen[name]}")
    return unique


def _check_shared(own: Sequence[Rows]) -> None:
    first: dict[str, str] = {}
    for rows in own:
        for pid in dict.fromkeys(rows.column("pid")):
            if not is_person(pid):
                continue
            other = first.setdefault(str(pid), rows.name)
            if other != rows.name:
                raise ConfigError(
                    f"person {pid} occurs in {other} and in {rows.name}: use --ids shared if it is the same person "
                    "in both, else --ids separate"
                )


def _prefixed(name: str, value: Any) -> Any:
    return f"{name}:{value}" if is_person(value) else value


def _cut(parts: Sequence[Rows], folder: Path, form: CropFormat, overwrite: bool) -> list[Rows]:
    """Replaces boxes by crop files; sources without boxes stay unchanged."""
    boxes = {rows.name: num_crops(rows) for rows in parts}
    if not any(boxes.values()):
        raise ConfigError(
            f"crops: {', '.join(boxes)}: no boxes to cut; the files are used as they are; run without --crops"
        )
    done = []
    for rows in parts:
        with tqdm(desc=f"{rows.name}: crops, {form}", total=boxes[rows.name], unit=" crops", disable=None) as bar:
            own = folder / rows.name
            done.append(cut(rows, own, form, overwrite=overwrite, tick=bar.update) if boxes[rows.name] else rows)
    return done


def _tidy(column: str, values: list[Any]) -> list[Any]:
    """Converts ids to integers if all are integers ("0002" is 2, MARS' "00-1" is -1), else to text; integral pixels to integers."""
    if column in ("pid", "camid"):
        texts = ["-1" if value == _MARS_JUNK else None if value is None else str(value) for value in values]
        if all(text is None or _WHOLE.fullmatch(text) for text in texts):
            return [None if text is None else int(text) for text in texts]
        return texts
    if column in SIDES and all(value is None or float(value).is_integer() for value in values):
        return [None if value is None else int(value) for value in values]
    return values


def _relative(paths: list[str], folder: Path) -> list[str]:
    """Makes paths below the table's folder relative to it, so that both can be moved together; others absolute."""
    base = os.path.join(os.path.abspath(folder), "")
    absolute = [os.path.abspath(path) for path in paths]
    return [path.removeprefix(base) if path.startswith(base) else path for path in absolute]


def summary(out: Path, columns: dict[str, list[Any]]) -> str:
    """Summarises the table in one or two lines."""
    rows = len(columns["path"])
    persons = {pid for pid in columns.get("pid", []) if is_person(pid)}
    cameras = {camid for camid in columns.get("camid", []) if camid is not None}
    tracklets = len(set(columns["tracklet"]))
    numbers = {"frame": rows, "tracklet": tracklets, "person": len(persons), "camera": len(cameras)}
    text = f"{out}: {', '.join(counted(number, noun) for noun, number in numbers.items())}"
    if "x" in columns or "first" in columns:
        text += (
            "\n  boxes and video frames are cut out each time they are read; to cut them once: "
            f"robust-reid import {out} --crops DIR --out OTHER{out.suffix}"
        )
    return text
