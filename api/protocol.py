"""One HTTP connection: uvicorn's protocol with what it lacks: limits to a head, a flood, a client that takes nothing,
and the means to break a connection off or to write to it (api/connection.py)."""

import asyncio
import secrets
from collections.abc import Callable
from typing import Any

import httptools
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle

from api.connection import ABORT, REFUSAL, WIRE
from api.door import Lobby
from api.lean import Bell, Flow, Pipeline
from api.problems import problem
from shared import metrics
from shared.errors import TailraceError

MAX_HEADERS = 100
MAX_LINE_BYTES = 8 * 1024
"""Of a request's path and query. nginx and most servers take as much."""
MAX_AHEAD = 16
"""Requests that wait behind the one that is answered. Browsers send none ahead; a hostile client sends ten thousand in
one segment, at 3 KB of ours each."""
_REFUSED_RETRY_S = 2.0
_UPGRADE_WITH_BODY = "Another protocol is not offered, nor is a body behind that wish: leave out `Connection: Upgrade`."
"""httptools takes such a body for the other protocol's: the request would lack it, and it be read as the next one."""
_ONE_HOST = "A request has one Host (RFC 9112 §3.2)."
_OTHER_CODING = "A body may be chunked, and is taken in no other transfer coding (RFC 9112 §6.1)."
_TRAILER = "Nothing may follow a body's last chunk: send such fields in the head."
"""To httptools they are headers like any other, without an end, and unseen by those who judged the head before us."""
_CHUNK = "tailrace.chunk"
"""In a chunked request's extensions: a chunk has begun, and none of its bytes has come. The last one has none."""
_LAST_LINE_BYTES = 2


