"""Seasonal adjustment: the season leaves a series before the network and returns to its forecast.

A small network learns level and trend in context much sooner than it learns a season, so a season
that the calendar announces and the data confirm is estimated classically, taken out, and put back.
Only rows that are to be forecast are adjusted; covariates are given to the network as they are.

Invariant: a row is adjusted by its own values alone, finite values stay finite, and `restore` is
the exact inverse of what was taken out.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import gcd
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Flags = NDArray[np.bool_]
Rows = NDArray[np.intp]
Seasons = tuple[int, ...] | None
Entry = TypeVar("Entry", np.float64, np.bool_)

#: Lengths tried on a series of unknown frequency, in periods.
CANDIDATES = (4, 7, 12, 24, 52, 96, 168)
#: Seasons that a row must span: for a season told, for one guessed or a phase taken for closed.
TOLD_CYCLES = 2
GUESSED_CYCLES = 3
#: One-sided 60 % and 99.5 % points of the normal distribution: a season told, a season guessed.
#: What little speaks for an index shrinks it; the test only spares series that contradict it.
TOLD_Z = 0.25
GUESSED_Z = 2.576
#: Share of its slope that the trend keeps beyond its last whole season.
END_SLOPE = 0.5
#: Share of zeros beyond which effects add; fewer are outliers of a series without a zero.
ADDITIVE_ZEROS = 0.02
#: Indices of seasons of so many phases and more lean on their neighbours' by SMOOTHING each.
SMOOTHED_LENGTH = 50
SMOOTHING = 0.125
#: A season's index stays within 1 / INDEX_LIMIT .. INDEX_LIMIT times the level.
INDEX_LIMIT = 10.0
#: Weight of the noise in what an index is shrunk by.
SHRINKAGE = 1.0
#: Weights of a cycle beside the next one, for seasons that move.
DISCOUNTS = (1.0, 0.9, 0.8, 0.65)
#: Latest cycles that a season is estimated from; older ones say little more and cost as much.
LATEST_CYCLES = 40
#: Share of zeros beyond which a series counts as intermittent and keeps its values.
INTERMITTENT_SHARE = 0.5
#: Candidates for a season that are tested thoroughly.
LIKELY = 3
#: Up to so many lags, their products are summed one by one.
DIRECT_LAGS = 32

_MINUTE, _HOUR, _DAY, _WEEK = 60, 3_600, 86_400, 604_800
#: Seconds of one period, for frequencies that divide a week.
_CLOCK_SECONDS = {"s": 1, "S": 1, "min": _MINUTE, "T": _MINUTE, "h": _HOUR, "H": _HOUR, "D": _DAY}
#: Periods a year, for frequencies that divide or nearly divide one.
_PERIODS_A_YEAR = {"W": 52, "SM": 24, "M": 12, "Q": 4, "Y": 1, "A": 1}
_ALIAS = re.compile(r"(\d*)([A-Za-z]+)(?:-[A-Z0-9]+)?")
_CALENDAR = re.compile(r"(?:C?B)?(SM|M|Q|Y|A)[SE]?")


def season_lengths(freq: str | None) -> Seasons:
    """Candidate season lengths, in periods, of a pandas frequency alias, the shortest first.

    `()` says that the frequency is known to have no season (yearly data); `None` says that nothing
    is known (no alias, or one whose season is not), so that `adjust` tests `CANDIDATES`.
    """
    match = _ALIAS.fullmatch(freq or "")
    if match is None:
        return None
    step, unit = int(match[1] or 1), match[2]
    if step == 0:
        return None
    if unit in _CLOCK_SECONDS:
        return _clock_seasons(step * _CLOCK_SECONDS[unit])
    if unit in {"B", "C"}:
        return _distinct([5 // gcd(5, step)])
    calendar = _CALENDAR.fullmatch(unit)
    name = calendar[1] if calendar else unit
    if name not in _PERIODS_A_YEAR:
        return None
    return _distinct([round(_PERIODS_A_YEAR[name] / step)])


def _clock_seasons(period_s: int) -> tuple[int, ...]:
    """Seasons of periods of so many seconds: minute, hour, day, week and, for days, the year."""
    cycles = [(_MINUTE, _HOUR), (_HOUR, _DAY)] if period_s < _MINUTE else [(_DAY, _WEEK)]
    lengths = [long // gcd(long, period_s) for pair in cycles for long in pair]
    if period_s == _DAY:
        lengths.append(365)
    return _distinct(lengths)


def _distinct(lengths: list[int]) -> tuple[int, ...]:
    return tuple(sorted({length for length in lengths if length > 1}))


@dataclass(frozen=True, slots=True)
class _Layer:
    """One season of length m of some rows; column k of a table is the phase of step k + 1."""

    rows: Rows  # (part,)
    factor: Floats  # (part, m), 1 where the season is added
    offset: Floats  # (part, m), 0 where the season multiplies
    closed: Flags  # (part, m)

    @staticmethod
    def along(table: NDArray[Entry], steps: Rows) -> NDArray[Entry]:
        """The table's columns at those steps; step 0 is the first period of the future."""
        return table[:, steps % table.shape[1]]


