"""What far too much does to those who are let in, to those who are not, and to what comes after.

    python benchmarks/overload.py [--seconds 60] [--times 10] [--apart]

Callers of benchmarks/load.py, its mix and its open loop, come at a multiple of what one process
answers in a closed loop, with a deadline (`SHOPCAST_TIMEOUT_MS`) of 1.5 times what an idle service
takes to answer a full batch, at the 99th percentile, and then with one of a second. Printed beside
it: the 99th percentile of those who were answered; how soon the others were refused; memory before,
at the most and after; and how long after the end a single caller is answered as fast as one was
before (99th percentile of an idle service).

Callers share the cores of the service, or have the last of them for themselves (`--apart`).
`floor_ms` says how late an answer is to callers at the same rate of a route that computes nothing,
`/healthz`.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import threading
from collections import Counter
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import numpy as np
import uvloop
from callers import send
from load import Arrival, arrivals_at, capacity_of, offer, used
from report import save
from servers import shopcast
from serving import bare
from workload import Workload, requests

from app.settings import Settings
from models.checkpoint import shipped

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    Cores = Iterable[int] | None

DEADLINE = 1.5  # full batches of an idle service
POOL_S = 6.0  # of callers who are made anew; then they come again, when nobody waits any more
WARM_S = 3.0
FULL = 60  # requests that fill a batch
LENGTH = 512
HEALTH = b"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"
REFUSED = {"429", "503", "504"}
SOON_S = 0.05
RECOVERY_S, SINGLES_S = 10.0, 0.02


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--times", type=float, default=10.0)
    parser.add_argument("--apart", action="store_true", help="callers on a core of their own")
    given = parser.parse_args()
    cores = None
    if given.apart:
        *cores, own = sorted(os.sched_getaffinity(0))
        os.sched_setaffinity(0, {own})
    found = {}
    with TemporaryDirectory() as directory:
        checkpoint = bare(shipped("series"), Path(directory))
        idle = _idle(checkpoint, cores)
        print(json.dumps({"idle": idle}), flush=True)
        deadline_ms = max(1, round(DEADLINE * idle["full_batch_p99_ms"]))
        for timeout_ms in (deadline_ms, 1000):
            name = f"deadline {timeout_ms} ms"
            found[name] = _overload(checkpoint, timeout_ms, idle, given, cores)
            print(json.dumps({name: found[name]}), flush=True)
    path = save(
        "overload",
        [],
        seconds=given.seconds,
        times=given.times,
        apart=given.apart,
        idle=idle,
        found=found,
    )
    print(f"written to {path.name}")


def _idle(checkpoint: Path, cores: Cores) -> dict[str, float]:
    """An idle service: what it can do, and how fast one caller at a time is answered."""
    with _service(checkpoint, 30_000, cores) as port:
        capacity = capacity_of(port)
        full = _full_batches()
        send(port, full[:5], concurrency=1)
        return {
            "capacity_series_per_s": capacity,
            "full_batch_rows": Settings().batch_rows,
            "full_batch_p99_ms": send(port, full[5:], concurrency=1).latency_ms(99),
            "single_p99_ms": 1e3
            * float(np.percentile([late_s for late_s, _ in _singles(port)], 99)),
        }


def _full_batches() -> list[bytes]:
    rows = Settings().batch_rows
    return requests(Workload(3).take((FULL + 5) * rows)[:, :LENGTH], each=rows)


def _overload(
    checkpoint: Path,
    timeout_ms: int,
    idle: dict[str, float],
    given: argparse.Namespace,
    cores: Cores,
) -> dict[str, object]:
    with _service(checkpoint, timeout_ms, cores) as port:
        warm_rate = idle["capacity_series_per_s"] / 4
        _offered(port, arrivals_at(warm_rate, WARM_S, seed=0, single=None))
        rate = given.times * idle["capacity_series_per_s"]
        arrivals = _again(arrivals_at(rate, POOL_S, seed=1, single=None), given.seconds)
        healthy = [replace(each, parts=(HEALTH,)) for each in arrivals if each.at_s < POOL_S]
        floor = _offered(port, healthy)
        before = used()[1]
        with _watched_memory() as most:
            outcomes = _offered(port, arrivals)
        recovery_s = _recovery_s(port, idle["single_p99_ms"] / 1e3)
        after = used()[1]
    answered = np.array([late_s for late_s, told in outcomes if told == "200"])
    refused = np.array([late_s for late_s, told in outcomes if told in REFUSED])
    p99_ms = 1e3 * float(np.percentile(answered, 99))
    pairs = zip(arrivals, outcomes, strict=True)
    goodput = sum(each.series for each, (_, told) in pairs if told == "200") / given.seconds
    return {
        "callers": len(arrivals),
        "told": dict(Counter(told for _, told in outcomes)),
        "goodput_over_capacity": goodput / idle["capacity_series_per_s"],
        "answered_p99_ms": p99_ms,
        "answered_p99_over_full_batch": p99_ms / idle["full_batch_p99_ms"],
        "refused_p50_ms": 1e3 * float(np.percentile(refused, 50)),
        "refused_p99_ms": 1e3 * float(np.percentile(refused, 99)),
        "refused_within_50_ms": float((refused <= SOON_S).mean()),
        "floor_p99_ms": 1e3 * float(np.percentile([late_s for late_s, _ in floor], 99)),
        "memory_mib": [round(each / 2**20) for each in (before, max(most), after)],
        "recovery_s": recovery_s,
    }


@contextmanager
def _service(checkpoint: Path, timeout_ms: int, cores: Cores) -> Iterator[int]:
    with shopcast(
        checkpoint, cores=cores, worker="external", cache_bytes=0, timeout_ms=timeout_ms
    ) as port:
        yield port


def _again(arrivals: Sequence[Arrival], seconds: float) -> list[Arrival]:
    """The same callers come again and again."""
    rounds = range(int(np.ceil(seconds / POOL_S)))
    found = [replace(each, at_s=each.at_s + POOL_S * turn) for turn in rounds for each in arrivals]
    return [each for each in found if each.at_s < seconds]


def _offered(port: int, arrivals: Sequence[Arrival]) -> list[tuple[float, str]]:
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(offer(port, arrivals))


@contextmanager
def _watched_memory() -> Iterator[list[float]]:
    """Bytes of the service's processes, looked at every two seconds until the end."""
    seen, over = [used()[1]], threading.Event()

    def look() -> None:
        while not over.wait(2.0):
            seen.append(used()[1])

    thread = threading.Thread(target=look)
    thread.start()
    try:
        yield seen
    finally:
        over.set()
        thread.join()


def _singles(port: int) -> list[tuple[float, str]]:
    """What becomes of one caller after another, as far apart as SINGLES_S."""
    count = round(RECOVERY_S / SINGLES_S)
    bodies = requests(Workload(7).take(count)[:, :LENGTH])
    arrivals = [Arrival(n * SINGLES_S, (body,), 1) for n, body in enumerate(bodies)]
    return _offered(port, arrivals)


def _recovery_s(port: int, usual_s: float) -> float:
    """Seconds until one caller is answered as an idle service does."""
    for n, (late_s, told) in enumerate(_singles(port)):
        if told == "200" and late_s <= usual_s:
            return n * SINGLES_S + late_s
    return float("nan")


if __name__ == "__main__":
    main()