class HttpProtocol(HttpToolsProtocol):
    """Its server's state has to be a Lobby (api/door.py). Holds nothing of its own but what stands here: one more name
    in an object of so many costs it a table of its own, 1.4 KB a reader."""

    _tell_lost: Callable[[], None] | None = None
    _answering: RequestResponseCycle | None = None
    """The request that is being answered, where others were sent ahead behind it. Not set for every connection."""

    server_state: Lobby
    cycle: RequestResponseCycle | None  # type: ignore[assignment]  # uvicorn says that it never is, and begins with it

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn has it
        """A client has come."""
        super().connection_made(transport)
        self.flow = Flow(transport)  # type: ignore[assignment]  # a FlowControl in all but weight
        self.pipeline = Pipeline()  # type: ignore[assignment]
        self.server_state.door.came(self, len(self.connections))

    def data_received(self, data: bytes) -> None:
        """Something has come. In uvicorn's place, which writes a line into the log for each broken request."""
        if self.timeout_keep_alive_task is not None:
            self._unset_keepalive_if_required()
        door = self.server_state.door
        door.arriving_bytes = len(data)
        door.request_ended = False
        scope = self.scope
        chunk = _chunk_begun(scope)
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            # To what is no business of ours: the request is answered as if it had not asked, and so is what follows it.
            if rest := data[upgrade.args[0] :]:
                self.data_received(rest)  # as deep as requests may be sent ahead
                return
        except httptools.HttpParserError as error:
            met = error.__context__
            self._refuse_broken(met if isinstance(met, TailraceError) else None)
            return
        if chunk is not None and _chunk_begun(scope) is chunk and len(data) > _LAST_LINE_BYTES:
            self._refuse_broken(TailraceError("invalid_request", _TRAILER))  # of which no field is whole yet
            return
        cycle = self.cycle
        if cycle is not None and not cycle.response_complete and self.scope is cycle.scope:
            return  # it was a head, or of a body
        answering = cycle is not None and not cycle.response_complete
        if not door.head_grows(self, answering=answering):
            self._refuse_broken(_too_large())

    def _refuse_broken(self, error: TailraceError | None = None) -> None:
        """Answer what is no request, and close. A response that has begun is broken off instead: these bytes would
        become a part of it."""
        cycle = self._answering or self.cycle
        metrics.CONNECTIONS_CUT.labels("broken").inc()
        if cycle is not None and cycle.response_started and not cycle.response_complete:
            self.transport.abort()
            return
        request_id = secrets.token_hex(8)
        answer = problem(error or TailraceError("invalid_request", "This is not HTTP/1.1 (RFC 9112)."), request_id)
        answer.headers.update({"X-Request-Id": request_id, "Connection": "close"})
        head = [b"%b: %b\r\n" % header for header in answer.raw_headers]
        self.transport.write(b"".join([STATUS_LINE[answer.status_code], *head, b"\r\n", bytes(answer.body)]))
        self.transport.close()
        self.server_state.door.is_stuck(self)

    def on_message_begin(self) -> None:
        """A request begins."""
        super().on_message_begin()
        extensions: dict[str, Any] = {ABORT: self.transport.abort, WIRE: self}
        self.scope["extensions"] = extensions

    def on_header(self, name: bytes, value: bytes) -> None:
        """A field of a request's head."""
        if self.cycle is not None and self.cycle.scope is self.scope:
            raise TailraceError("invalid_request", _TRAILER)
        super().on_header(name, value)

    def on_chunk_header(self) -> None:
        """A chunk begins, or what follows the last one."""
        _extensions(self.scope)[_CHUNK] = object()

    def on_body(self, body: bytes) -> None:
        """A part of a body."""
        _extensions(self.scope).pop(_CHUNK, None)
        super().on_body(body)

    def on_headers_complete(self) -> None:
        """A request's head is whole."""
        if len(self.pipeline) >= MAX_AHEAD:
            raise _FloodError
        self._check_framing()
        door = self.server_state.door
        came = door.head_is_whole(self)
        sure = came < MAX_LINE_BYTES and came < door.max_head_bytes
        if len(self.headers) > MAX_HEADERS or not (sure or self._head_fits()):
            self._refuse(_too_large())
        elif door.is_surplus(self):
            self._refuse(TailraceError("node_full", retry_after_s=_REFUSED_RETRY_S))
        before = self.cycle
        super().on_headers_complete()
        if len(self.pipeline) == 1:
            self._answering = before
        assert self.cycle is not None
        self.cycle.message_event = Bell()  # type: ignore[assignment]  # before the cycle's task has its first turn

    def _check_framing(self) -> None:
        """TailraceError for a head that another server could read in another way."""
        hosts, codings, length = 0, [], b""
        for name, value in self.headers:
            if name == b"host":
                hosts += 1
            elif name == b"transfer-encoding":
                codings.append(value.strip().lower())
            elif name == b"content-length":
                length = value.strip(b"0 ")
        if hosts != 1 and (hosts or self.parser.get_http_version() != "1.0"):
            raise TailraceError("invalid_request", _ONE_HOST)
        if codings not in ([], [b"chunked"]):
            raise TailraceError("invalid_request", _OTHER_CODING)
        if (codings or length) and self.parser.should_upgrade():
            raise TailraceError("invalid_request", _UPGRADE_WITH_BODY)

    def _head_fits(self) -> bool:
        size = len(self.url) + sum([len(name) + len(value) for name, value in self.headers])
        return len(self.url) <= MAX_LINE_BYTES and size <= self.server_state.door.max_head_bytes

    def _refuse(self, error: TailraceError) -> None:
        _extensions(self.scope)[REFUSAL] = error

    def on_message_complete(self) -> None:
        """A request is whole. Its headers are its scope's alone, where they can be forgotten."""
        super().on_message_complete()
        _extensions(self.scope).pop(_CHUNK, None)
        self.headers = []
        self.server_state.door.request_ended = True

    def on_response_complete(self) -> None:
        """A response is whole. One whose connection closes may not wait for ever to be taken."""
        super().on_response_complete()
        if self.transport.is_closing():
            self.server_state.door.is_stuck(self)

    def timeout_keep_alive_handler(self) -> None:
        """Nothing was asked for a while."""
        super().timeout_keep_alive_handler()
        self.server_state.door.is_stuck(self)

    def pause_writing(self) -> None:
        """The client does not take what it was sent."""
        super().pause_writing()
        self.server_state.door.is_stuck(self)

    def resume_writing(self) -> None:
        """It takes it again."""
        super().resume_writing()
        if not self.transport.is_closing():
            self.server_state.door.moves(self)

    def body_is_whole(self) -> bool:
        """Whether all of every request that has begun is here."""
        return self.cycle is None or not self.cycle.more_body

    def has_room(self) -> bool:
        """Whether the connection is open, and has little waiting to be sent."""
        return not (self.flow.write_paused or self.transport.is_closing())

    def write(self, chunk: bytes) -> bool:
        """Send a chunk of the response, if there is room."""
        if self.flow.write_paused or self.transport.is_closing():
            return False
        self.transport.write(chunk)
        return True

    def when_lost(self, tell: Callable[[], None] | None) -> None:
        """Call `tell` once the client is gone."""
        self._tell_lost = tell
        if tell is not None:
            # A large body stops the reading until somebody asks for more; a connection that is not read does not end.
            self.flow.resume_reading()
            if self.transport.is_closing():
                tell()

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        if self._answering is not None:
            self._answering = cycle
        super()._start_asgi_task(cycle, app)

    def connection_lost(self, exc: Exception | None) -> None:
        """The client is gone. uvicorn tells the newest request; the one that is being answered may be another."""
        self.server_state.door.left(self)
        self._unset_keepalive_if_required()  # uvicorn leaves it where the connection broke
        answering = self._answering
        if answering is not None and not answering.response_complete:
            answering.disconnected = True
            answering.message_event.set()
        super().connection_lost(exc)
        if self._tell_lost is not None:
            self._tell_lost()


def _extensions(scope: Any) -> dict[str, Any]:
    extensions: dict[str, Any] = scope["extensions"]
    return extensions


def _chunk_begun(scope: Any) -> object | None:
    return None if scope is None else _extensions(scope).get(_CHUNK)


class _FloodError(Exception):
    """More requests were sent ahead than anybody needs."""


def _too_large() -> TailraceError:
    return TailraceError(
        "head_too_large",
        f"A path and query may have {MAX_LINE_BYTES} bytes, a request {MAX_HEADERS} headers, and all of it together "
        "TAILRACE_MAX_HEADER_BYTES.",
    )
