"""How often something may be done, as an operator writes it: 50/s, 3000/m.

Invariant: what is written reads as the same again.
"""

import re
from dataclasses import dataclass

UNITS_S = {"s": 1, "m": 60, "h": 3600, "d": 86_400}
NAMES = {1: "second", 60: "minute", 3600: "hour", 86_400: "day"}
MOST = 1_000_000
WORDS = "must be a number by a unit of time such as 50/s, 3000/m, 20000/h or 100000/d"
_RATE = re.compile(r"([1-9][0-9]{0,6})/([smhd])")


@dataclass(frozen=True, slots=True)
class Rate:
    """So many times in so many seconds."""

    count: int
    per_s: int

    @classmethod
    def parse(cls, text: str) -> "Rate":
        """The rate that is written. Raises ValueError with what is wanted."""
        found = _RATE.fullmatch(text.strip())
        if found is None or int(found[1]) > MOST:
            raise ValueError(f"{WORDS}, not {text[:40]!r}")
        return cls(int(found[1]), UNITS_S[found[2]])

    @property
    def words(self) -> str:
        """The rate as it is said to people."""
        return f"{self.count:,} requests a {NAMES[self.per_s]}"

    def __str__(self) -> str:
        unit = next(unit for unit, seconds in UNITS_S.items() if seconds == self.per_s)
        return f"{self.count}/{unit}"
