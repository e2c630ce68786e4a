"""The events network: a customer's timed events → when the next purchase comes.

One query token, tokens of the shop and the customer's latest events go through a small encoder;
the query's answer is a hazard in each of some periods of time, so that every horizon is read from
one curve.

Invariant: an answer depends on its customer and shop alone, whatever shares its batch; the
probability of a purchase never falls with the horizon, and never exceeds the purchases expected.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import ModernBertConfig, ModernBertModel, PreTrainedConfig, PreTrainedModel
from transformers.models.modernbert.modeling_modernbert import apply_rotary_pos_emb

from models.base import (
    PURCHASE,
    CheckpointError,
    Explanation,
    FloatArray,
    ModelError,
    NotFiniteError,
    OutOfMemoryError,
    PurchaseForecast,
    PurchaseTask,
    Work,
)
from models.checkpoint import (
    ADAPTER_CONFIG,
    ADAPTER_WEIGHTS,
    BASE_DIRECTORY,
    CONFIG,
    digest_of,
    fill,
    merged,
    read_tensors,
    weight_files,
)
from models.customers import CONTEXT_SIZE, customer_of, population_of
from models.explain import STEPS, explain
from models.placement import (
    DeviceName,
    DtypeName,
    RuntimeName,
    Threads,
    asked,
    device_of,
    dtype_of,
    runtime_of,
    without_packages,
)
from models.synth.customers import BIN_EDGES
from models.tokens import (
    CATEGORY_BUCKETS,
    EVENT_SIZE,
    ITEM_BUCKETS,
    KINDS,
    QUERY_SIZE,
    Tokens,
    tokens_of,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from models.customers import Ints

MOST_LOG = 8.0  # of an expected number of purchases in a bin


class EventsConfig(PreTrainedConfig):  # type: ignore[no-untyped-call]  # its dataclass machinery
    """Sizes of an events network. length: events of a customer that are read, the latest."""

    model_type = "shopcast-events"

    hidden_size: int = 128
    layers: int = 4
    heads: int = 4
    intermediate_size: int = 256
    query_width: int = 512
    shop_width: int = 256
    shop_tokens: int = 2
    thing_width: int = 64
    length: int = 48
    bin_edges: list[int] = field(default_factory=lambda: list(BIN_EDGES))
    query_size: int = QUERY_SIZE
    event_size: int = EVENT_SIZE
    context_size: int = CONTEXT_SIZE
    item_buckets: int = ITEM_BUCKETS
    category_buckets: int = CATEGORY_BUCKETS


@dataclass(frozen=True, slots=True, eq=False)
class Answer:
    """What the network says of (rows, …): logits of the hazard in each bin, logarithms of the
    purchases expected beyond the first-purchase mass, and of the mean amount relative to the scale.
    """

    hazard: Tensor  # (rows, bins)
    more: Tensor  # (rows, bins)
    amount: Tensor  # (rows,)

    def log_survival(self) -> Tensor:
        """(rows, bins) logarithm of the probability of no purchase up to the end of a bin."""
        return -functional.softplus(self.hazard).cumsum(dim=1)

    def log_first(self) -> Tensor:
        """(rows, bins + 1) logarithm of the mass of the first purchase; the last bin is never."""
        survival = self.log_survival()
        before = functional.pad(survival[:, :-1], (1, 0))
        first = before + functional.logsigmoid(self.hazard)
        return torch.cat((first, survival[:, -1:]), dim=1)

    def purchases(self) -> Tensor:
        """(rows, bins) purchases expected, never below the mass of the first one."""
        return self.log_first()[:, :-1].exp() + self.excess()

    def excess(self) -> Tensor:
        return self.more.clamp(-20.0, MOST_LOG).exp()


@dataclass(frozen=True, slots=True, eq=False)
class Inputs:
    """Tokens as tensors on the device; as `Tokens` says."""

    query: Tensor
    events: Tensor
    types: Tensor
    items: Tensor
    categories: Tensor
    present: Tensor
    shop: Tensor
    contexts: Tensor
    known: Tensor

    @classmethod
    def of(cls, tokens: Tokens, device: torch.device) -> Inputs:
        names = cls.__dataclass_fields__
        return cls(*(torch.from_numpy(getattr(tokens, name)).to(device) for name in names))


class EventsModel(PreTrainedModel):  # type: ignore[no-untyped-call]  # its dataclass machinery
    """A ModernBERT encoder over query, shop and events, and three heads on the query's answer."""

    config_class = EventsConfig
    base_model_prefix = "events"
    config: EventsConfig
    context_mean: Tensor
    context_spread: Tensor

    def __init__(self, config: EventsConfig) -> None:
        super().__init__(config)
        width = config.hidden_size
        bins = len(config.bin_edges)
        self.register_buffer("context_mean", torch.zeros(config.context_size))
        self.register_buffer("context_spread", torch.ones(config.context_size))
        self.shop = nn.Sequential(
            nn.Linear(config.context_size, config.query_width),
            nn.GELU(),
            nn.Linear(config.query_width, config.shop_width),
        )
        self.unknown_shop = nn.Parameter(torch.zeros(config.shop_width))
        self.shop_tokens = nn.Linear(config.shop_width, config.shop_tokens * width)
        self.query = nn.Sequential(
            nn.Linear(config.query_size + config.shop_width, config.query_width),
            nn.GELU(),
            nn.Linear(config.query_width, config.query_width),
            nn.GELU(),
            nn.Linear(config.query_width, width),
        )
        self.event = nn.Linear(config.event_size, width)
        self.kind = nn.Embedding(KINDS, width)
        self.item = nn.Embedding(config.item_buckets, config.thing_width, padding_idx=0)
        self.category = nn.Embedding(config.category_buckets, config.thing_width, padding_idx=0)
        self.thing = nn.Linear(config.thing_width, width, bias=False)
        self.encoder = ModernBertModel(_encoder_config(config))
        self.head = nn.Sequential(
            nn.Linear(width + config.query_size, config.query_width),
            nn.GELU(),
            nn.Linear(config.query_width, 2 * bins + 1),
        )
        self.post_init()  # type: ignore[no-untyped-call]

    def forward(self, inputs: Inputs) -> Answer:
        shop = self.shop_vectors(inputs)[inputs.shop]
        return self.answer(inputs.query, shop, self.event_vectors(inputs), inputs.present)

    def shop_vectors(self, inputs: Inputs) -> Tensor:
        """(shops, shop_width)"""
        scaled = (inputs.contexts - self.context_mean) / self.context_spread
        vectors = self.shop(scaled.clamp(-6.0, 6.0))
        return torch.where(inputs.known[:, None], vectors, self.unknown_shop)

    def event_vectors(self, inputs: Inputs) -> Tensor:
        """(rows, length, hidden_size)"""
        things = self.item(inputs.items) + self.category(inputs.categories)
        vectors: Tensor = self.event(inputs.events) + self.kind(inputs.types) + self.thing(things)
        return vectors

    def answer(self, query: Tensor, shop: Tensor, events: Tensor, present: Tensor) -> Answer:
        """present: (rows, length), booleans, or shares of presence in (0, 1] that attention has."""
        rows, bins = len(query), len(self.config.bin_edges)
        first = self.query(torch.cat((query, shop), dim=1))[:, None]
        tokens = self.shop_tokens(shop).view(rows, self.config.shop_tokens, -1)
        hidden = self._encoded(torch.cat((first, tokens, events), dim=1), self._mask(present))
        out = self.head(torch.cat((hidden, query), dim=1))
        return Answer(out[:, :bins], out[:, bins : 2 * bins], out[:, -1])

    def _encoded(self, embedded: Tensor, mask: Tensor | None) -> Tensor:
        """(rows, hidden_size) what the encoder makes of the first token.

        As `ModernBertModel.forward`, but for the last layer, of which that token alone is wanted.
        """
        encoder = self.encoder
        hidden = encoder.embeddings(inputs_embeds=embedded)
        steps = torch.arange(hidden.shape[1], device=hidden.device)[None]
        rotation = encoder.rotary_emb(hidden, steps, "full_attention")
        layers: list[Any] = list(encoder.layers)
        *inner, last = layers
        for layer in inner:
            hidden = layer(hidden, attention_mask=mask, position_embeddings=rotation)
        states = last.attn.Wqkv(last.attn_norm(hidden))
        query, key, value = states.view(*hidden.shape[:2], 3, self.config.heads, -1).unbind(2)
        query, key, value = (part.transpose(1, 2) for part in (query[:, :1], key, value))
        _, key = apply_rotary_pos_emb(key, key, *rotation)  # the first token is not turned
        seen = functional.scaled_dot_product_attention(query, key, value, attn_mask=mask)
        first = hidden[:, 0] + last.attn.Wo(seen.flatten(1))
        first = first + last.mlp(last.mlp_norm(first))
        return torch.as_tensor(encoder.final_norm(first))

    def _mask(self, present: Tensor) -> Tensor | None:
        """(rows, 1, 1, tokens) of what may be attended to, added to the scores or boolean."""
        ahead = 1 + self.config.shop_tokens
        if present.dtype == torch.bool:
            mask = None if bool(present.all()) else functional.pad(present, (ahead, 0), value=True)
        else:
            mask = functional.pad(present.log(), (ahead, 0), value=0.0)
        return None if mask is None else mask[:, None, None, :]

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, std=module.in_features**-0.5)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, nn.Embedding):
            nn.init.normal_(module.weight, std=0.3)
            if module.padding_idx is not None:
                module.weight[module.padding_idx].zero_()
        elif module is self:
            self._init_answer()

    @torch.no_grad()
    def _init_answer(self) -> None:
        """Start from one purchase in some 150 days, whoever it is."""
        edges = np.concatenate(([0], np.array(self.config.bin_edges, dtype=np.float64)))
        widths = torch.from_numpy(np.diff(edges) / 150)
        last: Any = self.head[-1]
        last.weight.mul_(0.1)
        bins = len(widths)
        last.bias[:bins].copy_(torch.log(torch.expm1(widths)))
        last.bias[bins : 2 * bins].copy_(torch.log(widths / 4))


