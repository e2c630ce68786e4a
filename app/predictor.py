"""The one road of a prediction: live version → cache → batch → cache.

Invariant: one version answers all of a request, and a result depends on nothing but that version
and its task, wherever it came from: a cached answer equals the first one bit for bit.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, ParamSpec, Protocol, TypeVar, cast

from app.batcher import Answer, MicroBatcher
from app.cache import Cache
from app.claims import MOST_CLAIMED, Claims
from app.errors import DeadlineError
from app.kinds import Kind
from app.metrics import Metrics
from models.base import Network

LARGE = 1 << 17  # numbers that take about a millisecond to hash or to pack
UNKNOWN_S = 0.5  # what a forecast takes of which none was seen
SHORTEST_S = 0.25  # another process may be busier than this one
LEASE_S = 1.0  # beyond which a claim of a dead process is gone
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
    @property
    def description(self) -> object: ...


class Registry(Protocol):
    """Where live versions come from."""

    async def acquire(self, name: str, alias: str) -> LiveVersion:
        """The version an alias (or a version number) stands for now, loaded if need be."""


@dataclass(frozen=True, slots=True, eq=False)
class Prediction(Generic[ResultT]):
    """The results in the order of the tasks.

    description: what the version's network says of itself. queue_s, compute_s: of the task that
    was done last.
    """

    name: str
    version: int
    description: object
    results: list[ResultT]
    cached: list[bool]
    cache_s: float
    queue_s: float
    compute_s: float


@dataclass(slots=True, eq=False)
class _Work(Generic[TaskT, ResultT]):
    """A request on its way; all lists are in the order of the tasks. known: None is missing.

    computed: positions of what was computed for it.
    """

    network: Network[TaskT, ResultT]
    tasks: Sequence[TaskT]
    keys: Sequence[bytes]
    known: list[ResultT | None]
    size: int
    deadline_s: float | None
    bulk: bool
    caller: str | None
    computed: set[int] = field(default_factory=set)

    @property
    def missing(self) -> list[int]:
        return [position for position, result in enumerate(self.known) if result is None]


class Predictor(Generic[TaskT, ResultT]):
    """Answers tasks of one kind from the cache, or else by the network."""

    def __init__(
        self,
        kind: Kind[TaskT, ResultT],
        registry: Registry,
        batcher: MicroBatcher,
        cache: Cache,
        metrics: Metrics,
        claims: Claims | None = None,
    ) -> None:
        """claims: of this process among those that share the cache."""
        self._kind = kind
        self._registry, self._batcher = registry, batcher
        self._cache, self._metrics, self._claims = cache, metrics, claims

    async def predict(
        self,
        name: str,
        tasks: Sequence[TaskT],
        *,
        alias: str = "production",
        timeout_s: float | None = None,
        bulk: bool = False,
        caller: str | None = None,
    ) -> Prediction[ResultT]:
        """Answer all tasks by one version of the model. bulk: give way to what is not.
        caller: the key that is asked by, with which others take turns.

        Raises NotFoundError, ConflictError (the version is damaged), UnavailableError,
        DeadlineError (after timeout_s, on time) and PredictionError.
        """
        deadline_s = None if timeout_s is None else asyncio.get_running_loop().time() + timeout_s
        live = await self._acquire(name, alias, timeout_s)
        began_s = time.perf_counter()
        size = sum(map(self._kind.size, tasks))
        keys = await _aside(size, self._keys, live.fingerprint, tasks)
        known = await self._known(keys, size)
        cache_s = time.perf_counter() - began_s
        work = _Work(live.network, tasks, keys, known, size, deadline_s, bulk, caller)
        answer = await self._fill(work) if work.missing else NOTHING
        return Prediction(
            name=live.name,
            version=live.version,
            description=live.description,
            results=cast("list[ResultT]", known),
            cached=[position not in work.computed for position in range(len(tasks))],
            cache_s=cache_s,
            queue_s=answer.queue_s,
            compute_s=answer.compute_s,
        )

    async def _acquire(self, name: str, alias: str, timeout_s: float | None) -> LiveVersion:
        """The version, if it can be had in time: to load one may take seconds."""
        try:
            async with asyncio.timeout(timeout_s):
                return await self._registry.acquire(name, alias)
        except TimeoutError as error:
            self._metrics.reject("deadline")
            raise DeadlineError("the deadline passed before the version was loaded") from error

    async def _fill(self, work: "_Work[TaskT, ResultT]") -> Answer[ResultT]:
        """Compute what is missing, except for what another process is computing already."""
        missing, claims = work.missing, self._claims
        if claims is None or len(missing) > MOST_CLAIMED:
            return await self._compute(work, missing)
        keys = [work.keys[position] for position in missing]
        expected_s = self._batcher.expect_s(work.network, [work.tasks[n] for n in missing])
        patience_s = 2 * max(expected_s or UNKNOWN_S, SHORTEST_S)
        elsewhere = await claims.take(keys, lease_s=patience_s + LEASE_S)
        try:
            await self._look_again(work)
            mine = [position for position in work.missing if work.keys[position] not in elsewhere]
            if not elsewhere:
                return await self._compute(work, mine)
            answer, _ = await asyncio.gather(
                self._compute(work, mine), self._wait(work, list(elsewhere), patience_s)
            )
            return await self._compute(work, work.missing) if work.missing else answer
        finally:
            claims.release(keys)

    async def _look_again(self, work: "_Work[TaskT, ResultT]") -> None:
        """Take what another caller of this process has had computed while Redis was asked."""
        missing = work.missing
        values = self._cache.at_hand([work.keys[position] for position in missing])
        found = await _aside(work.size, self._decode, values)
        for position, result in zip(missing, found, strict=True):
            work.known[position] = result

    async def _wait(
        self, work: "_Work[TaskT, ResultT]", keys: list[bytes], patience_s: float
    ) -> None:
        """Take over what another process computes, if that comes in time."""
        assert self._claims is not None  # noqa: S101 - checked by the caller
        if work.deadline_s is not None:
            patience_s = min(patience_s, work.deadline_s - asyncio.get_running_loop().time())
        await self._claims.settled(keys, wait_s=patience_s)
        values = await self._cache.get_many(keys)
        found = dict(zip(keys, await _aside(work.size, self._decode, values), strict=True))
        for position, key in enumerate(work.keys):
            if work.known[position] is None and found.get(key) is not None:
                work.known[position] = found[key]
                self._metrics.awaited_forecasts.inc()

    async def _compute(
        self, work: "_Work[TaskT, ResultT]", positions: list[int]
    ) -> Answer[ResultT]:
        """Have tasks computed, by their positions; the results are known and cached then."""
        if not positions:
            return NOTHING
        keys = [work.keys[position] for position in positions]
        answer: Answer[ResultT] = await self._batcher.submit(
            work.network,
            [work.tasks[position] for position in positions],
            keys=keys,
            deadline_s=work.deadline_s,
            bulk=work.bulk,
            caller=work.caller,
        )
        for position, result in zip(
            positions, await self._keep(keys, answer.results, size=work.size), strict=True
        ):
            work.known[position] = result
        work.computed.update(positions)
        return answer

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
