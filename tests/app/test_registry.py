"""Versions in memory: loaded when asked for, swapped while they answer, refused if damaged."""

import asyncio
import gc
import weakref
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from sqlalchemy import Engine

from app.db import migrate, open_database
from app.errors import ConfigurationError, ConflictError, NotFoundError, UnavailableError
from app.metrics import Metrics
from app.registry import UNKEPT, LiveVersion, Registry
from app.settings import Settings
from app.versions import Manifest, Versions
from models.checkpoint import save_random
from tests.app.networks import Rates, value_of

TRAINED = Manifest("finetune", parent=1)


@pytest.fixture
def settings(tiny_checkpoint: Path, tiny_events_checkpoint: Path, tmp_path: Path) -> Settings:
    settings = Settings(
        series_checkpoint=tiny_checkpoint,
        purchase_checkpoint=tiny_events_checkpoint,
        data_dir=tmp_path / "data",
    )
    migrate(settings.database)
    return settings


@pytest.fixture
def database(settings: Settings) -> Iterator[Engine]:
    engine = open_database(settings.database)
    yield engine
    engine.dispose()


@pytest.fixture
def versions(database: Engine, settings: Settings) -> Versions:
    return Versions(database, settings)


Trained = Callable[[int], Path]


@pytest.fixture
def trained(tmp_path: Path) -> Trained:
    """Makes a checkpoint of its own by seed."""
    return lambda seed: save_random(tmp_path / f"trained-{seed}", "tiny", seed=seed)


class Process:
    """What one process of the service has in memory."""

    def __init__(self, versions: Versions, settings: Settings) -> None:
        self.metrics = Metrics()
        self.registry = Registry(versions, settings, self.metrics)

    def count(self, name: str) -> float:
        return value_of(self.metrics, f"shopcast_{name}", name="sales")


@asynccontextmanager
async def opened(
    versions: Versions, settings: Settings, *, guest: bool = False
) -> AsyncIterator[Process]:
    process = Process(versions, settings)
    await asyncio.to_thread(process.registry.open, guest=guest)
    yield process
    process.registry.close()


def load(settings: Settings, *, guest: bool = False) -> tuple[Registry, LiveVersion]:
    engine = open_database(settings.database)
    registry = Registry(Versions(engine, settings), settings, Metrics())
    try:
        registry.open(guest=guest)
    finally:
        registry.close()
        engine.dispose()
    return registry, registry.serving("sales")


# --- what the settings say, and what was promoted


def test_the_checkpoint_of_the_settings_is_production_until_somebody_promotes(
    settings: Settings, versions: Versions, trained: Trained
) -> None:
    changed = settings.model_copy(update={"series_checkpoint": trained(1)})
    assert [load(one)[1].version for one in (settings, settings, changed, settings)] == [1, 1, 2, 1]
    versions.promote("sales", 2, actor="ann")
    assert [load(one)[1].version for one in (settings, changed)] == [2, 2]
    third = settings.model_copy(update={"series_checkpoint": trained(2)})
    assert load(third)[1].version == 2
    assert [each.version for each in versions.all("sales")] == [1, 2, 3]
    now = versions.alias("sales")
    assert now is not None
    assert now.changed_by == "ann"


def test_pinned_answers_by_the_settings_and_registers_nothing(
    settings: Settings, versions: Versions, trained: Trained
) -> None:
    load(settings)
    versions.register("sales", trained(1), TRAINED)
    versions.promote("sales", 2, actor="ann")
    assert load(settings.model_copy(update={"pinned": True}))[1].version == 1
    unknown = settings.model_copy(update={"pinned": True, "series_checkpoint": trained(3)})
    assert load(unknown)[1].version == UNKEPT
    assert len(versions.all("sales")) == 2