def _encoder_config(config: EventsConfig) -> ModernBertConfig:
    sizes: dict[str, Any] = {
        "vocab_size": 1,
        "pad_token_id": 0,
        "bos_token_id": None,
        "eos_token_id": None,
        "cls_token_id": None,
        "sep_token_id": None,
        "hidden_size": config.hidden_size,
        "intermediate_size": config.intermediate_size,
        "num_hidden_layers": config.layers,
        "num_attention_heads": config.heads,
        "layer_types": ["full_attention"] * config.layers,
        "initializer_range": config.hidden_size**-0.5,
        "max_position_embeddings": 512,
        "attn_implementation": "sdpa",
    }
    return ModernBertConfig(**sizes)


def new_events_model(config: EventsConfig, *, seed: int) -> EventsModel:
    """A network with weights drawn anew, reproducible by seed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return EventsModel(config)


# --- serving ---------------------------------------------------------------------------------

ENGINE = 1  # raise it when the same weights begin to answer differently
PART_TOKENS = 2048  # padded tokens of a pass on a CPU, which customers of like length share


@dataclass(frozen=True, slots=True)
class EventsDescription:
    """What a person wants to know of a loaded events network."""

    checkpoint: str
    architecture: str
    parameters: int
    device: str
    dtype: str
    runtime: str
    events_read: int  # the latest of a customer's events
    farthest_days: int  # the end of the last bin; beyond it the hazard stays as it is there


@dataclass(frozen=True, slots=True, eq=False)
class EventsCheckpoint:
    """A verified events network, on the CPU, in float32, in evaluation mode.

    options: what the checkpoint, or an adapter's base, says of itself under `shopcast` in its
    config.json.
    """

    name: str
    model: EventsModel
    digest: str
    options: dict[str, Any]


class EventsNetwork:
    """An events network on a device, answering batches of PurchaseTask."""

    def __init__(
        self,
        checkpoint: EventsCheckpoint,
        *,
        device: DeviceName = "auto",
        dtype: DtypeName = "auto",
        runtime: RuntimeName = "auto",
    ) -> None:
        dtype = asked(dtype, checkpoint.options, device, runtime)
        self._runtime = runtime_of(runtime, device, dtype)
        self._device = device_of("cpu" if self._runtime == "onnx" else device)
        self._dtype = dtype_of(dtype, self._device)
        self._model = checkpoint.model.requires_grad_(False)
        self._model.to(self._device)  # type: ignore[arg-type]  # its wrapper hides self
        self._config = checkpoint.model.config
        self._edges = np.array([0.0, *self._config.bin_edges])
        self._threads = Threads()
        self._forward = self._load()
        self._name = checkpoint.name
        self._parameters = sum(weight.numel() for weight in self._model.parameters())
        where = f"{self._dtype}:{self._device.type}:{self._runtime}"
        setup = f"events:{ENGINE}:{checkpoint.digest}:{where}"
        self._fingerprint = hashlib.sha256(setup.encode()).hexdigest()

    @classmethod
    def load(
        cls,
        directory: Path,
        base: Path | None = None,
        *,
        device: DeviceName = "auto",
        dtype: DtypeName = "auto",
        runtime: RuntimeName = "auto",
        threads: int | None = None,
    ) -> EventsNetwork:
        """Read, verify and warm up a checkpoint; CheckpointError says what is wrong with it.

        threads: CPU threads of torch, for the whole process. Raises SetupError if device, dtype
        and runtime do not go together or are not to be had here.
        """
        if threads is not None:
            torch.set_num_threads(threads)
        checkpoint = load_events(directory, base=base)
        network = cls(checkpoint, device=device, dtype=dtype, runtime=runtime)
        network.warm_up()
        return network

    @property
    def fingerprint(self) -> str:
        """Hex digest of the weights and of every setting that moves an answer."""
        return self._fingerprint

    def describe(self) -> EventsDescription:
        return EventsDescription(
            checkpoint=self._name,
            architecture="ModernBERT hazard",
            parameters=self._parameters,
            device=str(self._device),
            dtype=str(self._dtype).removeprefix("torch."),
            runtime=self._runtime,
            events_read=self._config.length,
            farthest_days=self._config.bin_edges[-1],
        )

    @property
    def length(self) -> int:
        """Events of a customer that are read, the latest."""
        return self._config.length

    def gpu_memory_bytes(self) -> int:
        """Memory that this process holds on the network's GPU; 0 on a CPU."""
        return torch.cuda.memory_reserved(self._device) if self._device.type == "cuda" else 0

    def lane(self, task: PurchaseTask) -> bool:
        """Whether the task is to be explained, which costs far more than an answer."""
        return task.explain_days is not None

    def work(self, task: PurchaseTask) -> Work:
        tokens = (
            1 + self._config.shop_tokens + min(len(task.customer.days_ago), self._config.length)
        )
        rows = 1 if task.explain_days is None else 3 * STEPS  # a gradient costs two passes
        return Work(rows=rows, length=tokens)

    def predict(self, tasks: Sequence[PurchaseTask]) -> list[PurchaseForecast]:
        """Answer tasks of one lane, in order.

        Raises OutOfMemoryError if the batch does not fit the device, NotFiniteError if an answer
        is not a number, ModelError for a context or horizons that cannot be.
        """
        tokens = _tokens(tasks, self._config.length)
        try:
            with self._threads.counted():
                curves = self.curves(tokens)
                explanations = self._explanations(tasks, tokens, curves)
        except torch.OutOfMemoryError as error:
            torch.cuda.empty_cache()  # a smaller batch needs what this one broke into pieces
            raise OutOfMemoryError(str(error)) from error
        return _forecasts(tasks, curves, explanations)

    def warm_up(self) -> None:
        """Answer for a buyer and for somebody never seen; raises CheckpointError."""
        types = np.full(2, PURCHASE, dtype=np.int8)
        seen = customer_of(np.array([1.0, 20.0]), types, as_of=50.0)
        unseen = customer_of(np.zeros(0), types[:0], as_of=50.0)
        try:
            self.predict(
                [PurchaseTask(one, None, 0.5, 0, (7.0, 30.0), 180.0) for one in (seen, unseen)]
            )
        except (ModelError, RuntimeError, ValueError) as error:
            raise CheckpointError(f"the warm-up answer failed: {error}") from error

    def _load(self) -> Callable[[Tokens], Answer]:
        """The forward pass, in the runtime wanted."""
        if self._runtime == "torch":
            return self._in_torch
        try:
            from models.events_runtime import OnnxEvents  # noqa: PLC0415 - as in models.series
        except ImportError as error:
            raise without_packages(error) from error
        int8 = self._dtype == torch.int8
        return OnnxEvents(self._model, int8=int8, threads=self._threads.count)

    def curves(self, tokens: Tokens) -> Curves:
        """What it says of tokens of `length` events at most. Raises NotFiniteError."""
        rows = len(tokens)
        bins = len(self._edges) - 1
        hazard, more, amount = np.empty((rows, bins)), np.empty((rows, bins)), np.empty(rows)
        for part in parts_of(tokens, self._part()):
            answer = self._pass(tokens.take(part))
            hazard[part] = functional.softplus(answer.hazard.float()).cpu().numpy()
            more[part] = answer.excess().float().cpu().numpy()
            amount[part] = answer.amount.float().cpu().numpy()
        for values in (hazard, more, amount):
            _verify_finite(values)
        return Curves(self._edges, hazard, more, amount, tokens.scale)

    def _pass(self, tokens: Tokens) -> Answer:
        length = 1 + self._config.shop_tokens + tokens.present.shape[1]
        self._threads.take(len(tokens) * length * self._parameters)
        return self._forward(tokens)

    @torch.inference_mode()
    def _in_torch(self, tokens: Tokens) -> Answer:
        reduced = self._dtype == torch.bfloat16
        with torch.autocast(self._device.type, torch.bfloat16, enabled=reduced):
            return self._model(Inputs.of(tokens, self._device))  # type: ignore[no-any-return]

    def _part(self) -> int:
        return PART_TOKENS if self._device.type == "cpu" else 64 * PART_TOKENS

    def _explanations(
        self, tasks: Sequence[PurchaseTask], tokens: Tokens, curves: Curves
    ) -> dict[int, Explanation]:
        """By position; in single precision, adding up to what was answered in any."""
        explanations = {}
        for i, task in enumerate(tasks):
            if task.explain_days is not None:
                inputs = Inputs.of(tokens.take(np.array([i])), self._device)
                count = len(task.customer.days_ago)
                answered = _rows_of(curves, [i]).log_odds(task.explain_days)
                explanations[i] = explain(
                    self._model, inputs, task.explain_days, events=count, answered=answered
                )
        return explanations


