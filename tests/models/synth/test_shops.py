"""What drives a shop's sales is found again in them: price, promotion, dip, holiday, rival."""

from __future__ import annotations

import numpy as np
import pytest

from models.synth import shops
from tests.models.synth.measures import autocorrelation, coefficients, generator, lengths


@pytest.mark.parametrize("dispersion", [0.05, 0.5, 2.0])
def test_negative_binomial_has_its_mean_and_variance(dispersion: float) -> None:
    rate = np.full((1, 200_000), 20.0)
    counts = shops.negative_binomial(generator(), rate, np.array([[dispersion]]))
    assert counts.mean() == pytest.approx(20, rel=0.02)
    assert counts.var() == pytest.approx(20 + 400 * dispersion, rel=0.05)


def test_a_shop_responds_to_price_by_its_elasticity() -> None:
    made = shops.shop(generator(), lengths(400, 0), 150)
    quiet = (made.promotion == 0) & (made.holiday == 0)
    errors = []
    for row in range(400):
        step = np.flatnonzero(quiet[row, 1:] & quiet[row, :-1]) + 1
        moved = step[np.abs(np.diff(np.log(made.price[row]))[step - 1]) > 0.05]
        change = np.diff(np.log(made.rate[row]))[moved - 1]
        price = np.diff(np.log(made.price[row]))[moved - 1]
        errors += list(change / price - made.elasticity[row, 0])
    assert len(errors) > 50
    assert np.median(errors) == pytest.approx(0, abs=0.15)


def test_promotions_lift_and_are_followed_by_a_dip() -> None:
    made = shops.shop(generator(), lengths(600, 0), 150)
    log_rate = np.log(made.rate) - np.log(made.rate).mean(axis=1, keepdims=True)
    promoted = made.promotion == 1
    ended = (np.roll(promoted, 1, axis=1) & ~promoted)[:, 1:]
    later = (~promoted & ~np.roll(promoted, 1, axis=1))[:, 1:]
    assert log_rate[promoted].mean() > log_rate[~promoted].mean() + 0.3
    assert log_rate[:, 1:][ended].mean() < log_rate[:, 1:][later].mean() - 0.05


def test_half_of_the_promotions_lift_plainly() -> None:
    made = shops.shop(generator(), lengths(400, 0), 200)
    lifts = []
    for row in range(400):
        promoted = made.promotion[row] == 1
        if 5 < promoted.sum() < 150:
            steps = np.diff(np.log(made.rate[row]))[np.diff(made.promotion[row]) > 0]
            lifts.append(np.median(steps))
    assert np.mean(np.array(lifts) > 0.26) > 0.5
    assert np.mean(np.array(lifts) > 1.6) < 0.25


def test_promotions_last_by_their_calendar() -> None:
    weekly = shops.promotions(generator(), lengths(300, 52), 150)
    starts = (np.diff(weekly, axis=1) > 0).sum()
    assert 1 <= weekly[:, 1:].sum() / starts < 2
    assert 0.85 < weekly.any(axis=1).mean() < 0.98
    daily = shops.promotions(generator(), lengths(300, 7), 150)
    assert daily[:, 1:].sum() / (np.diff(daily, axis=1) > 0).sum() > 2


@pytest.mark.parametrize("length", [7, 12, 52])
def test_short_windows_show_promotions_before_they_are_asked_for(length: int) -> None:
    flags = shops.promotions(generator(), lengths(400, length), 40)
    seen, asked = flags[:, :30].any(axis=1), flags[:, 30:].any(axis=1)
    assert (seen & ~flags[:, :30].all(axis=1)).mean() > 0.75
    assert (seen & asked).sum() / asked.sum() > 0.85


def test_holidays_move_the_rate_and_some_the_days_before() -> None:
    holiday = np.zeros((400, 30))
    holiday[:, 20] = 1
    effect = shops._holiday_effect(generator(), holiday)
    assert np.abs(effect[:, 20]).min() >= 0.1
    assert not effect[:, 21:].any()
    run_up = effect[:, 19] > 0
    assert 0.25 < run_up.mean() < 0.42
    assert (np.diff(effect[run_up, 10:20], axis=1) > 0).all()


def test_a_dip_follows_a_promotion_and_fades() -> None:
    plan = shops._plan(generator(), lengths(400, 7), 200)
    dip = shops._dip(generator(), plan)
    assert dip.min() >= 0
    assert not dip[plan.promotion == 1].any()
    row, last = np.nonzero((np.diff(plan.promotion, axis=1) < 0) & (dip[:, 1:] > 0.01))
    followed = (last + 2 < 200) & (plan.promotion[row, np.minimum(last + 2, 199)] == 0)
    row, first = row[followed], last[followed] + 1
    assert len(row) > 200
    assert (dip[row, first + 1] <= dip[row, first]).all()
    assert (dip[row, first + 1] < dip[row, first]).mean() > 0.5


