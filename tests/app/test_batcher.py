"""What the micro-batcher promises, one test each."""

import asyncio
import time
from contextlib import nullcontext
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.batcher import MicroBatcher
from app.errors import DeadlineError, InvalidInputError, PredictionError, UnavailableError
from app.metrics import Metrics
from app.settings import Settings
from models.base import Series, SeriesTask
from models.series import SeriesNetwork
from tests.app.networks import PATIENCE_S, Echo, Word, running, value_of


def words(*values: int, length: int = 16) -> list[Word]:
    return [Word(value, length=length) for value in values]


def waiting(metrics: Metrics) -> tuple[float, float]:
    tasks = value_of(metrics, "shopcast_queue_tasks")
    return tasks, value_of(metrics, "shopcast_queue_points")


async def test_results_come_in_the_order_of_the_tasks() -> None:
    network = Echo()
    async with running(batch_rows=4) as batcher:
        answer = await batcher.submit(network, words(*range(50)))
    assert answer.results == list(range(50))


async def test_no_tasks_are_answered_with_no_results() -> None:
    async with running() as batcher:
        assert (await batcher.submit(Echo(), [])).results == []


async def test_an_idle_engine_never_waits_for_company() -> None:
    network = Echo()
    async with running() as batcher:
        for value in range(5):
            await batcher.submit(network, words(value))
    assert network.values == [[0], [1], [2], [3], [4]]


async def test_a_busy_engine_gathers_company() -> None:
    network = Echo()
    async with running() as batcher:
        first = await network.occupy(batcher)
        others = [batcher.submit(network, words(value)) for value in range(10)]
        network.open()
        await asyncio.gather(first, *others)
    assert network.values == [[-1], list(range(10))]


async def test_batches_run_side_by_side_and_no_more_than_asked_for() -> None:
    network = Echo(threads=2)
    async with running(threads=2, batch_rows=1) as batcher:
        for value in (1, 2):
            network.shut(value)
        call = batcher.submit(network, words(1, 2, 3))
        for _ in range(2):
            await network.begun()
        assert sorted(network.values) == [[1], [2]]
        network.open(2)
        await network.begun()  # the third runs while the first still does
        network.open(1)
        assert (await call).results == [1, 2, 3]


async def test_when_one_thread_dies_the_others_end_and_a_new_engine_answers() -> None:
    network = Echo(threads=2, deadly={3})
    async with running(threads=2, batch_rows=1) as batcher:
        held = await network.occupy(batcher)
        with pytest.raises(UnavailableError):
            await batcher.submit(network, words(3))
        network.open()
        with pytest.raises(UnavailableError):
            await held
        async with asyncio.timeout(PATIENCE_S):
            while not batcher.healthy:  # noqa: ASYNC110 - nothing tells of it but the property
                await asyncio.sleep(0.02)
        assert (await batcher.submit(network, words(*range(4, 40)))).results == [*range(4, 40)]


async def test_work_is_counted_in_rows_times_padded_length() -> None:
    network = Echo()
    tasks = [Word(i, length=50 + i % 3, rows=1 + i % 4) for i in range(60)]
    async with running(batch_rows=12, batch_points=500) as batcher:
        await batcher.submit(network, tasks)
    for batch in network.batches:
        rows = sum(task.rows for task in batch)
        assert rows <= 12
        assert rows * max(task.length for task in batch) <= 500
    assert len(network.batches) < 60


async def test_a_task_larger_than_a_batch_runs_alone() -> None:
    network = Echo()
    async with running(batch_rows=4, batch_points=64) as batcher:
        first = await network.occupy(batcher)
        large = batcher.submit(network, [Word(1, rows=9, length=100)])
        small = batcher.submit(network, words(2, 3))
        network.open()
        await asyncio.gather(first, large, small)
    assert network.values == [[-1], [1], [2, 3]]


async def test_series_of_like_length_go_together() -> None:
    network = Echo()
    tasks = [Word(i, length=64 if i % 2 else 4096) for i in range(20)]
    async with running(batch_rows=64, batch_points=1_000_000) as batcher:
        await batcher.submit(network, tasks)
    lengths = [{task.length for task in batch} for batch in network.batches]
    assert lengths == [{4096}, {64}]


