"""A shop at an earlier moment, and what came between then and now.

Fitting and scoring look at the same cuts: of a customer known at the cut, what was known then, and
the purchases since. Invariant: nothing that happened at or after the cut is in the population.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from models.base import PURCHASE, FloatArray
from models.tokens import chosen

if TYPE_CHECKING:
    from models.customers import Flags, Ints, Population


@dataclass(frozen=True, slots=True, eq=False)
class Moment:
    """A shop now: all its customers, whole histories, and where in year and week now is."""

    crowd: Population
    year_phase: float
    weekday: int

    @property
    def span(self) -> float:
        """Days since the first event, 0 where there is none."""
        first = self.crowd.first_days_ago
        return 0.0 if np.isnan(first).all() else float(np.nanmax(first))

    def before(self, cut: Cut) -> Moment:
        """The shop at a cut of its customers."""
        phase = (self.year_phase - cut.watched / 365.25) % 1.0
        return Moment(cut.population, phase, int(self.weekday - cut.watched) % 7)


@dataclass(frozen=True, slots=True, eq=False)
class Cut:
    """Those known `watched` days before now, as they were then, and what they did until now.

    people: (rows,) which customers of the whole population they are. who, after_days, amounts:
    (purchases,) row, days after the cut (from 0, below watched), amount (NaN: not known). Within N
    days is before N days have passed; dates without a time of day are taken at noon.
    """

    population: Population
    people: Ints
    watched: float
    who: Ints
    after_days: FloatArray
    amounts: FloatArray

    def first_days(self) -> FloatArray:
        """(rows,) days to the first purchase, infinite where none was seen."""
        first = np.full(len(self.people), np.inf)
        np.minimum.at(first, self.who, self.after_days)
        return first

    def bought(self, days: float) -> Flags:
        """(rows,) whether within so many days, which must have been watched."""
        if days > self.watched:
            raise ValueError(f"{days} days after a cut that was watched for {self.watched}")
        return self.first_days() < days

    def purchases(self, days: float) -> Ints:
        return np.bincount(self.who[self.after_days < days], minlength=len(self.people))

    def mean_amount(self) -> FloatArray:
        """(rows,) of the purchases since, NaN where no amount is known."""
        known = ~np.isnan(self.amounts)
        count = np.bincount(self.who[known], minlength=len(self.people))
        total = np.bincount(self.who[known], self.amounts[known], minlength=len(self.people))
        return np.where(count > 0, total / np.maximum(count, 1), np.nan)


def cut_at(crowd: Population, days: float) -> Cut:
    """The cut `days` before now, of those who had an event before it.

    A history that was cut to its latest events is taken to have had the counts it tells, less what
    came since.
    """
    before = crowd.days_ago > days
    owner = crowd.owner
    had = np.bincount(owner[before], minlength=len(crowd))
    people = np.flatnonzero(had)
    row = np.full(len(crowd), -1)
    row[people] = np.arange(len(people))
    since = ~before & (crowd.types == PURCHASE) & (row[owner] >= 0)
    dates_only = len(crowd.days_ago) > 0 and not np.any(crowd.days_ago % 1)
    noon = 0.5 if dates_only and days == int(days) else 0.0
    return Cut(
        population=_as_then(crowd, days, before, people),
        people=people,
        watched=days,
        who=row[owner[since]],
        after_days=days - crowd.days_ago[since] + noon,
        amounts=crowd.amounts[since],
    )


def _as_then(crowd: Population, days: float, before: Flags, people: Ints) -> Population:
    owner, bought = crowd.owner, crowd.types == PURCHASE
    since = ~before & bought
    known = since & ~np.isnan(crowd.amounts)
    count = len(crowd)
    first = crowd.first_purchase_days_ago - days
    then = replace(
        chosen(crowd, np.arange(count)),
        starts=np.concatenate(([0], np.cumsum(np.bincount(owner[before], minlength=count)))),
        **{
            name: getattr(crowd, name)[before]
            for name in ("types", "amounts", "quantities", "items", "categories")
        },
        days_ago=crowd.days_ago[before] - days,
        first_days_ago=crowd.first_days_ago - days,
        first_purchase_days_ago=np.where(first > 0, first, np.nan),
        purchase_days=crowd.purchase_days - np.bincount(owner[since], minlength=count),
        spend=crowd.spend - np.bincount(owner[known], crowd.amounts[known], minlength=count),
        spend_days=crowd.spend_days - np.bincount(owner[known], minlength=count),
        observed_days=crowd.observed_days - days,
    )
    return chosen(then, people)
