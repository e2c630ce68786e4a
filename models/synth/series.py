"""Synthetic series for pretraining: families of processes whose truth is known, drawn in batches.

A family is a function (generator, season lengths, time) → (rows, time); `windows` mixes the
families, augments them, and `groups` adds covariates to a target.

Invariant: the same generator state and arguments give the same series, and every value is finite
(missing values are added by the window, as NaN, never by a family).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Family = Callable[[Generator, Ints, int], Floats]


def windows(rng: Generator, lengths: Ints, time: int) -> Floats:
    """(rows, time) series of all families mixed; row i has season `lengths[i]` (0: none).

    Some are convex mixtures of others (TSMixup), flipped, modulated or censored.
    """
    names = rng.choice(len(FAMILIES), size=len(lengths), p=_SHARES)
    values = np.empty((len(lengths), time))
    for i, (family, _) in enumerate(FAMILIES):
        rows = np.flatnonzero(names == i)
        if len(rows):
            values[rows] = family(rng, lengths[rows], time)
    return _augmented(rng, values, lengths)


# --- parts -----------------------------------------------------------------------------------


def _column(rng: Generator, rows: int, low: float, high: float) -> Floats:
    return rng.uniform(low, high, size=(rows, 1))


def _log_column(rng: Generator, rows: int, low: float, high: float) -> Floats:
    return np.exp(rng.uniform(np.log(low), np.log(high), size=(rows, 1)))


def _chance(rng: Generator, rows: int, share: float) -> Floats:
    """(rows, 1) ones at that share, zeros else."""
    return np.where(rng.random((rows, 1)) < share, 1.0, 0.0)


def season(rng: Generator, lengths: Ints, time: int) -> Floats:
    """(rows, time) pattern of period `lengths[i]`, mean 0 and standard deviation 1; 0 where none.

    Half of the patterns are sums of few harmonics, half are free (spiky as a weekend is).
    """
    longest = max(int(lengths.max(initial=1)), 1)
    rows = len(lengths)
    m = np.maximum(lengths, 1)[:, None]
    phase = np.arange(longest)[None, :] / m
    table = np.zeros((rows, longest))
    for k in range(1, 4):
        angle = 2 * np.pi * (k * phase + rng.random((rows, 1)))
        table += np.sin(angle) * rng.normal(size=(rows, 1)) / k
    free = rng.standard_t(4, size=(rows, longest))
    table = np.where(rng.random((rows, 1)) < 0.5, table, free)
    inside = np.arange(longest)[None, :] < m
    mean = np.where(inside, table, 0).sum(axis=1, keepdims=True) / m
    spread = np.sqrt((np.where(inside, table - mean, 0) ** 2).sum(axis=1, keepdims=True) / m)
    table = np.where(spread > 1e-9, (table - mean) / np.where(spread > 1e-9, spread, 1), 0.0)
    steps = (np.arange(time)[None, :] + rng.integers(0, longest, size=(rows, 1))) % m
    pattern = np.take_along_axis(table, steps, axis=1)
    return np.where(lengths[:, None] > 1, pattern, 0.0)


def autoregressive(rng: Generator, phi: Floats, time: int, *, phi2: Floats | None = None) -> Floats:
    """(rows, time) AR(1) or AR(2) of coefficients `phi`, `phi2` (rows, 1), deviation about 1."""
    rows = len(phi)
    burn = 40
    noise = rng.normal(size=(time + burn, rows))
    a, b = phi[:, 0], np.zeros(rows) if phi2 is None else phi2[:, 0]
    out = np.zeros((time + burn, rows))
    for t in range(2, time + burn):
        out[t] = a * out[t - 1] + b * out[t - 2] + noise[t]
    answer = out[burn:].T
    return np.asarray(answer / np.maximum(answer.std(axis=1, keepdims=True), 1e-6))


def shifts(rng: Generator, rows: int, time: int, *, rate: float) -> Floats:
    """(rows, time) piecewise constant level, jumps of deviation 1 at `rate` a window."""
    jumps = (rng.random((rows, time)) < rate / time) * rng.normal(size=(rows, time))
    return np.cumsum(jumps, axis=1)


def trend(rng: Generator, rows: int, time: int) -> Floats:
    """(rows, time) smooth trend from 0, of size about 1 over the window.

    Straight, bent, damped, exponential or with kinks: all go on after the context ends.
    """
    t = np.linspace(0, 1, time)[None, :]
    kind = rng.integers(0, 5, size=(rows, 1))
    slope = rng.normal(size=(rows, 1))
    rate = _log_column(rng, rows, 1.0, 8.0)
    damped = (1 - np.exp(-rate * t)) / (1 - np.exp(-rate))
    growth = np.expm1(rate / 2 * t) / np.expm1(rate / 2)
    bent = t + rng.normal(size=(rows, 1)) * t**2
    kinks = (rng.random((rows, time)) < 2.0 / time) * rng.normal(size=(rows, time))
    kinked = t + np.cumsum(np.cumsum(kinks, axis=1), axis=1) / time
    special = [kind == 1, kind == 2, kind == 3, kind == 4]
    shapes = [bent, damped, growth, kinked]
    return np.asarray(slope * np.select(special, shapes, default=t + 0 * slope))


def irregular(rng: Generator, rows: int, time: int) -> Floats:
    """(rows, time) noise of deviation about 1: normal, heavy-tailed or of changing variance."""
    heavy = rng.standard_t(3, size=(rows, time)) / np.sqrt(3)
    normal = rng.normal(size=(rows, time))
    noise = np.where(_chance(rng, rows, 0.3) > 0, heavy, normal)
    volatility = np.exp(0.5 * np.clip(shifts(rng, rows, time, rate=2.0), -3, 3))
    return noise * np.where(_chance(rng, rows, 0.2) > 0, volatility, 1.0)


def _on_level(rng: Generator, shape: Floats) -> Floats:
    """Move zero-mean rows onto levels that make most of them positive, as counts and sales are."""
    low = -shape.min(axis=1, keepdims=True)
    spread = np.maximum(shape.std(axis=1, keepdims=True), 1e-6)
    lift = np.where(
        _chance(rng, len(shape), 0.8) > 0,
        low + spread * _log_column(rng, len(shape), 0.05, 20.0),
        0.0,
    )
    return shape + lift


# --- families --------------------------------------------------------------------------------


def trend_season_irregular(rng: Generator, lengths: Ints, time: int) -> Floats:
    """Trend × or + season × or + irregular, as in classical decomposition."""
    rows = len(lengths)
    size = _log_column(rng, rows, 0.02, 3.0) * _chance(rng, rows, 0.8)
    drift = size * trend(rng, rows, time)
    swing = _log_column(rng, rows, 0.02, 0.8) * season(rng, lengths, time)
    noise = _log_column(rng, rows, 0.005, 0.3) * irregular(rng, rows, time)
    added = _on_level(rng, drift + swing + noise)
    level = 1 + drift - np.minimum(drift.min(axis=1, keepdims=True), 0.0)
    times = level * np.exp(np.clip(swing - swing**2 / 2, -3, 3)) * np.exp(np.clip(noise, -3, 3))
    return np.where(_chance(rng, rows, 0.5) > 0, times, added)


def exponential_smoothing(rng: Generator, lengths: Ints, time: int) -> Floats:
    """State space models of exponential smoothing: ETS(A or M, N/A/Ad, N/A) by simulation."""
    rows = len(lengths)
    alpha, beta = rng.beta(1.5, 2.0, size=rows), 0.3 * rng.beta(1, 6, size=rows)
    beta *= rng.random(rows) < 0.7
    phi = np.where(rng.random(rows) < 0.4, rng.uniform(0.85, 0.98, rows), 1.0)
    level, slope = np.zeros(rows), rng.normal(size=rows) * 0.3 * (rng.random(rows) < 0.7)
    noise = irregular(rng, rows, time)
    out = np.empty((rows, time))
    for t in range(time):
        expected = level + phi * slope
        out[:, t] = expected + noise[:, t]
        level = expected + alpha * noise[:, t]
        slope = phi * slope + alpha * beta * noise[:, t]
    scale = np.maximum(out.std(axis=1, keepdims=True), 1.0)
    swing = _log_column(rng, rows, 0.05, 2.0) * season(rng, lengths, time)
    additive = _on_level(rng, out + scale * swing)
    return np.where(_chance(rng, rows, 0.3) > 0, _exponential(rng, additive), additive)


def _exponential(rng: Generator, values: Floats) -> Floats:
    centred = values - values.mean(axis=1, keepdims=True)
    spread = np.maximum(np.abs(centred).max(axis=1, keepdims=True), 1e-9)
    return np.asarray(np.exp(centred / spread * _log_column(rng, len(values), 0.1, 2.0)))


def random_walk(rng: Generator, lengths: Ints, time: int) -> Floats:
    """Random walk with drift, in levels or in logarithms: the trend goes on.

    The drift is up to one and a half deviations of a step; a third of the steps are correlated.
    """
    rows = len(lengths)
    steps = irregular(rng, rows, time)
    steps = np.where(
        _chance(rng, rows, 0.3) > 0, autoregressive(rng, _column(rng, rows, -0.4, 0.8), time), steps
    )
    drift = rng.normal(size=(rows, 1)) * _log_column(rng, rows, 0.02, 1.0)
    walk = np.cumsum(steps + drift, axis=1)
    walk += _log_column(rng, rows, 0.02, 1.0) * rng.normal(size=walk.shape)
    scale = np.maximum(walk.std(axis=1, keepdims=True), 1e-6)
    swing = _log_column(rng, rows, 0.02, 1.0) * season(rng, lengths, time)
    additive = _on_level(rng, walk + scale * swing)
    return np.where(_chance(rng, rows, 0.4) > 0, _exponential(rng, walk + scale * swing), additive)


def stationary(rng: Generator, lengths: Ints, time: int) -> Floats:
    """AR(1), AR(2) and Ornstein–Uhlenbeck series about a level, with or without a season."""
    rows = len(lengths)
    radius, angle = _column(rng, rows, 0.1, 0.97), _column(rng, rows, 0.0, np.pi)
    cyclic = _chance(rng, rows, 0.4)
    phi = np.where(cyclic > 0, 2 * radius * np.cos(angle), 1 - _log_column(rng, rows, 0.01, 1.0))
    phi2 = np.where(cyclic > 0, -(radius**2), 0.0)
    shape = autoregressive(rng, phi, time, phi2=phi2)
    shape += _log_column(rng, rows, 0.1, 2.0) * season(rng, lengths, time)
    return _on_level(rng, shape)


def regimes(rng: Generator, lengths: Ints, time: int) -> Floats:
    """Level shifts, changes of slope and outliers on a seasonal series."""
    rows = len(lengths)
    shape = 2 * shifts(rng, rows, time, rate=3.0) + _log_column(rng, rows, 0.05, 0.5) * irregular(
        rng, rows, time
    )
    shape += _chance(rng, rows, 0.5) * 2 * trend(rng, rows, time)
    shape += _log_column(rng, rows, 0.05, 1.0) * season(rng, lengths, time)
    outlier = (rng.random((rows, time)) < 0.01) * rng.standard_t(2, size=(rows, time)).clip(-9, 9)
    return _on_level(rng, shape + _chance(rng, rows, 0.3) * outlier)


def smooth(rng: Generator, lengths: Ints, time: int) -> Floats:
    """Draws from Gaussian processes: random Fourier features of RBF and rational kernels."""
    rows, features = len(lengths), 24
    scale = _log_column(rng, rows, 0.02, 1.0)[:, :, None]
    heavy = np.sqrt(rng.gamma(1.0, 1.0, size=(rows, features, 1)))
    waves = rng.normal(size=(rows, features, 1)) / scale
    waves = np.where(_chance(rng, rows, 0.5)[:, :, None] > 0, waves * heavy, waves)
    t = np.linspace(0, 1, time)[None, None, :]
    angle = (waves * t + 2 * np.pi * rng.random((rows, features, 1))).astype(np.float32)
    shape = np.sqrt(2 / features) * np.cos(angle).sum(axis=1).astype(np.float64)
    shape += 2 * _chance(rng, rows, 0.4) * trend(rng, rows, time)
    shape += _log_column(rng, rows, 0.01, 0.3) * irregular(rng, rows, time)
    shape += _log_column(rng, rows, 0.05, 1.0) * season(rng, lengths, time)
    return _on_level(rng, shape)


def intermittent(rng: Generator, lengths: Ints, time: int) -> Floats:
    """Counts with many zeros: Bernoulli occurrence × shifted geometric size, both drifting."""
    rows = len(lengths)
    logit = _column(rng, rows, -3.0, 0.7) + 0.5 * shifts(rng, rows, time, rate=1.0)
    logit += 0.4 * season(rng, lengths, time) + 1.5 * _chance(rng, rows, 0.2) * trend(
        rng, rows, time
    )
    occurs = rng.random((rows, time)) < 1 / (1 + np.exp(-logit))
    size = rng.geometric(1 / _log_column(rng, rows, 1.0, 20.0), size=(rows, time))
    return np.where(occurs, size, 0.0)


# --- shops -----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Shop:
    """Demand of articles and what drove it, all (rows, time).

    sales: units, after stock-outs and closed days. price: relative to the usual one. promotion and
    holiday: 1 where there is one. rate: expected demand. elasticity (rows, 1): d ln rate / d ln
    price. dispersion (rows, 1): variance is rate + rate² · dispersion.
    """

    sales: Floats
    price: Floats
    promotion: Floats
    holiday: Floats
    rate: Floats
    elasticity: Floats
    dispersion: Floats


def shop(rng: Generator, lengths: Ints, time: int) -> Shop:
    """Daily to monthly sales of articles: negative binomial about a driven rate."""
    rows = len(lengths)
    promotion = _spells(rng, rows, time, rate=_column(rng, rows, 0.0, 6.0), longest=8)
    holiday = _holidays(rng, rows, time)
    price = _price(rng, promotion)
    elasticity = -_log_column(rng, rows, 0.3, 4.0)
    dip = np.roll(promotion, 3, axis=1) * (1 - promotion)
    dip[:, :3] = 0
    log_rate = _log_column(rng, rows, 0.02, 1.0) * season(rng, lengths, time).clip(-3, 3)
    log_rate += _base(rng, rows, time)
    log_rate += _column(rng, rows, 0.0, 1.2) * promotion - _column(rng, rows, 0.0, 0.6) * dip
    log_rate += rng.normal(size=(rows, 1)) * 0.8 * holiday + elasticity * np.log(price)
    level = _log_column(rng, rows, 0.3, 3000.0)
    rate = np.clip(level * np.exp(np.clip(log_rate, -6, 4)), 1e-3, 1e7)
    dispersion = _log_column(rng, rows, 0.003, 1.0)
    demand = negative_binomial(rng, rate, dispersion)
    sales = demand * _open_days(rng, lengths, time) * _life(rng, rows, time)
    stocked = 1 - _chance(rng, rows, 0.2) * _spells(
        rng, rows, time, rate=_column(rng, rows, 0.0, 3.0), longest=10
    )
    return Shop(sales * stocked, price, promotion, holiday, rate, elasticity, dispersion)


def shop_sales(rng: Generator, lengths: Ints, time: int) -> Floats:
    """The sales of `shop` alone."""
    return shop(rng, lengths, time).sales


def negative_binomial(rng: Generator, rate: Floats, dispersion: Floats) -> Floats:
    """Counts of mean `rate` and variance rate + rate² · dispersion: Poisson of a gamma rate."""
    shape = np.broadcast_to(1 / dispersion, rate.shape)
    return rng.poisson(rng.gamma(shape, rate / shape)).astype(np.float64)


def _base(rng: Generator, rows: int, time: int) -> Floats:
    """Log level: a year's wave, a trend, a slow walk and shifts."""
    wave = _column(rng, rows, 0.0, 0.4) * np.sin(
        2 * np.pi * (np.arange(time) / _log_column(rng, rows, 50, 400) + _column(rng, rows, 0, 1))
    )
    walk = np.cumsum(rng.normal(size=(rows, time)), axis=1) * _log_column(rng, rows, 0.001, 0.06)
    slope = _log_column(rng, rows, 0.05, 1.0) * trend(rng, rows, time) * _chance(rng, rows, 0.5)
    jump = 0.4 * shifts(rng, rows, time, rate=1.0) * _chance(rng, rows, 0.3)
    return wave + walk + slope + jump


