"""From tasks to the rows a series network sees, the same for training and serving.

Invariant: the rows of a task depend on that task alone, and scaling happens in double precision,
so that a history of 1e12 or 1e-9 is as good as one of 1.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from models.base import CategoryArray, Covariate, FloatArray, Series, SeriesTask

SMOOTHING = 1.0  # weight of the overall mean in a category's mean, in observations
CONSTANT_SCALE = 1e-5  # what Chronos-2 divides a constant row by
CONSTANT_RATIO = 1e-12  # a deviation this small beside the level is rounding


@dataclass(frozen=True, slots=True, eq=False)
class Rows:
    """The rows of a batch of tasks, targets before covariates within a series.

    past: (rows, time), right-aligned, NaN where missing. future: (rows, horizon), NaN where
    unknown. group: (rows,), number of the task. target: (rows,), True where a forecast is asked
    for. seasons and non_negative: of each row's series. names: of covariates that are numbers, None
    for other rows.
    """

    past: FloatArray
    future: FloatArray
    group: NDArray[np.int64]
    target: NDArray[np.bool_]
    seasons: tuple[tuple[int, ...] | None, ...]
    non_negative: NDArray[np.bool_]
    names: tuple[str | None, ...]


@dataclass(frozen=True, slots=True, eq=False)
class Scale:
    """What takes rows into the network's space and back: (x - loc) / scale, then arcsinh."""

    loc: FloatArray  # (rows, 1)
    scale: FloatArray  # (rows, 1)
    arcsinh: bool

    def apply(self, values: FloatArray) -> NDArray[np.float32]:
        scaled = (values - self.loc) / self.scale
        return (np.arcsinh(scaled) if self.arcsinh else scaled).astype(np.float32)

    def take(self, rows: NDArray[np.bool_]) -> "Scale":
        """The scale of the rows chosen."""
        return Scale(self.loc[rows], self.scale[rows], self.arcsinh)

    def undo(self, quantiles: NDArray[np.float32]) -> FloatArray:
        """(rows, levels, steps) in the network's space → values."""
        wide = quantiles.astype(np.float64)
        with np.errstate(over="ignore"):  # infinity is refused where all answers are verified
            raw = np.sinh(wide) if self.arcsinh else wide
            return np.asarray(raw * self.scale[:, :, None] + self.loc[:, :, None])


def rows_of(tasks: Sequence[SeriesTask], *, context_length: int, horizon: int) -> Rows:
    """Lay out tasks, each history cut to its latest points, each future padded to the horizon."""
    series = [(number, one) for number, task in enumerate(tasks) for one in task.series]
    counts = [row_count(one) for _, one in series]
    length = max(min(one.target.shape[1], context_length) for _, one in series)
    past = np.full((sum(counts), length), np.nan)
    future = np.full((sum(counts), horizon), np.nan)
    target = np.zeros(sum(counts), dtype=np.bool_)
    first = 0
    for (_, one), count in zip(series, counts, strict=True):
        _fill_rows(one, past[first : first + count], future[first : first + count])
        target[first : first + len(one.target)] = True
        first += count
    return Rows(
        past=_without_leading_gap(past),
        future=future,
        group=np.repeat([number for number, _ in series], counts),
        target=target,
        seasons=tuple(
            one.season_lengths for (_, one), n in zip(series, counts, strict=True) for _ in range(n)
        ),
        non_negative=np.repeat([one.non_negative for _, one in series], counts),
        names=tuple(name for _, one in series for name in _names(one)),
    )


def _names(series: Series) -> Iterator[str | None]:
    yield from (None for _ in series.target)
    for covariate in _past_only_first(series.covariates):
        yield None if covariate.past.dtype == object else covariate.name


def row_count(series: Series) -> int:
    """How many rows a series takes: its targets and its covariates."""
    return len(series.target) + len(series.covariates)


