"""GET /jobs/{id}/events without FastAPI's way to a route, which costs more than all that the route does.

A thousand readers that come back at once are served here. What is not plainly such a request goes on to FastAPI, where
the same route stands with its documentation: there is one meaning, and this is a short cut to it.
"""

import logging
import re
from types import SimpleNamespace

from fastapi import FastAPI
from fastapi.security.utils import get_authorization_scheme_param
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from api.auth import tenant_by_key
from api.connection import CloseWithoutAnswerError, Closing
from api.dialects import dialect
from api.node import node_of
from api.problems import problem
from api.routes import events
from api.routes.common import job_key, start_of
from shared.errors import TailraceError

log = logging.getLogger(__name__)

_PATH = re.compile(r"/jobs/([^/]+)/events")
_ROUTE = SimpleNamespace(path="/jobs/{job_id}/events")
_PLAIN = frozenset({"last_event_id", "dialect"})


class BareEvents:
    """Wraps the application, behind the guard."""

    def __init__(self, app: FastAPI) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a plain request for events; pass everything else on."""
        path = _PATH.fullmatch(scope["path"]) if scope["type"] == "http" and scope["method"] == "GET" else None
        if path is None or not (request := Request(scope)).query_params.keys() <= _PLAIN:
            await self._app(scope, receive, send)
            return
        scope["app"] = self._app
        scope["route"] = _ROUTE
        response = await _answer(request, path[1])
        await response(scope, receive, send)


async def _answer(request: Request, job_id: str) -> Response:
    try:
        node, given = node_of(request), request.query_params
        scheme, key = get_authorization_scheme_param(request.headers.get("authorization"))
        tenant = tenant_by_key(node.settings, key if scheme.lower() == "bearer" else "")
        job = await job_key(tenant, job_id)
        start = start_of(request, given.get("last_event_id"))
        return await events.answer(node, job, start, dialect(given.get("dialect", "native")))
    except TailraceError as error:
        return problem(error, request.scope.get("tailrace.request_id"))
    except CloseWithoutAnswerError:
        return Closing()
    except Exception:
        request_id = request.scope.get("tailrace.request_id")
        log.exception("request %s broke", request_id)
        return problem(TailraceError("internal"), request_id)
