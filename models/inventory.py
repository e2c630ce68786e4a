"""Stock arithmetic on sample paths of demand: when the shelf is empty, and what to order.

Arrays have the shape (periods, paths). Within a period the order of events is: receipts, demand,
review, order. Period 0 is now, just before the order that is asked for; what is ordered with lead
time L can serve demand from period L + 1 on, and the next order, R periods later, from L + R + 1
on. Periods L + 1 to L + R are the cycle that today's order has to cover; L + R is the protection
interval. Terms are those of Silver, Pyke and Thomas (2017), Inventory and Production Management
in Supply Chains, 4th edition, and of Snyder and Shen (2019), Fundamentals of Supply Chain Theory,
2nd edition.

Invariant: a quantity is the smallest that reaches the service asked for on the paths, whole where
demand is counted, and the same paths give the same answer.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from models.base import FloatArray

Whole = NDArray[np.int64]
ServiceType = Literal["cycle", "fill_rate"]
Unmet = Literal["lost", "backorder"]

BISECTIONS = 40
CURVE_POINTS = 21
TAIL = 0.999  # of a gamma lead time, beyond which it is cut


@dataclass(frozen=True, slots=True)
class LeadTime:
    """Periods from an order to its receipt: fixed, gamma by mean and std, or as often as sampled.

    Periods are whole: a time between two is rounded to the nearer.
    """

    mean: float
    std: float = 0.0
    samples: tuple[float, ...] = ()

    def draw(self, rng: np.random.Generator, paths: int) -> Whole:
        """(paths,) lead times."""
        if self.samples:
            drawn = rng.choice(np.asarray(self.samples), size=paths)
        elif self.std > 0:
            shape = (self.mean / self.std) ** 2
            drawn = rng.gamma(shape, self.std**2 / self.mean, size=paths)
        else:
            drawn = np.full(paths, self.mean)
        return np.minimum(np.floor(drawn + 0.5), self.longest).astype(np.int64)

    @property
    def longest(self) -> int:
        """The longest that is reckoned with; a gamma tail is cut at its TAIL quantile."""
        if self.samples:
            return math.floor(max(self.samples) + 0.5)
        if self.std == 0:
            return math.floor(self.mean + 0.5)
        # Wilson and Hilferty (1931): the cube root of a gamma variable is nearly normal
        spread = (self.std / self.mean) / 3
        root = 1 - spread**2 + 3.0902 * spread
        return max(1, math.ceil(self.mean * max(root, 0.0) ** 3))


@dataclass(frozen=True, slots=True)
class Lot:
    """Units that are on hand (arrives 0) or on order, usable in periods arrives + 1 to `last`."""

    quantity: float
    arrives: int = 0
    last: int | None = None  # None: it does not expire


@dataclass(frozen=True, slots=True)
class Position:
    """What there is: lots on hand and on order, and units owed to customers."""

    lots: tuple[Lot, ...] = ()
    backlog: float = 0.0

    @property
    def on_hand(self) -> float:
        """Units on the shelf, less those owed (the net stock)."""
        return sum(lot.quantity for lot in self.lots if lot.arrives == 0) - self.backlog

    @property
    def total(self) -> float:
        """The inventory position: on hand, plus on order, less owed."""
        return sum(lot.quantity for lot in self.lots) - self.backlog


@dataclass(frozen=True, slots=True)
class Costs:
    """holding: a unit and period; stockout: a unit short; order: an order; unit: what expires.

    Without stockout (None) there is no cost curve; the order cost still makes orders larger.
    """

    holding: float
    stockout: float | None
    order: float = 0.0
    unit: float = 0.0


@dataclass(frozen=True, slots=True)
class Rules:
    """What orders have to keep to. whole: demand and orders are counted in units."""

    lead_time: LeadTime
    review_period: int = 1
    unmet: Unmet = "lost"
    shelf_life: int | None = None
    min_order_quantity: float = 0.0
    order_multiple: float = 0.0  # 0: any quantity
    whole: bool = True

    @property
    def protection_interval(self) -> float:
        """L + R, L the mean lead time."""
        return self.lead_time.mean + self.review_period

    @property
    def longest_protection(self) -> int:
        return self.lead_time.longest + self.review_period


@dataclass(frozen=True, slots=True)
class Service:
    """cycle: probability of no stock-out in a cycle; fill_rate: share of demand served at once."""

    level: float = 0.95
    type: ServiceType = "cycle"


@dataclass(frozen=True, slots=True, eq=False)
class Balance:
    """The stock at the end of each period: shape (periods, paths) each.

    unmet: demand of the period that was not served at once; expired: units thrown away after it.
    """

    on_hand: FloatArray
    backlog: FloatArray
    unmet: FloatArray
    expired: FloatArray


@dataclass(frozen=True, slots=True, eq=False)
class Need:
    """What the cycle of an order lacks without it, path by path: shape (paths,).

    units: the least order with which nothing is short; owed: what of it is owed before the order
    comes, so that it is late whatever is ordered; demand: of the cycle.
    """

    units: FloatArray
    owed: FloatArray
    demand: FloatArray


@dataclass(frozen=True, slots=True)
class CostCurve:
    """Expected cost of an order over its cycle, by its quantity; and the cheapest of all."""

    order_quantity: tuple[float, ...]
    expected_cost: tuple[float, ...]
    best_quantity: float
    best_cost: float
    best_service: float  # probability of no stock-out in the cycle with the cheapest
    chosen_cost: float  # with the order that the service level asks for


@dataclass(frozen=True, slots=True, eq=False)
class Plan:
    """What to order, and why. demand: (paths,), summed over the protection interval."""

    reorder_point: float
    order_up_to: float
    safety_stock: float
    order_quantity: float
    expected_service: float
    demand: FloatArray
    balance: Balance
    costs: CostCurve | None


def plan(
    demand: FloatArray,
    position: Position,
    rules: Rules,
    service: Service,
    *,
    seed: int,
    costs: Costs | None = None,
) -> Plan:
    """What to order now. demand: (periods, paths), at least `rules.longest_protection` periods.

    `reorder_point` is the position below which to order, `order_up_to` the one to order up to:
    both depend on demand, lead time and review alone. `order_quantity` is what the stock really
    needs: the same in most cases; less where sales will be lost before an order can come, since
    nobody waits for them; more where stock expires or arrives after the cycle.
    """
    lead, following = _lead_times(rules, demand.shape[1], seed)
    total = _cumulated(demand[: rules.longest_protection])
    protected = _at(total, following + rules.review_period)
    before = _at(total, np.minimum(lead, following + rules.review_period))
    level = _policy_need(protected, before)
    reorder_point = least(level, service, whole=rules.whole)
    balance = project(demand, position, rules)
    need = need_of(demand, balance, rules, lead, following)
    extra = _lot(demand, rules, costs)
    quantity = orderable(least(need, service, whole=rules.whole), extra, rules)
    return Plan(
        reorder_point=reorder_point,
        order_up_to=reorder_point + extra,
        safety_stock=reorder_point - float(protected.mean()),
        order_quantity=quantity,
        expected_service=reached(need, quantity, service.type),
        demand=protected,
        balance=balance,
        costs=None
        if costs is None or costs.stockout is None
        else curve(demand, balance, rules, costs, lead=lead, following=following, chosen=quantity),
    )


# --- what happens if nothing more is ordered


def project(demand: FloatArray, position: Position, rules: Rules) -> Balance:
    """The stock in each period on each path if nothing more is ordered."""
    if any(lot.last is not None for lot in position.lots):
        return _ageing(demand, position, rules)
    arrivals = np.zeros((len(demand), 1))
    for lot in position.lots:
        if lot.arrives < len(demand):
            arrivals[lot.arrives] += lot.quantity
    net = np.cumsum(arrivals, axis=0) - position.backlog - _cumulated(demand)[1:]
    return follow(net, demand, unmet=rules.unmet)


def follow(net: FloatArray, demand: FloatArray, *, unmet: Unmet) -> Balance:
    """The stock where nothing expires. net: all that was there or came, less all demand so far."""
    nothing = np.broadcast_to(0.0, demand.shape)
    if unmet == "backorder":
        backlog = np.maximum(-net, 0.0)
        return Balance(np.maximum(net, 0.0), backlog, np.minimum(demand, backlog), nothing)
    # the lost sales so far are what keeps the stock from going below zero (Skorokhod's reflection)
    lost = np.zeros((len(demand) + 1, demand.shape[1]))
    for period in range(len(demand)):  # row by row: faster than numpy's accumulate along columns
        np.maximum(lost[period], -net[period], out=lost[period + 1])
    return Balance(
        on_hand=net + lost[1:], backlog=nothing, unmet=lost[1:] - lost[:-1], expired=nothing
    )


def _ageing(demand: FloatArray, position: Position, rules: Rules) -> Balance:
    """The same where lots expire: the one that expires first is sold first (FIFO)."""
    periods, paths = demand.shape
    ages = sorted({_last(lot, periods) for lot in position.lots})
    shelf = np.zeros((len(ages), paths))
    owed = np.full(paths, position.backlog)
    rows = [np.zeros((periods, paths)) for _ in range(4)]
    on_hand, backlog, unmet, expired = rows
    for period in range(periods):
        for lot in position.lots:
            if lot.arrives == period:
                shelf[ages.index(_last(lot, periods))] += lot.quantity
        wanted = demand[period] + owed
        left = serve(shelf, wanted)
        unmet[period] = np.minimum(left, demand[period])
        owed = left if rules.unmet == "backorder" else np.zeros(paths)
        backlog[period] = owed
        if period + 1 in ages:
            over = ages.index(period + 1)
            expired[period] = shelf[: over + 1].sum(axis=0)
            shelf[: over + 1] = 0.0
        on_hand[period] = shelf.sum(axis=0)
    return Balance(on_hand, backlog, unmet, expired)


def _last(lot: Lot, periods: int) -> int:
    return periods + 1 if lot.last is None else min(lot.last, periods + 1)


def serve(shelf: FloatArray, wanted: FloatArray) -> FloatArray:
    """Take what is wanted off the shelf, its first row first; what could not be served.

    shelf: (lots, paths), changed in place; wanted: (paths,).
    """
    stock = np.cumsum(shelf, axis=0)
    left: FloatArray = np.maximum(wanted - stock[-1], 0.0)
    shelf[:] = np.diff(np.maximum(stock - wanted, 0.0), axis=0, prepend=0.0)
    return left


# --- what an order has to cover


def _lead_times(rules: Rules, paths: int, seed: int) -> tuple[Whole, Whole]:
    """Lead times of today's order and of the next one, which never overtakes it."""
    first, second = np.random.default_rng(seed).spawn(3)[2].spawn(2)
    lead = rules.lead_time.draw(first, paths)
    following = rules.lead_time.draw(second, paths)
    return lead, np.maximum(following, lead - rules.review_period)


