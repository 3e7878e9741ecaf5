"""What a reader is told when an answer is interrupted, and that the text it shows is the job's at the end."""

import contextlib

import pytest

from shared.jobs import JobKey
from shared.storage.keys import job_keys
from tests.contract.conftest import Strict
from tests.support.sse_reader import shown
from tests.support.wire import PACED, Json, Wire

TEXT = "a b c d e f"
FAULTS: dict[str, Json] = {
    "straight": {},
    "restarted": {"fault": {"kind": "drop", "after": 3, "attempts": 1}},
    "restarted with another text": {"seed": 3, "fault": {"kind": "error", "after": 4, "attempts": 1}},
    "restarted twice": {"fault": {"kind": "drop", "after": 1, "attempts": 2}},
}


@pytest.mark.requirement("RS-1")
@pytest.mark.requirement("OR-4")
@pytest.mark.parametrize("how", ["restart", "continue"])
@pytest.mark.parametrize("params", FAULTS.values(), ids=FAULTS)
async def test_the_text_that_a_reader_shows_is_the_jobs(wire: Wire, params: Json, how: str) -> None:
    job = await wire.submit(TEXT, params, on_interrupt=how)
    live, exact, joined = await wire.events(job), await wire.log(job), await wire.events(job)
    view = await wire.show(job)
    assert view["status"] == "done"
    for streamed in (live, exact, joined):
        assert shown(streamed.frames).text.encode() == view["text"].encode()


@pytest.mark.requirement("RS-6")
@pytest.mark.requirement("RS-1")
async def test_restart_takes_everything_back_and_begins_anew(wire: Wire) -> None:
    log = await wire.log(await wire.submit(TEXT, FAULTS["restarted"]))
    assert log.one("reset")["keep"] == 0
    tokens = [body["text"] for body in log.all("token")]
    assert tokens == ["a ", "b ", "c ", "a ", "b ", "c ", "d ", "e ", "f"]


@pytest.mark.requirement("RS-3")
async def test_continue_keeps_the_text_counted_in_code_points(wire: Wire) -> None:
    text = "🌊 e\u0301 👩‍🔬 何 end"
    fault = {"fault": {"kind": "drop", "after": 3, "attempts": 1}}
    log = await wire.log(await wire.submit(text, fault, on_interrupt="continue"))
    kept = "🌊 e\u0301 👩‍🔬 "
    assert log.one("reset")["keep"] == len(kept)
    assert [body["text"] for body in log.all("token")][3:] == ["何 ", "end"]
    assert shown(log.frames).text == text


@pytest.mark.requirement("RS-3")
async def test_a_reader_that_comes_back_after_a_continue_keeps_what_it_has(wire: Wire) -> None:
    job = await wire.submit(TEXT, FAULTS["restarted"], on_interrupt="continue")
    log = await wire.log(job)
    before = next(place for place, frame in enumerate(log.frames) if frame.event == "reset")
    rest = await wire.events(job, log.ids[before - 1], exact="true")
    assert shown(log.frames[:before] + rest.frames).text == TEXT


@pytest.mark.requirement("RS-4")
async def test_fail_makes_no_second_attempt(wire: Wire) -> None:
    job = await wire.submit(TEXT, FAULTS["restarted"], on_interrupt="fail")
    log = await wire.log(job)
    assert log.names == ["queued", "start", "token", "token", "token", "failed"]
    assert log.last.body["code"] == "provider_interrupted"
    assert (await wire.show(job))["text"] == "a b c "


@pytest.mark.requirement("RS-2")
async def test_a_snapshot_holds_reasoning_and_tool_calls_too(strict: Strict) -> None:
    body = {"provider": "openai", "model": "m", "prompt": "reasoning:2 tools:2 tokens:3"}
    job = (await strict.acme.create(body)).json()["id"]
    log = await strict.acme.log(job)
    snapshot = (await strict.acme.events(job, "1-1")).frames[0].body
    whole = shown(log.frames)
    assert (snapshot["text"], snapshot["reasoning"]) == (whole.text, whole.reasoning)
    assert snapshot["tool_calls"] == [{"index": index, **call} for index, call in whole.tool_calls.items()]


@pytest.mark.requirement("RS-5")
async def test_a_log_that_is_lost_under_a_reader_is_a_failure_without_an_id(strict: Strict) -> None:
    job = await strict.acme.submit(params=PACED)
    async with strict.acme.tail(job) as tail:
        await tail.until(lambda streamed: "token" in streamed.names)
        erase_log(strict, job)
        lost = (await tail.end()).last
    assert (lost.id, lost.event, lost.body["code"]) == (None, "failed", "log_lost")
    assert lost.body["retryable"] is True


def erase_log(strict: Strict, job: str) -> None:
    """What a store does that forgets."""
    with contextlib.closing(strict.cluster.valkey.client()) as client:
        assert client.delete(job_keys(JobKey("acme", job)).log) == 1
