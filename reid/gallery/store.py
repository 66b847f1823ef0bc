"""A folder of tracklet features: what tools/extract.py writes, and tools/test.py reads as it reads a feature file.

`features.npy` (N, D) float32 unit rows · `meta.csv` (row, key, pid, camid, num_frames, path) · `gallery.json` (schema, fingerprint,
run, preprocessing, counts, and the query rows where the source has a test protocol).
"""

from __future__ import annotations

import csv
import json
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from reid.errors import DataError
from reid.features import FeatureSet
from reid.files import atomic
from reid.tracklets import Split

SCHEMA = 1
_COLUMNS = ["row", "key", "pid", "camid", "num_frames", "path"]


def write(
    folder: Path, features: FeatureSet, split: Split, about: Mapping[str, Any], *, overwrite: bool = False
) -> None:
    """Writes the folder; `gallery.json` comes last, so a folder that has it is complete.

    Args:
        folder: new, empty, or with `overwrite` one written by this function.
        features: one row per tracklet of `split`.
        split: where the rows come from.
        about: run and preprocessing, for `gallery.json`.

    Raises:
        DataError: the folder is not empty, or cannot be written.
    """
    require_free(folder, overwrite=overwrite)
    (folder / "gallery.json").unlink(missing_ok=True)
    with atomic(folder / "features.npy") as temporary, open(temporary, "wb") as file:
        np.save(file, features.features)
    with (
        atomic(folder / "meta.csv") as temporary,
        open(temporary, "w", newline="", encoding="utf-8", errors="surrogateescape") as file,
    ):
        writer = csv.writer(file)
        writer.writerow(_COLUMNS)
        for i, length in enumerate(split.lengths.tolist()):
            first = split.path(split.start[i]).absolute()
            writer.writerow([i, split.key(i), split.pid[i], split.camid[i], length, first.parent.as_posix()])
    counts = {"tracklets": len(split), "frames": split.num_frames, "dim": features.features.shape[1]}
    record = {"schema": SCHEMA, "fingerprint": features.fingerprint, **about, "counts": counts}
    record |= {"query": features.query.tolist(), "gallery": features.gallery.tolist()} if len(features.query) else {}
    with atomic(folder / "gallery.json") as temporary:
        temporary.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


def require_free(folder: Path, *, overwrite: bool) -> None:
    """Makes the folder, and refuses one that `write` may not write to.

    Raises:
        DataError: it holds something, and that is not a feature folder to be overwritten.
    """
    free = not folder.exists() or (folder.is_dir() and not any(folder.iterdir()))
    if not free and not (overwrite and (folder / "gallery.json").is_file()):
        raise DataError(
            f"{folder}: exists and is not empty; choose another --out, or --overwrite to replace a feature folder"
        )
    folder.mkdir(parents=True, exist_ok=True)  # what cannot be written shows before the work, not after


def read(folder: Path) -> FeatureSet:
    """Reads the folder; features are memory-mapped.

    Raises:
        DataError: something is missing, damaged or inconsistent.
    """
    about, meta = _about(folder / "gallery.json"), _meta(folder / "meta.csv")
    try:
        features = np.load(folder / "features.npy", mmap_mode="r", allow_pickle=False)
        num_rows = len(features)
    except (OSError, ValueError, EOFError, TypeError, zipfile.BadZipFile) as error:
        raise DataError(f"{folder / 'features.npy'}: cannot read these features: {error}; extract them again") from None
    if not len(meta["key"]) == num_rows == about["counts"]["tracklets"]:
        raise DataError(
            f"{folder}: {num_rows} rows in features.npy, {len(meta['key'])} in meta.csv, "
            f"{about['counts']['tracklets']} in gallery.json; expected as many in each; extract them again"
        )
    query, gallery = (np.array(about[name], dtype=np.int64) for name in ("query", "gallery"))
    return FeatureSet(features, meta["pid"], meta["camid"], query, gallery, meta["key"], about["fingerprint"])


def _about(file: Path) -> dict[str, Any]:
    try:
        about = json.loads(file.read_text(encoding="utf-8"))
        if about["schema"] != SCHEMA:
            raise ValueError(f"schema {about['schema']}, expected {SCHEMA}")
        about["query"] = about.get("query", [])
        about["gallery"] = about.get("gallery", list(range(about["counts"]["tracklets"])))
        if not all(type(row) is int and abs(row) < 2**63 for row in (*about["query"], *about["gallery"])):
            raise ValueError("query and gallery must be lists of row numbers")
        return about | {"fingerprint": about["fingerprint"]}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(
            f"{file}: no complete feature folder of tools/extract.py: {error}; extract the features again"
        ) from None


def _meta(file: Path) -> dict[str, np.ndarray]:
    try:
        with open(file, newline="", encoding="utf-8", errors="surrogateescape") as lines:
            rows = list(csv.DictReader(lines))
        if [int(row["row"]) for row in rows] != list(range(len(rows))):
            raise ValueError("the column `row` must count 0, 1, 2 …")
        return {
            "key": np.array([row["key"] for row in rows], dtype=np.str_),
            "pid": np.array([int(row["pid"]) for row in rows], dtype=np.int64),
            "camid": np.array([int(row["camid"]) for row in rows], dtype=np.int64),
        }
    except (OSError, ValueError, KeyError, TypeError, OverflowError, csv.Error) as error:
        raise DataError(
            f"{file}: expected columns {', '.join(_COLUMNS)}: {error}; extract the features again"
        ) from None
