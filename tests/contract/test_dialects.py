"""The tutorial's dialects on scripted jobs: frames to the letter, resuming, and what cannot be taken back."""

import pytest

from tests.support.wire import PACED, Json, Streamed, Wire, assert_problem

CUT = "The answer was restarted and this dialect cannot say so. Read the job again."
BROKEN: Json = {"fault": {"kind": "drop", "after": 2, "attempts": 1}}
DIALECTS = ("chat", "chat-meta", "langchain")


def token(dialect: str, text: str) -> str:
    """The frame's data for a token, to the letter."""
    return {
        "chat": f'{{"token": "{text}", "done": false}}',
        "chat-meta": f'{{"event": "token", "token": "{text}"}}',
        "langchain": f'{{"token": "{text}"}}',
    }[dialect]


def error(dialect: str, message: str) -> str:
    """The frame's data for any bad end."""
    return (
        f'{{"event": "error", "message": "{message}"}}'
        if dialect == "chat-meta"
        else f'{{"error": "{message}", "done": true}}'
    )


@pytest.mark.requirement("DI-1")
async def test_chat_is_token_and_done_to_the_letter(wire: Wire) -> None:
    streamed = await wire.events(await wire.submit("Hello 🌊 über"), dialect="chat")
    assert streamed.bodies == [
        '{"token": "Hello ", "done": false}',
        '{"token": "🌊 ", "done": false}',
        '{"token": "über", "done": false}',
        '{"token": "", "done": true}',
    ]


@pytest.mark.requirement("DI-2")
async def test_chat_meta_is_start_tokens_and_done_to_the_letter(wire: Wire) -> None:
    job = await wire.submit("Hello 🌊", model="demo-1")
    streamed = await wire.events(job, dialect="chat-meta")
    latency_ms = (await wire.log(job)).last.body["timings"]["latency_ms"]
    assert streamed.bodies == [
        '{"event": "start", "model": "demo-1"}',
        '{"event": "token", "token": "Hello "}',
        '{"event": "token", "token": "🌊"}',
        f'{{"event": "done", "tokens": 2, "latency_ms": {latency_ms}}}',
    ]


@pytest.mark.requirement("DI-3")
async def test_langchain_is_tokens_and_done_to_the_letter(wire: Wire) -> None:
    streamed = await wire.events(await wire.submit("Hello 🌊"), dialect="langchain")
    assert streamed.bodies == ['{"token": "Hello "}', '{"token": "🌊"}', '{"done": true}']


@pytest.mark.requirement("DI-9")
@pytest.mark.parametrize("dialect", DIALECTS)
async def test_a_frame_has_the_id_of_its_event_and_no_name(wire: Wire, dialect: str) -> None:
    job = await wire.submit("a b c")
    streamed = await wire.events(job, dialect=dialect)
    assert {frame.fields for frame in streamed.frames} == {("id", "data")}
    log = await wire.log(job)
    shows = {"token", "done"} | ({"start"} if dialect == "chat-meta" else set())
    assert streamed.ids == [frame.id for frame in log.frames if frame.event in shows]
    assert streamed.whole


@pytest.mark.requirement("DI-4")
@pytest.mark.parametrize("dialect", DIALECTS)
async def test_every_cursor_resumes_in_every_dialect(wire: Wire, dialect: str) -> None:
    job = await wire.submit("a b c")
    log = await wire.log(job)
    whole = await wire.events(job, dialect=dialect)
    for index, cursor in enumerate(log.ids[:-1], start=1):
        rest = await wire.events(job, cursor, dialect=dialect)
        assert [(i, b) for i, b in zip(whole.ids, whole.bodies, strict=True) if i in log.ids[index:]] == list(
            zip(rest.ids, rest.bodies, strict=True)
        )


@pytest.mark.requirement("DI-5")
@pytest.mark.parametrize("dialect", DIALECTS)
async def test_a_reset_of_text_already_sent_ends_the_response_with_an_error(wire: Wire, dialect: str) -> None:
    job = await wire.submit("a b c", BROKEN)
    streamed = await wire.events(job, "0-1", dialect=dialect)
    assert streamed.bodies[-3:] == [token(dialect, "a "), token(dialect, "b "), error(dialect, CUT)]
    assert streamed.whole
    reset = next(frame for frame in (await wire.log(job)).frames if frame.event == "reset")
    assert streamed.last.id == reset.id


@pytest.mark.requirement("DI-5")
@pytest.mark.parametrize("dialect", DIALECTS)
async def test_text_of_an_earlier_response_counts_as_sent(wire: Wire, dialect: str) -> None:
    job = await wire.submit("a b c", BROKEN)
    log = await wire.log(job)
    assert log.names[3] == "token"
    streamed = await wire.events(job, log.ids[3], dialect=dialect)
    assert streamed.bodies == [error(dialect, CUT)]


