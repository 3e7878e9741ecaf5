"""What stands before every route: a request id, the body's limits and type, and connections that are to be closed.

Pure ASGI, because only there a body can be refused while it is read, and a connection be closed without an answer.
"""

import asyncio
import re
import secrets
from collections.abc import Iterable
from contextlib import nullcontext, suppress

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from api.connection import CloseWithoutAnswerError, abort, refusal_of, wire_of
from api.limits import QUOTA
from api.problems import problem
from shared import metrics
from shared.errors import TailraceError

BODY = "tailrace.body"
"""In the scope: the whole body, until somebody takes it, by `receive` or from here."""

_METHODS = frozenset({"GET", "HEAD", "POST", "DELETE", "OPTIONS"})
_EVENTS = re.compile(r"/jobs/[^/]+/events")
_ALWAYS = frozenset({"/healthz", "/metrics"})
"""What a full node answers, too: it lives, and somebody has to see why it is full."""
_CLOSING = frozenset({"payload_too_large", "head_too_large", "node_full"})
"""Refusals after which the connection closes, although the client may still be sending."""
RawHeaders = Iterable[tuple[bytes, bytes]]
_ANSWERS: tuple[tuple[bytes, bytes], ...] = (
    (b"cache-control", b"no-store"),
    (b"x-content-type-options", b"nosniff"),
    # For those who store what is not to be stored: what one may read, another may not.
    (b"vary", b"Authorization, Cookie, Origin"),
    (b"content-security-policy", b"default-src 'none'; frame-ancestors 'none'"),
)
"""Of every answer that says nothing else: it is somebody's own, and no page."""
_NAMES = frozenset(name for name, _ in _ANSWERS)
_UNTIMED: nullcontext[None] = nullcontext()
_LINGER_S = 1.0
_LEAST_BYTES_PER_S = 8 * 1024
_HELD_BODIES = 512
"""So many whole bodies may a node hold of requests that are still coming, in bytes: 128 MiB by default."""
_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")


class Guard:
    """Wraps the application."""

    def __init__(self, app: ASGIApp, max_body_bytes: int, body_timeout_s: float = 10.0) -> None:
        """`body_timeout_s`: how long a body may take to come, beside a second for each 8 KB of it."""
        self._app = app
        self._max_body_bytes = max_body_bytes
        self._body_timeout_s = body_timeout_s
        self._held_bytes = 0

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
                quota = ((name.lower().encode(), value.encode()) for name, value in scope.get(QUOTA, ()))
                message["headers"] = [*_complete(message["headers"], request_id), *quota]
            await send(message)

        try:
            _refuse(scope)
            await self._app(scope, await self._read(scope, receive), send_with_id)
        except TailraceError as error:
            answer = problem(error, request_id)
            if error.code in _CLOSING:
                await _last(answer, scope, receive, send_with_id)
            else:
                await answer(scope, receive, send_with_id)
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
        wire = wire_of(scope)
        whole = wire is not None and wire.body_is_whole()
        body = await self._body(receive, whole, too_large)
        media_type = headers.get("content-type", "").partition(";")[0].strip().lower()
        if body and media_type != "application/json" and not media_type.endswith("+json"):
            raise TailraceError("unsupported_media_type")
        scope[BODY] = bytes(body)
        return _replay(scope, receive)

    async def _body(self, receive: Receive, whole: bool, too_large: TailraceError) -> bytearray:
        """All of a body. `whole`: it is here already. `node_full` where too much of others is being held."""
        body = bytearray()
        try:
            async with _UNTIMED if whole else asyncio.timeout(self._body_timeout_s) as limit:
                began_s = asyncio.get_running_loop().time()
                while True:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        raise CloseWithoutAnswerError
                    body += message.get("body", b"")
                    self._held_bytes += len(message.get("body", b""))
                    if len(body) > self._max_body_bytes:
                        raise too_large
                    if self._held_bytes > _HELD_BODIES * self._max_body_bytes:
                        raise TailraceError("node_full", retry_after_s=2)
                    if not message.get("more_body", False):
                        break
                    if limit is not None:
                        limit.reschedule(began_s + self._body_timeout_s + len(body) / _LEAST_BYTES_PER_S)
        except TimeoutError:
            raise TailraceError("request_timeout") from None
        finally:
            self._held_bytes -= len(body)
        return body


def _complete(headers: RawHeaders, request_id: str) -> RawHeaders:
    """An answer's headers with those that it does not have itself."""
    more = _ANSWERS
    for name, _ in headers:
        if name in _NAMES:
            have = {name for name, _ in headers}
            more = tuple(header for header in more if header[0] not in have)
            break
    return [*headers, (b"x-request-id", request_id.encode()), *more]


def _refuse(scope: Scope) -> None:
    """Raise what the server has found against the request before it was read. A reader that finds its node full is
    closed without an answer: EventSource would give up for ever on a 503, and so it finds another."""
    error = refusal_of(scope)
    if error is None:
        return
    if error.code == "node_full":
        if scope["path"] in _ALWAYS:
            return
        if scope["method"] == "GET" and _EVENTS.fullmatch(scope["path"]):
            raise CloseWithoutAnswerError
    raise error


async def _last(answer: ASGIApp, scope: Scope, receive: Receive, send: Send) -> None:
    """Answer, and close a moment later: a connection that closes with something unread is reset, and the reset takes
    the answer from a client that has not read it yet."""

    async def hold(message: Message) -> None:
        await send({**message, "more_body": True} if message["type"] == "http.response.body" else message)

    await answer(scope, receive, hold)
    with suppress(TimeoutError):
        async with asyncio.timeout(_LINGER_S):
            while (message := await receive())["type"] == "http.request" and message.get("more_body", False):
                pass
    await send({"type": "http.response.body", "body": b"", "more_body": False})


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
