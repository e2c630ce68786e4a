"""How rows become regular histories: calendars, gaps, duplicates, what is known ahead."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from app.errors import InvalidInputError
from app.histories import Gaps, Histories, build
from app.tables import Columns, read

NOTHING = Columns()


def histories(
    path: Path,
    frame: pd.DataFrame,
    columns: Columns = NOTHING,
    *,
    horizon: int = 2,
    freq: str | None = None,
    items: Sequence[str] = (),
    gaps: Gaps = "missing",
) -> Histories:
    frame.to_csv(path / "sales.csv", index=False)
    table = read(path / "sales.csv", columns)
    return build(table, columns, prediction_length=horizon, freq=freq, items=items, gaps=gaps)


def daily(items: str = "ab", days: int = 20) -> pd.DataFrame:
    dates = pd.date_range("2026-01-01", periods=days)
    parts = [pd.DataFrame({"sku": item, "date": dates, "units": range(days)}) for item in items]
    return pd.concat(parts, ignore_index=True)


@pytest.mark.parametrize(
    "freq",
    [
        "D",
        "B",
        "W-MON",
        "W-SUN",
        "2W-THU",
        "MS",
        "ME",
        "2MS",
        "QS-JAN",
        "QS-FEB",
        "QE-DEC",
        "YS-JAN",
        "YE-JUN",
        "h",
        "4h",
        "15min",
        "2D",
        "s",
    ],
)
def test_frequency_is_guessed_and_said(tmp_path: Path, freq: str) -> None:
    times = pd.date_range("2021-03-01", periods=16, freq=freq)
    made = histories(tmp_path, pd.DataFrame({"time": times, "units": range(16)}))
    assert made.freq == freq
    assert made.notes == (f"frequency {freq}, from the dates",)
    assert made.items[0].times.equals(times)


def test_gaps_become_missing_or_zero_and_are_counted(tmp_path: Path) -> None:
    frame = daily().drop(index=[3, 4, 39])
    made = histories(tmp_path, frame)
    assert np.isnan(made.items[0].target).nonzero()[0].tolist() == [3, 4]
    assert "2 of 39 periods had no row and count as missing" in made.notes[1]
    zero = histories(tmp_path, frame, gaps="zero")
    assert zero.items[0].target[[3, 4]].tolist() == [0, 0]
    assert len(zero.items[1].target) == 20
    assert "3 of 40 periods had no row and count as zero" in zero.notes[1]


def test_an_empty_cell_is_missing_and_never_zero(tmp_path: Path) -> None:
    frame = daily("a").astype({"units": float})
    frame.loc[5, "units"] = np.nan
    assert np.isnan(histories(tmp_path, frame, gaps="zero").items[0].target[5])


def test_rows_in_any_order_are_sorted(tmp_path: Path) -> None:
    shuffled = daily().sample(frac=1, random_state=1)
    made = {each.item: each.target.tolist() for each in histories(tmp_path, shuffled).items}
    assert made == {"a": list(range(20)), "b": list(range(20))}


def test_items_keep_the_order_of_the_file(tmp_path: Path) -> None:
    assert [each.item for each in histories(tmp_path, daily("cab")).items] == ["c", "a", "b"]


def test_duplicates_are_refused_with_both_lines(tmp_path: Path) -> None:
    frame = pd.concat([daily(), daily().iloc[[2]]])
    with pytest.raises(InvalidInputError) as caught:
        histories(tmp_path, frame)
    message = caught.value.issues[0].msg
    assert message.startswith("line 42: item 'a' has a second row for 2026-01-03 (the first is")
    assert "line 4)" in message


def test_a_date_off_the_calendar_is_refused_by_line(tmp_path: Path) -> None:
    frame = daily()
    frame.loc[7, "date"] = pd.Timestamp("2026-01-08 05:00")
    with pytest.raises(InvalidInputError, match="line 9: 2026-01-08 05:00:00 is not a period"):
        histories(tmp_path, frame)


def test_single_events_are_no_calendar(tmp_path: Path) -> None:
    seconds = np.random.default_rng(0).choice(10**6, 50, replace=False)
    times = pd.Timestamp("2026-01-01") + pd.to_timedelta(np.sort(seconds), unit="s")
    with pytest.raises(InvalidInputError, match="the times follow no calendar"):
        histories(tmp_path, pd.DataFrame({"time": times, "units": 1}))


def test_one_period_tells_no_frequency_unless_it_is_given(tmp_path: Path) -> None:
    with pytest.raises(InvalidInputError, match="one period only"):
        histories(tmp_path, daily(days=1))
    assert histories(tmp_path, daily(days=1), freq="D").freq == "D"


def test_a_frequency_off_its_anchor_follows_the_dates(tmp_path: Path) -> None:
    months = pd.date_range("2024-01-01", periods=9, freq="MS")
    frame = pd.DataFrame({"date": months, "units": range(9)})
    assert histories(tmp_path, frame, freq="ME").freq == "MS"
    weeks = pd.date_range("2026-01-05", periods=9, freq="W-MON")
    made = histories(tmp_path, pd.DataFrame({"date": weeks, "units": range(9)}), freq="W")
    assert made.notes == ("frequency W-MON: the dates stand on it, not on W",)


def test_items_are_chosen_by_name_and_a_wrong_one_is_refused(tmp_path: Path) -> None:
    assert [each.item for each in histories(tmp_path, daily("abc"), items=["b"]).items] == ["b"]
    with pytest.raises(InvalidInputError, match="no item 'aa' among 3 in the file; near it: 'a'"):
        histories(tmp_path, daily("abc"), items=["aa"])


def test_items_without_any_target_are_left_out_and_said(tmp_path: Path) -> None:
    frame = daily().astype({"units": float})
    frame.loc[frame["sku"] == "b", "units"] = np.nan
    made = histories(tmp_path, frame)
    assert [each.item for each in made.items] == ["a"]
    assert made.notes[0] == "item b left out: no target at all"
    with pytest.raises(InvalidInputError, match="the target column is empty"):
        histories(tmp_path, frame, items=["b"])


def ahead(known: int = 5) -> pd.DataFrame:
    """One item, its last rows without a target."""
    frame = daily("a").astype({"units": float}).assign(name="Apple", promo="no", price=1.5)
    even = frame.index % 2 == 0
    frame.loc[even, "promo"] = "yes"
    frame.loc[even, "price"] = 1.0
    frame.loc[20 - known :, "units"] = np.nan
    return frame


def test_what_is_known_ahead_stands_after_the_last_target(tmp_path: Path) -> None:
    made = histories(tmp_path, ahead(), horizon=4)
    assert made.notes[1:] == (
        "known ahead: promo, price",
        "not used: name (--known-future, --known-past)",
    )
    item = made.items[0]
    promo, price = item.covariates
    assert len(item.target) == len(promo.past) == len(price.past) == 15
    assert promo.future is not None
    assert price.future is not None
    assert promo.future.tolist() == ["no", "yes", "no", "yes"]
    assert price.future.tolist() == [1.5, 1.0, 1.5, 1.0]


def test_a_future_that_is_too_short_is_not_used_or_refused_if_asked_for(tmp_path: Path) -> None:
    made = histories(tmp_path, ahead(), horizon=6)
    assert made.items[0].covariates == ()
    assert "not used: price, known for 5 of 6 future periods of item 'a'" in made.notes
    with pytest.raises(InvalidInputError, match="price is known for 5 of 6 future periods"):
        histories(tmp_path, ahead(), Columns(known_future=("price",)), horizon=6)


def test_covariates_can_be_named(tmp_path: Path) -> None:
    columns = Columns(known_future=("price",), known_past=("promo",))
    price, promo = histories(tmp_path, ahead(), columns).items[0].covariates
    assert (price.name, promo.name) == ("price", "promo")
    assert price.future is not None
    assert promo.future is None


def test_periods_out_of_stock_are_marked_and_are_no_covariate(tmp_path: Path) -> None:
    frame = daily("a").assign(empty=lambda rows: rows["units"] == 3).drop(index=5)
    item = histories(tmp_path, frame, Columns(out_of_stock="empty")).items[0]
    assert item.covariates == ()
    assert item.out_of_stock is not None
    assert np.flatnonzero(item.out_of_stock).tolist() == [3]
    assert len(item.out_of_stock) == len(item.target)


def test_a_column_out_of_stock_that_is_no_flag_is_refused_by_line(tmp_path: Path) -> None:
    frame = daily("a").assign(empty=[0, 2, *[1] * 18])
    with pytest.raises(InvalidInputError, match=r"line 3: column 'empty' holds '2\.0'"):
        histories(tmp_path, frame, Columns(out_of_stock="empty"))


def test_times_with_an_offset_keep_it(tmp_path: Path) -> None:
    frame = daily("a")
    frame["date"] = frame["date"].dt.strftime("%Y-%m-%dT%H:%M:%S+01:00")
    made = histories(tmp_path, frame)
    assert made.freq == "D"
    assert made.items[0].times[0].isoformat() == "2026-01-01T00:00:00+01:00"
