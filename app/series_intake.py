"""A file of series as a data set: item, timestamp, target and what stands beside them.

Invariant: of each item and time there is one row, all times stand on one calendar, and what a
column is taken for is told.
"""

from collections import Counter
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from pandas.tseries.offsets import BDay, Tick, Week

from app.blocks import Block, Blocks
from app.cells import joined, names_of, numbers_of, stamps_of
from app.errors import Issue
from app.faults import Faults, Teller, plain
from app.histories import Steps, anchored, guess_freq, on_calendar
from app.mappings import WAYS, SeriesMapping
from app.parts import Part, Rows
from app.periods import parse_freq
from app.tables import date_format_of, is_wide, long_columns, quoted, refuse, text_of
from models.base import FloatArray

ITEM, TIMESTAMP, TARGET = "item_id", "timestamp", "target"
EXTRA = "+"  # before the names of the other columns, which may be called anything
REPEATED, OFF_CALENDAR = "repeated_time", "off_calendar"
LONGEST_WORD = 256  # of a category
MOST_TIMES = 4_000_000
MOST_STEPS = 100_000
FEWEST_MIXED_ROWS = 10  # of a series whose steps tell that it is of another frequency
MOST_MIXED = 0.05  # share of such series
FEW_POINTS = 10
FEW_SERIES = 3
DAY_US = 86_400_000_000
WORDS = {"true": 1.0, "false": 0.0}

Ints = NDArray[np.int64]
Flags = NDArray[np.bool_]


@dataclass(slots=True)
class _Extra:
    """A column beside the target: what its cells have been so far."""

    name: str
    numeric: bool = True
    boolean: bool = True
    long: bool = False
    ahead: bool = False  # it has values after the last target
    moves: bool = False  # it changes within an item


