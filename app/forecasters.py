"""Who answers the command line: a server over HTTP, or the checkpoint in this process.

Invariant: both give the same forecast for the same history, in the order of the histories.
"""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass
from typing import Any, Protocol

import httpx
import numpy as np
import orjson
import pandas as pd

from app.api.inventory import plan_body
from app.errors import (
    ConfigurationError,
    InvalidInputError,
    Issue,
    ShopcastError,
    UnavailableError,
)
from app.histories import History
from app.periods import future_index
from app.resources import Resources
from models.base import CategoryArray, FloatArray, Series, SeriesForecast, SeriesTask
from models.seasonal import season_lengths

TRIES = 6  # of a request that a busy server puts off
TIMEOUT = httpx.Timeout(120.0, connect=5.0)
REFUSED = frozenset({400, 404, 413, 415, 422})


@dataclass(frozen=True, slots=True)
class Ask:
    """What is wanted of every history. levels lie in (0, 1), in ascending order."""

    prediction_length: int
    freq: str
    levels: tuple[float, ...]
    model: str = "production"


@dataclass(frozen=True, slots=True, eq=False)
class Forecast:
    """The future of one item. mean: shape (steps,); quantiles: shape (levels, steps)."""

    item: str
    times: pd.DatetimeIndex
    mean: FloatArray
    quantiles: FloatArray


@dataclass(frozen=True, slots=True, eq=False)
class Answer:
    """Forecasts, and the version that made them."""

    version: int | str
    forecasts: tuple[Forecast, ...]


@dataclass(frozen=True, slots=True)
class StockAsk:
    """What is wanted of every item with its stock."""

    prediction_length: int
    freq: str
    service_level: float
    service_type: str
    model: str = "production"


Stocks = Sequence[dict[str, Any]]


class Forecaster(Protocol):
    """Answers some histories at a time."""

    async def forecast(self, histories: Sequence[History], ask: Ask) -> Answer:
        """One forecast for each history, in order. Raises ShopcastError."""

    async def plan(
        self,
        histories: Sequence[History],
        stocks: Stocks,
        ask: StockAsk,
        population: Sequence[History] = (),
    ) -> dict[str, Any]:
        """The answer of /predict/inventory. stocks: its fields of each item's stock, in order.

        population: series that stand for an item without a history.
        """


@dataclass(frozen=True, slots=True, eq=False)
class Local:
    """The checkpoint of the settings, in this process."""

    resources: Resources

    async def plan(
        self,
        histories: Sequence[History],
        stocks: Stocks,
        ask: StockAsk,
        population: Sequence[History] = (),
    ) -> dict[str, Any]:
        body = orjson.dumps(_stock_payload(histories, stocks, ask, population))
        answer: dict[str, Any] = orjson.loads(await plan_body(body, self.resources))
        return answer

    async def forecast(self, histories: Sequence[History], ask: Ask) -> Answer:
        tasks = [_task(history, ask) for history in histories]
        made = await self.resources.predictor.predict("sales", tasks, alias=ask.model, bulk=True)
        pairs = zip(histories, made.results, strict=True)
        forecasts = tuple(_from_result(history, result[0], ask) for history, result in pairs)
        return Answer(made.version, forecasts)


@dataclass(frozen=True, slots=True, eq=False)
class Server:
    """A running service; `client` has its address."""

    client: httpx.AsyncClient

    async def forecast(self, histories: Sequence[History], ask: Ask) -> Answer:
        names = [history.item for history in histories]
        body = await self.post("/predict/sales", _payload(histories, ask), names)
        try:
            pairs = zip(histories, body["predictions"], strict=True)
            forecasts = tuple(_from_prediction(history, answer, ask) for history, answer in pairs)
            return Answer(body["model"]["version"], forecasts)
        except (KeyError, TypeError, ValueError) as error:
            raise self._odd("forecasts") from error

    async def plan(
        self,
        histories: Sequence[History],
        stocks: Stocks,
        ask: StockAsk,
        population: Sequence[History] = (),
    ) -> dict[str, Any]:
        names = [history.item for history in histories]
        payload = _stock_payload(histories, stocks, ask, population)
        body = await self.post("/predict/inventory", payload, names)
        if len(body.get("predictions", ())) != len(histories):
            raise self._odd("plans")
        return body

    async def models(self) -> list[dict[str, Any]]:
        """The models that the server answers with."""
        response = await self._send("GET", "/models")
        _raise_for_problem(response, ())
        try:
            return [dict(model) for model in response.json()["models"]]
        except (KeyError, TypeError, ValueError) as error:
            raise self._odd("models") from error

    async def post(self, path: str, body: object, names: Sequence[str]) -> dict[str, Any]:
        """The answer to a body. names: of its inputs, by which the user knows them."""
        for attempt in range(1, TRIES + 1):
            response = await self._send("POST", path, json=body)
            if response.status_code not in {429, 503} or attempt == TRIES:
                break
            await asyncio.sleep(_retry_after_s(response, default=2.0**attempt / 4))
        _raise_for_problem(response, names)
        return _object(response)

    def _odd(self, wanted: str) -> ShopcastError:
        where = self.client.base_url
        return ShopcastError(f"{where} answered something else than {wanted}; is it Shopcast?")

    async def _send(self, method: str, path: str, json: object = None) -> httpx.Response:
        try:
            return await self.client.request(method, path, json=json)
        except httpx.TimeoutException:
            message = "the server did not answer in time; try fewer items with --item"
            raise UnavailableError(message, reason="timeout") from None
        except (httpx.TransportError, httpx.InvalidURL) as error:
            where = self.client.base_url
            message = (
                f"no answer from {where} ({error}); is it running? `shopcast serve` starts one"
            )
            raise UnavailableError(message, reason="unreachable") from None


