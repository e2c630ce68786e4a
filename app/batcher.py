"""Many awaiting callers, one model call.

Invariant: every call ends, with exactly its own results or its own error, however its neighbours,
the network or the engine fare; and work that nobody waits for leaves the queue at once.

Everything here runs on the event loop; the engine's thread wakes it once a batch.
"""

import asyncio
import logging
import math
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Generic, TypeVar

from app.backlog import Backlog, Item, Lane
from app.engine import Engine, Outcome
from app.errors import (
    DeadlineError,
    InvalidInputError,
    Issue,
    PredictionError,
    ShopcastError,
    UnavailableError,
)
from app.metrics import Metrics
from app.settings import Settings
from models.base import Network

STUCK_S = 30.0
RESTART_S = 1.0
FULL_S = 0.2  # the queue counts as full so long after the latest refusal
WATCH_S = 0.5
LATE_SHARE = 0.02  # of calls, that may take longer than they were given
DOUBT_STEP = 0.1
STALE_S = 1.0  # without work, after which what is expected counts for nothing
MOST_DOUBT, TELLING = 4.0, 8.0  # the latter larger, so that what is admitted always tells
CALLER_SHARE = 0.75  # of the queue, that one key may fill

log = logging.getLogger(__name__)

TaskT = TypeVar("TaskT")
ResultT = TypeVar("ResultT")


@dataclass(frozen=True, slots=True, eq=False)
class Answer(Generic[ResultT]):
    """Results in the order of the tasks. queue_s, compute_s: of the task that was done last."""

    results: list[ResultT]
    queue_s: float
    compute_s: float


