"""What is done to files and texts: bytes changed, cells of a table and values of a JSON object replaced by ones that nobody expects."""

import csv
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.faults.conftest import attempt, many

WORDS = [
    b"",
    b"\0",
    b"\xff\xff\xff\x7f",
    b"-1",
    b"1e999",
    b"NaN",
    b"Infinity",
    b"[" * 3000,
    b"{",
    b'"',
    b"\x1b[2J",
    b"\n",
    b"\\ud800",
]
# As cells of tables and values of JSON: numbers past what types hold, paths past what file systems take, other scripts' digits.
NASTY = [
    *(
        "",
        " ",
        "0",
        "-1",
        "-0",
        "1.5",
        "1_0",
        "1e400",
        "1e308",
        "-1e308",
        "nan",
        "inf",
        "٣",
        "²",
        "9" * 5000,
        "-" + "9" * 5000,
    ),
    *(str(2**31), str(2**63 - 1), str(2**63), str(-(2**63)), "1e5", "0x10", "001", "NA", "None", "true", "[]", "{}"),
    *(
        "a" * 300,
        "a/" * 3000,
        "../../x",
        "/etc/passwd",
        "/dev/zero",
        "~nobody/x",
        "C:\\x",
        "a\\b",
        ".",
        "..",
        "/",
        "\0",
        "a\0b.png",
    ),
    *(
        "\x1b[2J",
        "\n",
        "\r",
        '"',
        "'",
        ",",
        ";",
        "\t",
        "=1+1",
        "\u202e",
        "🙂",
        "\ufeff",
        "<script>",
        "%s",
        "{0}",
        "@",
        "t0@1",
        "t1",
    ),
    *("1-2", "2-1", "0-999999999999", "1," * 2000, "3,7-9", "train", "val", "test", "query", "p1", "switches"),
]
SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.sampled_from(NASTY) | st.text(max_size=9)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=5,
)


class Kind(NamedTuple):
    """A sound file, who reads it, and what must come out where anything is taken; None where changed bytes may mean something else."""

    make: Callable[[Path], Path]
    read: Callable[[Path], Any]
    expected: Callable[[Any], Any] | None = None


def written(name: str, content: str | bytes) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        (folder / name).write_bytes(content.encode() if isinstance(content, str) else content)
        return folder / name

    return make


CHANGES = st.lists(
    st.tuples(st.sampled_from(["flip", "set", "cut", "drop", "double", "put"]), st.floats(0, 1), st.integers(0, 255)),
    min_size=1,
    max_size=4,
)


def changed(data: bytes, changes: list[tuple[str, float, int]]) -> bytes:
    for how, where, value in changes:
        at = int(where * max(0, len(data) - 1))
        before, rest = data[:at], data[at:]
        match how:
            case "flip":
                data = before + bytes(byte ^ 1 << value % 8 for byte in rest[:1]) + rest[1:]
            case "set":
                data = before + bytes([value])[: len(rest)] + rest[1:]
            case "cut":
                data = before
            case "drop":
                data = before + rest[value:]
            case "double":
                data = before + rest[:value] + rest
            case "put":
                data = before + WORDS[value % len(WORDS)] + rest
    return data


def try_changed(name: str, kind: Kind, places: pytest.TempPathFactory, share: int = 1) -> None:
    """Reads a sound file of the kind, and then many with changed bytes."""
    file = kind.make(places.mktemp("good"))
    good = file.read_bytes()
    value = kind.read(file)
    expected = None if kind.expected is None else kind.expected(value)
    files = {path for path in file.parent.iterdir()}

    @many(share)
    @given(changes=CHANGES)
    def one(changes: list[tuple[str, float, int]]) -> None:
        file.write_bytes(changed(good, changes))
        found = attempt(name, lambda: kind.read(file))
        if found is not None and kind.expected is not None:
            assert kind.expected(found) == expected, "other content was taken"

    one()
    assert set(file.parent.iterdir()) == files  # nothing is written by reading


CELLS = st.lists(
    st.tuples(st.floats(0, 1), st.floats(0, 1), st.sampled_from(NASTY) | st.text(max_size=9)), min_size=1, max_size=3
)


def with_cells(rows: list[list[str]], cells: list[tuple[float, float, str]]) -> list[list[str]]:
    """The table with some cells replaced; the header stays mostly, as what comes after is read only with it."""
    rows = [list(row) for row in rows]
    for down, across, text in cells:
        row = rows[round(down * (len(rows) - 1))]
        row[round(across * (len(row) - 1))] = text
    return rows


def try_cells(name: str, kind: Kind, places: pytest.TempPathFactory, share: int = 1) -> None:
    """Reads many tables with cells replaced, as any program would write them."""
    file = kind.make(places.mktemp("good"))
    rows = list(csv.reader(io.StringIO(file.read_text())))

    @many(share)
    @given(cells=CELLS)
    def one(cells: list[tuple[float, float, str]]) -> None:
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerows(with_cells(rows, cells))
        file.write_text(text.getvalue(), encoding="utf-8", errors="replace")
        attempt(name, lambda: kind.read(file))

    one()


def with_value(held: Any, way: list[float], value: Any) -> Any:
    """The JSON value with one inside it replaced: `way` says which at each level."""
    if not way or not isinstance(held, dict | list) or not held:
        return value
    keys = list(held) if isinstance(held, dict) else list(range(len(held)))
    key = keys[round(way[0] * (len(keys) - 1))]
    changed_one = with_value(held[key], way[1:], value)
    if isinstance(held, dict):
        return {**held, key: changed_one}
    return [*held[:key], changed_one, *held[key + 1 :]]


def try_values(name: str, kind: Kind, places: pytest.TempPathFactory, share: int = 1) -> None:
    """Reads many JSON files, or files of JSON lines, with a value anywhere in them replaced."""
    file = kind.make(places.mktemp("good"))
    lines = file.read_text().splitlines() if file.suffix == ".jsonl" else [file.read_text()]
    held = [json.loads(line) for line in lines]

    @many(share)
    @given(way=st.lists(st.floats(0, 1), min_size=1, max_size=5), value=VALUES)
    def one(way: list[float], value: Any) -> None:
        file.write_text("\n".join(json.dumps(item) for item in with_value(held, [*way[:1], *way], value)))
        attempt(name, lambda: kind.read(file))

    one()
