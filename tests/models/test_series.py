"""What a caller sees of the series network: equal to the library's, the same in any company, and
sane on histories that are hard on the numbers."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from chronos import Chronos2Pipeline
from numpy.typing import NDArray

from models.base import Covariate, FloatArray, ModelError, Series, SeriesForecast, SeriesTask
from models.checkpoint import QUANTILES, load_series, save_random, shipped
from models.series import SeriesNetwork

RNG = np.random.default_rng(7)
LEVELS = (0.1, 0.5, 0.9)


def history(length: int, *, mean: float = 20.0) -> FloatArray:
    """A weekly season with noise."""
    rng = np.random.default_rng(length)
    return np.asarray(
        mean + 5 * np.sin(np.arange(length) * 2 * np.pi / 7) + rng.normal(size=length)
    )


def task(target: NDArray[np.floating[Any]], *, horizon: int = 28, **series: Any) -> SeriesTask:
    return SeriesTask(
        (Series(np.atleast_2d(target).astype(np.float64), **series),), horizon, LEVELS
    )


# -- equal to the library ---------------------------------------------------------------------


class Pair:
    """The engine, without what we put around it, and the library's own pipeline."""

    def __init__(self, directory: Path) -> None:
        bare = replace(load_series(directory), options={})
        # tests/models/test_runtime.py holds ONNX Runtime against torch
        self.engine = SeriesNetwork(bare, device="cpu", runtime="torch")
        self.library = Chronos2Pipeline.from_pretrained(directory, dtype=torch.float32)

    def compare(self, tasks: Sequence[SeriesTask], inputs: list[Any], **options: Any) -> None:
        horizon = tasks[0].prediction_length
        quantiles, _ = self.library.predict_quantiles(
            inputs, prediction_length=horizon, quantile_levels=list(QUANTILES), **options
        )
        wide = [replace(one, quantile_levels=QUANTILES) for one in tasks]
        forecasts = [forecast for result in self.engine.predict(wide) for forecast in result]
        for forecast, theirs in zip(forecasts, quantiles, strict=True):
            expected = np.sort(theirs.numpy(), axis=-1).transpose(0, 2, 1)
            # a network with random weights swings far beyond its history; so does its rounding
            scale = max(float(expected.std()), 1.0)
            # rtol: rounding of outermost quantiles far from all others after 1,024 steps
            np.testing.assert_allclose(forecast.quantiles, expected, rtol=2e-5, atol=1e-4 * scale)


@pytest.fixture(scope="module", params=["shipped", "tiny", "chronos-2-small"])
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Pair:
    """Our checkpoint, a tiny one, and one in the published configuration of 28 M parameters."""
    if request.param == "shipped":
        return Pair(shipped("series"))
    return Pair(save_random(tmp_path_factory.mktemp("pair") / "network", request.param))


@pytest.mark.parametrize("horizon", [1, 16, 17, 64])
def test_univariate_forecasts_equal_the_library(pair: Pair, horizon: int) -> None:
    inputs = [history(length).astype(np.float32) for length in (5, 40, 200)]
    pair.compare([task(one, horizon=horizon) for one in inputs], inputs)


@pytest.mark.filterwarnings("ignore:We recommend keeping prediction length")
@pytest.mark.parametrize("horizon", [65, 150, 257])
def test_horizons_beyond_one_pass_equal_the_library(pair: Pair, horizon: int) -> None:
    one = history(100).astype(np.float32)
    pair.compare([task(one, horizon=horizon)], [one])


@pytest.mark.filterwarnings("ignore:We recommend keeping prediction length")
@pytest.mark.parametrize("name", ["shipped", "chronos-2-small"])
def test_the_longest_horizon_equals_the_library(name: str, tmp_path: Path) -> None:
    # not the tiny network: sixteen passes of random weights, each fed the last, swell any rounding
    directory = shipped("series") if name == "shipped" else save_random(tmp_path / name, name)
    one = history(100).astype(np.float32)
    Pair(directory).compare([task(one, horizon=1024)], [one])


