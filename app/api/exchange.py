"""One request and its answer on their way through the edge.

Invariant: every answer, whoever makes it, leaves with the request's id and the security headers.
"""

import asyncio
import gzip
import math
import re
import time
from collections.abc import Mapping, MutableMapping
from typing import Any

import structlog
import zstandard
from starlette.types import Message, Scope, Send

from app.auth import NOBODY
from app.limits import Standing
from app.resources import Resources
from app.tracing import Answered

KEY = "shopcast.exchange"
COMPRESSED_FROM_BYTES = 2048
IN_THREAD_FROM_BYTES = 256 * 1024
METHODS = frozenset({"GET", "HEAD", "OPTIONS", "POST", "PUT", "PATCH", "DELETE"})
NOTHING_SENT = 499  # the caller left first
CHEAP = 1  # the level at which compressing costs less than sending
TEXT = (b"application/json", b"application/problem+json", b"text/", b"application/javascript")
SECURITY: dict[bytes, bytes] = {
    b"x-content-type-options": b"nosniff",
    b"x-frame-options": b"DENY",
    b"referrer-policy": b"no-referrer",
    b"cross-origin-resource-policy": b"same-origin",
    b"content-security-policy": b"default-src 'none'; frame-ancestors 'none'",
    b"cache-control": b"no-store",
}
_ALWAYS = list(SECURITY.items())
_PHASE = re.compile(rb"(\w+);dur=([0-9.]+)")
log = structlog.get_logger(__name__)


class ClientGoneError(Exception):
    """The caller closed the connection; nobody waits for an answer."""


class Exchange:
    """What the edge knows of a request; `send` is how its answer leaves."""

    __slots__ = (
        *("_send", "_start", "began_s", "caller", "headers", "method", "request_id"),
        *("model", "resources", "route", "standing", "status", "timing"),
    )

    def __init__(
        self,
        method: str,
        headers: Mapping[bytes, bytes],
        request_id: str,
        *,
        send: Send,
        resources: Resources,
    ) -> None:
        self.method, self.headers, self.request_id = method, headers, request_id
        self.resources = resources
        self.caller = NOBODY  # who may do nothing, until they are let in
        self.standing: Standing | None = None  # of who has a limit
        self.began_s = time.perf_counter()
        self.status = 0  # nothing left yet
        self.timing = b""
        self.model = ""  # name and version that answered, once one has
        self.route = ""  # its template, where the framework does not note it
        self._send = send
        self._start: Message | None = None

    async def answer(self, body: bytes) -> None:
        """Send a JSON answer."""
        headers = [
            (b"content-length", str(len(body)).encode()),
            (b"content-type", b"application/json"),
        ]
        await self.send({"type": "http.response.start", "status": 200, "headers": headers})
        await self.send({"type": "http.response.body", "body": body})

    async def send(self, message: Message) -> None:
        """Hold the head of the answer until its body is there, then let both go."""
        if message["type"] == "http.response.start":
            self._start, self.status = message, message["status"]
            return
        start, self._start = self._start, None
        if start is not None:
            await self._begin(start, message)
        if self.method == "HEAD":  # its answer is the head of what GET answers
            message = {**message, "body": b""}
        await self._send(message)

    @property
    def untold(self) -> bool:
        """Whether no part of an answer has left."""
        return self.status == 0 or self._start is not None

    def observe(self, scope: Scope) -> None:
        """Count the request under the template of its route."""
        route = self.route or getattr(scope.get("route"), "path", "unknown")
        method = self.method if self.method in METHODS else "other"
        seconds = time.perf_counter() - self.began_s
        status = self.status or NOTHING_SENT
        self.resources.metrics.observe_http(route, method=method, status=status, seconds=seconds)
        self._tell(route, method=method, status=status, seconds=seconds)

    def _tell(self, route: str, *, method: str, status: int, seconds: float) -> None:
        """To the log and to the tracer, where they want to know."""
        settings, tracing = self.resources.settings, self.resources.tracing
        logged = settings.log_requests == "all" or (
            settings.log_requests == "slow"
            and ((status >= 500 and status != 503) or seconds * 1000 >= settings.slow_ms)
        )
        if not logged and tracing is None:
            return
        facts = {"request_id": self.request_id, "model": self.model}
        facts["key_id"] = self.caller.key_id or ""
        phases = phases_of(self.timing)
        if tracing is not None:
            tracing.record(Answered(method, route, status, seconds, self.headers, phases, facts))
        if logged:
            taken = {f"{name}_ms": round(1000 * each, 3) for name, each in phases.items()}
            said = {name: value for name, value in facts.items() if value} | taken
            ms = round(1000 * seconds, 3)
            log.info("request", method=method, route=route, status=status, ms=ms, **said)

    async def _begin(self, start: Message, message: Message) -> None:
        headers = list(start["headers"])
        if not message.get("more_body") and len(message.get("body", b"")) >= COMPRESSED_FROM_BYTES:
            await self._compress(headers, message)
        headers.append((b"x-request-id", self.request_id.encode()))
        headers.append((b"server-timing", self.timing or self._total()))
        headers.extend(_without(headers))
        if self.standing is not None:
            headers.extend(limit_headers(self.standing))
        start["headers"] = headers
        await self._send(start)

    async def _compress(self, headers: list[tuple[bytes, bytes]], message: Message) -> None:
        known = dict(headers)
        if b"content-encoding" in known or not known.get(b"content-type", b"").startswith(TEXT):
            return
        headers.append((b"vary", b"Accept-Encoding"))
        encoding = preferred(self.headers.get(b"accept-encoding", b"").decode("latin-1"))
        if encoding is None:
            return
        body = message["body"]
        if len(body) >= IN_THREAD_FROM_BYTES:
            body = await asyncio.to_thread(compress, body, encoding)
        else:
            body = compress(body, encoding)
        message["body"] = body
        headers[:] = [each for each in headers if each[0] != b"content-length"]
        headers.append((b"content-encoding", encoding.encode()))
        headers.append((b"content-length", str(len(body)).encode()))

    def _total(self) -> bytes:
        return b"total;dur=%.3f" % (1e3 * (time.perf_counter() - self.began_s))


