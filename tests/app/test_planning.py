"""Plans from forecasts: what of a forecast its stock is planned for."""

from statistics import NormalDist

import numpy as np
import pytest

from app.planning import StockItem, StockPlan, lay_out, plan_item
from models.base import Series, SeriesForecast
from models.inventory import LeadTime, Position, Rules, Service
from models.paths import LEVELS, Dependence

WEEKS = 500 + 5 * np.resize([1.0, -1.0], 18)
COLD = np.full((1, 1), np.nan)


def plan_of(target: np.ndarray, *population: Series) -> StockPlan:
    item = StockItem(
        Series(target, season_lengths=(52,)), Position(), Rules(LeadTime(1)), Service(), 2
    )
    column = np.array([NormalDist(500, 20).inv_cdf(level) for level in LEVELS])
    quantiles = np.repeat(column[None, :, None], 2, axis=2)
    layout = lay_out([item], population)
    forecast = SeriesForecast(quantiles, np.full((1, 2), 500.0))
    results = [(forecast,) for _ in layout.tasks]
    return plan_item(layout, 0, results, Dependence(0.0, 0.8))


def test_stock_is_planned_for_no_more_than_a_series_varied() -> None:
    weekly = Series(WEEKS[None], season_lengths=(52,))
    daily = Series(np.resize(WEEKS, 60)[None], season_lengths=(7,))
    for target, population, deviation, together in (
        (WEEKS[None], (), 5.0, 0.2 * 0.8),
        (COLD, (weekly,), 5.0, 0.2 * 0.8),
        (COLD, (daily,), 20.0, 0.0),
    ):
        made = plan_of(target, *population)
        assert made.demand.std(axis=1) == pytest.approx([deviation] * 2, rel=0.06)
        assert made.plan.safety_stock == pytest.approx(
            1.645 * deviation * (2 + 2 * together) ** 0.5, rel=0.12
        )
