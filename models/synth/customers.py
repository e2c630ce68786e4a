"""Simulated shops whose customers' true futures are known, for pretraining the events network.

A customer is a renewal process in the shop's operational time (season, promotions, level shifts)
that ends, may come back, may come in bursts; in half of the shops it starts episodes of intent that
lead through views, favourites and carts to a purchase, or fade. What is to come is drawn several
times from the state at the moment of asking, so that a label is a mean, not one accident.

Invariant: the same generator state and arguments give the same shop, and the history tells nothing
of the future but through that state.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import gamma
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from models.base import EVENT_TYPES, PURCHASE
from models.customers import Population

if TYPE_CHECKING:
    from numpy.random import Generator

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Flags = NDArray[np.bool_]

VIEW, FAVORITE, CART, REMOVE = (
    EVENT_TYPES.index(name) for name in ("view", "favorite", "add_to_cart", "remove_from_cart")
)
REFUND = EVENT_TYPES.index("refund")
BIN_EDGES = (1, 3, 7, 10, 14, 21, 30, 45, 60, 90, 120, 150, 180, 225, 270, 365)  # days ahead
FARTHEST = float(BIN_EDGES[-1])
MOST_RENEWALS = 1500  # of one customer, in a history or in a future
RATE_LIMIT = 0.5  # renewals a day
PERIODS = (7.0, 14.0, 28.0, 30.4, 60.8, 91.3)  # of subscriptions, days


@dataclass(frozen=True, slots=True)
class ShopSettings:
    """What a shop is like; `draw_settings` draws one. Days, shares, and per day where a rate.

    history: days recorded. before: days of acquisition ahead of the recording (left-censored).
    acquisition: uniform, growing, shrinking, cohort or early. rate_spread: gamma shape
    (heterogeneity "gamma") or log deviation ("lognormal"). dropout: none, pareto, bg or weibull;
    lifetime is its mean (bg: mean chance after a purchase); correlation: power of the rate in it.
    once: share that leaves after the first purchase. gap: erlang or weibull of gap_shape. burst:
    mean follow-up purchases, within burst_days. returning: share that comes back after away days.
    future_shift: log deviation of the level after as_of. subscribers, refunds: shares.
    """

    customers: int = 500
    history: float = 365.0
    before: float = 0.0
    acquisition: str = "uniform"
    cohort_days: float = 90.0
    rate: float = 1 / 60
    heterogeneity: str = "gamma"
    rate_spread: float = 1.0
    dropout: str = "pareto"
    dropout_shape: float = 1.0
    lifetime: float = 300.0
    correlation: float = 0.0
    once: float = 0.0
    gap: str = "erlang"
    gap_shape: float = 1.0
    burst: float = 0.0
    burst_days: float = 4.0
    returning: float = 0.0
    away: float = 200.0
    subscribers: float = 0.0
    season: float = 0.0
    week: float = 0.0
    promotions: float = 0.0
    wander: float = 0.0
    shift: float = 0.0
    trend: float = 0.0
    future_shift: float = 0.0
    year_phase: float = 0.0
    weekday: int = 0
    time_of_day: float = 0.0
    dates_only: bool = False
    tells_start: bool = True
    funnel: bool = False
    direct: float = 0.3
    to_cart: float = 0.4
    to_purchase: float = 0.5
    browse_days: float = 3.0
    cart_days: float = 1.5
    views: float = 1.0
    background: float = 0.01
    amounts: bool = True
    amount_missing: float = 0.0
    amount_mean: float = 40.0
    amount_between: float = 0.5
    amount_within: float = 0.4
    amount_power: float = 0.0
    quantities: bool = False
    items: int = 200
    refunds: float = 0.0
    most_events: int = 4096


@dataclass(frozen=True, slots=True, eq=False)
class SimulatedShop:
    """A shop at the moment of asking, and what comes.

    labelled: (rows,) the customers with a known future. first: (rows, bins + 1) share of futures
    whose first purchase lies in a bin, the last: in none. purchases: (rows, bins) mean purchase
    days. amount: (rows,) true mean amount of a purchase, NaN where the shop has no amounts.
    alive: (rows,) whether the customer may buy without coming back first.
    """

    settings: ShopSettings
    population: Population
    labelled: Ints
    first: Floats
    purchases: Floats
    amount: Floats
    alive: Flags


def simulate(
    rng: Generator, settings: ShopSettings, *, labelled: int | None = None, futures: int = 8
) -> SimulatedShop:
    """A shop of these settings; labelled: how many customers get a future (None: all)."""
    clock = _Clock.draw(rng, settings)
    traits = _Traits.draw(rng, settings)
    history = _Renewals.begin(rng, settings, clock, traits)
    rows, times = history.run(rng, until=0.0)
    events, pending = _history_events(rng, settings, history, rows, times)
    population, seen = _recorded(rng, settings, events, traits)
    chosen = np.arange(len(seen))
    if labelled is not None and labelled < len(seen):
        chosen = np.sort(rng.choice(len(seen), size=labelled, replace=False))
    people = seen[chosen]
    first, purchases = _labels(rng, settings, history, pending, people, futures=futures)
    amount = traits.amount[people] if settings.amounts else np.full(len(people), np.nan)
    alive = history.status[people] == _ALIVE
    return SimulatedShop(settings, population, chosen, first, purchases, amount, alive)


def draw_shop(rng: Generator, *, labelled: int = 64, futures: int = 8) -> SimulatedShop:
    """A shop of settings drawn at random, with at least one customer seen."""
    while True:
        shop = simulate(rng, draw_settings(rng), labelled=labelled, futures=futures)
        if len(shop.labelled):
            return shop


# --- what shops are like ---------------------------------------------------------------------


def draw_settings(rng: Generator) -> ShopSettings:
    """Settings as varied as shops are: the prior of the pretraining."""
    heterogeneity = "gamma" if _chance(rng, 0.65) else "lognormal"
    spread = (0.2, 4.0) if heterogeneity == "gamma" else (0.3, 1.6)
    history = _log(rng, 45, 1200)
    funnel = _chance(rng, 0.5)
    shop = ShopSettings(
        customers=round(_log(rng, 50, 1500) if _chance(rng, 0.99) else _log(rng, 1500, 20000)),
        history=history,
        before=_log(rng, 30, 700) if _chance(rng, 0.35) else 0.0,
        acquisition=_pick(rng, ("uniform", "growing", "shrinking", "cohort", "early"), _KINDS),
        cohort_days=history * rng.uniform(0.05, 0.5),
        rate=1 / _log(rng, 5, 400),
        heterogeneity=heterogeneity,
        rate_spread=_log(rng, *spread),
        **_dropout(rng),  # type: ignore[arg-type]  # names and kinds are those of the fields
        correlation=rng.uniform(-0.6, 0.6) if _chance(rng, 0.5) else 0.0,
        once=rng.uniform(0, 0.5) if _chance(rng, 0.3) else 0.0,
        **_gap(rng),  # type: ignore[arg-type]
        burst=rng.uniform(0.05, 0.5) if _chance(rng, 0.25) else 0.0,
        burst_days=_log(rng, 1, 20),
        returning=rng.uniform(0.05, 0.6) if _chance(rng, 0.35) else 0.0,
        away=_log(rng, 60, 500),
        subscribers=rng.uniform(0.05, 0.7) if _chance(rng, 0.12) else 0.0,
        **_calendar(rng),  # type: ignore[arg-type]
        **_money(rng),  # type: ignore[arg-type]
        items=0 if _chance(rng, 0.35) else round(_log(rng, 5, 5000)),
        refunds=rng.uniform(0.01, 0.2) if _chance(rng, 0.2) else 0.0,
        most_events=round(_log(rng, 8, 200)) if _chance(rng, 0.05) else 4096,
        tells_start=_chance(rng, 0.5),
    )
    return replace(shop, funnel=True, **_intent(rng)) if funnel else shop  # type: ignore[arg-type]


_KINDS = (0.35, 0.15, 0.1, 0.2, 0.2)


def _dropout(rng: Generator) -> dict[str, object]:
    kind = _pick(rng, ("none", "pareto", "bg", "weibull"), (0.15, 0.35, 0.25, 0.25))
    lifetime = _log(rng, 0.02, 0.5) if kind == "bg" else _log(rng, 30, 3000)
    shape = _log(rng, 0.5, 1.8) if kind == "weibull" else _log(rng, 0.3, 4.0)
    return {"dropout": kind, "dropout_shape": shape, "lifetime": lifetime}


def _gap(rng: Generator) -> dict[str, object]:
    if _chance(rng, 0.2):
        return {"gap": "weibull", "gap_shape": rng.uniform(0.5, 0.95)}
    shape = float(rng.integers(2, 7)) if _chance(rng, 0.35) else 1.0
    return {"gap": "erlang", "gap_shape": shape}


def _calendar(rng: Generator) -> dict[str, object]:
    dates_only = _chance(rng, 0.4)
    return {
        "season": rng.uniform(0.05, 0.6) if _chance(rng, 0.5) else 0.0,
        "week": rng.uniform(0.1, 0.7) if _chance(rng, 0.5) else 0.0,
        "promotions": rng.uniform(1, 12) if _chance(rng, 0.4) else 0.0,
        "wander": rng.uniform(0.0, 0.4) if _chance(rng, 0.4) else 0.0,
        "shift": rng.uniform(0.1, 0.6) if _chance(rng, 0.25) else 0.0,
        "trend": rng.normal() * 0.3 if _chance(rng, 0.3) else 0.0,
        "future_shift": rng.uniform(0.0, 0.3),
        "year_phase": rng.random(),
        "weekday": int(rng.integers(0, 7)),
        "dates_only": dates_only,
        "time_of_day": rng.random() if not dates_only and _chance(rng, 0.4) else 0.0,
    }


def _money(rng: Generator) -> dict[str, object]:
    return {
        "amounts": _chance(rng, 0.8),
        "amount_missing": rng.uniform(0, 0.6) if _chance(rng, 0.12) else 0.0,
        "amount_mean": _log(rng, 1, 3000),
        "amount_between": _log(rng, 0.1, 1.2),
        "amount_within": _log(rng, 0.1, 1.2),
        "amount_power": rng.uniform(-0.3, 0.3) if _chance(rng, 0.4) else 0.0,
        "quantities": _chance(rng, 0.5),
    }


def _intent(rng: Generator) -> dict[str, object]:
    return {
        "direct": rng.uniform(0, 0.7),
        "to_cart": rng.uniform(0.1, 0.7),
        "to_purchase": rng.uniform(0.2, 0.9),
        "browse_days": _log(rng, 0.1, 15),
        "cart_days": _log(rng, 0.1, 10),
        "views": _log(rng, 0.3, 4),
        "background": _log(rng, 0.001, 0.05),
    }


def _log(rng: Generator, low: float, high: float) -> float:
    return float(np.exp(rng.uniform(np.log(low), np.log(high))))


def _chance(rng: Generator, share: float) -> bool:
    return bool(rng.random() < share)


def _pick(rng: Generator, names: tuple[str, ...], shares: tuple[float, ...]) -> str:
    return names[int(rng.choice(len(names), p=shares))]


# --- time ------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, eq=False)
class _Clock:
    """Calendar days ↔ operational time, in which a customer's rate is constant.

    days: (grid,) whole days, 0 is as_of. passed: (grid,) operational time, 0 at as_of.
    """

    days: Floats
    passed: Floats

    @classmethod
    def draw(cls, rng: Generator, settings: ShopSettings) -> _Clock:
        start = -np.ceil(settings.history + settings.before) - 1
        days = np.arange(start, FARTHEST + 2)
        level = activity(rng, settings, days[:-1])
        passed = np.concatenate(([0.0], np.cumsum(level)))
        return cls(days, passed - np.interp(0.0, days, passed))

    def operational(self, times: Floats) -> Floats:
        return np.interp(times, self.days, self.passed)

    def calendar(self, passed: Floats) -> Floats:
        """Infinite beyond the end."""
        times = np.interp(passed, self.passed, self.days)
        return np.where(passed >= self.passed[-1], np.inf, times)


def activity(rng: Generator, settings: ShopSettings, days: Floats) -> Floats:
    """(days,) how busy a shop is, about 1: year, week, promotions, wandering, shift and trend."""
    log_level = settings.trend * days / 365
    log_level = log_level + settings.season * _year(rng, settings.year_phase + days / 365.25)
    past = days < 0
    if settings.wander:
        steps = rng.normal(size=len(days)) * settings.wander / np.sqrt(365)
        walk = np.cumsum(np.where(past, steps, 0.0))
        log_level = log_level + walk - walk[-1]  # all of it is history: as_of is the reference
    if settings.shift:
        at = rng.uniform(days[0], 0)
        log_level = log_level - np.where(days < at, settings.shift * rng.normal(), 0.0)
    level = np.exp(np.clip(log_level, -4, 4))
    if settings.week:
        level *= _week(rng, settings)[(days.astype(np.int64) + settings.weekday) % 7]
    return level * _promotions(rng, settings.promotions, days)


def _year(rng: Generator, phase: Floats) -> Floats:
    """Harmonics of the year, or its end alone."""
    if _chance(rng, 0.3):
        away = np.abs((phase % 1) - 0.94)
        return np.asarray(3 * np.exp(-((np.minimum(away, 1 - away) / 0.05) ** 2)))
    parts = [rng.normal() / k * np.sin(2 * np.pi * (k * phase + rng.random())) for k in (1, 2, 3)]
    return np.asarray(np.sum(parts, axis=0))


def _week(rng: Generator, settings: ShopSettings) -> Floats:
    shape = np.exp(settings.week * rng.normal(size=7))
    if _chance(rng, 0.2):
        shape[6] = 0.02  # closed on Sundays
    return np.asarray(shape / shape.mean())


def _promotions(rng: Generator, rate: float, days: Floats) -> Floats:
    level = np.ones(len(days))
    for _ in range(rng.poisson(rate * len(days) / 365)):
        start, length = rng.integers(0, len(days)), rng.integers(2, 12)
        level[start : start + length] *= rng.uniform(1.2, 2.5)
        level[start + length : start + 2 * length] *= rng.uniform(0.7, 1.0)
    return level


# --- customers -------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, eq=False)
class _Traits:
    """What customers are like, (customers,) each: acquired (days, ≤ 0), rate a day, hazard of
    leaving (a day, or bg: chance after a purchase), mean amount, period (0: no subscription).
    """

    acquired: Floats
    rate: Floats
    leaving: Floats
    amount: Floats
    period: Floats

    @classmethod
    def draw(cls, rng: Generator, settings: ShopSettings) -> _Traits:
        count = settings.customers
        relative = relative_rates(rng, settings)
        power = relative**settings.correlation
        amount = settings.amount_mean * relative**settings.amount_power
        spread = settings.amount_between
        if _chance(rng, 0.5):
            amount = amount * np.exp(spread * rng.normal(size=count) - spread**2 / 2)
        else:  # gamma-gamma: the mean is 1 / gamma
            shape = 2 + 1 / spread**2
            amount = amount * (shape - 1) / rng.gamma(shape, size=count)
        return cls(
            acquired=acquisitions(rng, settings),
            rate=np.minimum(settings.rate * relative, RATE_LIMIT),
            leaving=_leaving(rng, settings, power),
            amount=amount,
            period=_periods(rng, settings),
        )


def relative_rates(rng: Generator, settings: ShopSettings) -> Floats:
    """(customers,) rates relative to the shop's, of mean 1."""
    spread, count = settings.rate_spread, settings.customers
    if settings.heterogeneity == "gamma":
        return np.maximum(rng.gamma(spread, size=count) / spread, 1e-3)
    return np.exp(spread * rng.normal(size=count) - spread**2 / 2)


