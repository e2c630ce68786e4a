"""Fit the factors by which intervals are widened, by season, on the development quarters.

    python benchmarks/calibration.py CHECKPOINT --data DIR            # prints them
    python benchmarks/calibration.py CHECKPOINT --data DIR --write    # and notes them in its config

Three origins a series, a horizon apart, of the sets of accuracy.py and of the grocer's articles in
shops.py. For the levels 0.75, 0.9 and 0.95, and those below on their own, the factor is sought at
which outcomes fall outside as often as the levels say, by the randomised PIT; rows whose season was
taken out have their own; sets of one kind count the same, and what few sets say is drawn towards 1.
Months, quarters and years have one factor for both sides: which side is too narrow there says where
the trend of those years went.
"""

from __future__ import annotations

import argparse
import json
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from accuracy import Case, Collection, competitions, part, shops
from numpy.typing import NDArray
from shopdata import daily_articles, grocer, weekly_articles

from models.base import Series, SeriesTask
from models.calibration import ADJUSTED, Calibration, kind_of
from models.metrics import Pit, grain_of, pit, pooled
from models.seasonal import adjust, season_lengths
from models.series import SeriesNetwork

if TYPE_CHECKING:
    from collections.abc import Sequence

Floats = NDArray[np.float64]
Flags = NDArray[np.bool_]
LEVELS = (0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95)
ORIGINS = 3
PRIOR_SETS = 1.0  # sets that would have said 1
TRENDING = ("12", "4", "none")
FEWEST = 25  # windows of a set that have a say
GRID = np.round(np.arange(0.5, 2.0, 0.02), 2)


@dataclass(frozen=True, slots=True, eq=False)
class Answers:
    """What was forecast and what came: quantiles (windows, levels, steps), truth (windows, steps).

    counted, adjusted: (windows,), whether whole numbers are forecast, a season was taken out.
    """

    quantiles: Floats
    truth: Floats
    counted: Flags
    adjusted: Flags

    def take(self, chosen: Flags) -> Answers:
        return Answers(
            self.quantiles[chosen], self.truth[chosen], self.counted[chosen], self.adjusted[chosen]
        )

    def pit(self, factor: float) -> Pit:
        """Where outcomes lie in intervals that are so much wider on both sides."""
        median = self.quantiles[:, [LEVELS.index(0.5)]]
        moved = (median + factor * (self.quantiles - median)).transpose(1, 0, 2)
        return pooled(
            [
                pit(
                    self.truth[rows].ravel(),
                    moved[:, rows].reshape(len(LEVELS), -1),
                    LEVELS,
                    grain=g,
                )
                for rows, g in ((self.counted, 1.0), (~self.counted, 0.0))
            ]
        )


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


def answers(network: SeriesNetwork, collection: Collection) -> Answers:
    """Every window of a set, a horizon apart."""
    seasons, found = season_lengths(collection.freq), []
    for origin in range(ORIGINS):
        for case in collection.cases:
            horizon, whole = len(case.truth), np.concatenate([case.past, case.truth])
            end = len(case.past) - origin * horizon
            if end >= max(8, 2 * collection.season):
                found.append((whole[:end], whole[end : end + horizon]))
    quantiles: list[Floats] = []
    for start in range(0, len(found), 64):
        tasks = [
            SeriesTask((Series(past[None], season_lengths=seasons),), len(truth), LEVELS)
            for past, truth in found[start : start + 64]
        ]
        quantiles += [result[0].quantiles[0] for result in network.predict(tasks)]
    return Answers(
        np.array(quantiles),
        np.array([truth for _, truth in found]),
        np.array([grain_of(past) > 0 for past, _ in found]),
        np.array([adjust(past[None], [seasons]).found[0] for past, _ in found]),
    )


def fit(sets: Sequence[Answers], *, apart: bool) -> list[float]:
    """Factors below and above the median: outcomes lie out as often as levels say, sets alike.

    apart: each side has its own.
    """
    sides = (LEVELS[:3], LEVELS[4:]) if apart else (LEVELS[:3] + LEVELS[4:],) * 2
    return [_factor(sets, side, apart=apart) for side in sides]


def _factor(sets: Sequence[Answers], levels: Sequence[float], *, apart: bool) -> float:
    miss = np.empty(len(GRID))
    for place, factor in enumerate(GRID):
        pits = [one.pit(factor) for one in sets]
        off = np.mean([[each.below(level) - level for level in levels] for each in pits], axis=0)
        if not apart:  # of an interval, the two sides together
            off = off[: len(off) // 2] - off[: len(off) // 2 - 1 : -1]
        miss[place] = np.square(off).sum()
    raw = float(GRID[miss.argmin()])
    return round(1 + (raw - 1) * len(sets) / (len(sets) + PRIOR_SETS), 2)


def kinds(found: Sequence[tuple[str, Answers]]) -> dict[str, list[Answers]]:
    """Sets by what their factors are kept under, those with a season taken out apart."""
    answer: dict[str, list[Answers]] = defaultdict(list)
    for kind, each in found:
        for name, chosen in ((kind, ~each.adjusted), (kind + ADJUSTED, each.adjusted)):
            if chosen.sum() >= FEWEST:
                answer[name].append(each.take(chosen))
    return answer


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--data", type=Path, help="directory of shop data sets")
    parser.add_argument("--write", action="store_true", help="note them in the config.json")
    options = parser.parse_args()
    network = SeriesNetwork.load(options.checkpoint, dtype="float32")
    network._calibration = Calibration({})  # noqa: SLF001 - it is what is fitted here
    sets = competitions() + articles() + (shops(options.data) if options.data else [])
    found = []
    for collection in sets:
        kind = kind_of(season_lengths(collection.freq))
        found.append((kind, answers(network, part(collection, final=False, limit=None))))
    factors = {
        kind: fit(sets, apart=kind.removesuffix(ADJUSTED) not in TRENDING)
        for kind, sets in sorted(kinds(found).items())
    }
    print(json.dumps(factors))
    if options.write:
        path = options.checkpoint / "config.json"
        config = json.loads(path.read_text())
        config.setdefault("shopcast", {})["calibration"] = factors
        path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")


if __name__ == "__main__":
    main()
