"""Effects of known covariates: what a planned price or promotion has done before leaves the series.

A promotion that history shows plainly should be in the forecast of the next one, however little the
network has learned of promotions. So each target is regressed on the covariates whose future is
known, both without their slow course and the target's season (Frisch and Waugh, 1933, Econometrica
1; Lovell, 1963, Journal of the American Statistical Association 58), the part that has foretold
other stretches of the history is taken out before the network, and that of the future is put back
after it. What covariates do across a shop (models/pooling.py) can be where regressions begin.

Invariant: a group's effects depend on that group's rows alone, finite values stay finite, and
`restore` is the exact inverse of what was taken out.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Flags = NDArray[np.bool_]
Rows = NDArray[np.intp]
#: Length of each season that left the targets, and of each target how much of it did, 0 to 1.
Shares = Sequence[tuple[int, Floats]]

#: Periods over which the slow course of target and covariates is averaged.
WINDOW = 25
#: Observations that a regression needs, and so many more for each covariate.
LEAST = 8
LEAST_EACH = 3
#: Ridges that are tried, in units of a covariate's own variance.
RIDGES = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0)
#: Logarithm of the prior odds that covariates say nothing.
DOUBT = 2.0
#: Parts of a history of which each is foretold from the others.
PARTS = 3
#: Beside a part that is left out, up to half a window and this share of the history is as well.
GAP = 1 / 12
#: Share of zeros beyond which a series counts as intermittent and keeps its values.
INTERMITTENT_SHARE = 0.5
#: Share of zeros beyond which effects add; zeros of a series that multiplies teach nothing.
ADDITIVE_ZEROS = 0.2
#: An effect stays within 1 / LIMIT .. LIMIT times the level, or LIMIT deviations of the target.
LIMIT = 6.0
#: So much of its past range a covariate's future counts beyond that range.
BEYOND = 0.25


@dataclass(frozen=True, slots=True, eq=False)
class CovariateEffects:
    """Rows without the effects of their covariates, and what brings those of the future back.

    adjusted: (rows, time). factor, offset: (rows, horizon), 1 and 0 where there is no effect.
    """

    adjusted: Floats
    factor: Floats
    offset: Floats

    def restore(self, quantiles: Floats) -> Floats:
        """(rows, levels, steps) of adjusted rows → of the rows as they are."""
        steps = quantiles.shape[2]
        return quantiles * self.factor[:, None, :steps] + self.offset[:, None, :steps]

    def remove(self, future: Floats) -> Floats:
        """(rows, steps) the future without its effects, as `adjusted` is the past."""
        return np.asarray((future - self.offset) / self.factor)


@dataclass(frozen=True, slots=True, eq=False)
class Expected:
    """What is expected of covariates before their own series is looked at: (rows,) each.

    multiplies: change of the target's logarithm a unit; adds: change of the target in units of its
    mean size. A unit is the covariate's own mean if all of it is positive, as of prices, else 1.
    least, most: how far from its mean, in units, a covariate counts; 0 or below, 0 or above.
    """

    multiplies: Floats
    adds: Floats
    least: Floats
    most: Floats

    def take(self, rows: Rows) -> "Expected":
        """Of these rows, in the shape of `rows`."""
        return Expected(self.multiplies[rows], self.adds[rows], self.least[rows], self.most[rows])


def without_effects(
    past: Floats,
    future: Floats,
    group: Rows,
    target: Flags,
    shares: Shares = (),
    expected: Expected | None = None,
) -> CovariateEffects:
    """Take the effects of known covariates out of the targets of every group.

    past: (rows, time), future: (rows, horizon), NaN where missing or unknown; a row that is no
    target and whose future is known counts as a covariate of the targets of its group. shares:
    of the seasons that the targets, in order, have lost (`SeasonalAdjustment.shares`). expected: of
    all rows. The answer has the targets' rows, in order.
    """
    rows = np.flatnonzero(target)
    adjusted = past[rows].copy()
    factor, offset = np.ones((len(rows), future.shape[1])), np.zeros((len(rows), future.shape[1]))
    known = ~target & ~np.isnan(future).all(axis=1)
    if not known.any():
        return CovariateEffects(adjusted, factor, offset)
    for part, drivers in parts_of(group, rows, np.flatnonzero(known)):
        frame = Frame(adjusted[part], past[drivers], future[drivers], of_part(shares, part))
        fit = _Regression(frame, None if expected is None else expected.take(drivers))
        adjusted[part] = (adjusted[part] - fit.past_offset) / fit.past_factor
        factor[part], offset[part] = fit.factor, fit.offset
    return CovariateEffects(adjusted, factor, offset)


def parts_of(group: Rows, targets: Rows, known: Rows) -> Iterator[tuple[Rows, Rows]]:
    """Targets (n,), as positions, and the rows (n, covariates) that may drive them, by count."""
    members: dict[int, list[int]] = {}
    for row in known.tolist():
        members.setdefault(int(group[row]), []).append(row)
    drivers = [members.get(int(group[row]), []) for row in targets.tolist()]
    for count in sorted({len(each) for each in drivers} - {0}):
        part = [i for i, each in enumerate(drivers) if len(each) == count]
        yield np.array(part, dtype=np.intp), np.array([drivers[i] for i in part], dtype=np.intp)


def of_part(shares: Shares, part: Rows) -> Shares:
    """Of these targets, the seasons that any of them has lost."""
    return [(length, share[part]) for length, share in shares if share[part].any()]


class Frame:
    """Targets (n, time) and what drives them (n, covariates, time), as they are regressed.

    course: (n, time) logarithms or values. size: (n, 1) what an effect is counted in, 1 for
    logarithms. unit: (n, covariates, 1) of the covariates. apart, ahead: (n, covariates, time or
    horizon) their distance from their mean without the season, 0 where missing; within: as ahead,
    at most BEYOND their past range. own: as apart without the slow course. deviation: (n,
    covariates) of what is without it but has the season.
    """

    def __init__(self, values: Floats, drivers: Floats, future: Floats, shares: Shares) -> None:
        self.multiplies, self.regular = _multiplies(values), _regular(values)
        logs = np.log(np.where(values > 0, values, np.nan))
        self.course = np.where(self.multiplies, logs, values)
        self.seen = ~np.isnan(self.course)
        self.size = np.where(self.multiplies, 1.0, _mean_size(values))
        centre, spread = _centre(drivers), _range(drivers)
        low, high = (f.reduce(drivers, axis=2)[..., None] for f in (np.fmin, np.fmax))
        self.unit = np.where(low > 0, centre, 1.0)
        apart, shown = np.nan_to_num(drivers - centre), self.seen[:, None] & ~np.isnan(drivers)
        shown &= _witnessed(shown, self.seen)
        plain = without_course(apart, shown)
        season, coming = _seasons(plain, shown, shares, future.shape[2])
        within = np.clip(future, low - BEYOND * spread, high + BEYOND * spread)
        self.own = np.where(shown, plain - season, 0)
        self.deviation = _size(plain, apart, self.seen)
        self.apart, self.ahead, self.within = (
            np.nan_to_num(part - centre)
            for part in (drivers - season, future - coming, within - coming)
        )
        self.ahead[np.isnan(low[..., 0])] = 0.0  # there is no mean to be apart from


class _Regression:
    """The effects on targets of covariates with known futures."""

    def __init__(self, frame: Frame, expected: Expected | None) -> None:
        begun = [_effect_of(frame, part, expected) for part in (frame.apart, frame.ahead)]
        course = frame.course - begun[0]
        own = _coefficients(course, frame.own, frame.deviation, frame.seen) * frame.regular
        limit = np.where(frame.multiplies, np.log(LIMIT), LIMIT * _deviation(frame))
        past, future = (
            np.clip(np.einsum("nk,nkt->nt", own, part) + start, -limit, limit)
            for part, start in zip((frame.apart, frame.within), begun, strict=True)
        )
        self.past_factor, self.past_offset = _kinds(past, frame.multiplies)
        self.factor, self.offset = _kinds(future, frame.multiplies)


def _witnessed(shown: Flags, seen: Flags) -> Flags:
    """(n, covariates, 1) which are known for more than a part, so that another can bear witness."""
    return np.asarray((shown.sum(axis=2) * PARTS > seen.sum(axis=1)[:, None])[..., None])


def _effect_of(frame: Frame, apart: Floats, expected: Expected | None) -> Floats:
    """(n, time) what is expected of covariates (n, covariates, time) so far from their mean."""
    if expected is None:
        return np.zeros((len(apart), apart.shape[2]))
    counted = np.clip(apart / frame.unit, expected.least[..., None], expected.most[..., None])
    each = np.where(frame.multiplies, expected.multiplies, expected.adds)
    effect = np.einsum("nk,nkt->nt", each, counted)
    return np.asarray(effect * frame.size * frame.regular)


def _deviation(frame: Frame) -> Floats:
    """(n, 1) of the course around its slow part."""
    y = without_course(frame.course[:, None], frame.seen[:, None])[:, 0]
    count = np.maximum(frame.seen.sum(axis=1), 1)
    return np.asarray(np.sqrt((y**2).sum(axis=1) / count)[:, None])


def _mean_size(values: Floats) -> Floats:
    """(n, 1) the mean of absolute values."""
    count = np.maximum((~np.isnan(values)).sum(axis=1), 1)
    return np.asarray((np.nansum(np.abs(values), axis=1) / count)[:, None])


def _kinds(effect: Floats, multiplies: Flags) -> tuple[Floats, Floats]:
    return np.where(multiplies, np.exp(effect * multiplies), 1.0), np.where(multiplies, 0.0, effect)


def _multiplies(values: Floats) -> Flags:
    """(n, 1) rows whose effects multiply: no negative value, hardly a zero."""
    zeros, seen = (values == 0).sum(axis=1), (~np.isnan(values)).sum(axis=1)
    positive = np.fmin.reduce(values, axis=1) >= 0
    return np.asarray((positive & (zeros <= ADDITIVE_ZEROS * seen))[:, None])


def _regular(values: Floats) -> Flags:
    """(n, 1) rows that are not intermittent: taking effects out would fill their zeros."""
    zeros, seen = (values == 0).sum(axis=1), (~np.isnan(values)).sum(axis=1)
    return np.asarray((zeros <= INTERMITTENT_SHARE * seen)[:, None])


def _centre(drivers: Floats) -> Floats:
    """(n, covariates, 1) means of what is known."""
    count = np.maximum((~np.isnan(drivers)).sum(axis=2, keepdims=True), 1)
    return np.asarray(np.nansum(drivers, axis=2, keepdims=True) / count)


def _range(drivers: Floats) -> Floats:
    span = np.fmax.reduce(drivers, axis=2) - np.fmin.reduce(drivers, axis=2)
    return np.asarray(np.nan_to_num(span)[..., None])


def _seasons(plain: Floats, shown: Flags, shares: Shares, horizon: int) -> tuple[Floats, Floats]:
    """What covariates (n, covariates, time) have of the targets' seasons: past and horizon.

    Of each phase's mean as much as the target lost of its own, so that the season's weeks do not
    pass for the effect of a holiday that always falls in one; all of it where a phase was shown
    but once, for what came in one year is as well that year's.
    """
    time = plain.shape[2]
    past, future = np.zeros_like(plain), np.zeros((*plain.shape[:2], horizon))
    for length, share in shares:
        cycles, known = (
            np.pad(part, ((0, 0), (0, 0), (-time % length, 0))).reshape(*part.shape[:2], -1, length)
            for part in (np.where(shown, plain - past, 0.0), shown)
        )
        count = known.sum(axis=2)
        kept = np.where(count > 1, share[:, None, None], share[:, None, None] > 0)
        held = kept * cycles.sum(axis=2) / np.maximum(count, 1)
        past += held[..., np.arange(-time, 0) % length]
        future += held[..., np.arange(horizon) % length]
    return past, future


def _size(plain: Floats, apart: Floats, seen: Flags) -> Floats:
    """(n, covariates) deviations beside the course, 0 of covariates that are all course.

    They are the ridges' units: a covariate that is nearly all season has little weight left.
    """
    count = np.maximum(seen.sum(axis=1), 1)
    size = np.sqrt((plain**2).sum(axis=2) / count[:, None])
    return np.where(size > 1e-6 * np.sqrt((apart**2).mean(axis=2)) + 1e-12, size, 0.0)


def _coefficients(course: Floats, drivers: Floats, size: Floats, seen: Flags) -> Floats:
    """(n, covariates) coefficients.

    drivers: (n, covariates, time) without course and season, size: (n, covariates) their units.
    Ridge regressions of several strengths and none at all, each with the weight of how well it
    foretells parts of the history that it was not fitted to. All of it turns with the covariates,
    so that of collinear ones no one is preferred.
    """
    y = without_course(course[:, None], seen[:, None])[:, 0]
    count, present = np.maximum(seen.sum(axis=1), 1), size > 0
    x = np.where(present[..., None], drivers / np.where(present, size, 1.0)[..., None], 0.0)
    total = (y**2).sum(axis=1)
    enough = (count >= LEAST + LEAST_EACH * drivers.shape[1]) & (total > 0)
    gain = _foretold_error(x, y, seen) / np.where(enough, total, 1.0)  # (ridges, n)
    evidence = -0.5 * (1 - 1 / WINDOW) * count * np.log(np.maximum(gain, 1e-9))
    evidence -= np.log(len(RIDGES))
    shift = np.maximum(evidence.max(axis=0), DOUBT)
    weight = np.exp(evidence - shift)
    weight = weight / (weight.sum(axis=0) + np.exp(DOUBT - shift)) * enough
    answer = (weight[:, :, None] * _ridges(x, y, seen)).sum(axis=0)
    return np.where(present, answer / np.where(present, size, 1.0), 0.0)


def _foretold_error(x: Floats, y: Floats, seen: Flags) -> Floats:
    """(ridges, n) squared errors in each part of the history, fitted to the others.

    Whole parts are left out, and what their moving means reach (Burman, Chow and Nolan, 1994,
    Biometrika 81), so that what happened once, or in one year, bears no witness for itself.
    """
    first = seen.argmax(axis=1)[:, None]
    place, length = np.arange(y.shape[1]) - first, y.shape[1] - first
    gap = np.minimum(WINDOW // 2, (GAP * length).astype(np.intp))
    error = np.zeros((len(RIDGES), len(y)))
    for part in range(PARTS):
        start, end = part * length // PARTS, (part + 1) * length // PARTS
        left_out = seen & (place >= start) & (place < end)
        others = seen & ((place < start - gap) | (place >= end + gap))
        fit = np.einsum("rnk,nkt->rnt", _ridges(x, y, others), x)
        error += (left_out * np.square(y - fit)).sum(axis=2)
    return error


def _ridges(x: Floats, y: Floats, seen: Flags) -> Floats:
    """(ridges, n, covariates) from covariates (n, covariates, time), where they are seen."""
    count = np.maximum(seen.sum(axis=1), 1)[:, None]
    shown = x * seen[:, None]
    scatter = shown @ shown.transpose(0, 2, 1) / count[:, None]
    variance, directions = np.linalg.eigh(scatter)
    moment = np.einsum("nkt,nt->nk", shown, y) / count
    along = np.einsum("nkd,nk->nd", directions, moment)
    shrunk = along / (np.maximum(variance, 0.0) + np.array(RIDGES)[:, None, None])
    return np.asarray(np.einsum("nkd,rnd->rnk", directions, shrunk))


def without_course(values: Floats, seen: Flags) -> Floats:
    """(n, k, time) less a line and their centred moving means over what was seen; 0 elsewhere.

    The line goes first, since a mean of what lies on one side of the ends would follow it late.
    """
    half, time = WINDOW // 2, values.shape[2]
    count = np.maximum(seen.sum(axis=2, keepdims=True), 1)
    middle = (seen * np.arange(time)).sum(axis=2, keepdims=True) / count
    steps = np.where(seen, np.arange(time) - middle, 0.0)
    shown = np.where(seen, values, 0.0)
    square = np.maximum((steps**2).sum(axis=2, keepdims=True), 1)
    slope = (steps * shown).sum(axis=2, keepdims=True) / square
    shown = np.where(seen, shown - slope * steps, 0.0)
    width = np.minimum(np.arange(time) + half + 1, time)
    start = np.maximum(np.arange(time) - half, 0)
    sums, counts = (
        total[..., width] - total[..., start]
        for total in (
            np.pad(np.cumsum(part, axis=2), ((0, 0), (0, 0), (1, 0)))
            for part in (shown, 1.0 * seen)
        )
    )
    return np.where(seen, shown - sums / np.maximum(counts, 1), 0.0)