def test_two_dimensional_targets_equal_the_library(pair: Pair) -> None:
    inputs = [history(300).reshape(3, 100).astype(np.float32)]
    pair.compare([task(inputs[0])], inputs)


def test_missing_values_equal_the_library(pair: Pair) -> None:
    one = history(150).astype(np.float32)
    one[:40] = np.nan
    one[RNG.random(150) < 0.3] = np.nan
    pair.compare([task(one)], [one])


def test_a_history_beyond_the_context_equals_the_library(tiny_checkpoint: Path) -> None:
    one = history(1000).astype(np.float32)
    Pair(tiny_checkpoint).compare([task(one)], [one])


@pytest.mark.filterwarnings("ignore:We recommend keeping prediction length")
@pytest.mark.parametrize("horizon", [28, 100])
@pytest.mark.parametrize("cross_learning", [False, True])
def test_covariates_equal_the_library(pair: Pair, horizon: int, cross_learning: bool) -> None:
    inputs, tasks = [], []
    for length in (60, 111):
        past = {"temperature": RNG.normal(size=length), "price": RNG.normal(size=length)}
        kind = RNG.choice(["none", "leaflet", "display"], size=length)
        future = RNG.normal(size=horizon)
        kinds = RNG.choice(["none", "leaflet", "never seen"], size=horizon)
        target = history(length)
        inputs.append(
            {
                "target": target.astype(np.float32),
                "past_covariates": {**past, "promotion": kind},
                "future_covariates": {"price": future, "promotion": kinds},
            }
        )
        covariates = (
            Covariate("price", past["price"], future),
            Covariate("promotion", kind.astype(object), kinds.astype(object)),
            Covariate("temperature", past["temperature"]),
        )
        tasks.append(task(target, horizon=horizon, covariates=covariates))
    if cross_learning:
        tasks = [replace(tasks[0], series=tuple(one.series[0] for one in tasks))]
    pair.compare(tasks, inputs, cross_learning=cross_learning)


def test_categories_beside_two_targets_equal_the_library(pair: Pair) -> None:
    target, kind = history(200).reshape(2, 100), RNG.choice(["a", "b"], size=100)
    ahead = RNG.choice(["a", "b"], size=28)
    one = task(target, covariates=(Covariate("kind", kind.astype(object), ahead.astype(object)),))
    wanted = {
        "target": target.astype(np.float32),
        "past_covariates": {"kind": kind},
        "future_covariates": {"kind": ahead},
    }
    pair.compare([one], [wanted])


# -- the same in any company ------------------------------------------------------------------


def crowd(count: int) -> list[SeriesTask]:
    """Tasks of many kinds: lengths, covariates, two targets, groups, gaps, scales."""
    tasks = []
    for number in range(count):
        target = history(3 + 11 * number % 300, mean=10.0 ** (number % 7))
        target[RNG.random(len(target)) < 0.1] = np.nan
        past = RNG.normal(size=len(target))
        promotion = Covariate("promotion", past, RNG.normal(size=28))
        match number % 4:
            case 0 | 1:
                tasks.append(task(target, season_lengths=(7,)))
            case 2:
                tasks.append(task(target, covariates=(promotion, Covariate("weather", past))))
            case _:
                several = tuple(Series(np.stack((target, target[::-1]))) for _ in range(2))
                tasks.append(SeriesTask(several, 28, LEVELS))
    return tasks


