"""A user's file of sales, CSV or Parquet, long or wide, as rows of item, time and target.

Invariant: every guess about the file is written down in `Table.notes`, and whatever is refused
is refused with the line it stands on.
"""

import codecs
import csv
import io
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from app.errors import InvalidInputError, Issue

Layout = Literal["long", "wide"]
Lines = NDArray[np.int64]

ID_NAMES = (
    "item_id", "unique_id", "series_id", "sku", "article", "article_id", "artikel", "product",
    "product_id", "item", "id", "ean", "name", "store", "store_id", "shop", "shop_id", "location",
)  # fmt: skip
TIME_NAMES = (
    "timestamp", "ds", "date", "datetime", "time", "day", "week", "month", "period", "year",
    "datum",
)  # fmt: skip
TARGET_NAMES = (
    "target", "y", "units", "units_sold", "quantity", "qty", "demand", "sold", "sales", "menge",
    "absatz", "value",
)  # fmt: skip
#: Names that no item has: a file with one of them is long.
LONG_NAMES = ID_NAMES + TARGET_NAMES + ("price", "promo", "promotion", "discount", "holiday")
MISSING = frozenset({"", "na", "n/a", "nan", "null", "none", "nat"})
DELIMITERS = {",": "commas", ";": "semicolons", "\t": "tabs", "|": "bars"}
#: Formats tried where dates are not ISO 8601; two that fit alike are refused as ambiguous.
DATE_FORMATS = ("%d.%m.%Y", "%d.%m.%Y %H:%M", "%Y/%m/%d", "%d/%m/%Y", "%m/%d/%Y", "%d-%m-%Y",
                "%m-%d-%Y", "%d/%m/%Y %H:%M", "%m/%d/%Y %H:%M")  # fmt: skip
MOST_DATES = 0.9  # share of a column's texts that are dates; the others are mistakes
LISTED = 5  # places named in a refusal
_ISO = re.compile(r"(?:19|20)\d\d(-[01]\d(-[0-3]\d([T ]\d\d:\d\d.*)?)?)?")
_DIGITS = re.compile(r"(?:19|20)\d{6}")
_OFFSET = re.compile(r"\d\d:\d\d.*(Z|[+-]\d\d:?\d\d)$")
_DECIMAL_COMMA = re.compile(r"-?(\d{1,3}(\.\d{3})+|\d+)(,\d+)?")


@dataclass(frozen=True, slots=True)
class Columns:
    """What the user says about the columns; whatever is left out is guessed."""

    item: tuple[str, ...] = ()
    time: str | None = None
    target: str | None = None
    known_future: tuple[str, ...] = ()
    known_past: tuple[str, ...] = ()
    out_of_stock: str | None = None
    layout: Layout | None = None
    date_format: str | None = None

    @property
    def covariates(self) -> tuple[str, ...]:
        return self.known_future + self.known_past

    @property
    def beside(self) -> tuple[str, ...]:
        """Columns that stand beside item, time and target."""
        return self.covariates + ((self.out_of_stock,) if self.out_of_stock else ())


@dataclass(frozen=True, slots=True, eq=False)
class Table:
    """The file in long form.

    rows: columns `item` (str), `time` (datetime64, maybe with a zone), `target` (float64, NaN is
    missing), `line` (int); in the order of the file.
    extras: the other columns, beside the rows; float64 (NaN is missing) or, as objects,
    categories (None is missing).
    """

    rows: pd.DataFrame
    extras: pd.DataFrame
    place: str  # what a line of this file is called: line or row
    notes: tuple[str, ...]


#: How a user of the command line says what is not guessed.
OPTIONS = {
    "time": "--time-column",
    "target": "--target-column",
    "item": "--id-column",
    "customer": "--customer-column",
    "date_format": "--date-format",
    "freq": "--freq",
}


