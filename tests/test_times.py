"""Times of tables and searches: dates and seconds become one number, and read back as they were."""

import math
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reid import times


@pytest.mark.parametrize(
    ("text", "seconds", "again"),
    [
        ("", math.nan, ""),
        ("0", 0, "0.0"),
        ("12.25", 12.25, "12.25"),
        ("1777915800", 1777915800, "2026-05-04T17:30:00Z"),
        ("2026-05-04T17:30", 1777915800, "2026-05-04T17:30:00Z"),
        ("2026-05-04 19:30:00+02:00", 1777915800, "2026-05-04T17:30:00Z"),
        ("20260504T173000Z", 1777915800, "2026-05-04T17:30:00Z"),
        ("2026-05-04T17:30:00.250000000", 1777915800.25, "2026-05-04T17:30:00.250000Z"),
    ],
)
def test_texts(text: str, seconds: float, again: str) -> None:
    assert times.parse(text) == pytest.approx(seconds, abs=1e-6, nan_ok=True)
    assert times.written(times.parse(text)) == again


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("17:30", "expected seconds, or a date and time such as 2026-05-04T17:30:00, got '17:30'"),
        ("-1", "from 0 or 1970 on"),
        ("nan", "from 0 or 1970 on"),
        ("inf", "milliseconds have to be divided by 1000"),
        ("1777915800000", "milliseconds have to be divided by 1000"),
        ("1960-01-01", "from 0 or 1970 on"),
        ("20260504", "is it a date? Write it with separators"),
        ("2026050417", "is it a date? Write it with separators"),
        ("x" * 9000, "got 'xxx"),
    ],
)
def test_what_is_no_time(text: str, problem: str) -> None:
    with pytest.raises(ValueError) as error:
        times.parse(text)
    assert problem in str(error.value) and len(str(error.value)) < 200


@given(st.datetimes(datetime(1974, 1, 1), datetime(2500, 1, 1)) | st.floats(0, 9e6))
def test_written_times_read_back(moment: datetime | float) -> None:
    """To a microsecond; and a written time stays as it is."""
    seconds = round(moment if isinstance(moment, float) else moment.replace(tzinfo=UTC).timestamp(), 6)
    text = times.written(seconds)
    assert times.parse(text) == pytest.approx(seconds, abs=2e-6, rel=0)
    assert times.written(times.parse(text)) == text