def load_events(directory: Path, *, base: Path | None = None) -> EventsCheckpoint:
    """Read an events checkpoint, or a LoRA adapter on top of its base.

    base: the base checkpoint of an adapter; by default the directory `base` inside it. What the
    adapter's own config says of its base is ignored. Raises CheckpointError with the reason.
    """
    if not directory.is_dir():
        raise CheckpointError(f"checkpoint directory {directory.name!r} does not exist")
    if (directory / ADAPTER_CONFIG).exists():
        return _load_adapter(directory, base or directory / BASE_DIRECTORY)
    config = _read_config(directory)
    files = weight_files(directory)
    try:
        model = EventsModel(config)
    except (TypeError, ValueError, RuntimeError, ZeroDivisionError) as error:
        raise CheckpointError(f"{CONFIG} does not describe a network: {error}") from error
    fill(model, read_tensors(files))
    digest = digest_of([directory / CONFIG, *files])
    return EventsCheckpoint(directory.name, _still(model), digest, _options(config))


def _still(model: EventsModel) -> EventsModel:
    """The model in evaluation mode."""
    model.train(mode=False)
    return model


def _load_adapter(directory: Path, base: Path) -> EventsCheckpoint:
    if not (directory / ADAPTER_WEIGHTS).exists():
        raise CheckpointError(f"adapter has no {ADAPTER_WEIGHTS}; only safetensors are loaded")
    if not base.is_dir():
        raise CheckpointError(
            "adapter without its base: put the base checkpoint into a directory "
            f"{BASE_DIRECTORY!r} inside it, or name it"
        )
    root = load_events(base)
    model, digest = merged(root.model, directory, root.digest)
    return EventsCheckpoint(directory.name, _still(model), digest, root.options)


