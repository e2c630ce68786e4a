"""Every Prometheus instrument of the service, each an attribute.

Invariant: nothing is registered globally, so that two services in one process do not collide; and
every label takes few values.
"""

import asyncio
import itertools
import math
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

from prometheus_client import (
    CONTENT_TYPE_LATEST,
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    disable_created_metrics,
    generate_latest,
    multiprocess,
)

from app.turns import Turns

SECONDS = (
    *(0.001, 0.002, 0.003, 0.005, 0.0075, 0.01, 0.015, 0.02, 0.03, 0.05, 0.075),
    *(0.1, 0.15, 0.2, 0.3, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0, 5.0, 7.5, 10.0),
)
LONG_SECONDS = (0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1800.0)
REFRESH_TICKS = 5  # of the event loop, between two readings of the process
ROWS = (1, 2, 4, 8, 16, 32, 48, 64, 96, 128, 192, 256, 512, 1024)
REASONS = ("queue_full", "engine_down", "closing", "deadline")
AUTH_FAILURES = (
    *("missing", "malformed", "unknown", "revoked", "expired"),
    *("scope", "shop", "database"),
)
REDIS_FAILURES = ("late", "lost", "refused", "garbage")
SHARED_DIRECTORY = "PROMETHEUS_MULTIPROC_DIR"
MODELS = ("sales", "purchase")
CONTEXTS = ("profile", "request", "prior")
RATIO = (0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)


Mode = Literal["livesum", "livemax", "livemin"]


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """What the metrics say of a live model version."""

    name: str
    version: int
    fingerprint: str
    device: str
    dtype: str
    parameters: int


