"""Chronos-2 checkpoints in the published configurations, served by one setting.

    python benchmarks/published.py [--configurations chronos-2-small,chronos-2]

For each configuration random weights are saved to a temporary directory, the service is started
with SHOPCAST_SERIES_CHECKPOINT as its only change, answers are compared with the library's, and
speed is measured beside it, in turns.
"""

import argparse
import os
import signal
import sys
import tempfile
from functools import partial
from pathlib import Path
from typing import Any

# The library runs in this process. Its threads wait awake for a short while only: as fast as the
# default on an idle machine, and several times faster on a busy one. To be set before torch loads.
os.environ.setdefault("GOMP_SPINCOUNT", "1000")

from callers import LoadError, send
from report import Figure, figure, in_turns, save, table
from servers import shopcast
from workload import HORIZON, POINTS, Offline, Workload, difference, requests, timed

from models.checkpoint import save_random

CONCURRENCY = 16
SERIES = 32  # a round
ROUNDS = 4
SEED = 2026
TOLERANCE = 1e-4  # of a history's deviation


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--configurations", default="chronos-2-small,chronos-2")
    given = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    figures: list[Figure] = []
    details: dict[str, Any] = {}
    for name in given.configurations.split(","):
        with tempfile.TemporaryDirectory() as directory:
            checkpoint = save_random(Path(directory) / name, name, seed=SEED)
            figures += measure(name, checkpoint, details)
        print(table(figures), flush=True)
    sizes = {"points": POINTS, "horizon": HORIZON, "series": SERIES, "concurrency": CONCURRENCY}
    print("written to", save("published", figures, seed=SEED, sizes=sizes, details=details))


def measure(name: str, checkpoint: Path, details: dict[str, Any]) -> list[Figure]:
    """Serve a checkpoint, compare its answers, and time it beside the library."""
    offline = Offline(checkpoint, threads=len(os.sched_getaffinity(0)))
    workload = Workload(SEED)
    parameters = sum(weight.numel() for weight in offline.pipeline.model.parameters())
    with shopcast(checkpoint) as port:
        apart = compare(port, offline, workload)
        print(f"{name}: {parameters:,} parameters, answers within {apart:.1e} of the library's")

        def library_rate() -> float:
            return SERIES / timed(partial(offline.predict, workload.take(SERIES)))

        def http_rate() -> float:
            rendered = requests(workload.take(SERIES))
            return SERIES / send(port, rendered, concurrency=CONCURRENCY).seconds

        def library_ms() -> float:
            return 1e3 * timed(partial(offline.predict, workload.take(1)))

        def http_ms() -> float:
            return send(port, requests(workload.take(1)), concurrency=1).latency_ms(50)

        rates = in_turns(ROUNDS, {"http": http_rate, "library offline": library_rate})
        latencies = in_turns(3 * ROUNDS, {"http": http_ms, "library offline": library_ms})
    details[name] = {
        "parameters": parameters,
        "largest_difference": apart,
        "series_per_second": rates,
        "latency_ms": latencies,
    }
    versus = ("http", "library offline")
    return [
        figure(f"{name}: throughput", rates, versus, unit="series/s"),
        figure(f"{name}: latency of one series", latencies, versus, unit="ms"),
    ]


def compare(port: int, offline: Offline, workload: Workload) -> float:
    """The largest difference of answers, in deviations; raises LoadError beyond TOLERANCE."""
    histories = workload.take(8)
    together = send(port, requests(histories, each=8), concurrency=1).body
    alone = send(port, requests(histories[:1]), concurrency=1).body
    apart = max(difference(together, histories, offline), difference(alone, histories[:1], offline))
    if apart > TOLERANCE:
        raise LoadError(f"answers differ from the library's by {apart:.1e} deviations")
    return apart


if __name__ == "__main__":
    main()
