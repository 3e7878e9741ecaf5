"""The gateway's configuration agrees with the API that stands behind it: routes, time limits, error codes."""

import json
import re

from api.app import create_app
from shared.errors import CODES
from shared.settings import Settings
from tests.support.nginx import DEPLOY

ROUTES = (DEPLOY / "nginx" / "routes.conf").read_text()
HTTP = (DEPLOY / "nginx" / "http.conf").read_text()


def test_every_route_that_only_streams_is_one_where_the_gateway_holds_nothing_back() -> None:
    streaming = [
        path.replace("{job_id}", "j1")
        for path, methods in create_app(Settings()).openapi()["paths"].items()
        for method in methods.values()
        if "text/event-stream" in method["responses"].get("200", {}).get("content", {})
        and "202" not in method["responses"]  # POST /jobs streams only where it is asked to
    ]
    held_by_nobody = re.findall(r"location ~ (\S+) \{\n\s+include nginx/stream.conf;", ROUTES)

    assert "/jobs/j1/events" in streaming
    assert "/chat/stream" in streaming
    for path in streaming:
        assert any(re.search(pattern, path) for pattern in held_by_nobody), path


def test_a_node_that_lives_is_never_silent_for_as_long_as_the_gateway_waits() -> None:
    (waits_s,) = re.findall(r"proxy_read_timeout (\d+)s;", HTTP)

    assert int(waits_s) > 3 * Settings().heartbeat_s


def test_the_gateways_own_answers_are_problems_as_the_nodes_write_them() -> None:
    answers = re.findall(r"return (\d+) '(\{.*\})\\n';", ROUTES)

    assert len(answers) == 5
    for status, body in answers:
        problem = json.loads(body)
        kind = CODES.get(problem["code"])
        assert problem["status"] == int(status)
        assert problem["type"] == f"urn:tailrace:error:{problem['code']}"
        if kind is None:
            # No node could say that there is none; and only the gateway counts addresses.
            assert problem["code"] in ("unavailable", "rate_limited")
        else:
            assert (kind.status, kind.title, kind.retryable) == (int(status), problem["title"], problem["retryable"])
