"""Every route of the OpenAPI document, for two tenants and for nobody: a new one without a check fails here."""

import asyncio
import json
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from api.auth import COOKIE
from shared.principals import Right
from tests.contract.conftest import Strict, needs_our_node
from tests.support.wire import Wire, assert_problem, scripted

OPEN = {"/healthz", "/readyz"}
"""What needs no key, beside the document itself."""
BODIES: dict[tuple[str, str], Any] = {("post", "/jobs"): scripted("hello"), ("post", "/jobs/{job_id}/tokens"): {}}
CHAT = {"message": "hi"}
QUERIES = [
    *(f"?dialect={name}" for name in ("native", "chat", "chat-meta", "langchain")),
    "?exact=true",
    "?last_event_id=$",
]
QUERIES += ["?last_event_id=0-0", "?last_event_id=1-5&exact=true"]
"""Each way to read a job's events."""


def routes(document: dict[str, Any]) -> Iterator[tuple[str, str, Any]]:
    """Method, path and a sound body of each operation."""
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            body = BODIES.get((method, path), CHAT if "requestBody" in operation else None)
            yield method.upper(), path, body


async def _document(strict: Strict) -> dict[str, Any]:
    document: dict[str, Any] = (await strict.nobody.ask("GET", "/openapi.json")).json()
    return document


@pytest.mark.requirement("AU-1")
async def test_no_route_answers_anything_without_a_key(strict: Strict) -> None:
    job = await strict.acme.submit("hello")
    for method, path, body in routes(await _document(strict)):
        answer = await strict.nobody.ask(method, path.format(job_id=job), body)
        if path in OPEN:
            assert answer.status_code == 200
        else:
            assert_problem(answer, 401, "unauthorized")


@pytest.mark.requirement("AU-2")
async def test_no_route_shows_or_touches_a_job_of_another_tenant(strict: Strict) -> None:
    job = await strict.acme.submit("words of acme")
    before = await strict.acme.ended(job)
    walked = 0
    for method, path, body in routes(await _document(strict)):
        for query in _queries(path):
            answer = await strict.umbra.ask(method, path.format(job_id=job) + query, body)
            if "{job_id}" in path:
                walked += 1
                assert_problem(answer, 404, "not_found")
            elif method == "GET":
                assert job not in answer.text
            assert "words of acme" not in answer.text
    assert walked >= 5 + len(QUERIES)
    assert await strict.acme.show(job) == before


def _queries(path: str) -> list[str]:
    return ["", *QUERIES] if path.endswith("/events") else [""]


@pytest.mark.requirement("AU-2")
@pytest.mark.parametrize("whose", ["another tenant's job", "another job"])
@pytest.mark.parametrize("by", ["header", "query", "cookie"])
async def test_a_token_opens_no_route_of_a_job_that_it_was_not_made_for(strict: Strict, whose: str, by: str) -> None:
    job = await strict.acme.submit("words of acme")
    before = await strict.acme.ended(job)
    owner = strict.umbra if whose == "another tenant's job" else strict.acme
    mine = await owner.submit("mine")
    await owner.ended(mine)
    token = (await owner.ask("POST", f"/jobs/{mine}/tokens", {"rights": ["read", "cancel"]})).json()["token"]
    sent = {"header": {"Authorization": f"Bearer {token}"}, "cookie": {"Cookie": f"{COOKIE}={token}"}, "query": {}}[by]
    headers = {"Origin": strict.acme.url, **sent}
    for method, path, body in routes(await _document(strict)):
        for query in _queries(path):
            also = ("&" if query else "?") + f"token={token}" if by == "query" else ""
            address = path.format(job_id=job) + query + also
            answer = await strict.nobody.ask(method, address, body, headers=headers)
            assert answer.status_code == 200 if path in OPEN else answer.status_code in (403, 404), (method, address)
            assert "words of acme" not in answer.text
            assert path in OPEN or job not in answer.text.replace(path.format(job_id=job), "")
    assert await strict.acme.show(job) == before
    shown = await strict.nobody.ask("GET", f"/jobs/{mine}{'?token=' + token if by == 'query' else ''}", headers=headers)
    assert shown.json()["text"] == "mine", "or all of this proves nothing"


async def _key(strict: Strict, tenant: str, rights: str) -> str:
    """A key as an operator makes one."""
    url = strict.cluster.valkey.url
    arguments = ("-m", "cli.main", "keys", "create", tenant, "--rights", rights, "--json", "--redis-url", url)
    process = await asyncio.create_subprocess_exec(sys.executable, *arguments, stdout=asyncio.subprocess.PIPE)
    said, _ = await process.communicate()
    assert process.returncode == 0
    return str(json.loads(said)["key"])


