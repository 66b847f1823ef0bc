"""Deliberate changes to a training set's labels and frames, and the person in every tracklet and frame afterwards.

Files on disk are not changed. A change is one record, and a list of changes is enough to reproduce the same label noise: both drawing
noise (`tracklet_noise.py`) and replaying a manifest (`noise_manifest.py`) end in `applied`.

Shapes: T tracklets, F frame names of a split.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np

from reid.errors import DataError
from reid.tracklets import IdNames, Split


class Change(NamedTuple):
    """One change. Whether `frame` and `source_key` are set tells which of four kinds it is.

    - neither: the tracklet `key` is relabelled `given_pid`;
    - both: the frame at that position of the tracklet is replaced by the frame `source_frame` of the tracklet `source_key`;
    - `frame` alone: the frame is moved from its tracklet to a new one of the person `given_pid`, together with the frames of all other
      changes of that tracklet with the same `given_pid`;
    - `source_key` alone: a distractor or junk tracklet is added under `given_pid`.

    Args:
        key: of the tracklet, at the time of the change.
        frame: position inside the tracklet, counted from 0; None for the whole tracklet.
        true_pid: the person by the labels before any noise; 0 or -1 for a distractor or junk.
        given_pid: the person by the labels given to training.
        kind: of label noise, such as ``switches``.
        seed: of the draw.
        source_key: key of the tracklet that the frame or the added tracklet comes from; empty for none.
        source_frame: position inside that tracklet.
    """

    key: str
    frame: int | None
    true_pid: int
    given_pid: int
    kind: str
    seed: int
    source_key: str = ""
    source_frame: int | None = None


@dataclass(frozen=True)
class Persons:
    """The person in every tracklet and frame of a split.

    Args:
        pid_T: (T,) int64, the person of each tracklet; 0 or -1 for a distractor or junk.
        pid_F: (F,) int64, the person in each frame. The two differ where frames of another tracklet were put in.
    """

    pid_T: np.ndarray
    pid_F: np.ndarray

    def of_rows(self, rows: np.ndarray) -> Persons:
        """Select tracklets; `pid_F` still covers all frame names."""
        return Persons(self.pid_T[rows], self.pid_F)

    def labelled(self, split: Split) -> tuple[np.ndarray, np.ndarray]:
        """(T,) and (F,) bool: whether the labels of a split agree with these persons; False for frames outside all tracklets."""
        given_F = np.zeros(len(split.names), np.int64)
        covered_F = np.zeros(len(split.names), bool)
        frames = split.frames()
        given_F[frames], covered_F[frames] = np.repeat(split.pid, split.lengths), True
        return split.pid == self.pid_T, covered_F & (given_F == self.pid_F)


@dataclass(frozen=True, eq=False)
class Noisy:
    """A training set after some changes.

    Args:
        split: the tracklets to train on; each has a key.
        row_T: (T,) int64, the tracklet's row before all changes; -1 for an added distractor or junk tracklet.
        frame_F: (F,) int64, the frame's index before all changes; -1 for a frame of such a tracklet.
        before: the persons by the labels before all changes.
        names: of persons, including those that the changes created.
        changes: in the order made.
    """

    split: Split
    row_T: np.ndarray
    frame_F: np.ndarray
    before: Persons
    names: IdNames
    changes: tuple[Change, ...] = field(default=(), repr=False)

    @classmethod
    def of(cls, split: Split, names: IdNames) -> Noisy:
        """Wrap a split before any change.

        Raises:
            DataError: two tracklets have the same key or share frames, so that a change would be ambiguous.
        """
        keys = [split.key(i) for i in range(len(split))]
        if len(set(keys)) < len(keys):
            twice = next(key for i, key in enumerate(keys) if key in keys[:i])
            raise DataError(
                f"label noise: two training tracklets have the same key {twice!r}; give each tracklet its own key"
            )
        frames = split.frames()
        if len(np.unique(frames)) < len(frames):
            raise DataError("label noise: two training tracklets share frames; list each frame in only one of them")
        return cls.untouched(replace(split, keys=np.array(keys, "U")), names)

    @classmethod
    def untouched(cls, split: Split, names: IdNames) -> Noisy:
        """Wrap a split to which no change will be made, without checking keys and frames."""
        before = Persons(split.pid.astype(np.int64), per_frame(split, split.pid.astype(np.int64), fill=0))
        return cls(split, np.arange(len(split)), np.arange(len(split.names)), before, names)

    def persons(self, pid_T: np.ndarray, clean: Split) -> Persons:
        """The persons by labels other than those before the changes, such as the ground truth.

        Args:
            pid_T: labels of the tracklets before all changes.
            clean: the split before all changes.
        """
        pid_F = per_frame(clean, np.asarray(pid_T, np.int64), fill=0)
        return Persons(
            np.where(self.row_T >= 0, pid_T[self.row_T], self.before.pid_T),
            np.where(self.frame_F >= 0, pid_F[self.frame_F], self.before.pid_F),
        )


def per_frame(split: Split, value_T: np.ndarray, fill: object) -> np.ndarray:
    """(F,) the value of each frame's tracklet; `fill` for frames outside all tracklets."""
    value_F = np.full(len(split.names), fill, dtype=value_T.dtype)
    value_F[split.frames()] = np.repeat(value_T, split.lengths)
    return value_F


