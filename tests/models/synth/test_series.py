"""Every generator keeps its promise: period, dispersion, elasticity, occurrence, roots, lift."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

from models.synth import series as synth

if TYPE_CHECKING:
    from models.synth.series import Family, Floats, Ints

FAMILIES = [family for family, _ in synth.FAMILIES]


def generator(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def lengths(rows: int, length: int = 7) -> Ints:
    return np.full(rows, length)


def autocorrelation(values: Floats, lag: int) -> Floats:
    centred = values - values.mean(axis=1, keepdims=True)
    return np.asarray((centred[:, lag:] * centred[:, :-lag]).sum(axis=1) / (centred**2).sum(axis=1))


@pytest.mark.parametrize("family", FAMILIES, ids=lambda f: f.__name__)
@pytest.mark.parametrize("time", [2, 24, 300])
def test_a_family_is_finite_and_repeatable(family: Family, time: int) -> None:
    mixed = np.array([0, 4, 7, 12, 52, 168] * 5)
    first, again = (family(generator(3), mixed, time) for _ in range(2))
    assert first.shape == (30, time)
    assert np.isfinite(first).all()
    np.testing.assert_array_equal(first, again)


@pytest.mark.parametrize("length", [4, 7, 12, 52])
def test_a_season_has_its_period_and_unit_size(length: int) -> None:
    pattern = synth.season(generator(), lengths(40, length), 6 * length)
    np.testing.assert_allclose(pattern[:, length:], pattern[:, :-length])
    np.testing.assert_allclose(pattern.mean(axis=1), 0, atol=1e-9)
    np.testing.assert_allclose(pattern.std(axis=1), 1, rtol=1e-9)


def test_no_season_is_flat() -> None:
    assert not synth.season(generator(), lengths(5, 0), 30).any()


def test_an_autoregressive_series_has_its_coefficient() -> None:
    phi = np.array([[-0.5], [0.3], [0.8]])
    values = synth.autoregressive(generator(), phi, 4000)
    np.testing.assert_allclose(autocorrelation(values, 1), phi[:, 0], atol=0.06)


def test_shifts_come_at_their_rate() -> None:
    levels = synth.shifts(generator(), 400, 100, rate=3.0)
    assert (np.diff(levels, axis=1) != 0).sum(axis=1).mean() == pytest.approx(3, rel=0.1)


def test_a_random_walk_has_steps_and_goes_on() -> None:
    walks = synth.random_walk(generator(), lengths(400, 0), 200)
    past, future = (np.diff(part, axis=1).mean(axis=1) for part in (walks[:, :150], walks[:, 150:]))
    assert np.corrcoef(np.sign(past), np.sign(future))[0, 1] > 0.25
    assert np.median(autocorrelation(walks, 1)) > 0.9


def test_stationary_series_come_back() -> None:
    values = synth.stationary(generator(), lengths(200, 0), 600)
    drift = np.abs(values[:, :300].mean(axis=1) - values[:, 300:].mean(axis=1))
    assert np.median(drift / values.std(axis=1)) < 0.5


def test_smooth_series_are_smoother_than_noise() -> None:
    values = synth.smooth(generator(), lengths(200, 0), 300)
    assert np.median(autocorrelation(values, 1)) > 0.9


def test_trend_season_irregular_shows_its_season() -> None:
    shown = autocorrelation(
        np.diff(synth.trend_season_irregular(generator(), lengths(300), 210), axis=1), 7
    )
    absent = autocorrelation(
        np.diff(synth.trend_season_irregular(generator(), lengths(300, 0), 210), axis=1), 7
    )
    assert np.median(shown) > 0.4
    assert abs(np.median(absent)) < 0.1


def test_exponential_smoothing_is_serially_dependent() -> None:
    values = synth.exponential_smoothing(generator(), lengths(200, 0), 200)
    assert np.median(autocorrelation(values, 1)) > 0.5


def test_regimes_jump() -> None:
    values = synth.regimes(generator(), lengths(200, 0), 300)
    steps = np.abs(np.diff(values, axis=1))
    assert np.median(steps.max(axis=1) / np.median(steps, axis=1)) > 4


def test_intermittent_series_are_counts_with_many_zeros() -> None:
    values = synth.intermittent(generator(), lengths(300), 200)
    assert (values == np.round(values)).all()
    assert values.min() == 0
    assert 0.4 < (values == 0).mean() < 0.95


@pytest.mark.parametrize("dispersion", [0.05, 0.5, 2.0])
def test_negative_binomial_has_its_mean_and_variance(dispersion: float) -> None:
    rate = np.full((1, 200_000), 20.0)
    counts = synth.negative_binomial(generator(), rate, np.array([[dispersion]]))
    assert counts.mean() == pytest.approx(20, rel=0.02)
    assert counts.var() == pytest.approx(20 + 400 * dispersion, rel=0.05)


def test_a_shop_responds_to_price_by_its_elasticity() -> None:
    made = synth.shop(generator(), lengths(400, 0), 150)
    quiet = (made.promotion == 0) & (made.holiday == 0)
    errors = []
    for row in range(400):
        step = np.flatnonzero(quiet[row, 1:] & quiet[row, :-1]) + 1
        moved = step[np.abs(np.diff(np.log(made.price[row]))[step - 1]) > 0.05]
        change = np.diff(np.log(made.rate[row]))[moved - 1]
        price = np.diff(np.log(made.price[row]))[moved - 1]
        errors += list(change / price - made.elasticity[row, 0])
    assert len(errors) > 50
    assert np.median(errors) == pytest.approx(0, abs=0.15)


def test_promotions_lift_and_are_followed_by_a_dip() -> None:
    made = synth.shop(generator(), lengths(600, 0), 150)
    log_rate = np.log(made.rate) - np.log(made.rate).mean(axis=1, keepdims=True)
    promoted = made.promotion == 1
    after = (np.roll(promoted, 3, axis=1) & ~promoted)[:, 3:]
    assert log_rate[promoted].mean() > log_rate[~promoted].mean() + 0.3
    assert log_rate[:, 3:][after].mean() < log_rate[~promoted].mean() - 0.1


def test_some_shops_close_on_a_phase_and_some_run_out_of_stock() -> None:
    made = synth.shop(generator(), lengths(400), 210)
    busy = made.rate.min(axis=1) > 30
    by_phase = made.sales[busy].reshape(busy.sum(), -1, 7)
    closed = (by_phase == 0).all(axis=1).any(axis=1) & (by_phase > 0).any(axis=(1, 2))
    assert 0.04 < closed.mean() < 0.3
    assert (made.sales[busy] == 0).any(axis=1).mean() > closed.mean()


def test_sales_are_counts() -> None:
    sales = synth.shop_sales(generator(), lengths(100), 100)
    assert (sales >= 0).all()
    alive = np.abs(sales - np.round(sales)).max(axis=1) == 0
    assert alive.mean() > 0.8


def test_windows_mix_families_and_flip_a_few() -> None:
    values = synth.windows(generator(), lengths(500), 60)
    assert np.isfinite(values).all()
    assert 0.03 < (values.max(axis=1) <= 0).mean() < 0.2


def test_a_quarter_of_the_windows_are_shops() -> None:
    shares = dict(synth.FAMILIES)
    assert shares[synth.shop_sales] / sum(shares.values()) >= 0.25


def test_groups_hold_targets_and_covariates() -> None:
    made = synth.groups(generator(), lengths(90), 60)
    assert np.isfinite(made.values).all()
    assert not (made.target & made.known).any()
    targets = np.bincount(made.group[made.target], minlength=90)
    assert set(targets) == {1, 2}
    assert made.known.any()
    assert (~made.known & ~made.target).any()


def test_a_known_covariate_drives_its_target() -> None:
    rows = 300
    made = synth._response_groups(generator(), lengths(rows, 0), 200, np.arange(rows))
    target, driver, idle = np.diff(made.values.reshape(3, rows, 200), axis=2)
    assert np.median(response(target, driver)) > 0.4
    assert np.median(response(target, idle)) < 0.25


def response(target: Floats, covariate: Floats) -> Floats:
    """(rows,) largest correlation with the covariate 0 to 3 periods before."""
    pairs = [(target[:, lag:], covariate[:, : covariate.shape[1] - lag]) for lag in range(4)]
    sizes = [np.sqrt((a**2).sum(axis=1) * (b**2).sum(axis=1)) for a, b in pairs]
    felt = [
        np.abs((a * b).sum(axis=1)) / (n + 1e-9) for (a, b), n in zip(pairs, sizes, strict=True)
    ]
    return np.asarray(np.max(felt, axis=0))
