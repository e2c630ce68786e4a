"""The forward pass of a Chronos-2 network, arranged for serving.

Invariant: equal to `Chronos2Model.forward` up to rounding, for rows of any mix of groups, while
no row's answer depends on a row of another group.

Where a network has bottlenecks (models/bottleneck.py) they are applied to what each part says.

What is done less: the last layer is computed for the forecast patches alone; queries, keys and
values are one product; norm weights are folded into the product that follows; and attention over
a group of one row, whose weights are all 1, is one product with o·v.

In reduced precision it is the feed-forward networks that are reduced, two thirds of the work, but
for the last: attention is not scaled here, so that half a per cent of a score is much of a weight,
and the answer is a sinh of what the last layer says.
"""

from dataclasses import dataclass
from typing import Any

import torch
from chronos.chronos2.layers import MHA, ResidualBlock
from chronos.chronos2.model import Chronos2Model
from torch import Tensor
from torch.nn import functional

from models.bottleneck import Bottleneck, bottleneck_of


@dataclass(frozen=True, slots=True, eq=False)
class Groups:
    """Which rows of a batch inform one another.

    slots: (groups, largest group) row numbers of the groups of two and more rows, padded with
    any row where present, of the same shape, is False. single: row numbers of all other rows.
    """

    slots: Tensor
    present: Tensor
    single: Tensor

    def to(self, device: torch.device) -> "Groups":
        return Groups(*(_move(t, device) for t in (self.slots, self.present, self.single)))


class Forward:
    """Callable network: normalised patches in, normalised quantiles out."""

    def __init__(self, model: Chronos2Model, *, device: torch.device, dtype: torch.dtype) -> None:
        config = model.config
        self.device = device
        self.patch = model.chronos_config.input_patch_size
        self.levels = len(model.chronos_config.quantiles)
        self.time_scale = float(model.chronos_config.time_encoding_scale or 1)
        self.heads, self.epsilon = config.num_heads, config.layer_norm_epsilon
        self.head_dim = config.d_kv
        self.theta = config.rope_theta
        self._rotations: dict[int, tuple[Tensor, Tensor]] = {}
        self.embed = Residual(model.input_patch_embedding, None, self)
        self.register = self.place(model.shared.weight[model.config.reg_token_id])
        *inner, last = model.encoder.block
        self.blocks = [Block(block, self, dtype=dtype) for block in inner]
        self.blocks.append(Block(last, self, dtype=torch.float32))
        final = model.encoder.final_layer_norm.weight
        self.output = Residual(model.output_patch_embedding, final, self)

    def place(self, weight: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
        """A weight on the device."""
        return weight.detach().to(self.device, dtype).contiguous()

    @torch.inference_mode()
    def __call__(
        self, context: Tensor, future: Tensor, *, groups: Groups | None, n_patches: int
    ) -> Tensor:
        """Quantiles of each row's future, in the network's normalised space.

        context: (rows, time), time a multiple of the patch size, NaN where missing. future:
        (rows, n_patches * patch), NaN where unknown; both float32 and on the device. groups: None
        if all rows stand alone. Returns (rows, levels, n_patches * patch), float32.
        """
        hidden, mask = self._tokens(context, future, n_patches)
        rotation = self._rotation(hidden.shape[1])
        for block in self.blocks[:-1]:
            hidden = block(hidden, mask, rotation, groups=groups, keep=hidden.shape[1])
        hidden = self.blocks[-1](hidden, mask, rotation, groups=groups, keep=n_patches)
        quantiles = self.output(self.normalise(hidden))
        rows = quantiles.view(-1, n_patches, self.levels, self.patch)
        return rows.transpose(1, 2).reshape(len(context), self.levels, -1)

    def normalise(self, hidden: Tensor) -> Tensor:
        """T5's norm without its weight, which the next product carries."""
        return hidden * torch.rsqrt(hidden.square().mean(-1, keepdim=True) + self.epsilon)

    def attend(self, query: Tensor, key: Tensor, value: Tensor, *, mask: Tensor | None) -> Tensor:
        """Unscaled attention over (batch, tokens, heads * head_dim); mask True where seen."""
        q, k, v = (self._split(states).transpose(1, 2) for states in (query, key, value))
        out = functional.scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=1.0)
        return out.transpose(1, 2).flatten(2)

    def rotate(self, states: Tensor, rotation: tuple[Tensor, Tensor]) -> Tensor:
        """Rotary position embedding of (batch, tokens, heads * head_dim)."""
        cos, sin = rotation
        left, right = self._split(states).chunk(2, dim=-1)
        return torch.cat((left * cos - right * sin, right * cos + left * sin), dim=-1).flatten(2)

    def _split(self, states: Tensor) -> Tensor:
        """(batch, tokens, heads * head_dim) → (batch, tokens, heads, head_dim)."""
        return states.view(*states.shape[:2], self.heads, self.head_dim)

    def _tokens(
        self, context: Tensor, future: Tensor, n_patches: int
    ) -> tuple[Tensor, Tensor | None]:
        rows = len(context)
        past, seen = self._patches(context, start=-context.shape[1])
        ahead, _ = self._patches(future, start=0)
        register = self.register.expand(rows, 1, -1)
        embedded = self.embed(torch.cat((past, ahead), dim=1))
        n_past = past.shape[1]
        hidden = torch.cat((embedded[:, :n_past], register, embedded[:, n_past:]), dim=1)
        observed = seen.any(dim=-1)  # (rows, past patches)
        if bool(observed.all()):
            return hidden, None
        return hidden, functional.pad(observed, (0, 1 + n_patches), value=True)

    def _patches(self, values: Tensor, *, start: int) -> tuple[Tensor, Tensor]:
        seen = ~torch.isnan(values)
        steps = torch.arange(start, start + values.shape[1], device=self.device)
        time = (steps.float() / self.time_scale).expand_as(values)
        parts = (time, torch.where(seen, values, 0.0), seen.float())
        shape = (len(values), -1, self.patch)
        patches = [part.reshape(shape) for part in parts]
        return torch.cat(patches, dim=-1), seen.view(shape)

    def _rotation(self, tokens: int) -> tuple[Tensor, Tensor]:
        if tokens not in self._rotations:
            steps = torch.arange(0, self.head_dim, 2, dtype=torch.float32, device=self.device)
            rates = 1.0 / self.theta ** (steps / self.head_dim)
            angles = torch.outer(torch.arange(tokens, device=self.device).float(), rates)
            angles = angles[:, None, :]  # (tokens, heads, head_dim / 2)
            self._rotations[tokens] = (angles.cos(), angles.sin())
        return self._rotations[tokens]


