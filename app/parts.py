"""The rows of a file dealt into parts on disk, by a hash of the thing that they are of.

Invariant: all rows of a thing are in one part, so that a part can be sorted alone, and parts
follow one another in the order of the hashes, however many there are.
"""

import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
from numpy.typing import NDArray

from app.tables import refuse

PART_BYTES = 8 * 1024 * 1024  # of the file, about so many a part
MOST_BITS = 8  # 256 parts
LONGEST_SHOWN = 64  # characters of a name that messages repeat
MOST_ROWS = 2_000_000  # of a part: so many in one are of one thing, or nearly
HASH, NAME, TIME, ROW = "#hash", "#name", "#time", "#row"

Ints = NDArray[np.int64]
Flags = NDArray[np.bool_]
Columns = dict[str, pa.Array]


@dataclass(frozen=True, slots=True, eq=False)
class Rows:
    """Some rows as they were read: of which thing they are, when, and where they stood.

    names: each once. codes: (rows,) which of them. us: (rows,) microseconds since 1970 by the
    local clock. rows: (rows,) their numbers in the file. columns: (rows,) each.
    """

    names: list[str]
    codes: Ints
    us: Ints
    rows: Ints
    columns: Columns


@dataclass(frozen=True, slots=True, eq=False)
class Part:
    """Some things with all their rows, sorted by thing, time and place in the file.

    names: of the things. starts: (things + 1,) where their rows begin.
    """

    names: list[str]
    starts: Ints
    us: Ints
    rows: Ints
    columns: Columns

    @property
    def owner(self) -> Ints:
        """(rows,) which thing each row is of."""
        return np.repeat(np.arange(len(self.names)), np.diff(self.starts))

    def taken(self, kept: Flags) -> "Part":
        """The rows that are kept; a thing without any is gone."""
        if kept.all():
            return self
        counts = np.bincount(self.owner[kept], minlength=len(self.names))
        mask = pa.array(kept)
        return Part(
            [name for name, some in zip(self.names, counts.tolist(), strict=True) if some],
            np.concatenate(([0], np.cumsum(counts[counts > 0]))),
            self.us[kept],
            self.rows[kept],
            {name: column.filter(mask) for name, column in self.columns.items()},
        )


class Parts:
    """A directory of parts, of which many are written at a time and one is read."""

    def __init__(self, directory: Path, *, weight: int) -> None:
        """weight: about how many bytes all rows have, as CSV."""
        self._directory = directory
        self._bits = min(MOST_BITS, max(0, weight // PART_BYTES).bit_length())
        self.clear()

    def clear(self) -> None:
        """Forget all rows."""
        shutil.rmtree(self._directory, ignore_errors=True)
        self._directory.mkdir()
        self._writers: dict[int, pa.RecordBatchWriter] = {}
        self._counts = np.zeros(1 << self._bits, dtype=np.int64)

    @property
    def rows(self) -> int:
        return int(self._counts.sum())

    def add(self, rows: Rows) -> None:
        """Deal some rows. Raises InvalidInputError if one thing has too many."""
        if not len(rows.rows):
            return
        hashes = pd.util.hash_array(np.array(rows.names, dtype=object), categorize=False)
        numbers = hashes[rows.codes]
        table = pa.table(
            {
                HASH: numbers,
                NAME: pa.array(rows.names, pa.string()).take(pa.array(rows.codes)),
                TIME: rows.us,
                ROW: rows.rows,
                **rows.columns,
            }
        )
        if not self._bits:
            self._write(0, table)
            return
        where = (numbers >> np.uint64(64 - self._bits)).astype(np.int64)
        dealt = table.take(pa.array(np.argsort(where, kind="stable"))).combine_chunks()
        counts = np.bincount(where, minlength=1 << self._bits)
        ends = np.cumsum(counts)
        for part in np.flatnonzero(counts).tolist():
            self._write(part, dealt.slice(int(ends[part] - counts[part]), int(counts[part])))

    def finish(self) -> None:
        """Nothing more is added. Raises OSError."""
        for writer in self._writers.values():
            writer.close()
        self._writers = {}

    def sorted(self) -> Iterator[Part]:
        """The parts, one at a time; may be called again."""
        for number in np.flatnonzero(self._counts).tolist():
            with pa.ipc.open_stream(self._path(number)) as stream:
                yield _sorted(stream.read_all())

    def _write(self, part: int, rows: pa.Table) -> None:
        self._counts[part] += len(rows)
        if self._counts[part] > MOST_ROWS:
            name = rows.column(NAME)[0].as_py()[:LONGEST_SHOWN]
            raise refuse(
                f"one of the items or customers has nearly {MOST_ROWS:,} rows or more, such as "
                f"{name!r}; add them up by period, or leave it out"
            )
        writer = self._writers.get(part)
        if writer is None:
            options = pa.ipc.IpcWriteOptions(compression="lz4")
            writer = pa.ipc.new_stream(self._path(part), rows.schema, options=options)
            self._writers[part] = writer
        writer.write_table(rows)

    def _path(self, part: int) -> str:
        return str(self._directory / f"{part}.arrows")


def _sorted(table: pa.Table) -> Part:
    encoded = table.column(NAME).combine_chunks().dictionary_encode()
    names = np.array(encoded.dictionary.to_pylist(), dtype=object)
    codes = encoded.indices.to_numpy().astype(np.int64)
    hashes = np.zeros(len(names), dtype=np.uint64)
    hashes[codes] = table.column(HASH).to_numpy()
    by_hash = np.array(sorted(range(len(names)), key=lambda code: (hashes[code], names[code])))
    rank = np.empty(len(names), dtype=np.int64)
    rank[by_hash] = np.arange(len(names))
    us, rows = table.column(TIME).to_numpy(), table.column(ROW).to_numpy()
    things = rank[codes]
    order = np.lexsort((rows, us, things))
    taken = table.drop_columns([HASH, NAME, TIME, ROW]).take(pa.array(order))
    return Part(
        names=names[by_hash].tolist(),
        starts=np.concatenate(([0], np.cumsum(np.bincount(things)))),
        us=us[order],
        rows=rows[order],
        columns={name: taken.column(name).combine_chunks() for name in taken.column_names},
    )
