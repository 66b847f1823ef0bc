"""Folders of frames: ``person/tracklet/frames``, ``person/frames`` (one tracklet per person), or ``tracklet/frames`` (no labels)."""

from __future__ import annotations

import re
from pathlib import Path

from reid.datasets.layouts import mixture
from reid.datasets.sources.base import Options, Rows, folders_of, images_of
from reid.errors import ConfigError, DataError, counted

LAYOUTS = ("person/tracklet", "person", "tracklet")
SHAPE = "person/tracklet/frames, person/frames or tracklet/frames"
_MARS_FOLDER = re.compile(r"(?:\d{4,}|00-1)C(\d+)T\d+")


def recognise(source: Path) -> str | None:
    """Return why the source is of this kind, or None."""
    if not source.is_dir() or images_of(source):
        return None
    depth = _depth(source)
    return None if depth is None else f"images in folders, {counted(depth, 'level')} deep"


def read(source: Path, options: Options) -> Rows:
    """Read one row per frame; the folders' names are the persons and tracklets.

    Raises:
        ConfigError: there is no such layout.
        DataError: no frames, frames in the wrong place, or a folder whose file names show several persons or cameras.
    """
    if not source.is_dir():
        raise DataError(f"{source}: expected a folder ({SHAPE}), got {'a file' if source.exists() else 'nothing'}")
    layout = _layout(source, options.layout)
    rows = Rows(source.resolve().name)
    if loose := images_of(source):
        raise DataError(
            f"{source}: expected folders ({layout}/frames), got images such as {loose[0]} directly in it; "
            "--as flat reads a folder of images"
        )
    tracklets: list[tuple[str | None, str]] = [
        (name if layout == "person" else None, name) for name in folders_of(source)
    ]
    if layout == "person/tracklet":
        tracklets = [(name, f"{name}/{inner}") for name in folders_of(source) for inner in folders_of(source / name)]
    for person, place in tracklets:
        _add(rows, source, place, person)
    if not len(rows):
        raise DataError(f"{source}: expected {layout}/frames, got no image")
    _check_outside(source, layout)
    rows.said += _said(rows, layout, options.layout is not None)
    return rows


def _layout(source: Path, wanted: str | None) -> str:
    if wanted is not None:
        if wanted not in LAYOUTS:
            raise ConfigError(f"layout: expected {', '.join(LAYOUTS)}, got {wanted!r}")
        return wanted
    return "person/tracklet" if _depth(source) == 2 else "tracklet"


def _depth(source: Path) -> int | None:
    """The number of folder levels above the frames, 1 or 2; None if there are no frames there."""
    inside = folders_of(source)
    if any(images_of(source / name) for name in inside):
        return 1
    return (
        2 if any(images_of(source / name / inner) for name in inside for inner in folders_of(source / name)) else None
    )


def _add(rows: Rows, source: Path, place: str, person: str | None) -> None:
    names = images_of(source / place)
    if not names:
        raise DataError(f"{source / place}: expected the frames of one tracklet, got none")
    if mixed := mixture(names):
        raise DataError(
            f"{source / place}: expected the frames of one tracklet; by their names ({mixed.layout}) they show "
            f"{counted(mixed.persons, 'person')}, {counted(mixed.cameras, 'camera')}; --as auto knows the layouts of public datasets, "
            "--as flat reads names by a pattern"
        )
    match = _MARS_FOLDER.fullmatch(place.rpartition("/")[2])
    camid = match[1] if match else None
    for name in names:
        rows.add(source / place / name, place, pid=person, camid=camid)


def _check_outside(source: Path, layout: str) -> None:
    """Check that no frames are a level higher or lower than in the layout."""
    above = [source / name for name in folders_of(source)] if layout == "person/tracklet" else []
    below = [source / name / inner for name in folders_of(source) for inner in folders_of(source / name)]
    for folder in above if layout == "person/tracklet" else below:
        if names := images_of(folder):
            raise DataError(
                f"{folder}: expected no image here (the layout is {layout}/frames), got {len(names)} such as {names[0]}; "
                f"choose another with --layout: {', '.join(LAYOUTS)}"
            )


_NO_CAMERA = (
    "cameras unknown, so a match can come from the query's own camera; if file names contain them, use "
    "--as flat --pattern '{pid}/cam{camid}_{tracklet}/{frame}.jpg'"
)


def _said(rows: Rows, layout: str, chosen: bool) -> list[str]:
    said = [f"layout {layout}/frames" + ("" if chosen else ", detected; --layout sets another")]
    if layout == "tracklet":
        said.append("persons unknown: folders are tracklets (--layout person, if each folder is one person)")
    cameras = {camid for camid in rows.column("camid") if camid is not None}
    said.append(f"cameras {', '.join(sorted(cameras))} from the folder names" if cameras else _NO_CAMERA)
    return said
