"""The short cuts, where something breaks that nobody expects, and where a body is refused."""

import json
from types import SimpleNamespace
from typing import Any

from fastapi import FastAPI

from api.app import guarded
from shared.principals import OPEN, Principal
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


async def test_a_body_that_was_refused_is_not_looked_through_again() -> None:
    async def principal(given: str) -> Principal:
        return OPEN

    async def let_pass(*_: Any) -> None:
        return None

    said: list[dict[str, Any]] = []
    body = json.dumps({"provider": "scripted", "model": "demo", "prompt": "hi", "mood": 1}).encode()
    length = str(len(body)).encode()
    headers = [(b"host", b"localhost"), (b"content-type", b"application/json"), (b"content-length", length)]
    scope = {"type": "http", "method": "POST", "path": "/jobs", "query_string": b"", "headers": headers}

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": body, "more_body": False}

    async def send(message: Any) -> None:
        said.append(dict(message))

    app = FastAPI()  # it has no such route: what comes to it is 404
    app.state.node = SimpleNamespace(
        keyring=SimpleNamespace(is_open=True, principal=principal), limiter=SimpleNamespace(let_pass=let_pass)
    )
    await guarded(app, Settings())(scope, receive, send)

    assert said[0]["status"] == 400
    assert json.loads(said[1]["body"])["field"] == "mood"
