"""Deadlines and callers who leave."""

import asyncio
import gzip
import threading
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest
import pytest_asyncio
from fastapi import FastAPI

from app.api import questions
from app.api.bodies import decompress
from app.api.deps import WATCH_AFTER_S, Watch
from app.api.exchange import ClientGoneError
from app.db import migrate
from app.main import create_app
from app.settings import Settings
from models.series import SeriesNetwork
from tests.app.networks import PATIENCE_S

BODY = b'{"inputs": [{"target": [3, 1, 4, 1, 5]}]}'


@pytest_asyncio.fixture
async def app(tiny_checkpoint: Path, tmp_path: Path) -> AsyncIterator[FastAPI]:
    settings = Settings(
        series_checkpoint=tiny_checkpoint, data_dir=tmp_path, grace_s=5, concurrent_batches=1
    )
    migrate(settings.database)
    app = create_app(settings)
    async with app.router.lifespan_context(app):
        yield app


@pytest_asyncio.fixture
async def client(app: FastAPI) -> AsyncIterator[httpx.AsyncClient]:
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
        yield client


@pytest.fixture
def slow(monkeypatch: pytest.MonkeyPatch) -> float:
    """Make each batch take a while, as a large network does."""
    predict, seconds = SeriesNetwork.predict, 0.4

    def slowly(self: SeriesNetwork, tasks: Any) -> Any:
        time.sleep(seconds)
        return predict(self, tasks)

    monkeypatch.setattr(SeriesNetwork, "predict", slowly)
    return seconds


def headers(**more: str) -> dict[str, str]:
    named = {name.replace("_", "-"): value for name, value in more.items()}
    return {"Content-Type": "application/json", **named}


@pytest.mark.usefixtures("slow")
async def test_a_deadline_is_kept(client: httpx.AsyncClient) -> None:
    began_s = time.perf_counter()
    response = await client.post(
        "/predict/sales", content=BODY, headers=headers(X_Request_Timeout_Ms="100")
    )
    assert response.status_code == 504
    assert response.json()["type"] == "urn:shopcast:problem:deadline"
    assert 0.09 < time.perf_counter() - began_s < 0.35


@pytest.mark.parametrize("asked", ["0", "-1", "1.5", "soon", "", "9" * 12])
async def test_a_deadline_that_is_none_is_refused(client: httpx.AsyncClient, asked: str) -> None:
    response = await client.post(
        "/predict/sales", content=BODY, headers=headers(X_Request_Timeout_Ms=asked)
    )
    assert response.status_code == 422
    assert response.json()["errors"][0]["loc"] == ["header", "X-Request-Timeout-Ms"]


@pytest.mark.usefixtures("slow")
async def test_a_caller_who_leaves_frees_the_queue(app: FastAPI, client: httpx.AsyncClient) -> None:
    first = asyncio.create_task(client.post("/predict/sales", content=BODY, headers=headers()))
    await asyncio.sleep(0.05)  # the engine is busy with it
    left = asyncio.Event()
    leaving = asyncio.create_task(call(app, b'{"inputs": [{"target": [2, 7, 1, 8]}]}', left))
    batcher, metrics = app.state.resources.batcher, app.state.resources.metrics
    await until(lambda: metrics.registry.get_sample_value("shopcast_queue_tasks") == 1)
    left.set()
    await until(lambda: metrics.registry.get_sample_value("shopcast_queue_tasks") == 0)
    assert await asyncio.wait_for(leaving, PATIENCE_S) == []  # nothing is sent to nobody
    assert (await first).status_code == 200
    assert batcher.healthy
    labels = {"method": "POST", "route": "/predict/sales", "status": "499"}
    assert metrics.registry.get_sample_value("shopcast_http_requests_total", labels) == 1
    assert metrics.registry.get_sample_value("shopcast_http_in_flight") == 0


async def test_a_deadline_is_kept_while_the_body_arrives(app: FastAPI) -> None:
    hurried = (b"x-request-timeout-ms", b"200")
    began_s = time.perf_counter()
    start, _ = await call(app, None, asyncio.Event(), b"{", headers=[hurried])
    assert start["status"] == 504
    assert 0.19 < time.perf_counter() - began_s < 2.0


