"""Families of textbook processes: decomposition, ETS, SARIMA, walks, cycles, kernels, graphs.

Invariant: a family is a function (generator, season lengths, time) → (rows, time) of finite values;
row i has season `lengths[i]` where its process has one, and none where that is 0.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from models.synth.parts import (
    Floats,
    Ints,
    autoregressive,
    chance,
    column,
    cyclic,
    exponential,
    gaussian_process,
    irregular,
    log_column,
    on_level,
    recursion,
    season,
    seasonal_recursion,
    shifted,
    shifts,
    standard,
    trend,
)

if TYPE_CHECKING:
    from numpy.random import Generator


def trend_season_irregular(rng: Generator, lengths: Ints, time: int) -> Floats:
    """Trend × or + season × or + irregular, as in classical decomposition."""
    rows = len(lengths)
    size = log_column(rng, rows, 0.02, 3.0) * chance(rng, rows, 0.8)
    drift = size * trend(rng, rows, time)
    swing = log_column(rng, rows, 0.02, 0.8) * season(rng, lengths, time)
    noise = log_column(rng, rows, 0.005, 0.3) * irregular(rng, rows, time)
    added = on_level(rng, drift + swing + noise)
    level = 1 + drift - np.minimum(drift.min(axis=1, keepdims=True), 0.0)
    times = level * np.exp(np.clip(swing - swing**2 / 2, -3, 3) + np.clip(noise, -3, 3))
    return np.where(chance(rng, rows, 0.5) > 0, times, added)


def exponential_smoothing(rng: Generator, lengths: Ints, time: int) -> Floats:
    """State space models of exponential smoothing: ETS(A or M, N/A/Ad, N/A) by simulation."""
    rows = len(lengths)
    alpha = rng.beta(1.5, 2.0, size=(rows, 1))
    beta = 0.3 * rng.beta(1, 6, size=(rows, 1)) * chance(rng, rows, 0.7)
    phi = np.where(chance(rng, rows, 0.4) > 0, column(rng, rows, 0.85, 0.98), 1.0)
    noise = irregular(rng, rows, time)
    change = alpha * beta * noise
    change[:, :1] += rng.normal(size=(rows, 1)) * 0.3 * chance(rng, rows, 0.7)
    slope = recursion(change, phi)
    before = np.zeros((rows, time))  # what the state before says of this period
    before[:, 1:] = np.cumsum(phi * slope + alpha * noise, axis=1)[:, :-1]
    out = before + noise
    scale = np.maximum(out.std(axis=1, keepdims=True), 1.0)
    swing = log_column(rng, rows, 0.05, 2.0) * season(rng, lengths, time)
    additive = on_level(rng, out + scale * swing)
    return np.where(chance(rng, rows, 0.3) > 0, exponential(rng, additive), additive)


def seasonal_arima(rng: Generator, lengths: Ints, time: int) -> Floats:
    """SARIMA (1, 0 or 1, 1)(1, 0 or 1, 1) with drift, in levels or logarithms.

    (1 - φB)(1 - ΦBᵐ) y = (1 + θB)(1 + ΘBᵐ) ε, Φ = 1 (a season that moves slowly) for half of the
    rows, then summed for half of them.
    """
    rows = len(lengths)
    m = np.maximum(lengths, 1)[:, None]
    integrated = chance(rng, rows, 0.5)
    seasonal_unit = chance(rng, rows, 0.5)
    y = irregular(rng, rows, time)
    y += column(rng, rows, -0.6, 0.4) * _lagged(y, np.ones_like(m))
    theta = np.where(seasonal_unit > 0, column(rng, rows, -0.95, -0.5), column(rng, rows, -0.4, 0))
    y += theta * _lagged(y, m) * (m > 1)
    y += 2 * np.where(seasonal_unit * (np.arange(time) < m) > 0, season(rng, lengths, time), 0)
    y = recursion(y, column(rng, rows, -0.4, 0.8) * np.where(integrated > 0, 0.6, 1.0))
    big_phi = np.where(seasonal_unit > 0, 1.0, column(rng, rows, 0.2, 0.9))
    y = seasonal_recursion(y, big_phi, lengths)
    drift = rng.normal(size=(rows, 1)) * log_column(rng, rows, 0.01, 0.6)
    y = np.where(integrated > 0, np.cumsum(y + drift, axis=1), y)
    return np.where(chance(rng, rows, 0.4) > 0, exponential(rng, y), on_level(rng, y))


def _lagged(values: Floats, lag: Ints) -> Floats:
    """Rows `lag` (rows, 1) periods later, zero before."""
    return np.where(np.arange(values.shape[1]) < lag, 0.0, shifted(values, lag))


def random_walk(rng: Generator, lengths: Ints, time: int) -> Floats:
    """Random walk with drift, in levels or in logarithms: the trend goes on.

    The drift is up to one and a half deviations of a step; a third of the steps are correlated.
    """
    rows = len(lengths)
    steps = irregular(rng, rows, time)
    joined = np.flatnonzero(rng.random(rows) < 0.3)
    steps[joined] = autoregressive(rng, column(rng, len(joined), -0.4, 0.8), time)
    drift = rng.normal(size=(rows, 1)) * log_column(rng, rows, 0.02, 1.0)
    walk = np.cumsum(steps + drift, axis=1)
    walk += log_column(rng, rows, 0.02, 1.0) * rng.normal(size=walk.shape)
    scale = np.maximum(walk.std(axis=1, keepdims=True), 1e-6)
    swing = log_column(rng, rows, 0.02, 1.0) * season(rng, lengths, time)
    additive = on_level(rng, walk + scale * swing)
    return np.where(chance(rng, rows, 0.4) > 0, exponential(rng, walk + scale * swing), additive)


def stationary(rng: Generator, lengths: Ints, time: int) -> Floats:
    """AR(1) and AR(2) series, cycles among them, about a level, with or without a season."""
    rows = len(lengths)
    turning = rng.random(rows) < 0.4
    shape = np.empty((rows, time))
    turns = int(turning.sum())
    radius, angle = column(rng, turns, 0.3, 0.98), column(rng, turns, 0.1, 3.0)
    shape[turning] = cyclic(rng, radius, angle, time)
    shape[~turning] = autoregressive(rng, 1 - log_column(rng, rows - turns, 0.02, 1.2), time)
    shape += log_column(rng, rows, 0.1, 2.0) * season(rng, lengths, time)
    return on_level(rng, shape)


def ornstein_uhlenbeck(rng: Generator, lengths: Ints, time: int) -> Floats:
    """Ornstein–Uhlenbeck paths: they start away from the mean and come back to it.

    Exact at the periods: AR(1) of coefficient exp(-1 / reversion time), a share of the window.
    """
    rows = len(lengths)
    phi = np.exp(-1 / np.maximum(log_column(rng, rows, 0.02, 0.5) * time, 0.5))
    noise = np.sqrt(1 - phi**2) * rng.normal(size=(rows, time))
    noise[:, :1] = rng.normal(size=(rows, 1)) * log_column(rng, rows, 0.5, 6.0)
    shape = recursion(noise, phi)
    shape += log_column(rng, rows, 0.05, 1.0) * season(rng, lengths, time)
    return np.where(chance(rng, rows, 0.3) > 0, exponential(rng, shape), on_level(rng, shape))


def regimes(rng: Generator, lengths: Ints, time: int) -> Floats:
    """Level shifts, changes of slope and outliers on a seasonal series."""
    rows = len(lengths)
    noise = log_column(rng, rows, 0.05, 0.5) * irregular(rng, rows, time)
    shape = 2 * shifts(rng, rows, time, rate=3.0) + noise
    shape += chance(rng, rows, 0.5) * 2 * trend(rng, rows, time)
    shape += log_column(rng, rows, 0.05, 1.0) * season(rng, lengths, time)
    struck = np.nonzero(chance(rng, rows, 0.3) * (rng.random((rows, time)) < 0.01))
    shape[struck] += rng.standard_t(2, size=len(struck[0])).clip(-9, 9)
    return on_level(rng, shape)


def moving_season(rng: Generator, lengths: Ints, time: int) -> Floats:
    """A season whose size drifts, or whose pattern goes over into another, about a trend."""
    rows = len(lengths)
    first, second = season(rng, lengths, time), season(rng, lengths, time)
    middle, width = column(rng, rows, 0.1, 0.9), log_column(rng, rows, 0.03, 0.5)
    share = 1 / (1 + np.exp(-(np.linspace(0, 1, time) - middle) / width))
    turning = chance(rng, rows, 0.5)
    size = np.exp(gaussian_process(rng, log_column(rng, rows, 0.2, 2.0), time))
    pattern = np.where(turning > 0, (1 - share) * first + share * second, size * first)
    shape = log_column(rng, rows, 0.1, 0.5) * pattern
    shape += log_column(rng, rows, 0.02, 2.0) * trend(rng, rows, time)
    shape += log_column(rng, rows, 0.01, 0.15) * irregular(rng, rows, time)
    return np.where(chance(rng, rows, 0.5) > 0, np.exp(shape.clip(-6, 6)), on_level(rng, shape))


def kernels(rng: Generator, lengths: Ints, time: int) -> Floats:
    """Kernel compositions: sums and products of smooth, periodic and linear paths, and noise.

    A product of independent paths has the product of their kernels as its covariance.
    """
    rows = len(lengths)
    slow = gaussian_process(rng, log_column(rng, rows, 0.15, 1.5), time)
    fast = gaussian_process(rng, log_column(rng, rows, 0.02, 0.2), time)
    wave = season(rng, lengths, time)
    periodic = np.where(lengths[:, None] > 1, wave, fast)
    line = rng.normal(size=(rows, 1)) + 2 * rng.normal(size=(rows, 1)) * np.linspace(0, 1, time)
    shapes = [
        slow + periodic,
        slow * periodic,  # locally periodic
        line * periodic,  # a season that grows
        line + periodic,
        slow + fast,
        slow * fast + line,
        line**2 + periodic,
        line * slow + periodic,
    ]
    picked = rng.integers(0, len(shapes), size=(1, rows, 1))
    shape = np.take_along_axis(np.stack(shapes), picked, axis=0)[0]
    shape += log_column(rng, rows, 0.01, 0.3) * irregular(rng, rows, time)
    return on_level(rng, shape)


def spikes(rng: Generator, lengths: Ints, time: int) -> Floats:
    """A quiet base with spikes, once a season or at random times, that fade within some periods."""
    rows = len(lengths)
    m = np.maximum(lengths, 1)[:, None]
    regular = (np.arange(time) + rng.integers(0, m)) % m == 0
    random = rng.random((rows, time)) < log_column(rng, rows, 0.01, 0.15)
    hit = np.where((lengths[:, None] > 2) & (rng.random((rows, 1)) < 0.6), regular, random)
    size = log_column(rng, rows, 2.0, 20.0)
    spread = chance(rng, rows, 0.5) * column(rng, rows, 0.1, 0.6)
    height = size * hit * np.exp(spread * rng.normal(size=(rows, time)))
    fade = chance(rng, rows, 0.5) * column(rng, rows, 0.1, 0.8)
    shape = recursion(height, fade) + log_column(rng, rows, 0.1, 1.0) * irregular(rng, rows, time)
    shape = shape * rng.choice([1.0, -1.0], p=[0.85, 0.15], size=(rows, 1))
    return on_level(rng, shape + chance(rng, rows, 0.3) * size * trend(rng, rows, time))


def sawtooths(rng: Generator, lengths: Ints, time: int) -> Floats:
    """Ramps that fall back, triangles and steps of the season's period, or of one of 5 to 60.

    As stocks that are drawn down and filled up, or rates that are reset.
    """
    rows = len(lengths)
    own = np.round(log_column(rng, rows, 5, 60))
    period = np.where(lengths[:, None] > 2, lengths[:, None], own)
    phase = ((np.arange(time) + rng.integers(0, 60, size=(rows, 1))) % period) / period
    corner = column(rng, rows, 0.1, 0.9)
    triangle = np.where(phase < corner, phase / corner, (1 - phase) / (1 - corner))
    kind = rng.integers(0, 4, size=(rows, 1))
    wave = np.select(
        [kind == 0, kind == 1, kind == 2], [phase, 1 - phase, triangle], default=phase < corner
    )
    shape = wave + log_column(rng, rows, 0.005, 0.2) * irregular(rng, rows, time)
    return on_level(rng, shape + chance(rng, rows, 0.5) * 2 * trend(rng, rows, time))


def intermittent(rng: Generator, lengths: Ints, time: int) -> Floats:
    """Counts with many zeros: Bernoulli occurrence × shifted geometric size, both drifting."""
    rows = len(lengths)
    logit = column(rng, rows, -3.0, 0.7) + 0.5 * shifts(rng, rows, time, rate=1.0)
    logit += 0.4 * season(rng, lengths, time)
    logit += 1.5 * chance(rng, rows, 0.2) * trend(rng, rows, time)
    occurs = np.nonzero(rng.random((rows, time)) < 1 / (1 + np.exp(-logit)))
    mean = log_column(rng, rows, 1.0, 20.0)
    counts = np.zeros((rows, time))
    counts[occurs] = rng.geometric(1 / mean[occurs[0], 0])
    return counts


# --- causal graphs ---------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Graph:
    """Series that drive one another: (nodes, rows, time) values, causes before effects.

    weight[i, j] (rows, 1) is what node i, `lag[i, j]` (rows, 1) periods before, adds to node j > i.
    """

    values: Floats
    weight: dict[tuple[int, int], Floats]
    lag: dict[tuple[int, int], Ints]


def causal_graph(rng: Generator, lengths: Ints, time: int, *, nodes: int) -> Graph:
    """A random temporal graph: x_j[t] = φ_j x_j[t-1] + Σ w_ij g(x_i[t - lag_ij]) + ε_j.

    g is the identity or a hyperbolic tangent. Nodes before the last are drawn with courses of their
    own, seasonal, cyclic or smooth, and the last hears of each by a chance of two in three.
    """
    rows = len(lengths)
    values = np.empty((nodes, rows, time))
    weight: dict[tuple[int, int], Floats] = {}
    lag: dict[tuple[int, int], Ints] = {}
    for j in range(nodes):
        heard = log_column(rng, rows, 0.1, 0.6) * rng.normal(size=(rows, time))
        heard += _course(rng, lengths, time) * (chance(rng, rows, 0.5) if j else 1.0)
        for i in range(j):
            size = log_column(rng, rows, 0.4, 2.0) * rng.choice([-1.0, 1.0], size=(rows, 1))
            weight[i, j] = size * chance(rng, rows, 0.4 if j < nodes - 1 else 0.67)
            lag[i, j] = rng.integers(0, 7, size=(rows, 1))
            cause = shifted(values[i], lag[i, j])
            bent = np.where(chance(rng, rows, 0.2) > 0, np.tanh(2 * cause), cause)
            heard += weight[i, j] * bent
        phi = column(rng, rows, 0.0, 0.7) * chance(rng, rows, 0.6)
        values[j] = standard(recursion(heard, phi)) if j < nodes - 1 else recursion(heard, phi)
    return Graph(values, weight, lag)


def _course(rng: Generator, lengths: Ints, time: int) -> Floats:
    """(rows, time) what drives a node from outside: a season with a smooth path or a cycle."""
    rows = len(lengths)
    smooth, course = rng.random(rows) < 0.5, np.empty((rows, time))
    count = int(smooth.sum())
    course[smooth] = gaussian_process(rng, log_column(rng, count, 0.02, 0.5), time)
    radius, angle = column(rng, rows - count, 0.5, 0.97), column(rng, rows - count, 0.1, 2.0)
    course[~smooth] = cyclic(rng, radius, angle, time)
    return course + log_column(rng, rows, 0.1, 1.5) * season(rng, lengths, time)


def causal(rng: Generator, lengths: Ints, time: int) -> Floats:
    """The last node of a causal graph of three, on a level or in logarithms."""
    values = causal_graph(rng, lengths, time, nodes=3).values[-1]
    rows = len(values)
    return np.where(chance(rng, rows, 0.3) > 0, exponential(rng, values), on_level(rng, values))
