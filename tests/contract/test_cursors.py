"""Cursors: every form of them, and exactly what follows each."""

import pytest

from tests.support.sse_reader import shown
from tests.support.wire import PACED, SLOW, Json, Wire, assert_problem

BROKEN: Json = {"fault": {"kind": "drop", "after": 3, "attempts": 1}}
TEXT = "a b c d e"
GARBAGE = [
    "x",
    "1",
    "-",
    "1-",
    "-1-1",
    "1-1-1",
    "1 - 1",
    "+1-1",
    "0x1-1",
    "1.0-1",
    "1-2,3",
    "$$",
    "１-１",
    "1-1\x00",
    "null",
]
TOO_LARGE = ["18446744073709551616-1", "1-18446744073709551616", "9" * 20 + "-1", "1-" + "0" * 21]


@pytest.mark.requirement("CU-1")
@pytest.mark.parametrize("cursor", [None, "", "-1", "0", "0-0"])
async def test_the_words_for_the_start_give_everything(wire: Wire, cursor: str | None) -> None:
    job = await wire.submit(TEXT)
    log = await wire.log(job)
    assert (await wire.events(job, cursor, exact="true")).bodies == log.bodies
    assert (await wire.events(job, header=cursor, exact="true")).bodies == log.bodies


@pytest.mark.requirement("CU-2")
@pytest.mark.requirement("OR-1")
@pytest.mark.parametrize("params", [{}, BROKEN], ids=["straight", "restarted"])
async def test_every_cursor_gives_exactly_the_events_after_it(wire: Wire, params: Json) -> None:
    job = await wire.submit(TEXT, params)
    log = await wire.log(job)
    for index, cursor in enumerate(log.ids[:-1], start=1):
        rest = await wire.events(job, cursor, exact="true")
        assert (rest.ids, rest.bodies) == (log.ids[index:], log.bodies[index:])


@pytest.mark.requirement("OR-1")
@pytest.mark.requirement("CU-2")
async def test_a_reader_that_is_cut_again_and_again_reads_each_event_once(wire: Wire) -> None:
    job = await wire.submit(params={**PACED, "tokens": 40})
    ids: list[str | None] = []
    frames: list[str] = []
    while "done" not in frames[-1:]:
        async with wire.tail(job, header=ids[-1] if ids else None, exact="true") as tail:
            streamed = await tail.until(lambda streamed: len(streamed.frames) >= 3 or "done" in streamed.names)
        ids += streamed.ids
        frames += streamed.names
    assert ids == (await wire.log(job)).ids


@pytest.mark.requirement("CU-3")
async def test_the_header_wins_over_the_query(wire: Wire) -> None:
    job = await wire.submit(TEXT)
    log = await wire.log(job)
    answer = await wire.events(job, log.ids[4], header=log.ids[1], exact="true")
    assert answer.ids == log.ids[2:]
    assert (await wire.events(job, log.ids[4], header="", exact="true")).ids == log.ids
    assert (await wire.events(job, "garbage", header=log.ids[1], exact="true")).status == 200


@pytest.mark.requirement("CU-4")
@pytest.mark.requirement("RS-2")
async def test_a_dollar_is_a_snapshot_and_then_only_what_comes(wire: Wire) -> None:
    job = await wire.submit(params={**PACED, "tokens": 40})
    async with wire.tail(job, exact="true") as tail:
        await tail.until(lambda streamed: streamed.names.count("token") >= 5)
    late = await wire.events(job, "$", exact="true")
    log = await wire.log(job)
    snapshot = late.frames[0]
    assert (snapshot.event, snapshot.body["snapshot"], snapshot.seq >= 7) == ("reset", True, True)
    assert late.ids[1:] == log.ids[snapshot.seq :]
    assert snapshot.body["text"] == shown(log.frames[: snapshot.seq]).text
    assert shown(late.frames).text == shown(log.frames).text