def _options(config: EventsConfig) -> dict[str, Any]:
    """What a config says under `shopcast`, which goes with it wherever it is saved."""
    said = getattr(config, "shopcast", None)
    return said if isinstance(said, dict) else {}


def _read_config(directory: Path) -> EventsConfig:
    try:
        raw = json.loads((directory / CONFIG).read_text())
    except FileNotFoundError:
        raise CheckpointError(f"checkpoint has no {CONFIG}") from None
    except ValueError as error:
        raise CheckpointError(f"{CONFIG} is not JSON: {error}") from error
    if not isinstance(raw, dict) or raw.get("model_type") != EventsConfig.model_type:
        raise CheckpointError(f"{CONFIG} is not that of an events network")
    try:
        config = EventsConfig(**raw)
    except (TypeError, ValueError) as error:
        raise CheckpointError(f"{CONFIG}: {error}") from error
    _verify_sizes(config)
    return config


def _verify_sizes(config: EventsConfig) -> None:
    ours = EventsConfig()
    read = ("query_size", "event_size", "context_size", "item_buckets", "category_buckets")
    for name in read:
        if getattr(config, name) != getattr(ours, name):
            raise CheckpointError(
                f"{name} is {getattr(config, name)}; this version reads {getattr(ours, name)}"
            )
    whole = ("hidden_size", "layers", "heads", "intermediate_size", "query_width", "shop_width")
    for name in (*whole, "shop_tokens", "thing_width", "length"):
        if type(getattr(config, name)) is not int or getattr(config, name) < 1:
            raise CheckpointError(f"{name} must be a whole number from 1 on")
    edges = config.bin_edges
    numbers = isinstance(edges, list) and all(type(edge) in {int, float} for edge in edges)
    if not numbers or not edges or not all(a < b for a, b in pairwise([0, *edges])):
        raise CheckpointError("bin_edges must ascend from above 0")


