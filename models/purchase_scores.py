"""How good foretold purchases were, against what came.

Invariant: every score takes (customers,) arrays in one order, and nothing is left out of one.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from models.base import FloatArray

CLIP = 1e-6  # probabilities are not believed beyond it
ECE_BINS = 15
LIFT_BINS = 10

Flags = NDArray[np.bool_]
Counts = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class PurchaseScores:
    """At one horizon; NaN where a score has no meaning.

    log_loss, brier, ece: of the probabilities, less is better. auc: 0.5 is chance. ratio:
    probabilities summed over customers who bought. count_rmse, count_ratio: the same of the
    expected purchase days; NaN for a method that does not count.
    """

    log_loss: float
    brier: float
    ece: float
    auc: float
    ratio: float
    count_rmse: float
    count_ratio: float


@dataclass(frozen=True, slots=True, eq=False)
class Said:
    """What a method says: (customers, horizons) each; purchases is None if it does not count."""

    name: str
    probability: FloatArray
    purchases: FloatArray | None


@dataclass(frozen=True, slots=True)
class Bin:
    """Customers that stand together. foretold: their mean probability; bought: their share."""

    customers: int
    foretold: float
    bought: float


@dataclass(frozen=True, slots=True)
class Verdict:
    """A method at one horizon."""

    method: str
    days: int
    scores: PurchaseScores
    calibration: tuple[Bin, ...]
    lift: tuple[Bin, ...]


def judged(said: Sequence[Said], counts: Counts, horizons: Sequence[int]) -> list[Verdict]:
    """Every method at every horizon. counts: (customers, horizons) purchase days that came."""
    return [
        _verdict(each, place, days, counts[:, place])
        for place, days in enumerate(horizons)
        for each in said
    ]


def _verdict(said: Said, place: int, days: int, counts: Counts) -> Verdict:
    probability, bought = said.probability[:, place], counts > 0
    purchases = None if said.purchases is None else said.purchases[:, place]
    return Verdict(
        method=said.name,
        days=days,
        scores=scores_of(probability, bought, purchases=purchases, counts=counts),
        calibration=tuple(calibration(probability, bought)),
        lift=tuple(lift(probability, bought)),
    )


def scores_of(
    probability: FloatArray,
    bought: Flags,
    *,
    purchases: FloatArray | None,
    counts: Counts,
) -> PurchaseScores:
    """purchases: expected purchase days; counts: those that came."""
    rmse, ratio = np.nan, np.nan
    if purchases is not None:
        rmse = float(np.sqrt(np.mean((purchases - counts) ** 2)))
        ratio = _ratio(purchases, counts)
    return PurchaseScores(
        log_loss=log_loss(probability, bought),
        brier=float(np.mean((probability - bought) ** 2)),
        ece=calibration_error(probability, bought),
        auc=auc(probability, bought),
        ratio=_ratio(probability, bought),
        count_rmse=rmse,
        count_ratio=ratio,
    )


def log_loss(probability: FloatArray, bought: Flags) -> float:
    """Mean of minus the logarithm of what was given to what came."""
    return float(np.mean(log_losses(probability, bought)))


def log_losses(probability: FloatArray, bought: Flags) -> FloatArray:
    """Of each, in the shape of both."""
    p = np.clip(probability, CLIP, 1 - CLIP)
    return np.asarray(-np.where(bought, np.log(p), np.log1p(-p)))


def calibration_error(probability: FloatArray, bought: Flags, *, bins: int = ECE_BINS) -> float:
    """Expected calibration error over bins of equal mass."""
    parts = list(_binned(probability, bought, np.argsort(probability, kind="stable"), bins))
    off = [part.customers * abs(part.foretold - part.bought) for part in parts]
    return float(sum(off) / len(probability))


def auc(probability: FloatArray, bought: Flags) -> float:
    """How often somebody who bought was foretold likelier than somebody who did not; ties half."""
    positive, negative = int(bought.sum()), int((~bought).sum())
    if not positive or not negative:
        return float("nan")
    _, place, size = np.unique(probability, return_inverse=True, return_counts=True)
    last = np.cumsum(size)
    ranks = ((last - size + 1 + last) / 2)[place]
    return float((ranks[bought].sum() - positive * (positive + 1) / 2) / (positive * negative))


def calibration(probability: FloatArray, bought: Flags, *, bins: int = ECE_BINS) -> list[Bin]:
    """Bins of equal mass, the least likely first."""
    return list(_binned(probability, bought, np.argsort(probability, kind="stable"), bins))


def lift(probability: FloatArray, bought: Flags, *, bins: int = LIFT_BINS) -> list[Bin]:
    """Tenths of the customers, the likeliest first."""
    return list(_binned(probability, bought, np.argsort(-probability, kind="stable"), bins))


def _binned(
    probability: FloatArray, bought: Flags, order: NDArray[np.intp], bins: int
) -> Iterator[Bin]:
    for part in np.array_split(order, min(bins, len(order))):
        yield Bin(len(part), float(probability[part].mean()), float(bought[part].mean()))


def _ratio(foretold: FloatArray, came: NDArray[np.generic]) -> float:
    total = float(came.sum())
    return float(foretold.sum()) / total if total else float("nan")
