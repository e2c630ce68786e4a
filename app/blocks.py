"""A file of rows as it was sent, CSV or Parquet, gzip or zstd around either, block by block.

Invariant: no more of it is in memory than some blocks, whatever it claims to be; what unpacks to
more than the limit, or to absurdly more than was sent, is refused; and each row can be found
again by its line.
"""

import bisect
import codecs
import csv
import io
import os
import zlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Protocol

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq
import zstandard

from app.errors import TooLargeError
from app.tables import DELIMITERS, Sheet, check_header, decode, delimiter_of, records_of, refuse
from app.tables import sheet_of as sheet_of_records

BLOCK_BYTES = 8 * 1024 * 1024  # of CSV at a time
BATCH_ROWS = 1 << 16  # of Parquet at a time
SAMPLE_BYTES = 1024 * 1024  # what columns are guessed from
SAMPLE_ROWS = 20_000
CHUNK_BYTES = 1024  # of zstd at a time: each may come out 32,768 times as large
WINDOW_BYTES = 1 << 27  # what `zstd --long` asks of a reader
MOST_RATIO = 250  # of what comes out to what was sent; of sales it is 5 to 30
USUAL_RATIO = 10
RATIO_FROM_BYTES = 64 * 1024 * 1024
MOST_RAGGED = 10_000  # after so many lines of other lengths it is no table
MOST_LINES = 1_000  # of a record
EMPTY = " \t\r\n" + "".join(DELIMITERS)
MOST_COLUMNS = 1_000
GZIP = b"\x1f\x8b"
UTF_16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)


@dataclass(frozen=True, slots=True, eq=False)
class Block:
    """Some rows. first: how many came before; columns: by the names of the file."""

    first: int
    columns: dict[str, pa.Array]


class Blocks(Protocol):
    """The rows of a file."""

    @property
    def place(self) -> str:
        """What a line of this file is called: line or row."""

    @property
    def weight(self) -> int:
        """About how many bytes all of it has as CSV."""

    def sample(self, asked: Iterable[str | None], ways: dict[str, str]) -> Sheet:
        """Its first rows, to guess from; a column asked for is there."""

    def read(self, names: Sequence[str]) -> Iterator[Block]:
        """All rows, from the first, in order. Raises InvalidInputError, TooLargeError."""

    def lines(self, rows: Sequence[int]) -> list[int]:
        """Where some rows stand that were read, counted from 0; rows in ascending order."""

    @property
    def skipped(self) -> list[tuple[int, str]]:
        """The lines that are no rows, and why, in order; known once all are read."""


def open_blocks(path: Path, *, most_bytes: int, aside: Path) -> Blocks:
    """The file at a path. most_bytes: it may unpack to. aside: a directory for what is unpacked.

    Raises InvalidInputError, TooLargeError, OSError.
    """
    magic = _head(path, 4)
    packed = magic.startswith(GZIP) or magic == zstandard.FRAME_HEADER
    if packed and _head_of(_Unpacked(path, most_bytes), 4) == b"PAR1":
        path, magic = _unpack(path, aside / "unpacked", most_bytes), b"PAR1"
    if magic == b"PAR1":
        return ParquetBlocks(path, most_bytes)
    if magic == b"PK\x03\x04":
        raise refuse("this is a zip archive; send the file in it, as it is or in gzip or zstd")
    return CsvBlocks(path, most_bytes, packed=packed)


