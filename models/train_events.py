"""Fine-tuning of the events network on one shop's own past, and the gate it has to pass.

The shop is cut at many earlier moments; from each, what came until now is a label that is censored
now. The latest stretch is held out first: only a network that is better there than the one it
started from, and than BG/NBD, is kept, and then trained again on everything.

Invariant: nothing of the held-out stretch reaches the network that is judged on it.
"""

from __future__ import annotations

import copy
import hashlib
import json
import logging
import math
import shutil
import time
import warnings
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import functional

from models.base import FloatArray, ModelError
from models.baselines_events import BetaGeo, summary_of
from models.checkpoint import ADAPTER_CONFIG
from models.customers import context_of
from models.cuts import Cut, cut_at
from models.events import Answer, Curves, EventsModel, Inputs, load_events, parts_of
from models.pretrain_events import amount_loss
from models.tokens import Tokens, chosen, tokens_of
from models.tuning import TrainProgress

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
    budget_s: seconds of work, half of them at most before the number of steps is chosen.
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
    budget_s: float | None = None
    save_every_s: float = 30.0
    seed: int = 0

    def __post_init__(self) -> None:
        """Raise ModelError for what cannot be asked."""
        for name in ("rank", "steps", "looks", "rows", "cuts", "at_once", "judged"):
            if getattr(self, name) < 1:
                raise ModelError(f"{name} must be at least 1, not {getattr(self, name)}")
        for name in ("learning_rate", "held_out_days", "save_every_s"):
            if not 0 < getattr(self, name) < math.inf:
                raise ModelError(f"{name} must be above 0, not {getattr(self, name)}")
        if not 0 <= self.average < 1 or not 0 < self.strength <= 1:
            raise ModelError("average must lie in [0, 1), strength in (0, 1]")
        if self.budget_s is not None and not self.budget_s > 0:
            raise ModelError("budget_s must be above 0, or left out for no limit")


@dataclass(frozen=True, slots=True)
class FineTuned:
    """accepted: whether `out` was written. scores: mean log-loss on the held-out stretch of tuned,
    zero_shot and bg_nbd. steps: chosen. trained: parameters that were, of `parameters`. seconds: of
    work. whole: `out` is a checkpoint of its own and needs no base.
    """

    accepted: bool
    scores: dict[str, float]
    steps: int
    held_out_days: float
    trained: int
    parameters: int
    seconds: float
    whole: bool


@dataclass(frozen=True, slots=True, eq=False)
class Moment:
    """A shop now: all its customers, whole histories, and where in year and week now is."""

    crowd: Population
    year_phase: float
    weekday: int


def fine_tune(  # noqa: PLR0913 - each is a thing of its own
    base: Path,
    shop: Moment,
    out: Path,
    *,
    state: Path,
    settings: FineTuneSettings | None = None,
    base_of: Path | None = None,
    threads: int | None = None,
    told: Callable[[TrainProgress], None] | None = None,
) -> FineTuned:
    """Fit LoRA to a shop and write it to `out` if it passes the gate.

    An adapter is written where the base is a whole checkpoint; on an adapter, whose own base is
    base_of, a whole one. state: where the run is kept to go on from; the same call goes on where it
    was. told: called with each step, and may raise to stop. Raises ModelError for a shop with too
    few customers or too short a past, and for a state that is of another run.
    """
    settings = settings or FineTuneSettings()
    if threads is not None:
        torch.set_num_threads(threads)
    span = _span(shop, settings)
    days = float(np.floor(min(settings.held_out_days, span / 3)))
    held_out = cut_at(shop.crowd, days)
    before = _earlier(shop, days, held_out)
    checkpoint = load_events(base, base=base_of)
    kept = _State(state, _key(checkpoint.digest, shop, settings), settings, told)
    judge = _Judge(held_out, before, days, most=settings.judged)
    steps, tuned = _best(_Tuner(checkpoint.model, before, settings), judge, kept)
    zero_shot = judge.score(load_events(base, base=base_of).model)
    scores = {"tuned": tuned, "zero_shot": zero_shot, "bg_nbd": judge.bg_nbd()}
    accepted = steps > 0 and tuned + settings.margin < min(zero_shot, scores["bg_nbd"])
    tuner = _Tuner(load_events(base, base=base_of).model, shop, settings)
    whole = (base / ADAPTER_CONFIG).exists()
    if accepted:
        kept.begin(tuner, "everything", steps=steps, scores=scores)
        tuner.run(steps, kept.step)
        tuner.save(out, whole=whole)
    logger.info("held out %g days: %s, accepted %s", days, scores, accepted)
    trained = sum(weight.numel() for weight in tuner.weights)
    parameters = sum(weight.numel() for weight in checkpoint.model.parameters()) - trained
    return FineTuned(accepted, scores, steps, days, trained, parameters, kept.active_s, whole)


