"""What is guessed about a file, and what is refused, on small real files."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from app.errors import InvalidInputError
from app.tables import Columns, Table, read

Write = Callable[..., Path]
LONG = "sku,date,units\na,2026-01-01,3\na,2026-01-02,\nb,2026-01-01,5\nb,2026-01-02,7.5\n"


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def write_text(text: str, *, encoding: str = "utf-8") -> Path:
        path = tmp_path / "sales.csv"
        path.write_text(text, encoding=encoding)
        return path

    return write_text


def refused(path: Path, columns: Columns | None = None) -> str:
    with pytest.raises(InvalidInputError) as caught:
        read(path, columns or Columns())
    return caught.value.issues[0].msg


def cells(table: Table) -> list[tuple[str, str, float, int]]:
    rows = table.rows
    days = rows["time"].dt.strftime("%Y-%m-%d")
    return list(zip(rows["item"], days, rows["target"], rows["line"], strict=True))


def test_long_table_is_recognised_and_said(write: Write) -> None:
    table = read(write(LONG), Columns())
    assert table.notes == ("long table: time = date, target = units, item = sku",)
    assert cells(table)[0] == ("a", "2026-01-01", 3.0, 2)
    assert cells(table)[3] == ("b", "2026-01-02", 7.5, 5)
    assert np.isnan(table.rows["target"][1])


def test_blank_lines_do_not_shift_line_numbers(write: Write) -> None:
    text = 'sku,date,units\n\n"a\nb",2026-01-01,3\n\na,2026-01-32,4\n'
    assert refused(write(text)).startswith("line 6: column 'date' holds '2026-01-32'")


@pytest.mark.parametrize(("delimiter", "said"), [(";", "by semicolons"), ("\t", "by tabs")])
def test_delimiter_is_guessed_and_said(write: Write, delimiter: str, said: str) -> None:
    table = read(write(LONG.replace(",", delimiter)), Columns())
    assert len(table.rows) == 4
    assert any(said in note for note in table.notes)


def test_decimal_comma_of_a_semicolon_file(write: Write) -> None:
    text = "Artikel;Datum;Menge\na;01.02.2026;1.234,5\na;13.02.2026;2,25\n"
    table = read(write(text), Columns())
    assert list(table.rows["target"]) == [1234.5, 2.25]
    assert cells(table)[0][1] == "2026-02-01"
    assert "numbers are written with a decimal comma" in table.notes
    assert "dates are written %d.%m.%Y" in table.notes


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "cp1252"])
def test_encodings_of_spreadsheets(write: Write, encoding: str) -> None:
    text = LONG.replace("a,", "Käse,")
    table = read(write(text, encoding=encoding), Columns())
    assert table.rows["item"][0] == "Käse"
    assert len(table.notes) == (1 if encoding == "utf-8-sig" else 2)


def test_wide_table_with_a_column_an_item(write: Write) -> None:
    table = read(write("date,apple,pear\n2026-01-01,1,2\n2026-01-02,,4\n"), Columns())
    assert table.notes == ("wide table: time = date, each of 2 columns an item",)
    assert cells(table)[0] == ("apple", "2026-01-01", 1.0, 2)
    assert cells(table)[3] == ("pear", "2026-01-02", 4.0, 3)


def test_wide_table_with_a_row_an_item(write: Write) -> None:
    table = read(write("sku,2026-01,2026-02,2026-03\na,1,2,3\nb,4,5,\n"), Columns())
    assert table.notes == ("wide table: item = sku, each of 3 columns a period",)
    assert cells(table)[1] == ("b", "2026-01-01", 4.0, 3)
    assert len(table.rows) == 6


def test_layout_can_be_said(write: Write) -> None:
    path = write("date,price,cost\n2026-01-01,1,2\n2026-01-02,3,4\n")
    assert "which column is to be forecast? could be 'price', 'cost'" in refused(path)
    assert len(read(path, Columns(layout="wide")).rows) == 4
    assert list(read(path, Columns(target="cost")).rows["target"]) == [2.0, 4.0]


def test_items_told_apart_by_several_columns(write: Write) -> None:
    text = "product_id,store_id,date,units\n1,x,2026-01-01,3\n1,y,2026-01-01,4\n"
    table = read(write(text), Columns())
    assert list(table.rows["item"]) == ["1/x", "1/y"]
    assert list(read(write(text), Columns(item=("store_id",))).rows["item"]) == ["x", "y"]


def test_one_column_of_words_tells_items_apart(write: Write) -> None:
    text = "flavour,date,units\nmint,2026-01-01,3\nlime,2026-01-01,4\n"
    assert list(read(write(text), Columns()).rows["item"]) == ["mint", "lime"]


def test_a_single_series_is_named_after_its_column(write: Write) -> None:
    table = read(write("date,umbrellas\n2026-01-01,3\n2026-01-02,4\n"), Columns())
    assert list(table.rows["item"]) == ["umbrellas", "umbrellas"]


def test_other_columns_are_numbers_flags_or_categories(write: Write) -> None:
    text = "date,units,price,promo,weather\n2026-01-01,3,9.9,true,sun\n2026-01-02,4,,false,\n"
    extras = read(write(text), Columns()).extras
    assert extras["price"].isna().tolist() == [False, True]
    assert extras["promo"].tolist() == [1.0, 0.0]
    assert extras["weather"].tolist() == ["sun", None]


def test_parquet_with_types_and_index(tmp_path: Path) -> None:
    days = pd.date_range("2026-01-01", periods=3, name="ds")
    frame = pd.DataFrame({"unique_id": pd.Categorical(["a"] * 3), "y": [1, 2, 3]}, index=days)
    frame.to_parquet(tmp_path / "sales.parquet")
    table = read(tmp_path / "sales.parquet", Columns())
    assert cells(table)[2] == ("a", "2026-01-03", 3.0, 3)
    assert table.place == "row"


def test_what_is_no_parquet_is_refused(tmp_path: Path) -> None:
    (tmp_path / "sales.parquet").write_text("no")
    assert "not a Parquet file" in refused(tmp_path / "sales.parquet")


def test_ambiguous_dates_are_refused_until_told(write: Write) -> None:
    path = write("date,units\n03/04/2026,3\n04/04/2026,4\n")
    assert "can be read as %d/%m/%Y or %m/%d/%Y; say which with --date-format" in refused(path)
    table = read(path, Columns(date_format="%d/%m/%Y"))
    assert cells(table)[0][1] == "2026-04-03"
    assert cells(read(write("date,units\n03/14/2026,3\n"), Columns()))[0][1] == "2026-03-14"


def test_times_of_one_offset_are_kept_and_of_several_refused(write: Write) -> None:
    head = "time,units\n2026-01-01T00:00:00+01:00,3\n"
    table = read(write(head + "2026-01-02T00:00:00+01:00,4\n"), Columns())
    assert str(table.rows["time"][0]) == "2026-01-01 00:00:00+01:00"
    assert refused(write(head + "2026-07-02T00:00:00+02:00,4\n")).startswith(
        "line 3: times of several zones"
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "the file is empty"),
        ("date,units\n", "the file has a header and no rows"),
        ("a,b\n1,2\n", "no column holds dates; name it with --time-column, one of 'a', 'b'"),
        ("date,units,units\n2026-01-01,1,2\n", "columns of the same name: 'units'; rename them"),
        ("date,units\n2026-01-01,1,2\n", "line 2: 3 fields where the header has 2"),
        ("date,units\n2026-01-01,many\n", "line 2: column 'units' holds 'many', which is not a"),
        ("date,units\n2026-01-01,inf\n", "line 2: column 'units' holds 'inf', which is not a"),
        ("date,units\n2026-02-30,4\n2026-02-01,4\n", "line 2: column 'date' holds '2026-02-30'"),
        ("date,units\n,4\n2026-02-01,4\n", "line 2: column 'date' holds '', which is not a date"),
        ("sku,date,units\n,2026-02-01,4\n", "line 2: no value in sku, which tells items apart"),
        ("date,p,q,r\n2026-02-01,4,a,b\n2026-02-01,4,c,d\n", "times repeat, so there are several"),
        ('date,units\n"2026-02-01,4\n', "line 2: "),
    ],
)
def test_refusals_name_the_line_and_the_way_out(write: Write, text: str, message: str) -> None:
    assert refused(write(text)).startswith(message)


def test_many_bad_lines_are_counted(write: Write) -> None:
    body = "".join(f"2026-01-{day:02d},x\n" for day in range(1, 10))
    message = refused(write("date,units\n" + body), Columns(target="units"))
    assert message.startswith("lines 2, 3, 4, 5, 6 and 4 more: ")


def test_a_column_that_is_not_there_is_refused(write: Write) -> None:
    message = refused(write(LONG), Columns(target="unit"))
    assert message == "no column 'unit'; the file has 'sku', 'date', 'units'"


def test_covariates_of_a_wide_table_are_refused(write: Write) -> None:
    path = write("sku,price,2026-01,2026-02,2026-03\na,2,1,2,3\n")
    assert "a wide table has no columns beside the sales" in refused(
        path, Columns(known_future=("price",))
    )
