"""Calibration moves quantiles away from the median by what the checkpoint says."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from models.base import CheckpointError, Series, SeriesTask
from models.calibration import Calibration, calibration_of, kind_of
from models.series import SeriesNetwork

LEVELS = (0.1, 0.5, 0.9)


def test_factors_are_those_of_the_shortest_season() -> None:
    assert [kind_of(one) for one in ((7, 365), (12,), (), None)] == ["7", "12", "none", "unknown"]


def test_quantiles_move_away_from_a_median_that_stays() -> None:
    quantiles = np.array([[[-1.0, 0.0], [1.0, 1.0], [2.0, 5.0]]] * 2)
    calibration = Calibration({"12": (1.5, 2.0)})
    monthly, daily = calibration.apply(quantiles, LEVELS, [(12,), (7,)])
    np.testing.assert_allclose(monthly, [[-2.0, -0.5], [1.0, 1.0], [3.0, 9.0]])
    np.testing.assert_allclose(daily, quantiles[1])


@pytest.mark.parametrize("said", [[], {"12": 1.5}, {"12": [1.0]}, {"12": [1.0, 100.0]}])
def test_factors_that_make_no_sense_are_refused(said: object) -> None:
    with pytest.raises(CheckpointError, match="calibration"):
        calibration_of({"calibration": said})


def test_a_checkpoint_s_own_factors_widen_its_intervals(
    tiny_checkpoint: Path, tmp_path: Path
) -> None:
    calibrated = tmp_path / "calibrated"
    shutil.copytree(tiny_checkpoint, calibrated)
    config = json.loads((calibrated / "config.json").read_text())
    config["shopcast"] = {"calibration": {"12": [2.0, 3.0]}}
    (calibrated / "config.json").write_text(json.dumps(config))
    values = np.random.default_rng(0).normal(size=(1, 60))
    plain, wide = (
        SeriesNetwork.load(directory).predict(
            [SeriesTask((Series(values, season_lengths=(12,)),), 8, LEVELS)]
        )[0][0]
        for directory in (tiny_checkpoint, calibrated)
    )
    np.testing.assert_allclose(wide.quantiles[0, 1], plain.quantiles[0, 1], rtol=1e-5)
    for side, factor in ((0, 2.0), (2, 3.0)):
        apart, before = (one.quantiles[0, side] - one.quantiles[0, 1] for one in (wide, plain))
        np.testing.assert_allclose(apart, factor * before, rtol=1e-4)
