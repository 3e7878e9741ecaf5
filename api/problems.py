"""Errors as HTTP answers: `application/problem+json` (RFC 9457) with a stable code, and nothing of a stack trace."""

import logging
import math
from collections.abc import Mapping
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from pydantic import ValidationError
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse, Response
from starlette.routing import Match

from api.connection import CloseWithoutAnswerError, Closing
from shared.errors import CODES, TailraceError

log = logging.getLogger(__name__)

MEDIA_TYPE = "application/problem+json"
_BY_STATUS = {404: "no_such_route", 405: "method_not_allowed", 400: "invalid_json"}


def problem(error: TailraceError, request_id: str | None = None) -> Response:
    """The answer for one of our errors."""
    kind = error.kind
    body: dict[str, Any] = {
        "type": f"urn:tailrace:error:{kind.code}",
        "title": kind.title,
        "status": kind.status,
        "detail": error.message,
        "code": kind.code,
        "retryable": kind.retryable,
    }
    if error.field is not None:
        body["field"] = error.field
    if request_id is not None:
        body["request_id"] = request_id
    headers = {}
    if error.retry_after_s is not None:
        headers["Retry-After"] = str(max(1, math.ceil(error.retry_after_s)))
    if kind.status in (408, 413, 431) or kind.code == "node_full":
        headers["Connection"] = "close"  # or the rest of the body would be read as the next request
    if kind.status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    return JSONResponse(body, kind.status, headers, media_type=MEDIA_TYPE)


def _request_id(request: Request) -> str | None:
    found: str | None = request.scope.get("tailrace.request_id")
    return found


def from_validation(error: RequestValidationError) -> TailraceError:
    """The first thing that is wrong with a request, its field named."""
    return _refusal(error.errors()[0])


def from_body(error: ValidationError) -> TailraceError:
    """The same of a body that was checked without the framework."""
    first = error.errors(include_url=False)[0]
    return _refusal({**first, "loc": ("body", *first["loc"])})


def _refusal(first: Mapping[str, Any]) -> TailraceError:
    if first["type"] == "json_invalid":
        return TailraceError("invalid_json", f"The body is not JSON: {first.get('ctx', {}).get('error', '')}.")
    place = [str(part) for part in first["loc"]]
    field = ".".join(place[1:]) or place[0]
    if first["type"] == "extra_forbidden":
        return TailraceError("invalid_request", f"There is no field {field!r}. Leave it out.", field=field)
    if first["type"] == "missing" and field == "body":
        return TailraceError("invalid_json", "The body is empty. Send one JSON object.")
    if first["type"] == "string_pattern_mismatch":
        return TailraceError("invalid_request", f"{field}: blanks and control characters are not allowed.", field=field)
    text = str(first["msg"]).removeprefix("Value error, ").rstrip(".")
    return TailraceError("invalid_request", f"{field}: {text}.", field=field)


def _methods(request: Request) -> list[str]:
    """What may be asked of the request's path. The framework names those of one route alone, and a path has several."""
    routes, scope = request.app.routes, request.scope
    return [
        method
        for method in ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE")
        if any(route.matches({**scope, "method": method})[0] is Match.FULL for route in routes)
    ]


def install(app: FastAPI) -> None:
    """Answer every error as a problem."""

    @app.exception_handler(TailraceError)
    async def _ours(request: Request, error: TailraceError) -> Response:
        return problem(error, _request_id(request))

    @app.exception_handler(CloseWithoutAnswerError)
    async def _close(request: Request, error: CloseWithoutAnswerError) -> Response:
        return Closing()

    @app.exception_handler(RequestValidationError)
    async def _invalid(request: Request, error: RequestValidationError) -> Response:
        return problem(from_validation(error), _request_id(request))

    @app.exception_handler(HTTPException)
    async def _http(request: Request, error: HTTPException) -> Response:
        code = _BY_STATUS.get(error.status_code, "internal")
        answer = problem(TailraceError(code), _request_id(request))
        if error.headers:
            answer.headers.update(error.headers)
        if error.status_code == 405:
            answer.headers["Allow"] = ", ".join(_methods(request))
        return answer

    @app.exception_handler(Exception)
    async def _unexpected(request: Request, error: Exception) -> Response:
        log.error("request %s broke", _request_id(request), exc_info=error)
        return problem(TailraceError("internal"), _request_id(request))


def documented(*codes: str) -> dict[int | str, dict[str, Any]]:
    """The `responses` of a route for OpenAPI: which problems it may answer, with an example of each."""
    table: dict[int | str, dict[str, Any]] = {}
    for code in codes:
        kind = CODES[code]
        entry = table.setdefault(kind.status, {"description": kind.title, "content": {MEDIA_TYPE: {"examples": {}}}})
        entry["content"][MEDIA_TYPE]["examples"][code] = {
            "value": {
                "type": f"urn:tailrace:error:{code}",
                "title": kind.title,
                "status": kind.status,
                "detail": f"{kind.title}. {kind.advice}",
                "code": code,
                "retryable": kind.retryable,
            }
        }
    return table
