"""How much a caller may ask: a token bucket for each key.

Invariant: over any time a caller gets no more than its rate and one full bucket; who is refused
learns when to come again.

A bucket holds as many tokens as the rate has, and is kept as one number: the time at which it will
be full again (the generic cell rate algorithm; ITU-T I.371, annex A). The library `limits` has
windows of several sorts and no bucket.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass

from app.auth import Caller
from app.rates import Rate

ROUNDING = 1e-6  # of a token


@dataclass(frozen=True, slots=True)
class Standing:
    """How a caller stands after it asked.

    remaining: tokens. full_s: until all are there again. wait_s: until the next one is there for
    who was refused; 0 for who was not.
    """

    rate: Rate
    remaining: int
    full_s: float
    wait_s: float = 0.0


class Limits:
    """The buckets of one process. Belongs to one event loop."""

    def __init__(
        self, default: Rate | None = None, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """default: of callers whose key has no rate; None for no limit."""
        self._default, self._clock = default, clock
        self._full_at_s: dict[str, float] = {}

    async def take(self, caller: Caller) -> Standing | None:
        """Take a token, if there is one; None for a caller without a limit."""
        rate = caller.rate or self._default
        if rate is None:
            return None
        now_s, interval_s = self._clock(), rate.per_s / rate.count
        begun_s = max(self._full_at_s.get(caller.actor, now_s), now_s)
        full_s = begun_s + interval_s - now_s
        if full_s > rate.per_s + ROUNDING * interval_s:
            return Standing(rate, 0, begun_s - now_s, full_s - rate.per_s)
        self._full_at_s[caller.actor] = now_s + full_s
        return Standing(rate, int((rate.per_s - full_s) / interval_s + ROUNDING), full_s)
