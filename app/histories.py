"""Rows of item, time and target as regular histories on one calendar.

Invariant: every period between an item's first and last row is there once, in order; what had to
be filled in is written down in `Histories.notes`.
"""

from collections.abc import Container, Sequence
from dataclasses import dataclass, field, replace
from difflib import get_close_matches
from typing import Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from pandas.tseries.offsets import Tick

from app.periods import future_index, parse_freq
from app.tables import Columns, Table, refuse
from models.base import CategoryArray, Covariate, FloatArray

Gaps = Literal["missing", "zero"]
Flags = NDArray[np.bool_]
Places = NDArray[np.intp]  # rows of an item, -1 for none

#: Share of a guessed calendar's periods that must have a row; fewer look like single events.
FEWEST_ROWS = 0.05
#: Share of rows that must follow a guessed calendar for the others to be taken for mistakes.
MOST_ROWS = 0.9
_DAY = pd.Timedelta(days=1)
_WEEKDAYS = ("MON", "TUE", "WED", "THU", "FRI", "SAT", "SUN")
_MONTHS = ("JAN", "FEB", "MAR", "APR", "MAY", "JUN", "JUL", "AUG", "SEP", "OCT", "NOV", "DEC")
_CLOCK = ((86_400, "D"), (3_600, "h"), (60, "min"), (1, "s"))


@dataclass(frozen=True, slots=True, eq=False)
class History:
    """One item: its periods, what was sold in each (NaN is missing), and what else is known."""

    item: str
    times: pd.DatetimeIndex
    target: FloatArray  # (history,)
    covariates: tuple[Covariate, ...] = ()
    out_of_stock: Flags | None = None  # (history,), where sales are only a lower bound of demand

    @property
    def cold(self) -> bool:
        """Whether nothing tells of its demand."""
        unknown = np.isnan(self.target)
        return bool((unknown if self.out_of_stock is None else unknown | self.out_of_stock).all())


@dataclass(frozen=True, slots=True, eq=False)
class Histories:
    """What a file holds, ready to be forecast."""

    items: tuple[History, ...]
    freq: str
    notes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Steps:
    """The time between two rows of an item: the least there is, and the most usual."""

    least: pd.Timedelta
    usual: pd.Timedelta


@dataclass(slots=True, eq=False)
class _Calendar:
    freq: str
    prediction_length: int
    gaps: Gaps
    last: pd.Timestamp  # the last time at which any item was observed
    filled: int = 0
    periods: int = 0
    notes: list[str] = field(default_factory=list)


def build(
    table: Table,
    columns: Columns,
    *,
    prediction_length: int,
    freq: str | None = None,
    items: Sequence[str] = (),
    gaps: Gaps = "missing",
) -> Histories:
    """Put the rows on a calendar. Raises InvalidInputError."""
    notes: list[str] = []
    rows = _chosen(table.rows, items)
    _refuse_repeated(rows, table.place)
    rows = _observed_items(rows, notes)
    alias = _frequency(rows, freq, notes)
    observed = rows.loc[rows["target"].notna(), "time"]
    calendar = _Calendar(alias, prediction_length, gaps, observed.max(), notes=notes)
    _refuse_off_calendar(rows, alias, table.place)
    extras = table.extras.loc[rows.index]
    if columns.out_of_stock:
        rows = rows.assign(short=_flags(extras.pop(columns.out_of_stock), rows, table.place))
    known = _candidates(rows, extras, columns)
    groups = rows.groupby("item", sort=False)
    histories = tuple(_history(group, extras, known, calendar) for _, group in groups)
    _note_filled(calendar)
    complete = _complete(histories, list(extras.columns), columns, calendar)
    return Histories(complete, alias, tuple(notes))


# --- rows


def _chosen(rows: pd.DataFrame, items: Sequence[str]) -> pd.DataFrame:
    """The rows of the items asked for, all if none is, item by item in the order of time."""
    known = rows["item"].unique()
    for item in items:
        if item not in known:
            near = get_close_matches(item, [str(name) for name in known], n=3, cutoff=0.4)
            hint = ", ".join(repr(name) for name in near or known[:3])
            raise refuse(f"no item {item!r} among {len(known)} in the file; near it: {hint}")
    if items:
        rows = rows[rows["item"].isin(list(items))]
    order = np.lexsort((rows["line"], rows["time"], pd.factorize(rows["item"])[0]))
    return rows.iloc[order]


