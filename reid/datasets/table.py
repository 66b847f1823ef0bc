"""Read and write a table of tracklets, CSV or Parquet, tolerating the quirks of spreadsheets and pandas.

Images and the choice of training tracklets are not handled here; see `manifest.py`.

Shapes: N rows.
"""

from __future__ import annotations

import csv
import io
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet

from reid import times
from reid.errors import DataError, counted
from reid.files import atomic

REQUIRED = ("path", "tracklet")
OPTIONAL = ("pid", "camid", "split", "role")
COLUMNS = (*REQUIRED, *OPTIONAL, "first", "last", "x", "y", "w", "h", "weight", "time")
SUFFIXES = (".csv", ".tsv", ".txt", ".parquet")
# Common other names of these columns, used for hints in errors only.
_ALSO_CALLED = {
    "path": ("file", "filename", "file_name", "filepath", "image", "img", "img_path", "image_path", "frame_path"),
    "tracklet": ("track", "track_id", "tracklet_id", "trackid", "tid", "sequence"),
    "pid": ("person", "person_id", "personid", "identity", "id", "label", "name"),
    "camid": ("camera", "cam", "camera_id", "cam_id", "cameraid"),
    "split": ("subset", "set", "partition", "fold"),
}
_EMPTY = ("nan", "NaN", "<NA>", "None", "NULL", "null", "NA", "N/A", "#N/A")  # how programs write an empty cell
_WHOLE = re.compile(r"([+-]?\d{1,30})(?:\.0*)?")  # int() raises on more than 4,300 digits
_NO_ID = re.compile(r"[+-]?\d*\.\d+|[+-]?\d+(?:\.\d+)?[eE]\+\d+|[+-]?\d+\.?")  # fractions, and overlong numbers
_DRIVE = re.compile(r"[A-Za-z]:[\\/]")
_JSON = (b"{", b"[")


@dataclass(frozen=True, eq=False)
class Table:
    """The cells of a table as stripped text.

    Args:
        file: where it was read from.
        columns: name in lower case -> (N,) texts, empty for an empty cell. Columns not in `COLUMNS` are kept.
        row: (N,) int64, the number of each row as a spreadsheet shows it: the header is row 1.
        decimal_comma: numbers may be written 0,5.
    """

    file: Path
    columns: Mapping[str, pa.StringArray]
    row: np.ndarray
    decimal_comma: bool = field(default=False, repr=False)

    def __len__(self) -> int:
        return len(self.row)

    def __contains__(self, column: str) -> bool:
        return column in self.columns

    def cells(self, column: str) -> list[str]:
        """(N,) texts of one column."""
        return self.columns[column].to_pylist()

    def coded(self, column: str) -> tuple[np.ndarray, list[str]]:
        """Encode a column as (N,) int64 indices into the list of its distinct texts, in order of first appearance."""
        encoded = self.columns[column].dictionary_encode()
        return encoded.indices.to_numpy(zero_copy_only=False).astype(np.int64), encoded.dictionary.to_pylist()

    def error(self, i: int, column: str, problem: str) -> DataError:
        """Make an error about cell i of a column."""
        return DataError(f"{self.file}: row {self.row[i]}, column {column}: {problem}")

    def sides(self, name: str) -> np.ndarray:
        """(N,) float64, a column of `regions.SIDES`: places may lie outside of the picture, sizes are none below 0; NaN if empty."""
        return self.numbers(name, low=-1e9 if name in ("x", "y") else 0)

    def times(self) -> np.ndarray:
        """Parse the column `time` to (N,) float64 seconds, as `reid.times.parse`; NaN for an empty cell.

        Raises:
            DataError: a cell is no time; names its row.
        """
        codes, texts = self.coded("time")
        values = np.full(len(texts), np.nan)
        for i, text in enumerate(texts):
            try:
                values[i] = times.parse(text.replace(",", ".") if self.decimal_comma else text)
            except ValueError as error:
                raise self.error(int(np.argmax(codes == i)), "time", str(error)) from None
        return values[codes]

    def numbers(self, column: str, *, low: float, whole: bool = False) -> np.ndarray:
        """Parse a column of numbers to (N,) float64, NaN for an empty cell.

        Raises:
            DataError: a cell is not a number, not a whole one although `whole` is set, or below `low`; names its row.
        """
        codes, texts = self.coded(column)
        values = np.full(len(texts), np.nan)
        for i, text in enumerate(texts):
            try:
                values[i] = float(text.replace(",", ".") if self.decimal_comma else text) if text else np.nan
                good = not text or (values[i] >= low and np.isfinite(values[i]) and (not whole or values[i] % 1 == 0))
            except ValueError:
                good = False
            if not good:
                kind = "a whole number" if whole else "a number"
                where = int(np.argmax(codes == i))
                raise self.error(where, column, f"expected {kind} >= {low:g}, or an empty cell, got {text!r}")
        return values[codes]


