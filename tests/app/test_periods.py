"""The calendar, and timestamps as callers write them."""

from datetime import datetime

import pandas as pd
import pytest

from app.errors import InvalidInputError
from app.periods import (
    future_index,
    future_start,
    future_times,
    parse_freq,
    parse_start,
    period_at,
    period_days,
)


@pytest.mark.parametrize(
    ("start", "freq", "history", "expected"),
    [
        # month ends and starts
        ("2024-01-31", "ME", 1, "2024-02-29"),
        ("2023-01-31", "M", 1, "2023-02-28"),
        ("2024-01-31", "2ME", 1, "2024-03-31"),
        ("2024-02-29", "ME", 12, "2025-02-28"),
        ("2024-01-01", "MS", 13, "2025-02-01"),
        ("2024-01-15", "SM", 1, "2024-01-31"),
        ("2024-01-31", "BM", 2, "2024-03-29"),
        ("2024-03-01", "BMS", 3, "2024-06-03"),
        # weeks
        ("2024-01-01", "W-MON", 2, "2024-01-15"),
        ("2024-01-07", "W-SUN", 52, "2025-01-05"),
        ("2024-01-03", "2W-WED", 1, "2024-01-17"),
        ("2024-01-01", "W", 1, "2024-01-08"),
        ("2024-01-03", "w", 1, "2024-01-10"),
        ("2024-01-03", "2W", 2, "2024-01-31"),
        # quarters and years
        ("2024-03-31", "Q", 1, "2024-06-30"),
        ("2024-01-31", "Q-JAN", 1, "2024-04-30"),
        ("2024-02-01", "QS-FEB", 4, "2025-02-01"),
        ("2024-12-31", "Y", 1, "2025-12-31"),
        ("2024-12-31", "A-DEC", 1, "2025-12-31"),
        ("2024-02-29", "YE-FEB", 1, "2025-02-28"),
        ("2024-02-29", "YE-FEB", 4, "2028-02-29"),
        ("2024-04-01", "YS-APR", 1, "2025-04-01"),
        # business days
        ("2024-01-05", "B", 1, "2024-01-08"),
        ("2024-01-04", "2B", 1, "2024-01-08"),
        ("2024-01-05", "B", 5, "2024-01-12"),
        # days: leap days, and the days on which the clocks change
        ("2024-02-28", "D", 1, "2024-02-29"),
        ("2023-02-28", "D", 1, "2023-03-01"),
        ("2026-03-28", "D", 2, "2026-03-30"),
        ("2026-10-24", "d", 2, "2026-10-26"),
        ("2024-01-01", "36h", 2, "2024-01-04T00:00:00"),
        # hours and minutes, with and without a zone
        ("2026-03-29T00:00", "h", 4, "2026-03-29T04:00"),
        ("2026-03-29T00:00+01:00", "H", 4, "2026-03-29T04:00+01:00"),
        ("2026-10-25T00:00:00+02:00", "h", 26, "2026-10-26T02:00:00+02:00"),
        ("2026-10-25T00:00:00Z", "15min", 1, "2026-10-25T00:15:00Z"),
        ("2026-10-25T00:00:00-0330", "T", 90, "2026-10-25T01:30:00-0330"),
        ("2026-10-25 00:00", "1h30min", 1, "2026-10-25 01:30"),
        ("2026-10-25 00:00", "30s", 2, "2026-10-25 00:01:00"),
        ("2026-10-25T00:00:00.500", "s", 1, "2026-10-25T00:00:01.500"),
        ("2026-10-25T00:00:00.000", "D", 1, "2026-10-26T00:00:00.000"),
        ("2026-10-25", "ms", 1, "2026-10-25T00:00:00.001"),
        ("2026-01-31T22:00:00+09:00", "ME", 1, "2026-02-28T22:00:00+09:00"),
        # the ends of the calendar
        ("9999-12-30", "D", 1, "9999-12-31"),
        ("9998-12-31", "YE", 1, "9999-12-31"),
        ("0001-01-01", "MS", 1, "0001-02-01"),
        ("3000-01-31", "ME", 1, "3000-02-28"),
    ],
)
def test_what_follows_a_history(start: str, freq: str, history: int, expected: str) -> None:
    assert future_start(parse_start(start), freq, history) == expected
    assert future_times(parse_start(start), freq, history, 1) == (expected,)


@pytest.mark.parametrize(
    "freq",
    ["D", "W-TUE", "ME", "MS", "QE", "QS-FEB", "YE", "B", "BME", "SME", "SMS", "h", "15min", "2W"],
)
@pytest.mark.parametrize("first", ["1999-12-28", "2024-02-27", "2026-10-24"])
def test_times_are_those_of_pandas(freq: str, first: str) -> None:
    index = pd.date_range(first, periods=60, freq=freq)
    start = parse_start(index[0].isoformat())
    expected = tuple(time.isoformat() for time in index[20:].to_pydatetime())
    assert future_times(start, freq, 20, 40) == expected
    assert future_start(start, freq, 59) == index[59].to_pydatetime().isoformat()


