"""Tasks are told apart by their keys, and what was kept of a result comes back bit for bit."""

from dataclasses import replace
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.kinds import PURCHASE, SERIES
from models.base import (
    Covariate,
    Customer,
    Explanation,
    PurchaseForecast,
    PurchaseTask,
    Series,
    SeriesForecast,
    SeriesResult,
    SeriesTask,
)

PAST = np.array([1.0, 2.0])
BASE = Series(np.array([[1.0, 2.0, 3.0, 4.0]]))


def words(*values: object) -> Covariate:
    return Covariate("w", np.array(values, dtype=object))


def with_covariates(*covariates: Covariate) -> SeriesTask:
    return SeriesTask((replace(BASE, covariates=covariates),), 2, (0.5,))


DIFFERENT = [
    SeriesTask((BASE,), 2, (0.5,)),
    SeriesTask((BASE,), 3, (0.5,)),
    SeriesTask((BASE,), 2, (0.5, 0.9)),
    SeriesTask((BASE,), 2, (0.9, 0.5)),
    SeriesTask((BASE, BASE), 2, (0.5,)),
    SeriesTask((replace(BASE, target=BASE.target.reshape(2, 2)),), 2, (0.5,)),
    SeriesTask((replace(BASE, target=BASE.target[:, :3]),), 2, (0.5,)),
    SeriesTask((replace(BASE, target=BASE.target.astype(np.float32)),), 2, (0.5,)),
    SeriesTask((replace(BASE, target=BASE.target[:, ::-1]),), 2, (0.5,)),
    SeriesTask((replace(BASE, season_lengths=()),), 2, (0.5,)),
    SeriesTask((replace(BASE, season_lengths=(7,)),), 2, (0.5,)),
    SeriesTask((replace(BASE, season_lengths=(7, 30)),), 2, (0.5,)),
    SeriesTask((replace(BASE, non_negative=True),), 2, (0.5,)),
    SeriesTask((replace(BASE, censored=np.array([True, False, False, False])),), 2, (0.5,)),
    SeriesTask((replace(BASE, censored=np.array([False, True, False, False])),), 2, (0.5,)),
    SeriesTask((replace(BASE, censored=np.array([False] * 4)),), 2, (0.5,)),
    SeriesTask(
        (replace(BASE, target=BASE.target[:, :2]), replace(BASE, target=BASE.target[:, 2:])),
        2,
        (0.5,),
    ),
    with_covariates(Covariate("a", PAST)),
    with_covariates(Covariate("a", PAST), Covariate("b", PAST[::-1])),
    with_covariates(Covariate("a", PAST[::-1]), Covariate("b", PAST)),
    with_covariates(Covariate("a", PAST, PAST)),
    with_covariates(Covariate("a", PAST), Covariate("b", PAST)),
    with_covariates(Covariate("a", np.concatenate((PAST, PAST)))),
    with_covariates(words("a", "bc")),
    with_covariates(words("ab", "c")),
    with_covariates(words("abc", "")),
    with_covariates(words("", "abc")),
    with_covariates(words("abc")),
    with_covariates(words("'abc")),
    with_covariates(words(None, "a")),
    with_covariates(words("None", "a")),
    with_covariates(words("NoneType:None", "a")),
    with_covariates(words(1, 2)),
    with_covariates(words(1.0, 2)),
    with_covariates(words("1", "2")),
    with_covariates(words(True, 2)),
]


def test_different_tasks_have_different_keys() -> None:
    keys = [SERIES.key("f", one) for one in DIFFERENT] + [SERIES.key("g", DIFFERENT[0])]
    for (i, one), (j, other) in combinations(enumerate(keys), 2):
        assert one != other, f"tasks {i} and {j} have the same key"


def test_equal_tasks_have_equal_keys_whatever_their_memory_looks_like() -> None:
    wide = np.asfortranarray(np.arange(12.0).reshape(3, 4))
    one = SeriesTask((Series(wide),), 2, (0.5,))
    other = SeriesTask((Series(np.ascontiguousarray(wide)),), 2, (0.5,))
    assert SERIES.key("f", one) == SERIES.key("f", other)


def test_the_name_of_a_covariate_moves_no_answer_and_no_key() -> None:
    one, other = (with_covariates(Covariate(name, PAST)) for name in ("price", "cost"))
    assert SERIES.key("f", one) == SERIES.key("f", other)


CATEGORIES = st.lists(st.one_of(st.none(), st.text(max_size=3)), min_size=1, max_size=4)


@given(CATEGORIES, CATEGORIES)
def test_categories_are_told_apart(one: list[str | None], other: list[str | None]) -> None:
    keys = [SERIES.key("f", with_covariates(words(*values))) for values in (one, other)]
    assert (keys[0] == keys[1]) == (one == other)


def forecast(targets: int = 1, levels: int = 3, steps: int = 4) -> SeriesForecast:
    random = np.random.default_rng(targets + levels + steps)
    return SeriesForecast(
        quantiles=random.normal(size=(targets, levels, steps)) * 1e6,
        mean=random.normal(size=(targets, steps)) / 3,
    )


