"""Keys as several processes see them: good, gone, and without a database."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine, event
from sqlalchemy.engine import make_url

from app import callers as module
from app.auth import ANYBODY, Keys
from app.callers import Callers
from app.db import migrate, open_database
from app.errors import ConfigurationError, UnauthenticatedError, UnavailableError
from app.metrics import Metrics
from tests.app.databases import url
from tests.app.networks import value_of
from tests.proxy import Wire

__all__ = ["url"]

Break = Callable[[], None]


@pytest.fixture
def engine(url: str) -> Iterator[Engine]:
    migrate(url)
    engine = open_database(url)
    yield engine
    engine.dispose()


@pytest.fixture
def local(tmp_path: Path) -> Iterator[Engine]:
    """A database of its own, where its sort does not matter."""
    address = f"sqlite:///{tmp_path / 'local.sqlite3'}"
    migrate(address)
    engine = open_database(address)
    yield engine
    engine.dispose()


@asynccontextmanager
async def opened(engine: Engine, **options: Any) -> AsyncIterator[Callers]:
    callers = Callers(Keys(engine), Metrics(), **{"open_without_keys": True} | options)
    await callers.start()
    try:
        yield callers
    finally:
        await callers.close()


@contextmanager
def breakable(url: str) -> Iterator[tuple[Engine, Break, Break]]:
    """A database, and how to break it and to mend it."""
    if url.startswith("sqlite"):
        engine = open_database(url)
        path = Path(str(engine.url.database))
        away = path.with_suffix(".away")

        def break_file() -> None:
            engine.dispose()
            path.rename(away)
            path.mkdir()

        def mend_file() -> None:
            path.rmdir()
            away.rename(path)

        yield engine, break_file, mend_file
        engine.dispose()
        return
    parsed = make_url(url)
    wire = Wire(parsed.host or "127.0.0.1", parsed.port or 5432)
    engine = open_database(
        parsed.set(host="127.0.0.1", port=wire.port).render_as_string(hide_password=False)
    )
    yield engine, wire.cut, wire.mend
    engine.dispose()
    wire.close()


async def until(condition: Callable[[], bool], within_s: float = 5.0) -> None:
    async with asyncio.timeout(within_s):
        while not condition():  # noqa: ASYNC110 - what is waited for tells nobody
            await asyncio.sleep(0.02)


async def refused(callers: Callers, key: bytes) -> None:
    """Wait until a key opens nothing any more."""
    async with asyncio.timeout(5):
        with suppress(UnauthenticatedError):
            while await callers.verify(key):  # noqa: ASYNC110 - what is waited for tells nobody
                await asyncio.sleep(0.02)


async def test_without_any_key_anybody_is_let_in_where_that_is_safe(engine: Engine) -> None:
    async with opened(engine) as callers:
        assert callers.known(None) is ANYBODY
        assert await callers.verify(b"whatever") is ANYBODY
    async with opened(engine, open_without_keys=False) as callers:
        assert callers.known(None) is None
        with pytest.raises(UnauthenticatedError, match="shopcast keys create"):
            await callers.verify(None)


async def test_a_new_key_opens_at_once_in_every_process(engine: Engine) -> None:
    keys = Keys(engine)
    keys.create("first", ["admin"], actor="cli")
    async with opened(engine) as callers:
        made, key = keys.create("till", ["predict"], actor="cli", shops=["main"])
        assert callers.known(key.encode()) is None
        caller = await callers.verify(key.encode())
        assert (caller.key_id, caller.name) == (made.id, "till")
        assert (caller.scopes, caller.shops) == (frozenset({"predict"}), frozenset({"main"}))
        assert callers.known(key.encode()) is caller


async def test_the_first_key_closes_every_process_within_five_seconds(engine: Engine) -> None:
    async with opened(engine) as here, opened(engine) as there:
        Keys(engine).create("", ["predict"], actor="cli")
        await until(lambda: here.known(None) is None and there.known(None) is None)


async def test_a_revoked_key_is_refused_within_five_seconds_everywhere(engine: Engine) -> None:
    keys = Keys(engine)
    made, text = keys.create("", ["predict"], actor="cli")
    key = text.encode()
    async with opened(engine) as here, opened(engine) as there:
        assert await here.verify(key)
        assert await there.verify(key)
        keys.revoke(made.id, actor="cli")
        await here.refresh()  # what the process does in which it was revoked
        assert here.known(key) is None
        await until(lambda: there.known(key) is None)
        for each in (here, there):
            with pytest.raises(UnauthenticatedError, match="revoked") as refused:
                await each.verify(key)
            assert refused.value.reason == "revoked"
            assert each.known(None) is None, "revoking the last key opened the service"


async def test_an_expired_key_is_refused_to_the_second(engine: Engine) -> None:
    keys = Keys(engine)
    _, text = keys.create("", ["predict"], actor="cli", life=timedelta(seconds=0.3))
    async with opened(engine) as callers:
        assert await callers.verify(text.encode())
        await asyncio.sleep(0.31)
        assert callers.known(text.encode()) is None
        with pytest.raises(UnauthenticatedError, match="expired"):
            await callers.verify(text.encode())


async def test_what_is_no_key_is_refused(engine: Engine) -> None:
    _, good = Keys(engine).create("", ["predict"], actor="cli")
    forged = good[:-1] + ("A" if good[-1] != "A" else "B")
    async with opened(engine) as callers:
        for shown in ("", "x", "sc_", "sc_0123456789ab_short", "Ü" * 59, forged, f"{good} "):
            assert callers.known(shown.encode()) is None
            with pytest.raises(UnauthenticatedError) as refused:
                await callers.verify(shown.encode())
            assert refused.value.reason == ("unknown" if shown == forged else "malformed")


async def test_many_unknown_keys_read_the_database_a_few_times(engine: Engine) -> None:
    Keys(engine).create("", ["predict"], actor="cli")
    async with opened(engine) as callers:
        reads: list[str] = []
        event.listen(engine, "before_cursor_execute", lambda *given: reads.append(given[2]))
        wanted = [f"sc_{n:012x}_{'A' * 43}".encode() for n in range(200)]
        results = await asyncio.gather(
            *(callers.verify(key) for key in wanted), return_exceptions=True
        )
        assert all(isinstance(each, UnauthenticatedError) for each in results)
        assert len([each for each in reads if "FROM api_keys" in each]) <= 2


async def test_known_keys_go_on_without_the_database_and_others_do_not(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    migrate(url)
    monkeypatch.setattr(module, "POLL_S", 0.2)
    with breakable(url) as (engine, break_it, mend_it):
        keys, metrics = Keys(engine), Metrics()
        good, late = (keys.create("", ["predict"], actor="cli")[1].encode() for _ in range(2))
        callers = Callers(keys, metrics, open_without_keys=True, lasting_s=1.5)
        await callers.start()
        assert await callers.verify(late)
        break_it()
        stranger = b"sc_000000000000_" + b"A" * 43
        with pytest.raises(UnavailableError, match="keys cannot be checked now"):
            await callers.verify(stranger)
        began_s = time.monotonic()
        with pytest.raises(UnavailableError):  # at once: nobody waits for what has just failed
            await callers.verify(stranger)
        assert time.monotonic() - began_s < 0.1
        assert await callers.verify(good)
        await until(lambda: callers.known(good) is None)
        assert value_of(metrics, "shopcast_keys_age_seconds") > 1.5
        with pytest.raises(UnavailableError):
            await callers.verify(good)
        mend_it()
        await until(lambda: callers._read_s > callers._failed_s)
        assert await callers.verify(good)
        with pytest.raises(UnauthenticatedError):
            await callers.verify(stranger)
        await callers.close()


async def test_a_database_that_hangs_holds_nobody_up(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys = Keys(engine)
    _, key = keys.create("", ["predict"], actor="cli")
    monkeypatch.setattr(module, "PATIENCE_S", 0.2)
    async with opened(engine) as callers:

        def hang(*_: object) -> None:
            time.sleep(1.0)

        event.listen(engine, "before_cursor_execute", hang)
        with pytest.raises(UnavailableError):
            await callers.verify(b"sc_000000000000_" + b"A" * 43)
        assert await callers.verify(key.encode())
        event.remove(engine, "before_cursor_execute", hang)
        monkeypatch.undo()
        await until(lambda: callers._read_s > callers._failed_s, 8.0)


async def test_when_keys_were_used_is_stored_at_the_end(engine: Engine) -> None:
    keys = Keys(engine)
    _, used = keys.create("used", ["predict"], actor="cli")
    keys.create("idle", ["predict"], actor="cli")
    async with opened(engine) as callers:
        assert await callers.verify(used.encode())
    noted = {each.name: each.last_used_at is not None for each in keys.page(9)}
    assert noted == {"used": True, "idle": False}


async def test_the_key_of_a_file_may_do_everything_while_it_is_there(
    local: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "POLL_S", 0.2)
    file = tmp_path / "key"
    file.write_text("5ecre7" * 8 + "\n")
    async with opened(local, key_file=file) as callers:
        assert callers.known(None) is None
        caller = await callers.verify(b"5ecre7" * 8)
        assert caller.scopes == {"predict", "train", "admin"}
        file.write_text("other1" * 8)
        await refused(callers, b"5ecre7" * 8)
        assert await callers.verify(b"other1" * 8)
        file.unlink()
        await refused(callers, b"other1" * 8)
        assert callers.known(None) is None, "a lost file opened the service"


@pytest.mark.parametrize("content", [None, b"", b"short", b"a key " * 9, b"\xff" * 40])
async def test_a_file_without_a_good_key_is_refused(
    local: Engine, tmp_path: Path, content: bytes | None
) -> None:
    file = tmp_path / "key"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(ConfigurationError, match="SHOPCAST_ADMIN_KEY_FILE"):
        async with opened(local, key_file=file):
            pass


async def test_a_start_without_the_tables_is_told(url: str) -> None:
    engine = open_database(url)
    with pytest.raises(ConfigurationError, match="shopcast migrate"):
        async with opened(engine):
            pass
    engine.dispose()
