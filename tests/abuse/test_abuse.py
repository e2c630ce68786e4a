"""The service under hostile or careless use: it refuses in order, and serves the others."""

from __future__ import annotations

import asyncio
import json
import os
import random
import resource
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from contextlib import ExitStack, contextmanager
from http.client import HTTPResponse
from pathlib import Path
from secrets import token_hex
from typing import TYPE_CHECKING, Any

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.abuse.process import BODY, PATIENCE_S, Service, much, serving

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.timeout(2400)

REFUSALS = {429, 503, 504}
SALES: dict[str, Any] = {
    "inputs": [
        {
            "item_id": "sku-1",
            "start": "2026-08-01",
            "target": [12, 9, None, 14],
            "past_covariates": {"price": [9.9, 9.9, 9.9, 7.9], "promo": [0, 0, 0, 1]},
            "future_covariates": {"price": [7.9, 9.9], "promo": [1, 0]},
        }
    ],
    "parameters": {"prediction_length": 2, "freq": "D", "quantile_levels": [0.1, 0.5, 0.9]},
}
STOCK: dict[str, Any] = {
    "inputs": [
        {
            "item_id": "a",
            "target": [3, 0, 2, 5, 1, 4],
            "on_hand": 10,
            "on_order": [{"quantity": 4, "in_periods": 1}],
            "lead_time": {"mean": 2, "std": 1},
        }
    ],
    "parameters": {"service_level": 0.9, "prediction_length": 3},
}
CUSTOMERS: dict[str, Any] = {
    "inputs": [
        {
            "customer_id": "c",
            "observed_from": "2025-01-01",
            "events": [
                {"type": "view", "at": "2026-09-01T10:00:00", "item_id": "i", "category": "x"},
                {"type": "purchase", "at": "2026-09-03T09:12:00", "amount": 79.0, "quantity": 1},
            ],
        }
    ],
    "parameters": {"as_of": "2026-10-01", "horizons_days": [7, 30], "timezone": "Europe/Berlin"},
}
BODIES = {"sales": SALES, "inventory": STOCK, "purchase-probability": CUSTOMERS}


@pytest.fixture(scope="module")
def checkpoints(tiny_checkpoint: Path, tiny_events_checkpoint: Path) -> dict[str, Path]:
    return {"series": tiny_checkpoint, "purchase": tiny_events_checkpoint}


@pytest.fixture(scope="module")
def service(
    checkpoints: dict[str, Path], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Service]:
    with serving(
        tmp_path_factory.mktemp("service"), checkpoints, SHOPCAST_TIMEOUT_MS="10000"
    ) as found:
        yield found


@pytest.fixture(scope="module")
def client(service: Service) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=service.address, timeout=PATIENCE_S) as found:
        yield found


def serves(client: httpx.Client) -> bool:
    """Whether somebody else is answered in full."""
    response = client.post("/predict/sales", json=BODY)
    return response.status_code == 200 and len(response.json()["predictions"][0]["mean"]) == 2


# --- bodies


ODD: st.SearchStrategy[Any] = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(10**25), 10**25),
    st.floats(allow_nan=False, allow_infinity=False),
    st.text(max_size=12),
    st.sampled_from(["9999-12-31", "0001-01-01", "2026-02-30", "D", "W-MON", "\x00", "1e400"]),
    st.lists(st.none() | st.integers(-3, 3) | st.text(max_size=3), max_size=4),
    st.dictionaries(st.text(max_size=5), st.integers(), max_size=3),
)


@st.composite
def mutated(draw: st.DrawFn) -> tuple[str, bytes]:
    """A good body with some of its values replaced, its names changed, or its bytes damaged."""
    path = draw(st.sampled_from(sorted(BODIES)))
    body = json.loads(json.dumps(BODIES[path]))
    for _ in range(draw(st.integers(0, 3))):
        _change(draw, body)
    raw = bytearray(json.dumps(body).encode())
    for _ in range(draw(st.sampled_from([0, 0, 0, 1, 2]))):
        raw[draw(st.integers(0, len(raw) - 1))] = draw(st.integers(0, 255))
    return path, bytes(raw)


