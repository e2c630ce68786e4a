"""A network that echoes, whose time, failures and memory a test holds in its hands."""

import asyncio
import math
import threading
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from app.batcher import MicroBatcher
from app.metrics import Metrics
from app.settings import Settings
from models.base import (
    Explanation,
    OutOfMemoryError,
    PurchaseForecast,
    PurchaseTask,
    SeriesForecast,
    SeriesResult,
    SeriesTask,
    Work,
)

PATIENCE_S = 30.0  # far beyond what any of these tests takes; only a bug waits so long


@dataclass(frozen=True, slots=True)
class Word:
    """A task: what is echoed, and what it costs."""

    value: int
    length: int = 16
    rows: int = 1
    lane: int = 0


@dataclass(eq=False)
class Echo:
    """Answers each word with its value; notes every batch it was asked for."""

    fingerprint: str = "echo"
    poison: set[int] = field(default_factory=set)
    deadly: set[int] = field(default_factory=set)
    broken: bool = False
    memory_rows: int = 1_000_000
    surplus: int = 0  # results too many
    pace_s: float = 0.0  # that a batch takes
    batches: list[list[Word]] = field(default_factory=list)
    doors: dict[int, threading.Event] = field(default_factory=dict)
    entered: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(0))
    threads: int = 1  # that may call at the same time
    busy: threading.Semaphore = field(init=False)

    def __post_init__(self) -> None:
        self.busy = threading.Semaphore(self.threads)

    def lane(self, task: Word) -> int:
        return task.lane

    def work(self, task: Word) -> Work:
        return Work(rows=task.rows, length=task.length)

    def predict(self, tasks: Sequence[Word]) -> list[int]:
        assert self.busy.acquire(blocking=False), "called from too many threads at a time"
        try:
            return self._predict(tasks)
        finally:
            self.busy.release()

    def _predict(self, tasks: Sequence[Word]) -> list[int]:
        self.batches.append(list(tasks))
        self.entered.release()
        values = [task.value for task in tasks]
        time.sleep(self.pace_s)
        for door in [self.doors[value] for value in values if value in self.doors]:
            assert door.wait(PATIENCE_S)
        if self.deadly.intersection(values):
            raise SystemExit
        if sum(task.rows for task in tasks) > self.memory_rows:
            raise OutOfMemoryError("no room on the device")
        if self.broken or self.poison.intersection(values):
            raise ValueError(f"secret: {values}")
        return values + values[:1] * self.surplus

    @property
    def values(self) -> list[list[int]]:
        return [[task.value for task in batch] for batch in self.batches]

    def shut(self, value: int) -> None:
        """Hold the batch that has this value in it."""
        self.doors[value] = threading.Event()

    def open(self, *values: int) -> None:
        """Let the batches go that are held for these values; all of them without any."""
        for value in values or list(self.doors):
            self.doors[value].set()

    async def begun(self) -> None:
        """Wait until a batch has begun that was not waited for yet."""
        assert await asyncio.to_thread(self.entered.acquire, timeout=PATIENCE_S)

    async def occupy(self, batcher: MicroBatcher) -> asyncio.Future[Any]:
        """Keep the engine busy until opened, so that what comes next has to wait."""
        self.shut(-1)
        first = batcher.submit(self, [Word(-1)])
        await self.begun()
        return first


@asynccontextmanager
async def running(
    metrics: Metrics | None = None,
    *,
    threads: int = 1,
    stuck_s: float = 30.0,
    restart_s: float = 0.0,
    **settings: Any,
) -> AsyncIterator[MicroBatcher]:
    """A batcher at work."""
    batcher = MicroBatcher(
        Settings(**settings),
        metrics or Metrics(),
        threads=threads,
        stuck_s=stuck_s,
        restart_s=restart_s,
    )
    await batcher.start()
    try:
        yield batcher
    finally:
        await batcher.close(PATIENCE_S)


def value_of(metrics: Metrics, name: str, /, **labels: str) -> float:
    """A metric as a scrape sees it."""
    value = metrics.registry.get_sample_value(name, labels)
    assert value is not None, f"there is no {name}"
    return value


@dataclass(eq=False)
class LastValue:
    """Forecasts the last value of a history, by way of an Echo that holds time and failures."""

    fingerprint: str = "last"
    echo: Echo = field(default_factory=Echo)

    def lane(self, task: SeriesTask) -> int:
        return task.prediction_length

    def work(self, task: SeriesTask) -> Work:
        return Work(rows=len(task.series), length=task.series[0].target.shape[1])

    def predict(self, tasks: Sequence[SeriesTask]) -> list[SeriesResult]:
        values = self.echo.predict([Word(int(task.series[0].target[0, -1])) for task in tasks])
        return [_constant(task, value / 3) for task, value in zip(tasks, values, strict=True)]


def _constant(task: SeriesTask, value: float) -> SeriesResult:
    shape = (1, len(task.quantile_levels), task.prediction_length)
    return (SeriesForecast(np.full(shape, value), np.full(shape[::2], value)),)


@dataclass(frozen=True, slots=True)
class RatesDescription:
    checkpoint: str = "rates"
    architecture: str = "Poisson"
    parameters: int = 2
    device: str = "cpu"
    dtype: str = "float64"


@dataclass(eq=False)
class Rates:
    """Foretells that each customer goes on as before: purchases at a constant rate.

    Where a shop is known, its context moves the rate a little; the day of the year does not.
    """

    fingerprint: str = "ab" * 32
    batches: list[int] = field(default_factory=list)

    def describe(self) -> RatesDescription:
        return RatesDescription()

    def lane(self, task: PurchaseTask) -> bool:
        return task.explain_days is not None

    def work(self, task: PurchaseTask) -> Work:
        return Work(rows=1, length=len(task.customer.days_ago) + 1)

    def predict(self, tasks: Sequence[PurchaseTask]) -> list[PurchaseForecast]:
        self.batches.append(len(tasks))
        return [_going_on(task) for task in tasks]


def _going_on(task: PurchaseTask) -> PurchaseForecast:
    customer = task.customer
    shop = 0.0 if task.context is None else float(np.tanh(task.context.mean()))
    rate = 0.01 * (1 + 0.1 * shop)
    if customer.purchase_days:
        rate = customer.purchase_days / max(customer.first_days_ago, 1.0)
    purchases = rate * np.array(task.horizons_days)
    amount = customer.spend / customer.spend_days if customer.spend_days else math.nan
    return PurchaseForecast(
        probability=-np.expm1(-purchases),
        churn=math.exp(-rate * task.churn_window_days),
        purchases=purchases,
        spend=purchases * amount,
        explanation=None if task.explain_days is None else _why(task, rate),
    )


def _why(task: PurchaseTask, rate: float) -> Explanation:
    assert task.explain_days is not None
    probability = -math.expm1(-rate * task.explain_days)
    total, events = math.log(probability / (1 - probability)), len(task.customer.days_ago)
    moved = np.full(events, 0.5 / max(events, 1))
    traits = {"recency": 0.25, "frequency": total - 0.25 - moved.sum() + 2.0}
    return Explanation(task.explain_days, -2.0, moved, traits)
