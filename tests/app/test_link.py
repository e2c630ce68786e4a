"""The way to Redis, while Redis is slow, stopped, killed, locked or somewhere else."""

import asyncio
import shutil
import socket
import subprocess
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from app.errors import ConfigurationError
from app.link import Link, LinkDownError, is_refusal
from app.metrics import Metrics
from tests.app.networks import value_of
from tests.redis_server import RedisServer, redis, redis_server

__all__ = ["redis"]

BOUND_S = 0.02
NOISE_S = 0.2  # of a machine that does much else


@asynccontextmanager
async def linked(
    url: str, *, wait_s: float = 1.0, there: bool = True
) -> AsyncIterator[tuple[Link, Metrics]]:
    """there: wait until Redis is reached, which on a busy machine may outlast `start`."""
    metrics = Metrics()
    link = Link(url, metrics, wait_s=wait_s)
    await link.start()
    try:
        if there:
            await back(link)
        yield link, metrics
    finally:
        await link.close()


async def back(link: Link) -> None:
    async with asyncio.timeout(15):
        while not link.up:  # noqa: ASYNC110 - what is waited for tells nobody
            await asyncio.sleep(0.02)


async def test_commands_go_one_by_one_and_together(redis: RedisServer) -> None:
    async with linked(redis.url) as (link, metrics):
        await link.call("SET", b"a", b"\0\xff")
        assert await link.call("MGET", b"a", b"b") == [b"\0\xff", None]
        answers = await link.calls([("GET", b"a"), ("INCR", b"a"), ("GET", b"a")])
        assert answers[0] == answers[2] == b"\0\xff"
        assert is_refusal(answers[1])
        assert value_of(metrics, "shopcast_redis_up") == 1
        assert value_of(metrics, "shopcast_redis_seconds_count") == 3


async def test_a_refusal_is_an_error_and_the_link_stays_up(redis: RedisServer) -> None:
    async with linked(redis.url) as (link, metrics):
        with pytest.raises(LinkDownError):
            await link.call("NO-SUCH-COMMAND")
        assert link.up
        assert value_of(metrics, "shopcast_redis_failures_total", reason="refused") == 1


async def test_a_stopped_redis_holds_nobody_longer_than_the_bound(redis: RedisServer) -> None:
    async with linked(redis.url, wait_s=BOUND_S) as (link, metrics):
        redis.pause()
        began_s = time.perf_counter()
        for _ in range(3):
            with pytest.raises(LinkDownError):
                await link.call("PING")
        assert time.perf_counter() - began_s < 3 * BOUND_S + NOISE_S
        began_s = time.perf_counter()
        for _ in range(1000):
            with pytest.raises(LinkDownError):
                await link.call("PING")
        assert time.perf_counter() - began_s < NOISE_S, "a link that is down was waited for"
        assert value_of(metrics, "shopcast_redis_up") == 0
        redis.go_on()
        await back(link)
        assert await asyncio.wait_for(link.call("PING"), 5)


async def test_a_killed_redis_is_found_again(redis: RedisServer) -> None:
    async with linked(redis.url) as (link, metrics):
        redis.kill()
        with pytest.raises(LinkDownError):
            await link.call("PING")
        assert not link.up
        redis.start()
        await back(link)
        assert await link.call("SET", b"a", b"1")
        assert value_of(metrics, "shopcast_redis_failures_total", reason="lost") == 1


async def test_a_redis_that_comes_later_is_found(redis: RedisServer) -> None:
    redis.kill()
    async with linked(redis.url, there=False) as (link, _):
        assert not link.up
        redis.start()
        await back(link)


async def test_a_caller_who_leaves_does_not_mix_up_the_answers(redis: RedisServer) -> None:
    async with linked(redis.url) as (link, _):
        await link.calls([("SET", b"%d" % number, b"%d" % number) for number in range(50)])

        async def leave(number: int) -> None:
            asking = asyncio.create_task(link.call("GET", b"%d" % number))
            await asyncio.sleep(0.0001 * (number % 7))
            asking.cancel()
            await asyncio.wait([asking])

        async def stay(number: int) -> None:
            for _ in range(20):
                assert await link.call("GET", b"%d" % number) == b"%d" % number

        await asyncio.gather(*(leave(n) if n % 2 else stay(n) for n in range(50)))


async def test_a_password_and_a_user_are_shown(redis: RedisServer) -> None:
    redis.say("ACL", "SETUSER", "shop", "on", ">s3cret", "~shopcast:*", "+@all")
    redis.say("ACL", "SETUSER", "default", "off")
    address = f"127.0.0.1:{redis.port}/0"
    async with linked(f"redis://shop:s3cret@{address}") as (link, _):
        assert await link.call("SET", link.key(b"forecast:", b"a"), b"1")
        with pytest.raises(LinkDownError):  # beyond the namespace
            await link.call("SET", b"other", b"1")
    for wrong in (f"redis://shop:wrong@{address}", f"redis://{address}"):
        async with linked(wrong, there=False) as (link, _):
            assert not link.up


@pytest.mark.parametrize("url", ["", "localhost:6379", "http://localhost"])
async def test_an_address_that_is_none_is_refused(url: str) -> None:
    with pytest.raises(ConfigurationError, match="SHOPCAST_REDIS_URL"):
        Link(url, Metrics(), wait_s=1.0)


def certificate(directory: Path) -> tuple[str, str]:
    """A certificate of 127.0.0.1 and its key."""
    crt, key = str(directory / "redis.crt"), str(directory / "redis.key")
    made = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"]
    named = ["-nodes", "-days", "2", "-subj", "/CN=redis", "-addext", "subjectAltName=IP:127.0.0.1"]
    subprocess.run(  # noqa: S603 - a program that was looked for
        [*made, *named, "-keyout", key, "-out", crt], check=True, capture_output=True
    )
    return crt, key


@pytest.mark.skipif(shutil.which("openssl") is None, reason="no openssl here")
async def test_tls_is_spoken_and_the_certificate_is_checked(tmp_path: Path) -> None:
    crt, key = certificate(tmp_path)
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    tls = ("--tls-port", str(port), "--tls-cert-file", crt, "--tls-key-file", key)
    with redis_server(*tls, "--tls-auth-clients", "no"):
        address = f"rediss://127.0.0.1:{port}/0"
        async with linked(f"{address}?ssl_ca_certs={crt}", wait_s=BOUND_S * 5) as (link, _):
            assert await link.call("SET", b"a", b"1")
        async with linked(address, there=False) as (link, _):  # nobody vouches for it
            assert not link.up
