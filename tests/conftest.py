"""Small real things that tests share: a tiny network with random weights, made once."""

from pathlib import Path

import pytest

from models.checkpoint import save_random
from models.series import SeriesNetwork


@pytest.fixture(scope="session")
def tiny_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with a Chronos-2 checkpoint: context 256, 64 periods in one pass."""
    return save_random(tmp_path_factory.mktemp("checkpoints") / "tiny", "tiny")


@pytest.fixture(scope="session")
def tiny_network(tiny_checkpoint: Path) -> SeriesNetwork:
    return SeriesNetwork.load(tiny_checkpoint, device="cpu")
