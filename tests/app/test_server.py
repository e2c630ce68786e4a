"""The process: who may reach it, how it ends, and that it comes back."""

import asyncio
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from multiprocessing.connection import Connection
from pathlib import Path
from types import SimpleNamespace

import httpx
import pytest

from app import server
from app.api.connection import HttpProtocol
from app.auth import Keys
from app.db import migrate, open_database
from app.errors import ConfigurationError
from app.settings import Settings

PATIENCE_S = 60


@pytest.mark.parametrize("host", ["127.0.0.1", "127.0.0.2", "::1", "localhost"])
def test_this_machine_may_always_be_served(host: str) -> None:
    server.check_exposure(Settings(host=host))


@pytest.mark.parametrize("host", ["::", "10.1.2.3", "shop.example", ""])
def test_others_only_if_the_settings_say_so(host: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="SHOPCAST_ALLOW_ANONYMOUS=1"):
        server.check_exposure(Settings(host=host, data_dir=tmp_path))
    server.check_exposure(Settings(host=host, allow_anonymous=True))


def test_others_may_be_served_once_there_is_a_key(tmp_path: Path) -> None:
    settings = Settings(host="10.1.2.3", data_dir=tmp_path)
    with pytest.raises(ConfigurationError, match="shopcast keys create"):
        server.check_exposure(settings)
    server.check_exposure(settings.model_copy(update={"admin_key_file": tmp_path / "key"}))
    migrate(settings.database)
    engine = open_database(settings.database)
    Keys(engine).create("", ["predict"], actor="test")
    engine.dispose()
    server.check_exposure(settings)


# --- the parent: what its child does is written in the data directory


def hang_twice(settings: Settings, complain: Connection) -> None:
    """A child whose engine hangs twice."""
    complain.close()
    lives = settings.data_dir / "lives"
    lives.write_text(lives.read_text() + "x" if lives.exists() else "x")
    os._exit(server.STUCK_EXIT if len(lives.read_text()) < 3 else 0)


def complain(_: Settings, complain: Connection) -> None:
    complain.send("SHOPCAST_SERIES_CHECKPOINT: refused")


def fail(_: Settings, complain: Connection) -> None:
    complain.close()
    os._exit(3)


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Settings]:
    monkeypatch.setattr(server, "PAUSE_S", 0.0)
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    yield Settings(data_dir=tmp_path)
    for number, handler in before.items():
        signal.signal(number, handler)


def test_a_process_whose_engine_hangs_is_started_again(settings: Settings) -> None:
    server.supervise(hang_twice, settings)
    assert (settings.data_dir / "lives").read_text() == "xxx"


def test_what_keeps_it_from_starting_is_told(settings: Settings) -> None:
    with pytest.raises(ConfigurationError, match="SHOPCAST_SERIES_CHECKPOINT: refused"):
        server.supervise(complain, settings)


def test_another_end_is_passed_on(settings: Settings) -> None:
    with pytest.raises(SystemExit) as end:
        server.supervise(fail, settings)
    assert end.value.code == 3


def serve_until_thrice(settings: Settings, _: Connection) -> None:
    """A child that ends well once its companion has been started three times."""
    until = time.monotonic() + PATIENCE_S
    lives = settings.data_dir / "lives"
    while not lives.exists() or len(lives.read_text()) < 3:
        assert time.monotonic() < until
        time.sleep(0.05)


def die_twice(settings: Settings) -> None:
    """A companion that is killed twice and then stays."""
    lives = settings.data_dir / "lives"
    lives.write_text(lives.read_text() + "x" if lives.exists() else "x")
    if len(lives.read_text()) < 3:
        os.kill(os.getpid(), signal.SIGKILL)
    (settings.data_dir / "pid").write_text(str(os.getpid()))
    time.sleep(PATIENCE_S)


def test_what_works_beside_is_kept_alive_and_ends_with_it(settings: Settings) -> None:
    server.supervise(serve_until_thrice, settings, beside=die_twice)
    assert (settings.data_dir / "lives").read_text() == "xxx"
    pid = settings.data_dir / "pid"
    if pid.exists():
        with pytest.raises(ProcessLookupError):
            os.kill(int(pid.read_text()), 0)


# --- the end


