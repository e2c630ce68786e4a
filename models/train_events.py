"""Fine-tuning of the events network on one shop's own past, and the gate it has to pass.

The shop is cut at many earlier moments; from each, what came until now is a label that is censored
now. The latest stretch is held out first: only a network that is better there than the one it
started from, and than BG/NBD, is kept, and then trained again on everything.

Invariant: nothing of the held-out stretch reaches the network that is judged on it.
"""

from __future__ import annotations

import logging
import math
import warnings
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from models.base import FloatArray, ModelError
from models.baselines_events import BetaGeo, summary_of
from models.customers import context_of
from models.cuts import Cut, cut_at
from models.events import Answer, Curves, EventsModel, Inputs, load_events, parts_of
from models.pretrain_events import amount_loss
from models.tokens import Tokens, chosen, tokens_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from models.customers import Ints, Population

logger = logging.getLogger(__name__)

#: Where adapters go: attention and feed-forward of the encoder, and the networks at its ends.
TARGETS = r"(encoder\.layers\.\d+\.(attn\.(Wqkv|Wo)|mlp\.(Wi|Wo)))|(query|head|shop)\.[024]"


@dataclass(frozen=True, slots=True)
class FineTuneSettings:
    """rank: of LoRA. steps: at most; how many is chosen on the held-out stretch, by looks. rows:
    customers of a step, from `at_once` of the `cuts`, which are earlier moments: a step of one of
    them would follow the level of its days. average: of the exponential mean of the weights, which
    is what is judged and kept. strength: share that is kept of what was learned, since a shop's
    level moves on. judged: customers at most on the held-out stretch.
    least_customers, least_days: of a shop that can be tuned to. held_out_days: at most, and no more
    than a third of the shop's history. margin: log-loss by which it must beat the others.
    """

    rank: int = 8
    steps: int = 120
    looks: int = 6
    rows: int = 128
    learning_rate: float = 4e-4
    cuts: int = 8
    at_once: int = 8
    average: float = 0.95
    strength: float = 0.7
    judged: int = 5000
    held_out_days: float = 90.0
    least_customers: int = 100
    least_days: float = 60.0
    margin: float = 0.0
    seed: int = 0


@dataclass(frozen=True, slots=True)
class FineTuned:
    """accepted: whether the adapter was written. scores: mean log-loss on the held-out stretch of
    tuned, zero_shot and bg_nbd. steps: chosen.
    """

    accepted: bool
    scores: dict[str, float]
    steps: int
    held_out_days: float


@dataclass(frozen=True, slots=True, eq=False)
class Moment:
    """A shop now: all its customers, whole histories, and where in year and week now is."""

    crowd: Population
    year_phase: float
    weekday: int


def fine_tune(
    base: Path,
    shop: Moment,
    out: Path,
    *,
    settings: FineTuneSettings | None = None,
    threads: int | None = None,
    told: Callable[[int, float], None] | None = None,
) -> FineTuned:
    """Fit a LoRA adapter to a shop and write it to `out` if it passes the gate.

    told: called with each step and its loss, and may raise to stop. Raises ModelError for a shop
    with too few customers or too short a past.
    """
    settings = settings or FineTuneSettings()
    if threads is not None:
        torch.set_num_threads(threads)
    span = _span(shop, settings)
    days = float(np.floor(min(settings.held_out_days, span / 3)))
    held_out = cut_at(shop.crowd, days)
    before = _earlier(shop, days, held_out)
    judge = _Judge(held_out, before, days, most=settings.judged)
    steps, tuned = _best(base, before, judge, settings, told)
    scores = {"tuned": tuned, "zero_shot": judge.score(_plain(base)), "bg_nbd": judge.bg_nbd()}
    best = min(scores["zero_shot"], scores["bg_nbd"])
    accepted = steps > 0 and tuned + settings.margin < best
    if accepted:
        trainer = _Tuner(base, shop, settings)
        trainer.run(steps, told)
        trainer.save(out)
    logger.info("held out %g days: %s, accepted %s", days, scores, accepted)
    return FineTuned(accepted, scores, steps, days)


