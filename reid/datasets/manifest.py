"""Load a user's tracklets from one table with a row per frame or per tracklet; choices that the table leaves open are made and noted.

No image is opened here. Labels come from the table, never from file names.

Shapes: N rows, F frames, T tracklets.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import NamedTuple

import numpy as np

from reid.datasets import frames, regions
from reid.datasets.images import IMAGE_SUFFIXES, images_in, is_image, is_video
from reid.datasets.regions import MOST_FRAMES, SIDES, Box
from reid.datasets.splitting import ENOUGH_FOR_VAL, PARTS, Draw, can_match, draw_parts, draw_test
from reid.datasets.table import (
    UNKNOWN,
    Ids,
    Table,
    also_called,
    paths_of,
    read_ids,
    read_table,
)
from reid.errors import DataError, counted
from reid.tracklets import Benchmark, IdNames, Split

UNKNOWN_PID, UNKNOWN_CAMID = 0, -1
ROLES = ("query", "gallery", "both")
_LOOKED_AT = 50  # files that are looked for; when none is there, the table's paths are taken to be wrong


class Rows(NamedTuple):
    """Every tracklet of a table, in order of first appearance, with the table's columns.

    `split` pid 0 and camid -1 if unknown · `known` (T,) bool: whether the person is known · `part`, `role` (T,) texts, None without that
    column · `query`, `gallery` row numbers by the table's roles; without roles, no query and all rows · `names` · `notes` · `weight` (T,)
    float64 >= 0, 1 for an empty cell, None without that column · `time` (T,) float64 seconds, the earliest of a tracklet's rows, NaN if
    unknown, None without that column or if it was not read.
    """

    split: Split
    known: np.ndarray
    part: np.ndarray | None
    role: np.ndarray | None
    names: IdNames
    notes: tuple[str, ...]
    weight: np.ndarray | None = None
    time: np.ndarray | None = None

    @property
    def query(self) -> np.ndarray:
        return np.arange(0) if self.role is None else np.flatnonzero(np.isin(self.role, ("query", "both")))

    @property
    def gallery(self) -> np.ndarray:
        return np.arange(len(self.split)) if self.role is None else np.flatnonzero(self.role != "query")


def load_rows(file: Path, *, with_times: bool = False) -> Rows:
    """Load every tracklet of a table, whatever part it belongs to, as for extraction.

    Args:
        file: a table that `read_table` reads; paths are relative to its folder, absolute, or begin with ``~``.
        with_times: read the column ``time``, if there is one.

    Raises:
        DataError: a row is wrong, or a tracklet has two persons, cameras, parts, roles or weights; names row and column.
    """
    table = read_table(Path(file))
    pid, camid = read_ids(table, "pid"), read_ids(table, "camid")
    part, role = _choice(table, "split", PARTS, required=True), _choice(table, "role", ROLES, required=False)
    if role is not None:
        role = np.where(role == "", "gallery", role)
        stray = np.flatnonzero((role != "gallery") & (part != "test")) if part is not None else np.arange(0)
        if len(stray):
            raise table.error(int(stray[0]), "role", f"{str(role[stray[0]])!r} is for rows of the split test")
    code_N, keys = table.coded("tracklet")
    first_T = np.zeros(len(keys), np.int64)
    first_T[code_N[::-1]] = np.arange(len(table))[::-1]
    (pid, filled_pid), (camid, filled_camid) = (_filled(ids, code_N, len(keys)) for ids in (pid, camid))
    filled = {"pid": filled_pid, "camid": filled_camid}
    weight = np.nan_to_num(table.numbers("weight", low=0), nan=1.0) if "weight" in table else None
    said = {"pid": pid.number, "camid": camid.number, "split": part, "role": role, "weight": weight}
    _refuse_two(table, {column: values for column, values in said.items() if values is not None}, code_N, keys, first_T)
    time = _earliest(table.times(), code_N, len(keys)) if with_times and "time" in table else None
    split, notes = _frames(table, code_N, keys)
    number = pid.number[first_T]
    split = replace(
        split,
        pid=np.where(number == UNKNOWN, UNKNOWN_PID, number),
        camid=np.where(camid.number[first_T] == UNKNOWN, UNKNOWN_CAMID, camid.number[first_T]),
    )
    return Rows(
        split,
        number != UNKNOWN,
        None if part is None else part[first_T],
        None if role is None else role[first_T],
        IdNames(pid.names, camid.names),
        tuple(filter(None, (*_column_notes(table, pid, camid, filled), *notes))),
        None if weight is None else weight[first_T],
        time,
    )


def load_manifest(
    file: Path,
    *,
    draw: Draw | None = None,
    drawn: Mapping[str, str] | None = None,
    any_camera: bool = False,
    to_train: bool = True,
) -> Benchmark:
    """Load a table to train and test on; the dataset is named after the file.

    Without a column ``split``, identities are drawn into parts; without a column ``role``, one query is drawn for each person and camera.
    The test set may be empty, and then query and gallery are. Choices, counts and tracklets left out are listed in `Benchmark.notes`.

    Args:
        file: as in `load_rows`.
        draw: how identities are divided if the table has no column ``split``.
        drawn: an earlier division to reuse, person as written -> part; persons missing in it are put in the test set.
        any_camera: a match may be seen by the query's own camera.
        to_train: raise if there is nobody to train on.

    Raises:
        DataError: as in `load_rows`; no person is known; or there is nobody to train on.
    """
    file, draw = Path(file), draw or Draw()
    rows = load_rows(file)
    split, notes = rows.split, list(rows.notes)
    if not rows.known.any():
        raise DataError(
            f"{file}: no row has a known person, so there is nothing to train on or evaluate; fill the column pid"
        )
    parts = None
    if rows.part is None:
        parts, part = _drawn(rows, draw, drawn, any_camera=any_camera)
        notes.append(_drawn_note(parts, drawn, draw))
    else:
        part = rows.part
    trained = np.flatnonzero((part == "train") & (split.pid > 0))
    notes += _left_out(rows, part)
    if not len(trained) and to_train:
        raise DataError(f"{file}: the split train has no row of a known person; expected at least two persons")
    val = split.select((part == "val") & (split.pid > 0)) if (part == "val").any() else None
    test_rows = np.flatnonzero(part == "test")
    test = split.select(test_rows)
    if rows.role is None:
        query, gallery = draw_test(test, draw, any_camera=any_camera)
        if len(test_rows):
            notes.append(
                f"no column role: {counted(len(query), 'query', 'queries')}, one for each person and camera; all others are searched"
            )
    else:
        role = rows.role[test_rows]
        query, gallery = np.flatnonzero(np.isin(role, ("query", "both"))), np.flatnonzero(role != "query")
        _refuse_query(file, test, query, role, any_camera=any_camera)
    train = split.select(trained)
    notes += _who_can_be_found(test, any_camera=any_camera)
    notes += _shared_persons(train, val, test, rows.names)
    weight = None if rows.weight is None else rows.weight[trained]
    return Benchmark(file.stem, train, test, query, gallery, val, rows.names, tuple(notes), parts, weight)


def _choice(table: Table, column: str, valid: tuple[str, ...], *, required: bool) -> np.ndarray | None:
    """(N,) values of a column with few valid values, in lower case; None without the column."""
    if column not in table:
        return None
    codes, texts = table.coded(column)
    lower = [text.lower() for text in texts]
    for i, text in enumerate(lower):
        if text not in valid and (text or required):
            hint = "; for a query or gallery row, the split is test and the column role says which" * (text in ROLES)
            where = int(np.argmax(codes == i))
            raise table.error(where, column, f"expected {', '.join(valid)}, got {texts[i]!r}{hint}")
    return np.array(lower)[codes]


def _filled(ids: Ids, code_N: np.ndarray, num_tracklets: int) -> tuple[Ids, int]:
    """Fill empty cells from other rows of their tracklet, and count them."""
    known = np.flatnonzero(ids.number != UNKNOWN)
    told_T = np.full(num_tracklets, UNKNOWN)
    told_T[code_N[known[::-1]]] = ids.number[known[::-1]]  # reversed, so that the first known value wins
    number = np.where(ids.number == UNKNOWN, told_T[code_N], ids.number)
    return ids._replace(number=number), int((number != ids.number).sum())


def _earliest(time_N: np.ndarray, code_N: np.ndarray, num_tracklets: int) -> np.ndarray:
    """(T,) the earliest known time of each tracklet's rows; NaN if none is known."""
    time_T = np.full(num_tracklets, np.nan)
    np.fmin.at(time_T, code_N, time_N)
    return time_T


