"""Files: where datasets lie, and how files appear whole or not at all."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from reid.errors import DataError


@contextlib.contextmanager
def atomic(path: Path) -> Iterator[Path]:
    """A temporary file beside `path` to write to; it becomes `path` when the block ends without an error, else it is removed.

    Raises:
        DataError: the folder cannot be made or written.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
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


def data_root(configured: str | None) -> Path:
    """The folder that holds one folder per dataset: the config's, else REID_DATA's, else ./data."""
    return Path(configured or os.environ.get("REID_DATA") or "data").expanduser()