class Metrics:
    """The instruments of one service; docs/operations.md has a line for each."""

    def __init__(self) -> None:
        disable_created_metrics()  # type: ignore[no-untyped-call]  # halves what is scraped
        self.registry = CollectorRegistry()
        self._shared = SHARED_DIRECTORY in os.environ  # where the library looks itself
        self._gauges: list[_Polled] = []
        self._cpu_s = 0.0
        self.last_lag_s, self.tick_due_s = 0.0, math.inf
        self.turns = Turns()
        self._http_children: dict[tuple[str, str, int], tuple[Counter, Histogram]] = {}
        self._http()
        self._work()
        self._queue()
        self._engine()
        self._cache()
        self._redis()
        self._models()
        self._purchases()
        self._auth()
        self._jobs()
        self._datasets()
        self._process()

    def observe_http(self, route: str, *, method: str, status: int, seconds: float) -> None:
        """Count an answered request. route: the template, e.g. /models/{name}, never the path."""
        child = self._http_children.get((route, method, status))
        if child is None:
            requests = self.http_requests.labels(route, method, str(status))
            child = (requests, self.http_request_seconds.labels(route))
            self._http_children[route, method, status] = child
        child[0].inc()
        child[1].observe(seconds)

    def lag_s(self) -> float:
        """How late the event loop is: by its last tick, the one that is due by now, or its turn."""
        overdue_s = time.perf_counter() - self.tick_due_s
        return max(self.last_lag_s, overdue_s, self.turns.age_s())

    def reject(self, reason: str) -> None:
        """Count a caller who was sent away. reason: a word of a fixed list."""
        self.rejects.labels(reason).inc()

    def set_model(self, info: ModelInfo, *, load_seconds: float) -> None:
        """Show a model version as live."""
        self.model_info.labels(*_info_labels(info)).set(1)
        self.model_load_seconds.labels(info.name, str(info.version)).set(load_seconds)

    def drop_model(self, info: ModelInfo) -> None:
        """Stop showing a model version."""
        if self._shared:  # what others may be showing cannot be taken away
            self.model_info.labels(*_info_labels(info)).set(0)
            return
        self.model_info.remove(*_info_labels(info))
        self.model_load_seconds.remove(info.name, str(info.version))

    def watch_gpu_memory(self, used_bytes: Callable[[], float]) -> None:
        """Report GPU memory from now on, read when the metrics are."""
        self._gauge("gpu_memory_bytes", "GPU memory held by the service.").set_function(used_bytes)

    def render(self) -> tuple[bytes, str]:
        """All metrics as text, and its content type; those of every process that shares them."""
        if not self._shared:
            return generate_latest(self.registry), CONTENT_TYPE_LATEST
        self.refresh()
        every = CollectorRegistry()
        multiprocess.MultiProcessCollector(every)  # type: ignore[no-untyped-call]
        return generate_latest(every), CONTENT_TYPE_LATEST

    def refresh(self) -> None:
        """Write down what is otherwise read when the metrics are, for other processes to show."""
        if not self._shared:
            return
        for gauge in self._gauges:
            gauge.refresh()
        for sample in (each for family in self._own.collect() for each in family.samples):
            if sample.name in self._process_gauges:
                self._process_gauges[sample.name].set(sample.value)
            else:
                self._process_cpu.inc(max(0.0, sample.value - self._cpu_s))
                self._cpu_s = sample.value

    def _http(self) -> None:
        self.http_requests = self._counter(
            "http_requests", "Answered requests.", "route", "method", "status"
        )
        self.http_request_seconds = self._histogram(
            "http_request_seconds", "Time to answer a request.", SECONDS, "route"
        )
        self.http_in_flight = self._gauge("http_in_flight", "Requests being answered.")

    def _work(self) -> None:
        self.rows = self._counter("rows", "Rows computed: series and their covariates.")
        self.points = self._counter("points", "Points computed, padding not counted.")
        self.batches = self._counter("batches", "Batches computed.")
        self.batch_rows = self._histogram("batch_rows", "Rows of a batch.", ROWS)
        self.batch_fill = self._histogram(
            "batch_fill_ratio", "Share of the budget of rows and points a batch uses.", RATIO
        )
        self.batch_padding = self._histogram(
            "batch_padding_ratio", "Share of a batch's points that are padding.", RATIO
        )
        self.compute_seconds = self._histogram(
            "compute_seconds", "Time the network takes for a batch.", SECONDS
        )

    def _queue(self) -> None:
        self.queue_wait_seconds = self._histogram(
            "queue_wait_seconds", "Time work waits before its batch starts.", SECONDS
        )
        self.queue_tasks = self._gauge("queue_tasks", "Tasks that wait.")
        self.queue_points = self._gauge("queue_points", "Rows times length of the waiting tasks.")
        self.coalesced = self._counter(
            "coalesced_tasks", "Tasks that joined identical work in flight."
        )
        self.rejects = self._counter("rejects", "Callers sent away without an answer.", "reason")
        for reason in REASONS:  # a rate needs the zero it rises from
            self.rejects.labels(reason)

    def _engine(self) -> None:
        self.engine_healthy = self._gauge(
            "engine_healthy", "1 if the engine answers, else 0.", mode="livemin"
        )
        self.engine_restarts = self._counter("engine_restarts", "Restarts of a dead engine.")
        self.engine_budget = self._gauge(
            "engine_budget_ratio",
            "Share of the batch budget in use; below 1 after running short.",
            mode="livemin",
        )
        self.out_of_memory_splits = self._counter(
            "out_of_memory_splits", "Batches halved because they did not fit the device."
        )
        self.failed_batches = self._counter(
            "failed_batches", "Batches that failed and were retried in halves."
        )
        self.poisoned_tasks = self._counter(
            "poisoned_tasks", "Tasks the network could not answer even alone."
        )
        self.event_loop_lag_seconds = self._histogram(
            "event_loop_lag_seconds", "How late the event loop runs a timer.", SECONDS
        )

    def _cache(self) -> None:
        self.cache_hits = self._counter("cache_hits", "Forecasts found in the cache.")
        self.cache_misses = self._counter("cache_misses", "Forecasts not found in the cache.")
        self.cache_evictions = self._counter(
            "cache_evictions", "Forecasts that left the cache for want of room."
        )
        self.cache_bytes = self._gauge("cache_bytes", "Size of the in-process cache.")
        self.cache_entries = self._gauge("cache_entries", "Forecasts in the in-process cache.")

    def _redis(self) -> None:
        self.redis_up = self._gauge(
            "redis_up", "1 if Redis answers in time, else 0.", mode="livemin"
        )
        self.redis_configured = self._gauge(
            "redis_configured", "1 if there is a Redis to be asked, else 0.", mode="livemax"
        )
        self.redis_seconds = self._histogram(
            "redis_seconds", "Time Redis takes to answer.", SECONDS
        )
        self.redis_failures = self._counter(
            "redis_failures",
            "What Redis could not be asked, and the service did without.",
            "reason",
        )
        for reason in REDIS_FAILURES:
            self.redis_failures.labels(reason)
        self.redis_hits = self._counter(
            "redis_hits", "Forecasts found in Redis that were not in the process."
        )
        self.awaited_forecasts = self._counter(
            "awaited_forecasts", "Forecasts that another process was computing already."
        )

    def _models(self) -> None:
        labels = ("name", "version", "fingerprint", "device", "dtype", "parameters")
        self.model_info = self._gauge(
            "model_info", "1 for each live model version.", *labels, mode="livemax"
        )
        self.model_load_seconds = self._gauge(
            "model_load_seconds",
            "Time to load, verify and warm up.",
            "name",
            "version",
            mode="livemax",
        )
        self.production_version = self._gauge(
            "production_version", "Version that answers as production here.", "name", mode="livemin"
        )
        self.model_loads = self._counter("model_loads", "Versions loaded.", "name")
        self.model_load_failures = self._counter(
            "model_load_failures", "Versions that could not be loaded.", "name"
        )
        self.model_swaps = self._counter(
            "model_swaps", "Times a version took the place of another.", "name"
        )
        self.loaded_bytes = self._gauge("loaded_bytes", "Memory of the loaded versions, about.")
        self.version_poll_failures = self._counter(
            "version_poll_failures", "Looks for promotions that the database did not answer."
        )
        for each in (self.model_load_failures, self.model_swaps):
            for name in MODELS:
                each.labels(name)

    def _purchases(self) -> None:
        self.purchase_contexts = self._counter(
            "purchase_contexts",
            "Requests for purchases by where their context came from.",
            "context",
        )
        for context in CONTEXTS:
            self.purchase_contexts.labels(context)
        self.truncated_customers = self._counter(
            "truncated_customers", "Customers whose earlier events were cut off."
        )
        self.profile_failures = self._counter(
            "profile_failures", "Calls for shop profiles that the database did not answer."
        )

    def _auth(self) -> None:
        self.auth_failures = self._counter(
            "auth_failures", "Requests refused for their key, or for want of one.", "reason"
        )
        for reason in AUTH_FAILURES:
            self.auth_failures.labels(reason)
        self.rate_limited = self._counter(
            "rate_limited_requests", "Requests refused since their key has made too many."
        )
        self.keys_age_seconds = self._gauge(
            "keys_age_seconds",
            "Time since the keys were last read from the database.",
            mode="livemax",
        )

    def _jobs(self) -> None:
        self.jobs = self._gauge(
            "jobs", "Jobs that are known, by kind and state.", "kind", "state", mode="livemax"
        )
        self.job_seconds = self._gauge(
            "job_seconds", "How long the latest job that succeeded took.", "kind", mode="livemax"
        )
        self.job_success_seconds = self._gauge(
            "job_last_success_timestamp_seconds",
            "When a job of the kind last succeeded.",
            "kind",
            mode="livemax",
        )
        self.job_best_gain = self._gauge(
            "job_best_gain_ratio",
            "Best gain over production that a job found.",
            "model",
            mode="livemax",
        )
        self.workers = self._gauge("workers", "Workers that are alive.", mode="livemax")

    def _datasets(self) -> None:
        self.dataset_seconds = self._histogram(
            "dataset_seconds", "Time to check and sort the file of a data set.", LONG_SECONDS
        )

    def _process(self) -> None:
        # CPU time, resident memory, open files and start time
        if not self._shared:
            ProcessCollector(namespace="shopcast", registry=self.registry)
            return
        self._own = ProcessCollector(namespace="shopcast", registry=None)
        self._process_cpu = self._counter("process_cpu_seconds", "CPU time of the processes.")
        modes: dict[str, Mode] = {
            "resident_memory_bytes": "livesum",
            "virtual_memory_bytes": "livesum",
            "open_fds": "livesum",
            "max_fds": "livemin",
            "start_time_seconds": "livemin",
        }
        self._process_gauges = {
            f"shopcast_process_{name}": self._gauge(
                f"process_{name}", f"Of all: {mode}.", mode=mode
            )
            for name, mode in modes.items()
        }

    def _counter(self, name: str, text: str, *labels: str) -> Counter:
        return Counter(name, text, labels, namespace="shopcast", registry=self.registry)

    def _gauge(self, name: str, text: str, *labels: str, mode: Mode = "livesum") -> Gauge:
        """mode: what several processes make of their values."""
        kind = _Polled if self._shared else Gauge
        gauge = kind(
            name,
            text,
            labels,
            namespace="shopcast",
            registry=self.registry,
            multiprocess_mode=mode,
        )
        if isinstance(gauge, _Polled):
            self._gauges.append(gauge)
        return gauge

    def _histogram(
        self, name: str, text: str, buckets: tuple[float, ...], *labels: str
    ) -> Histogram:
        return Histogram(
            name, text, labels, namespace="shopcast", registry=self.registry, buckets=buckets
        )


