"""How long what is at hand of the event loop has been waiting.

In a turn the loop reads what has arrived, and then runs what that called for; whatever arrives
meanwhile waits. A timer tells of a long turn only when it is over.
"""

import asyncio
import time
from collections import deque


class Turns:
    """The turns of uvloop whose work is not done yet."""

    def __init__(self) -> None:
        self._began_s: deque[float] = deque()
        self._reading = False

    def read(self, loop: asyncio.AbstractEventLoop) -> None:
        """Say that something arrived; the first time in a turn, that turn begins."""
        if not self._reading:
            self._reading = True
            self._began_s.append(time.perf_counter())
            loop.call_soon(self._run, loop)

    def age_s(self) -> float:
        """The most that what is read or run now may have waited; 0 where the loop was idle."""
        return time.perf_counter() - self._began_s[0] if self._began_s else 0.0

    def _run(self, loop: asyncio.AbstractEventLoop) -> None:
        """What was read is run now, and what arrives meanwhile is read after it, before the end."""
        self._reading = False
        loop.call_soon(self._began_s.popleft)
