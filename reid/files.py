"""Files: where datasets lie, how files appear whole or not at all, how one program keeps a folder to itself, what a ZIP vouches for."""

from __future__ import annotations

import contextlib
import os
import re
import socket
import struct
import warnings
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from tokenize import TokenError
from typing import BinaryIO

from reid.errors import DataError

# What numpy raises on a damaged .npy or .npz: it reads a header as Python's own syntax, and believes the sizes in it.
NPY_ERRORS = (
    *(OSError, ValueError, EOFError, TypeError, SyntaxError, LookupError, OverflowError, MemoryError, RecursionError),
    *(NotImplementedError, RuntimeError, TokenError, struct.error, zlib.error, zipfile.BadZipFile),
)
JSON_ERRORS = (OSError, ValueError, RecursionError)  # of reading JSON: text that is no UTF-8 is a ValueError
MOST_BRACKETS = 300  # in a YAML file; configs have some twenty
LOCK = ".lock"  # there while a program holds the folder; one that a kill left behind bars nobody


@contextlib.contextmanager
def atomic(path: Path, *, flush: bool = True) -> Iterator[Path]:
    """A temporary file beside `path` to write to; it becomes `path` when the block ends without an error, else it is removed.

    Args:
        path: of the file. What a killed process has left of an earlier try is removed.
        flush: wait until the disk has it; without, many small files are quick: a power cut may leave the last ones empty, and what a
            killed process has left stays until `remove_left_behind`.

    Raises:
        DataError: the folder cannot be made or written.
    """
    temporary = path.with_name(f".{path.name}.{_host()}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if flush:
            remove_left_behind(path.parent, path.name)
        yield temporary
        if flush:
            flush_to_disk(temporary)
        os.replace(temporary, path)
    except OSError as error:
        raise DataError(
            f"{path}: cannot write this file: {error.strerror or error}; choose a writable folder"
        ) from None
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink()


def remove_left_behind(folder: Path, name: str | None = None) -> None:
    """Removes the temporary files of processes of this machine that live no more.

    Args:
        folder: that holds them.
        name: of the file that they were to become; None: any.
    """
    ours = re.compile(rf"\.{'.*' if name is None else re.escape(name)}\.{_host()}\.(\d+)\.tmp", re.DOTALL)
    with contextlib.suppress(OSError):
        for entry in os.listdir(folder):
            if (match := ours.fullmatch(entry)) and not lives(int(match[1])):
                (folder / entry).unlink(missing_ok=True)


def lives(pid: int) -> bool:
    """Whether a process of this machine lives; True where there is no harmless way to ask."""
    if os.name != "posix":
        return True
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:  # it is another user's
        return True
    return True


def _host() -> str:
    """This machine in eight letters: folders may be shared."""
    return f"{zlib.crc32(socket.gethostname().encode()):08x}"


def flush_to_disk(file: Path) -> None:
    """Waits until the disk has a file's content.

    Raises:
        OSError: it cannot.
    """
    with open(file, "r+b" if os.name == "nt" else "rb") as written:  # Windows flushes only what may be written
        os.fsync(written.fileno())


@contextlib.contextmanager
def exclusive_lock(folder: Path, busy: str) -> Iterator[None]:
    """Holds a folder for this program; makes it where it is not there.

    Where a system or file system has no locks, a file that names its holder stands in for one.

    Args:
        folder: holds `LOCK` until the block ends.
        busy: what to say where another program holds it, and what to do then.

    Raises:
        DataError: another program holds it; or it cannot be made, written or locked.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the file that stands in
        import filelock

        file = folder / LOCK
        lock = filelock.FileLock(file, timeout=0)
        try:
            folder.mkdir(parents=True, exist_ok=True)
            lock.acquire()
        except filelock.Timeout:
            raise DataError(f"{folder}: {busy}") from None
        except OSError as error:
            reason = error.strerror or error
            raise DataError(
                f"{file}: cannot lock this folder: {reason}; choose a writable one on a file system with locks"
            ) from None
    try:
        yield
    finally:
        if filelock.has_fcntl:  # elsewhere giving it back removes the file
            file.unlink(missing_ok=True)
        lock.release()


_LOCAL_HEADER = struct.Struct(
    "<4s2xHH4x3IHH"
)  # signature, flags, method, CRC-32, both sizes, lengths of name and extra field
_ENCRYPTED, _SIZES_BEHIND = 0x1, 0x8  # flags of a member
_LONGEST_DESCRIPTOR = 24  # bytes behind a member whose sizes stand there


def check_zip(file: BinaryIO, *, contents: bool = True) -> None:
    """Compares what a ZIP file says of its members at its end, before each of them and by their checksums.

    Readers look at some of these places only: one changed bit in the directory at the end can hide a member, or give it another's content.

    Args:
        file: open for reading; left where it is.
        contents: read every member against its CRC-32. Without, the reader must, as numpy's does.

    Raises:
        zipfile.BadZipFile: it is none, or they disagree.
        OSError: it cannot be read.
    """
    place = file.tell()
    try:
        with zipfile.ZipFile(file) as archive:
            members = sorted(archive.infolist(), key=lambda member: member.header_offset)
            if len({member.filename for member in members}) < len(members):
                raise zipfile.BadZipFile("two members have one name")
            end = 0
            for member in members:
                end = _checked_member(file, member, end)
            if archive.start_dir - end > _LONGEST_DESCRIPTOR:
                raise zipfile.BadZipFile("its directory leaves members out")
            if contents and (damaged := archive.testzip()):
                raise zipfile.BadZipFile(f"checksum of {damaged} differs")
    except (NotImplementedError, RuntimeError, ValueError, EOFError, struct.error, zlib.error) as error:
        raise zipfile.BadZipFile(str(error) or "cut short") from None  # what zipfile raises on damaged fields
    finally:
        file.seek(place)


def _checked_member(file: BinaryIO, member: zipfile.ZipInfo, end: int) -> int:
    """Where the member ends; `end` is where the one before it did."""
    if not 0 <= member.header_offset - end <= _LONGEST_DESCRIPTOR:
        raise zipfile.BadZipFile(f"{member.filename} does not follow the member before it")
    file.seek(member.header_offset)
    signature, flags, method, crc, packed, size, *lengths = _LOCAL_HEADER.unpack(file.read(_LOCAL_HEADER.size))
    name = file.read(lengths[0])
    if member.flag_bits & _ENCRYPTED or member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise zipfile.BadZipFile(f"{member.filename} is encrypted, or compressed in an unusual way")
    if member.compress_type == zipfile.ZIP_STORED and member.compress_size != member.file_size:
        raise zipfile.BadZipFile(f"{member.filename} has two sizes")
    told = [b"PK\x03\x04", member.flag_bits, member.compress_type, member.orig_filename.encode()]
    found = [signature, flags, method, name]
    if not flags & _SIZES_BEHIND:
        told += [member.CRC, member.compress_size, member.file_size]
        found += [crc, *(s if s < 2**32 - 1 else t for s, t in ((packed, told[-2]), (size, told[-1])))]
    if told != found:
        raise zipfile.BadZipFile(f"{member.filename} is called or sized otherwise in the directory")
    return member.header_offset + _LOCAL_HEADER.size + sum(lengths) + member.compress_size


def text_of(file: Path) -> str:
    """A text file in UTF-8, whatever the locale; a mark at its beginning is left out.

    Raises:
        DataError: it cannot be read, or is no such text.
    """
    try:
        return file.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise DataError(f"{file}: cannot read this file: {error.strerror or error}") from None
    except UnicodeDecodeError as error:
        raise DataError(f"{file}: not text in UTF-8 ({error.reason} at byte {error.start}); save it as UTF-8") from None


def require_few_brackets(text: str) -> str:
    """The YAML text, unless it has so many brackets that PyYAML takes minutes over it: its time grows with the cube of the depth.

    Raises:
        ValueError: more than `MOST_BRACKETS`.
    """
    if text.count("[") + text.count("{") > MOST_BRACKETS:
        raise ValueError(f"more than {MOST_BRACKETS} brackets")
    return text


def data_root(configured: str | None) -> Path:
    """The folder that holds one folder per dataset: the config's, else REID_DATA's, else ./data."""
    return Path(configured or os.environ.get("REID_DATA") or "data").expanduser()


def holds_json_list(file: Path) -> bool:
    """Whether a JSON file is a list, by its first character."""
    with open(file, "rb") as stream:
        return stream.read(64).removeprefix(b"\xef\xbb\xbf").lstrip()[:1] == b"["
