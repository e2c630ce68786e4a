"""From items with stock to tasks for the network, and from its results to plans.

Invariant: an item's plan depends on that item, the population and the version alone, whatever is
planned beside it; its forecasts come by the one road of all forecasts.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from app.kinds import SERIES
from models import inventory, paths
from models.base import Covariate, FloatArray, Series, SeriesResult, SeriesTask
from models.inventory import Costs, Plan, Position, Rules, Service
from models.paths import LEVELS, Dependence, Origin

SEED_BYTES = 8


@dataclass(frozen=True, slots=True, eq=False)
class StockItem:
    """What is to be planned. series: without any value where there is no history.

    rules.whole is found here: demand is counted where its history is. seed: None derives it from
    the series.
    """

    series: Series
    position: Position
    rules: Rules
    service: Service
    prediction_length: int
    costs: Costs | None = None
    seed: int | None = None

    @property
    def cold(self) -> bool:
        """Whether nothing is known of its demand."""
        return bool(np.isnan(paths.observed(self.series)).all())

    @property
    def horizon(self) -> int:
        """The periods that have to be forecast."""
        return max(self.prediction_length, self.rules.longest_protection)


@dataclass(frozen=True, slots=True, eq=False)
class _Part:
    """The tasks of an item: the forecast, then its origins; or one for each of the population."""

    first: int
    origins: tuple[Origin, ...]
    count: int


@dataclass(frozen=True, slots=True, eq=False)
class Layout:
    """All tasks of some items. population: of an item without a history."""

    items: tuple[StockItem, ...]
    population: tuple[Series, ...]
    tasks: tuple[SeriesTask, ...]
    parts: tuple[_Part, ...]


@dataclass(frozen=True, slots=True, eq=False)
class StockPlan:
    """A plan, and the paths of demand that it was made on: (periods, paths)."""

    plan: Plan
    demand: FloatArray
    whole: bool


def lay_out(items: Sequence[StockItem], population: Sequence[Series] = ()) -> Layout:
    """What has to be forecast for the items. There is a population if an item is cold."""
    tasks: list[SeriesTask] = []
    parts: list[_Part] = []
    shared: dict[int, _Part] = {}  # of cold items, by horizon
    for item in items:
        part = shared.get(item.horizon) if item.cold else None
        if part is None:
            own, origins = _tasks(item, population)
            part = _Part(len(tasks), origins, len(own))
            tasks += own
            if item.cold:
                shared[item.horizon] = part
        parts.append(part)
    return Layout(tuple(items), tuple(population), tuple(tasks), tuple(parts))


def _tasks(
    item: StockItem, population: Sequence[Series]
) -> tuple[list[SeriesTask], tuple[Origin, ...]]:
    horizon = item.horizon
    if item.cold:
        return [SeriesTask((_ahead(each, horizon),), horizon, LEVELS) for each in population], ()
    origins = tuple(paths.origins(item.series, item.rules.longest_protection))
    tasks = [SeriesTask((_ahead(item.series, horizon),), horizon, LEVELS)]
    tasks += [SeriesTask((each.series,), len(each.truth), LEVELS) for each in origins]
    return tasks, origins


def _ahead(series: Series, horizon: int) -> Series:
    """The series with the future of its covariates unknown where it is not told."""
    if not series.covariates:
        return series
    covariates = tuple(_extended(each, horizon) for each in series.covariates)
    return replace(series, covariates=covariates)


def _extended(covariate: Covariate, horizon: int) -> Covariate:
    future = covariate.future
    if future is None or len(future) >= horizon:
        return covariate
    unknown = np.full(horizon - len(future), None if future.dtype == object else np.nan)
    return replace(covariate, future=np.concatenate((future, unknown.astype(future.dtype))))


def plan_item(
    layout: Layout, number: int, results: Sequence[SeriesResult], dependence: Dependence
) -> StockPlan:
    """The plan of one item. results: of all tasks of the layout; dependence: the version's."""
    item, part = layout.items[number], layout.parts[number]
    quantiles = [result[0].quantiles[0] for result in results[part.first : part.first + part.count]]
    seed = item.seed if item.seed is not None else _seed(item, layout.population)
    if item.cold:
        whole = all(paths.is_whole(each.target) for each in layout.population)
        demand = _mixture(quantiles, layout.population, dependence, seed=seed, whole=whole)
    else:
        whole = paths.is_whole(item.series.target)
        own = _own(quantiles[1:], part.origins, dependence, whole=whole)
        demand = _sample(quantiles[0], item.series, own, seed=seed, whole=whole)
    rules = replace(item.rules, whole=whole)
    made = inventory.plan(demand, item.position, rules, item.service, seed=seed, costs=item.costs)
    return StockPlan(made, demand, whole)


def _own(
    quantiles: Sequence[FloatArray],
    origins: Sequence[Origin],
    default: Dependence,
    *,
    whole: bool,
) -> Dependence:
    if not origins:
        return default
    scores = paths.scores_of(quantiles, [each.truth for each in origins], whole=whole)
    return paths.own(scores, default)


def _mixture(
    quantiles: Sequence[FloatArray],
    population: Sequence[Series],
    dependence: Dependence,
    *,
    seed: int,
    whole: bool,
) -> FloatArray:
    """Paths of an item that is like one of a population, nobody knows which: equally many each."""
    count = -(-paths.PATHS // len(quantiles))
    parts = [
        _sample(each, series, dependence, seed=seed + number, whole=whole, count=count)
        for number, (each, series) in enumerate(zip(quantiles, population, strict=True))
    ]
    return np.concatenate(parts, axis=1)


def _sample(
    quantiles: FloatArray,
    series: Series,
    dependence: Dependence,
    *,
    seed: int,
    whole: bool,
    count: int = paths.PATHS,
) -> FloatArray:
    forecast = paths.narrowed(quantiles, series)
    together = paths.strengthened(dependence, series)
    return paths.sample(forecast, together, seed=seed, whole=whole, paths=count)


def _seed(item: StockItem, population: Sequence[Series]) -> int:
    """A seed that follows from the demand alone, so that one lead time is compared with another."""
    series = population if item.cold else (item.series,)
    return int.from_bytes(SERIES.key("", SeriesTask(tuple(series), 1, ()))[:SEED_BYTES]) >> 1
