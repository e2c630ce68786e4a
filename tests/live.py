"""A real service on a free port of this machine, in another thread."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import uvicorn

from app.db import migrate
from app.main import create_app
from app.settings import Settings


@contextmanager
def running(settings: Settings) -> Iterator[str]:
    """Its address, as http://127.0.0.1:PORT."""
    migrate(settings.database)
    server = uvicorn.Server(uvicorn.Config(create_app(settings), port=0, log_config=None))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        assert thread.is_alive(), "the service did not start"
        time.sleep(0.02)
    try:
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(timeout=30)