class Ids(NamedTuple):
    """The persons or the cameras of a table as numbers.

    `number` (N,) int64, `UNKNOWN` for an empty cell · `names` number -> text, empty if the table has numbers · `note` for the user, or
    empty.
    """

    number: np.ndarray
    names: dict[int, str]
    note: str


UNKNOWN = np.iinfo(np.int64).min


def read_table(path: Path, required: Sequence[str] = REQUIRED, optional: Sequence[str] = OPTIONAL) -> Table:
    """Read a table, of tracklets by default, and check its shape; the caller checks the meaning of the cells.

    A CSV is UTF-8 or, with a byte order mark, UTF-16; cells are separated by commas, semicolons or tabs, as in the header. Spaces around
    cells, capitals in the header, empty rows and a column without a name (a data frame's index) are ignored.

    Args:
        path: ``.csv``, ``.tsv``, ``.txt`` or ``.parquet``.
        required: columns that every row must fill; their cells are taken literally, ``NA`` too.
        optional: columns that the error about a missing one lists.

    Raises:
        DataError: the file cannot be read, lacks a column, or a row has another number of cells than the header; names row and column.
    """
    path = Path(path)
    try:
        if path.suffix.lower() == ".parquet":
            return _checked(_read_parquet(path, required), required, optional)
        data = path.read_bytes()
    except OSError as error:
        reason = error.strerror or error
        raise DataError(f"{path}: cannot read this table: {reason}; expected one of {', '.join(SUFFIXES)}") from None
    data = _as_utf8(path, data)
    if not data.strip():
        raise DataError(_missing(Table(path, {}, np.arange(0)), required[0], required, optional))
    return _checked(_read_csv(path, data, required), required, optional)


def _read_csv(path: Path, data: bytes, required: Sequence[str]) -> Table:
    if data.lstrip()[:1] in _JSON:
        raise DataError(f"{path}: this is JSON, not a table; {_how_to_import(path, data)}")
    first_line = data.split(b"\n", 1)[0].rstrip(b"\r").decode()
    delimiter, header = _header(first_line, {*required, *COLUMNS})
    wrong: list[tuple[int, int]] = []

    def note(row: Any) -> str:
        wrong.append((row.number, row.actual_columns))
        return "skip"

    names = [f"f{i}" for i in range(len(header))]
    try:
        held = pyarrow.csv.read_csv(
            io.BytesIO(data),
            # One block, so that a quoted line break is never split; one thread, so that rows are numbered.
            read_options=pyarrow.csv.ReadOptions(use_threads=False, column_names=names, block_size=len(data) + 1),
            parse_options=pyarrow.csv.ParseOptions(
                delimiter=delimiter, newlines_in_values=True, ignore_empty_lines=False, invalid_row_handler=note
            ),
            convert_options=pyarrow.csv.ConvertOptions(column_types=dict.fromkeys(names, pa.string())),
        )
    except pa.ArrowInvalid as error:
        raise DataError(f"{path}: not a readable CSV file: {error}") from None
    if wrong:
        number, count = wrong[0]
        more = f" ({counted(len(wrong) - 1, 'more row')} like it)" if len(wrong) > 1 else ""
        raise DataError(
            f"{path}: row {number}: expected {counted(len(header), 'cell')} ({', '.join(header)}), got {count}{more}; "
            f'put cells that hold a {delimiter!r} in quotes, and close every "'
        )
    columns = [held.column(i).combine_chunks()[1:] for i in range(len(header))]
    return _table(path, header, columns, required, decimal_comma=delimiter == ";")


def _how_to_import(path: Path, data: bytes) -> str:
    """The command that converts a JSON file to a table, whatever the file's suffix."""
    kind = "coco" if b'"annotations"' in data else "jsonl"
    out = "table.csv" if path.name == "tracks.csv" else "tracks.csv"
    return f"robust-reid import {path} --as {kind} --out {out} makes a table of it"


def _as_utf8(path: Path, data: bytes) -> bytes:
    """Convert the text of a file to UTF-8 without a byte order mark."""
    if data[:2] in (b"\xff\xfe", b"\xfe\xff"):
        try:
            return data.decode("utf-16").encode()
        except UnicodeDecodeError as error:
            raise DataError(f"{path}: damaged UTF-16 text: {error}; save it as CSV in UTF-8") from None
    data = data.removeprefix(b"\xef\xbb\xbf")
    try:
        data.decode()
    except UnicodeDecodeError as error:
        row = data.count(b"\n", 0, error.start) + 1
        raise DataError(f"{path}: row {row}: not text in UTF-8 ({error.reason}); save it as CSV in UTF-8") from None
    if b"\0" in data:
        raise DataError(f"{path}: not a text file: it contains zero bytes; expected CSV in UTF-8")
    return data


