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
from functools import lru_cache
from math import gcd
from typing import TypeVar

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray
from scipy.fft import next_fast_len

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
#: Up to so many lags, their products are summed directly.
DIRECT_LAGS = 20
#: Up to so many cycles are put in order by exchanging neighbours, which is faster than sorting.
FEW_CYCLES = 4

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
    share: Floats  # (part,) of what the phases' means show, so much is the season's

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

    @property
    def shares(self) -> tuple[tuple[int, Floats], ...]:
        """Each season's length and (rows,) how much of its phases' means it took, 0 where none."""
        answer = []
        for layer in self.layers:
            share = np.zeros(len(self.adjusted))
            share[layer.rows] = layer.share
            answer.append((layer.factor.shape[1], share))
        return tuple(answer)

    def restore(self, forecast: Floats) -> Floats:
        """(rows, levels, horizon) of the adjusted series → the same of the series; closed → 0.

        Column 0 of the horizon is the period after the last column of the values.
        """
        rows, steps = len(self.adjusted), np.arange(forecast.shape[-1])
        factor, offset = np.ones((rows, len(steps))), np.zeros((rows, len(steps)))
        closed = np.zeros((rows, len(steps)), dtype=np.bool_)
        for layer in reversed(self.layers):
            each = layer.along(layer.factor, steps)
            factor[layer.rows] *= each
            offset[layer.rows] = offset[layer.rows] * each + layer.along(layer.offset, steps)
            closed[layer.rows] |= layer.along(layer.closed, steps)
        answer = forecast * factor[:, None] + offset[:, None]
        return np.where(closed[:, None], 0.0, answer) if closed.any() else answer

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
    return _Layer(
        kept, layer.factor[part], layer.offset[part], layer.closed[part], layer.share[part]
    )


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
    season_free = values - layer.along(layer.offset, steps)
    season_free /= layer.along(layer.factor, steps)
    if layer.closed.any():
        season_free[layer.along(layer.closed, steps)] = np.nan
    return season_free


