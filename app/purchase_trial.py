"""`shopcast backtest purchase`: what would have been foretold at a cut, against what came.

Invariant: nothing after the cut's day is known to anybody who foretells, fitted methods included;
what came is counted in whole days after it.
"""

from collections.abc import Sequence

import numpy as np

from app.errors import InvalidInputError, Issue
from app.event_tables import EventTable, Known, iso_of
from app.foretellers import Foretold
from models.base import PURCHASE, ModelError
from models.baselines_events import BetaGeo, ParetoNbd, averaged, summary_of
from models.customers import population_of
from models.purchase_scores import Counts, Said

NETWORK = "shopcast"
FEWEST = 20  # customers of a shop that anything can be fitted to
MOST_EVENTS = 1_000_000  # fitted methods take all of a history


def known_at(table: EventTable, cut: str, cut_days: float, horizons: Sequence[int]) -> Known:
    """The customers known at the end of the cut's day.

    Raises InvalidInputError if there are none, or if the file does not reach the farthest horizon.
    """
    known = table.before(np.floor(cut_days) + 1.0)
    if len(known.rows) < FEWEST:
        raise _refused(f"{len(known.rows)} customers have events up to {cut}; {FEWEST} are needed")
    watched = float(np.floor(table.days.max())) + 1.0 - known.as_of_days
    if watched < max(horizons):
        raise _refused(
            f"the file ends {watched:.0f} days after {cut}; a horizon of {max(horizons)} days "
            "needs an earlier --cut, or leave it out of --horizons"
        )
    return known


def counts_after(known: Known, horizons: Sequence[int]) -> Counts:
    """(customers, horizons) days with a purchase in the days after the cut's."""
    table = known.table
    owner = np.repeat(np.arange(len(table.customers)), np.diff(table.starts))
    came = (table.types == PURCHASE) & (table.days >= known.as_of_days)
    days = np.unique(np.stack((owner[came], np.floor(table.days[came]))), axis=1)
    who, ahead = days[0].astype(np.int64), days[1] - known.as_of_days
    total = len(table.customers)
    columns = [np.bincount(who[ahead < days], minlength=total)[known.rows] for days in horizons]
    return np.stack(columns, axis=1).astype(np.int64)


def fitted(known: Known, horizons: Sequence[int]) -> tuple[list[Said], list[str]]:
    """What BG/NBD and Pareto/NBD say once fitted to these customers, and what went wrong."""
    summary = summary_of(population_of(known.customers(most_events=MOST_EVENTS)))
    said, notes = [], []
    for name, kind in (("BG/NBD", BetaGeo), ("Pareto/NBD", ParetoNbd)):
        try:
            model = kind.fit(summary)
        except ModelError as error:
            notes.append(f"{name} is left out: {error}")
            continue
        chances = [model.probability(summary, float(days)) for days in horizons]
        expected = [model.purchases(summary, float(days)) for days in horizons]
        said.append(Said(name, np.stack(chances, axis=1), np.stack(expected, axis=1)))
    return said, notes


def all_said(foretold: Foretold, others: Sequence[Said]) -> list[Said]:
    """The network, what was fitted, and the network averaged with Pareto/NBD."""
    said = [Said(NETWORK, foretold.probability, foretold.purchases), *others]
    for other in others:
        if other.name == "Pareto/NBD":
            both = averaged(foretold.probability, other.probability)
            said.append(Said(f"{NETWORK} + {other.name}", both, None))
    return said


def _refused(message: str) -> InvalidInputError:
    return InvalidInputError((Issue(("--cut",), message, "cut"),))


def told(known: Known) -> str:
    """What was known, in words."""
    return f"{len(known.rows):,} customers known before {iso_of(known.as_of_days)[:10]}"