def need_of(
    demand: FloatArray, balance: Balance, rules: Rules, lead: Whole, following: Whole
) -> Need:
    """What the cycle lacks without an order, from the stock as it is now.

    Lost sales: the units that would be lost in the cycle; the earlier ones are lost anyhow.
    Backorders: the largest backlog in the cycle. An order that expires before the next one comes
    can help as long as it lasts.
    """
    end = following + rules.review_period
    if rules.shelf_life is not None:
        end = np.minimum(end, lead + rules.shelf_life)
    longest = rules.longest_protection
    total = _cumulated(demand[:longest])
    cycle = np.maximum(_at(total, end) - _at(total, lead), 0.0)
    if rules.unmet == "lost":
        lost = _cumulated(balance.unmet[:longest])
        return Need(np.maximum(_at(lost, end) - _at(lost, lead), 0.0), np.zeros(1), cycle)
    period = np.arange(1, longest + 1)[:, None]
    inside = (period > lead) & (period <= end)
    backlog = balance.backlog[:longest]
    owed = _at(np.concatenate((np.zeros_like(backlog[:1]), backlog)), lead)
    largest = np.where(inside, backlog, 0.0).max(axis=0)
    return Need(largest, np.minimum(owed, largest), cycle)


def _policy_need(protected: FloatArray, before: FloatArray) -> Need:
    """What a position has to cover: the demand of the protection interval; `before` the order."""
    return Need(protected, before, protected - before)


