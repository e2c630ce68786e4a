"""What an events network learns from beside a shop's own purchases: other shops, and a teacher.

Invariant: what is drawn depends on the generator alone, so that a run that was killed sees the same
again; a teacher is asked about what its student is shown, each reading as many events as it can.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from models.pretrain_events import (
    AMOUNT_WEIGHT,
    COUNT_WEIGHT,
    PretrainEventsSettings,
    amount_loss,
    count_loss,
    draw_events_batch,
    first_loss,
)

if TYPE_CHECKING:
    from torch import Tensor

    from models.base import FloatArray
    from models.events import Answer, Curves, EventsNetwork
    from models.tokens import Tokens

#: Where the simulated shops that are replayed begin, which no pretraining draws.
FIRST_REPLAYED = 1 << 30


def simulated_tokens(rng: np.random.Generator, rows: int, *, length: int) -> Tokens:
    """Customers of a simulated shop, as pretraining shows them; at most so many rows."""
    settings = PretrainEventsSettings(
        out=Path(), run=Path(), shops=1, labelled=rows, futures=1, length=length, seed=1
    )
    step = FIRST_REPLAYED + int(rng.integers(FIRST_REPLAYED))
    return draw_events_batch(settings, step).tokens


@dataclass(frozen=True, slots=True, eq=False)
class Taught:
    """What a teacher says of rows, in a student's bins.

    first: (rows, bins + 1) mass of the first purchase, the last for none. purchases: (rows, bins)
    expected. amount: (rows,) mean relative to the scale.
    """

    first: Tensor
    purchases: Tensor
    amount: Tensor

    @classmethod
    def of(cls, curves: Curves, edges: FloatArray) -> Taught:
        """edges: (bins + 1,) days, of the student."""
        said = curves.binned(edges)
        survival = np.exp(-np.cumsum(said.hazard, axis=1))
        before = np.concatenate((np.ones((len(survival), 1)), survival), axis=1)
        first = np.concatenate((-np.diff(before, axis=1), survival[:, -1:]), axis=1)
        amount = np.exp(np.clip(said.amount, -7.0, 7.0))
        parts = (first, first[:, :-1] + said.more, amount)
        return cls(*(torch.from_numpy(part).float() for part in parts))

    @classmethod
    def by(cls, answer: Answer) -> Taught:
        """What an answer in the same bins says."""
        amount = answer.amount.clamp(-7.0, 7.0).exp()
        return cls(answer.log_first().exp(), answer.purchases(), amount)


class Teacher:
    """A network that another learns from, answering as it would serve."""

    def __init__(self, network: EventsNetwork) -> None:
        self.length, self.fingerprint = network.length, network.fingerprint
        self._network = network

    def said_of(self, tokens: Tokens, edges: FloatArray) -> Taught:
        """Of tokens of `length` events at most. Raises NotFiniteError."""
        threads = torch.get_num_threads()  # a network that serves takes what it needs
        try:
            return Taught.of(self._network.curves(tokens), edges)
        finally:
            torch.set_num_threads(threads)


def taught_loss(answer: Answer, taught: Taught) -> Tensor:
    """Sum over rows of the distance to a teacher, but for a constant: in when the first purchase
    comes, how many there are and for how much, weighed as in pretraining; level and all.
    """
    device = answer.hazard.device
    first, purchases, amount = (
        part.to(device) for part in (taught.first, taught.purchases, taught.amount)
    )
    timing = first_loss(answer, first)
    count, value = count_loss(answer, purchases), amount_loss(answer, amount)
    return (timing + COUNT_WEIGHT * count + AMOUNT_WEIGHT * value).sum()
