"""Why the events network answered so: contributions to the log-odds of a purchase.

Integrated gradients (Sundararajan et al., 2017) along one path from nothing known (a customer
never seen, of an unknown shop, at no time of the year) to what is known. Along it traits change in
proportion, and events gain presence: the weight that attention gives them.

Invariant: the base and all contributions add up to the log-odds answered.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from models.base import Explanation, FloatArray
from models.customers import CONTEXT_SIZE, customer_of, population_of
from models.tokens import QUERY_GROUPS, tokens_of

if TYPE_CHECKING:
    from models.events import Answer, EventsModel, Inputs

STEPS = 24
REFINED = 4 * STEPS  # where that many do not add up
TOLERANCE = 0.02  # of the log-odds, spread over the contributions; beyond it the steps are refined


def explain(
    model: EventsModel, inputs: Inputs, days: float, *, events: int, answered: float
) -> Explanation:
    """Contributions for the one row of `inputs`, to the log-odds of a purchase within `days`.

    events: how many the customer has; of those that the network did not read, the contribution is
    0. The customer's events are oldest first. answered: the log-odds, from which the model's own
    differ where the answer was computed in fewer bits.
    """
    path = _Path(model, inputs, days)
    shares = path.shares(STEPS)
    start, end = path.ends()
    if abs(end - start - float(sum(part.sum() for part in shares))) > TOLERANCE:
        shares = path.shares(REFINED)
    query, shop, presence = _adding_up(shares, answered - start)
    traits = {name: float(query[part].sum()) for name, part in QUERY_GROUPS.items()}
    traits["shop"] += float(shop.sum())
    contributions = np.zeros(events)
    contributions[events - len(presence) :] = presence[::-1]
    return Explanation(days=days, base=start, events=contributions, traits=traits)


class _Path:
    """The straight line from nothing known, at 0, to what is known, at 1."""

    def __init__(self, model: EventsModel, inputs: Inputs, days: float) -> None:
        self.model, self.days = model, days
        with torch.no_grad():
            self.shop = model.shop_vectors(inputs)[inputs.shop]
            self.events = model.event_vectors(inputs)
        self.query = inputs.query
        self.no_query = torch.from_numpy(nothing_known())[None].to(self.query)
        self.no_shop = model.unknown_shop.detach()[None]

    def shares(self, steps: int) -> tuple[FloatArray, FloatArray, FloatArray]:
        """Contributions of the query's numbers, of the shop vector's, and of events.

        Gauss-Legendre in the root of the way gone, for the first bit of presence moves most.
        """
        nodes, weights = np.polynomial.legendre.leggauss(steps)
        root = (nodes + 1) / 2
        way = torch.from_numpy(root**2).to(self.query)[:, None]
        weight = torch.from_numpy(weights * root).to(self.query)[:, None]
        query = (self.no_query + way * (self.query - self.no_query)).requires_grad_()
        shop = (self.no_shop + way * (self.shop - self.no_shop)).requires_grad_()
        present = way.expand(-1, self.events.shape[1]).clone().requires_grad_()
        odds = self._log_odds(query, shop, present)
        gradients = torch.autograd.grad(odds.sum(), (query, shop, present), allow_unused=True)
        changes = (self.query - self.no_query, self.shop - self.no_shop, torch.ones(1).to(way))
        return tuple(
            (weight * gradient * change).sum(dim=0).double().cpu().numpy()
            if gradient is not None
            else np.zeros(0)
            for gradient, change in zip(gradients, changes, strict=True)
        )  # type: ignore[return-value]  # three of them

    @torch.no_grad()
    def ends(self) -> tuple[float, float]:
        """Log-odds at the beginning, where no event is present, and at the end."""
        nothing = self._log_odds(self.no_query, self.no_shop, None)
        everything = self._log_odds(
            self.query, self.shop, torch.ones(1, self.events.shape[1]).to(self.query)
        )
        return float(nothing), float(everything)

    def _log_odds(self, query: Tensor, shop: Tensor, present: Tensor | None) -> Tensor:
        events = self.events.expand(len(query), -1, -1)
        if present is None:
            events, present = events[:, :0], torch.ones(len(query), 0).to(query)
        answer = self.model.answer(query, shop, events, present)
        hazard = cumulative_hazard(answer, self.model.config.bin_edges, self.days)
        return torch.log(torch.expm1(hazard))


def cumulative_hazard(answer: Answer, bin_edges: list[int], days: float) -> Tensor:
    """(rows,) in double precision, even within a bin, going on beyond the last as within it."""
    edges = np.array([0.0, *bin_edges])
    share = np.clip((days - edges[:-1]) / np.diff(edges), 0.0, 1.0)
    share[-1] = max(0.0, (days - edges[-2]) / (edges[-1] - edges[-2]))
    gained = functional.softplus(answer.hazard.double())
    return (gained * torch.from_numpy(share).to(gained)).sum(dim=1)


def nothing_known() -> FloatArray:
    """(QUERY_SIZE,) float32: the query of somebody never seen, of no shop, at no season."""
    nobody = customer_of(np.zeros(0), np.zeros(0, dtype=np.int8), as_of=0.0)
    context = np.zeros((1, CONTEXT_SIZE))
    tokens = tokens_of(
        population_of([nobody]),
        contexts=context,
        known=np.zeros(1, dtype=np.bool_),
        shop=np.zeros(1, dtype=np.int64),
        year_phase=np.zeros(1),
        weekday=np.zeros(1, dtype=np.int64),
        length=1,
    )
    query = tokens.query[0].copy()
    season = QUERY_GROUPS["season"]
    query[season] = 0.0
    query[season.stop - 7 : season.stop] = 1 / 7  # any weekday
    return np.asarray(query)


def _adding_up(shares: tuple[FloatArray, FloatArray, FloatArray], total: float) -> list[FloatArray]:
    """What quadrature leaves over goes to the contributions in proportion to their size."""
    sizes = [np.abs(part) for part in shares]
    size = sum(float(part.sum()) for part in sizes)
    left = total - sum(float(part.sum()) for part in shares)
    if size == 0:
        return list(shares)
    return [part + left * each / size for part, each in zip(shares, sizes, strict=True)]
