"""A stampede on one forecast, over several processes' worth of roads, computes it once."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Any

import pytest

from app.cache import LayeredCache, MemoryCache, RedisCache
from app.claims import Claims
from app.errors import DeadlineError, PredictionError
from app.kinds import SERIES
from app.link import Link
from app.metrics import Metrics
from app.predictor import Prediction, Predictor
from models.base import SeriesResult, SeriesTask
from tests.app.networks import LastValue, running, value_of
from tests.app.test_predictor import Shelf, Version, task
from tests.redis_server import RedisServer, redis

__all__ = ["redis"]


@dataclass(frozen=True, eq=False)
class Process:
    """What a process has of its own."""

    predictor: Predictor[SeriesTask, SeriesResult]
    network: LastValue
    metrics: Metrics
    claims: Claims

    async def predict(self, *values: int, **options: Any) -> Prediction[SeriesResult]:
        return await self.predictor.predict("sales", list(map(task, values)), **options)

    @property
    def computed(self) -> list[int]:
        return [word.value for batch in self.network.echo.batches for word in batch]


@asynccontextmanager
async def processes(redis: RedisServer, count: int) -> AsyncIterator[list[Process]]:
    async with AsyncExitStack() as stack:
        yield [await _process(redis, stack) for _ in range(count)]


async def _process(redis: RedisServer, stack: AsyncExitStack) -> Process:
    metrics, network = Metrics(), LastValue()
    link = Link(redis.url, metrics, wait_s=2.0)
    await link.start()
    stack.push_async_callback(link.close)
    claims = Claims(link)
    stack.push_async_callback(claims.close)
    near = MemoryCache(1_000_000, 60, metrics=metrics)
    cache = LayeredCache(near, RedisCache(link, 60, metrics=metrics), metrics=metrics)
    batcher = await stack.enter_async_context(running(metrics))
    shelf = Shelf({"production": Version(network)})
    road = Predictor(SERIES, shelf, batcher, cache, metrics, claims)
    return Process(road, network, metrics, claims)


def key_of(value: int) -> bytes:
    return SERIES.key(LastValue().fingerprint, task(value))


async def test_a_stampede_over_four_processes_computes_once(redis: RedisServer) -> None:
    async with processes(redis, 4) as four:
        for each in four:
            each.network.echo.shut(7)
        asked = [asyncio.create_task(each.predict(7)) for each in four * 8]
        await asyncio.sleep(0.2)
        for each in four:
            each.network.echo.open(7)
        answers = await asyncio.gather(*asked)
        assert [value for each in four for value in each.computed] == [7]
        means = {answer.results[0][0].mean.tobytes() for answer in answers}
        assert len(means) == 1
        awaited = [value_of(each.metrics, "shopcast_awaited_forecasts_total") for each in four]
        assert sum(each > 0 for each in awaited) == 3
        await asyncio.gather(*(each.claims.close() for each in four))
        assert redis.say("KEYS", "*claim*") == b"*0\r\n"


async def test_what_another_process_has_just_computed_is_not_claimed(redis: RedisServer) -> None:
    async with processes(redis, 2) as (one, two):
        await one.predict(7)
        await one.claims.close()
        # `two` looked before it was there, and claims now
        assert await two.claims.take([key_of(7), key_of(8)], lease_s=60.0) == {key_of(7)}
        assert redis.say("KEYS", "*claim*").startswith(b"*1\r\n")
        two.claims.release([key_of(7), key_of(8)])
        await two.claims.close()
        assert redis.say("KEYS", "*claim*") == b"*0\r\n"


async def test_what_a_dead_process_has_claimed_is_computed_in_time(redis: RedisServer) -> None:
    async with processes(redis, 2) as (alive, dead):
        assert await dead.claims.take([key_of(7)], lease_s=60.0) == frozenset()
        began_s = time.monotonic()
        answer = await alive.predict(7, 8)
        assert 0.4 < time.monotonic() - began_s < 5.0
        assert sorted(alive.computed) == [7, 8]
        assert answer.cached == [False, False]
        dead.claims.release([key_of(7)])


async def test_a_deadline_passes_on_time_while_another_process_computes(redis: RedisServer) -> None:
    async with processes(redis, 2) as (here, there):
        await there.claims.take([key_of(7)], lease_s=60.0)
        began_s = time.monotonic()
        with pytest.raises(DeadlineError):
            await here.predict(7, timeout_s=0.1)
        assert time.monotonic() - began_s < 0.4
        there.claims.release([key_of(7)])


async def test_two_processes_that_want_the_same_two_do_not_wait_for_each_other(
    redis: RedisServer,
) -> None:
    async with processes(redis, 2) as (one, two):
        first, second = await asyncio.gather(one.predict(1, 2), two.predict(2, 1))
        assert sorted(one.computed + two.computed) == [1, 2]
        assert first.results[0][0].mean.tobytes() == second.results[1][0].mean.tobytes()


async def test_where_one_process_fails_another_answers(redis: RedisServer) -> None:
    async with processes(redis, 2) as (one, two):
        one.network.echo.poison.add(7)
        one.network.echo.shut(7)
        failing = asyncio.create_task(one.predict(7))
        await one.network.echo.begun()
        answering = asyncio.create_task(two.predict(7))
        await asyncio.sleep(0.05)
        one.network.echo.open(7)
        with pytest.raises(PredictionError):
            await failing
        assert (await answering).cached == [False]
        assert two.computed == [7]


async def test_a_caller_who_leaves_lets_its_claims_go(redis: RedisServer) -> None:
    async with processes(redis, 1) as (one,):
        one.network.echo.shut(7)
        asking = asyncio.create_task(one.predict(7))
        await one.network.echo.begun()
        asking.cancel()
        await asyncio.wait([asking])
        await one.claims.close()
        assert redis.say("KEYS", "*claim*") == b"*0\r\n"
        one.network.echo.open(7)


async def test_redis_dies_in_the_middle_and_every_answer_comes(redis: RedisServer) -> None:
    async with processes(redis, 2) as (one, two):
        for each in (one, two):
            each.network.echo.shut(7)
        asked = [asyncio.create_task(each.predict(7)) for each in (one, two)]
        await asyncio.sleep(0.1)
        redis.kill()
        for each in (one, two):
            each.network.echo.open(7)
        answers = await asyncio.gather(*asked)
        assert len({answer.results[0][0].mean.tobytes() for answer in answers}) == 1
        assert (await one.predict(9)).cached == [False]
        redis.start()
