"""Scores by hand, and by what they promise."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.purchase_scores import auc, calibration_error, lift, log_loss, scores_of

P = np.array([0.1, 0.4, 0.4, 0.9])
BOUGHT = np.array([False, False, True, True])


def test_scores_by_hand() -> None:
    counts = np.array([0, 0, 1, 3])
    scores = scores_of(P, BOUGHT, purchases=np.array([0.0, 1.0, 1.0, 2.0]), counts=counts)
    losses = -np.log([0.9, 0.6, 0.4, 0.9])
    assert scores.log_loss == pytest.approx(losses.mean())
    assert scores.brier == pytest.approx((0.01 + 0.16 + 0.36 + 0.01) / 4)
    assert scores.ece == pytest.approx((0.1 + 0.4 + 0.6 + 0.1) / 4)
    assert scores.auc == pytest.approx(3.5 / 4)
    assert scores.ratio == pytest.approx(1.8 / 2)
    assert scores.count_rmse == pytest.approx(np.sqrt(2 / 4))
    assert scores.count_ratio == 1.0


def test_what_has_no_meaning_is_nan() -> None:
    nobody = np.zeros(4, dtype=bool)
    scores = scores_of(P, nobody, purchases=None, counts=np.zeros(4, dtype=np.int64))
    assert np.isnan([scores.auc, scores.ratio, scores.count_rmse, scores.count_ratio]).all()
    assert np.isfinite([scores.log_loss, scores.brier, scores.ece]).all()


def test_certainty_that_was_wrong_costs_much_but_not_everything() -> None:
    assert log_loss(np.array([0.0, 1.0]), np.array([True, False])) == pytest.approx(-np.log(1e-6))


def test_the_tenths_hold_everybody_the_likeliest_first() -> None:
    rng = np.random.default_rng(0)
    p = rng.random(1003)
    bins = lift(p, rng.random(1003) < p)
    assert sum(part.customers for part in bins) == 1003
    foretold = [part.foretold for part in bins]
    assert foretold == sorted(foretold, reverse=True)
    assert bins[0].bought > bins[-1].bought


def test_what_is_calibrated_has_a_small_error() -> None:
    rng = np.random.default_rng(0)
    p = rng.random(50_000)
    assert calibration_error(p, rng.random(50_000) < p) < 0.01
    assert calibration_error(p, rng.random(50_000) < p**2) > 0.1


@given(st.lists(st.tuples(st.integers(0, 5), st.booleans()), min_size=2, max_size=30))
def test_auc_counts_pairs(pairs: list[tuple[int, bool]]) -> None:
    p, bought = np.array([each / 5 for each, _ in pairs]), np.array([each for _, each in pairs])
    if bought.all() or not bought.any():
        assert np.isnan(auc(p, bought))
        return
    gaps = p[bought][:, None] - p[~bought][None, :]
    assert auc(p, bought) == pytest.approx(np.mean((gaps > 0) + 0.5 * (gaps == 0)))