@dataclass(slots=True, eq=False)
class Sheet:
    """The file as it stands: cells are stripped strings, or what Parquet says they are.

    ways: how its user names a column that cannot be guessed.
    """

    cells: pd.DataFrame
    lines: Lines
    place: str
    decimal_comma: bool = False
    notes: list[str] = field(default_factory=list)
    ways: Mapping[str, str] = field(default_factory=lambda: OPTIONS)


def read(path: Path, columns: Columns) -> Table:
    """Read a file of sales. Raises InvalidInputError, OSError."""
    asked = (*columns.item, columns.time, columns.target, *columns.beside)
    sheet = open_sheet(path, asked)
    dated = _dated_headers(sheet)
    if dated and columns.layout != "long":
        return _from_dated_columns(sheet, columns, dated)
    time = columns.time or _guess_time(sheet)
    if _is_wide(sheet, columns, time):
        return _from_item_columns(sheet, columns, time)
    return _from_long(sheet, columns, time)


def is_wide(sheet: Sheet, columns: Columns) -> bool:
    """Whether items or periods are columns. Raises InvalidInputError if nothing holds dates."""
    if columns.layout is not None:
        return columns.layout == "wide"
    dated = bool(_dated_headers(sheet))
    return dated or _is_wide(sheet, columns, columns.time or _guess_time(sheet))


def long_columns(sheet: Sheet, columns: Columns) -> Columns:
    """The columns of a long table, those guessed that are not said. Raises InvalidInputError."""
    time = columns.time or _guess_time(sheet)
    left = [name for name in sheet.cells.columns if name not in {time, *columns.beside}]
    target = columns.target or _guess_target(sheet, columns, left)
    left = [name for name in left if name != target]
    item = columns.item or _guess_item(sheet, time, left)
    return replace(columns, time=time, target=target, item=item)


def open_sheet(path: Path, asked: Iterable[str | None]) -> Sheet:
    """A file as it stands; a column asked for is there. Raises InvalidInputError, OSError."""
    sheet = _parquet(path) if path.suffix.lower() in {".parquet", ".pq"} else _csv(path)
    check_header(sheet, asked)
    return sheet


def check_header(sheet: Sheet, asked: Iterable[str | None]) -> None:
    """Name the columns, and see that those asked for are there. Raises InvalidInputError."""
    _name_columns(sheet)
    _refuse_header(sheet, asked)


def refuse(message: str, *, lines: Iterable[int] = (), place: str = "line") -> InvalidInputError:
    """The error that names the places, the first few of them, and what is wrong there."""
    every = list(lines)
    named = ", ".join(str(line) for line in every[:LISTED])
    more = f" and {len(every) - LISTED} more" if len(every) > LISTED else ""
    where = f"{place}{'s' if len(every) > 1 else ''} {named}{more}: " if every else ""
    loc = (place, every[0]) if every else ()
    return InvalidInputError((Issue(loc, where + message, "table"),))


# --- the file


def _csv(path: Path) -> Sheet:
    text, notes = decode(path.read_bytes())
    delimiter = delimiter_of(text)
    records = list(records_of(text, delimiter))
    _refuse_ragged(records[0][1], records[1:])
    return sheet_of(records, delimiter, notes)


def sheet_of(records: Sequence[tuple[int, list[str]]], delimiter: str, notes: list[str]) -> Sheet:
    """The sheet of some records of CSV, the first of which is the header."""
    (_, header), body = records[0], records[1:]
    cells = pd.DataFrame([cells for _, cells in body], columns=header, dtype=object)
    if delimiter != ",":
        notes.append(f"fields are separated by {DELIMITERS[delimiter]}")
    lines = np.array([line for line, _ in body], dtype=np.int64)
    return Sheet(cells, lines, "line", decimal_comma=delimiter == ";", notes=notes)


def decode(raw: bytes) -> tuple[str, list[str]]:
    """The text of a file of CSV, and what is to be said of it."""
    if raw.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return raw.decode("utf-16"), ["the text is UTF-16"]
    try:
        return raw.decode("utf-8-sig"), []
    except UnicodeDecodeError:
        pass
    if b"\0" in raw:
        raise refuse("this is neither CSV nor Parquet; save the table as one of them")
    return raw.decode("cp1252", errors="replace"), ["the text is not UTF-8, read as Windows-1252"]


