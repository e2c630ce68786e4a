"""Fit the factors by which intervals are widened, by season, on the development quarters.

    python benchmarks/calibration.py CHECKPOINT --data DIR            # prints them
    python benchmarks/calibration.py CHECKPOINT --data DIR --write    # and notes them in its config

Three origins a series, a horizon apart, of the sets of accuracy.py and of the grocer's articles in
shops.py. For the levels 0.75, 0.9 and 0.95, and those below, the factor is sought at which outcomes
fall outside as often as the levels say; sets of one season count the same, and what few sets say is
drawn towards 1. Whole numbers are spread over their unit, as the randomised PIT does.
"""

from __future__ import annotations

import argparse
import json
from collections import defaultdict
from pathlib import Path

import numpy as np
from accuracy import Case, Collection, competitions, part, shops
from numpy.typing import NDArray
from shopdata import daily_articles, grocer, weekly_articles

from models.base import Series, SeriesTask
from models.calibration import LEAST, MOST, Calibration, kind_of
from models.metrics import grain_of
from models.seasonal import season_lengths
from models.series import SeriesNetwork

Floats = NDArray[np.float64]
LEVELS = (0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95)
ORIGINS = 3
PRIOR_SETS = 1.0  # sets that would have said 1
GRID = np.round(np.arange(LEAST, MOST, 0.01), 2)


def articles() -> list[Collection]:
    """Days and weeks of the grocer's articles, those of shops.py."""
    data = grocer()
    kinds = (
        ("D", 7, 28, daily_articles(data, 200, tested=3 * 28)),
        ("W", 1, 4, weekly_articles(data, 400, tested=3 * 4)),
    )
    return [
        Collection(
            "journey",
            freq,
            season,
            tuple(Case(one.item, one.target[:-horizon], one.target[-horizon:]) for one in records),
        )
        for freq, season, horizon, records in kinds
    ]


def reaches(network: SeriesNetwork, collection: Collection) -> Floats:
    """(outcomes, levels) distance to the median over that of each quantile, below and above."""
    rng = np.random.default_rng(0)
    seasons, found = season_lengths(collection.freq), []
    for origin in range(ORIGINS):
        for start in range(0, len(collection.cases), 64):
            tasks, truths = [], []
            for case in collection.cases[start : start + 64]:
                horizon = len(case.truth)
                whole = np.concatenate([case.past, case.truth])
                end = len(case.past) - origin * horizon
                if end < max(8, 2 * collection.season):
                    continue
                past, truth = whole[:end], whole[end : end + horizon]
                series = Series(past[None], season_lengths=seasons)
                tasks.append(SeriesTask((series,), horizon, LEVELS))
                truths.append(truth + grain_of(past) * rng.uniform(-0.5, 0.5, horizon))
            answers = network.predict(tasks) if tasks else []
            found += [_reach(a[0].quantiles[0], t) for a, t in zip(answers, truths, strict=True)]
    return np.concatenate(found)


def _reach(quantiles: Floats, truth: Floats) -> Floats:
    """(steps, levels) how far out the truth lies, in distances of each quantile."""
    apart = quantiles[[0, 1, 2, 4, 5, 6]] - quantiles[3]
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray(np.where(apart != 0, (truth - quantiles[3]) / apart, np.inf).T)


def fit(sets: list[Floats]) -> float:
    """The factor at which as many outcomes lie further out as the levels say, over sets alike."""
    beyond = np.array([0.05, 0.1, 0.25, 0.25, 0.1, 0.05])
    shares = [(one[None] > GRID[:, None, None]).mean(axis=1) for one in sets]  # (factors, levels)
    both = np.mean(shares, axis=0) - beyond
    miss = ((both[:, :3] + both[:, :2:-1]) ** 2).sum(axis=1)  # the two sides of an interval
    raw = float(GRID[miss.argmin()])
    return round(1 + (raw - 1) * len(sets) / (len(sets) + PRIOR_SETS), 2)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--data", type=Path, help="directory of shop data sets")
    parser.add_argument("--write", action="store_true", help="note them in the config.json")
    options = parser.parse_args()
    network = SeriesNetwork.load(options.checkpoint, dtype="float32")
    network._calibration = Calibration({})  # noqa: SLF001 - it is what is fitted here
    found = defaultdict(list)
    sets = competitions() + articles() + (shops(options.data) if options.data else [])
    for collection in sets:
        kind = kind_of(season_lengths(collection.freq))
        found[kind].append(reaches(network, part(collection, final=False, limit=None)))
    factors = {kind: fit(sets) for kind, sets in sorted(found.items())}
    print(json.dumps(factors))
    if options.write:
        path = options.checkpoint / "config.json"
        config = json.loads(path.read_text())
        config.setdefault("shopcast", {})["calibration"] = factors
        path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")


if __name__ == "__main__":
    main()
