"""The application: made, opened and closed as often as one likes."""

import math
import os
import time
from pathlib import Path

import httpx
import pytest
from fastapi import FastAPI

from app.db import migrate
from app.errors import ConfigurationError
from app.main import create_app
from app.settings import Settings


@pytest.fixture
def settings(tiny_checkpoint: Path, tmp_path: Path) -> Settings:
    settings = Settings(series_checkpoint=tiny_checkpoint, data_dir=tmp_path)
    migrate(settings.database)
    return settings


async def mean_of(app: FastAPI) -> list[float]:
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
        response = await client.post("/predict/sales", json={"inputs": [{"target": [1, 2, 3]}]})
        return list(response.json()["predictions"][0]["mean"])


async def test_two_in_one_process_do_not_meet(settings: Settings) -> None:
    first, second = create_app(settings), create_app(settings)
    async with first.router.lifespan_context(first), second.router.lifespan_context(second):
        assert await mean_of(first) == await mean_of(second)
        counts = [
            app.state.resources.metrics.registry.get_sample_value("shopcast_cache_misses_total")
            for app in (first, second)
        ]
    assert counts == [1, 1]


async def test_one_opens_again_after_it_was_closed(settings: Settings) -> None:
    app = create_app(settings)
    means = []
    for _ in range(2):
        async with app.router.lifespan_context(app):
            means.append(await mean_of(app))
    assert means[0] == means[1]


async def test_no_start_reaches_for_the_network(settings: Settings) -> None:
    app = create_app(settings)
    async with app.router.lifespan_context(app):
        assert os.environ["HF_HUB_OFFLINE"] == "1"


async def test_why_it_does_not_open_is_kept(settings: Settings, tmp_path: Path) -> None:
    app = create_app(settings.model_copy(update={"series_checkpoint": tmp_path / "nowhere"}))
    with pytest.raises(ConfigurationError, match="does not exist"):
        async with app.router.lifespan_context(app):
            pass
    assert "does not exist" in app.state.complaint


async def test_predictions_go_on_when_the_database_breaks(settings: Settings) -> None:
    app = create_app(settings)
    async with app.router.lifespan_context(app):
        (settings.data_dir / "shopcast.sqlite3").unlink()
        (settings.data_dir / "shopcast.sqlite3").mkdir()
        assert await mean_of(app)


async def test_a_process_that_is_behind_refuses_predictions_unread(settings: Settings) -> None:
    app = create_app(settings)
    async with app.router.lifespan_context(app):
        metrics = app.state.resources.metrics
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as client:
            header = {"Content-Type": "application/json"}
            metrics.tick_due_s = time.perf_counter() - 60  # the loop has done nothing for so long
            behind = await client.post("/predict/sales", content=b"{", headers=header)
            assert behind.status_code == 503
            assert int(behind.headers["retry-after"]) >= 60
            assert (await client.get("/healthz")).status_code == 200
        metrics.tick_due_s, metrics.last_lag_s = math.inf, 0.0
        assert await mean_of(app)
