"""Parts of synthetic series: seasons, trends, noises, recursions and what puts them together.

Invariant: every function of a generator is vectorised over (rows, time), without a loop over time,
and gives finite values; the same generator state and arguments give the same values.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Flags = NDArray[np.bool_]
Ints = NDArray[np.int64]
#: (generator, season lengths, time) → (rows, time)
Family = Callable[[Generator, Ints, int], Floats]
Values = TypeVar("Values", NDArray[np.float64], NDArray[np.complex128])

#: Periods of the cycle around a season: the year of days and business days, the week of hours.
OUTER = {5: 260.9, 7: 365.25, 24: 168.0, 96: 672.0}


def mixture(
    rng: Generator, lengths: Ints, time: int, families: Sequence[tuple[Family, float]]
) -> Floats:
    """(rows, time), each row of one of the families, drawn by their weights."""
    weights = np.array([weight for _, weight in families])
    picks = rng.choice(len(families), size=len(lengths), p=weights / weights.sum())
    return picked(rng, lengths, time, [family for family, _ in families], picks)


def picked(
    rng: Generator, lengths: Ints, time: int, families: Sequence[Family], picks: Ints
) -> Floats:
    """(rows, time), row i of `families[picks[i]]`."""
    values = np.empty((len(lengths), time))
    for i in np.unique(picks).tolist():
        rows = picks == i
        values[rows] = families[i](rng, lengths[rows], time)
    return values


# --- draws of one number a row ---------------------------------------------------------------


def column(rng: Generator, rows: int, low: float, high: float) -> Floats:
    """(rows, 1) uniform numbers."""
    return rng.uniform(low, high, size=(rows, 1))


def log_column(rng: Generator, rows: int, low: float, high: float) -> Floats:
    """(rows, 1) numbers whose logarithms are uniform."""
    return np.exp(rng.uniform(np.log(low), np.log(high), size=(rows, 1)))


def chance(rng: Generator, rows: int, share: float) -> Floats:
    """(rows, 1) ones at that share, zeros else."""
    return np.where(rng.random((rows, 1)) < share, 1.0, 0.0)


# --- recursions ------------------------------------------------------------------------------


def recursion(noise: Values, phi: Values, *, lag: int = 1) -> Values:
    """y[t] = phi · y[t - lag] + noise[t] of each row, phi (rows, 1), |phi| at most 1.

    Doubles its reach at each pass, (1 + φL)(1 + φ²L²)…, so that it needs log₂ time passes.
    """
    out, power, time = noise.copy(), phi, noise.shape[1]
    while lag < time and np.abs(power).max(initial=0.0) > 1e-9:
        out[:, lag:] = out[:, lag:] + power * out[:, :-lag]
        power, lag = power * power, 2 * lag
    return out


def seasonal_recursion(noise: Floats, phi: Floats, lengths: Ints) -> Floats:
    """`recursion` at the season's lag of each row; rows without a season stay as they are."""
    out = noise.copy()
    for length in np.unique(lengths[lengths > 1]).tolist():
        rows = lengths == length
        out[rows] = recursion(noise[rows], phi[rows], lag=length)
    return out


def autoregressive(rng: Generator, phi: Floats, time: int) -> Floats:
    """(rows, time) AR(1) of coefficients `phi` (rows, 1), deviation about 1."""
    noise = rng.normal(size=(len(phi), time + _BURN))
    return _unit(recursion(noise, phi)[:, _BURN:])


def cyclic(rng: Generator, radius: Floats, angle: Floats, time: int) -> Floats:
    """(rows, time) AR(2) with roots 1 / (radius · exp(± i angle)), deviation about 1.

    Its coefficients are 2 radius cos(angle) and -radius²: a cycle of about 2π / angle periods.
    """
    root = radius * np.exp(1j * angle)
    noise = rng.normal(size=(len(radius), time + _BURN)).astype(np.complex128)
    return _unit((root * recursion(noise, root)).imag[:, _BURN:])


_BURN = 64


def _unit(values: Floats) -> Floats:
    return np.asarray(values / np.maximum(values.std(axis=1, keepdims=True), 1e-6))


# --- courses ---------------------------------------------------------------------------------


