"""The events network: a customer's timed events → when the next purchase comes.

One query token, tokens of the shop and the customer's latest events go through a small encoder;
the query's answer is a hazard in each of some periods of time, so that every horizon is read from
one curve.

Invariant: an answer depends on its customer and shop alone, whatever shares its batch; the
probability of a purchase never falls with the horizon, and never exceeds the purchases expected.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import ModernBertConfig, ModernBertModel, PreTrainedConfig, PreTrainedModel
from transformers.models.modernbert.modeling_modernbert import apply_rotary_pos_emb

from models.customers import CONTEXT_SIZE
from models.synth.customers import BIN_EDGES
from models.tokens import CATEGORY_BUCKETS, EVENT_SIZE, ITEM_BUCKETS, KINDS, QUERY_SIZE, Tokens

MOST_LOG = 8.0  # of an expected number of purchases in a bin


class EventsConfig(PreTrainedConfig):  # type: ignore[misc, no-any-unimported]  # transformers is untyped here
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
    bin_edges: list[int] | None = None
    query_size: int = QUERY_SIZE
    event_size: int = EVENT_SIZE
    context_size: int = CONTEXT_SIZE
    item_buckets: int = ITEM_BUCKETS
    category_buckets: int = CATEGORY_BUCKETS

    def __post_init__(self, **kwargs: Any) -> None:
        """The bins of the simulated shops unless others are named."""
        if self.bin_edges is None:
            self.bin_edges = list(BIN_EDGES)
        super().__post_init__(**kwargs)


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


class EventsModel(PreTrainedModel):  # type: ignore[misc, no-any-unimported]  # transformers is untyped here
    """A ModernBERT encoder over query, shop and events, and three heads on the query's answer."""

    config_class = EventsConfig
    base_model_prefix = "events"

    def __init__(self, config: EventsConfig) -> None:  # type: ignore[no-any-unimported]
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
        self.post_init()

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
        return self.event(inputs.events) + self.kind(inputs.types) + self.thing(things)

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
        *inner, last = encoder.layers
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
        last = self.head[-1]
        last.weight.mul_(0.1)
        bins = len(widths)
        last.bias[:bins].copy_(torch.log(torch.expm1(widths)))
        last.bias[bins : 2 * bins].copy_(torch.log(widths / 4))


def _encoder_config(config: EventsConfig) -> ModernBertConfig:  # type: ignore[no-any-unimported]
    return ModernBertConfig(
        vocab_size=1,
        pad_token_id=0,
        bos_token_id=None,
        eos_token_id=None,
        cls_token_id=None,
        sep_token_id=None,
        hidden_size=config.hidden_size,
        intermediate_size=config.intermediate_size,
        num_hidden_layers=config.layers,
        num_attention_heads=config.heads,
        layer_types=["full_attention"] * config.layers,
        initializer_range=config.hidden_size**-0.5,
        max_position_embeddings=512,
        attn_implementation="sdpa",
    )


def new_events_model(config: EventsConfig, *, seed: int) -> EventsModel:  # type: ignore[no-any-unimported]
    """A network with weights drawn anew, reproducible by seed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return EventsModel(config)
