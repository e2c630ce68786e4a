"""How much a caller may ask: a token bucket for each key.

Invariant: over any time a caller gets no more than its rate and one full bucket, from all processes
together while Redis is there, else from each; who is refused learns when to come again.

A bucket holds as many tokens as the rate has, and is kept as one number: the time at which it will
be full again (the generic cell rate algorithm; ITU-T I.371, annex A). The library `limits` has
windows of several sorts and no bucket. Of a bucket in Redis a process takes the tokens of a 20th of
a second at once, so that few requests ask for one.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass

from app.auth import Caller
from app.link import Link, LinkDownError
from app.rates import Rate

ROUNDING = 1e-6  # of a token
TAKEN_S = 0.05  # so long a rate's tokens are taken at once
KEPT_S = 1.0  # and so long they are kept, if nobody asks
US = 1_000_000
#: Of a bucket, by microseconds a token and to be full, and wanted tokens: the tokens that were
#: taken, those that are left, and the microseconds until it is full and until there is another one.
TAKE = """
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local interval, window, wanted = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
local full = tonumber(redis.call('GET', KEYS[1]) or now) or now
if not (full >= now and full <= now + window + interval) then full = now end
local free = math.floor((now + window - full) / interval + 0.000001)
local taken = math.min(free, wanted)
if taken > 0 then
  full = full + taken * interval
  redis.call('SET', KEYS[1], string.format('%.3f', full), 'PX', math.ceil((full - now) / 1000))
end
local wait = math.max(0, math.ceil(full + interval - window - now))
return {taken, free - taken, math.ceil(full - now), wait}
"""


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


@dataclass(slots=True)
class _Taken:
    """What a process has of a bucket in Redis. left: tokens in it. refused_s: none before then."""

    tokens: int = 0
    kept_s: float = 0.0
    left: int = 0
    full_s: float = 0.0
    refused_s: float = 0.0


class Limits:
    """The buckets as one process sees them. Belongs to one event loop."""

    def __init__(
        self,
        default: Rate | None = None,
        *,
        link: Link | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """default: of callers whose key has no rate; None for no limit. link: to share by."""
        self._default, self._link, self._clock = default, link, clock
        self._full_s: dict[str, float] = {}
        self._taken: dict[str, _Taken] = {}

    def of(self, caller: Caller) -> Rate | None:
        """The rate of a caller; None for no limit."""
        return caller.rate or self._default

    async def take(self, actor: str, rate: Rate) -> Standing:
        """Take a token out of an actor's bucket, if there is one."""
        if self._link is not None and self._link.up:
            try:
                return await self._take_shared(self._link, actor, rate)
            except LinkDownError:
                pass  # then from the process's own
        return self._take_own(actor, rate)

    def _take_own(self, actor: str, rate: Rate) -> Standing:
        now_s, interval_s = self._clock(), rate.per_s / rate.count
        begun_s = max(self._full_s.get(actor, now_s), now_s)
        full_s = begun_s + interval_s - now_s
        if full_s > rate.per_s + ROUNDING * interval_s:
            return Standing(rate, 0, begun_s - now_s, full_s - rate.per_s)
        self._full_s[actor] = now_s + full_s
        return Standing(rate, int((rate.per_s - full_s) / interval_s + ROUNDING), full_s)

    async def _take_shared(self, link: Link, actor: str, rate: Rate) -> Standing:
        taken = self._taken.setdefault(actor, _Taken())
        now_s = self._clock()
        if not taken.tokens or now_s > taken.kept_s:
            if now_s < taken.refused_s:
                return Standing(rate, 0, taken.full_s, taken.refused_s - now_s)
            await self._fetch(link, actor, rate, taken)
        if not taken.tokens:
            return Standing(rate, 0, taken.full_s, max(taken.refused_s - now_s, 1 / US))
        taken.tokens -= 1
        return Standing(rate, taken.left + taken.tokens, taken.full_s)

    async def _fetch(self, link: Link, actor: str, rate: Rate, taken: _Taken) -> None:
        """Take some tokens from Redis. Raises LinkDownError."""
        interval_us = US * rate.per_s / rate.count
        wanted = max(1, int(rate.count / rate.per_s * TAKEN_S))
        key = link.key(b"bucket:", actor.encode())
        given, taken.left, full_us, wait_us = await link.call(
            "EVAL", TAKE, 1, key, interval_us, US * rate.per_s, wanted
        )
        now_s = self._clock()
        taken.tokens = given + (taken.tokens if now_s <= taken.kept_s else 0)
        taken.kept_s, taken.full_s = now_s + KEPT_S, full_us / US
        taken.refused_s = 0.0 if given else now_s + wait_us / US
