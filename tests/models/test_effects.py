"""Effects of known covariates: taken out of the past, put back into the future."""

import numpy as np
import pytest
from numpy.typing import NDArray

from models.effects import CovariateEffects, without_effects
from models.seasonal import adjust

Floats = NDArray[np.float64]
PAST, HORIZON = 120, 16


def drawn(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def flags(rng: np.random.Generator, share: float = 0.15) -> Floats:
    return (rng.random(PAST + HORIZON) < share).astype(np.float64)


def apart(*rows: Floats) -> tuple[Floats, Floats, NDArray[np.intp], NDArray[np.bool_]]:
    """The first row as a target, the others as known covariates, in one group."""
    whole = np.stack(rows)
    future = whole[:, PAST:].copy()
    future[0] = np.nan
    target = np.arange(len(rows)) == 0
    return whole[:, :PAST], future, np.zeros(len(rows), dtype=np.intp), target


def test_a_promotion_s_lift_is_found_and_returns() -> None:
    rng = drawn()
    promotion = flags(rng)
    sales = 100 * np.exp(0.6 * promotion + 0.1 * rng.normal(size=PAST + HORIZON))
    effects = without_effects(*apart(sales, promotion))
    steps = effects.restore(np.full((1, 1, HORIZON), 100.0))[0, 0]
    lift = steps[promotion[PAST:] == 1].mean() / steps[promotion[PAST:] == 0].mean()
    assert lift == pytest.approx(np.exp(0.6), rel=0.1)
    rest = np.log(effects.adjusted[0])
    assert abs(rest[promotion[:PAST] == 1].mean() - rest[promotion[:PAST] == 0].mean()) < 0.08


def test_effects_add_where_there_are_zeros_or_negative_values() -> None:
    rng = drawn(1)
    promotion = flags(rng)
    balance = 5 * promotion + rng.normal(size=PAST + HORIZON)
    effects = without_effects(*apart(balance, promotion))
    assert (effects.factor == 1).all()
    on, off = (effects.offset[0, promotion[PAST:] == flag].mean() for flag in (1, 0))
    assert on - off == pytest.approx(5, rel=0.2)


def test_a_trend_in_both_feigns_no_effect() -> None:
    rng = drawn(2)
    price = np.linspace(1, 2, PAST + HORIZON) + 0.01 * rng.normal(size=PAST + HORIZON)
    sales = np.linspace(50, 150, PAST + HORIZON) + rng.normal(size=PAST + HORIZON)
    effects = without_effects(*apart(sales, price))
    assert np.abs(np.log(effects.factor)).max() < 0.02


def test_what_bears_on_nothing_moves_little() -> None:
    moved = []
    for seed in range(30):
        rng = drawn(seed)
        rows = [100 + 10 * rng.normal(size=PAST + HORIZON), *(flags(rng, 0.3) for _ in range(5))]
        effects = without_effects(*apart(*rows))
        moved.append(np.abs(np.log(effects.factor)).mean())
    assert np.mean(moved) < 0.01, "a tenth of the noise"


@pytest.mark.parametrize(("days", "believed"), [((50,), False), ((20, 60, 100), True)])
def test_what_happened_once_bears_no_witness(days: tuple[int, ...], *, believed: bool) -> None:
    rng = drawn(7)
    event = np.zeros(PAST + HORIZON)
    event[[*days, PAST + 3]] = 1
    sales = 100 * np.exp(0.8 * event + 0.1 * rng.normal(size=PAST + HORIZON))
    factor = without_effects(*apart(sales, event)).factor[0]
    lift = np.log(factor[3] / np.delete(factor, 3).mean())
    assert lift > 0.6 if believed else lift < 0.2


@pytest.mark.parametrize(("known", "believed"), [(PAST // 3, False), (PAST // 2, True)])
def test_what_is_known_of_a_third_bears_no_witness(known: int, *, believed: bool) -> None:
    """However plain another covariate's effect is."""
    rng = drawn(8)
    promotion, markdown = flags(rng), 1.0 * flags(rng, 0.3)
    markdown[: PAST - known] = np.nan
    lift = 0.6 * promotion + 0.6 * np.nan_to_num(markdown)
    sales = 100 * np.exp(lift + 0.1 * rng.normal(size=PAST + HORIZON))
    both, one = (without_effects(*apart(sales, *k)) for k in ((promotion, markdown), (promotion,)))
    moved = np.abs(np.log(both.factor / one.factor)).max()
    assert moved > 0.4 if believed else moved < 1e-9


def test_collinear_covariates_share_their_effect() -> None:
    rng = drawn(3)
    promotion = flags(rng)
    price = 10 - 2 * promotion
    sales = 100 * np.exp(0.5 * promotion + 0.05 * rng.normal(size=PAST + HORIZON))
    one = without_effects(*apart(sales, promotion))
    both = without_effects(*apart(sales, promotion, price))
    np.testing.assert_allclose(both.factor, one.factor, rtol=0.03)


def test_a_covariate_known_for_the_past_alone_is_left_to_the_network() -> None:
    past, future, group, target = apart(*(drawn(i).normal(size=PAST + HORIZON) for i in range(2)))
    future[1] = np.nan
    effects = without_effects(past, future, group, target)
    np.testing.assert_array_equal(effects.adjusted[0], past[0])
    assert (effects.factor == 1).all()
    assert (effects.offset == 0).all()


def test_groups_do_not_mix() -> None:
    rng = drawn(4)
    cases = []
    for number in range(6):
        drivers = [flags(rng) for _ in range(number % 3)]
        sales = 20 + 8 * sum(drivers, np.zeros(PAST + HORIZON)) + rng.normal(size=PAST + HORIZON)
        cases.append(apart(sales, *drivers))
    past, future = (np.concatenate([case[i] for case in cases]) for i in (0, 1))
    group = np.repeat(np.arange(6), [len(case[0]) for case in cases])
    together = without_effects(past, future, group, np.concatenate([case[3] for case in cases]))
    for row, case in enumerate(cases):
        alone = without_effects(*case)
        np.testing.assert_allclose(together.adjusted[row], alone.adjusted[0], rtol=1e-9)
        np.testing.assert_allclose(together.factor[row], alone.factor[0], rtol=1e-9)


def weeks(*phases: int) -> Floats:
    """(4 years of 52 weeks,) 1 in one week of each year, the last year the future."""
    flags = np.zeros((4, 52))
    flags[range(4), phases] = 1
    return flags.ravel()


def beyond_the_season(sales: Floats, *known: Floats) -> CovariateEffects:
    """Effects on three years of weekly sales whose season has left."""
    whole = np.stack([sales, *known])
    past, future = whole[:, :156].copy(), whole[:, 156:].copy()
    future[0] = np.nan
    target = np.arange(len(whole)) == 0
    adjustment = adjust(past[target], [(52,)])
    past[target] = adjustment.adjusted
    return without_effects(past, future, np.zeros(len(whole), int), target, adjustment.shares)


def seasonal_sales(rng: np.random.Generator, lift: Floats) -> Floats:
    season = 0.3 * np.sin(2 * np.pi * np.arange(208) / 52)
    return np.asarray(100 * np.exp(season + lift + 0.03 * rng.normal(size=208)))


def test_a_holiday_that_moves_is_found_where_it_moves() -> None:
    holiday = weeks(13, 16, 12, 15)
    sales = seasonal_sales(drawn(8), 0.5 * holiday)
    lift = np.log(beyond_the_season(sales, holiday).factor[0])
    assert lift[15] > 0.25
    assert np.abs(np.delete(lift, (12, 13, 15, 16))).max() < 0.05
    assert lift[12] < -0.02, "the season has some of last year's week"


def test_a_holiday_of_the_same_week_is_left_to_the_season() -> None:
    rng = drawn(9)
    holiday = weeks(13, 13, 13, 13) + weeks(40, 40, 40, 40)
    sales = seasonal_sales(rng, 0.6 * weeks(13, 13, 13, 13))  # one holiday lifts, one does not
    lift = np.log(beyond_the_season(sales, holiday).factor[0])
    assert np.abs(lift).max() < 0.03


def test_what_is_known_of_one_year_explains_no_season() -> None:
    moved = []
    for seed in range(10):
        rng = drawn(seed)
        markdown, holiday = rng.gamma(0.5, 1000, size=208), weeks(13, 16, 12, 15)
        markdown[:104] = np.nan
        sales = seasonal_sales(rng, 0.5 * holiday)
        both, one = (beyond_the_season(sales, *k) for k in ((holiday, markdown), (holiday,)))
        moved.append(np.abs(np.log(both.factor / one.factor)).mean())
    assert np.mean(moved) < 0.002, "a fifteenth of the noise"


def test_a_season_is_its_own_target_s() -> None:
    rng = drawn(10)
    holiday = weeks(13, 16, 12, 15)
    targets = [
        seasonal_sales(rng, 0.5 * holiday),
        100 * np.exp(0.5 * holiday + 0.03 * rng.normal(size=208)),
    ]
    past = np.stack([targets[0], holiday, targets[1], holiday])[:, :156]
    future = np.stack([np.full(52, np.nan), holiday[156:]] * 2)
    target, group = np.array([True, False] * 2), np.repeat([0, 1], 2)
    adjustment = adjust(past[target], [(52,), ()])
    past[target] = adjustment.adjusted
    together = without_effects(past, future, group, target, adjustment.shares)
    alone = beyond_the_season(targets[0], holiday)
    np.testing.assert_allclose(together.factor[0], alone.factor[0], rtol=1e-9)
    plain = without_effects(past[2:], future[2:], group[2:], target[2:])
    np.testing.assert_allclose(together.factor[1], plain.factor[0], rtol=1e-9)


def test_removing_undoes_restoring() -> None:
    rng = drawn(5)
    promotion = flags(rng)
    effects = without_effects(*apart(30 + 9 * promotion + rng.normal(size=136), promotion))
    future = rng.normal(size=(1, HORIZON))
    np.testing.assert_allclose(effects.restore(effects.remove(future)[:, None])[:, 0], future)


@pytest.mark.parametrize(
    "sales",
    [np.full(136, np.nan), np.zeros(136), np.full(136, 3.0), np.r_[np.zeros(119), np.ones(17)]],
    ids=["nothing", "zeros", "constant", "one value"],
)
def test_hard_histories_stay_as_they_are(sales: Floats) -> None:
    effects = without_effects(*apart(sales, flags(drawn(6)), np.full(136, 2.0)))
    np.testing.assert_allclose(effects.adjusted[0], sales[:PAST])
    assert np.isfinite(effects.factor).all()
    assert np.isfinite(effects.offset).all()
