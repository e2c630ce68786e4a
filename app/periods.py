"""The calendar: frequencies, and timestamps as callers write them.

Invariant: a time comes back as it was written: without a zone if it had none, else with the same
offset from UTC, in which it is continued; a date stays a date as long as periods are whole days.

ISO 8601 writes offsets, not zones: `2026-03-28T10:00+01:00` says nothing of the summer time that
begins the day after, so that hours go on in +01:00. Local time without a zone is stepped on the
clock's face, where each day has 24 hours.
"""

import re
import warnings
from bisect import bisect_right
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import lru_cache

import pandas as pd
from pandas.tseries.frequencies import to_offset
from pandas.tseries.offsets import BaseOffset, Tick

from app.errors import InvalidInputError, Issue

LONGEST_ALIAS = 32
#: What pandas raises, each by other offsets, for a date past the year 9999.
BEYOND_THE_CALENDAR = (OverflowError, ValueError, NotImplementedError, TypeError)
#: Spellings that pandas gave up, and what they are called now.
RENAMED = {
    "M": "ME",
    "Q": "QE",
    "Y": "YE",
    "A": "YE",
    "AS": "YS",
    "SM": "SME",
    "w": "W",
    "d": "D",
    "BM": "BME",
    "BQ": "BQE",
    "BY": "BYE",
    "BA": "BYE",
    "BAS": "BYS",
    "CBM": "CBME",
    "H": "h",
    "T": "min",
    "S": "s",
    "L": "ms",
    "U": "us",
}
CLOCK = frozenset({"h", "min", "s", "ms", "us"})
#: Each answers where its n-th period is without walking there.
CALENDAR = frozenset(
    (
        *("D", "W", "B", "C", "ME", "MS", "QE", "QS", "YE", "YS", "SME", "SMS", "WOM", "LWOM"),
        *("BME", "BMS", "BQE", "BQS", "BYE", "BYS", "CBME", "CBMS"),
    )
)
ORDER = ("minutes", "seconds", "milliseconds", "microseconds")
PRECISIONS = (
    (timedelta(minutes=1), "minutes"),
    (timedelta(seconds=1), "seconds"),
    (timedelta(milliseconds=1), "milliseconds"),
)
EXAMPLES = "D, W-MON, MS, ME, QS, B, h or 15min"
_TERM = re.compile(r"(\d+(?:\.\d+)?)?([A-Za-z]+)(-[A-Z0-9]+)?", re.ASCII)
_WEEKDAYS = ("MON", "TUE", "WED", "THU", "FRI", "SAT", "SUN")
_TIME = re.compile(
    r"(?P<date>\d{4}-\d{2}-\d{2})"
    r"(?:(?P<separator>[T ])(?P<clock>\d{2}:\d{2}(?P<seconds>:\d{2}(?:[.,](?P<part>\d{1,9}))?)?)"
    r"(?P<zone>Z|z|[+-]\d{2}(?::?\d{2})?)?)?",
    re.ASCII,
)


@dataclass(frozen=True, slots=True)
class Start:
    """A time as it was written: what its clock shows, and how. Hashable."""

    time: datetime  # without a zone
    separator: str  # empty for a date
    timespec: str
    zone: str


def parse_freq(alias: str) -> BaseOffset:
    """The step of a pandas frequency alias, deprecated spellings included.

    A bare W is anchored on Sunday here, as in pandas; `future_start` anchors it on its start.
    Raises InvalidInputError.
    """
    offset = _offset(alias)
    if offset is None:
        raise _refuse("freq", f"{alias[:LONGEST_ALIAS]!r} is no frequency; use {EXAMPLES}")
    return offset


def parse_start(text: str) -> Start:
    """The time that a caller wrote in ISO 8601. Raises InvalidInputError."""
    match = _TIME.fullmatch(text)
    if match is None:
        raise _unreadable(text)
    try:
        _check_zone(match["zone"] or "")
        time = datetime.fromisoformat(f"{match['date']}T{(match['clock'] or '00:00')[:8]}")
        time += _part(match["part"] or "")
    except ValueError as error:
        raise _unreadable(text) from error
    return Start(time, match["separator"] or "", _timespec(match), match["zone"] or "")


@lru_cache(maxsize=4096)
def future_start(start: Start, freq: str, history: int) -> str:
    """The time of the first period after `history` periods, written like the start.

    Raises InvalidInputError if the start is not a period of the calendar, or the calendar ends.
    """
    offset = _anchored(start, freq)
    return _write(_step(start, offset, history), start, offset)