def limit_headers(standing: Standing) -> list[tuple[bytes, bytes]]:
    """How a caller stands, in the words of draft-ietf-httpapi-ratelimit-headers."""
    rate = standing.rate
    left = (standing.remaining, math.ceil(standing.wait_s or standing.full_s))
    return [
        (b"ratelimit-policy", b'"key";q=%d;w=%d' % (rate.count, rate.per_s)),
        (b"ratelimit", b'"key";r=%d;t=%d' % left),
    ]


def exchange_of(scope: Scope | MutableMapping[str, Any]) -> Exchange:
    """The exchange that a request belongs to."""
    exchange: Exchange = scope[KEY]
    return exchange


def phases_of(timing: bytes) -> dict[str, float]:
    """Seconds by name of what Server-Timing says."""
    return {name.decode(): float(ms) / 1000 for name, ms in _PHASE.findall(timing)}


def preferred(accepted: str) -> str | None:
    """The coding to answer with, of those in Accept-Encoding: zstd before gzip."""
    if not accepted:
        return None
    offered = [_weighed(part) for part in accepted.lower().split(",")]
    weights = {name: weight for name, weight in offered if weight > 0}
    refused = {name for name, weight in offered if weight <= 0}
    if "*" in weights:
        weights.setdefault("gzip", weights["*"])
    usable = [name for name in ("zstd", "gzip") if name in weights and name not in refused]
    return max(usable, key=weights.__getitem__, default=None)


def compress(body: bytes, encoding: str) -> bytes:
    """The body in a coding of `preferred`, at a cheap level."""
    if encoding == "zstd":
        return zstandard.ZstdCompressor(level=CHEAP).compress(body)
    return gzip.compress(body, compresslevel=CHEAP, mtime=0)


def _weighed(part: str) -> tuple[str, float]:
    """A coding and its weight: ("gzip", 0.5) for gzip;q=0.5."""
    name, _, options = part.partition(";")
    weight = options.strip().removeprefix("q=")
    try:
        return name.strip(), float(weight) if weight else 1.0
    except ValueError:
        return name.strip(), 0.0


def _without(headers: list[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
    """The security headers that an answer does not set itself."""
    if len(headers) <= 4:  # type, length, id, timing: nearly every answer
        return _ALWAYS
    names = {name for name, _ in headers}
    return [each for each in _ALWAYS if each[0] not in names]