def _tokens(tasks: Sequence[PurchaseTask], length: int) -> Tokens:
    shops: dict[int, int] = {}
    contexts: list[FloatArray] = []
    for task in tasks:
        if id(task.context) not in shops:
            shops[id(task.context)] = len(shops)
            contexts.append(np.zeros(CONTEXT_SIZE) if task.context is None else task.context)
            if contexts[-1].shape != (CONTEXT_SIZE,) or not np.isfinite(contexts[-1]).all():
                raise ModelError(f"a context is {CONTEXT_SIZE} finite numbers")
    return tokens_of(
        population_of([task.customer for task in tasks]),
        contexts=np.stack(contexts),
        known=np.array([number != id(None) for number in shops]),
        shop=np.array([shops[id(task.context)] for task in tasks], dtype=np.int64),
        year_phase=np.array([task.year_phase for task in tasks]),
        weekday=np.array([task.weekday for task in tasks], dtype=np.int64),
        length=length,
    )


def parts_of(tokens: Tokens, size: int) -> Iterator[Ints]:
    """Rows of like length, some `size` padded tokens at a time."""
    lengths = tokens.present.sum(axis=1) + 3
    order = np.argsort(lengths, kind="stable")
    first = 0
    while first < len(order):
        padded = lengths[order[first:]] * np.arange(1, len(order) - first + 1)
        count = max(1, int(np.searchsorted(padded, size, side="right")))
        yield order[first : first + count]
        first += count


