"""The one middleware: what holds for every request, whatever its route.

Invariant: nothing passes that comes from a wrong host, a foreign page or in a wrong type; every
request is answered once, counted once, and a failure shows its id and nothing else.
"""

import ipaddress
import os
import re
from collections.abc import Mapping, Sequence

import structlog
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from app.api.access import admit
from app.api.bodies import is_empty
from app.api.exchange import KEY, ClientGoneError, Exchange
from app.api.problems import problem_of, unexpected
from app.api.shedding import refuse_late
from app.api.uploads import AROUND_BYTES, is_form
from app.errors import (
    ForbiddenError,
    MalformedError,
    ShopcastError,
    TooLargeError,
    UnknownHostError,
    UnsupportedMediaError,
)
from app.settings import Settings

LOOPBACK = ("localhost", "127.0.0.1", "::1")
FORMS = frozenset({"/datasets"})  # where a body may be a form with a file
WILDCARDS = frozenset({"0.0.0.0", "::", ""})  # noqa: S104 - recognised, not listened on
READS = frozenset({"GET", "HEAD", "OPTIONS"})
WRITES = frozenset({"POST", "PUT", "PATCH"})  # with a body that somebody would read
ONCE = (
    b"authorization",
    b"x-api-key",
    b"host",
    b"content-type",
    b"content-encoding",
    b"content-length",
    b"origin",
)
log = structlog.get_logger(__name__)
_REQUEST_ID = re.compile(rb"[A-Za-z0-9._:+/=-]{1,128}")
_TYPE = re.compile(rb"application/json[ \t]*(;[ \t]*charset=\"?utf-8\"?[ \t]*)?", re.IGNORECASE)

Headers = Mapping[bytes, bytes]


