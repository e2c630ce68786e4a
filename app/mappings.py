"""Which column of a data set is what, as a caller says it.

Invariant: a word that is not known is refused with the nearest that is, and what is left out is
guessed by the same rules as for the command line.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any, Literal

from app.errors import InvalidInputError, Issue
from app.event_tables import EventColumns
from app.tables import Columns

Kind = Literal["series", "events"]
KINDS: tuple[Kind, ...] = ("series", "events")
SERIES_WORDS = (
    *("item_id", "timestamp", "target", "known_future", "past_only", "segment", "date_format"),
)
EVENT_WORDS = (
    *("customer_id", "at", "type", "amount", "quantity", "item_id", "category"),
    *("segment", "date_format"),
)
#: How a caller says what is not guessed.
WAYS = {
    "time": "`columns.timestamp`",
    "target": "`columns.target`",
    "item": "`columns.item_id`",
    "customer": "`columns.customer_id`",
    "date_format": "`columns.date_format`",
    "freq": "`freq`",
}
EVENT_WAYS = WAYS | {"time": "`columns.at`"}


@dataclass(frozen=True, slots=True)
class SeriesMapping:
    """columns: what is said of them. segment: columns by which scores are told apart."""

    columns: Columns
    segment: tuple[str, ...] = ()

    @property
    def extras(self) -> tuple[str, ...]:
        return self.columns.covariates + self.segment


def series_mapping(raw: object) -> SeriesMapping:
    """Of the field `columns`. Raises InvalidInputError."""
    told = _fields(raw, SERIES_WORDS)
    columns = Columns(
        item=_names(told, "item_id"),
        time=_name(told, "timestamp"),
        target=_name(told, "target"),
        known_future=_names(told, "known_future"),
        known_past=_names(told, "past_only"),
        layout="long",
        date_format=_name(told, "date_format"),
    )
    mapping = SeriesMapping(columns, _names(told, "segment"))
    _refuse_twice([*columns.item, columns.time, columns.target, *mapping.extras])
    return mapping


def event_mapping(raw: object) -> EventColumns:
    """Of the field `columns`. Raises InvalidInputError."""
    told = _fields(raw, EVENT_WORDS)
    columns = EventColumns(
        customer=_name(told, "customer_id"),
        time=_name(told, "at"),
        type=_name(told, "type"),
        amount=_name(told, "amount"),
        quantity=_name(told, "quantity"),
        item=_name(told, "item_id"),
        category=_name(told, "category"),
        date_format=_name(told, "date_format"),
        segment=_names(told, "segment"),
    )
    _refuse_twice(columns.asked)
    return columns


def _fields(raw: object, known: Sequence[str]) -> Mapping[str, Any]:
    if raw is None:
        return {}
    if not isinstance(raw, dict):
        raise _wrong((), 'must be an object such as {"item_id": "sku"}')
    for name in raw:
        if name not in known:
            near = get_close_matches(str(name)[:64], known, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"known are {', '.join(known)}"
            raise _wrong((str(name)[:64],), f"there is no such field; {hint}")
    return raw


def _name(told: Mapping[str, Any], field: str) -> str | None:
    value = told.get(field)
    if value is None or (isinstance(value, str) and value):
        return value
    raise _wrong((field,), "must be the name of a column")


def _names(told: Mapping[str, Any], field: str) -> tuple[str, ...]:
    value = told.get(field)
    names = [value] if isinstance(value, str) else value
    if names is None:
        return ()
    if not isinstance(names, list) or not all(isinstance(each, str) and each for each in names):
        raise _wrong((field,), "must be the name of a column, or a list of names")
    return tuple(dict.fromkeys(names))


def _refuse_twice(names: Sequence[str | None]) -> None:
    said = [name for name in names if name is not None]
    for name in said:
        if said.count(name) > 1:
            raise _wrong((), f"column {name!r} is said to be two things")


def _wrong(loc: tuple[str, ...], message: str) -> InvalidInputError:
    words = ".".join(("columns", *loc))
    return InvalidInputError((Issue(("columns", *loc), f"{words}: {message}", "columns"),))
