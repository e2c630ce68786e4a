"""What comes of a service when callers do not wait for it: open-loop arrivals, mixed sizes.

    python benchmarks/load.py [--seconds 8] [--plot docs/images/load.png]
        [--peers litserve,ray,bentoml,mlserver] [--peer-python mlserver=PYTHON …]

Callers come by a Poisson process whatever the service does, and each answer's time is counted
from when its caller came, not from when a connection was free, so that a slow spell is not omitted.
Three of four callers ask for one series, the others for 4, 16 or 64; histories have 64, 128, 256 or
512 points. Peers take one series a request, so that a caller with many sends them at once and waits
for the last.

Goodput is the series a second that were answered in full within the deadline. Rates are multiples
of what one process of Shopcast answers in a closed loop. CPU and memory are of all processes of a
server.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import sys
import time
from collections import Counter
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import orjson
import uvloop
from callers import LENGTH, LoadError, send
from peers.network import Network
from report import save
from servers import ServerError, peer, shopcast
from serving import await_answer, bare, peer_version
from workload import Histories, Workload, requests

from models.checkpoint import shipped

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

SEED = 2026
DEADLINE_S = 1.0
COUNTS, SHARES = (1, 4, 16, 64), (0.76, 0.14, 0.07, 0.03)
LENGTHS = (64, 128, 256, 512)
RATES = (0.25, 0.5, 0.75, 1.0, 1.5, 2.0)
#: Most rows of a batch, and the wait for company, of a peer; BentoML's is the latency it aims at.
BATCHING = {"litserve": (32, 5), "ray": (32, 5), "bentoml": (32, 1000), "mlserver": (32, 5)}
CLOSE = 1e-4  # of a history's deviation: a peer's answer from the network's
REPEATS = 0.5  # of callers, where there is a cache, who ask what was asked before
WARM = 400
DRAIN_S = 20.0


@dataclass(frozen=True, slots=True)
class Arrival:
    """A caller. at_s: when. parts: the requests sent at once. series: asked for in all."""

    at_s: float
    parts: tuple[bytes, ...]
    series: int


@dataclass(frozen=True, slots=True)
class Point:
    """What a rate made of a server. offered, goodput: series a second. refused, failed: shares."""

    server: str
    rate: float
    offered: float
    goodput: float
    p50_ms: float
    p95_ms: float
    p99_ms: float
    refused: float
    failed: float
    cpu_cores: float
    memory_mib: float


def main() -> None:
    given = _options()
    pythons = dict(pair.split("=", 1) for pair in given.peer_python)
    shared = {"worker": "external", "timeout_ms": int(1000 * DEADLINE_S)}
    points: list[Point] = []
    with TemporaryDirectory() as directory:
        checkpoint = bare(shipped("series"), Path(directory))
        off = shared | {"cache_bytes": 0}
        with shopcast(checkpoint, **off) as port:
            capacity = capacity_of(port)
        print(f"closed loop: {capacity:.0f} series/s", flush=True)
        mine: dict[str, tuple[dict[str, Any], float]] = {
            "Shopcast, 1 process, no cache": (off, 0.0),
            "Shopcast, 2 processes, no cache": (off | {"workers": 2}, 0.0),
            "Shopcast, 1 process, cache": (shared, REPEATS),
            "Shopcast, 2 processes, cache": (shared | {"workers": 2}, REPEATS),
        }
        for name, (settings, repeats) in mine.items():
            with shopcast(checkpoint, **settings) as port:
                points += _climb(name, port, capacity, given.seconds, repeats=repeats)
        versions: dict[str, str] = {}
        for name in [each for each in given.peers.split(",") if each != "none"]:
            python = pythons.get(name, sys.executable)
            try:
                points += _beside(name, python, checkpoint, capacity, given.seconds)
                versions[name] = peer_version(name, python)
            except (ServerError, LoadError) as error:
                print(f"{name} could not be measured: {error}", flush=True)
    _save(points, capacity, given, peers=versions)
    if given.plot:
        _draw(points, given.plot)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=8.0)
    parser.add_argument(
        "--peers", default="litserve,ray", help=f"of {', '.join(BATCHING)}; or none"
    )
    parser.add_argument(
        "--peer-python",
        action="append",
        default=[],
        metavar="NAME=PATH",
        help="interpreter of a peer that lives in an environment of its own",
    )
    parser.add_argument("--plot", type=Path)
    return parser.parse_args()


def capacity_of(port: int) -> float:
    """Series a second of a closed loop with the same mix."""
    workload, rng = Workload(SEED), np.random.default_rng(SEED)
    parts = [_arrival(rng, workload, 0.0).parts[0] for _ in range(WARM)]
    counts = [each.count(b'"target"') for each in parts]
    send(port, parts[: WARM // 4], concurrency=32)
    load = send(port, parts[WARM // 4 :], concurrency=32)
    return sum(counts[WARM // 4 :]) / load.seconds


def _beside(
    name: str, python: str, checkpoint: Path, capacity: float, seconds: float
) -> list[Point]:
    """A peer, once it has shown that its answers are right."""
    threads = len(os.sched_getaffinity(0))
    batch, wait_ms = BATCHING[name]
    options = {"threads": threads, "batch": batch, "wait_ms": wait_ms}
    with peer(f"with_{name}", checkpoint, python=python, **options) as port:
        history = Workload(SEED).take(1)
        asked = requests(history, path="/predict")
        await_answer(port, asked)
        _verify(send(port, asked, concurrency=1).body, history, checkpoint)
        return _climb(name, port, capacity, seconds, single="/predict")


def _verify(answer: bytes, history: Histories, checkpoint: Path) -> None:
    """Hold a peer's answer to that of the network it serves. Raises LoadError."""
    found = orjson.loads(answer)
    (told,) = found["predictions"] if isinstance(found, dict) else found
    (right,) = Network(str(checkpoint), 1).predict(history.tolist())
    far = max(float(np.abs(np.subtract(told[key], right[key])).max()) for key in right)
    if far > CLOSE * history.std():
        raise LoadError(f"its answers are off by {far:g}")


