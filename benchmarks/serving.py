"""The speed of the service, beside the library called offline and beside other servers.

    python benchmarks/serving.py [--quick] [--only a,c,e] [--peers none]

One machine, one checkpoint, one run: whatever is compared takes turns round by round, and the
median of the rounds' ratios counts. Servers are processes of their own on loopback. What stands
around the network is left out unless a line says so, so that both sides do the same work; answers
are compared with the library's before anything is timed.
"""

import argparse
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

# The library runs in this process. Its threads wait awake for a short while only: as fast as the
# default on an idle machine, and several times faster on a busy one. To be set before torch loads.
os.environ.setdefault("GOMP_SPINCOUNT", "1000")

from callers import Load, LoadError, render, send
from report import Figure, Rounds, figure, in_turns, save, table
from servers import ServerError, peer, shopcast
from workload import (
    HORIZON,
    LEVELS,
    OFFLINE_BATCH,
    POINTS,
    Offline,
    Workload,
    difference,
    requests,
    timed,
)

from models.base import Series, SeriesTask
from models.checkpoint import new_series_model, series_config, shipped
from models.series import SeriesNetwork

CONCURRENCY = 64
SEED = 2026
WORKERS_S = 60.0
TOLERANCE = 1e-4  # of a history's deviation
PATH = "/predict/sales"

# batch size and wait of each peer; BentoML's is the latency that it aims to stay below
BATCHING = ((16, 2), (32, 5), (64, 10))
PEERS = {
    "litserve": BATCHING,
    "ray": BATCHING,
    "bentoml": ((32, 1000), (32, 10_000), (64, 10_000)),
    "mlserver": BATCHING,
}


@dataclass(frozen=True, slots=True)
class Sizes:
    """How much is measured. requests: a round, at full concurrency."""

    rounds: int
    requests: int
    single: int  # requests a round, one after the other
    cached: int
    sweep: int  # requests of one try of a peer's batching


FULL = Sizes(rounds=15, requests=512, single=100, cached=4096, sweep=512)
QUICK = Sizes(rounds=3, requests=256, single=50, cached=2048, sweep=256)


@dataclass(slots=True)
class Bench:
    """What all measurements share."""

    checkpoint: Path  # without what stands around the network, which the library does not have
    shipped: Path
    sizes: Sizes
    threads: int
    pythons: dict[str, str]
    offline: Offline
    workload: Workload
    servers: ExitStack
    figures: list[Figure] = field(default_factory=list)
    details: dict[str, Any] = field(default_factory=dict)
    _ports: dict[tuple[tuple[str, object], ...], int] = field(default_factory=dict)

    def shopcast(self, **settings: object) -> int:
        """The port of a server of the network alone, with these settings, its answers verified."""
        settings = {"threads": self.threads, **settings}
        key = tuple(sorted(settings.items()))
        if key not in self._ports:
            self._ports[key] = self.servers.enter_context(shopcast(self.checkpoint, **settings))
            self._verify(self._ports[key])
        return self._ports[key]

    def shopcast_as_shipped(self) -> int:
        """The port of a server of the network with what stands around it."""
        settings = {"threads": self.threads}
        return self.servers.enter_context(shopcast(self.shipped, **settings))

    def offline_rate(self, count: int) -> float:
        """Series a second of the library, called once for all of them."""
        histories = self.workload.take(count)
        seconds = timed(partial(self.offline.predict, histories))
        return count / seconds

    def http_load(self, port: int, count: int, *, path: str = PATH, each: int = 1) -> Load:
        """Send `count` new histories, `each` of them a request."""
        rendered = requests(self.workload.take(count), path=path, each=each)
        return send(port, rendered, concurrency=CONCURRENCY)

    def http_rate(self, port: int, count: int, *, each: int = 1) -> float:
        """Series a second through HTTP."""
        return count / self.http_load(port, count, each=each).seconds

    def _verify(self, port: int) -> None:
        histories = self.workload.take(16)
        answer = send(port, requests(histories, each=16), concurrency=1).body
        if (apart := difference(answer, histories, self.offline)) > TOLERANCE:
            raise LoadError(f"answers differ from the library's by {apart:.1e} deviations")


