"""Partial pooling: what covariates do across a shop is where each series' regression begins.

An article that was promoted twice says little of its promotions, the other articles of its shop say
more, and an article that never was promoted has nothing else. So fine-tuning learns one effect for
each covariate by its name, from all series at once, and models/effects.py regresses what that
leaves (Gelman and Hill, 2006, Data Analysis Using Regression and Multilevel/Hierarchical Models,
chapter 12). It stands in the checkpoint, under `shopcast.pooled_effects` in its config.json.

Invariant: what is expected of a covariate depends on its name alone, and is nothing where the name
is unknown.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.base import CheckpointError
from models.effects import LEAST, Expected, Frame, Shares, of_part, parts_of, without_course
from models.features import Rows

#: Where nothing is known, an effect is 0 give or take 1, in logarithms or mean sizes a unit.
RIDGE = 1.0
#: Collinear covariates share their effect, by this ridge in units of their own variance.
SHARED = 1e-3


@dataclass(frozen=True, slots=True)
class PooledEffect:
    """Of one covariate; as `models.effects.Expected`."""

    multiplies: float
    adds: float
    least: float
    most: float

    def shrunk(self, share: float) -> "PooledEffect":
        """A share of the effect."""
        return PooledEffect(self.multiplies * share, self.adds * share, self.least, self.most)


_NOTHING = PooledEffect(0.0, 0.0, 0.0, 0.0)
_FIELDS = tuple(each.name for each in fields(PooledEffect))


@dataclass(frozen=True, slots=True)
class PooledEffects:
    """Effects by the names of covariates."""

    by_name: Mapping[str, PooledEffect]

    def of(self, names: Sequence[str | None]) -> Expected | None:
        """What is expected of rows with these names; None where that is nothing."""
        if not any(name in self.by_name for name in names):
            return None
        found = [_NOTHING if name is None else self.by_name.get(name, _NOTHING) for name in names]
        return Expected(*(np.array([getattr(one, field) for one in found]) for field in _FIELDS))

    def option(self) -> dict[str, dict[str, float]]:
        """As a checkpoint says it."""
        return {name: asdict(effect) for name, effect in sorted(self.by_name.items())}


NOT_POOLED = PooledEffects({})


def pooled_effects_of(options: Mapping[str, object]) -> PooledEffects:
    """What a checkpoint says of them. Raises CheckpointError if it makes no sense."""
    said = options.get("pooled_effects", {})
    if not isinstance(said, dict):
        raise CheckpointError("shopcast.pooled_effects is not an object")
    return PooledEffects({str(name): _effect(str(name), each) for name, each in said.items()})


def _effect(name: str, said: Any) -> PooledEffect:  # noqa: ANN401
    where = f"shopcast.pooled_effects.{name}"
    if not isinstance(said, dict) or set(said) != set(_FIELDS):
        raise CheckpointError(f"{where} must have {', '.join(_FIELDS)}")
    if not all(isinstance(each, int | float) and math.isfinite(each) for each in said.values()):
        raise CheckpointError(f"{where} must be of finite numbers")
    if not said["least"] <= 0 <= said["most"]:
        raise CheckpointError(f"{where} must have least at most 0 and most at least 0")
    return PooledEffect(**{field: float(said[field]) for field in _FIELDS})


def learned_effects(rows: Rows, shares: Shares) -> PooledEffects:
    """One effect for each named covariate with a known future, from all targets of the rows.

    rows: as without_effects has them, the targets without their season, of which they lost shares.
    A series counts by how little it varies, and intermittent ones do not.
    """
    known = ~rows.target & ~np.isnan(rows.future).all(axis=1)
    known &= [name is not None for name in rows.names]
    names = sorted({str(rows.names[row]) for row in np.flatnonzero(known).tolist()})
    place = {name: number for number, name in enumerate(names)}
    sums = _Sums(len(names))
    for part, drivers in parts_of(rows.group, np.flatnonzero(rows.target), np.flatnonzero(known)):
        targets = rows.past[rows.target][part]
        frame = Frame(targets, rows.past[drivers], rows.future[drivers], of_part(shares, part))
        numbers = np.array([[place[str(rows.names[row])] for row in one] for one in drivers])
        sums.add(frame, numbers)
    return PooledEffects(dict(zip(names, sums.effects(), strict=True)))


class _Sums:
    """Normal equations of the regressions that multiply and of those that add."""

    def __init__(self, covariates: int) -> None:
        self.scatter = np.zeros((2, covariates, covariates))
        self.moment = np.zeros((2, covariates))
        self.least, self.most = np.zeros(covariates), np.zeros(covariates)

    def add(self, frame: Frame, numbers: NDArray[np.intp]) -> None:
        """numbers: (n, covariates), which."""
        size = np.where(frame.size > 0, frame.size, 1.0)
        y = without_course((frame.course / size)[:, None], frame.seen[:, None])[:, 0]
        x, apart = frame.own / frame.unit, frame.apart / frame.unit
        count, total = frame.seen.sum(axis=1), (y**2).sum(axis=1)
        taken = frame.regular[:, 0] & (count >= LEAST) & (total > 0)
        sure = np.where(taken, count / np.where(taken, total, 1.0), 0.0)[:, None, None]
        kind = np.where(frame.multiplies[:, 0], 0, 1)[:, None]
        scatter = sure * (x @ x.transpose(0, 2, 1))
        np.add.at(self.scatter, (kind[..., None], numbers[:, :, None], numbers[:, None]), scatter)
        np.add.at(self.moment, (kind, numbers), (sure * (x @ y[..., None]))[..., 0])
        np.minimum.at(self.least, numbers, apart.min(axis=2))
        np.maximum.at(self.most, numbers, apart.max(axis=2))

    def effects(self) -> list[PooledEffect]:
        """Of each covariate."""
        diagonal = np.einsum("ikk->ik", self.scatter)
        ridge = (RIDGE + SHARED * diagonal)[:, None] * np.eye(len(self.least))
        found = np.linalg.solve(self.scatter + ridge, self.moment[..., None])[..., 0]
        rows = np.array([*found, self.least, self.most]).T
        return [PooledEffect(*(float(f"{one:.6g}") for one in row)) for row in rows]
