"""Parts of an extraction that are saved as they are done, so that one that was killed goes on where it was.

`shards/plan.json` says what is being extracted; `shards/000000.npy` … hold the features of consecutive tracklets, each file whole.

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

SHARD_FRAMES = 2**14  # frames between two saved parts: seconds on a GPU, minutes on a CPU


class Shards:
    """The parts of one extraction.

    Args:
        folder: the gallery's; the parts go to `shards/` in it.
        split: T tracklets.
        frames: a part ends with the tracklet that brings it to so many, >= 1.
        dim: D.
        about: what else an extraction must share with the one it goes on with: the model's fingerprint, the number format.
    """

    def __init__(self, folder: Path, split: Split, frames: int, dim: int, about: Mapping[str, Any]) -> None:
        self.folder, self.dim = folder / "shards", dim
        self.rows = in_parts(split, frames)
        self.plan = {"schema": 1, "tracklets": _digest(split), "shard_frames": frames, **about}

    def begin(self, *, resume: bool, overwrite: bool) -> None:
        """Makes the folder, or with `resume` finds it as an extraction of the same left it.

        Raises:
            DataError: an unfinished extraction is there, and going on is not asked for, or it is of something else.
        """
        plan = self.folder / "plan.json"
        if plan.is_file() and resume:
            changed = _differences(_read(plan), self.plan)
            if not changed:
                return
            if not overwrite:
                raise DataError(
                    f"{plan.parent}: cannot resume: {'; '.join(changed)}; give what it was begun with, or delete shards/"
                )
        elif plan.is_file() and not overwrite:
            raise DataError(
                f"{plan.parent}: an extraction into this folder was not finished; --resume auto goes on with it, "
                "deleting shards/ forgets it"
            )
        self.remove()
        with atomic(plan) as temporary:
            temporary.write_text(json.dumps(self.plan, indent=1) + "\n", encoding="utf-8")

    def missing(self) -> np.ndarray:
        """(number of parts,) bool: not saved yet."""
        return np.array([not self._file(number).exists() for number in range(len(self.rows))])

    def save(self, number: int, features: np.ndarray) -> None:
        """Keeps the features of one part."""
        with atomic(self._file(number)) as temporary, open(temporary, "wb") as file:
            np.save(file, features)

    def features(self) -> Iterator[np.ndarray]:
        """Those of all parts in turn.

        Raises:
            DataError: a part is missing or damaged.
        """
        for number, rows in enumerate(self.rows):
            file = self._file(number)
            try:
                part = np.load(file, allow_pickle=False)
            except NPY_ERRORS as error:
                raise DataError(f"{file}: damaged: {error}; delete it and go on with --resume auto") from None
            if part.shape != (len(rows), self.dim) or part.dtype != np.float32:
                got = f"expected float32 {(len(rows), self.dim)}, got {part.dtype} {part.shape}"
                raise DataError(f"{file}: {got}; delete it and go on with --resume auto")
            yield part

    def remove(self) -> None:
        """Deletes the parts."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def _file(self, number: int) -> Path:
        return self.folder / f"{number:06}.npy"


def in_parts(split: Split, frames: int) -> list[np.ndarray]:
    """Consecutive tracklet numbers; a part ends with the tracklet that brings it to so many frames."""
    number = (np.cumsum(split.lengths) - split.lengths) // frames
    return np.split(np.arange(len(split)), np.flatnonzero(np.diff(number)) + 1)


def unfinished(folder: Path) -> bool:
    """Whether parts of an extraction lie in a gallery's folder."""
    return (folder / "shards" / "plan.json").is_file()


def _digest(split: Split) -> str:
    """16 hexadecimal digits of which frames make up which tracklets, and who they are."""
    keys = "\n".join(split.key(i) for i in range(len(split))).encode(errors="surrogateescape")
    digest = hashlib.sha256(b"\0".join([keys, *split.names.tolist()]))
    for column in (split.start, split.stop, split.pid, split.camid):
        digest.update(column.tobytes())
    return digest.hexdigest()[:16]


def _read(plan: Path) -> dict[str, Any]:
    try:
        return dict(json.loads(plan.read_text(encoding="utf-8")))
    except (*JSON_ERRORS, TypeError) as error:
        raise DataError(f"{plan}: damaged: {error}; delete {plan.parent} and extract anew") from None


def _differences(there: Mapping[str, Any], here: Mapping[str, Any]) -> list[str]:
    names = sorted(there.keys() | here.keys())
    return [f"{n}: {there.get(n)!r} there, {here.get(n)!r} here" for n in names if there.get(n) != here.get(n)]
