"""The tasks that wait for the engine, and which of them make the next batch.

Invariant: `points` and `tasks` count exactly the items that wait, all of them and each caller's,
and every item added is taken or dropped once. Methods may be called from any thread.

Callers take turns by points: start-time fair queueing (Goyal, Vin and Cheng 1996), in which an
item of the caller who has had the least since it began to wait always is in the next batch. All who
show no key are one caller.

Of one caller a large request counts as if its series had come one after another, so that small ones
find their place between them: each item is `due` when the work before it in its own request has
been done, on a clock that moves with the work that the engine did for the caller. In its turn a
caller gets the item that is due first.
"""

import heapq
import itertools
import math
import threading
from collections import Counter
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from models.base import Network

FREE_PADDING_POINTS = 2048  # padding that costs less than a batch of its own
PADDING_SHARE = 0.25  # beyond that, the most padding an item may bring for each of its points
SIZES_PER_OCTAVE = 4  # lengths within 19 % of each other stand in one line
BULK_TURN = 8  # of so many batches bulk work gets one, however much else waits
LARGE_REQUESTS = 8  # so many of a caller at once do not hold up its small ones


class Lane(NamedTuple):
    """Tasks of one lane may share a batch."""

    fingerprint: str
    number: Hashable  # what the network calls it
    bulk: bool


@dataclass(slots=True, eq=False)
class Item:
    """One task, and everybody who waits for its result. done: it has one.

    caller: the key of the first of them; None without.
    """

    task: Any
    network: Network[Any, object]
    lane: Lane
    rows: int
    length: int
    key: bytes | None
    submitted_s: float
    caller: str | None = None
    points: int = field(init=False)
    waiting: bool = False
    done: bool = False
    result: object = None
    waiters: dict[tuple[Any, int], None] = field(default_factory=dict)  # (call, position in it)

    def __post_init__(self) -> None:
        self.points = self.rows * self.length


@dataclass(slots=True, eq=False)
class Batch:
    """Items that run together, padded to the longest."""

    items: list[Item] = field(default_factory=list)
    rows: int = 0
    length: int = 0
    points: int = 0  # without padding

    @classmethod
    def of(cls, items: Iterable[Item]) -> "Batch":
        batch = cls()
        for item in items:
            batch.add(item)
        return batch

    @property
    def padded(self) -> int:
        return self.rows * self.length

    def add(self, item: Item) -> None:
        self.items.append(item)
        self.rows += item.rows
        self.length = max(self.length, item.length)
        self.points += item.points

    def fits(self, item: Item, *, most_rows: int, most_points: int) -> bool:
        """Whether the item may join; the first one always may."""
        if not self.items:
            return True
        rows = self.rows + item.rows
        padded = rows * max(self.length, item.length)
        if rows > most_rows or padded > most_points:
            return False
        padding = padded - self.padded - item.points  # what this item adds
        in_all = padded - self.points - item.points
        return padding <= item.points * PADDING_SHARE or in_all <= FREE_PADDING_POINTS


Line = list[tuple[int, int, Item]]
"""A heap of (due, order of arrival, item)."""


@dataclass(slots=True, eq=False)
class _Flow:
    """What one caller has waiting. start: when its turn is, by the points that each one got;
    since: the order in which callers began to wait; points: without bulk work.
    """

    start: int
    since: int
    clock: int = 0
    tasks: int = 0
    points: int = 0