class Edge:
    """Guards, counts and answers for everything inside it."""

    def __init__(self, app: ASGIApp, *, settings: Settings, hot: Sequence[Route]) -> None:
        """hot: routes for POST that are looked up here, which takes no time at all."""
        self._app, self._settings = app, settings
        self._hot = {route.path: route.endpoint for route in hot}
        self._hosts = _hosts(settings)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            await self._exchange(scope, receive, send)
        elif scope["type"] == "lifespan":
            await self._app(scope, receive, send)
        else:
            await send({"type": "websocket.close", "code": 1008})

    async def _exchange(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = dict(scope["headers"])
        resources = scope["app"].state.resources
        exchange = Exchange(
            scope["method"], headers, _request_id(headers), send=send, resources=resources
        )
        if scope["method"] == "HEAD":  # a copy: the server knows by its own that no body goes out
            scope = {**scope, "method": "GET"}
        scope[KEY] = exchange
        in_flight = resources.metrics.http_in_flight
        in_flight.inc()
        try:
            await self._answer(scope, receive, exchange)
        finally:
            in_flight.dec()
            exchange.observe(scope)

    async def _answer(self, scope: Scope, receive: Receive, exchange: Exchange) -> None:
        try:
            self._guard(scope, exchange.headers)
            await admit(exchange, scope["path"])
            self._check_body(scope, exchange.headers)
            hot = self._hot.get(scope["path"]) if scope["method"] == "POST" else None
            if hot is not None:
                refuse_late(exchange.resources)
            await (hot or self._app)(scope, receive, exchange.send)
        except ClientGoneError:
            pass  # counted as such, since no answer left
        except ShopcastError as error:
            await problem_of(error, exchange.request_id)(scope, receive, exchange.send)
        except Exception as error:  # noqa: BLE001 - the outermost handler: the caller gets an answer
            await self._fail(scope, receive, exchange, error)

    async def _fail(
        self, scope: Scope, receive: Receive, exchange: Exchange, error: Exception
    ) -> None:
        """Log the failure with its stack; tell the caller its id, if nothing was told yet."""
        where = {"request_id": exchange.request_id, "path": scope["path"][:200]}
        log.error("request_failed", **where, exc_info=error)
        if exchange.untold:
            await unexpected(exchange.request_id)(scope, receive, exchange.send)

    def _guard(self, scope: Scope, headers: Headers) -> None:
        """Raise unless the request may come in."""
        if len(headers) != len(scope["headers"]):
            _refuse_repeated(scope)
        self._check_host(headers.get(b"host"))
        if scope["method"] not in READS:
            _check_origin(headers)

    def _check_body(self, scope: Scope, headers: Headers) -> None:
        """Raise unless a body, if one is due, is of the right type and no larger than may be."""
        if scope["method"] not in WRITES:
            return
        hot = scope["path"] in self._hot
        if scope["path"] in FORMS and is_form(headers):
            self._check_length(headers, self._settings.max_upload_bytes + AROUND_BYTES)
        # whatever else asks a hot path, or sends nothing, may be for no method of its path: 405
        elif scope["method"] == "POST" if hot else not is_empty(headers):
            _check_type(headers)
            self._check_length(headers, self._settings.max_body_bytes)

    def _check_host(self, raw: bytes | None) -> None:
        if raw is None:
            raise MalformedError("the request has no Host header")
        if not self._hosts.admits(raw.decode("latin-1")):
            raise UnknownHostError(
                f"{raw[:100].decode('latin-1')!r} is not served here; the operator lists host "
                "names in SHOPCAST_ALLOWED_HOSTS"
            )

    def _check_length(self, headers: Headers, most: int) -> None:
        """Refuse a body by its own account, before any of it is read."""
        length = headers.get(b"content-length", b"0")
        if len(length) > 20 or int(length) > most:
            raise TooLargeError(f"the body has more than {most:,} bytes; send fewer inputs at once")


class _Hosts:
    """The names that the service answers for."""

    def __init__(self, names: set[str], *, addresses: bool) -> None:
        self._any = "*" in names
        self._names = {name for name in names if not name.startswith("*.")}
        self._suffixes = tuple(name[1:] for name in names if name.startswith("*."))
        self._addresses = addresses

    def admits(self, host: str) -> bool:
        """Whether a Host header names one of them, with any port."""
        name = _name(host)
        return (
            self._any
            or name in self._names
            or name.endswith(self._suffixes or ("\0",))
            or (self._addresses and _is_address(name))
        )


def _hosts(settings: Settings) -> _Hosts:
    """Loopback, the listening address and what the settings name.

    Behind a wildcard address every IP address is a listening one: a page of somebody else's can
    point a name of its own at this machine, but not a bare address.
    """
    names = {*LOOPBACK, settings.host.lower(), *map(str.lower, settings.allowed_hosts)}
    return _Hosts(names - WILDCARDS, addresses=settings.host in WILDCARDS)


def _name(host: str) -> str:
    """example.org of Example.org:80, ::1 of [::1]:80."""
    if host.startswith("["):
        return host[1:].partition("]")[0].lower()
    return host.partition(":")[0].lower().rstrip(".")


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def _request_id(headers: Headers) -> str:
    given = headers.get(b"x-request-id")
    if given is not None and _REQUEST_ID.fullmatch(given):
        return given.decode()
    return os.urandom(16).hex()


def _refuse_repeated(scope: Scope) -> None:
    names = [name for name, _ in scope["headers"]]
    for name in ONCE:
        if names.count(name) > 1:
            raise MalformedError(f"the header {name.decode()} comes more than once")


def _check_origin(headers: Headers) -> None:
    """Refuse a write that a page of another site makes."""
    site = headers.get(b"sec-fetch-site", b"none")
    origin = headers.get(b"origin")
    if site not in {b"none", b"same-origin"} or (origin is not None and not _same(origin, headers)):
        raise ForbiddenError("pages of other sites may not write here")


def _same(origin: bytes, headers: Headers) -> bool:
    """Whether the origin is this host; the scheme may differ behind a proxy."""
    scheme, _, host = origin.lower().partition(b"://")
    return scheme in {b"http", b"https"} and host == headers.get(b"host", b"").lower()


def _check_type(headers: Headers) -> None:
    given = headers.get(b"content-type", b"")
    if given != b"application/json" and not _TYPE.fullmatch(given):
        shown = given[:100].decode("latin-1") or "none"
        raise UnsupportedMediaError(
            f"the body must be application/json in UTF-8; the Content-Type header says {shown}"
        )