async def test_little_padding_costs_less_than_a_batch_of_its_own() -> None:
    network = Echo()
    async with running() as batcher:
        first = await network.occupy(batcher)
        others = batcher.submit(network, [Word(0, length=500), Word(1, length=30)])
        network.open()
        await asyncio.gather(first, others)
    assert network.values == [[-1], [0, 1]]


async def test_a_large_request_is_split_and_lets_small_ones_through() -> None:
    network = Echo()
    async with running(batch_rows=16) as batcher:
        first = await network.occupy(batcher)
        large = batcher.submit(network, words(*range(1000)))
        small = [batcher.submit(network, words(2000 + i)) for i in range(4)]
        network.open()
        await asyncio.gather(first, large, *small)
    assert max(map(len, network.values)) == 16
    turns = [turn for turn, batch in enumerate(network.values) for v in batch if v >= 2000]
    assert max(turns) <= 2


async def test_small_requests_of_another_length_get_through_as_well() -> None:
    network = Echo()
    async with running(batch_rows=16) as batcher:
        first = await network.occupy(batcher)
        large = batcher.submit(network, words(*range(1000), length=1024))
        small = batcher.submit(network, [Word(2000, length=17)])
        network.open()
        await asyncio.gather(first, large, small)
    assert any(2000 in batch for batch in network.values[:3])


async def test_a_cancelled_caller_leaves_the_queue_at_once() -> None:
    network, metrics = Echo(), Metrics()
    async with running(metrics) as batcher:
        first = await network.occupy(batcher)
        caller = asyncio.gather(batcher.submit(network, words(*range(30))))
        assert waiting(metrics) == (30, 30 * 16)
        caller.cancel()
        with pytest.raises(asyncio.CancelledError):
            await caller
        assert waiting(metrics) == (0, 0)
        network.open()
        await first
        await batcher.submit(network, words(99))
    assert network.values == [[-1], [99]]


async def test_a_cancelled_caller_never_hurts_its_neighbours() -> None:
    network = Echo()
    async with running() as batcher:
        first = await network.occupy(batcher)
        callers = [batcher.submit(network, words(value)) for value in range(20)]
        for caller in callers[::2]:
            caller.cancel()
        network.open()
        answers = await asyncio.gather(first, *callers[1::2])
    assert [answer.results for answer in answers] == [[-1], *([v] for v in range(1, 20, 2))]


async def test_a_caller_cancelled_while_it_is_computed_never_hurts_its_neighbours() -> None:
    network = Echo()
    async with running() as batcher:
        first = await network.occupy(batcher)
        callers = [batcher.submit(network, words(value)) for value in range(4)]
        network.poison.add(0)  # so that the batch is also retried, without the one who left
        network.shut(0)
        network.open(-1)
        await first
        await network.begun()
        callers[2].cancel()
        await asyncio.sleep(0)
        network.open()
        results = await asyncio.gather(*callers, return_exceptions=True)
    assert isinstance(results[0], PredictionError)
    assert isinstance(results[2], asyncio.CancelledError)
    assert [getattr(results[number], "results", None) for number in (1, 3)] == [[1], [3]]
    assert network.values[2:] == [[0, 1], [0], [-1], [1], [3]]  # -1: does the network still work?


async def test_a_passed_deadline_leaves_the_queue_at_once() -> None:
    network, metrics = Echo(), Metrics()
    async with running(metrics) as batcher:
        first = await network.occupy(batcher)
        deadline_s = asyncio.get_running_loop().time() + 0.05
        late = batcher.submit(network, words(1, 2), deadline_s=deadline_s)
        with pytest.raises(DeadlineError):
            await late
        assert waiting(metrics) == (0, 0)
        network.open()
        await first
    assert network.values == [[-1]]
    assert value_of(metrics, "shopcast_rejects_total", reason="deadline") == 1


