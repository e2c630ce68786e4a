"""Fine-tuning: it learns from what lies before the gate, is stopped, killed and goes on."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file

from models.backtest import Method, Plan, Record, network, run
from models.base import Covariate, ModelError, Series, SeriesTask
from models.bottleneck import width_of
from models.checkpoint import load_series
from models.examples import Examples, Shape, until
from models.lessons import Judge
from models.pretrain import arrange, quantile_loss
from models.series import SeriesNetwork
from models.train import Earlier, Trained, TrainProgress, TrainSettings, fine_tune
from models.tuning import METHODS

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from models.base import FloatArray

PLAN = Plan("W-SUN", horizon=8, origins=1)
QUICK = TrainSettings(
    rank=4,
    steps=8,
    rows=24,
    learning_rate=1e-2,
    validation=1,
    look_every=4,
    average=0.0,
    replay=0.0,
    report_to="",
)


def shop(count: int = 12, weeks: int = 90, seed: int = 0) -> list[Record]:
    """Articles whose sales double where a promotion is planned."""
    rng = np.random.default_rng(seed)
    times = pd.date_range("2024-01-07", periods=weeks, freq="W-SUN")
    records = []
    for number in range(count):
        planned = (rng.random(weeks) < 0.2).astype(np.float64)
        level = rng.uniform(5, 50)
        sold = rng.poisson(level * (1 + planned)).astype(np.float64)
        promotion = Covariate("promotion", planned, planned)
        records.append(Record(f"article {number}", times, sold, (promotion,)))
    return records


def unpromoted(seed: int = 0) -> list[Record]:
    """The shop without what is known of its promotions."""
    return [replace(one, covariates=()) for one in shop(seed=seed)]


@pytest.fixture(scope="module")
def around_checkpoint(tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny network with everything around it that the shipped one has."""
    directory = tmp_path_factory.mktemp("around") / "tiny"
    directory.mkdir()
    config = json.loads((tiny_checkpoint / "config.json").read_text())
    config["shopcast"] = {"seasonal_adjustment": True, "covariate_effects": True, "guide": True}
    (directory / "config.json").write_text(json.dumps(config))
    weights = (tiny_checkpoint / "model.safetensors").read_bytes()
    (directory / "model.safetensors").write_bytes(weights)
    return directory


def shape_of(directory: Path) -> Shape:
    checkpoint = load_series(directory)
    return Shape(16, 256, 1, dict.fromkeys(checkpoint.options, True))


def validation_score(directory: Path, base: Path, records: list[Record]) -> float:
    answering = SeriesNetwork.load(directory, base=base, dtype="float32", runtime="torch")
    before = until(records, PLAN.offsets[0])
    found = run(before, [Method("tuned", network(answering))], PLAN)
    return float(np.mean([score.scaled_pinball for score in found.scores]))


def test_an_example_is_what_serving_gives_the_network(around_checkpoint: Path) -> None:
    records = [replace(one, target=1e9 * one.target) for one in shop(1)]
    examples = Examples(records, "W-SUN", 8, shape_of(around_checkpoint))
    batch = examples.draw(np.random.default_rng(0), 1)
    cut = int((~torch.isnan(batch.context[0])).sum())
    plan = replace(PLAN, horizon=8)
    answering = SeriesNetwork.load(around_checkpoint, dtype="float32", runtime="torch")
    seen: list[tuple[torch.Tensor, torch.Tensor]] = []
    forward = answering._forward

    def spy(context: torch.Tensor, future: torch.Tensor, **rest: object) -> torch.Tensor:
        seen.append((context, future))
        return forward(context, future, **rest)

    answering._forward = spy
    short = [until(records, 90 - cut - 8)[0]]
    run(short, [Method("served", network(answering))], plan)
    model = load_series(around_checkpoint).model
    context, scale = model.instance_norm(batch.context)
    known, _ = model.instance_norm(batch.known, scale)
    served, ahead = seen[0]
    torch.testing.assert_close(context, served[:, -context.shape[1] :], equal_nan=True)
    torch.testing.assert_close(known[:, :8], ahead[:, :8], equal_nan=True)


def test_a_horizon_beyond_one_pass_is_learned_as_far_as_that(around_checkpoint: Path) -> None:
    examples = Examples(shop(1), "W-SUN", 40, shape_of(around_checkpoint))
    assert examples.draw(np.random.default_rng(0), 8).future.shape[1] == 16


