"""Model versions in memory: those that answer, and how one takes the place of another.

Invariant: a live version never changes and answers to the end whatever it began; what cannot be
loaded, verified and warmed up never answers anybody, and what answered before goes on.

All but `open` belongs to the event loop; whatever takes time runs in threads of its own.
"""

import asyncio
import logging
import re
import time
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import Field, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, TypeVar

from app.errors import (
    ConfigurationError,
    ConflictError,
    NotFoundError,
    ShopcastError,
    UnavailableError,
)
from app.metrics import Metrics, ModelInfo
from app.settings import Settings
from app.versions import (
    BY_SETTINGS,
    CANDIDATE,
    LONGEST_SHOWN,
    PRODUCTION,
    Alias,
    Manifest,
    Version,
    Versions,
    digest_of,
)
from models.base import CheckpointError, Network, SetupError

if TYPE_CHECKING:
    from models.events import EventsNetwork
    from models.series import SeriesNetwork

SALES = "sales"
PURCHASE = "purchase"
UNKEPT = 0  # the number of what was not registered
POLL_S = 1.0
PATIENCE_S = 5.0  # for the database
AGAIN_S = 30.0  # what could not be loaded is not tried again before
BYTES_OVER_FILE, BYTES_MORE = 6, 16 << 20  # memory of a version by the size of its files: measured

_NUMBER = re.compile("[1-9][0-9]{0,8}")  # a version has one spelling: 01 is none

log = logging.getLogger(__name__)

T = TypeVar("T")


class Description(Protocol):
    """What a network, whatever its kind, says of itself: a dataclass with these and more."""

    __dataclass_fields__: ClassVar[dict[str, Field[Any]]]

    @property
    def checkpoint(self) -> str: ...
    @property
    def parameters(self) -> int: ...
    @property
    def device(self) -> str: ...
    @property
    def dtype(self) -> str: ...


class Loaded(Network[Any, Any], Protocol):
    """A network that is verified and warmed up."""

    def describe(self) -> Description:
        """What a person wants to know of it."""


@dataclass(frozen=True, slots=True, eq=False)
class LiveVersion:
    """A model version in memory. created_at: when it was registered; load_s: time to load."""

    name: str
    version: int
    fingerprint: str
    network: Loaded
    description: Description
    size_bytes: int
    created_at: datetime
    loaded_at: datetime
    load_s: float