@pytest.mark.parametrize(
    ("start", "freq", "reason"),
    [
        ("2024-01-03", "W-MON", "nearest are 2024-01-01 and 2024-01-08; for weeks.* 'W-WED'"),
        ("2024-01-15", "MS", "nearest are 2024-01-01 and 2024-02-01$"),
        ("2024-01-01", "M", "nearest are 2023-12-31 and 2024-01-31; for that one use freq 'MS'"),
        ("2024-01-31", "MS", "for that one use freq 'ME'"),
        ("2024-01-06", "B", "nearest are 2024-01-05 and 2024-01-08"),
        ("9999-12-31", "MS", "nearest are 9999-12-01; "),
        ("0001-01-02", "ME", "nearest are 0001-01-31"),
        ("9999-12-31", "D", "passes year 9999"),
        ("9999-12-31", "ME", "passes year 9999"),
        ("9999-12-31", "B", "passes year 9999"),
        ("9999-12-31", "YE", "passes year 9999"),
        ("9999-12-31", "C", "passes year 9999"),
        ("9999-12-31", "CBMS", "passes year 9999"),
        ("9999-12-31T23:59", "min", "passes year 9999"),
        ("2024-01-01", "999999999999D", "passes year 9999"),
    ],
)
def test_a_start_off_its_calendar_is_refused(start: str, freq: str, reason: str) -> None:
    with pytest.raises(InvalidInputError, match=reason):
        future_start(parse_start(start), freq, 1)


def test_a_forecast_may_not_pass_the_end_of_the_calendar() -> None:
    with pytest.raises(InvalidInputError, match="passes year 9999"):
        future_times(parse_start("9999-12-01"), "D", 10, 40)


@pytest.mark.parametrize(
    "freq",
    [
        *("", "daily", "X", "W-XYZ", "D-MON", "0D", "-1D", "1.5ME", "5", "D D", "ns", "bh"),
        *("D" * 40, "99999999999999999999999D", "Q-FOO", "\u0661D", "D\n", "é"),
    ],
)
def test_an_unknown_frequency_is_refused(freq: str) -> None:
    with pytest.raises(InvalidInputError, match="is no frequency; use D, W-MON"):
        parse_freq(freq)


@pytest.mark.parametrize(
    "text",
    [
        *("", "today", "01.08.2026", "2026-8-1", "2026-13-01", "2026-02-30", "2026-08-01T25:00"),
        *("2026-08-01T10", "2026-08-01T10:00:61", "2026-08-01T10:00+25:00", "2026-08-01Z"),
        *("20260801", "2026-08-01T10:00:00.1234567", "2026-08-01T10:00[Europe/Berlin]"),
        *("0000-01-01", "\u0662\u0660\u0662\u0666-08-01"),
    ],
)
def test_an_unreadable_start_is_refused(text: str) -> None:
    with pytest.raises(InvalidInputError, match="is no time in ISO 8601"):
        parse_start(text)


def test_digits_beyond_a_microsecond_may_be_zero() -> None:
    start = parse_start("2026-08-01T10:00:00.123456000")
    assert start.time == datetime(2026, 8, 1, 10, 0, 0, 123456)  # noqa: DTZ001 - without a zone
    assert future_start(start, "D", 1) == "2026-08-02T10:00:00.123456"


def test_the_index_after_a_time() -> None:
    last = pd.Timestamp("2024-01-31")
    assert list(future_index(last, "ME", 2)) == [*pd.to_datetime(["2024-02-29", "2024-03-31"])]
    assert list(future_index(last, "W", 1)) == [pd.Timestamp("2024-02-07")]


@pytest.mark.parametrize(
    ("freq", "start", "time", "period"),
    [
        ("D", "2026-08-01", "2026-08-11", 1),
        ("D", "2026-08-01", "2026-08-10", 0),
        ("D", "2026-08-01", "2026-08-13T15:00", 3),
        ("W-MON", "2026-08-03", "2026-10-18", 1),
        ("W-MON", "2026-08-03", "2026-10-19", 2),
        ("MS", "2026-01-01", "2027-03-31", 5),
        ("h", "2026-08-01T00:00Z", "2026-08-01T12:30+02:00", 1),
        ("h", "2026-08-01T00:00Z", "2026-08-01T12:30", 3),
        ("D", "2026-08-01", "2031-08-11", 1827),
    ],
)
def test_a_time_lies_in_a_forecast_period(freq: str, start: str, time: str, period: int) -> None:
    assert period_at(parse_start(start), freq, 10, parse_start(time)) == period


def test_a_period_has_a_length_in_days() -> None:
    lengths = [period_days(freq) for freq in (None, "D", "W-TUE", "12h", "MS", "B")]
    assert lengths == pytest.approx([1, 1, 7, 0.5, 30.4, 1.4], abs=0.1)
