"""Which files of a folder are images, and which are hidden or system files: one rule for every loader and command."""

from __future__ import annotations

import os
import re
from pathlib import Path

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff")
VIDEO_SUFFIXES = (".mp4", ".avi", ".mov", ".mkv", ".webm", ".m4v", ".mpg", ".mpeg", ".ts", ".wmv")
WIDE = 1.3  # width over height from which an image is not a crop of a person; camera frames are 4:3 or wider
_SYSTEMS = {
    "__macosx",
    "thumbs.db",
    "ehthumbs.db",
    "desktop.ini",
    "@eadir",
    "$recycle.bin",
    "system volume information",
}
_IMAGE = re.compile(rf"(?:.*/)?[^./][^/]*({'|'.join(map(re.escape, IMAGE_SUFFIXES))})", re.IGNORECASE | re.DOTALL)


def is_rubbish(name: str) -> bool:
    """Whether a file or folder is hidden or a system's own: ``._x.jpg``, ``.DS_Store``, ``Thumbs.db``, ``__MACOSX``.

    Args:
        name: without a folder.
    """
    return name.startswith(".") or name.lower() in _SYSTEMS


def is_image(name: str) -> bool:
    """Whether a name, with or without folders, is that of an image and not hidden."""
    return _IMAGE.fullmatch(name) is not None  # no name in `_SYSTEMS` has an image suffix


def is_video(name: str) -> bool:
    """Whether a name, with or without folders, is that of a video and neither hidden nor a system's own."""
    return name.lower().endswith(VIDEO_SUFFIXES) and not is_rubbish(name.rpartition("/")[2])


def entries(folder: Path) -> list[str]:
    """List the names in a folder without hidden and system files, sorted by code point.

    Raises:
        OSError: not a folder, or it cannot be read.
    """
    return sorted(name for name in os.listdir(folder) if not is_rubbish(name))


def images_in(folder: Path) -> list[str]:
    """List the names of the images directly in a folder, sorted by code point.

    Raises:
        OSError: not a folder, or it cannot be read.
    """
    return [name for name in entries(folder) if is_image(name)]