def test_a_guest_answers_by_production_and_changes_nothing(
    settings: Settings, versions: Versions, trained: Trained
) -> None:
    alone = settings.model_copy(update={"series_checkpoint": None, "purchase_checkpoint": None})
    assert load(alone, guest=True)[1].description.checkpoint == "series"
    assert versions.names() == []
    load(settings)
    versions.register("sales", trained(1), TRAINED)
    versions.promote("sales", 2, actor="ann")
    assert load(alone, guest=True)[1].version == 2
    # whoever names a checkpoint wants that
    assert load(settings, guest=True)[1].version == 1
    assert len(versions.all("sales")) == 2


def test_a_damaged_production_is_not_what_a_start_fails_of(
    settings: Settings, versions: Versions, trained: Trained
) -> None:
    load(settings)
    versions.register("sales", trained(1), TRAINED)
    versions.promote("sales", 2, actor="ann")
    flip(versions.checkpoint_of("sales", 2).directory)
    registry, live = load(settings)
    assert live.version == 1
    assert registry.aliases("sales") == {"production": 2}


def test_a_damaged_copy_of_the_settings_checkpoint_is_mended(
    settings: Settings, versions: Versions
) -> None:
    load(settings)
    flip(versions.checkpoint_of("sales", 1).directory)
    assert load(settings)[1].version == 1
    versions.checkpoint_of("sales", 1)


def test_a_version_is_called_as_its_checkpoint_was(settings: Settings) -> None:
    load(settings)
    registry, live = load(settings)
    assert live.description.checkpoint == "tiny"
    assert registry.serving("purchase").description.checkpoint == "tiny-events"
    assert registry.names() == ["sales", "purchase"]


def test_another_runtime_is_the_same_version_by_another_fingerprint(settings: Settings) -> None:
    loaded = [
        load(settings.model_copy(update={"device": "cpu", "runtime": runtime}))[1]
        for runtime in ("torch", "onnx", "auto")
    ]
    assert [each.version for each in loaded] == [1, 1, 1]
    assert [each.fingerprint == loaded[1].fingerprint for each in loaded] == [False, True, True]


def test_both_networks_compute_in_8_bits_where_that_is_set(settings: Settings) -> None:
    updates = {"dtype": "int8", "runtime": "onnx", "device": "cpu"}
    registry, live = load(settings.model_copy(update=updates))
    assert live.description.dtype == "int8"
    assert registry.serving("purchase").description.dtype == "int8"


@pytest.mark.parametrize("name", ["series", "purchase"])
def test_a_checkpoint_that_cannot_serve_is_refused(
    settings: Settings, versions: Versions, tmp_path: Path, name: str
) -> None:
    broken = settings.model_copy(update={f"{name}_checkpoint": tmp_path / "nowhere"})
    with pytest.raises(ConfigurationError, match=rf"{name} checkpoint is refused: .* not exist"):
        load(broken)
    swapped = {
        "series_checkpoint": settings.purchase_checkpoint,
        "purchase_checkpoint": settings.series_checkpoint,
    }
    wrong = settings.model_copy(update={f"{name}_checkpoint": swapped[f"{name}_checkpoint"]})
    with pytest.raises(ConfigurationError, match=f"the {name} checkpoint is refused: "):
        load(wrong)
    assert name == "purchase" or versions.names() == []


def test_what_the_network_cannot_be_computed_in_is_refused(settings: Settings) -> None:
    impossible = settings.model_copy(update={"dtype": "int8", "runtime": "torch"})
    with pytest.raises(ConfigurationError, match="SHOPCAST_RUNTIME=onnx"):
        load(impossible)


def test_a_database_without_tables_says_how_to_get_them(settings: Settings, tmp_path: Path) -> None:
    fresh = settings.model_copy(update={"data_dir": tmp_path / "fresh"})
    with pytest.raises(ConfigurationError, match="shopcast migrate"):
        load(fresh)


def test_an_unknown_database_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="SHOPCAST_DATABASE_URL"):
        open_database("nonsense")


# --- what is asked for