def acquisitions(rng: Generator, settings: ShopSettings) -> Floats:
    """(customers,) days, negative, at which customers come."""
    span = settings.history + settings.before
    share = rng.random(settings.customers)
    if settings.acquisition == "growing":
        share = np.log1p(share * np.expm1(2.0)) / 2.0
    elif settings.acquisition == "shrinking":
        share = 1 - np.log1p(share * np.expm1(2.0)) / 2.0
    elif settings.acquisition == "cohort":
        width = min(settings.cohort_days / span, 1.0)
        start = (1 - width) * (0.0 if _chance(rng, 0.6) else rng.random())
        share = start + width * share
    elif settings.acquisition == "early":
        share = np.where(rng.random(settings.customers) < 0.8, 0.15 * share, share)
    return np.minimum(-span * (1 - share), -1e-6)


def _leaving(rng: Generator, settings: ShopSettings, power: Floats) -> Floats:
    shape, count = settings.dropout_shape, settings.customers
    if settings.dropout == "bg":
        mean = settings.lifetime
        return rng.beta(shape, shape * (1 - mean) / mean, size=count)
    if settings.dropout == "pareto":  # exponential lifetimes of gamma rates
        return rng.gamma(shape, size=count) / shape / settings.lifetime * power + 1e-9
    return np.full(count, 1 / settings.lifetime) * power


