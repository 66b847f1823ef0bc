"""The bytes of an image file."""

from __future__ import annotations

from pathlib import Path

from reid.errors import DataError


def read(path: Path) -> bytes:
    """The content of one image file.

    Raises:
        DataError: it is missing or cannot be read.
    """
    try:
        return path.read_bytes()
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        reason = getattr(error, "strerror", error)
        raise DataError(f"{path}: cannot read this image: {reason}; is the dataset complete?") from None
