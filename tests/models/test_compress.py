"""Compressed networks serve as any other, and stand beside their parents with their numbers."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from models.base import CheckpointError
from models.bottleneck import width_of
from models.checkpoint import load_series
from models.compress import distill, prune, quantize
from models.series import SeriesNetwork
from models.train import fine_tune
from tests.models.test_train import PLAN, QUICK, shop

if TYPE_CHECKING:
    from pathlib import Path


def test_a_quantised_network_computes_in_8_bits_by_itself(
    tiny_checkpoint: Path, tmp_path: Path
) -> None:
    found = quantize(tiny_checkpoint, shop(), PLAN, tmp_path / "out")
    assert SeriesNetwork.load(tmp_path / "out").describe().dtype == "int8"
    plain = SeriesNetwork.load(tmp_path / "out", dtype="float32")
    assert plain.describe().dtype == "float32"
    assert SeriesNetwork.load(tmp_path / "out", runtime="torch").describe().dtype == "float32"
    assert found.child.weight_bytes == found.parent.weight_bytes / 4
    assert found.child.bytes < 0.6 * found.parent.bytes
    assert found.child.loss == pytest.approx(found.parent.loss, rel=0.1)
    assert found.child.rows_per_s > 0
    assert found.trained is None


def test_an_adapter_is_as_large_as_it_and_its_base(tiny_checkpoint: Path, tmp_path: Path) -> None:
    settings = replace(QUICK, method="adapter", steps=1, look_every=1)
    adapter = tmp_path / "adapter"
    parts = (tiny_checkpoint, shop(), PLAN, adapter)
    fine_tune(*parts, state=tmp_path / "state", settings=settings)
    found = quantize(adapter, shop(), PLAN, tmp_path / "out", base_of=tiny_checkpoint)
    assert found.parent.bytes > (tiny_checkpoint / "model.safetensors").stat().st_size
    assert found.child.bytes < 0.6 * found.parent.bytes
    assert width_of(load_series(tmp_path / "out").model) == QUICK.rank
    assert SeriesNetwork.load(tmp_path / "out").describe().dtype == "int8"


def test_another_arithmetic_is_refused(tiny_checkpoint: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    quantize(tiny_checkpoint, shop(), PLAN, out)
    config = json.loads((out / "config.json").read_text())
    config["shopcast"]["dtype"] = "int4"
    (out / "config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match=r"shopcast\.dtype must be int8"):
        SeriesNetwork.load(out)


def test_pruned_weights_stay_zero_while_the_rest_learns(
    tiny_checkpoint: Path, tmp_path: Path
) -> None:
    settings = replace(QUICK, method="full", sparsity=0.6, learning_rate=3e-3)
    parts = (tiny_checkpoint, shop(), PLAN, tmp_path / "out")
    found = prune(*parts, state=tmp_path / "state", settings=settings)
    assert found.child.zeros > found.parent.zeros + 0.2
    assert found.child.weight_bytes == found.parent.weight_bytes
    assert found.child.packed_bytes < 0.9 * found.parent.packed_bytes
    assert found.child.bytes > 0.99 * found.parent.bytes
    model = load_series(tmp_path / "out").model
    query = model.encoder.block[0].layer[0].self_attention.q.weight
    assert float((query == 0).float().mean()) == pytest.approx(0.6, abs=0.01)
    assert found.trained is not None
    assert found.trained.steps_done == 8


def test_a_student_learns_from_a_teacher(tiny_checkpoint: Path, tmp_path: Path) -> None:
    settings = replace(QUICK, teaching=1.0, learning_rate=3e-3, rows=8)
    found = distill(
        tiny_checkpoint,
        tiny_checkpoint,
        shop(),
        PLAN,
        tmp_path / "out",
        state=tmp_path / "state",
        settings=replace(settings, steps=4),
    )
    assert found.trained is not None
    assert found.child.loss == pytest.approx(found.parent.loss, rel=0.3)
