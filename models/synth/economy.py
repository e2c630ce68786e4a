"""Families like the short series of the forecasting competitions: economies and tourism.

Rates are by the cycle (a year), not by the window: a short history holds little growth, a long one
much.

Invariant: a family is a function (generator, season lengths, time) → (rows, time) of finite values;
the season's length is the periods of a year, a row without a season is yearly.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from models.synth.parts import (
    Floats,
    Ints,
    chance,
    column,
    cyclic,
    gaussian_process,
    irregular,
    log_column,
    on_level,
    recursion,
    season,
    shifts,
)

if TYPE_CHECKING:
    from numpy.random import Generator


def economic(rng: Generator, lengths: Ints, time: int) -> Floats:
    """Macro- and micro-economic series: lasting or damped growth, business cycles, a season.

    Multiplicative for seven in ten; growth of -6 to 14 % a year that itself wanders slowly.
    """
    rows = len(lengths)
    log_level = _growth(rng, lengths, time) + _business_cycle(rng, lengths, time)
    log_level += 0.15 * chance(rng, rows, 0.25) * shifts(rng, rows, time, rate=1.0)
    swing = log_column(rng, rows, 0.01, 0.35) * season(rng, lengths, time)
    moved = 0.4 * gaussian_process(rng, log_column(rng, rows, 0.3, 2.0), time)
    swing *= np.exp(chance(rng, rows, 0.3) * moved) * chance(rng, rows, 0.85)
    noise = log_column(rng, rows, 0.002, 0.12) * irregular(rng, rows, time).clip(-8, 8)
    logs = _bounded(log_level, 6.0) + (swing + noise).clip(-3, 3)
    return np.where(chance(rng, rows, 0.7) > 0, np.exp(logs), on_level(rng, logs))


def _growth(rng: Generator, lengths: Ints, time: int) -> Floats:
    """(rows, time) logarithm of a level: steady, slowly wandering or fading growth, and shocks."""
    rows = len(lengths)
    per_year = np.maximum(lengths, 1)[:, None]
    steady = column(rng, rows, -0.06, 0.14) / per_year
    keep = column(rng, rows, 0.6, 0.97) ** (1 / per_year)
    wander = recursion(rng.normal(size=(rows, time)), keep) * np.sqrt(1 - keep**2)
    wander *= log_column(rng, rows, 0.005, 0.06) * chance(rng, rows, 0.7) / per_year
    shock = irregular(rng, rows, time).clip(-8, 8) / np.sqrt(per_year)
    shock *= log_column(rng, rows, 0.003, 0.12)
    fade = np.exp(-np.arange(time) / (per_year * log_column(rng, rows, 3, 30)))
    bent = np.where(chance(rng, rows, 0.3) > 0, 2 * fade, 1.0)
    return np.asarray(np.cumsum(steady * bent + wander + shock, axis=1))


def _business_cycle(rng: Generator, lengths: Ints, time: int) -> Floats:
    """(rows, time) waves of 4 to 11 years for two in five rows."""
    rows = len(lengths)
    some = np.flatnonzero(rng.random(rows) < 0.4)
    per_year = np.maximum(lengths[some], 1)[:, None]
    angle = 2 * np.pi / (column(rng, len(some), 4, 11) * per_year)
    radius = column(rng, len(some), 0.75, 0.97) ** (1 / per_year)
    waves = np.zeros((rows, time))
    size = log_column(rng, len(some), 0.02, 0.15)
    waves[some] = size * cyclic(rng, radius, angle, time)
    return waves


def _bounded(logs: Floats, most: float) -> Floats:
    """Logarithms squeezed so that a row spans at most `most`."""
    span = np.maximum(np.ptp(logs, axis=1, keepdims=True), 1e-9)
    return np.asarray(logs * np.minimum(1.0, most / span))


def tourism(rng: Generator, lengths: Ints, time: int) -> Floats:
    """Guests and nights: a strong multiplicative season that moves slowly, growth, and crises.

    A crisis takes away 5 to 50 % at once, and most of it comes back over one to four years.
    """
    rows = len(lengths)
    per_year = np.maximum(lengths, 1)[:, None]
    shock = irregular(rng, rows, time).clip(-8, 8) / np.sqrt(per_year)
    steps = column(rng, rows, -0.02, 0.12) / per_year + log_column(rng, rows, 0.005, 0.06) * shock
    struck = (rng.random((rows, time)) < 0.06 / per_year) * chance(rng, rows, 0.4)
    loss = struck * rng.uniform(0.05, 0.7, size=(rows, time))
    crisis = recursion(loss, np.exp(-2 / (per_year * column(rng, rows, 1, 4))))
    first, second = season(rng, lengths, time), season(rng, lengths, time)
    share = chance(rng, rows, 0.4) * column(rng, rows, 0, 0.5) * np.linspace(0, 1, time)
    swing = log_column(rng, rows, 0.1, 0.8) * ((1 - share) * first + share * second)
    noise = log_column(rng, rows, 0.01, 0.12) * irregular(rng, rows, time)
    logs = _bounded(np.cumsum(steps, axis=1), 5.0) - crisis.clip(0, 3) + (swing + noise).clip(-3, 3)
    return np.asarray(np.exp(logs))
