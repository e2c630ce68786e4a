"""What the seasonal adjustment finds, leaves alone, and puts back."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from models.seasonal import CANDIDATES, adjust, season_lengths

if TYPE_CHECKING:
    from models.seasonal import Floats, Seasons

WEEK = np.array([1.0, 0.8, 0.7, 0.9, 1.1, 1.5, 1.0])


def weekly(rows: int = 1, weeks: int = 20, *, noise: float = 0.02, seed: int = 0) -> Floats:
    rng = np.random.default_rng(seed)
    shape = 100 * np.tile(WEEK, weeks) * (1 + noise * rng.normal(size=(rows, 7 * weeks)))
    return np.asarray(shape)


@pytest.mark.parametrize(
    ("freq", "expected"),
    [
        ("h", (24, 168)),
        ("H", (24, 168)),
        ("2h", (12, 84)),
        ("15min", (96, 672)),
        ("30T", (48, 336)),
        ("D", (7, 365)),
        ("2D", (7,)),
        ("B", (5,)),
        ("W", (52,)),
        ("W-MON", (52,)),
        ("2W-SUN", (26,)),
        ("SME", (24,)),
        ("M", (12,)),
        ("ME", (12,)),
        ("MS", (12,)),
        ("BMS", (12,)),
        ("3M", (4,)),
        ("Q", (4,)),
        ("QS-OCT", (4,)),
        ("BQE-DEC", (4,)),
        ("Y", ()),
        ("A-DEC", ()),
        ("YS", ()),
        ("12MS", ()),
        (None, None),
        ("", None),
        ("0D", None),
        ("bh", None),
    ],
)
def test_season_lengths_of_a_frequency(freq: str | None, expected: Seasons) -> None:
    assert season_lengths(freq) == expected


def test_a_multiplicative_season_is_taken_out_and_put_back() -> None:
    values = weekly()
    adjustment = adjust(values, [(7,)])
    assert adjustment.adjusted.std() < 0.2 * values.std()
    forecast = adjustment.restore(np.full((1, 1, 14), 100.0))[0, 0]
    np.testing.assert_allclose(forecast, 100 * np.tile(WEEK, 2) / WEEK.mean(), rtol=0.02)


def test_an_additive_season_is_taken_out_of_values_of_both_signs() -> None:
    values = weekly() - 100
    adjustment = adjust(values, [(7,)])
    assert adjustment.adjusted.std() < 0.2 * values.std()
    forecast = adjustment.restore(np.zeros((1, 1, 7)))[0, 0]
    np.testing.assert_allclose(forecast, 100 * (WEEK - WEEK.mean()), atol=2)


def test_a_trend_is_no_season_and_hides_none() -> None:
    steps = np.arange(60.0)
    line = 100 + 3 * steps[None]
    np.testing.assert_allclose(adjust(line, [(12,)]).adjusted, line, rtol=1e-9)
    season = 1 + 0.3 * np.sin(2 * np.pi * steps / 12)
    np.testing.assert_allclose(adjust(line * season, [(12,)]).adjusted, line, rtol=0.05)


def test_two_seasons_at_once() -> None:
    hours = np.arange(24 * 7 * 5)
    day, week = np.sin(2 * np.pi * hours / 24), np.cos(2 * np.pi * hours / 168)
    values = (100 + 20 * day + 15 * week)[None]
    assert adjust(values, [(24, 168)]).adjusted.std() < 0.1 * values.std()


def test_a_year_of_weeks_is_learned_from_two() -> None:
    weeks = np.arange(104)
    values = (100 + 80 * (weeks % 52 == 47) + 10 * np.sin(2 * np.pi * weeks / 52))[None]
    forecast = adjust(values, [(52,)]).restore(np.full((1, 1, 52), 100.0))[0, 0]
    assert forecast.argmax() == 47
    assert forecast.max() > 120


def test_noise_is_hardly_touched() -> None:
    values: Floats = 100 + np.random.default_rng(1).normal(size=(50, 84))
    change = adjust(values, [(7,)] * 50).adjusted - values
    assert np.abs(change).mean() < 0.15


def test_a_season_that_moves_is_followed() -> None:
    years = np.arange(16)[:, None]
    early, late = (np.random.default_rng(i).normal(size=12) for i in (1, 2))
    moving = 100 + 10 * (early + (late - early) * years / 15)
    noise = np.random.default_rng(3).normal(size=(20, 192))
    adjusted = adjust(moving.ravel() + noise, [(12,)] * 20)
    season = adjusted.restore(np.full((20, 1, 12), 100.0))[:, 0] - 100
    latest, average = (part - part.mean() for part in (moving[-1], moving.mean(axis=0)))
    assert np.abs(season - latest).mean() < 0.35 * np.abs(average - latest).mean()


def test_a_season_that_stays_is_averaged_over_all_cycles() -> None:
    flat = adjust(weekly(40, weeks=40, noise=0.2), [(7,)] * 40)
    index = flat.restore(np.full((40, 1, 7), 100.0))[:, 0]
    assert np.abs(index / (100 * WEEK / WEEK.mean()) - 1).mean() < 0.045, "0.2 / √40 and a little"


def test_an_index_shrinks_where_little_speaks_for_it() -> None:
    noise = np.random.default_rng(3).normal(size=(300, 28))
    effects = adjust(noise, [(7,)] * 300).restore(np.zeros((300, 1, 7)))[:, 0]
    phase_means = noise.reshape(300, 4, 7).mean(axis=1)
    assert effects.std() < 0.5 * phase_means.std()


def test_outliers_hardly_move_the_indices() -> None:
    values = weekly(noise=0.05)
    spoilt = values.copy()
    spoilt[0, [10, 45, 80]] *= 6
    step = np.full((1, 1, 7), 100.0)
    expected = adjust(values, [(7,)]).restore(step)
    np.testing.assert_allclose(adjust(spoilt, [(7,)]).restore(step), expected, rtol=0.1)


def test_a_closed_day_is_masked_and_answered_with_zero() -> None:
    values = weekly()
    values[0, 6::7] = 0
    adjustment = adjust(values, [(7,)])
    assert np.isnan(adjustment.adjusted[0, 6::7]).all()
    assert np.isfinite(np.delete(adjustment.adjusted[0], np.s_[6::7])).all()
    forecast = adjustment.restore(np.full((1, 3, 14), 100.0))
    assert (forecast[0, :, 6::7] == 0).all()
    assert (forecast[0, :, :6] > 50).all()


def test_it_says_which_rows_had_a_season() -> None:
    line, closed = np.arange(56.0)[None] + 10, np.tile([5.0] * 6 + [0.0], 8)[None]
    rows = np.concatenate([weekly()[:, -56:], line, closed])
    assert adjust(rows, [(7,)] * 3).found.tolist() == [True, False, False]


def test_a_day_opened_once_is_not_closed() -> None:
    values = weekly()
    values[0, 6::7] = 0
    values[0, -1] = 20
    assert np.isfinite(adjust(values, [(7,)]).adjusted).all()


def test_intermittent_series_keep_their_values() -> None:
    values = np.where(np.random.default_rng(0).random((20, 84)) < 0.2, 3.0, 0.0)
    np.testing.assert_array_equal(adjust(values, [(7,)] * 20).adjusted, values)


def test_missing_values_stay_missing_and_hurt_little() -> None:
    values = weekly()
    gaps = values.copy()
    gaps[0, np.random.default_rng(0).random(140) < 0.2] = np.nan
    adjusted = adjust(gaps, [(7,)]).adjusted
    np.testing.assert_array_equal(np.isnan(adjusted), np.isnan(gaps))
    assert np.nanstd(adjusted) < 0.2 * values.std()


@pytest.mark.parametrize("length", [7, 12, 24, 52])
def test_an_unknown_season_is_found(length: int) -> None:
    steps = np.arange(6 * length)
    rng = np.random.default_rng(length)
    pattern = rng.normal(size=length)[steps % length]
    values: Floats = (50 + 5 * pattern + rng.normal(size=len(steps)))[None]
    assert adjust(values, [None]).layers[0].factor.shape[1] == length


def test_noise_of_unknown_frequency_passes_unchanged() -> None:
    values = 100 + np.random.default_rng(0).normal(size=(40, 200))
    adjusted = adjust(values, [None] * 40).adjusted
    assert (adjusted == values).all(axis=1).mean() > 0.9


def test_a_frequency_without_season_passes_unchanged() -> None:
    np.testing.assert_array_equal(adjust(weekly(), [()]).adjusted, weekly())


def test_remove_is_the_inverse_of_restore() -> None:
    values = weekly(4)
    adjustment = adjust(values[:, :-21], [(7,), (), None, (7, 365)])
    future = values[:, -21:]
    restored = adjustment.restore(adjustment.remove(future)[:, None])[:, 0]
    np.testing.assert_allclose(restored, future, rtol=1e-12)


def test_take_keeps_the_order_asked_for() -> None:
    adjustment = adjust(weekly(6), [(7,), (), (7,), None, (7,), (5, 7)])
    forecast = np.ones((6, 2, 9))
    rows = [4, 1, 0, 5]
    taken = adjustment.take(rows)
    np.testing.assert_array_equal(taken.adjusted, adjustment.adjusted[rows])
    np.testing.assert_array_equal(taken.restore(forecast[rows]), adjustment.restore(forecast)[rows])


def test_a_row_does_not_depend_on_the_others_or_on_padding() -> None:
    seasons: list[Seasons] = [(7,), None, (12,), (7, 365), (24, 168)]
    values = weekly(5, noise=0.3)
    values[2, 3::7] = 0
    together = adjust(np.pad(values, ((0, 0), (33, 0)), constant_values=np.nan), seasons)
    forecast = np.ones((5, 1, 10))
    for i, season in enumerate(seasons):
        alone = adjust(values[i : i + 1], [season])
        np.testing.assert_allclose(alone.adjusted[0], together.adjusted[i, 33:], rtol=1e-9)
        np.testing.assert_allclose(
            alone.restore(forecast[:1])[0], together.restore(forecast)[i], rtol=1e-9
        )


@pytest.mark.parametrize("season", [(7,), (7, 365), (24, 168), (52,), None])
def test_rows_of_all_lengths_are_adjusted_as_if_alone(season: Seasons) -> None:
    rng = np.random.default_rng(7)
    rows = []
    for length in np.exp(rng.uniform(np.log(3), np.log(1000), 150)).astype(int):
        week = 1 + 0.3 * rng.normal(size=7)[np.arange(length) % 7]
        row = 10 ** rng.uniform(-3, 6) * week * rng.gamma(5, 0.2, length)
        row[rng.random(length) < 0.05] = np.nan
        rows.append(row)
    width = max(map(len, rows))
    padded = np.array([np.pad(row, (width - len(row), 0), constant_values=np.nan) for row in rows])
    together = adjust(padded, [season] * len(rows))
    futures = together.restore(np.ones((len(rows), 1, 28)))
    for number, row in enumerate(rows):
        alone = adjust(row[None], [season])
        scale = max(float(np.nanstd(row)), 1e-9) if np.isfinite(row).any() else 1.0
        adjusted = together.adjusted[number, width - len(row) :]
        np.testing.assert_allclose(adjusted, alone.adjusted[0], rtol=0, atol=1e-9 * scale)
        future = alone.restore(np.ones((1, 1, 28)))[0]
        np.testing.assert_allclose(futures[number], future, rtol=0, atol=1e-9 * scale)


def test_rows_and_seasons_must_agree() -> None:
    with pytest.raises(ValueError, match="2 rows, but seasons of 1"):
        adjust(np.zeros((2, 5)), [()])


@pytest.mark.parametrize(
    "values",
    [
        np.full(60, np.nan),
        np.zeros(60),
        np.ones(1),
        np.array([np.nan, 5.0]),
        np.full(60, 1e12),
        1e12 + np.arange(60.0),
        1e-9 * np.random.default_rng(0).random(60),
        1e300 * np.random.default_rng(0).normal(size=60),
        5e-324 * np.arange(60),
        (np.arange(120) % 40 == 0) * 7.0,
        np.r_[np.full(50, np.nan), np.arange(40.0)],
        np.empty(0),
    ],
    ids=str,
)
@pytest.mark.parametrize("season", [(7,), (4, 12), (), None])
def test_hard_rows_stay_finite(values: Floats, season: Seasons) -> None:
    with np.errstate(over="raise", divide="raise", invalid="raise"):
        adjustment = adjust(values[None], [season])
        restored = adjustment.restore(np.ones((1, 2, 30)))
    assert not np.isinf(adjustment.adjusted).any()
    assert np.isfinite(restored).all()


@settings(max_examples=60, deadline=None)
@given(
    arrays(
        np.float64,
        st.tuples(st.integers(1, 3), st.integers(1, 80)),
        elements=st.floats(-1e9, 1e9, allow_subnormal=False) | st.sampled_from([0.0, np.nan]),
    ),
    st.sampled_from([(4,), (7,), (5, 7), (), None]),
)
def test_finite_values_stay_finite(values: Floats, season: Seasons) -> None:
    adjustment = adjust(values, [season] * len(values))
    assert not np.isinf(adjustment.adjusted).any()
    assert (np.isnan(adjustment.adjusted) | ~np.isnan(values)).all()
    assert np.isfinite(adjustment.restore(np.ones((len(values), 1, 20)))).all()


def test_candidates_ascend() -> None:
    assert list(CANDIDATES) == sorted(CANDIDATES)
