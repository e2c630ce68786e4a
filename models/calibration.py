"""A last correction of intervals: how much wider real series scatter than simulated ones.

A network trained on simulations knows how sure to be of those. Where real series of a frequency
scatter more, its quantiles are moved away from the median by a factor, one below and one above,
that was fitted on series held apart for development (`benchmarks/calibration.py`) and is stored
with the checkpoint, under `shopcast.calibration` in its config.json.

Trends, too, go on more often in simulations than in shops, so that a checkpoint may ask for
caution: its quantiles are moved by that share towards a forecast that hardly trusts a trend.

Invariant: calibration keeps the median, and quantiles never cross.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from models.base import CheckpointError, FloatArray
from models.seasonal import Seasons

UNKNOWN, NONE = "unknown", "none"
LEAST, MOST = 0.25, 4.0


def kind_of(seasons: Seasons) -> str:
    """What a series' factors are kept under: its shortest season told, "none" or "unknown"."""
    if seasons is None:
        return UNKNOWN
    return str(seasons[0]) if seasons else NONE


@dataclass(frozen=True, slots=True)
class Calibration:
    """Factors (below, above) of the distance to the median, by `kind_of`; 1 for other kinds."""

    factors: Mapping[str, tuple[float, float]]

    def apply(
        self, quantiles: FloatArray, levels: Sequence[float], seasons: Sequence[Seasons]
    ) -> FloatArray:
        """(rows, levels, steps), monotone, of rows with these seasons → the same, calibrated."""
        if not self.factors:
            return quantiles
        pairs = np.array([self.factors.get(kind_of(each), (1.0, 1.0)) for each in seasons])
        below = np.asarray(levels) < 0.5
        factor = np.where(below[None, :], pairs[:, :1], pairs[:, 1:])[:, :, None]
        median = quantiles[:, [list(levels).index(0.5)]]
        return np.asarray(median + factor * (quantiles - median))


def calibration_of(options: Mapping[str, object]) -> Calibration:
    """What a checkpoint says of its calibration. Raises CheckpointError if it makes no sense."""
    said = options.get("calibration", {})
    if not isinstance(said, dict):
        raise CheckpointError("shopcast.calibration is not an object")
    factors = {}
    for kind, pair in said.items():
        numbers = pair if isinstance(pair, list) and len(pair) == 2 else [None]
        if not all(isinstance(each, int | float) and LEAST <= each <= MOST for each in numbers):
            raise CheckpointError(
                f"shopcast.calibration.{kind} must be two factors from {LEAST} to {MOST}"
            )
        factors[str(kind)] = (float(numbers[0]), float(numbers[1]))
    return Calibration(factors)


def caution_of(options: Mapping[str, object]) -> float:
    """The share, 0 to 1, that a checkpoint asks for. Raises CheckpointError if it is none."""
    said = options.get("caution", 0.0)
    if not isinstance(said, int | float) or not 0 <= said <= 1:
        raise CheckpointError("shopcast.caution must be a share from 0 to 1")
    return float(said)
