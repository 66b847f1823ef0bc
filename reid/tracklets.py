"""Tracklets of a dataset, stored in columns of arrays instead of one Python object per tracklet.

Shapes: F frame names of a split, T tracklets, K classes, Q queries, G gallery rows, n as said.
"""

from __future__ import annotations

import dataclasses
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from reid.errors import DataError

_FRAME_NUMBER = re.compile(r"F\d+$")


@dataclass(frozen=True)
class Tracklet:
    """One tracklet, created on demand from a `Split`.

    Args:
        paths: image files of the frames, in order.
        pid: person id as on disk; > 0 a person, 0 distractor or unknown, < 0 junk.
        camid: camera number, -1 unknown.
        key: name of the tracklet, such as ``0001C1T0001``.
    """

    paths: list[Path]
    pid: int
    camid: int
    key: str


@dataclass(frozen=True, eq=False)
class Split:
    """A set of tracklets in columns: tracklet i has the frames ``names[start[i]:stop[i]]``. Arrays are read-only.

    Args:
        root: folder that the names are relative to.
        names: (F,) bytes, POSIX path of each frame relative to ``root``, such as ``b"0001/0001C1T0001F001.jpg"``.
        start: (T,) integers, 0-based index of the first frame; 0 <= start < stop.
        stop: (T,) integers, index after the last frame; stop <= F.
        pid: (T,) integers; > 0 a person, 0 distractor or unknown, < 0 junk.
        camid: (T,) integers, -1 unknown.
        keys: (T,) names of the tracklets, strings; by default the first frame's name without its frame number.

    Raises:
        DataError: a column has the wrong shape, type, length or range.
    """

    root: Path
    names: np.ndarray
    start: np.ndarray
    stop: np.ndarray
    pid: np.ndarray
    camid: np.ndarray
    keys: np.ndarray | None = None

    def __post_init__(self) -> None:
        _set(self, "root", Path(self.root))
        _set(self, "names", _column("Split.names", self.names, kind="S"))
        for field in ("start", "stop", "pid", "camid"):
            _set(self, field, _column(f"Split.{field}", getattr(self, field), kind="i", length=len(self.start)))
        if self.keys is not None:
            _set(self, "keys", _column("Split.keys", self.keys, kind="U", length=len(self.start)))
        bad = np.flatnonzero((self.start < 0) | (self.start >= self.stop) | (self.stop > len(self.names)))
        if len(bad):
            span = f"[{self.start[bad[0]]}, {self.stop[bad[0]]})"
            raise DataError(f"Split: tracklet {bad[0]} spans frames {span}, expected a range in [0, {len(self.names)})")

    def __reduce__(self) -> tuple[type[Split], tuple[Any, ...]]:
        # Restored through __init__, because plain pickling loses the read-only flag of the arrays.
        columns = (self.names, self.start, self.stop, self.pid, self.camid, self.keys)
        return Split, (self.root, *columns)

    def __len__(self) -> int:
        return len(self.start)

    def __getitem__(self, i: int) -> Tracklet:
        paths = [self.path(frame) for frame in range(self.start[i], self.stop[i])]
        return Tracklet(paths, int(self.pid[i]), int(self.camid[i]), self.key(i))

    def __iter__(self) -> Iterator[Tracklet]:
        return (self[i] for i in range(len(self)))

    @property
    def lengths(self) -> np.ndarray:
        """(T,) int64, number of frames of each tracklet."""
        return self.stop - self.start

    @property
    def num_frames(self) -> int:
        """Number of frames of all tracklets; names that belong to no tracklet are not counted."""
        return int(self.lengths.sum())

    def path(self, frame: int) -> Path:
        """The image file of a frame index, 0 <= frame < F."""
        return self.root / os.fsdecode(self.names[frame])

    def key(self, i: int) -> str:
        """The name of tracklet i, such as ``0001C1T0001``."""
        if self.keys is not None:
            return str(self.keys[i])
        return _FRAME_NUMBER.sub("", self.path(self.start[i]).stem)

    def frames(self, rows: ArrayLike | None = None) -> np.ndarray:
        """Frame indices of some tracklets, one tracklet after another.

        Args:
            rows: (n,) tracklet indices, all by default; may contain duplicates.

        Returns:
            (sum of their lengths,) int64.
        """
        chosen = np.arange(len(self)) if rows is None else np.asarray(rows, dtype=np.int64)
        lengths = self.lengths[chosen]
        before = np.cumsum(lengths) - lengths
        return np.arange(lengths.sum()) + np.repeat(self.start[chosen] - before, lengths)

    def select(self, rows: ArrayLike) -> Split:
        """A split with some of the tracklets, given by (n,) indices or a (T,) bool mask; the frame names are shared."""
        chosen = np.asarray(rows)
        if chosen.dtype != np.bool_:
            chosen = chosen.astype(np.int64)
        columns = {field: getattr(self, field)[chosen] for field in ("start", "stop", "pid", "camid")}
        return replace(self, **columns, keys=None if self.keys is None else self.keys[chosen])

    def with_pid(self, pid: ArrayLike) -> Split:
        """A split with other person ids, (T,) integers, such as noisy labels."""
        return replace(self, pid=np.asarray(pid))

    def labels(self) -> tuple[np.ndarray, np.ndarray]:
        """Class labels for training: indices into the sorted pids.

        Returns:
            (T,) int64 labels in 0..K-1, and (K,) int64 sorted pids, so that ``pids[labels]`` is ``pid``.

        Raises:
            DataError: a tracklet is junk (pid < 0), which has no class.
        """
        junk = np.flatnonzero(self.pid < 0)
        if len(junk):
            raise DataError(
                f"tracklet {junk[0]} ({self.key(junk[0])}) is junk (pid {self.pid[junk[0]]}) and has no class"
            )
        pids, labels = np.unique(self.pid, return_inverse=True)
        return labels.astype(np.int64), pids


