"""The gate: whether a candidate is so much better than production that it may take its place.

All are scored on the same windows, which none of them has trained on. Better means that the lower
bound of the gain, bootstrapped by series, beats a margin: series are drawn anew, not windows, since
the windows of one series err together (Efron and Tibshirani, 1993, An Introduction to the
Bootstrap, section 8). `judge` scores forecasts of series; `decide` is for whatever has losses by
what is drawn anew, customers as well (models/gate_events.py).

Invariant: the verdict depends on records, plan, forecasters and rules alone, and says in words why
it is what it is.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Generic, TypeVar

import numpy as np
import pandas as pd

from models.backtest import NAIVE, Method, Plan, Record, run, seasonal_naive, summaries
from models.base import FloatArray, ModelError
from models.synth.series import singles

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from models.backtest import Backtest, Forecaster, Summary

#: Series below which nothing can be said of the gain.
LEAST_SERIES = 5
SHARES = (0.8, 0.9)
#: Times the median loss of production beyond which a series counts less.
FAR = 2.0
SEED = 20261125
#: Losses drawn at once: of many customers all draws would not fit the memory.
_AT_ONCE = 1 << 21

StandingT = TypeVar("StandingT")


@dataclass(frozen=True, slots=True)
class Rules:
    """margin: what the lower bound of the gain must beat. confidence: of that bound. draws: of the
    bootstrap. coverage: by how much the central intervals of SHARES, or the probabilities of
    purchases, may be further off than production's. reference: by how much the loss on a reference
    set may be above production's.
    """

    margin: float = 0.0
    confidence: float = 0.9
    draws: int = 2000
    coverage: float = 0.02
    reference: float = 0.02


@dataclass(frozen=True, slots=True, eq=False)
class Reference:
    """A set that a new version must not be worse on: held out of all training, or earlier data."""

    name: str
    records: Sequence[Record]
    plan: Plan


@dataclass(frozen=True, slots=True)
class Gain:
    """1 - candidate's loss / production's, with its bounds, over so many series or customers."""

    gain: float
    low: float
    high: float
    series: int


@dataclass(frozen=True, slots=True)
class Standing:
    """How one forecaster did: scaled_pinball in units of seasonal naive's error decides."""

    scaled_pinball: float
    mase: float
    wape: float
    bias: float
    wql: float
    coverage_80: float | None
    coverage_90: float | None


@dataclass(frozen=True, slots=True)
class Verdict(Generic[StandingT]):
    """accepted: whether every rule holds; reasons: what speaks for it, or the rules that do not,
    and what else a person should know.

    series: or customers. references: loss of the candidate over production's, by name. harmed:
    segments where the whole interval of the gain is below zero; they refuse nothing, but a person
    should see them.
    """

    accepted: bool
    reasons: tuple[str, ...]
    gain: Gain
    margin: float
    scores: dict[str, StandingT]
    references: dict[str, float]
    segments: dict[str, Gain]
    harmed: tuple[str, ...]
    series: int
    windows: int
    first: str  # period of the gate's windows, ISO 8601


def judge(  # noqa: PLR0913 - each is a thing of its own
    records: Sequence[Record],
    plan: Plan,
    forecasters: Mapping[str, Forecaster],
    *,
    production: str = "production",
    candidate: str = "candidate",
    rules: Rules | None = None,
    segments: Mapping[str, str] | None = None,
    references: Sequence[Reference] = (),
    trained_until: Mapping[str, str | None] | None = None,
    on_done: Callable[[str, int], None] = lambda _name, _windows: None,
) -> Verdict[Standing]:
    """Score all on the plan's windows and decide. Raises ModelError, BacktestError.

    forecasters: by name, production and candidate among them; seasonal naive is added. segments: of
    items. trained_until: the last period, ISO 8601, that each has seen of these records. on_done:
    told a name and how many windows it has just answered; it may raise to stop.
    """
    rules = rules or Rules()
    first = _first_period(records, plan)
    verify_lineage(trained_until or {}, first)
    methods = [Method(NAIVE, seasonal_naive)]
    methods += [Method(name, forecast) for name, forecast in forecasters.items()]
    test = run(records, methods, plan, on_done=on_done)
    ours, theirs = losses_of(test, candidate), losses_of(test, production)
    ours, theirs = evened(ours, theirs), evened(theirs, theirs)
    if len(ours) < LEAST_SERIES:
        raise ModelError(
            f"the gate needs {LEAST_SERIES} series that can be tested, here are {len(ours)}; give "
            "more series, or longer ones"
        )
    pairs = {name: forecasters[name] for name in (production, candidate)}
    rows = {row.method: row for row in summaries(test)}
    return decide(
        Contest("series", ours, theirs, rows[candidate].windows, first),
        rules,
        scores={name: _standing(row) for name, row in rows.items()},
        refusals=[
            *_worse_than_naive(rows, candidate),
            *_covers_worse(rows[candidate], rows[production], rules),
        ],
        segments=segments or {},
        references={one.name: _ratio(one, pairs, production, candidate) for one in references},
    )


