"""The one road of a prediction: live version → cache → batch → cache.

Invariant: one version answers all of a request, and a result depends on nothing but that version
and its task, wherever it came from: a cached answer equals the first one bit for bit.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, ParamSpec, Protocol, TypeVar

from app.batcher import Answer, MicroBatcher
from app.cache import Cache
from app.kinds import Kind
from app.metrics import Metrics
from models.base import Network

LARGE = 1 << 17  # numbers that take about a millisecond to hash or to pack
NOTHING: Answer[Any] = Answer([], 0.0, 0.0)

log = logging.getLogger(__name__)

P = ParamSpec("P")
T = TypeVar("T")
TaskT = TypeVar("TaskT")
ResultT = TypeVar("ResultT")


class LiveVersion(Protocol):
    """A model version in memory; it never changes. Its network answers what its model is asked."""

    @property
    def name(self) -> str: ...
    @property
    def version(self) -> int: ...
    @property
    def fingerprint(self) -> str: ...
    @property
    def network(self) -> Network[Any, Any]: ...


class Registry(Protocol):
    """Where live versions come from."""

    def live(self, name: str, alias: str) -> LiveVersion:
        """The version an alias (or a version number) stands for now; raises NotFoundError."""


@dataclass(frozen=True, slots=True, eq=False)
class Prediction(Generic[ResultT]):
    """The results in the order of the tasks.

    queue_s, compute_s: of the task that was done last.
    """

    name: str
    version: int
    results: list[ResultT]
    cached: list[bool]
    cache_s: float
    queue_s: float
    compute_s: float


class Predictor(Generic[TaskT, ResultT]):
    """Answers tasks of one kind from the cache, or else by the network."""

    def __init__(
        self,
        kind: Kind[TaskT, ResultT],
        registry: Registry,
        batcher: MicroBatcher,
        cache: Cache,
        metrics: Metrics,
    ) -> None:
        self._kind = kind
        self._registry, self._batcher = registry, batcher
        self._cache, self._metrics = cache, metrics

    async def predict(
        self,
        name: str,
        tasks: Sequence[TaskT],
        *,
        alias: str = "production",
        timeout_s: float | None = None,
        bulk: bool = False,
    ) -> Prediction[ResultT]:
        """Answer all tasks by one version of the model. bulk: give way to what is not.

        Raises NotFoundError, UnavailableError, DeadlineError (after timeout_s, on time) and
        PredictionError.
        """
        deadline_s = None if timeout_s is None else asyncio.get_running_loop().time() + timeout_s
        live = self._registry.live(name, alias)
        began_s = time.perf_counter()
        size = sum(map(self._kind.size, tasks))
        keys = await _aside(size, self._keys, live.fingerprint, tasks)
        known = await self._known(keys, size)
        cache_s = time.perf_counter() - began_s
        missing = [position for position, result in enumerate(known) if result is None]
        answer: Answer[ResultT] = NOTHING
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

    async def _known(self, keys: Sequence[bytes], size: int) -> list[ResultT | None]:
        """What the cache knows."""
        values = await self._cache.get_many(keys)
        known = await _aside(size, self._decode, values)
        misses = known.count(None)
        self._metrics.cache_misses.inc(misses)
        self._metrics.cache_hits.inc(len(known) - misses)
        return known

    async def _keep(
        self, keys: Sequence[bytes], results: Sequence[ResultT], *, size: int
    ) -> list[ResultT]:
        """Cache results; the same results as the cache will give them back."""
        if not results:
            return []
        values, rounded = await _aside(size, self._round, results)
        await self._cache.set_many(dict(zip(keys, values, strict=True)))
        return rounded

    def _keys(self, fingerprint: str, tasks: Sequence[TaskT]) -> list[bytes]:
        return [self._kind.key(fingerprint, task) for task in tasks]

    def _round(self, results: Sequence[ResultT]) -> tuple[list[bytes], list[ResultT]]:
        """Results as the cache keeps them, and as it gives them back."""
        values = [self._kind.encode(result) for result in results]
        return values, [self._kind.decode(value) for value in values]

    def _decode(self, values: Sequence[bytes | None]) -> list[ResultT | None]:
        return [None if value is None else self._decode_one(value) for value in values]

    def _decode_one(self, value: bytes) -> ResultT | None:
        """The result; a damaged value is a miss."""
        try:
            return self._kind.decode(value)
        except ValueError:
            log.warning("a damaged cached forecast was computed anew", exc_info=True)
            return None


async def _aside(size: int, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Call a function, in a thread if so many numbers would hold up everybody else."""
    if size <= LARGE:
        return function(*args, **kwargs)
    return await asyncio.to_thread(function, *args, **kwargs)
