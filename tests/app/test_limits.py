"""A bucket gives what a rate says, and no more."""

from hypothesis import given
from hypothesis import strategies as st

from app.auth import ANYBODY, Caller
from app.limits import Limits
from app.rates import Rate


class Clock:
    """A time that a test sets."""

    def __init__(self) -> None:
        self.now_s = 1e6

    def __call__(self) -> float:
        return self.now_s


def caller(rate: str | None, key_id: str = "k") -> Caller:
    return Caller(key_id, "", frozenset(), rate=None if rate is None else Rate.parse(rate))


async def test_a_full_bucket_is_given_at_once_and_then_at_its_pace() -> None:
    clock = Clock()
    limits, asking = Limits(clock=clock), caller("5/s")
    given = [await limits.take(asking) for _ in range(5)]
    assert [each and each.remaining for each in given] == [4, 3, 2, 1, 0]
    for _ in range(3):
        refused = await limits.take(asking)
        assert refused is not None
        assert abs(refused.wait_s - 0.2) < 1e-6
    clock.now_s += 0.2
    after = await limits.take(asking)
    assert after is not None
    assert after.wait_s == 0
    clock.now_s += 100
    full = await limits.take(asking)
    assert full is not None
    assert full.remaining == 4


async def test_keys_do_not_share_and_no_rate_is_no_limit() -> None:
    limits = Limits(clock=Clock())
    for key_id in ("a", "b"):
        standing = await limits.take(caller("1/d", key_id))
        assert standing is not None
        assert standing.wait_s == 0
    assert await limits.take(caller(None)) is None
    assert await limits.take(ANYBODY) is None


async def test_the_default_is_of_those_without_a_rate() -> None:
    limits = Limits(Rate.parse("1/h"), clock=Clock())
    first, second = await limits.take(ANYBODY), await limits.take(ANYBODY)
    assert first is not None
    assert second is not None
    assert (first.wait_s, round(second.wait_s)) == (0, 3600)
    own = await limits.take(caller("2/s"))
    assert own is not None
    assert own.remaining == 1


@given(
    st.integers(1, 50),
    st.sampled_from([1, 60]),
    st.lists(st.floats(0, 2.0), min_size=1, max_size=120),
)
async def test_no_more_than_the_rate_and_a_bucket(
    count: int, per_s: int, pauses: list[float]
) -> None:
    clock = Clock()
    limits, asking = Limits(clock=clock), Caller("k", "", frozenset(), rate=Rate(count, per_s))
    began_s, given = clock.now_s, 0
    for pause in pauses:
        clock.now_s += pause
        standing = await limits.take(asking)
        assert standing is not None
        given += standing.wait_s == 0
        assert given <= count + (clock.now_s - began_s) * count / per_s + 1e-3
        assert 0 <= standing.remaining <= count
        if standing.wait_s:  # whoever comes when they were told to is served
            clock.now_s += standing.wait_s
            again = await limits.take(asking)
            assert again is not None
            assert again.wait_s == 0
            given += 1