def _spells(rng: Generator, rows: int, time: int, *, rate: Floats, longest: int) -> Floats:
    """(rows, time) ones over spells of up to `longest` periods, `rate` of them in 100 periods."""
    start = (rng.random((rows, time)) < rate / 100) * rng.integers(
        1, longest + 1, size=(rows, time)
    )
    reach = np.maximum.accumulate(np.where(start > 0, np.arange(time) + start, 0), axis=1)
    return np.where(np.arange(time) < reach, 1.0, 0.0)


def _holidays(rng: Generator, rows: int, time: int) -> Floats:
    """(rows, time) ones at single periods that come back every so often, give or take one."""
    every = rng.integers(20, 180, size=(rows, 1))
    moved = rng.integers(-1, 2, size=(rows, time)) * _chance(rng, rows, 0.3).astype(np.int64)
    count = np.arange(time) + rng.integers(0, 180, size=(rows, 1)) + moved
    return np.where(count % every == 0, 1.0, 0.0)


def _price(rng: Generator, promotion: Floats) -> Floats:
    """(rows, time) price by steps, lowered during promotions by up to 40 %."""
    rows, time = promotion.shape
    steps = 0.08 * shifts(rng, rows, time, rate=2.0)
    off = _column(rng, rows, 0.0, 0.5) * _chance(rng, rows, 0.7)
    return np.exp(np.clip(steps, -0.5, 0.5) - off * promotion)


