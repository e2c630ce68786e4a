"""The clock is set back or forward under the service: dates move, nothing that waits does."""

from __future__ import annotations

import socket
import time
from secrets import token_hex
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from tests.abuse.clock import Clock
from tests.abuse.process import BODY, PATIENCE_S, Service, serving
from tests.app.test_worker import Office

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = pytest.mark.timeout(600)

JUMPS = ("-400d", "+3d", "+0")


@pytest.fixture(scope="module")
def clock(tmp_path_factory: pytest.TempPathFactory) -> Clock:
    return Clock(tmp_path_factory.mktemp("clock"))


@pytest.fixture(scope="module")
def root_key() -> str:
    return token_hex(32)


@pytest.fixture(scope="module")
def service(
    clock: Clock,
    root_key: str,
    tiny_checkpoint: Path,
    tiny_events_checkpoint: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Service]:
    directory = tmp_path_factory.mktemp("service")
    (directory / "key").write_text(root_key)
    checkpoints = {"series": tiny_checkpoint, "purchase": tiny_events_checkpoint}
    own = {"SHOPCAST_ADMIN_KEY_FILE": str(directory / "key"), "SHOPCAST_METRICS_OPEN": "1"}
    with serving(directory, checkpoints, **own, **clock.environment) as found:
        yield found


@pytest.fixture
def client(service: Service, clock: Clock, root_key: str) -> Iterator[httpx.Client]:
    clock.set("+0")
    headers = {"Authorization": f"Bearer {root_key}"}
    with httpx.Client(base_url=service.address, headers=headers, timeout=PATIENCE_S) as found:
        yield found
    clock.set("+0")


def new_key(client: httpx.Client, **wishes: str) -> dict[str, str]:
    """The header of a key that was just made."""
    made = client.post("/keys", json={"scopes": ["predict"], **wishes})
    assert made.status_code == 201, made.text
    return {"Authorization": f"Bearer {made.json()['key']}"}


def ask(client: httpx.Client, **more: Any) -> httpx.Response:
    return client.post("/predict/sales", json=BODY, **more)


def test_the_service_goes_on_and_its_watchdog_sees_nothing(
    service: Service, client: httpx.Client, clock: Clock
) -> None:
    before = ask(client).json()["predictions"]
    began_s = service.metric("shopcast_process_start_time_seconds")
    for jump in JUMPS:
        clock.set(jump)
        for _ in range(4):  # more than two looks of the watchdog
            answer = ask(client)
            assert answer.status_code == 200, answer.text
            assert answer.json()["predictions"] == before
            fresh = {"inputs": [{"target": [1, 2, time.monotonic()]}]}
            assert client.post("/predict/sales", json=fresh).status_code == 200
            assert client.get("/readyz").status_code == 200
            time.sleep(0.4)
    assert service.metric("shopcast_engine_restarts_total") == 0
    assert service.metric("shopcast_process_start_time_seconds") == began_s
    assert service.metric("shopcast_keys_age_seconds") < 60


def test_what_is_cached_stays_as_long_as_it_was_to(client: httpx.Client, clock: Clock) -> None:
    body = {"inputs": [{"target": [2, 7, 1, 8, 2, 8]}]}
    assert client.post("/predict/sales", json=body).json()["meta"]["cached"] == [False]
    for jump in JUMPS:
        clock.set(jump)
        assert client.post("/predict/sales", json=body).json()["meta"]["cached"] == [True]


def test_a_deadline_passes_when_it_is_due(
    service: Service, root_key: str, client: httpx.Client, clock: Clock
) -> None:
    head = (
        f"POST /predict/sales HTTP/1.1\r\nHost: 127.0.0.1\r\nX-API-Key: {root_key}\r\n"
        "Content-Type: application/json\r\nX-Request-Timeout-Ms: 6000\r\n"
        "Content-Length: 100\r\n\r\n{"
    )
    with socket.create_connection(("127.0.0.1", service.port), timeout=PATIENCE_S) as slow:
        began_s = time.monotonic()
        slow.sendall(head.encode())
        for jump in JUMPS[:2]:
            clock.set(jump)
            assert client.get("/healthz").status_code == 200
        assert slow.recv(12).split()[1] in {b"408", b"504"}
        assert 5.9 < time.monotonic() - began_s < 20


def test_a_rate_is_kept(client: httpx.Client, clock: Clock) -> None:
    key = new_key(client, rate="5/h")
    assert [ask(client, headers=key).status_code for _ in range(6)] == [200] * 5 + [429]
    for jump in JUMPS:
        clock.set(jump)
        refused = ask(client, headers=key)
        assert refused.status_code == 429
        assert 600 < int(refused.headers["retry-after"]) <= 720


def test_a_key_ends_by_the_date(client: httpx.Client, clock: Clock) -> None:
    key = new_key(client, expires="12h")
    told = {}
    for jump in JUMPS:
        clock.set(jump)
        told[jump] = ask(client, headers=key).status_code
    assert told == {"-400d": 200, "+3d": 401, "+0": 200}


def test_jobs_go_on(clock: Clock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in clock.environment.items():
        monkeypatch.setenv(name, value)
    office = Office(f"sqlite:///{tmp_path / 'shopcast.sqlite3'}", tmp_path)
    try:
        job = office.ask(most=250)
        office.start()
        for jump in JUMPS:
            office.until(job, lambda each: each.step == "fit" or each.ended)
            clock.set(jump)
        assert office.end(job).state == "succeeded"
        assert (office.files(job) / "versions.txt").read_text() == "x"
        clock.set("-400d")
        assert office.end(office.ask(most=5)).state == "succeeded"
    finally:
        clock.set("+0")
        for process in office.processes:
            process.kill()
            process.wait()
        office.engine.dispose()
