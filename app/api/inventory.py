"""POST /predict/inventory: its words, and how items become plans and plans become words.

Invariant: predictions come in the order of `inputs`, each the same alone as in any company; what
an item needs is computed off the event loop, and not after its deadline.
"""

import asyncio
import math
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import orjson
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from app.api.bodies import parse
from app.api.deps import Watch, body_of, deadline_of, timing_of, turn
from app.api.exchange import Exchange, exchange_of
from app.api.inputs import FIELDS as SALES_FIELDS
from app.api.inputs import Ask, SalesInput, named, read_inputs
from app.api.issues import Issues, Place, shown
from app.api.parameters import Parameters
from app.api.questions import Reader
from app.api.stock import FIELDS as STOCK_FIELDS
from app.api.stock import Calendar, Stock, read_stock
from app.errors import DeadlineError, Issue
from app.periods import future_start, future_times, period_days
from app.planning import Layout, StockItem, StockPlan, lay_out, plan_item
from app.predictor import Prediction
from app.registry import SALES
from app.resources import Resources
from app.settings import Settings
from models.base import FloatArray, Series, SeriesResult
from models.inventory import CostCurve, Service, ServiceType, cover, first_likely
from models.paths import Dependence, observed

if TYPE_CHECKING:
    from models.series import SeriesDescription

PATH = "/predict/inventory"
FIELDS = frozenset({"inputs", "parameters"})
INPUT_FIELDS = SALES_FIELDS | STOCK_FIELDS
PARAMETERS = frozenset(
    (
        *("service_level", "service_type", "prediction_length", "freq", "seed", "population"),
        "model",
    )
)
DEMAND_LEVELS = (0.5, 0.9, 0.95)
STOCK_LEVELS = (0.1, 0.5, 0.9)
LARGEST_SEED = 2**63 - 1
MOST_POPULATION = 256
NUMPY = orjson.OPT_SERIALIZE_NUMPY

Json = dict[str, Any]


@dataclass(frozen=True, slots=True, eq=False)
class InventoryQuestion:
    """A request that is understood."""

    inputs: tuple[SalesInput, ...]
    stocks: tuple[Stock, ...]
    layout: Layout
    service: Service
    freq: str | None
    alias: str
    warnings: tuple[Issue, ...]


class PredictInventory:
    """When the shelf is empty, and what to order. An ASGI application of its own, like sales."""

    def __init__(self) -> None:
        self._reader = Reader(read)
        self._turns: asyncio.Semaphore | None = None

    async def __call__(self, scope: Scope, receive: Receive, _: Send) -> None:
        exchange = exchange_of(scope)
        exchange.route = PATH
        deadline_s = deadline_of(exchange)
        body = await body_of(exchange, receive, deadline_s)
        question = await self._reader.question(body, exchange, deadline_s)
        validated_s = time.perf_counter()
        if deadline_s <= validated_s:
            raise DeadlineError("the deadline passed before the input was read")
        resources = exchange.resources
        with Watch(receive):
            prediction = await resources.predictor.predict(
                SALES,
                question.layout.tasks,
                alias=question.alias,
                timeout_s=deadline_s - validated_s,
                caller=exchange.caller.key_id,
            )
            predicted_s = time.perf_counter()
            dependence = _dependence(prediction)
            async with turn(self._turn(exchange), deadline_s, before="the stock was reckoned"):
                answer = await _aside(question, prediction, dependence, deadline_s=deadline_s)
        # stock arithmetic counts as serialize: an item's JSON is made as soon as its plan is
        exchange.model = f"{prediction.name}/{prediction.version}"
        exchange.timing = timing_of(
            prediction,
            validate_s=validated_s - exchange.began_s,
            serialize_s=time.perf_counter() - predicted_s,
        )
        await exchange.answer(answer)

    def _turn(self, exchange: Exchange) -> asyncio.Semaphore:
        """So many requests are reckoned at a time as there are cores."""
        if self._turns is None:
            self._turns = asyncio.Semaphore(exchange.resources.settings.cores)
        return self._turns


