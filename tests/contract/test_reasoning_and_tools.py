"""Reasoning and tool calls, from a provider that has them."""

import json

import pytest

from tests.contract.conftest import Strict
from tests.support.sse_reader import shown
from tests.support.wire import Streamed


async def asked(strict: Strict, prompt: str, *, exact: str = "true") -> Streamed:
    """The stream of a job of the provider on loopback, which does what the prompt says."""
    answer = await strict.acme.create({"provider": "openai", "model": "m", "prompt": prompt})
    job = answer.json()["id"]
    await strict.acme.ended(job)
    return await strict.acme.events(job, exact=exact)


@pytest.mark.requirement("EV-13")
async def test_reasoning_comes_in_pieces_before_the_text(strict: Strict) -> None:
    log = await asked(strict, "reasoning:3 tokens:2")
    assert log.all("reasoning")[0]["text"] == "thought 0. "
    assert all(set(body) <= {"text", "at_ms"} for body in log.all("reasoning"))
    assert shown(log.frames).reasoning == "thought 0. thought 1. thought 2. "
    first = log.frames[2]
    assert first.event == "reasoning"
    assert first.body["at_ms"] == log.last.body["timings"]["ttft_ms"]


@pytest.mark.requirement("EV-13")
@pytest.mark.requirement("JF-1")
async def test_reasoning_is_joined_like_text_and_never_with_it(strict: Strict) -> None:
    joined = await asked(strict, "reasoning:4 tokens:5", exact="false")
    assert joined.names == ["queued", "start", "reasoning", "token", "done"]
    assert (joined.one("reasoning")["n"], joined.one("token")["n"]) == (4, 5)
    assert joined.frames[3].seq == joined.frames[2].seq + 5


@pytest.mark.requirement("EV-14")
@pytest.mark.requirement("EV-16")
async def test_tool_calls_come_in_pieces_that_make_json(strict: Strict) -> None:
    log = await asked(strict, "tools:2 tokens:1")
    pieces = log.all("tool_call")
    assert all(set(piece) - {"at_ms"} == {"index", "id", "name", "arguments"} for piece in pieces)
    assert [piece["index"] for piece in pieces] == sorted(piece["index"] for piece in pieces)
    for index, call in shown(log.frames).tool_calls.items():
        assert (call["id"], call["name"]) == (f"call_{index}", "lookup")
        assert json.loads(call["arguments"]) == {"n": index}
    assert log.last.body["finish_reason"] == "tool_calls"


@pytest.mark.requirement("EV-14")
async def test_tool_calls_are_never_joined(strict: Strict) -> None:
    exact, joined = [await asked(strict, "tools:2 tokens:1", exact=exact) for exact in ("true", "false")]
    assert joined.all("tool_call") == [
        {**piece, **({"at_ms": mine["at_ms"]} if "at_ms" in mine else {})}
        for piece, mine in zip(exact.all("tool_call"), joined.all("tool_call"), strict=True)
    ]
    assert all("n" not in piece for piece in joined.all("tool_call"))


@pytest.mark.requirement("SH-1")
async def test_a_job_shows_reasoning_and_tool_calls_where_there_are_any(strict: Strict) -> None:
    answer = await strict.acme.create({"provider": "openai", "model": "m", "prompt": "reasoning:2 tools:1 tokens:2"})
    job = await strict.acme.ended(answer.json()["id"])
    assert job["reasoning"] == "thought 0. thought 1. "
    assert job["tool_calls"] == [{"index": 0, "id": "call_0", "name": "lookup", "arguments": '{"n": 0}'}]
    listed = (await strict.acme.ask("GET", "/jobs", params={"limit": "100"})).json()["data"]
    assert all(not {"reasoning", "tool_calls", "text"} & set(job) for job in listed)
