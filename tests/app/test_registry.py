"""Versions: numbered for ever by what they hold, refused with the reason if they cannot serve."""

from pathlib import Path

import pytest

from app.db import migrate, open_database
from app.errors import ConfigurationError, NotFoundError
from app.metrics import Metrics
from app.registry import LiveVersion, Registry
from app.settings import Settings
from app.versions import Versions
from models.checkpoint import save_random


@pytest.fixture
def settings(tiny_checkpoint: Path, tmp_path: Path) -> Settings:
    settings = Settings(series_checkpoint=tiny_checkpoint, data_dir=tmp_path)
    migrate(settings.database)
    return settings


def load(settings: Settings) -> tuple[Registry, LiveVersion]:
    engine = open_database(settings.database)
    registry = Registry(Versions(engine, settings), Metrics())
    live = registry.load_sales(settings)
    engine.dispose()
    return registry, live


def test_the_same_content_keeps_its_number_and_other_content_gets_the_next(
    settings: Settings, tmp_path: Path
) -> None:
    other = save_random(tmp_path / "other", "tiny", seed=1)
    changed = settings.model_copy(update={"series_checkpoint": other})
    numbers = [load(one)[1].version for one in (settings, settings, changed, settings)]
    assert numbers == [1, 1, 2, 1]


def test_aliases_and_numbers_lead_to_the_version(settings: Settings) -> None:
    registry, live = load(settings)
    assert registry.live("sales") is registry.live("sales", "1") is live
    assert registry.aliases("sales") == {"production": 1}


@pytest.mark.parametrize(
    ("name", "alias", "reason"),
    [("nothing", "production", "sales"), ("sales", "7", "loaded are production, 1")]
    + [
        ("sales", alias, "no version")
        for alias in ("staging", "", "١", "01", "0", "1" * 5000, "../1")
    ],
)
def test_what_is_not_there_is_told(settings: Settings, name: str, alias: str, reason: str) -> None:
    registry, _ = load(settings)
    with pytest.raises(NotFoundError, match=reason):
        registry.live(name, alias)


def test_a_checkpoint_that_cannot_serve_is_refused(settings: Settings, tmp_path: Path) -> None:
    broken = settings.model_copy(update={"series_checkpoint": tmp_path / "nowhere"})
    with pytest.raises(ConfigurationError, match=r"checkpoint is refused: .* does not exist"):
        load(broken)


def test_what_the_network_cannot_be_computed_in_is_refused(settings: Settings) -> None:
    impossible = settings.model_copy(update={"dtype": "int8", "runtime": "torch"})
    with pytest.raises(ConfigurationError, match="SHOPCAST_RUNTIME=onnx"):
        load(impossible)


def test_another_runtime_is_the_same_version_by_another_fingerprint(settings: Settings) -> None:
    loaded = [
        load(settings.model_copy(update={"device": "cpu", "runtime": runtime}))[1]
        for runtime in ("torch", "onnx", "auto")
    ]
    assert [each.version for each in loaded] == [1, 1, 1]
    assert [each.fingerprint == loaded[1].fingerprint for each in loaded] == [False, True, True]


def test_a_network_of_customers_is_a_model_of_its_own(
    settings: Settings, tiny_events_checkpoint: Path
) -> None:
    with_events = settings.model_copy(update={"purchase_checkpoint": tiny_events_checkpoint})
    engine = open_database(settings.database)
    registry = Registry(Versions(engine, settings), Metrics())
    registry.load_sales(settings)
    live = registry.load_purchase(with_events)
    engine.dispose()
    assert live is registry.live("purchase")
    assert (live.name, live.version) == ("purchase", 1)
    assert live.description.checkpoint == "tiny-events"
    assert registry.names() == ["sales", "purchase"]


def test_int8_is_of_series_alone(settings: Settings, tiny_events_checkpoint: Path) -> None:
    updates = {"dtype": "int8", "runtime": "onnx", "device": "cpu"}
    int8 = settings.model_copy(update=updates | {"purchase_checkpoint": tiny_events_checkpoint})
    engine = open_database(int8.database)
    live = Registry(Versions(engine, int8), Metrics()).load_purchase(int8)
    engine.dispose()
    assert live.description.dtype == "float32"


def test_a_checkpoint_of_customers_that_cannot_serve_is_refused(
    settings: Settings, tiny_checkpoint: Path, tmp_path: Path
) -> None:
    engine = open_database(settings.database)
    registry = Registry(Versions(engine, settings), Metrics())
    for broken in (tmp_path / "nowhere", tiny_checkpoint):
        wrong = settings.model_copy(update={"purchase_checkpoint": broken})
        with pytest.raises(ConfigurationError, match="the purchase checkpoint is refused: "):
            registry.load_purchase(wrong)
    engine.dispose()


def test_a_database_without_tables_says_how_to_get_them(
    tiny_checkpoint: Path, tmp_path: Path
) -> None:
    settings = Settings(series_checkpoint=tiny_checkpoint, data_dir=tmp_path / "fresh")
    with pytest.raises(ConfigurationError, match="shopcast migrate"):
        load(settings)


def test_an_unknown_database_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="SHOPCAST_DATABASE_URL"):
        open_database("nonsense")


def test_migrating_twice_changes_nothing(settings: Settings) -> None:
    load(settings)
    migrate(settings.database)
    assert load(settings)[1].version == 1


def test_what_is_asked_for_is_told_in_short(settings: Settings) -> None:
    registry, _ = load(settings)
    for name, alias in (("x" * 1_000_000, "production"), ("sales", "x" * 1_000_000)):
        with pytest.raises(NotFoundError) as caught:
            registry.live(name, alias)
        assert len(str(caught.value)) < 200
