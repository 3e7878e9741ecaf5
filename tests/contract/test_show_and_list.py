"""GET /jobs/{id} and GET /jobs: the job as it stands, and the caller's jobs in order."""

import re
from typing import Any

import pytest

from tests.contract.conftest import Strict
from tests.support.sse_reader import shown
from tests.support.wire import PACED, SLOW, Json, Wire, assert_problem

FIELDS = {
    "id",
    "provider",
    "model",
    "status",
    "text",
    "finish_reason",
    "usage",
    "attempt",
    "provider_calls",
    "last_event_id",
    "error",
    "timings",
    "metadata",
    "created_at",
    "finished_at",
    "expires_at",
    "events_url",
}
TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z")
NOWHERE = "0" * 26


async def pages(wire: Wire, **query: Any) -> list[list[Json]]:
    """All pages of a list."""
    found = []
    after: dict[str, str] = {}
    while True:
        answer = await wire.ask("GET", "/jobs", params={**query, **after})
        assert answer.status_code == 200, answer.text
        found.append(answer.json()["data"])
        if answer.json()["next"] is None:
            return found
        after = {"after": answer.json()["next"]}


async def longer_than(wire: Wire, job: str, length: int) -> Json:
    """The job, once its text is longer than that."""
    return await wire.show_when(job, lambda view: len(view["text"]) > length)


@pytest.mark.requirement("SH-1")
async def test_a_finished_job_is_shown_whole(wire: Wire) -> None:
    job = await wire.submit("hello", model="demo-1", metadata={"a": "b"})
    view = await wire.ended(job)
    assert set(view) == FIELDS
    assert (view["id"], view["provider"], view["model"]) == (job, "scripted", "demo-1")
    assert (view["status"], view["text"], view["attempt"]) == ("done", "hello", 1)
    assert (view["finish_reason"], view["error"], view["metadata"]) == ("stop", None, {"a": "b"})
    assert view["events_url"] == f"/jobs/{job}/events"


@pytest.mark.requirement("SH-1")
async def test_an_open_job_has_no_end_yet(wire: Wire) -> None:
    job = await wire.submit(params=SLOW)
    view = await wire.show_when(job, lambda view: view["status"] == "running")
    assert set(view) == FIELDS
    assert (view["text"], view["finish_reason"], view["error"], view["usage"]) == ("", None, None, {})
    assert (view["finished_at"], view["expires_at"]) == (None, None)
    await wire.cancel(job)


@pytest.mark.requirement("GN-13")
async def test_times_are_rfc_3339_in_utc_with_milliseconds(wire: Wire) -> None:
    view = await wire.ended(await wire.submit("hello"))
    times = [view[name] for name in ("created_at", "finished_at", "expires_at")]
    assert all(TIME.fullmatch(time) for time in times)
    assert times == sorted(times)


@pytest.mark.requirement("SH-2")
async def test_reading_on_from_what_is_shown_has_no_gap_and_no_overlap(wire: Wire) -> None:
    job = await wire.submit(params={**PACED, "tokens": 60})
    views = [await longer_than(wire, job, length) for length in (0, 20, 60)]
    whole = shown((await wire.log(job)).frames).text
    for view in views:
        rest = await wire.events(job, view["last_event_id"])
        assert view["text"] + shown(rest.frames).text == whole


@pytest.mark.requirement("SH-3")
@pytest.mark.parametrize("end", ["done", "failed", "cancelled"])
async def test_a_finished_job_shows_what_its_terminal_event_says(wire: Wire, end: str) -> None:
    fault = {"fault": {"kind": "error", "after": 2}} if end == "failed" else {}
    job = await wire.submit("a b c", {**fault, **(SLOW if end == "cancelled" else {})}, on_interrupt="fail")
    if end == "cancelled":
        await wire.cancel(job)
    terminal = (await wire.log(job)).last
    view = await wire.show(job)
    assert (view["status"], view["last_event_id"]) == (end, terminal.id)
    assert view["finish_reason"] == terminal.body.get("finish_reason")
    for name in ("usage", "timings", "attempt"):
        assert view[name] == terminal.body[name]
    error = {name: terminal.body[name] for name in ("code", "message", "retryable")} if end == "failed" else None
    assert view["error"] == error


