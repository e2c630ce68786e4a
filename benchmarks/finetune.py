"""Fine-tuning on shops: LoRA and full against zero-shot, LightGBM and seasonal naive.

`python benchmarks/finetune.py --data DIR` takes the development quarter of shops.py; `--final`
takes the other three quarters and appends what it found to benchmarks/results/finetune.jsonl.
`--state DIR` keeps the runs, to go on from. `--methods` and, on the development quarter, `--rate`
try others.

Protocol: the gate's windows are the latest of a set; fine-tuning, with the settings a shop gets
that asks for none, sees nothing after they begin: it stops by up to four windows before them and
trains on what lies before those. LightGBM is trained anew before each origin on everything before
it, which is more. The gain is that of the gate, with its 90 % bounds bootstrapped by series, in
which a series that zero-shot misses by more than twice the median counts less; plain_gain is that
of the mean loss. All networks compute in float32.

`--continual FIRST SECOND`: the network tuned to the first set is tuned to the second, with and
without the first one's records replayed, and scored on the first again.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from accuracy import PRETRAINED, ROOT, append, stamp
from shops import ShopSet, part, shop_sets

from models.backtest import NAIVE, Backtest, Method, Plan, network, run, seasonal_naive, summaries
from models.baselines import lightgbm
from models.examples import until
from models.gate import Rules, evened, gain_of, losses_of
from models.metrics import geometric_mean
from models.series import SeriesNetwork
from models.train import Earlier, Trained, TrainSettings, fine_tune
from models.tuning import METHODS as TRAINABLE

if TYPE_CHECKING:
    from collections.abc import Sequence

RESULTS = ROOT / "benchmarks" / "results" / "finetune.jsonl"
#: What is tested of each set; horizons short enough that years of history lie before the windows.
PLANS = {
    "journey_weekly": Plan("W-SAT", horizon=4, origins=3),
    "walmart_weekly_13": Plan("W-FRI", horizon=8, origins=2),
    "restaurants_daily": Plan("D", horizon=28, origins=2, season=7),
}
METHODS = ("lora", "full")
ZERO_SHOT, FOREST = "zero-shot", "LightGBM"
REPLAY = 0.3  # share of the steps in the continual case


@dataclass(frozen=True, slots=True, eq=False)
class Tuned:
    """A fine-tuned checkpoint and how it came about."""

    directory: Path
    trained: Trained


class Bench:
    """The sets, and where runs are kept."""

    def __init__(self, options: argparse.Namespace, state: Path) -> None:
        self.options, self.state = options, state
        self.settings = TrainSettings(seed=options.seed, report_to="", learning_rate=options.rate)

    def sets(self, names: Sequence[str]) -> list[ShopSet]:
        found = {one.name: one for one in shop_sets(self.options.data, names)} if names else {}
        chosen = [replace(found[name], plan=PLANS[name]) for name in names]
        return [part(one, final=self.options.final, limit=self.options.limit) for one in chosen]

    def tuned(
        self,
        shop: ShopSet,
        settings: TrainSettings,
        *,
        base: Path = PRETRAINED,
        base_of: Path | None = None,
        earlier: tuple[Earlier, ...] = (),
        name: str = "",
    ) -> Tuned:
        place = self.state / f"{name or settings.method}-{shop.name}-{settings.seed}"
        trained = fine_tune(
            base,
            shop.records,
            shop.plan,
            place / "out",
            state=place / "state",
            settings=settings,
            base_of=base_of,
            earlier=earlier,
            threads=self.options.threads,
        )
        print(f"    {place.name}: {trained}", flush=True)
        return Tuned(place / "out", trained)

    def method(self, name: str, directory: Path, base: Path | None = None) -> Method:
        threads = self.options.threads
        answering = SeriesNetwork.load(directory, base=base, threads=threads, dtype="float32")
        return Method(name, network(answering))


def scored(bench: Bench, shop: ShopSet) -> tuple[Backtest, dict[str, Tuned]]:
    """All methods on the windows of a set."""
    asked = bench.options.methods
    tuned = {name: bench.tuned(shop, replace(bench.settings, method=name)) for name in asked}
    methods = [Method(NAIVE, seasonal_naive), Method(FOREST, lightgbm(), pooled=True)]
    methods.append(bench.method(ZERO_SHOT, PRETRAINED))
    methods += [bench.method(name, one.directory, PRETRAINED) for name, one in tuned.items()]
    return run(shop.records, methods, shop.plan), tuned


def rows(test: Backtest, tuned: dict[str, Tuned]) -> dict[str, dict[str, object]]:
    """What is reported of each method."""
    before = losses_of(test, ZERO_SHOT)
    found: dict[str, dict[str, object]] = {}
    for row in summaries(test):
        losses = losses_of(test, row.method)
        plain = gain_of(losses, before, Rules())
        gain = gain_of(evened(losses, before), evened(before, before), Rules())
        found[row.method] = {
            "mase": round(row.mase, 4),
            "wql": round(row.wql, 4),
            "scaled_pinball": round(row.scaled_pinball, 4),
            "relative_mase": round(row.relative_mase, 4),
            "relative_wql": round(row.relative_wql, 4),
            "coverage_80": round(row.coverage[0.8], 3) if row.coverage else None,
            "gain": [round(each, 4) for each in (gain.low, gain.gain, gain.high)],
            "plain_gain": [round(each, 4) for each in (plain.low, plain.gain, plain.high)],
            "seconds": round(row.seconds, 1),
        }
        if row.method in tuned:
            found[row.method] |= _cost(tuned[row.method])
    return found


def _cost(one: Tuned) -> dict[str, object]:
    trained = one.trained
    return {
        "steps": trained.steps,
        "steps_done": trained.steps_done,
        "trained": trained.trained,
        "parameters": trained.parameters,
        "part": trained.part,
        "around": trained.around,
        "cpu_minutes": round(trained.cpu_seconds / 60, 2),
        "minutes": round(trained.seconds / 60, 2),
        "validation": {name: round(value, 5) for name, value in trained.scores.items()},
    }


def means(sets: dict[str, dict[str, dict[str, object]]]) -> dict[str, dict[str, float]]:
    """Over sets, the geometric mean of each method's error relative to seasonal naive."""
    names = next(iter(sets.values()))
    return {
        name: {
            field: round(
                geometric_mean(
                    [
                        float(str(found[name][field])) / float(str(found[NAIVE][field]))
                        for found in sets.values()
                    ]
                ),
                4,
            )
            for field in ("mase", "wql", "scaled_pinball")
        }
        for name in names
    }


