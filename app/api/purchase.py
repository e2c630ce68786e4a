"""POST /predict/purchase-probability: its words, and how they become tasks and results words.

Invariant: predictions come in the order of `inputs`, and an answer depends on its own input and the
context of its shop; on other inputs of the request only where these make the context.
"""

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any, Literal

import numpy as np
import orjson
from numpy.typing import NDArray
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from app.api.access import check_shop
from app.api.bodies import MOST_PARTS, parse
from app.api.deps import Watch, body_of, deadline_of, timing_of
from app.api.events import Ask, Crowd, CustomerInput, read_customers
from app.api.exchange import Exchange, exchange_of
from app.api.issues import Issues, Place, shown
from app.api.parameters import Parameters as Given
from app.api.questions import Reader
from app.errors import DeadlineError, InvalidInputError, Issue
from app.moments import Clock, Moment, is_time, zone_of
from app.predictor import Prediction
from app.profiles import Profile
from app.registry import PURCHASE
from app.settings import Settings
from app.shops import SHOP, SHOP_WORDS
from models.base import EVENT_TYPES, Explanation, FloatArray, PurchaseForecast, PurchaseTask
from models.customers import context_of

PATH = "/predict/purchase-probability"
HORIZONS = (7, 30, 90)
MOST_HORIZONS = 100
LONGEST_DAYS = 365  # the network's hazard ends there
CHURN_DAYS = 180
OWN_CONTEXT_FROM = 200  # customers of a request that make a context
KNOWN_CONTEXT_FROM = 50  # of them with events
MOST_NAMES = 6 * MOST_PARTS  # an event has some names, where a list has none
IN_THREAD_FROM_BYTES = 64 * 1024  # an event takes far longer to read than a number of its size
IN_THREAD_FROM_PARTS = 2_000
FIELDS = frozenset({"inputs", "parameters"})
PARAMETERS = frozenset(
    (
        *("as_of", "horizons_days", "churn_window_days", "timezone", "shop"),
        *("explain", "explain_days", "model"),
    )
)
NUMPY = orjson.OPT_SERIALIZE_NUMPY

ContextName = Literal["profile", "request", "prior"]
Numbers = NDArray[np.float32]


@dataclass(frozen=True, slots=True, eq=False)
class PurchaseQuestion:
    """A request that is understood. own_context: what its customers say of their shop, if enough.

    timely: it means the same whenever it is asked.
    """

    crowd: Crowd
    horizons_days: tuple[int, ...]
    churn_window_days: int
    explain_days: int | None
    alias: str
    shop: str | None
    own_context: FloatArray | None
    timely: bool

    @property
    def inputs(self) -> tuple[CustomerInput, ...]:
        return self.crowd.inputs

    def tasks(self, context: FloatArray | None) -> list[PurchaseTask]:
        """What is asked of each customer, in a shop of this context."""
        as_of, explained = self.crowd.as_of, self.explain_days
        return [
            PurchaseTask(
                customer=each.customer,
                context=context,
                year_phase=as_of.year_phase,
                weekday=as_of.local.weekday(),
                horizons_days=tuple(map(float, self.horizons_days)),
                churn_window_days=float(self.churn_window_days),
                explain_days=None if explained is None else float(explained),
            )
            for each in self.crowd.inputs
        ]


class PredictPurchase:
    """Whether and how often each customer will buy, for how much, and who is gone."""

    def __init__(self, reader: Reader[PurchaseQuestion]) -> None:
        self._reader = reader

    async def __call__(self, scope: Scope, receive: Receive, _: Send) -> None:
        exchange = exchange_of(scope)
        exchange.route = PATH
        deadline_s = deadline_of(exchange)
        body = await body_of(exchange, receive, deadline_s)
        question = await self._reader.question(body, exchange, deadline_s)
        profile = await _profile_of(question, exchange)
        validated_s = time.perf_counter()
        left_s = deadline_s - validated_s
        prediction = await _predict(question, profile, exchange, receive, left_s=left_s)
        predicted_s = time.perf_counter()
        answer = await _render(question, profile, prediction)
        exchange.model = f"{prediction.name}/{prediction.version}"
        exchange.timing = timing_of(
            prediction,
            validate_s=validated_s - exchange.began_s,
            serialize_s=time.perf_counter() - predicted_s,
        )
        await exchange.answer(answer)


async def _profile_of(question: PurchaseQuestion, exchange: Exchange) -> Profile | None:
    """The stored profile of the shop that is named. Raises if it knows of the future."""
    if question.shop is None:
        return None
    check_shop(exchange, question.shop)
    profile = await exchange.resources.profiles.get(question.shop)
    as_of = question.crowd.as_of
    if as_of.is_before(profile.data_until):
        msg = (
            f"parameters.as_of: {as_of.written()} is before the profile of the shop, whose data "
            f"reach until {profile.data_until.written()}: it would tell of the future; ask for "
            f"that time or a later one, store the profile of data up to as_of, or leave out `shop`"
        )
        raise InvalidInputError((Issue(("parameters", "as_of"), msg, "before_profile"),))
    return profile


