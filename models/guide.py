"""A guide for the network: the classical forecast of each row, from a bank of smoothing models.

A small network learns what a good statistical forecast gets wrong much sooner than it learns to
make one. The bank holds simple exponential smoothing, Holt's trend with and without damping
(Gardner and McKenzie, 1985, Management Science 31) and Theta (Assimakopoulos and Nikolopoulos,
2000, International Journal of Forecasting 16; as smoothing with half the slope of a line: Hyndman
and Billah, 2003, ibid. 19), each at fixed parameters. Every one of them is linear in the history,
so one product gives the one-step errors of all; their likelihoods weigh the forecasts, as in
Bayesian model averaging.

Invariant: a row's guide depends on that row's values alone, moves and scales with them, and is
finite.
"""

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Singles = NDArray[np.float32]

#: Lengths of history that the bank looks back on; a row takes the first that holds it.
LENGTHS = (32, 64, 128)
#: (level, slope, damping) of the models; no slope is simple smoothing.
SMOOTHING = tuple((alpha, 0.0, 1.0) for alpha in (0.05, 0.1, 0.2, 0.35, 0.5, 0.7, 0.85, 1.0))
TREND = tuple(
    (alpha, beta, damping)
    for alpha in (0.1, 0.3, 0.6, 0.9)
    for beta in (0.03, 0.1, 0.3)
    for damping in (0.85, 0.95, 1.0)
)
#: Power of the likelihood in a model's weight.
POWER = 2.0
#: Standard deviations of its history that a guide stays within, about the latest values.
REACH = 12.0
#: Least error variance, in units of the row's own.
LEAST_ERROR = 1e-6


def guide(values: Floats, horizon: int, *, trends: bool = True) -> Floats:
    """(rows, time) right-aligned, NaN where missing → (rows, horizon) what smoothing expects.

    trends: with Holt's models; without them a trend goes on by half, as Theta has it, or not at
    all. A row without any value gets 0.
    """
    length = next((n for n in LENGTHS if n >= values.shape[1]), LENGTHS[-1])
    filled, seen = _filled(values, length)
    count = np.maximum(seen.sum(axis=1, keepdims=True), 1)  # what fills the lead does not count
    centre = np.where(seen, filled, 0.0).sum(axis=1, keepdims=True) / count
    apart = np.where(seen, filled - centre, 0.0)
    spread = np.sqrt(np.square(apart).sum(axis=1, keepdims=True) / count)
    spread = np.where(spread > 1e-12 * np.abs(centre), spread, 1.0)
    z = ((filled - centre) / spread).astype(np.float32)
    line = _line(z, seen)
    whole = _bank(length)
    bank = whole if trends else whole.smoothing
    plain = _Fit(z, bank)
    bent = _Fit(_unbent(z, line, seen), whole.smoothing)
    through = line.at(np.arange(1 - length, 1))
    theta_errors = 0.5 * (bent.expected + through[:, None]) - z[:, None]
    weights = _weights(np.concatenate([plain.expected - z[:, None], theta_errors], axis=1), seen)
    models = len(bank.damping)
    flat = np.einsum("rm,rm->r", weights[:, :models], plain.level)
    slopes = weights[:, :models] * plain.slope
    theta = 0.5 * np.einsum("rm,rm->r", weights[:, models:], bent.level)
    share = 0.5 * weights[:, models:].sum(axis=1)[:, None]
    ahead = np.arange(1, horizon + 1)
    answer = (flat + theta)[:, None] + slopes @ _damped(bank.damping, horizon)
    answer += share * line.at(ahead)
    limit = np.clip(answer, z[:, -1:] - REACH, z[:, -1:] + REACH)
    return np.where(seen.any(axis=1, keepdims=True), limit * spread + centre, 0.0)


@dataclass(frozen=True, slots=True, eq=False)
class _Bank:
    """expected: (time, models * time) histories → one-step forecasts; level, slope: (time, models)
    histories → the state after the last value; damping: (models,)."""

    expected: Singles
    level: Singles
    slope: Singles
    damping: Floats

    @property
    def smoothing(self) -> "_Bank":
        """The models without slope, which stand first."""
        count, time = len(SMOOTHING), len(self.level)
        return _Bank(
            np.ascontiguousarray(self.expected[:, : count * time]),
            self.level[:, :count],
            self.slope[:, :count],
            self.damping[:count],
        )


class _Fit:
    """What each model expects at each step, (rows, models, time), and its state at the end."""

    __slots__ = ("expected", "level", "slope")

    def __init__(self, values: Singles, bank: _Bank) -> None:
        shape = (len(values), len(bank.damping), values.shape[1])
        self.expected = (values @ bank.expected).reshape(shape)
        self.level, self.slope = values @ bank.level, values @ bank.slope


