"""Feature folders (galleries): written by robust-reid extract, and read by robust-reid test like a feature file.

`features.npy` (N, D) float32 unit rows · `meta.csv` (row, key, pid, camid, num_frames, path of the middle frame; pid_name and
camid_name if persons or cameras have names; time if the source has times) · `gallery.json` (schema, fingerprint, run, preprocessing,
counts, checksums, and the query and gallery rows if the source has a test protocol) · `index.faiss`, optional. Opening a folder reads the
features once to check the norms of the rows, and verifies the checksums of `features.npy`, `meta.csv` and the query and gallery rows.

Changes are atomic: the new files are written next to the old ones as `NAME.new`, `gallery.json.new` last. The change is committed when
`gallery.json.new` exists. From then on readers prefer `NAME.new`, and the files are moved into place; if the program is killed meanwhile,
the next change completes the move. So a kill at any moment leaves either the old gallery or the new one.

Shapes: N rows, D feature dimensions.
"""

from __future__ import annotations

import csv
import json
import logging
import os
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from reid import times
from reid.errors import DataError
from reid.features import FeatureSet
from reid.files import LOCK, NPY_ERRORS, atomic, exclusive_lock
from reid.gallery.index import Index, read_index
from reid.gallery.records import (
    ABOUT,
    COLUMNS,
    NAME_COLUMNS,
    ROW_LISTS,
    ROWS,
    SCHEMA,
    TIME,
    crc32_of,
    crc32_of_rows,
    current,
    read_about,
    read_meta,
    state,
)
from reid.tracklets import IdNames, Split

logger = logging.getLogger(__name__)

FEATURES, META, INDEX = "features.npy", "meta.csv", "index.faiss"
ROWS_AT_ONCE = 2**14  # rows copied per block
READINGS, PAUSE = 50, 0.02  # attempts to read a gallery that is being changed, and the seconds between them
_COUNTED = ("schema", "fingerprint", "counts", "index", "checksums")


@dataclass(frozen=True, eq=False)
class Gallery:
    """Contents of a feature folder; features are memory-mapped.

    Args:
        folder: path of the folder, which may not exist yet.
        features: N rows with their keys.
        num_frames: (N,) int64, frames per tracklet.
        path: (N,) texts, path of each tracklet's middle frame.
        about: the other entries of `gallery.json`: run, checkpoint, preprocessing, source.
        state: `records.state` of the folder when it was read, so that `open_index` can detect a later change.
        time: (N,) float64 seconds when each tracklet begins (see `reid.times`), NaN if unknown; None if the source had no times.
    """

    folder: Path
    features: FeatureSet
    num_frames: np.ndarray
    path: np.ndarray
    about: Mapping[str, Any]
    state: tuple[int, int] | None = None
    time: np.ndarray | None = None

    @property
    def names(self) -> IdNames:
        """Names of persons and cameras, if the source has them."""
        return IdNames.from_json(self.about.get("names"))


def rows_by_key(gallery: Gallery) -> dict[str, int]:
    """Returns the row number of each key.

    Raises:
        DataError: two rows share a key.
    """
    assert gallery.features.key is not None
    keys = gallery.features.key.tolist()
    row_of = {key: row for row, key in enumerate(keys)}
    if len(row_of) < len(keys):
        row = next(row for row, key in enumerate(keys) if row_of[key] != row)
        twice = f"rows {row} and {row_of[keys[row]]} share the key {keys[row]!r}"
        raise DataError(
            f"{gallery.folder}: {twice}, so it does not identify a tracklet; give each its own key and extract again"
        )
    return row_of


def write(
    folder: Path, features: FeatureSet, split: Split, about: Mapping[str, Any], *, overwrite: bool = False
) -> None:
    """Writes a feature folder from features in memory.

    Args:
        folder: a new or empty folder; with `overwrite` also an existing feature folder.
        features: one row per tracklet of `split`.
        split: the tracklets.
        about: run and preprocessing, for `gallery.json`.
        overwrite: replace an existing feature folder.

    Raises:
        DataError: the folder is not empty, cannot be written, or another program is writing it.
    """
    with changing(folder, make=True):
        require_free(folder, overwrite=overwrite)
        draft(folder, blocks(features.features), features.features.shape)
        commit(Gallery(folder, features, split.lengths, middle_frames(split), about))


def changing(folder: Path, *, make: bool = False) -> AbstractContextManager[None]:
    """Locks a gallery folder for changes by one program at a time; readers need no lock.

    Args:
        folder: the gallery folder.
        make: create the folder if it does not exist.

    Raises:
        DataError: another program holds the lock; the folder cannot be written; or it does not exist and `make` is not set.
    """
    if not make and not folder.is_dir():
        read_about(folder)  # raises an error that names the command to make a gallery
    return exclusive_lock(folder, "another program is changing this gallery; wait until it finishes, and try again")


def middle_frames(split: Split) -> np.ndarray:
    """Returns (T,) texts: the absolute path of each tracklet's middle frame."""
    middle = (split.start + split.stop) // 2
    return np.array([split.path(frame).absolute().as_posix() for frame in middle], object)


