"""The threads that run batches: one each at a time, whatever the network throws at them.

Invariant: every item that somebody waits for is reported once, with its own result or its own
failure, unless the thread dies, hangs or finds the device broken; then `died`, `overdue` or
`broken` says so.
"""

import logging
import math
import os
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from app.backlog import Backlog, Batch, Item, Lane
from app.metrics import Metrics
from app.settings import Settings
from models.base import Network, OutOfMemoryError

OVERDUE_FACTOR = 20  # a batch that takes so many times what it should hangs
RECOVERY_BATCHES = 256  # good batches until a budget of nothing is whole again
PACE_KEPT = 0.99  # of the weight of earlier batches, with each later one
SLOWNESS_SHARE = 0.2  # weight of the latest batch in how slow they are
ALIKE = 0.01  # relative variance of sizes, up to which they tell nothing of the cost of a batch
MOST_RATES = 1024  # lanes whose speed is remembered
NICE = 5  # of engine threads, so that the event loop is late for nobody while cores are short

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, eq=False)
class Outcome:
    """A part of a batch that is done. results: one for each item, None if they failed."""

    items: Sequence[Item]
    results: Sequence[object] | None
    failure: str
    started_s: float  # time.perf_counter()
    compute_s: float


class _BrokenError(Exception):
    """The network fails on what it has answered before."""


class Budget:
    """Most rows and points a batch; halved when memory runs short, whole again in time."""

    def __init__(self, rows: int, points: int) -> None:
        self._whole = (rows, points)
        self._rows, self._points = float(rows), float(points)

    @property
    def rows(self) -> int:
        return max(1, int(self._rows))

    @property
    def points(self) -> int:
        return max(1, int(self._points))

    @property
    def ratio(self) -> float:
        """Share of the whole budget."""
        return min(self._rows / self._whole[0], self._points / self._whole[1])

    def fill(self, batch: Batch) -> float:
        """Share of the budget that a batch uses; at most 1."""
        return min(1.0, max(batch.rows / self.rows, batch.padded / self.points))

    def halve(self, batch: Batch) -> None:
        """Allow half of what was too much; one task that is too large alone says nothing of it."""
        if len(batch.items) == 1:
            return
        self._rows = max(1.0, min(self._rows, batch.rows) / 2)
        self._points = max(1.0, min(self._points, batch.padded) / 2)

    def recover(self) -> None:
        """Allow a little more, up to the whole."""
        rows, points = self._whole
        self._rows = min(rows, self._rows + rows / RECOVERY_BATCHES)
        self._points = min(points, self._points + points / RECOVERY_BATCHES)


@dataclass(slots=True)
class _Pace:
    """Seconds a batch takes, by its padded points x: a line through what was seen, and how much
    slower than it the latest batches were. Sums are of seen batches, later ones counting more.
    """

    count: float = 0.0
    x: float = 0.0
    y: float = 0.0
    xx: float = 0.0
    xy: float = 0.0
    slowness: float = 1.0

    def expect_s(self, points: int) -> float:
        """How long so many points take, in batches as most points had them."""
        fixed_s, each_s = self._line()
        return self.slowness * (fixed_s * max(1.0, points * self.x / self.xx) + each_s * points)

    def learn(self, points: int, seconds: float) -> None:
        if self.count:
            fixed_s, each_s = self._line()
            now = seconds / (fixed_s + each_s * points)
            self.slowness += SLOWNESS_SHARE * (now - self.slowness)
        self.count = PACE_KEPT * self.count + 1
        self.x = PACE_KEPT * self.x + points
        self.y = PACE_KEPT * self.y + seconds
        self.xx = PACE_KEPT * self.xx + points * points
        self.xy = PACE_KEPT * self.xy + points * seconds

    def _line(self) -> tuple[float, float]:
        """Seconds of a batch, and more for each point; neither below zero."""
        x, y = self.x / self.count, self.y / self.count
        spread = self.xx / self.count - x * x
        if spread <= ALIKE * x * x:
            return 0.0, y / x
        each_s = min(max(0.0, self.xy / self.count - x * y) / spread, y / x)
        return y - each_s * x, each_s


