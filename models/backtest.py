"""Backtests: forecasts of days that are past, by any method, from what was known before them.

Invariant: a forecaster is handed a Batch, and a Batch holds no value of the target after its
origin, nor any of a covariate that is not declared known ahead. Origins are dates shared by all
series, so that a method that learns across series sees the future of none.
"""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
import pandas as pd

from models.base import (
    CategoryArray,
    Covariate,
    FloatArray,
    ModelError,
    Series,
    SeriesResult,
    SeriesTask,
)
from models.metrics import (
    DECILES,
    Pit,
    bias,
    geometric_mean,
    grain_of,
    mase,
    naive_error,
    pinball,
    pit,
    pooled,
    scaled_pinball,
    wape,
    wql,
)
from models.seasonal import season_lengths

#: The levels forecast: dense, so that coverage can be read off; DECILES are among them.
LEVELS = (0.01, *(round(0.05 * step, 2) for step in range(1, 20)), 0.99)
#: Central intervals whose coverage is told.
SHARES = (0.5, 0.8, 0.9, 0.98)
#: Longest season of seasonal naive and of the scale of MASE: weeks have 1, as published tables do.
LONGEST_SEASON = 24
CHUNK = 64  # series a batch of a method that takes them one by one
NAIVE = "seasonal naive"


class BacktestError(ModelError):
    """The records cannot be tested as asked; the message says why, and the way out."""


@dataclass(frozen=True, slots=True, eq=False)
class Record:
    """All that is known of one item, its past and what is to be tested of it.

    times: (time,), regular. target: (time,), NaN is missing. covariates: their `past` spans all
    of the time; their `future` says only, by not being None, that they are known ahead.
    """

    item: str
    times: pd.DatetimeIndex
    target: FloatArray
    covariates: tuple[Covariate, ...] = ()


@dataclass(frozen=True, slots=True)
class Plan:
    """What is tested: `origins` windows of `horizon` periods, `step` apart, ending with the last.

    freq: pandas alias of the records' calendar. season: of seasonal naive and MASE, in periods.
    """

    freq: str
    horizon: int
    origins: int = 3
    step: int | None = None  # None: as long as the horizon, so that no period is tested twice
    season: int = 1
    levels: tuple[float, ...] = LEVELS

    @property
    def offsets(self) -> tuple[int, ...]:
        """Periods between each origin and the end of the records, the earliest origin first."""
        step = self.step or self.horizon
        return tuple(self.horizon + step * back for back in reversed(range(self.origins)))


@dataclass(frozen=True, slots=True, eq=False)
class Window:
    """One item at one origin: what a forecaster may know.

    times, history: (time,). ahead: (horizon,), the periods to forecast. covariates: past (time,),
    future (horizon,) or None.
    """

    item: str
    times: pd.DatetimeIndex
    history: FloatArray
    ahead: pd.DatetimeIndex
    covariates: tuple[Covariate, ...] = ()

    @property
    def non_negative(self) -> bool:
        """Whether nothing below zero was ever observed."""
        return bool((self.history[~np.isnan(self.history)] >= 0).all())


@dataclass(frozen=True, slots=True, eq=False)
class Batch:
    """Windows of one origin."""

    plan: Plan
    windows: tuple[Window, ...]


#: One (levels, horizon) array of quantiles for each window, in order.
Forecaster = Callable[[Batch], Sequence[FloatArray]]


@dataclass(frozen=True, slots=True, eq=False)
class Method:
    """A forecaster by name. pooled: it learns across the series and takes an origin as a whole."""

    name: str
    forecast: Forecaster
    pooled: bool = False


@dataclass(frozen=True, slots=True, eq=False)
class Score:
    """A method on one item at one origin (the last period before the forecast).

    All of the median but wql, scaled_pinball and pit. wape, bias and wql are NaN where nothing was
    sold. periods: how many were observed; size, absolute, signed, lost: their Σ|y|, Σ|y - ŷ|,
    Σ(ŷ - y) and 2·Σ pinball, averaged over DECILES. pit: None for a forecast without a width.
    """

    method: str
    item: str
    origin: pd.Timestamp
    mase: float
    wape: float
    bias: float
    wql: float
    scaled_pinball: float
    periods: int
    size: float
    absolute: float
    signed: float
    lost: float
    pit: Pit | None


