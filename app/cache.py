"""What is already known: forecasts by key, each a compact binary value (see app.kinds).

Invariant: a broken cache is a miss: no method raises.
"""

import hashlib
import time
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Protocol

from app.link import Link, LinkDownError, is_refusal
from app.metrics import Metrics

FORECAST = b"forecast:"  # begins the keys in Redis, after the namespace
CHECKSUM_BYTES = 16
PIPELINE = 64  # values a round trip
ENTRY_BYTES = 256  # what an entry costs beside its key and value


class Cache(Protocol):
    """Values by key; a request asks and tells once each."""

    async def get_many(self, keys: Sequence[bytes]) -> list[bytes | None]:
        """The value of each key, in order; None for what is not known."""

    def at_hand(self, keys: Sequence[bytes]) -> list[bytes | None]:
        """The same of what nobody has to be asked for."""

    async def set_many(self, items: Mapping[bytes, bytes]) -> None:
        """Keep values for as long as there is room and they are fresh."""

    async def close(self) -> None:
        """Let go of connections and memory."""


@dataclass(slots=True)
class _Entry:
    value: bytes
    expires_s: float


class MemoryCache:
    """A cache in the process: bounded in bytes, what was used least recently leaves first.

    Belongs to one event loop.
    """

    def __init__(self, most_bytes: int, ttl_s: float, *, metrics: Metrics) -> None:
        """most_bytes: 0 turns the cache off."""
        self._most_bytes, self._ttl_s = most_bytes, ttl_s
        self._metrics = metrics
        self._entries: OrderedDict[bytes, _Entry] = OrderedDict()
        self._bytes = 0
        metrics.cache_bytes.set_function(lambda: self._bytes)
        metrics.cache_entries.set_function(lambda: len(self._entries))

    async def get_many(self, keys: Sequence[bytes]) -> list[bytes | None]:
        """The value of each key, in order; None for what is not known."""
        return self.at_hand(keys)

    def at_hand(self, keys: Sequence[bytes]) -> list[bytes | None]:
        """The same, without waiting."""
        now_s = time.monotonic()
        return [self._get(key, now_s) for key in keys]

    async def set_many(self, items: Mapping[bytes, bytes]) -> None:
        """Keep values for as long as there is room and they are fresh."""
        expires_s = time.monotonic() + self._ttl_s
        for key, value in items.items():
            self._remove(key)  # also what is too large now must not leave what was there before
            if _size(key, value) <= self._most_bytes:
                self._entries[key] = _Entry(value, expires_s)
                self._bytes += _size(key, value)
        self._shrink()

    async def close(self) -> None:
        """Let go of the memory."""
        self._entries.clear()
        self._bytes = 0

    def _get(self, key: bytes, now_s: float) -> bytes | None:
        entry = self._entries.get(key)
        if entry is None:
            return None
        if entry.expires_s <= now_s:
            self._remove(key)
            return None
        self._entries.move_to_end(key)
        return entry.value

    def _remove(self, key: bytes) -> None:
        entry = self._entries.pop(key, None)
        if entry is not None:
            self._bytes -= _size(key, entry.value)

    def _shrink(self) -> None:
        evictions = 0
        while self._bytes > self._most_bytes:
            key, entry = self._entries.popitem(last=False)
            self._bytes -= _size(key, entry.value)
            evictions += 1
        if evictions:
            self._metrics.cache_evictions.inc(evictions)


class RedisCache:
    """A cache in Redis, which processes and restarts share.

    Each value stands behind a checksum of itself and of its key: what was damaged, cut off or put
    there by somebody else is a miss.
    """

    def __init__(self, link: Link, ttl_s: float, *, metrics: Metrics) -> None:
        self._link, self._metrics = link, metrics
        self._ttl_ms = max(1, round(1000 * ttl_s))

    async def get_many(self, keys: Sequence[bytes]) -> list[bytes | None]:
        """The value of each key, in order; None for what is not known."""
        if not keys or not self._link.up:
            return [None] * len(keys)
        try:
            values = await self._link.call("MGET", *map(self._name, keys))
        except LinkDownError:
            return [None] * len(keys)
        return [self._checked(*pair) for pair in zip(keys, values, strict=True)]

    def at_hand(self, keys: Sequence[bytes]) -> list[bytes | None]:
        """Nothing is."""
        return [None] * len(keys)

    async def set_many(self, items: Mapping[bytes, bytes]) -> None:
        """Keep values, a pipeline of some at a time."""
        commands = [
            ("SET", self._name(key), _checksum(key, value) + value, "PX", self._ttl_ms)
            for key, value in items.items()
        ]
        with suppress(LinkDownError):
            for start in range(0, len(commands), PIPELINE):
                answers = await self._link.calls(commands[start : start + PIPELINE])
                refused = sum(map(is_refusal, answers))
                self._metrics.redis_failures.labels("refused").inc(refused)

    async def close(self) -> None:
        """Nothing to let go of: the link is not the cache's own."""

    def _name(self, key: bytes) -> bytes:
        return self._link.key(FORECAST, key)

    def _checked(self, key: bytes, value: object) -> bytes | None:
        if value is None:
            return None
        if not isinstance(value, bytes) or value[:CHECKSUM_BYTES] != _checksum(
            key, value[CHECKSUM_BYTES:]
        ):
            self._metrics.redis_failures.labels("garbage").inc()
            return None
        return value[CHECKSUM_BYTES:]


class LayeredCache:
    """A near cache in front of a far one; what is found far away comes near."""

    def __init__(self, near: Cache, far: Cache, *, metrics: Metrics) -> None:
        self._near, self._far, self._metrics = near, far, metrics

    async def get_many(self, keys: Sequence[bytes]) -> list[bytes | None]:
        """The value of each key, in order; None for what is not known."""
        values = await self._near.get_many(keys)
        missing = [key for key, value in zip(keys, values, strict=True) if value is None]
        if not missing:
            return values
        answers = zip(missing, await self._far.get_many(missing), strict=True)
        found = {key: value for key, value in answers if value is not None}
        if not found:
            return values
        self._metrics.redis_hits.inc(len(found))
        await self._near.set_many(found)
        pairs = zip(keys, values, strict=True)
        return [found.get(key) if value is None else value for key, value in pairs]

    def at_hand(self, keys: Sequence[bytes]) -> list[bytes | None]:
        """What is near."""
        return self._near.at_hand(keys)

    async def set_many(self, items: Mapping[bytes, bytes]) -> None:
        """Keep values in both."""
        await self._near.set_many(items)
        await self._far.set_many(items)

    async def close(self) -> None:
        """Let go of both."""
        await self._near.close()
        await self._far.close()


def _checksum(key: bytes, value: bytes) -> bytes:
    return hashlib.blake2b(value, digest_size=CHECKSUM_BYTES, key=key[:64]).digest()


def _size(key: bytes, value: bytes) -> int:
    return len(key) + len(value) + ENTRY_BYTES