def _periods(rng: Generator, settings: ShopSettings) -> Floats:
    period = np.array(PERIODS)[rng.integers(0, len(PERIODS), settings.customers)]
    subscribes = rng.random(settings.customers) < settings.subscribers
    return np.where(subscribes, period, 0.0)


_ALIVE, _AWAY, _GONE = 0, 1, 2


@dataclass(slots=True, eq=False)
class _Renewals:
    """Renewal processes of many rows, run from one moment to another; the state is in the arrays.

    rate, leaving, period: (rows,) traits. at: time of the latest renewal. since: when the present
    spell of life began. until: when it ends. status: alive, away (comes back at `until`), gone.
    waits: (rows,) operational time, or days for subscribers, to the first renewal, NaN: a new gap.
    """

    settings: ShopSettings
    clock: _Clock
    rate: Floats
    leaving: Floats
    period: Floats
    at: Floats
    since: Floats
    until: Floats
    status: NDArray[np.int8]
    waits: Floats

    @classmethod
    def begin(
        cls, rng: Generator, settings: ShopSettings, clock: _Clock, traits: _Traits
    ) -> _Renewals:
        """All customers at their acquisition, which is a renewal."""
        count = settings.customers
        rate = traits.rate
        if settings.funnel:
            rate = np.minimum(rate / conversion(settings), RATE_LIMIT)
        renewals = cls(
            settings=settings,
            clock=clock,
            rate=rate,
            leaving=traits.leaving,
            period=traits.period,
            at=traits.acquired.copy(),
            since=traits.acquired.copy(),
            until=np.full(count, np.inf),
            status=np.full(count, _ALIVE, dtype=np.int8),
            waits=np.full(count, np.nan),
        )
        everyone = np.arange(count)
        renewals.until = traits.acquired + renewals.lifetimes(rng, everyone)
        once = rng.random(count) < settings.once
        renewals.until = np.where(once, traits.acquired, renewals.until)
        renewals.toss(rng, everyone)
        return renewals

    def run(self, rng: Generator, *, until: float) -> tuple[Ints, Floats]:
        """Rows and times of renewals up to `until`; at a beginning, the acquisitions too."""
        begun = np.flatnonzero(np.isnan(self.waits))
        rows, times = [begun], [self.at[begun]]
        active = np.flatnonzero(self.status != _GONE)
        for _ in range(MOST_RENEWALS):
            if not len(active):
                break
            came, active = self._step(rng, active, until)
            rows.append(came)
            times.append(self.at[came].copy())
        return np.concatenate(rows), np.concatenate(times)

    def future(self, rng: Generator, people: Ints, *, futures: int) -> _Renewals:
        """The state at as_of of these rows, each repeated, with what is not known of it redrawn."""
        tiled = np.repeat(people, futures)
        shift = np.exp(self.settings.future_shift * rng.normal(size=len(tiled)))
        parts = {
            name: getattr(self, name)[tiled]
            for name in ("rate", "leaving", "period", "at", "since", "until", "status")
        }
        ahead = replace(self, **parts, waits=np.zeros(len(tiled)))
        ahead.waits = ahead.residual_gaps(rng)
        ahead.until = np.where(
            ahead.status == _ALIVE,
            ahead.residual_lifetimes(rng),
            rng.exponential(self.settings.away, len(tiled)),
        )
        ahead.rate = ahead.rate * shift
        ahead.waits = np.where(ahead.period > 0, ahead.waits, ahead.waits / shift)
        return ahead

    def _step(self, rng: Generator, active: Ints, end: float) -> tuple[Ints, Ints]:
        """One renewal, leaving or return of every active row: who renewed, who goes on."""
        away = self.status[active] == _AWAY
        following = np.where(away, np.inf, self._next(rng, active))
        until = self.until[active]
        over = np.minimum(following, until) > end
        leaves = ~over & ~away & (until < following)
        returns = ~over & away
        renews = ~over & ~away & ~leaves
        self.waits[active[~over]] = np.nan
        self._leave(rng, active[leaves])
        self.at[active[renews]] = following[renews]
        self._return(rng, active[returns])
        came = active[renews | returns]
        self.toss(rng, came)
        return came, active[~over & (self.status[active] != _GONE)]

    def _next(self, rng: Generator, active: Ints) -> Floats:
        """Times of the next renewals, in life or not."""
        waits, period = self.waits[active], self.period[active]
        first = ~np.isnan(waits)
        start = np.where(first, np.maximum(self.at[active], 0.0), self.at[active])
        gap = np.where(first, waits, self.gaps(rng, len(active)) / self.rate[active])
        times = self.clock.calendar(self.clock.operational(start) + gap)
        if not period.any():
            return times
        jitter = np.maximum(1 + 0.04 * rng.normal(size=len(active)), 0.5)
        return np.where(period > 0, start + np.where(first, waits, period * jitter), times)

    def _leave(self, rng: Generator, rows: Ints) -> None:
        back = rng.random(len(rows)) < self.settings.returning
        self.status[rows] = np.where(back, _AWAY, _GONE)
        self.until[rows] += rng.exponential(self.settings.away, len(rows))

    def _return(self, rng: Generator, rows: Ints) -> None:
        self.status[rows] = _ALIVE
        self.at[rows] = self.since[rows] = self.until[rows]
        self.until[rows] += self.lifetimes(rng, rows)

    def toss(self, rng: Generator, rows: Ints) -> None:
        """The coin of the BG model, after each renewal."""
        if self.settings.dropout == "bg":
            leaves = rng.random(len(rows)) < self.leaving[rows]
            self.until[rows] = np.where(leaves, self.at[rows], self.until[rows])

    def lifetimes(self, rng: Generator, rows: Ints) -> Floats:
        kind = self.settings.dropout
        if kind in {"none", "bg"}:
            return np.full(len(rows), np.inf)
        drawn = rng.exponential(size=len(rows))
        if kind == "weibull":
            drawn = drawn ** (1 / self.settings.dropout_shape)
        return drawn / self.leaving[rows]

    def residual_lifetimes(self, rng: Generator) -> Floats:
        """Of those alive, given that they have lived to 0."""
        kind = self.settings.dropout
        drawn = rng.exponential(size=len(self.rate))
        if kind == "pareto":
            return drawn / self.leaving
        if kind == "weibull":
            shape, lived = self.settings.dropout_shape, -self.since * self.leaving
            total = (np.maximum(lived, 0.0) ** shape + drawn) ** (1 / shape)
            return np.maximum(total - lived, 0.0) / self.leaving
        return np.where(np.isfinite(self.until), np.maximum(self.until, 0.0), np.inf)

    def gaps(self, rng: Generator, count: int) -> Floats:
        """Gaps of mean 1."""
        shape = self.settings.gap_shape
        if self.settings.gap == "weibull":
            return rng.weibull(shape, count) / _weibull_mean(shape)
        return rng.exponential(size=count) if shape == 1 else rng.gamma(shape, size=count) / shape

    def residual_gaps(self, rng: Generator) -> Floats:
        """What is left of the gap at 0, given how long it has lasted."""
        lasted = (-self.clock.operational(self.at)) * self.rate
        left = _residual_gap(rng, self.settings, np.maximum(lasted, 0.0)) / self.rate
        if not self.period.any():
            return left
        jitter = np.maximum(1 + 0.04 * rng.normal(size=len(left)), 0.5)
        due = self.period * jitter + self.at
        return np.where(self.period > 0, np.where(due > 0, due, rng.exponential(2.0)), left)


