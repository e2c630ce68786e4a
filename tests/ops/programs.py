"""Programs that operators run beside the service, and free ports for them."""

import os
import shutil
import socket

import pytest


def program(name: str, *, package: str | None = None) -> str:
    """Where a program lies; skips where it is not installed, except in CI.

    package: of Debian, if it is called otherwise.
    """
    found = shutil.which(name)
    if found is None:
        message = f"{name} is not installed (Debian package {package or name})"
        if os.environ.get("CI"):
            pytest.fail(message)
        pytest.skip(message)
    return found


def free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port: int = taken.getsockname()[1]
        return port