class SeriesReader:
    """Reads one file."""

    def __init__(self, blocks: Blocks, mapping: SeriesMapping, freq: str | None) -> None:
        """Looks at the first rows and guesses. Raises InvalidInputError."""
        said = mapping.columns
        sheet = blocks.sample((*said.item, said.time, said.target, *mapping.extras), WAYS)
        if is_wide(sheet, replace(said, layout=None)):
            raise refuse(
                "a wide table, with a column an item or a period; send a long one, a row an item "
                "and period, or name `columns.item_id`, `columns.timestamp` and `columns.target`"
            )
        self._said, self._mapping, self._asked = said, mapping, freq
        found = long_columns(sheet, replace(said, known_past=mapping.extras, known_future=()))
        self._item, self._time, self._target = found.item, str(found.time), str(found.target)
        self._comma, self._place = sheet.decimal_comma, sheet.place
        self.notes = sheet.notes
        times = sheet.cells[self._time]
        self._form = said.date_format or date_format_of(sheet, times.map(text_of), self._time)
        taken = {*self._item, self._time, self._target}
        self._extras = [_Extra(name) for name in sheet.cells.columns if name not in taken]
        self._left_out: Ints = np.zeros(0, dtype=np.int64)
        self._tally = _Tally()
        self._freq, self._gaps, self._mixed = "", 0, (0, "")
        self._offsets: frozenset[str] = frozenset()

    @property
    def names(self) -> list[str]:
        extras = [extra.name for extra in self._extras]
        return [*self._item, self._time, self._target, *extras]

    # --- row by row

    def parse(self, block: Block, faults: Faults) -> Rows:
        columns, count = block.columns, len(block.columns[self._time])
        items = joined([columns[name] for name in self._item]) if self._item else None
        names = names_of(pa.array([self._target] * count) if items is None else items)
        stamps = stamps_of(columns[self._time], self._form)
        self._offsets |= stamps.offsets
        target, odd = numbers_of(columns[self._target], decimal_comma=self._comma)
        no_name = names.codes < 0
        empty = no_name & stamps.wrong & np.isnan(target) & ~odd & self._blank(columns[self._time])
        kept = ~(no_name | stamps.wrong | odd)
        rows = np.arange(block.first, block.first + count)
        odd &= ~no_name & ~stamps.wrong
        self._note(faults, columns, rows, no_name & ~empty, stamps.wrong & ~no_name, odd)
        extras = {EXTRA + each.name: self._extra(each, columns[each.name]) for each in self._extras}
        mask = pa.array(kept)
        beside = {name: column.filter(mask) for name, column in extras.items()}
        return Rows(
            names=names.names,
            codes=names.codes[kept],
            us=stamps.us[kept],
            rows=rows[kept],
            columns={TARGET: pa.array(target[kept]), **beside},
        )

    def parsed(self) -> None:
        """All rows are parsed. Raises InvalidInputError."""
        if len(self._offsets) > 1:
            raise refuse(
                f"times of several zones ({quoted(sorted(self._offsets))}); write all in local "
                "time without a zone, or all in UTC"
            )
        told = [each.name for each in self._extras if each.long]
        declared = [name for name in told if name in self._mapping.extras]
        if declared:
            raise refuse(f"{quoted(declared)}: texts of more than {LONGEST_WORD} characters")
        if told:
            self.notes.append(f"left out, long texts: {', '.join(told)}")
        self._extras = [each for each in self._extras if not each.long]

    def restart(self) -> None:
        """Forget what was parsed."""
        self._offsets = frozenset()
        self._extras = [_Extra(each.name) for each in self._extras]

    def _blank(self, column: pa.Array) -> Flags:
        words = names_of(column.cast(pa.string()))
        return words.codes < 0

    def _note(
        self,
        faults: Faults,
        columns: dict[str, pa.Array],
        rows: Ints,
        *wrong: Flags,
    ) -> None:
        no_name, no_time, odd = (np.flatnonzero(each) for each in wrong)
        items = "/".join(self._item)
        faults.add(
            "no_item", rows[no_name], lambda _: f"no value in {items}, which tells items apart"
        )
        for sort, name, places, wanted in (
            ("not_a_date", self._time, no_time, "a date"),
            ("not_a_number", self._target, odd, "a number"),
        ):
            faults.add(sort, rows[places], Teller(columns[name], name, places, wanted))

    def _extra(self, extra: _Extra, column: pa.Array) -> pa.Array:
        """The column as it waits: numbers, or texts of which is not yet known what they are."""
        kind = column.type
        if pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind):
            extra.boolean = False
            return pc.cast(column, pa.float64())
        if pa.types.is_boolean(kind):
            return pc.cast(column, pa.float64())
        texts = column.cast(pa.string())
        if extra.long:
            return pa.nulls(len(texts), pa.string())
        if extra.numeric or extra.boolean:
            self._look(extra, texts)
        if not extra.numeric and (pc.max(pc.utf8_length(texts)).as_py() or 0) > LONGEST_WORD:
            extra.long = True
        return texts

    def _look(self, extra: _Extra, texts: pa.Array) -> None:
        """See whether all cells are numbers, or all are yes and no."""
        said = texts.filter(pc.not_equal(pc.utf8_trim_whitespace(texts), ""))
        if not len(said):
            return
        if extra.boolean:
            words = names_of(said).names
            extra.boolean = all(word.lower() in WORDS for word in words)
        if extra.numeric and not extra.boolean:
            extra.numeric = not numbers_of(said, decimal_comma=self._comma)[1].any()

    # --- part by part

    def begin(self) -> None:
        """A round over all parts begins."""
        self._tally = _Tally()
        for extra in self._extras:
            extra.ahead = extra.moves = False

    def settle(self, part: Part, faults: Faults) -> tuple[pa.Table, Ints]:
        """A part as it is kept, and where its items begin."""
        if len(self._left_out):
            part = self._on_calendar(part, faults)
        part = self._once(part, faults)
        values = {each.name: self._values(each, part) for each in self._extras}
        target = np.asarray(part.columns[TARGET].to_numpy(zero_copy_only=False))
        if len(part.us):
            self._tally.add(part, target)
            self._look_ahead(part, target, values)
        table = {
            ITEM: pa.array(part.names, pa.string()).take(pa.array(part.owner)),
            TIMESTAMP: pa.array(part.us).cast(pa.timestamp("us")),
            TARGET: pa.array(target, from_pandas=True),
            **{EXTRA + name: column for name, column in values.items()},
        }
        return pa.table(table), part.starts

    def finish(self) -> bool:
        """All parts are seen; whether another round is needed. Raises InvalidInputError."""
        if len(self._left_out):
            self._sum_up()
            return False
        times = pd.DatetimeIndex(self._tally.times.astype("datetime64[us]"))
        if not len(times):
            return False
        self._freq = self._frequency(times)
        odd = ~times.isin(on_calendar(times, self._freq))
        if odd.any():
            self._left_out = self._tally.times[odd]
            return True
        self._sum_up()
        return False

    def _on_calendar(self, part: Part, faults: Faults) -> Part:
        odd = np.isin(part.us, self._left_out)
        places = np.flatnonzero(odd)

        def tell(place: int) -> str:
            told = plain(int(part.us[places[place]]))
            return f"{told} is not a period of the calendar {self._freq}; correct it or give `freq`"

        faults.add(OFF_CALENDAR, part.rows[places], tell)
        return part.taken(~odd)

    def _once(self, part: Part, faults: Faults) -> Part:
        """The part with the last of the rows that an item has for one time."""
        owner = part.owner
        again = np.zeros(len(owner), dtype=np.bool_)
        again[1:] = (owner[1:] == owner[:-1]) & (part.us[1:] == part.us[:-1])
        places = np.flatnonzero(again)

        def tell(place: int) -> str:
            at = int(places[place])
            item, time = part.names[owner[at]], plain(int(part.us[at]))
            return f"item {item!r} has another row for {time}"

        faults.add(REPEATED, part.rows[places], tell)
        kept = np.ones(len(owner), dtype=np.bool_)
        kept[:-1] = ~again[1:]
        return part.taken(kept)

    def _values(self, extra: _Extra, part: Part) -> pa.Array:
        """A column beside the target, now that all of it has been seen."""
        column = part.columns[EXTRA + extra.name]
        if not pa.types.is_string(column.type):
            return column
        if extra.boolean:
            names = names_of(column)
            values = np.array([*(WORDS[each.lower()] for each in names.names), np.nan])
            return pa.array(values[names.codes], from_pandas=True)
        if extra.numeric:
            return pa.array(
                numbers_of(column, decimal_comma=self._comma)[0], pa.float64(), from_pandas=True
            )
        return names_of(column).array()

    def _look_ahead(self, part: Part, target: FloatArray, values: dict[str, pa.Array]) -> None:
        """See which columns have values after the last target, and which change in an item."""
        last = _last_observed(part, target)
        future = pa.array(np.arange(len(target)) > last[part.owner])
        for extra in self._extras:
            column = values[extra.name]
            if not extra.ahead:
                extra.ahead = column.filter(future).null_count < int(pc.sum(future).as_py() or 0)
            if not extra.moves:
                extra.moves = _moves(column, part.starts)

    # --- the whole

    def _frequency(self, times: pd.DatetimeIndex) -> str:
        steps = self._tally.usual()
        if self._asked is not None:
            return anchored(self._asked, times, steps, self.notes)
        freq = guess_freq(times, steps, way=WAYS["freq"])
        self.notes.append(f"frequency {freq}, from the dates")
        return freq

    def _sum_up(self) -> None:
        offset = parse_freq(self._freq)
        tally = self._tally
        first, last, counts = (np.concatenate(each) for each in tally.spans())
        if isinstance(offset, Tick):
            step = int(pd.Timedelta(offset) / pd.Timedelta(microseconds=1))
            periods = (last - first) // step + 1
        else:
            ends = pd.DatetimeIndex(np.array([first.min(), last.max()]).astype("datetime64[us]"))
            index = pd.date_range(ends[0], ends[1], freq=offset).to_numpy().astype("datetime64[us]")
            grid = index.astype(np.int64)
            periods = np.searchsorted(grid, last) - np.searchsorted(grid, first) + 1
        self._gaps = int((periods - counts).sum())
        self._find_mixed(offset, counts)

    def _find_mixed(self, offset: pd.offsets.BaseOffset, counts: Ints) -> None:
        """Series whose rows are all some periods apart are of another frequency."""
        step = _step_us(offset)
        if step is None or self._asked is not None:
            return
        common = np.concatenate(self._tally.common)
        mixed = np.flatnonzero((common >= 2 * step) & (counts >= FEWEST_MIXED_ROWS))
        if not len(mixed):
            return
        name = self._tally.names[int(mixed[0])]
        apart = str(pd.Timedelta(int(common[mixed[0]]), "us")).removesuffix(" 00:00:00")
        if len(mixed) > MOST_MIXED * len(counts):
            raise refuse(
                f"mixed frequencies: the dates make a calendar {self._freq}, but {len(mixed):,} of "
                f"{len(counts):,} items have rows {apart} or a multiple of it apart only, such as "
                f"{name!r}; send each frequency as a data set of its own, or say `freq`"
            )
        self._mixed = (len(mixed), name)

    def roles(self) -> dict[str, Any]:
        """What each column of the file was taken for."""
        said = self._mapping
        ahead = said.columns.known_future
        if not said.columns.covariates:
            ahead = tuple(each.name for each in self._extras if each.ahead and each.moves)
        segment = said.segment
        if not segment:
            used = {*ahead, *said.columns.known_past}
            still = [each.name for each in self._extras if not each.moves]
            segment = tuple(name for name in still if name not in used)
        spoken_for = {*ahead, *said.columns.known_past, *segment}
        return {
            "item_id": list(self._item),
            "timestamp": self._time,
            "target": self._target,
            "known_future": list(ahead),
            "past_only": list(said.columns.known_past),
            "segment": list(segment),
            "unused": [each.name for each in self._extras if each.name not in spoken_for],
        }

    def summary(self, faults: Faults) -> dict[str, Any]:
        """What is told of a data set of series."""
        tally = self._tally
        return {
            "freq": self._freq or None,
            "start": plain(int(tally.times[0])) if len(tally.times) else None,
            "end": plain(int(tally.times[-1])) if len(tally.times) else None,
            "gaps": self._gaps,
            "duplicates": faults.counts[REPEATED],
            "unsorted": tally.unsorted,
            "columns": self.roles(),
        }

    def warnings(self) -> list[Issue]:
        """What a shop's analyst had better know."""
        tally, told = self._tally, []
        series = len(tally.names)
        for sort, count, words in (
            ("no_target", tally.silent, "have no target at all and cannot be forecast"),
            ("constant_target", tally.constant, "have a target that never changes"),
            ("few_points", tally.few, f"have fewer than {FEW_POINTS} observed periods"),
        ):
            if count:
                told.append(Issue((), f"{count:,} of {series:,} items {words}", sort))
        if 0 < series < FEW_SERIES:
            told.append(
                Issue((), f"only {series} items, few to learn from or to judge by", "few_series")
            )
        if self._mixed[0]:
            message = f"{self._mixed[0]:,} items have rows at another frequency than {self._freq}"
            told.append(Issue((), f"{message}, such as {self._mixed[1]!r}", "mixed_frequencies"))
        if tally.unsorted:
            told.append(Issue((), f"{tally.unsorted:,} rows were not in order of time", "unsorted"))
        return told


