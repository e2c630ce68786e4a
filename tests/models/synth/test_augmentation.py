"""Augmented series keep their season and change as is said."""

from __future__ import annotations

import numpy as np

from models.synth import augmentation
from models.synth.parts import season
from tests.models.synth.measures import autocorrelation, generator, lengths


def test_down_sampling_turns_days_into_weeks() -> None:
    fine = 5 + season(generator(), lengths(60, 28), 28 * 12)
    coarse = augmentation.down_sampled(generator(), fine, 7)
    assert coarse.shape == (60, 48)
    np.testing.assert_allclose(coarse[:, 4:], coarse[:, :-4])
    summed = np.isclose(coarse, fine.reshape(60, 48, 7).sum(axis=2)).all(axis=1)
    assert 0.4 < summed.mean() < 0.9


def test_mixtures_have_the_season_of_both_parts() -> None:
    own = np.array([7, 12] * 30)
    values = 5 + season(generator(), own, 168)
    mixed = augmentation.mixed(generator(), values, own)
    assert not np.allclose(mixed, values)
    for length in (7, 12):
        rows = mixed[own == length]
        np.testing.assert_allclose(rows[:, length:], rows[:, :-length])


def test_modulation_changes_the_size_and_not_the_sign() -> None:
    values = 5 + season(generator(), lengths(50), 140)
    bent = augmentation.modulated(generator(), values, lengths(50))
    ratio = bent / values
    assert ratio.min() > 0
    assert np.median(np.ptp(ratio, axis=1)) > 0.1
    assert np.median(autocorrelation(ratio, 1)) > 0.9


def test_rows_are_reversed_and_flipped() -> None:
    values = generator().normal(size=(3, 9))
    back = augmentation.reversed_in_time(generator(), values, lengths(3))
    np.testing.assert_array_equal(back, values[:, ::-1])
    np.testing.assert_array_equal(augmentation.flipped(generator(), values, lengths(3)), -values)


def test_censored_rows_pile_up_at_a_bound() -> None:
    values = generator(1).normal(size=(200, 100))
    cut = augmentation.censored(generator(1), values, lengths(200))
    at_bound = np.maximum(
        (cut == cut.max(axis=1, keepdims=True)).sum(axis=1),
        (cut == cut.min(axis=1, keepdims=True)).sum(axis=1),
    )
    assert np.median(at_bound) > 3
    assert (np.abs(cut) <= np.abs(values).max()).all()


def test_rounded_rows_have_few_values() -> None:
    values = generator().normal(size=(50, 2000))
    few = [len(np.unique(row)) for row in augmentation.rounded(generator(), values, lengths(50))]
    assert max(few) <= 1002
    assert min(few) < 50


def test_augmentation_leaves_most_rows_as_they_are() -> None:
    values = 5 + season(generator(), lengths(1000), 70)
    changed = (augmentation.augmented(generator(), values, lengths(1000)) != values).any(axis=1)
    assert 0.2 < changed.mean() < 0.45
