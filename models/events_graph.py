"""The forward pass of an events network as an ONNX graph, on packed tokens.

Invariant: the graph computes what the EventsModel it is made from computes, for any number of rows
and events, and no row's answer depends on another row but by its shop's context.

Products are of the tokens that there are; a row is padded to the longest for attention alone.
Tokens stand one behind the other: the query of each row, then the shop tokens of each row, then the
events of each row. The last layer is computed for the query alone, as in the model.

Inputs beside those of `models.tokens` (whose events are packed here): `places` (tokens,) where each
token stands in (rows, longest) once that is flattened; `slots` (rows, longest) the token that
stands there; `present` of the same shape, False where none does; `positions` (tokens,).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from onnx import TensorProto
from torch import nn

from models.base import CheckpointError
from models.graph import TINY, Graph

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor
    from transformers.models.modernbert.modeling_modernbert import ModernBertEncoderLayer

    from models.events import EventsModel

NUMBERS = ("shop", "types", "items", "categories", "places", "positions")
TABLE_STEPS = 127  # of 8 bits, from 0 to the largest number of a row
WITHIN = 6.0  # deviations of a number of the context, as in the model


def events_graph_of(model: EventsModel, *, int8: bool = False) -> bytes:
    """A serialised ONNX model of a network on the CPU.

    int8: products but for those of the head are of 8-bit integers, their weights scaled per column,
    what they are applied to per token, and so the answer to a row moves with that row alone; tables
    of embeddings are kept in 8 bits, scaled per row. The head, whose rounding moves answers most,
    and what is between the products stay in float32.
    Raises CheckpointError for what cannot be written.
    """
    return _Network(model, int8=int8).model()


class _Network:
    """Writes the network into a graph. Hidden states are packed: (tokens, width)."""

    def __init__(self, model: EventsModel, *, int8: bool) -> None:
        if model.encoder.config.hidden_activation != "gelu":
            raise CheckpointError(
                "its activation is not gelu; set SHOPCAST_RUNTIME=torch to serve it"
            )
        self._net, self._config, self._int8 = model, model.config, int8
        self._graph = graph = Graph()
        self._node = graph.node
        self._width = self._config.hidden_size
        self._rotation = [graph.constant(part) for part in self._angles()]

    def model(self) -> bytes:
        hidden = self._tokens()
        layers: list[Any] = list(self._net.encoder.layers)
        for layer in layers[:-1]:
            hidden = self._layer(layer, hidden)
        hidden = self._last_layer(layers[-1], hidden)
        said = self._node(
            "Concat", self._normal(hidden, self._net.encoder.final_norm), "query", axis=1
        )
        floating, number = TensorProto.FLOAT, TensorProto.INT64
        inputs: dict[str, tuple[int, tuple[str, ...]]] = {
            "query": (floating, ("rows", "facts")),
            "events": (floating, ("events", "numbers")),
            "contexts": (floating, ("shops", "statistics")),
            "known": (TensorProto.BOOL, ("shops",)),
            "slots": (number, ("rows", "longest")),
            "present": (TensorProto.BOOL, ("rows", "longest")),
            **{name: (number, (f"n_{name}",)) for name in NUMBERS},
        }
        numbers = 2 * len(self._config.bin_edges) + 1
        return self._graph.model(
            inputs, {"answer": ("rows", numbers)}, self._through(self._net.head, said, exact=True)
        )

    # -- tokens ---------------------------------------------------------------------------------

    def _tokens(self) -> str:
        """(tokens, width), normalised as the encoder's embeddings are."""
        shop = self._node("Gather", self._shops(), "shop")  # (rows, shop_width)
        query = self._through(self._net.query, self._node("Concat", "query", shop, axis=1))
        of_shop = self._reshape(self._linear(shop, self._net.shop_tokens), -1, self._width)
        every = self._node("Concat", query, of_shop, self._events(), axis=0)
        return self._normal(every, self._net.encoder.embeddings.norm)

    def _shops(self) -> str:
        """(shops, shop_width)"""
        spread = self._node("Sub", "contexts", self._constant(self._net.context_mean))
        scaled = self._node("Div", spread, self._constant(self._net.context_spread))
        bounds = [self._graph.constant(np.float32(end)) for end in (-WITHIN, WITHIN)]
        vectors = self._through(self._net.shop, self._node("Clip", scaled, *bounds))
        known = self._node("Unsqueeze", "known", self._graph.whole(1))
        return self._node("Where", known, vectors, self._constant(self._net.unknown_shop[None]))

    def _events(self) -> str:
        net = self._net
        tables = ((net.item, "items"), (net.category, "categories"))
        things = [self._looked_up(table.weight, name) for table, name in tables]
        thing = self._linear(self._node("Add", *things), net.thing)
        kind = self._node("Gather", self._constant(net.kind.weight), "types")
        event = self._node("Add", self._linear("events", net.event), kind)
        return self._node("Add", event, thing)

    # -- the encoder ----------------------------------------------------------------------------

    def _layer(self, layer: ModernBertEncoderLayer, hidden: str) -> str:
        query, key, value = self._projected(layer, self._before(layer, hidden))
        turned = [self._turned(part) for part in (query, key)]
        padded = [self._node("Gather", part, "slots") for part in (*turned, value)]
        mixed = self._reshape(self._attend(*padded, queries="longest"), -1, self._width)
        mixed = self._node("Gather", mixed, "places")
        return self._fed(layer, self._node("Add", hidden, self._linear(mixed, layer.attn.Wo)))

    def _last_layer(self, layer: ModernBertEncoderLayer, hidden: str) -> str:
        """(rows, width) of the query alone, which stands first, where nothing is turned."""
        rows = self._node("Shape", "query", start=0, end=1)
        normal = self._before(layer, hidden)
        query, key, value = self._projected(layer, normal, queries=self._first(normal, rows))
        padded = [self._node("Gather", part, "slots") for part in (self._turned(key), value)]
        query = self._node("Unsqueeze", query, self._graph.whole(1))
        mixed = self._reshape(self._attend(query, *padded, queries="one"), -1, self._width)
        first = self._node("Add", self._first(hidden, rows), self._linear(mixed, layer.attn.Wo))
        return self._fed(layer, first)

    def _before(self, layer: ModernBertEncoderLayer, hidden: str) -> str:
        """The first layer of ModernBERT has no norm of its own."""
        norm = layer.attn_norm
        return self._normal(hidden, norm) if isinstance(norm, nn.LayerNorm) else hidden

    def _projected(
        self, layer: ModernBertEncoderLayer, normal: str, *, queries: str | None = None
    ) -> list[str]:
        """Query, key and value, the first of `queries` if that is less than all."""
        weights = torch.split(layer.attn.Wqkv.weight, self._width)
        sources = (queries or normal, normal, normal)
        return [self._product(x, part) for x, part in zip(sources, weights, strict=True)]

    def _turned(self, states: str) -> str:
        """(tokens, width) by the rotary embedding of each token's position."""
        # each token as a sequence of its own: a sequence may not be longer than the table
        ones = self._graph.whole(1)
        states, positions = (self._node("Unsqueeze", each, ones) for each in (states, "positions"))
        turned = self._node(
            "RotaryEmbedding", states, *self._rotation, positions, num_heads=self._config.heads
        )
        return self._node("Squeeze", turned, ones)

    def _attend(self, query: str, key: str, value: str, *, queries: str) -> str:
        """(rows, queries, width); all of a row's tokens see those present."""
        mask = self._node("Unsqueeze", "present", self._graph.whole(1, 2))  # (rows, 1, 1, longest)
        if queries == "longest":
            ones = self._graph.whole(1, 1)
            longest = self._node("Shape", "present", start=1, end=2)
            shape = self._node("Concat", ones, longest, self._graph.whole(1), axis=0)
            mask = self._node("Expand", mask, shape)
        heads = self._config.heads
        return self._node(
            "Attention", query, key, value, mask, q_num_heads=heads, kv_num_heads=heads
        )

    def _fed(self, layer: ModernBertEncoderLayer, hidden: str) -> str:
        """After the feed-forward part: half of its inner numbers are gates of the others."""
        normal = self._normal(hidden, layer.mlp_norm)
        parts = torch.split(layer.mlp.Wi.weight, self._config.intermediate_size)
        inner, gate = (self._product(normal, part) for part in parts)
        inner = self._node("Mul", self._node("Gelu", inner), gate)
        return self._node("Add", hidden, self._linear(inner, layer.mlp.Wo))

    # -- parts ----------------------------------------------------------------------------------

    def _angles(self) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Cosines and sines of the rotary embedding: (positions, head / 2)."""
        rates: Any = self._net.encoder.rotary_emb.full_attention_inv_freq
        count = 1 + self._config.shop_tokens + self._config.length
        angles = np.arange(count, dtype=np.float32)[:, None] * rates.numpy()
        return np.cos(angles).astype(np.float32), np.sin(angles).astype(np.float32)

    def _through(self, parts: nn.Sequential, x: str, *, exact: bool = False) -> str:
        """Linear layers with GELU between them."""
        for part in parts:
            if isinstance(part, nn.Linear):
                x = self._linear(x, part, exact=exact)
            else:
                x = self._node("Gelu", x)
        return x

    def _linear(self, x: str, linear: nn.Linear, *, exact: bool = False) -> str:
        return self._product(x, linear.weight, linear.bias, exact=exact)

    def _product(
        self, x: str, weight: Tensor, bias: Tensor | None = None, *, exact: bool = False
    ) -> str:
        """x · weightᵀ of (n, in); exact: not in integers, whatever the network is in."""
        matrix, added = weight.detach().numpy().T, [] if bias is None else [self._constant(bias)]
        if exact or not self._int8:
            return self._node("Gemm", x, self._graph.constant(matrix), *added)
        product = self._graph.integers(x, matrix)
        return self._node("Add", product, *added) if added else product

    def _looked_up(self, table: Tensor, rows: str) -> str:
        """Rows of a table of embeddings."""
        values = table.detach().numpy()
        if not self._int8:
            return self._node("Gather", self._graph.constant(values), rows)
        scales = np.maximum(np.abs(values).max(axis=1, keepdims=True) / TABLE_STEPS, TINY)
        kept = self._graph.constant(np.rint(values / scales).astype(np.int8))
        steps = self._node("Cast", self._node("Gather", kept, rows), to=TensorProto.FLOAT)
        scale = self._node("Gather", self._graph.constant(scales.astype(np.float32)), rows)
        return self._node("Mul", steps, scale)

    def _normal(self, x: str, norm: nn.LayerNorm) -> str:
        inputs = [x, self._constant(norm.weight)]
        inputs += [] if norm.bias is None else [self._constant(norm.bias)]
        return self._node("LayerNormalization", *inputs, axis=-1, epsilon=float(norm.eps))

    def _first(self, x: str, rows: str) -> str:
        return self._node("Slice", x, self._graph.whole(0), rows, self._graph.whole(0))

    def _reshape(self, x: str, *shape: int) -> str:
        return self._node("Reshape", x, self._graph.whole(*shape))

    def _constant(self, values: Tensor) -> str:
        return self._graph.constant(values.detach().numpy())
