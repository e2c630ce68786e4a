"""What a data set holds, as training, backtests and predictions take it.

Invariant: no more of a data set is in memory than was asked for, and a series comes out on its
calendar, each period once.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from pandas.tseries.offsets import Tick

from app.event_tables import numbered
from app.event_types import CODES
from app.events_intake import AT, CUSTOMER, NUMBERS, THINGS
from app.histories import History
from app.moments import DAY_S, Clock, Moment, Times
from app.periods import parse_freq
from app.series_intake import EXTRA, ITEM, TARGET, TIMESTAMP
from app.shelf import Shelf
from models.backtest import Record
from models.base import CategoryArray, Covariate, Customer, FloatArray
from models.customers import Population, customer_of, population_of, together

AT_ONCE = 2_000  # series or customers
ROWS_AT_ONCE = 500_000
ALL_EVENTS = 1 << 40
DAY_US = 1e6 * DAY_S
ODD = np.uint64(0x9E3779B97F4A7C15)  # spreads times over all bits

Ints = NDArray[np.int64]


class SeriesContents:
    """The series of a data set."""

    def __init__(self, directory: Path, freq: str, columns: Mapping[str, Any]) -> None:
        """columns: what each was taken for. Raises OSError if the files are not there."""
        self.freq, self.shelf = freq, Shelf(directory)
        self._ahead: tuple[str, ...] = tuple(columns["known_future"])
        self._past: tuple[str, ...] = tuple(columns["past_only"])

    def records(self, *, most_series: int | None = None) -> list[Record]:
        """All that is known of each series, up to its last target; those without one are left out.

        A covariate that is known ahead has a `future`, which says that and nothing else.
        most_series: of more, a fair sample.
        """
        records: list[Record] = []
        for first, last in self.shelf.spans(AT_ONCE, ROWS_AT_ONCE):
            for each in self._series(first, last):
                if most_series is not None and len(records) == most_series:
                    return records
                records.append(self._record(each))
        return records

    def histories(self, first: int, last: int, *, prediction_length: int) -> list[History]:
        """The series from `first` up to `last`, ready to be forecast; those without a target are
        left out. What is known ahead all the way is a covariate with a future, else a past one.
        """
        return [self._history(each, prediction_length) for each in self._series(first, last)]

    def segment(self, column: str) -> dict[str, str]:
        """What a column says of each item, in its last row. Raises KeyError for none such."""
        found: dict[str, str] = {}
        for first, last in self.shelf.spans(AT_ONCE, ROWS_AT_ONCE):
            rows = self.shelf.rows(first, last, (ITEM, EXTRA + column))
            said = rows.filter(pc.is_valid(rows.column(EXTRA + column)))
            items, values = said.column(ITEM), said.column(EXTRA + column)
            found |= dict(zip(items.to_pylist(), map(_word, values.to_pylist()), strict=True))
        return found

    def close(self) -> None:
        self.shelf.close()

    def _record(self, one: "_Series") -> Record:
        beside = [
            Covariate(name, past := one.spread(name), past if name in self._ahead else None)
            for name in (*self._ahead, *self._past)
        ]
        return Record(one.item, one.times, one.target(), tuple(beside))

    def _history(self, one: "_Series", prediction_length: int) -> History:
        beside = []
        for name in (*self._ahead, *self._past):
            future = one.ahead(name, prediction_length) if name in self._ahead else None
            if future is not None and pd.isna(future).any():
                future = None
            beside.append(Covariate(name, one.spread(name), future))
        return History(one.item, one.times, one.target(), tuple(beside))

    def _series(self, first: int, last: int) -> Iterator["_Series"]:
        wanted = [EXTRA + name for name in (*self._ahead, *self._past)]
        rows = self.shelf.rows(first, last, (ITEM, TIMESTAMP, TARGET, *wanted))
        us = rows.column(TIMESTAMP).cast(pa.int64()).to_numpy()
        target = rows.column(TARGET).to_numpy()
        columns = {name: _values(rows.column(EXTRA + name)) for name in (*self._ahead, *self._past)}
        items = rows.column(ITEM)
        starts = self.shelf.starts[first : last + 1] - self.shelf.starts[first]
        calendar = _calendar(self.freq, us)
        places = calendar.places(us)
        for start, end in zip(starts[:-1].tolist(), starts[1:].tolist(), strict=True):
            observed = np.flatnonzero(~np.isnan(target[start:end]))
            if not len(observed):
                continue
            known = int(observed[-1]) + 1
            since = places[start:end] - places[start]
            yield _Series(
                item=items[start].as_py(),
                times=calendar.times(int(us[start]), int(since[known - 1]) + 1),
                places=since,
                known=known,
                values=target[start:end],
                columns={name: values[start:end] for name, values in columns.items()},
            )


@dataclass(frozen=True, slots=True, eq=False)
class _Series:
    """One series as it is stored.

    times: (periods,) up to the last with a target. places: (rows,) periods since the first. known:
    rows up to the last with a target.
    """

    item: str
    times: pd.DatetimeIndex
    places: Ints
    known: int
    values: FloatArray
    columns: Mapping[str, FloatArray | CategoryArray]

    @property
    def periods(self) -> int:
        return len(self.times)

    def target(self) -> FloatArray:
        target = np.full(self.periods, np.nan)
        target[self.places[: self.known]] = self.values[: self.known]
        return target

    def spread(self, name: str) -> FloatArray | CategoryArray:
        """A column over the periods of the target."""
        return _laid(self.columns[name][: self.known], self.places[: self.known], self.periods)

    def ahead(self, name: str, periods: int) -> FloatArray | CategoryArray:
        """A column over the periods after the target."""
        places = self.places[self.known :] - self.periods
        within = places < periods
        return _laid(self.columns[name][self.known :][within], places[within], periods)


@dataclass(frozen=True, slots=True, eq=False)
class Bought:
    """(purchases,) each: the customer, by a hash of the name, and the time in microseconds."""

    who: NDArray[np.uint64]
    us: Ints

    def keys(self) -> NDArray[np.uint64]:
        """A number for each, alike for the same customer at the same time."""
        return self.who ^ (self.us.astype(np.uint64) * ODD)


class EventContents:
    """The customers of a data set, and what they did."""

    def __init__(self, directory: Path, end: str) -> None:
        """end: the time of the latest event. Raises OSError if the files are not there."""
        self.shelf, self._end = Shelf(directory), end

    def until(self) -> Moment:
        """The first whole hour after the latest event."""
        latest = Clock().moment(self._end)
        return Clock().after(Times(np.array([latest.days]), None))

    def population(
        self, as_of: Moment, *, most_customers: int | None = None, most_events: int = ALL_EVENTS
    ) -> Population:
        """Those with an event before `as_of`, whole histories; of more, a fair sample.

        Raises ValueError if there is nobody.
        """
        crowds, count = [], 0
        for first, last in self.shelf.spans(AT_ONCE, ROWS_AT_ONCE):
            known = [one for _, one in self.customers(first, last, as_of, most_events=most_events)]
            if most_customers is not None:
                known = known[: most_customers - count]
            count += len(known)
            if known:
                crowds.append(population_of(known))
            if count == most_customers:
                break
        if not crowds:
            raise ValueError(f"nobody has an event before {as_of.written()}")
        return together(crowds)

    def segment(
        self, column: str, *, as_of: Moment, before: float, most_customers: int | None = None
    ) -> list[str | None]:
        """What a column says of each customer of `population`, in the same order: the latest word
        before a moment, None where there is none.

        before: days since 1970 by the local clock. Raises KeyError for none such.
        """
        found: list[str | None] = []
        for first, last in self.shelf.spans(AT_ONCE, ROWS_AT_ONCE):
            rows = self.shelf.rows(first, last, (AT, column))
            days = rows.column(AT).cast(pa.int64()).to_numpy() / DAY_US
            said = np.asarray(rows.column(column).is_valid()) & (days < before)
            places = np.maximum.accumulate(np.where(said, np.arange(len(days)), -1))
            words = rows.column(column)
            starts = self.shelf.starts[first : last + 1] - self.shelf.starts[first]
            for start, end in zip(starts[:-1].tolist(), starts[1:].tolist(), strict=True):
                if len(found) == most_customers:
                    return found
                if days[start] < as_of.days:
                    place = int(places[end - 1])
                    found.append(words[place].as_py() if place >= start else None)
        return found

    def bought(self) -> Bought:
        """All purchases: who, and when."""
        who, us = [np.zeros(0, dtype=np.uint64)], [np.zeros(0, dtype=np.int64)]
        for first, last in self.shelf.spans(AT_ONCE, ROWS_AT_ONCE):
            rows = self.shelf.rows(first, last, (CUSTOMER, AT, "type"))
            rows = rows.filter(pc.equal(rows.column("type"), "purchase"))
            names = np.asarray(rows.column(CUSTOMER).to_pylist(), dtype=object)
            who.append(pd.util.hash_array(names))
            us.append(rows.column(AT).cast(pa.int64()).to_numpy())
        return Bought(np.concatenate(who), np.concatenate(us))

    def customers(
        self, first: int, last: int, as_of: Moment, *, most_events: int
    ) -> list[tuple[str, Customer]]:
        """Those from `first` up to `last` with an event before `as_of`, by their names."""
        rows = self.shelf.rows(first, last, (CUSTOMER, AT, "type", *NUMBERS, *THINGS))
        days = rows.column(AT).cast(pa.int64()).to_numpy() / DAY_US
        types = _codes(rows.column("type").combine_chunks())
        amounts, quantities = (rows.column(name).to_numpy() for name in ("amount", "quantity"))
        items, categories = (
            numbered(rows.column(name).to_pylist()) for name in ("item_id", "category")
        )
        names, found = rows.column(CUSTOMER), []
        starts = self.shelf.starts[first : last + 1] - self.shelf.starts[first]
        for start, end in zip(starts[:-1].tolist(), starts[1:].tolist(), strict=True):
            known = int(np.searchsorted(days[start:end], as_of.days))
            part = slice(start, start + known)
            if not known:
                continue
            one = customer_of(
                days[part],
                types[part],
                as_of=as_of.days,
                amounts=amounts[part],
                quantities=quantities[part],
                items=items[part],
                categories=categories[part],
                most_events=most_events,
            )
            found.append((names[start].as_py(), one))
        return found

    def close(self) -> None:
        self.shelf.close()


class _Calendar:
    """Times as numbers of periods."""

    def __init__(self, step: int, grid: pd.DatetimeIndex | None) -> None:
        """step: of a clock, in microseconds; grid: the times of another calendar."""
        self._step, self._grid = step, grid
        self._us = None if grid is None else grid.to_numpy().astype("datetime64[us]").astype(int)

    def places(self, us: Ints) -> Ints:
        if self._us is None:
            return us // self._step
        return np.searchsorted(self._us, us)

    def times(self, first_us: int, periods: int) -> pd.DatetimeIndex:
        if self._grid is None or self._us is None:
            us = first_us + self._step * np.arange(periods)
            return pd.DatetimeIndex(us.astype("datetime64[us]").astype("datetime64[ns]"))
        place = int(np.searchsorted(self._us, first_us))
        return self._grid[place : place + periods]


def _calendar(freq: str, us: Ints) -> _Calendar:
    offset = parse_freq(freq)
    if isinstance(offset, Tick):
        return _Calendar(int(pd.Timedelta(offset) / pd.Timedelta(microseconds=1)), None)
    ends = np.array([us.min(), us.max()]).astype("datetime64[us]").astype("datetime64[ns]")
    return _Calendar(0, pd.date_range(ends[0], ends[1], freq=offset))


def _values(column: pa.ChunkedArray) -> FloatArray | CategoryArray:
    if pa.types.is_string(column.type):
        words: CategoryArray = np.array(column.to_pylist(), dtype=object)
        return words
    numbers: FloatArray = column.to_numpy()
    return numbers


def _laid(
    values: FloatArray | CategoryArray, places: Ints, periods: int
) -> FloatArray | CategoryArray:
    """Values at their places, missing elsewhere."""
    if values.dtype == np.object_:
        words: CategoryArray = np.full(periods, None, dtype=object)
        words[places] = values
        return words
    numbers = np.full(periods, np.nan)
    numbers[places] = values
    return numbers


def _codes(types: pa.Array) -> NDArray[np.int8]:
    encoded = types.dictionary_encode()
    codes = np.array([CODES[name] for name in encoded.dictionary.to_pylist()], dtype=np.int8)
    return np.asarray(codes[encoded.indices.to_numpy()])


def _word(value: object) -> str:
    """3.0 is 3, as it stands in the file."""
    return f"{value:g}" if isinstance(value, float) else str(value)
