"""Shop profiles: what is known of a shop's population, by the shop's name.

Invariant: a profile holds statistics and no event of anybody; its version only ever rises, also
beyond a deletion, and every process answers by a change within `FRESH_S`.
"""

import asyncio
import logging
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import TypeVar

import numpy as np
from sqlalchemy import Engine, select, update
from sqlalchemy.exc import IntegrityError, SQLAlchemyError
from sqlalchemy.orm import Session

from app.db import ShopProfileRow
from app.errors import NotFoundError, UnavailableError
from app.metrics import Metrics
from app.moments import Clock, Moment
from models.base import FloatArray
from models.customers import CONTEXT_SIZE

FRESH_S = 4.0  # a profile read is answered by for so long; changes show within 5 s
KEPT = 256  # profiles held in memory
PATIENCE_S = 5.0  # for the database
ATTEMPTS = 5  # another process may store the first version at the same time

log = logging.getLogger(__name__)

T = TypeVar("T")


@dataclass(frozen=True, slots=True, eq=False)
class Profile:
    """context: (CONTEXT_SIZE,) as models.customers makes it. data_until: no event is later."""

    shop: str
    version: int
    context: FloatArray
    data_until: Moment
    customers: int
    events: int
    updated_at: datetime


@dataclass(frozen=True, slots=True, eq=False)
class _Entry:
    profile: Profile
    read_s: float


class Profiles:
    """The profiles in the database, and those read lately in memory. Belongs to one event loop."""

    def __init__(
        self,
        engine: Engine,
        metrics: Metrics,
        *,
        fresh_s: float = FRESH_S,
        patience_s: float = PATIENCE_S,
    ) -> None:
        self._engine, self._metrics = engine, metrics
        self._fresh_s, self._patience_s = fresh_s, patience_s
        self._entries: OrderedDict[str, _Entry] = OrderedDict()

    async def get(self, shop: str) -> Profile:
        """The profile of a shop, at most `FRESH_S` old.

        Raises NotFoundError, and UnavailableError if the database cannot be read.
        """
        entry = self._entries.get(shop)
        now_s = time.monotonic()
        if entry is None or now_s - entry.read_s > self._fresh_s:
            profile = await self._call(lambda: self._read(shop))
            if profile is None:
                self._entries.pop(shop, None)
                raise _unknown(shop)
            entry = self._keep(profile, now_s)
        self._entries.move_to_end(shop)
        return entry.profile

    async def put(self, profile: Profile) -> Profile:
        """Store a profile; what comes back has its version. Raises UnavailableError."""
        stored = await self._call(lambda: self._write(profile))
        self._keep(stored, time.monotonic())
        return stored

    async def delete(self, shop: str) -> None:
        """Forget a profile. Raises NotFoundError, UnavailableError."""
        self._entries.pop(shop, None)
        there = await self._call(lambda: self._clear(shop))
        self._entries.pop(shop, None)  # somebody may have read it meanwhile
        if not there:
            raise _unknown(shop)

    def _keep(self, profile: Profile, read_s: float) -> _Entry:
        known = self._entries.get(profile.shop)
        if known is not None and known.profile.version > profile.version:
            return known  # stored here while an older one was being read
        entry = self._entries[profile.shop] = _Entry(profile, read_s)
        if len(self._entries) > KEPT:
            self._entries.popitem(last=False)
        return entry

    async def _call(self, work: Callable[[], T]) -> T:
        """Do something with the database, in a thread, for a bounded time."""
        try:
            async with asyncio.timeout(self._patience_s):
                return await asyncio.to_thread(work)
        except (SQLAlchemyError, TimeoutError) as error:
            self._metrics.profile_failures.inc()
            log.warning("the database did not answer for a shop profile", exc_info=True)
            raise UnavailableError(
                "shop profiles cannot be read or stored now; leave out `shop` to be answered "
                "without one",
                reason="database",
                retry_after_s=2.0,
            ) from error

    def _read(self, shop: str) -> Profile | None:
        with Session(self._engine) as session:
            row = session.get(ShopProfileRow, shop)
            return None if row is None or row.context is None else _profile(row)

    def _write(self, profile: Profile) -> Profile:
        for attempt in range(1, ATTEMPTS + 1):
            try:
                return self._update_or_add(profile)
            except IntegrityError:
                if attempt == ATTEMPTS:  # another process was quicker; now there is a row
                    raise
        raise AssertionError("settled")

    def _update_or_add(self, profile: Profile) -> Profile:
        fresh = replace(profile, updated_at=datetime.now(UTC))
        values = {
            "context": fresh.context.astype("<f8").tobytes(),
            "data_until": fresh.data_until.kept(),
            "customers": fresh.customers,
            "events": fresh.events,
            "updated_at": fresh.updated_at,
        }
        mine = ShopProfileRow.shop == fresh.shop
        with Session(self._engine) as session, session.begin():
            raised = update(ShopProfileRow).where(mine)
            number = ShopProfileRow.version + 1  # by the database, which lets one writer at a time
            found = session.execute(raised.values(version=number, **values))
            if not found.rowcount:  # type: ignore[attr-defined]  # of a CursorResult
                session.add(ShopProfileRow(shop=fresh.shop, version=1, **values))
                session.flush()
            version = session.scalar(select(ShopProfileRow.version).where(mine))
        assert version is not None  # noqa: S101 - written above
        return replace(fresh, version=version)

    def _clear(self, shop: str) -> bool:
        with Session(self._engine) as session, session.begin():
            known = (ShopProfileRow.shop == shop, ShopProfileRow.context.is_not(None))
            found = session.execute(update(ShopProfileRow).where(*known).values(context=None))
            return bool(found.rowcount)  # type: ignore[attr-defined]  # of a CursorResult


def _profile(row: ShopProfileRow) -> Profile:
    assert row.context is not None  # noqa: S101 - checked by the caller
    context: FloatArray = np.frombuffer(row.context, "<f8").astype(np.float64)
    if len(context) != CONTEXT_SIZE:
        raise NotFoundError(
            f"the profile of the shop {row.shop!r} was made by another release of the service; "
            f"PUT /shops/{row.shop}/profile makes it anew"
        )
    return Profile(
        shop=row.shop,
        version=row.version,
        context=context,
        data_until=Clock().moment(row.data_until),
        customers=row.customers,
        events=row.events,
        updated_at=row.updated_at,
    )


def _unknown(shop: str) -> NotFoundError:
    return NotFoundError(
        f"there is no profile of the shop {shop!r}; PUT /shops/{shop}/profile stores one, and "
        "without `shop` a customer is answered without one"
    )