def _climb(
    name: str,
    port: int,
    capacity: float,
    seconds: float,
    *,
    repeats: float = 0.0,
    single: str | None = None,
) -> list[Point]:
    """Every rate in turn. single: path of a peer that takes one series a request."""
    found = []
    for rate in (RATES[0], *RATES):  # the first warms up
        arrivals = arrivals_at(rate * capacity, seconds, seed=len(found), single=single)
        arrivals = _repeated(arrivals, repeats)
        began_cpu_s = used()[0]
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            outcomes = runner.run(offer(port, arrivals))
        cpu_s, memory = used()
        found.append(_point(name, rate, arrivals, outcomes, seconds, cpu_s - began_cpu_s, memory))
        if len(found) > 1:
            print(json.dumps(asdict(found[-1])), flush=True)
    return found[1:]


def _arrival(
    rng: np.random.Generator, workload: Workload, at_s: float, single: str | None = None
) -> Arrival:
    count = int(rng.choice(COUNTS, p=SHARES))
    histories = workload.take(count)[:, : int(rng.choice(LENGTHS))]
    path = single or "/predict/sales"
    return Arrival(at_s, tuple(requests(histories, path=path, each=1 if single else count)), count)


def arrivals_at(per_s: float, seconds: float, *, seed: int, single: str | None) -> list[Arrival]:
    """Callers of a Poisson process who ask for per_s series a second in all."""
    rng, workload = np.random.default_rng((SEED, seed)), Workload(SEED + seed)
    pause_s = float(np.dot(COUNTS, SHARES)) / per_s
    found, at_s = [], float(rng.exponential(pause_s))
    while at_s < seconds:
        found.append(_arrival(rng, workload, at_s, single))
        at_s += float(rng.exponential(pause_s))
    return found


