"""A load generator cheap enough to share its cores with the server it loads.

Requests are rendered before the clock starts, each connection is a raw asyncio protocol under
uvloop, and of an answer no more is read than its status and its length.

Invariant: closed loop. A connection sends its next request when the answer to the last one is
complete, and every answer is counted; one that is not 200 ends the run.
"""

import asyncio
import gc
import re
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import cast

import numpy as np
import uvloop
from numpy.typing import NDArray

LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
LIMIT_S = 180.0  # a run that takes longer has failed


class LoadError(Exception):
    """The server refused, vanished or took too long."""


@dataclass(frozen=True, slots=True, eq=False)
class Load:
    """What a run measured. last: an answer's head and body, of whichever request came last."""

    seconds: float
    latencies_s: NDArray[np.float64]
    head: bytes
    body: bytes

    @property
    def per_second(self) -> float:
        return len(self.latencies_s) / self.seconds

    def latency_ms(self, percent: float) -> float:
        return float(np.percentile(self.latencies_s, percent)) * 1e3


def render(path: str, body: bytes) -> bytes:
    """A complete HTTP/1.1 request; connections are kept alive by default."""
    head = (
        f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


def send(port: int, requests: Sequence[bytes], *, concurrency: int) -> Load:
    """Send all requests over `concurrency` connections to a server on loopback.

    Raises LoadError.
    """
    run = _Run(requests)
    gc.collect()
    gc.disable()
    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(run.go(port, min(concurrency, len(requests))))
    except (TimeoutError, OSError) as error:
        raise LoadError(f"the run broke off: {error!r}") from error
    finally:
        gc.enable()
    return run.result()


class _Run:
    """All connections of a run."""

    def __init__(self, requests: Sequence[bytes]) -> None:
        self._requests: Iterator[bytes] = iter(requests)
        self._missing = len(requests)
        self._latencies_s: list[float] = []
        self._head = self._body = b""
        self._seconds = 0.0

    async def go(self, port: int, concurrency: int) -> None:
        loop = asyncio.get_running_loop()
        self._done: asyncio.Future[None] = loop.create_future()
        pairs = [
            await loop.create_connection(lambda: _Connection(self), "127.0.0.1", port)
            for _ in range(concurrency)
        ]
        began_s = time.perf_counter()
        for _, connection in pairs:
            connection.send_next()
        async with asyncio.timeout(LIMIT_S):
            await self._done
        self._seconds = time.perf_counter() - began_s
        for transport, _ in pairs:
            transport.close()

    def next(self) -> bytes | None:
        return next(self._requests, None)

    def note(self, latency_s: float, answer: bytes, head_bytes: int) -> None:
        self._latencies_s.append(latency_s)
        self._missing -= 1
        if answer[9:12] != b"200":
            self.fail(answer.partition(b"\r\n")[0] + b" " + answer[head_bytes:][:500])
        elif not self._missing and not self._done.done():
            self._head, self._body = answer[:head_bytes], answer[head_bytes:]
            self._done.set_result(None)

    def fail(self, reason: bytes) -> None:
        if not self._done.done():
            self._done.set_exception(LoadError(reason.decode(errors="replace")))

    def result(self) -> Load:
        return Load(self._seconds, np.array(self._latencies_s), self._head, self._body)


class _Connection(asyncio.Protocol):
    """One keep-alive connection."""

    def __init__(self, run: _Run) -> None:
        self._run = run
        self._parts: list[bytes] = []  # of an answer that does not come in one piece
        self._arrived = 0
        self._needed = 0  # bytes of the answer, as soon as its head is there
        self._head_bytes = 0
        self._busy = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's are, but no subclass

    def connection_lost(self, exc: Exception | None) -> None:
        if self._busy:
            self._run.fail(f"the server closed a connection: {exc}".encode())

    def send_next(self) -> None:
        request = self._run.next()
        self._busy = request is not None
        if request is not None:
            self._sent_s = time.perf_counter()
            self._transport.write(request)

    def data_received(self, data: bytes) -> None:
        if not self._needed:
            self._needed = self._length(data)
        if self._parts or len(data) < self._needed:
            self._parts.append(data)
            self._arrived += len(data)
            if self._arrived < self._needed:
                return
            data = b"".join(self._parts)
            self._parts.clear()
            self._arrived = 0
        latency_s = time.perf_counter() - self._sent_s
        self._needed = 0
        self._run.note(latency_s, data, self._head_bytes)
        self.send_next()

    def _length(self, start: bytes) -> int:
        """Bytes of an answer whose head came in one piece."""
        self._head_bytes = start.find(b"\r\n\r\n") + 4
        found = LENGTH.search(start, 0, self._head_bytes)
        if found is None:
            self._run.fail(b"an answer without content-length: " + start[:500])
            return len(start)
        return self._head_bytes + int(found[1])