def _key(digest: str, shop: Moment, settings: FineTuneSettings) -> str:
    """Hex digest of what a run is made of; budget and saving may differ when it goes on."""
    fixed = replace(settings, budget_s=None, save_every_s=30.0)
    said = hashlib.sha256(f"{digest}{fixed}{shop.year_phase}".encode())
    said.update(shop.crowd.days_ago.tobytes())
    return said.hexdigest()


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


def _best(tuner: _Tuner, judge: _Judge, kept: _State) -> tuple[int, float]:
    """The number of steps after which the held-out loss is least, and that loss."""
    settings = kept.settings
    part = -(-settings.steps // settings.looks)
    zero_shot = judge.score(tuner.model)
    kept.begin(tuner, "before", steps=part * settings.looks, best=(0, zero_shot))
    while tuner.step < part * settings.looks and not kept.late:
        tuner.run(part * (tuner.step // part + 1), kept.step)
        with tuner.averaged():
            score = judge.score(tuner.model)
        kept.look(tuner, score)
    return kept.best


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

    def __init__(self, model: EventsModel, shop: Moment, settings: FineTuneSettings) -> None:
        from peft import LoraConfig, get_peft_model  # noqa: PLC0415 - a second few need

        self.settings = settings
        torch.manual_seed(settings.seed)
        lora = LoraConfig(
            r=settings.rank, lora_alpha=2 * settings.rank, target_modules=TARGETS, bias="none"
        )
        with warnings.catch_warnings():  # peft reads an attribute by its older name
            warnings.simplefilter("ignore", FutureWarning)
            self.model: Any = get_peft_model(model, lora)
        self.examples = _examples(shop, settings)
        self.rng = np.random.default_rng(settings.seed)
        named = [(k, each) for k, each in self.model.named_parameters() if each.requires_grad]
        self.weights = [each for _, each in named]
        self.outer = ["lora_B" in k for k, _ in named]  # what an adapter adds is linear in these
        self.average = [each.detach().clone() for each in self.weights]
        self.optimizer = torch.optim.AdamW(self.weights, weight_decay=0.01)
        self.step = 0

    def run(self, until: int, done: Callable[[_Tuner, float], None]) -> None:
        """Steps up to a number of them; done: told each one's loss."""
        while self.step < until:
            done(self, self._step())

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

    def save(self, out: Path, *, whole: bool) -> None:
        """Write the adapter, or the network with it, aside and then in place."""
        part = out.with_name(out.name + ".part")
        shutil.rmtree(part, ignore_errors=True)
        with self.averaged():
            written = copy.deepcopy(self.model).merge_and_unload() if whole else self.model
            written.save_pretrained(str(part), safe_serialization=True)
        shutil.rmtree(out, ignore_errors=True)
        part.rename(out)

    def state(self) -> dict[str, Tensor]:
        """Weights, their means and moments, by name."""
        found = {f"live.{n}": w.detach() for n, w in enumerate(self.weights)}
        found |= {f"average.{n}": w for n, w in enumerate(self.average)}
        for number, values in self.optimizer.state_dict()["state"].items():
            found |= {f"optimizer.{number}.{name}": value for name, value in values.items()}
        return {name: value.clone().contiguous() for name, value in found.items()}

    def restore(self, tensors: dict[str, Tensor], step: int, rng: dict[str, Any]) -> None:
        self._load([tensors[f"live.{n}"] for n in range(len(self.weights))])
        self.average = [tensors[f"average.{n}"] for n in range(len(self.weights))]
        whole = self.optimizer.state_dict()
        for name, value in tensors.items():
            kind, *place = name.split(".")
            if kind == "optimizer":
                whole["state"].setdefault(int(place[0]), {})[place[1]] = value
        self.optimizer.load_state_dict(whole)
        self.step, self.rng.bit_generator.state = step, rng


class _State:
    """Where a run stands, on disk, and what is told of it."""

    def __init__(
        self,
        directory: Path,
        key: str,
        settings: FineTuneSettings,
        told: Callable[[TrainProgress], None] | None,
    ) -> None:
        self.path = directory / "events.safetensors"
        self.key, self.settings, self.told = key, settings, told or (lambda _: None)
        self.phase, self.steps = "", 0
        self.best = (0, math.inf)
        self.active_s, self.score = 0.0, math.nan
        self.since = self.saved = time.monotonic()
        directory.mkdir(parents=True, exist_ok=True)

    @property
    def late(self) -> bool:
        """Whether half of the time is gone: the other half is for everything."""
        return self.settings.budget_s is not None and self.active_s > self.settings.budget_s / 2

    def begin(
        self,
        tuner: _Tuner,
        phase: str,
        *,
        steps: int,
        best: tuple[int, float] | None = None,
        scores: dict[str, float] | None = None,
    ) -> None:
        """Begin a phase, or go on with it."""
        self.phase, self.steps = phase, steps
        self.best = best or self.best
        self.score = self.best[1] if scores is None else scores["tuned"]
        self.since = time.monotonic()
        if not self.path.exists():
            return
        with safe_open(self.path, framework="pt") as file:
            facts = json.loads(file.metadata()["facts"])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        if facts["key"] != self.key:
            raise ModelError(
                f"{self.path.parent.name} holds the state of another run; choose another state "
                "directory"
            )
        if facts["phase"] == phase or phase == "before":
            self.active_s = facts["active_s"]
            self.best, self.score = (facts["best"][0], facts["best"][1]), facts["score"]
        if facts["phase"] == phase:
            tuner.restore(tensors, facts["step"], facts["rng"])
        elif phase == "before":
            tuner.step = steps  # it has been chosen

    def step(self, tuner: _Tuner, loss: float) -> None:
        """A step was done."""
        now = time.monotonic()
        self.active_s, self.since = self.active_s + now - self.since, now
        self.tell(tuner, loss)
        if now - self.saved > self.settings.save_every_s:
            self.save(tuner)

    def look(self, tuner: _Tuner, score: float) -> None:
        """The network was judged."""
        self.score = score
        if score < self.best[1]:
            self.best = (tuner.step, score)
        self.save(tuner)
        self.tell(tuner, math.nan, looked=True)

    def tell(self, tuner: _Tuner, loss: float, *, looked: bool = False) -> None:
        half = tuner.step / self.steps / 2
        share = half if self.phase == "before" else 0.5 + half
        left = self.active_s * (1 - share) / share if share else math.nan
        self.told(
            TrainProgress(
                step=tuner.step,
                steps=self.steps,
                loss=loss,
                validation=self.score,
                best=self.best[1],
                best_step=self.best[0],
                share=share,
                active_s=self.active_s,
                eta_s=left,
                looked=looked,
            )
        )

    def save(self, tuner: _Tuner) -> None:
        """Write aside, then in place."""
        facts = {
            "key": self.key,
            "phase": self.phase,
            "step": tuner.step,
            "rng": tuner.rng.bit_generator.state,
            "active_s": self.active_s,
            "best": self.best,
            "score": self.score,
        }
        beside = self.path.with_suffix(".part")
        save_file(tuner.state(), beside, metadata={"facts": json.dumps(facts)})
        beside.replace(self.path)
        self.saved = time.monotonic()


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
