"""Shopcast by another design: processes that speak HTTP before one that has the engine.

What `shopcast serve` does not do, so that it can be measured (docs/decisions/0010-processes.md):
the HTTP processes are those of `shopcast serve`, each with its cache, but what they would line up
for an engine of their own goes over a Unix socket, pickled, to the batcher of the engine's process.
"""

import argparse
import asyncio
import itertools
import multiprocessing
import os
import pickle
import socket
import tempfile
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import uvicorn
import uvloop
from fastapi import FastAPI

from app.api.connection import HttpProtocol
from app.batcher import Answer
from app.main import create_app
from app.registry import SALES
from app.resources import open_resources
from app.settings import Settings

SIZE = 8  # bytes that say how long a message is


class Distant:
    """A batcher's `submit`, by way of another process."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writer = writer
        self._loop = asyncio.get_running_loop()
        self._waiting: dict[int, asyncio.Future[Answer[Any]]] = {}
        self._numbers = itertools.count()
        self._listener = asyncio.create_task(self._listen(reader))

    def submit(
        self,
        network: Any,  # noqa: ANN401, ARG002 - the other process has its own
        tasks: Sequence[Any],
        *,
        keys: Sequence[bytes],
        deadline_s: float | None,
        bulk: bool,
        caller: str | None,
    ) -> asyncio.Future[Answer[Any]]:
        number, future = next(self._numbers), self._loop.create_future()
        self._waiting[number] = future
        left_s = None if deadline_s is None else deadline_s - self._loop.time()
        _send(self._writer, (number, tasks, keys, left_s, bulk, caller))
        return future

    async def _listen(self, reader: asyncio.StreamReader) -> None:
        while True:
            number, answer, error = await _received(reader)
            future = self._waiting.pop(number)
            if future.done():
                continue
            if error is None:
                future.set_result(answer)
            else:
                future.set_exception(error)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--checkpoint", type=Path, required=True)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--http", type=int, required=True, help="processes")
    given = parser.parse_args()
    os.environ["OMP_WAIT_POLICY"] = "PASSIVE"
    with tempfile.TemporaryDirectory() as directory, socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(("127.0.0.1", given.port))
        path = Path(directory) / "engine"
        context = multiprocessing.get_context("spawn")
        for number in range(given.http):
            settings = _settings(given.checkpoint, Path(directory) / str(number))
            arguments = (settings, str(path), listener)
            context.Process(target=_speak, args=arguments, daemon=True).start()
        uvloop.run(_compute(_settings(given.checkpoint, Path(directory) / "own"), str(path)))


def _settings(checkpoint: Path, directory: Path) -> Settings:
    return Settings(series_checkpoint=checkpoint, data_dir=directory, log_level="warning")


async def _compute(settings: Settings, path: str) -> None:
    """The engine's process."""
    async with open_resources(settings) as resources:
        network, loop = resources.registry.serving(SALES).network, asyncio.get_running_loop()

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            def tell(number: int, future: asyncio.Future[Answer[Any]]) -> None:
                error = future.exception()
                _send(writer, (number, None if error else future.result(), error))

            with suppress(asyncio.IncompleteReadError):
                while True:
                    number, tasks, keys, left_s, bulk, caller = await _received(reader)
                    until_s = None if left_s is None else loop.time() + left_s
                    future = resources.batcher.submit(
                        network, tasks, keys=keys, deadline_s=until_s, bulk=bulk, caller=caller
                    )
                    future.add_done_callback(lambda done, number=number: tell(number, done))

        async with await asyncio.start_unix_server(serve, path) as server:
            await server.serve_forever()


def _speak(settings: Settings, path: str, listener: socket.socket) -> None:
    """A process that speaks HTTP."""
    app = create_app(settings)
    opened = app.router.lifespan_context

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with opened(app):
            distant = Distant(*await _connected(path))
            app.state.resources.predictor._batcher = distant  # noqa: SLF001
            yield

    app.router.lifespan_context = lifespan  # type: ignore[assignment]
    config = uvicorn.Config(app, http=HttpProtocol, loop="uvloop", log_config=None)
    uvicorn.Server(config).run([listener])


async def _connected(path: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    while True:
        try:
            return await asyncio.open_unix_connection(path)
        except OSError:  # the engine is still being loaded
            await asyncio.sleep(0.1)


def _send(writer: asyncio.StreamWriter, message: object) -> None:
    raw = pickle.dumps(message, pickle.HIGHEST_PROTOCOL)
    writer.write(len(raw).to_bytes(SIZE, "big") + raw)


async def _received(reader: asyncio.StreamReader) -> Any:  # noqa: ANN401
    size = int.from_bytes(await reader.readexactly(SIZE), "big")
    return pickle.loads(await reader.readexactly(size))  # noqa: S301 - our own processes


if __name__ == "__main__":
    main()