def _header(line: str, known: set[str]) -> tuple[str, list[str]]:
    """Find the separator of a CSV, the one that gives most known column names, and the column names."""

    def split(delimiter: str) -> list[str]:
        try:
            return [cell.strip().lower() for cell in next(csv.reader([line], delimiter=delimiter), [])]
        except csv.Error:
            return []

    delimiter = max(",;\t", key=lambda mark: len(set(split(mark)) & known))
    return delimiter, split(delimiter)


def _read_parquet(path: Path, required: Sequence[str]) -> Table:
    try:
        held = pyarrow.parquet.read_table(path)
        held.validate(full=True)  # that texts are UTF-8 and lie within their column: reading looks at neither
        header = [name.strip().lower() for name in held.column_names]
    except MemoryError:
        raise
    except Exception as error:  # of a damaged one nearly anything: a column's name that is no UTF-8 comes from Python
        if not path.exists():
            raise FileNotFoundError(2, "no such file") from None
        raise DataError(f"{path}: not a readable Parquet file: {error}") from None
    columns = []
    for name, column in zip(header, held.columns, strict=True):
        try:
            if pa.types.is_duration(column.type):  # as text it would be a number of its own unit
                column = pc.divide(column.cast(pa.duration("us"), safe=False).cast(pa.int64()).cast(pa.float64()), 1e6)
            columns.append(pc.fill_null(column.cast(pa.string()), "").combine_chunks())
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
            if name in COLUMNS or name in required:
                raise DataError(f"{path}: column {name}: expected numbers or text, got {column.type}") from None
            columns.append(pa.array([str(value) for value in column.to_pylist()], pa.string()))
    return _table(path, header, columns, required)


def _table(
    path: Path, header: list[str], columns: list[pa.Array], required: Sequence[str], *, decimal_comma: bool = False
) -> Table:
    """Strip cells, empty those with a word for a missing value, and drop empty rows."""
    named: dict[str, pa.Array] = {}
    for name, column in zip(header, columns, strict=True):
        if name in named and (name in COLUMNS or name in required):
            raise DataError(f"{path}: row 1: the column {name} appears twice; remove one of them")
        text = pc.utf8_trim_whitespace(column.cast(pa.string()))
        if name not in required:  # "NA" may name a folder, but not a person
            text = pc.if_else(pc.is_in(text, pa.array(_EMPTY)), "", text)
        if name and not name.startswith("unnamed:"):
            named.setdefault(name, text)
    count = len(columns[0]) if columns else 0
    filled = np.zeros(count, bool)
    for column in named.values():
        filled |= pc.not_equal(column, "").to_numpy(zero_copy_only=False)
    kept = pa.array(filled)
    return Table(
        path, {name: column.filter(kept) for name, column in named.items()}, np.flatnonzero(filled) + 2, decimal_comma
    )


def _checked(table: Table, required: Sequence[str], optional: Sequence[str]) -> Table:
    for column in required:
        if column not in table:
            raise DataError(_missing(table, column, required, optional))
    if not len(table):
        what = "one row per frame or tracklet" if required == REQUIRED else "rows"
        raise DataError(f"{table.file}: expected {what} after the header, got none")
    for column in required:
        empty = pc.index(table.columns[column], "").as_py()
        if empty >= 0:
            raise table.error(empty, column, f"is empty; every row needs a {column}")
        zero = pc.index(pc.match_substring(table.columns[column], "\0"), True).as_py()
        if zero >= 0:  # numpy string arrays, which hold keys, drop trailing zero bytes
            raise table.error(zero, column, "contains a zero byte; remove it")
    return table


def _missing(table: Table, column: str, required: Sequence[str], optional: Sequence[str]) -> str:
    expected = f"{','.join(required)}[,{','.join(optional)}]"
    got = ",".join(table.columns) or "nothing"
    hint = also_called(table, column)
    return f"{table.file}: row 1: expected a header with {expected}, got {got:.200}{hint}"


def also_called(table: Table, column: str) -> str:
    """A hint if the table seems to have a column under another name, else empty."""
    found = next((name for name in _ALSO_CALLED.get(column, ()) if name in table), None)
    return f"; if {found} is that column, rename it to {column}" if found else ""