def continual(bench: Bench, first: ShopSet, second: ShopSet) -> dict[str, dict[str, object]]:
    """Tuned to one shop, then to another: the error on the first, by how the second was learned."""
    settings = bench.settings
    start = bench.tuned(first, settings)
    known = until(first.records, first.plan.offsets[0])
    earlier = (Earlier(known, first.plan.freq, first.plan.horizon),)
    ways = {
        "without replay": bench.tuned(
            second,
            replace(settings, replay=0.0),
            base=start.directory,
            base_of=PRETRAINED,
            name="forgetful",
        ),
        "with replay": bench.tuned(
            second,
            replace(settings, replay=REPLAY),
            base=start.directory,
            base_of=PRETRAINED,
            earlier=earlier,
            name="replaying",
        ),
    }
    methods = [bench.method("before", start.directory, PRETRAINED)]
    methods += [bench.method(name, one.directory) for name, one in ways.items()]
    found: dict[str, dict[str, object]] = {}
    for place, shop in (("first", first), ("second", second)):
        for row in summaries(run(shop.records, methods, shop.plan)):
            scores = {"mase": round(row.mase, 4), "scaled_pinball": round(row.scaled_pinball, 4)}
            found.setdefault(row.method, {})[place] = scores
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--final", action="store_true", help="three quarters; is recorded")
    parser.add_argument("--data", type=Path, required=True, help="directory of the shop data sets")
    parser.add_argument("--only", nargs="*", default=list(PLANS), help="these sets, or none")
    parser.add_argument("--limit", type=int, default=400, help="at most so many series a set")
    parser.add_argument("--methods", nargs="+", choices=TRAINABLE, default=list(METHODS))
    parser.add_argument("--rate", type=float, help="learning rate, to develop on")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--state", type=Path, help="directory that keeps the runs")
    parser.add_argument("--continual", nargs=2, choices=list(PLANS), help="one set after another")
    options = parser.parse_args()
    if options.final and options.rate is not None:
        parser.error("--final is of the rates that a shop gets")
    torch.set_num_threads(options.threads)
    with tempfile.TemporaryDirectory() as temporary:
        report(Bench(options, options.state or Path(temporary)))


def report(bench: Bench) -> None:
    """Run everything, print it, and keep it if it is final."""
    options, sets = bench.options, {}
    for shop in bench.sets(options.only):
        print(f"{shop.name}: {len(shop.records)} series, {shop.plan}", flush=True)
        sets[shop.name] = rows(*scored(bench, shop))
        for name, row in sets[shop.name].items():
            print(f"    {name:16s} {json.dumps(row)}", flush=True)
    found: dict[str, object] = {"means": means(sets), "sets": sets} if sets else {}
    if options.continual:
        pair = bench.sets(options.continual)
        found["continual"] = {"sets": options.continual} | continual(bench, *pair)
    print(json.dumps({key: value for key, value in found.items() if key != "sets"}, indent=1))
    if options.final:
        settings = asdict(bench.settings)
        said = stamp(final=True, limit=options.limit) | {"seed": options.seed}
        append(RESULTS, said | {"settings": settings} | found)


if __name__ == "__main__":
    main()