async def test_waiting_time_is_bounded_by_the_deadline() -> None:
    network = Echo()
    async with running() as batcher:
        await network.occupy(batcher)
        began_s = time.perf_counter()
        deadline_s = asyncio.get_running_loop().time() + 0.2
        with pytest.raises(DeadlineError):
            await batcher.submit(network, words(1), deadline_s=deadline_s)
        took_s = time.perf_counter() - began_s
        network.open()
    assert 0.19 <= took_s < 2.0


async def test_a_deadline_also_ends_the_wait_for_a_running_batch() -> None:
    network = Echo()
    async with running() as batcher:
        network.shut(1)
        deadline_s = asyncio.get_running_loop().time() + 0.1
        with pytest.raises(DeadlineError):
            await batcher.submit(network, words(1), deadline_s=deadline_s)
        network.open()
        assert (await batcher.submit(network, words(2))).results == [2]


async def test_a_deadline_that_has_passed_is_refused_before_any_work() -> None:
    network = Echo()
    async with running() as batcher:
        with pytest.raises(DeadlineError):
            batcher.submit(network, words(1), deadline_s=asyncio.get_running_loop().time() - 1)
    assert network.batches == []


async def test_one_poisonous_input_fails_alone() -> None:
    network, metrics = Echo(poison={13}), Metrics()
    async with running(metrics) as batcher:
        first = await network.occupy(batcher)
        callers = [batcher.submit(network, words(value)) for value in range(32)]
        network.open()
        await first
        results = await asyncio.gather(*callers, return_exceptions=True)
    for value, result in enumerate(results):
        if value == 13:
            assert isinstance(result, PredictionError)
        else:
            assert not isinstance(result, BaseException)
            assert result.results == [value]
    assert value_of(metrics, "shopcast_poisoned_tasks_total") == 1
    assert len(network.batches) <= 2 + 2 * 5  # the culprit is found by halving


async def test_a_failure_tells_no_details() -> None:
    network = Echo(poison={1})
    async with running() as batcher:
        with pytest.raises(PredictionError) as caught:
            await batcher.submit(network, words(1))
    assert "secret" not in str(caught.value)
    assert caught.value.__cause__ is None


async def test_a_request_with_a_poisonous_input_fails_and_the_rest_of_it_leaves() -> None:
    network, metrics = Echo(poison={0}), Metrics()
    network.shut(10)
    async with running(metrics, batch_rows=2) as batcher:
        with pytest.raises(PredictionError):
            await batcher.submit(network, words(*range(100)))
        assert waiting(metrics) == (0, 0)
        network.open()
    assert max(value for batch in network.values for value in batch) <= 11


async def test_out_of_memory_halves_the_budget_and_retries() -> None:
    network, metrics = Echo(memory_rows=8), Metrics()
    async with running(metrics, batch_rows=32) as batcher:
        answer = await batcher.submit(network, words(*range(32)))
        assert answer.results == list(range(32))
        assert value_of(metrics, "shopcast_out_of_memory_splits_total") == 3  # 32, 16 and 16
        assert value_of(metrics, "shopcast_engine_budget_ratio") < 0.5
        network.batches.clear()
        await batcher.submit(network, words(*range(32)))
    assert max(map(len, network.values)) <= 8
    assert value_of(metrics, "shopcast_poisoned_tasks_total") == 0


async def test_the_budget_recovers_slowly() -> None:
    network, metrics = Echo(memory_rows=8), Metrics()
    async with running(metrics, batch_rows=32) as batcher:
        await batcher.submit(network, words(*range(32)))
        network.memory_rows = 32
        low = value_of(metrics, "shopcast_engine_budget_ratio")
        await batcher.submit(network, words(0))
        assert low < value_of(metrics, "shopcast_engine_budget_ratio") < low + 0.05
        for value in range(256):
            await batcher.submit(network, words(value))
        assert value_of(metrics, "shopcast_engine_budget_ratio") == 1


async def test_a_task_that_never_fits_the_memory_fails_alone() -> None:
    network, metrics = Echo(memory_rows=8), Metrics()
    async with running(metrics) as batcher:
        with pytest.raises(PredictionError, match="memory"):
            await batcher.submit(network, [Word(1, rows=9)])
        assert (await batcher.submit(network, words(2))).results == [2]
    assert value_of(metrics, "shopcast_engine_budget_ratio") == 1


