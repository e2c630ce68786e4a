"""The customers of data sets as jobs see them: when they are seen from, and the stretch held out.

Invariant: a data set is cut the same way whenever it is read, so that what was held out of it when
a version was trained is what is held out of it later; of an earlier one nothing held out is ever
replayed.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from app.contents import Bought
from app.datasets import Dataset, Datasets
from app.errors import InvalidInputError, NotFoundError
from app.moments import Moment
from app.versions import Version
from models import cuts
from models.tokens import chosen

if TYPE_CHECKING:
    from models.gate_events import Shops
    from models.stretch import Stretch

#: Days held out where none are asked for: at most, and of all days.
LONGEST_DAYS, SHARE = 90, 0.25
FEWEST_DAYS = 7
MOST_JUDGED = 10_000  # customers; of more a fair sample
#: Customers of an earlier data set that are replayed, and that are judged.
MOST_REPLAYED, MOST_REFERRED = 5_000, 2_000


class Crowd:
    """The customers of a data set. Reading raises NotFoundError, InvalidInputError."""

    def __init__(
        self,
        datasets: Datasets,
        dataset_id: str,
        *,
        horizons_days: Sequence[int] | None,
        most_customers: int,
        most_judged: int = MOST_JUDGED,
    ) -> None:
        """horizons_days: as asked for, none for what suits the data set."""
        self._datasets, self._id, self._asked = datasets, dataset_id, horizons_days
        self._most, self._judged = most_customers, most_judged

    @cached_property
    def dataset(self) -> Dataset:
        return self._datasets.read(self._id)

    @cached_property
    def as_of(self) -> Moment:
        """The end of the latest day."""
        until = self._datasets.events(self._id).until()
        midnight = until.local.replace(hour=0, minute=0)
        full = until.local == midnight
        return replace(until, local=midnight if full else midnight + timedelta(days=1))

    @cached_property
    def shop(self) -> cuts.Moment:
        people, _ = self._datasets.population(self._id, self.as_of, most_customers=self._most)
        return cuts.Moment(people, self.as_of.year_phase, self.as_of.local.weekday())

    @cached_property
    def horizons(self) -> tuple[int, ...]:
        """Days ahead that are foretold, the farthest of which is the length of the stretch."""
        if self._asked:
            return tuple(sorted(set(self._asked)))
        days = int(min(LONGEST_DAYS, max(FEWEST_DAYS, SHARE * self.shop.span)))
        return (-(-days // 3), days)

    @cached_property
    def stretch(self) -> "Stretch":
        """The latest days, which are held out."""
        from models.stretch import Stretch

        return Stretch.latest(self.shop, self.horizons, most=self._judged)

    @property
    def first(self) -> datetime:
        """When the stretch begins."""
        return self.as_of.local - timedelta(days=max(self.horizons))

    @cached_property
    def bought(self) -> Bought:
        return self._datasets.events(self._id).bought()


@dataclass(frozen=True, slots=True, eq=False)
class CrowdBefore:
    """What an earlier version was trained on, and the stretch that it was judged by."""

    dataset_id: str
    version: int
    stretch: "Stretch"

    def replayed(self) -> cuts.Moment:
        """What was known before the stretch; of many customers a fair sample."""
        before = self.stretch.before
        rows = np.random.default_rng(0).permutation(len(before.crowd))[:MOST_REPLAYED]
        return replace(before, crowd=chosen(before.crowd, np.sort(rows)))

    def reference(self) -> "Shops":
        from models.gate_events import Shops

        return Shops(f"{self.dataset_id}, of version {self.version}", [self.stretch])


def crowd_before(
    datasets: Datasets, dataset_id: str, version: Version, *, most_customers: int
) -> Crowd | None:
    """The customers of a version's data set, unless they are not there any more, or are not cut
    now as they were when it was trained.
    """
    crowd = Crowd(
        datasets,
        dataset_id,
        horizons_days=version.manifest.settings.get("horizons_days"),
        most_customers=most_customers,
        most_judged=MOST_REFERRED,
    )
    try:
        told = np.any(crowd.stretch.counts)
    except (NotFoundError, InvalidInputError):
        return None
    until = version.manifest.trained_until
    seen = until is not None and pd.Timestamp(until) >= pd.Timestamp(crowd.first)
    return crowd if told and not seen else None


def repeats(one: Bought, later: Bought) -> bool:
    """Whether a data set repeats another one: most of what both tell of a customer is equal."""
    if not len(one.us) or not len(later.us):
        return False
    within = (one.us >= later.us.min()) & (one.us <= later.us.max())
    common = within & np.isin(one.who, later.who)
    equal = np.isin(one.keys()[common], later.keys())
    return bool(equal.sum() > common.sum() / 2)