@pytest.mark.requirement("AU-5")
async def test_every_route_wants_one_right_and_a_key_without_it_is_forbidden(strict: Strict) -> None:
    job = await strict.acme.submit("hello")
    await strict.acme.ended(job)
    keys = {right: await _key(strict, "acme", right) for right in Right}
    wanted: dict[tuple[str, str], list[Right]] = {}
    for method, path, body in routes(await _document(strict)):
        if path in OPEN:
            continue
        for right, key in keys.items():
            async with Wire(strict.acme.url, key) as wire:
                answer = await wire.ask(method, path.format(job_id=job), body)
            assert answer.status_code != 401, (method, path, right)
            if answer.status_code == 403:
                assert_problem(answer, 403, "forbidden")
            else:
                wanted.setdefault((method, path), []).append(right)
    assert {len(rights) for rights in wanted.values()} == {1}, wanted
    assert wanted["POST", "/jobs"] == [Right.SUBMIT]
    assert wanted["GET", "/jobs/{job_id}/events"] == wanted["GET", "/jobs"] == [Right.READ]
    assert wanted["DELETE", "/jobs/{job_id}"] == wanted["POST", "/jobs/{job_id}/cancel"] == [Right.CANCEL]
    assert wanted["GET", "/metrics"] == [Right.ADMIN]


@pytest.mark.requirement("AU-5")
async def test_a_key_that_may_only_submit_reads_no_answer_by_any_way_to_submit(strict: Strict) -> None:
    document = await _document(strict)
    posts = [(path, body) for method, path, body in routes(document) if method == "POST" and "{job_id}" not in path]
    async with (
        Wire(strict.acme.url, await _key(strict, "acme", "submit")) as writer,
        Wire(strict.acme.url, await _key(strict, "acme", "submit,read")) as both,
    ):
        made = await writer.create(scripted("words of acme"), key="only-submits")
        assert (made.status_code, "read_token" in made.json()) == (202, False)
        await strict.acme.ended(made.json()["id"])
        again = await writer.create(scripted("words of acme"), key="only-submits")
        assert (again.status_code, again.json()["id"]) == (200, made.json()["id"])
        assert "words of acme" not in again.text
        assert (await both.create(scripted("words of acme"), key="only-submits")).json()["text"] == "words of acme"
        headers = {"Accept": "text/event-stream", "Idempotency-Key": "only-submits"}
        assert len(posts) >= 5
        for path, body in posts:
            asked = scripted("words of acme") if path == "/jobs" else body
            assert_problem(await writer.ask("POST", path, asked, headers=headers), 403, "forbidden")
        shown = await both.ask("POST", "/jobs", scripted("words of acme"), headers=headers)
        assert "words of acme" in shown.text


@pytest.mark.requirement("AU-5")
async def test_who_may_only_cancel_reads_nothing_of_the_job(strict: Strict) -> None:
    job = (await strict.acme.create(scripted("words of acme", metadata={"case": "secret"}))).json()["id"]
    await strict.acme.ended(job)
    token = (await strict.acme.ask("POST", f"/jobs/{job}/tokens", {"rights": ["cancel"]})).json()["token"]
    for key in (await _key(strict, "acme", "cancel"), token):
        async with Wire(strict.acme.url, key) as wire:
            answer = await wire.ask("POST", f"/jobs/{job}/cancel")
        assert (answer.status_code, answer.json()["status"]) == (200, "done")
        assert "words of acme" not in answer.text
        assert "secret" not in answer.text


@pytest.mark.requirement("AU-6")
@needs_our_node
async def test_a_page_whose_name_was_made_to_mean_this_machine_gets_nothing_from_a_node_without_keys(
    wire: Wire,
) -> None:
    job = await wire.submit("hello")
    document = (await wire.ask("GET", "/openapi.json")).json()
    for method, path, body in routes(document):
        for name in ("evil.example", "evil.example:8000", "localhost.evil.example", "127.0.0.1.evil.example", "[", ""):
            answer = await wire.ask(method, path.format(job_id=job), body, headers={"Host": name})
            if path in OPEN:
                assert answer.status_code == 200
            else:
                assert_problem(answer, 403, "forbidden")
    for name in ("localhost", "LOCALHOST:80", "app.localhost.", "127.0.0.1", "127.1.2.3:9", "[::1]:80"):
        assert (await wire.ask("GET", f"/jobs/{job}", headers={"Host": name})).status_code == 200