def least(need: Need, service: Service, *, whole: bool) -> float:
    """The smallest quantity that reaches the service level on the paths.

    cycle: P(need ≤ q) ≥ level. fill_rate: E[short] ≤ (1 - level)·E[demand], where what is short
    is (need - q)⁺ less what was owed before the cycle, (owed - q)⁺ (Silver, Pyke and Thomas,
    section 6.7, for periodic review; the subtraction counts no unit in two cycles).
    """
    if service.type == "cycle":
        place = max(math.ceil(service.level * len(need.units) - 1e-9) - 1, 0)
        found = float(np.partition(need.units, place)[place])
        return math.ceil(found - 1e-9) if whole else found
    allowed = (1 - service.level) * float(need.demand.mean())
    late, early = _Excess(need.units), _Excess(need.owed)
    if whole:
        return float(_first_whole(lambda q: late.at(q) - early.at(q) <= allowed, late.most))
    low, high = 0.0, late.most
    if late.at(low) - early.at(low) <= allowed:
        return low
    for _ in range(BISECTIONS):
        middle = (low + high) / 2
        low, high = (
            (low, middle) if late.at(middle) - early.at(middle) <= allowed else (middle, high)
        )
    return high


def _first_whole(enough: Callable[[int], bool], most: float) -> int:
    """The smallest whole number that is enough, from 0 on; what is enough stays so."""
    low, high = -1, math.ceil(most)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if enough(middle) else (middle, high)
    return high


