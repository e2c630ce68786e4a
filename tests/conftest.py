"""Small real things that tests share: a tiny network with random weights, made once."""

from pathlib import Path

import pytest

from models.checkpoint import save_random
from models.events import EventsConfig, new_events_model
from models.series import SeriesNetwork


@pytest.fixture(scope="session")
def tiny_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with a Chronos-2 checkpoint: context 256, 64 periods in one pass."""
    return save_random(tmp_path_factory.mktemp("checkpoints") / "tiny", "tiny")


@pytest.fixture(scope="session")
def tiny_network(tiny_checkpoint: Path) -> SeriesNetwork:
    return SeriesNetwork.load(tiny_checkpoint, device="cpu")


@pytest.fixture(scope="session")
def tiny_events_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with an events network: one layer, 16 events read."""
    directory = tmp_path_factory.mktemp("checkpoints") / "tiny-events"
    config = EventsConfig(
        hidden_size=32,
        layers=1,
        heads=2,
        intermediate_size=32,
        query_width=32,
        shop_width=16,
        thing_width=8,
        length=16,
    )
    new_events_model(config, seed=0).save_pretrained(directory)
    return directory
