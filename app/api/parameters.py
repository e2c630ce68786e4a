"""`parameters`: what subjects understand by the same words.

Invariant: what is null counts as not given, and what is not understood is an issue with its place.
"""

from collections.abc import Collection, Iterable
from typing import Any

from app.api.inputs import SalesInput
from app.api.issues import Issues, Place, shown
from app.errors import InvalidInputError
from app.periods import parse_freq
from app.settings import Settings
from app.versions import PRODUCTION


class Parameters:
    """The parameters of a request, each read when it is asked for."""

    def __init__(
        self, raw: object, known: Collection[str], limits: Settings, issues: Issues
    ) -> None:
        self.place = Place(("parameters",), "parameters")
        self.raw: dict[str, Any] = {}
        if raw is not None:
            self.raw = issues.fields(raw, self.place, known) or {}
        self._limits, self._issues = limits, issues

    def whole(self, name: str, *, most: int | None = None) -> int | None:
        raw = self.raw.get(name)
        return None if raw is None else self._issues.whole(raw, self.place.at(name), most=most)

    def flag(self, name: str) -> bool:
        raw = self.raw.get(name)
        return raw is not None and self._issues.flag(raw, self.place.at(name))

    def prediction_length(self) -> int | None:
        if self.raw.get("prediction_length") is None:
            return 1
        return self.whole("prediction_length", most=self._limits.max_prediction_length)

    def freq(self) -> str | None:
        raw = self.raw.get("freq")
        if raw is None:
            return None
        try:
            parse_freq(raw if isinstance(raw, str) else shown(raw))
        except InvalidInputError as error:
            self._issues.add(self.place.at("freq"), error.issues[0].msg, error.issues[0].type)
            return None
        return str(raw)

    def check_freq(self, inputs: Iterable[SalesInput]) -> None:
        """A start says nothing without it."""
        if self.raw.get("freq") is None and any(each.start is not None for each in inputs):
            msg = 'is missing; it is needed with start, such as "D", "W-MON" or "MS"'
            self._issues.add(self.place.at("freq"), msg, "freq_missing")

    def model(self) -> str:
        """An alias, or a version number as text."""
        raw = self.raw.get("model")
        if raw is None:
            return PRODUCTION
        if type(raw) is int or (isinstance(raw, str) and raw):
            return str(raw)
        msg = f'must be "production" or a version number, not {shown(raw)}'
        self._issues.add(self.place.at("model"), msg, "model")
        return PRODUCTION
