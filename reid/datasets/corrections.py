"""Label corrections made by a person on an audit page: read them, check every row, and apply them to training tracklets.

A file has the columns ``action,key[,pid,frames,note]``. Positions refer to the tracklet as it is on disk, whatever other rows of the file
do to it. Merges are applied last, so that they also move relabelled tracklets. Files on disk are not changed.

Shapes: N rows of the file, T tracklets before, U after, F frame names.
"""

from __future__ import annotations

import csv
import difflib
import hashlib
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np

from reid.datasets.table import Table, read_table
from reid.errors import DataError, counted
from reid.files import atomic
from reid.tracklets import IdNames, Split

REQUIRED, OPTIONAL = ("action", "key"), ("pid", "frames", "note")
ACTIONS = ("relabel", "drop", "drop_frames", "split", "merge", "keep")
# Cells that an action requires (True) or forbids (False); the others are optional.
_CELLS: dict[str, dict[str, bool]] = {
    "relabel": {"pid": True, "frames": False},
    "drop": {"pid": False, "frames": False},
    "drop_frames": {"pid": False, "frames": True},
    "split": {"frames": True},
    "merge": {"pid": True, "frames": False},
    "keep": {"pid": False, "frames": False},
}
_SHOWN = 20  # most problems of one file that are listed one by one
_SPAN = re.compile(r"(\d{1,18})(?:\s*-\s*(\d{1,18}))?")
_WHOLE = re.compile(r"(-?\d{1,30})(?:\.0*)?")  # int() raises on more than 4,300 digits
_GUARDED = re.compile(r"'+[=+\-@]")


@dataclass(frozen=True, eq=False)
class Corrections:
    """A corrections file that has been read; `apply_corrections` checks its rows against tracklets.

    Args:
        table: its N rows.
        content: the file's bytes, so that a run can keep a copy.
    """

    table: Table = field(repr=False)
    content: bytes = field(repr=False)

    @property
    def file(self) -> Path:
        return self.table.file


@dataclass(frozen=True)
class Counts:
    """The effect of a corrections file: tracklets per action, frames dropped, persons merged, new persons."""

    relabelled: int = 0
    dropped: int = 0
    frames_dropped: int = 0
    frames_dropped_of: int = 0
    split: int = 0
    merged: int = 0
    kept: int = 0
    new_persons: int = 0

    def __str__(self) -> str:
        """Summary such as ``12 relabelled, 3 dropped, 40 frames of 5 dropped; 1 person new``; unnamed counts are tracklets."""
        parts = [
            f"{self.relabelled} relabelled" * bool(self.relabelled),
            f"{self.dropped} dropped" * bool(self.dropped),
            f"{counted(self.frames_dropped, 'frame')} of {self.frames_dropped_of} dropped" * bool(self.frames_dropped),
            f"{self.split} split" * bool(self.split),
            f"{counted(self.merged, 'person')} merged into another" * bool(self.merged),
            f"{self.kept} kept" * bool(self.kept),
        ]
        told = ", ".join(filter(None, parts)) or "nothing changed"
        return f"{told}; {counted(self.new_persons, 'person')} new" if self.new_persons else told


class Corrected(NamedTuple):
    """Tracklets with corrections applied.

    `split` U tracklets, where the pieces of a split tracklet are adjacent · `names` including new persons · `source` (U,) int64, the row
    of each tracklet before · `frame` (F,) int64, the index of each frame name before · `counts` · `notes` for the user · `reviewed` (U,)
    bool, whether a row other than a merge decides on the tracklet, so that its label has been judged.
    """

    split: Split
    names: IdNames
    source: np.ndarray
    frame: np.ndarray
    counts: Counts
    notes: tuple[str, ...]
    reviewed: np.ndarray


def write_corrections(file: Path, rows: Iterable[tuple[str, str]]) -> None:
    """Writes corrections that need only an action and a key, such as drops."""
    with atomic(file) as temporary, open(temporary, "w", encoding="utf-8", newline="") as stream:
        csv.writer(stream, lineterminator="\n").writerows([REQUIRED, *((action, guard(key)) for action, key in rows)])


def read_corrections(file: Path) -> Corrections:
    """Read a corrections file.

    Args:
        file: CSV with the columns ``action`` and ``key``, and ``pid``, ``frames`` and ``note`` if rows need them.

    Raises:
        DataError: the file cannot be read, or lacks a column.
    """
    file = Path(file)
    if not file.is_file():
        raise DataError(
            f"{file}: no such corrections file; set data.corrections=FILE to its present path (each run keeps a copy)"
        )
    if file.suffix.lower() == ".parquet":
        raise DataError(f"{file}: expected a CSV file as exported by the audit page, got Parquet")
    table = read_table(file, REQUIRED, OPTIONAL)
    return Corrections(table, file.read_bytes())


