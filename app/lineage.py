"""Where a version comes from: the versions before it, and what they were trained on.

Invariant: of an earlier data set nothing that was held out is ever replayed, and it is no reference
for anything that has trained on its held-out windows.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from app.datasets import Datasets
from app.errors import InvalidInputError, NotFoundError
from app.periods import parse_freq
from app.versions import Version, Versions
from models.backtest import Plan, Record, season_of

if TYPE_CHECKING:
    from models.gate import Reference
    from models.lessons import Earlier

T = TypeVar("T")

MOST_SETS = 3  # the latest; what was learned before them, they were checked against
MOST_SERIES = 200  # of each
#: Periods that are forecast by default, by the letter of the calendar.
HORIZONS = {"h": 48, "D": 28, "B": 20, "W": 8, "M": 6, "Q": 4, "Y": 2}


@dataclass(frozen=True, slots=True, eq=False)
class Before:
    """What an earlier version was trained on, and the windows that it was judged by."""

    dataset_id: str
    version: int
    records: Sequence[Record]
    plan: Plan

    def replayed(self) -> "Earlier":
        """What lies before its held-out windows."""
        from models.examples import until
        from models.lessons import Earlier

        known = until(self.records, self.plan.offsets[0])
        return Earlier(known, self.plan.freq, self.plan.horizon)

    def reference(self) -> "Reference":
        from models.gate import Reference

        return Reference(f"{self.dataset_id}, of version {self.version}", self.records, self.plan)


def line_of(versions: Versions, version: Version) -> Iterator[Version]:
    """A version and those it was made from, as far as they are kept."""
    while True:
        yield version
        if version.manifest.parent is None:
            return
        try:
            version = versions.get(version.name, version.manifest.parent)
        except NotFoundError:
            return


def sets_before(
    versions: Versions,
    made_from: Sequence[Version],
    *,
    now: tuple[str, T],
    read: Callable[[str, Version], T | None],
    repeats: Callable[[T, T], bool],
) -> list[tuple[Version, T]]:
    """The data sets that versions, or those before them, were trained on, the latest first, each
    with its latest version.

    now: the data set at hand, and what is in it. read: what was in one, None if it is not there any
    more. repeats: whether one says again what a later one says; it is left out, since its held-out
    windows may have been trained on there.
    """
    line = {each.version: each for one in made_from for each in line_of(versions, one)}
    found: list[tuple[Version, T]] = []
    seen, later = {now[0]}, [now[1]]
    for number in sorted(line, reverse=True):
        dataset_id = line[number].manifest.dataset_id
        if dataset_id is None or dataset_id in seen or len(found) == MOST_SETS:
            continue
        seen.add(dataset_id)
        before = read(dataset_id, line[number])
        if before is None:
            continue
        if not any(repeats(before, each) for each in later):
            found.append((line[number], before))
        later.append(before)
    return found


def read_before(datasets: Datasets, dataset_id: str, version: Version) -> Before | None:
    """The data set of a version, unless it is not there any more."""
    try:
        records, calendar = datasets.records(dataset_id, most_series=MOST_SERIES)
    except (NotFoundError, InvalidInputError):
        return None
    freq = parse_freq(calendar).freqstr  # as pandas spells it today
    said = version.manifest.settings
    horizon = said.get("prediction_length") or usual_horizon(freq)
    plan = Plan(freq, horizon, said.get("origins") or 1, season=season_of(freq))
    return Before(dataset_id, version.version, records, plan)


def usual_horizon(freq: str) -> int:
    """Periods worth forecasting on a calendar."""
    letters = freq.lstrip("0123456789")
    return next((count for start, count in HORIZONS.items() if letters.startswith(start)), 24)


def same_sales(one: Sequence[Record], other: Sequence[Record]) -> bool:
    """Whether a data set repeats another one: most of what both say of an item is equal."""
    later = {record.item: record for record in other}
    equal = common = 0
    for record in one:
        theirs = later.get(record.item)
        if theirs is None:
            continue
        times = record.times.intersection(theirs.times)
        ours = record.target[record.times.isin(times)]
        said = theirs.target[theirs.times.isin(times)]
        equal += int(np.isclose(ours, said, equal_nan=True).sum())
        common += len(times)
    return equal > common / 2