@lru_cache(maxsize=len(LENGTHS))
def _bank(time: int) -> _Bank:
    """The models' responses to a single value, shifted to every step.

    A history is continued to the left by its first value, on which every model has settled.
    """
    models = np.array(SMOOTHING + TREND)
    alpha, beta, damping = models.T
    level, slope = alpha.copy(), alpha * beta
    levels, slopes = np.empty((time, len(models))), np.empty((time, len(models)))
    for lag in range(time):
        levels[lag], slopes[lag] = level, slope
        expected = level + damping * slope
        level, slope = (1 - alpha) * expected, damping * slope - alpha * beta * expected
    step = levels + damping * slopes  # (lag, models): weight of a value in the next forecast
    table = np.zeros((time, len(models), time))
    for now in range(1, time):
        table[:now, :, now] = step[:now][::-1]
        table[0, :, now] += 1 - step[:now].sum(axis=0)
    table[0, :, 0] = 1.0
    level_of, slope_of = levels[::-1].copy(), slopes[::-1].copy()
    level_of[0] += 1 - levels.sum(axis=0)
    slope_of[0] -= slopes.sum(axis=0)
    flat = table.reshape(time, -1).astype(np.float32)
    return _Bank(flat, level_of.astype(np.float32), slope_of.astype(np.float32), damping)


@lru_cache(maxsize=8)
def _damping_table(damping: tuple[float, ...], horizon: int) -> Floats:
    ahead = np.arange(1, horizon + 1)
    return np.cumsum(np.array(damping)[:, None] ** ahead, axis=1)


def _damped(damping: Floats, horizon: int) -> Floats:
    """(models, horizon) sums of the damping's powers: how far a slope has led."""
    return _damping_table(tuple(damping.tolist()), horizon)


def _filled(values: Floats, length: int) -> tuple[Floats, NDArray[np.bool_]]:
    """The latest `length` periods, gaps filled with the value before, and which were seen."""
    latest = values[:, -length:]
    lead = length - latest.shape[1]
    padded = np.pad(latest, ((0, 0), (lead, 0)), constant_values=np.nan)
    seen = ~np.isnan(padded)
    before = np.maximum.accumulate(np.where(seen, np.arange(length), 0), axis=1)
    source = np.maximum(before, seen.argmax(axis=1)[:, None])
    filled = np.take_along_axis(np.nan_to_num(padded), source, axis=1)
    if values.shape[1] > length:
        older = values[:, : -length + 1]
        known = ~np.isnan(older)
        mean = np.nansum(older, axis=1) / np.maximum(known.sum(axis=1), 1)
        filled[:, 0] = np.where(known.any(axis=1), mean, filled[:, 0])
    return filled, seen


@dataclass(frozen=True, slots=True, eq=False)
class _Line:
    """Straight lines, (rows, 1) each; step 0 is the last value of the history."""

    start: NDArray[np.floating[Any]]
    slope: NDArray[np.floating[Any]]

    def at(self, steps: NDArray[np.int_]) -> Singles:
        return (self.start + self.slope * steps).astype(np.float32)


def _line(z: Singles, seen: NDArray[np.bool_]) -> _Line:
    """The least-squares line through what was seen."""
    steps = np.arange(1 - z.shape[1], 1)
    count = np.maximum(seen.sum(axis=1, keepdims=True), 1)
    middle = (seen * steps).sum(axis=1, keepdims=True) / count
    mean = (seen * z).sum(axis=1, keepdims=True) / count
    apart = np.where(seen, steps - middle, 0.0)
    square = np.maximum((apart**2).sum(axis=1, keepdims=True), 1e-9)
    slope = (apart * z).sum(axis=1, keepdims=True) / square
    return _Line(mean - slope * middle, slope)


def _unbent(z: Singles, line: _Line, seen: NDArray[np.bool_]) -> Singles:
    """Theta's second line, of twice the curvature; led by its first seen value."""
    double = 2 * z - line.at(np.arange(1 - z.shape[1], 1))
    first = seen.argmax(axis=1)[:, None]
    lead = np.arange(z.shape[1]) < first
    return np.where(lead, np.take_along_axis(double, first, axis=1), double)


def _weights(errors: Singles, seen: NDArray[np.bool_]) -> Floats:
    """(rows, models, time) one-step errors → (rows, models) shares by likelihood."""
    counted = seen.copy()
    counted[np.arange(len(seen)), seen.argmax(axis=1)] = False  # the first value teaches nothing
    count = np.maximum(counted.sum(axis=1), 1)[:, None]
    np.square(errors, out=errors)
    variance = (errors @ counted.astype(np.float32)[:, :, None])[:, :, 0].astype(np.float64) / count
    likelihood = -0.5 * POWER * count * np.log(variance + LEAST_ERROR)
    share = np.exp(likelihood - likelihood.max(axis=1, keepdims=True))
    return np.asarray(share / share.sum(axis=1, keepdims=True))
