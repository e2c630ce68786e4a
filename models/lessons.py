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
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch

from models.backtest import (
    Backtest,
    BacktestError,
    Example,
    Method,
    Plan,
    Predicting,
    Record,
    network,
    run,
    summaries,
)
from models.base import ModelError
from models.calibration import ADJUSTED, LEAST, MOST, Sides, calibration_of, kind_of
from models.checkpoint import ADAPTER_CONFIG, SeriesCheckpoint, load_series
from models.examples import Examples, Shape, until
from models.gate import simulated
from models.metrics import naive_error
from models.pretrain import AROUND, PretrainSettings
from models.seasonal import adjust, season_lengths
from models.series import SeriesNetwork

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from chronos.chronos2.model import Chronos2Model

    from models.tuning import TrainSettings

#: Windows of a kind from which its intervals are fitted.
LEAST_CALIBRATED = 40
#: What the distance to the median is tried at.
FACTORS = tuple(round(0.5 + 0.05 * step, 2) for step in range(31))
_TUNED = "tuned"
REMEMBERED_SEED = 1  # of simulated series; the gate's is 0


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
    taught: bool  # by a teacher
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
        teacher: Predicting | None,
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
        levels = tuple(checkpoint.model.chronos_config.quantiles)
        ways = (levels, settings.recent, settings.augment, teacher)
        parts = (known, plan.freq, plan.horizon, shape, *ways)
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
            teacher is not None,
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
        self._known: list[float] | None = None  # of the network before, on simulated series

    def score(
        self, model: Chronos2Model, options: dict[str, Any], alive: Callable[[], None]
    ) -> float:
        """Mean pinball loss in units of seasonal naive's error; alive: called between batches.

        options: what stands around the network, as a checkpoint has it.
        """
        found = self._tested(model, options, alive)
        return float(np.mean([score.scaled_pinball for score in found.scores]))

    def forgotten(
        self, model: Chronos2Model, options: dict[str, Any], alive: Callable[[], None]
    ) -> float:
        """The loss on simulated series over that of the network before, where it is worst.

        They are like those of the gate, and none of them.
        """
        after = self._remembered(self._answering(model, options), alive)
        before = self._before(alive)
        return max(one / other for one, other in zip(after, before, strict=True))

    def _before(self, alive: Callable[[], None]) -> list[float]:
        if self._known is None:
            first = self._answering(self.checkpoint.model, dict(self.checkpoint.options))
            self._known = self._remembered(first, alive)
        return self._known

    def _remembered(self, answering: SeriesNetwork, alive: Callable[[], None]) -> list[float]:
        """The loss on each of the simulated sets."""
        method, threads = Method(_TUNED, network(answering)), torch.get_num_threads()
        try:
            tests = [
                run(one.records, [method], one.plan, on_done=lambda *_: alive())
                for one in simulated(seed=REMEMBERED_SEED)
            ]
        finally:
            torch.set_num_threads(threads)
        return [summaries(test)[0].scaled_pinball for test in tests]

    def _answering(self, model: Chronos2Model, options: dict[str, Any]) -> SeriesNetwork:
        whole = SeriesCheckpoint("tuned", model.eval(), self.checkpoint.digest, options)
        return SeriesNetwork(whole, device=_device_name(), dtype="float32", runtime="torch")

    def calibration(
        self, model: Chronos2Model, options: dict[str, Any], alive: Callable[[], None]
    ) -> dict[str, Sides]:
        """Factors of the intervals, by kind, half-way to what is best on these windows."""
        test = self._tested(model, options, alive, examples=len(self.records))
        before = calibration_of(options)
        found = dict(before.factors)
        seasons = season_lengths(self.plan.freq)
        kinds: dict[str, list[Example]] = {}
        for example in test.examples:
            taken = bool(adjust(example.window.history[None], [seasons]).found[0])
            kinds.setdefault(kind_of(seasons) + ADJUSTED * taken, []).append(example)
        for kind, examples in kinds.items():
            if len(examples) >= LEAST_CALIBRATED:
                old = before.of(seasons, adjusted=kind.endswith(ADJUSTED))
                found[kind] = _sides(examples, self.plan, old)
        return found

    def _tested(
        self,
        model: Chronos2Model,
        options: dict[str, Any],
        alive: Callable[[], None],
        *,
        examples: int = 0,
    ) -> Backtest:
        answering = self._answering(model, options)
        method, threads = Method(_TUNED, network(answering)), torch.get_num_threads()
        try:
            return run(
                self.records,
                [method],
                self.plan,
                examples=examples,
                on_done=lambda *_: alive(),
            )
        except BacktestError as error:
            raise ModelError(f"validation before the gate's windows: {error}") from error
        finally:
            torch.set_num_threads(threads)


def _sides(examples: Sequence[Example], plan: Plan, old: Sides) -> Sides:
    """The factors below and above the median, beside those that the examples have already."""
    levels = np.array(plan.levels)
    middle = plan.levels.index(0.5)
    quantiles = np.stack([example.quantiles[_TUNED] for example in examples])
    truth = np.stack([example.truth for example in examples])[:, None]
    scale = np.array([naive_error(one.window.history, plan.season) for one in examples])
    median = quantiles[:, [middle]]
    found = []
    for side, before in zip((levels < 0.5, levels > 0.5), old, strict=True):
        level, apart = levels[side, None], (quantiles - median)[:, side]
        losses = []
        for factor in FACTORS:
            error = truth - (median + factor * apart)
            pinball = np.maximum(level * error, (level - 1) * error)
            losses.append(float(np.nanmean(np.nanmean(pinball, axis=(1, 2)) / scale)))
        best = FACTORS[int(np.argmin(losses))]
        found.append(round(float(np.clip(before * np.sqrt(best), LEAST, MOST)), 3))
    return found[0], found[1]


def _device_name() -> Literal["cuda", "cpu"]:
    return "cuda" if torch.cuda.is_available() else "cpu"