@dataclass(frozen=True, slots=True, eq=False)
class Example:
    """One window, what came, and what each method said: (levels, horizon)."""

    window: Window
    truth: FloatArray
    quantiles: Mapping[str, FloatArray]


@dataclass(frozen=True, slots=True, eq=False)
class Backtest:
    """Scores of every method, item and origin; seconds by method; examples of the last origin."""

    plan: Plan
    methods: tuple[str, ...]
    scores: tuple[Score, ...]
    seconds: Mapping[str, float]
    examples: tuple[Example, ...]
    left_out: tuple[str, ...]  # items too short for every origin


@dataclass(frozen=True, slots=True)
class Summary:
    """A method over all items and origins.

    mase, scaled_pinball: means. wape, bias, wql: pooled over all periods. relative_…: to seasonal
    naive; of mase and wql the ratio of the totals, geometric_mase the geometric mean over items.
    coverage: of SHARES, empty for a method that forecasts points.
    """

    method: str
    mase: float
    wape: float
    bias: float
    wql: float
    scaled_pinball: float
    relative_mase: float
    relative_wql: float
    geometric_mase: float
    coverage: Mapping[float, float]
    seconds: float
    items: int
    windows: int


def season_of(freq: str) -> int:
    """The season of seasonal naive and MASE: a day's hours, a week's days, a year's months.

    1 where the shortest season is longer than LONGEST_SEASON, as for weeks, or there is none. Of
    quarter-hours and finer it is the day.
    """
    lengths = season_lengths(freq) or ()
    finer = [n for n in lengths if n > LONGEST_SEASON and len(lengths) > 1]
    shorter = [n for n in lengths if n <= LONGEST_SEASON]
    return shorter[0] if shorter else finer[0] if finer else 1


def run(
    records: Sequence[Record],
    methods: Sequence[Method],
    plan: Plan,
    *,
    examples: int = 0,
    on_done: Callable[[str, int], None] = lambda _name, _windows: None,
) -> Backtest:
    """Forecast every window by every method and score it. Raises BacktestError, ModelError.

    on_done: told a method's name and how many windows it has just answered.
    """
    tests = [_cases(records, plan, offset) for offset in plan.offsets]
    _refuse_empty(tests, records, plan)
    scores: list[Score] = []
    seconds: dict[str, float] = {}
    shown: list[dict[str, FloatArray]] = [{} for _ in tests[-1][:examples]]
    for method in methods:
        began = time.perf_counter()
        answers = [_answers(method, cases, plan, on_done) for cases in tests]
        seconds[method.name] = time.perf_counter() - began
        for pairs in map(zip, tests, answers):
            scores += [_score(method.name, plan, *pair) for pair in pairs]
        for place, quantiles in zip(shown, answers[-1], strict=False):
            place[method.name] = quantiles
    return Backtest(
        plan=plan,
        methods=tuple(method.name for method in methods),
        scores=tuple(scores),
        seconds=seconds,
        examples=tuple(
            Example(case.window, case.truth, each)
            for case, each in zip(tests[-1], shown, strict=False)
        ),
        left_out=_left_out(records, tests),
    )


def windows_of(records: Sequence[Record], plan: Plan) -> Iterator[Batch]:
    """What forecasters are handed: the windows of each origin, the earliest first.

    A record takes part if more than a season of it is observed before the origin, if it changes
    there, and if anything is observed in the window after it.
    """
    for offset in plan.offsets:
        cases = _cases(records, plan, offset)
        yield Batch(plan, tuple(case.window for case in cases))


def summaries(backtest: Backtest) -> list[Summary]:
    """One for each method, in the order they ran."""
    by_method = {
        name: [score for score in backtest.scores if score.method == name]
        for name in backtest.methods
    }
    naive = by_method.get(NAIVE, [])
    return [
        _summary(name, scores, naive, backtest.seconds[name]) for name, scores in by_method.items()
    ]


# --- methods


def seasonal_naive(batch: Batch) -> list[FloatArray]:
    """The value a season ago at every level, as in the published tables."""
    plan = batch.plan
    points = (
        last_season(filled(each.history), plan.horizon, plan.season) for each in batch.windows
    )
    return [np.tile(point, (len(plan.levels), 1)) for point in points]


