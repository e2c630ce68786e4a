"""Errors as RFC 9457 problems.

Invariant: `KINDS` is the only table that gives an error its HTTP status, and a problem tells
nothing but what the error tree means for callers.
"""

import math
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

import orjson
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import compile_path

from app.api.exchange import SECURITY, exchange_of
from app.errors import (
    ConflictError,
    DeadlineError,
    DiskFullError,
    ForbiddenError,
    InvalidInputError,
    Issue,
    MalformedError,
    NotFoundError,
    NotPermittedError,
    PredictionError,
    RateLimitedError,
    ShopcastError,
    TooLargeError,
    UnauthenticatedError,
    UnavailableError,
    UnknownHostError,
    UnsupportedMediaError,
)

MEDIA_TYPE = "application/problem+json"
NAMESPACE = "urn:shopcast:problem:"
REALM = 'Bearer realm="shopcast"'
INTERNAL = "something went wrong here, not with the request; the request id finds it in the log"


@dataclass(frozen=True, slots=True)
class Kind:
    """A sort of problem: its status, and its name in `type` and `title`."""

    status: int
    slug: str
    title: str


KINDS: dict[type[ShopcastError], Kind] = {
    MalformedError: Kind(400, "malformed-body", "The body cannot be read"),
    UnauthenticatedError: Kind(401, "unauthenticated", "A key is needed"),
    NotPermittedError: Kind(403, "not-permitted", "The key does not reach so far"),
    ForbiddenError: Kind(403, "forbidden", "Not allowed from there"),
    NotFoundError: Kind(404, "not-found", "There is no such thing"),
    ConflictError: Kind(409, "conflict", "Things stand otherwise"),
    TooLargeError: Kind(413, "too-large", "The body is too large"),
    UnsupportedMediaError: Kind(415, "unsupported-media-type", "The body is of another type"),
    UnknownHostError: Kind(421, "unknown-host", "The service does not answer for this host"),
    InvalidInputError: Kind(422, "invalid-input", "The input cannot be answered"),
    RateLimitedError: Kind(429, "rate-limited", "More requests than the key may make"),
    PredictionError: Kind(500, "prediction-failed", "The model could not answer"),
    UnavailableError: Kind(503, "unavailable", "The service cannot answer now"),
    DeadlineError: Kind(504, "deadline", "The deadline passed"),
    DiskFullError: Kind(507, "disk-full", "There is no room to keep it"),
}
UNEXPECTED = Kind(500, "internal", "Something went wrong")


def problem_of(error: ShopcastError, request_id: str) -> Response:
    """The answer that says what is wrong."""
    kind = next((KINDS[each] for each in type(error).__mro__ if each in KINDS), UNEXPECTED)
    detail = INTERNAL if kind is UNEXPECTED else str(error)
    headers = {}
    if isinstance(error, (RateLimitedError, UnavailableError)):
        headers["Retry-After"] = str(max(1, math.ceil(error.retry_after_s)))
    if isinstance(error, UnauthenticatedError):
        missing = (
            error.reason == "missing"
        )  # then the standard says no more than that one is needed
        headers["WWW-Authenticate"] = REALM if missing else f'{REALM}, error="invalid_token"'
    if isinstance(error, NotPermittedError) and error.scope is not None:
        words = f'{REALM}, error="insufficient_scope", scope="{error.scope}"'
        headers["WWW-Authenticate"] = words
    if not isinstance(error, InvalidInputError):
        return problem(kind, detail, request_id, headers=headers)
    return problem(kind, _summary(error.issues), request_id, issues=error.issues)


def unexpected(request_id: str) -> Response:
    """The answer to a request on which the service itself failed."""
    return problem(UNEXPECTED, INTERNAL, request_id)


def problem(
    kind: Kind,
    detail: str,
    request_id: str,
    *,
    issues: tuple[Issue, ...] = (),
    headers: dict[str, str] | None = None,
) -> Response:
    """A problem+json answer."""
    body: dict[str, Any] = {
        "type": NAMESPACE + kind.slug,
        "title": kind.title,
        "status": kind.status,
        "detail": detail,
        "request_id": request_id,
    }
    if issues:
        body["errors"] = [{"loc": each.loc, "msg": each.msg, "type": each.type} for each in issues]
    return Response(orjson.dumps(body), kind.status, headers, media_type=MEDIA_TYPE)


def rendered(response: Response, request_id: str) -> bytes:
    """An answer as it goes over a connection, where no request reached the application."""
    phrase = HTTPStatus(response.status_code).phrase
    headers = [*response.raw_headers, (b"x-request-id", request_id.encode()), *SECURITY.items()]
    lines = b"".join(b"%s: %s\r\n" % each for each in headers)
    return b"HTTP/1.1 %d %s\r\n%s\r\n%s" % (
        response.status_code,
        phrase.encode(),
        lines,
        response.body,
    )


async def on_error(request: Request, error: Exception) -> Response:
    """The handler of the service's own errors."""
    assert isinstance(error, ShopcastError)  # noqa: S101 - registered for these alone
    return problem_of(error, exchange_of(request.scope).request_id)


async def on_http_error(request: Request, error: Exception) -> Response:
    """The handler of what the framework refuses: unknown paths and methods."""
    assert isinstance(error, HTTPException)  # noqa: S101 - registered for these alone
    exchange = exchange_of(request.scope)
    phrase = HTTPStatus(error.status_code).phrase
    kind = Kind(error.status_code, phrase.lower().replace(" ", "-"), phrase)
    detail = {
        404: f"there is no {_path(request)}; /docs lists what there is",
        405: f"{exchange.method} is not for {_path(request)}",
    }.get(error.status_code, phrase)
    headers = {name.title(): value for name, value in (error.headers or {}).items()}
    if "Allow" in headers:
        headers["Allow"] = ", ".join(_methods(request, headers["Allow"]))
    return problem(kind, detail, exchange.request_id, headers=headers)


def _methods(request: Request, told: str) -> list[str]:
    """What may be done with a path, by all its routes; the framework tells of the first one."""
    found = set(told.split(", "))
    for template, operations in request.app.openapi()["paths"].items():
        if compile_path(template)[0].match(request.scope["path"]):
            found |= {method.upper() for method in operations}
    return sorted(found | ({"HEAD"} if "GET" in found else set()))


async def on_validation_error(request: Request, error: Exception) -> Response:
    """The handler of parameters that the framework finds invalid."""
    assert isinstance(error, RequestValidationError)  # noqa: S101 - registered for these alone
    issues = tuple(
        Issue(tuple(each["loc"]), str(each["msg"]), str(each["type"])) for each in error.errors()
    )
    return problem_of(InvalidInputError(issues), exchange_of(request.scope).request_id)


def _summary(issues: tuple[Issue, ...]) -> str:
    more = len(issues) - 1
    return issues[0].msg if not more else f"{issues[0].msg} (and {more} more; see errors)"


def _path(request: Request) -> str:
    path = request.url.path
    return path if len(path) <= 100 else f"{path[:100]}…"
