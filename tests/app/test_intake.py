"""Files as data sets: what is made of them, and what is refused and why."""

import gzip
import io
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard

from app import blocks, parts
from app.errors import InvalidInputError, TooLargeError
from app.intake import Order, Taken, take_in
from app.shelf import DATA, Shelf

HEADER = "sku,week,units,price,promo,brand"
WEEKS = pd.date_range("2026-01-05", periods=60, freq="7D").strftime("%Y-%m-%d")


def weekly(*items: str, weeks: int = 50) -> list[str]:
    """Lines of items whose last ten weeks have no units yet."""
    return [
        f"{item},{week},{n if n < weeks else ''},{9.9 + n % 3},{n % 2 == 0},X{item}"
        for item in items
        for n, week in enumerate(WEEKS)
    ]


LINES = weekly("a", "b", "c")

Take = Callable[..., Taken]


@pytest.fixture
def take(tmp_path: Path) -> Take:
    """Takes a file in: lines of CSV under HEADER, or bytes."""

    def take_file(
        content: list[str] | str | bytes,
        kind: Any = "series",
        most_bytes: int = 1 << 30,
        freq: str | None = None,
        **columns: Any,
    ) -> Taken:
        if isinstance(content, list):
            content = "\n".join([HEADER, *content])
        number = len(list(tmp_path.iterdir()))
        file, to = tmp_path / f"file-{number}", tmp_path / f"made-{number}"
        file.write_bytes(content if isinstance(content, bytes) else content.encode())
        to.mkdir()
        take_file.made = to  # type: ignore[attr-defined]  # where the rows are
        order = Order(kind, columns or None, freq)
        return take_in(file, to, order, most_bytes=most_bytes)

    return take_file


def rows(take: Take) -> pd.DataFrame:
    return pd.DataFrame(pq.read_table(made(take) / DATA).to_pandas())


def made(take: Take) -> Path:
    """Where the rows of the file that was taken in last are."""
    return Path(take.made)  # type: ignore[attr-defined]


def refused(take: Take, *args: Any, **more: Any) -> list[str]:
    with pytest.raises(InvalidInputError) as caught:
        take(*args, **more)
    return [issue.msg for issue in caught.value.issues]


def test_a_table_is_read_guessed_and_summed_up(take: Take) -> None:
    taken = take(LINES)
    assert (taken.rows, taken.series, taken.error_rows, taken.errors) == (180, 3, 0, [])
    assert taken.warnings == []
    assert taken.facts == {
        "freq": "W-MON",
        "start": "2026-01-05",
        "end": "2027-02-22",
        "gaps": 0,
        "duplicates": 0,
        "unsorted": 0,
        "columns": {
            "item_id": ["sku"],
            "timestamp": "week",
            "target": "units",
            "known_future": ["price", "promo"],
            "past_only": [],
            "segment": ["brand"],
            "unused": [],
        },
    }
    kept = rows(take)
    assert list(kept.columns) == ["item_id", "timestamp", "target", "+price", "+promo", "+brand"]
    one = kept[kept["item_id"] == "b"]
    assert one["timestamp"].is_monotonic_increasing
    assert one["target"].notna().sum() == 50
    assert one["+promo"].head(2).tolist() == [1.0, 0.0]
    assert sorted(path.name for path in made(take).iterdir()) == [
        "data.parquet",
        "index.parquet",
    ]


def parquet(lines: list[str]) -> bytes:
    table = pd.read_csv(io.StringIO("\n".join([HEADER, *lines])), parse_dates=["week"])
    file = io.BytesIO()
    table.to_parquet(file)
    return file.getvalue()


