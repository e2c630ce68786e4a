"""How many customers a second the service answers for, and what one costs.

    python benchmarks/purchase_serving.py [--quick]

`shopcast serve` on loopback with the shipped checkpoint: one request of 1,000 customers, 64 callers
with one customer each, one caller alone; beside the network called in the benchmark's process. What
takes turns is measured round by round, as in serving.py, whose load generator this is. Processor
time is the server's own, from its /metrics. Every customer is new, so that no answer is cached.
"""

import argparse
import http.client
import os
import re
from dataclasses import asdict, dataclass, field
from functools import partial
from statistics import median
from typing import Any

# As in serving.py: threads in this process wait awake for a short while only.
os.environ.setdefault("GOMP_SPINCOUNT", "1000")

import numpy as np
import orjson
from callers import Load, render, send
from report import Figure, figure, in_turns, save, table
from servers import shopcast
from workload import timed

from app.api.purchase import read
from app.settings import Settings
from models.checkpoint import shipped
from models.events import EventsNetwork

PATH = "/predict/purchase-probability"
AS_OF = np.datetime64("2026-10-01T00:00:00", "s")
HORIZONS = [7, 30, 90]
SEED = 2026
CONCURRENCY = 64
LARGE = 1000  # customers of one request
MEAN_EVENTS = 11  # of a customer
DAYS = 360
TYPES = ("purchase", "view", "add_to_cart")
SHARES = (0.4, 0.45, 0.15)
CPU = re.compile(rb"^shopcast_process_cpu_seconds_total (\S+)", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Sizes:
    """How much is measured. single: customers a round, a request each."""

    rounds: int
    single: int
    alone: int  # requests a round, one after the other


FULL = Sizes(rounds=9, single=1000, alone=100)
QUICK = Sizes(rounds=3, single=500, alone=50)


class Shop:
    """Customers that were never asked for before."""

    def __init__(self, seed: int) -> None:
        self._rng = np.random.default_rng(seed)
        self._count = 0

    def requests(self, count: int, *, each: int = 1) -> list[bytes]:
        """One rendered request for every `each` customers."""
        return [render(PATH, self.body(each)) for _ in range(count // each)]

    def body(self, count: int) -> bytes:
        inputs = [self._customer() for _ in range(count)]
        parameters = {"as_of": str(AS_OF), "horizons_days": HORIZONS}
        return orjson.dumps({"inputs": inputs, "parameters": parameters})

    def _customer(self) -> dict[str, Any]:
        self._count += 1
        number = min(int(self._rng.geometric(1 / MEAN_EVENTS)), 200)
        ago_s = np.sort(self._rng.integers(60, DAYS * 86_400, number))[::-1]
        return {"customer_id": f"c-{self._count}", "events": [self._event(s) for s in ago_s]}

    def _event(self, ago_s: np.int64) -> dict[str, Any]:
        kind = str(self._rng.choice(TYPES, p=SHARES))
        event: dict[str, Any] = {"type": kind, "at": str(AS_OF - ago_s)}
        event |= {"item_id": f"i-{self._rng.integers(5000)}", "category": "c"}
        if kind == "purchase":
            event |= {"amount": round(float(self._rng.lognormal(3.0, 0.7)), 2), "quantity": 1}
        return event


@dataclass(slots=True)
class Bench:
    """One server, and what it was seen to do."""

    port: int
    sizes: Sizes
    network: EventsNetwork
    shop: Shop
    loads: dict[str, list[Load]] = field(default_factory=dict)
    cpu_ms: dict[str, list[float]] = field(default_factory=dict)  # of the server, a customer

    def rate(self, name: str, count: int, *, each: int = 1, concurrency: int = 1) -> float:
        """Customers a second through HTTP."""
        requests = self.shop.requests(count, each=each)
        before_s = _cpu_s(self.port)
        load = send(self.port, requests, concurrency=concurrency)
        self.cpu_ms.setdefault(name, []).append((_cpu_s(self.port) - before_s) / count * 1e3)
        self.loads.setdefault(name, []).append(load)
        return count / load.seconds

    def offline(self) -> float:
        """Customers a second of the network alone, which is given whole tasks."""
        question = read(self.shop.body(LARGE), Settings())
        tasks = question.tasks(question.own_context)
        return LARGE / timed(partial(self.network.predict, tasks))

    def latencies_ms(self, name: str, percent: float) -> float:
        """Median over the rounds that count."""
        return median(load.latency_ms(percent) for load in self.loads[name][1:])


def _cpu_s(port: int) -> float:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    connection.request("GET", "/metrics")
    found = CPU.search(connection.getresponse().read())
    connection.close()
    assert found, "the server tells no processor time"
    return float(found[1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="fewer and shorter rounds")
    parser.add_argument("--threads", type=int, help="threads of the network, everywhere")
    given = parser.parse_args()
    threads = given.threads or len(os.sched_getaffinity(0))
    network = EventsNetwork.load(shipped("purchase"), threads=threads)
    with shopcast(shipped("series"), threads=threads) as port:
        bench = Bench(port, QUICK if given.quick else FULL, network, Shop(SEED))
        figures, details = _measured(bench)
    print(table(figures))
    for name, facts in details["http"].items():
        print(name, {key: round(value, 2) for key, value in facts.items()})
    path = save(
        "-".join(["purchase-serving", *["quick"] * given.quick]),
        figures,
        seed=SEED,
        sizes={"events": MEAN_EVENTS, "threads": threads, **asdict(bench.sizes)},
        details=details,
    )
    print(f"written to {path}")


def _measured(bench: Bench) -> tuple[list[Figure], dict[str, Any]]:
    sizes, rate = bench.sizes, bench.rate
    rounds = in_turns(
        sizes.rounds,
        {
            "1,000 customers in one request": partial(rate, "one request", LARGE, each=LARGE),
            "64 callers": partial(rate, "64 callers", sizes.single, concurrency=CONCURRENCY),
            "one caller": partial(rate, "one caller", sizes.alone),
            "network": bench.offline,
        },
    )
    figures = [
        figure(name, rounds, (name, "network"), unit="customers/s")
        for name in rounds
        if name != "network"
    ]
    facts = {
        name: {
            "p50_ms": bench.latencies_ms(name, 50),
            "p99_ms": bench.latencies_ms(name, 99),
            "cpu_ms_a_customer": median(bench.cpu_ms[name][1:]),
            "customers_a_cpu_second": 1e3 / median(bench.cpu_ms[name][1:]),
        }
        for name in bench.loads
    }
    return figures, {"rounds": rounds, "http": facts}


if __name__ == "__main__":
    main()
