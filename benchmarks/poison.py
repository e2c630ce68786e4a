"""Bad company: 200 callers at once, 20 of them malformed, 20 gone before they are answered.

Invariant: whoever behaves gets the answer that the same request gets when nobody else is there,
within 1e-4 of the scale of its series.

    python benchmarks/poison.py [--checkpoint DIR] [--rounds 3]
"""

import argparse
import asyncio
import math
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import orjson
from rich.console import Console
from rich.table import Table
from servers import shopcast

from models.checkpoint import save_random

WELL_BEHAVED, MALFORMED, CANCELLED = 160, 20, 20
TOLERANCE = 1e-4
LEAVE_S = (0.02, 0.4)  # when a caller who leaves does so
SETTLE_S = 30.0
PATH = "/predict/sales"

Body = dict[str, Any]


@dataclass(slots=True)
class Tally:
    """What became of the callers of one kind."""

    callers: int = 0
    outcomes: dict[str, int] = field(default_factory=dict)
    wrong: int = 0
    worst: float = 0.0  # difference to the answer given alone, in scales

    def note(self, outcome: str, *, right: bool, difference: float = 0.0) -> None:
        self.callers += 1
        self.outcomes[outcome] = self.outcomes.get(outcome, 0) + 1
        self.wrong += not right
        self.worst = max(self.worst, difference)


def main() -> None:
    options = _options()
    with _checkpoint(options.checkpoint) as checkpoint, shopcast(checkpoint, cache_bytes=0) as port:
        tallies, seconds = asyncio.run(_measure(port, options.rounds))
    _show(tallies, seconds)
    sys.exit(any(tally.wrong for tally in tallies.values()))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--checkpoint", type=Path, help="default: a small random one")
    parser.add_argument("--rounds", type=int, default=3)
    return parser.parse_args()


@contextmanager
def _checkpoint(given: Path | None) -> Iterator[Path]:
    if given is not None:
        yield given
        return
    with tempfile.TemporaryDirectory() as directory:
        yield save_random(Path(directory) / "tiny", "tiny")


async def _measure(port: int, rounds: int) -> tuple[dict[str, Tally], list[float]]:
    """The tally of each kind over all rounds, and how long each storm took."""
    tallies = {kind: Tally() for kind in ("well-behaved", "malformed", "gone", "afterwards")}
    seconds = []
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=None)
    async with httpx.AsyncClient(
        base_url=f"http://127.0.0.1:{port}", timeout=120, limits=limits
    ) as client:
        for number in range(rounds):
            random = np.random.default_rng(number)
            bodies = [_request(random) for _ in range(WELL_BEHAVED)]
            alone = [await _answer(client, body) for body in bodies]
            began_s = time.perf_counter()
            await _storm(client, random, bodies, alone=alone, tallies=tallies)
            seconds.append(time.perf_counter() - began_s)
            await _check_settled(client, tallies["afterwards"])
    return tallies, seconds


async def _storm(
    client: httpx.AsyncClient,
    random: np.random.Generator,
    bodies: list[Body],
    *,
    alone: list[Body],
    tallies: dict[str, Tally],
) -> None:
    callers = [
        _behave(client, body, expected=expected, tally=tallies["well-behaved"])
        for body, expected in zip(bodies, alone, strict=True)
    ]
    callers += [
        _offend(client, _malformed(random, number), tallies["malformed"])
        for number in range(MALFORMED)
    ]
    callers += [
        _leave(client, _large_request(random), tallies["gone"], after_s=random.uniform(*LEAVE_S))
        for _ in range(CANCELLED)
    ]
    random.shuffle(callers)
    await asyncio.gather(*callers)


async def _behave(client: httpx.AsyncClient, body: Body, *, expected: Body, tally: Tally) -> None:
    response = await client.post(PATH, json=body)
    difference = math.inf
    if response.status_code == 200:
        difference = _difference(body, expected, response.json())
    tally.note(str(response.status_code), right=difference <= TOLERANCE, difference=difference)


async def _offend(client: httpx.AsyncClient, content: bytes, tally: Tally) -> None:
    headers = {"Content-Type": "application/json"}
    response = await client.post(PATH, content=content, headers=headers)
    tally.note(str(response.status_code), right=response.status_code in {400, 422})


async def _leave(client: httpx.AsyncClient, body: Body, tally: Tally, *, after_s: float) -> None:
    try:
        async with asyncio.timeout(after_s):
            response = await client.post(PATH, json=body)
    except TimeoutError:
        tally.note("left", right=True)
    else:
        tally.note(f"{response.status_code} in time", right=response.status_code == 200)


async def _check_settled(client: httpx.AsyncClient, tally: Tally) -> None:
    """Nothing may be left of the storm: no task in the queue, no poisoned one, a ready engine."""
    ends_s = time.monotonic() + SETTLE_S
    while await _metric(client, "queue_tasks") and time.monotonic() < ends_s:  # noqa: ASYNC110 - over HTTP
        await asyncio.sleep(0.05)
    tasks = await _metric(client, "queue_tasks")
    tally.note(f"{tasks:.0f} tasks queued", right=tasks == 0)
    poisoned = await _metric(client, "poisoned_tasks_total")
    tally.note(f"{poisoned:.0f} tasks poisoned", right=poisoned == 0)
    ready = (await client.get("/readyz")).status_code
    tally.note(f"readyz {ready}", right=ready == 200)