def _residual_gap(rng: Generator, settings: ShopSettings, lasted: Floats) -> Floats:
    """Left of gaps of mean 1 that have lasted so long.

    Erlang: of k stages at rate k, the number passed is Poisson given that it is below k.
    """
    shape = settings.gap_shape
    if settings.gap == "weibull":
        scale = 1 / _weibull_mean(shape)
        total = ((lasted / scale) ** shape + rng.exponential(size=len(lasted))) ** (1 / shape)
        return np.maximum(total * scale - lasted, 0.0)
    if shape == 1:
        return rng.exponential(size=len(lasted))
    stages = np.arange(round(shape))
    steps = np.concatenate(([0.0], np.cumsum(np.log(np.maximum(stages[1:], 1)))))
    log_odds = stages * np.log(shape * lasted + 1e-12)[:, None] - steps
    odds = np.cumsum(np.exp(log_odds - log_odds.max(axis=1, keepdims=True)), axis=1)
    passed = (odds < rng.random((len(lasted), 1)) * odds[:, -1:]).sum(axis=1)
    return np.asarray(rng.gamma(shape - passed) / shape)


def _weibull_mean(shape: float) -> float:
    return gamma(1 + 1 / shape)


# --- events ----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, eq=False)
class _Events:
    """Flat events: customer, time, type, episode or purchase they belong to (for the item)."""

    owner: Ints
    times: Floats
    types: NDArray[np.int8]
    thread: Ints

    @classmethod
    def of(cls, owner: Ints, times: Floats, kind: int, thread: Ints) -> _Events:
        return cls(owner, times, np.full(len(owner), kind, dtype=np.int8), thread)

    def where(self, kept: Flags) -> _Events:
        return _Events(self.owner[kept], self.times[kept], self.types[kept], self.thread[kept])


