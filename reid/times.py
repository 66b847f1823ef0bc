"""Times as seconds, float64: since 1970 (UTC) for dates, or since the start of a recording; NaN if unknown."""

from __future__ import annotations

import math
from datetime import UTC, datetime

EXPECTED = "seconds, or a date and time such as 2026-05-04T17:30:00"
_DATED = 1e8  # seconds since 1970 until 1973: numbers from here on are dates, smaller ones belong to a recording
_END = 1e11  # numbers from here on are milliseconds, or digits of a date without separators


def parse(text: str) -> float:
    """The seconds of a text: a number of seconds >= 0, or a date and time in ISO 8601. Without a time zone, UTC is meant. Empty: NaN.

    Raises:
        ValueError: it is neither; says what is expected.
    """
    if not text:
        return math.nan
    try:
        seconds = float(text)
    except ValueError:
        try:
            moment = datetime.fromisoformat(text)
        except ValueError:
            raise ValueError(f"expected {EXPECTED}, got {text[:50]!r}") from None
        seconds = (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
    if not 0 <= seconds < _END:
        hint = "; milliseconds have to be divided by 1000" if seconds >= _END else ""
        raise ValueError(f"expected {EXPECTED}, from 0 or 1970 on, got {text[:50]!r}{hint}")
    return seconds


def written(seconds: float) -> str:
    """The text of a time, which `parse` reads back (dates to a microsecond): ISO 8601 in UTC, or a number; empty if unknown."""
    if math.isnan(seconds):
        return ""
    if seconds < _DATED:
        return repr(float(seconds))
    return datetime.fromtimestamp(seconds, UTC).isoformat().replace("+00:00", "Z")
