"""What can be asked of fine-tuning, what is told of it, and what comes of it.

Invariant: settings that exist are possible ones; no torch is needed to say so.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from models.base import ModelError

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

#: What is trained, and of how much of the network.
METHODS = ("lora", "full", "head", "adalora", "ia3", "adapter")
#: Methods that this architecture has no place for, and why.
IMPOSSIBLE = {
    "prefix": "its attention takes no keys and values from outside",
    "prompt": "it reads patches of numbers, and has no embedding of prompts to put before them",
}
LOSSES = ("quantile", "mse", "mae", "huber")
SPACES = ("network", "values")
OPTIMIZERS = {"adamw": "adamw_torch", "adafactor": "adafactor", "sgd": "sgd"}
#: The learning rate of each method where none is asked for.
RATES = {"lora": 5e-4, "adalora": 2e-3, "ia3": 1e-2, "head": 1e-3, "full": 3e-4, "adapter": 1e-3}
SCHEDULES = ("constant", "linear", "cosine")
#: The same of the events network.
EVENT_METHODS = ("lora", "full", "head", "adalora", "ia3")
EVENT_IMPOSSIBLE = {
    "prefix": "its attention takes no keys and values from outside",
    "prompt": "it reads events as numbers, and has no embedding of prompts to put before them",
    "adapter": "its encoder's layers are a library's, with no place behind their feed-forward part",
}
#: The share that is replayed of earlier shops where none is asked for.
REPLAY = 0.1
EVENT_RATES = {"lora": 4e-4, "adalora": 1.6e-3, "ia3": 8e-3, "head": 4e-4, "full": 1e-4}
EVENT_LOSSES = ("partial", "hazard")
EVENT_AUGMENTATIONS = ("shorten", "amounts")
#: What can be done to an example, to have more of them.
AUGMENTATIONS = ("crop", "gaps", "covariates", "noise")
#: What a curve can be reported to; each by its own environment variables.
TRACKERS = ("tensorboard", "wandb", "mlflow")


@dataclass(frozen=True, slots=True)
class TrainSettings:
    """How the network is fine-tuned; each field can be left as it is.

    method: of METHODS. rank: of LoRA and AdaLoRA, and how wide bottlenecks are. steps: at most; how
    many are kept is chosen on `validation` windows of the plan's horizon before the gate's, every
    `look_every` steps, and `patience` looks without a better one end the run; `judged` series at
    most. rows: of a step, targets and covariates. learning_rate: None for that of RATES. loss: of
    LOSSES, the last three of the median; space: of SPACES, where errors are counted. optimizer,
    schedule: of OPTIMIZERS and SCHEDULES, after `warmup` of the run. average: of the exponential
    mean of the weights that is judged and kept, 0 for none. recent: how much later moments are
    preferred, 1 for not at all. augment: of AUGMENTATIONS. replay: share of the steps spent on
    other data than the shop's, so that nothing is forgotten: on earlier records where some are
    given, else on synthetic series. sparsity: share of the weights of the matrices, the smallest,
    that stay zero (full alone). teaching: share of the loss that is the distance to a teacher's
    quantiles, where there is one. context: periods of history at most, None for what the network
    takes. dtype: "float32" or "bfloat16" products. budget_s: seconds of work. memory_bytes: what
    weights, their moments and a step may take. report_to: as in pretraining, or "auto" for
    TensorBoard where that is installed.
    """

    method: str = "lora"
    rank: int = 8
    steps: int = 150
    rows: int = 128
    learning_rate: float | None = None
    optimizer: str = "adamw"
    schedule: str = "cosine"
    warmup: float = 0.05
    weight_decay: float = 0.01
    dropout: float = 0.0
    clip: float = 1.0
    average: float = 0.95
    loss: str = "quantile"
    space: str = "network"
    validation: int = 4
    look_every: int = 25
    patience: int = 4
    judged: int = 400
    recent: float = 1.0
    augment: tuple[str, ...] = ()
    replay: float = 0.1
    sparsity: float = 0.0
    teaching: float = 0.5
    context: int | None = None
    dtype: str = "float32"
    budget_s: float | None = None
    memory_bytes: int | None = None
    save_every_s: float = 30.0
    report_to: str = "auto"
    seed: int = 0

    @property
    def rate(self) -> float:
        """The highest learning rate of the run."""
        return RATES[self.method] if self.learning_rate is None else self.learning_rate

    def __post_init__(self) -> None:
        """Raise ModelError for what cannot be asked."""
        _verify_possible(self.method, IMPOSSIBLE, METHODS)
        _verify_named("method", self.method, METHODS)
        if self.sparsity and self.method != "full":
            raise ModelError(
                "sparsity needs method full: other methods leave the weights as they are"
            )
        _verify_named("loss", self.loss, LOSSES)
        _verify_named("space", self.space, SPACES)
        _verify_shared(self, AUGMENTATIONS)
        _verify_numbers(
            self,
            counts=("rank", "steps", "rows", "validation", "look_every", "patience", "judged"),
            positive=("rate", "clip", "recent", "save_every_s"),
            shares=("warmup", "weight_decay", "dropout", "average", "replay", "sparsity"),
            limits=("budget_s", "memory_bytes", "context"),
        )


@dataclass(frozen=True, slots=True)
class EventsTrainSettings:
    """How the events network is fine-tuned; each field can be left as it is.

    method: of EVENT_METHODS. rank: of LoRA and AdaLoRA. steps: at most; how many is chosen on the
    latest stretch of what is given, by `looks`. rows: customers of a step, from `at_once` of the
    `cuts`, which are earlier moments. learning_rate: None for that of EVENT_RATES. optimizer,
    schedule, weight_decay, clip, dtype, memory_bytes, report_to: as of TrainSettings; warmup: share
    of the steps. dropout: of adapters, or of the encoder where it is trained. loss: of
    EVENT_LOSSES, how customers compare with each other (Cox's partial likelihood), or the
    likelihood of their censored hazards, which learns the level as well. augment: of
    EVENT_AUGMENTATIONS, customers of whom only the latest events are read, and amounts that are a
    little off. average: of the exponential mean of the weights, which is what is judged and kept.
    anchor: weight of the distance to what the network said before, which holds the level. replay:
    share of what is learned from that is of other shops, so that nothing is forgotten: of earlier
    ones where some are given, else of simulated ones; None for REPLAY of earlier ones alone.
    teaching: share of the loss that is the distance to a teacher's curves, where there is one, in
    place of the anchor. judged: customers at most on the stretch that chooses, which is
    validation_days at most, and no more than a third of the history. least_customers, least_days:
    of a shop that can be tuned to. budget_s: seconds of work, half of them at most before the
    number of steps is chosen.
    """

    method: str = "lora"
    rank: int = 8
    steps: int = 300
    looks: int = 6
    rows: int = 256
    learning_rate: float | None = None
    optimizer: str = "adamw"
    schedule: str = "constant"
    warmup: float = 0.03
    weight_decay: float = 0.01
    dropout: float = 0.0
    clip: float = 1.0
    cuts: int = 12
    at_once: int = 4
    average: float = 0.95
    loss: str = "partial"
    augment: tuple[str, ...] = ()
    anchor: float = 0.03
    replay: float | None = None
    teaching: float = 0.5
    judged: int = 5000
    validation_days: float = 90.0
    least_customers: int = 100
    least_days: float = 60.0
    dtype: str = "float32"
    budget_s: float | None = None
    memory_bytes: int | None = None
    save_every_s: float = 30.0
    report_to: str = "auto"
    seed: int = 0

    @property
    def rate(self) -> float:
        """The learning rate after the first steps."""
        return EVENT_RATES[self.method] if self.learning_rate is None else self.learning_rate

    def __post_init__(self) -> None:
        """Raise ModelError for what cannot be asked."""
        _verify_possible(self.method, EVENT_IMPOSSIBLE, EVENT_METHODS)
        _verify_named("method", self.method, EVENT_METHODS)
        _verify_named("loss", self.loss, EVENT_LOSSES)
        _verify_shared(self, EVENT_AUGMENTATIONS)
        _verify_numbers(
            self,
            counts=("rank", "steps", "looks", "rows", "cuts", "at_once", "judged"),
            positive=("rate", "clip", "validation_days", "save_every_s"),
            shares=("warmup", "weight_decay", "dropout", "average", "replay"),
            limits=("budget_s", "memory_bytes"),
        )
        if not 0 <= self.anchor < math.inf:
            raise ModelError(f"anchor must be 0 or above, not {self.anchor}")


@dataclass(frozen=True, slots=True)
class TrainProgress:
    """How far a run is: steps done of at most `steps`; the mean loss since it was last told.

    validation: the score of the latest look, a pinball loss in units of seasonal naive's error, of
    the events network the log-loss; best: the best so far, of step `best_step` (0: the network
    before). share: 0 to 1. eta_s: seconds of work left at most. looked: whether the network has
    just been judged.
    """

    step: int
    steps: int
    loss: float
    validation: float
    best: float
    best_step: int
    share: float
    active_s: float
    eta_s: float
    looked: bool


@dataclass(frozen=True, slots=True)
class Trained:
    """What came of a run. scores: on the validation windows, of zero_shot and tuned.

    steps: chosen, of `steps_done`; 0 if nothing learned was better than the network before, which
    is then what was written. part: of the way to the weights of that step. around: names of what
    was learned beside the weights: pooled_effects, covariate_effects (that there are none), recall,
    calibration. effects: of the pooled ones, on the logarithm of the target, a unit of the
    covariate (of a price all of its mean). trained: parameters that were, of `parameters`. seconds:
    of work, over all sittings; cpu_seconds: of the processor, of the last. until: the last period
    that was trained on or chosen by, as ISO 8601. whole: `out` is a checkpoint of its own and needs
    no base.
    """

    method: str
    steps: int
    part: float
    around: tuple[str, ...]
    effects: dict[str, float]
    steps_done: int
    scores: dict[str, float]
    trained: int
    parameters: int
    seconds: float
    cpu_seconds: float
    until: str
    whole: bool


def _verify_possible(method: str, impossible: Mapping[str, str], methods: Sequence[str]) -> None:
    if method in impossible:
        raise ModelError(
            f"method {method} is not possible for this network: {impossible[method]}; use one of "
            f"{', '.join(methods)}"
        )


def _verify_shared(
    settings: TrainSettings | EventsTrainSettings, augmentations: Sequence[str]
) -> None:
    """The names that both networks' settings have."""
    if not 0 <= settings.teaching <= 1:
        raise ModelError(f"teaching must lie in [0, 1], not {settings.teaching}")
    _verify_named("optimizer", settings.optimizer, OPTIMIZERS)
    _verify_named("schedule", settings.schedule, SCHEDULES)
    _verify_named("dtype", settings.dtype, ("float32", "bfloat16"))
    for name in settings.augment:
        _verify_named("augment", name, augmentations)
    for name in filter(None, settings.report_to.split(",")):
        _verify_named("report_to", name, ("auto", *TRACKERS))


def _verify_numbers(
    settings: object,
    *,
    counts: Sequence[str],
    positive: Sequence[str],
    shares: Sequence[str],
    limits: Sequence[str],
) -> None:
    """shares: in [0, 1). limits: above 0. None of either means that there is none."""
    for name in counts:
        if getattr(settings, name) < 1:
            raise ModelError(f"{name} must be at least 1, not {getattr(settings, name)}")
    for name in positive:
        if not 0 < getattr(settings, name) < math.inf:
            raise ModelError(f"{name} must be above 0, not {getattr(settings, name)}")
    for name in shares:
        if not 0 <= (getattr(settings, name) or 0) < 1:
            raise ModelError(f"{name} must lie in [0, 1), not {getattr(settings, name)}")
    for name in limits:
        if getattr(settings, name) is not None and not getattr(settings, name) > 0:
            raise ModelError(f"{name} must be above 0, or left out for no limit")


def _verify_named(field_name: str, said: str, allowed: Collection[str]) -> None:
    if said not in allowed:
        raise ModelError(f"{field_name} must be one of {', '.join(allowed)}, not {said!r}")
