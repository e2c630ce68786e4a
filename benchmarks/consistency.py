"""Is the answer to a series the same alone, in one request with 499 others, and amid a storm?

Serves one checkpoint under every engine setting, asks for 500 series of mixed lengths, scales,
covariates and gaps in the three ways, with the cache off, and prints the largest difference
between any two answers to one series, in units of its scale: the standard deviation of its
history or of its forecast, whichever is larger (three points have hardly one of their own).

    python benchmarks/consistency.py [--checkpoint DIRECTORY] [--series 500]

Exits with 1 if a difference exceeds the tolerance: 1e-4 in float32, 2e-2 in bfloat16 and int8.
"""

import argparse
import asyncio
import random
import sys
from pathlib import Path
from typing import Any

import httpx
import numpy as np
from servers import shopcast

from models.checkpoint import shipped

CONCURRENCY = 64
HORIZON = 28
TOLERANCE = {
    ("onnx", "float32"): 1e-4,
    ("onnx", "int8"): 2e-2,
    ("torch", "float32"): 1e-4,
    ("torch", "bfloat16"): 2e-2,
}
SEED = 7

Entry = dict[str, Any]


def main() -> int:
    """Print a row for each engine setting."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--checkpoint", type=Path, default=shipped("series"))
    parser.add_argument("--series", type=int, default=500)
    options = parser.parse_args()
    entries = make_entries(options.series)
    print(f"{len(entries)} series, horizon {HORIZON}, seed {SEED}; differences in scales\n")
    print("| runtime, dtype | adjustment | alone / together | alone / storm | tolerance |")
    print("| --- | --- | --- | --- | --- |")
    failed = False
    for (runtime, dtype), tolerance in TOLERANCE.items():
        for adjustment in ("on", "off"):
            settings = {"runtime": runtime, "dtype": dtype, "seasonal_adjustment": adjustment}
            with shopcast(options.checkpoint, cache_bytes=0, **settings) as port:
                together, storm = asyncio.run(compare(port, entries))
            found = f"{together:.1e} | {storm:.1e} | {tolerance:.0e}"
            print(f"| {runtime}, {dtype} | {adjustment} | {found} |", flush=True)
            failed |= max(together, storm) > tolerance
    return int(failed)


def make_entries(count: int) -> list[Entry]:
    """Inputs of many kinds, each with an id."""
    rng = np.random.default_rng(SEED)
    return [_entry(rng, number) for number in range(count)]


async def compare(port: int, entries: list[Entry]) -> tuple[float, float]:
    """The largest difference to the answers given alone: of one request, and amid a storm."""
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=300) as client:
        alone = [(await ask(client, [entry]))[0] for entry in entries]
        together = await ask(client, entries)
        storm = await amid_storm(client, entries)
    return (
        max(map(difference, entries, alone, together)),
        max(map(difference, entries, alone, storm)),
    )


async def amid_storm(client: httpx.AsyncClient, entries: list[Entry]) -> list[Entry]:
    """Every input a request of its own, in random order, beside requests of several strangers."""
    order = list(range(len(entries)))
    shuffler = random.Random(SEED)  # noqa: S311 - an order, not a secret
    shuffler.shuffle(order)
    turn = asyncio.Semaphore(CONCURRENCY)

    async def one(number: int) -> Entry:
        strangers = shuffler.sample(entries, 3) if number % 3 == 0 else []
        strangers = [entry for entry in strangers if entry is not entries[number]]
        async with turn:
            return (await ask(client, [*strangers, entries[number]]))[-1]

    answers = await asyncio.gather(*map(one, order))
    return [answer for _, answer in sorted(zip(order, answers, strict=True), key=lambda p: p[0])]


async def ask(client: httpx.AsyncClient, entries: list[Entry]) -> list[Entry]:
    """The predictions for some inputs."""
    parameters = {"prediction_length": HORIZON, "freq": "D", "quantile_levels": [0.01, 0.5, 0.99]}
    body = {"inputs": entries, "parameters": parameters}
    response = await client.post("/predict/sales", json=body)
    response.raise_for_status()
    predictions: list[Entry] = response.json()["predictions"]
    return predictions


def difference(entry: Entry, one: Entry, other: Entry) -> float:
    """The largest difference of two predictions for one input, in units of its scale."""
    assert one["item_id"] == other["item_id"] == entry["item_id"]
    keys = ("mean", "0.01", "0.5", "0.99")
    history = np.array(entry["target"], dtype=float)
    forecasts = [np.array([answer[key] for key in keys]) for answer in (one, other)]
    scale = max(float(np.nanstd(history)), float(forecasts[0].std()), 1e-12)
    return float(np.abs(forecasts[0] - forecasts[1]).max()) / scale


def _entry(rng: np.random.Generator, number: int) -> Entry:
    length = int(np.exp(rng.uniform(np.log(3), np.log(1500))))
    week = 1 + 0.3 * rng.normal(size=7)[np.arange(length) % 7]
    target = 10 ** rng.uniform(-3, 6) * week * rng.gamma(5, 0.2, length)
    values = [None if rng.random() < 0.05 else float(value) for value in target]
    entry: Entry = {"item_id": number, "start": "2024-02-27", "target": values}
    if all(value is None for value in values):
        values[0] = 1.0
    if number % 4 == 0:
        price = rng.choice([7.9, 9.9], length + HORIZON).tolist()
        entry["past_covariates"] = {
            "price": price[:length],
            "weather": rng.normal(size=length).tolist(),
        }
        entry["future_covariates"] = {"price": price[length:]}
    return entry


if __name__ == "__main__":
    sys.exit(main())
