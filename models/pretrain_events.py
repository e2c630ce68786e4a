"""Pretraining of the events network on simulated shops.

Every step has shops of its own, drawn from (seed, step) alone: none is seen twice, and a run that
was stopped goes on where it was.

Invariant: the network is trained on exactly what serving gives it: tokens of `models.tokens` and
the context that `models.customers` makes of a whole shop.
"""

from __future__ import annotations

import dataclasses
import json
import logging
import signal
import time
from dataclasses import dataclass
from pathlib import Path  # noqa: TC003 - settings are read as options
from statistics import median
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from models.base import FloatArray, ModelError
from models.customers import context_of
from models.events import (
    Answer,
    EventsConfig,
    EventsModel,
    Inputs,
    load_events,
    new_events_model,
    parts_of,
)
from models.learner import Learner, rate_at, replace_tensors
from models.synth.customers import SimulatedShop, draw_shop
from models.tokens import Tokens, blanked, chosen, joined, tokens_of

if TYPE_CHECKING:
    from models.customers import Ints

logger = logging.getLogger(__name__)

_HELD_OUT = 1 << 40  # steps from here on are for validation
_NORMALISING = 1 << 41  # and from here on for the scale of contexts
CONTEXT_DROPPED = 0.12  # share of shops of which nothing is told
NEVER_SEEN = 0.015  # share of customers whose history is not told
COUNT_WEIGHT, AMOUNT_WEIGHT = 0.25, 0.15


@dataclass(frozen=True, slots=True)
class PretrainEventsSettings:
    """One pretraining run.

    out: directory of the checkpoint, written at every save. run: directory of the state to resume
    from and of the curve. customers: to train on in all; budget_s: seconds of work, pauses not
    counted, after which the run ends sooner (None: no limit); the learning rate follows whichever
    is further on, and falls over the last `cooldown` of it. shops: of a step; labelled: customers
    of each; futures: drawn for each. init: a checkpoint to begin from, with its scale of contexts.
    """

    out: Path
    run: Path
    customers: int = 2_000_000
    budget_s: float | None = None
    seed: int = 0
    shops: int = 5
    labelled: int = 72
    futures: int = 8
    learning_rate: float = 2e-3
    warmup_steps: int = 100
    cooldown: float = 0.4
    average: float = 0.995
    threads: int | None = None
    device: str = "auto"
    save_every_s: float = 300.0
    validation_shops: int = 20
    normalising_shops: int = 200
    hidden_size: int = 128
    layers: int = 4
    heads: int = 4
    intermediate_size: int = 256
    length: int = 48
    init: Path | None = None

    def __post_init__(self) -> None:
        """Raise ModelError for what no run can be made of."""
        if min(self.customers, self.shops, self.labelled, self.futures, self.length) < 1:
            raise ModelError("customers, shops, labelled, futures and length must be positive")
        if not 0 < self.cooldown <= 1:
            raise ModelError("cooldown must lie in (0, 1]")


@dataclass(slots=True)
class EventsProgress:
    """How far a run is: optimisation steps, customers seen, seconds of work."""

    step: int = 0
    customers: int = 0
    active_s: float = 0.0

    def share(self, settings: PretrainEventsSettings) -> float:
        """Share of the run that is done, 0 to 1 and beyond."""
        seen = self.customers / settings.customers
        return max(seen, self.active_s / settings.budget_s if settings.budget_s else 0.0)


def pretrain_events(settings: PretrainEventsSettings) -> EventsProgress:
    """Train, or go on training, and leave a checkpoint in `settings.out`.

    Resumes from `settings.run` if it holds a state. Ends, saved, on SIGTERM or Ctrl-C. Raises
    ModelError if the state there is of another architecture.
    """
    if settings.threads:
        torch.set_num_threads(settings.threads)
    trainer = _Trainer(settings, _device(settings.device))
    if not trainer.resume() and settings.init is None:
        trainer.normalise()
    trainer.train()
    trainer.save()
    return trainer.progress


def _device(name: str) -> torch.device:
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return torch.device(name)


# --- batches ---------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, eq=False)
class EventsBatch:
    """Customers of several shops, and what they will do; as `SimulatedShop` says.

    amount: (rows,) true mean amount over the scale of the tokens, NaN where not known.
    """

    tokens: Tokens
    first: FloatArray
    purchases: FloatArray
    amount: FloatArray