def _change(draw: st.DrawFn, body: Any) -> None:
    """Change one value somewhere inside."""
    node = body
    while True:
        keys = list(node) if isinstance(node, dict) else list(range(len(node)))
        if not keys:
            return
        key = draw(st.sampled_from(keys))
        if isinstance(node[key], dict | list) and draw(st.booleans()):
            node = node[key]
            continue
        what = draw(st.sampled_from(["replace", "remove", "rename", "repeat"]))
        if what == "replace" or not isinstance(node, dict):
            node[key] = draw(ODD)
        elif what == "remove":
            del node[key]
        elif what == "rename":
            node[draw(st.text(max_size=6))] = node.pop(key)
        else:
            node[key] = [node[key]] * draw(st.integers(0, 5))
        return


def test_no_body_is_answered_with_a_failure(client: httpx.Client) -> None:
    statuses: Counter[int] = Counter()

    @settings(
        max_examples=much(400, 20_000),
        deadline=None,
        derandomize=True,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(mutated())
    def send(case: tuple[str, bytes]) -> None:
        path, raw = case
        headers = {"Content-Type": "application/json"}
        response = client.post(f"/predict/{path}", content=raw, headers=headers)
        statuses[response.status_code] += 1
        assert response.status_code in {200, 400, 404, 413, 422}, (raw, response.text)
        if response.status_code != 200:
            assert response.json()["status"] == response.status_code

    send()
    assert statuses[200] > 0
    assert statuses[422] > 0
    assert serves(client)


def test_every_route_keeps_its_contract(checkpoints: dict[str, Path], tmp_path: Path) -> None:
    program = Path(sys.executable).with_name("schemathesis")
    key = tmp_path / "key"
    key.write_text(token_hex(32))
    with serving(tmp_path, checkpoints, SHOPCAST_ADMIN_KEY_FILE=str(key)) as own:
        schema = f"{own.address}/openapi.json"
        done = subprocess.run(  # noqa: S603 - installed beside the interpreter
            [
                *(str(program), "run", schema, "--checks", "all"),
                *("--header", f"Authorization: Bearer {key.read_text()}"),
                # a second key beside this one is refused as such
                *("--generation-with-security-parameters", "false"),
                # what is wrong with times and lengths together no schema can say
                *("--exclude-checks", "positive_data_acceptance"),
                # an answer that ends when its job does
                *("--exclude-path", "/jobs/{id}/events"),
                *("--phases", "examples,coverage,fuzzing,stateful"),
                *("--max-examples", str(much(2, 200)), "--seed", "1", "--request-timeout", "60"),
            ],
            capture_output=True,
            text=True,
            check=False,
            cwd=tmp_path,
        )
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]


# --- connections


def idle(service: Service, count: int, stack: ExitStack) -> list[socket.socket]:
    """Connections that say nothing. A service may close what is too much."""
    found = []
    for i in range(count):
        # loopback has many addresses, and each has its own ports
        source = (f"127.0.0.{2 + i // 5000}", 0)
        connection = socket.create_connection(
            ("127.0.0.1", service.port), timeout=PATIENCE_S, source_address=source
        )
        found.append(stack.enter_context(connection))
    return found


def test_idle_connections_and_slow_senders_hurt_nobody(
    service: Service, client: httpx.Client
) -> None:
    count = much(300, 10_000)
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    assert most > count, "raise the limit of open files (ulimit -n)"
    with ExitStack() as stack:
        slow = idle(service, count, stack)
        raw = json.dumps(BODY).encode()
        head = (
            f"POST /predict/sales HTTP/1.1\r\nHost: 127.0.0.1\r\n"
            f"Content-Type: application/json\r\nContent-Length: {len(raw)}\r\n\r\n"
        ).encode()
        for connection in slow[:100]:
            connection.sendall(head[:30])
        for connection in slow[100:200]:
            connection.sendall(head + raw[:10])
        assert serves(client)
        time.sleep(1)
        assert serves(client)
        # one that sends the rest in time is answered like any other
        slow[150].sendall(raw[10:])
        assert slow[150].recv(15).startswith(b"HTTP/1.1 200")
        # one that does not is told so when its time is over, 10 s here
        slow[151].settimeout(60)
        assert slow[151].recv(12).split()[1] in {b"408", b"504"}
    assert serves(client)


