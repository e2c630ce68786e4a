"""Everything a process of the service holds open.

Invariant: opened in order, closed in reverse, also when opening stops half-way.
"""

import asyncio
import os
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass

from app.batcher import MicroBatcher
from app.cache import MemoryCache
from app.db import is_local, migrate, open_database
from app.metrics import Metrics, ModelInfo, watch_loop
from app.predictor import Predictor
from app.registry import LiveVersion, Registry
from app.settings import Settings


@dataclass(frozen=True, slots=True, eq=False)
class Resources:
    """What a request may need. stopping: set when the process has been asked to end."""

    settings: Settings
    metrics: Metrics
    registry: Registry
    batcher: MicroBatcher
    predictor: Predictor
    stopping: asyncio.Event


@asynccontextmanager
async def open_resources(
    settings: Settings, *, on_stuck: Callable[[], None] | None = None
) -> AsyncIterator[Resources]:
    """Open the database, load the models, start the engine.

    on_stuck: called once if the engine hangs, which only the end of the process mends.
    Raises ConfigurationError if a part cannot be had.
    """
    os.environ["HF_HUB_OFFLINE"] = "1"  # no library of the process asks the network for a model
    async with AsyncExitStack() as stack:
        metrics = Metrics()
        if is_local(settings.database):  # a server's schema is for its operator to change
            await asyncio.to_thread(migrate, settings.database)
        database = open_database(settings.database)
        stack.callback(database.dispose)
        registry = Registry(database, metrics)
        live = await asyncio.to_thread(registry.load_sales, settings)
        metrics.set_model(_info(live), load_seconds=live.load_s)
        on_cpu = live.description.device == "cpu"
        if not on_cpu:
            metrics.watch_gpu_memory(live.network.gpu_memory_bytes)
        cache = MemoryCache(settings.cache_bytes, settings.cache_ttl_s, metrics=metrics)
        stack.push_async_callback(cache.close)
        batches = settings.concurrent_batches or (settings.cores if on_cpu else 1)
        batcher = MicroBatcher(settings, metrics, threads=batches, on_stuck=on_stuck)
        await batcher.start()
        stack.push_async_callback(batcher.close, settings.grace_s)
        stack.push_async_callback(_cancel, asyncio.create_task(watch_loop(metrics)))
        predictor = Predictor(registry, batcher, cache, metrics)
        yield Resources(settings, metrics, registry, batcher, predictor, asyncio.Event())


def _info(live: LiveVersion) -> ModelInfo:
    return ModelInfo(
        name=live.name,
        version=live.version,
        fingerprint=live.fingerprint,
        device=live.description.device,
        dtype=live.description.dtype,
        parameters=live.description.parameters,
    )


async def _cancel(task: asyncio.Task[None]) -> None:
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task