@pytest.mark.parametrize("adjustment", ["on", "off"])
@pytest.mark.parametrize(
    ("runtime", "dtype", "tolerance"),
    [
        ("torch", "float32", 1e-4),
        ("torch", "bfloat16", 2e-2),
        ("onnx", "float32", 1e-4),
        ("onnx", "int8", 2e-2),
    ],
)
def test_an_answer_does_not_depend_on_its_company(
    adjustment: Any, runtime: Any, dtype: Any, tolerance: float
) -> None:
    network = SeriesNetwork.load(
        shipped("series"), runtime=runtime, dtype=dtype, seasonal_adjustment=adjustment
    )
    tasks = crowd(40)
    together = network.predict(tasks)
    for one, result in zip(tasks, together, strict=True):
        for series, alone, crowded in zip(
            one.series, network.predict([one])[0], result, strict=True
        ):
            scale = max(float(np.nanstd(series.target)), float(alone.quantiles.std()))
            np.testing.assert_allclose(
                crowded.quantiles, alone.quantiles, rtol=0, atol=tolerance * scale
            )


def test_horizons_of_one_patch_count_share_a_lane(tiny_network: SeriesNetwork) -> None:
    short, long = task(history(50), horizon=20), task(history(90), horizon=32)
    assert tiny_network.lane(short) == tiny_network.lane(long)
    alone = [tiny_network.predict([one])[0][0] for one in (short, long)]
    both = [result[0] for result in tiny_network.predict([short, long])]
    for one, other in zip(alone, both, strict=True):
        np.testing.assert_allclose(one.quantiles, other.quantiles, atol=1e-3)


def test_lanes_never_mix(tiny_network: SeriesNetwork) -> None:
    with pytest.raises(ModelError, match="lanes"):
        tiny_network.predict([task(history(50), horizon=16), task(history(50), horizon=17)])


def test_work_counts_rows_of_covariates_and_of_unrolled_paths(tiny_network: SeriesNetwork) -> None:
    covariates = (Covariate("price", history(100)),)
    assert tiny_network.work(task(history(100), covariates=covariates)).rows == 2
    assert tiny_network.work(task(history(100), horizon=65)).rows == 9
    assert tiny_network.work(task(history(1000))).length == 256 + 32


# -- sane on hard histories -------------------------------------------------------------------

SPIKES = np.zeros(120)
SPIKES[[17, 60, 99]] = (40.0, 3.0, 90.0)
HARD = {
    "constant": np.full(60, 5.0),
    "constant at a number with rounding": np.full(77, 0.1),
    "all zero": np.zeros(60),
    "one point": np.array([3.0]),
    "two points": np.array([3.0, 4.0]),
    "two equal points": np.array([3.0, 3.0]),
    "all null": np.full(30, np.nan),
    "one null": np.array([np.nan]),
    "long leading nulls": np.concatenate((np.full(500, np.nan), history(30))),
    "long trailing nulls": np.concatenate((history(30), np.full(200, np.nan))),
    "one point behind nulls": np.concatenate((np.full(200, np.nan), [7.0])),
    "zeros with rare spikes": SPIKES,
    "1e12": history(100) * 1e12,
    "1e-9": history(100) * 1e-9,
    "1e30": history(100) * 1e30,
    "small changes on a high level": 1e9 + history(100),
    "one value after zeros": np.concatenate((np.zeros(100), [1e6])),
    "longer than the context": history(5000),
    "a trend": np.arange(200.0),
    "a season without noise": np.tile([12.0, 9, 14, 11, 15, 21, 13], 6),
    "the same and tiny": np.tile([12.0, 9, 14, 11, 15, 21, 13], 6) * 1e-9,
    "the same and closed on Sundays": np.tile([10.0, 12, 11, 13, 9, 14, 0], 8),
    "a tiny constant": np.full(60, 5e-9),
    "the limits of float32": np.array([1, 3.4e38, -3.4e38]),
    "closed on Sundays": np.where(np.arange(140) % 7 == 6, 0.0, history(140)),
}


@pytest.fixture(scope="module", params=["random, on", "shipped, on", "shipped, off"])
def network(request: pytest.FixtureRequest, tiny_checkpoint: Path) -> SeriesNetwork:
    """Random weights and ours, with and without seasonal adjustment."""
    weights, adjustment = request.param.split(", ")
    directory = tiny_checkpoint if weights == "random" else shipped("series")
    return SeriesNetwork.load(directory, seasonal_adjustment=adjustment)


