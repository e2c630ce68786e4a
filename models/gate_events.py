"""The gate of the events network: the rules of models/gate.py on customers in place of series.

All foretell who buys in the latest stretch of a shop, from what was known before it. A customer's
loss is the mean log-loss over the horizons, and customers are drawn anew.

Invariant: the verdict depends on shop, networks and rules alone, and says in words why it is what
it is.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from models.cuts import Moment
from models.gate import SEED, Contest, Rules, Verdict, decide, verify_lineage
from models.purchase_scores import scores_of
from models.stretch import BG_NBD, Stretch
from models.synth.customers import draw_settings, simulate

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    import pandas as pd

    from models.base import FloatArray
    from models.events import EventsModel, EventsNetwork
    from models.purchase_scores import PurchaseScores, Said

SIMULATED_DAYS = (30.0, 90.0)


@dataclass(frozen=True, slots=True)
class PurchaseStanding:
    """How one did: log_loss, the mean over horizons, decides. horizons: scores by days ahead."""

    log_loss: float
    horizons: dict[str, PurchaseScores]

    @property
    def ece(self) -> float:
        """The mean over horizons."""
        return float(np.mean([each.ece for each in self.horizons.values()]))


@dataclass(frozen=True, slots=True, eq=False)
class Shops:
    """Shops on whose latest stretch a new version must not be worse, taken together."""

    name: str
    stretches: Sequence[Stretch]


def judge_purchases(  # noqa: PLR0913 - each is a thing of its own
    stretch: Stretch,
    first: pd.Timestamp,
    networks: Mapping[str, EventsModel | EventsNetwork],
    *,
    production: str = "production",
    candidate: str = "candidate",
    rules: Rules | None = None,
    segments: Mapping[str, str] | None = None,
    references: Sequence[Shops] = (),
    trained_until: Mapping[str, str | None] | None = None,
    on_done: Callable[[str], None] = lambda _name: None,
) -> Verdict[PurchaseStanding]:
    """Score all on the stretch, which begins at `first`, and decide. Raises ModelError.

    networks: by name, production and candidate among them; BG/NBD and the others are scored beside
    them, and remarked where they do better. segments: by the place of a customer in `stretch.rows`.
    trained_until: the last time, ISO 8601, that each has seen of this shop. on_done: told who has
    just answered; it may raise to stop.
    """
    rules = rules or Rules()
    verify_lineage(trained_until or {}, first)
    said = {}
    for each in _answers(stretch, networks):
        said[each.name] = each
        on_done(each.name)
    losses = {name: stretch.losses(each) for name, each in said.items()}
    ours, theirs = (dict(_named(losses[name])) for name in (candidate, production))
    scores = {name: standing(stretch, each) for name, each in said.items()}
    pair = networks[production], networks[candidate]
    return decide(
        Contest("customers", ours, theirs, len(ours) * len(stretch.horizons), first),
        rules,
        scores=scores,
        refusals=_worse_calibrated(scores[candidate], scores[production], rules),
        remarks=_who_does_better(scores, candidate, but=production),
        segments=segments or {},
        references={each.name: _ratio(each, *pair) for each in references},
    )


@dataclass(frozen=True, slots=True)
class SegmentLoss:
    """The mean log-loss on the customers of a segment."""

    log_loss: float
    customers: int


def losses_by(stretch: Stretch, said: Said, segments: Mapping[str, str]) -> dict[str, SegmentLoss]:
    """How one did by segment. segments: as in `judge_purchases`."""
    grouped: dict[str, list[float]] = {}
    for place, loss in _named(stretch.losses(said)):
        if place in segments:
            grouped.setdefault(segments[place], []).append(loss)
    return {
        name: SegmentLoss(float(np.mean(losses)), len(losses))
        for name, losses in sorted(grouped.items())
    }


def standing(stretch: Stretch, said: Said) -> PurchaseStanding:
    """The scores of what was said."""
    return PurchaseStanding(
        log_loss=float(stretch.losses(said).mean()),
        horizons={
            f"{days:g}": scores_of(
                said.probability[:, place],
                stretch.bought[:, place],
                purchases=None if said.purchases is None else said.purchases[:, place],
                counts=stretch.counts[:, place],
            )
            for place, days in enumerate(stretch.horizons)
        },
    )


def simulated_shops(*, shops: int = 4, customers: int = 400, seed: int = 0) -> list[Shops]:
    """Reference sets of simulated shops, with browsing and without, which no training draws."""
    return [
        Shops(
            name, [_simulated((SEED, seed, number), customers, funnel) for number in range(shops)]
        )
        for name, funnel in (("simulated shops", False), ("simulated shops with browsing", True))
    ]


def _simulated(seed: tuple[int, ...], customers: int, funnel: bool) -> Stretch:
    rng = np.random.default_rng((*seed, int(funnel)))
    while True:
        settings = draw_settings(rng)
        if settings.funnel != funnel or settings.history < 3 * max(SIMULATED_DAYS):
            continue
        settings = replace(settings, customers=customers)
        crowd = simulate(rng, settings, labelled=0, futures=1).population
        shop = Moment(crowd, settings.year_phase, settings.weekday)
        if shop.span > 2 * max(SIMULATED_DAYS):
            return Stretch.latest(shop, SIMULATED_DAYS, most=customers)


def _answers(
    stretch: Stretch, networks: Mapping[str, EventsModel | EventsNetwork]
) -> Iterator[Said]:
    fitted = stretch.fitted(BG_NBD)
    if fitted is not None:
        yield fitted
    for name, network in networks.items():
        yield stretch.foretold(name, network)


def _named(losses: FloatArray) -> Iterator[tuple[str, float]]:
    return ((str(place), float(loss)) for place, loss in enumerate(losses))


def _who_does_better(
    scores: Mapping[str, PurchaseStanding], candidate: str, *, but: str
) -> list[str]:
    """A person should know; but it is no reason to keep what serves, if that is worse."""
    ours = scores[candidate].log_loss
    return [
        f"{name} does better yet, with a log-loss of {each.log_loss:.4f} beside {ours:.4f}"
        for name, each in scores.items()
        if name != but and each.log_loss < ours
    ]


def _worse_calibrated(ours: PurchaseStanding, theirs: PurchaseStanding, rules: Rules) -> list[str]:
    if ours.ece <= theirs.ece + rules.coverage:
        return []
    return [f"probabilities are {ours.ece:.1%} off what came, production's {theirs.ece:.1%}"]


def _ratio(
    shops: Shops, production: EventsModel | EventsNetwork, candidate: EventsModel | EventsNetwork
) -> float:
    before, after = (
        sum(float(each.losses(each.foretold("", network)).sum()) for each in shops.stretches)
        for network in (production, candidate)
    )
    return after / before if before > 0 else 1.0
