"""What an answer tells browsers and caches: nothing of it is to be stored, framed or guessed at, and pages of other
sites may read it only where that was allowed by name."""

import re

import pytest

from tests.contract.conftest import Strict, needs_our_node
from tests.support.wire import Wire, scripted

OURS = "https://app.example"
FOREIGN = [
    "https://app.example.evil.com", "https://evil-app.example", "http://app.example", "https://app.example:444",
    "https://APP.example.evil", "null", "https://sub.app.example", "http://localhost:5174", "*", "",
]  # fmt: skip
PATHS = ["/jobs", "/jobs/{id}", "/jobs/none", "/no/such/route", "/healthz", "/openapi.json", "/metrics"]


@pytest.mark.requirement("HD-1")
@pytest.mark.parametrize("path", PATHS)
async def test_an_answer_is_nobody_elses_and_no_page(strict: Strict, path: str) -> None:
    job = await strict.acme.submit("hello")
    for caller in (strict.acme, strict.nobody):
        answer = await caller.ask("GET", path.format(id=job))
        assert answer.headers["cache-control"] == "no-store"
        assert {"Authorization", "Cookie", "Origin"} <= set(answer.headers["vary"].split(", "))
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["content-security-policy"] == "default-src 'none'; frame-ancestors 'none'"


@pytest.mark.requirement("HD-1")
async def test_what_is_made_and_what_is_streamed_is_nobody_elses_either(strict: Strict) -> None:
    made = await strict.acme.create(scripted("hello"))
    assert made.headers["cache-control"] == "no-store"
    streamed = await strict.acme.events(made.json()["id"])
    assert "no-cache" in streamed.headers["cache-control"]
    assert {"Authorization", "Cookie"} <= set(streamed.headers["vary"].split(", "))
    assert streamed.headers["x-content-type-options"] == "nosniff"


@pytest.mark.requirement("HD-1")
@pytest.mark.parametrize("path", ["/", "/console/app.js", "/docs"])
async def test_a_page_is_framed_by_nobody_and_tells_nobody_where_it_was(wire: Wire, path: str) -> None:
    answer = await wire.ask("GET", path)
    assert answer.status_code == 200
    assert "frame-ancestors 'none'" in answer.headers["content-security-policy"]
    assert answer.headers["referrer-policy"] == "no-referrer"
    assert answer.headers["x-content-type-options"] == "nosniff"


@pytest.mark.requirement("HD-1")
async def test_the_console_runs_what_is_its_own_alone(wire: Wire) -> None:
    answer = await wire.ask("GET", "/")
    policy = dict(part.strip().split(" ", 1) for part in answer.headers["content-security-policy"].split(";"))
    assert policy["default-src"] == "'none'"
    assert policy["script-src"] == policy["style-src"] == policy["connect-src"] == "'self'"
    assert policy["base-uri"] == policy["form-action"] == "'none'"
    assert not re.search(r"<script(?![^>]* src=)|<style|\son[a-z]+=|javascript:|style=", answer.text)


@pytest.mark.requirement("HD-1")
async def test_what_the_description_takes_from_elsewhere_is_one_exact_file_or_nothing(wire: Wire) -> None:
    answer = await wire.ask("GET", "/docs")
    policy = dict(part.strip().split(" ", 1) for part in answer.headers["content-security-policy"].split(";"))
    assert (policy["default-src"], policy["connect-src"]) == ("'none'", "'self'")
    tags = re.findall(r"<(?:script|link)[^>]*>", answer.text)
    foreign = [tag for tag in tags if "https://" in tag]
    assert len(foreign) == 2
    for tag in foreign:
        assert re.search(r'"https://[^"]*@\d+\.\d+\.\d+/', tag), "a version, whole"
        assert re.search(r'integrity="sha384-[A-Za-z0-9+/]{64}"', tag)
        assert 'crossorigin="anonymous"' in tag
    assert not re.search(r"<script(?![^>]* src=)|<style|\son[a-z]+=|javascript:", answer.text)
    assert (await wire.ask("GET", "/redoc")).status_code == 404


@needs_our_node
@pytest.mark.requirement("HD-2")
async def test_pages_of_other_sites_read_nothing_by_default(wire: Wire) -> None:
    for method, asked in (("GET", {}), ("OPTIONS", {"Access-Control-Request-Method": "POST"})):
        answer = await wire.ask(method, "/jobs", headers={"Origin": OURS, **asked})
        assert not [name for name in answer.headers if name.startswith("access-control-")]


@pytest.mark.requirement("HD-2")
@pytest.mark.parametrize("path", ["/jobs", "/jobs/{id}/events", "/jobs/none"])
async def test_pages_of_an_origin_that_is_named_read_answers_refusals_and_streams(strict: Strict, path: str) -> None:
    job = await strict.acme.submit("hello")
    for caller in (strict.acme, strict.nobody):
        answer = await caller.ask("GET", path.format(id=job), headers={"Origin": OURS})
        assert answer.headers["access-control-allow-origin"] == OURS
        assert answer.headers["access-control-allow-credentials"] == "true"
        assert "Origin" in answer.headers["vary"]
        assert "X-Request-Id" in answer.headers["access-control-expose-headers"]


@pytest.mark.requirement("HD-2")
async def test_such_a_page_may_send_what_a_reader_needs(strict: Strict) -> None:
    wanted = "authorization, content-type, idempotency-key, last-event-id, x-request-id"
    for method in ("GET", "POST", "DELETE"):
        asked = {
            "Origin": OURS,
            "Access-Control-Request-Method": method,
            "Access-Control-Request-Headers": wanted,
        }
        answer = await strict.nobody.ask("OPTIONS", "/jobs/x/events", headers=asked)
        assert answer.status_code == 200
        assert answer.headers["access-control-allow-origin"] == OURS
        assert method in answer.headers["access-control-allow-methods"]
        allowed = answer.headers["access-control-allow-headers"].lower()
        assert all(name in allowed for name in wanted.split(", "))


@pytest.mark.requirement("HD-2")
@pytest.mark.parametrize("origin", FOREIGN)
async def test_an_origin_that_only_looks_like_one_that_is_named_reads_nothing(strict: Strict, origin: str) -> None:
    asked = {"Access-Control-Request-Method": "GET", "Access-Control-Request-Headers": "authorization"}
    answers = [
        await strict.acme.ask("GET", "/jobs", headers={"Origin": origin}),
        await strict.nobody.ask("OPTIONS", "/jobs", headers={"Origin": origin, **asked}),
    ]
    assert all("access-control-allow-origin" not in answer.headers for answer in answers)