def exists(folder: Path) -> bool:
    """Whether the folder contains a complete gallery."""
    return any((folder / name).is_file() for name in (ABOUT, f"{ABOUT}.new"))


def require_free(folder: Path, *, overwrite: bool) -> None:
    """Creates the folder for a new gallery, or checks that an existing one may be written to.

    Raises:
        DataError: the folder is not empty, unless it is a feature folder and `overwrite` is set.
    """
    free = not folder.exists() or (folder.is_dir() and all(file.name == LOCK for file in folder.iterdir()))
    if not free and not (overwrite and exists(folder)):
        raise DataError(
            f"{folder}: exists and is not empty; choose another --out, or --overwrite to replace a feature folder"
        )
    folder.mkdir(parents=True, exist_ok=True)  # an unwritable path fails before the extraction, not after


def blocks(features: np.ndarray, rows: np.ndarray | None = None) -> Iterator[np.ndarray]:
    """Yields the given rows of an array (all by default) in blocks of at most `ROWS_AT_ONCE` rows."""
    for first in range(0, len(features) if rows is None else len(rows), ROWS_AT_ONCE):
        part = slice(first, first + ROWS_AT_ONCE)
        yield features[part] if rows is None else features[rows[part]]


def draft(folder: Path, parts: Iterable[np.ndarray], shape: tuple[int, ...]) -> np.ndarray:
    """Writes the features for the next `commit` to `features.npy.new`; the current features stay in place.

    Args:
        folder: the gallery folder.
        parts: (n, D) each, together (N, D).
        shape: (N, D).

    Returns:
        (N, D) float32, memory-mapped.
    """
    finish_pending_change(folder)
    with atomic(folder / f"{FEATURES}.new") as temporary:
        # Written rather than memory-mapped: a full disk then raises an error instead of killing the process with a signal.
        with open(temporary, "wb") as file:
            header = {"descr": "<f4", "fortran_order": False, "shape": tuple(shape)}
            np.lib.format.write_array_header_1_0(file, header)
            end = 0
            for part in parts:
                file.write(np.ascontiguousarray(part, "<f4").data)
                end += len(part)
        assert end == shape[0], "parts fill the shape"
    return np.load(folder / f"{FEATURES}.new", mmap_mode="r", allow_pickle=False)


def commit(gallery: Gallery, index: Index | None = None) -> None:
    """Commits this gallery to its folder. The features are those of the last `draft`, or else the folder's current ones.

    To keep the current features, call `finish_pending_change` first.

    Args:
        gallery: rows and metadata, one row per row of features.
        index: index of the same rows; without it the folder will have no index.

    Raises:
        DataError: the folder cannot be written.
    """
    folder, rows = gallery.folder, gallery.features
    assert rows.key is not None, "rows of a gallery have keys"
    header = list(COLUMNS)
    columns = [range(len(rows.key)), rows.key, rows.pid, rows.camid, gallery.num_frames, gallery.path]
    if names := gallery.names:
        header += NAME_COLUMNS
        columns += [[of.get(number, "") for number in ids.tolist()] for ids, of in _named(rows, names)]
    if gallery.time is not None:
        header.append(TIME)
        columns.append([times.written(seconds) for seconds in gallery.time.tolist()])
    with (
        atomic(folder / f"{META}.new") as temporary,
        open(temporary, "w", newline="", encoding="utf-8", errors="surrogateescape") as file,
    ):
        writer = csv.writer(file, lineterminator="\n")
        writer.writerows([header, *zip(*columns, strict=True)])
    if index is not None:
        with atomic(folder / f"{INDEX}.new") as temporary:
            index.save(temporary)
    record = _record(gallery, index)
    new = {name: folder / f"{name}.new" for name in (FEATURES, META, *([INDEX] if index else []))}
    record["checksums"] = {name: crc32_of(file if file.exists() else folder / name) for name, file in new.items()}
    record["checksums"][ROWS] = crc32_of_rows(record)
    with atomic(folder / f"{ABOUT}.new") as temporary:
        temporary.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    finish_pending_change(folder)


def _named(rows: FeatureSet, names: IdNames) -> list[tuple[np.ndarray, Mapping[int, str]]]:
    return [(rows.pid, names.pid), (rows.camid, names.camid)]


def _record(gallery: Gallery, index: Index | None) -> dict[str, Any]:
    rows = gallery.features
    counts = {"tracklets": len(rows.pid), "frames": int(gallery.num_frames.sum()), "dim": rows.features.shape[1]}
    record = {"schema": SCHEMA, "fingerprint": rows.fingerprint, **gallery.about, "counts": counts}
    if index is not None:
        record["index"] = {"factory": index.factory, "rows": len(rows.pid), "fingerprint": rows.fingerprint}
    if len(rows.query):
        record |= {"query": rows.query.tolist(), "gallery": rows.gallery.tolist()}
    return record