@lru_cache(maxsize=256)
def future_times(start: Start, freq: str, history: int, prediction_length: int) -> tuple[str, ...]:
    """The times of all forecast periods, written like the start. Raises as `future_start`."""
    offset = _anchored(start, freq)
    first = _step(start, offset, history)
    _step(start, offset, history + prediction_length - 1)
    return tuple(
        _write(time, start, offset) for time in _continued(first, offset, prediction_length)
    )


def check_horizon(start: Start, freq: str, history: int, prediction_length: int) -> None:
    """Raise InvalidInputError if the calendar ends before the forecast does."""
    _step(start, _anchored(start, freq), history + prediction_length - 1)


def period_at(start: Start, freq: str, history: int, time: Start) -> int:
    """The forecast period that a time lies in, from 1 on; 0 if it lies before them.

    Raises InvalidInputError as `future_start`.
    """
    offset = _anchored(start, freq)
    wanted = time.time - _offset_from_utc(time.zone or start.zone)
    wanted += _offset_from_utc(start.zone)

    def begins(period: int) -> datetime:
        return _step(start, offset, history + period - 1)

    if wanted < begins(1):
        return 0
    far = 1
    while begins(2 * far) <= wanted:
        far *= 2
    return bisect_right(range(2 * far), wanted, lo=1, key=begins) - 1


def period_days(freq: str | None) -> float:
    """The mean length of a period in days, over years where it varies; 1 if it is unknown."""
    if freq is None:
        return 1.0
    offset = parse_freq(freq)
    if isinstance(offset, Tick):
        return _length(offset) / timedelta(days=1)
    first = offset.rollforward(_stamp(datetime(2001, 1, 1)))  # noqa: DTZ001 - a calendar's, not a place's
    count = 48
    return float((first + count * offset - first) / pd.Timedelta(days=count))


def future_index(last: pd.Timestamp, freq: str, prediction_length: int) -> pd.DatetimeIndex:
    """The periods after the last one."""
    offset = _on_weekday(freq, last.to_pydatetime())
    return pd.date_range(last, periods=prediction_length + 1, freq=offset)[1:]


@lru_cache(maxsize=256)
def _offset(alias: str) -> BaseOffset | None:
    if len(alias) > LONGEST_ALIAS or not _terms(alias):
        return None
    renamed = _TERM.sub(_rename, alias)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a spelling that is deprecated stays welcome here
            offset = to_offset(renamed)
    except (ValueError, OverflowError, TypeError, KeyError):
        return None
    return offset if offset is not None and offset.n > 0 else None


def _terms(alias: str) -> bool:
    """Whether the alias is made of known units, as 15min or 1h30min are."""
    units = [RENAMED.get(match[2], match[2]) for match in _TERM.finditer(alias)]
    if _TERM.sub("", alias) or not units:
        return False
    return set(units) <= CLOCK | {"D"} or (len(units) == 1 and units[0] in CALENDAR)


def _rename(term: re.Match[str]) -> str:
    return f"{term[1] or ''}{RENAMED.get(term[2], term[2])}{term[3] or ''}"


def _on_weekday(freq: str, start: datetime) -> BaseOffset:
    """The step; a bare W, which names no weekday, counts weeks from the start."""
    offset = parse_freq(freq)
    if freq.rstrip("Ww").isdigit() or freq in {"W", "w"}:
        return pd.offsets.Week(offset.n, weekday=start.weekday())
    return offset


def _anchored(start: Start, freq: str) -> BaseOffset:
    """The step of a start that stands on its calendar."""
    offset = _on_weekday(freq, start.time)
    if isinstance(offset, Tick):
        return offset
    stamp = _stamp(start.time)
    try:
        if offset.is_on_offset(stamp):
            return offset
    except BEYOND_THE_CALENDAR as error:
        raise _ends(start, freq) from error
    near = " and ".join(_neighbours(stamp, offset))
    raise _refuse(
        "start",
        f"{start.time.date()} is not a period of freq {freq!r}; the nearest are "
        f"{near}{_hint(start.time, offset)}",
    )


def _neighbours(stamp: pd.Timestamp, offset: BaseOffset) -> list[str]:
    """The periods before and after a time that is none, if the calendar has them."""
    near = []
    for roll in (offset.rollback, offset.rollforward):
        with suppress(*BEYOND_THE_CALENDAR):
            near.append(roll(stamp).to_pydatetime().date().isoformat())
    return near


