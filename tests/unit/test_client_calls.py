"""The client's ends, creations and other calls against a node that breaks on purpose."""

import json

import pytest
from tailrace_client import (
    ApiError,
    AsyncTailrace,
    BusyError,
    ConflictError,
    GoneError,
    InvalidRequestError,
    NotFoundError,
    UnauthorizedError,
    UnreachableError,
)

from tests.support.client_kit import ANSWER, EVENTS, IDS, Waits, everything, ids, rest
from tests.support.fake_node import (
    HANG_UP,
    NO_CONTENT,
    End,
    FakeNode,
    Reply,
    a_job,
    an_answer,
    answer,
    events,
    problem,
)

# No test waits for time to pass; one that hangs is stopped.
pytestmark = pytest.mark.timeout(20)


# -- ends


async def test_a_cursor_at_the_end_ends_without_an_event(node: FakeNode, tailrace: AsyncTailrace) -> None:
    node.on(EVENTS, NO_CONTENT)
    stream = tailrace.events("j1", after="7-7")
    assert await everything(stream) == []
    assert stream.terminal is None
    assert node.times(EVENTS) == 1


async def test_nothing_is_asked_after_the_terminal_event(node: FakeNode, tailrace: AsyncTailrace) -> None:
    node.on(EVENTS, events(*ANSWER, *an_answer("more")))
    stream = tailrace.events("j1")
    assert ids(await everything(stream)) == IDS
    assert await everything(stream) == []
    assert node.times(EVENTS) == 1


@pytest.mark.parametrize(
    ("status", "code", "kind"),
    [
        (400, "invalid_cursor", InvalidRequestError),
        (401, "unauthorized", UnauthorizedError),
        (404, "not_found", NotFoundError),
        (410, "gone", GoneError),
    ],
)
async def test_a_refusal_that_lasts_ends_the_stream_at_once(
    node: FakeNode, tailrace: AsyncTailrace, status: int, code: str, kind: type[ApiError]
) -> None:
    node.on(EVENTS, events(*ANSWER[:3]), problem(status, code, "because", field="cursor"))
    stream = tailrace.events("j1")
    with pytest.raises(kind, match="because") as refused:
        await stream.finish()
    assert (refused.value.status, refused.value.code, refused.value.field) == (status, code, "cursor")
    assert node.times(EVENTS) == 2


async def test_a_gateway_that_answers_for_the_node_is_waited_out(
    node: FakeNode, tailrace: AsyncTailrace, waits: Waits
) -> None:
    page = Reply(200, {"Content-Type": "text/html"}, (b"<p>Sign in to the hotel's network",))
    node.on(EVENTS, events(*ANSWER[:3]), problem(503, "draining", Retry_After="2"), Reply(502), page, rest(ANSWER))
    assert ids(await everything(tailrace.events("j1"))) == IDS
    assert waits.hints == [0.0, 2.0, 0.0, 0.0]


async def test_a_server_that_stays_away_is_given_up_with_the_cursor_in_hand(node: FakeNode, waits: Waits) -> None:
    waits.step_s = 60.0
    node.on(EVENTS, events(*ANSWER[:3]), HANG_UP)
    async with AsyncTailrace(node.url, patience=waits.patience(give_up_s=300.0)) as tailrace:
        stream = tailrace.events("j1")
        with pytest.raises(UnreachableError, match="gave up"):
            await stream.finish()
    assert stream.cursor == "7-3"
    assert node.times(EVENTS) == 6
    assert waits.now == 300.0


async def test_an_address_where_nobody_answers_is_given_up_sooner_if_asked(waits: Waits) -> None:
    async with FakeNode() as gone:
        url = gone.url
    waits.step_s = 1.0
    async with AsyncTailrace(url, patience=waits.patience(first_contact_s=3.0)) as tailrace:
        with pytest.raises(UnreachableError, match="ConnectError"):
            await tailrace.events("j1").finish()
    assert waits.now == 3.0


def test_a_base_url_or_a_cursor_that_is_none_is_refused_before_anything_is_sent() -> None:
    with pytest.raises(ValueError, match="http"):
        AsyncTailrace("localhost:8080")
    with pytest.raises(ValueError, match="event id"):
        AsyncTailrace("http://localhost:8080").events("j1", after="yesterday")


# -- create and stream


async def test_a_stream_creates_its_job_and_goes_on_by_get(node: FakeNode, tailrace: AsyncTailrace) -> None:
    node.on("POST /jobs", events(*ANSWER[:3], end=End.BROKEN, job_id="j1"))
    node.on(EVENTS, rest(ANSWER))
    stream = tailrace.stream(provider="scripted", model="m", prompt="hi", temperature=None)
    assert ids(await everything(stream)) == IDS
    assert (stream.job_id, node.times("POST /jobs"), node.asked[1].cursor) == ("j1", 1, "7-3")
    assert node.asked[0].headers["accept"] == "text/event-stream"
    assert json.loads(node.asked[0].body) == {"provider": "scripted", "model": "m", "prompt": "hi"}


async def test_a_post_whose_answer_is_lost_is_sent_again_under_the_same_key(
    node: FakeNode, tailrace: AsyncTailrace
) -> None:
    node.on("POST /jobs", HANG_UP, problem(503, "draining"), events(*ANSWER, job_id="j1"))
    assert ids(await everything(tailrace.stream(provider="scripted", model="m", prompt="hi"))) == IDS
    keys = {asked.headers["idempotency-key"] for asked in node.asked}
    assert (len(node.asked), len(keys)) == (3, 1)