@dataclass(frozen=True, slots=True, eq=False)
class Curves:
    """The answers of rows over time.

    edges: (bins + 1,) days, from 0. hazard: (rows, bins) cumulative hazard gained in a bin, even
    within it. more: (rows, bins) purchases beyond the first. amount: (rows,) logarithm of the mean
    amount relative to scale: (rows,).
    """

    edges: FloatArray
    hazard: FloatArray
    more: FloatArray
    amount: FloatArray
    scale: FloatArray

    def probability(self, days: FloatArray) -> FloatArray:
        """(rows, days) of a purchase within so many days."""
        return -np.expm1(-self._until(self.hazard, days))

    def purchases(self, days: FloatArray) -> FloatArray:
        return self.probability(days) + self._until(self.more, days)

    def binned(self, edges: FloatArray) -> Curves:
        """The same in other bins. edges: (bins + 1,) days, from 0."""
        hazard, more = (
            np.diff(self._until(each, edges), axis=1) for each in (self.hazard, self.more)
        )
        return Curves(edges, hazard, more, self.amount, self.scale)

    def log_odds(self, days: float) -> float:
        """Of a purchase within so many days, of the first row."""
        gained = self._until(self.hazard, np.array([days]))[0, 0]
        return float(gained + np.log(-np.expm1(-gained)))

    def mean_amount(self) -> FloatArray:
        """(rows,) of a purchase, NaN where no amount is known."""
        return self.scale * np.exp(np.clip(self.amount, -7.0, 7.0))

    def _until(self, gained: FloatArray, days: FloatArray) -> FloatArray:
        """What has been gained by then; beyond the last edge it goes on at the last bin's rate."""
        total = np.concatenate((np.zeros((len(gained), 1)), np.cumsum(gained, axis=1)), axis=1)
        place = np.searchsorted(self.edges, days, side="left").clip(1, len(self.edges) - 1)
        low, high = self.edges[place - 1], self.edges[place]
        share = (days - low) / (high - low)
        return np.asarray(total[:, place - 1] + share * gained[:, place - 1])


