"""Fine-tuning learns a shop from its past alone, and a gate decides."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from torch import Tensor

from models.base import FloatArray, ModelError
from models.checkpoint import shipped
from models.customers import context_of
from models.cuts import Moment, cut_at
from models.events import Answer, EventsModel, EventsNetwork, load_events
from models.stretch import Stretch, curves_of, tokens_at
from models.synth.customers import ShopSettings, simulate
from models.train_events import _examples, _Tuner, anchor_loss, fine_tune, survival_loss
from models.tuning import EventsTrainSettings
from tests.models.test_events import save_tiny

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from models.tuning import TrainProgress

#: Without an anchor, as a network of random weights has no level that is worth holding.
QUICK = EventsTrainSettings(
    rank=2,
    steps=12,
    looks=2,
    rows=48,
    cuts=3,
    judged=100,
    learning_rate=0.02,
    anchor=0.0,
    replay=0.0,
    report_to="",
)


def shop(customers: int = 240, seed: int = 0) -> Moment:
    settings = ShopSettings(customers=customers, history=240, rate=1 / 20, week=0.3)
    made = simulate(np.random.default_rng(seed), settings, labelled=1, futures=1)
    return Moment(made.population, 0.3, 2)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny(tmp_path_factory.mktemp("base") / "tiny")


def test_a_network_learns_who_buys_more(base: Path, tmp_path: Path) -> None:
    told: list[int] = []
    result = fine_tune(
        base,
        shop(),
        tmp_path / "out",
        state=tmp_path / "state",
        settings=QUICK,
        told=lambda progress: told.append(progress.step),
    )
    steps = [step for step, before in pairwise([*told, 0]) if step != before]
    assert steps == [*range(1, 13 + result.steps)]
    assert result.scores["tuned"] < result.scores["zero_shot"] - 0.003
    assert result.better == (result.scores["tuned"] < result.scores["bg_nbd"])
    assert result.trained < result.parameters
    tuned = EventsNetwork.load(tmp_path / "out", base, device="cpu")
    assert tuned.fingerprint != EventsNetwork.load(base, device="cpu").fingerprint


def test_one_that_learns_nothing_of_use_stays_as_it_was(base: Path, tmp_path: Path) -> None:
    wild = replace(QUICK, learning_rate=30.0, steps=2, looks=1)
    result = fine_tune(base, shop(), tmp_path / "out", state=tmp_path / "state", settings=wild)
    assert (result.steps, result.steps_done) == (0, 2)
    stretch = Stretch.latest(shop(), (20.0, 60.0), most=100)
    before, after = (
        stretch.foretold("", load_events(path, base=base).model).probability
        for path in (base, tmp_path / "out")
    )
    np.testing.assert_allclose(after, before, atol=1e-6)


@pytest.mark.parametrize("method", ["full", "head"])
def test_other_methods_make_a_network_of_their_own(method: str, base: Path, tmp_path: Path) -> None:
    settings = replace(QUICK, method=method)
    result = fine_tune(base, shop(), tmp_path / "out", state=tmp_path / "state", settings=settings)
    assert result.whole
    assert (result.trained == result.parameters) == (method == "full")
    assert result.scores["tuned"] < result.scores["zero_shot"]
    tuned, before = (load_events(path).model.state_dict() for path in (tmp_path / "out", base))
    moved = {name.split(".")[0] for name, each in tuned.items() if not each.equal(before[name])}
    assert "head" in moved
    assert ("encoder" in moved) == (method == "full")


def test_what_cannot_be_trained_is_told() -> None:
    with pytest.raises(ModelError, match=r"prefix is not possible for this network.*lora, full, h"):
        EventsTrainSettings(method="prefix")
    with pytest.raises(ModelError, match=r"adapter is not possible .* no place behind their feed"):
        EventsTrainSettings(method="adapter")
    with pytest.raises(ModelError, match=r"method must be one of lora, full, .*, not 'vera'"):
        EventsTrainSettings(method="vera")
    with pytest.raises(ModelError, match="loss must be one of partial, hazard, not 'mse'"):
        EventsTrainSettings(loss="mse")
    with pytest.raises(ModelError, match="augment must be one of shorten, amounts, not 'crop'"):
        EventsTrainSettings(augment=("crop",))


@pytest.mark.parametrize(
    "choice",
    [
        {"method": "ia3", "loss": "hazard", "optimizer": "adafactor", "schedule": "cosine"},
        {"method": "adalora", "schedule": "linear", "augment": ("shorten", "amounts")},
        {"method": "full", "optimizer": "sgd", "dtype": "bfloat16", "dropout": 0.1},
        {"memory_bytes": 8_000_000, "report_to": "auto"},
    ],
)
def test_every_choice_can_be_trained_with(
    choice: dict[str, Any], base: Path, tmp_path: Path
) -> None:
    settings = replace(QUICK, steps=4, learning_rate=None, **choice)
    logs = tmp_path / "logs"
    made = [
        fine_tune(
            base, shop(), tmp_path / f"{n}", state=tmp_path / f"s{n}", settings=each, logs=logs
        )
        for n, each in enumerate((settings, replace(settings, seed=1)))
    ]
    assert all(np.isfinite(each.scores["tuned"]) for each in made)
    assert made[0].scores != made[1].scores
    assert made[0].whole == (settings.method in {"adalora", "full"})
    again = EventsNetwork.load(tmp_path / "0", None if made[0].whole else base, device="cpu")
    assert again.fingerprint
    assert bool(list(logs.rglob("events.out.tfevents.*"))) == (settings.report_to == "auto")


def test_too_little_memory_is_told(base: Path, tmp_path: Path) -> None:
    settings = replace(QUICK, memory_bytes=1000)
    with pytest.raises(ModelError, match="memory_bytes 1000 is too little: weights take"):
        fine_tune(base, shop(), tmp_path / "out", state=tmp_path / "state", settings=settings)


def test_the_likelihood_of_hazards_is_that_of_the_level_too() -> None:
    edges = torch.tensor([0.0, 10.0, 20.0])
    gained = torch.tensor([[0.2, 0.4], [0.6, 0.1]])
    first = torch.tensor([15.0, torch.inf])
    loss = survival_loss(answer_of(gained), first, watched=18.0, edges=edges, level=True)
    exposed = 0.2 + 0.4 * 0.5 + 0.6 + 0.1 * 0.8
    assert float(loss) == pytest.approx(exposed - np.log(0.4 / 10), rel=1e-5)


def test_whoever_asks_may_stop_it(base: Path, tmp_path: Path) -> None:
    parts = (base, shop(), tmp_path / "out")
    with pytest.raises(KeyboardInterrupt):
        fine_tune(*parts, state=tmp_path / "state", settings=QUICK, told=stop_at(2))


def stop_at(step: int) -> Callable[[TrainProgress], None]:
    """Stop when a step is told: up to the 12th of them is chosen how many learn everything."""

    def stop(progress: TrainProgress) -> None:
        if progress.step == step and not progress.looked:
            raise KeyboardInterrupt

    return stop


@pytest.mark.parametrize(("step", "method"), [(4, "lora"), (16, "lora"), (4, "adalora")])
def test_a_run_that_was_killed_ends_as_if_it_had_not_been(
    step: int, method: str, base: Path, tmp_path: Path
) -> None:
    settings = replace(QUICK, method=method, save_every_s=1e-9)
    whole = fine_tune(base, shop(), tmp_path / "one", state=tmp_path / "a", settings=settings)
    parts, state = (base, shop(), tmp_path / "two"), tmp_path / "b"
    with pytest.raises(KeyboardInterrupt):
        fine_tune(*parts, state=state, settings=settings, told=stop_at(step))
    assert not (tmp_path / "two").exists()
    shares: list[float] = []
    resumed = fine_tune(
        *parts, state=state, settings=settings, told=lambda p: shares.append(p.share)
    )
    assert shares[0] > (0.1 if step < 12 else 0.5)
    assert resumed.scores == pytest.approx(whole.scores)
    name = "model.safetensors" if whole.whole else "adapter_model.safetensors"
    assert (tmp_path / "two" / name).read_bytes() == (tmp_path / "one" / name).read_bytes()
    with pytest.raises(ModelError, match="state of another run"):
        fine_tune(base, shop(seed=3), tmp_path / "three", state=state, settings=settings)


def test_an_adapter_is_tuned_further_as_a_whole(base: Path, tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    fine_tune(base, shop(), first, state=tmp_path / "a", settings=QUICK)
    again = fine_tune(
        first, shop(seed=4), second, state=tmp_path / "b", settings=QUICK, base_of=base
    )
    assert again.whole
    EventsNetwork.load(second, device="cpu")


def test_one_shop_after_another_is_not_forgotten_where_it_is_replayed(tmp_path: Path) -> None:
    settings = EventsTrainSettings(
        method="full",
        steps=16,
        looks=2,
        rows=64,
        cuts=4,
        judged=200,
        learning_rate=1e-3,
        anchor=0.0,
    )
    first, second = (
        Stretch.latest(regular(seed, rate, shape), (20.0, 60.0), most=300)
        for seed, rate, shape in ((0, 1 / 25, 5.0), (2, 1 / 50, 6.0))
    )

    def tuned(name: str, base: Path, shop: Moment, *earlier: Moment, **words: float | int) -> Path:
        out, chosen = tmp_path / name, replace(settings, **words)  # type: ignore[arg-type]
        state = tmp_path / f"{name}-state"
        parts: dict[str, Any] = {"settings": chosen, "earlier": earlier, "threads": 1}
        made = fine_tune(base, shop, out, state=state, **parts)
        assert made.steps > 0
        return out

    def loss(directory: Path) -> float:
        return float(first.losses(first.foretold("", load_events(directory).model)).mean())

    known: dict[str, Any] = {"learning_rate": 5e-4, "steps": 8, "looks": 1, "replay": 0.0}
    before = tuned("first", shipped("purchase"), first.before, **known)
    forgetting = tuned("forgetting", before, second.before, replay=0.0)
    keeping = tuned("keeping", before, second.before, first.before, replay=0.4)
    assert loss(keeping) < 1.02 * loss(before)
    assert loss(keeping) < loss(forgetting)


def regular(seed: int, rate: float, shape: float) -> Moment:
    """Customers who come back about as regularly as clockwork."""
    settings = ShopSettings(customers=300, history=300, rate=rate, gap_shape=shape)
    made = simulate(np.random.default_rng(seed), settings, labelled=1, futures=1)
    return Moment(made.population, 0.3, 2)


@pytest.mark.parametrize("earlier", [0, 1])
def test_a_replaying_run_that_was_killed_ends_as_if_it_had_not_been(
    earlier: int, base: Path, tmp_path: Path
) -> None:
    settings = replace(QUICK, save_every_s=1e-9, steps=6, replay=0.5)
    words: dict[str, Any] = {"settings": settings, "earlier": [shop(seed=5)] * earlier}
    whole = fine_tune(base, shop(), tmp_path / "one", state=tmp_path / "a", **words)
    parts, state = (base, shop(), tmp_path / "two"), tmp_path / "b"
    with pytest.raises(KeyboardInterrupt):
        fine_tune(*parts, state=state, told=stop_at(4), **words)
    resumed = fine_tune(*parts, state=state, **words)
    assert resumed.scores == pytest.approx(whole.scores)
    with pytest.raises(ModelError, match="state of another run"):
        fine_tune(*parts, state=state, settings=settings, earlier=[shop(seed=6)])


def test_a_budget_of_time_is_honoured(base: Path, tmp_path: Path) -> None:
    hurried = replace(QUICK, steps=10_000, looks=2, budget_s=2.0)
    parts = (base, shop(), tmp_path / "out")
    shares: list[float] = []
    made = fine_tune(
        *parts,
        state=tmp_path / "state",
        settings=hurried,
        told=lambda progress: shares.append(progress.share),
    )
    assert shares == sorted(shares)
    assert any(0.2 < share < 0.5 for share in shares)
    assert made.steps_done < 1000
    assert made.seconds < 10


def test_a_shop_without_a_past_is_refused(base: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="needs 100 customers"):
        fine_tune(base, shop(30), tmp_path / "out", state=tmp_path / "state", settings=QUICK)


def test_examples_are_earlier_moments() -> None:
    moment = shop()
    examples = _examples(moment, EventsTrainSettings(cuts=4))
    watched = [each.cut.watched for each in examples]
    assert watched == sorted(watched)
    assert len(watched) == 4
    for each in examples:
        assert each.moment.weekday == (2 - each.cut.watched) % 7
        finite = each.first[np.isfinite(each.first)]
        assert (finite < each.cut.watched).all()
        edges = (1, 3, 7, 10, 14, 21, 30, 45, 60, 90, 120, 150, 180, 225, 270, 365)
        bins = each.counts.shape[1]
        assert bins == sum(edge <= each.cut.watched for edge in edges)
        assert each.counts.sum() == (each.cut.after_days < edges[bins - 1]).sum()


def test_the_likelihood_is_that_of_who_buys_first_in_each_bin() -> None:
    edges = torch.tensor([0.0, 10.0, 30.0])
    gained = torch.tensor([[0.5, 0.3], [1.5, 0.9], [1.0, 0.6]])
    first = torch.tensor([4.0, 15.0, torch.inf])
    loss = survival_loss(answer_of(gained), first, watched=20.0, edges=edges)
    early = torch.log(0.4 * gained[0, 0] + gained[1, 0] + gained[2, 0]) - torch.log(
        gained[0, 0] / 10
    )
    late = torch.log(0.25 * gained[1, 1] + 0.5 * gained[2, 1]) - torch.log(gained[1, 1] / 20)
    torch.testing.assert_close(loss, early + late)


def test_the_level_of_past_days_is_not_learned_but_who_buys_more_is() -> None:
    rng = np.random.default_rng(0)
    often = rng.random(4000) < 0.5
    times = torch.from_numpy(rng.exponential(np.where(often, 20.0, 60.0))).float()
    first = torch.where(times < 30, times, torch.inf)
    edges = torch.tensor([0.0, 10.0, 40.0])

    def loss(level: float, ratio: float) -> float:
        rate = torch.from_numpy(np.where(often, ratio, 1.0)).float() * level
        gained = rate[:, None] * torch.tensor([10.0, 30.0])
        return float(survival_loss(answer_of(gained), first, watched=30.0, edges=edges))

    assert loss(0.02, 3.0) == pytest.approx(loss(0.05, 3.0), rel=1e-4)
    losses = [loss(0.02, ratio) for ratio in (2.0, 3.0, 4.5)]
    assert int(np.argmin(losses)) == 1


def test_the_level_stays_that_of_the_network_before() -> None:
    """Of a shop whose level moves from cut to cut, with steps that are large enough to drift."""
    settings = ShopSettings(
        customers=200,
        history=240,
        rate=1 / 20,
        gap_shape=3,
        dropout="none",
        season=0.8,
        wander=0.4,
        week=0.3,
    )
    made = simulate(np.random.default_rng(2), settings, labelled=1, futures=1)
    moment = Moment(made.population, 0.3, 2)
    before = levels_of(load_events(shipped("purchase")).model, moment)

    def moved(anchor: float) -> float:
        hurried = EventsTrainSettings(
            rank=4, rows=36, cuts=3, at_once=3, anchor=anchor, learning_rate=3e-3
        )
        tuner = _Tuner(load_events(shipped("purchase")).model, moment, hurried)
        tuner.run(40, lambda _tuner, _loss: None)
        with tuner.averaged():
            return float(np.abs(levels_of(tuner.model, moment) / before - 1).max())

    assert moved(EventsTrainSettings().anchor) < 0.12
    assert moved(0.0) > 0.2


def levels_of(model: EventsModel, shop: Moment) -> FloatArray:
    """The share of customers who buy, and the purchases of one, within 30 and 90 days."""
    tokens = tokens_at(shop, shop.crowd, context_of(shop.crowd), length=model.config.length)
    curves, days = curves_of(model, tokens), np.array([30.0, 90.0])
    said = (curves.probability(days), curves.purchases(days))
    return np.concatenate([each.mean(axis=0) for each in said])


def test_an_answer_is_nearest_to_that_before_where_the_level_is() -> None:
    gained = torch.tensor([[0.5, 0.3], [1.5, 0.9], [1.0, 0.6]])
    before = answer_of(gained)
    losses = [float(anchor_loss(answer_of(gained * level), before)) for level in (0.9, 1.0, 1.1)]
    assert int(np.argmin(losses)) == 1


def answer_of(gained: Tensor) -> Answer:
    """gained: (rows, bins) cumulative hazard of each bin."""
    hazard = torch.log(torch.expm1(gained))
    return Answer(hazard, hazard, hazard[:, 0])


def test_the_held_out_stretch_is_not_learned_from() -> None:
    moment = shop()
    cut = cut_at(moment.crowd, 60.0)
    before = moment.before(cut)
    for each in _examples(before, QUICK):
        assert each.cut.watched + float(each.cut.after_days.max(initial=0)) > 0
        assert (each.cut.after_days < each.cut.watched).all()
    assert before.crowd.days_ago.min() > 0