@dataclass(frozen=True, slots=True)
class SeasonalAdjustment:
    """Adjusted values and what brings their season back."""

    adjusted: Floats  # (rows, time), NaN where missing or closed
    layers: tuple[_Layer, ...]  # in the order in which they were taken out

    @property
    def found(self) -> Flags:
        """(rows,) whether a season was taken out; a closed phase alone is none."""
        answer = np.zeros(len(self.adjusted), dtype=np.bool_)
        for layer in self.layers:
            answer[layer.rows] |= ((layer.factor != 1) | (layer.offset != 0)).any(axis=1)
        return answer

    def restore(self, forecast: Floats) -> Floats:
        """(rows, levels, horizon) of the adjusted series → the same of the series; closed → 0.

        Column 0 of the horizon is the period after the last column of the values.
        """
        answer = np.array(forecast, dtype=np.float64)
        steps = np.arange(answer.shape[-1])
        for layer in reversed(self.layers):
            factor = layer.along(layer.factor, steps)[:, None, :]
            offset = layer.along(layer.offset, steps)[:, None, :]
            answer[layer.rows] = answer[layer.rows] * factor + offset
        for layer in self.layers:
            closed = layer.along(layer.closed, steps)[:, None, :]
            answer[layer.rows] = np.where(closed, 0.0, answer[layer.rows])
        return answer

    def remove(self, future: Floats) -> Floats:
        """(rows, horizon) of the series → the same adjusted, NaN in closed phases (training)."""
        answer = np.array(future, dtype=np.float64)
        steps = np.arange(answer.shape[-1])
        for layer in self.layers:
            answer[layer.rows] = _taken_out(answer[layer.rows], layer, steps)
        return answer

    def take(self, rows: Sequence[int] | Rows) -> "SeasonalAdjustment":
        """The adjustment of some of the rows, in that order."""
        chosen = np.asarray(rows, dtype=np.intp)
        layers = (_chosen_layer(layer, chosen, len(self.adjusted)) for layer in self.layers)
        return SeasonalAdjustment(self.adjusted[chosen], tuple(e for e in layers if len(e.rows)))


def _chosen_layer(layer: _Layer, chosen: Rows, count: int) -> _Layer:
    position = np.full(count, -1, dtype=np.intp)
    position[layer.rows] = np.arange(len(layer.rows))
    kept = np.flatnonzero(position[chosen] >= 0)
    part = position[chosen][kept]
    return _Layer(kept, layer.factor[part], layer.offset[part], layer.closed[part])


def adjust(values: Floats, seasons: Sequence[Seasons]) -> SeasonalAdjustment:
    """Take the confirmed seasons out of right-aligned rows.

    `values` (rows, time) has NaN where nothing was observed, `seasons[i]` the lengths that may
    hold in row i (see `season_lengths`). Rows whose season is not borne out pass unchanged.
    Raises ValueError where the two differ in length.
    """
    if len(values) != len(seasons):
        raise ValueError(f"{len(values)} rows, but seasons of {len(seasons)}")
    adjusted = np.array(values, dtype=np.float64)
    layers: list[_Layer] = []
    for rows, length in _passes(adjusted, seasons) if adjusted.size else ():
        layer = _estimated(adjusted[rows], rows, length)
        if layer is not None:
            steps = np.arange(-adjusted.shape[1], 0)
            adjusted[layer.rows] = _taken_out(adjusted[layer.rows], layer, steps)
            layers.append(layer)
    return SeasonalAdjustment(adjusted, tuple(layers))