def season(rng: Generator, lengths: Ints, time: int) -> Floats:
    """(rows, time) pattern of period `lengths[i]`, mean 0 and standard deviation 1; 0 where none.

    Half of the patterns are sums of few harmonics, a fifth of them peaked as summers are; half are
    free, spiky as a weekend is.
    """
    longest = max(int(lengths.max(initial=1)), 1)
    rows = len(lengths)
    m = np.maximum(lengths, 1)[:, None]
    table = np.empty((rows, longest))
    free = rng.random(rows) < 0.5
    table[free] = rng.standard_t(4, size=(int(free.sum()), longest))
    table[~free] = _harmonics(rng, np.arange(longest)[None, :] / m[~free])
    inside = np.arange(longest)[None, :] < m
    mean = np.where(inside, table, 0).sum(axis=1, keepdims=True) / m
    spread = np.sqrt((np.where(inside, table - mean, 0) ** 2).sum(axis=1, keepdims=True) / m)
    table = np.where(spread > 1e-9, (table - mean) / np.where(spread > 1e-9, spread, 1), 0.0)
    steps = (np.arange(time)[None, :] + rng.integers(0, longest, size=(rows, 1))) % m
    pattern = np.take_along_axis(table, steps, axis=1)
    return np.where(lengths[:, None] > 1, pattern, 0.0)


def _harmonics(rng: Generator, phase: Floats) -> Floats:
    """Sums of three waves at the phases (rows, longest), for a fifth of the rows as logarithms."""
    rows = len(phase)
    waves = np.zeros(phase.shape)
    for k in range(1, 4):
        angle = 2 * np.pi * (k * phase + rng.random((rows, 1)))
        waves += np.sin(angle) * rng.normal(size=(rows, 1)) / k
    peaked = rng.random(rows) < 0.2
    waves[peaked] = np.exp(1.5 * waves[peaked].clip(-2, 2))
    return waves


def outer_length(rng: Generator, lengths: Ints) -> Floats:
    """(rows,) periods of the cycle around the season: a year for days, a week for hours.

    Rows without a season have a year of days or of weeks; others none: 0.
    """
    none = rng.choice([52.18, 365.25], size=len(lengths))
    known = np.select([lengths == m for m in OUTER], list(OUTER.values()), default=0.0)
    return np.where(lengths <= 1, none, known)


def outer_season(rng: Generator, lengths: Ints, time: int) -> Floats:
    """(rows, time) smooth yearly or weekly wave of deviation about 1, with a peak as at Christmas.

    Of mean about 0 over a cycle; 0 for rows whose season has no cycle around it.
    """
    rows = len(lengths)
    year = outer_length(rng, lengths)[:, None]
    turn = 2 * np.pi * (np.arange(time) / np.maximum(year, 1) + rng.random((rows, 1)))
    wave = np.sin(turn) + column(rng, rows, 0, 0.5) * np.sin(2 * turn + column(rng, rows, 0, 6))
    peak = np.exp(30 * (np.cos(turn + column(rng, rows, 0, 6.3)) - 1)) - 0.07
    wave = wave + 3 * chance(rng, rows, 0.4) * column(rng, rows, 0, 1) * peak
    return np.where(year > 1, wave, 0.0)


def shifts(rng: Generator, rows: int, time: int, *, rate: float) -> Floats:
    """(rows, time) piecewise constant level, jumps of deviation 1 at `rate` a window."""
    jumps = np.zeros((rows, time))
    hit = np.nonzero(rng.random((rows, time), dtype=np.float32) < rate / time)
    jumps[hit] = rng.normal(size=len(hit[0]))
    return np.cumsum(jumps, axis=1)


def trend(rng: Generator, rows: int, time: int) -> Floats:
    """(rows, time) smooth trend from 0, of size about 1 over the window.

    Straight, bent, damped, exponential or with kinks: all go on after the context ends.
    """
    shape = np.linspace(0, 1, time)[None, :].repeat(rows, axis=0)
    bent, damped, growing, kinked = rng.integers(0, 5, size=rows) == np.arange(4)[:, None]
    shape[bent] += rng.normal(size=(int(bent.sum()), 1)) * shape[bent] ** 2
    for curved, sign in ((damped, -1.0), (growing, 0.5)):
        rate = sign * log_column(rng, int(curved.sum()), 1.0, 8.0)
        shape[curved] = np.expm1(rate * shape[curved]) / np.expm1(rate)
    kinks = shifts(rng, int(kinked.sum()), time, rate=2.0)
    shape[kinked] += np.cumsum(kinks, axis=1) / time
    return rng.normal(size=(rows, 1)) * shape