def _refuse_repeated(rows: pd.DataFrame, place: str) -> None:
    again = rows.duplicated(["item", "time"])
    if not again.any():
        return
    second = rows[again].iloc[0]
    same = (rows["item"] == second["item"]) & (rows["time"] == second["time"])
    first = int(rows.loc[same, "line"].iloc[0])
    message = (
        f"item {second['item']!r} has a second row for {_plain(second['time'])} "
        f"(the first is {place} {first}); add them up, or name the columns that tell items "
        "apart with --id-column"
    )
    raise refuse(message, lines=sorted(rows.loc[again, "line"]), place=place)


def _observed_items(rows: pd.DataFrame, notes: list[str]) -> pd.DataFrame:
    """The rows of items that have a target at all; the others cannot be forecast."""
    seen = rows["target"].notna().groupby(rows["item"]).transform("any")
    if not seen.any():
        raise refuse("the target column is empty")
    silent = [str(name) for name in rows.loc[~seen, "item"].unique()]
    if silent:
        notes.append(f"{_some(silent)} left out: no target at all")
    return rows[seen]


def _plain(time: pd.Timestamp) -> str:
    return time.isoformat(sep=" ").removesuffix(" 00:00:00")


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return f"item{'s' if len(names) > 1 else ''} {', '.join(names[:3])}{more}"


# --- calendar


def _frequency(rows: pd.DataFrame, asked: str | None, notes: list[str]) -> str:
    times = pd.DatetimeIndex(rows["time"].unique()).sort_values()
    if asked is None:
        freq = guess_freq(times, _steps(rows))
        notes.append(f"frequency {freq}, from the dates")
        return freq
    return anchored(asked, times, _steps(rows), notes)


def anchored(asked: str, times: pd.DatetimeIndex, steps: Steps | None, notes: list[str]) -> str:
    """The frequency asked for, on the weekday or the end of the month that the dates stand on.

    Raises InvalidInputError if it is none.
    """
    offset = parse_freq(asked)
    if len(times) < 2 or isinstance(offset, Tick) or all(map(offset.is_on_offset, times)):
        return asked
    guess = guess_freq(times, steps)
    if guess.strip("0123456789")[0] != asked.strip("0123456789")[0].upper():
        return asked
    notes.append(f"frequency {guess}: the dates stand on it, not on {asked}")
    return guess


def _steps(rows: pd.DataFrame) -> Steps | None:
    steps = rows.groupby("item", sort=False)["time"].diff().dropna()
    steps = steps[steps > pd.Timedelta(0)]
    return None if steps.empty else Steps(steps.min(), steps.mode().iloc[0])


def guess_freq(times: pd.DatetimeIndex, steps: Steps | None, *, way: str = "--freq") -> str:
    """The pandas alias of the calendar that the times stand on. Raises InvalidInputError.

    times: all of them, sorted, without repeats. steps: None if no item has two rows. way: how the
    user may say it.
    """
    if steps is None:
        raise refuse(f"one period only, which tells no frequency; give it with {way}, as in D")
    if (times.normalize() == times).all():
        return _guess_days(times, steps, way)
    return _guess_clock(times, steps, way)


def _guess_days(times: pd.DatetimeIndex, steps: Steps, way: str) -> str:
    if steps.least >= 28 * _DAY:
        months = _guess_months(times)
        if months:
            return months
    days = int(np.gcd.reduce((times[1:] - times[:-1]).days.to_numpy()))
    if days % 7 == 0:
        return f"{_times(days // 7)}W-{_WEEKDAYS[times[0].weekday()]}"
    usual = steps.usual.days
    if usual and usual % 7 == 0 and _share(times, usual * 86_400) >= MOST_ROWS:
        return f"{_times(usual // 7)}W-{_WEEKDAYS[np.bincount(times.dayofweek).argmax()]}"
    span = (times[-1] - times[0]).days
    if len(times) >= 10 and span >= 14 and (times.dayofweek < 5).all():
        return "B"
    return _guess_clock(times, steps, way)