class Block:
    """One encoder layer: attention over time, over the group, and the feed-forward network."""

    def __init__(self, block: torch.nn.Module, net: Forward, *, dtype: torch.dtype) -> None:
        """dtype: of the products of the feed-forward network."""
        time, group, feed = block.layer  # type: ignore[misc]  # a ModuleList of three
        self._net = net
        self.time = Attention(time, net)
        self.group = Attention(group, net)
        norm = feed.layer_norm.weight
        self.up = net.place(feed.mlp.wi.weight * norm, dtype)
        self.down = net.place(feed.mlp.wo.weight, dtype)
        self.activation = feed.mlp.act
        self.narrow = Narrow.of(feed, net)

    def __call__(
        self,
        hidden: Tensor,
        mask: Tensor | None,
        rotation: tuple[Tensor, Tensor],
        *,
        groups: Groups | None,
        keep: int,
    ) -> Tensor:
        hidden = self._over_time(hidden, mask, rotation, keep=keep)
        if groups is None:
            hidden = hidden + self.group.alone(self._net.normalise(hidden))
        else:
            kept = None if mask is None else mask[:, -keep:]
            hidden = self._over_groups(hidden, kept, groups)
        inner = functional.linear(self._net.normalise(hidden).to(self.up.dtype), self.up)
        return hidden + _through(self.narrow, functional.linear(self.activation(inner), self.down))

    def _over_time(
        self, hidden: Tensor, mask: Tensor | None, rotation: tuple[Tensor, Tensor], *, keep: int
    ) -> Tensor:
        """(rows, tokens, d) → (rows, keep, d): the last `keep` tokens look at all of them."""
        query, key, value = self.time.project(self._net.normalise(hidden), keep=keep)
        query = self._net.rotate(query, (rotation[0][-keep:], rotation[1][-keep:]))
        key = self._net.rotate(key, rotation)
        seen = None if mask is None else mask[:, None, None, :]
        return hidden[:, -keep:] + self.time.out(self._net.attend(query, key, value, mask=seen))

    def _over_groups(self, hidden: Tensor, mask: Tensor | None, groups: Groups) -> Tensor:
        normal = self._net.normalise(hidden)
        change = torch.empty_like(hidden)
        if len(groups.single):
            change[groups.single] = self.group.alone(normal[groups.single])
        rows = normal[groups.slots].transpose(1, 2)  # (groups, tokens, members, d)
        seen = groups.present[:, None, :].expand(rows.shape[:3])
        if mask is not None:
            seen = seen & mask[groups.slots].transpose(1, 2)
        # a token that nobody in the group has seen is read by nobody; it may look at itself
        seen = (seen | ~seen.any(-1, keepdim=True)).flatten(0, 1)[:, None, None, :]
        query, key, value = self.group.project(rows.flatten(0, 1), keep=rows.shape[2])
        mixed = self.group.out(self._net.attend(query, key, value, mask=seen))
        mixed = mixed.view(rows.shape).transpose(1, 2)  # (groups, members, tokens, d)
        change[groups.slots[groups.present]] = mixed[groups.present]
        return hidden + change


