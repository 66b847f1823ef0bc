"""Errors that users can mend. Tools print one line per problem on stderr and exit with code 2; anything else is our bug (code 1)."""


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