def one_series_a_request(bench: Bench) -> None:
    """(a) The library offline against 64 callers with one series each."""
    count = bench.sizes.requests
    ports = {
        "http": bench.shopcast(),
        "http, cache off": bench.shopcast(cache_bytes=0),
        "http, adjusted": bench.shopcast_as_shipped(),
    }
    measures: dict[str, Callable[[], float]] = {
        name: partial(bench.http_rate, port, count) for name, port in ports.items()
    }
    rounds = in_turns(
        bench.sizes.rounds, {"library offline": partial(bench.offline_rate, count), **measures}
    )
    bench.details["a"] = rounds
    names = {
        "http": "(a) one series a request",
        "http, cache off": "(a) likewise, cache off",
        "http, adjusted": "(a) likewise, with what stands around the network",
    }
    for key, name in names.items():
        target = None if key == "http, adjusted" else 0.9
        bench.figures.append(
            figure(name, rounds, (key, "library offline"), unit="series/s", target=target)
        )


def many_series_a_request(bench: Bench) -> None:
    """(b) The library offline against one request of 256 series."""
    port = bench.shopcast()
    rounds = in_turns(
        bench.sizes.rounds,
        {
            "library offline": partial(bench.offline_rate, 256),
            "http": partial(bench.http_rate, port, 256, each=256),
        },
    )
    bench.details["b"] = rounds
    name = "(b) 256 series in one request"
    bench.figures.append(
        figure(name, rounds, ("http", "library offline"), unit="series/s", target=1.0)
    )


def one_caller(bench: Bench) -> None:
    """(c) The bare forward pass of one series against one caller."""
    port, count = bench.shopcast(), bench.sizes.single
    network = SeriesNetwork.load(bench.checkpoint, threads=bench.threads)

    def http_ms() -> float:
        load = send(port, requests(bench.workload.take(count)), concurrency=1)
        return load.latency_ms(50)

    def library_ms() -> float:
        return median(1e3 * timed(partial(bench.offline.forward, one)) for one in take(count))

    def network_ms() -> float:
        tasks = [SeriesTask((Series(one[None]),), HORIZON, LEVELS) for one in take(count)]
        return median(1e3 * timed(partial(network.predict, [task])) for task in tasks)

    take = bench.workload.take
    rounds = in_turns(
        bench.sizes.rounds,
        {"http": http_ms, "library forward": library_ms, "own network": network_ms},
    )
    bench.details["c"] = rounds
    name = "(c) latency of one caller"
    add = bench.figures.append
    add(figure(name, rounds, ("http", "library forward"), unit="ms", target=1.6, sense="at most"))
    add(figure(name, rounds, ("http", "own network"), unit="ms"))


def peers(bench: Bench, names: list[str]) -> None:
    """(d) Other servers on the same network, each at the best of several settings."""
    outcome: dict[str, Any] = {}
    bench.details["d"] = outcome
    for name in names:
        try:
            outcome[name] = _one_peer(bench, name)
        except (ServerError, LoadError) as error:
            notes = " ".join(getattr(error, "__notes__", []))
            outcome[name] = {"failed": f"{error}", "notes": notes[-500:]}
            print(f"{name} could not be measured: {error}\n{notes}", flush=True)


def _one_peer(bench: Bench, name: str) -> dict[str, Any]:
    tries = {batching: _try(bench, name, batching) for batching in PEERS[name]}
    batch, wait_ms = max(tries, key=lambda batching: tries[batching])
    if not tries[batch, wait_ms]:
        raise LoadError("no setting answered every request")
    ours, count = bench.shopcast(), bench.sizes.requests
    loads: dict[str, list[Load]] = {"http": [], name: []}

    def rate(key: str, port: int, path: str) -> float:
        load = bench.http_load(port, count, path=path)
        loads[key].append(load)
        return load.per_second

    with _peer(bench, name, batch, wait_ms) as port:
        measures = {"http": partial(rate, "http", ours, PATH)}
        measures[name] = partial(rate, name, port, "/predict")
        rounds = in_turns(bench.sizes.rounds, measures)
    slow: Rounds = {key: [one.latency_ms(99) for one in loads[key][1:]] for key in loads}
    label = f"(d) {name}: "
    bench.figures += [
        figure(
            f"{label}throughput", rounds, ("http", name), unit="series/s", target=1, sense="above"
        ),
        figure(f"{label}p99", slow, ("http", name), unit="ms", target=1, sense="at most"),
    ]
    return {
        "version": peer_version(name, bench.pythons.get(name, sys.executable)),
        "batch": batch,
        "wait_ms": wait_ms,
        "tries": {f"{size} rows, {wait} ms": rate for (size, wait), rate in tries.items()},
        "series_per_second": rounds,
        "p99_ms": slow,
    }


