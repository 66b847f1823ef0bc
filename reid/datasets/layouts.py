"""File names by which public datasets are known: they say which person and camera a picture shows, if the names are to be believed."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import NamedTuple

_SUFFIX = r"(?:\.jpg)?\.(?:jpg|jpeg|png|bmp)"
# kind of robust-reid import -> pid, camid and, where the name tells it, tracklet
_PATTERNS = {
    "mars": re.compile(
        rf"(?P<pid>\d{{4,}}|00-1)C(?P<camid>\d+)T(?P<tracklet>\d{{4,}})F\d{{3,}}{_SUFFIX}", re.IGNORECASE
    ),
    "market1501": re.compile(rf"(?P<pid>-1|\d{{4}})_c(?P<camid>\d)s\d_\d{{6}}_\d{{2}}{_SUFFIX}", re.IGNORECASE),
    "msmt17": re.compile(
        rf"(?P<pid>\d{{4}})_\d{{3}}_(?P<camid>\d{{2}})_\d{{4}}(?:morning|noon|afternoon)_\d+_\d+(?:_ex)?{_SUFFIX}", re.I
    ),
    "ls-vid": re.compile(rf"(?P<pid>\d{{4}})_(?P<tracklet>\d{{4}})_(?P<camid>\d{{2}})_\d{{4,}}{_SUFFIX}", re.I),
}


class Mixture(NamedTuple):
    """What the names of one folder say it holds: a layout, and how many persons, cameras and, where names tell, tracklets."""

    layout: str
    persons: int
    cameras: int
    tracklets: int


def _layout_of(names: Sequence[str]) -> str | None:
    """The dataset whose pattern most of the names fit; None where there is none."""
    for layout, pattern in _PATTERNS.items():
        if names and sum(pattern.fullmatch(name) is not None for name in names) > len(names) / 2:
            return layout
    return None


def mixture(names: Iterable[str]) -> Mixture | None:
    """What one folder holds, where its names say that it is more than one tracklet; None where they do not.

    Args:
        names: of the images, without their folder.
    """
    names = list(names)
    if (layout := _layout_of(names)) is None:
        return None
    found = [match for name in names if (match := _PATTERNS[layout].fullmatch(name))]
    persons, cameras = ({match[part] for match in found} for part in ("pid", "camid"))
    tracklets = {match.groups() for match in found}
    return Mixture(layout, len(persons), len(cameras), len(tracklets)) if len(tracklets) > 1 else None
