"""The forward pass of a Chronos-2 network as an ONNX graph.

Invariant: the graph computes what the Forward it is made from computes, for any number of rows,
patches and groups, and no row's answer depends on a row of another group.

It is built node by node rather than traced: whether a batch has groups is a branch within the
graph, and every shape is read from the inputs.

Inputs: `context` (rows, time) and `future` (rows, steps), float32, NaN where missing, both whole
patches; `slots` (groups, members), row numbers; `present` of the same shape, False where a slot
pads; `source` (rows,), where each row's part is found once the members of all groups, flattened,
stand behind the rows. Without groups the three are empty. Output: `quantiles` (rows, levels,
steps).
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor

from models.base import CheckpointError
from models.forward import Attention, Block, Forward, Narrow, Residual

OPSET = 23  # the first with attention, rotary embedding and RMS norm
CONTRIBUTED = "com.microsoft"  # ONNX Runtime's own operators
LARGEST_BYTES = 2**31 - 2**20  # protobuf's limit, less room for the nodes
TINY = 1e-30  # keeps the scale of a row of zeros above zero
#: Pairs of products are added in 16 bits on processors without VNNI: 2 · 255 · 63 fits, and so
#: every processor gives the same answer.
WEIGHT_STEPS = 63


def graph_of(forward: Forward, *, int8: bool = False) -> bytes:
    """A serialised ONNX model of the network.

    int8: the products within the blocks but for the last are of 8-bit integers, their weights
    scaled per column, what they are applied to per token; the answer to a row moves with that row
    alone. Raises CheckpointError for what cannot be written.
    """
    return _Network(forward, int8=int8).model()


class Graph:
    """Nodes and constants in the order they are made; a value is known by its name."""

    def __init__(self) -> None:
        self._nodes: list[onnx.NodeProto] = []
        self._constants: list[TensorProto] = []
        self._count = 0

    def constant(self, values: NDArray[Any] | np.generic) -> str:
        name = self._name("constant")
        self._constants.append(numpy_helper.from_array(np.array(values, order="C"), name))
        return name

    def whole(self, *numbers: int) -> str:
        """A list of whole numbers, such as axes or part of a shape."""
        return self.constant(np.array(numbers, dtype=np.int64))

    def node(self, kind: str, *inputs: str, domain: str = "", **attributes: object) -> str:
        return self.parts(kind, 1, *inputs, domain=domain, **attributes)[0]

    def parts(
        self, kind: str, count: int, *inputs: str, domain: str = "", **attributes: object
    ) -> list[str]:
        """The outputs of a node that has several."""
        names = [self._name(kind) for _ in range(count)]
        node = helper.make_node(kind, list(inputs), names, domain=domain)
        node.attribute.extend(helper.make_attribute(*pair) for pair in attributes.items())
        self._nodes.append(node)
        return names

    def integers(self, x: str, matrix: NDArray[np.float32], *, positive: bool = False) -> str:
        """x · matrix of (n, in) in 8-bit integers, each row of x by a scale of its own.

        matrix: (in, out), its columns each by their scale. positive: that no value of x is below
        zero.
        """
        scales = np.maximum(np.abs(matrix).max(axis=0) / WEIGHT_STEPS, TINY).astype(np.float32)
        weights = self.constant(np.rint(matrix / scales).astype(np.int8))
        steps, middle = (255, 0) if positive else (127, 128)
        zero = self.constant(np.array(middle, dtype=np.uint8))
        sizes = x if positive else self.node("Abs", x)
        top = self.node("ReduceMax", sizes, self.whole(1), keepdims=0)
        scale = self.node("Mul", top, self.constant(np.float32(1 / steps)))
        scale = self.node("Add", scale, self.constant(np.float32(TINY)))
        zeros = self.node("Expand", zero, self.node("Shape", scale))
        quantised = self.node("QuantizeLinear", x, scale, zeros, axis=0)
        inputs = (quantised, weights, self.constant(np.float32(1.0)), self.constant(scales), zero)
        product = self.node("MatMulIntegerToFloat", *inputs, domain=CONTRIBUTED)
        return self.node("Mul", product, self.node("Unsqueeze", scale, self.whole(1)))

    def choose(self, wanted: str, then: Callable[[], str], otherwise: Callable[[], str]) -> str:
        """What one of two branches gives; both may read all values made before."""
        branches = {"then_branch": self._branch(then), "else_branch": self._branch(otherwise)}
        return self.node("If", wanted, **branches)

    def model(
        self,
        inputs: dict[str, tuple[int, tuple[str, ...]]],
        output: dict[str, tuple[str | int, ...]],
        value: str,
    ) -> bytes:
        """inputs: element type and dimensions of each. value: what the output is."""
        size = sum(len(constant.raw_data) for constant in self._constants)
        if size > LARGEST_BYTES:
            raise CheckpointError(
                f"its {size / 2**30:.1f} GiB of weights are more than an ONNX model may hold; "
                "set SHOPCAST_RUNTIME=torch"
            )
        given = [helper.make_tensor_value_info(name, *inputs[name]) for name in inputs]
        ((name, shape),) = output.items()
        made = helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)
        nodes = [*self._nodes, helper.make_node("Identity", [value], [name])]
        graph = helper.make_graph(nodes, "network", given, [made], self._constants)
        versions = [helper.make_opsetid("", OPSET), helper.make_opsetid(CONTRIBUTED, 1)]
        model = helper.make_model(graph, opset_imports=versions, ir_version=11)
        return bytes(model.SerializeToString())

    def _branch(self, make: Callable[[], str]) -> onnx.GraphProto:
        outer, self._nodes = self._nodes, []
        made = helper.make_tensor_value_info(make(), TensorProto.FLOAT, None)
        inner, self._nodes = self._nodes, outer
        return helper.make_graph(inner, self._name("branch"), [], [made])

    def _name(self, kind: str) -> str:
        self._count += 1
        return f"{kind.lower()}_{self._count}"


def weight_bytes_of(graph: bytes) -> int:
    """Bytes of all constants of a serialised graph."""
    return sum(len(each.raw_data) for each in onnx.load_from_string(graph).graph.initializer)


@dataclass(frozen=True, slots=True)
class _Tokens:
    """Values of one batch that all blocks read, for all tokens or for the last ones.

    count: tokens of a row. positions: (rows, tokens). seen: (rows, tokens). mask: (rows, 1,
    tokens, all tokens), what each may look at.
    """

    count: str
    positions: str
    seen: str
    mask: str


class _Network:
    """Writes the network into a graph. Hidden states are flat: (rows * tokens, d)."""

    def __init__(self, forward: Forward, *, int8: bool) -> None:
        if any(type(block.activation).__name__ != "ReLU" for block in forward.blocks):
            raise CheckpointError(
                "its activation is not relu; set SHOPCAST_RUNTIME=torch to serve it"
            )
        self._net, self._int8 = forward, int8
        self._graph = graph = Graph()
        self._node, self._whole = graph.node, graph.whole
        self._d = len(forward.register)
        self._inner = forward.heads * forward.head_dim
        self._ones = graph.constant(np.ones(self._d, dtype=np.float32))
        self._rows = self._node("Shape", "context", start=0, end=1)
        self._ahead = self._patches_of("future")
        self._grouped = self._node("Greater", self._node("Size", "slots"), self._scalar(0))

    def model(self) -> bytes:
        hidden, every = self._tokens()
        last = self._last(every)
        self._rotation = self._angles(every.count)
        for block in self._net.blocks[:-1]:
            hidden = self._block(block, hidden, every, kept=every, int8=self._int8)
        hidden = self._block(self._net.blocks[-1], hidden, every, kept=last, int8=False)
        flat = self._residual(self._normal(hidden), self._net.output)
        levels, patch = self._net.levels, self._net.patch
        shape = self._node("Concat", self._rows, self._ahead, self._whole(levels, patch), axis=0)
        by_level = self._node("Transpose", self._reshape(flat, shape), perm=[0, 2, 1, 3])
        joined = self._reshape(by_level, self._whole(0, levels, -1))
        number, floating = TensorProto.INT64, TensorProto.FLOAT
        inputs: dict[str, tuple[int, tuple[str, ...]]] = {
            "context": (floating, ("rows", "time")),
            "future": (floating, ("rows", "steps")),
            "slots": (number, ("groups", "members")),
            "present": (TensorProto.BOOL, ("groups", "members")),
            "source": (number, ("sources",)),
        }
        return self._graph.model(inputs, {"quantiles": ("rows", levels, "steps")}, joined)

    # -- from values to tokens ------------------------------------------------------------------

    def _tokens(self) -> tuple[str, _Tokens]:
        """Embedded patches, the register between past and future; which of them were seen."""
        past = self._patches_of("context")
        flat, observed = self._embedded(past)
        embedded = self._cube(flat, self._d)
        register = self._graph.constant(self._net.register.numpy()[None, None])
        shape = self._node("Concat", self._rows, self._whole(1, self._d), axis=0)
        parts = (
            self._until(embedded, past),
            self._node("Expand", register, shape),
            self._from(embedded, past),
        )
        cube = self._node("Concat", *parts, axis=1)
        count = self._node("Shape", cube, start=1, end=2)
        behind = self._node("Add", self._ahead, self._whole(1))
        shape = self._node("Concat", self._rows, behind, axis=0)
        known = self._node("Expand", self._graph.constant(np.ones((1, 1), dtype=bool)), shape)
        seen = self._node("Concat", observed, known, axis=1)
        return self._flat(cube), self._described(count, seen)

    def _embedded(self, past: str) -> tuple[str, str]:
        """(rows * patches, d), and which patches of the past have a value: (rows, patches)."""
        values = self._node("Concat", "context", "future", axis=1)
        missing = self._node("IsNaN", values)
        seen = self._node("Cast", self._node("Not", missing), to=TensorProto.FLOAT)
        known = self._node("Where", missing, self._number(0.0), values)
        shape = self._whole(0, -1, self._net.patch)
        channels = [self._reshape(part, shape) for part in (self._times(values), known, seen)]
        patches = self._node("Concat", *channels, axis=2)
        observed = self._node("ReduceMax", channels[2], self._whole(2), keepdims=0)
        observed = self._node("Cast", self._until(observed, past), to=TensorProto.BOOL)
        return self._residual(self._flat(patches, 3 * self._net.patch), self._net.embed), observed

    def _times(self, values: str) -> str:
        """The time of each value, 0 where the future begins, in the network's unit."""
        lengths = [
            self._node("Squeeze", self._node("Shape", name, start=1, end=2))
            for name in ("context", "future")
        ]
        start = self._node("Neg", lengths[0])
        steps = self._node("Range", start, lengths[1], self._scalar(1))
        steps = self._node("Cast", steps, to=TensorProto.FLOAT)
        times = self._node("Div", steps, self._number(self._net.time_scale))
        return self._node("Expand", times, self._node("Shape", values))

    def _described(self, count: str, seen: str) -> _Tokens:
        numbers = self._node("Range", self._scalar(0), self._squeeze(count), self._scalar(1))
        shape = self._node("Concat", self._rows, count, axis=0)
        positions = self._node("Expand", numbers, shape)
        return _Tokens(count, positions, seen, self._mask(seen, count))

    def _last(self, every: _Tokens) -> _Tokens:
        """The tokens of the future alone; they look at all."""
        positions, seen = (self._ending(part) for part in (every.positions, every.seen))
        return _Tokens(self._ahead, positions, seen, self._mask(every.seen, self._ahead))

    def _mask(self, seen: str, queries: str) -> str:
        """(rows, tokens) → (rows, 1, queries, tokens)."""
        shape = self._node("Concat", self._whole(1, 1), queries, self._whole(1), axis=0)
        return self._node("Expand", self._node("Unsqueeze", seen, self._whole(1, 2)), shape)

    def _angles(self, count: str) -> tuple[str, str]:
        """Cosines and sines of the rotary embedding: (tokens, head_dim / 2)."""
        steps = np.arange(0, self._net.head_dim, 2, dtype=np.float32)
        rates = 1.0 / np.float32(self._net.theta) ** (steps / np.float32(self._net.head_dim))
        numbers = self._node("Range", self._scalar(0), self._squeeze(count), self._scalar(1))
        tokens = self._node("Cast", numbers, to=TensorProto.FLOAT)
        column = self._node("Unsqueeze", tokens, self._whole(1))
        angles = self._node("Mul", column, self._graph.constant(rates.astype(np.float32)))
        return self._node("Cos", angles), self._node("Sin", angles)

    # -- blocks ---------------------------------------------------------------------------------

    def _block(
        self, block: Block, hidden: str, every: _Tokens, *, kept: _Tokens, int8: bool
    ) -> str:
        """(rows * tokens, d) → (rows * kept tokens, d)."""
        change = self._over_time(block.time, self._normal(hidden), every, kept=kept, int8=int8)
        if kept is not every:
            hidden = self._flat(self._ending(self._cube(hidden, self._d)))
        hidden = self._node("Add", hidden, change)
        normal = self._normal(hidden)
        alone = self._product(normal, block.group.ov, int8=int8)
        alone = self._through(block.group.narrow, alone)
        hidden = self._graph.choose(
            self._grouped,
            lambda: self._node(
                "Add", hidden, self._over_groups(block.group, normal, alone, kept, int8=int8)
            ),
            lambda: self._node("Add", hidden, alone),
        )
        inner = self._node("Relu", self._product(self._normal(hidden), block.up, int8=int8))
        change = self._product(inner, block.down, int8=int8, positive=True)
        return self._node("Add", hidden, self._through(block.narrow, change))

    def _over_time(
        self, attention: Attention, normal: str, every: _Tokens, *, kept: _Tokens, int8: bool
    ) -> str:
        if kept is every:
            projected = self._cube(self._product(normal, attention.qkv, int8=int8), 3 * self._inner)
            query, key, value = self._graph.parts("Split", 3, projected, axis=2, num_outputs=3)
        else:
            ending = self._flat(self._ending(self._cube(normal, self._d)))
            query = self._product(ending, attention.qkv[: self._inner], int8=int8)
            query = self._cube(query, self._inner)
            both = self._product(normal, attention.qkv[self._inner :], int8=int8)
            both = self._cube(both, 2 * self._inner)
            key, value = self._graph.parts("Split", 2, both, axis=2, num_outputs=2)
        query, key = self._rotate(query, kept.positions), self._rotate(key, every.positions)
        mixed = self._attend(query, key, value, kept.mask)
        change = self._product(self._flat(mixed, self._inner), attention.o, int8=int8)
        return self._through(attention.narrow, change)

    def _over_groups(
        self, attention: Attention, normal: str, alone: str, kept: _Tokens, *, int8: bool
    ) -> str:
        """What groups add: members attend to one another, all other rows to themselves."""
        n_groups, members = (self._node("Shape", "slots", start=i, end=i + 1) for i in (0, 1))
        rows = self._node("Gather", self._cube(normal, self._d), "slots")
        rows = self._node("Transpose", rows, perm=[0, 2, 1, 3])  # (groups, tokens, members, d)
        projected = self._product(self._flat(rows), attention.qkv, int8=int8)
        shape = self._node("Concat", self._whole(-1), members, self._whole(3 * self._inner), axis=0)
        projected = self._reshape(projected, shape)
        query, key, value = self._graph.parts("Split", 3, projected, axis=2, num_outputs=3)
        mixed = self._attend(query, key, value, self._members(kept, members))
        mixed = self._product(self._flat(mixed, self._inner), attention.o, int8=int8)
        mixed = self._through(attention.narrow, mixed)
        shape = self._node("Concat", n_groups, kept.count, members, self._whole(self._d), axis=0)
        mixed = self._node("Transpose", self._reshape(mixed, shape), perm=[0, 2, 1, 3])
        shape = self._node("Concat", self._whole(-1), kept.count, self._whole(self._d), axis=0)
        parts = (self._reshape(alone, shape), self._reshape(mixed, shape))
        return self._flat(self._node("Gather", self._node("Concat", *parts, axis=0), "source"))

    def _members(self, kept: _Tokens, members: str) -> str:
        """Who in a group looks at whom: (groups * tokens, 1, members, members)."""
        seen = self._node("Transpose", self._node("Gather", kept.seen, "slots"), perm=[0, 2, 1])
        seen = self._node("And", seen, self._node("Unsqueeze", "present", self._whole(1)))
        some = self._node("Cast", seen, to=TensorProto.FLOAT)
        some = self._node("ReduceMax", some, self._whole(-1), keepdims=1)
        # a token that nobody in the group has seen is read by nobody; it may look at itself
        nobody = self._node("Not", self._node("Cast", some, to=TensorProto.BOOL))
        seen = self._node("Or", seen, nobody)
        seen = self._reshape(seen, self._node("Concat", self._whole(-1, 1, 1), members, axis=0))
        shape = self._node("Concat", self._whole(1, 1), members, self._whole(1), axis=0)
        return self._node("Expand", seen, shape)

    def _attend(self, query: str, key: str, value: str, mask: str) -> str:
        """Unscaled attention over (batch, tokens, heads * head_dim)."""
        heads = self._net.heads
        counts = {"q_num_heads": heads, "kv_num_heads": heads}
        return self._node("Attention", query, key, value, mask, scale=1.0, **counts)

    def _rotate(self, states: str, positions: str) -> str:
        heads = self._net.heads
        return self._node("RotaryEmbedding", states, *self._rotation, positions, num_heads=heads)

    def _normal(self, hidden: str) -> str:
        epsilon = float(self._net.epsilon)
        return self._node("RMSNormalization", hidden, self._ones, axis=-1, epsilon=epsilon)

    def _residual(self, x: str, residual: Residual) -> str:
        inner = self._product(x, residual.hidden, bias=residual.hidden_bias)
        out = self._product(self._node("Relu", inner), residual.out, bias=residual.bias)
        return self._node("Add", out, self._product(x, residual.skip))

    def _through(self, narrow: Narrow | None, said: str) -> str:
        """(n, d), by a bottleneck where there is one: so little that it is never in 8 bits."""
        if narrow is None:
            return said
        inner = self._node("Relu", self._product(said, narrow.down, bias=narrow.down_bias))
        return self._node("Add", said, self._product(inner, narrow.up, bias=narrow.up_bias))

    # -- products -------------------------------------------------------------------------------

    def _product(
        self,
        x: str,
        weight: Tensor,
        *,
        bias: Tensor | None = None,
        int8: bool = False,
        positive: bool = False,
    ) -> str:
        """x · weightᵀ of (n, in); positive: that no value of x is below zero."""
        matrix = weight.numpy().T
        if int8:
            return self._graph.integers(x, matrix, positive=positive)
        inputs = [x, self._graph.constant(matrix)]
        if bias is not None:
            inputs.append(self._graph.constant(bias.numpy()))
        return self._node("Gemm", *inputs)

    # -- shapes ---------------------------------------------------------------------------------

    def _patches_of(self, name: str) -> str:
        length = self._node("Shape", name, start=1, end=2)
        return self._node("Div", length, self._whole(self._net.patch))

    def _reshape(self, x: str, shape: str) -> str:
        return self._node("Reshape", x, shape)

    def _flat(self, x: str, width: int | None = None) -> str:
        """(…, width) → (n, width); the network's width if none is said."""
        return self._reshape(x, self._whole(-1, width or self._d))

    def _cube(self, x: str, width: int) -> str:
        """(rows * tokens, width) → (rows, tokens, width)."""
        return self._reshape(x, self._node("Concat", self._rows, self._whole(-1, width), axis=0))

    def _ending(self, x: str) -> str:
        """The last tokens, as many as there are forecast patches: (rows, tokens, …)."""
        return self._from(x, self._node("Neg", self._ahead))

    def _until(self, x: str, end: str) -> str:
        return self._node("Slice", x, self._whole(0), end, self._whole(1))

    def _from(self, x: str, start: str) -> str:
        return self._node("Slice", x, start, self._whole(2**62), self._whole(1))

    def _squeeze(self, x: str) -> str:
        return self._node("Squeeze", x)

    def _scalar(self, number: int) -> str:
        return self._graph.constant(np.int64(number))

    def _number(self, number: float) -> str:
        return self._graph.constant(np.float32(number))
