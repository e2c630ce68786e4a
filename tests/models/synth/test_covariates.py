"""Covariates bear on their targets as promised, and idle ones do not."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

from models.synth import covariates, series
from tests.models.synth.measures import coefficients, generator, lengths

if TYPE_CHECKING:
    from models.synth.parts import Floats


@pytest.mark.parametrize("maker", [maker for maker, _ in series.GROUPS], ids=lambda m: m.__name__)
@pytest.mark.parametrize("time", [9, 120])
def test_makers_give_targets_and_covariates(maker: covariates.Maker, time: int) -> None:
    mixed = np.array([0, 4, 7, 12, 52, 168] * 5)
    numbers = 100 + np.arange(30)
    made, again = (maker(generator(2), mixed, time, numbers) for _ in range(2))
    np.testing.assert_array_equal(made.values, again.values)
    assert made.values.shape == (len(made.group), time)
    assert np.isfinite(made.values).all()
    assert not (made.target & made.known).any()
    assert set(made.group[made.target]) == set(numbers)
    assert len(made.group) == len(made.target) == len(made.known)


def strength(target: Floats, covariate: Floats) -> Floats:
    """(rows,) largest correlation of the steps with the covariate's 0 to 6 periods before."""
    steps, drive = np.diff(target, axis=1), np.diff(covariate, axis=1)
    felt = []
    for lag in range(7):
        a, b = steps[:, lag:], drive[:, : drive.shape[1] - lag]
        size = np.sqrt((a**2).sum(axis=1) * (b**2).sum(axis=1))
        felt.append(np.abs((a * b).sum(axis=1)) / (size + 1e-9))
    return np.asarray(np.max(felt, axis=0))


def rows_of(made: series.Grouped, rows: int) -> list[Floats]:
    """The target and the covariates of makers that give each group all of them."""
    return list(made.values.reshape(-1, rows, made.values.shape[1]))


def test_a_response_is_to_the_first_covariate() -> None:
    made = covariates.response_groups(generator(), lengths(300, 0), 200, np.arange(300))
    target, driver, idle = rows_of(made, 300)
    assert np.median(strength(target, driver)) > 0.35
    assert np.median(strength(target, idle)) < 0.3


def test_clear_groups_respond_plainly_to_their_first_covariate() -> None:
    made = covariates.clear_groups(generator(), lengths(400, 0), 200, np.arange(400))
    target, driver = made.values[:400], made.values[400:800]
    varying = np.ptp(driver, axis=1) > 0
    assert np.median(strength(target[varying], driver[varying])) > 0.6
    assert made.known[400:800].mean() > 0.85


def test_drivers_are_flags_levels_and_courses() -> None:
    made = covariates.driver(generator(), lengths(600), 200)
    values = np.array([len(np.unique(row)) for row in made])
    assert (values == 2).mean() > 0.4  # flags
    assert ((values > 2) & (values < 12)).mean() > 0.08  # levels
    assert (values > 100).mean() > 0.2  # courses
    assert np.abs(made).max() < 12


def test_shop_groups_have_prices_and_promotions_together_and_apart() -> None:
    rows = 400
    made = covariates.shop_groups(generator(), lengths(rows), 150, np.arange(rows))
    covariate = ~made.target
    count = np.bincount(made.group[covariate], minlength=rows)
    assert count.min() >= 1
    assert 1.5 < count.mean() < 2.6
    assert (count >= 3).mean() > 0.1
    assert 0.03 < 1 - made.known[covariate].mean() < 0.35


def test_rivals_feel_each_others_promotions() -> None:
    rows = 400
    made = covariates.rival_groups(generator(), lengths(rows, 0), 200, np.arange(rows))
    assert (np.bincount(made.group[made.target]) == 2).all()
    signs = []
    for number in range(rows):
        members = made.values[made.group == number]
        flags = members[2:]
        changes = np.abs(np.diff(flags, axis=1)).sum(axis=1)
        plain = len(members) == 4 and set(np.unique(flags)) == {0.0, 1.0}
        if plain and changes.min() > 8 and members[0].min() > 20:
            other = coefficients(np.diff(np.log(members[0])), *np.diff(flags, axis=1))[1]
            signs.append(np.sign(other))
    assert len(signs) > 20
    assert np.mean(np.array(signs) < 0) > 0.7


def test_factor_groups_share_a_course() -> None:
    made = covariates.factor_groups(generator(), lengths(200, 0), 200, np.arange(200))
    first, second = rows_of(made, 200)
    alike = [abs(np.corrcoef(a, b)[0, 1]) for a, b in zip(first, second, strict=True)]
    assert np.median(alike) > 0.5
    assert made.target.all()


def test_causes_of_a_graph_bear_on_its_target() -> None:
    made = covariates.graph_groups(generator(), lengths(300, 0), 300, np.arange(300))
    target, first, _ = rows_of(made, 300)
    assert (strength(target, first) > 0.3).mean() > 0.4
    known = made.known[300:]
    assert 0.4 < known.mean() < 0.8
