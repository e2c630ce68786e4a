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
    windows_of,
)
from models.base import ModelError, Series, SeriesTask
from models.calibration import ADJUSTED, LEAST, MOST, Sides, calibration_of, kind_of
from models.checkpoint import ADAPTER_CONFIG, SeriesCheckpoint, load_series
from models.examples import Examples, Shape, until
from models.features import rows_of
from models.gate import even_weights, evened, losses_of, simulated
from models.metrics import naive_error
from models.pooling import PooledEffects, learned_effects, pooled_effects_of
from models.pretrain import AROUND, PretrainSettings
from models.seasonal import adjust, season_lengths
from models.series import SeriesNetwork

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from chronos.chronos2.model import Chronos2Model

    from models.effects import Shares
    from models.tuning import TrainSettings

#: Windows of a kind from which its intervals are fitted.
LEAST_CALIBRATED = 40
#: What the distance to the median is tried at.
FACTORS = tuple(round(0.5 + 0.05 * step, 2) for step in range(31))
#: Shares that are tried of what a series was lately.
RECALLED = (0.0, 0.15, 0.3, 0.45)
#: Series of which effects in common are learned.
MOST_POOLED = 1000
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
    before_gate: Sequence[Record]
    freq: str
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
            before_gate,
            plan.freq,
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
        pooled=pooled_effects_of(checkpoint.options),
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
        self.plan = _validation(records, plan, settings.validation)
        order = np.random.default_rng(0).permutation(len(records))[: settings.judged]
        self.records = [records[number] for number in sorted(order.tolist())]
        latest = max(records, key=lambda record: record.times[-1])
        self.until = latest.times[-1].isoformat()
        self.checkpoint = checkpoint
        self._known: list[float] | None = None  # of the network before, on simulated series
        self._first: dict[str, float] = {}  # losses of the network before

    def losses(
        self, model: Chronos2Model, options: dict[str, Any], alive: Callable[[], None]
    ) -> dict[str, float]:
        """Mean pinball loss of each series in units of seasonal naive's error.

        options: what stands around the network, as a checkpoint has it. alive: called between
        batches. Series that the network before missed by far count less, as at the gate.
        """
        found = self._losses(self._answering(model, options), alive)
        if not self._first:
            self._first = self._losses(self._before, alive)
        return evened(found, self._first)

    def forgotten(
        self, model: Chronos2Model, options: dict[str, Any], alive: Callable[[], None]
    ) -> float:
        """The loss on simulated series over that of the network before, where it is worst.

        They are like those of the gate, and none of them.
        """
        after = self._remembered(self._answering(model, options), alive)
        if self._known is None:
            self._known = self._remembered(self._before, alive)
        return max(one / other for one, other in zip(after, self._known, strict=True))

    def _remembered(self, answering: SeriesNetwork, alive: Callable[[], None]) -> list[float]:
        """The loss on each of the simulated sets."""
        sets = simulated(seed=REMEMBERED_SEED)
        tests = (_tested(one.records, one.plan, answering, alive) for one in sets)
        return [summaries(test)[0].scaled_pinball for test in tests]

    @property
    def _before(self) -> SeriesNetwork:
        return self._answering(self.checkpoint.model, dict(self.checkpoint.options))

    def _answering(self, model: Chronos2Model, options: dict[str, Any]) -> SeriesNetwork:
        whole = SeriesCheckpoint("tuned", model.eval(), self.checkpoint.digest, options)
        return SeriesNetwork(whole, device=_device_name(), dtype="float32", runtime="torch")

    def _losses(self, answering: SeriesNetwork, alive: Callable[[], None]) -> dict[str, float]:
        try:
            test = _tested(self.records, self.plan, answering, alive)
        except BacktestError as error:
            raise ModelError(f"validation before the gate's windows: {error}") from error
        return losses_of(test, _TUNED)

    def recall(
        self, model: Chronos2Model, options: dict[str, Any], alive: Callable[[], None]
    ) -> dict[str, dict[str, float]]:
        """The share of what series were lately, half-way to what is best on these windows."""
        said = dict(options.get("recall", {}))
        kind = kind_of(season_lengths(self.plan.freq))
        before = said.get(kind, 0.0)
        tried = {share: {"recall": said | {kind: share}} for share in {before, *RECALLED}}
        scores = {
            share: mean_of(self.losses(model, options | one, alive)) for share, one in tried.items()
        }
        return {"recall": said | {kind: (before + min(scores, key=scores.__getitem__)) / 2}}

    def calibration(
        self, model: Chronos2Model, options: dict[str, Any], alive: Callable[[], None]
    ) -> dict[str, dict[str, list[float]]]:
        """Factors of the intervals, by kind, half-way to what is best on these windows."""
        before = calibration_of(options)
        found = dict(before.factors)
        seasons = season_lengths(self.plan.freq)
        kinds: dict[str, list[Example]] = {}
        for example in self._examples(model, options, alive):
            taken = bool(adjust(example.window.history[None], [seasons]).found[0])
            kinds.setdefault(kind_of(seasons) + ADJUSTED * taken, []).append(example)
        for kind, examples in kinds.items():
            if len(examples) >= LEAST_CALIBRATED:
                old = before.of(seasons, adjusted=kind.endswith(ADJUSTED))
                found[kind] = _sides(examples, self.plan, old)
        return {"calibration": {kind: list(sides) for kind, sides in found.items()}}

    def _examples(
        self, model: Chronos2Model, options: dict[str, Any], alive: Callable[[], None]
    ) -> Iterator[Example]:
        """The validation windows, what came, and what the network said."""
        answering, plan = self._answering(model, options), replace(self.plan, origins=1)
        for offset in self.plan.offsets:
            records = until(self.records, offset - plan.horizon)
            yield from _tested(records, plan, answering, alive).examples


