"""The grocer's records know no more than a planner does."""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pandas as pd
import pytest

PLACE = Path(__file__).parents[2] / "benchmarks" / "shopdata.py"
DAYS = pd.date_range("2017-01-01", periods=28)
EARLY, LATE = 11, 22  # the article that sells before the test window, and the one within it


@pytest.fixture(scope="module")
def shopdata() -> ModuleType:
    """The benchmarks are scripts beside one another, not a package."""
    spec = importlib.util.spec_from_file_location("shopdata", PLACE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["shopdata"] = module  # as dataclasses look it up
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def grocer(shopdata: ModuleType) -> Any:
    """EARLY sells 3 a day in week 1 and 2 at 2.00 and on one day of week 4 at 1.50."""
    weeks = np.repeat([1, 2, 3, 4], 7)
    rows = [(EARLY, day, weeks[day], 3, 6.0, 0.0) for day in range(14)]
    rows += [(EARLY, 24, 4, 2, 2.0, 1.0), (LATE, 1, 1, 1, 1.0, 0.0)]
    rows += [(LATE, day, 4, 90, 90.0, 0.0) for day in range(21, 28)]
    names = ["product_id", "day", "week", "quantity", "sales_value", "coupon_match_disc"]
    sales = pd.DataFrame(rows, columns=names)
    sales["date"] = DAYS[sales.pop("day")]
    promotions = pd.DataFrame(
        {
            "product_id": EARLY,
            "store_id": [1, 2, 1],
            "display_location": ["0", "3", "0"],
            "mailer_location": ["A", "A", "0"],
            "week": [4, 4, 1],
        }
    )
    return shopdata.Grocer(sales, promotions, 4, DAYS, weeks)


def covariates(record: Any) -> dict[str, np.ndarray]:
    return {one.name: one.past for one in record.covariates}


def test_articles_are_chosen_by_what_sold_before_the_window(
    shopdata: ModuleType, grocer: Any
) -> None:
    (record,) = shopdata.daily_articles(grocer, 1, tested=7)
    assert record.item == f"journey/{EARLY}"
    assert record.target[:14].tolist() == [3.0] * 14
    assert record.target[24] == 2.0
    (record,) = shopdata.weekly_articles(grocer, 1, tested=1)
    assert record.item == f"journey/{EARLY}"
    assert record.target.tolist() == [21.0, 21.0, 0.0, 2.0]
    assert record.times.tolist() == DAYS[6::7].tolist()


def test_prices_are_the_weeks_and_go_on_where_nothing_sold(
    shopdata: ModuleType, grocer: Any
) -> None:
    (record,) = shopdata.daily_articles(grocer, 1, tested=7)
    assert covariates(record)["price"].tolist() == [2.0] * 21 + [1.5] * 7
    (record,) = shopdata.weekly_articles(grocer, 1, tested=1)
    assert covariates(record)["price"].tolist() == [2.0, 2.0, 2.0, 1.5]


def test_promotions_are_shares_of_stores_in_the_week(shopdata: ModuleType, grocer: Any) -> None:
    (record,) = shopdata.daily_articles(grocer, 1, tested=7)
    found = covariates(record)
    assert found["display"].tolist() == [0.0] * 21 + [0.25] * 7
    assert found["mailer"].tolist() == [0.0] * 21 + [0.5] * 7
    assert all(one.future is not None for one in record.covariates)