class _Excess:
    """E[(X - q)⁺] for any q, from a sorted sample."""

    def __init__(self, values: FloatArray) -> None:
        self._values = np.sort(values)
        self._above = np.append(np.cumsum(self._values[::-1])[::-1], 0.0)
        self.most = float(self._values[-1])

    def at(self, quantity: float) -> float:
        first = int(np.searchsorted(self._values, quantity, side="right"))
        count = len(self._values)
        return float(self._above[first] - (count - first) * quantity) / count


def short(need: Need, quantity: float) -> float:
    """Expected units of the cycle's demand that are not served at once."""
    late = np.maximum(need.units - quantity, 0.0).mean()
    return float(late - np.maximum(need.owed - quantity, 0.0).mean())


def reached(need: Need, quantity: float, kind: ServiceType) -> float:
    """The service that an order of that quantity reaches on the paths."""
    if kind == "cycle":
        return float((need.units <= quantity + 1e-9).mean())
    demand = float(need.demand.mean())
    return 1.0 - short(need, quantity) / demand if demand > 0 else 1.0


def orderable(quantity: float, extra: float, rules: Rules) -> float:
    """An order that may be placed: nothing, or at least the minimum, in multiples."""
    if quantity <= 0:
        return 0.0
    wanted = max(quantity + extra, rules.min_order_quantity)
    multiple = rules.order_multiple or (1.0 if rules.whole else 0.0)
    if multiple > 0:
        wanted = math.ceil(wanted / multiple - 1e-9) * multiple
    return wanted


def _lot(demand: FloatArray, rules: Rules, costs: Costs | None) -> float:
    """How much the economic order quantity √(2KD/h) (Harris, 1913) exceeds a review's demand."""
    if costs is None or costs.order <= 0 or costs.holding <= 0:
        return 0.0
    rate = float(demand.mean())
    extra = math.sqrt(2 * costs.order * rate / costs.holding) - rate * rules.review_period
    if rules.shelf_life is not None:
        extra = min(extra, rate * (rules.shelf_life - rules.review_period))
    return float(max(round(extra) if rules.whole else extra, 0.0))


# --- what it costs


def curve(
    demand: FloatArray,
    balance: Balance,
    rules: Rules,
    costs: Costs,
    *,
    lead: Whole,
    following: Whole,
    chosen: float,
) -> CostCurve:
    """Expected cost of today's order over its cycle.

    C(q) = h·E[stock at the ends of the cycle's periods] + p·E[units short] + c·E[units of the
    order that expire] + K where q > 0: the newsvendor's (Arrow, Harris and Marschak, 1951) on
    paths, over R periods. Without order cost the cheapest q is where
    h·Σ P(nothing short up to t | q) = p·P(short | q); for one period the critical ratio p/(p+h).
    """
    cycle = _Cycle(demand, balance, rules, lead, following)
    most = float(max(cycle.need.units.max(), chosen, 1.0))
    best = _cheapest(cycle, costs, most, whole=rules.whole)
    feasible = [orderable(each, 0.0, rules) for each in (best, max(best - 1, 0.0))]
    multiple = rules.order_multiple
    if multiple > 0:
        feasible.append(max(feasible[0] - multiple, 0.0))
    feasible = [q for q in feasible if q == 0 or q >= rules.min_order_quantity]
    best = min((0.0, *feasible), key=lambda q: (cycle.cost(q, costs), q))
    top = max(most, best)
    grid = np.unique(_gridded(np.linspace(0.0, top, CURVE_POINTS), whole=rules.whole))
    return CostCurve(
        order_quantity=tuple(grid.tolist()),
        expected_cost=tuple(cycle.cost(q, costs) for q in grid.tolist()),
        best_quantity=best,
        best_cost=cycle.cost(best, costs),
        best_service=reached(cycle.need, best, "cycle"),
        chosen_cost=cycle.cost(chosen, costs),
    )


