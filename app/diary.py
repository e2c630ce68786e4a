"""The log of a job, for whoever asked for it.

Invariant: it tells what was done and found, by the clock, and neither paths nor stacks.
"""

from datetime import UTC, datetime
from pathlib import Path

FILE = "log.txt"
LONGEST_BYTES = 4 * 1024 * 1024


class Diary:
    """Lines that are appended."""

    def __init__(self, directory: Path) -> None:
        self._path = directory / FILE

    def write(self, text: str) -> None:
        """Append a line; a full disk costs the line and nothing else."""
        now = datetime.now(UTC).strftime("%Y-%m-%d %H:%M:%SZ")
        line = " ".join(text.split())
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with self._path.open("a", encoding="utf-8") as file:
                if file.tell() < LONGEST_BYTES:
                    file.write(f"{now} {line}\n")
        except OSError:
            return


def read(directory: Path) -> str:
    """What was written so far."""
    try:
        return (directory / FILE).read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        return ""
