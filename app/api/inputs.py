"""The entries of `inputs` → series.

Invariant: what comes out is what was sent, aligned and cut to what is kept; whatever cannot be is
named by its place, as far as possible all at once.
"""

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from app.api.issues import Issues, Place, shown
from app.errors import InvalidInputError, Issue
from app.periods import Start, check_horizon, parse_start
from app.settings import Settings
from models.base import CategoryArray, Covariate, FloatArray, Series
from models.seasonal import season_lengths

FIELDS = frozenset(
    ("item_id", "start", "target", "past_covariates", "future_covariates", "out_of_stock")
)
NUMBERS = {int, float, type(None)}
CATEGORIES = ({str, type(None)}, {bool, type(None)})
LARGEST = float(np.finfo(np.float32).max)
LONGEST_NAME = 256
TIMES_KEPT = 10  # so much longer than what is kept may a history be

Values = FloatArray | CategoryArray
Flags = NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Ask:
    """What is wanted of every input. prediction_length: None if it was not understood."""

    prediction_length: int | None
    freq: str | None
    non_negative: bool | None
    timestamps: bool
    fields: frozenset[str] = FIELDS  # of an input
    cold: bool = False  # whether an input may have no history


@dataclass(frozen=True, slots=True, eq=False)
class SalesInput:
    """One input. history: its periods before it was cut; nested: its target had two dimensions."""

    item_id: str | int | None
    start: Start | None
    history: int
    nested: bool
    series: Series
    warnings: tuple[Issue, ...] = ()


INPUTS = Place(("inputs",), "inputs")


def read_inputs(
    raw: object, ask: Ask, limits: Settings, *, issues: Issues, place: Place = INPUTS
) -> list[SalesInput]:
    """The inputs of a request, or other series at a place; what is wrong goes to `issues`."""
    if not isinstance(raw, list) or not raw:
        issues.add(place, f"must be a list of at least one input, not {_listed(raw)}", "inputs")
        return []
    if len(raw) > limits.max_inputs:
        count, most = f"{len(raw):,}", f"{limits.max_inputs:,}"
        issues.add(place, f"has {count} entries; send at most {most} a request", "too_many_inputs")
        return []
    entries = [
        _Entry(each, place.at(number), ask, limits, issues) for number, each in enumerate(raw)
    ]
    inputs = [entry.read() for entry in entries]
    _refuse_repeated(entries, issues)
    return [each for each in inputs if each is not None]


def named(place: Place, item_id: str | int | None) -> Place:
    """The place of an input, told by its id where it has one."""
    return place if item_id is None else Place(place.loc, f"{place.words} (item_id {item_id!r})")


def _listed(raw: object) -> str:
    return "an empty list" if isinstance(raw, list) else shown(raw)


def _refuse_repeated(entries: list["_Entry"], issues: Issues) -> None:
    """Two inputs of one id could not be told apart in the answer."""
    first: dict[str, int] = {}
    for number, entry in enumerate(entries):
        item_id = entry.item_id
        if item_id is None:
            continue
        seen = first.setdefault(str(item_id), number)
        if seen != number:
            msg = f"{entries[seen].bare} has the same item_id; give each input its own, or none"
            issues.add(entry.place.at("item_id"), msg, "repeated_item_id")


