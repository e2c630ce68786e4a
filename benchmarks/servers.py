"""Servers under test: started as processes of their own on a free loopback port, and ended.

Invariant: whatever happens to the benchmark, the process group of a server ends with its context.
"""

import http.client
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

SPINS = "GOMP_SPINCOUNT"
START_S = 120.0
STOP_S = 20.0
HERE = Path(__file__).parent


class ServerError(Exception):
    """A server that did not come up; the message ends with what it printed."""


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


@contextmanager
def shopcast(
    checkpoint: Path, *, cores: Iterable[int] | None = None, **settings: object
) -> Iterator[int]:
    """`shopcast serve` with a checkpoint and other settings by name; yields its port.

    cores: those it may run on, where not all.
    """
    port = free_port()
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as data:
        values = {
            "host": "127.0.0.1",
            "port": port,
            "data_dir": data,
            "series_checkpoint": checkpoint,
            "log_level": "warning",
            **settings,
        }
        environment = {f"SHOPCAST_{name.upper()}": str(value) for name, value in values.items()}
        command = [sys.executable, "-m", "app.cli"]
        subprocess.run(
            [*command, "migrate"],
            env=_environment(environment),
            cwd=HERE.parent,
            check=True,
            stdout=subprocess.DEVNULL,
        )
        pinned = [] if cores is None else ["taskset", "--cpu-list", ",".join(map(str, cores))]
        serve = [*pinned, *command, "serve"]
        with running(serve, port, ready="/readyz", environment=environment):
            yield port


@contextmanager
def peer(
    name: str, checkpoint: Path, *, python: str = sys.executable, **options: object
) -> Iterator[int]:
    """A server of benchmarks/peers, by the name of its file; options become its arguments."""
    port = free_port()
    command = [python, str(HERE / "peers" / f"{name}.py")]
    for option, value in {"checkpoint": checkpoint, "port": port, **options}.items():
        command += [f"--{option.replace('_', '-')}", str(value)]
    # its threads wait as those of `shopcast serve` do
    with running(command, port, ready=None, environment={"OMP_WAIT_POLICY": "PASSIVE"}):
        yield port


@contextmanager
def running(
    command: Sequence[str], port: int, *, ready: str | None, environment: Mapping[str, str]
) -> Iterator[None]:
    """Run a server until the end of the context. ready: path that answers 200 once it is up."""
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(
            command,
            stdout=log,
            stderr=subprocess.STDOUT,
            env=_environment(environment),
            cwd=HERE.parent,
            start_new_session=True,
        )
        try:
            _await_ready(process, port, ready)
            yield
        except Exception as error:
            log.seek(0)
            printed = log.read()[-2000:].decode(errors="replace")
            error.add_note(f"{' '.join(command)} printed:\n{printed}")
            raise
        finally:
            _stop(process)


def _environment(own: Mapping[str, str]) -> dict[str, str]:
    """Ours without how the benchmark's own threads wait."""
    rest = {name: value for name, value in os.environ.items() if name != SPINS}
    return {**rest, **own}


def _await_ready(process: subprocess.Popen[bytes], port: int, path: str | None) -> None:
    ends_s = time.monotonic() + START_S
    while time.monotonic() < ends_s:
        if process.poll() is not None:
            raise ServerError(f"the server ended with status {process.returncode}")
        if _answers(port, path):
            return
        time.sleep(0.2)
    raise ServerError(f"the server was not up after {START_S:.0f} s")


def _answers(port: int, path: str | None) -> bool:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        connection.request("GET", path or "/")
        status = connection.getresponse().status
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()
    return status == 200 or path is None


def _stop(process: subprocess.Popen[bytes]) -> None:
    """Ask the process to end, and its whole group in the end."""
    process.terminate()
    with suppress(subprocess.TimeoutExpired):
        process.wait(STOP_S)
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
