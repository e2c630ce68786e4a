"""The parts that series are put together from: periods, coefficients, rates, variances, shares."""

from __future__ import annotations

import numpy as np
import pytest

from models.synth import parts
from tests.models.synth.measures import autocorrelation, generator, lengths


@pytest.mark.parametrize("length", [4, 7, 12, 52])
def test_a_season_has_its_period_and_unit_size(length: int) -> None:
    pattern = parts.season(generator(), lengths(40, length), 6 * length)
    np.testing.assert_allclose(pattern[:, length:], pattern[:, :-length])
    np.testing.assert_allclose(pattern.mean(axis=1), 0, atol=1e-9)
    np.testing.assert_allclose(pattern.std(axis=1), 1, rtol=1e-9)


def test_no_season_is_flat() -> None:
    assert not parts.season(generator(), lengths(5, 0), 30).any()


@pytest.mark.parametrize(("length", "year"), [(7, 365.25), (5, 260.9), (24, 168.0)])
def test_days_have_a_year_and_hours_a_week_around_them(length: int, year: float) -> None:
    wave = parts.outer_season(generator(), lengths(30, length), 3 * int(year))
    assert np.median(autocorrelation(wave, round(year))) > 0.6
    np.testing.assert_allclose(wave.std(axis=1), 1, atol=0.7)


def test_months_have_no_cycle_around_the_year() -> None:
    assert not parts.outer_season(generator(), lengths(5, 12), 60).any()


@pytest.mark.parametrize("lag", [1, 3, 7])
def test_a_recursion_is_what_a_loop_makes(lag: int) -> None:
    noise = generator().normal(size=(4, 50))
    phi = np.array([[-0.9], [0.2], [0.99], [1.0]])
    looped = noise.copy()
    for t in range(lag, 50):
        looped[:, t] += phi[:, 0] * looped[:, t - lag]
    np.testing.assert_allclose(parts.recursion(noise, phi, lag=lag), looped, atol=1e-8)
    seasonal = parts.seasonal_recursion(noise, phi, lengths(4, lag))
    np.testing.assert_allclose(seasonal, looped if lag > 1 else noise, atol=1e-8)


def test_an_autoregressive_series_has_its_coefficient() -> None:
    phi = np.array([[-0.5], [0.3], [0.8]])
    values = parts.autoregressive(generator(), phi, 4000)
    np.testing.assert_allclose(autocorrelation(values, 1), phi[:, 0], atol=0.06)


def test_a_cyclic_series_has_its_two_coefficients() -> None:
    radius, angle = np.array([[0.9], [0.7]]), np.array([[0.5], [2.0]])
    values = parts.cyclic(generator(), radius, angle, 6000)
    for row in range(2):
        design = np.stack([values[row, 1:-1], values[row, :-2]], axis=1)
        found = np.linalg.lstsq(design, values[row, 2:], rcond=None)[0]
        expected = [2 * radius[row, 0] * np.cos(angle[row, 0]), -(radius[row, 0] ** 2)]
        np.testing.assert_allclose(found, expected, atol=0.05)


def test_shifts_come_at_their_rate() -> None:
    levels = parts.shifts(generator(), 400, 100, rate=3.0)
    assert (np.diff(levels, axis=1) != 0).sum(axis=1).mean() == pytest.approx(3, rel=0.1)


def test_trends_start_at_zero_and_mostly_go_on() -> None:
    courses = parts.trend(generator(), 400, 100)
    np.testing.assert_allclose(courses[:, 0], 0, atol=0.05)
    assert 0.3 < np.median(np.abs(courses[:, -1])) < 1.5
    past, future = courses[:, 79] - courses[:, 60], courses[:, 99] - courses[:, 80]
    assert (np.sign(past) == np.sign(future)).mean() > 0.8


def test_a_gaussian_process_has_unit_variance_and_its_length_scale() -> None:
    paths = parts.gaussian_process(generator(), np.full((4000, 1), 0.1), 100)
    assert paths.var(axis=0) == pytest.approx(1, rel=0.12)
    at_one_scale = (paths[:, 20] * paths[:, 30]).mean()
    assert 0.35 < at_one_scale < 0.75  # exp(-1/2) for the squared exponential one
    assert abs((paths[:, 10] * paths[:, 80]).mean()) < 0.1


def test_noise_has_unit_size() -> None:
    noise = parts.irregular(generator(), 300, 300)
    assert np.median(noise.std(axis=1)) == pytest.approx(1, abs=0.1)


@pytest.mark.parametrize(("share", "longest"), [(0.05, 2), (0.3, 1), (0.3, 8)])
def test_spells_take_their_share_and_end(share: float, longest: int) -> None:
    rows = 400
    made = parts.spells(
        generator(),
        rows,
        300,
        share=np.full((rows, 1), share),
        longest=lengths(rows, longest)[:, None],
    )
    assert set(np.unique(made)) == {0.0, 1.0}
    assert made.mean() == pytest.approx(share, rel=0.25)


def test_shifted_rows_come_later() -> None:
    values = np.arange(6.0)[None, :].repeat(2, axis=0)
    late = parts.shifted(values, np.array([[0], [2]]))
    np.testing.assert_array_equal(late, [[0, 1, 2, 3, 4, 5], [0, 0, 0, 1, 2, 3]])


def test_a_mixture_takes_families_by_their_weights() -> None:
    def zeros(_: np.random.Generator, seasons: parts.Ints, time: int) -> parts.Floats:
        return np.zeros((len(seasons), time))

    def ones(_: np.random.Generator, seasons: parts.Ints, time: int) -> parts.Floats:
        return np.ones((len(seasons), time))

    mixed = parts.mixture(generator(), lengths(2000), 3, [(zeros, 3.0), (ones, 1.0)])
    assert mixed.mean() == pytest.approx(0.25, abs=0.04)
