"""One process beside several that serve the same port, and beside several before one engine.

Fresh and cached answers, and the slowest. All servers are up at the same time and take turns, as
they ship, on all cores; HTTP processes before one engine do not ship (peers/engine_apart.py).

    python benchmarks/workers.py [--workers 2] [--rounds 9]
"""

import argparse
import os
from functools import partial

from callers import send
from report import figure, in_turns, save, table
from servers import peer, shopcast
from serving import await_answer
from workload import Workload, requests

from models.checkpoint import shipped

ONE = "one process"
CALLERS = 64
FRESH, CACHED, LARGE = 512, 4096, 8


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=9)
    options = parser.parse_args()
    checkpoint, workers = shipped("series"), options.workers
    with (
        shopcast(checkpoint, worker="external") as one,
        shopcast(checkpoint, worker="external", workers=workers) as many,
        peer("engine_apart", checkpoint, http=1) as before,
        peer("engine_apart", checkpoint, http=workers) as many_before,
    ):
        ports = {
            ONE: one,
            f"{workers} processes": many,
            "one before an engine": before,
            f"{workers} before an engine": many_before,
        }
        for port in ports.values():
            await_answer(port, requests(Workload(seed=1).take(1)))
        workload = Workload(seed=7)
        figures = []
        kinds = (
            ("fresh answers", "requests/s", _fresh),
            ("requests of 64 series", "series/s", _large),
            ("cached answers", "requests/s", _cached),
            ("slowest of a hundred fresh answers", "ms", _slow),
        )
        for name, unit, measure in kinds:
            rounds = in_turns(
                options.rounds,
                {each: partial(measure, port, workload) for each, port in ports.items()},
            )
            figures += [
                figure(f"{name}, {each}", rounds, (each, ONE), unit=unit)
                for each in ports
                if each != ONE
            ]
    print(table(figures))
    save("workers", figures, cores=len(os.sched_getaffinity(0)), workers=workers)


def _fresh(port: int, workload: Workload) -> float:
    return send(port, requests(workload.take(FRESH)), concurrency=CALLERS).per_second


def _large(port: int, workload: Workload) -> float:
    rendered = requests(workload.take(64 * LARGE), each=64)
    return 64 * send(port, rendered, concurrency=LARGE).per_second


def _cached(port: int, workload: Workload) -> float:
    again = requests(workload.take(1))
    send(port, again * 8, concurrency=8)  # each process has seen it
    return send(port, again * CACHED, concurrency=CALLERS).per_second


def _slow(port: int, workload: Workload) -> float:
    return send(port, requests(workload.take(FRESH)), concurrency=CALLERS).latency_ms(99)


if __name__ == "__main__":
    main()
