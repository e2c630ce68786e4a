"""What is already known: forecasts by key, each a compact binary value (see app.kinds).

Invariant: a broken cache is a miss: no method raises.
"""

import time
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from app.metrics import Metrics

ENTRY_BYTES = 256  # what an entry costs beside its key and value


class Cache(Protocol):
    """Values by key; a request asks and tells once each."""

    async def get_many(self, keys: Sequence[bytes]) -> list[bytes | None]:
        """The value of each key, in order; None for what is not known."""

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
        now_s = time.monotonic()
        return [self._get(key, now_s) for key in keys]

    async def set_many(self, items: Mapping[bytes, bytes]) -> None:
        """Keep values for as long as there is room and they are fresh."""
        expires_s = time.monotonic() + self._ttl_s
        for key, value in items.items():
            if _size(key, value) <= self._most_bytes:
                self._remove(key)
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


def _size(key: bytes, value: bytes) -> int:
    return len(key) + len(value) + ENTRY_BYTES