def test_a_service_without_file_descriptors_answers_again_when_it_has_some(
    checkpoints: dict[str, Path], tmp_path: Path
) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (256, hard))  # the service inherits it
    try:
        with serving(tmp_path, checkpoints) as own:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
            with httpx.Client(base_url=own.address, timeout=PATIENCE_S) as client:
                assert serves(client)  # keeps its connection
                with ExitStack() as stack:
                    idle(own, 400, stack)
                    assert serves(client)
                assert own.process.poll() is None
            with httpx.Client(base_url=own.address, timeout=PATIENCE_S) as later:
                assert serves(later)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


# --- load


async def storm(address: str, *, seconds: float, callers: int, tell: Counter[Any]) -> None:
    """Callers who ask again at once, whatever they are told."""
    source = random.Random(1)  # noqa: S311 - load, not secrets
    until_s = time.monotonic() + seconds
    limits = httpx.Limits(max_connections=callers, max_keepalive_connections=0)
    async with httpx.AsyncClient(base_url=address, timeout=PATIENCE_S, limits=limits) as client:

        async def call() -> None:
            while time.monotonic() < until_s:
                try:
                    response = await client.post("/predict/sales", json=large(source))
                except httpx.TransportError as error:
                    tell[type(error).__name__] += 1
                    return
                tell[response.status_code] += 1
                if response.status_code in REFUSALS - {504}:
                    assert int(response.headers["retry-after"]) >= 1

        await asyncio.gather(*[call() for _ in range(callers)])


def large(source: random.Random) -> dict[str, Any]:
    """32 series that nobody asked for before."""
    inputs = [{"target": source.choices(range(10), k=64)} for _ in range(32)]
    return {"inputs": inputs, "parameters": {"prediction_length": 8}}


async def steady(address: str, *, seconds: float, per_s: float, tell: Counter[Any]) -> None:
    """Callers who come when they come, however the service fares; one in three asks little."""
    source = random.Random(2)  # noqa: S311 - load, not secrets
    async with (
        httpx.AsyncClient(base_url=address, timeout=PATIENCE_S) as client,
        asyncio.TaskGroup() as callers,
    ):

        async def call(path: str, body: dict[str, Any]) -> None:
            tell[(await client.post(f"/predict/{path}", json=body)).status_code] += 1

        began_s = time.monotonic()
        for turn in range(int(seconds * per_s)):
            await asyncio.sleep(max(0.0, began_s + turn / per_s - time.monotonic()))
            small = turn % 3 == 0
            path = ("inventory", "purchase-probability")[turn % 2] if small else "sales"
            callers.create_task(call(path, BODIES[path] if small else large(source)))


def test_far_too_much_work_is_refused_in_order(
    checkpoints: dict[str, Path], tmp_path: Path
) -> None:
    # a queue of two requests
    limits = {"SHOPCAST_QUEUE_POINTS": "5000", "SHOPCAST_CACHE_BYTES": "0"}
    with serving(tmp_path, checkpoints, **limits) as own:
        told: Counter[Any] = Counter()
        asyncio.run(storm(own.address, seconds=1, callers=4, tell=Counter()))
        before = own.resident_bytes()
        asyncio.run(storm(own.address, seconds=much(3, 60), callers=much(48, 200), tell=told))
        assert set(told) <= {200} | REFUSALS, told
        assert told[200] > 0
        assert told[503] > 0
        with httpx.Client(base_url=own.address, timeout=5) as client:
            until_s = time.monotonic() + PATIENCE_S
            while not serves(client):  # it is behind for a moment longer
                assert time.monotonic() < until_s
                time.sleep(0.1)
        assert own.metric("shopcast_queue_tasks") == 0
        assert own.resident_bytes() < before * 1.3 + 64 * 1024 * 1024


