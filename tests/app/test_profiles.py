"""Profiles in each database that is supported, seen by several processes."""

import asyncio
from dataclasses import replace
from datetime import UTC, datetime

import numpy as np
import pytest
from sqlalchemy import update

from app.db import ShopProfileRow, migrate, open_database
from app.errors import NotFoundError, UnavailableError
from app.metrics import Metrics
from app.moments import Clock
from app.profiles import Profile, Profiles
from models.customers import CONTEXT_SIZE
from tests.app.databases import url

__all__ = ["url"]

PROFILE = Profile(
    shop="main",
    version=0,
    context=np.linspace(-1 / 3, 7.1, CONTEXT_SIZE),
    data_until=Clock().moment("2026-10-01T00:00:00+02:00"),
    customers=812,
    events=40_321,
    updated_at=datetime.now(UTC),
)


async def test_what_is_stored_is_found_and_versions_rise(url: str) -> None:
    migrate(url)
    engine = open_database(url)
    profiles, elsewhere = (Profiles(engine, Metrics(), fresh_s=0.0) for _ in range(2))
    with pytest.raises(NotFoundError, match="PUT /shops/main/profile"):
        await profiles.get("main")
    assert (await profiles.put(PROFILE)).version == 1
    assert (await elsewhere.put(replace(PROFILE, customers=900))).version == 2
    found = await profiles.get("main")
    assert (found.version, found.customers, found.events) == (2, 900, 40_321)
    assert found.context.tobytes() == PROFILE.context.tobytes()
    assert found.data_until == PROFILE.data_until
    await elsewhere.delete("main")
    with pytest.raises(NotFoundError):
        await profiles.get("main")
    with pytest.raises(NotFoundError):
        await profiles.delete("main")
    assert (await profiles.put(PROFILE)).version == 3
    engine.dispose()


async def test_many_at_once_get_a_version_each(url: str) -> None:
    migrate(url)
    engine = open_database(url)
    writers = [Profiles(engine, Metrics(), patience_s=30.0) for _ in range(8)]
    stored = await asyncio.gather(*(each.put(PROFILE) for each in writers))
    assert sorted(each.version for each in stored) == list(range(1, 9))
    engine.dispose()


async def test_a_change_elsewhere_shows_once_what_is_held_is_old(url: str) -> None:
    migrate(url)
    engine = open_database(url)
    here, elsewhere = Profiles(engine, Metrics(), fresh_s=0.05), Profiles(engine, Metrics())
    await here.put(PROFILE)
    await elsewhere.put(PROFILE)
    await asyncio.sleep(0.06)
    assert (await here.get("main")).version == 2
    engine.dispose()


async def test_what_is_held_needs_no_database(url: str) -> None:
    migrate(url)
    engine = open_database(url)
    metrics = Metrics()
    profiles = Profiles(engine, metrics)
    await profiles.put(PROFILE)
    ShopProfileRow.__table__.drop(engine)  # type: ignore[attr-defined]  # a Table
    assert (await profiles.get("main")).version == 1
    with pytest.raises(UnavailableError, match="leave out `shop`"):
        await profiles.get("other")
    engine.dispose()


async def test_a_context_of_another_release_is_told(url: str) -> None:
    migrate(url)
    engine = open_database(url)
    profiles = Profiles(engine, Metrics(), fresh_s=0.0)
    await profiles.put(PROFILE)
    with engine.begin() as connection:
        connection.execute(update(ShopProfileRow).values(context=b"\0" * 80))
    with pytest.raises(NotFoundError, match="another release"):
        await profiles.get("main")
    engine.dispose()
