"""What comes back from a data set is what was put into it."""

from typing import Any

import numpy as np
import pandas as pd
import pytest

from app.contents import EventContents, SeriesContents
from app.moments import Clock
from models.customers import customer_of, population_of
from tests.app.test_intake import EVENTS, LINES, Take, made, take

__all__ = ["take"]

ORDERS = "\n".join(["customer,date,amount", *EVENTS])


def series(take: Take, content: list[str] | str, **columns: Any) -> SeriesContents:
    facts = take(content, **columns).facts
    return SeriesContents(made(take), facts["freq"], facts["columns"])


def test_series_come_back_on_their_calendar(take: Take) -> None:
    holes = [line for n, line in enumerate(LINES) if n not in {3, 4}]
    contents = series(take, holes, known_future=["price"], past_only=["promo", "brand"])
    records = contents.records()
    assert contents.freq == "W-MON"
    one = {record.item: record for record in records}["a"]
    assert one.times.equals(pd.date_range("2026-01-05", periods=50, freq="W-MON"))
    assert np.isnan(one.target[3:5]).all()
    assert one.target[5:].tolist() == list(range(5, 50))
    price, promo, brand = one.covariates
    assert (price.future is not None, promo.future, brand.future) == (True, None, None)
    assert price.past[5] == pytest.approx(11.9)
    assert brand.past[2:6].tolist() == ["Xa", None, None, "Xa"]
    assert len(contents.records(most_series=2)) == 2


def test_series_come_back_ready_to_be_forecast(take: Take) -> None:
    silent = [f"new,{line.split(',', 1)[1]}" for line in LINES[50:60]]
    contents = series(take, [*LINES, *silent], known_future=["price", "promo"])
    histories = contents.histories(0, 4, prediction_length=4)
    assert sorted(each.item for each in histories) == ["a", "b", "c"]
    price, _promo = histories[0].covariates
    assert price.future is not None
    assert price.future.tolist() == pytest.approx([11.9, 9.9, 10.9, 11.9])
    far = contents.histories(0, 4, prediction_length=11)[0]
    assert [each.future for each in far.covariates] == [None, None]  # known for ten periods alone
    contents.close()


@pytest.mark.parametrize("freq", ["MS", "ME", "QS", "B", "h", "15min", "D"])
def test_every_calendar_comes_back(take: Take, freq: str) -> None:
    times = pd.date_range("2024-01-01", periods=40, freq=freq)
    lines = [f"{item},{time.isoformat()},{n}" for item in "ab" for n, time in enumerate(times)]
    del lines[5]
    contents = series(take, "\n".join(["sku,at,units", *lines]), timestamp="at")
    one = {record.item: record for record in contents.records()}["a"]
    assert contents.freq.split("-")[0] == freq
    assert one.times.equals(times)
    assert np.flatnonzero(np.isnan(one.target)).tolist() == [5]


def test_customers_come_back(take: Take) -> None:
    facts = take(ORDERS, "events").facts
    contents = EventContents(made(take), facts["end"])
    as_of = contents.until()
    population = contents.population(as_of)
    assert as_of.written() == "2026-09-16T11:00:00"
    assert len(population) == 130
    table = pd.DataFrame([each.split(",") for each in EVENTS], columns=["who", "at", "amount"])
    days = (pd.to_datetime(table["at"]) - pd.Timestamp(0)) / pd.Timedelta(days=1)
    expected = {}
    for who, rows in table.groupby("who"):
        expected[who] = customer_of(
            np.asarray(days[rows.index], dtype=np.float64),
            np.full(len(rows), 4, dtype=np.int8),
            as_of=as_of.days,
            amounts=rows["amount"].to_numpy(dtype=np.float64),
        )
    names = [name for name, _ in contents.customers(0, 130, as_of, most_events=99)]
    same = population_of([expected[name] for name in names])
    for name in ("starts", "days_ago", "types", "amounts", "spend", "purchase_days"):
        assert np.array_equal(getattr(population, name), getattr(same, name), equal_nan=True), name
    assert len(contents.population(as_of, most_customers=50)) == 50
    early = Clock().moment("2026-03-01")
    assert len(contents.population(early)) < 130
    with pytest.raises(ValueError, match="nobody has an event before 2020-01-01"):
        contents.population(Clock().moment("2020-01-01"))
