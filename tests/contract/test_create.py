"""POST /jobs: what it answers, which shapes it takes, and what it has done by then."""

from typing import Any

import pytest

from tests.contract.conftest import Strict
from tests.support.wire import SLOW, Json, Wire, assert_problem, scripted

ASKS = {"provider": "scripted", "model": "demo"}
USER = {"role": "user", "content": "hi"}
CALL = {"id": "c1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
SHAPES: dict[str, Json] = {
    "the least": {**ASKS, "prompt": "hi"},
    "nulls for what is left out": {
        **ASKS,
        "prompt": "hi",
        "messages": None,
        "system": None,
        "max_tokens": None,
        "temperature": None,
        "ttl_s": None,
    },
    "everything": {
        **ASKS,
        "messages": [USER],
        "system": "be brief",
        "max_tokens": 1_000_000,
        "temperature": 2,
        "params": {"tokens": 2, "seed": 5},
        "on_interrupt": "continue",
        "priority": 9,
        "metadata": {"user": "u-1"},
        "ttl_s": 60,
    },
    "every role": {
        **ASKS,
        "messages": [
            {"role": "system", "content": "s"},
            {"role": "developer", "content": "d"},
            {**USER, "name": "ada"},
            {"role": "assistant", "content": None, "tool_calls": [CALL]},
            {"role": "tool", "content": "42", "tool_call_id": "c1"},
        ],
    },
    "content parts": {**ASKS, "messages": [{"role": "user", "content": [{"type": "text", "text": "hi"}]}]},
    "a whole number for a fraction": {**ASKS, "prompt": "hi", "temperature": 0, "params": {"tokens_per_s": 1000}},
}


async def fill_up(strict: Strict) -> int:
    """Make jobs until the node takes no more; how many."""
    made = 0
    while (await strict.acme.create(scripted(params=SLOW))).status_code == 202:
        made += 1
    return made


@pytest.mark.requirement("CR-1")
async def test_a_create_is_accepted_with_its_location_and_the_job(wire: Wire) -> None:
    answer = await wire.create(scripted("hello"))
    job = answer.json()
    assert answer.status_code == 202
    assert answer.headers["location"] == f"/jobs/{job['id']}"
    assert answer.headers["content-type"] == "application/json"
    assert "idempotent-replayed" not in answer.headers
    assert job["events_url"] == f"/jobs/{job['id']}/events"
    assert job["status"] in {"queued", "running", "done"}


@pytest.mark.requirement("CR-1")
@pytest.mark.requirement("CR-8")
@pytest.mark.parametrize("body", SHAPES.values(), ids=SHAPES)
async def test_every_shape_of_a_request_ends_in_an_answer(wire: Wire, body: Json) -> None:
    answer = await wire.create(body)
    assert answer.status_code == 202, answer.text
    assert (await wire.ended(answer.json()["id"]))["status"] == "done"


@pytest.mark.requirement("CR-2")
async def test_a_reader_that_comes_at_once_finds_queued(wire: Wire) -> None:
    answer = await wire.create(scripted(params=SLOW))
    job = answer.json()["id"]
    assert answer.json()["last_event_id"] is not None
    async with wire.tail(job) as tail:
        await tail.until(lambda streamed: streamed.ids[:1] == ["0-1"])
    await wire.cancel(job)


@pytest.mark.requirement("CR-4")
@pytest.mark.parametrize("accept", ["text/event-stream", "application/json, text/event-stream;q=0.5"])
async def test_a_create_that_accepts_a_stream_is_answered_with_its_events(wire: Wire, accept: str) -> None:
    async with wire.streaming("POST", "/jobs", scripted("hello"), headers={"Accept": accept}) as tail:
        streamed = await tail.end()
    job = streamed.headers["x-tailrace-job"]
    assert streamed.status == 200
    assert streamed.headers["location"] == f"/jobs/{job}"
    assert streamed.headers["content-type"] == "text/event-stream; charset=utf-8"
    assert streamed.names == ["queued", "start", "token", "done"]
    assert streamed.ids == (await wire.log(job)).ids


@pytest.mark.requirement("CR-11")
async def test_metadata_is_shown_as_it_was_sent(wire: Wire) -> None:
    metadata = {f"name-{n}": "ü" * 512 for n in range(15)} | {"n" * 200: "  \n"}
    job = await wire.submit("hello", metadata=metadata)
    assert (await wire.show(job))["metadata"] == metadata


@pytest.mark.requirement("CR-12")
async def test_of_the_jobs_that_wait_the_higher_priority_is_taken_first(strict: Strict) -> None:
    fillers = [await strict.acme.submit(params=SLOW) for _ in range(4)]
    for filler in fillers:
        await strict.acme.show_when(filler, lambda job: job["status"] == "running")
    low, high = [await strict.acme.submit(params=SLOW, priority=priority) for priority in (1, 8)]
    await strict.acme.cancel(fillers[0])
    await strict.acme.show_when(high, lambda job: job["status"] == "running")
    assert (await strict.acme.show(low))["status"] == "queued"


@pytest.mark.requirement("CR-10")
@pytest.mark.parametrize(("path", "headers"), [("/jobs", {}), ("/jobs", {"Accept": "text/event-stream"})])
async def test_a_full_queue_is_429_and_says_when_to_come_back(strict: Strict, path: str, headers: Any) -> None:
    assert 1 <= await fill_up(strict) <= 8
    answer = await strict.acme.ask("POST", path, scripted("hello"), headers=headers)
    assert assert_problem(answer, 429, "queue_full")["retryable"] is True
    assert int(answer.headers["retry-after"]) >= 1


@pytest.mark.requirement("CR-13")
async def test_a_holder_of_a_key_may_not_ask_for_faults(strict: Strict) -> None:
    answer = await strict.acme.create(scripted(params={"fault": {"kind": "exit"}}))
    problem = assert_problem(answer, 400, "unsupported_param", "params.fault")
    assert "TAILRACE_SCRIPTED_FAULTS" in problem["detail"]


@pytest.mark.requirement("CR-10")
async def test_a_full_queue_does_not_hide_the_job_of_a_known_key(strict: Strict) -> None:
    first = await strict.acme.create(scripted(params=SLOW), key="k-full")
    await fill_up(strict)
    again = await strict.acme.create(scripted(params=SLOW), key="k-full")
    assert (again.status_code, again.json()["id"]) == (200, first.json()["id"])
