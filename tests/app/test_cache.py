"""The cache keeps what it was told, within its bounds, and never makes an answer up."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.cache import ENTRY_BYTES, Cache, MemoryCache
from app.metrics import Metrics
from tests.app.networks import value_of


def room_for(entries: int) -> int:
    """Bytes that hold so many entries of keys of 1 and values of 100 bytes."""
    return entries * (1 + 100 + ENTRY_BYTES)


async def test_what_is_kept_is_found_in_the_order_asked_for() -> None:
    cache: Cache = MemoryCache(10_000, 60, metrics=Metrics())
    await cache.set_many({b"a": b"1", b"b": b"2"})
    assert await cache.get_many([b"b", b"c", b"a"]) == [b"2", None, b"1"]
    assert await cache.get_many([]) == []
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