def _guess_months(times: pd.DatetimeIndex) -> str | None:
    """Month, quarter or year, starting or ending on the dates."""
    if times.is_month_start.all():
        end = "S"
    elif times.is_month_end.all():
        end = "E"
    else:
        return None
    count = times.year * 12 + times.month
    step = int(np.gcd.reduce(np.diff(count.to_numpy())))
    if step == 12:
        return f"Y{end}-{_MONTHS[times[0].month - 1]}"
    if step == 3:
        quarter = (times[0].month - 1) % 3 + (0 if end == "S" else 9)
        return f"Q{end}-{_MONTHS[quarter]}"
    return f"{_times(step)}M{end}"


def _guess_clock(times: pd.DatetimeIndex, steps: Steps, way: str) -> str:
    """The largest step that all times share, or that nearly all rows keep."""
    seconds = np.diff(times.as_unit("s").asi8)
    step = int(np.gcd.reduce(seconds))
    usual = int(steps.usual.total_seconds())
    if step < usual and _share(times, usual) >= MOST_ROWS:
        step = usual
    elif len(times) / (seconds.sum() / step + 1) < FEWEST_ROWS:
        message = "the times follow no calendar; add sales up by period, or say which with "
        raise refuse(message + way)
    for length, unit in _CLOCK:
        if step % length == 0:
            return f"{_times(step // length)}{unit}"
    raise AssertionError(step)


def _share(times: pd.DatetimeIndex, step_s: int) -> float:
    """Share of times on the most usual grid of so many seconds."""
    phases = times.as_unit("s").asi8 % step_s
    return float(np.unique(phases, return_counts=True)[1].max() / len(times))


def _times(count: int) -> str:
    return "" if count == 1 else str(count)


def _refuse_off_calendar(rows: pd.DataFrame, freq: str, place: str) -> None:
    times = pd.DatetimeIndex(rows["time"].unique()).sort_values()
    wrong = ~rows["time"].isin(on_calendar(times, freq))
    if wrong.any():
        stamp = rows.loc[wrong, "time"].iloc[0]
        message = (
            f"{_plain(stamp)} is not a period of the calendar {freq}; correct it or give --freq"
        )
        raise refuse(message, lines=sorted(rows.loc[wrong, "line"]), place=place)


def on_calendar(times: pd.DatetimeIndex, freq: str) -> pd.DatetimeIndex:
    """The times of the calendar from the first to the last that stands on it.

    times: sorted, without repeats.
    """
    offset = parse_freq(freq)
    if isinstance(offset, Tick):
        phases = times.as_unit("s").asi8 % int(pd.Timedelta(offset).total_seconds())
        values, counts = np.unique(phases, return_counts=True)
        return pd.DatetimeIndex(times[phases == values[counts.argmax()]])
    on = times[[offset.is_on_offset(time) for time in times]]
    return pd.date_range(on[0], on[-1], freq=offset) if len(on) else on


# --- histories


def _history(
    rows: pd.DataFrame, extras: pd.DataFrame, known: dict[str, bool], calendar: _Calendar
) -> History:
    """One item's rows as a history; known says of each covariate whether its future counts."""
    observed = rows["target"].notna().to_numpy()
    last = rows["time"][observed].iloc[-1] if calendar.gaps == "missing" else calendar.last
    times = pd.date_range(rows["time"].iloc[0], last, freq=parse_freq(calendar.freq))
    place = pd.Series(np.arange(len(rows)), index=pd.DatetimeIndex(rows["time"]))
    past = place.reindex(times, fill_value=-1).to_numpy()
    future = place.reindex(
        future_index(last, calendar.freq, calendar.prediction_length), fill_value=-1
    ).to_numpy()
    target = rows["target"].to_numpy(dtype=np.float64)[past]
    target[past < 0] = 0.0 if calendar.gaps == "zero" else np.nan
    calendar.filled += int((past < 0).sum())
    calendar.periods += len(times)
    beside = extras.loc[rows.index]
    covariates = tuple(
        _covariate(beside[name], past, future if ahead else None) for name, ahead in known.items()
    )
    short = rows["short"].to_numpy()[past] & (past >= 0) if "short" in rows else np.zeros(0, bool)
    name = str(rows["item"].iloc[0])
    return History(name, times, target, covariates, short if short.any() else None)


