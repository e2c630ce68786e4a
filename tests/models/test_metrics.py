"""Scores against closed forms and against utilsforecast."""

from statistics import NormalDist

import numpy as np
import pandas as pd
import pytest
from utilsforecast import losses

from models.metrics import (
    DECILES,
    Floats,
    bias,
    geometric_mean,
    grain_of,
    mase,
    naive_error,
    pinball,
    pit,
    pooled,
    scaled_pinball,
    wape,
    wql,
)

LEVELS = (0.01, 0.05, 0.1, 0.2, 0.25, 0.3, 0.4, 0.5, 0.6, 0.7, 0.75, 0.8, 0.9, 0.95, 0.99)
SHARES = (0.5, 0.8, 0.9, 0.98)


def normal_quantiles(mean: float, deviation: float, steps: int) -> Floats:
    column = [NormalDist(mean, deviation).inv_cdf(level) for level in LEVELS]
    return np.tile(np.array(column)[:, None], steps)


def test_point_errors_are_those_worked_out_by_hand() -> None:
    history = np.array([1.0, 2.0, 4.0, 8.0, 10.0])
    truth, point = np.array([10.0, 20.0]), np.array([11.0, 17.0])
    assert naive_error(history, 2) == pytest.approx((3 + 6 + 6) / 3)
    assert mase(truth, point, scale=5.0) == pytest.approx(2 / 5)
    assert wape(truth, point) == pytest.approx(4 / 30)
    assert bias(truth, point) == pytest.approx(-2 / 30)


def test_missing_periods_count_nowhere() -> None:
    history = np.array([1.0, np.nan, 3.0, 5.0])
    truth, point = np.array([10.0, np.nan]), np.array([11.0, 99.0])
    quantiles = np.tile(point, (9, 1))
    assert naive_error(history, 1) == pytest.approx(2.0)
    assert mase(truth, point, scale=2.0) == pytest.approx(0.5)
    assert wape(truth, point) == bias(truth, point) == pytest.approx(0.1)
    assert wql(truth, quantiles, DECILES) == pytest.approx(0.1)
    assert len(pit(truth, quantiles, DECILES).low) == 1


def test_what_has_no_scale_is_nan() -> None:
    nothing, zeros = np.array([np.nan]), np.zeros(2)
    assert np.isnan(naive_error(np.array([1.0]), 7))
    assert np.isnan(mase(zeros, zeros, scale=0.0))
    assert np.isnan(wape(zeros, zeros))
    assert np.isnan(wql(nothing, np.zeros((9, 1)), DECILES))
    assert np.isnan(geometric_mean([]))
    assert np.isnan(pit(nothing, np.zeros((9, 1)), DECILES).coverage(0.5))


def test_pinball_at_the_median_is_half_the_error_and_wql_of_a_point_is_wape() -> None:
    truth, point = np.array([3.0, 8.0, 0.0]), np.array([5.0, 7.0, 1.0])
    np.testing.assert_allclose(pinball(truth, point[None], (0.5,))[0], [1.0, 0.5, 0.5])
    assert wql(truth, np.tile(point, (9, 1)), DECILES) == pytest.approx(wape(truth, point))


def test_wql_of_the_true_normal_distribution_is_its_expected_loss() -> None:
    """E pinball_p = σ·φ(z_p) where the quantile is the true one."""
    rng = np.random.default_rng(1)
    truth = rng.normal(50, 4, 200_000)
    quantiles = normal_quantiles(50, 4, 1)
    expected = np.mean([4 * NormalDist().pdf(NormalDist().inv_cdf(p)) for p in LEVELS])
    answer = wql(truth, np.broadcast_to(quantiles, (len(LEVELS), len(truth))), LEVELS)
    assert answer == pytest.approx(2 * expected / 50, rel=5e-3)


def test_scores_equal_those_of_utilsforecast() -> None:
    rng = np.random.default_rng(0)
    history, truth = rng.gamma(2, 5, 60), rng.gamma(2, 5, 12)
    quantiles = np.sort(rng.gamma(2, 5, (9, 12)), axis=0)
    names = [f"q{level}" for level in DECILES]
    frame = pd.DataFrame({"unique_id": "a", "ds": np.arange(60, 72), "y": truth})
    frame = frame.assign(**dict(zip(names, quantiles, strict=True)))
    train = pd.DataFrame({"unique_id": "a", "ds": np.arange(60), "y": history})
    scale, median = naive_error(history, 7), quantiles[4]

    theirs = losses.mase(frame, ["q0.5"], seasonality=7, train_df=train)
    assert mase(truth, median, scale=scale) == pytest.approx(theirs["q0.5"][0])
    theirs = losses.wape(frame, ["q0.5"])
    assert wape(truth, median) == pytest.approx(theirs["q0.5"][0])
    theirs = losses.scaled_crps(frame, {"all": names}, quantiles=np.array(DECILES))
    assert wql(truth, quantiles, DECILES) == pytest.approx(theirs["all"][0])
    theirs = losses.scaled_mqloss(
        frame, {"all": names}, seasonality=7, train_df=train, quantiles=np.array(DECILES)
    )
    ours = scaled_pinball(truth, quantiles, DECILES, scale=scale)
    assert ours == pytest.approx(theirs["all"][0])
    losses_by_level = pinball(truth, quantiles, DECILES).mean(axis=1)
    for level, name, ours in zip(DECILES, names, losses_by_level, strict=True):
        assert ours == pytest.approx(losses.quantile_loss(frame, {"all": name}, q=level)["all"][0])


