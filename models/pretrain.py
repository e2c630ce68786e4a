"""Pretraining of the series network on synthetic series, behind the seasonal adjustment.

Every step has its own windows, drawn from (seed, step, rank) alone: none is seen twice, and a run
that was stopped goes on where it was, with any number of worker processes. Under `torchrun` every
process draws and differentiates a batch of its own, and all step by the mean gradient.

Invariant: the network is trained on exactly what serving gives it: rows that `models.seasonal`
has adjusted from their context alone, covariates as they are.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import logging
import os
import signal
import time
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import NormalDist, median
from typing import TYPE_CHECKING

import numpy as np
import torch
from chronos.chronos2.layers import AttentionOutput, GroupSelfAttention
from chronos.chronos2.model import Chronos2Model
from torch import Tensor, distributed
from torch.utils.data import DataLoader, Dataset

from models.base import ModelError
from models.checkpoint import initialise, load_series, series_config
from models.effects import without_effects
from models.guide import guide
from models.learner import Learner, rate_at, replace_tensors
from models.seasonal import CANDIDATES, adjust
from models.synth.series import groups, singles
from models.tracking import Curve
from models.tuning import TRACKERS

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from chronos.chronos2.config import Chronos2CoreConfig

    from models.seasonal import Flags, Floats, Seasons
    from models.synth.series import Grouped, Ints

logger = logging.getLogger(__name__)

#: Seasons told of a window, with their weights: as shops and the public collections have them.
TOLD: tuple[tuple[Seasons, float], ...] = (
    ((), 0.12),
    ((4,), 0.17),
    ((12,), 0.25),
    ((7, 365), 0.22),
    ((52,), 0.06),
    ((24, 168), 0.06),
    ((5,), 0.05),
    (None, 0.07),
)
#: What stands around the network, as checkpoints and settings call it.
AROUND = ("seasonal_adjustment", "covariate_effects", "guide")
_HELD_OUT = 1 << 40  # steps from here on are for validation


@dataclass(frozen=True, slots=True)
class PretrainSettings:
    """One pretraining run.

    out: directory of the checkpoint, written at every save. run: directory of the state to resume
    from and of the curve. windows: rows to train on in all; budget_s: seconds of work, without
    pauses, after which the run ends sooner (None: no limit); the learning rate follows whichever
    of the two is further on, and falls to nothing over the last `cooldown` of it. batch_tokens:
    patches of a step. dtype of the products: "float32" or "bfloat16". init: a checkpoint to begin
    from. without: what of AROUND is left out, comma separated, to see what it is worth. report_to:
    TRACKERS that get the curve, comma separated, beside the log.
    """

    out: Path
    run: Path
    windows: int = 4_000_000
    budget_s: float | None = None
    seed: int = 0
    batch_tokens: int = 4096
    learning_rate: float = 2e-3
    warmup_steps: int = 200
    cooldown: float = 0.3
    average: float = 0.998
    grouped_share: float = 0.3
    workers: int = 0
    threads: int | None = None
    device: str = "auto"
    dtype: str = "float32"
    save_every_s: float = 180.0
    d_model: int = 160
    d_ff: int = 640
    layers: int = 4
    heads: int = 5
    d_kv: int = 32
    patch: int = 16
    context_length: int = 1024
    max_output_patches: int = 16
    init: Path | None = None
    without: str = ""
    report_to: str = "tensorboard"

    def __post_init__(self) -> None:
        """Raise ModelError for what no run can be made of."""
        if min(self.windows, self.batch_tokens, self.layers, self.heads, self.patch) < 1:
            raise ModelError("windows, batch_tokens, layers, heads and patch must be positive")
        if not 0 < self.cooldown <= 1 or not 0 <= self.grouped_share <= 1:
            raise ModelError("cooldown must lie in (0, 1], grouped_share in [0, 1]")
        if unknown := set(filter(None, self.report_to.split(","))) - set(TRACKERS):
            raise ModelError(f"report_to must name some of {', '.join(TRACKERS)}, not {unknown}")
        if unknown := set(filter(None, self.without.split(","))) - set(AROUND):
            raise ModelError(f"without must name some of {', '.join(AROUND)}, not {min(unknown)!r}")

    @property
    def around(self) -> dict[str, bool]:
        """What stands around the network, in training as in serving."""
        left_out = self.without.split(",")
        return {name: name not in left_out for name in AROUND}


@dataclass(slots=True)
class Progress:
    """How far a run is: optimisation steps, rows seen, seconds of work (pauses not counted)."""

    step: int = 0
    windows: int = 0
    active_s: float = 0.0

    def share(self, settings: PretrainSettings) -> float:
        """Share of the run that is done, 0 to 1 and beyond."""
        by_windows = self.windows / settings.windows
        return max(by_windows, self.active_s / settings.budget_s if settings.budget_s else 0.0)


def pretrain(settings: PretrainSettings) -> Progress:
    """Train, or go on training, and leave a checkpoint in `settings.out`.

    Resumes from `settings.run` if it holds a state. Ends, saved, on SIGTERM or Ctrl-C. Raises
    ModelError if the state there is of another architecture.
    """
    if settings.threads:
        torch.set_num_threads(settings.threads)
    device = torch.device(_device(settings))
    torch.manual_seed(settings.seed)
    with _team(device):
        trainer = _Trainer(settings, device)
        trainer.resume()
        trainer.train()
        trainer.save()
    return trainer.progress


@contextmanager
def _team(device: torch.device) -> Iterator[None]:
    """Join the processes that torchrun has started, if it has."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield
        return
    distributed.init_process_group("nccl" if device.type == "cuda" else "gloo")
    try:
        yield
    finally:
        distributed.destroy_process_group()