class Backlog:
    """Items by lane, length and caller, handed out in fair batches."""

    def __init__(self) -> None:
        self.points = 0
        self.tasks = 0
        self._lines: dict[Lane, dict[int, dict[_Flow, Line]]] = {}
        self._flows: dict[str | None, _Flow] = {}  # of who waits, or got more than others lately
        self._now = 0  # where a newcomer starts
        self._arrivals = itertools.count()
        self._bulk_passed_over = 0
        self._stopped = False
        self._changed = threading.Condition(threading.Lock())

    def add(self, items: Sequence[Item]) -> None:
        """Line up the items of one request, all of the same caller."""
        with self._changed:
            due = self._flow(items[0].caller).clock if items else 0
            for item in items:
                self._line_up(item, due=due)
                due += item.points
            self._changed.notify()

    def held(self, caller: str) -> int:
        """Points of a caller that wait."""
        with self._changed:
            flow = self._flows.get(caller)
            return flow.points if flow else 0

    def ahead(self, points: int, caller: str | None = None) -> int:
        """Points of what waits that come before the last of a new request of so many points."""
        with self._changed:
            flow = self._flow(caller)
            own = self._due_until(flow, flow.clock + points)
            last = flow.start + own + points
            return own + sum(
                min(other.points, max(0, last - other.start))
                for other in self._flows.values()
                if other is not flow
            )

    def drop(self, items: Iterable[Item]) -> None:
        """Let items go that still wait; others are left alone."""
        with self._changed:
            for item in items:
                if item.waiting:
                    self._release(item)
                    item.task = None  # the entry stays in its line until it comes to the front

    def hurry(self, item: Item, caller: str | None = None) -> None:
        """Move a bulk item to the interactive lane, as the caller's, if it still waits."""
        with self._changed:
            if item.waiting and item.lane.bulk:
                self._release(item)
                self._forget(item)
                item.lane, item.caller = item.lane._replace(bulk=False), caller
                self._line_up(item, due=self._flow(caller).clock)

    def take(self, *, most_rows: int, most_points: int) -> Batch | None:
        """The next batch as soon as there is one; None once stopped."""
        with self._changed:
            while not self._stopped:
                if self.tasks:
                    batch = self._next(most_rows, most_points)
                    if self.tasks:  # there is more, for another thread that waits
                        self._changed.notify()
                    return batch
                self._changed.wait()
            return None

    def stop(self) -> None:
        """Make every `take` return None."""
        with self._changed:
            self._stopped = True
            self._changed.notify_all()

    def _flow(self, caller: str | None) -> _Flow:
        """What a caller has waiting; who has nothing waiting starts now at the earliest."""
        flow = self._flows.get(caller)
        if flow is None:
            flow = self._flows[caller] = _Flow(self._now, next(self._arrivals))
        elif not flow.points:
            flow.start, flow.since = max(flow.start, self._now), next(self._arrivals)
        return flow

    def _due_until(self, flow: _Flow, limit: int) -> int:
        """Points of a caller's that wait, without bulk work, and are due by a time."""
        lines = (
            lines[flow]
            for lane, sizes in self._lines.items()
            if not lane.bulk
            for lines in sizes.values()
            if flow in lines
        )
        return sum(
            item.points for line in lines for due, _, item in line if item.waiting and due <= limit
        )

    def _line_up(self, item: Item, *, due: int) -> None:
        flow = self._flow(item.caller)
        lines = self._lines.setdefault(item.lane, {}).setdefault(_size(item.length), {})
        heapq.heappush(lines.setdefault(flow, []), (due, next(self._arrivals), item))
        item.waiting = True
        self._count(item, flow, 1)

    def _release(self, item: Item) -> None:
        item.waiting = False
        self._count(item, self._flows[item.caller], -1)

    def _count(self, item: Item, flow: _Flow, sign: int) -> None:
        self.points += sign * item.points
        self.tasks += sign
        flow.tasks += sign
        if not item.lane.bulk:
            flow.points += sign * item.points

    def _forget(self, item: Item) -> None:
        """Take the entry out of its line, since the item will stand in another."""
        line = self._lines[item.lane][_size(item.length)][self._flows[item.caller]]
        line[:] = [entry for entry in line if entry[2] is not item]
        heapq.heapify(line)

    def _next(self, most_rows: int, most_points: int) -> Batch:
        self._prune()
        lane = self._turn()
        *_, due, _, first, flow = self._first(lane)
        batch, sizes = Batch(), self._lines[lane]
        # the lines of the item whose turn it is, then those of the most similar lengths
        for size in sorted(sizes, key=lambda size: abs(size - first)):
            self._draw(sizes[size], batch, most_rows=most_rows, most_points=most_points)
        self._wind(batch)
        flow.clock = max(flow.clock, due)
        self._move_on()
        return batch

    def _wind(self, batch: Batch) -> None:
        """Move the clocks of the callers whose work is done.

        Never slower than a fixed share of that work, or a flood of small requests would hold the
        clock, and with it the rest of a large request.
        """
        done = Counter[str | None]()
        for item in batch.items:
            done[item.caller] += item.points
        for caller, points in done.items():
            self._flows[caller].clock += math.ceil(points / LARGE_REQUESTS)

    def _move_on(self) -> None:
        """Let newcomers start with whoever waits and has had the least; forget who is like them."""
        flows = self._flows.values()
        waiting = [flow.start for flow in flows if flow.points]
        self._now = max(self._now, min(waiting) if waiting else max(flow.start for flow in flows))
        for caller, flow in list(self._flows.items()):
            if not flow.tasks and flow.start <= self._now:
                del self._flows[caller]

    def _prune(self) -> None:
        """Forget what was dropped where it would stand in front."""
        for lane, sizes in list(self._lines.items()):
            for size, lines in list(sizes.items()):
                for flow, line in list(lines.items()):
                    _peel(line)
                    if not line:
                        del lines[flow]
                if not lines:
                    del sizes[size]
            if not sizes:
                del self._lines[lane]

    def _turn(self) -> Lane:
        """The lane whose turn it is: interactive ones first, in each kind whose turn it is."""
        interactive = [lane for lane in self._lines if not lane.bulk]
        bulk = [lane for lane in self._lines if lane.bulk]
        passed_over = bool(interactive and bulk)
        if passed_over and self._bulk_passed_over + 1 >= BULK_TURN:
            interactive, passed_over = [], False
        self._bulk_passed_over = self._bulk_passed_over + 1 if passed_over else 0
        return min(interactive or bulk, key=self._first)

    def _first(self, lane: Lane) -> tuple[int, int, int, int, int, _Flow]:
        """Of the item of a lane whose turn it is: start, since, due, arrival, size and flow."""
        return min(
            (flow.start, flow.since, *line[0][:2], size, flow)
            for size, lines in self._lines[lane].items()
            for flow, line in lines.items()
        )

    def _draw(
        self, lines: dict[_Flow, Line], batch: Batch, *, most_rows: int, most_points: int
    ) -> None:
        """Move items from the fronts of the callers' lines into the batch while they fit."""
        turns = [
            (flow.start, flow.since, *line[0][:2], flow, line)
            for flow, line in lines.items()
            if line
        ]
        heapq.heapify(turns)
        while turns:
            *_, flow, line = turns[0]
            item = line[0][2]
            if not batch.fits(item, most_rows=most_rows, most_points=most_points):
                return
            heapq.heappop(line)
            _peel(line)
            self._release(item)
            batch.add(item)
            if not item.lane.bulk:
                flow.start += item.points
            if line:
                heapq.heapreplace(turns, (flow.start, flow.since, *line[0][:2], flow, line))
            else:
                heapq.heappop(turns)


def _peel(line: Line) -> None:
    """Take what was dropped from the front of a line."""
    while line and not line[0][2].waiting:
        heapq.heappop(line)


def _size(length: int) -> int:
    return round(SIZES_PER_OCTAVE * math.log2(max(length, 1)))
