"""Times as seconds, float64: since 1970 (UTC) for dates, or since the start of a recording; NaN if unknown."""

from __future__ import annotations

import math
import re
from datetime import UTC, datetime

EXPECTED = "seconds, or a date and time such as 2026-05-04T17:30:00"
_DATED = 1e8  # seconds since 1970 until 1973: numbers from here on are dates, smaller ones belong to a recording
_END = 1e11  # numbers from here on are milliseconds, or the digits of a date and time
_DIGITS_OF_DATE = re.compile(r"(19|20)\d\d(0[1-9]|1[0-2])(0[1-9]|[12]\d|3[01])([01]\d|2[0-3])?", re.ASCII)


def parse(text: str) -> float:
    """The seconds of a text, to a microsecond: a number of seconds >= 0, or a date and time in ISO 8601. Empty: NaN.

    Without a time zone, UTC is meant. Eight or ten digits that read as a date, such as 20260504, are refused: they could be either.

    Raises:
        ValueError: it is neither; says what is expected.
    """
    if not text:
        return math.nan
    if _DIGITS_OF_DATE.fullmatch(text):
        raise ValueError(f"expected {EXPECTED}, got {text!r}: is it a date? Write it with separators")
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
    return round(seconds, 6)


def written(seconds: float) -> str:
    """The text of a time, which `parse` reads back (dates to a microsecond): ISO 8601 in UTC, or a number; empty if unknown."""
    if math.isnan(seconds):
        return ""
    if seconds < _DATED:
        return repr(float(seconds))
    return datetime.fromtimestamp(seconds, UTC).isoformat().replace("+00:00", "Z")