def delimiter_of(text: str) -> str:
    """What separates the fields of CSV. Raises InvalidInputError if there are none."""
    if not text.strip():
        raise refuse("the file is empty")
    header = next(line for line in text.splitlines() if line.strip())
    return max(DELIMITERS, key=header.count)


def records_of(text: str, delimiter: str) -> Iterator[tuple[int, list[str]]]:
    """Yield (line where the record starts, its cells), blank lines left out."""
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter)
    line = 1
    try:
        for record in reader:
            cells = [cell.strip() for cell in record]
            if any(cells):
                yield line, cells
            line = reader.line_num + 1
    except csv.Error as error:
        why = "a field is too long; is a quote not closed?" if "limit" in str(error) else error
        raise refuse(f"not CSV: {why}", lines=[line]) from None


def _refuse_ragged(header: list[str], body: list[tuple[int, list[str]]]) -> None:
    wrong = [(line, len(cells)) for line, cells in body if len(cells) != len(header)]
    if wrong:
        message = f"{wrong[0][1]} fields where the header has {len(header)}"
        raise refuse(message, lines=[line for line, _ in wrong])


def _parquet(path: Path) -> Sheet:
    try:
        cells = pq.read_table(path).to_pandas()
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
        raise refuse(
            "this is not a Parquet file that can be read; save it again, or as CSV"
        ) from None
    if not isinstance(cells.index, pd.RangeIndex):
        cells = cells.reset_index()
    categories = cells.select_dtypes("category").columns
    cells = cells.astype(dict.fromkeys(categories, object))
    return Sheet(cells, np.arange(1, len(cells) + 1, dtype=np.int64), "row")


def _name_columns(sheet: Sheet) -> None:
    names = [str(name).strip() for name in sheet.cells.columns]
    named = [bool(name) for name in names]
    if not all(named):
        sheet.notes.append("a column without a name is left out")
    sheet.cells.columns = pd.Index(names)
    sheet.cells = sheet.cells.loc[:, named]


def _refuse_header(sheet: Sheet, asked: Iterable[str | None]) -> None:
    names = list(sheet.cells.columns)
    repeated = sorted({name for name in names if names.count(name) > 1})
    if repeated:
        raise refuse(f"columns of the same name: {quoted(repeated)}; rename them")
    if sheet.cells.empty:
        raise refuse("the file has a header and no rows")
    unknown = [name for name in asked if name is not None and name not in names]
    if unknown:
        raise refuse(f"no column {quoted(unknown)}; the file has {quoted(names)}")


# --- layouts


def _dated_headers(sheet: Sheet) -> list[str]:
    """Columns whose names are dates, if the file has one row for each item."""
    names = list(sheet.cells.columns)
    found = [name for name in names if _ISO.fullmatch(name) or _fitting_formats([name])]
    others = [name for name in names if name not in found]
    if len(found) < 2 or len(others) > len(found):
        return []
    return [] if any(_looks_dated(sheet.cells[name]) for name in others) else found


def _is_wide(sheet: Sheet, columns: Columns, time: str) -> bool:
    """True if each column but the time is an item."""
    if columns.layout is not None:
        return columns.layout == "wide"
    others = [name for name in sheet.cells.columns if name != time]
    spoken_for = columns.item or columns.target or columns.beside
    if spoken_for or len(others) < 2 or known_columns(others, LONG_NAMES):
        return False
    unique = not sheet.cells[time].duplicated().any()
    return unique and all(
        _is_empty(sheet.cells[name]) or _is_numeric(sheet, name) for name in others
    )


