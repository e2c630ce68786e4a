"""Which tasks make the next batch: fair, full, of like length, and nobody for ever."""

import threading

from hypothesis import given
from hypothesis import strategies as st

from app.backlog import Backlog, Batch, Item, Lane
from tests.app.networks import Echo, Word

NETWORK = Echo()
LANE = Lane("echo", 0, bulk=False)


def item(
    value: int,
    *,
    length: int = 16,
    rows: int = 1,
    lane: Lane = LANE,
    caller: str | None = None,
) -> Item:
    return Item(Word(value), NETWORK, lane, rows, length, None, 0.0, caller)


def items(
    count: int,
    *,
    first: int = 0,
    length: int = 16,
    lane: Lane = LANE,
    caller: str | None = None,
) -> list[Item]:
    numbers = range(first, first + count)
    return [item(number, length=length, lane=lane, caller=caller) for number in numbers]


def taken(backlog: Backlog, *, most_rows: int = 4, most_points: int = 100_000) -> list[int]:
    batch = backlog.take(most_rows=most_rows, most_points=most_points)
    assert batch is not None
    return [one.task.value for one in batch.items]


def test_what_came_first_is_taken_first() -> None:
    backlog = Backlog()
    for number in range(6):
        backlog.add([item(number)])
    assert [taken(backlog), taken(backlog)] == [[0, 1, 2, 3], [4, 5]]


def test_requests_share_a_batch_when_they_are_large() -> None:
    backlog = Backlog()
    backlog.add(items(100))
    backlog.add(items(100, first=100))
    batch = taken(backlog, most_rows=20)
    assert sum(value < 100 for value in batch) == 10


def test_a_small_request_finds_its_place_amid_several_large_ones() -> None:
    backlog = Backlog()
    for first in (0, 1000, 2000, 3000):
        backlog.add(items(500, first=first))
    for _ in range(100):
        taken(backlog, most_rows=16)
    backlog.add([item(9999)])
    assert 9999 in taken(backlog, most_rows=16) + taken(backlog, most_rows=16)


def test_a_flood_of_small_requests_does_not_starve_a_large_one() -> None:
    backlog, left, batches = Backlog(), 100, 0
    backlog.add(items(100))
    while left:
        for number in range(8):  # twice what a batch takes
            backlog.add([item(1000 + number)])
        left -= sum(value < 1000 for value in taken(backlog))
        batches += 1
        assert batches < 1000


def test_an_odd_length_is_not_starved_by_a_flood_of_another() -> None:
    backlog = Backlog()
    backlog.add([item(0, length=16)])
    backlog.add([item(1, length=5000)])
    for _ in range(50):
        backlog.add(items(8, first=100))
    found = [taken(backlog) for _ in range(3)]
    assert [1] in found


def test_one_who_asks_a_thousand_times_does_not_hold_up_another() -> None:
    backlog = Backlog()
    for number in range(1000):
        backlog.add([item(number, caller="greedy")])
    for _ in range(10):
        taken(backlog)
    backlog.add([item(9999, caller="other")])
    assert 9999 in taken(backlog)


def test_one_with_a_hundred_large_requests_does_not_hold_up_another() -> None:
    backlog = Backlog()
    for _ in range(100):
        backlog.add(items(100, caller="greedy"))
    for _ in range(100):
        taken(backlog, most_rows=16)
    for number, length in enumerate([16, 500]):
        backlog.add([item(9999 + number, length=length, caller=f"other {number}")])
    found = [taken(backlog, most_rows=16) for _ in range(2)]
    assert {9999, 10_000} <= {value for batch in found for value in batch}


