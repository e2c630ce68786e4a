"""The schema, on each database that is supported."""

import os
import uuid
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import Engine, create_engine, select, text
from sqlalchemy.engine import make_url
from sqlalchemy.exc import OperationalError
from sqlalchemy.orm import Session

from app.db import Base, ModelVersionRow, migrate, open_database
from app.errors import ConfigurationError

POSTGRES = "postgresql+psycopg://127.0.0.1:5432/postgres"


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """An empty database."""
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path / 'fresh' / 'shopcast.sqlite3'}"
        return
    server = _server()
    name = f"shopcast_test_{uuid.uuid4().hex}"
    with server.connect() as connection:
        connection.execute(text(f"CREATE DATABASE {name}"))
    yield server.url.set(database=name).render_as_string(hide_password=False)
    with server.connect() as connection:
        connection.execute(text(f"DROP DATABASE {name}"))
    server.dispose()


def _server() -> Engine:
    """A PostgreSQL to make databases in; skips where there is none, except in CI."""
    url = make_url(os.environ.get("SHOPCAST_TEST_POSTGRES", POSTGRES))
    try:
        pytest.importorskip("psycopg", reason="the extra `postgres` is not installed")
        server = create_engine(url, isolation_level="AUTOCOMMIT")
        server.connect().close()
    except (pytest.skip.Exception, OperationalError):
        if os.environ.get("CI"):
            raise
        pytest.skip("no PostgreSQL here")
    return server


def test_the_migrations_make_the_tables(url: str) -> None:
    migrate(url)
    migrate(url)
    engine = open_database(url)
    with engine.connect() as connection:
        context = MigrationContext.configure(connection)
        assert compare_metadata(context, Base.metadata) == []
    engine.dispose()


def test_a_row_keeps_its_time(url: str) -> None:
    migrate(url)
    engine = open_database(url)
    now = datetime.now(UTC)
    with Session(engine) as session, session.begin():
        session.add(
            ModelVersionRow(name="sales", version=1, fingerprint="f", source="s", created_at=now)
        )
    with Session(engine) as session:
        assert session.scalar(select(ModelVersionRow.created_at)) == now
    engine.dispose()


@pytest.mark.parametrize("url", ["sqlite", "nonsense://x", "postgresql+nodriver://x/y", ""])
def test_an_address_that_is_none_is_refused(url: str) -> None:
    with pytest.raises(ConfigurationError, match="SHOPCAST_DATABASE_URL"):
        migrate(url)


def test_a_database_that_does_not_answer_is_told_without_its_password(tmp_path: Path) -> None:
    (tmp_path / "file").mkdir()
    with pytest.raises(ConfigurationError, match="cannot be migrated"):
        migrate(f"sqlite:///{tmp_path / 'file'}")