@pytest.mark.parametrize("name", HARD)
def test_hard_histories_get_sane_answers(network: SeriesNetwork, name: str) -> None:
    target = HARD[name]
    forecast = network.predict([task(target, season_lengths=(7,))])[0][0]
    check_sane(forecast)
    seen = target[~np.isnan(target)]
    size = float(np.abs(seen).max(initial=0.0)) or 1.0
    widths = (forecast.quantiles[:, -1] - forecast.quantiles[:, 0])[0]
    if "closed on Sundays" in name:
        widths = widths[widths > 0]
        assert len(widths) >= 24, "other days than Sundays are certain"
    least = 1e-3 * (float(seen.std()) if len(seen) and np.ptp(seen) > 0 else size)
    assert (widths > least).all(), "an interval vanished"
    assert np.abs(forecast.quantiles).max() < 1e3 * size


def check_sane(forecast: SeriesForecast) -> None:
    assert np.isfinite(forecast.quantiles).all()
    assert np.isfinite(forecast.mean).all()
    assert (np.diff(forecast.quantiles, axis=1) >= 0).all()


@pytest.mark.parametrize("levels", [(1e-320, 0.5), (1e-9, 0.5, 1 - 1e-9)])
def test_levels_at_the_edge_of_what_a_number_holds(
    tiny_network: SeriesNetwork, levels: tuple[float, ...]
) -> None:
    for target in (history(50), np.full(20, 3.4e38)):
        one = replace(task(target), quantile_levels=levels)
        check_sane(tiny_network.predict([one])[0][0])


def test_intervals_of_a_constant_history_narrow_as_it_grows(tiny_network: SeriesNetwork) -> None:
    widths = []
    for length in (1, 10, 100):
        forecast = tiny_network.predict([task(np.full(length, 8.0))])[0][0]
        widths.append(float((forecast.quantiles[0, 2] - forecast.quantiles[0, 0]).mean()))
    assert widths[0] > widths[1] > widths[2] > 0


def test_scale_moves_the_answer_by_the_scale_alone(tiny_network: SeriesNetwork) -> None:
    plain = tiny_network.predict([task(history(100))])[0][0].quantiles
    for factor in (1e12, 1e-9):
        scaled = tiny_network.predict([task(history(100) * factor)])[0][0].quantiles
        np.testing.assert_allclose(scaled / factor, plain, rtol=1e-4, atol=1e-4)


def test_non_negative_series_are_cut_at_zero(tiny_network: SeriesNetwork) -> None:
    free = tiny_network.predict([task(SPIKES)])[0][0]
    cut = tiny_network.predict([task(SPIKES, non_negative=True)])[0][0]
    assert (free.quantiles < 0).any()
    np.testing.assert_allclose(cut.quantiles, np.maximum(free.quantiles, 0))
    assert (cut.mean >= 0).all()


def test_levels_come_in_the_order_asked_for(tiny_network: SeriesNetwork) -> None:
    one = task(history(100))
    levels = (0.9, 0.001, 0.5, 0.333, 0.9999)
    forecast = tiny_network.predict([replace(one, quantile_levels=levels)])[0][0]
    assert forecast.quantiles.shape == (1, 5, 28)
    by_level = forecast.quantiles[0, np.argsort(levels)]
    assert (np.diff(by_level, axis=0) > 0).all()


def test_covariates_move_the_answer(tiny_network: SeriesNetwork) -> None:
    target, past = history(100), history(100, mean=0)
    answers = [
        tiny_network.predict([task(target, covariates=(Covariate("price", past, future),))])[0][0]
        for future in (np.zeros(28), np.ones(28) * 9)
    ]
    assert np.abs(answers[0].quantiles - answers[1].quantiles).max() > 1e-3
