"""What fine-tuning learns from and is judged by: one shop's records, cut in time.

Invariant: nothing of the plan's windows reaches either, and nothing of the validation windows
reaches the examples.
"""

from __future__ import annotations

import dataclasses
import hashlib
import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch

from models.backtest import Backtest, BacktestError, Method, Plan, Record, network, run
from models.base import ModelError
from models.checkpoint import ADAPTER_CONFIG, SeriesCheckpoint, load_series
from models.examples import Examples, Shape, until
from models.pretrain import AROUND, PretrainSettings
from models.series import SeriesNetwork

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from chronos.chronos2.model import Chronos2Model

    from models.tuning import TrainSettings


@dataclass(frozen=True, slots=True, eq=False)
class Earlier:
    """Records that an earlier version was trained on, for replay; as they were before its gate."""

    records: Sequence[Record]
    freq: str
    horizon: int


@dataclass(frozen=True, slots=True, eq=False)
class Lessons:
    """The network to begin from, what it is shown, and what it is judged on."""

    checkpoint: SeriesCheckpoint
    adapts: bool  # whether the base was a whole checkpoint, that an adapter can stand on
    examples: Examples
    replayed: tuple[Examples, ...]
    synthetic: PretrainSettings
    judge: Judge
    key: str  # of all of this and of the settings

    @classmethod
    def of(
        cls,
        base: Path,
        base_of: Path | None,
        records: Sequence[Record],
        plan: Plan,
        settings: TrainSettings,
        earlier: Sequence[Earlier],
    ) -> Lessons:
        checkpoint = load_series(base, base=base_of)
        before_gate = until(records, plan.offsets[0])
        if not before_gate:
            raise ModelError(
                f"no series has anything before the {plan.offsets[0]} periods held out for the "
                "gate; give longer histories, or lower the horizon or the number of origins"
            )
        judge = Judge(before_gate, plan, settings, checkpoint)
        shape = _shape(checkpoint, plan.horizon, settings)
        known = until(before_gate, judge.plan.offsets[0])
        parts = (known, plan.freq, plan.horizon, shape, settings.recent, settings.augment)
        return cls(
            checkpoint,
            not (base / ADAPTER_CONFIG).exists(),
            Examples(*parts),
            tuple(
                Examples(e.records, e.freq, e.horizon, _shape(checkpoint, e.horizon, settings))
                for e in earlier
            ),
            _synthetic(checkpoint, shape),
            judge,
            _key(checkpoint, records, plan, settings, earlier),
        )


def _shape(checkpoint: SeriesCheckpoint, horizon: int, settings: TrainSettings) -> Shape:
    config = checkpoint.model.chronos_config
    patches = math.ceil(horizon / config.input_patch_size)
    if settings.context is not None and settings.context % config.input_patch_size:
        raise ModelError(f"context must be a multiple of the patch, {config.input_patch_size}")
    return Shape(
        patch=config.input_patch_size,
        context_length=min(config.context_length, settings.context or config.context_length),
        patches=min(patches, config.max_output_patches),
        around={name: bool(checkpoint.options.get(name, False)) for name in AROUND},
    )


def _synthetic(checkpoint: SeriesCheckpoint, shape: Shape) -> PretrainSettings:
    """Windows as the network was pretrained on, of the length that fits it."""
    left_out = ",".join(name for name, wanted in shape.around.items() if not wanted)
    config = checkpoint.model.chronos_config
    return PretrainSettings(
        out=Path(),
        run=Path(),
        patch=shape.patch,
        context_length=min(512, shape.context_length),
        max_output_patches=config.max_output_patches,
        without=left_out,
    )


def _key(
    checkpoint: SeriesCheckpoint,
    records: Sequence[Record],
    plan: Plan,
    settings: TrainSettings,
    earlier: Sequence[Earlier],
) -> str:
    """Hex digest of what a run is made of; budgets and trackers may differ when it goes on."""
    free = {"budget_s", "memory_bytes", "save_every_s", "report_to"}
    chosen = {k: v for k, v in dataclasses.asdict(settings).items() if k not in free}
    digest = hashlib.sha256(f"{checkpoint.digest}{plan}{sorted(chosen.items())}".encode())
    for record in (*records, *(one for each in earlier for one in each.records)):
        digest.update(record.item.encode())
        digest.update(record.target.tobytes())
    return digest.hexdigest()


class Judge:
    """Scores a network, as it would serve, on the validation windows."""

    def __init__(
        self,
        records: Sequence[Record],
        plan: Plan,
        settings: TrainSettings,
        checkpoint: SeriesCheckpoint,
    ) -> None:
        self.plan = replace(plan, origins=settings.validation, step=None)
        order = np.random.default_rng(0).permutation(len(records))[: settings.judged]
        self.records = [records[number] for number in sorted(order.tolist())]
        latest = max(records, key=lambda record: record.times[-1])
        self.until = latest.times[-1].isoformat()
        self.checkpoint = checkpoint

    def score(self, model: Chronos2Model, alive: Callable[[], None]) -> float:
        """Mean pinball loss in units of seasonal naive's error; alive: called between batches."""
        options = self.checkpoint.options
        whole = SeriesCheckpoint("tuned", model.eval(), self.checkpoint.digest, options)
        answering = SeriesNetwork(whole, device=_device_name(), dtype="float32", runtime="torch")
        threads = torch.get_num_threads()
        try:
            found = self._tested(answering, alive)
        finally:
            torch.set_num_threads(threads)
        return float(np.mean([score.scaled_pinball for score in found.scores]))

    def _tested(self, answering: SeriesNetwork, alive: Callable[[], None]) -> Backtest:
        method = Method("tuned", network(answering))
        try:
            return run(self.records, [method], self.plan, on_done=lambda *_: alive())
        except BacktestError as error:
            raise ModelError(f"validation before the gate's windows: {error}") from error


def _device_name() -> Literal["cuda", "cpu"]:
    return "cuda" if torch.cuda.is_available() else "cpu"