def test_what_comes_while_the_process_is_behind_is_refused_unread_and_at_once(
    checkpoints: dict[str, Path], tmp_path: Path
) -> None:
    with serving(tmp_path, checkpoints, SHOPCAST_TIMEOUT_MS="1000") as own:
        with httpx.Client(base_url=own.address, timeout=PATIENCE_S) as client:
            assert serves(client)
            raw = client.build_request("POST", "/predict/sales", json=BODY).read()
        head = (
            "POST /predict/sales HTTP/1.1\r\nHost: 127.0.0.1\r\nX-Request-ID: mine\r\n"
            f"Content-Type: application/json\r\nContent-Length: {len(raw)}\r\n\r\n"
        ).encode()
        with ExitStack() as stack:
            (whole,) = idle(own, 1, stack)
            (parts,) = idle(own, 1, stack)
            for connection in (whole, parts):  # is accepted, and kept alive
                connection.sendall(head + raw)
                assert answer_of(connection)[0] == 200
            with halted(own):
                whole.sendall(head + raw)
                parts.sendall(head)
                time.sleep(1)
            began_s = time.monotonic()
            status, headers, body = answer_of(whole)
            assert status == 503
            assert time.monotonic() - began_s < 5
            assert body["detail"] == "the service is behind with its work"
            assert body["request_id"] == headers["x-request-id"] == "mine"
            assert int(headers["retry-after"]) >= 1
            assert headers["x-content-type-options"] == "nosniff"
            assert answer_of(parts)[0] == 503
            parts.sendall(raw)  # the rest of what was refused is the beginning of nothing
            time.sleep(1)
            for connection in (whole, parts):
                connection.sendall(head + raw)
                assert answer_of(connection)[0] == 200
        assert own.metric('shopcast_rejects_total{reason="queue_full"}') == 2


@contextmanager
def halted(service: Service) -> Iterator[None]:
    """The serving process stands still."""
    parent = service.process.pid
    children = Path(f"/proc/{parent}/task/{parent}/children").read_text().split()
    for child in children:
        os.kill(int(child), signal.SIGSTOP)
    try:
        yield
    finally:
        for child in children:
            os.kill(int(child), signal.SIGCONT)


def answer_of(connection: socket.socket) -> tuple[int, dict[str, str], Any]:
    """Status, headers and body of the next answer on a connection."""
    connection.settimeout(PATIENCE_S)
    response = HTTPResponse(connection, method="POST")
    response.begin()
    headers = {name.lower(): value for name, value in response.getheaders()}
    return response.status, headers, json.loads(response.read())


def test_no_admitted_request_is_lost_when_the_service_is_asked_to_end(
    checkpoints: dict[str, Path], tmp_path: Path
) -> None:
    limits = {"SHOPCAST_DRAIN_S": "1", "SHOPCAST_CACHE_BYTES": "0", "SHOPCAST_LOG_REQUESTS": "all"}
    with serving(tmp_path, checkpoints, **limits) as own:
        told: Counter[Any] = Counter()

        async def run() -> None:
            load = asyncio.create_task(storm(own.address, seconds=60, callers=16, tell=told))
            await asyncio.sleep(much(1, 10))
            own.process.send_signal(signal.SIGTERM)
            await load

        asyncio.run(run())
        assert own.process.wait(PATIENCE_S) == 0
        lines = [json.loads(line) for line in own.log.read_text().splitlines() if line[:1] == "{"]
    # a connection that was not accepted yet when listening ended is reset; all others are answered
    assert set(told) <= {200, 503, "ConnectError", "ReadError"}, told
    served = Counter(line["status"] for line in lines if line.get("route") == "/predict/sales")
    assert served[200] == told[200] > 0
    assert set(served) <= {200, 503}, served


@pytest.mark.skipif(much(1, 0) == 1, reason="half an hour: `make abuse`")
def test_memory_stays_flat_in_a_long_run(checkpoints: dict[str, Path], tmp_path: Path) -> None:
    with serving(tmp_path, checkpoints, SHOPCAST_CACHE_BYTES=str(8 * 1024 * 1024)) as own:
        most: Counter[Any] = Counter()
        asyncio.run(storm(own.address, seconds=30, callers=8, tell=most))
        per_s, told = 0.7 * most[200] / 30, Counter[Any]()
        asyncio.run(steady(own.address, seconds=180, per_s=per_s, tell=told))
        before = own.resident_bytes()
        asyncio.run(steady(own.address, seconds=1590, per_s=per_s, tell=told))
        after = own.resident_bytes()
        assert set(told) == {200}
        assert after < before * 1.05, f"{before:,.0f} to {after:,.0f} at {per_s:.0f} requests/s"
