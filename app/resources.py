"""Everything a process of the service holds open.

Invariant: opened in order, closed in reverse, also when opening stops half-way.
"""

import asyncio
import os
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass
from functools import partial

from app.auth import Audit, Keys
from app.batcher import MicroBatcher
from app.cache import Cache, LayeredCache, MemoryCache, RedisCache
from app.callers import Callers
from app.claims import Claims
from app.datasets import Datasets
from app.db import is_local, migrate, open_database
from app.jobs import Jobs, watch
from app.kinds import PURCHASE, SERIES
from app.limits import Limits
from app.link import Link
from app.metrics import Metrics, watch_loop
from app.predictor import Predictor
from app.profiles import Profiles
from app.rates import Rate
from app.registry import SALES, Registry
from app.schedules import Schedules
from app.settings import Settings
from app.tracing import Tracing, open_tracing
from app.versions import Versions
from models.base import PurchaseForecast, PurchaseTask, SeriesResult, SeriesTask


@dataclass(frozen=True, slots=True, eq=False)
class Resources:
    """What a request may need.

    predictor, purchases: the road of series, and that of customers; the engine and the cache are
    the same. stopping: set when the process has been asked to end. tracing, link: None if they are
    off.
    """

    settings: Settings
    metrics: Metrics
    versions: Versions
    registry: Registry
    batcher: MicroBatcher
    predictor: Predictor[SeriesTask, SeriesResult]
    purchases: Predictor[PurchaseTask, PurchaseForecast]
    profiles: Profiles
    jobs: Jobs
    schedules: Schedules
    keys: Keys
    callers: Callers
    limits: Limits
    audit: Audit
    datasets: Datasets
    stopping: asyncio.Event
    tracing: Tracing | None
    link: Link | None

    @property
    def parts(self) -> dict[str, str]:
        """How each part stands: up, down, or unset. Asks nobody."""
        redis = "unset" if self.link is None else _standing(up=self.link.up)
        return {
            "engine": _standing(up=self.batcher.healthy),
            "database": _standing(up=self.callers.answered),
            "redis": redis,
        }


@asynccontextmanager
async def open_resources(
    settings: Settings, *, on_stuck: Callable[[], None] | None = None, guest: bool = False
) -> AsyncIterator[Resources]:
    """Open the database, load the models, start the engine.

    on_stuck: called once if the engine hangs, which only the end of the process mends. guest:
    change nothing that the service would see, which may be running beside this.
    Raises ConfigurationError if a part cannot be had.
    """
    os.environ["HF_HUB_OFFLINE"] = "1"  # no library of the process asks the network for a model
    async with AsyncExitStack() as stack:
        metrics = Metrics()
        if is_local(settings.database):  # a server's schema is for its operator to change
            await asyncio.to_thread(migrate, settings.database)
        database = open_database(settings.database)
        stack.callback(database.dispose)
        tracing = None
        if settings.otlp_endpoint:
            tracing = open_tracing(settings.otlp_endpoint, share=settings.trace_ratio)
            stack.push_async_callback(asyncio.to_thread, tracing.close)
        versions = Versions(database, settings)
        keys = Keys(database)
        callers = Callers(
            keys,
            metrics,
            open_without_keys=settings.open_without_keys,
            key_file=settings.admin_key_file,
        )
        stack.push_async_callback(callers.close)
        registry = Registry(versions, settings, metrics)
        stack.callback(registry.close)
        await asyncio.to_thread(partial(registry.open, guest=guest))
        await callers.start()
        on_cpu = registry.serving(SALES).description.device == "cpu"
        cache: Cache = MemoryCache(settings.cache_bytes, settings.cache_ttl_s, metrics=metrics)
        stack.push_async_callback(cache.close)
        claims = link = None
        if settings.redis_url is not None:
            link = await _reach_redis(settings.redis_url, settings, metrics, stack)
            far = RedisCache(link, settings.cache_ttl_s, metrics=metrics)
            cache, claims = LayeredCache(cache, far, metrics=metrics), Claims(link)
            stack.push_async_callback(claims.close)
        batches = settings.concurrent_batches or (settings.cores if on_cpu else 1)
        batcher = MicroBatcher(settings, metrics, threads=batches, on_stuck=on_stuck)
        await batcher.start()
        stack.push_async_callback(batcher.close, settings.grace_s)
        jobs = Jobs(database, most_queued=settings.max_queued_jobs)
        datasets = Datasets(database, settings, metrics, in_use=jobs.book.in_use)
        await asyncio.to_thread(datasets.sweep)
        for watching in (watch_loop(metrics), watch(jobs, metrics), registry.watch()):
            stack.push_async_callback(_cancel, asyncio.create_task(watching))
        yield Resources(
            settings=settings,
            metrics=metrics,
            versions=versions,
            registry=registry,
            batcher=batcher,
            predictor=Predictor(SERIES, registry, batcher, cache, metrics, claims),
            purchases=Predictor(PURCHASE, registry, batcher, cache, metrics, claims),
            profiles=Profiles(database, metrics),
            jobs=jobs,
            schedules=Schedules(database),
            keys=keys,
            callers=callers,
            limits=Limits(None if settings.rate is None else Rate.parse(settings.rate), link=link),
            audit=Audit(database),
            datasets=datasets,
            stopping=asyncio.Event(),
            tracing=tracing,
            link=link,
        )


def _standing(*, up: bool) -> str:
    return "up" if up else "down"


async def _reach_redis(
    url: str, settings: Settings, metrics: Metrics, stack: AsyncExitStack
) -> Link:
    """The link, closed with the rest; it is there even while Redis is not."""
    wait_s = settings.redis_wait_ms / 1000
    link = Link(url, metrics, wait_s=wait_s, name=settings.redis_namespace)
    stack.push_async_callback(link.close)
    await link.start()
    return link


async def _cancel(task: asyncio.Task[None]) -> None:
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task
