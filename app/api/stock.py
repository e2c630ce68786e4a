"""The stock of an input: what there is, what is coming, and what orders have to keep to.

Invariant: what comes out is what was sent; whatever contradicts itself is named by its place, with
the way out, as far as possible all at once.
"""

from dataclasses import dataclass
from typing import Any, cast

from app.api.inputs import named
from app.api.issues import Issues, Place, shown
from app.errors import InvalidInputError, Issue
from app.periods import Start, parse_start, period_at
from app.settings import Settings
from models.inventory import Costs, LeadTime, Lot, Position, Rules, Unmet

FIELDS = frozenset(
    (
        *("on_hand", "on_order", "lead_time", "review_period", "unmet_demand", "unit_cost"),
        *("holding_cost", "stockout_cost", "order_cost", "min_order_quantity", "order_multiple"),
        *("shelf_life",),
    )
)
MOST_LOTS = 256  # on hand, and on order
MOST_SAMPLES = 10_000
LEAD_TIMES = '{"periods": 3}, {"mean": 3.2, "std": 0.8} or {"samples": [3, 3, 4]}'
FIXED = LeadTime(0)


@dataclass(frozen=True, slots=True)
class Calendar:
    """When the forecast of an input begins. history: its periods before."""

    start: Start | None
    freq: str | None
    history: int

    @classmethod
    def read(cls, start: object, freq: str | None, history: int) -> "Calendar":
        """A start that cannot be understood counts as none; the input's reader says so."""
        try:
            return cls(parse_start(start) if isinstance(start, str) else None, freq, history)
        except InvalidInputError:
            return cls(None, freq, history)


@dataclass(frozen=True, slots=True)
class Stock:
    """The stock of one input. rules: as if demand were counted; that the history tells."""

    position: Position
    rules: Rules
    costs: Costs | None
    warnings: tuple[Issue, ...]


def read_stock(
    raw: dict[str, Any], place: Place, calendar: Calendar, limits: Settings, *, issues: Issues
) -> Stock:
    """The stock fields of an input; to be used only if there are no issues."""
    return _Reading(raw, place, calendar, limits, issues).stock()