class _Entry:
    """One entry while it is read."""

    __slots__ = ("_ask", "_issues", "_limits", "_raw", "_warnings", "bare", "item_id", "place")

    def __init__(
        self, raw: object, place: Place, ask: Ask, limits: Settings, issues: Issues
    ) -> None:
        self._ask, self._limits, self._issues = ask, limits, issues
        self._raw: dict[str, Any] = raw if isinstance(raw, dict) else {}
        self._warnings: list[Issue] = []
        self.place, self.bare = place, place.words
        self.item_id = self._item_id()
        self.place = named(place, self.item_id)
        if self._raw is not raw or not ask.fields.issuperset(self._raw):
            issues.fields(raw, self.place, ask.fields)

    def read(self) -> SalesInput | None:
        """The input, or None if it is not understood."""
        target = self._target()
        if target is None:
            return None
        history = target.shape[1]
        censored = self._out_of_stock(target.shape[1])
        covariates = self._covariates(history)
        start = self._start(history)
        known = _finite(target if censored is None else np.where(censored, np.nan, target))
        non_negative = self._ask.non_negative
        if non_negative is None:
            non_negative = not bool((target < 0).any())
        if not known and not self._ask.cold:
            self._warn("target", "has no value; the forecast says little", "no_history")
        return SalesInput(
            item_id=self.item_id,
            start=start,
            history=history,
            nested=history > 0 and isinstance(self._raw["target"][0], list),
            series=self._cut(target, covariates, censored, non_negative=non_negative),
            warnings=tuple(self._warnings),
        )

    def _item_id(self) -> str | int | None:
        raw = self._raw.get("item_id")
        if raw is None or type(raw) is int or (isinstance(raw, str) and len(raw) <= LONGEST_NAME):
            return raw
        msg = f"must be a text of at most {LONGEST_NAME} characters, not {shown(raw)}"
        self._issues.add(self.place.at("item_id"), msg, "item_id")
        return None

    def _target(self) -> FloatArray | None:
        """(targets, history), NaN where missing."""
        raw, place = self._raw.get("target"), self.place.at("target")
        if self._ask.cold and (raw is None or raw == []):
            return np.empty((1, 0))
        if not isinstance(raw, list) or not raw:
            missing = "is missing" if "target" not in self._raw else f"is {_listed(raw)}"
            self._issues.add(place, f"{missing}; send the history as a list of numbers", "target")
            return None
        if not isinstance(raw[0], list):
            values = self._numbers(raw, place)
            return None if values is None else values[np.newaxis, :]
        return self._targets(raw, place)

    def _targets(self, raw: list[Any], place: Place) -> FloatArray | None:
        if len(raw) > self._limits.max_targets:
            most = self._limits.max_targets
            msg = f"has {len(raw):,} series; send at most {most} targets an input"
            self._issues.add(place, msg, "too_many_targets")
            return None
        rows = [self._row(each, place.at(number)) for number, each in enumerate(raw)]
        good = [row for row in rows if row is not None]
        if len(good) < len(rows):
            return None
        lengths = [len(row) for row in good]
        if len(set(lengths)) > 1:
            short = next(n for n, length in enumerate(lengths) if length != lengths[0])
            msg = f"has {lengths[short]} values, target[0] has {lengths[0]}; pad with null"
            self._issues.add(place.at(short), msg, "ragged_target")
            return None
        return np.stack(good)

    def _row(self, raw: object, place: Place) -> FloatArray | None:
        if isinstance(raw, list) and raw:
            return self._numbers(raw, place)
        self._issues.add(place, f"must be a list of numbers, not {_listed(raw)}", "target")
        return None

    def _numbers(self, raw: list[Any], place: Place) -> FloatArray | None:
        """(periods,), NaN where null."""
        if not self._long_enough(raw, place):
            return None
        if NUMBERS.issuperset(map(type, raw)):
            values: FloatArray = np.array(raw, dtype=np.float64)
            if not (np.abs(values) > LARGEST).any():
                return values
        self._refuse_values(raw, place)
        return None

    def _long_enough(self, raw: list[Any], place: Place) -> bool:
        most = TIMES_KEPT * self._limits.max_history
        if len(raw) <= most:
            return True
        kept = f"{self._limits.max_history:,}"
        msg = (
            f"has {len(raw):,} periods; at most {most:,} are read and {kept} used, send the latest"
        )
        self._issues.add(place, msg, "history_too_long")
        return False

    def _refuse_values(self, raw: list[Any], place: Place) -> None:
        for number, value in enumerate(raw):
            if isinstance(value, int | float) and abs(value) > LARGEST:
                msg = f"{shown(value)} is beyond the range of float32 (3.4e38)"
                self._issues.add(place.at(number), msg, "number_too_large")
            elif type(value) not in NUMBERS:
                msg = f"{shown(value)} is not a number; send null for what is missing"
                self._issues.add(place.at(number), msg, "number_type")

    def _out_of_stock(self, history: int) -> Flags | None:
        """The periods whose sales are only a lower bound of demand; None if there is none."""
        raw = self._raw.get("out_of_stock")
        if raw is None:
            return None
        place = self.place.at("out_of_stock")
        if not isinstance(raw, list):
            msg = f"must be a list of true and false, not {shown(raw)}"
            self._issues.add(place, msg, "out_of_stock")
        elif set(map(type, raw)) - {bool}:
            number, value = next((n, v) for n, v in enumerate(raw) if type(v) is not bool)
            self._issues.add(place.at(number), f"{shown(value)} is not true or false", "bool_type")
        elif self._as_long(raw, history, place, "target"):
            return np.array(raw, dtype=np.bool_) if any(raw) else None
        return None

    def _as_long(self, raw: list[Any], length: int, place: Place, other: str) -> bool:
        if len(raw) == length:
            return True
        msg = f"has {len(raw):,} values, {other} has {length:,}; both cover the same periods"
        self._issues.add(place, msg, "ragged")
        return False

    def _covariates(self, history: int) -> tuple[Covariate, ...]:
        covariates = (self._raw.get("past_covariates"), self._raw.get("future_covariates"))
        if all(each is None or each == {} for each in covariates):
            return ()
        past = self._named("past_covariates")
        future = self._named("future_covariates")
        self._check_names(past, future)
        read = [self._covariate(name, past[name], future, history) for name in past]
        return tuple(each for each in read if each is not None)

    def _named(self, field: str) -> dict[str, Any]:
        raw = self._raw.get(field)
        if raw is None or isinstance(raw, dict):
            return raw or {}
        msg = f"must be an object of lists, one a covariate, not {shown(raw)}"
        self._issues.add(self.place.at(field), msg, "object_type")
        return {}

    def _check_names(self, past: Collection[str], future: Collection[str]) -> None:
        most = self._limits.max_covariates
        if len(past) > most:
            msg = f"has {len(past):,} covariates; send at most {most} an input"
            self._issues.add(self.place.at("past_covariates"), msg, "too_many_covariates")
        for name in future:
            if name not in past:
                msg = "is not among past_covariates; send its past as well"
                self._issues.add(
                    self.place.at("future_covariates", name), msg, "future_without_past"
                )

    def _covariate(
        self, name: str, raw: object, future: dict[str, Any], history: int
    ) -> Covariate | None:
        """One covariate, its past and future of one kind."""
        there = self.place.at("past_covariates", name)
        past = self._column(raw, history, there, "target")
        if name not in future:
            return None if past is None else Covariate(name, _values(past))
        ahead = self._future(name, future[name])
        if past is None or ahead is None or not self._one_kind(past, ahead, there):
            return None
        both = _values(past + ahead)
        return Covariate(name, both[: len(past)], both[len(past) :])

    def _future(self, name: str, raw: object) -> list[Any] | None:
        place, steps = self.place.at("future_covariates", name), self._ask.prediction_length
        if steps is None and isinstance(raw, list):
            steps = len(raw)  # the horizon itself is refused
        return self._column(raw, steps or 0, place, "the forecast (prediction_length)")

    def _column(self, raw: object, length: int, place: Place, other: str) -> list[Any] | None:
        """The values of a covariate, if they are of one kind and as many as they should be."""
        if not isinstance(raw, list):
            msg = f"must be a list of numbers or of texts, not {shown(raw)}"
            self._issues.add(place, msg, "covariate_type")
            return None
        if not self._as_long(raw, length, place, other) or not self._one_kind(raw, [], place):
            return None
        return raw

    def _one_kind(self, past: list[Any], future: list[Any], place: Place) -> bool:
        """Whether all values are numbers, or all texts, or all true or false."""
        kinds = set(map(type, past)).union(map(type, future))
        if kinds <= NUMBERS:
            return self._in_range(past + future if future else past, place)
        if kinds <= CATEGORIES[0] or kinds <= CATEGORIES[1]:
            return True
        self._refuse_kinds(past + future, kinds, place)
        return False

    def _in_range(self, raw: list[Any], place: Place) -> bool:
        numbers = [value for value in raw if value is not None]
        if not numbers or (max(numbers) <= LARGEST and min(numbers) >= -LARGEST):
            return True
        self._refuse_values(raw, place)
        return False

    def _refuse_kinds(self, raw: list[Any], kinds: set[type], place: Place) -> None:
        allowed = NUMBERS | {str, bool}
        for number, value in enumerate(raw):
            if type(value) not in allowed:
                msg = f"{shown(value)} is neither number nor text; send null for what is missing"
                self._issues.add(place.at(number), msg, "covariate_type")
        if kinds <= allowed:
            msg = "mixes numbers, texts or booleans; a covariate is of one kind in past and future"
            self._issues.add(place, msg, "mixed_covariate")

    def _start(self, history: int) -> Start | None:
        raw, freq = self._raw.get("start"), self._ask.freq
        place = self.place.at("start")
        if raw is None:
            if self._ask.timestamps:
                msg = "is missing; timestamps: true needs the start of each input"
                self._issues.add(place, msg, "start_missing")
            return None
        if not isinstance(raw, str):
            msg = f'must be a time in ISO 8601 such as "2026-08-01", not {shown(raw)}'
            self._issues.add(place, msg, "invalid_start")
            return None
        try:
            start = parse_start(raw)
            if freq is not None:
                check_horizon(start, freq, history, self._ask.prediction_length or 1)
        except InvalidInputError as error:
            self._issues.add(place, error.issues[0].msg, error.issues[0].type)
            return None
        return start

    def _cut(
        self,
        target: FloatArray,
        covariates: tuple[Covariate, ...],
        censored: Flags | None,
        *,
        non_negative: bool,
    ) -> Series:
        """The series, no longer than what is kept."""
        most = self._limits.max_history
        if target.shape[1] > most:
            msg = f"has {target.shape[1]:,} periods; the latest {most:,} were used"
            self._warn("target", msg, "history_cut")
            target = target[:, -most:]
            censored = None if censored is None else censored[-most:]
            covariates = tuple(
                Covariate(each.name, each.past[-most:], each.future) for each in covariates
            )
        seasons = season_lengths(self._ask.freq)
        return Series(target, covariates, seasons, non_negative, censored)

    def _warn(self, field: str, msg: str, type: str) -> None:  # noqa: A002 - the contract's word
        place = self.place.at(field)
        self._warnings.append(Issue(place.loc, f"{place.words}: {msg}", type))


def _finite(target: FloatArray) -> bool:
    return not bool(np.isnan(target).all())


def _values(raw: list[Any]) -> Values:
    """Numbers, NaN where null; or categories, None where null, true and false as texts."""
    kinds = set(map(type, raw))
    if kinds <= NUMBERS:
        return np.array(raw, dtype=np.float64)
    if bool in kinds:
        raw = [None if value is None else str(value).lower() for value in raw]
    return np.array(raw, dtype=np.object_)