class Registry:
    """The versions this process answers with, and those it can load.

    Whoever asks for a version that is not in memory waits for it, as long as their deadline lets
    them: to load one takes about a second, which is less than a caller would wait to come again.
    """

    def __init__(self, versions: Versions, settings: Settings, metrics: Metrics) -> None:
        self._versions, self._settings, self._metrics = versions, settings, metrics
        self._live: dict[str, OrderedDict[int, LiveVersion]] = {}  # used last, last
        self._serving: dict[str, LiveVersion] = {}  # what production is here
        self._pinned: set[str] = set()  # models whose production is none of the database's
        self._aliases: dict[str, dict[str, int]] = {}
        self._loading: dict[tuple[str, int], asyncio.Task[LiveVersion]] = {}
        self._failed: dict[tuple[str, int], tuple[float, ShopcastError]] = {}
        self._turn = asyncio.Lock()
        self._moves = 0  # of aliases by this process; what was read before one is old
        # of each one: loads would only slow one another, and a database that hangs holds one alone
        self._loader = ThreadPoolExecutor(1, "loader")
        self._reader = ThreadPoolExecutor(1, "versions")
        metrics.loaded_bytes.set_function(self._held)

    # --- at the beginning

    def open(self, *, guest: bool = False) -> None:
        """Load what every model answers with.

        The checkpoint of the settings is registered if it is new, and becomes production unless
        somebody has promoted another one. guest: change nothing that others see; production if
        there is one, or else the checkpoint of the settings, unregistered.

        Blocking. Raises ConfigurationError with the reason if there is nothing to answer with.
        """
        try:
            for source in (_series_of(self._settings), _events_of(self._settings)):
                live = self._open_guest(source) if guest else self._open(source)
                if live.description.device != "cpu" and source.name == SALES:
                    self._metrics.watch_gpu_memory(live.network.gpu_memory_bytes)  # type: ignore[attr-defined]  # a network of ours
                self._serve(live)
            self._learn(self._versions.aliases())
        except (UnavailableError, ConflictError) as error:
            raise ConfigurationError(
                f"{error}; is SHOPCAST_DATABASE_URL right, has `shopcast migrate` run, and can "
                "SHOPCAST_DATA_DIR be written to?"
            ) from error

    def close(self) -> None:
        """Begin nothing new."""
        for each in (self._loader, self._reader):
            each.shutdown(wait=False, cancel_futures=True)

    def _open(self, source: "_Source") -> LiveVersion:
        if self._settings.pinned:
            return self._pin(source)
        name, number, fresh = source.name, *self._settle(source)
        now = self._versions.alias(name)
        if now is not None and now.version != number:
            log.warning(
                "version %d of %s is production, put there by %s; the checkpoint of the settings "
                "is version %d",
                *(now.version, name, now.changed_by, number),
            )
            with suppress(ShopcastError):  # logged; what the settings say can answer meanwhile
                return self._read(self._versions.get(name, now.version))
        return fresh or self._read(self._versions.get(name, number))

    def _settle(self, source: "_Source") -> tuple[int, LiveVersion | None]:
        """Register the checkpoint of the settings, and put it into production if that is to be.

        What comes back is its number, and its network if it had to be loaded to know it.
        """
        number, fresh = self._versions.known(source.name, _digest(source)), None
        if number is None or not self._whole(source.name, number):
            network, load_s = _timed(source.load, source.directory, source.base)
            manifest = Manifest(source.kind, checkpoint=source.directory.name)
            number = self._versions.register(
                source.name, source.directory, manifest, base=source.base
            )
            kept = self._versions.get(source.name, number)
            fresh = _live(kept, network, load_s)
        now = self._versions.alias(source.name)
        if now is None or now.changed_by == BY_SETTINGS:
            with suppress(ConflictError):  # another process does the same
                self._versions.promote(source.name, number, actor=BY_SETTINGS)
        return number, fresh

    def _open_guest(self, source: "_Source") -> LiveVersion:
        now = None if source.explicit else self._versions.alias(source.name)
        if now is None or self._settings.pinned:
            return self._pin(source)
        return self._read(self._versions.get(source.name, now.version))

    def _pin(self, source: "_Source") -> LiveVersion:
        """The checkpoint of the settings, whatever is production elsewhere."""
        network, load_s = _timed(source.load, source.directory, source.base)
        self._pinned.add(source.name)
        known = self._versions.known(source.name, _digest(source))
        if known is not None:
            return _live(self._versions.get(source.name, known), network, load_s)
        return _unkept(source.name, UNKEPT, network, load_s)

    def _whole(self, name: str, number: int) -> bool:
        with suppress(ConflictError):
            self._versions.checkpoint_of(name, number)
            return True
        return False

    def add(self, name: str, network: Loaded, *, load_s: float) -> LiveVersion:
        """Let a network that is in memory alone be production here, and stay it."""
        number = 1 + max(self._live.get(name, {UNKEPT: None}))
        self._pinned.add(name)
        live = _unkept(name, number, network, load_s)
        self._serve(live)
        return live

    # --- what answers

    async def acquire(self, name: str, alias: str = PRODUCTION) -> LiveVersion:
        """The version that an alias, or a number, stands for, loaded if it is not in memory.

        Raises NotFoundError, ConflictError if it is damaged, and UnavailableError if it does not
        fit the memory or the database does not answer.
        """
        serving = self.serving(name)
        if alias == PRODUCTION:
            return serving
        number = await self._number(name, alias)
        live = self._live[name].get(number)
        if live is None:
            try:
                return await self._fetch(name, number)
            except NotFoundError as error:
                aliases = ", ".join(self.aliases(name))
                msg = f"{_unknown(name, alias)}: {error}; aliases are {aliases}"
                raise NotFoundError(msg) from error
        self._live[name].move_to_end(number)
        return live

    def serving(self, name: str) -> LiveVersion:
        """What production is in this process. Raises NotFoundError."""
        serving = self._serving.get(name)
        if serving is None:
            shown, there = name[:LONGEST_SHOWN], ", ".join(self._serving)
            raise NotFoundError(f"there is no model {shown!r}; there are {there}")
        return serving

    def names(self) -> list[str]:
        return list(self._serving)

    def loaded(self, name: str) -> dict[int, LiveVersion]:
        """The versions of a model in memory, by number. Raises NotFoundError."""
        self.serving(name)
        return dict(sorted(self._live[name].items()))

    def aliases(self, name: str) -> dict[str, int]:
        """What the aliases of a model stand for, as far as this process knows."""
        if name in self._pinned:
            return {PRODUCTION: self._serving[name].version}
        return self._aliases.get(name, {})

    async def kept(self, name: str) -> list[Version]:
        """The versions of a model that are kept, oldest first."""
        self.serving(name)
        return await self._ask(lambda: self._versions.all(name))

    # --- what changes

    async def promote(
        self, name: str, number: int, *, actor: str, expected: int | None = None
    ) -> Alias:
        """Make a version production: here at once, elsewhere as soon as it is noticed.

        It is loaded first, so that what cannot answer never becomes production. Raises as
        `acquire` and `Versions.promote` do.
        """
        self._refuse_pinned(name)
        live = self._live[name].get(number) or await self._fetch(name, number)
        moved = await self._ask(
            lambda: self._versions.promote(name, number, actor=actor, expected=expected)
        )
        self._switch(live)
        return moved

    async def rollback(self, name: str, *, actor: str, expected: int | None = None) -> Alias:
        """Bring back the production before this one, as `promote` does."""
        self._refuse_pinned(name)
        now = await self._ask(lambda: self._versions.alias(name))
        previous = None if now is None else now.previous
        if now is None or previous is None:
            raise ConflictError(f"{name} has no earlier production to go back to; promote one")
        live = self._live[name].get(previous) or await self._fetch(name, previous)
        expected = now.version if expected is None else expected
        moved = await self._ask(
            lambda: self._versions.rollback(name, actor=actor, expected=expected)
        )
        self._switch(live)
        return moved

    async def delete(self, name: str, number: int, *, actor: str) -> None:
        """Delete a version. Raises as `Versions.delete` does."""
        self.serving(name)
        await self._ask(lambda: self._versions.delete(name, number, actor=actor))
        self._drop(name, number)

    async def watch(self, interval_s: float = POLL_S) -> None:
        """Notice what other processes change, until cancelled."""
        while True:
            await asyncio.sleep(interval_s)
            with suppress(UnavailableError):  # counted; the next look may see more
                await self.look()

    async def look(self) -> None:
        """See what production is elsewhere, and follow. Raises UnavailableError."""
        moves = self._moves
        try:
            aliases, numbers = await self._ask(self._versions.state)
        except UnavailableError:
            self._metrics.version_poll_failures.inc()
            raise
        if moves != self._moves:
            return  # read before this process moved an alias itself
        self._learn(aliases)
        for live in self._all():
            if live.version not in numbers.get(live.name, ()):
                self._drop(live.name, live.version)
        for name, serving in list(self._serving.items()):
            number = self._aliases.get(name, {}).get(PRODUCTION, serving.version)
            if number != serving.version and name not in self._pinned:
                with suppress(ShopcastError):  # logged; the old one goes on
                    self._switch(self._live[name].get(number) or await self._fetch(name, number))

    def _refuse_pinned(self, name: str) -> None:
        self.serving(name)
        if name in self._pinned:
            raise ConflictError(
                f"this process answers by what it was started with, and follows no promotion of "
                f"{name}; SHOPCAST_PINNED=0 lets it"
            )

    def _learn(self, aliases: list[Alias]) -> None:
        names: dict[str, dict[str, int]] = {}
        for each in aliases:
            names.setdefault(each.name, {})[each.alias] = each.version
        self._aliases = names

    def _switch(self, live: LiveVersion) -> None:
        """Let a version take the place of the one that answered."""
        self._moves += 1
        old = self._serving[live.name]
        if old is live:
            return
        self._aliases.setdefault(live.name, {})[PRODUCTION] = live.version
        self._serve(live)
        self._metrics.model_swaps.labels(live.name).inc()
        self._drop(live.name, old.version)  # whoever it answers holds it until the answer is out
        log.info("version %d of %s answers, %d no more", live.version, live.name, old.version)

    def _serve(self, live: LiveVersion) -> None:
        if live not in self._all():
            self._hold(live)
        self._serving[live.name] = live
        self._metrics.production_version.labels(live.name).set(live.version)

    # --- what is in memory

    async def _number(self, name: str, alias: str) -> int:
        """The number that an alias stands for."""
        if _NUMBER.fullmatch(alias):
            return int(alias)
        if alias == CANDIDATE and CANDIDATE not in self.aliases(name):
            self._learn(await self._ask(self._versions.aliases))
        number = self.aliases(name).get(alias)
        if number is None:
            known = ", ".join([*self.aliases(name), *map(str, self._live[name])])
            raise NotFoundError(f"{_unknown(name, alias)}; loaded are {known}")
        return number

    async def _fetch(self, name: str, number: int) -> LiveVersion:
        """Load a version, once for all who wait for it; it goes on if they stop."""
        key = name, number
        again_s, error = self._failed.get(key, (0.0, None))
        if error is not None and time.monotonic() < again_s:
            raise error.with_traceback(None)
        task = self._loading.get(key)
        if task is None:
            task = self._loading[key] = asyncio.create_task(self._bring(name, number))
            task.add_done_callback(lambda done: self._settled(key, done))
        return await asyncio.shield(task)

    def _settled(self, key: tuple[str, int], task: asyncio.Task[LiveVersion]) -> None:
        del self._loading[key]
        self._failed.pop(key, None)
        error = None if task.cancelled() else task.exception()
        passing = isinstance(error, UnavailableError) and error.reason == "database"
        if isinstance(error, (ConflictError, UnavailableError)) and not passing:
            self._failed[key] = time.monotonic() + AGAIN_S, error

    async def _bring(self, name: str, number: int) -> LiveVersion:
        kept = await self._ask(lambda: self._versions.get(name, number))
        async with self._turn:  # what room there is, is for one at a time
            self._make_room(kept)
            live = await asyncio.get_running_loop().run_in_executor(self._loader, self._read, kept)
            self._hold(live)
        return live

    def _read(self, kept: Version) -> LiveVersion:
        """Load, verify and warm up a version. Blocking. Raises ConflictError if it is none."""
        source = _SOURCES[kept.name](self._settings)
        try:
            found = self._versions.checkpoint_of(kept.name, kept.version)
            network, load_s = _timed(source.load, found.directory, found.base)
        except (ConflictError, ConfigurationError) as error:
            self._metrics.model_load_failures.labels(kept.name).inc()
            log.exception("version %d of %s cannot be loaded", kept.version, kept.name)
            raise ConflictError(f"version {kept.version} of {kept.name}: {error}") from error
        return _live(kept, network, load_s)

    def _make_room(self, kept: Version) -> None:
        """Let what was not used for longest leave the memory. Raises UnavailableError."""
        need, most = _size(kept.size_bytes), self._settings.most_loaded_bytes
        idle = [each for each in self._all() if self._serving[each.name] is not each]
        mine = [each for each in idle if each.name == kept.name]
        surplus = len(mine) + 2 - self._settings.loaded_versions  # beside production and this one
        for each in mine[: max(0, surplus)]:
            self._drop(each.name, each.version)
        for each in idle:
            if self._held() + need > most:
                self._drop(each.name, each.version)
        if self._held() + need > most:
            self._metrics.model_load_failures.labels(kept.name).inc()
            raise UnavailableError(
                f"version {kept.version} of {kept.name} does not fit beside what answers: it takes "
                f"about {need:,} bytes, and SHOPCAST_LOADED_BYTES is {most:,}",
                reason="memory",
                retry_after_s=AGAIN_S,
            )

    def _held(self) -> int:
        """Bytes that the loaded versions take, about."""
        return sum(each.size_bytes for each in self._all())

    def _hold(self, live: LiveVersion) -> None:
        self._live.setdefault(live.name, OrderedDict())[live.version] = live
        self._metrics.set_model(_info(live), load_seconds=live.load_s)
        self._metrics.model_loads.labels(live.name).inc()

    def _drop(self, name: str, number: int) -> None:
        """Let a version leave the memory, unless it is what answers."""
        live = self._live[name].get(number)
        if live is not None and live is not self._serving[name]:
            del self._live[name][number]
            self._metrics.drop_model(_info(live))

    def _all(self) -> list[LiveVersion]:
        """What is in memory, used longest ago first within a model."""
        return [each for versions in list(self._live.values()) for each in list(versions.values())]

    async def _ask(self, work: Callable[[], T]) -> T:
        """Ask the database and the disk, for a bounded time."""
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(PATIENCE_S):
                return await loop.run_in_executor(self._reader, work)
        except TimeoutError as error:
            raise UnavailableError(
                "the database does not answer for model versions",
                reason="database",
                retry_after_s=2.0,
            ) from error


