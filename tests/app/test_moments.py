"""Times are read by one clock, whatever they are written by."""

from datetime import datetime, timedelta

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.moments import Clock, MixedZonesError, fixed_times, has_zone, is_time, zone_of

BERLIN = Clock(zone_of("Europe/Berlin"))
TAKEN_AS_GIVEN = Clock()


def days(text: str) -> float:
    return (datetime.fromisoformat(text) - datetime(1970, 1, 1)) / timedelta(days=1)  # noqa: DTZ001


def test_times_without_a_zone_are_taken_as_given() -> None:
    times = TAKEN_AS_GIVEN.times(["2026-09-01", "2026-09-01T10:30:00.25"])
    assert times.days.tolist() == [days("2026-09-01"), days("2026-09-01T10:30:00.25")]
    assert times.offsets is None


def test_a_time_with_a_zone_stays_on_the_day_it_was_written_on() -> None:
    times = TAKEN_AS_GIVEN.times(["2026-09-01T23:30:00-05:00", "2026-09-02T01:00:00+09:00"])
    assert np.floor(times.days).tolist() == [days("2026-09-01"), days("2026-09-02")]


def test_a_zone_says_which_day_it_is() -> None:
    times = BERLIN.times(["2026-07-01T22:30:00Z", "2026-12-31T23:30:00Z"])
    wanted = [days("2026-07-02T00:30"), days("2027-01-01T00:30")]
    assert times.days.tolist() == pytest.approx(wanted, abs=1e-9)
    mixed = BERLIN.times(["2026-07-01T22:30:00Z", "2026-07-02T00:30:00"])
    assert mixed.days[0] == pytest.approx(mixed.days[1])


def test_what_came_first_is_told_across_offsets() -> None:
    as_of = TAKEN_AS_GIVEN.moment("2026-10-25T02:15:00+01:00")
    times = TAKEN_AS_GIVEN.times(["2026-10-25T02:30:00+02:00", "2026-10-25T01:20:00Z"])
    assert times.not_before(as_of).tolist() == [False, True]
    assert times.seen_from(as_of).tolist() == pytest.approx(
        [days("2026-10-25T03:15"), days("2026-10-25T01:15")]
    )


def test_kinds_are_not_mixed_without_a_zone() -> None:
    with pytest.raises(MixedZonesError) as caught:
        TAKEN_AS_GIVEN.times(["2026-09-01", "2026-09-02", "2026-09-03T00:00Z"])
    assert caught.value.odd == 2


@pytest.mark.parametrize(
    ("clock", "sent", "answered", "kept"),
    [
        (TAKEN_AS_GIVEN, "2026-10-01", "2026-10-01T00:00:00", "2026-10-01T00:00:00"),
        (TAKEN_AS_GIVEN, "2026-10-01T05:00Z", "2026-10-01T05:00:00Z", "2026-10-01T05:00:00Z"),
        (BERLIN, "2026-10-01", "2026-10-01T00:00:00", "2026-10-01T00:00:00+02:00"),
        (
            BERLIN,
            "2026-12-01T00:00:00-03:30",
            "2026-12-01T04:30:00+01:00",
            "2026-12-01T04:30:00+01:00",
        ),
        (
            TAKEN_AS_GIVEN,
            "2026-12-01T00:00:00-03:30",
            "2026-12-01T00:00:00-03:30",
            "2026-12-01T00:00:00-03:30",
        ),
    ],
)
def test_a_moment_comes_back_as_it_was_sent(
    clock: Clock, sent: str, answered: str, kept: str
) -> None:
    moment = clock.moment(sent)
    assert (moment.written(), moment.kept()) == (answered, kept)
    assert TAKEN_AS_GIVEN.moment(moment.kept()).kept() == kept


def test_moments_are_compared_by_what_is_known() -> None:
    first, second, bare = map(
        TAKEN_AS_GIVEN.moment, ("2026-10-01T00:30:00+02:00", "2026-09-30T23:00:00Z", "2026-10-01")
    )
    assert first.is_before(second)
    assert not second.is_before(first)
    assert second.is_before(bare)  # by the local clocks