async def _aside(
    question: InventoryQuestion,
    prediction: Prediction[SeriesResult],
    dependence: Dependence,
    *,
    deadline_s: float,
) -> bytes:
    """The answer, made in a thread that stops when nobody waits for it any more."""
    gone = threading.Event()

    def check() -> None:
        if gone.is_set() or time.perf_counter() > deadline_s:
            raise DeadlineError("the deadline passed before the answer was ready")

    try:
        return await asyncio.to_thread(render, question, prediction, dependence, check=check)
    finally:
        gone.set()


def _dependence(prediction: Prediction[SeriesResult]) -> Dependence:
    """How errors of the version's forecasts hang together."""
    return cast("SeriesDescription", prediction.description).dependence


async def plan_body(body: bytes, resources: Resources) -> bytes:
    """The answer to a body, without a deadline. Raises as the route does."""
    question = await asyncio.to_thread(read, body, resources.settings)
    prediction = await resources.predictor.predict(
        SALES, question.layout.tasks, alias=question.alias, bulk=True
    )
    dependence = _dependence(prediction)
    return await _aside(question, prediction, dependence, deadline_s=math.inf)


def routes() -> list[Route]:
    """The routes of one application."""
    return [Route(PATH, PredictInventory(), methods=["POST"])]


# --- from words to a question


def read(body: bytes, limits: Settings) -> InventoryQuestion:
    """What a body asks. Raises MalformedError, InvalidInputError."""
    issues = Issues()
    fields = issues.fields(parse(body), Place((), ""), FIELDS)
    if fields is None:
        issues.settle()
        raise AssertionError("settled")
    asked = _Asked(fields.get("parameters"), limits, issues)
    inputs = read_inputs(fields.get("inputs"), asked.ask, limits, issues=issues)
    stocks = asked.stocks(fields.get("inputs"))
    population = asked.population()
    issues.settle()
    question = asked.question(inputs, stocks, population)
    issues.settle()
    return question


