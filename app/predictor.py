"""The one road of a prediction: live version → cache → batch → cache.

Invariant: one version answers all of a request, and a result depends on nothing but that version
and its task, wherever it came from: a cached answer equals the first one bit for bit.
"""

import asyncio
import hashlib
import logging
import struct
import time
from array import array
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import ParamSpec, Protocol, TypeVar

import numpy as np

from app.batcher import Answer, MicroBatcher
from app.cache import Cache, decode, encode
from app.metrics import Metrics
from models.base import (
    CategoryArray,
    FloatArray,
    Network,
    Series,
    SeriesResult,
    SeriesTask,
)

KEY_BYTES = 24
LARGE = 1 << 17  # numbers that take about a millisecond to hash or to pack
NOTHING: Answer[SeriesResult] = Answer([], 0.0, 0.0)
_HEAD = struct.Struct("<IIII")  # lengths of fingerprint, horizon, levels, series
_SERIES = struct.Struct("<q??I")  # seasons (-1: unknown), non-negative, censored, covariates

log = logging.getLogger(__name__)

P = ParamSpec("P")
T = TypeVar("T")


class LiveVersion(Protocol):
    """A model version in memory; it never changes."""

    @property
    def name(self) -> str: ...
    @property
    def version(self) -> int: ...
    @property
    def fingerprint(self) -> str: ...
    @property
    def network(self) -> Network[SeriesTask, SeriesResult]: ...


class Registry(Protocol):
    """Where live versions come from."""

    def live(self, name: str, alias: str) -> LiveVersion:
        """The version an alias (or a version number) stands for now; raises NotFoundError."""


@dataclass(frozen=True, slots=True, eq=False)
class Prediction:
    """The results in the order of the tasks.

    queue_s, compute_s: of the task that was done last.
    """

    name: str
    version: int
    results: list[SeriesResult]
    cached: list[bool]
    cache_s: float
    queue_s: float
    compute_s: float


class Predictor:
    """Answers tasks from the cache, or else by the network."""

    def __init__(
        self, registry: Registry, batcher: MicroBatcher, cache: Cache, metrics: Metrics
    ) -> None:
        self._registry, self._batcher = registry, batcher
        self._cache, self._metrics = cache, metrics

    async def predict(
        self,
        name: str,
        tasks: Sequence[SeriesTask],
        *,
        alias: str = "production",
        timeout_s: float | None = None,
        bulk: bool = False,
    ) -> Prediction:
        """Answer all tasks by one version of the model. bulk: give way to what is not.

        Raises NotFoundError, UnavailableError, DeadlineError (after timeout_s, on time) and
        PredictionError.
        """
        deadline_s = None if timeout_s is None else asyncio.get_running_loop().time() + timeout_s
        live = self._registry.live(name, alias)
        began_s = time.perf_counter()
        size = sum(map(_size, tasks))
        keys = await _aside(size, _keys, live.fingerprint, tasks)
        known = await self._known(keys, size)
        cache_s = time.perf_counter() - began_s
        missing = [position for position, result in enumerate(known) if result is None]
        answer = NOTHING
        if missing:
            answer = await self._batcher.submit(
                live.network,
                [tasks[position] for position in missing],
                keys=[keys[position] for position in missing],
                deadline_s=deadline_s,
                bulk=bulk,
            )
        fresh = iter(await self._keep([keys[n] for n in missing], answer.results, size=size))
        return Prediction(
            name=live.name,
            version=live.version,
            results=[next(fresh) if result is None else result for result in known],
            cached=[result is not None for result in known],
            cache_s=cache_s,
            queue_s=answer.queue_s,
            compute_s=answer.compute_s,
        )

    async def _known(self, keys: Sequence[bytes], size: int) -> list[SeriesResult | None]:
        """What the cache knows."""
        values = await self._cache.get_many(keys)
        known = await _aside(size, _decode, values)
        misses = known.count(None)
        self._metrics.cache_misses.inc(misses)
        self._metrics.cache_hits.inc(len(known) - misses)
        return known

    async def _keep(
        self, keys: Sequence[bytes], results: Sequence[SeriesResult], *, size: int
    ) -> list[SeriesResult]:
        """Cache results; the same results as the cache will give them back."""
        if not results:
            return []
        values, rounded = await _aside(size, _round, results)
        await self._cache.set_many(dict(zip(keys, values, strict=True)))
        return rounded


