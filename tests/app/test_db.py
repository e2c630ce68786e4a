"""The schema, on each database that is supported."""

from datetime import UTC, datetime
from pathlib import Path

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from sqlalchemy import inspect, select
from sqlalchemy.orm import Session

from app.db import MIGRATIONS, Base, ModelVersionRow, migrate, open_database
from app.errors import ConfigurationError
from tests.app.databases import url

__all__ = ["url"]


def test_the_migrations_make_the_tables(url: str) -> None:
    migrate(url)
    migrate(url)
    engine = open_database(url)
    with engine.connect() as connection:
        context = MigrationContext.configure(connection)
        assert compare_metadata(context, Base.metadata) == []
    engine.dispose()


def test_the_migrations_go_down_and_up_again(url: str) -> None:
    migrate(url)
    engine = open_database(url)
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    for move, revision in ((command.downgrade, "base"), (command.upgrade, "head")):
        with engine.begin() as connection:
            config.attributes["connection"] = connection
            move(config, revision)
        with engine.connect() as connection:
            left = set(inspect(connection).get_table_names()) & set(Base.metadata.tables)
            assert left == (set() if revision == "base" else set(Base.metadata.tables))
    with engine.connect() as connection:
        context = MigrationContext.configure(connection)
        assert compare_metadata(context, Base.metadata) == []
    engine.dispose()


def test_a_row_keeps_its_time(url: str) -> None:
    migrate(url)
    engine = open_database(url)
    now = datetime.now(UTC)
    with Session(engine) as session, session.begin():
        row = ModelVersionRow(name="sales", version=1, source="s", size_bytes=1, manifest={})
        row.created_at = now
        session.add(row)
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