def scale_of(values: FloatArray, *, arcsinh: bool) -> Scale:
    """Mean and deviation of each row's observed values: (rows, time) → Scale.

    A row without observations has mean 0 and deviation 1; a constant one CONSTANT_SCALE, times its
    level where that is smaller than 1.
    """
    seen = ~np.isnan(values)
    count = np.maximum(seen.sum(axis=1, keepdims=True), 1)
    loc = np.where(seen, values, 0.0).sum(axis=1, keepdims=True) / count
    scale = np.sqrt(np.square(np.where(seen, values - loc, 0.0)).sum(axis=1, keepdims=True) / count)
    constant = scale <= CONSTANT_RATIO * np.abs(loc)
    level = np.where(loc == 0, 1.0, np.minimum(1.0, np.abs(loc)))
    scale = np.where(constant, CONSTANT_SCALE * level, scale)
    return Scale(loc, np.where(seen.any(axis=1, keepdims=True), scale, 1.0), arcsinh)


def least_deviation(past: FloatArray) -> FloatArray:
    """The deviation a forecast keeps however little its history varies: (rows, time) → (rows,).

    A history that is constant, or has at most two points, says little of how much the future
    varies. By the rule of succession the share of surprises after n points is about 1/(n + 1);
    a surprise is counted as large as the history's largest value, or 1 where that is 0.
    Other histories get 0: the network's own width stands.
    """
    seen = ~np.isnan(past)
    count = seen.sum(axis=1)
    largest = np.abs(np.where(seen, past, 0.0)).max(axis=1, initial=0.0)
    high = np.where(seen, past, -np.inf).max(axis=1, initial=-np.inf)
    low = np.where(seen, past, np.inf).min(axis=1, initial=np.inf)
    with np.errstate(invalid="ignore"):
        constant = (high - low) <= CONSTANT_RATIO * largest
    size = np.where(largest > 0, largest, 1.0)
    return np.where(constant | (count <= 2), size / (count + 1), 0.0)


def _fill_rows(series: Series, past: FloatArray, future: FloatArray) -> None:
    targets, kept = len(series.target), min(series.target.shape[1], past.shape[1])
    past[:targets, past.shape[1] - kept :] = series.target[:, -kept:]
    encoder = series.target[0] if targets == 1 else None
    for row, covariate in enumerate(_past_only_first(series.covariates), start=targets):
        known, ahead = _encode(covariate, encoder)
        past[row, past.shape[1] - kept :] = known[-kept:]
        if ahead is not None:
            future[row, : len(ahead)] = ahead


def _past_only_first(covariates: tuple[Covariate, ...]) -> list[Covariate]:
    return sorted(covariates, key=lambda one: (one.future is not None, one.name))


def _encode(
    covariate: Covariate, target: FloatArray | None
) -> tuple[FloatArray, FloatArray | None]:
    """Numbers for a covariate's past and future; categories by target mean, else by rank.

    target: (history,), or None if there are several targets, which share no one mean.
    """
    past, future = covariate.past, covariate.future
    if past.dtype != object:
        return past.astype(np.float64), None if future is None else future.astype(np.float64)
    names: list[str | None] = sorted({name for name in past if name is not None})
    codes = {name: code for code, name in enumerate([*names, None])}
    if target is None:
        table, unseen = np.arange(len(codes), dtype=np.float64), np.nan
    else:
        table, unseen = _target_means(np.array([codes[name] for name in past]), target, len(codes))
    known = np.array([table[codes[name]] for name in past])
    if future is None:
        return known, None
    return known, _look_up(future, codes, table, unseen)


def _look_up(
    names: CategoryArray | FloatArray,
    codes: dict[str | None, int],
    table: FloatArray,
    unseen: float,
) -> FloatArray:
    return np.array([table[codes[name]] if name in codes else unseen for name in names])


def _target_means(
    codes: NDArray[np.int64], target: FloatArray, categories: int
) -> tuple[FloatArray, float]:
    """Smoothed mean of the target within each category, and the overall mean for unseen ones."""
    seen = ~np.isnan(target)
    overall = float(target[seen].mean()) if seen.any() else 0.0
    sums = np.bincount(codes[seen], weights=target[seen], minlength=categories)
    counts = np.bincount(codes[seen], minlength=categories)
    return (sums + SMOOTHING * overall) / (counts + SMOOTHING), overall


def _without_leading_gap(past: FloatArray) -> FloatArray:
    """Drop the periods before anything was observed, but keep one."""
    observed = ~np.isnan(past).all(axis=0)
    first = int(observed.argmax()) if observed.any() else past.shape[1] - 1
    return past[:, first:]