def _joined(parts: list[_Events]) -> _Events:
    return _Events(
        np.concatenate([part.owner for part in parts]),
        np.concatenate([part.times for part in parts]),
        np.concatenate([part.types for part in parts]),
        np.concatenate([part.thread for part in parts]),
    )


@dataclass(frozen=True, slots=True, eq=False)
class _Pending:
    """What has begun before as_of and may end in a purchase after it.

    owner, in_cart, keen: (episodes,). burst_owner, burst_age: (purchases,) that may yet be
    followed by others.
    """

    owner: Ints
    in_cart: Flags
    keen: Flags
    burst_owner: Ints
    burst_age: Floats


def conversion(settings: ShopSettings) -> float:
    """Share of episodes that end in a purchase."""
    keen = [_to_cart(settings, np.array([flag]))[0] for flag in (False, True)]
    through = float(np.mean(keen)) * settings.to_purchase
    return settings.direct + (1 - settings.direct) * through


def _to_cart(settings: ShopSettings, keen: Flags) -> Floats:
    """Chance that browsing leads to the cart; the keen, half of all, set favourites too."""
    share = settings.to_cart
    return np.where(keen, share + 0.6 * min(share, 1 - share), share - 0.6 * min(share, 1 - share))


def _history_events(
    rng: Generator, settings: ShopSettings, history: _Renewals, rows: Ints, times: Floats
) -> tuple[_Events, _Pending]:
    if settings.funnel:
        events, open_episodes = _episodes(rng, settings, rows, times)
    else:
        events = _Events.of(rows, times, PURCHASE, np.arange(len(rows)))
        open_episodes = (rows[:0], np.zeros(0, np.bool_), np.zeros(0, np.bool_))
    bought = events.types == PURCHASE
    followed = _bursts(rng, settings, events.where(bought))
    parts = [events, followed, _refunds(rng, settings, events.where(bought))]
    if settings.funnel:
        parts.append(_background(rng, settings, history))
    every = _joined(parts)
    past = every.where(every.times < 0)
    bought = past.types == PURCHASE
    recent = bought & (past.times > -6 * settings.burst_days) & (settings.burst > 0)
    return past, _Pending(*open_episodes, past.owner[recent], -past.times[recent])


