"""The client's streams against a node that breaks on purpose: nothing lost, nothing doubled."""

import asyncio
import json
import random

import pytest
from tailrace_client import (
    AsyncTailrace,
    BrokenStreamError,
    Reconnect,
)

from tests.support.client_kit import ANSWER, EVENTS, IDS, TEXT, Waits, everything, ids, rest
from tests.support.fake_node import (
    HANG_UP,
    End,
    FakeNode,
    an_answer,
    events,
    frame,
)

# No test waits for time to pass; one that hangs is stopped.
pytestmark = pytest.mark.timeout(20)


# -- resuming


@pytest.mark.parametrize("end", [End.CLEAN, End.BROKEN, End.ABORTED])
async def test_a_stream_that_ends_early_in_any_way_goes_on_where_it_was(
    node: FakeNode, tailrace: AsyncTailrace, end: End
) -> None:
    node.on(EVENTS, rest(ANSWER, end, only=len(b"".join(ANSWER[:3])) + 9), rest(ANSWER))
    stream = tailrace.events("j1")
    assert ids(await everything(stream)) == IDS
    assert stream.transcript.text == TEXT
    assert (stream.counters.lost, stream.counters.doubled) == (0, 0)
    # A reset may take even the head of the answer with it; then there was nothing to resume yet.
    assert stream.counters.resumes == 1 or end is End.ABORTED
    assert stream.terminal is not None
    assert stream.terminal.type == "done"


@pytest.mark.parametrize("seed", range(12))
async def test_breaks_at_any_byte_lose_nothing_and_double_nothing(
    node: FakeNode, tailrace: AsyncTailrace, seed: int
) -> None:
    chance = random.Random(seed)
    log = an_answer(*(chance.choice(["a", "ß", "水", "🌊\n", "data: x\n\n"]) for _ in range(30)))
    whole = [json.loads(part.split(b"data: ", 1)[1]).get("text", "") for part in log]
    breaks = [
        rest(log, chance.choice([End.CLEAN, End.BROKEN, End.ABORTED]), only=chance.randrange(600)) for _ in range(12)
    ]
    node.on(EVENTS, *breaks, HANG_UP, rest(log))
    stream = tailrace.events("j1")
    received = await everything(stream)
    assert [event.id.seq for event in received if event.id] == list(range(1, len(log) + 1))
    assert stream.transcript.text == "".join(whole)
    assert (stream.counters.lost, stream.counters.doubled, stream.counters.holes) == (0, 0, 0)
    assert stream.counters.received == len(log)


async def test_the_cursor_goes_out_as_last_event_id_and_the_start_as_nothing(
    node: FakeNode, tailrace: AsyncTailrace
) -> None:
    node.on(EVENTS, rest(ANSWER, only=len(ANSWER[0] + ANSWER[1])), rest(ANSWER))
    await tailrace.events("j1").finish()
    assert ["last-event-id" in asked.headers for asked in node.asked] == [False, True]
    assert node.asked[1].headers["last-event-id"] == "7-2"
    assert node.asked[1].headers["authorization"] == "Bearer k"


async def test_a_reader_that_was_away_goes_on_from_its_cursor(node: FakeNode, tailrace: AsyncTailrace) -> None:
    node.on(EVENTS, rest(ANSWER))
    async with tailrace.events("j1") as first:
        async for event in first:
            if str(event.id) == "7-4":
                break
    second = tailrace.events("j1", after=first.cursor, transcript=first.transcript)
    assert ids(await everything(second)) == IDS[4:]
    assert second.transcript.text == TEXT


async def test_a_cut_in_the_middle_of_what_has_arrived_already_costs_nothing(
    node: FakeNode, tailrace: AsyncTailrace
) -> None:
    node.on(EVENTS, rest(ANSWER, End.OPEN), rest(ANSWER))
    breaks: list[Reconnect] = []
    stream = tailrace.events("j1", on_reconnect=breaks.append)
    received = []
    async for event in stream:
        received.append(event)
        if str(event.id) == "7-3":
            await stream.cut()
    assert ids(received) == IDS
    assert node.asked[1].cursor == "7-3"
    assert breaks == [Reconnect("the connection was cut", "7-3", 0, 0.0)]