def applied(
    noisy: Noisy,
    changes: Sequence[Change],
    nobody: Split,
    *,
    where: Callable[[int], str] = lambda i: "",
    called: Mapping[int, str] | None = None,
) -> Noisy:
    """Apply the changes of one noise together: each refers to the training set as it was before all of them.

    Args:
        noisy: the training set before.
        changes: of one kind and seed.
        nobody: distractor and junk tracklets, looked up by key for changes that add one.
        where: prefix of the error messages about change i, such as its file and row.
        called: names of new persons, if the dataset has names; by default they are named after the original person: ``alice~2``.

    Raises:
        DataError: a change does not fit the training set.
    """
    return _Application(noisy, nobody, where).of(changes, called or {})


class _Application:
    def __init__(self, noisy: Noisy, nobody: Split, where: Callable[[int], str]) -> None:
        self._noisy, self._nobody, self._where = noisy, nobody, where
        self._split = noisy.split
        keys: list[str] = [] if self._split.keys is None else self._split.keys.tolist()
        self._row_of = {key: row for row, key in enumerate(keys)}
        self._nobody_of: dict[str, list[int]] = {}
        for row in range(len(nobody)):
            self._nobody_of.setdefault(nobody.key(row), []).append(row)
        self._pid = noisy.split.pid.astype(np.int64)
        self._source = np.arange(len(noisy.split.names))  # frame index -> index of the frame whose image replaces it
        self._leaving: dict[int, dict[int, list[int]]] = {}  # row -> new pid -> positions
        self._told: dict[int, int] = {}  # row -> the first change that moves frames out of it, for the error message
        self._added: list[tuple[int, int]] = []  # row of `nobody`, pid

    def of(self, changes: Sequence[Change], called: Mapping[int, str]) -> Noisy:
        for i, change in enumerate(changes):
            self._one(i, change)
        noisy, split = self._noisy, self._split
        pid_F, frame_F = noisy.before.pid_F[self._source], noisy.frame_F[self._source]
        parts = _Parts(
            replace(split, names=split.names[self._source], pid=self._pid),
            noisy.row_T,
            frame_F,
            Persons(noisy.before.pid_T, pid_F),
        )
        if self._leaving:
            parts = self._cut(parts)
        if self._added:
            parts = self._joined(parts)
        names = self._named(changes, called)
        return Noisy(parts.split, parts.row_T, parts.frame_F, parts.before, names, (*noisy.changes, *changes))

    def _fail(self, i: int, problem: str) -> DataError:
        return DataError(f"{self._where(i)}{problem}")

    def _one(self, i: int, change: Change) -> None:
        if change.frame is None and change.source_key:
            self._add(i, change)
            return
        row = self._row(i, change.key)
        before = self._noisy.before
        if change.frame is None:
            self._require_person(i, change, before.pid_T[row])
            self._pid[row] = change.given_pid
            return
        frame = self._frame(i, row, change.frame)
        if not change.source_key:
            self._require_person(i, change, before.pid_F[frame])
            self._leaving.setdefault(row, {}).setdefault(change.given_pid, []).append(change.frame)
            self._told.setdefault(row, i)
            return
        source = self._frame(i, self._row(i, change.source_key), change.source_frame or 0)
        self._require_person(i, change, before.pid_F[source])
        if change.given_pid != self._split.pid[row]:
            label = self._person(self._split.pid[row])
            raise self._fail(i, f"tracklet {change.key} is labelled {label}, not {self._person(change.given_pid)}")
        self._source[frame] = source

    def _row(self, i: int, key: str) -> int:
        if key not in self._row_of:
            raise self._fail(i, f"no training tracklet has the key {key!r}; is this the manifest of another dataset?")
        return self._row_of[key]

    def _frame(self, i: int, row: int, position: int) -> int:
        start, stop = int(self._split.start[row]), int(self._split.stop[row])
        if not 0 <= position < stop - start:
            key = self._split.key(row)
            raise self._fail(i, f"tracklet {key} has frames 0 to {stop - start - 1}, no frame {position}")
        return start + position

    def _person(self, pid: int) -> str:
        return self._noisy.names.pid.get(int(pid), str(pid))

    def _require_person(self, i: int, change: Change, pid: int) -> None:
        if pid != change.true_pid:
            shown = change.source_key or change.key
            expected, got = self._person(pid), self._person(change.true_pid)
            raise self._fail(i, f"{shown} is of person {expected}, not of {got}; is this the manifest of other labels?")

    def _add(self, i: int, change: Change) -> None:
        rows = self._nobody_of.get(change.source_key, [])
        if not rows:
            raise self._fail(i, f"no distractor or junk tracklet of the dataset has the key {change.source_key!r}")
        if change.key in self._row_of:
            raise self._fail(i, f"a training tracklet already has the key {change.key!r}")
        self._require_person(i, change, int(self._nobody.pid[rows[0]]))
        self._row_of[change.key] = -1
        self._added.append((rows[0], change.given_pid))

    def _cut(self, parts: _Parts) -> _Parts:
        split = parts.split
        start, stop = split.start.copy(), split.stop.copy()
        new_start, new_stop, new_pid, of_row, new_keys = [], [], [], [], []
        taken = set(self._row_of)
        for row, pieces in self._leaving.items():
            key, length = split.key(row), int(stop[row] - start[row])
            positions = [position for piece in pieces.values() for position in piece]
            if positions != list(range(length - len(positions), length)) or len(positions) == length:
                raise self._fail(
                    self._told[row],
                    f"tracklet {key}: frames {positions} are moved out of it; expected all frames from one after 0 to the end",
                )
            begin = int(start[row])
            stop[row] = begin + length - len(positions)
            for pid, piece in pieces.items():
                new_start.append(begin + piece[0])
                new_stop.append(begin + piece[-1] + 1)
                new_pid.append(pid)
                of_row.append(row)
                new_keys.append(_free(f"{key}~", taken))
                taken.add(new_keys[-1])
        assert split.keys is not None
        return replace(
            parts,
            split=replace(
                split,
                start=np.concatenate([start, new_start]),
                stop=np.concatenate([stop, new_stop]),
                pid=np.concatenate([split.pid, new_pid]),
                camid=np.concatenate([split.camid, split.camid[of_row]]),
                keys=np.concatenate([split.keys, np.array(new_keys, "U")]),
            ),
            row_T=np.concatenate([parts.row_T, parts.row_T[of_row]]),
            before=Persons(np.concatenate([parts.before.pid_T, parts.before.pid_T[of_row]]), parts.before.pid_F),
        )

    def _joined(self, parts: _Parts) -> _Parts:
        rows, pids = (list(column) for column in zip(*self._added, strict=True))
        extra = self._nobody.select(rows)
        root, own, others = _below_one_root(parts.split, extra)
        frames, lengths, split = extra.frames(), extra.lengths, parts.split
        stop = len(own) + np.cumsum(lengths)
        assert split.keys is not None
        joined = Split(
            root,
            np.concatenate([own, others[frames]]),
            np.concatenate([split.start, stop - lengths]),
            np.concatenate([split.stop, stop]),
            np.concatenate([split.pid, pids]),
            np.concatenate([split.camid, extra.camid]),
            np.concatenate([split.keys, np.array([extra.key(i) for i in range(len(extra))], "U")]),
        )
        return _Parts(
            joined,
            np.concatenate([parts.row_T, np.full(len(rows), -1)]),
            np.concatenate([parts.frame_F, np.full(len(frames), -1)]),
            Persons(
                np.concatenate([parts.before.pid_T, extra.pid]),
                np.concatenate([parts.before.pid_F, np.repeat(extra.pid, lengths)]),
            ),
        )

    def _named(self, changes: Sequence[Change], called: Mapping[int, str]) -> IdNames:
        """Names, extended by those of new persons; unchanged if the dataset has no names."""
        names = self._noisy.names
        if not names.pid:
            return names
        known = dict(names.pid)
        for change in changes:
            if change.given_pid not in known:
                after = f"{names.person(change.true_pid)}~"
                known[change.given_pid] = called.get(change.given_pid) or _free(after, set(known.values()))
        return replace(names, pid=known)


@dataclass(frozen=True, eq=False)
class _Parts:
    """The columns of `Noisy` while changes are being applied."""

    split: Split
    row_T: np.ndarray
    frame_F: np.ndarray
    before: Persons


def _free(stem: str, taken: set[str]) -> str:
    """The first of stem2, stem3, … that is not taken."""
    number = 2
    while f"{stem}{number}" in taken:
        number += 1
    return f"{stem}{number}"


def _below_one_root(split: Split, other: Split) -> tuple[Path, np.ndarray, np.ndarray]:
    """Compute a common root folder of both splits, and the frame names of each relative to it."""
    roots = [Path(os.path.abspath(one.root)) for one in (split, other)]
    if roots[0] == roots[1]:
        return split.root, split.names, other.names
    root = Path(os.path.commonpath(roots))
    names = []
    for one, own in zip((split, other), roots, strict=True):
        below = "" if own == root else f"{own.relative_to(root).as_posix()}/"
        names.append(np.char.add(os.fsencode(below), one.names))
    return root, names[0], names[1]