class _Reading:
    """One input's stock while it is read."""

    def __init__(
        self,
        raw: dict[str, Any],
        place: Place,
        calendar: Calendar,
        limits: Settings,
        issues: Issues,
    ) -> None:
        item_id = raw.get("item_id")
        self._place = named(place, item_id if isinstance(item_id, str | int) else None)
        self._raw, self._calendar, self._issues = raw, calendar, issues
        self._most = limits.max_prediction_length
        self._warnings: list[Issue] = []

    def stock(self) -> Stock:
        unmet = self._unmet()
        life = self._whole("shelf_life")
        lots, backlog = self._on_hand(life, unmet)
        lead, review = self._lead_time(), self._whole("review_period") or 1
        if lead is not None:
            self._check_reach(lead, review, life)
        rules = Rules(
            lead_time=lead or FIXED,
            review_period=review,
            unmet=unmet,
            shelf_life=life,
            min_order_quantity=self._number("min_order_quantity") or 0.0,
            order_multiple=self._number("order_multiple", above=0) or 0.0,
        )
        position = Position((*lots, *self._on_order(life)), backlog)
        return Stock(position, rules, self._costs(), tuple(self._warnings))

    # --- parts

    def _whole(self, name: str) -> int | None:
        raw = self._raw.get(name)
        if raw is None:
            return None
        return self._issues.whole(raw, self._place.at(name), most=self._most)

    def _number(self, name: str, *, above: float | None = None) -> float | None:
        raw = self._raw.get(name)
        return None if raw is None else self._issues.number(raw, self._place.at(name), above=above)

    def _unmet(self) -> Unmet:
        raw = self._raw.get("unmet_demand")
        if raw is None or raw in ("lost", "backorder"):
            return cast("Unmet", raw or "lost")
        msg = f'must be "lost" or "backorder", not {shown(raw)}'
        self._issues.add(self._place.at("unmet_demand"), msg, "unmet_demand")
        return "lost"

    def _on_hand(self, life: int | None, unmet: Unmet) -> tuple[tuple[Lot, ...], float]:
        """Lots on the shelf, and units owed."""
        raw, place = self._raw.get("on_hand"), self._place.at("on_hand")
        if raw is None:
            msg = (
                'is missing; send the units in stock, or lots as [{"quantity": 5, "expires_in": 3}]'
            )
            self._issues.add(place, msg, "on_hand")
            return (), 0.0
        if isinstance(raw, list):
            return self._lots(raw, place, life), 0.0
        if type(raw) in {int, float} and raw < 0:
            if unmet == "backorder":
                return (), -(self._issues.number(raw, place, least=-3.4e38) or 0.0)
            msg = (
                f"is {shown(raw)}: negative stock is what customers are owed; send "
                'unmet_demand "backorder", or 0'
            )
            self._issues.add(place, msg, "negative_stock")
            return (), 0.0
        quantity = self._issues.number(raw, place)
        return (Lot(quantity or 0.0, 0, life),), 0.0

    def _lots(self, raw: list[Any], place: Place, life: int | None) -> tuple[Lot, ...]:
        lots = []
        for at, fields in self._entries(raw, place, {"quantity", "expires_in"}):
            quantity = self._issues.number(fields.get("quantity"), at.at("quantity"))
            last = fields.get("expires_in")
            if last is not None:
                last = self._issues.whole(last, at.at("expires_in"))
            lots.append(Lot(quantity or 0.0, 0, last or life))
        return tuple(lots)

    def _on_order(self, life: int | None) -> tuple[Lot, ...]:
        raw, place = self._raw.get("on_order"), self._place.at("on_order")
        if raw is None:
            return ()
        if not isinstance(raw, list):
            msg = f'must be a list as [{{"quantity": 5, "in_periods": 2}}], not {shown(raw)}'
            self._issues.add(place, msg, "on_order")
            return ()
        lots = []
        for at, fields in self._entries(raw, place, {"quantity", "in_periods", "arrives_on"}):
            quantity = self._issues.number(fields.get("quantity"), at.at("quantity"))
            arrives = self._arrival(fields, at) or 0
            lots.append(Lot(quantity or 0.0, arrives, None if life is None else arrives + life))
        return tuple(lots)

    def _entries(
        self, raw: list[Any], place: Place, known: set[str]
    ) -> list[tuple[Place, dict[str, Any]]]:
        if len(raw) > MOST_LOTS:
            msg = f"has {len(raw):,} entries; add them up to at most {MOST_LOTS}"
            self._issues.add(place, msg, "too_many_lots")
            return []
        read = []
        for number, each in enumerate(raw):
            fields = self._issues.fields(each, place.at(number), known)
            if fields is not None:
                read.append((place.at(number), fields))
        return read

    def _arrival(self, fields: dict[str, Any], place: Place) -> int | None:
        """Periods until an order is received."""
        ahead, day = fields.get("in_periods"), fields.get("arrives_on")
        if (ahead is None) == (day is None):
            msg = "needs in_periods or arrives_on, one of them"
            self._issues.add(place, msg, "arrival")
            return None
        if ahead is not None:
            return self._periods(ahead, place.at("in_periods"), "what has arrived is on hand")
        return self._arrives_on(day, place.at("arrives_on"))

    def _periods(self, raw: object, place: Place, hint: str) -> int | None:
        if type(raw) is int and raw < 0:
            self._issues.add(place, f"lies in the past ({raw}); {hint}", "in_the_past")
            return None
        return self._issues.whole(raw, place, least=0)

    def _arrives_on(self, raw: object, place: Place) -> int | None:
        """Received before the demand of the period that the time lies in."""
        calendar = self._calendar
        if not isinstance(raw, str):
            msg = f'must be a time in ISO 8601 such as "2026-08-09", not {shown(raw)}'
            self._issues.add(place, msg, "arrives_on")
            return None
        if calendar.start is None or calendar.freq is None:
            msg = "needs start of the input and parameters.freq; or send in_periods"
            self._issues.add(place, msg, "arrives_on")
            return None
        try:
            period = period_at(calendar.start, calendar.freq, calendar.history, parse_start(raw))
        except InvalidInputError as error:
            self._issues.add(place, error.issues[0].msg, "arrives_on")
            return None
        if period > 0:
            return period - 1
        msg = f"{raw[:40]} lies before the first forecast period; what has arrived is on hand"
        self._issues.add(place, msg, "in_the_past")
        return None

    # --- lead time

    def _lead_time(self) -> LeadTime | None:
        raw, place = self._raw.get("lead_time"), self._place.at("lead_time")
        if not isinstance(raw, dict):
            told = "is missing" if raw is None else f"is {shown(raw)}"
            self._issues.add(place, f"{told}; send it as {LEAD_TIMES}", "lead_time")
            return None
        self._issues.fields(raw, place, {"periods", "mean", "std", "samples"})
        given = {
            name for name in ("periods", "mean", "std", "samples") if raw.get(name) is not None
        }
        if given == {"periods"}:
            return self._fixed(raw["periods"], place.at("periods"))
        if given == {"samples"}:
            return self._samples(raw["samples"], place.at("samples"))
        if given and given <= {"mean", "std"}:
            return self._gamma(raw, place)
        self._issues.add(place, f"must be one of {LEAD_TIMES}", "lead_time")
        return None

    def _fixed(self, raw: object, place: Place) -> LeadTime | None:
        if type(raw) is int and raw < 0:
            msg = f"{raw} is negative; an order that is received at once has lead time 0"
            self._issues.add(place, msg, "negative_lead_time")
            return None
        if type(raw) is float:
            msg = f"must be whole, not {shown(raw)}; a time that varies is told by mean and std"
            self._issues.add(place, msg, "int_type")
            return None
        periods = self._issues.whole(raw, place, least=0)
        return None if periods is None else LeadTime(float(periods))

    def _gamma(self, raw: dict[str, Any], place: Place) -> LeadTime | None:
        for name, other in (("mean", "std"), ("std", "mean")):
            if raw.get(name) is None:
                msg = f"{other} needs {name} beside it; a fixed time is told by periods"
                self._issues.add(place.at(name), msg, "lead_time")
                return None
        mean = self._issues.number(raw["mean"], place.at("mean"))
        std = self._issues.number(raw["std"], place.at("std"))
        if mean is None or std is None:
            return None
        if mean == 0 and std > 0:
            msg = "is 0, but std is not; a time that is never negative and 0 on the average is 0"
            self._issues.add(place.at("mean"), msg, "lead_time")
            return None
        return LeadTime(mean, std)

    def _samples(self, raw: object, place: Place) -> LeadTime | None:
        if not isinstance(raw, list) or not 0 < len(raw) <= MOST_SAMPLES:
            told = "is empty" if raw == [] else "must be a list"
            msg = f"{told}; send 1 to {MOST_SAMPLES:,} lead times that were seen, as [3, 3, 4]"
            self._issues.add(place, msg, "samples")
            return None
        read = [self._issues.number(each, place.at(n)) for n, each in enumerate(raw)]
        samples = tuple(each for each in read if each is not None)
        if len(samples) < len(read):
            return None
        return LeadTime(sum(samples) / len(samples), samples=samples)

    def _check_reach(self, lead: LeadTime, review: int, life: int | None) -> None:
        place = self._place.at("lead_time")
        far = lead.mean + 10 * lead.std + max(lead.samples, default=0.0)  # before it is computed
        if far > 1e6 or lead.longest + review > self._most:
            told = f"{lead.longest + review:,}" if far <= 1e6 else "far more"
            msg = (
                f"with review_period it reaches {told} periods ahead, {self._most:,} can be "
                "forecast; use longer periods"
            )
            self._issues.add(place, msg, "too_far_ahead")
        elif life is not None and life < lead.mean:
            msg = (
                f"{life} is shorter than the lead time ({lead.mean:g}); stock on hand expires "
                "before an order of today is received"
            )
            self._warn("shelf_life", msg, "short_shelf_life")
        elif life is not None and life < review:
            msg = (
                f"{life} is shorter than review_period ({review}); no order lasts until the next, "
                "so that the service holds for the first periods after each receipt"
            )
            self._warn("shelf_life", msg, "short_shelf_life")

    # --- costs

    def _costs(self) -> Costs | None:
        unit, order = self._number("unit_cost") or 0.0, self._number("order_cost") or 0.0
        holding = self._number("holding_cost", above=0)
        stockout = self._number("stockout_cost", above=0)
        if holding is None:
            for name in ("order_cost", "stockout_cost"):
                if self._raw.get(name) is not None and self._raw.get("holding_cost") is None:
                    msg = "has no effect without holding_cost"
                    self._warn(name, msg, "incomplete_costs")
            return None
        return Costs(holding, stockout, order, unit)

    def _warn(self, field: str, msg: str, type: str) -> None:  # noqa: A002 - the contract's word
        place = self._place.at(field)
        self._warnings.append(Issue(place.loc, f"{place.words}: {msg}", type))
