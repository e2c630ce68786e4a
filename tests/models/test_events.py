"""The events network answers monotonely, alike alone or together, and says why."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file

from models.base import (
    PURCHASE,
    CheckpointError,
    Customer,
    FloatArray,
    ModelError,
    PurchaseTask,
    SetupError,
)
from models.checkpoint import shipped
from models.customers import CONTEXT_SIZE, context_of, customer_of, population_of
from models.events import (
    Answer,
    Curves,
    EventsConfig,
    EventsNetwork,
    Inputs,
    load_events,
    new_events_model,
    parts_of,
)
from models.events_graph import events_graph_of
from models.tokens import tokens_of

if TYPE_CHECKING:
    from pathlib import Path

HORIZONS = (1.0, 3.0, 7.0, 10.5, 30.0, 45.0, 90.0, 100.0, 180.0, 365.0, 400.0)


def save_tiny(directory: Path, *, seed: int = 0) -> Path:
    """A network of random weights whose answers differ between customers."""
    config = EventsConfig(
        hidden_size=32,
        layers=2,
        heads=2,
        intermediate_size=32,
        query_width=48,
        shop_width=16,
        thing_width=8,
        length=12,
    )
    model = new_events_model(config, seed=seed)
    with torch.no_grad():
        last: Any = model.head[-1]
        last.weight.mul_(20)
    model.save_pretrained(directory)
    return directory


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny(tmp_path_factory.mktemp("events") / "tiny")


@pytest.fixture(scope="module", params=["onnx", "torch", "int8"])
def network(request: pytest.FixtureRequest, directory: Path) -> EventsNetwork:
    ways: dict[str, Any] = {"runtime": request.param}
    if request.param == "int8":
        ways = {"dtype": "int8"}
    return EventsNetwork.load(directory, device="cpu", threads=1, **ways)


def customer(seed: int, events: int) -> Customer:
    rng = np.random.default_rng(seed)
    return customer_of(
        1000 - rng.exponential(60, events) - 1e-3,
        rng.choice([0, 2, PURCHASE], events).astype(np.int8),
        as_of=1000.0,
        amounts=rng.lognormal(3, 1, events),
        items=rng.integers(0, 1 << 62, events),
        categories=rng.integers(0, 3, events),
    )


CUSTOMERS = [customer(seed, events) for seed, events in enumerate((0, 1, 2, 5, 9, 11, 40, 200) * 3)]
CONTEXT = context_of(CUSTOMERS)


def tasks(**changes: Any) -> list[PurchaseTask]:
    known = PurchaseTask(CUSTOMERS[0], CONTEXT, 0.4, 2, HORIZONS, 180.0)
    return [replace(known, customer=one, **changes) for one in CUSTOMERS]


def test_answers_are_monotone_and_counts_are_never_below(network: EventsNetwork) -> None:
    for answer in network.predict(tasks()):
        assert (answer.probability > 0).all()
        assert (answer.probability <= 1).all()
        assert (np.diff(answer.probability) >= 0).all()
        assert (answer.purchases >= answer.probability).all()
        assert (np.diff(answer.purchases) >= 0).all()
        assert 0 <= answer.churn <= 1
        assert np.isfinite(answer.spend).all()


def test_customers_differ(network: EventsNetwork) -> None:
    answers = network.predict(tasks())
    assert len({round(float(each.probability[4]), 6) for each in answers}) > 10


def test_an_answer_is_the_same_alone_and_together(network: EventsNetwork) -> None:
    together = network.predict(tasks())
    other_shop = [replace(task, context=None) for task in tasks()]
    mixed = network.predict([*other_shop, *tasks()[::-1]])[len(together) :][::-1]
    for task, first, second in zip(tasks(), together, mixed, strict=True):
        (alone,) = network.predict([task])
        for answer in (first, second):
            np.testing.assert_allclose(answer.probability, alone.probability, atol=1e-5)
            np.testing.assert_allclose(answer.purchases, alone.purchases, rtol=1e-4)
            np.testing.assert_allclose(answer.spend, alone.spend, rtol=1e-4)


def test_the_order_of_horizons_does_not_matter(network: EventsNetwork) -> None:
    (forward,) = network.predict(tasks()[5:6])
    (backward,) = network.predict([replace(tasks()[5], horizons_days=HORIZONS[::-1])])
    np.testing.assert_allclose(backward.probability[::-1], forward.probability)


def test_churn_is_what_is_left(network: EventsNetwork) -> None:
    (answer,) = network.predict([replace(tasks()[5], churn_window_days=90.0)])
    assert answer.churn == pytest.approx(1 - answer.probability[HORIZONS.index(90.0)])


def test_without_amounts_there_is_no_spend(network: EventsNetwork) -> None:
    bare = customer_of(np.array([1.0]), np.array([PURCHASE], dtype=np.int8), as_of=9.0)
    (answer,) = network.predict([replace(tasks()[0], customer=bare, context=None)])
    assert np.isnan(answer.spend).all()


def test_only_the_latest_events_are_read(network: EventsNetwork) -> None:
    long = customer(3, 300)
    counted = {name: getattr(long, name) for name in ("days_ago", "types", "amounts", "quantities")}
    assert len(counted["days_ago"]) > network.describe().events_read
    assert network.work(replace(tasks()[0], customer=long)).length == 1 + 2 + 12


def test_the_context_moves_the_answer(network: EventsNetwork) -> None:
    first, second = (network.predict(tasks(context=c))[4] for c in (CONTEXT, None))
    assert not np.allclose(first.probability, second.probability)


def test_a_wrong_context_or_horizon_is_refused(network: EventsNetwork) -> None:
    for context in (np.zeros(3), np.full(CONTEXT_SIZE, np.nan)):
        with pytest.raises(ModelError, match="context"):
            network.predict(tasks(context=context)[:1])
    for horizons in ((), (0.0, 7.0)):
        with pytest.raises(ModelError, match="horizons"):
            network.predict(tasks(horizons_days=horizons)[:1])


# --- curves ----------------------------------------------------------------------------------


def test_the_hazard_is_constant_within_a_bin() -> None:
    hazard = np.array([[0.1, 0.4]])
    curves = Curves(np.array([0.0, 10, 30]), hazard, hazard * 0, np.zeros(1), np.ones(1))
    days = np.array([5.0, 10.0, 20.0, 30.0, 40.0])
    expected = 1 - np.exp(-np.array([0.05, 0.1, 0.3, 0.5, 0.7]))
    np.testing.assert_allclose(curves.probability(days)[0], expected)


def test_bins_share_out_all_probability() -> None:
    generator = torch.Generator().manual_seed(0)
    answer = Answer(torch.randn(5, 16, generator=generator), torch.randn(5, 16), torch.zeros(5))
    first = answer.log_first().exp()
    torch.testing.assert_close(first.sum(dim=1), torch.ones(5))
    torch.testing.assert_close(first[:, :-1].sum(dim=1), 1 - answer.log_survival()[:, -1].exp())
    assert (answer.purchases() >= first[:, :-1]).all()


def test_the_last_layer_is_as_the_library_has_it(directory: Path) -> None:
    model = load_events(directory).model
    embedded = torch.randn(3, 7, 32, generator=torch.Generator().manual_seed(0))
    mask = torch.ones(3, 1, 1, 7, dtype=torch.bool)
    mask[1, ..., 4:] = False
    with torch.inference_mode():
        ours = model._encoded(embedded, mask)
        theirs = model.encoder(inputs_embeds=embedded, attention_mask={"full_attention": mask})
    torch.testing.assert_close(ours, theirs.last_hidden_state[:, 0], atol=1e-5, rtol=1e-4)


def test_parts_hold_each_row_once_and_keep_their_size() -> None:
    tokens = tokens_of(
        population_of(CUSTOMERS),
        contexts=CONTEXT[None],
        known=np.ones(1, dtype=np.bool_),
        shop=np.zeros(len(CUSTOMERS), dtype=np.int64),
        year_phase=np.zeros(len(CUSTOMERS)),
        weekday=np.zeros(len(CUSTOMERS), dtype=np.int64),
        length=12,
    )
    parts = list(parts_of(tokens, 40))
    assert sorted(np.concatenate(parts).tolist()) == list(range(len(CUSTOMERS)))
    for part in parts:
        padded = tokens.take(part).present.shape[1] + 3
        assert len(part) == 1 or len(part) * padded <= 40
        assert Inputs.of(tokens.take(part), torch.device("cpu")).events.shape[1] == padded - 3


# --- runtimes --------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["shipped", "tiny"])
@pytest.mark.parametrize("known", [CONTEXT, None])
def test_onnx_answers_what_torch_answers(
    directory: Path, name: str, known: FloatArray | None
) -> None:
    checkpoint = shipped("purchase") if name == "shipped" else directory
    asked = tasks(context=known)
    expected = EventsNetwork.load(checkpoint, device="cpu", runtime="torch").predict(asked)
    got = EventsNetwork.load(checkpoint, device="cpu", runtime="onnx").predict(asked)
    for theirs, ours in zip(expected, got, strict=True):
        np.testing.assert_allclose(ours.probability, theirs.probability, atol=1e-5)
        np.testing.assert_allclose(ours.purchases, theirs.purchases, rtol=1e-4)
        np.testing.assert_allclose(ours.spend, theirs.spend, rtol=1e-4)


@pytest.mark.parametrize("events", [0, 1])
def test_customers_alike_are_answered_without_padding(network: EventsNetwork, events: int) -> None:
    (alone,) = network.predict([replace(tasks()[0], customer=customer(7, events))])
    together = network.predict([replace(tasks()[0], customer=customer(7, events))] * 3)
    for answer in together:
        np.testing.assert_allclose(answer.probability, alone.probability, atol=1e-6)


def test_the_runtime_is_told_and_chosen_by_what_is_asked(directory: Path) -> None:
    loaded = [
        EventsNetwork.load(directory, device="cpu"),
        EventsNetwork.load(directory, device="cpu", dtype="bfloat16"),
        EventsNetwork.load(directory, device="cpu", runtime="torch"),
    ]
    assert [each.describe().runtime for each in loaded] == ["onnx", "torch", "torch"]
    with pytest.raises(SetupError, match="SHOPCAST_RUNTIME=torch"):
        EventsNetwork.load(directory, runtime="onnx", dtype="bfloat16")


def test_another_activation_needs_torch(directory: Path) -> None:
    model = load_events(directory).model
    model.encoder.config.hidden_activation = "relu"
    with pytest.raises(CheckpointError, match="SHOPCAST_RUNTIME=torch"):
        events_graph_of(model)


# --- why -------------------------------------------------------------------------------------


def test_contributions_add_up_to_the_log_odds(network: EventsNetwork) -> None:
    for task in tasks(explain_days=45.0)[:8]:
        (answer,) = network.predict([task])
        why = answer.explanation
        assert why is not None
        p = answer.probability[HORIZONS.index(45.0)]
        total = why.base + why.events.sum() + sum(why.traits.values())
        assert total == pytest.approx(np.log(p / (1 - p)), abs=1e-3)
        assert set(why.traits) == {"recency", "frequency", "tenure", "season", "shop"}
        assert len(why.events) == len(task.customer.days_ago)


def test_the_base_is_that_of_somebody_unknown(network: EventsNetwork) -> None:
    bases = {
        round(answer.explanation.base, 6)
        for answer in (network.predict([task])[0] for task in tasks(explain_days=30.0)[:4])
        if answer.explanation is not None
    }
    assert len(bases) == 1


def test_an_unknown_shop_contributes_nothing(network: EventsNetwork) -> None:
    (answer,) = network.predict(tasks(context=None, explain_days=30.0)[:1])
    assert answer.explanation is not None
    assert answer.explanation.traits["shop"] == pytest.approx(0, abs=1e-3)


def test_explanations_have_a_lane_of_their_own(network: EventsNetwork) -> None:
    plain, explained = tasks()[4], tasks(explain_days=30.0)[4]
    assert network.lane(plain) != network.lane(explained)
    assert network.work(explained).rows > network.work(plain).rows == 1


# --- checkpoints -----------------------------------------------------------------------------


def test_the_fingerprint_follows_weights_and_settings(directory: Path, tmp_path: Path) -> None:
    first = EventsNetwork.load(directory, device="cpu")
    assert first.fingerprint == EventsNetwork.load(directory, device="cpu").fingerprint
    other = EventsNetwork.load(save_tiny(tmp_path / "other", seed=1), device="cpu")
    reduced = EventsNetwork.load(directory, device="cpu", dtype="bfloat16")
    bare = EventsNetwork.load(directory, device="cpu", runtime="torch")
    assert len({each.fingerprint for each in (first, other, reduced, bare)}) == 4
    assert reduced.describe().dtype == "bfloat16"


def test_an_adapter_is_served_with_its_base(directory: Path, tmp_path: Path) -> None:
    lora = LoraConfig(r=2, target_modules=r"head\.[02]", init_lora_weights=False)
    with pytest.warns(FutureWarning):
        adapted = get_peft_model(load_events(directory).model, lora)
    adapted.save_pretrained(str(tmp_path / "adapter"))
    network = EventsNetwork.load(tmp_path / "adapter", directory, device="cpu")
    plain = EventsNetwork.load(directory, device="cpu")
    assert network.fingerprint != plain.fingerprint
    first, second = (each.predict(tasks()[4:5])[0] for each in (network, plain))
    assert not np.allclose(first.probability, second.probability)
    with pytest.raises(CheckpointError, match="base"):
        EventsNetwork.load(tmp_path / "adapter")


def changed_config(source: Path, target: Path, **changes: object) -> Path:
    target.mkdir()
    config = json.loads((source / "config.json").read_text()) | changes
    (target / "config.json").write_text(json.dumps(config))
    (target / "model.safetensors").write_bytes((source / "model.safetensors").read_bytes())
    return target


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model_type": "bert"}, "not that of an events network"),
        ({"context_size": 7}, "context_size is 7"),
        ({"query_size": 7}, "query_size is 7"),
        ({"item_buckets": 64}, "item_buckets is 64"),
        ({"layers": 0}, "layers must be"),
        ({"bin_edges": [3, 2]}, "bin_edges must ascend"),
        ({"layers": 3}, "weights lack"),
        ({"query_width": 50}, "has shape"),
    ],
)
def test_what_cannot_be_served_is_refused(
    directory: Path, tmp_path: Path, changes: dict[str, object], message: str
) -> None:
    with pytest.raises(CheckpointError, match=message):
        EventsNetwork.load(changed_config(directory, tmp_path / "bad", **changes))


def test_missing_files_and_bad_numbers_are_refused(directory: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="does not exist"):
        EventsNetwork.load(tmp_path / "nowhere")
    with pytest.raises(CheckpointError, match="no config"):
        EventsNetwork.load(tmp_path)
    bad = changed_config(directory, tmp_path / "bad")
    weights = load_file(bad / "model.safetensors")
    weights["head.2.bias"][0] = torch.nan
    save_file(weights, bad / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match="NaN"):
        EventsNetwork.load(bad)
