"""What bodies ask: few large ones are read at a time, and what is asked again and again once.

Invariant: the same body is understood the same, and a question holds no more than its body let it.
"""

import asyncio
from collections import OrderedDict
from collections.abc import Callable, Sized
from typing import Generic, Protocol, TypeVar

from app.api.bodies import decompress, encoding_of
from app.api.deps import turn
from app.api.exchange import Exchange
from app.settings import Settings

IN_THREAD_FROM_BYTES = 512 * 1024  # a body so large is read and answered off the event loop
LARGE_AT_ONCE = 2  # so many large bodies are read at a time; each may take a lot of memory
REMEMBERED_BYTES = 32 * 1024  # a body no larger is remembered with what it asks,
REMEMBERED_INPUTS = 32  # if that is no more: an input takes far more memory than it took to send
REMEMBERED = 512


class Question(Protocol):
    """What a body asks of some inputs."""

    @property
    def inputs(self) -> Sized: ...


QuestionT = TypeVar("QuestionT", bound=Question)


class Reader(Generic[QuestionT]):
    """Understands bodies by a function, which raises MalformedError or InvalidInputError."""

    def __init__(
        self,
        read: Callable[[bytes, Settings], QuestionT],
        *,
        lasts: Callable[[QuestionT], bool] = lambda _: True,
        in_thread_from_bytes: int = IN_THREAD_FROM_BYTES,
    ) -> None:
        """lasts: whether the body of a question means the same whenever it is sent."""
        self._understand, self._lasts = read, lasts
        self._in_thread_from_bytes = in_thread_from_bytes
        self._large = asyncio.Semaphore(LARGE_AT_ONCE)
        self._understood: OrderedDict[bytes, QuestionT] = OrderedDict()

    async def question(self, body: bytes, exchange: Exchange, deadline_s: float) -> QuestionT:
        """What a body asks, as it was sent."""
        limits, encoding = exchange.resources.settings, encoding_of(exchange.headers)
        if encoding is None and len(body) <= self._in_thread_from_bytes:
            return self._remembered(body) or self._read(body, limits)
        async with turn(self._large, deadline_s):  # what is compressed may be large
            if encoding is not None:
                most = limits.max_body_bytes
                body = await asyncio.to_thread(decompress, body, encoding, limit=most)
            if len(body) > self._in_thread_from_bytes:
                return await asyncio.to_thread(self._understand, body, limits)
        return self._remembered(body) or self._read(body, limits)

    def _remembered(self, body: bytes) -> QuestionT | None:
        question = self._understood.get(body)
        if question is not None:
            self._understood.move_to_end(body)
        return question

    def _read(self, body: bytes, limits: Settings) -> QuestionT:
        question = self._understand(body, limits)
        small = len(body) <= REMEMBERED_BYTES and len(question.inputs) <= REMEMBERED_INPUTS
        if small and limits.cache_bytes and self._lasts(question):
            self._understood[body] = question
            if len(self._understood) > REMEMBERED:
                self._understood.popitem(last=False)
        return question
