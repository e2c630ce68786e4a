"""Who may ask for what.

Invariant: whatever is not named here as open needs a key, and a route's scope stands in this table
before anything of its body is read.
"""

from collections.abc import Mapping
from typing import Literal

from app.api.exchange import Exchange
from app.auth import Caller, Scope
from app.errors import (
    MalformedError,
    NotPermittedError,
    RateLimitedError,
    UnauthenticatedError,
    UnavailableError,
)

Need = Scope | Literal["open", "any"]
"""What a caller needs: a scope, nothing, or any key."""

READS = frozenset({"GET", "HEAD"})
# Probes, and what is the same for everybody: the pages and what they are made of.
OPEN = frozenset({"/healthz", "/readyz", "/ping", "/docs", "/openapi.json", "/"})
#: By the first part of a path: the need of reading, and that of everything else.
NEEDS: dict[str, tuple[Need, Need]] = {
    "actuals": ("train", "train"),
    "audit": ("admin", "admin"),
    "console": ("open", "any"),
    "datasets": ("train", "train"),
    "docs": ("open", "any"),
    "explain": ("predict", "predict"),
    "invocations": ("predict", "predict"),
    "jobs": ("train", "train"),
    "keys": ("admin", "admin"),
    "metrics": ("any", "any"),
    "model_params": ("predict", "predict"),
    "models": ("predict", "admin"),
    "predict": ("predict", "predict"),
    "schedules": ("train", "train"),
    "shops": ("train", "train"),
    "static": ("open", "any"),
    "usage": ("any", "any"),
    "v2": ("predict", "predict"),
    "validate_api_key": ("any", "any"),
    "validate_token": ("any", "any"),
}
#: What is asked often, whatever its method: found at once.
FREQUENT: dict[str, Need] = {
    "/predict/sales": "predict",
    "/predict/inventory": "predict",
    "/predict/purchase-probability": "predict",
    "/invocations": "predict",
}
TRAINING = "/v2/finetune"  # and /v2/finetuned_models
BEARER = b"Bearer "


def need_of(method: str, path: str, *, metrics_open: bool = False) -> Need:
    """What a caller needs for a path."""
    need = FREQUENT.get(path)
    if need is not None:
        return need
    reading = method in READS
    if reading and (path in OPEN or (metrics_open and path == "/metrics")):
        return "open"
    if not reading and path.startswith(TRAINING):
        return "train"
    needs = NEEDS.get(path.split("/", 2)[1] if path.startswith("/") else "", ("any", "any"))
    return needs[0] if reading else needs[1]


def key_of(headers: Mapping[bytes, bytes]) -> bytes | None:
    """The key that a request shows. Raises UnauthenticatedError, MalformedError."""
    plain, authorization = headers.get(b"x-api-key"), headers.get(b"authorization")
    if authorization is None:
        return plain
    scheme = authorization[: len(BEARER)]
    if scheme != BEARER and scheme.lower() != BEARER.lower():
        if plain is None:
            message = "the Authorization header must be `Bearer KEY`"
            raise UnauthenticatedError(message, reason="malformed")
        return plain
    key = authorization[len(BEARER) :].strip()
    if plain not in {None, key}:
        raise MalformedError("Authorization and X-API-Key hold different keys; send one of them")
    return key


async def admit(exchange: Exchange, path: str) -> None:
    """Let the caller in, who is noted on the exchange.

    Raises UnauthenticatedError, NotPermittedError, RateLimitedError, UnavailableError.
    """
    resources = exchange.resources
    need = need_of(exchange.method, path, metrics_open=resources.settings.metrics_open)
    if need == "open":
        return
    callers, failures = resources.callers, resources.metrics.auth_failures
    try:
        key = key_of(exchange.headers) if callers.demanded else None  # else it may be a proxy's
        exchange.caller = caller = callers.known(key) or await callers.verify(key)
    except UnauthenticatedError as error:
        failures.labels(error.reason).inc()
        raise
    except UnavailableError:
        failures.labels("database").inc()
        raise
    if need != "any" and need not in caller.scopes:
        failures.labels("scope").inc()
        raise _too_narrow(caller, need)
    rate = resources.limits.of(caller)
    if rate is None:
        return
    exchange.standing = standing = await resources.limits.take(caller.actor, rate)
    if standing.wait_s > 0:
        resources.metrics.rate_limited.inc()
        message = f"this key may make {rate.words} and has made them"
        raise RateLimitedError(message, retry_after_s=standing.wait_s)


def check_shop(exchange: Exchange, shop: str) -> None:
    """Raise NotPermittedError if the caller's key is bound to other shops."""
    shops = exchange.caller.shops
    if shops is not None and shop not in shops:
        exchange.resources.metrics.auth_failures.labels("shop").inc()
        raise NotPermittedError(f"this key is bound to shops, and {shop!r} is none of them")


def _too_narrow(caller: Caller, need: str) -> NotPermittedError:
    has = ", ".join(sorted(caller.scopes))
    return NotPermittedError(
        f"this needs a key with the scope {need!r}; this one has {has}", scope=need
    )
