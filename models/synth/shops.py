"""Sales of shops: negative binomial demand about a rate that prices, promotions and days drive.

Half of the articles are clear cases, of low noise and a promotion that lifts sales by 30 to 300 %.

Invariant: `Shop` holds what drove the sales, so that each effect can be found again in its rate.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from models.synth.parts import (
    Floats,
    Ints,
    chance,
    column,
    gaussian_process,
    irregular,
    log_column,
    outer_length,
    outer_season,
    recursion,
    season,
    shifted,
    shifts,
    spells,
    trend,
)

if TYPE_CHECKING:
    from numpy.random import Generator


@dataclass(frozen=True, slots=True)
class Shop:
    """Demand of articles and what drove it, all (rows, time).

    sales: units, after stock-outs, closed days and returns. price: relative to the usual one.
    promotion and holiday: 1 where there is one. opened and stocked: 0 where closed or sold out.
    rate: expected demand. Of a row (rows, 1): elasticity, d ln rate / d ln price; lift, what a
    promotion adds to ln rate beside its price; dispersion, (variance - rate) / rate².
    """

    sales: Floats
    price: Floats
    promotion: Floats
    holiday: Floats
    opened: Floats
    stocked: Floats
    rate: Floats
    elasticity: Floats
    lift: Floats
    dispersion: Floats


def shop(rng: Generator, lengths: Ints, time: int) -> Shop:
    """Daily to monthly sales of articles."""
    plan = _plan(rng, lengths, time)
    return _sold(rng, lengths, plan, plan.effect)


def rivals(rng: Generator, lengths: Ints, time: int) -> tuple[Shop, Shop, Floats]:
    """Two articles of a shelf, and the (rows, 1) share of each one's effect the other loses by.

    A promotion or a price cut of the one takes sales from the other (cannibalisation).
    """
    first, second = _plan(rng, lengths, time), _plan(rng, lengths, time)
    share = column(rng, len(lengths), 0.2, 0.8)
    made = [
        _sold(rng, lengths, mine, mine.effect - share * other.effect)
        for mine, other in ((first, second), (second, first))
    ]
    return made[0], made[1], share


def shop_sales(rng: Generator, lengths: Ints, time: int) -> Floats:
    """The sales of `shop` alone."""
    return shop(rng, lengths, time).sales


def store_sales(rng: Generator, lengths: Ints, time: int) -> Floats:
    """Takings or visitors of a store or department: large, two seasons, holidays, closed days.

    A third are money, not counts.
    """
    rows = len(lengths)
    log_rate = log_column(rng, rows, 0.05, 0.7) * season(rng, lengths, time).clip(-3, 3)
    log_rate += log_column(rng, rows, 0.03, 0.4) * outer_season(rng, lengths, time)
    log_rate += _holiday_effect(rng, holidays(rng, lengths, time))
    log_rate += _course(rng, rows, time)
    noise = column(rng, rows, 0.0, 0.9)
    log_rate += log_column(rng, rows, 0.02, 0.2) * recursion(
        irregular(rng, rows, time).clip(-5, 5) * np.sqrt(1 - noise**2), noise
    )
    rate = log_column(rng, rows, 20, 3e4) * np.exp(log_rate.clip(-5, 4))
    sales = np.maximum(0, np.round(rate + np.sqrt(rate) * rng.normal(size=rate.shape)))
    ticket = np.where(chance(rng, rows, 0.33) > 0, log_column(rng, rows, 2, 60), 1.0)
    return np.asarray(np.round(sales * ticket, 2) * _opened(rng, lengths, time))


def negative_binomial(rng: Generator, rate: Floats, dispersion: Floats) -> Floats:
    """Counts of mean `rate` and variance rate + rate² · dispersion: Poisson of a gamma rate."""
    shape = np.broadcast_to(1 / dispersion, rate.shape)
    mean = rate / shape * rng.standard_gamma(shape)
    counts = np.round(mean + np.sqrt(mean) * rng.normal(size=mean.shape))  # as good for many
    few = mean < 100
    counts[few] = rng.poisson(mean[few])
    return counts


# --- what is planned -------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Plan:
    """Price and promotion of articles and their effect on ln rate, without the dip after it."""

    price: Floats
    promotion: Floats
    effect: Floats
    elasticity: Floats
    lift: Floats
    clear: Floats  # (rows, 1) ones for clear cases


def _plan(rng: Generator, lengths: Ints, time: int) -> _Plan:
    rows = len(lengths)
    clear = chance(rng, rows, 0.5)
    promotion = promotions(rng, lengths, time)
    discount = np.where(clear > 0, column(rng, rows, 0.1, 0.5), column(rng, rows, 0.0, 0.5))
    discount *= chance(rng, rows, 0.7)
    price = prices(rng, promotion, discount)
    elasticity = -np.where(
        clear > 0, log_column(rng, rows, 1.0, 4.0), log_column(rng, rows, 0.3, 4.0)
    )
    by_price = -elasticity * -np.log1p(-discount)
    wanted = np.where(
        clear > 0, log_column(rng, rows, 0.26, 1.4), column(rng, rows, -0.1, 0.8)
    )  # ln of 1.3 to 4
    lift = np.where(clear > 0, np.maximum(wanted - by_price, 0.0), wanted)
    effect = lift * promotion + elasticity * np.log(price)
    return _Plan(price, promotion, effect, elasticity, lift, clear)


def promotions(rng: Generator, lengths: Ints, time: int) -> Floats:
    """(rows, time) ones where there is a promotion: at random, or every so often; some rows none.

    Days have promotions of 1 to 14 periods, longer periods than days have 1 or 2; short windows
    have shorter and more of them, so that an effect is seen before it is asked for.
    """
    rows = len(lengths)
    daily = np.isin(lengths, [0, 5, 7])[:, None] & (rng.random((rows, 1)) < 0.6)
    longest = np.where(daily, rng.integers(2, 15, size=(rows, 1)), rng.integers(1, 3, (rows, 1)))
    longest = np.minimum(longest, max(1, time // 8))
    share = log_column(rng, rows, float(np.clip(4 / time, 0.04, 0.25)), 0.45)
    at_random = spells(rng, rows, time, share=share, longest=longest)
    every = np.maximum(np.round(longest / share), longest + 2).astype(np.int64)
    turn = (np.arange(time) + rng.integers(0, every)) % every
    regular = np.where(turn < longest, 1.0, 0.0)
    made = np.where(chance(rng, rows, 0.25) > 0, regular, at_random)
    return made * chance(rng, rows, 0.92)


def prices(rng: Generator, promotion: Floats, discount: Floats) -> Floats:
    """(rows, time) price relative to the usual: few list prices, off by `discount` in promotions.

    One in six rows has another price each period, as fuel and fruit do.
    """
    rows, time = promotion.shape
    steps = np.round(0.08 * shifts(rng, rows, time, rate=2.5), 2).clip(-0.5, 0.5)
    steps = np.where(chance(rng, rows, 0.4) > 0, 0.0, steps)
    loose = np.flatnonzero(rng.random(rows) < 0.17)
    rough = rng.normal(size=(len(loose), time))
    keep = column(rng, len(loose), 0.3, 0.97)
    course = recursion(rough * np.sqrt(1 - keep**2), keep)
    steps[loose] = (log_column(rng, len(loose), 0.02, 0.2) * course).clip(-0.6, 0.6)
    return np.asarray(np.round(np.exp(steps) * (1 - discount * promotion), 3))


def holidays(rng: Generator, lengths: Ints, time: int) -> Floats:
    """(rows, time) ones at 1 to 6 holidays a year, fixed or moving, as the season tells the year.

    Half of the rows, and those whose season tells no year, have a day that comes back sooner (pay
    days, sales days): each 14 to 60 days, or 4 to 26 longer periods. One in three moves by some
    periods from time to time.
    """
    rows, days = len(lengths), 6
    year = np.select([lengths == 12, lengths == 52], [12.0, 52.18], outer_length(rng, lengths))
    year = np.where(np.isin(lengths, [24, 96]), 7.0 * lengths, year)
    sooner = (year < 5) | (rng.random(rows) < 0.5)
    soon = np.where(year > 100, rng.integers(14, 61, size=rows), rng.integers(4, 27, size=rows))
    every = np.where(sooner, soon, year)
    cycles = int(np.ceil(time / every.min(initial=time))) + 2
    count = np.where(sooner, 1, 1 + rng.integers(0, np.where(year > 50, days, 3)))
    start = rng.random((rows, days, 1)) * every[:, None, None]
    moves = rng.random((rows, days, 1)) < 0.33
    reach = np.maximum(np.minimum(np.round(every / 20), 17), 1)[:, None, None]
    moved = np.round(moves * reach * rng.uniform(-1, 1, size=(rows, days, cycles)))
    when = np.floor(start + (np.arange(cycles) - 1) * every[:, None, None]) + moved
    held = (np.arange(days)[None, :] < count[:, None])[:, :, None] & (when >= 0) & (when < time)
    flags = np.zeros((rows, time))
    row, _, _ = np.nonzero(held)
    flags[row, when[held].astype(np.int64)] = 1.0
    return flags


# --- what is sold ----------------------------------------------------------------------------


def _sold(rng: Generator, lengths: Ints, plan: _Plan, effect: Floats) -> Shop:
    """Draw the sales of a plan whose effect on ln rate is `effect`."""
    rows, time = plan.price.shape
    clear = plan.clear > 0
    holiday = holidays(rng, lengths, time)
    swing = np.where(clear, log_column(rng, rows, 0.02, 0.5), log_column(rng, rows, 0.02, 1.0))
    log_rate = swing * season(rng, lengths, time).clip(-3, 3)
    log_rate += column(rng, rows, 0.0, 0.4) * outer_season(rng, lengths, time)
    log_rate += _course(rng, rows, time) * np.where(clear, 0.4, 1.0)
    log_rate += effect - _dip(rng, plan) + _holiday_effect(rng, holiday)
    life = _life(rng, rows, time)
    level = np.where(clear, log_column(rng, rows, 10, 3000), log_column(rng, rows, 0.3, 3000))
    rate = level * np.exp(log_rate.clip(-6, 4)) * np.maximum(life, 1e-4)
    dispersion = np.where(
        clear, log_column(rng, rows, 0.001, 0.04), log_column(rng, rows, 0.003, 1.0)
    )
    demand = negative_binomial(rng, np.maximum(rate, 1e-4), dispersion) * (life > 2e-3)
    opened, stocked = _opened(rng, lengths, time), _stocked(rng, rows, time)
    sales = np.minimum(demand, _capacity(rng, level)) * opened * stocked
    sales -= _returns(rng, sales)
    return Shop(
        sales=sales,
        price=plan.price,
        promotion=plan.promotion,
        holiday=holiday,
        opened=opened,
        stocked=stocked,
        rate=rate,
        elasticity=plan.elasticity,
        lift=plan.lift,
        dispersion=dispersion,
    )


def _dip(rng: Generator, plan: _Plan) -> Floats:
    """(rows, time) what ln rate lacks after a promotion: cupboards are full, the more the longer.

    Half of the rows; it starts at up to 60 % of the promotion's whole effect and fades.
    """
    rows = len(plan.price)
    stored = recursion(plan.promotion, column(rng, rows, 0.2, 0.75)).clip(0, 1)
    whole = (plan.effect * plan.promotion).max(axis=1, keepdims=True).clip(0, 2)
    size = chance(rng, rows, 0.5) * column(rng, rows, 0.1, 0.6) * whole
    return np.asarray(size * stored * (1 - plan.promotion))


def _holiday_effect(rng: Generator, holiday: Floats) -> Floats:
    """(rows, time) on ln rate at a holiday and, for a third of the rows, the days before it."""
    rows = len(holiday)
    before = recursion(holiday[:, ::-1], column(rng, rows, 0.3, 0.8))[:, ::-1] - holiday
    run_up = chance(rng, rows, 0.33) * column(rng, rows, 0.1, 0.8)
    sign = rng.choice([-1.0, 1.0], size=(rows, 1))
    effect = sign * log_column(rng, rows, 0.1, 1.5) * holiday + run_up * before.clip(0, 1)
    return np.asarray(effect)


def _course(rng: Generator, rows: int, time: int) -> Floats:
    """Log level: a trend, a slow path, a walk and shifts."""
    path = gaussian_process(rng, log_column(rng, rows, 0.05, 1.0), time)
    walk = np.cumsum(rng.normal(size=(rows, time)), axis=1) * log_column(rng, rows, 0.001, 0.05)
    slope = log_column(rng, rows, 0.05, 1.0) * trend(rng, rows, time) * chance(rng, rows, 0.5)
    jump = 0.4 * shifts(rng, rows, time, rate=1.0) * chance(rng, rows, 0.3)
    wave = log_column(rng, rows, 0.01, 0.4) * path
    return np.asarray(wave + walk.clip(-1.5, 1.5) + slope + jump)


def _opened(rng: Generator, lengths: Ints, time: int) -> Floats:
    """(rows, time) zeros on one phase of the season for an eighth of the rows, ones else."""
    shut = (rng.random(len(lengths)) < 0.125) & (lengths > 1)
    phase = rng.integers(0, np.maximum(lengths, 1))
    hit = (np.arange(time)[None, :] % np.maximum(lengths, 1)[:, None]) == phase[:, None]
    return np.where(hit & shut[:, None], 0.0, 1.0)


def _stocked(rng: Generator, rows: int, time: int) -> Floats:
    """(rows, time) zeros over spells without stock for a sixth of the rows, ones else."""
    out = spells(
        rng,
        rows,
        time,
        share=log_column(rng, rows, 0.005, 0.15),
        longest=rng.integers(1, 11, size=(rows, 1)),
    )
    return 1 - chance(rng, rows, 0.17) * out


def _capacity(rng: Generator, level: Floats) -> Floats:
    """(rows, 1) units that can be sold a period: a shelf's for one row in twenty, else any."""
    shelf = np.ceil(level * column(rng, len(level), 0.8, 2.0))
    return np.where(chance(rng, len(level), 0.05) > 0, shelf, np.inf)


