"""Files of events: what is guessed is told, what cannot be read is refused by its line."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from app.errors import InvalidInputError
from app.event_tables import EventColumns, EventTable, days_of, iso_of, read_events
from models.base import EVENT_TYPES

LINES = """user_id,event_time,event_type,amount,product_id
b,2026-01-02 10:00,buy,5.5,i1
a,2026-01-03 09:00,view,,i2
b,2026-01-01 10:00,view,,i1
a,2026-01-05 09:30,purchase,7,
b,2026-01-04 12:00,newsletter,,
"""


def read(path: Path, text: str, **columns: Any) -> EventTable:
    path = path / "events.csv"
    path.write_text(text)
    return read_events(path, EventColumns(**columns))


def test_events_are_sorted_by_customer_and_time(tmp_path: Path) -> None:
    table = read(tmp_path, LINES)
    assert table.customers == ("b", "a")
    assert table.starts.tolist() == [0, 3, 5]
    times = [iso_of(each) for each in table.days]
    assert times[:3] == ["2026-01-01T10:00:00", "2026-01-02T10:00:00", "2026-01-04T12:00:00"]
    types = [EVENT_TYPES[each] for each in table.types]
    assert types == ["view", "purchase", "other", "view", "purchase"]
    assert table.amounts[1] == 5.5
    assert np.isnan(table.amounts[0])
    assert table.items == ["i1", "i1", None, "i2", None]
    columns, *words = table.notes
    assert columns == (
        "customer = user_id, time = event_time, type = event_type, amount = amount, "
        "item = product_id"
    )
    assert words == [
        "'buy' in event_type means purchase",
        "'newsletter' in event_type counts as other",
    ]


def test_a_file_without_types_is_of_purchases_and_refunds(tmp_path: Path) -> None:
    text = "customer,date,value,qty\n1,2026-01-01,10,1\n1,2026-01-09,-10,-1\n"
    table = read(tmp_path, text)
    assert [EVENT_TYPES[each] for each in table.types] == ["purchase", "refund"]
    assert table.amounts.tolist() == [10, 10]
    assert table.notes[0].endswith("every row a purchase")
    assert table.notes[1] == "1 rows below zero are taken as refunds"


def test_parquet_and_names_of_columns(tmp_path: Path) -> None:
    rows = pd.DataFrame(
        {"who": [7, 7], "when": pd.to_datetime(["2026-01-01T10:00Z"] * 2), "paid": [1.0, 2.0]}
    )
    rows.to_parquet(tmp_path / "events.parquet")
    columns = EventColumns(customer="who", time="when", amount="paid")
    table = read_events(tmp_path / "events.parquet", columns)
    assert table.customers == ("7",)
    assert table.days.tolist() == [days_of("2026-01-01T10:00")] * 2


def test_only_what_came_before_is_known(tmp_path: Path) -> None:
    known = read(tmp_path, LINES).before(days_of("2026-01-03"))
    assert known.names == ["b"]
    assert known.events.tolist() == [2]
    (one,) = known.customers(most_events=10)
    assert one.days_ago.tolist() == pytest.approx([1 + 14 / 24, 14 / 24])
    assert one.purchase_days == 1
    (sent,) = known.inputs([0], most_events=1)
    assert sent == {
        "customer_id": "b",
        "events": [
            {"type": "purchase", "at": "2026-01-02T10:00:00", "amount": 5.5, "item_id": "i1"}
        ],
    }


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a,b\n1,2\n", "which column is the customer? name it with --customer-column"),
        ("customer_id,b\n1,2\n", "which column is the time? name it with --time-column"),
        ("customer_id,date\nx,soon\n", "line 2: column 'date' holds 'soon', which is not a date"),
        ("customer_id,date\n,2026-01-01\n", "line 2: no value in 'customer_id'"),
        ("customer_id,date,type\nx,2026-01-01,\n", "line 2: no value in 'type'"),
        ("customer_id,date,amount\nx,2026-01-01,y\n", "line 2: column 'amount' holds 'y'"),
        (
            "customer_id,date,type,amount\nx,2026-01-01,purchase,-1\n",
            "line 2: a purchase below zero",
        ),
    ],
)
def test_what_cannot_be_read_is_refused(tmp_path: Path, text: str, words: str) -> None:
    with pytest.raises(InvalidInputError) as caught:
        read(tmp_path, text)
    assert words in caught.value.issues[0].msg
