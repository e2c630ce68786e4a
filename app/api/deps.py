"""What a route may ask for.

Invariant: a route touches the service through these alone.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from starlette.requests import Request
from starlette.types import Receive

from app.api.bodies import read_body
from app.api.exchange import ClientGoneError, Exchange, exchange_of
from app.errors import InvalidInputError, Issue
from app.resources import Resources

TIMEOUT_HEADER = "X-Request-Timeout-Ms"
WATCH_AFTER_S = 0.005  # an answer from the cache is out before; it need not pay for a watch


def resources_of(request: Request) -> Resources:
    """What the service holds open."""
    resources: Resources = exchange_of(request.scope).resources
    return resources


async def body_of(request: Request) -> bytes:
    """The body, read and decompressed within its bounds."""
    exchange = exchange_of(request.scope)
    settings = exchange.resources.settings
    return await read_body(
        request.receive,
        exchange.headers,
        limit=settings.max_body_bytes,
        timeout_s=settings.timeout_ms / 1000,
    )


def deadline_of(request: Request) -> float:
    """When the answer has to be there, in terms of perf_counter. Raises InvalidInputError."""
    exchange = exchange_of(request.scope)
    return exchange.began_s + _timeout_ms(exchange) / 1000


@asynccontextmanager
async def while_connected(receive: Receive) -> AsyncIterator[None]:
    """Cancel what is awaited inside as soon as the caller leaves; raises ClientGoneError then."""
    watch = _Watch(receive)
    try:
        yield
    except asyncio.CancelledError:
        if not watch.gone:
            raise
        watch.task.uncancel()
        raise ClientGoneError from None
    finally:
        watch.stop()


class _Watch:
    """Waits for the caller to leave, once it has become worth while."""

    __slots__ = ("_listener", "_receive", "_timer", "gone", "task")

    def __init__(self, receive: Receive) -> None:
        task = asyncio.current_task()
        assert task is not None  # noqa: S101 - a request is a task
        self.task, self.gone = task, False
        self._receive = receive
        self._listener: asyncio.Task[None] | None = None
        self._timer = asyncio.get_running_loop().call_later(WATCH_AFTER_S, self._start)

    def stop(self) -> None:
        self._timer.cancel()
        if self._listener is not None:
            self._listener.cancel()

    def _start(self) -> None:
        self._listener = asyncio.get_running_loop().create_task(self._listen())

    async def _listen(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass
        self.gone = True
        self.task.cancel()


def _timeout_ms(exchange: Exchange) -> int:
    most: int = exchange.resources.settings.timeout_ms
    raw = exchange.headers.get(b"x-request-timeout-ms")
    if raw is None:
        return most
    if not raw.isdigit() or len(raw) > 9 or int(raw) == 0:
        shown = raw[:20].decode("latin-1")
        msg = f"{TIMEOUT_HEADER}: must be a whole number of milliseconds from 1 on, not {shown!r}"
        raise InvalidInputError((Issue(("header", TIMEOUT_HEADER), msg, "timeout"),))
    return min(int(raw), most)