class CsvBlocks:
    """Rows of CSV in UTF-8, UTF-16 or Windows-1252."""

    place = "line"

    def __init__(self, path: Path, most_bytes: int, *, packed: bool) -> None:
        self._path, self._most_bytes = path, most_bytes
        self.weight = path.stat().st_size * (USUAL_RATIO if packed else 1)
        self._encoding, self._delimiter = "utf-8", ","
        self._header: list[str] = []
        self._swallowed = False  # a record has most of the file
        self._ragged: list[tuple[int, str]] = []  # number of the record, from 1; what is wrong

    def sample(self, asked: Iterable[str | None], ways: dict[str, str]) -> Sheet:
        raw = _head_of(_Unpacked(self._path, self._most_bytes), SAMPLE_BYTES)
        text, notes = self._sampled(raw)
        self._delimiter = delimiter_of(text)
        records = list(records_of(text, self._delimiter))
        width = len(records[0][1])
        if width > MOST_COLUMNS:
            raise refuse(f"{width:,} columns, at most {MOST_COLUMNS:,} are read")
        even = [record for record in records if len(record[1]) == width]
        if len(even) == 1 and len(records) > 1:
            message = f"{len(records[1][1])} fields where the header has {width}"
            raise refuse(message, lines=[line for line, _ in records[1:]])
        self._header = records[0][1]
        sheet = sheet_of_records(even, self._delimiter, notes)
        sheet.ways = ways
        check_header(sheet, asked)
        return sheet

    def read(self, names: Sequence[str]) -> Iterator[Block]:
        try:
            yield from self._read(names)
        except UnicodeDecodeError:
            raise refuse("the text is neither UTF-8 nor Windows-1252") from None
        except pa.ArrowInvalid as error:
            raise self._explain(error) from None

    def lines(self, rows: Sequence[int]) -> list[int]:
        ragged = [number for number, _ in self._ragged]
        return self._lines_of([_record_of(row + 1, ragged) for row in rows])

    @property
    def skipped(self) -> list[tuple[int, str]]:
        named = sorted(self._ragged)[:MOST_RAGGED]
        lines = self._lines_of([number for number, _ in named])
        pairs = zip(lines, named, strict=True)
        return [(line, told) for line, (_, told) in pairs if told]

    def _sampled(self, raw: bytes) -> tuple[str, list[str]]:
        """The text of the first bytes, which may end within a record."""
        if raw.startswith(UTF_16):
            self._encoding = "utf-16"
            text = codecs.getincrementaldecoder("utf-16")().decode(raw)
            return _whole_lines(text), ["the text is UTF-16"]
        text, notes = decode(raw[: raw.rfind(b"\n") + 1] or raw)
        if notes:
            self._encoding = "cp1252"
        return text, notes

    def _read(self, names: Sequence[str]) -> Iterator[Block]:
        self._ragged = []
        wanted = {f"f{self._header.index(name)}": name for name in names}
        numbered = [f"f{place}" for place in range(len(self._header))]
        stream = pa.PythonFile(_Unpacked(self._path, self._most_bytes), mode="r")
        reader = pa_csv.open_csv(
            stream,
            read_options=pa_csv.ReadOptions(
                column_names=numbered,
                block_size=BLOCK_BYTES,
                use_threads=False,
                encoding="utf8" if self._encoding == "utf-8" else self._encoding,
            ),
            parse_options=pa_csv.ParseOptions(
                delimiter=self._delimiter,
                newlines_in_values=True,
                invalid_row_handler=self._note_ragged,
            ),
            convert_options=pa_csv.ConvertOptions(
                column_types=dict.fromkeys(numbered, pa.string()),
                include_columns=list(wanted),
                strings_can_be_null=False,
            ),
        )
        first = -1  # the header is read as a row
        for batch in reader:
            part = batch.slice(1) if first < 0 else batch
            columns = {wanted[name]: part.column(name) for name in wanted}
            yield Block(max(first, 0), columns)
            first += len(batch)

    def _note_ragged(self, row: Any) -> str:  # noqa: ANN401 - pyarrow's InvalidRow
        text = row.text or ""
        told = f"{row.actual_columns} fields where the header has {row.expected_columns}"
        self._ragged.append((row.number, told if text.strip(EMPTY) else ""))
        self._swallowed = text.count("\n") > MOST_LINES
        return "error" if self._swallowed or len(self._ragged) > MOST_RAGGED else "skip"

    def _explain(self, error: pa.ArrowInvalid) -> Exception:
        if "UTF8" in str(error):
            return NotUtf8Error()
        if self._swallowed or "straddling" in str(error) or "block size" in str(error):
            return refuse(f"a record has more than {MOST_LINES:,} lines; is a quote not closed?")
        if len(self._ragged) > MOST_RAGGED:
            message = f"more than {MOST_RAGGED:,} lines have not the fields of the header"
            return refuse(message, lines=self._lines_of([self._ragged[0][0]]))
        return refuse(f"not CSV: {error}")

    def as_windows_1252(self) -> None:
        """Read the text as what older spreadsheets write."""
        self._encoding = "cp1252"

    def _lines_of(self, records: Sequence[int]) -> list[int]:
        """The lines that some records begin on, which are ascending and counted from 1."""
        if not records:
            return []
        wanted, found = set(records), {}
        with _Unpacked(self._path, self._most_bytes) as raw:
            text = io.TextIOWrapper(
                io.BufferedReader(raw), self._encoding, errors="replace", newline=""
            )
            reader = csv.reader(text, delimiter=self._delimiter)
            line = number = 0
            with suppress(csv.Error):  # told where the file is read
                for record in reader:
                    number += bool(record)
                    if record and number in wanted:
                        found[number] = line + 1
                        if len(found) == len(wanted):
                            break
                    line = reader.line_num
        return [found.get(number, line) for number in records]