def test_equal_rows_have_an_equal_digest_in_any_order_and_form(
    take: Take, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = "\n".join([HEADER, *LINES])
    mixed = LINES.copy()
    random.Random(0).shuffle(mixed)  # noqa: S311 - an order, not a secret
    digest = take(LINES).digest
    assert take(mixed).digest == digest
    assert take(text.replace(",", ";").encode("utf-16")).digest == digest
    assert take(gzip.compress(text[:999].encode()) + gzip.compress(text[999:].encode())).digest == (
        digest
    )
    assert take(zstandard.compress(text.encode())).digest == digest
    assert take(parquet(LINES)).digest == digest
    assert take(gzip.compress(parquet(LINES))).digest == digest
    monkeypatch.setattr(parts, "PART_BYTES", 100)
    assert take(mixed).digest == digest
    assert take([*LINES[:-1], LINES[-1].replace("Xc", "Xd")]).digest != digest


def test_rows_that_cannot_be_read_are_left_out_and_told_by_line(take: Take) -> None:
    lines = weekly(*(f"item-{n}" for n in range(20)))
    lines[3] = '"item-0\nx",2026-13-99,4,1,True,X'
    lines.insert(10, "")
    lines[20] = "x,y"
    lines.insert(40, " , ,,, ,")  # an empty row of a spreadsheet
    lines.append("item-3,2027-03-01,a lot,1,True,X")
    lines.append("item-3,2027-03-03,1,1,True,X")
    lines.append(",2027-03-01,1,1,True,X")
    taken = take(lines)
    told = [error["msg"] for error in taken.errors]
    assert told == [
        "line 5: column 'week' holds '2026-13-99', which is not a date",
        "line 23: 2 fields where the header has 6",
        "line 1205: column 'units' holds 'a lot', which is not a number",
        "line 1206: 2027-03-03 is not a period of the calendar W-MON; correct it or give `freq`",
        "line 1207: no value in sku, which tells items apart",
    ]
    assert taken.error_rows == 5
    assert taken.rows == 1198
    assert taken.facts["gaps"] == 2


def test_many_rows_that_cannot_be_read_are_refused(take: Take) -> None:
    lines = [line.replace("2026-03-", "2026-Mar-") for line in LINES]
    message, first, *_ = refused(take, lines)
    assert message == "15 of 180 rows cannot be read, more than 1 in 100"
    assert first == "line 10: column 'week' holds '2026-Mar-02', which is not a date"
    told = refused(take, [line.replace(",7,", ",seven,") for line in LINES])
    assert told[1] == "line 9: column 'units' holds 'seven', which is not a number"


def test_of_rows_of_one_time_the_last_counts(take: Take) -> None:
    taken = take([*LINES, "a,2026-01-19,77,1,True,Xa"])
    assert taken.facts["duplicates"] == 1
    assert taken.warnings[0]["msg"] == (
        "1 rows repeat the time of an item, of which the last in the file counts; line 182: item "
        "'a' has another row for 2026-01-19"
    )
    kept = rows(take).set_index(["item_id", "timestamp"])
    assert kept.loc[("a", "2026-01-19"), "target"] == 77
    told = refused(take, [*LINES, *LINES[:60]])
    assert told[0].startswith("60 of 240 rows repeat the time of an item, more than 1 in 100; add")
    assert "line 182: item 'a' has another row for 2026-01-05" in told


def test_items_may_be_told_apart_by_several_columns(take: Take) -> None:
    lines = [f"{line},{store}" for line in LINES for store in ("n", "s")]
    text = "\n".join([f"{HEADER},store", *lines])
    taken = take(text, item_id=["sku", "store"], timestamp="week", target="units")
    assert taken.series == 6
    assert "a/n" in set(rows(take)["item_id"])


def test_what_is_said_of_columns_is_kept_to(take: Take) -> None:
    taken = take(LINES, known_future=["price"], past_only="promo", segment="brand")
    assert taken.facts["columns"]["known_future"] == ["price"]
    assert taken.facts["columns"]["past_only"] == ["promo"]
    assert refused(take, LINES, target="sold")[0].startswith("no column 'sold'; the file has 'sku'")
    assert refused(take, LINES, targt="units") == [
        "columns.targt: there is no such field; did you mean 'target'?"
    ]
    assert refused(take, LINES, target="units", item_id="units") == [
        "columns: column 'units' is said to be two things"
    ]
    assert "with `columns.target`" in refused(take, "name,week,p,q\n1,2026-01-01,1,2\n")[0]


def test_gaps_and_what_is_odd_of_series_are_told(take: Take) -> None:
    flat = [f"flat,{week},5,1,True,X" for week in WEEKS[:20]]
    short = [f"short,{week},{n},1,True,X" for n, week in enumerate(WEEKS[:4])]
    empty = [f"empty,{week},,1,True,X" for week in WEEKS[:20]]
    holes = [line for n, line in enumerate(LINES) if n % 60 != 30]
    taken = take([*flat, *short, *empty, *reversed(holes)])
    assert taken.facts["gaps"] == 3
    assert [warning["type"] for warning in taken.warnings] == [
        *("no_target", "constant_target", "few_points", "unsorted"),
    ]
    assert taken.warnings[0]["msg"] == "1 of 6 items have no target at all and cannot be forecast"
    assert [each["type"] for each in take(weekly("a")).warnings] == ["few_series"]


def test_mixed_frequencies_are_refused(take: Take) -> None:
    days = pd.date_range("2026-01-05", periods=100).strftime("%Y-%m-%d")
    daily = [f"d{n},{day},{n},1,True,X" for n in range(3) for day in days]
    told = refused(take, [*daily, *LINES])
    assert "mixed frequencies: the dates make a calendar D, but 3 of 6 items have rows" in told[0]
    assert "7 days or a multiple of it apart only, such as" in told[0]
    assert take([*daily, *LINES], freq="D").facts["gaps"] == 3 * 59 * 6
    assert "is no frequency" in refused(take, LINES, freq="weekly")[0]


@pytest.mark.parametrize(
    ("offsets", "words"),
    [(("+01:00", "+01:00"), None), (("+01:00", "+02:00"), "times of several zones")],
)
def test_times_are_local(take: Take, offsets: tuple[str, str], words: str | None) -> None:
    lines = [f"a,2026-03-{n + 1:02}T10:00:00{offsets[n > 15]},{n}" for n in range(31)]
    text = "\n".join(["sku,at,units", *lines])
    if words is not None:
        assert words in refused(take, text, timestamp="at")[0]
        return
    assert take(text, timestamp="at").facts["start"] == "2026-03-01T10:00:00"


def test_text_that_is_not_utf_8_is_read_as_windows_1252(take: Take) -> None:
    text = "\n".join([HEADER, *weekly(*(f"item-{n:04}" for n in range(800)), "Käse")])
    taken = take(text.encode("cp1252"))  # the first megabyte is plain
    assert "the text is not UTF-8, read as Windows-1252" in taken.notes
    assert "Käse" in set(rows(take)["item_id"])


def test_numbers_with_a_decimal_comma(take: Take) -> None:
    lines = [f"a;{day}.03.2026;1.234,{day}" for day in range(13, 32)]
    taken = take("\n".join(["Artikel;Datum;Menge", *lines]))
    assert rows(take)["target"].iloc[0] == pytest.approx(1234.13)
    assert taken.facts["freq"] == "D"


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "the file is empty"),
        (b"sku,week,units\n", "a header and no rows"),
        (b"PK\x03\x04rest", "this is a zip archive"),
        (b"PAR1 is how it begins", "not a Parquet file that can be read"),
        (gzip.compress(b"sku,week,units\na,2026-01-05,1\n" * 99)[:-9], "damaged or cut off"),
        (zstandard.compress(b"sku,week,units\na,2026-01-05,1\n" * 99)[:-9], "damaged or cut off"),
        (b"\x00\x01\x02\xff", "neither CSV nor Parquet"),
        (b"apple,pear\n1,2\n", "no column holds dates; name it with `columns.timestamp`"),
        (b"week,apple,pear\n2026-01-05,1,2\n2026-01-12,1,2\n", "a wide table"),
        (b"sku,week,units\n" + b"a,2026-01-05\n" * 3, "2 fields where the header has 3"),
    ],
)
def test_what_is_no_table_is_refused(take: Take, content: bytes, words: str) -> None:
    assert words in refused(take, content)[0]