class _Asked:
    """`parameters`, and what they make of the inputs."""

    def __init__(self, raw: object, limits: Settings, issues: Issues) -> None:
        self._given = given = Parameters(raw, PARAMETERS, limits, issues)
        self._limits, self._issues = limits, issues
        self._service = Service(self._level(), self._type())
        self._seed = self._read_seed()
        self._alias = given.model()
        self.ask = Ask(
            prediction_length=given.prediction_length(),
            freq=given.freq(),
            non_negative=True,
            timestamps=False,
            fields=INPUT_FIELDS,
            cold=True,
        )

    def stocks(self, raw: object) -> list[Stock]:
        """The stock of each input that is an object."""
        if not isinstance(raw, list) or len(raw) > self._limits.max_inputs:
            return []  # said already
        return [self._stock(each, n) for n, each in enumerate(raw) if isinstance(each, dict)]

    def population(self) -> tuple[SalesInput, ...]:
        """Series that stand for an item without a history."""
        raw, place = self._given.raw.get("population"), self._given.place.at("population")
        if raw is None:
            return ()
        if isinstance(raw, list) and len(raw) > MOST_POPULATION:
            msg = f"has {len(raw):,} series; {MOST_POPULATION} are enough"
            self._issues.add(place, msg, "too_many_series")
            return ()
        ask = replace(self.ask, fields=SALES_FIELDS, cold=False)
        read = read_inputs(raw, ask, self._limits, issues=self._issues, place=place)
        for number, each in enumerate(read):
            at = place.at(number).at("target")
            if each.nested:
                self._one_target(at)
            elif np.isnan(observed(each.series)).all():
                self._issues.add(at, "has no value; leave the series out", "no_history")
        return tuple(read)

    def question(
        self, inputs: list[SalesInput], stocks: list[Stock], population: tuple[SalesInput, ...]
    ) -> InventoryQuestion:
        """All of the request; to be used only if there are no issues so far."""
        self._given.check_freq((*inputs, *population))
        for number, each in enumerate(inputs):
            self._check_history(each, number, cold_allowed=bool(population))
        self._issues.settle()
        pairs = list(zip(inputs, stocks, strict=True))
        items = [self._item(each.series, stock) for each, stock in pairs]
        warnings = [issue for each, stock in pairs for issue in (*each.warnings, *stock.warnings)]
        return InventoryQuestion(
            inputs=tuple(inputs),
            stocks=tuple(stocks),
            layout=lay_out(items, [each.series for each in population]),
            service=self._service,
            freq=self.ask.freq,
            alias=self._alias,
            warnings=(*warnings, *(issue for each in population for issue in each.warnings)),
        )

    def _item(self, series: Series, stock: Stock) -> StockItem:
        return StockItem(
            series=series,
            position=stock.position,
            rules=stock.rules,
            service=self._service,
            prediction_length=self.ask.prediction_length or 1,
            costs=stock.costs,
            seed=self._seed,
        )

    def _stock(self, raw: Json, number: int) -> Stock:
        target = raw.get("target")
        history = len(target) if isinstance(target, list) else 0
        calendar = Calendar.read(raw.get("start"), self.ask.freq, history)
        place = Place(("inputs",), "inputs").at(number)
        return read_stock(raw, place, calendar, self._limits, issues=self._issues)

    def _check_history(self, asked: SalesInput, number: int, *, cold_allowed: bool) -> None:
        place = named(Place(("inputs",), "inputs").at(number), asked.item_id).at("target")
        if asked.nested:
            self._one_target(place)
        elif np.isnan(observed(asked.series)).all() and not cold_allowed:
            msg = (
                "has no value; send its history, or series of like items as "
                'parameters.population, as [{"target": [3, 0, 5]}]'
            )
            self._issues.add(place, msg, "no_history")

    def _one_target(self, place: Place) -> None:
        msg = "has several series; stock is planned for one, send each as an input of its own"
        self._issues.add(place, msg, "nested_target")

    def _level(self) -> float:
        raw, place = self._given.raw.get("service_level"), self._given.place.at("service_level")
        if raw is None:
            return Service().level
        if type(raw) is float and 0 < raw < 1:
            return raw
        msg = (
            f"must be a number between 0 and 1, neither of them included, not {shown(raw)}; "
            "0.95 is usual"
        )
        self._issues.add(place, msg, "service_level")
        return Service().level

    def _type(self) -> ServiceType:
        raw = self._given.raw.get("service_type")
        if raw is None or raw in ("cycle", "fill_rate"):
            return cast("ServiceType", raw or "cycle")
        msg = f'must be "cycle" or "fill_rate", not {shown(raw)}'
        self._issues.add(self._given.place.at("service_type"), msg, "service_type")
        return "cycle"

    def _read_seed(self) -> int | None:
        raw = self._given.raw.get("seed")
        if raw is None:
            return None
        place = self._given.place.at("seed")
        return self._issues.whole(raw, place, least=0, most=LARGEST_SEED)


# --- from plans to words


def render(
    question: InventoryQuestion,
    prediction: Prediction[SeriesResult],
    dependence: Dependence,
    *,
    check: Callable[[], None],
) -> bytes:
    """The answer as JSON. check: raises if it is wanted no more."""
    predictions = []
    for number in range(len(question.inputs)):
        check()
        made = plan_item(question.layout, number, prediction.results, dependence)
        predictions.append(_prediction(question, number, made))
    answer = {
        "model": {"name": prediction.name, "version": prediction.version},
        "predictions": predictions,
        "meta": {"cached": _cached(question.layout, prediction)},
        "warnings": [
            {"loc": each.loc, "msg": each.msg, "type": each.type} for each in question.warnings
        ],
    }
    return orjson.dumps(answer, option=NUMPY)


def _cached(layout: Layout, prediction: Prediction[SeriesResult]) -> list[bool]:
    """Of each input: whether all of its forecasts were known."""
    return [all(prediction.cached[part.first : part.first + part.count]) for part in layout.parts]


