"""The way to Milvus: what an address says, a server or the engine that runs inside this program, and its errors in one line.

pymilvus, and milvus-lite where the address is a folder, are imported when a database is opened.
"""

from __future__ import annotations

import contextlib
import logging
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from reid.errors import ConfigError, DataError
from reid.gallery import store

DEFAULT, TOKEN = "gallery", "MILVUS_TOKEN"


@dataclass(frozen=True)
class Address:
    """Where a gallery is.

    Args:
        database: the folder of milvus-lite, or a server's address.
        collection: its name there.
    """

    database: str
    collection: str = DEFAULT

    @property
    def embedded(self) -> bool:
        """Whether milvus-lite keeps it on this machine."""
        return "://" not in self.database

    def __str__(self) -> str:
        """As typed, without a password."""
        return f"{re.sub('://.*@', '://…@', self.database)}#{self.collection}"


def is_address(text: str) -> bool:
    """Whether a text names a database, and no folder."""
    return "://" in text or _parts(text)[0].endswith(".db")


def address(text: str) -> Address:
    """What a text names.

    Raises:
        ConfigError: it names no database, or no collection that Milvus would take.
    """
    database, collection = _parts(text)
    parts = urlsplit(database) if "://" in database else None
    try:
        usable = (
            database.endswith(".db") if parts is None else bool(parts.scheme in ("http", "https") and parts.hostname)
        )
        if parts is not None:
            _ = parts.port
    except ValueError:
        usable = False
    where = Address(database, collection)
    if not usable:
        raise ConfigError(f"{where}: expected FILE.db#COLLECTION or http://HOST:19530#COLLECTION")
    if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]{0,254}", collection):
        raise ConfigError(
            f"{where}: expected a collection's name of letters, digits and _, no digit first, got {collection!r}"
        )
    return where


def _parts(text: str) -> tuple[str, str]:
    if text.endswith(".db") or "#" not in text:
        return text, DEFAULT
    database, _, collection = text.rpartition("#")
    return database, collection


@contextlib.contextmanager
def connected(where: Address, *, make: bool = False) -> Iterator[Any]:
    """A client of pymilvus for as long as the context lasts; what the database refuses there is one line.

    Args:
        where: the database.
        make: a folder of milvus-lite that is not there yet.

    Raises:
        ConfigError: pymilvus, or milvus-lite, is not installed. DataError: it cannot be opened or reached, or refuses.
    """
    try:
        import pymilvus
    except ImportError:
        raise ConfigError(f"{where}: needs pymilvus: pip install 'robust-reid[milvus]'") from None
    # Else it prints a traceback for each error that is told here in one line.
    logging.getLogger("pymilvus").setLevel(logging.CRITICAL)
    with _embedded(where, make=make) if where.embedded else contextlib.nullcontext(), _told(where):
        client = pymilvus.MilvusClient(where.database, token=os.environ.get(TOKEN, ""))
        try:
            yield client
        finally:
            client.close()


@contextlib.contextmanager
def _embedded(where: Address, *, make: bool) -> Iterator[None]:
    """Starts milvus-lite on its folder, and frees the folder in the end."""
    try:
        from milvus_lite.exceptions import MilvusLiteError
        from milvus_lite.server_manager import server_manager_instance as servers
    except ImportError:
        raise ConfigError(f"{where}: needs milvus-lite, 3 or later: pip install 'robust-reid[milvus-lite]'") from None
    folder = Path(where.database)
    if store.exists(folder):
        raise DataError(f"{folder}: is a feature folder; a database needs a place of its own")
    if folder.exists() and not folder.is_dir():
        raise DataError(f"{folder}: is a file; expected a folder of milvus-lite 3, or nothing yet")
    if folder.is_dir() and any(folder.iterdir()) and not (folder / "collections").is_dir():
        raise DataError(f"{folder}: is a folder of something else; expected one of milvus-lite, or nothing yet")
    if not make and not folder.exists():
        raise DataError(f"{folder}: no such database; robust-reid gallery push makes one")
    if not folder.parent.is_dir():
        raise DataError(f"{folder}: no such folder: {folder.parent}")
    heard = _Heard()
    with heard.listening("milvus_lite", "grpc"):
        if servers.start_and_get_uri(where.database) is None:
            reason = heard.error if isinstance(heard.error, MilvusLiteError | OSError) else repr(heard.error)
            raise DataError(
                f"{folder}: cannot be opened: {reason}; one program at a time uses such a database, a server takes many"
            )
        try:
            yield
        finally:
            servers.release_server(where.database)


class _Heard(logging.Handler):
    """Keeps the last error that loggers told; they would print it with its traceback."""

    error: BaseException | None = None

    @contextlib.contextmanager
    def listening(self, *names: str) -> Iterator[None]:
        """Has what these loggers say to itself."""
        logs = [logging.getLogger(name) for name in names]
        for log in logs:
            log.addHandler(self)
            log.propagate = False
        try:
            yield
        finally:
            for log in logs:
                log.propagate = True
                log.removeHandler(self)

    def emit(self, record: logging.LogRecord) -> None:
        if record.exc_info:
            self.error = record.exc_info[1]


@contextlib.contextmanager
def _told(where: Address) -> Iterator[None]:
    """Turns what the database refuses into one line."""
    import grpc
    from pymilvus import MilvusException

    try:
        yield
    except MilvusException as error:
        raise DataError(f"{where}: {error.message or error}") from None
    except grpc.RpcError as error:  # what pymilvus does not ask for again: no right to do so, a request too large
        raise DataError(f"{where}: {error.details() if isinstance(error, grpc.Call) else error}") from None
