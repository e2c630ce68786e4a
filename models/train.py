"""Fine-tuning of the series network on a shop's own records.

Time is cut in three: the latest windows, those of the plan, are the gate's and are never seen here;
the windows before them say when to stop; what lies before those is trained on.

Invariant: the weights that are written are those that were best on the validation windows, and a
run that was killed goes on where its last saved state was.
"""

from __future__ import annotations

import copy
import dataclasses
import json
import logging
import math
import shutil
import time
import warnings
from contextlib import closing, contextmanager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from transformers import Trainer, TrainerCallback, TrainingArguments
from transformers.trainer_callback import PrinterCallback
from transformers.utils.logging import disable_progress_bar

from models.adapters import WRITTEN_ALONE, with_adapters
from models.base import ModelError
from models.bottleneck import BOTTLENECK, Bottleneck, bottleneck_weights, give_bottlenecks, width_of
from models.checkpoint import ADAPTER_CONFIG, ADAPTER_WEIGHTS, CONFIG, WEIGHTS
from models.gate import Rules, gain_of
from models.lessons import Earlier, Lessons, mean_of, shop_effects
from models.pooling import PooledEffect, PooledEffects, pooled_effects_of
from models.pretrain import Batch, answer_of, arrange, draw_batch
from models.tracking import Curve
from models.tuning import OPTIMIZERS, Trained, TrainProgress, TrainSettings

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from pathlib import Path

    from chronos.chronos2.model import Chronos2Model

    from models.backtest import Plan, Predicting, Record
    from models.examples import Examples

__all__ = ["Earlier", "TrainProgress", "TrainSettings", "Trained", "fine_tune"]

logger = logging.getLogger(__name__)

#: Methods whose result is an adapter.
_ADAPTERS = {*WRITTEN_ALONE, "adapter"}
#: Methods of our own, in which the network stays the class that it is.
_OWN = {"full", "head", "adapter"}
#: Where adapters go: attention and feed-forward of the encoder, and the layers at its ends.
_ENDS = r"(input|output)_patch_embedding\.(hidden|output|residual)_layer"
TARGETS = rf"(.*self_attention\.(q|k|v|o))|(.*mlp\.(wi|wo))|({_ENDS})"
_FEED_FORWARD = rf"(.*mlp\.wo)|({_ENDS.replace('hidden|', '')})"
#: Parts of the way to the tuned weights that are tried at the end.
BLENDS = (0.25, 0.5, 0.75)
_SAVED = "checkpoint-"
LOGGED_EVERY = 10  # steps
#: Shares of the effects that the shop has in common that are tried.
POOLED = (0.25, 0.5)
REMEMBERED = 0.01  # of the loss on simulated series, that may be lost; the gate allows 0.02


def fine_tune(  # noqa: PLR0913 - each is a thing of its own
    base: Path,
    records: Sequence[Record],
    plan: Plan,
    out: Path,
    *,
    state: Path,
    settings: TrainSettings | None = None,
    base_of: Path | None = None,
    earlier: Sequence[Earlier] = (),
    teacher: Predicting | None = None,
    threads: int | None = None,
    logs: Path | None = None,
    told: Callable[[TrainProgress], None] | None = None,
) -> Trained:
    """Train on what lies before the plan's windows, and write a checkpoint directory to `out`.

    base: the checkpoint to begin from; base_of: its own base if it is an adapter. An adapter is
    written for lora, ia3 and adapter on a whole base, else a whole checkpoint. state: where the run
    is kept to go on from; the same call goes on where it was. told: called after each part of a
    step, and may raise to stop. teacher: a network whose quantiles are learned as well. logs: for
    the files of trackers, `state` where not said. Raises ModelError for records that are too few or
    too short, and for a state that is of another run.
    """
    settings = settings or TrainSettings()
    if threads is not None:
        torch.set_num_threads(threads)
    lessons = Lessons.of(base, base_of, records, plan, settings, earlier, teacher)
    tuner = _Tuner(lessons, settings, state, told or (lambda _: None))
    with _quiet(), closing(Curve(settings.report_to, logs or state)) as tuner.curve:
        tuner.train()
    return tuner.write(out)


# --- the network in training -----------------------------------------------------------------


