"""An empty database of each sort that is supported, for tests to import as a fixture."""

import os
import uuid
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine, create_engine, text
from sqlalchemy.engine import make_url
from sqlalchemy.exc import OperationalError
from sqlalchemy.orm import Session

from app.db import DatasetRow, open_database

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


def know_dataset(url: str, id_: str) -> None:
    """Enter a data set of series into a database that is up to date, without its files."""
    summary: dict[str, Any] = {
        **dict.fromkeys(("freq", "start", "end", "gaps", "duplicates")),
        "unsorted": 0,
        "columns": {},
        "errors": [],
        "error_rows": 0,
        "warnings": [],
        "notes": [],
    }
    row = DatasetRow(
        id=id_,
        name="known",
        kind="series",
        digest="",
        rows=0,
        series=0,
        size_bytes=0,
        summary=summary,
        created_at=datetime.now(UTC),
    )
    engine = open_database(url)
    with Session(engine) as session, session.begin():
        session.merge(row)
    engine.dispose()