class Rates:
    """What batches of each lane take."""

    def __init__(self) -> None:
        self._of_lane: dict[Lane, _Pace] = {}

    def expect_s(self, lane: Lane, points: int) -> float:
        """How long so many points take; 0 as long as nothing is known."""
        pace = self._of_lane.get(lane)
        return 0.0 if pace is None else pace.expect_s(points)

    def learn(self, lane: Lane, points: int, *, seconds: float) -> None:
        pace = self._of_lane.get(lane)
        if pace is None:
            if len(self._of_lane) >= MOST_RATES:
                del self._of_lane[next(iter(self._of_lane))]
            pace = self._of_lane[lane] = _Pace()
        pace.learn(max(1, points), max(seconds, 1e-6))


class Engine:
    """Threads that take batches from the backlog, and say what became of them."""

    def __init__(  # noqa: PLR0913 - three of them are callbacks
        self,
        backlog: Backlog,
        settings: Settings,
        metrics: Metrics,
        *,
        threads: int,
        patience_s: float,
        report: Callable[[Outcome], None],
        died: Callable[[], None],
        broken: Callable[[], None],
    ) -> None:
        """The callbacks are called in the threads. threads: batches that run at the same time.
        patience_s: least time a batch is given.
        """
        self._backlog, self._metrics = backlog, metrics
        self._budget = Budget(settings.batch_rows, settings.batch_points)
        self._rates = Rates()
        self._patience_s = patience_s
        self._report, self._died, self._broken = report, died, broken
        self._proof: Item | None = None  # what was answered last
        self._due_s: dict[int, float] = {}  # by thread: when its batch should have ended
        self._ends_s: dict[int, float] = {}  # and when it should end
        self._ended_s = -math.inf  # the latest
        self._failed = False
        self._threads = [
            threading.Thread(target=self._live, name=f"engine-{number}", daemon=True)
            for number in range(threads)
        ]
        metrics.engine_budget.set_function(lambda: self._budget.ratio)

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def join(self, timeout_s: float) -> None:
        """Wait for the threads to end; the backlog has to be stopped."""
        ends_s = time.perf_counter() + timeout_s
        for thread in self._threads:
            thread.join(max(0.0, ends_s - time.perf_counter()))

    @property
    def alive(self) -> bool:
        return all(thread.is_alive() for thread in self._threads)

    @property
    def idle_s(self) -> float:
        """For how long no batch has been running; 0 while one is."""
        return 0.0 if self._ends_s else time.perf_counter() - self._ended_s

    @property
    def overdue(self) -> bool:
        """Whether a running batch hangs."""
        now_s = time.perf_counter()
        return any(now_s > due_s for due_s in list(self._due_s.values()))

    def expect_s(self, lane: Lane, points: int) -> float:
        """How long so many points of a lane take; 0 as long as nothing is known."""
        return self._rates.expect_s(lane, points)

    def left_s(self) -> float:
        """How long the batches that run should still take, of all threads together."""
        now_s = time.perf_counter()
        return sum(max(0.0, ends_s - now_s) for ends_s in list(self._ends_s.values()))

    def _live(self) -> None:
        _step_back()
        try:
            while not self._failed and (batch := self._take()):
                self._run(batch)
        except _BrokenError:
            log.critical("the network fails on what it has answered before", exc_info=True)
            self._broken()
        except BaseException:  # a thread that dies unseen leaves its callers waiting
            self._failed = True  # the others end with their batch, and a new engine comes
            log.critical("the engine died", exc_info=True)
            self._died()

    def _take(self) -> Batch | None:
        return self._backlog.take(most_rows=self._budget.rows, most_points=self._budget.points)

    def _run(self, batch: Batch) -> None:
        """Run a batch; what fails is retried in halves, so that only the culprit fails."""
        parts, answered = [batch], False
        while parts:
            part = parts.pop()
            failure = self._attempt(part)
            if failure is None:
                answered = True
            elif len(part.items) == 1:
                if not answered:
                    self._prove(part.items[0].network)
                self._metrics.poisoned_tasks.inc()
                self._report(Outcome(part.items, None, failure, time.perf_counter(), 0.0))
            else:
                parts += _halves(part)

    def _prove(self, network: Network[Any, object]) -> None:
        """Ask the network for what it could answer before.

        A device that failed for good fails every task, and would pass for a run of bad ones.
        Raises _BrokenError.
        """
        if self._proof is None or self._proof.network is not network:
            return
        try:
            self._predict([self._proof], points=self._proof.points)
        except (OutOfMemoryError, MemoryError):
            log.warning("out of memory on a task that fitted before")
        except Exception as error:
            raise _BrokenError from error

    def _attempt(self, batch: Batch) -> str | None:
        """Run and report a batch; None, or what a caller may know of its failure."""
        started_s = time.perf_counter()
        # whatever is caught is let go before a retry: its frames hold the memory that ran short
        try:
            results = self._predict(batch.items, points=batch.padded)
        except (OutOfMemoryError, MemoryError):
            log.warning("out of memory on %d rows of %d points", batch.rows, batch.length)
            self._budget.halve(batch)
            self._metrics.out_of_memory_splits.inc()
            return "the input does not fit the memory of the device"
        except Exception:
            alone = len(batch.items) == 1
            log.warning("%d tasks failed in a batch", len(batch.items), exc_info=alone)
            self._metrics.failed_batches.inc()
            return "the model could not answer this input"
        compute_s = time.perf_counter() - started_s
        self._proof = batch.items[0]
        self._learn(batch, compute_s)  # first, so that a caller finds itself counted
        self._report(Outcome(batch.items, results, "", started_s, compute_s))
        return None

    def _predict(self, items: Sequence[Item], *, points: int) -> Sequence[object]:
        """One call of the network, under watch."""
        expected_s = self._rates.expect_s(items[0].lane, points)
        allowed_s = max(self._patience_s, OVERDUE_FACTOR * expected_s)
        thread, now_s = threading.get_ident(), time.perf_counter()
        self._ends_s[thread], self._due_s[thread] = now_s + expected_s, now_s + allowed_s
        try:
            results = items[0].network.predict([item.task for item in items])
        finally:
            self._ended_s = time.perf_counter()
            self._ends_s.pop(thread, None)
            self._due_s.pop(thread, None)
        if len(results) != len(items):
            raise ValueError(f"the network gave {len(results)} results for {len(items)} tasks")
        return results

    def _learn(self, batch: Batch, compute_s: float) -> None:
        metrics = self._metrics
        metrics.rows.inc(batch.rows)
        metrics.points.inc(batch.points)
        metrics.batches.inc()
        metrics.batch_rows.observe(batch.rows)
        metrics.batch_fill.observe(self._budget.fill(batch))
        metrics.batch_padding.observe(1 - batch.points / max(1, batch.padded))
        metrics.compute_seconds.observe(compute_s)
        self._rates.learn(batch.items[0].lane, batch.padded, seconds=compute_s)
        self._budget.recover()


def _halves(batch: Batch) -> list[Batch]:
    """Both halves of a batch, without what nobody waits for any more."""
    wanted = [item for item in batch.items if item.waiters]
    middle = (len(wanted) + 1) // 2
    return [Batch.of(half) for half in (wanted[middle:], wanted[:middle]) if half]


def _step_back() -> None:
    """Let the other threads of the process go first, where a thread has a priority of its own."""
    if sys.platform == "linux":
        thread = threading.get_native_id()
        os.setpriority(os.PRIO_PROCESS, thread, os.getpriority(os.PRIO_PROCESS, thread) + NICE)
