"""Limits and retention: what happens at the edge of each, and that nothing stays in the store for good."""

import asyncio
import contextlib
from datetime import datetime, timedelta
from typing import Any
from uuid import uuid4

import pytest

from tests.contract.conftest import Strict, needs_our_node
from tests.support.sse_reader import shown
from tests.support.stores import keys_without_end
from tests.support.wire import GUARD_S, SLOW, Wire, assert_problem, scripted

LIMIT = 1024


async def asked(strict: Strict, prompt: str, **fields: Any) -> str:
    """A job of the provider on loopback, which does what the prompt says; its id."""
    answer = await strict.acme.create({"provider": "openai", "model": "m", "prompt": prompt, **fields})
    job: str = answer.json()["id"]
    return job


@pytest.mark.requirement("LM-1")
@pytest.mark.parametrize(
    ("letter", "count"),
    [
        ("x", LIMIT + 1),
        ("何", LIMIT // 3 + 1),
    ],
    ids=["ASCII", "three bytes each"],
)
async def test_an_answer_beyond_the_limit_fails(strict: Strict, letter: str, count: int) -> None:
    log = await strict.acme.log(await strict.acme.submit("a " + letter * count))
    assert log.last.event == "failed"
    assert (log.last.body["code"], log.last.body["retryable"]) == ("output_too_large", False)
    assert shown(log.frames).text == "a "


@pytest.mark.requirement("LM-1")
async def test_an_answer_of_exactly_the_limit_is_whole(strict: Strict) -> None:
    job = await strict.acme.ended(await strict.acme.submit("x" * LIMIT))
    assert (job["status"], job["text"]) == ("done", "x" * LIMIT)


@pytest.mark.requirement("LM-2")
@pytest.mark.requirement("EV-17")
async def test_a_job_ends_at_its_deadline_whether_a_worker_took_it_or_not(strict: Strict) -> None:
    running = [await strict.acme.submit(params=SLOW) for _ in range(4)]
    for job in running:
        await strict.acme.show_when(job, lambda view: view["status"] == "running")
    waiting = [await strict.acme.submit(params=SLOW) for _ in range(2)]
    logs = [await strict.acme.log(job) for job in running + waiting]
    assert [log.last.body.get("code") for log in logs] == ["deadline_exceeded"] * 6
    assert [log.last.body["attempt"] for log in logs[:4]] == [1] * 4
    # A slot may become free at a deadline that is a little earlier than the waiting job's own.
    assert {log.last.body["attempt"] for log in logs[4:]} <= {0, 1}
    assert all(log.names.count("failed") == 1 for log in logs)


@pytest.mark.requirement("LM-3")
async def test_a_provider_that_falls_silent_has_timed_out(strict: Strict) -> None:
    log = await strict.acme.log(await asked(strict, "fault:stall:2 tokens:3", on_interrupt="fail"))
    assert log.names == ["queued", "start", "token", "token", "failed"]
    assert (log.last.body["code"], log.last.body["retryable"]) == ("provider_timeout", True)


@pytest.mark.requirement("LM-4")
@pytest.mark.parametrize(("faults", "end"), [(1, "done"), (2, "done"), (3, "failed")])
async def test_before_the_first_token_a_broken_call_is_repeated_in_silence(
    strict: Strict, faults: int, end: str
) -> None:
    job = await asked(strict, f"fault:503:0:{faults} tokens:2 {uuid4().hex}", on_interrupt="fail")
    log = await strict.acme.log(job)
    assert log.names == ["queued", "start", *(["token"] * 2 if end == "done" else []), end]
    assert log.last.body["attempt"] == 1
    assert log.last.body.get("code", "provider_unavailable") == "provider_unavailable"


@pytest.mark.requirement("LM-5")
async def test_after_five_attempts_it_is_enough(strict: Strict) -> None:
    log = await strict.acme.log(await asked(strict, "fault:drop:1 tokens:2"))
    assert [body["attempt"] for body in log.all("start")] == [1, 2, 3, 4, 5]
    assert (log.last.body["code"], log.last.body["attempt"]) == ("provider_interrupted", 5)


@pytest.mark.requirement("RT-1")
@pytest.mark.parametrize("ttl_s", [60, 604_800])
async def test_retention_begins_at_the_end(wire: Wire, ttl_s: int) -> None:
    job = await wire.ended(await wire.submit("hello", ttl_s=ttl_s))
    finished, expires = (datetime.fromisoformat(job[name]) for name in ("finished_at", "expires_at"))
    assert expires - finished == timedelta(seconds=ttl_s)


@pytest.mark.requirement("RT-2")
@pytest.mark.requirement("DL-4")
@pytest.mark.requirement("ID-4")
async def test_an_expired_job_is_gone_for_every_operation_and_for_its_key(wire: Wire) -> None:
    body, key = scripted("hello", ttl_s=1), f"key-{uuid4()}"
    created = await wire.create(body, key=key)
    job = created.json()["id"]
    async with asyncio.timeout(GUARD_S):
        while (await wire.ask("GET", f"/jobs/{job}")).status_code == 200:
            pass
    for method, path in (("GET", ""), ("GET", "/events"), ("GET", "/events?last_event_id=0-1"), ("POST", "/cancel")):
        assert_problem(await wire.ask(method, f"/jobs/{job}{path}"), 410, "gone")
    assert_problem(await wire.create(body, key=key), 410, "gone")
    assert (await wire.ask("DELETE", f"/jobs/{job}")).status_code == 204


@needs_our_node
@pytest.mark.requirement("RT-3")
@pytest.mark.parametrize("ttl_s", [0, -1, 604_801, 10**30, 1.5, "60"])
async def test_a_retention_out_of_bounds_is_refused(wire: Wire, ttl_s: object) -> None:
    assert_problem(await wire.create(scripted("hello", ttl_s=ttl_s)), 400, "invalid_request", "ttl_s")


@pytest.mark.requirement("OR-7")
async def test_nothing_stays_in_the_store_without_an_end(strict: Strict) -> None:
    jobs = [await strict.acme.submit("a b", params) for params in ({}, SLOW)]
    jobs.append(await asked(strict, "fault:drop:1:1 tokens:2"))
    await strict.acme.create(scripted("hello"), key="ends-some-day")
    await strict.acme.cancel(jobs[1])
    for job in jobs:
        await strict.acme.ended(job)
    await strict.acme.ask("DELETE", f"/jobs/{jobs[0]}")
    with contextlib.closing(strict.cluster.valkey.client()) as client:
        assert keys_without_end(client) == []
