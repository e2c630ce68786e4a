"""Who foretells purchases for the command line: a server over HTTP, or the checkpoint here.

Invariant: answers come in the order of the customers. The context of their shop is that of all
customers of the file here; a server makes it from each request, over which they are spread evenly,
or has it stored.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from app.errors import ShopcastError
from app.event_tables import Known, iso_of
from app.forecasters import Server
from app.moments import Clock
from app.predictor import Predictor
from app.profiles import Profiles
from app.registry import PURCHASE
from models.base import Customer, FloatArray, PurchaseForecast, PurchaseTask
from models.customers import context_of

OWN_CONTEXT_FROM = 200  # customers that make a context, as in a request
AT_ONCE = 1000  # customers a request
EVENTS_AT_ONCE = 200_000
MOST_SENT = 40_960  # events of a customer that a server reads by default

Done = Callable[[int], None]


@dataclass(frozen=True, slots=True)
class PurchaseAsk:
    """What is wanted of every customer. shop: whose stored profile is the context."""

    horizons_days: tuple[int, ...]
    churn_window_days: int
    shop: str | None = None
    model: str = "production"


@dataclass(frozen=True, slots=True, eq=False)
class Foretold:
    """probability, purchases, spend: (customers, horizons), NaN where no amount is known.

    churn: (customers,). context: where what is known of the shop came from.
    """

    names: tuple[str, ...]
    probability: FloatArray
    purchases: FloatArray
    spend: FloatArray
    churn: FloatArray
    version: int | str
    context: str


class Foreteller(Protocol):
    """Answers for all customers of a file."""

    async def foretell(self, known: Known, ask: PurchaseAsk, done: Done) -> Foretold:
        """done: is told how many are answered. Raises ShopcastError."""


@dataclass(frozen=True, slots=True, eq=False)
class LocalForeteller:
    """The checkpoint of the settings, in this process."""

    purchases: Predictor[PurchaseTask, PurchaseForecast]
    profiles: Profiles
    most_events: int

    async def foretell(self, known: Known, ask: PurchaseAsk, done: Done) -> Foretold:
        customers = known.customers(most_events=self.most_events)
        context, name = await self._context(customers, known, ask)
        tasks = tasks_of(customers, known.as_of_days, ask, context)
        forecasts: list[PurchaseForecast] = []
        version = 0
        for start in range(0, len(tasks), AT_ONCE):
            part = tasks[start : start + AT_ONCE]
            made = await self.purchases.predict(PURCHASE, part, alias=ask.model, bulk=True)
            forecasts.extend(made.results)
            version = made.version
            done(len(forecasts))
        return foretold_of(known.names, forecasts, version=version, context=name)

    async def _context(
        self, customers: Sequence[Customer], known: Known, ask: PurchaseAsk
    ) -> tuple[FloatArray | None, str]:
        if ask.shop is not None:
            profile = await self.profiles.get(ask.shop)
            as_of = Clock().moment(iso_of(known.as_of_days))
            if as_of.is_before(profile.data_until):
                message = "is before the end of the profile's data, which would tell of the future"
                raise ShopcastError(f"--as-of {as_of.written()} {message}")
            return profile.context, "profile"
        if len(customers) < OWN_CONTEXT_FROM:
            return None, "prior"
        return context_of(customers), "file"


@dataclass(frozen=True, slots=True, eq=False)
class RemoteForeteller:
    """A running service."""

    server: Server

    async def foretell(self, known: Known, ask: PurchaseAsk, done: Done) -> Foretold:
        count = len(known.rows)
        parts = max(-(-count // AT_ONCE), -(-int(known.events.sum()) // EVENTS_AT_ONCE), 1)
        values = np.full((count, 3 * len(ask.horizons_days) + 1), np.nan)
        answered, version, context = 0, 0, "prior"
        for number in range(parts):
            places = range(number, count, parts)  # each is a fair sample of the file
            body = await self._ask(known, places, ask)
            try:
                values[places] = [_numbers(each, ask) for each in body["predictions"]]
                version, context = body["model"]["version"], body["meta"]["context"]
            except (KeyError, TypeError, ValueError) as error:
                where = self.server.client.base_url
                raise ShopcastError(
                    f"{where} answered something else than purchases; is it Shopcast?"
                ) from error
            answered += len(places)
            done(answered)
        probability, purchases, spend = np.split(values[:, :-1], 3, axis=1)
        names = tuple(known.names)
        return Foretold(names, probability, purchases, spend, values[:, -1], version, context)

    async def _ask(self, known: Known, places: range, ask: PurchaseAsk) -> dict[str, Any]:
        names = [known.table.customers[known.rows[place]] for place in places]
        parameters: dict[str, Any] = {
            "as_of": iso_of(known.as_of_days),
            "horizons_days": list(ask.horizons_days),
            "churn_window_days": ask.churn_window_days,
            "model": ask.model,
        }
        if ask.shop is not None:
            parameters["shop"] = ask.shop
        inputs = known.inputs(places, most_events=MOST_SENT)
        body = {"inputs": inputs, "parameters": parameters}
        return await self.server.post("/predict/purchase-probability", body, names)


def tasks_of(
    customers: Sequence[Customer],
    as_of_days: float,
    ask: PurchaseAsk,
    context: FloatArray | None,
) -> list[PurchaseTask]:
    """What is asked of each customer."""
    as_of = Clock().moment(iso_of(as_of_days))
    return [
        PurchaseTask(
            customer=each,
            context=context,
            year_phase=as_of.year_phase,
            weekday=as_of.local.weekday(),
            horizons_days=tuple(map(float, ask.horizons_days)),
            churn_window_days=float(ask.churn_window_days),
        )
        for each in customers
    ]


def foretold_of(
    names: Sequence[str], forecasts: Sequence[PurchaseForecast], *, version: int, context: str
) -> Foretold:
    return Foretold(
        names=tuple(names),
        probability=np.stack([each.probability for each in forecasts]),
        purchases=np.stack([each.purchases for each in forecasts]),
        spend=np.stack([each.spend for each in forecasts]),
        churn=np.array([each.churn for each in forecasts]),
        version=version,
        context=context,
    )


def _numbers(prediction: dict[str, Any], ask: PurchaseAsk) -> list[float]:
    keys = [str(days) for days in ask.horizons_days]
    parts = ("purchase_probability", "expected_purchases", "expected_spend")
    values = [prediction[part][key] for part in parts for key in keys]
    numbers = [np.nan if value is None else float(value) for value in values]
    return [*numbers, float(prediction["churn_probability"])]
