"""A backtest of a file: its items, the methods asked for, and the network as the service runs it.

Invariant: the network's forecasts take the road of every other forecast of the command line
(`Forecaster`), so what is scored is what a caller would have been answered.
"""

import asyncio
from collections.abc import Callable, Collection, Sequence
from dataclasses import replace

import pandas as pd

from app.errors import ConfigurationError, ShopcastError
from app.forecasters import Ask, Forecaster
from app.histories import Histories, History
from app.periods import parse_freq
from app.tables import Columns, refuse
from models import baselines
from models.backtest import (
    Backtest,
    BacktestError,
    Batch,
    Method,
    Plan,
    Record,
    Window,
    run,
    season_of,
    windows_of,
)
from models.base import Covariate, FloatArray, ModelError

NETWORK = "shopcast"
PLAIN = "shopcast without covariates"
METHODS = (NETWORK, *baselines.methods())
EXAMPLES = 4

Progress = Callable[[str, int], None]


def past_of(columns: Columns) -> Columns:
    """The columns as a backtest reads them: of covariates known ahead the past is enough."""
    known = columns.known_past + columns.known_future
    return replace(columns, known_past=known, known_future=())


def records_of(histories: Histories, columns: Columns) -> list[Record]:
    """The items of a file; what it names or was seen to be known ahead is so at every origin."""
    return [
        Record(
            item=history.item,
            times=history.times,
            target=history.target,
            covariates=tuple(_marked(one, columns.known_future) for one in history.covariates),
        )
        for history in histories.items
    ]


def _marked(covariate: Covariate, known_future: Collection[str]) -> Covariate:
    ahead = covariate.name in known_future or covariate.future is not None
    return Covariate(covariate.name, covariate.past, covariate.past if ahead else None)


def plan_of(freq: str, horizon: int, *, origins: int, step: int | None) -> Plan:
    """The plan of a file on a calendar."""
    alias = parse_freq(freq).freqstr  # as pandas spells it today
    return Plan(alias, horizon, origins, step, season_of(alias))


def chosen(names: Sequence[str], records: Sequence[Record]) -> list[str]:
    """The methods to run, seasonal naive first; raises ConfigurationError for an unknown one."""
    for name in names:
        if name not in METHODS:
            raise ConfigurationError(f"no method {name!r}; there are {', '.join(METHODS)}")
    wanted = ["naive", *(name for name in dict.fromkeys(names) if name != "naive")]
    if NETWORK in wanted and any(record.covariates for record in records):
        wanted.insert(wanted.index(NETWORK) + 1, PLAIN)
    return wanted


def windows(records: Sequence[Record], plan: Plan) -> int:
    """How many forecasts each method makes."""
    return sum(len(batch.windows) for batch in windows_of(records, plan))


def needs_network(names: Collection[str]) -> bool:
    return NETWORK in names


async def tried(
    records: Sequence[Record],
    names: Sequence[str],
    plan: Plan,
    *,
    forecaster: Forecaster | None,
    model: str,
    on_done: Progress,
) -> Backtest:
    """The backtest, in a thread. forecaster: who answers for the network, if that is asked.

    Raises InvalidInputError, ConfigurationError, ShopcastError.
    """
    ask = Ask(plan.horizon, plan.freq, plan.levels, model)
    loop = asyncio.get_running_loop()
    try:
        methods = [_method(name, forecaster, ask, loop) for name in names]
        return await asyncio.to_thread(
            run, records, methods, plan, examples=EXAMPLES, on_done=on_done
        )
    except baselines.MissingLibraryError as error:
        raise ConfigurationError(f"{error}, or choose others with --methods") from error
    except BacktestError as error:
        raise refuse(str(error)) from error
    except ModelError as error:
        raise ShopcastError(str(error)) from error


def _method(
    name: str, forecaster: Forecaster | None, ask: Ask, loop: asyncio.AbstractEventLoop
) -> Method:
    if name not in {NETWORK, PLAIN}:
        return baselines.methods()[name]()
    if forecaster is None:
        raise ConfigurationError("nobody answers for the network")
    answering = forecaster

    def forecast(batch: Batch) -> list[FloatArray]:
        histories = [_history(window, covariates=name == NETWORK) for window in batch.windows]
        answer = asyncio.run_coroutine_threadsafe(answering.forecast(histories, ask), loop)
        return [made.quantiles for made in answer.result().forecasts]

    return Method(name, forecast)


def _history(window: Window, *, covariates: bool) -> History:
    beside = tuple(map(_known, window.covariates)) if covariates else ()
    return History(window.item, window.times, window.history, beside)


def _known(covariate: Covariate) -> Covariate:
    """As past alone where its future has holes, which no forecast may have."""
    if covariate.future is None or not pd.isna(covariate.future).any():
        return covariate
    return replace(covariate, future=None)
