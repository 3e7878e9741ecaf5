"""Ending a job by hand, and making it disappear."""

import asyncio
import contextlib

import pytest

from shared.jobs import JobKey
from shared.storage.keys import job_keys, waiting
from tests.contract.conftest import Strict
from tests.support.cluster import until
from tests.support.wire import PACED, SLOW, TERMINAL, Json, Wire, assert_problem

NOWHERE = "0" * 26


@pytest.mark.requirement("CN-1")
async def test_when_cancel_answers_the_terminal_event_is_in_the_log(wire: Wire) -> None:
    job = await wire.submit(params=PACED)
    async with wire.tail(job) as tail:
        await tail.until(lambda streamed: "token" in streamed.names)
    view = await wire.cancel(job)
    log = await wire.log(job)
    assert view["status"] == "cancelled"
    assert view["last_event_id"] == log.last.id
    assert log.last.event == "cancelled"
    assert view["text"] == "".join(body["text"] for body in log.all("token"))


@pytest.mark.requirement("CN-1")
async def test_cancel_fences_the_worker_with_a_higher_epoch(wire: Wire) -> None:
    job = await wire.submit(params=PACED)
    async with wire.tail(job) as tail:
        await tail.until(lambda streamed: "token" in streamed.names)
        await wire.cancel(job)
        log = await tail.end()
    assert log.last.epoch > log.frames[-2].epoch
    assert (await wire.log(job)).last == log.last


@pytest.mark.requirement("CN-2")
async def test_cancelling_twice_or_at_once_is_cancelling_once(wire: Wire) -> None:
    job = await wire.submit(params=SLOW)
    answers = await asyncio.gather(*(wire.cancel(job) for _ in range(10)))
    again = await wire.cancel(job)
    assert all(answer == again for answer in answers)
    assert (await wire.log(job)).names.count("cancelled") == 1


@pytest.mark.requirement("OR-3")
async def test_whoever_wins_the_race_for_the_end_there_is_one_end(wire: Wire) -> None:
    async def raced(tokens: int) -> Json:
        job = await wire.submit(params={"tokens": tokens, "tokens_per_s": 2000})
        await wire.show_when(job, lambda view: view["status"] != "queued")
        return await wire.cancel(job)

    views = await asyncio.gather(*(raced(tokens) for tokens in range(1, 41)))
    for view in views:
        log = await wire.log(view["id"])
        assert [name for name in log.names if name in TERMINAL] == [view["status"]] == log.names[-1:]
        assert log.last.id == view["last_event_id"]
    assert {view["status"] for view in views} <= {"done", "cancelled"}


@pytest.mark.requirement("CN-3")
@pytest.mark.parametrize("end", ["done", "failed"])
async def test_a_finished_job_is_returned_as_it_is(wire: Wire, end: str) -> None:
    params = {"fault": {"kind": "drop", "after": 1}} if end == "failed" else {}
    job = await wire.submit("a b", params, on_interrupt="fail")
    before, log = await wire.ended(job), await wire.log(job)
    assert before["status"] == end
    assert await wire.cancel(job) == before
    assert (await wire.log(job)).bodies == log.bodies


async def _fill_slots(wire: Wire) -> None:
    for _ in range(4):
        filler = await wire.submit(params=SLOW)
        await wire.show_when(filler, lambda job: job["status"] == "running")


@pytest.mark.requirement("CN-4")
async def test_a_job_that_no_worker_has_taken_is_cancelled_just_so(strict: Strict) -> None:
    await _fill_slots(strict.acme)
    job = await strict.acme.submit("hello")
    view = await strict.acme.cancel(job)
    log = await strict.acme.log(job)
    assert (view["status"], view["attempt"]) == ("cancelled", 0)
    assert log.names == ["queued", "cancelled"]
    assert set(log.last.body["timings"]) == {"latency_ms"}
    assert log.last.body["usage"] == {}