async def test_what_cannot_be_done_by_its_deadline_is_refused_before_any_work() -> None:
    network = Echo(pace_s=0.02)
    async with running(batch_rows=4) as batcher:
        loop = asyncio.get_running_loop()
        for value in range(4):  # it learns how fast it is
            await batcher.submit(network, words(*range(4 * value, 4 * value + 4)))
        first = await network.occupy(batcher)
        kept = batcher.submit(network, words(*range(100, 300)))  # a second of work and more
        with pytest.raises(UnavailableError) as caught:
            batcher.submit(network, words(*range(300, 350)), deadline_s=loop.time() + 0.4)
        assert caught.value.reason == "queue_full"
        with pytest.raises(DeadlineError, match="allow more"):  # to come again is of no use
            batcher.submit(network, words(*range(300, 350)), deadline_s=loop.time() + 0.1)
        # one alone goes between the many of the large request, and is in time
        small = batcher.submit(network, words(400), deadline_s=loop.time() + 10)
        network.open()
        assert (await small).results == [400]
        await asyncio.gather(first, kept)
    assert not any(300 <= value < 350 for batch in network.values for value in batch)


async def test_a_service_that_is_late_promises_less() -> None:
    network = Echo(pace_s=0.005)
    async with running(batch_rows=1) as batcher:
        loop = asyncio.get_running_loop()

        async def many(first: int) -> None:
            ask = words(*range(first, first + 16))
            await batcher.submit(network, ask, deadline_s=loop.time() + 0.3)

        for value in range(4):  # it learns how fast it is
            await batcher.submit(network, words(value))
        await many(100)
        for turn in range(14):  # another lane holds the engine for longer than anybody knows
            network.shut(turn)
            other = batcher.submit(network, [Word(turn, lane=1)])
            ask = words(*range(200 + 8 * turn, 208 + 8 * turn))
            try:
                late = batcher.submit(network, ask, deadline_s=loop.time() + 0.3)
            except UnavailableError:  # where the machine is slow it learns sooner
                network.open(turn)
                await other
                break
            await asyncio.sleep(0.15)
            network.open(turn)
            await asyncio.gather(other, late, return_exceptions=True)
        first = await network.occupy(batcher)
        with pytest.raises(UnavailableError) as caught:
            await many(400)
        assert caught.value.reason == "queue_full"
        network.open()
        await first
        await many(500)  # nothing comes in between any more


async def test_a_network_that_was_slow_once_is_tried_again() -> None:
    network = Echo(pace_s=0.2)
    async with running(batch_rows=1) as batcher:
        loop = asyncio.get_running_loop()
        for value in range(3):
            await batcher.submit(network, words(value))
        network.pace_s = 0.0
        with pytest.raises(DeadlineError):
            batcher.submit(network, words(3), deadline_s=loop.time() + 0.1)
        await asyncio.sleep(1.1)
        answer = await batcher.submit(network, words(4), deadline_s=loop.time() + 0.1)
        assert answer.results == [4]


async def test_what_came_alone_does_not_make_many_at_once_seem_slow() -> None:
    network = Echo(pace_s=0.02)  # a batch, whatever is in it
    async with running(batch_rows=32) as batcher:
        loop = asyncio.get_running_loop()
        await batcher.submit(network, words(*range(1000, 1032)))
        for value in range(30):
            await batcher.submit(network, words(value))
        first = await network.occupy(batcher)
        many = batcher.submit(network, words(*range(100, 132)), deadline_s=loop.time() + 0.5)
        network.open()
        assert len((await many).results) == 32
        await first


