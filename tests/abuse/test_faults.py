"""What the service stands on fails while it answers: disk, Redis, database."""

from __future__ import annotations

import asyncio
import os
import random
import shutil
import subprocess
import time
from collections import Counter
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path
from secrets import token_hex
from typing import TYPE_CHECKING, Any

import httpx
import numpy as np
import pytest

from app.auth import Keys
from app.db import migrate, open_database
from tests.abuse.process import PATIENCE_S, Service, much, serving
from tests.postgres_server import PostgresServer, postgres
from tests.redis_server import RedisServer, redis

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator

__all__ = ["postgres", "redis"]

pytestmark = pytest.mark.timeout(600)

DISK_MIB = 24
CLOSE = 1e-4  # of a series' scale: how far answers of different batches may lie apart


@pytest.fixture(scope="module")
def checkpoints(tiny_checkpoint: Path, tiny_events_checkpoint: Path) -> dict[str, Path]:
    return {"series": tiny_checkpoint, "purchase": tiny_events_checkpoint}


# --- a full disk


class Disk:
    """The data directory of a service, on a small disk of its own that only the service sees."""

    def __init__(self, path: Path, process: int) -> None:
        self._path = Path(f"/proc/{process}/root") / path.relative_to("/")

    @property
    def ballast(self) -> Path:
        return self._path / "ballast"

    def fill(self) -> None:
        """Leave no room for a single page."""
        with self.ballast.open("wb") as file, suppress(OSError):
            for size in (1 << 20, 1 << 12, 1):
                with suppress(OSError):
                    while file.write(b"x" * size):
                        file.flush()
        assert shutil.disk_usage(self._path).free == 0

    def free(self) -> None:
        self.ballast.unlink(missing_ok=True)

    def left(self, *parts: str) -> list[str]:
        """The names within a directory."""
        place = self._path.joinpath(*parts)
        return sorted(each.name for each in place.iterdir()) if place.exists() else []


@contextmanager
def on_a_small_disk(
    directory: Path, checkpoints: dict[str, Path], **environment: str
) -> Iterator[tuple[Service, Disk]]:
    """A service whose data directory is a disk of its own."""
    data = directory / "data"
    data.mkdir()
    script = f'mount -t tmpfs -o size={DISK_MIB}m none {data} && exec "$@"'
    within = ["unshare", "--mount", "--map-root-user", "sh", "-c", script, "sh"]
    probe = [*within[:3], "mount", "-t", "tmpfs", "none", str(data)]
    if shutil.which("unshare") is None or subprocess.run(probe, check=False).returncode:  # noqa: S603 - as above
        if os.environ.get("CI") and os.geteuid() == 0:
            pytest.fail("no disk could be mounted")
        pytest.skip("this machine lets nobody mount")
    with serving(directory, checkpoints, within=within, **environment) as service:
        disk = Disk(data, service.process.pid)
        with suppress(OSError):
            yield service, disk
        disk.free()


def table(rows: int) -> bytes:
    """Sales of some articles."""
    lines = ["item_id,timestamp,target"]
    for number in range(rows):
        day = np.datetime64("2024-01-01") + number % 400
        lines.append(f"item-{number // 400},{day},{number % 17}")
    return "\n".join(lines).encode()


def upload(client: httpx.Client, name: str, rows: int = 4000) -> httpx.Response:
    return client.post(
        "/datasets",
        files={"file": ("sales.csv", table(rows))},
        data={"name": name, "kind": "series", "freq": "D"},
    )


def until(holds: Callable[[], Any], seconds: float = PATIENCE_S) -> Any:
    """Wait for what something says to be true."""
    ends_s = time.monotonic() + seconds
    while not (found := holds()):
        assert time.monotonic() < ends_s
        time.sleep(0.1)
    return found


def fresh() -> dict[str, Any]:
    """A question that nobody asked before."""
    return {"inputs": [{"target": [random.random() for _ in range(32)]}]}  # noqa: S311 - no secrets


def test_a_full_disk_stops_what_has_to_be_kept_and_no_prediction(
    checkpoints: dict[str, Path], tmp_path: Path
) -> None:
    with (
        on_a_small_disk(tmp_path, checkpoints) as (service, disk),
        httpx.Client(base_url=service.address, timeout=PATIENCE_S) as client,
    ):
        kept = upload(client, "kept").json()["id"]
        disk.fill()
        for _ in range(10):
            assert client.post("/predict/sales", json=fresh()).status_code == 200
        refused = upload(client, "refused", rows=8000)
        assert refused.status_code == 507, refused.text
        assert refused.json()["title"] == "There is no room to keep it"
        job = client.post("/jobs", json={"kind": "evaluate", "model": "sales", "dataset_id": kept})
        assert job.status_code in {503, 507}, job.text
        assert disk.left("datasets") == [kept]
        assert client.get("/readyz").status_code == 200
        assert client.get(f"/datasets/{kept}").status_code == 200
        disk.free()
        again = upload(client, "refused", rows=8000)
        assert again.status_code == 201, again.text
        assert disk.left("datasets") == sorted([kept, again.json()["id"]])
        assert service.metric("shopcast_engine_restarts_total") == 0


