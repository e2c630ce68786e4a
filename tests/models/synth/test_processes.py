"""Every family of processes keeps its promise: period, persistence, spikes, zeros, causes."""

from __future__ import annotations

import numpy as np
import pytest

from models.synth import processes
from tests.models.synth.measures import autocorrelation, coefficients, generator, lengths


def test_trend_season_irregular_shows_its_season() -> None:
    shown, absent = (
        processes.trend_season_irregular(generator(), lengths(300, m), 210) for m in (7, 0)
    )
    assert np.median(autocorrelation(np.diff(shown, axis=1), 7)) > 0.4
    assert abs(np.median(autocorrelation(np.diff(absent, axis=1), 7))) < 0.1


def test_exponential_smoothing_is_serially_dependent() -> None:
    values = processes.exponential_smoothing(generator(), lengths(200, 0), 200)
    assert np.median(autocorrelation(values, 1)) > 0.5


@pytest.mark.parametrize("length", [4, 12])
def test_seasonal_arima_shows_its_season(length: int) -> None:
    shown, absent = (
        np.diff(processes.seasonal_arima(generator(), lengths(300, m), 20 * length), axis=1)
        for m in (length, 0)
    )
    assert np.median(autocorrelation(shown, length)) > 0.3
    assert abs(np.median(autocorrelation(absent, length))) < 0.1


def test_a_random_walk_has_steps_and_goes_on() -> None:
    walks = processes.random_walk(generator(), lengths(400, 0), 200)
    past, future = (np.diff(part, axis=1).mean(axis=1) for part in (walks[:, :150], walks[:, 150:]))
    assert np.corrcoef(np.sign(past), np.sign(future))[0, 1] > 0.25
    assert np.median(autocorrelation(walks, 1)) > 0.9


def test_stationary_series_come_back() -> None:
    values = processes.stationary(generator(), lengths(200, 0), 600)
    drift = np.abs(values[:, :300].mean(axis=1) - values[:, 300:].mean(axis=1))
    assert np.median(drift / values.std(axis=1)) < 0.5


def test_ornstein_uhlenbeck_paths_start_away_and_come_back() -> None:
    values = processes.ornstein_uhlenbeck(generator(), lengths(400, 0), 400)
    mean = np.median(values[:, 200:], axis=1)
    start, end = np.abs(values[:, 0] - mean), np.abs(values[:, -100:] - mean[:, None]).mean(axis=1)
    assert np.median(start / end) > 1.5
    assert np.median(autocorrelation(values, 1)) > 0.85


def test_regimes_jump() -> None:
    values = processes.regimes(generator(), lengths(200, 0), 300)
    steps = np.abs(np.diff(values, axis=1))
    assert np.median(steps.max(axis=1) / np.median(steps, axis=1)) > 4


def test_a_moving_season_moves() -> None:
    """Neighbouring cycles are alike, far ones less, which a fixed season's are not."""
    cycles = np.diff(processes.moving_season(generator(), lengths(400, 12), 360), axis=1)
    near, far = (np.median(autocorrelation(cycles, lag)) for lag in (12, 264))
    assert near > 0.6
    fixed = np.diff(processes.trend_season_irregular(generator(), lengths(400, 12), 360), axis=1)
    kept = np.median(autocorrelation(fixed, 264)) / np.median(autocorrelation(fixed, 12))
    assert far / near < kept - 0.05


def test_kernels_are_smooth_seasonal_or_both() -> None:
    smooth = processes.kernels(generator(), lengths(300, 0), 300)
    assert np.median(autocorrelation(smooth, 1)) > 0.9
    seasonal = np.diff(processes.kernels(generator(), lengths(300, 7), 300), axis=1)
    assert (autocorrelation(seasonal, 7) > 0.5).mean() > 0.4


def test_spikes_stand_out_and_some_come_once_a_season() -> None:
    values = processes.spikes(generator(), lengths(300, 12), 240)
    size = np.abs(values - np.median(values, axis=1, keepdims=True))
    assert np.median(size.max(axis=1) / np.median(size, axis=1)) > 8
    regular = autocorrelation(values, 12) > 0.5
    assert 0.25 < regular.mean() < 0.7


def test_sawtooths_fall_back_each_period() -> None:
    values = np.diff(processes.sawtooths(generator(), lengths(300, 12), 240), axis=1)
    assert np.median(autocorrelation(values, 12)) > 0.6
    assert np.median(autocorrelation(values, 12) - autocorrelation(values, 11)) > 0.3


def test_intermittent_series_are_counts_with_many_zeros() -> None:
    values = processes.intermittent(generator(), lengths(300), 200)
    assert (values == np.round(values)).all()
    assert values.min() == 0
    assert 0.4 < (values == 0).mean() < 0.95


def test_causes_are_found_again_in_a_causal_graph() -> None:
    graph = processes.causal_graph(generator(), lengths(200, 0), 400, nodes=3)
    explained: list[float] = []
    idle: list[float] = []
    for row in range(200):
        for i in range(2):
            lag, weight = int(graph.lag[i, 2][row, 0]), float(graph.weight[i, 2][row, 0])
            cause = np.roll(graph.values[i, row], lag)[8:]
            before = graph.values[2, row, 7:-1]
            found = coefficients(graph.values[2, row, 8:], cause, before)[0]
            (explained if weight else idle).append(found * np.sign(weight or 1))
    assert np.median(explained) > 0.3
    assert abs(np.median(idle)) < 0.1
    assert np.median(np.abs(idle)) < 0.5 * np.median(explained)


def test_a_causal_series_is_serially_dependent() -> None:
    values = processes.causal(generator(), lengths(200, 0), 200)
    assert np.median(autocorrelation(values, 1)) > 0.3