@dataclass(frozen=True, slots=True, eq=False)
class Contest:
    """Losses of the candidate and of production, by the names of what was foretold: `things`.

    windows: how many forecasts were scored. first: when the earliest of them begins.
    """

    things: str
    ours: Mapping[str, float]
    theirs: Mapping[str, float]
    windows: int
    first: pd.Timestamp


def decide(
    contest: Contest,
    rules: Rules,
    *,
    scores: dict[str, StandingT],
    refusals: Sequence[str],
    segments: Mapping[str, str],
    references: dict[str, float],
    remarks: Sequence[str] = (),
) -> Verdict[StandingT]:
    """Whether the gain is sure, beside what else was found against the candidate.

    remarks: what does not decide.
    """
    gain = gain_of(contest.ours, contest.theirs, rules)
    found = [*_too_little(gain, rules), *refusals, *_forgets(references, rules)]
    by_segment = _by_segment(contest.ours, contest.theirs, segments, rules)
    return Verdict(
        accepted=not found,
        reasons=(*(found or [_praise(gain, rules, contest.things)]), *remarks),
        gain=gain,
        margin=rules.margin,
        scores=scores,
        references=references,
        segments=by_segment,
        harmed=tuple(name for name, part in by_segment.items() if part.high < 0),
        series=len(contest.ours),
        windows=contest.windows,
        first=contest.first.isoformat(),
    )


def simulated(*, series: int = 240, seed: int = 0) -> list[Reference]:
    """Reference sets of simulated days and months, of a seed that no training draws from.

    Of 40 series the ratio of two losses is off by as much as the rules allow (docs/models.md).
    """
    made = []
    for freq, season, horizon, time in (("D", 7, 14, 280), ("MS", 12, 6, 96)):
        rng = np.random.default_rng((SEED, seed, season))
        values = singles(rng, np.full(series, season), time).values
        times = pd.date_range("2020-01-01", periods=time, freq=freq)
        records = [Record(f"{freq} {n}", times, row) for n, row in enumerate(values)]
        made.append(Reference(f"simulated {freq}", records, Plan(freq, horizon, 1, season=season)))
    return made


# --- rules -----------------------------------------------------------------------------------


def _first_period(records: Sequence[Record], plan: Plan) -> pd.Timestamp:
    longest = max(records, key=lambda record: record.times[-1])
    return longest.times[max(0, len(longest.times) - plan.offsets[0])]


def verify_lineage(trained_until: Mapping[str, str | None], first: pd.Timestamp) -> None:
    """Raise ModelError if one was trained on what it would be judged by."""
    for name, until in trained_until.items():
        if until is not None and pd.Timestamp(until) >= first:
            raise ModelError(
                f"{name} was trained on what lies up to {until}, and the gate's windows begin at "
                f"{first.isoformat()}; it cannot be judged on them: give newer data"
            )


def _too_little(gain: Gain, rules: Rules) -> list[str]:
    if gain.low > rules.margin:
        return []
    reason = (
        f"the gain is {gain.gain:.1%} and, at {rules.confidence:.0%} confidence, at least "
        f"{gain.low:.1%}, which does not beat the margin of {rules.margin:.1%}"
    )
    return [reason]


def _praise(gain: Gain, rules: Rules, things: str) -> str:
    return (
        f"the gain is {gain.gain:.1%} over {gain.series} {things} and, at {rules.confidence:.0%} "
        f"confidence, at least {gain.low:.1%}, which beats the margin of {rules.margin:.1%}"
    )


def _worse_than_naive(rows: Mapping[str, Summary], candidate: str) -> list[str]:
    ours, naive = rows[candidate].scaled_pinball, rows[NAIVE].scaled_pinball
    if ours <= naive:
        return []
    return [f"the loss, {ours:.4f}, is above that of {NAIVE}, {naive:.4f}"]