def _refuse_two(
    table: Table, said: Mapping[str, np.ndarray], code_N: np.ndarray, keys: list[str], first_T: np.ndarray
) -> None:
    """Refuse a tracklet with two persons, cameras, parts, roles or weights."""
    wrong = {column: np.flatnonzero(values != values[first_T[code_N]]) for column, values in said.items()}
    rows = {column: int(found[0]) for column, found in wrong.items() if len(found)}
    if not rows:
        return
    column = min(rows, key=lambda name: rows[name])
    row, first = rows[column], int(first_T[code_N[rows[column]]])
    got, expected = (table.columns[column][i].as_py() for i in (row, first))
    raise table.error(
        row,
        column,
        f"tracklet {keys[code_N[row]]}: expected {expected!r} as in row {table.row[first]}, got {got!r}; "
        + (
            "all rows of a tracklet need the same weight"
            if column == "weight"
            else "a tracklet shows one person in one camera: give each its own name (camera and number, for example)"
        ),
    )


def _frames(table: Table, code_N: np.ndarray, keys: list[str]) -> tuple[Split, list[str]]:
    """Collect the frames of every tracklet in the order of its rows, and notes; persons and cameras are filled in later."""
    texts = paths_of(table)
    folder = table.file.parent
    absolute = [os.path.isabs(text) for text in texts] if _may_be_absolute(texts) else []
    if any(absolute):  # all names must be relative to one root, which is then that of the file system
        base = folder.absolute()
        texts = [text if there else os.path.join(base, text) for text, there in zip(texts, absolute, strict=True)]
        folder = Path(base.anchor)
        texts = [text.lstrip("/") for text in texts]
    box_of, frames_of = _boxes(table), _frames_of_videos(table)
    others = {
        i: _parts_of(table, i, folder, text, box_of.get(i), frames_of.get(i))
        for i, text in enumerate(texts)
        if i in box_of or i in frames_of or not is_image(text)
    }
    order, length_N = np.argsort(code_N, kind="stable"), np.ones(len(texts), np.int64)
    length_N[list(others)] = [len(images) for images in others.values()]
    length_T = np.zeros(len(keys), np.int64)
    np.add.at(length_T, code_N, length_N)
    in_order = [texts[i] for i in order.tolist()]
    if others:
        in_order = list(chain.from_iterable(others.get(i, [texts[i]]) for i in order.tolist()))
    names = [os.fsencode(name) for name in in_order]
    _refuse_missing(table, folder, texts)
    stop = np.cumsum(length_T)
    unknown = np.zeros(len(keys), np.int64)
    split = Split(folder, np.array(names), stop - length_T, stop, unknown, unknown - 1, np.array(keys))
    split, notes = _without_repeats(split)
    if box_of or frames_of:
        cut = sum(len(others[i]) for i in box_of.keys() | frames_of.keys())
        notes.append(
            f"{counted(cut, 'image is', 'images are')} cut out of a larger one or of a video each time it is read; robust-reid import "
            f"{table.file} --crops crops --out cut.csv cuts them once, which makes reading faster"
        )
    return split, notes


