"""What holds for every request: request ids, routes, methods, problems; and health and the API's own description."""

import re
from typing import Any
from uuid import uuid4

import pytest

from shared.errors import CODES
from tests.contract.conftest import needs_our_node
from tests.support.wire import Wire, assert_problem, scripted

NOWHERE = "0" * 26
ROUTES = {
    "/jobs": {"get", "post"},
    "/jobs/{job_id}": {"get", "delete"},
    "/jobs/{job_id}/cancel": {"post"},
    "/jobs/{job_id}/events": {"get"},
    "/chat/stream": {"post"},
    "/chat/stream-meta": {"post"},
    "/anthropic/stream": {"post"},
    "/langchain/stream": {"post"},
    "/healthz": {"get"},
    "/readyz": {"get"},
    "/metrics": {"get"},
}
WRONG = [
    ("PUT", "/jobs"),
    ("DELETE", "/jobs"),
    ("PATCH", f"/jobs/{NOWHERE}"),
    ("POST", f"/jobs/{NOWHERE}"),
    ("POST", f"/jobs/{NOWHERE}/events"),
    ("GET", f"/jobs/{NOWHERE}/cancel"),
    ("GET", "/chat/stream"),
    ("POST", "/healthz"),
]


@pytest.mark.requirement("GN-1")
@pytest.mark.parametrize(
    ("method", "path"), [("GET", "/jobs"), ("GET", "/healthz"), ("GET", "/nope"), ("POST", "/jobs"), ("PUT", "/jobs")]
)
async def test_every_answer_has_a_request_id_and_takes_over_a_good_one(wire: Wire, method: str, path: str) -> None:
    own = await wire.ask(method, path)
    assert re.fullmatch(r"[A-Za-z0-9._-]{1,64}", own.headers["x-request-id"])
    for given in ("a", "trace.1_2-3", "x" * 64):
        taken = await wire.ask(method, path, headers={"X-Request-Id": given})
        assert taken.headers["x-request-id"] == given
        assert taken.status_code < 400 or taken.json()["request_id"] == given
    for bad in ("", "a b", "x" * 65, "<script>", "a\tb"):
        replaced = await wire.ask(method, path, headers={"X-Request-Id": bad})
        assert re.fullmatch(r"[0-9a-f]{16}", replaced.headers["x-request-id"])


@pytest.mark.requirement("GN-1")
async def test_a_stream_has_a_request_id(wire: Wire) -> None:
    job = await wire.submit("hello")
    async with wire.streaming("GET", f"/jobs/{job}/events", headers={"X-Request-Id": "me"}) as tail:
        assert (await tail.end()).headers["x-request-id"] == "me"


@pytest.mark.requirement("GN-2")
async def test_a_problem_has_the_members_of_rfc_9457_and_ours(wire: Wire) -> None:
    answer = await wire.create(scripted("hello", priority=10))
    problem = assert_problem(answer, 400, "invalid_request", "priority")
    kind = CODES["invalid_request"]
    assert set(problem) == {"type", "title", "status", "detail", "code", "retryable", "field", "request_id"}
    assert (problem["title"], problem["retryable"]) == (kind.title, kind.retryable)
    assert problem["request_id"] == answer.headers["x-request-id"]


@pytest.mark.requirement("GN-3")
@pytest.mark.parametrize("path", ["/nope", "/jobs/a/b/c", f"/jobs/{NOWHERE}/nope", "/JOBS", "/console/secret.py"])
async def test_a_route_that_does_not_exist_is_a_problem(wire: Wire, path: str) -> None:
    assert_problem(await wire.ask("GET", path), 404, "no_such_route")


@pytest.mark.requirement("GN-4")
@pytest.mark.parametrize(("method", "path"), WRONG)
async def test_a_wrong_method_is_a_problem_that_names_the_right_ones(wire: Wire, method: str, path: str) -> None:
    answer = await wire.ask(method, path)
    assert_problem(answer, 405, "method_not_allowed")
    assert answer.headers["allow"]


@pytest.mark.requirement("GN-4")
async def test_a_wrong_method_is_told_every_right_one_of_its_path(wire: Wire) -> None:
    assert (await wire.ask("PUT", "/jobs")).headers["allow"] == "GET, POST"
    assert (await wire.ask("PUT", f"/jobs/{NOWHERE}")).headers["allow"] == "GET, DELETE"


@pytest.mark.requirement("OR-5")
async def test_reading_makes_no_job(wire: Wire) -> None:
    marker = await wire.submit("hello")
    await wire.ended(marker)
    for path in (
        f"/jobs/{marker}",
        f"/jobs/{marker}/events",
        f"/jobs/{NOWHERE}",
        f"/jobs/{NOWHERE}/events",
        "/chat/stream",
    ):
        await wire.ask("GET", path)
    newest = (await wire.ask("GET", "/jobs", params={"limit": "1"})).json()["data"][0]
    assert newest["id"] == marker
    assert (await wire.log(marker)).names.count("start") == 1


