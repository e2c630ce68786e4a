"""A simulated shop keeps its promises, and its future continues its past."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from models.base import EVENT_TYPES, PURCHASE
from models.customers import context_of
from models.synth import customers as synth
from models.synth.customers import BIN_EDGES, ShopSettings, SimulatedShop, simulate

STEADY = ShopSettings(
    customers=1500, history=500, acquisition="early", dropout="none", rate=1 / 25, rate_spread=2.0
)


def generator(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def shop(seed: int = 1, futures: int = 2, **changes: Any) -> SimulatedShop:
    return simulate(generator(seed), replace(STEADY, **changes), futures=futures)


def gaps(made: SimulatedShop) -> np.ndarray[Any, np.dtype[np.float64]]:
    crowd = made.population
    bought = crowd.types == PURCHASE
    owner, days = crowd.owner[bought], crowd.days_ago[bought]
    return np.asarray((days[:-1] - days[1:])[owner[1:] == owner[:-1]])


def share_past(made: SimulatedShop, days: int) -> float:
    crowd = made.population
    near = (crowd.types == PURCHASE) & (crowd.days_ago <= days)
    return len(np.unique(crowd.owner[near])) / len(crowd)


def share_future(made: SimulatedShop, days: int) -> float:
    return float(made.first[:, : BIN_EDGES.index(days) + 1].sum(axis=1).mean())


def test_the_same_generator_gives_the_same_shop() -> None:
    first, again = (synth.draw_shop(generator(5), labelled=20) for _ in range(2))
    np.testing.assert_array_equal(first.population.days_ago, again.population.days_ago)
    np.testing.assert_array_equal(first.first, again.first)
    assert first.settings == again.settings


def test_drawn_shops_are_sound() -> None:
    rng = generator(2)
    funnels = 0
    for _ in range(14):
        made = synth.draw_shop(rng, labelled=20, futures=3)
        crowd = made.population
        funnels += made.settings.funnel
        assert (crowd.days_ago > 0).all()
        assert (np.diff(crowd.starts) > 0).all()
        assert np.isfinite(context_of(crowd)).all()
        np.testing.assert_allclose(made.first.sum(axis=1), 1)
        mass = np.cumsum(made.first[:, :-1], axis=1)
        assert (np.cumsum(made.purchases, axis=1) >= mass - 1e-9).all()
        same = crowd.owner[1:] == crowd.owner[:-1]
        assert (np.diff(crowd.days_ago)[same] <= 0).all()
    assert 2 <= funnels <= 12


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"gap_shape": 4.0},
        {"gap": "weibull", "gap_shape": 0.6},
        {"burst": 0.4},
        {"funnel": True},
        {"funnel": True, "browse_days": 10.0, "cart_days": 8.0},
        {"subscribers": 0.5, "time_of_day": 0.4},
        {"dates_only": True, "week": 0.5},
        {"dropout": "pareto", "lifetime": 100.0, "returning": 0.9, "away": 60.0},
    ],
    ids=str,
)
def test_the_future_continues_a_steady_past(changes: dict[str, Any]) -> None:
    made = shop(**changes)
    for days in (7, 30):
        assert share_future(made, days) == pytest.approx(share_past(made, days), abs=0.05)


@pytest.mark.parametrize(("shape", "expected"), [(1.0, 1.0), (4.0, 0.25)])
def test_erlang_gaps_are_as_regular_as_said(shape: float, expected: float) -> None:
    made = shop(rate_spread=500.0, gap_shape=shape, rate=1 / 10)
    values = gaps(made)
    assert values.var() / values.mean() ** 2 == pytest.approx(expected, rel=0.12)


@pytest.mark.parametrize(
    ("heterogeneity", "spread", "expected"), [("gamma", 0.5, 2.0), ("lognormal", 1.0, np.e - 1)]
)
def test_rates_have_their_spread(heterogeneity: str, spread: float, expected: float) -> None:
    settings = ShopSettings(customers=200_000, heterogeneity=heterogeneity, rate_spread=spread)
    rates = synth.relative_rates(generator(), settings)
    assert rates.mean() == pytest.approx(1, rel=0.02)
    assert rates.var() == pytest.approx(expected, rel=0.1)


@pytest.mark.parametrize("kind", ["uniform", "growing", "shrinking", "cohort", "early"])
def test_customers_come_when_said(kind: str) -> None:
    settings = ShopSettings(customers=4000, history=400, acquisition=kind, cohort_days=50)
    days = synth.acquisitions(generator(), settings)
    assert days.min() >= -400
    assert days.max() < 0
    late = np.mean(days > -200)
    expected = {"uniform": 0.5, "growing": 0.72, "shrinking": 0.28, "early": 0.1}
    if kind == "cohort":
        assert np.ptp(days) <= 50
    else:
        assert late == pytest.approx(expected[kind], abs=0.04)


@pytest.mark.parametrize("dropout", ["pareto", "bg", "weibull"])
def test_those_who_leave_stay_away(dropout: str) -> None:
    lifetime = 0.2 if dropout == "bg" else 60.0
    made = shop(dropout=dropout, lifetime=lifetime)
    assert not made.alive.all()
    assert made.purchases[~made.alive].sum() == 0
    assert made.purchases[made.alive].sum(axis=1).mean() > 1


def test_some_come_back() -> None:
    made = shop(dropout="pareto", lifetime=60.0, returning=1.0, away=50.0)
    assert made.purchases[~made.alive].sum(axis=1).mean() > 0.5


def test_correlation_ties_leaving_to_rate() -> None:
    fast_leave = shop(dropout="pareto", lifetime=80.0, correlation=0.6, dropout_shape=50.0)
    slow_leave = shop(dropout="pareto", lifetime=80.0, correlation=-0.6, dropout_shape=50.0)

    def rate_of_alive(made: SimulatedShop) -> float:
        return float(made.population.purchase_days[made.labelled][made.alive].mean())

    assert rate_of_alive(slow_leave) > rate_of_alive(fast_leave)


def test_bursts_follow_purchases() -> None:
    calm, bursting = (np.mean(gaps(shop(burst=burst)) < 3) for burst in (0.0, 0.5))
    assert bursting > calm + 0.1


def test_subscribers_keep_their_period() -> None:
    made = shop(subscribers=1.0, rate=1 / 500)
    relative = np.abs(gaps(made)[:, None] / np.array(synth.PERIODS) - 1).min(axis=1)
    assert np.quantile(relative, 0.9) < 0.1


def test_activity_follows_the_calendar() -> None:
    days = np.arange(-728.0, 0.0)
    weekly = synth.activity(generator(), ShopSettings(week=0.6), days)
    np.testing.assert_allclose(weekly[7:], weekly[:-7])
    assert weekly.std() > 0.1
    yearly = synth.activity(generator(3), ShopSettings(season=0.5), days)
    assert np.corrcoef(yearly[:363], yearly[365:])[0, 1] > 0.95
    promoted = synth.activity(generator(), ShopSettings(promotions=6.0), days)
    assert promoted.max() > 1.15
    assert np.median(promoted) == pytest.approx(1)
    shifted = synth.activity(generator(), ShopSettings(shift=0.5), days)
    assert len(np.unique(shifted)) == 2


def test_the_level_shifts_after_as_of() -> None:
    spread = [
        shop(seed=4, futures=20, customers=60, rate=1 / 5, rate_spread=500.0, future_shift=shift)
        for shift in (0.0, 0.8)
    ]
    first, second = (made.first[:, :3].sum(axis=1).mean() for made in spread)
    assert second < first  # a mean over levels is less certain of a purchase


def test_left_censored_histories_begin_in_mid_life() -> None:
    made = shop(before=400.0, tells_start=True)
    crowd = made.population
    assert crowd.first_days_ago.max() <= 500
    assert (crowd.observed_days >= crowd.first_days_ago).all()
    assert np.isnan(shop(tells_start=False).population.observed_days).all()


def test_purchases_of_a_day_are_one() -> None:
    crowd = shop(burst=0.5, burst_days=0.3, time_of_day=0.3).population
    bought = crowd.types == PURCHASE
    days = np.floor(0.3 - crowd.days_ago[bought])
    pairs = np.stack((crowd.owner[bought], days), axis=1)
    assert len(np.unique(pairs, axis=0)) == len(pairs)


def test_amounts_have_their_scale_and_spread() -> None:
    made = shop(amount_mean=50.0, amount_between=0.6, amount_within=0.3)
    crowd = made.population
    paid = crowd.amounts[crowd.types == PURCHASE]
    assert paid.mean() == pytest.approx(50, rel=0.15)
    own = crowd.spend[made.labelled] / crowd.spend_days[made.labelled]
    assert np.corrcoef(np.log(own), np.log(made.amount))[0, 1] > 0.9
    assert np.isnan(shop(amounts=False).population.amounts).all()
    assert np.isnan(shop(amounts=False).amount).all()


def test_refunds_follow_purchases() -> None:
    crowd = shop(refunds=0.2).population
    refunds = np.mean(crowd.types == EVENT_TYPES.index("refund"))
    assert refunds == pytest.approx(0.2 / 1.2, abs=0.03)


def test_a_funnel_leads_to_purchases() -> None:
    made = shop(customers=500, funnel=True, direct=0.0, browse_days=2.0, cart_days=2.0, futures=8)
    crowd = made.population
    kinds = np.bincount(crowd.types, minlength=len(EVENT_TYPES))
    assert all(kinds[code] > 0 for code in (synth.VIEW, synth.FAVORITE, synth.CART, synth.REMOVE))
    assert kinds[synth.VIEW] > kinds[synth.CART] > kinds[PURCHASE]
    intent = np.isin(
        np.arange(len(crowd)), crowd.owner[(crowd.types == synth.CART) & (crowd.days_ago < 2)]
    )
    soon = made.first[:, :2].sum(axis=1)  # within three days
    assert soon[intent].mean() > 2 * soon[~intent].mean()


def test_intent_fades() -> None:
    made = shop(customers=500, funnel=True, direct=0.0, browse_days=2.0, cart_days=2.0, futures=8)
    crowd = made.population
    last = np.full(len(crowd), np.inf)
    carts = crowd.types == synth.CART
    last[crowd.owner[carts]] = crowd.days_ago[carts]
    soon = made.first[:, :2].sum(axis=1)
    assert soon[last < 1].mean() > soon[(last > 3) & (last < 10)].mean() + 0.1


def test_a_thread_has_one_item() -> None:
    crowd = shop(funnel=True, items=500).population
    same = crowd.owner[1:] == crowd.owner[:-1]
    assert np.mean((crowd.items[1:] == crowd.items[:-1])[same]) > 0.3
    assert (shop(items=0).population.items == -1).all()


def test_long_histories_are_cut_after_counting() -> None:
    crowd = shop(customers=200, most_events=5, rate=1 / 5).population
    assert np.diff(crowd.starts).max() == 5
    assert crowd.truncated.any()
    assert (crowd.purchase_days[crowd.truncated] > 5).all()


def test_labels_are_means_of_futures() -> None:
    one, many = (shop(futures=futures, customers=300) for futures in (1, 16))
    assert set(np.unique(one.first)) <= {0.0, 1.0}
    assert len(np.unique(many.first)) > 10
    assert share_future(one, 30) == pytest.approx(share_future(many, 30), abs=0.06)


@pytest.mark.parametrize("size", [50, 20_000])
def test_shops_are_small_and_large(size: int) -> None:
    settings = ShopSettings(customers=size, rate=1 / 200, history=200)
    made = simulate(generator(), settings, labelled=16, futures=2)
    assert len(made.population) == size
    assert len(made.first) == 16