def _open_days(rng: Generator, lengths: Ints, time: int) -> Floats:
    """(rows, time) zeros on one phase of the season for an eighth of the rows, ones else."""
    shut = (rng.random(len(lengths)) < 0.125) & (lengths > 1)
    phase = rng.integers(0, np.maximum(lengths, 1))
    hit = (np.arange(time)[None, :] % np.maximum(lengths, 1)[:, None]) == phase[:, None]
    return np.where(hit & shut[:, None], 0.0, 1.0)


def _life(rng: Generator, rows: int, time: int) -> Floats:
    """(rows, time) share of full demand: launches ramp up, ends of life fade out; most live on."""
    t = np.arange(time)[None, :]
    launch = 1 / (
        1 + np.exp(-(t - _column(rng, rows, 0.0, 0.6) * time) / _log_column(rng, rows, 1, 15))
    )
    fade = 1 / (
        1 + np.exp((t - _column(rng, rows, 0.6, 1.0) * time) / _log_column(rng, rows, 1, 15))
    )
    draw = rng.random((rows, 1))
    return np.floor(1e6 * np.where(draw < 0.08, launch, np.where(draw > 0.95, fade, 1.0))) / 1e6


#: Families and their weights: more for trends that go on, a quarter and more for shops.
FAMILIES: tuple[tuple[Family, float], ...] = (
    (trend_season_irregular, 2.0),
    (exponential_smoothing, 2.5),
    (random_walk, 3.0),
    (stationary, 1.0),
    (regimes, 1.0),
    (smooth, 1.0),
    (intermittent, 0.6),
    (shop_sales, 3.8),
)
_SHARES = np.array([share for _, share in FAMILIES]) / sum(share for _, share in FAMILIES)