async def _aside(size: int, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Call a function, in a thread if so many numbers would hold up everybody else."""
    if size <= LARGE:
        return function(*args, **kwargs)
    return await asyncio.to_thread(function, *args, **kwargs)


def _size(task: SeriesTask) -> int:
    """About how many numbers a task and its answer have."""
    answer = task.prediction_length * (len(task.quantile_levels) + 1) * len(task.series)
    history: int = max(one.target.shape[1] for one in task.series)
    return answer + history * sum(len(one.target) + len(one.covariates) for one in task.series)


def _keys(fingerprint: str, tasks: Sequence[SeriesTask]) -> list[bytes]:
    return [key_of(fingerprint, task) for task in tasks]


def _round(results: Sequence[SeriesResult]) -> tuple[list[bytes], list[SeriesResult]]:
    """Results as the cache keeps them, and as it gives them back."""
    values = [encode(result) for result in results]
    return values, [decode(value) for value in values]


def _decode(values: Sequence[bytes | None]) -> list[SeriesResult | None]:
    return [None if value is None else _decode_one(value) for value in values]


def _decode_one(value: bytes) -> SeriesResult | None:
    """The result; a damaged value is a miss."""
    try:
        return decode(value)
    except ValueError:
        log.warning("a damaged cached forecast was computed anew", exc_info=True)
        return None


def key_of(fingerprint: str, task: SeriesTask) -> bytes:
    """A name for the answer to a task: equal only if version and task are.

    Everything of variable length is preceded by its length, so that no two tasks read alike.
    """
    framed = b"".join(_frame_task(fingerprint, task))
    return hashlib.blake2b(framed, digest_size=KEY_BYTES).digest()


def _frame_task(fingerprint: str, task: SeriesTask) -> Iterator[bytes]:
    levels = task.quantile_levels
    yield _HEAD.pack(len(fingerprint), task.prediction_length, len(levels), len(task.series))
    yield fingerprint.encode("ascii")
    yield array("d", levels).tobytes()
    for one in task.series:
        yield from _frame_series(one)


def _frame_series(series: Series) -> Iterator[bytes]:
    seasons = series.season_lengths
    count = -1 if seasons is None else len(seasons)
    censored = series.censored is not None
    yield _SERIES.pack(count, series.non_negative, censored, len(series.covariates))
    yield array("q", seasons or ()).tobytes()
    yield from _frame_array(series.target)
    if series.censored is not None:  # as long as the target
        yield series.censored.tobytes()
    for covariate in series.covariates:  # their names move no answer, their order may
        yield from _frame_array(covariate.past)
        yield b"-" if covariate.future is None else b"+"
        if covariate.future is not None:
            yield from _frame_array(covariate.future)


def _frame_array(values: FloatArray | CategoryArray) -> Iterator[bytes]:
    yield values.dtype.str.encode("ascii").ljust(8)
    yield array("q", (values.ndim, *values.shape)).tobytes()
    if values.dtype != np.object_:
        yield values.tobytes()
        return
    words = [_word(value) for value in values.ravel().tolist()]
    yield array("q", map(len, words)).tobytes()
    yield from words


def _word(category: object) -> bytes:
    """A category as bytes; a quote, which begins no type's name, tells strings apart."""
    if isinstance(category, str):
        return b"'" + category.encode("utf-8", "surrogatepass")
    return f"{type(category).__qualname__}:{category!r}".encode("utf-8", "surrogatepass")
