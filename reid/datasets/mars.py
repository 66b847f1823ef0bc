"""Load MARS and every dataset in its layout: ``bbox_train/``, ``bbox_test/`` and ``info/``. No image is opened here.

A table row ``[start, end, pid, cam]`` spans names start..end of the name list, 1-based and inclusive. Names may be in no row (a subset
of MARS may keep the full lists), but never in two. A dataset whose test table has no row is for training only.

Shapes: F frame names of a split, T tracklets, Q queries.
"""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from reid.datasets import matlab
from reid.datasets.images import images_in, is_rubbish
from reid.datasets.pack import SUFFIX, stand_in
from reid.errors import DataError, counted
from reid.tracklets import Benchmark, Split

log = logging.getLogger(__name__)

# pid, camera, tracklet, frame; junk has the pid "00-1".
_NAME = re.compile(rb"((\d{4,18}|00-1)C(\d{1,18})T\d{4,})F\d{3,}\.(?i:jpg|jpeg|png)")
_EXAMPLE = "0001C1T0001F001.jpg"


class _Counts(NamedTuple):
    train_tracklets: int
    train_frames: int
    test_tracklets: int
    test_frames: int
    queries: int


_OFFICIAL = _Counts(8_298, 509_914, 12_180, 681_089, 1_980)


class _NameList(NamedTuple):
    names: np.ndarray  # (F,) bytes, "pid/name"
    changed: np.ndarray  # (F,) bool: the person, camera or tracklet differs from the frame before


def find_dataset(
    data_root: Path, name: str, also: Sequence[str] = (), layout: str = "{bbox_train,bbox_test,info}"
) -> Path:
    """Find the folder of a dataset below the data root, spelled ``mars``, ``MARS`` or ``Mars``.

    Args:
        data_root: folder that holds one folder per dataset.
        name: the dataset's name in lower case.
        also: other names that its folder may have, such as that of its archive.
        layout: its expected content, for the error message.

    Raises:
        DataError: the folder is not there; the message gives the names tried, the place, and the settings that change it.
    """
    data_root = Path(data_root)
    spellings = [*dict.fromkeys([name, name.upper(), name.capitalize(), *also])]
    for spelling in spellings:
        if (data_root / spelling).is_dir():
            return data_root / spelling
    place = str(data_root) if data_root.is_dir() else f"{data_root}, which is not a folder"
    if (data_root / "info").is_dir() or data_root.name in spellings:
        place += f", which looks like the dataset itself (use its parent folder, and call the dataset {name} there)"
    raise DataError(
        f"dataset {name}: looked for {', '.join(spellings[:-1])} or {spellings[-1]} in {place}; "
        f"expected {name}/{layout}; set --data-root, REID_DATA or data.root to the folder that contains {name} (see "
        "data/README.md)"
    )


def load_mars(folder: Path, name: str = "mars") -> Benchmark:
    """Load the index of a dataset in MARS layout; every test tracklet is in the gallery, queries included.

    Args:
        folder: holds ``bbox_train``, ``bbox_test`` and ``info``. Packs may replace the image folders, and a missing name list is
            rebuilt from either. If the test table has no row, ``bbox_test`` may be missing.
        name: the dataset's name; a ``mars`` whose counts are not the official ones becomes ``mars-subset``.

    Raises:
        DataError: a table or folder is missing or damaged, or tables and names disagree; names file and row, counted from 1.
    """
    folder = Path(folder)
    info = _require_folder(folder, "info")
    matlab.read_all([info / f"{name}.mat" for name in ("tracks_train_info", "tracks_test_info", "query_IDX")])
    train, test = _load_split(folder, "train"), _load_split(folder, "test")
    query = _read_query(folder / "info" / "query_IDX.mat", test)
    counts = _Counts(len(train), train.num_frames, len(test), test.num_frames, len(query))
    if name == "mars" and counts != _OFFICIAL:
        name = "mars-subset"
        log.info("%s is not all of MARS: %s; MARS has %s", folder, _in_words(counts), _in_words(_OFFICIAL))
    return Benchmark(name, train, test, query, gallery=np.arange(len(test)))


