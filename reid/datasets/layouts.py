"""File names by which public datasets are known: they say which person and camera a picture shows, if the names are to be believed."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import NamedTuple

_SUFFIX = r"(?:\.jpg)?\.(?:jpg|jpeg|png|bmp)"
# kind of robust-reid import -> person, camera and, where the name tells it, tracklet
_PATTERNS = {
    "mars": re.compile(rf"(\d{{4,}}|00-1)C(\d+)T(\d{{4,}})F\d{{3,}}{_SUFFIX}", re.IGNORECASE),
    "market1501": re.compile(rf"(-1|\d{{4}})_c(\d)s\d_\d{{6}}_\d{{2}}{_SUFFIX}", re.IGNORECASE),
    "msmt17": re.compile(
        rf"(\d{{4}})_\d{{3}}_(\d{{2}})_\d{{4}}(?:morning|noon|afternoon)_\d+_\d+(?:_ex)?{_SUFFIX}", re.I
    ),
    "ls-vid": re.compile(rf"(\d{{4}})_c(\d{{1,2}})_[a-z]?\d+(?:_[a-z]?\d+)*{_SUFFIX}", re.IGNORECASE),
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
    found = [match.groups() for name in names if (match := _PATTERNS[layout].fullmatch(name))]
    persons, cameras = ({parts[i] for parts in found} for i in (0, 1))
    tracklets = set(found)
    return Mixture(layout, len(persons), len(cameras), len(tracklets)) if len(tracklets) > 1 else None