class _Tally:
    """What is counted over all parts."""

    def __init__(self) -> None:
        self.times: Ints = np.zeros(0, dtype=np.int64)
        self.steps: Counter[int] = Counter()
        self.names: list[str] = []
        self.common: list[Ints] = []  # of each item, what all its steps are multiples of
        self._first: list[Ints] = []
        self._last: list[Ints] = []
        self._counts: list[Ints] = []
        self.unsorted = self.silent = self.constant = self.few = 0

    def add(self, part: Part, target: FloatArray) -> None:
        starts, us, owner = part.starts, part.us, part.owner
        self.times = np.union1d(self.times, us)
        if len(self.times) > MOST_TIMES:
            raise refuse(f"more than {MOST_TIMES:,} different times; add sales up by period")
        inner = owner[1:] == owner[:-1]
        steps = np.concatenate(([0], np.where(inner, np.diff(us), 0)))
        values, counts = np.unique(steps[steps > 0], return_counts=True)
        self.steps.update(dict(zip(values.tolist(), counts.tolist(), strict=True)))
        if len(self.steps) > MOST_STEPS:
            raise refuse("the times follow no calendar; add sales up by period")
        self.unsorted += int((inner & (np.diff(part.rows) < 0)).sum())
        self.names += part.names
        self.common.append(np.gcd.reduceat(steps, starts[:-1]))
        self._first.append(us[starts[:-1]])
        self._last.append(us[starts[1:] - 1])
        self._counts.append(np.diff(starts))
        self._weigh(starts, target)

    def _weigh(self, starts: Ints, target: FloatArray) -> None:
        observed = np.add.reduceat((~np.isnan(target)).astype(np.int64), starts[:-1])
        most = np.fmax.reduceat(target, starts[:-1])
        least = np.fmin.reduceat(target, starts[:-1])
        self.silent += int((observed == 0).sum())
        self.constant += int(((observed > 1) & (most == least)).sum())
        self.few += int(((observed > 0) & (observed < FEW_POINTS)).sum())

    def spans(self) -> tuple[list[Ints], list[Ints], list[Ints]]:
        """First and last time of each item, and how many rows it has."""
        return self._first, self._last, self._counts

    def usual(self) -> Steps | None:
        if not self.steps:
            return None
        most = max(self.steps.items(), key=lambda step: (step[1], -step[0]))[0]
        return Steps(pd.Timedelta(min(self.steps), "us"), pd.Timedelta(most, "us"))


