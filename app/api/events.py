"""The entries of `inputs` that hold events → customers.

Invariant: what comes out is what was sent, seen from one moment that no event has reached;
whatever cannot be is named by its place, as far as possible all at once.

Events come by the hundred thousand, so that columns of all of them are checked at once; only what
fails is looked at one by one, to be named.
"""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import chain
from operator import itemgetter
from typing import Any

import numpy as np
from numpy.typing import NDArray

from app.api.issues import Issues, Place, shown
from app.errors import Issue
from app.event_types import CODES, NOT_A_NAME, OTHER, REFUND, near, number_of
from app.moments import (
    LEAST_DAYS_AGO,
    Clock,
    MixedZonesError,
    Moment,
    Times,
    has_zone,
    is_time,
)
from app.settings import Settings
from models.base import PURCHASE, Customer, FloatArray
from models.customers import customer_of

FIELDS = frozenset(("customer_id", "observed_from", "events"))
EVENT_FIELDS = frozenset(("type", "at", "item_id", "category", "amount", "quantity"))
NUMBERS = {int, float, type(None)}
NAMES = {str, int, type(None)}
LARGEST = float(np.finfo(np.float32).max)
LONGEST_NAME = 256
LONGEST_TYPE = 64
TIMES_KEPT = 10  # so many more than are kept may be sent
MOST_TYPES_TOLD = 5
MOST_TYPES_LOOKED_AT = 100

Ints = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Ask:
    """What is wanted of every input.

    as_of: None for a default: the present, or, for a `record` of what was, the hour after it.
    """

    clock: Clock
    as_of: Moment | None
    most_inputs: int
    record: bool = False


@dataclass(frozen=True, slots=True, eq=False)
class CustomerInput:
    """One input. customer_id: None where none was sent."""

    customer_id: str | int | None
    customer: Customer

    @property
    def cold_start(self) -> bool:
        """Whether nothing is known of what the customer did."""
        return not len(self.customer.days_ago)


@dataclass(frozen=True, slots=True, eq=False)
class Crowd:
    """The customers of a request, seen from `as_of`. events: as many as were sent."""

    inputs: tuple[CustomerInput, ...]
    as_of: Moment
    events: int
    warnings: tuple[Issue, ...]


def read_customers(raw: object, ask: Ask, limits: Settings, *, issues: Issues) -> Crowd | None:
    """The customers of a request; what is wrong with them goes to `issues`, and makes a None."""
    place = Place(("inputs",), "inputs")
    if not isinstance(raw, list) or not raw:
        told = "an empty list" if isinstance(raw, list) else shown(raw)
        issues.add(place, f"must be a list of at least one customer, not {told}", "inputs")
        return None
    if len(raw) > ask.most_inputs:
        count, most = f"{len(raw):,}", f"{ask.most_inputs:,}"
        issues.add(place, f"has {count} entries; send at most {most} a request", "too_many_inputs")
        return None
    entries = [_Entry(each, number, limits, issues) for number, each in enumerate(raw)]
    _refuse_repeated(entries, issues)
    return _Crowding(entries, ask, limits, issues).read()


def _refuse_repeated(entries: Sequence["_Entry"], issues: Issues) -> None:
    """Two inputs of one customer could not be told apart, and would each know half."""
    first: dict[str, int] = {}
    for number, entry in enumerate(entries):
        if entry.customer_id is None:
            continue
        seen = first.setdefault(str(entry.customer_id), number)
        if seen != number:
            msg = f"inputs[{seen}] has the same customer_id; send all events of one in one input"
            issues.add(entry.place.at("customer_id"), msg, "repeated_customer_id")