def _may_be_absolute(texts: list[str]) -> bool:
    return os.name == "nt" or any(text[0] == "/" for text in texts)


def _boxes(table: Table) -> dict[int, Box]:
    """Row -> the part of its picture that it is of."""
    there = [side for side in SIDES if side in table]
    if not there:
        return {}
    if len(there) < len(SIDES):
        raise table.error(0, there[0], f"a box needs the columns {', '.join(SIDES)}; got {', '.join(there)}")
    sides_N4 = np.stack([table.sides(side) for side in SIDES], axis=1)
    found = {}
    for i in np.flatnonzero(~np.isnan(sides_N4).all(1)).tolist():
        empty = np.isnan(sides_N4[i])
        if empty.any():
            raise table.error(
                i, SIDES[int(empty.argmax())], "expected a number, because the other columns of the box have one"
            )
        if (box := Box.of(*sides_N4[i].tolist())) is None:
            raise table.error(i, "x", f"expected a non-empty box inside its image, got {sides_N4[i].tolist()}")
        found[i] = box
    return found


def _frames_of_videos(table: Table) -> dict[int, range]:
    """Row -> the numbers of its video's frames."""
    there = [column for column in ("first", "last") if column in table]
    if not there:
        return {}
    if len(there) == 1:
        raise table.error(0, there[0], "video frames need the columns first and last; got only this one")
    first, last = (table.numbers(column, low=0, whole=True) for column in there)
    found = {}
    for i in np.flatnonzero(~(np.isnan(first) & np.isnan(last))).tolist():
        if not 0 <= last[i] - first[i] < MOST_FRAMES:
            cells = [table.cells(column)[i] for column in there]
            raise table.error(
                i, "first", f"expected the first and the last frame of a video, got {cells[0]!r} to {cells[1]!r}"
            )
        found[i] = range(int(first[i]), int(last[i]) + 1)
    return found


