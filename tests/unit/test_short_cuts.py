"""The short cut to a job's events, where something breaks that nobody expects."""

import json
from typing import Any

from fastapi import FastAPI

from api.app import guarded
from shared.settings import Settings


async def test_what_breaks_is_answered_as_a_problem_with_the_requests_name() -> None:
    said: list[dict[str, Any]] = []
    scope: dict[str, Any] = {"type": "http", "method": "GET", "path": "/jobs/x/events", "query_string": b""}
    scope["headers"] = [(b"x-request-id", b"mine")]

    async def receive() -> dict[str, Any]:
        return {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        said.append(dict(message))

    await guarded(FastAPI(), Settings())(scope, receive, send)  # an application without a node

    assert said[0]["status"] == 500
    headers = dict(said[0]["headers"])
    assert headers[b"content-type"] == b"application/problem+json"
    assert headers[b"x-request-id"] == b"mine"
    problem = json.loads(said[1]["body"])
    assert (problem["code"], problem["request_id"]) == ("internal", "mine")