def adapted(model: Chronos2Model, settings: TrainSettings, *, steps: int) -> Any:  # noqa: ANN401
    """The network, a PeftModel or a Chronos2Model, with what is trained free, the rest frozen."""
    if settings.method == "adapter":
        give_bottlenecks(model, settings.rank)
    if settings.method in _OWN:
        model.requires_grad_(settings.method == "full")
        for module in _freed(model, settings.method):
            module.requires_grad_(True)
        for module in model.modules():
            if isinstance(module, torch.nn.Dropout):
                module.p = settings.dropout
        return model
    return with_adapters(
        model,
        settings.method,
        rank=settings.rank,
        dropout=settings.dropout,
        steps=steps,
        targets=TARGETS,
        feed_forward=_FEED_FORWARD,
    )


def _freed(model: Chronos2Model, method: str) -> list[torch.nn.Module]:
    """What is trained whatever is not."""
    if method == "adapter":
        return [module for module in model.modules() if isinstance(module, Bottleneck)]
    return [model.output_patch_embedding]


def loss_of(model: Any, batch: Batch, settings: TrainSettings) -> Tensor:  # noqa: ANN401
    """The loss of a batch by the settings, weighed as in pretraining."""
    answer, truth, weight = answer_of(model, batch)
    loss = _against_truth(model, answer, truth, weight, settings)
    if batch.taught is None:
        return loss
    _, scale = model.instance_norm(batch.context)
    said = model.instance_norm(batch.taught.flatten(1), scale)[0].clamp(-6, 6)
    counted = ~torch.isnan(said)
    apart = (answer.flatten(1) - torch.nan_to_num(said)).abs() * counted
    taught = apart.sum() / counted.sum().clamp_min(1)
    return (1 - settings.teaching) * loss + settings.teaching * taught


def _against_truth(
    model: Any,  # noqa: ANN401
    answer: Tensor,
    truth: Tensor,
    weight: Tensor,
    settings: TrainSettings,
) -> Tensor:
    seen = ~torch.isnan(truth)
    truth = torch.nan_to_num(truth)
    if settings.space == "values":
        answer, truth, weight = answer.clamp(-8, 8).sinh(), truth.sinh(), weight.square()
    if settings.loss == "quantile":
        error, level = truth - answer, model.quantiles.float()[:, None]
        each = 2 * torch.maximum(level * error, (level - 1) * error).mean(dim=1)
    else:
        middle = model.chronos_config.quantiles.index(0.5)
        each = _POINT_LOSSES[settings.loss](answer[:, middle], truth[:, 0], reduction="none")
    return (weight * torch.where(seen[:, 0], each, 0.0)).sum() / weight.sum().clamp_min(1e-6)


_POINT_LOSSES: dict[str, Callable[..., Tensor]] = {
    "mse": torch.nn.functional.mse_loss,
    "mae": torch.nn.functional.l1_loss,
    "huber": torch.nn.functional.huber_loss,
}


@dataclass(slots=True)
class _Standing:
    """What is kept of a run beside weights and moments."""

    active_s: float = 0.0
    cpu_s: float = 0.0
    best: float = math.inf
    best_step: int = 0
    looks: int = 0  # since the best
    looked: int = -1  # step of the latest
    zero_shot: float = math.nan
    untrained: float = math.nan  # with what was learned of covariates
    validation: float = math.nan
    part: float = 1.0  # of the way to the weights of best_step
    around: dict[str, Any] = field(default_factory=dict)  # options that are not the base's
    pooled: float = 0.0  # share of the effects that the shop has in common
    ended: bool = False


@dataclass(slots=True)
class _Weights:
    """Trained tensors by name: their running mean, and the best so far."""

    average: dict[str, Tensor] = field(default_factory=dict)
    best: dict[str, Tensor] = field(default_factory=dict)