def _repeated(arrivals: Sequence[Arrival], share: float) -> list[Arrival]:
    """Some callers ask what somebody asked before."""
    rng = np.random.default_rng(SEED)
    found: list[Arrival] = []
    for each in arrivals:
        if found and rng.random() < share:
            earlier = found[int(rng.integers(len(found)))]
            found.append(Arrival(each.at_s, earlier.parts, earlier.series))
        else:
            found.append(each)
    return found


def _point(
    name: str,
    rate: float,
    arrivals: Sequence[Arrival],
    outcomes: Sequence[tuple[float, str]],
    seconds: float,
    cpu_s: float,
    memory: float,
) -> Point:
    told = Counter(outcome for _, outcome in outcomes)
    answered = np.array([late_s for late_s, outcome in outcomes if outcome == "200"] or [np.nan])
    good = [
        each.series
        for each, (late_s, outcome) in zip(arrivals, outcomes, strict=True)
        if outcome == "200" and late_s <= DEADLINE_S
    ]
    refused = sum(told[status] for status in ("429", "503", "504"))
    p50, p95, p99 = (1e3 * float(np.percentile(answered, each)) for each in (50, 95, 99))
    return Point(
        server=name,
        rate=rate,
        offered=sum(each.series for each in arrivals) / seconds,
        goodput=sum(good) / seconds,
        p50_ms=p50,
        p95_ms=p95,
        p99_ms=p99,
        refused=refused / len(arrivals),
        failed=1 - (told["200"] + refused) / len(arrivals),
        cpu_cores=cpu_s / seconds,
        memory_mib=memory / 2**20,
    )


# --- callers


async def offer(port: int, arrivals: Sequence[Arrival]) -> list[tuple[float, str]]:
    """Seconds from each arrival to its last answer, and the worst status among its parts.

    None is a task of its own: thousands a second would be late by themselves.
    """
    pool = _Pool(port, sum(len(each.parts) for each in arrivals))
    callers = [_Caller(each.at_s) for each in arrivals]
    began_s = time.perf_counter()  # to make a hundred thousand callers takes a third of a second
    for each, caller in zip(arrivals, callers, strict=True):
        caller.came_s += began_s
        await asyncio.sleep(max(0.0, caller.came_s - time.perf_counter()))
        for part in each.parts:
            pool.ask(part, caller)
    with suppress(TimeoutError):
        await asyncio.wait_for(pool.answered.wait(), DRAIN_S)
    pool.close()
    return [(caller.late_s, caller.status) for caller in callers]


class _Caller:
    """late_s: until the last answer so far. status: the worst."""

    __slots__ = ("came_s", "late_s", "status")

    def __init__(self, came_s: float) -> None:
        self.came_s = came_s
        self.late_s, self.status = DRAIN_S, ""

    def tell(self, status: str) -> None:
        self.status = max(self.status, status)
        self.late_s = time.perf_counter() - self.came_s


class _Pool:
    """Connections that are kept alive; a new one where none is idle."""

    def __init__(self, port: int, requests: int) -> None:
        self.answered = asyncio.Event()
        self._port, self._missing = port, requests
        self._idle: list[_Connection] = []
        self._opening: set[asyncio.Task[None]] = set()

    def ask(self, request: bytes, caller: _Caller) -> None:
        while self._idle and self._idle[-1].lost:
            self._idle.pop()
        if self._idle:
            self._idle.pop().ask(request, caller)
        else:
            opening = asyncio.create_task(self._open(request, caller))
            self._opening.add(opening)
            opening.add_done_callback(self._opening.discard)

    async def _open(self, request: bytes, caller: _Caller) -> None:
        loop = asyncio.get_running_loop()
        try:
            connection = (
                await loop.create_connection(lambda: _Connection(self), "127.0.0.1", self._port)
            )[1]
        except OSError as error:
            self.tell(caller, type(error).__name__)
        else:
            connection.ask(request, caller)

    def tell(self, caller: _Caller, status: str) -> None:
        caller.tell(status)
        self._missing -= 1
        if not self._missing:
            self.answered.set()

    def keep(self, connection: _Connection) -> None:
        self._idle.append(connection)

    def close(self) -> None:
        for opening in self._opening:
            opening.cancel()
        for each in self._idle:
            each.close()


