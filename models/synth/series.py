"""Synthetic series for pretraining: processes whose truth is known, drawn in batches.

The families are in `processes`, `economy` and `shops`, their weights in `mixture`, targets with
covariates in `covariates`; this is what training draws from.

Invariant: the same generator state and arguments give the same series, and every value is finite
(missing values are added by the window, as NaN, never here).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from models.synth.covariates import (
    Grouped,
    Maker,
    clear_groups,
    factor_groups,
    graph_groups,
    joined,
    response_groups,
    rival_groups,
    shop_groups,
)
from models.synth.mixture import FAMILIES, windows
from models.synth.parts import Family, Floats, Ints, season
from models.synth.shops import shop

if TYPE_CHECKING:
    from numpy.random import Generator

__all__ = [
    "FAMILIES",
    "GROUPS",
    "Family",
    "Floats",
    "Grouped",
    "Ints",
    "groups",
    "season",
    "shop",
    "singles",
    "windows",
]

#: Makers of groups and their weights: half shops, and most of the rest plain effects.
GROUPS: tuple[tuple[Maker, float], ...] = (
    (shop_groups, 4.0),
    (rival_groups, 0.7),
    (clear_groups, 2.5),
    (response_groups, 1.2),
    (factor_groups, 0.8),
    (graph_groups, 0.8),
)


def singles(rng: Generator, lengths: Ints, time: int) -> Grouped:
    """Series of their own (see `windows`), each to be forecast."""
    count = len(lengths)
    target, known = np.ones(count, dtype=np.bool_), np.zeros(count, dtype=np.bool_)
    return Grouped(windows(rng, lengths, time), np.arange(count), target, known)


def groups(rng: Generator, lengths: Ints, time: int) -> Grouped:
    """Groups of one to two targets with up to four covariates; group i has season `lengths[i]`.

    Some covariates bear on nothing, and some are known for the past alone.
    """
    weights = np.array([weight for _, weight in GROUPS])
    picks = rng.choice(len(GROUPS), p=weights / weights.sum(), size=len(lengths))
    return joined(
        [
            GROUPS[i][0](rng, lengths[picks == i], time, np.flatnonzero(picks == i))
            for i in np.unique(picks).tolist()
        ]
    )