@dataclass(frozen=True, slots=True)
class _Source:
    """Where a model comes from if the settings are asked, and how any of its versions is loaded.

    explicit: whether the settings name it. load: of a directory and a base.
    """

    name: str
    directory: Path
    base: Path | None
    explicit: bool
    load: Callable[[Path, Path | None], Loaded]

    @property
    def kind(self) -> str:
        return "settings" if self.explicit else "shipped"


def _series_of(settings: Settings) -> _Source:
    given = settings.series_checkpoint
    return _Source(
        name=SALES,
        directory=given or _shipped("series"),
        base=settings.series_base,
        explicit=given is not None,
        load=lambda directory, base: _load_series(settings, directory, base),
    )


def _events_of(settings: Settings) -> _Source:
    given = settings.purchase_checkpoint
    return _Source(
        name=PURCHASE,
        directory=given or _shipped("purchase"),
        base=settings.purchase_base,
        explicit=given is not None,
        load=lambda directory, base: _load_events(settings, directory, base),
    )


_SOURCES: dict[str, Callable[[Settings], _Source]] = {SALES: _series_of, PURCHASE: _events_of}


def _digest(source: _Source) -> str:
    """The digest of the settings' checkpoint; of none if there is nothing."""
    try:
        return digest_of(source.directory, source.base)
    except OSError:
        return ""  # to load it says more