# --- augmentation ----------------------------------------------------------------------------


def _augmented(rng: Generator, values: Floats, lengths: Ints) -> Floats:
    rows = len(values)
    values = np.where(_chance(rng, rows, 0.12) > 0, _mixed(rng, values, lengths), values)
    bend = np.exp(_column(rng, rows, -0.7, 0.7) * trend(rng, rows, values.shape[1]).clip(-2, 2))
    values = np.where(_chance(rng, rows, 0.08) > 0, values * bend, values)
    values = np.where(_chance(rng, rows, 0.08) > 0, -values, values)
    return np.where(_chance(rng, rows, 0.03) > 0, _censored(rng, values), values)


def _mixed(rng: Generator, values: Floats, lengths: Ints) -> Floats:
    """TSMixup: convex mixtures with another row of the same season, each scaled to mean size 1."""
    scale = np.maximum(np.abs(values).mean(axis=1, keepdims=True), 1e-9)
    order = np.argsort(lengths + rng.random(len(lengths)) * 0.5)
    partner = np.empty_like(order)
    partner[order] = np.roll(order, 1)
    share = _column(rng, len(values), 0.1, 0.9)
    return np.asarray(share * values / scale + (1 - share) * (values / scale)[partner])


def _censored(rng: Generator, values: Floats) -> Floats:
    """Values cut at a high or a low quantile of theirs."""
    low = np.quantile(values, rng.uniform(0.0, 0.3), axis=1, keepdims=True)
    high = np.quantile(values, rng.uniform(0.7, 1.0), axis=1, keepdims=True)
    return np.where(
        _chance(rng, len(values), 0.5) > 0, np.maximum(values, low), np.minimum(values, high)
    )


