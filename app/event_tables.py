"""A user's file of events, CSV or Parquet, a row an event, as customers.

Invariant: every guess about the file is written down in `EventTable.notes`, and whatever is
refused is refused with the line it stands on. Times are those of the file's local clock.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from app.event_types import CODES, NOT_A_NAME, OTHER, REFUND, alias_of, number_of
from app.moments import DAY_S, EPOCH, Clock
from app.tables import (
    Sheet,
    known_columns,
    numbers_of,
    open_sheet,
    quoted,
    refuse,
    text_of,
    times_of,
)
from models.base import EVENT_TYPES, PURCHASE, Customer, FloatArray
from models.customers import customer_of

CUSTOMER_NAMES = (
    "customer_id", "customer", "client_id", "client", "user_id", "user", "visitor_id", "visitorid",
    "household_id", "household_key", "buyer_id", "member_id", "account_id", "cust_id", "uid", "id",
)  # fmt: skip
TIME_NAMES = (
    "at", "event_time", "timestamp", "transaction_timestamp", "purchased_at", "order_date",
    "invoice_date", "invoicedate", "created_at", "datetime", "date", "time", "day", "ts",
)  # fmt: skip
TYPE_NAMES = ("type", "event_type", "event", "action", "behavior", "behaviour")
AMOUNT_NAMES = ("amount", "sales_value", "revenue", "monetary_value", "value", "total", "spend")
QUANTITY_NAMES = ("quantity", "qty", "units")
ITEM_NAMES = ("item_id", "product_id", "article_id", "sku", "stockcode", "item", "product")
CATEGORY_NAMES = ("category", "product_category", "category_id", "category_code", "department")

Ints = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class EventColumns:
    """What the user says about the columns; whatever is left out is guessed."""

    customer: str | None = None
    time: str | None = None
    type: str | None = None
    amount: str | None = None
    quantity: str | None = None
    item: str | None = None
    category: str | None = None
    date_format: str | None = None
    segment: tuple[str, ...] = ()

    @property
    def asked(self) -> tuple[str | None, ...]:
        names = (self.customer, self.time, self.type, self.amount, self.quantity)
        return (*names, self.item, self.category, *self.segment)


@dataclass(frozen=True, slots=True, eq=False)
class EventTable:
    """The events of a file, sorted by customer in the order of their first rows, then by time.

    customers: names. starts: (customers + 1,), the rows of customer i lie at
    starts[i]:starts[i + 1]. The columns are (rows,): days since 1970 by the local clock, indices
    into EVENT_TYPES, NaN where nothing is known, names or None.
    """

    customers: tuple[str, ...]
    starts: Ints
    days: FloatArray
    types: NDArray[np.int8]
    amounts: FloatArray
    quantities: FloatArray
    items: Sequence[str | None]
    categories: Sequence[str | None]
    notes: tuple[str, ...]

    def before(self, as_of_days: float) -> "Known":
        """The customers with an event before a moment, and what they did until then."""
        ends = self.starts[:-1] + np.array(
            [np.searchsorted(self.days[part], as_of_days) for part in self._parts()], dtype=np.int64
        )
        return Known(self, as_of_days, np.flatnonzero(ends > self.starts[:-1]), ends)

    def _parts(self) -> Iterator[slice]:
        pairs = zip(self.starts[:-1].tolist(), self.starts[1:].tolist(), strict=True)
        return (slice(start, end) for start, end in pairs)


@dataclass(frozen=True, slots=True, eq=False)
class Known:
    """Some customers of a table, seen from a moment.

    rows: which of the table's customers have an event before it. ends: (all customers of the
    table,) where theirs end.
    """

    table: EventTable
    as_of_days: float
    rows: Ints
    ends: Ints

    @property
    def names(self) -> list[str]:
        return [self.table.customers[row] for row in self.rows.tolist()]

    @property
    def events(self) -> Ints:
        """(rows,) how many each has."""
        return np.asarray((self.ends - self.table.starts[:-1])[self.rows])

    def customers(self, *, most_events: int) -> list[Customer]:
        items, categories = map(numbered, (self.table.items, self.table.categories))
        table, customers = self.table, []
        for row in self.rows.tolist():
            part = slice(int(table.starts[row]), int(self.ends[row]))
            customers.append(
                customer_of(
                    table.days[part],
                    table.types[part],
                    as_of=self.as_of_days,
                    amounts=table.amounts[part],
                    quantities=table.quantities[part],
                    items=items[part],
                    categories=categories[part],
                    most_events=most_events,
                )
            )
        return customers

    def inputs(self, places: Sequence[int], *, most_events: int) -> list[dict[str, Any]]:
        """The customers at some places of `rows`, as the service takes them.

        No more than the latest events that it reads.
        """
        return [self._input(int(self.rows[place]), most_events) for place in places]

    def _input(self, row: int, most_events: int) -> dict[str, Any]:
        table, end = self.table, int(self.ends[row])
        start = max(int(table.starts[row]), end - most_events)
        events = [_event(table, index) for index in range(start, end)]
        return {"customer_id": table.customers[row], "events": events}


def _event(table: EventTable, index: int) -> dict[str, Any]:
    event: dict[str, Any] = {
        "type": EVENT_TYPES[table.types[index]],
        "at": iso_of(float(table.days[index])),
    }
    numbers = {"amount": table.amounts[index], "quantity": table.quantities[index]}
    event |= {name: float(value) for name, value in numbers.items() if not np.isnan(value)}
    names = {"item_id": table.items[index], "category": table.categories[index]}
    return event | {name: value for name, value in names.items() if value is not None}


def iso_of(days: float) -> str:
    """A local time in ISO 8601, to the millisecond."""
    return (pd.Timestamp(EPOCH) + pd.Timedelta(milliseconds=round(days * DAY_S * 1000))).isoformat()


def days_of(text: str) -> float:
    """Days since 1970 of a local time without a zone. Raises ValueError."""
    moment = Clock().moment(text)
    if moment.zoned:
        raise ValueError("a local time has no offset")
    return moment.days


def read_events(path: Path, columns: EventColumns) -> EventTable:
    """Read a file of events. Raises InvalidInputError, OSError."""
    sheet = open_sheet(path, columns.asked)
    found = event_columns(sheet, columns)
    who, time, kind = str(found.customer), str(found.time), found.type
    amount, quantity, item, category = found.amount, found.quantity, found.item, found.category
    times = times_of(sheet, sheet.cells[time], columns.date_format, name=time)
    if times.dt.tz is not None:
        times = times.dt.tz_localize(None)
    _tell(sheet, customer=who, time=time, type=kind, amount=amount, quantity=quantity,
          item=item, category=category)  # fmt: skip
    types = _types(sheet, kind)
    amounts, quantities = _numbers(sheet, amount), _numbers(sheet, quantity)
    _settle_returns(sheet, types, amounts, quantities, said=kind is not None)
    rows = pd.DataFrame(
        {
            "who": _texts(sheet, who, wanted=True),
            "days": (times - pd.Timestamp(EPOCH)) / pd.Timedelta(days=1),
            "type": types,
            "amount": amounts,
            "quantity": quantities,
            "item": None if item is None else _texts(sheet, item),
            "category": None if category is None else _texts(sheet, category),
        }
    )
    return _sorted(rows, tuple(sheet.notes))


def event_columns(sheet: Sheet, columns: EventColumns) -> EventColumns:
    """The columns of events, those guessed that are not said. Raises InvalidInputError."""
    who = _named(sheet, columns.customer, CUSTOMER_NAMES, "customer")
    time = _named(sheet, columns.time, TIME_NAMES, "time")
    no = (who, *columns.segment)
    kind = columns.type or _guess(sheet, TYPE_NAMES, but=(*no, time))
    amount = columns.amount or _guess(sheet, AMOUNT_NAMES, but=(*no, time))
    quantity = columns.quantity or _guess(sheet, QUANTITY_NAMES, but=(*no, time, amount))
    item = columns.item or _guess(sheet, ITEM_NAMES, but=no)
    category = columns.category or _guess(sheet, CATEGORY_NAMES, but=(*no, item))
    guessed = (who, time, kind, amount, quantity, item, category)
    return EventColumns(*guessed, columns.date_format, columns.segment)


def _sorted(rows: pd.DataFrame, notes: tuple[str, ...]) -> EventTable:
    codes, names = pd.factorize(rows["who"])
    order = np.lexsort((rows["days"].to_numpy(), codes))
    rows, codes = rows.iloc[order], codes[order]
    counts = np.bincount(codes, minlength=len(names))

    def things(name: str) -> list[str | None]:
        return rows[name].astype(object).where(rows[name].notna(), None).tolist()

    return EventTable(
        customers=tuple(map(str, names)),
        starts=np.concatenate(([0], np.cumsum(counts))),
        days=rows["days"].to_numpy(dtype=np.float64),
        types=rows["type"].to_numpy(dtype=np.int8),
        amounts=rows["amount"].to_numpy(dtype=np.float64),
        quantities=rows["quantity"].to_numpy(dtype=np.float64),
        items=things("item"),
        categories=things("category"),
        notes=notes,
    )


def _named(sheet: Sheet, asked: str | None, names: Sequence[str], what: str) -> str:
    found = asked or _guess(sheet, names, but=())
    if found is None:
        message = f"which column is the {what}? name it with {sheet.ways[what]}, one of "
        raise refuse(message + quoted(sheet.cells.columns))
    return found


def _guess(sheet: Sheet, names: Sequence[str], *, but: Sequence[str | None]) -> str | None:
    left = [name for name in sheet.cells.columns if name not in but]
    known = known_columns(left, names)
    return known[0] if known else None


def _tell(sheet: Sheet, **columns: str | None) -> None:
    told = [f"{what} = {name}" for what, name in columns.items() if name is not None]
    if columns["type"] is None:
        told.append("every row a purchase")
    sheet.notes.insert(0, ", ".join(told))


def _types(sheet: Sheet, name: str | None) -> NDArray[np.int8]:
    if name is None:
        return np.full(len(sheet.cells), PURCHASE, dtype=np.int8)
    texts = sheet.cells[name].map(text_of)
    if texts.isna().any():
        message = f"no value in {name!r}, which says what happened"
        raise refuse(message, lines=sheet.lines[texts.isna()], place=sheet.place)
    means = {each: meaning_of(each) for each in texts.unique()}
    sheet.notes += told_meanings(means, name)
    codes = {word: CODES[meant] if meant else OTHER for word, meant in means.items()}
    return texts.map(codes).to_numpy(dtype=np.int8)


def meaning_of(word: str) -> str | None:
    """The known type that a word of a file stands for."""
    return word if word in CODES else alias_of(word)


def told_meanings(means: Mapping[str, str | None], column: str) -> list[str]:
    """What is to be said of words that are not those of the contract."""
    told = []
    for word, meant in sorted(means.items()):
        if meant is None:
            told.append(f"{word!r} in {column} counts as other")
        elif meant != word:
            told.append(f"{word!r} in {column} means {meant}")
    return told


def _numbers(sheet: Sheet, name: str | None) -> FloatArray:
    if name is None:
        return np.full(len(sheet.cells), np.nan)
    return numbers_of(sheet, name, wanted="a number").copy()


def _settle_returns(
    sheet: Sheet,
    types: NDArray[np.int8],
    amounts: FloatArray,
    quantities: FloatArray,
    *,
    said: bool,
) -> None:
    """What is below zero came back: an event of its own where the file has no types."""
    below = (types == PURCHASE) & ((amounts < 0) | (quantities < 0))
    if below.any() and said:
        message = "a purchase below zero; what comes back is an event of type refund"
        raise refuse(message, lines=sheet.lines[below], place=sheet.place)
    if below.any():
        sheet.notes.append(f"{int(below.sum()):,} rows below zero are taken as refunds")
        types[below] = REFUND
    came_back = types == REFUND
    for values in (amounts, quantities):
        values[came_back] = np.abs(values[came_back])


def _texts(sheet: Sheet, name: str, *, wanted: bool = False) -> pd.Series:
    texts = sheet.cells[name].map(text_of)
    if wanted and texts.isna().any():
        message = f"no value in {name!r}, which tells customers apart"
        raise refuse(message, lines=sheet.lines[texts.isna()], place=sheet.place)
    return texts


def numbered(names: Sequence[str | None]) -> Ints:
    """(rows,) a number for each name, the same for ever, as the service has it."""
    codes, unique = pd.factorize(np.array(names, dtype=object))
    numbers = np.array([*(number_of(str(each)) for each in unique), NOT_A_NAME], dtype=np.int64)
    return numbers[codes]  # -1 takes the last
