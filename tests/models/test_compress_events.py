"""Compressed networks of customers serve as any other, and stand beside their parents."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest

from models.base import CheckpointError, ModelError
from models.checkpoint import shipped
from models.compress_events import distill_events, quantize_events
from models.customers import context_of
from models.events import Curves, EventsNetwork
from models.lessons_events import Taught
from models.stretch import Stretch, tokens_at
from models.train_events import fine_tune
from tests.models.test_events import save_tiny
from tests.models.test_train_events import QUICK, shop

if TYPE_CHECKING:
    from pathlib import Path

    from models.compress import Compressed


@pytest.fixture(scope="module")
def eight(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Compressed]:
    """The shipped network in 8 bits, and what that cost."""
    out = tmp_path_factory.mktemp("eight") / "out"
    return out, quantize_events(shipped("purchase"), shop(), out)


def test_a_quantised_network_computes_in_8_bits_by_itself(
    eight: tuple[Path, Compressed],
) -> None:
    out, found = eight
    assert EventsNetwork.load(out, device="cpu").describe().dtype == "int8"
    for ways in ({"dtype": "float32"}, {"runtime": "torch"}):
        loaded = EventsNetwork.load(out, device="cpu", **ways)  # type: ignore[arg-type]
        assert loaded.describe().dtype == "float32"
    assert found.child.weight_bytes < 0.35 * found.parent.weight_bytes
    assert found.child.bytes < 0.6 * found.parent.bytes
    assert found.child.loss == pytest.approx(found.parent.loss, rel=0.01)
    assert min(found.child.rows_per_s, found.parent.rows_per_s) > 0
    assert found.trained is None


def test_no_neighbour_moves_a_bit_of_an_answer(eight: tuple[Path, Compressed]) -> None:
    network = EventsNetwork.load(eight[0], device="cpu", threads=1)
    moment = shop()
    context = context_of(moment.crowd)
    tokens = tokens_at(moment, moment.crowd, context, length=network.length)
    together = network.curves(tokens)
    huge = tokens.take(np.arange(len(tokens)))
    huge.query[1:] *= 50
    huge.events[1:] *= 50
    beside = network.curves(huge)
    np.testing.assert_array_equal(beside.hazard[0], together.hazard[0])
    np.testing.assert_array_equal(beside.more[0], together.more[0])


def test_a_quantised_network_is_tuned_further_and_stays_in_8_bits(
    eight: tuple[Path, Compressed], tmp_path: Path
) -> None:
    for method in ("lora", "full"):
        settings = replace(QUICK, method=method, steps=2, looks=1, learning_rate=1e-4)
        out = tmp_path / method
        made = fine_tune(
            eight[0], shop(), out, state=tmp_path / "state" / method, settings=settings
        )
        base = None if made.whole else eight[0]
        assert EventsNetwork.load(out, base, device="cpu").describe().dtype == "int8"


def test_a_student_learns_what_a_teacher_says_level_and_all(tmp_path: Path) -> None:
    student, moment = save_tiny(tmp_path / "student"), shop()
    settings = replace(QUICK, steps=40, looks=2, learning_rate=8e-3, teaching=1.0)
    parts = (shipped("purchase"), student, moment, tmp_path / "out")
    found = distill_events(*parts, state=tmp_path / "state", settings=settings)
    assert found.trained is not None
    assert (found.trained.method, found.trained.whole) == ("full", True)
    assert found.child.loss < found.trained.scores["zero_shot"]
    assert found.child.loss == pytest.approx(found.trained.scores["tuned"], rel=0.2)
    assert found.child.bytes < found.parent.bytes / 2
    stretch = Stretch.latest(moment, (20.0, 60.0), most=200)
    taught, before, after = (
        stretch.foretold("", EventsNetwork.load(each, device="cpu")).probability
        for each in (shipped("purchase"), student, tmp_path / "out")
    )
    assert np.abs(after - taught).mean() < np.abs(before - taught).mean() / 2


def test_a_curve_says_the_same_in_other_bins() -> None:
    rng, days = np.random.default_rng(0), np.array([3.0, 10.0, 40.0, 100.0])
    parts = rng.random((2, 5, 4))
    edges = np.array([0.0, 3, 10, 30, 90])
    curves = Curves(edges, parts[0], parts[1], np.zeros(5), np.ones(5))
    other = curves.binned(np.array([0.0, 1, 3, 5, 10, 20, 30, 40, 90, 100]))
    np.testing.assert_allclose(other.probability(days), curves.probability(days))
    np.testing.assert_allclose(other.purchases(days), curves.purchases(days))
    taught = Taught.of(curves, np.array([0.0, 10, 40]))
    np.testing.assert_allclose(taught.first.sum(dim=1), 1.0, rtol=1e-5)
    bought = curves.probability(np.array([10.0, 40.0]))
    np.testing.assert_allclose(taught.first[:, :2].cumsum(dim=1), bought, rtol=1e-5)
    expected = curves.purchases(np.array([10.0, 40.0]))
    np.testing.assert_allclose(taught.purchases.cumsum(dim=1), expected, rtol=1e-5)


def test_another_arithmetic_and_a_small_shop_are_refused(
    eight: tuple[Path, Compressed], tmp_path: Path
) -> None:
    with pytest.raises(ModelError, match="needs 100 customers"):
        quantize_events(shipped("purchase"), shop(30), tmp_path / "out")
    out = tmp_path / "odd"
    shutil.copytree(eight[0], out)
    config = json.loads((out / "config.json").read_text())
    config["shopcast"]["dtype"] = "int4"
    (out / "config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match=r"shopcast\.dtype must be int8"):
        EventsNetwork.load(out)
