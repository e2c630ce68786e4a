"""The service as an ASGI application, and the process that serves it.

Invariant: no logic; `create_app` opens nothing, and may be called again in the same process.
"""

import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from importlib.metadata import version
from multiprocessing.connection import Connection

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException

from app import server
from app.api import datasets, health, inventory, jobs, keys, models, profiles, purchase, sales
from app.api.connection import HttpProtocol
from app.api.docs import describe, docs_of
from app.api.edge import Edge
from app.api.problems import on_error, on_http_error, on_validation_error
from app.db import is_local, migrate
from app.errors import ConfigurationError, ShopcastError
from app.resources import open_resources
from app.settings import Settings


def create_app(settings: Settings, *, on_stuck: Callable[[], None] | None = None) -> FastAPI:
    """The application. on_stuck: what to do about an engine that hangs."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        try:
            async with open_resources(settings, on_stuck=on_stuck) as resources:
                app.state.resources, app.state.stopping = resources, resources.stopping
                yield
        except ConfigurationError as error:
            app.state.complaint = str(error)
            raise

    hot = [*sales.routes(), *inventory.routes(), *purchase.routes()]
    app = FastAPI(
        title="Shopcast",
        version=version("shopcast"),
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        routes=[*hot],
    )
    app.state.complaint = None
    for each in (models, health):
        app.include_router(each.router)
    app.include_router(profiles.profiles())
    app.include_router(datasets.datasets())
    app.include_router(jobs.jobs())
    app.include_router(keys.keys())
    app.include_router(docs_of(app))
    app.add_exception_handler(ShopcastError, on_error)
    app.add_exception_handler(HTTPException, on_http_error)
    app.add_exception_handler(RequestValidationError, on_validation_error)
    app.add_middleware(Edge, settings=settings, hot=hot)
    describe(app)
    return app


def run(settings: Settings, *, beside: Callable[[Settings], None] | None = None) -> None:
    """Serve until told to stop. Raises ConfigurationError if that cannot be done safely.

    beside: what a process of its own does meanwhile, such as running jobs.
    """
    server.check_exposure(settings)
    if settings.workers > 1 and is_local(settings.database):
        migrate(settings.database)  # or they would all do it at once
    server.supervise(_serve, settings, beside=beside)


def _serve(settings: Settings, complain: Connection, listener: socket.socket | None = None) -> None:
    """A process that `run` supervises."""
    app = create_app(settings, on_stuck=server.end_stuck)
    server.serve(app, settings, complain, listener, http=HttpProtocol)
