"""What is wrong with a request, gathered.

Invariant: callers learn of several mistakes at once, each by its place, and of no more than
`MOST` of them.
"""

from collections.abc import Collection
from dataclasses import dataclass
from difflib import get_close_matches
from typing import TypeGuard

from app.api.bodies import NotFinite
from app.errors import InvalidInputError, Issue

MOST = 20
LARGEST = 3.4028234663852886e38  # float32
LONGEST_NAME = 64  # of a name as it is told; a caller may have sent megabytes


@dataclass(frozen=True, slots=True)
class Place:
    """Where something stands: as a path, and in words."""

    loc: tuple[str | int, ...]
    words: str

    def at(self, *parts: str | int) -> "Place":
        """A place further in; long names are cut."""
        told = [part if isinstance(part, int) else part[:LONGEST_NAME] for part in parts]
        words = self.words + "".join(map(_step, told))
        return Place((*self.loc, *told), words.removeprefix("."))


class Issues:
    """The mistakes of one request."""

    def __init__(self) -> None:
        self._found: list[Issue] = []

    def add(self, place: Place, msg: str, type: str) -> None:  # noqa: A002 - the contract's word
        """Note a mistake. Raises InvalidInputError once there are enough of them."""
        words = f"{place.words}: " if place.words else ""
        self._found.append(Issue(place.loc, f"{words}{msg}", type))
        if len(self._found) >= MOST:
            self.settle()

    def settle(self) -> None:
        """Raise InvalidInputError if there are any."""
        if self._found:
            raise InvalidInputError(tuple(self._found))

    def fields(self, raw: object, place: Place, known: Collection[str]) -> dict[str, object] | None:
        """The object at a place, if it is one; its unknown names are mistakes."""
        if not isinstance(raw, dict):
            self.add(place, f"must be an object, not {shown(raw)}", "object_type")
            return None
        for name in sorted(raw.keys() - known):
            near = get_close_matches(name[:LONGEST_NAME], known, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"known are {', '.join(sorted(known))}"
            self.add(place.at(name), f"there is no such field; {hint}", "unknown_field")
        return raw

    def flag(self, raw: object, place: Place) -> bool:
        """A boolean."""
        if isinstance(raw, bool):
            return raw
        self.add(place, f"must be true or false, not {shown(raw)}", "bool_type")
        return False

    def whole(
        self, raw: object, place: Place, *, least: int = 1, most: int | None = None
    ) -> int | None:
        """A whole number, by default from 1 on."""
        if type(raw) is not int:
            self.add(place, f"must be a whole number, not {shown(raw)}", "int_type")
        elif raw < least:
            self.add(place, f"must be at least {least}, not {raw}", "too_small")
        elif most is not None and raw > most:
            self.add(place, f"must be at most {most:,}, not {raw:,}", "too_large")
        else:
            return raw
        return None

    def number(
        self, raw: object, place: Place, *, least: float = 0.0, above: float | None = None
    ) -> float | None:
        """A number within the range of float32; by default at least 0. above: not that itself."""
        if type(raw) is not int and type(raw) is not float:
            self.add(place, f"must be a number, not {shown(raw)}", "number_type")
        elif abs(raw) > LARGEST:
            self.add(place, f"{shown(raw)} is beyond the range of float32", "number_too_large")
        elif above is not None and raw <= above:
            self.add(place, f"must be more than {above:g}, not {shown(raw)}", "too_small")
        elif raw < least:
            self.add(place, f"must be at least {least:g}, not {shown(raw)}", "too_small")
        else:
            return float(raw)
        return None


def shown(raw: object) -> str:
    """A value as a message shows it: short."""
    if isinstance(raw, NotFinite):
        return raw.text
    if isinstance(raw, list):
        return "a list"
    if isinstance(raw, dict):
        return "an object"
    text = {None: "null", True: "true", False: "false"}[raw] if _is_word(raw) else repr(raw)
    return text if len(text) <= 40 else f"{text[:40]}…"


def _is_word(raw: object) -> TypeGuard[bool | None]:
    return raw is None or isinstance(raw, bool)


def _step(part: str | int) -> str:
    if isinstance(part, int):
        return f"[{part}]"
    return f".{part}" if part.isidentifier() else f"[{part!r}]"