class MicroBatcher:
    """Lines up the tasks of all callers and hands out what the engine makes of them."""

    def __init__(
        self,
        settings: Settings,
        metrics: Metrics,
        *,
        threads: int = 1,
        stuck_s: float = STUCK_S,
        restart_s: float = RESTART_S,
        on_stuck: Callable[[], None] | None = None,
    ) -> None:
        """stuck_s: time without the end of a batch that is always forgiven. restart_s: pause
        before a dead engine is replaced. on_stuck: called once, when the engine hangs or its
        device is broken; a thread cannot be killed, so it should end the process.
        """
        self._settings, self._metrics = settings, metrics
        self._threads, self._stuck_s, self._restart_s = threads, stuck_s, restart_s
        self._on_stuck = on_stuck
        self._backlog = Backlog()
        self._calls: set[_Call] = set()
        self._items: dict[bytes, Item] = {}  # by key: what is waiting or running, to be joined
        self._engine: Engine | None = None
        self._down = True
        self._stuck = False
        self._closing = False
        self._refused_s = -math.inf
        self._doubt = _Doubt()
        self._timers: dict[str, asyncio.TimerHandle] = {}
        metrics.queue_tasks.set_function(lambda: self._backlog.tasks)
        metrics.queue_points.set_function(lambda: self._backlog.points)
        metrics.engine_healthy.set_function(lambda: self.healthy)

    async def start(self) -> None:
        """Start the engine on the running loop."""
        self._loop = asyncio.get_running_loop()
        self._start_engine()
        self._watch()

    async def close(self, grace_s: float) -> None:
        """Refuse what is new, finish what is queued, for `grace_s` at most."""
        self._closing = True
        loop = asyncio.get_running_loop()
        ends_s = loop.time() + grace_s
        if self._calls:
            await asyncio.wait([call.future for call in self._calls], timeout=grace_s)
        self._fail_all("the service is closing", reason="closing")
        for timer in self._timers.values():
            timer.cancel()
        self._backlog.stop()
        if self._engine is not None:
            await asyncio.to_thread(self._engine.join, max(0.0, ends_s - loop.time()))
        self._down = True

    @property
    def healthy(self) -> bool:
        """Whether the engine is alive and not stuck. A full queue is healthy."""
        alive = self._engine is not None and self._engine.alive
        return alive and not self._down and not self._stuck

    @property
    def full(self) -> bool:
        """Whether work was refused just now, since the queue takes no more of it in time."""
        return time.perf_counter() - self._refused_s < FULL_S

    def submit(
        self,
        network: Network[TaskT, ResultT],
        tasks: Sequence[TaskT],
        *,
        keys: Sequence[bytes] | None = None,
        deadline_s: float | None = None,
        bulk: bool = False,
        caller: str | None = None,
    ) -> asyncio.Future[Answer[ResultT]]:
        """Line up tasks; all of them or none. To be called on the event loop.

        keys: tasks of equal keys have equal results, so that a task whose key is already in
        flight is joined, not repeated. deadline_s: in terms of loop.time(); the future fails
        with DeadlineError then. bulk: gives way to work that is not. caller: the key that
        is asked by; keys take turns, and none may fill the queue. Cancelling the future takes what
        nobody else waits for out of the queue.

        Raises at once UnavailableError (queue_full, engine_down, closing), DeadlineError, or
        InvalidInputError if the queue could never hold the tasks. The future raises
        PredictionError if a task cannot be answered, UnavailableError if the engine fails.
        """
        self._refuse(deadline_s)
        call = _Call(self._loop.create_future(), len(tasks), self._loop.time())
        if not tasks:
            call.finish()
            return call.future
        items, new = self._enrol(network, tasks, keys=keys, bulk=bulk, caller=caller)
        call.expected_s = self._admit(new, deadline_s, bulk=bulk)
        self._join(call, items, new, bulk=bulk, caller=caller)
        if deadline_s is not None and not call.future.done():
            call.left_s = deadline_s - call.began_s
            call.timer = self._loop.call_at(deadline_s, self._expire, call)
        call.future.add_done_callback(partial(self._left, call))
        return call.future

    def expect_s(self, network: Network[TaskT, ResultT], tasks: Sequence[TaskT]) -> float | None:
        """How long tasks take, behind what waits already; None if nothing like them was seen."""
        items, _ = self._enrol(network, tasks, keys=None, bulk=False, caller=None)
        points = self._backlog.points + sum(item.points for item in items)
        expected_s = self._engine.expect_s(items[0].lane, points) if self._engine else 0.0
        return expected_s or None

    def _refuse(self, deadline_s: float | None) -> None:
        """Raise if nothing can be taken now."""
        if self._closing:
            self._reject("the service is closing", reason="closing")
        if self._down or self._stuck:
            self._reject("the engine is being restarted", reason="engine_down")
        if deadline_s is not None and deadline_s <= self._loop.time():
            self._metrics.reject("deadline")
            raise DeadlineError("the deadline passed before the work began")

    def _enrol(
        self,
        network: Network[TaskT, ResultT],
        tasks: Sequence[TaskT],
        *,
        keys: Sequence[bytes] | None,
        bulk: bool,
        caller: str | None,
    ) -> tuple[list[Item], list[Item]]:
        """The item of each task, and those of them that are new. Changes nothing."""
        fingerprint, now_s = network.fingerprint, time.perf_counter()
        items: list[Item] = []
        new: dict[bytes | int, Item] = {}
        for position, task in enumerate(tasks):
            key = None if keys is None else keys[position]
            item = None if key is None else self._items.get(key) or new.get(key)
            if item is None:
                lane, work = Lane(fingerprint, network.lane(task), bulk), network.work(task)
                item = Item(task, network, lane, work.rows, work.length, key, now_s, caller)
                new[position if key is None else key] = item
            items.append(item)
        return items, list(new.values())

    def _admit(self, new: list[Item], deadline_s: float | None, *, bulk: bool) -> float:
        """In how many seconds the new items should be done; 0 where nothing hurries.

        Raises if they do not fit the queue, now or ever, or cannot be done in time.
        """
        points, most = sum(item.points for item in new), self._settings.queue_points
        caller = new[0].caller if new else None
        share = most if caller is None else int(most * CALLER_SHARE)
        if points > share:  # to try again would never help
            msg = (
                f"{points:,} points at once, at most {share:,} can wait; "
                "send fewer inputs or a shorter horizon"
            )
            raise InvalidInputError((Issue(("inputs",), msg, "too_many_points"),))
        if new:
            if caller is not None:
                msg = "what waits for this key already fills its share of the queue"
                self._refuse_beyond(share, self._backlog.held(caller), new, msg)
            self._refuse_beyond(most, self._backlog.points, new, "the queue is full")
        if not new or deadline_s is None or bulk:
            return 0.0
        return self._in_time(new[0], points, deadline_s - self._loop.time())

    def _refuse_beyond(self, most: int, waiting: int, new: list[Item], message: str) -> None:
        """Raise if with the new items more than so many points would wait."""
        if waiting + sum(item.points for item in new) > most:
            engine_s = self._engine.expect_s(new[0].lane, waiting) if self._engine else 0.0
            self._reject(message, reason="queue_full", retry_after_s=engine_s)

    def _in_time(self, first: Item, points: int, left_s: float) -> float:
        """In how many seconds so many points should be done; raises if that is too late.

        Work that nobody can use any more would take the time of what still can be answered. Where
        nothing comes in between there is no doubt of what is expected; and what comes after a while
        of nothing is let in whatever that is, or nobody would ever know better.
        """
        idle_s = 0.0 if self._engine is None or self._backlog.points else self._engine.idle_s
        bearable_s = left_s if idle_s else left_s / self._doubt.factor
        expected_s = self._expected_s(first.lane, self._backlog.points + points)
        if expected_s > bearable_s:  # unless its turn comes before that of much that waits
            ahead = self._backlog.ahead(points, first.caller)
            expected_s = self._expected_s(first.lane, ahead + points)
        if expected_s > bearable_s and idle_s < STALE_S:
            if self._engine and self._engine.expect_s(first.lane, points) / self._threads > left_s:
                self._metrics.reject("deadline")
                raise DeadlineError("the work takes longer than the deadline leaves; allow more")
            msg = "what waits already takes longer than the deadline leaves"
            self._reject(msg, reason="queue_full", retry_after_s=expected_s - bearable_s)
        return expected_s

    def _expected_s(self, lane: Lane, points: int) -> float:
        """How long so many points take behind what runs; 0 as long as nothing is known."""
        if self._engine is None:
            return 0.0
        return (self._engine.left_s() + self._engine.expect_s(lane, points)) / self._threads

    def _reject(self, message: str, *, reason: str, retry_after_s: float = 0.0) -> None:
        self._metrics.reject(reason)
        if reason == "queue_full":
            self._refused_s = time.perf_counter()
        raise UnavailableError(
            message, reason=reason, retry_after_s=max(1.0, math.ceil(retry_after_s))
        )

    def _join(
        self,
        call: "_Call",
        items: list[Item],
        new: list[Item],
        *,
        bulk: bool,
        caller: str | None,
    ) -> None:
        """Let a call wait for items, and line up those that are new."""
        if len(new) < len(items):
            self._metrics.coalesced.inc(len(items) - len(new))
        for position, item in enumerate(items):
            if item.done:
                if call.take(position, item.result):
                    call.finish()
                    return
                continue
            item.waiters[call, position] = None
            if item.lane.bulk and not bulk:
                self._backlog.hurry(item, caller)
        call.items = items
        self._items.update((item.key, item) for item in new if item.key is not None)
        self._calls.add(call)
        if new:
            self._backlog.add(new)

    def _expire(self, call: "_Call") -> None:
        self._doubt.learn(call, self._loop.time())
        self._metrics.reject("deadline")
        self._fail(call, DeadlineError("the deadline passed before the answer was ready"))

    def _left(self, call: "_Call", future: asyncio.Future[Any]) -> None:
        if future.cancelled():
            self._leave([call])

    def _fail(self, call: "_Call", error: ShopcastError) -> None:
        if not call.future.done():
            call.future.set_exception(error)
        self._leave([call])

    def _fail_all(self, message: str, *, reason: str) -> None:
        calls = list(self._calls)
        for call in calls:
            self._metrics.reject(reason)
            if not call.future.done():
                call.future.set_exception(UnavailableError(message, reason=reason))
        self._leave(calls)

    def _leave(self, calls: Iterable["_Call"]) -> None:
        """Let calls wait for nothing any more, and drop the items that nobody wants now."""
        abandoned = []
        for call in calls:
            self._calls.discard(call)
            call.stop_timer()
            for position, item in enumerate(call.items):
                item.waiters.pop((call, position), None)
                if not item.waiters:
                    self._forget(item)
                    abandoned.append(item)
            call.items = []
        self._backlog.drop(abandoned)

    def _forget(self, item: Item) -> None:
        """Let nobody join an item any more."""
        if item.key is not None and self._items.get(item.key) is item:
            del self._items[item.key]

    def _settle(self, outcome: Outcome) -> None:
        """Hand out what the engine reports: one wakeup a batch."""
        self._stuck = False
        if outcome.results is None:
            self._settle_failure(outcome)
            return
        for item, result in zip(outcome.items, outcome.results, strict=True):
            item.done, item.result = True, result
            waiters, item.waiters = item.waiters, {}
            for call, position in waiters:
                if call.take(position, result):
                    self._finish(call, item, outcome)
        # once those who waited have run, and have put into the cache what the next may find there
        self._loop.call_soon(self._forget_all, outcome.items)

    def _forget_all(self, items: Iterable[Item]) -> None:
        for item in items:
            self._forget(item)

    def _settle_failure(self, outcome: Outcome) -> None:
        for item in outcome.items:
            self._forget(item)
            for call, _ in list(item.waiters):
                self._fail(call, PredictionError(outcome.failure))

    def _finish(self, call: "_Call", last: Item, outcome: Outcome) -> None:
        self._calls.discard(call)
        call.stop_timer()
        call.items = []
        self._doubt.learn(call, self._loop.time())
        queue_s = max(0.0, outcome.started_s - last.submitted_s)
        self._metrics.queue_wait_seconds.observe(queue_s)
        call.finish(queue_s, outcome.compute_s)

    def _start_engine(self) -> None:
        self._engine = Engine(
            self._backlog,
            self._settings,
            self._metrics,
            threads=self._threads,
            patience_s=self._stuck_s,
            report=partial(self._call_in, self._settle),
            died=partial(self._call_in, self._bury),
            broken=partial(self._call_in, self._give_up),
        )
        self._engine.start()
        self._down = False

    def _call_in(self, function: Callable[..., None], *args: object) -> None:
        """Run a function on the loop; called by the engine's thread."""
        try:
            self._loop.call_soon_threadsafe(function, *args)
        except RuntimeError:  # the loop is closed, and with it went everybody who waited
            log.debug("the loop was closed under the engine")

    def _bury(self) -> None:
        """The engine died: nobody waits in vain, and a new one comes."""
        if self._down:
            return
        self._down = True
        self._fail_all("the engine failed", reason="engine_down")
        if not self._closing:
            self._timers["restart"] = self._loop.call_later(self._restart_s, self._restart)

    def _restart(self) -> None:
        log.warning("restarting the engine")
        self._metrics.engine_restarts.inc()
        self._stuck = False
        self._start_engine()

    def _watch(self) -> None:
        """See every now and then whether the engine lives and moves."""
        if self._engine is not None and not self._down:
            if not self._engine.alive:
                self._bury()
            elif self._engine.overdue and not self._stuck:
                self._give_up()
        pause_s = min(WATCH_S, self._stuck_s / 4)
        self._timers["watch"] = self._loop.call_later(pause_s, self._watch)

    def _give_up(self) -> None:
        """The engine hangs or its device is broken: send everybody away, end the process."""
        log.critical("the engine cannot go on")
        self._stuck = True
        self._fail_all("the engine cannot go on", reason="engine_down")
        if self._on_stuck is not None:
            on_stuck, self._on_stuck = self._on_stuck, None
            on_stuck()


