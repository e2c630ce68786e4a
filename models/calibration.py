"""A last correction of intervals: how much wider real series scatter than simulated ones.

A network trained on simulations knows how sure to be of those. Where real series of a frequency
scatter more or less, its quantiles are moved away from the median by factors, one for each side,
that were fitted on series held apart for development (`benchmarks/calibration.py`) and are stored
with the checkpoint, under `shopcast.calibration` in its config.json. A season that was taken out is
itself uncertain, so that rows with one have factors of their own.

Trends, too, go on more often in simulations than in some calendars, so that a checkpoint may ask
for caution there: its quantiles are moved by a share towards a forecast that hardly trusts a trend
(`shopcast.caution`, chosen on the same series), and, since the trend may yet go on, those on its
side are moved back by what it would add (`shopcast.leeway`). And what a series was lately, all
times alike, is a forecast that is hard to beat where little but chance moves it: quantiles are
moved by another share towards those of its latest values (`shopcast.recall`).

Invariant: calibration keeps the median, and quantiles never cross.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.base import CheckpointError, FloatArray
from models.guide import guide
from models.seasonal import Seasons

UNKNOWN, NONE, ADJUSTED = "unknown", "none", " adjusted"
INTERMITTENT = "intermittent"
#: Latest values of a row that are recalled, and how many of them say anything.
LATELY, FEWEST_SEEN = 60, 12
LEAST, MOST = 0.25, 4.0

Sides = tuple[float, float]


def kind_of(seasons: Seasons) -> str:
    """What a series' numbers are kept under: its shortest season told, "none" or "unknown"."""
    if seasons is None:
        return UNKNOWN
    return str(seasons[0]) if seasons else NONE


@dataclass(frozen=True, slots=True)
class Calibration:
    """Factors of the distance to the median, below and above it, by kind; 1 for other kinds.

    A kind is that of `kind_of`, with " adjusted" behind it for rows whose season was taken out;
    such rows take the factors of the bare kind if there are none of their own.
    """

    factors: Mapping[str, Sides]

    def apply(
        self,
        quantiles: FloatArray,
        levels: Sequence[float],
        seasons: Sequence[Seasons],
        adjusted: NDArray[np.bool_],
    ) -> FloatArray:
        """(rows, levels, steps), monotone, of rows with these seasons → the same, calibrated.

        adjusted: (rows,), whether a season was taken out of the row.
        """
        if not self.factors:
            return quantiles
        pairs = zip(seasons, adjusted.tolist(), strict=True)
        sides = np.array([self.of(each, adjusted=taken) for each, taken in pairs])
        below, above = sides[:, 0, None], sides[:, 1, None]
        factor = np.where(np.asarray(levels) < 0.5, below, above)[:, :, None]
        median = quantiles[:, [list(levels).index(0.5)]]
        return np.asarray(median + factor * (quantiles - median))

    def of(self, seasons: Seasons, *, adjusted: bool) -> Sides:
        """The factors of a row."""
        kind = kind_of(seasons)
        plain = self.factors.get(kind, (1.0, 1.0))
        return self.factors.get(kind + ADJUSTED, plain) if adjusted else plain


def calibration_of(options: Mapping[str, object]) -> Calibration:
    """What a checkpoint says of its calibration: a factor, or one below and one above the median.

    Raises CheckpointError if it makes no sense.
    """
    said = _object(options, "calibration")
    factors = {kind: tuple(each) if isinstance(each, list) else (each,) * 2 for kind, each in said}
    for kind, sides in factors.items():
        if len(sides) != 2:
            raise CheckpointError(f"shopcast.calibration.{kind} must be a number or two")
        for each in sides:
            _verify(each, f"calibration.{kind}", LEAST, MOST)
    return Calibration({kind: (float(low), float(high)) for kind, (low, high) in factors.items()})