class _Connection(asyncio.Protocol):
    """One request at a time; of an answer no more is read than its status and its length."""

    def __init__(self, pool: _Pool) -> None:
        self.lost = False
        self._pool = pool
        self._caller: _Caller | None = None
        self._left = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002
        self.lost = True
        if self._caller is not None:
            self._pool.tell(self._caller, "connection lost")

    def ask(self, request: bytes, caller: _Caller) -> None:
        self._caller = caller
        self._transport.write(request)

    def data_received(self, data: bytes) -> None:
        if not self._left:
            self._status = data[9:12].decode()
            head = data.find(b"\r\n\r\n") + 4
            found = LENGTH.search(data, 0, head)
            self._left = head + int(found[1]) if found else len(data)
        self._left -= len(data)
        if self._left <= 0 and self._caller is not None:
            caller, self._caller, self._left = self._caller, None, 0
            self._pool.keep(self)
            self._pool.tell(caller, self._status)

    def close(self) -> None:
        self._transport.close()


# --- the servers' processes


def used() -> tuple[float, float]:
    """CPU seconds and proportional memory in bytes of all processes that this one has started."""
    ticks = os.sysconf("SC_CLK_TCK")
    cpu_s = memory = 0.0
    for pid in _descendants(os.getpid()):
        try:
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            rollup = Path(f"/proc/{pid}/smaps_rollup").read_text()
        except OSError:
            continue  # it has just ended
        cpu_s += sum(map(int, fields[11:15])) / ticks
        memory += 1024 * int(rollup.partition("\nPss:")[2].split()[0])
    return cpu_s, memory


def _descendants(root: int) -> Iterator[int]:
    parents: dict[int, int] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue
            parents[int(entry.name)] = int(fields[1])
    family, more = {root}, True
    while more:
        grown = family | {pid for pid, parent in parents.items() if parent in family}
        more, family = len(grown) > len(family), grown
    yield from family - {root}


# --- what is told


def _save(
    points: Sequence[Point], capacity: float, given: argparse.Namespace, *, peers: dict[str, str]
) -> None:
    path = save(
        "load",
        [],
        seed=SEED,
        seconds=given.seconds,
        deadline_s=DEADLINE_S,
        capacity_series_per_s=capacity,
        peers={name: {"version": peers[name], "batching": BATCHING[name]} for name in peers},
        points=[asdict(each) for each in points],
    )
    print(f"written to {path.name}")


def _draw(points: Sequence[Point], path: Path) -> None:
    import matplotlib as mpl  # noqa: PLC0415

    mpl.use("Agg")
    from matplotlib import pyplot as plt  # noqa: PLC0415

    figure, (good, slow) = plt.subplots(1, 2, figsize=(10, 4), layout="constrained")
    for name in dict.fromkeys(each.server for each in points):
        mine = [each for each in points if each.server == name]
        style = {"marker": "o", "linestyle": "-" if "Shopcast" in name else "--", "label": name}
        good.plot([each.offered for each in mine], [each.goodput for each in mine], **style)
        slow.plot([each.offered for each in mine], [each.p99_ms for each in mine], **style)
    for axes, title in ((good, "answered within 1 s, series/s"), (slow, "p99 of answers, ms")):
        axes.set_xlabel("offered, series/s")
        axes.set_title(title)
        axes.grid(alpha=0.3)
    slow.set_yscale("log")
    good.legend(fontsize=8)
    figure.savefig(path, dpi=110)


if __name__ == "__main__":
    main()
