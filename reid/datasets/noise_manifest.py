"""The manifest of label noise: a CSV that records every change, so that the noise can be inspected and replayed elsewhere.

Columns: `key,frame,true_pid,given_pid,kind,seed,source_key,source_frame`. A row with neither frame nor source relabels a tracklet. With
frame and source, the frame is replaced by one of another tracklet; with a frame only, the frame was moved to a new tracklet; with a source
only, a distractor or junk tracklet was added. true_pid is the label before any noise, the ground truth as far as the dataset has it. Rows
are in the order of the changes, so the last row of a tracklet gives its final label; consecutive rows of one kind and seed were applied
together. Persons are written by their names in the dataset.
"""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

from reid.datasets.changes import Change, Noisy, applied
from reid.datasets.tracklet_noise import DRAWN, NEW_PERSONS, TrackletNoise, World
from reid.errors import DataError
from reid.files import atomic
from reid.tracklets import IdNames

COLUMNS = ("key", "frame", "true_pid", "given_pid", "kind", "seed")
SOURCE = ("source_key", "source_frame")
_NOBODY = ("0", "-1")
_DIGITS = 18  # digits that fit into 64 bits


def write_noise(file: Path, changes: Iterable[Change], names: IdNames) -> None:
    """Write a manifest.

    Args:
        file: written atomically.
        changes: in the order made.
        names: of persons, new ones included.

    Raises:
        DataError: the file cannot be written.
    """
    with (
        atomic(file) as temporary,
        open(temporary, "w", newline="", encoding="utf-8", errors="surrogateescape") as stream,
    ):
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow([*COLUMNS, *SOURCE])
        for change in changes:
            true_pid, given_pid = (names.pid.get(pid, str(pid)) for pid in (change.true_pid, change.given_pid))
            writer.writerow(change._replace(true_pid=true_pid, given_pid=given_pid))  # type: ignore[arg-type]


@dataclass(frozen=True)
class Manifest:
    """Label noise that replays a manifest.

    Args:
        path: of the CSV; the source columns may be missing if no row needs them.
    """

    path: str

    def apply(self, noisy: Noisy, world: World) -> Noisy:
        """Apply the manifest's changes to the training set.

        Raises:
            DataError: the file cannot be read, or a row does not fit the training set; names file and row.
        """
        file = Path(self.path).expanduser()
        persons = _Persons(file, noisy, world)
        rows = [(line, _change(file, line, cells, persons)) for line, cells in _read(file)]
        for _, group in groupby(rows, key=lambda row: (row[1].kind, row[1].seed)):
            lines, changes = zip(*group, strict=True)
            where = _at(file, lines)
            noisy = applied(noisy, changes, world.nobody, where=where, called=persons.new)
        return noisy


NOISES: dict[str, Callable[..., TrackletNoise]] = {**DRAWN, "manifest": Manifest}


def _at(file: Path, lines: tuple[int, ...]) -> Callable[[int], str]:
    return lambda i: f"{file}: row {lines[i]}: "


def _read(file: Path) -> list[tuple[int, dict[str, str]]]:
    """Read the rows with their numbers, the header being row 1."""
    try:
        with open(file, newline="", encoding="utf-8-sig", errors="surrogateescape") as stream:
            header, *rows = list(csv.reader(stream)) or [[]]
    except (OSError, csv.Error) as error:
        reason = getattr(error, "strerror", None) or error
        raise DataError(f"{file}: cannot read this noise manifest: {reason}; expected a CSV file") from None
    if missing := [name for name in COLUMNS if name not in header]:
        raise DataError(f"{file}: row 1: expected the columns {','.join(COLUMNS)}; missing: {', '.join(missing)}")
    for number, row in enumerate(rows, start=2):
        if row and len(row) != len(header):
            raise DataError(f"{file}: row {number}: expected {len(header)} cells, got {len(row)}")
    return [(number, dict(zip(header, row, strict=True))) for number, row in enumerate(rows, start=2) if row]


class _Persons:
    """Pids of the persons named in a manifest; persons that its changes create are numbered in order of appearance."""

    def __init__(self, file: Path, noisy: Noisy, world: World) -> None:
        self._file, self._names, self._taken = file, noisy.names, world.taken
        trained = set(noisy.split.pid.tolist()) | set(noisy.before.pid_T.tolist())
        self._of = {noisy.names.pid.get(pid, str(pid)): pid for pid in trained}
        self._outside = {noisy.names.pid.get(pid, str(pid)) for pid in world.taken} - self._of.keys()
        self._next = 1 + max(*trained, *world.taken, *noisy.names.pid, 0)
        self.new: dict[int, str] = {}

    def true(self, line: int, text: str) -> int:
        """The true person's pid; 0 and -1 stand for distractors and junk."""
        return int(text) if text in _NOBODY else self._known(line, "true_pid", text)

    def given(self, line: int, text: str, kind: str) -> int:
        """The given person's pid; some kinds of noise create new persons."""
        if text in self._of or kind not in NEW_PERSONS:
            return self._known(line, "given_pid", text)
        if text in self._outside or not text or text in _NOBODY or not (self._names.pid or _is_number(text)):
            raise DataError(f"{self._file}: row {line}, column given_pid: {text!r} cannot be the id of a new person")
        pid = self._next if self._names.pid else int(text)
        self._of[text], self._next, self.new[pid] = pid, max(self._next, pid) + 1, text
        return pid

    def _known(self, line: int, column: str, text: str) -> int:
        if text not in self._of:
            raise DataError(f"{self._file}: row {line}, column {column}: no training person is called {text!r}")
        return self._of[text]


def _change(file: Path, line: int, cells: dict[str, str], persons: _Persons) -> Change:
    kind = cells["kind"]
    if kind not in DRAWN:
        raise DataError(f"{file}: row {line}, column kind: expected one of {', '.join(DRAWN)}, got {kind!r}")
    seed = _number(file, line, "seed", cells["seed"])
    frame, source_frame = (
        _number(file, line, column, cells[column]) if cells.get(column) else None for column in ("frame", SOURCE[1])
    )
    source_key = cells.get(SOURCE[0], "")
    if (source_frame is None) == bool(frame is not None and source_key):
        raise DataError(
            f"{file}: row {line}, column source_frame: is required with a frame and a source_key, and not allowed without them"
        )
    true_pid, given_pid = (
        persons.true(line, cells["true_pid"]),
        persons.given(line, cells["given_pid"], kind),
    )
    return Change(cells["key"], frame, true_pid, given_pid, kind, seed, source_key, source_frame)


def _number(file: Path, line: int, column: str, text: str) -> int:
    if not _is_number(text):
        raise DataError(f"{file}: row {line}, column {column}: expected a whole number of at least 0, got {text!r}")
    return int(text)


def _is_number(text: str) -> bool:
    return text.isdecimal() and len(text) <= _DIGITS