def _covers_worse(ours: Summary, theirs: Summary, rules: Rules) -> list[str]:
    reasons = []
    for share in SHARES:
        if share not in ours.coverage or share not in theirs.coverage:
            continue
        off, before = (abs(row.coverage[share] - share) for row in (ours, theirs))
        if off > before + rules.coverage:
            reasons.append(
                f"the {share:.0%} intervals hold {ours.coverage[share]:.1%} of the outcomes, "
                f"production's {theirs.coverage[share]:.1%}"
            )
    return reasons


def _forgets(ratios: Mapping[str, float], rules: Rules) -> list[str]:
    return [
        f"on {name} the loss is {ratio - 1:.1%} above production's, more than "
        f"{rules.reference:.1%}: something was forgotten"
        for name, ratio in ratios.items()
        if ratio > 1 + rules.reference
    ]


# --- numbers ---------------------------------------------------------------------------------


def losses_of(test: Backtest, method: str) -> dict[str, float]:
    """The mean loss of each series over its windows."""
    grouped: dict[str, list[float]] = {}
    for score in test.scores:
        if score.method == method:
            grouped.setdefault(score.item, []).append(score.scaled_pinball)
    return {item: float(np.mean(losses)) for item, losses in grouped.items()}


def even_weights(losses: FloatArray) -> FloatArray:
    """Weights with which no loss counts more than FAR times the median.

    A series that hardly moved before the window has a small unit, and its loss can be larger than
    all others together: it would decide for all of them, and by chance.
    """
    far = FAR * np.median(losses) if len(losses) else 0.0
    return np.asarray(far / np.maximum(losses, far)) if far > 0 else np.ones(len(losses))


def evened(losses: Mapping[str, float], before: Mapping[str, float]) -> dict[str, float]:
    """Losses of series, by the weights of what they were before."""
    weights = even_weights(np.array(list(before.values())))
    by_item = dict(zip(before, weights.tolist(), strict=True))
    return {item: loss * by_item[item] for item, loss in losses.items()}


def gain_of(ours: Mapping[str, float], theirs: Mapping[str, float], rules: Rules) -> Gain:
    """What a candidate's losses, by series, gain on production's, bootstrapped by series."""
    items = sorted(ours)
    pairs = np.array([(ours[item], theirs[item]) for item in items])
    rng = np.random.default_rng(SEED)
    size = max(1, _AT_ONCE // len(items))
    sums = []
    for start in range(0, rules.draws, size):
        draws = min(size, rules.draws - start)
        sums.append(pairs[rng.integers(len(items), size=(draws, len(items)))].sum(axis=1))
    gains = _one_minus_ratio(np.concatenate(sums))
    low, high = np.quantile(gains, [1 - rules.confidence, rules.confidence])
    return Gain(float(_one_minus_ratio(pairs.sum(axis=0))), float(low), float(high), len(items))


def _one_minus_ratio(sums: FloatArray) -> FloatArray:
    """(…, 2) losses of candidate and production → (…) the gain; 0 where production never errs."""
    before = sums[..., 1]
    return np.asarray(np.where(before > 0, 1 - sums[..., 0] / np.where(before > 0, before, 1), 0.0))


def _by_segment(
    ours: Mapping[str, float],
    theirs: Mapping[str, float],
    segments: Mapping[str, str],
    rules: Rules,
) -> dict[str, Gain]:
    found: dict[str, Gain] = {}
    for name in sorted({segments[item] for item in ours if item in segments}):
        part = {item: loss for item, loss in ours.items() if segments.get(item) == name}
        found[name] = gain_of(part, theirs, rules)
    return found


def _ratio(
    reference: Reference, pair: Mapping[str, Forecaster], production: str, candidate: str
) -> float:
    methods = [Method(name, forecast) for name, forecast in pair.items()]
    test: Backtest = run(reference.records, methods, reference.plan)
    rows = {row.method: row.scaled_pinball for row in summaries(test)}
    return rows[candidate] / rows[production] if rows[production] > 0 else 1.0


def _standing(row: Summary) -> Standing:
    return Standing(
        scaled_pinball=row.scaled_pinball,
        mase=row.mase,
        wape=row.wape,
        bias=row.bias,
        wql=row.wql,
        coverage_80=row.coverage.get(0.8),
        coverage_90=row.coverage.get(0.9),
    )