class _Entry:
    """One entry, its events not looked into. observed_from: a time, or None."""

    __slots__ = ("_issues", "_limits", "_raw", "customer_id", "events", "observed_from", "place")

    def __init__(self, raw: object, number: int, limits: Settings, issues: Issues) -> None:
        self._limits, self._issues = limits, issues
        self._raw: dict[str, Any] = raw if isinstance(raw, dict) else {}
        self.place = Place(("inputs", number), f"inputs[{number}]")
        self.customer_id = self._customer_id()
        if self.customer_id is not None:
            words = f"{self.place.words} (customer_id {self.customer_id!r})"
            self.place = Place(self.place.loc, words)
        if self._raw is not raw or not FIELDS.issuperset(self._raw):
            issues.fields(raw, self.place, FIELDS)
        self.events = self._events()
        self.observed_from = self._observed_from()

    def _customer_id(self) -> str | int | None:
        raw = self._raw.get("customer_id")
        if raw is None or type(raw) is int or (isinstance(raw, str) and len(raw) <= LONGEST_NAME):
            return raw
        msg = f"must be a text of at most {LONGEST_NAME} characters, not {shown(raw)}"
        self._issues.add(self.place.at("customer_id"), msg, "customer_id")
        return None

    def _events(self) -> list[Any]:
        raw, place = self._raw.get("events"), self.place.at("events")
        if raw is None:
            return []
        if not isinstance(raw, list):
            self._issues.add(place, f"must be a list of events, not {shown(raw)}", "events")
            return []
        kept = self._limits.max_events
        if len(raw) > TIMES_KEPT * kept:
            msg = (
                f"has {len(raw):,} events; at most {TIMES_KEPT * kept:,} are read and {kept:,} "
                "used, send the latest"
            )
            self._issues.add(place, msg, "too_many_events")
            return []
        return raw

    def _observed_from(self) -> str | None:
        raw = self._raw.get("observed_from")
        if raw is None or (isinstance(raw, str) and is_time(raw)):
            return raw
        self._issues.add(self.place.at("observed_from"), _no_time(raw), "invalid_time")
        return None


