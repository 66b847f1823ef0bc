"""Connections to Milvus: parse addresses, connect to a server or to milvus-lite in this process, report errors on one line.

pymilvus is imported when a database is opened, and milvus-lite when the address is a folder.
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
    """Address of a gallery in a database.

    Args:
        database: folder of milvus-lite, or URL of a server.
        collection: name of the collection.
    """

    database: str
    collection: str = DEFAULT

    @property
    def embedded(self) -> bool:
        """Whether the database is a milvus-lite folder on this machine."""
        return "://" not in self.database

    def __str__(self) -> str:
        """The address with user and password removed."""
        return f"{re.sub('://.*@', '://…@', self.database)}#{self.collection}"


def is_address(text: str) -> bool:
    """Whether a text has the form of a database address rather than of a feature folder."""
    return "://" in text or _parts(text)[0].endswith(".db")


def address(text: str) -> Address:
    """Parses the address of a gallery in a database.

    Raises:
        ConfigError: the text is no database address, or the collection's name is invalid in Milvus.
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
            f"{where}: expected a collection name of letters, digits and _ that does not start with a digit, got {collection!r}"
        )
    return where


def _parts(text: str) -> tuple[str, str]:
    if text.endswith(".db") or "#" not in text:
        return text, DEFAULT
    database, _, collection = text.rpartition("#")
    return database, collection


@contextlib.contextmanager
def connected(where: Address, *, make: bool = False) -> Iterator[Any]:
    """Opens a pymilvus client as a context manager; errors of the database inside the context become a `DataError` of one line.

    Args:
        where: address of the database.
        make: create the folder of milvus-lite if it does not exist.

    Raises:
        ConfigError: pymilvus, or milvus-lite, is not installed.
        DataError: the database cannot be opened or reached, or rejects a request.
    """
    try:
        import pymilvus
    except ImportError:
        raise ConfigError(f"{where}: needs pymilvus: pip install 'robust-reid[milvus]'") from None
    # Otherwise pymilvus prints a traceback for each error that is reported here on one line.
    logging.getLogger("pymilvus").setLevel(logging.CRITICAL)
    with _embedded(where, make=make) if where.embedded else contextlib.nullcontext(), _told(where):
        client = pymilvus.MilvusClient(where.database, token=os.environ.get(TOKEN, ""))
        try:
            yield client
        finally:
            client.close()


@contextlib.contextmanager
def _embedded(where: Address, *, make: bool) -> Iterator[None]:
    """Starts milvus-lite on its folder, and releases the folder on exit."""
    try:
        from milvus_lite.exceptions import MilvusLiteError
        from milvus_lite.server_manager import server_manager_instance as servers
    except ImportError:
        raise ConfigError(f"{where}: needs milvus-lite, 3 or later: pip install 'robust-reid[milvus-lite]'") from None
    folder = Path(where.database)
    if store.exists(folder):
        raise DataError(f"{folder}: is a feature folder; a database needs a separate folder")
    if folder.exists() and not folder.is_dir():
        raise DataError(f"{folder}: is a file; expected a folder of milvus-lite 3, or a path that does not exist")
    if folder.is_dir() and any(folder.iterdir()) and not (folder / "collections").is_dir():
        raise DataError(f"{folder}: is not a folder of milvus-lite; expected one, or a path that does not exist")
    if not make and not folder.exists():
        raise DataError(f"{folder}: no such database; robust-reid gallery push creates one")
    if not folder.parent.is_dir():
        raise DataError(f"{folder}: no such folder: {folder.parent}")
    heard = _Heard()
    with heard.listening("milvus_lite", "grpc"):
        if servers.start_and_get_uri(where.database) is None:
            reason = heard.error if isinstance(heard.error, MilvusLiteError | OSError) else repr(heard.error)
            raise DataError(
                f"{folder}: cannot be opened: {reason}; only one program can use it at a time (a Milvus server allows many)"
            )
        try:
            yield
        finally:
            servers.release_server(where.database)


class _Heard(logging.Handler):
    """Keeps the last exception that loggers have reported, instead of printing it with its traceback."""

    error: BaseException | None = None

    @contextlib.contextmanager
    def listening(self, *names: str) -> Iterator[None]:
        """Redirects the records of these loggers to this handler alone."""
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
    """Converts errors of the database to a `DataError` of one line."""
    import grpc
    from pymilvus import MilvusException

    try:
        yield
    except MilvusException as error:
        raise DataError(f"{where}: {error.message or error}") from None
    except grpc.RpcError as error:  # errors that pymilvus does not retry: missing permission, request too large
        raise DataError(f"{where}: {error.details() if isinstance(error, grpc.Call) else error}") from None