def _gridded(values: FloatArray, *, whole: bool) -> FloatArray:
    return np.round(values) if whole else values


class _Cycle:
    """The cycle of an order, priced for any quantity."""

    def __init__(
        self, demand: FloatArray, balance: Balance, rules: Rules, lead: Whole, following: Whole
    ) -> None:
        self.need = need_of(demand, balance, rules, lead, following)
        first, last = int(lead.min()), int((following + rules.review_period).max())
        period = np.arange(first + 1, last + 1)[:, None]
        end = following + rules.review_period
        self._inside = (period > lead) & (period <= end)
        part = slice(first, last)
        if rules.unmet == "backorder":
            used = np.where(self._inside, balance.backlog[part], 0.0)
        else:
            used = np.cumsum(np.where(self._inside, balance.unmet[part], 0.0), axis=0)
        self._used = used  # of the order, by the end of each period
        self._beside = np.where(self._inside, balance.on_hand[part], 0.0).sum(axis=0).mean()
        life = rules.shelf_life
        self._fresh = self._inside if life is None else self._inside & (period < lead + life)
        self._perishes = life is not None

    def cost(self, quantity: float, costs: Costs) -> float:
        left = np.maximum(quantity - self._used, 0.0)
        stock = self._beside + np.where(self._fresh, left, 0.0).sum(axis=0).mean()
        answer = costs.holding * stock + (costs.stockout or 0.0) * short(self.need, quantity)
        if self._perishes:
            gone = self._inside.any(axis=0) & ~self._fresh[-1]
            answer += costs.unit * float(np.where(gone, left[-1], 0.0).mean())
        return float(answer + (costs.order if quantity > 0 else 0.0))


def _cheapest(cycle: _Cycle, costs: Costs, most: float, *, whole: bool) -> float:
    """The quantity of least cost, the cost of ordering aside: what is left of it is convex."""
    free = Costs(costs.holding, costs.stockout, 0.0, costs.unit)
    low, high = 0.0, math.ceil(most) if whole else most
    for _ in range(BISECTIONS):
        if high - low <= (2 if whole else 1e-6 * most):
            break
        left, right = low + (high - low) / 3, high - (high - low) / 3
        if whole:
            left, right = math.floor(left), math.ceil(right)
        if cycle.cost(left, free) <= cycle.cost(right, free):
            high = right
        else:
            low = left
    ends = range(int(low), int(high) + 1) if whole else (low, (low + high) / 2, high)
    return float(min(ends, key=lambda q: (cycle.cost(q, free), q)))


# --- what it adds up to for people


def cover(demand: FloatArray, on_hand: float) -> float | None:
    """Periods that the stock on hand lasts at the expected demand; None if nothing is expected.

    Beyond the last period the mean of all goes on.
    """
    rate = demand.mean(axis=1)
    total = np.concatenate(([0.0], np.cumsum(rate)))
    if on_hand <= 0:
        return 0.0
    if on_hand <= total[-1]:
        after = int(np.searchsorted(total, on_hand))
        return float(after - 1 + (on_hand - total[after - 1]) / (total[after] - total[after - 1]))
    mean = float(rate.mean())
    return float(len(rate) + (on_hand - total[-1]) / mean) if mean > 0 else None


def first_likely(unmet: FloatArray) -> int | None:
    """The first period by whose end a stock-out is more likely than not, from 1; None if none."""
    happened = (np.cumsum(unmet > 0, axis=0) > 0).mean(axis=1) >= 0.5
    return int(happened.argmax()) + 1 if happened.any() else None


# --- a policy over time


@dataclass(frozen=True, slots=True)
class Policy:
    """Order up to `order_up_to` at a review where the position is below `reorder_point`."""

    reorder_point: float
    order_up_to: float


@dataclass(frozen=True, slots=True, eq=False)
class Trace:
    """A policy on each path. ordered: shape (periods + 1, paths), row t at the end of period t."""

    balance: Balance
    ordered: FloatArray