@asynccontextmanager
async def connect(url: str, *, key: str | None = None) -> AsyncIterator[Server]:
    """The server at an address like http://127.0.0.1:8000. key: what it asks callers for."""
    if not url.startswith(("http://", "https://")):
        raise ConfigurationError(f"{url!r} is no address like http://127.0.0.1:8000")
    headers = {} if key is None else {"Authorization": f"Bearer {key}"}
    async with httpx.AsyncClient(base_url=url, timeout=TIMEOUT, headers=headers) as client:
        yield Server(client)


# --- in this process


def _task(history: History, ask: Ask) -> SeriesTask:
    known = history.target[~np.isnan(history.target)]
    series = Series(
        target=history.target[np.newaxis, :],
        covariates=history.covariates,
        censored=history.out_of_stock,
        season_lengths=season_lengths(ask.freq),
        non_negative=bool((known >= 0).all()),
    )
    return SeriesTask((series,), ask.prediction_length, ask.levels)


def _from_result(history: History, result: SeriesForecast, ask: Ask) -> Forecast:
    times = future_index(history.times[-1], ask.freq, ask.prediction_length)
    return Forecast(history.item, times, result.mean[0], result.quantiles[0])


# --- over HTTP


def _payload(histories: Sequence[History], ask: Ask) -> dict[str, Any]:
    return {
        "inputs": [_input(history) for history in histories],
        "parameters": {
            "prediction_length": ask.prediction_length,
            "freq": ask.freq,
            "quantile_levels": list(ask.levels),
            "model": ask.model,
        },
    }


def _stock_payload(
    histories: Sequence[History], stocks: Stocks, ask: StockAsk, population: Sequence[History]
) -> dict[str, Any]:
    """The body. The population goes along where it is needed."""
    cold = any(history.cold for history in histories)
    likes = {"population": [_input(history) for history in population]} if cold else {}
    return {
        "inputs": [
            _input(history) | stock for history, stock in zip(histories, stocks, strict=True)
        ],
        "parameters": asdict(ask) | likes,
    }


def _input(history: History) -> dict[str, Any]:
    known = {"item_id": history.item, "start": history.times[0].isoformat()}
    past = {each.name: _cells(each.past) for each in history.covariates}
    ahead = {e.name: _cells(e.future) for e in history.covariates if e.future is not None}
    covariates = {"past_covariates": past, "future_covariates": ahead}
    short = history.out_of_stock
    return {
        **known,
        "target": _cells(history.target),
        **({} if short is None else {"out_of_stock": short.tolist()}),
        **{name: values for name, values in covariates.items() if values},
    }


def _cells(values: FloatArray | CategoryArray) -> list[Any]:
    """Values as JSON has them: missing is null."""
    return [
        None if missing else value
        for value, missing in zip(values.tolist(), pd.isna(values), strict=True)
    ]


def _from_prediction(history: History, answer: dict[str, Any], ask: Ask) -> Forecast:
    quantiles = np.array([answer[str(level)] for level in ask.levels], dtype=np.float64)
    times = future_index(history.times[-1], ask.freq, ask.prediction_length)
    return Forecast(history.item, times, np.array(answer["mean"], dtype=np.float64), quantiles)


def _retry_after_s(response: httpx.Response, *, default: float) -> float:
    try:
        return min(float(response.headers.get("Retry-After", default)), 30.0)
    except ValueError:
        return default


def _raise_for_problem(response: httpx.Response, names: Sequence[str]) -> None:
    """Raise what the server says is wrong, in its own words."""
    if response.is_success:
        return
    problem = _object(response)
    detail = str(problem.get("detail") or problem.get("title") or response.reason_phrase)
    message = f"the server answered {response.status_code}: {detail}"
    if response.status_code == 401:
        message += "; SHOPCAST_KEY or --key shows one"
    if response.status_code not in REFUSED:
        raise ShopcastError(message)
    issues = tuple(_issue(error, names) for error in problem.get("errors", ()))
    raise InvalidInputError((Issue((), message, "server"), *issues))


def _object(response: httpx.Response) -> dict[str, Any]:
    """The JSON object of a body, empty if it has none."""
    try:
        body = response.json()
    except ValueError:
        return {}
    return body if isinstance(body, dict) else {}


def _issue(error: dict[str, Any], names: Sequence[str]) -> Issue:
    loc = list(error.get("loc", ()))
    if len(loc) > 1 and loc[0] == "inputs" and isinstance(loc[1], int) and loc[1] < len(names):
        loc[1] = names[loc[1]]
    where = " → ".join(str(part) for part in loc)
    return Issue(tuple(loc), f"{where}: {error.get('msg', '')}", "server")
