"""Baselines that are really run: they learn what is there to be learned, and leak nothing."""

import sys
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import pytest

from models.backtest import NAIVE, Batch, Plan, Record, Summary, run, summaries, windows_of
from models.base import Covariate, FloatArray
from models.baselines import MissingLibraryError, lightgbm, local, methods, statistical

DAYS = pd.date_range("2026-01-01", periods=98)
PLAN = Plan("D", horizon=7, origins=1, season=7)


@pytest.fixture(autouse=True)
def _quiet_imports() -> Iterator[None]:
    """The libraries warn of one another when they are imported first."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def shop(count: int, *, lift: float = 2.0) -> list[Record]:
    """Items with a week and promotions that are known ahead and multiply sales."""
    rng = np.random.default_rng(0)
    records = []
    for number in range(count):
        promo = (rng.uniform(size=len(DAYS)) < 0.2).astype(float)
        week = 1 + 0.3 * np.sin(2 * np.pi * np.arange(len(DAYS)) / 7)
        sold = rng.poisson((20 + 5 * number) * week * (1 + (lift - 1) * promo)).astype(float)
        covariates = (Covariate("promo", promo, promo), Covariate("traffic", rng.normal(size=98)))
        records.append(Record(f"item {number}", DAYS, sold, covariates))
    return records


def batch_of(records: Sequence[Record], plan: Plan = PLAN) -> Batch:
    return list(windows_of(records, plan))[-1]


def table(records: Sequence[Record], *names: str, plan: Plan = PLAN) -> Mapping[str, Summary]:
    chosen = [methods()[name]() for name in names]
    return {summary.method: summary for summary in summaries(run(records, chosen, plan))}


def test_every_baseline_beats_seasonal_naive_on_a_noisy_week() -> None:
    found = table(shop(4, lift=1.0), "naive", "autoets", "autotheta")
    assert found[NAIVE].relative_mase == 1.0
    for name in ("AutoETS", "AutoTheta"):
        assert found[name].relative_mase < 1.0
        assert found[name].relative_wql < 0.9
        assert 0.5 < found[name].coverage[0.8] <= 1.0


def test_lightgbm_learns_what_a_promotion_does() -> None:
    records = shop(4)
    batch = batch_of(records)
    promoted = replace(batch, windows=tuple(_with_promo(w, 1.0) for w in batch.windows))
    plain = replace(batch, windows=tuple(_with_promo(w, 0.0) for w in batch.windows))
    forecast = lightgbm()
    ratio = _median(forecast(promoted)).sum() / _median(forecast(plain)).sum()
    assert 1.5 < ratio < 2.5


def _with_promo(window: Any, value: float) -> Any:
    promo, other = window.covariates
    return replace(window, covariates=(replace(promo, future=np.full(7, value)), other))


def _median(answers: Sequence[FloatArray]) -> FloatArray:
    return np.stack([answer[PLAN.levels.index(0.5)] for answer in answers])


def test_lightgbm_takes_its_intervals_from_errors_before_the_origin() -> None:
    found = table(shop(5), "naive", "lightgbm", plan=replace(PLAN, origins=2))["LightGBM"]
    assert found.relative_wql < 0.8
    assert 0.6 < found.coverage[0.8] < 0.95
    assert found.coverage[0.5] < found.coverage[0.8] < found.coverage[0.98]


def test_lightgbm_gives_the_same_answer_twice_and_can_leave_covariates_alone() -> None:
    batch = batch_of(shop(2))
    plain = replace(batch, windows=tuple(_with_promo(w, 0.0) for w in batch.windows))
    blind = lightgbm(covariates=False)
    np.testing.assert_array_equal(_median(blind(batch)), _median(blind(plain)))


def test_lightgbm_takes_gaps_categories_and_series_of_any_length() -> None:
    records = shop(4)
    kinds = np.where(records[1].covariates[0].past > 0, "flyer", "none").astype(object)
    kinds[5] = None
    words = [replace(one, covariates=(Covariate("kind", kinds, kinds),)) for one in records]
    words[0].target[20:24] = np.nan
    words[2] = replace(
        words[2],
        times=DAYS[-16:],
        target=words[2].target[-16:],
        covariates=(Covariate("kind", kinds[-16:], kinds[-16:]),),
    )
    answers = lightgbm()(batch_of(words))
    assert len(answers) == 4
    assert all(np.isfinite(answer).all() for answer in answers)


@pytest.mark.parametrize("freq", ["h", "W-SUN", "MS", "QE-DEC", "YE"])
def test_lightgbm_runs_on_any_calendar(freq: str) -> None:
    times = pd.date_range("2000-01-01", periods=60, freq=freq)
    values = np.random.default_rng(1).gamma(5, 2, (3, 60))
    records = [Record(str(i), times, row) for i, row in enumerate(values)]
    plan = Plan(freq, horizon=3, origins=1, season=1)
    answers = lightgbm()(batch_of(records, plan))
    assert all(answer.shape == (21, 3) and np.isfinite(answer).all() for answer in answers)


@pytest.mark.parametrize("name", ["AutoETS", "AutoTheta"])
def test_quantiles_come_in_the_order_of_the_levels(name: str) -> None:
    history = np.random.default_rng(2).gamma(20, 1, 60)
    levels = (0.01, 0.25, 0.5, 0.75, 0.99)
    answer = local(name)(history, 4, 7, levels)
    assert answer.shape == (5, 4)
    assert (np.diff(answer, axis=0) > 0).all()


def test_statistical_baselines_draw_lines_through_gaps() -> None:
    records = shop(2)
    records[0].target[10:13] = np.nan
    answers = statistical("AutoTheta")(batch_of(records))
    assert all(np.isfinite(answer).all() for answer in answers)


def test_a_missing_library_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "mlforecast", None)
    with pytest.raises(MissingLibraryError, match=r"pip install 'shopcast\[backtest\]'"):
        lightgbm()