def simulate(
    demand: FloatArray, position: Position, rules: Rules, policy: Policy, *, seed: int
) -> Trace:
    """Let a policy run: the first review is now, in period 0, then every `review_period`."""
    run = _Run(demand, position, rules, seed)
    for period in range(len(demand) + 1):
        if period:
            run.step(period)
        if period % rules.review_period == 0:
            run.review(period, policy)
    return Trace(run.balance(), run.ordered)


class _Run:
    """The state of a simulation: what is on the shelf by the period it expires after."""

    def __init__(self, demand: FloatArray, position: Position, rules: Rules, seed: int) -> None:
        periods, paths = demand.shape
        self._demand, self._rules = demand, rules
        self._rng = np.random.default_rng(seed)
        self._ages = rules.shelf_life is not None or any(lot.last for lot in position.lots)
        columns = periods + 2 if self._ages else 1
        self._shelf = np.zeros((columns, paths))
        self._coming = np.zeros((periods + 1, paths))  # by the period before which it is received
        self._fixed: dict[int, list[Lot]] = {}
        for lot in position.lots:
            self._fixed.setdefault(lot.arrives, []).append(lot)
        self._last_due = np.zeros(paths, dtype=np.int64)
        self._owed = np.full(paths, position.backlog)
        self._position = np.full(paths, position.total)
        self.ordered = np.zeros((periods + 1, paths))
        self._rows = [np.zeros((periods, paths)) for _ in range(4)]

    def balance(self) -> Balance:
        return Balance(*self._rows)

    def step(self, period: int) -> None:
        """Receipts, then demand, then what expires, of period 1, 2, …"""
        self._receive(period)
        window = self._shelf[period:] if self._ages else self._shelf
        wanted = self._demand[period - 1] + self._owed
        left = serve(window, wanted)
        unmet = np.minimum(left, self._demand[period - 1])
        backorders = self._rules.unmet == "backorder"
        self._owed = left if backorders else np.zeros_like(left)
        expired = np.zeros_like(left)
        if self._ages:
            expired, window[0] = window[0].copy(), 0.0
        served = self._demand[period - 1] - (0.0 if backorders else unmet)
        self._position = self._position - served - expired
        row = period - 1
        for target, value in zip(
            self._rows, (window.sum(axis=0), self._owed, unmet, expired), strict=True
        ):
            target[row] = value

    def review(self, period: int, policy: Policy) -> None:
        """Order on the paths whose position is below the reorder point."""
        rules = self._rules
        wanted = np.where(
            self._position < policy.reorder_point, policy.order_up_to - self._position, 0.0
        )
        quantity = np.where(wanted > 0, np.maximum(wanted, rules.min_order_quantity), 0.0)
        multiple = rules.order_multiple or (1.0 if rules.whole else 0.0)
        if multiple > 0:
            quantity = np.ceil(quantity / multiple - 1e-9) * multiple
        self.ordered[period] = quantity
        self._position = self._position + quantity
        due = period + rules.lead_time.draw(self._rng, quantity.shape[0])
        due = np.where(quantity > 0, np.maximum(due, self._last_due), self._last_due)
        self._last_due = due  # orders do not overtake one another
        inside = np.flatnonzero((quantity > 0) & (due < len(self._coming)))
        np.add.at(self._coming, (due[inside], inside), quantity[inside])

    def _receive(self, period: int) -> None:
        arrived, life = period - 1, self._rules.shelf_life
        never = len(self._shelf) - 1
        for lot in self._fixed.get(arrived, ()):
            last = never if not self._ages or lot.last is None else min(lot.last, never)
            self._shelf[last] += lot.quantity
        last = never if life is None else min(arrived + life, never)
        self._shelf[last] += self._coming[arrived]


def _cumulated(values: FloatArray) -> FloatArray:
    """Sums of the first 0, 1, 2, … periods: (periods + 1, paths)."""
    answer = np.zeros((len(values) + 1, values.shape[1]))
    for period in range(len(values)):  # row by row: faster than numpy's cumsum along columns
        np.add(answer[period], values[period], out=answer[period + 1])
    return answer


def _at(rows: FloatArray, period: Whole) -> FloatArray:
    """The row of each path's own period: (paths,)."""
    return np.asarray(np.take_along_axis(rows, period[None], axis=0)[0])
