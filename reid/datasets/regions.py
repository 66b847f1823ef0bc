"""A part of a picture, or of a video's frame, as a name: ``gate3.mkv#frame=12&xywh=10,20,50,100``, in the manner of W3C media fragments.

Frames count from 0 in the order in which they are shown; the rest is left, top, width and height in pixels. Whoever reads a picture by its
name (`reid.datasets.decoding`) reads such a part of it.

Shapes: H W pixels.
"""

from __future__ import annotations

import re
from typing import NamedTuple

import numpy as np

_NAME = re.compile(r"#(?:frame=(?P<frame>\d+))?&?(?:xywh=(?P<box>\d+,\d+,\d+,\d+))?\Z")
_SIGN = "#"
SIDES = ("x", "y", "w", "h")  # columns of a box in tables
MOST_FRAMES = 10_000_000  # of a video in one row of a table: 4.6 days at 25 frames/s


class Box(NamedTuple):
    """Whole pixels; the right and lower ones are the first outside. They may lie outside of the picture."""

    left: int
    top: int
    right: int
    bottom: int

    @classmethod
    def of(cls, x: float, y: float, w: float, h: float) -> Box | None:
        """The nearest whole pixels of a box; None where it lies left of every picture or above it, or has no area."""
        box = cls(max(round(x), 0), max(round(y), 0), round(x + w), round(y + h))
        return box if box.left < box.right and box.top < box.bottom else None

    def cut(self, pixels_HWC: np.ndarray) -> np.ndarray | None:
        """That part of a picture; None where all of it lies outside."""
        part = pixels_HWC[self.top : self.bottom, self.left : self.right]
        return part if part.size else None


class Region(NamedTuple):
    """What is read of a file: a frame, where it is a video, and a part of it, where that is not all."""

    frame: int | None
    box: Box | None


def named(path: str, frame: int | None, box: Box | None) -> str:
    """The name of a part of a file."""
    parts = [] if frame is None else [f"frame={frame}"]
    if box is not None:
        parts.append(f"xywh={box.left},{box.top},{box.right - box.left},{box.bottom - box.top}")
    return _SIGN.join([path, "&".join(parts)] if parts else [path])


def split(path: str) -> tuple[str, Region | None]:
    """The file, and what is read of it; None where that is all of a picture."""
    if _SIGN not in path or (match := _NAME.search(path)) is None or not (match["frame"] or match["box"]):
        return path, None
    box = None
    if match["box"]:
        left, top, width, height = map(int, match["box"].split(","))
        box = Box(left, top, left + width, top + height)
    return path[: match.start()], Region(int(match["frame"]) if match["frame"] else None, box)


def file_of(path: str) -> str:
    """The file that a name is of."""
    return split(path)[0]
