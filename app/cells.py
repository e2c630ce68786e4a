"""Cells → names, numbers and times, a column of many rows at once.

Invariant: a cell means what it means in `app.tables`; what cannot be read is marked, row by row.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from app.moments import EARLIEST, LATEST
from app.tables import offset_of, parsed, text_of
from models.base import FloatArray

LARGEST = float(np.finfo(np.float32).max)
US = "datetime64[us]"

Flags = NDArray[np.bool_]
Ints = NDArray[np.int64]
T = TypeVar("T", bound=np.generic)


@dataclass(frozen=True, slots=True, eq=False)
class Names:
    """names: each once. codes: (rows,) which of them; -1 where there is none."""

    names: list[str]
    codes: Ints

    def array(self) -> pa.Array:
        """(rows,) of text."""
        codes = pa.array(self.codes, mask=self.codes < 0)
        return pa.array(self.names, pa.string()).take(codes)


@dataclass(frozen=True, slots=True, eq=False)
class Stamps:
    """us: (rows,) microseconds since 1970 by the local clock, 0 where `wrong`.

    offsets: from UTC, as they were written; "" for times without one.
    """

    us: Ints
    wrong: Flags
    offsets: frozenset[str]


def names_of(column: pa.Array) -> Names:
    """What cells say, stripped; nothing where they say nothing."""
    words, codes = _words(column)
    texts = [text_of(word) for word in words]
    kept = {text: place for place, text in enumerate(dict.fromkeys(texts)) if text is not None}
    kept = {text: place for place, text in enumerate(kept)}
    places = np.array([*(kept.get(text, -1) if text is not None else -1 for text in texts), -1])
    return Names(list(kept), places.astype(np.int64)[codes])


def joined(columns: Sequence[pa.Array]) -> pa.Array:
    """The names of things that several columns tell apart; null where one says nothing."""
    parts = [names_of(column).array() for column in columns]
    return parts[0] if len(parts) == 1 else pc.binary_join_element_wise(*parts, "/")


def numbers_of(column: pa.Array, *, decimal_comma: bool) -> tuple[FloatArray, Flags]:
    """(rows,) float64, NaN where nothing is said; and where a cell is no number of float32."""
    numbers, wrong = _numbers(column, decimal_comma=decimal_comma)
    huge = np.abs(numbers) > LARGEST
    if huge.any():
        numbers, wrong = np.where(huge, np.nan, numbers), wrong | huge
    return numbers, wrong


def stamps_of(column: pa.Array, date_format: str) -> Stamps:
    """(rows,) times; those of no plausible year are wrong."""
    if pa.types.is_temporal(column.type):
        return _typed(column)
    words, codes = _words(column)
    texts = [text_of(word) for word in words]
    offsets = [None if text is None else offset_of(text) for text in texts]
    local = [
        text if text is None or not offset else text.removesuffix(offset)
        for text, offset in zip(texts, offsets, strict=True)
    ]
    times = pd.to_datetime(pd.Series(local, dtype=object), format=date_format, errors="coerce")
    us, wrong = _plausible(times.to_numpy().astype(US))
    told = frozenset(each for each in offsets if each is not None)
    return Stamps(_spread(us, codes, 0), _spread(wrong, codes, fill=True), told)


def _numbers(column: pa.Array, *, decimal_comma: bool) -> tuple[FloatArray, Flags]:
    if not _is_text(column.type):
        numbers = _floats(pc.cast(column, pa.float64()))
        return np.where(np.isinf(numbers), np.nan, numbers), np.isinf(numbers)
    if not decimal_comma and (quick := _quick_numbers(column)) is not None:
        return quick
    words, codes = _words(column)
    numbers, wrong = parsed(pd.Series(words, dtype=object), decimal_comma=decimal_comma)
    return _spread(numbers, codes, np.nan), _spread(wrong, codes, fill=False)


def _quick_numbers(column: pa.Array) -> tuple[FloatArray, Flags] | None:
    """None if a cell is not plainly a number or empty."""
    plain = pc.utf8_trim_whitespace(column.cast(pa.string()))
    plain = pc.if_else(pc.equal(plain, ""), pa.scalar(None, pa.string()), plain)
    try:
        numbers = _floats(pc.cast(plain, pa.float64()))
    except pa.ArrowInvalid:
        return None
    if np.isinf(numbers).any():
        return None
    return numbers, np.zeros(len(numbers), dtype=np.bool_)


def _typed(column: pa.Array) -> Stamps:
    kind = column.type
    if pa.types.is_time(kind) or pa.types.is_duration(kind):
        count = len(column)
        return Stamps(np.zeros(count, np.int64), np.ones(count, np.bool_), frozenset())
    zone = getattr(kind, "tz", None)
    if zone is not None:
        column = pc.local_timestamp(column)
    stamps = pc.cast(column, pa.timestamp("us"), safe=False)
    us, wrong = _plausible(np.asarray(stamps.to_numpy(zero_copy_only=False)).astype(US))
    return Stamps(us, wrong, frozenset([zone or ""]))


def _plausible(times: NDArray[np.datetime64]) -> tuple[Ints, Flags]:
    least, most = (np.datetime64(each, "us") for each in (EARLIEST, LATEST))
    wrong = np.isnat(times) | ~((times >= least) & (times < most))
    return np.where(wrong, 0, times.astype(np.int64)), wrong


def _words(column: pa.Array) -> tuple[list[object], Ints]:
    """The cells, each once, and which of them stands in each row; -1 for null."""
    encoded = column if pa.types.is_dictionary(column.type) else pc.dictionary_encode(column)
    codes = encoded.indices.fill_null(-1).to_numpy(zero_copy_only=False).astype(np.int64)
    return encoded.dictionary.to_pylist(), codes


def _spread(values: NDArray[T], codes: Ints, fill: object) -> NDArray[T]:
    """Values of distinct cells as those of rows."""
    return np.append(values, np.array([fill], dtype=values.dtype))[codes]


def _floats(numbers: pa.Array) -> FloatArray:
    return np.asarray(numbers.fill_null(np.nan).to_numpy(zero_copy_only=False), dtype=np.float64)


def _is_text(kind: pa.DataType) -> bool:
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))