def test_groups_that_are_alike_look_no_further(around_checkpoint: Path) -> None:
    examples = Examples(shop(), "W-SUN", 8, shape_of(around_checkpoint))
    batch = examples.draw(np.random.default_rng(0), 16)
    assert batch.group_rows == 2
    model = load_series(around_checkpoint).model
    arrange(model)
    one = quantile_loss(model, batch)
    torch.testing.assert_close(one, quantile_loss(model, replace(batch, group_rows=0)))


@pytest.mark.parametrize("method", METHODS)
def test_every_method_learns_and_what_it_writes_serves(
    method: str, around_checkpoint: Path, tmp_path: Path
) -> None:
    records, out = unpromoted(), tmp_path / "out"
    settings = replace(QUICK, method=method)
    trained = fine_tune(
        around_checkpoint, records, PLAN, out, state=tmp_path / "state", settings=settings
    )
    assert trained.scores["tuned"] < trained.scores["zero_shot"]
    assert trained.steps > 0
    assert (trained.trained < trained.parameters) == (method != "full")
    assert trained.whole == (method not in {"lora", "ia3", "adapter"})
    again = validation_score(out, around_checkpoint, records)
    assert again == pytest.approx(trained.scores["tuned"], rel=1e-4)


@pytest.mark.parametrize(
    "choice",
    [
        {"loss": "mse", "optimizer": "adafactor", "schedule": "constant"},
        {"loss": "huber", "space": "values", "optimizer": "sgd", "schedule": "linear"},
        {"loss": "mae", "dtype": "bfloat16", "dropout": 0.1, "context": 32, "report_to": "auto"},
    ],
)
def test_every_choice_can_be_trained_with(
    choice: dict[str, Any], around_checkpoint: Path, tmp_path: Path
) -> None:
    settings = replace(QUICK, steps=2, look_every=2, **choice)
    state = tmp_path / "state"
    trained = fine_tune(
        around_checkpoint, shop(), PLAN, tmp_path / "out", state=state, settings=settings
    )
    assert trained.steps_done == 2
    assert np.isfinite(trained.scores["tuned"])
    curves = list(state.rglob("events.out.tfevents.*"))
    assert bool(curves) == ("report_to" in choice)