def _tested(
    records: Sequence[Record], plan: Plan, answering: SeriesNetwork, alive: Callable[[], None]
) -> Backtest:
    """A backtest that keeps what is said of the latest windows; alive: called between batches."""
    method, threads = Method(_TUNED, network(answering)), torch.get_num_threads()
    try:
        return run(records, [method], plan, examples=len(records), on_done=lambda *_: alive())
    finally:
        torch.set_num_threads(threads)


def mean_of(losses: Mapping[str, float]) -> float:
    """Over series."""
    return float(np.mean(list(losses.values())))


def shop_effects(
    records: Sequence[Record], freq: str, checkpoint: SeriesCheckpoint
) -> PooledEffects:
    """What known covariates did to all series, at most MOST_POOLED of them."""
    order = np.random.default_rng(0).permutation(len(records))[:MOST_POOLED]
    tasks = [SeriesTask((_series(records[number], freq),), 1, (0.5,)) for number in order.tolist()]
    context = checkpoint.model.chronos_config.context_length
    rows = rows_of(tasks, context_length=context, horizon=1)
    shares: Shares = ()
    if checkpoint.options.get("seasonal_adjustment"):
        seasons = [season_lengths(freq)] * int(rows.target.sum())
        adjustment = adjust(rows.past[rows.target], seasons)
        rows.past[rows.target], shares = adjustment.adjusted, adjustment.shares
    return learned_effects(rows, shares)


def _series(record: Record, freq: str) -> Series:
    """All of a record; a covariate that is known ahead has something ahead."""
    covariates = (
        one if one.future is None else replace(one, future=one.past[-1:])
        for one in record.covariates
    )
    return Series(record.target[None], tuple(covariates), season_lengths(freq))


def _validation(records: Sequence[Record], plan: Plan, most: int) -> Plan:
    """As many windows of the plan, `most` at most, as take a third of the median history."""
    lengths = [np.count_nonzero(~np.isnan(record.target)) for record in records]
    carried = int(np.median(lengths) / 3 // plan.horizon)
    for origins in range(min(most, carried), 1, -1):
        chosen = replace(plan, origins=origins, step=None)
        if all(batch.windows for batch in windows_of(records, chosen)):
            return chosen
    return replace(plan, origins=1, step=None)


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
        each = []
        for factor in FACTORS:
            error = truth - (median + factor * apart)
            pinball = np.maximum(level * error, (level - 1) * error)
            each.append(np.nanmean(pinball, axis=(1, 2)) / scale)
        losses = np.stack(each)
        weights = even_weights(losses[FACTORS.index(1.0)])
        best = FACTORS[int(np.argmin(losses @ weights))]
        found.append(round(float(np.clip(before * np.sqrt(best), LEAST, MOST)), 3))
    return found[0], found[1]


def _device_name() -> Literal["cuda", "cpu"]:
    return "cuda" if torch.cuda.is_available() else "cpu"