@pytest.mark.parametrize(
    "result",
    [
        (),
        (forecast(),),
        (forecast(2, 1, 1), forecast(1, 21, 64)),
        (forecast(1, 0, 5),),
    ],
)
def test_a_result_comes_back_bit_for_bit(result: SeriesResult) -> None:
    value = SERIES.encode(result)
    found = SERIES.decode(value)
    assert len(found) == len(result)
    for one, other in zip(found, result, strict=True):
        for mine, theirs in ((one.quantiles, other.quantiles), (one.mean, other.mean)):
            assert mine.dtype == np.float64
            np.testing.assert_array_equal(mine, theirs)
    assert SERIES.encode(found) == value


def test_rounding_keeps_quantiles_in_order() -> None:
    random = np.random.default_rng(1)
    quantiles = np.sort(1e7 + random.normal(size=(1, 99, 50)), axis=1)
    found = SERIES.decode(SERIES.encode((SeriesForecast(quantiles, quantiles[:, 0]),)))
    assert (np.diff(found[0].quantiles, axis=1) >= 0).all()


@pytest.mark.parametrize("damage", [b"", b"\x00", b"\x09\x01\x00\x00\x00", b"cut", b"longer"])
def test_a_damaged_value_is_refused(damage: bytes) -> None:
    value = SERIES.encode((forecast(),))
    damaged = {b"cut": value[:-4], b"longer": value + b"\x00"}.get(damage, damage)
    with pytest.raises(ValueError, match=r"."):
        SERIES.decode(damaged)


CUSTOMER = Customer(
    days_ago=np.array([3.5, 1.25]),
    types=np.array([0, 4], dtype=np.int8),
    amounts=np.array([np.nan, 9.5]),
    quantities=np.array([np.nan, 1.0]),
    items=np.array([5, -1]),
    categories=np.array([-1, 7]),
    first_days_ago=3.5,
    first_purchase_days_ago=1.25,
    purchase_days=1,
    spend=9.5,
    spend_days=1,
    observed_days=np.nan,
    truncated=False,
)
ASKED = PurchaseTask(CUSTOMER, np.arange(3.0), 0.25, 2, (7.0, 30.0), 180.0)


def changed(name: str, value: object) -> PurchaseTask:
    return replace(ASKED, customer=replace(CUSTOMER, **{name: value}))  # type: ignore[arg-type]


OTHER_PURCHASES = [
    ASKED,
    replace(ASKED, context=None),
    replace(ASKED, context=np.zeros(3)),
    replace(ASKED, context=np.arange(2.0)),
    replace(ASKED, year_phase=0.5),
    replace(ASKED, weekday=3),
    replace(ASKED, horizons_days=(7.0,)),
    replace(ASKED, horizons_days=(30.0, 7.0)),
    replace(ASKED, churn_window_days=90.0),
    replace(ASKED, explain_days=30.0),
    replace(ASKED, explain_days=7.0),
    changed("days_ago", np.array([3.5, 1.5])),
    changed("types", np.array([1, 4], dtype=np.int8)),
    changed("amounts", np.array([9.5, np.nan])),
    changed("quantities", np.array([1.0, np.nan])),
    changed("items", np.array([-1, 5])),
    changed("categories", np.array([7, -1])),
    changed("first_days_ago", 9.0),
    changed("first_purchase_days_ago", np.nan),
    changed("purchase_days", 2),
    changed("spend", 9.0),
    changed("spend_days", 2),
    changed("observed_days", 100.0),
    changed("truncated", True),
]


def test_different_questions_about_customers_have_different_keys() -> None:
    keys = [PURCHASE.key("f", one) for one in OTHER_PURCHASES] + [PURCHASE.key("g", ASKED)]
    assert len(set(keys)) == len(keys)
    assert PURCHASE.key("f", replace(ASKED, context=np.arange(3.0))) == keys[0]


WHY = Explanation(30.0, -1.5, np.array([0.1, 1 / 3]), {"recency": 1e-17, "the shop": -2 / 3})


def purchase(explanation: Explanation | None = None) -> PurchaseForecast:
    return PurchaseForecast(
        np.array([0.1, 1 / 3]), 2 / 3, np.array([0.2, 0.7]), np.array([np.nan, 1e9]), explanation
    )


@pytest.mark.parametrize("explanation", [None, WHY])
def test_a_purchase_forecast_comes_back_bit_for_bit(explanation: Explanation | None) -> None:
    value = PURCHASE.encode(purchase(explanation))
    found = PURCHASE.decode(value)
    assert found.churn == 2 / 3
    for name in ("probability", "purchases", "spend"):
        np.testing.assert_array_equal(getattr(found, name), getattr(purchase(), name))
    if explanation is not None:
        assert found.explanation is not None
        assert (found.explanation.days, found.explanation.base) == (30.0, -1.5)
        assert found.explanation.traits == explanation.traits
        np.testing.assert_array_equal(found.explanation.events, explanation.events)
    assert PURCHASE.encode(found) == value


@pytest.mark.parametrize("explanation", [None, WHY])
def test_a_damaged_purchase_forecast_is_refused(explanation: Explanation | None) -> None:
    value = PURCHASE.encode(purchase(explanation))
    for damaged in (b"", b"\x09" + value[1:], value[:-1], value[:20], value + b"\x00"):
        with pytest.raises(ValueError, match=r"."):
            PURCHASE.decode(damaged)
