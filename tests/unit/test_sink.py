"""Sinks: connections that are written to as events come, and what becomes of one that has no room."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest

from api.dialects import dialect
from api.sink import Sink, pour
from shared.events import Done, Entry, Event, EventId, Token
from tests.support.loops import until

DONE = Done("stop", {}, 2, 1, {})


class Wire:
    """A connection with a memory."""

    def __init__(self) -> None:
        self.room = True
        self.chunks: list[bytes] = []

    def has_room(self) -> bool:
        return self.room

    def write(self, chunk: bytes) -> bool:
        if self.room:
            self.chunks.append(chunk)
        return self.room

    def body_is_whole(self) -> bool:
        """Nothing is waited for."""
        return True

    def when_lost(self, tell: Callable[[], None] | None) -> None:
        """It never is."""


def entries(*events: Event, after: int = 2) -> list[Entry]:
    """Adjacent entries."""
    return [Entry(EventId(7, after + 1 + place), event) for place, event in enumerate(events)]


@asynccontextmanager
async def waiting(sink: Sink) -> AsyncIterator["asyncio.Task[None]"]:
    """The sink with its reader's task asleep."""
    task = asyncio.create_task(sink.left())
    await until(lambda: sink.asleep)
    try:
        yield task
    finally:
        task.cancel()


def body(chunks: list[bytes]) -> bytes:
    """What chunks carry; each must be whole and say its length."""
    found = b""
    for chunk in chunks:
        length, _, rest = chunk.partition(b"\r\n")
        assert rest == rest[: int(length, 16)] + b"\r\n"
        found += rest[:-2]
    return found


async def test_all_that_wait_get_the_same_bytes_without_a_turn_of_their_tasks() -> None:
    wires = [Wire(), Wire()]
    sinks = [Sink(dialect("native"), wire) for wire in wires]
    async with waiting(sinks[0]) as one, waiting(sinks[1]) as two:
        pour(entries(Token("a"), Token("b")), sinks)
        assert not one.done()
        assert not two.done()
    assert wires[0].chunks == wires[1].chunks
    assert body(wires[0].chunks) == b'id: 7-4\nevent: token\ndata: {"text":"ab","n":2}\n\n'
    assert {sink.cursor for sink in sinks} == {EventId(7, 4)}


async def test_the_end_wakes_the_readers_task() -> None:
    wire = Wire()
    sink = Sink(dialect("native"), wire)
    async with waiting(sink) as task:
        pour(entries(Token("a"), DONE), [sink])
        await asyncio.wait_for(task, 5)
    assert sink.ended
    assert b"event: done" in body(wire.chunks)


async def test_without_room_the_readers_task_is_woken_and_the_dialect_has_said_nothing() -> None:
    wire = Wire()
    sink = Sink(dialect("chat"), wire)
    async with waiting(sink) as task:
        pour(entries(Token("a")), [sink])
        wire.room = False
        pour(entries(Token("b"), DONE, after=3), [sink])
        await asyncio.wait_for(task, 5)
    assert sink.cursor == EventId(7, 3)
    assert not sink.dialect.finished
    assert b'"b"' not in body(wire.chunks)
    # The task goes on from the cursor, with the same dialect: what was not written is still to be said.
    assert b'"b"' in sink.dialect.write(entries(Token("b"), after=3))


async def test_a_sink_whose_task_has_woken_takes_nothing_more() -> None:
    wire = Wire()
    sink = Sink(dialect("native"), wire)
    async with waiting(sink):
        sink.leave()
        pour(entries(Token("a")), [sink])
    assert wire.chunks == []
    assert sink.cursor == EventId(0, 0)


async def test_a_silent_connection_gets_a_heartbeat_and_one_that_has_just_heard_something_does_not() -> None:
    silent, spoken = Sink(dialect("native"), one := Wire()), Sink(dialect("native"), other := Wire())
    silent.spoke_s, spoken.spoke_s = 10.0, 12.0
    async with waiting(silent) as task, waiting(spoken):
        for sink in (silent, spoken):
            sink.beat(11.0, 20.0)
        assert not task.done()
    assert (body(one.chunks), other.chunks) == (b": ka\n", [])
    assert silent.spoke_s == 20.0


async def test_the_readers_task_sees_to_a_heartbeat_that_has_no_room() -> None:
    sink = Sink(dialect("native"), wire := Wire())
    wire.room = False
    async with waiting(sink) as task:
        sink.beat(1.0, 20.0)
        await asyncio.wait_for(task, 5)
    assert wire.chunks == []
    assert sink.spoke_s == 0.0


async def test_what_one_dialect_cannot_write_is_written_to_the_others(caplog: pytest.LogCaptureFixture) -> None:
    sinks = [Sink(dialect("chat"), Wire()), Sink(dialect("native"), wire := Wire())]
    sinks[0].dialect.write = None  # type: ignore[method-assign, assignment]
    async with waiting(sinks[0]) as task, waiting(sinks[1]):
        pour(entries(Token("a")), sinks)
        await asyncio.wait_for(task, 5)
    assert sinks[0].cursor == EventId(0, 0)
    assert b'"a"' in body(wire.chunks)
    assert "could not be encoded" in caplog.text
