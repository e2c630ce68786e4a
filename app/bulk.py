"""Forecasts of a whole dataset into a file: the road of a `predict` job.

Invariant: one version answers all of it, as the service would answer each, and a part that is
written is never computed again, whoever goes on with the job.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from app.contents import EventContents, SeriesContents
from app.customer_subject import load_customers
from app.desk import Desk, Facts, Road, Steps, Told
from app.errors import JobError
from app.histories import History
from app.lineage import usual_horizon
from app.moments import Clock, Moment
from app.periods import future_index
from app.series_subject import load_series
from app.settings import Settings
from app.stores import Stores, refusable
from models.base import FloatArray, Network, PurchaseTask, Series, SeriesTask
from models.customers import context_of
from models.seasonal import season_lengths

AT_ONCE = 256  # series or customers of a part
BATCH = {"sales": 32, "purchase": 256}  # answered at once; so many fit a processor's caches
ROWS_AT_ONCE = 1 << 20
PARTS = "parts"
FILE = "forecasts.parquet"
FEWEST_CUSTOMERS = 200  # that say enough of their shop

TaskT = TypeVar("TaskT")
ResultT = TypeVar("ResultT")


def _steps(desk: Desk) -> Steps:
    bulk = _Bulk(desk)
    return {"read": bulk.read, "predict": bulk.predict, "write": bulk.write}


PREDICT = Road({"read": 3, "predict": 92, "write": 5}, _steps)


class _Bulk:
    """The steps of one file of forecasts."""

    def __init__(self, desk: Desk) -> None:
        self.desk, self.job = desk, desk.job
        self.stores = Stores(desk)

    def read(self) -> Facts:
        """Pin the version that answers all of it."""
        dataset = self.stores.datasets.read(self.job.dataset_id or "")
        wanted = "series" if self.job.model == "sales" else "events"
        if dataset.kind != wanted:
            raise JobError(
                f"the dataset {dataset.id} holds {dataset.kind}; {self.job.model} needs {wanted}"
            )
        number = self.stores.version_of(self.job.model, self.job.details["version"])
        self.desk.note(f"{dataset.rows:,} rows, answered by version {number} of {self.job.model}")
        return {"version": number, "rows": dataset.rows}

    def predict(self) -> Facts:
        """Write the parts that are not there yet."""
        parts = self.desk.state / PARTS
        parts.mkdir(parents=True, exist_ok=True)
        forecasts = self._series() if self.job.model == "sales" else self._customers()
        count = 0
        for number, (share, make) in enumerate(forecasts):
            path = parts / f"{number:06}.parquet"
            if not path.exists():
                table = refusable(make)
                aside = path.with_suffix(".aside")
                pq.write_table(table, aside, compression="zstd")
                aside.rename(path)
            count += 1
            self.desk.tell(Told(share))
        return {"parts": count}

    def write(self) -> Facts:
        """Join the parts into one file."""
        paths = sorted((self.desk.state / PARTS).glob("*.parquet"))
        if not paths:
            raise JobError(f"the dataset {self.job.dataset_id} has nothing to forecast")
        aside = self.desk.state / FILE
        rows = 0
        with pq.ParquetWriter(aside, pq.read_schema(paths[0]), compression="zstd") as writer:
            for path in paths:
                table = pq.read_table(path)
                writer.write_table(table)
                rows += len(table)
        aside.rename(self.desk.directory / FILE)
        self.desk.note(f"{rows:,} rows of forecasts")
        return {"file": FILE, "rows": rows}

    def _series(self) -> Iterator[tuple[float, Callable[[], pa.Table]]]:
        contents = self.stores.datasets.series(self.job.dataset_id or "")
        network = load_series(self.desk, self._checkpoint())
        ask = _Ask.of(self.job.details, contents.freq, self.desk.settings)

        def make(first: int, last: int) -> pa.Table:
            return _table_of_series(contents, (first, last), ask, network)

        yield from _parts(contents.shelf.spans(AT_ONCE, ROWS_AT_ONCE), contents.shelf.things, make)

    def _customers(self) -> Iterator[tuple[float, Callable[[], pa.Table]]]:
        settings, details = self.desk.settings, self.job.details
        contents = self.stores.datasets.events(self.job.dataset_id or "")
        as_of = Clock().moment(details["as_of"]) if details["as_of"] else contents.until()
        network = load_customers(self.desk, self._checkpoint())
        crowd = self._crowd(contents, as_of)
        context = context_of(crowd) if len(crowd) >= FEWEST_CUSTOMERS else None
        horizons = tuple(sorted(set(details["horizons_days"])))

        def make(first: int, last: int) -> pa.Table:
            found = contents.customers(first, last, as_of, most_events=settings.max_events)
            tasks = [
                PurchaseTask(
                    customer=one,
                    context=context,
                    year_phase=as_of.year_phase,
                    weekday=as_of.local.weekday(),
                    horizons_days=tuple(map(float, horizons)),
                    churn_window_days=float(details["churn_window_days"]),
                )
                for _, one in found
            ]
            return _table_of_customers([name for name, _ in found], horizons, tasks, network)

        yield from _parts(contents.shelf.spans(AT_ONCE, ROWS_AT_ONCE), contents.shelf.things, make)

    def _crowd(self, contents: EventContents, as_of: Moment) -> Any:  # noqa: ANN401 - a Population
        most = self.desk.settings.max_customers
        try:
            return contents.population(as_of, most_customers=most)
        except ValueError as error:
            raise JobError(f"the dataset {self.job.dataset_id}: {error}") from error

    def _checkpoint(self) -> Any:  # noqa: ANN401 - a Checkpoint
        number = self.desk.facts["read"]["version"]
        return self.stores.versions.checkpoint_of(self.job.model, number)


@dataclass(frozen=True, slots=True)
class _Ask:
    """What is wanted of every series. most_history: periods kept of a longer one."""

    freq: str
    horizon: int
    levels: tuple[float, ...]
    most_history: int

    @classmethod
    def of(cls, details: dict[str, Any], freq: str, settings: Settings) -> "_Ask":
        horizon = details["prediction_length"] or usual_horizon(freq)
        return cls(freq, horizon, tuple(details["quantile_levels"]), settings.max_history)


def _parts(
    spans: Iterable[tuple[int, int]], things: int, make: Callable[[int, int], pa.Table]
) -> Iterator[tuple[float, Callable[[], pa.Table]]]:
    """Each part as the share that is done after it, and what makes it."""
    for first, last in spans:
        yield last / things, lambda first=first, last=last: make(first, last)  # type: ignore[misc]


def _table_of_series(
    contents: SeriesContents,
    span: tuple[int, int],
    ask: _Ask,
    network: Network[SeriesTask, Any],
) -> pa.Table:
    """(series × horizon) rows: item_id, timestamp, mean and a column for each level."""
    histories = contents.histories(*span, prediction_length=ask.horizon)
    answers = _answers(network, [_task(each, ask) for each in histories], at_once=BATCH["sales"])
    forecasts = [answer[0] for answer in answers]
    times = [future_index(each.times[-1], ask.freq, ask.horizon) for each in histories]
    columns: dict[str, Any] = {
        "item_id": pa.array(
            [each.item for each in histories for _ in range(ask.horizon)], pa.string()
        ),
        "timestamp": pa.array([time for each in times for time in each], pa.timestamp("us")),
        "mean": _flat([each.mean[0] for each in forecasts]),
    }
    for place, level in enumerate(ask.levels):
        columns[str(level)] = _flat([each.quantiles[0][place] for each in forecasts])
    return pa.table(columns)


def _table_of_customers(
    names: Sequence[str],
    horizons: Sequence[int],
    tasks: Sequence[PurchaseTask],
    network: Network[PurchaseTask, Any],
) -> pa.Table:
    """A row for each customer: probability, purchases and spend by horizon, and churn."""
    found = _answers(network, tasks, at_once=BATCH["purchase"])
    columns: dict[str, Any] = {"customer_id": pa.array(list(names), pa.string())}
    for name, said in (
        ("purchase_probability", [each.probability for each in found]),
        ("expected_purchases", [each.purchases for each in found]),
        ("expected_spend", [each.spend for each in found]),
    ):
        for place, days in enumerate(horizons):
            columns[f"{name}_{days}"] = _flat([each[place : place + 1] for each in said])
    columns["churn_probability"] = _flat([np.array([each.churn]) for each in found])
    return pa.table(columns)


def _flat(parts: Sequence[FloatArray]) -> pa.Array:
    """One column; NaN, where nothing is known, is null."""
    whole = np.concatenate([np.asarray(part, dtype=np.float64) for part in parts] or [np.empty(0)])
    return pa.array(whole, pa.float64(), from_pandas=True)


def _task(history: History, ask: _Ask) -> SeriesTask:
    known = history.target[~np.isnan(history.target)]
    cut = max(0, len(history.target) - ask.most_history)
    series = Series(
        target=history.target[np.newaxis, cut:],
        covariates=tuple(replace(each, past=each.past[cut:]) for each in history.covariates),
        season_lengths=season_lengths(ask.freq),
        non_negative=bool((known >= 0).all()),
    )
    return SeriesTask((series,), ask.horizon, ask.levels)


def _answers(
    network: Network[TaskT, ResultT], tasks: Sequence[TaskT], *, at_once: int
) -> list[ResultT]:
    """Answers in order, computed in batches of like length."""
    order = sorted(range(len(tasks)), key=lambda place: network.work(tasks[place]).length)
    found: dict[int, ResultT] = {}
    for start in range(0, len(order), at_once):
        places = order[start : start + at_once]
        found |= dict(zip(places, network.predict([tasks[each] for each in places]), strict=True))
    return [found[place] for place in range(len(tasks))]
