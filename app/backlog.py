"""The tasks that wait for the engine, and which of them make the next batch.

Invariant: `points` and `tasks` count exactly the items that wait, and every item added is taken
or dropped once. Methods may be called from any thread.

A large request counts as if its series had come one after another, so that small ones find their
place between them: each item is `due` when the work before it in its own request has been done,
on a clock that moves with the work of the engine. The item due first always is in the next batch.
"""

import heapq
import itertools
import math
import threading
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from models.base import Network

FREE_PADDING_POINTS = 2048  # padding that costs less than a batch of its own
PADDING_SHARE = 0.25  # beyond that, the most padding an item may bring for each of its points
SIZES_PER_OCTAVE = 4  # lengths within 19 % of each other stand in one line
BULK_TURN = 8  # of so many batches bulk work gets one, however much else waits
LARGE_REQUESTS = 8  # so many at once do not hold up small ones


class Lane(NamedTuple):
    """Tasks of one lane may share a batch."""

    fingerprint: str
    number: Hashable  # what the network calls it
    bulk: bool


@dataclass(slots=True, eq=False)
class Item:
    """One task, and everybody who waits for its result. done: it has one."""

    task: Any
    network: Network[Any, object]
    lane: Lane
    rows: int
    length: int
    key: bytes | None
    submitted_s: float
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


class Backlog:
    """Items by lane and length, handed out in fair batches."""

    def __init__(self) -> None:
        self.points = 0
        self.tasks = 0
        self._lines: dict[Lane, dict[int, Line]] = {}
        self._clock = 0
        self._arrivals = itertools.count()
        self._bulk_passed_over = 0
        self._stopped = False
        self._changed = threading.Condition(threading.Lock())

    def add(self, items: Sequence[Item]) -> None:
        """Line up the items of one request."""
        with self._changed:
            due = self._clock
            for item in items:
                self._line_up(item, due=due)
                due += item.points
            self._changed.notify()

    def ahead(self, points: int) -> int:
        """Points of what waits that come before the last of a new request of so many points."""
        with self._changed:
            limit = self._clock + points
            lines = (
                line
                for lane, lines in self._lines.items()
                if not lane.bulk
                for line in lines.values()
            )
            return sum(
                item.points
                for line in lines
                for due, _, item in line
                if item.waiting and due <= limit
            )

    def drop(self, items: Iterable[Item]) -> None:
        """Let items go that still wait; others are left alone."""
        with self._changed:
            for item in items:
                if item.waiting:
                    self._release(item)
                    item.task = None  # the entry stays in its line until it comes to the front

    def hurry(self, item: Item) -> None:
        """Move a bulk item to the interactive lane, if it still waits."""
        with self._changed:
            if item.waiting and item.lane.bulk:
                self._release(item)
                self._forget(item)
                item.lane = item.lane._replace(bulk=False)
                self._line_up(item, due=self._clock)

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

    def _line_up(self, item: Item, *, due: int) -> None:
        line = self._lines.setdefault(item.lane, {}).setdefault(_size(item.length), [])
        heapq.heappush(line, (due, next(self._arrivals), item))
        item.waiting = True
        self.points += item.points
        self.tasks += 1

    def _release(self, item: Item) -> None:
        item.waiting = False
        self.points -= item.points
        self.tasks -= 1

    def _forget(self, item: Item) -> None:
        """Take the entry out of its line, since the item will stand in another."""
        line = self._lines[item.lane][_size(item.length)]
        line[:] = [entry for entry in line if entry[2] is not item]
        heapq.heapify(line)

    def _next(self, most_rows: int, most_points: int) -> Batch:
        self._prune()
        lines = self._lines[self._turn()]
        first = min(lines, key=lambda size: lines[size][0])
        due = lines[first][0][0]
        batch = Batch()
        # the line of the item due first, then those of the most similar lengths
        for size in sorted(lines, key=lambda size: abs(size - first)):
            self._draw(lines[size], batch, most_rows=most_rows, most_points=most_points)
        # never slower than a fixed share of the work done, or a flood of small requests would
        # hold the clock, and with it the rest of a large request
        self._clock = max(due, self._clock + math.ceil(batch.points / LARGE_REQUESTS))
        return batch

    def _prune(self) -> None:
        """Forget what was dropped where it would stand in front."""
        for lane, lines in list(self._lines.items()):
            for size, line in list(lines.items()):
                while line and not line[0][2].waiting:
                    heapq.heappop(line)
                if not line:
                    del lines[size]
            if not lines:
                del self._lines[lane]

    def _turn(self) -> Lane:
        """The lane whose turn it is: interactive ones first, in each kind what is due first."""
        interactive = [lane for lane in self._lines if not lane.bulk]
        bulk = [lane for lane in self._lines if lane.bulk]
        passed_over = bool(interactive and bulk)
        if passed_over and self._bulk_passed_over + 1 >= BULK_TURN:
            interactive, passed_over = [], False
        self._bulk_passed_over = self._bulk_passed_over + 1 if passed_over else 0
        return min(interactive or bulk, key=self._due)

    def _due(self, lane: Lane) -> tuple[int, int]:
        return min(line[0][:2] for line in self._lines[lane].values())

    def _draw(self, line: Line, batch: Batch, *, most_rows: int, most_points: int) -> None:
        """Move items from the front of a line into the batch while they fit."""
        while line:
            item = line[0][2]
            if item.waiting:
                if not batch.fits(item, most_rows=most_rows, most_points=most_points):
                    return
                self._release(item)
                batch.add(item)
            heapq.heappop(line)


def _size(length: int) -> int:
    return round(SIZES_PER_OCTAVE * math.log2(max(length, 1)))
