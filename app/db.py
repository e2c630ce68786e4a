"""The database: engine, sessions, tables, migrations.

Invariant: tables change by migrations only, and no other module but the owners of tables knows
that there is SQL.
"""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import (
    JSON,
    BigInteger,
    DateTime,
    Dialect,
    Engine,
    Float,
    LargeBinary,
    String,
    Text,
    TypeDecorator,
    UniqueConstraint,
    create_engine,
    event,
)
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError, SQLAlchemyError
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column
from sqlalchemy.pool import ConnectionPoolEntry

from app.errors import ConfigurationError

MIGRATIONS = Path(__file__).parent.parent / "migrations"
BUSY_TIMEOUT_MS = 5000
PATIENCE = {"connect_timeout": 5, "tcp_user_timeout": 10_000}  # s, ms: for a host that is gone


class UtcDateTime(TypeDecorator[datetime]):
    """A time in UTC on both sides, also where the database knows no zones."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, _: Dialect) -> datetime | None:
        return None if value is None else value.astimezone(UTC)

    def process_result_value(self, value: datetime | None, _: Dialect) -> datetime | None:
        if value is None or value.tzinfo is not None:
            return value and value.astimezone(UTC)
        return value.replace(tzinfo=UTC)


class Base(DeclarativeBase):
    """Root of the tables."""


class ModelVersionRow(Base):
    """A model version: the same content keeps its number for ever, and no number comes twice.

    digest: of its content; null once the content is gone. base: the version whose weights an
    adapter changes.
    """

    __tablename__ = "model_versions"
    __table_args__ = (
        UniqueConstraint("name", "version", name="uq_model_versions_version"),
        UniqueConstraint("name", "digest", name="uq_model_versions_digest"),
    )

    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(String(64))
    version: Mapped[int]
    digest: Mapped[str | None] = mapped_column(String(64))
    source: Mapped[str] = mapped_column(String(255))
    parent: Mapped[int | None]
    base: Mapped[int | None]
    dataset_id: Mapped[str | None] = mapped_column(String(64), index=True)
    job_id: Mapped[str | None] = mapped_column(String(64))
    size_bytes: Mapped[int] = mapped_column(BigInteger)
    manifest: Mapped[dict[str, Any]] = mapped_column(JSON)
    created_at: Mapped[datetime] = mapped_column(UtcDateTime, default=lambda: datetime.now(UTC))
    deleted_at: Mapped[datetime | None] = mapped_column(UtcDateTime)


class ModelAliasRow(Base):
    """What a name such as `production` stands for, and what it stood for before."""

    __tablename__ = "model_aliases"

    name: Mapped[str] = mapped_column(String(64), primary_key=True)
    alias: Mapped[str] = mapped_column(String(32), primary_key=True)
    version: Mapped[int]
    previous: Mapped[int | None]
    changed_at: Mapped[datetime] = mapped_column(UtcDateTime)
    changed_by: Mapped[str] = mapped_column(String(128))


class ShopProfileRow(Base):
    """What is known of a shop's population; a deleted one keeps its number and nothing else."""

    __tablename__ = "shop_profiles"

    shop: Mapped[str] = mapped_column(String(64), primary_key=True)
    version: Mapped[int]
    context: Mapped[bytes | None] = mapped_column(LargeBinary)
    data_until: Mapped[str] = mapped_column(String(40))
    customers: Mapped[int]
    events: Mapped[int]
    updated_at: Mapped[datetime] = mapped_column(UtcDateTime)


