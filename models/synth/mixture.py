"""The families of series, their weights, and windows of all of them.

Invariant: the same generator state and arguments give the same series, and every value is finite
(missing values are added by the window, as NaN, never by a family).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from models.synth.augmentation import augmented, down_sampled
from models.synth.economy import economic, tourism
from models.synth.parts import Family, Floats, Ints, picked
from models.synth.processes import (
    causal,
    exponential_smoothing,
    intermittent,
    kernels,
    moving_season,
    ornstein_uhlenbeck,
    random_walk,
    regimes,
    sawtooths,
    seasonal_arima,
    spikes,
    stationary,
    trend_season_irregular,
)
from models.synth.shops import shop_sales, store_sales

if TYPE_CHECKING:
    from numpy.random import Generator

#: Families and their weights: more for trends that go on, a third for shops.
FAMILIES: tuple[tuple[Family, float], ...] = (
    (trend_season_irregular, 1.5),
    (exponential_smoothing, 2.5),
    (seasonal_arima, 1.2),
    (random_walk, 2.5),
    (economic, 1.2),
    (tourism, 1.6),
    (stationary, 1.0),
    (ornstein_uhlenbeck, 0.4),
    (regimes, 1.0),
    (moving_season, 1.0),
    (kernels, 0.8),
    (causal, 0.5),
    (spikes, 0.3),
    (sawtooths, 0.3),
    (intermittent, 0.6),
    (shop_sales, 4.0),
    (store_sales, 2.8),
)
#: What calendars of years, quarters and months (and none) weigh more, and those of days and hours.
_YEARLY: dict[Family, float] = {tourism: 1.3, shop_sales: 0.7, store_sales: 0.7}
_DAILY: dict[Family, float] = {economic: 0.3, tourism: 0.5, shop_sales: 1.6, store_sales: 1.6}
_SLOW = (0, 4, 12)


def windows(rng: Generator, lengths: Ints, time: int) -> Floats:
    """(rows, time) series of all families mixed; row i has season `lengths[i]` (0: none).

    Five in 100 are down-sampled from a finer series; some are convex mixtures of others (TSMixup),
    modulated, reversed, flipped, censored or rounded.
    """
    families = [family for family, _ in FAMILIES]
    picks = _picks(rng, lengths)
    coarse = rng.random(len(lengths)) < 0.05
    picks[coarse] = picks[coarse][:1]  # one family, for it costs a call of its own
    factor = int(rng.integers(2, 5))
    values = np.empty((len(lengths), time))
    values[~coarse] = picked(rng, lengths[~coarse], time, families, picks[~coarse])
    fine = picked(rng, factor * lengths[coarse], factor * time, families, picks[coarse])
    values[coarse] = down_sampled(rng, fine, factor)
    return augmented(rng, values, lengths)


def shares(*, daily: bool) -> Floats:
    """(families,) share of each among series of days and hours, or of months to years."""
    factors = _DAILY if daily else _YEARLY
    weights = np.array([weight * factors.get(family, 1.0) for family, weight in FAMILIES])
    return np.asarray(weights / weights.sum())


def _picks(rng: Generator, lengths: Ints) -> Ints:
    rows = len(lengths)
    slow = rng.choice(len(FAMILIES), size=rows, p=shares(daily=False))
    fast = rng.choice(len(FAMILIES), size=rows, p=shares(daily=True))
    return np.where(np.isin(lengths, _SLOW), slow, fast)