def digest_of(files: Sequence[Corrections]) -> str | None:
    """SHA-256 of one file's content, or of the concatenated digests of several; 64 hexadecimal digits, None without a file."""
    if not files:
        return None
    first, *others = (hashlib.sha256(file.content).hexdigest() for file in files)
    return hashlib.sha256("".join([first, *others]).encode()).hexdigest() if others else first


def guard(text: str) -> str:
    """Escape a cell that a spreadsheet would run as a formula, by a leading apostrophe. Numbers stay as they are.

    `unguard` is the inverse for every text.
    """
    return f"'{text}" if re.match(r"'*[=+\-@]", text) and not _WHOLE.fullmatch(text) else text


def unguard(cell: str) -> str:
    """Undo `guard`."""
    return cell[1:] if _GUARDED.match(cell) else cell


def apply_corrections(
    corrections: Corrections, split: Split, names: IdNames, elsewhere: np.ndarray | None = None
) -> Corrected:
    """Apply every row of a file, or none.

    - ``relabel``: the tracklet gets the person ``pid``.
    - ``drop``: the tracklet is left out. ``drop_frames``: its positions ``frames`` are left out, such as ``12-20`` or ``3,7-9``.
    - ``split``: from the position ``frames`` on, the frames become a tracklet of their own, ``KEY@POSITION``, up to the next split if
      there are several. It gets the person ``pid``, or a new person if the cell is empty; the part before keeps the key.
    - ``merge``: all tracklets of the person ``key`` get the person ``pid``, including relabelled ones.
    - ``keep``: the label is right; nothing changes.

    A ``pid`` that no training tracklet has is a new person: a number above 0, or any name if persons have names. Identical rows are
    allowed; contradicting rows are an error.

    Args:
        corrections: N rows.
        split: T training tracklets.
        names: of their persons.
        elsewhere: pids of the tracklets outside the training set; a row that names one of them is noted.

    Raises:
        DataError: one line for each row that does not apply or contradicts another, at most twenty.
    """
    plan = _Plan(corrections.table, split, names, np.arange(0) if elsewhere is None else elsewhere)
    counts = plan.counts()
    corrected, known, source, frame = _rebuilt(split, plan, plan.people.named())
    return Corrected(corrected, known, source, frame, counts, tuple(plan.notes()), plan.reviewed()[source])


class _People:
    """Persons by their names in a corrections file; new ones are numbered after all others."""

    def __init__(self, split: Split, names: IdNames, elsewhere: np.ndarray) -> None:
        self.names, self.elsewhere = names, set(elsewhere.tolist())
        self.there = set(split.pid.tolist())
        self.number_of = {text: number for number, text in names.pid.items()}
        self.added: dict[int, str] = {}
        self._highest = max([0, *self.there, *self.elsewhere, *names.pid])

    def find(self, text: str) -> int | None:
        """The person's pid; None if the person does not exist yet. With numbered persons, ``12.0`` is accepted for 12.

        Raises:
            ValueError: the text cannot name a person; the message says why.
        """
        whole = _WHOLE.fullmatch(text)
        if whole and not 0 < int(whole[1]) < 2**63:
            raise ValueError(
                f"expected a person, got {text}, which means junk or a distractor; use the action drop instead"
            )
        if self.names.pid:
            return self.number_of.get(text, self.number_of.get(whole[1]) if whole else None)
        if not whole:
            raise ValueError(f"expected a whole number above 0, because persons are numbered here, got {text!r}")
        return int(whole[1])

    def take(self, text: str) -> int:
        """The person's pid, a new one at the first use of a name; ValueError as in `find`."""
        number = self.find(text)
        if number is None:
            return self.new(text)
        if number not in self.there:
            self.added.setdefault(number, self.names.pid.get(number, text))
            self._highest = max(self._highest, number)
        return number

    def new(self, text: str) -> int:
        """Add a person under an unused pid."""
        self._highest = number = self._highest + 1
        self.added[number] = text
        self.number_of[text] = number
        return number

    def notes(self) -> list[str]:
        seen = sorted(self.added.keys() & self.elsewhere)
        return [*self._unheard_of(), *(self._seen_elsewhere(seen) if seen else [])]

    def _unheard_of(self) -> list[str]:
        """Note the persons that a row names and no tracklet had before: intended, or a typing error."""
        texts = [text for number, text in self.added.items() if number not in self.elsewhere and "@" not in text]
        known = [text for number, text in self.names.pid.items() if number in self.there]
        near = [difflib.get_close_matches(text, known, n=1) for text in texts]
        told = [
            f"{text!r} (not {close[0]!r}?)" if close else repr(text) for text, close in zip(texts, near, strict=True)
        ]
        if not told:
            return []
        shown = ", ".join(told[:5]) + ", …" * (len(told) > 5)
        return [f"corrections name {counted(len(told), 'person')} that had no training tracklet before: {shown}"]

    def _seen_elsewhere(self, seen: list[int]) -> list[str]:
        return [
            f"{counted(len(seen), 'person')} in the corrections, such as {self.names.person(seen[0])}, not in the "
            "training set before: if they are in the test set, the results will be better than on people the model has never seen"
        ]

    def named(self) -> IdNames:
        if not self.names.pid:
            return self.names
        return replace(self.names, pid={**self.names.pid, **self.added})