async def test_a_full_queue_refuses_at_once_before_any_work() -> None:
    network, metrics = Echo(), Metrics()
    async with running(metrics, queue_points=160) as batcher:
        first = await network.occupy(batcher)
        kept = batcher.submit(network, words(*range(8)))
        with pytest.raises(UnavailableError) as caught:
            batcher.submit(network, words(8, 9, 10))
        assert caught.value.reason == "queue_full"
        assert caught.value.retry_after_s >= 1
        assert waiting(metrics) == (8, 128)  # all or nothing
        assert batcher.healthy  # full is not dead
        also = batcher.submit(network, words(8, 9))
        network.open()
        await asyncio.gather(first, kept, also)
    assert not {10} & {value for batch in network.values for value in batch}
    assert value_of(metrics, "shopcast_rejects_total", reason="queue_full") == 1


async def test_a_key_cannot_fill_the_queue() -> None:
    network, metrics = Echo(), Metrics()
    async with running(metrics, queue_points=160) as batcher:
        first = await network.occupy(batcher)
        kept = [batcher.submit(network, words(value), caller="greedy") for value in range(7)]
        with pytest.raises(UnavailableError, match="this key already fills its share") as caught:
            batcher.submit(network, words(7, 8), caller="greedy")
        assert caught.value.reason == "queue_full"
        assert caught.value.retry_after_s >= 1
        other = batcher.submit(network, words(9, 10), caller="other")
        with pytest.raises(UnavailableError, match="the queue is full"):
            batcher.submit(network, words(11, 12), caller="other")
        kept.pop().cancel()
        await asyncio.sleep(0)
        kept.append(batcher.submit(network, words(12), caller="greedy"))  # there is room again
        network.open()
        await asyncio.gather(first, other, *kept)
        assert waiting(metrics) == (0, 0)
        await batcher.submit(network, words(*range(20, 27)), caller="greedy")
        with pytest.raises(InvalidInputError, match="at most 120 can wait"):
            batcher.submit(network, words(*range(8)), caller="greedy")


async def test_one_key_that_asks_much_does_not_hold_up_another() -> None:
    network = Echo()
    async with running(batch_rows=4) as batcher:
        first = await network.occupy(batcher)
        many = [batcher.submit(network, words(value), caller="greedy") for value in range(1000)]
        single = batcher.submit(network, words(2000), caller="other")
        network.open()
        await asyncio.gather(first, single, *many)
    assert 2000 in network.values[1]


async def test_what_the_queue_could_never_hold_is_no_matter_of_trying_again() -> None:
    network, metrics = Echo(), Metrics()
    async with running(metrics, queue_points=160) as batcher:
        with pytest.raises(InvalidInputError) as caught:
            batcher.submit(network, words(*range(11)))
        (issue,) = caught.value.issues
        assert issue.loc == ("inputs",)
        assert issue.type == "too_many_points"
        assert issue.msg.startswith("176 points at once, at most 160 can wait; send fewer inputs")
        assert waiting(metrics) == (0, 0)
        assert (await batcher.submit(network, words(*range(10)))).results == list(range(10))
        again = [b"same"] * 11  # what is asked twice waits once
        assert (await batcher.submit(network, words(*[7] * 11), keys=again)).results == [7] * 11


async def test_lanes_never_mix() -> None:
    one, other = Echo(fingerprint="one"), Echo(fingerprint="other")
    async with running() as batcher:
        first = await one.occupy(batcher)
        calls = [
            batcher.submit(network, [Word(i, lane=i % 3) for i in range(12)])
            for network in (one, other)
        ]
        one.open()
        await asyncio.gather(first, *calls)
    for network in (one, other):
        lanes = [{task.lane for task in batch} for batch in network.batches]
        assert all(len(lane) == 1 for lane in lanes)
        assert len(lanes) <= 4


async def test_bulk_work_gives_way_and_is_not_starved() -> None:
    network = Echo()
    async with running(batch_rows=2) as batcher:
        first = await network.occupy(batcher)
        bulk = batcher.submit(network, words(*range(100, 110)), bulk=True)
        interactive = batcher.submit(network, words(*range(60)))
        network.open()
        await asyncio.gather(first, bulk, interactive)
    turns = [turn for turn, batch in enumerate(network.values[1:]) if batch[0] >= 100]
    assert turns[0] == 7
    assert all(later - earlier <= 8 for earlier, later in pairwise(turns))
    assert all(len({value >= 100 for value in batch}) == 1 for batch in network.values)