async def _predict(
    question: PurchaseQuestion,
    profile: Profile | None,
    exchange: Exchange,
    receive: Receive,
    *,
    left_s: float,
) -> Prediction[PurchaseForecast]:
    if left_s <= 0:
        raise DeadlineError("the deadline passed before the input was read")
    context = question.own_context if profile is None else profile.context
    with Watch(receive):
        prediction = await exchange.resources.purchases.predict(
            PURCHASE,
            question.tasks(context),
            alias=question.alias,
            timeout_s=left_s,
            caller=exchange.caller.key_id,
        )
    metrics = exchange.resources.metrics
    metrics.purchase_contexts.labels(_context_name(question, profile)).inc()
    metrics.truncated_customers.inc(sum(each.customer.truncated for each in question.inputs))
    return prediction


async def _render(
    question: PurchaseQuestion, profile: Profile | None, prediction: Prediction[PurchaseForecast]
) -> bytes:
    parts = len(question.inputs) * len(question.horizons_days)
    if question.explain_days is not None:
        parts += sum(len(each.customer.days_ago) for each in question.inputs)
    if parts > IN_THREAD_FROM_PARTS:
        return await asyncio.to_thread(render, question, profile, prediction)
    return render(question, profile, prediction)


def _context_name(question: PurchaseQuestion, profile: Profile | None) -> ContextName:
    if profile is not None:
        return "profile"
    return "prior" if question.own_context is None else "request"


def routes() -> list[Route]:
    """The routes of one application."""
    reader = Reader(read, lasts=_lasts, in_thread_from_bytes=IN_THREAD_FROM_BYTES)
    return [Route(PATH, PredictPurchase(reader), methods=["POST"])]


def _lasts(question: PurchaseQuestion) -> bool:
    return question.timely


# --- from words to a question


def read(body: bytes, limits: Settings) -> PurchaseQuestion:
    """What a body asks. Raises MalformedError, InvalidInputError."""
    issues = Issues()
    fields = issues.fields(parse(body, most_names=MOST_NAMES), Place((), ""), FIELDS)
    if fields is None:
        issues.settle()
        raise AssertionError("settled")
    parameters = Parameters(fields.get("parameters"), PARAMETERS, limits, issues)
    horizons = parameters.horizons()
    explained = parameters.explained(horizons)
    churn = parameters.days("churn_window_days") or CHURN_DAYS
    shop, alias, clock = parameters.shop(), parameters.model(), parameters.clock()
    as_of = parameters.as_of(clock)
    ask = Ask(clock, as_of, limits.max_inputs)
    crowd = read_customers(fields.get("inputs"), ask, limits, issues=issues)
    issues.settle()
    assert crowd is not None  # noqa: S101 - settled
    return PurchaseQuestion(
        crowd=crowd,
        horizons_days=horizons,
        churn_window_days=churn,
        explain_days=explained,
        alias=alias,
        shop=shop,
        own_context=_own_context(crowd.inputs) if shop is None else None,
        timely=as_of is not None,
    )


def _own_context(inputs: Sequence[CustomerInput]) -> FloatArray | None:
    """What the customers of a request say of their shop; None if they are too few."""
    known = [each.customer for each in inputs if not each.cold_start]
    if len(inputs) < OWN_CONTEXT_FROM or len(known) < KNOWN_CONTEXT_FROM:
        return None
    return context_of(known)


