"""What `shopcast check` tells of a setup, and that it changes nothing."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
from sqlalchemy import text
from typer.testing import CliRunner

from app.check import Finding, examine
from app.cli import app
from app.db import migrate, open_database
from app.settings import Settings
from tests.ops.programs import free_port

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def settings(tmp_path: Path, tiny_checkpoint: Path, tiny_events_checkpoint: Path) -> Settings:
    return Settings(
        data_dir=tmp_path / "data",
        port=free_port(),
        series_checkpoint=tiny_checkpoint,
        purchase_checkpoint=tiny_events_checkpoint,
        device="cpu",
    )


def of(settings: Settings, environment: dict[str, str] | None = None) -> dict[str, Finding]:
    return {each.subject: each for each in examine(settings, environment or {})}


def test_a_first_start_is_foretold_and_nothing_is_made(settings: Settings) -> None:
    found = of(settings)
    assert {each.state for each in found.values()} <= {"ok", "note"}
    assert "shopcast migrate" in found["database"].detail
    assert "not registered yet" in found["model sales"].detail
    assert "float32 on cpu" in found["model purchase"].detail
    assert not settings.data_dir.exists()


def test_an_older_database_is_told(settings: Settings) -> None:
    settings.data_dir.mkdir()
    migrate(settings.database)
    assert of(settings)["database"].state == "ok"
    engine = open_database(settings.database)
    with engine.begin() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = '0001'"))
    engine.dispose()
    told = of(settings)["database"]
    assert told.state == "wrong"
    assert "run `shopcast migrate`" in told.detail


def test_what_cannot_be_reached_is_told(settings: Settings) -> None:
    away = f"127.0.0.1:{free_port()}"
    found = of(
        settings.model_copy(
            update={
                "database_url": f"postgresql+psycopg://{away}/none",
                "redis_url": f"redis://{away}/0",
                "otlp_endpoint": f"http://{away}",
            }
        )
    )
    assert found["database"].state == "wrong"
    assert found["Redis"].state == "note"
    assert found["collector of traces"].state == "note"


def test_an_open_door_and_a_damaged_checkpoint_are_wrong(
    settings: Settings, tmp_path: Path
) -> None:
    (tmp_path / "empty").mkdir()
    found = of(
        settings.model_copy(update={"host": "0.0.0.0", "series_checkpoint": tmp_path / "empty"})  # noqa: S104 - what is refused
    )
    assert "no API key exists" in found["address"].detail
    assert found["address"].state == found["models"].state == "wrong"


def test_a_misspelt_setting_is_named(settings: Settings) -> None:
    told = of(settings, {"SHOPCAST_PROT": "1", "SHOPCAST_PORT": "1", "HOME": "x"})["settings"]
    assert told.state == "note"
    assert "SHOPCAST_PROT" in told.detail


def test_the_command_prints_json_and_ends_with_one_if_something_is_wrong(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("SHOPCAST_DATA_DIR", str(settings.data_dir))
    monkeypatch.setenv("SHOPCAST_SERIES_CHECKPOINT", str(settings.series_checkpoint))
    monkeypatch.setenv("SHOPCAST_PURCHASE_CHECKPOINT", str(settings.purchase_checkpoint))
    monkeypatch.setenv("SHOPCAST_PORT", str(settings.port))
    done = CliRunner().invoke(app, ["check", "--json"])
    assert done.exit_code == 0, done.output
    assert {each["subject"] for each in json.loads(done.output)} >= {"database", "model sales"}
    monkeypatch.setenv("SHOPCAST_SERIES_CHECKPOINT", str(tmp_path / "nowhere"))
    again = CliRunner().invoke(app, ["check"])
    assert again.exit_code == 1
    assert "does not exist" in again.output