def _timed(
    load: Callable[[Path, Path | None], Loaded], directory: Path, base: Path | None
) -> tuple[Loaded, float]:
    began_s = time.perf_counter()
    network = load(directory, base)
    return network, time.perf_counter() - began_s


def _live(kept: Version, network: Loaded, load_s: float) -> LiveVersion:
    live = _unkept(kept.name, kept.version, network, load_s)
    description = live.description
    if kept.manifest.checkpoint:  # a directory of ours is called by its number
        description = replace(description, checkpoint=kept.manifest.checkpoint)
    return replace(
        live,
        description=description,
        size_bytes=_size(kept.size_bytes),
        created_at=kept.created_at,
    )


def _unkept(name: str, number: int, network: Loaded, load_s: float) -> LiveVersion:
    now, description = datetime.now(UTC), network.describe()
    return LiveVersion(
        name=name,
        version=number,
        fingerprint=network.fingerprint,
        network=network,
        description=description,
        size_bytes=_size(4 * description.parameters),
        created_at=now,
        loaded_at=now,
        load_s=load_s,
    )


def _unknown(name: str, alias: str) -> str:
    return f"model {name!r} has no version or alias {alias[:LONGEST_SHOWN]!r}"


def _size(file_bytes: int) -> int:
    return BYTES_OVER_FILE * file_bytes + BYTES_MORE