async def test_the_job_id_is_learnt_from_the_first_event_where_no_header_names_it(
    node: FakeNode, tailrace: AsyncTailrace
) -> None:
    node.on("POST /jobs", events(*ANSWER[:2]))
    node.on(EVENTS, rest(ANSWER))
    stream = tailrace.stream(provider="scripted", model="m", prompt="hi")
    assert (await anext(stream)).data["job_id"] == stream.job_id == "j1"
    assert ids(await everything(stream)) == IDS[1:]


async def test_a_job_that_was_made_but_not_streamed_is_streamed(
    node: FakeNode, tailrace: AsyncTailrace, waits: Waits
) -> None:
    node.on("POST /jobs", answer(a_job(), 202, Location="/jobs/j1"))
    node.on(EVENTS, rest(ANSWER))
    stream = tailrace.stream(provider="scripted", model="m", prompt="hi")
    assert ids(await everything(stream)) == IDS
    assert (stream.counters.resumes, waits.tries) == (0, [])


async def test_a_queue_that_stays_full_is_said_after_a_few_tries(
    node: FakeNode, tailrace: AsyncTailrace, waits: Waits
) -> None:
    node.on("POST /jobs", problem(429, "queue_full", Retry_After="7"))
    with pytest.raises(BusyError) as refused:
        await tailrace.stream(provider="scripted", model="m", prompt="hi").finish()
    assert (refused.value.code, refused.value.retry_after) == ("queue_full", 7.0)
    assert (node.times("POST /jobs"), waits.hints) == (4, [7.0] * 4)


# -- the other calls


async def test_a_submission_is_retried_under_one_key_until_it_is_taken(
    node: FakeNode, tailrace: AsyncTailrace, waits: Waits
) -> None:
    node.on("POST /jobs", problem(429, "queue_full", Retry_After="3"), HANG_UP, answer(a_job(status="queued"), 202))
    job = await tailrace.submit(provider="scripted", model="m", prompt="hi")
    assert (job.id, job.status, job.ended) == ("j1", "queued", False)
    assert len({asked.headers["idempotency-key"] for asked in node.asked}) == 1
    assert waits.hints == [3.0, 0.0]


async def test_two_submissions_have_two_keys_unless_the_caller_gives_one(
    node: FakeNode, tailrace: AsyncTailrace
) -> None:
    node.on("POST /jobs", answer(a_job(), 202))
    for key in (None, None, "mine"):
        await tailrace.submit(provider="scripted", model="m", prompt="hi", idempotency_key=key)
    keys = [asked.headers["idempotency-key"] for asked in node.asked]
    assert len(set(keys)) == 3
    assert keys[2] == "mine"
    assert "idempotency_key" not in json.loads(node.asked[2].body)


@pytest.mark.parametrize(
    ("reply", "kind"),
    [
        (problem(400, "unsupported_param", "not for scripted", field="params.n"), InvalidRequestError),
        (problem(409, "idempotency_conflict"), ConflictError),
        (Reply(404, {"Content-Type": "text/html"}, (b"<h1>nginx",)), NotFoundError),
    ],
)
async def test_a_refused_submission_is_not_sent_again(
    node: FakeNode, tailrace: AsyncTailrace, reply: Reply, kind: type[ApiError]
) -> None:
    node.on("POST /jobs", reply)
    with pytest.raises(kind):
        await tailrace.submit(provider="scripted", model="m", prompt="hi")
    assert len(node.asked) == 1


async def test_a_server_that_cannot_be_reached_is_said_after_a_few_tries(node: FakeNode, waits: Waits) -> None:
    node.on("POST /jobs", HANG_UP)
    async with AsyncTailrace(node.url, patience=waits.patience(tries=3)) as tailrace:
        with pytest.raises(UnreachableError):
            await tailrace.submit(provider="scripted", model="m", prompt="hi")
    assert len(node.asked) == 3


async def test_jobs_are_shown_listed_and_cancelled(node: FakeNode, tailrace: AsyncTailrace) -> None:
    node.on("GET /jobs/j1", answer(a_job(text="Water", error=None, colour="new field")))
    node.on("GET /jobs", answer({"data": [a_job("j2"), a_job("j1")], "next": "n1"}))
    node.on("POST /jobs/j1/cancel", answer(a_job(status="cancelled")))
    node.on("GET /healthz", answer({"status": "ok"}))
    assert (await tailrace.job("j1")).text == "Water"
    page = await tailrace.jobs(status="done", limit=2, after="n0")
    assert ([job.id for job in page.data], page.next) == (["j2", "j1"], "n1")
    assert node.asked[1].query == {"status": "done", "limit": "2", "after": "n0"}
    assert (await tailrace.cancel("j1")).ended
    assert await tailrace.health() == {"status": "ok"}


async def test_a_delete_whose_answer_was_lost_is_a_success(node: FakeNode, tailrace: AsyncTailrace) -> None:
    node.on("DELETE /jobs/j1", HANG_UP, problem(410, "gone"))
    await tailrace.delete("j1")
    node.on("DELETE /jobs/j1", problem(410, "gone"))
    with pytest.raises(GoneError):
        await tailrace.delete("j1")


async def test_a_job_id_stays_one_segment_of_the_path(node: FakeNode, tailrace: AsyncTailrace) -> None:
    with pytest.raises(NotFoundError):
        await tailrace.job("../healthz?x#y")
    assert node.asked[0].path == "/jobs/..%2Fhealthz%3Fx%23y"