def _in_words(counts: _Counts) -> str:
    return ", ".join(f"{count} {field.replace('_', ' ')}" for field, count in counts._asdict().items())


def _load_split(folder: Path, part: str) -> Split:
    table_file = folder / "info" / f"tracks_{part}_info.mat"
    list_file = folder / "info" / f"{part}_name.txt"
    table = _read_table(table_file, f"track_{part}_info", may_be_empty=part == "test")
    if not len(table):
        return _no_tracklets(folder / f"bbox_{part}", table_file)
    root = _image_folder(folder, f"bbox_{part}")
    if list_file.is_file():
        listed = _parse_names(list_file.read_bytes(), list_file)
    else:
        listed = _parse_names(b"\n".join(sorted(name.partition(b"/")[2] for name in image_names(root))), root)
        log.info("%s is missing; rebuilt %d names from %s", list_file, len(listed.names), root)
    _check_ranges(table_file, table, len(listed.names), exact=not list_file.is_file())
    _check_names(table_file, table, listed)
    _refuse_a_name_twice(list_file, listed.names)
    start, stop, pid, camid = np.ascontiguousarray(table.T)
    return Split(root, listed.names, start - 1, stop, pid, camid)


def _no_tracklets(root: Path, table_file: Path) -> Split:
    if (stand_in(root) or root.is_dir()) and (images := len(image_names(root))):
        log.warning("%s has no row, so no test set, but %s has %s", table_file, root, counted(images, "image"))
    none = np.zeros(0, np.int64)
    return Split(root, np.zeros(0, "S1"), none, none, none, none)


def _require_folder(folder: Path, name: str) -> Path:
    path = folder / name
    if path.is_dir():
        return path
    deeper = next(folder.glob(f"*/{name}"), None)
    hint = f"found {deeper} instead: move it up one level" if deeper else "see data/README.md for the layout"
    raise DataError(f"{folder}: expected a folder {name} in it, got none; {hint}")


def _image_folder(folder: Path, name: str) -> Path:
    root = folder / name
    if stand_in(root):
        return root
    _require_folder(folder, name)
    if (folder / (name + SUFFIX)).is_dir():
        log.info("%s is read instead of the pack next to it; remove the folder to use the pack", root)
    got = "an empty folder"
    with os.scandir(root) as entries:
        for entry in entries:
            if is_rubbish(entry.name):
                continue
            if not entry.is_dir():
                got = f"files such as {entry.name} directly in it"
            elif entry.name == name:
                got = f"another {name} in it (move it up one level)"
                break
            else:
                return root
    raise DataError(f"{root}: expected one folder per person, such as 0001/{_EXAMPLE}, got {got}")


def image_names(root: Path) -> list[bytes]:
    """List the images of a folder such as ``bbox_train``, or of the pack that replaces it: ``person/image`` each, sorted.

    Raises:
        DataError: an image is in another person's folder, or the pack cannot be used.
    """
    if pack := stand_in(root):
        return pack.names.tolist()
    with os.scandir(root) as entries:
        persons = [entry.name for entry in entries if entry.is_dir() and not is_rubbish(entry.name)]
    names: list[bytes] = []
    for person in persons:
        images = images_in(root / person)
        for image in images:
            if not image.startswith(f"{person}C"):
                raise DataError(f"{root / person}: expected names that begin with {person}C, got {image}")
        names += (os.fsencode(f"{person}/{image}") for image in images)
    return sorted(names)


def _parse_names(text: bytes, source: Path) -> _NameList:
    """Parse a name list with one frame name per line; LF or CRLF, blank lines at the end allowed."""
    eol = b"\r\n" if b"\r\n" in text[:64] else b"\n"
    text = text.rstrip() + eol
    if text == eol:
        raise DataError(f"{source}: expected frame names such as {_EXAMPLE}, got none")
    return _parse_standard(text, eol) or _parse_lines(text, source)


