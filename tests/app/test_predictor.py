"""The road of a prediction: cached, joined or computed, an answer is the same and in its place."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest

from app.cache import Cache, MemoryCache
from app.errors import (
    DeadlineError,
    InvalidInputError,
    NotFoundError,
    PredictionError,
    UnavailableError,
)
from app.kinds import SERIES
from app.metrics import Metrics
from app.predictor import Prediction, Predictor
from models.base import Network, Series, SeriesResult, SeriesTask
from models.series import SeriesNetwork
from tests.app.networks import LastValue, running, value_of


@dataclass(frozen=True)
class Version:
    network: Network[SeriesTask, SeriesResult]
    version: int = 1
    name: str = "sales"
    description: object = None

    @property
    def fingerprint(self) -> str:
        return self.network.fingerprint


@dataclass
class Shelf:
    """Live versions by alias."""

    versions: dict[str, Version] = field(default_factory=dict)

    async def acquire(self, name: str, alias: str) -> Version:
        if name != "sales" or alias not in self.versions:
            raise NotFoundError(f"there is no {name} {alias}")
        return self.versions[alias]


@dataclass
class Road:
    predictor: Predictor[SeriesTask, SeriesResult]
    shelf: Shelf
    metrics: Metrics
    cache: Cache

    async def predict(self, *values: int, **options: Any) -> Prediction[SeriesResult]:
        return await self.predictor.predict("sales", [task(value) for value in values], **options)

    def count(self, name: str) -> float:
        return value_of(self.metrics, f"shopcast_{name}_total")


@asynccontextmanager
async def road(
    network: Network[SeriesTask, SeriesResult], *, cache_bytes: int = 1_000_000, **settings: Any
) -> AsyncIterator[Road]:
    metrics, shelf = Metrics(), Shelf({"production": Version(network)})
    async with running(metrics, **settings) as batcher:
        cache = MemoryCache(cache_bytes, 60, metrics=metrics)
        yield Road(Predictor(SERIES, shelf, batcher, cache, metrics), shelf, metrics, cache)


def task(value: int, *, length: int = 8, horizon: int = 2) -> SeriesTask:
    history = np.arange(length, dtype=np.float64)[None]
    history[0, -1] = value
    return SeriesTask((Series(history),), horizon, (0.1, 0.9))


def answers(prediction: Prediction[SeriesResult]) -> list[float]:
    """The value that each result repeats."""
    return [float(result[0].mean[0, 0]) for result in prediction.results]


def thirds(values: Sequence[int]) -> list[float]:
    return [value / 3 for value in values]


def same_bits(one: Prediction[SeriesResult], other: Prediction[SeriesResult]) -> bool:
    pairs = zip(one.results, other.results, strict=True)
    return all(
        a.quantiles.tobytes() == b.quantiles.tobytes() and a.mean.tobytes() == b.mean.tobytes()
        for mine, theirs in pairs
        for a, b in zip(mine, theirs, strict=True)
    )


async def test_results_come_in_the_order_of_the_tasks() -> None:
    async with road(LastValue(), batch_rows=3) as way:
        prediction = await way.predict(5, 3, 9, 3, 1)
    assert answers(prediction) == thirds([5, 3, 9, 3, 1])
    assert (prediction.name, prediction.version) == ("sales", 1)
    assert prediction.compute_s > 0
    assert prediction.queue_s >= 0


async def test_no_tasks_are_answered_with_no_results() -> None:
    async with road(LastValue()) as way:
        assert (await way.predict()).results == []


async def test_of_many_series_only_the_unknown_are_computed() -> None:
    network = LastValue()
    async with road(network) as way:
        await way.predict(*range(90))
        prediction = await way.predict(*range(100))
        assert way.count("rows") == 100
        assert (way.count("cache_hits"), way.count("cache_misses")) == (90, 100)
    assert answers(prediction) == thirds(range(100))
    assert prediction.cached == [True] * 90 + [False] * 10


async def test_a_cached_answer_equals_the_first_bit_for_bit(tiny_network: SeriesNetwork) -> None:
    async with road(tiny_network) as way:
        first, second = await way.predict(5, 11), await way.predict(5, 11)
    assert (first.cached, second.cached) == ([False] * 2, [True] * 2)
    assert same_bits(first, second)


async def test_an_answer_is_the_networks_own(tiny_network: SeriesNetwork) -> None:
    tasks = [task(value, length=20 + 13 * value, horizon=1 + value % 9) for value in range(12)]
    async with road(tiny_network) as way:
        together = await way.predictor.predict("sales", tasks)
        storm = await asyncio.gather(*(way.predictor.predict("sales", [one]) for one in tasks))
    for number, one in enumerate(tasks):
        bare = tiny_network.predict([one])[0][0]
        scale = one.series[0].target.std()
        for answer in (together.results[number][0], storm[number].results[0][0]):
            np.testing.assert_allclose(answer.quantiles, bare.quantiles, atol=1e-4 * scale)
            np.testing.assert_allclose(answer.mean, bare.mean, atol=1e-4 * scale)


async def test_without_a_cache_an_answer_has_the_same_bits() -> None:
    async with road(LastValue(), cache_bytes=0) as without, road(LastValue()) as way:
        one, other = await without.predict(1), await without.predict(1)
        assert (one.cached, other.cached) == ([False], [False])
        assert same_bits(one, await way.predict(1))


async def test_a_large_request_takes_the_same_road() -> None:
    tasks = [task(value, length=2000, horizon=100) for value in range(400)]
    async with road(LastValue(), cache_bytes=100_000_000) as way:
        cold, warm = [await way.predictor.predict("sales", tasks) for _ in range(2)]
    assert (cold.cached, warm.cached) == ([False] * 400, [True] * 400)
    assert answers(cold) == answers(warm) == thirds(range(400))


async def test_identical_work_in_flight_is_awaited_not_repeated() -> None:
    network = LastValue()
    async with road(network) as way:
        network.echo.shut(7)
        callers = [asyncio.create_task(way.predict(7, 7)) for _ in range(5)]
        await network.echo.begun()
        await asyncio.sleep(0)
        network.echo.open()
        found = await asyncio.gather(*callers)
        assert way.count("rows") == 1
        assert way.count("coalesced_tasks") == 9
    assert all(answers(one) == thirds([7, 7]) for one in found)
    assert all(same_bits(one, found[0]) for one in found)


async def test_who_joins_gets_the_answer_when_the_first_caller_leaves() -> None:
    network = LastValue()
    async with road(network) as way:
        network.echo.shut(7)
        gone, stays = (asyncio.create_task(way.predict(7)) for _ in range(2))
        await network.echo.begun()
        gone.cancel()
        network.echo.open()
        assert answers(await stays) == thirds([7])
        assert (await way.predict(7)).cached == [True]
        with pytest.raises(asyncio.CancelledError):
            await gone


async def test_work_leaves_the_queue_when_everybody_has_left() -> None:
    network = LastValue()
    async with road(network) as way:
        network.echo.shut(1)
        first = asyncio.create_task(way.predict(1))
        await network.echo.begun()
        callers = [asyncio.create_task(way.predict(7)) for _ in range(3)]
        await asyncio.sleep(0)
        assert value_of(way.metrics, "shopcast_queue_tasks") == 1
        for caller in callers:
            caller.cancel()
        await asyncio.gather(*callers, return_exceptions=True)
        assert value_of(way.metrics, "shopcast_queue_tasks") == 0
        network.echo.open()
        await first
    assert network.echo.values == [[1]]


async def test_each_waiter_has_a_deadline_of_its_own() -> None:
    network = LastValue()
    async with road(network) as way:
        network.echo.shut(7)
        patient = asyncio.create_task(way.predict(7, timeout_s=30))
        await network.echo.begun()
        with pytest.raises(DeadlineError):
            await way.predict(7, timeout_s=0.05)
        network.echo.open()
        assert answers(await patient) == thirds([7])


async def test_a_failure_is_not_cached_and_is_everybodys_own() -> None:
    network = LastValue()
    network.echo.poison.add(7)
    async with road(network) as way:
        network.echo.shut(7)
        callers = [asyncio.create_task(way.predict(7)) for _ in range(3)]
        await network.echo.begun()
        network.echo.open()
        errors = await asyncio.gather(*callers, return_exceptions=True)
        assert all(isinstance(error, PredictionError) for error in errors)
        assert len(set(map(id, errors))) == 3
        network.echo.poison.clear()
        prediction = await way.predict(7)
    assert prediction.cached == [False]


async def test_one_version_answers_all_of_a_request() -> None:
    old, new = LastValue("old"), LastValue("new")
    async with road(old, batch_rows=1) as way:
        old.echo.shut(1)
        running_one = asyncio.create_task(way.predict(1, 2, 3))
        await old.echo.begun()
        way.shelf.versions["production"] = Version(new, version=2)
        later = await asyncio.gather(way.predict(1, 2, 3), _open(old))
        assert (await running_one).version == 1
        assert later[0].version == 2
    assert old.echo.values == new.echo.values == [[1], [2], [3]]


async def _open(network: LastValue) -> None:
    network.echo.open()


async def test_an_answer_of_one_version_is_not_given_for_another() -> None:
    async with road(LastValue("old")) as way:
        way.shelf.versions["next"] = Version(LastValue("new"), version=2)
        assert (await way.predict(1)).cached == [False]
        assert (await way.predict(1, alias="next")).cached == [False]
        assert (await way.predict(1)).cached == [True]


async def test_an_unknown_model_is_not_found() -> None:
    async with road(LastValue()) as way:
        with pytest.raises(NotFoundError):
            await way.predict(1, alias="nobody")


async def test_a_full_queue_refuses_and_what_is_known_is_answered() -> None:
    network = LastValue()
    async with road(network, queue_points=8) as way:
        known = await way.predict(1)
        await network.echo.begun()
        network.echo.shut(5)
        runs = asyncio.create_task(way.predict(5))
        await network.echo.begun()
        waits = asyncio.create_task(way.predict(6))
        await asyncio.sleep(0)
        with pytest.raises(UnavailableError):
            await way.predict(2)
        assert same_bits(known, await way.predict(1))
        network.echo.open()
        await asyncio.gather(runs, waits)


async def test_more_than_the_queue_could_hold_is_refused_and_what_is_known_is_answered() -> None:
    network = LastValue()
    async with road(network, queue_points=8) as way:
        known = await way.predict(1)
        with pytest.raises(InvalidInputError):
            await way.predict(2, 3)
        assert same_bits(known, await way.predict(1))


async def test_a_damaged_value_in_the_cache_is_a_miss() -> None:
    async with road(LastValue()) as way:
        key = SERIES.key("last", task(1))
        await way.cache.set_many({key: b"garbage"})
        prediction = await way.predict(1)
        assert prediction.cached == [False]
        assert answers(prediction) == thirds([1])
        assert (await way.predict(1)).cached == [True]
