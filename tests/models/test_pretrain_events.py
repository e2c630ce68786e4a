"""A pretraining run of events learns, ends, goes on where it was, and leaves what serves."""

from __future__ import annotations

import dataclasses
import json
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from app.options import command_of
from models.base import PURCHASE, ModelError, PurchaseTask
from models.customers import customer_of
from models.events import Answer, EventsNetwork
from models.pretrain_events import (
    EventsProgress,
    PretrainEventsSettings,
    amount_loss,
    count_loss,
    draw_events_batch,
    first_loss,
    pretrain_events,
)

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def small(tmp_path: Path) -> Iterator[PretrainEventsSettings]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield PretrainEventsSettings(
        out=tmp_path / "checkpoint",
        run=tmp_path / "run",
        customers=60,
        shops=2,
        labelled=8,
        futures=2,
        warmup_steps=2,
        validation_shops=2,
        normalising_shops=2,
        hidden_size=16,
        layers=1,
        heads=2,
        intermediate_size=16,
        length=8,
        device="cpu",
    )
    torch.set_num_threads(before)


def test_a_step_has_its_own_shops_and_always_the_same(small: PretrainEventsSettings) -> None:
    first, again, other = (draw_events_batch(small, step) for step in (5, 5, 6))
    np.testing.assert_array_equal(first.tokens.query, again.tokens.query)
    np.testing.assert_array_equal(first.first, again.first)
    assert first.tokens.query.shape != other.tokens.query.shape or not np.array_equal(
        first.tokens.query, other.tokens.query
    )


def test_another_seed_draws_other_shops(small: PretrainEventsSettings) -> None:
    other = draw_events_batch(dataclasses.replace(small, seed=1), 5)
    first = draw_events_batch(small, 5)
    assert not np.array_equal(first.tokens.contexts, other.tokens.contexts)


def test_batches_are_finite_and_within_limits(small: PretrainEventsSettings) -> None:
    for step in range(6):
        batch = draw_events_batch(small, step)
        tokens = batch.tokens
        assert tokens.present.shape[1] <= small.length
        assert all(np.isfinite(part).all() for part in (tokens.query, tokens.events))
        np.testing.assert_allclose(batch.first.sum(axis=1), 1)
        assert (tokens.contexts[~tokens.known] == 0).all()


def test_a_run_ends_and_leaves_a_checkpoint_that_serves(small: PretrainEventsSettings) -> None:
    progress = pretrain_events(small)
    assert progress.customers >= small.customers
    network = EventsNetwork.load(small.out, device="cpu")
    types = np.array([PURCHASE], dtype=np.int8)
    customer = customer_of(np.array([5.0]), types, as_of=9.0)
    (answer,) = network.predict([PurchaseTask(customer, None, 0.1, 3, (30.0,), 90.0)])
    assert 0 < answer.probability[0] < 1
    said = json.loads((small.out / "config.json").read_text())["shopcast"]
    assert said == {
        "trained_customers": progress.customers,
        "trained_steps": progress.step,
        "seed": 0,
    }
    lines = (small.run / "curve.jsonl").read_text().splitlines()
    assert json.loads(lines[-1])["name"] == "loss/validation"


def test_a_run_goes_on_where_it_was(small: PretrainEventsSettings) -> None:
    whole = dataclasses.replace(small, customers=120)
    other = whole.out.parent / "whole"
    pretrain_events(dataclasses.replace(whole, out=other, run=other / "run", cooldown=1e-9))
    stopped = dataclasses.replace(whole, cooldown=1e-9)
    first = pretrain_events(dataclasses.replace(stopped, customers=60))
    assert pretrain_events(stopped).step > first.step
    resumed, straight = (load_file(d / "model.safetensors") for d in (stopped.out, other))
    for name, value in straight.items():
        torch.testing.assert_close(resumed[name], value, atol=1e-6, rtol=1e-4)


def test_another_architecture_is_refused(small: PretrainEventsSettings) -> None:
    pretrain_events(small)
    with pytest.raises(ModelError, match="another architecture"):
        pretrain_events(dataclasses.replace(small, hidden_size=32))


def test_a_run_may_begin_from_a_checkpoint(small: PretrainEventsSettings) -> None:
    pretrain_events(small)
    before = load_file(small.out / "model.safetensors")
    after = dataclasses.replace(
        small, init=small.out, out=small.out.parent / "next", run=small.run / "next", seed=1
    )
    pretrain_events(dataclasses.replace(after, customers=1, learning_rate=1e-9))
    for name, value in load_file(after.out / "model.safetensors").items():
        torch.testing.assert_close(value, before[name], atol=1e-6, rtol=1e-4)


def test_a_checkpoint_of_another_architecture_is_no_beginning(
    small: PretrainEventsSettings,
) -> None:
    pretrain_events(small)
    other = dataclasses.replace(small, init=small.out, run=small.run / "next", hidden_size=32)
    with pytest.raises(ModelError, match="another architecture"):
        pretrain_events(other)


def test_the_rate_follows_whichever_limit_is_nearer() -> None:
    settings = PretrainEventsSettings(out=None, run=None, customers=1000, budget_s=10.0)  # type: ignore[arg-type]
    assert EventsProgress(1, 500, 1.0).share(settings) == 0.5
    assert EventsProgress(1, 100, 9.0).share(settings) == 0.9


@pytest.mark.parametrize("changes", [{"shops": 0}, {"cooldown": 0.0}, {"futures": -1}])
def test_impossible_settings_are_refused(
    small: PretrainEventsSettings, changes: dict[str, int]
) -> None:
    with pytest.raises(ModelError):
        dataclasses.replace(small, **changes)  # type: ignore[arg-type]


def test_every_setting_is_an_option() -> None:
    assert command_of(PretrainEventsSettings, pretrain_events) is not None


# --- losses ----------------------------------------------------------------------------------


def answer(hazard: torch.Tensor, more: float = -3.0, amount: float = 0.0) -> Answer:
    rows = len(hazard)
    return Answer(hazard, torch.full_like(hazard, more), torch.full((rows,), amount))


def minimum(loss_of_shift: list[float]) -> int:
    return int(np.argmin(loss_of_shift))


def test_the_loss_of_timing_is_least_at_the_truth() -> None:
    hazard = torch.tensor([[-1.0, -2.0, 0.3]])
    truth = answer(hazard).log_first().exp()
    losses = [float(first_loss(answer(hazard + shift), truth)) for shift in (-0.4, 0.0, 0.4)]
    assert minimum(losses) == 1


def test_the_loss_of_counts_is_least_at_the_mean_and_zero_there() -> None:
    hazard = torch.tensor([[-1.0, -2.0, 0.3]])
    truth = answer(hazard, more=0.5).purchases()
    losses = [float(count_loss(answer(hazard, more=more), truth)) for more in (0.1, 0.5, 0.9)]
    assert minimum(losses) == 1
    assert losses[1] == pytest.approx(0, abs=1e-5)


def test_the_loss_of_amounts_is_least_at_the_mean_and_skips_the_unknown() -> None:
    hazard = torch.zeros(3, 2)
    amounts = torch.tensor([2.0, 4.0, float("nan")])
    losses = [
        float(amount_loss(answer(hazard, amount=float(np.log(mean))), amounts).sum())
        for mean in (2.5, 3.0, 3.5)
    ]
    assert minimum(losses) == 1
