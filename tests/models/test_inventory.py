"""Stock arithmetic: closed forms within simulation error, and what planners rely on.

Figures named after stockpyl are what its version 1.0.2 gives (MIT licence). It is no dependency of
the tests, since it pins sphinx 4.5 and brings some thirty packages; each is beside its call.
"""

import math
from dataclasses import replace
from statistics import NormalDist

import numpy as np
import pytest

from models.base import FloatArray
from models.inventory import (
    Costs,
    LeadTime,
    Lot,
    Need,
    Policy,
    Position,
    Rules,
    Service,
    cover,
    first_likely,
    least,
    plan,
    project,
    short,
    simulate,
)

PATHS = 20_000
FILL = Service(0.95, "fill_rate")


def poisson(rate: float, periods: int, *, paths: int = PATHS, seed: int = 0) -> FloatArray:
    drawn = np.random.default_rng(seed).poisson(rate, size=(periods, paths))
    return drawn.astype(np.float64)


def normal(mean: float, std: float, periods: int, *, paths: int = PATHS) -> FloatArray:
    return np.random.default_rng(1).normal(mean, std, size=(periods, paths))


def poisson_level(mean: float, level: float) -> int:
    """The smallest s with P(D ≤ s) ≥ level."""
    mass = total = math.exp(-mean)
    count = 0
    while total < level:
        count += 1
        mass *= mean / count
        total += mass
    return count


# --- closed forms


def test_newsvendor_of_poisson_demand_is_stockpyls() -> None:
    """newsvendor_poisson(1, 4, 20) gives (24, 6.438), with base_stock_level=28 (28, 8.441)."""
    made = plan(
        poisson(20, 1), Position(), Rules(LeadTime(0)), Service(), seed=0, costs=Costs(1, 4)
    )
    assert made.costs is not None
    assert made.costs.best_quantity == 24
    assert made.costs.best_cost == pytest.approx(6.438, rel=0.02)
    assert made.order_quantity == 28  # the smallest with P(D ≤ q) ≥ 0.95
    assert made.costs.chosen_cost == pytest.approx(8.441, rel=0.02)


def test_newsvendor_of_normal_demand_is_stockpyls() -> None:
    """newsvendor_normal(0.18, 0.70, 50, 8) gives (56.604, 1.9976)."""
    rules = Rules(LeadTime(0), whole=False)
    made = plan(normal(50, 8, 1), Position(), rules, Service(), seed=0, costs=Costs(0.18, 0.7))
    assert made.costs is not None
    assert made.costs.best_quantity == pytest.approx(56.604, rel=0.01)
    assert made.costs.best_cost == pytest.approx(1.9976, rel=0.02)
    assert made.costs.best_service == pytest.approx(0.7 / 0.88, abs=0.01)


def test_base_stock_with_lead_time_is_stockpyls() -> None:
    """newsvendor_normal(0.18, 0.70, 50, 8, lead_time=4) gives (264.767, 4.4668)."""
    rules = Rules(LeadTime(4), unmet="backorder", whole=False)
    level = 264.767
    trace = simulate(
        normal(50, 8, 105, paths=2000), Position(), rules, Policy(level, level), seed=0
    )
    stock, backlog = trace.balance.on_hand[10:].mean(), trace.balance.backlog[10:].mean()
    assert 0.18 * stock + 0.7 * backlog == pytest.approx(4.4668, rel=0.02)
    made = plan(normal(50, 8, 5), Position(), rules, Service(0.7 / 0.88), seed=0)
    assert made.reorder_point == pytest.approx(level, rel=0.005)


def test_a_continuous_review_policy_costs_what_stockpyl_says() -> None:
    """r_q_poisson_exact(0.5, 4, 2, 1.2, 2) gives r 2, Q 4 and the cost 2.30726."""
    step = 0.05  # of a period, so that an order goes out nearly at each sale
    demand = poisson(1.2 * step, 4000, paths=150)
    rules = Rules(LeadTime(2 / step), unmet="backorder", order_multiple=4)
    trace = simulate(demand, Position((Lot(4),)), rules, Policy(3, 6), seed=0)
    after = slice(200, None)
    stock, backlog = trace.balance.on_hand[after].mean(), trace.balance.backlog[after].mean()
    orders = (trace.ordered[after] > 0).mean() / step
    assert 0.5 * stock + 4 * backlog + 2 * orders == pytest.approx(2.30726, rel=0.03)


@pytest.mark.parametrize(("lead", "review"), [(0, 1), (3, 1), (2, 4)])
def test_backorders_reach_the_cycle_service_of_the_closed_form(lead: int, review: int) -> None:
    rules = Rules(LeadTime(lead), review_period=review, unmet="backorder")
    made = plan(poisson(6, lead + review), Position((Lot(5),)), rules, Service(0.9), seed=0)
    expected = poisson_level(6.0 * (lead + review), 0.9)
    assert abs(made.reorder_point - expected) <= 1
    assert made.order_up_to == made.reorder_point
    assert made.order_quantity == made.reorder_point - 5
    assert made.safety_stock == pytest.approx(made.reorder_point - 6 * (lead + review), abs=0.2)


