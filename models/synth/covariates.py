"""Groups of series: targets with covariates that drive them, or nothing, and rivals.

Strong and clean effects are frequent, so that a network learns to carry a promotion that is plain
in the history over to a planned one; idle covariates are there so that it learns to ignore them.

Invariant: a known row is never a target, and what a target responds to lies in the group's rows.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.random import Generator

from models.synth.mixture import windows
from models.synth.parts import (
    Family,
    Flags,
    Floats,
    Ints,
    autoregressive,
    chance,
    column,
    gaussian_process,
    irregular,
    log_column,
    mixture,
    outer_season,
    season,
    shifted,
    shifts,
    spells,
    standard,
    trend,
)
from models.synth.processes import causal_graph
from models.synth.shops import Shop, holidays, negative_binomial, promotions, rivals, shop


@dataclass(frozen=True, slots=True)
class Grouped:
    """Rows that belong together: (rows, time) values, group numbers, and what each row is.

    target: rows to be forecast. known: rows whose future is given (never a target).
    """

    values: Floats
    group: Ints
    target: Flags
    known: Flags


#: (generator, season lengths, time, group numbers) → groups
Maker = Callable[[Generator, Ints, int, Ints], Grouped]


@dataclass(frozen=True, slots=True)
class Covariate:
    """One covariate of each group: (groups, time) values, whether it is there, and is known."""

    values: Floats
    there: Flags  # (groups,)
    known: Flags  # (groups,)


def joined(parts: Sequence[Grouped]) -> Grouped:
    """Groups of several makers as one."""
    return Grouped(
        np.concatenate([part.values for part in parts]),
        np.concatenate([part.group for part in parts]),
        np.concatenate([part.target for part in parts]),
        np.concatenate([part.known for part in parts]),
    )


def _stacked(targets: Sequence[Floats], covariates: Sequence[Covariate], group: Ints) -> Grouped:
    """Each target (groups, time) and each covariate that is there, one below the other."""
    count = len(group)
    values = [*targets, *(c.values[c.there] for c in covariates)]
    numbers = [*(group for _ in targets), *(group[c.there] for c in covariates)]
    target = np.zeros(sum(len(part) for part in values), dtype=np.bool_)
    target[: count * len(targets)] = True
    unknown = [np.zeros(count, dtype=np.bool_) for _ in targets]
    known = np.concatenate([*unknown, *(c.known[c.there] for c in covariates)])
    return Grouped(np.concatenate(values), np.concatenate(numbers), target, known)


def _some(rng: Generator, rows: int, share: float) -> Flags:
    return np.asarray(rng.random(rows) < share)


# --- shops -----------------------------------------------------------------------------------


def shop_groups(rng: Generator, lengths: Ints, time: int, group: Ints) -> Grouped:
    """An article with its price, promotions, holidays: those that there are, and idle ones."""
    rows, made = len(lengths), shop(rng, lengths, time)
    planned = _some(rng, rows, 0.85)
    priced = _some(rng, rows, 0.7) & (np.ptp(made.price, axis=1) > 0)
    flagged = _some(rng, rows, 0.75) | ~priced
    extras = [
        Covariate(made.holiday, _some(rng, rows, 0.35), _some(rng, rows, 0.95)),
        Covariate(
            driver(rng, np.zeros_like(lengths), time), _some(rng, rows, 0.15), _some(rng, rows, 0.6)
        ),
        Covariate(_echo(rng, made.sales), _some(rng, rows, 0.08), np.zeros(rows, dtype=np.bool_)),
    ]
    return _stacked(
        [made.sales],
        [
            Covariate(_price_tag(rng, made), priced, planned),
            Covariate(made.promotion, flagged, planned),
            *extras,
        ],
        group,
    )


def _price_tag(rng: Generator, made: Shop) -> Floats:
    """The price in money, or the discount in per cent, for a fifth of the rows."""
    rows = len(made.price)
    tag = np.round(made.price * log_column(rng, rows, 0.5, 300), 2)
    return np.where(chance(rng, rows, 0.2) > 0, np.round(100 * (1 - made.price)), tag)


def _echo(rng: Generator, sales: Floats) -> Floats:
    """What follows the sales, such as returns and reviews: known for the past alone."""
    rows = len(sales)
    late = shifted(sales, rng.integers(1, 8, size=(rows, 1)))
    return np.asarray(late * column(rng, rows, 0.05, 0.5) + rng.normal(size=sales.shape))


def rival_groups(rng: Generator, lengths: Ints, time: int, group: Ints) -> Grouped:
    """Two articles that take sales from one another, and the promotions and prices of both."""
    rows = len(lengths)
    first, second, _ = rivals(rng, lengths, time)
    planned, by_price = _some(rng, rows, 0.9), _some(rng, rows, 0.4)
    plans = [
        Covariate(values, by_price == priced, planned)
        for made in (first, second)
        for values, priced in ((_price_tag(rng, made), True), (made.promotion, False))
    ]
    return _stacked([first.sales, second.sales], plans, group)


# --- responses -------------------------------------------------------------------------------


def clear_groups(rng: Generator, lengths: Ints, time: int, group: Ints) -> Grouped:
    """A calm course that a planned driver lifts by 30 to 300 %, or lowers, and an idle covariate.

    Drivers: flags, several levels, days that come back, continuous courses. For a third of the
    groups a second one helps.
    """
    rows = len(lengths)
    swing = log_column(rng, rows, 0.02, 0.4) * season(rng, lengths, time).clip(-3, 3)
    course = log_column(rng, rows, 0.02, 0.5) * trend(rng, rows, time).clip(-3, 3)
    path = gaussian_process(rng, log_column(rng, rows, 0.1, 1), time)
    course += log_column(rng, rows, 0.01, 0.2) * path
    drivers = [driver(rng, lengths, time) for _ in range(3)]
    second = _some(rng, rows, 0.35)
    effect = _effect(rng, rows) * drivers[0] + _effect(rng, rows) * drivers[1] * second[:, None]
    noise = log_column(rng, rows, 0.005, 0.2) * irregular(rng, rows, time).clip(-5, 5)
    logs = (swing + course + effect + noise).clip(-8, 8)
    level = log_column(rng, rows, 3, 3000)
    counted = _some(rng, rows, 0.3)
    target = np.where(chance(rng, rows, 0.75) > 0, level * np.exp(logs), level * (4 + logs))
    rate = (level * np.exp(logs.clip(-4, 4)))[counted]
    target[counted] = negative_binomial(rng, rate, log_column(rng, len(rate), 0.001, 0.05))
    always = np.ones(rows, dtype=np.bool_)
    covariates = [
        Covariate(_in_units(rng, drivers[0]), always, _some(rng, rows, 0.92)),
        Covariate(_in_units(rng, drivers[1]), second, _some(rng, rows, 0.92)),
        Covariate(_in_units(rng, drivers[2]), _some(rng, rows, 0.3), _some(rng, rows, 0.7)),
    ]
    return _stacked([target], covariates, group)


def _effect(rng: Generator, rows: int) -> Floats:
    """(rows, 1) on the logarithm: 30 to 300 % more, or for a fifth of the rows less."""
    sign = rng.choice([1.0, -1.0], p=[0.8, 0.2], size=(rows, 1))
    return np.asarray(sign * log_column(rng, rows, 0.26, 1.4))


def _in_units(rng: Generator, values: Floats) -> Floats:
    """Covariates as they are, or in other units and with another sign, for a third of the rows."""
    rows = len(values)
    unit = rng.choice([-1.0, 1.0], size=(rows, 1)) * log_column(rng, rows, 0.01, 100)
    other = unit * (values + column(rng, rows, -3, 3))
    return np.where(chance(rng, rows, 0.33) > 0, other, values)


def response_groups(rng: Generator, lengths: Ints, time: int, group: Ints) -> Grouped:
    """Target = any course + response to the first covariate (lag 0 to 6); the second is idle."""
    rows = len(lengths)
    own = log_column(rng, rows, 0.1, 1.0) * standard(windows(rng, lengths, time))
    drivers = [driver(rng, lengths, time) for _ in range(2)]
    lag = rng.integers(0, 7, size=(rows, 1)) * (rng.random((rows, 1)) < 0.3)
    felt = shifted(drivers[0], lag)
    felt = np.where(chance(rng, rows, 0.2) > 0, (felt > 0.5) * 1.5, felt)
    share = log_column(rng, rows, 0.2, 4.0) * rng.choice([-1.0, 1.0], size=(rows, 1))
    always, known = np.ones(rows, dtype=np.bool_), _some(rng, rows, 0.8)
    covariates = [Covariate(values, always, known) for values in drivers]
    return _stacked([own + share * felt], covariates, group)


def driver(rng: Generator, lengths: Ints, time: int) -> Floats:
    """(rows, time) covariates of any kind, of size about 1."""
    return mixture(rng, lengths, time, DRIVERS)


def _flags(rng: Generator, lengths: Ints, time: int) -> Floats:
    rows = len(lengths)
    longest = np.minimum(rng.integers(1, 9, size=(rows, 1)), max(1, time // 8))
    share = log_column(rng, rows, float(np.clip(4 / time, 0.05, 0.25)), 0.4)
    return spells(rng, rows, time, share=share, longest=longest)


def _levels(rng: Generator, lengths: Ints, time: int) -> Floats:
    """Two to four levels in turn, as discounts of 0, 10 and 30 %: zero for most of the time."""
    rows = len(lengths)
    on = promotions(rng, lengths, time)
    begun = np.cumsum(np.diff(on, axis=1, prepend=0) > 0, axis=1, dtype=np.int64)
    order = rng.integers(1, 4, size=(rows, time + 1))
    depth = np.take_along_axis(order, begun, axis=1) / 3
    return on * depth


def _steps(rng: Generator, lengths: Ints, time: int) -> Floats:
    """Another level from time to time, as list prices."""
    return np.round(shifts(rng, len(lengths), time, rate=4.0), 1)


def _course(rng: Generator, lengths: Ints, time: int) -> Floats:
    return autoregressive(rng, column(rng, len(lengths), 0.0, 0.95), time)


def _weather(rng: Generator, lengths: Ints, time: int) -> Floats:
    """A wave of the year and a smooth path around it."""
    rows = len(lengths)
    path = gaussian_process(rng, log_column(rng, rows, 0.01, 0.2), time)
    wave = season(rng, np.where(lengths <= 12, lengths, 0), time)
    return 0.5 * (outer_season(rng, lengths, time) + wave) + 0.5 * path


def _any_course(rng: Generator, lengths: Ints, time: int) -> Floats:
    return standard(windows(rng, np.zeros_like(lengths), time)).clip(-4, 4)


DRIVERS: tuple[tuple[Family, float], ...] = (
    (_flags, 3.0),
    (promotions, 2.0),
    (_levels, 1.5),
    (holidays, 1.5),
    (_steps, 1.0),
    (_course, 2.0),
    (_weather, 1.0),
    (_any_course, 0.7),
)


# --- several series --------------------------------------------------------------------------


def factor_groups(rng: Generator, lengths: Ints, time: int, group: Ints) -> Grouped:
    """Two targets that share a course, one perhaps ahead of the other."""
    rows = len(lengths)
    common = standard(windows(rng, lengths, time))
    lead = rng.integers(0, 9, size=(rows, 1)) * (rng.random((rows, 1)) < 0.5)
    share = log_column(rng, rows, 0.05, 1.0)
    first = common + share * irregular(rng, rows, time)
    second = shifted(common, lead) * rng.choice([-1.0, 1.0], p=[0.2, 0.8], size=(rows, 1))
    return _stacked([first, second + share * irregular(rng, rows, time)], [], group)


def graph_groups(rng: Generator, lengths: Ints, time: int, group: Ints) -> Grouped:
    """The last node of a causal graph of three, its causes covariates: planned or past alone."""
    values = causal_graph(rng, lengths, time, nodes=3).values
    rows = len(lengths)
    always = np.ones(rows, dtype=np.bool_)
    known = _some(rng, rows, 0.6)
    return _stacked([values[2]], [Covariate(cause, always, known) for cause in values[:2]], group)
