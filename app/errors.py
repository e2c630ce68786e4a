"""What can go wrong, in the service's own words. Invariant: no HTTP in here.

`api/problems.py` holds the one table that turns these into status codes.
"""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Issue:
    """One thing wrong with an input. loc: the path to it, e.g. ("inputs", 3, "target", 7)."""

    loc: tuple[str | int, ...]
    msg: str
    type: str


class ShopcastError(Exception):
    """Root of the tree. The message is shown to callers: no paths, no other caller's data."""


class InvalidInputError(ShopcastError):
    """The input is understood and cannot be answered; every issue names its place."""

    def __init__(self, issues: tuple[Issue, ...]) -> None:
        super().__init__(issues[0].msg if len(issues) == 1 else f"{len(issues)} invalid fields")
        self.issues = issues


class MalformedError(ShopcastError):
    """The body is not what its headers say: bad JSON, bad UTF-8, a broken compression stream."""


class UnsupportedMediaError(ShopcastError):
    """Content type or encoding that the service does not take."""


class TooLargeError(ShopcastError):
    """The body is larger than the limit, before or after decompression."""


class ForbiddenError(ShopcastError):
    """The request comes from a place it may not come from."""


class UnauthenticatedError(ShopcastError):
    """The caller shows no key, or one that opens nothing."""

    def __init__(self, message: str, *, reason: str) -> None:
        super().__init__(message)
        self.reason = reason  # missing, malformed, unknown, revoked, expired


class NotPermittedError(ShopcastError):
    """The caller's key does not reach so far; `scope` is what it lacks, if it is that."""

    def __init__(self, message: str, *, scope: str | None = None) -> None:
        super().__init__(message)
        self.scope = scope


class RateLimitedError(ShopcastError):
    """The caller asks more often than its key may; it may ask again after `retry_after_s`."""

    def __init__(self, message: str, *, retry_after_s: float) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class UnknownHostError(ShopcastError):
    """The Host header names a host that this service does not answer for."""


class NotFoundError(ShopcastError):
    """A model, version or other named thing does not exist."""


class ConflictError(ShopcastError):
    """What is named is in use, damaged, or was changed by somebody else meanwhile."""


class DiskFullError(ShopcastError):
    """There is no room to keep what was sent."""


class UnavailableError(ShopcastError):
    """The service cannot answer now; the caller may try again after `retry_after_s`."""

    def __init__(self, message: str, *, reason: str, retry_after_s: float = 1.0) -> None:
        super().__init__(message)
        self.reason = reason  # bounded words for metrics: queue_full, engine_down, closing
        self.retry_after_s = retry_after_s


class DeadlineError(ShopcastError):
    """The caller's deadline passed before the answer was ready."""


class JobError(ShopcastError):
    """A job cannot be done; the message tells whoever asked for it why, and the way out."""


class PredictionError(ShopcastError):
    """The model could not answer this input, through no fault of its form."""


class ConfigurationError(ShopcastError):
    """The service cannot start with these settings; the message names the setting."""