class _Plan:
    """The checked rows, as the changes of every tracklet."""

    def __init__(self, table: Table, split: Split, names: IdNames, elsewhere: np.ndarray) -> None:
        self.table, self.split, self.people = table, split, _People(split, names, elsewhere)
        self.keys = [split.key(row) for row in range(len(split))]
        self.row_of, self.twice = _rows_by_key(self.keys)
        self.problems: list[tuple[int, str]] = []  # with the row of the file, by which they are sorted
        self.relabelled: dict[int, int] = {}
        self.dropped: set[int] = set()
        self.kept: set[int] = set()
        self.gone_F, self.thinned = np.zeros(len(split.names), bool), set[int]()  # frames dropped, and their tracklets
        self.cuts: dict[int, dict[int, int]] = {}  # tracklet -> position -> pid, 0 for a new person
        self.merges: dict[int, int] = {}
        self._decided: dict[
            int, tuple[int, str]
        ] = {}  # tracklet -> the row of the file, and its action, that decided on the whole of it
        self._cut_rows: dict[tuple[int, int], int] = {}
        self._merge_rows: dict[int, int] = {}
        self._read_rows()
        if self.problems:
            told = [problem for _, problem in sorted(self.problems)[:_SHOWN]]
            more = len(self.problems) - len(told)
            raise DataError(
                *told, *([f"{table.file}: {counted(more, 'more row is wrong', 'more rows are wrong')}"] * (more > 0))
            )

    def notes(self) -> list[str]:
        notes = self.people.notes()
        if unchanged := sum(1 for row, pid in self.relabelled.items() if pid == self.split.pid[row]):
            notes.append(f"{counted(unchanged, 'row')} relabel a tracklet to the person it already has")
        return notes

    def reviewed(self) -> np.ndarray:
        """(T,) bool: whether a row decides on the tracklet or a part of it."""
        found = np.zeros(len(self.split), bool)
        found[[*self.relabelled, *self.kept, *self.thinned, *self.cuts]] = True
        return found

    def counts(self) -> Counts:
        return Counts(
            len(self.relabelled),
            len(self.dropped),
            int(self.gone_F.sum()),
            len(self.thinned),
            len(self.cuts),
            len(self.merges),
            len(self.kept),
            len(self.people.added),
        )

    def _read_rows(self) -> None:
        table = self.table
        cells = {name: table.cells(name) if name in table else [""] * len(table) for name in (*REQUIRED, *OPTIONAL[:2])}
        seen: dict[tuple[str, ...], int] = {}
        later: list[tuple[int, str, str]] = []
        for i, (action, key, pid, frames) in enumerate(zip(*cells.values(), strict=True)):
            key, pid, frames = unguard(key), unguard(pid), unguard(frames)
            if seen.setdefault((action, key, pid, frames), i) != i:
                continue
            if not self._complete(i, action, {"pid": pid, "frames": frames}):
                continue
            if action == "merge":
                later.append((i, key, pid))
            elif key in self.twice:
                self._tell(
                    i, "key", f"{self.twice[key]} training tracklets have the key {key!r}; give each its own key"
                )
            elif key not in self.row_of:
                self._tell(i, "key", f"no training tracklet has the key {key!r}{self._hint(key)}")
            else:
                self._one(i, action, self.row_of[key], pid, frames)
        for i, key, pid in later:  # merges come last: by now all persons that rows introduce are known
            self._merge(i, key, pid)
        self._refuse_circles()
        self._refuse_empty()
        self._name_pieces()

    def _complete(self, i: int, action: str, cells: Mapping[str, str]) -> bool:
        """Whether the row has exactly the cells that its action needs."""
        if action not in ACTIONS:
            self._tell(i, "action", f"expected {', '.join(ACTIONS)}, got {action!r}")
            return False
        for column, needed in _CELLS[action].items():
            if bool(cells[column]) != needed:
                what = "a value" if needed else "an empty cell"
                self._tell(i, column, f"{action} expects {what}, got {cells[column]!r}")
                return False
        return True

    def _one(self, i: int, action: str, row: int, pid: str, frames: str) -> None:
        """Apply one row about one tracklet."""
        decides = action in ("relabel", "drop", "keep")
        before, said = self._decided.get(row, (-1, ""))
        has_parts = row in self.thinned or row in self.cuts
        if before >= 0 and (decides or said == "drop"):
            self._contradicts(i, action, before, said)
        elif action == "drop" and has_parts:
            self._tell(
                i,
                "action",
                f"drop of {self.keys[row]!r}, but another row keeps a part of it; remove one of the two rows",
            )
        elif action == "relabel":
            if (number := self._person(i, "pid", pid)) is not None:
                self.relabelled[row] = number
        elif action == "drop":
            self.dropped.add(row)
        elif action == "keep":
            self.kept.add(row)
        elif action == "drop_frames":
            for first, last in self._spans(i, row, frames):
                self.gone_F[self.split.start[row] + first : self.split.start[row] + last + 1] = True
                self.thinned.add(row)
        else:
            self._cut(i, row, pid, frames)
        if decides:
            self._decided.setdefault(row, (i, action))

    def _cut(self, i: int, row: int, pid: str, frames: str) -> None:
        spans = self._spans(i, row, frames)
        if not spans:
            return
        position = spans[0][0]
        if len(spans) > 1 or spans[0][1] != position or not position:
            last = int(self.split.lengths[row]) - 1
            self._tell(
                i,
                "frames",
                f"split expects one position from 1 to {last}, where the new tracklet begins, got {frames!r}",
            )
        elif (row, position) in self._cut_rows:
            self._contradicts(i, "split", self._cut_rows[row, position], "split")
        elif (key := f"{self.keys[row]}@{position}") in self.row_of:
            self._tell(
                i,
                "key",
                f"the new tracklet would have the key {key!r}, which another tracklet already has; rename that one",
            )
        else:
            number = self._person(i, "pid", pid) if pid else 0
            if number is not None:
                self._cut_rows[row, position] = i
                self.cuts.setdefault(row, {})[position] = number

    def _merge(self, i: int, key: str, pid: str) -> None:
        """Add a merge. Both persons must exist: renaming a person is not a correction."""
        found = []
        for column, text in (("key", key), ("pid", pid)):
            try:
                number = self.people.find(text)
            except ValueError as error:
                self._tell(i, column, str(error))
                return
            if number not in self.people.there and number not in self.people.added:
                self._tell(i, column, f"no training tracklet shows a person {text!r}; merge needs two existing persons")
                return
            assert number is not None
            found.append(number)
        source, target = found
        if source == target:
            self._tell(i, "pid", f"merges person {key!r} into itself")
        elif self.merges.setdefault(source, target) != target:
            self._contradicts(i, "merge", self._merge_rows[source], "merge")
        else:
            self._merge_rows[source] = i

    def _name_pieces(self) -> None:
        """Assign a new person to every piece without a pid, numbered after all persons that rows name."""
        for row, cuts in self.cuts.items():
            for position in [position for position, person in cuts.items() if not person]:
                key = f"{self.keys[row]}@{position}"
                cuts[position] = self.people.take(key) if self.people.names.pid else self.people.new(key)

    def _refuse_circles(self) -> None:
        """Replace every chain of merges by its end, and report a cycle."""
        ends: dict[int, int] = {}
        for start in self.merges:
            way, person = [start], self.merges[start]
            while person in self.merges and person not in way and person not in ends:
                way.append(person)
                person = self.merges[person]
            if person in way:
                circle = way[way.index(person) :]
                last, through = max(self._merge_rows[one] for one in circle), counted(len(circle), "person")
                self._tell(last, "pid", f"the merges form a cycle of {through}; remove one of the rows")
                return
            ends |= dict.fromkeys(way, ends.get(person, person))
        self.merges = ends

    def _refuse_empty(self) -> None:
        """Report tracklets or pieces of which no frame is left."""
        for row in sorted(self.thinned):
            kept = ~self.gone_F[self.split.start[row] : self.split.stop[row]]
            if not np.logical_or.reduceat(kept, [0, *sorted(self.cuts.get(row, ()))]).all():
                what = "a piece of the tracklet" if row in self.cuts else "the tracklet"
                line = f"{self.table.file}: drop_frames removes every frame of {what} {self.keys[row]!r}; use the action drop instead"
                self.problems.append((len(self.table), line))

    def _spans(self, i: int, row: int, frames: str) -> list[tuple[int, int]]:
        """Parse positions such as ``3,7-9``; empty, after adding a problem, if they do not lie in this tracklet."""
        last, spans = int(self.split.lengths[row]) - 1, []
        for part in frames.split(","):
            match = _SPAN.fullmatch(part.strip())
            first, end = (int(match[1]), int(match[2] or match[1])) if match else (1, 0)
            if not first <= end <= last:
                expected = f"expected positions from 0 to {last}, such as 3,7-9"
                self._tell(i, "frames", f"{expected}, in the tracklet {self.keys[row]!r}, got {frames!r}")
                return []
            spans.append((first, end))
        return spans

    def _person(self, i: int, column: str, text: str) -> int | None:
        try:
            return self.people.take(text)
        except ValueError as error:
            self._tell(i, column, str(error))
            return None

    def _hint(self, key: str) -> str:
        whole, mark, _ = key.rpartition("@")
        if mark and whole in self.row_of:
            return f"; to correct a piece of {whole!r}, set its person in the split row, and give frames as positions in {whole!r}"
        return "; only training tracklets can be corrected"

    def _contradicts(self, i: int, action: str, before: int, said: str) -> None:
        row = self.table.row[before]
        self._tell(
            i,
            "action",
            f"{action} contradicts row {row}, {said} of the same tracklet or person; remove one of the two rows",
        )

    def _tell(self, i: int, column: str, problem: str) -> None:
        self.problems += [(i, line) for line in self.table.error(i, column, problem).problems]