def _parse_standard(text: bytes, eol: bytes) -> _NameList | None:
    """Parse all lines at once if each is as long as the example, else return None."""
    length, head = len(_EXAMPLE), len("0001C1T0001")
    width = length + len(eol)
    num, rest = divmod(len(text), width)
    if rest:
        return None

    def column(first: int, size: int) -> np.ndarray:
        return np.ndarray(num, dtype=f"S{size}", buffer=text, offset=first, strides=(width,))

    heads, digits = column(0, head), [column(head + k, 1).view(np.uint8) - ord("0") for k in (1, 2, 3)]
    standard = (column(head, 1) == b"F").all() and (column(head + 4, 4 + len(eol)) == b".jpg" + eol).all()
    changed = np.append(True, heads[1:] != heads[:-1])
    if not standard or any((digit > 9).any() for digit in digits):
        return None
    if not all(map(_NAME.fullmatch, column(0, length)[changed].tolist())):
        return None
    names = np.empty(num, dtype=[("pid", "S4"), ("slash", "S1"), ("name", f"S{length}")])
    names["pid"], names["slash"], names["name"] = column(0, 4), b"/", column(0, length)
    return _NameList(names.view(f"S{names.itemsize}"), changed)


def _parse_lines(text: bytes, source: Path) -> _NameList:
    """Parse line by line: names may have any length, and an error gives the line number."""
    names, heads = [], []
    for number, line in enumerate(text.splitlines(), start=1):
        match = _NAME.fullmatch(line.rstrip())
        if match is None:
            got = line.decode(errors="backslashreplace")
            raise DataError(f"{source}: line {number}: expected a frame name such as {_EXAMPLE}, got '{got}'")
        names.append(match[2] + b"/" + match[0])
        heads.append(match[1])
    return _NameList(np.array(names), np.append(True, np.array(heads[1:]) != np.array(heads[:-1])))


def read_variable(file: Path, variable: str) -> np.ndarray:
    """Read one variable of a MATLAB file, whole numbers of any shape, as int64.

    Raises:
        DataError: the file is missing or damaged, lacks the variable, or the variable holds anything but whole numbers.
    """
    content = matlab.read(file)
    if variable not in content:
        raise DataError(f"{file}: expected a variable {variable}, got {', '.join(content) or 'nothing'}")
    if content[variable] is None:
        raise DataError(f"{file}: expected {variable} to hold whole numbers, got cells or a struct")
    values = np.asarray(content[variable])
    if values.dtype.kind not in "iuf" or not np.array_equal(values, np.rint(values)):
        raise DataError(f"{file}: expected {variable} to hold whole numbers, got {values.dtype}")
    return values.astype(np.int64)


def _read_table(file: Path, variable: str, *, may_be_empty: bool) -> np.ndarray:
    table = read_variable(file, variable)
    if may_be_empty and not table.size:  # MATLAB's [] has no columns
        return np.zeros((0, 4), np.int64)
    if table.ndim != 2 or table.shape[1] != 4 or not len(table):
        raise DataError(f"{file}: expected {variable} of shape (tracklets, 4): start, end, pid, cam; got {table.shape}")
    return table


def _read_query(file: Path, test: Split) -> np.ndarray:
    """Read the (Q,) 0-based rows of the queries in the test table."""
    index = read_variable(file, "query_IDX").ravel()
    wrong = (index < 1) | (index > len(test))
    expected = f"a row of the test table, 1 to {len(test)}" if len(test) else "no query, as the test table has no row"
    _refuse(file, wrong, lambda i: f"expected {expected}, got {index[i]}")
    query = index - 1
    repeated = np.isin(np.arange(len(query)), np.unique(query, return_index=True)[1], invert=True)
    _refuse(file, repeated, lambda i: f"test row {index[i]} is a query already")
    _refuse(file, test.pid[query] < 0, lambda i: f"test row {index[i]} is junk (pid -1) and cannot be a query")
    return query