def _passes(values: Floats, seasons: Sequence[Seasons]) -> Iterator[tuple[Rows, int]]:
    """Rows and a season length for each pass, all shortest seasons before all longer ones."""
    guesses = iter(_guessed(values[[i for i, season in enumerate(seasons) if season is None]]))
    told = [next(guesses) if season is None else season for season in seasons]
    for depth in range(max((len(season) for season in told), default=0)):
        parts: dict[int, list[int]] = {}
        for row, season in enumerate(told):
            if depth < len(season) and season[depth] > 1:
                parts.setdefault(season[depth], []).append(row)
        for length in sorted(parts):
            yield np.array(parts[length], dtype=np.intp), length


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
            seen = _alike(~np.isnan(scaled[rows]))
            filled, window = np.where(seen, scaled[rows], 0.0), _window(seen, length)
            excess[i, rows] = _excess(filled - window.trend(filled), window, z=GUESSED_Z)
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
    values = _whole(values[:, -LATEST_CYCLES * length :], length)
    if closed.any():
        values[np.tile(closed, values.shape[1] // length)] = np.nan
    fit, factor, offset, share = _fitted(values, length)
    kept = fit | closed.any(axis=1)
    if not kept.any():
        return None
    if kept.all():
        return _Layer(rows, factor, offset, closed, share)
    return _Layer(rows[kept], factor[kept], offset[kept], closed[kept], share[kept])


def _fitted(values: Floats, length: int) -> tuple[Flags, Floats, Floats, Floats]:
    """Which of the rows (rows, whole cycles) have a season, its factors, offsets and shares."""
    fit, factor = np.zeros(len(values), dtype=np.bool_), np.ones((len(values), length))
    offset, share = np.zeros_like(factor), np.zeros(len(values))
    scale = _magnitude(values)
    seen = _alike(~np.isnan(values))
    filled = np.where(seen, values / scale, 0.0)
    rows, multiplies = _regular(values / scale, filled, seen, length)
    if len(rows):
        filled, seen = filled[rows], seen if len(seen) == 1 else seen[rows]
        window = _window(seen, length)
        trend = window.trend(filled)
        borne = _excess(filled - trend, window, z=TOLD_Z) > 0
        rows = rows[borne]
        if len(rows):
            factor[rows], shift, share[rows] = _indices(
                filled[borne], trend[borne], window.take(borne), multiplies[rows]
            )
            offset[rows] = shift * scale[rows]
            fit[rows] = True
    return fit, factor, offset, share


def _alike(flags: Flags) -> Flags:
    """The first row alone if all rows are alike, so that what follows from it is done once."""
    return flags[:1] if (flags == flags[:1]).all() else flags


def _magnitude(values: Floats) -> Floats:
    """(rows, 1) largest absolute value of each row, 1 where there is none."""
    low, high = np.fmin.reduce(values, axis=1), np.fmax.reduce(values, axis=1)
    largest = np.fmax(np.fmax(high, -low), 0.0)[:, None]
    return np.where(largest > 0, largest, 1.0)


def _scaled(values: Floats) -> Floats:
    return values / _magnitude(values)


def _spans(values: Floats, periods: int) -> Flags:
    """Rows whose observations reach over so many periods, with few gaps between them."""
    return _spanned(~np.isnan(values), periods)


def _spanned(seen: Flags, periods: int) -> Flags:
    count = seen.sum(axis=1)
    span = np.where(count > 0, seen.shape[1] - seen.argmax(axis=1), 0)
    return np.asarray((span >= periods) & (count >= 0.5 * span))


def _regular(values: Floats, filled: Floats, seen: Flags, length: int) -> tuple[Rows, Flags]:
    """Rows that are long enough, not constant and not intermittent; (rows, 1) who multiplies.

    values have NaN and filled 0 where nothing is seen.
    """
    count = np.maximum(seen.sum(axis=1), 1)
    zeros = seen.sum(axis=1) - (filled != 0).sum(axis=1)
    low, high = np.fmin.reduce(values, axis=1), np.fmax.reduce(values, axis=1)
    regular = (zeros <= INTERMITTENT_SHARE * count) & (np.nan_to_num(high - low) > 1e-9)
    multiplies = (low >= 0) & (zeros <= ADDITIVE_ZEROS * seen.sum(axis=1))
    return np.flatnonzero(regular & _spanned(seen, TOLD_CYCLES * length)), multiplies[:, None]


def _whole(values: Floats, length: int) -> Floats:
    """(rows, time) → a copy led by NaN to whole cycles; the last column is the last phase."""
    count = -(-values.shape[1] // length)
    answer = np.full((len(values), count * length), np.nan)
    answer[:, answer.shape[1] - values.shape[1] :] = values
    return answer


def _cycles(values: NDArray[Entry], length: int) -> NDArray[Entry]:
    """(rows, whole cycles) → (rows, cycles, length)."""
    return values.reshape(len(values), -1, length)


def _closed_phases(values: Floats, length: int) -> Flags:
    """(rows, length) phases that are zero too often and too strictly for chance (1 %).

    The chance is that of `count` zeros at the rate of the other phases, in any of `length` phases.
    """
    if not (values == 0).any():
        return np.zeros((len(values), length), dtype=np.bool_)
    cycles = _cycles(_whole(values, length), length)
    seen = (~np.isnan(cycles)).sum(axis=1)
    zeros = (cycles == 0).sum(axis=1)
    shut = (seen >= GUESSED_CYCLES) & (zeros == seen)
    others, other_zeros = (np.where(shut, 0, n).sum(axis=1, keepdims=True) for n in (seen, zeros))
    rate = (other_zeros + 1.0) / (others + 2.0)
    unlikely = seen * np.log(rate) + np.log(length) < np.log(0.01)
    return np.asarray(shut & unlikely & (rate < INTERMITTENT_SHARE))


def _excess(detrended: Floats, window: "_Window", *, z: float) -> Floats:
    """(rows,) autocorrelation at the season over what chance allows, as the Theta method tests it.

    r_m > z sqrt((1 + 2 Σ_{k<m} r_k²) / n), Fiorucci et al. (2016); on the series without its
    moving average, so that a trend neither hides nor feigns a season.
    """
    length, usable = window.length, window.usable
    count = np.maximum(usable.sum(axis=1), 1)
    centred = detrended * usable
    centred -= (centred.sum(axis=1) / count)[:, None] * usable
    covariance = _autocovariance(centred, length)
    variance = covariance[:, :1]
    r = covariance / np.where(variance > 0, variance, 1.0)
    limit = z * np.sqrt((1 + 2 * np.square(r[:, 1:length]).sum(axis=1)) / count)
    return np.asarray(r[:, length] - limit)


def _autocovariance(centred: Floats, most: int) -> Floats:
    """(rows, most + 1) sums of products at lags 0 to most; by FFT if there are many."""
    rows, time = centred.shape
    if most <= DIRECT_LAGS:
        padded = np.zeros((rows, time + most))
        padded[:, :time] = centred
        shifted = sliding_window_view(padded, time, axis=1)  # (rows, lags, time)
        return np.asarray(np.einsum("rlt,rt->rl", shifted, centred))
    size = next_fast_len(time + most, real=True)
    transform = np.fft.rfft(centred, size)
    return np.fft.irfft(transform.real**2 + transform.imag**2, size)[:, : most + 1]


@dataclass(frozen=True, slots=True, eq=False)
class _Window:
    """What a moving average over one season needs to know of the gaps of some rows.

    Every array has one row for each row of values, or one for all if their gaps are alike. The
    average has a column for every whole window: `inner` columns, fewer than there are periods.
    """

    length: int
    usable: Flags  # (rows, time) a value and a trend are there
    seen: Flags  # (rows, time)
    counts: Floats  # (rows, inner) observations in a window, 1 where they are too few
    position: Rows  # (rows, time) the inner column that stands for each period
    lead: Rows  # (rows, time) periods from the first average, 0 or less
    trail: Rows  # (rows, time) periods from the last average, 0 or more
    corners: Rows  # (rows, 4) inner columns: first, half a season later, the same from the last
    slopes: Floats  # (rows, 2) share a period of the gain between the corners at either end

    def trend(self, filled: Floats) -> Floats:
        """The centred mean of (rows, time), and half a season beyond along part of its slope.

        filled: 0 where missing; the answer holds where `usable`, and is finite everywhere.
        """
        inner = _sums(filled, self.length) / self.counts
        ends = _at(inner, self.corners)
        slopes = (ends[:, 1::2] - ends[:, ::2]) * self.slopes
        answer = _at(inner, self.position)
        answer += slopes[:, :1] * self.lead
        answer += slopes[:, 1:] * self.trail
        return answer

    def take(self, rows: Flags) -> "_Window":
        """The window of some of the rows."""
        if len(self.seen) == 1 or rows.all():
            return self
        return _window(_alike(self.seen[rows]), self.length)


def _window(seen: Flags, length: int) -> _Window:
    """The mean counts where half of what the row has elsewhere is observed in its window.

    The ends, where no whole season fits, have none; a row begins with its first observation, so
    that what it is padded with does not matter.
    """
    time, first, reach = seen.shape[1], seen.argmax(axis=1)[:, None], max(length // 2, 1)
    counts = _sums(seen.astype(np.float64), length)
    share = seen.sum(axis=1, keepdims=True) / np.maximum(time - first, 1)
    known = np.arange(counts.shape[1]) >= first
    known &= (counts >= 0.5 * length * share) & (counts > 0)
    start = known.argmax(axis=1)[:, None]
    end = counts.shape[1] - 1 - known[:, ::-1].argmax(axis=1)[:, None]
    near, far = np.minimum(start + reach, end), np.maximum(end - reach, start)
    column = np.arange(time) - length // 2
    lead, trail = np.minimum(column - start, 0), np.maximum(column - end, 0)
    position = column - lead - trail
    reached = (lead >= -reach) & (trail <= reach) & _at(known, position)
    return _Window(
        length,
        usable=seen & reached,
        seen=seen,
        counts=np.where(known, counts, 1.0),
        position=position,
        lead=lead,
        trail=trail,
        corners=np.concatenate([start, near, far, end], axis=1),
        slopes=END_SLOPE / reach * np.concatenate([_at(known, near), _at(known, far)], axis=1),
    )


def _at(values: NDArray[Entry], columns: Rows) -> NDArray[Entry]:
    """Of each row of values the columns (1 or rows, count)."""
    if len(columns) == 1:
        return np.asarray(values.take(columns[0], axis=1), dtype=values.dtype)
    return np.asarray(np.take_along_axis(values, columns, axis=1), dtype=values.dtype)


def _sums(values: Floats, length: int) -> Floats:
    """Sums over whole windows of `length`, the mean of two neighbours' if it is even (2×m)."""
    total = np.zeros((len(values), values.shape[1] + 1))
    np.cumsum(values, axis=1, out=total[:, 1:])
    sums = total[:, length:] - total[:, :-length]
    return sums if length % 2 else (sums[:, 1:] + sums[:, :-1]) / 2


def _indices(
    filled: Floats, trend: Floats, window: _Window, multiplies: Flags
) -> tuple[Floats, Floats, Floats]:
    """Factors and offsets (rows, length), one of them neutral, and the share (rows,) not shrunk.

    Twice, since the trend of a series without its season is the better one; the first time, for
    the trend alone, all cycles count the same.
    """
    length = window.length
    phases = _phases(window.usable, length)
    effects, same = _effects(filled, trend, phases, multiplies)
    factor, offset = _kinds(same.index(effects, None)[0], multiplies)
    flat = (_cycles(filled, length) - offset[:, None]) / factor[:, None]
    flat *= _cycles(window.seen, length)
    trend = window.trend(flat.reshape(filled.shape))
    effects, same = _effects(filled, trend, phases, multiplies)
    index, share = same.index(effects, _recency(effects, same.seen))
    return *_kinds(index, multiplies), share


def _kinds(index: Floats, multiplies: Flags) -> tuple[Floats, Floats]:
    factor = np.clip(1 + index, 1 / INDEX_LIMIT, INDEX_LIMIT)
    return np.where(multiplies, factor, 1.0), np.where(multiplies, 0.0, index)


def _effects(
    filled: Floats, trend: Floats, phases: "_Phases", multiplies: Flags
) -> tuple[Floats, "_Phases"]:
    """(rows, cycles, length) what phases differ by from a trend, 0 where unknown; what is known.

    Without outliers. A factor is unknown where the trend is not positive.
    """
    length = phases.seen.shape[2]
    impossible = multiplies & (trend <= 0)
    if impossible.any():
        seen = phases.seen.reshape(len(phases.seen), -1)
        phases = _phases(seen & ~impossible, length)
    by = np.where(multiplies & ~impossible, trend, 1.0)
    return phases.clipped(_cycles((filled - trend) / by, length)), phases


@dataclass(frozen=True, slots=True, eq=False)
class _Phases:
    """What is known of the phases' effects; of one row for all rows if it is alike."""

    seen: Flags  # (rows, cycles, length)
    count: Floats  # (rows, length)

    def clipped(self, effects: Floats) -> Floats:
        """Outliers pulled to three robust standard deviations from their phase's median."""
        centre = self._centre(np.where(self.seen, effects, np.inf))[:, None]
        residual = effects - centre
        size = np.where(self.seen, np.abs(residual), np.inf).reshape(len(effects), -1)
        spread = 1.4826 * _middle(size, self.count.sum(axis=1, keepdims=True).astype(np.intp))
        limit = np.where(spread > 0, 3 * spread, np.inf)[:, :, None]
        kept = np.minimum(np.maximum(residual, -limit), limit)
        kept += centre
        return kept * self.seen

    def _centre(self, cycles: Floats) -> Floats:
        """(rows, length) median of what is seen, 0 where nothing is; the rest is infinite."""
        ordered, count = _ordered(cycles), self.count.astype(np.intp)
        ends = [
            np.take_along_axis(ordered, np.broadcast_to(i, (len(ordered), i.shape[1]))[:, None], 1)
            for i in _ends(count)
        ]
        return np.where(count > 0, (ends[0] + ends[1])[:, 0] / 2, 0.0)

    def index(self, effects: Floats, weights: Floats | None) -> tuple[Floats, Floats]:
        """(rows, length) means of the phases about their common mean, shrunk (James, Stein).

        The share kept, (rows,), is 1 - 1 / F: F the variance of the means over what the scatter
        within the phases would give them. weights: (rows, cycles) of the cycles, None if all are
        the same.
        """
        present, number = self.count > 0, (self.count > 0).sum(axis=1)
        sums, several = effects.sum(axis=1), np.maximum(self.count, 1)
        mean, count = sums / several, several
        scatter = np.einsum("rcm,rcm->r", effects, effects) - (sums * mean).sum(axis=1)
        if weights is not None:
            mean, count = self._weighted(effects, weights)
        phases = np.maximum(number, 2)
        mean = (mean - (mean.sum(axis=1) / np.maximum(number, 1))[:, None]) * present
        noise = np.maximum(scatter, 0.0) / np.maximum(self.count.sum(axis=1) - phases, 1)
        per_mean = (present / np.maximum(count, 1)).sum(axis=1) / np.maximum(number, 1)
        between = np.square(mean).sum(axis=1) / (phases - 1)
        kept = 1 - SHRINKAGE * noise * per_mean / np.where(between > 0, between, 1.0)
        kept = np.minimum(np.maximum(kept, 0.0), 1.0)
        return _smoothed(mean * kept[:, None]), kept

    def _weighted(self, effects: Floats, weights: Floats) -> tuple[Floats, Floats]:
        """(rows, length) weighted means of the phases, and as if of how many cycles they were."""
        along, seen = weights[:, None], self.seen.astype(np.float64)
        total, square = (along @ seen)[:, 0], (along**2 @ seen)[:, 0]
        safe = np.where(total > 0, total, 1.0)
        return (along @ effects)[:, 0] / safe, safe**2 / np.where(total > 0, square, 1.0)


def _phases(usable: Flags, length: int) -> _Phases:
    seen = _cycles(_alike(usable), length)
    return _Phases(seen, seen.sum(axis=1, dtype=np.float64))


def _smoothed(index: Floats) -> Floats:
    """Of a long season few cycles are seen, but neighbouring phases are alike."""
    if index.shape[1] < SMOOTHED_LENGTH:
        return index
    beside = np.roll(index, 1, axis=1) + np.roll(index, -1, axis=1)
    return (1 - 2 * SMOOTHING) * index + SMOOTHING * beside


def _ordered(cycles: Floats) -> Floats:
    """Sorted along the cycles."""
    if cycles.shape[1] > FEW_CYCLES:
        return np.asarray(np.sort(cycles, axis=1))
    for last in range(cycles.shape[1] - 1, 0, -1):
        for i in range(last):
            pair = cycles[:, i], cycles[:, i + 1]
            cycles[:, i], cycles[:, i + 1] = np.minimum(*pair), np.maximum(*pair)
    return cycles


def _ends(count: Rows) -> tuple[Rows, Rows]:
    """Places of the two middle ones of so many in order."""
    return np.maximum(count - 1, 0) // 2, np.maximum(count, 1) // 2


def _middle(values: Floats, count: Rows) -> Floats:
    """(rows, 1) medians of the count (1 or rows, 1) smallest values of each row, 0 of none."""
    ends = np.concatenate(_ends(count), axis=1)
    alike = len(count) == 1
    ordered = np.partition(values, ends[0], axis=1) if alike else np.sort(values, axis=1)
    return np.where(count > 0, _at(ordered, ends).sum(axis=1, keepdims=True) / 2, 0.0)


def _recency(effects: Floats, seen: Flags) -> Floats:
    """(rows, cycles) weights of the cycles: later ones count more where the season moves.

    Of several discounts a cycle each foretells every cycle from those before it, as seasonal
    exponential smoothing does; the likelihood of what came says how much each is believed.
    effects: (rows, cycles, length), 0 where not seen.
    """
    values, known = effects.transpose(1, 0, 2), seen.transpose(1, 0, 2)  # (cycles, rows, length)
    sums, weights = _discounted(values), _discounted(known.astype(np.float64))
    foretold = known & (weights[0] > 0)
    sums *= foretold / np.where(weights > 0, weights, 1.0)
    sums -= values * foretold
    np.square(sums, out=sums)
    count = foretold.sum(axis=(0, 2))
    variance = sums.sum(axis=1).sum(axis=2) / np.maximum(count, 1)
    likelihood = -0.5 * count * np.log(np.maximum(variance, 1e-12))
    share = np.exp(likelihood - likelihood.max(axis=0))
    share /= share.sum(axis=0)
    each = _ages(seen.shape[1])[:, None] * seen.any(axis=2)  # a row begins with its first one
    each /= np.maximum(each.sum(axis=2, keepdims=True), 1e-300)
    return np.asarray(np.einsum("dr,drc->rc", share, each))


def _discounted(values: Floats) -> Floats:
    """(cycles, …) → (discounts, cycles, …) sums of the cycles before each, by discount and age."""
    flat = _before(len(values)) @ values.reshape(len(values), -1)
    return flat.reshape(len(DISCOUNTS), *values.shape)


def _ages(cycles: int) -> Floats:
    """(discounts, cycles) weights by age, the last cycle's 1."""
    ages: Floats = np.array(DISCOUNTS)[:, None] ** np.arange(cycles, dtype=np.float64)[::-1]
    return ages


@lru_cache(maxsize=LATEST_CYCLES)
def _before(cycles: int) -> Floats:
    """(discounts * cycles, cycles) weights of the cycles before each."""
    lag = np.subtract.outer(np.arange(cycles), np.arange(cycles)) - 1
    powers = np.array(DISCOUNTS)[:, None, None] ** np.maximum(lag, 0)
    return np.where(lag >= 0, powers, 0.0).reshape(-1, cycles)
