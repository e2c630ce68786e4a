"""Backtests: what a forecaster may know, which windows there are, what the scores say."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from models.backtest import (
    NAIVE,
    BacktestError,
    Batch,
    Method,
    Plan,
    Record,
    Summary,
    network,
    run,
    season_of,
    seasonal_naive,
    summaries,
    windows_of,
)
from models.base import Covariate, FloatArray
from models.metrics import mase, naive_error
from models.series import SeriesNetwork

DAYS = pd.date_range("2026-01-01", periods=60)
PLAN = Plan("D", horizon=7, origins=3, season=7)


def record(item: str = "apples", *, seed: int = 0, days: pd.DatetimeIndex = DAYS) -> Record:
    rng = np.random.default_rng(seed)
    week = 20 + 10 * np.sin(2 * np.pi * np.arange(len(days)) / 7)
    price = rng.uniform(1, 2, len(days))
    covariates = (Covariate("price", price, price), Covariate("visits", rng.normal(size=len(days))))
    return Record(item, days, rng.poisson(week).astype(float), covariates)


def constant(value: float, width: float) -> Method:
    """A forecaster that says the same of everything: normal-like quantiles about a value."""

    def forecast(batch: Batch) -> list[FloatArray]:
        rows = value + width * (np.array(batch.plan.levels)[:, None] - 0.5)
        return [np.tile(rows, batch.plan.horizon) for _ in batch.windows]

    return Method("constant", forecast)


def by_name(found: Sequence[Summary]) -> dict[str, Summary]:
    return {summary.method: summary for summary in found}


def test_windows_end_with_the_last_period_and_do_not_overlap() -> None:
    batches = list(windows_of([record()], PLAN))
    ahead = [batch.windows[0].ahead for batch in batches]
    assert [(times[0].day, times[-1].day, times[0].month) for times in ahead] == [
        (9, 15, 2),
        (16, 22, 2),
        (23, 1, 2),
    ]
    assert all(batch.windows[0].times[0] == DAYS[0] for batch in batches)  # the window expands
    assert [len(batch.windows[0].history) for batch in batches] == [39, 46, 53]


def test_a_step_makes_windows_overlap() -> None:
    batches = list(windows_of([record()], replace(PLAN, step=1)))
    assert [len(batch.windows[0].history) for batch in batches] == [51, 52, 53]


def test_no_forecaster_sees_what_comes_after_its_origin() -> None:
    """Whatever the future holds, but for what is declared known ahead, the batches are the same."""
    honest = record()
    for batch in windows_of([honest], PLAN):
        (window,) = batch.windows
        cut = len(window.history)
        changed = honest.target.copy()
        changed[cut:] += 1000
        price, visits = honest.covariates
        elsewhere = replace(visits, past=np.r_[visits.past[:cut], visits.past[cut:] - 50])
        other = replace(honest, target=changed, covariates=(price, elsewhere))
        again = next(b for b in windows_of([other], PLAN) if len(b.windows[0].history) == cut)
        np.testing.assert_array_equal(again.windows[0].history, window.history)
        for ours, theirs in zip(window.covariates, again.windows[0].covariates, strict=True):
            np.testing.assert_array_equal(ours.past, theirs.past)
            assert len(ours.past) == cut
        known, past_only = window.covariates
        np.testing.assert_array_equal(known.future, price.past[cut : cut + 7])
        assert past_only.future is None


def test_origins_are_dates_shared_by_series_of_different_ends() -> None:
    """One that ended earlier is tested where it was observed, on the same calendar."""
    early = record("early", seed=1, days=DAYS[:50])
    late = record("late", seed=2, days=DAYS[20:])
    batches = list(windows_of([record(), early, late], PLAN))
    assert [[window.item for window in batch.windows] for batch in batches] == [
        ["apples", "early", "late"],
        ["apples", "early", "late"],
        ["apples", "late"],
    ]
    for batch in batches:
        assert len({window.ahead[0] for window in batch.windows}) == 1
    covariate = batches[1].windows[1].covariates[0]
    assert np.isnan(np.asarray(covariate.future, dtype=float)[-3:]).all()


def test_scores_are_those_of_the_windows() -> None:
    one = record()
    found = run([one], [Method(NAIVE, seasonal_naive), constant(20.0, 30.0)], PLAN)
    assert len(found.scores) == 2 * 3
    last = found.scores[-1]
    scale = naive_error(one.target[:53], 7)
    assert last.origin == DAYS[52]
    assert last.mase == pytest.approx(mase(one.target[53:], np.full(7, 20.0), scale=scale))
    assert last.absolute == pytest.approx(np.abs(one.target[53:] - 20).sum())
    table = by_name(summaries(found))
    assert table[NAIVE].relative_mase == pytest.approx(1.0)
    assert table[NAIVE].relative_wql == pytest.approx(1.0)
    assert table[NAIVE].coverage == {}
    tested = one.target[39:]
    assert table["constant"].wape == pytest.approx(np.abs(tested - 20).sum() / tested.sum())
    assert table["constant"].bias == pytest.approx((20 - tested).sum() / tested.sum())
    assert table["constant"].windows == 3
    assert table["constant"].geometric_mase == pytest.approx(table["constant"].relative_mase)


def test_seasonal_naive_repeats_the_last_season() -> None:
    (batch, *_) = windows_of([record()], replace(PLAN, horizon=10))
    (answer,) = seasonal_naive(batch)
    last = batch.windows[0].history[-7:]
    np.testing.assert_array_equal(answer[3], np.concatenate([last, last[:3]]))


def test_true_quantiles_have_the_coverage_they_promise() -> None:
    rng = np.random.default_rng(3)
    records = [Record(str(i), DAYS, rng.uniform(0, 40, 60)) for i in range(60)]
    table = by_name(summaries(run(records, [constant(20.0, 40.0)], PLAN)))
    for share, covered in table["constant"].coverage.items():
        assert covered == pytest.approx(share, abs=0.04)
    assert np.isnan(table["constant"].relative_mase)  # seasonal naive did not run


def test_forecasts_below_zero_count_as_zero_where_nothing_was_ever_below() -> None:
    found = run([record()], [constant(-5.0, 1.0)], PLAN)
    assert all(score.wape == pytest.approx(1.0) for score in found.scores)


def test_examples_are_of_the_last_origin_with_every_method() -> None:
    methods = [Method(NAIVE, seasonal_naive), constant(20.0, 30.0)]
    found = run([record(), record("pears", seed=4)], methods, PLAN, examples=1)
    (example,) = found.examples
    assert example.window.item == "apples"
    np.testing.assert_array_equal(example.truth, record().target[53:])
    assert set(example.quantiles) == {NAIVE, "constant"}


def test_progress_counts_every_window_of_every_method() -> None:
    told: list[tuple[str, int]] = []
    records = [record(str(i), seed=i) for i in range(70)]
    methods = [Method("naive", seasonal_naive), Method("whole", seasonal_naive, pooled=True)]
    run(records, methods, PLAN, on_done=lambda name, count: told.append((name, count)))
    assert told == [("naive", 64), ("naive", 6)] * 3 + [("whole", 70)] * 3


def test_series_that_cannot_be_tested_are_named() -> None:
    short = Record("short", DAYS[-30:], np.arange(30.0))
    flat = Record("flat", DAYS, np.ones(60))
    found = run([record(), short, flat], [constant(20.0, 1.0)], PLAN)
    assert found.left_out == ("flat",)
    assert {score.item for score in found.scores} == {"apples", "short"}


@pytest.mark.parametrize(
    ("records", "plan", "message"),
    [
        ([record(days=DAYS[:28])], PLAN, "3 windows of 7 periods and a season of 7 before them"),
        ([record()], replace(PLAN, horizon=60, origins=1), "a window of 60 periods"),
        ([Record("flat", DAYS, np.ones(60))], PLAN, "no series changes before"),
    ],
)
def test_what_is_too_short_is_refused_with_the_way_out(
    records: list[Record], plan: Plan, message: str
) -> None:
    with pytest.raises(BacktestError, match=message) as refusal:
        run(records, [Method(NAIVE, seasonal_naive)], plan)
    assert "lower the horizon or the number of origins" in str(refusal.value)


def test_an_answer_that_is_no_number_is_refused() -> None:
    def broken(batch: Batch) -> list[FloatArray]:
        return [np.full((len(batch.plan.levels), 7), np.nan) for _ in batch.windows]

    with pytest.raises(BacktestError, match="broken answered something else than numbers"):
        run([record()], [Method("broken", broken)], PLAN)


def test_the_network_is_asked_as_the_service_asks_it(tiny_network: SeriesNetwork) -> None:
    methods = [
        Method("with", network(tiny_network)),
        Method("without", network(tiny_network, covariates=False)),
    ]
    found = run([record(), record("pears", seed=5)], methods, PLAN, examples=2)
    for example in found.examples:
        made = example.quantiles["with"]
        assert made.shape == (21, 7)
        assert (np.diff(made, axis=0) >= 0).all()
        assert not np.allclose(made, example.quantiles["without"])


@pytest.mark.parametrize(
    ("freq", "season"),
    [("D", 7), ("W-SUN", 1), ("MS", 12), ("QE-DEC", 4), ("YE", 1), ("h", 24), ("15min", 96)],
)
def test_seasons_are_those_of_the_published_tables(freq: str, season: int) -> None:
    assert season_of(freq) == season