def _episodes(
    rng: Generator, settings: ShopSettings, rows: Ints, starts: Floats
) -> tuple[_Events, tuple[Ints, Flags, Flags]]:
    """Views, favourites, carts and purchases of episodes; those still open at 0 in the second."""
    count = len(rows)
    thread = np.arange(count)
    direct = rng.random(count) < settings.direct
    keen = rng.random(count) < 0.5
    browsed = starts + rng.exponential(settings.browse_days, count)
    to_cart = ~direct & (rng.random(count) < _to_cart(settings, keen))
    ended = browsed + rng.exponential(settings.cart_days, count)
    buys = to_cart & (rng.random(count) < settings.to_purchase)
    end = np.where(to_cart, ended, browsed)
    index, when = _views(rng, settings, np.where(direct, starts, end) - starts, ~direct)
    favourite = ~direct & (rng.random(count) < np.where(keen, 0.5, 0.05))
    liked = starts + rng.random(count) * (browsed - starts)
    removes = to_cart & ~buys & (rng.random(count) < 0.5)
    parts = [
        _Events.of(rows[index], starts[index] + when, VIEW, thread[index]),
        _Events.of(rows[favourite], liked[favourite], FAVORITE, thread[favourite]),
        _Events.of(rows[to_cart], browsed[to_cart], CART, thread[to_cart]),
        _Events.of(rows[removes], ended[removes], REMOVE, thread[removes]),
        _Events.of(rows[buys], ended[buys], PURCHASE, thread[buys]),
        _Events.of(rows[direct], starts[direct], PURCHASE, thread[direct]),
    ]
    running = ~direct & (end > 0)
    in_cart = to_cart & (browsed <= 0)
    return _joined(parts), (rows[running], in_cart[running], keen[running])


def _views(
    rng: Generator, settings: ShopSettings, spans: Floats, browses: Flags
) -> tuple[Ints, Floats]:
    """Episode and offset of views: one at the start, more in its first days than later."""
    more = np.minimum(rng.poisson(settings.views * np.sqrt(spans + 0.2)), 12)
    number = np.where(browses, 1 + more, 0)
    index = np.repeat(np.arange(len(spans)), number)
    offset = rng.random(len(index)) * spans[index]
    first = np.cumsum(number) - number
    offset[first[number > 0]] = 0.0
    return index, offset


def _bursts(rng: Generator, settings: ShopSettings, bought: _Events) -> _Events:
    """Purchases that follow purchases, and those that follow them (a Hawkes process)."""
    parts = [bought.where(np.zeros(len(bought.owner), dtype=np.bool_))]
    parents = bought
    for _ in range(4 if settings.burst else 0):
        index = np.repeat(
            np.arange(len(parents.owner)), rng.poisson(settings.burst, len(parents.owner))
        )
        delay = rng.exponential(settings.burst_days, len(index))
        times = parents.times[index] + delay
        parents = _Events.of(parents.owner[index], times, PURCHASE, parents.thread[index])
        parts.append(parents)
    return _joined(parts)


def _refunds(rng: Generator, settings: ShopSettings, bought: _Events) -> _Events:
    back = bought.where(rng.random(len(bought.owner)) < settings.refunds)
    delay = 1 + rng.exponential(8.0, len(back.owner))
    return _Events.of(back.owner, back.times + delay, REFUND, back.thread)


