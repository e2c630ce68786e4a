"""How histories become rows: aligned, cut, encoded and scaled in double precision."""

import numpy as np
import pytest

from models.base import Covariate, Series, SeriesTask
from models.features import least_deviation, rows_of, scale_of


def task(*series: Series) -> SeriesTask:
    return SeriesTask(series, 4, (0.5,))


def test_rows_are_right_aligned_and_grouped_by_task() -> None:
    short, long = Series(np.array([[1.0, 2.0]])), Series(np.arange(8.0).reshape(2, 4))
    rows = rows_of([task(short), task(long, short)], context_length=8, horizon=4)
    assert rows.group.tolist() == [0, 1, 1, 1]
    np.testing.assert_array_equal(rows.past[0], [np.nan, np.nan, 1, 2])
    assert rows.target.all()


def test_a_long_history_is_cut_to_its_latest_points() -> None:
    rows = rows_of([task(Series(np.arange(10.0)[None]))], context_length=3, horizon=4)
    np.testing.assert_array_equal(rows.past, [[7, 8, 9]])


def test_periods_before_the_first_observation_are_dropped() -> None:
    series = Series(np.array([[np.nan, np.nan, 1.0, np.nan]]))
    rows = rows_of([task(series)], context_length=8, horizon=4)
    np.testing.assert_array_equal(rows.past, [[1, np.nan]])


def test_an_unobserved_history_keeps_one_period() -> None:
    series = Series(np.full((1, 5), np.nan))
    assert rows_of([task(series)], context_length=8, horizon=4).past.shape == (1, 1)


def test_categories_become_smoothed_target_means() -> None:
    target = np.array([[10.0, 20.0, 30.0, np.nan]])
    past = np.array(["a", "b", "b", "a"], dtype=object)
    future = np.array(["a", "b", "never seen", None], dtype=object)
    one = Series(target, (Covariate("promotion", past, future),))
    rows = rows_of([task(one)], context_length=8, horizon=4)
    mean_a, mean_b = (20 + 10) / 2, (20 + 20 + 30) / 3
    np.testing.assert_allclose(rows.past[1], [mean_a, mean_b, mean_b, mean_a])
    np.testing.assert_allclose(rows.future[1], [mean_a, mean_b, 20, 20])
    assert np.isnan(rows.future[0]).all()
    assert rows.target.tolist() == [True, False]


@pytest.mark.parametrize("factor", [1e12, 1.0, 1e-9, 1e-30])
def test_scaling_does_not_depend_on_the_unit(factor: float) -> None:
    values = np.array([[3.0, 1.0, np.nan, 4.0]]) * factor
    expected = scale_of(np.array([[3.0, 1.0, np.nan, 4.0]]), arcsinh=True)
    scale = scale_of(values, arcsinh=True)
    np.testing.assert_allclose(scale.apply(values), expected.apply(values / factor), rtol=1e-6)


def test_rounding_is_not_taken_for_variation() -> None:
    scale = scale_of(np.full((1, 77), 0.1), arcsinh=True)
    assert scale.scale[0, 0] == pytest.approx(1e-6)


@pytest.mark.parametrize(("level", "expected"), [(0.0, 1e-5), (5e-9, 5e-14), (1e9, 1e-5)])
def test_a_constant_is_scaled_by_its_level_where_that_is_small(
    level: float, expected: float
) -> None:
    scale = scale_of(np.full((1, 60), level), arcsinh=True)
    assert scale.scale[0, 0] == pytest.approx(expected)


def test_least_deviation_is_for_histories_that_say_little() -> None:
    nan = np.nan
    histories = [[5, 5, 5, 5], [nan, nan, nan, 8], [0, 0, 0, 0], [nan, nan, 1, 2], [1, 2, 3, 4]]
    answer = least_deviation(np.array(histories, dtype=float))
    np.testing.assert_allclose(answer, [1, 4, 0.2, 2 / 3, 0])
    assert least_deviation(np.full((1, 3), nan)).tolist() == [1]
