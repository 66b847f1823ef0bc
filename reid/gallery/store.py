"""A folder of tracklet features: what tools/extract.py writes, and tools/test.py reads as it reads a feature file.

`features.npy` (N, D) float32 unit rows · `meta.csv` (row, key, pid, camid, num_frames, path) · `gallery.json` (schema, fingerprint,
run, preprocessing, counts, and the query rows where the source has a test protocol).
"""

from __future__ import annotations

import csv
import json
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
    with atomic(folder / "meta.csv") as temporary, open(temporary, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(_COLUMNS)
        for i, length in enumerate(split.lengths.tolist()):
            first = split.path(split.start[i])
            writer.writerow([i, split.key(i), split.pid[i], split.camid[i], length, first.parent.as_posix()])
    counts = {"tracklets": len(split), "frames": split.num_frames, "dim": features.features.shape[1]}
    record = {"schema": SCHEMA, "fingerprint": features.fingerprint, **about, "counts": counts}
    record |= {"query": features.query.tolist(), "gallery": features.gallery.tolist()} if len(features.query) else {}
    with atomic(folder / "gallery.json") as temporary:
        temporary.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


def require_free(folder: Path, *, overwrite: bool) -> None:
    """Refuses a folder that `write` may not write to; changes nothing.

    Raises:
        DataError: it holds something, and that is not a feature folder to be overwritten.
    """
    free = not folder.exists() or (folder.is_dir() and not any(folder.iterdir()))
    if not free and not (overwrite and (folder / "gallery.json").is_file()):
        raise DataError(
            f"{folder}: exists and is not empty; choose another --out, or --overwrite to replace a feature folder"
        )


def read(folder: Path) -> FeatureSet:
    """Reads the folder; features are memory-mapped.

    Raises:
        DataError: something is missing, damaged or inconsistent.
    """
    about = _about(folder)
    try:
        features = np.load(folder / "features.npy", mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise DataError(f"{folder / 'features.npy'}: cannot read these features: {error}; extract them again") from None
    meta = _meta(folder / "meta.csv")
    if not len(meta["key"]) == len(features) == about["counts"]["tracklets"]:
        raise DataError(
            f"{folder}: {len(features)} rows in features.npy, {len(meta['key'])} in meta.csv, "
            f"{about['counts']['tracklets']} in gallery.json; expected as many in each; extract them again"
        )
    rows = {
        name: np.array(about.get(name, default), dtype=np.int64)
        for name, default in (("query", []), ("gallery", range(len(features))))
    }
    return FeatureSet(
        features, meta["pid"], meta["camid"], rows["query"], rows["gallery"], meta["key"], about["fingerprint"]
    )


def _about(folder: Path) -> dict[str, Any]:
    file = folder / "gallery.json"
    try:
        about = json.loads(file.read_text(encoding="utf-8"))
        if about["schema"] != SCHEMA:
            raise DataError(f"{file}: schema {about['schema']}, expected {SCHEMA}; extract the features again")
        about["counts"]["tracklets"], about["fingerprint"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(
            f"{file}: no complete feature folder of tools/extract.py: {error}; extract the features again"
        ) from None
    return about


def _meta(file: Path) -> dict[str, np.ndarray]:
    try:
        with open(file, newline="", encoding="utf-8") as lines:
            rows = list(csv.DictReader(lines))
        return {
            "key": np.array([row["key"] for row in rows], dtype=np.str_),
            "pid": np.array([int(row["pid"]) for row in rows], dtype=np.int64),
            "camid": np.array([int(row["camid"]) for row in rows], dtype=np.int64),
        }
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(
            f"{file}: expected columns {', '.join(_COLUMNS)}: {error}; extract the features again"
        ) from None
