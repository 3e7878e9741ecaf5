"""Keys and tenants: who may ask, and that nobody sees what belongs to another."""

import pytest

from tests.contract.conftest import Strict
from tests.support.wire import Wire, assert_problem, scripted

PROTECTED = [
    ("POST", "/jobs"),
    ("GET", "/jobs"),
    ("GET", "/metrics"),
    ("POST", "/jobs/{id}/tokens"),
    ("GET", "/jobs/{id}"),
    ("GET", "/jobs/{id}/events"),
    ("POST", "/jobs/{id}/cancel"),
    ("DELETE", "/jobs/{id}"),
    ("POST", "/chat/stream"),
    ("POST", "/chat/stream-meta"),
    ("POST", "/anthropic/stream"),
    ("POST", "/langchain/stream"),
]
BODIES = {path: {"message": "hi"} for method, path in PROTECTED if "stream" in path}
BODIES |= {"/jobs": scripted("hello"), "/jobs/{id}/tokens": {}}
OPEN = ["/healthz", "/readyz", "/openapi.json", "/docs", "/", "/console/app.js"]
WRONG = ["", "Bearer", "Bearer wrong", "Bearer key-of-acme2", "Basic a2V5LW9mLWFjbWU=", "key-of-acme", "Bearer ü"]


@pytest.mark.requirement("AU-1")
@pytest.mark.parametrize(("method", "path"), PROTECTED)
async def test_without_a_valid_key_nothing_is_answered(strict: Strict, method: str, path: str) -> None:
    job = await strict.acme.submit("hello")
    for given in (None, *WRONG):
        headers = {} if given is None else {"Authorization": given.encode()}
        body = BODIES.get(path) if method == "POST" else None
        answer = await strict.nobody.ask(method, path.format(id=job), body, headers=headers)
        assert_problem(answer, 401, "unauthorized")
        assert answer.headers["www-authenticate"] == "Bearer"
    assert (await strict.acme.ended(job))["status"] == "done"


@pytest.mark.requirement("AU-2")
@pytest.mark.parametrize(("method", "path"), [row for row in PROTECTED if "{id}" in row[1]])
async def test_the_job_of_another_tenant_is_not_found_and_not_touched(strict: Strict, method: str, path: str) -> None:
    job = await strict.acme.submit("hello")
    before = await strict.acme.ended(job)
    assert_problem(await strict.umbra.ask(method, path.format(id=job)), 404, "not_found")
    assert await strict.acme.show(job) == before


@pytest.mark.requirement("AU-2")
async def test_a_foreign_job_and_none_at_all_get_the_same_answer(strict: Strict) -> None:
    job = await strict.acme.submit("hello")
    answers = [(await strict.umbra.ask("GET", f"/jobs/{name}")).json() for name in (job, "0" * 26)]
    for answer in answers:
        del answer["request_id"]
    assert answers[0] == answers[1]


@pytest.mark.requirement("AU-3")
async def test_lists_and_keys_are_each_tenants_own(strict: Strict) -> None:
    mine = await strict.acme.create(scripted("hello"), key="shared-key")
    theirs = await strict.umbra.create(scripted("other words"), key="shared-key")
    assert (mine.status_code, theirs.status_code) == (202, 202)
    for wire, own, foreign in ((strict.acme, mine, theirs), (strict.umbra, theirs, mine)):
        listed = await wire.ask("GET", "/jobs", params={"limit": "100"})
        ids = {job["id"] for job in listed.json()["data"]}
        assert own.json()["id"] in ids
        assert foreign.json()["id"] not in ids


@pytest.mark.requirement("AU-4")
@pytest.mark.parametrize("path", OPEN)
async def test_health_description_and_console_need_no_key(strict: Strict, path: str) -> None:
    assert (await strict.nobody.ask("GET", path)).status_code == 200


@pytest.mark.requirement("AU-1")
async def test_the_scheme_is_read_in_any_case(strict: Strict) -> None:
    async with Wire(strict.acme.url) as wire:
        answer = await wire.ask("GET", "/jobs", headers={"Authorization": "bearer key-of-acme"})
    assert answer.status_code == 200