def _check_ranges(file: Path, table: np.ndarray, num_names: int, *, exact: bool) -> None:
    start, end = table[:, 0], table[:, 1]
    _refuse(file, start > end, lambda i: f"start {start[i]} is after end {end[i]}")
    _refuse(file, start < 1, lambda i: f"frames {start[i]}-{end[i]} start before 1")
    rebuilt = " as rebuilt from the folders: images are missing there" if exact else ""
    past = f"run past the {num_names} names of the list{rebuilt}"
    _refuse(file, end > num_names, lambda i: f"frames {start[i]}-{end[i]} {past}")
    order = np.argsort(start, kind="stable")
    overlap = np.zeros(len(table), dtype=bool)
    overlap[order[1:]] = start[order[1:]] <= end[order[:-1]]
    _refuse(file, overlap, lambda i: f"frames {start[i]}-{end[i]} belong to another row as well")
    unused = num_names - int((end - start + 1).sum())
    if unused and exact:  # a rebuilt list with images that no row covers is numbered wrongly
        raise DataError(
            f"{file}: the table covers {num_names - unused} frames, but the folders hold {num_names} images"
        )
    if unused:
        log.info("%s leaves %d of %d listed names out", file, unused, num_names)


def _check_names(file: Path, table: np.ndarray, listed: _NameList) -> None:
    """Check that the names of every tracklet have one person, camera and tracklet number, and that the table agrees with them."""
    first, last = table[:, 0] - 1, table[:, 1] - 1
    changes = np.cumsum(listed.changed, dtype=np.int32)
    mixed = changes[last] > changes[first]

    def mixture(i: int) -> str:
        frame = first[i] + 1 + np.argmax(listed.changed[first[i] + 1 : last[i] + 1])
        before, after = (listed.names[k].decode().partition("/")[2] for k in (frame - 1, frame))
        return f"mixes persons, cameras or tracklets: {before} then {after} (names {frame} and {frame + 1} of the list)"

    _refuse(file, mixed, mixture)
    named = np.array([_pid_and_camera(name) for name in listed.names[first].tolist()])
    for column, word in ((0, "pid"), (1, "camera")):
        said, seen = table[:, 2 + column], named[:, column]

        def difference(i: int, said: np.ndarray = said, seen: np.ndarray = seen, word: str = word) -> str:
            return (
                f"the table says {word} {said[i]}, its first name {listed.names[first[i]].decode()} says {seen[i]}; "
                "to correct a label, make a table of the dataset with robust-reid import and change it there"
            )

        _refuse(file, said != seen, difference)


def _refuse_a_name_twice(source: Path, names: np.ndarray) -> None:
    if (names[1:] > names[:-1]).all():  # true of MARS, and fast
        return
    order = np.argsort(names, kind="stable")
    again = order[1:][names[order[1:]] == names[order[:-1]]]
    if len(again):
        more = f" ({len(again) - 1} more names like it)" if len(again) > 1 else ""
        name = names[again.min()].decode()
        raise DataError(
            f"{source}: line {again.min() + 1}: {name} appears in the list already{more}; list each frame once"
        )


def _pid_and_camera(name: bytes) -> tuple[int, int]:
    pid, camera = name[name.index(b"/") + 1 : name.index(b"T")].split(b"C")
    return (-1 if pid == b"00-1" else int(pid)), int(camera)


def _refuse(file: Path, wrong: np.ndarray, say: Callable[[int], str]) -> None:
    rows = np.flatnonzero(wrong)
    if len(rows):
        more = f" ({counted(len(rows) - 1, 'more row')} like it)" if len(rows) > 1 else ""
        raise DataError(f"{file}: row {rows[0] + 1}: {say(int(rows[0]))}{more}")
