"""How long what is at hand of the event loop has waited."""

import asyncio
import socket
import time

import uvloop

from app.turns import Turns


def test_what_arrives_during_a_long_turn_is_known_to_have_waited() -> None:
    async def main() -> None:
        turns, loop = Turns(), asyncio.get_running_loop()
        ages: list[float] = []
        done = asyncio.Event()

        def work() -> None:  # what was read calls for it; meanwhile something else arrives
            far.send(b"b")
            time.sleep(0.05)

        def readable() -> None:
            ages.append(turns.age_s())
            turns.read(loop)
            if near.recv(1) == b"a":
                loop.call_soon(work)
            else:
                done.set()

        near, far = socket.socketpair()
        with near, far:
            near.setblocking(False)
            loop.add_reader(near, readable)
            far.send(b"a")
            await done.wait()
            loop.remove_reader(near)
        assert ages[0] == 0
        assert ages[1] >= 0.05
        await asyncio.sleep(0.05)  # idle again
        assert turns.age_s() == 0

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(main())