@pytest.mark.parametrize(
    ("name", "alias", "reason"),
    [("nothing", "production", "there are sales, purchase"), ("sales", "7", "there are 1")]
    + [
        ("sales", alias, "loaded are production, 1")
        for alias in ("staging", "", "١", "01", "0", "1" * 5000, "../1", "candidate")
    ],
)
async def test_what_is_not_there_is_told(
    versions: Versions, settings: Settings, name: str, alias: str, reason: str
) -> None:
    async with opened(versions, settings) as process:
        with pytest.raises(NotFoundError, match=reason) as caught:
            await process.registry.acquire(name, alias)
        assert len(str(caught.value)) < 200


async def test_any_version_is_loaded_when_it_is_asked_for_once_for_all(
    versions: Versions, settings: Settings, trained: Trained
) -> None:
    async with opened(versions, settings) as process:
        registry = process.registry
        versions.register("sales", trained(1), TRAINED)
        versions.nominate("sales", 2, actor="job")
        asked = [registry.acquire("sales", alias) for alias in ("2", "candidate", "2", "1")]
        found = await asyncio.gather(*asked)
        assert [each.version for each in found] == [2, 2, 2, 1]
        assert found[0] is found[1] is found[2]
        assert (await registry.acquire("sales")).version == 1
        assert process.count("model_loads_total") == 2


async def test_who_leaves_while_it_is_loaded_hurts_nobody(
    versions: Versions, settings: Settings, trained: Trained
) -> None:
    async with opened(versions, settings) as process:
        versions.register("sales", trained(1), TRAINED)
        leaving = asyncio.create_task(process.registry.acquire("sales", "2"))
        staying = asyncio.create_task(process.registry.acquire("sales", "2"))
        await asyncio.sleep(0.01)
        leaving.cancel()
        assert (await staying).version == 2


async def test_what_was_not_used_for_longest_leaves_the_memory(
    versions: Versions, settings: Settings, trained: Trained
) -> None:
    few = settings.model_copy(update={"loaded_versions": 3})
    async with opened(versions, few) as process:
        for seed in (1, 2, 3):
            versions.register("sales", trained(seed), TRAINED)
        for alias in ("2", "3", "2", "4"):
            await process.registry.acquire("sales", alias)
        assert list(process.registry.loaded("sales")) == [1, 2, 4]
        held = value_of(process.metrics, "shopcast_loaded_bytes")
        assert 0 < held < 4 * (32 << 20)


async def test_what_does_not_fit_the_memory_is_told_and_the_old_one_stays(
    versions: Versions, settings: Settings, trained: Trained
) -> None:
    tight = settings.model_copy(update={"loaded_bytes": 1_000_000})
    async with opened(versions, tight) as process:
        versions.register("sales", trained(1), TRAINED)
        with pytest.raises(UnavailableError, match="SHOPCAST_LOADED_BYTES is 1,000,000"):
            await process.registry.acquire("sales", "2")
        with pytest.raises(UnavailableError):
            await process.registry.promote("sales", 2, actor="ann")
        versions.promote("sales", 2, actor="elsewhere")
        await process.registry.look()
        assert process.registry.serving("sales").version == 1
        assert process.count("model_load_failures_total") == 1, "it is not tried at each look"


# --- what takes the place of what


async def test_a_promotion_elsewhere_is_noticed_and_the_old_network_is_freed(
    versions: Versions, settings: Settings, trained: Trained
) -> None:
    async with opened(versions, settings) as process:
        registry = process.registry
        versions.register("sales", trained(1), TRAINED)
        watching = asyncio.create_task(registry.watch(0.02))
        old = weakref.ref(registry.serving("sales").network)
        versions.promote("sales", 2, actor="ann")
        async with asyncio.timeout(20):
            while registry.serving("sales").version == 1:  # noqa: ASYNC110 - as a user looks
                await asyncio.sleep(0.02)
        watching.cancel()
        gc.collect()
        assert old() is None
        assert list(registry.loaded("sales")) == [2]
        assert process.count("model_swaps_total") == 1
        assert process.count("production_version") == 2


