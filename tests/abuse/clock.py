"""A clock that a test may set, for processes that it starts: their dates jump, timers do not.

That is what setting the clock of a machine does: `CLOCK_REALTIME` moves, and `CLOCK_MONOTONIC` does
not.
"""

import os
import time
from importlib.util import find_spec
from pathlib import Path

import pytest

LOOKS_S = 1  # that a process waits, in whole seconds; to look each time would make it slow
LIBRARY = Path("vendor/libfaketime/src/libfaketime.so.1")


class Clock:
    """Right at first."""

    def __init__(self, directory: Path) -> None:
        self._file = directory / "clock"
        self._library = _library()
        self.set("+0")

    @property
    def environment(self) -> dict[str, str]:
        """What makes a process go by it."""
        return {
            "LD_PRELOAD": str(self._library),
            "FAKETIME_TIMESTAMP_FILE": str(self._file),
            "FAKETIME_CACHE_DURATION": str(LOOKS_S),
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
            "NO_FAKE_STAT": "1",
        }

    def set(self, difference: str) -> None:
        """difference: to the right time, as +3d or -2h."""
        new = self._file.with_suffix(".new")
        new.write_text(difference)
        new.replace(self._file)
        time.sleep(LOOKS_S + 1.1)


def _library() -> Path:
    """Skips where there is none, except in CI. It is found, not imported: that starts it here."""
    found = find_spec("libfaketime")
    place = Path(found.origin).parent / LIBRARY if found and found.origin else Path("nowhere")
    if not place.exists():
        if os.environ.get("CI"):
            raise FileNotFoundError("the package libfaketime")
        pytest.skip("no libfaketime here")
    return place