class _Crowding:
    """The events of all entries in flat columns: those of entry i at starts[i]:starts[i + 1]."""

    def __init__(
        self, entries: Sequence[_Entry], ask: Ask, limits: Settings, issues: Issues
    ) -> None:
        self._entries, self._ask, self._limits, self._issues = entries, ask, limits, issues
        self._flat = list(chain.from_iterable(entry.events for entry in entries))
        lengths = [len(entry.events) for entry in entries]
        self._starts = np.concatenate(([0], np.cumsum(lengths, dtype=np.int64)))
        self._observed = [
            ask.clock.moment(each.observed_from) if each.observed_from else None for each in entries
        ]
        self._warnings: list[Issue] = []

    def read(self) -> Crowd | None:
        """The customers, or None if they are not understood."""
        if not self._are_objects():
            return None
        columns = self._columns()
        if columns is None:
            return None
        as_of = self._as_of(columns.times)
        if not (self._came_before(columns.times, as_of) and self._is_observed(as_of)):
            return None
        customers = self._customers(columns, as_of)
        inputs = tuple(
            CustomerInput(entry.customer_id, customer)
            for entry, customer in zip(self._entries, customers, strict=True)
        )
        self._warn_of_cuts(inputs)
        return Crowd(inputs, as_of, len(self._flat), tuple(self._warnings))

    # --- columns

    def _are_objects(self) -> bool:
        """Whether all events are objects of known names."""
        kinds = set(map(type, self._flat))
        if kinds <= {dict} and all(map(EVENT_FIELDS.issuperset, self._flat)):
            return True
        for index, event in enumerate(self._flat):
            if type(event) is not dict or not EVENT_FIELDS.issuperset(event):
                self._issues.fields(event, self._place(index), EVENT_FIELDS)
        return False

    def _columns(self) -> "_Columns | None":
        types = self._types()
        times = self._times()
        amounts, quantities = self._numbers("amount"), self._numbers("quantity")
        items, categories = self._names("item_id"), self._names("category")
        if types is None or amounts is None or quantities is None:
            return None
        self._refuse_negative(types, amounts, "amount")
        fine = self._refuse_negative(types, quantities, "quantity")
        if times is None or items is None or categories is None or not fine:
            return None
        refunds = types == REFUND  # some shops write them below zero
        amounts[refunds] = np.abs(amounts[refunds])
        return _Columns(times, types, amounts, quantities, items, categories)

    def _types(self) -> NDArray[np.int8] | None:
        raw = self._raw("type")
        if set(map(type, raw)) <= {str} and (not raw or max(map(len, raw)) <= LONGEST_TYPE):
            self._warn_of_types(raw)
            return np.array([CODES.get(each, OTHER) for each in raw], dtype=np.int8)
        for index, value in enumerate(raw):
            if type(value) is not str or len(value) > LONGEST_TYPE:
                told = (
                    "is missing" if value is None else f"must be a short text, not {shown(value)}"
                )
                msg = f'{told}; send "purchase", "view" or another type'
                self._issues.add(self._place(index, "type"), msg, "event_type")
        return None

    def _times(self) -> Times | None:
        raw = self._raw("at")
        if set(map(type, raw)) <= {str}:
            try:
                return self._ask.clock.times(raw)
            except MixedZonesError as error:
                self._refuse_mixed(error.odd, raw)
                return None
            except ValueError:
                pass
        for index, value in enumerate(raw):
            if not isinstance(value, str) or not is_time(value):
                self._issues.add(self._place(index, "at"), _no_time(value), "invalid_time")
        return None

    def _refuse_mixed(self, odd: int, raw: Sequence[str]) -> None:
        has, first = ("a", "none") if has_zone(raw[odd]) else ("no", "one")
        msg = (
            f"{shown(raw[odd])} has {has} zone, the first event has {first}; write all times "
            'alike, or say by parameters.timezone how to read those without, as in "Europe/Berlin"'
        )
        self._issues.add(self._place(odd, "at"), msg, "mixed_zones")

    def _numbers(self, name: str) -> FloatArray | None:
        """(events,), NaN where nothing is known."""
        raw = self._raw(name)
        if set(map(type, raw)) <= NUMBERS:
            values: FloatArray = np.array(raw, dtype=np.float64)
            if not (np.abs(values) > LARGEST).any():
                return values
        for index, value in enumerate(raw):
            if type(value) not in NUMBERS:
                msg = f"{shown(value)} is not a number; leave out what is not known"
                self._issues.add(self._place(index, name), msg, "number_type")
            elif value is not None and abs(value) > LARGEST:
                msg = f"{shown(value)} is beyond the range of float32 (3.4e38)"
                self._issues.add(self._place(index, name), msg, "number_too_large")
        return None

    def _refuse_negative(self, types: NDArray[np.int8], values: FloatArray, name: str) -> bool:
        wrong = np.flatnonzero((types == PURCHASE) & (values < 0))
        for index in wrong.tolist():
            msg = f'{values[index]:g} is below zero; what comes back is an event of type "refund"'
            self._issues.add(self._place(index, name), msg, f"negative_{name}")
        return not len(wrong)

    def _names(self, name: str) -> Ints | None:
        """(events,) a number for each name, the same for ever; -1 where there is none."""
        raw = self._raw(name)
        if set(map(type, raw)) <= NAMES:
            with suppress(_LongNameError):
                return np.array(list(map(_Numbers().__getitem__, raw)), dtype=np.int64)
        for index, value in enumerate(raw):
            if type(value) not in NAMES or (value is not None and len(str(value)) > LONGEST_NAME):
                msg = f"must be a text of at most {LONGEST_NAME} characters, not {shown(value)}"
                self._issues.add(self._place(index, name), msg, name)
        return None

    def _raw(self, name: str) -> list[Any]:
        """(events,) None where it is not there."""
        try:
            return list(map(itemgetter(name), self._flat))
        except KeyError:
            return [event.get(name) for event in self._flat]

    def _place(self, index: int, *parts: str) -> Place:
        owner = int(np.searchsorted(self._starts, index, side="right")) - 1
        entry = self._entries[owner]
        return entry.place.at("events", index - int(self._starts[owner]), *parts)

    # --- as_of

    def _as_of(self, times: Times) -> Moment:
        if self._ask.as_of is not None:
            return self._ask.as_of
        if self._ask.record and len(times.days):
            return self._ask.clock.after(times)
        observed_zoned = any(each is not None and each.zoned for each in self._observed)
        return self._ask.clock.now(zoned=times.offsets is not None or observed_zoned)

    def _came_before(self, times: Times, as_of: Moment) -> bool:
        """Whether all events are of the past, and told by the same sort of clock as `as_of`."""
        if len(times.days) and not self._same_sort(times, as_of):
            return False
        late = np.flatnonzero(times.not_before(as_of))
        for index in late.tolist():
            at, default = self._flat[index]["at"], self._ask.as_of is None
            hint = "; is it local time? then say parameters.timezone, or as_of" if default else ""
            msg = f"{shown(at)} is not before as_of, {as_of.written()}{hint}"
            self._issues.add(self._place(index, "at"), msg, "not_before_as_of")
        return not len(late)

    def _same_sort(self, times: Times, as_of: Moment) -> bool:
        zoned = times.offsets is not None
        if self._ask.clock.zone is not None or zoned == as_of.zoned:
            return True
        has, events = ("a", "none") if as_of.zoned else ("no", "one")
        msg = (
            f"has {has} zone, the events have {events}; write all times alike, or say by "
            'parameters.timezone how to read those without, as in "Europe/Berlin"'
        )
        self._issues.add(Place(("parameters", "as_of"), "parameters.as_of"), msg, "mixed_zones")
        return False

    def _is_observed(self, as_of: Moment) -> bool:
        """Whether recording began before `as_of` wherever it is said."""
        fine = True
        for entry, began in zip(self._entries, self._observed, strict=True):
            if began is None:
                continue
            place = entry.place.at("observed_from")
            if self._ask.clock.zone is None and began.zoned != as_of.zoned:
                msg = "has a zone and as_of has none, or the other way; write all times alike"
                self._issues.add(place, msg, "mixed_zones")
                fine = False
            elif as_of.is_before(began):
                msg = f"{began.written()} is after as_of, {as_of.written()}"
                self._issues.add(place, msg, "not_before_as_of")
                fine = False
        return fine

    # --- customers

    def _customers(self, columns: "_Columns", as_of: Moment) -> list[Customer]:
        seen = None  # by the clock of each event; None if all have that of as_of
        if self._ask.clock.zone is None and columns.times.offsets is not None:
            seen = columns.times.seen_from(as_of)
        return [
            self._customer(number, columns, as_of, seen) for number in range(len(self._entries))
        ]

    def _customer(
        self, number: int, columns: "_Columns", as_of: Moment, seen: FloatArray | None
    ) -> Customer:
        part, began = slice(*self._starts[number : number + 2].tolist()), self._observed[number]
        days, moment = columns.times.days[part], as_of.days
        if seen is not None and len(days):  # where the customer was last, and what day it was there
            moment = float(seen[part][np.argmax(days)])
        if columns.times.offsets is not None:
            days = np.minimum(days, moment - LEAST_DAYS_AGO)
        return customer_of(
            days,
            columns.types[part],
            as_of=moment,
            amounts=columns.amounts[part],
            quantities=columns.quantities[part],
            items=columns.items[part],
            categories=columns.categories[part],
            observed_from=None if began is None else began.days,
            most_events=self._limits.max_events,
        )

    # --- warnings

    def _warn_of_types(self, raw: Sequence[str]) -> None:
        """A misspelt type would count as another one in silence."""
        unknown = sorted(set(raw) - CODES.keys())[:MOST_TYPES_LOOKED_AT]
        meant = {each: hint for each in unknown if (hint := near(each))}
        for name in list(meant)[:MOST_TYPES_TOLD]:
            place = self._place(raw.index(name), "type")
            msg = f"{place.words}: {name!r} counts as other; did you mean {meant[name]!r}?"
            self._warnings.append(Issue(place.loc, msg, "unknown_type"))

    def _warn_of_cuts(self, inputs: Sequence[CustomerInput]) -> None:
        for entry, each in zip(self._entries, inputs, strict=True):
            if each.customer.truncated:
                place = entry.place.at("events")
                msg = f"has {len(entry.events):,} events; the latest {self._limits.max_events:,} "
                msg = f"{place.words}: {msg}were used, what came before was counted"
                self._warnings.append(Issue(place.loc, msg, "truncated"))


@dataclass(frozen=True, slots=True, eq=False)
class _Columns:
    times: Times
    types: NDArray[np.int8]
    amounts: FloatArray
    quantities: FloatArray
    items: Ints
    categories: Ints


class _Numbers(dict[object, int]):
    """The number of a name, reckoned once."""

    def __missing__(self, name: object) -> int:
        text = "" if name is None else str(name)
        if len(text) > LONGEST_NAME:
            raise _LongNameError
        number = self[name] = NOT_A_NAME if name is None else number_of(text)
        return number


class _LongNameError(Exception):
    """A name is longer than is taken."""


def _no_time(raw: object) -> str:
    if raw is None:
        return 'is missing; send a time in ISO 8601 such as "2026-09-01T10:00:00"'
    return f'must be a time in ISO 8601 such as "2026-09-01T10:00:00", not {shown(raw)}'
