"""A file of stock as the fields that /predict/inventory takes.

Invariant: a row says what its item has or will get; what cannot be read is named by line and
column, and what contradicts itself is left to the one reader of such fields.
"""

import csv
import math
from collections.abc import Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from app.errors import InvalidInputError, Issue

NUMBERS = (
    *("on_hand", "review_period", "unit_cost", "holding_cost", "stockout_cost", "order_cost"),
    *("min_order_quantity", "order_multiple", "shelf_life"),
)
LEAD_TIMES = {"lead_time": "periods", "lead_time_mean": "mean", "lead_time_std": "std"}
ORDERS = ("on_order", "in_periods", "arrives_on")
COLUMNS = ("item_id", *NUMBERS, *LEAD_TIMES, "unmet_demand", *ORDERS)

Fields = dict[str, Any]


def read_stocks(path: Path) -> dict[str, Fields]:
    """The stock of each item of a CSV. Raises InvalidInputError.

    Columns are those of /predict/inventory, lead_time in periods or lead_time_mean and
    lead_time_std; on_order with in_periods or arrives_on is one order, and further rows of an item
    are further orders.
    """
    with path.open(newline="", encoding="utf-8-sig") as file:
        rows = csv.DictReader(file)
        _check_columns(path, rows.fieldnames or ())
        stocks: dict[str, Fields] = {}
        for row in rows:
            _take(stocks, row, f"{path.name}, line {rows.line_num}")
    if not stocks:
        raise _refuse(f"{path.name} has no row below its header")
    return stocks


def _check_columns(path: Path, found: Sequence[str]) -> None:
    for name in found:
        if name not in COLUMNS:
            near = get_close_matches(name, COLUMNS, n=1)
            hint = f"did you mean {near[0]}?" if near else f"known are {', '.join(COLUMNS)}"
            raise _refuse(f"{path.name}: there is no column {name[:40]!r}; {hint}")
    for name in ("item_id", "on_hand"):
        if name not in found:
            raise _refuse(f"{path.name} needs a column {name}; known are {', '.join(COLUMNS)}")
    if not LEAD_TIMES.keys() & set(found):
        raise _refuse(f"{path.name} needs a column lead_time (periods from order to receipt)")


def _take(stocks: dict[str, Fields], row: dict[str, str], place: str) -> None:
    cells = {name: (text or "").strip() for name, text in row.items() if name}
    item = cells["item_id"]
    if not item:
        raise _refuse(f"{place}: item_id is empty")
    fields = stocks.setdefault(item, {})
    for name in NUMBERS:
        if cells.get(name):
            _set(fields, name, _number(cells[name], name, place), place)
    lead = {
        key: _number(cells[name], name, place)
        for name, key in LEAD_TIMES.items()
        if cells.get(name)
    }
    if lead:
        _set(fields, "lead_time", lead, place)
    if cells.get("unmet_demand"):
        _set(fields, "unmet_demand", cells["unmet_demand"], place)
    if cells.get("on_order"):
        fields.setdefault("on_order", []).append(_order(cells, place))


def _set(fields: Fields, name: str, value: object, place: str) -> None:
    """A further row of an item may repeat what the first says, and not contradict it."""
    if fields.setdefault(name, value) != value:
        raise _refuse(f"{place}: {name} is {value}, an earlier row of the item says {fields[name]}")


def _order(cells: dict[str, str], place: str) -> Fields:
    order: Fields = {"quantity": _number(cells["on_order"], "on_order", place)}
    if cells.get("in_periods"):
        order["in_periods"] = _number(cells["in_periods"], "in_periods", place)
    if cells.get("arrives_on"):
        order["arrives_on"] = cells["arrives_on"]
    return order


def _number(text: str, name: str, place: str) -> int | float:
    try:
        value = float(text)
    except ValueError:
        raise _refuse(f"{place}: {name} is {text[:40]!r}, which is no number") from None
    if not math.isfinite(value):
        raise _refuse(f"{place}: {name} is {text[:40]!r}, which is no number to reckon with")
    return int(value) if value.is_integer() else value


def _refuse(message: str) -> InvalidInputError:
    return InvalidInputError((Issue(("stock",), message, "stock"),))