def _span(shop: Moment, settings: FineTuneSettings) -> float:
    span = float(np.nanmax(shop.crowd.first_days_ago)) if len(shop.crowd) else 0.0
    if len(shop.crowd) < settings.least_customers or span < settings.least_days:
        raise ModelError(
            f"fine-tuning needs {settings.least_customers} customers and {settings.least_days:g} "
            f"days of history, here are {len(shop.crowd)} and {span:.0f}"
        )
    return span


def _earlier(shop: Moment, days: float, cut: Cut) -> Moment:
    return Moment(
        cut.population, (shop.year_phase - days / 365.25) % 1.0, int(shop.weekday - days) % 7
    )


def _best(
    base: Path,
    before: Moment,
    judge: _Judge,
    settings: FineTuneSettings,
    told: Callable[[int, float], None] | None,
) -> tuple[int, float]:
    """The number of steps after which the held-out loss is least, and that loss."""
    tuner = _Tuner(base, before, settings)
    part = -(-settings.steps // settings.looks)
    best = (0, judge.score(tuner.model))
    for look in range(1, settings.looks + 1):
        tuner.run(part, told)
        with tuner.averaged():
            score = judge.score(tuner.model)
        if score < best[1]:
            best = (look * part, score)
    return best


def _plain(base: Path) -> EventsModel:
    return load_events(base).model


class _Judge:
    """Log-loss on the held-out stretch, at a third of it and at all of it, of some customers."""

    def __init__(self, cut: Cut, before: Moment, days: float, *, most: int) -> None:
        self.cut, self.before = cut, before
        self.context = context_of(cut.population)
        self.horizons = np.array([np.ceil(days / 3), days])
        count = len(cut.people)
        self.rows = np.sort(np.random.default_rng(0).permutation(count)[:most])
        truth = np.stack([cut.bought(float(each)) for each in self.horizons], axis=1)
        self.truth = truth[self.rows]

    def score(self, model: EventsModel) -> float:
        some = chosen(self.cut.population, self.rows, most_events=256)
        tokens = _tokens(self.before, some, self.context, model)
        return self._loss(curves_of(model, tokens).probability(self.horizons))

    def bg_nbd(self) -> float:
        summary = summary_of(self.cut.population)
        fit = BetaGeo.fit(summary)
        said = np.stack([fit.probability(summary, h) for h in self.horizons], axis=1)
        return self._loss(said[self.rows])

    def _loss(self, probability: FloatArray) -> float:
        p = np.clip(probability, 1e-6, 1 - 1e-6)
        return float(-np.where(self.truth, np.log(p), np.log1p(-p)).mean())


@torch.inference_mode()
def curves_of(model: EventsModel, tokens: Tokens) -> Curves:
    """What a model says of tokens, on the device it is on."""
    device = next(model.parameters()).device
    bins = len(_edges(model)) - 1
    hazard, more, amount = (np.empty((len(tokens), n)) for n in (bins, bins, 1))
    for part in parts_of(tokens, 4096):
        answer = model(Inputs.of(tokens.take(part), device))
        hazard[part] = functional.softplus(answer.hazard).cpu().numpy()
        more[part] = answer.excess().cpu().numpy()
        amount[part, 0] = answer.amount.cpu().numpy()
    return Curves(_edges(model), hazard, more, amount[:, 0], tokens.scale)


def _edges(model: EventsModel) -> FloatArray:
    return np.array([0.0, *model.config.bin_edges])


def _tokens(moment: Moment, crowd: Population, context: FloatArray, model: EventsModel) -> Tokens:
    count = len(crowd)
    return tokens_of(
        crowd,
        contexts=context[None],
        known=np.ones(1, dtype=np.bool_),
        shop=np.zeros(count, dtype=np.int64),
        year_phase=np.full(count, moment.year_phase),
        weekday=np.full(count, moment.weekday),
        length=model.config.length,
    )


# --- training --------------------------------------------------------------------------------


class _Tuner:
    """LoRA on the earlier cuts of one moment."""

    def __init__(self, base: Path, shop: Moment, settings: FineTuneSettings) -> None:
        from peft import LoraConfig, get_peft_model  # noqa: PLC0415 - a second few need

        self.settings = settings
        torch.manual_seed(settings.seed)
        lora = LoraConfig(
            r=settings.rank, lora_alpha=2 * settings.rank, target_modules=TARGETS, bias="none"
        )
        with warnings.catch_warnings():  # peft reads an attribute by its older name
            warnings.simplefilter("ignore", FutureWarning)
            self.model: Any = get_peft_model(_plain(base), lora)
        self.examples = _examples(shop, settings)
        self.rng = np.random.default_rng(settings.seed)
        named = [(k, each) for k, each in self.model.named_parameters() if each.requires_grad]
        self.weights = [each for _, each in named]
        self.outer = ["lora_B" in k for k, _ in named]  # what an adapter adds is linear in these
        self.average = [each.detach().clone() for each in self.weights]
        self.optimizer = torch.optim.AdamW(self.weights, weight_decay=0.01)
        self.step = 0

    def run(self, steps: int, told: Callable[[int, float], None] | None) -> None:
        for _ in range(steps):
            loss = self._step()
            if told is not None:
                told(self.step, loss)

    def _step(self) -> float:
        self.step += 1
        warm = min(1.0, self.step / 10)
        for group in self.optimizer.param_groups:
            group["lr"] = self.settings.learning_rate * warm
        count = min(self.settings.at_once, len(self.examples))
        numbers = self.rng.choice(len(self.examples), size=count, replace=False)
        total = sum(self._learn(self.examples[number], share=1 / count) for number in numbers)
        torch.nn.utils.clip_grad_norm_(self.weights, 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        keep = min(self.settings.average, (1 + self.step) / (10 + self.step))
        torch._foreach_lerp_(self.average, [each.detach() for each in self.weights], 1 - keep)
        return total

    def _learn(self, example: _Example, *, share: float) -> float:
        """Add the gradient of some rows of a cut, which is this share of the step."""
        size = min(math.ceil(self.settings.rows * share), len(example.first))
        rows = self.rng.choice(len(example.first), size=size, replace=False)
        batch = example.take(rows, self.model.config.length)
        total = 0.0
        for part in parts_of(batch.tokens, 1024):
            loss = censored_loss(self.model, batch, part) * (share / size)
            loss.backward()  # type: ignore[no-untyped-call]
            total += float(loss.detach())
        return total

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """The adapter has its averaged weights, of the strength wanted, within."""
        live = [each.detach().clone() for each in self.weights]
        strength = self.settings.strength
        pairs = zip(self.average, self.outer, strict=True)
        self._load([each * strength if outer else each for each, outer in pairs])
        try:
            yield
        finally:
            self._load(live)

    @torch.no_grad()
    def _load(self, weights: list[Tensor]) -> None:
        for weight, value in zip(self.weights, weights, strict=True):
            weight.copy_(value)

    def save(self, out: Path) -> None:
        with self.averaged():
            self.model.save_pretrained(str(out), safe_serialization=True)


@dataclass(frozen=True, slots=True, eq=False)
class _Example:
    """A cut as training data: first: (rows,) days to the first purchase, infinite where none until
    the end of `watched`. counts: (rows, bins) purchases in those bins that were watched to the end.
    """

    moment: Moment
    cut: Cut
    context: FloatArray
    first: FloatArray
    counts: FloatArray
    amount: FloatArray

    def take(self, rows: Ints, length: int) -> CensoredBatch:
        count = len(rows)
        tokens = tokens_of(
            chosen(self.cut.population, rows, most_events=256),
            contexts=self.context[None],
            known=np.ones(1, dtype=np.bool_),
            shop=np.zeros(count, dtype=np.int64),
            year_phase=np.full(count, self.moment.year_phase),
            weekday=np.full(count, self.moment.weekday),
            length=length,
        )
        return CensoredBatch(
            tokens,
            self.first[rows],
            self.cut.watched,
            self.counts[rows],
            self.amount[rows] / tokens.scale,
        )


@dataclass(frozen=True, slots=True, eq=False)
class CensoredBatch:
    """first: (rows,) days. watched: days. counts: (rows, watched bins). amount: relative."""

    tokens: Tokens
    first: FloatArray
    watched: float
    counts: FloatArray
    amount: FloatArray


def _examples(shop: Moment, settings: FineTuneSettings) -> list[_Example]:
    """Cuts evenly over the past, each with some history before it and some future after it."""
    span = float(np.nanmax(shop.crowd.first_days_ago))
    nearest, farthest = 7.0, max(14.0, span - min(60.0, span / 3))
    examples = []
    for days in np.unique(np.floor(np.linspace(nearest, farthest, settings.cuts))):
        cut = cut_at(shop.crowd, float(days))
        if len(cut.people) >= settings.least_customers / 2:
            examples.append(_example(shop, cut))
    if not examples:
        raise ModelError("no earlier moment has enough customers to learn from")
    return examples


def _example(shop: Moment, cut: Cut) -> _Example:
    from models.synth.customers import BIN_EDGES  # noqa: PLC0415 - the bins of every checkpoint

    edges = np.array([0.0, *BIN_EDGES])
    bins = int(np.searchsorted(edges[1:], cut.watched, side="right"))
    counts = np.zeros((len(cut.people), bins))
    place = np.searchsorted(edges[1:], cut.after_days, side="right")
    inside = place < bins
    np.add.at(counts, (cut.who[inside], place[inside]), 1.0)
    context = context_of(cut.population)
    moment = _earlier(shop, cut.watched, cut)
    return _Example(moment, cut, context, cut.first_days(), counts, cut.mean_amount())


def censored_loss(model: EventsModel, batch: CensoredBatch, rows: Ints) -> Tensor:
    """Sum over rows of the right-censored loss, and of counts and amounts where they are known."""
    device = next(model.parameters()).device
    answer = model(Inputs.of(batch.tokens.take(rows), device))
    edges = torch.tensor([0.0, *model.config.bin_edges], device=device)
    first = torch.from_numpy(batch.first[rows]).float().to(device)
    timing = survival_loss(answer, first, watched=batch.watched, edges=edges)
    counts = torch.from_numpy(batch.counts[rows]).float().to(device)
    mean = answer.purchases()[:, : counts.shape[1]]
    count = (1 + counts) * torch.log1p(mean) - counts * torch.log(mean + 1e-9)
    amount = amount_loss(answer, torch.from_numpy(batch.amount[rows]).float().to(device))
    return timing.sum() + 0.1 * count.sum() + 0.1 * amount.sum()


def survival_loss(answer: Answer, first: Tensor, *, watched: float, edges: Tensor) -> Tensor:
    """(rows,) minus log-likelihood where the hazard is constant within a bin.

    first: (rows,) days to the purchase, infinite for those censored at `watched` days.
    """
    gained = functional.softplus(answer.hazard)  # (rows, bins) cumulative hazard of each bin
    low, width = edges[:-1], edges[1:] - edges[:-1]
    came = torch.isfinite(first) & (first < edges[-1])
    until = torch.where(came, first, min(watched, float(edges[-1])))
    lived = ((until[:, None] - low) / width).clamp(0.0, 1.0)
    place = torch.searchsorted(edges[1:], first.clamp(max=float(edges[-1]) - 1e-3), right=True)
    rate = gained.gather(1, place[:, None])[:, 0] / width[place]
    return (lived * gained).sum(dim=1) - torch.where(came, torch.log(rate), 0.0)
