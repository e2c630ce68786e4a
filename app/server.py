"""The process that serves, the one that works beside it, and the parent that starts both again.

Invariant: without a key nobody beyond this machine is served unless the settings say so, and an
engine that hangs costs the process, never the service.
"""

import asyncio
import contextlib
import gc
import logging
import math
import multiprocessing
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable
from functools import partial
from multiprocessing.connection import Connection
from types import FrameType
from typing import TYPE_CHECKING, Any

import structlog
import uvicorn

from app import logs
from app.auth import Keys
from app.db import open_database
from app.errors import ConfigurationError, UnavailableError
from app.metrics import forget_process, shared_metrics
from app.settings import Settings

if TYPE_CHECKING:
    from multiprocessing.process import BaseProcess

STUCK_EXIT = 75  # EX_TEMPFAIL: trying again is worth while
STUCK_AFTER_S = 1.0  # callers hear of it before the process ends
CRASH_AFTER_S = 10.0  # a process that was killed sooner would be again
KEEP_ALIVE_S = 75
PAUSE_S = 1.0
LONGEST_PAUSE_S = 60.0  # before what keeps ending is started again
BESIDE_ENDS_S = 15.0
SWITCH_S = 0.0005  # the event loop gets Python back from the engine's threads within this time
TWICE_S = 1.0  # one Ctrl-C reaches the process itself and again through its parent

log = structlog.get_logger(__name__)

Serve = Callable[..., None]
"""What a process does: it takes settings, where to complain and, of several, the listener."""

Application = Any
"""An ASGI application; `state` has `complaint` and, once it is open, `stopping`."""


def check_exposure(settings: Settings) -> None:
    """Raise ConfigurationError if strangers could use the service."""
    if settings.open_without_keys or settings.admin_key_file is not None or _has_key(settings):
        return
    raise ConfigurationError(
        f"SHOPCAST_HOST={settings.host} lets other machines in, and no API key exists; make one "
        "with `shopcast keys create`, name one in SHOPCAST_ADMIN_KEY_FILE, listen on 127.0.0.1, "
        "or set SHOPCAST_ALLOW_ANONYMOUS=1 where the network around it is trusted"
    )


def supervise(
    serve: Serve,
    settings: Settings,
    *,
    beside: Callable[[Settings], None] | None = None,
) -> None:
    """Run `serve` in processes of their own, again whenever an engine hung or one was killed.

    Several (`settings.workers`) take from one queue of connections, so that none is lost with one
    of them; threads and memory are divided among them, and what they measure is shown together.

    beside: what another process does meanwhile, which is started again however it ends. Returns
    once `serve` ended well. Raises ConfigurationError if it could not start, SystemExit if it
    ended otherwise.
    """
    # a thread of a network that waits for work should wait asleep: awake it takes the core that
    # the next request, or another process, needs, and all get slower by an order of magnitude
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    parents = [_Parent() for _ in range(settings.workers)]

    def stop(number: int, frame: FrameType | None) -> None:
        for each in parents:
            each.stop(number, frame)

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, stop)
    with contextlib.ExitStack() as stack:
        if beside is not None:
            stack.callback(_Beside(beside, settings, unless=lambda: parents[0].stopping).stop)
        if len(parents) > 1:
            _supervise_many(parents, serve, settings, stop=lambda: stop(signal.SIGTERM, None))
        else:
            _supervise(parents[0], serve, settings)


def _supervise_many(
    parents: "list[_Parent]", serve: Serve, settings: Settings, *, stop: Callable[[], None]
) -> None:
    """Keep several processes; when one of them ends for good, all do."""
    ends: list[BaseException] = []

    def keep(parent: _Parent, listener: socket.socket, own: Settings) -> None:
        try:
            _supervise(parent, serve, own, listener=listener)
        except (ConfigurationError, SystemExit) as error:
            ends.append(error)
        finally:
            stop()

    try:
        listener = _listener(settings)
    except OSError as error:
        raise ConfigurationError(_taken(settings, error)) from error
    with listener, shared_metrics():
        own = divided(settings, port=listener.getsockname()[1])
        arguments = [(parent, listener, own) for parent in parents]
        threads = [threading.Thread(target=keep, args=each) for each in arguments]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    if ends:
        raise ends[0]