def _rebuilt(split: Split, plan: _Plan, names: IdNames) -> tuple[Split, IdNames, np.ndarray, np.ndarray]:
    """Compute `split`, `names`, `source` and `frame` of `Corrected`."""
    pid = split.pid.copy()
    pid[list(plan.relabelled)] = list(plan.relabelled.values())
    pieces_T = np.ones(len(split), np.int64)
    pieces_T[list(plan.cuts)] = [1 + len(cuts) for cuts in plan.cuts.values()]
    source = np.repeat(np.arange(len(split)), pieces_T)
    start, stop, pid, keys = split.start[source], split.stop[source], pid[source], np.array(plan.keys)[source]
    first_of = np.cumsum(pieces_T) - pieces_T
    texts = {}
    for row, cuts in plan.cuts.items():
        for place, (position, person) in enumerate(sorted(cuts.items()), start=first_of[row] + 1):
            start[place] = stop[place - 1] = split.start[row] + position
            pid[place], texts[place] = person, f"{plan.keys[row]}@{position}"
    if texts:
        keys = np.array([texts.get(i, key) for i, key in enumerate(keys.tolist())])
    for person, into in plan.merges.items():
        pid[pid == person] = into
    kept = ~np.isin(source, list(plan.dropped)) if plan.dropped else np.ones(len(source), bool)
    whole = Split(split.root, split.names, start[kept], stop[kept], pid[kept], split.camid[source[kept]], keys[kept])
    frame = np.arange(len(split.names))
    if plan.thinned:
        whole, frame = _without(whole, plan.gone_F)
    return whole, names, source[kept], frame


def _without(split: Split, gone_F: np.ndarray) -> tuple[Split, np.ndarray]:
    """Remove the dropped frames, from the frame names too; also returns the previous index of each frame name left."""
    frames = split.frames()
    kept = ~gone_F[frames]
    tracklet = np.repeat(np.arange(len(split)), split.lengths)[kept]
    length_T = np.bincount(tracklet, minlength=len(split))
    stop = np.cumsum(length_T)
    return replace(split, names=split.names[frames[kept]], start=stop - length_T, stop=stop), frames[kept]


def _rows_by_key(keys: list[str]) -> tuple[dict[str, int], dict[str, int]]:
    """Key -> row, and each key that several tracklets share -> their number."""
    row_of = {key: row for row, key in enumerate(keys)}
    if len(row_of) == len(keys):
        return row_of, {}
    different, counts = np.unique(np.array(keys), return_counts=True)
    return row_of, {str(key): int(n) for key, n in zip(different[counts > 1], counts[counts > 1], strict=True)}
