"""Which forecasts which process is computing, so that no two compute the same.

Invariant: a claim saves work and never costs an answer: one that is lost, stale or held by a dead
process is waited for no longer than its forecast should take, and without Redis there is none.
"""

import asyncio
import os
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass

from app.cache import FORECAST
from app.link import Link, LinkDownError

MOST_CLAIMED = 64  # of a request; one that asks for more takes long by itself
FIRST_LOOK_S, LAST_LOOK_S = 0.002, 0.02  # between two looks at a claim
#: Deletes the claims that are still this process's.
RELEASE = """
for _, key in ipairs(KEYS) do
  if redis.call('GET', key) == ARGV[1] then redis.call('DEL', key) end
end
"""


@dataclass(slots=True, eq=False)
class _Claim:
    """What this process wants to compute. granted: the keys that were, of those asked together."""

    granted: asyncio.Task[frozenset[bytes]]
    users: int = 0


class Claims:
    """The claims of one process. Belongs to one event loop."""

    def __init__(self, link: Link) -> None:
        self._link, self._token = link, os.urandom(8).hex().encode()
        self._open: dict[bytes, _Claim] = {}
        self._releasing: set[asyncio.Task[None]] = set()

    async def take(self, keys: Sequence[bytes], *, lease_s: float) -> frozenset[bytes]:
        """Claim keys; those come back that another process holds, or has just computed.

        Each has to be released.
        """
        new = [key for key in dict.fromkeys(keys) if key not in self._open]
        if new:
            asking = asyncio.create_task(self._ask(new, lease_s))
            self._open.update({key: _Claim(asking) for key in new})
        claims = {key: self._open[key] for key in keys}
        for claim in claims.values():
            claim.users += 1
        try:
            granted = [await asyncio.shield(claim.granted) for claim in claims.values()]
        except asyncio.CancelledError:
            self.release(keys)
            raise
        return frozenset(key for key, mine in zip(claims, granted, strict=True) if key not in mine)

    def release(self, keys: Sequence[bytes]) -> None:
        """Give keys back, once for each time they were taken, without waiting for it."""
        over: list[bytes] = []
        for key in dict.fromkeys(keys):
            claim = self._open[key]
            claim.users -= 1
            if not claim.users:
                del self._open[key]
                if claim.granted.done() and key in claim.granted.result():
                    over.append(key)
        if over and self._link.up:
            task = asyncio.create_task(self._delete(over))
            self._releasing.add(task)
            task.add_done_callback(self._releasing.discard)

    async def settled(self, keys: Sequence[bytes], *, wait_s: float) -> None:
        """Wait until nobody holds the keys any more, for `wait_s` at most."""
        held, look_s, until_s = list(keys), FIRST_LOOK_S, time.monotonic() + wait_s
        with suppress(LinkDownError):
            while held and (left_s := until_s - time.monotonic()) > 0:
                await asyncio.sleep(min(look_s, left_s))
                look_s = min(2 * look_s, LAST_LOOK_S)
                tokens = await self._link.call("MGET", *map(self._name, held))
                held = [key for key, token in zip(held, tokens, strict=True) if token is not None]

    async def close(self) -> None:
        """Wait for what is being given back."""
        if self._releasing:
            await asyncio.wait(self._releasing)

    async def _ask(self, keys: list[bytes], lease_s: float) -> frozenset[bytes]:
        """The keys that are this process's to compute: all of them, if Redis does not say."""
        lease_ms = max(1, round(1000 * lease_s))
        claims = [("SET", self._name(key), self._token, "NX", "PX", lease_ms) for key in keys]
        # who looked before it was there and claims after it was given back would compute it again
        looks = [("EXISTS", self._link.key(FORECAST, key)) for key in keys]
        try:
            answers = await self._link.calls([*claims, *looks])
        except LinkDownError:
            return frozenset(keys)
        # None: somebody else's. A refusal, as by a full Redis, is no claim of anybody
        mine = {key for key, each in zip(keys, answers, strict=False) if each is not None}
        there = {key for key, each in zip(keys, answers[len(keys) :], strict=True) if each == 1}
        if mine & there:
            await self._delete(list(mine & there))
        return frozenset(mine - there)

    async def _delete(self, keys: list[bytes]) -> None:
        names = map(self._name, keys)
        with suppress(LinkDownError):
            await self._link.call("EVAL", RELEASE, len(keys), *names, self._token)

    def _name(self, key: bytes) -> bytes:
        return self._link.key(b"claim:", key)
