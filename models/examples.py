"""Training examples from a shop's own records: what serving would give the network at earlier days.

Invariant: an example is what `SeriesNetwork` computes around the network, from what was known at a
moment of the past, and its truth ends where the records handed in end: what is held out must be cut
off before (`until`).
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import torch

from models.base import ModelError, Series, SeriesTask
from models.effects import Shares, without_effects
from models.features import CONSTANT_RATIO, CONSTANT_SCALE, row_count, rows_of, scale_of
from models.guide import guide
from models.pooling import NOT_POOLED, PooledEffects
from models.pretrain import Batch, alike
from models.seasonal import adjust, season_lengths

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from torch import Tensor

    from models.backtest import Predicting as Teacher
    from models.backtest import Record
    from models.base import Covariate, FloatArray
    from models.features import Rows

#: Periods observed that an example's history has at least.
LEAST_HISTORY = 8


@dataclass(frozen=True, slots=True)
class Shape:
    """What a network wants: periods of a patch and of history, patches ahead, what is around it.

    around: as `models.pretrain.AROUND` names it. pooled: effects that are expected of covariates.
    """

    patch: int
    context_length: int
    patches: int
    around: Mapping[str, bool]
    pooled: PooledEffects = NOT_POOLED


@dataclass(frozen=True, slots=True, eq=False)
class Examples:
    """Examples at random moments of records.

    horizon: periods whose truth counts. levels: that the teacher, where there is one, is asked for.
    recent: how much later moments are preferred, 1 for not at
    all, 2 for moments whose share of time left falls as a square. augment: of AUGMENTATIONS.
    """

    records: Sequence[Record]
    freq: str
    horizon: int
    shape: Shape
    levels: tuple[float, ...] = (0.5,)
    recent: float = 1.0
    augment: tuple[str, ...] = ()
    teacher: Teacher | None = None
    _spans: tuple[tuple[int, int], ...] = field(init=False)

    def __post_init__(self) -> None:
        """Raise ModelError if no record is long enough."""
        spans = tuple(_span(record) for record in self.records)
        long = [number for number, (first, last) in enumerate(spans) if first <= last]
        if not long:
            raise ModelError(
                f"no series changes and has more than {LEAST_HISTORY} observed periods before "
                "what is held out; give longer histories, or lower horizon, origins or validation"
            )
        object.__setattr__(self, "records", tuple(self.records[number] for number in long))
        object.__setattr__(self, "_spans", tuple(spans[number] for number in long))

    def draw(self, rng: np.random.Generator, rows: int) -> Batch:
        """Examples of about so many rows, targets and covariates together, at least one."""
        tasks: list[SeriesTask] = []
        truths: list[FloatArray] = []
        drawn = 0
        while not tasks or drawn + row_count(tasks[-1].series[0]) <= rows:
            number = int(rng.integers(len(self.records)))
            task, truth = self._at(self.records[number], self._moment(rng, number), rng)
            tasks.append(task)
            truths.append(truth)
            drawn += row_count(task.series[0])
        taught = None
        if self.teacher is not None:
            results = self.teacher.predict(tasks)
            taught = np.stack([result[0].quantiles[0] for result in results])
        return batch_of(tasks, np.stack(truths), self.shape, taught=taught)

    def _moment(self, rng: np.random.Generator, number: int) -> int:
        """How many periods of a record are history, later ones preferred."""
        first, last = self._spans[number]
        back = rng.random() ** self.recent
        return last - int(back * (last - first + 1))

    def _at(
        self, record: Record, cut: int, rng: np.random.Generator
    ) -> tuple[SeriesTask, FloatArray]:
        past = slice(self._start(cut, rng), cut)
        ahead = slice(cut, cut + self.shape.patches * self.shape.patch)
        history = record.target[past].copy()
        if "gaps" in self.augment and rng.random() < 0.1:
            history[rng.random(len(history)) < rng.uniform(0.02, 0.2)] = np.nan
        if "noise" in self.augment and rng.random() < 0.3:
            history *= rng.lognormal(0.0, 0.05, len(history))
        covariates = () if self._bare(rng) else record.covariates
        series = Series(
            history[None],
            tuple(_known(each, past, ahead) for each in covariates),
            season_lengths(self.freq),
            non_negative=bool((history[~np.isnan(history)] >= 0).all()),
        )
        truth = np.full(ahead.stop - cut, np.nan)
        seen = record.target[cut : cut + min(self.horizon, len(truth))]
        truth[: len(seen)] = seen
        return SeriesTask((series,), len(truth), self.levels), truth

    def _start(self, cut: int, rng: np.random.Generator) -> int:
        first = max(0, cut - self.shape.context_length)
        if "crop" in self.augment and rng.random() < 0.3:
            latest = max(first, cut - 4 * LEAST_HISTORY)
            first = int(rng.integers(first, latest + 1))
        return first

    def _bare(self, rng: np.random.Generator) -> bool:
        return "covariates" in self.augment and rng.random() < 0.15


def until(records: Sequence[Record], periods: int) -> list[Record]:
    """The records as they were so many periods before the end of all of them."""
    if not periods or not records:
        return list(records)
    longest = max(records, key=lambda record: record.times[-1])
    if len(longest.times) <= periods:
        return []
    end = longest.times[-1 - periods]
    cuts = ((record, int(record.times.searchsorted(end, side="right"))) for record in records)
    return [_cut(record, cut) for record, cut in cuts if cut > 0]


def batch_of(
    tasks: Sequence[SeriesTask],
    truths: FloatArray,
    shape: Shape,
    *,
    taught: FloatArray | None = None,
) -> Batch:
    """Tasks of one length and their truths, (tasks, steps), as rows of the network.

    As `SeriesNetwork` does: season and effects are taken out of the targets, of their future, and
    of what a teacher said of it: (tasks, levels, steps).
    """
    rows = rows_of(tasks, context_length=shape.context_length, horizon=truths.shape[1])
    targets = rows.target
    wanted = [s for s, target in zip(rows.seasons, targets, strict=True) if target]
    lessons = truths[:, None] if taught is None else np.concatenate([truths[:, None], taught], 1)
    shares: Shares = ()
    if shape.around["seasonal_adjustment"]:
        adjustment = adjust(rows.past[targets], wanted)
        shares = adjustment.shares
        rows.past[targets] = adjustment.adjusted
        lessons = _each(adjustment.remove, lessons)
    if shape.around["covariate_effects"]:
        expected = shape.pooled.of(rows.names)
        effects = without_effects(rows.past, rows.future, rows.group, targets, shares, expected)
        rows.past[targets] = effects.adjusted
        lessons = _each(effects.remove, lessons)
    futures = np.full((len(targets), *lessons.shape[1:]), np.nan)
    futures[targets] = lessons
    return _tensors(rows, futures, guided=shape.around["guide"])


def _each(remove: Callable[[FloatArray], FloatArray], futures: FloatArray) -> FloatArray:
    """(rows, futures, steps), each without its season or effects."""
    return np.stack([remove(futures[:, number]) for number in range(futures.shape[1])], axis=1)


def _tensors(rows: Rows, futures: FloatArray, *, guided: bool) -> Batch:
    known, guides = rows.future.copy(), np.full_like(rows.future, np.nan)
    if guided:
        guides[rows.target] = guide(rows.past[rows.target], futures.shape[2])
        known[rows.target] = guides[rows.target]
    values = (rows.past, known, guides, *futures.transpose(1, 0, 2))
    context, ahead, about, truth, *said = _in_unit(values)
    taught = torch.stack(said, dim=1) if said else None
    group = torch.from_numpy(rows.group)
    return Batch(context, truth, ahead, about, group, alike(rows.group), taught)


def _in_unit(values: tuple[FloatArray, ...]) -> list[Tensor]:
    """Rows by mean and deviation of the first, in double precision.

    The network scales them again, by 0 and 1, and a constant row by CONSTANT_SCALE.
    """
    past = values[0]
    scale = scale_of(past, arcsinh=False)
    largest = np.fmax.reduce(np.abs(past - scale.loc), axis=1, initial=0.0)[:, None]
    constant = largest <= CONSTANT_RATIO * np.abs(scale.loc)
    unit = np.where(constant, scale.scale / CONSTANT_SCALE, scale.scale)
    scaled = [(each - scale.loc) / unit for each in values]
    scaled[0] = np.where(constant & ~np.isnan(past), 0.0, scaled[0])
    return [torch.from_numpy(each.astype(np.float32)) for each in scaled]


def _span(record: Record) -> tuple[int, int]:
    """The first and the last count of periods that can be a history; first > last for none."""
    seen = np.flatnonzero(~np.isnan(record.target))
    if len(seen) <= LEAST_HISTORY or not (np.diff(record.target[seen]) != 0).any():
        return 1, 0
    changed = seen[1 + int((np.diff(record.target[seen]) != 0).argmax())]
    return max(int(seen[LEAST_HISTORY - 1]), int(changed)) + 1, int(seen[-1])


def _known(covariate: Covariate, past: slice, ahead: slice) -> Covariate:
    """As it stood at the moment; its future, where it is known, up to where it is recorded."""
    future = None
    if covariate.future is not None:
        future = covariate.past[ahead]
    return replace(covariate, past=covariate.past[past], future=future)


def _cut(record: Record, cut: int) -> Record:
    covariates = tuple(replace(each, past=each.past[:cut]) for each in record.covariates)
    return replace(
        record,
        times=pd.DatetimeIndex(record.times[:cut]),
        target=record.target[:cut],
        covariates=covariates,
    )
