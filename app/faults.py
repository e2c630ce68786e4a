"""The rows of a file that are left out, and why.

Invariant: all of them are counted, and the first of each sort are kept to be told by their lines.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import pyarrow as pa
from numpy.typing import NDArray

from app.tables import text_of

LISTED = 20


@dataclass(frozen=True, slots=True)
class Fault:
    """What is wrong with a row, counted from 0."""

    row: int
    msg: str
    type: str


@dataclass(frozen=True, slots=True, eq=False)
class Teller:
    """Says of the n-th of some rows what is wrong with its cell."""

    column: pa.Array
    name: str
    places: NDArray[np.int64]
    wanted: str

    def __call__(self, place: int) -> str:
        cell = self.column[int(self.places[place])].as_py()
        if text_of(cell) is None:
            return f"column {self.name!r} is empty, where {self.wanted} should be"
        return f"column {self.name!r} holds {str(cell)[:40]!r}, which is not {self.wanted}"


class Faults:
    """Gathered in any order."""

    def __init__(self) -> None:
        self._first: dict[str, list[Fault]] = {}
        self.counts: Counter[str] = Counter()

    def add(
        self, type_: str, rows: Sequence[int] | NDArray[np.int64], tell: Callable[[int], str]
    ) -> None:
        """tell: what is wrong with the n-th of the rows."""
        if not len(rows):
            return
        self.counts[type_] += len(rows)
        earliest = np.argsort(rows, kind="stable")[:LISTED].tolist()
        told = [Fault(int(rows[place]), tell(place), type_) for place in earliest]
        known = self._first.get(type_, [])
        self._first[type_] = sorted([*known, *told], key=lambda fault: fault.row)[:LISTED]

    def first(self, *, but: str = "", of: str = "") -> list[Fault]:
        """The first ones, of one sort or of all but one."""
        sorts = [name for name in self._first if name != but and of in {"", name}]
        every = [fault for name in sorts for fault in self._first[name]]
        return sorted(every, key=lambda fault: fault.row)[:LISTED]

    def count(self, *, but: str) -> int:
        """How many there are of all sorts but one."""
        return self.counts.total() - self.counts[but]


def plain(us: int) -> str:
    """A time as a person writes it. us: microseconds since 1970."""
    return pd.Timestamp(us, unit="us").isoformat().removesuffix("T00:00:00")