def test_a_job_on_a_full_disk_fails_and_leaves_nothing_half(
    checkpoints: dict[str, Path], tmp_path: Path
) -> None:
    database = f"sqlite:///{tmp_path / 'elsewhere' / 'shopcast.sqlite3'}"  # it has room
    own = {"SHOPCAST_DATABASE_URL": database, "SHOPCAST_WORKER": "embedded"}
    with (
        on_a_small_disk(tmp_path, checkpoints, **own) as (service, disk),
        httpx.Client(base_url=service.address, timeout=PATIENCE_S) as client,
    ):
        asked = {
            "kind": "predict",
            "model": "sales",
            "dataset_id": upload(client, "sales").json()["id"],
            "prediction_length": 7,
        }

        def done() -> Any:
            made = client.post("/jobs", json=asked).json()["id"]
            return until(lambda: ended(client.get(f"/jobs/{made}").json()))

        def ended(job: dict[str, Any]) -> Any:
            return job["state"] in {"succeeded", "failed", "cancelled"} and job

        disk.fill()
        full = done()
        assert full["state"] == "failed"
        assert "disk is full" in str(full["error"])
        assert client.post("/predict/sales", json=fresh()).status_code == 200
        disk.free()
        assert disk.left("jobs", full["id"]) in ([], ["log.txt"])
        good = done()
        assert good["state"] == "succeeded", good


# --- a Redis and a database that come and go under load


class Load:
    """Callers who ask one of some questions, again and again, and hold answers to right ones."""

    def __init__(self, client: httpx.AsyncClient, questions: int, callers: int) -> None:
        source = np.random.default_rng(7)
        self._series = [source.gamma(2, 5, 64).round(2).tolist() for _ in range(questions)]
        self._client, self._callers = client, callers
        self._right: list[Any] = []
        self._over = False
        self.told: Counter[Any] = Counter()
        self.wrong: list[float] = []

    async def learn(self) -> None:
        """What is right: asked one by one, of a service that is well."""
        self._right = [(await self._ask(each)).json()["predictions"][0] for each in self._series]

    @asynccontextmanager
    async def going_on(self) -> AsyncIterator[None]:
        """Keep asking meanwhile."""
        tasks = [asyncio.create_task(self._call(number)) for number in range(self._callers)]
        try:
            yield
        finally:
            self._over = True
            await asyncio.gather(*tasks)

    async def answers(self, count: int) -> None:
        """Wait until so many more have come."""
        wanted = self.told.total() + count
        async with asyncio.timeout(PATIENCE_S):
            while self.told.total() < wanted:  # noqa: ASYNC110 - it only counts
                await asyncio.sleep(0.02)

    async def readiness(self) -> Any:
        return (await self._client.get("/readyz")).json()

    async def _call(self, number: int) -> None:
        source = random.Random(number)  # noqa: S311 - load, not secrets
        while not self._over:
            place = source.randrange(len(self._series))
            try:
                response = await self._ask(self._series[place])
            except httpx.TransportError as error:
                self.told[type(error).__name__] += 1
                continue
            self.told[response.status_code] += 1
            if response.status_code == 200:
                self._check(place, response.json()["predictions"][0])

    async def _ask(self, series: list[float]) -> httpx.Response:
        body = {"inputs": [{"target": series}], "parameters": {"prediction_length": 8}}
        return await self._client.post("/predict/sales", json=body)

    def _check(self, place: int, found: dict[str, Any]) -> None:
        scale = float(np.std(self._series[place]))
        for name, values in self._right[place].items():
            far = float(np.abs(np.subtract(found[name], values)).max()) / scale
            if far > CLOSE:
                self.wrong.append(far)


@asynccontextmanager
async def load_on(service: Service, **headers: str) -> AsyncIterator[Load]:
    async with httpx.AsyncClient(
        base_url=service.address, headers=headers, timeout=PATIENCE_S
    ) as client:
        load = Load(client, questions=24, callers=6)
        await load.learn()
        async with load.going_on():
            yield load
    assert load.wrong == []
    assert set(load.told) == {200}, load.told


