"""A file of events as a data set: who did what, when, to what, for how much.

Invariant: a word of the file means what `app.event_tables` takes it for; times are those of the
file's local clock.
"""

import dataclasses
from collections import Counter
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from app.blocks import Block, Blocks
from app.cells import Names, names_of, numbers_of, stamps_of
from app.errors import Issue
from app.event_tables import EventColumns, event_columns, meaning_of, told_meanings
from app.faults import Faults, Teller, plain
from app.mappings import EVENT_WAYS
from app.parts import Part, Rows
from app.tables import date_format_of, quoted, refuse, text_of
from models.base import EVENT_TYPES, FloatArray

CUSTOMER, AT = "customer_id", "at"
NUMBERS = ("amount", "quantity")
THINGS = ("item_id", "category")
OTHER = "other"
LONGEST_NAME = 256
MOST_WORDS = 10_000  # sorts of events
SEGMENT = "+"  # before the names of the columns that tell customers apart
MOST_SEGMENTS = 100  # that a column may tell apart
MOST_GUESSED = 8  # columns of a file that may be such

Flags = NDArray[np.bool_]
Ints = NDArray[np.int64]


@dataclass(slots=True)
class _Segment:
    """A column that may tell customers apart. said: by the caller. many: too many to be one."""

    name: str
    said: bool
    words: set[str] = dataclasses.field(default_factory=set)
    many: bool = False

    def read(self, column: pa.Array) -> pa.Array:
        """The words of some rows."""
        if self.many:
            return pa.nulls(len(column), pa.string())
        found = names_of(column.cast(pa.string()))
        names = [word[:LONGEST_NAME] for word in found.names]
        self.words.update(names)
        self.many = len(self.words) > MOST_SEGMENTS
        return Names(names, found.codes).array()

    @property
    def tells(self) -> bool:
        """Whether it tells somebody apart, and not everybody."""
        return not self.many and (self.said or len(self.words) > 1)