def draw_events_batch(settings: PretrainEventsSettings, step: int) -> EventsBatch:
    """The batch of a step: the same for the same seed and step, wherever it is drawn."""
    rng = np.random.default_rng((settings.seed, step))
    shops = [
        draw_shop(rng, labelled=settings.labelled, futures=settings.futures)
        for _ in range(settings.shops)
    ]
    length = min(int(rng.choice((8, 16, 32, 48), p=(0.2, 0.3, 0.3, 0.2))), settings.length)
    known = rng.random(len(shops)) >= CONTEXT_DROPPED
    rows = sum(len(shop.labelled) for shop in shops)
    unseen = np.flatnonzero(rng.random(rows) < NEVER_SEEN)
    return batch_of(shops, known=known, unseen=unseen, length=length)


def batch_of(
    shops: list[SimulatedShop], *, known: np.ndarray, unseen: Ints, length: int
) -> EventsBatch:
    """known: (shops,) whose context is told. unseen: rows whose history is not told."""
    sizes = [len(shop.labelled) for shop in shops]
    crowd = joined([chosen(shop.population, shop.labelled, most_events=200) for shop in shops])
    tokens = tokens_of(
        blanked(crowd, unseen),
        contexts=np.stack([context_of(shop.population) for shop in shops]),
        known=known,
        shop=np.repeat(np.arange(len(shops)), sizes),
        year_phase=np.repeat([shop.settings.year_phase for shop in shops], sizes),
        weekday=np.repeat([shop.settings.weekday for shop in shops], sizes),
        length=length,
    )
    return EventsBatch(
        tokens,
        np.concatenate([shop.first for shop in shops]),
        np.concatenate([shop.purchases for shop in shops]),
        np.concatenate([shop.amount for shop in shops]) / tokens.scale,
    )


def events_loss(
    model: EventsModel,
    batch: EventsBatch,
    rows: Ints,
    device: torch.device,
) -> Tensor:
    """Sum over rows of the loss: first purchase, purchases in each bin, mean amount."""
    answer = model(Inputs.of(batch.tokens.take(rows), device))
    first, purchases, amount = (
        torch.from_numpy(values[rows]).float().to(device)
        for values in (batch.first, batch.purchases, batch.amount)
    )
    timing = first_loss(answer, first).sum()
    count = count_loss(answer, purchases).sum()
    return timing + COUNT_WEIGHT * count + AMOUNT_WEIGHT * amount_loss(answer, amount).sum()


def first_loss(answer: Answer, first: Tensor) -> Tensor:
    """(rows,) cross-entropy of the bin of the first purchase with its true distribution."""
    return -(first * answer.log_first()).sum(dim=1)


def count_loss(answer: Answer, purchases: Tensor) -> Tensor:
    """(rows,) deviance of the counts where the variance is μ + μ² (negative binomial).

    The mean is what minimises it, and no count, however large, has more than its share.
    """
    mean, told = answer.purchases(), purchases + 1e-9
    ratio = torch.log1p(mean) - torch.log1p(told)
    return ((1 + told) * ratio - told * torch.log((mean + 1e-9) / told)).sum(dim=1)


def amount_loss(answer: Answer, amount: Tensor) -> Tensor:
    """(rows,) gamma deviance of the mean amount, 0 where it is not known."""
    known = torch.isfinite(amount) & (amount > 0)
    ratio = torch.where(known, amount, 1.0).clamp(1e-3, 1e3)
    said = answer.amount.clamp(-7.0, 7.0)
    return torch.where(known, ratio * torch.exp(-said) + said - torch.log(ratio) - 1, 0.0)


# --- training --------------------------------------------------------------------------------