def _taken_out(values: Floats, layer: _Layer, steps: NDArray[np.intp]) -> Floats:
    season_free = (values - layer.along(layer.offset, steps)) / layer.along(layer.factor, steps)
    return np.where(layer.along(layer.closed, steps), np.nan, season_free)


def _passes(values: Floats, seasons: Sequence[Seasons]) -> Iterator[tuple[Rows, int]]:
    """Rows and a season length for each pass, all shortest seasons before all longer ones."""
    guesses = iter(_guessed(values[[i for i, season in enumerate(seasons) if season is None]]))
    told = [next(guesses) if season is None else season for season in seasons]
    for depth in range(max((len(season) for season in told), default=0)):
        lengths = np.array([season[depth] if depth < len(season) else 0 for season in told])
        for length in np.unique(lengths[lengths > 1]):
            yield np.flatnonzero(lengths == length), int(length)


def _guessed(values: Floats) -> list[tuple[int, ...]]:
    """Of each row of unknown frequency the candidate that stands out most, if any does."""
    if not len(values):
        return []
    scaled = _scaled(values)
    excess = np.zeros((len(CANDIDATES), len(values)))
    for i, likely in enumerate(_likely(scaled)):
        length, rows = CANDIDATES[i], np.flatnonzero(likely)
        rows = rows[_spans(scaled[rows], GUESSED_CYCLES * length)]
        if len(rows):
            detrended = scaled[rows] - _trend(scaled[rows], length)
            excess[i, rows] = _excess(detrended, length, z=GUESSED_Z)
    best = excess.argmax(axis=0)
    return [(CANDIDATES[i],) if excess[i, row] > 0 else () for row, i in enumerate(best)]


def _likely(values: Floats) -> Flags:
    """(candidates, rows) the LIKELY candidates at whose lag a row's changes agree best.

    One transform finds them, so that the thorough test is left to few.
    """
    likely = np.zeros((len(CANDIDATES), len(values)), dtype=np.bool_)
    spans = np.array([_spans(values, GUESSED_CYCLES * length) for length in CANDIDATES])
    if spans.any():
        longest = int(np.flatnonzero(spans.any(axis=1))[-1])
        lags = list(CANDIDATES[: longest + 1])
        changes = np.nan_to_num(np.diff(values, axis=1))
        agreement = np.where(spans[: longest + 1], _autocovariance(changes, lags[-1])[:, lags].T, 0)
        least = np.sort(agreement, axis=0)[-LIKELY:][0]
        likely[: longest + 1] = (agreement >= least) & (agreement > 0)
    return likely


def _estimated(values: Floats, rows: Rows, length: int) -> _Layer | None:
    """The season of the rows that bear it out; None where none of them does."""
    values = values[:, int(np.isnan(values).all(axis=0).argmin()) :]
    if values.shape[1] < TOLD_CYCLES * length:
        return None
    closed = _closed_phases(values, length)
    values = values[:, -LATEST_CYCLES * length :]
    steps = np.arange(-values.shape[1], 0)
    opened = _scaled(np.where(closed[:, steps % length], np.nan, values))
    fit = _spans(opened, TOLD_CYCLES * length) & _regular(opened)
    trend = _trend(opened, length)
    fit[fit] = _excess((opened - trend)[fit], length, z=TOLD_Z) > 0
    factor, offset = np.ones_like(closed, dtype=np.float64), np.zeros(closed.shape)
    if fit.any():
        scale = _magnitude(values[fit])
        factor[fit], shift = _indices(opened[fit], trend[fit], length)
        offset[fit] = shift * scale
    kept = fit | closed.any(axis=1)
    if not kept.any():
        return None
    return _Layer(rows[kept], factor[kept], offset[kept], closed[kept])


def _magnitude(values: Floats) -> Floats:
    """(rows, 1) largest absolute value of each row, 1 where there is none."""
    largest = np.nan_to_num(np.abs(values)).max(axis=1, initial=0.0, keepdims=True)
    return np.where(largest > 0, largest, 1.0)


def _scaled(values: Floats) -> Floats:
    return values / _magnitude(values)