def _hint(time: datetime, offset: BaseOffset) -> str:
    """The calendar on which the start would stand, if a usual one does."""
    unit = offset.freqstr.lstrip("0123456789").split("-")[0]
    if unit == "W":
        return f"; for weeks that begin there use 'W-{_WEEKDAYS[time.weekday()]}'"
    swapped = f"{unit[:-1]}{'S' if unit.endswith('E') else 'E'}"
    if unit in {"ME", "MS", "QE", "QS", "YE", "YS"}:
        twin = to_offset(swapped)
        if twin is not None and twin.is_on_offset(_stamp(time)):
            return f"; for that one use freq {swapped!r}"
    return ""


def _step(start: Start, offset: BaseOffset, periods: int) -> datetime:
    """The time so many periods later."""
    try:
        if isinstance(offset, Tick):
            return start.time + periods * _length(offset)
        return (_stamp(start.time) + periods * offset).to_pydatetime()
    except BEYOND_THE_CALENDAR as error:
        raise _ends(start, offset.freqstr) from error


def _continued(first: datetime, offset: BaseOffset, periods: int) -> Iterable[datetime]:
    if isinstance(offset, Tick):
        step = _length(offset)
        return (first + number * step for number in range(periods))
    index = pd.date_range(_stamp(first), periods=periods, freq=offset, unit="us")
    return index.to_pydatetime()


def _length(offset: Tick) -> timedelta:
    return pd.Timedelta(offset).to_pytimedelta()


def _stamp(time: datetime) -> pd.Timestamp:
    """In microseconds, which reach from year 1 to year 9999 and beyond."""
    return pd.Timestamp(time).as_unit("us")


def _write(time: datetime, like: Start, offset: BaseOffset) -> str:
    """A time as the caller writes them; finer if its periods are."""
    if not like.separator:
        if not isinstance(offset, Tick) or _length(offset) % timedelta(days=1) == timedelta(0):
            return time.date().isoformat()
        return time.isoformat(timespec=_finer("seconds", offset))
    return time.isoformat(like.separator, _finer(like.timespec, offset)) + like.zone


def _finer(timespec: str, offset: BaseOffset) -> str:
    """The precision that shows every period: as written, or as the step needs it."""
    if not isinstance(offset, Tick):
        return timespec
    for unit, precision in PRECISIONS:
        if _length(offset) % unit == timedelta(0):
            return max(timespec, precision, key=ORDER.index)
    return ORDER[-1]


def _timespec(match: re.Match[str]) -> str:
    if match["seconds"] is None:
        return "minutes"
    if match["part"] is None:
        return "seconds"
    return "milliseconds" if len(match["part"]) <= 3 else "microseconds"


def _part(digits: str) -> timedelta:
    """The part of a second."""
    if digits[6:].strip("0"):
        raise ValueError("finer than a microsecond")
    return timedelta(microseconds=int(digits[:6].ljust(6, "0")))


def _check_zone(zone: str) -> None:
    digits = zone.lstrip("+-").replace(":", "")
    if digits.isdigit() and (int(digits[:2]) > 23 or int(digits[2:] or 0) > 59):
        raise ValueError(zone)


def _offset_from_utc(zone: str) -> timedelta:
    """Of a zone as it was written: +02:00, -0330, Z or nothing."""
    digits = zone[1:].replace(":", "").ljust(4, "0")
    if not digits.isdigit() or zone in {"", "Z", "z"}:
        return timedelta(0)
    ahead = timedelta(hours=int(digits[:2]), minutes=int(digits[2:4]))
    return -ahead if zone[0] == "-" else ahead


def _unreadable(text: str) -> InvalidInputError:
    return _refuse(
        "start",
        f"{text[:40]!r} is no time in ISO 8601, as 2026-08-01, 2026-08-01T06:00 or "
        "2026-08-01T06:00:00+02:00 are",
    )


def _ends(start: Start, freq: str) -> InvalidInputError:
    shown = start.time.date().isoformat()
    return _refuse("start", f"from {shown} in steps of {freq!r} the forecast passes year 9999")


def _refuse(place: str, message: str) -> InvalidInputError:
    return InvalidInputError((Issue((place,), message, f"invalid_{place}"),))