class _Call:
    """One submission: the results so far, and the future of all of them.

    began_s: loop.time(). expected_s: until its end, as it was then; left_s: until its deadline.
    """

    __slots__ = (
        *("_missing", "_results", "began_s", "expected_s", "future", "items", "left_s", "timer"),
    )

    def __init__(self, future: asyncio.Future[Any], tasks: int, began_s: float) -> None:
        self.future, self.began_s = future, began_s
        self.expected_s, self.left_s = 0.0, math.inf
        self.items: list[Item] = []
        self.timer: asyncio.TimerHandle | None = None
        self._results: list[object] = [None] * tasks
        self._missing = tasks

    def take(self, position: int, result: object) -> bool:
        """Note a result; True if it was the last one."""
        self._results[position] = result
        self._missing -= 1
        return not self._missing

    def finish(self, queue_s: float = 0.0, compute_s: float = 0.0) -> None:
        if not self.future.done():
            self.future.set_result(Answer(self._results, queue_s, compute_s))

    def stop_timer(self) -> None:
        if self.timer is not None:
            self.timer.cancel()
            self.timer = None


class _Doubt:
    """How many times as long as expected a call may take, but for a few of a hundred.

    What is expected leaves out what else the machine has to do, how well batches fill, and who
    comes in between. A call is admitted if it is in time even so.
    """

    def __init__(self) -> None:
        self.factor = 1.0

    def learn(self, call: _Call, now_s: float) -> None:
        """Note when a call ended; one that was in time and hurried nobody tells nothing."""
        took_s = now_s - call.began_s
        if call.expected_s * TELLING < call.left_s and took_s < call.left_s:
            return
        late = took_s > call.expected_s * self.factor
        self.factor *= math.exp(DOUBT_STEP * ((1 - LATE_SHARE) if late else -LATE_SHARE))
        self.factor = min(max(self.factor, 1.0), MOST_DOUBT)