def last_season(history: FloatArray, horizon: int, season: int) -> FloatArray:
    """(horizon,) the last season of a history without gaps, again and again."""
    last = history[-season:]
    return np.asarray(last[np.arange(horizon) % len(last)])


class Predicting(Protocol):
    """The side of a series network that a backtest needs."""

    def predict(self, tasks: Sequence[SeriesTask]) -> Sequence[SeriesResult]:
        """Answer tasks of one horizon."""


def network(answering: Predicting, *, covariates: bool = True) -> Forecaster:
    """A series network, asked as the service asks it."""

    def forecast(batch: Batch) -> list[FloatArray]:
        tasks = [task_of(window, batch.plan, covariates=covariates) for window in batch.windows]
        return [result[0].quantiles[0] for result in answering.predict(tasks)]

    return forecast


def task_of(window: Window, plan: Plan, *, covariates: bool = True) -> SeriesTask:
    """A window as a task of the series network."""
    series = Series(
        target=window.history[None],
        covariates=window.covariates if covariates else (),
        season_lengths=season_lengths(plan.freq),
        non_negative=window.non_negative,
    )
    return SeriesTask((series,), plan.horizon, plan.levels)


def filled(history: FloatArray) -> FloatArray:
    """Gaps drawn through in straight lines, for methods that know no missing values."""
    seen = ~np.isnan(history)
    if seen.all():
        return history
    places = np.arange(len(history))
    return np.interp(places, places[seen], history[seen])


# --- windows


@dataclass(frozen=True, slots=True, eq=False)
class _Case:
    """A window, and the truth that no forecaster sees."""

    window: Window
    truth: FloatArray


def _cases(records: Sequence[Record], plan: Plan, offset: int) -> list[_Case]:
    """The records that can be tested so many periods before the end of all of them."""
    end = max(record.times[-1] for record in records)
    cases = (_case(_extended(record, end, plan.freq), plan, offset) for record in records)
    return [case for case in cases if case is not None]


def _extended(record: Record, end: pd.Timestamp, freq: str) -> Record:
    """The record up to the end of all of them, missing where it has nothing."""
    if record.times[-1] == end:
        return record
    more_times = pd.date_range(record.times[-1], end, freq=freq)[1:]
    times = pd.DatetimeIndex(record.times.append(more_times))
    more = len(times) - len(record.times)
    covariates = (replace(each, past=_lengthened(each, more)) for each in record.covariates)
    target = np.concatenate([record.target, np.full(more, np.nan)])
    return replace(record, times=times, target=target, covariates=tuple(covariates))


def _lengthened(covariate: Covariate, more: int) -> FloatArray | CategoryArray:
    words = covariate.past.dtype == object
    return np.concatenate([covariate.past, np.full(more, None if words else np.nan)])


def _case(record: Record, plan: Plan, offset: int) -> _Case | None:
    cut = len(record.times) - offset
    ahead = slice(cut, cut + plan.horizon)
    if cut < 1 or np.isnan(record.target[ahead]).all():
        return None
    first = int((~np.isnan(record.target)).argmax())
    history = record.target[first:cut]
    if len(history) <= plan.season or not naive_error(history, plan.season) > 0:
        return None
    past = slice(first, cut)
    window = Window(
        record.item,
        record.times[past],
        history,
        record.times[ahead],
        tuple(_known(covariate, past, ahead) for covariate in record.covariates),
    )
    return _Case(window, record.target[ahead])


def _known(covariate: Covariate, past: slice, ahead: slice) -> Covariate:
    """The covariate as it stands at the origin: its future only if that is known ahead."""
    future = None if covariate.future is None else covariate.past[ahead]
    return replace(covariate, past=covariate.past[past], future=future)


def _refuse_empty(tests: Sequence[Sequence[_Case]], records: Sequence[Record], plan: Plan) -> None:
    if all(tests):
        return
    longest = max(len(record.times) for record in records)
    needed = plan.offsets[0] + plan.season + 1
    if longest < needed:
        windows = (
            f"{plan.origins} windows of {plan.horizon}"
            if plan.origins > 1
            else (f"a window of {plan.horizon}")
        )
        raise BacktestError(
            f"{windows} periods and a season of {plan.season} before them need {needed} periods, "
            f"and the longest series has {longest}; lower the horizon or the number of origins"
        )
    raise BacktestError(
        "no series changes before and is observed after every origin; lower the horizon or the "
        "number of origins"
    )


