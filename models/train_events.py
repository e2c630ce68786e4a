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
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import functional

from models.adapters import PEFT, WRITTEN_ALONE, with_adapters
from models.base import FloatArray, ModelError
from models.checkpoint import ADAPTER_CONFIG
from models.customers import context_of
from models.cuts import Cut, Moment, cut_at
from models.events import Answer, EventsConfig, EventsModel, Inputs, load_events
from models.lessons_events import Taught, Teacher, simulated_tokens, taught_loss
from models.pretrain_events import COUNT_WEIGHT, amount_loss, count_loss, first_loss
from models.stretch import BG_NBD, MOST_EVENTS, Stretch, tokens_at
from models.tokens import Tokens, chosen
from models.tracking import Curve
from models.tuning import REPLAY, EventsTrainSettings, TrainProgress

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from models.customers import Ints
    from models.events import EventsNetwork

__all__ = ["EventsTrainSettings", "EventsTrained", "Moment", "fine_tune"]

logger = logging.getLogger(__name__)

IMPORTANCE = ("ipt", "exp_avg_ipt", "exp_avg_unc")
FEWEST_READ = 4  # events, of customers that are shortened
AMOUNTS_OFF = 0.1  # deviation of their logarithms
FEWEST_COMPARED = 8  # customers with each other
WARM_STEPS = 10.0  # at least
LOGGED_EVERY = 10  # steps
OPTIMIZERS: dict[str, Callable[[list[Tensor], float, float], torch.optim.Optimizer]] = {
    "adamw": lambda weights, rate, decay: torch.optim.AdamW(weights, rate, weight_decay=decay),
    "adafactor": lambda weights, rate, decay: torch.optim.Adafactor(
        weights, rate, weight_decay=decay
    ),
    "sgd": lambda weights, rate, decay: torch.optim.SGD(weights, rate, 0.9, weight_decay=decay),
}
#: Where adapters go: attention and feed-forward of the encoder, and the networks at its ends.
TARGETS = r"(encoder\.layers\.\d+\.(attn\.(Wqkv|Wo)|mlp\.(Wi|Wo)))|(query|head|shop)\.[024]"


