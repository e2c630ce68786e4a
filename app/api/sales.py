"""POST /predict/sales: its words, and how they become tasks and results become words.

Invariant: predictions come in the order of `inputs`, and every key of one beside `item_id` and
`start` has the shape of `mean`.
"""

import asyncio
import time
from dataclasses import dataclass
from typing import Any

import numpy as np
import orjson
from numpy.typing import NDArray
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from app.api.bodies import parse
from app.api.deps import Watch, body_of, deadline_of, timing_of
from app.api.exchange import Exchange, exchange_of
from app.api.inputs import Ask, SalesInput, read_inputs
from app.api.issues import Issues, Place, shown
from app.api.parameters import Parameters
from app.api.questions import Reader
from app.errors import DeadlineError
from app.periods import future_start, future_times
from app.predictor import Prediction
from app.registry import SALES
from app.settings import Settings
from models.base import SeriesForecast, SeriesResult, SeriesTask

MOST_LEVELS = 100
LEVELS = (0.1, 0.5, 0.9)
IN_THREAD_FROM_VALUES = 65_536
FIELDS = frozenset({"inputs", "parameters"})
PARAMETERS = frozenset(
    (
        *("prediction_length", "quantile_levels", "freq", "model", "batch_size"),
        *("cross_learning", "non_negative", "timestamps"),
    )
)
Times = tuple[str, ...]
NUMPY = orjson.OPT_SERIALIZE_NUMPY
FLAT_LEVEL = 1000  # so many times its interval a forecast may lie from zero to fit a float32


@dataclass(frozen=True, slots=True, eq=False)
class SalesQuestion:
    """A request that is understood. tasks: each series alone, or all of them as one."""

    inputs: tuple[SalesInput, ...]
    prediction_length: int
    levels: tuple[float, ...]
    freq: str | None
    alias: str
    cross_learning: bool
    timestamps: bool
    tasks: tuple[SeriesTask, ...]


class PredictSales:
    """Quantiles and mean of what comes next, for each history.

    An ASGI application of its own: what a framework does between a route and its function costs
    as much as a cached answer.
    """

    def __init__(self, path: str, reader: Reader[SalesQuestion]) -> None:
        self._path, self._reader = path, reader

    async def __call__(self, scope: Scope, receive: Receive, _: Send) -> None:
        exchange = exchange_of(scope)
        exchange.route = self._path
        deadline_s = deadline_of(exchange)
        body = await body_of(exchange, receive, deadline_s)
        question = await self._reader.question(body, exchange, deadline_s)
        validated_s = time.perf_counter()
        prediction = await _predict(question, exchange, receive, left_s=deadline_s - validated_s)
        predicted_s = time.perf_counter()
        answer = await _render(question, prediction)
        exchange.model = f"{prediction.name}/{prediction.version}"
        exchange.timing = timing_of(
            prediction,
            validate_s=validated_s - exchange.began_s,
            serialize_s=time.perf_counter() - predicted_s,
        )
        await exchange.answer(answer)


async def _predict(
    question: SalesQuestion, exchange: Exchange, receive: Receive, *, left_s: float
) -> Prediction[SeriesResult]:
    if left_s <= 0:
        raise DeadlineError("the deadline passed before the input was read")
    with Watch(receive):
        return await exchange.resources.predictor.predict(
            SALES,
            question.tasks,
            alias=question.alias,
            timeout_s=left_s,
            caller=exchange.caller.key_id,
        )


async def _render(question: SalesQuestion, prediction: Prediction[SeriesResult]) -> bytes:
    values = len(question.inputs) * question.prediction_length * (len(question.levels) + 1)
    if values > IN_THREAD_FROM_VALUES:
        return await asyncio.to_thread(render, question, prediction)
    return render(question, prediction)


def routes() -> list[Route]:
    """The routes of one application."""
    paths, reader = ("/predict/sales", "/invocations"), Reader(read)
    return [Route(path, PredictSales(path, reader), methods=["POST"]) for path in paths]


# --- from words to a question


def read(body: bytes, limits: Settings) -> SalesQuestion:
    """What a body asks. Raises MalformedError, InvalidInputError."""
    issues = Issues()
    fields = issues.fields(parse(body), Place((), ""), FIELDS)
    if fields is None:
        issues.settle()
        raise AssertionError("settled")
    parameters = _Parameters(fields.get("parameters"), limits, issues)
    question = parameters.question(
        read_inputs(fields.get("inputs"), parameters.ask, limits, issues=issues)
    )
    issues.settle()
    _check_group(question, limits, issues)
    return question