def finish_pending_change(folder: Path) -> None:
    """Moves the files of a committed change into place, or deletes those of an uncommitted one; the first step of every change."""
    new = {name: folder / f"{name}.new" for name in (FEATURES, META, INDEX, ABOUT)}
    made = new[ABOUT].exists()
    if made and not new[INDEX].exists() and "index" not in read_about(folder):
        (folder / INDEX).unlink(missing_ok=True)
    for name, file in new.items():  # gallery.json last, so that after a kill the next call moves the rest
        if made and file.exists():
            os.replace(file, folder / name)
        file.unlink(missing_ok=True)
        for temporary in folder.glob(f".{name}.new.*.tmp"):
            temporary.unlink()


def read(folder: Path) -> FeatureSet:
    """Reads the features of a folder, memory-mapped.

    Raises:
        DataError: a file is missing, damaged or inconsistent with the others.
    """
    return open_gallery(folder).features


def open_gallery(folder: Path) -> Gallery:
    """Opens a gallery without a lock; features are memory-mapped. If the folder changes meanwhile, it is read again.

    Raises:
        DataError: a file is missing, damaged or inconsistent with the others; or the folder changed during all `READINGS` attempts.
    """
    for reading in range(1, READINGS + 1):
        before, moving = state(folder), (folder / f"{ABOUT}.new").exists()
        try:
            gallery = _opened(folder)
            if state(folder) == before:
                return replace(gallery, state=before)
        except DataError:
            if reading == READINGS or (state(folder) == before and not moving):
                raise
        time.sleep(PAUSE)
    raise DataError(f"{folder}: keeps changing; try again when the program that changes it has finished")


def _opened(folder: Path) -> Gallery:
    about, meta = read_about(folder), read_meta(current(folder, META))
    try:
        features = np.load(current(folder, FEATURES), mmap_mode="r", allow_pickle=False)
        num_rows = len(features)
    except NPY_ERRORS as error:
        raise DataError(f"{folder / FEATURES}: cannot read these features: {error}; extract them again") from None
    counted = about["counts"]["tracklets"]
    if not len(meta["key"]) == num_rows == counted:
        raise DataError(
            f"{folder}: {num_rows} rows in features.npy, {len(meta['key'])} in meta.csv, {counted} in gallery.json; "
            "expected as many in each; extract them again"
        )
    query = np.array(about.get("query", []), np.int64)
    searched = np.array(about["gallery"], np.int64) if "gallery" in about else np.arange(num_rows)
    try:
        rows = FeatureSet(features, meta["pid"], meta["camid"], query, searched, meta["key"], about["fingerprint"])
    except DataError as error:
        raise DataError(*(f"{folder}: {problem}; extract them again" for problem in error.problems)) from None
    _compare(folder, about, rows, meta)
    rest = {name: value for name, value in about.items() if name not in (*ROW_LISTS, *_COUNTED)}
    return Gallery(folder, rows, meta["num_frames"], meta["path"], rest, time=meta.get(TIME))


def _compare(folder: Path, about: Mapping[str, Any], rows: FeatureSet, meta: Mapping[str, np.ndarray]) -> None:
    """Checks counts and checksums against gallery.json; galleries of earlier versions have no checksums.

    Raises:
        DataError: they differ; the message names the counts or the damaged file.
    """
    counts = {"tracklets": len(rows.pid), "frames": int(meta["num_frames"].sum()), "dim": rows.features.shape[1]}
    said = {name: about["counts"].get(name, value) for name, value in counts.items()}
    if said != counts:
        raise DataError(
            f"{folder}: {counts} found, but gallery.json says {said}; copy the folder again, or extract again"
        )
    checksums = about.get("checksums", {})
    found = {name: crc32_of(current(folder, name)) for name in (FEATURES, META) if name in checksums}
    found |= {ROWS: crc32_of_rows(about)} if ROWS in checksums else {}
    if wrong := [name for name, checksum in found.items() if checksum != checksums[name]]:
        raise DataError(
            f"{folder}: {wrong[0]}: damaged: its checksum does not match gallery.json; copy the folder again, or "
            "extract again; if you changed it on purpose, remove it from `checksums` there"
        )


def open_index(gallery: Gallery) -> Index | None:
    """Opens the index of a gallery; None if it has none.

    Raises:
        DataError: the index is damaged or stale (made of other rows or by another model), or the folder has changed since it was opened.
    """
    about = read_about(gallery.folder)
    record, checksum = about.get("index"), about.get("checksums", {}).get(INDEX)
    if record is None:
        return None
    rows, file = gallery.features, current(gallery.folder, INDEX)
    if (
        checksum is not None
        and file.is_file()
        and crc32_of(file) != checksum
        and state(gallery.folder) == gallery.state
    ):
        again = f"robust-reid gallery index {gallery.folder} '{record.get('factory')}'"
        raise DataError(
            f"{file}: out of date or damaged: its checksum does not match gallery.json; rebuild it: {again}; "
            "or search exactly: --index Flat"
        )
    index = read_index(file, record, rows.features.shape, rows.fingerprint, gallery.folder)
    if state(gallery.folder) != gallery.state:
        raise DataError(f"{gallery.folder}: has changed since it was opened; open it again")
    return index