def test_the_pit_of_a_continuous_outcome_is_its_probability() -> None:
    truth = np.array([NormalDist(10, 2).inv_cdf(p) for p in (0.001, 0.05, 0.5, 0.9, 0.999)])
    found = pit(truth, normal_quantiles(10, 2, 5), LEVELS)
    np.testing.assert_array_equal(found.low, found.high)
    np.testing.assert_allclose(found.low, [0.001, 0.05, 0.5, 0.9, 0.999], atol=2e-3)


@pytest.mark.parametrize("share", SHARES)
def test_a_calibrated_forecast_covers_what_it_says(share: float) -> None:
    truth = np.random.default_rng(2).normal(10, 2, 40_000)
    found = pit(truth, normal_quantiles(10, 2, 40_000), LEVELS)
    assert found.coverage(share) == pytest.approx(share, abs=0.01)


@pytest.mark.parametrize("rate", [0.2, 2.0, 30.0])
@pytest.mark.parametrize("share", SHARES)
def test_the_true_quantiles_of_counts_are_calibrated(rate: float, share: float) -> None:
    """Where inclusion in the interval would find them far too wide."""
    rng = np.random.default_rng(3)
    fine = np.quantile(rng.poisson(rate, 400_000), LEVELS, method="inverted_cdf")
    truth = rng.poisson(rate, 40_000).astype(float)
    quantiles = np.tile(fine[:, None], 40_000)
    assert pit(truth, quantiles, LEVELS, grain=1.0).coverage(share) == pytest.approx(
        share, abs=0.05
    )


def test_a_smooth_forecast_of_counts_is_calibrated_too() -> None:
    """Counts that round a normal variable, forecast as that variable."""
    truth = np.rint(np.random.default_rng(4).normal(6, 1, 40_000))
    quantiles = normal_quantiles(6, 1, 40_000)
    for share in SHARES:
        found = pit(truth, quantiles, LEVELS, grain=1.0).coverage(share)
        assert found == pytest.approx(share, abs=0.01)


def test_an_interval_too_narrow_or_too_wide_is_found_so() -> None:
    truth = np.random.default_rng(5).normal(0, 1, 20_000)
    assert pit(truth, normal_quantiles(0, 0.5, 20_000), LEVELS).coverage(0.8) < 0.5
    assert pit(truth, normal_quantiles(0, 2.0, 20_000), LEVELS).coverage(0.5) > 0.75


def test_coverage_is_the_mean_of_the_randomised_draws() -> None:
    rng = np.random.default_rng(6)
    truth = rng.poisson(1.5, 500).astype(float)
    quantiles = np.sort(rng.poisson(1.5, (len(LEVELS), 500)), axis=0).astype(float)
    found = pit(truth, quantiles, LEVELS, grain=1.0)
    draws = np.concatenate([found.draw(rng) for _ in range(400)])
    for share in SHARES:
        inside = np.abs(draws - 0.5) < share / 2
        assert found.coverage(share) == pytest.approx(inside.mean(), abs=3e-3)


def test_all_mass_on_the_outcome_is_spread_over_all_levels() -> None:
    certain = pit(np.zeros(3), np.zeros((len(LEVELS), 3)), LEVELS, grain=1.0)
    np.testing.assert_allclose(certain.low, 0.0)
    np.testing.assert_allclose(certain.high, 1.0)
    assert certain.coverage(0.5) == pytest.approx(0.5)
    missed = pit(np.full(3, 5.0), np.zeros((len(LEVELS), 3)), LEVELS, grain=1.0)
    assert missed.coverage(0.98) == 0.0
    assert pooled([certain, missed]).coverage(0.8) == pytest.approx(0.4)


def test_the_grain_is_one_for_counts_alone() -> None:
    assert grain_of(np.array([0.0, 3.0, np.nan])) == 1.0
    assert grain_of(np.array([0.0, 2.5])) == 0.0
    assert grain_of(np.array([-1.0, 2.0])) == 0.0
    assert grain_of(np.array([np.nan])) == 0.0


def test_the_geometric_mean_balances_halves_and_doubles() -> None:
    assert geometric_mean([0.5, 2.0]) == pytest.approx(1.0)
