"""Promotions and rollbacks in the middle of a load: nobody fails, nothing is mixed, nothing waits.

Invariant: every answer is held against what each version says to the same question alone, so that
one that came from two versions, or from another than it names, is seen.

    python benchmarks/swap.py [--checkpoint DIR] [--swaps 6] [--between 8]
"""

import argparse
import asyncio
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import numpy as np
from report import save
from rich.console import Console
from safetensors.torch import load_file, save_file
from servers import shopcast

from app.db import open_database
from app.settings import Settings
from app.versions import Manifest, Versions
from models.checkpoint import shipped

CLIENTS = 32
SERIES, POINTS, HORIZON = 4, 64, 14
TOLERANCE = 1e-4  # of a series' scale
CHECKED = 600  # answers that are asked for again from both versions
AFTER_S = 0.5  # what ends so soon after a swap may still have met it
TARGET = 3.0

Inputs = list[dict[str, Any]]
Answer = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Told:
    """An answer on its way: when it was asked for and came, and what it says."""

    inputs: Inputs
    began_s: float
    ended_s: float
    version: int
    means: np.ndarray[Any, np.dtype[np.float64]]


def main() -> None:
    options = _options()
    with tempfile.TemporaryDirectory() as directory:
        data = Path(directory) / "data"
        with shopcast(options.checkpoint, data_dir=data, cache_bytes=0, worker="external") as port:
            _register_other(options.checkpoint, data, Path(directory) / "other")
            found = asyncio.run(_measure(port, options))
    Console().print_json(data=found)
    if not options.quick:
        save("swap", [], **found)
    sys.exit(bool(found["failed"] or found["mixed"] or found["p99_ratio"] > TARGET))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--checkpoint", type=Path, default=shipped("series"))
    parser.add_argument("--swaps", type=int, default=6, help="promotions and rollbacks, in turns")
    parser.add_argument("--between", type=float, default=8.0, help="seconds of load before each")
    parser.add_argument("--quick", action="store_true", help="keep no record")
    return parser.parse_args()


def _register_other(checkpoint: Path, data: Path, directory: Path) -> None:
    """A second version: the same network with every weight a little larger."""
    directory.mkdir()
    for file in checkpoint.glob("*.json"):
        (directory / file.name).write_bytes(file.read_bytes())
    weights = load_file(checkpoint / "model.safetensors")
    larger = {name: each * 1.01 for name, each in weights.items()}
    save_file(larger, directory / "model.safetensors", metadata={"format": "pt"})
    settings = Settings(data_dir=data)
    database = open_database(settings.database)
    Versions(database, settings).register("sales", directory, Manifest("finetune", parent=1))
    database.dispose()


async def _measure(port: int, options: argparse.Namespace) -> dict[str, Any]:
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=None)
    base = f"http://127.0.0.1:{port}"
    async with httpx.AsyncClient(base_url=base, timeout=60, limits=limits) as client:
        told: list[Told] = []
        failures: list[str] = []
        stop = asyncio.Event()
        callers = [
            asyncio.create_task(_call(client, number, told, failures, stop))
            for number in range(CLIENTS)
        ]
        await asyncio.sleep(options.between)  # warm
        swaps = []
        for number in range(options.swaps):
            await asyncio.sleep(options.between)
            path = "versions/2/promote" if number == 0 else "rollback"
            began_s = time.perf_counter()
            (await client.post(f"/models/sales/{path}")).raise_for_status()
            swaps.append((began_s, time.perf_counter()))
            await asyncio.sleep(AFTER_S)
        stop.set()
        await asyncio.gather(*callers)
        mixed = await _mixed(client, told)
    return _figures(told, swaps, between_s=options.between) | {
        "answers": len(told),
        "failed": len(failures),
        "failures": failures[:3],
        "checked": min(CHECKED, len(told)),
        "mixed": mixed,
        "versions": sorted({each.version for each in told}),
    }


async def _call(
    client: httpx.AsyncClient,
    number: int,
    told: list[Told],
    failures: list[str],
    stop: asyncio.Event,
) -> None:
    """Ask again and again, something new each time."""
    random = np.random.default_rng(number)
    while not stop.is_set():
        inputs = [{"target": _history(random)} for _ in range(SERIES)]
        began_s = time.perf_counter()
        try:
            answer = await _ask(client, inputs)
        except httpx.HTTPError as error:
            failures.append(repr(error))
            continue
        ended_s = time.perf_counter()
        version = answer["model"]["version"]
        told.append(Told(inputs, began_s, ended_s, version, _means(answer)))


def _history(random: np.random.Generator) -> list[float]:
    level, days = random.uniform(20, 200), np.arange(POINTS)
    season = 1 + 0.3 * np.sin(2 * np.pi * (days + random.integers(7)) / 7)
    values: list[float] = random.poisson(level * season).astype(float).tolist()
    return values


async def _ask(client: httpx.AsyncClient, inputs: Inputs, version: int | None = None) -> Answer:
    body = {"inputs": inputs, "parameters": {"prediction_length": HORIZON, "model": version}}
    response = await client.post("/predict/sales", json=body)
    response.raise_for_status()
    answer: Answer = response.json()
    return answer


def _means(answer: Answer) -> np.ndarray[Any, np.dtype[np.float64]]:
    return np.array([each["mean"] for each in answer["predictions"]])


async def _mixed(client: httpx.AsyncClient, told: Sequence[Told]) -> int:
    """Answers that are not, in all their series, what the version they name says alone."""
    wrong = 0
    chosen = np.random.default_rng(0).permutation(len(told))[:CHECKED]
    for each in (told[position] for position in chosen):
        scale = np.array([np.std(one["target"]) for one in each.inputs])[:, None]
        apart = {}
        for version in (1, 2):
            alone = _means(await _ask(client, each.inputs, version))
            apart[version] = float((np.abs(alone - each.means) / scale).max())
        right = apart[each.version] <= TOLERANCE < apart[3 - each.version]
        wrong += not right
    return wrong


def _figures(
    told: Sequence[Told], swaps: Sequence[tuple[float, float]], *, between_s: float
) -> dict[str, Any]:
    """Times of what met a swap beside those of what came in the seconds before one."""
    during = [
        each
        for each in told
        if any(each.ended_s > began and each.began_s < ended + AFTER_S for began, ended in swaps)
    ]
    before = [
        each
        for each in told
        if any(began - between_s / 2 < each.began_s and each.ended_s < began for began, _ in swaps)
    ]
    p99_ms = {name: _p99_ms(part) for name, part in (("before", before), ("during", during))}
    return {
        "clients": CLIENTS,
        "requests_before": len(before),
        "requests_during": len(during),
        "swap_s": [round(ended - began, 3) for began, ended in swaps],
        "p99_ms_before": p99_ms["before"],
        "p99_ms_during": p99_ms["during"],
        "p99_ratio": round(p99_ms["during"] / p99_ms["before"], 2),
    }


def _p99_ms(part: Sequence[Told]) -> float:
    return round(1e3 * float(np.quantile([each.ended_s - each.began_s for each in part], 0.99)), 1)


if __name__ == "__main__":
    main()
