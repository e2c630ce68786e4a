"""API keys and the audit in the database.

Invariant: of a key only a digest is kept, a row is never deleted, and what changes a key is in the
audit together with the change.

A key has 256 random bits, so that nobody finds it by trying, neither here nor from a stolen
digest: a plain SHA-256 keeps it as well as the slow hashes that weak passwords need, and costs a
request a microsecond. Its middle part names its row.
"""

import hashlib
import re
import secrets
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Literal, get_args

from sqlalchemy import Engine, exists, select, update
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session

from app.db import ApiKeyRow, AuditRow
from app.errors import InvalidInputError, Issue, NotFoundError, UnavailableError
from app.rates import Rate
from app.shops import SHOP, SHOP_WORDS

Scope = Literal["predict", "train", "admin"]
SCOPES: tuple[Scope, ...] = get_args(Scope)
PREFIX = "sc_"  # by which scanners of leaked secrets know a key
ID_BYTES, SECRET_BYTES = 6, 32
ID = slice(len(PREFIX), len(PREFIX) + 2 * ID_BYTES)  # where a key has the id of its row
LONGEST_NAME, LONGEST_ACTOR, LONGEST_SUBJECT = 64, 128, 255
MOST_SHOPS = 1000
LONGEST_LIFE = timedelta(days=3650)
LIFE_WORDS = "must be a time such as 90d, 12h or 30m"
_KEY = re.compile(rb"sc_[0-9a-f]{12}_[A-Za-z0-9_-]{43}")
_LIFE = re.compile(r"([1-9][0-9]{0,5})([mhd])")
_UNITS = {"m": timedelta(minutes=1), "h": timedelta(hours=1), "d": timedelta(days=1)}


@dataclass(frozen=True, slots=True)
class Caller:
    """Who asks. key_id: None without a key. shops: those that may be named; None for all."""

    key_id: str | None
    name: str
    scopes: frozenset[str]
    shops: frozenset[str] | None = None
    rate: Rate | None = None

    @property
    def actor(self) -> str:
        """The caller as the audit names them."""
        return self.key_id or self.name


ANYBODY = Caller(None, "anonymous", frozenset(SCOPES))
NOBODY = Caller(None, "nobody", frozenset())


@dataclass(frozen=True, slots=True)
class ApiKey:
    """A key that was given out, without its secret."""

    number: int
    id: str
    name: str
    scopes: tuple[str, ...]
    shops: tuple[str, ...] | None
    rate: str | None
    created_at: datetime
    expires_at: datetime | None
    revoked_at: datetime | None
    last_used_at: datetime | None

    def state(self, now: datetime) -> Literal["active", "expired", "revoked"]:
        """Whether it opens anything."""
        if self.revoked_at is not None:
            return "revoked"
        return "expired" if self.expires_at is not None and self.expires_at <= now else "active"


@dataclass(frozen=True, slots=True)
class Credential:
    """What decides whether a key is good, and for what."""

    id: str
    caller: Caller
    digest: bytes
    expires_s: float | None
    revoked: bool


class Audit:
    """Who did what to what, and when."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def record(self, actor: str, action: str, subject: str, **facts: Any) -> None:  # noqa: ANN401 - as JSON has it
        """Note that something was done. Blocking. Raises UnavailableError."""
        with _answering(), Session(self._engine) as session, session.begin():
            session.add(audit_row(actor, action, subject, facts))


class Keys:
    """The keys in the database. Every method blocks, and raises UnavailableError without it."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def create(
        self,
        name: str,
        scopes: Collection[str],
        *,
        actor: str,
        shops: Collection[str] | None = None,
        rate: str | None = None,
        life: timedelta | None = None,
    ) -> tuple[ApiKey, str]:
        """A new key and its text, which is not to be had again. Raises InvalidInputError."""
        number = secrets.token_hex(ID_BYTES)
        text = f"{PREFIX}{number}_{secrets.token_urlsafe(SECRET_BYTES)}"
        now = datetime.now(UTC)
        row = ApiKeyRow(
            id=number,
            name=_checked_name(name),
            digest=digest_of(text.encode()),
            scopes=_checked_scopes(scopes),
            shops=_checked_shops(shops),
            rate=_checked_rate(rate),
            created_at=now,
            expires_at=None if life is None else now + life,
        )
        facts = {"name": row.name, "scopes": row.scopes, "shops": row.shops, "rate": row.rate}
        with _answering(), Session(self._engine, expire_on_commit=False) as session:
            session.add(row)
            session.add(audit_row(actor, "key.create", number, facts))
            session.commit()
        return _api_key(row), text

    def page(self, limit: int, after: int = 0) -> list[ApiKey]:
        """Keys in the order they were made. after: number of the last one that is known."""
        wanted = select(ApiKeyRow).where(ApiKeyRow.number > after).order_by(ApiKeyRow.number)
        with _answering(), Session(self._engine) as session:
            return [_api_key(row) for row in session.scalars(wanted.limit(limit))]

    def revoke(self, number: str, *, actor: str) -> None:
        """Make a key useless for ever. Raises NotFoundError."""
        good = (ApiKeyRow.id == number, ApiKeyRow.revoked_at.is_(None))
        with _answering(), Session(self._engine) as session, session.begin():
            ended = update(ApiKeyRow).where(*good).values(revoked_at=datetime.now(UTC))
            if not session.execute(ended).rowcount:  # type: ignore[attr-defined]  # of a CursorResult
                raise NotFoundError(f"there is no key {number[:40]!r} that is not revoked yet")
            session.add(audit_row(actor, "key.revoke", number, {}))

    def any(self) -> bool:
        """Whether a key was ever made."""
        with _answering(), Session(self._engine) as session:
            return bool(session.scalar(select(exists(select(ApiKeyRow.number)))))

    def credentials(self) -> dict[str, Credential]:
        """What every key is checked by, by its id."""
        columns = (ApiKeyRow.id, ApiKeyRow.name, ApiKeyRow.scopes, ApiKeyRow.shops, ApiKeyRow.rate)
        states = (ApiKeyRow.digest, ApiKeyRow.expires_at, ApiKeyRow.revoked_at)
        with _answering(), Session(self._engine) as session:
            rows = session.execute(select(*columns, *states)).all()
        return {row[0]: _credential(*row) for row in rows}

    def note_use(self, used: Collection[str], at: datetime) -> None:
        """Store when keys, by id, were last used."""
        with _answering(), Session(self._engine) as session, session.begin():
            mine = update(ApiKeyRow).where(ApiKeyRow.id.in_(used))
            session.execute(mine.values(last_used_at=at))