def _parts_of(table: Table, i: int, folder: Path, text: str, box: Box | None, numbers: range | None) -> list[str]:
    """The frames of a row that is more or less than one image file: a video's, parts of a picture, or those in its folder."""
    if is_video(text):
        if numbers is None:
            raise table.error(
                i, "path", "is a video: expected its frame numbers, counted from 0, in the columns first and last"
            )
        return [regions.named(text, number, box) for number in numbers]
    if numbers is not None:
        raise table.error(i, "first", f"frame numbers are only for videos; got {text}")
    if is_image(text):
        return [regions.named(text, None, box)]
    images = _images_of(table, i, folder, text)
    if box is not None:
        raise table.error(i, "x", f"a box needs an image or a video; got a folder: {text}")
    return images


def _images_of(table: Table, i: int, folder: Path, text: str) -> list[str]:
    """Names of the images in the folder that a row names."""
    place = folder / text
    if os.path.isdir(place):  # os.path.isdir returns False for a name that is too long, where pathlib raises
        if names := images_in(place):
            return [f"{text.rstrip('/')}/{name}" for name in names]
        raise table.error(i, "path", f"{place}: expected images ({', '.join(IMAGE_SUFFIXES)}) in this folder, got none")
    what = "a file that is not an image" if os.path.isfile(place) else "nothing"
    raise table.error(i, "path", f"expected an image, a folder of frames or a video, got {what}: {place}")


def _refuse_missing(table: Table, folder: Path, texts: list[str]) -> None:
    """Refuse the paths if none of a sample of files exists; single missing files are found when they are read."""
    looked = np.unique(np.linspace(0, len(texts) - 1, _LOOKED_AT).astype(int)).tolist()
    if not any(os.path.exists(folder / texts[i]) or frames.is_packed(folder / texts[i]) for i in looked):
        raise table.error(
            0,
            "path",
            f"no such file {folder / texts[0]}, nor any other of {len(looked)} checked; paths are absolute or "
            "relative to the table's folder",
        )


def _without_repeats(split: Split) -> tuple[Split, list[str]]:
    """Remove repeated frames of a tracklet, with a note; note frames that are in two tracklets."""
    if len(set(split.names.tolist())) == len(split.names):
        return split, []
    notes = []
    tracklet_F = np.repeat(np.arange(len(split)), split.lengths)
    seen: dict[bytes, int] = {}
    kept, shared = np.ones(len(split.names), bool), []
    pairs: set[tuple[bytes, int]] = set()
    for frame, (name, tracklet) in enumerate(zip(split.names.tolist(), tracklet_F.tolist(), strict=True)):
        if (name, tracklet) in pairs:
            kept[frame] = False
        elif seen.setdefault(name, tracklet) != tracklet:
            shared.append((name, tracklet))
        pairs.add((name, tracklet))
    if not kept.all():
        example = os.fsdecode(split.names[np.argmin(kept)])
        notes.append(
            f"{counted(int((~kept).sum()), 'row repeats', 'rows repeat')} a frame of the same tracklet, such as {example}, which is "
            "read once"
        )
    if shared:
        name, tracklet = shared[0]
        notes.append(
            f"{counted(len(shared), 'frame appears', 'frames appear')} in two tracklets, such as {os.fsdecode(name)} in "
            f"{split.key(seen[name])} and {split.key(tracklet)}: is one of them wrong?"
        )
    length_T = np.bincount(tracklet_F[kept], minlength=len(split))
    stop = np.cumsum(length_T)
    return replace(split, names=split.names[kept], start=stop - length_T, stop=stop), notes


def _column_notes(table: Table, pid: Ids, camid: Ids, filled: Mapping[str, int]) -> list[str]:
    notes = [pid.note, camid.note]
    for column, ids, consequence in (
        ("pid", pid, "persons are unknown: features can be extracted and searched, but not trained on or evaluated"),
        ("camid", camid, "cameras are unknown: a match may come from the query's own camera"),
    ):
        if column not in table:
            notes.append(f"no column {column}: {consequence}{also_called(table, column)}")
        if filled[column]:
            notes.append(
                f"column {column}: {counted(filled[column], 'empty cell is', 'empty cells are')} filled from other rows of the tracklet"
            )
        if column in table and (empty := int((ids.number == UNKNOWN).sum())):
            notes.append(f"column {column}: {empty} of {len(table)} rows are unknown, because their tracklet has none")
    return notes


def _labels(rows: Rows) -> Callable[[int], str]:
    """Return the function that gives a person's name in the table for a pid."""
    return lambda pid: rows.names.pid.get(pid, str(pid))


