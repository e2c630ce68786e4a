"""The gate lets a version pass that is surely better and nowhere much worse, and says why."""

from __future__ import annotations

import dataclasses
import json
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import pytest

from models.backtest import NAIVE, Batch, Forecaster, Plan, Record, network
from models.base import ModelError
from models.gate import Reference, Rules, judge, simulated

if TYPE_CHECKING:
    from models.base import FloatArray
    from models.series import SeriesNetwork

PLAN = Plan("D", horizon=7, origins=2, season=7)
LEVEL = 20.0


def shop(count: int = 20, seed: int = 0, name: str = "apples") -> list[Record]:
    rng = np.random.default_rng(seed)
    days = pd.date_range("2026-01-01", periods=80)
    return [Record(f"{name} {n}", days, rng.normal(LEVEL, 3, 80)) for n in range(count)]


def about(centre: float, width: float = 3.0, *, unlucky: str = "") -> Forecaster:
    """Quantiles of a normal distribution; items that begin with `unlucky` get 3 more."""

    def forecast(batch: Batch) -> list[FloatArray]:
        levels = np.array(batch.plan.levels)[:, None]
        deviation = width * np.sqrt(2) * _inverse_error(2 * levels - 1)
        rows = np.tile(centre + deviation, batch.plan.horizon)
        return [rows + 3.0 * (bool(unlucky) and w.item.startswith(unlucky)) for w in batch.windows]

    return forecast


def _inverse_error(values: FloatArray) -> FloatArray:
    from scipy.special import erfinv  # noqa: PLC0415

    return np.asarray(erfinv(values))


RIVALS = {"production": about(LEVEL + 2), "candidate": about(LEVEL)}


def test_a_better_one_passes_and_the_verdict_is_json() -> None:
    verdict = judge(shop(), PLAN, RIVALS)
    assert verdict.accepted
    assert 0 < verdict.gain.low < verdict.gain.gain < verdict.gain.high < 1
    assert "beats the margin of 0.0%" in verdict.reasons[0]
    assert set(verdict.scores) == {NAIVE, "production", "candidate"}
    assert (verdict.series, verdict.windows, verdict.first) == (20, 40, "2026-03-08T00:00:00")
    assert json.loads(json.dumps(dataclasses.asdict(verdict)))["accepted"] is True


def test_one_that_is_no_better_does_not_pass() -> None:
    verdict = judge(shop(), PLAN, {"production": about(LEVEL), "candidate": about(LEVEL)})
    assert not verdict.accepted
    assert verdict.gain.gain == 0
    assert "does not beat the margin" in verdict.reasons[0]


def test_the_lower_bound_has_to_beat_the_margin() -> None:
    gain = judge(shop(), PLAN, RIVALS).gain
    between = Rules(margin=(gain.low + gain.gain) / 2)
    assert not judge(shop(), PLAN, RIVALS, rules=between).accepted


def test_a_series_with_next_to_no_unit_does_not_decide_for_all() -> None:
    """It was still until the windows, and production happens to be nearer there."""
    still = shop(1, name="still")[0]
    values = np.where(np.arange(80) < 66, LEVEL + 0.01 * (np.arange(80) % 2), LEVEL + 2)
    verdict = judge([*shop(), dataclasses.replace(still, target=values)], PLAN, RIVALS)
    assert verdict.scores["candidate"].scaled_pinball > verdict.scores["production"].scaled_pinball
    assert verdict.gain.low > 0


def test_a_gain_of_few_series_is_no_sure_one() -> None:
    one_wins = shop(9) + [dataclasses.replace(r, item=f"b {r.item}") for r in shop(1, seed=1)]
    lucky = {"production": about(LEVEL, unlucky="b"), "candidate": about(LEVEL + 0.5)}
    verdict = judge(one_wins, PLAN, lucky)
    assert verdict.gain.gain > 0 > verdict.gain.low
    assert not verdict.accepted


def test_intervals_may_not_hold_less() -> None:
    narrow = {"production": about(LEVEL + 2.5), "candidate": about(LEVEL, 1.2)}
    verdict = judge(shop(), PLAN, narrow)
    assert verdict.gain.low > 0
    assert not verdict.accepted
    assert any("80% intervals hold" in reason for reason in verdict.reasons)


def test_what_was_known_may_not_be_forgotten() -> None:
    forgetful = {
        "production": about(LEVEL + 1, unlucky="a"),
        "candidate": about(LEVEL, unlucky="pears"),
    }
    before = Reference("last year", shop(name="pears"), PLAN)
    verdict = judge(shop(), PLAN, forgetful, references=[before])
    assert verdict.references["last year"] > 1.1
    assert not verdict.accepted
    assert "something was forgotten" in verdict.reasons[0]


def test_a_segment_that_is_harmed_is_seen() -> None:
    records = shop(30) + shop(8, seed=2, name="pears")
    segments = {record.item: record.item.split()[0] for record in records}
    mixed = {"production": about(LEVEL + 2), "candidate": about(LEVEL, unlucky="pears")}
    verdict = judge(records, PLAN, mixed, segments=segments)
    assert verdict.accepted
    assert verdict.segments["apples"].low > 0
    assert verdict.segments["pears"].series == 8
    assert verdict.harmed == ("pears",)


def test_worse_than_naive_never_passes() -> None:
    bad = {"production": about(LEVEL + 30), "candidate": about(LEVEL + 20)}
    verdict = judge(shop(), PLAN, bad)
    assert any(NAIVE in reason for reason in verdict.reasons)


def test_who_has_seen_the_windows_is_not_judged_on_them() -> None:
    judge(shop(), PLAN, RIVALS, trained_until={"production": None, "candidate": "2026-03-07"})
    with pytest.raises(ModelError, match="candidate was trained on what lies up to 2026-03-08"):
        judge(shop(), PLAN, RIVALS, trained_until={"candidate": "2026-03-08"})


def test_few_series_say_nothing() -> None:
    with pytest.raises(ModelError, match="needs 5 series"):
        judge(shop(4), PLAN, RIVALS)


def test_simulated_references_are_the_same_each_time(tiny_network: SeriesNetwork) -> None:
    one, other = simulated(series=6), simulated(series=6)
    assert [each.name for each in one] == ["simulated D", "simulated MS"]
    for mine, yours in zip(one, other, strict=True):
        pairs = zip(mine.records, yours.records, strict=True)
        assert all((a.target == b.target).all() for a, b in pairs)
    rivals = {"production": network(tiny_network), "candidate": network(tiny_network)}
    assert judge(shop(6), PLAN, rivals, references=one).references == {
        "simulated D": 1.0,
        "simulated MS": 1.0,
    }
