"""File utilities: dataset root, atomic writes, locks of folders, checks of ZIP files."""

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

# Raised by numpy on a damaged .npy or .npz: it parses the header as Python syntax, and trusts the sizes in it.
NPY_ERRORS = (
    *(OSError, ValueError, EOFError, TypeError, SyntaxError, LookupError, OverflowError, MemoryError, RecursionError),
    *(NotImplementedError, RuntimeError, TokenError, struct.error, zlib.error, zipfile.BadZipFile),
)
JSON_ERRORS = (OSError, ValueError, RecursionError)  # raised by reading JSON: text that is not UTF-8 is a ValueError
MOST_BRACKETS = 300  # in a YAML file; configs have about twenty
LOCK = ".lock"  # lock file in a locked folder; a stale one left by a kill does not lock


@contextlib.contextmanager
def atomic(path: Path, *, flush: bool = True) -> Iterator[Path]:
    """Yields a temporary file beside `path`, which is renamed to `path` if the block ends without an error, and removed otherwise.

    Args:
        path: the file to write. Temporary files that a killed process left for it are removed.
        flush: flush to disk before the rename. Without it many small files are written fast, but a power failure may leave the last ones
            empty, and temporary files of a killed process stay until `remove_left_behind`.

    Raises:
        DataError: the folder cannot be created, or the file cannot be written.
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
    """This machine and its process numbers, in eight letters: folders may be shared, and containers of one name count processes apart."""
    numbers = "/proc/self/ns/pid"
    space = os.stat(numbers).st_ino if os.path.exists(numbers) else 0
    return f"{zlib.crc32(f'{socket.gethostname()} {space}'.encode()):08x}"


def flush_to_disk(file: Path) -> None:
    """Flushes a file's content to disk (fsync).

    Raises:
        OSError: the file cannot be flushed.
    """
    with open(file, "r+b" if os.name == "nt" else "rb") as written:  # Windows flushes only writable files
        os.fsync(written.fileno())


@contextlib.contextmanager
def exclusive_lock(folder: Path, busy: str) -> Iterator[None]:
    """Locks a folder for this program; creates the folder if it does not exist.

    On a system or file system without locks, a file that names its holder takes the place of the lock.

    Args:
        folder: contains the file `LOCK` until the block ends.
        busy: message if another program holds the lock: that it does, and what the user can do.

    Raises:
        DataError: another program holds the lock; or the folder cannot be created, written or locked.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that a file takes the place of the lock
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
                f"{file}: cannot lock this folder: {reason}; choose a writable folder on a file system that supports locks"
            ) from None
    try:
        yield
    finally:
        if filelock.has_fcntl:  # elsewhere, releasing the lock removes the file
            file.unlink(missing_ok=True)
        lock.release()


_LOCAL_HEADER = struct.Struct(
    "<4s2xHH4x3IHH"
)  # signature, flags, method, CRC-32, both sizes, lengths of name and extra field
_ENCRYPTED, _SIZES_BEHIND = 0x1, 0x8  # flag bits of a member: encrypted; sizes follow its data
_LONGEST_DESCRIPTOR = 24  # bytes of the data descriptor after a member whose sizes follow its data


def check_zip(file: BinaryIO, *, contents: bool = True) -> None:
    """Checks that the central directory, the local headers and the checksums of a ZIP file agree.

    Readers look at only some of these: one flipped bit in the central directory can hide a member, or give it another's content.

    Args:
        file: open for reading; its position is restored.
        contents: also verify the CRC-32 of every member. If False, the reader must verify it, as numpy does.

    Raises:
        zipfile.BadZipFile: the file is not a ZIP file, or its parts disagree.
        OSError: the file cannot be read.
    """
    place = file.tell()
    try:
        with zipfile.ZipFile(file) as archive:
            members = sorted(archive.infolist(), key=lambda member: member.header_offset)
            if len({member.filename for member in members}) < len(members):
                raise zipfile.BadZipFile("two members have the same name")
            end = 0
            for member in members:
                end = _checked_member(file, member, end)
            if archive.start_dir - end > _LONGEST_DESCRIPTOR:
                raise zipfile.BadZipFile("members are missing in its directory")
            if contents and (damaged := archive.testzip()):
                raise zipfile.BadZipFile(f"checksum of {damaged} differs")
    except (NotImplementedError, RuntimeError, ValueError, EOFError, struct.error, zlib.error) as error:
        raise zipfile.BadZipFile(str(error) or "cut short") from None  # raised by zipfile on damaged fields
    finally:
        file.seek(place)


def _checked_member(file: BinaryIO, member: zipfile.ZipInfo, end: int) -> int:
    """Checks a member's local header against the central directory; returns the offset of the member's end.

    `end` is the offset of the previous member's end.
    """
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
        raise zipfile.BadZipFile(f"{member.filename} has a different name or size in the directory")
    return member.header_offset + _LOCAL_HEADER.size + sum(lengths) + member.compress_size


def text_of(file: Path) -> str:
    """Reads a text file in UTF-8, whatever the locale; leaves out a byte-order mark.

    Raises:
        DataError: the file cannot be read, or is not UTF-8.
    """
    try:
        return file.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise DataError(f"{file}: cannot read this file: {error.strerror or error}") from None
    except UnicodeDecodeError as error:
        raise DataError(f"{file}: not text in UTF-8 ({error.reason} at byte {error.start}); save it as UTF-8") from None


def require_few_brackets(text: str) -> str:
    """Returns the YAML text, unless it has too many brackets: PyYAML's time grows with the cube of their depth, up to minutes.

    Raises:
        ValueError: more than `MOST_BRACKETS` brackets.
    """
    if text.count("[") + text.count("{") > MOST_BRACKETS:
        raise ValueError(f"more than {MOST_BRACKETS} brackets")
    return text


def data_root(configured: str | None) -> Path:
    """The folder that holds one folder per dataset: the config's, else REID_DATA, else ./data."""
    return Path(configured or os.environ.get("REID_DATA") or "data").expanduser()


def holds_json_list(file: Path) -> bool:
    """Whether a JSON file holds a list, judged by its first character."""
    with open(file, "rb") as stream:
        return stream.read(64).removeprefix(b"\xef\xbb\xbf").lstrip()[:1] == b"["