class Attention:
    """The four products of an attention layer, the norm before it folded in."""

    def __init__(self, layer: Any, net: Forward) -> None:  # noqa: ANN401 - chronos has no types
        attention: MHA = layer.self_attention
        norm = layer.layer_norm.weight
        q, k, v = (
            layer.weight.double() * norm.double()
            for layer in (attention.q, attention.k, attention.v)
        )
        o = attention.o.weight.double()
        self._inner = q.shape[0]
        self.qkv = net.place(torch.cat((q, k, v)))
        self.o = net.place(o)
        self.ov = net.place(o @ v)
        self.narrow = Narrow.of(layer, net)

    def project(self, normal: Tensor, *, keep: int) -> tuple[Tensor, Tensor, Tensor]:
        """(…, tokens, d) → queries of the last `keep` tokens, keys and values of all."""
        if keep == normal.shape[1]:
            query, key, value = functional.linear(normal, self.qkv).chunk(3, dim=-1)
            return query, key, value
        query = functional.linear(normal[:, -keep:], self.qkv[: self._inner])
        both = functional.linear(normal, self.qkv[self._inner :])
        key, value = both.chunk(2, dim=-1)
        return query, key, value

    def out(self, mixed: Tensor) -> Tensor:
        return _through(self.narrow, functional.linear(mixed, self.o))

    def alone(self, normal: Tensor) -> Tensor:
        """Attention of a row to itself alone: o(v(x))."""
        return _through(self.narrow, functional.linear(normal, self.ov))


class Narrow:
    """A bottleneck, in single precision whatever the rest is in."""

    def __init__(self, module: Bottleneck, net: Forward) -> None:
        self.down, self.down_bias = net.place(module.down.weight), net.place(module.down.bias)
        self.up, self.up_bias = net.place(module.up.weight), net.place(module.up.bias)

    @classmethod
    def of(cls, layer: object, net: Forward) -> "Narrow | None":
        """That of a part of a block."""
        found = bottleneck_of(layer)
        return None if found is None else cls(found, net)

    def __call__(self, said: Tensor) -> Tensor:
        said = said.float()
        inner = functional.relu(functional.linear(said, self.down, self.down_bias))
        return said + functional.linear(inner, self.up, self.up_bias)


def _through(narrow: Narrow | None, said: Tensor) -> Tensor:
    return said if narrow is None else narrow(said)


class Residual:
    """The patch embedding: a two-layer network beside a linear one, both sharing their input."""

    def __init__(self, block: ResidualBlock, norm: Tensor | None, net: Forward) -> None:
        scale = torch.ones(1) if norm is None else norm
        self.hidden = net.place(block.hidden_layer.weight * scale)
        self.hidden_bias = net.place(block.hidden_layer.bias)
        self.skip = net.place(block.residual_layer.weight * scale)
        self.out = net.place(block.output_layer.weight)
        self.bias = net.place(block.output_layer.bias + block.residual_layer.bias)
        self.activation = block.act

    def __call__(self, x: Tensor) -> Tensor:
        inner = self.activation(functional.linear(x, self.hidden, self.hidden_bias))
        return functional.linear(inner, self.out, self.bias) + functional.linear(x, self.skip)


def _move(tensor: Tensor, device: torch.device) -> Tensor:
    if device.type == "cuda":
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor
