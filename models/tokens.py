"""Customers → what the events network reads; the same code in training and in serving.

Invariant: the tokens of a customer depend on that customer and its shop's context alone, and every
number of them is finite.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from models.base import EVENT_TYPES, PURCHASE, FloatArray
from models.customers import (
    CONTEXT_SIZE,
    Flags,
    Ints,
    Population,
    amount_scale,
    cell_of,
    customer_of,
    population_of,
    tables_of,
)

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Singles = NDArray[np.float32]

ScalarT = TypeVar("ScalarT", bound=np.generic)

ITEM_BUCKETS, CATEGORY_BUCKETS = 8192, 1024  # bucket 0 is for none
KINDS = len(EVENT_TYPES)
LATELY = (2.0, 7.0, 30.0, 90.0)  # days
LONG_AGO = 8.0  # what a logarithm of days says of what never was


@dataclass(frozen=True, slots=True, eq=False)
class Tokens:
    """(rows, …) each; events are newest first, and present is False where there is none.

    query: (rows, QUERY_SIZE). events: (rows, length, EVENT_SIZE). types, items, categories,
    present: (rows, length). shop: (rows,) index into contexts: (shops, CONTEXT_SIZE), of which
    known: (shops,) says whether there is one. scale: (rows,) the amount that amounts are relative
    to, NaN where no amount is known.
    """

    query: Singles
    events: Singles
    types: Ints
    items: Ints
    categories: Ints
    present: Flags
    shop: Ints
    contexts: Singles
    known: Flags
    scale: FloatArray

    def __len__(self) -> int:
        return len(self.query)

    def take(self, rows: Ints) -> Tokens:
        """These rows, cut to the longest of them."""
        longest = int(self.present[rows].sum(axis=1).max(initial=0))
        wide = ("events", "types", "items", "categories", "present")
        parts = {name: getattr(self, name)[rows, :longest] for name in wide}
        return replace(
            self, query=self.query[rows], shop=self.shop[rows], scale=self.scale[rows], **parts
        )


def tokens_of(
    crowd: Population,
    *,
    contexts: FloatArray,
    known: Flags,
    shop: Ints,
    year_phase: FloatArray,
    weekday: Ints,
    length: int,
) -> Tokens:
    """The tokens of all customers of a population, which may be of several shops.

    contexts: (shops, CONTEXT_SIZE). known: (shops,). shop, year_phase, weekday: (customers,).
    length: the most events of a customer that are read, the latest.
    """
    contexts = np.where(known[:, None], contexts, 0.0)
    scale = _scale(crowd, contexts[shop])
    facts = _Facts(crowd)
    groups = {
        "tenure": facts.tenure(),
        "recency": facts.recency(),
        "frequency": facts.frequency(scale),
        "season": _season(year_phase, weekday),
        "shop": facts.standing(contexts[shop], known[shop]),
    }
    query = np.concatenate(list(groups.values()), axis=1)
    events, place = _events(crowd, scale, length)
    return Tokens(
        query=_bounded(query),
        events=place.laid(_bounded(events)),
        types=place.laid(crowd.types.astype(np.int64)[place.kept]),
        items=place.laid(_bucket(crowd.items[place.kept], ITEM_BUCKETS)),
        categories=place.laid(_bucket(crowd.categories[place.kept], CATEGORY_BUCKETS)),
        present=place.laid(np.ones(len(place.row), dtype=np.bool_)),
        shop=shop,
        contexts=contexts.astype(np.float32),
        known=known,
        scale=scale,
    )


def joined(crowds: list[Population]) -> Population:
    """Several populations as one."""
    starts, first = [np.zeros(1, dtype=np.int64)], 0
    for crowd in crowds:
        starts.append(crowd.starts[1:] + first)
        first += int(crowd.starts[-1])
    names = [field.name for field in fields(Population) if field.name != "starts"]
    parts = {name: np.concatenate([getattr(crowd, name) for crowd in crowds]) for name in names}
    return Population(starts=np.concatenate(starts), **parts)


def chosen(crowd: Population, rows: Ints, *, most_events: int | None = None) -> Population:
    """Some customers, with no more than the latest `most_events` events; counts stay."""
    sizes = np.diff(crowd.starts)[rows]
    kept = sizes if most_events is None else np.minimum(sizes, most_events)
    starts = np.concatenate(([0], np.cumsum(kept)))
    first = crowd.starts[rows] + sizes - kept
    index = np.repeat(first - starts[:-1], kept) + np.arange(starts[-1])
    parts = {name: getattr(crowd, name)[index] for name in _FLAT}
    counted = [f.name for f in fields(Population) if f.name not in {"starts", *_FLAT}]
    return Population(
        starts=starts, **parts, **{name: getattr(crowd, name)[rows] for name in counted}
    )


_FLAT = ("days_ago", "types", "amounts", "quantities", "items", "categories")


def blanked(crowd: Population, rows: Ints) -> Population:
    """The population in which these customers have never been seen."""
    gone = np.zeros(len(crowd), dtype=np.bool_)
    gone[rows] = True
    kept = ~np.repeat(gone, np.diff(crowd.starts))
    sizes = np.where(gone, 0, np.diff(crowd.starts))
    parts = {name: getattr(crowd, name)[kept] for name in _FLAT}
    return Population(
        starts=np.concatenate(([0], np.cumsum(sizes))),
        **parts,
        first_days_ago=np.where(gone, np.nan, crowd.first_days_ago),
        first_purchase_days_ago=np.where(gone, np.nan, crowd.first_purchase_days_ago),
        purchase_days=np.where(gone, 0, crowd.purchase_days),
        spend=np.where(gone, 0.0, crowd.spend),
        spend_days=np.where(gone, 0, crowd.spend_days),
        observed_days=np.where(gone, np.nan, crowd.observed_days),
        truncated=crowd.truncated & ~gone,
    )


# --- the query -------------------------------------------------------------------------------


class _Facts:
    """What the query token says of customers; each group is (customers, size)."""

    def __init__(self, crowd: Population) -> None:
        self.crowd, self.count = crowd, len(crowd)
        self.owner = crowd.owner
        bought = crowd.types == PURCHASE
        self.buyer, self.bought_days = self.owner[bought], crowd.days_ago[bought]
        self.bought_starts = np.searchsorted(self.buyer, np.arange(self.count + 1))
        self.last = self._last_by_kind()
        self.since = self.last[:, PURCHASE]  # days, infinite where never
        self.buys = crowd.purchase_days > 0
        event = self.last.min(axis=1, initial=np.inf)
        self.latest = np.where(np.isfinite(self.since), self.since, event)
        self.events = np.diff(crowd.starts)

    def tenure(self) -> FloatArray:
        crowd = self.crowd
        first, bought = crowd.first_days_ago, crowd.first_purchase_days_ago
        observed = crowd.observed_days
        return _columns(
            _log_days(bought),
            _waves(_log_days(bought), 3),
            _log_days(first),
            _log_days(observed),
            np.isfinite(observed),
            np.where(np.isfinite(observed), _log_days(observed - np.nan_to_num(first)), 0.0),
            crowd.truncated,
            self.events > 0,
            self.buys,
        )

    def recency(self) -> FloatArray:
        first = self.crowd.first_purchase_days_ago
        since = np.where(np.isfinite(self.since), self.since, np.nan)
        lived = np.where(self.buys, 1 - since / np.maximum(first, 1e-3), 0.0)
        parts = [_log_days(since), _waves(_log_days(since), 4), np.nan_to_num(lived)]
        parts += [_log_days(self.last), np.isfinite(self.last)]
        parts += [self.latest < 1.5, np.log(np.minimum(self.latest, 3000) + 0.02) / 3]
        for days in LATELY:
            near = self.crowd.days_ago <= days
            code = self.owner[near] * KINDS + self.crowd.types[near]
            number = np.bincount(code, minlength=self.count * KINDS)
            parts.append(np.log1p(number.reshape(self.count, KINDS)))
        return _columns(*parts)

    def frequency(self, scale: FloatArray) -> FloatArray:
        crowd = self.crowd
        bought = crowd.purchase_days
        span = np.nan_to_num(crowd.first_purchase_days_ago)
        gaps = self._gaps()
        mean = gaps[:, 0]
        waited = np.where(np.isfinite(self.since), self.since, 0.0) / np.maximum(mean, 0.5)
        each = crowd.spend / np.maximum(crowd.spend_days, 1)
        relative = np.log(np.maximum(each, 1e-9) / np.where(scale > 0, scale, 1.0))
        several = bought > 1
        parts = [np.log1p(bought), bought[:, None] == np.arange(5)]
        parts += [np.log((bought + 0.3) / (span + 20)), np.log(np.maximum(bought - 1, 0.3)) / 2]
        parts += [np.where(several, np.log1p(gaps.T) / 3, 0.0).T]
        parts += [np.where(several, np.log(waited + 0.02), 0.0)]
        parts += [np.where(several, np.clip(waited, 0, 6) / 2, 0.0)]
        parts += [np.log1p(self._number_by_kind())]
        parts += [np.log1p(self._number_within(days)) for days in (14, 60, 180, 365)]
        parts += [np.log1p(crowd.spend_days), np.where(each > 0, np.clip(relative, -4, 4), 0.0)]
        return _columns(*parts)

    def standing(self, contexts: FloatArray, known: Flags) -> FloatArray:
        """Of the shop's back-tests, the cell that the customer is in; and what the shop has."""
        tables = tables_of(contexts)  # (customers, windows, cells, 2)
        recency = np.where(np.isfinite(self.latest), self.latest, 1e4)
        cell = cell_of(recency, self.crowd.purchase_days)
        own = tables[np.arange(self.count), :, cell].reshape(self.count, -1)
        active = np.isfinite(self.latest)
        return _columns(np.where(active[:, None], own, 0.0), known, amount_scale(contexts) > 0)

    def _last_by_kind(self) -> FloatArray:
        """(customers, kinds) days since the last event of each type, infinite where never."""
        last = np.full(self.count * KINDS, np.inf)
        code = self.owner * KINDS + self.crowd.types
        last[code] = self.crowd.days_ago  # oldest first: the last written is the latest
        return last.reshape(self.count, KINDS)

    def _number_by_kind(self) -> FloatArray:
        code = self.owner * KINDS + self.crowd.types
        number = np.bincount(code, minlength=self.count * KINDS)
        return number.reshape(self.count, KINDS).astype(np.float64)

    def _number_within(self, days: float) -> Ints:
        return np.bincount(self.buyer[self.bought_days <= days], minlength=self.count)

    def _gaps(self) -> FloatArray:
        """(customers, 6): mean gap of all purchases, deviation, the three latest, the median of
        the latest eight; 0 where there is none.
        """
        gaps = np.zeros((self.count, 6))
        crowd = self.crowd
        between = crowd.first_purchase_days_ago - self.since
        gaps[:, 0] = np.nan_to_num(between / np.maximum(crowd.purchase_days - 1, 1), posinf=0.0)
        place = self.bought_starts[1:, None] - np.arange(1, 10)  # (customers, 9), newest first
        inside = place >= self.bought_starts[:-1, None]
        source = self.bought_days if len(self.bought_days) else np.zeros(1)
        days = np.where(inside, source[np.clip(place, 0, len(source) - 1)], np.nan)
        latest = np.diff(days, axis=1)  # (customers, 8)
        gaps[:, 2:5] = np.nan_to_num(latest[:, :3])
        some = ~np.isnan(latest[:, 0])
        gaps[some, 1] = np.nanstd(latest[some], axis=1)
        gaps[some, 5] = _medians(latest[some])
        return np.maximum(gaps, 0.0)


def _season(year_phase: FloatArray, weekday: Ints) -> FloatArray:
    angles = 2 * np.pi * year_phase
    waves = [wave(k * angles) for k in (1, 2, 3) for wave in (np.sin, np.cos)]
    return _columns(*waves, weekday[:, None] == np.arange(7))


def _scale(crowd: Population, contexts: FloatArray) -> FloatArray:
    """The shop's mean amount; without one the customer's own."""
    own = np.where(crowd.spend_days > 0, crowd.spend / np.maximum(crowd.spend_days, 1), np.nan)
    shop = amount_scale(contexts)
    scale = np.where(np.isnan(shop), own, shop)
    return np.where(scale > 0, scale, np.where(np.isnan(scale), np.nan, 1e-6))


# --- events ----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, eq=False)
class _Places:
    """Where kept events go: kept, row, column: (kept events,); shape of what is laid out."""

    kept: Ints
    row: Ints
    column: Ints
    shape: tuple[int, int]

    def laid(self, values: NDArray[ScalarT]) -> NDArray[ScalarT]:
        out = np.zeros((*self.shape, *values.shape[1:]), dtype=values.dtype)
        out[self.row, self.column] = values
        return out


def _places(crowd: Population, length: int) -> _Places:
    owner = crowd.owner
    column = crowd.starts[1:][owner] - 1 - np.arange(len(owner))  # newest first
    kept = np.flatnonzero(column < length)
    longest = min(int(np.diff(crowd.starts).max(initial=0)), length)
    return _Places(kept, owner[kept], column[kept], (len(crowd), longest))


def _events(crowd: Population, scale: FloatArray, length: int) -> tuple[FloatArray, _Places]:
    """(kept events, EVENT_SIZE): when, how long after the one before, how much, how many."""
    place = _places(crowd, length)
    kept, row = place.kept, place.row
    if not len(kept):
        return np.zeros((0, EVENT_SIZE)), place
    days, items = crowd.days_ago[kept], crowd.items[kept]
    before = np.maximum(kept - 1, 0)
    has_before = kept > crowd.starts[row]
    gap = np.where(has_before, crowd.days_ago[before] - days, np.nan)
    after = np.minimum(kept + 1, len(crowd.items) - 1)
    has_after = kept + 1 < crowd.starts[row + 1]
    since = _since_purchase(crowd)[kept]
    amount = crowd.amounts[kept] / scale[row]
    quantity = crowd.quantities[kept]
    known = items >= 0
    return _columns(
        _log_days(days),
        _waves(_log_days(days), 6),
        _log_days(gap),
        _waves(_log_days(gap), 3),
        has_before,
        _log_days(since),
        np.isfinite(since),
        *(wave(2 * np.pi * days / period) for period in (7.0, 30.4) for wave in (np.sin, np.cos)),
        np.where(amount > 0, np.clip(np.log(np.maximum(amount, 1e-6)), -4, 4), 0.0),
        amount > 0,
        np.log1p(np.clip(np.nan_to_num(quantity), 0, 1e6)),
        known & has_before & (crowd.items[before] == items),
        known & has_after & (crowd.items[after] == items),
        known,
    ), place


def _since_purchase(crowd: Population) -> FloatArray:
    """(events,) days from the customer's latest earlier purchase to the event, NaN: none."""
    index = np.arange(len(crowd.types))
    bought = np.where(crowd.types == PURCHASE, index, -1)
    latest = np.maximum.accumulate(np.concatenate(([-1], bought[:-1])))
    known = latest >= crowd.starts[:-1][crowd.owner]
    days = crowd.days_ago[np.maximum(latest, 0)] - crowd.days_ago
    return np.where(known, np.maximum(days, 0.0), np.nan)


def _bucket(hashes: Ints, buckets: int) -> Ints:
    return np.where(hashes >= 0, 1 + hashes % (buckets - 1), 0)


# --- numbers ---------------------------------------------------------------------------------


def _log_days(days: FloatArray) -> FloatArray:
    """Logarithm of days, LONG_AGO where they are not finite."""
    finite = np.isfinite(days)
    return np.where(finite, np.log1p(np.maximum(np.where(finite, days, 0.0), 0.0)), LONG_AGO) / 3


def _waves(values: FloatArray, number: int) -> FloatArray:
    """(…, 2 * number) Fourier features of values of about 0 to 3."""
    angles = values[:, None] * (np.pi / 3 * 2.0 ** np.arange(number))
    return np.concatenate((np.sin(angles), np.cos(angles)), axis=1)


def _columns(*parts: NDArray[np.generic]) -> FloatArray:
    columns = [part[:, None] if part.ndim == 1 else part for part in parts]
    return np.concatenate([column.astype(np.float64) for column in columns], axis=1)


def _medians(values: FloatArray) -> FloatArray:
    """(rows,) of what is known of (rows, columns), of which something is."""
    count = (~np.isnan(values)).sum(axis=1)
    ordered, row = np.sort(values, axis=1), np.arange(len(values))  # NaN comes last
    return np.asarray((ordered[row, (count - 1) // 2] + ordered[row, count // 2]) / 2)


def _bounded(values: FloatArray) -> Singles:
    return np.clip(np.nan_to_num(values, copy=False), -20.0, 20.0).astype(np.float32)


def _sizes() -> tuple[int, dict[str, slice], int]:
    """Sizes of the query's groups and of an event, from a customer of one purchase."""
    bought = np.full(1, PURCHASE, dtype=np.int8)
    one = population_of([customer_of(np.zeros(1), bought, as_of=1.0)])
    facts, nothing = _Facts(one), np.full(1, np.nan)
    parts = {
        "tenure": facts.tenure(),
        "recency": facts.recency(),
        "frequency": facts.frequency(nothing),
        "season": _season(np.zeros(1), np.zeros(1, dtype=np.int64)),
        "shop": facts.standing(np.zeros((1, CONTEXT_SIZE)), np.zeros(1, dtype=np.bool_)),
    }
    slices, first = {}, 0
    for name, part in parts.items():
        slices[name] = slice(first, first + part.shape[1])
        first += part.shape[1]
    events, _ = _events(one, nothing, 1)
    return first, slices, events.shape[1]


EVENT_SIZE = 0
QUERY_SIZE, QUERY_GROUPS, EVENT_SIZE = _sizes()
