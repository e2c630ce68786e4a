"""What the tests measure series by."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from models.synth.parts import Floats, Ints


def generator(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def lengths(rows: int, length: int = 7) -> Ints:
    return np.full(rows, length)


def autocorrelation(values: Floats, lag: int) -> Floats:
    """(rows,) at the lag."""
    centred = values - values.mean(axis=1, keepdims=True)
    square = np.maximum((centred**2).sum(axis=1), 1e-12)
    return np.asarray((centred[:, lag:] * centred[:, :-lag]).sum(axis=1) / square)


def coefficients(target: Floats, *drivers: Floats) -> Floats:
    """Least-squares coefficients of one row (time,) on drivers (time,), beside a constant."""
    design = np.stack([np.ones_like(target), *drivers], axis=1)
    return np.asarray(np.linalg.lstsq(design, target, rcond=None)[0][1:])