def _spans(values: Floats, periods: int) -> Flags:
    """Rows whose observations reach over so many periods, with few gaps between them."""
    seen = ~np.isnan(values)
    span = np.where(seen.any(axis=1), values.shape[1] - seen.argmax(axis=1), 0)
    return np.asarray((span >= periods) & (seen.sum(axis=1) >= 0.5 * span))


def _regular(values: Floats) -> Flags:
    """Rows that are not constant and not intermittent."""
    seen = np.maximum((~np.isnan(values)).sum(axis=1), 1)
    zeros = (values == 0).sum(axis=1)
    spread = np.fmax.reduce(values, axis=1) - np.fmin.reduce(values, axis=1)
    return np.asarray((zeros <= INTERMITTENT_SHARE * seen) & (np.nan_to_num(spread) > 1e-9))


def _cycles(values: Floats, length: int) -> Floats:
    """(rows, time) → (rows, cycles, length), led by NaN; the last column is the last phase."""
    lead = -values.shape[1] % length
    padded = np.pad(values, ((0, 0), (lead, 0)), constant_values=np.nan)
    return padded.reshape(len(values), -1, length)


def _closed_phases(values: Floats, length: int) -> Flags:
    """(rows, length) phases that are zero too often and too strictly for chance (1 %).

    The chance is that of `count` zeros at the rate of the other phases, in any of `length` phases.
    """
    if not (values == 0).any():
        return np.zeros((len(values), length), dtype=np.bool_)
    cycles = _cycles(values, length)
    seen = (~np.isnan(cycles)).sum(axis=1)
    zeros = (cycles == 0).sum(axis=1)
    shut = (seen >= GUESSED_CYCLES) & (zeros == seen)
    others, other_zeros = (np.where(shut, 0, n).sum(axis=1, keepdims=True) for n in (seen, zeros))
    rate = (other_zeros + 1.0) / (others + 2.0)
    unlikely = seen * np.log(rate) + np.log(length) < np.log(0.01)
    return np.asarray(shut & unlikely & (rate < INTERMITTENT_SHARE))


def _excess(detrended: Floats, length: int, *, z: float) -> Floats:
    """(rows,) autocorrelation at the season over what chance allows, as the Theta method tests it.

    r_m > z sqrt((1 + 2 Σ_{k<m} r_k²) / n), Fiorucci et al. (2016); on the series without its
    moving average, so that a trend neither hides nor feigns a season.
    """
    count = np.maximum((~np.isnan(detrended)).sum(axis=1), 1)
    mean = np.nansum(detrended, axis=1, keepdims=True) / count[:, None]
    centred = np.nan_to_num(detrended - mean)
    covariance = _autocovariance(centred, length)
    variance = covariance[:, :1]
    r = covariance / np.where(variance > 0, variance, 1.0)
    limit = z * np.sqrt((1 + 2 * (r[:, 1:length] ** 2).sum(axis=1)) / count)
    return np.asarray(r[:, length] - limit)


def _autocovariance(centred: Floats, most: int) -> Floats:
    """(rows, most + 1) sums of products at lags 0 to most; by FFT if there are many."""
    time = centred.shape[1]
    if most <= DIRECT_LAGS:
        lags = range(min(most, time - 1) + 1)
        answer = np.zeros((len(centred), most + 1))
        for lag in lags:
            answer[:, lag] = np.einsum("rt,rt->r", centred[:, lag:], centred[:, : time - lag])
        return answer
    size = 1 << (time + most).bit_length()
    power = np.abs(np.fft.rfft(centred, size)) ** 2
    return np.fft.irfft(power, size)[:, : most + 1]