async def test_a_second_signal_ends_the_drain(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    app = SimpleNamespace(state=SimpleNamespace(stopping=asyncio.Event()))
    settings = settings.model_copy(update={"drain_s": 60.0})
    running = server._Server(app, settings, HttpProtocol)
    running._loop = asyncio.get_running_loop()
    running.handle_exit(signal.SIGINT, None)
    running.handle_exit(signal.SIGTERM, None)  # the same Ctrl-C, by way of the parent
    assert app.state.stopping.is_set()
    assert not running.should_exit
    monkeypatch.setattr(server, "TWICE_S", -1.0)
    running.handle_exit(signal.SIGINT, None)
    assert running.should_exit
    running._leave(signal.SIGINT, None)  # the drain's own end comes too late to matter
    assert not running.force_exit


# --- the whole of it, as a user starts it


@pytest.fixture
def started(tiny_checkpoint: Path, tmp_path: Path) -> Iterator["Started"]:
    running = Started(tiny_checkpoint, tmp_path)
    yield running
    if running.process.poll() is None:
        running.process.kill()
        running.process.wait()


def launch(checkpoint: Path, directory: Path, **environment: str) -> subprocess.Popen[bytes]:
    """The service in processes of its own; its log goes to a file of the directory."""
    migrate(Settings(data_dir=directory).database)
    command = "from app.main import run; from app.settings import Settings; run(Settings())"
    own = {
        "SHOPCAST_DATA_DIR": str(directory),
        "SHOPCAST_SERIES_CHECKPOINT": str(checkpoint),
        "SHOPCAST_THREADS": "1",
    }
    with (directory / "log").open("wb") as log:
        return subprocess.Popen(  # noqa: S603 - our own interpreter
            [sys.executable, "-c", command],
            env={**os.environ, **own, **environment},
            stderr=log,
            stdout=log,
        )


class Started:
    """A service on a free port."""

    def __init__(self, checkpoint: Path, directory: Path, **environment: str) -> None:
        self._log = directory / "log"
        own = {"SHOPCAST_PORT": "0", "SHOPCAST_DRAIN_S": "1", **environment}
        self.process = launch(checkpoint, directory, **own)
        try:
            self.client = httpx.Client(base_url=self._address(), timeout=PATIENCE_S)
        except AssertionError:
            self.process.kill()
            self.process.wait()
            raise

    @property
    def log(self) -> str:
        return self._log.read_text()

    def _address(self) -> str:
        until = time.monotonic() + PATIENCE_S
        while time.monotonic() < until:
            assert self.process.poll() is None, self.log
            if '"url": "' in self.log:
                return self.log.split('"url": "')[1].split('"')[0]
            time.sleep(0.05)
        raise AssertionError(self.log)


def test_it_drains_before_it_ends(started: Started) -> None:
    with started.client as client:
        assert client.get("/readyz").status_code == 200
        started.process.terminate()
        until = time.monotonic() + PATIENCE_S
        while client.get("/readyz").status_code == 200:
            assert time.monotonic() < until
        assert client.get("/healthz").status_code == 200
        answer = client.post("/predict/sales", json={"inputs": [{"target": [1, 2, 3]}]})
        assert answer.status_code == 200
    assert started.process.wait(PATIENCE_S) == 0
    assert "Traceback" not in started.log


def test_a_port_that_is_taken_is_told(tiny_checkpoint: Path, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        started = launch(tiny_checkpoint, tmp_path, SHOPCAST_PORT=str(port))
        assert started.wait(PATIENCE_S) != 0
    assert f"127.0.0.1:{port}: Address already in use" in (tmp_path / "log").read_text()


# --- several processes


def children(pid: int) -> list[int]:
    """The processes that serve: what the supervising parent has started and serves."""
    found = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    found += [
        child
        for task in Path(f"/proc/{pid}/task").iterdir()
        if task.name != str(pid)
        for child in (task / "children").read_text().split()
    ]
    of_us = [int(each) for each in found]
    return sorted(
        each for each in of_us if b"spawn_main" in Path(f"/proc/{each}/cmdline").read_bytes()
    )


def test_several_processes_serve_one_port_and_one_that_is_killed_comes_back(
    tiny_checkpoint: Path, tmp_path: Path
) -> None:
    running = Started(tiny_checkpoint, tmp_path, SHOPCAST_WORKERS="2", SHOPCAST_WORKER="external")
    try:
        until = time.monotonic() + PATIENCE_S
        while running.log.count('"url": "') < 2:
            assert time.monotonic() < until, running.log
            time.sleep(0.1)
        pids = children(running.process.pid)
        assert len(pids) == 2
        assert predicted(running, 40) == 40
        assert counted(running, "shopcast_http_requests_total") >= 40
        assert counted(running, "shopcast_production_version") == 2, "1 of sales and 1 of purchase"
        before = counted(running, "shopcast_batches_total")
        os.kill(pids[0], signal.SIGKILL)
        assert predicted(running, 40) >= 39, "one may have been in its hands"
        while running.log.count('"url": "') < 3:
            assert time.monotonic() < until, running.log
            time.sleep(0.1)
        assert predicted(running, 10) == 10
        assert counted(running, "shopcast_batches_total") > before
        assert counted(running, "shopcast_engine_healthy") == 1
        assert counted(running, "shopcast_http_in_flight") == 1, "the scrape itself"
        assert len(set(children(running.process.pid)) - {pids[0]}) == 2
    finally:
        running.process.terminate()
        assert running.process.wait(PATIENCE_S) == 0, running.log
    assert "Traceback" not in running.log


def predicted(running: "Started", requests: int) -> int:
    """How many of so many requests, each by a connection of its own, are answered."""
    answered = 0
    for number in range(requests):
        body = {"inputs": [{"target": [1, 2, number]}]}
        try:
            answer = httpx.post(f"{running.client.base_url}/predict/sales", json=body, timeout=60)
        except httpx.TransportError:
            continue
        answered += answer.status_code == 200
    return answered


def counted(running: "Started", name: str) -> float:
    """A metric over all its labels."""
    text = httpx.get(f"{running.client.base_url}/metrics", timeout=60).text
    lines = [line for line in text.splitlines() if line.startswith((f"{name} ", f"{name}{{"))]
    assert lines, f"no {name}"
    return sum(float(line.rpartition(" ")[2]) for line in lines)


def test_the_port_is_taken_for_several_too(tiny_checkpoint: Path, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        started = launch(tiny_checkpoint, tmp_path, SHOPCAST_PORT=str(port), SHOPCAST_WORKERS="2")
        assert started.wait(PATIENCE_S) != 0
    assert f"127.0.0.1:{port}: Address already in use" in (tmp_path / "log").read_text()


def test_threads_and_memory_are_divided() -> None:
    settings = Settings(workers=4, loaded_bytes=400, cache_bytes=80)
    own = server.divided(settings, port=9)
    assert own.threads == max(1, settings.cores // 4)
    assert (own.loaded_bytes, own.cache_bytes, own.port) == (100, 20, 9)
    assert server.divided(settings.model_copy(update={"threads": 3}), port=9).threads == 3