def _flags(column: pd.Series, rows: pd.DataFrame, place: str) -> Flags:
    """A column of 1 and 0, true and false; an empty cell is false."""
    wrong = (column.notna() & ~column.isin([0, 1])).to_numpy()
    if wrong.any():
        message = (
            f"column {column.name!r} holds {str(column[wrong].iloc[0])!r}, which is not 1 or 0"
        )
        raise refuse(message, lines=sorted(rows.loc[wrong, "line"]), place=place)
    return np.asarray(column == 1, dtype=np.bool_)


def _covariate(column: pd.Series, past: Places, future: Places | None) -> Covariate:
    before = _taken(column, past)
    return Covariate(str(column.name), before, None if future is None else _taken(column, future))


def _taken(column: pd.Series, places: Places) -> FloatArray | CategoryArray:
    """The values at the places, missing where the place is -1."""
    missing = places < 0
    if column.dtype == object:
        words: CategoryArray = column.to_numpy(dtype=object)[places]
        words[missing] = None
        return words
    numbers: FloatArray = column.to_numpy(dtype=np.float64)[places]
    numbers[missing] = np.nan
    return numbers


def _note_filled(calendar: _Calendar) -> None:
    if calendar.filled == 0:
        return
    count = f"{calendar.filled:,} of {calendar.periods:,} periods had no row"
    if calendar.gaps == "zero":
        calendar.notes.append(f"{count} and count as zero")
    else:
        hint = "--gaps zero if no row means nothing sold"
        calendar.notes.append(f"{count} and count as missing ({hint})")


# --- covariates


def _candidates(rows: pd.DataFrame, extras: pd.DataFrame, columns: Columns) -> dict[str, bool]:
    """Columns to take as covariates, and whether with their future."""
    if columns.covariates:
        ahead = dict.fromkeys(columns.known_future, True)
        return ahead | dict.fromkeys(columns.known_past, False)
    observed = rows["time"].where(rows["target"].notna())
    future = rows["time"] > observed.groupby(rows["item"]).transform("max")
    return {
        name: True
        for name in extras.columns
        if extras.loc[future, name].notna().any() and _moves(extras[name], rows["item"])
    }


def _moves(column: pd.Series, items: pd.Series) -> bool:
    """False for what is the same in all of an item's rows, such as its name."""
    return bool((column.groupby(items).nunique() > 1).any())


def _complete(
    items: tuple[History, ...], extras: Sequence[str], columns: Columns, calendar: _Calendar
) -> tuple[History, ...]:
    """The items with covariates whose future is known all the way."""
    short: dict[str, tuple[str, int]] = {}
    for item in items:
        for covariate in item.covariates:
            if covariate.future is not None and (count := _unknown(covariate.future)):
                short.setdefault(covariate.name, (item.item, len(covariate.future) - count))
    for name, (whose, count) in short.items():
        message = (
            f"known for {count} of {calendar.prediction_length} future periods of item {whose!r}"
        )
        if name in columns.known_future:
            hint = "add rows with an empty target, or lower --horizon"
            raise refuse(f"{name} is {message}; {hint}")
        calendar.notes.append(f"not used: {name}, {message}")
    kept = [replace(item, covariates=_without(item.covariates, short)) for item in items]
    _note_covariates(kept[0].covariates, [*extras], short, calendar.notes)
    return tuple(kept)


def _unknown(values: FloatArray | CategoryArray) -> int:
    return int(np.count_nonzero(pd.isna(values)))


def _without(covariates: tuple[Covariate, ...], names: Container[str]) -> tuple[Covariate, ...]:
    return tuple(covariate for covariate in covariates if covariate.name not in names)


def _note_covariates(
    used: tuple[Covariate, ...], extras: list[str], short: Container[str], notes: list[str]
) -> None:
    names = [covariate.name for covariate in used]
    future = [covariate.name for covariate in used if covariate.future is not None]
    if future:
        notes.append(f"known ahead: {', '.join(future)}")
    unused = [name for name in extras if name not in names and name not in short]
    if unused:
        notes.append(f"not used: {', '.join(unused)} (--known-future, --known-past)")