def test_callers_get_like_shares_whatever_each_asks_for() -> None:
    backlog = Backlog()
    for first in range(0, 2000, 100):
        backlog.add(items(100, first=first, caller="greedy"))
    for number in range(200):
        backlog.add([item(5000 + number, rows=2, caller="wide")])
        backlog.add([item(6000 + number, caller="plain")])
    batches = [taken(backlog, most_rows=12) for _ in range(20)]
    counts = [sum(value // 1000 == n for b in batches for value in b) for n in (5, 6)]
    greedy = sum(value < 2000 for batch in batches for value in batch)
    assert max(greedy, counts[1], 2 * counts[0]) - min(greedy, counts[1], 2 * counts[0]) <= 4
    assert greedy >= 70


def test_a_single_request_is_not_behind_a_large_one_of_the_same_caller() -> None:
    backlog = Backlog()
    backlog.add(items(1000, caller="one"))
    backlog.add(items(1000, first=2000, caller="other"))
    for _ in range(20):
        taken(backlog)
    backlog.add([item(9999, caller="one")])
    assert 9999 in taken(backlog) + taken(backlog)


def test_who_was_served_before_is_not_held_up_for_it() -> None:
    backlog = Backlog()
    backlog.add(items(100, caller="one"))
    while backlog.tasks:
        taken(backlog)
    backlog.add(items(8, first=1000, caller="other"))
    backlog.add([item(1, caller="one")])
    assert 1 in taken(backlog)


def test_what_comes_before_is_what_the_order_of_service_says() -> None:
    backlog = Backlog()
    for number in range(100):
        backlog.add([item(number, caller="greedy")])
    backlog.add(items(50, first=1000, caller="large"))
    assert backlog.ahead(16, "greedy") == 100 * 16 + 50 * 16
    assert backlog.ahead(16, "large") == 5 * 16  # two of its own, three between
    assert backlog.ahead(16, "other") == 2 * 16
    assert backlog.ahead(10 * 16, "other") == 2 * 10 * 16
    backlog.add(items(10, first=2000, caller="other"))
    before = 0
    while 2009 not in (batch := taken(backlog, most_rows=1)):
        before += len(batch) * (batch[0] < 2000)
    assert abs(before - 2 * 10) <= 2


def test_what_a_caller_holds_is_what_waits_of_it() -> None:
    backlog, some = Backlog(), items(10, caller="one")
    assert backlog.held("one") == 0
    backlog.add(some)
    backlog.add(items(3, caller="other"))
    backlog.drop(some[:4])
    assert (backlog.held("one"), backlog.held("other")) == (6 * 16, 3 * 16)
    taken(backlog, most_rows=4)
    assert (backlog.held("one"), backlog.held("other")) == (4 * 16, 1 * 16)
    bulk = item(1, lane=LANE._replace(bulk=True))
    backlog.add([bulk])
    backlog.hurry(bulk, "other")
    assert backlog.held("other") == 2 * 16
    while backlog.tasks:
        taken(backlog)
    assert (backlog.held("one"), backlog.held("other")) == (0, 0)


def test_callers_are_forgotten() -> None:
    backlog = Backlog()
    backlog.add(items(20_000, caller="large"))
    for number in range(10_000):
        backlog.add([item(number, caller=f"caller {number}")])
        taken(backlog, most_rows=2)
    assert len(backlog._flows) <= 3
    while backlog.tasks:
        taken(backlog, most_rows=1000)
    assert not backlog._flows


def test_dropped_items_are_not_taken_and_not_counted() -> None:
    backlog, some = Backlog(), items(10)
    backlog.add(some)
    backlog.drop(some[::2])
    backlog.drop(some[::2])
    assert (backlog.tasks, backlog.points) == (5, 80)
    assert taken(backlog, most_rows=10) == [1, 3, 5, 7, 9]
    backlog.drop(some)  # too late, and harmless
    assert (backlog.tasks, backlog.points) == (0, 0)


def test_take_waits_for_work_and_ends_when_stopped() -> None:
    backlog = Backlog()
    found: list[Batch] = []
    thread = threading.Thread(
        target=lambda: found.extend(iter(lambda: backlog.take(most_rows=1, most_points=1), None))
    )
    thread.start()
    backlog.add(items(2))
    while len(found) < 2:
        thread.join(0.001)
    backlog.stop()
    thread.join(30)
    assert not thread.is_alive()


ITEMS = st.lists(
    st.builds(
        item,
        st.just(0),
        length=st.integers(1, 5000),
        rows=st.integers(1, 5),
        lane=st.sampled_from([LANE, Lane("echo", 1, bulk=False), Lane("echo", 0, bulk=True)]),
    ),
    max_size=10,
)


REQUESTS = st.tuples(ITEMS, st.sets(st.integers(0, 9)), st.sampled_from([None, "one", "other"]))


@given(st.lists(REQUESTS, max_size=10))
def test_every_item_is_taken_or_dropped_once(
    requests: list[tuple[list[Item], set[int], str | None]],
) -> None:
    backlog, dropped, expected = Backlog(), 0, 0
    batches: list[Batch] = []
    for some, positions, caller in requests:
        for one in some:
            one.caller = caller
        backlog.add(some)
        gone = [one for number, one in enumerate(some) if number in positions]
        backlog.drop(gone)
        dropped, expected = dropped + len(gone), expected + len(some)
        if backlog.tasks and len(positions) % 2:
            batches.append(_take(backlog))
    while backlog.tasks:
        batches.append(_take(backlog))
    assert sum(len(batch.items) for batch in batches) + dropped == expected
    assert backlog.points == 0
    assert all(flow.tasks == flow.points == 0 for flow in backlog._flows.values())
    for batch in batches:
        assert len({one.lane for one in batch.items}) == 1
        assert len(batch.items) == 1 or (batch.rows <= 8 and batch.padded <= 9000)


def _take(backlog: Backlog) -> Batch:
    batch = backlog.take(most_rows=8, most_points=9000)
    assert batch is not None
    assert batch.items
    return batch
