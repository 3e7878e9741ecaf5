"""The four endpoints of the tutorial: their bodies, their streams, and the jobs behind them."""

from uuid import uuid4

import pytest

from tests.contract.conftest import Strict, needs_our_node
from tests.support.provider_behaviour import answer
from tests.support.wire import Json, Streamed, Wire, assert_problem

ENDPOINTS: dict[str, tuple[str, Json, str, str]] = {
    "/chat/stream": ("chat", {"system_prompt": "s"}, "openai", "OPENAI_API_KEY"),
    "/chat/stream-meta": ("chat-meta", {}, "openai", "OPENAI_API_KEY"),
    "/anthropic/stream": ("chat", {"system": "s"}, "anthropic", "ANTHROPIC_API_KEY"),
    "/langchain/stream": ("langchain", {}, "langchain", "OPENAI_API_KEY"),
}
BAD: list[tuple[Json, str]] = [
    ({}, "message"),
    ({"message": ""}, "message"),
    ({"message": 5}, "message"),
    ({"message": ["hi"]}, "message"),
    ({"message": "a\x00b"}, "message"),
    ({"message": "\ud800"}, "message"),
    ({"message": "hi", "model": "gpt-5"}, "model"),
    ({"message": "hi", "messages": []}, "messages"),
]


async def post(wire: Wire, path: str, body: Json, **headers: str) -> Streamed:
    """The stream that a tutorial's endpoint answers with."""
    async with wire.streaming("POST", path, body, headers=headers) as tail:
        return await tail.end()


@needs_our_node
@pytest.mark.requirement("TU-2")
@pytest.mark.parametrize("path", ENDPOINTS)
async def test_without_an_api_key_the_error_frame_names_the_variable(wire: Wire, path: str) -> None:
    dialect, _, _, variable = ENDPOINTS[path]
    streamed = await post(wire, path, {"message": "hi"})
    message = f"Set {variable} in the workers' environment."
    ending = (
        f'{{"event": "error", "message": "{message}"}}'
        if dialect == "chat-meta"
        else f'{{"error": "{message}", "done": true}}'
    )
    start = ['{"event": "start", "model": "gpt-4o-mini"}'] if dialect == "chat-meta" else []
    assert (streamed.status, streamed.bodies) == (200, [*start, ending])
    view = await wire.show(streamed.headers["x-tailrace-job"])
    assert view["error"]["code"] == "provider_not_configured"


@needs_our_node
@pytest.mark.requirement("TU-1")
@pytest.mark.requirement("TU-3")
@pytest.mark.parametrize("path", ENDPOINTS)
async def test_behind_each_answer_is_a_job_like_any_other(wire: Wire, path: str) -> None:
    dialect, more, provider, _ = ENDPOINTS[path]
    streamed = await post(wire, path, {"message": "hi", **more})
    job = streamed.headers["x-tailrace-job"]
    assert streamed.headers["location"] == f"/jobs/{job}"
    assert streamed.headers["content-type"] == "text/event-stream; charset=utf-8"
    assert (await wire.show(job))["provider"] == provider
    assert (await wire.log(job)).names[:2] == ["queued", "start"]
    assert (await wire.events(job, dialect=dialect)).bodies == streamed.bodies
    assert (
        await wire.ask("GET", f"/jobs/{job}/events", headers={"Last-Event-ID": streamed.last.id})
    ).status_code == 204


@pytest.mark.requirement("TU-1")
@pytest.mark.requirement("TU-3")
@pytest.mark.parametrize("path", ["/chat/stream", "/chat/stream-meta"])
async def test_the_answer_of_the_provider_comes_and_can_be_resumed(strict: Strict, path: str) -> None:
    dialect = ENDPOINTS[path][0]
    streamed = await post(strict.acme, path, {"message": "tokens:8"})
    pieces = [frame.body["token"] for frame in streamed.frames if frame.body.get("token")]
    assert "".join(pieces) == answer("gpt-4o-mini", [("user", "tokens:8")], tokens=8)
    job = streamed.headers["x-tailrace-job"]
    rest = await strict.acme.events(job, streamed.ids[3], dialect=dialect)
    assert rest.bodies == streamed.bodies[4:]


@pytest.mark.requirement("TU-1")
@pytest.mark.parametrize("path", ENDPOINTS)
async def test_each_endpoint_takes_its_own_fields_alone(wire: Wire, path: str) -> None:
    foreign = {"system", "system_prompt"} - set(ENDPOINTS[path][1])
    for field in foreign:
        refused = await wire.ask("POST", path, {"message": "hi", field: "s"})
        assert_problem(refused, 400, "invalid_request", field)


@pytest.mark.requirement("TU-4")
@pytest.mark.parametrize("path", ENDPOINTS)
async def test_a_bad_body_is_a_problem_and_not_a_stream(wire: Wire, path: str) -> None:
    for body, field in BAD:
        assert_problem(await wire.ask("POST", path, body), 400, "invalid_request", field)
    assert_problem(await wire.ask("POST", path, content=b"{"), 400, "invalid_json")
    plain = await wire.ask("POST", path, content=b"hi", headers={"Content-Type": "text/plain"})
    assert_problem(plain, 415, "unsupported_media_type")


@pytest.mark.requirement("ID-9")
@pytest.mark.parametrize("path", ["/chat/stream", "/chat/stream-meta"])
async def test_a_repeated_message_under_one_key_is_asked_once(strict: Strict, path: str) -> None:
    headers = {"Idempotency-Key": f"k-{uuid4()}"}
    first, again = [await post(strict.acme, path, {"message": "tokens:2"}, **headers) for _ in range(2)]
    assert again.headers["x-tailrace-job"] == first.headers["x-tailrace-job"]
    assert again.bodies == first.bodies


@pytest.mark.requirement("ID-9")
async def test_a_repeated_message_is_said_to_be_a_replay(strict: Strict) -> None:
    headers = {"Idempotency-Key": f"k-{uuid4()}"}
    streams = [await post(strict.acme, "/chat/stream", {"message": "tokens:2"}, **headers) for _ in range(2)]
    assert [stream.headers.get("idempotent-replayed") for stream in streams] == [None, "true"]


@pytest.mark.requirement("ID-9")
@pytest.mark.parametrize("path", ["/chat/stream", "/anthropic/stream"])
async def test_another_message_under_the_same_key_is_a_conflict(strict: Strict, path: str) -> None:
    headers = {"Idempotency-Key": f"k-{uuid4()}"}
    await post(strict.acme, path, {"message": "tokens:2"}, **headers)
    other = await strict.acme.ask("POST", path, {"message": "tokens:3"}, headers=headers)
    assert_problem(other, 409, "idempotency_conflict")
    bad = await strict.acme.ask("POST", path, {"message": "tokens:3"}, headers={"Idempotency-Key": "a b"})
    assert_problem(bad, 400, "invalid_request", "Idempotency-Key")
