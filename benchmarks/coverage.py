"""How often outcomes fall into the intervals, over rolling origins of the competition sets.

`python benchmarks/coverage.py` takes the development quarters of accuracy.py; `--final` the other
three, on which nothing may be chosen, and appends it to benchmarks/results/coverage.jsonl.

Protocol: three windows of a set's horizon, one after the other, the last ending with the data; each
is forecast from all before it, of more than a season. Coverage of the central intervals is that of
the randomised PIT, exact in its mean; pooled over all outcomes, and over sets alike; beside it the
pinball loss at 0.1 to 0.9 in units of seasonal naive's error, over that of seasonal naive. That of
shop sets is printed by shops.py.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from accuracy import PRETRAINED, ROOT, append, competitions, part, stamp

from models.backtest import (
    NAIVE,
    SHARES,
    Method,
    Plan,
    Record,
    network,
    run,
    seasonal_naive,
    summaries,
)
from models.metrics import pooled
from models.series import SeriesNetwork

if TYPE_CHECKING:
    from accuracy import Collection

    from models.backtest import Backtest

RESULTS = ROOT / "benchmarks" / "results" / "coverage.jsonl"
NETWORK = "shopcast:series"


def tested(collection: Collection, answering: SeriesNetwork, *, origins: int) -> Backtest:
    """The network and seasonal naive on a set, whose series all end on the same day."""
    records = []
    for case in collection.cases:
        whole = np.concatenate([case.past, case.truth])
        times = pd.date_range(end="2000-12-31", periods=len(whole), freq=collection.freq)
        records.append(Record(case.name, times, whole))
    horizon = len(collection.cases[0].truth)
    plan = Plan(collection.freq, horizon, origins, season=collection.season)
    methods = [Method(NAIVE, seasonal_naive), Method(NETWORK, network(answering))]
    return run(records, methods, plan)


def rows(test: Backtest) -> dict[str, object]:
    """Coverage in per cent, and the loss."""
    naive, ours = summaries(test)
    return {
        "windows": ours.windows,
        "coverage": {f"{share:.0%}": round(100 * ours.coverage[share], 1) for share in SHARES},
        "relative_scaled_pinball": round(ours.scaled_pinball / naive.scaled_pinball, 4),
    }


def over_all(tests: dict[str, Backtest]) -> dict[str, object]:
    """Pooled over outcomes, the mean of sets, and the set that is furthest off."""
    pits = {
        name: pooled([score.pit for score in test.scores if score.pit is not None])
        for name, test in tests.items()
    }
    everything = pooled(list(pits.values()))
    found: dict[str, object] = {}
    for share in SHARES:
        each = {name: one.coverage(share) for name, one in pits.items()}
        worst = max(each, key=lambda name: abs(each[name] - share))
        found[f"{share:.0%}"] = {
            "pooled": round(100 * everything.coverage(share), 1),
            "mean_of_sets": round(100 * float(np.mean(list(each.values()))), 1),
            "worst": [worst, round(100 * each[worst], 1)],
        }
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--final", action="store_true", help="three quarters; is recorded")
    parser.add_argument("--checkpoint", type=Path, default=PRETRAINED)
    parser.add_argument("--origins", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    answering = SeriesNetwork.load(options.checkpoint, threads=options.threads, dtype="float32")
    tests: dict[str, Backtest] = {}
    for collection in competitions():
        chosen = part(collection, final=options.final, limit=None)
        tests[chosen.name] = tested(chosen, answering, origins=options.origins)
        print(f"{chosen.name:20s} {json.dumps(rows(tests[chosen.name]))}", flush=True)
    everything = over_all(tests)
    print(json.dumps(everything, indent=1))
    if options.final:
        said = stamp(final=True, limit=None) | {"origins": options.origins, "all": everything}
        append(RESULTS, said | {"sets": {name: rows(test) for name, test in tests.items()}})


if __name__ == "__main__":
    main()