def _rank() -> int:
    return distributed.get_rank() if distributed.is_initialized() else 0


def _device(settings: PretrainSettings) -> str:
    if settings.device != "auto":
        return settings.device
    if torch.cuda.is_available():
        return f"cuda:{os.environ.get('LOCAL_RANK', '0')}"
    return "cpu"


# --- network ---------------------------------------------------------------------------------


class _GroupAttention(GroupSelfAttention):  # type: ignore[misc]  # chronos has no types
    """Group attention that, for groups that are alike, looks no further than they reach.

    For rows that are all alone it is the one product it then equals.
    """

    group_rows = 0

    def forward(
        self, hidden_states: Tensor, attention_mask: Tensor, output_attentions: bool = False
    ) -> AttentionOutput:
        if self.group_rows == 0:
            return super().forward(hidden_states, attention_mask, output_attentions)
        attention, normed = self.self_attention, self.layer_norm(hidden_states)
        if self.group_rows == 1:
            value = attention.o(attention.v(normed))
        else:
            value = self._within(normed, attention_mask)
        return AttentionOutput(hidden_states=hidden_states + self.dropout(value))

    def _within(self, normed: Tensor, mask: Tensor) -> Tensor:
        """(rows, tokens, width), (tokens, 1, rows, rows) → what each row takes from its group."""
        rows, tokens, width = normed.shape
        size, groups = self.group_rows, rows // self.group_rows
        inside = mask.view(tokens, groups, size, groups, size).diagonal(dim1=1, dim2=3)
        inside = inside.permute(3, 0, 1, 2).reshape(groups * tokens, 1, size, size)
        apart = normed.view(groups, size, tokens, width).transpose(1, 2).flatten(0, 1)
        value: Tensor = self.self_attention(apart, mask=inside)[0]
        return value.view(groups, tokens, size, width).transpose(1, 2).reshape(rows, tokens, width)


def build_network(settings: PretrainSettings) -> Chronos2Model:
    """A Chronos-2 network with weights drawn anew (torch's generator must be seeded)."""
    model = Chronos2Model(_config(settings))
    arrange(model)
    initialise(model)
    _initialise_answer(model)
    return model


def arrange(model: Chronos2Model) -> None:
    """Let batches of groups that are alike take the short way that `answer_of` tells them of."""
    for block in model.encoder.block:
        attention, before = _GroupAttention(model.config), block.layer[1]
        for name in ("self_attention", "layer_norm", "dropout"):
            setattr(attention, name, getattr(before, name))
        block.layer[1] = attention


def begin_from(model: Chronos2Model, directory: Path) -> None:
    """Take the weights of a checkpoint of the same architecture. Raises CheckpointError.

    The answer's own layers start anew if the checkpoint had no guide: it answered whole values.
    """
    checkpoint = load_series(directory)
    trained = checkpoint.model.state_dict()
    if not checkpoint.options.get("guide", False):
        trained = {k: v for k, v in trained.items() if not k.startswith("output_patch_embedding")}
    model.load_state_dict(trained, strict=False)


