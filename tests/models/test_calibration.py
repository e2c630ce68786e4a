"""Calibration moves quantiles away from the median by what the checkpoint says."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from models.base import CheckpointError, Series, SeriesTask
from models.calibration import (
    Calibration,
    Recall,
    calibration_of,
    caution_of,
    kind_of,
    recall_of,
)
from models.checkpoint import load_series
from models.guide import guide
from models.series import SeriesNetwork

LEVELS = (0.1, 0.5, 0.9)


def test_factors_are_those_of_the_shortest_season() -> None:
    assert [kind_of(one) for one in ((7, 365), (12,), (), None)] == ["7", "12", "none", "unknown"]


def test_quantiles_move_away_from_a_median_that_stays() -> None:
    quantiles = np.array([[[-1.0, 0.0], [1.0, 1.0], [2.0, 5.0]]] * 2)
    calibration = Calibration({"12": (2.0, 3.0)})
    monthly, daily = calibration.apply(
        quantiles, LEVELS, [(12,), (7,)], np.zeros(2, dtype=np.bool_)
    )
    np.testing.assert_allclose(monthly, [[-3.0, -1.0], [1.0, 1.0], [4.0, 13.0]])
    np.testing.assert_allclose(daily, quantiles[1])


def test_rows_whose_season_was_taken_out_have_their_own_factors() -> None:
    quantiles = np.array([[[0.0], [1.0], [2.0]]] * 2)
    adjusted = np.array([True, False])
    own = Calibration({"12": (1.0, 1.0), "12 adjusted": (1.0, 2.0)})
    answer = own.apply(quantiles, LEVELS, [(12,)] * 2, adjusted)
    np.testing.assert_allclose(answer[:, 2, 0], [3.0, 2.0])
    shared = Calibration({"12": (1.0, 2.0)})
    answer = shared.apply(quantiles, LEVELS, [(12,)] * 2, adjusted)
    np.testing.assert_allclose(answer[:, 2, 0], [3.0, 3.0])


def test_one_factor_counts_for_both_sides() -> None:
    read = calibration_of({"calibration": {"12": 1.5, "7": [0.9, 1.2]}})
    assert read.factors == {"12": (1.5, 1.5), "7": (0.9, 1.2)}


@pytest.mark.parametrize(
    "said", [[], {"12": [1.5]}, {"12": [1.0, 1.0, 1.0]}, {"12": [1.0, 100.0]}, {"12": 100.0}]
)
def test_factors_that_make_no_sense_are_refused(said: object) -> None:
    with pytest.raises(CheckpointError, match="calibration"):
        calibration_of({"calibration": said})


@pytest.mark.parametrize("said", [0.5, {"12": -0.1}, {"12": 1.5}, {"12": "much"}])
def test_caution_must_be_a_share(said: object) -> None:
    with pytest.raises(CheckpointError, match="caution"):
        caution_of({"caution": said})


def test_caution_moves_all_quantiles_towards_a_forecast_without_trend(
    tiny_checkpoint: Path,
) -> None:
    checkpoint = load_series(tiny_checkpoint)
    values = np.arange(40.0)[None] + np.random.default_rng(0).normal(size=(1, 40))
    task = SeriesTask((Series(values, season_lengths=()),), 6, LEVELS)
    plain, half, whole = (
        SeriesNetwork(replace(checkpoint, options={"caution": {"none": share, "7": 1.0}})).predict(
            [task]
        )[0][0]
        for share in (0.0, 0.5, 1.0)
    )
    np.testing.assert_allclose(whole.quantiles[0, 1], guide(values, 6, trends=False)[0], rtol=1e-4)
    middle = (plain.quantiles + whole.quantiles) / 2
    np.testing.assert_allclose(half.quantiles, middle, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("said", [0.5, {"12": -0.1}, {"12": 1.5}, {"12": "much"}])
def test_leeway_must_be_a_share(said: object) -> None:
    with pytest.raises(CheckpointError, match="leeway"):
        caution_of({"leeway": said})


@pytest.mark.parametrize("slope", [1.0, -1.0])
def test_leeway_is_on_the_trend_s_side(slope: float, tiny_checkpoint: Path) -> None:
    checkpoint = load_series(tiny_checkpoint)
    values = slope * np.arange(40.0)[None] + np.random.default_rng(0).normal(size=(1, 40))
    task = SeriesTask((Series(values, season_lengths=()),), 6, LEVELS)
    plain, wide = (
        SeriesNetwork(
            replace(checkpoint, options={"caution": {"none": 0.5}, "leeway": {"none": share}})
        ).predict([task])[0][0]
        for share in (0.0, 1.0)
    )
    trend = (guide(values, 6) - guide(values, 6, trends=False))[0]
    moved = (wide.quantiles - plain.quantiles)[0]
    side, other = (2, 0) if slope > 0 else (0, 2)
    np.testing.assert_allclose(moved[side], trend, rtol=1e-3)
    np.testing.assert_allclose(moved[[1, other]], 0, atol=1e-6)


@pytest.mark.parametrize("said", [0.5, {"52": -0.1}, {"intermittent": 1.5}, {"7": "much"}])
def test_recall_must_be_a_share(said: object) -> None:
    with pytest.raises(CheckpointError, match="recall"):
        recall_of({"recall": said})


def test_recall_moves_quantiles_towards_those_of_the_latest_values() -> None:
    missing = np.where(np.arange(100) % 4 == 0, np.nan, 1000.0)
    missing[-60:] = np.random.default_rng(0).permutation(
        np.append(np.arange(1.0, 52), [np.nan] * 9)
    )
    quantiles = np.array([[[0.0], [10.0], [20.0]]] * 2)
    weekly, monthly = Recall({"52": 0.5}).apply(
        quantiles, LEVELS, [(52,), (12,)], np.stack([missing] * 2)
    )
    np.testing.assert_allclose(weekly[:, 0], [3.0, 18.0, 33.0])  # half-way to 6, 26 and 46
    np.testing.assert_allclose(monthly, quantiles[1])


def test_recall_of_rows_that_are_mostly_zero_is_their_own() -> None:
    rare = np.tile([0.0, 0.0, 4.0], 20)
    quantiles = np.array([[[0.0], [1.0], [2.0]]])
    own, as_others = (
        Recall(shares).apply(quantiles, LEVELS, [(7,)], rare[None])[0, :, 0]
        for shares in ({"7": 0.5, "intermittent": 1.0}, {"7": 0.5})
    )
    np.testing.assert_allclose(own, [0.0, 0.0, 4.0])
    np.testing.assert_allclose(as_others, [0.0, 0.5, 3.0])


def test_little_history_recalls_nothing() -> None:
    quantiles = np.array([[[0.0], [1.0], [2.0]]] * 2)
    history = np.full((2, 60), np.nan)
    history[1, -11:] = 5.0
    answer = Recall({"7": 1.0}).apply(quantiles, LEVELS, [(7,)] * 2, history)
    np.testing.assert_allclose(answer, quantiles)


def test_a_checkpoint_s_own_factors_widen_its_intervals(
    tiny_checkpoint: Path, tmp_path: Path
) -> None:
    calibrated = tmp_path / "calibrated"
    shutil.copytree(tiny_checkpoint, calibrated)
    config = json.loads((calibrated / "config.json").read_text())
    config["shopcast"] = {"calibration": {"12": 3.0}}
    (calibrated / "config.json").write_text(json.dumps(config))
    values = np.random.default_rng(0).normal(size=(1, 60))
    plain, wide = (
        SeriesNetwork.load(directory).predict(
            [SeriesTask((Series(values, season_lengths=(12,)),), 8, LEVELS)]
        )[0][0]
        for directory in (tiny_checkpoint, calibrated)
    )
    np.testing.assert_allclose(wide.quantiles[0, 1], plain.quantiles[0, 1], rtol=1e-5)
    apart, before = (one.quantiles[0, 2] - one.quantiles[0, 0] for one in (wide, plain))
    np.testing.assert_allclose(apart, 3 * before, rtol=1e-4)