class _Tuner:
    """A run: what it has, and what moves it on."""

    def __init__(
        self,
        lessons: Lessons,
        settings: TrainSettings,
        state: Path,
        told: Callable[[TrainProgress], None],
    ) -> None:
        self.lessons, self.settings, self.state, self.told = lessons, settings, state, told
        torch.manual_seed(settings.seed)
        network = copy.deepcopy(lessons.checkpoint.model)
        arrange(network)
        self.model = adapted(network, settings, steps=settings.steps)
        self.parts = _parts(self.model, lessons.examples, settings)
        self.kept = _largest(self.model, settings.sparsity)
        self._thin()
        self.start = self._copy()
        self.standing, self.weights = _Standing(), _Weights()
        self.losses: list[float] = []
        self.curve: Curve
        self.step = 0

    def train(self) -> None:
        last, began = self._opened(), time.process_time()
        if self.standing.ended:
            return
        if last is None:
            self.weights.average = self._copy()
            self.weights.best = self._copy()
            looked = time.monotonic()
            self._pool()
            self.look()
            self.standing.active_s += time.monotonic() - looked
        trainer = _Trainer(self)
        trainer.remove_callback(PrinterCallback)
        trainer.train(resume_from_checkpoint=None if last is None else str(last))
        if self.standing.looked < self.step:
            self.look()
        self._blend()
        self._doubt()
        self._settle()
        self._pool_all()
        self.standing.cpu_s = time.process_time() - began
        self.standing.ended = True
        trainer.save_now()

    def _opened(self) -> Path | None:
        """Prepare the state directory, and say which of its checkpoints is to go on from."""
        self.state.mkdir(parents=True, exist_ok=True)
        run_file = self.state / "run.json"
        if not run_file.exists():
            _write(run_file, {"key": self.lessons.key})
        elif json.loads(run_file.read_text(encoding="utf-8"))["key"] != self.lessons.key:
            raise ModelError(
                f"{self.state.name} holds the state of another run; choose another state directory"
            )
        shutil.rmtree(self.state / "part", ignore_errors=True)
        saved = sorted(self.state.glob(f"{_SAVED}*"), key=_number)
        if not saved:
            return None
        last = saved[-1]
        self.standing = _Standing(**json.loads((last / "standing.json").read_text()))
        self.weights.average = load_file(last / "average.safetensors")
        self.weights.best = load_file(last / "best.safetensors")
        self.step = _number(last)
        logger.info("goes on from step %d", self.step)
        return last

    @property
    def options(self) -> dict[str, Any]:
        """What stands around the network now."""
        return self.lessons.checkpoint.options | self.standing.around

    def _pool(self) -> None:
        """Learn what covariates do across the shop, or that they foretell nothing here."""
        judge, checkpoint = self.lessons.judge, self.lessons.checkpoint
        network = checkpoint.model
        before = judge.losses(network, dict(checkpoint.options), self.tell)
        self.standing.zero_shot = mean_of(before)
        effects = shop_effects(self.lessons.examples.records, self.lessons.freq, checkpoint)
        if not effects.by_name or not checkpoint.options.get("covariate_effects"):
            return
        tried = [(share, self._with(effects, share)) for share in POOLED]
        for share, around in [*tried, (0.0, {"covariate_effects": False})]:
            found = judge.losses(network, checkpoint.options | around, self.tell)
            logger.info("effects, pooled by %g: validation %.5f", share, mean_of(found))
            if _surely_better(found, before):
                before, self.standing.around, self.standing.pooled = found, around, share

    def _pool_all(self) -> None:
        """Learn the same from the validation windows as well."""
        if self.standing.pooled:
            lessons = self.lessons
            effects = shop_effects(lessons.before_gate, lessons.freq, lessons.checkpoint)
            self.standing.around |= self._with(effects, self.standing.pooled)

    def _pooled(self) -> Mapping[str, PooledEffect]:
        return pooled_effects_of(self.standing.around).by_name

    def _with(self, effects: PooledEffects, share: float) -> dict[str, Any]:
        known = pooled_effects_of(self.lessons.checkpoint.options).by_name
        learned = {name: one.shrunk(share) for name, one in effects.by_name.items()}
        return {"pooled_effects": PooledEffects({**known, **learned}).option()}

    def _now(self, examples: Examples) -> Examples:
        """As what stands around the network would give them to it."""
        if not self.standing.around:
            return examples
        around = {name: bool(self.options.get(name, False)) for name in examples.shape.around}
        pooled = pooled_effects_of(self.options)
        return replace(examples, shape=replace(examples.shape, around=around, pooled=pooled))

    def batch(self, index: int) -> Batch:
        """The part of a step by its number, the same whenever it is drawn."""
        rng = np.random.default_rng((self.settings.seed, index))
        rows = max(1, self.settings.rows // self.parts)
        if rng.random() >= self.settings.replay:
            return self._now(self.lessons.examples).draw(rng, rows)
        if self.lessons.replayed:
            some = self.lessons.replayed[int(rng.integers(len(self.lessons.replayed)))]
            return self._now(some).draw(rng, rows)
        tokens = self.lessons.synthetic.context_length // self.lessons.synthetic.patch
        drawn = replace(self.lessons.synthetic, batch_tokens=rows * tokens // 2, seed=1)
        return draw_batch(drawn, (1 << 30) + self.settings.seed * 1_000_003 + index)

    def share(self) -> float:
        """How much of the run is done, by steps or by the time there is."""
        by_time = self.standing.active_s / self.settings.budget_s if self.settings.budget_s else 0.0
        return min(1.0, max(self.step / self.settings.steps, by_time))

    def rate(self) -> float:
        """The factor of the learning rate now."""
        share, warmup = self.share(), self.settings.warmup
        if share < warmup:
            return (self.step + 1) / (1 + warmup * self.settings.steps)
        left = (1 - share) / (1 - warmup)
        shapes = {
            "constant": 1.0,
            "linear": left,
            "cosine": 0.5 - 0.5 * math.cos(math.pi * left),
        }
        return max(0.01, shapes[self.settings.schedule])

    def tell(self, *, looked: bool = False) -> None:
        standing, share = self.standing, self.share()
        loss = float(np.mean(self.losses)) if self.losses else math.nan
        left = standing.active_s * (1 - share) / share if share else math.nan
        self.told(
            TrainProgress(
                step=self.step,
                steps=self.settings.steps,
                loss=loss,
                validation=standing.validation,
                best=standing.best,
                best_step=standing.best_step,
                share=share,
                active_s=standing.active_s,
                eta_s=left,
                looked=looked,
            )
        )

    def count(self, seconds: float) -> None:
        """A step was done."""
        self.step += 1
        self.standing.active_s += seconds
        self._thin()
        self._follow()

    @torch.no_grad()
    def _thin(self) -> None:
        for name, weight in self._trained():
            if name in self.kept:
                weight.mul_(self.kept[name])

    @torch.no_grad()
    def _follow(self) -> None:
        keep = min(self.settings.average, (1 + self.step) / (10 + self.step))
        for name, weight in self._trained():
            self.weights.average[name].lerp_(weight.detach(), 1 - keep)

    def _blend(self) -> None:
        """See whether a part of the way to the tuned weights is better than all of it.

        Whichever forgets what the gate would miss is left out. Weights between a network and its
        fine-tuned self are often better than both outside of what was tuned on (Wortsman et al.,
        2022, Robust fine-tuning of zero-shot models, CVPR).
        """
        standing = self.standing
        way = standing.best_step or self.step
        tuned = self.weights.best if standing.best_step else self.weights.average
        tuned = {name: weight.clone() for name, weight in tuned.items()}
        self._place(tuned)
        if standing.best_step and not self._remembers():
            self._forget()
        for part in BLENDS:
            mixed = {k: torch.lerp(self.start[k], weight, part) for k, weight in tuned.items()}
            self._place(mixed)
            score = self._score()
            logger.info("%g of the way to step %d: validation %.5f", part, way, score)
            if score < standing.best and self._remembers():
                standing.best, standing.best_step, standing.part = score, way, part
                self.weights.best = mixed

    def _forget(self) -> None:
        """Stay with the weights there were."""
        self.standing.best, self.standing.best_step = self.standing.untrained, 0
        self.standing.part = 1.0
        self.weights.best = self.start

    def _doubt(self) -> None:
        """Keep what was learned only if it is surely better on the validation windows."""
        if not self.standing.best_step or self._is_another():
            return
        self._place(self.weights.best)
        tuned = self._losses()
        self._place(self.start)
        if not _surely_better(tuned, self._losses()):
            self._forget()

    def _settle(self) -> None:
        """What series were lately, and the width of intervals, as the validation windows say."""
        self._place(self.weights.best)
        judge = self.lessons.judge
        before = self._losses()
        for find in (judge.recall, judge.calibration):
            around = find(self._whole(), self.options, self.tell)
            found = self._losses(around)
            if _surely_better(found, before) and self._remembers(around):
                before, self.standing.best = found, mean_of(found)
                self.standing.around |= around
            logger.info("%s: validation %.5f", next(iter(around)), mean_of(found))

    def _remembers(self, around: dict[str, Any] | None = None) -> bool:
        """Whether the network is as good as before on what is simulated, by half of what the gate
        allows; one that is to be another need not be.
        """
        if self._is_another():
            return True
        options = self.options | (around or {})
        worst = self.lessons.judge.forgotten(self._whole(), options, self.tell)
        logger.info("simulated series: %.4f of the loss before", worst)
        return worst <= 1 + REMEMBERED

    def _is_another(self) -> bool:
        """Whether the network is to be another one: taught, or pruned."""
        return self.lessons.taught or bool(self.settings.sparsity)

    def _losses(self, around: dict[str, Any] | None = None) -> dict[str, float]:
        options = self.options | (around or {})
        return self.lessons.judge.losses(self._whole(), options, self.tell)

    def _score(self) -> float:
        return mean_of(self._losses())

    def _trained(self) -> Iterator[tuple[str, Tensor]]:
        return ((name, w) for name, w in self.model.named_parameters() if w.requires_grad)

    def _copy(self) -> dict[str, Tensor]:
        return {name: weight.detach().clone() for name, weight in self._trained()}

    def look(self) -> bool:
        """Judge the mean of the weights; whether it is time to stop."""
        live = self._copy()
        self._place(self.weights.average)
        try:
            score = self._score()
        finally:
            self._place(live)
            self.model.train()
        standing = self.standing
        standing.validation, standing.looked = score, self.step
        if self.step == 0:
            standing.untrained = score
        if score < standing.best:
            standing.best, standing.best_step, standing.looks = score, self.step, 0
            self.weights.best = {k: v.clone() for k, v in self.weights.average.items()}
        else:
            standing.looks += 1
        logger.info("step %d: validation %.5f, best %.5f", self.step, score, standing.best)
        self.curve.add({"loss/validation": score}, step=self.step)
        self.tell(looked=True)
        return standing.looks >= self.settings.patience

    @torch.no_grad()
    def _place(self, weights: dict[str, Tensor]) -> None:
        for name, weight in self._trained():
            weight.copy_(weights[name])

    def _whole(self) -> Chronos2Model:
        """A copy of the network as it is, what was trained within its weights."""
        copied = copy.deepcopy(self.model)
        if self.settings.method in _OWN:
            return copied
        return copied.merge_and_unload()

    def save(self, directory: Path) -> None:
        """Add to a saved state what Trainer does not keep."""
        for name, weights in (("average", self.weights.average), ("best", self.weights.best)):
            beside = directory / f"{name}.part"
            save_file(_plain(weights), beside)
            beside.replace(directory / f"{name}.safetensors")
        _write(directory / "standing.json", dataclasses.asdict(self.standing))

    def write(self, out: Path) -> Trained:
        """Write the best weights aside, then in place."""
        self._place(self.weights.best)
        part = out.with_name(out.name + ".part")
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir(parents=True)
        whole = self.settings.method not in _ADAPTERS or not self.lessons.adapts
        self._write_whole(part) if whole else self._write_adapter(part)
        shutil.rmtree(out, ignore_errors=True)
        part.rename(out)
        weights = list(self.model.parameters())
        return Trained(
            method=self.settings.method,
            steps=self.standing.best_step,
            part=self.standing.part,
            around=tuple(self.standing.around),
            effects={name: one.multiplies for name, one in self._pooled().items()},
            steps_done=self.step,
            scores={"zero_shot": self.standing.zero_shot, "tuned": self.standing.best},
            trained=sum(w.numel() for w in weights if w.requires_grad),
            parameters=sum(w.numel() for w in self.lessons.checkpoint.model.parameters()),
            seconds=self.standing.active_s,
            cpu_seconds=self.standing.cpu_s,
            until=self.lessons.judge.until,
            whole=whole,
        )

    def _write_whole(self, directory: Path) -> None:
        model = self._whole()
        save_file(_plain(dict(model.state_dict())), directory / WEIGHTS, metadata={"format": "pt"})
        self._write_config(directory)

    def _write_adapter(self, directory: Path) -> None:
        if self.settings.method == "adapter":
            save_file(_plain(bottleneck_weights(self.model)), directory / ADAPTER_WEIGHTS)
            _write(directory / ADAPTER_CONFIG, {BOTTLENECK: width_of(self.model)})
        else:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                self.model.save_pretrained(str(directory), safe_serialization=True)
            (directory / "README.md").unlink(missing_ok=True)
        self._write_config(directory)

    def _write_config(self, directory: Path) -> None:
        checkpoint = self.lessons.checkpoint
        config = checkpoint.model.config.to_dict()
        options = dict(self.options)
        if self.settings.method == "adapter":
            options |= {BOTTLENECK: width_of(self.model)}
        config |= {"dtype": "float32", "shopcast": options}
        text = json.dumps(config, indent=2, sort_keys=True) + "\n"
        (directory / CONFIG).write_text(text, encoding="utf-8")


def _plain(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: weight.detach().cpu().contiguous() for name, weight in weights.items()}


def _write(path: Path, facts: dict[str, Any]) -> None:
    """JSON, written aside and then in place."""
    beside = path.with_suffix(".part")
    beside.write_text(json.dumps(facts), encoding="utf-8")
    beside.replace(path)


def _surely_better(after: Mapping[str, float], before: Mapping[str, float]) -> bool:
    """By losses of series, as the gate says it."""
    return gain_of(after, before, Rules()).low > 0


def _number(path: Path) -> int:
    return int(path.name.removeprefix(_SAVED))


@torch.no_grad()
def _largest(model: Any, sparsity: float) -> dict[str, Tensor]:  # noqa: ANN401
    """Of each matrix of the blocks which weights stay: the largest, by magnitude."""
    kept = {}
    for name, weight in model.named_parameters():
        if sparsity and weight.ndim == 2 and "encoder.block" in name:
            least = weight.abs().flatten().kthvalue(max(1, int(sparsity * weight.numel()))).values
            kept[name] = weight.abs() > least
    return kept


# --- memory ----------------------------------------------------------------------------------


def _parts(model: Any, examples: Examples, settings: TrainSettings) -> int:  # noqa: ANN401
    """Into how many parts a step is cut, so that it stays within the memory there is."""
    if settings.memory_bytes is None:
        return 1
    fixed = 4 * sum(w.numel() * (4 if w.requires_grad else 1) for w in model.parameters())
    each = _row_bytes(model.config, examples)
    rows = int((settings.memory_bytes - fixed) // each)
    if rows < 1:
        raise ModelError(
            f"memory_bytes {settings.memory_bytes} is too little: weights take {fixed}, and one "
            f"row of a step {each}; raise it, or lower context"
        )
    return math.ceil(settings.rows / min(rows, settings.rows))


def _row_bytes(config: Any, examples: Examples) -> int:  # noqa: ANN401
    """What one row of a step keeps for the way back: a count of what each layer saves."""
    longest = max(len(record.target) for record in examples.records)
    context = min(examples.shape.context_length, longest)
    tokens = -(-context // examples.shape.patch) + 1 + examples.shape.patches
    inner = config.num_heads * config.d_kv
    token: int = 2 * (4 * inner + 6 * config.d_model) + 3 * config.d_ff + config.num_heads * tokens
    kept: int = 4 * tokens * (token * config.num_layers + 2 * config.d_ff + 8 * config.d_model)
    return kept


# --- Trainer ---------------------------------------------------------------------------------


class _Parts(Dataset[dict[str, Any]]):
    """The parts of a run's steps by number."""

    def __init__(self, tuner: _Tuner) -> None:
        self.tuner = tuner

    def __len__(self) -> int:
        return self.tuner.settings.steps * self.tuner.parts

    def __getitem__(self, index: int) -> dict[str, Any]:
        batch = self.tuner.batch(index)
        return {name: getattr(batch, name) for name in Batch.__slots__}


class _Trainer(Trainer):
    """Hugging Face's Trainer on drawn batches, whose checkpoints are whole or are not there."""

    def __init__(self, tuner: _Tuner) -> None:
        self.tuner = tuner
        settings = tuner.settings
        arguments = TrainingArguments(
            output_dir=str(tuner.state),
            max_steps=settings.steps,
            gradient_accumulation_steps=tuner.parts,
            learning_rate=settings.rate,
            optim=OPTIMIZERS[settings.optimizer],
            weight_decay=settings.weight_decay,
            max_grad_norm=settings.clip,
            bf16=settings.dtype == "bfloat16",
            use_cpu=not torch.cuda.is_available(),
            seed=settings.seed,
            save_strategy="no",
            report_to=[],
            disable_tqdm=True,
            remove_unused_columns=False,
            dataloader_pin_memory=False,
            ignore_data_skip=True,
        )
        super().__init__(tuner.model, arguments, callbacks=[_Steps(tuner)])

    def get_train_dataloader(self) -> DataLoader[dict[str, Any]]:
        first, parts = self.tuner.step * self.tuner.parts, _Parts(self.tuner)
        indices = range(first, first + len(parts))
        return DataLoader(parts, batch_size=None, sampler=indices)

    def create_scheduler(
        self, num_training_steps: int, optimizer: torch.optim.Optimizer | None = None
    ) -> torch.optim.lr_scheduler.LambdaLR:
        del num_training_steps
        moved = optimizer or self.optimizer
        if moved is None:
            raise ModelError("no optimizer to schedule")
        self.lr_scheduler = torch.optim.lr_scheduler.LambdaLR(moved, lambda _: self.tuner.rate())
        return self.lr_scheduler

    def compute_loss(
        self,
        model: Any,  # noqa: ANN401
        inputs: dict[str, Any],
        *_: object,
        **__: object,
    ) -> Tensor:
        self.tuner.tell()  # who wants to stop it waits no longer than for one way there or back
        loss = loss_of(model, Batch(**inputs), self.tuner.settings)
        self.tuner.losses = [*self.tuner.losses[-49:], float(loss.detach())]
        return loss

    def _save_checkpoint(self, model: Any, trial: Any) -> None:  # noqa: ANN401
        """Write aside, rename, and drop the ones before."""
        name = f"{_SAVED}{self.state.global_step}"
        place, part = self.tuner.state / name, self.tuner.state / "part"
        if place.exists():  # the weights there are these; only what was found has changed
            self.tuner.save(place)
            return
        shutil.rmtree(part, ignore_errors=True)
        self.args.output_dir = str(part)
        super()._save_checkpoint(model, trial)
        self.args.output_dir = str(self.tuner.state)
        self.tuner.save(part / name)
        (part / name).rename(place)
        for old in self.tuner.state.glob(f"{_SAVED}*"):
            if old != place:
                shutil.rmtree(old, ignore_errors=True)
        shutil.rmtree(part, ignore_errors=True)

    def save_now(self) -> None:
        self._save_checkpoint(self.model, None)


class _Steps(TrainerCallback):
    """Counts steps, looks, tells, saves and stops."""

    def __init__(self, tuner: _Tuner) -> None:
        self.tuner = tuner
        self.began = self.saved = time.monotonic()

    def on_step_begin(self, *_: object, **__: object) -> None:
        self.began = time.monotonic()

    def on_substep_end(self, *_: object, **__: object) -> None:
        self.tuner.tell()

    def on_optimizer_step(self, *_: object, **__: object) -> None:
        if self.tuner.settings.method == "adalora":
            for weight in self.tuner.model.parameters():
                if weight.requires_grad and weight.grad is None:  # of groups, where there are none
                    weight.grad = torch.zeros_like(weight)
            self.tuner.model.base_model.update_and_allocate(self.tuner.step)

    def on_step_end(self, args: object, state: object, control: Any, **_: object) -> None:  # noqa: ANN401, ARG002
        tuner, settings = self.tuner, self.tuner.settings
        tuner.count(time.monotonic() - self.began)
        tuner.tell()
        if tuner.step % LOGGED_EVERY == 0:
            recent = tuner.losses[-LOGGED_EVERY * tuner.parts :]
            tuner.curve.add({"loss/training": float(np.mean(recent))}, step=tuner.step)
        if tuner.step % settings.look_every == 0:
            began = time.monotonic()
            control.should_training_stop |= tuner.look()
            tuner.standing.active_s += time.monotonic() - began
        control.should_training_stop |= tuner.share() >= 1
        control.should_save = time.monotonic() - self.saved > settings.save_every_s
        if control.should_save:
            self.saved = time.monotonic()


@contextmanager
def _quiet() -> Iterator[None]:
    """Without what libraries say of their own future, and without their bars of progress."""
    disable_progress_bar()  # type: ignore[no-untyped-call]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
