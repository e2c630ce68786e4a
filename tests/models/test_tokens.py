"""Tokens are finite whatever a customer did, and depend on nobody else."""

from __future__ import annotations

import numpy as np
import pytest

from models.base import PURCHASE, Customer
from models.customers import CONTEXT_SIZE, context_of, customer_of, population_of
from models.tokens import QUERY_GROUPS, QUERY_SIZE, Tokens, tokens_of


def bought(*days_ago: float, amount: float = 10.0, items: int = 3) -> Customer:
    times = 1e7 - np.array(days_ago)
    count = len(times)
    return customer_of(
        times,
        np.full(count, PURCHASE, dtype=np.int8),
        as_of=1e7,
        amounts=np.full(count, amount),
        quantities=np.full(count, 1e30),
        items=np.full(count, items),
    )


ODD = {
    "nobody": customer_of(np.zeros(0), np.zeros(0, dtype=np.int8), as_of=1.0),
    "free": bought(3.0, 2.0, amount=0.0),
    "dear": bought(3.0, 2.0, amount=3e38),
    "cheap": bought(3.0, amount=1e-30),
    "unpriced": bought(3.0, amount=np.nan),
    "ancient": bought(9e6, 8e6),
    "just now": bought(1e-7),
    "busy": bought(*np.arange(1.0, 900.0)),
}


def tokens(customers: list[Customer], *, known: bool = True, length: int = 48) -> Tokens:
    count = len(customers)
    context = context_of([bought(40.0, 3.0), bought(200.0)])
    return tokens_of(
        population_of(customers),
        contexts=context[None],
        known=np.array([known]),
        shop=np.zeros(count, dtype=np.int64),
        year_phase=np.full(count, 0.25),
        weekday=np.full(count, 6),
        length=length,
    )


@pytest.mark.parametrize("name", ODD)
@pytest.mark.parametrize("known", [True, False])
def test_tokens_are_finite(name: str, known: bool) -> None:
    made = tokens([ODD[name]], known=known)
    assert made.query.shape == (1, QUERY_SIZE)
    assert made.contexts.shape == (1, CONTEXT_SIZE)
    for part in (made.query, made.events):
        assert np.isfinite(part).all()
        assert np.abs(part).max(initial=0) <= 20


def test_a_shop_of_odd_customers_has_a_finite_context() -> None:
    assert np.isfinite(context_of(list(ODD.values()))).all()


def test_tokens_depend_on_nobody_else() -> None:
    together = tokens(list(ODD.values()))
    for row, each in enumerate(ODD.values()):
        alone = tokens([each])
        np.testing.assert_array_equal(together.query[row], alone.query[0])
        length = alone.events.shape[1]
        np.testing.assert_array_equal(together.events[row, :length], alone.events[0])
        assert not together.present[row, length:].any()
        np.testing.assert_array_equal(together.scale[row], alone.scale[0])


def test_the_latest_events_come_first() -> None:
    made = tokens([ODD["busy"], ODD["free"]], length=5)
    assert made.present.tolist() == [[True] * 5, [True, True, False, False, False]]
    np.testing.assert_allclose(made.events[0, :, 0] * 3, np.log1p(np.arange(1.0, 6.0)), rtol=1e-5)


def test_an_unknown_shop_tells_nothing() -> None:
    made = tokens([ODD["free"]], known=False)
    assert not made.contexts.any()
    assert not made.query[0, QUERY_GROUPS["shop"]].any()
    assert np.isnan(tokens([ODD["nobody"]], known=False).scale).all()


def test_season_is_in_its_group_alone() -> None:
    first = tokens([ODD["free"]]).query[0]
    season = QUERY_GROUPS["season"]
    assert first[season].tolist()[-7:] == [0, 0, 0, 0, 0, 0, 1]
    assert sum(part.stop - part.start for part in QUERY_GROUPS.values()) == QUERY_SIZE