@pytest.mark.requirement("OP-1")
async def test_a_living_process_says_so_and_which_version_it_is(wire: Wire) -> None:
    answer = await wire.ask("GET", "/healthz")
    assert (answer.status_code, answer.json()["status"]) == (200, "ok")
    assert answer.json()["version"]


@pytest.mark.requirement("OP-2")
async def test_a_node_whose_stores_answer_is_ready(wire: Wire) -> None:
    answer = await wire.ask("GET", "/readyz")
    assert (answer.status_code, answer.json()) == (200, {"status": "ready"})


@needs_our_node  # a gateway does not pass it on
@pytest.mark.requirement("OP-5")
async def test_metrics_count_what_the_node_has_answered_by_route_and_not_by_job(wire: Wire) -> None:
    before = await counted(wire)
    job = await wire.submit("hello")
    await wire.log(job)
    await wire.ask("GET", f"/jobs/{job}/events?last_event_id={(await wire.show(job))['last_event_id']}")
    await wire.ask("GET", f"/nope/{job}")

    text, after = (await wire.ask("GET", "/metrics")).text, await counted(wire)

    assert job not in text
    for route in ('"POST",route="/jobs",status="202"', '"GET",route="/jobs/{job_id}/events",status="200"',
                  '"GET",route="/jobs/{job_id}/events",status="204"', '"GET",route="none",status="404"'):  # fmt: skip
        name = f"tailrace_http_requests_total{{method={route}}}"
        assert after[name] > before.get(name, 0), name
    assert after["tailrace_events_sent_total"] >= before["tailrace_events_sent_total"] + 4


async def counted(wire: Wire) -> dict[str, float]:
    """The node's metrics by their names and labels."""
    answer = await wire.ask("GET", "/metrics")
    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith("text/plain")
    lines = [line.rpartition(" ") for line in answer.text.splitlines() if line and not line.startswith("#")]
    return {name: float(value) for name, _, value in lines}


async def description(wire: Wire) -> dict[str, Any]:
    """The API's description of itself."""
    answer = await wire.ask("GET", "/openapi.json")
    assert answer.status_code == 200
    found: dict[str, Any] = answer.json()
    return found


@pytest.mark.requirement("OP-3")
async def test_the_description_mentions_every_operation(wire: Wire) -> None:
    paths = (await description(wire))["paths"]
    for path, methods in ROUTES.items():
        assert methods <= set(paths[path]), path
        assert all(paths[path][method]["summary"] for method in methods)


@pytest.mark.requirement("OP-3")
async def test_the_description_shows_streams_and_problems_with_examples(wire: Wire) -> None:
    paths = (await description(wire))["paths"]
    events = paths["/jobs/{job_id}/events"]["get"]["responses"]
    assert "text/event-stream" in events["200"]["content"]
    assert {"204", "400", "401", "404", "410"} <= set(events)
    for status in ("400", "404", "410"):
        for code, example in events[status]["content"]["application/problem+json"]["examples"].items():
            assert example["value"]["status"] == CODES[code].status == int(status)


@pytest.mark.requirement("OP-3")
async def test_the_description_names_both_ways_in_which_a_create_is_answered_with_200(wire: Wire) -> None:
    described = (await description(wire))["paths"]["/jobs"]["post"]["responses"]["200"]["content"]
    key = {"Idempotency-Key": f"described-{uuid4()}"}
    await wire.create(scripted("hello"), key=key["Idempotency-Key"])
    for accept in ("application/json", "text/event-stream"):
        answer = await wire.ask("POST", "/jobs", scripted("hello"), headers={**key, "Accept": accept})
        assert answer.status_code == 200
        assert answer.headers["content-type"].partition(";")[0] == accept
        assert accept in described
    assert described["application/json"]["schema"] == {"$ref": "#/components/schemas/JobOut"}


@pytest.mark.requirement("TK-2")
async def test_the_description_names_every_way_to_show_a_token(wire: Wire) -> None:
    found = await description(wire)
    ways = {(scheme["type"], scheme.get("in")) for scheme in found["components"]["securitySchemes"].values()}
    assert ways == {("http", None), ("apiKey", "query"), ("apiKey", "cookie")}
    assert len(found["paths"]["/jobs/{job_id}/events"]["get"]["security"]) == 3
    assert len(found["paths"]["/jobs"]["post"]["security"]) == 1


@pytest.mark.requirement("OP-4")
async def test_the_description_names_no_answer_that_the_server_does_not_give(wire: Wire) -> None:
    found = await description(wire)
    given = {200, 201, 202, 204} | {kind.status for kind in CODES.values()}
    for path, methods in found["paths"].items():
        for method, operation in methods.items():
            assert {int(status) for status in operation["responses"]} <= given, (method, path)
    assert "HTTPValidationError" not in found["components"]["schemas"]