def _returns(rng: Generator, sales: Floats) -> Floats:
    """(rows, time) units that come back 1 to 14 periods later, a share of 5 to 60 %: 1 row in 16.

    Where little is sold, more may come back than go: net sales are negative then.
    """
    rows, time = sales.shape
    back = np.zeros((rows, time))
    some = np.flatnonzero(rng.random(rows) < 1 / 16)
    lag = rng.integers(1, 15, size=(len(some), 1))
    late = np.where(np.arange(time) < lag, 0.0, shifted(sales[some], lag))
    back[some] = rng.poisson(late * column(rng, len(some), 0.05, 0.6))
    return back


def _life(rng: Generator, rows: int, time: int) -> Floats:
    """(rows, time) share of full demand: launches, with a first rush or not, and ends of life."""
    life = np.ones((rows, time))
    draw, t = rng.random(rows), np.arange(time)[None, :]
    new, old = np.flatnonzero(draw < 0.08), np.flatnonzero(draw > 0.95)
    age = t - column(rng, len(new), -0.1, 0.6) * time
    ramp = -np.expm1(-np.maximum(age, 0) / log_column(rng, len(new), 0.5, 15))
    rush = chance(rng, len(new), 0.4) * column(rng, len(new), 0.5, 3.0)
    life[new] = ramp * (1 + rush * np.exp(-np.maximum(age, 0) / log_column(rng, len(new), 3, 20)))
    left = (column(rng, len(old), 0.6, 1.1) * time - t) / log_column(rng, len(old), 1, 20)
    life[old] = -np.expm1(-np.maximum(left, 0))
    return life