def gaussian_process(rng: Generator, scale: Floats, time: int) -> Floats:
    """(rows, time) smooth paths of variance 1 and length scale `scale` (rows, 1), in windows.

    By their spectrum over two windows: of the squared exponential kernel for half of the rows, with
    the heavier tail of a rational one for the others.
    """
    rows, waves = len(scale), min(96, time)
    steps = (np.pi * np.arange(waves) * scale) ** 2  # (2π · frequency · scale)², frequency k / 2
    size = np.where(chance(rng, rows, 0.5) > 0, np.exp(-steps / 4), 1 / (1 + steps))
    size[:, 1:] /= np.sqrt(2)
    size /= np.sqrt(4 * (size**2).sum(axis=1, keepdims=True) - 3 * size[:, :1] ** 2)
    drawn = rng.normal(size=(rows, waves)) + 1j * rng.normal(size=(rows, waves))
    return np.asarray(np.fft.irfft(size * drawn, n=2 * time, norm="forward")[:, :time])


def irregular(rng: Generator, rows: int, time: int) -> Floats:
    """(rows, time) noise of deviation about 1: normal, heavy-tailed or of changing variance."""
    noise = rng.normal(size=(rows, time))
    heavy = np.flatnonzero(rng.random(rows) < 0.3)
    noise[heavy] /= np.sqrt(rng.chisquare(3, size=(len(heavy), time)))  # Student's t(3) / √3
    loud = np.flatnonzero(rng.random(rows) < 0.2)
    noise[loud] *= np.exp(0.5 * np.clip(shifts(rng, len(loud), time, rate=2.0), -3, 3))
    return noise


def spells(rng: Generator, rows: int, time: int, *, share: Floats, longest: Ints) -> Floats:
    """(rows, time) ones over spells of 1 to `longest` (rows, 1) periods, about `share` of the time.

    Half of the rows have spells of one duration.
    """
    several = rng.random((rows, 1)) < 0.5
    mean = np.where(several, (1 + longest) / 2, longest)
    rate = -np.log1p(-np.minimum(share, 0.95)) / mean
    row, start = np.nonzero(rng.random((rows, time), dtype=np.float32) < rate)
    longest = longest[row, 0]
    duration = np.where(several[row, 0], rng.integers(1, longest + 1), longest)
    end = np.zeros((rows, time), dtype=np.int64)
    end[row, start] = start + duration
    return np.where(np.arange(time) < np.maximum.accumulate(end, axis=1), 1.0, 0.0)


# --- putting together ------------------------------------------------------------------------


def shifted(values: Floats, lag: Ints) -> Floats:
    """Rows `lag` (rows, 1) periods later, the first value repeated before it."""
    steps = np.maximum(np.arange(values.shape[1])[None, :] - lag, 0)
    return np.take_along_axis(values, steps, axis=1)


def standard(values: Floats) -> Floats:
    """Rows of mean 0 and deviation 1."""
    mean = values.mean(axis=1, keepdims=True)
    return np.asarray((values - mean) / np.maximum(values.std(axis=1, keepdims=True), 1e-9))


def on_level(rng: Generator, shape: Floats) -> Floats:
    """Move rows onto levels that make most of them positive, as counts and sales are."""
    low = -shape.min(axis=1, keepdims=True)
    spread = np.maximum(shape.std(axis=1, keepdims=True), 1e-6)
    rows = len(shape)
    lift = low + spread * log_column(rng, rows, 0.05, 20.0)
    return shape + np.where(chance(rng, rows, 0.8) > 0, lift, 0.0)


def exponential(rng: Generator, values: Floats) -> Floats:
    """Rows as logarithms, centred and brought within 0.1 to 2 of 0, exponentiated."""
    centred = values - values.mean(axis=1, keepdims=True)
    spread = np.maximum(np.abs(centred).max(axis=1, keepdims=True), 1e-9)
    return np.asarray(np.exp(centred / spread * log_column(rng, len(values), 0.1, 2.0)))