class _Trainer:
    def __init__(self, settings: PretrainEventsSettings, device: torch.device) -> None:
        self.settings, self.device = settings, device
        self.model = new_events_model(_config(settings), seed=settings.seed)
        if settings.init is not None:
            self._begin_from(settings.init)
        self.model.to(device)  # type: ignore[arg-type]  # its wrapper hides self
        self.learner = Learner(self.model, inner="encoder.layers", average=settings.average)
        self.progress = EventsProgress()
        self.stopped = False
        self.durations: list[float] = []

    def _begin_from(self, directory: Path) -> None:
        weights = load_events(directory).model.state_dict()
        expected = {k: v.shape for k, v in self.model.state_dict().items()}
        if {k: v.shape for k, v in weights.items()} != expected:
            raise ModelError(f"{directory} holds another architecture than the settings ask for")
        self.model.load_state_dict(weights)

    def normalise(self) -> None:
        """Learn the mean and spread of contexts from shops that no step draws."""
        rng = np.random.default_rng((self.settings.seed, _NORMALISING))
        shops = [draw_shop(rng, labelled=1) for _ in range(self.settings.normalising_shops)]
        contexts = np.stack([context_of(shop.population) for shop in shops])
        mean, spread = contexts.mean(axis=0), np.maximum(contexts.std(axis=0), 0.05)
        self.model.context_mean.copy_(torch.from_numpy(mean))
        self.model.context_spread.copy_(torch.from_numpy(spread))

    def train(self) -> None:
        asked = (signal.SIGTERM, signal.SIGINT)
        previous = [signal.signal(number, self._stop) for number in asked]
        saved, losses = time.monotonic(), []
        while self.progress.share(self.settings) < 1 and not self.stopped:
            began = time.monotonic()
            losses.append(self._step())
            self._count(time.monotonic() - began)
            if self.progress.step % 25 == 0:
                self._tell("loss/training", sum(losses) / len(losses))
                losses.clear()
            if time.monotonic() - saved > self.settings.save_every_s:
                self.save()
                self._tell("loss/validation", self.validate())
                saved = time.monotonic()
        for number, handler in zip(asked, previous, strict=True):
            signal.signal(number, handler)
        self._tell("loss/validation", self.validate())

    def _stop(self, *_: object) -> None:
        self.stopped = True

    def _step(self) -> float:
        batch = draw_events_batch(self.settings, self.progress.step)
        total = 0.0
        for rows in parts_of(batch.tokens, 1024):
            loss = events_loss(self.model, batch, rows, self.device) / len(batch.tokens)
            loss.backward()  # type: ignore[no-untyped-call]
            total += float(loss.detach())
        self.learner.step(self._learning_rate(), self.progress.step)
        self.progress.customers += len(batch.tokens)
        return total

    def _learning_rate(self) -> float:
        settings = self.settings
        return settings.learning_rate * rate_at(
            self.progress.step,
            self.progress.share(settings),
            warmup_steps=settings.warmup_steps,
            cooldown=settings.cooldown,
        )

    def _count(self, duration_s: float) -> None:
        """A step that took far longer than usual was paused; it counts as a usual one."""
        self.durations = [*self.durations[-50:], duration_s]
        self.progress.step += 1
        self.progress.active_s += min(duration_s, 4 * median(self.durations))

    @torch.no_grad()
    def validate(self) -> float:
        """Loss of the averaged weights on shops that no step ever draws."""
        total, count = 0.0, 0
        number = -(-self.settings.validation_shops // self.settings.shops)
        settings = dataclasses.replace(self.settings, seed=0)
        with self.learner.averaged():
            for batch in (draw_events_batch(settings, _HELD_OUT + i) for i in range(number)):
                for rows in parts_of(batch.tokens, 4096):
                    total += float(events_loss(self.model, batch, rows, self.device))
                    count += len(rows)
        return total / count

    def _tell(self, name: str, value: float) -> None:
        """To the log, and to curve.jsonl in the run's directory."""
        now = self.progress
        logger.info(
            "step %d  customers %d  %.0f s  %s %.5f",
            now.step,
            now.customers,
            now.active_s,
            name,
            value,
        )
        self.settings.run.mkdir(parents=True, exist_ok=True)
        line = dataclasses.asdict(now) | {"name": name, "value": value}
        with (self.settings.run / "curve.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")

    def save(self) -> None:
        """Write the state to go on from, then the checkpoint of the averaged weights."""
        self.learner.save(self.settings.run, dataclasses.asdict(self.progress))
        export_events(self.learner, self.settings, self.progress)

    def resume(self) -> bool:
        """Go on from the run's state, if there is one."""
        stored = self.learner.resume(self.settings.run)
        if stored is None:
            return False
        self.progress = EventsProgress(
            int(stored["step"]), int(stored["customers"]), float(stored["active_s"])
        )
        logger.info("resumed at step %d", self.progress.step)
        return True


def _config(settings: PretrainEventsSettings) -> EventsConfig:
    return EventsConfig(
        hidden_size=settings.hidden_size,
        layers=settings.layers,
        heads=settings.heads,
        intermediate_size=settings.intermediate_size,
        length=settings.length,
    )


def export_events(
    learner: Learner[EventsModel], settings: PretrainEventsSettings, progress: EventsProgress
) -> None:
    """Write config.json and model.safetensors (float32), as `EventsNetwork.load` reads them."""
    settings.out.mkdir(parents=True, exist_ok=True)
    config = learner.model.config.to_dict() | {
        "architectures": ["EventsModel"],
        "dtype": "float32",
        "shopcast": {
            "trained_customers": progress.customers,
            "trained_steps": progress.step,
            "seed": settings.seed,
        },
    }
    weights = learner.average | learner.buffers()
    replace_tensors(settings.out / "model.safetensors", weights, {"format": "pt"})
    text = json.dumps(config, indent=2, sort_keys=True) + "\n"
    (settings.out / "config.json").write_text(text, encoding="utf-8")
