"""A data set on disk: its rows in Parquet, thing by thing, and an index of the things.

Invariant: what is written is read again by any part of it in bounded memory, and equal rows have
an equal digest.
"""

import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

DATA, INDEX = "data.parquet", "index.parquet"
GROUP_ROWS = 1 << 17
DIGEST_BYTES = 32

Ints = NDArray[np.int64]


class ShelfWriter:
    """Writes part by part; of use only once it is closed."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._writer: pq.ParquetWriter | None = None
        self._counts: list[Ints] = []
        self._hashes: dict[str, _Column] = {}
        self.rows = self.things = self.bytes = 0

    def add(self, table: pa.Table, starts: Ints) -> None:
        """Append things. starts: (things + 1,) where their rows begin. Raises OSError."""
        if self._writer is None:
            self._writer = pq.ParquetWriter(
                self._directory / DATA, table.schema, compression="zstd", compression_level=3
            )
            self._hashes = {name: _Column() for name in table.column_names}
        self._writer.write_table(table, row_group_size=GROUP_ROWS)
        for name, column in self._hashes.items():
            column.update(table.column(name))
        self._counts.append(np.diff(starts))
        self.rows += len(table)
        self.things += len(starts) - 1

    def close(self) -> str:
        """The digest of all rows, in hexadecimal. Raises OSError."""
        counts = np.concatenate([np.zeros(0, np.int64), *self._counts])
        pq.write_table(pa.table({"rows": counts}), self._directory / INDEX)
        if self._writer is not None:
            self._writer.close()
        self.bytes = sum(each.stat().st_size for each in self._directory.glob("*.parquet"))
        whole = hashlib.blake2b(digest_size=DIGEST_BYTES)
        for name, column in self._hashes.items():
            whole.update(f"{name} {column.kind} ".encode())
            whole.update(column.digest())
        return whole.hexdigest()


class _Column:
    """The hash of a column that comes in pieces."""

    def __init__(self) -> None:
        self._hash = hashlib.blake2b(digest_size=DIGEST_BYTES)
        self._lengths = hashlib.blake2b(digest_size=DIGEST_BYTES)
        self.kind = ""

    def update(self, column: pa.ChunkedArray) -> None:
        self.kind = str(column.type)
        values = column.combine_chunks()
        if pa.types.is_string(column.type):
            self._lengths.update(pc.binary_length(values).fill_null(-1).to_numpy())
            self._hash.update(_text_of(values))
        elif pa.types.is_timestamp(column.type):
            self._hash.update(values.cast(pa.int64()).to_numpy())
        else:
            numbers = values.fill_null(np.nan).to_numpy(zero_copy_only=False)
            self._hash.update((np.where(np.isnan(numbers), np.nan, numbers) + 0.0).tobytes())

    def digest(self) -> bytes:
        return self._hash.digest() + self._lengths.digest()


class Shelf:
    """What was written."""

    def __init__(self, directory: Path) -> None:
        """Raises OSError if it is not there."""
        self._file = pq.ParquetFile(directory / DATA, pre_buffer=False)
        counts = pq.read_table(directory / INDEX).column("rows").to_numpy()
        self.starts: Ints = np.concatenate(([0], np.cumsum(counts)))
        groups = self._file.metadata
        sizes = [groups.row_group(number).num_rows for number in range(groups.num_row_groups)]
        self._groups: Ints = np.concatenate(([0], np.cumsum(np.array(sizes, dtype=np.int64))))

    @property
    def things(self) -> int:
        return len(self.starts) - 1

    def rows(self, first: int, last: int, columns: Sequence[str] | None = None) -> pa.Table:
        """The rows of the things from `first` up to `last`, that one not included."""
        start, end = int(self.starts[first]), int(self.starts[last])
        low = int(np.searchsorted(self._groups, start, side="right")) - 1
        high = int(np.searchsorted(self._groups, end, side="left"))
        names = None if columns is None else list(columns)
        read = self._file.read_row_groups(list(range(low, high)), names, use_threads=False)
        return read.slice(start - int(self._groups[low]), end - start)

    def spans(self, most_things: int, most_rows: int) -> Iterator[tuple[int, int]]:
        """All things, some at a time: first and last, that one not included."""
        first = 0
        while first < self.things:
            within = int(np.searchsorted(self.starts, self.starts[first] + most_rows, side="right"))
            last = min(max(within - 1, first + 1), first + most_things, self.things)
            yield first, last
            first = last

    def close(self) -> None:
        self._file.close()


def _text_of(values: pa.StringArray) -> memoryview:
    """All its characters, one value after the other."""
    _, offsets, data = values.buffers()
    if data is None:
        return memoryview(b"")
    ends = np.frombuffer(offsets, np.int32)[values.offset : values.offset + len(values) + 1]
    return memoryview(data)[int(ends[0]) : int(ends[-1])]