async def test_identical_work_in_flight_is_joined() -> None:
    network, metrics = Echo(), Metrics()
    async with running(metrics) as batcher:
        first = await network.occupy(batcher)
        calls = [batcher.submit(network, words(7, 8), keys=[b"7", b"8"]) for _ in range(3)]
        twice = batcher.submit(network, words(7, 7), keys=[b"7", b"7"])
        network.open()
        answers = await asyncio.gather(first, *calls, twice)
    assert [answer.results for answer in answers[1:]] == [[7, 8]] * 3 + [[7, 7]]
    assert network.values == [[-1], [7, 8]]
    assert value_of(metrics, "shopcast_coalesced_tasks_total") == 6


async def test_work_that_is_done_is_joined_until_its_caller_has_kept_it() -> None:
    network = Echo()
    async with running(Metrics()) as batcher:

        def ask(values: list[Word], keys: list[bytes]) -> asyncio.Future[Any]:
            deadline_s = asyncio.get_running_loop().time() + 0.05
            return batcher.submit(network, values, keys=keys, deadline_s=deadline_s)

        late: list[asyncio.Future[Any]] = []
        first = batcher.submit(network, words(7), keys=[b"7"])
        first.add_done_callback(lambda _: late.append(ask(words(7), [b"7"])))
        first.add_done_callback(lambda _: late.append(ask(words(7, 8), [b"7", b"8"])))
        await first
        answers = await asyncio.gather(*late)
        assert [answer.results for answer in answers] == [[7], [7, 8]]
        assert network.values == [[7], [8]]
        await asyncio.sleep(0.1)  # beyond the deadlines, which nobody waits for any more
        assert (await batcher.submit(network, words(7), keys=[b"7"])).results == [7]
        assert network.values == [[7], [8], [7]]


async def test_who_joins_outlives_who_came_first() -> None:
    network, metrics = Echo(), Metrics()
    async with running(metrics) as batcher:
        first = await network.occupy(batcher)
        gone, stays = (batcher.submit(network, words(7), keys=[b"7"]) for _ in range(2))
        gone.cancel()
        await asyncio.sleep(0)
        assert waiting(metrics) == (1, 16)
        network.open()
        assert (await stays).results == [7]
        await first


async def test_work_leaves_the_queue_when_the_last_who_joined_it_leaves() -> None:
    network, metrics = Echo(), Metrics()
    async with running(metrics) as batcher:
        await network.occupy(batcher)
        callers = [batcher.submit(network, words(7), keys=[b"7"]) for _ in range(2)]
        for caller in callers:
            caller.cancel()
        await asyncio.sleep(0)
        assert waiting(metrics) == (0, 0)
        again = batcher.submit(network, words(7), keys=[b"7"])
        network.open()
        assert (await again).results == [7]


async def test_each_who_joined_fails_with_an_error_of_its_own() -> None:
    network = Echo(poison={7})
    async with running() as batcher:
        await network.occupy(batcher)
        callers = [batcher.submit(network, words(7), keys=[b"7"]) for _ in range(3)]
        network.open()
        errors = await asyncio.gather(*callers, return_exceptions=True)
        assert all(isinstance(error, PredictionError) for error in errors)
        assert len(set(map(id, errors))) == 3
        network.poison.clear()
        assert (await batcher.submit(network, words(7), keys=[b"7"])).results == [7]


async def test_bulk_work_that_an_interactive_caller_joins_is_hurried() -> None:
    network = Echo()
    async with running(batch_rows=1) as batcher:
        first = await network.occupy(batcher)
        bulk = batcher.submit(network, words(7), keys=[b"7"], bulk=True)
        others = batcher.submit(network, words(1, 2, 3))
        joined = batcher.submit(network, words(7), keys=[b"7"])
        network.open()
        await asyncio.gather(first, bulk, others, joined)
    assert [7] in network.values[1:3]