def _forecasts(
    tasks: Sequence[PurchaseTask], curves: Curves, explanations: dict[int, Explanation]
) -> list[PurchaseForecast]:
    amounts = curves.mean_amount()
    forecasts: dict[int, PurchaseForecast] = {}
    asked: dict[tuple[tuple[float, ...], float], list[int]] = {}
    for i, task in enumerate(tasks):
        asked.setdefault((task.horizons_days, task.churn_window_days), []).append(i)
    for (horizons, window), rows in asked.items():
        if not horizons or min(*horizons, window) <= 0:
            raise ModelError("horizons and the churn window must be above 0")
        days = np.array([*horizons, window])
        some = _rows_of(curves, rows)
        probability, purchases = some.probability(days), some.purchases(days)
        spend = purchases[:, :-1] * amounts[rows, None]
        for k, i in enumerate(rows):
            forecasts[i] = PurchaseForecast(
                probability=probability[k, :-1],
                churn=float(1 - probability[k, -1]),
                purchases=purchases[k, :-1],
                spend=spend[k],
                explanation=explanations.get(i),
            )
    return [forecasts[i] for i in range(len(tasks))]


def _rows_of(curves: Curves, rows: list[int]) -> Curves:
    parts = (curves.hazard, curves.more, curves.amount, curves.scale)
    return Curves(curves.edges, *(part[rows] for part in parts))


def _verify_finite(values: FloatArray) -> None:
    if not np.isfinite(values).all():
        raise NotFiniteError("the network's answer is not a finite number")
