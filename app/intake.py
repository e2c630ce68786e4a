"""A file of a shop's past → a data set: checked row by row, sorted, summed up, in Parquet.

Rows are dealt into parts by a hash of their item or customer, each part is sorted in memory, and
the parts are laid one after the other: rows of one thing lie together in the order of time, and
things in the order of their hashes, so that the first thousand are a fair sample of all.

Invariant: memory is bounded by a part, whatever the file; equal rows make an equal digest, in
whatever order and form they came; no row is left out unless it is counted, and told by its line.

As a process of its own (`python -m app.intake`) it reads its order from stdin and answers on
stdout, so that whoever serves meanwhile has neither its memory nor its work.
"""

import errno
import os
import shutil
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import orjson
import pyarrow as pa
from numpy.typing import NDArray

from app.blocks import Block, Blocks, CsvBlocks, NotUtf8Error, open_blocks
from app.errors import DiskFullError, InvalidInputError, Issue, TooLargeError
from app.events_intake import EventReader
from app.faults import LISTED, Faults
from app.mappings import Kind, event_mapping, series_mapping
from app.parts import Part, Parts, Rows
from app.periods import parse_freq
from app.series_intake import REPEATED, SeriesReader
from app.shelf import ShelfWriter
from app.tables import refuse

TOLERATED = 0.01  # share of rows that may be left out
FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
NICE = 10  # predictions come first


@dataclass(frozen=True, slots=True)
class Order:
    """What is to be made of a file. columns: as the caller says them; freq: None to guess."""

    kind: Kind
    columns: Any = None
    freq: str | None = None


@dataclass(frozen=True, slots=True)
class Taken:
    """What became of it. series: items or customers. facts: what the kind has to tell."""

    digest: str
    rows: int
    series: int
    bytes: int
    errors: list[dict[str, Any]]
    error_rows: int
    warnings: list[dict[str, Any]]
    notes: list[str]
    facts: dict[str, Any]


class Reader(Protocol):
    """What a kind of data set makes of a file."""

    notes: list[str]

    @property
    def names(self) -> list[str]:
        """The columns of the file that are read."""

    def parse(self, block: Block, faults: Faults) -> Rows:
        """The rows that can be read; the others are noted."""

    def parsed(self) -> None:
        """All rows are parsed. Raises InvalidInputError."""

    def restart(self) -> None:
        """Forget what was parsed: the file is read once more."""

    def begin(self) -> None:
        """A round over all parts begins."""

    def settle(self, part: Part, faults: Faults) -> tuple[pa.Table, NDArray[np.int64]]:
        """A part as it is kept, and where its things begin."""

    def finish(self) -> bool:
        """All parts are seen; whether another round is needed. Raises InvalidInputError."""

    def summary(self, faults: Faults) -> dict[str, Any]:
        """What is to be told of it all."""

    def warnings(self) -> list[Issue]:
        """What a shop's analyst had better know."""


def check(order: Order) -> None:
    """Raise InvalidInputError for what can be seen before the file is."""
    if order.kind == "series":
        series_mapping(order.columns)
        if order.freq is not None:
            parse_freq(order.freq)
        return
    event_mapping(order.columns)
    if order.freq is not None:
        raise InvalidInputError((Issue(("freq",), "freq: events have no frequency", "freq"),))


def take_in(path: Path, to: Path, order: Order, *, most_bytes: int) -> Taken:
    """Make the data set of a file in a directory that exists.

    Raises InvalidInputError, TooLargeError, DiskFullError; the directory is of no use then.
    """
    try:
        return _taken_in(path, to, order, most_bytes)
    except OSError as error:
        if error.errno in FULL:
            raise DiskFullError("the disk is full; nothing of the file was kept") from error
        raise


def _taken_in(path: Path, to: Path, order: Order, most_bytes: int) -> Taken:
    check(order)
    blocks = open_blocks(path, most_bytes=most_bytes, aside=to)
    reader = _reader(blocks, order)
    parts = Parts(to / "parts", weight=blocks.weight)
    parsed = _deal(blocks, parts, reader)
    settled, digest, writer = _lay(parts, reader, to)
    shutil.rmtree(to / "parts")
    ragged = blocks.skipped
    left_out = parsed.counts.total() + settled.count(but=REPEATED) + len(ragged)
    total = parts.rows + parsed.counts.total() + len(ragged)
    errors = _errors(blocks, parsed, settled, ragged)
    _refuse_faulty(errors, left_out, total)
    repeated = _told(blocks, settled, of=REPEATED)
    _refuse_repeated(repeated, settled.counts[REPEATED], total)
    warnings = reader.warnings()
    if repeated:
        message = f"{settled.counts[REPEATED]:,} rows repeat the time of an item, of which the "
        message += f"last in the file counts; {repeated[0].msg}"
        warnings.insert(0, Issue(repeated[0].loc, message, REPEATED))
    return Taken(
        digest=digest,
        rows=writer.rows,
        series=writer.things,
        bytes=writer.bytes,
        errors=list(map(asdict, errors)),
        error_rows=left_out,
        warnings=list(map(asdict, warnings)),
        notes=reader.notes,
        facts=reader.summary(settled),
    )