class JobRow(Base):
    """A job: what was asked, how far it is, what it found. Workers write what they hold alone.

    revision: rises with every change. road: of which making the steps are that it goes through.
    """

    __tablename__ = "jobs"
    __table_args__ = (UniqueConstraint("actor", "idempotency_key", name="uq_jobs_idempotency"),)

    id: Mapped[str] = mapped_column(String(32), primary_key=True)
    kind: Mapped[str] = mapped_column(String(16))
    model: Mapped[str] = mapped_column(String(64))
    dataset_id: Mapped[str | None] = mapped_column(String(32), index=True)
    asked: Mapped[dict[str, Any]] = mapped_column(JSON)
    digest: Mapped[str] = mapped_column(String(64))
    actor: Mapped[str] = mapped_column(String(64))
    idempotency_key: Mapped[str | None] = mapped_column(String(128))
    schedule: Mapped[str | None] = mapped_column(String(64))
    state: Mapped[str] = mapped_column(String(24), index=True)
    step: Mapped[str | None] = mapped_column(String(32))
    progress: Mapped[float] = mapped_column(Float, default=0.0)
    eta_s: Mapped[float | None] = mapped_column(Float)
    curve: Mapped[list[Any]] = mapped_column(JSON, default=list)
    facts: Mapped[dict[str, Any]] = mapped_column(JSON, default=dict)
    error: Mapped[str | None] = mapped_column(Text)
    cancelling: Mapped[bool] = mapped_column(default=False)
    worker: Mapped[str | None] = mapped_column(String(80))
    road: Mapped[str | None] = mapped_column(String(16))
    revision: Mapped[int] = mapped_column(default=1)
    created_at: Mapped[datetime] = mapped_column(UtcDateTime, index=True)
    started_at: Mapped[datetime | None] = mapped_column(UtcDateTime)
    finished_at: Mapped[datetime | None] = mapped_column(UtcDateTime)


class ScheduleRow(Base):
    """A job to be asked for again and again. next_at: when it falls due."""

    __tablename__ = "schedules"

    name: Mapped[str] = mapped_column(String(64), primary_key=True)
    cron: Mapped[str] = mapped_column(String(128))
    timezone: Mapped[str] = mapped_column(String(64))
    asked: Mapped[dict[str, Any]] = mapped_column(JSON)
    enabled: Mapped[bool]
    actor: Mapped[str] = mapped_column(String(64))
    next_at: Mapped[datetime] = mapped_column(UtcDateTime)
    last_at: Mapped[datetime | None] = mapped_column(UtcDateTime)
    last_job_id: Mapped[str | None] = mapped_column(String(32))
    updated_at: Mapped[datetime] = mapped_column(UtcDateTime)


class WorkerRow(Base):
    """A process that runs jobs; its beat rises as long as it is alive."""

    __tablename__ = "workers"

    id: Mapped[str] = mapped_column(String(80), primary_key=True)
    road: Mapped[str] = mapped_column(String(16))
    beat: Mapped[int]
    started_at: Mapped[datetime] = mapped_column(UtcDateTime)
    seen_at: Mapped[datetime] = mapped_column(UtcDateTime)


class ApiKeyRow(Base):
    """A key that was given out, as a digest; a revoked one stays."""

    __tablename__ = "api_keys"
    __table_args__ = (UniqueConstraint("id", name="uq_api_keys_id"),)

    number: Mapped[int] = mapped_column(primary_key=True)
    id: Mapped[str] = mapped_column(String(16))
    name: Mapped[str] = mapped_column(String(64))
    digest: Mapped[bytes] = mapped_column(LargeBinary)
    scopes: Mapped[list[str]] = mapped_column(JSON)
    shops: Mapped[list[str] | None] = mapped_column(JSON(none_as_null=True))
    rate: Mapped[str | None] = mapped_column(String(16))
    created_at: Mapped[datetime] = mapped_column(UtcDateTime)
    expires_at: Mapped[datetime | None] = mapped_column(UtcDateTime)
    revoked_at: Mapped[datetime | None] = mapped_column(UtcDateTime)
    last_used_at: Mapped[datetime | None] = mapped_column(UtcDateTime)


class AuditRow(Base):
    """Who did what to what, and when."""

    __tablename__ = "audit"

    number: Mapped[int] = mapped_column(primary_key=True)
    at: Mapped[datetime] = mapped_column(UtcDateTime)
    actor: Mapped[str] = mapped_column(String(128))
    action: Mapped[str] = mapped_column(String(64))
    subject: Mapped[str] = mapped_column(String(255))
    facts: Mapped[dict[str, Any]] = mapped_column(JSON)


