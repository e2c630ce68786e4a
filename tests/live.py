"""A real service on a free port of this machine, in another thread."""

import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import uvicorn

from app.api.connection import HttpProtocol
from app.db import migrate
from app.main import create_app
from app.registry import Loaded
from app.settings import Settings

NONE: Mapping[str, Loaded] = {}


@contextmanager
def running(settings: Settings, networks: Mapping[str, Loaded] = NONE) -> Iterator[str]:
    """Its address, as http://127.0.0.1:PORT. networks: put into production once it runs."""
    migrate(settings.database)
    app = create_app(settings)
    server = uvicorn.Server(uvicorn.Config(app, port=0, http=HttpProtocol, log_config=None))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        assert thread.is_alive(), "the service did not start"
        time.sleep(0.02)
    for name, network in networks.items():
        app.state.resources.registry.add(name, network, load_s=0.0)
    try:
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(timeout=30)
