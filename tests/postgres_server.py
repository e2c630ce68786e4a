"""A PostgreSQL server of a test's own, on a free port, to be stopped and started again."""

import os
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

OPTIONS = "-c listen_addresses=127.0.0.1 -c fsync=off -c unix_socket_directories= -p"


class PostgresServer:
    """One server, and an empty database in it."""

    def __init__(self, directory: Path) -> None:
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port: int = free.getsockname()[1]
        self._data = directory / "data"
        self._user = "nobody" if os.geteuid() == 0 else None  # it never runs as root
        if self._user is not None:
            shutil.chown(directory, self._user)
        self._say("initdb", "--no-sync", "--auth=trust", "--username=shopcast", "--encoding=UTF8")
        self.start()

    @property
    def url(self) -> str:
        return f"postgresql+psycopg://shopcast@127.0.0.1:{self.port}/postgres"

    def start(self) -> None:
        """Start it, on the same port as before, and wait until it answers."""
        self._say("pg_ctl", "start", "-w", "-o", f"{OPTIONS} {self.port}")

    def crash(self) -> None:
        """Stop it at once, whoever it talks to."""
        self._say("pg_ctl", "stop", "-w", "-m", "immediate")

    def _say(self, program: str, *words: str) -> None:
        log = self._data.parent / "server.log"
        command = [program, *words, "-D", str(self._data)]
        with log.open("ab") as out:
            subprocess.run(  # noqa: S603 - a program that was looked for
                command, user=self._user, stdout=out, stderr=out, cwd=self._data.parent, check=True
            )


@contextmanager
def postgres_server() -> Iterator[PostgresServer]:
    """A server for as long as the context is; skips where there is none to start, except in CI."""
    if shutil.which("initdb") is None or shutil.which("pg_ctl") is None:
        if os.environ.get("CI"):
            raise FileNotFoundError("initdb and pg_ctl")
        pytest.skip("no PostgreSQL to start here")
    pytest.importorskip("psycopg", reason="the extra `postgres` is not installed")
    # not in pytest's own, which no other user may enter
    with tempfile.TemporaryDirectory(prefix="shopcast-", ignore_cleanup_errors=True) as directory:
        server = PostgresServer(Path(directory))
        try:
            yield server
        finally:
            server.crash()


@pytest.fixture
def postgres() -> Iterator[PostgresServer]:
    with postgres_server() as server:
        yield server
