"""The times of events: ISO 8601 in, days of a local clock out.

Invariant: a time without a zone is read in the zone that the caller names, or else taken as given,
and the two kinds are told apart. Which day an event belongs to is the business of a local clock:
that of the zone, or else the one that the time was written by.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from models.base import FloatArray

EPOCH = datetime(1970, 1, 1)  # noqa: DTZ001 - of local clocks, which have no zone
DAY = timedelta(days=1)
HOUR = timedelta(hours=1)
DAY_S = 86_400.0
EARLIEST, LATEST = (datetime(year, 1, 1) for year in (1900, 2200))  # noqa: DTZ001 - as EPOCH
LEAST_DAYS_AGO = 1.0 / DAY_S  # of an event that a local clock has after `as_of`, though it was not
LONGEST_ZONE = 64
#: How nearly all times are written.
_FORM = re.compile(
    r"\d{4}-\d\d-\d\d(?P<clock>(?:[T ]\d\d:\d\d(?::\d\d(?P<fraction>\.\d{1,6})?)?)?)"
    r"(?P<zone>Z|[+-]\d\d:\d\d)?",
    re.ASCII,
)
_EPOCH_UTC = EPOCH.replace(tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Moment:
    """One time. local: by the clock, without a zone. offset: from UTC, where that is known.

    zoned: it was written with an offset, and comes back so.
    """

    local: datetime
    offset: timedelta | None
    zoned: bool

    @property
    def days(self) -> float:
        """Days since 1970 by the local clock."""
        return (self.local - EPOCH) / DAY

    @property
    def year_phase(self) -> float:
        """Share of the year gone, in [0, 1)."""
        first, last = (
            datetime(year, 1, 1)  # noqa: DTZ001 - a local clock
            for year in (self.local.year, self.local.year + 1)
        )
        return (self.local - first) / (last - first)

    def is_before(self, other: "Moment") -> bool:
        """Whether it comes first; by the local clocks where an offset is not known."""
        if self.offset is None or other.offset is None:
            return self.local < other.local
        return self.local - self.offset < other.local - other.offset

    def written(self) -> str:
        """As it is answered: with its offset if it was sent with one."""
        return self._iso(self.offset if self.zoned else None)

    def kept(self) -> str:
        """As it is stored: with its offset if that is known."""
        return self._iso(self.offset)

    def _iso(self, offset: timedelta | None) -> str:
        text = self.local.isoformat()
        if offset is None:
            return text
        if not offset:
            return f"{text}Z"
        sign, minutes = ("-", -offset) if offset < timedelta() else ("+", offset)
        hours, minute = divmod(int(minutes.total_seconds()) // 60, 60)
        return f"{text}{sign}{hours:02}:{minute:02}"


@dataclass(frozen=True, slots=True, eq=False)
class Times:
    """Many times. days: since 1970 by their local clocks.

    offsets: from UTC in days, None where they have no zone.
    """

    days: FloatArray
    offsets: FloatArray | None

    def not_before(self, moment: Moment) -> NDArray[np.bool_]:
        """Which of them are at the moment, or after it."""
        if self.offsets is None or moment.offset is None:
            return self.days >= moment.days
        return self.days - self.offsets >= moment.days - moment.offset / DAY

    def seen_from(self, moment: Moment) -> FloatArray:
        """The moment by the local clock of each of them, in days."""
        if self.offsets is None or moment.offset is None:
            return np.full(len(self.days), moment.days)
        return moment.days - moment.offset / DAY + self.offsets


class MixedZonesError(ValueError):
    """Some times have a zone and others none; `odd` is the first that is unlike the first one."""

    def __init__(self, odd: int) -> None:
        super().__init__("times with and without a zone")
        self.odd = odd


@dataclass(frozen=True, slots=True)
class Clock:
    """How times are read. zone: of those without an offset; None takes them as given."""

    zone: ZoneInfo | None = None

    def moment(self, text: str) -> Moment:
        """One time. Raises ValueError if it is none, or an implausible one."""
        return self._moment(_plausible(datetime.fromisoformat(text)))

    def now(self, *, zoned: bool) -> Moment:
        """The present, rounded up to the hour, by the zone or else in UTC.

        zoned: whether the times beside it are.
        """
        present = datetime.now(UTC)
        whole = present.replace(minute=0, second=0, microsecond=0)
        moment = self._moment(whole if whole == present else whole + HOUR)
        return Moment(moment.local, moment.offset, zoned)

    def after(self, times: Times) -> Moment:
        """The first whole hour after the latest of some times."""
        latest = int(np.argmax(times.days if times.offsets is None else times.days - times.offsets))
        local = EPOCH + timedelta(milliseconds=round(float(times.days[latest]) * 1000 * DAY_S))
        local = local.replace(minute=0, second=0, microsecond=0) + HOUR
        if self.zone is not None:
            offset = local.replace(tzinfo=self.zone).utcoffset()
            return Moment(local, offset, times.offsets is not None)
        if times.offsets is None:
            return Moment(local, None, zoned=False)
        seconds = round(float(times.offsets[latest]) * DAY_S)
        return Moment(local, timedelta(seconds=seconds), zoned=True)

    def times(self, texts: Sequence[str]) -> Times:
        """Many times.

        Raises ValueError if one of them is none, and MixedZonesError if only some have a zone and
        the clock has none.
        """
        if (fixed := fixed_times(texts)) is not None:
            return self._by_zone(*fixed)
        parsed = list(map(datetime.fromisoformat, texts))
        zones = {each.tzinfo for each in parsed}
        if None not in zones and parsed:
            return self._zoned(parsed)
        if len(zones) > 1:
            if self.zone is None:
                raise MixedZonesError(_odd(parsed))
            parsed = [self._moment(each).local for each in parsed]
        days = np.array([(each - EPOCH).total_seconds() for each in parsed]) / DAY_S
        return Times(_all_plausible(days), None)

    def _zoned(self, parsed: Sequence[datetime]) -> Times:
        utc = np.array([(each - _EPOCH_UTC).total_seconds() for each in parsed])
        offsets = np.array([_seconds_of(each.utcoffset()) for each in parsed])
        return self._by_zone(utc + offsets, offsets)

    def _by_zone(self, local: FloatArray, offsets: FloatArray | None) -> Times:
        """Times of which the local clock that they were written by is known, in seconds."""
        days = _all_plausible(local / DAY_S)
        if self.zone is None or offsets is None:
            return Times(days, None if offsets is None else offsets / DAY_S)
        utc = local - offsets
        instants = pd.DatetimeIndex(np.round(utc * 1e6).astype("datetime64[us]"), tz="UTC")
        there = instants.tz_convert(self.zone.key).tz_localize(None).to_numpy()
        days = there.astype("datetime64[us]").astype(np.int64) / (1e6 * DAY_S)
        return Times(days, days - utc / DAY_S)

    def _moment(self, time: datetime) -> Moment:
        if time.tzinfo is None:
            offset = time.replace(tzinfo=self.zone).utcoffset() if self.zone else None
            return Moment(time, offset, zoned=False)
        local = time.astimezone(self.zone) if self.zone else time
        return Moment(local.replace(tzinfo=None), local.utcoffset(), zoned=True)


def fixed_times(texts: Sequence[str]) -> tuple[FloatArray, FloatArray | None] | None:
    """Seconds since 1970 and offsets of times that are all written like the first.

    None if they are not, or if one may be none: what tells then is `datetime.fromisoformat`, which
    takes ten times as long.
    """
    form = _FORM.fullmatch(texts[0]) if texts else None
    if form is None or set(map(len, texts)) != {len(texts[0])}:
        return None
    joined = "".join(texts)
    if not joined.isascii():
        return None
    codes = np.frombuffer(joined.encode(), np.uint8).reshape(len(texts), -1)
    first = codes[0]
    digits = (first >= ord("0")) & (first <= ord("9"))
    numbers = codes[:, digits] - ord("0")  # below "0" wraps to more than 9
    if (numbers > 9).any() or (codes[:, ~digits] != first[~digits]).any():
        return None
    return _reckoned(numbers.astype(np.int32), form)


def _reckoned(
    digits: NDArray[np.int32], form: re.Match[str]
) -> tuple[FloatArray, FloatArray | None] | None:
    """digits: (times, digits) in the order of the form; None if a part is out of its range."""
    year = digits[:, :4] @ np.array([1000, 100, 10, 1], dtype=np.int32)
    pairs = digits[:, 4 : 8 + 2 * form["clock"].count(":") + 2 * bool(form["clock"])]
    parts = 10 * pairs[:, 0::2] + pairs[:, 1::2]
    month, day, clock = parts[:, 0], parts[:, 1], parts[:, 2:]
    if month.min() < 1 or month.max() > 12 or year.min() < 1 or day.min() < 1:
        return None
    months = (year - 1970).astype("datetime64[Y]").astype("datetime64[M]") + (month - 1)
    days = months.astype("datetime64[D]") + (day - 1)
    if (days.astype("datetime64[M]") != months).any():
        return None
    seconds = days.astype(np.float64) * DAY_S
    for part, (most, unit) in zip(clock.T, ((23, 3600.0), (59, 60.0), (59, 1.0)), strict=False):
        if part.max() > most:
            return None
        seconds += unit * part
    rest, fraction = digits[:, 4 + pairs.shape[1] :], form["fraction"]
    for place in range(len(fraction) - 1 if fraction else 0):
        seconds += rest[:, place] * 10.0 ** -(place + 1)
    return _offset(seconds, rest[:, -4:], form["zone"])


def _offset(
    seconds: FloatArray, digits: NDArray[np.int32], zone: str | None
) -> tuple[FloatArray, FloatArray | None] | None:
    if not zone:
        return seconds, None
    if zone == "Z":
        return seconds, np.zeros(len(seconds))
    hours, minutes = 10 * digits[:, 0] + digits[:, 1], 10 * digits[:, 2] + digits[:, 3]
    if hours.max() > 23 or minutes.max() > 59:
        return None
    sign = -1.0 if zone.startswith("-") else 1.0
    return seconds, sign * (3600.0 * hours + 60.0 * minutes)


def zone_of(name: str) -> ZoneInfo:
    """The time zone of a name such as Europe/Berlin. Raises ValueError if there is none."""
    try:
        return ZoneInfo(name[:LONGEST_ZONE])
    except (ZoneInfoNotFoundError, OSError) as error:  # OSError: the name of a directory
        raise ValueError(f"there is no time zone {name[:LONGEST_ZONE]!r}") from error


def is_time(text: str) -> bool:
    """Whether a text is a time in ISO 8601, in a plausible year."""
    try:
        _plausible(datetime.fromisoformat(text))
    except ValueError:
        return False
    return True


def has_zone(text: str) -> bool:
    """Whether a time is written with an offset from UTC."""
    return datetime.fromisoformat(text).tzinfo is not None


def _plausible(time: datetime) -> datetime:
    if EARLIEST <= time.replace(tzinfo=None) < LATEST:
        return time
    raise ValueError(f"the year {time.year} is implausible")


def _all_plausible(days: FloatArray) -> FloatArray:
    least, most = ((each - EPOCH) / DAY for each in (EARLIEST, LATEST))
    if len(days) and not (days.min() > least + 1 and days.max() < most - 1):
        raise ValueError("a year is implausible")
    return days


def _odd(parsed: Sequence[datetime]) -> int:
    first = parsed[0].tzinfo is None
    return next(n for n, each in enumerate(parsed) if (each.tzinfo is None) != first)


def _seconds_of(offset: timedelta | None) -> float:
    return 0.0 if offset is None else offset.total_seconds()