def _try(bench: Bench, name: str, batching: tuple[int, int]) -> float:
    """Requests a second of a peer with one setting; 0 if it did not answer them all."""
    with _peer(bench, name, *batching) as port:
        try:
            loads = [bench.http_load(port, bench.sizes.sweep, path="/predict") for _ in range(3)]
        except LoadError as error:
            print(f"{name} {batching}: {error}", flush=True)
            return 0.0
    return median(load.per_second for load in loads[1:])


@contextmanager
def _peer(bench: Bench, name: str, batch: int, wait_ms: float) -> Iterator[int]:
    """The port of a peer that answers."""
    python = bench.pythons.get(name, sys.executable)
    options = {"threads": bench.threads, "batch": batch, "wait_ms": wait_ms}
    with peer(f"with_{name}", bench.checkpoint, python=python, **options) as port:
        await_answer(port, requests(bench.workload.take(1), path="/predict"))
        yield port


def await_answer(port: int, rendered: list[bytes]) -> None:
    """Ask until the workers behind the door are up as well."""
    ends_s = time.monotonic() + WORKERS_S
    while True:
        try:
            send(port, rendered, concurrency=1)
        except LoadError:
            if time.monotonic() > ends_s:
                raise
            time.sleep(0.5)
        else:
            return


def peer_version(name: str, python: str) -> str:
    """Of the package of that name in an environment."""
    code = f"import importlib.metadata as m; print(m.version({name!r}))"
    done = subprocess.run([python, "-c", code], capture_output=True, text=True, check=False)
    return done.stdout.strip()


def cached(bench: Bench) -> None:
    """(e) The same request again and again, against a route that does nothing."""
    again = bench.workload.take(1)
    port = bench.shopcast()
    first = send(port, requests(again), concurrency=1)
    answer = send(port, requests(again), concurrency=1).body
    assert b'"cached":[true]' in answer, answer[-200:]
    bare = bench.servers.enter_context(peer("bare", bench.checkpoint))
    send(bare, [render("/set", answer)], concurrency=1)

    def rate(to: int, path: str) -> float:
        rendered = requests(again, path=path) * bench.sizes.cached
        return send(to, rendered, concurrency=CONCURRENCY).per_second

    measures = {
        "http": partial(rate, port, PATH),
        "bare route": partial(rate, bare, "/echo/unread"),
        "bare route that parses": partial(rate, bare, "/echo/parsed"),
    }
    rounds = in_turns(bench.sizes.rounds, measures)
    bench.details["e"] = {**rounds, "answer_bytes": len(answer), "first_ms": first.latency_ms(50)}
    name = "(e) cached answers"
    unit = "requests/s"
    bench.figures += [
        figure(name, rounds, ("http", "bare route"), unit=unit, target=0.6),
        figure(name, rounds, ("http", "bare route that parses"), unit=unit),
    ]


def large_body(bench: Bench) -> None:
    """(f) Where the time of one request of 1,000 series goes."""
    port = bench.shopcast()
    rendered = requests(bench.workload.take(1000), each=1000)
    load = send(port, rendered, concurrency=1)
    head = load.head.decode().lower()
    line = re.search(r"\r\nserver-timing: ([^\r]*)", head)
    shares = dict(re.findall(r"([a-z]+);dur=([0-9.]+)", line[1] if line else ""))
    found = {name: float(value) for name, value in shares.items()}
    bench.details["f"] = {
        "wall_ms": load.seconds * 1e3,
        "body_bytes": len(rendered[0]),
        "answer_bytes": len(load.body),
        "server_timing_ms": found,
    }
    print(f"(f) 1,000 series in one request: {load.seconds * 1e3:.0f} ms, of which {found}")