async def test_a_cut_from_another_task_wakes_the_reader(node: FakeNode, tailrace: AsyncTailrace) -> None:
    node.on(EVENTS, events(*ANSWER[:3], end=End.OPEN), rest(ANSWER))
    stream = tailrace.events("j1")
    waiting = asyncio.Event()

    async def cutter() -> None:
        await waiting.wait()
        await stream.cut()

    async with asyncio.TaskGroup() as group:
        group.create_task(cutter())
        received = []
        async for event in stream:
            received.append(event)
            if str(event.id) == "7-3":
                waiting.set()
    assert ids(received) == IDS
    assert stream.counters.resumes == 1


async def test_a_cancelled_wait_loses_nothing_and_the_next_one_goes_on_at_once(
    node: FakeNode, tailrace: AsyncTailrace, waits: Waits
) -> None:
    node.on(EVENTS, events(*ANSWER[:3], end=End.OPEN), rest(ANSWER))
    stream = tailrace.events("j1")
    received = [await anext(stream) for _ in range(3)]
    wait = asyncio.ensure_future(anext(stream))
    await asyncio.sleep(0)  # it runs now, as far as it can: to the wait for bytes
    wait.cancel()
    with pytest.raises(asyncio.CancelledError):
        await wait
    received += await everything(stream)
    assert ids(received) == IDS
    assert waits.tries == []


async def test_closing_from_another_task_ends_the_reading(
    node: FakeNode, tailrace: AsyncTailrace, waits: Waits
) -> None:
    node.on(EVENTS, events(*ANSWER[:3], end=End.OPEN))
    stream = tailrace.events("j1")
    received = [await anext(stream) for _ in range(3)]
    reader = asyncio.create_task(everything(stream))
    await asyncio.sleep(0)
    await stream.aclose()
    assert await reader == []
    assert ids(received) == IDS[:3]
    assert (node.times(EVENTS), waits.tries) == (1, [])


async def test_a_silent_dead_connection_is_noticed(node: FakeNode, waits: Waits) -> None:
    node.on(EVENTS, events(*ANSWER[:3], end=End.OPEN), rest(ANSWER))
    breaks: list[Reconnect] = []
    async with AsyncTailrace(node.url, patience=waits.patience(read_timeout_s=0.05)) as tailrace:
        assert ids(await everything(tailrace.events("j1", on_reconnect=breaks.append))) == IDS
    assert breaks[0].reason == "not even a heartbeat came for too long"


async def test_the_servers_retry_line_is_honoured_from_then_on(
    node: FakeNode, tailrace: AsyncTailrace, waits: Waits
) -> None:
    node.on(EVENTS, events(b"retry: 1500\n", *ANSWER[:2]), rest(ANSWER, only=len(ANSWER[2])), rest(ANSWER))
    await tailrace.events("j1").finish()
    assert waits.hints == [1.5, 1.5]


async def test_the_backoff_grows_with_tries_in_vain_and_starts_over_with_an_event(
    node: FakeNode, tailrace: AsyncTailrace, waits: Waits
) -> None:
    node.on(EVENTS, HANG_UP, HANG_UP, events(*ANSWER[:2]), events(), HANG_UP, rest(ANSWER))
    await tailrace.events("j1").finish()
    assert waits.tries == [0, 1, 0, 1, 2]


# -- wholeness


async def test_heartbeats_between_events_are_no_events(node: FakeNode, tailrace: AsyncTailrace) -> None:
    beats = [part for line in ANSWER for part in (line, b": ka\n", b": ka\n\n", b"retry: 10\n\n")]
    node.on(EVENTS, events(b": hello\n", *beats))
    assert ids(await everything(tailrace.events("j1"))) == IDS


async def test_an_id_that_was_seen_is_dropped(node: FakeNode, tailrace: AsyncTailrace) -> None:
    node.on(EVENTS, events(*ANSWER[:4], *ANSWER[2:]))
    stream = tailrace.events("j1")
    assert ids(await everything(stream)) == IDS
    assert stream.transcript.text == TEXT
    assert (stream.counters.doubled, stream.counters.resumes) == (2, 0)


async def test_a_hole_is_read_again_from_the_cursor(node: FakeNode, tailrace: AsyncTailrace) -> None:
    node.on(EVENTS, events(*ANSWER[:3], *ANSWER[4:]), rest(ANSWER))
    stream = tailrace.events("j1")
    assert ids(await everything(stream)) == IDS
    assert node.asked[1].cursor == "7-3"
    assert (stream.counters.holes, stream.counters.lost) == (1, 0)


