"""Quantiles at any level, means and least widths, against distributions known in closed form."""

from statistics import NormalDist

import numpy as np
import pytest

from models.checkpoint import QUANTILES
from models.distribution import at_levels, mean, mean_above, monotone, widen

NORMAL = np.array([NormalDist(10, 2).inv_cdf(level) for level in QUANTILES])[None, :, None]
EXPONENTIAL = np.array([-np.log1p(-level) for level in QUANTILES])[None, :, None]


def test_known_levels_come_back_in_the_order_asked_for() -> None:
    answer = at_levels(NORMAL, QUANTILES, (0.9, 0.01, 0.5))
    expected = [NormalDist(10, 2).inv_cdf(level) for level in (0.9, 0.01, 0.5)]
    np.testing.assert_allclose(answer[0, :, 0], expected, rtol=1e-12)


def test_levels_between_are_interpolated() -> None:
    answer = at_levels(NORMAL, QUANTILES, (0.525,))
    assert answer[0, 0, 0] == pytest.approx(NormalDist(10, 2).inv_cdf(0.525), abs=1e-2)


def test_tails_are_exact_for_an_exponential_distribution() -> None:
    answer = at_levels(EXPONENTIAL, QUANTILES, (0.995, 0.9999))
    np.testing.assert_allclose(answer[0, :, 0], [-np.log(0.005), -np.log(0.0001)], rtol=1e-9)


def test_every_pair_of_levels_is_ordered() -> None:
    rng = np.random.default_rng(0)
    quantiles = monotone(rng.normal(size=(20, len(QUANTILES), 3)))
    levels = tuple(np.sort(rng.uniform(1e-6, 1 - 1e-6, 200)))
    answer = at_levels(quantiles, QUANTILES, levels)
    assert (np.diff(answer, axis=1) >= -1e-12).all()


@pytest.mark.parametrize(("quantiles", "expected"), [(NORMAL, 10.0), (EXPONENTIAL, 1.0)])
def test_the_mean_is_that_of_the_distribution(quantiles: np.ndarray, expected: float) -> None:
    answer = mean(quantiles, QUANTILES, floors=np.array([-np.inf]))
    assert answer[0, 0] == pytest.approx(expected, rel=2e-2)


@pytest.mark.parametrize("shift", [-3.0, -1.0, 0.0, 0.5, 3.0])
def test_the_mean_of_a_cut_distribution_is_that_of_its_cut_quantiles(shift: float) -> None:
    quantiles = NORMAL - 10 + shift
    fine = tuple((np.arange(200_000) + 0.5) / 200_000)
    expected = np.maximum(at_levels(quantiles, QUANTILES, fine), 0).mean()
    answer = mean(quantiles, QUANTILES, floors=np.array([0.0]))
    assert answer[0, 0] == pytest.approx(expected, rel=1e-3, abs=1e-5)


def test_a_certain_distribution_has_its_value_as_mean() -> None:
    certain = np.full((2, len(QUANTILES), 1), 5.0)
    answer = mean(certain, QUANTILES, floors=np.array([0.0, -np.inf]))
    np.testing.assert_allclose(answer, 5.0)


def test_widening_leaves_wide_rows_alone_and_keeps_the_median() -> None:
    narrow = np.full((1, len(QUANTILES), 1), 5.0)
    both = np.concatenate((NORMAL, narrow))
    answer = widen(both, QUANTILES, np.array([1.0, 1.0]))
    np.testing.assert_allclose(answer[0], NORMAL[0])
    expected = [NormalDist(5, 1).inv_cdf(level) for level in QUANTILES]
    np.testing.assert_allclose(answer[1, :, 0], expected)


@pytest.mark.parametrize("bound", [-5.0, 5.0, 9.0, 10.0, 13.0, 16.0])
def test_the_mean_above_a_bound_is_that_of_a_truncated_normal(bound: float) -> None:
    unit, z = NormalDist(), (bound - 10) / 2
    expected = 10 + 2 * unit.pdf(z) / (1 - unit.cdf(z))
    answer = mean_above(NORMAL, QUANTILES, bounds=np.array([[bound]]))
    assert answer[0, 0] == pytest.approx(expected, rel=0.03)


def test_the_mean_above_a_bound_far_away_is_a_tail_further() -> None:
    answer = mean_above(EXPONENTIAL, QUANTILES, bounds=np.array([[6.0]]))
    assert answer[0, 0] == pytest.approx(7.0, rel=1e-6)  # memoryless
    far = mean_above(EXPONENTIAL, QUANTILES, bounds=np.array([[1e6]]))
    assert far[0, 0] == pytest.approx(1e6 + 1)


def test_the_mean_above_a_bound_of_what_is_certain_is_that_or_the_bound() -> None:
    certain = np.full((1, len(QUANTILES), 3), 7.0)
    answer = mean_above(certain, QUANTILES, bounds=np.array([[5.0, 7.0, 9.0]]))
    np.testing.assert_allclose(answer, [[7.0, 7.0, 9.0]])
    assert np.isnan(mean_above(certain, QUANTILES, bounds=np.full((1, 3), np.nan))).all()
