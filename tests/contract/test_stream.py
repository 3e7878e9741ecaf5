"""The bytes of a stream: headers, first bytes, frames, heartbeats, joined frames."""

import asyncio
import re
from itertools import pairwise

import pytest

from tests.support.sse_reader import shown
from tests.support.wire import PACED, SLOW, Streamed, Wire

LONG = {"tokens": 1300, "seed": 7}
"""More than two pages of the server's own reading."""


@pytest.mark.requirement("ST-1")
async def test_a_stream_has_headers_that_keep_proxies_from_holding_it_back(wire: Wire) -> None:
    job = await wire.submit("hello")
    headers = (await wire.events(job)).headers
    assert headers["content-type"] == "text/event-stream; charset=utf-8"
    assert headers["cache-control"] == "no-cache, no-transform"
    assert headers["x-accel-buffering"] == "no"
    assert headers["location"] == f"/jobs/{job}"
    assert headers["x-tailrace-job"] == job
    assert "content-length" not in headers


@pytest.mark.requirement("ST-2")
async def test_the_first_bytes_come_before_there_is_anything_to_say(wire: Wire) -> None:
    job = await wire.submit(params=SLOW)
    async with wire.tail(job) as tail:
        started = (await tail.until(lambda streamed: "start" in streamed.names)).last
    async with wire.tail(job, started.id) as tail:
        streamed = await tail.until(lambda streamed: bool(streamed.reader.retries))
        assert re.match(rb": tailrace\nretry: [0-9]+\n", streamed.raw)
        assert streamed.frames == []
        await wire.cancel(job)
        await tail.end()


@pytest.mark.requirement("ST-3")
async def test_silence_is_broken_by_heartbeats_of_one_line(wire: Wire) -> None:
    job = await wire.submit(params=SLOW)
    async with wire.tail(job) as tail:
        await tail.until(lambda streamed: streamed.reader.comments.count("ka") >= 2)
        await wire.cancel(job)
        streamed = await tail.end()
    assert b": ka\n: ka\n" in streamed.raw
    assert b": ka\n\n" not in streamed.raw
    assert streamed.reader.idle_blanks == 0
    assert streamed.names == ["queued", "start", "cancelled"]


@pytest.mark.requirement("ST-4")
@pytest.mark.parametrize("dialect", ["native", "chat", "chat-meta", "langchain"])
async def test_a_blank_line_follows_data_and_nothing_else(wire: Wire, dialect: str) -> None:
    job = await wire.submit("one two three", {"first_token_ms": 700})
    streamed = await wire.events(job, dialect=dialect)
    assert streamed.reader.idle_blanks == 0
    lines = bytes(streamed.raw).decode().split("\n")
    assert {before.partition(":")[0] for before, line in pairwise(lines[:-1]) if not line} == {"data"}
    assert b"\r" not in streamed.raw


@pytest.mark.requirement("ST-5")
@pytest.mark.parametrize("exact", ["true", "false"])
async def test_a_frame_is_id_event_and_one_line_of_json(wire: Wire, exact: str) -> None:
    text = "a\nb\r\nc\u2028d \x85 e"
    streamed = await wire.events(await wire.submit(text), exact=exact)
    for frame in streamed.frames:
        assert frame.fields == ("id", "event", "data")
        assert isinstance(frame.body, dict)
        assert re.fullmatch(r"[0-9]{1,20}-[0-9]{1,20}", frame.id or "")


@pytest.mark.requirement("JF-1")
@pytest.mark.requirement("JF-2")
async def test_joined_frames_prove_by_seq_and_n_that_nothing_is_missing(wire: Wire) -> None:
    job = await wire.submit(params=LONG)
    await wire.ended(job)
    joined = await wire.events(job)
    assert len(joined.frames) < 30
    seq = 0
    for frame in joined.frames:
        seq += frame.n
        assert frame.seq == seq, frame
        assert "n" not in frame.body or (frame.event == "token" and frame.n > 1)
    assert sum(frame.n for frame in joined.frames if frame.event == "token") == LONG["tokens"]


@pytest.mark.requirement("JF-1")
@pytest.mark.requirement("JF-3")
@pytest.mark.requirement("JF-4")
async def test_a_joined_frame_is_the_concatenation_of_the_events_it_names(wire: Wire) -> None:
    job = await wire.submit(params={**LONG, "fault": {"kind": "drop", "after": 600, "attempts": 1}})
    exact = await wire.log(job)
    assert all("n" not in frame.body for frame in exact.frames)
    by_seq = {frame.seq: frame for frame in exact.frames}
    joined = await wire.events(job)
    for frame in joined.frames:
        members = [by_seq[seq] for seq in range(frame.seq - frame.n + 1, frame.seq + 1)]
        assert {(member.event, member.epoch) for member in members} == {(frame.event, frame.epoch)}
        if frame.event == "token":
            assert frame.body["text"] == "".join(member.body["text"] for member in members)
            assert frame.body.get("at_ms") == members[0].body.get("at_ms")
        else:
            assert frame.data == members[0].data
    assert shown(joined.frames).text == shown(exact.frames).text == (await wire.show(job))["text"]


@pytest.mark.requirement("JF-2")
async def test_the_count_of_joined_frames_begins_at_the_cursor(wire: Wire) -> None:
    job = await wire.submit(params={"tokens": 40})
    log = await wire.log(job)
    for cursor in log.frames[:-1:7]:
        first = (await wire.events(job, cursor.id)).frames[0]
        assert first.seq == cursor.seq + first.n


@pytest.mark.requirement("OR-6")
async def test_every_event_reaches_a_reader_that_waits_while_the_job_goes_on(wire: Wire) -> None:
    job = await wire.submit(params={**PACED, "tokens": 30})
    async with wire.tail(job, exact="true") as tail:
        for count in range(1, 31):
            await tail.until(lambda streamed, wanted=count: streamed.names.count("token") >= wanted)  # type: ignore[misc]
        live = await tail.end()
    assert live.ids == (await wire.log(job)).ids


@pytest.mark.requirement("OR-6")
@pytest.mark.requirement("ST-2")
async def test_readers_that_come_all_at_once_to_an_idle_node_are_all_served(wire: Wire) -> None:
    jobs = [await wire.submit(params=SLOW) for _ in range(40)]

    async def read(job: str) -> None:
        async with wire.tail(job) as tail:
            await tail.until(lambda streamed: "start" in streamed.names)

    try:
        outcomes = await asyncio.gather(*map(read, jobs), return_exceptions=True)
    finally:
        for job in jobs:
            await wire.cancel(job)
    assert [outcome for outcome in outcomes if outcome is not None] == []


@pytest.mark.requirement("OR-2")
async def test_one_id_has_one_payload_for_all_readers_whenever_they_come(wire: Wire) -> None:
    job = await wire.submit(params={"tokens": 60, "tokens_per_s": 300})
    readers: list[Streamed] = []

    async def read(after: int) -> None:
        async with wire.tail(job, exact="true") as tail:
            await tail.until(lambda streamed: len(streamed.frames) > after)
            readers.append(await tail.end())

    async with asyncio.TaskGroup() as group:
        for after in range(8):
            group.create_task(read(after))
    late = await wire.log(job)
    assert len(readers) == 8
    for reader in readers:
        assert list(zip(reader.ids, reader.bodies, strict=True)) == list(zip(late.ids, late.bodies, strict=True))