@dataclass(frozen=True, slots=True)
class Caution:
    """By `kind_of`, 0 for others: shares of the way to a forecast that hardly trusts a trend, and
    leeway, shares of what the trend would add that the quantiles on its side go back.
    """

    shares: Mapping[str, float]
    leeway: Mapping[str, float]

    def apply(
        self,
        quantiles: FloatArray,
        levels: Sequence[float],
        seasons: Sequence[Seasons],
        history: FloatArray,
    ) -> FloatArray:
        """(rows, levels, steps), monotone, of rows with this history (rows, time) → the same."""
        shares, leeway = _of(self.shares, seasons), _of(self.leeway, seasons)
        rows, steps = np.flatnonzero(shares + leeway), quantiles.shape[2]
        if not len(rows):
            return quantiles
        level = guide(history[rows], steps, trends=False)
        median = quantiles[rows, list(levels).index(0.5)]
        moved = (shares[rows, None] * (level - median))[:, None]
        if leeway.any():
            trend = guide(history[rows], steps) - level
            moved = moved + leeway[rows, None, None] * _on_its_side(trend, levels)
        answer = quantiles.copy()
        answer[rows] += moved
        return answer


def _on_its_side(trend: FloatArray, levels: Sequence[float]) -> FloatArray:
    """(rows, steps) → (rows, levels, steps): 0 on the other side of the median, all of the trend at
    the level 0.1 or 0.9, elsewhere as far as a normal distribution's quantiles are.
    """
    normal = NormalDist()
    far = np.array([normal.inv_cdf(level) / normal.inv_cdf(0.9) for level in levels])[:, None]
    return np.asarray(np.where(far * trend[:, None] > 0, np.abs(far) * trend[:, None], 0.0))


def _of(shares: Mapping[str, float], seasons: Sequence[Seasons]) -> FloatArray:
    """(rows,) the share of each row."""
    return np.array([shares.get(kind_of(each), 0.0) for each in seasons])


def caution_of(options: Mapping[str, object]) -> Caution:
    """What a checkpoint says of its caution. Raises CheckpointError if it makes no sense."""
    return Caution(dict(_shares(options, "caution")), dict(_shares(options, "leeway")))


@dataclass(frozen=True, slots=True)
class Recall:
    """Shares, by `kind_of`, of the way to the quantiles of a row's latest values; 0 for others.

    A row that was mostly zero lately has that of the kind "intermittent", if there is one.
    """

    shares: Mapping[str, float]

    def apply(
        self,
        quantiles: FloatArray,
        levels: Sequence[float],
        seasons: Sequence[Seasons],
        history: FloatArray,
    ) -> FloatArray:
        """(rows, levels, steps), monotone, of rows with this history (rows, time) → the same."""
        if not self.shares:
            return quantiles
        ordered = np.sort(history[:, -LATELY:], axis=1)  # what is missing comes last
        count = (~np.isnan(ordered)).sum(axis=1)
        shares = _of(self.shares, seasons)
        rare = (ordered == 0).sum(axis=1) > count / 2
        shares = np.where(rare, self.shares.get(INTERMITTENT, shares), shares)
        chosen = np.flatnonzero((shares > 0) & (count >= FEWEST_SEEN))
        answer = quantiles.copy()
        lately = _ranked(ordered[chosen], count[chosen], levels)[:, :, None]
        answer[chosen] += shares[chosen, None, None] * (lately - quantiles[chosen])
        return answer


def _ranked(ordered: FloatArray, count: NDArray[np.int_], levels: Sequence[float]) -> FloatArray:
    """(rows, levels) quantiles of the first `count` of ascending values, linear between them."""
    place = np.asarray(levels) * (count[:, None] - 1)
    left = np.floor(place).astype(np.intp)
    right = np.minimum(left + 1, count[:, None] - 1)
    low, high = (np.take_along_axis(ordered, each, axis=1) for each in (left, right))
    return np.asarray(low + (place - left) * (high - low))


def recall_of(options: Mapping[str, object]) -> Recall:
    """What a checkpoint says of its recall. Raises CheckpointError if it makes no sense."""
    return Recall(_shares(options, "recall"))


def _shares(options: Mapping[str, object], name: str) -> dict[str, float]:
    said = _object(options, name)
    for kind, number in said:
        _verify(number, f"{name}.{kind}", 0.0, 1.0)
    return {kind: float(number) for kind, number in said}


def _object(options: Mapping[str, object], name: str) -> list[tuple[str, Any]]:
    said = options.get(name, {})
    if not isinstance(said, dict):
        raise CheckpointError(f"shopcast.{name} is not an object")
    return [(str(kind), each) for kind, each in said.items()]


def _verify(number: object, name: str, least: float, most: float) -> None:
    if not isinstance(number, int | float) or not least <= number <= most:
        raise CheckpointError(f"shopcast.{name} must lie between {least} and {most}")