def _info(live: LiveVersion) -> ModelInfo:
    return ModelInfo(
        name=live.name,
        version=live.version,
        fingerprint=live.fingerprint,
        device=live.description.device,
        dtype=live.description.dtype,
        parameters=live.description.parameters,
    )


def _shipped(name: str) -> Path:
    # torch takes seconds to import, and the process that supervises never needs it
    from models.checkpoint import shipped  # noqa: PLC0415

    return shipped(name)


def _load_series(settings: Settings, directory: Path, base: Path | None) -> "SeriesNetwork":
    from models.series import SeriesNetwork  # noqa: PLC0415

    try:
        return SeriesNetwork.load(
            directory,
            base=base,
            device=settings.device,
            dtype=settings.dtype,
            runtime=settings.runtime,
            threads=settings.cores,
            seasonal_adjustment=settings.seasonal_adjustment,
            covariate_effects=settings.covariate_effects,
        )
    except SetupError as error:
        raise ConfigurationError(str(error)) from error
    except CheckpointError as error:
        raise ConfigurationError(f"the series checkpoint is refused: {error}") from error


def _load_events(settings: Settings, directory: Path, base: Path | None) -> "EventsNetwork":
    from models.events import EventsNetwork  # noqa: PLC0415

    try:
        return EventsNetwork.load(
            directory,
            base=base,
            device=settings.device,
            dtype=settings.dtype,
            runtime=settings.runtime,
            threads=settings.cores,
        )
    except SetupError as error:
        raise ConfigurationError(str(error)) from error
    except CheckpointError as error:
        raise ConfigurationError(f"the purchase checkpoint is refused: {error}") from error