def _last_observed(part: Part, target: FloatArray) -> Ints:
    """(items,) the last row with a target, or the last of all where there is none."""
    places = np.where(np.isnan(target), -1, np.arange(len(target)))
    last = np.maximum.reduceat(places, part.starts[:-1])
    return np.asarray(np.where(last < 0, len(target), last))


def _moves(column: pa.Array, starts: Ints) -> bool:
    """Whether a column has two values in an item."""
    if pa.types.is_string(column.type):
        codes = pc.dictionary_encode(column).indices.fill_null(-1).to_numpy(zero_copy_only=False)
        values = np.where(codes < 0, np.nan, codes.astype(np.float64))
    else:
        values = np.asarray(column.to_numpy(zero_copy_only=False), dtype=np.float64)
    most, least = np.fmax.reduceat(values, starts[:-1]), np.fmin.reduceat(values, starts[:-1])
    return bool((most > least).any())


def _step_us(offset: pd.offsets.BaseOffset) -> int | None:
    """The length of a period, where all have one; of weekdays the day."""
    if isinstance(offset, Tick):
        return int(pd.Timedelta(offset) / pd.Timedelta(microseconds=1))
    if isinstance(offset, Week):
        return 7 * DAY_US * int(offset.n)
    return DAY_US if isinstance(offset, BDay) else None
