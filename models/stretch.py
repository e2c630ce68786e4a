"""A stretch of a shop's past that is held out: who was known before it, and what they did in it.

Invariant: whoever foretells it is handed what was known before its first day alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch.nn import functional

from models.base import FloatArray, ModelError
from models.baselines_events import BetaGeo, ParetoNbd, summary_of
from models.customers import context_of
from models.cuts import Moment, cut_at
from models.events import Curves, EventsModel, EventsNetwork, Inputs, parts_of
from models.purchase_scores import Said, log_losses
from models.tokens import Tokens, chosen, tokens_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from models.customers import Ints, Population
    from models.purchase_scores import Counts, Flags

BG_NBD, PARETO_NBD = "BG/NBD", "Pareto/NBD"
FITTED: dict[str, type[BetaGeo] | type[ParetoNbd]] = {BG_NBD: BetaGeo, PARETO_NBD: ParetoNbd}
AT_ONCE = 4096
#: Latest events of a customer; no checkpoint reads as many.
MOST_EVENTS = 256


@dataclass(frozen=True, slots=True, eq=False)
class Stretch:
    """horizons: (horizons,) days after its beginning, the farthest of which is its end.

    before: the shop as it began. rows: (customers,) of those known then, who are judged.
    counts: (customers, horizons) days with a purchase.
    """

    before: Moment
    horizons: FloatArray
    rows: Ints
    counts: Counts

    @classmethod
    def latest(cls, shop: Moment, horizons: Sequence[float], *, most: int) -> Stretch:
        """The last days of a shop. most: customers, of more a fair sample."""
        cut = cut_at(shop.crowd, float(max(horizons)))
        rows = np.sort(np.random.default_rng(0).permutation(len(cut.people))[:most])
        counts = np.stack([cut.purchases(float(days)) for days in horizons], axis=1)
        return cls(shop.before(cut), np.array(horizons, dtype=np.float64), rows, counts[rows])

    @property
    def bought(self) -> Flags:
        return np.asarray(self.counts > 0)

    def losses(self, said: Said) -> FloatArray:
        """(customers,) mean log-loss over the horizons."""
        return np.asarray(log_losses(said.probability, self.bought).mean(axis=1))

    def foretold(self, name: str, network: EventsModel | EventsNetwork) -> Said:
        """What a network says, as of the beginning; one that serves, as it serves."""
        some = chosen(self.before.crowd, self.rows, most_events=MOST_EVENTS)
        context = context_of(self.before.crowd)
        if isinstance(network, EventsNetwork):
            tokens = tokens_at(self.before, some, context, length=network.length)
            curves = network.curves(tokens)
        else:
            tokens = tokens_at(self.before, some, context, length=network.config.length)
            curves = curves_of(network, tokens)
        return Said(name, curves.probability(self.horizons), curves.purchases(self.horizons))

    def fitted(self, name: str) -> Said | None:
        """What a method of FITTED says once fitted to what was known; None where it has no fit."""
        summary = summary_of(self.before.crowd)
        try:
            fit = FITTED[name].fit(summary)
        except ModelError:
            return None
        chances = [fit.probability(summary, float(days)) for days in self.horizons]
        expected = [fit.purchases(summary, float(days)) for days in self.horizons]
        said = (np.stack(each, axis=1)[self.rows] for each in (chances, expected))
        return Said(name, *said)


def tokens_at(moment: Moment, crowd: Population, context: FloatArray, *, length: int) -> Tokens:
    """Customers of a shop at a moment. context: of all of the shop's. length: events read."""
    count = len(crowd)
    return tokens_of(
        crowd,
        contexts=context[None],
        known=np.ones(1, dtype=np.bool_),
        shop=np.zeros(count, dtype=np.int64),
        year_phase=np.full(count, moment.year_phase),
        weekday=np.full(count, moment.weekday),
        length=length,
    )


@torch.inference_mode()
def curves_of(model: EventsModel, tokens: Tokens) -> Curves:
    """What a model says of tokens, on the device it is on."""
    device = next(model.parameters()).device
    edges = np.array([0.0, *model.config.bin_edges])
    bins = len(edges) - 1
    hazard, more, amount = (np.empty((len(tokens), n)) for n in (bins, bins, 1))
    for part in parts_of(tokens, AT_ONCE):
        answer = model(Inputs.of(tokens.take(part), device))
        hazard[part] = functional.softplus(answer.hazard).cpu().numpy()
        more[part] = answer.excess().cpu().numpy()
        amount[part, 0] = answer.amount.cpu().numpy()
    return Curves(edges, hazard, more, amount[:, 0], tokens.scale)
