"""All of it or an error, and nothing stays open."""

import threading
from pathlib import Path

import numpy as np
import pytest

from app.errors import ConfigurationError
from app.resources import open_resources
from app.settings import Settings
from models.base import Series, SeriesTask
from models.series import SeriesNetwork
from tests.redis_server import RedisServer, redis

__all__ = ["redis"]


@pytest.fixture
def settings(tiny_checkpoint: Path, tmp_path: Path) -> Settings:
    return Settings(series_checkpoint=tiny_checkpoint, data_dir=tmp_path / "new")


async def test_a_fresh_directory_is_enough(settings: Settings, tiny_network: SeriesNetwork) -> None:
    task = SeriesTask((Series(np.arange(8.0)[np.newaxis]),), 3, (0.5,))
    async with open_resources(settings) as resources:
        made = await resources.predictor.predict("sales", [task])
        text, _ = resources.metrics.render()
    assert made.results[0][0].mean.shape == (1, 3)
    assert made.version == 1
    assert tiny_network.fingerprint[:12].encode() in text


async def test_nothing_stays_open(settings: Settings) -> None:
    before = set(threading.enumerate())
    async with open_resources(settings) as resources:
        assert resources.batcher.healthy
    assert not resources.batcher.healthy
    left = [each for each in set(threading.enumerate()) - before if each.name.startswith("engine")]
    assert left == []


async def test_redis_may_be_there_or_not(settings: Settings, redis: RedisServer) -> None:
    task = SeriesTask((Series(np.arange(9.0)[np.newaxis]),), 3, (0.5,))
    shared = settings.model_copy(update={"redis_url": redis.url})
    cached = []
    for _ in range(2):
        async with open_resources(shared) as resources:
            made = await resources.predictor.predict("sales", [task])
            cached += made.cached
    redis.kill()
    async with open_resources(shared) as resources:
        made = await resources.predictor.predict("sales", [task])
        cached += made.cached
    assert cached == [False, True, False]


async def test_what_cannot_be_opened_is_told(settings: Settings, tmp_path: Path) -> None:
    broken = settings.model_copy(update={"series_checkpoint": tmp_path})
    with pytest.raises(ConfigurationError, match="has no config"):
        async with open_resources(broken):
            pass
