"""A Redis server of a test's own, on a free port, to be killed, stopped and filled."""

import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest


class RedisServer:
    """One server; nothing of it is kept on disk."""

    def __init__(self, *options: str) -> None:
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port: int = free.getsockname()[1]
        self._options = options
        self.start()

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    def start(self) -> None:
        """Start it, on the same port as before."""
        command = ["redis-server", "--port", str(self.port), "--save", "", "--bind", "127.0.0.1"]
        self._process = subprocess.Popen(  # noqa: S603 - a program that was looked for
            [*command, *self._options], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        until_s = time.monotonic() + 20
        while not self._listens():
            assert time.monotonic() < until_s
            assert self._process.poll() is None
            time.sleep(0.01)

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()

    def pause(self) -> None:
        self._process.send_signal(signal.SIGSTOP)

    def go_on(self) -> None:
        self._process.send_signal(signal.SIGCONT)

    def say(self, *command: str | bytes) -> bytes:
        """What it answers to a command, as it comes over the wire."""
        parts = [each.encode() if isinstance(each, str) else each for each in command]
        words = b"".join(b"$%d\r\n%s\r\n" % (len(part), part) for part in parts)
        with socket.create_connection(("127.0.0.1", self.port), timeout=20) as wire:
            wire.sendall(b"*%d\r\n%s" % (len(parts), words))
            return wire.recv(1 << 20)

    def _listens(self) -> bool:
        try:
            return self.say("PING") == b"+PONG\r\n"
        except OSError:
            return False


@contextmanager
def redis_server(*options: str) -> Iterator[RedisServer]:
    """A server for as long as the context is; skips where there is none to start, except in CI."""
    if shutil.which("redis-server") is None:
        if os.environ.get("CI"):
            raise FileNotFoundError("redis-server")
        pytest.skip("no redis-server here")
    server = RedisServer(*options)
    try:
        yield server
    finally:
        server.kill()


@pytest.fixture
def redis() -> Iterator[RedisServer]:
    with redis_server() as server:
        yield server