FEED_FORWARD = r"(encoder\.layers\.\d+\.mlp\.Wo)|(query|head|shop)\.[24]"


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
    logs: Path | None = None,
    told: Callable[[TrainProgress], None] | None = None,
) -> EventsTrained:
    """Learn from a shop, all of which may be learned from, and write what came of it to `out`.

    An adapter is written for lora and ia3 where the base is whole; by other methods, or on an
    adapter, whose own base is base_of, a whole one. It says what the base says if no step was of
    use. earlier: shops that were learned before, to replay. teacher: what is to be taught. state:
    where the run is kept to go on from; the same call goes on where it was. logs: for the files of
    trackers, `state` where not said. told: called with each step, and may raise to stop. Raises
    ModelError for a shop with too few customers or too short a past, and for a state that is of
    another run.
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
    first = _Tuner(checkpoint.model, stretch.before, settings, beside)
    with closing(Curve(settings.report_to, logs or state)) as curve:
        kept = _State(state, key, settings, curve, told)
        steps, tuned = _best(first, stretch, kept)
        tuner = _Tuner(load_events(base, base=base_of).model, shop, settings, beside)
        if steps:
            kept.begin(tuner, "everything", steps=steps, after=first.step)
            tuner.run(steps, kept.step)
    scores = {"tuned": tuned, "zero_shot": _loss(stretch, load_events(base, base=base_of).model)}
    fitted = stretch.fitted(BG_NBD)
    if fitted is not None:
        scores["bg_nbd"] = float(stretch.losses(fitted).mean())
    logger.info("held out %g days: %s after %d steps", days, scores, steps)
    whole = settings.method not in WRITTEN_ALONE or (base / ADAPTER_CONFIG).exists()
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
    """Hex digest of what a run is made of; time, saving and trackers may differ later on."""
    fixed = replace(settings, budget_s=None, save_every_s=30.0, report_to="")
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
        self.optimizer = OPTIMIZERS[settings.optimizer](
            self.weights, settings.rate, settings.weight_decay
        )
        self.splits = _splits(self.model, model.config, settings)
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
        self.model.train(bool(self.settings.dropout))
        for group in self.optimizer.param_groups:
            group["lr"] = self.settings.rate * _factor(self.step, self.settings)
        count = min(self.settings.at_once, len(self.examples))
        numbers = self.rng.choice(len(self.examples), size=count, replace=False)
        share = 1 / (count * self.splits)
        parts = [self.examples[number] for number in numbers for _ in range(self.splits)]
        total = sum(self._part(example, share=share) for example in parts)
        torch.nn.utils.clip_grad_norm_(self.weights, self.settings.clip)
        self.optimizer.step()
        if self.settings.method == "adalora":
            self.model.base_model.update_and_allocate(self.step)
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
            loss = taught_loss(self._answer(inputs), self._before(inputs))
        loss = loss * (share / rows)
        loss.backward()  # type: ignore[no-untyped-call]
        return float(loss.detach())

    def _own(self, example: _Example, size: int) -> tuple[Tensor, int]:
        """Of the shop: what came, and what a teacher says of it."""
        rows = self._rows(example, size)
        batch = self._take(example, rows)
        teacher, share = self.beside.teacher, self.settings.teaching
        if teacher is None:
            return self._loss(batch), len(rows)
        answer = self._answer(Inputs.of(batch.tokens, self.model.device))
        taught = teacher.said_of(example.tokens(rows, teacher.length), self.edges)
        came = self._came(answer, batch)
        return share * taught_loss(answer, taught) + (1 - share) * came, len(rows)

    def _loss(self, batch: CensoredBatch) -> Tensor:
        inputs = Inputs.of(batch.tokens, self.model.device)
        answer = self._answer(inputs)
        loss = self._came(answer, batch)
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
        batch = self._take(example, rows)
        inputs = Inputs.of(batch.tokens, self.model.device)
        answer = self._answer(inputs)
        came = self._came(answer, batch)
        return (taught_loss(answer, self._before(inputs)) + came) / 2, len(rows)

    def _answer(self, inputs: Inputs) -> Answer:
        """What the network says in training."""
        halved = self.settings.dtype == "bfloat16"
        with torch.autocast(self.model.device.type, torch.bfloat16, enabled=halved):
            said = self.model(inputs)
        return Answer(said.hazard.float(), said.more.float(), said.amount.float())

    def _came(self, answer: Answer, batch: CensoredBatch) -> Tensor:
        level = self.settings.loss == "hazard"
        return censored_loss(answer, batch, self.model.config.bin_edges, level=level)

    def _take(self, example: _Example, rows: Ints) -> CensoredBatch:
        length, most = self.model.config.length, MOST_EVENTS
        if "shorten" in self.settings.augment:
            most = int(self.rng.integers(min(FEWEST_READ, length), length, endpoint=True))
        moved = self.rng if "amounts" in self.settings.augment else None
        tokens = example.tokens(rows, length, most_events=most, moved=moved)
        return example.take(rows, tokens)

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
        self.model.eval()
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
            merges = whole and self.settings.method in PEFT
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
        for kind, values in self._importance().items():
            found |= {f"importance.{kind}.{name}": value for name, value in values.items()}
        return {name: value.clone().contiguous() for name, value in found.items()}

    def _importance(self) -> dict[str, dict[str, Tensor]]:
        """What AdaLoRA knows of its ranks, to be changed in place."""
        if self.settings.method != "adalora":
            return {}
        allocator = self.model.base_model.rankallocator
        return {name: getattr(allocator, name) for name in IMPORTANCE}

    def restore(self, tensors: dict[str, Tensor], step: int, rng: dict[str, Any]) -> None:
        self._load([tensors[f"live.{n}"] for n in range(len(self.weights))])
        self.average = [tensors[f"average.{n}"] for n in range(len(self.weights))]
        whole, importance = self.optimizer.state_dict(), self._importance()
        for name, value in tensors.items():
            kind, place, *rest = name.split(".", 2)
            if kind == "optimizer":
                whole["state"].setdefault(int(place), {})[rest[0]] = value
            elif kind == "importance":
                importance[place][rest[0]] = value
        self.optimizer.load_state_dict(whole)
        self.step, self.rng.bit_generator.state = step, rng


def _freed(model: EventsModel, settings: EventsTrainSettings) -> Any:  # noqa: ANN401 - or a PeftModel
    """The network with what is trained free, the rest frozen."""
    if settings.method not in PEFT:
        model.requires_grad_(settings.method == "full")
        model.head.requires_grad_(True)
        for module in model.modules():
            if isinstance(module, torch.nn.Dropout):
                module.p = settings.dropout
        return model
    return with_adapters(
        model,
        settings.method,
        rank=settings.rank,
        dropout=settings.dropout,
        steps=settings.steps,
        targets=TARGETS,
        feed_forward=FEED_FORWARD,
    )


def _factor(step: int, settings: EventsTrainSettings) -> float:
    """Of the learning rate in a step, the first of which is 1."""
    warm = max(WARM_STEPS, settings.warmup * settings.steps)
    if step <= warm or settings.schedule == "constant":
        return min(1.0, step / warm)
    left = max(0.0, 1 - (step - warm) / max(1.0, settings.steps - warm))
    return max(
        0.01, left if settings.schedule == "linear" else 0.5 - 0.5 * math.cos(math.pi * left)
    )


def _splits(model: Any, config: EventsConfig, settings: EventsTrainSettings) -> int:  # noqa: ANN401
    """Into how many pieces a part of a step is cut, so that it stays within the memory there is."""
    if settings.memory_bytes is None:
        return 1
    weights = [(w.numel(), w.requires_grad) for w in model.parameters()]
    fixed = 4 * sum(count * (5 if trained else 2) for count, trained in weights)
    tokens = config.length + config.shop_tokens + 1
    token = 14 * config.hidden_size + 4 * config.intermediate_size + 2 * config.heads * tokens
    each = 4 * tokens * (config.layers * token + 8 * config.hidden_size)
    rows = int((settings.memory_bytes - fixed) // each)
    if rows < FEWEST_COMPARED:
        raise ModelError(
            f"memory_bytes {settings.memory_bytes} is too little: weights take {fixed}, and each "
            f"of {FEWEST_COMPARED} customers who are compared {each}; raise it"
        )
    return math.ceil(math.ceil(settings.rows / settings.at_once) / rows)


class _State:
    """Where a run stands, on disk, and what is told of it."""

    def __init__(
        self,
        directory: Path,
        key: str,
        settings: EventsTrainSettings,
        curve: Curve,
        told: Callable[[TrainProgress], None] | None,
    ) -> None:
        self.path = directory / "events.safetensors"
        self.key, self.settings, self.told = key, settings, told or (lambda _: None)
        self.curve = curve
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
        if tuner.step % LOGGED_EVERY == 0:
            self.curve.add({"loss/training": loss}, step=self.after + tuner.step)
        if now - self.saved > self.settings.save_every_s:
            self.save(tuner)

    def look(self, tuner: _Tuner, score: float) -> None:
        """The network was judged."""
        self.score = score
        self.curve.add({"loss/validation": score}, step=tuner.step)
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

    def tokens(
        self,
        rows: Ints,
        length: int,
        *,
        most_events: int = MOST_EVENTS,
        moved: np.random.Generator | None = None,
    ) -> Tokens:
        """moved: by what amounts are a little off, if they are."""
        some = chosen(self.cut.population, rows, most_events=most_events)
        if moved is not None:
            off = moved.lognormal(0.0, AMOUNTS_OFF, size=len(some.amounts))
            some = replace(some, amounts=some.amounts * off)
        return tokens_at(self.moment, some, self.context, length=length)

    def take(self, rows: Ints, tokens: Tokens) -> CensoredBatch:
        """tokens: of the rows."""
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


def censored_loss(
    answer: Answer, batch: CensoredBatch, bin_edges: Sequence[int], *, level: bool = False
) -> Tensor:
    """Sum over the rows of one cut: who buys when, how often and for how much, all but the level.

    What a shop sold at each earlier moment has its own level, of a season or a campaign, and that
    of tomorrow is none of them: it is left to what the network knew. Only how customers compare
    with each other is learned. level: learn it nevertheless.
    """
    device = answer.hazard.device
    edges = torch.tensor([0.0, *bin_edges], device=device)
    first = torch.from_numpy(batch.first).float().to(device)
    timing = survival_loss(answer, first, watched=batch.watched, edges=edges, level=level)
    counts = torch.from_numpy(batch.counts).float().to(device)
    mean = answer.purchases()[:, : counts.shape[1]]
    if not level:
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


def survival_loss(
    answer: Answer, first: Tensor, *, watched: float, edges: Tensor, level: bool = False
) -> Tensor:
    """Minus the log partial likelihood of rows of one cut, each bin of time a stratum of its own.

    The hazard is constant within a bin; what all rows have in common in a bin cancels out, so a
    level that is higher or lower in all of them costs nothing (Cox 1972; with a level of each bin
    at its maximum, Breslow 1974). first: (rows,) days to the purchase, infinite for those censored
    at `watched` days. level: minus the log-likelihood itself, in which the level counts.
    """
    gained = functional.softplus(answer.hazard)  # (rows, bins) cumulative hazard of each bin
    low, width = edges[:-1], edges[1:] - edges[:-1]
    came = torch.isfinite(first) & (first < edges[-1])
    until = torch.where(came, first, min(watched, float(edges[-1])))
    lived = ((until[:, None] - low) / width).clamp(0.0, 1.0)
    place = torch.searchsorted(edges[1:], first.clamp(max=float(edges[-1]) - 1e-3), right=True)
    rate = gained.gather(1, place[:, None])[:, 0] / width[place]
    exposed = (lived * gained).sum(dim=0)
    if not level:
        events = torch.bincount(place[came], minlength=len(width))
        exposed = events * torch.log(exposed.clamp(min=1e-9))
    return exposed.sum() - torch.log(rate[came].clamp(min=1e-9)).sum()
