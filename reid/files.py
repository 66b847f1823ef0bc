"""Files: where datasets lie, how files appear whole or not at all, and how one program keeps a folder to itself."""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

from reid.errors import DataError

LOCK = ".lock"  # there while a program holds the folder; one that a kill left behind bars nobody


@contextlib.contextmanager
def atomic(path: Path, *, flush: bool = True) -> Iterator[Path]:
    """A temporary file beside `path` to write to; it becomes `path` when the block ends without an error, else it is removed.

    Args:
        path: of the file.
        flush: wait until the disk has it; without, many small files are quick, and a power cut may leave the last ones empty.

    Raises:
        DataError: the folder cannot be made or written.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        if flush:
            with open(temporary, "rb") as written:
                os.fsync(written.fileno())
        os.replace(temporary, path)
    except OSError as error:
        raise DataError(
            f"{path}: cannot write this file: {error.strerror or error}; choose a writable folder"
        ) from None
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink()


@contextlib.contextmanager
def exclusive_lock(folder: Path, busy: str) -> Iterator[None]:
    """Holds a folder for this program; makes it where it is not there.

    Args:
        folder: holds `LOCK` until the block ends.
        busy: what to say where another program holds it, and what to do then.

    Raises:
        DataError: another program holds it; or it cannot be made, written or locked.
    """
    file = folder / LOCK
    with contextlib.ExitStack() as held:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            lock = held.enter_context(open(file, "a"))
            taken = _taken(lock.fileno(), file)
        except OSError as error:
            reason = error.strerror or error
            raise DataError(
                f"{file}: cannot lock this folder: {reason}; choose a writable one on a file system with locks"
            ) from None
        if not taken:
            raise DataError(f"{folder}: {busy}")
        held.callback(file.unlink, missing_ok=True)
        yield


def _taken(lock: int, file: Path) -> bool:
    """Whether the lock is ours, and still that of the file of this name: whoever held it has removed it at the end."""
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return os.path.samestat(os.fstat(lock), os.stat(file))
    except (BlockingIOError, FileNotFoundError):
        return False


def data_root(configured: str | None) -> Path:
    """The folder that holds one folder per dataset: the config's, else REID_DATA's, else ./data."""
    return Path(configured or os.environ.get("REID_DATA") or "data").expanduser()
