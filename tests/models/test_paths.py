"""Sample paths: the forecast's marginals, a dependence in time, and what a past says of it."""

from statistics import NormalDist
from typing import Any

import numpy as np
import pytest

from models import paths
from models.base import Covariate, FloatArray, Series
from models.dependence import fit, note
from models.paths import (
    LEVELS,
    Dependence,
    is_whole,
    narrowed,
    origins,
    own,
    sample,
    scores_of,
    strengthened,
)

ALONE = Dependence(0.0, 0.8)


def normal_quantiles(mean: float, std: float, periods: int) -> FloatArray:
    column = np.array([NormalDist(mean, std).inv_cdf(level) for level in LEVELS])
    return np.repeat(column[:, None], periods, axis=1)


def test_each_period_has_the_quantiles_of_its_forecast() -> None:
    quantiles = np.sort(np.random.default_rng(0).gamma(4, 10, size=(len(LEVELS), 3)), axis=0)
    drawn = sample(quantiles, Dependence(0.5, 0.9), seed=1, whole=False, paths=20_000)
    for level in (0.1, 0.5, 0.9):
        found = np.quantile(drawn, level, axis=1)
        assert found == pytest.approx(quantiles[LEVELS.index(level)], rel=0.04)


def test_whole_demand_is_whole_and_keeps_its_mean() -> None:
    quantiles = normal_quantiles(3.3, 1.0, 4)
    smooth = sample(quantiles, ALONE, seed=2, whole=False, paths=20_000)
    whole = sample(quantiles, ALONE, seed=2, whole=True, paths=20_000)
    assert (whole == np.floor(whole)).all()
    assert whole.mean() == pytest.approx(smooth.mean(), abs=0.01)


def test_intermittent_demand_keeps_its_zeros() -> None:
    quantiles = np.zeros((len(LEVELS), 6))
    quantiles[[level > 0.7 for level in LEVELS]] = 3.0
    drawn = sample(quantiles, Dependence(0.3, 0.8), seed=3, whole=True, paths=5_000)
    assert (drawn == 0).mean() == pytest.approx(0.71, abs=0.02)
    assert np.median(drawn[drawn > 0]) == 3


def series_of(target: FloatArray, **more: Any) -> Series:
    return Series(target[None], **{"season_lengths": (52,)} | more)


def test_a_forecast_that_says_more_than_its_series_varied_is_narrowed() -> None:
    history = 500 + 5 * np.resize([1.0, -1.0], 60)
    forecast = normal_quantiles(500, 20, 6)
    forecast[:, 3:] = normal_quantiles(510, 4, 3)
    found = narrowed(forecast, series_of(history))
    drawn = sample(found, ALONE, seed=8, whole=False, paths=20_000)
    assert drawn.mean(axis=1) == pytest.approx([500] * 3 + [510] * 3, abs=0.3)
    assert drawn.std(axis=1) == pytest.approx([5] * 3 + [4] * 3, rel=0.03)
    still = narrowed(forecast, series_of(np.full(60, 500.0)))
    assert np.ptp(still[:, 0]) == pytest.approx(paths.LEAST_RATIO * np.ptp(forecast[:, 0]))


@pytest.mark.parametrize(
    "more",
    [
        {"season_lengths": (7,)},
        {"season_lengths": None},
        {"covariates": (Covariate("price", np.ones(60), np.ones(6)),)},
        {"censored": np.arange(60) == 40},
        {"target": np.full(15, 500.0)},
    ],
    ids=["season", "unknown", "covariate", "censored", "short"],
)
def test_a_forecast_that_may_know_more_is_left_as_wide(more: dict[str, Any]) -> None:
    forecast = normal_quantiles(500, 20, 6)
    series = series_of(**{"target": np.full(60, 500.0)} | more)
    assert (narrowed(forecast, series) == forecast).all()
    assert strengthened(Dependence(0.4, 0.8), series) == Dependence(0.4, 0.8)


def test_periods_hang_together_more_where_each_is_narrowed() -> None:
    series = series_of(np.full(60, 500.0))
    assert strengthened(Dependence(0.4, 0.8), series) == Dependence(0.4 + 0.2, 0.8)
    assert strengthened(Dependence(0.9, 0.8), series).strength == paths.MOST_STRENGTH


