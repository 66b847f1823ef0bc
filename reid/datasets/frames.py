"""Read the bytes of an image from its file, or from the pack that replaces its folder."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from reid.datasets import pack
from reid.errors import DataError


class _Packed(NamedTuple):
    """A folder inside a pack: the rows first..last-1, whose names begin with `prefix`."""

    pack: pack.Pack
    prefix: bytes
    first: int
    last: int

    def row(self, name: str) -> int | None:
        """Find the pack's row of an image in this folder, None if there is none."""
        return self.pack.find(self.prefix + os.fsencode(name), self.first, self.last)


_packed: dict[str, _Packed] = {}  # by absolute folder, so that each folder is looked up on disk once


def read(path: str | Path) -> bytes:
    """Read the content of one image file.

    If a folder above it does not exist but its pack does, the image is read from the pack. An existing folder takes precedence.

    Args:
        path: of the image, as if nothing were packed.

    Raises:
        DataError: the image is missing, cannot be read, or is damaged in its pack.
    """
    folder, name = _split(path)
    place = _packed.get(folder)
    if place is None:
        try:
            with open(path, "rb", buffering=0) as file:
                return file.read()
        except (OSError, ValueError) as error:  # ValueError: a NUL in the name
            place = _find(folder) if isinstance(error, FileNotFoundError) else None
            if place is None:
                reason = getattr(error, "strerror", None) or error
                raise DataError(f"{path}: cannot read this image: {reason}; is the dataset complete?") from None
    row = place.row(name)
    if row is None:
        raise DataError(f"{path}: cannot read this image: {place.pack.folder} has no image of this name")
    return place.pack.read(row)


def is_packed(path: str | Path) -> bool:
    """Whether the image is in a pack that replaces a folder above it.

    Raises:
        DataError: the pack cannot be used.
    """
    folder, name = _split(path)
    place = _packed.get(folder) or _find(folder)
    return place is not None and place.row(name) is not None


def expect(paths: Iterable[str | Path]) -> None:
    """Prefetch packed images that will be read soon, in parallel instead of one after another; images outside packs are skipped.

    Args:
        paths: such as those of a batch.
    """
    if not pack.is_any_open():
        return
    rows: dict[pack.Pack, list[int]] = {}
    for path in paths:
        folder, name = _split(path)
        place = _packed.get(folder)
        if place is None:
            with contextlib.suppress(DataError):  # `read` reports it
                place = _find(folder)
        if place and (row := place.row(name)) is not None:
            rows.setdefault(place.pack, []).append(row)
    for held, expected in rows.items():
        held.expect(expected)


def _split(path: str | Path) -> tuple[str, str]:
    """Split a path into the absolute folder and the name in it."""
    folder, _, name = os.fspath(path).rpartition("/")
    return (folder if folder.startswith("/") else os.path.join(os.getcwd(), folder)), name


def _find(folder: str) -> _Packed | None:
    place = Path(folder)
    for root in (place, *place.parents):
        if os.path.lexists(root):
            return None
        if held := pack.stand_in(root):
            inside = b"" if root == place else os.fsencode(place.relative_to(root).as_posix())
            _packed[folder] = _Packed(held, inside + b"/" if inside else b"", *held.span(inside))
            return _packed[folder]
    return None