class _Parameters:
    """`parameters`, read with their defaults; what is null counts as not given."""

    def __init__(self, raw: object, limits: Settings, issues: Issues) -> None:
        self._given = given = Parameters(raw, PARAMETERS, limits, issues)
        self._issues, self._place, self._raw = issues, given.place, given.raw
        self._levels = self._quantile_levels()
        self._alias = given.model()
        given.whole("batch_size")
        self._cross_learning = given.flag("cross_learning")
        self.ask = Ask(
            prediction_length=given.prediction_length(),
            freq=given.freq(),
            non_negative=self._non_negative(),
            timestamps=given.flag("timestamps"),
        )

    def question(self, inputs: list[SalesInput]) -> SalesQuestion:
        """All of the request; to be used only if there are no issues."""
        self._given.check_freq(inputs)
        steps, series = self.ask.prediction_length or 1, [each.series for each in inputs]
        groups = [tuple(series)] if self._cross_learning else [(each,) for each in series]
        return SalesQuestion(
            inputs=tuple(inputs),
            prediction_length=steps,
            levels=self._levels,
            freq=self.ask.freq,
            alias=self._alias,
            cross_learning=self._cross_learning,
            timestamps=self.ask.timestamps,
            tasks=tuple(SeriesTask(group, steps, self._levels) for group in groups),
        )

    def _non_negative(self) -> bool | None:
        return None if self._raw.get("non_negative") is None else self._given.flag("non_negative")

    def _quantile_levels(self) -> tuple[float, ...]:
        raw = self._raw.get("quantile_levels")
        if raw is None:
            return LEVELS
        place = self._place.at("quantile_levels")
        if not isinstance(raw, list) or not 0 < len(raw) <= MOST_LEVELS:
            msg = f"must be a list of 1 to {MOST_LEVELS} levels such as [0.1, 0.5, 0.9]"
            self._issues.add(place, msg, "quantile_levels")
            return LEVELS
        good = [self._level(level, place, number) for number, level in enumerate(raw)]
        if all(good) and len(set(raw)) < len(raw):
            again = next(n for n, level in enumerate(raw) if level in raw[:n])
            self._issues.add(place.at(again), f"{raw[again]} comes twice", "repeated_level")
        return tuple(raw) if all(good) else LEVELS

    def _level(self, raw: object, place: Place, number: int) -> bool:
        if type(raw) is float and 0 < raw < 1:
            return True
        msg = f"must be a number between 0 and 1, neither of them included, not {shown(raw)}"
        self._issues.add(place.at(number), msg, "quantile_level")
        return False


def _check_group(question: SalesQuestion, limits: Settings, issues: Issues) -> None:
    """Refuse more than one group attends to."""
    series = [each.series for each in question.inputs]
    rows = sum(len(each.target) + len(each.covariates) for each in series)
    if question.cross_learning and rows > limits.max_group_rows:
        msg = (
            f"{rows:,} targets and covariates would inform one another; "
            f"at most {limits.max_group_rows:,} can: send fewer, or leave out cross_learning"
        )
        issues.add(Place(("inputs",), "inputs"), msg, "group_too_large")
    issues.settle()


# --- from results to words


def render(question: SalesQuestion, prediction: Prediction[SeriesResult]) -> bytes:
    """The answer as JSON."""
    forecasts = [forecast for result in prediction.results for forecast in result]
    cached = prediction.cached
    if question.cross_learning:
        cached = cached * len(forecasts)
    keys = [str(level) for level in question.levels]
    pairs = zip(question.inputs, forecasts, strict=True)
    warnings = [issue for each in question.inputs for issue in each.warnings]
    answer = {
        "model": {"name": prediction.name, "version": prediction.version},
        "predictions": [_prediction(each, forecast, keys, question) for each, forecast in pairs],
        "meta": {"cached": cached},
        "warnings": [{"loc": each.loc, "msg": each.msg, "type": each.type} for each in warnings],
    }
    return orjson.dumps(answer, option=NUMPY)


def _prediction(
    asked: SalesInput, forecast: SeriesForecast, keys: list[str], question: SalesQuestion
) -> dict[str, Any]:
    """One prediction: each key beside item_id and start has the shape of mean."""
    answer: dict[str, Any] = {}
    if asked.item_id is not None:
        answer["item_id"] = asked.item_id
    if asked.start is not None and question.freq is not None:
        answer["start"] = future_start(asked.start, question.freq, asked.history)
        if question.timestamps:
            answer["timestamps"] = _timestamps(asked, question)
    precision = _precision(forecast)
    mean, quantiles = forecast.mean.astype(precision), forecast.quantiles.astype(precision)
    answer["mean"] = mean if asked.nested else mean[0]
    for number, key in enumerate(keys):
        answer[key] = _nested(quantiles[:, number]) if asked.nested else quantiles[0, number]
    return answer


def _precision(forecast: SeriesForecast) -> type[np.floating[Any]]:
    """float32, which is written in few digits, unless its steps would show beside the interval."""
    low, high = forecast.quantiles.min(), forecast.quantiles.max()
    return np.float32 if max(-low, high) < FLAT_LEVEL * (high - low) else np.float64


def _nested(values: NDArray[np.floating[Any]]) -> NDArray[np.floating[Any]]:
    """Contiguous, as the serialiser needs it: (targets, steps)."""
    return np.ascontiguousarray(values)


def _timestamps(asked: SalesInput, question: SalesQuestion) -> Times | list[Times]:
    assert asked.start is not None  # noqa: S101 - checked by the caller
    assert question.freq is not None  # noqa: S101 - checked by the caller
    steps = question.prediction_length
    times = future_times(asked.start, question.freq, asked.history, steps)
    return [times] * len(asked.series.target) if asked.nested else times
