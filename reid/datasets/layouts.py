"""File name patterns of public datasets, which give the person and the camera of an image."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import NamedTuple

_SUFFIX = r"(?:\.jpg)?\.(?:jpg|jpeg|png|bmp)"
# kind of robust-reid import -> groups pid, camid and, if names contain it, tracklet
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
    """The content of a folder by its file names: the layout, and the numbers of persons, cameras and tracklets."""

    layout: str
    persons: int
    cameras: int
    tracklets: int


def _layout_of(names: Sequence[str]) -> str | None:
    """Find the dataset whose pattern more than half of the names match; None if there is none."""
    for layout, pattern in _PATTERNS.items():
        if names and sum(pattern.fullmatch(name) is not None for name in names) > len(names) / 2:
            return layout
    return None


def mixture(names: Iterable[str]) -> Mixture | None:
    """Describe a folder whose file names show more than one tracklet; None if they do not.

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