def test_an_unclosed_quote_is_refused(take: Take) -> None:
    lines = weekly(*(f"item-{n:04}" for n in range(6000)))
    for line, words in (
        (2000, "line 2002: not CSV"),
        (100_000, "a record has more than 1,000 lines"),
    ):
        odd = [*lines[:line], '"' + lines[line], *lines[line + 1 :]]
        assert words in (told := refused(take, odd)[0])
        assert "is a quote not closed?" in told


def test_what_unpacks_to_too_much_is_refused(take: Take, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blocks, "RATIO_FROM_BYTES", 1_000_000)
    text = "\n".join([HEADER, *LINES]).encode()
    with pytest.raises(TooLargeError, match="unpacks to more than 1,000 bytes"):
        take(gzip.compress(text), most_bytes=1000)
    dull = text + b"\na,2026-01-05,1,1,True,X" * 100_000
    for bomb in (gzip.compress(dull), zstandard.compress(dull)):
        with pytest.raises(TooLargeError, match="more than 250 times its size"):
            take(bomb)


def test_a_parquet_bomb_is_refused(take: Take) -> None:
    week = pd.Timestamp("2026-01-05")
    table = pa.table(
        {"sku": ["a"] * 1_000_000, "week": [week] * 1_000_000, "units": [1.0] * 1_000_000}
    )
    file = io.BytesIO()
    pq.write_table(table, file)
    assert len(file.getvalue()) < 20_000
    with pytest.raises(TooLargeError, match="unpacks to more than 2,000,000 bytes"):
        take(file.getvalue(), most_bytes=2_000_000)