class DatasetRow(Base):
    """A data set; its rows lie in the data directory. summary: what was found while reading it."""

    __tablename__ = "datasets"

    id: Mapped[str] = mapped_column(String(32), primary_key=True)
    name: Mapped[str] = mapped_column(String(128))
    kind: Mapped[str] = mapped_column(String(16))
    digest: Mapped[str] = mapped_column(String(64))
    rows: Mapped[int] = mapped_column(BigInteger)
    series: Mapped[int] = mapped_column(BigInteger)
    size_bytes: Mapped[int] = mapped_column(BigInteger)
    summary: Mapped[dict[str, Any]] = mapped_column(JSON)
    created_at: Mapped[datetime] = mapped_column(UtcDateTime, index=True)


def open_database(url: str) -> Engine:
    """An engine on a bounded pool; nothing is connected yet. Raises ConfigurationError."""
    try:
        parsed = make_url(url)
        if parsed.get_backend_name() != "sqlite":
            bounds = PATIENCE if parsed.get_driver_name() == "psycopg" else {}
            return create_engine(
                parsed, pool_size=5, max_overflow=5, pool_pre_ping=True, connect_args=bounds
            )
        if parsed.database and parsed.database != ":memory:":
            Path(parsed.database).parent.mkdir(parents=True, exist_ok=True)
        engine = create_engine(parsed)
    except (ArgumentError, ImportError) as error:
        raise ConfigurationError(f"SHOPCAST_DATABASE_URL: {error}") from error
    except OSError as error:
        raise ConfigurationError(f"the data directory cannot be made: {error.strerror}") from error
    event.listen(engine, "connect", _prepare_sqlite)
    return engine


def migrate(url: str) -> None:
    """Bring the database to the latest revision. Raises ConfigurationError if it cannot be."""
    engine = open_database(url)
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    try:
        with _alone(engine), engine.begin() as connection:
            config.attributes["connection"] = connection
            command.upgrade(config, "head")
    except (SQLAlchemyError, OSError) as error:
        where = make_url(url).render_as_string(hide_password=True)
        raise ConfigurationError(f"the database {where} cannot be migrated: {error}") from error
    finally:
        engine.dispose()


def revisions(url: str) -> tuple[str | None, str]:
    """The revision that a database is at (None: it has no tables), and the latest one.

    Makes nothing. Raises ConfigurationError if the database does not answer.
    """
    newest = ScriptDirectory(str(MIGRATIONS)).get_current_head() or ""
    parsed = make_url(url)
    if is_local(url) and not Path(parsed.database or "").exists():
        return None, newest
    engine = open_database(url)
    try:
        with engine.connect() as connection:
            return MigrationContext.configure(connection).get_current_revision(), newest
    except SQLAlchemyError as error:
        where = parsed.render_as_string(hide_password=True)
        raise ConfigurationError(f"the database {where} does not answer: {error}") from error
    finally:
        engine.dispose()


@contextmanager
def _alone(engine: Engine) -> Iterator[None]:
    """Keep other processes of this machine from migrating the same file at the same time."""
    file = engine.url.database
    if engine.dialect.name != "sqlite" or not file or file == ":memory:":
        yield
        return
    guard = os.open(f"{file}.lock", os.O_RDWR | os.O_CREAT, 0o644)
    try:
        fcntl.flock(guard, fcntl.LOCK_EX)
        yield
    finally:
        os.close(guard)


def is_local(url: str) -> bool:
    """Whether the database is a file, which nobody but this service uses."""
    return url.startswith("sqlite")


def _prepare_sqlite(connection: object, _: ConnectionPoolEntry) -> None:
    cursor = connection.cursor()  # type: ignore[attr-defined]  # a DBAPI connection
    cursor.execute("PRAGMA journal_mode=WAL")
    cursor.execute(f"PRAGMA busy_timeout={BUSY_TIMEOUT_MS}")
    cursor.execute("PRAGMA foreign_keys=ON")
    cursor.close()