@pytest.mark.requirement("CN-4")
@pytest.mark.parametrize(("method", "path"), [("POST", "/jobs/{}/cancel"), ("DELETE", "/jobs/{}")])
async def test_a_job_that_ended_in_the_queue_costs_its_tenant_no_turn(strict: Strict, method: str, path: str) -> None:
    await _fill_slots(strict.acme)
    job = await strict.acme.submit("hello")
    with contextlib.closing(strict.cluster.valkey.client()) as client:
        assert client.zcard(waiting("acme")) == 1
        assert (await strict.acme.ask(method, path.format(job))).is_success
        assert client.zcard(waiting("acme")) == 0


@pytest.mark.requirement("CN-5")
async def test_what_is_not_there_or_no_more_cannot_be_cancelled(wire: Wire) -> None:
    assert_problem(await wire.ask("POST", f"/jobs/{NOWHERE}/cancel"), 404, "not_found")
    job = await wire.submit("hello")
    await wire.ask("DELETE", f"/jobs/{job}")
    assert_problem(await wire.ask("POST", f"/jobs/{job}/cancel"), 410, "gone")


@pytest.mark.requirement("DL-1")
@pytest.mark.requirement("DL-2")
@pytest.mark.requirement("DL-4")
@pytest.mark.parametrize("open_", [True, False])
async def test_a_deleted_job_is_gone_at_once_and_deleting_it_again_is_no_error(wire: Wire, open_: bool) -> None:
    job = await wire.submit("hello", PACED if open_ else {})
    if not open_:
        await wire.ended(job)
    for _ in range(2):
        answer = await wire.ask("DELETE", f"/jobs/{job}")
        assert (answer.status_code, answer.content) == (204, b"")
        for path in ("", "/events", "/events?last_event_id=0-1", "/events?dialect=chat"):
            assert_problem(await wire.ask("GET", f"/jobs/{job}{path}"), 410, "gone")


@pytest.mark.requirement("DL-3")
async def test_readers_of_a_deleted_job_are_told_and_sent_home(wire: Wire) -> None:
    job = await wire.submit(params=PACED)
    async with wire.tail(job) as native, wire.tail(job, dialect="chat") as chat:
        await native.until(lambda streamed: "token" in streamed.names)
        await chat.until(lambda streamed: bool(streamed.frames))
        await wire.ask("DELETE", f"/jobs/{job}")
        told, told_too = await native.end(), await chat.end()
    assert (told.last.event, told.last.body["reason"], told.whole) == ("cancelled", "deleted", True)
    assert told_too.last.body == {"error": "The job was cancelled.", "done": True}


@pytest.mark.requirement("DL-5")
@pytest.mark.parametrize("job", [NOWHERE, "x"])
async def test_what_never_was_cannot_be_deleted(wire: Wire, job: str) -> None:
    assert_problem(await wire.ask("DELETE", f"/jobs/{job}"), 404, "not_found")


@pytest.mark.requirement("DL-6")
async def test_of_a_deleted_job_nothing_is_left_but_that_it_was(strict: Strict) -> None:
    job = await strict.acme.submit("secret words", metadata={"who": "secret"})
    await strict.acme.ended(job)
    await strict.acme.ask("DELETE", f"/jobs/{job}")
    keys = job_keys(JobKey("acme", job))
    with contextlib.closing(strict.cluster.valkey.client()) as client:
        await asyncio.to_thread(until, lambda: not client.exists(keys.meta, keys.log, keys.lease, keys.ops))
        assert client.get(keys.tombstone) == "deleted"
    assert_problem(await strict.acme.ask("GET", f"/jobs/{job}"), 410, "gone")


@pytest.mark.requirement("LS-6")
async def test_a_deleted_job_is_on_no_list(wire: Wire) -> None:
    kept, deleted = await wire.submit("hello"), await wire.submit("hello")
    await wire.ask("DELETE", f"/jobs/{deleted}")
    data = (await wire.ask("GET", "/jobs", params={"limit": "100"})).json()["data"]
    ids = {job["id"] for job in data}
    assert kept in ids
    assert deleted not in ids