@pytest.mark.parametrize("surplus", [1, 2])
async def test_a_wrong_number_of_results_is_a_failure_never_a_shift(surplus: int) -> None:
    network = Echo(surplus=surplus)
    async with running() as batcher:
        results = await asyncio.gather(
            *(batcher.submit(network, words(value)) for value in range(5)), return_exceptions=True
        )
    assert all(isinstance(result, PredictionError) for result in results)


async def test_a_dead_engine_fails_readiness_and_its_callers_and_is_restarted() -> None:
    network, metrics = Echo(deadly={3}), Metrics()
    async with running(metrics, restart_s=0.1) as batcher:
        first = await network.occupy(batcher)
        deadly = batcher.submit(network, words(3))
        waiter = batcher.submit(network, [Word(4, lane=1)])
        network.open()
        await first
        for caller in (deadly, waiter):
            with pytest.raises(UnavailableError) as caught:
                await caller
            assert caught.value.reason == "engine_down"
        assert not batcher.healthy
        assert waiting(metrics) == (0, 0)
        with pytest.raises(UnavailableError):
            batcher.submit(network, words(5))
        async with asyncio.timeout(PATIENCE_S):
            while not batcher.healthy:  # noqa: ASYNC110 - nothing tells of it but the property
                await asyncio.sleep(0.02)
        assert (await batcher.submit(network, words(6))).results == [6]
    assert value_of(metrics, "shopcast_engine_restarts_total") == 1


async def test_an_engine_that_hangs_fails_readiness_and_its_callers() -> None:
    network, metrics, calls = Echo(), Metrics(), []
    batcher = MicroBatcher(Settings(), metrics, stuck_s=0.2, on_stuck=lambda: calls.append("stuck"))
    await batcher.start()
    try:
        assert (await batcher.submit(network, words(0))).results == [0]
        hanging = await _hang(network, batcher)
        queued = batcher.submit(network, [Word(2, lane=1)])
        for caller in (hanging, queued):
            with pytest.raises(UnavailableError) as caught:
                await asyncio.wait_for(caller, PATIENCE_S)
            assert caught.value.reason == "engine_down"
        assert not batcher.healthy
        assert value_of(metrics, "shopcast_engine_healthy") == 0
        with pytest.raises(UnavailableError):
            batcher.submit(network, words(3))
        await asyncio.sleep(0.3)
        assert calls == ["stuck"]
    finally:
        network.open()
        await batcher.close(PATIENCE_S)


async def _hang(network: Echo, batcher: MicroBatcher) -> "asyncio.Future[object]":
    await network.begun()  # the batch that was answered
    return await network.occupy(batcher)


async def test_a_broken_device_is_told_from_a_run_of_bad_inputs() -> None:
    network, calls = Echo(poison=set(range(1, 9))), []
    batcher = MicroBatcher(
        Settings(), Metrics(), restart_s=PATIENCE_S, on_stuck=lambda: calls.append("stuck")
    )
    await batcher.start()
    for value in range(9):
        with pytest.raises(PredictionError) if value else nullcontext():
            await batcher.submit(network, words(value))
    assert batcher.healthy
    network.broken = True
    with pytest.raises(UnavailableError):
        await batcher.submit(network, words(1))
    assert not batcher.healthy
    assert calls == ["stuck"]
    await batcher.close(PATIENCE_S)


async def test_closing_finishes_what_is_queued_and_refuses_what_is_new() -> None:
    network = Echo()
    async with running(batch_rows=4) as batcher:
        first = await network.occupy(batcher)
        queued = batcher.submit(network, words(*range(40)))
        closing = asyncio.ensure_future(batcher.close(PATIENCE_S))
        await asyncio.sleep(0)
        with pytest.raises(UnavailableError) as caught:
            batcher.submit(network, words(41))
        assert caught.value.reason == "closing"
        network.open()
        await closing
        assert (await first).results == [-1]
        assert (await queued).results == list(range(40))
        assert not batcher.healthy


async def test_closing_does_not_wait_beyond_its_grace() -> None:
    network = Echo()
    async with running() as batcher:
        first = await network.occupy(batcher)
        await batcher.close(0.1)
        with pytest.raises(UnavailableError):
            await first
        network.open()