def test_fill_rate_of_normal_demand_is_that_of_the_loss_function() -> None:
    # short a cycle: σ√(L+R)·G(k) less what was short before it, σ√L·G(k')
    rules = Rules(LeadTime(2), review_period=3, unmet="backorder", whole=False)
    made = plan(normal(100, 30, 5), Position(), rules, FILL, seed=0)

    def loss(level: float, periods: int) -> float:
        spread, unit = 30 * math.sqrt(periods), NormalDist()
        k = (level - 100 * periods) / spread
        return spread * (unit.pdf(k) - k * (1 - unit.cdf(k)))

    found = made.reorder_point
    assert (loss(found, 5) - loss(found, 2)) / 300 == pytest.approx(0.05, abs=0.004)


@pytest.mark.parametrize("service", [Service(0.9), Service(0.95), Service(0.95, "fill_rate")])
@pytest.mark.parametrize("unmet", ["lost", "backorder"])
def test_following_the_plan_reaches_the_service_asked_for(service: Service, unmet: str) -> None:
    """Each path is a shop that orders by the plan of its own stock, period after period."""
    rules = Rules(LeadTime(2), unmet="lost" if unmet == "lost" else "backorder", whole=False)
    shops, periods = 16, 50
    truth = np.random.default_rng(5).gamma(4, 5, size=(periods, shops))
    ahead = np.random.default_rng(6).gamma(4, 5, size=(3, 1000))
    served = demanded = cycles = 0.0
    for shop in range(shops):
        stock, owed, coming = 60.0, 0.0, [20.0, 20.0, 20.0]
        for period in range(periods):
            stock += coming.pop(0)
            wanted = truth[period, shop] + owed
            sold = min(stock, wanted)
            if period >= 10:
                missed = min(wanted - sold, truth[period, shop])
                served, demanded = served - missed, demanded + truth[period, shop]
                cycles += missed <= 0
            stock, owed = stock - sold, (wanted - sold) if unmet == "backorder" else 0.0
            lots = (Lot(stock), *(Lot(units, n) for n, units in enumerate(coming)))
            coming.append(
                plan(ahead, Position(lots, owed), rules, service, seed=period).order_quantity
            )
    reached = cycles / (shops * 40) if service.type == "cycle" else 1 + served / demanded
    assert reached == pytest.approx(service.level, abs=0.025)


# --- parts


def test_stock_falls_and_arrivals_come_before_demand() -> None:
    demand = np.full((4, 1), 4.0)
    balance = project(demand, Position((Lot(10), Lot(6, 2))), Rules(LeadTime(1)))
    assert balance.on_hand[:, 0].tolist() == [6, 2, 4, 0]
    assert balance.unmet.sum() == 0


def test_what_is_short_is_lost_or_owed() -> None:
    demand, stock = np.full((3, 1), 4.0), Position((Lot(6), Lot(6, 2)))
    lost = project(demand, stock, Rules(LeadTime(1)))
    assert lost.on_hand[:, 0].tolist() == [2, 0, 2]
    assert lost.unmet[:, 0].tolist() == [0, 2, 0]
    owed = project(demand, stock, Rules(LeadTime(1), unmet="backorder"))
    assert owed.on_hand[:, 0].tolist() == [2, 0, 0]
    assert owed.backlog[:, 0].tolist() == [0, 2, 0]


def test_stock_expires_and_the_oldest_is_sold_first() -> None:
    demand = np.full((3, 1), 4.0)
    balance = project(demand, Position((Lot(9, 0, 2), Lot(5, 0, 3))), Rules(LeadTime(1)))
    assert balance.on_hand[:, 0].tolist() == [10, 5, 0]
    assert balance.expired[:, 0].tolist() == [0, 1, 1]


@pytest.mark.parametrize("unmet", ["lost", "backorder"])
def test_stock_that_never_expires_is_the_same_with_ages_and_without(unmet: str) -> None:
    rules = Rules(LeadTime(1), unmet="lost" if unmet == "lost" else "backorder")
    demand = poisson(3, 12, paths=200)
    plain = project(demand, Position((Lot(12), Lot(9, 4)), 1.0), rules)
    aged = project(demand, Position((Lot(12, 0, 99), Lot(9, 4)), 1.0), rules)
    traced = simulate(
        demand, Position((Lot(12), Lot(9, 4)), 1.0), rules, Policy(-1e9, 0), seed=0
    ).balance
    for other in (aged, traced):
        assert np.allclose(plain.on_hand, other.on_hand)
        assert np.allclose(plain.unmet, other.unmet)
        assert np.allclose(plain.backlog, other.backlog)


