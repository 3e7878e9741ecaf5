"""What stands in a log: the events, their fields and times, and how every log begins and ends."""

import pytest

from tests.support.sse_reader import shown
from tests.support.wire import PACED, TERMINAL, Json, Wire

PIECES = ["one ", "two ", "three ", "four"]
BROKEN: Json = {"fault": {"kind": "drop", "after": 2, "attempts": 1}}
NASTY = {
    "line ends": "a\rb\nc\r\nd\n\n\r\re\n",
    "blanks at both ends": "   indented\n\ttabbed \u00a0 ",
    "line and paragraph separators": "a\u2028b\u2029c\u0085d\x0be\x0cf\x1cg",
    "what looks like SSE": "data: x\nid: 0-9\n\nevent: done\n: ka\nretry: 1\n\n",
    "what looks like JSON": '"}\n{"a":1,\\u0000 \\" </script>',
    "emoji joined and coloured": "👩‍🔬 👨‍👩‍👧‍👦 🏳️‍🌈 🪶🏽",
    "combining and bidirectional marks": "e\u0301 Z\u0351\u036b\u0343 \u202eabc\u202c שלום",
    "edges of Unicode": "\u0001\u007f\u0080\uffff\ufffd\ufeff\ue000\U0010ffff\U0001f30a",
}


@pytest.mark.requirement("EV-1")
async def test_every_log_begins_with_queued(wire: Wire) -> None:
    job = await wire.submit("hello", model="demo-1")
    first = (await wire.log(job)).frames[0]
    assert (first.id, first.event) == ("0-1", "queued")
    created_at = (await wire.show(job))["created_at"]
    assert first.body == {"job_id": job, "provider": "scripted", "model": "demo-1", "created_at": created_at}


@pytest.mark.requirement("EV-2")
async def test_start_says_which_attempt_by_whom_and_how_long_it_waited(wire: Wire) -> None:
    log = await wire.log(await wire.submit("hello", model="demo-1"))
    start = log.one("start")
    assert log.frames[1].event == "start"
    assert start == {
        "attempt": 1,
        "provider": "scripted",
        "model": "demo-1",
        "queue_ms": start["queue_ms"],
        "at_ms": start["at_ms"],
    }
    assert 0 <= start["queue_ms"] <= start["at_ms"]


@pytest.mark.requirement("EV-3")
@pytest.mark.requirement("EV-15")
@pytest.mark.parametrize("params", [{}, BROKEN], ids=["straight", "restarted"])
async def test_seq_is_dense_and_epochs_never_fall(wire: Wire, params: Json) -> None:
    log = await wire.log(await wire.submit("".join(PIECES), params))
    assert [frame.seq for frame in log.frames] == list(range(1, len(log.frames) + 1))
    epochs = [frame.epoch for frame in log.frames]
    assert epochs == sorted(epochs)
    assert [frame.event for frame in log.frames if frame.epoch == 0] == ["queued"]


@pytest.mark.requirement("EV-4")
@pytest.mark.parametrize("live", [True, False])
async def test_the_terminal_event_comes_once_and_the_response_ends_with_it(wire: Wire, live: bool) -> None:
    job = await wire.submit("".join(PIECES), {"tokens_per_s": 100})
    if not live:
        await wire.ended(job)
    log = await wire.log(job)
    assert [name for name in log.names if name in TERMINAL] == ["done"] == log.names[-1:]
    assert log.whole
    assert not log.reader.unfinished


@pytest.mark.requirement("EV-15")
async def test_a_new_attempt_is_a_reset_and_a_start_in_a_higher_epoch(wire: Wire) -> None:
    log = await wire.log(await wire.submit("".join(PIECES), BROKEN))
    assert log.names == ["queued", "start", "token", "token", "reset", "start", *["token"] * 4, "done"]
    reset, start = log.frames[4:6]
    assert reset.epoch == start.epoch > log.frames[3].epoch
    assert reset.body == {"attempt": 2, "keep": 0, "reason": "provider_error", "at_ms": reset.body["at_ms"]}
    assert start.body["attempt"] == 2
    assert start.body["queue_ms"] == log.frames[1].body["queue_ms"]


@pytest.mark.requirement("EV-5")
@pytest.mark.requirement("EV-11")
@pytest.mark.requirement("EV-16")
@pytest.mark.parametrize(("limit", "reason", "tokens"), [(None, "stop", 4), (2, "length", 2), (4, "stop", 4)])
async def test_done_says_why_how_much_and_how_long(wire: Wire, limit: int | None, reason: str, tokens: int) -> None:
    log = await wire.log(await wire.submit("".join(PIECES), max_tokens=limit))
    done = log.last.body
    assert set(done) == {"finish_reason", "usage", "tokens", "attempt", "timings", "at_ms"}
    assert (done["finish_reason"], done["tokens"], done["attempt"]) == (reason, tokens, 1)
    assert done["usage"] == {"input_tokens": 1, "output_tokens": tokens}
    assert len(log.all("token")) == tokens