def divided(settings: Settings, *, port: int) -> Settings:
    """The settings of one of several processes."""
    share = {
        "port": port,
        "threads": settings.threads or max(1, settings.cores // settings.workers),
        "loaded_bytes": settings.most_loaded_bytes // settings.workers,
        "cache_bytes": settings.cache_bytes // settings.workers,
    }
    return settings.model_copy(update=share)


def _supervise(
    parent: "_Parent", serve: Serve, settings: Settings, *, listener: socket.socket | None = None
) -> None:
    while True:
        code, lived_s, complaint = parent.run(serve, settings, listener)
        pause_s = PAUSE_S
        if complaint:
            raise ConfigurationError(complaint)
        if parent.stopping or code == 0:
            return
        if code < 0 and lived_s <= CRASH_AFTER_S and listener is not None:
            pause_s = CRASH_AFTER_S  # others serve meanwhile
        elif code != STUCK_EXIT and not (code < 0 and lived_s > CRASH_AFTER_S):
            raise SystemExit(code if code > 0 else 128 - code)
        print(f"the process ended with {code}; starting it again", flush=True)  # noqa: T201 - the parent has no log
        parent.pause(pause_s)
        if parent.stopping:
            return


def serve(
    app: Application,
    settings: Settings,
    complain: Connection,
    listener: socket.socket | None = None,
    *,
    http: type[asyncio.Protocol],
) -> None:
    """Serve an application until told to stop; why it could not start goes to `complain`.

    listener: bound already, if several processes share it. http: uvicorn's protocol, or one on it.
    """
    logs.configure(settings.log_level)
    sys.setswitchinterval(SWITCH_S)
    _end_with_parent()
    try:
        listener = listener or _listener(settings)
    except OSError as error:
        complain.send(_taken(settings, error))
        return
    server = _Server(app, settings, http)
    logging.getLogger("uvicorn.error").addFilter(lambda _: app.state.complaint is None)
    try:
        with contextlib.suppress(KeyboardInterrupt):  # uvicorn raises it once all is closed
            server.run([listener])
    finally:
        if app.state.complaint is not None:
            complain.send(app.state.complaint)


def end_stuck() -> None:
    """End the process, as soon as those who wait have heard of it."""
    log.critical("engine_stuck", exits_in_s=STUCK_AFTER_S)
    asyncio.get_running_loop().call_later(STUCK_AFTER_S, os._exit, STUCK_EXIT)


class _Parent:
    """The supervising side: one child at a time."""

    def __init__(self) -> None:
        self._stopped = threading.Event()
        self._child: BaseProcess | None = None

    @property
    def stopping(self) -> bool:
        return self._stopped.is_set()

    def pause(self, seconds: float) -> None:
        """Wait, unless asked to stop."""
        self._stopped.wait(seconds)

    def run(
        self, serve: Serve, settings: Settings, listener: socket.socket | None = None
    ) -> tuple[int, float, str | None]:
        """One life of the child: its exit code, its length, and what it complains about."""
        context = multiprocessing.get_context("spawn")
        ours, theirs = context.Pipe(duplex=False)
        arguments = (settings, theirs, *([] if listener is None else [listener]))
        self._child = context.Process(target=serve, args=arguments, name="shopcast")
        began_s = time.monotonic()
        self._child.start()
        theirs.close()
        if self.stopping:  # asked while it was being started
            self._child.terminate()
        self._child.join()
        forget_process(self._child.pid)
        complaint = _received(ours)
        return self._child.exitcode or 0, time.monotonic() - began_s, complaint

    def stop(self, _signal: int, _frame: FrameType | None) -> None:
        """Pass the wish to end on; the child finishes what it has begun."""
        self._stopped.set()
        if self._child is not None and self._child.is_alive():
            self._child.terminate()


class _Beside:
    """A process beside the one that serves, kept alive by a thread of the parent."""

    def __init__(
        self, work: Callable[[Settings], None], settings: Settings, *, unless: Callable[[], bool]
    ) -> None:
        self._work, self._settings, self._unless = work, settings, unless
        self._stopping = threading.Event()
        self._child: BaseProcess | None = None
        self._thread = threading.Thread(target=self._keep, name="beside", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End it, and wait until it has ended."""
        self._stopping.set()
        if self._child is not None:
            self._child.terminate()
        self._thread.join(BESIDE_ENDS_S)
        if self._child is not None and self._child.is_alive():
            self._child.kill()

    def _keep(self) -> None:
        pause_s = PAUSE_S
        while not (self._stopping.is_set() or self._unless()):
            began_s = time.monotonic()
            context = multiprocessing.get_context("spawn")
            target = partial(_beside, self._work, self._settings)
            self._child = context.Process(target=target, name="shopcast-worker")
            self._child.start()
            self._child.join()
            lived_s = time.monotonic() - began_s
            pause_s = PAUSE_S if lived_s > CRASH_AFTER_S else min(2 * pause_s, LONGEST_PAUSE_S)
            self._stopping.wait(pause_s)


def _beside(work: Callable[[Settings], None], settings: Settings) -> None:
    """The process beside; ends with the parent. Why it cannot start is told by its log."""
    _end_with_parent()
    try:
        work(settings)
    except ConfigurationError as error:
        log.error("worker_failed", error=str(error))  # noqa: TRY400 - no stack helps
        raise SystemExit(1) from error


class _Server(uvicorn.Server):
    """uvicorn, with a time between the signal to stop and the end of listening."""

    def __init__(self, app: Application, settings: Settings, http: type[asyncio.Protocol]) -> None:
        super().__init__(_config(app, settings, http))
        self._app, self._settings, self._drain_s = app, settings, settings.drain_s
        self._loop: asyncio.AbstractEventLoop | None = None
        self._asked_s = 0.0

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        self._loop = asyncio.get_running_loop()
        await super().startup(sockets)
        gc.freeze()  # what is loaded now stays; to walk through it again and again takes long
        audience = _audience(self._app, self._settings)
        for listener in self.servers:
            for each in listener.sockets:
                host, port = each.getsockname()[:2]
                url = f"http://{_bracketed(host)}:{port}"
                log.info("serving", url=url, docs=f"{url}/docs", open_to=audience)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Called in the main thread, between any two of its steps.

        The first signal begins the drain, a second one ends it.
        """
        stopping = getattr(self._app.state, "stopping", None)
        if self._loop is None or stopping is None or self.should_exit:
            super().handle_exit(sig, frame)
        elif not stopping.is_set():
            stopping.set()
            self._asked_s = time.monotonic()
            log.info("stopping", drain_s=self._drain_s)
            leave = partial(self._leave, sig, frame)
            self._loop.call_soon_threadsafe(self._loop.call_later, self._drain_s, leave)
        elif time.monotonic() - self._asked_s > TWICE_S:
            super().handle_exit(sig, frame)

    def _leave(self, sig: int, frame: FrameType | None) -> None:
        if not self.should_exit:  # uvicorn takes a second call as a wish to drop what is in flight
            super().handle_exit(sig, frame)


def _listener(settings: Settings) -> socket.socket:
    """The address, taken before the network is loaded; listening begins once it is."""
    found = socket.getaddrinfo(settings.host, settings.port, type=socket.SOCK_STREAM)
    family, kind, _, _, address = found[0]
    listener = socket.socket(family, kind)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind(address)
    return listener


def _taken(settings: Settings, error: OSError) -> str:
    where = f"{_bracketed(settings.host)}:{settings.port}"
    return f"SHOPCAST_HOST, SHOPCAST_PORT: no listening on {where}: {error.strerror}"


def _config(app: Application, settings: Settings, http: type[asyncio.Protocol]) -> uvicorn.Config:
    return uvicorn.Config(
        app,
        host=settings.host,
        port=settings.port,
        loop="uvloop",
        http=http,
        ws="none",
        lifespan="on",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_keep_alive=KEEP_ALIVE_S,
        timeout_graceful_shutdown=math.ceil(settings.grace_s),
    )


def _end_with_parent() -> None:
    """Stop as if asked to when the supervising parent is gone."""
    parent = multiprocessing.parent_process()
    if parent is None:
        return

    def wait() -> None:
        parent.join()
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=wait, name="parent", daemon=True).start()


def _received(complaints: Connection) -> str | None:
    try:
        return str(complaints.recv()) if complaints.poll() else None
    except EOFError:
        return None


def _audience(app: Application, settings: Settings) -> str:
    """Who may come in."""
    resources = getattr(app.state, "resources", None)
    if resources is None or resources.callers.demanded:
        return "who has a key"
    return "everybody who reaches it" if settings.allow_anonymous else "this machine"


def _has_key(settings: Settings) -> bool:
    """Whether a key was ever made."""
    engine = open_database(settings.database)
    try:
        return Keys(engine).any()
    except UnavailableError:  # there is no table yet
        return False
    finally:
        engine.dispose()


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host