def test_redis_is_killed_and_comes_back_under_load_and_no_answer_is_missing_or_wrong(
    redis: RedisServer, checkpoints: dict[str, Path], tmp_path: Path
) -> None:
    # without a cache of its own each process asks Redis each time
    own = {"SHOPCAST_REDIS_URL": redis.url, "SHOPCAST_CACHE_BYTES": "0"}

    async def run(service: Service) -> None:
        async with load_on(service) as load:
            await load.answers(50)
            for _ in range(much(2, 20)):
                redis.kill()
                await load.answers(100)
                parts = (await load.readiness())["parts"]
                assert parts == {"engine": "up", "database": "up", "redis": "down"}
                redis.start()
                await back()
                before = service.metric("shopcast_redis_hits_total")
                await load.answers(100)
                assert service.metric("shopcast_redis_hits_total") > before, "it is used again"
                redis.pause()
                await load.answers(100)
                redis.go_on()
                await back()
                redis.say("FLUSHALL")
                await load.answers(20)

    async def back() -> None:
        await asyncio.to_thread(until, lambda: service.metric("shopcast_redis_up") == 1)

    with serving(tmp_path, checkpoints, **own) as service:
        asyncio.run(run(service))


def make_key(url: str) -> str:
    """The text of a key that may predict."""
    engine = open_database(url)
    try:
        return Keys(engine).create("", ["predict"], actor="test")[1]
    finally:
        engine.dispose()


def test_the_database_is_killed_and_comes_back_under_load_and_no_prediction_fails(
    postgres: PostgresServer, checkpoints: dict[str, Path], tmp_path: Path
) -> None:
    root = token_hex(32)
    (tmp_path / "root").write_text(root)
    own = {
        "SHOPCAST_DATABASE_URL": postgres.url,
        "SHOPCAST_ADMIN_KEY_FILE": str(tmp_path / "root"),
        "SHOPCAST_METRICS_OPEN": "1",
    }

    async def run(service: Service) -> None:
        headers = {"Authorization": f"Bearer {root}"}
        async with (
            httpx.AsyncClient(base_url=service.address, headers=headers, timeout=60) as admin,
            load_on(service, Authorization=f"Bearer {key}") as load,
        ):
            for _ in range(much(2, 10)):
                postgres.crash()
                await load.answers(100)
                refused = await admin.post("/keys", json={"scopes": ["predict"]})
                assert refused.status_code == 503, refused.text
                async with asyncio.timeout(30):
                    # asked for every two seconds
                    while (await load.readiness())["parts"]["database"] != "down":  # noqa: ASYNC110
                        await asyncio.sleep(0.1)
                await load.answers(100)
                postgres.start()
                async with asyncio.timeout(30):
                    while (await admin.post("/keys", json={"scopes": ["predict"]})).is_error:  # noqa: ASYNC110 - nobody tells
                        await asyncio.sleep(0.1)
                await load.answers(100)

    migrate(postgres.url)
    key = make_key(postgres.url)
    with serving(tmp_path, checkpoints, **own) as service:
        asyncio.run(run(service))


# --- several processes


def started(service: Service, processes: int) -> None:
    until(lambda: service.log.read_text().count('"event": "serving"') >= processes)


def test_a_stampede_on_one_forecast_over_four_processes_is_computed_once(
    redis: RedisServer, checkpoints: dict[str, Path], tmp_path: Path
) -> None:
    own = {
        "SHOPCAST_WORKERS": "4",
        "SHOPCAST_REDIS_URL": redis.url,
        "SHOPCAST_REDIS_WAIT_MS": "5000",  # of a machine that does much else
    }

    async def stampede(address: str, body: dict[str, Any]) -> list[httpx.Response]:
        limits = httpx.Limits(max_connections=64, max_keepalive_connections=0)
        async with httpx.AsyncClient(base_url=address, limits=limits, timeout=60) as client:
            asked = [client.post("/predict/sales", json=body) for _ in range(64)]
            return await asyncio.gather(*asked)

    with serving(tmp_path, checkpoints, **own) as service:
        started(service, 4)
        until(lambda: service.metric("shopcast_redis_up") == 1)  # of every process
        for _ in range(4):  # what is new to a process takes longer
            asyncio.run(stampede(service.address, fresh()))
        time.sleep(1)  # their metrics are a quarter of a second late
        for _ in range(much(3, 20)):
            before = service.metric("shopcast_rows_total")
            answers = asyncio.run(stampede(service.address, fresh()))
            assert {each.status_code for each in answers} == {200}
            assert len({str(each.json()["predictions"]) for each in answers}) == 1
            time.sleep(1)
            assert service.metric("shopcast_rows_total") - before == 1