def _config(settings: PretrainSettings) -> Chronos2CoreConfig:
    architecture = {
        "d_model": settings.d_model,
        "d_kv": settings.d_kv,
        "d_ff": settings.d_ff,
        "num_layers": settings.layers,
        "num_heads": settings.heads,
    }
    forecasting = {
        "context_length": settings.context_length,
        "max_output_patches": settings.max_output_patches,
        "time_encoding_scale": settings.context_length,
    }
    return series_config(architecture, forecasting, patch=settings.patch)


@torch.no_grad()
def _initialise_answer(model: Chronos2Model) -> None:
    """Start from the quantiles of the standard normal, whatever the context."""
    head = model.output_patch_embedding
    head.output_layer.weight.mul_(0.1)
    head.residual_layer.weight.mul_(0.1)
    quantiles = model.chronos_config.quantiles
    answer = torch.tensor([NormalDist().inv_cdf(q) for q in quantiles]).asinh()
    head.output_layer.bias.copy_(answer.repeat_interleave(model.chronos_config.output_patch_size))


# --- windows ---------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, eq=False)
class Batch:
    """Rows of one step: context (rows, time), future, known future (rows, horizon), float32.

    NaN is missing; `known` is NaN where a row is to be forecast, `future` where it is not scored.
    """

    context: Tensor
    future: Tensor
    known: Tensor
    guide: Tensor  # (rows, horizon), 0 for rows that are not forecast
    group: Tensor  # (rows,)
    group_rows: int  # of every group, if they are alike and in order; else 0
    taught: Tensor | None = None  # (rows, levels, horizon) a teacher's answers, as `future` is

    @property
    def alone(self) -> bool:
        """Whether every row is a group of its own."""
        return self.group_rows == 1


def alike(group: Ints) -> int:
    """The rows of every group, if those are alike and in order; else 0."""
    _, counts = np.unique(group, return_counts=True)
    ordered = bool((np.diff(group) >= 0).all())
    return int(counts[0]) if ordered and (counts == counts[0]).all() else 0


class _Steps(Dataset[Batch]):
    """The batches of a run by step number."""

    def __init__(self, settings: PretrainSettings, first: int) -> None:
        self.settings, self.first, self.rank = settings, first, _rank()

    def __len__(self) -> int:
        return _HELD_OUT

    def __getitem__(self, index: int) -> Batch:
        return draw_batch(self.settings, self.first + index, rank=self.rank)