def test_what_comes_back_was_sold_before() -> None:
    sales = np.zeros((2000, 60))
    sales[:, :10] = 1000.0
    back = shops._returns(generator(), sales)
    some = back.any(axis=1)
    assert 0.03 < some.mean() < 0.1
    assert (back[some].sum(axis=1) < 0.65 * 10_000).all()
    assert not back[:, 0].any()
    assert not back[:, 24:].any()


def test_prices_have_few_levels_and_fall_in_promotions() -> None:
    promotion = shops.promotions(generator(), lengths(300, 7), 150)
    price = shops.prices(generator(), promotion, np.full((300, 1), 0.3))
    levels = np.array([len(np.unique(row)) for row in price])
    assert np.median(levels) <= 8
    for row in range(300):
        if levels[row] == 2:
            assert price[row][promotion[row] == 1] == pytest.approx(0.7)


@pytest.mark.parametrize(("length", "year"), [(7, 365.25), (52, 52.18), (12, 12.0)])
def test_holidays_come_back_and_some_move(length: int, year: float) -> None:
    rows, years = 300, 6
    flags = shops.holidays(generator(), lengths(rows, length), round(years * year))
    gaps = [np.diff(np.flatnonzero(row)) for row in flags]
    off = np.array([np.abs(gap - year).max() if len(gap) > 3 else np.inf for gap in gaps])
    fixed, reach = off <= 1, 2 * max(round(year / 20), 1) + 1
    assert fixed.mean() > 0.03  # one day a year
    assert ((off > 1) & (off <= reach)).mean() > 0.01


def test_holidays_come_back_soon_for_those_without_a_year() -> None:
    flags = shops.holidays(generator(), lengths(200, 4), 240)
    assert flags.sum(axis=1).min() >= 3
    assert flags.sum(axis=1).max() <= 62


def test_a_promotion_of_the_rival_costs_sales() -> None:
    first, second, share = shops.rivals(generator(), lengths(300, 0), 200)
    own, other = [], []
    for row in range(300):
        flags = np.diff(first.promotion[row]), np.diff(second.promotion[row])
        if min(np.abs(flag).sum() for flag in flags) < 6:
            continue
        mine, theirs = coefficients(np.diff(np.log(first.rate[row])), *flags)
        own.append(mine)
        other.append(theirs)
    assert np.mean(np.array(own) > 0) > 0.8
    assert np.mean(np.array(other) < 0) > 0.8
    assert share.min() > 0.15


def test_some_shops_close_on_a_phase_and_some_run_out_of_stock() -> None:
    made = shops.shop(generator(), lengths(400), 210)
    busy = made.rate.min(axis=1) > 30
    by_phase = made.sales[busy].reshape(busy.sum(), -1, 7)
    closed = (by_phase == 0).all(axis=1).any(axis=1) & (by_phase > 0).any(axis=(1, 2))
    assert 0.04 < closed.mean() < 0.3
    assert (made.sales[busy] == 0).any(axis=1).mean() > closed.mean()
    assert not made.sales[(made.stocked == 0) & (made.sales > 0)].any()


def test_sales_are_counts_and_a_few_are_negative_by_returns() -> None:
    sales = shops.shop_sales(generator(), lengths(1000), 100)
    np.testing.assert_array_equal(sales, np.round(sales))
    negative = (sales < 0).any(axis=1).mean()
    assert 0.005 < negative < 0.06


def test_some_articles_are_launched_and_some_end() -> None:
    sales = shops.shop_sales(generator(), lengths(1000, 0), 200)
    sold = sales[(sales != 0).mean(axis=1) > 0.3] != 0
    launched = ~sold[:, :20].any(axis=1) & sold[:, -20:].any(axis=1)
    ended = ~sold[:, -20:].any(axis=1) & sold[:, :20].any(axis=1)
    assert 0.01 < launched.mean() < 0.12
    assert 0.005 < ended.mean() < 0.1


def test_stores_have_a_week_in_a_year() -> None:
    sales = shops.store_sales(generator(), lengths(200, 7), 800)
    assert sales.min() >= 0
    assert np.median(autocorrelation(np.diff(sales, axis=1), 7)) > 0.4
    by_week = np.log1p(sales[:, :798].reshape(200, -1, 7).sum(axis=2))
    change = by_week[:, 8:] - by_week[:, :-8]
    a_year, half = (autocorrelation(change, lag) for lag in (52, 26))
    assert np.mean(a_year > half) > 0.6
