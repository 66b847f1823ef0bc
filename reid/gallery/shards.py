"""Shards of an extraction, saved as they finish, so that a killed extraction can be resumed.

`shards/plan.json` describes the extraction; `shards/000000.npy` … hold the features of consecutive tracklets. Each file is written
atomically.

Shapes: T tracklets, D feature dimensions.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from reid.errors import DataError
from reid.files import JSON_ERRORS, NPY_ERRORS, atomic
from reid.tracklets import Split

SHARD_FRAMES = 2**14  # frames per shard: seconds on a GPU, minutes on a CPU


class Shards:
    """The shards of one extraction.

    Args:
        folder: the gallery folder; shards go to its subfolder `shards/`.
        split: T tracklets.
        frames: frames per shard, >= 1; shards are cut between tracklets, see `in_parts`.
        dim: D.
        about: further properties that must match to resume, such as the model's fingerprint and the number format.
    """

    def __init__(self, folder: Path, split: Split, frames: int, dim: int, about: Mapping[str, Any]) -> None:
        self.folder, self.dim = folder / "shards", dim
        self.rows = in_parts(split, frames)
        self.plan = {"schema": 1, "tracklets": _digest(split), "shard_frames": frames, **about}

    def begin(self, *, resume: bool, overwrite: bool) -> None:
        """Creates the folder and plan.json, or with `resume` keeps the shards of an unfinished extraction with the same plan.

        Raises:
            DataError: the folder has an unfinished extraction, and neither `resume` nor `overwrite` is set; or it cannot be resumed because
                its plan differs, and `overwrite` is not set.
        """
        plan = self.folder / "plan.json"
        if plan.is_file() and resume:
            changed = _differences(_read(plan), self.plan)
            if not changed:
                return
            if not overwrite:
                raise DataError(
                    f"{plan.parent}: cannot resume: {'; '.join(changed)}; use the settings it was started with, or delete shards/"
                )
        elif plan.is_file() and not overwrite:
            raise DataError(
                f"{plan.parent}: an extraction into this folder is unfinished; --resume auto continues it; delete "
                "shards/ to discard it"
            )
        self.remove()
        with atomic(plan) as temporary:
            temporary.write_text(json.dumps(self.plan, indent=1) + "\n", encoding="utf-8")

    def missing(self) -> np.ndarray:
        """Returns (number of shards,) bool: whether each shard is not saved yet."""
        return np.array([not self._file(number).exists() for number in range(len(self.rows))])

    def save(self, number: int, features: np.ndarray) -> None:
        """Saves the features of one shard."""
        with atomic(self._file(number)) as temporary, open(temporary, "wb") as file:
            np.save(file, features)

    def features(self) -> Iterator[np.ndarray]:
        """Yields the features of each shard in order, (n, D) float32.

        Raises:
            DataError: a shard is missing or damaged.
        """
        for number, rows in enumerate(self.rows):
            file = self._file(number)
            try:
                part = np.load(file, allow_pickle=False)
            except NPY_ERRORS as error:
                raise DataError(f"{file}: damaged: {error}; delete it and continue with --resume auto") from None
            if part.shape != (len(rows), self.dim) or part.dtype != np.float32:
                got = f"expected float32 {(len(rows), self.dim)}, got {part.dtype} {part.shape}"
                raise DataError(f"{file}: {got}; delete it and continue with --resume auto")
            yield part

    def remove(self) -> None:
        """Deletes the shards and the plan."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def _file(self, number: int) -> Path:
        return self.folder / f"{number:06}.npy"


def in_parts(split: Split, frames: int) -> list[np.ndarray]:
    """Splits tracklets into consecutive parts, each an array of tracklet numbers.

    A part ends with the tracklet whose last frame reaches the next multiple of `frames`, counted over all tracklets.
    """
    number = (np.cumsum(split.lengths) - split.lengths) // frames
    return np.split(np.arange(len(split)), np.flatnonzero(np.diff(number)) + 1)


def unfinished(folder: Path) -> bool:
    """Whether a gallery folder contains an unfinished extraction."""
    return (folder / "shards" / "plan.json").is_file()


def _digest(split: Split) -> str:
    """Hash of the tracklets, 16 hexadecimal digits: their keys, frames, pids and camids."""
    keys = "\n".join(split.key(i) for i in range(len(split))).encode(errors="surrogateescape")
    digest = hashlib.sha256(b"\0".join([keys, *split.names.tolist()]))
    for column in (split.start, split.stop, split.pid, split.camid):
        digest.update(column.tobytes())
    return digest.hexdigest()[:16]


def _read(plan: Path) -> dict[str, Any]:
    try:
        return dict(json.loads(plan.read_text(encoding="utf-8")))
    except (*JSON_ERRORS, TypeError) as error:
        raise DataError(f"{plan}: damaged: {error}; delete {plan.parent} and extract again") from None


def _differences(there: Mapping[str, Any], here: Mapping[str, Any]) -> list[str]:
    names = sorted(there.keys() | here.keys())
    return [f"{n}: {there.get(n)!r} before, {here.get(n)!r} now" for n in names if there.get(n) != here.get(n)]