@dataclass(frozen=True)
class IdNames:
    """Names of persons and cameras, for sources that have names instead of numbers; a number without a name stands for itself.

    Args:
        pid: number -> name, such as ``{1: "alice"}``; empty if the source has numbers.
        camid: number -> name, such as ``{2: "gate 3"}``.
    """

    pid: Mapping[int, str] = dataclasses.field(default_factory=dict)
    camid: Mapping[int, str] = dataclasses.field(default_factory=dict)

    def __bool__(self) -> bool:
        return bool(self.pid or self.camid)

    def person(self, pid: int) -> str:
        """Name of a person, such as ``alice``, or ``pid 12`` if there is none."""
        return self.pid.get(int(pid), f"pid {pid}")

    def camera(self, camid: int) -> str:
        """Name of a camera, such as ``gate 3``, or ``cam 2`` if there is none."""
        return self.camid.get(int(camid), f"cam {camid}")

    def to_json(self) -> dict[str, dict[str, str]]:
        """The names in plain types, for JSON; `from_json` restores them."""
        return {kind: {str(number): name for number, name in getattr(self, kind).items()} for kind in ("pid", "camid")}

    @classmethod
    def from_json(cls, stored: Any) -> IdNames:
        """Restores names from `to_json`; None gives no names.

        Raises:
            ValueError, TypeError, AttributeError: `stored` is not from `to_json`.
        """
        parts = {kind: (stored or {}).get(kind, {}) for kind in ("pid", "camid")}
        return cls(**{kind: {int(number): str(name) for number, name in part.items()} for kind, part in parts.items()})


@dataclass(frozen=True, eq=False)
class Benchmark:
    """A dataset with its test set: query and gallery are row numbers of ``test``.

    Args:
        name: such as ``mars``.
        train: training tracklets.
        test: tracklets to extract features of, each once.
        query: (Q,) integers in [0, T) without duplicates.
        gallery: (G,) integers in [0, T) without duplicates.
        val: validation tracklets to choose a checkpoint by; None if the dataset has none.
        names: of persons and cameras.
        notes: caveats for readers of its results, one sentence each.
        drawn: person as written -> ``train``, ``val`` or ``test``, if the loader drew the split; None if the dataset defines it.
        weight: (T,) float64 >= 0 weights of the tracklets of ``train``; None if the dataset has none.
        parts: the datasets that were merged into this one, each to be tested separately; empty for a single dataset.

    Raises:
        DataError: a row number is out of range or duplicated.
    """

    name: str
    train: Split
    test: Split
    query: np.ndarray
    gallery: np.ndarray
    val: Split | None = None
    names: IdNames = dataclasses.field(default_factory=IdNames)
    notes: tuple[str, ...] = ()
    drawn: Mapping[str, str] | None = None
    weight: np.ndarray | None = None
    parts: tuple[Benchmark, ...] = ()

    def __post_init__(self) -> None:
        for field in ("query", "gallery"):
            rows = _column(f"Benchmark.{field}", getattr(self, field), kind="i")
            _set(self, field, rows)
            if np.any((rows < 0) | (rows >= len(self.test))):
                raise DataError(f"{self.name}: a {field} row is outside [0, {len(self.test)}), the test tracklets")
            if len(np.unique(rows)) < len(rows):
                raise DataError(f"{self.name}: a {field} row appears twice")

    @property
    def tested(self) -> tuple[Benchmark, ...]:
        """The datasets to evaluate: itself, or the datasets merged into it."""
        return self.parts or (self,)

    def summary(self) -> list[tuple[str, int, int, int, int]]:
        """Rows (subset, ids, tracklets, frames, cameras) of train, val if there is one, query and gallery; ids are persons (pid > 0).

        If several datasets were merged, each has its own rows for query and gallery.
        """
        subsets = {"train": self.train, **({} if self.val is None else {"val": self.val})}
        for one in self.tested:
            of = f"{one.name} " if self.parts else ""
            subsets |= {f"{of}query": one.test.select(one.query), f"{of}gallery": one.test.select(one.gallery)}
        return [(name, *_counts(split)) for name, split in subsets.items()]


def _counts(split: Split) -> tuple[int, int, int, int]:
    ids, cameras = np.unique(split.pid[split.pid > 0]), np.unique(split.camid[split.camid >= 0])
    return len(ids), len(split), split.num_frames, len(cameras)


def _set(record: object, field: str, value: object) -> None:
    object.__setattr__(record, field, value)


def _column(name: str, values: Any, *, kind: str, length: int | None = None) -> np.ndarray:
    array = np.asarray(values)
    integers = kind == "i"
    expected = {"i": "integers", "S": "bytes", "U": "strings"}[kind]
    if array.ndim != 1 or (array.dtype.kind not in ("iu" if integers else kind)):
        raise DataError(f"{name}: expected one dimension of {expected}, got {array.dtype} of shape {array.shape}")
    if length is not None and len(array) != length:
        raise DataError(f"{name}: expected one entry for each of {length} tracklets, got {len(array)}")
    if array.dtype.kind == "u" and len(array) and array.max() > np.iinfo(np.int64).max:
        raise DataError(f"{name}: expected 64-bit signed integers, got {array.max()}")
    # A view, so that the caller's own array stays writable.
    view = (array.astype(np.int64, copy=False) if integers else array).view()
    view.flags.writeable = False
    return view
