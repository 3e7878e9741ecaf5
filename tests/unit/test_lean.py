"""What uvicorn's connections keep, in its light form: it does what the heavy one does."""

import asyncio

import pytest

from api.lean import Bell, Flow
from tests.support.loops import end, until


class Transport(asyncio.Transport):
    """Counts who reads."""

    def __init__(self) -> None:
        super().__init__()
        self.said: list[str] = []

    def pause_reading(self) -> None:
        self.said.append("pause")

    def resume_reading(self) -> None:
        self.said.append("resume")


@pytest.mark.parametrize("kind", [asyncio.Event, Bell])
async def test_all_who_wait_go_on_and_who_has_left_is_not_missed(kind: type[asyncio.Event] | type[Bell]) -> None:
    bell, heard = kind(), []

    async def wait(name: str) -> None:
        await bell.wait()
        heard.append(name)

    tasks = {name: asyncio.create_task(wait(name)) for name in "abc"}
    await asyncio.sleep(0)
    tasks["b"].cancel()
    assert not bell.is_set()
    bell.set()  # before the task that was cancelled has had its turn
    await until(lambda: heard == ["a", "c"])
    await wait("d")
    bell.clear()
    late = asyncio.create_task(wait("e"))
    await asyncio.sleep(0)
    assert heard == ["a", "c", "d"]
    left = asyncio.create_task(wait("f"))
    await asyncio.sleep(0)
    await end(left)
    assert len(bell._waiters) == 1
    bell.set()
    await late
    assert not bell._waiters


async def test_who_writes_waits_for_room_and_reading_is_stopped_and_begun_once() -> None:
    transport = Transport()
    flow = Flow(transport)
    await flow.drain()
    flow.pause_writing()
    waiting = asyncio.create_task(flow.drain())
    await asyncio.sleep(0)
    assert flow.write_paused
    assert not waiting.done()
    flow.resume_writing()
    await waiting
    for act in (flow.resume_reading, flow.pause_reading, flow.pause_reading, flow.resume_reading, flow.resume_reading):
        act()
    assert transport.said == ["pause", "resume"]
