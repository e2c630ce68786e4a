"""Sample paths of demand: from a forecast's quantiles, period by period, to whole futures.

The marginals are the forecast's own, or `narrowed`. What one period tells of another is a Gaussian
copula: the normal scores of periods s ≠ t are correlated by ρ·φ^|s-t|, a level that all periods
share and that fades. ρ is the series' own, from its forecast errors at earlier origins, shrunk to
a default.

Invariant: paths depend on the forecast, the dependence and the seed alone; the first periods of
longer paths are the shorter paths; demand is never negative, and whole where it is counted.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from statistics import NormalDist
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.base import CategoryArray, CheckpointError, Covariate, FloatArray, Series
from models.distribution import TINY, at_levels
from models.seasonal import TOLD_CYCLES

#: What a forecast is asked for: the levels of the published networks, tails beyond are implied.
LEVELS = (0.01, *(round(0.05 * step, 2) for step in range(1, 20)), 0.99)
PATHS = 1000
#: Origins in a series' own past from which it is forecast once more, and what each needs.
MOST_ORIGINS = 8
FEWEST_BEFORE = 16
SHORTEST, LONGEST = 4, 16  # periods that are forecast from such an origin
#: What the default weighs, in origins: chosen on synthetic series (`models/dependence.py`).
PRIOR_ORIGINS = 16.0
MOST_STRENGTH = 0.95
#: How many of the latest values tell what a series varies by, the least ratio of that and a
#: forecast's width that is believed, and how much stronger the periods of such a series hang
#: together: chosen on the development quarter of weekly products (docs/inventory.md).
LATELY, LEAST_RATIO, STRENGTHENING = 52, 0.25, 0.2

_REACH, _STEPS = 4.5, 32  # normal scores tabulated: -4.5 to 4.5, in steps of 1/32

Singles = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Dependence:
    """Correlation of the normal scores of periods s ≠ t: strength · persistence^|s-t|."""

    strength: float
    persistence: float


#: Used where a checkpoint does not say its own, as the shipped one does; of an earlier network.
DEFAULT = Dependence(strength=0.374, persistence=0.8)


@dataclass(frozen=True, slots=True, eq=False)
class Origin:
    """A series as it was known some periods ago, and what came then.

    truth: shape (periods,), NaN where missing or censored.
    """

    series: Series
    truth: FloatArray


def dependence_of(options: Mapping[str, Any]) -> Dependence:
    """What a checkpoint says of itself, else DEFAULT. Raises CheckpointError if it is no number."""
    said = options.get("dependence")
    if said is None:
        return DEFAULT
    try:
        found = Dependence(float(said["strength"]), float(said["persistence"]))
    except (KeyError, TypeError, ValueError):
        found = Dependence(-1.0, -1.0)
    if not (0 <= found.strength < 1 and 0 <= found.persistence <= 1):
        raise CheckpointError(
            'config.json: shopcast.dependence must be {"strength": 0 to below 1, '
            '"persistence": 0 to 1}; python -m models.dependence measures it'
        )
    return found


# --- what a forecast implies


def sample(
    quantiles: FloatArray,
    dependence: Dependence,
    *,
    seed: int,
    whole: bool,
    paths: int = PATHS,
) -> FloatArray:
    """Paths of demand: quantiles at LEVELS (levels, periods) → (periods, paths), at least 0.

    whole: round each at random to one of its two neighbours so that its mean stays, which leaves
    an intermittent forecast its zeros.
    """
    periods = quantiles.shape[1]
    noise, rounding = np.random.default_rng(seed).spawn(2)
    scores = noise.standard_normal((periods, paths), dtype=np.float32)
    if dependence.strength > 0 and periods > 1:
        root = np.linalg.cholesky(_correlation(dependence, periods))
        scores = root.astype(np.float32) @ scores
    values = _look_up(_table(quantiles), scores)
    if whole:
        values += rounding.random(values.shape)
        np.floor(values, out=values)
    return values


def narrowed(quantiles: FloatArray, series: Series) -> FloatArray:
    """The quantiles, nearer to their mean in periods where they say more than the series varied.

    quantiles at LEVELS (levels, periods) → the same shape. Where no season is to be seen and
    nothing is told ahead, a forecast from all of a history errs by no more than the history
    varies; what it is wider is noise in its width, which stock pays for. Its deviation becomes that
    of the history; never is it widened.
    """
    varied = _varied(series)
    if varied is None:
        return quantiles
    table, mass = _table(quantiles), np.diff(_levels(), prepend=0.0) / _levels()[-1]
    mean = mass @ table
    deviation = np.sqrt(mass @ np.square(table - mean))
    ratio = np.clip(varied / np.maximum(deviation, TINY), LEAST_RATIO, 1.0)
    return np.asarray(mean + (quantiles - mean) * ratio)


def strengthened(dependence: Dependence, series: Series) -> Dependence:
    """The dependence, stronger where `narrowed` may take width from each period.

    A history's deviation is that of its periods one by one; that the level itself is not known,
    which all periods share, has its place here.
    """
    if _varied(series) is None:
        return dependence
    strength = min(dependence.strength + STRENGTHENING, MOST_STRENGTH)
    return replace(dependence, strength=strength)


def _varied(series: Series) -> float | None:
    """The deviation of the latest values; None where something else than chance moves them."""
    seasons, periods = series.season_lengths, series.target.shape[1]
    if seasons is None or any(periods >= TOLD_CYCLES * season for season in seasons):
        return None
    if series.covariates or (series.censored is not None and series.censored.any()):
        return None
    seen = series.target[0][~np.isnan(series.target[0])][-LATELY:]
    return float(seen.std(ddof=1)) if len(seen) >= FEWEST_BEFORE else None


def _correlation(dependence: Dependence, periods: int) -> FloatArray:
    apart = np.abs(np.subtract.outer(np.arange(periods), np.arange(periods)))
    answer = dependence.strength * dependence.persistence**apart
    np.fill_diagonal(answer, 1.0)
    return np.asarray(answer)


def _table(quantiles: FloatArray) -> FloatArray:
    """The quantile function at each tabulated score: (..., levels, periods) → (..., scores, …)."""
    return np.asarray(np.maximum(_weights() @ quantiles, 0.0))


def _look_up(table: FloatArray, scores: Singles) -> FloatArray:
    """Values at normal scores (periods, paths), linear between those tabulated.

    A place among 288 cells keeps 15 bits of its own in single precision; values stay in double.
    """
    cells = len(table) - 1
    left, rise = np.ascontiguousarray(table[:-1].T), np.ascontiguousarray(np.diff(table, axis=0).T)
    values = np.empty(scores.shape)
    for period in range(len(values)):  # row by row, so that all of it stays in the cache
        place = scores[period] * np.float32(_STEPS)
        place += np.float32(_REACH * _STEPS)
        np.clip(place, 0.0, np.float32(cells - 1e-3), out=place)
        cell = place.astype(np.intp)
        place -= cell
        values[period] = rise[period].take(cell) * place + left[period].take(cell)
    return values


@lru_cache(maxsize=1)
def _scores() -> FloatArray:
    return np.arange(round(2 * _REACH * _STEPS) + 1) / _STEPS - _REACH


@lru_cache(maxsize=1)
def _levels() -> FloatArray:
    return np.array([NormalDist().cdf(score) for score in _scores()])


@lru_cache(maxsize=1)
def _weights() -> FloatArray:
    """(scores, LEVELS): any quantile is a sum of those known, so that the identity tells how."""
    return np.asarray(at_levels(np.eye(len(LEVELS))[None], LEVELS, _levels().tolist())[0])


# --- what a series' own past says


def origins(series: Series, periods: int) -> list[Origin]:
    """Up to MOST_ORIGINS earlier origins, the latest first, each followed by its own periods.

    periods: the protection interval; from SHORTEST to LONGEST of it are looked at. Covariates
    that are known ahead are known there as well.
    """
    length = span(periods)
    target = observed(series)[0]
    seen = np.flatnonzero(~np.isnan(target))
    if not len(seen):
        return []
    most = (target.size - seen[0] - FEWEST_BEFORE) // length
    ends = [target.size - length * (number + 1) for number in range(min(MOST_ORIGINS, most))]
    return [Origin(before(series, end, length), target[end : end + length]) for end in ends]


def observed(series: Series) -> FloatArray:
    """The target where it tells demand: NaN where it is missing or censored."""
    if series.censored is None:
        return series.target
    return np.where(series.censored, np.nan, series.target)


def span(periods: int) -> int:
    """The periods that are forecast from an earlier origin."""
    return min(max(periods, SHORTEST), LONGEST)


def before(series: Series, end: int, length: int) -> Series:
    """The series up to a period, its covariates known for so many periods after it."""
    return replace(
        series,
        target=series.target[:, :end],
        censored=None if series.censored is None else series.censored[:end],
        covariates=tuple(_covariate_before(each, end, length) for each in series.covariates),
    )


def _covariate_before(covariate: Covariate, end: int, length: int) -> Covariate:
    ahead: FloatArray | CategoryArray | None = None
    if covariate.future is not None:
        ahead = covariate.past[end : end + length]
    return Covariate(covariate.name, covariate.past[:end], ahead)


def scores_of(
    quantiles: Sequence[FloatArray], truths: Sequence[FloatArray], *, whole: bool
) -> FloatArray:
    """Normal scores of what came: quantiles at LEVELS (levels, periods) an origin → (origins, …).

    Of a value with mass the middle of its steps (the mid-PIT); NaN where missing.
    """
    table = _table(np.stack([each[:, : len(truths[0])] for each in quantiles]))
    truth = np.stack(truths)
    mass = np.diff(_levels(), prepend=0.0)[None, :, None]
    above = truth[:, None, :] - table
    if whole:  # P(Y ≤ y) of a value rounded at random is the mean of what is below y + 1
        share = (np.clip(above + 1, 0.0, 1.0) + np.clip(above, 0.0, 1.0)) / 2
    else:
        share = ((above >= 0) * 1.0 + (above > 0)) / 2
    level = (share * mass).sum(axis=1) / mass.sum()
    levels = np.clip(level, _levels()[0], _levels()[-1])
    return np.where(np.isnan(truth), np.nan, np.interp(levels, _levels(), _scores()))


def own(scores: FloatArray, default: Dependence) -> Dependence:
    """The dependence of a series by its scores (origins, periods), as far as they tell.

    Moments: the products of scores at lag k are ρ·φ^k on the average. The strength is shrunk to
    the default, which weighs as much as PRIOR_ORIGINS origins.
    """
    products, expected = moments(scores, default.persistence)
    if expected <= 0:
        return default
    square = float(np.nanmean(np.square(scores)))
    strength = np.clip(products / expected / max(square, 0.25), -1.0, 1.0)
    count = float((~np.isnan(scores)).any(axis=1).sum())
    kept = (count * strength + PRIOR_ORIGINS * default.strength) / (count + PRIOR_ORIGINS)
    return replace(default, strength=float(np.clip(kept, 0.0, MOST_STRENGTH)))


def moments(scores: FloatArray, persistence: float) -> tuple[float, float]:
    """Sum of the products of two periods of one origin, and what it is for strength 1.

    scores: (origins, periods); 0 and 0 where there is no pair.
    """
    products = expected = 0.0
    for lag in range(1, scores.shape[-1]):
        pairs = scores[:, lag:] * scores[:, :-lag]
        products += float(np.nansum(pairs))
        expected += persistence**lag * float((~np.isnan(pairs)).sum())
    return products, expected


def is_whole(target: FloatArray) -> bool:
    """Whether a history counts units: each observed value is a whole number."""
    seen = target[~np.isnan(target)]
    return bool(len(seen)) and bool((seen == np.floor(seen)).all()) and math.isfinite(seen.sum())