async def test_a_promotion_here_answers_at_once_and_can_be_taken_back(
    versions: Versions, settings: Settings, trained: Trained
) -> None:
    async with opened(versions, settings) as process:
        registry = process.registry
        versions.register("sales", trained(1), TRAINED)
        moved = await registry.promote("sales", 2, actor="ann", expected=1)
        assert (moved.version, moved.previous, moved.changed_by) == (2, 1, "ann")
        assert registry.serving("sales").version == 2
        assert registry.aliases("sales") == {"production": 2}
        back = await registry.rollback("sales", actor="bob")
        assert back.version == registry.serving("sales").version == 1
        with pytest.raises(ConflictError, match="version 1 now: bob put it there"):
            await registry.promote("sales", 2, actor="ann", expected=2)


async def test_a_damaged_version_never_answers_and_the_old_one_stays(
    versions: Versions, settings: Settings, trained: Trained, caplog: pytest.LogCaptureFixture
) -> None:
    async with opened(versions, settings) as process:
        versions.register("sales", trained(1), TRAINED)
        directory = versions.checkpoint_of("sales", 2).directory
        versions.promote("sales", 2, actor="elsewhere")
        flip(directory)
        await process.registry.look()
        with pytest.raises(ConflictError, match=r"damaged: model\.safetensors is not what was"):
            await process.registry.acquire("sales", "2")
        assert process.registry.serving("sales").version == 1
        assert process.count("model_load_failures_total") == 1
        assert "version 2 of sales cannot be loaded" in caplog.text


async def test_what_is_whole_but_no_network_never_becomes_production(
    versions: Versions, settings: Settings, tiny_events_checkpoint: Path
) -> None:
    async with opened(versions, settings) as process:
        versions.register("sales", tiny_events_checkpoint, TRAINED)
        with pytest.raises(ConflictError, match="the series checkpoint is refused"):
            await process.registry.promote("sales", 2, actor="ann")
        now = versions.alias("sales")
        assert now is not None
        assert now.version == 1


async def test_what_is_deleted_elsewhere_leaves_the_memory(
    versions: Versions, settings: Settings, trained: Trained
) -> None:
    async with opened(versions, settings) as process:
        versions.register("sales", trained(1), TRAINED)
        await process.registry.acquire("sales", "2")
        versions.delete("sales", 2, actor="ann")
        await process.registry.look()
        with pytest.raises(NotFoundError, match="was deleted"):
            await process.registry.acquire("sales", "2")


async def test_what_is_pinned_follows_nobody(
    versions: Versions, settings: Settings, trained: Trained
) -> None:
    load(settings)
    versions.register("sales", trained(1), TRAINED)
    async with opened(versions, settings.model_copy(update={"pinned": True})) as process:
        versions.promote("sales", 2, actor="ann")
        await process.registry.look()
        assert process.registry.serving("sales").version == 1
        with pytest.raises(ConflictError, match="SHOPCAST_PINNED=0"):
            await process.registry.promote("sales", 2, actor="ann")


async def test_without_a_database_what_is_loaded_goes_on(
    versions: Versions, settings: Settings, database: Engine
) -> None:
    async with opened(versions, settings) as process:
        with database.begin() as connection:
            connection.exec_driver_sql("DROP TABLE model_aliases")
        with pytest.raises(UnavailableError, match="database does not answer"):
            await process.registry.look()
        assert value_of(process.metrics, "shopcast_version_poll_failures_total") == 1
        assert (await process.registry.acquire("sales")).version == 1


async def test_a_network_of_ones_own_stays_production(
    versions: Versions, settings: Settings
) -> None:
    async with opened(versions, settings) as process:
        live = process.registry.add("purchase", Rates(), load_s=0.0)
        await process.registry.look()
        assert process.registry.serving("purchase") is live
        assert live.version == 2


def flip(directory: Path) -> None:
    """Change one bit of the weights."""
    weights = directory / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-77] ^= 1
    weights.write_bytes(content)