@pytest.mark.requirement("CU-4")
async def test_a_dollar_before_the_first_token_is_an_empty_snapshot(wire: Wire) -> None:
    job = await wire.submit(params=SLOW)
    async with wire.tail(job) as tail:
        await tail.until(lambda streamed: "start" in streamed.names)
    async with wire.tail(job, "$") as tail:
        await tail.until(lambda streamed: bool(streamed.frames))
        await wire.cancel(job)
        streamed = await tail.end()
    assert streamed.names == ["reset", "cancelled"]
    assert streamed.frames[0].body == {"attempt": 1, "keep": 0, "reason": "snapshot", "text": "", "snapshot": True}


@pytest.mark.requirement("CU-5")
@pytest.mark.requirement("CU-6")
@pytest.mark.parametrize("cursor", GARBAGE + TOO_LARGE)
async def test_a_cursor_that_is_no_id_of_64_bits_is_refused(wire: Wire, cursor: str) -> None:
    job = await wire.submit(TEXT)
    answer = await wire.ask("GET", f"/jobs/{job}/events", params={"last_event_id": cursor})
    problem = assert_problem(answer, 400, "invalid_cursor", "last_event_id")
    assert "<epoch>-<seq>" in problem["detail"]


@pytest.mark.requirement("CU-7")
@pytest.mark.requirement("RS-2")
@pytest.mark.parametrize(
    "cursor", ["1-1", "1-5", "0-2", "18446744073709551615-18446744073709551615", "9999999999-3", "another job's"]
)
async def test_a_cursor_that_the_log_does_not_hold_is_answered_with_a_snapshot(wire: Wire, cursor: str) -> None:
    job = await wire.submit(TEXT)
    log = await wire.log(job)
    if cursor == "another job's":
        other = await wire.log(await wire.submit(TEXT))
        cursor = other.ids[3] or ""
    answer = await wire.events(job, cursor)
    assert answer.names == ["reset", "done"]
    assert answer.ids == log.ids[-2:]
    assert answer.frames[0].body == {"attempt": 1, "keep": 0, "reason": "snapshot", "text": TEXT, "snapshot": True}
    assert answer.last.data == log.last.data


@pytest.mark.requirement("CU-7")
async def test_a_cursor_from_the_future_of_an_open_job_is_answered_with_a_snapshot(wire: Wire) -> None:
    job = await wire.submit(params={**PACED, "tokens": 30})
    late = await wire.events(job, "99999999999-4", exact="true")
    log = await wire.log(job)
    snapshot = late.frames[0]
    assert (snapshot.event, snapshot.body["snapshot"]) == ("reset", True)
    assert late.ids[1:] == log.ids[snapshot.seq :]
    assert shown(late.frames).text == shown(log.frames).text


@pytest.mark.requirement("CU-7")
async def test_a_snapshot_of_a_restarted_job_shows_what_survived(wire: Wire) -> None:
    job = await wire.submit(TEXT, BROKEN)
    await wire.ended(job)
    snapshot = (await wire.events(job, "1-1")).frames[0].body
    assert (snapshot["attempt"], snapshot["text"]) == (2, TEXT)


@pytest.mark.requirement("CU-8")
@pytest.mark.parametrize("dialect", ["native", "chat", "chat-meta", "langchain"])
@pytest.mark.parametrize("end", ["done", "cancelled"])
async def test_nothing_follows_the_terminal_event(wire: Wire, end: str, dialect: str) -> None:
    job = await wire.submit("hello", SLOW if end == "cancelled" else {})
    if end == "cancelled":
        await wire.cancel(job)
    last = (await wire.log(job)).last
    assert last.event == end
    for cursor in (last.id, "$"):
        for place in (
            {"params": {"last_event_id": cursor, "dialect": dialect}},
            {"headers": {"Last-Event-ID": cursor}},
        ):
            answer = await wire.ask("GET", f"/jobs/{job}/events", **place)
            assert (answer.status_code, answer.content) == (204, b"")
