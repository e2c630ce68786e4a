"""Training draws finite, repeatable series of all families, a quarter of them shops."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

from models.synth import series as synth
from models.synth.mixture import shares
from models.synth.shops import shop_sales, store_sales
from tests.models.synth.measures import autocorrelation, generator, lengths

if TYPE_CHECKING:
    from models.synth.series import Family

FAMILIES = [family for family, _ in synth.FAMILIES]


@pytest.mark.parametrize("family", FAMILIES, ids=lambda f: f.__name__)
@pytest.mark.parametrize("time", [2, 24, 300])
def test_a_family_is_finite_and_repeatable(family: Family, time: int) -> None:
    mixed = np.array([0, 4, 7, 12, 52, 168] * 5)
    first, again = (family(generator(3), mixed, time) for _ in range(2))
    assert first.shape == (30, time)
    assert np.isfinite(first).all()
    np.testing.assert_array_equal(first, again)


@pytest.mark.parametrize("family", FAMILIES, ids=lambda f: f.__name__)
def test_a_family_draws_as_many_rows_as_are_asked_for(family: Family) -> None:
    for rows in (0, 1):
        assert family(generator(), lengths(rows), 30).shape == (rows, 30)


def test_windows_mix_families_and_flip_a_few() -> None:
    values = synth.windows(generator(), lengths(1000), 60)
    assert np.isfinite(values).all()
    assert 0.03 < (values.max(axis=1) <= 0).mean() < 0.2


@pytest.mark.parametrize("length", [4, 7, 12, 24, 52])
def test_windows_have_the_season_asked_for(length: int) -> None:
    values = np.diff(synth.windows(generator(), lengths(400, length), 12 * length), axis=1)
    shown, beside = (np.median(autocorrelation(values, lag)) for lag in (length, length + 1))
    assert shown > 0.15
    assert shown > beside + 0.15


@pytest.mark.parametrize("daily", [True, False])
def test_a_quarter_of_the_windows_are_shops(*, daily: bool) -> None:
    weights = dict(zip(FAMILIES, shares(daily=daily), strict=True))
    assert weights[shop_sales] + weights[store_sales] >= (0.4 if daily else 0.19)
    listed = dict(synth.FAMILIES)
    total = sum(listed.values())
    assert (listed[shop_sales] + listed[store_sales]) / total >= 0.25


def test_singles_are_targets_alone() -> None:
    made = synth.singles(generator(), lengths(20), 40)
    assert made.target.all()
    assert not made.known.any()
    np.testing.assert_array_equal(made.group, np.arange(20))


def test_groups_hold_targets_and_covariates() -> None:
    made, again = (synth.groups(generator(), lengths(200), 60) for _ in range(2))
    np.testing.assert_array_equal(made.values, again.values)
    assert np.isfinite(made.values).all()
    assert not (made.target & made.known).any()
    targets = np.bincount(made.group[made.target], minlength=200)
    assert set(targets) == {1, 2}
    assert 2.5 < len(made.group) / 200 < 3.6
    assert made.known[~made.target].mean() > 0.6
    assert (~made.known & ~made.target).any()