def test_what_forgets_too_much_is_not_offered(
    around_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def tuned(name: str) -> Trained:
        out, state = tmp_path / name, tmp_path / f"{name}-state"
        return fine_tune(around_checkpoint, shop(), PLAN, out, state=state, settings=QUICK)

    assert tuned("some").steps > 0
    monkeypatch.setattr("models.train.REMEMBERED", -1.0)  # whatever it is
    none = tuned("none")
    assert (none.steps, none.around) == (0, ())
    assert none.scores["tuned"] == none.scores["zero_shot"]


def test_the_gate_s_windows_are_never_seen(around_checkpoint: Path, tmp_path: Path) -> None:
    records, written = shop(), []
    other = [replace(one, target=one.target.copy()) for one in records]
    for one in other:
        one.target[-8:] *= 100
    for name, known in (("one", records), ("other", other)):
        out = tmp_path / name
        fine_tune(around_checkpoint, known, PLAN, out, state=tmp_path / f"s {name}", settings=QUICK)
        written.append((out / "adapter_model.safetensors").read_bytes())
    assert written[0] == written[1]


def stop_at(step: int) -> Callable[[TrainProgress], None]:
    def told(progress: TrainProgress) -> None:
        if progress.step == step:
            raise KeyboardInterrupt

    return told


@pytest.mark.parametrize("method", ["lora", "full", "adapter"])
def test_a_run_that_was_killed_ends_as_if_it_had_not_been(
    method: str, around_checkpoint: Path, tmp_path: Path
) -> None:
    settings = replace(QUICK, method=method, save_every_s=1e-9)
    parts = (around_checkpoint, shop(), PLAN)
    whole = fine_tune(*parts, tmp_path / "one", state=tmp_path / "a", settings=settings)
    out, state, steps = tmp_path / "two", tmp_path / "b", []
    with pytest.raises(KeyboardInterrupt):
        fine_tune(*parts, out, state=state, settings=settings, told=stop_at(6))
    assert not out.exists()
    (state / "part").mkdir()  # half a state, as a kill leaves it
    resumed = fine_tune(
        *parts, out, state=state, settings=settings, told=lambda p: steps.append(p.step)
    )
    assert min(steps) >= 5
    assert resumed.scores == pytest.approx(whole.scores, rel=1e-6)
    name = "model.safetensors" if method == "full" else "adapter_model.safetensors"
    assert len(list(state.glob("checkpoint-*"))) == 1
    assert (out / name).read_bytes() == (tmp_path / "one" / name).read_bytes()


def test_a_state_of_another_run_is_refused(around_checkpoint: Path, tmp_path: Path) -> None:
    state, out = tmp_path / "state", tmp_path / "out"
    with pytest.raises(KeyboardInterrupt):
        fine_tune(
            around_checkpoint, shop(), PLAN, out, state=state, settings=QUICK, told=stop_at(1)
        )
    with pytest.raises(ModelError, match="state of another run"):
        fine_tune(around_checkpoint, shop(seed=1), PLAN, out, state=state, settings=QUICK)


def test_a_budget_of_time_is_honoured(around_checkpoint: Path, tmp_path: Path) -> None:
    hurried = replace(QUICK, steps=10_000, budget_s=1.0, patience=1000, look_every=10_000)
    trained = fine_tune(
        around_checkpoint, shop(), PLAN, tmp_path / "a", state=tmp_path / "b", settings=hurried
    )
    assert trained.steps_done < 10_000
    assert trained.seconds < 60


def test_a_budget_of_memory_is_honoured(around_checkpoint: Path, tmp_path: Path) -> None:
    told: list[int] = []
    out, state = tmp_path / "out", tmp_path / "state"
    small = replace(QUICK, steps=2, look_every=2, memory_bytes=1_000_000)
    fine_tune(
        around_checkpoint,
        shop(),
        PLAN,
        out,
        state=state,
        settings=small,
        told=lambda progress: told.append(progress.step),
    )
    assert told.count(1) > 4  # a step came in parts
    none = replace(QUICK, memory_bytes=1000)
    with pytest.raises(ModelError, match="memory_bytes 1000 is too little"):
        fine_tune(around_checkpoint, shop(), PLAN, out, state=tmp_path / "other", settings=none)


def test_other_data_is_replayed(around_checkpoint: Path, tmp_path: Path) -> None:
    settings = replace(QUICK, replay=0.5, steps=4, augment=("crop", "gaps", "covariates", "noise"))
    earlier = Earlier(shop(seed=5), "W-SUN", 8)
    for number, more in enumerate(((), (earlier,))):
        trained = fine_tune(
            around_checkpoint,
            shop(),
            PLAN,
            tmp_path / f"out{number}",
            state=tmp_path / f"state{number}",
            settings=settings,
            earlier=more,
        )
        assert trained.steps_done == 4


@pytest.mark.parametrize(
    ("before", "method"), [("lora", "lora"), ("adapter", "adapter"), ("adapter", "lora")]
)
def test_an_adapter_is_tuned_further_as_a_whole(
    before: str, method: str, around_checkpoint: Path, tmp_path: Path
) -> None:
    first, second, records = tmp_path / "first", tmp_path / "second", unpromoted(seed=2)
    fine_tune(
        around_checkpoint,
        unpromoted(),
        PLAN,
        first,
        state=tmp_path / "a",
        settings=replace(QUICK, method=before),
    )
    trained = fine_tune(
        first,
        records,
        PLAN,
        second,
        state=tmp_path / "b",
        settings=replace(QUICK, method=method, rank=2),
        base_of=around_checkpoint,
    )
    assert trained.whole
    assert trained.scores["tuned"] < trained.scores["zero_shot"]
    assert width_of(load_series(second).model) == (4 if before == "adapter" else None)
    again = validation_score(second, around_checkpoint, records)
    assert again == pytest.approx(trained.scores["tuned"], rel=1e-4)


def test_bottlenecks_begin_as_nothing_and_are_small(
    around_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("models.lessons.RECALLED", ())  # nothing else is learned
    settings = replace(QUICK, method="adapter", steps=1, look_every=1, learning_rate=1e-12)
    out = tmp_path / "out"
    parts = (around_checkpoint, unpromoted(), PLAN, out)
    trained = fine_tune(*parts, state=tmp_path / "state", settings=settings)
    assert trained.scores["tuned"] == pytest.approx(trained.scores["zero_shot"], rel=1e-3)
    assert trained.trained == 6 * (2 * 32 * 4 + 4 + 32)  # parts × (down and up, their biases)
    assert set(load_file(out / "adapter_model.safetensors")) == {
        f"encoder.block.{block}.layer.{layer}.dropout.{kind}.{part}"
        for block in range(2)
        for layer in range(3)
        for kind in ("down", "up")
        for part in ("weight", "bias")
    }


def config_of(directory: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((directory / "config.json").read_text())["shopcast"]
    return found


def test_what_a_promotion_does_to_all_articles_is_learned(
    around_checkpoint: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    parts = (around_checkpoint, shop(24), PLAN, out)
    trained = fine_tune(*parts, state=tmp_path / "state", settings=QUICK)
    assert "pooled_effects" in trained.around
    promotion = config_of(out)["pooled_effects"]["promotion"]
    assert trained.effects == {"promotion": promotion["multiplies"]}
    assert promotion["multiplies"] in (
        pytest.approx(np.log(2), rel=0.15),
        pytest.approx(np.log(2) / 2, rel=0.15),
    )
    never, planned = np.zeros(40), np.array([1.0] + [0.0] * 7)
    sold = np.random.default_rng(0).poisson(30, (1, 40)).astype(np.float64)
    new = Series(sold, (Covariate("promotion", never, planned),), (52,), non_negative=True)
    before, after = (
        SeriesNetwork.load(directory, base=base, dtype="float32", runtime="torch")
        .predict([SeriesTask((new,), 8, (0.5,))])[0][0]
        .quantiles[0, 0]
        for directory, base in ((around_checkpoint, None), (out, around_checkpoint))
    )
    assert before[0] / before[1] < 1.2, "nothing is known of its promotions"
    assert after[0] / after[1] > 1.3


def test_effects_that_foretell_nothing_are_left_out(
    around_checkpoint: Path, tmp_path: Path
) -> None:
    """Promotions doubled sales for a year, and have halved them for the last half."""
    records = shop(24, weeks=120)
    for one in records:
        planned = one.covariates[0].past
        one.target[:] *= np.where(np.arange(120) < 84, 1.0, np.where(planned > 0, 0.25, 1.0))
    settings = replace(QUICK, validation=3, steps=1)
    out = tmp_path / "out"
    parts = (around_checkpoint, records, PLAN, out)
    trained = fine_tune(*parts, state=tmp_path / "state", settings=settings)
    assert "covariate_effects" in trained.around
    assert config_of(out)["covariate_effects"] is False


@pytest.mark.parametrize(
    ("weeks", "asked", "windows"), [(200, 4, 4), (90, 4, 3), (62, 4, 2), (24, 4, 1), (90, 2, 2)]
)
def test_short_histories_are_judged_by_fewer_windows(
    weeks: int, asked: int, windows: int, around_checkpoint: Path
) -> None:
    records = until(shop(weeks=weeks), PLAN.offsets[0])
    settings = replace(QUICK, validation=asked)
    assert Judge(records, PLAN, settings, load_series(around_checkpoint)).plan.origins == windows


def test_one_series_does_not_decide_for_all(around_checkpoint: Path) -> None:
    records, checkpoint = shop(), load_series(around_checkpoint)
    records[0].target[-8:] *= 1000
    judge = Judge(records, PLAN, QUICK, checkpoint)
    losses = judge.losses(checkpoint.model, dict(checkpoint.options), lambda: None)
    others = [loss for item, loss in losses.items() if item != "article 0"]
    assert losses["article 0"] < 3 * np.median(others)


def unseen(values: FloatArray, start: int, end: int) -> FloatArray:
    places = np.arange(len(values))
    return np.where((places >= start) & (places < end), np.nan, values)


@pytest.mark.parametrize(
    ("records", "message"),
    [
        (shop(weeks=8), "before the 8 periods held out for the gate"),
        (shop(weeks=14), "before what is held out"),
        (
            [replace(one, target=unseen(one.target, 74, 82)) for one in shop()],
            "validation before the gate's windows: no series changes before",
        ),
        ([replace(one, target=np.full(90, 3.0)) for one in shop()], "no series changes"),
    ],
)
def test_too_little_to_learn_from_is_refused(
    records: list[Record], message: str, around_checkpoint: Path, tmp_path: Path
) -> None:
    with pytest.raises(ModelError, match=message):
        fine_tune(
            around_checkpoint, records, PLAN, tmp_path / "o", state=tmp_path / "s", settings=QUICK
        )
