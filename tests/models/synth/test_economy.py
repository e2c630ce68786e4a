"""Economies grow by the year and keep growing; tourism has a strong season and crises."""

from __future__ import annotations

import numpy as np
import pytest

from models.synth import economy
from tests.models.synth.measures import autocorrelation, generator, lengths


@pytest.mark.parametrize("length", [0, 4, 12])
def test_economic_growth_is_by_the_year_whatever_its_periods(length: int) -> None:
    years = 12
    values = economy.economic(generator(), lengths(600, length), years * max(length, 1))
    positive = values[values.min(axis=1) > 0]
    third = max(1, positive.shape[1] // 3)
    first, last = positive[:, :third].mean(axis=1), positive[:, -third:].mean(axis=1)
    growth = np.log(last / first)
    assert 0.1 < np.median(growth) < 0.8
    assert 0.05 < (growth < 0).mean() < 0.5


def test_economic_growth_goes_on() -> None:
    values = economy.economic(generator(), lengths(600, 0), 36)
    past, future = values[:, 29] - values[:, 10], values[:, 35] - values[:, 29]
    assert np.corrcoef(np.sign(past), np.sign(future))[0, 1] > 0.3


@pytest.mark.parametrize("length", [4, 12])
def test_tourism_has_a_strong_season_in_proportion(length: int) -> None:
    values = economy.tourism(generator(), lengths(400, length), 15 * length)
    assert values.min() > 0
    shown = autocorrelation(np.diff(np.log(values), axis=1), length)
    assert np.median(shown) > 0.7


def test_tourism_grows_and_some_of_it_has_crises() -> None:
    logs = np.log(economy.tourism(generator(), lengths(400, 0), 40))
    assert np.median(logs[:, -1] - logs[:, 0]) > 0.5
    assert (np.diff(logs, axis=1).min(axis=1) < -0.2).mean() > 0.15
