"""What computes the series network fastest: PyTorch, ONNX Runtime, ONNX Runtime in int8.

The bare forward pass of one network in each of them by turns, in one process: rows × context at a
horizon of two patches, on one thread and on two, and, as the service runs on a CPU, one batch a
thread side by side. Printed are the medians of the rounds in milliseconds and series a second, and
the median over rounds of the ratio to PyTorch in the same round, so that what else the machine does
falls on all of them alike. Run it with OMP_WAIT_POLICY=PASSIVE, as `shopcast serve` runs.

    OMP_WAIT_POLICY=PASSIVE python benchmarks/runtimes.py [--configuration chronos-2-small]
    python benchmarks/runtimes.py --service

With --service the whole service is measured in their stead, by the load of benchmarks/serving.py.
"""

import argparse
import os
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from functools import partial
from importlib.metadata import version
from itertools import product
from pathlib import Path
from statistics import median

import torch
from callers import send
from report import Rounds, in_turns
from servers import shopcast
from workload import Workload, requests

from models.checkpoint import CONFIGURATIONS, load_series, save_random, shipped
from models.forward import Forward
from models.runtime import OnnxForward

CPU = torch.device("cpu")
PATCHES = 2
SIDE_BY_SIDE = 2  # threads of the service
LEAST_S = 0.02  # a round repeats what is shorter

SETTINGS: dict[str, dict[str, str]] = {
    "torch": {"runtime": "torch"},
    "onnx": {"runtime": "onnx"},
    "int8": {"dtype": "int8"},
}

Pass = Callable[..., torch.Tensor]


def main() -> None:
    """Print a table for one batch at a time, and one for batches side by side."""
    options = _options()
    torch.manual_seed(0)
    if options.service:
        service(options.rounds)
        return
    with tempfile.TemporaryDirectory() as directory:
        passes = load(options.configuration, Path(directory))
    names = ", ".join(f"{name} {version(name)}" for name in ("torch", "onnxruntime", "onnx"))
    print(f"{options.configuration}; {names}; {torch.backends.cpu.get_cpu_capability()}")
    print(f"OMP_WAIT_POLICY={os.environ.get('OMP_WAIT_POLICY', '')}, {options.rounds} rounds\n")
    head = " | ".join(f"{name}, ms (series/s) | ratio" for name in passes)
    print(f"| threads | rows | context | {head} |")
    print("| --- " * (3 + 2 * len(passes)) + "|")
    for threads, rows, context in product(options.threads, options.rows, options.contexts):
        seconds = alone(passes, rows, context, threads=threads, rounds=options.rounds)
        print(_line(str(threads), rows, context, seconds, batches=1), flush=True)
    for rows, context in product(options.rows, options.contexts):
        seconds = beside(passes, rows, context, rounds=options.rounds)
        label = f"{SIDE_BY_SIDE} × 1"
        print(_line(label, rows, context, seconds, batches=SIDE_BY_SIDE), flush=True)


def service(rounds: int) -> None:
    """One server for each runtime, with the shipped checkpoint, asked by turns."""
    workload = Workload(0)
    with ExitStack() as stack:
        ports = {
            name: stack.enter_context(shopcast(shipped("series"), cache_bytes=0, **settings))
            for name, settings in SETTINGS.items()
        }

        def rate(port: int, count: int, each: int) -> float:
            return (
                count
                / send(port, requests(workload.take(count), each=each), concurrency=64).seconds
            )

        def per_second(port: int) -> float:
            return 1e3 / send(port, requests(workload.take(50)), concurrency=1).latency_ms(50)

        print("| measured | " + " | ".join(f"{name} | ratio" for name in ports) + " |")
        print("| --- " * (1 + 2 * len(ports)) + "|")
        measures: dict[str, Callable[[int], float]] = {
            "64 callers, series/s": partial(rate, count=256, each=1),
            "256 series in a request, series/s": partial(rate, count=256, each=256),
            "one caller, 1 / median latency in s": per_second,
        }
        for label, measure in measures.items():
            found = in_turns(rounds, {name: partial(measure, port) for name, port in ports.items()})
            print(f"| {label} | {' | '.join(_rates(found))} |", flush=True)