class NotUtf8Error(Exception):
    """The text is not UTF-8, although its beginning was."""


class ParquetBlocks:
    """Rows of Parquet."""

    place = "row"
    skipped: list[tuple[int, str]] = []  # noqa: RUF012 - there are none

    def __init__(self, path: Path, most_bytes: int) -> None:
        try:
            self._file = pq.ParquetFile(path, pre_buffer=False, buffer_size=1 << 20)
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError, OSError):
            raise _unreadable() from None
        self._refuse_large(path, most_bytes)

    def sample(self, asked: Iterable[str | None], ways: dict[str, str]) -> Sheet:
        first = next(self._batches(SAMPLE_ROWS, None), None)
        cells = pd.DataFrame() if first is None else first.to_pandas()
        categories = cells.select_dtypes("category").columns
        cells = cells.astype(dict.fromkeys(categories, object))
        sheet = Sheet(cells, np.arange(1, len(cells) + 1, dtype=np.int64), "row", ways=ways)
        check_header(sheet, asked)
        return sheet

    def read(self, names: Sequence[str]) -> Iterator[Block]:
        first = 0
        for batch in self._batches(BATCH_ROWS, self._columns(names)):
            columns = dict(zip(batch.schema.names, batch.columns, strict=True))
            yield Block(first, {name: columns[name] for name in names})
            first += len(batch)

    def lines(self, rows: Sequence[int]) -> list[int]:
        return [row + 1 for row in rows]

    def _columns(self, names: Sequence[str]) -> list[str]:
        schema = self._file.schema_arrow
        for name in names:
            kind = schema.field(name).type
            if pa.types.is_nested(kind) or pa.types.is_binary(kind):
                raise refuse(f"column {name!r} holds {kind}; numbers, texts and times are read")
        return list(names)

    def _batches(self, rows: int, names: list[str] | None) -> Iterator[pa.RecordBatch]:
        try:
            yield from self._file.iter_batches(rows, columns=names, use_threads=False)
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
            raise _unreadable() from None
        except OSError as error:
            if error.errno is not None:
                raise
            raise _unreadable() from None

    def _refuse_large(self, path: Path, most_bytes: int) -> None:
        """By what it says of itself; one that lies is stopped by who watches the memory."""
        told = self._file.metadata
        groups = [told.row_group(number) for number in range(told.num_row_groups)]
        unpacked = sum(group.total_byte_size for group in groups)
        columns = len(self._file.schema_arrow.names)
        if columns > MOST_COLUMNS:
            raise refuse(f"{columns:,} columns, at most {MOST_COLUMNS:,} are read")
        # of CSV a cell takes at least the byte that ends it
        if unpacked > most_bytes or told.num_rows * columns > most_bytes:
            raise _too_large(most_bytes)
        if _is_absurd(unpacked, path.stat().st_size):
            raise _bomb()
        self.weight = max(unpacked, 8 * told.num_rows * columns)