def _left_out(records: Sequence[Record], tests: Sequence[Sequence[_Case]]) -> tuple[str, ...]:
    tested = {case.window.item for cases in tests for case in cases}
    return tuple(record.item for record in records if record.item not in tested)


# --- scores


def _answers(
    method: Method, cases: Sequence[_Case], plan: Plan, on_done: Callable[[str, int], None]
) -> list[FloatArray]:
    """Quantiles of every window, in order, at least zero where the history is."""
    size = max(len(cases), 1) if method.pooled else CHUNK
    answers: list[FloatArray] = []
    for start in range(0, len(cases), size):
        windows = tuple(case.window for case in cases[start : start + size])
        made = method.forecast(Batch(plan, windows))
        answers += [_sane(*pair, method.name) for pair in zip(made, windows, strict=True)]
        on_done(method.name, len(windows))
    return answers


def _sane(quantiles: FloatArray, window: Window, name: str) -> FloatArray:
    if not np.isfinite(quantiles).all():
        raise BacktestError(f"{name} answered something else than numbers for {window.item!r}")
    ordered = np.sort(quantiles, axis=0)
    return np.maximum(ordered, 0.0) if window.non_negative else ordered


def _score(name: str, plan: Plan, case: _Case, quantiles: FloatArray) -> Score:
    window, truth = case.window, case.truth
    point = quantiles[plan.levels.index(0.5)]
    tenths = quantiles[[plan.levels.index(level) for level in DECILES]]
    scale = naive_error(window.history, plan.season)
    grain = grain_of(np.concatenate([window.history, truth]))
    spread = bool((quantiles[0] < quantiles[-1]).any())
    return Score(
        method=name,
        item=window.item,
        origin=window.times[-1],
        mase=mase(truth, point, scale=scale),
        wape=wape(truth, point),
        bias=bias(truth, point),
        wql=wql(truth, tenths, DECILES),
        scaled_pinball=scaled_pinball(truth, tenths, DECILES, scale=scale),
        periods=int((~np.isnan(truth)).sum()),
        size=float(np.nansum(np.abs(truth))),
        absolute=float(np.nansum(np.abs(truth - point))),
        signed=float(np.nansum(point - truth)),
        lost=float(2 * np.nansum(pinball(truth, tenths, DECILES).mean(axis=0))),
        pit=pit(truth, quantiles, plan.levels, grain=grain) if spread else None,
    )


def _summary(name: str, scores: Sequence[Score], naive: Sequence[Score], seconds: float) -> Summary:
    size = sum(score.size for score in scores)
    scaled, lost = _mean_mase(scores), sum(score.lost for score in scores)
    pits = [score.pit for score in scores if score.pit is not None]
    return Summary(
        method=name,
        mase=scaled,
        wape=_over(sum(score.absolute for score in scores), size),
        bias=_over(sum(score.signed for score in scores), size),
        wql=_over(lost, size),
        scaled_pinball=float(np.mean([score.scaled_pinball for score in scores])),
        relative_mase=_over(scaled, _mean_mase(naive)),
        relative_wql=_over(lost, sum(score.lost for score in naive)),
        geometric_mase=_geometric(scores, naive),
        coverage={share: pooled(pits).coverage(share) for share in SHARES if pits},
        seconds=seconds,
        items=len({score.item for score in scores}),
        windows=len(scores),
    )


def _mean_mase(scores: Sequence[Score]) -> float:
    return float(np.mean([score.mase for score in scores])) if scores else 0.0


def _over(total: float, whole: float) -> float:
    """A part of a whole, NaN where there is none: nothing sold, or no seasonal naive that erred."""
    return total / whole if whole > 0 else np.nan


def _geometric(scores: Sequence[Score], naive: Sequence[Score]) -> float:
    """Over items, each by the mean of its origins; where either never errs the item is left out."""
    ours, theirs = (_by_item(part) for part in (scores, naive))
    pairs = [(ours[item], theirs[item]) for item in ours if item in theirs]
    return geometric_mean([a / b for a, b in pairs if a > 0 and b > 0])


def _by_item(scores: Sequence[Score]) -> dict[str, float]:
    grouped: dict[str, list[float]] = {}
    for score in scores:
        grouped.setdefault(score.item, []).append(score.mase)
    return {item: float(np.mean(values)) for item, values in grouped.items()}