MEASUREMENTS: dict[str, Callable[[Bench], None]] = {
    "a": one_series_a_request,
    "b": many_series_a_request,
    "c": one_caller,
    "e": cached,
    "f": large_body,
}


def main() -> None:
    given = _arguments()
    # a benchmark that is told to end takes its servers along
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    with ExitStack() as stack:
        bench = _bench(given, stack)
        for letter in given.only.split(","):
            if letter == "d":
                peers(bench, [name for name in given.peers.split(",") if name != "none"])
            else:
                MEASUREMENTS[letter](bench)
            print(table(bench.figures), flush=True)
    path = save(
        "-".join(["serving", *["quick"] * given.quick, *given.only.split(",")]),
        bench.figures,
        seed=SEED,
        checkpoint=_describe(bench),
        sizes={
            "points": POINTS,
            "horizon": HORIZON,
            "concurrency": CONCURRENCY,
            "threads": bench.threads,
            "offline_batch": OFFLINE_BATCH,
            **asdict(bench.sizes),
        },
        environment={"GOMP_SPINCOUNT": os.environ["GOMP_SPINCOUNT"]},
        load_generator="asyncio protocols under uvloop, closed loop, in the benchmark's process",
        details=bench.details,
    )
    print(f"written to {path}")


def _bench(given: argparse.Namespace, stack: ExitStack) -> Bench:
    checkpoint = given.checkpoint or shipped("series")
    if not checkpoint.exists():
        checkpoint = _stand_in(Path(stack.enter_context(tempfile.TemporaryDirectory())))
        print("no shipped checkpoint: random weights of the same shape serve in its place")
    threads = given.threads or len(os.sched_getaffinity(0))
    plain = bare(checkpoint, Path(stack.enter_context(tempfile.TemporaryDirectory())))
    return Bench(
        checkpoint=plain,
        shipped=checkpoint,
        sizes=QUICK if given.quick else FULL,
        threads=threads,
        pythons=dict(pair.split("=", 1) for pair in given.peer_python),
        offline=Offline(checkpoint, threads=threads),
        workload=Workload(SEED),
        servers=stack,
    )


def bare(checkpoint: Path, directory: Path) -> Path:
    """A copy of the checkpoint that says nothing of what should stand around it."""
    copy = Path(shutil.copytree(checkpoint, directory / checkpoint.name))
    config = json.loads((copy / "config.json").read_text())
    config.pop("shopcast", None)
    (copy / "config.json").write_text(json.dumps(config))
    return copy


def _stand_in(directory: Path) -> Path:
    architecture = {"d_model": 160, "d_kv": 32, "d_ff": 640, "num_layers": 4, "num_heads": 5}
    forecasting = {"context_length": 1024, "max_output_patches": 16}
    model = new_series_model(series_config(architecture, forecasting), seed=SEED)
    model.save_pretrained(directory / "series")
    return directory / "series"


def _describe(bench: Bench) -> dict[str, Any]:
    model = bench.offline.pipeline.model
    return {
        "name": bench.checkpoint.name,
        "parameters": sum(weight.numel() for weight in model.parameters()),
        "d_model": model.config.d_model,
        "layers": model.config.num_layers,
    }


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="fewer and shorter rounds")
    parser.add_argument("--only", default="a,b,c,d,e,f", help="which measurements, as a,c,e")
    parser.add_argument("--peers", default=",".join(PEERS), help="which peers, or none")
    parser.add_argument(
        "--peer-python",
        action="append",
        default=[],
        metavar="NAME=PATH",
        help="interpreter of a peer that lives in an environment of its own",
    )
    parser.add_argument("--checkpoint", type=Path, help="default: the shipped one")
    parser.add_argument("--threads", type=int, help="threads of the network, everywhere")
    return parser.parse_args()


if __name__ == "__main__":
    main()
