"""`shopcast check`: what a service set up like this would find, without starting it.

Invariant: nothing is changed; no table is made, no version registered, nothing promoted.
"""

import asyncio
import os
import shutil
import socket
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from tempfile import TemporaryDirectory
from typing import Literal
from urllib.parse import urlsplit

from app.db import is_local, migrate, revisions
from app.errors import ConfigurationError, ShopcastError
from app.link import version_of
from app.metrics import Metrics
from app.registry import Registry
from app.server import check_exposure
from app.settings import Settings
from app.versions import Versions, open_versions

GIB = 1 << 30
LEAST_FREE_BYTES = GIB  # of the disk, before a person should look
LEAST_MEMORY_BYTES = 3 * GIB // 2  # PyTorch, both networks, and batches
NEAR_S = 2.0

State = Literal["ok", "note", "wrong"]


@dataclass(frozen=True, slots=True)
class Finding:
    """What was looked at and found. wrong: the service would not start, or not do its work."""

    subject: str
    state: State
    detail: str


def examine(settings: Settings, environment: Mapping[str, str] | None = None) -> list[Finding]:
    """Look at everything in turn. Blocking, for some seconds: the networks are loaded."""
    unknown = _unknown(settings, os.environ if environment is None else environment)
    looks: dict[str, Callable[[Settings], Iterator[Finding]]] = {
        "database": _database,
        "address": _address,
        "data directory": _directory,
        "memory": _memory,
        "Redis": _redis,
        "collector of traces": _collector,
        "models": _models,
    }
    found = list(unknown)
    for subject, look in looks.items():
        try:
            found.extend(look(settings))
        except (ShopcastError, OSError) as error:
            found.append(Finding(subject, "wrong", str(error)))
    return found


def _unknown(settings: Settings, environment: Mapping[str, str]) -> Iterator[Finding]:
    known = {f"SHOPCAST_{name.upper()}" for name in type(settings).model_fields}
    for name in sorted(environment):
        if name.upper().startswith("SHOPCAST_") and name.upper() not in known:
            yield Finding(
                "settings", "note", f"{name} is no setting; docs/configuration.md has all"
            )


def _address(settings: Settings) -> Iterator[Finding]:
    check_exposure(settings)
    where = f"{settings.host}:{settings.port}"
    if settings.port and not _is_free(settings):
        yield Finding("address", "note", f"{where} is taken, perhaps by the service itself")
    else:
        yield Finding("address", "ok", f"{where} is free")


def _is_free(settings: Settings) -> bool:
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    with socket.socket(family) as tried:
        tried.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            tried.bind((settings.host, settings.port))
        except OSError:
            return False
        return True


def _directory(settings: Settings) -> Iterator[Finding]:
    place = settings.data_dir
    while not place.exists():
        place = place.parent
    if not place.is_dir() or not os.access(place, os.W_OK | os.X_OK):
        raise ConfigurationError(f"SHOPCAST_DATA_DIR: {settings.data_dir} cannot be written to")
    free = shutil.disk_usage(place).free
    state: State = "ok" if free >= LEAST_FREE_BYTES else "note"
    yield Finding("data directory", state, f"{settings.data_dir}, {free / GIB:,.1f} GiB are free")


def _memory(settings: Settings) -> Iterator[Finding]:
    memory = settings.memory_bytes
    wanted = LEAST_MEMORY_BYTES * settings.workers
    state: State = "ok" if memory >= wanted else "note"
    detail = (
        f"{memory / GIB:,.1f} GiB, {settings.cores} CPU threads; {settings.workers} serving "
        f"processes want some {wanted / GIB:,.1f} GiB"
    )
    yield Finding("memory", state, detail)


def _database(settings: Settings) -> Iterator[Finding]:
    kind = "SQLite" if is_local(settings.database) else "PostgreSQL"
    here, newest = revisions(settings.database)
    if here is None:
        say: State = "note" if is_local(settings.database) else "wrong"
        yield Finding("database", say, f"{kind} without tables; `shopcast migrate` makes them")
    elif here != newest:
        detail = f"{kind} at revision {here}, this release has {newest}; run `shopcast migrate`"
        yield Finding("database", "wrong", detail)
    else:
        yield Finding("database", "ok", f"{kind} at revision {here}")


def _redis(settings: Settings) -> Iterator[Finding]:
    if settings.redis_url is None:
        yield Finding("Redis", "ok", "not set: each process keeps a cache of its own")
        return
    version = asyncio.run(version_of(settings.redis_url, wait_s=NEAR_S))
    if version is None:
        detail = "does not answer; predictions go on without it, rates hold within a process"
        yield Finding("Redis", "note", detail)
    else:
        yield Finding("Redis", "ok", f"version {version}")


def _collector(settings: Settings) -> Iterator[Finding]:
    if settings.otlp_endpoint is None:
        return
    url = urlsplit(settings.otlp_endpoint)
    try:
        socket.create_connection((url.hostname or "", url.port or 4318), timeout=NEAR_S).close()
    except OSError as error:
        detail = f"{settings.otlp_endpoint} does not answer ({error.strerror or error})"
        yield Finding("collector of traces", "note", detail)
    else:
        yield Finding("collector of traces", "ok", f"{settings.otlp_endpoint} listens")


def _models(settings: Settings) -> Iterator[Finding]:
    here, newest = revisions(settings.database)
    if here == newest:
        with open_versions(settings) as versions:
            yield from _loaded(settings, versions)
        return
    with TemporaryDirectory() as directory:  # what a first start would serve
        empty = f"sqlite:///{directory}/empty.sqlite3"
        migrate(empty)
        with open_versions(settings, database=empty) as versions:
            yield from _loaded(settings, versions)


def _loaded(settings: Settings, versions: Versions) -> Iterator[Finding]:
    registry = Registry(versions, settings, Metrics())
    try:
        registry.open(guest=True)
        for name in registry.names():
            live = registry.serving(name)
            said = live.description
            number = f"version {live.version}" if live.version else "not registered yet"
            detail = (
                f"{number}, checkpoint {said.checkpoint}, {said.parameters:,} weights, "
                f"{said.dtype} on {said.device}, loaded in {live.load_s:.1f} s"
            )
            yield Finding(f"model {name}", "ok", detail)
    finally:
        registry.close()