def _background(rng: Generator, settings: ShopSettings, history: _Renewals) -> _Events:
    """Views without intent, fewer once a customer has left."""
    begun = np.minimum(history.since, history.at)
    left = np.where(history.status == _ALIVE, 0.0, np.minimum(history.at + 60, 0.0))
    number = np.minimum(rng.poisson(settings.background * np.maximum(left - begun, 0)), 30)
    owner = np.repeat(np.arange(len(number)), number)
    times = begun[owner] + rng.random(len(owner)) * (left - begun)[owner]
    return _Events.of(owner, times, VIEW, owner + 1_000_003)


# --- what was recorded -----------------------------------------------------------------------


def _recorded(
    rng: Generator, settings: ShopSettings, events: _Events, traits: _Traits
) -> tuple[Population, Ints]:
    """What the shop's books say, and which customers are in them."""
    recorded = events.where(events.times >= -settings.history)
    times = np.floor(recorded.times) if settings.dates_only else recorded.times
    amounts = _amounts(rng, settings, recorded, traits)
    days = np.floor(times + settings.time_of_day)
    order = np.lexsort((times, recorded.owner))
    owner, types = recorded.owner[order], recorded.types[order]
    times, amounts, days = times[order], amounts[order], days[order]
    thread = recorded.thread[order]
    kept, amounts = _one_a_day(owner, types, days, amounts)
    items, categories = _things(rng, settings, owner, thread)
    quantities = np.full(len(owner), np.nan)
    if settings.quantities:
        quantities = np.where(types == PURCHASE, 1.0 + rng.poisson(0.6, len(owner)), np.nan)
    seen, owner = np.unique(owner[kept], return_inverse=True)
    columns = _Columns(-times, types, amounts, quantities, items, categories)
    return _population(settings, owner, columns.where(kept), count=len(seen)), seen


@dataclass(frozen=True, slots=True, eq=False)
class _Columns:
    """(events,) each, as `Population` says."""

    days_ago: Floats
    types: NDArray[np.int8]
    amounts: Floats
    quantities: Floats
    items: Ints
    categories: Ints

    def where(self, kept: Flags) -> _Columns:
        return _Columns(
            self.days_ago[kept],
            self.types[kept],
            self.amounts[kept],
            self.quantities[kept],
            self.items[kept],
            self.categories[kept],
        )


def _amounts(rng: Generator, settings: ShopSettings, events: _Events, traits: _Traits) -> Floats:
    """Amounts of purchases and refunds, NaN elsewhere and where the shop has none."""
    count = len(events.owner)
    if not settings.amounts:
        return np.full(count, np.nan)
    spread = settings.amount_within
    noise = np.exp(spread * rng.normal(size=count) - spread**2 / 2)
    paid = (events.types == PURCHASE) | (events.types == REFUND)
    known = paid & (rng.random(count) >= settings.amount_missing)
    return np.where(known, traits.amount[events.owner] * noise, np.nan)


def _one_a_day(
    owner: Ints, types: NDArray[np.int8], days: Floats, amounts: Floats
) -> tuple[Flags, Floats]:
    """Of a customer's purchases of one day keep the first, with the sum of their amounts."""
    bought = np.flatnonzero(types == PURCHASE)
    new = np.ones(len(bought), dtype=np.bool_)
    new[1:] = (owner[bought][1:] != owner[bought][:-1]) | (days[bought][1:] != days[bought][:-1])
    group = np.cumsum(new) - 1
    value = amounts[bought]
    known = ~np.isnan(value)
    total = np.bincount(group, np.where(known, value, 0.0), minlength=0)
    some = np.bincount(group, known, minlength=0) > 0
    merged = amounts.copy()
    merged[bought[new]] = np.where(some, total, np.nan)
    kept = np.ones(len(owner), dtype=np.bool_)
    kept[bought[~new]] = False
    return kept, merged


