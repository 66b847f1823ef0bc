"""A gallery in Milvus, a vector database: pushed from a feature folder, searched and changed from any machine.

Addresses: ``people.db#market`` is a collection in a milvus-lite database, which is a folder on this machine that one program can open
at a time. ``http://host:19530#market`` is a collection on a server or cluster (``http://host:19530/DATABASE#market`` for a database
other than the default; user and password go into the environment variable MILVUS_TOKEN, as ``user:password``). Without ``#NAME`` the
collection is called ``gallery``.

Each tracklet is one row, and its key is the primary key, so pushing a key again does not add a row. The model's fingerprint and the
preprocessing are stored as properties of the collection. All reads and writes use the consistency level Strong: a search sees every row
whose push was acknowledged before it. The engine returns candidates; hits and similarities are computed here from their stored vectors,
by the same function as for a folder.

`milvus_connection.py` opens connections. pymilvus retries requests that a busy server rejects; a push retries for a while when the
connection to the server is lost.

Shapes: N rows, n of them, D feature dimensions, Q queries.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import re
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from reid.errors import ConfigError, DataError
from reid.features import FeatureSet
from reid.gallery import store
from reid.gallery.milvus_connection import Address as Address
from reid.gallery.milvus_connection import address as address
from reid.gallery.milvus_connection import connected
from reid.gallery.milvus_connection import is_address as is_address
from reid.gallery.search import DEEPER, Hits, search, unit_rows
from reid.gallery.store import Gallery
from reid.tracklets import IdNames

logger = logging.getLogger(__name__)

SCHEMA = 2
FEATURE, TEXTS, NUMBERS = "feature", ("path", "pid_name", "camid_name"), ("row", "pid", "camid", "num_frames", "digest")
TIME, UNKNOWN_TIME = "time", -1.0  # seconds; Milvus stores no NaN
FIELDS = ["key", *NUMBERS, *TEXTS, TIME, FEATURE]
STRONG = "Strong"
EMBEDDED_INDEXES = ("FLAT", "HNSW", "HNSW_SQ", "IVF_FLAT", "IVF_SQ8", "AUTOINDEX")
ROWS_AT_ONCE, BYTES_AT_ONCE = 1000, 2**22  # limits of one request; a server accepts up to 64 MiB
PAUSES = (1, 2, 4, 8, 16, 30)  # seconds to wait before each retry when the server cannot be reached
NAMES_AT_ONCE = 50  # persons or cameras per query
LONGEST_TEXT = 65_535  # bytes of UTF-8, a limit of Milvus
MOST_CANDIDATES = 16_384  # per query, a limit of Milvus
UNFINISHED = "unfinished."  # + digest of the source folder: a property of the collection during a push
_PREFIX = "robust_reid."
_MADE_BY = ("run", "checkpoint", "weights", "model", "preprocessing")  # keys of gallery.json needed to embed a query
_QUOTED = str.maketrans({"\\": "\\\\", '"': '\\"', "\n": "\\n", "\r": "\\r", "\t": "\\t"})

Row = Mapping[str, Any]


@dataclass(frozen=True, eq=False)
class Collection:
    """An open gallery in a database.

    Args:
        address: its address.
        client: an open `pymilvus.MilvusClient`.
        about: entries of `gallery.json` that describe how the features were made (run, checkpoint, preprocessing …).
        fingerprint: of model and preprocessing.
        named: which of `pid` and `camid` have names for their numbers.
        dim: D.
        index: Milvus index type, such as ``FLAT``; "" if no index has been created yet.
        unfinished: source folders whose push has not finished.
    """

    address: Address
    client: Any
    about: Mapping[str, Any]
    fingerprint: str
    named: frozenset[str]
    dim: int
    index: str
    unfinished: tuple[str, ...]

    def count(self, expr: str = "") -> int:
        """Returns the number of rows that match a filter; of all rows by default."""
        return int(self.query(expr, ["count(*)"])[0]["count(*)"])

    def rows(self, keys: Sequence[str]) -> dict[str, Row]:
        """Returns the rows with these keys, by key; keys that are not in the collection are skipped."""
        return self.by_key([key for key in keys if _storable(key)], FIELDS)

    def filter(
        self,
        *,
        camera: Sequence[str] | None = None,
        not_camera: Sequence[str] | None = None,
        person: Sequence[str] | None = None,
        not_person: Sequence[str] | None = None,
        after: float | None = None,
        before: float | None = None,
    ) -> str:
        """Returns a filter expression for rows of some cameras or persons and not of others, given by name or number, and of some time.

        Raises:
            ConfigError: there is no such camera or person.
        """
        parts = [("camid in", "camera", camera), ("camid not in", "camera", not_camera)]
        parts += [("pid in", "person", person), ("pid not in", "person", not_person)]
        given = [
            (words, sorted({self._number(words.split()[0], what, text) for text in texts}))
            for words, what, texts in parts
            if texts is not None
        ]
        tests = [f"{words} [{', '.join(map(str, numbers))}]" for words, numbers in given]
        if after is not None or before is not None:
            tests.append(f"{TIME} >= {float(after or 0)!r}")
        if before is not None:
            tests.append(f"{TIME} < {float(before)!r}")
        return " and ".join(tests)

    def candidates(self, query_QD: np.ndarray, limit: int, expr: str = "") -> list[list[Row]]:
        """Returns the engine's nearest rows of each query among those that match a filter, approximately nearest first."""
        together = max(1, 4 * BYTES_AT_ONCE // (4 * self.dim * limit))
        found: list[list[Row]] = []
        for first in range(0, len(query_QD), together):
            lists = self.client.search(
                self.address.collection,
                query_QD[first : first + together].tolist(),
                filter=expr,
                limit=limit,
                output_fields=FIELDS,
                anns_field=FEATURE,
                search_params={"metric_type": "IP"},
                consistency_level=STRONG,
            )
            found += [[hit["entity"] for hit in hits] for hits in lists]
        return found

    def by_key(self, keys: Sequence[str], fields: Sequence[str]) -> dict[str, Row]:
        """Returns the given fields of the rows with these keys, by key; every key must satisfy `_storable`."""
        found: dict[str, Row] = {}
        for part in _parcels([8 + 2 * len(key.encode()) + 4 * self.dim * (FEATURE in fields) for key in keys]):
            found |= {str(row["key"]): row for row in self.query(_any_of(keys[part]), fields)}
        return found

    def query(self, expr: str, fields: Sequence[str], **options: Any) -> list[Row]:
        """Returns the given fields of the rows that match a filter."""
        name = self.address.collection
        return list(self.client.query(name, expr, list(fields), consistency_level=STRONG, **options))

    def _number(self, kind: str, what: str, text: str) -> int:
        if kind in self.named and (rows := self.query(f"{kind}_name == {quoted(text)}", [kind], limit=1)):
            return int(rows[0][kind])
        if not re.fullmatch(r"-?\d{1,18}", text, re.ASCII):
            raise ConfigError(f"{what}: {self.address} has no {what} {text!r}; expected its name or number")
        return int(text)


@contextlib.contextmanager
def opened(where: Address) -> Iterator[Collection]:
    """Opens a gallery in a database as a context manager.

    Raises:
        ConfigError: pymilvus, or milvus-lite, is not installed.
        DataError: the collection does not exist, is empty, was not made by this program, or the database cannot be reached.
    """
    with connected(where) as client:
        if not client.has_collection(where.collection):
            others = ", ".join(sorted(client.list_collections())) or "none"
            raise DataError(f"{where}: no such collection; existing: {others}")
        collection = _collection(where, client)
        if not collection.index:
            raise DataError(f"{where}: is empty: the push that created it was interrupted; repeat it")
        client.load_collection(where.collection)
        yield collection


@dataclass(frozen=True)
class Pushed:
    """Row counts of a push.

    Args:
        written: rows that were new or different.
        same: rows that were already in the collection.
        total: rows of the collection afterwards.
    """

    written: int
    same: int
    total: int


def push(
    gallery: Gallery,
    where: Address,
    *,
    index: str | None = None,
    overwrite: bool = False,
    row: np.ndarray | None = None,
    progress: Callable[[range], Iterable[int]] = iter,
) -> Pushed:
    """Pushes all rows of a feature folder to a collection, which is created if missing. Repeating a killed push resumes it.

    Args:
        gallery: the opened feature folder.
        where: address of the collection.
        index: index type of a new collection as Milvus names it, with parameters; the default is ``FLAT``, which is exact.
        overwrite: replace rows that have the same key but other content.
        row: (N,) int64, the row numbers to store; by default 0 … N-1.
        progress: wraps the range of request numbers, such as tqdm.

    Raises:
        ConfigError: as `opened`; or `index` differs from the index of an existing collection.
        DataError: the collection was made by another model, uses an id for another person or camera, or has different rows with these
            keys; a text cannot be stored; the database cannot be reached, or does not support the index. No row has been written in
            these cases, unless the connection was lost during the push.
    """
    rows = _Rows(gallery, row)
    kind, parameters = _kind(where, index)
    folder = str(gallery.folder.absolute())
    mark = f"{_PREFIX}{UNFINISHED}{hashlib.blake2b(os.fsencode(folder), digest_size=8).hexdigest()}"
    unfinished = {mark: os.fsencode(folder).decode(errors="replace")}
    with connected(where, make=True) as client:
        held = client.has_collection(where.collection)
        if not held:
            _make(client, where, gallery, rows, unfinished)
        collection = _collection(where, client)  # read back: another push may have created it first
        _require_same(collection, gallery, rows, index)
        if not collection.index:
            indexes = client.prepare_index_params()
            indexes.add_index(FEATURE, index_type=kind, index_name=FEATURE, metric_type="IP", params=parameters)
            client.create_index(where.collection, indexes)
        client.load_collection(where.collection)
        todo = np.arange(len(rows))
        if held and collection.count():
            _require_same_ids(collection, gallery)
            todo = _missing(collection, rows, overwrite=overwrite)
        client.alter_collection_properties(where.collection, unfinished)
        parcels = list(_parcels(rows.sizes[todo].tolist()))
        for number in progress(range(len(parcels))):
            parcel = [rows[row] for row in todo[parcels[number]].tolist()]
            _patiently(where, partial(client.upsert, where.collection, parcel))
        if len(todo):
            _patiently(where, partial(client.flush, where.collection))
        client.drop_collection_properties(where.collection, [mark])
        return Pushed(len(todo), len(rows) - len(todo), collection.count())


def held_rows(gallery: Gallery, where: Address, *, index: str | None = None) -> np.ndarray:
    """Which rows a collection already has, by key; none if the collection does not exist.

    Features are not compared, so that this can be called before they are extracted.

    Args:
        gallery: the rows to be pushed; of its features only D is used.
        where, index: as for `push`.

    Returns:
        (N,) bool.

    Raises:
        ConfigError, DataError: as `push`, but nothing is created; or a key exists with another pid, camera or number of frames.
    """
    rows = _Rows(gallery)
    _kind(where, index)
    none = np.zeros(len(rows), bool)
    if where.embedded and not Path(where.database).exists():
        return none
    with connected(where) as client:
        if not client.has_collection(where.collection):
            return none
        collection = _collection(where, client)
        _require_same(collection, gallery, rows, index)
        if not collection.index:
            return none
        client.load_collection(where.collection)
        _require_same_ids(collection, gallery)
        compared = ["pid", "camid", "num_frames"]
        there = collection.by_key(rows.key, ["key", *compared])
    for row in np.flatnonzero([key in there for key in rows.key]).tolist():
        key, known = rows.key[row], [rows.columns[name][row] for name in compared]
        if [there[key][name] for name in compared] != known:
            raise DataError(
                f"{where}: has a different tracklet with the key {key!r}: {', '.join(compared)} {[there[key][n] for n in compared]} there, "
                f"{known} in {gallery.folder}; rename it, or remove the existing one (robust-reid gallery remove)"
            )
    return np.array([key in there for key in rows.key])


def _kind(where: Address, index: str | None) -> tuple[str, dict[str, float]]:
    kind, parameters = _index(index or "FLAT")
    if where.embedded and kind not in EMBEDDED_INDEXES:  # it would accept any name and fail at the first search
        raise ConfigError(f"--index: milvus-lite has {', '.join(EMBEDDED_INDEXES)}, got {kind}")
    return kind, parameters


def _patiently(where: Address, call: Callable[[], object]) -> None:
    """Makes a call, and retries it for about a minute if the server cannot be reached; the call must be safe to repeat."""
    from pymilvus import MilvusException, Status

    for pause in PAUSES:
        try:
            call()
            return
        except MilvusException as error:
            if error.code != Status.CONNECT_FAILED:
                raise
            logger.warning("%s: %s; trying again in %g s", where, error.message, pause)
            time.sleep(pause)
    call()


def remove(where: Address, keys: Iterable[str]) -> int:
    """Removes tracklets from a collection.

    Args:
        where: address of the collection.
        keys: keys of the tracklets to remove; duplicates are allowed.

    Returns:
        Number of rows left.

    Raises:
        ConfigError: as `opened`.
        DataError: as `opened`; or a key is not in the collection, in which case nothing is removed.
    """
    wanted = list(dict.fromkeys(keys))
    with opened(where) as collection:
        there = collection.by_key([key for key in wanted if _storable(key)], ["key"])
        if missing := [key for key in wanted if key not in there]:
            more = f" (and {len(missing) - 1} more)" if len(missing) > 1 else ""
            raise DataError(f"{where}: no tracklet has the key {missing[0]!r}{more}")
        for part in _parcels([8 + 2 * len(key.encode()) for key in wanted]):
            collection.client.delete(where.collection, filter=_any_of(wanted[part]))
        return collection.count()


@dataclass(frozen=True, eq=False)
class Found:
    """Hits of a search, and the fetched rows that they refer to.

    Args:
        gallery: the n fetched rows, sorted by their row number in the source folder, then by key.
        row: (n,) int64, those row numbers.
        hits: their `rows` index into `gallery`.
    """

    gallery: Gallery
    row: np.ndarray
    hits: Hits


def nearest(
    collection: Collection,
    query_QD: np.ndarray,
    *,
    top_k: int = 10,
    expr: str = "",
    own: Sequence[Row | None] | None = None,
) -> Found:
    """Searches a collection: candidates from the engine, ordered by exact similarity, ties by row number in the source folder.

    Args:
        collection: the open collection.
        query_QD: query features, real; normalised here.
        top_k: hits per query, >= 1.
        expr: Milvus filter expression for the rows to search among.
        own: for each query, the row of the query itself, which is excluded from its hits, or None.

    Raises:
        DataError: a query has another size, is zero or not finite; no row matches the filter.
        ConfigError: `top_k` is out of range.
    """
    most = (MOST_CANDIDATES - 1) // DEEPER
    if not 1 <= top_k <= most:
        raise ConfigError(f"top_k: expected 1 to {most} in a database, got {top_k}")
    query = unit_rows(query_QD, collection.dim)
    own = [None] * len(query) if own is None else own
    lists = collection.candidates(query, DEEPER * top_k + 1, expr)
    fetched = {row["key"]: row for rows in [*lists, [row for row in own if row is not None]] for row in rows}
    if not fetched:
        raise DataError(f"{collection.address}: no rows left to search")
    row_of, gallery = _local(collection, fetched)
    shape = len(query), min(top_k, len(row_of))
    near, similarity = np.full(shape, -1, np.int64), np.zeros(shape)
    for i, rows in enumerate(lists):
        among = np.array(sorted(row_of[row["key"]] for row in rows), np.int64)
        itself = np.array([-1 if (mine := own[i]) is None else row_of[mine["key"]]])
        hits = search(gallery.features, query_QD[i : i + 1], top_k=top_k, rows=among, own=itself)
        near[i], similarity[i] = hits.rows[0], hits.similarity[0]
    return Found(gallery, np.array([fetched[key]["row"] for key in row_of], np.int64), Hits(near, similarity))


def _local(collection: Collection, fetched: Mapping[str, Row]) -> tuple[dict[str, int], Gallery]:
    """Makes a gallery of fetched rows; returns its row numbers by key, and the gallery."""
    rows = sorted(fetched.values(), key=lambda row: (row["row"], row["key"]))
    names = {
        kind: {int(row[kind]): str(row[f"{kind}_name"]) for row in rows if row[f"{kind}_name"]}
        for kind in ("pid", "camid")
    }
    numbers = {name: np.array([row[name] for row in rows], np.int64) for name in ("pid", "camid", "num_frames")}
    key, everything = np.array([row["key"] for row in rows], np.str_), np.arange(len(rows))
    feature = np.array([row[FEATURE] for row in rows], np.float32)
    features = FeatureSet(
        feature, numbers["pid"], numbers["camid"], everything[:0], everything, key, collection.fingerprint
    )
    path = np.array([row["path"] for row in rows], object)
    about = {**collection.about, "names": IdNames(**names).to_json()}
    row_of = {row["key"]: place for place, row in enumerate(rows)}
    time = np.array([row[TIME] for row in rows], np.float64)
    time[time < 0] = np.nan
    return row_of, Gallery(
        Path(str(collection.address)),
        features,
        numbers["num_frames"],
        path,
        about,
        time=None if np.isnan(time).all() else time,
    )


class _Rows:
    """The rows of a feature folder as dicts for Milvus.

    Raises:
        DataError: two rows share a key, a text is not UTF-8 or too long, or the features have no model fingerprint.
    """

    def __init__(self, gallery: Gallery, numbers: np.ndarray | None = None) -> None:
        store.rows_by_key(gallery)
        features, names = gallery.features, gallery.names
        if features.fingerprint is None:
            raise DataError(f"{gallery.folder}: has no model fingerprint; extract it again with robust-reid extract")
        assert features.key is not None, "rows of a gallery have keys"
        self.gallery, self.features = gallery, features.features
        self.row = list(range(len(features.pid))) if numbers is None else numbers.tolist()
        self.key = features.key.tolist()
        self.columns: dict[str, list[Any]] = {
            "pid": features.pid.tolist(),
            "camid": features.camid.tolist(),
            "num_frames": gallery.num_frames.tolist(),
            "path": [str(path) for path in gallery.path],
            TIME: [UNKNOWN_TIME] * len(self.key)
            if gallery.time is None
            else np.nan_to_num(gallery.time, nan=UNKNOWN_TIME).tolist(),
        }
        for kind, of in (("pid", names.pid), ("camid", names.camid)):
            self.columns[f"{kind}_name"] = [of.get(number, "") for number in self.columns[kind]]
        for name, texts in {"key": self.key, **{name: self.columns[name] for name in TEXTS}}.items():
            if (row := next((row for row, text in enumerate(texts) if not _storable(text)), None)) is not None:
                raise DataError(
                    f"{gallery.folder}: meta.csv, row {row}: {name}: a database stores at most {LONGEST_TEXT} bytes of UTF-8, got "
                    f"{texts[row]!r}; rename it and extract again"
                )
        texts_of = zip(self.key, *(self.columns[name] for name in TEXTS), strict=True)
        self.sizes = np.array([4 * self.features.shape[1] + sum(len(t.encode()) for t in texts) for texts in texts_of])

    def __len__(self) -> int:
        return len(self.key)

    def digest(self, row: int) -> int:
        """64-bit hash of all fields of a row except its number, to detect rows that are already stored."""
        said = [self.key[row], *(column[row] for column in self.columns.values())]
        hashed = hashlib.blake2b(json.dumps(said).encode(), digest_size=8)
        hashed.update(np.ascontiguousarray(self.features[row]).tobytes())
        return int.from_bytes(hashed.digest(), "little", signed=True)

    def __getitem__(self, row: int) -> dict[str, Any]:
        columns = {name: column[row] for name, column in self.columns.items()}
        feature = np.array(self.features[row])
        return {"key": self.key[row], "row": self.row[row], **columns, "digest": self.digest(row), FEATURE: feature}


def quoted(text: str) -> str:
    """Quotes a text for a filter expression; the `ids` argument of pymilvus does not escape quotes."""
    return f'"{text.translate(_QUOTED)}"'


def _any_of(keys: Sequence[str]) -> str:
    return f"key in [{', '.join(map(quoted, keys))}]"


def _storable(text: str) -> bool:
    try:
        return len(text.encode()) <= LONGEST_TEXT
    except UnicodeEncodeError:  # a file name that is not UTF-8
        return False


def _parcels(sizes: Sequence[int]) -> Iterator[slice]:
    """Splits consecutive rows, given their sizes in bytes, into slices for one request each."""
    first, held = 0, 0
    for row, size in enumerate(sizes):
        if row > first and (held + size > BYTES_AT_ONCE or row - first == ROWS_AT_ONCE):
            yield slice(first, row)
            first, held = row, 0
        held += size
    if first < len(sizes):
        yield slice(first, len(sizes))


def _index(text: str) -> tuple[str, dict[str, float]]:
    """Parses an index type and its parameters, such as `HNSW:M=16,efConstruction=200`."""
    kind, _, given = text.partition(":")
    pairs = [part.partition("=") for part in given.split(",") if part]
    if not re.fullmatch(r"\w+", kind) or not all(name and number.isdecimal() for name, _, number in pairs):
        raise ConfigError(
            f"--index: expected the name of a Milvus index, such as FLAT or HNSW:M=16,efConstruction=200, got {text!r}"
        )
    return kind, {name: int(number) for name, _, number in pairs}


def _make(client: Any, where: Address, gallery: Gallery, rows: _Rows, further: Mapping[str, str]) -> None:
    from pymilvus import DataType

    schema = client.create_schema(auto_id=False, enable_dynamic_field=False)
    schema.add_field("key", DataType.VARCHAR, is_primary=True, max_length=LONGEST_TEXT)
    for name in NUMBERS:
        schema.add_field(name, DataType.INT64)
    for name in TEXTS:
        schema.add_field(name, DataType.VARCHAR, max_length=LONGEST_TEXT)
    schema.add_field(TIME, DataType.DOUBLE)
    schema.add_field(FEATURE, DataType.FLOAT_VECTOR, dim=rows.features.shape[1])
    about = {name: gallery.about[name] for name in _MADE_BY if name in gallery.about}
    properties = {
        "schema": str(SCHEMA),
        "fingerprint": str(gallery.features.fingerprint),
        "about": json.dumps(about),
        "named": _named(gallery.names),
    }
    client.create_collection(
        where.collection,
        schema=schema,
        consistency_level=STRONG,
        properties={**{f"{_PREFIX}{name}": value for name, value in properties.items()}, **further},
    )


def _named(names: IdNames) -> str:
    return ",".join(kind for kind, of in (("pid", names.pid), ("camid", names.camid)) if of)


def _collection(where: Address, client: Any) -> Collection:
    told = client.describe_collection(where.collection)
    [index] = [client.describe_index(where.collection, FEATURE)] if client.list_indexes(where.collection) else [{}]
    properties = {name.removeprefix(_PREFIX): value for name, value in told["properties"].items()}
    try:
        schema = int(properties["schema"])
        if schema != SCHEMA:
            what = (
                "a newer version of this program; update this one"
                if schema > SCHEMA
                else "an older version; push to another name"
            )
            raise DataError(f"{where}: schema {schema}, expected {SCHEMA}: made by {what}")
        [feature] = [field for field in told["fields"] if field["name"] == FEATURE]
        return Collection(
            where,
            client,
            json.loads(properties["about"]),
            properties["fingerprint"],
            frozenset(filter(None, properties["named"].split(","))),
            int(feature["params"]["dim"]),
            str(index.get("index_type", "")),
            tuple(sorted(folder for name, folder in properties.items() if name.startswith(UNFINISHED))),
        )
    except (KeyError, ValueError, TypeError):
        raise DataError(
            f"{where}: not a collection made by robust-reid gallery push (its properties name no model); choose another name"
        ) from None


def _require_same(collection: Collection, gallery: Gallery, rows: _Rows, index: str | None) -> None:
    if collection.fingerprint != gallery.features.fingerprint:
        raise DataError(
            f"{collection.address}: made by model {collection.fingerprint}, {gallery.folder} by {gallery.features.fingerprint}: "
            "features of different models cannot be mixed; push to another collection"
        )
    if collection.dim != rows.features.shape[1]:
        raise DataError(
            f"{collection.address}: rows of {collection.dim} dimensions, {gallery.folder} of {rows.features.shape[1]}"
        )
    if index is not None and collection.index and index.partition(":")[0] != collection.index:
        raise ConfigError(
            f"--index: {collection.address} already has the index {collection.index}, got {index}; remove --index"
        )
    if collection.named != frozenset(filter(None, _named(gallery.names).split(","))):
        has = " and ".join(sorted(collection.named)) or "nothing"
        raise DataError(
            f"{collection.address}: has names for {has}, {gallery.folder} for {_named(gallery.names) or 'nothing'}: "
            "the same number would mean different persons or cameras; push to another collection"
        )


def _require_same_ids(collection: Collection, gallery: Gallery) -> None:
    """Checks that pids and camids mean the same persons and cameras in the collection and in the gallery.

    Raises:
        DataError: a number has another name in the collection, or a name another number.
    """
    for kind, of in (("pid", gallery.names.pid), ("camid", gallery.names.camid)):
        numbers = np.unique(getattr(gallery.features, kind)).tolist() if of else []
        pairs = [(number, of.get(number, "")) for number in numbers if number > 0 or number in of]
        for first in range(0, len(pairs), NAMES_AT_ONCE):
            tests = []
            for number, name in pairs[first : first + NAMES_AT_ONCE]:
                tests.append(f"({kind} == {number} and {kind}_name != {quoted(name)})")
                tests += [f"({kind} != {number} and {kind}_name == {quoted(name)})"] * bool(name)
            for row in collection.query(" or ".join(tests), [kind, f"{kind}_name"], limit=1):
                raise DataError(
                    f"{collection.address}: {kind} {row[kind]} is {row[f'{kind}_name']!r} there, but not in "
                    f"{gallery.folder}: each folder numbers its text ids by itself; join the folders first (robust-reid extract --add), "
                    "or push to another collection"
                )


def _missing(collection: Collection, rows: _Rows, *, overwrite: bool) -> np.ndarray:
    """Returns the numbers of the rows to write: those that the collection lacks, or has with another row number or content.

    Raises:
        DataError: without `overwrite`, a row has another content in the collection.
    """
    todo, different = [], []
    for part in _parcels([8 + 2 * len(key.encode()) for key in rows.key]):
        there = collection.by_key(rows.key[part], ["key", "row", "digest"])
        for row in range(part.start, part.stop):
            held = there.get(rows.key[row])
            if held is not None and held["digest"] != rows.digest(row):
                different.append(rows.key[row])
            elif held is not None and held["row"] == rows.row[row]:
                continue
            todo.append(row)
    if different and not overwrite:
        more = f" (and {len(different) - 1} more)" if len(different) > 1 else ""
        raise DataError(
            f"{collection.address}: has a different tracklet with the key {different[0]!r}{more} (features, ids, times or "
            "images differ); --overwrite replaces it"
        )
    return np.array(todo, np.int64)