async def test_a_batcher_that_was_not_started_refuses() -> None:
    batcher = MicroBatcher(Settings(), Metrics())
    assert not batcher.healthy
    with pytest.raises(UnavailableError):
        batcher.submit(Echo(), words(1))
    await batcher.close(1)


async def test_a_poisonous_storm_leaves_everybody_else_unharmed(
    tiny_network: SeriesNetwork,
) -> None:
    """The promise about answers, on a real network: what is in a batch moves nothing."""
    tasks = [_task(seed) for seed in range(60)]
    alone = [tiny_network.predict([task])[0] for task in tasks]
    async with running(batch_rows=16) as batcher:
        callers = [batcher.submit(tiny_network, [task]) for task in tasks]
        for caller in callers[::7]:
            caller.cancel()
        answers = await asyncio.gather(*callers, return_exceptions=True)
    for number, (task, expected, answer) in enumerate(zip(tasks, alone, answers, strict=True)):
        if number % 7 == 0:
            assert isinstance(answer, asyncio.CancelledError)
            continue
        assert not isinstance(answer, BaseException)
        scale = max(1e-9, float(np.nanstd(task.series[0].target)))
        difference = answer.results[0][0].quantiles - expected[0].quantiles
        assert np.abs(difference).max() <= 1e-4 * scale


def _task(seed: int) -> SeriesTask:
    random = np.random.default_rng(seed)
    history = random.gamma(2.0, 10.0, size=(1, int(random.integers(5, 200))))
    horizon = int(random.choice([1, 7, 30]))
    return SeriesTask((Series(history, season_lengths=(7,)),), horizon, (0.1, 0.5, 0.9))


CALLS = st.lists(
    st.tuples(
        st.lists(
            st.builds(
                Word,
                value=st.integers(0, 20),
                length=st.sampled_from([1, 16, 17, 300]),
                rows=st.integers(1, 3),
                lane=st.integers(0, 1),
            ),
            max_size=8,
        ),
        st.sampled_from(["stay", "cancel", "expire"]),
        st.booleans(),
    ),
    max_size=12,
)


@settings(max_examples=60, deadline=None)
@given(calls=CALLS, poison=st.sets(st.integers(0, 20), max_size=3), memory=st.integers(3, 40))
async def test_every_caller_gets_its_own_answer_or_its_own_error(
    calls: list[tuple[list[Word], str, bool]], poison: set[int], memory: int
) -> None:
    network, metrics = Echo(poison=poison, memory_rows=memory), Metrics()
    loop = asyncio.get_running_loop()
    async with running(metrics, batch_rows=6, batch_points=900) as batcher:
        first = await network.occupy(batcher)
        futures = []
        for tasks, fate, bulk in calls:
            deadline_s = loop.time() + 0.03 if fate == "expire" else None
            keys = [repr(task).encode() for task in tasks]
            futures.append(
                batcher.submit(network, tasks, keys=keys, deadline_s=deadline_s, bulk=bulk)
            )
        for (_, fate, _), future in zip(calls, futures, strict=True):
            if fate == "cancel":
                future.cancel()
        expiring = [
            f
            for (tasks, fate, _), f in zip(calls, futures, strict=True)
            if fate == "expire" and tasks
        ]
        await asyncio.gather(*expiring, return_exceptions=True)
        network.open()
        await first
        results = await asyncio.gather(*futures, return_exceptions=True)
        for (tasks, fate, _), result in zip(calls, results, strict=True):
            _judge(tasks, fate, result, poison)
        assert waiting(metrics) == (0, 0)
        assert not batcher._items
        assert not batcher._calls


def _judge(tasks: list[Word], fate: str, result: object, poison: set[int]) -> None:
    values = [task.value for task in tasks]
    if fate == "cancel" and tasks:
        assert isinstance(result, asyncio.CancelledError)
    elif fate == "expire" and tasks:
        assert isinstance(result, DeadlineError)
    elif poison.intersection(values):
        assert isinstance(result, PredictionError)
    else:
        assert getattr(result, "results", None) == values
