"""What is done to series of all families alike: mixed, coarsened, bent, flipped, cut, rounded.

Invariant: an augmented row keeps the season length that was asked for it, and stays finite.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from models.synth.parts import (
    Floats,
    Ints,
    chance,
    column,
    gaussian_process,
    log_column,
    trend,
)

if TYPE_CHECKING:
    from numpy.random import Generator


def down_sampled(rng: Generator, values: Floats, factor: int) -> Floats:
    """Sums of `factor` periods each, as weeks of days, or every such period for a third."""
    parts = values.reshape(len(values), values.shape[1] // factor, factor)
    return np.where(chance(rng, len(values), 0.33) > 0, parts[:, :, 0], parts.sum(axis=2))


def augmented(rng: Generator, values: Floats, lengths: Ints) -> Floats:
    """Each step takes a few rows: mixed, modulated, reversed, flipped, censored, rounded."""
    values = values.copy()
    for share, change in (
        (0.12, mixed),
        (0.08, modulated),
        (0.03, reversed_in_time),
        (0.08, flipped),
        (0.03, censored),
        (0.05, rounded),
    ):
        rows = np.flatnonzero(rng.random(len(values)) < share)
        if len(rows) > 1:
            values[rows] = change(rng, values[rows], lengths[rows])
    return values


def mixed(rng: Generator, values: Floats, lengths: Ints) -> Floats:
    """TSMixup: convex mixtures with another row of the same season, each scaled to mean size 1."""
    scale = np.maximum(np.abs(values).mean(axis=1, keepdims=True), 1e-9)
    order = np.argsort(lengths + rng.random(len(lengths)) * 0.5)
    follows = np.roll(order, 1)
    partner = np.empty_like(order)
    partner[order] = np.where(lengths[follows] == lengths[order], follows, order)
    share = column(rng, len(values), 0.1, 0.9)
    return np.asarray(share * values / scale + (1 - share) * (values / scale)[partner])


def modulated(rng: Generator, values: Floats, lengths: Ints) -> Floats:
    """Times a smooth positive course: a trend or a wave of its own."""
    rows, time = len(lengths), values.shape[1]
    bend = column(rng, rows, -0.7, 0.7) * trend(rng, rows, time).clip(-2, 2)
    wave = 0.4 * gaussian_process(rng, log_column(rng, rows, 0.1, 1.0), time)
    return values * np.exp(np.where(chance(rng, rows, 0.5) > 0, bend, wave))


def reversed_in_time(_rng: Generator, values: Floats, _lengths: Ints) -> Floats:
    """The last value first."""
    return values[:, ::-1]


def flipped(_rng: Generator, values: Floats, _lengths: Ints) -> Floats:
    """With the other sign."""
    return -values


def censored(rng: Generator, values: Floats, lengths: Ints) -> Floats:
    """Values cut at a high or a low quantile of theirs."""
    low = np.quantile(values, rng.uniform(0.0, 0.3), axis=1, keepdims=True)
    high = np.quantile(values, rng.uniform(0.7, 1.0), axis=1, keepdims=True)
    below = chance(rng, len(lengths), 0.5) > 0
    return np.where(below, np.maximum(values, low), np.minimum(values, high))


def rounded(rng: Generator, values: Floats, lengths: Ints) -> Floats:
    """To 10 to 1,000 steps within a row's spread, as figures in thousands are."""
    spread = np.maximum(np.ptp(values, axis=1, keepdims=True), 1e-9)
    step = spread / log_column(rng, len(lengths), 10, 1000)
    return np.asarray(np.round(values / step) * step)
