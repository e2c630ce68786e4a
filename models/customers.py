"""Customers and their shop: raw events → `Customer`; all customers of a shop → its context.

Invariant: purchases of one local day are one, what is counted is counted before anything is cut,
and a context depends on the set of customers alone, not on their order; it is always finite.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.base import EVENT_TYPES, PURCHASE, Customer, FloatArray

Ints = NDArray[np.int64]
Flags = NDArray[np.bool_]

WINDOWS = (14.0, 30.0, 60.0, 120.0)  # days before as_of at which a shop is asked what came then
RECENCY_EDGES = (7.0, 21.0, 60.0, 150.0)  # days; cells lie between them and beyond
FREQUENCY_EDGES = (1, 2, 4, 10, 30)  # purchase days; a cell begins at each, the first below 1
CELLS = (len(FREQUENCY_EDGES) + 1, len(RECENCY_EDGES) + 1)
MONTHS = 12
INTENT = tuple(EVENT_TYPES.index(name) for name in ("view", "favorite", "add_to_cart"))
QUANTILES = (0.1, 0.25, 0.5, 0.75, 0.9)


@dataclass(frozen=True, slots=True, eq=False)
class Population:
    """Many customers in flat arrays: the events of customer i lie at starts[i]:starts[i + 1].

    starts: (customers + 1,). days_ago to categories: (events,), oldest first within a customer.
    The rest: (customers,), as `Customer` says.
    """

    starts: Ints
    days_ago: FloatArray
    types: NDArray[np.int8]
    amounts: FloatArray
    quantities: FloatArray
    items: Ints
    categories: Ints
    first_days_ago: FloatArray
    first_purchase_days_ago: FloatArray
    purchase_days: Ints
    spend: FloatArray
    spend_days: Ints
    observed_days: FloatArray
    truncated: Flags

    def __len__(self) -> int:
        return len(self.starts) - 1

    @property
    def owner(self) -> Ints:
        """(events,) the customer of each event."""
        return np.repeat(np.arange(len(self)), np.diff(self.starts))


def customer_of(  # noqa: PLR0913 - the columns of a table
    times: FloatArray,
    types: NDArray[np.int8],
    *,
    as_of: float,
    amounts: FloatArray | None = None,
    quantities: FloatArray | None = None,
    items: Ints | None = None,
    categories: Ints | None = None,
    observed_from: float | None = None,
    most_events: int = 4096,
) -> Customer:
    """What a customer did before `as_of`, from raw events in any order.

    times: (events,) and as_of, observed_from: days since the epoch in local time. The others are
    (events,) or None where nothing is known. Purchases of one local day become one, at the time of
    its first line, with sums of amounts and quantities (NaN is ignored) and the item and category
    of the line of the largest amount. Of more than `most_events` the latest are kept.
    Raises ValueError for a time that is not finite or not before as_of.
    """
    times = np.asarray(times, dtype=np.float64)
    count = len(times)
    if count and not (np.isfinite(times).all() and times.max() < as_of):
        raise ValueError("every event must lie before as_of")
    columns = (
        times,
        np.asarray(types, dtype=np.int8),
        np.full(count, np.nan) if amounts is None else np.asarray(amounts, dtype=np.float64),
        np.full(count, np.nan) if quantities is None else np.asarray(quantities, dtype=np.float64),
        np.full(count, -1) if items is None else np.asarray(items, dtype=np.int64),
        np.full(count, -1) if categories is None else np.asarray(categories, dtype=np.int64),
    )
    order = np.argsort(times, kind="stable")
    merged = _merged(tuple(column[order] for column in columns))
    return _counted(merged, as_of, observed_from, most_events)


def _merged(columns: tuple[NDArray[np.generic], ...]) -> tuple[NDArray[np.generic], ...]:
    """Sorted events with the purchases of one local day made one, in order of time."""
    times, types, amounts, quantities, items, categories = columns
    bought = np.flatnonzero(types == PURCHASE)
    days = np.floor(times[bought].astype(np.float64))
    first = np.ones(len(bought), dtype=np.bool_)
    first[1:] = days[1:] != days[:-1]
    if first.all():
        return columns
    group = np.cumsum(first) - 1
    value = amounts[bought].astype(np.float64)
    rank = np.lexsort((np.arange(len(group)), -np.nan_to_num(value, nan=-np.inf), group))
    largest = bought[rank[np.flatnonzero(first)]]  # sorted by group: the first of each is its best
    head = bought[first]
    amounts, quantities = amounts.copy(), quantities.copy()
    items, categories = items.copy(), categories.copy()
    amounts[head] = _sums(value, group)
    quantities[head] = _sums(quantities[bought].astype(np.float64), group)
    items[head], categories[head] = items[largest], categories[largest]
    kept = np.ones(len(times), dtype=np.bool_)
    kept[bought[~first]] = False
    return tuple(c[kept] for c in (times, types, amounts, quantities, items, categories))


def _sums(values: FloatArray, group: Ints) -> FloatArray:
    """Sums by group of what is known, NaN where nothing is."""
    known = ~np.isnan(values)
    total = np.bincount(group, np.where(known, values, 0.0))
    return np.where(np.bincount(group, known) > 0, total, np.nan)


def _counted(
    columns: tuple[NDArray[np.generic], ...],
    as_of: float,
    observed_from: float | None,
    most_events: int,
) -> Customer:
    times, types, amounts, quantities, items, categories = columns
    days_ago = as_of - times.astype(np.float64)
    purchases = types == PURCHASE
    known = purchases & ~np.isnan(amounts.astype(np.float64))
    first = float(days_ago[0]) if len(days_ago) else np.nan
    observed = np.nan if observed_from is None else max(as_of - observed_from, np.nan_to_num(first))
    last = slice(max(0, len(times) - most_events), None)
    return Customer(
        days_ago=days_ago[last],
        types=types[last].astype(np.int8),
        amounts=amounts[last].astype(np.float64),
        quantities=quantities[last].astype(np.float64),
        items=items[last].astype(np.int64),
        categories=categories[last].astype(np.int64),
        first_days_ago=first,
        first_purchase_days_ago=float(days_ago[purchases][0]) if purchases.any() else np.nan,
        purchase_days=int(purchases.sum()),
        spend=float(amounts[known].sum()),
        spend_days=int(known.sum()),
        observed_days=float(observed),
        truncated=len(times) > most_events,
    )


def population_of(customers: Sequence[Customer]) -> Population:
    """The same customers in flat arrays."""
    lengths = np.array([len(each.days_ago) for each in customers], dtype=np.int64)

    def flat(name: str, dtype: type[np.generic]) -> NDArray[np.generic]:
        parts = [getattr(each, name) for each in customers]
        return np.concatenate(parts).astype(dtype) if parts else np.zeros(0, dtype=dtype)

    def column(name: str, dtype: type[np.generic]) -> NDArray[np.generic]:
        return np.array([getattr(each, name) for each in customers], dtype=dtype)

    kinds: tuple[tuple[str, type[np.generic]], ...] = (
        ("days_ago", np.float64),
        ("types", np.int8),
        ("amounts", np.float64),
        ("quantities", np.float64),
        ("items", np.int64),
        ("categories", np.int64),
    )
    values: dict[str, Any] = {name: flat(name, kind) for name, kind in kinds}
    values |= {name: column(name, np.float64) for name in _MEASURES}
    values |= {name: column(name, np.int64) for name in ("purchase_days", "spend_days")}
    starts = np.concatenate(([0], np.cumsum(lengths)))
    values |= {"starts": starts, "truncated": column("truncated", np.bool_)}
    return Population(**values)


def together(crowds: Sequence[Population]) -> Population:
    """The customers of several, one after the other; there is at least one."""
    values = {
        each.name: np.concatenate([getattr(crowd, each.name) for crowd in crowds])
        for each in fields(Population)
        if each.name != "starts"
    }
    lengths = np.concatenate([np.diff(crowd.starts) for crowd in crowds])
    return Population(starts=np.concatenate(([0], np.cumsum(lengths))), **values)


_MEASURES = ("first_days_ago", "first_purchase_days_ago", "spend", "observed_days")


# --- the shop --------------------------------------------------------------------------------


def context_of(customers: Sequence[Customer] | Population) -> FloatArray:
    """(CONTEXT_SIZE,) statistics of a shop, from all its customers at one moment.

    Counts, tenure, recency, gaps and their regularity, activity by month, amounts, the funnel; and
    back-tests: of those known 14, 30, 60 and 120 days ago, in cells of frequency and recency, the
    share that bought since. The back-tests look at the last 120 days of histories: a customer
    whose history was cut within them is taken to have had no more.
    Raises ValueError where there is no customer.
    """
    crowd = customers if isinstance(customers, Population) else population_of(customers)
    if not len(crowd):
        raise ValueError("a shop's context needs customers")
    shop = _Shop(crowd)
    parts = [
        shop.sizes(),
        shop.spreads(),
        shop.rhythm(),
        shop.activity(),
        shop.money(),
        shop.funnel(),
        shop.window_totals(),
        shop.tables().ravel(),
    ]
    context = np.concatenate([np.atleast_1d(part) for part in parts])
    bounded = np.clip(np.nan_to_num(context, posinf=30.0, neginf=-30.0), -30.0, 30.0)
    return np.asarray(bounded, dtype=np.float64)


def cell_of(recency_days: FloatArray, frequency: Ints) -> Ints:
    """Index of the back-test cell; recency is that of any event for those who never bought."""
    row = np.searchsorted(np.array(FREQUENCY_EDGES), frequency, side="right")
    return row * CELLS[1] + np.searchsorted(np.array(RECENCY_EDGES), recency_days, side="right")


def tables_of(context: FloatArray) -> FloatArray:
    """(…, windows, cells, 2) of contexts (…, CONTEXT_SIZE): log-odds of buying, log of count."""
    shape = (*context.shape[:-1], len(WINDOWS), CELLS[0] * CELLS[1], 2)
    return np.asarray(context[..., -_TABLES:].reshape(shape))


_TABLES = len(WINDOWS) * CELLS[0] * CELLS[1] * 2


class _Shop:
    """The statistics, in groups; each returns a flat array of fixed size."""

    def __init__(self, crowd: Population) -> None:
        self.crowd, self.count = crowd, len(crowd)
        owner = crowd.owner
        bought = crowd.types == PURCHASE
        self.owner, self.days = owner, crowd.days_ago
        self.buyer, self.bought_days = owner[bought], crowd.days_ago[bought]
        self.bought_amounts = crowd.amounts[bought]
        self.unseen = crowd.purchase_days - np.bincount(self.buyer, minlength=self.count)
        self.buys = crowd.purchase_days > 0
        same = self.buyer[1:] == self.buyer[:-1]
        self.gaps = (self.bought_days[:-1] - self.bought_days[1:])[same]
        self.gap_owner = self.buyer[1:][same]

    def sizes(self) -> FloatArray:
        counts = self.crowd.purchase_days
        edges = (1, 2, 3, 4, 7, 13, 30)
        shares = [np.mean(counts >= edge) for edge in edges]
        events = len(self.days)
        facts = [np.log1p(self.count) / 4, np.log1p(counts.sum()) / 4, np.log1p(events) / 4]
        rest = [np.mean(self.crowd.truncated), np.log1p(counts.mean()), np.log1p(counts.std())]
        return np.array([*facts, *shares, *rest])

    def spreads(self) -> FloatArray:
        """Quantiles of what customers are like, on logarithmic scales."""
        crowd, buys = self.crowd, self.buys
        recency = self._recency(0.0)
        tenure = crowd.first_purchase_days_ago[buys]
        counts = crowd.purchase_days[buys]
        repeats = buys & (crowd.purchase_days > 1)
        active = (crowd.first_purchase_days_ago - recency)[repeats]
        rate = (crowd.purchase_days[repeats] - 1) / np.maximum(active, 1.0)
        waited = recency[repeats] * rate
        return np.concatenate(
            [
                _quantiles(np.log1p(counts)),
                _quantiles(np.log1p(tenure)),
                _quantiles(np.log1p(recency[buys])),
                _quantiles(np.log1p(crowd.first_days_ago[~np.isnan(crowd.first_days_ago)])),
                _quantiles(np.log(rate)),
                _quantiles(np.log(waited + 0.01)),
                _quantiles(np.log1p(crowd.observed_days[~np.isnan(crowd.observed_days)])),
                [_mean(repeats[buys])],
                [_correlation(np.log1p(counts), np.log1p(tenure))],
                [_correlation(np.log1p(counts), np.log1p(recency[buys]))],
            ]
        )

    def rhythm(self) -> FloatArray:
        """Gaps between purchases: how long, how regular, how clumped, whether of a fixed length."""
        gaps = np.maximum(self.gaps, 0.01)
        number = np.bincount(self.gap_owner, minlength=self.count)
        mean = np.bincount(self.gap_owner, gaps, minlength=self.count) / np.maximum(number, 1)
        square = np.bincount(self.gap_owner, gaps**2, minlength=self.count) / np.maximum(number, 1)
        several = number >= 3
        variance = np.maximum(square - mean**2, 0.0)[several]
        irregular = np.sqrt(variance) / mean[several]
        unbiased = irregular * (1 + 1 / (4 * number[several]))
        relative = gaps / mean[self.gap_owner]
        enough = number[self.gap_owner] >= 3
        phases = [_mean(np.exp(2j * np.pi * gaps / period)) for period in (7.0, 30.4)]
        shares = [_mean(gaps < 2.5), _mean(gaps < 8), _mean(relative[enough] < 0.25)]
        shares += [_mean(relative[enough] > 2.5), _mean(np.abs(relative[enough] - 1) < 0.15)]
        known = [np.log1p(several.sum()) / 4]
        return np.concatenate(
            [_quantiles(np.log(gaps)), _quantiles(unbiased), shares, phases, known]
        )

    def activity(self) -> FloatArray:
        """By month back: purchases per customer known before it, how many those are, new ones."""
        first = self.crowd.first_purchase_days_ago[self.buys]
        values = []
        for month in range(MONTHS):
            near, far = 30.0 * month, 30.0 * (month + 1)
            known = np.sum(first > far)
            old = self.crowd.first_purchase_days_ago[self.buyer] > far
            came = np.sum(old & (self.bought_days <= far) & (self.bought_days > near))
            rate = np.log((came + 0.5) / (known + 5.0)) if known else 0.0
            new = np.mean((first <= far) & (first > near)) if len(first) else 0.0
            values += [rate, known / max(len(first), 1), new]
        return np.array(values)

    def money(self) -> FloatArray:
        """The scale of amounts comes first; `amount_scale` reads it."""
        known = ~np.isnan(self.bought_amounts) & (self.bought_amounts > 0)
        amounts, buyer = self.bought_amounts[known], self.buyer[known]
        if not len(amounts):
            return np.zeros(7)
        logs = np.log(amounts)
        number = np.bincount(buyer, minlength=self.count)
        total = np.bincount(buyer, logs, minlength=self.count)
        mean = total[number > 0] / number[number > 0]
        several = number[number > 0] > 1
        within = logs - (total / np.maximum(number, 1))[buyer]
        freedom = max(int((number[number > 0] - 1).sum()), 1)
        inner = np.sqrt((within**2).sum() / freedom)
        return np.array(
            [
                np.log(amounts.mean()),
                1.0,
                np.std(logs),
                inner,
                np.std(mean[several]) if several.any() else 0.0,
                np.log(amounts.mean()) - logs.mean(),
                _correlation(mean, np.log1p(number[number > 0])),
            ]
        )

    def funnel(self) -> FloatArray:
        """Events of each type per customer, lately active ones, and what came after intent."""
        values = []
        for kind in range(len(EVENT_TYPES)):
            of_kind = self.crowd.types == kind
            recent = np.unique(self.owner[of_kind & (self.days <= 30)])
            values += [np.log1p(of_kind.sum() / self.count), len(recent) / self.count]
        for window in WINDOWS[:2]:
            bought = np.bincount(self.buyer[self.bought_days <= window], minlength=self.count) > 0
            for kind in INTENT:
                near = (self.days > window) & (self.days <= window + 7)
                seen = np.unique(self.owner[(self.crowd.types == kind) & near])
                values += [_log_odds(bought[seen].sum(), len(seen), prior=bought.mean())]
                values += [np.log1p(len(seen)) / 4]
        return np.array(values)

    def window_totals(self) -> FloatArray:
        """Over all cells: the share that bought, purchases each, and the same of newcomers."""
        values = []
        for window in WINDOWS:
            known, bought, came = self._backtest(window)
            new = known & ~(self.crowd.first_days_ago > 2 * window + 14)
            each = np.log((came[known].sum() + 0.5) / (known.sum() + 1.0))
            values += [_log_odds(bought[known].sum(), known.sum()), each]
            values += [_log_odds(bought[new].sum(), new.sum()), np.log1p(new.sum()) / 4]
        return np.array(values)

    def tables(self) -> FloatArray:
        """(windows, cells, 2): log-odds of buying within the window, and log of how many."""
        tables = np.zeros((len(WINDOWS), CELLS[0] * CELLS[1], 2))
        for i, window in enumerate(WINDOWS):
            known, bought, _ = self._backtest(window)
            frequency = self._frequency(window)[known]
            cells = cell_of(self._recency(window)[known], frequency)
            total = np.bincount(cells, minlength=tables.shape[1])
            buyers = np.bincount(cells, bought[known], minlength=tables.shape[1])
            prior = (buyers.sum() + 0.5) / (total.sum() + 1.0)
            tables[i, :, 0] = _log_odds(buyers, total, prior=prior)
            tables[i, :, 1] = np.log1p(total) / 4
        return tables

    def _backtest(self, window: float) -> tuple[Flags, Flags, Ints]:
        """Who was known before the window, who bought in it, and on how many days."""
        came = np.bincount(self.buyer[self.bought_days <= window], minlength=self.count)
        return self.crowd.first_days_ago > window, came > 0, came

    def _frequency(self, window: float) -> Ints:
        before = np.bincount(self.buyer[self.bought_days > window], minlength=self.count)
        return np.asarray(before + self.unseen, dtype=np.int64)

    def _recency(self, window: float) -> FloatArray:
        """Days from the last purchase, or else the last event, before the window to its start."""
        last = np.full(self.count, np.inf)
        before = self.days > window
        np.minimum.at(last, self.owner[before], self.days[before] - window)
        bought = np.full(self.count, np.inf)
        before = self.bought_days > window
        np.minimum.at(bought, self.buyer[before], self.bought_days[before] - window)
        return np.where(np.isfinite(bought), bought, last)


def amount_scale(context: FloatArray) -> FloatArray:
    """(…,) mean amount of a purchase in the shops of contexts (…, size), NaN where not known."""
    known = context[..., _MONEY + 1] > 0
    return np.where(known, np.exp(np.where(known, context[..., _MONEY], 0.0)), np.nan)


def _quantiles(values: FloatArray) -> FloatArray:
    return np.quantile(values, QUANTILES) if len(values) else np.zeros(len(QUANTILES))


def _mean(values: NDArray[np.generic]) -> float:
    """Mean, in modulus where complex; 0 of nothing."""
    return float(np.abs(np.mean(values))) if len(values) else 0.0  # type: ignore[arg-type]  # any


def _correlation(first: FloatArray, second: FloatArray) -> float:
    if len(first) < 3 or first.std() < 1e-9 or second.std() < 1e-9:
        return 0.0
    return float(np.corrcoef(first, second)[0, 1])


def _log_odds(
    hits: FloatArray | Ints | float, total: FloatArray | Ints | float, *, prior: float = 0.2
) -> FloatArray:
    """Log-odds of a share that four imagined trials draw to `prior`."""
    prior = min(max(prior, 1e-3), 1 - 1e-3)
    share = (np.asarray(hits) + 4 * prior) / (np.asarray(total) + 4)
    return np.asarray(np.log(share / (1 - share)))


_NOBODY = customer_of(np.zeros(0), np.zeros(0, dtype=np.int8), as_of=0.0)
_EMPTY = _Shop(population_of([_NOBODY]))
_MONEY = sum(
    len(part) for part in (_EMPTY.sizes(), _EMPTY.spreads(), _EMPTY.rhythm(), _EMPTY.activity())
)
CONTEXT_SIZE = len(context_of([_NOBODY]))
