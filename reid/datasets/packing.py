"""Pack the files of a folder, comparing each with its packed copy; and verify a pack.

Shapes: F files, n files of a shard.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import logging
import os
import re
import struct
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np

from reid.datasets.pack import ABOUT, INDEX, Pack, Shard, advise, digest_of, read_at
from reid.errors import ConfigError, DataError, in_range
from reid.files import LOCK, atomic, exclusive_lock, flush_to_disk

logger = logging.getLogger(__name__)

SHARD_BYTES = 10**9
_SHARD = re.compile(r"\d{5}\.zip")
_UNFINISHED = "pack.unfinished"  # exists while a pack is being written: everything beside it may be replaced
_MOST_SHARDS = 256  # a process holds all of them open, and the usual limit is 1024 open files
_LOCAL_HEADER = struct.Struct("<4s22xHH")  # signature; lengths of the name and the extra field, which precede the data

Tick = Callable[[int], object]


def _silent(files: int) -> None:
    pass


def write(
    root: Path,
    names: list[bytes],
    folder: Path,
    *,
    shard_bytes: float = SHARD_BYTES,
    keep: bool = False,
    tick: Tick = _silent,
) -> None:
    """Pack files, and compare each with its packed copy byte by byte. The files themselves are kept.

    Args:
        root: folder of the files.
        names: F relative paths with ``/``, sorted.
        folder: the pack; each of its existing shards is replaced when the new one is complete.
        shard_bytes: of files in a shard; 0 < shard_bytes <= 4e9.
        keep: keep existing shards whose content is right.
        tick: called with a number of files as they are written, and again as they are compared.

    Raises:
        ConfigError: the shard size is out of its range or smaller than a file, or gives too many shards.
        DataError: there is no file; a file cannot be read or changes meanwhile; the pack cannot be written; another process is writing it.
    """
    plan = _plan(root, names, shard_bytes)
    files = [folder / f"{number:05d}.zip" for number in range(len(plan))]
    with exclusive_lock(folder, "another process is writing this pack; wait until it finishes"):
        (folder / _UNFINISHED).touch()
        (folder / ABOUT).unlink(missing_ok=True)
        for left in folder.iterdir():
            if (_SHARD.fullmatch(left.name) and left not in files) or left.name.endswith(".tmp"):
                left.unlink()
        index = np.zeros(len(names), _row_type(max(map(len, names))))
        shards = []
        for file, (first, last) in zip(files, plan, strict=True):
            index[first:last] = _shard(file, root, names[first:last], keep, tick)
            shards.append(Shard(file.name, last - first, file.stat().st_size, digest_of(file)))
        _finish(folder, shards, index)
        (folder / _UNFINISHED).unlink()


def verify(folder: Path, tick: Tick = _silent) -> Pack:
    """Verify every byte of a pack; returns it closed.

    Raises:
        DataError: it is damaged; one line for each damaged shard.
    """
    problems: list[str] = []
    with contextlib.closing(Pack(folder)) as pack:
        for shard, (first, last) in zip(pack.shards, itertools.pairwise(pack.first), strict=True):
            try:
                for row in range(first, last):
                    pack.read(row)
                    tick(1)
                if digest_of(folder / shard.file) != shard.sha256:
                    raise DataError(f"{folder / shard.file}: damaged outside its member files; copy this shard again")
            except DataError as error:
                problems += error.problems
    if problems:
        raise DataError(*problems)
    return pack


def state(folder: Path) -> str:
    """The state of a pack: ``none``, ``unfinished`` or ``finished``.

    Raises:
        DataError: the folder holds something else.
    """
    if (folder / ABOUT).is_file():
        return "finished"
    if (folder / _UNFINISHED).is_file():
        return "unfinished"
    if folder.exists() and (not folder.is_dir() or {*os.listdir(folder)} - {LOCK}):
        raise DataError(f"{folder}: exists and is not a pack; move it first")
    return "none"


def _plan(root: Path, names: list[bytes], shard_bytes: float) -> list[tuple[int, int]]:
    """Assign files to shards in order, as many as fit: the first and one past the last file of each."""
    in_range("shard size", shard_bytes, 0, 4e9, above=True)  # offsets have 32 bits
    sizes = np.array([_size(root, name) for name in names])
    ends, plan, first = np.cumsum(sizes), [], 0
    if len(names) and sizes.max() > shard_bytes:
        name = os.fsdecode(names[int(sizes.argmax())])
        raise ConfigError(
            f"{root / name}: {sizes.max()} bytes do not fit into a shard of {shard_bytes:g} bytes; choose a larger --shard-size"
        )
    while first < len(names):
        before = ends[first - 1] if first else 0
        last = int(np.searchsorted(ends, before + shard_bytes, side="right"))
        plan.append((first, last))
        first = last
    if len(plan) > _MOST_SHARDS:
        raise ConfigError(f"{root}: {len(plan)} shards, expected {_MOST_SHARDS} at most; choose a larger --shard-size")
    if not plan:
        raise DataError(f"{root}: expected files to pack, got none")
    return plan


def _size(root: Path, name: bytes) -> int:
    try:
        return os.stat(os.path.join(root, os.fsdecode(name))).st_size
    except OSError as error:
        raise DataError(f"{root / os.fsdecode(name)}: cannot read this file: {error.strerror}") from None


def _content(root: Path, name: bytes) -> bytes:
    try:
        with open(os.path.join(root, os.fsdecode(name)), "rb", buffering=0) as file:
            return file.read()
    except OSError as error:
        raise DataError(f"{root / os.fsdecode(name)}: cannot read this file: {error.strerror}") from None


def _shard(file: Path, root: Path, names: list[bytes], keep: bool, tick: Tick) -> np.ndarray:
    """Write a shard unless it may be kept; returns its index rows."""
    if keep and file.exists():
        try:
            rows = _compared(file, root, names, tick)
        except DataError as error:
            logger.info("%s; writing this shard again", error)
        else:
            tick(len(names))
            return rows
    with atomic(file) as temporary:
        with zipfile.ZipFile(temporary, "w") as archive:
            for name in names:
                archive.writestr(_member(root, name), _content(root, name))
                tick(1)
        return _compared(temporary, root, names, tick)


def _member(root: Path, name: bytes) -> zipfile.ZipInfo:
    """Header of an uncompressed file, with a fixed date so that equal files give equal shards."""
    try:
        member = zipfile.ZipInfo(name.decode())
    except UnicodeDecodeError:
        raise DataError(f"{root / os.fsdecode(name)!r}: expected a name in UTF-8; rename this file") from None
    member.external_attr = 0o644 << 16
    return member


def _compared(file: Path, root: Path, names: list[bytes], tick: Tick) -> np.ndarray:
    """Compare the files of a shard with those of the folder; returns its index rows."""
    rows = _directory(file)
    if rows["name"].tolist() != names:
        raise DataError(f"{file}: contains different files from {root}")
    flush_to_disk(file)
    with open(file, "rb", buffering=0) as shard:
        advise(shard.fileno(), 0, 0, "DONTNEED")  # drop the page cache, to read what is on disk
        for name, offset, size, crc in rows.tolist():
            data = read_at(shard.fileno(), size, offset)
            if zlib.crc32(data) != crc or data != _content(root, name):
                raise DataError(f"{file}: {os.fsdecode(name)} differs from the file in {root}")
            tick(1)
    return rows


def _row_type(width: int) -> np.dtype:
    return np.dtype([("name", f"S{width}"), ("offset", "<u4"), ("size", "<u4"), ("crc", "<u4")])


def _directory(file: Path) -> np.ndarray:
    """Read the (n,) index rows from a ZIP file itself."""
    try:
        with zipfile.ZipFile(file) as archive, open(file, "rb", buffering=0) as shard:
            members = archive.infolist()
            rows = np.zeros(len(members), _row_type(max(len(member.filename.encode()) for member in members)))
            for row, member in enumerate(members):
                header = read_at(shard.fileno(), _LOCAL_HEADER.size, member.header_offset)
                signature, *lengths = _LOCAL_HEADER.unpack(header)
                if signature != b"PK\x03\x04" or member.compress_type != zipfile.ZIP_STORED:
                    raise ValueError(f"{member.filename} has an invalid header or is compressed")
                offset = member.header_offset + _LOCAL_HEADER.size + sum(lengths)
                rows[row] = member.filename.encode(), offset, member.file_size, member.CRC
    except (OSError, zipfile.BadZipFile, NotImplementedError, OverflowError, ValueError, struct.error) as error:
        raise DataError(f"{file}: damaged ({error}); copy this shard again") from None
    return rows


def _finish(folder: Path, shards: list[Shard], index: np.ndarray) -> None:
    with atomic(folder / INDEX) as temporary, open(temporary, "wb") as stream:
        np.save(stream, index, allow_pickle=False)
    about = {
        "schema": 1,
        "files": len(index),
        "bytes": int(index["size"].sum(dtype=np.int64)),
        "index_sha256": digest_of(folder / INDEX),
        "shards": [shard._asdict() for shard in shards],
    }
    with atomic(folder / ABOUT) as temporary:
        temporary.write_text(json.dumps(about, indent=1) + "\n")
