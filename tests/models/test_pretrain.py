"""A pretraining run learns, ends, goes on where it was, and leaves a checkpoint that serves."""

from __future__ import annotations

import dataclasses
import json
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from chronos.chronos2.model import Chronos2Model
from safetensors.torch import load_file

from models.base import ModelError, Series, SeriesTask
from models.checkpoint import load_series, save_random
from models.pretrain import (
    PretrainSettings,
    Progress,
    begin_from,
    build_network,
    draw_batch,
    main,
    pretrain,
    quantile_loss,
)
from models.series import SeriesNetwork

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def small(tmp_path: Path) -> Iterator[PretrainSettings]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield PretrainSettings(
        out=tmp_path / "checkpoint",
        run=tmp_path / "run",
        windows=500,
        batch_tokens=256,
        warmup_steps=2,
        d_model=32,
        d_ff=64,
        layers=1,
        heads=2,
        d_kv=16,
        context_length=128,
        device="cpu",
    )
    torch.set_num_threads(before)


def same(first: torch.Tensor, second: torch.Tensor) -> bool:
    return torch.equal(first.nan_to_num(nan=-7.0), second.nan_to_num(nan=-7.0))


def test_a_step_has_its_own_windows_and_always_the_same(small: PretrainSettings) -> None:
    first, again, other = (draw_batch(small, step) for step in (5, 5, 6))
    assert same(first.context, again.context)
    assert same(first.future, again.future)
    assert first.context.shape != other.context.shape or not same(first.context, other.context)


def test_another_seed_draws_other_windows(small: PretrainSettings) -> None:
    other = draw_batch(dataclasses.replace(small, seed=1), 5).context
    first = draw_batch(small, 5).context
    assert first.shape != other.shape or not same(first, other)


def test_batches_keep_to_the_limits(small: PretrainSettings) -> None:
    alone = 0
    for step in range(40):
        batch = draw_batch(small, step)
        alone += batch.alone
        assert 8 <= batch.context.shape[1] <= small.context_length
        assert batch.future.shape[1] % small.patch == 0
        assert batch.future.shape == batch.known.shape
        forecast = ~batch.guide.isnan()
        told = ~batch.known.isnan() & ~forecast
        assert not (~batch.future.isnan() & told).any(), "what is told is not scored"
        assert (batch.known == batch.guide)[forecast].all(), "a target knows its guide alone"
    assert 18 <= alone <= 38


def test_weights_start_with_unit_gain(small: PretrainSettings) -> None:
    torch.manual_seed(0)
    network = build_network(small)
    block = network.encoder.block[0]
    assert (block.layer[0].layer_norm.weight == 1).all()
    attention = block.layer[0].self_attention
    query, key = (part.weight.detach().std().item() for part in (attention.q, attention.k))
    assert query * small.d_kv**0.5 == pytest.approx(key, rel=0.2)
    assert network.chronos_config.use_reg_token


def test_rows_alone_need_no_group_attention(small: PretrainSettings) -> None:
    torch.manual_seed(0)
    network = build_network(small)
    batch = next(b for b in (draw_batch(small, i) for i in range(20)) if b.alone)
    quick = quantile_loss(network, batch)
    full = quantile_loss(network, dataclasses.replace(batch, group_rows=0))
    torch.testing.assert_close(quick, full, rtol=1e-4, atol=1e-5)


def test_training_lowers_the_loss_and_leaves_a_checkpoint_that_serves(
    small: PretrainSettings,
) -> None:
    settings = dataclasses.replace(small, windows=4_000, learning_rate=5e-3)
    torch.manual_seed(0)
    start = build_network(settings)
    held_out = [draw_batch(settings, 10**9 + i) for i in range(6)]
    before = sum(quantile_loss(start, batch).item() for batch in held_out)
    progress = pretrain(settings)
    assert progress.windows >= 4_000
    network = SeriesNetwork.load(settings.out)
    assert network.describe().seasonal_adjustment
    after = sum(quantile_loss(_loaded(settings), batch).item() for batch in held_out)
    assert after < 0.98 * before, "the guide is good from the start"
    past = 50 + np.arange(60.0)[None]
    forecast = network.predict([SeriesTask((Series(past),), 8, (0.1, 0.5, 0.9))])[0][0]
    assert np.isfinite(forecast.quantiles).all()


def _loaded(settings: PretrainSettings) -> Chronos2Model:
    network = build_network(settings)
    network.load_state_dict(load_file(settings.out / "model.safetensors"))
    return network


