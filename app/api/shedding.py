"""Predictions that are refused unread, since they would be late, and for next to nothing.

A service that reads everything before it refuses does nothing but read when far too much comes. So
while the event loop is behind, a whole request for a prediction is answered from its first bytes.

Invariant: nothing is refused here but a prediction, and only from the beginning of a message.
"""

import os
import re
from typing import Any

from starlette.responses import Response
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from app.api.exchange import SECURITY
from app.api.problems import problem_of
from app.errors import UnavailableError
from app.resources import Resources

LAG_SHARE = 0.25  # of the deadline, that the event loop may be late, within these bounds
LEAST_LAG_S, MOST_LAG_S = 0.02, 2.0
FULL_LAG_S = 0.01  # while the queue takes no more
_PREDICTION = re.compile(rb"POST (/predict/(?:sales|inventory|purchase-probability)|/invocations) ")
_LENGTH = re.compile(rb"\r\ncontent-length:[ \t]*(\d{1,12})[ \t]*(?=\r\n)", re.IGNORECASE)
_CHUNKED = re.compile(rb"\r\ntransfer-encoding:", re.IGNORECASE)
_REQUEST_ID = re.compile(
    rb"\r\nx-request-id:[ \t]*([A-Za-z0-9._:+/=-]{1,128})[ \t]*\r\n", re.IGNORECASE
)


def refuse_late(resources: Resources) -> None:
    """Raise UnavailableError while the process is too far behind for a prediction."""
    error = _refusal_of(resources)
    if error is not None:
        resources.metrics.reject("queue_full")
        raise error


def _refusal_of(resources: Resources) -> UnavailableError | None:
    """What a prediction is refused with now, if it is.

    Less is allowed where work is being refused anyway: reading it must not make the refusals late.
    """
    share_s = LAG_SHARE * resources.settings.timeout_ms / 1000
    most_s = min(max(share_s, LEAST_LAG_S), MOST_LAG_S)
    late_s = resources.metrics.lag_s()
    if late_s <= (FULL_LAG_S if resources.batcher.full else most_s):
        return None
    msg = "the service is behind with its work"
    return UnavailableError(msg, reason="queue_full", retry_after_s=max(1.0, late_s))


class HttpProtocol(HttpToolsProtocol):
    """HTTP/1.1 by uvicorn, which a request that is refused unread does not reach."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:  # noqa: ANN401 - as the base
        super().__init__(*args, **kwargs)
        self._between = True  # messages: none has begun that did not end

    def on_message_begin(self) -> None:
        self._between = False
        super().on_message_begin()

    def on_message_complete(self) -> None:
        super().on_message_complete()
        self._between = True

    def data_received(self, data: bytes) -> None:
        resources: Resources | None = getattr(self.config.app.state, "resources", None)  # type: ignore[union-attr]
        answer = None
        if resources is not None:
            resources.metrics.turns.read(self.loop)
            answer = self._refusal(data, resources) if self._between else None
        if answer is None:
            super().data_received(data)
            return
        self.transport.write(answer)
        self.on_response_complete()  # counts it, and begins to wait for the next

    def _refusal(self, data: bytes, resources: Resources) -> bytes | None:
        """The answer to a whole request that is refused unread, if it is one."""
        if self._answering or _told(resources):
            return None
        error = _refusal_of(resources)
        if error is None:
            return None
        found, end = _PREDICTION.match(data), data.find(b"\r\n\r\n") + 4
        lengths = _LENGTH.findall(data, 0, end)
        if found is None or len(lengths) != 1 or len(data) != end + int(lengths[0]):
            return None  # the rest is still to come, and is the beginning of nothing
        if _CHUNKED.search(data, 0, end):
            return None  # malformed, as the parser will find
        given = _REQUEST_ID.search(data, 0, end)
        request_id = given[1].decode() if given else os.urandom(16).hex()
        metrics = resources.metrics
        metrics.reject("queue_full")
        metrics.observe_http(found[1].decode(), method="POST", status=503, seconds=0.0)
        return _rendered(problem_of(error, request_id), request_id)

    @property
    def _answering(self) -> bool:
        return self.cycle is not None and not self.cycle.response_complete


def _told(resources: Resources) -> bool:
    """Whether each request is told to a log or a tracer, refused or not."""
    return resources.settings.log_requests == "all" or resources.tracing is not None


def _rendered(response: Response, request_id: str) -> bytes:
    headers = [*response.raw_headers, (b"x-request-id", request_id.encode()), *SECURITY.items()]
    lines = b"".join(b"%s: %s\r\n" % each for each in headers)
    return b"HTTP/1.1 503 Service Unavailable\r\n%s\r\n%s" % (lines, response.body)
