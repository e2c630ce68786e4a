"""A search finds settings no worse than those it began with, and goes on where it was."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from models.base import ModelError
from models.search import SearchProgress, SearchSettings, search
from models.series import SeriesNetwork
from tests.models.test_train import PLAN, QUICK, shop

if TYPE_CHECKING:
    from pathlib import Path

TRAIN = replace(QUICK, steps=3, look_every=1)


def test_a_search_that_was_killed_goes_on(tiny_checkpoint: Path, tmp_path: Path) -> None:
    parts = (tiny_checkpoint, shop(), PLAN, tmp_path / "out")
    seen: list[int] = []

    def stop(progress: SearchProgress) -> None:
        seen.append(progress.trial)
        if progress.trial == 1:
            raise KeyboardInterrupt

    settings = SearchSettings(trials=3)
    state = tmp_path / "state"
    with pytest.raises(KeyboardInterrupt):
        search(*parts, state=state, settings=settings, train=TRAIN, told=stop)
    assert not (tmp_path / "out").exists()
    begun = len(seen)
    found = search(
        *parts, state=state, settings=settings, train=TRAIN, told=lambda p: seen.append(p.trial)
    )
    assert 0 not in seen[begun:]  # the first trial had ended
    assert found.finished + found.pruned == 3
    assert set(found.chosen) == {"learning_rate", "steps", "rank"}
    assert found.trained.scores["tuned"] <= found.trained.scores["zero_shot"]
    SeriesNetwork.load(tmp_path / "out", base=tiny_checkpoint)


@pytest.mark.parametrize(
    ("settings", "message"),
    [({"trials": 0}, "trials must be at least 1"), ({"budget_s": 0.0}, "budget_s must be above 0")],
)
def test_an_empty_search_is_refused(settings: dict[str, float], message: str) -> None:
    with pytest.raises(ModelError, match=message):
        SearchSettings(**settings)  # type: ignore[arg-type]