# --- groups ----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Grouped:
    """Rows that belong together: (rows, time) values, group numbers, and what each row is.

    target: rows to be forecast. known: rows whose future is given (never a target).
    """

    values: Floats
    group: Ints
    target: NDArray[np.bool_]
    known: NDArray[np.bool_]


def singles(rng: Generator, lengths: Ints, time: int) -> Grouped:
    """Series of their own (see `windows`), each to be forecast."""
    count = len(lengths)
    target, known = np.ones(count, dtype=np.bool_), np.zeros(count, dtype=np.bool_)
    return Grouped(windows(rng, lengths, time), np.arange(count), target, known)


def groups(rng: Generator, lengths: Ints, time: int) -> Grouped:
    """Groups of one to two targets with up to three covariates; group i has season `lengths[i]`.

    Three in ten are shops with price, promotion and holiday; half are linear or threshold responses
    to covariates, some lagged; the rest are targets of a common factor. Some covariates bear on
    nothing, and some are known for the past alone.
    """
    kinds = rng.choice(3, p=[0.3, 0.5, 0.2], size=len(lengths))
    parts = [
        make(rng, lengths[kinds == i], time, np.flatnonzero(kinds == i))
        for i, make in enumerate((_shop_groups, _response_groups, _factor_groups))
        if (kinds == i).any()
    ]
    return Grouped(
        np.concatenate([p.values for p in parts]),
        np.concatenate([p.group for p in parts]),
        np.concatenate([p.target for p in parts]),
        np.concatenate([p.known for p in parts]),
    )