class _Polled(Gauge):
    """A gauge of one of several processes: its function is called every now and then."""

    _read: Callable[[], float] | None = None

    def set_function(self, f: Callable[[], float]) -> None:
        self._read = f

    def refresh(self) -> None:
        if self._read is not None:
            self.set(self._read())


@contextmanager
def shared_metrics() -> Iterator[None]:
    """A place in which the processes started inside keep their metrics for one another."""
    with tempfile.TemporaryDirectory(prefix="shopcast-metrics-") as directory:
        os.environ[SHARED_DIRECTORY] = directory
        try:
            yield
        finally:
            del os.environ[SHARED_DIRECTORY]


def forget_process(pid: int | None) -> None:
    """Drop the gauges of a process that ended; what it counted stays counted."""
    if SHARED_DIRECTORY in os.environ:
        multiprocess.mark_process_dead(pid)  # type: ignore[no-untyped-call]


async def watch_loop(metrics: Metrics, interval_s: float = 0.05) -> None:
    """Measure how late the event loop is, until cancelled."""
    for tick in itertools.count():
        metrics.tick_due_s = time.perf_counter() + interval_s
        await asyncio.sleep(interval_s)
        metrics.last_lag_s = max(0.0, time.perf_counter() - metrics.tick_due_s)
        metrics.event_loop_lag_seconds.observe(metrics.last_lag_s)
        if tick % REFRESH_TICKS == 0:
            metrics.refresh()


def _info_labels(info: ModelInfo) -> tuple[str, ...]:
    short = info.fingerprint[:12]
    version, parameters = str(info.version), str(info.parameters)
    return (info.name, version, short, info.device, info.dtype, parameters)