def _reader(blocks: Blocks, order: Order) -> Reader:
    if order.kind == "series":
        return SeriesReader(blocks, series_mapping(order.columns), order.freq)
    return EventReader(blocks, event_mapping(order.columns))


def _deal(blocks: Blocks, parts: Parts, reader: Reader) -> Faults:
    """All rows into parts."""
    try:
        return _dealt(blocks, parts, reader)
    except NotUtf8Error:
        assert isinstance(blocks, CsvBlocks)  # noqa: S101 - Parquet is UTF-8 by its nature
        blocks.as_windows_1252()
        reader.restart()
        reader.notes.append("the text is not UTF-8, read as Windows-1252")
        parts.clear()
        return _dealt(blocks, parts, reader)


def _dealt(blocks: Blocks, parts: Parts, reader: Reader) -> Faults:
    faults = Faults()
    for block in blocks.read(reader.names):
        parts.add(reader.parse(block, faults))
    parts.finish()
    reader.parsed()
    return faults


def _lay(parts: Parts, reader: Reader, to: Path) -> tuple[Faults, str, ShelfWriter]:
    """The parts laid one after the other; once more if rows are then seen to be left out."""
    again = True
    while again:
        faults, writer = Faults(), ShelfWriter(to)
        reader.begin()
        for part in parts.sorted():
            writer.add(*reader.settle(part, faults))
        digest = writer.close()
        again = reader.finish()
    return faults, digest, writer


def _errors(
    blocks: Blocks, parsed: Faults, settled: Faults, ragged: list[tuple[int, str]]
) -> list[Issue]:
    """The first rows that are left out, by their lines."""
    place = blocks.place
    issues = [
        Issue((place, line), f"{place} {line}: {told}", "ragged") for line, told in ragged[:LISTED]
    ]
    issues += _told(blocks, parsed) + _told(blocks, settled, but=REPEATED)
    return sorted(issues, key=lambda issue: issue.loc[1])[:LISTED]


def _told(blocks: Blocks, faults: Faults, *, but: str = "", of: str = "") -> list[Issue]:
    first = faults.first(but=but, of=of)
    lines = blocks.lines([fault.row for fault in first])
    place = blocks.place
    return [
        Issue((place, line), f"{place} {line}: {fault.msg}", fault.type)
        for line, fault in zip(lines, first, strict=True)
    ]


def _refuse_faulty(errors: list[Issue], left_out: int, total: int) -> None:
    if not total:
        raise refuse("the file has a header and no rows")
    if left_out > TOLERATED * total:
        message = f"{left_out:,} of {total:,} rows cannot be read, more than 1 in 100"
        raise InvalidInputError((Issue((), message, "unreadable_rows"), *errors))


def _refuse_repeated(repeated: list[Issue], count: int, total: int) -> None:
    if count > TOLERATED * total:
        message = (
            f"{count:,} of {total:,} rows repeat the time of an item, more than 1 in 100; add them "
            "up by period, or name all the columns that tell items apart in `columns.item_id`"
        )
        raise InvalidInputError((Issue((), message, REPEATED), *repeated))


# --- as a process


def main() -> None:
    """Take in what stdin says; answer on stdout."""
    os.nice(NICE)
    said = orjson.loads(sys.stdin.buffer.read())
    sys.stdout.buffer.write(orjson.dumps(_answer(said), option=orjson.OPT_NON_STR_KEYS))


def _answer(said: dict[str, Any]) -> dict[str, Any]:
    order = Order(**said["order"])
    try:
        taken = take_in(Path(said["path"]), Path(said["to"]), order, most_bytes=said["most_bytes"])
    except InvalidInputError as error:
        return {"failure": "invalid", "issues": list(map(asdict, error.issues))}
    except (TooLargeError, DiskFullError) as error:
        return {"failure": type(error).__name__, "message": str(error)}
    return {"taken": asdict(taken)}


if __name__ == "__main__":
    main()
