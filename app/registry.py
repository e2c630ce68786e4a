"""Model versions in memory.

Invariant: a live version never changes, and a version's number means the same content for ever.
"""

import re
import time
from dataclasses import Field, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

from app.errors import ConfigurationError, NotFoundError, UnavailableError
from app.metrics import Metrics, ModelInfo
from app.settings import Settings
from app.versions import BY_SETTINGS, PRODUCTION, Manifest, Versions
from models.base import CheckpointError, Network, SetupError

if TYPE_CHECKING:
    from models.events import EventsNetwork
    from models.series import SeriesNetwork

SALES = "sales"
PURCHASE = "purchase"
LONGEST_SHOWN = 64  # characters of a name that messages repeat

_NUMBER = re.compile("[1-9][0-9]{0,8}")  # a version has one spelling: 01 is none


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
    """A model version in memory. created_at: when it was first seen; load_s: time to load."""

    name: str
    version: int
    fingerprint: str
    network: Loaded
    description: Description
    created_at: datetime
    loaded_at: datetime
    load_s: float


class Registry:
    """The versions this process can answer with."""

    def __init__(self, versions: Versions, metrics: Metrics) -> None:
        self._versions, self._metrics = versions, metrics
        self._live: dict[str, dict[int, LiveVersion]] = {}
        self._aliases: dict[tuple[str, str], int] = {}

    def load_sales(self, settings: Settings) -> LiveVersion:
        """Load, verify, number and put into production the configured series checkpoint.

        Blocking. Raises ConfigurationError with the reason if it cannot be served, or if the
        database cannot be read.
        """
        began_s = time.perf_counter()
        network = _load_series(settings)
        load_s = time.perf_counter() - began_s
        directory = settings.series_checkpoint or _shipped("series")
        live = self._keep(SALES, directory, settings.series_base, network=network, load_s=load_s)
        if live.description.device != "cpu":
            self._metrics.watch_gpu_memory(network.gpu_memory_bytes)
        return live

    def load_purchase(self, settings: Settings) -> LiveVersion:
        """The same for the events checkpoint."""
        began_s = time.perf_counter()
        network = _load_events(settings)
        load_s = time.perf_counter() - began_s
        directory = settings.purchase_checkpoint or _shipped("purchase")
        base = settings.purchase_base
        return self._keep(PURCHASE, directory, base, network=network, load_s=load_s)

    def _keep(
        self, name: str, directory: Path, base: Path | None, *, network: Loaded, load_s: float
    ) -> LiveVersion:
        source = "shipped" if directory.parent == _shipped("series").parent else "settings"
        try:
            number = self._versions.register(name, directory, Manifest(source), base=base)
            self._versions.promote(name, number, actor=BY_SETTINGS)
            created_at = self._versions.get(name, number).created_at
        except UnavailableError as error:
            raise ConfigurationError(
                f"{error}; is SHOPCAST_DATABASE_URL right, and has `shopcast migrate` run?"
            ) from error
        return self._show(name, network, number, created_at=created_at, load_s=load_s)

    def add(self, name: str, network: Loaded, *, load_s: float) -> LiveVersion:
        """Put a network that is in memory alone into production, under the next number."""
        number = 1 + max(self._live.get(name, {0: None}))
        return self._show(name, network, number, created_at=datetime.now(UTC), load_s=load_s)

    def _show(
        self, name: str, network: Loaded, number: int, *, created_at: datetime, load_s: float
    ) -> LiveVersion:
        live = LiveVersion(
            name=name,
            version=number,
            fingerprint=network.fingerprint,
            network=network,
            description=network.describe(),
            created_at=created_at,
            loaded_at=datetime.now(UTC),
            load_s=load_s,
        )
        self._live.setdefault(name, {})[number] = live
        self._aliases[name, PRODUCTION] = number
        self._metrics.set_model(_info(live), load_seconds=load_s)
        return live

    def live(self, name: str, alias: str = PRODUCTION) -> LiveVersion:
        """The version that an alias, or a number, stands for. Raises NotFoundError."""
        versions = self._live.get(name)
        if versions is None:
            shown = name[:LONGEST_SHOWN]
            raise NotFoundError(f"there is no model {shown!r}; there are {', '.join(self._live)}")
        number = self._aliases.get((name, alias))
        if number is None and _NUMBER.fullmatch(alias):
            number = int(alias)
        if number is None or number not in versions:
            known = [*self.aliases(name), *map(str, versions)]
            raise NotFoundError(
                f"model {name!r} has no version or alias {alias[:LONGEST_SHOWN]!r}; "
                f"loaded are {', '.join(known)}"
            )
        return versions[number]

    def names(self) -> list[str]:
        return list(self._live)

    def versions(self, name: str) -> list[LiveVersion]:
        """The live versions of a model, oldest first. Raises NotFoundError."""
        self.live(name)
        return [self._live[name][number] for number in sorted(self._live[name])]

    def aliases(self, name: str) -> dict[str, int]:
        return {alias: number for (owner, alias), number in self._aliases.items() if owner == name}


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


def _load_series(settings: Settings) -> "SeriesNetwork":
    from models.series import SeriesNetwork  # noqa: PLC0415

    directory = settings.series_checkpoint or _shipped("series")
    try:
        return SeriesNetwork.load(
            directory,
            base=settings.series_base,
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


def _load_events(settings: Settings) -> "EventsNetwork":
    from models.events import EventsNetwork  # noqa: PLC0415

    directory = settings.purchase_checkpoint or _shipped("purchase")
    try:
        return EventsNetwork.load(
            directory,
            base=settings.purchase_base,
            device=settings.device,
            # int8 is of the series network alone
            dtype="auto" if settings.dtype == "int8" else settings.dtype,
            runtime=settings.runtime,
            threads=settings.cores,
        )
    except SetupError as error:
        raise ConfigurationError(str(error)) from error
    except CheckpointError as error:
        raise ConfigurationError(f"the purchase checkpoint is refused: {error}") from error
