"""The probability models are those of `lifetimes`, and see nothing of the future."""

from __future__ import annotations

from importlib.resources import files
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import pytest

from models.base import ModelError
from models.baselines_events import (
    BetaGeo,
    GammaGamma,
    ParetoNbd,
    Summary,
    averaged,
    earlier_cuts,
    fit_lightgbm,
    fit_logistic,
    rfm_of,
    summary_of,
)
from models.synth.customers import ShopSettings, simulate

if TYPE_CHECKING:
    from models.customers import Population

lifetimes = pytest.importorskip("lifetimes")


@pytest.fixture(scope="module")
def cdnow() -> pd.DataFrame:
    """The 2,357 customers of the papers, in weeks."""
    path = files("lifetimes") / "datasets" / "cdnow_customers_summary.csv"
    return pd.read_csv(str(path)).rename(columns={"T": "age"})


@pytest.fixture(scope="module")
def summary(cdnow: pd.DataFrame) -> Summary:
    nothing = np.full(len(cdnow), np.nan)
    return Summary(
        cdnow["frequency"].to_numpy(),
        cdnow["recency"].to_numpy() * 7,
        cdnow["age"].to_numpy() * 7,
        nothing,
        np.zeros(len(cdnow), dtype=np.int64),
    )


@pytest.fixture(scope="module")
def crowd() -> Population:
    settings = ShopSettings(customers=500, history=300, rate=1 / 30, acquisition="uniform")
    return simulate(np.random.default_rng(0), settings, labelled=1, futures=1).population


def test_bg_nbd_is_that_of_the_paper_and_of_lifetimes(
    cdnow: pd.DataFrame, summary: Summary
) -> None:
    ours = BetaGeo.fit(summary)
    assert (ours.r, ours.alpha, ours.a, ours.b) == pytest.approx(
        (0.243, 4.414, 0.793, 2.426), abs=2e-3
    )
    assert ours.log_likelihood(summary).sum() == pytest.approx(-9582.4, abs=0.1)
    theirs = lifetimes.BetaGeoFitter()
    theirs.fit(cdnow["frequency"], cdnow["recency"], cdnow["age"])
    expected = theirs.conditional_expected_number_of_purchases_up_to_time(
        39, cdnow["frequency"], cdnow["recency"], cdnow["age"]
    )
    np.testing.assert_allclose(ours.purchases(summary, 39 * 7.0), expected, atol=1e-3)
    alive = theirs.conditional_probability_alive(cdnow["frequency"], cdnow["recency"], cdnow["age"])
    np.testing.assert_allclose(ours.probability(summary, 7e7), alive, atol=0.06)


def test_pareto_nbd_is_that_of_the_paper_and_of_lifetimes(
    cdnow: pd.DataFrame, summary: Summary
) -> None:
    ours = ParetoNbd.fit(summary)
    assert (ours.r, ours.alpha, ours.s, ours.beta) == pytest.approx(
        (0.553, 10.578, 0.606, 11.669), rel=5e-3
    )
    assert ours.log_likelihood(summary).sum() == pytest.approx(-9595.0, abs=0.1)
    theirs = lifetimes.ParetoNBDFitter()
    theirs.params_ = pd.Series({name: getattr(ours, name) for name in ("r", "alpha", "s", "beta")})
    some = cdnow.head(40)
    expected = theirs.conditional_expected_number_of_purchases_up_to_time(
        39, some["frequency"], some["recency"], some["age"]
    )
    np.testing.assert_allclose(ours.purchases(summary, 39 * 7.0)[:40], expected, rtol=1e-4)
    none = [
        theirs.conditional_probability_of_n_purchases_up_to_time(0, 39, x, tx, age)
        for x, tx, age in zip(some["frequency"], some["recency"], some["age"], strict=True)
    ]
    np.testing.assert_allclose(1 - ours.probability(summary, 39 * 7.0)[:40], none, atol=1e-5)


def test_gamma_gamma_is_that_of_lifetimes() -> None:
    path = files("lifetimes") / "datasets" / "cdnow_customers_summary_with_transactions.csv"
    table = pd.read_csv(str(path), header=0)
    table.columns = pd.Index(["who", "x", "tx", "age", "amount"][: len(table.columns)])
    some = table[(table["x"] > 0) & (table["amount"] > 0)]
    theirs = lifetimes.GammaGammaFitter()
    theirs.fit(some["x"], some["amount"])
    weeks = np.zeros(len(some))
    summary = Summary(
        some["x"].to_numpy(), weeks, weeks, some["amount"].to_numpy(), some["x"].to_numpy()
    )
    ours = GammaGamma.fit(summary)
    expected = theirs.conditional_expected_average_profit(some["x"], some["amount"])
    np.testing.assert_allclose(ours.mean_amount(summary), expected, rtol=0.02)


def test_gamma_gamma_needs_amounts(summary: Summary) -> None:
    with pytest.raises(ModelError, match="amounts"):
        GammaGamma.fit(summary)


@pytest.mark.parametrize("kind", [BetaGeo, ParetoNbd])
def test_probabilities_rise_and_stay_below_counts(
    kind: type[BetaGeo] | type[ParetoNbd], crowd: Population
) -> None:
    summary = summary_of(crowd)
    fit = kind.fit(summary)
    said = [fit.probability(summary, days) for days in (7.0, 30.0, 90.0, 365.0)]
    assert all((low <= high + 1e-9).all() for low, high in pairwise(said))
    assert (fit.purchases(summary, 90.0) >= said[2] - 1e-6).all()
    assert ((said[0] > 0) & (said[-1] < 1)).all()


def test_learners_tell_buyers_from_others(crowd: Population) -> None:
    (cut, *_) = earlier_cuts(crowd, 30.0)
    truth = cut.bought(30.0)
    for fit in (fit_logistic, fit_lightgbm):
        learner = fit(cut.population, 30.0)
        assert learner is not None
        said = learner.probability(cut.population)
        assert said[truth].mean() > said[~truth].mean() + 0.1


def test_learners_need_a_past(crowd: Population) -> None:
    assert fit_logistic(crowd, 270.0) is None or len(earlier_cuts(crowd, 270.0)) > 0
    assert fit_lightgbm(crowd, 360.0) is None


def test_features_are_finite(crowd: Population) -> None:
    assert np.isfinite(rfm_of(crowd)).all()


def test_log_odds_are_averaged() -> None:
    said = averaged(np.array([0.2, 0.5]), np.array([0.8, 0.5]))
    np.testing.assert_allclose(said, [0.5, 0.5])