def test_lost_sales_need_no_order_for_customers_who_will_have_left() -> None:
    demand = poisson(10, 5)
    lost = plan(demand, Position(), Rules(LeadTime(4)), Service(), seed=0)
    owed = plan(demand, Position(), Rules(LeadTime(4), unmet="backorder"), Service(), seed=0)
    assert lost.order_quantity == pytest.approx(poisson_level(10, 0.95), abs=1)
    assert owed.order_quantity == pytest.approx(poisson_level(50, 0.95), abs=1)
    assert lost.reorder_point == owed.reorder_point


def test_more_is_ordered_where_stock_expires_before_it_is_sold() -> None:
    demand, rules = poisson(10, 4), Rules(LeadTime(2))
    fresh = plan(demand, Position((Lot(35),)), rules, Service(), seed=0)
    stale = plan(
        demand, Position((Lot(35, 0, 2),)), replace(rules, shelf_life=5), Service(), seed=0
    )
    assert fresh.order_quantity < stale.order_quantity
    assert stale.order_quantity == pytest.approx(poisson_level(10, 0.95), abs=1)


def test_orders_keep_to_minimum_and_multiple() -> None:
    demand = poisson(10, 2)
    base = plan(demand, Position((Lot(20),)), Rules(LeadTime(1)), Service(), seed=0)
    rules = Rules(LeadTime(1), min_order_quantity=20, order_multiple=12)
    packed = plan(demand, Position((Lot(20),)), rules, Service(), seed=0)
    assert 0 < base.order_quantity < 20
    assert packed.order_quantity == 24
    assert plan(demand, Position((Lot(90),)), rules, Service(), seed=0).order_quantity == 0


def test_an_order_cost_makes_orders_larger_and_rarer() -> None:
    demand = poisson(10, 8)
    made = plan(
        demand, Position(), Rules(LeadTime(1)), Service(), seed=0, costs=Costs(0.5, 5, order=90)
    )
    assert made.order_up_to - made.reorder_point == 50  # √(2·90·10/0.5) = 60, less a review's 10


def test_an_uncertain_lead_time_needs_more_stock() -> None:
    demand = poisson(10, 40)
    rules = Rules(LeadTime(4), unmet="backorder")
    fixed = plan(demand, Position(), rules, Service(), seed=0)
    spread = plan(demand, Position(), replace(rules, lead_time=LeadTime(4, 2)), Service(), seed=0)
    sampled = LeadTime(4, samples=(2, 4, 4, 6))
    some = plan(demand, Position(), replace(rules, lead_time=sampled), Service(), seed=0)
    assert fixed.reorder_point < some.reorder_point < spread.reorder_point
    # Var D = E[L + R]·λ + λ²·Var L
    assert spread.demand.std() == pytest.approx(math.sqrt(50 + 100 * (4 + 1 / 12)), rel=0.05)


def test_lead_times_are_drawn_as_they_are_described() -> None:
    rng = np.random.default_rng(0)
    drawn = LeadTime(5, 2).draw(rng, 50_000)
    assert drawn.mean() == pytest.approx(5, abs=0.05)
    assert drawn.std() == pytest.approx(math.sqrt(4 + 1 / 12), abs=0.05)
    assert (drawn < LeadTime(5, 2).longest).mean() > 0.997
    assert set(LeadTime(0, samples=(1, 3)).draw(rng, 100)) == {1, 3}


def test_least_is_the_smallest_of_all() -> None:
    units = poisson(2, 1)[0]
    need = Need(units, np.zeros(1), units)
    for service in (Service(0.8), Service(0.98)):
        found = least(need, service, whole=True)
        assert (units <= found).mean() >= service.level > (units <= found - 1).mean()
    found = least(need, FILL, whole=True)
    allowed = 0.05 * units.mean()
    assert short(need, found) <= allowed < short(need, found - 1)


def test_cover_and_the_first_likely_stock_out() -> None:
    demand = np.full((4, 3), 4.0)
    assert cover(demand, 10) == 2.5
    assert cover(demand, 24) == 6
    assert cover(demand, 0) == 0
    assert cover(np.zeros((4, 3)), 5) is None
    balance = project(demand, Position((Lot(10),)), Rules(LeadTime(1)))
    assert first_likely(balance.unmet) == 3
    assert first_likely(np.zeros((4, 3))) is None


def test_an_ageing_policy_throws_away_what_is_too_old() -> None:
    demand = np.full((20, 2), 3.0)
    rules = Rules(LeadTime(1), shelf_life=2)
    trace = simulate(demand, Position(), rules, Policy(20, 20), seed=0)
    assert trace.balance.expired.sum() > 0
    balance = trace.balance
    sold = (demand - balance.unmet).sum()
    received = trace.ordered[:-2].sum()  # the last two are still on their way
    assert balance.expired.sum() + sold + balance.on_hand[-1].sum() == received