class EventReader:
    """Reads one file."""

    def __init__(self, blocks: Blocks, columns: EventColumns) -> None:
        """Looks at the first rows and guesses. Raises InvalidInputError."""
        sheet = blocks.sample(columns.asked, EVENT_WAYS)
        found = event_columns(sheet, columns)
        self._who, self._time, self._type = str(found.customer), str(found.time), found.type
        self._beside = {
            "amount": found.amount,
            "quantity": found.quantity,
            "item_id": found.item,
            "category": found.category,
        }
        self._comma, self.notes = sheet.decimal_comma, sheet.notes
        times = sheet.cells[self._time]
        self._form = found.date_format or date_format_of(sheet, times.map(text_of), self._time)
        self._all = list(sheet.cells.columns)
        unused = [name for name in self._all if name not in self._roles().values()]
        self._segments = [
            _Segment(name, said=bool(found.segment))
            for name in found.segment or unused[:MOST_GUESSED]
        ]
        self._tell()
        self.restart()
        self.begin()

    @property
    def names(self) -> list[str]:
        said = (*self._roles().values(), *(each.name for each in self._segments))
        return list(dict.fromkeys(name for name in said if name is not None))

    def restart(self) -> None:
        """Forget what was parsed."""
        self._segments = [_Segment(each.name, said=each.said) for each in self._segments]
        self._meanings: dict[str, str | None] = {}
        self._offsets: frozenset[str] = frozenset()
        self._came_back = 0

    # --- row by row

    def parse(self, block: Block, faults: Faults) -> Rows:
        columns, count = block.columns, len(block.columns[self._time])
        who, stamps = names_of(columns[self._who]), stamps_of(columns[self._time], self._form)
        self._offsets |= stamps.offsets
        rows = np.arange(block.first, block.first + count)
        wrong = np.zeros(count, dtype=np.bool_)

        def refuse_rows(sort: str, odd: Flags, name: str, wanted: str) -> None:
            places = np.flatnonzero(odd & ~wrong)
            faults.add(sort, rows[places], Teller(columns[name], name, places, wanted))
            wrong[places] = True

        empty = (who.codes < 0) & (names_of(columns[self._time].cast(pa.string())).codes < 0)
        wrong |= empty
        refuse_rows("no_customer", who.codes < 0, self._who, "the name of a customer")
        refuse_rows("not_a_date", stamps.wrong, self._time, "a time")
        kinds = self._kinds(block, count)
        if self._type is not None:
            refuse_rows("no_type", kinds.codes < 0, self._type, "what happened")
        numbers: dict[str, FloatArray] = {}
        for field in NUMBERS:
            name = self._beside[field]
            numbers[field] = np.full(count, np.nan)
            if name is not None:
                numbers[field], odd = numbers_of(columns[name], decimal_comma=self._comma)
                refuse_rows("not_a_number", odd, name, "a number")
        types = np.array([*kinds.names, OTHER], dtype=object)[kinds.codes]
        self._settle_returns(types, numbers, wrong, rows, faults)
        things = {field: self._things(field, columns, count) for field in THINGS}
        kept = ~wrong
        mask = pa.array(kept)
        beside = {
            "type": pa.array(types[kept], pa.string()),
            **{field: pa.array(numbers[field][kept]) for field in NUMBERS},
            **{field: column.filter(mask) for field, column in things.items()},
            **{
                SEGMENT + each.name: each.read(columns[each.name]).filter(mask)
                for each in self._segments
            },
        }
        return Rows(who.names, who.codes[kept], stamps.us[kept], rows[kept], beside)

    def parsed(self) -> None:
        """All rows are parsed. Raises InvalidInputError."""
        if len(self._offsets) > 1:
            raise refuse(
                f"times of several zones ({quoted(sorted(self._offsets))}); write all in local "
                "time without a zone, or all in UTC"
            )
        many = [each.name for each in self._segments if each.said and each.many]
        if many:
            raise refuse(
                f"`columns.segment`: {quoted(many)} has more than {MOST_SEGMENTS} different "
                "values, too many to tell customers apart by"
            )
        self._segments = [each for each in self._segments if each.tells]
        if self._segments:
            told = ", ".join(each.name for each in self._segments)
            self.notes.append(f"customers can be told apart by {told}")
        if self._type is not None:
            self.notes += told_meanings(self._meanings, self._type)[:20]
        if self._came_back:
            self.notes.append(f"{self._came_back:,} rows below zero are taken as refunds")

    def _kinds(self, block: Block, count: int) -> Names:
        """What happened, in the words of the contract."""
        if self._type is None:
            return Names(["purchase"], np.zeros(count, dtype=np.int64))
        said = names_of(block.columns[self._type])
        for word in said.names:
            if word not in self._meanings:
                self._meanings[word] = meaning_of(word[:LONGEST_NAME])
        if len(self._meanings) > MOST_WORDS:
            raise refuse(
                f"column {self._type!r} has more than {MOST_WORDS:,} different words, too many to "
                "say what happened; name another with `columns.type`"
            )
        return Names([self._meanings[word] or OTHER for word in said.names], said.codes)

    def _settle_returns(
        self,
        types: NDArray[np.object_],
        numbers: dict[str, FloatArray],
        wrong: Flags,
        rows: Ints,
        faults: Faults,
    ) -> None:
        """What is below zero came back: an event of its own where the file has no types."""
        below = (types == "purchase") & ((numbers["amount"] < 0) | (numbers["quantity"] < 0))
        below &= ~wrong
        if below.any() and self._type is not None:
            message = "a purchase below zero; what comes back is an event of type refund"
            faults.add("negative_purchase", rows[below], lambda _: message)
            wrong |= below
        elif below.any():
            self._came_back += int(below.sum())
            types[below] = "refund"
        came_back = types == "refund"
        for field, values in numbers.items():
            numbers[field] = np.where(came_back, np.abs(values), values)

    def _things(self, field: str, columns: dict[str, pa.Array], count: int) -> pa.Array:
        name = self._beside[field]
        if name is None:
            return pa.nulls(count, pa.string())
        said = names_of(columns[name])
        return Names([each[:LONGEST_NAME] for each in said.names], said.codes).array()

    # --- part by part

    def begin(self) -> None:
        """A round over all parts begins."""
        self._types: Counter[str] = Counter()
        self._customers = self._buyers = self._unsorted = 0
        self._first = self._last = 0

    def settle(self, part: Part, _: Faults) -> tuple[pa.Table, Ints]:
        """A part as it is kept, and where its customers begin."""
        if len(part.us):
            self._count(part)
        table = {
            CUSTOMER: pa.array(part.names, pa.string()).take(pa.array(part.owner)),
            AT: pa.array(part.us).cast(pa.timestamp("us")),
            **{
                name: part.columns[name].fill_null(np.nan)
                if name in NUMBERS
                else part.columns[name]
                for name in ("type", *NUMBERS, *THINGS)
            },
            **{SEGMENT + each.name: part.columns[SEGMENT + each.name] for each in self._segments},
        }
        return pa.table(table), part.starts

    def finish(self) -> bool:
        """All parts are seen, and one round is enough."""
        return False

    def _count(self, part: Part) -> None:
        types = part.columns["type"].value_counts()
        for each in types.to_pylist():
            self._types[each["values"]] += each["counts"]
        bought = np.asarray(part.columns["type"].to_numpy(zero_copy_only=False) == "purchase")
        owner = part.owner
        self._buyers += len(np.unique(owner[bought]))
        self._unsorted += int(((owner[1:] == owner[:-1]) & (np.diff(part.rows) < 0)).sum())
        first, last = int(part.us.min()), int(part.us.max())
        self._first = min(first, self._first) if self._customers else first
        self._last = max(last, self._last) if self._customers else last
        self._customers += len(part.names)

    # --- the whole

    def roles(self) -> dict[str, Any]:
        """What each column of the file was taken for."""
        said, segment = self._roles(), [each.name for each in self._segments]
        taken = {*said.values(), *segment}
        unused = [name for name in self._all if name not in taken]
        return said | {"segment": segment, "unused": unused}

    def _roles(self) -> dict[str, str | None]:
        return {CUSTOMER: self._who, AT: self._time, "type": self._type, **self._beside}

    def summary(self, _: Faults) -> dict[str, Any]:
        """What is told of a data set of events."""
        return {
            "freq": None,
            "start": plain(self._first) if self._customers else None,
            "end": plain(self._last) if self._customers else None,
            "gaps": None,
            "duplicates": None,
            "unsorted": self._unsorted,
            "columns": self.roles(),
            "types": {name: self._types[name] for name in EVENT_TYPES if self._types[name]},
        }

    def warnings(self) -> list[Issue]:
        """What a shop's analyst had better know."""
        told = []
        if self._customers and not self._buyers:
            told.append(Issue((), "nobody buys: no event is a purchase", "no_purchases"))
        if 0 < self._customers < 100:
            message = f"only {self._customers} customers, too few to train on"
            told.append(Issue((), message, "few_customers"))
        return told

    def _tell(self) -> None:
        said = {"customer": self._who, "time": self._time, "type": self._type, **self._beside}
        told = [f"{what} = {name}" for what, name in said.items() if name is not None]
        if self._type is None:
            told.append("every row a purchase")
        self.notes.insert(0, ", ".join(told))
