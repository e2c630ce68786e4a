"""Stock-outs in a history: taken as sold out at zero, as missing, or as a lower bound.

    python benchmarks/censoring.py --data DIR           # development quarter
    python benchmarks/censoring.py --data DIR --final   # the other three quarters, recorded

The sets and the quarters are those of inventory.py. A shop with a lead time of one period orders
up to a little more than two periods' mean demand, so that it runs out in about a quarter of all
periods; what it sold, and when it ran out, is the history. The last 8 periods, in which nothing is
short, are forecast from it in four ways, and from the true demand, which nobody knows.

bias: of the mean forecast, over the demand that came. error: of the median, absolute, over demand.
"""

from __future__ import annotations

import argparse
import json
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from accuracy import stamp
from inventory import AHEAD, RESULTS, Floats, Sales, sets

from models.base import Series, SeriesTask
from models.checkpoint import shipped
from models.seasonal import season_lengths
from models.series import SeriesNetwork

if TYPE_CHECKING:
    from numpy.typing import NDArray

LEAST_MEAN = 2.0  # units a period; rarer sales say little of a stock-out
GENEROSITY = 1.1


def short_of_stock(demand: Floats) -> tuple[Floats, NDArray[np.bool_]]:
    """What a shop sells that orders too little, and the periods in which it runs out."""
    level = np.ceil(GENEROSITY * 2 * demand.mean(axis=1))
    stock, coming = level / 2, level / 2
    sold = np.empty_like(demand)
    for period in range(demand.shape[1]):
        stock = stock + coming
        sold[:, period] = np.minimum(stock, demand[:, period])
        stock = stock - sold[:, period]
        coming = np.maximum(level - stock, 0) / 2  # half of what is missing is delivered
    return sold, sold < demand


def ways(demand: Floats) -> dict[str, tuple[Floats, NDArray[np.bool_] | None]]:
    sold, short = short_of_stock(demand)
    return {
        "true demand": (demand, None),
        "zero": (np.where(short, 0.0, sold), None),
        "as sold": (sold, None),
        "missing": (np.where(short, np.nan, sold), None),
        "censored": (sold, short),
    }


def score(network: SeriesNetwork, sales: Sales) -> dict[str, dict[str, float]]:
    chosen = sales.sold[sales.sold.mean(axis=1) >= LEAST_MEAN]
    past, truth = chosen[:, :-AHEAD], chosen[:, -AHEAD:]
    seasons = season_lengths(sales.freq)
    answer = {}
    for name, (history, short) in ways(past).items():
        made = []
        for row in range(len(history)):
            flags = None if short is None else short[row]
            series = Series(history[row : row + 1], (), seasons, True, flags)
            made.append(SeriesTask((series,), AHEAD, (0.5,)))
        results = [
            result[0]
            for start in range(0, len(made), 16)
            for result in network.predict(made[start : start + 16])
        ]
        mean = np.stack([each.mean[0] for each in results])
        median = np.stack([each.quantiles[0, 0] for each in results])
        answer[name] = {
            "bias": float(mean.sum() / truth.sum() - 1),
            "error": float(np.abs(median - truth).sum() / truth.sum()),
        }
        if short is not None:
            answer[name]["out_of_stock"] = float(short.mean())
            answer[name]["items"] = len(history)
    return answer


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, help="directory of shop data sets")
    parser.add_argument("--final", action="store_true", help="the other three quarters; recorded")
    parser.add_argument("--limit", type=int, help="at most so many items a set")
    parser.add_argument("--set", nargs="*", help="only these sets")
    options = parser.parse_args()
    network = SeriesNetwork.load(shipped("series"), dtype="float32", threads=1)
    found = {}
    for sales in sets(options.data, final=options.final):
        if options.set and sales.name not in options.set:
            continue
        kept = Sales(sales.name, sales.freq, (), sales.sold[: options.limit], 0, 0)
        found[sales.name] = score(network, kept)
        print(sales.name, json.dumps(found[sales.name], indent=1), flush=True)
    if options.final:
        path = RESULTS / f"censoring-{datetime.now(UTC):%Y-%m-%d}.json"
        record = {**stamp(final=True, limit=options.limit), **found}
        path.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
