"""A single log line in place of the retry warnings of the Hugging Face hub library."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager

logger = logging.getLogger(__name__)


@contextmanager
def one_line_of_retries(what: str) -> Iterator[None]:
    """Replace the library's warnings by one log line, at the first of them; it logs two warnings, each twice, per attempt.

    Args:
        what: description of the download, for the line.
    """
    library = logging.getLogger("huggingface_hub")
    before = library.handlers, library.propagate
    library.handlers, library.propagate = [_OneLine(what)], False
    try:
        yield
    finally:
        library.handlers, library.propagate = before


class _OneLine(logging.Handler):
    def __init__(self, what: str) -> None:
        super().__init__(logging.WARNING)
        self._what, self._told = what, False

    def emit(self, record: logging.LogRecord) -> None:
        if not self._told:
            self._told = True
            logger.warning("%s: no answer yet; retrying for a minute or two (Ctrl-C to stop)", self._what)
