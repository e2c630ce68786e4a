"""How a body of histories is best read: the same bodies, in one process, by turns.

    python benchmarks/parsing.py

Each reader ends with what the service needs, an array of float64 a series with NaN where null
stood, and has refused unknown fields, texts, booleans and numbers beyond float32.

- pydantic: the words of the OpenAPI description, then arrays
- msgspec: Structs of the same fields, decoded strictly, then arrays
- ours: orjson, then the checks of app.api.inputs (which also gather and place all mistakes)

The best of several turns is told, since what disturbs a turn only ever makes it slower.
"""

import asyncio
import time
from collections.abc import Callable
from typing import Any

import msgspec
import numpy as np
import orjson

from app.api.sales import read
from app.api.words import SalesRequest
from app.settings import Settings

TURNS = 7
SHAPES = ((1, 512), (256, 512), (1000, 512), (100, 8192))


class SeriesStruct(msgspec.Struct, forbid_unknown_fields=True):
    """One input."""

    target: list[float | None]
    item_id: str | int | None = None
    start: str | None = None
    past_covariates: dict[str, list[float | None] | None] | None = None
    future_covariates: dict[str, list[float | None] | None] | None = None
    out_of_stock: list[bool] | None = None


class RequestStruct(msgspec.Struct, forbid_unknown_fields=True):
    """The envelope."""

    inputs: list[SeriesStruct]
    parameters: dict[str, Any] | None = None


DECODER = msgspec.json.Decoder(RequestStruct)
LIMITS = Settings()


def by_pydantic(body: bytes) -> None:
    for each in SalesRequest.model_validate_json(body).inputs:
        np.array(each.target, dtype=np.float64)


def by_msgspec(body: bytes) -> None:
    for each in DECODER.decode(body).inputs:
        values = np.array(each.target, dtype=np.float64)
        assert not (np.abs(values) > 3.4028234663852886e38).any()


def by_ours(body: bytes) -> None:
    read(body, LIMITS)


READERS: dict[str, Callable[[bytes], object]] = {
    "pydantic": by_pydantic,
    "msgspec": by_msgspec,
    "ours": by_ours,
    "orjson alone": orjson.loads,
}


def main() -> None:
    print(f"{'series':>7} {'points':>7} {'MiB':>6}", *(f"{name:>16}" for name in READERS))
    for series, points in SHAPES:
        body = body_of(series, points)
        times = fastest(body)
        told = (
            f"{seconds * 1e3:9.2f} ({seconds / times['ours']:4.1f})" for seconds in times.values()
        )
        print(f"{series:>7} {points:>7} {len(body) / 2**20:6.2f}", *told)
    print("milliseconds (ratio to ours)\n")
    for way, late_ms in asyncio.run(lateness(body_of(1000, 512))).items():
        print(f"event loop late by at most {late_ms:6.1f} ms while 1,000 series are read {way}")


def body_of(series: int, points: int) -> bytes:
    """Daily sales, one value in a hundred missing."""
    rng = np.random.default_rng(0)
    inputs = [
        {
            "item_id": f"sku-{number}",
            "target": [
                None if gap else value
                for value, gap in zip(
                    rng.poisson(20, points).tolist(), rng.random(points) < 0.01, strict=True
                )
            ],
        }
        for number in range(series)
    ]
    return orjson.dumps({"inputs": inputs, "parameters": {"prediction_length": 28}})


def fastest(body: bytes) -> dict[str, float]:
    """Seconds of each reader, the readers by turns."""
    times = dict.fromkeys(READERS, float("inf"))
    for _ in range(TURNS):
        for name, reader in READERS.items():
            began_s = time.perf_counter()
            reader(body)
            times[name] = min(times[name], time.perf_counter() - began_s)
    return times


async def lateness(body: bytes) -> dict[str, float]:
    """The longest the event loop stood still, in milliseconds, for each way to read."""
    ways = {
        "on it": lambda: asyncio.sleep(0, by_ours(body)),
        "in a thread": lambda: asyncio.to_thread(by_ours, body),
    }
    return {way: min([await _late_ms(run) for _ in range(TURNS)]) for way, run in ways.items()}


async def _late_ms(run: Callable[[], Any]) -> float:
    late: list[float] = [0.0]

    async def watch() -> None:
        while True:
            asked_s = time.perf_counter()
            await asyncio.sleep(0.001)
            late.append(time.perf_counter() - asked_s - 0.001)

    watcher = asyncio.create_task(watch())
    await asyncio.sleep(0.005)
    late.clear()
    await run()
    await asyncio.sleep(0.002)
    watcher.cancel()
    return 1e3 * max(late)


if __name__ == "__main__":
    main()
