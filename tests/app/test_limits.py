"""A bucket gives what a rate says, and no more."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

from hypothesis import given
from hypothesis import strategies as st

from app.auth import ANYBODY, Caller
from app.limits import Limits
from app.link import Link
from app.metrics import Metrics
from app.rates import Rate
from tests.app.networks import value_of
from tests.redis_server import RedisServer, redis

__all__ = ["redis"]


class Clock:
    """A time that a test sets."""

    def __init__(self) -> None:
        self.now_s = 1e6

    def __call__(self) -> float:
        return self.now_s


Asking = tuple[str, Rate]


def caller(rate: str, key_id: str = "k") -> Asking:
    return key_id, Rate.parse(rate)


async def test_a_full_bucket_is_given_at_once_and_then_at_its_pace() -> None:
    clock = Clock()
    limits, asking = Limits(clock=clock), caller("5/s")
    given = [await limits.take(*asking) for _ in range(5)]
    assert [each.remaining for each in given] == [4, 3, 2, 1, 0]
    for _ in range(3):
        refused = await limits.take(*asking)
        assert abs(refused.wait_s - 0.2) < 1e-6
    clock.now_s += 0.2
    after = await limits.take(*asking)
    assert after.wait_s == 0
    clock.now_s += 100
    full = await limits.take(*asking)
    assert full.remaining == 4


async def test_keys_do_not_share_a_bucket() -> None:
    limits = Limits(clock=Clock())
    for key_id in ("a", "b"):
        assert (await limits.take(*caller("1/d", key_id))).wait_s == 0
        assert (await limits.take(*caller("1/d", key_id))).wait_s > 86_000


def test_the_default_is_of_those_without_a_rate() -> None:
    own = Caller("k", "", frozenset(), rate=Rate(2, 1))
    assert Limits().of(ANYBODY) is None
    assert Limits(Rate(1, 60)).of(ANYBODY) == Rate(1, 60)
    assert Limits(Rate(1, 60)).of(own) == Rate(2, 1)


@given(
    st.integers(1, 50),
    st.sampled_from([1, 60]),
    st.lists(st.floats(0, 2.0), min_size=1, max_size=120),
)
async def test_no_more_than_the_rate_and_a_bucket(
    count: int, per_s: int, pauses: list[float]
) -> None:
    clock = Clock()
    limits, asking = Limits(clock=clock), ("k", Rate(count, per_s))
    began_s, given = clock.now_s, 0
    for pause in pauses:
        clock.now_s += pause
        standing = await limits.take(*asking)
        given += standing.wait_s == 0
        assert given <= count + (clock.now_s - began_s) * count / per_s + 1e-3
        assert 0 <= standing.remaining <= count
        if standing.wait_s:  # whoever comes when they were told to is served
            clock.now_s += standing.wait_s
            again = await limits.take(*asking)
            assert again.wait_s == 0
            given += 1


# --- shared by way of Redis


@asynccontextmanager
async def shared(redis: RedisServer, count: int = 2) -> AsyncIterator[list[Limits]]:
    """What so many processes have of the same buckets."""
    async with AsyncExitStack() as stack:
        limits = []
        for _ in range(count):
            link = Link(redis.url, Metrics(), wait_s=2.0)
            await link.start()
            stack.push_async_callback(link.close)
            limits.append(Limits(link=link))
        yield limits


async def granted(limits: list[Limits], asking: Asking, times: int) -> int:
    """How many of so many requests are granted, over all processes in turn."""
    standings = [await limits[number % len(limits)].take(*asking) for number in range(times)]
    return sum(each.wait_s == 0 for each in standings)


async def test_processes_share_a_bucket(redis: RedisServer) -> None:
    async with shared(redis) as limits:
        assert await granted(limits, caller("10/h"), 30) == 10
        assert await granted(limits, caller("10/h", "other"), 30) == 10
        refused = await limits[0].take(*caller("10/h"))
        assert 300 < refused.wait_s <= 360
        assert 3500 < refused.full_s <= 3600


async def test_few_requests_of_a_fast_rate_ask_redis(redis: RedisServer) -> None:
    async with shared(redis) as limits:
        assert await granted(limits, caller("400/m"), 300) == 300
        assert await granted(limits, caller("6000/m", "fast"), 300) == 300
        calls = sum(
            value_of(each._link._metrics, "shopcast_redis_seconds_count")
            for each in limits
            if each._link is not None
        )
        assert calls < 300 + 100


async def test_a_fast_rate_is_kept(redis: RedisServer) -> None:
    async with shared(redis) as limits:
        asking, began_s, given, asked = caller("200/s"), time.monotonic(), 0, 0
        while time.monotonic() - began_s < 1.0:
            given += await granted(limits, asking, 10)
            asked += 10
            await asyncio.sleep(0.005)
        took_s = time.monotonic() - began_s
        assert given <= 200 + 200 * took_s + 1
        if asked > 600:  # else this machine was too slow to ask for so much
            assert given >= 0.8 * (200 + 200 * took_s)


async def test_without_redis_each_process_has_a_bucket_of_its_own(redis: RedisServer) -> None:
    async with shared(redis) as limits:
        assert await granted(limits, caller("4/h"), 10) == 4
        redis.kill()
        assert await granted(limits, caller("4/h", "new"), 20) == 8


async def test_a_damaged_bucket_is_a_full_one_or_the_process_s_own(redis: RedisServer) -> None:
    async with shared(redis, 1) as limits:
        for number, damage in enumerate((b"x", b"", b"1e99", b"-5", b"nan")):
            redis.say("SET", f"shopcast:bucket:{number}", damage)
            assert await granted(limits, caller("3/h", str(number)), 9) == 3
        redis.say("RPUSH", "shopcast:bucket:k", b"x")
        assert await granted(limits, caller("3/h"), 9) == 3