def _trend(values: Floats, length: int) -> Floats:
    """The moving average, and half a season beyond its ends along part of its slope there."""
    inner = _moving_average(values, length)
    column, row = np.arange(values.shape[1]), np.arange(len(values))
    present = ~np.isnan(inner)
    first, last = present.argmax(axis=1), len(column) - 1 - present[:, ::-1].argmax(axis=1)
    reach = max(length // 2, 1)
    ends = inner[row, first], inner[row, last]
    rise = inner[row, np.minimum(first + reach, last)] - ends[0]
    gain = ends[1] - inner[row, np.maximum(last - reach, first)]
    before, after = column - first[:, None], column - last[:, None]
    slope = [END_SLOPE * np.nan_to_num(part)[:, None] / reach for part in (rise, gain)]
    head, tail = ends[0][:, None] + slope[0] * before, ends[1][:, None] + slope[1] * after
    answer = np.where((before < 0) & (before >= -reach), head, inner)
    return np.where((after > 0) & (after <= reach), tail, answer)


def _moving_average(values: Floats, length: int) -> Floats:
    """Centred mean over one season (2×m for even m), NaN where less than half of it is observed.

    The ends, where no whole season fits, have none; a row begins with its first observation, so
    that what it is padded with does not matter.
    """
    seen = ~np.isnan(values)
    sums = _windows(np.where(seen, values, 0.0), length)
    alike = seen[:1] if (seen == seen[:1]).all() else seen  # rows without gaps count once
    counts = _windows(alike * 1.0, length)
    inside = np.arange(values.shape[1]) >= seen.argmax(axis=1)[:, None] + length // 2
    known = inside & (counts >= 0.5 * length * _open_share(seen))
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(known, sums / counts, np.nan)


def _open_share(seen: Flags) -> Floats:
    first = seen.argmax(axis=1)
    return np.asarray((seen.sum(axis=1) / np.maximum(seen.shape[1] - first, 1))[:, None])


def _windows(values: Floats, length: int) -> Floats:
    """Sums over windows of `length` centred on each column, of two half-way ones if it is even."""
    half = length // 2
    total = np.pad(np.cumsum(values, axis=1), ((0, 0), (1, 0)))
    sums = total[:, length:] - total[:, :-length]
    if length % 2 == 0:
        sums = (sums[:, 1:] + sums[:, :-1]) / 2
    answer = np.zeros_like(values)
    answer[:, half : half + sums.shape[1]] = sums
    return answer


def _indices(values: Floats, trend: Floats, length: int) -> tuple[Floats, Floats]:
    """Factors and offsets (rows, length): one of them is neutral, by whether effects multiply.

    Twice, since the trend of a series without its season is the better one; the first time, for
    the trend alone, all cycles count the same.
    """
    zeros = (values == 0).sum(axis=1)
    few = zeros <= ADDITIVE_ZEROS * (~np.isnan(values)).sum(axis=1)
    multiplies = ((np.fmin.reduce(values, axis=1) >= 0) & few)[:, None]
    factor, offset = _effects(values, trend, length, multiplies=multiplies, moves=False)
    steps = np.arange(-values.shape[1], 0) % length
    trend = _trend((values - offset[:, steps]) / factor[:, steps], length)
    return _effects(values, trend, length, multiplies=multiplies, moves=True)


def _effects(
    values: Floats, trend: Floats, length: int, *, multiplies: Flags, moves: bool
) -> tuple[Floats, Floats]:
    """Factors and offsets (rows, length) of the phases about a trend, which may move."""
    with np.errstate(invalid="ignore", divide="ignore"):
        ratio = np.where(trend > 0, values / trend, np.nan)
    effect = np.where(multiplies, ratio - 1, values - trend)
    cycles = _clipped(_cycles(effect, length))
    weights = _recency(cycles) if moves else np.ones((len(cycles), cycles.shape[1], 1))
    index = _smoothed(_shrunk(cycles, weights))
    factor = np.clip(1 + index, 1 / INDEX_LIMIT, INDEX_LIMIT)
    return np.where(multiplies, factor, 1.0), np.where(multiplies, 0.0, index)


def _smoothed(index: Floats) -> Floats:
    """Of a long season few cycles are seen, but neighbouring phases are alike."""
    if index.shape[1] < SMOOTHED_LENGTH:
        return index
    beside = np.roll(index, 1, axis=1) + np.roll(index, -1, axis=1)
    return (1 - 2 * SMOOTHING) * index + SMOOTHING * beside


def _clipped(cycles: Floats) -> Floats:
    """Outliers pulled to three robust standard deviations from their phase's median."""
    centre = _median(cycles, axis=1)[:, None, :]
    residual = cycles - centre
    spread = 1.4826 * _median(np.abs(residual).reshape(len(cycles), -1), axis=1)
    limit = np.where(spread > 0, 3 * spread, np.inf)[:, None, None]
    return centre + np.clip(residual, -limit, limit)


def _median(values: Floats, *, axis: int) -> Floats:
    """Median of what is not NaN, 0 where nothing is; numpy's own goes row by row."""
    ordered: Floats = np.sort(values, axis=axis)
    count = (~np.isnan(values)).sum(axis=axis)
    middle = (np.maximum(count - 1, 0) // 2, np.maximum(count, 1) // 2)
    ends = [np.take_along_axis(ordered, np.expand_dims(i, axis), axis) for i in middle]
    return np.where(count > 0, (ends[0] + ends[1]).squeeze(axis) / 2, 0.0)


def _recency(cycles: Floats) -> Floats:
    """(rows, cycles, 1) weights of the cycles: later ones count more where the season moves.

    Of several discounts a cycle each foretells every cycle from those before it, as seasonal
    exponential smoothing does; the likelihood of what came says how much each is believed.
    """
    seen = ~np.isnan(cycles).transpose(1, 0, 2)  # (cycles, rows, length) from here on
    values = np.where(seen, cycles.transpose(1, 0, 2), 0.0)
    discounts = np.array(DISCOUNTS)[:, None]
    sums, weights = (_discounted(part, discounts) for part in (values, 1.0 * seen))
    foretold = seen & (weights > 0)
    error = np.where(foretold, values - sums / np.where(weights > 0, weights, 1.0), 0.0)
    count = foretold[0].sum(axis=(0, 2))
    variance = np.square(error).sum(axis=(1, 3)) / np.maximum(count, 1)
    likelihood = -0.5 * count * np.log(np.maximum(variance, 1e-12))
    share = np.exp(likelihood - likelihood.max(axis=0))
    share /= share.sum(axis=0)
    lived = ~np.isnan(cycles).all(axis=2)  # a row begins with its first observation
    age = np.arange(cycles.shape[1], dtype=np.float64)[::-1]
    each = np.asarray(discounts[:, None] ** age * lived, dtype=np.float64)
    each = each / np.maximum(each.sum(axis=2, keepdims=True), 1e-300)
    return np.asarray(np.einsum("dr,drc->rc", share, each)[:, :, None])


def _discounted(values: Floats, discounts: Floats) -> Floats:
    """(cycles, …) → (discounts, cycles, …) sums of the cycles before each, by discount and age."""
    age = np.arange(len(values))
    lag = age[:, None] - age[None, :] - 1
    before = np.where(lag >= 0, discounts[:, :, None] ** np.maximum(lag, 0), 0.0)
    flat = before.reshape(-1, len(values)) @ values.reshape(len(values), -1)
    return flat.reshape(len(discounts), *values.shape)


def _shrunk(cycles: Floats, weights: Floats) -> Floats:
    """(rows, length) weighted means of the phases about their common mean, shrunk (James, Stein).

    The share kept is 1 - 1 / F: F the variance of the means over what the scatter within the
    phases would give them. weights: (rows, cycles, 1).
    """
    seen = ~np.isnan(cycles)
    filled, counted = np.where(seen, cycles, 0.0), seen * 1.0
    along = weights.transpose(0, 2, 1)
    total, square = (along @ counted)[:, 0], (along**2 @ counted)[:, 0]
    present = total > 0
    safe = np.where(present, total, 1.0)
    count = safe**2 / np.where(present, square, 1.0)  # as if so many cycles
    mean = (along @ filled)[:, 0] / safe
    phases = np.maximum(present.sum(axis=1), 2)
    mean = np.where(present, mean - _over(mean, present)[:, None], 0.0)
    each = np.ones((1, cycles.shape[1]))
    alone = (each @ filled) / np.maximum(each @ counted, 1)
    within = np.where(seen, cycles - alone, 0.0).reshape(len(cycles), -1)
    freedom = np.maximum(counted.reshape(len(cycles), -1).sum(axis=1) - phases, 1)
    noise = np.einsum("rt,rt->r", within, within) / freedom
    per_mean = _over(1.0 / np.maximum(count, 1), present)
    between = (mean**2).sum(axis=1) / (phases - 1)
    with np.errstate(invalid="ignore", divide="ignore"):
        kept = np.where(between > 0, 1 - SHRINKAGE * noise * per_mean / between, 0.0)
    return np.asarray(mean * np.clip(kept, 0.0, 1.0)[:, None])


def _over(values: Floats, present: Flags, *, axis: int = 1) -> Floats:
    """Mean over an axis of what is present."""
    return np.asarray(
        np.where(present, values, 0.0).sum(axis=axis) / np.maximum(present.sum(axis=axis), 1)
    )
