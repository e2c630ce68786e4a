"""A service in a process of its own, as a user starts it, for tests that hurt it.

How much they hurt it: `SHOPCAST_ABUSE=long` (as `make abuse` sets) for the whole of it, else a
short form that belongs to every run of the tests.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import httpx

from tests.ops.programs import free_port

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

LONG = os.environ.get("SHOPCAST_ABUSE") == "long"
PATIENCE_S = 120
START_S = 300  # several processes on a busy machine
BODY = {"inputs": [{"target": [3, 1, 4, 1, 5, 9, 2, 6]}], "parameters": {"prediction_length": 2}}


def much(short: int, long: int) -> int:
    """How many of something: the short or the long form of a test."""
    return long if LONG else short


@dataclass(frozen=True, slots=True)
class Service:
    """A running service. process: the supervising parent."""

    process: subprocess.Popen[bytes]
    port: int
    log: Path

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def resident_bytes(self) -> float:
        """Memory of the serving process, as it says itself."""
        return self.metric("shopcast_process_resident_memory_bytes")

    def metric(self, name: str) -> float:
        text = httpx.get(f"{self.address}/metrics", timeout=PATIENCE_S).text
        lines = [line for line in text.splitlines() if line.startswith((f"{name} ", f"{name}{{"))]
        return sum(float(line.rpartition(" ")[2]) for line in lines)


@contextmanager
def serving(
    directory: Path,
    checkpoints: Mapping[str, Path],
    *,
    within: Sequence[str] = (),
    **environment: str,
) -> Iterator[Service]:
    """A service on a free port, ready; ended, by force if need be, when the test is.

    within: a program that becomes the service after what it does first.
    """
    port = free_port()
    own = {name: value for name, value in os.environ.items() if "SHOPCAST" not in name}
    settings = {
        "SHOPCAST_PORT": str(port),
        "SHOPCAST_DATA_DIR": str(directory / "data"),
        "SHOPCAST_SERIES_CHECKPOINT": str(checkpoints["series"]),
        "SHOPCAST_PURCHASE_CHECKPOINT": str(checkpoints["purchase"]),
        "SHOPCAST_DEVICE": "cpu",
        "SHOPCAST_WORKER": "external",
    }
    command = [*within, sys.executable, "-m", "app.cli", "serve"]
    log = directory / "log"
    with log.open("wb") as file:
        process = subprocess.Popen(  # noqa: S603 - our own interpreter
            command, env=own | settings | environment, stdout=file, stderr=file
        )
    service = Service(process, port, log)
    try:
        _await_ready(service)
        yield service
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(PATIENCE_S)
        finally:
            process.kill()


def _await_ready(service: Service) -> None:
    until_s = time.monotonic() + START_S
    while time.monotonic() < until_s:
        assert service.process.poll() is None, service.log.read_text()
        try:
            if httpx.get(f"{service.address}/readyz").status_code == 200:
                return
        except httpx.TransportError:
            pass
        time.sleep(0.05)
    raise AssertionError(service.log.read_text())
