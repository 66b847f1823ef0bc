"""Errors that users can mend. Tools print one line per problem on stderr and exit with code 2; anything else is our bug (code 1)."""

import difflib
import math
from collections.abc import Sequence

LONGEST = 500  # characters of a line: what a screen shows at a glance


class ReidError(Exception):
    """One or more problems, each a full line: what, where, expected, got, what to do.

    Args:
        problems: one string per problem; line breaks inside a problem become spaces, and of one longer than `LONGEST` the beginning
            and the end are kept, as it may quote a file.
    """

    def __init__(self, *problems: str) -> None:
        self.problems = tuple(one_line(problem) for problem in problems)
        super().__init__("\n".join(self.problems))


def one_line(text: str) -> str:
    """A text in one line of at most `LONGEST` characters that a terminal shows as they are.

    Of a longer one the middle is left out; control characters, which could move a terminal's cursor or colour it, and halves of surrogate
    pairs, which no stream takes, become escapes.
    """
    line = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in " ".join(text.split()))
    if len(line) <= LONGEST:
        return line
    tail = LONGEST // 3
    return f"{line[: LONGEST - tail - 3]} … {line[-tail:]}"


def counted(count: int, one: str, many: str = "") -> str:
    """A number with its noun: `1 tracklet`, `1,980 tracklets`; `many` is the plural where it is not made by an s."""
    return f"{count:,} {one if count == 1 else many or f'{one}s'}"


def nearest(word: str, valid: Sequence[str]) -> str:
    """Advice on an unknown word: the nearest valid one when there is one, and the list."""
    close = difflib.get_close_matches(word, valid, n=1)
    return (f"did you mean {close[0]!r}? " if close else "") + f"expected one of: {', '.join(valid) or '(none)'}"


class ConfigError(ReidError):
    """A setting is unknown, of the wrong type, or out of its range."""


class DataError(ReidError):
    """A dataset, image, manifest or feature file is missing, damaged or inconsistent."""


class CheckpointError(ReidError):
    """A checkpoint or weight file is missing, damaged, or belongs to another model or config."""


def in_range(name: str, value: float, low: float, high: float = math.inf, *, above: bool = False) -> float:
    """The value, when low <= value <= high (low < value with `above`) and it is finite.

    Raises:
        ConfigError: naming the setting, its range and the value.
    """
    if math.isfinite(value) and value <= high and (low < value if above else low <= value):
        return value
    upper = f" and <= {high:g}" if math.isfinite(high) else ""
    raise ConfigError(f"{name}: expected {'>' if above else '>='} {low:g}{upper}, got {value:g}")
