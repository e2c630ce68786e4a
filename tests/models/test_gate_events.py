"""The gate of the events network lets pass who surely foretells better, and says why."""

from __future__ import annotations

import dataclasses
import json
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import pytest
import torch

from models.base import PURCHASE, ModelError
from models.checkpoint import shipped
from models.cuts import Moment
from models.events import load_events
from models.gate import Rules
from models.gate_events import judge_purchases, simulated_shops
from models.stretch import BG_NBD, Stretch
from models.synth.customers import ShopSettings, simulate

if TYPE_CHECKING:
    from pathlib import Path

    from models.events import EventsModel

FIRST = pd.Timestamp("2026-05-21")


@pytest.fixture(scope="module")
def shop() -> Moment:
    settings = ShopSettings(customers=300, history=240, rate=1 / 25, gap_shape=5.0)
    made = simulate(np.random.default_rng(1), settings, labelled=1, futures=1)
    return Moment(made.population, 0.5, 0)


@pytest.fixture(scope="module")
def stretch(shop: Moment) -> Stretch:
    return Stretch.latest(shop, (20.0, 60.0), most=250)


@pytest.fixture(scope="module")
def good() -> EventsModel:
    return load_events(shipped("purchase")).model


@pytest.fixture(scope="module")
def poor(tiny_events_checkpoint: Path) -> EventsModel:
    return load_events(tiny_events_checkpoint).model


def test_a_better_one_passes_and_the_verdict_is_json(
    stretch: Stretch, good: EventsModel, poor: EventsModel
) -> None:
    told: list[str] = []
    verdict = judge_purchases(
        stretch,
        FIRST,
        {"production": poor, "candidate": good},
        segments={"0": "north", "1": "north"},
        on_done=told.append,
    )
    assert told == [BG_NBD, "production", "candidate"]
    assert verdict.accepted
    assert 0 < verdict.gain.low < verdict.gain.gain < verdict.gain.high < 1
    assert f"over {len(stretch.rows)} customers" in verdict.reasons[0]
    assert (verdict.series, verdict.first) == (len(stretch.rows), FIRST.isoformat())
    assert verdict.segments["north"].series == 2
    assert verdict.scores["candidate"].log_loss < verdict.scores[BG_NBD].log_loss
    assert set(verdict.scores["candidate"].horizons) == {"20", "60"}
    assert json.loads(json.dumps(dataclasses.asdict(verdict)))["accepted"] is True


def test_a_worse_one_is_turned_down_for_every_reason(
    stretch: Stretch, good: EventsModel, poor: EventsModel
) -> None:
    networks = {"production": good, "candidate": poor, "shipped": good}
    references = simulated_shops(shops=1, customers=200)
    verdict = judge_purchases(stretch, FIRST, networks, references=references)
    assert not verdict.accepted
    said = "; ".join(verdict.reasons)
    assert "does not beat the margin" in said
    assert "off what came" in said
    assert "on simulated shops the loss is" in said
    assert "shipped does better yet" in said
    assert f"{BG_NBD} does better yet" in said
    assert set(verdict.references) == {"simulated shops", "simulated shops with browsing"}


def test_that_others_do_better_keeps_nobody_from_getting_better(
    stretch: Stretch, good: EventsModel, poor: EventsModel
) -> None:
    networks = {"production": poor, "candidate": _worn(), "rival": good}
    verdict = judge_purchases(stretch, FIRST, networks, rules=Rules(coverage=1.0))
    assert verdict.accepted
    assert "rival does better yet" in verdict.reasons[-1]


def test_whoever_saw_the_stretch_is_not_judged(stretch: Stretch, poor: EventsModel) -> None:
    networks = {"production": poor, "candidate": poor}
    seen = {"candidate": "2026-05-21T00:00:00"}
    with pytest.raises(ModelError, match="it cannot be judged on them"):
        judge_purchases(stretch, FIRST, networks, trained_until=seen)


def test_the_stretch_is_the_same_for_all_and_shows_nothing_of_itself(shop: Moment) -> None:
    whole, some = (Stretch.latest(shop, (60.0,), most=most) for most in (10_000, 50))
    assert whole.before.crowd.days_ago.min() > 0
    assert len(whole.before.crowd) < len(shop.crowd)
    assert (len(whole.rows), len(some.rows)) == (len(whole.before.crowd), 50)
    np.testing.assert_array_equal(some.counts, whole.counts[some.rows])
    total = int((shop.crowd.days_ago[shop.crowd.types == PURCHASE] <= 60).sum())
    assert 0 < whole.counts.sum() < total
    assert whole.before.weekday == (shop.weekday - 60) % 7


@torch.no_grad()
def _worn() -> EventsModel:
    """The good one, a little off."""
    worn = load_events(shipped("purchase")).model
    worn.head[-1].bias.add_(0.3)  # type: ignore[operator]  # a Sequential
    return worn