def test_the_checkpoint_says_what_it_is(small: PretrainSettings) -> None:
    progress = pretrain(small)
    config = json.loads((small.out / "config.json").read_text())
    assert config["shopcast"] == {
        "covariate_effects": True,
        "guide": True,
        "seasonal_adjustment": True,
        "seed": 0,
        "trained_steps": progress.step,
        "trained_windows": progress.windows,
    }
    weights = load_file(small.out / "model.safetensors")
    assert {weight.dtype for weight in weights.values()} == {torch.bfloat16}


def test_a_run_goes_on_where_it_was(small: PretrainSettings, tmp_path: Path) -> None:
    straight = dataclasses.replace(small, out=tmp_path / "straight", run=tmp_path / "straight-run")
    straight = dataclasses.replace(straight, cooldown=1e-6)
    broken = dataclasses.replace(straight, out=small.out, run=small.run)
    whole = pretrain(straight)
    pretrain(dataclasses.replace(broken, windows=200))
    resumed = pretrain(broken)
    assert (resumed.step, resumed.windows) == (whole.step, whole.windows)
    states = [load_file(s.run / "state.safetensors") for s in (straight, broken)]
    assert states[0].keys() == states[1].keys()
    for name, value in states[0].items():
        torch.testing.assert_close(value, states[1][name], rtol=1e-4, atol=1e-5)


def test_worker_processes_change_nothing(small: PretrainSettings, tmp_path: Path) -> None:
    few = dataclasses.replace(small, windows=200)
    pretrain(few)
    pretrain(dataclasses.replace(few, out=tmp_path / "b", run=tmp_path / "b-run", workers=1))
    weights = [load_file(d / "model.safetensors") for d in (few.out, tmp_path / "b")]
    for name, value in weights[0].items():
        torch.testing.assert_close(value, weights[1][name])


def test_another_architecture_is_refused(small: PretrainSettings) -> None:
    pretrain(dataclasses.replace(small, windows=100))
    with pytest.raises(ModelError, match="another architecture"):
        pretrain(dataclasses.replace(small, d_ff=96))


def test_a_run_may_begin_from_a_checkpoint(small: PretrainSettings, tmp_path: Path) -> None:
    pretrain(dataclasses.replace(small, windows=100))
    network = build_network(small)
    begin_from(network, small.out)
    stored = load_file(small.out / "model.safetensors")
    for name, value in network.named_parameters():
        torch.testing.assert_close(value, stored[name].float())
    plain = save_random(tmp_path / "unguided", "tiny")
    other = Chronos2Model(load_series(plain).model.config)
    before = other.output_patch_embedding.output_layer.weight.clone()
    begin_from(other, plain)
    assert same(other.output_patch_embedding.output_layer.weight, before), "it had no guide"


def test_what_stands_around_the_network_can_be_left_out(small: PretrainSettings) -> None:
    bare = dataclasses.replace(small, without="guide,covariate_effects", windows=100)
    assert draw_batch(bare, 3).guide.isnan().all()
    pretrain(bare)
    network = SeriesNetwork.load(bare.out).describe()
    assert (network.guided, network.covariate_effects) == (False, False)
    assert network.seasonal_adjustment


def test_the_curve_is_reported_where_it_is_asked_for(small: PretrainSettings) -> None:
    pretrain(dataclasses.replace(small, windows=3_000, save_every_s=0.0))
    assert list((small.run / "shopcast").glob("events.out.tfevents.*"))
    silent = dataclasses.replace(small, run=small.run / "silent", report_to="", windows=100)
    pretrain(silent)
    assert not (silent.run / "shopcast").exists()


def test_a_tracker_that_is_not_installed_is_named(small: PretrainSettings) -> None:
    with pytest.raises(ModelError, match="pip install wandb"):
        pretrain(dataclasses.replace(small, report_to="wandb"))


def test_a_time_budget_ends_the_run(small: PretrainSettings) -> None:
    assert Progress(active_s=30).share(dataclasses.replace(small, budget_s=20)) >= 1
    progress = pretrain(dataclasses.replace(small, windows=10**9, budget_s=0.5))
    assert progress.active_s < 10


@pytest.mark.parametrize(
    "wrong",
    [
        {"windows": 0},
        {"cooldown": 0.0},
        {"grouped_share": 2.0},
        {"without": "sense"},
        {"report_to": "paper"},
    ],
)
def test_settings_of_no_run_are_refused(small: PretrainSettings, wrong: dict[str, object]) -> None:
    with pytest.raises(ModelError, match="must"):
        dataclasses.replace(small, **wrong)  # type: ignore[arg-type]


def test_every_setting_is_an_option(small: PretrainSettings) -> None:
    names = ("windows", "batch_tokens", "d_model", "d_ff", "layers", "heads", "d_kv")
    options = [f"--{n.replace('_', '-')}={getattr(small, n)}" for n in names]
    main([f"--out={small.out}", f"--run={small.run}", "--budget-s=0.1", *options])
    assert (small.out / "config.json").exists()
