"""Days are merged, counts come before cuts, and a shop's context is finite and blind to order."""

from __future__ import annotations

import time

import numpy as np
import pytest

from models.base import EVENT_TYPES, PURCHASE, Customer
from models.customers import (
    CELLS,
    CONTEXT_SIZE,
    WINDOWS,
    amount_scale,
    cell_of,
    context_of,
    customer_of,
    population_of,
    tables_of,
)

VIEW = EVENT_TYPES.index("view")


def kinds(*codes: int) -> np.ndarray[tuple[int], np.dtype[np.int8]]:
    return np.array(codes, dtype=np.int8)


def buyer(*days_ago: float, amount: float = np.nan) -> Customer:
    times = 1000.0 - np.array(days_ago)
    types = np.full(len(times), PURCHASE, dtype=np.int8)
    return customer_of(times, types, as_of=1000.0, amounts=np.full(len(times), amount))


def crowd(count: int, seed: int = 0) -> list[Customer]:
    rng = np.random.default_rng(seed)
    customers = []
    for _ in range(count):
        events = int(rng.poisson(5))
        times = 1000 - rng.exponential(120, events) - 1e-3
        types = rng.integers(0, len(EVENT_TYPES), events).astype(np.int8)
        amounts = rng.lognormal(3, 1, events)
        customers.append(customer_of(times, types, as_of=1000.0, amounts=amounts))
    return customers


def test_purchases_of_one_day_are_one() -> None:
    customer = customer_of(
        np.array([10.7, 10.1, 10.4, 12.0, 10.5]),
        kinds(PURCHASE, PURCHASE, PURCHASE, PURCHASE, VIEW),
        as_of=20.0,
        amounts=np.array([5.0, np.nan, 9.0, 1.0, 3.0]),
        quantities=np.array([1.0, 2.0, np.nan, np.nan, np.nan]),
        items=np.array([11, 12, 13, 14, 15]),
        categories=np.array([1, 2, 3, 4, 5]),
    )
    np.testing.assert_allclose(customer.days_ago, [9.9, 9.5, 8.0])
    assert customer.types.tolist() == [PURCHASE, VIEW, PURCHASE]
    np.testing.assert_allclose(customer.amounts, [14.0, 3.0, 1.0])
    np.testing.assert_allclose(customer.quantities, [3.0, np.nan, np.nan])
    assert customer.items.tolist() == [13, 15, 14]
    assert customer.categories.tolist() == [3, 5, 4]
    assert (customer.purchase_days, customer.spend, customer.spend_days) == (2, 15.0, 2)


def test_counts_come_before_the_cut() -> None:
    times = np.arange(10.0)
    customer = customer_of(
        times, np.full(10, PURCHASE, np.int8), as_of=10.0, amounts=times, most_events=3
    )
    assert customer.truncated
    assert customer.days_ago.tolist() == [3.0, 2.0, 1.0]
    assert (customer.purchase_days, customer.spend, customer.spend_days) == (10, 45.0, 10)
    assert (customer.first_days_ago, customer.first_purchase_days_ago) == (10.0, 10.0)


def test_a_customer_without_events_is_one() -> None:
    customer = customer_of(np.zeros(0), kinds(), as_of=10.0, observed_from=3.0)
    assert np.isnan(customer.first_days_ago)
    assert customer.observed_days == 7.0
    assert np.isfinite(context_of([customer])).all()


def test_recording_began_no_later_than_the_first_event() -> None:
    customer = customer_of(np.array([1.0]), kinds(VIEW), as_of=10.0, observed_from=5.0)
    assert customer.observed_days == 9.0
    assert np.isnan(customer.first_purchase_days_ago)


@pytest.mark.parametrize("late", [10.0, 11.0, np.nan, np.inf])
def test_an_event_not_before_as_of_is_refused(late: float) -> None:
    with pytest.raises(ValueError, match="before as_of"):
        customer_of(np.array([1.0, late]), kinds(VIEW, VIEW), as_of=10.0)


def test_a_context_is_finite_and_blind_to_order() -> None:
    customers = crowd(300)
    context = context_of(customers)
    assert context.shape == (CONTEXT_SIZE,)
    assert np.isfinite(context).all()
    np.testing.assert_allclose(context_of(customers[::-1]), context, atol=1e-12)
    np.testing.assert_allclose(context_of(population_of(customers)), context, atol=1e-12)


@pytest.mark.parametrize("count", [1, 2, 7])
def test_a_small_or_odd_shop_has_a_finite_context(count: int) -> None:
    for customers in (crowd(count), [buyer(3.0)] * count, [buyer(400.0, amount=0.0)] * count):
        assert np.isfinite(context_of(customers)).all()


def test_a_context_needs_customers() -> None:
    with pytest.raises(ValueError, match="customers"):
        context_of([])


def test_back_tests_count_who_bought_since() -> None:
    came, stayed_away = [buyer(100.0, 35.0, 5.0)] * 30, [buyer(100.0, 35.0)] * 10
    tables = tables_of(context_of(came + stayed_away))
    assert tables.shape == (len(WINDOWS), CELLS[0] * CELLS[1], 2)
    cell = cell_of(np.array([5.0]), np.array([2]))[0]  # at 30 days ago: 5 days since, twice
    log_odds, count = tables[1, cell]
    assert count == pytest.approx(np.log1p(40) / 4)
    assert log_odds == pytest.approx(np.log(3), abs=0.05)
    assert tables[1, :, 1].sum() == pytest.approx(count)


def test_an_event_at_the_edge_of_a_window_lies_within_it() -> None:
    tables = tables_of(context_of([buyer(60.0, 30.0)] * 20))
    cell = cell_of(np.array([30.0]), np.array([1]))[0]
    assert tables[1, cell, 0] > 2


def test_the_scale_of_amounts_is_their_mean() -> None:
    context = context_of([buyer(30.0, 9.0, amount=20.0), buyer(5.0, amount=50.0)])
    assert amount_scale(context) == pytest.approx(30.0)
    assert np.isnan(amount_scale(context_of([buyer(5.0)])))


def test_a_context_of_twenty_thousand_is_quick() -> None:
    customers = crowd(200) * 100
    before = time.process_time()
    context_of(customers)
    assert time.process_time() - before < 20  # a second or less; the bound only stops a hang
