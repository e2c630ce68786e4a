"""The guide: what a good statistical method expects, for every history."""

import numpy as np
import pytest
from numpy.typing import NDArray

from models.guide import LENGTHS, guide

Floats = NDArray[np.float64]


def noise(*shape: int, seed: int = 0) -> Floats:
    return np.random.default_rng(seed).normal(size=shape)


def test_a_level_goes_on() -> None:
    values = 50 + noise(20, 100)
    answer = guide(values, 12)
    assert answer.shape == (20, 12)
    assert np.abs(answer - 50).max() < 1.5


def test_a_trend_goes_on() -> None:
    values = np.arange(60.0) * 3 + 0.5 * noise(20, 60)
    expected = 3 * np.arange(60.0, 72.0)
    assert np.abs(guide(values, 12) - expected).max() < 6


def test_without_trends_a_trend_goes_on_by_half_at_most() -> None:
    values = np.arange(60.0) * 3 + 0.5 * noise(20, 60)
    rise = guide(values, 12, trends=False)[:, -1] - values[:, -1]
    assert (rise > 0).all()
    assert (rise < 0.7 * 12 * 3).all()


def test_a_random_walk_goes_on_from_its_last_value() -> None:
    values = np.cumsum(noise(50, 200), axis=1)
    step = guide(values, 1)[:, 0]
    assert np.mean((step - values[:, -1]) ** 2) < 0.1


def test_it_beats_each_simple_forecast_on_what_that_does_not_suit() -> None:
    t, count = np.arange(120.0), 200
    trends = t * np.abs(noise(count, 1, seed=1)) + 5 * noise(count, 120, seed=2)
    levels = 5 * noise(count, 120, seed=3)
    values = np.concatenate([trends, levels])
    past, truth = values[:, :108], values[:, 108:]
    error = np.abs(guide(past, 12) - truth).mean()
    assert error < 0.9 * np.abs(past[:, -1:] - truth).mean(), "naive"
    assert error < 0.7 * np.abs(past.mean(axis=1, keepdims=True) - truth).mean(), "mean"


@pytest.mark.parametrize("time", [1, 2, 5, *LENGTHS, LENGTHS[-1] + 40, 700])
def test_it_moves_and_scales_with_the_history(time: int) -> None:
    values = np.cumsum(noise(8, time), axis=1)
    answer = guide(values, 20)
    np.testing.assert_allclose(guide(1e6 * values, 20), 1e6 * answer, rtol=1e-3, atol=10)
    np.testing.assert_allclose(guide(values + 40, 20), answer + 40, atol=1e-3 * (1 + time) ** 0.5)


def test_a_row_depends_on_itself_alone() -> None:
    values = np.cumsum(noise(40, 90), axis=1)
    together = guide(values, 16)
    for row in range(40):
        np.testing.assert_allclose(guide(values[row : row + 1], 16)[0], together[row], atol=1e-4)


@pytest.mark.parametrize("time", [1, 2, 3, 50, 128])
@pytest.mark.parametrize("lead", [10, 300])
def test_padding_does_not_matter(time: int, lead: int) -> None:
    values = np.cumsum(noise(6, time), axis=1)
    padded = np.pad(values, ((0, 0), (lead, 0)), constant_values=np.nan)
    np.testing.assert_allclose(guide(padded, 8), guide(values, 8), atol=1e-4)


def test_gaps_are_bridged() -> None:
    values = np.arange(80.0)[None] + 0.1 * noise(1, 80)
    values[:, 20:60:3] = np.nan
    assert np.abs(guide(values, 5) - np.arange(80.0, 85.0)).max() < 4


@pytest.mark.parametrize(
    "values",
    [
        np.full((1, 30), np.nan),
        np.full((1, 30), 7.0),
        np.array([[3.0]]),
        np.full((1, 50), 3e38),
        np.exp(np.linspace(0, 80, 100))[None],
        np.array([[np.nan] * 20 + [5.0]]),
    ],
    ids=["nothing", "constant", "one value", "huge", "explosive", "one value late"],
)
def test_hard_histories_get_finite_guides(values: Floats) -> None:
    answer = guide(values, 40)
    assert np.isfinite(answer).all()
    if not np.isnan(values).all() and np.nanstd(values) == 0:
        np.testing.assert_allclose(answer, np.nanmax(values), rtol=1e-6)
