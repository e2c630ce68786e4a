"""What a route may ask for.

Invariant: a route touches the service through these alone.
"""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, TypeVar

from pydantic import BaseModel, ValidationError
from starlette.requests import Request
from starlette.types import Receive

from app.api.bodies import decompress, encoding_of, parse, read_body
from app.api.exchange import ClientGoneError, Exchange, exchange_of
from app.errors import DeadlineError, InvalidInputError, Issue, TooLargeError
from app.predictor import Prediction
from app.resources import Resources

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails

SMALL_BYTES = 256 * 1024  # of a body that holds no data
TIMEOUT_HEADER = "X-Request-Timeout-Ms"
WATCH_AFTER_S = 0.005  # an answer from the cache is out before; it need not pay for a watch

WordsT = TypeVar("WordsT", bound=BaseModel)


def resources_of(request: Request) -> Resources:
    """What the service holds open."""
    resources: Resources = exchange_of(request.scope).resources
    return resources


def actor_of(exchange: Exchange) -> str:
    """Who asks, as the audit names them."""
    return exchange.caller.actor


async def body_of(exchange: Exchange, receive: Receive, deadline_s: float) -> bytes:
    """The body as it was sent, read within its bounds."""
    return await read_body(
        receive,
        limit=exchange.resources.settings.max_body_bytes,
        timeout_s=max(0.0, deadline_s - time.perf_counter()),
    )


async def words_of(exchange: Exchange, receive: Receive, words: type[WordsT]) -> WordsT:
    """A small body, as the words of a kind. Raises what `read_body` does, InvalidInputError."""
    body = await body_of(exchange, receive, deadline_of(exchange))
    encoding = encoding_of(exchange.headers)
    if encoding is not None:
        body = decompress(body, encoding, limit=SMALL_BYTES)
    if len(body) > SMALL_BYTES:
        raise TooLargeError(f"the body has more than {SMALL_BYTES:,} bytes")
    try:
        return words.model_validate(parse(body))
    except ValidationError as error:
        raise InvalidInputError(tuple(map(_issue, error.errors()))) from error


@asynccontextmanager
async def turn(
    of: asyncio.Semaphore, deadline_s: float, *, before: str = "the body was read"
) -> AsyncIterator[None]:
    """A context that few may be in at a time. Raises DeadlineError."""
    try:
        async with asyncio.timeout(max(0.0, deadline_s - time.perf_counter())):
            await of.acquire()
    except TimeoutError as error:
        raise DeadlineError(f"the deadline passed before {before}") from error
    try:
        yield
    finally:
        of.release()


def deadline_of(exchange: Exchange) -> float:
    """When the answer has to be there, in terms of perf_counter. Raises InvalidInputError."""
    return exchange.began_s + _timeout_ms(exchange) / 1000


def timing_of(prediction: Prediction[Any], *, validate_s: float, serialize_s: float) -> bytes:
    """Where the time of a prediction went, as Server-Timing says it."""
    return (
        b"validate;dur=%.3f, cache;dur=%.3f, queue;dur=%.3f, compute;dur=%.3f, serialize;dur=%.3f"
        % (
            1e3 * validate_s,
            1e3 * prediction.cache_s,
            1e3 * prediction.queue_s,
            1e3 * prediction.compute_s,
            1e3 * serialize_s,
        )
    )


class Watch:
    """A context that is left with ClientGoneError as soon as the caller is gone.

    What is awaited inside is cancelled then. The watch begins only after a moment, so that an
    answer from the cache need not pay for it.
    """

    __slots__ = ("_gone", "_listener", "_receive", "_task", "_timer")

    def __init__(self, receive: Receive) -> None:
        self._receive, self._gone = receive, False
        self._listener: asyncio.Task[None] | None = None
        self._task: asyncio.Task[Any] | None = None

    def __enter__(self) -> None:
        self._task = asyncio.current_task()
        self._timer = asyncio.get_running_loop().call_later(WATCH_AFTER_S, self._start)

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._timer.cancel()
        if self._listener is not None:
            self._listener.cancel()
        task, self._task = self._task, None  # from here on nobody is cancelled
        others = task.uncancel() if self._gone and task is not None else 1  # who cancel as well
        if not others and (kind is None or kind is asyncio.CancelledError):
            raise ClientGoneError

    def _start(self) -> None:
        self._listener = asyncio.get_running_loop().create_task(self._listen())

    async def _listen(self) -> None:
        message = await self._receive()  # the body is read, so that this is the end
        if message["type"] == "http.disconnect" and self._task is not None:
            self._gone = True
            self._task.cancel()


def _issue(found: "ErrorDetails") -> Issue:
    where = ".".join(map(str, found["loc"]))
    return Issue(found["loc"], f"{where}: {found['msg']}" if where else found["msg"], found["type"])


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
