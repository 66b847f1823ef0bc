"""Many small files as a few large ones with random access: the folder ``bbox_train.pack`` replaces ``bbox_train``.

``00000.zip`` … hold the files, uncompressed, so that any ZIP tool lists, tests and unpacks them. ``index.npy`` has one row per file,
sorted by name: the position of its bytes and their CRC-32. It is memory-mapped, so that processes share it. ``pack.json`` lists the parts
of the pack and is written last; a pack without it is unfinished.

Shapes: F files.
"""

from __future__ import annotations

import functools
import hashlib
import itertools
import json
import os
import re
import zlib
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from reid.errors import DataError
from reid.files import NPY_ERRORS

SUFFIX = ".pack"
ABOUT, INDEX = "pack.json", "index.npy"
_SHARD = re.compile(r"[0-9]{5}\.zip")  # so that no shard can lie outside of the pack
_NEAR = 2**14  # bytes; a smaller gap between two files is read along with them


class Shard(NamedTuple):
    """The entry of one ZIP file in ``pack.json``: its name, number of files, size in bytes, SHA-256."""

    file: str
    files: int
    bytes: int
    sha256: str


class Pack:
    """A finished pack, open for reading; if it is replaced meanwhile, the old one is still read.

    Forked processes may use its file descriptors too, since reads do not depend on a file position.

    Args:
        folder: ends in ``.pack``.

    Raises:
        DataError: the pack is unfinished, or its index or a shard is damaged or missing.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        index_sha256, self.shards = _read_about(folder)
        self.first = [0, *itertools.accumulate(shard.files for shard in self.shards)]  # first row of each shard
        self.index = _read_index(folder / INDEX, index_sha256, self.first[-1])
        self.names = self.index["name"]
        self._descriptors: list[int] = []
        try:
            for shard in self.shards:
                self._descriptors.append(_open(folder / shard.file, shard.bytes))
        except DataError:
            self.close()
            raise

    def __len__(self) -> int:
        return len(self.names)

    def close(self) -> None:
        """Close the shards."""
        while self._descriptors:
            os.close(self._descriptors.pop())

    def span(self, folder: bytes) -> tuple[int, int]:
        """The range of rows of all files below a folder, such as ``b"0001"``; of all files for ``b""``."""
        if not folder:
            return 0, len(self)
        return bisect_left(self.names, folder + b"/"), bisect_left(self.names, folder + b"0")  # ASCII "0" follows "/"

    def find(self, name: bytes, first: int = 0, last: int | None = None) -> int | None:
        """Find the row of a file among rows first..last-1; None if it is not there."""
        row = bisect_left(self.names, name, first, last)
        return row if row < len(self) and self.names[row] == name else None

    def expect(self, rows: Sequence[int]) -> None:
        """Prefetch files that will be read soon, in parallel and without blocking; neighbours as one range."""
        ordered = np.array(sorted(set(rows)))
        shard = np.searchsorted(self.first, ordered, side="right") - 1
        begin = self.index["offset"][ordered].astype(np.int64)
        end = begin + self.index["size"][ordered]
        cuts = np.flatnonzero((shard[1:] != shard[:-1]) | (begin[1:] - end[:-1] > _NEAR)) + 1
        for first, last in itertools.pairwise([0, *cuts.tolist(), len(ordered)]):
            length = int(end[last - 1] - begin[first])
            advise(self._descriptors[shard[first]], int(begin[first]), length, "WILLNEED")

    def read(self, row: int) -> bytes:
        """Read the bytes of one file.

        Raises:
            DataError: they cannot be read or are damaged.
        """
        name, offset, size, crc = self.index[row].item()
        shard = bisect_right(self.first, row) - 1
        try:
            data = read_at(self._descriptors[shard], size, offset)
        except OSError as error:
            file = self.folder / self.shards[shard].file
            raise DataError(f"{file}: cannot read {os.fsdecode(name)}: {error.strerror}") from None
        if len(data) != size or zlib.crc32(data) != crc:
            raise DataError(
                f"{self.folder / self.shards[shard].file}: {os.fsdecode(name)} is damaged: expected {size} bytes with CRC-32 {crc:08x}, "
                f"got {len(data)} with {zlib.crc32(data):08x}; copy this shard again"
            )
        return data


@functools.cache
def _opened(folder: str) -> Pack:
    return Pack(Path(folder))


def stand_in(root: Path) -> Pack | None:
    """The pack of a folder that does not exist, opened once per process; None if the folder exists or has no pack.

    Raises:
        DataError: the pack cannot be used.
    """
    folder = root.with_name(root.name + SUFFIX)
    return _opened(os.path.abspath(folder)) if not os.path.lexists(root) and folder.is_dir() else None


def is_any_open() -> bool:
    """Whether this process has opened a pack."""
    return _opened.cache_info().currsize > 0


def read_at(descriptor: int, size: int, offset: int) -> bytes:
    """Read bytes of an open file at an offset, whatever its file position."""
    if hasattr(os, "pread"):
        return os.pread(descriptor, size, offset)
    os.lseek(descriptor, offset, os.SEEK_SET)  # Windows has no pread; there no other process shares this descriptor
    return os.read(descriptor, size)


def advise(descriptor: int, offset: int, length: int, advice: str) -> None:
    """Advise the kernel how a part of a file will be used, if supported: ``WILLNEED``, ``DONTNEED``."""
    if hasattr(os, "posix_fadvise"):  # not on macOS and Windows
        os.posix_fadvise(descriptor, offset, length, getattr(os, f"POSIX_FADV_{advice}"))


def digest_of(file: Path) -> str:
    """Compute the SHA-256 of a file, as sha256sum prints it."""
    with open(file, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _read_about(folder: Path) -> tuple[str, list[Shard]]:
    """Read the index's SHA-256 and the shards from ``pack.json``."""
    file = folder / ABOUT
    try:
        about = json.loads(file.read_bytes())
        schema, index_sha256 = about["schema"], str(about["index_sha256"])
        shards = [Shard(str(s["file"]), int(s["files"]), int(s["bytes"]), str(s["sha256"])) for s in about["shards"]]
        if wrong := next((shard.file for shard in shards if not _SHARD.fullmatch(shard.file)), None):
            raise ValueError(f"a shard is called {wrong!r}")
    except FileNotFoundError:
        ways = "robust-reid pack --resume auto continues an unfinished pack; copy an incomplete copy again"
        raise DataError(f"{folder}: this pack is unfinished, or an incomplete copy without {ABOUT}; {ways}") from None
    except (OSError, ValueError, KeyError, TypeError, OverflowError, RecursionError) as error:
        raise DataError(f"{file}: damaged ({error!r}); copy it again, or pack the folder again") from None
    if schema != 1:
        raise DataError(f"{file}: expected schema 1, got {schema}; pack the folder again")
    return index_sha256, shards


def _read_index(file: Path, sha256: str, rows: int) -> np.ndarray:
    try:
        digest = digest_of(file)
        if digest != sha256:
            raise ValueError(f"expected SHA-256 {sha256}, got {digest}")
        index = np.asarray(np.load(file, mmap_mode="r", allow_pickle=False))  # a plain view: memmap is slow to index
        if len(index) != rows:
            raise ValueError(f"expected {rows} rows, got {len(index)}")
    except NPY_ERRORS as error:
        reason = getattr(error, "strerror", None) or error
        raise DataError(f"{file}: {reason}; copy it again, or pack the folder again") from None
    return index


def _open(file: Path, size: int) -> int:
    try:
        descriptor = os.open(file, os.O_RDONLY | getattr(os, "O_BINARY", 0))  # Windows would convert line ends
    except OSError as error:
        raise DataError(f"{file}: cannot open this shard: {error.strerror}; copy it again") from None
    if (got := os.fstat(descriptor).st_size) != size:
        os.close(descriptor)
        raise DataError(f"{file}: expected {size} bytes, got {got}; copy this shard again")
    return descriptor
