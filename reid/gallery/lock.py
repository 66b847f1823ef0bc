"""One program at a time changes a gallery; readers need not ask."""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

from reid.errors import DataError

LOCK = ".lock"  # there while a program changes the gallery; one that a kill left behind bars nobody


@contextlib.contextmanager
def alone(folder: Path, *, make: bool = False) -> Iterator[None]:
    """Holds a gallery's folder for this program.

    Args:
        folder: the gallery's.
        make: make the folder where it is not there.

    Raises:
        DataError: another program holds it; or there is no folder.
    """
    if make:
        folder.mkdir(parents=True, exist_ok=True)
    elif not folder.is_dir():
        raise DataError(f"{folder}: no complete feature folder of tools/extract.py: no such folder")
    file = folder / LOCK
    with open(file, "a") as lock:
        if not _taken(lock.fileno(), file):
            raise DataError(f"{folder}: another program is changing this gallery; wait until it is done, and try again")
        try:
            yield
        finally:
            file.unlink(missing_ok=True)


def _taken(lock: int, file: Path) -> bool:
    """Whether the lock is ours, and still that of the file of this name: whoever held it has removed it at the end."""
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return os.path.samestat(os.fstat(lock), os.stat(file))
    except (BlockingIOError, FileNotFoundError):
        return False