def read_ids(table: Table, column: str) -> Ids:
    """Number the persons or cameras of a column, which may be text.

    Whole numbers, also written ``12.0``, are used as they are. If any cell holds a word, all values of the column are names, which are
    numbered from 1 in sorted order; -1, and 0 for persons, keep their meaning.

    Args:
        table: may lack the column; then all values are unknown.
        column: ``pid`` or ``camid``.

    Raises:
        DataError: a cell holds a fraction, or a number below -1 or of more than 64 bits; names its row.
    """
    if column not in table:
        return Ids(np.full(len(table), UNKNOWN), {}, "")
    codes, texts = table.coded(column)
    whole = [int(match[1]) if (match := _WHOLE.fullmatch(text)) else None for text in texts]
    for i, (text, number) in enumerate(zip(texts, whole, strict=True)):
        if (number is not None and not -1 <= number < 2**63) or (number is None and _NO_ID.fullmatch(text)):
            where = int(np.argmax(codes == i))
            raise table.error(where, column, f"expected a whole 64-bit number of at least -1, or a name, got {text!r}")
    meaningful = (-1, 0) if column == "pid" else (-1,)
    words = [i for i, (text, number) in enumerate(zip(texts, whole, strict=True)) if text and number is None]
    numbers = np.array([UNKNOWN if number is None else number for number in whole], np.int64)
    if not words:
        return Ids(numbers[codes], {}, "")
    name_of = {
        i: texts[i] if number is None else str(number)
        for i, number in enumerate(whole)
        if texts[i] and number not in meaningful
    }
    names = sorted(set(name_of.values()))
    place = {name: number for number, name in enumerate(names, start=1)}
    for i, name in name_of.items():
        numbers[i] = place[name]
    note = ""
    if len(words) < len(name_of):
        where = int(np.argmax(codes == words[0]))
        note = (
            f"column {column}: {len(words)} of {len(name_of)} different values are text, such as {texts[words[0]]!r} in row "
            f"{table.row[where]}, so all of them are treated as names"
        )
    return Ids(numbers[codes], dict(enumerate(names, start=1)), note)


def paths_of(table: Table) -> list[str]:
    """Read the column ``path`` in this machine's notation: slashes for Windows' backslashes, ``~`` expanded.

    Raises:
        DataError: a path begins with a drive letter, on a machine without drives.
    """
    texts = table.cells("path")
    for i, text in enumerate(texts):
        if "\\" in text and os.name != "nt":
            if _DRIVE.match(text):
                raise table.error(i, "path", f"{text!r} is a path of another machine; use a path relative to the table")
            texts[i] = text.replace("\\", "/")
        if text.startswith("~"):
            texts[i] = os.path.expanduser(texts[i])
    return texts


def write_table(path: Path, columns: Mapping[str, Sequence[Any]]) -> None:
    """Write a table of tracklets atomically, its columns in the order of `COLUMNS`, then the others as given.

    Args:
        path: ``.csv`` (UTF-8, commas, LF line ends) or ``.parquet``.
        columns: name -> N values: texts, numbers, or None for an empty cell. ``path`` and ``tracklet`` are required.

    Raises:
        DataError: another suffix, a column is missing or of another length, or the file cannot be written.
    """
    path = Path(path)
    if missing := [name for name in REQUIRED if name not in columns]:
        raise DataError(f"{path}: a table of tracklets needs a column {missing[0]}, got {', '.join(columns)}")
    lengths = {name: len(values) for name, values in columns.items()}
    if len(set(lengths.values())) > 1:
        raise DataError(f"{path}: columns of different lengths: {lengths}")
    order = [*(name for name in COLUMNS if name in columns), *(name for name in columns if name not in COLUMNS)]
    _require_unicode(path, columns)
    if path.suffix.lower() == ".parquet":
        held = pa.table({name: _arrow(columns[name]) for name in order})
        with atomic(path) as temporary:
            pyarrow.parquet.write_table(held, temporary)
    elif path.suffix.lower() == ".csv":
        with (
            atomic(path) as temporary,
            open(temporary, "w", newline="", encoding="utf-8") as stream,
        ):
            writer = csv.writer(stream, lineterminator="\n")
            writer.writerow(order)
            writer.writerows(zip(*(columns[name] for name in order), strict=True))
    else:
        raise DataError(f"{path}: expected a name that ends in .csv or .parquet")


def _require_unicode(path: Path, columns: Mapping[str, Sequence[Any]]) -> None:
    """Refuse text that UTF-8 cannot encode: file names may hold other bytes, and JSON unpaired surrogates."""
    for name, values in columns.items():
        for value in values:
            if isinstance(value, str) and not _is_unicode(value):
                raise DataError(f"{path}: column {name}: {value!r} cannot be written in UTF-8; rename or remove it")


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _arrow(values: Sequence[Any]) -> pa.Array:
    """Keep numbers if all values are numbers; else convert to text."""
    plain = [value.item() if isinstance(value, np.generic) else value for value in values]
    try:
        return pa.array(plain)
    except (pa.ArrowInvalid, pa.ArrowTypeError):
        return pa.array([None if value is None else str(value) for value in plain], pa.string())
