"""Bottleneck adapters: small networks after each part of a series network's blocks.

What attention over time, attention over the group and the feed-forward network each say, x, becomes
x + up(relu(down(x))) before it is added to the rest (Houlsby et al., 2019, Parameter-Efficient
Transfer Learning for NLP, ICML). An adapter stands where the dropout of its part was, which it
holds: the names of all other weights stay.

Invariant: a network that was given adapters, and has not been trained, answers as before.
"""

from typing import Any

import torch
from chronos.chronos2.model import Chronos2Model
from torch import Tensor, nn
from torch.nn import functional

#: What a checkpoint says of them, in its options or its adapter_config.json: their width.
BOTTLENECK = "bottleneck"


class Bottleneck(nn.Module):
    """Down to a few numbers, relu, up again, beside what came in; then the dropout of its place."""

    def __init__(self, size: int, width: int, dropout: nn.Module) -> None:
        super().__init__()
        self.down = nn.Linear(size, width)
        self.up = nn.Linear(width, size)
        self.dropout = dropout
        nn.init.normal_(self.down.weight, std=size**-0.5)
        for still in (self.down.bias, self.up.weight, self.up.bias):
            nn.init.zeros_(still)

    def forward(self, said: Tensor) -> Tensor:
        """(…, size) → (…, size)."""
        changed = said + self.up(functional.relu(self.down(said)))
        return torch.as_tensor(self.dropout(changed))


def give_bottlenecks(model: Chronos2Model, width: int) -> None:
    """Give each part of each block an adapter, where it has none."""
    for layer in _parts(model):
        if bottleneck_of(layer) is None:
            layer.dropout = Bottleneck(model.config.d_model, width, layer.dropout)


def bottleneck_of(layer: Any) -> Bottleneck | None:  # noqa: ANN401 - chronos has no types
    """The adapter of a part of a block."""
    return layer.dropout if isinstance(layer.dropout, Bottleneck) else None


def width_of(model: Chronos2Model) -> int | None:
    """How wide the adapters of a network are; None where it has none."""
    found = bottleneck_of(_parts(model)[0])
    return None if found is None else found.down.out_features


def bottleneck_weights(model: Chronos2Model) -> dict[str, Tensor]:
    """The weights of the adapters, by their names in the network."""
    names = {
        f"{name}.{kind}.{part}"
        for name, module in model.named_modules()
        if isinstance(module, Bottleneck)
        for kind in ("down", "up")
        for part in ("weight", "bias")
    }
    return {name: weight for name, weight in model.state_dict().items() if name in names}


def _parts(model: Chronos2Model) -> list[Any]:
    """Attention over time, attention over the group and feed-forward network of each block."""
    return [layer for block in model.encoder.block for layer in block.layer]