def _from_long(sheet: Sheet, columns: Columns, time: str) -> Table:
    found = long_columns(sheet, replace(columns, time=time))
    item, target = found.item, str(found.target)
    times = times_of(sheet, sheet.cells[time], columns.date_format, name=time)
    rows = pd.DataFrame({"item": _items(sheet, item, target), "time": times})
    rows["target"] = numbers_of(sheet, target, wanted="a number")
    rows["line"] = sheet.lines
    extras = [name for name in sheet.cells.columns if name not in {time, target, *item}]
    item_words = f"item = {_joined(item)}" if item else "one item"
    sheet.notes.insert(0, f"long table: time = {time}, target = {target}, {item_words}")
    return _table(sheet, rows, _extras(sheet, extras))


def _from_item_columns(sheet: Sheet, columns: Columns, time: str) -> Table:
    _refuse_covariates(columns)
    names = [name for name in sheet.cells.columns if name != time]
    times = times_of(sheet, sheet.cells[time], columns.date_format, name=time)
    block = pd.DataFrame({"time": times, "line": sheet.lines})
    parts = [
        block.assign(item=name, target=numbers_of(sheet, name, wanted="a number")) for name in names
    ]
    sheet.notes.insert(0, f"wide table: time = {time}, each of {len(names)} columns an item")
    return _table(sheet, pd.concat(parts, ignore_index=True))


def _from_dated_columns(sheet: Sheet, columns: Columns, dated: list[str]) -> Table:
    _refuse_covariates(columns)
    others = [name for name in sheet.cells.columns if name not in dated]
    item = columns.item or tuple(known_columns(others, ID_NAMES)[:1]) or tuple(others[:1])
    headers = pd.Series(dated, dtype=object)
    times = times_of(sheet, headers, columns.date_format, name="header", lines=np.ones(len(dated)))
    base = pd.DataFrame({"item": _items(sheet, item, "target"), "line": sheet.lines})
    parts = [
        base.assign(time=stamp, target=numbers_of(sheet, name, wanted="a number"))
        for name, stamp in zip(dated, times, strict=True)
    ]
    words = f"item = {_joined(item)}" if item else "one item"
    sheet.notes.insert(0, f"wide table: {words}, each of {len(dated)} columns a period")
    return _table(sheet, pd.concat(parts, ignore_index=True))


def _table(sheet: Sheet, rows: pd.DataFrame, extras: pd.DataFrame | None = None) -> Table:
    if extras is None:
        extras = pd.DataFrame(index=rows.index)
    return Table(rows[["item", "time", "target", "line"]], extras, sheet.place, tuple(sheet.notes))


def _refuse_covariates(columns: Columns) -> None:
    if columns.beside:
        message = "a wide table has no columns beside the sales; use a long one, a row a period"
        raise refuse(f"{quoted(columns.beside)}: {message}")


# --- guesses


def _guess_time(sheet: Sheet) -> str:
    names = list(sheet.cells.columns)
    likely = known_columns(names, TIME_NAMES)
    for name in [*likely, *(other for other in names if other not in likely)]:
        if _looks_dated(sheet.cells[name]) and (name in likely or not _is_numeric(sheet, name)):
            return name
    way = sheet.ways["time"]
    raise refuse(f"no column holds dates; name it with {way}, one of {quoted(names)}")


def _guess_target(sheet: Sheet, columns: Columns, left: Sequence[str]) -> str:
    known = known_columns(left, TARGET_NAMES)
    if known:
        return known[0]
    taken = {*columns.item, *known_columns(left, ID_NAMES)}
    numeric = [name for name in left if name not in taken and _is_numeric(sheet, name)]
    if len(numeric) == 1:
        return numeric[0]
    which = f"could be {quoted(numeric)}" if numeric else "no column of numbers is left"
    raise refuse(f"which column is to be forecast? {which}; name it with {sheet.ways['target']}")


def _guess_item(sheet: Sheet, time: str, left: Sequence[str]) -> tuple[str, ...]:
    """The fewest columns by which no item has two rows of one time."""
    known = known_columns(left, ID_NAMES)
    for count in range(1, len(known) + 1):
        if not sheet.cells.duplicated([*known[:count], time]).any():
            return tuple(known[:count])
    if known:
        return tuple(known[:1])
    if not sheet.cells[time].duplicated().any():
        return ()
    words = [name for name in left if not _is_numeric(sheet, name)]
    if len(words) == 1:
        return (words[0],)
    message = "times repeat, so there are several items; say which column tells them apart"
    raise refuse(f"{message} with {sheet.ways['item']} ({quoted(left)})")


def known_columns(names: Iterable[str], known: Sequence[str]) -> list[str]:
    """Columns with a name that is known, the likeliest first."""
    plain = {re.sub(r"[\s-]+", "_", name.lower()): name for name in names}
    return [plain[name] for name in known if name in plain]


def _looks_dated(column: pd.Series) -> bool:
    if pd.api.types.is_datetime64_any_dtype(column):
        return True
    texts = [text for text in map(text_of, column.head(200)) if text is not None]
    plain = sum(1 for text in texts if _ISO.fullmatch(text))
    return bool(texts) and (plain >= MOST_DATES * len(texts) or bool(_fitting_formats(texts)))


def _is_empty(column: pd.Series) -> bool:
    return bool(column.map(text_of).isna().all())


def _is_numeric(sheet: Sheet, name: str) -> bool:
    column = sheet.cells[name]
    if not is_text(column):
        return pd.api.types.is_numeric_dtype(column)
    numbers, wrong = parsed(column, decimal_comma=sheet.decimal_comma)
    return not wrong.any() and bool(np.isfinite(numbers).any())


# --- cells


def _items(sheet: Sheet, item: Sequence[str], fallback: str) -> pd.Series:
    if not item:
        return pd.Series([fallback] * len(sheet.cells), dtype=object)
    parts = [sheet.cells[name].map(text_of) for name in item]
    missing = np.logical_or.reduce([part.isna() for part in parts])
    if missing.any():
        message = f"no value in {_joined(item)}, which tells items apart"
        raise refuse(message, lines=sheet.lines[missing], place=sheet.place)
    joined = parts[0]
    for part in parts[1:]:
        joined = joined + "/" + part
    return joined


def numbers_of(sheet: Sheet, name: str, *, wanted: str) -> NDArray[np.float64]:
    """A column as float64, NaN where missing; what is no finite number is refused by line."""
    numbers, wrong = parsed(sheet.cells[name], decimal_comma=sheet.decimal_comma)
    if wrong.any():
        first = sheet.cells[name][wrong].iloc[0]
        message = f"column {name!r} holds {str(first)!r}, which is not {wanted}"
        raise refuse(message, lines=sheet.lines[wrong], place=sheet.place)
    if sheet.decimal_comma and is_text(sheet.cells[name]):
        note = "numbers are written with a decimal comma"
        if note not in sheet.notes and sheet.cells[name].map(_has_comma).any():
            sheet.notes.append(note)
    return numbers


