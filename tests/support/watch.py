"""What acceptance tests ask of streams: to wait for a moment in them, and to prove at the end that all is there."""

import asyncio
from collections.abc import Callable

from tailrace_client import AsyncTailrace, Event, Stream

from shared.params import ScriptedParams
from worker.providers.scripted import script

GUARD_S = 45.0


async def read_until(stream: Stream, condition: Callable[[Event], bool]) -> Event:
    """Read on until an event meets the condition; AssertionError if the stream ends first."""
    async with asyncio.timeout(GUARD_S):
        async for event in stream:
            if condition(event):
                return event
    raise AssertionError(f"the stream ended without it: {stream.terminal}")


async def read_tokens(stream: Stream, count: int) -> None:
    """Read on until `count` more token events (joined ones counted as what they join) have come."""
    left = count

    def enough(event: Event) -> bool:
        nonlocal left
        left -= event.n if event.type == "token" else 0
        return left <= 0

    await read_until(stream, enough)


async def finish(stream: Stream) -> Event:
    """Read to the end; the terminal event."""
    async with asyncio.timeout(GUARD_S):
        await stream.finish()
    assert stream.terminal is not None, "the stream ended without a terminal event"
    return stream.terminal


def said(params: dict[str, object], attempt: int) -> str:
    """What the scripted provider says in an attempt."""
    return "".join(script(ScriptedParams.model_validate(params), attempt))


async def assert_whole(tailrace: AsyncTailrace, stream: Stream, text: str) -> None:
    """The reader lost nothing and saw nothing twice, and has the very bytes that the log and the provider have."""
    counters = stream.counters
    assert (counters.lost, counters.doubled) == (0, 0)
    job = await tailrace.job(str(stream.job_id))
    replay = tailrace.events(job.id, exact=True)
    await finish(replay)
    assert stream.transcript.text == text
    assert job.text == text
    assert replay.transcript.text == text
    assert stream.cursor == replay.cursor == job.last_event_id