def test_now_is_rounded_up_to_the_hour() -> None:
    moment = BERLIN.now(zoned=False)
    assert (moment.local.minute, moment.local.second, moment.local.microsecond) == (0, 0, 0)
    assert moment.written() == moment.local.isoformat()
    assert moment.offset is not None


def test_the_hour_after_the_latest_time() -> None:
    plain = TAKEN_AS_GIVEN.times(["2026-09-30T10:00:00", "2026-09-30T12:00:00"])
    assert TAKEN_AS_GIVEN.after(plain).kept() == "2026-09-30T13:00:00"
    zoned = TAKEN_AS_GIVEN.times(["2026-09-30T10:00:00-05:00", "2026-09-30T12:00:00+02:00"])
    assert TAKEN_AS_GIVEN.after(zoned).kept() == "2026-09-30T11:00:00-05:00"
    assert BERLIN.after(plain).kept() == "2026-09-30T13:00:00+02:00"


@pytest.mark.parametrize("text", ["", "now", "today", "NaT", "2026-13-01", "0001-01-01", "9999"])
def test_what_is_no_time_is_refused(text: str) -> None:
    assert not is_time(text)
    with pytest.raises(ValueError, match=r"."):
        TAKEN_AS_GIVEN.moment(text)
    with pytest.raises(ValueError, match=r"."):
        TAKEN_AS_GIVEN.times([text])


@pytest.mark.parametrize("name", ["", "Europe", "Mars/Olympus", "../etc/passwd", "x" * 999, "\0"])
def test_an_unknown_zone_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        zone_of(name)


def test_a_zone_is_seen() -> None:
    assert [has_zone(text) for text in ("2026-09-01", "2026-09-01T00:00Z")] == [False, True]


def test_the_share_of_the_year_gone() -> None:
    assert TAKEN_AS_GIVEN.moment("2026-01-01").year_phase == 0
    assert TAKEN_AS_GIVEN.moment("2024-07-02").year_phase == pytest.approx(0.5, abs=1e-9)


FORMS = ("%Y-%m-%d", "%Y-%m-%dT%H:%M", "%Y-%m-%d %H:%M:%S", "%Y-%m-%dT%H:%M:%S.%f")


@given(
    st.lists(
        st.datetimes(datetime(1901, 1, 1), datetime(2199, 1, 1)),  # noqa: DTZ001 - local times
        min_size=1,
        max_size=5,
    ),
    st.sampled_from(FORMS),
    st.sampled_from(("", "Z", "+05:30", "-11:00")),
)
def test_times_of_one_form_are_read_as_one_by_one(
    times: list[datetime], form: str, zone: str
) -> None:
    texts = [time.strftime(form).rjust(10, "0") + (zone if "%H" in form else "") for time in times]
    assert fixed_times(texts) is not None
    together = TAKEN_AS_GIVEN.times(texts)
    assert together.days.tolist() == pytest.approx([days(bare(text)) for text in texts], abs=1e-9)
    wanted = TAKEN_AS_GIVEN.moment(texts[0]).offset
    if wanted is None:
        assert together.offsets is None
    else:
        assert together.offsets is not None
        assert together.offsets[0] == pytest.approx(wanted / timedelta(days=1))


def bare(text: str) -> str:
    return datetime.fromisoformat(text).replace(tzinfo=None).isoformat()


@given(st.text("0123456789-T:Z+.", min_size=8, max_size=20))
def test_what_is_read_at_once_is_a_time(text: str) -> None:
    if fixed_times([text]) is not None:
        datetime.fromisoformat(text)


@pytest.mark.parametrize(
    "odd",
    [
        *("2026-13-01T00:00", "2026-02-29T00:00", "2026-01-01T24:00", "2026-01-01T00:60"),
        *("0000-01-01T00:00", "2026-01-00T00:00", "2026-01-01t00:00", "2026-01-01T00:0٠", "x" * 16),
    ],
)
def test_an_odd_one_among_many_is_left_to_be_told(odd: str) -> None:
    assert fixed_times(["2026-01-01T00:00", odd]) is None
    assert fixed_times([odd]) is None
