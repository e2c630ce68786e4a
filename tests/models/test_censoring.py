"""Stock-outs in a history: what was sold is only a lower bound."""

from collections.abc import Sequence

import numpy as np
import pytest

from models.base import Covariate, FloatArray, Series, SeriesForecast, SeriesResult, SeriesTask
from models.censoring import FEWEST_BEFORE, MOST_SPELLS, Spell, complete, spells
from models.paths import LEVELS
from models.series import SeriesNetwork

SOLD = np.arange(20.0)[None]


def flagged(*places: int, length: int = 20) -> Series:
    censored = np.isin(np.arange(length), places)
    return Series(np.arange(float(length))[None], censored=censored)


def test_spells_are_periods_in_a_row_with_enough_before() -> None:
    assert spells(flagged(2, 9, 12, 13, 14)) == [Spell(9, 10), Spell(12, 15)]
    assert spells(flagged(FEWEST_BEFORE - 1)) == []
    assert spells(flagged(0)) == []
    assert spells(Series(SOLD)) == []
    many = flagged(*range(10, 100, 2), length=100)
    assert len(spells(many)) == MOST_SPELLS
    assert spells(many)[-1] == Spell(98, 99)


def test_a_period_becomes_what_was_expected_above_its_sales() -> None:
    asked: list[SeriesTask] = []

    def forecast(tasks: Sequence[SeriesTask]) -> list[SeriesResult]:
        """Uniform between 0 and 100 in every period."""
        asked.extend(tasks)
        return [
            (
                SeriesForecast(
                    np.repeat(levels()[None], task.prediction_length, axis=2), SOLD[:, :1]
                ),
            )
            for task in tasks
        ]

    promo = Covariate("promo", np.arange(20.0), np.arange(2.0))
    one = flagged(9, 15, 16)
    one = Series(one.target.copy(), (promo,), censored=one.censored)
    one.target[0, 16] = np.nan
    (task,) = complete([SeriesTask((one,), 2, (0.5,))], forecast, longest=16)
    (made,) = task.series
    assert made.censored is None
    assert made.target[0, 9] == pytest.approx((9 + 100) / 2, rel=0.05)
    assert made.target[0, 15] == pytest.approx((15 + 100) / 2, rel=0.05)
    assert np.isnan(made.target[0, 16])
    others = [n for n in range(20) if n not in {9, 15, 16}]
    assert (made.target[0, others] == SOLD[0, others]).all()
    assert [each.prediction_length for each in asked] == [1, 2]
    (second,) = asked[1].series
    assert second.target.shape == (1, 15)
    assert np.isnan(second.target[0, 9])
    (known,) = second.covariates
    assert known.future is not None
    assert known.future.tolist() == [15, 16]
    assert one.target[0, 9] == 9  # what was sent is left as it was


def levels() -> FloatArray:
    return 100 * np.array(LEVELS)[:, None]


def test_the_network_answers_censored_series_alone_as_in_company(
    tiny_network: SeriesNetwork,
) -> None:
    rng = np.random.default_rng(0)
    sold = rng.poisson(9, 60).astype(np.float64)[None]
    censored = np.isin(np.arange(60), (30, 31, 50))
    task = SeriesTask((Series(sold, censored=censored),), 3, (0.1, 0.9))
    plain = SeriesTask((Series(sold),), 3, (0.1, 0.9))
    missing = SeriesTask((Series(np.where(censored, np.nan, sold)),), 3, (0.1, 0.9))
    alone = tiny_network.predict([task])[0][0].quantiles
    together = tiny_network.predict([plain, task, missing])
    np.testing.assert_allclose(together[1][0].quantiles, alone, atol=1e-4 * sold.std())
    assert not np.allclose(alone, together[0][0].quantiles)
    assert not np.allclose(alone, together[2][0].quantiles)
    assert tiny_network.work(task).rows == 3
    assert tiny_network.work(plain).rows == 1
