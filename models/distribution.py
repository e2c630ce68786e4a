"""Distributions given by quantiles: any level, the mean, and the widths that must not vanish.

Invariant: between the network's levels the quantile function is linear; beyond them its tails are
exponential, with the scale that the outermost two quantiles imply.
"""

from collections.abc import Sequence
from statistics import NormalDist

import numpy as np

from models.base import FloatArray

TINY = 1e-12  # a probability that is none


def monotone(quantiles: FloatArray) -> FloatArray:
    """Sort the quantiles of each step: (rows, levels, steps) → the same shape.

    Rearrangement never moves quantiles further from the true ones (Chernozhukov, Fernández-Val
    and Galichon, 2010, Econometrica 78).
    """
    return np.sort(quantiles, axis=1)


def at_levels(quantiles: FloatArray, known: Sequence[float], wanted: Sequence[float]) -> FloatArray:
    """Quantiles at other levels: (rows, known levels, steps) → (rows, wanted levels, steps).

    Below the first known level p₁ the quantile is q₁ - β·ln(p₁/p), above the last pₙ it is
    qₙ + β·ln((1-pₙ)/(1-p)): exponential tails, each with β from its outermost two quantiles.
    """
    answer = np.empty((len(quantiles), len(wanted), quantiles.shape[2]))
    levels = np.asarray(known)
    low_scale, high_scale = _tail_scales(quantiles, levels)
    for column, level in enumerate(wanted):
        if level < levels[0]:
            answer[:, column] = quantiles[:, 0] - low_scale * (np.log(levels[0]) - np.log(level))
        elif level > levels[-1]:
            beyond = np.log1p(-levels[-1]) - np.log1p(-level)
            answer[:, column] = quantiles[:, -1] + high_scale * beyond
        else:
            answer[:, column] = _between(quantiles, levels, level)
    return answer


def mean(quantiles: FloatArray, known: Sequence[float], *, floors: FloatArray) -> FloatArray:
    """Mean of the distribution cut at each row's floor: (rows, levels, steps) → (rows, steps).

    The integral of max(Q(p), floor) over p in (0, 1), exact for the quantile function described
    above. floors: (rows,), -inf where nothing is cut.
    """
    levels = np.asarray(known)
    low_scale, high_scale = _tail_scales(quantiles, levels)
    floor = np.where(np.isfinite(floors), floors, 0.0)[:, None]
    cut = np.isfinite(floors)[:, None]
    above = quantiles - floor[:, None]  # height above the floor
    widths = np.diff(levels)[:, None]
    inner = _linear_part(above[:, :-1], above[:, 1:], cut=cut[:, None]) * widths
    low = levels[0] * _low_tail(above[:, 0], low_scale, cut=cut)
    high = (1 - levels[-1]) * _high_tail(above[:, -1], high_scale, cut=cut)
    return np.asarray(floor + inner.sum(axis=1) + low + high)


def mean_above(quantiles: FloatArray, known: Sequence[float], *, bounds: FloatArray) -> FloatArray:
    """Mean given that the value is at least a bound: (rows, levels, steps), (rows, steps) → same.

    b + E[(X - b)⁺] / P(X ≥ b), exact for the quantile function described above; beyond it all,
    where nothing is left, b and a scale of the tail. NaN where the bound is.
    """
    levels = np.asarray(known)
    low_scale, high_scale = _tail_scales(quantiles, levels)
    cut = np.array(True)
    above = quantiles - bounds[:, None]
    widths = np.diff(levels)[:, None]
    left, right = above[:, :-1], above[:, 1:]
    rise = np.where(right > left, right - left, 1.0)
    share = np.where(left >= 0, 1.0, np.where(right >= 0, np.maximum(right, 0) / rise, 0.0))
    low, high = above[:, 0], above[:, -1]
    excess = (_linear_part(left, right, cut=cut) * widths).sum(axis=1)
    excess += levels[0] * _low_tail(low, low_scale, cut=cut)
    excess += (1 - levels[-1]) * _high_tail(high, high_scale, cut=cut)
    reached = (share * widths).sum(axis=1)
    tail = np.where(low_scale > 0, -np.expm1(-_in_scales(low, low_scale)), 1.0)
    reached += levels[0] * np.where(low >= 0, tail, 0.0)
    reached += (1 - levels[-1]) * np.exp(-_in_scales(-high, high_scale))
    known_tail = reached > TINY
    return np.asarray(
        bounds + np.where(known_tail, excess / np.where(known_tail, reached, 1.0), high_scale)
    )


def widen(quantiles: FloatArray, known: Sequence[float], deviations: FloatArray) -> FloatArray:
    """No narrower around the median than a normal distribution of the given deviations.

    quantiles: (rows, levels, steps); deviations: (rows,), 0 where nothing is asked.
    """
    if not deviations.any():
        return quantiles
    levels = list(known)
    scores = np.array([NormalDist().inv_cdf(level) for level in levels])[:, None]
    median = quantiles[:, [levels.index(0.5)]]
    least = deviations[:, None, None] * scores
    apart = quantiles - median
    return np.asarray(
        median + np.where(scores < 0, np.minimum(apart, least), np.maximum(apart, least))
    )


def _between(quantiles: FloatArray, levels: FloatArray, level: float) -> FloatArray:
    right = int(np.searchsorted(levels, level))
    if levels[right] == level:
        return quantiles[:, right]
    share = (level - levels[right - 1]) / (levels[right] - levels[right - 1])
    return np.asarray((1 - share) * quantiles[:, right - 1] + share * quantiles[:, right])


def _tail_scales(quantiles: FloatArray, levels: FloatArray) -> tuple[FloatArray, FloatArray]:
    low = (quantiles[:, 1] - quantiles[:, 0]) / np.log(levels[1] / levels[0])
    high = (quantiles[:, -1] - quantiles[:, -2]) / np.log((1 - levels[-2]) / (1 - levels[-1]))
    return low, high


def _linear_part(left: FloatArray, right: FloatArray, *, cut: FloatArray) -> FloatArray:
    """Mean of a rising line from left to right, of its part above 0 where cut."""
    whole = (left + right) / 2
    rise = np.where(left < 0, right - left, 1.0)  # positive wherever the line crosses 0
    part = np.square(np.maximum(right, 0)) / (2 * np.where(rise > 0, rise, 1.0))
    crossing = np.where(left >= 0, whole, part)
    return np.where(cut, crossing, whole)


def _low_tail(edge: FloatArray, scale: FloatArray, *, cut: FloatArray) -> FloatArray:
    """Mean of edge - scale·E, E standard exponential, of its part above 0 where cut."""
    above = np.maximum(edge, 0) + scale * np.expm1(-_in_scales(edge, scale))
    return np.where(cut, np.maximum(above, 0), edge - scale)


def _high_tail(edge: FloatArray, scale: FloatArray, *, cut: FloatArray) -> FloatArray:
    """Mean of edge + scale·E, E standard exponential, of its part above 0 where cut."""
    above = np.maximum(edge, 0) + scale * np.exp(-_in_scales(-edge, scale))
    return np.where(cut, above, edge + scale)


def _in_scales(distance: FloatArray, scale: FloatArray) -> FloatArray:
    """A distance, at least 0, in units of scale: up to 700, where exp(-x) is nothing; 0 of 0."""
    return np.clip(distance, 0, 700 * scale) / np.where(scale > 0, scale, 1.0)