async def _metric(client: httpx.AsyncClient, name: str) -> float:
    text = (await client.get("/metrics")).text
    lines = (line.split() for line in text.splitlines())
    return next(float(line[1]) for line in lines if line[0] == f"shopcast_{name}")


async def _answer(client: httpx.AsyncClient, body: Body) -> Body:
    response = await client.post(PATH, json=body)
    if response.status_code != 200:
        raise AssertionError(f"{response.status_code} to a sane request: {response.text[:500]}")
    return dict(response.json())


def _difference(body: Body, expected: Body, found: Body) -> float:
    """Largest difference between two answers, each in the scale of its own series."""
    worst = 0.0
    triples = zip(body["inputs"], expected["predictions"], found["predictions"], strict=True)
    for one, mine, theirs in triples:
        if mine.keys() != theirs.keys() or mine["item_id"] != theirs["item_id"]:
            return math.inf
        scale = _scale(one["target"])
        for key in mine.keys() - {"item_id", "start"}:
            gap = np.abs(np.subtract(mine[key], theirs[key])).max()
            worst = max(worst, float(gap) / scale)
    return worst


def _scale(target: list[float | None]) -> float:
    """Standard deviation of a history, or its size if it has none."""
    values = np.array([value for value in target if value is not None] or [0.0])
    return float(values.std() or np.abs(values).max() or 1.0)


def _request(random: np.random.Generator) -> Body:
    """One to four series of one horizon, some with covariates."""
    horizon = int(random.choice([1, 7, 28, 60]))
    inputs = [_series(random, horizon) for _ in range(random.integers(1, 5))]
    return {"inputs": inputs, "parameters": {"prediction_length": horizon}}


def _large_request(random: np.random.Generator) -> Body:
    inputs = [_series(random, 28, points=512) for _ in range(100)]
    return {"inputs": inputs, "parameters": {"prediction_length": 28}}


def _series(random: np.random.Generator, horizon: int, points: int | None = None) -> Body:
    points = points or int(random.choice([1, 2, 30, 200, 512, 900]))
    level = random.lognormal(2, 1.5)
    sales: list[float | None] = np.round(random.gamma(2, level, points), 2).tolist()
    kind = random.integers(0, 6)
    if kind == 0:  # nobody looked every now and then
        sales = [None if random.random() < 0.3 else value for value in sales]
    elif kind == 1:  # hardly ever sold
        sales = [value if random.random() < 0.05 else 0.0 for value in sales]
    elif kind == 2:
        sales = [7.0] * points
    body: Body = {"item_id": f"item-{random.integers(1_000_000_000)}", "target": sales}
    if kind >= 4:
        body |= _covariates(random, points, horizon)
    return body


def _covariates(random: np.random.Generator, points: int, horizon: int) -> Body:
    price = np.round(random.uniform(1, 9, points + horizon), 2).tolist()
    promo = random.choice(["none", "leaflet", "window"], points + horizon).tolist()
    return {
        "past_covariates": {"price": price[:points], "promo": promo[:points]},
        "future_covariates": {"price": price[points:]},
    }


def _malformed(random: np.random.Generator, number: int) -> bytes:
    """Bodies that must be refused, each for a reason of its own, amid good series."""
    good = _series(random, 3, points=50)
    bad: list[Body] = [
        {"target": ["three", 4, 5]},
        {"target": [1, 2, 3], "past_covariates": {"price": [1.0]}},
        {"target": [1, 2, 3], "future_covariates": {"price": [1.0, 1.0, 1.0]}},
        {"target": [1, 2, 3], "tarjet": [1]},
        {"target": [1e300, 2, 3]},
        {"target": []},
    ]
    broken = (b'{"inputs": [', b"\xff\xfe", b'{"inputs": [{"target": [NaN, 1, 2]}]}', b"[]")
    choice = number % (len(bad) + len(broken))
    if choice >= len(bad):
        return broken[choice - len(bad)]
    inputs = [good, bad[choice], good]
    return orjson.dumps({"inputs": inputs, "parameters": {"prediction_length": 3}})


def _show(tallies: dict[str, Tally], seconds: list[float]) -> None:
    table = Table(title=f"200 callers at once, {len(seconds)} rounds, {max(seconds):.2f} s at most")
    for column in ("who", "callers", "outcomes", "wrong", "worst difference"):
        table.add_column(column)
    for kind, tally in tallies.items():
        outcomes = ", ".join(f"{name} × {count}" for name, count in tally.outcomes.items())
        worst = f"{tally.worst:.1e} scales" if kind == "well-behaved" else ""
        table.add_row(kind, str(tally.callers), outcomes, str(tally.wrong), worst)
    Console(width=120).print(table)


if __name__ == "__main__":
    main()
