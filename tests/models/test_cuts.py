"""A cut knows what was known then, and watches what came since."""

from __future__ import annotations

import numpy as np
import pytest

from models.base import EVENT_TYPES, PURCHASE, Customer
from models.customers import Population, context_of, customer_of, population_of
from models.cuts import cut_at
from models.tokens import blanked, chosen, joined

VIEW = EVENT_TYPES.index("view")
NOW = 1000.0


def buyer(*days_ago: float, fraction: float = 0.25) -> Customer:
    """fraction: of a day, by which each purchase is less than a whole number of days ago."""
    times = NOW - np.array(days_ago) + (fraction - 1 if fraction else 0.0)
    return customer_of(
        times,
        np.full(len(times), PURCHASE, dtype=np.int8),
        as_of=NOW,
        amounts=np.full(len(times), 10.0),
        observed_from=NOW - 500,
    )


def crowd(fraction: float = 0.25) -> Population:
    days = ((100, 60, 20), (80,), (30, 5))
    return population_of([buyer(*each, fraction=fraction) for each in days])


def test_what_was_known_then_is_what_is_counted_now_of_it() -> None:
    cut = cut_at(crowd(), 50.0)
    assert cut.people.tolist() == [0, 1]  # the third came later
    then = cut.population
    assert then.purchase_days.tolist() == [2, 1]
    assert then.spend.tolist() == [20.0, 10.0]
    assert then.spend_days.tolist() == [2, 1]
    np.testing.assert_allclose(then.first_purchase_days_ago, [50.75, 30.75])
    np.testing.assert_allclose(then.days_ago, [50.75, 10.75, 30.75])
    np.testing.assert_allclose(then.observed_days, 450)
    assert np.isfinite(context_of(then)).all()


def test_what_came_since_is_watched() -> None:
    cut = cut_at(crowd(), 50.0)
    np.testing.assert_allclose(cut.first_days(), [29.25, np.inf])
    assert cut.bought(30.0).tolist() == [True, False]
    assert cut.bought(29.0).tolist() == [False, False]
    assert cut.purchases(50.0).tolist() == [1, 0]
    np.testing.assert_allclose(cut.mean_amount(), [10.0, np.nan])
    with pytest.raises(ValueError, match="watched"):
        cut.bought(51.0)


def test_dates_alone_are_taken_at_noon() -> None:
    cut = cut_at(crowd(fraction=0.0), 50.0)
    np.testing.assert_allclose(cut.first_days(), [30.5, np.inf])
    assert cut.bought(31.0).tolist() == [True, False]
    assert cut.bought(30.0).tolist() == [False, False]


def test_a_customer_who_never_bought_may_be_known() -> None:
    views = customer_of(
        np.array([NOW - 60.5, NOW - 3.5]), np.array([VIEW, PURCHASE], dtype=np.int8), as_of=NOW
    )
    cut = cut_at(population_of([views]), 50.0)
    assert cut.population.purchase_days.tolist() == [0]
    assert np.isnan(cut.population.first_purchase_days_ago).all()
    np.testing.assert_allclose(cut.first_days(), [46.5])


def test_choosing_joining_and_blanking_keep_the_rest() -> None:
    whole = crowd()
    some = chosen(whole, np.array([2, 0]), most_events=1)
    np.testing.assert_allclose(some.days_ago, [5.75, 20.75])
    assert some.purchase_days.tolist() == [2, 3]
    both = joined([some, whole])
    assert np.diff(both.starts).tolist() == [1, 1, 3, 1, 2]
    assert both.owner[-1] == 4
    unseen = blanked(both, np.array([2]))
    assert np.diff(unseen.starts).tolist() == [1, 1, 0, 1, 2]
    assert unseen.purchase_days.tolist() == [2, 3, 0, 1, 2]
    assert np.isnan(unseen.first_days_ago[2])