async def test_a_hole_that_stays_is_an_error_and_counted(node: FakeNode, tailrace: AsyncTailrace) -> None:
    node.on(EVENTS, lambda asked: events(*([] if asked.cursor else ANSWER[:3]), *ANSWER[5:]))
    stream = tailrace.events("j1")
    with pytest.raises(BrokenStreamError, match="7-6 does not follow 7-3"):
        await stream.finish()
    assert stream.counters.lost == 2
    assert stream.transcript.text == "Wa"
    assert await everything(stream) == []


@pytest.mark.parametrize(
    "odd",
    [
        frame("token", "6-4", text="older epoch"),
        frame("token", "9-3", text="newer epoch, old seq"),
        frame("token", "7-5", text="joins what was seen", n=3),
        frame("token", "7-4", text="", n=0),
        frame("token", "abc", text="no id"),
        b"id: 7-4\nevent: token\ndata: not json\n\n",
        b"id: 7-4\nevent: token\ndata: []\n\n",
    ],
)
async def test_what_cannot_follow_is_not_delivered_but_read_again(
    node: FakeNode, tailrace: AsyncTailrace, odd: bytes
) -> None:
    node.on(EVENTS, events(*ANSWER[:3], odd), rest(ANSWER))
    assert ids(await everything(tailrace.events("j1"))) == IDS
    assert node.asked[1].cursor == "7-3"


async def test_a_joined_event_proves_its_wholeness_by_n(node: FakeNode, tailrace: AsyncTailrace) -> None:
    joined = frame("token", "7-6", text=TEXT, n=4)
    node.on(EVENTS, events(*ANSWER[:2], joined, ANSWER[-1]))
    stream = tailrace.events("j1")
    assert ids(await everything(stream)) == ["0-1", "7-2", "7-6", "7-7"]
    assert (stream.counters.received, stream.transcript.text) == (7, TEXT)


async def test_a_snapshot_replaces_what_was_there_and_is_the_new_base(node: FakeNode, tailrace: AsyncTailrace) -> None:
    snapshot = frame("reset", "9-5", attempt=2, keep=0, reason="cursor_not_in_log", snapshot=True, text="Wate")
    after = [frame("token", "9-6", text="r"), frame("done", "9-7", finish_reason="stop")]
    node.on(EVENTS, events(*ANSWER[:5]), events(snapshot, *after))
    stream = tailrace.events("j1")
    assert ids(await everything(stream))[-3:] == ["9-5", "9-6", "9-7"]
    assert stream.transcript.text == "Water"
    assert (stream.counters.snapshots, stream.counters.lost, stream.counters.holes) == (1, 0, 0)


async def test_only_what_comes_asks_for_a_snapshot_until_it_has_one(node: FakeNode, tailrace: AsyncTailrace) -> None:
    snapshot = frame("reset", "7-5", attempt=1, keep=0, reason="tail", snapshot=True, text="Water löuft")
    node.on(EVENTS, HANG_UP, events(snapshot), rest(ANSWER))
    stream = tailrace.events("j1", after="$")
    assert ids(await everything(stream)) == ["7-5", "7-6", "7-7"]
    assert [asked.cursor for asked in node.asked] == ["$", "$", "7-5"]
    assert stream.transcript.text == TEXT


async def test_a_reset_in_the_log_takes_back_text_by_code_points(node: FakeNode, tailrace: AsyncTailrace) -> None:
    log = [
        *an_answer("🌊🌊x")[:3],
        frame("reasoning", "7-4", text="hm"),
        frame("tool_call", "7-5", index=0, id="c", name="f", arguments="{"),
        frame("reset", "9-6", attempt=2, keep=2, reason="worker_lost", text="!"),
        frame("start", "9-7", attempt=2, provider="scripted", model="m", queue_ms=1),
        frame("tool_call", "9-8", index=0, id="d", name="g", arguments="{}"),
        frame("done", "9-9", finish_reason="stop"),
    ]
    node.on(EVENTS, events(*log))
    transcript = await tailrace.events("j1").finish()
    assert (transcript.text, transcript.reasoning, transcript.attempt) == ("🌊🌊!", "", 2)
    assert transcript.tool_calls == [{"index": 0, "id": "d", "name": "g", "arguments": "{}"}]


async def test_a_log_that_is_gone_ends_with_a_failure_without_id(node: FakeNode, tailrace: AsyncTailrace) -> None:
    lost = frame("failed", None, code="log_lost", message="gone", retryable=True)
    node.on(EVENTS, events(*ANSWER[:3], frame("token_expired", None), lost))
    stream = tailrace.events("j1")
    received = await everything(stream)
    assert [event.type for event in received] == ["queued", "start", "token", "failed"]
    assert stream.cursor == "7-3"
