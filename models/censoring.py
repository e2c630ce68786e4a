"""Demand behind empty shelves: sales of a period without stock are only a lower bound of it.

Such a period is replaced by its expectation given that demand was at least what was sold, by the
forecast from the history before it (the E step of Tobin's model, 1958, with the network's
distribution in place of the normal one). Several periods in a row are forecast at once; the latest
MOST_SPELLS of a series are, the rest counts as missing.

Invariant: what was observed stays; a series is completed by itself alone; nothing is left censored.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import groupby

import numpy as np

from models.base import FloatArray, Series, SeriesResult, SeriesTask
from models.distribution import mean_above
from models.paths import LEVELS, before, observed

MOST_SPELLS = 16
FEWEST_BEFORE = 8  # observed periods before a spell; with fewer nothing is known of it

Forecast = Callable[[Sequence[SeriesTask]], Sequence[SeriesResult]]


@dataclass(frozen=True, slots=True)
class Spell:
    """Censored periods in a row: from start to end, which is the first that is none."""

    start: int
    end: int


def spells(series: Series) -> list[Spell]:
    """The spells of a series that are completed, the latest at most MOST_SPELLS."""
    if series.censored is None or not series.censored.any():
        return []
    places: list[int] = np.flatnonzero(series.censored).tolist()
    runs = [[place for _, place in run] for _, run in groupby(enumerate(places), _rank)]
    found = [Spell(run[0], run[-1] + 1) for run in runs]
    observed = np.cumsum(~np.isnan(series.target).any(axis=0) & ~series.censored)
    return [each for each in found if each.start and observed[each.start - 1] >= FEWEST_BEFORE][
        -MOST_SPELLS:
    ]


def _rank(pair: tuple[int, int]) -> int:
    return pair[1] - pair[0]


def complete(tasks: Sequence[SeriesTask], forecast: Forecast, *, longest: int) -> list[SeriesTask]:
    """Tasks without censored periods. forecast: answers tasks of at most `longest` periods."""
    series = [one for task in tasks for one in task.series]
    found = [spells(one) for one in series]
    asked = [
        _before(one, spell, longest)
        for one, several in zip(series, found, strict=True)
        for spell in several
    ]
    made = iter(forecast(asked) if asked else ())
    completed = iter(
        [
            _completed(one, [(spell, next(made)) for spell in several], longest)
            for one, several in zip(series, found, strict=True)
        ]
    )
    return [replace(task, series=tuple(next(completed) for _ in task.series)) for task in tasks]


def _before(series: Series, spell: Spell, longest: int) -> SeriesTask:
    """The forecast of a spell; earlier ones are missing in its history."""
    length = min(spell.end - spell.start, longest)
    known = before(_missing(series), spell.start, length)
    return SeriesTask((known,), length, LEVELS)


def _missing(series: Series) -> Series:
    """The series with what is censored taken out."""
    return replace(series, target=observed(series), censored=None)


def _completed(series: Series, made: Sequence[tuple[Spell, SeriesResult]], longest: int) -> Series:
    if series.censored is None:
        return series
    answer = _missing(series)
    for spell, result in made:
        periods = slice(spell.start, min(spell.end, spell.start + longest))
        sold = series.target[:, periods]
        answer.target[:, periods] = _expected(result[0].quantiles, sold)
    return answer


def _expected(quantiles: FloatArray, sold: FloatArray) -> FloatArray:
    """E[demand | demand ≥ sold]: (targets, levels, periods), (targets, periods) → as sold."""
    return mean_above(quantiles, LEVELS, bounds=sold)