def digest_of(key: bytes) -> bytes:
    """What is kept of a key."""
    return hashlib.sha256(key).digest()


def is_key(text: bytes) -> bool:
    """Whether a text has the form of a key that was made here."""
    return _KEY.fullmatch(text) is not None


def life_of(text: str) -> timedelta:
    """How long a key is good, from 90d, 12h or 30m. Raises InvalidInputError."""
    found = _LIFE.fullmatch(text.strip())
    life = found and int(found[1]) * _UNITS[found[2]]
    if not life or life > LONGEST_LIFE:
        raise _refusal("expires", f"{LIFE_WORDS}, at most 3650d, not {text[:40]!r}")
    return life


def audit_row(actor: str, action: str, subject: str, facts: Mapping[str, Any]) -> AuditRow:
    """A line of the audit, for the transaction that does what it tells of."""
    return AuditRow(
        at=datetime.now(UTC),
        actor=actor[:LONGEST_ACTOR],
        action=action,
        subject=subject[:LONGEST_SUBJECT],
        facts=dict(facts),
    )


@contextmanager
def _answering() -> Iterator[None]:
    """Say of a database that fails that it does."""
    try:
        yield
    except SQLAlchemyError as error:
        raise UnavailableError(
            "the database of keys does not answer, or `shopcast migrate` has not run",
            reason="database",
            retry_after_s=2.0,
        ) from error


def _checked_name(name: str) -> str:
    if len(name) > LONGEST_NAME or not name.isprintable():
        raise _refusal("name", f"must be at most {LONGEST_NAME} printable characters")
    return name


def _checked_scopes(scopes: Collection[str]) -> list[str]:
    unknown = [each for each in scopes if each not in SCOPES]
    if unknown or not scopes:
        shown = f", not {unknown[0][:40]!r}" if unknown else ""
        raise _refusal("scopes", f"must be one or several of {', '.join(SCOPES)}{shown}")
    return [each for each in SCOPES if each in scopes]


def _checked_shops(shops: Collection[str] | None) -> list[str] | None:
    if shops is None:
        return None
    if not 0 < len(shops) <= MOST_SHOPS:
        raise _refusal("shops", f"must be 1 to {MOST_SHOPS:,} shops; leave it out to allow all")
    for each in shops:
        if not SHOP.fullmatch(each):
            raise _refusal("shops", f"each {SHOP_WORDS}, not {each[:40]!r}")
    return sorted(set(shops))


def _checked_rate(rate: str | None) -> str | None:
    try:
        return None if rate is None else str(Rate.parse(rate))
    except ValueError as error:
        raise _refusal("rate", str(error)) from None


def _refusal(field: str, msg: str) -> InvalidInputError:
    return InvalidInputError((Issue((field,), f"{field}: {msg}", field),))


def _api_key(row: ApiKeyRow) -> ApiKey:
    return ApiKey(
        number=row.number,
        id=row.id,
        name=row.name,
        scopes=tuple(row.scopes),
        shops=None if row.shops is None else tuple(row.shops),
        rate=row.rate,
        created_at=row.created_at,
        expires_at=row.expires_at,
        revoked_at=row.revoked_at,
        last_used_at=row.last_used_at,
    )


def _credential(  # noqa: PLR0913, PLR0917 - the columns of a row
    number: str,
    name: str,
    scopes: list[str],
    shops: list[str] | None,
    rate: str | None,
    digest: bytes,
    expires_at: datetime | None,
    revoked_at: datetime | None,
) -> Credential:
    caller = Caller(
        key_id=number,
        name=name,
        scopes=frozenset(scopes),
        shops=None if shops is None else frozenset(shops),
        rate=None if rate is None else Rate.parse(rate),
    )
    expires_s = None if expires_at is None else expires_at.timestamp()
    return Credential(number, caller, bytes(digest), expires_s, revoked_at is not None)