class Parameters:
    """`parameters` that ask for customers, read with their defaults."""

    def __init__(
        self, raw: object, known: frozenset[str], limits: Settings, issues: Issues
    ) -> None:
        self._given = given = Given(raw, known, limits, issues)
        self._raw, self._place, self._issues = given.raw, given.place, issues

    def clock(self) -> Clock:
        raw = self._raw.get("timezone")
        if raw is None:
            return Clock()
        try:
            return Clock(zone_of(raw if isinstance(raw, str) else shown(raw)))
        except ValueError:
            msg = f'must be the name of a time zone such as "Europe/Berlin", not {shown(raw)}'
            self._issues.add(self._place.at("timezone"), msg, "timezone")
            return Clock()

    def as_of(self, clock: Clock) -> Moment | None:
        raw = self._raw.get("as_of")
        if raw is None:
            return None
        if isinstance(raw, str) and is_time(raw):
            return clock.moment(raw)
        msg = f'must be a time in ISO 8601 such as "2026-10-01", not {shown(raw)}'
        self._issues.add(self._place.at("as_of"), msg, "invalid_time")
        return None

    def horizons(self) -> tuple[int, ...]:
        raw = self._raw.get("horizons_days")
        if raw is None:
            return HORIZONS
        place = self._place.at("horizons_days")
        if not isinstance(raw, list) or not 0 < len(raw) <= MOST_HORIZONS:
            msg = f"must be a list of 1 to {MOST_HORIZONS} numbers of days such as [7, 30, 90]"
            self._issues.add(place, msg, "horizons_days")
            return HORIZONS
        good = [
            self._issues.whole(each, place.at(number), most=LONGEST_DAYS)
            for number, each in enumerate(raw)
        ]
        if None in good:
            return HORIZONS
        if len(set(raw)) < len(raw):
            again = next(n for n, each in enumerate(raw) if each in raw[:n])
            self._issues.add(place.at(again), f"{raw[again]} comes twice", "repeated_horizon")
        return tuple(raw)

    def explained(self, horizons: Sequence[int]) -> int | None:
        """The horizon to be explained: the one that is named, or else the longest."""
        wanted = self._given.flag("explain")
        raw = self._raw.get("explain_days")
        if raw is None:
            return max(horizons) if wanted else None
        place = self._place.at("explain_days")
        if raw not in horizons or type(raw) is not int:
            listed = ", ".join(map(str, horizons))
            msg = f"must be one of horizons_days ({listed}), not {shown(raw)}"
            self._issues.add(place, msg, "explain_days")
        elif not wanted:
            self._issues.add(place, "is without effect unless explain is true", "explain_days")
        return raw if wanted else None

    def days(self, name: str) -> int | None:
        return self._given.whole(name, most=LONGEST_DAYS)

    def shop(self) -> str | None:
        raw = self._raw.get("shop")
        if raw is None or (isinstance(raw, str) and SHOP.fullmatch(raw)):
            return raw
        self._issues.add(self._place.at("shop"), f"{SHOP_WORDS}, not {shown(raw)}", "shop")
        return None

    def model(self) -> str:
        """An alias, or a version number as text."""
        return self._given.model()


# --- from results to words


def render(
    question: PurchaseQuestion, profile: Profile | None, prediction: Prediction[PurchaseForecast]
) -> bytes:
    """The answer as JSON."""
    crowd = question.crowd
    pairs = zip(crowd.inputs, prediction.results, strict=True)
    keys = [str(days) for days in question.horizons_days]
    meta: dict[str, Any] = {"context": _context_name(question, profile)}
    if profile is not None:
        meta["profile"] = {"shop": profile.shop, "version": profile.version}
    meta["as_of"] = crowd.as_of.written()
    meta["cached"] = prediction.cached
    meta["truncated"] = [each.customer.truncated for each in crowd.inputs]
    answer = {
        "model": {"name": prediction.name, "version": prediction.version},
        "predictions": [_prediction(each, made, keys, crowd.as_of) for each, made in pairs],
        "meta": meta,
        "warnings": [
            {"loc": each.loc, "msg": each.msg, "type": each.type} for each in crowd.warnings
        ],
    }
    return orjson.dumps(answer, option=NUMPY)


def _prediction(
    asked: CustomerInput, made: PurchaseForecast, keys: list[str], as_of: Moment
) -> dict[str, Any]:
    """One prediction: each key in plural has the horizons asked for."""
    answer: dict[str, Any] = {}
    if asked.customer_id is not None:
        answer["customer_id"] = asked.customer_id
    answer["purchase_probability"] = dict(zip(keys, _told(made.probability), strict=True))
    answer["churn_probability"] = np.float32(made.churn)
    answer["expected_purchases"] = dict(zip(keys, _told(made.purchases), strict=True))
    answer["expected_spend"] = dict(zip(keys, _told(made.spend), strict=True))
    answer["cold_start"] = asked.cold_start
    if made.explanation is not None:
        answer["explanation"] = _explanation(asked, made.explanation, as_of)
    return answer


def _told(values: FloatArray) -> Numbers:
    """float32, which is written in few digits; rounding keeps the order. NaN is written null."""
    return values.astype(np.float32)


def _explanation(asked: CustomerInput, why: Explanation, as_of: Moment) -> dict[str, Any]:
    """Contributions to the log-odds that add up, the events oldest first."""
    customer = asked.customer
    triples = zip(customer.days_ago.tolist(), customer.types.tolist(), why.events, strict=True)
    total = why.base + float(why.events.sum()) + sum(why.traits.values())
    return {
        "horizon_days": int(why.days),
        "log_odds": total,
        "base": why.base,
        "traits": why.traits,
        "events": [
            {"type": EVENT_TYPES[code], "at": _at(as_of, days), "contribution": moved}
            for days, code, moved in triples
        ],
    }


def _at(as_of: Moment, days_ago: float) -> str:
    """When an event was, to the second, written like as_of."""
    local = as_of.local - timedelta(seconds=round(days_ago * 86_400))
    return replace(as_of, local=local).written()