def _prediction(question: InventoryQuestion, number: int, made: StockPlan) -> Json:
    asked, item, plan = question.inputs[number], question.layout.items[number], made.plan
    steps, whole = item.prediction_length, made.whole
    answer: Json = {} if asked.item_id is None else {"item_id": asked.item_id}
    if asked.start is not None and question.freq is not None:
        answer["start"] = future_start(asked.start, question.freq, asked.history)
    days = cover(made.demand, item.position.on_hand)
    return answer | {
        "reorder_point": _quantity(plan.reorder_point, whole=whole),
        "order_up_to": _quantity(plan.order_up_to, whole=whole),
        "safety_stock": _short(plan.safety_stock),
        "order_quantity": _quantity(plan.order_quantity, whole=whole),
        "expected_service": _short(plan.expected_service),
        "expected_cost": None if plan.costs is None else _short(plan.costs.chosen_cost),
        "newsvendor": None if plan.costs is None else _newsvendor(plan.costs, whole=whole),
        "cost_curve": None if plan.costs is None else _curve(plan.costs, whole=whole),
        "protection_interval": _plain(item.rules.protection_interval),
        "demand": _demand(plan.demand, question.service, whole=whole),
        "days_of_cover": None if days is None else _short(days * period_days(question.freq)),
        "stockout_probability": (plan.balance.unmet[:steps] > 0).mean(axis=1),
        "first_likely_stockout": _stockout(question, number, plan.balance.unmet[:steps]),
        "on_hand": _on_hand(plan.balance.on_hand[:steps], whole=whole),
        "cold_start": item.cold,
    }


def _demand(total: FloatArray, service: Service, *, whole: bool) -> Json:
    levels = sorted({*DEMAND_LEVELS, service.level})
    ordered = np.sort(total)
    quantiles = {
        str(level): _quantity(ordered[_place(level, len(ordered))], whole=whole) for level in levels
    }
    return {"mean": _short(total.mean()), "std": _short(total.std()), **quantiles}


def _on_hand(stock: FloatArray, *, whole: bool) -> Json:
    """Mean and quantiles of each period."""
    ordered = np.sort(stock, axis=1)
    kind = np.int64 if whole and np.array_equal(stock, np.floor(stock)) else np.float32
    quantiles = {
        str(level): np.ascontiguousarray(ordered[:, _place(level, stock.shape[1])].astype(kind))
        for level in STOCK_LEVELS
    }
    return {"mean": stock.mean(axis=1).astype(np.float32), **quantiles}


def _place(level: float, count: int) -> int:
    """Of the smallest value whose share of all below or at it is at least the level."""
    return max(int(np.ceil(level * count - 1e-9)) - 1, 0)


def _newsvendor(costs: CostCurve, *, whole: bool) -> Json:
    return {
        "order_quantity": _quantity(costs.best_quantity, whole=whole),
        "expected_cost": _short(costs.best_cost),
        "service_level": _short(costs.best_service),
    }


def _curve(costs: CostCurve, *, whole: bool) -> Json:
    return {
        "order_quantity": [_quantity(each, whole=whole) for each in costs.order_quantity],
        "expected_cost": [_short(each) for each in costs.expected_cost],
    }


def _stockout(question: InventoryQuestion, number: int, unmet: FloatArray) -> str | int | None:
    """When a stock-out has become likely: its time, or without a start the number of the period."""
    period, asked = first_likely(unmet), question.inputs[number]
    if period is None or asked.start is None or question.freq is None:
        return period
    return future_times(asked.start, question.freq, asked.history, len(unmet))[period - 1]


def _quantity(value: float, *, whole: bool) -> int | float:
    """A number of units: whole where they are counted and nothing else makes them broken."""
    return int(value) if whole and float(value).is_integer() else _short(value)


def _plain(value: float) -> int | float:
    return int(value) if float(value).is_integer() else _short(value)


def _short(value: float) -> float:
    """Six significant digits: more than paths can tell."""
    return float(f"{value:.6g}")