@pytest.mark.requirement("EV-11")
async def test_tokens_counts_the_last_attempt_alone(wire: Wire) -> None:
    log = await wire.log(await wire.submit("".join(PIECES), BROKEN))
    assert (log.one("done")["tokens"], log.one("done")["attempt"]) == (4, 2)


@pytest.mark.requirement("EV-6")
@pytest.mark.requirement("EV-9")
@pytest.mark.requirement("EV-17")
@pytest.mark.parametrize(
    ("kind", "after", "code"),
    [
        ("drop", 2, "provider_interrupted"),
        ("error", 2, "provider_unavailable"),
        ("error", 0, "provider_unavailable"),
        ("empty", 0, "empty_output"),
    ],
)
async def test_failed_names_a_code_and_whether_to_try_again(wire: Wire, kind: str, after: int, code: str) -> None:
    fault = {"kind": kind, "after": after, "attempts": 9}
    job = await wire.submit("".join(PIECES), {"fault": fault}, on_interrupt="fail")
    log = await wire.log(job)
    failed = log.last.body
    assert log.last.event == "failed"
    assert set(failed) == {"code", "message", "retryable", "attempt", "timings", "usage", "at_ms"}
    assert (failed["code"], failed["retryable"], failed["attempt"]) == (code, True, 1)
    assert failed["message"]
    assert len(log.all("token")) == after


@pytest.mark.requirement("EV-7")
@pytest.mark.requirement("EV-9")
async def test_cancelled_says_who_ended_it(wire: Wire) -> None:
    job = await wire.submit(params=PACED)
    async with wire.tail(job) as tail:
        await tail.until(lambda streamed: "token" in streamed.names)
        await wire.cancel(job)
        cancelled = (await tail.end()).last
    assert cancelled.event == "cancelled"
    assert set(cancelled.body) == {"reason", "attempt", "timings", "usage", "at_ms"}
    assert (cancelled.body["reason"], cancelled.body["attempt"]) == ("user", 1)


@pytest.mark.requirement("EV-8")
@pytest.mark.requirement("EV-9")
@pytest.mark.parametrize("end", TERMINAL)
async def test_every_terminal_event_carries_timings_and_usage(wire: Wire, end: str) -> None:
    fault = {"fault": {"kind": "drop", "after": 2}} if end == "failed" else {}
    pace = PACED if end == "cancelled" else {}
    job = await wire.submit(params={**pace, **fault}, on_interrupt="fail")
    async with wire.tail(job) as tail:
        await tail.until(lambda streamed: "token" in streamed.names)
        if end == "cancelled":
            await wire.cancel(job)
        log = await tail.end()
    terminal, timings = log.last.body, log.last.body["timings"]
    assert log.last.event == end
    assert isinstance(terminal["usage"], dict)
    assert 0 <= timings["queue_ms"] <= timings["ttft_ms"] <= timings["latency_ms"] == terminal["at_ms"]
    assert timings["queue_ms"] == log.one("start")["queue_ms"]
    assert timings.get("tokens_per_s", 1) > 0


@pytest.mark.requirement("EV-8")
async def test_ttft_counts_to_the_first_content_that_any_reader_saw(wire: Wire) -> None:
    log = await wire.log(await wire.submit("".join(PIECES), BROKEN))
    first = next(frame for frame in log.frames if frame.event == "token")
    assert log.last.body["timings"]["ttft_ms"] == first.body["at_ms"]


@pytest.mark.requirement("EV-10")
@pytest.mark.parametrize("params", [{}, BROKEN], ids=["straight", "restarted"])
async def test_at_ms_stands_on_the_first_content_of_an_attempt_and_on_what_is_not_content(
    wire: Wire, params: Json
) -> None:
    log = await wire.log(await wire.submit("".join(PIECES), params))
    before = ""
    for frame in log.frames:
        timed = frame.event not in {"queued", "token"} or before == "start"
        assert ("at_ms" in frame.body) == timed, frame
        before = frame.event
    for epoch in {frame.epoch for frame in log.frames}:
        times = [frame.body["at_ms"] for frame in log.frames if frame.epoch == epoch and "at_ms" in frame.body]
        assert times == sorted(times)


@pytest.mark.requirement("EV-12")
@pytest.mark.parametrize("exact", ["true", "false"])
@pytest.mark.parametrize("text", NASTY.values(), ids=NASTY)
async def test_text_arrives_byte_for_byte_whatever_it_is_made_of(wire: Wire, text: str, exact: str) -> None:
    job = await wire.submit(text)
    streamed = await wire.events(job, exact=exact)
    assert shown(streamed.frames).text.encode() == text.encode()
    assert (await wire.show(job))["text"].encode() == text.encode()


@pytest.mark.requirement("EV-12")
@pytest.mark.requirement("ST-5")
async def test_a_surrogate_pair_written_as_two_escapes_is_one_character(wire: Wire) -> None:
    body = rb'{"provider":"scripted","model":"demo","prompt":"hi","params":{"text":"a\ud83c\udf0ab"}}'
    answer = await wire.ask("POST", "/jobs", content=body)
    log = await wire.log(answer.json()["id"])
    assert shown(log.frames).text == "a🌊b"
    assert "a🌊b".encode() in log.raw