def _stacked(targets: Floats, covariates: list[Floats], group: Ints, known: Floats) -> Grouped:
    """Targets (n, time), covariates each (n, time), `known` (n, 1) whether theirs are."""
    count = 1 + len(covariates)
    target = np.repeat(np.arange(count) == 0, len(targets))
    told = np.tile(known[:, 0] > 0, count) & ~target
    return Grouped(np.concatenate([targets, *covariates]), np.tile(group, count), target, told)


def _shop_groups(rng: Generator, lengths: Ints, time: int, group: Ints) -> Grouped:
    made = shop(rng, lengths, time)
    return _stacked(
        made.sales,
        [made.price, made.promotion, made.holiday],
        group,
        _chance(rng, len(lengths), 0.85),
    )


def _response_groups(rng: Generator, lengths: Ints, time: int, group: Ints) -> Grouped:
    """Target = own course + response to the first covariate (lag 0 to 3); the second is idle."""
    rows = len(lengths)
    own = _log_column(rng, rows, 0.1, 1.0) * _standard(windows(rng, lengths, time))
    drivers = [_driver(rng, lengths, time) for _ in range(2)]
    lag = int(rng.integers(0, 4)) if rng.random() < 0.3 else 0
    felt = np.roll(drivers[0], lag, axis=1)
    felt[:, :lag] = felt[:, lag : lag + 1]
    felt = np.where(_chance(rng, rows, 0.2) > 0, (felt > 0.5) * 1.5, felt)
    share = _log_column(rng, rows, 0.2, 4.0) * rng.choice([-1.0, 1.0], size=(rows, 1))
    return _stacked(own + share * felt, drivers, group, _chance(rng, rows, 0.8))


def _driver(rng: Generator, lengths: Ints, time: int) -> Floats:
    """A covariate: spells, noise, an autoregressive course or any series."""
    rows = len(lengths)
    spells = _spells(rng, rows, time, rate=_column(rng, rows, 1.0, 10.0), longest=6)
    course = autoregressive(rng, _column(rng, rows, 0.0, 0.95), time)
    kind = rng.integers(0, 3, size=(rows, 1))
    return np.select(
        [kind == 0, kind == 1],
        [spells, course],
        default=_standard(windows(rng, np.zeros_like(lengths), time)),
    )


def _factor_groups(rng: Generator, lengths: Ints, time: int, group: Ints) -> Grouped:
    """Two targets that share a course, one perhaps ahead of the other."""
    rows = len(lengths)
    common = _standard(windows(rng, lengths, time))
    lead = int(rng.integers(0, 9)) if rng.random() < 0.5 else 0
    share = _log_column(rng, rows, 0.05, 1.0)
    first = common + share * irregular(rng, rows, time)
    second = np.roll(common, lead, axis=1) * rng.choice([-1.0, 1.0], p=[0.2, 0.8], size=(rows, 1))
    second[:, :lead] = second[:, lead : lead + 1]
    second += share * irregular(rng, rows, time)
    both = _stacked(first, [second], group, np.zeros((rows, 1)))
    return Grouped(both.values, both.group, np.ones(2 * rows, dtype=np.bool_), both.known)


def _standard(values: Floats) -> Floats:
    mean = values.mean(axis=1, keepdims=True)
    return np.asarray((values - mean) / np.maximum(values.std(axis=1, keepdims=True), 1e-9))
