"""A search finds settings no worse than those it began with, and goes on where it was."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from models.base import ModelError
from models.events import EventsNetwork
from models.search import SearchProgress, SearchSettings, Tune, search
from models.series import SeriesNetwork
from models.train import fine_tune
from models.train_events import EventsTrained
from models.train_events import fine_tune as fine_tune_events
from models.tuning import EventsTrainSettings, Trained, TrainSettings
from tests.models import test_train_events as customers
from tests.models.test_train import PLAN, QUICK, shop

if TYPE_CHECKING:
    from pathlib import Path

TRAIN = replace(QUICK, steps=3, look_every=1)


def tune_of(base: Path) -> Tune[TrainSettings, Trained]:
    def tune(chosen: TrainSettings, out: Path, state: Path, told: Any) -> Trained:
        return fine_tune(base, shop(), PLAN, out, state=state, settings=chosen, told=told)

    return tune


def test_a_search_that_was_killed_goes_on(tiny_checkpoint: Path, tmp_path: Path) -> None:
    tune, out = tune_of(tiny_checkpoint), tmp_path / "out"
    seen: list[int] = []

    def stop(progress: SearchProgress) -> None:
        seen.append(progress.trial)
        if progress.trial == 1:
            raise KeyboardInterrupt

    words: dict[str, Any] = {"state": tmp_path / "state", "settings": SearchSettings(trials=3)}
    words |= {"train": TRAIN, "kind": Trained}
    with pytest.raises(KeyboardInterrupt):
        search(tune, out, told=stop, **words)
    assert not out.exists()
    begun = len(seen)
    found = search(tune, out, told=lambda p: seen.append(p.trial), **words)
    assert 0 not in seen[begun:]  # the first trial had ended
    assert found.finished + found.pruned == 3
    assert set(found.chosen) == {"learning_rate", "steps", "rank"}
    assert found.trained.scores["tuned"] <= found.trained.scores["zero_shot"]
    SeriesNetwork.load(out, base=tiny_checkpoint)


def test_settings_for_customers_are_sought_and_killed_and_pruned_alike(
    tiny_events_checkpoint: Path, tmp_path: Path
) -> None:
    moment, out = customers.shop(), tmp_path / "out"
    asked: list[EventsTrainSettings] = []

    def tune(chosen: EventsTrainSettings, to: Path, state: Path, told: Any) -> EventsTrained:
        asked.append(chosen)
        return fine_tune_events(
            tiny_events_checkpoint, moment, to, state=state, settings=chosen, told=told
        )

    def stop(progress: SearchProgress) -> None:
        if progress.trial == 1 and progress.training.looked:
            raise KeyboardInterrupt

    train = replace(customers.QUICK, steps=3, looks=3, learning_rate=5e-3)
    words: dict[str, Any] = {"state": tmp_path / "state", "settings": SearchSettings(trials=5)}
    words |= {"train": train, "kind": EventsTrained}
    with pytest.raises(KeyboardInterrupt):
        search(tune, out, told=stop, **words)
    found = search(tune, out, **words)
    assert asked[0] == train
    assert asked[2] == asked[1]  # the one that was cut off is made again
    assert found.finished + found.pruned == 5
    assert set(found.chosen) == {"learning_rate", "steps", "rank", "cuts", "rows"}
    scores = found.trained.scores
    assert scores["tuned"] <= scores["zero_shot"]
    EventsNetwork.load(out, tiny_events_checkpoint, device="cpu")


def test_the_last_trial_has_the_time_that_is_left(tiny_checkpoint: Path, tmp_path: Path) -> None:
    budgets: list[float | None] = []

    def tune(chosen: TrainSettings, out: Path, state: Path, told: Any) -> Trained:
        budgets.append(chosen.budget_s)
        return tune_of(tiny_checkpoint)(chosen, out, state, told)

    settings = SearchSettings(trials=9, budget_s=0.01)
    search(tune, tmp_path / "out", state=tmp_path, train=TRAIN, kind=Trained, settings=settings)
    assert budgets == [0.01]


@pytest.mark.parametrize(
    ("settings", "message"),
    [({"trials": 0}, "trials must be at least 1"), ({"budget_s": 0.0}, "budget_s must be above 0")],
)
def test_an_empty_search_is_refused(settings: dict[str, float], message: str) -> None:
    with pytest.raises(ModelError, match=message):
        SearchSettings(**settings)  # type: ignore[arg-type]
