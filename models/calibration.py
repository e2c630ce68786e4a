"""A last correction of intervals: how much wider real series scatter than simulated ones.

A network trained on simulations knows how sure to be of those. Where real series of a frequency
scatter more, its quantiles are moved away from the median by a factor that was fitted on series
held apart for development (`benchmarks/calibration.py`) and is stored with the checkpoint, under
`shopcast.calibration` in its config.json.

Trends, too, go on more often in simulations than in some calendars, so that a checkpoint may ask
for caution there: its quantiles are moved by a share towards a forecast that hardly trusts a trend
(`shopcast.caution`, chosen on the same series).

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
    """Factors of the distance to the median, by `kind_of`; 1 for other kinds."""

    factors: Mapping[str, float]

    def apply(
        self, quantiles: FloatArray, levels: Sequence[float], seasons: Sequence[Seasons]
    ) -> FloatArray:
        """(rows, levels, steps), monotone, of rows with these seasons → the same, calibrated."""
        if not self.factors:
            return quantiles
        factor = np.array([self.factors.get(kind_of(each), 1.0) for each in seasons])
        median = quantiles[:, [list(levels).index(0.5)]]
        return np.asarray(median + factor[:, None, None] * (quantiles - median))


def calibration_of(options: Mapping[str, object]) -> Calibration:
    """What a checkpoint says of its calibration. Raises CheckpointError if it makes no sense."""
    return Calibration(_numbers(options, "calibration", LEAST, MOST))


@dataclass(frozen=True, slots=True)
class Caution:
    """Shares, by `kind_of`, of the way to a forecast that hardly trusts a trend; 0 for others."""

    shares: Mapping[str, float]

    def of(self, seasons: Sequence[Seasons]) -> FloatArray:
        """(rows,) the share of each row."""
        return np.array([self.shares.get(kind_of(each), 0.0) for each in seasons])


def caution_of(options: Mapping[str, object]) -> Caution:
    """What a checkpoint says of its caution. Raises CheckpointError if it makes no sense."""
    return Caution(_numbers(options, "caution", 0.0, 1.0))


def _numbers(
    options: Mapping[str, object], name: str, least: float, most: float
) -> dict[str, float]:
    said = options.get(name, {})
    if not isinstance(said, dict):
        raise CheckpointError(f"shopcast.{name} is not an object")
    for kind, number in said.items():
        if not isinstance(number, int | float) or not least <= number <= most:
            raise CheckpointError(f"shopcast.{name}.{kind} must lie between {least} and {most}")
    return {str(kind): float(number) for kind, number in said.items()}