def draw_batch(settings: PretrainSettings, step: int, *, rank: int = 0) -> Batch:
    """The batch of a step: the same for the same seed, step and rank, wherever it is drawn."""
    rng = np.random.default_rng((settings.seed, step, rank))
    context, patches = _lengths(rng, settings)
    tokens = -(-context // settings.patch) + 1 + patches
    rows = min(max(settings.batch_tokens // tokens, 8), 512)
    time = context + patches * settings.patch
    alone = rng.random() >= settings.grouped_share
    told, lengths = _told_seasons(rng, rows if alone else -(-rows // 3))
    made = (singles if alone else groups)(rng, lengths, time)
    seasons = [told[g] if settings.around["seasonal_adjustment"] else () for g in made.group]
    return _adjusted(rng, made, context, seasons, around=settings.around)


def _lengths(rng: np.random.Generator, settings: PretrainSettings) -> tuple[int, int]:
    """Context, log-uniform, and patches to forecast, mostly few and never far beyond it."""
    longest = settings.context_length
    if rng.random() < 0.95:
        longest = min(512, longest)
    context = round(float(np.exp(rng.uniform(np.log(8), np.log(longest)))))
    patches = int(rng.choice([1, 2, 3, 4, 6, 8, 12, 16], p=_PATCHES))
    farthest = max(1, 2 * context // settings.patch)
    return context, min(patches, farthest, settings.max_output_patches)


_PATCHES = [0.36, 0.34, 0.1, 0.1, 0.04, 0.03, 0.02, 0.01]


def _told_seasons(rng: np.random.Generator, count: int) -> tuple[list[Seasons], Ints]:
    """Of each series the seasons told and the true one: three quarters of them agree."""
    weights = np.array([weight for _, weight in TOLD])
    few = rng.choice(len(TOLD), size=3, p=weights / weights.sum())
    picks = few[rng.integers(0, 3, size=count)]
    told = [TOLD[i][0] for i in picks]
    lengths = np.array(
        [
            int(rng.choice(CANDIDATES)) if season is None else (season[0] if season else 0)
            for season in told
        ]
    )
    second = np.array([season[1] if season and len(season) > 1 else 0 for season in told])
    draw = rng.random(count)
    lengths = np.where((draw < 0.1) & (second == 168), second, lengths)
    lengths = np.where(draw > 0.8, 0, lengths)
    stray = rng.choice(CANDIDATES, size=count)
    return told, np.where(draw > 0.96, stray, lengths).astype(np.int64)


def _in_units(rng: np.random.Generator, values: Floats) -> Floats:
    """A few rows in other units; the network is nearly indifferent to them, rounding is not."""
    unit = 10 ** rng.uniform(-3, 3, size=(len(values), 1))
    return np.where(rng.random((len(values), 1)) < 0.2, values * unit, values)


def _lost(rng: np.random.Generator, rows: int, time: int) -> Flags:
    """(rows, time) what is not observed: half of the rows begin later, some have gaps."""
    start = np.floor(rng.random((rows, 1)) * 0.45 * time) * (rng.random((rows, 1)) < 0.5)
    step = np.arange(time)[None, :]
    rate = rng.uniform(0.02, 0.3, (rows, 1)) * (rng.random((rows, 1)) < 0.06)
    block_start = rng.integers(0, time, size=(rows, 1))
    block_end = block_start + rng.integers(1, 2 + time // 4)
    block = (step >= block_start) & (step < block_end) & (rng.random((rows, 1)) < 0.05)
    gaps = (rng.random((rows, time)) < rate) | block
    return np.asarray((step < start) | (gaps & (step >= start + 3)))


def _adjusted(
    rng: np.random.Generator,
    made: Grouped,
    context: int,
    seasons: Sequence[Seasons],
    *,
    around: Mapping[str, bool],
) -> Batch:
    """Take season and effects out of the targets, as serving does, and of their future."""
    values, rows = _in_units(rng, made.values), np.flatnonzero(made.target)
    past, future = values[:, :context].copy(), values[:, context:].copy()
    lost = _lost(rng, len(rows), context)
    adjustment = adjust(np.where(lost, np.nan, past[rows]), [seasons[i] for i in rows.tolist()])
    known = np.where(made.known[:, None], future, np.nan)
    past[rows], future[rows] = adjustment.adjusted, adjustment.remove(future[rows])
    if around["covariate_effects"]:
        effects = without_effects(past, known, made.group, made.target, adjustment.shares)
        past[rows], future[rows] = effects.adjusted, effects.remove(future[rows])
    guides = np.full_like(future, np.nan)
    if around["guide"]:
        guides[rows] = known[rows] = guide(past[rows], future.shape[1])
    future[made.known] = np.nan
    return Batch(
        context=torch.from_numpy(past.astype(np.float32)),
        future=torch.from_numpy(future.astype(np.float32)),
        known=torch.from_numpy(known.astype(np.float32)),
        guide=torch.from_numpy(guides.astype(np.float32)),
        group=torch.from_numpy(made.group),
        group_rows=alike(made.group),
    )


# --- loss ------------------------------------------------------------------------------------


def quantile_loss(model: Chronos2Model, batch: Batch) -> Tensor:
    """Mean pinball loss over quantiles, steps and rows, in the network's normalised space.

    A row weighs the more, up to 4 times, the smaller its steps are beside its spread: errors are
    judged in units of the steps (MASE), and a trend makes the spread large.
    """
    answer, truth, weight = answer_of(model, batch)
    error = torch.where(torch.isnan(truth), 0.0, torch.nan_to_num(truth) - answer)
    level = model.quantiles.float()[:, None]
    pinball = torch.maximum(level * error, (level - 1) * error).mean(dim=1)  # (rows, horizon)
    return 2 * (weight * pinball).sum() / weight.sum().clamp_min(1e-6)


def answer_of(model: Chronos2Model, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
    """What the network says, what came, and what each counts, in the network's normalised space.

    (rows, levels, horizon), (rows, 1, horizon) with NaN where nothing is scored, (rows, horizon).
    """
    for block in model.encoder.block:
        block.layer[1].group_rows = batch.group_rows
    patch = model.chronos_config.output_patch_size
    patches = batch.future.shape[1] // patch
    encoded, loc_scale, *_ = model.encode(
        context=batch.context,
        group_ids=batch.group,
        future_covariates=batch.known,
        num_output_patches=patches,
    )
    answer = model.output_patch_embedding(encoded[0][:, -patches:]).float()
    answer = answer.unflatten(-1, (-1, patch)).transpose(1, 2).flatten(2)  # (rows, levels, horizon)
    about = torch.nan_to_num(model.instance_norm(batch.guide, loc_scale)[0]).clamp(-6, 6)
    truth = model.instance_norm(batch.future, loc_scale)[0].clamp(-6, 6)[:, None]
    weight = _row_weight(batch.context, loc_scale[1]) * ~torch.isnan(truth[:, 0])
    return answer + about[:, None], truth, weight


def _row_weight(context: Tensor, scale: Tensor) -> Tensor:
    """(rows, 1) √(spread / mean step) within 1 to 4, none for a context without spread."""
    steps = torch.nanmean((context[:, 1:] - context[:, :-1]).abs(), dim=1, keepdim=True)
    ratio = scale / torch.nan_to_num(steps, nan=1.0).clamp_min(1e-12)
    spread = scale > 1e-5 * torch.nan_to_num(context).abs().amax(dim=1, keepdim=True) + 2e-5
    return ratio.sqrt().clamp(1, 4) * spread


# --- training --------------------------------------------------------------------------------


class _Trainer:
    """The state of a run and what moves it on."""

    def __init__(self, settings: PretrainSettings, device: torch.device) -> None:
        self.settings, self.device = settings, device
        self.model = build_network(settings).to(device)
        if settings.init is not None:
            begin_from(self.model, settings.init)
        self.learner = Learner(self.model, inner="encoder.block", average=settings.average)
        self.progress = Progress()
        self.stopped = self.asked_to_stop = False
        self.duration_s = 0.0
        self.durations: list[float] = []
        self.leads = _rank() == 0
        self.loss = quantile_loss
        if device.type == "cuda":
            self.loss = torch.compile(quantile_loss, dynamic=True)

    def train(self) -> None:
        asked = (signal.SIGTERM, signal.SIGINT)
        previous = [signal.signal(number, self._stop) for number in asked]
        curve = _Curve(self.settings, leads=self.leads)
        saved, losses = time.monotonic(), []
        batches = _batches(self.settings, self.progress.step)
        while self.progress.share(self.settings) < 1 and not self.stopped:
            began = time.monotonic()
            batch = next(batches)
            losses.append(self._step(batch))
            self.duration_s = time.monotonic() - began
            if self.leads and self.progress.step % 50 == 0:
                curve.add(self.progress, "loss/training", sum(losses) / len(losses))
                losses.clear()
            if self.leads and time.monotonic() - saved > self.settings.save_every_s:
                self.save()
                curve.add(self.progress, "loss/validation", self.validate())
                saved = time.monotonic()
        curve.close()
        for number, handler in zip(asked, previous, strict=True):
            signal.signal(number, handler)

    def _stop(self, *_: object) -> None:
        self.asked_to_stop = True

    def _step(self, batch: Batch) -> float:
        rate = self._learning_rate()
        with self._precision():
            loss = self.loss(self.model, _moved(batch, self.device))
        loss.backward()  # type: ignore[no-untyped-call]
        self._share(len(batch.context))
        self.learner.step(rate, self.progress.step)
        return float(loss.detach())

    def _precision(self) -> torch.autocast:
        dtype = torch.bfloat16
        return torch.autocast(self.device.type, dtype, enabled=self.settings.dtype == "bfloat16")

    def _learning_rate(self) -> float:
        settings = self.settings
        return settings.learning_rate * rate_at(
            self.progress.step,
            self.progress.share(settings),
            warmup_steps=settings.warmup_steps,
            cooldown=settings.cooldown,
        )

    def _share(self, rows: int) -> None:
        """Bring all processes to the mean gradient and to one view of how far the run is."""
        facts = [float(rows), self.duration_s, float(self.asked_to_stop)]
        if distributed.is_initialized():
            facts = self._summed(facts)
            facts[1] /= distributed.get_world_size()
        self._count(*facts)

    def _summed(self, facts: list[float]) -> list[float]:
        """Mean gradients over the processes, none where none has one; sums of the facts."""
        parameters = list(self.model.parameters())
        parts = [torch.zeros_like(p) if p.grad is None else p.grad for p in parameters]
        flat = torch.cat([*(part.flatten() for part in parts), torch.tensor(facts).to(parts[0])])
        distributed.all_reduce(flat)
        sizes = [part.numel() for part in parts]
        for parameter, total in zip(
            parameters, torch.split(flat[: sum(sizes)], sizes), strict=True
        ):
            mean = total.view_as(parameter) / distributed.get_world_size()
            parameter.grad = mean if mean.any() else None
        return [float(fact) for fact in flat[sum(sizes) :]]

    def _count(self, rows: float, duration_s: float, stopped: float) -> None:
        """A step that took far longer than usual was paused; it counts as a usual one."""
        self.durations = [*self.durations[-50:], duration_s]
        self.progress.step += 1
        self.progress.windows += round(rows)
        self.progress.active_s += min(duration_s, 4 * median(self.durations))
        self.stopped = stopped > 0

    @torch.no_grad()
    def validate(self) -> float:
        """Loss of the averaged weights on windows that no step ever draws."""
        held_out = [draw_batch(self.settings, _HELD_OUT + i) for i in range(12)]
        with self.learner.averaged():
            losses = [float(quantile_loss(self.model, _moved(b, self.device))) for b in held_out]
        return sum(losses) / len(losses)

    def save(self) -> None:
        """Write the state to go on from, then the checkpoint of the averaged weights."""
        if self.leads:
            self.learner.save(self.settings.run, dataclasses.asdict(self.progress))
            export(self.model, self.learner.average, self.settings, self.progress)

    def resume(self) -> None:
        stored = self.learner.resume(self.settings.run)
        if stored is not None:
            self.progress = Progress(
                int(stored["step"]), int(stored["windows"]), float(stored["active_s"])
            )
            logger.info("resumed at step %d, window %d", self.progress.step, self.progress.windows)


def _batches(settings: PretrainSettings, first: int) -> Iterator[Batch]:
    steps = _Steps(settings, first)
    loader = DataLoader(
        steps,
        batch_size=None,
        sampler=iter(range(_HELD_OUT)),
        num_workers=settings.workers,
        multiprocessing_context="spawn" if settings.workers else None,
    )
    return iter(loader)


def _moved(batch: Batch, device: torch.device) -> Batch:
    return dataclasses.replace(
        batch,
        context=batch.context.to(device, non_blocking=True),
        future=batch.future.to(device, non_blocking=True),
        known=batch.known.to(device, non_blocking=True),
        guide=batch.guide.to(device, non_blocking=True),
        group=batch.group.to(device, non_blocking=True),
    )


class _Curve:
    """The losses of a run, to the log and to the trackers asked for."""

    def __init__(self, settings: PretrainSettings, *, leads: bool) -> None:
        self._told = Curve(settings.report_to if leads else "", settings.run)

    def add(self, progress: Progress, name: str, value: float) -> None:
        logger.info(
            "step %d  windows %d  %.0f s  %s %.5f",
            progress.step,
            progress.windows,
            progress.active_s,
            name,
            value,
        )
        self._told.add({name: value}, step=progress.windows)

    def close(self) -> None:
        self._told.close()


# --- files -----------------------------------------------------------------------------------


def export(
    model: Chronos2Model,
    weights: dict[str, Tensor],
    settings: PretrainSettings,
    progress: Progress,
) -> None:
    """Write config.json and model.safetensors (bfloat16), as `Chronos2Pipeline` reads them."""
    settings.out.mkdir(parents=True, exist_ok=True)
    config = model.config.to_dict() | {
        "dtype": "bfloat16",
        "shopcast": {
            **settings.around,
            "trained_windows": progress.windows,
            "trained_steps": progress.step,
            "seed": settings.seed,
        },
    }
    half = {k: v.to(torch.bfloat16) for k, v in weights.items()}
    replace_tensors(settings.out / "model.safetensors", half, {"format": "pt"})
    text = json.dumps(config, indent=2, sort_keys=True) + "\n"
    (settings.out / "config.json").write_text(text, encoding="utf-8")


def main(arguments: list[str] | None = None) -> None:
    """`python -m models.pretrain --out … --run …`: every setting is an option."""
    parser = argparse.ArgumentParser(prog="python -m models.pretrain", description=__doc__)
    for field in dataclasses.fields(PretrainSettings):
        required = field.default is dataclasses.MISSING
        kind = _OPTION_TYPES[str(field.type).removesuffix(" | None")]
        parser.add_argument(
            f"--{field.name.replace('_', '-')}",
            type=kind,
            required=required,
            default=None if required else field.default,
        )
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    pretrain(PretrainSettings(**vars(parser.parse_args(arguments))))


_OPTION_TYPES = {"Path": Path, "int": int, "float": float, "str": str}

if __name__ == "__main__":
    main()
