"""What stands before every route: a request id, the body's limit and type, and connections that are to be closed.

Pure ASGI, because only there a body can be refused while it is read, and a connection be closed without an answer.
"""

import re
import secrets

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from api.connection import CloseWithoutAnswerError, abort
from api.limits import QUOTA
from api.problems import problem
from shared import metrics
from shared.errors import TailraceError

BODY = "tailrace.body"
"""In the scope: the whole body, until somebody takes it, by `receive` or from here."""

_METHODS = frozenset({"GET", "HEAD", "POST", "DELETE", "OPTIONS"})
_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")


class Guard:
    """Wraps the application."""

    def __init__(self, app: ASGIApp, max_body_bytes: int) -> None:
        self._app = app
        self._max_body_bytes = max_body_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let a sound request through; answer for an unsound one."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request_id = scope["tailrace.request_id"] = _request_id(Headers(scope=scope))
        answered = False

        async def send_with_id(message: Message) -> None:
            nonlocal answered
            if message["type"] == "http.response.start":
                answered = True
                _count(scope, str(message["status"]))
                headers = MutableHeaders(scope=message)
                headers["X-Request-Id"] = request_id
                for name, value in scope.get(QUOTA, ()):
                    headers[name] = value
            await send(message)

        try:
            await self._app(scope, await self._read(scope, receive), send_with_id)
        except TailraceError as error:
            await problem(error, request_id)(scope, receive, send_with_id)
        except CloseWithoutAnswerError:
            await abort(scope, receive)
        finally:
            if not answered:
                _count(scope, "closed")

    async def _read(self, scope: Scope, receive: Receive) -> Receive:
        """A `receive` that has the whole body at once, which is in the scope till then. `payload_too_large` as soon as
        it is known, `unsupported_media_type` for what is not JSON."""
        headers = Headers(scope=scope)
        too_large = TailraceError(
            "payload_too_large", f"The body is larger than {self._max_body_bytes} bytes. Shorten it."
        )
        declared = headers.get("content-length", "0")
        if declared.isdigit() and int(declared) > self._max_body_bytes:
            raise too_large
        if declared == "0" and "transfer-encoding" not in headers:
            return receive
        body = bytearray()
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                raise CloseWithoutAnswerError
            body += message.get("body", b"")
            if len(body) > self._max_body_bytes:
                raise too_large
            if not message.get("more_body", False):
                break
        media_type = headers.get("content-type", "").partition(";")[0].strip().lower()
        if body and media_type != "application/json" and not media_type.endswith("+json"):
            raise TailraceError("unsupported_media_type")
        scope[BODY] = bytes(body)
        return _replay(scope, receive)


def _request_id(headers: Headers) -> str:
    given = headers.get("x-request-id", "")
    return given if _REQUEST_ID.fullmatch(given) else secrets.token_hex(8)


def _count(scope: Scope, status: str) -> None:
    """By the route's own path, not the client's."""
    method = scope["method"] if scope["method"] in _METHODS else metrics.OTHER
    metrics.REQUESTS.labels(method, getattr(scope.get("route"), "path", "none"), status).inc()


def _replay(scope: Scope, receive: Receive) -> Receive:
    """A `receive` that gives the body first, unless it was taken already, then what the connection says."""

    async def replayed() -> Message:
        if BODY in scope:
            return {"type": "http.request", "body": scope.pop(BODY), "more_body": False}
        return await receive()

    return replayed
