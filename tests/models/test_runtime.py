"""ONNX Runtime answers what torch answers, and no neighbour moves an answer."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from models.base import Covariate, FloatArray, Series, SeriesTask, SetupError
from models.bottleneck import BOTTLENECK, bottleneck_weights, give_bottlenecks
from models.checkpoint import QUANTILES, load_series, save_random, shipped
from models.forward import Forward, Groups
from models.runtime import OnnxForward
from models.series import SeriesNetwork

CPU = torch.device("cpu")
RNG = np.random.default_rng(11)


def history(length: int) -> FloatArray:
    """A weekly season with noise."""
    rng = np.random.default_rng(length)
    return np.asarray(20 + 5 * np.sin(np.arange(length) * 2 * np.pi / 7) + rng.normal(size=length))


def task(*targets: FloatArray, horizon: int = 28, **series: Any) -> SeriesTask:
    several = tuple(Series(np.atleast_2d(target), **series) for target in targets)
    return SeriesTask(several, horizon, QUANTILES)


def with_gaps(length: int) -> FloatArray:
    """Random gaps, and patches of which nothing was seen."""
    values = history(length)
    values[RNG.random(length) < 0.3] = np.nan
    values[:40] = values[64:96] = np.nan
    return values


def past_only(length: int, horizon: int) -> SeriesTask:
    weather = Covariate("weather", RNG.normal(size=length))
    return task(history(length), horizon=horizon, covariates=(weather,))


def known_future(length: int, horizon: int) -> SeriesTask:
    price = Covariate("price", RNG.normal(size=length), RNG.normal(size=horizon))
    kinds = RNG.choice(["none", "leaflet"], size=length + horizon).astype(object)
    promotion = Covariate("promotion", kinds[:length], kinds[length:])
    return task(history(length), horizon=horizon, covariates=(price, promotion))


KINDS: dict[str, Callable[[int], list[SeriesTask]]] = {
    "lengths": lambda h: [task(history(n), horizon=h) for n in (5, 40, 200)],
    "missing values": lambda h: [task(with_gaps(n), horizon=h) for n in (120, 150)],
    "two targets": lambda h: [task(history(200).reshape(2, 100), horizon=h)],
    "past only": lambda h: [past_only(n, h) for n in (60, 111)],
    "known future": lambda h: [known_future(n, h) for n in (60, 111)],
    "cross learning": lambda h: [task(history(60), with_gaps(130), history(9), horizon=h)],
    "a mixture": lambda h: [
        task(history(33), horizon=h),
        known_future(70, h),
        task(with_gaps(140), horizon=h),
        task(history(50), with_gaps(99), horizon=h),
        past_only(64, h),
    ],
}


def with_bottlenecks(directory: Path) -> Path:
    """A checkpoint as the shipped one, with adapters that say something, written whole."""
    checkpoint = load_series(shipped("series"))
    give_bottlenecks(checkpoint.model, 8)
    with torch.random.fork_rng():
        torch.manual_seed(3)
        for weight in bottleneck_weights(checkpoint.model).values():
            weight.normal_(std=0.1)
    directory.mkdir()
    save_file(checkpoint.model.state_dict(), directory / "model.safetensors")
    config = json.loads((shipped("series") / "config.json").read_text())
    config["shopcast"][BOTTLENECK] = 8
    (directory / "config.json").write_text(json.dumps(config))
    return directory


@pytest.fixture(scope="module", params=["shipped", "tiny", "chronos-2-small", "bottlenecks"])
def runtimes(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[SeriesNetwork, SeriesNetwork]:
    """One checkpoint in torch and in ONNX Runtime."""
    directory = shipped("series")
    if request.param == "bottlenecks":
        directory = with_bottlenecks(tmp_path_factory.mktemp("runtimes") / "network")
    elif request.param != "shipped":
        directory = save_random(tmp_path_factory.mktemp("runtimes") / "network", request.param)
    return (
        SeriesNetwork.load(directory, runtime="torch"),
        SeriesNetwork.load(directory, runtime="onnx"),
    )


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("horizon", [1, 28, 100])
def test_onnx_answers_what_torch_answers(
    runtimes: tuple[SeriesNetwork, SeriesNetwork], kind: str, horizon: int
) -> None:
    check_equal(runtimes, KINDS[kind](horizon))


@pytest.mark.parametrize("horizon", [64, 257, 600])
def test_long_horizons_are_answered_alike(
    runtimes: tuple[SeriesNetwork, SeriesNetwork], horizon: int
) -> None:
    check_equal(runtimes, [task(history(100), horizon=horizon)])


def test_a_history_beyond_the_context_is_answered_alike(
    runtimes: tuple[SeriesNetwork, SeriesNetwork],
) -> None:
    check_equal(runtimes, [task(history(9000))])


def check_equal(runtimes: tuple[SeriesNetwork, SeriesNetwork], tasks: list[SeriesTask]) -> None:
    for one, expected, got in zip(tasks, *(each.predict(tasks) for each in runtimes), strict=True):
        for series, theirs, ours in zip(one.series, expected, got, strict=True):
            # a network with random weights swings far beyond its history; so does its rounding
            scale = max(float(np.nanstd(series.target)), float(theirs.quantiles.std()))
            np.testing.assert_allclose(
                ours.quantiles, theirs.quantiles, rtol=2e-5, atol=1e-4 * scale
            )


# -- no neighbour moves an answer -------------------------------------------------------------


@pytest.fixture(scope="module", params=[False, True], ids=["float32", "int8"])
def forward(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> OnnxForward:
    directory = with_bottlenecks(tmp_path_factory.mktemp("forward") / "network")
    made = Forward(load_series(directory).model, device=CPU, dtype=torch.float32)
    return OnnxForward(made, int8=request.param, threads=1)


@pytest.mark.parametrize("grouped", [False, True])
def test_bottlenecks_are_applied_as_the_library_s_network_does(
    grouped: bool, tmp_path: Path
) -> None:
    model = load_series(with_bottlenecks(tmp_path / "network")).model
    context = torch.from_numpy(RNG.normal(size=(3, 96)).astype(np.float32))
    groups = torch.tensor([0, 0, 1] if grouped else [0, 1, 2])
    with torch.inference_mode():
        plain = model(context, group_ids=groups, num_output_patches=2).quantile_preds
        _, scale = model.instance_norm(context)
        normal, _ = model.instance_norm(context, scale)
        ours = Forward(model, device=CPU, dtype=torch.float32)(
            normal,
            torch.full((3, 32), torch.nan),
            groups=pairs([(0, 1)], single=[2]) if grouped else None,
            n_patches=2,
        )
    restored = model.instance_norm.inverse(ours.flatten(1), scale).view(plain.shape)
    torch.testing.assert_close(restored, plain, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("grouped", [False, True])
def test_a_huge_neighbour_does_not_move_a_bit_of_an_answer(
    forward: OnnxForward, grouped: bool
) -> None:
    context = torch.from_numpy(RNG.normal(size=(5, 96)).astype(np.float32))
    future = torch.full((5, 32), torch.nan)
    groups = pairs([(0, 1), (3, 4)], single=[2]) if grouped else None
    answers = []
    for size in (1.0, 1e4, 1e12):
        context[3:] *= size
        answers.append(forward(context, future, groups=groups, n_patches=2)[:3])
    assert torch.equal(answers[0], answers[1])
    assert torch.equal(answers[0], answers[2])


def test_the_order_and_number_of_rows_move_rounding_alone(forward: OnnxForward) -> None:
    context = torch.from_numpy(RNG.normal(size=(7, 64)).astype(np.float32))
    future = torch.full((7, 16), torch.nan)
    together = forward(context, future, groups=None, n_patches=1)
    for row in range(7):
        one = slice(row, row + 1)
        alone = forward(context[one], future[one], groups=None, n_patches=1)
        torch.testing.assert_close(alone, together[one], rtol=0, atol=1e-2)


def pairs(members: list[tuple[int, int]], *, single: list[int]) -> Groups:
    slots = torch.tensor(members)
    return Groups(slots, torch.ones_like(slots, dtype=torch.bool), torch.tensor(single))


# -- what is asked for together ---------------------------------------------------------------


def test_int8_stays_near_float32() -> None:
    networks = [SeriesNetwork.load(shipped("series"), dtype=name) for name in ("float32", "int8")]
    tasks = [task(history(n)) for n in (5, 40, 200, 700)]
    for exact, reduced in zip(*(network.predict(tasks) for network in networks), strict=True):
        spread = exact[0].quantiles[:, -1] - exact[0].quantiles[:, 0]
        error = np.abs(exact[0].quantiles - reduced[0].quantiles).mean(axis=1)
        assert (error.mean() < 0.03 * spread.mean()).all()


def test_each_runtime_and_arithmetic_has_a_fingerprint_of_its_own(tiny_checkpoint: Path) -> None:
    settings: list[dict[str, Any]] = [
        {"runtime": "torch"},
        {"runtime": "torch", "dtype": "bfloat16"},
        {"runtime": "onnx"},
        {"dtype": "int8"},
    ]
    networks = [SeriesNetwork.load(tiny_checkpoint, device="cpu", **one) for one in settings]
    assert len({network.fingerprint for network in networks}) == len(networks)
    shown = [(network.describe().runtime, network.describe().dtype) for network in networks]
    assert shown == [
        ("torch", "float32"),
        ("torch", "bfloat16"),
        ("onnx", "float32"),
        ("onnx", "int8"),
    ]


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"runtime": "torch", "dtype": "int8"}, "int8 needs runtime onnx"),
        ({"runtime": "onnx", "dtype": "bfloat16"}, "float32 or int8"),
        ({"runtime": "onnx", "device": "cuda"}, "on a CPU"),
        ({"dtype": "int8", "device": "cuda"}, "on a CPU"),
    ],
)
def test_what_does_not_go_together_is_refused(
    tiny_checkpoint: Path, settings: dict[str, Any], reason: str
) -> None:
    with pytest.raises(SetupError, match=reason):
        SeriesNetwork.load(tiny_checkpoint, **settings)


@pytest.mark.parametrize("package", ["onnx", "onnxruntime"])
def test_a_missing_package_is_named(
    tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch, package: str
) -> None:
    for module in ("models.graph", "models.runtime"):
        monkeypatch.delitem(sys.modules, module, raising=False)
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(SetupError, match=rf"\({package}\).*SHOPCAST_RUNTIME=torch"):
        SeriesNetwork.load(tiny_checkpoint, runtime="onnx")


def test_an_activation_that_is_not_known_is_refused(tiny_checkpoint: Path) -> None:
    made = Forward(load_series(tiny_checkpoint).model, device=CPU, dtype=torch.float32)
    made.blocks[0].activation = torch.nn.SiLU()
    with pytest.raises(Exception, match="not relu"):
        OnnxForward(made, int8=False, threads=1)


def test_the_runtime_neither_reports_nor_notes_its_use(tmp_path: Path) -> None:
    told = {"CI", "ORT_DISABLE_TELEMETRY", "XDG_CACHE_HOME"}
    environment = {k: v for k, v in os.environ.items() if k not in told} | {"HOME": str(tmp_path)}
    subprocess.run([sys.executable, "-c", "import models.runtime"], env=environment, check=True)
    assert not list(tmp_path.rglob("*onnxruntime*"))
