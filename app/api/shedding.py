"""Predictions that are refused unread, since they would be late, and for next to nothing.

A service that reads everything before it refuses does nothing but read when far too much comes. So
while the event loop is behind, a whole request for a prediction is answered from its first bytes.

Invariant: nothing is refused here but a prediction.
"""

import os
import re

from app.api.problems import problem_of, rendered
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


def refusal_unread(resources: Resources, data: bytes) -> bytes | None:
    """The answer to a whole request that is refused unread, if it is one.

    data: from the beginning of a message on, on a connection that owes no other answer.
    """
    if _told(resources):
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
    return rendered(problem_of(error, request_id), request_id)


def _told(resources: Resources) -> bool:
    """Whether each request is told to a log or a tracer, refused or not."""
    return resources.settings.log_requests == "all" or resources.tracing is not None
