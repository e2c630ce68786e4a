"""Fine-tuning of the events network on one shop's own past.

The shop is cut at many earlier moments; from each, what came until now is a label that is censored
now. The latest stretch is held out first and chooses the number of steps; then the network learns
from everything for as long. What may judge it, the gate, lies after everything that it is given.

Invariant: nothing of the stretch that chooses reaches the network that is judged on it.
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
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import functional

from models.base import FloatArray, ModelError
from models.checkpoint import ADAPTER_CONFIG
from models.customers import context_of
from models.cuts import Cut, Moment, cut_at
from models.events import Answer, EventsModel, Inputs, load_events
from models.lessons_events import Taught, Teacher, simulated_tokens, taught_loss
from models.pretrain_events import COUNT_WEIGHT, amount_loss, count_loss, first_loss
from models.stretch import BG_NBD, MOST_EVENTS, Stretch, tokens_at
from models.tokens import Tokens, chosen
from models.tuning import REPLAY, EventsTrainSettings, TrainProgress

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from models.customers import Ints
    from models.events import EventsNetwork

__all__ = ["EventsTrainSettings", "EventsTrained", "Moment", "fine_tune"]

logger = logging.getLogger(__name__)

#: Where adapters go: attention and feed-forward of the encoder, and the networks at its ends.
TARGETS = r"(encoder\.layers\.\d+\.(attn\.(Wqkv|Wo)|mlp\.(Wi|Wo)))|(query|head|shop)\.[024]"


@dataclass(frozen=True, slots=True)
class EventsTrained:
    """scores: mean log-loss of tuned, zero_shot and, if it has a fit, bg_nbd, on the last
    validation_days of what was given, which chose `steps` of `steps_done`. trained: parameters that
    were, of `parameters`. seconds: of work. whole: `out` is a checkpoint of its own and needs no
    base.
    """

    method: str
    scores: dict[str, float]
    steps: int
    steps_done: int
    validation_days: float
    trained: int
    parameters: int
    seconds: float
    whole: bool

    @property
    def better(self) -> bool:
        """Whether it was better than all others where the number of steps was chosen."""
        rivals = [score for name, score in self.scores.items() if name != "tuned"]
        return self.steps > 0 and self.scores["tuned"] < min(rivals)


def fine_tune(  # noqa: PLR0913 - each is a thing of its own
    base: Path,
    shop: Moment,
    out: Path,
    *,
    state: Path,
    settings: EventsTrainSettings | None = None,
    base_of: Path | None = None,
    earlier: Sequence[Moment] = (),
    teacher: EventsNetwork | None = None,
    threads: int | None = None,
    told: Callable[[TrainProgress], None] | None = None,
) -> EventsTrained:
    """Learn from a shop, all of which may be learned from, and write what came of it to `out`.

    An adapter is written for lora where the base is a whole checkpoint; by other methods, or on an
    adapter, whose own base is base_of, a whole one. It says what the base says if no step was of
    use. earlier: shops that were learned before, to replay. teacher: what is to be taught. state:
    where the run is kept to go on from; the same call goes on where it was. told: called with each
    step, and may raise to stop. Raises ModelError for a shop with too few customers or too short a
    past, and for a state that is of another run.
    """
    settings = settings or EventsTrainSettings()
    if threads is not None:
        torch.set_num_threads(threads)
    days = validation_days(shop, settings)
    stretch = Stretch.latest(shop, (np.ceil(days / 3), days), most=settings.judged)
    checkpoint = load_events(base, base=base_of)
    parameters = sum(weight.numel() for weight in checkpoint.model.parameters())
    beside = _Beside.of(earlier, teacher, settings)
    key = _key(f"{checkpoint.digest}{beside.key}", shop, settings)
    kept = _State(state, key, settings, told)
    first = _Tuner(checkpoint.model, stretch.before, settings, beside)
    steps, tuned = _best(first, stretch, kept)
    scores = {"tuned": tuned, "zero_shot": _loss(stretch, load_events(base, base=base_of).model)}
    fitted = stretch.fitted(BG_NBD)
    if fitted is not None:
        scores["bg_nbd"] = float(stretch.losses(fitted).mean())
    logger.info("held out %g days: %s after %d steps", days, scores, steps)
    tuner = _Tuner(load_events(base, base=base_of).model, shop, settings, beside)
    if steps:
        kept.begin(tuner, "everything", steps=steps, after=first.step)
        tuner.run(steps, kept.step)
    whole = settings.method != "lora" or (base / ADAPTER_CONFIG).exists()
    tuner.save(out, whole=whole)
    return EventsTrained(
        method=settings.method,
        scores=scores,
        steps=steps,
        steps_done=first.step,
        validation_days=days,
        trained=sum(weight.numel() for weight in tuner.weights),
        parameters=parameters,
        seconds=kept.active_s,
        whole=whole,
    )


def validation_days(shop: Moment, settings: EventsTrainSettings) -> float:
    """Days at the end of a shop that choose the number of steps. Raises ModelError if too short."""
    if len(shop.crowd) < settings.least_customers or shop.span < settings.least_days:
        raise ModelError(
            f"fine-tuning needs {settings.least_customers} customers and {settings.least_days:g} "
            f"days of history to learn from, here are {len(shop.crowd)} and {shop.span:.0f}"
        )
    return float(np.floor(min(settings.validation_days, shop.span / 3)))


def _key(digest: str, shop: Moment, settings: EventsTrainSettings) -> str:
    """Hex digest of what a run is made of; budget and saving may differ when it goes on."""
    fixed = replace(settings, budget_s=None, save_every_s=30.0)
    said = hashlib.sha256(f"{digest}{fixed}{shop.year_phase}".encode())
    said.update(shop.crowd.days_ago.tobytes())
    return said.hexdigest()


def _best(tuner: _Tuner, stretch: Stretch, kept: _State) -> tuple[int, float]:
    """The number of steps after which the held-out loss is least, and that loss."""
    settings = kept.settings
    part = -(-settings.steps // settings.looks)
    zero_shot = _loss(stretch, tuner.model)
    kept.begin(tuner, "before", steps=part * settings.looks, best=(0, zero_shot))
    while tuner.step < part * settings.looks and not kept.late():
        tuner.run(part * (tuner.step // part + 1), kept.step, enough=kept.late)
        with tuner.averaged():
            score = _loss(stretch, tuner.model)
        kept.look(tuner, score)
    return kept.best


def _loss(stretch: Stretch, model: EventsModel) -> float:
    return float(stretch.losses(stretch.foretold("", model)).mean())


# --- training --------------------------------------------------------------------------------


class _Tuner:
    """A network in training on the earlier cuts of one moment."""

    def __init__(
        self,
        model: EventsModel,
        shop: Moment,
        settings: EventsTrainSettings,
        beside: _Beside | None = None,
    ) -> None:
        self.settings, self.beside = settings, beside or _Beside.of((), None, settings)
        self.edges = np.array([0.0, *model.config.bin_edges])
        torch.manual_seed(settings.seed)
        self.before = copy.deepcopy(model).requires_grad_(False)
        self.model: Any = _freed(model, settings)
        self.examples = _examples(shop, settings)
        self.rng = np.random.default_rng(settings.seed)
        self.weights = [each for each in self.model.parameters() if each.requires_grad]
        self.average = [each.detach().clone() for each in self.weights]
        self.optimizer = torch.optim.AdamW(self.weights, weight_decay=0.01)
        self.step = 0

    def run(
        self,
        until: int,
        done: Callable[[_Tuner, float], None],
        *,
        enough: Callable[[], bool] = lambda: False,
    ) -> None:
        """Steps up to a number of them, or until it is enough; done: told each one's loss."""
        while self.step < until and not enough():
            done(self, self._step())

    def _step(self) -> float:
        self.step += 1
        warm = min(1.0, self.step / 10)
        for group in self.optimizer.param_groups:
            group["lr"] = self.settings.rate * warm
        count = min(self.settings.at_once, len(self.examples))
        numbers = self.rng.choice(len(self.examples), size=count, replace=False)
        total = sum(self._part(self.examples[number], share=1 / count) for number in numbers)
        torch.nn.utils.clip_grad_norm_(self.weights, 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        keep = min(self.settings.average, (1 + self.step) / (10 + self.step))
        torch._foreach_lerp_(self.average, [each.detach() for each in self.weights], 1 - keep)
        return total

    def _part(self, example: _Example, *, share: float) -> float:
        """Add the gradient of some rows, which are this share of the step; in place of the shop's
        own now and then of another shop's.
        """
        size = math.ceil(self.settings.rows * share)
        replay = self.beside.replay
        if not replay or self.rng.random() >= replay:
            loss, rows = self._own(example, size)
        elif self.beside.earlier:
            loss, rows = self._again(self.beside.draw(self.rng), size)
        else:
            tokens = simulated_tokens(self.rng, size, length=self.model.config.length)
            inputs, rows = Inputs.of(tokens, self.model.device), len(tokens)
            loss = taught_loss(self.model(inputs), self._before(inputs))
        loss = loss * (share / rows)
        loss.backward()  # type: ignore[no-untyped-call]
        return float(loss.detach())

    def _own(self, example: _Example, size: int) -> tuple[Tensor, int]:
        """Of the shop: what came, and what a teacher says of it."""
        rows = self._rows(example, size)
        batch = example.take(rows, self.model.config.length)
        teacher, share = self.beside.teacher, self.settings.teaching
        if teacher is None:
            return self._loss(batch), len(rows)
        answer = self.model(Inputs.of(batch.tokens, self.model.device))
        taught = teacher.said_of(example.tokens(rows, teacher.length), self.edges)
        came = censored_loss(answer, batch, self.model.config.bin_edges)
        return share * taught_loss(answer, taught) + (1 - share) * came, len(rows)

    def _loss(self, batch: CensoredBatch) -> Tensor:
        inputs = Inputs.of(batch.tokens, self.model.device)
        answer = self.model(inputs)
        loss = censored_loss(answer, batch, self.model.config.bin_edges)
        if not self.settings.anchor:
            return loss
        with torch.no_grad():
            before = self.before(inputs)
        return loss + self.settings.anchor * anchor_loss(answer, before)

    def _again(self, example: _Example, size: int) -> tuple[Tensor, int]:
        """Of a shop that was learned before: what came, and what the network before says of it.

        Where customers are compared the level costs nothing, and would be forgotten without the
        latter, as of "learning without forgetting" (Li and Hoiem, 2016).
        """
        rows = self._rows(example, size)
        batch = example.take(rows, self.model.config.length)
        inputs = Inputs.of(batch.tokens, self.model.device)
        answer = self.model(inputs)
        came = censored_loss(answer, batch, self.model.config.bin_edges)
        return (taught_loss(answer, self._before(inputs)) + came) / 2, len(rows)

    @torch.no_grad()
    def _before(self, inputs: Inputs) -> Taught:
        return Taught.by(self.before(inputs))

    def _rows(self, example: _Example, size: int) -> Ints:
        count = len(example.first)
        return self.rng.choice(count, size=min(size, count), replace=False)

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """The network has its averaged weights within."""
        live = [each.detach().clone() for each in self.weights]
        self._load(self.average)
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
            merges = whole and self.settings.method == "lora"
            written = copy.deepcopy(self.model).merge_and_unload() if merges else self.model
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


def _freed(model: EventsModel, settings: EventsTrainSettings) -> Any:  # noqa: ANN401 - or a PeftModel
    """The network with what is trained free, the rest frozen."""
    if settings.method != "lora":
        model.requires_grad_(settings.method == "full")
        model.head.requires_grad_(True)
        return model
    from peft import LoraConfig, get_peft_model  # noqa: PLC0415 - a second few need

    lora = LoraConfig(
        r=settings.rank, lora_alpha=2 * settings.rank, target_modules=TARGETS, bias="none"
    )
    with warnings.catch_warnings():  # peft reads an attribute by its older name
        warnings.simplefilter("ignore", FutureWarning)
        return get_peft_model(model, lora)


class _State:
    """Where a run stands, on disk, and what is told of it."""

    def __init__(
        self,
        directory: Path,
        key: str,
        settings: EventsTrainSettings,
        told: Callable[[TrainProgress], None] | None,
    ) -> None:
        self.path = directory / "events.safetensors"
        self.key, self.settings, self.told = key, settings, told or (lambda _: None)
        self.phase, self.steps, self.after = "", 0, 0
        self.best = (0, math.inf)
        self.active_s, self.score = 0.0, math.nan
        self.since = self.saved = time.monotonic()
        directory.mkdir(parents=True, exist_ok=True)

    def late(self) -> bool:
        """Whether half of the time is gone: the other half is for everything."""
        return self.settings.budget_s is not None and self.active_s > self.settings.budget_s / 2

    def begin(
        self,
        tuner: _Tuner,
        phase: str,
        *,
        steps: int,
        after: int = 0,
        best: tuple[int, float] | None = None,
    ) -> None:
        """Begin a phase, or go on with it. steps: of it, after those of the phase before."""
        self.phase, self.steps, self.after = phase, steps, after
        self.best = best or self.best
        self.score = best[1] if best else math.nan
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
            tuner.step = facts["after"]  # it has been chosen

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
        share = self._share(tuner.step / self.steps)
        left = self.active_s * (1 - share) / share if share else math.nan
        self.told(
            TrainProgress(
                step=self.after + tuner.step,
                steps=self.after + self.steps,
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

    def _share(self, done: float) -> float:
        """How much of the run is done, by the steps of its phase or by the time there is."""
        if self.phase != "before":
            return 0.5 + done / 2
        half_s = (self.settings.budget_s or math.inf) / 2
        return min(1.0, max(done, self.active_s / half_s)) / 2

    def save(self, tuner: _Tuner) -> None:
        """Write aside, then in place."""
        facts = {
            "key": self.key,
            "phase": self.phase,
            "step": tuner.step,
            "after": self.after,
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

    def tokens(self, rows: Ints, length: int) -> Tokens:
        some = chosen(self.cut.population, rows, most_events=MOST_EVENTS)
        return tokens_at(self.moment, some, self.context, length=length)

    def take(self, rows: Ints, length: int) -> CensoredBatch:
        tokens = self.tokens(rows, length)
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


@dataclass(frozen=True, slots=True, eq=False)
class _Beside:
    """What is learned from beside the shop. replay: the share of other shops. earlier: by shop, its
    cuts. key: of all of it.
    """

    replay: float
    earlier: tuple[list[_Example], ...]
    teacher: Teacher | None
    key: str

    @classmethod
    def of(
        cls,
        earlier: Sequence[Moment],
        teacher: EventsNetwork | None,
        settings: EventsTrainSettings,
    ) -> _Beside:
        """Shops too small to learn from are left out."""
        key = hashlib.sha256(b"" if teacher is None else teacher.fingerprint.encode())
        found = []
        for shop in earlier if settings.replay != 0 else ():
            key.update(shop.crowd.days_ago.tobytes())
            with suppress(ModelError):
                found.append(_examples(shop, settings))
        teaching = None if teacher is None else Teacher(teacher)
        replay = (REPLAY if found else 0.0) if settings.replay is None else settings.replay
        said = key.hexdigest() if earlier or teacher else ""
        return cls(replay, tuple(found), teaching, said)

    def draw(self, rng: np.random.Generator) -> _Example:
        """Any cut of any shop that was learned before."""
        cuts = self.earlier[int(rng.integers(len(self.earlier)))]
        return cuts[int(rng.integers(len(cuts)))]


def _examples(shop: Moment, settings: EventsTrainSettings) -> list[_Example]:
    """Cuts evenly over the past, each with some history before it and some future after it."""
    nearest, farthest = 7.0, max(14.0, shop.span - min(60.0, shop.span / 3))
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
    return _Example(shop.before(cut), cut, context, cut.first_days(), counts, cut.mean_amount())


def censored_loss(answer: Answer, batch: CensoredBatch, bin_edges: Sequence[int]) -> Tensor:
    """Sum over the rows of one cut: who buys when, how often and for how much, all but the level.

    What a shop sold at each earlier moment has its own level, of a season or a campaign, and that
    of tomorrow is none of them: it is left to what the network knew. Only how customers compare
    with each other is learned.
    """
    device = answer.hazard.device
    edges = torch.tensor([0.0, *bin_edges], device=device)
    first = torch.from_numpy(batch.first).float().to(device)
    timing = survival_loss(answer, first, watched=batch.watched, edges=edges)
    counts = torch.from_numpy(batch.counts).float().to(device)
    mean = answer.purchases()[:, : counts.shape[1]]
    mean = mean * (counts.sum(dim=0) / mean.sum(dim=0).clamp(min=1e-9))
    count = (1 + counts) * torch.log1p(mean) - counts * torch.log(mean + 1e-9)
    amount = amount_loss(answer, torch.from_numpy(batch.amount).float().to(device))
    return timing + 0.1 * count.sum() + 0.1 * amount.sum()


def anchor_loss(answer: Answer, before: Answer) -> Tensor:
    """Sum over the rows of how far an answer is from that of the network before, in when the first
    purchase comes and in how many there are: Kullback–Leibler divergence, but for a constant, and
    deviance.

    Where customers are compared, the level costs nothing and would drift; this alone speaks of it,
    and is least where the means over customers are those of the network before.
    """
    first = first_loss(answer, before.log_first().exp())
    return (first + COUNT_WEIGHT * count_loss(answer, before.purchases())).sum()


def survival_loss(answer: Answer, first: Tensor, *, watched: float, edges: Tensor) -> Tensor:
    """Minus the log partial likelihood of rows of one cut, each bin of time a stratum of its own.

    The hazard is constant within a bin; what all rows have in common in a bin cancels out, so a
    level that is higher or lower in all of them costs nothing (Cox 1972; with a level of each bin
    at its maximum, Breslow 1974). first: (rows,) days to the purchase, infinite for those censored
    at `watched` days.
    """
    gained = functional.softplus(answer.hazard)  # (rows, bins) cumulative hazard of each bin
    low, width = edges[:-1], edges[1:] - edges[:-1]
    came = torch.isfinite(first) & (first < edges[-1])
    until = torch.where(came, first, min(watched, float(edges[-1])))
    lived = ((until[:, None] - low) / width).clamp(0.0, 1.0)
    place = torch.searchsorted(edges[1:], first.clamp(max=float(edges[-1]) - 1e-3), right=True)
    rate = gained.gather(1, place[:, None])[:, 0] / width[place]
    events = torch.bincount(place[came], minlength=len(width))
    level = torch.log((lived * gained).sum(dim=0).clamp(min=1e-9))
    return (events * level).sum() - torch.log(rate[came]).sum()