def _things(rng: Generator, settings: ShopSettings, owner: Ints, thread: Ints) -> tuple[Ints, Ints]:
    """Hashes of items and categories: one item a thread, half of the threads the customer's own."""
    if not settings.items:
        none = np.full(len(owner), -1, dtype=np.int64)
        return none, none
    salt = int(rng.integers(1, 1 << 40))
    own = (thread * 2654435761 + salt) % 97 < 48
    seed = np.where(own, owner * 7919 + thread % 2, thread * 104729 + owner)
    uniform = ((seed * 6364136223846793005 + salt) % 1_000_003) / 1_000_003
    item = (settings.items * uniform**2).astype(np.int64)  # few items sell often
    category = item % max(settings.items // 20, 2)
    return (item * 1_000_000_007 + salt) % (1 << 62), (category * 998_244_353 + salt) % (1 << 62)


def _population(
    settings: ShopSettings, owner: Ints, columns: _Columns, *, count: int
) -> Population:
    """Count, then cut to the latest events of each customer."""
    days_ago, types, amounts = columns.days_ago, columns.types, columns.amounts
    sizes = np.bincount(owner, minlength=count)
    starts = np.concatenate(([0], np.cumsum(sizes)))
    bought = types == PURCHASE
    buyers = owner[bought]
    first_bought = np.full(count, np.nan)
    first_bought[buyers[::-1]] = days_ago[bought][::-1]  # the last written is the oldest
    value = amounts[bought]
    known = ~np.isnan(value)
    place = np.arange(len(owner)) - starts[owner]
    kept = sizes[owner] - place <= settings.most_events
    first = days_ago[starts[:-1]] if count else np.zeros(0)
    observed = max(settings.history, 1.0) if settings.tells_start else np.nan
    shown = np.minimum(sizes, settings.most_events)
    told = columns.where(kept)
    return Population(
        starts=np.concatenate(([0], np.cumsum(shown))),
        days_ago=told.days_ago,
        types=told.types,
        amounts=told.amounts,
        quantities=told.quantities,
        items=told.items,
        categories=told.categories,
        first_days_ago=first,
        first_purchase_days_ago=first_bought,
        purchase_days=np.bincount(buyers, minlength=count),
        spend=np.bincount(buyers, np.where(known, value, 0.0), minlength=count).astype(np.float64),
        spend_days=np.bincount(buyers, known, minlength=count).astype(np.int64),
        observed_days=np.maximum(observed, first),
        truncated=sizes > settings.most_events,
    )


# --- the future ------------------------------------------------------------------------------


def _labels(
    rng: Generator,
    settings: ShopSettings,
    history: _Renewals,
    pending: _Pending,
    people: Ints,
    *,
    futures: int,
) -> tuple[Floats, Floats]:
    """Means over futures: (rows, bins + 1) of the first purchase, (rows, bins) of purchase days."""
    ahead = history.future(rng, people, futures=futures)
    rows, times = ahead.run(rng, until=FARTHEST)
    if settings.funnel:
        rows, times = _converted(rng, settings, rows, times)
        more = _closed(rng, settings, pending, people, futures)
        rows, times = np.concatenate((rows, more[0])), np.concatenate((times, more[1]))
    rows, times = _followed(rng, settings, (rows, times), pending, people, futures=futures)
    inside = (times > 0) & (times < FARTHEST)
    rows, times = rows[inside], times[inside]
    order = np.lexsort((times, rows))
    rows, times = rows[order], times[order]
    days = np.floor(times + settings.time_of_day)
    new = np.ones(len(rows), dtype=np.bool_)
    new[1:] = (rows[1:] != rows[:-1]) | (days[1:] != days[:-1])
    rows, times = rows[new], times[new]
    return _binned(rows, times, len(people), futures)


def _converted(
    rng: Generator, settings: ShopSettings, rows: Ints, starts: Floats
) -> tuple[Ints, Floats]:
    """Purchases of episodes that begin after as_of."""
    count = len(rows)
    direct = rng.random(count) < settings.direct
    chance = _to_cart(settings, rng.random(count) < 0.5) * settings.to_purchase
    delay = rng.exponential(settings.browse_days, count)
    delay += rng.exponential(settings.cart_days, count)
    buys = direct | (rng.random(count) < chance)
    return rows[buys], (starts + np.where(direct, 0.0, delay))[buys]


def _closed(
    rng: Generator, settings: ShopSettings, pending: _Pending, people: Ints, futures: int
) -> tuple[Ints, Floats]:
    """Purchases of episodes open at as_of; what is left of a stage has no memory."""
    rows, index = _tiled(pending.owner, people, futures)
    in_cart, keen = pending.in_cart[index], pending.keen[index]
    count = len(rows)
    chance = np.where(in_cart, 1.0, _to_cart(settings, keen)) * settings.to_purchase
    delay = np.where(in_cart, 0.0, rng.exponential(settings.browse_days, count))
    delay = delay + rng.exponential(settings.cart_days, count)
    buys = rng.random(count) < chance
    return rows[buys], delay[buys]


def _followed(
    rng: Generator,
    settings: ShopSettings,
    bought: tuple[Ints, Floats],
    pending: _Pending,
    people: Ints,
    *,
    futures: int,
) -> tuple[Ints, Floats]:
    """The purchases, and those that follow them or follow ones before as_of."""
    if not settings.burst:
        return bought
    rows, index = _tiled(pending.burst_owner, people, futures)
    left = settings.burst * np.exp(-pending.burst_age[index] / settings.burst_days)
    rows = rows[np.repeat(np.arange(len(rows)), rng.poisson(left))]
    begun = _Events.of(rows, rng.exponential(settings.burst_days, len(rows)), PURCHASE, rows)
    roots = _joined([_Events.of(*bought, PURCHASE, bought[0]), begun])
    every = _joined([roots, _bursts(rng, settings, roots)])
    return every.owner, every.times


def _tiled(owner: Ints, people: Ints, futures: int) -> tuple[Ints, Ints]:
    """Rows of all futures of the owners that are among the people, and which entry each is."""
    place = np.searchsorted(people, owner)
    place = np.minimum(place, max(len(people) - 1, 0))
    index = np.flatnonzero(people[place] == owner) if len(people) else np.zeros(0, np.int64)
    rows = place[index][:, None] * futures + np.arange(futures)
    return rows.ravel(), np.repeat(index, futures)


def _binned(rows: Ints, times: Floats, count: int, futures: int) -> tuple[Floats, Floats]:
    bins = len(BIN_EDGES)
    place = np.searchsorted(np.array(BIN_EDGES), times)
    person = rows // futures
    purchases = np.bincount(person * bins + place, minlength=count * bins)
    is_first = np.ones(len(rows), dtype=np.bool_)
    is_first[1:] = rows[1:] != rows[:-1]
    number = np.bincount((person * (bins + 1) + place)[is_first], minlength=count * (bins + 1))
    first = number.reshape(count, bins + 1) / futures
    first[:, -1] = np.maximum(1 - first[:, :-1].sum(axis=1), 0.0)
    return first, np.asarray(purchases.reshape(count, bins) / futures)