def parsed(
    column: pd.Series, *, decimal_comma: bool
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """The numbers of a column, and where a cell is neither a finite number nor missing."""
    missing = column.map(text_of).isna().to_numpy()
    if decimal_comma and is_text(column):
        column = column.map(_with_point)
    values = pd.to_numeric(column.where(~missing, None), errors="coerce")
    numbers = values.to_numpy(dtype=np.float64, na_value=np.nan)
    wrong = ~missing & ~np.isfinite(numbers)
    return numbers, wrong


def _has_comma(cell: object) -> bool:
    return "," in str(cell)


def _with_point(cell: object) -> object:
    if isinstance(cell, str) and "," in cell and _DECIMAL_COMMA.fullmatch(cell):
        return cell.replace(".", "").replace(",", ".")
    return cell


def _extras(sheet: Sheet, names: Sequence[str]) -> pd.DataFrame:
    columns = {name: _extra(sheet, name) for name in names}
    return pd.DataFrame(columns, index=range(len(sheet.cells)))


def _extra(sheet: Sheet, name: str) -> NDArray[np.float64] | pd.Series:
    """Numbers if every cell is one, yes and no as 1 and 0, else categories."""
    column = sheet.cells[name]
    texts = column.map(text_of)
    words = texts.map({"true": 1.0, "false": 0.0, "True": 1.0, "False": 0.0})
    if texts.notna().any() and (words.notna() == texts.notna()).all():
        return np.asarray(words, dtype=np.float64)
    numbers, wrong = parsed(column, decimal_comma=sheet.decimal_comma)
    return texts.where(texts.notna(), None) if wrong.any() else numbers


def text_of(cell: object) -> str | None:
    """What a cell says, None if nothing."""
    if cell is None or (isinstance(cell, float) and np.isnan(cell)) or cell is pd.NaT:
        return None
    text = str(cell).strip()
    return None if text.lower() in MISSING else text


def is_text(column: pd.Series) -> bool:
    return not (
        pd.api.types.is_numeric_dtype(column) or pd.api.types.is_datetime64_any_dtype(column)
    )


# --- dates


def times_of(
    sheet: Sheet,
    column: pd.Series,
    date_format: str | None,
    *,
    name: str,
    lines: NDArray[np.float64] | Lines | None = None,
) -> pd.Series:
    """A column of dates; one that cannot be read, or read two ways, is refused by line."""
    places = (sheet.lines if lines is None else lines).astype(np.int64)
    if pd.api.types.is_datetime64_any_dtype(column):
        times = column
    else:
        texts = column.map(text_of)
        chosen = date_format or date_format_of(sheet, texts, name)
        _refuse_offsets(texts, places, sheet.place)
        times = pd.to_datetime(texts, format=chosen, errors="coerce")
    if times.isna().any():
        wrong = times.isna().to_numpy()
        first = column[wrong].iloc[0]
        message = f"column {name!r} holds {str(first)!r}, which is not a date"
        raise refuse(message, lines=places[wrong], place=sheet.place)
    return times.reset_index(drop=True)


def date_format_of(sheet: Sheet, texts: pd.Series, name: str) -> str:
    """The format that dates are written in. Raises InvalidInputError if it could be several."""
    sample = list(dict.fromkeys(text for text in texts if text is not None))
    if sum(1 for text in sample if _ISO.fullmatch(text)) * 2 >= len(sample):
        return "ISO8601"
    fitting = _fitting_formats(sample) or _fitting_formats(sample[:1])
    if len(fitting) > 1:
        message = f"column {name!r}: {sample[0]!r} can be read as {' or '.join(fitting)}"
        raise refuse(f"{message}; say which with {sheet.ways['date_format']}, or write 2026-12-31")
    if fitting:
        sheet.notes.append(f"dates are written {fitting[0]}")
    return fitting[0] if fitting else "ISO8601"


def _fitting_formats(texts: Sequence[str]) -> list[str]:
    """The formats by which every text is a date."""
    if all(map(_DIGITS.fullmatch, texts)):
        return ["%Y%m%d"]
    column = pd.Series(texts, dtype=object)
    likely = [form for form in DATE_FORMATS if _fits(column.head(1), form)]
    return [form for form in likely if _fits(column, form)]


def _fits(column: pd.Series, form: str) -> bool:
    return bool(pd.to_datetime(column, format=form, errors="coerce").notna().all())


def offset_of(text: str) -> str:
    """The offset from UTC that a time is written with, empty if it has none."""
    match = _OFFSET.search(text)
    return match[1] if match else ""


def _refuse_offsets(texts: pd.Series, places: Lines, place: str) -> None:
    """Times of several offsets have no one calendar."""
    offsets = texts.str.extract(_OFFSET, expand=False)
    if offsets.isna().all() or offsets.nunique(dropna=False) == 1:
        return
    odd = (offsets != offsets.iloc[0]).to_numpy()
    message = "times of several zones; write all in local time without a zone, or all in UTC"
    raise refuse(message, lines=places[odd], place=place)


def quoted(names: Iterable[str]) -> str:
    listed = [repr(name) for name in names]
    return ", ".join(listed[:12]) + (" …" if len(listed) > 12 else "")


def _joined(names: Iterable[str]) -> str:
    return "/".join(names)
