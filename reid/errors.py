"""Errors that users can mend. Tools print one line per problem on stderr and exit with code 2; anything else is our bug (code 1)."""

import math


class ReidError(Exception):
    """One or more problems, each a full line: what, where, expected, got, what to do.

    Args:
        problems: one string per problem; line breaks inside a problem become spaces.
    """

    def __init__(self, *problems: str) -> None:
        self.problems = tuple(" ".join(problem.split()) for problem in problems)
        super().__init__("\n".join(self.problems))


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
