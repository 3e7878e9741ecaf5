"""The requests that come most, without FastAPI's way to a route, which costs more than all that the route does.

A thousand readers that come back at once are served here, and every POST of a job. What is not plainly such a request
goes on to FastAPI, where the same route stands with its documentation: there is one meaning, and this is a short cut to
it. A body that was looked through and refused is not looked through again.
"""

import json
import logging
import re
from collections.abc import Awaitable, Callable
from functools import partial
from types import SimpleNamespace

from fastapi import FastAPI
from pydantic import ValidationError
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from api.auth import demand, principal_of
from api.connection import CloseWithoutAnswerError, Closing
from api.dialects import dialect
from api.guard import BODY
from api.node import node_of
from api.problems import from_body, problem
from api.routes import events, jobs
from api.routes.common import job_of, start_of
from api.schemas import JobIn
from shared.errors import TailraceError
from shared.principals import Right

log = logging.getLogger(__name__)

_EVENTS_PATH = re.compile(r"/jobs/([^/]+)/events")
_EVENTS, _JOBS = SimpleNamespace(path="/jobs/{job_id}/events"), SimpleNamespace(path="/jobs")
_PLAIN = frozenset({"last_event_id", "dialect", "token"})


class _PassOnError(Exception):
    """The body is no JSON that FastAPI would read as such; what is wrong with it, FastAPI says."""


class ShortCuts:
    """Wraps the application, behind the guard, which has read the body."""

    def __init__(self, app: FastAPI) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a plain request; pass everything else on."""
        answer = _plain(scope)
        if answer is None:
            await self._app(scope, receive, send)
            return
        scope["app"] = self._app
        # Neither the request nor the response has a name here: a stream would hold them for as long as it lasts.
        await (await _answered(answer, Request(scope)) or self._app)(scope, receive, send)


def _plain(scope: Scope) -> Callable[[Request], Awaitable[Response]] | None:
    """How to answer the request; None where it is not plainly one of ours."""
    if scope["type"] != "http":
        return None
    if scope["method"] == "POST" and scope["path"] == "/jobs":
        scope["route"] = _JOBS
        return _job
    if scope["method"] == "GET" and (path := _EVENTS_PATH.fullmatch(scope["path"])) is not None:
        scope["route"] = _EVENTS
        plain = not scope["query_string"] or Request(scope).query_params.keys() <= _PLAIN
        return partial(_events, path[1]) if plain else None
    return None


async def _job(request: Request) -> Response:
    headers, node = request.headers, node_of(request)
    if headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
        raise _PassOnError
    try:
        # The very steps that FastAPI takes: another parser of JSON would be another meaning.
        given = json.loads(request.scope.get(BODY, b""))
        principal = demand(await principal_of(request), Right.SUBMIT)
        body = JobIn.model_validate(given, from_attributes=True)
    except ValidationError as error:
        raise from_body(error) from None
    except (ValueError, RecursionError):
        raise _PassOnError from None
    del request.scope[BODY]
    return await jobs.answer(node, principal, body, headers.get("idempotency-key"), headers.get("accept", ""))


async def _events(job_id: str, request: Request) -> Response:
    given, node = request.query_params, node_of(request)
    principal = demand(await principal_of(request), Right.READ)
    job = job_of(principal, job_id)
    start = start_of(request, given.get("last_event_id"))
    return await events.answer(node, job, start, dialect(given.get("dialect", "native")), principal)


async def _answered(answer: Callable[[Request], Awaitable[Response]], request: Request) -> Response | None:
    """The answer, or what api/problems.py has the framework make of the error. None where that is the framework's."""
    try:
        return await answer(request)
    except _PassOnError:
        return None
    except TailraceError as error:
        return problem(error, request.scope.get("tailrace.request_id"))
    except CloseWithoutAnswerError:
        return Closing()
    except Exception:
        request_id = request.scope.get("tailrace.request_id")
        log.exception("request %s broke", request_id)
        return problem(TailraceError("internal"), request_id)
