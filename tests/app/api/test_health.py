"""Alive, ready, measured."""

from pathlib import Path

import httpx
import pytest

from app.db import migrate
from app.main import create_app
from app.settings import Settings


@pytest.mark.parametrize("path", ["/healthz", "/readyz", "/ping"])
def test_a_service_at_work_is_well(service: httpx.Client, path: str) -> None:
    assert service.get(path).status_code == 200


def test_one_that_is_ready_says_how_its_parts_stand(service: httpx.Client) -> None:
    parts = service.get("/readyz").json()["parts"]
    assert parts == {"engine": "up", "database": "up", "redis": "unset"}


def test_metrics_are_text_for_prometheus(service: httpx.Client) -> None:
    response = service.get("/metrics")
    assert response.headers["Content-Type"].startswith("text/plain; version=")
    assert "shopcast_model_info{" in response.text
    assert "shopcast_engine_healthy 1.0" in response.text


async def test_one_that_stops_is_alive_but_not_ready(tiny_checkpoint: Path, tmp_path: Path) -> None:
    settings = Settings(series_checkpoint=tiny_checkpoint, data_dir=tmp_path)
    migrate(settings.database)
    app = create_app(settings)
    transport = httpx.ASGITransport(app)
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=transport, base_url="http://localhost") as client,
    ):
        app.state.stopping.set()
        ready, alive = await client.get("/readyz"), await client.get("/healthz")
        answer = await client.post("/predict/sales", json={"inputs": [{"target": [1, 2]}]})
        await app.state.resources.batcher.close(1.0)
        dead, refused = (
            await client.get("/healthz"),
            await client.post("/predict/sales", json={"inputs": [{"target": [1, 2, 3]}]}),
        )
    assert (ready.status_code, alive.status_code, answer.status_code) == (503, 200, 200)
    assert ready.headers["Retry-After"] == "1"
    assert (dead.status_code, refused.status_code) == (503, 503)
    assert refused.headers["Retry-After"] == "1"
    assert refused.json()["type"] == "urn:shopcast:problem:unavailable"