async def test_few_large_bodies_are_read_at_a_time(
    client: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    lock, gate, busy, most = threading.Lock(), threading.Event(), [0], [0]

    def slowly(body: bytes, encoding: str, *, limit: int) -> bytes:
        with lock:
            busy[0] += 1
            most[0] = max(most[0], busy[0])
        assert gate.wait(PATIENCE_S)
        with lock:
            busy[0] -= 1
        return decompress(body, encoding, limit=limit)

    monkeypatch.setattr(questions, "decompress", slowly)
    post = partial(client.post, "/predict/sales", content=gzip.compress(BODY))
    packed = headers(Content_Encoding="gzip")
    calls = [asyncio.create_task(post(headers=packed)) for _ in range(6)]
    await until(lambda: busy[0] == 2)
    late = await post(headers={**packed, "X-Request-Timeout-Ms": "50"})
    small = await client.post("/predict/sales", content=BODY, headers=headers())
    gate.set()
    assert (late.status_code, small.status_code) == (504, 200)
    assert [each.status_code for each in await asyncio.gather(*calls)] == [200] * 6
    assert most[0] == 2


async def test_what_is_remembered_of_bodies_is_little_and_shared(
    app: FastAPI, client: httpx.AsyncClient
) -> None:
    (here, there) = [route.endpoint for route in app.routes[:2]]  # type: ignore[attr-defined]
    assert here._reader is there._reader
    many = b'{"inputs": [%s]}' % b",".join([b'{"target": [1]}'] * 33)
    few = b'{"inputs": [%s]}' % b",".join([b'{"target": [1]}'] * 32)
    for body in (few, many):
        response = await client.post("/predict/sales", content=body, headers=headers())
        assert response.status_code == 200
    assert list(here._reader._understood) == [few]


async def test_a_caller_who_leaves_while_sending_is_let_go(app: FastAPI) -> None:
    left = asyncio.Event()
    left.set()
    assert await call(app, None, left) == []


@pytest.mark.parametrize("answer_first", [True, False])
async def test_a_caller_who_leaves_as_the_answer_comes_leaves_nothing_behind(
    *, answer_first: bool
) -> None:
    left = asyncio.Event()
    answer = asyncio.get_running_loop().create_future()

    async def receive() -> Any:
        await left.wait()
        return {"type": "http.disconnect"}

    async def watched() -> str:
        told = "gone"
        with suppress(ClientGoneError), Watch(receive):
            told = await answer
        for _ in range(5):
            await asyncio.sleep(0)  # a cancellation left behind would surface here
        return told

    task = asyncio.create_task(watched())
    await asyncio.sleep(10 * WATCH_AFTER_S)
    ends = [lambda: answer.set_result("answered"), left.set]
    for end in ends if answer_first else reversed(ends):
        end()
    assert await task in {"answered", "gone"}
    assert not task.cancelling()


async def test_a_watch_that_ends_as_the_caller_leaves_takes_its_cancellation_along() -> None:
    async def receive() -> Any:
        return {"type": "http.disconnect"}

    async def watched() -> None:
        with pytest.raises(ClientGoneError), Watch(receive), suppress(asyncio.CancelledError):
            await asyncio.sleep(PATIENCE_S)
        await asyncio.sleep(0)

    task = asyncio.create_task(watched())
    await task
    assert not task.cancelling()


@pytest.mark.usefixtures("slow")
async def test_the_cancellation_of_the_request_itself_goes_on(app: FastAPI) -> None:
    task = asyncio.create_task(call(app, BODY, asyncio.Event()))
    await asyncio.sleep(0.05)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def call(
    app: FastAPI,
    body: bytes | None,
    left: asyncio.Event,
    part: bytes = b"",
    *,
    headers: Sequence[tuple[bytes, bytes]] = (),
) -> list[Any]:
    """What the application sends to a caller who leaves at that event.

    part: comes before the body; nothing but that comes if the body is None.
    """
    sent: list[Any] = []
    bodies = [] if body is None else [{"type": "http.request", "body": body, "more_body": False}]
    if part:
        bodies.append({"type": "http.request", "body": part, "more_body": True})

    async def receive() -> Any:
        if bodies:
            return bodies.pop()
        await left.wait()
        return {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": "POST",
        "scheme": "http",
        "path": "/predict/sales",
        "raw_path": b"/predict/sales",
        "query_string": b"",
        "root_path": "",
        "headers": [(b"host", b"localhost"), (b"content-type", b"application/json"), *headers],
    }
    await app(scope, receive, send)
    return sent


async def until(condition: Any) -> None:
    """Wait for a condition, but not for ever."""
    async with asyncio.timeout(PATIENCE_S):
        while not condition():  # noqa: ASYNC110 - what it waits for sets no event
            await asyncio.sleep(0.005)