class _Unpacked(io.RawIOBase):
    """The bytes of a file as they were before they were compressed, within bounds."""

    def __init__(self, path: Path, most_bytes: int) -> None:
        self._source: BinaryIO = path.open("rb")
        self._sent, self._most = os.fstat(self._source.fileno()).st_size, most_bytes
        self._chunks = _unpacked(self._source)
        self._rest = memoryview(b"")
        self._given = 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:  # noqa: ANN401 - as io types it
        chunk = self._next(len(buffer))
        buffer[: len(chunk)] = chunk
        return len(chunk)

    def read(self, size: int = -1) -> bytes:
        if size < 0:
            return b"".join(iter(lambda: bytes(self._next(1 << 20)), b""))
        parts: list[memoryview] = []
        while size and (part := self._next(size)):
            parts.append(part)
            size -= len(part)
        return b"".join(parts)

    def close(self) -> None:
        self._source.close()
        super().close()

    def _next(self, size: int) -> memoryview:
        while not self._rest:
            try:
                chunk = next(self._chunks, None)
            except (zlib.error, zstandard.ZstdError, EOFError):
                raise refuse("the compressed file is damaged or cut off; send it again") from None
            if chunk is None:
                return self._rest
            self._rest = memoryview(chunk)
            self._given += len(chunk)
            self._check()
        given, self._rest = self._rest[:size], self._rest[size:]
        return given

    def _check(self) -> None:
        if self._given > self._most:
            raise _too_large(self._most)
        if _is_absurd(self._given, self._sent):
            raise _bomb()


def _unpacked(source: BinaryIO) -> Iterator[bytes]:
    magic = source.read(4)
    source.seek(0)
    if magic.startswith(GZIP):
        return _gunzipped(source)
    if magic == zstandard.FRAME_HEADER:
        return _unzstd(source)
    return iter(lambda: source.read(1 << 20), b"")


def _gunzipped(source: BinaryIO) -> Iterator[bytes]:
    """Of one or several members."""
    reader, rest = zlib.decompressobj(16 + zlib.MAX_WBITS), source.read(1 << 16)
    begun = False
    while rest:
        begun = True
        yield reader.decompress(rest, 1 << 20)
        if reader.eof:
            rest = reader.unused_data or source.read(1 << 16)
            reader, begun = zlib.decompressobj(16 + zlib.MAX_WBITS), False
        else:
            rest = reader.unconsumed_tail or source.read(1 << 16)
    if begun:
        raise EOFError


def _unzstd(source: BinaryIO) -> Iterator[bytes]:
    """Of one or several frames."""
    decompressor = zstandard.ZstdDecompressor(max_window_size=WINDOW_BYTES)
    reader, rest, begun = decompressor.decompressobj(), source.read(CHUNK_BYTES), False
    while rest:
        begun = True
        yield reader.decompress(rest)
        rest = reader.unused_data if reader.eof else b""
        if reader.eof:
            reader, begun = decompressor.decompressobj(), False
        rest = rest or source.read(CHUNK_BYTES)
    if begun:
        raise EOFError


def _unpack(path: Path, to: Path, most_bytes: int) -> Path:
    with _Unpacked(path, most_bytes) as source, to.open("wb") as target:
        while chunk := source.read(1 << 20):
            target.write(chunk)
    return to


def _head(path: Path, size: int) -> bytes:
    with path.open("rb") as file:
        return file.read(size)


def _head_of(raw: _Unpacked, size: int) -> bytes:
    with raw:
        return raw.read(size)


def _whole_lines(text: str) -> str:
    return text[: text.rfind("\n") + 1] or text


def _record_of(place: int, ragged: list[int]) -> int:
    """The number, from 1, of the record that was read as row `place`, those skipped counted."""
    number = place + 1
    while (more := place + 1 + bisect.bisect_right(ragged, number)) > number:
        number = more
    return number


def _is_absurd(unpacked: int, sent: int) -> bool:
    return unpacked > RATIO_FROM_BYTES and unpacked > MOST_RATIO * sent


def _too_large(most_bytes: int) -> TooLargeError:
    return TooLargeError(
        f"the file unpacks to more than {most_bytes:,} bytes; split it by items, or let the "
        "operator raise SHOPCAST_MAX_UPLOAD_BYTES"
    )


def _bomb() -> TooLargeError:
    return TooLargeError(
        f"the file unpacks to more than {MOST_RATIO} times its size, which no real table does; "
        "send it uncompressed"
    )


def _unreadable() -> Exception:
    return refuse("this is not a Parquet file that can be read; save it again, or as CSV")
