"""Errors that users can fix. Tools print one line per problem on stderr and exit with code 2; any other exception is a bug (code 1)."""

import difflib
import math
from collections.abc import Sequence

LONGEST = 500  # maximum characters of a line, to fit on a screen


class ReidError(Exception):
    """One or more problems, each a complete line: what, where, expected, got, what to do.

    Args:
        problems: one string per problem. Line breaks become spaces. Of a problem longer than `LONGEST`, which may quote a file, only the
            beginning and the end are kept.
    """

    def __init__(self, *problems: str) -> None:
        self.problems = tuple(one_line(problem) for problem in problems)
        super().__init__("\n".join(self.problems))


def one_line(text: str) -> str:
    """Converts a text to one line of at most `LONGEST` printable characters.

    The middle of a longer text is left out. Control characters, which could move a terminal's cursor or colour it, and lone surrogates,
    which cannot be encoded, become escapes.
    """
    line = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in " ".join(text.split()))
    if len(line) <= LONGEST:
        return line
    tail = LONGEST // 3
    return f"{line[: LONGEST - tail - 3]} … {line[-tail:]}"


def counted(count: int, one: str, many: str = "") -> str:
    """A number with its noun: `1 tracklet`, `1,980 tracklets`; `many` is the plural if it is not formed with an s."""
    return f"{count:,} {one if count == 1 else many or f'{one}s'}"


def nearest(word: str, valid: Sequence[str]) -> str:
    """Advice on an unknown word: the nearest valid word if there is one, and the list of valid words."""
    close = difflib.get_close_matches(word, valid, n=1)
    return (f"did you mean {close[0]!r}? " if close else "") + f"expected one of: {', '.join(valid) or '(none)'}"


class ConfigError(ReidError):
    """A setting is unknown, of the wrong type, or out of its range."""


class DataError(ReidError):
    """A dataset, image, manifest or feature file is missing, damaged or inconsistent."""


class CheckpointError(ReidError):
    """A checkpoint or weight file is missing, damaged, or belongs to another model or config."""


def in_range(name: str, value: float, low: float, high: float = math.inf, *, above: bool = False) -> float:
    """Returns the value if it is finite and low <= value <= high (low < value with `above`).

    Raises:
        ConfigError: the value is out of range; the message names the setting, its range and the value.
    """
    if math.isfinite(value) and value <= high and (low < value if above else low <= value):
        return value
    upper = f" and <= {high:g}" if math.isfinite(high) else ""
    raise ConfigError(f"{name}: expected {'>' if above else '>='} {low:g}{upper}, got {value:g}")