def test_demand_is_never_negative() -> None:
    assert sample(normal_quantiles(0.5, 2.0, 5), ALONE, seed=4, whole=False).min() == 0


def test_a_sum_varies_as_its_dependence_says() -> None:
    dependence = Dependence(0.6, 0.9)
    drawn = sample(normal_quantiles(500, 10, 8), dependence, seed=5, whole=False, paths=20_000)
    lag = np.abs(np.subtract.outer(np.arange(8), np.arange(8)))
    expected = 10 * np.sqrt(8 + (0.6 * 0.9**lag)[lag > 0].sum())
    assert drawn.sum(axis=0).std() == pytest.approx(expected, rel=0.03)


def test_the_first_periods_of_longer_paths_are_the_shorter_paths() -> None:
    quantiles = normal_quantiles(50, 10, 9)
    dependence = Dependence(0.4, 0.8)
    long = sample(quantiles, dependence, seed=6, whole=True)
    short = sample(quantiles[:, :4], dependence, seed=6, whole=True)
    assert np.abs(long[:4] - short).max() <= 1  # one more product may round the other way
    assert (long[:4] == short).mean() > 0.999


def test_the_same_seed_gives_the_same_paths_and_another_others() -> None:
    quantiles = normal_quantiles(50, 10, 3)
    first, again, other = (sample(quantiles, ALONE, seed=s, whole=False) for s in (7, 7, 8))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


def test_scores_of_what_the_forecast_says_are_normal() -> None:
    quantiles = normal_quantiles(50, 10, 8)
    truth = np.random.default_rng(9).normal(50, 10, size=(400, 8))
    scores = scores_of([quantiles] * 400, list(truth), whole=False)
    assert scores.mean() == pytest.approx(0, abs=0.05)
    assert scores.std() == pytest.approx(1, abs=0.05)


def test_scores_leave_out_what_is_missing() -> None:
    scores = scores_of([normal_quantiles(5, 1, 3)], [np.array([5.0, np.nan, 6.0])], whole=True)
    assert np.isnan(scores[0]).tolist() == [False, True, False]


def test_a_past_of_dependent_errors_raises_the_strength_and_one_of_free_errors_lowers_it() -> None:
    rng = np.random.default_rng(10)
    default = Dependence(0.3, 0.8)
    free = rng.normal(size=(8, 8))
    level = 0.9 * rng.normal(size=(8, 1)) + 0.4 * rng.normal(size=(8, 8))
    assert own(free, default).strength < 0.3 < own(level, default).strength
    assert own(np.empty((0, 8)), default) == default
    assert own(np.full((2, 8), np.nan), default) == default


def test_origins_lie_in_the_past_and_do_not_overlap() -> None:
    promo = Covariate("promo", np.arange(60.0), np.arange(60.0, 65.0))
    series = Series(np.arange(60.0)[None], (promo,))
    found = origins(series, 5)
    assert len(found) == 8
    first = found[0]
    assert first.truth.tolist() == [55, 56, 57, 58, 59]
    assert first.series.target.shape == (1, 55)
    (known,) = first.series.covariates
    assert known.future is not None
    assert known.future.tolist() == [55, 56, 57, 58, 59]
    assert found[-1].series.target.shape[1] >= paths.FEWEST_BEFORE


def test_a_short_or_empty_past_has_no_origins() -> None:
    assert origins(Series(np.arange(19.0)[None]), 5) == []
    assert origins(Series(np.full((1, 80), np.nan)), 5) == []


def test_whole_means_that_every_observed_value_is() -> None:
    assert is_whole(np.array([[1.0, np.nan, 3.0]]))
    assert not is_whole(np.array([[1.0, 2.5]]))
    assert not is_whole(np.array([[np.nan]]))


def test_fit_finds_what_made_the_correlations() -> None:
    assert fit(0.4 * 0.8 ** np.arange(1, 8)) == Dependence(0.4, 0.8)


def test_note_writes_into_the_config(tmp_path_factory: pytest.TempPathFactory) -> None:
    directory = tmp_path_factory.mktemp("checkpoint")
    (directory / "config.json").write_text('{"d_model": 32}')
    note(directory, Dependence(0.25, 0.5))
    text = (directory / "config.json").read_text()
    assert '"strength": 0.25' in text
    assert '"d_model": 32' in text
