"""The way to Redis: bounded in time, and left alone while it is down.

Invariant: nobody waits longer than the bound, and whatever goes wrong with Redis is one error,
`LinkDownError`, which every user of the link can do without.

Connections are made aside, never within the bound of a call: a handshake, with TLS above all, takes
longer than an answer. After a lost connection, or some late answers in a row, calls fail at once
until Redis answers a ping again.
"""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from typing import Any, TypeVar

from redis.asyncio import BlockingConnectionPool, Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import ConnectionError as LostError
from redis.exceptions import RedisError, ResponseError
from redis.exceptions import TimeoutError as LateError

from app.errors import ConfigurationError
from app.metrics import Metrics

CONNECTIONS = 8
LATE_IN_A_ROW = 3  # answers that did not come in time, before the link counts as down
CONNECT_S = 1.0  # one try
START_S = 3.0
PAUSES_S = (0.1, 0.25, 0.5, 1.0, 2.0)  # between tries to reach Redis again

log = logging.getLogger(__name__)

T = TypeVar("T")
Command = Sequence[Any]


class LinkDownError(Exception):
    """Redis did not answer, or not in time, or refused."""


class Link:
    """Some connections to one Redis. Belongs to one event loop."""

    def __init__(
        self, url: str, metrics: Metrics, *, wait_s: float, name: str = "shopcast"
    ) -> None:
        """wait_s: for an answer. name: begins every key. Raises ConfigurationError."""
        try:
            self._pool = BlockingConnectionPool.from_url(
                url,
                max_connections=CONNECTIONS,
                timeout=None,  # the bound of a call covers the wait for a connection
                socket_timeout=None,
                socket_connect_timeout=CONNECT_S,
                retry=Retry(NoBackoff(), 0),
                protocol=2,
            )
        except ValueError as error:
            raise ConfigurationError(f"SHOPCAST_REDIS_URL: {error}") from error
        self._redis = Redis(connection_pool=self._pool)
        self._metrics, self._wait_s, self._name = metrics, wait_s, name.encode() + b":"
        self._late = 0
        self._up = False
        self._mending: asyncio.Task[None] | None = None
        metrics.redis_up.set_function(lambda: self._up)
        metrics.redis_configured.set_function(lambda: True)

    @property
    def up(self) -> bool:
        """Whether it is worth while to ask."""
        return self._up

    def key(self, kind: bytes, key: bytes) -> bytes:
        """A key within this service's own."""
        return self._name + kind + key

    async def start(self) -> None:
        """Reach Redis, for `START_S` at most; it is sought for ever if it is not there."""
        self._mend()
        assert self._mending is not None  # noqa: S101 - just begun
        await asyncio.wait([self._mending], timeout=START_S)
        if not self._up:
            log.warning("Redis does not answer; the service goes on without it")

    async def close(self) -> None:
        """Let go of the connections."""
        if self._mending is not None:
            self._mending.cancel()
            with suppress(asyncio.CancelledError):
                await self._mending
        self._up = False
        with suppress(RedisError, OSError):
            await self._redis.aclose()
        await self._pool.disconnect()

    async def call(self, *command: Any) -> Any:  # noqa: ANN401 - of every command
        """The answer to a command. Raises LinkDownError."""
        ask: Callable[..., Awaitable[Any]] = self._redis.execute_command
        return await self._bounded(lambda: ask(*command))

    async def calls(self, commands: Sequence[Command]) -> list[Any]:
        """The answers to commands that go out together; one of them may be a ResponseError.

        Raises LinkDownError.
        """
        pipeline = self._redis.pipeline(transaction=False)
        for command in commands:
            pipeline.execute_command(*command)
        return await self._bounded(lambda: pipeline.execute(raise_on_error=False))

    async def _bounded(self, ask: Callable[[], Awaitable[T]]) -> T:
        if not self._up:
            raise LinkDownError
        began_s = time.perf_counter()
        try:
            async with asyncio.timeout(self._wait_s):
                answer = await ask()
        except (LateError, TimeoutError) as error:
            self._failed("late")
            raise LinkDownError from error
        except (LostError, OSError) as error:
            self._failed("lost")
            raise LinkDownError from error
        except RedisError as error:  # an answer, if an unwelcome one
            self._failed("refused")
            raise LinkDownError from error
        self._late = 0
        self._metrics.redis_seconds.observe(time.perf_counter() - began_s)
        return answer

    def _failed(self, reason: str) -> None:
        self._metrics.redis_failures.labels(reason).inc()
        self._late = self._late + 1 if reason == "late" else 0
        if reason == "lost" or self._late >= LATE_IN_A_ROW:
            self._mend()

    def _mend(self) -> None:
        if self._mending is None or self._mending.done():
            self._up = False
            self._mending = asyncio.create_task(self._seek())

    async def _seek(self) -> None:
        """Try until Redis answers."""
        tries = 0
        while not await self._reached():
            if tries == 0:
                log.warning("Redis is away")
            await asyncio.sleep(PAUSES_S[min(tries, len(PAUSES_S) - 1)])
            tries += 1
        self._late, self._up = 0, True
        log.info("Redis is there")

    async def _reached(self) -> bool:
        """Whether all connections are there, and one answers."""
        try:
            async with asyncio.timeout(CONNECT_S):
                await self._pool.disconnect()  # what was lost is not found again one by one
                await self._redis.ping()
                await asyncio.gather(*(self._redis.ping() for _ in range(CONNECTIONS)))
        except (RedisError, OSError, TimeoutError):
            return False
        return True


async def version_of(url: str, *, wait_s: float) -> str | None:
    """What a Redis says it is, or None if it does not answer. Raises ConfigurationError."""
    try:
        redis = Redis.from_url(url, socket_timeout=wait_s, socket_connect_timeout=wait_s)
    except ValueError as error:
        raise ConfigurationError(f"SHOPCAST_REDIS_URL: {error}") from error
    try:
        return str((await redis.info("server"))["redis_version"])
    except (RedisError, OSError):
        return None
    finally:
        await redis.aclose()


def is_refusal(answer: object) -> bool:
    """Whether one of several answers is a refusal."""
    return isinstance(answer, ResponseError)
