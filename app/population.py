"""Items that were never sold, and the series of like items that stand for them.

Invariant: both stand on the calendar of the sales they are planned beside; what is refused or left
out is told with the name of the file.
"""

from collections.abc import Collection, Iterable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd

from app.api.inventory import MOST_POPULATION
from app.errors import InvalidInputError, Issue
from app.histories import Gaps, Histories, History, build
from app.tables import Columns, Table, read, refuse


@dataclass(frozen=True, slots=True, eq=False)
class Population:
    """The series, and what is to be said of them."""

    series: tuple[History, ...] = ()
    notes: tuple[str, ...] = ()


def unsold(names: Iterable[str], table: Table) -> list[str]:
    """The names of which the file has no sale."""
    sold = set(table.rows.loc[table.rows["target"].notna(), "item"])
    return [name for name in dict.fromkeys(names) if name not in sold]


def newcomers(names: Collection[str], beside: Histories) -> tuple[History, ...]:
    """Items without a history, whose future begins when that of the latest other one does."""
    last = max(each.times[-1] for each in beside.items)
    times = pd.DatetimeIndex([last])
    return tuple(History(name, times, np.array([np.nan])) for name in names)


def read_population(
    path: Path,
    columns: Columns,
    *,
    beside: Histories,
    prediction_length: int,
    freq: str | None,
    gaps: Gaps,
) -> Population:
    """The series of a file that is like the file of the sales. Raises InvalidInputError, OSError.

    Of more than MOST_POPULATION series so many are taken, evenly from the first to the last.
    """
    try:
        table = read(path, columns)
        found = build(table, columns, prediction_length=prediction_length, freq=freq, gaps=gaps)
        _check_freq(found.freq, beside.freq)
        series = tuple(each for each in found.items if not each.cold)
        if not series:
            raise refuse("every series was out of stock all the time")
    except InvalidInputError as error:
        raise InvalidInputError(tuple(_named(issue, path) for issue in error.issues)) from None
    notes = (*table.notes, *found.notes)
    if len(series) > MOST_POPULATION:
        places = np.linspace(0, len(series) - 1, MOST_POPULATION).round().astype(int)
        notes = (*notes, f"{MOST_POPULATION} of {len(series):,} series taken, evenly")
        series = tuple(series[place] for place in places)
    return Population(series, tuple(f"{path.name}: {note}" for note in notes))


def _check_freq(found: str, wanted: str) -> None:
    """Periods are of one length; weeks may begin on any day."""
    if found.partition("-")[0] != wanted.partition("-")[0]:
        message = f"its periods are {found}, those of the sales {wanted}; add up the finer ones"
        raise InvalidInputError((Issue(("population",), message, "population"),))


def _named(issue: Issue, path: Path) -> Issue:
    return replace(issue, msg=f"{path.name}: {issue.msg}")