@pytest.mark.requirement("SH-4")
@pytest.mark.parametrize("job", [NOWHERE, "x", "A" * 26, "0" * 27, "%ff", "a%20b", "null"])
async def test_a_job_that_is_not_there_is_not_found(wire: Wire, job: str) -> None:
    assert_problem(await wire.ask("GET", f"/jobs/{job}"), 404, "not_found")
    assert_problem(await wire.ask("GET", f"/jobs/{job}/events"), 404, "not_found")


@pytest.mark.requirement("LS-1")
@pytest.mark.requirement("LS-4")
async def test_a_list_is_newest_first_and_without_texts(wire: Wire) -> None:
    jobs = [await wire.submit("hello") for _ in range(3)]
    await wire.ended(jobs[-1])
    listed = (await wire.ask("GET", "/jobs", params={"limit": "100"})).json()["data"]
    data = [job for job in listed if job["id"] in jobs]
    assert [job["id"] for job in data] == jobs[::-1]
    assert set(data[0]) == FIELDS - {"text", "last_event_id"}
    created = [job["created_at"] for job in data]
    assert created == sorted(created, reverse=True)


@pytest.mark.requirement("LS-2")
async def test_following_next_shows_every_job_once(strict: Strict) -> None:
    jobs = [await strict.umbra.submit("hello") for _ in range(7)]
    for limit in (1, 2, 3, 7, 100):
        listed = await pages(strict.umbra, limit=limit)
        ids = [job["id"] for page in listed for job in page]
        assert ids[:7] == jobs[::-1]
        assert len(ids) == len(set(ids))
        assert all(len(page) <= limit for page in listed)


@pytest.mark.requirement("LS-2")
async def test_jobs_that_are_made_while_one_turns_pages_do_not_move_them(strict: Strict) -> None:
    jobs = [await strict.umbra.submit("hello") for _ in range(4)]
    first = (await strict.umbra.ask("GET", "/jobs", params={"limit": "2"})).json()
    await strict.umbra.submit("hello")
    second = (await strict.umbra.ask("GET", "/jobs", params={"limit": "2", "after": first["next"]})).json()
    assert [job["id"] for job in first["data"] + second["data"]] == jobs[::-1]


@pytest.mark.requirement("LS-3")
async def test_status_keeps_the_jobs_in_that_state(wire: Wire) -> None:
    done, running, cancelled = [await wire.submit("a b", params) for params in ({}, SLOW, SLOW)]
    failed = await wire.submit("a b", {"fault": {"kind": "drop", "after": 1}}, on_interrupt="fail")
    await wire.cancel(cancelled)
    await wire.show_when(running, lambda job: job["status"] == "running")
    for job in (done, failed):
        await wire.ended(job)
    wanted = {"done": done, "running": running, "cancelled": cancelled, "failed": failed}
    for status in wanted:
        data = [job for page in await pages(wire, status=status) for job in page]
        assert {job["status"] for job in data} == {status}
        assert {name for name, job in wanted.items() if job in {item["id"] for item in data}} == {status}
    await wire.cancel(running)


@pytest.mark.requirement("LS-3")
async def test_a_rare_state_is_found_behind_many_other_jobs(wire: Wire) -> None:
    rare = await wire.submit(params=SLOW)
    await wire.cancel(rare)
    for _ in range(12):
        await wire.submit("hello")
    listed = await pages(wire, status="cancelled", limit=1)
    assert rare in [job["id"] for page in listed for job in page]


@pytest.mark.requirement("LS-5")
@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("limit", "0"),
        ("limit", "101"),
        ("limit", "-1"),
        ("limit", "ten"),
        ("limit", "1.5"),
        ("status", "ended"),
        ("status", ""),
        ("after", "x"),
        ("after", ""),
        ("after", "0-1"),
    ],
)
async def test_a_list_refuses_what_it_does_not_understand(wire: Wire, field: str, value: str) -> None:
    assert_problem(await wire.ask("GET", "/jobs", params={field: value}), 400, "invalid_request", field)