def _drawn(
    rows: Rows, draw: Draw, earlier: Mapping[str, str] | None, *, any_camera: bool
) -> tuple[dict[str, str], np.ndarray]:
    """Person -> part, and (T,) the part of each tracklet: junk and distractors are tested on, unknown persons in no part."""
    split, label = rows.split, _labels(rows)
    persons = [label(pid) for pid in np.unique(split.pid[split.pid > 0]).tolist()]
    if earlier is None:
        able = np.unique(split.pid[can_match(split, any_camera=any_camera)]).tolist()
        parts = draw_parts(persons, map(label, able), draw)
    else:
        parts = {person: earlier.get(person, "test") for person in persons}
    of_nobody = "test" if "test" in parts.values() else ""
    part = np.array([parts[label(pid)] if pid > 0 else of_nobody for pid in split.pid.tolist()])
    part[~rows.known] = ""
    return parts, part


def _drawn_note(parts: Mapping[str, str], earlier: Mapping[str, str] | None, draw: Draw) -> str:
    if earlier is not None and not earlier:
        return f"no column split: all {counted(len(parts), 'person is', 'persons are')} tested"
    counts = {part: sum(1 for one in parts.values() if one == part) for part in PARTS}
    divided = ", ".join(f"{count} {part}" for part, count in counts.items())
    if earlier is not None:
        return f"no column split: persons divided as drawn by this run (split.csv): {divided}"
    val = f"{100 * draw.val:g} % val (data.holdout, 10 % where it is 0)"
    if not counts["val"]:
        val = f"no val, because there are fewer than {ENOUGH_FOR_VAL} persons or too few of them have a match"
    how = f"{100 * draw.test:g} % test (data.test_share), {val}"
    return f"no column split: persons drawn by identity with data.split_seed={draw.seed}: {divided}; requested: {how}"


def _left_out(rows: Rows, part: np.ndarray) -> list[str]:
    notes, pid = [], rows.split.pid
    for chosen, why in (
        (rows.known & (pid == 0) & np.isin(part, ("train", "val")), "pid 0 means a distractor: number persons from 1"),
        (rows.known & (pid < 0) & np.isin(part, ("train", "val")), "pid -1 means junk"),
        (~rows.known & np.isin(part, ("train", "val", "")), "no pid"),
    ):
        if count := int(chosen.sum()):
            notes.append(f"{counted(count, 'tracklet is', 'tracklets are')} not trained on: {why}")
    if count := int((~rows.known & (part == "test")).sum()):
        notes.append(
            f"{counted(count, 'test tracklet has', 'test tracklets have')} no pid: distractors, which match nobody"
        )
    return notes


def _refuse_query(file: Path, test: Split, query: np.ndarray, role: np.ndarray, *, any_camera: bool) -> None:
    for row in query.tolist():
        if test.pid[row] <= 0:
            raise DataError(
                f"{file}: tracklet {test.key(row)}: a query of the role {role[row]} needs a person, a pid above 0"
            )
        if role[row] == "both" and test.camid[row] < 0 and not any_camera:
            raise DataError(
                f"{file}: tracklet {test.key(row)}: role both without a camera: the query would find itself; "
                "expected the role query, or a camid"
            )
    if len(test) and not len(query):
        raise DataError(f"{file}: column role: no test row is a query; set some to query, or remove the column")


def _who_can_be_found(test: Split, *, any_camera: bool) -> list[str]:
    """Note the test persons that no query can retrieve, by reason."""
    able, persons = can_match(test, any_camera=any_camera), np.unique(test.pid[test.pid > 0])
    lost = np.setdiff1d(persons, test.pid[able])
    if not len(lost):
        return []
    of = test.select(np.isin(test.pid, lost))
    single = int(sum(np.bincount(np.unique(of.pid, return_inverse=True)[1]) == 1))
    reasons = [f"{single} {'has' if single == 1 else 'have'} one tracklet"] * bool(single)
    others = len(lost) - single
    reasons += [f"{others} {'is' if others == 1 else 'are'} seen by one camera only"] * bool(others)
    advice = "; test.any_camera=true counts matches from the query's own camera too" * bool(others)
    return [f"{len(lost)} of {len(persons)} test persons cannot be matched: {', '.join(reasons)}{advice}"]


def _shared_persons(train: Split, val: Split | None, test: Split, names: IdNames) -> list[str]:
    notes = []
    for name, other in (("val", val), ("test", test)):
        if other is not None:
            shared = np.intersect1d(train.pid, other.pid[other.pid > 0]).tolist()
            if shared:
                notes.append(
                    f"{counted(len(shared), 'person is', 'persons are')} in the splits train and {name}, such as "
                    f"{names.person(shared[0])}: the results will be better than on people the model has never seen"
                )
    return notes