def _rates(found: Rounds) -> list[str]:
    """Median and median ratio of each."""
    cells = []
    for rates in found.values():
        ratios = [own / other for own, other in zip(rates, found["torch"], strict=True)]
        cells += [f"{median(rates):,.0f}", f"{median(ratios):.2f}"]
    return cells


def load(configuration: str, directory: Path) -> dict[str, Pass]:
    """The same weights in each runtime; ONNX Runtime has as many threads as are ever asked for."""
    random = configuration != "shipped"
    path = save_random(directory / "network", configuration) if random else shipped("series")
    forward = Forward(load_series(path).model, device=CPU, dtype=torch.float32)
    return {
        "torch": forward,
        "onnx": OnnxForward(forward, int8=False, threads=SIDE_BY_SIDE),
        "int8": OnnxForward(forward, int8=True, threads=SIDE_BY_SIDE),
    }


def alone(
    passes: dict[str, Pass], rows: int, context: int, *, threads: int, rounds: int
) -> dict[str, list[float]]:
    """Seconds of one batch in each round."""
    torch.set_num_threads(threads)
    inputs = _inputs(rows, context)
    return _by_turns(
        {name: lambda one=one: _run(one, inputs) for name, one in passes.items()}, rounds
    )


def beside(
    passes: dict[str, Pass], rows: int, context: int, *, rounds: int
) -> dict[str, list[float]]:
    """Seconds of two batches side by side, on a thread each, in each round."""
    inputs = _inputs(rows, context)
    with ThreadPoolExecutor(SIDE_BY_SIDE, initializer=torch.set_num_threads, initargs=(1,)) as pool:

        def both(one: Pass) -> None:
            for done in [pool.submit(_run, one, inputs) for _ in range(SIDE_BY_SIDE)]:
                done.result()

        return _by_turns({name: lambda one=one: both(one) for name, one in passes.items()}, rounds)


def _by_turns(calls: dict[str, Callable[[], object]], rounds: int) -> dict[str, list[float]]:
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    repeats = max(1, round(LEAST_S / max(_timed(call, 1) for call in calls.values())))
    for number in range(rounds):
        order = list(calls) if number % 2 else list(reversed(calls))
        for name in order:
            seconds[name].append(_timed(calls[name], repeats))
    return seconds


def _timed(call: Callable[[], object], repeats: int) -> float:
    began = time.perf_counter()
    for _ in range(repeats):
        call()
    return (time.perf_counter() - began) / repeats


def _run(one: Pass, inputs: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
    return one(*inputs, groups=None, n_patches=PATCHES)


def _inputs(rows: int, context: int) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.randn(rows, context), torch.full((rows, PATCHES * 16), torch.nan)


def _line(
    threads: str, rows: int, context: int, seconds: dict[str, list[float]], *, batches: int
) -> str:
    cells = [threads, str(rows), str(context)]
    for times in seconds.values():
        middle = median(times)
        ratios = [torch_s / own_s for torch_s, own_s in zip(seconds["torch"], times, strict=True)]
        cells.append(f"{1e3 * middle:.1f} ({batches * rows / middle:,.0f})")
        cells.append(f"{median(ratios):.2f}")
    return f"| {' | '.join(cells)} |"


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    choices = ("shipped", *CONFIGURATIONS)
    parser.add_argument("--configuration", choices=choices, default="shipped")
    parser.add_argument("--rows", type=int, nargs="*", default=[1, 8, 32, 256])
    parser.add_argument("--contexts", type=int, nargs="*", default=[64, 512, 1024])
    parser.add_argument("--threads", type=int, nargs="*", default=[1, 2])
    parser.add_argument("--service", action="store_true", help="measure through HTTP")
    parser.add_argument("--rounds", type=int, default=9)
    return parser.parse_args()


if __name__ == "__main__":
    main()
