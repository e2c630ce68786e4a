"""Scores of forecasts: point errors, quantile losses, and how often intervals hold.

Invariant: a period whose truth is missing counts nowhere, and no score depends on the unit or, but
for what is scaled by it, on the history. Shapes: truth (steps,), point (steps,), quantiles
(levels, steps), history (time,).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

#: The levels over which weighted quantile losses are published.
DECILES = tuple(round(0.1 * tenth, 1) for tenth in range(1, 10))


def naive_error(history: Floats, season: int) -> float:
    """Mean absolute difference to one season before, NaN where there is no such pair.

    The scale of MASE: Hyndman and Koehler (2006), Int. J. of Forecasting 22.
    """
    return _mean(np.abs(history[season:] - history[:-season]))


def mase(truth: Floats, point: Floats, *, scale: float) -> float:
    """Mean absolute scaled error; scale: the naive_error of the history.

    Hyndman and Koehler (2006). NaN where the scale is 0 or missing.
    """
    return _mean(np.abs(truth - point)) / scale if scale > 0 else np.nan


def wape(truth: Floats, point: Floats) -> float:
    """Σ|y - ŷ| / Σ|y|, also known as ND: Yu, Rao and Dhillon (2016), NeurIPS."""
    seen = ~np.isnan(truth)
    return _ratio(float(np.abs(truth - point)[seen].sum()), truth)


def bias(truth: Floats, point: Floats) -> float:
    """Σ(ŷ - y) / Σ|y|: above 0 too much was forecast."""
    seen = ~np.isnan(truth)
    return _ratio(float((point - truth)[seen].sum()), truth)


def pinball(truth: Floats, quantiles: Floats, levels: Sequence[float]) -> Floats:
    """(levels, steps) max(p·(y - q), (p - 1)·(y - q)): Koenker and Bassett (1978), Econometrica 46.

    NaN where the truth is missing.
    """
    level = np.asarray(levels)[:, None]
    error = truth - quantiles
    return np.asarray(np.maximum(level * error, (level - 1) * error))


def wql(truth: Floats, quantiles: Floats, levels: Sequence[float]) -> float:
    """Weighted quantile loss: 2·Σ pinball / Σ|y|, averaged over the levels.

    Park et al. (2022), AISTATS; the same as utilsforecast's scaled_crps.
    """
    loss = 2 * pinball(truth, quantiles, levels).mean(axis=0)
    return _ratio(float(np.nansum(loss)), truth)


def scaled_pinball(
    truth: Floats, quantiles: Floats, levels: Sequence[float], *, scale: float
) -> float:
    """Mean pinball loss over steps and levels, in units of the naive_error of the history.

    The scaled pinball loss of the M5 uncertainty competition: Makridakis et al. (2022),
    Int. J. of Forecasting 38.
    """
    loss = pinball(truth, quantiles, levels).mean(axis=0)
    return _mean(loss) / scale if scale > 0 else np.nan


@dataclass(frozen=True, slots=True, eq=False)
class Pit:
    """Where outcomes lie in their forecasts: each anywhere between low and high, (outcomes,)."""

    low: Floats
    high: Floats

    def draw(self, rng: np.random.Generator) -> Floats:
        """The randomised PIT: uniform over (0, 1) if the forecasts are calibrated.

        u = F(y-) + v·(F(y) - F(y-)), v uniform: Smith (1985); Czado, Gneiting and Held (2009),
        Biometrics 65.
        """
        return np.asarray(self.low + rng.uniform(size=len(self.low)) * (self.high - self.low))

    def coverage(self, share: float) -> float:
        """How often the randomised PIT falls into the central interval of so much mass.

        Its mean over the randomisation, exactly, so that no seed matters: the part of each
        outcome's range that lies in the interval, as in the non-randomised histogram of Czado et
        al.
        """
        return self.below((1 + share) / 2) - self.below((1 - share) / 2)

    def below(self, level: float) -> float:
        """How often the randomised PIT falls below a level, as exactly; NaN of no outcome."""
        return float(self._below(level).mean()) if len(self.low) else np.nan

    def _below(self, level: float) -> Floats:
        """The chance, for each outcome, that its randomised PIT is below a level."""
        width = self.high - self.low
        part = (level - self.low) / np.where(width > 0, width, 1.0)
        sharp = (self.low < level) + 0.5 * (self.low == level)
        return np.where(width > 0, np.clip(part, 0.0, 1.0), sharp)


def pit(truth: Floats, quantiles: Floats, levels: Sequence[float], *, grain: float = 0.0) -> Pit:
    """The probability integral transform of the outcomes that were observed.

    The distribution function is linear between the quantiles, jumps where several are equal, and
    has exponential tails. grain: the step of the data, 1 for counts, 0 for continuous values. A
    count then takes all the mass that rounds to it, and 0 takes what is below, so that neither a
    forecast in whole numbers nor a smooth one is taken for miscalibrated.
    """
    seen = ~np.isnan(truth)
    values, ordered = truth[seen], np.sort(quantiles[:, seen], axis=0)
    low = _distribution(ordered, levels, values - grain / 2, side="left")
    high = _distribution(ordered, levels, values + grain / 2, side="right")
    if grain > 0:
        low = np.where(values == 0, 0.0, low)
    return Pit(low, np.maximum(low, high))


def pooled(pits: Sequence[Pit]) -> Pit:
    """The outcomes of several forecasts as one."""
    return Pit(*(np.concatenate([getattr(one, end) for one in pits]) for end in ("low", "high")))


def grain_of(history: Floats) -> float:
    """1 if all that was observed are whole numbers of 0 and more, else 0."""
    seen = history[~np.isnan(history)]
    return 1.0 if len(seen) and (seen == np.rint(seen)).all() and seen.min() >= 0 else 0.0


def geometric_mean(values: Sequence[float]) -> float:
    """Of positive numbers; NaN if there are none or one is missing."""
    with np.errstate(divide="ignore"):
        return float(np.exp(np.mean(np.log(values)))) if len(values) else np.nan


def _distribution(quantiles: Floats, levels: Sequence[float], at: Floats, *, side: str) -> Floats:
    """(steps,) F(x), side right, or F(x-), side left; quantiles: sorted, (levels, steps)."""
    level = np.asarray(levels)
    below = quantiles <= at if side == "right" else quantiles < at
    count = below.sum(axis=0)
    left = np.clip(count - 1, 0, len(level) - 2)
    ends = np.take_along_axis(quantiles, np.stack([left, left + 1]), axis=0)
    width = ends[1] - ends[0]
    part = (at - ends[0]) / np.where(width > 0, width, 1.0)
    inner = level[left] + np.clip(part, 0.0, 1.0) * (level[left + 1] - level[left])
    low, high = _tails(quantiles, level, at)
    return np.where(count == 0, low, np.where(count == len(level), high, inner))


def _tails(quantiles: Floats, level: Floats, at: Floats) -> tuple[Floats, Floats]:
    """F below the first quantile and above the last, as models/distribution.py extends them."""
    scales = (quantiles[1] - quantiles[0]) / np.log(level[1] / level[0])
    low = level[0] * _decay(quantiles[0] - at, scales)
    scales = (quantiles[-1] - quantiles[-2]) / np.log((1 - level[-2]) / (1 - level[-1]))
    return low, 1 - (1 - level[-1]) * _decay(at - quantiles[-1], scales)


def _decay(distance: Floats, scale: Floats) -> Floats:
    """exp(-distance / scale), 0 where the scale is 0 and the distance is not."""
    known = scale > 0
    exponent = np.maximum(distance, 0.0) / np.where(known, scale, 1.0)
    return np.where(known, np.exp(-np.minimum(exponent, 700.0)), distance <= 0)


def _mean(values: Floats) -> float:
    seen = values[~np.isnan(values)]
    return float(seen.mean()) if len(seen) else np.nan


def _ratio(total: float, truth: Floats) -> float:
    """A sum over that of |y|; NaN where nothing was observed or all of it is 0."""
    size = float(np.nansum(np.abs(truth)))
    return total / size if size > 0 else np.nan
