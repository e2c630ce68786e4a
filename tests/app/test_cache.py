"""The cache keeps what it was told, within its bounds, and never makes an answer up."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import pytest_asyncio
from hypothesis import given
from hypothesis import strategies as st

from app.cache import ENTRY_BYTES, Cache, LayeredCache, MemoryCache, RedisCache
from app.link import Link
from app.metrics import Metrics
from tests.app.networks import value_of
from tests.redis_server import RedisServer, redis, redis_server

__all__ = ["redis"]


def room_for(entries: int) -> int:
    """Bytes that hold so many entries of keys of 1 and values of 100 bytes."""
    return entries * (1 + 100 + ENTRY_BYTES)


@pytest_asyncio.fixture(params=["memory", "redis", "layered"])
async def cache(request: pytest.FixtureRequest) -> AsyncIterator[Cache]:
    """One of each sort."""
    memory = MemoryCache(10_000_000, 60, metrics=Metrics())
    if request.param == "memory":
        yield memory
        return
    async with opened(request.getfixturevalue("redis")) as far:
        yield far if request.param == "redis" else LayeredCache(memory, far, metrics=Metrics())


@asynccontextmanager
async def opened(redis: RedisServer, ttl_s: float = 60, **options: Any) -> AsyncIterator["Far"]:
    metrics = Metrics()
    link = Link(redis.url, metrics, **{"wait_s": 2.0} | options)
    await link.start()
    try:
        yield Far(link, ttl_s, metrics=metrics)
    finally:
        await link.close()


class Far(RedisCache):
    """A cache in Redis with what it counts."""

    def failures(self, reason: str) -> float:
        return value_of(self._metrics, "shopcast_redis_failures_total", reason=reason)


async def test_what_is_kept_is_found_in_the_order_asked_for(cache: Cache) -> None:
    assert await cache.get_many([b"b", b"c", b"a"]) == [None, None, None]
    await cache.set_many({b"a": b"1", b"b": b"\0\r\n\xff" * 9_000})
    assert await cache.get_many([b"b", b"c", b"a", b"a"]) == [
        *(b"\0\r\n\xff" * 9_000, None, b"1", b"1"),
    ]
    assert await cache.get_many([]) == []
    await cache.set_many({})
    await cache.set_many({b"a": b""})
    assert await cache.get_many([b"a"]) == [b""]
    many = {b"%d" % number: b"%d" % (number * number) for number in range(1024)}
    await cache.set_many(many)
    assert await cache.get_many(list(many)) == list(many.values())
    await cache.close()


async def test_a_closed_cache_in_memory_is_empty() -> None:
    cache: Cache = MemoryCache(10_000, 60, metrics=Metrics())
    await cache.set_many({b"a": b"1"})
    await cache.close()
    assert await cache.get_many([b"a"]) == [None]


async def test_the_cache_is_bounded_in_bytes() -> None:
    metrics = Metrics()
    cache = MemoryCache(room_for(3), 60, metrics=metrics)
    await cache.set_many({bytes([number]): bytes(100) for number in range(50)})
    assert value_of(metrics, "shopcast_cache_entries") == 3
    assert value_of(metrics, "shopcast_cache_bytes") == room_for(3)
    assert value_of(metrics, "shopcast_cache_evictions_total") == 47


async def test_what_was_used_least_recently_leaves_first() -> None:
    cache = MemoryCache(room_for(2), 60, metrics=Metrics())
    await cache.set_many({b"a": bytes(100), b"b": bytes(100)})
    await cache.get_many([b"a"])
    await cache.set_many({b"c": bytes(100)})
    found = await cache.get_many([b"a", b"b", b"c"])
    assert [value is not None for value in found] == [True, False, True]


async def test_replacing_a_value_does_not_count_it_twice() -> None:
    metrics = Metrics()
    cache = MemoryCache(room_for(9), 60, metrics=metrics)
    for _ in range(3):
        await cache.set_many({b"a": bytes(100)})
    assert value_of(metrics, "shopcast_cache_bytes") == room_for(1)


async def test_a_value_expires() -> None:
    metrics = Metrics()
    cache = MemoryCache(10_000, 0.0, metrics=metrics)
    await cache.set_many({b"a": b"1"})
    assert await cache.get_many([b"a"]) == [None]
    assert value_of(metrics, "shopcast_cache_bytes") == 0


@pytest.mark.parametrize("most_bytes", [0, ENTRY_BYTES])
async def test_what_has_no_room_is_not_kept(most_bytes: int) -> None:
    metrics = Metrics()
    cache = MemoryCache(most_bytes, 60, metrics=metrics)
    await cache.set_many({b"a": b"1"})
    assert await cache.get_many([b"a"]) == [None]
    assert value_of(metrics, "shopcast_cache_evictions_total") == 0


@given(
    st.lists(st.tuples(st.booleans(), st.integers(0, 9), st.integers(0, 300)), max_size=60),
    st.integers(0, 2000),
)
async def test_the_size_is_right_whatever_happens(
    steps: list[tuple[bool, int, int]], most_bytes: int
) -> None:
    metrics = Metrics()
    cache = MemoryCache(most_bytes, 60, metrics=metrics)
    told: dict[bytes, bytes] = {}
    for write, name, size in steps:
        key = bytes([name])
        if write:
            told[key] = bytes([size % 7]) * size
            await cache.set_many({key: told[key]})
        else:
            assert (await cache.get_many([key]))[0] in (None, told.get(key))
    found = await cache.get_many(list(told))
    kept = [1 + len(value) + ENTRY_BYTES for value in found if value is not None]
    assert value_of(metrics, "shopcast_cache_bytes") == sum(kept) <= most_bytes
    assert value_of(metrics, "shopcast_cache_entries") == len(kept)


# --- in Redis


async def test_processes_share_what_is_in_redis_by_namespace(redis: RedisServer) -> None:
    async with opened(redis) as one, opened(redis) as two, opened(redis, name="other") as other:
        await one.set_many({b"a": b"1"})
        assert await two.get_many([b"a"]) == [b"1"]
        assert await other.get_many([b"a"]) == [None]


async def test_a_value_in_redis_expires(redis: RedisServer) -> None:
    async with opened(redis, ttl_s=0.05) as cache:
        await cache.set_many({b"a": b"1"})
        await asyncio.sleep(0.1)
        assert await cache.get_many([b"a"]) == [None]


async def test_what_was_damaged_or_put_there_by_somebody_else_is_a_miss(redis: RedisServer) -> None:
    async with opened(redis) as cache:
        await cache.set_many({b"a": b"one", b"b": b"two"})
        whole = redis.say("GET", b"shopcast:forecast:a").split(b"\r\n")[1]
        faults = [b"", b"x", whole[:-1], whole + b"x", bytes([whole[0] ^ 1]) + whole[1:]]
        flipped = whole[:-1] + bytes([whole[-1] ^ 1])
        for number, fault in enumerate([*faults, flipped], start=1):
            redis.say("SET", b"shopcast:forecast:a", fault)
            assert await cache.get_many([b"a", b"b"]) == [None, b"two"]
            assert cache.failures("garbage") == number
        redis.say("SET", b"shopcast:forecast:b", whole)  # good, and of another forecast
        assert await cache.get_many([b"b"]) == [None]
        redis.say("DEL", b"shopcast:forecast:a")
        redis.say("RPUSH", b"shopcast:forecast:a", b"x")  # no string at all
        assert await cache.get_many([b"a"]) == [None]
        await cache.set_many({b"a": b"mended"})
        assert await cache.get_many([b"a"]) == [b"mended"]


async def test_a_full_redis_keeps_nothing_new_and_answers_what_it_has() -> None:
    with redis_server("--maxmemory", "3mb", "--maxmemory-policy", "noeviction") as redis:
        async with opened(redis) as cache:
            await cache.set_many({b"first": b"1"})
            await cache.set_many({b"%d" % number: bytes(100_000) for number in range(100)})
            assert cache.failures("refused") > 0
            assert await cache.get_many([b"first", b"99"]) == [b"1", None]


async def test_without_redis_everything_is_a_miss_at_once(redis: RedisServer) -> None:
    async with opened(redis) as cache:
        await cache.set_many({b"a": b"1"})
        redis.kill()
        began_s = time.perf_counter()
        for _ in range(100):
            assert await cache.get_many([b"a"]) == [None]
            await cache.set_many({b"a": b"1"})
        assert time.perf_counter() - began_s < 1.0


async def test_what_is_found_far_away_comes_near(redis: RedisServer) -> None:
    metrics = Metrics()
    async with opened(redis) as far:
        caches = [
            LayeredCache(MemoryCache(10_000, 60, metrics=Metrics()), far, metrics=metrics)
            for _ in range(2)
        ]
        await caches[0].set_many({b"a": b"1"})
        assert await caches[1].get_many([b"x", b"a"]) == [None, b"1"]
        assert value_of(metrics, "shopcast_redis_hits_total") == 1
        redis.kill()
        assert await caches[1].get_many([b"a", b"x"]) == [b"1", None]
