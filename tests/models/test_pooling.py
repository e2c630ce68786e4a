"""Partial pooling: what a shop's articles have in common is where each one's effects begin."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from models.base import CheckpointError, Covariate, Series, SeriesTask
from models.effects import CovariateEffects, without_effects
from models.features import Rows, rows_of
from models.pooling import NOT_POOLED, PooledEffects, learned_effects, pooled_effects_of

Floats = NDArray[np.float64]
WEEKS, AHEAD = 60, 8
LIFT, ELASTICITY = 0.7, -1.5


def article(
    rng: np.random.Generator,
    *,
    promoted: float = 0.15,
    lift: float = LIFT,
    weeks: int = WEEKS,
    adds: bool = False,
) -> Series:
    """Sales of an article with its own price, that go up when it is promoted or cheaper."""
    time = weeks + AHEAD
    promotion = (rng.random(time) < promoted).astype(np.float64)
    full = rng.uniform(1, 50)
    price = full * rng.choice([1.0, 1.0, 1.0, 0.8], time)
    promotion[weeks : weeks + 2] = 1, 0
    price[weeks : weeks + 2] = full
    relative = price / full - 1
    if adds:
        sales = 40 * (lift * promotion + ELASTICITY * relative) + rng.normal(0, 4, time)
    else:
        level = rng.uniform(20, 200) * np.exp(lift * promotion + ELASTICITY * relative)
        sales = level * rng.lognormal(0, 0.15, time)
    known = {"promotion": promotion, "price": price}
    covariates = (Covariate(k, v[:weeks], v[weeks:]) for k, v in known.items())
    return Series(sales[None, :weeks], tuple(covariates), ())


def laid_out(*series: Series) -> Rows:
    tasks = [SeriesTask((one,), AHEAD, (0.5,)) for one in series]
    return rows_of(tasks, context_length=512, horizon=AHEAD)


def shop(count: int = 40, seed: int = 0, **article_s: Any) -> PooledEffects:
    rng = np.random.default_rng(seed)
    return learned_effects(laid_out(*(article(rng, **article_s) for _ in range(count))), ())


def effects(one: Series, pooled: PooledEffects) -> CovariateEffects:
    rows = laid_out(one)
    expected = pooled.of(rows.names)
    return without_effects(rows.past, rows.future, rows.group, rows.target, (), expected)


def lift_ahead(one: Series, pooled: PooledEffects) -> float:
    """Of the first period ahead, promoted, over the second, in logarithms."""
    factor = effects(one, pooled).factor[0]
    return float(np.log(factor[0] / factor[1]))


def test_what_a_shop_s_articles_have_in_common_is_found() -> None:
    learned = shop().by_name
    assert learned["promotion"].multiplies == pytest.approx(LIFT, abs=0.05)
    assert learned["price"].multiplies == pytest.approx(ELASTICITY, rel=0.1), "of relative prices"
    assert learned["promotion"].adds == 0, "no article's effects add"
    assert -0.25 < learned["price"].least < -0.1
    assert 0.8 < learned["promotion"].most <= 1


def test_effects_that_add_are_in_units_of_the_mean() -> None:
    learned = shop(adds=True).by_name
    rng = np.random.default_rng(0)
    size = np.mean([np.abs(article(rng, adds=True).target).mean() for _ in range(40)])
    assert learned["promotion"].adds * size == pytest.approx(40 * LIFT, rel=0.1)
    assert learned["promotion"].multiplies == 0


def test_effects_of_large_amounts_are_small_and_kept() -> None:
    rng = np.random.default_rng(0)
    shops = []
    for _ in range(40):
        spent = 1e5 * (rng.random(WEEKS + AHEAD) < 0.2) * rng.random(WEEKS + AHEAD)
        sales = 50 * np.exp(3e-6 * spent) * rng.lognormal(0, 0.1, len(spent))
        covariate = Covariate("advertising", spent[:WEEKS], spent[WEEKS:])
        shops.append(Series(sales[None, :WEEKS], (covariate,), ()))
    learned = learned_effects(laid_out(*shops), ()).by_name["advertising"]
    assert learned.multiplies == pytest.approx(3e-6, rel=0.1)


@pytest.mark.parametrize("weeks", [WEEKS, 6])
def test_an_article_never_promoted_is_foretold_by_the_others(weeks: int) -> None:
    new = article(np.random.default_rng(9), promoted=0.0, weeks=weeks)
    assert lift_ahead(new, NOT_POOLED) == pytest.approx(0, abs=0.05)
    assert lift_ahead(new, shop()) == pytest.approx(LIFT, abs=0.15)


def test_an_article_that_knows_better_keeps_its_own_effect() -> None:
    other = article(np.random.default_rng(3), promoted=0.3, lift=0.0)
    assert abs(lift_ahead(other, shop())) < 0.15


def test_other_names_expect_nothing() -> None:
    rows = laid_out(article(np.random.default_rng(1)))
    assert rows.names == (None, "price", "promotion")
    assert shop().of([None, "discount", "holiday"]) is None
    expected = shop().of(["holiday", "promotion"])
    assert expected is not None
    assert expected.multiplies[0] == 0 < expected.multiplies[1]


def test_categories_are_not_pooled() -> None:
    colour = np.array(["red", "blue"] * (WEEKS // 2), dtype=object)
    one = article(np.random.default_rng(1))
    covariate = Covariate("colour", colour, colour[:AHEAD])
    rows = laid_out(Series(one.target, (*one.covariates, covariate), ()))
    assert sorted(name for name in rows.names if name is not None) == ["price", "promotion"]
    assert set(learned_effects(rows, ()).by_name) == {"price", "promotion"}


def test_what_no_article_has_seen_counts_as_the_most_that_was() -> None:
    one = article(np.random.default_rng(4), promoted=0.0)
    promotion, price = one.covariates
    assert promotion.future is not None
    in_per_cent = Covariate("promotion", promotion.past, 100 * promotion.future)
    wrong = Series(one.target, (in_per_cent, price), ())
    by_ones, by_hundreds = (effects(each, shop()).factor for each in (one, wrong))
    np.testing.assert_allclose(by_hundreds, by_ones, rtol=0.05)


def test_what_is_taken_out_comes_back() -> None:
    one = article(np.random.default_rng(5))
    found = effects(one, shop())
    ahead = np.random.default_rng(0).uniform(1, 100, (1, 1, AHEAD))
    np.testing.assert_allclose(found.remove(found.restore(ahead)[:, 0]), ahead[:, 0])


def test_articles_that_hardly_sell_teach_and_expect_nothing() -> None:
    rare = np.zeros((1, WEEKS))
    rare[0, ::9] = 3
    one = Series(rare, article(np.random.default_rng(6)).covariates, ())
    assert learned_effects(laid_out(one), ()).by_name["price"].multiplies == 0
    found = effects(one, shop())
    np.testing.assert_array_equal(found.adjusted, rare)
    assert (found.factor == 1).all()
    assert (found.offset == 0).all()


def test_a_checkpoint_says_what_was_learned() -> None:
    learned = shop()
    assert pooled_effects_of({"pooled_effects": learned.option()}) == learned
    assert pooled_effects_of({}) == NOT_POOLED
    halved = learned.by_name["price"].shrunk(0.5)
    assert halved.multiplies == learned.by_name["price"].multiplies / 2
    assert halved.least == learned.by_name["price"].least


GOOD = {"multiplies": 0.5, "adds": 0.0, "least": -1.0, "most": 1.0}


@pytest.mark.parametrize(
    ("said", "message"),
    [
        ([], "is not an object"),
        ({"price": 1.0}, "price must have multiplies, adds, least, most"),
        ({"price": {"multiplies": 1.0}}, "price must have"),
        ({"price": GOOD | {"adds": "much"}}, "price must be of finite numbers"),
        ({"price": GOOD | {"adds": float("nan")}}, "price must be of finite numbers"),
        ({"price": GOOD | {"least": 0.5}}, "least at most 0"),
    ],
)
def test_what_makes_no_sense_is_refused(said: object, message: str) -> None:
    with pytest.raises(CheckpointError, match=message):
        pooled_effects_of({"pooled_effects": said})