@pytest.mark.requirement("DI-6")
@pytest.mark.parametrize("dialect", DIALECTS)
async def test_a_new_reader_sees_only_what_survived(wire: Wire, dialect: str) -> None:
    job = await wire.submit("a b c", BROKEN)
    log = await wire.log(job)
    streamed = await wire.events(job, dialect=dialect)
    assert token(dialect, "a b c") in streamed.bodies
    assert len([body for body in streamed.bodies if "a b c" in body]) == 1
    reset = next(frame for frame in log.frames if frame.event == "reset")
    rest = await wire.events(job, reset.id, dialect=dialect)
    assert rest.bodies[:3] == [token(dialect, text) for text in ("a ", "b ", "c")]


@pytest.mark.requirement("DI-6")
@pytest.mark.parametrize("dialect", DIALECTS)
async def test_an_answer_that_was_continued_is_whole_in_every_dialect(wire: Wire, dialect: str) -> None:
    job = await wire.submit("a b c", BROKEN, on_interrupt="continue")
    live = await wire.events(job, "0-1", dialect=dialect)
    tokens = [token(dialect, text) for text in ("a ", "b ", "c")]
    assert [body for body in live.bodies if body in tokens] == tokens
    assert not any("error" in body for body in live.bodies)


@pytest.mark.requirement("DI-10")
@pytest.mark.parametrize(
    "params",
    [
        {},
        BROKEN,
    ],
    ids=["straight", "restarted"],
)
async def test_a_chat_meta_stream_from_the_start_begins_with_its_start_frame(wire: Wire, params: Json) -> None:
    job = await wire.submit("a b c", params)
    await wire.ended(job)
    assert (await wire.events(job, dialect="chat-meta")).bodies[0] == '{"event": "start", "model": "demo"}'


@pytest.mark.requirement("DI-4")
@pytest.mark.parametrize(
    "dialect",
    [
        "chat",
        "chat-meta",
        "langchain",
    ],
)
async def test_a_cut_after_any_frame_of_what_survived_loses_nothing(wire: Wire, dialect: str) -> None:
    job = await wire.submit("a b c", BROKEN)
    await wire.ended(job)
    whole = await wire.events(job, dialect=dialect)
    for place, frame in enumerate(whole.frames[:-1], start=1):
        # A frame without an id leaves the reader's cursor where it was: here, at the start.
        rest = (await wire.events(job, frame.id, dialect=dialect)).bodies if frame.id else whole.bodies
        assert rest[-len(whole.bodies[place:]) :] == whole.bodies[place:]


@pytest.mark.requirement("DI-7")
@pytest.mark.parametrize("dialect", DIALECTS)
async def test_a_cancelled_job_ends_in_the_error_frame(wire: Wire, dialect: str) -> None:
    job = await wire.submit(params=PACED)
    async with wire.tail(job, dialect=dialect) as tail:
        await tail.until(lambda streamed: "Below" in bytes(streamed.raw).decode())
        await wire.cancel(job)
        streamed = await tail.end()
    assert streamed.bodies[-1] == error(dialect, "The job was cancelled.")


@pytest.mark.requirement("DI-7")
@pytest.mark.parametrize("dialect", DIALECTS)
async def test_a_failed_job_ends_in_the_error_frame_with_its_message(wire: Wire, dialect: str) -> None:
    job = await wire.submit("a b", {"fault": {"kind": "drop", "after": 1}}, on_interrupt="fail")
    failed = (await wire.log(job)).last
    streamed = await wire.events(job, dialect=dialect)
    assert (streamed.last.id, streamed.last.data) == (failed.id, error(dialect, failed.body["message"]))


@pytest.mark.requirement("DI-8")
@pytest.mark.parametrize("name", ["", "Chat", "openai!", "native-exact", "chat,native"])
async def test_an_unknown_dialect_is_refused_with_the_known_ones(wire: Wire, name: str) -> None:
    job = await wire.submit("a")
    answer = await wire.ask("GET", f"/jobs/{job}/events", params={"dialect": name})
    problem = assert_problem(answer, 400, "invalid_dialect", "dialect")
    assert all(dialect in problem["detail"] for dialect in ("native", *DIALECTS))


@pytest.mark.requirement("DI-8")
@pytest.mark.parametrize("query", [{"dialect": "chat", "exact": "true"}, {"exact": "perhaps"}])
async def test_exact_is_a_truth_for_the_native_dialect_alone(wire: Wire, query: dict[str, str]) -> None:
    job = await wire.submit("a")
    answer = await wire.ask("GET", f"/jobs/{job}/events", params=query)
    assert_problem(answer, 400, "invalid_request", "exact")


@pytest.mark.requirement("CU-4")
@pytest.mark.parametrize("dialect", DIALECTS)
async def test_a_dollar_shows_what_there_is_in_one_frame(wire: Wire, dialect: str) -> None:
    job = await wire.submit(params=PACED)
    async with wire.tail(job) as tail:
        await tail.until(lambda streamed: streamed.names.count("token") >= 3)
    async with wire.tail(job, "$", dialect=dialect) as late:
        streamed: Streamed = await late.until(lambda streamed: len(streamed.frames) >= 2)
        await wire.cancel(job)
    assert streamed.frames[0].body["token"].startswith("Below the mill ")
    assert streamed.frames[1].seq == streamed.frames[0].seq + 1