def test_one_item_with_too_many_rows_is_refused(
    take: Take, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parts, "MOST_ROWS", 100)
    assert "has nearly 100 rows or more, such as" in refused(take, LINES)[0]


EVENTS = [f"c{n % 130},2026-0{1 + n % 9}-1{n % 7}T10:0{n % 6},{n / 4}" for n in range(400)]


def test_orders_are_events(take: Take) -> None:
    taken = take("\n".join(["customer,date,amount", *EVENTS]), "events")
    assert (taken.rows, taken.series) == (400, 130)
    assert taken.facts["types"] == {"purchase": 400}
    assert (taken.facts["start"], taken.facts["freq"]) == ("2026-01-10T10:00:00", None)
    assert taken.facts["columns"]["at"] == "date"
    assert "every row a purchase" in taken.notes[0]
    kept = rows(take)
    assert list(kept.columns) == [
        *("customer_id", "at", "type", "amount", "quantity", "item_id", "category"),
    ]
    for _, one in kept.groupby("customer_id"):
        assert one["at"].is_monotonic_increasing


def test_columns_that_tell_customers_apart_are_kept(take: Take) -> None:
    header = "customer,date,amount,region,note,same,plan"
    lines = [
        f"{each},{'north' if n % 2 else 'south'},note {n},shop,{n % 3 or ''}"
        for n, each in enumerate(EVENTS)
    ]
    table = "\n".join([header, *lines])
    taken = take(table, "events")
    assert taken.facts["columns"]["segment"] == ["region", "plan"]
    assert taken.facts["columns"]["unused"] == ["note", "same"]
    assert "customers can be told apart by region, plan" in taken.notes
    kept = rows(take)
    assert set(kept["+region"]) == {"north", "south"}
    assert set(kept["+plan"].dropna()) == {"1", "2"}
    assert take(table, "events", segment="same").facts["columns"]["segment"] == ["same"]
    many = refused(take, table, "events", segment=["region", "note"])[0]
    assert "`columns.segment`: 'note' has more than 100 different values" in many
    twice = refused(take, table, "events", segment="region", type="region")[0]
    assert "is said to be two things" in twice


def test_words_of_events_are_understood_and_what_came_back_is_a_refund(take: Take) -> None:
    words = ("pv", "cart", "buy", "zoom")
    lines = [f"{each},{words[n % 4]}" for n, each in enumerate(EVENTS)]
    taken = take("\n".join(["customer,date,amount,action", *lines]), "events")
    assert taken.facts["types"] == {"view": 100, "add_to_cart": 100, "purchase": 100, "other": 100}
    assert "'zoom' in action counts as other" in taken.notes
    back = [each.replace(",2", ",-2", 1) if n == 8 else each for n, each in enumerate(EVENTS)]
    back[8] = "c8,2026-09-11T10:02,-2.0"
    taken = take("\n".join(["customer,date,amount", *back]), "events")
    assert taken.facts["types"] == {"purchase": 399, "refund": 1}
    assert "1 rows below zero are taken as refunds" in taken.notes
    lines = [f"{each},buy" for each in back]
    taken = take("\n".join(["customer,date,amount,action", *lines]), "events")
    assert taken.errors[0]["msg"].startswith("line 10: a purchase below zero")


def test_events_that_cannot_be_read_are_told_by_line(take: Take) -> None:
    lines = [*EVENTS, ",2026-01-01,1", "c1,soon,1", "c1,2026-01-01,dear"]
    taken = take("\n".join(["customer,date,amount", *lines]), "events")
    assert [each["msg"] for each in taken.errors] == [
        "line 402: column 'customer' is empty, where the name of a customer should be",
        "line 403: column 'date' holds 'soon', which is not a time",
        "line 404: column 'amount' holds 'dear', which is not a number",
    ]
    assert refused(take, "\n".join(["customer,date,amount", *EVENTS]), "events", freq="D") == [
        "freq: events have no frequency"
    ]


def test_rows_are_read_again_by_any_part(take: Take, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("app.shelf.GROUP_ROWS", 7)
    monkeypatch.setattr(parts, "PART_BYTES", 300)
    taken = take(LINES)
    shelf = Shelf(made(take))
    assert shelf.things == taken.series == 3
    for number in range(3):
        one = shelf.rows(number, number + 1)
        assert len(set(one.column("item_id").to_pylist())) == 1
        assert len(one) == 60
    assert list(shelf.spans(2, 1000)) == [(0, 2), (2, 3)]
    assert list(shelf.spans(9, 130)) == [(0, 2), (2, 3)]
    assert list(shelf.spans(9, 1)) == [(0, 1), (1, 2), (2, 3)]
